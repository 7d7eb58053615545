/*
 * control.c
 *	  What others than its worker do to a job: cancel, take back, retry, hold, look.
 *
 * Each finds the job's state row, changes it, and, if somebody else moved it
 * meanwhile, looks again.  A running job is not taken from its worker: a request
 * to cancel it is told by the next heartbeat.
 *
 * Such a request is a row of its own, job_cancel_request, which locks nothing
 * that others wait for.  The background worker writes it into the lease or, if
 * the attempt has ended meanwhile without deciding the job, cancels it.  A job
 * that does not run, and whose row somebody has locked, is cancelled in the same
 * way: by waiting there, two transactions that cancel and complete several jobs
 * each could end in a deadlock.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/timestamp.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

#define TAKE_BACK_TRIES	20		/* to get a lease that is locked */
#define TAKE_BACK_DELAY	5000	/* between them, microseconds */

/* The row of a job, or JQ002; free it with jobq_slot_free(). */
static TupleTableSlot *
need_job(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);

	if (job == NULL)
		jobq_error_no_such_job(id);
	return job;
}

/* A role stored in a row, InvalidOid: none. */
static Oid
attr_role(TupleTableSlot *slot, int attno)
{
	bool		isnull;
	Datum		d = jobq_attr(slot, attno, &isnull);

	return isnull ? InvalidOid : DatumGetObjectId(d);
}

/* Is this job leased by the caller? */
bool
jobq_held_by_caller(JobqCall *call, int64 id)
{
	TupleTableSlot *lease = jobq_find_id(call, JOBQ_LEASE, id);
	bool		held = lease != NULL && has_privs_of_role(GetUserId(), attr_role(lease, LEASE_HOLDER));

	jobq_slot_free(lease);
	return held;
}

/* Is a child of this job leased by the caller, who thus may read its result? */
static bool
child_held_by_caller(JobqCall *call, int64 id)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *edge;
	bool		held = false;

	while (!held && (edge = jobq_scan_next(scan)) != NULL)
		held = jobq_held_by_caller(call, jobq_attr_int64(edge, DEP_DOWNSTREAM));
	jobq_scan_end(scan);
	return held;
}

/* May the caller see the job, if there is one?  granted: that is known already. */
bool
jobq_may_see(JobqCall *call, int64 id, bool granted)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	bool		may = job != NULL &&
	(granted || jobq_is_owner() ||
	 jobq_visible(call, jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE)),
				  attr_role(job, JOB_SUBMITTED_BY), InvalidOid) ||
	 jobq_held_by_caller(call, id) ||
	 child_held_by_caller(call, id));

	jobq_slot_free(job);
	return may;
}

/* A job that the caller may not see does not exist. */
void
jobq_require_visible(JobqCall *call, int64 id)
{
	if (!jobq_may_see(call, id, false))
		jobq_error_no_such_job(id);
}

/*
 * The caller must be allowed to operate on the job's queue, or have submitted
 * the job where that is enough; to one who cannot even see it, it does not exist.
 */
static void
require_operate(JobqCall *call, TupleTableSlot *job, bool or_submitter)
{
	char	   *queue = jobq_attr_cstring(job, JOB_QUEUE);
	int64		queue_id = jobq_queue_id(queue);

	if (or_submitter && has_privs_of_role(GetUserId(), attr_role(job, JOB_SUBMITTED_BY)))
		return;
	if (!jobq_has_privilege(call, queue_id, PRIV_OPERATE))
		jobq_require_visible(call, jobq_attr_int64(job, JOB_ID));
	jobq_require_privilege(call, queue_id, PRIV_OPERATE, queue);
}

/* The act makes no sense in this state. */
static void
error_state(int64 id, const char *act, const char *state, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_JOBQ_WRONG_STATE),
			 errmsg("cannot %s job %lld in state \"%s\"", act, (long long) id, state),
			 hint ? errhint("%s", hint) : 0));
}

/*
 * Where a job stands: its outcome (then *state is NULL), or 0 with its state
 * row.  *job is its row in job.
 */
int
jobq_look(JobqCall *call, int64 id, TupleTableSlot **job, JobqTable *table, TupleTableSlot **state)
{
	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		*job = need_job(call, id);
		*state = NULL;
		if (!jobq_attr_isnull(*job, JOB_OUTCOME))
			return jobq_attr_int16(*job, JOB_OUTCOME);
		*table = jobq_find_state(call, id, state);
		if (*state != NULL)
			return 0;
		/* decided between the two looks, unless somebody removed rows by hand */
		jobq_slot_free(*job);
		*job = need_job(call, id);
		if (jobq_attr_isnull(*job, JOB_OUTCOME) &&
			jobq_find_state(call, id, state) == JOBQ_JOB)
			ereport(ERROR,
					(errcode(ERRCODE_DATA_CORRUPTED),
					 errmsg("job %lld has lost its state", (long long) id),
					 errhint("Rows of the tables of extension jobq were changed by hand.")));
		jobq_slot_free(*state);
		jobq_slot_free(*job);
	}
}

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
		found = jobq_attr_int32(request, CANCEL_GENERATION) == generation;
		if (found && !jobq_attr_isnull(request, CANCEL_REASON))
			*reason = jobq_attr_cstring(request, CANCEL_REASON);
	}
	jobq_scan_end(scan);
	return found;
}

/* Ask for a job to be cancelled, without a lock that others could wait for. */
static void
request_cancel(JobqCall *call, TupleTableSlot *job, const char *reason)
{
	Datum		values[CANCEL_NATTS];
	bool		nulls[CANCEL_NATTS] = {false};
	int64		seq = jobq_nextval();

	jobq_set(values, nulls, CANCEL_SEQ, Int64GetDatum(seq));
	jobq_set(values, nulls, CANCEL_JOB_ID, Int64GetDatum(jobq_attr_int64(job, JOB_ID)));
	jobq_set(values, nulls, CANCEL_GENERATION, Int32GetDatum(jobq_attr_int32(job, JOB_GENERATION)));
	nulls[CANCEL_REASON - 1] = reason == NULL;
	if (reason != NULL)
		jobq_set(values, nulls, CANCEL_REASON, CStringGetTextDatum(reason));
	jobq_insert(call, JOBQ_CANCEL_REQUEST, values, nulls);
	jobq_announce_deadline(DEADLINE_CANCEL, seq);
}

/* Tell the worker of a running job to end it; false: the row is locked, or changed. */
static bool
tell_worker(JobqCall *call, TupleTableSlot *lease, TupleTableSlot *request)
{
	Datum		values[LEASE_NATTS];
	bool		nulls[LEASE_NATTS];
	bool		isnull;
	Datum		reason = jobq_attr(request, CANCEL_REASON, &isnull);

	jobq_values(lease, values, nulls);
	jobq_set(values, nulls, LEASE_CANCEL_REQUESTED, BoolGetDatum(true));
	if (!isnull)
		jobq_set(values, nulls, LEASE_CANCEL_REASON, reason);
	if (!jobq_try_update(call, JOBQ_LEASE, lease, values, nulls))
		return false;
	jobq_announce_cancel_request(jobq_attr_int64(lease, STATE_JOB_ID),
								 jobq_attr_int64(lease, LEASE_TOKEN));
	return true;
}

/*
 * For the background worker: act on a request to cancel a job, in whatever state
 * it is now, unless it was opened again since.  False: somebody has it locked,
 * try again later.
 */
bool
jobq_act_on_cancel_request(JobqCall *call, int64 seq)
{
	Datum		key = Int64GetDatum(seq);
	TupleTableSlot *request = jobq_find(call, JOBQ_CANCEL_REQUEST, INDEX_KEY, 1, &key);
	TupleTableSlot *job;
	TupleTableSlot *row = NULL;
	JobqTable	table = JOBQ_JOB;
	bool		ok = true;

	if (request == NULL)
		return true;
	job = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(request, CANCEL_JOB_ID));
	if (job != NULL && jobq_attr_isnull(job, JOB_OUTCOME) &&
		jobq_attr_int32(job, JOB_GENERATION) == jobq_attr_int32(request, CANCEL_GENERATION))
		table = jobq_find_state(call, jobq_attr_int64(job, JOB_ID), &row);
	if (table == JOBQ_LEASE)
		ok = jobq_attr_bool(row, LEASE_CANCEL_REQUESTED) || tell_worker(call, row, request);
	else if (table != JOBQ_JOB)
	{
		ok = jobq_state_leave(call, table, row, LEAVE_TRY);
		if (ok)
			decide_cancelled(call, row, jobq_attr_isnull(request, CANCEL_REASON) ? NULL :
							 jobq_attr_cstring(request, CANCEL_REASON));
	}
	ok = ok && jobq_try_delete(call, JOBQ_CANCEL_REQUEST, request);
	jobq_slot_free(row);
	jobq_slot_free(job);
	jobq_slot_free(request);
	return ok;
}

PG_FUNCTION_INFO_V1(jobq_job_cancel);

/* job_cancel(job_id, reason) */
Datum
jobq_job_cancel(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	char	   *reason = PG_ARGISNULL(1) ? NULL : jobq_cut_error(PG_GETARG_DATUM(1));
	JobqCall	call;
	bool		changed = false;
	bool		done = false;

	jobq_enter(&call, "job_cancel()", true);
	for (int tries = 1; !done; tries++)
	{
		TupleTableSlot *job;
		TupleTableSlot *row;
		JobqTable	table;
		char	   *other;
		int			outcome = jobq_look(&call, id, &job, &table, &row);
		int			generation = jobq_attr_int32(job, JOB_GENERATION);

		require_operate(&call, job, true);
		if (outcome != 0 ||
			(table == JOBQ_LEASE && jobq_attr_bool(row, LEASE_CANCEL_REQUESTED)) ||
			jobq_cancel_requested(&call, id, generation, &other))
			done = true;
		else if (table == JOBQ_LEASE)
		{
			/* its worker shall not wait for us to report it */
			request_cancel(&call, job, reason);
			jobq_announce_cancel_request(id, jobq_attr_int64(row, LEASE_TOKEN));
			jobq_forbid_prepare("cannot PREPARE a transaction that has cancelled a running job");
			done = changed = true;
		}
		else if (jobq_state_leave(&call, table, row, LEAVE_TRY))
		{
			decide_cancelled(&call, row, reason);
			done = changed = true;
		}
		else if (tries > 1)
		{
			/* somebody has it locked, who may wait for us */
			request_cancel(&call, job, reason);
			done = changed = true;
		}
		jobq_slot_free(row);
		jobq_slot_free(job);
	}
	jobq_close_call(&call);
	PG_RETURN_BOOL(changed);
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
		int			outcome = jobq_look(&call, id, &job, &table, &row);

		require_operate(&call, job, false);
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

/*
 * Take back how a job ended: clear its row, and move its deciding attempt to
 * the history.  *prefix is what it starts again with; if not expires, its
 * expires_at does not apply any more.  False: look again.
 */
bool
jobq_reopen(JobqCall *call, TupleTableSlot *job, bool expires, JobqPrefix *prefix)
{
	static const int cleared[] = {JOB_OUTCOME, JOB_ATTEMPT_OUTCOME, JOB_FINISHED_AT, JOB_STARTED_AT,
	JOB_TOKEN, JOB_WORKER, JOB_ERROR, JOB_RESULT, JOB_ATTEMPT_NO, JOB_FAILED, JOB_LOST};
	Datum		values[JOB_NATTS];
	bool		nulls[JOB_NATTS];
	Datum		attempt[ATTEMPT_NATTS] = {0};
	bool		attempt_nulls[ATTEMPT_NATTS];

	memset(prefix, 0, sizeof(JobqPrefix));
	prefix->job_id = jobq_attr_int64(job, JOB_ID);
	prefix->queue_id = jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE));
	prefix->lane = jobq_lane(prefix->queue_id);
	prefix->run_at = jobq_attr_int64(job, JOB_RUN_AT);
	prefix->attempt = jobq_attr_int32(job, JOB_ATTEMPT_NO);
	if (prefix->attempt == 0 && expires)
		prefix->expires_at = jobq_attr_int64(job, JOB_EXPIRES_AT);
	prefix->priority = jobq_attr_int16(job, JOB_PRIORITY);

	jobq_values(job, values, nulls);
	jobq_set(values, nulls, JOB_GENERATION,
			 Int32GetDatum(jobq_attr_int32(job, JOB_GENERATION) + 1));
	for (int i = 0; i < lengthof(cleared); i++)
		nulls[cleared[i] - 1] = true;
	if (!expires)
		nulls[JOB_EXPIRES_AT - 1] = true;
	if (!jobq_update(call, JOBQ_JOB, job, values, nulls))
		return false;
	if (prefix->expires_at != 0)
		jobq_note_expiry(call, prefix->job_id, prefix->expires_at);

	if (jobq_attr_isnull(job, JOB_ATTEMPT_OUTCOME))
		return true;
	memset(attempt_nulls, true, sizeof(attempt_nulls));
	jobq_values(job, values, nulls);
	jobq_set(attempt, attempt_nulls, ATTEMPT_JOB_ID, values[JOB_ID - 1]);
	jobq_set(attempt, attempt_nulls, ATTEMPT_NO, values[JOB_ATTEMPT_NO - 1]);
	jobq_set(attempt, attempt_nulls, ATTEMPT_STARTED_AT, values[JOB_STARTED_AT - 1]);
	jobq_set(attempt, attempt_nulls, ATTEMPT_ENDED_AT, values[JOB_FINISHED_AT - 1]);
	jobq_set(attempt, attempt_nulls, ATTEMPT_OUTCOME, values[JOB_ATTEMPT_OUTCOME - 1]);
	if (!nulls[JOB_WORKER - 1])
		jobq_set(attempt, attempt_nulls, ATTEMPT_WORKER, values[JOB_WORKER - 1]);
	if (!nulls[JOB_ERROR - 1])
		jobq_set(attempt, attempt_nulls, ATTEMPT_ERROR,
				 CStringGetTextDatum(jobq_attr_cstring(job, JOB_ERROR)));
	jobq_insert(call, JOBQ_ATTEMPT, attempt, attempt_nulls);
	return true;
}

/*
 * Why a job that was never run cannot be retried: a hint that names the job
 * upstream whose retry would open it, if there is one that the caller may see.
 */
static const char *
retry_hint(JobqCall *call, int64 id)
{
	int			best = OUTCOME_UPSTREAM_FAILED;

	/* up along those that were not run, to one that failed or was cancelled */
	while (best == OUTCOME_UPSTREAM_FAILED || best == OUTCOME_SKIPPED)
	{
		Datum		key = Int64GetDatum(id);
		JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
		TupleTableSlot *edge;

		best = OUTCOME_SUCCEEDED;
		while ((best & (OUTCOME_FAILED | OUTCOME_CANCELLED)) == 0 &&
			   (edge = jobq_scan_next(scan)) != NULL)
		{
			int64		upstream = jobq_attr_int64(edge, DEP_UPSTREAM);
			TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, upstream);
			int			outcome = job != NULL ? jobq_attr_int16(job, JOB_OUTCOME) : 0;

			jobq_slot_free(job);
			if ((outcome & (OUTCOME_FAILED | OUTCOME_CANCELLED)) ||
				(outcome == OUTCOME_UPSTREAM_FAILED && best != outcome) ||
				(outcome == OUTCOME_SKIPPED && best == OUTCOME_SUCCEEDED))
			{
				best = outcome;
				id = upstream;
			}
		}
		jobq_scan_end(scan);
	}
	if (best == OUTCOME_SUCCEEDED)
		return "It was never run, and no job that it depends on can be retried.";
	if (!jobq_may_see(call, id, false))
		return "It was never run; a job that you may not see must be retried first.";
	return psprintf("It was never run; retry job %lld, which it depends on.", (long long) id);
}

/* Open a failed or cancelled job again; false: its row changed, look again. */
static bool
retry(JobqCall *call, TupleTableSlot *job, int outcome)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	JobqRule	rule = jobq_attr_int16(job, JOB_RULE);
	int			quorum = jobq_attr_int32(job, JOB_QUORUM);
	JobqCounters counters;
	JobqVerdict verdict = VERDICT_READY;
	bool		sure = true;
	JobqPrefix	prefix;
	JobqCascade   *cascade;

	/* one that never ran may have dependencies left */
	if (jobq_attr_int32(job, JOB_ATTEMPT_NO) == 0 && jobq_attr_int32(job, JOB_DEPENDENCIES) > 0)
	{
		sure = jobq_count_edges(call, id, OUTCOME_SUCCEEDED, false, &counters);
		verdict = jobq_verdict(rule, quorum, &counters);
	}
	if (verdict == VERDICT_SKIPPED || verdict == VERDICT_UPSTREAM_FAILED)
		error_state(id, "retry", jobq_outcome_name(outcome),
					retry_hint(call, id));
	if (!jobq_reopen(call, job, false, &prefix))
		return false;
	if (verdict == VERDICT_READY)
	{
		if (prefix.attempt > 0)
			prefix.run_at = 0;	/* now */
		jobq_enter_next(call, &prefix, 0);
	}
	else
		jobq_enter_waiting(call, &prefix, &counters, rule, quorum, jobq_nextval());
	if (!sure)
		jobq_ask_recount(call, id);
	jobq_advance();				/* those downstream must see it undecided */
	cascade = jobq_cascade_create(call);
	jobq_cascade_add_downstream(cascade, id, outcome, -1);
	jobq_cascade_run(cascade, NULL, NULL);
	return true;
}

PG_FUNCTION_INFO_V1(jobq_job_retry);

/* job_retry(job_id) */
Datum
jobq_job_retry(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	JobqCall	call;
	bool		changed = false;
	bool		done = false;

	jobq_enter(&call, "job_retry()", true);
	while (!done)
	{
		TupleTableSlot *job = need_job(&call, id);
		int			outcome = jobq_attr_int16(job, JOB_OUTCOME);

		require_operate(&call, job, false);
		if (outcome == 0)
			done = true;
		else if (outcome == OUTCOME_FAILED || outcome == OUTCOME_CANCELLED)
			done = changed = retry(&call, job, outcome);
		else
			error_state(id, "retry", jobq_outcome_name(outcome),
						outcome == OUTCOME_SUCCEEDED ? NULL : retry_hint(&call, id));
		jobq_slot_free(job);
	}
	jobq_close_call(&call);
	PG_RETURN_BOOL(changed);
}

/* Set or clear held of a waiting job; false: its row changed, look again. */
static bool
set_held(JobqCall *call, TupleTableSlot *waiting, bool held)
{
	Datum		values[WAITING_NATTS];
	bool		nulls[WAITING_NATTS];

	jobq_values(waiting, values, nulls);
	jobq_set(values, nulls, WAITING_HELD, BoolGetDatum(held));
	return jobq_update(call, JOBQ_WAITING, waiting, values, nulls);
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
	jobq_enter_waiting(call, &prefix, NULL, jobq_attr_int16(job, JOB_RULE),
					   jobq_attr_int32(job, JOB_QUORUM), 0);
	return true;
}

/* Let a held job go; false: it moved, look again. */
static bool
unhold(JobqCall *call, TupleTableSlot *waiting)
{
	JobqPrefix	prefix;

	if (jobq_attr_bool(waiting, WAITING_OPEN))
		return set_held(call, waiting, false);
	if (!jobq_state_leave(call, JOBQ_WAITING, waiting, LEAVE_WAIT))
		return false;
	jobq_read_prefix(waiting, &prefix);
	jobq_enter_next(call, &prefix, 0);
	return true;
}

/* job_hold and job_unhold */
static bool
change_hold(int64 id, bool want)
{
	const char *act = want ? "hold" : "unhold";
	JobqCall	call;
	bool		changed = false;
	bool		done = false;

	jobq_enter(&call, want ? "job_hold()" : "job_unhold()", true);
	while (!done)
	{
		TupleTableSlot *job;
		TupleTableSlot *state;
		JobqTable	table;
		int			outcome = jobq_look(&call, id, &job, &table, &state);
		bool		held;

		require_operate(&call, job, true);
		if (outcome != 0)
			error_state(id, act, jobq_outcome_name(outcome), NULL);
		if (want && table == JOBQ_LEASE)
			error_state(id, act, "running", "Use job_cancel to ask its worker to end it.");
		held = table == JOBQ_WAITING && jobq_attr_bool(state, WAITING_HELD);
		if (held == want)
			done = true;
		else
			done = changed = want ? hold(&call, job, table, state) : unhold(&call, state);
		jobq_slot_free(state);
		jobq_slot_free(job);
	}
	jobq_close_call(&call);
	return changed;
}

PG_FUNCTION_INFO_V1(jobq_job_hold);

/* job_hold(job_id) */
Datum
jobq_job_hold(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(change_hold(jobq_check_id(fcinfo, 0, "job_id"), true));
}

PG_FUNCTION_INFO_V1(jobq_job_unhold);

/* job_unhold(job_id) */
Datum
jobq_job_unhold(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(change_hold(jobq_check_id(fcinfo, 0, "job_id"), false));
}

/*
 * The name of a job's state and, if it succeeded, its result, copied to the
 * current memory context.
 */
const char *
jobq_job_state(JobqCall *call, int64 id, Datum *result, bool *isnull)
{
	TupleTableSlot *job;
	TupleTableSlot *state;
	JobqTable	table;
	int			outcome = jobq_look(call, id, &job, &table, &state);

	*result = (Datum) 0;
	*isnull = true;
	if (outcome == OUTCOME_SUCCEEDED)
	{
		*result = jobq_attr(job, JOB_RESULT, isnull);
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
	bool		isnull;

	jobq_enter(&call, "job_result()", false);
	jobq_require_visible(&call, id);
	jobq_job_state(&call, id, &result, &isnull);
	jobq_close_call(&call);
	if (isnull)
		PG_RETURN_NULL();
	return result;
}

/*
 * For the background worker: a job's expires_at has come.  Cancel it unless it
 * has been started, and remove the row that says so.  That row is found before
 * the job is looked at, so if somebody opens the job again after that it is
 * replaced and not removed here.  False: try again later.
 */
bool
jobq_expire_job(JobqCall *call, int64 job_id, TimestampTz expires_at)
{
	Datum		keys[2] = {TimestampTzGetDatum(expires_at), Int64GetDatum(job_id)};
	TupleTableSlot *noted = jobq_find(call, JOBQ_EXPIRY, INDEX_KEY, 2, keys);
	TupleTableSlot *row;
	JobqTable	table;
	bool		ok = true;

	if (noted == NULL)
		return true;
	table = jobq_find_state(call, job_id, &row);
	if (row != NULL && jobq_is_expired(call, jobq_attr_int64(row, STATE_EXPIRES_AT),
									   jobq_attr_int32(row, STATE_ATTEMPT)))
	{
		ok = jobq_state_leave(call, table, row, LEAVE_TRY);
		if (ok)
			decide_cancelled(call, row, "expired before it was started");
	}
	ok = ok && jobq_try_delete(call, JOBQ_EXPIRY, noted);
	jobq_slot_free(row);
	jobq_slot_free(noted);
	return ok;
}
