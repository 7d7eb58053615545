/*
 * job.c
 *		The jobs held: from the claim to the outcome.
 *
 * QUEUED -> RUNNING -> REPORTING -> DONE.  A job leaves QUEUED when there is
 * room to run it, RUNNING when nothing of its command runs any more, and
 * REPORTING by its report (report.c), or to LOCKED while somebody keeps it
 * locked.  A list for each, in the order in which they came there, so that jobs
 * that wait are in nobody's way.
 */
#include "worker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

JobList		jobs[JOB_PHASES];
int			njobs = 0;

#define BEGIN_MAX 20			/* commands, between which heartbeats are sent */

static int	begun = 0;			/* of those */

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
list_append(JobList *list, Job *job)
{
	job->prev = list->last;
	job->next = NULL;
	*(list->last ? &list->last->next : &list->first) = job;
	list->last = job;
	list->n++;
	list->bytes += job->bytes;
}

static void
list_prepend(JobList *list, Job *job)
{
	job->prev = NULL;
	job->next = list->first;
	*(list->first ? &list->first->prev : &list->last) = job;
	list->first = job;
	list->n++;
	list->bytes += job->bytes;
}

static void
list_remove(JobList *list, Job *job)
{
	*(job->prev ? &job->prev->next : &list->first) = job->next;
	*(job->next ? &job->next->prev : &list->last) = job->prev;
	list->n--;
	list->bytes -= job->bytes;
}

static void
set_phase(Job *job, JobPhase phase)
{
	list_remove(&jobs[job->phase], job);
	job->phase = phase;
	job->bytes = phase == JOB_LOCKED ? job->child.out.len + job->error.len : 0;
	list_append(&jobs[phase], job);
}

/* The job is over, or not ours any more. */
void
job_done(Job *job)
{
	set_phase(job, JOB_DONE);
	beat_pause(job);
	if (opt.once || opt.flow)
		claim_again();
	flow_changed();
}

/* The outcome is known: report it as soon as a connection is free. */
void
job_report(Job *job, Report report)
{
	set_phase(job, JOB_REPORTING);
	child_forget(&job->child);
	job->report = report;
	job->report_at = 0;
	while (job->error.len > 0 && job->error.data[job->error.len - 1] == '\n')
		job->error.data[--job->error.len] = '\0';
}

/*
 * Somebody keeps the job locked, which may be for long: let it wait apart from
 * the others.  What may be locked only by company goes before what was locked.
 */
void
job_locked(Job *job, Usec retry_at, bool first)
{
	bool		bounded = jobs_locked() == jobs[JOB_LOCKED].n;

	set_phase(job, JOB_LOCKED);
	job->report_at = retry_at;
	if (first)
	{
		list_remove(&jobs[JOB_LOCKED], job);
		list_prepend(&jobs[JOB_LOCKED], job);
	}
	if (bounded && jobs_locked() < jobs[JOB_LOCKED].n)
		log_event(LOG_WARNING, "many_locked", "jobs", num(jobs[JOB_LOCKED].n),
				  "bytes", num((int64_t) jobs[JOB_LOCKED].bytes), (char *) NULL);
}

/* How many jobs are locked and keep no places? */
int
jobs_locked(void)
{
	int			n = jobs[JOB_LOCKED].n;

	if (jobs[JOB_LOCKED].bytes > MAX_BYTES)
		return 0;
	return n < MAX_LOCKED ? n : MAX_LOCKED;
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

/* Is it this machine that has not enough of something, for whatever job it may be? */
static bool
is_shortage(int error)
{
	return error == EAGAIN || error == ENOMEM || error == EMFILE || error == ENFILE ||
		error == ENOSPC || error == EDQUOT;
}

/*
 * Start the command of a job's kind.  If that cannot be, the job fails, or is
 * left to others; where there is nothing to run, it succeeds.
 */
static void
start_command(Job *job, const char *args, const char *inputs)
{
	const ChildEnv env[] = {
		{"JOBQ_JOB_ID", job->id},
		{"JOBQ_TOKEN", job->token},
		{"JOBQ_ATTEMPT", job->attempt},
		{"JOBQ_KIND", job->kind},
		{"JOBQ_KEY", job->key},
		{"JOBQ_FLOW", job->flow}
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
		bool		shortage = is_shortage(errno);

		log_event(LOG_ERROR, "job_not_started", "job", job->id, "error", errbuf, (char *) NULL);
		buf_puts(&job->error, errbuf);
		if (shortage)
			claim_pause();
		job_report(job, shortage ? REPORT_RELEASE : REPORT_FAIL);
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
	begun += job->phase == JOB_RUNNING;
}

/* To start a process takes time, so a thousand are not started in one go. */
static bool
may_begin(void)
{
	return jobs[JOB_RUNNING].n < opt.concurrency && begun < BEGIN_MAX;
}

/*
 * Take a job that was claimed by a statement sent then, and start its command
 * if there is room and its lease is known; or, where the worker is leaving, give
 * it back.
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
	job->flow = field(res, row, "flow") ? field_copy(res, row, "flow") : NULL;
	job->started = now_usec();
	beat_start(job, sent);
	if (lease != LEASE_UNKNOWN)
		beat_set_lease(job, sent, lease);
	child_init(&job->child);
	job->bytes = strlen(args) + (inputs ? strlen(inputs) : 0);
	list_append(&jobs[JOB_QUEUED], job);
	njobs++;
	if (release)
		job_report(job, REPORT_RELEASE);
	else if (jobs[JOB_QUEUED].n == 1 && may_begin() && job->started < job->kept_until)
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
	Job		   *next;

	for (Job *job = jobs[JOB_QUEUED].first; job && may_begin(); job = next)
	{
		next = job->next;
		if (now_usec() >= job->kept_until)
			continue;
		job_begin(job, job->args, job->inputs);
		free(job->args);
		free(job->inputs);
		job->args = job->inputs = NULL;
	}
}

/* Make a JSON string of what a command wrote, without the newlines at its end. */
static void
quote_output(Buf *out)
{
	Buf			string = {0};

	if (out->len > 0)
		out->len = make_utf8(out->data, out->len);
	while (out->len > 0 && out->data[out->len - 1] == '\n')
		out->len--;
	if (out->len > 0)
	{
		out->data[out->len] = '\0';
		buf_json_string(&string, out->data);
	}
	buf_free(out);
	*out = string;
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
			job_done(job);
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
			buf_printf(&job->error, "command wrote more than %zu kB to its standard output\n",
					   max_output / 1024);
			child_stderr(&job->child, &job->error);
			job_report(job, REPORT_FAIL_FINALLY);
			return;
		case STOP_NONE:
			break;
	}

	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
	{
		if (opt.output == OUTPUT_TEXT)
			quote_output(&job->child.out);
		if (job->child.out.len > 0 && memchr(job->child.out.data, '\0', job->child.out.len))
		{
			buf_puts(&job->error, "the command's output is not JSON: it contains a NUL byte" NOT_JSON_HINT);
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
void
job_stop(Job *job, StopReason reason)
{
	static const char *const names[] = {
		"none", "too much output", "timeout", "cancelled", "worker is leaving", "lease lost"
	};

	if (job->phase > JOB_RUNNING || job->stop >= reason)
		return;

	/*
	 * What is stopped for a reason of its own keeps it when meanwhile its
	 * time is out or the worker leaves, and so does what has ended by itself.
	 */
	if ((reason == STOP_TIMEOUT || reason == STOP_RELEASE) &&
		(job->stop != STOP_NONE || (job->phase == JOB_RUNNING && child_exited(&job->child))))
		return;
	job->stop = reason;
	log_event(LOG_INFO, "job_stopping", "job", job->id, "kind", job->kind,
			  "reason", names[reason], (char *) NULL);
	if (job->phase == JOB_QUEUED)
		job_finish(job);
	else
		child_stop(&job->child, now_usec());
}

static void
stop_list(const JobList *list, StopReason reason)
{
	Job		   *next;

	for (Job *job = list->first; job; job = next)
	{
		next = job->next;
		job_stop(job, reason);
	}
}

/* Give back what was not begun with. */
void
jobs_release_queued(void)
{
	stop_list(&jobs[JOB_QUEUED], STOP_RELEASE);
}

void
jobs_stop_all(StopReason reason)
{
	stop_list(&jobs[JOB_QUEUED], reason);
	stop_list(&jobs[JOB_RUNNING], reason);
}

/*
 * several jobs in one statement
 */

Batch *
batch_create(int size)
{
	return xmalloc(offsetof(Batch, jobs) + (size_t) size * sizeof(Job *));
}

/* Their ids and tokens, as arrays. */
void
batch_arrays(const Batch *batch, Buf *ids, Buf *tokens)
{
	for (int i = 0; i < batch->njobs; i++)
	{
		buf_element(ids, batch->jobs[i]->id);
		buf_element(tokens, batch->jobs[i]->token);
	}
	buf_puts(ids, "}");
	buf_puts(tokens, "}");
}

/*
 * for the loop
 */

void
jobs_io(void)
{
	for (Job *job = jobs[JOB_RUNNING].first; job; job = job->next)
	{
		child_io(&job->child);
		if (job->child.out.len > max_output)
			job_stop(job, STOP_OUTPUT);
	}
}

/* Do what is due, notice commands that have ended, and begin with others. */
void
jobs_tick(Usec now)
{
	Job		   *next;

	for (Job *job = jobs[JOB_RUNNING].first; job; job = next)
	{
		next = job->next;
		if (now >= job->deadline)
			job_stop(job, STOP_TIMEOUT);
		child_tick(&job->child, now);
		if ((child_event || job->child.exited) && child_ended(&job->child, now))
			job_finish(job);
	}
	child_event = false;
	begun = 0;
	begin_queued();
}

/*
 * When something is due next.  What is due already waits for a connection,
 * whose readiness will wake the loop.
 */
Usec
jobs_timer(Usec now, bool sendable)
{
	Usec		timer = sendable ? beats_timer(now) : USEC_NEVER;

	if (sendable)
		note_time(&timer, log_timer(now));

	if (begun >= BEGIN_MAX)
		return now;
	for (Job *job = jobs[JOB_RUNNING].first; job; job = job->next)
	{
		if (job->stop == STOP_NONE)
			note_time(&timer, job->deadline);
		note_time(&timer, child_timer(&job->child));
	}
	for (Job *job = jobs[JOB_REPORTING].first; job && sendable; job = job->next)
	{
		if (!job->report_busy && job->report_at > now)
			note_time(&timer, job->report_at);
	}
	/* the first of these is due first */
	if (jobs[JOB_LOCKED].first && sendable && jobs[JOB_LOCKED].first->report_at > now)
		note_time(&timer, jobs[JOB_LOCKED].first->report_at);
	return timer;
}

static void
job_free(Job *job)
{
	list_remove(&jobs[job->phase], job);
	child_free(&job->child);
	buf_free(&job->error);
	free(job->id);
	free(job->token);
	free(job->attempt);
	free(job->kind);
	free(job->key);
	free(job->flow);
	free(job->args);
	free(job->inputs);
	free(job);
	njobs--;
}

/* Let go of jobs that are over, unless a reply still refers to them. */
void
jobs_sweep(void)
{
	Job		   *next;

	for (Job *job = jobs[JOB_DONE].first; job; job = next)
	{
		next = job->next;
		if (!job->heartbeat_busy && !job->report_busy && !job->log_busy && !job->lease_asked)
			job_free(job);
	}
}

void
jobs_free_all(void)
{
	for (int phase = 0; phase < JOB_PHASES; phase++)
	{
		while (jobs[phase].first)
			job_free(jobs[phase].first);
	}
}
