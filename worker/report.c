/*
 * report.c
 *		Telling the server what became of jobs.
 *
 * A report is due until the server has accepted it or refused it for good
 * (JQ001: the job is not ours any more).  Everything else, a lost connection
 * above all, leaves it due, so what was done while the server was away is
 * reported when it is back.  Repeating a report whose answer was lost is
 * harmless: the server accepts the completion that decided the job silently.
 *
 * Nothing waits for company: a report that is due is sent as soon as a
 * connection is free.  But whatever else is due by then and is of the same
 * sort goes with it, so the busier the worker is, the fewer statements it
 * takes.
 *
 * One job must not spoil the others' reports.  The server answers for each
 * whether it was accepted.  A result that it does not take is an error of the
 * whole statement, which then has done nothing; then each is sent alone.
 *
 * So is a job that somebody keeps locked (LOCK_TIMEOUT), who may do so for long
 * and with many, as by a transaction that submits a job that depends on them.
 * The jobs of such a statement go to JOB_LOCKED, where each is tried alone: one
 * at a time, by turns with everything else, and the more they are, the
 * shorter.  They keep their leases, but not their places.
 */
#include "worker.h"

#include <stdlib.h>
#include <string.h>

#define BATCH_BYTES (1024 * 1024)	/* of results or errors together */

#define LOGGED_ERROR 1000		/* bytes of standard error in the log */

static int	in_flight = 0;		/* statements, without this one */
static bool locked_in_flight = false;	/* of a job that was locked */

bool
reports_in_flight(void)
{
	return in_flight > 0;
}

static bool
is_blank(const char *str)
{
	return str == NULL || str[strspn(str, " \t\r\n")] == '\0';
}

/* The result or the error, or NULL. */
static const char *
payload(const Job *job)
{
	if (job->report != REPORT_COMPLETE)
		return job->error.data;
	return is_blank(job->child.out.data) ? NULL : job->child.out.data;
}

/* What fits into a line of the log: how the command ended, and the last that it said. */
static void
short_error(Buf *to, const Buf *error)
{
	size_t		line = strcspn(error->data, "\n");
	size_t		from = line;

	buf_append(to, error->data, line);
	if (error->len - line > LOGGED_ERROR)
	{
		from = error->len - LOGGED_ERROR;
		while (((unsigned char) error->data[from] & 0xc0) == 0x80)
			from++;				/* not half a character */
		buf_puts(to, "\n...");
	}
	buf_append(to, error->data + from, error->len - from);
}

/* The server took the report. */
static void
report_accepted(Job *job, const char *state)
{
	bool		cancelled = strcmp(state, "cancelled") == 0;

	job_done(job);
	if (job->report == REPORT_COMPLETE)
		log_event(LOG_DEBUG, "job_succeeded", "job", job->id, "kind", job->kind, (char *) NULL);
	else if (job->report == REPORT_RELEASE)
		log_event(LOG_INFO, "job_released", "job", job->id, "kind", job->kind, (char *) NULL);
	else
	{
		Buf			error = {0};

		short_error(&error, &job->error);
		log_event(cancelled ? LOG_INFO : LOG_WARNING, cancelled ? "job_cancelled" : "job_failed",
				  "job", job->id, "kind", job->kind, "attempt", job->attempt,
				  "state", state, "error", error.data, (char *) NULL);
		buf_free(&error);
	}
}

/* The job is not ours any more. */
static void
report_refused(Job *job, const char *state, const char *msg)
{
	log_event(LOG_WARNING, "report_refused", "job", job->id, "kind", job->kind,
			  "sqlstate", state, "error", msg, (char *) NULL);
	job_done(job);
}

/*
 * Is it the result or the text that the server does not take?  That its queue of
 * notifications is full has the state of a result that is too large.
 */
static bool
result_refuses_text(const PGresult *res)
{
	const char *state = result_state(res);
	const char *function = PQresultErrorField(res, PG_DIAG_SOURCE_FUNCTION);

	return state_in_class(state, "22") ||
		(state_in_class(state, "54") && (function == NULL || strcmp(function, "PreCommit_Notify") != 0));
}

/* The server does not take this result or this text, and never will. */
static void
report_unacceptable(Job *job, const char *state, const char *msg)
{
	if (opt.output == OUTPUT_TEXT && job->report == REPORT_COMPLETE && strcmp(state, "22P05") == 0 && !job->ascii)
	{
		job->ascii = true;
		make_ascii(job->child.out.data);
	}
	else if (job->report == REPORT_COMPLETE)
	{
		buf_printf(&job->error, "the command's output was refused as the result: %s", msg);
		if (strcmp(state, "22P02") == 0)
			buf_puts(&job->error, NOT_JSON_HINT);
		buf_free(&job->child.out);
		job->ascii = false;
		job_report(job, REPORT_FAIL_FINALLY);
	}
	else
	{
		job->ascii = true;
		if (job->error.data)
			make_ascii(job->error.data);
	}
}

/* What became of a statement for one job. */
static void
report_answered(Job *job, const PGresult *res, bool locked, Usec now)
{
	const char *state = result_state(res);
	char	   *msg;

	if (result_ok(res))
	{
		report_accepted(job, PQntuples(res) == 1 ? PQgetvalue(res, 0, 0) : "");
		return;
	}
	msg = result_message(res);
	if (state_is_refusal(state))
		report_refused(job, state, msg);
	else if (result_refuses_text(res) && payload(job) != NULL && (job->report == REPORT_COMPLETE || !job->ascii))
		report_unacceptable(job, state, msg);
	else
	{
		Usec		delay = locked ? LOCKED_RETRY : backoff_delay(job->report_failures + 1, RETRY_MAX);

		job->report_failures++;

		/* Log the tries 1, 2, 4, 8 and so on. */
		log_event((job->report_failures & (job->report_failures - 1)) != 0 ? LOG_DEBUG : LOG_WARNING,
				  "report_failed", "job", job->id, "kind", job->kind, "sqlstate", state,
				  "error", msg, "retry_ms", num(delay / USEC_PER_MSEC), (char *) NULL);
		if (locked)
		{
			job_locked(job, now + delay, false);

			/* each try in vain is a line in the server's log */
			if (jobs[JOB_LOCKED].first->report_at < now + LOCKED_PAUSE)
				jobs[JOB_LOCKED].first->report_at = now + LOCKED_PAUSE;
		}
		else
		{
			job_report(job, job->report);
			job->report_at = now + delay;
		}
	}
	free(msg);
}

/* The same for one job of many; the rows are in the order of the arguments. */
static void
batch_answered(Job *job, const PGresult *res, int row)
{
	if (!result_ok(res) || row >= PQntuples(res))
		job->report_alone = true;
	else if (strcmp(PQgetvalue(res, row, 0), "t") == 0)
		report_accepted(job, PQgetvalue(res, row, 1));
	else
		report_refused(job, NULL, "the job is not this worker's any more");
}

static void
report_reply(Conn *conn, PGresult *res, void *arg)
{
	Batch	   *batch = arg;
	Usec		now = now_usec();
	bool		locked = res && strcmp(result_state(res), "55P03") == 0;

	(void) conn;
	if (batch->jobs[0]->phase == JOB_LOCKED)
		locked_in_flight = false;
	else
		in_flight--;
	if (res && batch->njobs > 1 && !result_ok(res))
		log_event(LOG_DEBUG, "reports_one_by_one", "jobs", num(batch->njobs),
				  "sqlstate", result_state(res), (char *) NULL);
	for (int i = 0; i < batch->njobs; i++)
	{
		Job		   *job = batch->jobs[i];

		job->report_busy = false;
		if (res == NULL)
			job->report_at = now;
		else if (batch->njobs == 1)
			report_answered(job, res, locked, now);
		else if (locked)
			job_locked(job, now, true);
		else
			batch_answered(job, res, i);
		beat_resume(job);
	}
	free(batch);
}

static bool
is_due(const Job *job, Usec now)
{
	return !job->report_busy && !job->heartbeat_busy && job->report_at <= now && !log_pending(job);
}

/* The report that has been due longest. */
static Job *
most_overdue(Usec now)
{
	Job		   *due = NULL;

	for (Job *job = jobs[JOB_REPORTING].first; job; job = job->next)
	{
		if (is_due(job, now) && (due == NULL || job->report_at < due->report_at))
			due = job;
	}
	return due;
}

/* Can one statement report both? */
static bool
same_sort(const Job *a, const Job *b)
{
	return a->report == b->report && !a->report_alone && !b->report_alone &&
		a->retry_in == b->retry_in;
}

static void
batch_add(Batch *batch, Job *job)
{
	job->report_busy = true;
	beat_pause(job);
	batch->jobs[batch->njobs++] = job;
}

/* That job, and others that can go with it. */
static Batch *
make_batch(Job *first, Usec now)
{
	Batch	   *batch = batch_create(jobs[JOB_REPORTING].n);
	size_t		bytes = 0;

	for (Job *job = jobs[JOB_REPORTING].first; job; job = job->next)
	{
		size_t		len;

		if (job != first && !(is_due(job, now) && same_sort(first, job)))
			continue;
		len = job->report == REPORT_COMPLETE ? job->child.out.len : job->error.len;
		if (job != first && bytes + len > BATCH_BYTES)
			continue;
		bytes += len;
		batch_add(batch, job);
	}
	return batch;
}

/* Where many jobs are locked, each is waited for less. */
static const char *
lock_timeout(void)
{
	int			n = jobs[JOB_LOCKED].n;

	return n <= 4 ? LOCK_TIMEOUT : num(n < 100 ? 1000 / n : 10);
}

static void
send_one(Conn *conn, Batch *batch)
{
	const Job  *job = batch->jobs[0];
	const char *values[] = {
		job->id, job->token, lock_timeout(), payload(job),
		job->report == REPORT_FAIL ? "true" : "false", job->retry_in
	};

	switch (job->report)
	{
		case REPORT_COMPLETE:
			conn_call(conn, report_reply, batch, 4, values, "SELECT @.job_complete(" ONE_ID("$3") ", $2, $4)");
			break;
		case REPORT_FAIL:
		case REPORT_FAIL_FINALLY:
			conn_call(conn, report_reply, batch, 6, values,
					  "SELECT @.job_fail(" ONE_ID("$3") ", $2, $4, $5, $6)");
			break;
		case REPORT_RELEASE:
			conn_call(conn, report_reply, batch, 3, values, "SELECT @.job_release(" ONE_ID("$3") ", $2)");
			break;
	}
}

static void
send_many(Conn *conn, Batch *batch)
{
	const Job  *first = batch->jobs[0];
	Buf			arrays[3] = {{0}};
	const char *values[6];

	batch_arrays(batch, &arrays[0], &arrays[1]);
	for (int i = 0; i < batch->njobs; i++)
		buf_element(&arrays[2], payload(batch->jobs[i]));
	buf_puts(&arrays[2], "}");
	values[0] = arrays[0].data;
	values[1] = arrays[1].data;
	values[2] = lock_timeout();
	values[3] = arrays[2].data;
	values[4] = first->report == REPORT_FAIL ? "true" : "false";
	values[5] = first->retry_in;
	switch (first->report)
	{
		case REPORT_COMPLETE:
			conn_call(conn, report_reply, batch, 4, values,
					  "SELECT accepted, '' FROM @.job_complete_many(" MANY_IDS("$3") ", $2, $4)");
			break;
		case REPORT_FAIL:
		case REPORT_FAIL_FINALLY:
			conn_call(conn, report_reply, batch, 6, values,
					  "SELECT accepted, state FROM @.job_fail_many(" MANY_IDS("$3") ", $2, $4, $5, $6)");
			break;
		case REPORT_RELEASE:
			conn_call(conn, report_reply, batch, 3, values,
					  "SELECT true, '' FROM unnest(" MANY_IDS("$3") ", $2::pg_catalog.int8[]) AS b (id, token),"
					  " @.job_release(b.id, b.token)");
			break;
	}
	for (int i = 0; i < 3; i++)
		buf_free(&arrays[i]);
}

/* Send what has been due longest, and all that can go with it. */
bool
report_send(Conn *conn, Usec now)
{
	Job		   *first = most_overdue(now);
	Batch	   *batch;

	if (first == NULL)
		return false;
	batch = make_batch(first, now);
	in_flight++;
	if (batch->njobs == 1)
		send_one(conn, batch);
	else
		send_many(conn, batch);
	return true;
}

/* The same for the next of those that somebody kept locked. */
bool
report_send_locked(Conn *conn, Usec now)
{
	Job		   *job = jobs[JOB_LOCKED].first;
	Batch	   *batch;

	if (job == NULL || locked_in_flight || !is_due(job, now))
		return false;
	batch = batch_create(1);
	batch_add(batch, job);
	locked_in_flight = true;
	send_one(conn, batch);
	return true;
}
