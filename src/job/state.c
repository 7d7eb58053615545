/*
 * place.c
 *	  Which table a job that is not decided stands in: that is its state.
 *
 *	  job_waiting    on dependencies (open) or on job_unhold (held)
 *	  job_scheduled  on the clock
 *	  job_ready      can be claimed now
 *	  job_lease      runs
 *
 * A job that is not decided has exactly one row in the four.  A move deletes
 * the row and inserts another in one transaction; whoever wants to move a job
 * waits for, or skips, the deletion of the row, so nothing else needs a lock.
 * Each look for a row uses one snapshot for all four tables, since with one
 * snapshot a table a job could slip from a table not yet searched to one
 * already searched.
 */
#include "postgres.h"

#include "commands/async.h"
#include "utils/builtins.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "job/job.h"

/* A time, or NULL where there is none. */
static void
set_time(Datum *values, bool *nulls, int attno, TimestampTz at)
{
	if (at != 0)
		jobq_set(values, nulls, attno, TimestampTzGetDatum(at));
}

/* Make a job ready. */
void
jobq_place_ready(JobqCall *call, const JobqPrefix *prefix, int64 position)
{
	Datum		values[READY_NATTS] = {0};
	bool		nulls[READY_NATTS];
	JobqReady	ready = {.lane = prefix->lane,.position = position,.count = 1,.priority = prefix->priority};
	JobqQueue	queue;

	memset(nulls, true, sizeof(nulls));
	jobq_set(values, nulls, READY_LANE, Int64GetDatum(prefix->lane));
	jobq_set(values, nulls, READY_POSITION, Int64GetDatum(position));
	jobq_set(values, nulls, READY_JOB_ID, Int64GetDatum(prefix->job_id));
	jobq_set(values, nulls, READY_SINCE, TimestampTzGetDatum(call->now));
	set_time(values, nulls, READY_EXPIRES_AT, prefix->expires_at);
	jobq_set(values, nulls, READY_ATTEMPT, Int32GetDatum(prefix->attempt));
	jobq_set(values, nulls, READY_FAILED, Int32GetDatum(prefix->failed));
	jobq_set(values, nulls, READY_LOST, Int32GetDatum(prefix->lost));
	jobq_set(values, nulls, READY_PRIORITY, Int16GetDatum(prefix->priority));
	jobq_ready_origin(call, &ready);
	ready.tid = jobq_insert(call, JOBQ_READY, values, nulls);
	ready.many = !ItemPointerIsValid(&ready.tid);
	jobq_announce_ready(&ready);
	jobq_queue_settings(call, prefix->lane, &queue);
	if (queue.known && queue.notify == JOBQ_NOTIFY_TRANSACTIONAL)
		Async_Notify(psprintf("job_queue_%s", queue.name), "");
}

/* Make a job wait for the clock. */
static void
place_scheduled(JobqCall *call, const JobqPrefix *prefix)
{
	Datum		values[SCHEDULED_NATTS] = {0};
	bool		nulls[SCHEDULED_NATTS];

	memset(nulls, true, sizeof(nulls));
	jobq_set(values, nulls, SCHEDULED_RUN_AT, TimestampTzGetDatum(prefix->run_at));
	jobq_set(values, nulls, SCHEDULED_JOB_ID, Int64GetDatum(prefix->job_id));
	jobq_set(values, nulls, SCHEDULED_LANE, Int64GetDatum(prefix->lane));
	set_time(values, nulls, SCHEDULED_EXPIRES_AT, prefix->expires_at);
	jobq_set(values, nulls, SCHEDULED_ATTEMPT, Int32GetDatum(prefix->attempt));
	jobq_set(values, nulls, SCHEDULED_FAILED, Int32GetDatum(prefix->failed));
	jobq_set(values, nulls, SCHEDULED_LOST, Int32GetDatum(prefix->lost));
	jobq_set(values, nulls, SCHEDULED_PRIORITY, Int16GetDatum(prefix->priority));
	jobq_insert(call, JOBQ_SCHEDULED, values, nulls);
	jobq_announce_deadline(DEADLINE_SCHEDULED, prefix->run_at);
}

/*
 * Place a job that waits for nothing but perhaps the clock; returns the name
 * of its state.  position 0: draw one.
 */
const char *
jobq_place(JobqCall *call, const JobqPrefix *prefix, int64 position)
{
	if (prefix->run_at > call->now)
	{
		place_scheduled(call, prefix);
		return "scheduled";
	}
	jobq_place_ready(call, prefix, position ? position : jobq_nextval());
	return "ready";
}

/* Put the counters into a row of job_waiting. */
void
jobq_set_counters(Datum *values, bool *nulls, const JobqCounters *c)
{
	jobq_set(values, nulls, WAITING_UNDECIDED, Int32GetDatum(c->undecided));
	jobq_set(values, nulls, WAITING_PENDING, Int32GetDatum(c->pending));
	jobq_set(values, nulls, WAITING_HITS, Int32GetDatum(c->hits));
	jobq_set(values, nulls, WAITING_VIOLATED, Int32GetDatum(c->violated));
	jobq_set(values, nulls, WAITING_HURT, Int32GetDatum(c->hurt));
}

/*
 * Make a job wait for its dependencies (open), for job_unhold (held), or both.
 * Its undecided parents are counted in that many stripes, 0: in its own row.
 */
void
jobq_place_waiting(JobqCall *call, const JobqPrefix *prefix, const JobqCounters *counters,
				   JobqRule rule, int quorum, int stripes, bool open, bool held)
{
	Datum		values[WAITING_NATTS] = {0};
	bool		nulls[WAITING_NATTS];

	memset(nulls, true, sizeof(nulls));
	jobq_set(values, nulls, WAITING_JOB_ID, Int64GetDatum(prefix->job_id));
	jobq_set(values, nulls, WAITING_LANE, Int64GetDatum(prefix->lane));
	set_time(values, nulls, WAITING_RUN_AT, prefix->run_at);
	set_time(values, nulls, WAITING_EXPIRES_AT, prefix->expires_at);
	jobq_set_counters(values, nulls, counters);
	jobq_set(values, nulls, WAITING_QUORUM, Int32GetDatum(quorum));
	jobq_set(values, nulls, WAITING_ATTEMPT, Int32GetDatum(prefix->attempt));
	jobq_set(values, nulls, WAITING_FAILED, Int32GetDatum(prefix->failed));
	jobq_set(values, nulls, WAITING_LOST, Int32GetDatum(prefix->lost));
	jobq_set(values, nulls, WAITING_PRIORITY, Int16GetDatum(prefix->priority));
	jobq_set(values, nulls, WAITING_RULE, Int16GetDatum(rule));
	jobq_set(values, nulls, WAITING_STRIPES, Int16GetDatum(stripes));
	jobq_set(values, nulls, WAITING_OPEN, BoolGetDatum(open));
	jobq_set(values, nulls, WAITING_HELD, BoolGetDatum(held));
	jobq_insert(call, JOBQ_WAITING, values, nulls);
	if (stripes > 0)
		jobq_stripes_make(call, prefix->job_id, stripes, counters->undecided);
}

/* What a row of one of the four tables carries. */
void
jobq_read_prefix(JobqTable table, TupleTableSlot *slot, JobqPrefix *prefix)
{
	memset(prefix, 0, sizeof(JobqPrefix));
	switch (table)
	{
		case JOBQ_WAITING:
			prefix->job_id = jobq_attr_int64(slot, WAITING_JOB_ID);
			prefix->lane = jobq_attr_int64(slot, WAITING_LANE);
			prefix->run_at = jobq_attr_int64(slot, WAITING_RUN_AT);
			prefix->expires_at = jobq_attr_int64(slot, WAITING_EXPIRES_AT);
			prefix->attempt = jobq_attr_int32(slot, WAITING_ATTEMPT);
			prefix->failed = jobq_attr_int32(slot, WAITING_FAILED);
			prefix->lost = jobq_attr_int32(slot, WAITING_LOST);
			prefix->priority = jobq_attr_int16(slot, WAITING_PRIORITY);
			break;
		case JOBQ_SCHEDULED:
			prefix->job_id = jobq_attr_int64(slot, SCHEDULED_JOB_ID);
			prefix->lane = jobq_attr_int64(slot, SCHEDULED_LANE);
			prefix->run_at = jobq_attr_int64(slot, SCHEDULED_RUN_AT);
			prefix->expires_at = jobq_attr_int64(slot, SCHEDULED_EXPIRES_AT);
			prefix->attempt = jobq_attr_int32(slot, SCHEDULED_ATTEMPT);
			prefix->failed = jobq_attr_int32(slot, SCHEDULED_FAILED);
			prefix->lost = jobq_attr_int32(slot, SCHEDULED_LOST);
			prefix->priority = jobq_attr_int16(slot, SCHEDULED_PRIORITY);
			break;
		case JOBQ_READY:
			prefix->job_id = jobq_attr_int64(slot, READY_JOB_ID);
			prefix->lane = jobq_attr_int64(slot, READY_LANE);
			prefix->expires_at = jobq_attr_int64(slot, READY_EXPIRES_AT);
			prefix->attempt = jobq_attr_int32(slot, READY_ATTEMPT);
			prefix->failed = jobq_attr_int32(slot, READY_FAILED);
			prefix->lost = jobq_attr_int32(slot, READY_LOST);
			prefix->priority = jobq_attr_int16(slot, READY_PRIORITY);
			break;
		case JOBQ_LEASE:
			prefix->job_id = jobq_attr_int64(slot, LEASE_JOB_ID);
			prefix->lane = jobq_attr_int64(slot, LEASE_LANE);
			prefix->attempt = jobq_attr_int32(slot, LEASE_ATTEMPT);
			prefix->failed = jobq_attr_int32(slot, LEASE_FAILED);
			prefix->lost = jobq_attr_int32(slot, LEASE_LOST);
			prefix->priority = jobq_attr_int16(slot, LEASE_PRIORITY);
			break;
		default:
			elog(ERROR, "table %d holds no state", (int) table);
	}
}

/* The row of job_ready of a job, or NULL. */
static TupleTableSlot *
find_ready(JobqCall *call, int64 job_id, int64 lane, int16 priority, Snapshot snapshot)
{
	Datum		keys[3] = {Int64GetDatum(lane), Int16GetDatum(priority), Int64GetDatum(job_id)};
	TupleTableSlot *slot = jobq_find_in(call, JOBQ_READY, INDEX_KEY, 3, keys, snapshot);

	/*
	 * ids and positions come from one sequence, but somebody may have set it
	 * back
	 */
	if (slot != NULL && jobq_attr_int64(slot, READY_JOB_ID) != job_id)
	{
		jobq_slot_free(slot);
		slot = NULL;
	}
	if (slot == NULL)
		slot = jobq_find_in(call, JOBQ_READY, INDEX_SECOND, 1, &keys[2], snapshot);
	return slot;
}

/*
 * Find the state row of a job.  Returns its table, or JOBQ_JOB if it has none
 * (it is decided, or does not exist).
 */
JobqTable
jobq_find_state(JobqCall *call, int64 job_id, TupleTableSlot **state)
{
	static const JobqTable tables[] = {JOBQ_LEASE, JOBQ_WAITING, JOBQ_SCHEDULED};
	Datum		key = Int64GetDatum(job_id);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	JobqTable	found = JOBQ_JOB;

	*state = NULL;
	for (int i = 0; i < lengthof(tables) && *state == NULL; i++)
	{
		*state = jobq_find_in(call, tables[i], INDEX_KEY, 1, &key, snapshot);
		found = tables[i];
	}
	if (*state == NULL)
	{
		TupleTableSlot *job = jobq_find_in(call, JOBQ_JOB, INDEX_KEY, 1, &key, snapshot);

		found = JOBQ_READY;
		if (job != NULL && jobq_attr_isnull(job, JOB_OUTCOME))
			*state = find_ready(call, job_id, jobq_lane(jobq_attr_cstring(job, JOB_QUEUE)),
								jobq_attr_int16(job, JOB_PRIORITY), snapshot);
		jobq_slot_free(job);
	}
	UnregisterSnapshot(snapshot);
	return *state ? found : JOBQ_JOB;
}

/*
 * Remove the state row of a job, which is then placed elsewhere or decided.
 * False: it changed, or, if not to wait, somebody else has it.
 */
bool
jobq_displace(JobqCall *call, JobqTable table, TupleTableSlot *state, bool wait)
{
	JobqReady	ready;

	if (table == JOBQ_READY)
	{
		jobq_ready_from_slot(call, state, &ready);
		jobq_reserve_taken(1);
	}
	if (!(wait ? jobq_delete(call, table, state) : jobq_try_delete(call, table, state)))
		return false;
	/* nothing may fail between the two, or nobody would offer it again */
	if (table == JOBQ_READY)
		jobq_announce_taken(&ready);
	return true;
}

/*
 * For the background worker: make a due job ready.  False: somebody has it
 * locked, try again later.
 */
bool
jobq_move_due_job(JobqCall *call, int64 job_id)
{
	TupleTableSlot *slot = jobq_find_id(call, JOBQ_SCHEDULED, job_id);
	JobqPrefix	prefix;
	bool		ok = true;

	if (slot != NULL)
	{
		jobq_read_prefix(JOBQ_SCHEDULED, slot, &prefix);
		if (prefix.run_at <= call->now)
		{
			ok = jobq_try_delete(call, JOBQ_SCHEDULED, slot);
			if (ok)
				jobq_place_ready(call, &prefix, jobq_nextval());
		}
	}
	jobq_slot_free(slot);
	return ok;
}
