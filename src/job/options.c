/*
 * options.c
 *	  The options of a submission, in one table.
 *
 * The table names the arguments of job_submit in their order, which are also the
 * keys of an element of job_submit_many: how each is read and checked, and in
 * which column of table job it is stored.  Values are kept as they are stored, in
 * the row that will be inserted; what has no column is kept behind them.  To add
 * one is to add a line here, and the column.
 *
 * What JSON has is made what the argument would have been, so that there is one
 * place where a value is checked.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/datetime.h"
#include "utils/datum.h"

#include "job/job.h"

/* How a value is read and checked, and as what it is stored */
typedef enum OptionType
{
	OPTION_NAME,				/* text */
	OPTION_QUEUE,				/* text */
	OPTION_JSON,				/* jsonb */
	OPTION_PRIORITY,			/* int2 */
	OPTION_RULE,				/* int2 */
	OPTION_CONFLICT,			/* a JobqConflict; not stored */
	OPTION_COUNT,				/* int4, above zero */
	OPTION_PERIOD,				/* int8, microseconds above zero */
	OPTION_DELAY,				/* the same, but can be zero */
	OPTION_TIME,				/* timestamptz */
	OPTION_JOB,					/* int8 */
	OPTION_JOBS,				/* depends_on; not stored here */
	OPTION_BOOL,				/* bool */
	OPTION_LABELS				/* text[] */
} OptionType;

typedef struct Option
{
	const char *name;
	OptionType	type;
	int			column;			/* of table job, or behind them */
	bool		required;		/* the argument must not be NULL */
} Option;

int			jobq_max_args_size = JOBQ_DEFAULT_MAX_ARGS_KB;

static const Option options[] = {
	{"kind", OPTION_NAME, JOB_KIND, true},
	{"args", OPTION_JSON, JOB_ARGS, true},
	{"queue", OPTION_QUEUE, JOB_QUEUE, true},
	{"priority", OPTION_PRIORITY, JOB_PRIORITY},
	{"run_at", OPTION_TIME, JOB_RUN_AT},
	{"depends_on", OPTION_JOBS, 0},
	{"trigger_rule", OPTION_RULE, JOB_RULE},
	{"quorum", OPTION_COUNT, JOB_QUORUM},
	{"max_attempts", OPTION_COUNT, JOB_MAX_ATTEMPTS},
	{"max_lost", OPTION_COUNT, JOB_MAX_LOST},
	{"backoff", OPTION_PERIOD, JOB_BACKOFF},
	{"timeout", OPTION_DELAY, JOB_TIMEOUT},
	{"lease", OPTION_PERIOD, JOB_LEASE},
	{"expires_at", OPTION_TIME, JOB_EXPIRES_AT},
	{"parent", OPTION_JOB, JOB_PARENT},
	{"tags", OPTION_JSON, JOB_TAGS},
	{"notify", OPTION_BOOL, JOB_NOTIFY},
	{"unique_key", OPTION_NAME, JOB_UNIQUE_KEY},
	{"unique_for", OPTION_PERIOD, JOB_UNIQUE_FOR},
	{"on_conflict", OPTION_CONFLICT, SUBMISSION_ON_CONFLICT},
	{"hold", OPTION_BOOL, SUBMISSION_HOLD},
	{"manual", OPTION_BOOL, JOB_MANUAL},
	{"partition", OPTION_NAME, JOB_PARTITION},
	{"requires", OPTION_LABELS, JOB_REQUIRES},
	{"affinity", OPTION_NAME, JOB_AFFINITY},
	{"flow", OPTION_JOB, JOB_FLOW},
	{"name", OPTION_NAME, JOB_NAME},
	{"undo", OPTION_JSON, JOB_UNDO},
	{"run_in", OPTION_DELAY, SUBMISSION_RUN_IN},
};

/* An option by name, or NULL. */
static const Option *
find_option(const char *name)
{
	for (int i = 0; i < lengthof(options); i++)
	{
		/* most differ there */
		if (options[i].name[0] == name[0] && strcmp(options[i].name, name) == 0)
			return &options[i];
	}
	return NULL;
}

/* The name of an option, by its number from 0 on; NULL: there are no more. */
const char *
jobq_option_name(int i)
{
	return i < lengthof(options) ? options[i].name : NULL;
}

/* Is this the name of an option? */
bool
jobq_is_option(const char *name)
{
	return find_option(name) != NULL;
}

/* The defaults of job_submit's arguments. */
void
jobq_submission_init(JobqSubmission *s)
{
	memset(s, 0, sizeof(JobqSubmission));
	s->queue = "default";
	jobq_set(&s->row, JOB_QUEUE, CStringGetTextDatum(s->queue));
	jobq_set(&s->row, JOB_PRIORITY, Int16GetDatum(0));
	jobq_set(&s->row, JOB_RULE, Int16GetDatum(RULE_ALL_SUCCESS));
	jobq_set(&s->row, JOB_NOTIFY, BoolGetDatum(false));
	jobq_set(&s->row, JOB_MANUAL, BoolGetDatum(false));
}

/* Check and keep a value, which is of the argument's type. */
static void
set_option(JobqSubmission *s, const Option *option, Datum value)
{
	char	   *string = NULL;

	switch (option->type)
	{
		case OPTION_NAME:
			string = TextDatumGetCString(value);
			jobq_check_name(string, option->name);
			if (option->column == JOB_NAME)
				s->name = string;
			else if (option->column == JOB_UNIQUE_KEY)
				s->unique_key = string;
			else if (option->column == JOB_PARTITION)
				s->partition_id = jobq_partition_id(string);
			else if (option->column == JOB_AFFINITY)
				s->affinity_id = jobq_name_id(string);
			value = CStringGetTextDatum(string);
			break;
		case OPTION_QUEUE:
			s->queue = TextDatumGetCString(value);
			jobq_check_queue_name(s->queue);
			value = CStringGetTextDatum(s->queue);
			break;
		case OPTION_JSON:
			value = JsonbPGetDatum(DatumGetJsonbP(value));
			break;
		case OPTION_PRIORITY:
			if (DatumGetInt32(value) < PG_INT16_MIN || DatumGetInt32(value) > PG_INT16_MAX)
				ereport(ERROR,
						(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
						 errmsg("\"%s\" is out of range", option->name),
						 errhint("It is between %d and %d.", PG_INT16_MIN, PG_INT16_MAX)));
			value = Int16GetDatum(DatumGetInt32(value));
			break;
		case OPTION_RULE:
			value = Int16GetDatum(jobq_find_rule(TextDatumGetCString(value)));
			break;
		case OPTION_CONFLICT:
			value = Int16GetDatum(jobq_find_conflict(TextDatumGetCString(value)));
			break;
		case OPTION_COUNT:
			jobq_check_positive(DatumGetInt32(value), option->name);
			break;
		case OPTION_PERIOD:
		case OPTION_DELAY:
			value = Int64GetDatum(jobq_interval(DatumGetIntervalP(value), option->name,
												option->type == OPTION_DELAY));
			break;
		case OPTION_TIME:
			value = TimestampTzGetDatum(jobq_check_time(DatumGetTimestampTz(value), option->name));
			break;
		case OPTION_JOB:
		case OPTION_BOOL:
			break;
		case OPTION_LABELS:
			/* an empty set is none, whatever was read before */
			if (ARR_NDIM(DatumGetArrayTypeP(value)) == 0)
			{
				s->row.given[option->column - 1] = false;
				return;
			}
			break;
		case OPTION_JOBS:
			elog(ERROR, "\"%s\" is not a single value", option->name);
	}
	jobq_set(&s->row, option->column, value);
}

/* depends_on as an argument: an array of ids. */
static void
read_ids(JobqSubmission *s, FunctionCallInfo fcinfo, int argno)
{
	Datum	   *values;
	bool	   *nulls;

	s->nupstream = jobq_check_array(fcinfo, argno, options[argno].name, INT8OID, false, &values, &nulls);
	s->upstream = palloc(Max(s->nupstream, 1) * sizeof(int64));
	for (int i = 0; i < s->nupstream; i++)
		s->upstream[i] = DatumGetInt64(values[i]);
}

/* Read the arguments of job_submit, NULL being the default. */
void
jobq_read_arguments(FunctionCallInfo fcinfo, JobqSubmission *s)
{
	jobq_submission_init(s);
	for (int i = 0; i < lengthof(options); i++)
	{
		if (PG_ARGISNULL(i))
		{
			if (options[i].required)
				jobq_error_null(options[i].name);
		}
		else if (options[i].type == OPTION_JOBS)
			read_ids(s, fcinfo, i);
		else if (options[i].type == OPTION_LABELS)
			set_option(s, &options[i], jobq_check_label_set(fcinfo, i, options[i].name));
		else
			set_option(s, &options[i], PG_GETARG_DATUM(i));
	}
}

/* A string. */
static char *
string_value(const char *key, JsonbValue *v)
{
	if (v->type != jbvString)
		jobq_error_must(key, "be a string");
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* A whole number. */
static int64
integer_value(const char *key, JsonbValue *v)
{
	Datum		number;

	if (v->type != jbvNumeric)
		jobq_error_must(key, "be a whole number");
	number = NumericGetDatum(v->val.numeric);
	if (!DatumGetBool(DirectFunctionCall2(numeric_eq, number,
										  DirectFunctionCall2(numeric_trunc, number, Int32GetDatum(0)))))
		jobq_error_must(key, "be a whole number");
	return DatumGetInt64(DirectFunctionCall1(numeric_int8, number));
}

/* A whole number that fits into an int. */
static int32
int_value(const char *key, JsonbValue *v)
{
	int64		n = integer_value(key, v);

	if (n < PG_INT32_MIN || n > PG_INT32_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("\"%s\" is out of range", key)));
	return (int32) n;
}

/* A string, as an input function of a type with a modifier reads it. */
static Datum
input_value(const char *key, JsonbValue *v, PGFunction input)
{
	return DirectFunctionCall3(input, CStringGetDatum(string_value(key, v)),
							   ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
}

/* depends_on in JSON: an array of ids and names. */
static void
read_ids_and_names(JobqSubmission *s, const char *key, JsonbValue *v)
{
	JsonbContainer *array;
	int			n;

	if (v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data) ||
		JsonContainerIsScalar(v->val.binary.data))
		jobq_error_must(key, "be an array of ids and names");
	array = v->val.binary.data;
	n = JsonContainerSize(array);
	s->upstream = palloc(Max(n, 1) * sizeof(int64));
	s->names = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(array, i);

		if (item->type == jbvString)
			s->names[s->nnames++] = string_value(key, item);
		else if (item->type == jbvNumeric)
			s->upstream[s->nupstream++] = integer_value(key, item);
		else
			jobq_error_must(key, "be an array of ids and names");
	}
}

/* An array of strings, as labels. */
static Datum
labels_value(const char *key, JsonbValue *v)
{
	Datum	   *values;
	int			n;

	if (v->type != jbvBinary || !JsonContainerIsArray(v->val.binary.data) ||
		JsonContainerIsScalar(v->val.binary.data))
		jobq_error_must(key, "be an array of strings");
	n = JsonContainerSize(v->val.binary.data);
	values = palloc(Max(n, 1) * sizeof(Datum));
	for (int i = 0; i < n; i++)
	{
		JsonbValue *item = getIthJsonbValueFromContainer(v->val.binary.data, i);

		if (item->type != jbvString)
			jobq_error_must(key, "be an array of strings");
		values[i] = CStringGetTextDatum(string_value(key, item));
	}
	return jobq_label_set(n, values, key);
}

/* A value in JSON as the argument that it stands for. */
static Datum
json_argument(const Option *option, JsonbValue *v)
{
	switch (option->type)
	{
		case OPTION_NAME:
		case OPTION_QUEUE:
		case OPTION_RULE:
		case OPTION_CONFLICT:
			return CStringGetTextDatum(string_value(option->name, v));
		case OPTION_JSON:
			return JsonbPGetDatum(JsonbValueToJsonb(v));
		case OPTION_PRIORITY:
		case OPTION_COUNT:
			return Int32GetDatum(int_value(option->name, v));
		case OPTION_PERIOD:
		case OPTION_DELAY:
			return input_value(option->name, v, interval_in);
		case OPTION_TIME:
			return input_value(option->name, v, timestamptz_in);
		case OPTION_JOB:
			return Int64GetDatum(integer_value(option->name, v));
		case OPTION_BOOL:
			if (v->type != jbvBool)
				jobq_error_must(option->name, "be true or false");
			return BoolGetDatum(v->val.boolean);
		case OPTION_LABELS:
			return labels_value(option->name, v);
		case OPTION_JOBS:
			break;
	}
	elog(ERROR, "\"%s\" is not a single value", option->name);
}

/* Read one key of an element of job_submit_many; null is the same as leaving it out. */
void
jobq_read_key(JobqSubmission *s, const char *key, JsonbValue *v)
{
	const Option *option = find_option(key);

	if (option == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("unrecognized key: \"%s\"", key),
				 errhint("Keys are the arguments of job_submit.")));
	if (v->type == jbvNull)
		return;
	if (option->type == OPTION_JOBS)
		read_ids_and_names(s, key, v);
	else
		set_option(s, option, json_argument(option, v));
}

/* The arguments must be named. */
static void
check_args(const JobqRow *job)
{
	if (!JB_ROOT_IS_OBJECT(DatumGetJsonbP(job->values[JOB_ARGS - 1])))
		jobq_error_must("args", "be a JSON object");
}

/* Arguments and tags have a bound together. */
static void
check_size(const JobqRow *job)
{
	Jsonb	   *tags = job->given[JOB_TAGS - 1] ? DatumGetJsonbP(job->values[JOB_TAGS - 1]) : NULL;

	jobq_check_json(DatumGetJsonbP(job->values[JOB_ARGS - 1]), tags, tags ? "\"args\" with \"tags\"" : "\"args\"",
					"jobq.max_args_size", jobq_max_args_size);
}

/* The arguments and tags of a job. */
void
jobq_check_payload(const JobqRow *job)
{
	check_args(job);
	check_size(job);
}

/* There must be something to run. */
static void
check_kind(JobqSubmission *s)
{
	if (!s->row.given[JOB_KIND - 1])
		jobq_error_null("kind");
}

/* What it is run with is an object. */
static void
check_args_given(JobqSubmission *s)
{
	check_args(&s->row);
}

/* And, with what is said of the job, no larger than allowed. */
static void
check_size_given(JobqSubmission *s)
{
	check_size(&s->row);
}

/* A lease has bounds. */
static void
check_lease(JobqSubmission *s)
{
	if (s->row.given[JOB_LEASE - 1])
		jobq_check_lease(DatumGetInt64(s->row.values[JOB_LEASE - 1]), "lease");
}

/* A quorum is one of the upstream jobs, or what the rule says. */
static void
check_quorum(JobqSubmission *s)
{
	JobqRule	rule = DatumGetInt16(s->row.values[JOB_RULE - 1]);
	int32		quorum = DatumGetInt32(s->row.values[JOB_QUORUM - 1]);

	if (rule == RULE_QUORUM)
	{
		if (quorum < 1 || quorum > s->nupstream + s->nnames)
			jobq_error_must("quorum", "be between 1 and the number of jobs in \"depends_on\"");
	}
	else if (quorum != 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"quorum\" goes with trigger rule \"quorum\" only")));
	else
		jobq_set(&s->row, JOB_QUORUM, Int32GetDatum(jobq_rules[rule].quorum));
}

/* What is said of a unique key needs one. */
static void
check_unique_for(JobqSubmission *s)
{
	if (s->row.given[JOB_UNIQUE_FOR - 1] && s->unique_key == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"unique_for\" goes with \"unique_key\" only")));
}

/* A job that is replaced has its dependencies already. */
static void
check_on_conflict(JobqSubmission *s)
{
	if (DatumGetInt16(s->row.values[SUBMISSION_ON_CONFLICT - 1]) == CONFLICT_REPLACE &&
		s->nupstream + s->nnames > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"on_conflict\" \"replace\" and \"depends_on\" cannot be given together"),
				 errhint("A job that is replaced keeps what it depends on; \"cancel\" submits a new one in its place.")));
}

/* A time is absolute or relative. */
static void
check_run_in(JobqSubmission *s)
{
	int64		run_in = DatumGetInt64(s->row.values[SUBMISSION_RUN_IN - 1]);

	if (!s->row.given[SUBMISSION_RUN_IN - 1])
		return;
	if (s->row.given[JOB_RUN_AT - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"run_at\" and \"run_in\" cannot be given together")));
	jobq_set(&s->row, JOB_RUN_AT,
			 TimestampTzGetDatum(jobq_check_time(GetCurrentTransactionStartTimestamp() + run_in, "run_in")));
}

/* The ids of upstream jobs, which are sorted, differ. */
static void
check_upstream(JobqSubmission *s)
{
	if (s->nupstream > 1)
		qsort(s->upstream, s->nupstream, sizeof(int64), jobq_compare_ids);
	for (int i = 1; i < s->nupstream; i++)
	{
		if (s->upstream[i] == s->upstream[i - 1])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("job %lld is named twice in \"depends_on\"", (long long) s->upstream[i])));
	}
}

/* What the job that undoes this one can say */
static const char *const undo_keys[] = {"kind", "args", "queue", "priority", "max_attempts", "max_lost", "backoff", "timeout",
"lease", "tags", "notify", "partition", "requires", "affinity", NULL};

/* Is a string among these? */
static bool
is_among(const char *const *strings, const char *string)
{
	while (*strings != NULL && strcmp(*strings, string) != 0)
		strings++;
	return *strings != NULL;
}

/* What undoes this job is a job. */
static void
check_undo(JobqSubmission *s)
{
	Jsonb	   *undo;
	JobqSubmission job;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	if (!s->row.given[JOB_UNDO - 1])
		return;
	undo = DatumGetJsonbP(s->row.values[JOB_UNDO - 1]);
	if (!JB_ROOT_IS_OBJECT(undo))
		jobq_error_must("undo", "be a JSON object");
	jobq_check_json(undo, NULL, "\"undo\"", "jobq.max_args_size", jobq_max_args_size);
	jobq_submission_init(&job);
	it = JsonbIteratorInit(&undo->root);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		else if (token == WJB_VALUE && !is_among(undo_keys, key))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized key in \"undo\": \"%s\"", key),
					 errhint("What undoes a job says what to run, \"kind\", and can have \"args\", \"queue\", \"priority\", \"max_attempts\", \"max_lost\", \"backoff\", \"timeout\", \"lease\", \"tags\", \"notify\", \"partition\", \"requires\" and \"affinity\".")));
		else if (token == WJB_VALUE)
			jobq_read_key(&job, key, &v);
	}
	if (!job.row.given[JOB_KIND - 1])
		jobq_error_must("undo", "say what to run, \"kind\"");
	if (job.row.given[JOB_ARGS - 1])
		check_args(&job.row);
	check_lease(&job);
}

/* What is checked without reading anything, once all keys were read */
static const JobqCheck checks[] = {
	{check_kind, {"kind"}},
	{check_args_given, {"args"}},
	{check_size_given, {"args", "tags"}},
	{check_lease, {"lease"}},
	{check_quorum, {"quorum", "trigger_rule", "depends_on"}},
	{check_unique_for, {"unique_for", "unique_key"}},
	{check_on_conflict, {"on_conflict", "depends_on"}},
	{check_run_in, {"run_in", "run_at"}},
	{check_upstream, {"depends_on"}},
	{check_undo, {"undo"}},
};

/* These checks one by one, by their number from 0 on; NULL: there are no more. */
const JobqCheck *
jobq_submission_check(int i)
{
	return i < lengthof(checks) ? &checks[i] : NULL;
}

/* Check what can be checked without reading anything, and set what follows from it. */
void
jobq_check_submission(JobqSubmission *s)
{
	for (int i = 0; i < lengthof(checks); i++)
		checks[i].check(s);
	s->queue_id = jobq_queue_id(s->queue);
}

/* What job_change can change, in the order of its arguments behind job_id */
static const char *const changeable[] = {"priority", "run_at", "queue", "args", "tags", "expires_at",
"max_attempts", "timeout", "partition"};

/* Read the arguments of job_change, NULL being what it was. */
void
jobq_read_changes(FunctionCallInfo fcinfo, JobqSubmission *s)
{
	memset(s, 0, sizeof(JobqSubmission));
	for (int i = 0; i < lengthof(changeable); i++)
	{
		if (!PG_ARGISNULL(i + 1))
			set_option(s, find_option(changeable[i]), PG_GETARG_DATUM(i + 1));
	}
	if (s->queue != NULL)
		s->queue_id = jobq_queue_id(s->queue);
}

/* The row that a job has with these changes; false: it is the same. */
bool
jobq_apply_changes(const JobqSubmission *s, TupleTableSlot *job, JobqRow *new)
{
	bool		differs = false;

	jobq_values(job, new);
	for (int i = 0; i < JOB_NATTS; i++)
	{
		Form_pg_attribute column = TupleDescAttr(job->tts_tupleDescriptor, i);

		if (!s->row.given[i])
			continue;
		differs |= !new->given[i] ||
			!datum_image_eq(new->values[i], s->row.values[i], column->attbyval, column->attlen);
		jobq_set(new, i + 1, s->row.values[i]);
	}
	if (s->row.given[JOB_ARGS - 1] || s->row.given[JOB_TAGS - 1])
		jobq_check_payload(new);
	return differs;
}

/* Read and check an element of job_submit_many. */
void
jobq_read_object(JobqSubmission *s, JsonbValue *v)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	item;
	JsonbValue *name;
	char	   *key = NULL;

	if (v->type != jbvBinary || !JsonContainerIsObject(v->val.binary.data))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a job must be a JSON object")));
	jobq_submission_init(s);
	/* at once, for the error context */
	name = getKeyJsonValueFromContainer(v->val.binary.data, "name", 4, NULL);
	if (name != NULL && name->type == jbvString)
		s->name = pnstrdup(name->val.string.val, name->val.string.len);
	it = JsonbIteratorInit(v->val.binary.data);
	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = pnstrdup(item.val.string.val, item.val.string.len);
		else if (token == WJB_VALUE)
			jobq_read_key(s, key, &item);
	}
	if (!s->row.given[JOB_ARGS - 1])
		jobq_set(&s->row, JOB_ARGS,
				 DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	jobq_check_submission(s);
}

/* A value that is an interval, which was read before, in ISO 8601; NULL: it is none. */
char *
jobq_settled_option(const char *key, JsonbValue *v)
{
	const Option *option = find_option(key);
	Interval	interval = {0};
	struct pg_itm itm;
	char	   *text;

	if (option == NULL || v->type != jbvString || (option->type != OPTION_PERIOD && option->type != OPTION_DELAY))
		return NULL;
	text = palloc(MAXDATELEN + 1);

	interval.time = jobq_interval(DatumGetIntervalP(json_argument(option, v)), key, option->type == OPTION_DELAY);
	interval2itm(interval, &itm);
	EncodeInterval(&itm, INTSTYLE_ISO_8601, text);
	return text;
}
