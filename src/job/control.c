/*
 * control.c
 *	  What others than its worker do to a job: look, hold, take back.
 *
 * Each finds the job's state row, changes it, and, if somebody else moved it
 * meanwhile, looks again.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "job/job.h"

#define TAKE_BACK_TRIES	20		/* to get a lease that is locked */
#define TAKE_BACK_DELAY	5000	/* between them, microseconds */

/*
 * Where a job stands: its outcome (then *state is NULL), or 0 with its state
 * row.  *job is its row in job.  -1: there is no such job, and *problem says so.
 */
int
jobq_look(JobqCall *call, int64 id, TupleTableSlot **job, JobqTable *table, TupleTableSlot **state,
		  const char **problem)
{
	*table = jobq_find_state(call, id, job, state);
	if (*job == NULL)
	{
		jobq_refuse_no_such_job(problem, id);
		return -1;
	}
	if (slot_attisnull(*job, JOB_OUTCOME) && *state == NULL)
	{
		jobq_refuse(problem, ERRCODE_DATA_CORRUPTED,
					psprintf("job %lld has lost its state", (long long) id),
					"Rows of the tables of extension jobq were changed by hand.");
		return -1;
	}
	return jobq_attr_int16(*job, JOB_OUTCOME);
}

/* The same for one who wants to act upon it; -1 also where the caller may not. */
int
jobq_look_to_act(JobqCall *call, int64 id, bool or_submitter, TupleTableSlot **job,
				 JobqTable *table, TupleTableSlot **state, const char **problem)
{
	int			outcome = jobq_look(call, id, job, table, state, problem);

	if (outcome >= 0 && !jobq_may_operate(call, *job, or_submitter, problem))
		return -1;
	return outcome;
}

/* Look, and act, until the job did not change between the two.  Returns whether the act changed it. */
bool
jobq_act_on_found(JobqCall *call, int64 id, bool or_submitter, JobqFoundAct act, void *arg,
				  const char **problem)
{
	bool		changed = false;
	bool		done = false;

	while (!done)
	{
		JobqFound	found = {.id = id};

		found.outcome = jobq_look_to_act(call, id, or_submitter, &found.job, &found.table, &found.row, problem);
		done = found.outcome < 0 || act(call, &found, arg, problem, &changed);
		jobq_slot_free(found.row);
		jobq_slot_free(found.job);
	}
	return changed;
}

PG_FUNCTION_INFO_V1(jobq_job_take_back);

/*
 * job_take_back(job_id, reason): end the attempt of a running job as lost.
 *
 * The deletion of the lease fences it.  A worker that ends the attempt, or writes
 * a heartbeat into the row, waits for us and then finds no lease; the entry in
 * shared memory goes when this commits, and a heartbeat that it answers until
 * then was in time.  A worker that has done so, and is not committed, is given a
 * moment and not waited for: it may wait for a lease that this transaction took.
 */
Datum
jobq_job_take_back(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	char	   *reason = PG_ARGISNULL(1) ? "taken back" : jobq_cut_error(PG_GETARG_DATUM(1));
	JobqCall	call;
	bool		changed = false;
	bool		done = false;

	jobq_enter(&call, "job_take_back()", true);
	for (int tries = 1; !done; tries++)
	{
		TupleTableSlot *job;
		TupleTableSlot *row;
		JobqTable	table;
		int			outcome = jobq_look_to_act(&call, id, false, &job, &table, &row, NULL);

		if (outcome != 0 || table != JOBQ_LEASE)
			done = true;
		else if (jobq_state_leave(&call, JOBQ_LEASE, row, LEAVE_TRY))
		{
			JobqCascade *cascade = jobq_cascade_create(&call);

			jobq_end_attempt(cascade, row, ATTEMPT_LOST, reason, true, -1);
			jobq_cascade_run(cascade, NULL, NULL);
			done = changed = true;
		}
		else if (tries < TAKE_BACK_TRIES)
			pg_usleep(TAKE_BACK_DELAY);
		else
			done = true;
		jobq_slot_free(row);
		jobq_slot_free(job);
	}
	jobq_close_call(&call);
	PG_RETURN_BOOL(changed);
}

/* Set or clear held of a waiting job; false: its row changed, look again. */
static bool
set_held(JobqCall *call, TupleTableSlot *waiting, bool held)
{
	JobqRow		new;

	jobq_values(waiting, &new);
	jobq_set(&new, WAITING_HELD, BoolGetDatum(held));
	/* where it waits for its flow it asks that again, afterwards */
	if (held)
		new.given[WAITING_LIMITED_BY - 1] = false;
	return jobq_update(call, JOBQ_WAITING, waiting, &new, LockWaitBlock);
}

/* Hold a job that is not running; false: it moved, look again. */
static bool
hold(JobqCall *call, TupleTableSlot *job, JobqTable table, TupleTableSlot *state)
{
	JobqPrefix	prefix;

	if (table == JOBQ_WAITING)
		return set_held(call, state, true);
	if (!jobq_state_leave(call, table, state, LEAVE_WAIT))
		return false;
	jobq_read_prefix(state, &prefix);
	prefix.lane = jobq_job_lane(job);
	jobq_enter_waiting(call, &prefix, NULL, jobq_attr_int16(job, JOB_RULE),
					   jobq_attr_int32(job, JOB_QUORUM), 0, true);
	return true;
}

/* Let a held job go; false: it moved, look again. */
static bool
unhold(JobqCall *call, TupleTableSlot *waiting)
{
	JobqPrefix	prefix;

	jobq_read_waiting(waiting, &prefix);
	if (prefix.manual || jobq_attr_bool(waiting, WAITING_OPEN))
		return set_held(call, waiting, false);
	if (!jobq_state_leave(call, JOBQ_WAITING, waiting, LEAVE_WAIT))
		return false;
	jobq_enter_next(call, &prefix, 0);
	return true;
}

/* job_hold and job_unhold: a JobqFoundAct */
static bool
change_hold_found(JobqCall *call, const JobqFound *found, void *arg, const char **problem, bool *changed)
{
	bool		want = *(bool *) arg;
	const char *act = want ? "hold" : "unhold";
	bool		held = found->table == JOBQ_WAITING && jobq_attr_bool(found->row, WAITING_HELD);

	if (found->outcome > 0)
		jobq_refuse_state(problem, found->id, act, jobq_outcome_name(found->outcome), NULL);
	else if (want && found->table == JOBQ_FLOW)
		jobq_refuse_state(problem, found->id, act, "running", "It is a flow that was started; hold those of its members that have not begun.");
	else if (want && found->table == JOBQ_LEASE)
		jobq_refuse_state(problem, found->id, act, "running", "Use job_cancel to ask its worker to end it.");
	else if (held != want)
		return *changed = want ? hold(call, found->job, found->table, found->row) : unhold(call, found->row);
	return true;
}

/* The same: a JobqAct */
static bool
change_hold(JobqCall *call, int64 id, void *arg, const char **problem)
{
	return jobq_act_on_found(call, id, true, change_hold_found, arg, problem);
}

static bool want_held = true;
static bool want_free = false;

PG_FUNCTION_INFO_V1(jobq_job_hold);

/* job_hold(job_id) */
Datum
jobq_job_hold(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(jobq_act_on_one("job_hold()", change_hold, jobq_check_id(fcinfo, 0, "job_id"), &want_held));
}

PG_FUNCTION_INFO_V1(jobq_job_unhold);

/* job_unhold(job_id) */
Datum
jobq_job_unhold(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(jobq_act_on_one("job_unhold()", change_hold, jobq_check_id(fcinfo, 0, "job_id"), &want_free));
}

PG_FUNCTION_INFO_V1(jobq_job_hold_many);

/* job_hold_many(job_ids) */
Datum
jobq_job_hold_many(PG_FUNCTION_ARGS)
{
	return jobq_act_on_many(fcinfo, "job_hold_many()", change_hold, &want_held);
}

PG_FUNCTION_INFO_V1(jobq_job_unhold_many);

/* job_unhold_many(job_ids) */
Datum
jobq_job_unhold_many(PG_FUNCTION_ARGS)
{
	return jobq_act_on_many(fcinfo, "job_unhold_many()", change_hold, &want_free);
}

/*
 * The name of a job's state and, if it succeeded, its result, copied to the
 * current memory context.
 */
const char *
jobq_job_state(JobqCall *call, int64 id, bool *decided, Datum *result, bool *isnull)
{
	TupleTableSlot *job;
	TupleTableSlot *state;
	JobqTable	table;
	int			outcome = jobq_look(call, id, &job, &table, &state, NULL);

	*decided = outcome != 0;
	*result = (Datum) 0;
	*isnull = true;
	if (outcome == OUTCOME_SUCCEEDED)
	{
		*result = slot_getattr(job, JOB_RESULT, isnull);
		if (!*isnull)
			*result = PointerGetDatum(PG_DETOAST_DATUM_COPY(*result));
	}
	jobq_slot_free(state);
	jobq_slot_free(job);
	return outcome != 0 ? jobq_outcome_name(outcome) : jobq_state_name(table);
}

PG_FUNCTION_INFO_V1(jobq_job_result);

/* job_result(job_id) */
Datum
jobq_job_result(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	JobqCall	call;
	Datum		result;
	bool		decided;
	bool		isnull;

	jobq_enter(&call, "job_result()", false);
	jobq_require_visible(&call, id);
	jobq_job_state(&call, id, &decided, &result, &isnull);
	jobq_close_call(&call);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}
