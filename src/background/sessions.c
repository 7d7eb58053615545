/*
 * sessions.c
 *	  Leases of sessions that have ended, in the background worker.
 *
 * Who ends a session leaves its number in the slot of the database.  The leases
 * with that number are found by the index on it, and given to due.c, which ends
 * them one by one and tries those again that it cannot have now.
 *
 * Where numbers were lost (their memory was full, a crash) and in each sweep, the
 * index is read between the numbers of the sessions that live, so dead entries of
 * those that live and have run many jobs are not read.
 */
#include "postgres.h"

#include "background/background.h"

static bool look_at_all = true;
static TimestampTz again_at = DT_NOBEGIN;	/* after a failure */
static JobqFailures failures;

typedef struct Ended
{
	bool		all;
	int			n;
	int64		numbers[JOBQ_ENDED_SESSIONS];
} Ended;

/* Have leases ended whose session has a number in this range. */
static void
end_range(JobqCall *call, int64 from, int64 upto)
{
	JobqScan   *scan;
	TupleTableSlot *lease;

	if (from > upto)
		return;
	scan = jobq_scan_between(call, JOBQ_LEASE, INDEX_THIRD, from, upto, NULL);
	while ((lease = jobq_scan_next(scan)) != NULL)
		jobq_due_add(DEADLINE_LEASE, jobq_attr_int64(lease, STATE_JOB_ID),
					 jobq_attr_int64(lease, LEASE_DEADLINE));
	jobq_scan_end(scan);
}

/* Find the leases of sessions that have ended. */
static void
ended_work(JobqCall *call, void *arg)
{
	Ended	   *ended = arg;
	int64	   *living;
	int64		from = 0;
	int			n;

	for (int i = 0; i < ended->n && !ended->all; i++)
		end_range(call, ended->numbers[i], ended->numbers[i]);
	if (!ended->all)
		return;
	n = jobq_live_sessions(&living);
	for (int i = 0; i < n; i++)
	{
		end_range(call, from, living[i] - 1);
		from = living[i] + 1;
	}
	end_range(call, from, PG_INT64_MAX);
}

/* Look at all of them again. */
void
jobq_sessions_restart(void)
{
	look_at_all = true;
}

/* Look for the leases of sessions that have ended. */
void
jobq_sessions_round(JobqDatabase *database)
{
	Ended		ended;
	ErrorData  *error;

	ended.n = jobq_take_ended_sessions(database, ended.numbers, &ended.all);
	ended.all |= look_at_all;
	/* after a failure all are looked at, so that none is forgotten meanwhile */
	if ((ended.n == 0 && !ended.all) || jobq_steady() < again_at)
		return;
	error = jobq_worker_run(ended_work, &ended, true);
	look_at_all = error != NULL;
	if (error == NULL)
	{
		failures.count = 0;
		again_at = DT_NOBEGIN;
	}
	else
	{
		again_at = jobq_steady() + jobq_retry_delay(failures.count);
		jobq_worker_failed(&failures, error, "find leases of sessions that have ended", 0);
	}
}

/* When to look again by ourselves. */
TimestampTz
jobq_sessions_next(void)
{
	return look_at_all ? Max(again_at, DT_NOBEGIN + 1) : DT_NOEND;
}
