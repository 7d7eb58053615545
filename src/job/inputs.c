/*
 * inputs.c
 *	  What a job's worker gets of the jobs that it depends on.
 *
 * Results of the parents that succeeded, as one object.  A parent's key is its
 * name, where no other parent has that name or it for an id, whatever became of
 * that one; else its id.  So no two have the same key, and a key does not depend
 * on outcomes.
 *
 * One parent's result must never keep its child, or what stands behind it, from
 * being claimed: what is too large or nested too deeply is left out as a whole.
 */
#include "postgres.h"

#include "access/detoast.h"

#include "job/job.h"

int			jobq_max_inputs_size = JOBQ_DEFAULT_MAX_INPUTS_KB;

#define MAX_INPUT_DEPTH	1000	/* of arrays and objects in one result */

typedef struct Input
{
	char	   *id;
	char	   *name;			/* NULL: none */
	bool		succeeded;
	Jsonb	   *result;			/* NULL: none */
} Input;

/* An id or name, and whose it is */
typedef struct Key
{
	const char *key;
	Input	   *owner;
} Key;

static int
compare_keys(const void *a, const void *b)
{
	return strcmp(((const Key *) a)->key, ((const Key *) b)->key);
}

/* Take the name from those who share it with another, as a name or an id. */
static void
drop_shared_names(Input *inputs, int n)
{
	Key		   *keys = palloc_extended(sizeof(Key) * 2 * n, MCXT_ALLOC_HUGE);
	int			nkeys = 0;
	int			end;

	for (int i = 0; i < n; i++)
	{
		keys[nkeys].owner = &inputs[i];
		keys[nkeys++].key = inputs[i].id;
		if (inputs[i].name == NULL)
			continue;
		keys[nkeys].owner = &inputs[i];
		keys[nkeys++].key = inputs[i].name;
	}
	qsort(keys, nkeys, sizeof(Key), compare_keys);
	for (int i = 0; i < nkeys; i = end)
	{
		bool		shared = false;

		for (end = i + 1; end < nkeys && compare_keys(&keys[end], &keys[i]) == 0; end++)
			shared |= keys[end].owner != keys[i].owner;
		for (int k = i; shared && k < end; k++)
		{
			if (keys[k].key == keys[k].owner->name)
				keys[k].owner->name = NULL;
		}
	}
	pfree(keys);
}

/*
 * Add a result to the object that is being built; false if it is nested too
 * deeply for whoever reads it to take it one level deeper.
 */
static bool
push_result(JsonbParseState **state, Jsonb *result)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	int			depth = 0;

	if (JB_ROOT_IS_SCALAR(result))
	{
		(void) JsonbExtractScalar(&result->root, &value);
		pushJsonbValue(state, WJB_VALUE, &value);
		return true;
	}
	it = JsonbIteratorInit(&result->root);
	while ((token = JsonbIteratorNext(&it, &value, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_ARRAY || token == WJB_BEGIN_OBJECT)
		{
			if (++depth > MAX_INPUT_DEPTH)
				return false;
		}
		else if (token == WJB_END_ARRAY || token == WJB_END_OBJECT)
			depth--;
		pushJsonbValue(state, token, token < WJB_BEGIN_ARRAY ? &value : NULL);
	}
	return true;
}

/* Read a parent; false: its result is larger than there is room for. */
static bool
read_input(TupleTableSlot *job, Input *input, Size limit, Size *size)
{
	bool		isnull;
	Datum		result;

	input->id = psprintf("%lld", (long long) jobq_attr_int64(job, JOB_ID));
	input->name = jobq_attr_cstring(job, JOB_NAME);
	input->succeeded = jobq_attr_int16(job, JOB_OUTCOME) == OUTCOME_SUCCEEDED;
	input->result = NULL;
	result = slot_getattr(job, JOB_RESULT, &isnull);
	if (!input->succeeded || isnull)
		return true;
	/* do not fetch what is too large */
	if (*size + toast_raw_datum_size(result) - VARHDRSZ > limit)
		return false;
	input->result = DatumGetJsonbPCopy(result);
	*size += jobq_json_size(input->result, limit - *size);
	return *size <= limit;
}

/*
 * The results of n parents as one object, whose size is added to *total; NULL
 * if they cannot be given.
 */
Jsonb *
jobq_read_inputs(JobqCall *call, int64 id, int n, Size *total)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	Input	   *inputs = palloc_extended(sizeof(Input) * n, MCXT_ALLOC_HUGE);
	Size		limit = (Size) jobq_max_inputs_size * 1024;
	Size		size = 0;
	JsonbParseState *state = NULL;
	TupleTableSlot *edge;
	bool		named = false;
	bool		fits = true;
	int			found = 0;

	while (fits && found < n && (edge = jobq_scan_next(scan)) != NULL)
	{
		TupleTableSlot *job;

		if (jobq_attr_int16(edge, DEP_REQUIRE) == REQUIRE_END_ONLY)
			continue;
		job = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(edge, DEP_UPSTREAM));
		if (job == NULL)
			continue;
		fits = read_input(job, &inputs[found], limit, &size);
		named |= inputs[found++].name != NULL;
		jobq_slot_free(job);
	}
	jobq_scan_end(scan);
	if (fits && named)
		drop_shared_names(inputs, found);

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; fits && i < found; i++)
	{
		JsonbValue	value = {.type = jbvString};

		if (!inputs[i].succeeded)
			continue;
		value.val.string.val = inputs[i].name ? inputs[i].name : inputs[i].id;
		value.val.string.len = strlen(value.val.string.val);
		size += value.val.string.len;
		fits = size <= limit;
		pushJsonbValue(&state, WJB_KEY, &value);
		value.type = jbvNull;
		if (inputs[i].result == NULL)
			pushJsonbValue(&state, WJB_VALUE, &value);
		else
			fits = push_result(&state, inputs[i].result) && fits;
	}
	if (!fits)
		return NULL;
	*total += size;
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}
