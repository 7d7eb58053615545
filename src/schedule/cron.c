/*
 * cron.c
 *	  The language of schedules: five fields of cron, aliases, "every <interval>".
 *
 * The text is cut at blanks into five fields, and each field is read from left
 * to right, item by item.  An item adds bits to the set of its field; a table
 * says what differs from field to field.  What a field says is checked as it is
 * read.  At the end it is checked that the fields together name a day that
 * exists, so that each schedule that was accepted comes again and again.
 */
#include "postgres.h"

#include "utils/datetime.h"
#include "utils/timestamp.h"

#include "schedule/schedule.h"

#define BLANKS " \t\n\r"

typedef enum FieldKind
{
	FIELD_MINUTE,
	FIELD_HOUR,
	FIELD_DAY,
	FIELD_MONTH,
	FIELD_WEEKDAY
} FieldKind;

#define NUM_FIELDS (FIELD_WEEKDAY + 1)

typedef struct Field
{
	const char *name;
	int			min;
	int			max;
	const char *values;			/* names, three letters each, from min on */
	const char *hint;
} Field;

static const Field fields[NUM_FIELDS] = {
	{"minute", 0, 59, "",
	"It is a list of numbers from 0 to 59, ranges (0-29) and steps (*/15, 5-59/10), or \"*\"."},
	{"hour", 0, 23, "",
	"It is a list of numbers from 0 to 23, ranges (8-17) and steps (*/2, 8-18/2), or \"*\"."},
	{"day of month", 1, 31, "",
	"It is a list of numbers from 1 to 31, ranges (1-7), steps (*/2) and \"L\" (the last day), or \"*\"."},
	{"month", 1, 12, "janfebmaraprmayjunjulaugsepoctnovdec",
	"It is a list of numbers from 1 to 12 or names (jan), ranges (jan-mar) and steps (*/3), or \"*\"."},
	{"day of week", 0, 7, "sunmontuewedthufrisat",
		"It is a list of numbers from 0 to 7 (0 and 7 are Sunday) or names (mon), ranges (mon-fri), "
	"steps (*/2), \"5#2\" (the second Friday) and \"5L\" (the last one), or \"*\"."},
};

static const struct
{
	const char *name;
	const char *meaning;
}			aliases[] = {
	{"@hourly", "0 * * * *"},
	{"@daily", "0 0 * * *"},
	{"@midnight", "0 0 * * *"},
	{"@weekly", "0 0 * * 0"},
	{"@monthly", "0 0 1 * *"},
	{"@yearly", "0 0 1 1 *"},
	{"@annually", "0 0 1 1 *"},
};

/* A field while it is read */
typedef struct FieldReader
{
	const char *schedule;		/* all of it, for messages */
	FieldKind	kind;
	const char *text;			/* of the field */
	const char *rest;			/* what is still to be read */
	uint64		set;			/* of what has been read */
} FieldReader;

/* The schedule is wrong as a whole. */
static void
error_schedule(const char *schedule, const char *detail, const char *hint)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("invalid schedule: \"%s\"", schedule),
			 errdetail_internal("%s", detail),
			 errhint("%s", hint)));
}

/* The field that is read is wrong. */
static void
error_field(FieldReader *reader, const char *reason)
{
	const Field *field = &fields[reader->kind];

	error_schedule(reader->schedule,
				   psprintf("The %s field is \"%s\": %s.", field->name, reader->text, reason),
				   field->hint);
}

/* The same where what comes next is not what can stand there. */
static void
error_rest(FieldReader *reader)
{
	const char *rest = reader->rest;

	if (*rest == '\0')
		error_field(reader, "something is missing at the end");
	/* what stands between the characters that mean something, or one of these */
	error_field(reader, psprintf("\"%.*s\" is unexpected",
								 (int) Max(strcspn(rest, "*,-/#"), 1), rest));
}

/* Read a number within bounds. */
static int
read_number(FieldReader *reader, const char *what, int min, int max)
{
	size_t		len = strspn(reader->rest, "0123456789");
	int			number;

	if (len == 0)
		error_rest(reader);
	/* one that is too long is out of bounds, too */
	number = len <= 4 ? atoi(reader->rest) : -1;
	if (number < min || number > max)
		error_field(reader, psprintf("%s%.*s is not between %d and %d", what, (int) len,
									 reader->rest, min, max));
	reader->rest += len;
	return number;
}

/* Read a number or a name of the field. */
static int
read_value(FieldReader *reader)
{
	const Field *field = &fields[reader->kind];

	for (int i = 0; field->values[3 * i] != '\0'; i++)
	{
		if (pg_strncasecmp(reader->rest, &field->values[3 * i], 3) == 0)
		{
			reader->rest += 3;
			return field->min + i;
		}
	}
	return read_number(reader, "", field->min, field->max);
}

/* Step over a character, in either case, if it comes next. */
static bool
read_char(FieldReader *reader, char c)
{
	if (pg_toupper((unsigned char) *reader->rest) != c)
		return false;
	reader->rest++;
	return true;
}

/* Read one item of the list that a field is. */
static void
read_item(FieldReader *reader, JobqScheduleSpec *spec)
{
	const Field *field = &fields[reader->kind];
	bool		weekday = reader->kind == FIELD_WEEKDAY;
	bool		range = true;
	int			first = field->min;
	int			last = field->max;
	int			step = 1;

	/* the last day of the month */
	if (reader->kind == FIELD_DAY && read_char(reader, 'L'))
	{
		spec->last_day = true;
		return;
	}

	/* all values, a range of them, or one */
	if (!read_char(reader, '*'))
	{
		first = read_value(reader);
		range = read_char(reader, '-');
		last = range ? read_value(reader) : first;
		/* Sunday ends a week, too */
		if (weekday && range && last == 0 && first > 0)
			last = 7;
		if (last < first)
			error_field(reader, "a range ends before it begins");
	}

	/* the last or nth of a weekday */
	if (weekday && !range && read_char(reader, 'L'))
	{
		spec->nth_weekdays |= JOBQ_NTH_WEEKDAY(JOBQ_LAST_WEEKDAY, first % 7);
		return;
	}
	if (weekday && !range && read_char(reader, '#'))
	{
		spec->nth_weekdays |= JOBQ_NTH_WEEKDAY(read_number(reader, "#", 1, 5), first % 7);
		return;
	}

	/* every so many of a range */
	if (range && read_char(reader, '/'))
		step = read_number(reader, "step ", 1, field->max - field->min + (weekday ? 0 : 1));
	for (int value = first; value <= last; value += step)
		reader->set |= UINT64CONST(1) << (weekday ? value % 7 : value);
}

/* Read a field; returns the set of its values. */
static uint64
read_field(const char *schedule, FieldKind kind, const char *text, JobqScheduleSpec *spec)
{
	FieldReader reader;

	reader.schedule = schedule;
	reader.kind = kind;
	reader.text = text;
	reader.rest = text;

	reader.set = 0;
	do
	{
		read_item(&reader, spec);
	} while (read_char(&reader, ','));
	if (*reader.rest != '\0')
		error_rest(&reader);
	return reader.set;
}

/*
 * Check that there are such days.  Where either field makes a day, each must be
 * able to; a weekday always is, for there are five of each in some months.
 */
static void
check_days(const char *schedule, JobqScheduleSpec *spec)
{
	JobqScheduleSpec days = *spec;
	int64		next;

	if (!spec->both)
	{
		days.weekdays = 0;
		days.nth_weekdays = 0;
	}
	if (!jobq_schedule_next_local(&days, 0, &next))
		error_schedule(schedule, "No day has such a day of month, month and day of week.",
					   "Correct the date: February has 29 days at most, and April, June, September and November have 30.");
}

/* Read five fields of cron. */
static void
parse_fields(const char *schedule, const char *meaning, JobqScheduleSpec *spec)
{
	char	   *text[NUM_FIELDS];
	int			n = 0;
	char	   *copy = pstrdup(meaning);

	for (char *p = copy + strspn(copy, BLANKS); *p != '\0'; p += strspn(p, BLANKS))
	{
		size_t		len = strcspn(p, BLANKS);

		if (n < NUM_FIELDS)
			text[		n] = pnstrdup(p, len);

		n++;
		p += len;
	}
	pfree(copy);
	if (n != NUM_FIELDS)
		error_schedule(schedule, psprintf("The number of its fields is %d, not 5.", n),
					   "A schedule has five fields (minute, hour, day of month, month, day of week), "
					   "or is an alias such as @daily, or \"every\" and an interval.");

	spec->minutes = read_field(schedule, FIELD_MINUTE, text[FIELD_MINUTE], spec);
	spec->hours = read_field(schedule, FIELD_HOUR, text[FIELD_HOUR], spec);
	spec->days = read_field(schedule, FIELD_DAY, text[FIELD_DAY], spec);
	spec->months = read_field(schedule, FIELD_MONTH, text[FIELD_MONTH], spec);
	spec->weekdays = read_field(schedule, FIELD_WEEKDAY, text[FIELD_WEEKDAY], spec);
	/* these three as in Debian's cron, by the first character alone */
	spec->both = text[FIELD_DAY][0] == '*' || text[FIELD_WEEKDAY][0] == '*';
	spec->fixed = text[FIELD_MINUTE][0] != '*' && text[FIELD_HOUR][0] != '*';

	check_days(schedule, spec);
}

/* Read one of the names that stand for five fields. */
static void
parse_alias(const char *schedule, const char *name, JobqScheduleSpec *spec)
{
	size_t		len = strcspn(name, BLANKS);

	for (int i = 0; i < lengthof(aliases); i++)
	{
		if (strlen(aliases[i].name) == len && pg_strncasecmp(name, aliases[i].name, len) == 0 &&
			name[len + strspn(name + len, BLANKS)] == '\0')
		{
			parse_fields(schedule, aliases[i].meaning, spec);
			return;
		}
	}
	error_schedule(schedule, "There is no such alias.",
				   "Aliases are @hourly, @daily, @midnight, @weekly, @monthly, @yearly and @annually.");
}

/* Read an interval as its type does, but without an error; false: it is none. */
static bool
read_interval(const char *string, Interval *interval)
{
	struct pg_itm_in itm = {0};
	char		work[JOBQ_MAX_SCHEDULE + MAXDATEFIELDS];
	char	   *field[MAXDATEFIELDS];
	int			ftype[MAXDATEFIELDS];
	int			nfields;
	int			dtype;
	int			rc;

	rc = ParseDateTime(string, work, sizeof(work), field, ftype, MAXDATEFIELDS, &nfields);
	if (rc == 0)
		rc = DecodeInterval(field, ftype, nfields, INTERVAL_FULL_RANGE, &dtype, &itm);
	if (rc == DTERR_BAD_FORMAT)
		rc = DecodeISO8601Interval(pstrdup(string), &dtype, &itm);
	return rc == 0 && dtype == DTK_DELTA && itmin2interval(&itm, interval) == 0;
}

/* Read what follows "every". */
static void
parse_every(const char *schedule, const char *string, JobqScheduleSpec *spec)
{
	Interval	interval;

	string += strspn(string, BLANKS);
	if (!read_interval(string, &interval))
		error_schedule(schedule, psprintf("\"%s\" is not an interval.", string),
					   "\"every\" is followed by an interval, such as \"every 15 minutes\".");
	if (interval.month != 0)
		error_schedule(schedule, "Months and years are of different lengths.",
					   "Use five fields: \"0 0 1 * *\" is the first of each month.");
	spec->every = jobq_interval_micros(&interval);
	if (spec->every == PG_INT64_MAX)
		error_schedule(schedule, "The interval is out of range.",
					   psprintf("The longest is \"every %d days\".", (int) JOBQ_MAX_INTERVAL_DAYS));
	if (spec->every < USECS_PER_SEC)
		error_schedule(schedule, "The interval is shorter than a second.",
					   "The shortest is \"every 1 second\".");
}

/* Read a schedule, or raise an error that says where it is wrong. */
void
jobq_schedule_parse(const char *schedule, JobqScheduleSpec *spec)
{
	const char *start = schedule + strspn(schedule, BLANKS);

	memset(spec, 0, sizeof(JobqScheduleSpec));
	if (strlen(schedule) > JOBQ_MAX_SCHEDULE)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the schedule is too long"),
				 errhint("It can have %d bytes at most.", JOBQ_MAX_SCHEDULE)));
	if (*start == '@')
		parse_alias(schedule, start, spec);
	else if (pg_strncasecmp(start, "every", 5) == 0 && strchr(BLANKS, start[5]) != NULL)
		parse_every(schedule, start + 5, spec);
	else
		parse_fields(schedule, start, spec);
}
