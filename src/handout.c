/*
 * handout.c
 *	  Which ready jobs come next: candidates and floors in shared memory.
 *
 * Claimers that each scan job_ready from its head meet there, and under an old
 * snapshot they wade through the dead entries of all jobs that were claimed
 * before.  So for each lane shared memory keeps
 *
 *	- a ring of candidates, in the order in which they are handed out, and
 *	- for each priority a floor, the lowest position that a refill of the ring
 *	  has to look at.
 *
 * A claimer pops a candidate under the lane's lock.  When the ring runs low, one
 * claimer refills it by an index scan that begins at the floors.
 *
 * A key is (priority, position), the order that of the index.  All of it are
 * hints: a candidate is fetched under a snapshot, compared, and deleted without
 * waiting, before it counts (claim.c).
 *
 * Invariants, for a row of job_ready that is committed and that no transaction
 * has taken:
 *	H1	If its key is not after "end", it is in the ring.
 *	H2	If it is not in the ring, its position is not below the floor of its
 *		priority.  No floor means that there is no such row, or, for priorities
 *		below "rest", that a refill scans all of them.
 *	H3	Who takes a row, by popping it or by deleting it, owes it until the
 *		deletion commits: an abort offers it again (xact.c).  So a scan may
 *		pass over rows that a transaction is just deleting.
 *
 * A commit offers its rows once they are visible: lowers the floor, and puts the
 * row into the ring if its key is not after the end.  Where the ring is full, its
 * last candidate goes and the end moves to before it.  A refill takes its
 * snapshot after it has announced itself under the lock; rows that are offered
 * between that and its publication limit what it publishes: a floor that was
 * lowered stays, and the end stays before the first row that was offered.
 *
 * What is missing is late, not lost: the background worker's sweep scans what
 * lies below the floors and makes the ring look again.  Prepared transactions
 * announce nothing, so when one ends all lanes of its database are forgotten.
 *
 * An entry belongs to a file of job_ready, known by database, table and file
 * number; another one (TRUNCATE, VACUUM FULL, a new extension) means to forget
 * what is known.  When all entries are in use the one that was not used for
 * longest goes; a lane without an entry is scanned from its beginning.
 *
 * Locks: "lanes" (lookup shared, making and removing entries exclusive), then a
 * lane's own, for a few microseconds and never while a page is read.  A crash
 * leaves nothing: the memory is made anew.
 */
#include "postgres.h"

#include "access/relation.h"
#include "miscadmin.h"
#include "storage/condition_variable.h"
#include "storage/shmem.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "background.h"

#define NIL_LANE		PG_UINT32_MAX
#define REFILL_WAIT_MS	100		/* for somebody else's refill, then scan */
#define SWEEP_POSITIONS	200000	/* that one step of a sweep looks at */

/* All fields but next: the lane's lock, database and lane also the lanes lock. */
typedef struct Lane
{
	uint32		next;			/* in the hash chain or free list; lanes lock */
	Oid			database;		/* InvalidOid: the entry is free */
	int64		lane;
	Oid			table;
	JobqFileNumber file;
	uint32		generation;		/* counts how often it was forgotten */
	TimestampTz used_at;

	int			refiller;		/* pid, 0: none */
	JobqKey		arrived;		/* first row offered since then, after end */
	ConditionVariable refilled;

	bool		more;			/* the last refill stopped because it had
								 * enough */
	JobqKey		end;
	uint32		first;			/* index of the first candidate */
	uint32		n;				/* how many there are */
	JobqFloors *floors;
	JobqCandidate *ring;
} Lane;

/* The lanes lock guards it. */
typedef struct Lanes
{
	uint32		free;			/* head of the free list */
	uint32	   *buckets;		/* heads of the chains, as many as lanes */
	Lane	   *lanes;
} Lanes;

static Lanes *shared = NULL;
static LWLock *lanes_lock;
static LWLockPadded *lane_locks;

/* The refill that this backend is doing */
static Lane *refilling = NULL;

static const JobqKey before_all = {PG_INT16_MAX, PG_INT64_MIN};
static const JobqKey after_all = {PG_INT16_MIN, PG_INT64_MAX};

/* ----------------
 *		Memory
 * ----------------
 */

/* The size of one lane's floors. */
static Size
floors_size(void)
{
	return MAXALIGN(offsetof(JobqFloors, floors) + (jobq_lane_priorities + 1) * sizeof(JobqFloor));
}

/* How much shared memory it takes. */
Size
jobq_handout_size(void)
{
	Size		one = MAXALIGN(sizeof(Lane)) + sizeof(uint32) + floors_size();

	one = add_size(one, mul_size(jobq_lane_candidates, sizeof(JobqCandidate)));
	return add_size(MAXALIGN(sizeof(Lanes)), mul_size(jobq_max_lanes, MAXALIGN(one)));
}

/* Initialize or attach.  There is a lock for the lanes, then one for each. */
void
jobq_handout_shmem_init(void *area, bool found, LWLockPadded *locks)
{
	char	   *p = (char *) area + MAXALIGN(sizeof(Lanes));

	shared = area;
	lanes_lock = &locks[0].lock;
	lane_locks = &locks[1];
	if (found)
		return;
	memset(area, 0, jobq_handout_size());
	shared->lanes = (Lane *) p;
	p += jobq_max_lanes * MAXALIGN(sizeof(Lane));
	for (int i = 0; i < jobq_max_lanes; i++)
	{
		Lane	   *l = &shared->lanes[i];

		l->floors = (JobqFloors *) p;
		p += floors_size();
		l->ring = (JobqCandidate *) p;
		p += jobq_lane_candidates * sizeof(JobqCandidate);
		ConditionVariableInit(&l->refilled);
		l->next = i + 1 < jobq_max_lanes ? i + 1 : NIL_LANE;
	}
	shared->free = 0;
	shared->buckets = (uint32 *) p;
	for (int i = 0; i < jobq_max_lanes; i++)
		shared->buckets[i] = NIL_LANE;
}

/* How many entries are in use. */
int
jobq_handout_count(void)
{
	int			n = jobq_max_lanes;

	LWLockAcquire(lanes_lock, LW_SHARED);
	for (uint32 i = shared->free; i != NIL_LANE; i = shared->lanes[i].next)
		n--;
	LWLockRelease(lanes_lock);
	return n;
}

/* The lock of a lane. */
static LWLock *
lock_of(Lane *l)
{
	return &lane_locks[l - shared->lanes].lock;
}

/* ----------------
 *		Keys and floors
 * ----------------
 */

/* Negative if a is handed out before b. */
int
jobq_compare_keys(JobqKey a, JobqKey b)
{
	if (a.priority != b.priority)
		return a.priority > b.priority ? -1 : 1;
	return a.position < b.position ? -1 : a.position > b.position;
}

/* The key of a candidate. */
static JobqKey
key_of(const JobqCandidate *c)
{
	JobqKey		key = {c->priority, c->position};

	return key;
}

/* The last key before this one, as far as there are rows. */
static JobqKey
just_before(JobqKey key)
{
	if (key.position > PG_INT64_MIN)
		key.position--;
	return key;
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
static int
find_floor(const JobqFloors *f, int16 priority)
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
static void
add_floor(JobqFloors *f, int16 priority, int64 position, int64 offered)
{
	int			i = find_floor(f, priority);

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
	int			i = find_floor(f, key.priority);

	if (key.priority < f->rest && !refilling)
		return;
	if (i == f->n || f->floors[i].priority != key.priority)
		add_floor(f, key.priority, key.position, key.position);
	else
	{
		f->floors[i].position = Min(f->floors[i].position, key.position);
		f->floors[i].offered = Min(f->floors[i].offered, key.position);
	}
}

/* ----------------
 *		Finding an entry
 * ----------------
 */

/* Forget what is known of a lane.  The caller holds its lock. */
static void
forget(Lane *l)
{
	l->generation++;
	l->more = false;
	l->end = before_all;
	l->first = l->n = 0;
	jobq_floors_init(l->floors);
}

/* The head of a lane's chain. */
static uint32 *
bucket_of(Oid database, int64 lane)
{
	return &shared->buckets[((uint64) lane + database) % jobq_max_lanes];
}

/* Find an entry; the caller holds the lanes lock. */
static Lane *
find_lane(Oid database, int64 lane)
{
	for (uint32 i = *bucket_of(database, lane); i != NIL_LANE; i = shared->lanes[i].next)
	{
		Lane	   *l = &shared->lanes[i];

		if (l->lane == lane && l->database == database)
			return l;
	}
	return NULL;
}

/* Take the entry that was not used for longest; the caller holds the lanes lock. */
static void
evict_lane(void)
{
	Lane	   *oldest = NULL;
	uint32	   *link;

	for (int i = 0; i < jobq_max_lanes; i++)
	{
		Lane	   *l = &shared->lanes[i];

		/* without the lane's lock: any entry will do */
		if (l->refiller == 0 && (oldest == NULL || l->used_at < oldest->used_at))
			oldest = l;
	}
	if (oldest == NULL || !LWLockConditionalAcquire(lock_of(oldest), LW_EXCLUSIVE))
		return;
	if (oldest->refiller == 0)
	{
		link = bucket_of(oldest->database, oldest->lane);
		while (*link != oldest - shared->lanes)
			link = &shared->lanes[*link].next;
		*link = oldest->next;
		oldest->database = InvalidOid;
		oldest->next = shared->free;
		shared->free = oldest - shared->lanes;
	}
	LWLockRelease(lock_of(oldest));
}

/* Make an entry; NULL: all are busy.  The caller holds the lanes lock. */
static Lane *
make_lane(Oid database, int64 lane)
{
	uint32	   *bucket = bucket_of(database, lane);
	Lane	   *l;

	if (shared->free == NIL_LANE)
		evict_lane();
	if (shared->free == NIL_LANE)
		return NULL;
	l = &shared->lanes[shared->free];
	LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
	shared->free = l->next;
	l->next = *bucket;
	*bucket = l - shared->lanes;
	l->database = database;
	l->lane = lane;
	l->table = InvalidOid;
	forget(l);
	LWLockRelease(lock_of(l));
	return l;
}

/* Lock the entry of a lane of this database, or return NULL. */
static Lane *
lock_lane(int64 lane)
{
	Lane	   *l;

	LWLockAcquire(lanes_lock, LW_SHARED);
	l = find_lane(MyDatabaseId, lane);
	if (l != NULL)
		LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
	LWLockRelease(lanes_lock);
	return l;
}

/* The same for a claimer, who makes one and has job_ready open. */
static Lane *
open_lane(int64 lane, const JobqReady *origin)
{
	Lane	   *l = lock_lane(lane);

	if (l == NULL)
	{
		LWLockAcquire(lanes_lock, LW_EXCLUSIVE);
		l = find_lane(MyDatabaseId, lane);
		if (l == NULL)
			l = make_lane(MyDatabaseId, lane);
		if (l != NULL)
			LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
		LWLockRelease(lanes_lock);
		if (l == NULL)
			return NULL;
	}
	if (l->table != origin->table || l->file != origin->file)
	{
		forget(l);
		l->table = origin->table;
		l->file = origin->file;
	}
	l->used_at = GetCurrentStatementStartTimestamp();
	return l;
}

/* ----------------
 *		The ring; the caller holds the lane's lock
 * ----------------
 */

/* The candidate with this number, from 0 on. */
static JobqCandidate *
candidate(Lane *l, uint32 i)
{
	return &l->ring[(l->first + i) % jobq_lane_candidates];
}

/* Remove the candidates after the end. */
static void
cut_ring(Lane *l)
{
	while (l->n > 0 && jobq_compare_keys(key_of(candidate(l, l->n - 1)), l->end) > 0)
		l->n--;
}

/* Put a candidate whose key is not after the end into the ring. */
static void
insert_candidate(Lane *l, const JobqCandidate *c)
{
	JobqKey		key = key_of(c);
	uint32		low = 0;
	uint32		high = l->n;

	while (low < high)
	{
		uint32		middle = (low + high) / 2;

		if (jobq_compare_keys(key_of(candidate(l, middle)), key) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	if (low < l->n && jobq_compare_keys(key_of(candidate(l, low)), key) == 0)
	{
		*candidate(l, low) = *c;
		return;
	}
	if (l->n == jobq_lane_candidates)
	{
		if (low == l->n)
		{
			l->end = just_before(key);
			return;
		}
		l->n--;
		l->end = just_before(key_of(candidate(l, l->n)));
	}
	if (low < l->n / 2)
	{
		l->first = (l->first + jobq_lane_candidates - 1) % jobq_lane_candidates;
		for (uint32 i = 0; i < low; i++)
			*candidate(l, i) = *candidate(l, i + 1);
	}
	else
	{
		for (uint32 i = l->n; i > low; i--)
			*candidate(l, i) = *candidate(l, i - 1);
	}
	l->n++;
	*candidate(l, low) = *c;
}

/*
 * A row can be claimed, or several from its position on: after a commit, or
 * again after an abort.  Cannot fail.
 */
void
jobq_handout_offer(const JobqReady *r)
{
	JobqCandidate c = {r->position, r->tid, r->priority};
	JobqKey		key = {r->priority, r->position};
	Lane	   *l = lock_lane(r->lane);

	if (l == NULL)
		return;
	if (l->table != r->table || l->file != r->file)
		forget(l);				/* it, or the row, is from before a rewrite */
	jobq_floors_lower(l->floors, key, l->refiller != 0);
	if (jobq_compare_keys(key, l->end) > 0)
	{
		if (jobq_compare_keys(key, l->arrived) < 0)
			l->arrived = key;
	}
	else if (r->many)
	{
		l->end = just_before(key);
		cut_ring(l);
		l->arrived = key;
	}
	else
		insert_candidate(l, &c);
	LWLockRelease(lock_of(l));
}

/* ----------------
 *		Scanning a lane from its floors
 * ----------------
 */

struct JobqLaneScan
{
	JobqCall   *call;
	int64		lane;
	Snapshot	snapshot;
	const JobqFloors *floors;
	int			next_floor;
	bool		rest_done;		/* the priorities below rest were begun */
	JobqScan   *scan;
};

/* Scan the rows of a lane in their order, beginning at the floors. */
JobqLaneScan *
jobq_lane_scan_begin(JobqCall *call, int64 lane, const JobqFloors *floors, Snapshot snapshot)
{
	JobqLaneScan *s = palloc0(sizeof(JobqLaneScan));

	s->call = call;
	s->lane = lane;
	s->floors = floors;
	s->snapshot = RegisterSnapshot(snapshot);
	return s;
}

/* The next row, or NULL; it is valid until the next call. */
TupleTableSlot *
jobq_lane_scan_next(JobqLaneScan *s)
{
	const JobqFloors *f = s->floors;

	for (;;)
	{
		TupleTableSlot *slot;

		if (s->scan == NULL)
		{
			const JobqFloor *floor = &f->floors[s->next_floor];

			if (s->rest_done)
				return NULL;
			if (s->next_floor < f->n && floor->priority >= f->rest)
			{
				s->scan = jobq_scan_ready(s->call, s->lane, floor->priority, floor->priority,
										  floor->position, PG_INT64_MAX, s->snapshot);
				s->next_floor++;
			}
			else
			{
				s->rest_done = true;
				if (f->rest == PG_INT16_MIN)
					return NULL;
				s->scan = jobq_scan_ready(s->call, s->lane, f->rest - 1, PG_INT16_MIN,
										  PG_INT64_MIN, PG_INT64_MAX, s->snapshot);
			}
		}
		slot = jobq_scan_next(s->scan);
		if (slot != NULL)
			return slot;
		jobq_scan_end(s->scan);
		s->scan = NULL;
	}
}

/* End such a scan. */
void
jobq_lane_scan_end(JobqLaneScan *s)
{
	if (s->scan != NULL)
		jobq_scan_end(s->scan);
	UnregisterSnapshot(s->snapshot);
	pfree(s);
}

/*
 * The floors of a lane, copied, and lowered to where this transaction has made
 * jobs ready.
 */
JobqFloors *
jobq_handout_floors(JobqCall *call, int64 lane)
{
	JobqFloors *floors = palloc(floors_size());
	JobqReady	origin;
	Lane	   *l;

	jobq_ready_origin(call, &origin);
	l = open_lane(lane, &origin);
	if (l == NULL)
		jobq_floors_init(floors);
	else
	{
		memcpy(floors, l->floors, floors_size());
		LWLockRelease(lock_of(l));
	}
	(void) jobq_own_ready(lane, floors);
	return floors;
}

/* ----------------
 *		Refilling
 * ----------------
 */

/* Clean up after an error in a refill. */
void
jobq_handout_at_abort(void)
{
	Lane	   *l = refilling;

	if (l == NULL)
		return;
	refilling = NULL;
	LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
	l->refiller = 0;
	LWLockRelease(lock_of(l));
	ConditionVariableBroadcast(&l->refilled);
}

/* What a refill has found */
typedef struct Found
{
	JobqCandidate *candidates;
	uint32		n;
	JobqFloors *floors;			/* at the start */
} Found;

/* Read the next candidates of a lane. */
static void
read_candidates(JobqCall *call, int64 lane, Found *found)
{
	JobqLaneScan *scan = jobq_lane_scan_begin(call, lane, found->floors, GetLatestSnapshot());
	TupleTableSlot *slot;

	while (found->n < jobq_lane_candidates && (slot = jobq_lane_scan_next(scan)) != NULL)
	{
		JobqCandidate *c;

		CHECK_FOR_INTERRUPTS();
		if (jobq_being_deleted(call, JOBQ_READY, slot))
			continue;			/* H3 */
		c = &found->candidates[found->n++];
		c->priority = jobq_attr_int16(slot, READY_PRIORITY);
		c->position = jobq_attr_int64(slot, READY_POSITION);
		c->tid = slot->tts_tid;
	}
	jobq_lane_scan_end(scan);
}

/* The first position of a priority that a refill has found; none: the highest. */
static int64
first_found(const Found *found, int16 priority)
{
	for (uint32 i = 0; i < found->n; i++)
	{
		if (found->candidates[i].priority == priority)
			return found->candidates[i].position;
	}
	return PG_INT64_MAX;
}

/*
 * Set the floors to what a refill has found down to the given priority, and to
 * what was offered meanwhile.
 */
static void
publish_floors(Lane *l, const Found *found, int lowest)
{
	JobqFloors *now = l->floors;
	int			n = 0;

	if (!now->dropped && now->rest > lowest)
		now->rest = Max(lowest, PG_INT16_MIN);
	for (int i = 0; i < now->n; i++)
	{
		JobqFloor	floor = now->floors[i];

		if (floor.priority < now->rest)
			continue;
		if (floor.priority >= lowest)
			floor.position = Min(first_found(found, floor.priority), floor.offered);
		if (floor.position < PG_INT64_MAX)
			now->floors[n++] = floor;
	}
	now->n = n;
	for (uint32 i = 0; i < found->n; i++)
	{
		const JobqCandidate *c = &found->candidates[i];
		int			k = find_floor(now, c->priority);

		if (c->priority >= now->rest && (k == now->n || now->floors[k].priority != c->priority))
			add_floor(now, c->priority, c->position, PG_INT64_MAX);
	}
}

/* Refill the ring of a lane.  Called with its lock, returns without. */
static void
refill(JobqCall *call, Lane *l)
{
	Found		found = {0};
	uint32		generation = l->generation;
	int64		lane = l->lane;

	l->refiller = MyProcPid;
	l->arrived = after_all;
	l->floors->dropped = false;
	for (int i = 0; i < l->floors->n; i++)
		l->floors->floors[i].offered = PG_INT64_MAX;
	refilling = l;
	LWLockRelease(lock_of(l));

	found.candidates = palloc(jobq_lane_candidates * sizeof(JobqCandidate));
	found.floors = palloc(floors_size());
	LWLockAcquire(lock_of(l), LW_SHARED);
	memcpy(found.floors, l->floors, floors_size());
	LWLockRelease(lock_of(l));
	read_candidates(call, lane, &found);

	LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
	if (l->generation == generation)
	{
		bool		enough = found.n == jobq_lane_candidates;
		JobqKey		end = enough ? key_of(&found.candidates[found.n - 1]) : after_all;

		publish_floors(l, &found, enough ? end.priority : PG_INT16_MIN - 1);
		l->more = enough;
		if (jobq_compare_keys(l->arrived, end) <= 0 &&
			jobq_compare_keys(l->arrived, after_all) < 0)
			end = just_before(l->arrived);
		if (jobq_compare_keys(end, l->end) > 0)
			l->end = end;
		for (uint32 i = 0; i < found.n; i++)
		{
			if (jobq_compare_keys(key_of(&found.candidates[i]), l->end) <= 0)
				insert_candidate(l, &found.candidates[i]);
		}
	}
	l->refiller = 0;
	refilling = NULL;
	LWLockRelease(lock_of(l));
	ConditionVariableBroadcast(&l->refilled);
	pfree(found.candidates);
	pfree(found.floors);
}

/* What is shown of those who wait for a refill. */
static uint32
refill_event(void)
{
	static uint32 event = 0;

	if (event == 0)
		event = jobq_wait_event("JobqRefill");
	return event;
}

/*
 * Lock a lane whose ring is not empty, unless the lane is; NULL: there is no
 * entry for it, or somebody else's refill takes long.
 */
static Lane *
ready_lane(JobqCall *call, int64 lane)
{
	JobqReady	origin;
	int			waited = 0;
	bool		refilled = false;

	jobq_ready_origin(call, &origin);
	for (;;)
	{
		Lane	   *l;

		CHECK_FOR_INTERRUPTS();
		l = open_lane(lane, &origin);
		if (l == NULL)
			return NULL;
		if (l->refiller == 0 &&
			(l->n == 0 ? jobq_compare_keys(l->end, after_all) < 0 :
			 l->more && l->n < jobq_lane_candidates / 4 && !refilled))
		{
			refill(call, l);
			refilled = true;
			continue;
		}
		if (l->n > 0 || l->refiller == 0)
			return l;
		ConditionVariablePrepareToSleep(&l->refilled);
		LWLockRelease(lock_of(l));
		if (waited++ < REFILL_WAIT_MS)
			(void) ConditionVariableTimedSleep(&l->refilled, 1, refill_event());
		ConditionVariableCancelSleep();
		if (waited >= REFILL_WAIT_MS)
			return NULL;
	}
}

/* ----------------
 *		Handing out
 * ----------------
 */

/* The key of the next candidate of a lane; false: it must be scanned. */
bool
jobq_handout_peek(JobqCall *call, int64 lane, JobqKey *key)
{
	Lane	   *l = ready_lane(call, lane);

	if (l == NULL)
		return false;
	*key = l->n > 0 ? key_of(candidate(l, 0)) : after_all;
	LWLockRelease(lock_of(l));
	return true;
}

/*
 * Take up to max candidates of a lane whose keys are not after the limit.
 * Returns how many there are, or -1 if the lane must be scanned.
 */
int
jobq_handout_pop(JobqCall *call, int64 lane, JobqKey limit, int max, JobqCandidate *out)
{
	JobqReady	ready = {.lane = lane,.count = 1};
	Lane	   *l;
	int			n = 0;

	jobq_ready_origin(call, &ready);
	jobq_reserve_taken(max);
	l = ready_lane(call, lane);
	if (l == NULL)
		return -1;
	while (n < max && l->n > 0 && jobq_compare_keys(key_of(candidate(l, 0)), limit) <= 0)
	{
		out[n++] = *candidate(l, 0);
		l->first = (l->first + 1) % jobq_lane_candidates;
		l->n--;
	}
	for (int i = 0; i < n; i++)
	{
		ready.position = out[i].position;
		ready.priority = out[i].priority;
		ready.tid = out[i].tid;
		jobq_announce_taken(&ready);
	}
	LWLockRelease(lock_of(l));
	return n;
}

/* ----------------
 *		Forgetting and sweeping
 * ----------------
 */

/* Forget all that is known of this database. */
void
jobq_handout_forget_database(void)
{
	LWLockAcquire(lanes_lock, LW_SHARED);
	for (int i = 0; i < jobq_max_lanes; i++)
	{
		Lane	   *l = &shared->lanes[i];

		LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
		if (l->database == MyDatabaseId)
			forget(l);
		LWLockRelease(lock_of(l));
	}
	LWLockRelease(lanes_lock);
}

/* Offer the rows that a scan finds, unless a transaction is about to delete them. */
static void
offer_found(JobqCall *call, int64 lane, JobqScan *scan)
{
	JobqReady	ready = {.lane = lane,.count = 1};
	TupleTableSlot *slot;

	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (jobq_being_deleted(call, JOBQ_READY, slot))
			continue;
		jobq_ready_from_slot(call, slot, &ready);
		jobq_handout_offer(&ready);
	}
	jobq_scan_end(scan);
}

/* Begin to sweep all lanes. */
void
jobq_handout_sweep_begin(JobqSweep *sweep)
{
	sweep->entry = 0;
	sweep->priority = PG_INT16_MAX;
	sweep->position = 0;
}

/*
 * For the background worker: a step of a sweep.  Offers the rows below the
 * floors, where there should be none, and has the next claim that finds a ring
 * empty look again.  False: the sweep is done.
 */
bool
jobq_handout_sweep(JobqCall *call, JobqSweep *sweep)
{
	JobqFloors *floors = palloc(floors_size());
	int64		lane;
	int			i;
	Snapshot	snapshot;
	const JobqFloor *floor;
	bool		ours;
	Lane	   *l;

	if (sweep->entry >= jobq_max_lanes)
		return false;
	l = &shared->lanes[sweep->entry];
	LWLockAcquire(lock_of(l), LW_EXCLUSIVE);
	lane = l->lane;
	ours = l->database == MyDatabaseId;
	memcpy(floors, l->floors, floors_size());
	if (ours && sweep->priority == PG_INT16_MAX && sweep->position == 0 &&
		jobq_compare_keys(l->end, after_all) == 0)
		l->end = l->n > 0 ? key_of(candidate(l, l->n - 1)) : before_all;
	LWLockRelease(lock_of(l));
	if (!ours || sweep->priority < Max(floors->rest, PG_INT16_MIN))
	{
		sweep->entry++;
		sweep->priority = PG_INT16_MAX;
		sweep->position = 0;
		return true;
	}

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	i = find_floor(floors, sweep->priority);
	floor = i < floors->n && floors->floors[i].priority >= floors->rest ? &floors->floors[i] : NULL;
	if (sweep->position == 0)
	{
		/* priorities that have no floor, down to the next that has one */
		int			last = floor ? floor->priority + 1 : Max(floors->rest, PG_INT16_MIN);

		if (sweep->priority >= last)
			offer_found(call, lane, jobq_scan_ready(call, lane, sweep->priority, last,
													PG_INT64_MIN, PG_INT64_MAX, snapshot));
		sweep->priority = last - 1;
		sweep->position = floor ? 1 : 0;
	}
	else if (floor == NULL || floor->priority != sweep->priority ||
			 floor->position <= sweep->position)
	{
		sweep->priority--;
		sweep->position = 0;
	}
	else
	{
		int64		upto = Min(sweep->position + SWEEP_POSITIONS, floor->position) - 1;

		offer_found(call, lane, jobq_scan_ready(call, lane, sweep->priority, sweep->priority,
												sweep->position, upto, snapshot));
		sweep->position = upto + 1;
	}
	UnregisterSnapshot(snapshot);
	pfree(floors);
	return true;
}
