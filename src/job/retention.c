/*
 * retention.c
 *	  Which decided jobs have been kept for long enough.
 *
 * No index says when a job was decided, since its decision would have to write an
 * entry.  So whoever removes old jobs reads table job, some blocks at a time, in
 * the order in which they stand there.
 */
#include "postgres.h"

#include "common/int.h"

#include "job/job.h"

#define PURGE_BATCH		500		/* jobs that job_purge() removes at once */
#define PURGE_BLOCKS	64		/* blocks that it reads at once */
#define AGAIN_MIN		USECS_PER_MINUTE	/* what was kept is looked at
											 * again */
#define AGAIN_MAX		USECS_PER_HOUR

/* How long a job of a queue is kept with this outcome. */
static int64
retention_of(const JobqQueue *queue, int outcome)
{
	return (outcome & (OUTCOME_SUCCEEDED | OUTCOME_SKIPPED)) ? queue->retention : queue->retention_failed;
}

/* A job was decided: where it will be removed soon, the background worker must know. */
void
jobq_note_removal(JobqCall *call, int64 queue_id, int outcome, ItemPointer tid, TimestampTz finished_at)
{
	JobqQueue	queue;
	int64		keep;

	jobq_queue_settings(call, queue_id, &queue);
	keep = retention_of(&queue, outcome);
	if (keep < JOBQ_SHORT_RETENTION && ItemPointerIsValid(tid))
		jobq_announce_removal(ItemPointerGetBlockNumber(tid), finished_at + keep);
}

/* The shortest retention of all queues, but for those that are announced. */
int64
jobq_shortest_retention(JobqCall *call)
{
	JobqQueue	queue;
	int64		shortest;
	JobqScan   *scan;
	TupleTableSlot *slot;

	jobq_queue_settings(call, 0, &queue);
	shortest = Min(queue.retention, queue.retention_failed);
	scan = jobq_scan_begin(call, JOBQ_QUEUE, INDEX_SECOND, 0, NULL, NULL);
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		jobq_queue_settings(call, jobq_attr_int64(slot, QUEUE_ID), &queue);
		shortest = Min(shortest, Min(queue.retention, queue.retention_failed));
	}
	jobq_scan_end(scan);
	return Max(shortest, JOBQ_SHORT_RETENTION);
}

/* What is found in some blocks */
typedef struct Found
{
	JobqCall   *call;
	JobqPurge  *purge;
	int			n;
	JobqRemovable *jobs;
	int64		shortest;		/* retention of these */
} Found;

/* Look at a row; false: enough. */
static bool
look_at(TupleTableSlot *job, void *arg)
{
	Found	   *found = arg;
	JobqPurge  *purge = found->purge;
	int			outcome = jobq_attr_int16(job, JOB_OUTCOME);
	char	   *name;
	int64		queue_id;
	int64		keep = purge->older_than;
	TimestampTz due;
	JobqQueue	queue;

	if (outcome == 0)
		return true;
	name = jobq_attr_cstring(job, JOB_QUEUE);
	queue_id = jobq_queue_id(name);
	pfree(name);				/* there can be very many rows */
	if (purge->queue_id != 0 && purge->queue_id != queue_id)
		return true;
	if (purge->by_caller && !jobq_has_privilege(found->call, queue_id, PRIV_OPERATE))
		return true;
	if (keep < 0)
	{
		jobq_queue_settings(found->call, queue_id, &queue);
		keep = retention_of(&queue, outcome);
	}
	if (pg_add_s64_overflow(jobq_attr_int64(job, JOB_FINISHED_AT), keep, &due))
		return true;
	if (due > found->call->now)
	{
		purge->look_at = Min(purge->look_at, due);
		return true;
	}
	if (found->n == purge->max_jobs)
	{
		purge->more = true;
		purge->from = job->tts_tid;
		return false;
	}
	found->jobs[found->n].id = jobq_attr_int64(job, JOB_ID);
	found->jobs[found->n].flow = jobq_attr_int64(job, JOB_FLOW);
	found->jobs[found->n++].place = job->tts_tid;
	found->shortest = Min(found->shortest, keep);
	return true;
}

/*
 * Remove up to max_jobs of the jobs in some blocks that were kept for long enough,
 * and say how many were, whether there may be more of them, and when the next may be
 * due there.  A job that cannot be removed (an undecided one depends on it, a foreign
 * key refuses it, somebody has it locked) is kept, and looked at again later.  Where
 * there may be more, the next call for the same blocks goes on there.
 */
void
jobq_purge_blocks(JobqCall *call, JobqPurge *purge, BlockNumber first, BlockNumber n)
{
	Found		found = {call, purge, 0, palloc(purge->max_jobs * sizeof(JobqRemovable)), JOBQ_NEVER};
	ItemPointerData from;
	ItemPointerData upto;

	ItemPointerSet(&from, first, FirstOffsetNumber);
	ItemPointerSet(&upto, first + n - 1, MaxOffsetNumber);
	if (purge->more)
		from = purge->from;
	else
		purge->look_at = DT_NOEND;
	purge->more = false;
	jobq_read_places(call, JOBQ_JOB, &from, &upto, look_at, &found);
	purge->removed = jobq_remove_free(call, found.n, found.jobs);
	for (int i = 0; i < found.n; i++)
	{
		int64		again = found.shortest / 16;

		/*
		 * what a foreign key refuses it may refuse for ever, and each try
		 * costs
		 */
		if (found.jobs[i].became == REMOVAL_REFUSED)
			again = Min(Max(again, AGAIN_MAX), USECS_PER_DAY);
		else
			again = Min(Max(again, AGAIN_MIN), AGAIN_MAX);
		if (found.jobs[i].became != REMOVAL_DONE)
			purge->look_at = Min(purge->look_at, call->now + again);
	}
	pfree(found.jobs);
}

PG_FUNCTION_INFO_V1(jobq_job_purge);

/* job_purge(queue, older_than, max_jobs) */
Datum
jobq_job_purge(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	char	   *queue = PG_ARGISNULL(0) ? NULL : jobq_check_queue(fcinfo, 0);
	JobqPurge	purge = {.queue_id = queue ? jobq_queue_id(queue) : 0,.by_caller = queue == NULL,
	.older_than = jobq_check_interval(fcinfo, 1, "older_than", true)};
	int64		max_jobs;
	int64		removed = 0;
	BlockNumber blocks;

	if (PG_ARGISNULL(2))
		jobq_error_null("max_jobs");
	max_jobs = jobq_check_count(fcinfo, 2, "max_jobs");
	jobq_enter(&call, "job_purge()", true);
	if (queue != NULL)
		jobq_require_privilege(&call, purge.queue_id, PRIV_OPERATE, queue);
	blocks = jobq_blocks(&call, JOBQ_JOB, NULL);
	for (BlockNumber b = 0; b < blocks && removed < max_jobs; b += PURGE_BLOCKS)
	{
		do
		{
			purge.max_jobs = Min(max_jobs - removed, PURGE_BATCH);
			jobq_purge_blocks(&call, &purge, b, PURGE_BLOCKS);
			removed += purge.removed;
			jobq_advance();
		} while (purge.more && removed < max_jobs);
	}
	jobq_close_call(&call);
	PG_RETURN_INT64(removed);
}
