/*
 * leftover.c
 *	  Deltas that are left of decided flows.
 *
 * A flow can be closed while deltas that name it are still to be folded; they mean
 * nothing then.  When it is opened again its members are counted anew, so they are
 * deleted before.  job_delta has no index by flow, and each flow that is opened leaves
 * a delta itself: so a call looks through the table once, whatever it opens.
 *
 * What that has found is all that there is of a flow that was decided at that time, and
 * not opened since, which its generation tells: who changes a member keeps the flow
 * open to the commit, so no delta is committed later.  For any other the table is looked
 * through again.
 *
 * A snapshot is registered from the first look to the end, for the resource owner that
 * was current at the beginning.
 */
#include "postgres.h"

#include "utils/snapmgr.h"

#include "job/job.h"

/* One that is left */
typedef struct Delta
{
	int64		flow;			/* first, for jobq_compare_ids() */
	int64		seq;
} Delta;

struct JobqLeftover
{
	MemoryContext mcxt;
	ResourceOwner owner;
	Snapshot	snapshot;		/* of the look; NULL: there was none yet */
	Delta	   *deltas;			/* by flow */
	int			n;
	int			room;
};

/* Begin a call; no table is looked at before something is opened. */
JobqLeftover *
jobq_leftover_begin(void)
{
	JobqLeftover *left = palloc0(sizeof(JobqLeftover));

	left->mcxt = CurrentMemoryContext;
	left->owner = CurrentResourceOwner;
	return left;
}

/*
 * Forget what was found.  Needed where a subtransaction is rolled back that has opened
 * flows: what it had deleted when it looked is there again.
 */
void
jobq_leftover_forget(JobqLeftover *left)
{
	if (left->snapshot != NULL)
		UnregisterSnapshotFromOwner(left->snapshot, left->owner);
	left->snapshot = NULL;
	left->n = 0;
}

/* End it. */
void
jobq_leftover_end(JobqLeftover *left)
{
	jobq_leftover_forget(left);
	if (left->deltas != NULL)
		pfree(left->deltas);
	pfree(left);
}

/* Look through the table. */
static void
look(JobqCall *call, JobqLeftover *left)
{
	JobqScan   *scan;
	TupleTableSlot *delta;

	jobq_leftover_forget(left);
	left->snapshot = RegisterSnapshotOnOwner(GetLatestSnapshot(), left->owner);
	scan = jobq_scan_begin(call, JOBQ_DELTA, INDEX_KEY, 0, NULL, left->snapshot);
	while ((delta = jobq_scan_next(scan)) != NULL)
	{
		if (jobq_attr_int64(delta, DELTA_EPOCH) != 0)
			continue;			/* of a job that waits */
		if (left->n == left->room)
		{
			left->room = Max(left->room * 2, 64);
			left->deltas = left->deltas == NULL ? MemoryContextAlloc(left->mcxt, left->room * sizeof(Delta)) :
				repalloc_huge(left->deltas, left->room * sizeof(Delta));
		}
		left->deltas[left->n].flow = jobq_attr_int64(delta, DELTA_DOWNSTREAM);
		left->deltas[left->n++].seq = jobq_attr_int64(delta, DELTA_SEQ);
	}
	jobq_scan_end(scan);
	qsort(left->deltas, left->n, sizeof(Delta), jobq_compare_ids);
}

/* Was a flow decided when the table was looked through, and has not been opened since? */
static bool
was_decided(JobqCall *call, const JobqLeftover *left, TupleTableSlot *job)
{
	Datum		key = Int64GetDatum(jobq_attr_int64(job, JOB_ID));
	TupleTableSlot *then;
	bool		same;

	if (left->snapshot == NULL)
		return false;
	then = jobq_find(call, JOBQ_JOB, INDEX_KEY, 1, &key, left->snapshot);
	same = then != NULL && jobq_attr_int16(then, JOB_OUTCOME) != 0 &&
		jobq_attr_int32(then, JOB_GENERATION) == jobq_attr_int32(job, JOB_GENERATION);
	jobq_slot_free(then);
	return same;
}

/* Delete a delta, which the background worker may do, too; returns the permits that it gives back. */
static int
delete_delta(JobqCall *call, int64 seq)
{
	Datum		key = Int64GetDatum(seq);
	TupleTableSlot *delta = jobq_find(call, JOBQ_DELTA, INDEX_KEY, 1, &key, NULL);
	int			permits = 0;

	if (delta != NULL && jobq_delete(call, JOBQ_DELTA, delta, LockWaitBlock))
		permits = jobq_attr_int32(delta, DELTA_PERMITS);
	jobq_slot_free(delta);
	return permits;
}

/*
 * Delete what is left of a flow, given its row in job as it was before it was opened.
 * Returns how many permits the flow would have got back.
 */
int
jobq_leftover_drop(JobqCall *call, JobqLeftover *left, TupleTableSlot *job)
{
	int64		flow = jobq_attr_int64(job, JOB_ID);
	int			permits = 0;
	int			low = 0;
	int			high;

	if (!was_decided(call, left, job))
		look(call, left);
	high = left->n;
	while (low < high)
	{
		int			middle = low + (high - low) / 2;

		if (left->deltas[middle].flow < flow)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < left->n && left->deltas[low].flow == flow; low++)
		permits += delete_delta(call, left->deltas[low].seq);
	return permits;
}
