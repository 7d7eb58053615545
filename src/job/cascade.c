/*
 * cascade.c
 *	  What a job that is decided, or opened again, does to those downstream.
 *
 * One call handles its arguments and everything that follows from them as one
 * list of ids, a tree, always taking the lowest.  Edges run from lower ids to
 * higher ones, so the list only moves up, each id is handled once, and two calls
 * meet in the same order.  The list takes memory in proportion to its width; depth
 * costs nothing.
 *
 * Model.  job_waiting counts how far a job's dependencies are (rules.c).  What
 * changes the counts is added to them in one of two ways:
 *	-	at once, in the row of the waiting job, if nobody has it locked nor, where
 *		the job is then decided, its row in job;
 *	-	else, and always for a wide job, by a delta, a row of job_delta, which locks
 *		nothing.  The background worker folds deltas into the row once they are
 *		committed.  A job is wide that had JOBQ_WIDE undecided upstream jobs or more
 *		when it began to wait: all of them would contend for its row.
 * Where a delta would not do, that is, where an upstream job is opened again or a
 * submission meets one that is just being changed, a row of job_recount asks the
 * background worker to count all edges anew, and until then no verdict about the
 * job is acted on.  So no call waits for the row of a
 * job that it does not name, and several calls in one transaction, in any order,
 * do not deadlock with those of others.
 *
 * Invariants (docs/DESIGN.md says them in full)
 *	D2	A submission locks its upstream jobs FOR SHARE before it reads them and
 *		inserts edges, or asks for a recount and decides nothing; a decision or
 *		reopening updates its row first and reads the edges after, with a snapshot
 *		taken then.
 *	D3	A job that is ready, scheduled, runs, ran, or is only held is not touched
 *		by what becomes of its upstream jobs, but by a retry of one with
 *		downstream (downstream.c).
 *	D4	The counters of an open row plus the deltas of its epoch equal what its
 *		edges and the rows of its upstream jobs say, unless a recount is asked for.
 *
 * Deltas may be folded late and in any order.  Of jobs that are decided they only
 * add what no later one takes back (D1), so whoever knows a part of them can be
 * late, never wrong.  An upstream job that is opened again is taken back in the
 * row itself or by a recount, never by a delta: a fold that decides the job before
 * is thus seen by it, and the job opened again; a delta of the first decision that
 * is folded after it finds counts that are lower than the truth, which mean WAIT.
 *
 * An epoch is a number from the sequence, drawn whenever the edges are counted.
 * Counting anew locks the upstream jobs that are undecided; where a decision is
 * under way it is put off until that has committed, whose delta bears the old
 * epoch, and is dropped.
 *
 * Locks, for one id: its state row, then its row in job.  A crash leaves nothing
 * but deltas that are still to be folded, and recounts.
 */
#include "postgres.h"

#include "lib/rbtree.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "job/job.h"

#define BULK_DOWNSTREAM	64		/* from so many on */

typedef struct CascadeItem
{
	RBTNode		node;
	int64		id;
	int			argument;		/* -1: none */
	bool		reopened;		/* an upstream job was opened again */
	bool		follows;		/* from one of these, by an edge of its rule */
	JobqCounters change;		/* by what this call did upstream */
	bool		folding;		/* there are deltas to be folded, too: */
	int64		epoch;			/* they belong to this one */
	JobqCounters folded;		/* their sum */
} CascadeItem;

/*
 * A job whose deltas are to be folded.  Those of a flow's members are apart from
 * those of the jobs that it waited for, which may come after it has started.
 */
typedef struct LockedKey
{
	int64		id;
	int64		members;		/* 1: it is a flow, and these are of its
								 * members; else 0 */
} LockedKey;

typedef struct LockedJob
{
	LockedKey	key;			/* hash key */
	bool		ok;				/* its rows could be locked */
	/* of a flow */
	bool		closes;			/* all of its members are decided */
	JobqFlowChange sum;
	int			last;			/* of its deltas */
} LockedJob;

/* Are these of a flow's members? */
static bool
is_of_members(const LockedJob *job)
{
	return job->key.members != 0;
}

/* The key of what a delta is for. */
static LockedKey
locked_key(TupleTableSlot *delta)
{
	LockedKey	key = {jobq_attr_int64(delta, DELTA_DOWNSTREAM), jobq_attr_int64(delta, DELTA_EPOCH) == 0};

	return key;
}

/* A flow, and what this call did to its members */
typedef struct FlowItem
{
	int64		id;				/* hash key */
	JobqCounters change;
} FlowItem;

struct JobqCascade
{
	JobqCall   *call;
	RBTree	   *items;			/* by id */
	HTAB	   *flows;			/* NULL: none */
};

/* Where a job stands whose upstream jobs changed */
typedef enum Standing
{
	STANDING_OPEN,				/* waits for them */
	STANDING_DECIDED,			/* may have to be opened again */
	STANDING_AWAY				/* is none of their business any more */
} Standing;

/* The order of the items. */
static int
compare_items(const RBTNode *a, const RBTNode *b, void *arg)
{
	int64		ida = ((const CascadeItem *) a)->id;
	int64		idb = ((const CascadeItem *) b)->id;

	return ida < idb ? -1 : ida > idb;
}

/* One that is there already stays as it is. */
static void
keep_item(RBTNode *existing, const RBTNode *new, void *arg)
{
}

/* An item lives where its list does. */
static RBTNode *
alloc_item(void *mcxt)
{
	return MemoryContextAlloc(mcxt, sizeof(CascadeItem));
}

/* Free an item that was taken from its list. */
static void
free_item(RBTNode *item, void *mcxt)
{
	pfree(item);
}

/* An empty list. */
JobqCascade *
jobq_cascade_create(JobqCall *call)
{
	JobqCascade *cascade = palloc(sizeof(JobqCascade));

	cascade->call = call;
	cascade->items = rbt_create(sizeof(CascadeItem), compare_items, keep_item, alloc_item, free_item,
								CurrentMemoryContext);
	cascade->flows = NULL;
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
	CascadeItem new = {.id = id,.argument = -1};
	bool		is_new;

	return (CascadeItem *) rbt_insert(cascade->items, &new.node, &is_new);
}

/* Add an argument of the call; false: its id was there already. */
bool
jobq_cascade_add_argument(JobqCascade *cascade, int64 id, int argument)
{
	CascadeItem *item = cascade_item(cascade, id);

	if (item->argument >= 0)
		return false;
	item->argument = argument;
	return true;
}

/*
 * Add the jobs downstream of one that got (n = 1) or lost (n = -1) an outcome, with
 * a result or none (NULL): its row in job is updated.
 */
void
jobq_cascade_add_downstream(JobqCascade *cascade, int64 id, int outcome, const Datum *result, int n)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(cascade->call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *edge;

	while ((edge = jobq_scan_next(scan)) != NULL)
	{
		CascadeItem *item = cascade_item(cascade, jobq_attr_int64(edge, DEP_DOWNSTREAM));

		CHECK_FOR_INTERRUPTS();
		jobq_count_edge(&item->change, jobq_attr_int16(edge, DEP_REQUIRE), jobq_attr_int16(edge, DEP_SUFFICE),
						jobq_counts_as(outcome, result, jobq_attr_cstring(edge, DEP_CONDITION)), n);
		item->reopened |= n < 0;
		item->follows |= n < 0 && jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY;
	}
	jobq_scan_end(scan);
}

/*
 * A job is counted anew by the caller, who has changed all that is upstream of it:
 * forget what was added to it.  Returns whether it follows from a job that was opened
 * again.  Only before the list is run: a removal within the tree moves another item.
 */
bool
jobq_cascade_take(JobqCascade *cascade, int64 id)
{
	CascadeItem key = {.id = id};
	CascadeItem *item = (CascadeItem *) rbt_find(cascade->items, &key.node);
	bool		follows = item != NULL && item->follows;

	if (item != NULL)
		rbt_delete(cascade->items, &item->node);
	return follows;
}

/* A job got (n = 1) or lost (n = -1) an outcome: tell the flow that it is a member of, if any. */
void
jobq_cascade_tell_flow(JobqCascade *cascade, TupleTableSlot *job, int outcome, int n)
{
	int64		id = jobq_attr_int64(job, JOB_FLOW);
	FlowItem   *item;
	bool		found;

	if (id == 0)
		return;
	if (cascade->flows == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(FlowItem),.hcxt = GetMemoryChunkContext(cascade)};

		cascade->flows = hash_create("jobq flows", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	item = hash_search(cascade->flows, &id, HASH_ENTER, &found);
	if (!found)
		memset(&item->change, 0, sizeof(JobqCounters));
	jobq_count_member(&item->change, jobq_is_critical(job), outcome, n);
}

/* Insert a delta; returns its number. */
static int64
insert_delta(JobqCall *call, int64 id, int64 epoch, const JobqFlowChange *change)
{
	JobqRow		new = {0};
	int64		seq = jobq_nextval();

	jobq_set(&new, DELTA_SEQ, Int64GetDatum(seq));
	jobq_set(&new, DELTA_DOWNSTREAM, Int64GetDatum(id));
	jobq_set(&new, DELTA_EPOCH, Int64GetDatum(epoch));
	jobq_set_counters(&new, DELTA_UNDECIDED, &change->c);
	jobq_set(&new, DELTA_RUNNING, Int32GetDatum(change->running));
	jobq_set(&new, DELTA_PERMITS, Int32GetDatum(change->permits));
	jobq_insert(call, JOBQ_DELTA, &new);
	return seq;
}

/*
 * Leave a delta for the background worker.  It bears the epoch of a row that was
 * looked at after the upstream jobs were updated: whoever counts anew after that
 * sees them, or waits for them.  Those of a flow's members bear 0.
 */
void
jobq_leave_delta(JobqCall *call, int64 id, int64 epoch, const JobqCounters *c)
{
	JobqFlowChange change = {*c};

	jobq_announce_deadline(DEADLINE_DELTA, insert_delta(call, id, epoch, &change));
}

/*
 * The same for a flow.  One that is not announced is left by the background worker, which comes
 * back to it after a delay.
 */
void
jobq_leave_flow_delta(JobqCall *call, int64 flow, const JobqFlowChange *change, bool announce)
{
	int64		seq = insert_delta(call, flow, 0, change);

	if (announce)
		jobq_announce_deadline(DEADLINE_DELTA, seq);
}

/*
 * Lock the row in job of one that a verdict decides, as those who submit jobs
 * downstream of it do.  False: somebody else has it locked.
 */
static bool
lock_decided(JobqCall *call, int64 id, JobqVerdict verdict)
{
	TupleTableSlot *job;
	bool		ok;

	if (verdict == VERDICT_WAIT || verdict == VERDICT_READY)
		return true;
	job = jobq_find_id(call, JOBQ_JOB, id);
	ok = job == NULL || (jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitSkip) &&
						 jobq_lock_key(call, job) && jobq_lock_superseded(call, job, LockWaitSkip));
	jobq_slot_free(job);
	return ok;
}

/*
 * May this call act on the verdict about a waiting job?  Not if its edges are to be
 * counted anew, nor if a row that this takes is locked.
 */
static bool
may_act(JobqCall *call, TupleTableSlot *row, JobqVerdict verdict)
{
	int64		id = jobq_attr_int64(row, STATE_JOB_ID);

	if (jobq_recount_asked(call, id))
		return false;
	return verdict == VERDICT_READY ||
		(jobq_lock(call, JOBQ_WAITING, row, LockTupleExclusive, LockWaitSkip) &&
		 lock_decided(call, id, verdict));
}

/* What the counters of a waiting job would mean. */
static JobqVerdict
row_verdict(TupleTableSlot *row, const JobqCounters *c)
{
	return jobq_verdict(jobq_attr_int16(row, WAITING_RULE), jobq_attr_int32(row, WAITING_QUORUM), c);
}

/*
 * Write new counters into the row of a waiting job and act on the verdict.
 * False: the row changed or, unless the mode is to wait, somebody has it locked, or
 * the verdict is not for this call.
 */
static bool
count_at_once(JobqCascade *cascade, TupleTableSlot *row, const JobqCounters *c, int64 epoch,
			  JobqLeaveMode mode)
{
	JobqCall   *call = cascade->call;
	JobqVerdict verdict = row_verdict(row, c);
	JobqPrefix	prefix;

	jobq_read_waiting(row, &prefix);
	if (mode != LEAVE_WAIT && verdict != VERDICT_WAIT && !may_act(call, row, verdict))
		return false;

	/* it waits on, for others, for job_unhold or for job_decide */
	if (verdict == VERDICT_WAIT ||
		(verdict == VERDICT_READY && (prefix.manual || jobq_attr_bool(row, WAITING_HELD))))
	{
		JobqRow		new;

		jobq_values(row, &new);
		jobq_set_counters(&new, WAITING_UNDECIDED, c);
		jobq_set(&new, WAITING_EPOCH, Int64GetDatum(epoch));
		jobq_set(&new, WAITING_OPEN, BoolGetDatum(verdict == VERDICT_WAIT));
		return jobq_update(call, JOBQ_WAITING, row, &new,
						   mode == LEAVE_WAIT ? LockWaitBlock : LockWaitSkip);
	}

	/* it goes on, or is decided without having run */
	if (!jobq_state_leave(call, JOBQ_WAITING, row, mode))
		return false;
	if (verdict == VERDICT_READY)
		jobq_enter_next(call, &prefix, 0);
	else
	{
		JobqDecision decision = {.outcome = verdict,.attempt_outcome = -1};

		jobq_decide(cascade, &prefix, &decision);
	}
	return true;
}

/*
 * Count what became of the upstream jobs of one that waits for them.  A row that
 * was walked to may be of before they were updated.
 */
static void
count(JobqCascade *cascade, CascadeItem *item, TupleTableSlot *row, bool walked)
{
	int64		epoch = jobq_attr_int64(row, WAITING_EPOCH);
	bool		fold = item->folding && item->epoch == epoch;
	JobqCounters c;

	/*
	 * only deltas, and counted anew since; an end that changed has undecided
	 * 0, too
	 */
	if (!fold && !item->reopened && item->change.n[UNDECIDED] == 0)
		return;

	/*
	 * asked for since the row was locked: that will see what the deltas say,
	 * and this call
	 */
	if (fold && jobq_recount_asked(cascade->call, item->id))
		return;
	jobq_read_counters(row, WAITING_UNDECIDED, &c);
	jobq_add_counters(&c, &item->change);
	if (fold)
	{
		/* the row is locked */
		jobq_add_counters(&c, &item->folded);
		if (!count_at_once(cascade, row, &c, epoch, LEAVE_WAIT))
			elog(ERROR, "row of waiting job %lld has changed while locked", (long long) item->id);
	}
	else if (item->reopened)
	{
		if (!count_at_once(cascade, row, &c, epoch, LEAVE_TRY))
			jobq_ask_recount(cascade->call, item->id);
	}
	else if (jobq_attr_bool(row, WAITING_WIDE) ||
			 !count_at_once(cascade, row, &c, epoch, LEAVE_TRY))
	{
		TupleTableSlot *latest = walked ? jobq_find_id(cascade->call, JOBQ_WAITING, item->id) : row;

		if (latest != NULL)
			jobq_leave_delta(cascade->call, item->id, jobq_attr_int64(latest, WAITING_EPOCH), &item->change);
		if (latest != row)
			jobq_slot_free(latest);
	}
}

/*
 * Open a job again that was decided without having run, if what became of its
 * upstream jobs does not mean that any more.  Where they were opened, and decided
 * in another way, before it is looked at, it is decided anew at once (D1).  False:
 * somebody has rows locked, nothing is done.
 */
static bool
reopen(JobqCascade *cascade, TupleTableSlot *job)
{
	JobqCall   *call = cascade->call;
	int64		id = jobq_attr_int64(job, JOB_ID);
	int			outcome = jobq_attr_int16(job, JOB_OUTCOME);
	JobqRule	rule = jobq_attr_int16(job, JOB_RULE);
	int			quorum = jobq_attr_int32(job, JOB_QUORUM);
	JobqDecision decision = {.attempt_outcome = -1};
	int64		holder;
	JobqCounters c;
	JobqVerdict verdict;
	JobqPrefix	prefix;
	bool		open = true;

	/* it ran, was cancelled, or was decided by job_decide() */
	if ((outcome != OUTCOME_SKIPPED && outcome != OUTCOME_UPSTREAM_FAILED) ||
		!slot_attisnull(job, JOB_ATTEMPT_OUTCOME) || !slot_attisnull(job, JOB_DECIDED_BY))
		return true;

	/*
	 * a flow that is decided keeps its members as they are, former ones stay
	 * so
	 */
	if (!slot_attisnull(job, JOB_FORMER_FLOW))
		return true;
	if (!slot_attisnull(job, JOB_FLOW) &&
		!jobq_lock_open_flow(call, jobq_attr_int64(job, JOB_FLOW), LockWaitSkip, &open))
		return false;
	if (!open)
		return true;
	jobq_advance();				/* this call may have decided some upstream */
	/* from here on no other retry decides about it */
	if (!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitSkip) ||
		!jobq_count_edges(call, id, OUTCOME_ANY, &c))
		return false;
	verdict = jobq_verdict(rule, quorum, &c);
	if (verdict != VERDICT_WAIT && verdict != VERDICT_READY)
		decision.outcome = verdict;
	if (decision.outcome == outcome)
		return true;
	/* if another job has its key, it goes on without */
	if (jobq_take_key_again(call, job, false, &holder) == KEY_BUSY)
		return false;
	if (!jobq_reopen(call, job, true, &prefix))
		elog(ERROR, "row of job %lld has changed while locked", (long long) id);
	if (verdict == VERDICT_READY)
		jobq_enter_next(call, &prefix, 0);
	else if (verdict == VERDICT_WAIT)
		jobq_enter_waiting(call, &prefix, &c, rule, quorum, jobq_nextval(), false);
	jobq_advance();				/* those downstream must see what it is now */
	jobq_cascade_add_downstream(cascade, id, outcome, NULL, -1);
	jobq_cascade_tell_flow(cascade, job, outcome, -1);
	if (decision.outcome != 0)
	{
		jobq_decide(cascade, &prefix, &decision);
		jobq_advance();
	}
	return true;
}

/*
 * The same for a member of a flow that is opened again: what it depends on outside can have
 * changed while the flow was decided.
 */
void
jobq_reconsider(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	JobqCascade *cascade = jobq_cascade_create(call);

	/* one without dependencies was left out by its condition */
	if (job != NULL && !slot_attisnull(job, JOB_OUTCOME) && jobq_attr_int32(job, JOB_DEPENDENCIES) > 0 &&
		!reopen(cascade, job))
		jobq_ask_recount(call, id);
	jobq_slot_free(job);
	jobq_cascade_run(cascade, NULL, NULL);
}

/*
 * Where a job stands, and its row in job_waiting or job.  A row that was walked
 * to may be older than what this call did or waited for.  With an upstream job opened
 * again, whether the job waits or is decided is seen under one snapshot: others
 * may open it, and decide it, again and again while we look.
 */
static Standing
find_standing(JobqCall *call, int64 id, bool reopened, TupleTableSlot **row, bool *walked)
{
	Datum		key = Int64GetDatum(id);
	Standing	standing = STANDING_AWAY;
	Snapshot	snapshot;

	if (!reopened)
	{
		*row = jobq_walk_id(call, JOBQ_WAITING, id, NULL, walked);
		if (*row != NULL && !jobq_attr_bool(*row, WAITING_OPEN) && *walked)
		{
			jobq_slot_free(*row);
			*row = jobq_find_id(call, JOBQ_WAITING, id);
			*walked = false;
		}
		return *row != NULL && jobq_attr_bool(*row, WAITING_OPEN) ? STANDING_OPEN : STANDING_AWAY;
	}

	*walked = false;
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	*row = jobq_find(call, JOBQ_JOB, INDEX_KEY, 1, &key, snapshot);
	if (*row != NULL && !slot_attisnull(*row, JOB_OUTCOME))
		standing = STANDING_DECIDED;
	else
	{
		jobq_slot_free(*row);
		*row = jobq_find(call, JOBQ_WAITING, INDEX_KEY, 1, &key, snapshot);
		if (*row != NULL && jobq_attr_bool(*row, WAITING_OPEN))
			standing = STANDING_OPEN;
	}
	UnregisterSnapshot(snapshot);
	return standing;
}

/* Handle a job whose upstream jobs changed. */
static void
handle_downstream(JobqCascade *cascade, CascadeItem *item)
{
	TupleTableSlot *row;
	bool		walked;

	switch (find_standing(cascade->call, item->id, item->reopened, &row, &walked))
	{
		case STANDING_OPEN:
			count(cascade, item, row, walked);
			break;
		case STANDING_DECIDED:
			if (!reopen(cascade, row))
				jobq_ask_recount(cascade->call, item->id);
			break;
		case STANDING_AWAY:
			break;
	}
	jobq_slot_free(row);
}

/* Leave deltas for the flows that were told something. */
static void
tell_flows(JobqCascade *cascade)
{
	HASH_SEQ_STATUS seq;
	FlowItem   *item;

	if (cascade->flows == NULL)
		return;
	hash_seq_init(&seq, cascade->flows);
	while ((item = hash_seq_search(&seq)) != NULL)
		jobq_leave_delta(cascade->call, item->id, 0, &item->change);
	hash_destroy(cascade->flows);
	cascade->flows = NULL;
}

/*
 * Handle the list to its end.  Where there are many jobs downstream their new
 * rows are inserted many at once, which none of this reads again.
 */
void
jobq_cascade_run(JobqCascade *cascade, JobqArgumentHandler handler, void *arg)
{
	CascadeItem *item;
	int			downstream = 0;

	while ((item = (CascadeItem *) rbt_leftmost(cascade->items)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (item->change.n[UNDECIDED] != 0 || item->reopened || item->folding)
		{
			if (++downstream == BULK_DOWNSTREAM)
				jobq_bulk_begin(cascade->call);
			handle_downstream(cascade, item);
		}
		if (item->argument >= 0)
			handler(cascade, item->id, item->argument, arg);
		rbt_delete(cascade->items, &item->node);
	}
	tell_flows(cascade);
	jobq_bulk_end(cascade->call);
}

/*
 * For the background worker: count the edges of a job anew, as was asked for by
 * somebody who met a row that was locked, and act on the verdict.  False:
 * somebody has the job, or one upstream, locked, try again later.
 */
bool
jobq_recount(JobqCall *call, int64 seq, TimestampTz deadline, TimestampTz *retry_at)
{
	TupleTableSlot *asked = jobq_find_id(call, JOBQ_RECOUNT, seq);
	JobqCascade *cascade = jobq_cascade_create(call);
	TupleTableSlot *row;
	JobqCounters c;
	int64		id;
	bool		walked;
	bool		ok = true;

	if (asked == NULL)
		return true;
	id = jobq_attr_int64(asked, RECOUNT_JOB_ID);
	switch (find_standing(call, id, true, &row, &walked))
	{
		case STANDING_OPEN:
			ok = jobq_lock(call, JOBQ_WAITING, row, LockTupleNoKeyExclusive, LockWaitSkip) &&
				jobq_count_edges(call, id, OUTCOME_SUCCEEDED, &c) &&
				lock_decided(call, id, row_verdict(row, &c));
			if (ok && !count_at_once(cascade, row, &c, jobq_nextval(), LEAVE_WAIT))
				elog(ERROR, "row of waiting job %lld has changed while locked", (long long) id);
			break;
		case STANDING_DECIDED:
			ok = reopen(cascade, row);
			break;
		case STANDING_AWAY:
			break;
	}
	ok = ok && jobq_delete(call, JOBQ_RECOUNT, asked, LockWaitSkip);
	jobq_slot_free(row);
	jobq_slot_free(asked);
	jobq_cascade_run(cascade, NULL, NULL);
	return ok;
}

/*
 * May deltas of this job be folded?  Its row, if it waits, is locked for that, so
 * that the fold will not have to wait.  Where its edges are to be counted anew, that
 * comes first: it drops these deltas.
 */
static bool
lock_for_fold(JobqCall *call, int64 id)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_WAITING, id);
	bool		ok = row == NULL ||
	(jobq_lock(call, JOBQ_WAITING, row, LockTupleNoKeyExclusive, LockWaitSkip) && !jobq_recount_asked(call, id));

	jobq_slot_free(row);
	return ok;
}

/* Add a delta to its job's item; those of an older epoch were counted anew. */
static void
add_delta(CascadeItem *item, TupleTableSlot *delta)
{
	int64		epoch = jobq_attr_int64(delta, DELTA_EPOCH);
	JobqCounters c;

	jobq_read_counters(delta, DELTA_UNDECIDED, &c);
	if (!item->folding || item->epoch < epoch)
	{
		item->folding = true;
		item->epoch = epoch;
		item->folded = c;
	}
	else if (item->epoch == epoch)
		jobq_add_counters(&item->folded, &c);
}

/* Once all its deltas are added: can the fold decide the job, if it has to? */
static bool
lock_folded(JobqCall *call, CascadeItem *item)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_WAITING, item->id);
	JobqCounters c;
	bool		ok = true;

	if (row != NULL && jobq_attr_bool(row, WAITING_OPEN) &&
		jobq_attr_int64(row, WAITING_EPOCH) == item->epoch)
	{
		jobq_read_counters(row, WAITING_UNDECIDED, &c);
		jobq_add_counters(&c, &item->folded);
		ok = lock_decided(call, item->id, row_verdict(row, &c));
	}
	jobq_slot_free(row);
	return ok;
}

/*
 * For the background worker: fold deltas, given by their seqs in ascending order.
 * done[i] becomes false where somebody has the job, or a member that its flow would
 * let in, locked, so that it is to be tried again.
 */
void
jobq_fold_deltas(JobqCall *call, int n, const int64 *seqs, bool *done)
{
	JobqCascade *cascade = jobq_cascade_create(call);
	HASHCTL		ctl = {.keysize = sizeof(LockedKey),.entrysize = sizeof(LockedJob),.hcxt = CurrentMemoryContext};
	HTAB	   *jobs = hash_create("jobq locked", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	TupleTableSlot **deltas = palloc(n * sizeof(TupleTableSlot *));
	HASH_SEQ_STATUS status;
	LockedJob  *job;

	/* add them up, of the jobs whose rows are free */
	for (int i = 0; i < n; i++)
	{
		LockedKey	key;
		bool		found;

		done[i] = true;
		deltas[i] = jobq_find_id(call, JOBQ_DELTA, seqs[i]);
		if (deltas[i] == NULL)
			continue;
		key = locked_key(deltas[i]);
		job = hash_search(jobs, &key, HASH_ENTER, &found);
		if (!found)
		{
			memset((char *) job + sizeof(LockedKey), 0, sizeof(LockedJob) - sizeof(LockedKey));
			job->ok = is_of_members(job) ? jobq_lock_to_fold(call, key.id) : lock_for_fold(call, key.id);
		}
		if (is_of_members(job))
		{
			JobqCounters c;

			jobq_read_counters(deltas[i], DELTA_UNDECIDED, &c);
			jobq_add_counters(&job->sum.c, &c);
			job->sum.running += jobq_attr_int32(deltas[i], DELTA_RUNNING);
			job->sum.permits += jobq_attr_int32(deltas[i], DELTA_PERMITS);
			job->last = i;
		}
		else if (job->ok)
			add_delta(cascade_item(cascade, key.id), deltas[i]);
	}
	jobq_advance();				/* the rows are locked */
	hash_seq_init(&status, jobs);
	while ((job = hash_seq_search(&status)) != NULL)
	{
		if (is_of_members(job))
			job->ok = job->ok && jobq_prepare_to_close(call, job->key.id, &job->sum, &job->closes);
		else if (job->ok && !lock_folded(call, cascade_item(cascade, job->key.id)))
		{
			job->ok = false;
			cascade_item(cascade, job->key.id)->folding = false;
		}
	}

	/* take away those that are folded */
	for (int i = 0; i < n; i++)
	{
		LockedKey	key;

		if (deltas[i] == NULL)
			continue;
		key = locked_key(deltas[i]);
		job = hash_search(jobs, &key, HASH_FIND, NULL);
		done[i] = job->ok;
		if (job->ok && !jobq_delete(call, JOBQ_DELTA, deltas[i], LockWaitBlock))
			elog(ERROR, "delta %lld has changed", (long long) seqs[i]);
		jobq_slot_free(deltas[i]);
	}
	jobq_advance();
	hash_seq_init(&status, jobs);
	while ((job = hash_seq_search(&status)) != NULL)
	{
		if (is_of_members(job) && job->ok)
			done[job->last] = jobq_fold_flow(cascade, job->key.id, &job->sum, job->closes);
	}
	jobq_cascade_run(cascade, NULL, NULL);
}
