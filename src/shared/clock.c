/*
 * clock.c
 *	  Time that passes evenly.
 *
 * What is a time of day (run_at, expires_at, what the views show) is the wall
 * clock's, jobq_wall().  What is measured from now (leases and timeouts, in their
 * rows as well as in memory, and how long to sleep) is by jobq_steady(), which is
 * the wall clock too, less the steps of more than a second that it has made since
 * the server was started.  So a lease is as long as was promised, whatever is
 * done to the clock, and where nothing is done the two are the same.
 *
 * Steps are seen by comparing with the system's monotonic clock.  Whoever sees one
 * notes it in shared memory; as each compares for itself, it does not matter who
 * was first.  A crash leaves nothing to do: the postmaster remembers how the two
 * clocks stood when it started.  Another start forgets the steps, and then the
 * leases of before are as the wall clock says, but every one has a full period.
 */
#include "postgres.h"

#include "common/int.h"
#include "portability/instr_time.h"

#include "shared/shared.h"

#define STEP			USECS_PER_SEC
#define READING_TIME	10000	/* within which two clocks are read at once */
#define READINGS		5

static pg_atomic_uint64 *steps; /* their sum, in shared memory */
static int64 start_offset;		/* of the wall clock, against the monotonic */

/* The monotonic clock. */
static int64
monotonic(void)
{
	instr_time	t;

	INSTR_TIME_SET_CURRENT(t);
	return INSTR_TIME_GET_MICROSEC(t);
}

/* Read the wall clock, and how far it is before the monotonic; false: not at once. */
static bool
read_clocks(TimestampTz *wall, int64 *offset)
{
	for (int i = 0; i < READINGS; i++)
	{
		int64		before = monotonic();

		*wall = jobq_wall();
		*offset = *wall - before;
		if (monotonic() - before <= READING_TIME)
			return true;
	}
	return false;
}

/* The place in shared memory; made: by the postmaster, just now. */
void
jobq_clock_attach(pg_atomic_uint64 *place, bool made)
{
	TimestampTz wall;

	steps = place;
	if (!made)
		return;
	pg_atomic_init_u64(steps, 0);
	if (start_offset == 0)
		(void) read_clocks(&wall, &start_offset);
}

/* By how much the wall clock has been set forward. */
static int64
clock_steps(void)
{
	return steps ? (int64) pg_atomic_read_u64(steps) : 0;
}

/* Now, for what is measured. */
TimestampTz
jobq_steady(void)
{
	TimestampTz wall;
	int64		offset;
	int64		known = clock_steps();

	if (read_clocks(&wall, &offset) && steps != NULL)
	{
		offset -= start_offset;
		if (offset > known + STEP || offset < known - STEP)
		{
			pg_atomic_write_u64(steps, (uint64) offset);
			known = offset;
		}
	}
	return wall - known;
}

/* A time of day as one for what is measured. */
static TimestampTz
steady_of(TimestampTz wall)
{
	int64		result;

	if (TIMESTAMP_NOT_FINITE(wall))
		return wall;
	return pg_sub_s64_overflow(wall, clock_steps(), &result) ? DT_NOEND : result;
}

/* And back. */
TimestampTz
jobq_wall_of(TimestampTz steady)
{
	return TIMESTAMP_NOT_FINITE(steady) ? steady : steady + clock_steps();
}

/* Are these deadlines times of day? */
static bool
by_wall(JobqDeadline kind)
{
	return kind == DEADLINE_SCHEDULED || kind == DEADLINE_EXPIRY || kind == DEADLINE_UNIQUE ||
		kind == DEADLINE_TICK || kind == DEADLINE_PURGE;
}

/* Now, by the clock of a kind of deadlines. */
TimestampTz
jobq_deadline_now(JobqDeadline kind)
{
	return by_wall(kind) ? jobq_wall() : jobq_steady();
}

/* When such a deadline is, by jobq_steady(). */
TimestampTz
jobq_deadline_of(JobqDeadline kind, TimestampTz at)
{
	return by_wall(kind) ? steady_of(at) : at;
}
