/*
 * schedule.c
 *	  Making and removing schedules: rows of job_schedule.
 *
 * All is checked when a schedule is made, the job too, as job_submit_many or
 * job_submit_flow would check it, with some times put in.  It is stored settled
 * (template.c).  What can change later, as privileges do, is checked again by each
 * tick (tick.c).
 *
 * Who replaces a schedule owns it from then on, so nobody can have jobs submitted
 * in another's name.  A tick that is due when a schedule is replaced stays due.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"

#include "job/job.h"
#include "schedule/schedule.h"

static const char *const catch_up_names[] = {"none", "last", "all"};
static const char *const overlap_names[] = {"allow", "skip", "queue", "cancel"};

/* The number of a name. */
static int16
find_name(const char *name, const char *const *names, int n, const char *what, const char *hint)
{
	for (int i = 0; i < n; i++)
	{
		if (strcmp(names[i], name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized value for \"%s\": \"%s\"", what, name),
			 errhint("%s", hint)));
}

/* The queue of a stored schedule. */
static char *
queue_of(TupleTableSlot *row)
{
	bool		isnull;
	Jsonb	   *job = DatumGetJsonbP(slot_getattr(row, SCHEDULE_JOB, &isnull));
	JsonbValue *queue = getKeyJsonValueFromContainer(&job->root, "queue", 5, NULL);

	if (queue == NULL || queue->type != jbvString)
		return "default";
	return pnstrdup(queue->val.string.val, queue->val.string.len);
}

/*
 * Of the schedules that the caller may see: how many have a problem and, in *due,
 * when the one was due that has been due for longest; DT_NOEND: none is.
 */
int
jobq_schedule_problems(JobqCall *call, TimestampTz *due)
{
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_SCHEDULE, INDEX_SECOND, 0, NULL, NULL);
	TupleTableSlot *row;
	int			n = 0;

	*due = DT_NOEND;
	while ((row = jobq_scan_next(scan)) != NULL)
	{
		TimestampTz next = jobq_attr_or(row, SCHEDULE_NEXT_AT, DT_NOEND);
		bool		problem = !slot_attisnull(row, SCHEDULE_LAST_PROBLEM);
		bool		first = next <= call->now && *due == DT_NOEND;

		if ((problem || first) &&
			jobq_visible(call, jobq_queue_id(queue_of(row)), jobq_attr_oid(row, SCHEDULE_OWNER), InvalidOid))
		{
			n += problem ? 1 : 0;
			*due = first ? next : *due;
		}
	}
	jobq_scan_end(scan);
	return n;
}

/* The caller must own a schedule, or operate its queue, to change it. */
static void
require_change(JobqCall *call, TupleTableSlot *row)
{
	char	   *queue = queue_of(row);

	if (has_privs_of_role(GetUserId(), jobq_attr_oid(row, SCHEDULE_OWNER)) ||
		jobq_has_privilege(call, jobq_queue_id(queue), PRIV_OPERATE))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for schedule \"%s\"", jobq_attr_cstring(row, SCHEDULE_NAME)),
			 errdetail("Its owner may change it, and who has the privilege \"operate\" on queue \"%s\".", queue)));
}

/*
 * The row of a schedule that the caller may change, locked until the transaction
 * ends; NULL: there is none.  Waits for whoever is changing it; the background worker
 * passes over it meanwhile.
 */
TupleTableSlot *
jobq_lock_schedule(JobqCall *call, Datum name)
{
	for (;;)
	{
		TupleTableSlot *row = jobq_find(call, JOBQ_SCHEDULE, INDEX_KEY, 1, &name, NULL);

		if (row == NULL)
			return NULL;
		require_change(call, row);
		if (jobq_lock(call, JOBQ_SCHEDULE, row, LockTupleNoKeyExclusive, LockWaitBlock))
			return row;
		jobq_slot_free(row);
	}
}

/* Does a stored schedule have the same times as a new one? */
static bool
same_times(TupleTableSlot *row, const char *schedule, const char *timezone)
{
	return strcmp(jobq_attr_cstring(row, SCHEDULE_SCHEDULE), schedule) == 0 &&
		strcmp(jobq_attr_cstring(row, SCHEDULE_TIMEZONE), timezone) == 0;
}

/*
 * When a schedule that replaces another is due next.  The row of that one is
 * locked, so it has had all ticks before its next one.  False: never.
 */
static bool
next_time(TupleTableSlot *row, const char *schedule, const char *timezone, TimestampTz *next)
{
	TimestampTz now = jobq_wall();
	JobqScheduleSpec spec;

	if (row != NULL && !slot_attisnull(row, SCHEDULE_NEXT_AT))
	{
		*next = jobq_attr_int64(row, SCHEDULE_NEXT_AT);
		if (*next <= now || same_times(row, schedule, timezone))
			return true;
	}
	if (row != NULL)
		now = Max(now, jobq_attr_or(row, SCHEDULE_LAST_AT, now));
	jobq_schedule_parse(schedule, &spec);
	return jobq_schedule_next(&spec, jobq_schedule_zone(timezone, true), now, next);
}

/* Make a schedule, or replace the one of its name; *next is when it is due. */
static bool
store(JobqCall *call, JobqRow *new, const char *schedule, const char *timezone, TimestampTz *next)
{
	bool		paused = DatumGetBool(new->values[SCHEDULE_PAUSED - 1]);
	bool		has_next;
	bool		done;

	do
	{
		TupleTableSlot *row = jobq_find(call, JOBQ_SCHEDULE, INDEX_KEY, 1,
										&new->values[SCHEDULE_NAME - 1], NULL);

		done = true;
		if (row != NULL)
		{
			require_change(call, row);
			done = jobq_lock(call, JOBQ_SCHEDULE, row, LockTupleNoKeyExclusive, LockWaitBlock);
		}
		has_next = !paused && next_time(row, schedule, timezone, next);
		new->given[SCHEDULE_NEXT_AT - 1] = has_next;
		new->values[SCHEDULE_NEXT_AT - 1] = TimestampTzGetDatum(*next);
		if (row == NULL)
		{
			jobq_set(new, SCHEDULE_ID, Int64GetDatum(jobq_nextval()));
			done = jobq_insert_unless_there(call, JOBQ_SCHEDULE, new, true);
		}
		else if (done)
		{
			jobq_set(new, SCHEDULE_ID, Int64GetDatum(jobq_attr_int64(row, SCHEDULE_ID)));
			new->values[SCHEDULE_LAST_AT - 1] = Int64GetDatum(jobq_attr_int64(row, SCHEDULE_LAST_AT));
			new->given[SCHEDULE_LAST_AT - 1] = !slot_attisnull(row, SCHEDULE_LAST_AT);
			new->values[SCHEDULE_LAST_JOB - 1] = Int64GetDatum(jobq_attr_int64(row, SCHEDULE_LAST_JOB));
			new->given[SCHEDULE_LAST_JOB - 1] = !slot_attisnull(row, SCHEDULE_LAST_JOB);
			done = jobq_update(call, JOBQ_SCHEDULE, row, new, LockWaitBlock);
		}
		jobq_slot_free(row);
	} while (!done);
	if (has_next)
		jobq_announce_deadline(DEADLINE_TICK, *next);
	return has_next;
}

/* Read and check a job with times put in, as a tick will read it; these are now's. */
static void
read_trial(JobqSubmission *s, Jsonb *template)
{
	char	   *now = jobq_iso_time(jobq_wall());
	Jsonb	   *trial = jobq_put_times(template, now, now);

	if (jobq_is_flow_template(trial))
		jobq_check_flow(trial);
	jobq_read_template(s, trial);
}

PG_FUNCTION_INFO_V1(jobq_job_schedule);

/* job_schedule(name, schedule, job, timezone, catch_up, overlap, paused) */
Datum
jobq_job_schedule(PG_FUNCTION_ARGS)
{
	static const char *const arguments[] = {"name", "schedule", "job", "timezone", "catch_up", "overlap", "paused"};
	JobqCall	call;
	JobqScheduleSpec spec;
	JobqSubmission s;
	JobqRow		new = {0};
	HTAB	   *parents;
	TimestampTz next = 0;
	char	   *texts[6];
	bool		has_next;

	for (int i = 0; i < lengthof(arguments); i++)
	{
		if (PG_ARGISNULL(i))
			jobq_error_null(arguments[i]);
		if (i != 2 && i != 6)
			texts[i] = text_to_cstring(PG_GETARG_TEXT_PP(i));
	}
	jobq_check_name(texts[0], "name");
	jobq_schedule_parse(texts[1], &spec);
	(void) jobq_schedule_zone(texts[3], true);
	jobq_set(&new, SCHEDULE_CATCH_UP,
			 Int16GetDatum(find_name(texts[4], catch_up_names, lengthof(catch_up_names), "catch_up",
									 "Valid values are \"none\", \"last\" and \"all\".")));
	jobq_set(&new, SCHEDULE_OVERLAP,
			 Int16GetDatum(find_name(texts[5], overlap_names, lengthof(overlap_names), "overlap",
									 "Valid values are \"allow\", \"skip\", \"queue\" and \"cancel\".")));
	read_trial(&s, PG_GETARG_JSONB_P(2));

	jobq_set(&new, SCHEDULE_OWNER, ObjectIdGetDatum(GetUserId()));
	jobq_set(&new, SCHEDULE_PAUSED, PG_GETARG_DATUM(6));
	jobq_set(&new, SCHEDULE_NAME, PG_GETARG_DATUM(0));
	jobq_set(&new, SCHEDULE_SCHEDULE, PG_GETARG_DATUM(1));
	jobq_set(&new, SCHEDULE_TIMEZONE, PG_GETARG_DATUM(3));
	jobq_set(&new, SCHEDULE_JOB, JsonbPGetDatum(jobq_settle_template(PG_GETARG_JSONB_P(2))));

	jobq_enter(&call, "job_schedule()", true);
	jobq_require_privilege(&call, s.queue_id, PRIV_OPERATE, s.queue);
	if (s.flow != NULL)
		jobq_admit_flow(&call, &s);
	jobq_admit(&call, &s);
	parents = jobq_upstream_create();
	for (int i = 0; i < s.nupstream; i++)
		jobq_resolve_upstream(&call, parents, s.upstream[i], false);
	has_next = store(&call, &new, texts[1], texts[3], &next);
	jobq_close_call(&call);
	if (!has_next)
		PG_RETURN_NULL();
	PG_RETURN_TIMESTAMPTZ(next);
}

PG_FUNCTION_INFO_V1(jobq_job_unschedule);

/* job_unschedule(name) */
Datum
jobq_job_unschedule(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	Datum		key;
	bool		found;
	bool		done;

	if (PG_ARGISNULL(0))
		jobq_error_null("name");
	key = PG_GETARG_DATUM(0);
	jobq_enter(&call, "job_unschedule()", true);
	do
	{
		TupleTableSlot *row = jobq_find(&call, JOBQ_SCHEDULE, INDEX_KEY, 1, &key, NULL);

		done = found = row != NULL;
		if (found)
		{
			require_change(&call, row);
			done = jobq_delete(&call, JOBQ_SCHEDULE, row, LockWaitBlock);
		}
		jobq_slot_free(row);
	} while (found && !done);
	jobq_close_call(&call);
	PG_RETURN_BOOL(found);
}
