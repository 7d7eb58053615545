/*
 * heartbeat.c
 *	  Heartbeats: until when running jobs are alive, in shared memory.
 *
 * An entry belongs to one lease, (database, job, token), and is made by the
 * commit of the claim, or of a heartbeat that wrote the row.  It extends what
 * the row says and costs no WAL.  No entry means that the row alone counts: the
 * table was full, the server was restarted, or the lease has expired.
 *
 * 1. Under the lock of its partition an entry is either extended or taken away
 *	  because it has expired, never both: a heartbeat that said "alive" is
 *	  never followed by an expiry before what it promised.
 * 2. An entry is made after the row is visible and removed after its deletion
 *	  is, both by commit callbacks.  So an entry without a row is a leftover
 *	  (of a prepared transaction), and the worker's sweep removes it.
 *
 * The entries are in hash tables of fixed size, the partitions, each with its
 * lock.  A crash leaves nothing: the memory is made anew.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "utils/hsearch.h"

#include "shared/shared.h"

int			jobq_max_heartbeats = JOBQ_DEFAULT_MAX_HEARTBEATS;

/* All fields: the lock of the partition. */
typedef struct Heartbeat
{
	int64		job_id;			/* this and the next are the key */
	Oid			database;
	bool		cancel;			/* cancellation was asked for */
	int64		token;
	TimestampTz until;
} Heartbeat;

#define KEY_SIZE	offsetof(Heartbeat, cancel)

static HTAB *partitions[JOBQ_HEARTBEAT_PARTITIONS];
static LWLockPadded *partition_locks;

/* Entries in one partition: some more than its part, for they do not fill evenly. */
static int
partition_entries(void)
{
	return jobq_max_heartbeats / JOBQ_HEARTBEAT_PARTITIONS * 33 / 32 + 32;
}

/* How much shared memory it takes. */
static Size
heartbeats_size(void)
{
	return mul_size(JOBQ_HEARTBEAT_PARTITIONS, hash_estimate_size(partition_entries(), sizeof(Heartbeat)));
}

/* The hash of a key: ids are dense, so half of one tells the jobs of a database apart. */
static uint32
heartbeat_hash(const void *key, Size keysize)
{
	const Heartbeat *heartbeat = key;

	return murmurhash32((uint32) heartbeat->job_id ^ heartbeat->database);
}

/* Initialize or attach. */
static void
heartbeats_init(LWLockPadded *locks)
{
	HASHCTL		ctl = {.keysize = KEY_SIZE,.entrysize = sizeof(Heartbeat),.hash = heartbeat_hash};

	partition_locks = locks;
	for (int i = 0; i < JOBQ_HEARTBEAT_PARTITIONS; i++)
	{
		char	   *name = psprintf("jobq heartbeats %d", i);

		partitions[i] = ShmemInitHash(name, partition_entries(), partition_entries(), &ctl,
									  HASH_ELEM | HASH_FUNCTION | HASH_FIXED_SIZE);
		pfree(name);
	}
}

/* How many entries are in use. */
static int
heartbeats_used(void)
{
	int			n = 0;

	for (int i = 0; i < JOBQ_HEARTBEAT_PARTITIONS; i++)
	{
		LWLockAcquire(&partition_locks[i].lock, LW_SHARED);
		n += hash_get_num_entries(partitions[i]);
		LWLockRelease(&partition_locks[i].lock);
	}
	return n;
}

const JobqPart jobq_heartbeats_part = {"heartbeats", &jobq_max_heartbeats, JOBQ_HEARTBEAT_PARTITIONS, false,
heartbeats_size, heartbeats_init, heartbeats_used};

/* Where the entry of a job is, or would be; its partition is locked */
typedef struct Place
{
	HTAB	   *partition;
	LWLock	   *lock;
	Heartbeat	key;			/* only that is set */
	uint32		hash;
} Place;

/* Do something with an entry of a locked partition; NULL: there is none, or no room. */
static Heartbeat *
at_place(const Place *p, HASHACTION action)
{
	return hash_search_with_hash_value(p->partition, &p->key, p->hash, action, NULL);
}

/* Lock the partition of a job; returns the entry of the lease, or NULL. */
static Heartbeat *
lock_lease(int64 job_id, int64 token, LWLockMode mode, Place *p)
{
	Heartbeat  *heartbeat;
	int			i;

	p->key.job_id = job_id;
	p->key.database = MyDatabaseId;
	p->hash = get_hash_value(partitions[0], &p->key);
	/* the upper bits, as the lower ones are the bucket within it */
	i = (p->hash >> 24) % JOBQ_HEARTBEAT_PARTITIONS;
	p->partition = partitions[i];
	p->lock = &partition_locks[i].lock;
	LWLockAcquire(p->lock, mode);
	heartbeat = at_place(p, HASH_FIND);
	return heartbeat != NULL && heartbeat->token == token ? heartbeat : NULL;
}

/* What the commit does that changed a lease; cannot fail. */
void
jobq_heartbeat_change(JobqLeaseAct act, int64 job_id, int64 token, TimestampTz until)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_EXCLUSIVE, &p);

	if (act == LEASE_ENTER && heartbeat == NULL)
	{
		/* perhaps that of another lease of the job; none if there is no room */
		heartbeat = at_place(&p, HASH_ENTER_NULL);
		if (heartbeat != NULL)
		{
			heartbeat->token = token;
			heartbeat->until = until;
			heartbeat->cancel = false;
		}
	}
	else if (act == LEASE_ENTER)
		heartbeat->until = Max(heartbeat->until, until);
	else if (act == LEASE_END && heartbeat != NULL)
		at_place(&p, HASH_REMOVE);
	else if (act == LEASE_CANCEL && heartbeat != NULL)
		heartbeat->cancel = true;
	LWLockRelease(p.lock);
}

/* A heartbeat. */
JobqHeartbeat
jobq_heartbeat_extend(int64 job_id, int64 token, TimestampTz until)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_EXCLUSIVE, &p);
	JobqHeartbeat result = HEARTBEAT_NONE;

	if (heartbeat != NULL)
	{
		heartbeat->until = Max(heartbeat->until, until);
		result = heartbeat->cancel ? HEARTBEAT_CANCEL : HEARTBEAT_ALIVE;
	}
	LWLockRelease(p.lock);
	return result;
}

/* Until when a lease is alive by its entry; 0: there is none. */
TimestampTz
jobq_heartbeat_until(int64 job_id, int64 token)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_SHARED, &p);
	TimestampTz until = heartbeat != NULL ? heartbeat->until : 0;

	LWLockRelease(p.lock);
	return until;
}

/*
 * Take the entry of an expired lease away; true also if there is none.  False:
 * it is alive until *until.
 */
bool
jobq_heartbeat_expire(int64 job_id, int64 token, TimestampTz now, TimestampTz *until)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_EXCLUSIVE, &p);
	bool		alive = heartbeat != NULL && heartbeat->until > now;

	if (alive)
		*until = heartbeat->until;
	else if (heartbeat != NULL)
		at_place(&p, HASH_REMOVE);
	LWLockRelease(p.lock);
	return !alive;
}

/* Entries of this database in one partition that ended before a time. */
int
jobq_heartbeat_stale(int partition, TimestampTz before, JobqHeartbeatRef *refs, int max)
{
	HASH_SEQ_STATUS scan;
	Heartbeat  *heartbeat;
	int			n = 0;

	LWLockAcquire(&partition_locks[partition].lock, LW_SHARED);
	hash_seq_init(&scan, partitions[partition]);
	while ((heartbeat = hash_seq_search(&scan)) != NULL)
	{
		if (n < max && heartbeat->database == MyDatabaseId && heartbeat->until < before)
		{
			refs[n].job_id = heartbeat->job_id;
			refs[n++].token = heartbeat->token;
		}
	}
	LWLockRelease(&partition_locks[partition].lock);
	return n;
}

/* Forget all entries of a database. */
void
jobq_heartbeats_forget_database(Oid database)
{
	HASH_SEQ_STATUS scan;
	Heartbeat  *heartbeat;

	for (int i = 0; i < JOBQ_HEARTBEAT_PARTITIONS; i++)
	{
		LWLockAcquire(&partition_locks[i].lock, LW_EXCLUSIVE);
		hash_seq_init(&scan, partitions[i]);
		while ((heartbeat = hash_seq_search(&scan)) != NULL)
		{
			if (heartbeat->database == database)
				hash_search(partitions[i], heartbeat, HASH_REMOVE, NULL);
		}
		LWLockRelease(&partition_locks[i].lock);
	}
}
