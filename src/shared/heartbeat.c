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
 * The entries are in partitions of fixed size, each an array with hash chains
 * of array indexes.  A crash leaves nothing: the memory is made anew.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/shmem.h"

#include "shared/shared.h"

int			jobq_max_heartbeats = JOBQ_DEFAULT_MAX_HEARTBEATS;

typedef struct Heartbeat
{
	int64		job_id;
	int64		token;
	TimestampTz until;
	Oid			database;
	unsigned int next:31;		/* in chain or free list; NIL_HEARTBEAT: last */
	unsigned int cancel:1;		/* cancellation was asked for */
} Heartbeat;

#define NIL_HEARTBEAT	0x7fffffffU

/* All fields of it and of its entries: the lock of the partition. */
typedef struct Partition
{
	uint32		free;			/* head of the free list */
	uint32		used;			/* entries that were ever in use */
	uint32		count;			/* entries in use */
	uint32	   *buckets;		/* heads of the chains */
	Heartbeat  *heartbeats;
} Partition;

static Partition *partitions;
static LWLockPadded *partition_locks;

/* Entries, and as many buckets, in one partition. */
static uint32
partition_entries(void)
{
	/* some more, for they do not fill evenly */
	return jobq_max_heartbeats / JOBQ_HEARTBEAT_PARTITIONS * 33 / 32 + 32;
}

/* How much shared memory it takes. */
static Size
heartbeats_size(void)
{
	Size		size = mul_size(partition_entries(), MAXALIGN(sizeof(Heartbeat)) + sizeof(uint32));

	return add_size(MAXALIGN(JOBQ_HEARTBEAT_PARTITIONS * sizeof(Partition)),
					mul_size(JOBQ_HEARTBEAT_PARTITIONS, MAXALIGN(size)));
}

/* Initialize or attach. */
static void
heartbeats_init(void *area, bool found, LWLockPadded *locks)
{
	char	   *p = (char *) area + MAXALIGN(JOBQ_HEARTBEAT_PARTITIONS * sizeof(Partition));
	uint32		n = partition_entries();

	partitions = area;
	partition_locks = locks;
	if (found)
		return;
	for (int i = 0; i < JOBQ_HEARTBEAT_PARTITIONS; i++)
	{
		Partition  *part = &partitions[i];

		part->free = NIL_HEARTBEAT;
		part->used = 0;
		part->count = 0;
		part->heartbeats = (Heartbeat *) p;
		part->buckets = (uint32 *) (p + n * MAXALIGN(sizeof(Heartbeat)));
		for (uint32 b = 0; b < n; b++)
			part->buckets[b] = NIL_HEARTBEAT;
		p += MAXALIGN(n * (MAXALIGN(sizeof(Heartbeat)) + sizeof(uint32)));
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
		n += partitions[i].count;
		LWLockRelease(&partition_locks[i].lock);
	}
	return n;
}

const JobqPart jobq_heartbeats_part = {"heartbeats", &jobq_max_heartbeats, JOBQ_HEARTBEAT_PARTITIONS, false,
heartbeats_size, heartbeats_init, heartbeats_used};

/* The hash of a job. */
static uint64
hash_job(Oid database, int64 job_id)
{
	uint64		h = (uint64) job_id * UINT64CONST(0x9e3779b97f4a7c15) + database;

	h = (h ^ (h >> 32)) * UINT64CONST(0xd6e8feb86659fd93);
	return h ^ (h >> 32);
}

/* Where the entry of a job is, or would be; its partition is locked */
typedef struct Place
{
	Partition  *part;
	LWLock	   *lock;
	uint32	   *head;			/* of the chain */
	Heartbeat  *heartbeat;		/* of the job, of whatever lease; or NULL */
} Place;

/* Lock the partition of a job; returns the entry of the lease, or NULL. */
static Heartbeat *
lock_lease(int64 job_id, int64 token, LWLockMode mode, Place *p)
{
	uint64		h = hash_job(MyDatabaseId, job_id);
	int			i = h % JOBQ_HEARTBEAT_PARTITIONS;

	p->part = &partitions[i];
	p->lock = &partition_locks[i].lock;
	LWLockAcquire(p->lock, mode);
	p->head = &p->part->buckets[(h / JOBQ_HEARTBEAT_PARTITIONS) % partition_entries()];
	p->heartbeat = NULL;
	for (uint32 k = *p->head; k != NIL_HEARTBEAT && p->heartbeat == NULL; k = p->part->heartbeats[k].next)
	{
		if (p->part->heartbeats[k].job_id == job_id && p->part->heartbeats[k].database == MyDatabaseId)
			p->heartbeat = &p->part->heartbeats[k];
	}
	return p->heartbeat != NULL && p->heartbeat->token == token ? p->heartbeat : NULL;
}

/* Unlink an entry from its chain and free it. */
static void
free_beat(Partition *part, uint32 *head, Heartbeat *heartbeat)
{
	uint32		index = heartbeat - part->heartbeats;

	if (*head == index)
		*head = heartbeat->next;
	else
	{
		uint32		i = *head;

		while (part->heartbeats[i].next != index)
			i = part->heartbeats[i].next;
		part->heartbeats[i].next = heartbeat->next;
	}
	heartbeat->database = InvalidOid;
	heartbeat->next = part->free;
	part->free = index;
	part->count--;
}

/* Link a free entry into a chain; NULL: there is no room. */
static Heartbeat *
take_entry(Partition *part, uint32 *head)
{
	uint32		index = part->free;

	if (index != NIL_HEARTBEAT)
		part->free = part->heartbeats[index].next;
	else if (part->used < partition_entries())
		index = part->used++;
	else
		return NULL;
	part->heartbeats[index].next = *head;
	*head = index;
	part->count++;
	return &part->heartbeats[index];
}

/* Make the entry of a lease, or extend it; does nothing if there is no room. */
void
jobq_heartbeat_enter(int64 job_id, int64 token, TimestampTz until)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_EXCLUSIVE, &p);

	if (heartbeat != NULL)
		heartbeat->until = Max(heartbeat->until, until);
	else
	{
		heartbeat = p.heartbeat ? p.heartbeat : take_entry(p.part, p.head);
		if (heartbeat != NULL)
		{
			heartbeat->job_id = job_id;
			heartbeat->token = token;
			heartbeat->until = until;
			heartbeat->database = MyDatabaseId;
			heartbeat->cancel = false;
		}
	}
	LWLockRelease(p.lock);
}

/* Remove the entry of a lease. */
void
jobq_heartbeat_remove(int64 job_id, int64 token)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_EXCLUSIVE, &p);

	if (heartbeat != NULL)
		free_beat(p.part, p.head, heartbeat);
	LWLockRelease(p.lock);
}

/* Note that cancellation was asked for. */
void
jobq_heartbeat_cancel(int64 job_id, int64 token)
{
	Place		p;
	Heartbeat  *heartbeat = lock_lease(job_id, token, LW_EXCLUSIVE, &p);

	if (heartbeat != NULL)
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
		free_beat(p.part, p.head, heartbeat);
	LWLockRelease(p.lock);
	return !alive;
}

/* Entries of this database in one partition that ended before a time. */
int
jobq_heartbeat_stale(int partition, TimestampTz before, JobqHeartbeatRef *refs, int max)
{
	Partition  *part = &partitions[partition];
	int			n = 0;

	LWLockAcquire(&partition_locks[partition].lock, LW_SHARED);
	for (uint32 i = 0; i < part->used && n < max; i++)
	{
		Heartbeat  *heartbeat = &part->heartbeats[i];

		if (heartbeat->database == MyDatabaseId && heartbeat->until < before)
		{
			refs[n].job_id = heartbeat->job_id;
			refs[n].token = heartbeat->token;
			n++;
		}
	}
	LWLockRelease(&partition_locks[partition].lock);
	return n;
}

/* Forget all entries of a database. */
void
jobq_heartbeats_forget_database(Oid database)
{
	for (int p = 0; p < JOBQ_HEARTBEAT_PARTITIONS; p++)
	{
		Partition  *part = &partitions[p];

		LWLockAcquire(&partition_locks[p].lock, LW_EXCLUSIVE);
		for (uint32 i = 0; i < part->used; i++)
		{
			Heartbeat  *heartbeat = &part->heartbeats[i];

			if (heartbeat->database == database)
			{
				uint64		h = hash_job(database, heartbeat->job_id);

				free_beat(part, &part->buckets[(h / JOBQ_HEARTBEAT_PARTITIONS) % partition_entries()],
						  heartbeat);
			}
		}
		LWLockRelease(&partition_locks[p].lock);
	}
}
