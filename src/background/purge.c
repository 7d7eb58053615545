/*
 * purge.c
 *	  The background worker removes jobs that were kept for long enough.
 *
 * It reads table job in ranges of JOBQ_PURGE_BLOCKS blocks (retention.c), and
 * keeps in memory when each is to be looked at next: when the first of the decided
 * jobs that were seen there is due, or, for those that were undecided or not yet
 * there, the shortest retention of all queues after the last look.  So a range
 * with nothing due is not read again, however many jobs are kept.
 *
 * 1. What is removed within JOBQ_SHORT_RETENTION of its decision is announced by
 *	  the decision's commit, with its range.  What is announced is due at the lowest
 *	  time announced; then all ranges announced so far are read.
 * 2. At the start, and when a retention was changed or the table has another file,
 *	  every range is unknown, and read.
 * 3. A step takes a few milliseconds at most, and the pause after it is so long that
 *	  all of them take a small share of the time, and write a small share of the WAL,
 *	  for that is what a load that waits for the disk notices first.  A step is
 *	  committed asynchronously: what a crash loses is done again.
 * 4. A range in which a step fails is gone on with job by job, and one that fails
 *	  alone is left behind for some time.  What foreign keys make a step run is ended
 *	  after a second.
 *
 * A crash leaves jobs that are due; the next worker begins with all unknown.
 */
#include "postgres.h"

#include "access/xlog.h"
#include "commands/trigger.h"
#include "executor/instrument.h"
#include "nodes/makefuncs.h"
#include "pgstat.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/timeout.h"

#include "background/background.h"

#define SHARE			16		/* a step may take 1/16 of the time */
#define WAL_SHARE		4		/* and write 1/4 of what others write */
#define WAL_RATE		1.0		/* or so many bytes per microsecond, if that
								 * is more */
#define STEP_USECS		5000	/* after which a step reads no further range */
#define STEP_LONG		10000	/* after which the next takes fewer jobs */
#define REST			(50 * INT64CONST(1000)) /* between steps, without a
												 * backlog */
#define BATCH_FIRST		20		/* jobs of a step */
#define BATCH_MAX		200
#define FAILED_AGAIN	(30 * USECS_PER_SEC)	/* for a range with such jobs */
#define STEP_TIMEOUT_MS	1000	/* for what foreign keys make it run */

static TimestampTz *looks;		/* of each range; by the wall clock, as all
								 * here */
static int	nranges = 0;
static int	room = 0;			/* for ranges */
static JobqFileNumber file = 0;
static int	cursor = 0;			/* the range to begin with */
static bool unknown = true;		/* all ranges are */
static int64 shortest = 0;		/* retention */
static TimestampTz low = DT_NOEND;	/* the lowest time that was announced */
static TimestampTz next_at = DT_NOBEGIN;	/* nothing is due before */
static TimestampTz grow_at = DT_NOBEGIN;	/* look for new ranges */
static TimestampTz rest_until = 0;	/* by the steady clock */
static TimestampTz ended_at = 0;	/* the same, when the last step ended */
static XLogRecPtr wal_then;		/* all that was written then */
static int	batch = BATCH_FIRST;
static JobqPurge purge = {.older_than = -1};
static int	settings[2] = {-2, -2}; /* the defaults as they were */
static JobqFailures failures;
static int	failed = -1;		/* the range where a step failed */

/* Nothing is known: all has to be read. */
void
jobq_purge_restart(void)
{
	unknown = true;
	next_at = DT_NOBEGIN;
}

/* The settings were read: are the defaults others? */
void
jobq_purge_reload(void)
{
	if (settings[0] != jobq_retention_s || settings[1] != jobq_retention_failed_s)
		jobq_purge_restart();
	settings[0] = jobq_retention_s;
	settings[1] = jobq_retention_failed_s;
}

/* A job to be removed at this time was announced. */
void
jobq_purge_lower(TimestampTz at)
{
	low = Min(low, at);
}

/* Have as many ranges as the table; what is there now was not due before now. */
static void
set_ranges(JobqCall *call)
{
	JobqFileNumber now_in;
	int			n = (jobq_blocks(call, JOBQ_JOB, &now_in) + JOBQ_PURGE_BLOCKS - 1) / JOBQ_PURGE_BLOCKS;
	TimestampTz first = call->now + shortest;

	if (unknown || now_in != file || n < nranges)
	{
		shortest = jobq_shortest_retention(call);
		first = DT_NOBEGIN;
		nranges = cursor = 0;
		failed = -1;
		purge.more = false;
		file = now_in;
		unknown = false;
	}
	if (shortest == JOBQ_NEVER)
		n = 0;					/* nothing is ever due */
	if (n > room)
	{
		int			more = Max(n, 2 * room);

		looks = looks == NULL ?
			MemoryContextAllocHuge(TopMemoryContext, more * sizeof(TimestampTz)) :
			repalloc_huge(looks, more * sizeof(TimestampTz));
		room = more;
	}
	while (nranges < n)
		looks[nranges++] = first;
	grow_at = shortest == JOBQ_NEVER ? DT_NOEND : call->now + shortest;
}

/* Take which ranges have jobs that are due. */
static void
take_places(JobqDatabase *database)
{
	bool		all = pg_atomic_exchange_u32(&database->purge_all, 0) != 0;

	low = DT_NOEND;
	for (int i = 0; i < JOBQ_PURGE_PLACES; i++)
	{
		uint32		place = pg_atomic_read_u32(&database->purge_places[i]) == 0 ? 0 :
		pg_atomic_exchange_u32(&database->purge_places[i], 0);

		if (place != 0 && place <= nranges)
			looks[place - 1] = DT_NOBEGIN;
	}
	for (int i = 0; i < nranges && all; i++)
		looks[i] = DT_NOBEGIN;
}

/* The next range to be looked at, from the cursor on; -1: none, and next_at says when. */
static int
next_range(TimestampTz now)
{
	next_at = grow_at;
	for (int i = 0; i < nranges; i++)
	{
		int			range = (cursor + i) % nranges;

		if (looks[range] <= now)
			return range;
		next_at = Min(next_at, looks[range]);
	}
	return -1;
}

/* When to look at a range again in which nothing is due. */
static TimestampTz
look_again(JobqCall *call, TimestampTz due)
{
	return shortest == JOBQ_NEVER ? due : Min(due, call->now + shortest);
}

/* Have done with a range until then. */
static void
leave_range(TimestampTz look_at)
{
	looks[cursor] = look_at;
	cursor = (cursor + 1) % nranges;
	purge.more = false;
	failed = -1;
}

/* A step has failed: its range is gone on with job by job, and one that fails alone is left behind. */
static void
step_failed(void)
{
	next_at = DT_NOBEGIN;
	if (cursor != failed)
	{
		failed = cursor;
		purge.more = false;
		return;
	}
	purge.look_at = Min(purge.look_at, jobq_wall() + FAILED_AGAIN);
	if (!purge.more)
		leave_range(purge.look_at);
}

/* Read ranges until a few milliseconds are over, or some jobs were removed. */
static void
step_work(JobqCall *call, void *arg)
{
	TimestampTz begin = jobq_steady();
	ConstraintsSetStmt *constraints = makeNode(ConstraintsSetStmt);
	int			range;

	/* foreign keys may change tables with deferred constraints, see foreign.c */
	AfterTriggerSetState(constraints);
	if (unknown || grow_at <= call->now || low <= call->now)
		set_ranges(call);
	if (low <= call->now)
		take_places(arg);
	while ((range = next_range(call->now)) >= 0)
	{
		if (range != cursor)
			purge.more = false;
		cursor = range;
		purge.max_jobs = range == failed ? 1 : batch;
		jobq_purge_blocks(call, &purge, (BlockNumber) range * JOBQ_PURGE_BLOCKS, JOBQ_PURGE_BLOCKS);
		if (!purge.more)
		{
			leave_range(look_again(call, purge.look_at));
		}
		next_at = DT_NOBEGIN;
		if (purge.removed > 0 || purge.more || jobq_steady() - begin > STEP_USECS)
			break;
	}
}

/*
 * How long to pause after a step that wrote so much WAL, by what others have written
 * since the end of the one before.
 */
static int64
wal_pause(TimestampTz now, uint64 wrote)
{
	XLogRecPtr	wal_now = GetXLogInsertRecPtr();
	double		rate = (double) (int64) (wal_now - wal_then - wrote) / Max(now - ended_at, 1);

	ended_at = now;
	wal_then = wal_now;
	return wrote / Max(rate / WAL_SHARE, WAL_RATE);
}

/* Do a step, if something is due. */
void
jobq_purge_round(JobqDatabase *database)
{
	TimestampTz begin = jobq_steady();
	uint64		wrote = pgWalUsage.wal_bytes;
	TimestampTz end;
	int64		took;
	ErrorData  *error;

	if (begin < rest_until || jobq_wall() < Min(next_at, low))
		return;
	purge.removed = 0;
	pgstat_report_activity(STATE_RUNNING, "remove old jobs");
	enable_timeout_after(STATEMENT_TIMEOUT, STEP_TIMEOUT_MS);
	error = jobq_worker_run(step_work, database, true);
	disable_timeout(STATEMENT_TIMEOUT, false);
	QueryCancelPending = false; /* it may have come after all was done */
	end = jobq_steady();
	took = end - begin;
	rest_until = Max(begin + took * SHARE, end + wal_pause(end, pgWalUsage.wal_bytes - wrote));
	if (next_at != DT_NOBEGIN)
		rest_until = Max(rest_until, begin + REST);
	if (took > STEP_LONG)
		batch = Max(batch / 2, 1);
	else if (took < STEP_LONG / 2)
		batch = Min(batch * 2, BATCH_MAX);
	if (error != NULL)
	{
		if (unknown || cursor >= nranges)
			jobq_purge_restart();
		else
			step_failed();
		rest_until = Max(rest_until, end + jobq_retry_delay(0));
		jobq_worker_failed(&failures, error, "remove old jobs", 0);
	}
}

/* When there is something to do next, by jobq_steady(). */
TimestampTz
jobq_purge_next(void)
{
	return Max(rest_until, jobq_deadline_of(DEADLINE_PURGE, Min(next_at, low)));
}
