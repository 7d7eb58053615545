/*
 * ticks.c
 *	  The times of a schedule, in a time zone.
 *
 * A zone is a row of spans, each with an offset between what its clocks show and
 * UTC.  Both are counted here in seconds since 1970, as if what a clock shows
 * were UTC.  The days, hours and minutes of a schedule name times on the clock.
 * A tick is the moment of such a time:
 *
 * If the schedule follows the clock, each moment at which the clock shows it.
 * What is skipped does not come, and what comes twice are two ticks.
 *
 * If the schedule is fixed, the first moment at which the clock shows it or is
 * past it.  So what is skipped comes at the end of the gap, and what comes twice
 * is one tick: the clock has been past it once.  Times that fall on the same
 * moment are one tick.
 *
 * Both are one walk through the spans, with a time on the clock that counts as
 * passed: that of the moment before, or the latest that the clock has shown so
 * far.  The ticks depend on nothing else, so they are the same whenever, and
 * from wherever, they are asked for.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "schedule/schedule.h"

/* the calendar repeats then, weekdays included: what does not come so long never does */
#define CALENDAR_YEARS 400

/*
 * Zones that are given as rules can be up to a week from UTC.  So what a clock
 * has shown more than two weeks ago, it is past.
 */
#define LOOK_BACK (15 * (int64) SECS_PER_DAY)

/* between 1970 and 2000, in seconds */
#define EPOCH_OFFSET ((POSTGRES_EPOCH_JDATE - UNIX_EPOCH_JDATE) * (int64) SECS_PER_DAY)

/* a / b, rounded down */
static int64
divide(int64 a, int64 b)
{
	return a / b - (a % b < 0);
}

/* Whether a day is one of the schedule's, its month being one. */
static bool
day_matches(const JobqScheduleSpec *spec, int day, int weekday, int month_days)
{
	bool		by_day = (spec->days & (1U << day)) != 0 || (spec->last_day && day == month_days);
	bool		by_weekday = (spec->weekdays & (1U << weekday)) != 0 ||
	(spec->nth_weekdays & JOBQ_NTH_WEEKDAY((day + 6) / 7, weekday)) != 0 ||
	(day + 7 > month_days && (spec->nth_weekdays & JOBQ_NTH_WEEKDAY(JOBQ_LAST_WEEKDAY, weekday)) != 0);

	return spec->both ? by_day && by_weekday : by_day || by_weekday;
}

/* The first minute of a day that is the schedule's, from one on; -1: none. */
static int
find_minute(const JobqScheduleSpec *spec, int from)
{
	for (int hour = from / MINS_PER_HOUR; hour < HOURS_PER_DAY; hour++)
	{
		if ((spec->hours & (1U << hour)) == 0)
			continue;
		for (int minute = Max(from - hour * MINS_PER_HOUR, 0); minute < MINS_PER_HOUR; minute++)
		{
			if (spec->minutes & (UINT64CONST(1) << minute))
				return hour * MINS_PER_HOUR + minute;
		}
	}
	return -1;
}

/*
 * Find the schedule's next time on the clock, in seconds since 1970; false: there
 * is none in 400 years, hence never.  A schedule that was read has no such end.
 */
bool
jobq_schedule_next_local(const JobqScheduleSpec *spec, int64 after, int64 *next)
{
	int64		from = divide(after, SECS_PER_MINUTE) + 1;	/* in minutes */
	int64		from_day = divide(from, MINS_PER_HOUR * HOURS_PER_DAY);
	int			year;
	int			month;
	int			day;
	int			last_year;

	j2date(from_day + UNIX_EPOCH_JDATE, &year, &month, &day);
	last_year = year + CALENDAR_YEARS;
	while (year <= last_year)
	{
		int			month_days = day_tab[isleap(year)][month - 1];
		int			julian = date2j(year, month, day);

		for (; (spec->months & (1U << month)) && day <= month_days; day++, julian++)
		{
			int64		this_day = julian - UNIX_EPOCH_JDATE;
			int			minute;

			if (!day_matches(spec, day, j2day(julian), month_days))
				continue;
			minute = find_minute(spec, this_day > from_day ? 0
								 : from - from_day * MINS_PER_HOUR * HOURS_PER_DAY);
			if (minute >= 0)
			{
				*next = this_day * SECS_PER_DAY + minute * SECS_PER_MINUTE;
				return true;
			}
		}
		day = 1;
		if (++month > MONTHS_PER_YEAR)
		{
			month = 1;
			year++;
		}
	}
	return false;
}

/* The span of a zone from a moment on: its offset, and where it ends. */
static void
find_span(pg_tz *zone, pg_time_t start, int64 *offset, int64 *end)
{
	long		before;
	long		after;
	int			before_isdst;
	int			after_isdst;
	pg_time_t	boundary;
	int			found = pg_next_dst_boundary(&start, &before, &before_isdst, &boundary,
											 &after, &after_isdst, zone);

	if (found < 0)
		elog(ERROR, "could not find the next change of time zone \"%s\"", pg_get_timezone_name(zone));
	*offset = before;
	*end = found > 0 ? boundary : PG_INT64_MAX;
}

/* The next tick by the fields of cron; all in seconds since 1970. */
static bool
next_by_clock(const JobqScheduleSpec *spec, pg_tz *zone, int64 after, int64 *next)
{
	int64		start = after - LOOK_BACK;
	int64		passed = PG_INT64_MIN;
	int64		from = PG_INT64_MAX;
	int64		local = 0;		/* the schedule's first time after "from" */

	for (;;)
	{
		int64		offset;
		int64		end;
		int64		first = Max(start, after + 1);	/* moment that counts */

		CHECK_FOR_INTERRUPTS();
		find_span(zone, start, &offset, &end);
		if (end > first)
		{
			/* what the clock has shown by the moment before */
			if (first > start)
				passed = Max(passed, first - 1 + offset);
			if (!spec->fixed)
				passed = first - 1 + offset;
			if (passed < from || passed >= local)
			{
				from = passed;
				if (!jobq_schedule_next_local(spec, from, &local))
					return false;
			}
			if (end == PG_INT64_MAX || local < end + offset)
			{
				*next = Max(local - offset, first);
				return true;
			}
		}
		passed = Max(passed, end - 1 + offset);
		start = end;
	}
}

/*
 * Find the first tick of a schedule after a time; false: no timestamp is so late.
 */
bool
jobq_schedule_next(const JobqScheduleSpec *spec, pg_tz *zone, TimestampTz after, TimestampTz *next)
{
	int64		seconds;

	if (spec->every != 0)
	{
		/* counted from 2000-01-01 UTC, which is zero */
		*next = (divide(after, spec->every) + 1) * spec->every;
		return IS_VALID_TIMESTAMP(*next);
	}
	if (!next_by_clock(spec, zone, divide(after, USECS_PER_SEC) + EPOCH_OFFSET, &seconds))
		return false;
	*next = (seconds - EPOCH_OFFSET) * USECS_PER_SEC;
	return IS_VALID_TIMESTAMP(*next);
}

/*
 * The last tick of a schedule that is not after a time; "from", if there is none
 * after that.  It takes a number of looks that grows with the logarithm of the time
 * between.
 */
TimestampTz
jobq_schedule_last(const JobqScheduleSpec *spec, pg_tz *zone, TimestampTz from, TimestampTz upto)
{
	TimestampTz last = from;
	TimestampTz end = upto;		/* no tick after this one */
	TimestampTz probe = from;
	TimestampTz next;

	for (;;)
	{
		CHECK_FOR_INTERRUPTS();
		if (jobq_schedule_next(spec, zone, probe, &next) && next <= upto)
		{
			last = next;
			if (!jobq_schedule_next(spec, zone, last, &next) || next > upto)
				return last;
		}
		else if (probe == last)
			return last;
		else
			end = probe;
		probe = last + (end - last) / 2;
	}
}

/*
 * Find the last tick of a schedule before a time; false: there is none, as far back as
 * timestamps go.  It looks back twice as far each time.
 */
bool
jobq_schedule_previous(const JobqScheduleSpec *spec, pg_tz *zone, TimestampTz before, TimestampTz *previous)
{
	int64		back = USECS_PER_HOUR;
	TimestampTz from;

	if (spec->every != 0)
	{
		*previous = divide(before - 1, spec->every) * spec->every;
		return IS_VALID_TIMESTAMP(*previous);
	}
	do
	{
		from = before - MIN_TIMESTAMP > back ? before - back : MIN_TIMESTAMP;
		*previous = jobq_schedule_last(spec, zone, from, before - 1);
		back *= 2;
	} while (*previous == from && from > MIN_TIMESTAMP);
	return *previous > from;
}

/*
 * Is a zone one of the time zone database?  pg_tzset() takes what POSIX specifies
 * too, where UTC+2 is two hours west of Greenwich.  That has a digit, so only
 * names with one are looked for: once in a process, for it is slow.
 */
static bool
has_name(pg_tz *zone)
{
	static List *known = NIL;
	const char *name = pg_get_timezone_name(zone);
	pg_tzenum  *zones;
	pg_tz	   *other;
	MemoryContext context;

	if (strpbrk(name, "0123456789") == NULL || list_member_ptr(known, zone))
		return true;
	zones = pg_tzenumerate_start();
	while ((other = pg_tzenumerate_next(zones)) != NULL && strcmp(pg_get_timezone_name(other), name) != 0)
		CHECK_FOR_INTERRUPTS();
	pg_tzenumerate_end(zones);
	if (other == NULL)
		return false;
	context = MemoryContextSwitchTo(TopMemoryContext);
	known = lappend(known, zone);
	MemoryContextSwitchTo(context);
	return true;
}

/*
 * Find a time zone, which stays valid as long as the process lives.  Where one is
 * chosen, it must be "named"; a schedule that has another goes on.
 */
pg_tz *
jobq_schedule_zone(const char *name, bool named)
{
	pg_tz	   *zone = pg_tzset(name);

	if (zone == NULL || !pg_tz_acceptable(zone) || (named && !has_name(zone)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("time zone \"%s\" not recognized", name),
				 errhint("Use a name of the view pg_timezone_names, such as Europe/Berlin or, for a clock that is two hours ahead of UTC, Etc/GMT-2.")));
	return zone;
}

PG_FUNCTION_INFO_V1(jobq_job_schedule_times);

/* job_schedule_times(schedule, timezone, after, n) */
Datum
jobq_job_schedule_times(PG_FUNCTION_ARGS)
{
	static const char *const names[] = {"schedule", "timezone", "after", "n"};
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobqScheduleSpec spec;
	pg_tz	   *zone;
	TimestampTz at;
	int32		n;

	for (int i = 0; i < lengthof(names); i++)
	{
		if (PG_ARGISNULL(i))
			jobq_error_null(names[i]);
	}
	jobq_schedule_parse(text_to_cstring(PG_GETARG_TEXT_PP(0)), &spec);
	zone = jobq_schedule_zone(text_to_cstring(PG_GETARG_TEXT_PP(1)), true);
	at = jobq_check_time(PG_GETARG_TIMESTAMPTZ(2), names[2]);
	n = PG_GETARG_INT32(3);
	if (n < 0 || n > JOBQ_MAX_SCHEDULE_TIMES)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"n\" is out of range"),
				 errhint("It is between 0 and %d.", JOBQ_MAX_SCHEDULE_TIMES)));

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	for (int i = 0; i < n && jobq_schedule_next(&spec, zone, at, &at); i++)
	{
		Datum		value = TimestampTzGetDatum(at);
		bool		null = false;

		CHECK_FOR_INTERRUPTS();
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &null);
	}
	return (Datum) 0;
}
