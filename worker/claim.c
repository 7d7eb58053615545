/*
 * claim.c
 *		Getting jobs: waiting for the first, and taking more while there are.
 *
 * There are two ways to wait, and a worker uses one of them:
 *
 * - With one queue, CALL job_claim_wait() on the waiting connection.  The
 *   server answers with a job, or after --poll-interval without one, and is
 *   called again.
 * - With several queues, with --listen or with --flow, whose members may be of
 *   any queues, LISTEN on the waiting connection.
 *   A notification, or --poll-interval without one, makes a claim on the pool.
 *
 * Either way, while claims bring as many jobs as were asked for there are
 * likely more, and the next is made on the pool, for all of the capacity that
 * is free, instead of waiting.  And while the waiting connection is away, the
 * pool polls.  So whatever wake-up is missed costs at most --poll-interval.
 *
 * At most one of these statements runs at a time, and it asks for no more
 * jobs than there is room for.
 */
#include "worker.h"

#include <stdlib.h>
#include <string.h>

/* By name: a type that gets another column would void the prepared statement. */
#define CLAIM_COLUMNS \
	"SELECT job_id, token, attempt, kind, args, inputs, key, flow," \
	" pg_catalog.date_part('epoch', lease_until - pg_catalog.clock_timestamp()) AS lease FROM "

#define CLAIM_MAX 1000			/* so that a claim takes little of the leases */
#define CLAIM_LARGE 65536		/* bytes; it may have stopped at
								 * max_claim_size */

static Conn *wait_conn;
static Conn *claim_conn;		/* of the claim that is made, or CALL */
static bool calls;				/* waits by CALL, not by LISTEN */
static Buf	queues;				/* the queue, an array of them, or the flow */
static Buf	lease;				/* data is NULL: the job's own */
static Buf	timeout;

static bool call_running;		/* on the waiting connection */
static bool claim_running;		/* on the pool */
static int	asked;				/* how many jobs claim_running may bring */
static Usec asked_at;
static int	claimed;			/* since the start */
static bool work_likely;		/* claim at once */
static Usec call_sent;
static Usec lease_asked_at;
static Usec poll_at;
static Usec retry_at;			/* after an error */
static int	failures;
static bool unable;				/* by an error that trying again does not mend */
static Usec cancel_at;
static Usec idle_since;

void
claim_init(Conn *conn, Usec now)
{
	wait_conn = conn;
	calls = opt.nqueues == 1 && !opt.listen;
	if (opt.flow)
		buf_puts(&queues, opt.flow);
	else if (opt.nqueues == 1)
		buf_puts(&queues, opt.queues[0]);
	else
	{
		/* Their names have nothing that would need escaping. */
		for (int i = 0; i < opt.nqueues; i++)
			buf_printf(&queues, "%s\"%s\"", i == 0 ? "{" : ",", opt.queues[i]);
		buf_puts(&queues, "}");
	}
	if (opt.lease > 0)
		buf_printf(&lease, "%lld microseconds", (long long) opt.lease);
	buf_printf(&timeout, "%lld microseconds", (long long) opt.poll_interval);
	idle_since = now;
	poll_at = now + opt.poll_interval;
	work_likely = true;			/* before waiting, look */
	conn->waiting = true;
	if (!calls)
		listen_init(conn);
}

void
claim_end(void)
{
	buf_free(&queues);
	buf_free(&lease);
	buf_free(&timeout);
}

static void
poll_later(Usec now)
{
	poll_at = now + jittered(opt.poll_interval);
}

static Usec
seconds(const char *value)
{
	return (Usec) (strtod(value, NULL) * (double) USEC_PER_SEC);
}

/* For how many more jobs is there room? */
static int
capacity(void)
{
	int			most = opt.concurrency + opt.prefetch;
	int			n = most - jobs[JOB_RUNNING].n - jobs[JOB_QUEUED].n;

	/* What jobs are given, which may be large, must not pile up. */
	if (jobs[JOB_QUEUED].bytes > MAX_BYTES)
		return 0;
	/* Reports that the server is slow to take must not pile up. */
	if (n > 2 * most - (njobs - jobs_locked()))
		n = 2 * most - (njobs - jobs_locked());
	if (opt.max_jobs > 0 && n > opt.max_jobs - claimed)
		n = opt.max_jobs - claimed;
	return n;
}

bool
claim_limit_reached(void)
{
	return opt.max_jobs > 0 && claimed >= opt.max_jobs;
}

/* There may be jobs that were not there at the last claim. */
void
claim_again(void)
{
	work_likely = true;
}

/* What is claimed now could not be begun with: leave it to others for a while. */
void
claim_pause(void)
{
	retry_at = now_usec() + jittered(SHORTAGE_DELAY);
}

/* Is nothing left to claim, as far as we know? */
bool
claim_found_nothing(void)
{
	return njobs == 0 && !work_likely && !claim_in_flight();
}

/* Since when has there been no job?  While one is asked for, there may be one now. */
Usec
claim_idle_since(Usec now)
{
	if (njobs > 0)
		idle_since = now;
	return claim_running || work_likely ? now : idle_since;
}

/* Have half of those that were prefetched begun, or is there much to get? */
static bool
worth_it(int room)
{
	return room > 0 && (room >= CLAIM_MAX || jobs[JOB_QUEUED].n <= opt.prefetch / 2);
}

/*
 * Claims are made neither while leaving, nor without room for enough jobs, nor
 * too soon after a claim that failed, nor while those that are held take all
 * there is to keep them, nor before a flow was looked at.
 */
static bool
may_claim(Usec now)
{
	return !draining && !call_running && !claim_running && now >= retry_at &&
		worth_it(capacity()) && !beats_late(now) && flow_may_claim();
}

/* Was it cancelled by ourselves, who are leaving? */
static bool
was_cancelled(const PGresult *res)
{
	return draining && strcmp(result_state(res), "57014") == 0;
}

static void
claim_failed(const PGresult *res)
{
	Usec		delay = backoff_delay(++failures, RETRY_MAX);
	char	   *msg = result_message(res);

	log_event(LOG_ERROR, "claim_failed", "sqlstate", result_state(res), "error", msg,
			  "retry_ms", num(delay / USEC_PER_MSEC), (char *) NULL);
	free(msg);
	retry_at = now_usec() + delay;
	unable = !state_is_transient(result_state(res));
}

/* Was the last claim an error that stays? */
bool
claim_unable(void)
{
	return unable;
}

/*
 * CALL
 */

/*
 * Without an answer it is taken for the shortest there is, and for run out: the
 * job begins with its first heartbeat.
 */
static void
lease_reply(Conn *conn, PGresult *res, void *arg)
{
	Job		   *job = arg;
	Usec		shortest = opt.lease > 0 ? opt.lease : MIN_LEASE;

	(void) conn;
	job->lease_asked = false;
	if (res && result_ok(res) && PQntuples(res) == 1)
		beat_set_lease(job, lease_asked_at, seconds(PQgetvalue(res, 0, 0)));
	else
		beat_set_lease(job, lease_asked_at - shortest, shortest);
}

static void
call_reply(Conn *conn, PGresult *res, void *arg)
{
	Usec		now = now_usec();
	Job		   *job;
	const char *lease_until;

	(void) arg;
	call_running = false;
	poll_later(now);
	if (res == NULL)
		return;
	if (!result_ok(res))
	{
		if (!was_cancelled(res))
			claim_failed(res);
		return;
	}
	failures = 0;
	if (PQntuples(res) != 1 || PQgetisnull(res, 0, PQfnumber(res, "job_id")))
	{
		/* The time is out; but if it is not, do not ask in a tight loop. */
		if (now - call_sent < opt.poll_interval / 2)
			retry_at = now + (opt.poll_interval < USEC_PER_SEC ? opt.poll_interval : USEC_PER_SEC);
		return;
	}
	claimed++;
	work_likely = true;
	job = job_start(res, 0, now, LEASE_UNKNOWN, draining);

	/*
	 * Only the server's clock tells how long the lease is; the job begins
	 * then.
	 */
	lease_until = PQgetvalue(res, 0, PQfnumber(res, "lease_until"));
	job->lease_asked = true;
	lease_asked_at = now;
	conn_send(conn, lease_reply, job, 1, &lease_until,
			  "SELECT pg_catalog.date_part('epoch', $1::timestamptz - pg_catalog.clock_timestamp())");
}

/* Wait on the waiting connection, if that is what is to be done. */
void
claim_send_wait(Usec now)
{
	const char *values[5];

	if (!calls || opt.once || work_likely || !conn_free(wait_conn) || !may_claim(now))
		return;
	values[0] = queues.data;
	values[1] = opt.worker;
	values[2] = timeout.data;
	values[3] = lease.data;
	values[4] = opt.labels.data;
	call_running = true;
	claim_conn = wait_conn;
	call_sent = now;
	cancel_at = now;
	conn_call(wait_conn, call_reply, NULL, 5, values,
			  "CALL @.job_claim_wait($1, $2, $3, $4, labels => $5)");
}

/*
 * When leaving: end the CALL, or a claim that takes long.  A cancel request that
 * finds the server idle is void, as it is when it overtakes the statement, so
 * it is repeated until there is an answer.  That may still be a job, claimed
 * just before; what was cancelled has claimed nothing.
 */
void
claim_cancel(Usec now)
{
	if (!claim_in_flight() || now < cancel_at)
		return;
	cancel_at = now + CANCEL_REPEAT;
	conn_cancel(claim_conn);
}

/*
 * claims on the pool
 */

static void
claim_reply(Conn *conn, PGresult *res, void *arg)
{
	int			n;
	size_t		size = 0;

	(void) conn;
	(void) arg;
	claim_running = false;
	poll_later(now_usec());
	if (res == NULL)
	{
		work_likely = true;
		return;
	}
	if (!result_ok(res))
	{
		work_likely = true;
		if (!was_cancelled(res))
			claim_failed(res);
		return;
	}
	failures = 0;
	unable = false;
	n = PQntuples(res);
	claimed += n;
	for (int row = 0; row < n; row++)
	{
		size += PQgetlength(res, row, PQfnumber(res, "args")) +
			PQgetlength(res, row, PQfnumber(res, "inputs"));
		job_start(res, row, asked_at, seconds(PQgetvalue(res, row, PQfnumber(res, "lease"))), draining);
	}
	if (n >= asked || size >= CLAIM_LARGE)
		work_likely = true;
	if (n > 0)
		flow_changed();

	/*
	 * To look for what is ready in a large flow takes long: not for each
	 * notification of others' jobs.
	 */
	if (opt.flow && n == 0)
		retry_at = now_usec() + 2 * (now_usec() - asked_at);
}

/* Claim on a connection of the pool, if that is what is to be done. */
bool
claim_send(Conn *conn, Usec now)
{
	const char *values[5];

	if (!work_likely || !may_claim(now))
		return false;
	asked = capacity() < CLAIM_MAX ? capacity() : CLAIM_MAX;
	asked_at = now;
	values[0] = queues.data;
	values[1] = opt.worker;
	values[2] = num(asked);
	values[3] = lease.data;
	values[4] = opt.labels.data;
	claim_running = true;
	claim_conn = conn;
	cancel_at = now + CANCEL_AFTER;
	work_likely = false;		/* a notification may set it meanwhile */
	conn_call(conn, claim_reply, NULL, 5, values,
			  opt.flow ?
			  CLAIM_COLUMNS "@.job_claim_flow($1::int8, $2::text, $3::int, $4::interval, $5::text[])" :
			  opt.nqueues == 1 ?
			  CLAIM_COLUMNS "@.job_claim($1::text, $2::text, $3::int, $4::interval, $5::text[])" :
			  CLAIM_COLUMNS "@.job_claim($1::text[], $2::text, $3::int, $4::interval, $5::text[])");
	return true;
}

/*
 * for the loop
 */

bool
claim_in_flight(void)
{
	return call_running || claim_running;
}

/* The slow poll, which a waiting CALL is itself. */
void
claim_tick(Usec now)
{
	if (now >= poll_at && !call_running && !claim_running)
	{
		poll_later(now);
		work_likely = true;
	}
}

Usec
claim_timer(Usec now)
{
	Usec		timer = USEC_NEVER;

	if (draining)
	{
		if (claim_in_flight())
			note_time(&timer, cancel_at);
		return timer;
	}
	if (!claim_in_flight())
	{
		note_time(&timer, poll_at);
		if (retry_at > now)
			note_time(&timer, retry_at);
	}
	return timer;
}
