/*
 * shared.h
 *	  What can be rebuilt: shared memory, and what a commit does to it.
 *
 * All here are hints; the tables are the truth.  This layer knows nothing of
 * jobs: layers above register what is to be called, and parts of shared memory
 * of their own.
 */
#ifndef JOBQ_SHARED_H
#define JOBQ_SHARED_H

#include "port/atomics.h"
#include "storage/latch.h"
#include "storage/lwlock.h"
#include "storage/spin.h"

#include "table/table.h"

#define JOBQ_NOTIFY_QUEUES	64	/* queues to notify of, before all of them are */
#define JOBQ_PURGE_BLOCKS	64	/* of table job, that are looked at as one */
#define JOBQ_PURGE_PLACES	64	/* of such blocks, before all of them are
								 * looked at */
#define JOBQ_BREAKERS		256 /* queues whose failures are counted, between
								 * two looks */

#define JOBQ_ENDED_SESSIONS	64	/* numbers of sessions that have ended, before
								 * all are looked at */

#define JOBQ_DEFAULT_MAX_HEARTBEATS	100000
#define JOBQ_DEFAULT_MAX_DATABASES	64
#define JOBQ_DEFAULT_MAX_METRICS	1000
#define JOBQ_DEFAULT_MAX_GATE_EVENTS	16384
#define JOBQ_DEFAULT_MAX_WORKERS	1000
#define JOBQ_DEFAULT_MAX_AFFINITIES	10000

extern int	jobq_max_heartbeats;
extern int	jobq_max_databases;
extern int	jobq_max_metrics;
extern int	jobq_max_gate_events;
extern int	jobq_max_workers;
extern int	jobq_max_affinities;
extern bool jobq_async_claim;

typedef enum JobqDeadline
{
	DEADLINE_LEASE,				/* these two by jobq_steady() */
	DEADLINE_KEPT,
	DEADLINE_SCHEDULED,			/* these four by jobq_wall() */
	DEADLINE_TICK,
	DEADLINE_EXPIRY,
	DEADLINE_UNIQUE,
	DEADLINE_CANCEL,			/* these are numbers, not times: */
	DEADLINE_DELTA,				/* whatever is committed is due */
	DEADLINE_RECOUNT,
	DEADLINE_PURGE,				/* of a decided job; by jobq_wall() */
	DEADLINE_KINDS
} JobqDeadline;

/* A time that makes all rows of DEADLINE_KEPT due */
#define JOBQ_LOOK_AT_ALL	(DT_NOBEGIN + 1)

/* What happens to a lease */
typedef enum JobqLeaseAct
{
	LEASE_ENTER,				/* it begins, or its row was extended */
	LEASE_END,
	LEASE_CANCEL				/* the job was asked to stop */
} JobqLeaseAct;

/* memory.c: the parts of shared memory */
typedef struct JobqPart
{
	const char *name;
	const int  *entries;		/* how many it has room for */
	int			locks;
	bool		lock_each;		/* and one for each entry */
	Size		(*size) (void);
	void		(*init) (LWLockPadded *locks);
	int			(*used) (void);
} JobqPart;

extern void jobq_memory_init(void);
extern bool jobq_shmem_ready(void);
extern void jobq_add_part(const JobqPart *part);
extern const JobqPart *jobq_part(int i);
extern const JobqPart jobq_databases_part;
extern const JobqPart jobq_heartbeats_part;
extern const JobqPart jobq_waiters_part;
extern const JobqPart jobq_counts_part;
extern const JobqPart jobq_gate_events_part;
extern const JobqPart jobq_sessions_part;
extern const JobqPart jobq_workers_part;
extern const JobqPart jobq_affinities_part;

/* clock.c: time that passes evenly */
extern void jobq_clock_attach(pg_atomic_uint64 *place, bool made);
extern TimestampTz jobq_steady(void);
extern TimestampTz jobq_wall_of(TimestampTz steady);
extern TimestampTz jobq_deadline_now(JobqDeadline kind);
extern TimestampTz jobq_deadline_of(JobqDeadline kind, TimestampTz at);

/* Numbers of a queue, see counts.c */
#define JOBQ_GAUGES		5		/* the first are how many rows there are now */
#define JOBQ_COUNTS		52

typedef struct JobqCounts
{
	int64		queue_id;
	void	   *place;			/* in shared memory, at the commit */
	TimestampTz worked_at;		/* when a worker claimed or ended something,
								 * or 0 */
	uint64		touched;		/* which values were added to, a bit each */
	int64		values[JOBQ_COUNTS];
} JobqCounts;

/* gate.c: what commits tell the gatekeeper */
typedef enum JobqGateAct
{
	GATE_ARRIVED,				/* behind the gate; number is its position */
	GATE_LEFT,					/* the ready jobs; number is its position
								 * there */
	GATE_BEGUN,					/* an attempt; number is that of it */
	GATE_ENDED,					/* the same */
	GATE_LOOK,					/* where the job is now */
	GATE_CHANGED				/* the queue has another gate */
} JobqGateAct;

typedef struct JobqGateEvent
{
	int64		queue_id;
	int64		partition_id;
	int64		job_id;
	int64		number;
	int16		priority;
	int16		act;			/* JobqGateAct */
} JobqGateEvent;

/* announce.c: what a transaction does to shared memory when it commits */

/* What layers above do then, set by them when the library is preloaded; none of it can fail. */
typedef struct JobqEndCallbacks
{
	void		(*offer) (const JobqReady *ready);	/* a row to be claimed */
	void		(*abort) (void);	/* of a subtransaction, too */
	void		(*end) (void);	/* a transaction's locks are released */
} JobqEndCallbacks;

extern JobqEndCallbacks jobq_at_end;

extern void jobq_announce_init(void);
extern void jobq_announce_ready(const JobqReady *ready);
extern void jobq_reserve_taken(int n);
extern void jobq_announce_taken(const JobqReady *ready);
extern void jobq_announce_decided(int64 job_id);
extern void jobq_announce_deadline(JobqDeadline kind, TimestampTz at);
extern void jobq_announce_lease(JobqLeaseAct act, int64 job_id, int64 token, TimestampTz until);
extern void jobq_announce_wake_worker(void);
extern void jobq_announce_wake_waiters(void);
extern void jobq_announce_worker(uint64 worker, bool drains);
extern void jobq_announce_resumed(int64 queue_id);
extern bool jobq_own_cancel(int64 job_id);
extern const JobqReady *jobq_own_ready(int64 lane, int *next);
extern void jobq_forbid_prepare(const char *why);
extern bool jobq_wal_is_claims(void);
extern void jobq_note_claim_wal(bool before);
extern void jobq_announce_extension(void);
extern void jobq_announce_removal(BlockNumber block, TimestampTz at);
extern void jobq_announce_retention(void);
extern void jobq_announce_failure(int64 queue_id);
extern void jobq_announce_gate(JobqGateAct act, int64 queue_id, int64 partition_id, int64 job_id,
							   int64 number, int16 priority);
extern void jobq_announce_changed_rows(void);
extern JobqCounts *jobq_announce_counts(int64 queue_id);
extern JobqCounts *jobq_latest_counts;

/* heartbeat.c: until when running jobs are alive */
typedef enum JobqHeartbeat
{
	HEARTBEAT_NONE,				/* no entry: use the row */
	HEARTBEAT_ALIVE,
	HEARTBEAT_CANCEL			/* alive, and cancellation was asked for */
} JobqHeartbeat;

extern void jobq_heartbeat_change(JobqLeaseAct act, int64 job_id, int64 token, TimestampTz until);
extern JobqHeartbeat jobq_heartbeat_extend(int64 job_id, int64 token, TimestampTz until);
extern TimestampTz jobq_heartbeat_until(int64 job_id, int64 token);
extern bool jobq_heartbeat_expire(int64 job_id, int64 token, TimestampTz now, TimestampTz *until);
extern void jobq_heartbeats_forget_database(Oid database);
typedef struct JobqHeartbeatRef
{
	int64		job_id;
	int64		token;
} JobqHeartbeatRef;

#define JOBQ_HEARTBEAT_PARTITIONS	16

extern int	jobq_heartbeat_stale(int partition, TimestampTz before, JobqHeartbeatRef *refs, int max);

/* counts.c: numbers of each queue */
extern void jobq_counts_commit(JobqCounts *counts, int n);
extern TimestampTz jobq_counts_worked_at(int64 queue_id);
extern bool jobq_counts_read(const JobqFileNumber *files, JobqCounts **out, int *n, bool *room);
extern Snapshot jobq_base_begin(const JobqFileNumber *files, uint32 *generation);
extern void jobq_base_end(uint32 generation, const JobqCounts *counts, int n);
extern void jobq_base_forget(void);
extern void jobq_counts_forget_database(Oid database);

/* Labels that a job requires or a worker has, as ids in ascending order */
#define JOBQ_MAX_LABELS		100

typedef struct JobqLabels
{
	int			n;
	int64		ids[JOBQ_MAX_LABELS + 1];	/* and perhaps the key of one
											 * worker; of those that are kept,
											 * n are there */
} JobqLabels;

/* Does a worker with these labels have all that are required?  NULL: none. */
static inline bool
jobq_has_labels(const JobqLabels *labels, const JobqLabels *required)
{
	int			k = 0;

	for (int i = 0; required != NULL && i < required->n; i++)
	{
		while (k < (labels ? labels->n : 0) && labels->ids[k] < required->ids[i])
			k++;
		if (k == (labels ? labels->n : 0) || labels->ids[k] != required->ids[i])
			return false;
	}
	return true;
}

/* Labels and the key of one worker, which only that one has; NULL: none. */
static inline void
jobq_add_worker(JobqLabels *to, const JobqLabels *labels, uint64 worker)
{
	int			n = labels ? labels->n : 0;
	int			i = 0;

	while (i < n && labels->ids[i] < (int64) worker)
		i++;
	if (i > 0)
		memcpy(to->ids, labels->ids, i * sizeof(int64));
	to->ids[i] = (int64) worker;
	if (i < n)
		memcpy(&to->ids[i + 1], &labels->ids[i], (n - i) * sizeof(int64));
	to->n = n + 1;
}

/* waiter.c: sessions that sleep */
extern void jobq_waiter_register(bool for_job, int64 id, uint64 worker, const JobqLabels *labels);
extern void jobq_waiter_leave(bool consumed);
extern bool jobq_waiter_woken(void);
extern bool jobq_waiter_exists(int64 queue_id, const JobqLabels *required);
extern bool jobq_waiter_of_worker(uint64 worker);
extern void jobq_wake(bool for_job, int64 id, int n, const JobqLabels *required);
extern void jobq_waiter_claimed(const JobqLabels *required);
extern void jobq_waiter_at_commit(void);
extern void jobq_waiter_at_abort(void);
extern void jobq_wake_all(void);

/* session.c: sessions that hold leases */
extern int64 jobq_session_begin(uint64 worker);
extern void jobq_session_end(void);
extern bool jobq_session_lives(int64 number);
extern bool jobq_session_of_worker(uint64 worker);
extern int	jobq_live_sessions(int64 **numbers);

/* seen.c: when workers were last seen, and which was the last to run a job of an affinity */
extern uint64 jobq_worker_key(const char *name, int len);
extern int	jobq_note_worker(uint64 key, int64 lease);
extern TimestampTz jobq_worker_seen(uint64 key, int64 *lease);
extern uint64 jobq_worker_at(int at);
extern int	jobq_worker_place(uint64 key, TimestampTz after, TimestampTz *seen);
extern void jobq_note_own_lanes(int at);
extern bool jobq_has_own_lanes(int at);
extern void jobq_note_affinity(int64 queue_id, int64 affinity_id, uint64 worker);
extern uint64 jobq_worker_of_affinity(int64 queue_id, int64 affinity_id);
extern void jobq_worker_changed(uint64 worker, bool drains);

/* slots.c: a database, its backends and its background worker */
typedef enum JobqDatabaseState
{
	DATABASE_UNKNOWN,			/* a worker has to look */
	DATABASE_ACTIVE,			/* has the extension */
	DATABASE_NONE				/* has not; the slot can be given away */
} JobqDatabaseState;

/* How a worker leaves */
typedef enum JobqLeave
{
	LEAVE_NO_EXTENSION,			/* refused if it was asked meanwhile */
	LEAVE_ORDERLY,				/* to make room, or because it was suspended */
	LEAVE_FAILED
} JobqLeave;

/* Why a worker is asked */
#define ASK_CHECK		0x01	/* extension or home may have come or gone */
#define ASK_SWEEP		0x02	/* something changed that was not announced */
#define ASK_PURGE		0x04	/* how long jobs are kept has changed */

/* How many attempts of a queue ended badly */
typedef struct JobqFailed
{
	int64		queue_id;
	int64		count;
} JobqFailed;

/* Why the launcher is asked */
#define LAUNCHER_REREAD	0x01	/* read pg_database */
#define LAUNCHER_FULL	0x02	/* a database found no slot */

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
	pg_atomic_uint32 asked;		/* ASK_ flags, taken by the worker */

	/*
	 * When whoever is responsible (the worker, or without one the launcher)
	 * looks again by itself.  DT_NOBEGIN: it is awake, or was just woken, and
	 * looks at the fields below before it sleeps.
	 */
	pg_atomic_uint64 wake_at;

	/* the lowest announced since the worker last took them, by its clock */
	pg_atomic_uint64 announced_low[DEADLINE_KINDS];

	pg_atomic_uint32 notify_wanted; /* one of the next two was set */
	pg_atomic_uint32 notify_all;	/* some found no place */
	pg_atomic_uint64 notify_queues[JOBQ_NOTIFY_QUEUES]; /* a hash table, 0: free */

	/* blocks with jobs to be removed: 1 + block / JOBQ_PURGE_BLOCKS */
	pg_atomic_uint32 purge_all; /* some found no place */
	pg_atomic_uint32 purge_places[JOBQ_PURGE_PLACES];	/* a hash table, 0: free */

	/*
	 * attempts that ended badly, of queues with a breaker; guarded by the
	 * mutex
	 */
	JobqFailed	failed[JOBQ_BREAKERS];
	pg_atomic_uint32 nfailed;	/* of these in use */

	/* sessions that have ended; guarded by the mutex */
	int64		ended_sessions[JOBQ_ENDED_SESSIONS];
	pg_atomic_uint32 nended;	/* of these in use; one more: some found no
								 * place */

	/* events for the gatekeeper; written under the lock of gate.c */
	int			gate_first;		/* -1: none */
	int			gate_last;
	bool		gate_lost;		/* some found no room */
	pg_atomic_uint32 gate_events;	/* whether there are any, or were lost */
} JobqDatabase;

extern void jobq_gate_events_add(JobqDatabase *db, const JobqGateEvent *events, int n, bool lost);
extern int	jobq_gate_events_take(JobqDatabase *db, JobqGateEvent *events, int max, bool *lost);
extern void jobq_gate_events_forget(JobqDatabase *db);

extern TimestampTz jobq_grace_start(void);
extern JobqDatabase *jobq_database_at(int i);
extern JobqDatabase *jobq_database_find(Oid database, bool create);
extern bool jobq_database_evict(JobqDatabase *db, bool barred);
extern JobqDatabase *jobq_my_database(bool create);
extern void jobq_database_ask(JobqDatabase *db, uint32 flags);
extern TimestampTz jobq_database_low(JobqDatabase *db);

/* the backends' side */
extern void jobq_worker_deadline(JobqDeadline kind, TimestampTz at);
extern void jobq_worker_queue_ready(int64 queue_id);
extern void jobq_worker_removals(const uint32 *places, int n, int most);
extern void jobq_worker_ask(uint32 flags);
extern void jobq_worker_failures(const int64 *queue_ids, int n);
extern void jobq_worker_gate_events(const JobqGateEvent *events, int n, bool lost);
extern void jobq_worker_session_ended(int64 number);
extern int	jobq_take_failures(JobqDatabase *db, JobqFailed *failed);
extern int	jobq_take_ended_sessions(JobqDatabase *db, int64 *numbers, bool *all);

/* the worker's side */
extern JobqDatabase *jobq_worker_attach(Oid database);
extern bool jobq_worker_detach(JobqDatabase *db, JobqLeave leave, TimestampTz wake_at);

/* keeping the worker away */
extern void jobq_database_suspend(JobqDatabase *db);
extern void jobq_database_resume(JobqDatabase *db);

/* the launcher's side */
extern void jobq_launcher_attach(void);
extern void jobq_launcher_detach(void);
extern void jobq_launcher_wake(void);
extern void jobq_launcher_ask(uint32 flag);
extern uint32 jobq_launcher_take_asked(void);

/* What this transaction adds to the numbers of a queue, until something else is announced. */
static inline JobqCounts *
jobq_counts(int64 queue_id)
{
	return jobq_latest_counts != NULL && jobq_latest_counts->queue_id == queue_id ?
		jobq_latest_counts : jobq_announce_counts(queue_id);
}

/* Add to a number of a queue when this transaction commits. */
static inline void
jobq_count(int64 queue_id, int which, int64 n)
{
	JobqCounts *c = jobq_counts(queue_id);

	c->values[which] += n;
	c->touched |= UINT64CONST(1) << which;
}

static inline TimestampTz
jobq_read_time(pg_atomic_uint64 *p)
{
	return (TimestampTz) pg_atomic_read_u64(p);
}

#endif							/* JOBQ_SHARED_H */
