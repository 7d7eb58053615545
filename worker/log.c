/*
 * log.c
 *		--log: what commands write to standard error goes to the logs of their
 *		attempts, line by line.
 *
 * What was read and not sent yet is kept with the command, up to LOG_KEEP bytes;
 * beyond that it is dropped, with a line that says so.  A running command's lines
 * are sent LOG_INTERVAL after the first at the latest, many in one statement,
 * what is left when it has ended before its report, while the token is good.
 * So a report waits for them, but not for ever: where the server refuses a
 * statement, its lines are dropped, and where it refuses the token, all are.
 * One whose answer was lost is repeated, so its lines may be there twice.
 *
 * Claims and reports of other jobs do not wait for them: only one statement with
 * lines is under way at a time, it is short, and the loop gives everything else
 * a turn before the next.  When a log is full, nothing more of its attempt is kept.
 */
#include "worker.h"

#include <stdlib.h>
#include <string.h>

#define LOG_KEEP (1024 * 1024)
#define LOG_INTERVAL (200 * USEC_PER_MSEC)
#define LOG_BATCH (256 * 1024)	/* bytes in one statement */
#define LOG_LINES 1000			/* lines in one statement */
#define LOG_LINE (16 * 1024)	/* a longer line is cut in pieces */

static bool sending = false;	/* a statement is under way */

/* Nothing more of what a command writes is sent. */
static void
log_end(Child *child)
{
	child->log_off = true;
	buf_free(&child->log);
}

/* Keep what a command wrote to standard error. */
void
log_keep(Child *child, const char *data, size_t len)
{
	size_t		room = LOG_KEEP - child->log.len;

	if (!opt.log || child->log_off)
		return;
	if (child->log_from == 0)
		child->log_from = now_usec();
	if (len > room)
	{
		child->log_dropped = true;
		len = room;
	}
	buf_append(&child->log, data, len);
}

/* The end of the line, or piece of one, that begins at this place; 0: it is not complete. */
static size_t
line_end(const Buf *log, size_t at, bool ended)
{
	size_t		left = log->len - at;
	const char *newline = memchr(log->data + at, '\n', left < LOG_LINE ? left : LOG_LINE);

	if (newline)
		return (size_t) (newline - log->data) + 1;
	if (left >= LOG_LINE)
		return at + LOG_LINE;
	return ended && left > 0 ? log->len : 0;
}

/* Is there anything to be sent before the report of a job? */
bool
log_pending(const Job *job)
{
	return job->log_busy || (!job->child.log_off && (job->child.log.len > 0 || job->child.log_dropped));
}

/* When the lines of a job are to be sent. */
static Usec
log_due(const Job *job)
{
	const Child *child = &job->child;
	bool		ended = job->phase != JOB_RUNNING;

	if (job->log_busy || child->log_off || job->log_retry_at == USEC_NEVER)
		return USEC_NEVER;
	if (child->log.len == 0 || line_end(&child->log, 0, ended) == 0)
		return ended && child->log_dropped ? job->log_retry_at : USEC_NEVER;
	if (ended || child->log.len >= LOG_BATCH)
		return job->log_retry_at;
	return child->log_from + LOG_INTERVAL > job->log_retry_at ? child->log_from + LOG_INTERVAL : job->log_retry_at;
}

/* Remove what was sent. */
static void
log_sent(Child *child, size_t len)
{
	memmove(child->log.data, child->log.data + len, child->log.len - len);
	child->log.len -= len;
	child->log_from = child->log.len > 0 ? now_usec() : 0;
}

static void
log_reply(Conn *conn, PGresult *res, void *arg)
{
	Job		   *job = arg;
	Child	   *child = &job->child;

	(void) conn;
	job->log_busy = sending = false;
	if (res == NULL)
	{
		job->log_retry_at = now_usec() + RETRY_LOG;
		return;
	}
	if (!result_ok(res) && strcmp(result_state(res), "22P05") == 0 && !child->log_ascii)
	{
		/*
		 * a character that the database's encoding lacks: send them without
		 * such
		 */
		child->log_ascii = true;
		return;
	}
	if (!result_ok(res))
	{
		char	   *msg = result_message(res);

		log_event(LOG_WARNING, "log_refused", "job", job->id, "sqlstate", result_state(res),
				  "error", msg, (char *) NULL);
		free(msg);
		if (state_is_refusal(result_state(res)))
		{
			log_end(child);
			return;
		}
	}
	else if ((child->log_lines += atoi(PQgetvalue(res, 0, 0))) > atoi(PQgetvalue(res, 0, 1)))
	{
		log_end(child);			/* the last line says that it is full */
		return;
	}
	if (job->log_sending == 0)
		child->log_dropped = false;
	log_sent(child, job->log_sending);
}

/* The job whose lines have been due longest. */
static Job *
most_overdue(Usec now, Usec *due)
{
	static const JobPhase phases[] = {JOB_RUNNING, JOB_REPORTING};
	Job		   *first = NULL;

	*due = USEC_NEVER;
	for (int i = 0; i < 2; i++)
	{
		for (Job *job = jobs[phases[i]].first; job; job = job->next)
		{
			Usec		at = log_due(job);

			if (at < *due)
			{
				*due = at;
				first = job;
			}
		}
	}
	return *due <= now ? first : NULL;
}

/* Send the lines that have been due longest. */
bool
log_send(Conn *conn, Usec now)
{
	Usec		due;
	Job		   *job = opt.log ? most_overdue(now, &due) : NULL;
	Buf			lines = {0};
	size_t		at = 0;
	size_t		end;
	int			n = 0;
	const char *values[3];

	if (job == NULL || sending)
		return false;
	while (at < LOG_BATCH && n++ < LOG_LINES && job->child.log.len > 0 &&
		   (end = line_end(&job->child.log, at, job->phase != JOB_RUNNING)) != 0)
	{
		Buf			line = {0};

		buf_append(&line, job->child.log.data + at, end - at);
		if (line.data[line.len - 1] == '\n')
			line.len--;
		line.data[make_utf8(line.data, line.len)] = '\0';
		if (job->child.log_ascii)
			make_ascii(line.data);
		buf_element(&lines, line.data);
		buf_free(&line);
		at = end;
	}
	if (at == 0)
		buf_element(&lines, "jobq-worker: lines were dropped, for there were more than it could keep");
	buf_puts(&lines, "}");
	job->log_sending = at;
	job->log_busy = sending = true;
	values[0] = job->id;
	values[1] = job->token;
	values[2] = lines.data;
	conn_call(conn, log_reply, job, 3, values,
			  "SELECT count(@.job_log($1, $2, m)), pg_catalog.current_setting('jobq.max_log_lines') "
			  "FROM unnest($3::pg_catalog.text[]) AS l (m)");
	buf_free(&lines);
	return true;
}

/* When the next are due, unless that is now. */
Usec
log_timer(Usec now)
{
	Usec		due;

	if (!opt.log || sending)
		return USEC_NEVER;
	(void) most_overdue(now, &due);
	return due > now ? due : USEC_NEVER;
}
