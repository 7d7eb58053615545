/*
 * waiter.c
 *	  Sessions that sleep in job_wait or job_claim_wait, and waking them.
 *
 * A waiter registers for a job or for some lanes, then looks at the tables,
 * then sleeps.  A commit callback wakes the waiters of a decided job, or one
 * waiter for each job that became ready, first come first served.  A waiter
 * that is woken is unlinked and has to register again before it looks.
 *
 * 1. The waiter registers before it takes its snapshot, and the callback looks
 *	  for waiters after its rows are visible: one of them sees the other.  For
 *	  this the counter of a bucket can be read without the lock.
 * 2. A wake-up for a lane stands for one job.  It is consumed by the commit of
 *	  a claim that came after it; a waiter that leaves in any other way, by an
 *	  error too, passes it on to the next waiter of that lane.
 * 3. Whoever leaves a transaction by abort or the server by exit is unlinked.
 *
 * The entries are one for each backend, linked into a hash table.  One LWLock
 * guards it all; it is taken by nobody while nobody waits.
 */
#include "postgres.h"

#include "lib/ilist.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/proc.h"

#include "shared/shared.h"

#define NBUCKETS	256

typedef struct Waiter Waiter;

/* All fields: the waiters lock. */
typedef struct WaiterLink
{
	dlist_node	node;			/* in a bucket */
	Waiter	   *waiter;
	int64		id;				/* of a job or a lane */
} WaiterLink;

/* All fields but woken: the waiters lock. */
struct Waiter
{
	pg_atomic_uint32 woken;
	int64		woken_id;		/* the job or lane that woke it */
	Latch	   *latch;
	Oid			database;
	bool		for_job;
	int			nlinks;			/* linked now */
	WaiterLink	links[JOBQ_WAIT_LANES];
};

typedef struct Bucket
{
	pg_atomic_uint32 count;		/* of links; written under the waiters lock */
	dlist_head	head;			/* the waiters lock */
} Bucket;

typedef struct Waiters
{
	Bucket		buckets[NBUCKETS];
	Waiter		waiters[FLEXIBLE_ARRAY_MEMBER];
} Waiters;

static Waiters *shared = NULL;
static LWLock *waiters_lock;

/* What this backend owes */
static bool registered = false; /* our entry is in use */
static bool claimed = false;	/* a claim is to be committed */
static bool holding = false;	/* a wake-up was taken and not consumed yet */
static int64 held_lane;

/* How much shared memory it takes. */
static Size
waiters_size(void)
{
	return add_size(offsetof(Waiters, waiters), mul_size(MaxBackends, sizeof(Waiter)));
}

/* Initialize or attach. */
static void
waiters_init(void *area, bool found, LWLockPadded *locks)
{
	shared = area;
	waiters_lock = &locks[0].lock;
	if (found)
		return;
	memset(shared, 0, waiters_size());
	for (int i = 0; i < NBUCKETS; i++)
	{
		pg_atomic_init_u32(&shared->buckets[i].count, 0);
		dlist_init(&shared->buckets[i].head);
	}
	for (int i = 0; i < MaxBackends; i++)
		pg_atomic_init_u32(&shared->waiters[i].woken, 0);
}

/* How many sessions wait. */
static int
waiters_used(void)
{
	int			n = 0;

	LWLockAcquire(waiters_lock, LW_SHARED);
	for (int i = 0; i < MaxBackends; i++)
		n += shared->waiters[i].nlinks > 0;
	LWLockRelease(waiters_lock);
	return n;
}

const JobqPart jobq_waiters_part = {"waiters", &MaxBackends, 1, false,
waiters_size, waiters_init, waiters_used};

/* The entry of this backend. */
static Waiter *
my_waiter(void)
{
	return &shared->waiters[MyProc - ProcGlobal->allProcs];
}

/* The bucket of a job or lane; ids of jobs and hashes of lanes spread by themselves. */
static Bucket *
waiters_bucket(int64 id)
{
	return &shared->buckets[(uint64) id % NBUCKETS];
}

/* Unlink a waiter; the caller holds the lock. */
static void
unlink_waiter(Waiter *w)
{
	for (int i = 0; i < w->nlinks; i++)
	{
		dlist_delete(&w->links[i].node);
		pg_atomic_fetch_sub_u32(&waiters_bucket(w->links[i].id)->count, 1);
	}
	w->nlinks = 0;
}

/* Wake a waiter; the caller holds the lock. */
static void
wake_waiter(Waiter *w, int64 id)
{
	unlink_waiter(w);
	w->woken_id = id;
	pg_atomic_write_u32(&w->woken, 1);
	SetLatch(w->latch);
}

/* Wake up to n waiters of a job or lane. */
static void
wake(bool for_job, int64 id, int n)
{
	Bucket	   *bucket = waiters_bucket(id);

	pg_memory_barrier();
	if (pg_atomic_read_u32(&bucket->count) == 0)
		return;

	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	while (n-- > 0)
	{
		Waiter	   *found = NULL;
		dlist_iter	iter;

		dlist_foreach(iter, &bucket->head)
		{
			WaiterLink *link = dlist_container(WaiterLink, node, iter.cur);

			if (link->id == id && link->waiter->for_job == for_job &&
				link->waiter->database == MyDatabaseId)
			{
				found = link->waiter;
				break;
			}
		}
		if (found == NULL)
			break;
		wake_waiter(found, id);
	}
	LWLockRelease(waiters_lock);
}

/* Wake all who wait for a job. */
void
jobq_wake_job(int64 job_id)
{
	wake(true, job_id, INT_MAX);
}

/* Wake as many who wait for a lane as jobs became ready in it. */
void
jobq_wake_lane(int64 lane, int n)
{
	wake(false, lane, n);
}

/* Wake all waiters of this database, after changes that were not announced. */
void
jobq_wake_all(void)
{
	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MaxBackends; i++)
	{
		Waiter	   *w = &shared->waiters[i];

		if (w->nlinks > 0 && w->database == MyDatabaseId)
			wake_waiter(w, w->links[0].id);
	}
	LWLockRelease(waiters_lock);
}

/* At exit, in case no transaction was aborted. */
static void
leave_at_exit(int code, Datum arg)
{
	jobq_waiter_at_abort();
}

/* Register, again after a wake-up, which is then ours to consume. */
static void
register_waiter(bool for_job, int n, const int64 *ids)
{
	static bool exit_registered = false;
	Waiter	   *w = my_waiter();

	if (!exit_registered)
	{
		before_shmem_exit(leave_at_exit, (Datum) 0);
		exit_registered = true;
	}
	Assert(n <= JOBQ_WAIT_LANES);

	registered = true;
	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	unlink_waiter(w);
	if (pg_atomic_exchange_u32(&w->woken, 0) != 0 && !for_job)
	{
		holding = true;
		held_lane = w->woken_id;
	}
	w->latch = MyLatch;
	w->database = MyDatabaseId;
	w->for_job = for_job;
	for (int i = 0; i < n; i++)
	{
		Bucket	   *bucket = waiters_bucket(ids[i]);

		w->links[i].waiter = w;
		w->links[i].id = ids[i];
		dlist_push_tail(&bucket->head, &w->links[i].node);
		pg_atomic_fetch_add_u32(&bucket->count, 1);
	}
	w->nlinks = n;
	LWLockRelease(waiters_lock);
	pg_memory_barrier();
}

/* Wait for a job to be decided. */
void
jobq_waiter_register_job(int64 job_id)
{
	register_waiter(true, 1, &job_id);
}

/* Wait for a job to become ready in one of some lanes. */
void
jobq_waiter_register_lanes(int nlanes, const int64 *lanes)
{
	register_waiter(false, Min(nlanes, JOBQ_WAIT_LANES), lanes);
}

/* Was this waiter woken since it registered? */
bool
jobq_waiter_woken(void)
{
	return pg_atomic_read_u32(&my_waiter()->woken) != 0;
}

/* Unlink our entry, and pass on a wake-up that came since we registered. */
static void
unregister(void)
{
	Waiter	   *w = my_waiter();
	bool		woken;

	if (!registered)
		return;
	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	unlink_waiter(w);
	woken = pg_atomic_exchange_u32(&w->woken, 0) != 0 && !w->for_job;
	LWLockRelease(waiters_lock);
	registered = false;
	if (woken)
		jobq_wake_lane(w->woken_id, 1);
}

/* Stop waiting; consumed: the job that we were woken for is ours. */
void
jobq_waiter_leave(bool consumed)
{
	unregister();
	if (holding && !consumed)
		jobq_wake_lane(held_lane, 1);
	holding = claimed = false;
}

/* Stop waiting, with a job; the wake-up is consumed when the claim commits. */
void
jobq_waiter_claimed(void)
{
	unregister();
	claimed = true;
}

/* Commit callback: the claim, if there was one, holds. */
void
jobq_waiter_at_commit(void)
{
	if (claimed)
		jobq_waiter_leave(true);
}

/* Abort callback: stop waiting. */
void
jobq_waiter_at_abort(void)
{
	if (registered || holding || claimed)
		jobq_waiter_leave(false);
}
