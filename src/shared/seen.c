/*
 * seen.c
 *	  When workers were last seen, by their names, and which was the last to run a
 *	  job of an affinity.
 *
 * Claims, heartbeats and registrations note it in arrays of entries.  What an entry
 * is about has eight places there, from that which its key gives; the key is a hash
 * of database and name, or of database, queue and affinity.  Nobody locks anything:
 * an entry is taken by changing its key, free or of what was not noted for long, and
 * its time is written at most ten times a second.
 *
 * All of it are hints.  Two sessions can take an entry each for one name, and one
 * that takes an entry can be shown what stood there before for a moment; a
 * name that finds no place is not noted.  A crash leaves nothing.
 *
 * A worker that waits for a job, or has a session that claimed session leases, is
 * seen now.
 *
 * The place of a worker also stands for the lanes of its own, in which jobs are kept
 * for it (affinity.c).  Whether there may be any is noted there, so that others need
 * not look.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#include "shared/shared.h"

int			jobq_max_workers = JOBQ_DEFAULT_MAX_WORKERS;
int			jobq_max_affinities = JOBQ_DEFAULT_MAX_AFFINITIES;

#define PLACES		8			/* of a key */
#define WRITE_AFTER	(USECS_PER_SEC / 10)
#define KEEP		(10 * USECS_PER_MINUTE) /* before the place of a worker is
											 * given to another */

typedef struct Note
{
	pg_atomic_uint64 key;		/* 0: free */
	pg_atomic_uint64 at;		/* by jobq_steady() */
	pg_atomic_uint64 value;		/* of a worker: the length of its lease in
								 * microseconds, or 0; of an affinity: the key
								 * of the worker */
} Note;

#define MARK_OWN_LANES	0x01	/* jobs are, or were, kept for it */
#define MARK_DRAINS	0x02		/* none is to be */

typedef struct Notes
{
	const int  *entries;
	Note	   *notes;
	pg_atomic_uint32 *marks;	/* of workers, see below */
} Notes;

static Notes workers = {&jobq_max_workers};
static Notes affinities = {&jobq_max_affinities};

/* How much shared memory it takes. */
static Size
workers_size(void)
{
	return add_size(mul_size(jobq_max_workers, sizeof(Note)), mul_size(jobq_max_workers, sizeof(pg_atomic_uint32)));
}

/* The same. */
static Size
affinities_size(void)
{
	return mul_size(jobq_max_affinities, sizeof(Note));
}

/* Initialize or attach the array of some notes, which comes first in its memory; true: it was there. */
static bool
init_notes(Notes *of, const char *name, Size size)
{
	bool		found;

	of->notes = ShmemInitStruct(name, size, &found);
	for (int i = 0; i < *of->entries && !found; i++)
	{
		pg_atomic_init_u64(&of->notes[i].key, 0);
		pg_atomic_init_u64(&of->notes[i].at, 0);
		pg_atomic_init_u64(&of->notes[i].value, 0);
	}
	return found;
}

/* Initialize or attach. */
static void
workers_init(LWLockPadded *locks)
{
	bool		found = init_notes(&workers, "jobq workers", workers_size());

	workers.marks = (pg_atomic_uint32 *) &workers.notes[jobq_max_workers];
	for (int i = 0; i < jobq_max_workers && !found; i++)
		pg_atomic_init_u32(&workers.marks[i], 0);
}

/* The same. */
static void
affinities_init(LWLockPadded *locks)
{
	(void) init_notes(&affinities, "jobq affinities", affinities_size());
}

/* How many are in use. */
static int
used(const Notes *of)
{
	int			n = 0;

	for (int i = 0; i < *of->entries; i++)
		n += pg_atomic_read_u64(&of->notes[i].key) != 0;
	return n;
}

/* How many names are noted. */
static int
workers_used(void)
{
	return used(&workers);
}

/* How many affinities are. */
static int
affinities_used(void)
{
	return used(&affinities);
}

const JobqPart jobq_workers_part = {"workers", &jobq_max_workers, 0, false,
workers_size, workers_init, workers_used};

const JobqPart jobq_affinities_part = {"affinities", &jobq_max_affinities, 0, false,
affinities_size, affinities_init, affinities_used};

/* One of the places of a key. */
static int
place(const Notes *of, uint64 key, int i)
{
	return (key % *of->entries + i) % *of->entries;
}

/* Where a key is noted; -1: nowhere. */
static int
find_note(const Notes *of, uint64 key)
{
	for (int i = 0; i < PLACES; i++)
	{
		if (pg_atomic_read_u64(&of->notes[place(of, key, i)].key) == key)
			return place(of, key, i);
	}
	return -1;
}

/*
 * The same, or a place that is taken for it: one that is free, or was not noted since
 * a time; -1: there is none.
 */
static int
take_note(Notes *of, uint64 key, TimestampTz since)
{
	int			found = find_note(of, key);
	int			oldest = place(of, key, 0);
	Note	   *note;
	uint64		old;

	if (found >= 0)
		return found;
	for (int i = 1; i < PLACES; i++)
	{
		if (jobq_read_time(&of->notes[place(of, key, i)].at) < jobq_read_time(&of->notes[oldest].at))
			oldest = place(of, key, i);
	}
	note = &of->notes[oldest];
	old = pg_atomic_read_u64(&note->key);
	if ((old != 0 && jobq_read_time(&note->at) > since) ||
		!pg_atomic_compare_exchange_u64(&note->key, &old, key))
		return -1;
	pg_atomic_write_u64(&note->value, 0);
	if (of->marks != NULL)
		pg_atomic_write_u32(&of->marks[oldest], 0);
	return oldest;
}

/* Note a key, now; the value, if it is not 0.  Returns its place, or -1. */
static int
take_down(Notes *of, uint64 key, uint64 value, TimestampTz now, TimestampTz since)
{
	int			found = take_note(of, key, since);
	Note	   *note;

	if (found < 0)
		return -1;
	note = &of->notes[found];
	if (jobq_read_time(&note->at) < now - WRITE_AFTER)
		pg_atomic_write_u64(&note->at, (uint64) now);
	if (value != 0 && pg_atomic_read_u64(&note->value) != value)
		pg_atomic_write_u64(&note->value, value);
	return found;
}

/* The key of a name in this database; never 0. */
uint64
jobq_worker_key(const char *name, int len)
{
	uint64		key = hash_bytes_extended((const unsigned char *) name, len, MyDatabaseId);

	return key != 0 ? key : 1;
}

/*
 * A worker is here, with a lease of so many microseconds; 0: leave that.  Returns its
 * place, which nobody else is given for ten minutes; -1: it has none.
 */
int
jobq_note_worker(uint64 key, int64 lease)
{
	TimestampTz now = jobq_steady();

	return take_down(&workers, key, (uint64) lease, now, now - KEEP);
}

/*
 * When a worker was last seen, by jobq_steady(); 0: not since the server was started, or
 * not for long.  *lease: the length of its last lease; 0: not known.
 */
TimestampTz
jobq_worker_seen(uint64 key, int64 *lease)
{
	int			found = find_note(&workers, key);

	*lease = found >= 0 ? (int64) pg_atomic_read_u64(&workers.notes[found].value) : 0;
	if (jobq_waiter_of_worker(key) || jobq_session_of_worker(key))
		return jobq_steady();
	return found >= 0 ? jobq_read_time(&workers.notes[found].at) : 0;
}

/* The key of the worker at a place; 0: there is none. */
uint64
jobq_worker_at(int at)
{
	return at < jobq_max_workers ? pg_atomic_read_u64(&workers.notes[at].key) : 0;
}

/*
 * The place of a worker that was seen after a time and does not drain; -1: it was not,
 * or has none.  *seen: when.
 */
int
jobq_worker_place(uint64 key, TimestampTz after, TimestampTz *seen)
{
	int			found = find_note(&workers, key);

	if (found < 0 || (pg_atomic_read_u32(&workers.marks[found]) & MARK_DRAINS))
		return -1;
	*seen = jobq_read_time(&workers.notes[found].at);
	if (*seen <= after && (jobq_waiter_of_worker(key) || jobq_session_of_worker(key)))
		*seen = jobq_steady();
	return *seen > after ? found : -1;
}

/* Are jobs kept for the worker at a place, or were there? */
bool
jobq_has_own_lanes(int at)
{
	return (pg_atomic_read_u32(&workers.marks[at]) & MARK_OWN_LANES) != 0;
}

/* Jobs are to be kept for it. */
void
jobq_note_own_lanes(int at)
{
	if (!jobq_has_own_lanes(at))
		pg_atomic_fetch_or_u32(&workers.marks[at], MARK_OWN_LANES);
}

/* The key of an affinity of a queue in this database; never 0. */
static uint64
affinity_key(int64 queue_id, int64 affinity_id)
{
	uint64		key = hash_combine64(hash_combine64((uint64) queue_id, (uint64) affinity_id), MyDatabaseId);

	return key != 0 ? key : 1;
}

/* A worker runs a job of an affinity; that which was noted longest ago is forgotten for it. */
void
jobq_note_affinity(int64 queue_id, int64 affinity_id, uint64 worker)
{
	TimestampTz now = jobq_steady();

	(void) take_down(&affinities, affinity_key(queue_id, affinity_id), worker, now, now);
}

/* The worker that was the last to run a job of an affinity; 0: it is not known. */
uint64
jobq_worker_of_affinity(int64 queue_id, int64 affinity_id)
{
	int			found = find_note(&affinities, affinity_key(queue_id, affinity_id));

	return found >= 0 ? pg_atomic_read_u64(&affinities.notes[found].value) : 0;
}

/*
 * Commit callback: a worker drains, or does not, or is gone.  It was the last of no
 * affinity; a claim that has not seen that it drains may note it again in vain.
 */
void
jobq_worker_changed(uint64 worker, bool drains)
{
	int			found = find_note(&workers, worker);

	if (found >= 0 && drains)
		pg_atomic_fetch_or_u32(&workers.marks[found], MARK_DRAINS);
	else if (found >= 0)
		pg_atomic_fetch_and_u32(&workers.marks[found], ~MARK_DRAINS);
	for (int i = 0; i < jobq_max_affinities; i++)
	{
		uint64		old = pg_atomic_read_u64(&affinities.notes[i].value);

		if (old == worker)
			(void) pg_atomic_compare_exchange_u64(&affinities.notes[i].value, &old, 0);
	}
}
