/*
 * job.c
 *		The jobs held: running their commands and keeping their leases.
 *
 * QUEUED -> RUNNING -> REPORTING -> DONE.  A job leaves QUEUED when there is
 * room to run it, RUNNING when nothing of its command runs any more, and
 * REPORTING by its report (report.c).  The list is in the order of the claims.
 */
#include "worker.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

Job		   *jobs = NULL;
int			njobs = 0;
int			nqueued = 0;
int			nrunning = 0;

static Job **jobs_end = &jobs;	/* where the next is put */

static const Kind *
find_kind(const char *name)
{
	const Kind *fallback = NULL;

	for (int i = 0; i < opt.nkinds; i++)
	{
		if (strcmp(opt.kinds[i].name, name) == 0)
			return &opt.kinds[i];
		if (strcmp(opt.kinds[i].name, "*") == 0)
			fallback = &opt.kinds[i];
	}
	return fallback;
}

static void
set_phase(Job *job, JobPhase phase)
{
	nqueued += (phase == JOB_QUEUED) - (job->phase == JOB_QUEUED);
	nrunning += (phase == JOB_RUNNING) - (job->phase == JOB_RUNNING);
	job->phase = phase;
}

/* The outcome is known: report it as soon as a connection is free. */
void
job_report(Job *job, Report report)
{
	set_phase(job, JOB_REPORTING);
	job->report = report;
	job->report_at = 0;
	while (job->error.len > 0 && job->error.data[job->error.len - 1] == '\n')
		job->error.data[--job->error.len] = '\0';
}

/* Half a heartbeat late must not cost the lease, nor must one that is lost. */
static Usec
heartbeat_interval(const Job *job)
{
	Usec		interval = opt.heartbeat;

	if (job->lease > 0 && job->lease / 3 < interval)
		interval = job->lease / 3;
	return interval < MIN_HEARTBEAT ? MIN_HEARTBEAT : interval;
}

/* The lease is this long, counted from a time at which it had begun at most. */
void
job_set_lease(Job *job, Usec from, Usec lease)
{
	job->lease = lease > 0 ? lease : 1;
	job->kept_until = from + job->lease;
	job->heartbeat_at = from + heartbeat_interval(job);
}

static char *
field(const PGresult *res, int row, const char *name)
{
	int			col = PQfnumber(res, name);

	return col < 0 || PQgetisnull(res, row, col) ? NULL : PQgetvalue(res, row, col);
}

static char *
field_copy(const PGresult *res, int row, const char *name)
{
	const char *value = field(res, row, name);

	return xstrdup(value ? value : "");
}

/*
 * Start the command of a job's kind.  If that cannot be, the job fails; where
 * there is nothing to run, it succeeds.
 */
static void
start_command(Job *job, const char *args, const char *inputs)
{
	const ChildEnv env[] = {
		{"JOBQ_JOB_ID", job->id},
		{"JOBQ_TOKEN", job->token},
		{"JOBQ_ATTEMPT", job->attempt},
		{"JOBQ_KIND", job->kind},
		{"JOBQ_KEY", job->key}
	};
	const Kind *kind = find_kind(job->kind);
	char		errbuf[256];

	if (kind == NULL)
	{
		log_event(LOG_WARNING, "unknown_kind", "job", job->id, "kind", job->kind, (char *) NULL);
		buf_printf(&job->error, "this worker has no command for kind \"%s\"", job->kind);
		job->retry_in = UNKNOWN_KIND_DELAY;
		job_report(job, REPORT_FAIL);
	}
	else if (kind->noop)
		job_report(job, REPORT_COMPLETE);
	else if (!child_start(&job->child, kind->command, args, inputs, env,
						  sizeof(env) / sizeof(env[0]), errbuf, sizeof(errbuf)))
	{
		log_event(LOG_ERROR, "job_not_started", "job", job->id, "error", errbuf, (char *) NULL);
		buf_puts(&job->error, errbuf);
		job_report(job, REPORT_FAIL);
	}
	else
		log_event(LOG_DEBUG, "job_started", "job", job->id, "kind", job->kind,
				  "attempt", job->attempt, "pid", num(job->child.pid), (char *) NULL);
}

/* There is room for it: start its command. */
static void
job_begin(Job *job, const char *args, const char *inputs)
{
	set_phase(job, JOB_RUNNING);
	job->started = now_usec();
	job->deadline = opt.timeout > 0 ? job->started + opt.timeout : USEC_NEVER;
	start_command(job, args, inputs);
}

/*
 * Take a job that was claimed by a statement sent then, and start its command
 * if there is room; or, where the worker is leaving, give it back.
 */
Job *
job_start(const PGresult *res, int row, Usec sent, Usec lease, bool release)
{
	Job		   *job = xmalloc(sizeof(*job));
	const char *args = field(res, row, "args");
	const char *inputs = field(res, row, "inputs");

	if (args == NULL)
		args = "{}";
	job->id = field_copy(res, row, "job_id");
	job->token = field_copy(res, row, "token");
	job->attempt = field_copy(res, row, "attempt");
	job->kind = field_copy(res, row, "kind");
	job->key = field_copy(res, row, "key");
	job->started = now_usec();
	job->heartbeat_sent = sent;
	job->heartbeat_at = sent + heartbeat_interval(job);
	if (lease > 0)
		job_set_lease(job, sent, lease);
	child_init(&job->child);
	*jobs_end = job;
	jobs_end = &job->next;
	njobs++;
	job->phase = JOB_QUEUED;
	nqueued++;
	if (release)
		job_report(job, REPORT_RELEASE);
	else if (nqueued == 1 && nrunning < opt.concurrency && (lease == 0 || job->started < job->kept_until))
		job_begin(job, args, inputs);
	else
	{
		job->args = xstrdup(args);
		job->inputs = inputs ? xstrdup(inputs) : NULL;
	}
	return job;
}

/*
 * Begin with those that have waited longest, as far as there is room.  One
 * whose lease may have run out, as when the worker was cut off from the server,
 * may run elsewhere by now: it waits for a heartbeat to be accepted.
 */
static void
begin_queued(void)
{
	for (Job *job = jobs; job && nqueued > 0 && nrunning < opt.concurrency; job = job->next)
	{
		if (job->phase != JOB_QUEUED || now_usec() >= job->kept_until)
			continue;
		job_begin(job, job->args, job->inputs);
		free(job->args);
		free(job->inputs);
		job->args = job->inputs = NULL;
	}
}

/* Derive the outcome of a command that has ended, or is not begun with. */
static void
job_finish(Job *job)
{
	int			status = job->child.status;

	log_event(LOG_DEBUG, "job_ended", "job", job->id, "kind", job->kind, "attempt", job->attempt,
			  "ms", num((now_usec() - job->started) / USEC_PER_MSEC), (char *) NULL);
	switch (job->stop)
	{
		case STOP_LOST:
			set_phase(job, JOB_DONE);
			return;
		case STOP_RELEASE:
			job_report(job, REPORT_RELEASE);
			return;
		case STOP_CANCELLED:
			buf_puts(&job->error, "cancelled");
			job_report(job, REPORT_FAIL_FINALLY);
			return;
		case STOP_TIMEOUT:
			buf_printf(&job->error, "command timed out after %g s\n", (double) opt.timeout / USEC_PER_SEC);
			child_stderr(&job->child, &job->error);
			job_report(job, REPORT_FAIL);
			return;
		case STOP_OUTPUT:
			buf_printf(&job->error, "command wrote more than %d MiB to its standard output\n",
					   STDOUT_MAX / 1024 / 1024);
			child_stderr(&job->child, &job->error);
			job_report(job, REPORT_FAIL_FINALLY);
			return;
		case STOP_NONE:
			break;
	}

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
	{
		if (job->child.out.len > 0 && memchr(job->child.out.data, '\0', job->child.out.len))
		{
			buf_puts(&job->error, "the command's output is not JSON: it contains a NUL byte");
			job_report(job, REPORT_FAIL_FINALLY);
		}
		else
			job_report(job, REPORT_COMPLETE);
		return;
	}
	if (WIFSIGNALED(status))
		buf_printf(&job->error, "command was killed by signal %d (%s)\n",
				   WTERMSIG(status), strsignal(WTERMSIG(status)));
	else
		buf_printf(&job->error, "command exited with status %d\n", WEXITSTATUS(status));
	child_stderr(&job->child, &job->error);
	if (WIFEXITED(status) && WEXITSTATUS(status) == EXITCODE_FAIL)
		job_report(job, REPORT_FAIL_FINALLY);
	else
		job_report(job, REPORT_FAIL);
}

/* Begin to end a command before its time, or do not begin with it. */
static void
job_stop(Job *job, StopReason reason)
{
	static const char *const names[] = {
		"none", "too much output", "timeout", "cancelled", "worker is leaving", "lease lost"
	};

	if (job->phase > JOB_RUNNING || job->stop >= reason)
		return;

	/*
	 * What is stopped for a reason of its own keeps it when meanwhile its
	 * time is out or the worker leaves.
	 */
	if (job->stop != STOP_NONE && (reason == STOP_TIMEOUT || reason == STOP_RELEASE))
		return;
	job->stop = reason;
	log_event(LOG_INFO, "job_stopping", "job", job->id, "kind", job->kind,
			  "reason", names[reason], (char *) NULL);
	if (job->phase == JOB_QUEUED)
		job_finish(job);
	else
		child_stop(&job->child, now_usec());
}

/* Give back what was not begun with. */
void
jobs_release_queued(void)
{
	for (Job *job = jobs; job; job = job->next)
	{
		if (job->phase == JOB_QUEUED)
			job_stop(job, STOP_RELEASE);
	}
}

void
jobs_stop_all(StopReason reason)
{
	for (Job *job = jobs; job; job = job->next)
		job_stop(job, reason);
}

/*
 * heartbeats
 */

/*
 * A job whose command has ended keeps its lease too, as long as its report
 * is not accepted; but what becomes of it is then the report's to find out.
 */
static void
heartbeat_reply(Conn *conn, PGresult *res, void *arg)
{
	Job		   *job = arg;
	Usec		now = now_usec();

	(void) conn;
	job->heartbeat_busy = false;
	if (res == NULL)
	{
		job->heartbeat_at = now;
		return;
	}
	if (result_ok(res))
	{
		job->heartbeat_at = job->heartbeat_sent + heartbeat_interval(job);
		job->kept_until = job->heartbeat_sent + (job->lease > 0 ? job->lease : opt.heartbeat);
		if (PQntuples(res) == 1 && strcmp(PQgetvalue(res, 0, 0), "f") == 0)
			job_stop(job, STOP_CANCELLED);
	}
	else
	{
		char	   *msg = result_message(res);

		job->heartbeat_at = now + heartbeat_interval(job) / 2;
		if (job->phase <= JOB_RUNNING)
			log_event(LOG_WARNING, state_is_refusal(result_state(res)) ? "lease_lost" : "heartbeat_failed",
					  "job", job->id, "sqlstate", result_state(res), "error", msg, (char *) NULL);
		if (state_is_refusal(result_state(res)))
			job_stop(job, STOP_LOST);
		free(msg);
	}
}

static bool
heartbeat_wanted(const Job *job)
{
	return job->phase != JOB_DONE && job->stop != STOP_LOST &&
		!job->heartbeat_busy && !job->report_busy;
}

/* Send the heartbeat that is most overdue. */
bool
job_send_heartbeat(Conn *conn, Usec now)
{
	Job		   *due = NULL;
	const char *values[2];

	for (Job *job = jobs; job; job = job->next)
	{
		if (heartbeat_wanted(job) && job->heartbeat_at <= now &&
			(due == NULL || job->heartbeat_at < due->heartbeat_at))
			due = job;
	}
	if (due == NULL)
		return false;
	due->heartbeat_busy = true;
	due->heartbeat_sent = now;
	values[0] = due->id;
	values[1] = due->token;
	conn_call(conn, heartbeat_reply, due, 2, values, "SELECT @.job_heartbeat($1, $2)");
	return true;
}

/* The server is back: do not leave it in doubt about what runs. */
void
jobs_heartbeat_now(Usec now)
{
	for (Job *job = jobs; job; job = job->next)
	{
		if (job->phase <= JOB_RUNNING)
			note_time(&job->heartbeat_at, now);
	}
}

/*
 * for the loop
 */

void
jobs_io(void)
{
	for (Job *job = jobs; job; job = job->next)
	{
		if (job->phase != JOB_RUNNING)
			continue;
		child_io(&job->child);
		if (job->child.out.len > STDOUT_MAX)
			job_stop(job, STOP_OUTPUT);
	}
}

/* Do what is due, notice commands that have ended, and begin with others. */
void
jobs_tick(Usec now)
{
	for (Job *job = jobs; job; job = job->next)
	{
		if (job->phase != JOB_RUNNING)
			continue;
		if (now >= job->deadline)
			job_stop(job, STOP_TIMEOUT);
		child_tick(&job->child, now);
		if ((child_event || job->child.exited) && child_ended(&job->child, now))
			job_finish(job);
	}
	child_event = false;
	begin_queued();
}

/*
 * When something is due next.  What is due already waits for a connection,
 * whose readiness will wake the loop.
 */
Usec
jobs_timer(Usec now, bool sendable)
{
	Usec		timer = USEC_NEVER;

	for (Job *job = jobs; job; job = job->next)
	{
		if (job->phase == JOB_RUNNING)
		{
			if (job->stop == STOP_NONE)
				note_time(&timer, job->deadline);
			note_time(&timer, child_timer(&job->child));
		}
		if (!sendable)
			continue;
		if (heartbeat_wanted(job) && job->heartbeat_at > now)
			note_time(&timer, job->heartbeat_at);
		if (job->phase == JOB_REPORTING && !job->report_busy && job->report_at > now)
			note_time(&timer, job->report_at);
	}
	return timer;
}

static void
job_free(Job *job)
{
	child_free(&job->child);
	buf_free(&job->error);
	free(job->id);
	free(job->token);
	free(job->attempt);
	free(job->kind);
	free(job->key);
	free(job->args);
	free(job->inputs);
	free(job);
}

/* Let go of jobs that are over, unless a reply still refers to them. */
void
jobs_sweep(void)
{
	Job		  **link = &jobs;

	while (*link)
	{
		Job		   *job = *link;

		if (job->phase == JOB_DONE && !job->heartbeat_busy && !job->report_busy && !job->lease_asked)
		{
			*link = job->next;
			if (jobs_end == &job->next)
				jobs_end = link;
			njobs--;
			job_free(job);
		}
		else
			link = &job->next;
	}
}

void
jobs_free_all(void)
{
	while (jobs)
	{
		Job		   *job = jobs;

		jobs = job->next;
		job_free(job);
	}
	jobs_end = &jobs;
	njobs = nqueued = nrunning = 0;
}
