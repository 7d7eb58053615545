/*
 * gate.c
 *	  What commits tell the gatekeeper of jobs of gated queues.
 *
 * Events of all databases stand in one pool, those of a database in a list, in the
 * order in which they came; those of one transaction come together.  Where there is no room, that is
 * noted, and the gatekeeper looks at the tables instead.  The waiting list of a
 * database is emptied by its worker alone.
 *
 * One LWLock guards it all, for as long as it takes to copy some events.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/shmem.h"

#include "shared/shared.h"

int			jobq_max_gate_events = JOBQ_DEFAULT_MAX_GATE_EVENTS;

typedef struct PoolEvent
{
	JobqGateEvent event;
	int			next;			/* in its list; -1: the last */
} PoolEvent;

typedef struct Pool
{
	int			free;			/* the first that is; -1: none */
	int			nfree;
	PoolEvent	events[FLEXIBLE_ARRAY_MEMBER];
} Pool;

static Pool *pool = NULL;
static LWLock *pool_lock;

/* The size of it. */
static Size
pool_size(void)
{
	return add_size(offsetof(Pool, events), mul_size(jobq_max_gate_events, sizeof(PoolEvent)));
}

/* Initialize or attach. */
static void
pool_init(LWLockPadded *locks)
{
	bool		found;

	pool_lock = &locks[0].lock;
	pool = ShmemInitStruct("jobq gate events", pool_size(), &found);
	if (found)
		return;
	for (int i = 0; i < jobq_max_gate_events; i++)
		pool->events[i].next = i + 1 < jobq_max_gate_events ? i + 1 : -1;
	pool->free = 0;
	pool->nfree = jobq_max_gate_events;
}

/* How many wait to be taken. */
static int
pool_used(void)
{
	int			n;

	LWLockAcquire(pool_lock, LW_SHARED);
	n = jobq_max_gate_events - pool->nfree;
	LWLockRelease(pool_lock);
	return n;
}

const JobqPart jobq_gate_events_part = {"gate events", &jobq_max_gate_events, 1, false,
pool_size, pool_init, pool_used};

/* Add the events of a transaction to those of a database; the caller wakes its worker. */
void
jobq_gate_events_add(JobqDatabase *db, const JobqGateEvent *events, int n, bool lost)
{
	LWLockAcquire(pool_lock, LW_EXCLUSIVE);
	if (lost || n > pool->nfree)
		db->gate_lost = true;
	else
	{
		for (int i = 0; i < n; i++)
		{
			int			at = pool->free;
			PoolEvent  *e = &pool->events[at];

			pool->free = e->next;
			e->event = events[i];
			e->next = -1;
			if (db->gate_last < 0)
				db->gate_first = at;
			else
				pool->events[db->gate_last].next = at;
			db->gate_last = at;
		}
		pool->nfree -= n;
	}
	pg_atomic_write_u32(&db->gate_events, 1);
	LWLockRelease(pool_lock);
}

/* Take the first events of a database, up to max; *lost: there were some before them that found no room. */
int
jobq_gate_events_take(JobqDatabase *db, JobqGateEvent *events, int max, bool *lost)
{
	int			n = 0;

	LWLockAcquire(pool_lock, LW_EXCLUSIVE);
	*lost = db->gate_lost;
	db->gate_lost = false;
	while (n < max && db->gate_first >= 0)
	{
		int			at = db->gate_first;
		PoolEvent  *e = &pool->events[at];

		events[n++] = e->event;
		db->gate_first = e->next;
		if (db->gate_first < 0)
			db->gate_last = -1;
		e->next = pool->free;
		pool->free = at;
		pool->nfree++;
	}
	pg_atomic_write_u32(&db->gate_events, db->gate_first >= 0);
	LWLockRelease(pool_lock);
	return n;
}

/* A database's slot is made empty; the caller keeps others away from it. */
void
jobq_gate_events_forget(JobqDatabase *db)
{
	JobqGateEvent events[64];
	bool		lost;

	while (pg_atomic_read_u32(&db->gate_events) != 0)
		(void) jobq_gate_events_take(db, events, lengthof(events), &lost);
}
