/*
 * resolve.c
 *	  What the references in the args of a flow's members, and in its result, stand for.
 *
 * They are replaced when the value is needed: by a claim, at the start of a sub-flow, at
 * the end of a flow.  What the row of the job says stays.  One that finds nothing gives
 * null.  That a name is one of an ancestor was checked with the flow, so what it names
 * is decided by then.
 *
 * A claim must not fail, or the job would keep it from all others.  So what cannot be
 * read, is too large or too deep is null, and nothing is kept that is not put in.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "utils/fmgrprotos.h"
#include "utils/jsonpath.h"
#include "utils/memutils.h"

#include "job/job.h"

/* What is being replaced */
typedef struct Context
{
	JobqCall   *call;
	int64		flow;
	Jsonb	   *args;			/* of the flow; NULL: not read yet */
	TupleTableSlot *undone;		/* the job that is undone; NULL: none is */
	TupleTableSlot *undone_result;	/* the one that has its result */
	char	   *name;			/* the member that was read last; NULL: none */
	Jsonb	   *result;			/* of that; NULL: none */
	Size		size;			/* of what was put in */
	Size		max_size;
} Context;

/* A path that is followed, for jobq_try() */
typedef struct Follow
{
	Jsonb	   *from;
	const char *path;
	Jsonb	   *found;
} Follow;

static void push_value(Context *context, JsonbParseState **state, JsonbIteratorToken token, JsonbValue *value, JsonbValue **done);

/* Follow a jsonpath. */
static void
follow_path(void *arg)
{
	Follow	   *f = arg;

	f->found = jobq_path_first(f->from, f->path);
}

/*
 * The first value that the jsonpath of a reference finds; NULL also where it cannot be
 * evaluated, or could take too long.  jsonpath raises some errors even in silence, as of
 * dates that only a time zone makes comparable.
 */
Jsonb *
jobq_path_first_or_none(Jsonb *from, const char *path)
{
	Follow		f = {from, path};
	MemoryContext old = CurrentMemoryContext;
	MemoryContext mcxt = AllocSetContextCreate(old, "jobq path", ALLOCSET_DEFAULT_SIZES);
	ErrorData  *error;

	MemoryContextSwitchTo(mcxt);
	error = jobq_try(follow_path, &f);
	if (error != NULL && jobq_error_passes(error))
		ReThrowError(error);
	MemoryContextSwitchTo(old);
	if (error != NULL)
		f.found = NULL;
	else if (f.found != NULL)
		f.found = DatumGetJsonbPCopy(JsonbPGetDatum(f.found));
	MemoryContextDelete(mcxt);
	return f.found;
}

/* Is what a jsonpath has found (NULL: nothing) true? */
bool
jobq_is_true(Jsonb *found)
{
	JsonbValue	value;

	return found != NULL && JB_ROOT_IS_SCALAR(found) && JsonbExtractScalar(&found->root, &value) &&
		value.type == jbvBool && value.val.boolean;
}

/* Is the first value that a jsonpath finds true?  No, where it cannot be evaluated. */
bool
jobq_path_holds(Jsonb *from, const char *path)
{
	return jobq_is_true(jobq_path_first_or_none(from, path));
}

/* A string, as a C string. */
static char *
string_of(const JsonbValue *v)
{
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* The flow whose args are those of a flow: of a map the one around it. */
static int64
flow_with_args(JobqCall *call, int64 flow)
{
	for (;;)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, flow);
		int64		around = job != NULL && jobq_is_map(job) ? jobq_attr_int64(job, JOB_FLOW) : 0;

		jobq_slot_free(job);
		if (around == 0)
			return flow;
		flow = around;
	}
}

/* The args of a flow, with the references in them replaced; NULL: it was removed. */
Jsonb *
jobq_flow_args(JobqCall *call, int64 flow)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow = flow_with_args(call, flow));
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

/* The member of this name, of the flow or of the first around it that has one; NULL: none. */
static TupleTableSlot *
find_member(JobqCall *call, int64 flow, const char *name)
{
	TupleTableSlot *job = NULL;

	for (; flow != 0 && job == NULL; flow = jobq_flow_of(call, flow))
	{
		Datum		keys[2] = {Int64GetDatum(flow), CStringGetTextDatum(name)};

		job = jobq_find(call, JOBQ_JOB, INDEX_SECOND, 2, keys, NULL);
	}
	return job;
}

/* Its result; NULL: none. */
static Jsonb *
member_result(JobqCall *call, int64 flow, const char *name)
{
	Jsonb	   *result = NULL;
	TupleTableSlot *job = find_member(call, flow, name);

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

/* A column that is JSON, as a copy; NULL: it is null. */
static Jsonb *
copy_json(TupleTableSlot *job, int attno)
{
	bool		isnull;
	Datum		value = slot_getattr(job, attno, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(value);
}

/* What a reference to a job that is undone is to, with the references in its args replaced; NULL: nothing. */
static Jsonb *
undone_value(Context *context, JobqUndoneValue which)
{
	JsonbValue	key = {.type = jbvString};
	text	   *text_key;

	switch (which)
	{
		case UNDONE_ARGS:
			return jobq_resolve_references(context->call, context->flow, copy_json(context->undone, JOB_ARGS));
		case UNDONE_RESULT:
			return copy_json(context->undone_result, JOB_RESULT);
		case UNDONE_KEY:
			text_key = jobq_job_key(context->undone);
			key.val.string.val = VARDATA_ANY(text_key);
			key.val.string.len = VARSIZE_ANY_EXHDR(text_key);
			return JsonbValueToJsonb(&key);
	}
	return NULL;
}

/* The size of inputs that a claim returns. */
static Size
max_inputs_size(void)
{
	return (Size) jobq_max_inputs_size * 1024;
}

/* Is what was put in too much? */
static bool
is_too_much(const Context *context)
{
	return context->size > context->max_size;
}

/* The result of a member, which the next reference may ask for again. */
static Jsonb *
result_of(Context *context, char *name)
{
	if (context->name != NULL && strcmp(context->name, name) == 0)
		return context->result;
	if (context->result != NULL)
		pfree(context->result);
	context->result = member_result(context->call, context->flow, name);
	context->name = name;
	return context->result;
}

/*
 * Is an object a reference?  *found is what it refers to, NULL for nothing or what is too
 * large, as of inputs, or too deep.
 */
static bool
follow(Context *context, JsonbContainer *object, Jsonb **found)
{
	JobqReference r;
	Jsonb	   *from;

	*found = NULL;

	/*
	 * one that is wrong came with a member that was added, and is left as it
	 * is; times of schedules, and items of maps, were put in before
	 */
	if (!jobq_read_reference(object, &r) || r.problem != NULL || jobq_is_put_in(&r))
		return false;
	if (is_too_much(context))
		return true;
	switch (r.type)
	{
		case REFERENCE_RESULT:
			from = result_of(context, string_of(&r.value));
			if (from != NULL && r.path.type == jbvString)
				*found = jobq_path_first_or_none(from, string_of(&r.path));
			else if (from != NULL)
				*found = DatumGetJsonbPCopy(JsonbPGetDatum(from));
			break;
		case REFERENCE_ARGS:
			if (context->args == NULL)
				context->args = jobq_flow_args(context->call, context->flow);
			if (context->args != NULL)
				*found = jobq_path_first_or_none(context->args, string_of(&r.value));
			break;
		case REFERENCE_LITERAL:
			*found = JsonbValueToJsonb(&r.value);
			break;
		case REFERENCE_UNDO:
			from = context->undone != NULL ? undone_value(context, r.undone) : NULL;
			*found = from != NULL && r.path.type == jbvString ? jobq_path_first_or_none(from, string_of(&r.path)) : from;
			break;
		case REFERENCE_TIME:
		case REFERENCE_ITEM:
		case REFERENCE_INDEX:
			break;
	}
	if (*found == NULL)
		return true;
	context->size += VARSIZE(*found);
	if (is_too_much(context) || jobq_is_deep(&(*found)->root))
	{
		pfree(*found);
		*found = NULL;
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
	{
		CHECK_FOR_INTERRUPTS();
		push_value(context, state, token, &value, &done);
	}
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
		if (found == NULL)
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

/* Whose references are checked */
typedef struct ReferenceCheck
{
	JobqCall   *call;
	int64		flow;			/* that it is a member of */
	bool		undo;			/* in what undoes it */
} ReferenceCheck;

/* A reference must be one, and its jsonpath, too, and what it refers to such as the caller may see. */
static void
check_reference(const JobqReference *r, const JobqTrail *trail, void *arg)
{
	const ReferenceCheck *check = arg;
	const JsonbValue *path = r->type == REFERENCE_ARGS ? &r->value : &r->path;
	int64		referred = check->flow;
	const char *problem = jobq_reference_problem(r, check->undo, false);

	if (problem != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("args of a member of a flow: %s: %s", jobq_trail_path(trail), problem),
				 errhint("What is no reference stands in {\"$literal\": ...}.")));
	if (r->type == REFERENCE_LITERAL)
		return;
	if (path->type == jbvString)
		(void) DirectFunctionCall1(jsonpath_in, CStringGetDatum(string_of(path)));
	if (r->type == REFERENCE_RESULT)
	{
		TupleTableSlot *job = find_member(check->call, check->flow, string_of(&r->value));

		if (job == NULL)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("args of a member of a flow: %s: no member has the name \"%s\"", jobq_trail_path(trail), string_of(&r->value)),
					 errhint("What is referred to is in the same flow, or in one around it, and is submitted before, or in the same call.")));
		referred = jobq_attr_int64(job, JOB_ID);
		jobq_slot_free(job);
	}
	else if (r->type == REFERENCE_UNDO)
		referred = 0;
	else
		referred = flow_with_args(check->call, check->flow);
	if (referred != 0 && !jobq_may_see(check->call, referred, false))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("args of a member of a flow: %s: permission denied to refer to that", jobq_trail_path(trail)),
				 errhint("You may refer to results, and args of flows, that you may read.")));
}

/*
 * Check the references in the args of a job that becomes a member of a flow, or is
 * one, or (undo) in what undoes it, so that it can be claimed, and shows to its
 * worker only what the caller could have put there.
 */
void
jobq_check_references(JobqCall *call, int64 flow, Jsonb *args, bool undo)
{
	static const JobqTrail root = {0};
	ReferenceCheck check = {call, flow, undo};

	if (jobq_is_deep(&args->root))
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("args of a member of a flow are nested more than %d deep", JOBQ_MAX_DEPTH),
				 errhint("Store what is so deep elsewhere, and submit where it is.")));
	jobq_walk_references(&args->root, &root, check_reference, &check);
}

/* Replace the references in a value. */
static Jsonb *
resolve(Context *context, Jsonb *value)
{
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
	push_value(context, &state, WJB_ELEM, &whole, &done);
	done = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	return JsonbValueToJsonb(&done->val.array.elems[0]);
}

/*
 * Replace the references in a value that a member of a flow has, or the flow itself as
 * its result.
 */
Jsonb *
jobq_resolve_references(JobqCall *call, int64 flow, Jsonb *value)
{
	Context		context = {.call = call,.flow = flow,.max_size = max_inputs_size()};

	return resolve(&context, value);
}

/* The same for what a map goes over, which can be larger; *too_large: it is more than it may be. */
Jsonb *
jobq_resolve_items(JobqCall *call, int64 flow, Jsonb *value, bool *too_large)
{
	Context		context = {.call = call,.flow = flow,.max_size = (Size) JOBQ_MAX_FLOW_MB * 1024 * 1024};
	Jsonb	   *items = resolve(&context, value);

	*too_large = is_too_much(&context);
	return items;
}

/* The job that a job which undoes another depends on since it repeats that one; NULL: none. */
static TupleTableSlot *
find_repeat(JobqCall *call, TupleTableSlot *job)
{
	Datum		key = Int64GetDatum(jobq_attr_int64(job, JOB_ID));
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *found = NULL;
	TupleTableSlot *edge;

	while (found == NULL && (edge = jobq_scan_next(scan)) != NULL)
	{
		found = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(edge, DEP_UPSTREAM));
		if (found != NULL && !jobq_attr_bool(found, JOB_REPEATS))
		{
			jobq_slot_free(found);
			found = NULL;
		}
	}
	jobq_scan_end(scan);
	return found;
}

/* The args of a job that undoes another. */
Jsonb *
jobq_resolve_undo(JobqCall *call, TupleTableSlot *job, TupleTableSlot *undone)
{
	Context		context = {.call = call,.flow = jobq_attr_int64(undone, JOB_FLOW),.undone = undone,.max_size = max_inputs_size()};
	TupleTableSlot *repeat = find_repeat(call, job);
	Jsonb	   *args;

	context.undone_result = repeat != NULL ? repeat : undone;
	args = resolve(&context, copy_json(job, JOB_ARGS));
	jobq_slot_free(repeat);
	return args;
}
