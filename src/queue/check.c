/*
 * check.c
 *	  Checks of arguments, with the errors that all entry points share.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "mb/pg_wchar.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"

#include "queue/queue.h"


/* NULL where a value is needed */
void
jobq_error_null(const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
			 errmsg("\"%s\" must not be null", what)));
}

/* A value that is not as it must be */
void
jobq_error_must(const char *what, const char *must)
{
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("\"%s\" must %s", what, must)));
}

/* The name of a queue: [A-Za-z0-9_.-], 1 to 50 bytes. */
void
jobq_check_queue_name(const char *name)
{
	size_t		len = strlen(name);

	if (len == 0 || len > JOBQ_MAX_QUEUE_NAME ||
		strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-") != len)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid queue name: \"%s\"", name),
				 errhint("A queue name has 1 to %d letters (A-Z, a-z), digits, \"_\", \".\" or \"-\".",
						 JOBQ_MAX_QUEUE_NAME)));
}

/* The queue argument of a function. */
char *
jobq_check_queue(FunctionCallInfo fcinfo, int argno)
{
	char	   *name;

	if (PG_ARGISNULL(argno))
		jobq_error_null("queue");
	name = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	jobq_check_queue_name(name);
	return name;
}

/* The name of a kind or worker: 1 to 128 bytes without control characters. */
void
jobq_check_name(const char *name, const char *what)
{
	size_t		len = strlen(name);
	bool		ok = len >= 1 && len <= JOBQ_MAX_NAME;

	for (const char *p = name; ok && *p; p++)
		ok = (unsigned char) *p >= 0x20 && *p != 0x7f;
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("invalid name for \"%s\"", what),
				 errhint("It has 1 to %d bytes and no control characters.", JOBQ_MAX_NAME)));
}

/* An interval in microseconds; PG_INT64_MAX, if it is out of range. */
int64
jobq_interval_micros(const Interval *interval)
{
	int64		days = (int64) interval->month * DAYS_PER_MONTH + interval->day;
	int64		micros;

	/*
	 * a month has 30 days, as elsewhere in PostgreSQL; both parts are
	 * bounded, so the sum is a number
	 */
	if (days > JOBQ_MAX_INTERVAL_DAYS || days < -JOBQ_MAX_INTERVAL_DAYS ||
		interval->time > JOBQ_MAX_INTERVAL_DAYS * USECS_PER_DAY ||
		interval->time < -JOBQ_MAX_INTERVAL_DAYS * USECS_PER_DAY)
		return PG_INT64_MAX;
	micros = days * USECS_PER_DAY + interval->time;
	return micros > JOBQ_MAX_INTERVAL_DAYS * USECS_PER_DAY ? PG_INT64_MAX : micros;
}

/* The same, which must be positive (or, if zero_ok, not negative). */
int64
jobq_interval(Interval *interval, const char *what, bool zero_ok)
{
	int64		micros = jobq_interval_micros(interval);

	if (micros == PG_INT64_MAX)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is out of range", what),
				 errhint("It can be %d days at most; a month counts as 30 days.", (int) JOBQ_MAX_INTERVAL_DAYS)));
	if (micros < 0 || (micros == 0 && !zero_ok))
		jobq_error_must(what, zero_ok ? "not be negative" : "be greater than zero");
	return micros;
}

/* The same for an argument of a function; -1: it is NULL. */
int64
jobq_check_interval(FunctionCallInfo fcinfo, int argno, const char *what, bool zero_ok)
{
	if (PG_ARGISNULL(argno))
		return -1;
	return jobq_interval(PG_GETARG_INTERVAL_P(argno), what, zero_ok);
}

/* A lease, brought within its bounds. */
int64
jobq_bound_lease(int64 lease)
{
	return Min(Max(lease, jobq_min_lease_ms * INT64CONST(1000)), jobq_max_lease_s * USECS_PER_SEC);
}

/* A lease, or by how much one is extended, that was given: it must be within them; -1: none was. */
int64
jobq_check_lease(int64 lease, const char *what)
{
	if (lease != -1 && jobq_bound_lease(lease) != lease)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" is out of range", what),
				 errhint("It is between jobq.min_lease, %s, and jobq.max_lease, %s.",
						 GetConfigOptionByName("jobq.min_lease", NULL, false),
						 GetConfigOptionByName("jobq.max_lease", NULL, false))));
	return lease;
}

/* A time that lies somewhere; 0, which means none elsewhere, becomes its neighbour. */
TimestampTz
jobq_check_time(TimestampTz at, const char *what)
{
	if (TIMESTAMP_NOT_FINITE(at))
		jobq_error_must(what, "not be infinite");
	return at == 0 ? 1 : at;
}

/* A positive number. */
void
jobq_check_positive(int64 value, const char *what)
{
	if (value <= 0)
		jobq_error_must(what, "be greater than zero");
}

/* A positive number that is an argument of a function; -1: it is NULL. */
int32
jobq_check_count(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (PG_ARGISNULL(argno))
		return -1;
	jobq_check_positive(PG_GETARG_INT32(argno), what);
	return PG_GETARG_INT32(argno);
}

/* A job id argument. */
int64
jobq_check_id(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (PG_ARGISNULL(argno))
		jobq_error_null(what);
	return PG_GETARG_INT64(argno);
}

/* A one-dimensional array without NULLs (unless nulls_ok), as Datums. */
int
jobq_check_array(FunctionCallInfo fcinfo, int argno, const char *what, Oid elemtype,
				 bool nulls_ok, Datum **values, bool **nulls)
{
	ArrayType  *array;
	int16		typlen;
	bool		typbyval;
	char		typalign;
	int			n;

	if (PG_ARGISNULL(argno))
		jobq_error_null(what);
	array = PG_GETARG_ARRAYTYPE_P(argno);
	if (ARR_NDIM(array) > 1)
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("\"%s\" must be a one-dimensional array", what)));
	get_typlenbyvalalign(elemtype, &typlen, &typbyval, &typalign);
	deconstruct_array(array, elemtype, typlen, typbyval, typalign, values, nulls, &n);
	for (int i = 0; i < n && !nulls_ok; i++)
	{
		if ((*nulls)[i])
			ereport(ERROR,
					(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
					 errmsg("\"%s\" must not contain nulls", what)));
	}
	return n;
}

/* For qsort(). */
static int
compare_labels(const void *a, const void *b)
{
	return strcmp(*(char *const *) a, *(char *const *) b);
}

/* Labels as text[], in the order of their bytes, each once. */
Datum
jobq_label_set(int n, Datum *values, const char *what)
{
	char	  **names = palloc(Max(n, 1) * sizeof(char *));
	int			m = 0;

	if (n > JOBQ_MAX_LABELS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many labels in \"%s\"", what),
				 errdetail("There are %d, and %d are allowed.", n, JOBQ_MAX_LABELS)));
	for (int i = 0; i < n; i++)
	{
		names[i] = TextDatumGetCString(values[i]);
		jobq_check_name(names[i], what);
	}
	qsort(names, n, sizeof(char *), compare_labels);
	for (int i = 0; i < n; i++)
	{
		if (i == 0 || strcmp(names[i], names[i - 1]) != 0)
			values[m++] = CStringGetTextDatum(names[i]);
	}
	return PointerGetDatum(construct_array(values, m, TEXTOID, -1, false, TYPALIGN_INT));
}

/* The same of an argument that is not null. */
Datum
jobq_check_label_set(FunctionCallInfo fcinfo, int argno, const char *what)
{
	Datum	   *values;
	bool	   *nulls;
	int			n = jobq_check_array(fcinfo, argno, what, TEXTOID, false, &values, &nulls);

	return jobq_label_set(n, values, what);
}

/* No job has this id. */
void
jobq_error_no_such_job(int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_JOBQ_NO_SUCH_JOB),
			 errmsg("job %lld does not exist", (long long) id),
			 errhint(JOBQ_HINT_NO_SUCH_JOB)));
}

/* How long a string is with its quotes and escapes.  Each claimed job comes here. */
static Size
string_text_size(const char *s, int len)
{
	Size		size = len + 2;

	for (int i = 0; i < len; i++)
	{
		unsigned char c = s[i];

		/* small letters are above all that is escaped */
		if (c <= '\\')
			size += c < ' ' ? 5 : c == '"' || c == '\\';
	}
	return size;
}

/*
 * The size of a value, stored or as text, whichever is larger; where that is
 * above the limit, some size above it.  A number of a few bytes can be 131,072
 * digits long, and a text above 1 GB can be sent to nobody.
 */
Size
jobq_json_size(Jsonb *json, Size limit)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	Size		size = 0;

	if (VARSIZE_ANY_EXHDR(json) > limit)
		return VARSIZE_ANY_EXHDR(json);
	it = JsonbIteratorInit(&json->root);
	while (size <= limit && (token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		size += 2;				/* brackets, commas and colons */
		if (token != WJB_KEY && token != WJB_VALUE && token != WJB_ELEM)
			continue;
		if (v.type == jbvString)
			size += string_text_size(v.val.string.val, v.val.string.len);
		else if (v.type == jbvNumeric)
		{
			char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out,
																	 NumericGetDatum(v.val.numeric)));

			size += strlen(digits);
			pfree(digits);
		}
		else
			size += 5;
	}
	return Max(size, VARSIZE_ANY_EXHDR(json));
}

/*
 * Refuse a value, or two together, above a setting for sizes: what cannot be
 * sent would keep whoever reads it from all that stands beside it.
 */
void
jobq_check_json(Jsonb *json, Jsonb *other, const char *what, const char *setting, int limit_kb)
{
	Size		limit = (Size) limit_kb * 1024;

	if (jobq_json_size(json, limit) + (other ? jobq_json_size(other, limit) : 0) > limit)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("%s is too large", what),
				 errdetail("Stored or as text it has more than %s, %d kB.", setting, limit_kb),
				 errhint("Store it elsewhere and pass where it is, or raise %s.", setting)));
}

/* An error or a reason, cut at jobq.max_error_size with a mark that says so. */
char *
jobq_cut_error(Datum error)
{
	Size		size = toast_raw_datum_size(error) - VARHDRSZ;
	Size		limit = (Size) jobq_max_error_size * 1024;
	char	   *mark;
	text	   *head;
	int			len;

	if (size <= limit)
		return TextDatumGetCString(error);
	mark = psprintf(" ... [cut here, of %zu bytes]", size);
	head = DatumGetTextPSlice(error, 0, limit);
	len = pg_mbcliplen(VARDATA_ANY(head), VARSIZE_ANY_EXHDR(head), limit - strlen(mark));
	return psprintf("%.*s%s", len, VARDATA_ANY(head), mark);
}
