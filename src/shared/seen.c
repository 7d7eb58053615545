/*
 * seen.c
 *	  When workers were last seen, by their names.
 *
 * Claims, heartbeats and registrations note it in an array of entries.  A name has
 * eight places there, from that which its key gives; the key is a hash of database
 * and name.  Nobody locks anything: an entry is taken by changing its key, free or
 * of a name that was not seen for long, and its time is written at most ten times
 * a second.
 *
 * All of it are hints.  Two sessions can take an entry each for one name, and one
 * that takes an entry can be shown the time of who had it before for a moment; a
 * name that finds no place is not noted.  A crash leaves nothing.
 *
 * A worker that waits for a job, or has a session that claimed session leases, is
 * seen now.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/shmem.h"

#include "shared/shared.h"

int			jobq_max_workers = JOBQ_DEFAULT_MAX_WORKERS;

#define PLACES		8			/* of a name */
#define WRITE_AFTER	(USECS_PER_SEC / 10)
#define KEEP		(10 * USECS_PER_MINUTE) /* before the place is given to
											 * another */

typedef struct Seen
{
	pg_atomic_uint64 key;		/* 0: free */
	pg_atomic_uint64 at;		/* by jobq_steady() */
	pg_atomic_uint64 lease;		/* microseconds; 0: not known */
} Seen;

static Seen *entries = NULL;

/* How much shared memory it takes. */
static Size
seen_size(void)
{
	return mul_size(jobq_max_workers, sizeof(Seen));
}

/* Initialize or attach. */
static void
seen_init(LWLockPadded *locks)
{
	bool		found;

	entries = ShmemInitStruct("jobq workers", seen_size(), &found);
	for (int i = 0; i < jobq_max_workers && !found; i++)
	{
		pg_atomic_init_u64(&entries[i].key, 0);
		pg_atomic_init_u64(&entries[i].at, 0);
		pg_atomic_init_u64(&entries[i].lease, 0);
	}
}

/* How many names are noted. */
static int
seen_used(void)
{
	int			n = 0;

	for (int i = 0; i < jobq_max_workers; i++)
		n += pg_atomic_read_u64(&entries[i].key) != 0;
	return n;
}

const JobqPart jobq_seen_part = {"workers", &jobq_max_workers, 0, false,
seen_size, seen_init, seen_used};

/* The key of a name in this database; never 0. */
uint64
jobq_worker_key(const char *name, int len)
{
	uint64		key = hash_bytes_extended((const unsigned char *) name, len, MyDatabaseId);

	return key != 0 ? key : 1;
}

/* One of the places of a key. */
static Seen *
place(uint64 key, int i)
{
	return &entries[(key % jobq_max_workers + i) % jobq_max_workers];
}

/* The entry of a key, or one that is taken for it; NULL: there is no room. */
static Seen *
take_entry(uint64 key, TimestampTz now)
{
	Seen	   *oldest = place(key, 0);
	uint64		old;

	for (int i = 0; i < PLACES; i++)
	{
		Seen	   *e = place(key, i);

		if (pg_atomic_read_u64(&e->key) == key)
			return e;
		if (pg_atomic_read_u64(&e->at) < pg_atomic_read_u64(&oldest->at))
			oldest = e;
	}
	old = pg_atomic_read_u64(&oldest->key);
	if ((old != 0 && jobq_read_time(&oldest->at) > now - KEEP) ||
		!pg_atomic_compare_exchange_u64(&oldest->key, &old, key))
		return NULL;
	pg_atomic_write_u64(&oldest->lease, 0);
	return oldest;
}

/* A worker is here, with a lease of so many microseconds; 0: leave that. */
void
jobq_note_worker(uint64 key, int64 lease)
{
	TimestampTz now = jobq_steady();
	Seen	   *e = take_entry(key, now);

	if (e == NULL)
		return;
	if (jobq_read_time(&e->at) < now - WRITE_AFTER)
		pg_atomic_write_u64(&e->at, (uint64) now);
	if (lease > 0 && pg_atomic_read_u64(&e->lease) != (uint64) lease)
		pg_atomic_write_u64(&e->lease, (uint64) lease);
}

/*
 * When a worker was last seen, by jobq_steady(); 0: not since the server was started, or
 * not for long.  *lease: the length of its last lease; 0: not known.
 */
TimestampTz
jobq_worker_seen(uint64 key, int64 *lease)
{
	TimestampTz at = 0;

	*lease = 0;
	for (int i = 0; i < PLACES; i++)
	{
		Seen	   *e = place(key, i);

		if (pg_atomic_read_u64(&e->key) != key || jobq_read_time(&e->at) <= at)
			continue;
		at = jobq_read_time(&e->at);
		*lease = (int64) pg_atomic_read_u64(&e->lease);
	}
	return jobq_waiter_of_worker(key) || jobq_session_of_worker(key) ? jobq_steady() : at;
}
