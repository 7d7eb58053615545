/*
 * waiter.c
 *	  Sessions that sleep in job_wait or job_claim_wait, and waking them.
 *
 * A waiter registers for a job or for a queue, then looks at the tables,
 * then sleeps.  A commit callback wakes the waiters of a decided job, or one
 * waiter for each job that became ready, first come first served.  A waiter
 * that is woken is unlinked and has to register again before it looks.
 *
 * 1. The waiter registers before it takes its snapshot, and the callback looks
 *	  for waiters after its rows are visible: one of them sees the other.  For
 *	  this the counter of a bucket can be read without the lock.
 * 2. A wake-up for a queue stands for one job.  It goes to a waiter that has the
 *	  labels which that requires, and is consumed by the commit of a claim that came
 *	  after it, of a job that requires the same.  A waiter that leaves in any other
 *	  way, by an error or with another job too, passes it on to the next waiter of
 *	  that queue that has them.  So it goes on only with a job that was claimed, or
 *	  with a waiter that leaves, and never comes back.
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
#include "storage/shmem.h"

#include "shared/shared.h"

#define NBUCKETS	256

/* All fields but woken: the waiters lock. */
typedef struct Waiter
{
	dlist_node	node;			/* in the bucket of id, while it is linked */
	bool		linked;
	bool		for_job;
	int64		id;				/* of a job or a queue */
	uint64		worker;			/* the key of who waits; 0: no worker, or none
								 * with a name */
	Oid			database;
	Latch	   *latch;
	JobqLabels	labels;			/* that it has, and the key of who waits */
	JobqLabels	required;		/* by the job that it was woken for */
	pg_atomic_uint32 woken;
} Waiter;

typedef struct Bucket
{
	pg_atomic_uint32 count;		/* of waiters; written under the waiters lock */
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
static bool consumes = false;	/* and consumes the wake-up that is held */
static bool holding = false;	/* a wake-up was taken and not consumed yet */
static int64 held_queue;
static JobqLabels held_required;

/* How much shared memory it takes. */
static Size
waiters_size(void)
{
	return add_size(offsetof(Waiters, waiters), mul_size(MaxBackends, sizeof(Waiter)));
}

/* Initialize or attach. */
static void
waiters_init(LWLockPadded *locks)
{
	bool		found;

	shared = ShmemInitStruct("jobq waiters", waiters_size(), &found);
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
		n += shared->waiters[i].linked;
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

/* The bucket of a job or queue; ids of jobs and of queues spread by themselves. */
static Bucket *
waiters_bucket(int64 id)
{
	return &shared->buckets[(uint64) id % NBUCKETS];
}

/* Unlink a waiter; the caller holds the lock. */
static void
unlink_waiter(Waiter *w)
{
	if (!w->linked)
		return;
	dlist_delete(&w->node);
	pg_atomic_fetch_sub_u32(&waiters_bucket(w->id)->count, 1);
	w->linked = false;
}

/* Copy labels; NULL: none. */
static void
copy_labels(JobqLabels *to, const JobqLabels *from)
{
	to->n = from ? from->n : 0;
	if (to->n > 0)
		memcpy(to->ids, from->ids, to->n * sizeof(int64));
}

/* Wake a waiter for a job that requires these labels; the caller holds the lock. */
static void
wake_waiter(Waiter *w, const JobqLabels *required)
{
	unlink_waiter(w);
	copy_labels(&w->required, required);
	pg_atomic_write_u32(&w->woken, 1);
	SetLatch(w->latch);
}

/* Wake up to n waiters of a job, or of a queue that have the labels which the jobs there require. */
void
jobq_wake(bool for_job, int64 id, int n, const JobqLabels *required)
{
	Bucket	   *bucket = waiters_bucket(id);
	dlist_mutable_iter iter;

	pg_memory_barrier();
	if (pg_atomic_read_u32(&bucket->count) == 0)
		return;

	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	dlist_foreach_modify(iter, &bucket->head)
	{
		Waiter	   *w = dlist_container(Waiter, node, iter.cur);

		if (w->id != id || w->for_job != for_job || w->database != MyDatabaseId ||
			!jobq_has_labels(&w->labels, required))
			continue;
		if (n-- <= 0)
			break;
		wake_waiter(w, required);
	}
	LWLockRelease(waiters_lock);
}

/* Wake all waiters of this database, after changes that were not announced. */
void
jobq_wake_all(void)
{
	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	for (int i = 0; i < MaxBackends; i++)
	{
		if (shared->waiters[i].linked && shared->waiters[i].database == MyDatabaseId)
			wake_waiter(&shared->waiters[i], NULL);
	}
	LWLockRelease(waiters_lock);
}

/* At exit, in case no transaction was aborted. */
static void
leave_at_exit(int code, Datum arg)
{
	jobq_waiter_at_abort();
}

/*
 * Wait for a job to be decided, or for one to become ready in a queue; again after
 * a wake-up, which is then ours to consume.  worker: the key of its name, or 0.
 */
void
jobq_waiter_register(bool for_job, int64 id, uint64 worker, const JobqLabels *labels)
{
	static bool exit_registered = false;
	Waiter	   *w = my_waiter();
	Bucket	   *bucket = waiters_bucket(id);

	if (!exit_registered)
	{
		before_shmem_exit(leave_at_exit, (Datum) 0);
		exit_registered = true;
	}

	registered = true;
	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	unlink_waiter(w);
	if (pg_atomic_exchange_u32(&w->woken, 0) != 0 && !for_job)
	{
		holding = true;
		held_queue = w->id;
		copy_labels(&held_required, &w->required);
	}
	w->id = id;
	w->for_job = for_job;
	w->worker = worker;
	if (worker != 0)
		jobq_add_worker(&w->labels, labels, worker);
	else
		copy_labels(&w->labels, labels);
	w->database = MyDatabaseId;
	w->latch = MyLatch;
	w->linked = true;
	dlist_push_tail(&bucket->head, &w->node);
	pg_atomic_fetch_add_u32(&bucket->count, 1);
	LWLockRelease(waiters_lock);
	pg_memory_barrier();
}

/* Was this waiter woken since it registered? */
bool
jobq_waiter_woken(void)
{
	return pg_atomic_read_u32(&my_waiter()->woken) != 0;
}

/* Does a session of this database wait for a job of this queue, and have the labels that it requires? */
bool
jobq_waiter_exists(int64 queue_id, const JobqLabels *required)
{
	Bucket	   *bucket = waiters_bucket(queue_id);
	dlist_iter	iter;
	bool		found = false;

	LWLockAcquire(waiters_lock, LW_SHARED);
	dlist_foreach(iter, &bucket->head)
	{
		Waiter	   *w = dlist_container(Waiter, node, iter.cur);

		found |= w->id == queue_id && !w->for_job && w->database == MyDatabaseId &&
			jobq_has_labels(&w->labels, required);
	}
	LWLockRelease(waiters_lock);
	return found;
}

/* Does a worker of this database wait? */
bool
jobq_waiter_of_worker(uint64 worker)
{
	bool		found = false;

	LWLockAcquire(waiters_lock, LW_SHARED);
	for (int i = 0; i < MaxBackends && !found; i++)
	{
		Waiter	   *w = &shared->waiters[i];

		found = w->linked && w->worker == worker && w->database == MyDatabaseId;
	}
	LWLockRelease(waiters_lock);
	return found;
}

/* Unlink our entry, and pass on a wake-up that came since we registered. */
static void
unregister(void)
{
	Waiter	   *w = my_waiter();
	bool		woken;
	JobqLabels	required;

	if (!registered)
		return;
	LWLockAcquire(waiters_lock, LW_EXCLUSIVE);
	unlink_waiter(w);
	woken = pg_atomic_exchange_u32(&w->woken, 0) != 0 && !w->for_job;
	copy_labels(&required, &w->required);
	LWLockRelease(waiters_lock);
	registered = false;
	if (woken)
		jobq_wake(false, w->id, 1, &required);
}

/* Stop waiting; consumed: the job that we were woken for is ours. */
void
jobq_waiter_leave(bool consumed)
{
	unregister();
	if (holding && !consumed)
		jobq_wake(false, held_queue, 1, &held_required);
	holding = claimed = false;
}

/*
 * Stop waiting, with a job that requires these labels; a wake-up for one that requires
 * the same is consumed when the claim commits, another passed on then.
 */
void
jobq_waiter_claimed(const JobqLabels *required)
{
	unregister();
	claimed = true;
	consumes = holding && held_required.n == (required ? required->n : 0) &&
		(required == NULL || memcmp(required->ids, held_required.ids, required->n * sizeof(int64)) == 0);
}

/* Commit callback: the claim, if there was one, holds. */
void
jobq_waiter_at_commit(void)
{
	if (claimed)
		jobq_waiter_leave(consumes);
}

/* Abort callback: stop waiting. */
void
jobq_waiter_at_abort(void)
{
	if (registered || holding || claimed)
		jobq_waiter_leave(false);
}
