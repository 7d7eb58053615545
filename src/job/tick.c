/*
 * tick.c
 *	  The jobs of schedules, submitted by the background worker.
 *
 * A schedule's row says when its next job is due.  The worker locks it, submits
 * the job and writes the next time, in one transaction: so there is one job for
 * each tick, whatever becomes of the worker or the server, and a crash that loses
 * one loses both.  It does not wait for a row that somebody is just changing.
 *
 * A job is submitted as the schedule's owner, whose privileges are checked at each
 * tick.  Each tick is a subtransaction: an error that comes of the schedule or of
 * its owner is written into the row and logged, and the schedule goes on with its
 * next tick.  What goes away by itself, as a locked row or a full disk, fails the
 * whole transaction, and the tick is tried again.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

#include "job/job.h"
#include "schedule/schedule.h"

#define TICKS_AT_ONCE	10		/* of one schedule, in one transaction */
#define ON_TIME			USECS_PER_MINUTE	/* for catch_up "none" */
#define LOCKED_AGAIN	(200 * INT64CONST(1000))	/* somebody has its row */
#define BROKEN_AGAIN	USECS_PER_MINUTE	/* it cannot be read */

/* A schedule whose time has come */
typedef struct Run
{
	JobqRow		row;			/* in job_schedule */
	JobqScheduleSpec spec;
	pg_tz	   *zone;
	TimestampTz tick;
	int64		job;			/* of this tick; 0: none */
} Run;

/* A column of the row as a C string. */
static char *
text_of(Run *run, int attno)
{
	return TextDatumGetCString(run->row.values[attno - 1]);
}

/* Read when it is due. */
static void
read_schedule(void *arg)
{
	Run		   *run = arg;

	jobq_schedule_parse(text_of(run, SCHEDULE_SCHEDULE), &run->spec);
	run->zone = jobq_schedule_zone(text_of(run, SCHEDULE_TIMEZONE), false);
}

/*
 * Submit the job of a tick, and do what overlap says with the one before it, if that
 * goes on, or never began and one before it goes on: not if there is none, since
 * another job has its key.
 */
static void
submit_after_last(JobqCall *call, Run *run, JobqSubmission *s)
{
	JobqOverlap overlap = DatumGetInt16(run->row.values[SCHEDULE_OVERLAP - 1]);
	int64		last_job = DatumGetInt64(run->row.values[SCHEDULE_LAST_JOB - 1]);
	bool		overlaps;
	const char *problem = NULL;

	if (overlap != OVERLAP_ALLOW && last_job != 0)
		jobq_start_after(call, s, last_job);
	overlaps = s->nafter > 0;
	if (overlaps && overlap == OVERLAP_SKIP)
		return;
	jobq_submit_alone(call, s);
	if (s->dropped)
		return;
	run->job = s->id;
	if (overlaps && overlap == OVERLAP_CANCEL)
	{
		jobq_advance();
		jobq_cancel(call, last_job, "superseded by the next job of its schedule", true, &problem);
	}
}

/* The job of a tick, with its times put in. */
static Jsonb *
template_of(const Run *run)
{
	Jsonb	   *template = DatumGetJsonbP(run->row.values[SCHEDULE_JOB - 1]);
	TimestampTz previous;
	bool		has_previous = jobq_uses_time(template, TIME_PREVIOUS) &&
	jobq_schedule_previous(&run->spec, run->zone, run->tick, &previous);

	return jobq_put_times(template, jobq_iso_time(run->tick), has_previous ? jobq_iso_time(previous) : NULL);
}

/* Submit the job of a tick, as the owner of the schedule. */
static void
submit_tick(void *arg)
{
	Run		   *run = arg;
	Oid			owner = DatumGetObjectId(run->row.values[SCHEDULE_OWNER - 1]);
	JobqSubmission s;
	JobqCall	call;
	Oid			user;
	int			context;
	TimestampTz run_at = run->tick;

	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(owner)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the owner of the schedule does not exist any more"),
				 errhint("Call job_schedule again as another role.")));
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(owner, context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	jobq_open_call(&call);
	jobq_read_template(&s, template_of(run));
	if (s.row.given[SUBMISSION_RUN_IN - 1])
		run_at += DatumGetInt64(s.row.values[SUBMISSION_RUN_IN - 1]);
	jobq_set(&s.row, JOB_RUN_AT, TimestampTzGetDatum(jobq_check_time(run_at, "run_in")));
	jobq_require_privilege(&call, s.queue_id, PRIV_OPERATE, s.queue);
	jobq_require_privilege(&call, s.queue_id, PRIV_SUBMIT, s.queue);
	if (s.flow != NULL)
		jobq_admit_flow(&call, &s);
	jobq_set(&s.row, JOB_SCHEDULE_ID, run->row.values[SCHEDULE_ID - 1]);
	jobq_set(&s.row, JOB_SCHEDULED_FOR, TimestampTzGetDatum(run->tick));
	run->job = 0;
	submit_after_last(&call, run, &s);
	jobq_close_call(&call);
	SetUserIdAndSecContext(user, context);
}

/*
 * Note in the row, and log, how something went that comes of the schedule; NULL:
 * well.  If again, it was tried before: what the row says already is not logged.
 */
static void
note_problem(Run *run, ErrorData *error, bool again)
{
	char	   *problem;

	if (error == NULL)
	{
		run->row.given[SCHEDULE_LAST_PROBLEM - 1] = false;
		return;
	}
	if (jobq_error_passes(error))
		ReThrowError(error);
	problem = error->detail == NULL ? error->message :
		psprintf("%s: %s", error->message, error->detail);
	if (again && run->row.given[SCHEDULE_LAST_PROBLEM - 1] &&
		strcmp(text_of(run, SCHEDULE_LAST_PROBLEM), problem) == 0)
		return;
	jobq_set_text(&run->row, SCHEDULE_LAST_PROBLEM, problem);
	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 errmsg("jobq worker could not submit the job of schedule \"%s\" for %s: %s",
					text_of(run, SCHEDULE_NAME), timestamptz_to_str(run->tick), error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0));
}

/* Do what is due of a tick. */
static void
run_tick(Run *run)
{
	ErrorData  *error = jobq_try(submit_tick, run);

	note_problem(run, error, false);
	if (error != NULL || run->job == 0)
		return;
	jobq_set(&run->row, SCHEDULE_LAST_AT, TimestampTzGetDatum(run->tick));
	jobq_set(&run->row, SCHEDULE_LAST_JOB, Int64GetDatum(run->job));
}

/*
 * Submit what is due of a schedule whose row is locked, at most so many ticks, and
 * set when it is due next.
 */
static void
run_ticks(JobqCall *call, Run *run)
{
	JobqCatchUp catch_up = DatumGetInt16(run->row.values[SCHEDULE_CATCH_UP - 1]);
	bool		more = true;

	/* of what was missed only the last counts */
	if (catch_up != CATCH_UP_ALL)
		run->tick = jobq_schedule_last(&run->spec, run->zone, run->tick, call->now);
	for (int i = 0; i < TICKS_AT_ONCE && more && run->tick <= call->now; i++)
	{
		if (catch_up != CATCH_UP_NONE || call->now - run->tick <= ON_TIME)
			run_tick(run);
		more = jobq_schedule_next(&run->spec, run->zone, run->tick, &run->tick);
	}
	run->row.given[SCHEDULE_NEXT_AT - 1] = more;
	run->row.values[SCHEDULE_NEXT_AT - 1] = TimestampTzGetDatum(run->tick);
	if (more)
		jobq_announce_deadline(DEADLINE_TICK, run->tick);
}

/*
 * For the background worker: a schedule is due.  False: somebody has its row
 * locked, or it cannot be read, try again later.
 */
bool
jobq_run_schedule(JobqCall *call, int64 schedule_id, TimestampTz deadline, TimestampTz *retry_at)
{
	Datum		keys[2] = {TimestampTzGetDatum(deadline), Int64GetDatum(schedule_id)};
	TupleTableSlot *row = jobq_find(call, JOBQ_SCHEDULE, INDEX_SECOND, 2, keys, NULL);
	Run			run;
	ErrorData  *error;

	if (row == NULL)
		return true;			/* changed or removed since */
	if (!jobq_lock(call, JOBQ_SCHEDULE, row, LockTupleNoKeyExclusive, LockWaitSkip))
	{
		jobq_slot_free(row);
		*retry_at = jobq_steady() + LOCKED_AGAIN;
		return false;
	}
	memset(&run.row, 0, sizeof(run.row));
	jobq_values(row, &run.row);
	run.tick = deadline;
	error = jobq_try(read_schedule, &run);
	if (error == NULL)
		run_ticks(call, &run);
	else
	{
		note_problem(&run, error, true);
		*retry_at = jobq_steady() + BROKEN_AGAIN;
	}
	(void) jobq_update(call, JOBQ_SCHEDULE, row, &run.row, LockWaitBlock);
	jobq_slot_free(row);
	return error == NULL;
}
