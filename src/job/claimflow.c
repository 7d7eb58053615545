/*
 * claimflow.c
 *	  Claims from one flow: job_claim_flow.
 *
 * What is inside the flow is looked at under one snapshot, and what is ready there is taken
 * as by any claim that scans, past the hand-out, which learns of it as of what a scan has
 * taken.  This costs time in proportion to what is inside.
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "job/claim.h"

/* A queue that members are of */
typedef struct FlowQueue
{
	JobqQueue	settings;
	bool		may;			/* the caller has the privilege to work on it */
	int			nsources;		/* 0: it gives nothing */
	JobqClaimSource *sources;	/* for each set of labels that the claim has */
} FlowQueue;

/* A member that is ready */
typedef struct ReadyMember
{
	JobqReady	ready;
	JobqClaimSource *source;
} ReadyMember;

typedef struct FlowClaim
{
	JobqClaim  *claim;
	bool		gets;			/* else the worker drains */
	bool		may;			/* the caller may work on a queue of a member */
	Snapshot	snapshot;
	List	   *queues;
	int			n;
	int			room;
	ReadyMember *members;
} FlowClaim;

/* A queue that a member is of; what the claim takes from it is found out once. */
static FlowQueue *
flow_queue(FlowClaim *f, int64 queue_id)
{
	JobqClaim  *claim = f->claim;
	FlowQueue  *q;
	JobqLaneSet *sets;
	ListCell   *lc;

	foreach(lc, f->queues)
	{
		q = lfirst(lc);
		if (q->settings.queue_id == queue_id)
			return q;
	}
	q = palloc0(sizeof(FlowQueue));
	jobq_queue_settings(claim->call, queue_id, &q->settings);
	q->may = jobq_has_privilege(claim->call, queue_id, PRIV_WORK);
	if (q->may && f->gets && !q->settings.paused)
	{
		q->nsources = jobq_claimed_sets(claim, queue_id, &sets);
		q->sources = palloc0(q->nsources * sizeof(JobqClaimSource));
		for (int i = 0; i < q->nsources; i++)
		{
			q->sources[i].set = sets[i];
			q->sources[i].lane = jobq_gate_lane(sets[i].lane, q->settings.gate);
			q->sources[i].queue = &q->settings;
		}
	}
	f->queues = lappend(f->queues, q);
	return q;
}

/*
 * Note a member if it is ready and the claim takes from the lane that it is ready in, or
 * would if it were that worker for which the job is kept.  In another lane stands
 * what is still to go back behind the gate.
 */
static void
note_if_ready(FlowClaim *f, const FlowQueue *q, TupleTableSlot *job)
{
	int64		lane = jobq_job_lane(job);
	JobqClaimSource *source = NULL;
	TupleTableSlot *row;

	for (int i = 0; i < q->nsources && source == NULL; i++)
	{
		if (q->sources[i].set.lane == lane)
			source = &q->sources[i];
	}
	row = source == NULL ? NULL : jobq_find_ready(f->claim->call, jobq_attr_int64(job, JOB_ID), lane,
												  jobq_attr_int16(job, JOB_PRIORITY), f->snapshot);
	if (row != NULL && jobq_is_in_lane(source->lane, jobq_attr_int64(row, STATE_LANE)))
	{
		if (f->n == f->room)
		{
			f->room = Max(f->room * 2, 64);
			f->members = f->members ? repalloc_huge(f->members, f->room * sizeof(ReadyMember)) :
				palloc(f->room * sizeof(ReadyMember));
		}
		jobq_ready_from_slot(f->claim->call, row, &f->members[f->n].ready);
		f->members[f->n++].source = source;
	}
	jobq_slot_free(row);
}

/*
 * A job inside the flow.  What is decided is looked at only to find out whether the caller
 * may know of the flow.
 */
static bool
visit_member(TupleTableSlot *job, void *arg)
{
	FlowClaim  *f = arg;
	bool		decided = !slot_attisnull(job, JOB_OUTCOME);
	bool		is_flow = jobq_is_flow(job);

	if (decided && f->may)
		return false;
	if (!is_flow)
	{
		char	   *queue = jobq_attr_cstring(job, JOB_QUEUE);
		FlowQueue  *q = flow_queue(f, jobq_queue_id(queue));

		pfree(queue);
		f->may |= q->may;
		if (!decided && q->nsources > 0)
			note_if_ready(f, q, job);
	}
	return true;
}

/* For qsort(): in the order in which they are handed out. */
static int
compare_ready_members(const void *a, const void *b)
{
	const JobqReady *x = &((const ReadyMember *) a)->ready;
	const JobqReady *y = &((const ReadyMember *) b)->ready;
	JobqKey		x_key = {x->priority, x->position};
	JobqKey		y_key = {y->priority, y->position};

	return jobq_compare_keys(x_key, y_key);
}

/*
 * Claim ready members of a flow, and of the flows in it, of those queues that the caller
 * may work on.  To one who may not see the flow and work on none of them, it does not exist.
 */
static int
claim_from_flow(JobqCall *call, const JobqClaimRequest *request, JobqAssignment **out)
{
	int64		flow = request->flow;
	JobqClaim	claim;
	FlowClaim	f = {.claim = &claim,.gets = jobq_begin_claim(&claim, call, request)};
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, flow);
	int			max_jobs;
	int			n = 0;

	f.snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
	if (job != NULL && jobq_is_flow(job))
		jobq_visit_inside(call, flow, f.snapshot, visit_member, &f);
	if (job == NULL || !(f.may || jobq_may_work_on(call, job) || jobq_may_see(call, flow, false)))
		jobq_error_no_such_job(flow);
	if (!jobq_is_flow(job))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job %lld is no flow", (long long) flow)));
	jobq_slot_free(job);
	if (f.n > 1)
		qsort(f.members, f.n, sizeof(ReadyMember), compare_ready_members);

	max_jobs = Min(request->max_jobs, f.n);
	*out = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(JobqAssignment) * Max(max_jobs, 1));
	jobq_begin_taking(&claim);
	for (int i = 0; i < f.n && n < max_jobs && !claim.full; i++)
	{
		JobqClaimSource *source = f.members[i].source;

		CHECK_FOR_INTERRUPTS();
		source->slot = jobq_fetch_ready(call, &f.members[i].ready, f.snapshot);
		if (source->slot != NULL && jobq_take_scanned(&claim, source, &(*out)[n]))
			n++;
		jobq_slot_free(source->slot);
	}
	UnregisterSnapshot(f.snapshot);
	jobq_end_claim(&claim, n);
	return n;
}

PG_FUNCTION_INFO_V1(jobq_job_claim_flow);

/* job_claim_flow(flow, worker, max_jobs, lease, labels, session) */
Datum
jobq_job_claim_flow(PG_FUNCTION_ARGS)
{
	JobqClaimRequest request = {.flow = jobq_check_id(fcinfo, 0, "flow")};

	return jobq_claim_function(fcinfo, "job_claim_flow()", &request, claim_from_flow);
}
