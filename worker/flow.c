/*
 * flow.c
 *		--flow: what happens to the members of one flow, and printing it.
 *
 * The tables are the truth: whoever runs a member, or decides one, what became
 * of it is read there.  One statement, a *look*, compares what is inside the
 * flow with what is known of it here, under one snapshot, and returns the members
 * that have changed, what has happened to them, and the lines of their logs, in
 * the order of time.  It is sent when there may be something new: a job of ours
 * has been claimed or has ended, a queue was notified, --poll-interval is over; but
 * not again before twice the time that the last took.
 *
 * What has happened in a flow inside since it started is told by the look after the one that
 * has seen that.  So what is later than such a start is kept until then, and printed in the
 * order of time.
 *
 * Only what has happened since the first looks is printed, which take in the flow and
 * those in it.  A flow inside is looked into from when it is seen to have started until a
 * look has seen it decided; one that did both in between is looked into once.
 */
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LOOK_PAUSE (20 * USEC_PER_MSEC) /* between two looks, at least */
#define LAST_LOOK_WITHIN (2 * USEC_PER_SEC) /* when leaving */

Member	  **members = NULL;
int			nmembers = 0;
static int	members_size = 0;
static int *buckets = NULL;		/* of a hash table: 1 + the index of a member,
								 * or 0 */
static int	nbuckets = 0;

static Member *root = NULL;
static enum
{
	FLOW_UNKNOWN,				/* it is to be asked for */
	FLOW_ASKED,
	FLOW_KNOWN,
	FLOW_GONE					/* there is none */
}			state = FLOW_UNKNOWN;

static char since[24];			/* of the server's clock, microseconds */
static char since_stamp[40];	/* the same for readers */
static bool looked = false;		/* all that was there is known */
static bool looking = false;	/* a look is under way */
static bool wanted = true;		/* another is to follow */
static Usec look_sent;
static Usec look_after = 0;		/* not before */
static Usec look_at = 0;		/* even if nothing is known to have happened */
static Usec retry_at = 0;
static int	failures = 0;
static bool over = false;		/* it is decided, and all of it was looked at */
static Usec leave_by = USEC_NEVER;	/* the end of our patience */
static bool last_sent = false;	/* the look after our last job has ended */
static bool last_done = false;

/* What is to be printed, in no order */
typedef struct Event
{
	int64_t		at;				/* microseconds */
	int			seq;			/* of what has one time */
	const Member *member;
	char	   *stamp;			/* the time for readers */
	const char *between;
	char	   *text;
} Event;

static Event *events = NULL;
static int	nevents = 0;
static int	events_size = 0;

/*
 * The members
 */

static const char *const state_names[] = {
	"waiting", "scheduled", "ready", "running",
	"succeeded", "failed", "skipped", "cancelled", "upstream_failed"
};

/* Is it decided? */
bool
member_decided(const Member *m)
{
	return m->state >= MEMBER_SUCCEEDED;
}

static MemberState
find_state(const char *name)
{
	for (int i = 0; i < (int) (sizeof(state_names) / sizeof(state_names[0])); i++)
	{
		if (strcmp(state_names[i], name) == 0)
			return (MemberState) i;
	}
	return MEMBER_WAITING;
}

static int *
bucket_of(int64_t id)
{
	int		   *b = &buckets[(uint64_t) id * UINT64_C(0x9e3779b97f4a7c15) % (uint64_t) nbuckets];

	while (*b != 0 && members[*b - 1]->id != id)
		b = b + 1 == buckets + nbuckets ? buckets : b + 1;
	return b;
}

/* A member by its id, or NULL. */
Member *
member_find(int64_t id)
{
	int			i = nbuckets > 0 ? *bucket_of(id) : 0;

	return i > 0 ? members[i - 1] : NULL;
}

static Member *
member_add(int64_t id)
{
	Member	   *m = xmalloc(sizeof(*m));

	m->id = id;
	if (nmembers == members_size)
	{
		members_size = members_size ? members_size * 2 : 64;
		members = xrealloc(members, (size_t) members_size * sizeof(*members));
		nbuckets = members_size * 2;
		free(buckets);
		buckets = xmalloc((size_t) nbuckets * sizeof(*buckets));
		for (int i = 0; i < nmembers; i++)
			*bucket_of(members[i]->id) = i + 1;
	}
	members[nmembers++] = m;
	*bucket_of(id) = nmembers;
	return m;
}

static const char *
value_of(const PGresult *res, int row, const char *name)
{
	int			col = PQfnumber(res, name);

	return col < 0 || PQgetisnull(res, row, col) ? NULL : PQgetvalue(res, row, col);
}

/* What a member is called: the names of the flows around it, but for the outermost, and its own. */
static char *
label_of(const Member *m, const char *name, const char *kind)
{
	Buf			label = {0};

	if (m->flow && m->flow != root)
		buf_printf(&label, "%s/", m->flow->label);
	if (name)
		buf_puts(&label, name);
	else
		buf_printf(&label, "%s %lld", kind, (long long) m->id);
	return label.data;
}

/* A member is new, or has changed. */
static void
take_member(const PGresult *res, int row, Usec now)
{
	int64_t		id = strtoll(value_of(res, row, "id"), NULL, 10);
	Member	   *m = member_find(id);
	const char *flow = value_of(res, row, "flow");
	const char *kind = value_of(res, row, "kind");
	const char *wait = value_of(res, row, "wait");
	MemberState before;

	if (m == NULL)
	{
		m = member_add(id);
		if (root == NULL)
			root = m;
		else
			m->flow = flow ? member_find(strtoll(flow, NULL, 10)) : NULL;
		m->label = label_of(m, value_of(res, row, "name"), kind);
		before = MEMBER_WAITING;
	}
	else
		before = m->state;
	m->state = find_state(value_of(res, row, "state"));
	m->attempt = atoi(value_of(res, row, "attempt"));

	/*
	 * a job of such a kind that is no flow is ready some time, and has
	 * attempts then
	 */
	m->is_flow = m == root || ((strcmp(kind, "flow") == 0 || strcmp(kind, "map") == 0) && m->attempt == 0 && m->state != MEMBER_READY);
	m->due_at = m->state == MEMBER_SCHEDULED && wait ? now + (Usec) (strtod(wait, NULL) * (double) USEC_PER_SEC) : 0;
	if (m->state == MEMBER_READY)
	{
		if (before != MEMBER_READY)
			m->ready_since = now;
		claim_again();
	}
	m->fresh = true;
	if (m->is_flow && !m->asked)
		m->looked_into = false;
	if (!m->is_flow && !member_decided(m))
		listen_to(value_of(res, row, "queue"));
}

/*
 * Printing
 */

/* When the next attempt begins, if that is known. */
static void
append_wait(Buf *to, const char *wait)
{
	double		seconds = wait ? strtod(wait, NULL) : -1;

	if (seconds > 0)
		buf_printf(to, seconds < 100 ? ", the next begins in %.1f s" : ", the next begins in %.0f s", seconds);
}

/* Is to be printed, by print_events(). */
static void
add_event(int64_t at, const Member *m, const char *stamp, const char *between, const char *text)
{
	static int	seq = 0;

	if (nevents == events_size)
	{
		events_size = events_size ? events_size * 2 : 64;
		events = xrealloc(events, (size_t) events_size * sizeof(*events));
	}
	events[nevents++] = (Event)
	{
		at, seq++, m, xstrdup(stamp), between, xstrdup(text)
	};
}

static int
compare_events(const void *a, const void *b)
{
	const Event *x = a;
	const Event *y = b;

	if (x->at != y->at)
		return x->at < y->at ? -1 : 1;
	return x->seq < y->seq ? -1 : x->seq > y->seq;
}

/* Print what has happened until some time, and forget it. */
static void
print_events(int64_t until)
{
	int			n = 0;

	if (nevents == 0)
		return;
	qsort(events, (size_t) nevents, sizeof(*events), compare_events);
	while (n < nevents && events[n].at <= until)
	{
		output_text(events[n].stamp, events[n].member->label, events[n].between, events[n].text);
		free(events[n].stamp);
		free(events[n].text);
		n++;
	}
	nevents -= n;
	memmove(events, events + n, (size_t) nevents * sizeof(*events));
}

/* Something has happened to a member. */
static void
take_event(const PGresult *res, int row, const char *what)
{
	Member	   *m = member_find(strtoll(value_of(res, row, "id"), NULL, 10));
	const char *stamp = value_of(res, row, "stamp");
	const char *worker = value_of(res, row, "worker");
	const char *outcome = value_of(res, row, "state");
	const char *message = value_of(res, row, "message");
	const char *attempt = value_of(res, row, "attempt");
	const char *us = value_of(res, row, "us");
	int64_t		at;
	Buf			told = {0};

	if (m == NULL || stamp == NULL || us == NULL)
		return;
	at = strtoll(us, NULL, 10);
	if (strcmp(what, "line") == 0)
	{
		m->log_at = at;
		if (strcmp(outcome, "info") != 0)
			buf_printf(&told, "%s: ", outcome);
		buf_puts(&told, message ? message : "");
		add_event(at, m, stamp, "| ", told.data);
	}
	else if (strcmp(what, "started") == 0)
	{
		buf_puts(&told, "started");
		if (attempt && atoi(attempt) > 1)
			buf_printf(&told, ", attempt %s", attempt);
		if (worker && strcmp(worker, opt.worker) != 0)
			buf_printf(&told, ", by worker \"%s\"", worker);
		add_event(at, m, stamp, ": ", told.data);
	}
	else if (strcmp(what, "opened") == 0)
		add_event(at, m, stamp, ": ", "opened again");
	else
	{
		bool		decided = strcmp(what, "decided") == 0;

		if (!decided)
			buf_printf(&told, "attempt %s ", attempt);
		buf_puts(&told, outcome);
		if (!decided)
			append_wait(&told, value_of(res, row, "wait"));
		if (message)
			buf_printf(&told, ": %s", message);
		add_event(at, m, stamp, ": ", told.data);
	}
	buf_free(&told);
}

/* What there is before anything is printed. */
static void
print_flow(void)
{
	int			counts[sizeof(state_names) / sizeof(state_names[0])] = {0};
	int			n = 0;
	Buf			told = {0};

	for (int i = 0; i < nmembers; i++)
	{
		if (members[i]->flow == root)
		{
			counts[members[i]->state]++;
			n++;
		}
	}
	buf_printf(&told, "flow %s is %s; members: %d", opt.flow, state_names[root->state], n);
	for (size_t i = 0; i < sizeof(counts) / sizeof(counts[0]); i++)
	{
		if (counts[i] > 0)
			buf_printf(&told, ", %d %s", counts[i], state_names[i]);
	}
	output_text(since_stamp, root->label, ": ", told.data);
	buf_free(&told);
}

/*
 * Looks
 */

#define MEMBER_COLUMNS \
	"s.id, s.flow, s.name, s.kind, s.queue, s.state, s.attempt, s.worker, s.error, s.started_at, s.finished_at, s.run_at"

/*
 * $1 the flow, $2 flows to look into, $3 to $5 what is known of members: ids, states and
 * attempts, $6 and $7 those whose logs may have new lines: ids, and the times of the
 * last lines, $8 whether what has happened is asked for, too.  A time is a number of
 * microseconds, since a session of a pooler may show others in a way that another takes
 * for something else.
 */
static const char look_sql[] =
"WITH member AS MATERIALIZED ("
" SELECT " MEMBER_COLUMNS " FROM @.job_status s WHERE s.id = $1::pg_catalog.int8"
" UNION ALL SELECT " MEMBER_COLUMNS " FROM @.job_status s WHERE s.flow = ANY ($2::pg_catalog.int8[])"
"), changed AS MATERIALIZED ("
" SELECT m.*, m.kind IN ('flow', 'map') AND m.attempt = 0 AS is_flow, k.state AS was, coalesce(k.attempt, 0) AS begun,"
" coalesce(k.attempt - (k.state = 'running')::pg_catalog.int4, 0) AS ended"
" FROM member m LEFT JOIN unnest($3::pg_catalog.int8[], $4::pg_catalog.text[], $5::pg_catalog.int4[]) AS k (id, state, attempt) ON k.id = m.id"
" WHERE m.state IS DISTINCT FROM k.state OR m.attempt IS DISTINCT FROM k.attempt"
"), attempt AS MATERIALIZED ("
" SELECT a.* FROM @.job_attempts a WHERE a.job_id = ANY (ARRAY(SELECT c.id FROM changed c WHERE c.attempt > c.ended))"
"), event AS ("
" SELECT 0 AS rank, 'member' AS what, c.id, NULL::pg_catalog.timestamptz AS at, c.attempt, c.flow, c.name, c.kind, c.queue, c.state,"
" NULL::pg_catalog.text AS worker, NULL::pg_catalog.text AS message, pg_catalog.date_part('epoch', c.run_at - pg_catalog.clock_timestamp()) AS wait"
" FROM changed c"
" UNION ALL SELECT 1, 'opened', c.id, least(pg_catalog.clock_timestamp(), CASE WHEN c.state = 'running' AND c.attempt > c.begun THEN c.started_at END,"
" (SELECT min(a.started_at) FROM attempt a WHERE a.job_id = c.id AND a.attempt > c.begun)), c.attempt, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL"
" FROM changed c WHERE (c.finished_at IS NULL OR c.attempt > c.begun) AND c.was NOT IN ('waiting', 'scheduled', 'ready', 'running')"
" UNION ALL SELECT 2, 'started', c.id, c.started_at, c.attempt, NULL, NULL, NULL, NULL, NULL, c.worker, NULL, NULL"
" FROM changed c WHERE CASE WHEN c.is_flow THEN coalesce(c.was, 'waiting') IN ('waiting', 'scheduled') ELSE c.state = 'running' AND c.attempt > c.begun END"
" UNION ALL SELECT 2, 'started', a.job_id, a.started_at, a.attempt, NULL, NULL, NULL, NULL, NULL, a.worker, NULL, NULL"
" FROM attempt a JOIN changed c ON c.id = a.job_id WHERE a.attempt > c.begun"
" UNION ALL SELECT 3, 'line', l.job_id, l.at, l.attempt, NULL, NULL, NULL, NULL, l.level, NULL, l.message || coalesce(' ' || l.data::pg_catalog.text, ''), NULL"
" FROM @.job_logs l LEFT JOIN unnest($6::pg_catalog.int8[], $7::pg_catalog.int8[]) AS w (id, at) ON w.id = l.job_id LEFT JOIN changed c ON c.id = l.job_id"
" WHERE l.job_id = ANY (ARRAY(SELECT c.id FROM changed c UNION SELECT unnest($6::pg_catalog.int8[])))"
" AND CASE WHEN w.id IS NOT NULL THEN l.at > 'epoch'::pg_catalog.timestamptz + w.at * '1 microsecond'::pg_catalog.interval ELSE l.attempt > c.ended END"
" UNION ALL SELECT 4, CASE WHEN a.ended_at = c.finished_at THEN 'decided' ELSE 'ended' END, a.job_id, a.ended_at, a.attempt, NULL, NULL, NULL, NULL,"
" CASE WHEN a.ended_at = c.finished_at THEN c.state ELSE a.outcome END, a.worker, a.error,"
" CASE WHEN a.attempt = c.attempt AND c.state = 'scheduled' THEN pg_catalog.date_part('epoch', c.run_at - a.ended_at) END"
" FROM attempt a JOIN changed c ON c.id = a.job_id WHERE a.attempt > c.ended"
" UNION ALL SELECT 4, 'decided', c.id, c.finished_at, c.attempt, NULL, NULL, NULL, NULL, c.state, NULL, c.error, NULL"
" FROM changed c WHERE c.finished_at IS NOT NULL AND NOT EXISTS (SELECT FROM attempt a WHERE a.job_id = c.id AND a.ended_at = c.finished_at)"
") SELECT e.*, (pg_catalog.date_part('epoch', e.at) * 1000000)::pg_catalog.int8 AS us,"
" pg_catalog.to_char(e.at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"') AS stamp"
" FROM event e WHERE e.what = 'member' OR ($8::pg_catalog.bool AND e.at IS NOT NULL)"
" ORDER BY e.at NULLS FIRST, e.id, e.rank";

/* Is it a flow that has started, and was not looked into since that was seen? */
static bool
is_unseen(const Member *m)
{
	return m->is_flow && m->state >= MEMBER_RUNNING && !m->looked_into;
}

/*
 * A statement failed: try again later.  Where that would not help, the flow is as good as
 * gone for who is to say what becomes of it.
 */
static void
look_failed(const PGresult *res)
{
	char	   *msg = result_message(res);
	Usec		delay = backoff_delay(++failures, RETRY_MAX);

	log_event(LOG_ERROR, "look_failed", "sqlstate", result_state(res), "error", msg,
			  "retry_ms", num(delay / USEC_PER_MSEC), (char *) NULL);
	free(msg);
	retry_at = now_usec() + delay;
	wanted = true;
	if (opt.until_idle != USEC_NEVER && !state_is_transient(result_state(res)))
		state = FLOW_GONE;
}

static void
look_reply(Conn *conn, PGresult *res, void *arg)
{
	Usec		now = now_usec();
	bool		unseen = false;
	int64_t		until = INT64_MAX;

	(void) conn;
	(void) arg;
	looking = false;
	look_after = now + 2 * (now - look_sent) + LOOK_PAUSE;
	look_at = now + opt.poll_interval;
	if (res == NULL)
	{
		wanted = true;
		return;
	}
	if (!result_ok(res))
	{
		look_failed(res);
		return;
	}
	failures = 0;
	last_done |= last_sent;
	for (int i = 0; i < nmembers; i++)
	{
		Member	   *m = members[i];

		m->lingers = m->fresh;
		m->fresh = false;
		m->looked_into |= m->asked;
	}

	/* members come first, flows before what is in them */
	for (int row = 0; row < PQntuples(res); row++)
	{
		const char *what = value_of(res, row, "what");

		if (strcmp(what, "member") == 0)
			take_member(res, row, now);
		else
			take_event(res, row, what);
	}
	for (int i = 0; i < nmembers; i++)
		unseen |= is_unseen(members[i]);
	wanted |= unseen;
	if (!unseen && !looked && root)
	{
		looked = true;
		print_flow();
	}
	/* up to the first start of what is still to be looked into */
	for (int i = 0; i < nevents && !last_done; i++)
	{
		if (is_unseen(events[i].member) && events[i].at < until)
			until = events[i].at;
	}
	print_events(until);
	over = !unseen && root && member_decided(root);
	if (PQntuples(res) > 0)
		idle_changed(now);
}

/* Send a look. */
static void
look_send(Conn *conn, Usec now)
{
	Buf			arrays[6] = {{0}};
	const char *values[8];

	for (int i = 0; i < nmembers; i++)
	{
		Member	   *m = members[i];

		buf_element(&arrays[1], num(m->id));
		buf_element(&arrays[2], state_names[m->state]);
		buf_element(&arrays[3], num(m->attempt));
		m->asked = is_unseen(m) || (m->is_flow && m->state == MEMBER_RUNNING);
		if (m->asked)
			buf_element(&arrays[0], num(m->id));
		if (!m->is_flow && (m->state == MEMBER_RUNNING || m->fresh || m->lingers))
		{
			buf_element(&arrays[4], num(m->id));
			buf_element(&arrays[5], m->log_at > 0 ? num(m->log_at) : since);
		}
	}
	values[0] = opt.flow;
	for (int i = 0; i < 6; i++)
	{
		buf_puts(&arrays[i], arrays[i].len == 0 ? "{}" : "}");
		values[i + 1] = arrays[i].data;
	}
	values[7] = looked ? "true" : "false";
	looking = true;
	wanted = false;
	last_sent = draining && njobs == 0;
	look_sent = now;
	conn_call(conn, look_reply, NULL, 8, values, look_sql);
	for (int i = 0; i < 6; i++)
		buf_free(&arrays[i]);
}

/* There may be something new. */
void
flow_changed(void)
{
	wanted = true;
}

/*
 * The flow
 */

static void
flow_reply(Conn *conn, PGresult *res, void *arg)
{
	(void) conn;
	(void) arg;
	state = FLOW_UNKNOWN;
	if (res == NULL)
		return;
	if (!result_ok(res))
		look_failed(res);
	else if (PQntuples(res) == 0)
	{
		log_event(LOG_ERROR, "no_such_flow", "flow", opt.flow,
				  "error", "no flow has this id, or this role may not see it", (char *) NULL);
		state = FLOW_GONE;
	}
	else
	{
		state = FLOW_KNOWN;
		failures = 0;
		snprintf(since, sizeof(since), "%s", PQgetvalue(res, 0, 0));
		snprintf(since_stamp, sizeof(since_stamp), "%s", PQgetvalue(res, 0, 1));
	}
}

static const char flow_sql[] =
"SELECT (pg_catalog.date_part('epoch', t.now) * 1000000)::pg_catalog.int8,"
" pg_catalog.to_char(t.now AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')"
" FROM @.job_flow_status f, pg_catalog.clock_timestamp() AS t (now) WHERE f.id = $1::pg_catalog.int8";

/* Ask for the flow, look, or ask what it waits for, if that is what is to be done. */
bool
flow_send(Conn *conn, Usec now)
{
	if (opt.flow == NULL || looking || now < retry_at || output_is_full())
		return false;
	if (state == FLOW_UNKNOWN)
	{
		state = FLOW_ASKED;
		conn_call(conn, flow_reply, NULL, 1, &opt.flow, flow_sql);
		return true;
	}
	if (state != FLOW_KNOWN)
		return false;
	if (now >= look_after && (wanted || now >= look_at || (draining && njobs == 0 && !last_done && !over)))
	{
		look_send(conn, now);
		return true;
	}
	return !wanted && idle_send(conn, now);
}

/* May its members be claimed?  Not before it was looked at, so that nothing goes unseen. */
bool
flow_may_claim(void)
{
	return opt.flow == NULL || looked;
}

/* Is there no such flow? */
bool
flow_gone(void)
{
	return state == FLOW_GONE;
}

/* Is it decided, and what has happened in it printed? */
bool
flow_over(void)
{
	return over;
}

/* With --until-idle: the exit status of a worker that has nothing left to do. */
int
flow_status(void)
{
	if (over)
		return root->state == MEMBER_SUCCEEDED ? EXIT_SUCCESS : EXIT_FLOW_FAILED;
	return idle_verdict() ? EXIT_FLOW_STUCK : EXIT_FAILURE;
}

/* Is the worker to wait before it ends, so that what its last jobs came to is printed? */
bool
flow_keeps(Usec now)
{
	if (opt.flow == NULL || !looked || over || last_done || idle_verdict() || njobs > 0)
		return false;
	if (leave_by == USEC_NEVER)
		leave_by = now + LAST_LOOK_WITHIN;
	return now < leave_by;
}

Usec
flow_timer(Usec now)
{
	Usec		timer = USEC_NEVER;
	Usec		next = wanted ? 0 : look_at;

	if (opt.flow == NULL || state == FLOW_GONE)
		return timer;
	if (!looking)
	{
		if (next < look_after)
			next = look_after;
		if (next < retry_at)
			next = retry_at;
		if (next > now)
			note_time(&timer, next);
		if (state == FLOW_KNOWN)
			note_time(&timer, idle_timer(now));
	}
	if (leave_by > now)
		note_time(&timer, leave_by);
	return timer;
}

void
flow_end(void)
{
	print_events(INT64_MAX);
	free(events);
	for (int i = 0; i < nmembers; i++)
	{
		free(members[i]->label);
		free(members[i]);
	}
	free(members);
	free(buckets);
}
