/*
 * affinity.c
 *	  Jobs that are kept for the worker that was the last to run one with their affinity.
 *
 * Which worker that is, and when it was seen, shared memory knows (seen.c).  While it
 * was seen in the last minute, a job with the affinity becomes ready not in the lane
 * that it belongs to, but in the worker's own lane beside it, which only claims in that
 * worker's name ask.  A row of job_kept says when to look at it: when affinity_wait is
 * over or, if that is earlier, when the worker may not have been seen for a minute.
 * The background worker then moves it to the lane that it belongs to, if it is still
 * there, or writes when to look again.
 *
 * Such a job has a position of its own, so that it is found by id in whatever lane it
 * stands, and that the row of job_kept which is about another time that it was ready
 * says nothing of it.
 */
#include "postgres.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

#define SEEN_WITHIN		USECS_PER_MINUTE

/* The place of the worker that a job is to be kept for, when it was seen, and its key; -1: there is none. */
static int
preferred_place(const JobqPrefix *prefix, uint64 *worker, TimestampTz *seen)
{
	*worker = jobq_worker_of_affinity(prefix->queue_id, prefix->affinity_id);
	return *worker != 0 ? jobq_worker_place(*worker, jobq_steady() - SEEN_WITHIN, seen) : -1;
}

/* See that the background worker looks at a job that is kept for the worker at a place. */
static void
note_kept(JobqCall *call, int64 job_id, int64 position, TimestampTz until, int place, uint64 worker, TimestampTz seen)
{
	TimestampTz look_at = Min(until, seen + SEEN_WITHIN);
	JobqRow		new = {0};

	jobq_set(&new, KEPT_LOOK_AT, TimestampTzGetDatum(look_at));
	jobq_set(&new, KEPT_JOB_ID, Int64GetDatum(job_id));
	jobq_set(&new, KEPT_POSITION, Int64GetDatum(position));
	jobq_set(&new, KEPT_UNTIL, TimestampTzGetDatum(until));
	jobq_set(&new, KEPT_WORKER, Int64GetDatum((int64) worker));
	jobq_insert(call, JOBQ_KEPT, &new);
	jobq_announce_deadline(DEADLINE_KEPT, look_at);
	jobq_note_own_lanes(place);
}

/*
 * Make a job ready in the lane of its prefix, which is as its gate has made it, or keep
 * it for a worker, in a lane that the prefix is given.  position 0: draw one.  Returns
 * that which it has.
 */
int64
jobq_enter_ready(JobqCall *call, JobqPrefix *prefix, int64 position)
{
	uint64		worker;
	TimestampTz seen;
	int			place = prefix->affinity_id != 0 ? preferred_place(prefix, &worker, &seen) : -1;
	JobqQueue	queue;

	if (place >= 0)
		jobq_queue_settings(call, prefix->queue_id, &queue);
	if (place >= 0 && queue.affinity_wait > 0)
	{
		position = jobq_nextval();
		prefix->lane = jobq_own_lane(prefix->lane, place);
		note_kept(call, prefix->job_id, position, jobq_steady() + queue.affinity_wait, place, worker, seen);
	}
	else if (position == 0)
		position = jobq_nextval();
	jobq_enter_order(call, JOBQ_READY, prefix, position, call->now);
	return position;
}

/*
 * Keep a job in a worker's own lane on, or move it, and what says when to look at it is
 * to be removed.  False: not yet; *retry_at: then, or 0: somebody has the job locked.
 */
static bool
look_at_kept(JobqCall *call, TupleTableSlot *kept, TupleTableSlot *row, TimestampTz *retry_at)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(row, STATE_JOB_ID));
	TimestampTz until = jobq_attr_int64(kept, KEPT_UNTIL);
	const JobqQueue *queue;
	JobqPrefix	prefix;
	int64		lane;
	int64		gate;
	uint64		worker;
	TimestampTz seen;
	int			place;
	bool		ok;

	if (job == NULL)
		return true;
	jobq_read_prefix(row, &prefix);
	queue = jobq_queue_known(call, prefix.queue_id);
	gate = queue ? queue->gate : 0;
	lane = jobq_job_lane(job);
	jobq_slot_free(job);
	place = jobq_place_of_lane(jobq_gate_lane(lane, gate), prefix.lane);

	/*
	 * any worker may have it already, or the gatekeeper is to move it from an
	 * earlier gate
	 */
	if (place < 0)
		return prefix.lane == jobq_gate_lane(lane, gate);
	if (until > jobq_steady() && preferred_place(&prefix, &worker, &seen) == place &&
		(int64) worker == jobq_attr_int64(kept, KEPT_WORKER))
	{
		TimestampTz look_at = jobq_attr_int64(kept, KEPT_LOOK_AT);

		if (look_at > jobq_steady())
		{
			/*
			 * looked at before its time; the worker may not know of it any
			 * more
			 */
			jobq_note_own_lanes(place);
			*retry_at = look_at;
			return false;
		}
		note_kept(call, prefix.job_id, jobq_attr_int64(row, READY_POSITION), until, place, worker, seen);
		return true;
	}

	/*
	 * Its place is behind those that are ready, since dead rows can stand
	 * where it was.  To the gatekeeper it has been ready all the time.
	 */
	ok = jobq_state_leave(call, JOBQ_READY, row, LEAVE_TRY_BRIEFLY);
	prefix.lane = jobq_gate_lane(lane, gate);
	if (ok)
		jobq_enter_order(call, JOBQ_READY, &prefix, jobq_nextval(), jobq_attr_int64(row, READY_SINCE));
	if (ok && gate != 0)
		jobq_announce_gate(GATE_LOOK, prefix.queue_id, prefix.partition_id, prefix.job_id, 0, prefix.priority);
	return ok;
}

/*
 * For the background worker: look at a job that was kept for a worker.  False: look
 * again later.
 */
bool
jobq_end_kept(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at)
{
	Datum		keys[2] = {TimestampTzGetDatum(deadline), Int64GetDatum(job_id)};
	TupleTableSlot *kept = jobq_find(call, JOBQ_KEPT, INDEX_KEY, 2, keys, NULL);
	TupleTableSlot *row;
	bool		ok = true;

	if (kept == NULL)
		return true;
	row = jobq_find(call, JOBQ_READY, INDEX_SECOND, 1, &keys[1], NULL);
	if (row != NULL && jobq_attr_int64(row, READY_POSITION) == jobq_attr_int64(kept, KEPT_POSITION))
		ok = look_at_kept(call, kept, row, retry_at);
	ok = ok && jobq_delete(call, JOBQ_KEPT, kept, LockWaitSkip);
	jobq_slot_free(row);
	jobq_slot_free(kept);
	return ok;
}
