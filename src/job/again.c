/*
 * again.c
 *	  Opening flows again, or having them begin anew.
 *
 * The retry of a flow opens it, and of what is in it all that failed or was cancelled;
 * what could not run because of these opens with them, as it does outside of flows, and so
 * does what could not run because of a job outside, if it can by now.
 * What has succeeded stays.  The retry of a member opens the flows around it, which
 * are decided.
 *
 * A flow that begins anew goes back to where it was before it started; its members are
 * former ones from then on, decided jobs of no flow, which nothing opens again.
 *
 * Locks: the rows of flows are taken before those of their members, outermost first,
 * so by ascending ids.  A flow that is open is locked FOR SHARE, so that it is not closed
 * before this transaction has ended, and its fold sees the delta.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "job/job.h"

/*
 * Write the row of a decided flow in job_flow: it runs again, with counters of its members
 * as they are, none of which has a slot, or (counters NULL) has not started.  permits: so many were
 * given back.
 */
static void
write_row(JobqCall *call, int64 id, const JobqCounters *counters, int permits)
{
	static const JobqCounters none = {0};
	JobqSlot	slot = counters != NULL ? jobq_take_slot_again(call, jobq_flow_of(call, id)) : SLOT_NONE;
	bool		done;

	do
	{
		TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
		JobqRow		new;

		jobq_values(row, &new);
		jobq_set_counters(&new, FLOW_UNDECIDED, counters ? counters : &none);
		jobq_set(&new, FLOW_RUNNING, Int32GetDatum(0));
		if (new.given[FLOW_PERMITS - 1])
			jobq_set(&new, FLOW_PERMITS, Int32GetDatum(jobq_add_permits(jobq_attr_int32(row, FLOW_PERMITS), permits)));
		jobq_set(&new, FLOW_SETTLED, BoolGetDatum(true));
		jobq_set(&new, FLOW_STOPPING, Int16GetDatum(STOP_NOT));
		jobq_set(&new, FLOW_OPEN, BoolGetDatum(counters != NULL));
		new.given[FLOW_STOP_REASON - 1] = false;
		new.given[STATE_EXPIRES_AT - 1] = false;
		if (counters == NULL)
		{
			jobq_set(&new, FLOW_ANEW, BoolGetDatum(true));
			jobq_end_canaries(&new);
			new.given[FLOW_STARTED_AT - 1] = new.given[FLOW_ARGS - 1] = new.given[FLOW_CLONE_FROM - 1] = false;
		}
		else
			jobq_set_flow_runs(call, id, slot, &new);
		done = jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock);
		jobq_slot_free(row);
	} while (!done);
}

/* Have a flow run again, whose row in job, as given, was opened, but not its members. */
static void
run_again(JobqCascade *cascade, JobqLeftover *left, TupleTableSlot *job, int outcome)
{
	static const JobqCounters none = {0};
	JobqCall   *call = jobq_cascade_call(cascade);
	int64		id = jobq_attr_int64(job, JOB_ID);
	JobqCounters c;
	Datum		result;
	bool		isnull;
	int			permits;

	/*
	 * members can have been removed since; from here on none is, as its row
	 * in job is written
	 */
	permits = jobq_leftover_drop(call, left, job);
	jobq_count_members(call, id, &c);
	write_row(call, id, &c, permits);
	/* where nothing in it opens, it is closed again */
	jobq_leave_delta(call, id, 0, &none);
	jobq_advance();				/* those downstream must see it undecided */
	result = slot_getattr(job, JOB_RESULT, &isnull);
	jobq_cascade_add_downstream(cascade, id, outcome, isnull ? NULL : &result, -1);
	jobq_cascade_tell_flow(cascade, job, outcome, -1);
}

/* The flow that undoes one; 0: none. */
int64
jobq_undone_by(JobqCall *call, int64 flow)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);
	int64		by = row != NULL ? jobq_attr_int64(row, FLOW_UNDONE_BY) : 0;

	jobq_slot_free(row);
	return by;
}

/* Refuse to open a flow, whose row is locked, that another undoes; true: so it is. */
bool
jobq_refuse_undone(JobqCall *call, TupleTableSlot *job, const char **problem)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	int64		by = jobq_undone_by(call, id);

	if (by != 0)
		jobq_refuse(problem, ERRCODE_JOBQ_WRONG_STATE, psprintf("cannot retry job %lld, which is undone", (long long) id),
					psprintf("Flow %lld undoes it; submit it anew.", (long long) by));
	return by != 0;
}

/*
 * Open the row of a flow again that was decided after it had been started, but not its
 * members.  False: its row changed, look again; or it was refused, with a *problem.
 */
static bool
open_flow(JobqCall *call, JobqLeftover *left, TupleTableSlot *job, int outcome, const char **problem)
{
	JobqPrefix	prefix;
	JobqCascade *cascade;

	/* with this nobody undoes it meanwhile */
	if (!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitBlock) ||
		jobq_refuse_undone(call, job, problem) ||
		!jobq_retake_key(call, job, problem) || !jobq_reopen(call, job, false, &prefix))
		return false;
	cascade = jobq_cascade_create(call);
	run_again(cascade, left, job, outcome);
	jobq_cascade_run(cascade, NULL, NULL);
	return true;
}

/* The same where its row in job is locked, and its key taken. */
void
jobq_reopen_flow(JobqCascade *cascade, JobqLeftover *left, TupleTableSlot *job, int outcome)
{
	JobqPrefix	prefix;

	if (!jobq_reopen(jobq_cascade_call(cascade), job, false, &prefix))
		elog(ERROR, "row of flow %lld has changed while locked", (long long) prefix.job_id);
	run_again(cascade, left, job, outcome);
}

/*
 * A flow that was started, and whose row in job, as given, was opened, begins anew;
 * its members are made former ones.
 */
void
jobq_begin_flow_anew(JobqCall *call, JobqLeftover *left, TupleTableSlot *job)
{
	write_row(call, jobq_attr_int64(job, JOB_ID), NULL, jobq_leftover_drop(call, left, job));
}

/* A member of a flow that begins anew, whose row is locked, is a former one; another job may have its key. */
void
jobq_make_former(JobqCall *call, TupleTableSlot *job)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	int64		queue_id = jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE));
	JobqRow		new;

	jobq_values(job, &new);
	jobq_set(&new, JOB_FORMER_FLOW, new.values[JOB_FLOW - 1]);
	new.given[JOB_FLOW - 1] = false;
	if (!jobq_update(call, JOBQ_JOB, job, &new, LockWaitBlock))
		elog(ERROR, "row of job %lld has changed while locked", (long long) id);
	if (new.given[JOB_UNIQUE_KEY - 1])
		jobq_free_key(call, id, queue_id, new.values[JOB_UNIQUE_KEY - 1], 0, 0, NULL);
}

/* A member is not opened again because of its flow, which is gone or not decided (job), or stays as it is. */
void
jobq_refuse_member(TupleTableSlot *member, int64 flow, TupleTableSlot *job, const char **problem)
{
	jobq_refuse_state(problem, jobq_attr_int64(member, JOB_ID), "retry", jobq_outcome_name(jobq_attr_int16(member, JOB_OUTCOME)),
					  job == NULL ? "The flow that it is a member of was removed." :
					  psprintf(slot_attisnull(job, JOB_OUTCOME) ? "Flow %lld, which it is a member of, is ending; wait for that." :
							   "Flow %lld, which it is a member of, has succeeded; downstream => true opens it, too.", (long long) flow));
}

/* Open a flow, if it is decided, and keep it open to the end of the transaction; false: with a *problem. */
static bool
keep_open(JobqCall *call, JobqLeftover *left, int64 flow, TupleTableSlot *member, const char **problem)
{
	for (;;)
	{
		TupleTableSlot *job;
		bool		open;
		bool		done;
		int			decided;

		if (!jobq_lock_open_flow(call, flow, LockWaitBlock, &open))
			continue;
		if (open)
			return true;
		job = jobq_find_id(call, JOBQ_JOB, flow);
		decided = job != NULL ? jobq_attr_int16(job, JOB_OUTCOME) : 0;
		/* what has succeeded stays so (S5) */
		if (decided == 0 || decided == OUTCOME_SUCCEEDED)
		{
			jobq_refuse_member(member, flow, job, problem);
			jobq_slot_free(job);
			return false;
		}
		done = open_flow(call, left, job, decided, problem);
		jobq_slot_free(job);
		if (problem != NULL && *problem != NULL)
			return false;
		if (done)
			jobq_advance();
	}
}

/* A job is to be opened again: so are the flows around it, outermost first.  False: with a *problem. */
bool
jobq_open_flows_around(JobqCall *call, JobqLeftover *left, TupleTableSlot *job, const char **problem)
{
	List	   *flows = NIL;

	for (int64 flow = jobq_attr_int64(job, JOB_FLOW); flow != 0; flow = jobq_flow_of(call, flow))
	{
		int64	   *one = palloc(sizeof(int64));

		*one = flow;
		flows = lcons(one, flows);
	}
	for (int i = 0; i < list_length(flows); i++)
	{
		if (!keep_open(call, left, *(int64 *) list_nth(flows, i), job, problem))
			return false;
	}
	return true;
}

/*
 * Open a flow again that was started, and what failed or was cancelled in it.  False: its
 * row changed, look again; or it was refused, with a *problem.
 */
bool
jobq_open_flow_again(JobqCall *call, JobqLeftover *left, TupleTableSlot *job, int outcome, const char **problem)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	JobqMember *members;
	int			n;

	check_stack_depth();
	if (!open_flow(call, left, job, outcome, problem))
		return false;
	jobq_advance();
	members = jobq_read_flow_members(call, id, &n);
	for (int i = 0; i < n; i++)
	{
		bool		done = members[i].outcome != OUTCOME_FAILED && members[i].outcome != OUTCOME_CANCELLED;

		CHECK_FOR_INTERRUPTS();
		if (members[i].outcome == OUTCOME_UPSTREAM_FAILED || members[i].outcome == OUTCOME_SKIPPED)
		{
			jobq_reconsider(call, members[i].id);
			jobq_advance();
		}

		/*
		 * one that another has opened meanwhile is left alone, as one that
		 * cannot run yet
		 */
		while (!done)
		{
			TupleTableSlot *member = jobq_find_id(call, JOBQ_JOB, members[i].id);
			int			was = member != NULL ? jobq_attr_int16(member, JOB_OUTCOME) : 0;
			const char *refused = NULL;

			if (was != OUTCOME_FAILED && was != OUTCOME_CANCELLED)
				done = true;
			else if (jobq_flow_was_started(call, member))
				done = jobq_open_flow_again(call, left, member, was, &refused);
			else
				done = jobq_open_again(call, member, was, &refused);
			done |= refused != NULL;
			jobq_slot_free(member);
			jobq_advance();
		}
	}
	pfree(members);
	return true;
}
