/*
 * slots.c
 *	  A slot in shared memory for every database that uses jobq.
 *
 * Nothing here is the truth.  A crash of any process makes the postmaster
 * start over with empty slots; the launcher then looks at every database, and
 * the workers read the tables from the beginning.
 *
 * A slot connects the backends of a database with the one process that is
 * responsible for it: its worker or, while it has none, the launcher.  What
 * backends leave in a slot are hints, written by commit callbacks, which must
 * not fail: they are atomics, and whoever finds no slot leaves nothing.
 *
 * 1. A hint is written after the rows it tells of are visible, and the worker
 *	  takes it before it takes the snapshot that it looks with.
 * 2. A backend writes the hint, then reads wake_at; the worker writes wake_at,
 *	  then reads the hints again; both with a barrier between.  So one of them
 *	  sees the other, and no wake-up is lost.
 * 3. Whoever lowers wake_at to "awake" sets the latch, and nobody else needs to.
 * 4. A worker that finds no extension leaves only if nobody asked it since it
 *	  began to look, decided under the slot's mutex.
 * 5. Only the launcher frees a slot, and only while it has no worker and is not
 *	  suspended.
 *
 * Locks, in this order: "databases" (an LWLock), a slot's mutex, the shared
 * mutex (both spin locks, held for a few instructions).
 */
#include "postgres.h"

#include <signal.h>

#include "miscadmin.h"
#include "storage/procarray.h"
#include "storage/shmem.h"

#include "shared/shared.h"

int			jobq_max_databases = JOBQ_DEFAULT_MAX_DATABASES;

#define DISMISS_TIMEOUT_MS	10000	/* for a worker that is told to leave */

typedef struct JobqShared
{
	slock_t		mutex;			/* guards launcher_latch */
	Latch	   *launcher_latch; /* NULL: no launcher */
	pg_atomic_uint32 launched;	/* a launcher has run */
	pg_atomic_uint32 asked;		/* LAUNCHER_ flags, taken by the launcher */
	pg_atomic_uint64 clock_steps;	/* see clock.c */
	pg_atomic_uint64 grace_start;
	JobqDatabase databases[FLEXIBLE_ARRAY_MEMBER];
} JobqShared;

static JobqShared *shared = NULL;
static LWLock *databases_lock;
static JobqDatabase *my_database = NULL;

/* The size of what is in this file. */
static Size
databases_size(void)
{
	return add_size(offsetof(JobqShared, databases),
					mul_size(jobq_max_databases, sizeof(JobqDatabase)));
}

/* Make a slot empty.  The caller keeps others away from it. */
static void
reset_database(JobqDatabase *db)
{
	db->state = DATABASE_UNKNOWN;
	db->suspended = 0;
	db->dismissed = false;
	db->worker_pid = 0;
	db->worker_latch = NULL;
	pg_atomic_write_u32(&db->yield, 0);
	pg_atomic_write_u32(&db->asked, 0);
	pg_atomic_write_u64(&db->wake_at, (uint64) DT_NOEND);
	for (int k = 0; k < DEADLINE_KINDS; k++)
		pg_atomic_write_u64(&db->announced_low[k], (uint64) DT_NOEND);
	pg_atomic_write_u32(&db->notify_wanted, 0);
	pg_atomic_write_u32(&db->notify_all, 0);
	for (int i = 0; i < JOBQ_NOTIFY_QUEUES; i++)
		pg_atomic_write_u64(&db->notify_queues[i], 0);
	pg_atomic_write_u32(&db->purge_all, 0);
	for (int i = 0; i < JOBQ_PURGE_PLACES; i++)
		pg_atomic_write_u32(&db->purge_places[i], 0);
	pg_atomic_write_u32(&db->nfailed, 0);
	pg_atomic_write_u32(&db->nended, 0);
	jobq_gate_events_forget(db);
}

/* Initialize an array of slots. */
static void
init_shared(void)
{
	SpinLockInit(&shared->mutex);
	pg_atomic_init_u32(&shared->launched, 0);
	pg_atomic_init_u32(&shared->asked, 0);
	pg_atomic_init_u64(&shared->grace_start, (uint64) jobq_steady());
	for (int i = 0; i < jobq_max_databases; i++)
	{
		JobqDatabase *db = &shared->databases[i];

		SpinLockInit(&db->mutex);
		pg_atomic_init_u32(&db->yield, 0);
		pg_atomic_init_u32(&db->asked, 0);
		pg_atomic_init_u64(&db->wake_at, 0);
		for (int k = 0; k < DEADLINE_KINDS; k++)
			pg_atomic_init_u64(&db->announced_low[k], 0);
		pg_atomic_init_u32(&db->notify_wanted, 0);
		pg_atomic_init_u32(&db->notify_all, 0);
		for (int k = 0; k < JOBQ_NOTIFY_QUEUES; k++)
			pg_atomic_init_u64(&db->notify_queues[k], 0);
		pg_atomic_init_u32(&db->purge_all, 0);
		for (int k = 0; k < JOBQ_PURGE_PLACES; k++)
			pg_atomic_init_u32(&db->purge_places[k], 0);
		pg_atomic_init_u32(&db->nfailed, 0);
		pg_atomic_init_u32(&db->nended, 0);
		db->gate_first = db->gate_last = -1;
		pg_atomic_init_u32(&db->gate_events, 0);
		reset_database(db);
	}
}

/* Initialize or attach. */
static void
databases_init(LWLockPadded *locks)
{
	bool		found;

	databases_lock = &locks[0].lock;
	shared = ShmemInitStruct("jobq databases", databases_size(), &found);
	if (!found)
		memset(shared, 0, databases_size());
	jobq_clock_attach(&shared->clock_steps, !found);
	if (!found)
		init_shared();
}

/* How many of them are used. */
static int
databases_used(void)
{
	int			n = 0;

	for (int i = 0; i < jobq_max_databases; i++)
		n += OidIsValid(shared->databases[i].database);
	return n;
}

const JobqPart jobq_databases_part = {"databases", &jobq_max_databases, 1, false,
databases_size, databases_init, databases_used};

/*
 * Since when leases have been watched again: heartbeats sent before are lost,
 * so no lease runs out within one period from here.
 */
TimestampTz
jobq_grace_start(void)
{
	return jobq_read_time(&shared->grace_start);
}

/* Slots */

/* The slot with the given number. */
JobqDatabase *
jobq_database_at(int i)
{
	return &shared->databases[i];
}

/* The slot of a database; the caller holds the lock. */
static JobqDatabase *
find_slot(Oid database)
{
	for (int i = 0; i < jobq_max_databases; i++)
	{
		if (shared->databases[i].database == database)
			return &shared->databases[i];
	}
	return NULL;
}

/*
 * Find, or if asked to make, the slot of a database, or with InvalidOid one that
 * is free; NULL: none, or none free.
 */
JobqDatabase *
jobq_database_find(Oid database, bool create)
{
	JobqDatabase *db;

	LWLockAcquire(databases_lock, LW_SHARED);
	db = find_slot(database);
	LWLockRelease(databases_lock);
	if (db != NULL || !create)
		return db;

	LWLockAcquire(databases_lock, LW_EXCLUSIVE);
	db = find_slot(database);
	if (db == NULL)
	{
		db = find_slot(InvalidOid);
		if (db != NULL)
		{
			reset_database(db);
			pg_write_barrier();
			db->database = database;
		}
	}
	LWLockRelease(databases_lock);

	if (db == NULL)
		jobq_launcher_ask(LAUNCHER_FULL);
	return db;
}

/* For the launcher: free a slot that nobody needs; barred: the database can have no worker. */
bool
jobq_database_evict(JobqDatabase *db, bool barred)
{
	bool		free;

	LWLockAcquire(databases_lock, LW_EXCLUSIVE);
	SpinLockAcquire(&db->mutex);
	free = db->worker_pid == 0 && db->suspended == 0 &&
		(barred || (db->state == DATABASE_NONE && pg_atomic_read_u32(&db->asked) == 0));
	SpinLockRelease(&db->mutex);
	if (free)
	{
		db->database = InvalidOid;
		reset_database(db);
	}
	LWLockRelease(databases_lock);
	return free;
}

/* The slot of this backend's database. */
JobqDatabase *
jobq_my_database(bool create)
{
	static TimestampTz full_since = 0;

	if (my_database != NULL && my_database->database == MyDatabaseId)
		return my_database;
	if (shared == NULL)
		return NULL;

	/* where no slot was free, do not ask at every commit */
	if (create && full_since != 0 &&
		!TimestampDifferenceExceeds(full_since, jobq_steady(), 1000))
		return NULL;
	my_database = jobq_database_find(MyDatabaseId, create);
	full_since = create && my_database == NULL ? jobq_steady() : 0;
	return my_database;
}

/* Hints for whoever is responsible for a database */

/* Wake whoever is responsible unless it wakes by itself by then. */
static void
wake_database(JobqDatabase *db, TimestampTz at)
{
	uint64		old;
	Latch	   *latch;

	pg_memory_barrier();
	old = pg_atomic_read_u64(&db->wake_at);
	do
	{
		if (at >= (TimestampTz) old)
			return;
	} while (!pg_atomic_compare_exchange_u64(&db->wake_at, &old, (uint64) DT_NOBEGIN));

	SpinLockAcquire(&db->mutex);
	latch = db->worker_latch;
	SpinLockRelease(&db->mutex);
	if (latch != NULL)
		SetLatch(latch);
	else
		jobq_launcher_wake();
}

/* Tell the worker to look at more than the tables; without one the launcher starts it. */
void
jobq_database_ask(JobqDatabase *db, uint32 flags)
{
	pg_atomic_fetch_or_u32(&db->asked, flags);
	SpinLockAcquire(&db->mutex);
	if (db->state == DATABASE_NONE)
		db->state = DATABASE_UNKNOWN;
	SpinLockRelease(&db->mutex);
	wake_database(db, DT_NOBEGIN + 1);
}

/* Wake the worker of this database, whatever it sleeps to. */
void
jobq_worker_ask(uint32 flags)
{
	JobqDatabase *db = jobq_my_database(true);

	if (db != NULL)
		jobq_database_ask(db, flags);
}

/* A row with this deadline was written. */
void
jobq_worker_deadline(JobqDeadline kind, TimestampTz at)
{
	JobqDatabase *db = jobq_my_database(true);
	uint64		low;

	if (db == NULL)
		return;
	at = Max(at, DT_NOBEGIN + 1);
	low = pg_atomic_read_u64(&db->announced_low[kind]);
	while (at < (TimestampTz) low &&
		   !pg_atomic_compare_exchange_u64(&db->announced_low[kind], &low, (uint64) at))
		;
	wake_database(db, jobq_deadline_of(kind, at));
}

/*
 * Jobs of a queue became ready.  A queue that is noted already needs nothing:
 * its note will be taken, and the notification sent, after our commit.
 */
void
jobq_worker_queue_ready(int64 queue_id)
{
	JobqDatabase *db = jobq_my_database(true);
	uint32		start = (uint32) ((uint64) queue_id >> 32);
	bool		noted = false;

	if (db == NULL)
		return;
	pg_memory_barrier();
	for (int i = 0; i < 8 && !noted && queue_id != 0; i++)
	{
		pg_atomic_uint64 *place = &db->notify_queues[(start + i) % JOBQ_NOTIFY_QUEUES];
		uint64		old = pg_atomic_read_u64(place);

		if (old == (uint64) queue_id)
			return;
		if (old == 0)
		{
			noted = pg_atomic_compare_exchange_u64(place, &old, (uint64) queue_id);
			if (!noted && old == (uint64) queue_id)
				return;
		}
	}
	if (!noted)
		pg_atomic_write_u32(&db->notify_all, 1);
	pg_memory_barrier();
	if (pg_atomic_exchange_u32(&db->notify_wanted, 1) == 0)
		wake_database(db, DT_NOBEGIN + 1);
}

/* Note a place; false: there is no room. */
static bool
note_place(JobqDatabase *db, uint32 place)
{
	for (int i = 0; i < 8; i++)
	{
		pg_atomic_uint32 *entry = &db->purge_places[(place + i) % JOBQ_PURGE_PLACES];
		uint32		old = pg_atomic_read_u32(entry);

		if (old == place + 1 ||
			(old == 0 && (pg_atomic_compare_exchange_u32(entry, &old, place + 1) || old == place + 1)))
			return true;
	}
	return false;
}

/*
 * Jobs that stand in these places are to be removed, of which most are given;
 * jobq_worker_deadline() then says when.
 */
void
jobq_worker_removals(const uint32 *places, int n, int most)
{
	JobqDatabase *db = jobq_my_database(true);
	bool		noted = n <= most;

	if (db == NULL)
		return;
	for (int i = 0; i < Min(n, most); i++)
		noted &= note_place(db, places[i]);
	if (!noted)
		pg_atomic_write_u32(&db->purge_all, 1);
}

/*
 * Attempts of queues with a breaker ended badly: the queue of each.  Those of more
 * queues than there is room for, before the worker has taken the others, are not
 * counted.
 */
void
jobq_worker_failures(const int64 *queue_ids, int n)
{
	JobqDatabase *db = jobq_my_database(true);
	int			count;

	if (db == NULL)
		return;
	for (int i = 0; i < n; i += count)
	{
		int			used;
		int			k = 0;

		/* of one call they mostly stand together */
		for (count = 1; i + count < n && queue_ids[i + count] == queue_ids[i];)
			count++;
		SpinLockAcquire(&db->mutex);
		used = pg_atomic_read_u32(&db->nfailed);
		while (k < used && db->failed[k].queue_id != queue_ids[i])
			k++;
		if (k == used && used < JOBQ_BREAKERS)
		{
			db->failed[k].queue_id = queue_ids[i];
			db->failed[k].count = 0;
			pg_atomic_write_u32(&db->nfailed, used + 1);
		}
		if (k < JOBQ_BREAKERS)
			db->failed[k].count += count;
		SpinLockRelease(&db->mutex);
	}
	wake_database(db, DT_NOBEGIN + 1);
}

/* Something happened to jobs of gated queues. */
void
jobq_worker_gate_events(const JobqGateEvent *events, int n, bool lost)
{
	JobqDatabase *db = jobq_my_database(true);

	if (db == NULL)
		return;
	jobq_gate_events_add(db, events, n, lost);
	wake_database(db, DT_NOBEGIN + 1);
}

/* A session that may hold leases has ended. */
void
jobq_worker_session_ended(int64 number)
{
	JobqDatabase *db = jobq_my_database(true);
	uint32		n;

	if (db == NULL)
		return;
	SpinLockAcquire(&db->mutex);
	n = pg_atomic_read_u32(&db->nended);
	if (n < JOBQ_ENDED_SESSIONS)
		db->ended_sessions[n] = number;
	pg_atomic_write_u32(&db->nended, Min(n, JOBQ_ENDED_SESSIONS) + 1);
	SpinLockRelease(&db->mutex);
	wake_database(db, DT_NOBEGIN + 1);
}

/* Take the sessions that have ended; returns how many, *all: and others. */
int
jobq_take_ended_sessions(JobqDatabase *db, int64 *numbers, bool *all)
{
	int			n;

	SpinLockAcquire(&db->mutex);
	n = pg_atomic_read_u32(&db->nended);
	*all = n > JOBQ_ENDED_SESSIONS;
	n = Min(n, JOBQ_ENDED_SESSIONS);
	memcpy(numbers, db->ended_sessions, n * sizeof(int64));
	pg_atomic_write_u32(&db->nended, 0);
	SpinLockRelease(&db->mutex);
	return n;
}

/* Take the failures that were left; returns of how many queues. */
int
jobq_take_failures(JobqDatabase *db, JobqFailed *failed)
{
	int			n;

	SpinLockAcquire(&db->mutex);
	n = pg_atomic_read_u32(&db->nfailed);
	memcpy(failed, db->failed, n * sizeof(JobqFailed));
	pg_atomic_write_u32(&db->nfailed, 0);
	SpinLockRelease(&db->mutex);
	return n;
}

/* The lowest deadline announced that nobody took yet. */
TimestampTz
jobq_database_low(JobqDatabase *db)
{
	TimestampTz low = DT_NOEND;

	for (int k = 0; k < DEADLINE_KINDS; k++)
		low = Min(low, jobq_deadline_of(k, jobq_read_time(&db->announced_low[k])));
	return low;
}

/* The worker's side */

/* Become the worker of a database; NULL: it has one, or must not have one now. */
JobqDatabase *
jobq_worker_attach(Oid database)
{
	JobqDatabase *db = jobq_database_find(database, false);
	bool		ok;

	if (db == NULL)
		return NULL;
	SpinLockAcquire(&db->mutex);
	ok = db->database == database && db->suspended == 0 && db->worker_pid == 0;
	if (ok)
	{
		db->worker_pid = MyProcPid;
		db->worker_latch = MyLatch;
		db->dismissed = false;
	}
	SpinLockRelease(&db->mutex);
	if (!ok)
		return NULL;
	pg_atomic_write_u32(&db->yield, 0);
	pg_atomic_write_u64(&db->wake_at, (uint64) DT_NOBEGIN);
	my_database = db;
	return db;
}

/* Stop being the worker.  wake_at: when one is needed again. */
bool
jobq_worker_detach(JobqDatabase *db, JobqLeave leave, TimestampTz wake_at)
{
	bool		ok;

	SpinLockAcquire(&db->mutex);
	ok = db->worker_pid == MyProcPid &&
		(leave != LEAVE_NO_EXTENSION || pg_atomic_read_u32(&db->asked) == 0);
	if (ok)
	{
		db->worker_pid = 0;
		db->worker_latch = NULL;
		if (leave == LEAVE_NO_EXTENSION)
			db->state = DATABASE_NONE;
		if (leave != LEAVE_FAILED)
			db->dismissed = true;
	}
	SpinLockRelease(&db->mutex);
	if (!ok)
		return false;
	pg_atomic_write_u64(&db->wake_at, (uint64) wake_at);
	jobq_launcher_wake();
	return true;
}

/* Keeping the worker away */

/* Make a database's worker leave, and let none start until resumed. */
void
jobq_database_suspend(JobqDatabase *db)
{
	TimestampTz begin = jobq_steady();
	int			pid;

	SpinLockAcquire(&db->mutex);
	db->suspended++;
	db->dismissed = true;
	pid = db->worker_pid;
	SpinLockRelease(&db->mutex);
	if (pid == 0)
		return;

	if (kill(pid, SIGTERM) != 0 && errno != ESRCH)
		elog(DEBUG1, "could not signal jobq worker %d: %m", pid);
	while (BackendPidGetProc(pid) != NULL &&
		   !TimestampDifferenceExceeds(begin, jobq_steady(), DISMISS_TIMEOUT_MS))
	{
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000L);
	}
}

/* Let a worker start again. */
void
jobq_database_resume(JobqDatabase *db)
{
	SpinLockAcquire(&db->mutex);
	db->suspended--;
	SpinLockRelease(&db->mutex);
	jobq_launcher_ask(LAUNCHER_REREAD);
}

/* The launcher's side */

/* Become the launcher. */
void
jobq_launcher_attach(void)
{
	if (pg_atomic_exchange_u32(&shared->launched, 1) == 0)
		pg_atomic_write_u64(&shared->grace_start, (uint64) jobq_steady());
	SpinLockAcquire(&shared->mutex);
	shared->launcher_latch = MyLatch;
	SpinLockRelease(&shared->mutex);
}

/* Stop being the launcher. */
void
jobq_launcher_detach(void)
{
	SpinLockAcquire(&shared->mutex);
	if (shared->launcher_latch == MyLatch)
		shared->launcher_latch = NULL;
	SpinLockRelease(&shared->mutex);
}

/* Have the launcher look at the slots. */
void
jobq_launcher_wake(void)
{
	Latch	   *latch;

	SpinLockAcquire(&shared->mutex);
	latch = shared->launcher_latch;
	SpinLockRelease(&shared->mutex);
	if (latch != NULL)
		SetLatch(latch);
}

/* Have the launcher do something, unless it is about to. */
void
jobq_launcher_ask(uint32 flag)
{
	if ((pg_atomic_fetch_or_u32(&shared->asked, flag) & flag) == 0)
		jobq_launcher_wake();
}

/* For the launcher: what it was asked since it last took that. */
uint32
jobq_launcher_take_asked(void)
{
	return pg_atomic_exchange_u32(&shared->asked, 0);
}
