/*
 * schedule.h
 *	  Schedules: their language, and the times that they stand for.
 *
 * Nothing here reads a table or keeps anything.  docs/schedules.md is the
 * language for users.
 */
#ifndef JOBQ_SCHEDULE_H
#define JOBQ_SCHEDULE_H

#include "datatype/timestamp.h"
#include "pgtime.h"

#include "queue/queue.h"

#define JOBQ_MAX_SCHEDULE		1000	/* bytes */
#define JOBQ_MAX_SCHEDULE_TIMES 10000	/* that one call returns */

/*
 * A schedule that was read.  It has no pointers, and can be copied and kept.
 * Sets are bits: minute 0 is the lowest of "minutes", January is 1 << 1.
 */
typedef struct JobqScheduleSpec
{
	int64		every;			/* microseconds; 0: the fields below count */
	uint64		minutes;
	uint32		hours;
	uint32		days;			/* of the month */
	uint32		months;
	uint32		weekdays;		/* Sunday is 0 */
	uint64		nth_weekdays;	/* see JOBQ_NTH_WEEKDAY */
	bool		last_day;		/* of the month */
	bool		both;			/* day of month and day of week must hold,
								 * else one of them */
	bool		fixed;			/* neither minute nor hour begins with "*" */
} JobqScheduleSpec;

/* The bit of the nth weekday of a month, n being 1 to 5, or JOBQ_LAST_WEEKDAY. */
#define JOBQ_NTH_WEEKDAY(n, weekday)	(UINT64CONST(1) << (7 * (n) + (weekday)))
#define JOBQ_LAST_WEEKDAY				6

/* ----------------
 *		cron.c: the language
 * ----------------
 */
extern void jobq_schedule_parse(const char *schedule, JobqScheduleSpec *spec);

/* ----------------
 *		ticks.c: the times
 * ----------------
 */
extern bool jobq_schedule_next_local(const JobqScheduleSpec *spec, int64 after, int64 *next);
extern bool jobq_schedule_next(const JobqScheduleSpec *spec, pg_tz *zone, TimestampTz after,
							   TimestampTz *next);
extern TimestampTz jobq_schedule_last(const JobqScheduleSpec *spec, pg_tz *zone, TimestampTz from,
									  TimestampTz upto);
extern bool jobq_schedule_previous(const JobqScheduleSpec *spec, pg_tz *zone, TimestampTz before,
								   TimestampTz *previous);
extern pg_tz *jobq_schedule_zone(const char *name, bool named);

#endif							/* JOBQ_SCHEDULE_H */
