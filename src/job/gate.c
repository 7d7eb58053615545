/*
 * gate.c
 *	  What the gatekeeper does with rows: letting jobs in, and back behind the gate.
 *
 * It is the only one that moves rows from job_limited to job_ready, one step after
 * the other, so nothing here takes a lock that it would have to share with another of
 * its kind.  Rows that somebody has locked, to cancel or change the job, are passed
 * over, and told of.  A crash leaves each row where the last committed step has put it.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/* Read where a ready or running job counts. */
static void
read_admitted(JobqTable table, TupleTableSlot *row, JobqAdmitted *a)
{
	a->job_id = jobq_attr_int64(row, STATE_JOB_ID);
	a->queue_id = jobq_attr_int64(row, STATE_QUEUE_ID);
	a->partition_id = jobq_attr_int64(row, STATE_PARTITION_ID);
	a->lane = table == JOBQ_READY ? jobq_attr_int64(row, STATE_LANE) : 0;
	a->position = table == JOBQ_READY ? jobq_attr_int64(row, READY_POSITION) : 0;
	a->attempt = jobq_attr_int32(row, STATE_ATTEMPT);
}

/* Give the turn of a partition to a job; 0: to nobody. */
void
jobq_set_turn(JobqCall *call, int64 queue_id, int64 partition_id, int64 job_id)
{
	Datum		keys[2] = {Int64GetDatum(queue_id), Int64GetDatum(partition_id)};
	TupleTableSlot *old = jobq_find(call, JOBQ_TURN, INDEX_KEY, 2, keys, NULL);
	JobqRow		new = {0};

	jobq_set(&new, TURN_QUEUE_ID, keys[0]);
	jobq_set(&new, TURN_PARTITION_ID, keys[1]);
	jobq_set(&new, TURN_JOB_ID, Int64GetDatum(job_id));
	if (old == NULL && job_id != 0)
		jobq_insert(call, JOBQ_TURN, &new);
	else if (old != NULL && job_id != 0)
		(void) jobq_update(call, JOBQ_TURN, old, &new, LockWaitBlock);
	else if (old != NULL)
		(void) jobq_delete(call, JOBQ_TURN, old, LockWaitBlock);
	jobq_slot_free(old);
	jobq_advance();				/* the same partition can come again in this
								 * step */
}

/* Let a job in whose row was found, by a gate; false: somebody has it locked. */
static bool
let_in(JobqCall *call, TupleTableSlot *row, int64 gate, bool turn, JobqAdmitted *a)
{
	JobqPrefix	prefix;

	if (!jobq_state_leave(call, JOBQ_LIMITED, row, LEAVE_TRY))
		return false;
	jobq_read_prefix(row, &prefix);
	prefix.lane = jobq_gate_lane(prefix.lane, gate);
	a->job_id = prefix.job_id;
	a->queue_id = prefix.queue_id;
	a->partition_id = prefix.partition_id;
	a->attempt = prefix.attempt;
	a->position = jobq_enter_ready(call, &prefix, 0);
	a->lane = prefix.lane;
	if (turn)
		jobq_set_turn(call, prefix.queue_id, prefix.partition_id, prefix.job_id);
	return true;
}

/* The key of a row in an order. */
static JobqKey
row_key(TupleTableSlot *row)
{
	JobqKey		key = {jobq_attr_int16(row, STATE_PRIORITY), jobq_attr_int64(row, READY_POSITION)};

	return key;
}

/* Note a row that somebody has locked; true: there is room for another. */
static bool
note_locked(TupleTableSlot *row, JobqLocked *locked)
{
	locked->rows[locked->n].job_id = jobq_attr_int64(row, STATE_JOB_ID);
	locked->rows[locked->n++].key = row_key(row);
	return locked->n < JOBQ_MAX_LOCKED;
}

/*
 * Let in the first jobs of a line, from its floors on, up to max and to a key.
 * *next: all rows before that key were let in, or are in *locked.  Returns how many
 * there are in *out.
 */
int
jobq_let_in_line(JobqCall *call, const JobqOrder *line, const JobqFloors *floors, int64 gate,
				 bool turn, int max, JobqKey limit, JobqAdmitted *out, JobqKey *next, JobqLocked *locked)
{
	JobqOrderScan *scan = jobq_order_scan_begin(call, *line, floors, GetLatestSnapshot());
	TupleTableSlot *row;
	int			n = 0;

	*next = jobq_key_last;
	locked->n = 0;
	while ((row = jobq_order_scan_next(scan)) != NULL)
	{
		JobqKey		key = row_key(row);

		CHECK_FOR_INTERRUPTS();
		/* one that has expired is left to the worker's clock */
		if (jobq_ready_expired(call, row))
			continue;
		if (n == max || jobq_compare_keys(key, limit) > 0)
		{
			*next = key;
			break;
		}
		if (let_in(call, row, gate, turn, &out[n]))
			n++;
		else if (!note_locked(row, locked) || turn)
		{
			/* in an ordered line nobody overtakes */
			*next = jobq_key_after(key);
			break;
		}
	}
	jobq_order_scan_end(scan);
	return n;
}

/*
 * Let in one job of a line that was kept aside; key NULL: wherever it stands there.
 * Elsewhere, or where it has expired, it is no matter of the line any more.
 */
JobqTried
jobq_let_in_job(JobqCall *call, const JobqOrder *line, int64 job_id, const JobqKey *key, int64 gate, bool turn, JobqAdmitted *out)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_LIMITED, job_id);
	JobqTried	tried = TRIED_GONE;

	if (row != NULL && jobq_attr_int64(row, STATE_QUEUE_ID) == line->keys[0] &&
		jobq_attr_int64(row, STATE_PARTITION_ID) == line->keys[1] &&
		(key == NULL || jobq_compare_keys(row_key(row), *key) == 0) && !jobq_ready_expired(call, row))
		tried = let_in(call, row, gate, turn, out) ? TRIED_DONE : TRIED_LOCKED;
	jobq_slot_free(row);
	return tried;
}

/*
 * Take a ready job of a lane, as a gate lets them in, to where it belongs now; false:
 * somebody has it locked.
 */
static bool
send_back(JobqCall *call, TupleTableSlot *row, int64 lane, int64 gate)
{
	JobqPrefix	prefix;

	if (!jobq_state_leave(call, JOBQ_READY, row, LEAVE_TRY))
		return false;
	jobq_read_prefix(row, &prefix);
	prefix.lane = lane;
	(void) jobq_enter_next(call, &prefix, gate != 0 ? prefix.job_id : jobq_attr_int64(row, READY_POSITION));
	return true;
}

/* The rows of all workers' own lanes beside a lane. */
static JobqScan *
scan_own_lanes(JobqCall *call, int64 lane, Snapshot snapshot)
{
	int64		first = jobq_own_lanes(lane);

	return jobq_scan_between(call, JOBQ_READY, INDEX_KEY, first, first + JOBQ_OWN_LANES - 1, snapshot);
}

/*
 * The lane of a worker's own after one of those beside a lane, or after that itself, in
 * which there are ready jobs; 0: there is none.
 */
int64
jobq_next_own_lane(JobqCall *call, int64 lane, int64 after)
{
	int64		first = jobq_own_lanes(lane);
	JobqScan   *scan = jobq_scan_between(call, JOBQ_READY, INDEX_KEY, after == lane ? first : after + 1,
										 first + JOBQ_OWN_LANES - 1, NULL);
	TupleTableSlot *row = jobq_scan_next(scan);
	int64		next = row != NULL ? jobq_attr_int64(row, STATE_LANE) : 0;

	jobq_scan_end(scan);
	return next;
}

/*
 * Take up to max ready jobs of one order, that a gate has let in (0: none), from a key on,
 * to where they belong now.  Their places are by id where there was a gate, since their
 * positions there say nothing of when they came.  *key: where to go on; jobq_key_first:
 * that was all.
 */
static int
empty_order(JobqCall *call, int64 ready_lane, JobqKey *key, int64 lane, int64 gate, int max, JobqLocked *locked)
{
	JobqFloors *floors = palloc(jobq_floors_size());
	JobqOrderScan *scan;
	TupleTableSlot *row;
	int			n = 0;

	jobq_floors_init(floors);
	if (jobq_compare_keys(*key, jobq_key_first) != 0)
	{
		jobq_floors_add(floors, key->priority, key->position, key->position);
		floors->rest = key->priority;
	}
	scan = jobq_order_scan_begin(call, jobq_lane_order(ready_lane), floors, GetLatestSnapshot());
	*key = jobq_key_first;
	while ((row = jobq_order_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (n == max)
		{
			*key = row_key(row);
			break;
		}
		if (send_back(call, row, lane, gate))
			n++;
		else if (!note_locked(row, locked))
		{
			*key = jobq_key_after(row_key(row));
			break;
		}
	}
	jobq_order_scan_end(scan);
	pfree(floors);
	return n;
}

/*
 * Take up to max ready jobs of a lane, and of workers' own beside it, as a gate lets them
 * in, to where they belong now.  *at: where to begin, and to go on; its lane 0: at the
 * beginning, and that was all.  Those in *locked were passed over.
 */
int
jobq_empty_lane(JobqCall *call, int64 lane, int64 gate, int max, JobqEmptied *at, JobqLocked *locked)
{
	int64		let_in = jobq_gate_lane(lane, gate);
	int			n = 0;

	locked->n = 0;
	if (at->lane == 0)
	{
		at->lane = let_in;
		at->key = jobq_key_first;
	}
	while (at->lane != 0 && n < max && locked->n < JOBQ_MAX_LOCKED)
	{
		n += empty_order(call, at->lane, &at->key, lane, gate, max - n, locked);
		if (jobq_compare_keys(at->key, jobq_key_first) == 0)
			at->lane = jobq_next_own_lane(call, let_in, at->lane);
	}
	return n;
}

/* The same for one job of these lanes that was locked. */
JobqTried
jobq_empty_job(JobqCall *call, int64 job_id, int64 lane, int64 gate)
{
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTried	tried = TRIED_GONE;

	if (jobq_find_state(call, job_id, &job, &row) == JOBQ_READY &&
		jobq_is_in_lane(jobq_gate_lane(lane, gate), jobq_attr_int64(row, STATE_LANE)))
		tried = send_back(call, row, lane, gate) ? TRIED_DONE : TRIED_LOCKED;
	jobq_slot_free(row);
	jobq_slot_free(job);
	return tried;
}

/*
 * Tell of all jobs that run, and of those that are ready in some lanes or workers' own
 * beside them, as they are at one moment.
 */
void
jobq_read_admitted(JobqCall *call, int nlanes, const int64 *lanes,
				   void (*callback) (const JobqAdmitted *a, void *arg), void *arg)
{
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	JobqScan   *leases = jobq_scan_begin(call, JOBQ_LEASE, INDEX_KEY, 0, NULL, snapshot);
	JobqFloors *floors = palloc(jobq_floors_size());
	JobqScan   *own;
	TupleTableSlot *row;
	JobqAdmitted a;

	while ((row = jobq_scan_next(leases)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		read_admitted(JOBQ_LEASE, row, &a);
		callback(&a, arg);
	}
	jobq_scan_end(leases);
	jobq_floors_init(floors);
	for (int i = 0; i < nlanes; i++)
	{
		JobqOrderScan *scan = jobq_order_scan_begin(call, jobq_lane_order(lanes[i]), floors, snapshot);

		while ((row = jobq_order_scan_next(scan)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			read_admitted(JOBQ_READY, row, &a);
			callback(&a, arg);
		}
		jobq_order_scan_end(scan);
		own = scan_own_lanes(call, lanes[i], snapshot);
		while ((row = jobq_scan_next(own)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			read_admitted(JOBQ_READY, row, &a);
			callback(&a, arg);
		}
		jobq_scan_end(own);
	}
	UnregisterSnapshot(snapshot);
}

/* Leases of a queue that nobody else sees yet */
typedef struct Unseen
{
	JobqCall   *call;
	int64		queue_id;
	bool		found;
} Unseen;

/* Is a row that an open transaction has inserted such a lease?  A JobqRowCallback: until there is one. */
static bool
look_at_unseen(TupleTableSlot *row, void *arg)
{
	Unseen	   *unseen = arg;

	if (jobq_attr_int64(row, STATE_QUEUE_ID) == unseen->queue_id)
	{
		TupleTableSlot *seen = jobq_find_id(unseen->call, JOBQ_LEASE, jobq_attr_int64(row, STATE_JOB_ID));

		/* else it is only written again */
		unseen->found = seen == NULL;
		jobq_slot_free(seen);
	}
	return !unseen->found;
}

/* Does a job of a queue run that was made ready and claimed by one transaction, which is open still? */
bool
jobq_runs_unseen(JobqCall *call, int64 queue_id)
{
	Unseen		unseen = {call, queue_id};

	jobq_read_uncommitted(call, JOBQ_LEASE, look_at_unseen, &unseen);
	return unseen.found;
}

/*
 * Where a job is: in which state (JOBQ_JOB: decided, or gone), and where it counts if
 * it is ready or runs.  *lane: the lane that it would be ready in without a gate.
 */
JobqTable
jobq_look_at_admitted(JobqCall *call, int64 job_id, JobqAdmitted *a, int64 *lane)
{
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTable	table = jobq_find_state(call, job_id, &job, &row);

	memset(a, 0, sizeof(JobqAdmitted));
	a->job_id = job_id;
	if (row != NULL)
	{
		read_admitted(table, row, a);
		/* opened again, it waits for others, which may wait for its turn */
		if (table == JOBQ_WAITING && jobq_attr_bool(row, WAITING_OPEN))
			a->attempt = 0;
		*lane = jobq_job_lane(job);
	}
	jobq_slot_free(row);
	jobq_slot_free(job);
	return table;
}
