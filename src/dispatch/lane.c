/*
 * lane.c
 *	  What shared memory knows of each lane: a ring of candidates and floors.
 *
 * A key is (priority, position), the order that of the index and of the
 * hand-out (handout.c).  An entry has
 *
 *	- a ring of candidates, in the order in which they are handed out, and
 *	- for each priority a floor, the lowest position that a refill of the ring
 *	  has to look at.
 *
 * Invariants, for a row of job_ready that is committed and that no transaction
 * has taken:
 *	H1	If its key is not after "end", it is in the ring.
 *	H2	If it is not in the ring, its position is not below the floor of its
 *		priority.  No floor means that there is no such row, or, for priorities
 *		below "rest", that a refill scans all of them.
 *	H3	Who takes a row, by popping it or by deleting it, owes it until the
 *		deletion commits: an abort offers it again (announce.c).  So a scan may
 *		pass over rows that a transaction is just deleting.
 *	H4	A row past its expires_at is the background worker's, so a scan may pass
 *		over it, too.
 *
 * A commit offers its rows once they are visible: lowers the floor, and puts the
 * row into the ring if its key is not after the end.  Where the ring is full, its
 * last candidate goes and the end moves to before it.
 *
 * A claim that may take from many lanes looks at "first_key" of each, which says what
 * comes first there, without their locks, and opens those only that can have the next
 * job.
 *
 * Prepared transactions announce nothing, so when one ends all lanes of its
 * database are forgotten.  An entry belongs to a file of job_ready, known by
 * database, table and file number; another one (TRUNCATE, VACUUM FULL, a new
 * extension) means to forget what is known.  When all entries are in use the one
 * that was not used for longest goes; a lane without an entry is scanned from
 * its beginning.
 *
 * Locks: "lanes" (lookup shared, making and removing entries exclusive), then a
 * lane's own, for a few microseconds and never while a page is read.  A crash
 * leaves nothing: the memory is made anew.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "storage/shmem.h"

#include "dispatch/dispatch.h"

int			jobq_max_lanes = JOBQ_DEFAULT_MAX_LANES;
int			jobq_lane_candidates = JOBQ_DEFAULT_LANE_CANDIDATES;
int			jobq_lane_priorities = JOBQ_DEFAULT_LANE_PRIORITIES;

/* What comes first in a lane, in one word: the priority, reversed, above the position */
#define FIRST_BITS		48
#define FIRST_MAX		((INT64CONST(1) << FIRST_BITS) - 2)
#define FIRST_UNKNOWN	UINT64CONST(0)
#define FIRST_NONE		PG_UINT64_MAX

/* The lanes lock guards it. */
typedef struct Lanes
{
	dlist_head	free;			/* entries that are not in use */
	dlist_head *buckets;		/* the others by hash, as many as lanes */
	JobqLane   *lanes;
	TimestampTz evicted_used_at;	/* the latest use of those that were
									 * evicted */
} Lanes;

static Lanes *shared = NULL;
static LWLock *lanes_lock;
static LWLockPadded *lane_locks;

const JobqKey jobq_key_first = {PG_INT16_MAX, PG_INT64_MIN};
const JobqKey jobq_key_last = {PG_INT16_MIN, PG_INT64_MAX};

/* Memory */

/* The size of one lane's floors. */
Size
jobq_floors_size(void)
{
	return MAXALIGN(offsetof(JobqFloors, floors) + (jobq_lane_priorities + 1) * sizeof(JobqFloor));
}

/* How much shared memory it takes. */
static Size
lanes_size(void)
{
	Size		one = MAXALIGN(sizeof(JobqLane)) + sizeof(dlist_head) + jobq_floors_size();

	one = add_size(one, mul_size(jobq_lane_candidates, sizeof(JobqCandidate)));
	return add_size(MAXALIGN(sizeof(Lanes)), mul_size(jobq_max_lanes, MAXALIGN(one)));
}

/* Initialize or attach.  There is a lock for the lanes, then one for each. */
static void
lanes_init(LWLockPadded *locks)
{
	bool		found;
	char	   *p;

	shared = ShmemInitStruct("jobq lanes", lanes_size(), &found);
	p = (char *) shared + MAXALIGN(sizeof(Lanes));
	lanes_lock = &locks[0].lock;
	lane_locks = &locks[1];
	if (found)
		return;
	memset(shared, 0, lanes_size());
	dlist_init(&shared->free);
	shared->lanes = (JobqLane *) p;
	p += jobq_max_lanes * MAXALIGN(sizeof(JobqLane));
	for (int i = 0; i < jobq_max_lanes; i++)
	{
		JobqLane   *l = &shared->lanes[i];

		l->floors = (JobqFloors *) p;
		p += jobq_floors_size();
		l->ring = (JobqCandidate *) p;
		p += jobq_lane_candidates * sizeof(JobqCandidate);
		ConditionVariableInit(&l->refilled);
		pg_atomic_init_u64(&l->first_key, FIRST_UNKNOWN);
		dlist_push_tail(&shared->free, &l->node);
	}
	shared->buckets = (dlist_head *) p;
	for (int i = 0; i < jobq_max_lanes; i++)
		dlist_init(&shared->buckets[i]);
}

/* How many entries are in use. */
static int
lanes_used(void)
{
	int			n = 0;

	LWLockAcquire(lanes_lock, LW_SHARED);
	for (int i = 0; i < jobq_max_lanes; i++)
		n += OidIsValid(shared->lanes[i].database);
	LWLockRelease(lanes_lock);
	return n;
}

const JobqPart jobq_lanes_part = {"lanes", &jobq_max_lanes, 1, true,
lanes_size, lanes_init, lanes_used};

/* The lock of a lane. */
LWLock *
jobq_lane_lock(JobqLane *l)
{
	return &lane_locks[l - shared->lanes].lock;
}

/* An entry by its number, from 0 to jobq_max_lanes - 1. */
JobqLane *
jobq_lane_at(int i)
{
	return &shared->lanes[i];
}

/* Keys and floors */

/* Negative if a is handed out before b. */
int
jobq_compare_keys(JobqKey a, JobqKey b)
{
	if (a.priority != b.priority)
		return a.priority > b.priority ? -1 : 1;
	return a.position < b.position ? -1 : a.position > b.position;
}

/* Know nothing. */
void
jobq_floors_init(JobqFloors *f)
{
	f->n = 0;
	f->rest = PG_INT16_MAX + 1;
	f->dropped = false;
}

/* The index of the first floor whose priority is not above the given one. */
int
jobq_floors_find(const JobqFloors *f, int16 priority)
{
	int			i = 0;

	while (i < f->n && f->floors[i].priority > priority)
		i++;
	return i;
}

/* Forget the lowest priority. */
static void
drop_floor(JobqFloors *f)
{
	f->n--;
	f->rest = Max(f->rest, f->floors[f->n].priority + 1);
	f->dropped = true;
}

/* Add a floor where there is none; where there are too many, the lowest goes. */
void
jobq_floors_add(JobqFloors *f, int16 priority, int64 position, int64 offered)
{
	int			i = jobq_floors_find(f, priority);

	memmove(&f->floors[i + 1], &f->floors[i], (f->n - i) * sizeof(JobqFloor));
	f->floors[i].priority = priority;
	f->floors[i].position = position;
	f->floors[i].offered = offered;
	if (++f->n > jobq_lane_priorities)
		drop_floor(f);
}

/*
 * There is a row at this key.  Below rest it is noted only while a refill is
 * under way, which may lower rest.
 */
void
jobq_floors_lower(JobqFloors *f, JobqKey key, bool refilling)
{
	int			i = jobq_floors_find(f, key.priority);

	if (key.priority < f->rest && !refilling)
		return;
	if (i == f->n || f->floors[i].priority != key.priority)
		jobq_floors_add(f, key.priority, key.position, key.position);
	else
	{
		f->floors[i].position = Min(f->floors[i].position, key.position);
		f->floors[i].offered = Min(f->floors[i].offered, key.position);
	}
}

/* What can be claimed first */

/*
 * Note what comes first in a lane, in one word, whose order is that of the keys, by
 * which others see that they need not look at it.  Called with its lock, after its
 * ring or end has changed.
 */
void
jobq_lane_note_first(JobqLane *l)
{
	uint64		first = FIRST_UNKNOWN;

	if (l->n > 0)
	{
		const JobqCandidate *c = jobq_candidate(l, 0);

		first = (uint64) (PG_INT16_MAX - c->priority) << FIRST_BITS |
			Min(Max(c->position, 0), FIRST_MAX);
	}
	else if (l->refiller == 0 && jobq_compare_keys(l->end, jobq_key_last) == 0)
		first = FIRST_NONE;
	if (pg_atomic_read_u64(&l->first_key) != first)
		pg_atomic_write_u64(&l->first_key, first);
}

/* The key that a word stands for: there is nothing before it. */
static JobqKey
first_key(uint64 first)
{
	JobqKey		key = {PG_INT16_MAX - (int) (first >> FIRST_BITS), first & ((UINT64CONST(1) << FIRST_BITS) - 1)};

	if (first == FIRST_NONE)
		return jobq_key_last;
	if (key.position == 0)
		key.position = PG_INT64_MIN;
	return key;
}

/* Finding an entry */

/* Forget what is known of a lane.  The caller holds its lock. */
static void
forget_lane(JobqLane *l)
{
	l->generation++;
	l->more = false;
	l->end = jobq_key_first;
	l->first = l->n = 0;
	jobq_floors_init(l->floors);
	jobq_lane_note_first(l);
}

/* The list that a lane is in. */
static dlist_head *
bucket_of(Oid database, int64 lane)
{
	return &shared->buckets[((uint64) lane + database) % jobq_max_lanes];
}

/* Find an entry; the caller holds the lanes lock. */
static JobqLane *
find_lane(Oid database, int64 lane)
{
	dlist_iter	iter;

	dlist_foreach(iter, bucket_of(database, lane))
	{
		JobqLane   *l = dlist_container(JobqLane, node, iter.cur);

		if (l->lane == lane && l->database == database)
			return l;
	}
	return NULL;
}

/* Take the entry that was not used for longest; the caller holds the lanes lock. */
static void
evict_lane(void)
{
	JobqLane   *oldest = NULL;

	for (int i = 0; i < jobq_max_lanes; i++)
	{
		JobqLane   *l = &shared->lanes[i];

		/* without the lane's lock: any entry will do */
		if (l->refiller == 0 && (oldest == NULL || l->used_at < oldest->used_at))
			oldest = l;
	}
	if (oldest == NULL || !LWLockConditionalAcquire(jobq_lane_lock(oldest), LW_EXCLUSIVE))
		return;
	if (oldest->refiller == 0)
	{
		shared->evicted_used_at = Max(shared->evicted_used_at, oldest->used_at);
		oldest->database = InvalidOid;
		dlist_delete(&oldest->node);
		dlist_push_head(&shared->free, &oldest->node);
	}
	LWLockRelease(jobq_lane_lock(oldest));
}

/* Make an entry; NULL: all are busy.  The caller holds the lanes lock. */
static JobqLane *
make_lane(Oid database, int64 lane)
{
	JobqLane   *l;

	if (dlist_is_empty(&shared->free))
		evict_lane();
	if (dlist_is_empty(&shared->free))
		return NULL;
	l = dlist_container(JobqLane, node, dlist_pop_head_node(&shared->free));
	LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
	dlist_push_head(bucket_of(database, lane), &l->node);
	l->database = database;
	l->lane = lane;
	l->table = InvalidOid;
	forget_lane(l);
	LWLockRelease(jobq_lane_lock(l));
	return l;
}

/* Lock the entry of a lane of this database, or return NULL. */
static JobqLane *
lock_lane(int64 lane)
{
	JobqLane   *l;

	LWLockAcquire(lanes_lock, LW_SHARED);
	l = find_lane(MyDatabaseId, lane);
	if (l != NULL)
		LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
	LWLockRelease(lanes_lock);
	return l;
}

/* The same if it is of this file of job_ready. */
JobqLane *
jobq_lane_if_known(int64 lane, const JobqReady *origin)
{
	JobqLane   *l = lock_lane(lane);

	if (l != NULL && (l->table != origin->table || l->file != origin->file))
	{
		LWLockRelease(jobq_lane_lock(l));
		l = NULL;
	}
	return l;
}

/* The same for a claimer, who makes one and has job_ready open. */
JobqLane *
jobq_lane_open(int64 lane, const JobqReady *origin)
{
	JobqLane   *l = lock_lane(lane);

	if (l == NULL)
	{
		LWLockAcquire(lanes_lock, LW_EXCLUSIVE);
		l = find_lane(MyDatabaseId, lane);
		if (l == NULL)
			l = make_lane(MyDatabaseId, lane);
		if (l != NULL)
			LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
		LWLockRelease(lanes_lock);
		if (l == NULL)
			return NULL;
	}
	if (l->table != origin->table || l->file != origin->file)
	{
		forget_lane(l);
		l->table = origin->table;
		l->file = origin->file;
	}

	/*
	 * not the statement's time, since when job_claim_wait can have slept for
	 * long
	 */
	l->used_at = GetCurrentTimestamp();
	return l;
}

/*
 * For a claim that may take from all these lanes: before which key each of them has
 * nothing; jobq_key_last: it is empty.  An entry in use is marked as such, but not
 * each time.
 */
void
jobq_lanes_first(const JobqReady *origin, int n, const int64 *lanes, JobqKey *keys)
{
	TimestampTz now = GetCurrentTimestamp();

	LWLockAcquire(lanes_lock, LW_SHARED);
	for (int i = 0; i < n; i++)
	{
		JobqLane   *l = find_lane(MyDatabaseId, lanes[i]);

		keys[i] = jobq_key_first;
		if (l == NULL || l->table != origin->table || l->file != origin->file)
			continue;
		keys[i] = first_key(pg_atomic_read_u64(&l->first_key));
		if (l->used_at < now - USECS_PER_SEC)
			l->used_at = now;
	}
	LWLockRelease(lanes_lock);
}

/*
 * When a claim that may take from a lane last came by, give or take a second; 0: none
 * did.  Where the lane has no entry, it can have been evicted: then not after this.
 */
TimestampTz
jobq_lane_used_at(int64 lane)
{
	JobqLane   *l;
	TimestampTz at;

	LWLockAcquire(lanes_lock, LW_SHARED);
	l = find_lane(MyDatabaseId, lane);
	at = l ? l->used_at : shared->evicted_used_at;
	LWLockRelease(lanes_lock);
	return at;
}

/* The ring; the caller holds the lane's lock */

/* The ring ends before this row, which a refill under way may not have seen. */
static void
end_before(JobqLane *l, JobqKey key)
{
	l->end = jobq_key_before(key);
	if (jobq_compare_keys(key, l->left_out) < 0)
		l->left_out = key;
}

/* Remove the candidates after the end. */
static void
cut_ring(JobqLane *l)
{
	while (l->n > 0 && jobq_compare_keys(jobq_candidate_key(jobq_candidate(l, l->n - 1)), l->end) > 0)
		l->n--;
}

/* Put a candidate whose key is not after the end into the ring. */
void
jobq_lane_insert(JobqLane *l, const JobqCandidate *c)
{
	JobqKey		key = jobq_candidate_key(c);
	uint32		low = 0;
	uint32		high = l->n;

	while (low < high)
	{
		uint32		middle = (low + high) / 2;

		if (jobq_compare_keys(jobq_candidate_key(jobq_candidate(l, middle)), key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < l->n && jobq_compare_keys(jobq_candidate_key(jobq_candidate(l, low)), key) == 0)
	{
		*jobq_candidate(l, low) = *c;
		return;
	}
	if (l->n == jobq_lane_candidates)
	{
		if (low == l->n)
		{
			end_before(l, key);
			return;
		}
		l->n--;
		end_before(l, jobq_candidate_key(jobq_candidate(l, l->n)));
	}
	if (low < l->n / 2)
	{
		l->first = (l->first + jobq_lane_candidates - 1) % jobq_lane_candidates;
		for (uint32 i = 0; i < low; i++)
			*jobq_candidate(l, i) = *jobq_candidate(l, i + 1);
	}
	else
	{
		for (uint32 i = l->n; i > low; i--)
			*jobq_candidate(l, i) = *jobq_candidate(l, i - 1);
	}
	l->n++;
	*jobq_candidate(l, low) = *c;
}

/*
 * A row can be claimed, or several from its position on: after a commit, or
 * again after an abort.  Cannot fail.
 */
void
jobq_lane_offer(const JobqReady *r)
{
	JobqCandidate c = {r->position, r->tid, r->priority};
	JobqKey		key = {r->priority, r->position};
	JobqLane   *l = lock_lane(r->lane);

	if (l == NULL)
		return;
	if (l->table != r->table || l->file != r->file)
		forget_lane(l);			/* it, or the row, is from before a rewrite */
	jobq_floors_lower(l->floors, key, l->refiller != 0);
	if (jobq_compare_keys(key, l->end) > 0)
	{
		if (jobq_compare_keys(key, l->left_out) < 0)
			l->left_out = key;
	}
	else if (r->many)
	{
		end_before(l, key);
		cut_ring(l);
	}
	else
		jobq_lane_insert(l, &c);
	jobq_lane_note_first(l);
	LWLockRelease(jobq_lane_lock(l));
}

/* Forgetting */

/* Forget all that is known of this database. */
void
jobq_lanes_forget_database(void)
{
	LWLockAcquire(lanes_lock, LW_SHARED);
	for (int i = 0; i < jobq_max_lanes; i++)
	{
		JobqLane   *l = &shared->lanes[i];

		LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
		if (l->database == MyDatabaseId)
			forget_lane(l);
		LWLockRelease(jobq_lane_lock(l));
	}
	LWLockRelease(lanes_lock);
}
