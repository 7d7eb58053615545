/*
 * announce.c
 *	  What a transaction does to shared memory when it commits.
 *
 * Writing to the tables announces what others want to know: jobs that became
 * ready or were decided, deadlines, leases.  That is kept here until the
 * transaction commits and its rows are visible, and then done.  If it aborts
 * nobody hears of it, and neither if the server dies at the commit: whoever
 * depends on it looks at the tables then.  The one exception are jobs that it
 * took from job_ready: when that is undone, others can have them.
 *
 * Announcements are appended to arrays.  A mark remembers how long they were
 * when a level of subtransactions first announced something: aborting it cuts
 * them off there, committing it leaves them to its parent.
 *
 * 1. They are carried out after the rows are visible, and also after locks are
 *	  released and caches invalidated: whoever is woken finds neither in its
 *	  way.  That is too late for a commit callback, so the callback that releases
 *	  resources does it.  It touches only memory attached before and allocates
 *	  nothing: it cannot fail.
 * 2. What can fail (allocation, looking at catalogs) is done when something is
 *	  announced, or before the commit.
 * 3. A claim may commit without waiting for the disk, if nothing else would be
 *	  lost with it: it drew the transaction id and no WAL was written but its own
 *	  (jobq.async_claim).  A crash that loses it leaves the job ready and the
 *	  token void.
 * 4. PREPARE TRANSACTION gives back what was taken (who gets a row that it deletes
 *	  passes over it) and forgets the rest; COMMIT PREPARED, in whatever session,
 *	  makes the worker sweep and the waiters look (hooks.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "shared/shared.h"

bool		jobq_async_claim = true;

typedef struct LeaseChange
{
	JobqLeaseAct act;
	int64		job_id;
	int64		token;
	TimestampTz until;
} LeaseChange;

#define PLACES			8		/* with more, all are looked at */

/* What is not in arrays */
typedef struct Scalars
{
	TimestampTz deadlines[DEADLINE_KINDS];	/* the lowest; DT_NOEND: none */
	bool		wake_worker;
	bool		wake_waiters;	/* all that sleep */
	bool		extension;		/* an extension came or went */
	const char *no_prepare;		/* why it cannot be prepared, or NULL */
	bool		retention;		/* how long jobs are kept was changed */
	int			nplaces;		/* of jobs to be removed, see shared.h */
	uint32		places[PLACES];
	bool		changed_rows;	/* otherwise than by what was counted */
	bool		events_lost;	/* there were too many of them */
} Scalars;

/* A worker drains, or does not any more, or is gone */
typedef struct WorkerChange
{
	uint64		worker;
	bool		drains;
} WorkerChange;

/* How things were when a level first announced something */
typedef struct Mark
{
	int			level;
	int			nready;
	int			ntaken;
	int			ndecided;
	int			nleases;
	int			nfailed;
	int			nworkers;
	int			nevents;
	int			ncounts;
	Scalars		scalars;
} Mark;

/* A growing array of one of the types above */
typedef struct Array
{
	int			n;
	int			max;
	void	   *items;
} Array;

static Array ready;				/* JobqReady */
static Array taken;				/* JobqReady, see jobq_announce_taken() */
static Array decided;			/* int64 */
static Array leases;			/* LeaseChange */
static Array failed;			/* int64: the queue of each attempt */
static Array workers;			/* WorkerChange */
static Array events;			/* JobqGateEvent */
static Array counts;			/* JobqCounts, of a queue one for each level */
static Array marks;				/* Mark, of levels above 1 */
static Scalars scalars;
static bool only_claims = false;	/* all WAL up to the next is of claims */
static XLogRecPtr claims_end;
static int	saved_commit = -1;	/* synchronous_commit, changed for this commit */
static bool anything = false;	/* something was announced */
static bool committed = false;	/* and is to be carried out now */

#define KEEP_ITEMS		1024	/* larger arrays are freed after use */
#define LOOK_BACK		16		/* entries searched for the same lane */
#define SINGLE_ROWS		512		/* rows that are remembered one by one */
#define MOST_EVENTS		2000	/* for the gatekeeper, of one transaction */

JobqEndCallbacks jobq_at_end;
JobqCounts *jobq_latest_counts = NULL;	/* of this level, or none */

/* Make room for n more items. */
static void
reserve(Array *a, int n, Size size)
{
	int			max = Max(a->max * 2, 64);

	if (a->n + n <= a->max)
		return;
	while (max < a->n + n)
		max *= 2;
	if (a->items == NULL)
		a->items = MemoryContextAllocHuge(TopMemoryContext, max * size);
	else
		a->items = repalloc_huge(a->items, max * size);
	a->max = max;
}

/* Make room for one more item and return it. */
static void *
append(Array *a, Size size)
{
	reserve(a, 1, size);
	return (char *) a->items + size * a->n++;
}

/* Empty an array. */
static void
empty(Array *a)
{
	a->n = 0;
	if (a->max > KEEP_ITEMS)
	{
		pfree(a->items);
		a->items = NULL;
		a->max = 0;
	}
}

/* Forget all announcements. */
static void
forget(void)
{
	empty(&ready);
	empty(&taken);
	empty(&decided);
	empty(&leases);
	empty(&failed);
	empty(&workers);
	empty(&events);
	empty(&marks);
	empty(&counts);
	jobq_latest_counts = NULL;
	memset(&scalars, 0, sizeof(scalars));
	for (int k = 0; k < DEADLINE_KINDS; k++)
		scalars.deadlines[k] = DT_NOEND;
	anything = false;
}

/* The latest mark. */
static Mark *
last_mark(void)
{
	return marks.n > 0 ? &((Mark *) marks.items)[marks.n - 1] : NULL;
}

/* Called before each announcement: false if there is nobody to hear of it. */
static bool
begin_announcement(void)
{
	int			level = GetCurrentTransactionNestLevel();
	Mark	   *last = last_mark();

	if (!jobq_shmem_ready())
		return false;
	if (level > 1 && (last == NULL || last->level < level))
	{
		Mark		mark;

		mark.level = level;
		mark.nready = ready.n;
		mark.ntaken = taken.n;
		mark.ndecided = decided.n;
		mark.nleases = leases.n;
		mark.nfailed = failed.n;
		mark.nworkers = workers.n;
		mark.nevents = events.n;
		mark.ncounts = counts.n;
		mark.scalars = scalars;
		*(Mark *) append(&marks, sizeof(Mark)) = mark;
	}
	anything = true;
	return true;
}

/*
 * Add a row, to an array whose part before from is closed.  Where there are many
 * they are not told apart: all of a priority from a position on stand in one.
 */
static void
add_row(Array *a, int from, const JobqReady *row)
{
	from = Max(from, a->n - LOOK_BACK);
	for (int i = a->n - 1; i >= from && a->n >= SINGLE_ROWS; i--)
	{
		JobqReady  *r = &((JobqReady *) a->items)[i];

		if (r->lane == row->lane && r->priority == row->priority &&
			r->table == row->table && r->file == row->file)
		{
			r->many = true;
			r->count += row->count;
			r->position = Min(r->position, row->position);
			return;
		}
	}
	*(JobqReady *) append(a, sizeof(JobqReady)) = *row;
}

/* A job became ready. */
void
jobq_announce_ready(const JobqReady *row)
{
	if (begin_announcement())
		add_row(&ready, last_mark() ? last_mark()->nready : 0, row);
}

/* Make sure that the next n rows can be announced as taken without an error. */
void
jobq_reserve_taken(int n)
{
	if (begin_announcement())
		reserve(&taken, n, sizeof(JobqReady));
}

/* A ready job was taken: if that is undone, others can have it. */
void
jobq_announce_taken(const JobqReady *row)
{
	if (begin_announcement())
		add_row(&taken, last_mark() ? last_mark()->ntaken : 0, row);
}

/* Jobs that were there can be claimed again: a queue was resumed. */
void
jobq_announce_resumed(int64 queue_id)
{
	JobqReady	row = {.queue_id = queue_id,.count = INT_MAX};

	if (begin_announcement())
		*(JobqReady *) append(&ready, sizeof(JobqReady)) = row;
}

/*
 * The next row of a lane that this transaction made ready and that is not
 * committed yet, or NULL.  *next is 0 at first.
 */
const JobqReady *
jobq_own_ready(int64 lane, int *next)
{
	while (*next < ready.n)
	{
		JobqReady  *r = &((JobqReady *) ready.items)[(*next)++];

		if (r->lane == lane && OidIsValid(r->table))
			return r;
	}
	return NULL;
}

/* A job was decided. */
void
jobq_announce_decided(int64 job_id)
{
	if (begin_announcement())
		*(int64 *) append(&decided, sizeof(int64)) = job_id;
}

/* A row with a deadline was written. */
void
jobq_announce_deadline(JobqDeadline kind, TimestampTz at)
{
	if (begin_announcement())
		scalars.deadlines[kind] = Min(scalars.deadlines[kind], at);
}

/* A job that stands in this block was decided, and is to be removed then. */
void
jobq_announce_removal(BlockNumber block, TimestampTz at)
{
	uint32		place = block / JOBQ_PURGE_BLOCKS;

	if (!begin_announcement())
		return;
	scalars.deadlines[DEADLINE_PURGE] = Min(scalars.deadlines[DEADLINE_PURGE], at);
	for (int i = 0; i < Min(scalars.nplaces, PLACES); i++)
	{
		if (scalars.places[i] == place)
			return;
	}
	if (scalars.nplaces < PLACES)
		scalars.places[scalars.nplaces] = place;
	scalars.nplaces = Min(scalars.nplaces + 1, PLACES + 1);
}

/* How long jobs are kept was changed. */
void
jobq_announce_retention(void)
{
	if (begin_announcement())
		scalars.retention = true;
}

/* A worker begins to drain or, false, ends to, or is gone: what is kept for it goes to any other. */
void
jobq_announce_worker(uint64 worker, bool drains)
{
	WorkerChange change = {worker, drains};

	if (begin_announcement())
		*(WorkerChange *) append(&workers, sizeof(WorkerChange)) = change;
	jobq_announce_deadline(DEADLINE_KEPT, JOBQ_LOOK_AT_ALL);
}

/* An attempt of a queue that counts them failed, timed out or was lost. */
void
jobq_announce_failure(int64 queue_id)
{
	if (begin_announcement())
		*(int64 *) append(&failed, sizeof(int64)) = queue_id;
}

/*
 * Something happened to a job of a gated queue.  Of those that arrive in one line
 * with one priority the first is enough.
 */
void
jobq_announce_gate(JobqGateAct act, int64 queue_id, int64 partition_id, int64 job_id, int64 number,
				   int16 priority)
{
	JobqGateEvent event = {.queue_id = queue_id,.partition_id = partition_id,.job_id = job_id,
	.number = number,.priority = priority,.act = act};
	int			from;

	if (!begin_announcement())
		return;
	from = Max(last_mark() ? last_mark()->nevents : 0, events.n - LOOK_BACK);
	for (int i = events.n - 1; i >= from && act == GATE_ARRIVED; i--)
	{
		JobqGateEvent *e = &((JobqGateEvent *) events.items)[i];

		if (e->act == act && e->queue_id == queue_id && e->partition_id == partition_id && e->priority == priority)
		{
			e->number = Min(e->number, number);
			return;
		}
	}
	if (events.n < MOST_EVENTS)
		*(JobqGateEvent *) append(&events, sizeof(JobqGateEvent)) = event;
	else
		scalars.events_lost = true;
}

/*
 * The numbers that this level of the transaction adds to those of a queue, for the
 * caller to add to.  They can move when others are asked for.
 */
JobqCounts *
jobq_announce_counts(int64 queue_id)
{
	static JobqCounts nobody;
	int			from;

	if (!begin_announcement())
		return &nobody;
	from = last_mark() ? last_mark()->ncounts : 0;
	for (int i = counts.n - 1; i >= from; i--)
	{
		jobq_latest_counts = &((JobqCounts *) counts.items)[i];
		if (jobq_latest_counts->queue_id == queue_id)
			return jobq_latest_counts;
	}
	jobq_latest_counts = append(&counts, sizeof(JobqCounts));
	memset(jobq_latest_counts, 0, sizeof(JobqCounts));
	jobq_latest_counts->queue_id = queue_id;
	return jobq_latest_counts;
}

/* Add what was counted from an entry on to the entries before it, from another on. */
static void
merge_counts(int from, int upto)
{
	JobqCounts *all = counts.items;
	int			n = upto;

	for (int i = upto; i < counts.n; i++)
	{
		int			k = from;

		while (k < n && all[k].queue_id != all[i].queue_id)
			k++;
		if (k == n)
			all[n++] = all[i];
		else
		{
			all[k].worked_at = Max(all[k].worked_at, all[i].worked_at);
			all[k].touched |= all[i].touched;
			for (int v = 0; v < JOBQ_COUNTS; v++)
				all[k].values[v] += all[i].values[v];
		}
	}
	counts.n = n;
}

/* Rows were changed otherwise than by what was counted. */
void
jobq_announce_changed_rows(void)
{
	if (begin_announcement())
		scalars.changed_rows = true;
}

/* Something happened to a lease; until counts where it began, or its row was extended. */
void
jobq_announce_lease(JobqLeaseAct act, int64 job_id, int64 token, TimestampTz until)
{
	LeaseChange *c;

	if (!begin_announcement())
		return;
	c = append(&leases, sizeof(LeaseChange));
	c->act = act;
	c->job_id = job_id;
	c->token = token;
	c->until = until;
}

/* Has this transaction asked for a running job to be cancelled? */
bool
jobq_own_cancel(int64 job_id)
{
	for (int i = 0; i < leases.n; i++)
	{
		LeaseChange *c = &((LeaseChange *) leases.items)[i];

		if (c->act == LEASE_CANCEL && c->job_id == job_id)
			return true;
	}
	return false;
}

/* The worker has to look at more than deadlines. */
void
jobq_announce_wake_worker(void)
{
	if (begin_announcement())
		scalars.wake_worker = true;
}

/* An extension was created or dropped; was it ours? */
void
jobq_announce_extension(void)
{
	if (begin_announcement())
		scalars.extension = true;
}

/* All who wait have to look again. */
void
jobq_announce_wake_waiters(void)
{
	if (begin_announcement())
		scalars.wake_waiters = true;
}

/* This transaction cannot be prepared; why: an error message. */
void
jobq_forbid_prepare(const char *why)
{
	if (begin_announcement())
		scalars.no_prepare = why;
}

/* Is the WAL of this transaction, if any, all of claims?  Asked before a claim. */
bool
jobq_wal_is_claims(void)
{
	if (XactLastRecEnd == InvalidXLogRecPtr)
		return !TransactionIdIsValid(GetTopTransactionIdIfAny());
	return only_claims && XactLastRecEnd == claims_end;
}

/* Noted after a claim: what was written since is its own. */
void
jobq_note_claim_wal(bool before)
{
	only_claims = before && begin_announcement();
	claims_end = XactLastRecEnd;
}

/* Let a transaction that only claimed commit without waiting for the disk. */
static void
relax_commit(void)
{
	if (!jobq_async_claim || !only_claims || XactLastRecEnd != claims_end ||
		synchronous_commit <= SYNCHRONOUS_COMMIT_OFF)
		return;
	saved_commit = synchronous_commit;
	synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
}

/* The transaction has ended. */
static void
restore_commit(void)
{
	if (saved_commit >= 0)
		synchronous_commit = saved_commit;
	saved_commit = -1;
	only_claims = false;
}

/* Jobs of a lane can be claimed: offer them, and wake those who wait for them. */
static void
tell_ready(const JobqReady *r)
{
	if (OidIsValid(r->table))
		jobq_at_end.offer(r);
	if (r->count > 0)
	{
		jobq_wake(false, r->queue_id, Min(r->count, INT_MAX), r->labels);
		jobq_worker_queue_ready(r->queue_id);
	}
}

/* Taking jobs was undone, from this entry on. */
static void
give_back(int from)
{
	for (int i = from; i < taken.n; i++)
		tell_ready(&((JobqReady *) taken.items)[i]);
	taken.n = Min(taken.n, from);
}

/* Do what was announced. */
static void
carry_out(void)
{
	if (counts.n > 0)
		jobq_counts_commit(counts.items, counts.n);
	if (scalars.changed_rows)
		jobq_base_forget();
	for (int i = 0; i < leases.n; i++)
	{
		LeaseChange *c = &((LeaseChange *) leases.items)[i];

		jobq_heartbeat_change(c->act, c->job_id, c->token, c->until);
	}
	for (int i = 0; i < ready.n; i++)
		tell_ready(&((JobqReady *) ready.items)[i]);
	for (int i = 0; i < decided.n; i++)
		jobq_wake(true, ((int64 *) decided.items)[i], INT_MAX, NULL);
	if (scalars.wake_waiters)
		jobq_wake_all();
	if (scalars.nplaces > 0)
		jobq_worker_removals(scalars.places, scalars.nplaces, PLACES);
	if (failed.n > 0)
		jobq_worker_failures(failed.items, failed.n);
	for (int i = 0; i < workers.n; i++)
	{
		WorkerChange *w = &((WorkerChange *) workers.items)[i];

		jobq_worker_changed(w->worker, w->drains);
	}
	if (events.n > 0 || scalars.events_lost)
		jobq_worker_gate_events(events.items, events.n, scalars.events_lost);
	for (int k = 0; k < DEADLINE_KINDS; k++)
	{
		if (scalars.deadlines[k] != DT_NOEND)
			jobq_worker_deadline(k, scalars.deadlines[k]);
	}
	if (scalars.wake_worker)
		jobq_worker_ask(ASK_CHECK);
	if (scalars.retention)
		jobq_worker_ask(ASK_PURGE);
}

/* Whether to tell the worker of an extension that came or went. */
static void
check_extension(void)
{
	JobqDatabase *db = jobq_my_database(false);

	/* it went if there is a slot, it came if it exists now */
	scalars.extension = false;
	if ((db != NULL && db->state != DATABASE_NONE) || jobq_extension_exists())
		scalars.wake_worker = true;
}

/* Transactions end. */
static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (scalars.extension)
				check_extension();
			relax_commit();
			break;
		case XACT_EVENT_COMMIT:
			restore_commit();
			committed = true;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (scalars.no_prepare != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("%s", scalars.no_prepare),
						 errhint("Commit it, and let a transaction of its own do what has to be prepared.")));
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			committed = false;
			restore_commit();
			jobq_at_end.abort();
			give_back(0);
			if (anything)
				forget();
			jobq_waiter_at_abort();
			jobq_at_end.end();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;
	}
}

/* Resources are released: after the locks, once, do what the commit is to do. */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top_level, void *arg)
{
	if (!committed || phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	committed = false;
	if (anything)
	{
		carry_out();
		forget();
	}
	jobq_waiter_at_commit();
	jobq_at_end.end();
}

/* Subtransactions end. */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	Mark	   *last = last_mark();

	jobq_latest_counts = NULL;	/* is of another level */
	if (event == SUBXACT_EVENT_ABORT_SUB)
		jobq_at_end.abort();
	if (last == NULL || last->level < level)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		/* the parent takes over, with a mark of its own if it has none */
		if (level == 2 || (marks.n > 1 && last[-1].level == level - 1))
		{
			merge_counts(level == 2 ? 0 : last[-1].ncounts, last->ncounts);
			marks.n--;
		}
		else
			last->level = level - 1;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		give_back(last->ntaken);
		ready.n = last->nready;
		decided.n = last->ndecided;
		leases.n = last->nleases;
		failed.n = last->nfailed;
		workers.n = last->nworkers;
		events.n = last->nevents;
		counts.n = last->ncounts;
		scalars = last->scalars;
		marks.n--;
	}
}

/* Register the callbacks, once. */
void
jobq_announce_init(void)
{
	forget();
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
	RegisterResourceReleaseCallback(release_callback, NULL);
}
