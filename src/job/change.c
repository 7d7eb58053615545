/*
 * change.c
 *	  Changing what was asked of a job that is not decided.
 *
 * The values are read and checked by the table of options, as those of a
 * submission.  The state row is written first, also where nothing in it changes,
 * so that whoever claims, ends or changes the job meanwhile meets it; then the row
 * in job, and the unique key, if the job goes to another queue.  Of a job that runs
 * only what its worker has not been given can be changed.
 */
#include "postgres.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/* May this be changed while the job runs? */
static bool
only_of_running(const JobqSubmission *s)
{
	for (int i = 0; i < JOB_NATTS; i++)
	{
		if (s->row.given[i] && i + 1 != JOB_PRIORITY && i + 1 != JOB_TAGS)
			return false;
	}
	return true;
}

/* What the changes mean for a job's place; true: it is another one. */
static bool
change_prefix(const JobqSubmission *s, TupleTableSlot *job, JobqPrefix *prefix)
{
	JobqPrefix	old = *prefix;

	if (s->row.given[JOB_PRIORITY - 1])
		prefix->priority = DatumGetInt16(s->row.values[JOB_PRIORITY - 1]);
	if (s->row.given[JOB_RUN_AT - 1])
		prefix->run_at = DatumGetTimestampTz(s->row.values[JOB_RUN_AT - 1]);
	if (s->row.given[JOB_EXPIRES_AT - 1])
		prefix->expires_at = DatumGetTimestampTz(s->row.values[JOB_EXPIRES_AT - 1]);
	prefix->lane = jobq_job_lane(job);
	if (s->queue != NULL)
	{
		prefix->queue_id = s->queue_id;
		if (!jobq_is_flow(job))
			prefix->lane = jobq_lane_of(s->queue, jobq_job_requires(job));
	}
	if (s->partition_id != 0)
		prefix->partition_id = s->partition_id;
	return prefix->priority != old.priority || prefix->run_at != old.run_at ||
		prefix->expires_at != old.expires_at || prefix->queue_id != old.queue_id ||
		prefix->partition_id != old.partition_id;
}

/*
 * Write the changes of a job that stands there.  False: its row changed, look
 * again.
 */
static bool
write_changes(JobqCall *call, const JobqSubmission *s, TupleTableSlot *job, JobqRow *new,
			  JobqTable table, TupleTableSlot *row, const JobqPrefix *prefix)
{
	int64		holder;

	if (!jobq_state_rewrite(call, table, row, prefix))
		return false;
	if (!jobq_update(call, JOBQ_JOB, job, new, LockWaitBlock))
		elog(ERROR, "row of job %lld has changed while its state was locked", (long long) prefix->job_id);
	if (s->queue != NULL && jobq_move_key(call, job, s->queue_id, &holder) == KEY_HELD)
		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 errmsg("unique key \"%s\" of queue \"%s\" is taken",
						jobq_attr_cstring(job, JOB_UNIQUE_KEY), s->queue),
				 errdetail("Job %lld has it.", (long long) holder)));
	if (s->row.given[JOB_EXPIRES_AT - 1] && prefix->attempt == 0 &&
		prefix->expires_at != jobq_attr_int64(row, STATE_EXPIRES_AT))
		jobq_note_expiry(call, prefix->job_id, prefix->expires_at);
	return true;
}

/*
 * The worker of a job that undoes, or repeats, another reads what that was given and
 * what it gave.  So who has others run it than the undo says must be allowed to read
 * that.
 */
static void
require_sight_of_undone(JobqCall *call, TupleTableSlot *job, const char *queue)
{
	int64		undone = jobq_attr_int64(job, JOB_UNDO_OF);

	if (undone == 0 || jobq_is_flow(job) || jobq_may_see(call, undone, false))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied to move job %lld to queue \"%s\"", (long long) jobq_attr_int64(job, JOB_ID), queue),
			 errdetail("It undoes a job whose args and result you may not read.")));
}

/* job_change: a JobqFoundAct, whose argument is the submission that it would be */
static bool
change_found(JobqCall *call, const JobqFound *found, void *arg, const char **problem, bool *changed)
{
	const JobqSubmission *s = arg;
	JobqRow		new;
	JobqPrefix	prefix;
	bool		differs;

	if (found->outcome > 0)
		jobq_refuse_state(problem, found->id, "change", jobq_outcome_name(found->outcome),
						  "It has ended. If job_retry opens it again, it can be changed in the same transaction; else submit another.");
	else if ((found->table == JOBQ_LEASE || found->table == JOBQ_FLOW) && !only_of_running(s))
		jobq_refuse_state(problem, found->id, "change", "running",
						  found->table == JOBQ_FLOW ? "Of a flow that runs only priority and tags can be changed; its members can be changed by themselves." :
						  "Of a job that runs only priority and tags can be changed; job_take_back takes it from its worker.");
	else
	{
		differs = jobq_apply_changes(s, found->job, &new);
		if (s->row.given[JOB_ARGS - 1] && !slot_attisnull(found->job, JOB_FLOW))
			jobq_check_references(call, jobq_attr_int64(found->job, JOB_FLOW), DatumGetJsonbP(new.values[JOB_ARGS - 1]), !slot_attisnull(found->job, JOB_UNDO_OF));
		if (s->queue != NULL)
		{
			jobq_require_privilege(call, s->queue_id, PRIV_SUBMIT, s->queue);
			require_sight_of_undone(call, found->job, s->queue);
			jobq_queue_register(call, s->queue, s->queue_id);
			jobq_lane_register(call, s->queue, s->queue_id, jobq_job_requires(found->job));
		}
		jobq_read_prefix(found->row, &prefix);
		if (change_prefix(s, found->job, &prefix) || differs)
			return *changed = write_changes(call, s, found->job, &new, found->table, found->row, &prefix);
	}
	return true;
}

/* The same: a JobqAct */
static bool
change(JobqCall *call, int64 id, void *arg, const char **problem)
{
	return jobq_act_on_found(call, id, true, change_found, arg, problem);
}

PG_FUNCTION_INFO_V1(jobq_job_change);

/*
 * job_change(job_id, priority, run_at, queue, args, tags, expires_at, max_attempts,
 * timeout, partition)
 */
Datum
jobq_job_change(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	JobqSubmission s;

	jobq_read_changes(fcinfo, &s);
	PG_RETURN_BOOL(jobq_act_on_one("job_change()", change, id, &s));
}
