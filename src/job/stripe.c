/*
 * stripe.c
 *	  The counters of a job with many parents, spread over several rows.
 *
 * Who decides a parent has the child's row of job_waiting locked to the end of
 * its transaction, the flush included, so parents of one child would end one
 * after the other.  A child that is submitted with many undecided parents is
 * therefore striped: its undecided edges are dealt out as credits to rows of
 * job_stripe.  Who decides k of its parents takes k credits from any one stripe
 * that has them and that nobody else has locked; which one does not matter, as
 * all edges of a child prefix the same masks.  Only who takes the last credit of
 * a stripe deletes it, and takes its size off the counters of the child's row.
 *
 * That holds for parents within require, of rules with quorum 0: nothing can be
 * said about such a child but that it waits, until the last parent is decided.
 * Parents that hurt are counted in the child's row besides.  All else (a parent
 * outside require, one that is opened again, more parents at once than a stripe
 * has credits, the end of the child by cancellation or expiry) dissolves the
 * stripes first: jobq_unstripe() deletes them all, takes what was used off the
 * child's row, and leaves a row like any other.  It is not striped again, nor is
 * a job that is opened again, so a stripe that is gone never comes back, and
 * what was read of stripes one after the other, each with a snapshot of its
 * own, cannot be of two lives of a job.
 *
 * Invariants, in every committed state
 *	-	Stripes belong to a row of job_waiting that is open and has stripes > 0;
 *		their numbers are below that.  In each 0 < remaining <= size.
 *	-	The sizes of a job's stripes add up to undecided, and to pending, of its
 *		row; violated and hits are 0 there.  So the row has no undecided parents
 *		left exactly when it has no stripes left.
 *	-	undecided less all that was used of the stripes, size - remaining, is the
 *		number of undecided parents (D1 of depend.c).
 *
 * Lock order, for one child: stripes in ascending order, then its row.  Taking
 * credits has no more than one stripe, and then waits at most for the row; if
 * every stripe that would do is locked, it waits for one, having none.  Who has
 * a stripe makes everyone wait who would take the row away (they delete all
 * stripes before), so the row that credits were taken for is there when it is
 * looked at again.  Several calls in one transaction may break the order, as
 * they may that of the ids, and meet a deadlock (40P01).
 *
 * Rows that others changed mean here what they mean everywhere: look again with
 * a new snapshot, or 40001 where the transaction has one.  Only a stripe that is
 * tried without waiting is passed over.  A crash leaves nothing: taking credits
 * is part of the transaction that decides the parents.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "job/job.h"

#define MAX_STRIPES		16
#define MIN_SIZE		32		/* credits that a stripe begins with, at least */

/*
 * How many stripes a new job with these counters gets; 0: none.  At least two,
 * and only where some outcome of a parent leaves nothing to do in its own row.
 */
int
jobq_stripes_wanted(JobqRule rule, const JobqCounters *c)
{
	const JobqRuleInfo *info = &jobq_rules[rule];

	if (info->quorum != 0 || (info->require & ~OUTCOME_HURTS) == 0 || c->violated > 0 ||
		c->undecided < 2 * MIN_SIZE)
		return 0;
	Assert(info->suffice == 0 && c->pending == c->undecided);
	return Min(MAX_STRIPES, c->undecided / MIN_SIZE);
}

/* Deal out a job's undecided parents to that many stripes. */
void
jobq_stripes_make(JobqCall *call, int64 job_id, int nstripes, int undecided)
{
	Datum		values[STRIPE_NATTS];
	bool		nulls[STRIPE_NATTS] = {false};

	for (int i = 0; i < nstripes; i++)
	{
		int			size = undecided / nstripes + (i < undecided % nstripes ? 1 : 0);

		jobq_set(values, nulls, STRIPE_JOB_ID, Int64GetDatum(job_id));
		jobq_set(values, nulls, STRIPE_NO, Int16GetDatum(i));
		jobq_set(values, nulls, STRIPE_SIZE, Int32GetDatum(size));
		jobq_set(values, nulls, STRIPE_REMAINING, Int32GetDatum(size));
		jobq_insert(call, JOBQ_STRIPE, values, nulls);
	}
}

/* The latest version of a stripe, or NULL: it is used up. */
static TupleTableSlot *
find_stripe(JobqCall *call, int64 job_id, int stripe)
{
	Datum		keys[2] = {Int64GetDatum(job_id), Int16GetDatum(stripe)};

	return jobq_find(call, JOBQ_STRIPE, INDEX_KEY, 2, keys);
}

/* Take n credits from a stripe that had them; false: it is locked or changed. */
static bool
take_credits(JobqCall *call, TupleTableSlot *stripe, int n, bool wait)
{
	int			left = jobq_attr_int32(stripe, STRIPE_REMAINING) - n;
	Datum		values[STRIPE_NATTS];
	bool		nulls[STRIPE_NATTS];

	if (left == 0)
		return wait ? jobq_delete(call, JOBQ_STRIPE, stripe) :
			jobq_try_delete(call, JOBQ_STRIPE, stripe);
	jobq_values(stripe, values, nulls);
	jobq_set(values, nulls, STRIPE_REMAINING, Int32GetDatum(left));
	return wait ? jobq_update(call, JOBQ_STRIPE, stripe, values, nulls) :
		jobq_try_update(call, JOBQ_STRIPE, stripe, values, nulls);
}

/*
 * Count decided parents, all within require, in a stripe of a striped child.
 * *delta becomes what is left to be counted in the child's own row.  False:
 * look at that again; it may not be striped any more.
 */
bool
jobq_stripe_use(JobqCall *call, TupleTableSlot *waiting, JobqCounters *delta)
{
	static uint32 first = 0;	/* where we found credits last */
	int64		job_id = jobq_attr_int64(waiting, WAITING_JOB_ID);
	int			nstripes = jobq_attr_int16(waiting, WAITING_STRIPES);
	int			n = -delta->undecided;
	TupleTableSlot *locked = NULL;
	TupleTableSlot *taken = NULL;

	Assert(n > 0 && delta->pending == -n && delta->hits == 0 && delta->violated == 0);
	if (first == 0)
		first = MyProcPid;		/* each backend somewhere else */
	for (uint32 i = 0; i < nstripes && taken == NULL; i++)
	{
		TupleTableSlot *stripe = find_stripe(call, job_id, (first + i) % nstripes);

		if (stripe != NULL && jobq_attr_int32(stripe, STRIPE_REMAINING) >= n)
		{
			if (take_credits(call, stripe, n, false))
			{
				taken = stripe;
				first += i;
				continue;
			}
			if (locked == NULL)
			{
				locked = stripe;
				continue;
			}
		}
		jobq_slot_free(stripe);
	}
	if (taken == NULL && locked == NULL)
		jobq_unstripe(call, waiting);
	else if (taken == NULL && take_credits(call, locked, n, true))
	{
		taken = locked;
		locked = NULL;
	}
	if (taken != NULL)
	{
		bool		used_up = jobq_attr_int32(taken, STRIPE_REMAINING) == n;

		delta->undecided = used_up ? -jobq_attr_int32(taken, STRIPE_SIZE) : 0;
		delta->pending = delta->undecided;
	}
	jobq_slot_free(locked);
	jobq_slot_free(taken);
	return taken != NULL;
}

/* Delete a stripe, waiting for whoever has it; returns how much of it was used. */
static int
dissolve_stripe(JobqCall *call, int64 job_id, int no)
{
	int			used = 0;
	bool		done = false;

	while (!done)
	{
		TupleTableSlot *stripe = find_stripe(call, job_id, no);

		done = stripe == NULL || jobq_delete(call, JOBQ_STRIPE, stripe);
		if (done && stripe != NULL)
			used = jobq_attr_int32(stripe, STRIPE_SIZE) - jobq_attr_int32(stripe, STRIPE_REMAINING);
		jobq_slot_free(stripe);
	}
	return used;
}

/*
 * See that a waiting job has no stripes, and all its counters in its own row.
 * True: it had some when it was looked at, look again.  How many does not change:
 * only submission makes them.
 */
bool
jobq_unstripe(JobqCall *call, TupleTableSlot *waiting)
{
	int64		job_id = jobq_attr_int64(waiting, WAITING_JOB_ID);
	int			nstripes = jobq_attr_int16(waiting, WAITING_STRIPES);
	int			used = 0;
	bool		done = false;

	if (nstripes == 0)
		return false;
	for (int i = 0; i < nstripes; i++)
		used += dissolve_stripe(call, job_id, i);
	while (!done)
	{
		TupleTableSlot *slot = jobq_find_id(call, JOBQ_WAITING, job_id);

		/* otherwise others used up or dissolved all of them before us */
		done = slot == NULL || jobq_attr_int16(slot, WAITING_STRIPES) == 0;
		if (!done)
		{
			Datum		values[WAITING_NATTS];
			bool		nulls[WAITING_NATTS];
			JobqCounters c;

			jobq_read_counters(slot, &c);
			c.undecided -= used;
			c.pending -= used;
			jobq_values(slot, values, nulls);
			jobq_set_counters(values, nulls, &c);
			jobq_set(values, nulls, WAITING_STRIPES, Int16GetDatum(0));
			done = jobq_update(call, JOBQ_WAITING, slot, values, nulls);
		}
		jobq_slot_free(slot);
	}
	jobq_advance();				/* what follows must see it */
	return true;
}
