/*
 * resolve.c
 *	  What the references in the args of a flow's members, and in its result, stand for.
 *
 * They are replaced when the value is needed: by a claim, at the start of a sub-flow, at
 * the end of a flow.  What the row of the job says stays.  One that finds nothing gives
 * null.  That a name is one of an ancestor was checked with the flow, so what it names
 * is decided by then.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonpath.h"

#include "job/job.h"

/* What is being replaced */
typedef struct Context
{
	JobqCall   *call;
	int64		flow;
	Jsonb	   *args;			/* of the flow; NULL: not read yet */
	Size		size;			/* of what was put in */
} Context;

static void push_value(Context *context, JsonbParseState **state, JsonbIteratorToken token, JsonbValue *value, JsonbValue **done);

/* The first value that a jsonpath finds; NULL: none. */
Jsonb *
jobq_path_first(Jsonb *from, const char *path)
{
	LOCAL_FCINFO(fcinfo, 4);
	Jsonb	   *none = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum("{}")));
	Datum		found;

	InitFunctionCallInfoData(*fcinfo, NULL, 4, InvalidOid, NULL, NULL);
	fcinfo->args[0].value = JsonbPGetDatum(from);
	fcinfo->args[1].value = DirectFunctionCall1(jsonpath_in, CStringGetDatum(path));
	fcinfo->args[2].value = JsonbPGetDatum(none);
	fcinfo->args[3].value = BoolGetDatum(true);
	for (int i = 0; i < 4; i++)
		fcinfo->args[i].isnull = false;
	found = jsonb_path_query_first(fcinfo);
	return fcinfo->isnull ? NULL : DatumGetJsonbP(found);
}

/* A string, as a C string. */
static char *
string_of(const JsonbValue *v)
{
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* The args of a flow, with the references in them replaced. */
static Jsonb *
flow_args(JobqCall *call, int64 flow)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);
	TupleTableSlot *job = NULL;
	Jsonb	   *args = NULL;
	bool		isnull = true;
	Datum		value = 0;

	if (row != NULL)
		value = slot_getattr(row, FLOW_ARGS, &isnull);
	if (isnull)
	{
		job = jobq_find_id(call, JOBQ_JOB, flow);
		if (job != NULL)
			value = slot_getattr(job, JOB_ARGS, &isnull);
	}
	if (!isnull)
		args = DatumGetJsonbPCopy(value);
	jobq_slot_free(row);
	jobq_slot_free(job);
	return args;
}

/* The result of the member of this name, of the flow or of the first around it that has one; NULL: none. */
static Jsonb *
member_result(JobqCall *call, int64 flow, const char *name)
{
	Jsonb	   *result = NULL;
	TupleTableSlot *job = NULL;

	for (; flow != 0 && job == NULL; flow = jobq_flow_of(call, flow))
	{
		Datum		keys[2] = {Int64GetDatum(flow), CStringGetTextDatum(name)};

		job = jobq_find(call, JOBQ_JOB, INDEX_SECOND, 2, keys, NULL);
	}
	if (job != NULL)
	{
		bool		isnull;
		Datum		value = slot_getattr(job, JOB_RESULT, &isnull);

		if (!isnull)
			result = DatumGetJsonbPCopy(value);
	}
	jobq_slot_free(job);
	return result;
}

/* Is an object a reference?  *found is what it refers to, NULL for nothing. */
static bool
follow(Context *context, JsonbContainer *object, Jsonb **found)
{
	JobqReference r;

	*found = NULL;

	/*
	 * one that is wrong came with a member that was added, and is left as it
	 * is
	 */
	if (!jobq_read_reference(object, &r) || r.problem != NULL)
		return false;
	switch (r.type)
	{
		case REFERENCE_RESULT:
			*found = member_result(context->call, context->flow, string_of(&r.value));
			if (*found != NULL && r.path.type == jbvString)
				*found = jobq_path_first(*found, string_of(&r.path));
			break;
		case REFERENCE_ARGS:
			if (context->args == NULL)
				context->args = flow_args(context->call, context->flow);
			if (context->args != NULL)
				*found = jobq_path_first(context->args, string_of(&r.value));
			break;
		case REFERENCE_LITERAL:
			*found = JsonbValueToJsonb(&r.value);
			break;
	}
	return true;
}

/* Push a container, with what is in it replaced. */
static JsonbValue *
push_container(Context *context, JsonbParseState **state, JsonbContainer *container)
{
	JsonbIterator *it = JsonbIteratorInit(container);
	JsonbIteratorToken token;
	JsonbValue	value;
	JsonbValue *done = NULL;

	check_stack_depth();
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
		push_value(context, state, token, &value, &done);
	return done;
}

/* Push a token of a container; a value that is a reference becomes what it refers to. */
static void
push_value(Context *context, JsonbParseState **state, JsonbIteratorToken token, JsonbValue *value, JsonbValue **done)
{
	Jsonb	   *found;
	JsonbValue	new = {.type = jbvNull};

	if ((token != WJB_VALUE && token != WJB_ELEM) || value->type != jbvBinary)
		*done = pushJsonbValue(state, token, token == WJB_KEY || token == WJB_VALUE || token == WJB_ELEM ? value : NULL);
	else if (JsonContainerIsObject(value->val.binary.data) && follow(context, value->val.binary.data, &found))
	{
		/* what is too large is left out, as of inputs */
		if (found != NULL)
			context->size += VARSIZE(found);
		if (found == NULL || context->size > (Size) jobq_max_inputs_size * 1024)
			;
		else if (JB_ROOT_IS_SCALAR(found))
			(void) JsonbExtractScalar(&found->root, &new);
		else
		{
			new.type = jbvBinary;
			new.val.binary.data = &found->root;
			new.val.binary.len = VARSIZE(found) - VARHDRSZ;
		}
		*done = pushJsonbValue(state, token, &new);
	}
	else
		(void) push_container(context, state, value->val.binary.data);
}

/* A reference must be one, and its jsonpath, too. */
static void
check_reference(const JobqReference *r, const JobqTrail *trail, void *arg)
{
	const JsonbValue *path = r->type == REFERENCE_ARGS ? &r->value : &r->path;

	if (r->problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("args of a member of a flow: %s: %s", jobq_trail_path(trail), r->problem),
				 errhint("What is no reference stands in {\"$literal\": ...}.")));
	if (r->type != REFERENCE_LITERAL && path->type == jbvString)
		(void) DirectFunctionCall1(jsonpath_in, CStringGetDatum(string_of(path)));
}

/* Check the references in the args of a job that becomes a member of a flow, or is one, so that it can be claimed. */
void
jobq_check_references(Jsonb *args)
{
	static const JobqTrail root = {0};

	jobq_walk_references(&args->root, &root, check_reference, NULL);
}

/*
 * Replace the references in a value that a member of a flow has, or the flow itself as
 * its result.
 */
Jsonb *
jobq_resolve_references(JobqCall *call, int64 flow, Jsonb *value)
{
	Context		context = {.call = call,.flow = flow};
	JsonbParseState *state = NULL;
	JsonbValue	whole;
	JsonbValue *done = NULL;

	/* most have none */
	if (JB_ROOT_IS_SCALAR(value) || memchr(VARDATA_ANY(value), '$', VARSIZE_ANY_EXHDR(value)) == NULL)
		return value;
	/* as an element, so that the whole can be a reference */
	whole.type = jbvBinary;
	whole.val.binary.data = &value->root;
	whole.val.binary.len = VARSIZE(value) - VARHDRSZ;
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	push_value(&context, &state, WJB_ELEM, &whole, &done);
	done = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbValueToJsonb(&done->val.array.elems[0]);
}
