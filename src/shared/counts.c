/*
 * counts.c
 *	  Numbers of each queue: what was done since the server was started, and how
 *	  many rows there are.
 *
 * announce.c gathers what a transaction adds to the numbers of each queue, and has it
 * added after the commit.  The first numbers of a queue, the gauges, count rows: how many there
 * are now.  Shared memory is empty at first, so they mean something only on top
 * of a base, which is a count of the rows (job/metrics.c), taken while
 * others go on:
 *
 *	1. Who counts takes a snapshot under the lock, exclusively, leaves it here, and
 *	   sets the gauges to zero.  It then counts the rows under that snapshot, and
 *	   adds what it has counted.
 *	2. A commit adds its numbers under the lock, shared: to the gauges only if there
 *	   is such a snapshot, and its transaction is not visible in it.  So whatever is
 *	   committed is counted once: by its commit, or in the base.
 *	3. Whatever commits without that (a prepared transaction; a queue for which
 *	   there is no room) has the base forgotten.  So has what changes rows otherwise,
 *	   if it can be noticed: other files of the tables, a gauge below zero.
 *
 * Who reads holds the lock exclusively, so each commit is there as a whole, or
 * not at all.  A transaction's numbers are there when its COMMIT returns, some
 * microseconds after its rows are visible to others.
 *
 * This file does not know what the numbers mean.  A crash leaves nothing.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/twophase.h"
#include "access/xact.h"
#include "lib/ilist.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/snapmgr.h"

#include "shared/shared.h"

int			jobq_max_metrics = JOBQ_DEFAULT_MAX_METRICS;

#define READ_TRIES		100		/* a millisecond each, while a gauge is below
								 * zero */
#define GAUGES_MASK		((UINT64CONST(1) << JOBQ_GAUGES) - 1)

/* The numbers of a queue.  The lock guards all but the values, which commits change with it shared. */
typedef struct Entry
{
	dlist_node	node;			/* in a bucket or the free list */
	Oid			database;		/* InvalidOid: the entry is free */
	int64		queue_id;
	pg_atomic_uint64 worked_at; /* when a worker last claimed or ended
								 * something; 0: never */
	pg_atomic_uint64 values[JOBQ_COUNTS];
} Entry;

typedef enum BaseState
{
	BASE_NONE,					/* the gauges mean nothing */
	BASE_COUNTING,				/* they are what was committed since the
								 * snapshot */
	BASE_THERE
} BaseState;

/* What the gauges of a database begin with; guarded by the lock */
typedef struct Base
{
	Oid			database;		/* InvalidOid: free */
	BaseState	state;
	uint32		generation;		/* raised whenever it begins or is forgotten */
	JobqFileNumber files[JOBQ_GAUGES];	/* of the tables that were counted */
	uint64		xmax;			/* the snapshot: this and later ones are not
								 * visible in it, */
	uint32		nxip;
	TransactionId *xip;			/* nor these */
} Base;

typedef struct Counts
{
	int			nbases;			/* in use, or free between them */
	dlist_head	free;			/* entries that are not in use */
	dlist_head *buckets;		/* the others by hash, as many as entries */
	Entry	   *entries;
	Base		bases[FLEXIBLE_ARRAY_MEMBER];
} Counts;

static Counts *shared = NULL;
static LWLock *counts_lock;

/* Memory */

/* How many transactions a snapshot can show as running. */
static int
max_xip(void)
{
	return MaxBackends + max_prepared_xacts;
}

/* How much shared memory it takes. */
static Size
counts_size(void)
{
	Size		base = sizeof(Base) + MAXALIGN(max_xip() * sizeof(TransactionId));

	return add_size(MAXALIGN(sizeof(Counts)) + mul_size(jobq_max_databases, MAXALIGN(base)),
					mul_size(jobq_max_metrics, sizeof(Entry) + sizeof(dlist_head)));
}

/* Initialize or attach. */
static void
counts_init(LWLockPadded *locks)
{
	bool		found;
	char	   *p;

	counts_lock = &locks[0].lock;
	shared = ShmemInitStruct("jobq metrics", counts_size(), &found);
	if (found)
		return;
	memset(shared, 0, counts_size());
	p = (char *) shared + MAXALIGN(offsetof(Counts, bases) + jobq_max_databases * sizeof(Base));
	shared->entries = (Entry *) p;
	p += jobq_max_metrics * sizeof(Entry);
	shared->buckets = (dlist_head *) p;
	p += jobq_max_metrics * sizeof(dlist_head);
	dlist_init(&shared->free);
	for (int i = 0; i < jobq_max_metrics; i++)
	{
		Entry	   *e = &shared->entries[i];

		pg_atomic_init_u64(&e->worked_at, 0);
		for (int k = 0; k < JOBQ_COUNTS; k++)
			pg_atomic_init_u64(&e->values[k], 0);
		dlist_push_tail(&shared->free, &e->node);
		dlist_init(&shared->buckets[i]);
	}
	for (int i = 0; i < jobq_max_databases; i++)
	{
		shared->bases[i].xip = (TransactionId *) p;
		p += MAXALIGN(max_xip() * sizeof(TransactionId));
	}
}

/* How many entries are in use. */
static int
counts_used(void)
{
	int			n = 0;

	LWLockAcquire(counts_lock, LW_SHARED);
	for (int i = 0; i < jobq_max_metrics; i++)
		n += OidIsValid(shared->entries[i].database);
	LWLockRelease(counts_lock);
	return n;
}

const JobqPart jobq_counts_part = {"metrics", &jobq_max_metrics, 1, false,
counts_size, counts_init, counts_used};

/* Entries and bases; the caller holds the lock */

/* The list that an entry of this database is in. */
static dlist_head *
bucket_of(int64 queue_id)
{
	return &shared->buckets[((uint64) queue_id + MyDatabaseId) % jobq_max_metrics];
}

/* Find an entry of this database, or NULL. */
static Entry *
find_entry(int64 queue_id)
{
	dlist_iter	iter;

	dlist_foreach(iter, bucket_of(queue_id))
	{
		Entry	   *e = dlist_container(Entry, node, iter.cur);

		if (e->queue_id == queue_id && e->database == MyDatabaseId)
			return e;
	}
	return NULL;
}

/* The same, or make one; NULL: there is no room. */
static Entry *
make_entry(int64 queue_id)
{
	Entry	   *e = find_entry(queue_id);

	if (e != NULL || dlist_is_empty(&shared->free))
		return e;
	e = dlist_container(Entry, node, dlist_pop_head_node(&shared->free));
	dlist_push_head(bucket_of(queue_id), &e->node);
	e->database = MyDatabaseId;
	e->queue_id = queue_id;
	pg_atomic_write_u64(&e->worked_at, 0);
	for (int k = 0; k < JOBQ_COUNTS; k++)
		pg_atomic_write_u64(&e->values[k], 0);
	return e;
}

/* The base of a database, or with InvalidOid one that is free; NULL: none. */
static Base *
find_base(Oid database)
{
	for (int i = 0; i < shared->nbases; i++)
	{
		if (shared->bases[i].database == database)
			return &shared->bases[i];
	}
	return NULL;
}

/* The same for this database, or make one; NULL: there is no room. */
static Base *
make_base(void)
{
	Base	   *base = find_base(MyDatabaseId);

	if (base == NULL)
		base = find_base(InvalidOid);
	if (base == NULL && shared->nbases < jobq_max_databases)
		base = &shared->bases[shared->nbases++];
	if (base != NULL && base->database != MyDatabaseId)
	{
		base->database = MyDatabaseId;
		base->state = BASE_NONE;
	}
	return base;
}

/* Let the gauges mean nothing. */
static void
forget_base(Base *base)
{
	base->state = BASE_NONE;
	base->generation++;
}

/* Are the rows of this transaction, which has committed, missing in the base? */
static bool
not_in_base(const Base *base)
{
	FullTransactionId xid = GetTopFullTransactionIdIfAny();

	if (U64FromFullTransactionId(xid) >= base->xmax)
		return true;
	for (uint32 i = 0; i < base->nxip; i++)
	{
		if (base->xip[i] == XidFromFullTransactionId(xid))
			return true;
	}
	return false;
}

/* A transaction has committed: add what it has noted.  Cannot fail. */
void
jobq_counts_commit(JobqCounts *counts, int n)
{
	bool		room = true;
	Base	   *base;
	uint64		wanted = ~GAUGES_MASK;

	/* all entries first, so that all is added without letting go of the lock */
	LWLockAcquire(counts_lock, LW_SHARED);
	for (int i = 0; i < n; i++)
	{
		counts[i].place = find_entry(counts[i].queue_id);
		room &= counts[i].place != NULL;
	}
	if (!room)
	{
		LWLockRelease(counts_lock);
		LWLockAcquire(counts_lock, LW_EXCLUSIVE);
		room = true;
		for (int i = 0; i < n; i++)
		{
			counts[i].place = make_entry(counts[i].queue_id);
			room &= counts[i].place != NULL;
		}
	}

	base = find_base(MyDatabaseId);
	if (base != NULL && !room)
		forget_base(base);
	if (base != NULL && base->state != BASE_NONE && not_in_base(base))
		wanted |= GAUGES_MASK;
	for (int i = 0; i < n; i++)
	{
		Entry	   *e = counts[i].place;

		if (counts[i].worked_at != 0 && e != NULL)
			pg_atomic_write_u64(&e->worked_at, counts[i].worked_at);
		for (uint64 rest = counts[i].touched & wanted; rest != 0 && e != NULL; rest &= rest - 1)
		{
			int			k = pg_rightmost_one_pos64(rest);

			(void) pg_atomic_fetch_add_u64(&e->values[k], counts[i].values[k]);
		}
	}
	LWLockRelease(counts_lock);
}

/* Reading */

/*
 * When a worker last claimed a job of a queue or ended an attempt; 0: not since the
 * server was started.  Of a queue that there is no room for: now, as nobody knows.
 */
TimestampTz
jobq_counts_worked_at(int64 queue_id)
{
	Entry	   *e;
	TimestampTz at = 0;

	LWLockAcquire(counts_lock, LW_SHARED);
	e = find_entry(queue_id);
	if (e != NULL)
		at = (TimestampTz) pg_atomic_read_u64(&e->worked_at);
	else if (dlist_is_empty(&shared->free))
		at = jobq_wall();
	LWLockRelease(counts_lock);
	return at;
}

/*
 * Copy the numbers of the queues of this database; false: a gauge is below zero.  The
 * caller holds the lock.
 */
static bool
copy_counts(JobqCounts *counts, int *n)
{
	bool		ok = true;

	*n = 0;
	for (int i = 0; i < jobq_max_metrics; i++)
	{
		Entry	   *e = &shared->entries[i];
		JobqCounts *c = &counts[*n];

		if (e->database != MyDatabaseId)
			continue;
		c->queue_id = e->queue_id;
		for (int k = 0; k < JOBQ_COUNTS; k++)
		{
			c->values[k] = (int64) pg_atomic_read_u64(&e->values[k]);
			ok &= k >= JOBQ_GAUGES || c->values[k] >= 0;
		}
		(*n)++;
	}
	return ok;
}

/*
 * The numbers of the queues of this database, how many they are, and whether there is
 * room for more.  False: the gauges mean nothing, or are of tables in other files than
 * these.  One below zero is of a commit whose rows somebody has already gone on with,
 * and which is about to add what it did; if it does not for some time, rows were
 * changed by hand.
 */
bool
jobq_counts_read(const JobqFileNumber *files, JobqCounts **out, int *n, bool *room)
{
	Base	   *base;
	bool		there;
	bool		ok;

	*out = palloc_extended(jobq_max_metrics * sizeof(JobqCounts), MCXT_ALLOC_HUGE);
	for (int i = 0;; i++)
	{
		LWLockAcquire(counts_lock, LW_EXCLUSIVE);
		*room = !dlist_is_empty(&shared->free);
		base = find_base(MyDatabaseId);
		there = base != NULL && base->state == BASE_THERE &&
			memcmp(base->files, files, sizeof(base->files)) == 0;
		ok = copy_counts(*out, n);
		LWLockRelease(counts_lock);
		if (ok || !there || i == READ_TRIES)
			return there && ok;
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000L);
	}
}

/*
 * Begin a base: returns the snapshot to count the rows of these files under,
 * registered, and in *generation what jobq_base_end() wants.  NULL: there is no
 * room.  The caller has no transaction id, or its rows would be counted twice.
 */
Snapshot
jobq_base_begin(const JobqFileNumber *files, uint32 *generation)
{
	Base	   *base;
	Snapshot	snapshot = NULL;

	Assert(!TransactionIdIsValid(GetTopTransactionIdIfAny()));
	LWLockAcquire(counts_lock, LW_EXCLUSIVE);
	base = make_base();
	if (base != NULL)
	{
		uint64		next;

		snapshot = RegisterSnapshot(GetLatestSnapshot());
		next = U64FromFullTransactionId(ReadNextFullTransactionId());
		forget_base(base);
		*generation = base->generation;
		memcpy(base->files, files, sizeof(base->files));
		base->xmax = next - (uint32) ((uint32) next - snapshot->xmax);
		Assert(snapshot->xcnt <= max_xip());
		base->nxip = snapshot->xcnt;
		if (base->nxip > 0)
			memcpy(base->xip, snapshot->xip, base->nxip * sizeof(TransactionId));
		base->state = BASE_COUNTING;
		for (int i = 0; i < jobq_max_metrics; i++)
		{
			Entry	   *e = &shared->entries[i];

			for (int k = 0; k < JOBQ_GAUGES && e->database == MyDatabaseId; k++)
				pg_atomic_write_u64(&e->values[k], 0);
		}
	}
	LWLockRelease(counts_lock);
	return snapshot;
}

/* End it, with the gauges that were counted, unless it was forgotten meanwhile. */
void
jobq_base_end(uint32 generation, const JobqCounts *counts, int n)
{
	Base	   *base;

	LWLockAcquire(counts_lock, LW_EXCLUSIVE);
	base = find_base(MyDatabaseId);
	if (base != NULL && base->generation == generation)
	{
		base->state = BASE_THERE;
		for (int i = 0; i < n; i++)
		{
			Entry	   *e = make_entry(counts[i].queue_id);

			for (int k = 0; k < JOBQ_GAUGES && e != NULL; k++)
				(void) pg_atomic_fetch_add_u64(&e->values[k], counts[i].values[k]);
			if (e == NULL)
				forget_base(base);
		}
	}
	LWLockRelease(counts_lock);
}

/* Rows of this database were changed by what nobody has noted. */
void
jobq_base_forget(void)
{
	Base	   *base;

	LWLockAcquire(counts_lock, LW_EXCLUSIVE);
	base = find_base(MyDatabaseId);
	if (base != NULL)
		forget_base(base);
	LWLockRelease(counts_lock);
}

/* Forget all of a database. */
void
jobq_counts_forget_database(Oid database)
{
	Base	   *base;

	LWLockAcquire(counts_lock, LW_EXCLUSIVE);
	base = find_base(database);
	if (base != NULL)
	{
		forget_base(base);
		base->database = InvalidOid;
	}
	for (int i = 0; i < jobq_max_metrics; i++)
	{
		Entry	   *e = &shared->entries[i];

		if (e->database != database)
			continue;
		e->database = InvalidOid;
		dlist_delete(&e->node);
		dlist_push_head(&shared->free, &e->node);
	}
	LWLockRelease(counts_lock);
}
