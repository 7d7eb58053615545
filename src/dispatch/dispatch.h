/*
 * dispatch.h
 *	  Which job is next.
 *
 * For each lane, an order of ready jobs, shared memory knows the next candidates
 * and where the rest begin.  All of it are hints, which the claim checks against
 * the rows; this layer knows nothing of queues, their settings, or acts on jobs.
 */
#ifndef JOBQ_DISPATCH_H
#define JOBQ_DISPATCH_H

#include "common/hashfn.h"
#include "lib/ilist.h"
#include "storage/condition_variable.h"

#include "shared/shared.h"

#define JOBQ_DEFAULT_MAX_LANES		512
#define JOBQ_DEFAULT_LANE_CANDIDATES	512
#define JOBQ_DEFAULT_LANE_PRIORITIES	16

extern int	jobq_max_lanes;
extern int	jobq_lane_candidates;
extern int	jobq_lane_priorities;

/* lane.c: what shared memory knows of each lane */
/* The order in which jobs are handed out: higher priority, then lower position */
typedef struct JobqKey
{
	int16		priority;
	int64		position;
} JobqKey;

typedef struct JobqCandidate
{
	int64		position;
	ItemPointerData tid;
	int16		priority;
} JobqCandidate;

typedef struct JobqFloor
{
	int64		position;		/* no row to hand out is below */
	int64		offered;		/* lowest since the last refill began */
	int16		priority;
} JobqFloor;

/* Where the rows of a lane begin; priorities in descending order */
typedef struct JobqFloors
{
	int			n;
	int			rest;			/* nothing is known of priorities below */
	bool		dropped;		/* one was, since the last refill began */
	JobqFloor	floors[FLEXIBLE_ARRAY_MEMBER];
} JobqFloors;

/*
 * All fields but node: the lane's lock, database and lane also the lanes lock.
 * With that alone used_at, first_key and what they stand for are read, and used_at
 * written.
 */
typedef struct JobqLane
{
	dlist_node	node;			/* in a bucket or the free list; lanes lock */
	int64		lane;
	pg_atomic_uint64 first_key; /* see jobq_lane_note_first() */
	TimestampTz used_at;
	Oid			database;		/* InvalidOid: the entry is free */
	Oid			table;
	JobqFileNumber file;
	uint32		generation;		/* counts how often it was forgotten */

	int			refiller;		/* pid, 0: none */
	JobqKey		left_out;		/* since then, the first row that was offered
								 * or evicted and is not in the ring */
	ConditionVariable refilled;

	bool		more;			/* the last refill stopped because it had
								 * enough */
	JobqKey		end;
	uint32		first;			/* index of the first candidate */
	uint32		n;				/* how many there are */
	JobqFloors *floors;
	JobqCandidate *ring;
} JobqLane;

/* The key of a candidate. */
static inline JobqKey
jobq_candidate_key(const JobqCandidate *c)
{
	JobqKey		key = {c->priority, c->position};

	return key;
}

/* The last key before this one, as far as there are rows. */
static inline JobqKey
jobq_key_before(JobqKey key)
{
	if (key.position > PG_INT64_MIN)
		key.position--;
	return key;
}

/* The next key after this one, as far as there are rows. */
static inline JobqKey
jobq_key_after(JobqKey key)
{
	if (key.position < PG_INT64_MAX)
		key.position++;
	return key;
}

/* The candidate with this number, from 0 on. */
static inline JobqCandidate *
jobq_candidate(JobqLane *l, uint32 i)
{
	return &l->ring[(l->first + i) % jobq_lane_candidates];
}

/* before and after all keys */
extern const JobqKey jobq_key_first;
extern const JobqKey jobq_key_last;

extern int	jobq_compare_keys(JobqKey a, JobqKey b);
extern void jobq_floors_init(JobqFloors *f);
extern void jobq_floors_lower(JobqFloors *f, JobqKey key, bool refilling);

/* The lane into which a gate lets the jobs of a lane; gate 0: there is none. */
static inline int64
jobq_gate_lane(int64 lane, int64 gate)
{
	return gate == 0 ? lane : (int64) hash_combine64((uint64) lane, (uint64) gate);
}

/*
 * Lanes of workers' own: for each lane, as a gate has made it, so many with numbers that
 * follow one another, which the workers' places give (seen.c).
 */
#define JOBQ_OWN_LANES	(UINT64CONST(1) << 20)	/* more than jobq.max_workers
												 * can be */

/* The first of them, which is no worker's. */
static inline int64
jobq_own_lanes(int64 lane)
{
	return (int64) (hash_bytes_uint32_extended((uint32) lane, (uint64) lane >> 32) & ~(JOBQ_OWN_LANES - 1));
}

/* That of the worker at a place. */
static inline int64
jobq_own_lane(int64 lane, int place)
{
	return jobq_own_lanes(lane) + 1 + place;
}

/* The place of the worker whose own lane one is beside another lane; -1: it is none. */
static inline int
jobq_place_of_lane(int64 lane, int64 own)
{
	uint64		place = (uint64) own - (uint64) jobq_own_lanes(lane) - 1;

	return place < JOBQ_OWN_LANES - 1 ? (int) place : -1;
}

/* Is a job that belongs to one lane ready there, or in a worker's own beside it? */
static inline bool
jobq_is_in_lane(int64 lane, int64 ready)
{
	return ready == lane || jobq_place_of_lane(lane, ready) >= 0;
}

extern Size jobq_floors_size(void);
extern int	jobq_floors_find(const JobqFloors *f, int16 priority);
extern void jobq_floors_add(JobqFloors *f, int16 priority, int64 position, int64 offered);

extern const JobqPart jobq_lanes_part;
extern LWLock *jobq_lane_lock(JobqLane *l);
extern JobqLane *jobq_lane_at(int i);
extern JobqLane *jobq_lane_open(int64 lane, const JobqReady *origin);
extern JobqLane *jobq_lane_if_known(int64 lane, const JobqReady *origin);
extern void jobq_lane_note_first(JobqLane *l);
extern void jobq_lanes_first(const JobqReady *origin, int n, const int64 *lanes, JobqKey *keys);
extern TimestampTz jobq_lane_used_at(int64 lane);
extern void jobq_lane_insert(JobqLane *l, const JobqCandidate *c);
extern void jobq_lane_offer(const JobqReady *ready);
extern void jobq_lanes_forget_database(void);

/* handout.c: the next candidates, and refilling them */
/* How far a sweep is */
typedef struct JobqSweep
{
	int			entry;
	int			priority;
	int64		position;
} JobqSweep;

typedef struct JobqOrderScan JobqOrderScan;

/* The rows of a lane. */
static inline JobqOrder
jobq_lane_order(int64 lane)
{
	JobqOrder	order = {JOBQ_READY, 1, {lane}};

	return order;
}

extern void jobq_dispatch_init(void);
extern JobqFloors *jobq_handout_floors(JobqCall *call, int64 lane);
extern JobqOrderScan *jobq_order_scan_begin(JobqCall *call, JobqOrder order, const JobqFloors *floors,
											Snapshot snapshot);
extern TupleTableSlot *jobq_order_scan_next(JobqOrderScan *s);
extern void jobq_order_scan_end(JobqOrderScan *s);
extern bool jobq_handout_peek(JobqCall *call, int64 lane, JobqKey *key);
extern int	jobq_handout_pop(JobqCall *call, const JobqReady *of, JobqKey limit, int max, JobqCandidate *out);
extern void jobq_handout_sweep_begin(JobqSweep *sweep);
extern bool jobq_handout_sweep(JobqCall *call, JobqSweep *sweep);
extern bool jobq_ready_expired(JobqCall *call, TupleTableSlot *row);
extern TimestampTz jobq_handout_oldest(JobqCall *call, int64 lane);

#endif							/* JOBQ_DISPATCH_H */
