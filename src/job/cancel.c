/*
 * cancel.c
 *	  Cancellation, by request or because a job has expired.
 *
 * A running job is not taken from its worker: it is asked to stop, which the next
 * heartbeat tells.  Such a request is a row of its own, job_cancel_request, which
 * locks nothing that others wait for.  The background worker writes it into the
 * lease or, if the attempt has ended meanwhile without deciding the job, cancels
 * it.  A job that does not run, and whose row somebody has locked, is cancelled in
 * the same way: by waiting there, two transactions that cancel and complete
 * several jobs each could end in a deadlock.
 */
#include "postgres.h"

#include "job/job.h"

/* Decide a job, whose row of a state was deleted, as cancelled, and those downstream. */
static void
decide_cancelled(JobqCall *call, TupleTableSlot *row, const char *error)
{
	JobqCascade *cascade = jobq_cascade_create(call);
	JobqDecision decision = {.outcome = OUTCOME_CANCELLED,.attempt_outcome = -1,.error = error};
	JobqPrefix	prefix;

	jobq_read_prefix(row, &prefix);
	jobq_decide(cascade, &prefix, &decision);
	jobq_cascade_run(cascade, NULL, NULL);
}

/* Leave the state of a job that is to be decided, if nobody has locked what that takes. */
static bool
try_to_leave(JobqCall *call, JobqTable table, TupleTableSlot *row, TupleTableSlot *job)
{
	return (slot_attisnull(job, JOB_UNIQUE_KEY) ||
			(jobq_lock(call, table, row, LockTupleExclusive, LockWaitSkip) &&
			 jobq_lock_superseded(call, job, LockWaitSkip))) &&
		jobq_state_leave(call, table, row, LEAVE_TRY);
}

/*
 * Was it asked, by a request that nobody has acted on yet, that a job be
 * cancelled?  *reason is why, if it says so.
 */
bool
jobq_cancel_requested(JobqCall *call, int64 job_id, int generation, char **reason)
{
	Datum		key = Int64GetDatum(job_id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_CANCEL_REQUEST, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *request;
	bool		found = false;

	while (!found && (request = jobq_scan_next(scan)) != NULL)
	{
		found = jobq_attr_int32(request, CANCEL_GENERATION) == generation && !jobq_attr_bool(request, CANCEL_UNLESS_BEGUN);
		if (found && !slot_attisnull(request, CANCEL_REASON))
			*reason = jobq_attr_cstring(request, CANCEL_REASON);
	}
	jobq_scan_end(scan);
	return found;
}

/*
 * Ask for a job to be cancelled, without a lock that others could wait for; or, if
 * its attempt has begun, not to be tried again after that (unless_begun).
 */
void
jobq_request_cancel(JobqCall *call, int64 id, int32 generation, bool unless_begun, const char *reason)
{
	JobqRow		new = {0};
	int64		seq = jobq_nextval();

	jobq_set(&new, CANCEL_SEQ, Int64GetDatum(seq));
	jobq_set(&new, CANCEL_JOB_ID, Int64GetDatum(id));
	jobq_set(&new, CANCEL_GENERATION, Int32GetDatum(generation));
	jobq_set(&new, CANCEL_UNLESS_BEGUN, BoolGetDatum(unless_begun));
	jobq_set_text(&new, CANCEL_REASON, reason);
	jobq_insert(call, JOBQ_CANCEL_REQUEST, &new);
	jobq_announce_deadline(DEADLINE_CANCEL, seq);
}

/* The same, given its row in job. */
static void
request_cancel(JobqCall *call, TupleTableSlot *job, const char *reason)
{
	jobq_request_cancel(call, jobq_attr_int64(job, JOB_ID), jobq_attr_int32(job, JOB_GENERATION), false, reason);
}

/* Tell the worker of a running job to end it; false: the row is locked, or changed. */
static bool
tell_worker(JobqCall *call, TupleTableSlot *lease, TupleTableSlot *request)
{
	JobqRow		new;
	bool		isnull;
	Datum		reason = slot_getattr(request, CANCEL_REASON, &isnull);

	jobq_values(lease, &new);
	jobq_set(&new, LEASE_CANCEL_REQUESTED, BoolGetDatum(true));
	if (!isnull)
		jobq_set(&new, LEASE_CANCEL_REASON, reason);
	if (!jobq_update(call, JOBQ_LEASE, lease, &new, LockWaitSkip))
		return false;
	jobq_announce_lease(LEASE_CANCEL, jobq_attr_int64(lease, STATE_JOB_ID),
						jobq_attr_int64(lease, LEASE_TOKEN), 0);
	return true;
}

/* The attempt of a running job is its last; false: the row is locked, or changed. */
static bool
make_last(JobqCall *call, TupleTableSlot *lease)
{
	JobqRow		new;

	jobq_values(lease, &new);
	jobq_set(&new, LEASE_LAST, BoolGetDatum(true));
	return jobq_update(call, JOBQ_LEASE, lease, &new, LockWaitSkip);
}

/*
 * For the background worker: act on a request to cancel a job, in whatever state
 * it is now, unless it was opened again since.  False: somebody has it locked,
 * try again later.
 */
bool
jobq_act_on_cancel_request(JobqCall *call, int64 seq, TimestampTz deadline, TimestampTz *retry_at)
{
	TupleTableSlot *request = jobq_find_id(call, JOBQ_CANCEL_REQUEST, seq);
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTable	table;
	bool		ok = true;

	if (request == NULL)
		return true;
	table = jobq_find_state(call, jobq_attr_int64(request, CANCEL_JOB_ID), &job, &row);
	if (row != NULL && jobq_attr_int32(job, JOB_GENERATION) != jobq_attr_int32(request, CANCEL_GENERATION))
		table = JOBQ_JOB;		/* opened again since */
	if (table == JOBQ_LEASE && jobq_attr_bool(request, CANCEL_UNLESS_BEGUN))
		ok = make_last(call, row);
	else if (table == JOBQ_LEASE)
		ok = jobq_attr_bool(row, LEASE_CANCEL_REQUESTED) || tell_worker(call, row, request);
	else if (table == JOBQ_FLOW)
		ok = jobq_stop_flow(call, row, jobq_attr_bool(request, CANCEL_UNLESS_BEGUN) ? STOP_DRAINS : STOP_CANCELLED,
							jobq_attr_cstring(request, CANCEL_REASON));
	else if (table != JOBQ_JOB)
	{
		ok = try_to_leave(call, table, row, job);
		if (ok)
			decide_cancelled(call, row, jobq_attr_cstring(request, CANCEL_REASON));
	}
	ok = ok && jobq_delete(call, JOBQ_CANCEL_REQUEST, request, LockWaitSkip);
	jobq_slot_free(row);
	jobq_slot_free(job);
	jobq_slot_free(request);
	return ok;
}

/*
 * Cancel a job, or ask for it.  checked: the caller needs no privilege on it.
 * False: it is decided, was asked for before, or there is a problem.
 */
bool
jobq_cancel(JobqCall *call, int64 id, const char *reason, bool checked, const char **problem)
{
	bool		changed = false;
	bool		done = false;

	for (int tries = 1; !done; tries++)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
		TupleTableSlot *row;
		JobqTable	table;
		char	   *other;
		int			outcome;
		bool		requested;

		/* before the lease, into which the background worker moves a request */
		requested = job != NULL &&
			jobq_cancel_requested(call, id, jobq_attr_int32(job, JOB_GENERATION), &other);
		jobq_slot_free(job);
		outcome = checked ? jobq_look(call, id, &job, &table, &row, problem) :
			jobq_look_to_act(call, id, true, &job, &table, &row, problem);
		if (outcome != 0 || requested ||
			(table == JOBQ_LEASE && jobq_attr_bool(row, LEASE_CANCEL_REQUESTED)) ||
			(table == JOBQ_FLOW && jobq_attr_int16(row, FLOW_STOPPING) >= STOP_CANCELLED))
			done = true;
		else if (table == JOBQ_FLOW)
		{
			/* the background worker cancels its members */
			request_cancel(call, job, reason);
			done = changed = true;
		}
		else if (table == JOBQ_LEASE)
		{
			/* its worker shall not wait for us to report it */
			request_cancel(call, job, reason);
			jobq_announce_lease(LEASE_CANCEL, id, jobq_attr_int64(row, LEASE_TOKEN), 0);
			jobq_forbid_prepare("cannot PREPARE a transaction that has cancelled a running job");
			done = changed = true;
		}
		else if (try_to_leave(call, table, row, job))
		{
			decide_cancelled(call, row, reason);
			done = changed = true;
		}
		else if (tries > 1)
		{
			/* somebody has it locked, who may wait for us */
			request_cancel(call, job, reason);
			done = changed = true;
		}
		jobq_slot_free(row);
		jobq_slot_free(job);
	}
	return changed;
}

/* job_cancel: a JobqAct, whose argument is the reason */
static bool
cancel(JobqCall *call, int64 id, void *arg, const char **problem)
{
	return jobq_cancel(call, id, arg, false, problem);
}

/* The argument that says why. */
static char *
read_reason(FunctionCallInfo fcinfo)
{
	return PG_ARGISNULL(1) ? NULL : jobq_cut_error(PG_GETARG_DATUM(1));
}

PG_FUNCTION_INFO_V1(jobq_job_cancel);

/* job_cancel(job_id, reason) */
Datum
jobq_job_cancel(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(jobq_act_on_one("job_cancel()", cancel, jobq_check_id(fcinfo, 0, "job_id"),
								   read_reason(fcinfo)));
}

PG_FUNCTION_INFO_V1(jobq_job_cancel_many);

/* job_cancel_many(job_ids, reason) */
Datum
jobq_job_cancel_many(PG_FUNCTION_ARGS)
{
	return jobq_act_on_many(fcinfo, "job_cancel_many()", cancel, read_reason(fcinfo));
}

/*
 * For the background worker: a job's expires_at has come.  Cancel it unless it has
 * been started, or end a flow that has timed out, and remove the row that says so.
 * That row is found before the job is looked at, so if somebody opens the job again
 * after that it is replaced and not removed here.  False: try again later.
 */
bool
jobq_expire_job(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at)
{
	Datum		keys[2] = {TimestampTzGetDatum(deadline), Int64GetDatum(job_id)};
	TupleTableSlot *noted = jobq_find(call, JOBQ_EXPIRY, INDEX_KEY, 2, keys, NULL);
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTable	table;
	bool		ok = true;

	if (noted == NULL)
		return true;
	table = jobq_find_state(call, job_id, &job, &row);
	if (row != NULL && jobq_is_expired(call, jobq_attr_int64(row, STATE_EXPIRES_AT),
									   jobq_attr_int32(row, STATE_ATTEMPT)))
	{
		/* of a flow that runs this is its timeout */
		ok = table == JOBQ_FLOW ? jobq_stop_flow(call, row, STOP_TIMED_OUT, "timed out") : try_to_leave(call, table, row, job);
		if (ok && table != JOBQ_FLOW)
			decide_cancelled(call, row, jobq_attr_bool(job, JOB_MANUAL) ?
							 "expired before it was decided" : "expired before it was started");
	}
	ok = ok && jobq_delete(call, JOBQ_EXPIRY, noted, LockWaitSkip);
	jobq_slot_free(row);
	jobq_slot_free(job);
	jobq_slot_free(noted);
	return ok;
}
