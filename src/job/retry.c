/*
 * retry.c
 *	  Opening decided jobs again.
 */
#include "postgres.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/*
 * Take back how a job ended: clear its row, and move its deciding attempt to
 * the history.  *prefix is what it starts again with; if not expires, its
 * expires_at does not apply any more.  False: look again.
 */
bool
jobq_reopen(JobqCall *call, TupleTableSlot *job, bool expires, JobqPrefix *prefix)
{
	static const int cleared[] = {JOB_OUTCOME, JOB_ATTEMPT_OUTCOME, JOB_FINISHED_AT, JOB_STARTED_AT,
	JOB_TOKEN, JOB_DECIDED_BY, JOB_WORKER, JOB_ERROR, JOB_RESULT, JOB_ATTEMPT_NO, JOB_FAILED, JOB_LOST};
	static const int history[][2] = {{ATTEMPT_JOB_ID, JOB_ID}, {ATTEMPT_NO, JOB_ATTEMPT_NO},
	{ATTEMPT_STARTED_AT, JOB_STARTED_AT}, {ATTEMPT_ENDED_AT, JOB_FINISHED_AT},
	{ATTEMPT_OUTCOME, JOB_ATTEMPT_OUTCOME}, {ATTEMPT_WORKER, JOB_WORKER}};
	JobqRow		old;
	JobqRow		new;
	JobqRow		attempt = {0};

	jobq_read_job_prefix(job, prefix);
	prefix->attempt = jobq_attr_int32(job, JOB_ATTEMPT_NO);
	if (prefix->attempt == 0 && expires)
		prefix->expires_at = jobq_attr_int64(job, JOB_EXPIRES_AT);

	jobq_values(job, &old);
	new = old;
	jobq_raise_generation(call, job, prefix->attempt, &new);
	for (int i = 0; i < lengthof(cleared); i++)
		new.given[cleared[i] - 1] = false;
	if (!expires)
		new.given[JOB_EXPIRES_AT - 1] = false;
	if (!jobq_update(call, JOBQ_JOB, job, &new, LockWaitBlock))
		return false;
	if (prefix->expires_at != 0)
		jobq_note_expiry(call, prefix->job_id, prefix->expires_at);

	if (slot_attisnull(job, JOB_ATTEMPT_OUTCOME))
		return true;
	for (int i = 0; i < lengthof(history); i++)
	{
		attempt.values[history[i][0] - 1] = old.values[history[i][1] - 1];
		attempt.given[history[i][0] - 1] = old.given[history[i][1] - 1];
	}
	jobq_set_text(&attempt, ATTEMPT_ERROR, jobq_attr_cstring(job, JOB_ERROR));
	jobq_insert(call, JOBQ_ATTEMPT, &attempt);
	return true;
}

/*
 * Why a job that was never run cannot be retried: a hint that names the job
 * upstream whose retry would open it, if there is one that the caller may see.
 */
const char *
jobq_retry_hint(JobqCall *call, int64 id)
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
			int			outcome = 0;

			if (job != NULL && jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY)
				outcome = jobq_attr_int16(job, JOB_OUTCOME);

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

/* Refuse to open a job whose key another has: one that this call opens as well (again), or not. */
void
jobq_refuse_key(JobqCall *call, int64 id, int64 holder, bool again, const char **problem)
{
	TupleTableSlot *other = jobq_find_id(call, JOBQ_JOB, holder);
	bool		undecided = other != NULL && jobq_attr_int16(other, JOB_OUTCOME) == 0;

	jobq_slot_free(other);
	jobq_refuse(problem, ERRCODE_JOBQ_WRONG_STATE,
				psprintf("cannot retry job %lld, since job %lld has its unique key",
						 (long long) id, (long long) holder),
				again ? "That job would run again as well; retry one after the other." :
				undecided ? "Cancel that job first, or wait for its end." :
				"That job has ended, but its \"unique_for\" has not; wait for that.");
}

/*
 * Take the key of a decided job again, if it has one.  With its row locked, a key that is
 * taken will not have been in vain.  False: its row changed, look again; or another
 * has the key, with a *problem.
 */
bool
jobq_retake_key(JobqCall *call, TupleTableSlot *job, const char **problem)
{
	int64		holder;

	if (slot_attisnull(job, JOB_UNIQUE_KEY))
		return true;
	if (!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitBlock))
		return false;
	if (jobq_take_key_again(call, job, true, &holder) != KEY_HELD)
		return true;
	jobq_refuse_key(call, jobq_attr_int64(job, JOB_ID), holder, false, problem);
	return false;
}

/*
 * Were the dependencies of a decided job met before it ended?  One that had run may
 * have waited for them again since it was opened; of such a one it is known only where it
 * ran once more.
 */
bool
jobq_was_let_run(TupleTableSlot *job)
{
	return !slot_attisnull(job, JOB_ATTEMPT_OUTCOME) ||
		(jobq_attr_int32(job, JOB_ATTEMPT_NO) > 0 && jobq_attr_int32(job, JOB_GENERATION) == 0);
}

/*
 * Open a job again that failed, was cancelled or skipped by job_decide(), and is no flow
 * that was started; the flows around it are open.  False: its row changed, look again; or
 * it was refused, with a *problem.
 */
bool
jobq_open_again(JobqCall *call, TupleTableSlot *job, int outcome, const char **problem)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	JobqRule	rule = jobq_attr_int16(job, JOB_RULE);
	int			quorum = jobq_attr_int32(job, JOB_QUORUM);
	JobqCounters counters;
	JobqVerdict verdict = VERDICT_READY;
	bool		sure = true;
	JobqPrefix	prefix;
	JobqCascade *cascade;

	/* else it may have dependencies left */
	if (!jobq_was_let_run(job))
	{
		sure = jobq_count_edges(call, id, OUTCOME_SUCCEEDED, &counters);
		verdict = jobq_verdict(rule, quorum, &counters);
	}
	if (verdict == VERDICT_SKIPPED || verdict == VERDICT_UPSTREAM_FAILED)
	{
		jobq_refuse_state(problem, id, "retry", jobq_outcome_name(outcome), jobq_retry_hint(call, id));
		return false;
	}

	if (!jobq_retake_key(call, job, problem))
		return false;
	if (!jobq_reopen(call, job, false, &prefix))
		return false;
	if (verdict == VERDICT_READY)
	{
		if (prefix.attempt > 0)
			prefix.run_at = 0;	/* now */
		jobq_enter_next(call, &prefix, 0);
	}
	else
		jobq_enter_waiting(call, &prefix, &counters, rule, quorum, jobq_nextval(), false);
	if (!sure)
		jobq_ask_recount(call, id);
	jobq_advance();				/* those downstream must see it undecided */
	cascade = jobq_cascade_create(call);
	jobq_cascade_add_downstream(cascade, id, outcome, NULL, -1);
	jobq_cascade_tell_flow(cascade, job, outcome, -1);
	jobq_cascade_run(cascade, NULL, NULL);
	return true;
}

/* Refuse a decided job that was a member of a flow, or in one, before that began anew; true: it was. */
bool
jobq_refuse_former(JobqCall *call, TupleTableSlot *job, const char **problem)
{
	int64		flow = jobq_former_flow(call, job);

	if (flow != 0)
		jobq_refuse_state(problem, jobq_attr_int64(job, JOB_ID), "retry", jobq_outcome_name(jobq_attr_int16(job, JOB_OUTCOME)),
						  psprintf("Flow %lld, which it was in, has begun anew since; retry that flow, or a job that is in it now.", (long long) flow));
	return flow != 0;
}

/* job_retry: a JobqFoundAct, whose argument is the JobqLeftover of the call */
static bool
retry_found(JobqCall *call, const JobqFound *found, void *arg, const char **problem, bool *changed)
{
	int			outcome = found->outcome;

	if (outcome > 0 && jobq_refuse_former(call, found->job, problem))
		return true;
	if (outcome == OUTCOME_FAILED || outcome == OUTCOME_CANCELLED ||
		(outcome == OUTCOME_SKIPPED && !slot_attisnull(found->job, JOB_DECIDED_BY)))
	{
		if (jobq_open_flows_around(call, arg, found->job, problem))
			*changed = jobq_flow_was_started(call, found->job) ? jobq_open_flow_again(call, arg, found->job, outcome, problem) :
				jobq_open_again(call, found->job, outcome, problem);
		return *changed || (problem != NULL && *problem != NULL);
	}
	if (outcome == OUTCOME_SUCCEEDED && jobq_refuse_undone(call, found->job, problem))
		return true;
	if (outcome > 0)
		jobq_refuse_state(problem, found->id, "retry", jobq_outcome_name(outcome),
						  outcome == OUTCOME_SUCCEEDED ? "With downstream => true it runs again, and so does what follows from it." :
						  jobq_retry_hint(call, found->id));
	return true;
}

/* How jobs are retried */
typedef struct How
{
	bool		downstream;		/* what follows is to run again as well */
	JobqLeftover *left;
} How;

/* The same: a JobqAct */
static bool
retry(JobqCall *call, int64 id, void *arg, const char **problem)
{
	const How  *how = arg;

	return how->downstream ? jobq_retry_downstream(call, id, how->left, problem) :
		jobq_act_on_found(call, id, false, retry_found, how->left, problem);
}

/* What both functions are given. */
static How
begin_retry(FunctionCallInfo fcinfo)
{
	How			how = {!PG_ARGISNULL(1) && PG_GETARG_BOOL(1), jobq_leftover_begin()};

	return how;
}

PG_FUNCTION_INFO_V1(jobq_job_retry);

/* job_retry(job_id, downstream) */
Datum
jobq_job_retry(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	How			how = begin_retry(fcinfo);
	bool		changed = jobq_act_on_one("job_retry()", retry, id, &how);

	jobq_leftover_end(how.left);
	PG_RETURN_BOOL(changed);
}

PG_FUNCTION_INFO_V1(jobq_job_retry_many);

/* job_retry_many(job_ids, downstream) */
Datum
jobq_job_retry_many(PG_FUNCTION_ARGS)
{
	How			how = begin_retry(fcinfo);
	Datum		result = jobq_act_on_many(fcinfo, "job_retry_many()", retry, &how);

	jobq_leftover_end(how.left);
	return result;
}
