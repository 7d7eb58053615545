/*
 * lane.h
 *	  The entry of a lane in shared memory, for lane.c and handout.c.
 */
#ifndef JOBQ_LANE_H
#define JOBQ_LANE_H

#include "storage/condition_variable.h"

#include "background.h"

/* All fields but next: the lane's lock, database and lane also the lanes lock. */
typedef struct JobqLane
{
	uint32		next;			/* in the hash chain or free list; lanes lock */
	Oid			database;		/* InvalidOid: the entry is free */
	int64		lane;
	Oid			table;
	JobqFileNumber file;
	uint32		generation;		/* counts how often it was forgotten */
	TimestampTz used_at;

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

/* The candidate with this number, from 0 on. */
static inline JobqCandidate *
jobq_candidate(JobqLane *l, uint32 i)
{
	return &l->ring[(l->first + i) % jobq_lane_candidates];
}

extern Size jobq_floors_size(void);
extern int	jobq_floors_find(const JobqFloors *f, int16 priority);
extern void jobq_floors_add(JobqFloors *f, int16 priority, int64 position, int64 offered);

extern LWLock *jobq_lane_lock(JobqLane *l);
extern JobqLane *jobq_lane_at(int i);
extern JobqLane *jobq_lane_open(int64 lane, const JobqReady *origin);
extern void jobq_lane_insert(JobqLane *l, const JobqCandidate *c);

#endif							/* JOBQ_LANE_H */
