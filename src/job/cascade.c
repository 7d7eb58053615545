/*
 * depend.c
 *	  Dependencies: what a job that is decided, or opened again, does to those
 *	  that depend on it.
 *
 * Model.  An edge carries two masks over the parent's outcome, require and
 * suffice; the child has a quorum.  job_waiting counts, over the child's edges:
 * undecided parents, those of them with a require mask (pending), parents
 * within suffice (hits), parents outside require (violated), and parents that
 * failed, upstream_failed or were cancelled (hurt).  From these alone
 * jobq_verdict() says what becomes of the child.  Each count only grows while
 * parents are decided, and the verdict is such that none can be taken back by a
 * later parent, so a child's outcome depends on its parents' outcomes alone and
 * not on their order.
 *
 * Invariants
 *	D1	The counters of an open row of job_waiting, less what was used of its
 *		stripes, equal what its edges and their parents' rows say, in every
 *		committed state.
 *	D2	A child's row and its edges are inserted while the rows in job of all
 *		its parents that have not succeeded are locked FOR SHARE; who decides or
 *		reopens a parent updates that row first and reads the edges after, with
 *		a snapshot taken then.  So each of the two sees the other.
 *	D3	A job that ran is never touched by what becomes of its parents, nor is
 *		one that is ready, running or scheduled.
 *
 * Lock order.  One call handles its arguments and everything that follows from
 * them as one list of ids, always taking the lowest: parents have lower ids
 * than their children, so the list only moves up, each id is handled once, and
 * two calls meet in the same order.  For one id: its stripes (stripe.c), the
 * state row, then the row in job.  Only reopening a child takes other rows (its
 * undecided parents, FOR SHARE) out of order; it can meet a deadlock, which
 * PostgreSQL ends (40P01).
 *
 * The list is iterative and takes memory in proportion to its width, so chains
 * and fans of any size work.  A crash leaves nothing: all is one transaction.
 */
#include "postgres.h"

#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "utils/hsearch.h"
#include "utils/snapmgr.h"

#include "job/job.h"

#define BULK_CHILDREN	64		/* from so many on */

typedef struct CascadeItem
{
	int64		id;				/* hash key */
	pairingheap_node node;
	int			argument;		/* -1: none */
	bool		reopened;		/* a parent was opened again */
	JobqCounters delta;
} CascadeItem;

struct JobqCascade
{
	JobqCall   *call;
	HTAB	   *items;
	pairingheap *heap;
};

/* Order of the heap: lowest id first. */
static int
compare_items(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		ida = pairingheap_const_container(CascadeItem, node, a)->id;
	int64		idb = pairingheap_const_container(CascadeItem, node, b)->id;

	return ida < idb ? 1 : ida > idb ? -1 : 0;
}

/* An empty list. */
JobqCascade *
jobq_cascade_create(JobqCall *call)
{
	JobqCascade   *cascade = palloc(sizeof(JobqCascade));
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(CascadeItem),
	.hcxt = CurrentMemoryContext};

	cascade->call = call;
	cascade->items = hash_create("jobq cascade list", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	cascade->heap = pairingheap_allocate(compare_items, NULL);
	return cascade;
}

/* The call that a list belongs to. */
JobqCall *
jobq_cascade_call(JobqCascade *cascade)
{
	return cascade->call;
}

/* The item of an id, made where there is none. */
static CascadeItem *
cascade_item(JobqCascade *cascade, int64 id)
{
	bool		found;
	CascadeItem   *item = hash_search(cascade->items, &id, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) item + sizeof(int64), 0, sizeof(CascadeItem) - sizeof(int64));
		item->argument = -1;
		pairingheap_add(cascade->heap, &item->node);
	}
	return item;
}

/* Add an argument of the call; false: its id was there already. */
bool
jobq_cascade_add_argument(JobqCascade *cascade, int64 id, int argument)
{
	CascadeItem   *item = cascade_item(cascade, id);

	if (item->argument >= 0)
		return false;
	item->argument = argument;
	return true;
}

/* Add the children of a job that got (n = 1) or lost (n = -1) an outcome. */
static void
add_downstream(JobqCascade *cascade, int64 id, int outcome, int n)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(cascade->call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *slot;

	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		CascadeItem   *item = cascade_item(cascade, jobq_attr_int64(slot, DEP_DOWNSTREAM));

		jobq_count_edge(&item->delta, jobq_attr_int16(slot, DEP_REQUIRE),
						jobq_attr_int16(slot, DEP_SUFFICE), outcome, n);
		item->reopened |= n < 0;
	}
	jobq_scan_end(scan);
}

/* A job was decided: its row in job is updated, now its children are due. */
void
jobq_cascade_decided(JobqCascade *cascade, int64 id, int outcome)
{
	add_downstream(cascade, id, outcome, 1);
}

/* A job that had this outcome was opened again. */
void
jobq_cascade_reopened(JobqCascade *cascade, int64 id, int outcome)
{
	add_downstream(cascade, id, outcome, -1);
}

/* The counters of a row of job_waiting. */
void
jobq_read_counters(TupleTableSlot *waiting, JobqCounters *c)
{
	c->undecided = jobq_attr_int32(waiting, WAITING_UNDECIDED);
	c->pending = jobq_attr_int32(waiting, WAITING_PENDING);
	c->hits = jobq_attr_int32(waiting, WAITING_HITS);
	c->violated = jobq_attr_int32(waiting, WAITING_VIOLATED);
	c->hurt = jobq_attr_int32(waiting, WAITING_HURT);
}

/* Apply a delta to a waiting child; false: its row changed, look again. */
static bool
apply_delta(JobqCascade *cascade, TupleTableSlot *slot, const JobqCounters *delta)
{
	JobqCall   *call = cascade->call;
	JobqRule	rule = jobq_attr_int16(slot, WAITING_RULE);
	bool		held = jobq_attr_bool(slot, WAITING_HELD);
	JobqCounters c;
	JobqPrefix	prefix;
	JobqVerdict verdict;

	jobq_read_counters(slot, &c);
	c.undecided += delta->undecided;
	c.pending += delta->pending;
	c.hits += delta->hits;
	c.violated += delta->violated;
	c.hurt += delta->hurt;
	verdict = jobq_verdict(rule, jobq_attr_int32(slot, WAITING_QUORUM), &c);

	if (verdict == VERDICT_WAIT || (verdict == VERDICT_READY && held))
	{
		Datum		values[WAITING_NATTS];
		bool		nulls[WAITING_NATTS];

		jobq_values(slot, values, nulls);
		jobq_set_counters(values, nulls, &c);
		jobq_set(values, nulls, WAITING_OPEN, BoolGetDatum(verdict == VERDICT_WAIT));
		if (verdict == VERDICT_READY)
			jobq_set(values, nulls, WAITING_STRIPES, Int16GetDatum(0)); /* all used up */
		return jobq_update(call, JOBQ_WAITING, slot, values, nulls);
	}

	if (!jobq_delete(call, JOBQ_WAITING, slot))
		return false;
	jobq_read_prefix(JOBQ_WAITING, slot, &prefix);
	if (verdict == VERDICT_READY)
		jobq_place(call, &prefix, 0);
	else
	{
		JobqDecision decision = {.outcome = jobq_verdict_outcome(verdict),.attempt_outcome = -1};

		jobq_decide(cascade, &prefix, &decision);
	}
	return true;
}

/*
 * The outcome of a job, 0 if it is undecided.  Its row is locked FOR SHARE to
 * the end of the transaction unless its outcome is one of settled.
 */
int
jobq_upstream_outcome(JobqCall *call, int64 id, int settled)
{
	for (;;)
	{
		TupleTableSlot *slot = jobq_find_id(call, JOBQ_JOB, id);
		int			outcome;
		bool		done;

		if (slot == NULL)
			return OUTCOME_SUCCEEDED;	/* purged */
		outcome = jobq_attr_int16(slot, JOB_OUTCOME);
		done = (outcome & settled) != 0 ||
			jobq_lock(call, JOBQ_JOB, slot, LockTupleShare);
		jobq_slot_free(slot);
		if (done)
			return outcome;
	}
}

/*
 * Count a job's edges from its parents' rows, for one that had no row in
 * job_waiting.  Parents are locked unless their outcome is one of settled (D2).
 */
void
jobq_count_edges(JobqCall *call, int64 id, int settled, JobqCounters *c)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *slot;

	memset(c, 0, sizeof(JobqCounters));
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		int16		require = jobq_attr_int16(slot, DEP_REQUIRE);
		int			outcome;

		jobq_count_undecided(c, require);
		outcome = jobq_upstream_outcome(call, jobq_attr_int64(slot, DEP_UPSTREAM), settled);
		if (outcome != 0)
			jobq_count_edge(c, require, jobq_attr_int16(slot, DEP_SUFFICE), outcome, 1);
	}
	jobq_scan_end(scan);
}

/*
 * A parent of a decided child was opened again: open the child too if it was
 * decided without running because of it.  False: it changed, look again.
 */
static bool
reopen_downstream(JobqCascade *cascade, TupleTableSlot *job)
{
	JobqCall   *call = cascade->call;
	int			outcome = jobq_attr_int16(job, JOB_OUTCOME);
	JobqRule	rule = jobq_attr_int16(job, JOB_RULE);
	int			quorum = jobq_attr_int32(job, JOB_QUORUM);
	JobqCounters c;
	JobqVerdict verdict;
	JobqPrefix	prefix;

	if (outcome != OUTCOME_SKIPPED && outcome != OUTCOME_UPSTREAM_FAILED)
		return true;
	/* from here on no other retry decides about the child */
	if (!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive))
		return false;
	jobq_count_edges(call, jobq_attr_int64(job, JOB_ID), OUTCOME_ANY, &c);
	verdict = jobq_verdict(rule, quorum, &c);
	if (verdict != VERDICT_WAIT && verdict != VERDICT_READY)
		return true;
	if (!jobq_reopen(call, job, true, &prefix))
		return false;
	if (verdict == VERDICT_READY)
		jobq_place(call, &prefix, 0);
	else
		jobq_place_waiting(call, &prefix, &c, rule, quorum, 0, true, false);
	jobq_advance();				/* its children must see it undecided */
	jobq_cascade_reopened(cascade, prefix.job_id, outcome);
	return true;
}

/*
 * Handle a job whose parents changed.  One that does not wait is left alone
 * (D3), unless it was decided and may have to be opened again.  Which of them it
 * is, is seen under one snapshot: others may open it, and decide it, again and
 * again while we look.
 */
static void
handle_downstream(JobqCascade *cascade, CascadeItem *item)
{
	JobqCounters delta = item->delta;
	bool		plain = !item->reopened && delta.violated == 0;
	bool		credited = false;
	bool		done = false;
	bool		walk = true;

	while (!done)
	{
		TupleTableSlot *slot = walk ? jobq_walk_id(cascade->call, JOBQ_WAITING, item->id, NULL) :
		jobq_find_id(cascade->call, JOBQ_WAITING, item->id);

		if (slot != NULL && !jobq_attr_bool(slot, WAITING_OPEN))
			done = !walk;		/* a walk may be older than the lock on its
								 * parent */
		else if (slot != NULL && !credited && plain && jobq_attr_int16(slot, WAITING_STRIPES) > 0)
		{
			credited = jobq_stripe_use(cascade->call, slot, &delta);
			done = credited && delta.undecided == 0 && delta.hurt == 0;
		}
		else if (slot != NULL)
			done = (credited || !jobq_unstripe(cascade->call, slot)) && apply_delta(cascade, slot, &delta);
		else if (item->reopened)
		{
			Datum		key = Int64GetDatum(item->id);
			Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());

			slot = jobq_find_in(cascade->call, JOBQ_JOB, INDEX_KEY, 1, &key, snapshot);
			if (slot != NULL && !jobq_attr_isnull(slot, JOB_OUTCOME))
				done = reopen_downstream(cascade, slot);
			else
			{
				jobq_slot_free(slot);
				slot = jobq_find_in(cascade->call, JOBQ_WAITING, INDEX_KEY, 1, &key, snapshot);
				done = slot == NULL;
			}
			UnregisterSnapshot(snapshot);
		}
		else
			done = true;
		walk = false;
		jobq_slot_free(slot);
	}
}

/*
 * Handle the list to its end.  Where there are many children their new rows are
 * inserted many at once, which none of this reads again.
 */
void
jobq_cascade_run(JobqCascade *cascade, JobqArgumentHandler handler, void *arg)
{
	int			children = 0;

	while (!pairingheap_is_empty(cascade->heap))
	{
		pairingheap_node *node = pairingheap_remove_first(cascade->heap);
		CascadeItem   *item = pairingheap_container(CascadeItem, node, node);

		CHECK_FOR_INTERRUPTS();
		if (item->delta.undecided != 0)
		{
			if (++children == BULK_CHILDREN)
				jobq_bulk_begin(cascade->call);
			handle_downstream(cascade, item);
		}
		if (item->argument >= 0)
			handler(cascade, item->id, item->argument, arg);
		hash_search(cascade->items, &item->id, HASH_REMOVE, NULL);
	}
	jobq_bulk_end(cascade->call);
}
