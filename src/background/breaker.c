/*
 * breaker.c
 *	  Queues that are paused when too many of their attempts end badly.
 *
 * The commit that ends an attempt of a queue with pause_after as failed, timed out
 * or lost leaves a count in shared memory.  The background worker takes these,
 * remembers how many there were when, and pauses the queue when there were
 * pause_after of them within pause_window.  A person resumes it.
 *
 * The counts are hints: a crash of the server, or a new worker, begins at zero.
 * What ends while the queue is paused is not counted, so it begins at zero when
 * it is resumed, too.
 */
#include "postgres.h"

#include "pgstat.h"
#include "utils/backend_status.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "background/background.h"

#define MOMENTS			64		/* that are told apart within a window */

/* How many attempts ended badly about when */
typedef struct Moment
{
	TimestampTz at;				/* by jobq_steady(), the first of them */
	int64		count;
} Moment;

typedef struct Breaker
{
	int64		queue_id;		/* hash key */
	int			n;
	Moment		moments[MOMENTS + 1];	/* in order */
} Breaker;

static HTAB *breakers = NULL;
static TimestampTz again_at = DT_NOEND; /* look again after an error */
static JobqFailures failures;

/* Forget what is older than the window, and count the rest. */
static int64
count_within(Breaker *breaker, TimestampTz since)
{
	int			old = 0;
	int64		count = 0;

	while (old < breaker->n && breaker->moments[old].at < since)
		old++;
	breaker->n -= old;
	memmove(breaker->moments, breaker->moments + old, breaker->n * sizeof(Moment));
	for (int i = 0; i < breaker->n; i++)
		count += breaker->moments[i].count;
	return count;
}

/* Remember that attempts of a queue ended badly. */
static void
note_failures(int64 queue_id, int64 count, TimestampTz now)
{
	bool		found;
	Breaker    *breaker;
	int			closest = 1;

	if (breakers == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(Breaker),.hcxt = TopMemoryContext};

		breakers = hash_create("jobq breakers", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	breaker = hash_search(breakers, &queue_id, HASH_ENTER, &found);
	if (!found)
		breaker->n = 0;
	breaker->moments[breaker->n].at = now;
	breaker->moments[breaker->n].count = count;
	if (++breaker->n <= MOMENTS)
		return;

	/* without room, the two closest become one */
	for (int i = 2; i < breaker->n; i++)
	{
		if (breaker->moments[i].at - breaker->moments[i - 1].at <
			breaker->moments[closest].at - breaker->moments[closest - 1].at)
			closest = i;
	}
	breaker->moments[closest - 1].count += breaker->moments[closest].count;
	breaker->n--;
	memmove(&breaker->moments[closest], &breaker->moments[closest + 1],
			(breaker->n - closest) * sizeof(Moment));
}

/* Look whether queues are to be paused. */
static void
check_work(JobqCall *call, void *arg)
{
	TimestampTz now = jobq_steady();
	HASH_SEQ_STATUS seq;
	Breaker    *breaker;

	hash_seq_init(&seq, breakers);
	while ((breaker = hash_seq_search(&seq)) != NULL)
	{
		JobqQueue	queue;
		int64		count;

		jobq_queue_settings(call, breaker->queue_id, &queue);
		count = queue.paused || queue.pause_after == 0 ? 0 : count_within(breaker, now - queue.pause_window);
		if (queue.pause_after > 0 && count >= queue.pause_after)
		{
			jobq_queue_pause(call, &queue, count);
			count = 0;
		}
		if (count == 0)
			breaker->n = 0;
	}
}

/* Take what was announced, and pause queues. */
void
jobq_breaker_round(JobqDatabase *database)
{
	TimestampTz now = jobq_steady();
	ErrorData  *error;

	if (pg_atomic_read_u32(&database->nfailed) != 0)
	{
		JobqFailed	failed[JOBQ_BREAKERS];
		int			n = jobq_take_failures(database, failed);

		for (int i = 0; i < n; i++)
			note_failures(failed[i].queue_id, failed[i].count, now);
		again_at = now;
	}
	if (again_at > now)
		return;
	pgstat_report_activity(STATE_RUNNING, "look for queues to pause");
	error = jobq_worker_run(check_work, NULL, false);
	if (error == NULL)
	{
		again_at = DT_NOEND;
		failures.count = 0;
	}
	else
	{
		again_at = now + jobq_retry_delay(failures.count);
		jobq_worker_failed(&failures, error, "pause queues", 0);
	}
}

/* When there is something to do next. */
TimestampTz
jobq_breaker_next(void)
{
	return again_at;
}
