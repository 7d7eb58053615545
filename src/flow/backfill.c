/*
 * backfill.c
 *	  Backfills: flows with a member for each time of a schedule in a range.
 *
 * A member is the schedule's job, as a tick would submit it.  Its row names the schedule
 * and the time, as that of a tick's job does; a time that has such a job is there, and left
 * out unless it is to be run again.  Times that have not come, or are due, are left to the
 * background worker.  The members' ids grow in the order in which they are to begin, in
 * which the flow lets them in.
 *
 * Locks: the schedule's row, before jobs are looked for, until the transaction ends.  So
 * neither a tick nor another backfill runs one of its times meanwhile, and who comes after
 * it finds its members.
 *
 * A crash leaves the flow with all its members, or nothing.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/rangetypes.h"

#include "flow/document.h"
#include "schedule/schedule.h"

/* Which times that are there are run again */
typedef enum Again
{
	AGAIN_NONE,
	AGAIN_FAILED,
	AGAIN_ALL
} Again;

static const char *const again_names[] = {"none", "failed", "all"};

/* What a member does not have of the schedule's job: it is one of many, and starts in its turn */
static const char *const dropped_keys[] = {"name", "run_in", "unique_key", "unique_for", "on_conflict"};

typedef struct Backfill
{
	JobqCall   *call;
	TupleTableSlot *row;		/* of the schedule */
	JobqScheduleSpec spec;
	pg_tz	   *zone;
	Jsonb	   *job;
	bool		uses_previous;
	int			there;			/* times that are left out */
	int			n;
	TimestampTz *times;
} Backfill;

/* Which times are run again, by its name. */
static Again
find_again(const char *name)
{
	for (int i = 0; i < lengthof(again_names); i++)
	{
		if (strcmp(again_names[i], name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized value for \"again\": \"%s\"", name),
			 errhint("Valid values are \"none\", \"failed\" and \"all\".")));
}

/* The bounds of a range, both inclusive, if it has any time; false: it has none. */
static bool
read_range(FunctionCallInfo fcinfo, int argno, TimestampTz *first, TimestampTz *last)
{
	RangeType  *range = PG_GETARG_RANGE_P(argno);
	RangeBound	lower;
	RangeBound	upper;
	bool		empty;

	range_deserialize(range_get_typcache(fcinfo, RangeTypeGetOid(range)), range, &lower, &upper, &empty);
	if (empty)
		return false;
	if (lower.infinite || upper.infinite || TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(lower.val)) ||
		TIMESTAMP_NOT_FINITE(DatumGetTimestampTz(upper.val)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"during\" must begin and end at a time"),
				 errhint("A backfill ends when all its times have been run; the schedule goes on from there.")));
	*first = DatumGetTimestampTz(lower.val) + (lower.inclusive ? 0 : 1);
	*last = DatumGetTimestampTz(upper.val) - (upper.inclusive ? 0 : 1);
	return true;
}

/* The schedule, locked. */
static void
read_schedule(Backfill *b, Datum name)
{
	bool		isnull;

	b->row = jobq_lock_schedule(b->call, name);
	if (b->row == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("schedule \"%s\" does not exist", TextDatumGetCString(name))));
	jobq_schedule_parse(jobq_attr_cstring(b->row, SCHEDULE_SCHEDULE), &b->spec);
	b->zone = jobq_schedule_zone(jobq_attr_cstring(b->row, SCHEDULE_TIMEZONE), false);
	b->job = DatumGetJsonbPCopy(slot_getattr(b->row, SCHEDULE_JOB, &isnull));
	b->uses_previous = jobq_uses_time(b->job, TIME_PREVIOUS);
	if (jobq_is_deep(&b->job->root))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the job of schedule \"%s\" is nested more than %d deep", TextDatumGetCString(name), JOBQ_MAX_DEPTH)));
}

/* A job that builds upon what the one before it has left must not run before that. */
static void
require_any_order(const Backfill *b)
{
	bool		queue = jobq_attr_int16(b->row, SCHEDULE_OVERLAP) == OVERLAP_QUEUE;

	if (b->uses_previous || queue)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the newest times of schedule \"%s\" cannot be run first", jobq_attr_cstring(b->row, SCHEDULE_NAME)),
				 queue ? errdetail("Its jobs run one after the other (\"overlap\" \"queue\").")
				 : errdetail("Its job refers to the time before its own, {\"$time\": \"previous\"}."),
				 errhint("Leave out \"newest_first\".")));
}

/* Is a time to be run, by the jobs that it has had? */
static bool
is_wanted(const Backfill *b, TimestampTz at, Again again)
{
	Datum		keys[2] = {Int64GetDatum(jobq_attr_int64(b->row, SCHEDULE_ID)), TimestampTzGetDatum(at)};
	JobqScan   *scan = jobq_scan_begin(b->call, JOBQ_JOB, INDEX_THIRD, 2, keys, NULL);
	TupleTableSlot *job;
	int64		last = 0;
	int			outcome = 0;	/* of the last */
	bool		undecided = false;

	while ((job = jobq_scan_next(scan)) != NULL)
	{
		undecided |= slot_attisnull(job, JOB_OUTCOME);
		if (jobq_attr_int64(job, JOB_ID) < last)
			continue;
		last = jobq_attr_int64(job, JOB_ID);
		outcome = jobq_attr_int16(job, JOB_OUTCOME);
	}
	jobq_scan_end(scan);
	return last == 0 || again == AGAIN_ALL ||
		(again == AGAIN_FAILED && !undecided && (outcome & OUTCOME_HURTS) != 0);
}

/* Find the times that are to be run, the earliest first. */
static void
find_times(Backfill *b, TimestampTz first, TimestampTz last, Again again)
{
	TimestampTz at = first - 1;
	int			room = 64;
	int			seen = 0;

	last = Min(last, b->call->now);
	if (!slot_attisnull(b->row, SCHEDULE_NEXT_AT))
		last = Min(last, jobq_attr_int64(b->row, SCHEDULE_NEXT_AT) - 1);
	b->times = palloc(room * sizeof(TimestampTz));
	while (jobq_schedule_next(&b->spec, b->zone, at, &at) && at <= last)
	{
		CHECK_FOR_INTERRUPTS();
		if (++seen > JOBQ_MAX_BACKFILL)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("schedule \"%s\" has more than %d times in that range",
							jobq_attr_cstring(b->row, SCHEDULE_NAME), JOBQ_MAX_BACKFILL),
					 errhint("Take a smaller range; job_schedule_times shows the times of a schedule.")));
		if (!is_wanted(b, at, again))
		{
			b->there++;
			continue;
		}
		if (b->n == room)
			b->times = repalloc(b->times, (room *= 2) * sizeof(TimestampTz));
		b->times[b->n++] = at;
	}
}

/* Note that there is a reference, for jobq_walk_references(). */
static void
note_reference(const JobqReference *r, const JobqTrail *trail, void *arg)
{
	*(bool *) arg = true;
}

/* Push a string with its key. */
static void
push_string(JsonbParseState **state, const char *key, const char *string)
{
	JsonbValue	v = {.type = jbvString};

	v.val.string.val = unconstify(char *, string);
	v.val.string.len = strlen(string);
	jobq_push_pair(state, key, &v);
}

/* Push a number with its key. */
static void
push_number(JsonbParseState **state, const char *key, int64 number)
{
	JsonbValue	v = {.type = jbvNumeric};

	v.val.numeric = int64_to_numeric(number);
	jobq_push_pair(state, key, &v);
}

/* Is this a key that a member does not have? */
static bool
is_dropped(const char *key)
{
	for (int i = 0; i < lengthof(dropped_keys); i++)
	{
		if (strcmp(dropped_keys[i], key) == 0)
			return true;
	}
	return false;
}

/*
 * Push the args of the schedule's job, which are plain JSON: what would be a reference in
 * those of a member stands for itself.
 */
static void
push_args(JsonbParseState **state, JsonbValue *args)
{
	static const JobqTrail root = {0};
	JsonbParseState *literal = NULL;
	JsonbValue *wrapped;
	bool		refers = false;

	if (args->type == jbvBinary)
		jobq_walk_references(args->val.binary.data, &root, note_reference, &refers);
	if (!refers)
	{
		jobq_push_pair(state, "args", args);
		return;
	}
	pushJsonbValue(&literal, WJB_BEGIN_OBJECT, NULL);
	jobq_push_pair(&literal, "$literal", args);
	wrapped = pushJsonbValue(&literal, WJB_END_OBJECT, NULL);
	jobq_push_pair(state, "args", wrapped);
}

/* Push the member for a time. */
static void
push_member(const Backfill *b, JsonbParseState **state, TimestampTz at)
{
	char	   *time = jobq_iso_time(at);
	TimestampTz previous;
	bool		has_previous = b->uses_previous && jobq_schedule_previous(&b->spec, b->zone, at, &previous);
	Jsonb	   *job = jobq_put_times(b->job, time, has_previous ? jobq_iso_time(previous) : NULL);
	JsonbIterator *it = JsonbIteratorInit(&job->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = jobq_copy_string(&v);
		else if (token == WJB_VALUE && strcmp(key, "args") == 0)
			push_args(state, &v);
		else if (token == WJB_VALUE && !is_dropped(key))
			jobq_push_pair(state, key, &v);
	}
	push_string(state, "name", time);
	push_string(state, "scheduled_for", time);
	push_number(state, "schedule_id", jobq_attr_int64(b->row, SCHEDULE_ID));
	pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/* The flow. */
static Jsonb *
make_flow(const Backfill *b, bool newest_first, int max_running)
{
	JsonbParseState *state = NULL;
	JsonbValue	jobs = {.type = jbvString};
	JsonbValue	queue;
	char	   *name = psprintf("backfill of %s", jobq_attr_cstring(b->row, SCHEDULE_NAME));

	if ((int64) b->n * VARSIZE(b->job) > JOBQ_MAX_FLOW_MB * INT64CONST(1024) * 1024)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%d times the job of schedule \"%s\" are more than a flow can have, %d MB",
						b->n, jobq_attr_cstring(b->row, SCHEDULE_NAME), JOBQ_MAX_FLOW_MB),
				 errhint("Take a smaller range.")));
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (strlen(name) <= JOBQ_MAX_NAME)
		push_string(&state, "name", name);
	if (getKeyJsonValueFromContainer(&b->job->root, "queue", 5, &queue) != NULL)
		jobq_push_pair(&state, "queue", &queue);
	push_number(&state, "max_running", max_running);
	jobs.val.string.val = "jobs";
	jobs.val.string.len = strlen("jobs");
	pushJsonbValue(&state, WJB_KEY, &jobs);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < b->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		push_member(b, &state, b->times[newest_first ? b->n - 1 - i : i]);
	}
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

PG_FUNCTION_INFO_V1(jobq_job_backfill);

/* job_backfill(schedule, during, newest_first, max_running, again) */
Datum
jobq_job_backfill(PG_FUNCTION_ARGS)
{
	static const char *const arguments[] = {"schedule", "during", "newest_first", "max_running", "again"};
	JobqCall	call;
	Backfill	b = {&call};
	JobqSubmission s;
	TimestampTz first;
	TimestampTz last;
	bool		any;
	bool		newest_first;
	int			max_running;
	Again		again;

	for (int i = 0; i < lengthof(arguments); i++)
	{
		if (PG_ARGISNULL(i))
			jobq_error_null(arguments[i]);
	}
	any = read_range(fcinfo, 1, &first, &last);
	newest_first = PG_GETARG_BOOL(2);
	max_running = jobq_check_count(fcinfo, 3, arguments[3]);
	again = find_again(text_to_cstring(PG_GETARG_TEXT_PP(4)));

	jobq_enter(&call, "job_backfill()", true);
	read_schedule(&b, PG_GETARG_DATUM(0));
	if (newest_first)
		require_any_order(&b);
	if (any)
		find_times(&b, first, last, again);
	if (b.n > 0)
		jobq_submit_flow(&call, make_flow(&b, newest_first, max_running), &s);
	else
		ereport(NOTICE,
				(errmsg("schedule \"%s\" has no times in that range that are to be run", jobq_attr_cstring(b.row, SCHEDULE_NAME)),
				 b.there > 0 ? errdetail_plural("%d of them has a job.", "%d of them have a job each.", b.there, b.there) : 0));
	jobq_slot_free(b.row);
	jobq_close_call(&call);
	if (b.n == 0)
		PG_RETURN_NULL();
	PG_RETURN_INT64(s.id);
}
