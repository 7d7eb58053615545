/*
 * again.c
 *	  Opening flows again.
 *
 * The retry of a flow opens it, and of what is in it all that failed or was cancelled;
 * what could not run because of these opens with them, as it does outside of flows, and so
 * does what could not run because of a job outside, if it can by now.
 * What has succeeded stays.  The retry of a member opens the flows around it, which
 * are decided.
 *
 * Locks: the rows of flows are taken before those of their members, outermost first,
 * so by ascending ids.  A flow that is open is locked FOR SHARE, so that it is not closed
 * before this transaction has ended, and its fold sees the delta.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "job/job.h"

/*
 * Delete what is still to be added to the counters of a flow that is decided: its members
 * are counted anew.  All of it is committed, since who changes a member keeps the flow open.
 */
static void
drop_deltas(JobqCall *call, int64 flow)
{
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DELTA, INDEX_KEY, 0, NULL, NULL);
	TupleTableSlot *delta;

	while ((delta = jobq_scan_next(scan)) != NULL)
	{
		/* the background worker may be about to delete it, too */
		if (jobq_attr_int64(delta, DELTA_DOWNSTREAM) == flow)
			(void) jobq_delete(call, JOBQ_DELTA, delta, LockWaitBlock);
	}
	jobq_scan_end(scan);
}

/*
 * Open the row of a flow again that was decided after it had been started, but not its
 * members.  False: its row changed, look again; or it was refused, with a *problem.
 */
static bool
open_flow(JobqCall *call, TupleTableSlot *job, int outcome, const char **problem)
{
	static const JobqCounters none = {0};
	int64		id = jobq_attr_int64(job, JOB_ID);
	TupleTableSlot *row;
	JobqRow		new;
	JobqPrefix	prefix;
	JobqCascade *cascade;
	JobqCounters c;
	bool		done;

	/* with this nobody undoes it meanwhile */
	if (!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitBlock))
		return false;
	row = jobq_find_id(call, JOBQ_FLOW, id);
	if (row != NULL && !slot_attisnull(row, FLOW_UNDONE_BY))
	{
		jobq_refuse_state(problem, id, "retry", "undone",
						  psprintf("Flow %lld undoes it; submit it anew.", (long long) jobq_attr_int64(row, FLOW_UNDONE_BY)));
		return false;
	}
	jobq_slot_free(row);
	if (!jobq_retake_key(call, job, problem) || !jobq_reopen(call, job, false, &prefix))
		return false;

	/*
	 * members can have been removed since; from here on none is, as its row
	 * in job is written
	 */
	drop_deltas(call, id);
	jobq_count_members(call, id, &c);
	do
	{
		row = jobq_find_id(call, JOBQ_FLOW, id);
		jobq_values(row, &new);
		jobq_set_counters(&new, FLOW_UNDECIDED, &c);
		jobq_set(&new, FLOW_STOPPING, Int16GetDatum(STOP_NOT));
		jobq_set(&new, FLOW_OPEN, BoolGetDatum(true));
		new.given[FLOW_STOP_REASON - 1] = false;
		jobq_set_flow_runs(call, id, &new);
		done = jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock);
		jobq_slot_free(row);
	} while (!done);
	jobq_advance();				/* those downstream must see it undecided */
	cascade = jobq_cascade_create(call);
	jobq_cascade_add_downstream(cascade, id, outcome, -1);
	jobq_cascade_tell_flow(cascade, job, outcome, -1);
	jobq_cascade_run(cascade, NULL, NULL);
	/* where nothing in it opens, it is closed again */
	jobq_leave_delta(call, id, 0, &none);
	return true;
}

/* Open a flow, if it is decided, and keep it open to the end of the transaction; false: with a *problem. */
static bool
keep_open(JobqCall *call, int64 flow, TupleTableSlot *member, int outcome, const char **problem)
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
			jobq_slot_free(job);
			jobq_refuse_state(problem, jobq_attr_int64(member, JOB_ID), "retry", jobq_outcome_name(outcome),
							  job == NULL ? "The flow that it is a member of was removed." :
							  decided != 0 ? psprintf("Flow %lld, which it is a member of, has succeeded; submit it anew.", (long long) flow) :
							  psprintf("Flow %lld, which it is a member of, is ending; wait for that.", (long long) flow));
			return false;
		}
		done = open_flow(call, job, decided, problem);
		jobq_slot_free(job);
		if (problem != NULL && *problem != NULL)
			return false;
		if (done)
			jobq_advance();
	}
}

/* A job is to be opened again: so are the flows around it, outermost first.  False: with a *problem. */
bool
jobq_open_flows_around(JobqCall *call, TupleTableSlot *job, int outcome, const char **problem)
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
		if (!keep_open(call, *(int64 *) list_nth(flows, i), job, outcome, problem))
			return false;
	}
	return true;
}

/*
 * Open a flow again that was started, and what failed or was cancelled in it.  False: its
 * row changed, look again; or it was refused, with a *problem.
 */
bool
jobq_open_flow_again(JobqCall *call, TupleTableSlot *job, int outcome, const char **problem)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	JobqMember *members;
	int			n;

	check_stack_depth();
	if (!open_flow(call, job, outcome, problem))
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
				done = jobq_open_flow_again(call, member, was, &refused);
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
