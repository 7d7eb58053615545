/*
 * background.h
 *	  What the launcher, the workers, the hooks and shared memory share.
 */
#ifndef JOBQ_BACKGROUND_H
#define JOBQ_BACKGROUND_H

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "jobq.h"

#define JOBQ_DIRTY_LANES	64	/* lanes to notify of, before all of them are */

typedef enum JobqDatabaseState
{
	DATABASE_UNKNOWN,			/* a worker has to look */
	DATABASE_ACTIVE,			/* has the extension */
	DATABASE_NONE				/* has not; the slot can be given away */
} JobqDatabaseState;

/* How a worker leaves */
typedef enum JobqLeave
{
	LEAVE_NO_EXTENSION,			/* refused if it was poked meanwhile */
	LEAVE_ORDERLY,				/* to make room, or because it was suspended */
	LEAVE_FAILED
} JobqLeave;

/* Why a worker is poked */
#define POKE_LOOK		0x01	/* extension or home may have come or gone */
#define POKE_SWEEP		0x02	/* something changed that was not announced */

/*
 * What shared memory knows about one database.  "database" changes under the
 * databases lock only, and is read without it by those who can live with the
 * slot passing to another database meanwhile: what they leave is a hint.
 */
typedef struct JobqDatabase
{
	Oid			database;		/* InvalidOid: the slot is free */
	slock_t		mutex;			/* guards the next block */

	JobqDatabaseState state;
	int			suspended;		/* statements that want no worker here */
	bool		dismissed;		/* the last worker left as it should */
	int			worker_pid;		/* 0: none */
	Latch	   *worker_latch;

	pg_atomic_uint32 yield;		/* the worker shall make room for another */
	pg_atomic_uint32 poke;		/* POKE_ flags, taken by the worker */

	/*
	 * When whoever is responsible (the worker, or without one the launcher)
	 * looks again by itself.  DT_NOBEGIN: it is awake, or was just woken, and
	 * looks at the fields below before it sleeps.
	 */
	pg_atomic_uint64 wake_at;

	/* the lowest deadlines announced since the worker last took them */
	pg_atomic_uint64 announced_low[DEADLINE_KINDS];

	pg_atomic_uint32 dirty;		/* one of the next two was set */
	pg_atomic_uint32 dirty_overflow;	/* lanes that found no place */
	pg_atomic_uint64 dirty_lanes[JOBQ_DIRTY_LANES]; /* a hash table, 0: free */
} JobqDatabase;

/* shmem.c: slots */
extern Size jobq_database_size(void);
extern int	jobq_database_count(void);
extern JobqDatabase *jobq_database_at(int i);
extern JobqDatabase *jobq_database_find(Oid database, bool create);
extern bool jobq_database_evict(JobqDatabase *db, bool barred);
extern JobqDatabase *jobq_my_database(bool create);
extern void jobq_database_poke(JobqDatabase *db, uint32 flags);
extern TimestampTz jobq_database_low(JobqDatabase *db);

/* shmem.c: the worker's side of a slot */
extern JobqDatabase *jobq_worker_attach(Oid database);
extern bool jobq_worker_detach(JobqDatabase *db, JobqLeave leave, TimestampTz wake_at);

/* shmem.c: suspending a worker */
extern void jobq_database_suspend(JobqDatabase *db);
extern void jobq_database_resume(JobqDatabase *db);

/* shmem.c: the launcher's side */
extern void jobq_launcher_attach(void);
extern void jobq_launcher_detach(void);
extern void jobq_launcher_wake(void);
extern void jobq_launcher_look(void);
extern bool jobq_launcher_take_look(void);
extern bool jobq_launcher_take_full(void);

/* beat.c */
typedef struct JobqBeatRef
{
	int64		job_id;
	int64		token;
} JobqBeatRef;

#define JOBQ_BEAT_PARTITIONS	16

extern Size jobq_beat_size(void);
extern int	jobq_beat_count(void);
extern void jobq_beat_shmem_init(void *area, bool found, LWLockPadded *locks);
extern int	jobq_beat_stale(int partition, TimestampTz before, JobqBeatRef *refs, int max);

/* lane.c */
extern Size jobq_lanes_size(void);
extern int	jobq_lanes_count(void);
extern void jobq_lanes_shmem_init(void *area, bool found, LWLockPadded *locks);

/* waiter.c */
extern Size jobq_waiter_size(void);
extern int	jobq_waiter_count(void);
extern void jobq_waiter_shmem_init(void *area, bool found, LWLock *lock);
extern void jobq_waiter_claimed(void);
extern void jobq_waiter_at_commit(void);
extern void jobq_waiter_at_abort(void);
extern void jobq_wake_all(void);

/* xact.c */
extern void jobq_announce_extension(void);

/* hooks.c */
extern void jobq_hooks_end_transaction(void);

/* worker.c */
typedef struct JobqFailures		/* how often something failed in a row */
{
	int			count;
	TimestampTz logged_at;		/* 0: never */
} JobqFailures;

typedef void (*JobqTransaction) (JobqCall *call, void *arg);

extern ErrorData *jobq_worker_run(JobqTransaction work, void *arg, bool async);
extern void jobq_worker_failed(JobqFailures *f, ErrorData *error, const char *what, int64 job_id);
extern int64 jobq_retry_delay(int failures);
extern bool jobq_worker_must_leave(void);

/* due.c */
extern void jobq_due_init(void);
extern void jobq_due_restart(void);
extern void jobq_due_lower(JobqDeadline kind, TimestampTz at);
extern bool jobq_due_seen(TimestampTz now);
extern TimestampTz jobq_due_next(void);
extern bool jobq_due_round(TimestampTz now);

/* worker.c, launcher.c: entry points */
extern PGDLLEXPORT void jobq_launcher_main(Datum arg);
extern PGDLLEXPORT void jobq_worker_main(Datum arg);

static inline TimestampTz
jobq_read_time(pg_atomic_uint64 *p)
{
	return (TimestampTz) pg_atomic_read_u64(p);
}

#endif							/* JOBQ_BACKGROUND_H */
