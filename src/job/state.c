/*
 * state.c
 *	  Which table a job that is not decided stands in: that is its state.
 *
 *	  job_waiting    on dependencies (open) or on job_unhold (held)
 *					 or, where nobody runs it (manual), on job_decide
 *					 or on the limits of its flow (limited_by)
 *	  job_scheduled  on the clock
 *	  job_limited    behind the gate of its queue, for a slot, a rate or its turn
 *	  job_ready      can be claimed now
 *	  job_lease      runs
 *	  job_flow       a flow that runs, if the row is open
 *
 * A job that is not decided has exactly one row in the six.  All of them begin
 * with the same columns, the prefix, which is what a job carries from state to
 * state.  A move leaves one state and enters another in one transaction, through
 * jobq_state_leave() and jobq_state_enter(), which announce it to those who have
 * to know; whoever wants to move a job waits for, or skips, the deletion of the
 * row, so nothing else needs a lock.  Each look for a row uses one snapshot for
 * all tables, since with one snapshot a table a job could slip from a table
 * not yet searched to one already searched.
 */
#include "postgres.h"

#include "commands/async.h"
#include "utils/snapmgr.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/* job_ready comes last: it is searched by what the job's row says */
static const struct
{
	JobqTable	table;
	const char *name;
}			states[] = {
	{JOBQ_LEASE, "running"},
	{JOBQ_WAITING, "waiting"},
	{JOBQ_SCHEDULED, "scheduled"},
	{JOBQ_LIMITED, "waiting"},
	{JOBQ_READY, "ready"},
	{JOBQ_FLOW, "running"},		/* if its row is open */
};

/* The name of the state that a table stands for. */
const char *
jobq_state_name(JobqTable table)
{
	for (int i = 0; i < lengthof(states); i++)
	{
		if (states[i].table == table)
			return states[i].name;
	}
	elog(ERROR, "table %d holds no state", (int) table);
}

/* Read the prefix of a row.  The lane of one that is ready can be that of a gate, or a worker's own. */
void
jobq_read_prefix(TupleTableSlot *row, JobqPrefix *prefix)
{
	prefix->job_id = jobq_attr_int64(row, STATE_JOB_ID);
	prefix->queue_id = jobq_attr_int64(row, STATE_QUEUE_ID);
	prefix->lane = jobq_attr_int64(row, STATE_LANE);
	prefix->run_at = jobq_attr_int64(row, STATE_RUN_AT);
	prefix->expires_at = jobq_attr_int64(row, STATE_EXPIRES_AT);
	prefix->partition_id = jobq_attr_int64(row, STATE_PARTITION_ID);
	prefix->affinity_id = jobq_attr_int64(row, STATE_AFFINITY_ID);
	prefix->flow_id = jobq_attr_int64(row, STATE_FLOW_ID);
	prefix->attempt = jobq_attr_int32(row, STATE_ATTEMPT);
	prefix->failed = jobq_attr_int32(row, STATE_FAILED);
	prefix->lost = jobq_attr_int32(row, STATE_LOST);
	prefix->priority = jobq_attr_int16(row, STATE_PRIORITY);
	prefix->slot = jobq_attr_int16(row, STATE_SLOT);
	prefix->manual = false;
}

/* The labels that a job requires, as in its own row; 0: none. */
Datum
jobq_job_requires(TupleTableSlot *job)
{
	bool		isnull;
	Datum		requires = slot_getattr(job, JOB_REQUIRES, &isnull);

	return isnull ? 0 : requires;
}

/* Its lane, where it has no gate. */
int64
jobq_job_lane(TupleTableSlot *job)
{
	return jobq_is_flow(job) ? JOBQ_FLOW_LANE : jobq_lane_of(jobq_attr_cstring(job, JOB_QUEUE), jobq_job_requires(job));
}

/* The same for a row of job_waiting: it knows whether anybody runs the job. */
void
jobq_read_waiting(TupleTableSlot *row, JobqPrefix *prefix)
{
	jobq_read_prefix(row, prefix);
	prefix->manual = jobq_attr_bool(row, WAITING_MANUAL);
}

/* The prefix of a job by its own row: where it goes on, without what its attempts were. */
void
jobq_read_job_prefix(TupleTableSlot *job, JobqPrefix *prefix)
{
	char	   *partition = jobq_attr_cstring(job, JOB_PARTITION);
	char	   *affinity = jobq_attr_cstring(job, JOB_AFFINITY);

	memset(prefix, 0, sizeof(JobqPrefix));
	prefix->job_id = jobq_attr_int64(job, JOB_ID);
	prefix->queue_id = jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE));
	prefix->lane = jobq_job_lane(job);
	prefix->partition_id = partition ? jobq_partition_id(partition) : 0;
	prefix->affinity_id = affinity ? jobq_name_id(affinity) : 0;
	prefix->flow_id = jobq_attr_int64(job, JOB_FLOW);
	prefix->run_at = jobq_attr_int64(job, JOB_RUN_AT);
	prefix->priority = jobq_attr_int16(job, JOB_PRIORITY);
	prefix->manual = jobq_attr_bool(job, JOB_MANUAL);
}

/* A job has become ready: tell the hand-out, waiters and listeners. */
static void
announce_ready(JobqCall *call, const JobqPrefix *prefix, int64 position, ItemPointerData tid)
{
	JobqReady	ready = {.lane = prefix->lane,.queue_id = prefix->queue_id,.position = position,
		.labels = jobq_ready_labels(call, prefix->queue_id, prefix->lane),.count = 1,.tid = tid,
	.many = !ItemPointerIsValid(&tid),.priority = prefix->priority};
	const JobqQueue *queue;

	jobq_ready_origin(call, &ready);
	jobq_announce_ready(&ready);
	queue = jobq_queue_known(call, prefix->queue_id);
	if (queue != NULL && queue->notify == JOBQ_NOTIFY_TRANSACTIONAL)
		Async_Notify(psprintf("job_queue_%s", queue->name), "");
}

/* Has a queue a gate now? */
static bool
has_gate(JobqCall *call, int64 queue_id)
{
	const JobqQueue *queue = jobq_queue_known(call, queue_id);

	return queue != NULL && queue->gate != 0;
}

/* Tell the gatekeeper of a job. */
static void
tell_gate(JobqGateAct act, const JobqPrefix *prefix, int64 number)
{
	jobq_announce_gate(act, prefix->queue_id, prefix->partition_id, prefix->job_id, number, prefix->priority);
}

/* The same of one that has left a state where it counted. */
static void
tell_gate_left(JobqCall *call, JobqTable table, TupleTableSlot *row)
{
	const JobqQueue *queue = jobq_queue_known(call, jobq_attr_int64(row, STATE_QUEUE_ID));
	JobqPrefix	prefix;

	if (queue == NULL || queue->gate == 0)
		return;
	jobq_read_prefix(row, &prefix);
	if (table == JOBQ_READY)
		tell_gate(GATE_LEFT, &prefix, jobq_attr_int64(row, READY_POSITION));
	else if (table == JOBQ_LEASE)
		tell_gate(GATE_ENDED, &prefix, prefix.attempt);
	else if (queue->ordered && prefix.attempt > 0)
		tell_gate(GATE_LOOK, &prefix, 0);	/* it may have the turn of its
											 * partition */
}

/* Count a job that enters or leaves a state. */
static void
count_state(JobqTable table, int64 queue_id, int n)
{
	static const int counts[JOBQ_NTABLES] = {
		[JOBQ_WAITING] = COUNT_WAITING,[JOBQ_SCHEDULED] = COUNT_SCHEDULED,
		[JOBQ_LIMITED] = COUNT_LIMITED,[JOBQ_READY] = COUNT_READY,[JOBQ_LEASE] = COUNT_RUNNING
	};

	jobq_count(queue_id, counts[table], n);
}

/* Put a prefix into a row. */
void
jobq_set_prefix(JobqTable table, JobqRow *new, const JobqPrefix *prefix)
{
	jobq_set(new, STATE_JOB_ID, Int64GetDatum(prefix->job_id));
	jobq_set(new, STATE_QUEUE_ID, Int64GetDatum(prefix->queue_id));
	jobq_set(new, STATE_LANE, Int64GetDatum(prefix->lane));
	jobq_set(new, STATE_RUN_AT, TimestampTzGetDatum(prefix->run_at));
	new->given[STATE_RUN_AT - 1] = prefix->run_at != 0;
	jobq_set(new, STATE_EXPIRES_AT, TimestampTzGetDatum(prefix->expires_at));
	new->given[STATE_EXPIRES_AT - 1] = prefix->expires_at != 0;
	jobq_set(new, STATE_PARTITION_ID, Int64GetDatum(prefix->partition_id));
	new->given[STATE_PARTITION_ID - 1] = prefix->partition_id != 0 || table == JOBQ_LIMITED;
	jobq_set(new, STATE_AFFINITY_ID, Int64GetDatum(prefix->affinity_id));
	new->given[STATE_AFFINITY_ID - 1] = prefix->affinity_id != 0;
	jobq_set(new, STATE_FLOW_ID, Int64GetDatum(prefix->flow_id));
	new->given[STATE_FLOW_ID - 1] = prefix->flow_id != 0;
	jobq_set(new, STATE_ATTEMPT, Int32GetDatum(prefix->attempt));
	jobq_set(new, STATE_FAILED, Int32GetDatum(prefix->failed));
	jobq_set(new, STATE_LOST, Int32GetDatum(prefix->lost));
	jobq_set(new, STATE_PRIORITY, Int16GetDatum(prefix->priority));
	jobq_set(new, STATE_SLOT, Int16GetDatum(prefix->slot));
	new->given[STATE_SLOT - 1] = prefix->slot != SLOT_NONE;
}

/*
 * The one door into a state: insert its row, and announce it.  The caller has
 * set the columns behind the prefix; the others are NULL.
 */
void
jobq_state_enter(JobqCall *call, JobqTable table, const JobqPrefix *prefix, JobqRow *new)
{
	ItemPointerData tid;

	jobq_set_prefix(table, new, prefix);
	tid = jobq_insert(call, table, new);
	count_state(table, prefix->queue_id, 1);

	switch (table)
	{
		case JOBQ_READY:
			announce_ready(call, prefix, DatumGetInt64(new->values[READY_POSITION - 1]), tid);
			break;
		case JOBQ_SCHEDULED:
			jobq_announce_deadline(DEADLINE_SCHEDULED, prefix->run_at);
			break;
		case JOBQ_LIMITED:
			tell_gate(GATE_ARRIVED, prefix, DatumGetInt64(new->values[READY_POSITION - 1]));
			break;
		case JOBQ_LEASE:
			if (!new->given[LEASE_SESSION - 1])
				jobq_announce_lease(LEASE_ENTER, prefix->job_id, DatumGetInt64(new->values[LEASE_TOKEN - 1]),
									DatumGetTimestampTz(new->values[LEASE_UNTIL - 1]));
			jobq_announce_deadline(DEADLINE_LEASE, DatumGetTimestampTz(new->values[LEASE_DEADLINE - 1]));
			if (has_gate(call, prefix->queue_id))
				tell_gate(GATE_BEGUN, prefix, prefix->attempt);
			break;
		default:
			break;
	}
}

/*
 * The one door out of a state: delete its row.  False: it changed or, unless the
 * mode is to wait, somebody else has it.
 */
bool
jobq_state_leave(JobqCall *call, JobqTable table, TupleTableSlot *row, JobqLeaveMode mode)
{
	bool		announce = table == JOBQ_READY && mode != LEAVE_POPPED;
	JobqReady	ready;

	if (announce)
	{
		jobq_ready_from_slot(call, row, &ready);
		ready.labels = jobq_ready_labels(call, ready.queue_id, ready.lane);
		jobq_reserve_taken(1);
	}
	if (!jobq_delete(call, table, row, mode <= LEAVE_BRIEFLY ? LockWaitBlock : LockWaitSkip))
		return false;
	/* nothing may fail between the two, or nobody would offer it again */
	if (announce)
		jobq_announce_taken(&ready);
	else if (table == JOBQ_LEASE)
		jobq_announce_lease(LEASE_END, jobq_attr_int64(row, STATE_JOB_ID), jobq_attr_int64(row, LEASE_TOKEN), 0);
	/* one that is claimed is heard of when its attempt begins */
	if (mode == LEAVE_WAIT || mode == LEAVE_TRY)
		tell_gate_left(call, table, row);
	count_state(table, jobq_attr_int64(row, STATE_QUEUE_ID), -1);
	return true;
}

/*
 * Put a job into an order: make it ready, in the lane of its prefix, or put it
 * behind the gate of its queue (JOBQ_LIMITED), at a place that its position gives.
 */
void
jobq_enter_order(JobqCall *call, JobqTable table, const JobqPrefix *prefix, int64 position, TimestampTz since)
{
	JobqPrefix	placed = *prefix;
	JobqRow		new = {0};

	placed.run_at = 0;
	jobq_set(&new, READY_POSITION, Int64GetDatum(position));
	jobq_set(&new, READY_SINCE, TimestampTzGetDatum(since));
	jobq_state_enter(call, table, &placed, &new);
}

/*
 * Let a job go that waits for nothing but perhaps the clock, its flow, the gate of its
 * queue or, where nobody runs it, job_decide(); returns the name of its state.  position
 * 0: draw one.
 */
const char *
jobq_enter_next(JobqCall *call, const JobqPrefix *prefix, int64 position)
{
	const JobqQueue *queue;
	JobqRow		new = {0};
	JobqPrefix	placed = *prefix;

	if (prefix->manual)
	{
		jobq_enter_waiting(call, prefix, NULL, RULE_ALL_SUCCESS, 0, 0, false);
		return "waiting";
	}
	/* the next attempt needs a slot of its own */
	if (prefix->slot == SLOT_BEGUN || prefix->run_at > call->now)
		jobq_give_slot_back(call, &placed);
	prefix = &placed;
	if (prefix->run_at <= call->now && prefix->flow_id != 0 && prefix->slot == SLOT_NONE && jobq_kept_by_flow(call, prefix))
	{
		jobq_wait_for_flow(call, prefix);
		return "waiting";
	}
	if (prefix->run_at > call->now || prefix->lane == JOBQ_FLOW_LANE)
	{
		/* a flow is due at once, for the background worker to start it */
		placed.run_at = Max(prefix->run_at, call->now);
		jobq_state_enter(call, JOBQ_SCHEDULED, &placed, &new);
		return "scheduled";
	}
	queue = jobq_queue_known(call, prefix->queue_id);
	if (queue != NULL && queue->gate != 0)
	{
		if (queue->ordered)
			position = prefix->job_id;
		jobq_enter_order(call, JOBQ_LIMITED, prefix, position ? position : jobq_nextval(), call->now);
		return "waiting";
	}
	(void) jobq_enter_ready(call, &placed, position);
	return "ready";
}

/*
 * Make a job wait for its dependencies, or, without counters, only for
 * job_unhold or job_decide.  epoch: a number, from the sequence, of when they were
 * counted.
 */
void
jobq_enter_waiting(JobqCall *call, const JobqPrefix *prefix, const JobqCounters *counters,
				   JobqRule rule, int quorum, int64 epoch, bool held)
{
	static const JobqCounters none = {0};
	JobqRow		new = {0};
	JobqPrefix	placed = *prefix;
	bool		open = counters != NULL;

	jobq_give_slot_back(call, &placed);

	jobq_set_counters(&new, WAITING_UNDECIDED, open ? counters : &none);
	jobq_set(&new, WAITING_QUORUM, Int32GetDatum(quorum));
	jobq_set(&new, WAITING_EPOCH, Int64GetDatum(epoch));
	jobq_set(&new, WAITING_RULE, Int16GetDatum(rule));
	jobq_set(&new, WAITING_OPEN, BoolGetDatum(open));
	jobq_set(&new, WAITING_HELD, BoolGetDatum(held));
	jobq_set(&new, WAITING_MANUAL, BoolGetDatum(prefix->manual));
	jobq_set(&new, WAITING_WIDE, BoolGetDatum(open && counters->n[UNDECIDED] >= JOBQ_WIDE));
	jobq_state_enter(call, JOBQ_WAITING, &placed, &new);
}

/* A row of job_ready that a claim has deleted is of a job that its flow keeps: it waits for that again. */
void
jobq_put_behind_flow(JobqCall *call, TupleTableSlot *ready)
{
	JobqPrefix	prefix;
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(ready, STATE_JOB_ID));

	/* the gatekeeper hears of what was claimed when its attempt begins */
	tell_gate_left(call, JOBQ_READY, ready);
	jobq_read_prefix(ready, &prefix);
	if (job != NULL)
		prefix.lane = jobq_job_lane(job);
	jobq_slot_free(job);
	jobq_wait_for_flow(call, &prefix);
}

/*
 * Give a job that stays as far as it is another prefix, with the lane where it has no
 * gate: where it waits or runs, its row is updated, else it leaves its state and goes
 * on from there, so that lanes and clocks hear of it.  The row is written in any
 * case, for a claim that has read the job takes it only if its row is still the same.
 * One that is ready, or limited, keeps its place if its queue, partition and priority
 * are the same, and the gatekeeper need not hear of it.  False: the row changed, look
 * again.
 */
bool
jobq_state_rewrite(JobqCall *call, JobqTable table, TupleTableSlot *row, const JobqPrefix *prefix)
{
	bool		stays;

	if (table == JOBQ_WAITING || table == JOBQ_LEASE || table == JOBQ_FLOW)
	{
		JobqRow		new;
		int64		queue_id = jobq_attr_int64(row, STATE_QUEUE_ID);

		jobq_values(row, &new);
		jobq_set_prefix(table, &new, prefix);
		if (!jobq_update(call, table, row, &new, LockWaitBlock))
			return false;
		if (queue_id != prefix->queue_id)
		{
			count_state(table, queue_id, -1);
			count_state(table, prefix->queue_id, 1);
		}
		if (table == JOBQ_WAITING)
			tell_gate_left(call, table, row);
		return true;
	}
	stays = (table == JOBQ_READY || table == JOBQ_LIMITED) && prefix->queue_id == jobq_attr_int64(row, STATE_QUEUE_ID) &&
		prefix->partition_id == jobq_attr_int64(row, STATE_PARTITION_ID) &&
		prefix->priority == jobq_attr_int16(row, STATE_PRIORITY) && prefix->run_at <= call->now;
	if (!jobq_state_leave(call, table, row, stays ? LEAVE_BRIEFLY : LEAVE_WAIT))
		return false;
	if (!stays)
		jobq_enter_next(call, prefix, 0);
	else if (table == JOBQ_LIMITED)
		jobq_enter_order(call, JOBQ_LIMITED, prefix, jobq_attr_int64(row, READY_POSITION), jobq_attr_int64(row, READY_SINCE));
	else
	{
		JobqPrefix	ready = *prefix;

		ready.lane = jobq_attr_int64(row, STATE_LANE);
		jobq_enter_order(call, JOBQ_READY, &ready, jobq_attr_int64(row, READY_POSITION), jobq_attr_int64(row, READY_SINCE));
	}
	return true;
}

/* The row of job_ready of a job, by what its own row says, or NULL. */
TupleTableSlot *
jobq_find_ready(JobqCall *call, int64 job_id, int64 lane, int16 priority, Snapshot snapshot)
{
	Datum		keys[3] = {Int64GetDatum(lane), Int16GetDatum(priority), Int64GetDatum(job_id)};
	TupleTableSlot *slot = jobq_find(call, JOBQ_READY, INDEX_KEY, 3, keys, snapshot);

	/*
	 * ids and positions come from one sequence, but somebody may have set it
	 * back
	 */
	if (slot != NULL && jobq_attr_int64(slot, STATE_JOB_ID) != job_id)
	{
		jobq_slot_free(slot);
		slot = NULL;
	}
	if (slot == NULL)
		slot = jobq_find(call, JOBQ_READY, INDEX_SECOND, 1, &keys[2], snapshot);
	return slot;
}

/*
 * Find a job, and its state row if it is not decided, under one snapshot.
 * Returns the table of that, or JOBQ_JOB if there is none.
 */
JobqTable
jobq_find_state(JobqCall *call, int64 job_id, TupleTableSlot **job, TupleTableSlot **row)
{
	Datum		key = Int64GetDatum(job_id);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	JobqTable	found = JOBQ_JOB;

	*row = NULL;
	*job = jobq_find(call, JOBQ_JOB, INDEX_KEY, 1, &key, snapshot);
	for (int i = 0; i < lengthof(states) && *row == NULL &&
		 *job != NULL && slot_attisnull(*job, JOB_OUTCOME); i++)
	{
		found = states[i].table;
		*row = found != JOBQ_READY ? jobq_find(call, found, INDEX_KEY, 1, &key, snapshot) :
			jobq_find_ready(call, job_id, jobq_job_lane(*job),
							jobq_attr_int16(*job, JOB_PRIORITY), snapshot);
		if (found == JOBQ_FLOW && *row != NULL && !jobq_attr_bool(*row, FLOW_OPEN))
		{
			jobq_slot_free(*row);
			*row = NULL;
		}
	}
	UnregisterSnapshot(snapshot);
	return *row ? found : JOBQ_JOB;
}

void		(*jobq_start_flow) (JobqCall *call, const JobqPrefix *prefix) = NULL;

/*
 * For the background worker: make a due job ready, or start a flow.  False: somebody has it
 * locked, try again later.
 */
bool
jobq_move_due_job(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_SCHEDULED, job_id);
	JobqPrefix	prefix;
	bool		ok = true;

	if (row != NULL)
	{
		jobq_read_prefix(row, &prefix);
		if (prefix.run_at <= call->now)
		{
			ok = (prefix.lane != JOBQ_FLOW_LANE || jobq_lock_to_start(call, job_id)) &&
				jobq_state_leave(call, JOBQ_SCHEDULED, row, LEAVE_TRY);
			if (ok && prefix.lane != JOBQ_FLOW_LANE)
				jobq_enter_next(call, &prefix, 0);
			else if (ok && prefix.flow_id != 0 && jobq_kept_by_flow(call, &prefix))
				jobq_wait_for_flow(call, &prefix);
			else if (ok)
				jobq_start_flow(call, &prefix);
		}
	}
	jobq_slot_free(row);
	return ok;
}
