/*
 * decide.c
 *	  Deciding a job from outside: approvals, inputs, signals, "mark as done".
 *
 * Somebody says what becomes of a job that does not run, and those downstream go
 * on from there as they do after a worker's end of an attempt.  A manual job waits
 * for nothing else.  The job's row names who decided it (decided_by), so what
 * becomes of its upstream jobs later does not open it again (reopen() in
 * cascade.c).
 *
 * The state row is deleted first, waiting for whoever has it locked: one who is
 * just claiming the job, or whose decision upstream moves it.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "job/job.h"

static const int decisions[] = {OUTCOME_SUCCEEDED, OUTCOME_FAILED, OUTCOME_SKIPPED, OUTCOME_CANCELLED};

/* What a name of a state says about a decision. */
static int
read_state(FunctionCallInfo fcinfo, int argno)
{
	char	   *name;

	if (PG_ARGISNULL(argno))
		jobq_error_null("state");
	name = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	for (int i = 0; i < lengthof(decisions); i++)
	{
		if (strcmp(jobq_outcome_name(decisions[i]), name) == 0)
			return decisions[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("a job cannot be decided as \"%s\"", name),
			 errhint("Valid states are \"succeeded\", \"failed\", \"skipped\" and \"cancelled\".")));
}

/* job_decide: a JobqFoundAct, whose argument is the decision */
static bool
decide_found(JobqCall *call, const JobqFound *found, void *arg, const char **problem, bool *changed)
{
	JobqCascade *cascade;
	JobqPrefix	prefix;

	if (found->outcome != 0)
		return true;
	if (found->table == JOBQ_LEASE)
	{
		jobq_refuse_state(problem, found->id, "decide", "running",
						  "Its worker decides it; job_take_back takes it from its worker.");
		return true;
	}
	if (found->table == JOBQ_FLOW)
	{
		jobq_refuse_state(problem, found->id, "decide", "running", "It is a flow that was started; its members decide it, or job_cancel.");
		return true;
	}
	if (!jobq_state_leave(call, found->table, found->row, LEAVE_WAIT))
		return false;
	(void) jobq_lock_superseded(call, found->job, LockWaitBlock);
	cascade = jobq_cascade_create(call);
	jobq_read_prefix(found->row, &prefix);
	jobq_decide(cascade, &prefix, arg);
	jobq_cascade_run(cascade, NULL, NULL);
	return *changed = true;
}

/* The same: a JobqAct */
static bool
decide(JobqCall *call, int64 id, void *arg, const char **problem)
{
	return jobq_act_on_found(call, id, false, decide_found, arg, problem);
}

PG_FUNCTION_INFO_V1(jobq_job_decide);

/* job_decide(job_id, state, result, reason) */
Datum
jobq_job_decide(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	JobqDecision decision = {.outcome = read_state(fcinfo, 1),.attempt_outcome = -1,.decided_by = GetUserId()};

	if (!PG_ARGISNULL(2))
	{
		if (decision.outcome != OUTCOME_SUCCEEDED)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("\"result\" goes with state \"succeeded\" only"),
					 errhint("Say why in \"reason\".")));
		jobq_check_json(PG_GETARG_JSONB_P(2), NULL, psprintf("result of job %lld", (long long) id),
						"jobq.max_result_size", jobq_max_result_size);
		decision.has_result = true;
		decision.result = PG_GETARG_DATUM(2);
	}
	if (!PG_ARGISNULL(3))
		decision.error = jobq_cut_error(PG_GETARG_DATUM(3));
	PG_RETURN_BOOL(jobq_act_on_one("job_decide()", decide, id, &decision));
}
