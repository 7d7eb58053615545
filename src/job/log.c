/*
 * log.c
 *	  job_log: what the worker of an attempt tells of it, line by line.
 *
 * A line is a row of job_log, which is found by its job.  Numbers from the
 * sequence keep the lines of a job in order, so its last row says how many
 * there are of the attempt.
 *
 * A line is fenced by the token, under the latest snapshot: who ended the attempt
 * and committed has closed its log.  The lease is not locked.  A line that is
 * written while somebody ends the attempt belongs to that attempt, whichever
 * commits first.  The job's row is locked FOR KEY SHARE, which only a removal
 * minds: so no line is committed of a job that is gone.
 */
#include "postgres.h"

#include "job/job.h"

int			jobq_max_log_lines = JOBQ_DEFAULT_MAX_LOG_LINES;

/* As stored */
static const char *const levels[] = {"debug", "info", "warning", "error"};

#define LEVEL_WARNING	2

/* A level by its name. */
static int16
find_level(const char *name)
{
	for (int i = 0; i < lengthof(levels); i++)
	{
		if (strcmp(levels[i], name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized level: \"%s\"", name),
			 errhint("Valid levels are \"debug\", \"info\", \"warning\" and \"error\".")));
}

PG_FUNCTION_INFO_V1(jobq_job_log);

/* job_log(job_id, token, message, level, data) */
Datum
jobq_job_log(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	JobqRow		new = {0};
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	int64		token = jobq_check_id(fcinfo, 1, "token");
	Datum		key = Int64GetDatum(id);
	char	   *message;
	int16		level;
	int32		attempt;
	int32		line = 1;
	TimestampTz at = jobq_wall();
	TupleTableSlot *lease;
	TupleTableSlot *last;

	if (PG_ARGISNULL(2))
		jobq_error_null("message");
	if (PG_ARGISNULL(3))
		jobq_error_null("level");
	message = jobq_cut_error(PG_GETARG_DATUM(2));
	level = find_level(text_to_cstring(PG_GETARG_TEXT_PP(3)));
	if (!PG_ARGISNULL(4))
		jobq_check_json(PG_GETARG_JSONB_P(4), NULL, "\"data\"", "jobq.max_result_size", jobq_max_result_size);

	jobq_enter(&call, "job_log()", true);
	lease = jobq_need_lease(&call, id, token);
	attempt = jobq_attr_int32(lease, STATE_ATTEMPT);
	last = jobq_find_last(&call, JOBQ_LOG, INDEX_KEY, 1, &key);
	if (last != NULL)
	{
		/* so that times alone order the lines of a session */
		at = Max(at, jobq_attr_int64(last, LOG_AT) + 1);
		if (jobq_attr_int32(last, LOG_ATTEMPT) == attempt)
			line = jobq_attr_int32(last, LOG_LINE) + 1;
	}
	if (line <= jobq_max_log_lines + 1)
	{
		bool		full = line == jobq_max_log_lines + 1;

		if (full)
		{
			message = psprintf("further lines are dropped, for there are jobq.max_log_lines, %d", jobq_max_log_lines);
			level = LEVEL_WARNING;
		}
		jobq_set(&new, LOG_JOB_ID, key);
		jobq_set(&new, LOG_SEQ, Int64GetDatum(jobq_nextval()));
		jobq_set(&new, LOG_AT, TimestampTzGetDatum(at));
		jobq_set(&new, LOG_ATTEMPT, Int32GetDatum(attempt));
		jobq_set(&new, LOG_LINE, Int32GetDatum(line));
		jobq_set(&new, LOG_LEVEL, Int16GetDatum(level));
		jobq_set_text(&new, LOG_MESSAGE, message);
		if (!full && !PG_ARGISNULL(4))
			jobq_set(&new, LOG_DATA, PG_GETARG_DATUM(4));
		jobq_insert(&call, JOBQ_LOG, &new);
	}
	jobq_slot_free(last);
	jobq_slot_free(lease);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}
