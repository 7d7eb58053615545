/*
 * idle.c
 *		--until-idle: can anything of the flow go on?
 *
 * It can if a member is, or is about to be, ready for this worker, or if it runs,
 * here or elsewhere: that ends, by its worker or by its lease.  It cannot if all that
 * is left waits for somebody or something that neither this worker nor the clock
 * brings about.  job_explain() says what each member waits for; it is asked when
 * there is nothing to do, a while after the last that was seen to happen, and then
 * ever less often.
 *
 * What it says is of one moment for each member.  But what goes on in a flow begins
 * with a member that goes on, so if none of them does, and none has changed since it was
 * looked at, then nothing goes on unless somebody outside does something.
 */
#include "worker.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_DELAY (100 * USEC_PER_MSEC)	/* after the last change */
#define DELAY_MAX (10 * USEC_PER_SEC)
#define DELAY_RUNS (2 * USEC_PER_SEC)	/* where others run members */
#define SETTLE (1 * USEC_PER_SEC)	/* others may take what is ready and not
									 * for us */
#define NOBODY_AFTER (10 * USEC_PER_SEC)	/* the launcher has another
											 * background worker sooner */

static bool asking = false;
static bool ask_all = false;	/* also those that do not run */
static bool tried = false;		/* to claim what is ready */
static bool stuck = false;		/* nothing can go on */
static Usec changed_at = 0;
static Usec asked_at = 0;
static Usec ask_at = 0;
static Usec delay = FIRST_DELAY;

/* Was it found that nothing can go on? */
bool
idle_verdict(void)
{
	return stuck;
}

/* Something has happened in the flow. */
void
idle_changed(Usec now)
{
	changed_at = now;
	delay = FIRST_DELAY;
	ask_at = now + delay;
	ask_all = tried = false;
}

/* Ask again later. */
static void
ask_later(Usec now, Usec max)
{
	delay = delay * 2 < max ? delay * 2 : max;
	ask_at = now + delay;
	ask_all = false;
}

/* When what is ready has been so for long enough; 0: nothing is. */
static Usec
settled_at(void)
{
	Usec		latest = 0;

	for (int i = 0; i < nmembers; i++)
	{
		if (members[i]->state == MEMBER_READY && members[i]->ready_since + SETTLE > latest)
			latest = members[i]->ready_since + SETTLE;
	}
	return latest;
}

/* Is this one to be asked for?  Where members run, these first. */
static bool
asked_for(const Member *m, bool any_runs)
{
	return any_runs ? m->state == MEMBER_RUNNING && !m->is_flow : !member_decided(m);
}

/*
 * The answer
 */

/* What a member waits for */
typedef struct Waits
{
	const Member *member;
	bool		goes_on;		/* by itself */
	bool		paused;
	bool		limited;		/* behind the gate of its queue */
	bool		full;			/* others have the slots, or the turn */
	bool		slot_runs;		/* one of these runs, so it ends */
	bool		scheduled;		/* for a time */
	bool		waits;			/* also for something else */
	bool		told;			/* why this worker does not get it */
	bool		nobody;			/* no background worker acts */
	bool		own;			/* not only for others in the flow */
	bool		others;			/* also for others, but for its own members */
} Waits;

static bool
is_one_of(const char *reason, const char *const *list)
{
	for (; *list; list++)
	{
		if (strcmp(reason, *list) == 0)
			return true;
	}
	return false;
}

static bool
ends_with(const char *str, const char *end)
{
	size_t		len = strlen(str);
	size_t		n = strlen(end);

	return len >= n && strcmp(str + len - n, end) == 0;
}

/* One reason why a member is not decided. */
static void
take_reason(Waits *w, const char *reason, const char *detail, const char *other, const char *lease)
{
	/*
	 * the clock, or the background worker, is about to change it; or it has
	 * changed
	 */
	static const char *const by_itself[] = {
		"deltas", "recount", "due", "backoff", "expired", "cancel requested", "lease over", "running",
		"succeeded", "failed", "skipped", "cancelled", "upstream_failed", NULL
	};
	static const char *const on_others[] = {"dependencies", "dependency", "members", "member", NULL};
	static const char *const why_not[] = {"queue paused", "labels", "no worker with its labels", "draining", NULL};
	const Member *m = w->member;

	/* other members of its flow run, or are ready: as many as may */
	bool		flow_full = strcmp(reason, "flow") == 0 && ends_with(detail, " are running or ready.");

	if (is_one_of(reason, by_itself))
		w->goes_on = true;
	else if (strcmp(reason, "silent") == 0)
	{
		if (lease && strtod(lease, NULL) * (double) USEC_PER_SEC > (double) opt.until_idle)
			w->goes_on = false;
	}
	else if (strcmp(reason, "scheduled") == 0 || strcmp(reason, "snoozed") == 0)
		w->scheduled = true;
	else if (strcmp(reason, "ready") == 0)
	{
		/* it was not when it was looked at */
		if (m->state != MEMBER_READY)
			w->goes_on = true;
	}
	else if (strcmp(reason, "members") == 0)
	{
		/* it had not started when it was looked at, or is about to end */
		if (m->state != MEMBER_RUNNING || strstr(detail, ": 0 of its ") != NULL)
			w->goes_on = true;
	}
	else if (strcmp(reason, "queue paused") == 0 || strcmp(reason, "partition paused") == 0)
		w->paused = true;
	else if (strcmp(reason, "rate") == 0 || strcmp(reason, "limited") == 0)
		w->limited = true;
	else if (strcmp(reason, "queue limit") == 0 || strcmp(reason, "partition limit") == 0 || strcmp(reason, "order") == 0)
		w->full = true;
	else if (strcmp(reason, "slot") == 0)
		w->slot_runs |= ends_with(detail, " is running.");
	else if (strcmp(reason, "flow") == 0)
	{
		if (ends_with(detail, " is still to let it in."))
			w->goes_on = true;
		else if (!flow_full)
			w->waits = true;
	}
	else if (strcmp(reason, "no background worker") == 0 || strcmp(reason, "not active") == 0)
		w->nobody = true;
	else
		w->waits = true;

	w->told |= is_one_of(reason, why_not);
	if (!(is_one_of(reason, on_others) || flow_full) || (strcmp(reason, "dependency") == 0 && other && member_find(strtoll(other, NULL, 10)) == NULL))
		w->own = true;
	/* that a flow waits for its members goes without saying */
	else if (strncmp(reason, "member", 6) != 0)
		w->others = true;
}

/* All reasons of a member are known: does it go on? */
static bool
goes_on(const Waits *w, Usec now)
{
	const Member *m = w->member;

	if (w->nobody && now - changed_at > NOBODY_AFTER)
		return false;
	if (w->goes_on || (!w->paused && w->limited && (w->slot_runs || !w->full)))
		return true;
	/* one that has been waiting for something else until just now */
	if (w->scheduled && m->state != MEMBER_SCHEDULED)
		return !w->waits;
	return w->scheduled && m->due_at <= now + opt.until_idle;
}

/* Print what members wait for.  Those that wait only for others are just counted, unless all do. */
static void
print_waits(const PGresult *res, const Waits *waits, int n)
{
	Buf			told = {0};
	int			nown = 0;
	int			nothers = 0;

	for (int i = 0; i < n; i++)
	{
		nown += waits[i].own;
		nothers += waits[i].others && !waits[i].own;
	}
	for (int row = 0; row < PQntuples(res); row++)
	{
		const Waits *w = &waits[atoi(PQgetvalue(res, row, 1)) - 1];

		if ((nown > 0 && !w->own) || strncmp(PQgetvalue(res, row, 2), "member", 6) == 0)
			continue;
		told.len = 0;
		buf_printf(&told, "waits: %s", PQgetvalue(res, row, 3));
		if (!PQgetisnull(res, row, 4))
			buf_printf(&told, " [%s]", PQgetvalue(res, row, 4));
		output_text(PQgetvalue(res, row, 7), w->member->label, ": ", told.data);
		if (strcmp(PQgetvalue(res, row, 2), "ready") == 0 && !w->told)
			output_text(PQgetvalue(res, row, 7), w->member->label, ": ", "waits: This worker does not get it:"
						" its role may not work on the queue, or somebody has it locked.");
	}
	if (nown > 0 && nothers > 0)
	{
		told.len = 0;
		buf_printf(&told, nothers == 1 ? "%d more waits only for others in the flow" : "%d more wait only for others in the flow", nothers);
		output_text(PQgetvalue(res, 0, 7), members[0]->label, ": ", told.data);
	}
	if (PQntuples(res) > 0)
		output_text(PQgetvalue(res, 0, 7), members[0]->label, ": ", "not decided, and nothing can go on");
	buf_free(&told);
}

static void
idle_reply(Conn *conn, PGresult *res, void *arg)
{
	int			n = *(int *) arg;
	bool		all = ((int *) arg)[1];
	Usec		now = now_usec();
	bool		any = false;
	Waits	   *waits;

	(void) conn;
	free(arg);
	asking = false;
	if (res == NULL || !result_ok(res))
	{
		if (res)
		{
			char	   *msg = result_message(res);

			log_event(LOG_WARNING, "explain_failed", "sqlstate", result_state(res), "error", msg, (char *) NULL);
			free(msg);
			flow_changed();
		}
		ask_later(now, DELAY_MAX);
		return;
	}

	waits = xmalloc((size_t) n * sizeof(*waits));
	for (int row = 0; row < PQntuples(res); row++)
	{
		Waits	   *w = &waits[atoi(PQgetvalue(res, row, 1)) - 1];

		w->member = member_find(strtoll(PQgetvalue(res, row, 0), NULL, 10));
		take_reason(w, PQgetvalue(res, row, 2), PQgetvalue(res, row, 3),
					PQgetisnull(res, row, 5) ? NULL : PQgetvalue(res, row, 5),
					PQgetisnull(res, row, 6) ? NULL : PQgetvalue(res, row, 6));
	}
	for (int i = 0; i < n && !any; i++)
	{
		any = waits[i].member == NULL || goes_on(&waits[i], now);
		if (any && waits[i].member)
			log_event(LOG_DEBUG, "goes_on", "job", num(waits[i].member->id), "name", waits[i].member->label, (char *) NULL);
	}
	if (any || changed_at > asked_at || !claim_found_nothing())
		ask_later(now, all ? DELAY_MAX : DELAY_RUNS);
	else if (!all)
		ask_all = true;
	else
	{
		stuck = true;
		print_waits(res, waits, n);
	}
	free(waits);
}

static const char idle_sql[] =
"SELECT u.id, u.n, e.reason, e.detail, e.hint, e.other,"
" CASE WHEN e.reason = 'silent' THEN (SELECT pg_catalog.date_part('epoch', s.lease_until - pg_catalog.clock_timestamp()) FROM @.job_status s WHERE s.id = u.id) END AS lease,"
" pg_catalog.to_char(pg_catalog.clock_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS stamp"
" FROM unnest($1::pg_catalog.int8[]) WITH ORDINALITY AS u (id, n),"
" LATERAL @.job_explain(u.id) WITH ORDINALITY AS e (reason, detail, hint, other, n) ORDER BY u.n, e.n";

/* Ask what the members wait for, if that is what is to be done. */
bool
idle_send(Conn *conn, Usec now)
{
	bool		any_runs = false;
	Usec		settled = settled_at();
	Buf			ids = {0};
	const char *value;
	int		   *arg;
	int			n = 0;

	if (opt.until_idle == USEC_NEVER || stuck || asking || draining || flow_over() ||
		now < ask_at || now < settled || !claim_found_nothing())
		return false;
	if (settled > 0 && !tried)
	{
		/* somebody may have had it locked */
		tried = true;
		claim_again();
		return false;
	}
	for (int i = 0; i < nmembers && !ask_all; i++)
		any_runs |= members[i]->state == MEMBER_RUNNING && !members[i]->is_flow;
	for (int i = 0; i < nmembers; i++)
	{
		if (asked_for(members[i], any_runs))
		{
			buf_element(&ids, num(members[i]->id));
			n++;
		}
	}
	if (n == 0)
		return false;
	buf_puts(&ids, "}");
	value = ids.data;
	arg = xmalloc(2 * sizeof(int));
	arg[0] = n;
	arg[1] = !any_runs;
	asking = true;
	asked_at = now;
	conn_call(conn, idle_reply, arg, 1, &value, idle_sql);
	buf_free(&ids);
	return true;
}

Usec
idle_timer(Usec now)
{
	Usec		at = ask_at;
	Usec		settled = settled_at();

	if (opt.until_idle == USEC_NEVER || stuck || asking || draining)
		return USEC_NEVER;
	if (at < settled)
		at = settled;
	return at > now ? at : USEC_NEVER;
}
