/*
 * handout.c
 *	  Which ready jobs come next.
 *
 * Claimers that each scan job_ready from its head meet there, and under an old
 * snapshot they wade through the dead entries of all jobs that were claimed
 * before.  So a claimer pops a candidate from the ring of the lane (lane.c), and
 * when it runs low, one claimer refills it by an index scan that begins at the
 * floors.  All of it are hints: a candidate is fetched under a snapshot,
 * compared, and deleted without waiting, before it counts (claim.c).
 *
 * A refill takes its snapshot after it has announced itself under the lane's
 * lock; rows that are offered between that and its publication limit what it
 * publishes: a floor that was lowered stays, and the end stays before the first
 * row that was offered, or evicted, and is not in the ring.
 *
 * What is missing is late, not lost: the background worker's sweep scans what
 * lies below the floors and makes the ring look again.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/snapmgr.h"
#include "utils/wait_event.h"

#include "dispatch/dispatch.h"

#define REFILL_WAIT_MS	100		/* for somebody else's refill, then scan */
#define OLDEST_PRIORITIES	100 /* that are looked at for the oldest row */
#define SWEEP_POSITIONS	200000	/* that one step of a sweep looks at */
#define SWEEP_STEPS		1000	/* or so, if they are more by then */

/* The refill that this backend is doing */
static JobqLane *refilling = NULL;

/* Scanning an order from its floors */

struct JobqOrderScan
{
	JobqCall   *call;
	JobqOrder	order;
	Snapshot	snapshot;
	const JobqFloors *floors;
	int			next_floor;
	bool		rest_done;		/* the priorities below rest were begun */
	JobqScan   *scan;
};

/* Scan the rows of an order, beginning at the floors. */
JobqOrderScan *
jobq_order_scan_begin(JobqCall *call, JobqOrder order, const JobqFloors *floors, Snapshot snapshot)
{
	JobqOrderScan *s = palloc0(sizeof(JobqOrderScan));

	s->call = call;
	s->order = order;
	s->floors = floors;
	s->snapshot = RegisterSnapshot(snapshot);
	return s;
}

/* The next row, or NULL; it is valid until the next call. */
TupleTableSlot *
jobq_order_scan_next(JobqOrderScan *s)
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
				s->scan = jobq_scan_order(s->call, &s->order, floor->priority, floor->priority,
										  floor->position, PG_INT64_MAX, s->snapshot);
				s->next_floor++;
			}
			else
			{
				s->rest_done = true;
				if (f->rest == PG_INT16_MIN)
					return NULL;
				s->scan = jobq_scan_order(s->call, &s->order, f->rest - 1, PG_INT16_MIN,
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
jobq_order_scan_end(JobqOrderScan *s)
{
	if (s->scan != NULL)
		jobq_scan_end(s->scan);
	UnregisterSnapshot(s->snapshot);
	pfree(s);
}

/* Is a row of job_ready one of a job that the background worker is about to cancel? */
bool
jobq_ready_expired(JobqCall *call, TupleTableSlot *row)
{
	return jobq_is_expired(call, jobq_attr_int64(row, STATE_EXPIRES_AT),
						   jobq_attr_int32(row, STATE_ATTEMPT));
}

/*
 * The floors of a lane, copied, and lowered to where this transaction has made
 * jobs ready.
 */
JobqFloors *
jobq_handout_floors(JobqCall *call, int64 lane)
{
	JobqFloors *floors = palloc(jobq_floors_size());
	JobqReady	origin;
	JobqLane   *l;
	const JobqReady *own;
	int			next = 0;

	jobq_ready_origin(call, &origin);
	l = jobq_lane_open(lane, &origin);
	if (l == NULL)
		jobq_floors_init(floors);
	else
	{
		memcpy(floors, l->floors, jobq_floors_size());
		LWLockRelease(jobq_lane_lock(l));
	}
	while ((own = jobq_own_ready(lane, &next)) != NULL)
	{
		JobqKey		key = {own->priority, own->position};

		jobq_floors_lower(floors, key, false);
	}
	return floors;
}

/* Refilling */

/* Clean up after an error in a refill. */
static void
forget_refill(void)
{
	JobqLane   *l = refilling;

	if (l == NULL)
		return;
	refilling = NULL;
	LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
	l->refiller = 0;
	LWLockRelease(jobq_lane_lock(l));
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
	JobqOrderScan *scan = jobq_order_scan_begin(call, jobq_lane_order(lane), found->floors, GetLatestSnapshot());
	TupleTableSlot *slot;

	while (found->n < jobq_lane_candidates && (slot = jobq_order_scan_next(scan)) != NULL)
	{
		JobqCandidate *c;

		CHECK_FOR_INTERRUPTS();
		if (jobq_being_deleted(call, JOBQ_READY, slot) || jobq_ready_expired(call, slot))
			continue;			/* H3, H4 */
		c = &found->candidates[found->n++];
		c->priority = jobq_attr_int16(slot, STATE_PRIORITY);
		c->position = jobq_attr_int64(slot, READY_POSITION);
		c->tid = slot->tts_tid;
	}
	jobq_order_scan_end(scan);
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
publish_floors(JobqLane *l, const Found *found, int lowest)
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
		int			k = jobq_floors_find(now, c->priority);

		if (c->priority >= now->rest && (k == now->n || now->floors[k].priority != c->priority))
			jobq_floors_add(now, c->priority, c->position, PG_INT64_MAX);
	}
}

/* Refill the ring of a lane.  Called with its lock, returns without. */
static void
refill(JobqCall *call, JobqLane *l)
{
	Found		found = {0};
	uint32		generation = l->generation;
	int64		lane = l->lane;

	l->refiller = MyProcPid;
	l->left_out = jobq_key_last;
	l->floors->dropped = false;
	for (int i = 0; i < l->floors->n; i++)
		l->floors->floors[i].offered = PG_INT64_MAX;
	refilling = l;
	LWLockRelease(jobq_lane_lock(l));

	found.candidates = palloc(jobq_lane_candidates * sizeof(JobqCandidate));
	found.floors = palloc(jobq_floors_size());
	LWLockAcquire(jobq_lane_lock(l), LW_SHARED);
	memcpy(found.floors, l->floors, jobq_floors_size());
	LWLockRelease(jobq_lane_lock(l));
	read_candidates(call, lane, &found);

	LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
	if (l->generation == generation)
	{
		bool		enough = found.n == jobq_lane_candidates;
		JobqKey		end = enough ? jobq_candidate_key(&found.candidates[found.n - 1]) : jobq_key_last;

		publish_floors(l, &found, enough ? end.priority : PG_INT16_MIN - 1);
		l->more = enough;
		if (jobq_compare_keys(l->left_out, end) <= 0 &&
			jobq_compare_keys(l->left_out, jobq_key_last) < 0)
			end = jobq_key_before(l->left_out);
		if (jobq_compare_keys(end, l->end) > 0)
			l->end = end;
		for (uint32 i = 0; i < found.n; i++)
		{
			if (jobq_compare_keys(jobq_candidate_key(&found.candidates[i]), l->end) <= 0)
				jobq_lane_insert(l, &found.candidates[i]);
		}
	}
	l->refiller = 0;
	refilling = NULL;
	jobq_lane_note_first(l);
	LWLockRelease(jobq_lane_lock(l));
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
static JobqLane *
ready_lane(JobqCall *call, int64 lane)
{
	JobqReady	origin;
	int			waited = 0;
	bool		refilled = false;

	jobq_ready_origin(call, &origin);
	for (;;)
	{
		JobqLane   *l;

		CHECK_FOR_INTERRUPTS();
		l = jobq_lane_open(lane, &origin);
		if (l == NULL)
			return NULL;
		if (l->refiller == 0 &&
			(l->n == 0 ? jobq_compare_keys(l->end, jobq_key_last) < 0 :
			 l->more && l->n < jobq_lane_candidates / 4 && !refilled))
		{
			refill(call, l);
			refilled = true;
			continue;
		}
		if (l->n > 0 || l->refiller == 0)
			return l;
		ConditionVariablePrepareToSleep(&l->refilled);
		LWLockRelease(jobq_lane_lock(l));
		if (waited++ < REFILL_WAIT_MS)
			(void) ConditionVariableTimedSleep(&l->refilled, 1, refill_event());
		ConditionVariableCancelSleep();
		if (waited >= REFILL_WAIT_MS)
			return NULL;
	}
}

/* Handing out */

/* The key of the next candidate of a lane; false: it must be scanned. */
bool
jobq_handout_peek(JobqCall *call, int64 lane, JobqKey *key)
{
	JobqLane   *l = ready_lane(call, lane);

	if (l == NULL)
		return false;
	*key = l->n > 0 ? jobq_candidate_key(jobq_candidate(l, 0)) : jobq_key_last;
	LWLockRelease(jobq_lane_lock(l));
	return true;
}

/*
 * Take up to max candidates of a lane, of queue and labels as given, whose keys are
 * not after the limit.  Returns how many there are, or -1 if the lane must be scanned.
 */
int
jobq_handout_pop(JobqCall *call, const JobqReady *of, JobqKey limit, int max, JobqCandidate *out)
{
	JobqReady	ready = *of;
	JobqLane   *l;
	int			n = 0;

	jobq_ready_origin(call, &ready);
	jobq_reserve_taken(max);
	l = ready_lane(call, of->lane);
	if (l == NULL)
		return -1;
	while (n < max && l->n > 0 && jobq_compare_keys(jobq_candidate_key(jobq_candidate(l, 0)), limit) <= 0)
	{
		out[n++] = *jobq_candidate(l, 0);
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
	jobq_lane_note_first(l);
	LWLockRelease(jobq_lane_lock(l));
	return n;
}

/* Looking */

/*
 * The first row of some priorities, from a position on: lowers *since, and returns
 * its priority or, if there is none, -1 + down_to.
 */
static int
first_of(JobqCall *call, int64 lane, int priority, int down_to, int64 position, Snapshot snapshot,
		 TimestampTz *since)
{
	JobqOrder	order = jobq_lane_order(lane);
	JobqScan   *scan = jobq_scan_order(call, &order, priority, down_to, position, PG_INT64_MAX, snapshot);
	TupleTableSlot *slot = jobq_scan_next(scan);
	int			found = down_to - 1;

	if (slot != NULL)
	{
		*since = Min(*since, jobq_attr_int64(slot, READY_SINCE));
		found = jobq_attr_int16(slot, STATE_PRIORITY);
	}
	jobq_scan_end(scan);
	return found;
}

/*
 * Since when the oldest ready job of a lane has been ready; DT_NOEND: there is none.
 * Positions are drawn when jobs become ready, so it is the first of its priority,
 * which the floors find also where dead rows stand before it.  Priorities that have
 * no floor are found one after the other, as many as are looked at.
 */
TimestampTz
jobq_handout_oldest(JobqCall *call, int64 lane)
{
	JobqFloors *floors = palloc(jobq_floors_size());
	TimestampTz since = DT_NOEND;
	Snapshot	snapshot;
	JobqReady	origin;
	JobqLane   *l;
	int			priority;

	jobq_ready_origin(call, &origin);
	l = jobq_lane_if_known(lane, &origin);
	jobq_floors_init(floors);
	if (l != NULL)
	{
		memcpy(floors, l->floors, jobq_floors_size());
		LWLockRelease(jobq_lane_lock(l));
	}

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int i = 0; i < floors->n && floors->floors[i].priority >= floors->rest; i++)
		(void) first_of(call, lane, floors->floors[i].priority, floors->floors[i].priority,
						floors->floors[i].position, snapshot, &since);
	priority = floors->rest - 1;
	for (int i = 0; i < OLDEST_PRIORITIES && priority >= PG_INT16_MIN; i++)
		priority = first_of(call, lane, priority, PG_INT16_MIN, PG_INT64_MIN, snapshot, &since) - 1;
	UnregisterSnapshot(snapshot);
	pfree(floors);
	return since;
}

/* Sweeping */

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
		jobq_lane_offer(&ready);
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
	JobqFloors *floors = palloc(jobq_floors_size());
	int64		lane;
	int			i;
	Snapshot	snapshot;
	const JobqFloor *floor;
	bool		ours;
	JobqLane   *l;
	JobqOrder	order;

	if (sweep->entry >= jobq_max_lanes)
		return false;
	l = jobq_lane_at(sweep->entry);
	LWLockAcquire(jobq_lane_lock(l), LW_EXCLUSIVE);
	lane = l->lane;
	order = jobq_lane_order(lane);
	ours = l->database == MyDatabaseId;
	memcpy(floors, l->floors, jobq_floors_size());
	if (ours && sweep->priority == PG_INT16_MAX && sweep->position == 0 &&
		jobq_compare_keys(l->end, jobq_key_last) == 0)
	{
		l->end = l->n > 0 ? jobq_candidate_key(jobq_candidate(l, l->n - 1)) : jobq_key_first;
		jobq_lane_note_first(l);
	}
	LWLockRelease(jobq_lane_lock(l));
	if (!ours || sweep->priority < Max(floors->rest, PG_INT16_MIN))
	{
		sweep->entry++;
		sweep->priority = PG_INT16_MAX;
		sweep->position = 0;
		return true;
	}

	snapshot = RegisterSnapshot(GetLatestSnapshot());
	i = jobq_floors_find(floors, sweep->priority);
	floor = i < floors->n && floors->floors[i].priority >= floors->rest ? &floors->floors[i] : NULL;
	if (sweep->position == 0)
	{
		/* priorities that have no floor, down to the next that has one */
		int			last = floor ? floor->priority + 1 : Max(floors->rest, PG_INT16_MIN);

		if (sweep->priority >= last)
			offer_found(call, lane, jobq_scan_order(call, &order, sweep->priority, last,
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
		int64		step = Max(SWEEP_POSITIONS, floor->position / SWEEP_STEPS);
		int64		upto = sweep->position + Min(step, floor->position - sweep->position) - 1;

		offer_found(call, lane, jobq_scan_order(call, &order, sweep->priority, sweep->priority,
												sweep->position, upto, snapshot));
		sweep->position = upto + 1;
	}
	UnregisterSnapshot(snapshot);
	pfree(floors);
	return true;
}

/* Have memory made, and hear of rows that can be claimed, and of aborts. */
void
jobq_dispatch_init(void)
{
	jobq_add_part(&jobq_lanes_part);
	jobq_at_end.offer = jobq_lane_offer;
	jobq_at_end.abort = forget_refill;
}
