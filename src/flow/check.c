/*
 * check.c
 *	  All that is wrong with a flow's document.
 *
 * A document is checked twice at most: in one go up to the first fault, which is
 * all for one that has none, and gives its submission, too.  If there is a fault,
 * all are gathered, and each value is read in a subtransaction of its own.
 *
 * Faults come in the order of the document, as jsonb keeps it (shorter keys first):
 * the keys of a flow, what does not go together in them, its defaults, its members,
 * its result, then the cycles among its members.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "flow/document.h"

/* Bounds of a document */
#define MAX_FLOW_DEPTH	100

/* A flow whose members are being checked */
typedef struct JobqFlowLevel
{
	const struct JobqFlowLevel *outer;	/* the flow around it; NULL: none */
	int			index;			/* its own, there */
	int			depth;			/* from 1 on */
	const JobqTrail *trail;
	const JsonbValue *given;	/* its own defaults, as JSON */
	JobqFlowGraph *graph;		/* NULL: it is a map */
	JobqDefaults defaults;
} JobqFlowLevel;

/* What is checked of references */
typedef struct ReferenceCheck
{
	JobqChecker *ck;
	bool		form;			/* whether they are well-formed */
	const JobqFlowLevel *level; /* the flow whose members are referred to;
								 * NULL: names are not looked at */
	int			index;			/* whose ancestors they must be; -1: any
								 * member will do */
	const JobqTrail *member;	/* that takes defaults which refer; NULL: says
								 * so itself */
	bool		undo;			/* in what undoes a member */
} ReferenceCheck;

/* The member of a flow with a name, or -1. */
static int
find_member(const JobqFlowLevel *level, const JsonbValue *name)
{
	return level->graph != NULL ? jobq_graph_find(level->graph, name->val.string.val, name->val.string.len) : -1;
}

/* A member that is referred to: in the innermost flow that has one of its name. */
static void
check_referred(const ReferenceCheck *check, const JsonbValue *name, const JobqTrail *trail)
{
	const JobqFlowLevel *level = check->level;
	int			index = check->index;
	int			found;

	while ((found = find_member(level, name)) < 0)
	{
		if (check->index < 0 || level->outer == NULL)
		{
			jobq_add_fault(check->ck, trail, psprintf("no member has the name \"%s\"", jobq_copy_string(name)));
			return;
		}
		index = level->index;
		level = level->outer;
	}
	if (index >= 0 && !jobq_graph_is_ancestor(level->graph, found, index))
		jobq_add_fault(check->ck, trail,
					   psprintf("\"%s\" is no job that %s%s depends on", jobq_copy_string(name),
								level == check->level ? "" : "the flow around ",
								check->member != NULL ? jobq_trail_path(check->member) :
								level == check->level ? "this one" : "it"));
}

/* Check a reference. */
static void
check_reference(const JobqReference *r, const JobqTrail *trail, void *arg)
{
	const ReferenceCheck *check = arg;
	const JsonbValue *path = r->type == REFERENCE_ARGS || r->type == REFERENCE_ITEM ? &r->value : &r->path;
	const char *problem = jobq_reference_problem(r, check->undo, check->ck->maps > 0);

	if (problem != NULL)
	{
		if (check->form)
			jobq_add_fault(check->ck, trail, problem);
		return;
	}
	if (r->type == REFERENCE_LITERAL)
		return;
	if (check->form && path->type != jbvNull)
	{
		JobqTrail	step = jobq_step_to(trail, r->type == REFERENCE_ARGS ? "$args" : r->type == REFERENCE_ITEM ? "$item" : "path");

		jobq_attempt(check->ck, &step, jobq_parse_jsonpath, jobq_copy_string(path));
	}
	if (r->type == REFERENCE_RESULT && check->level != NULL)
		check_referred(check, &r->value, trail);
}

/* The result of a flow: a reference to any of its members. */
static void
check_result(JobqChecker *ck, const JobqFlowLevel *level, const JsonbValue *v)
{
	JobqTrail	step = jobq_step_to(level->trail, "result");
	ReferenceCheck check = {.ck = ck,.form = true,.level = level,.index = -1};
	JobqReference r;

	if (v->type == jbvNull)
		return;
	if (jobq_is_object(v) && jobq_read_reference(v->val.binary.data, &r))
		check_reference(&r, &step, &check);
	else
		jobq_add_fault(ck, &step, "\"result\" must be a reference, {\"$result\": name, \"path\": jsonpath}, {\"$args\": jsonpath} or {\"$literal\": value}");
}

/* What a map goes over: a reference, or an array, in which there can be some. */
static void
check_map(JobqChecker *ck, const JobqObject *o)
{
	JobqTrail	step = jobq_step_to(o->trail, "map");
	const JsonbValue *v = &o->own[OWN_MAP];
	ReferenceCheck check = {.ck = ck,.form = true,.level = o->level,.index = o->index};
	JobqReference r;

	if (jobq_is_object(v) && !jobq_read_reference(v->val.binary.data, &r))
		jobq_add_fault(ck, &step, "\"map\" must be a reference to an array, or an array");
	else if (v->type == jbvBinary)
		jobq_walk_references(v->val.binary.data, &step, check_reference, &check);
}

/* The jobs that a member has conditions on must be those that it depends on. */
static void
check_when(JobqChecker *ck, const JobqObject *o)
{
	JobqTrail	when = jobq_step_to(o->trail, "when");
	JobqTrail	step = {.up = &when};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;

	if (!jobq_is_object(&o->own[OWN_WHEN]))
		return;
	it = JsonbIteratorInit(o->own[OWN_WHEN].val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		char	   *name;
		bool		found = false;

		if (token != WJB_KEY)
			continue;
		name = jobq_copy_string(&v);
		for (int i = 0; i < o->s->nnames && !found; i++)
			found = strcmp(o->s->names[i], name) == 0;
		step.key = v.val.string.val;
		step.len = v.val.string.len;
		if (!found && jobq_find_upstream(o->s, name) == 0)
			jobq_add_fault(ck, &step, psprintf("\"%s\" does not stand in \"depends_on\"", name));
	}
}

/* A job in depends_on, for sorting */
typedef struct Upstream
{
	int64		id;				/* must be first, see jobq_compare_ids(); or
								 * which member */
	int			index;			/* of the element */
} Upstream;

/* Mark the elements of depends_on that say what one before them does. */
static void
mark_repeated(Upstream *upstream, int n, bool *repeated)
{
	qsort(upstream, n, sizeof(Upstream), jobq_compare_ids);
	for (int i = 1; i < n; i++)
	{
		int			first = Min(upstream[i - 1].index, upstream[i].index);

		if (upstream[i].id != upstream[i - 1].id)
			continue;
		/* equal ones are in no order */
		repeated[Max(upstream[i - 1].index, upstream[i].index)] = true;
		upstream[i].index = first;
	}
}

/*
 * Check what a flow or a member depends on, each element by itself.  Ids are those
 * that were read before, if they were (ids).  False: something stands there twice.
 */
static bool
check_depends_on(JobqChecker *ck, const JobqObject *o, JsonbContainer *array, bool ids, const JobqTrail *trail)
{
	int			n = JsonContainerSize(array);
	Upstream   *members;
	Upstream   *jobs;
	bool	   *repeated;
	int			nmembers = 0;
	int			njobs = 0;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	JobqTrail	step = {.up = trail,.index = -1};
	bool		twice = false;

	/* mostly all are other members, each once */
	if (o->level != NULL && o->level->graph != NULL && jobq_graph_degree(o->level->graph, o->index) == n)
		return true;
	members = palloc(Max(n, 1) * sizeof(Upstream));
	jobs = palloc(Max(n, 1) * sizeof(Upstream));
	repeated = palloc0(Max(n, 1) * sizeof(bool));
	it = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		int			found;

		if (token != WJB_ELEM)
			continue;
		step.index++;
		if (v.type == jbvNumeric && ids)
		{
			jobs[njobs].id = o->s->upstream[njobs];
			jobs[njobs++].index = step.index;
		}
		else if (v.type == jbvString && o->level != NULL && (found = find_member(o->level, &v)) >= 0)
		{
			members[nmembers].id = found;
			members[nmembers++].index = step.index;
		}
	}
	mark_repeated(members, nmembers, repeated);
	mark_repeated(jobs, njobs, repeated);

	step.index = -1;
	njobs = 0;
	it = JsonbIteratorInit(array);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		int			found;

		if (token != WJB_ELEM)
			continue;
		step.index++;
		twice |= repeated[step.index];
		if (v.type == jbvNumeric)
		{
			if (repeated[step.index])
				jobq_add_fault(ck, &step, psprintf("job %lld is named twice in \"depends_on\"",
												   (long long) o->s->upstream[njobs]));
			njobs++;
			continue;
		}
		if (v.type != jbvString)
			continue;
		if (o->level == NULL)
		{
			jobq_add_fault(ck, &step, "\"depends_on\" of a flow that is in no other has ids of jobs only");
			continue;
		}
		found = find_member(o->level, &v);
		if (found < 0)
			jobq_add_fault(ck, &step, psprintf("no member of this flow has the name \"%s\"", jobq_copy_string(&v)));
		else if (repeated[step.index])
			jobq_add_fault(ck, &step, psprintf("\"%s\" is named twice in \"depends_on\"", jobq_copy_string(&v)));
		else if (found == o->index)
			jobq_add_fault(ck, &step, psprintf("\"%s\" depends on itself", jobq_copy_string(&v)));
	}
	return !twice;
}

/* What an option says of others, see JobqOptionHook. */
static bool
look_at_option(JobqChecker *ck, const JobqObject *o, const char *key, const JsonbValue *v, bool good,
			   const JobqTrail *trail)
{
	if (ck->scheduled && v->type != jbvNull && (strcmp(key, "run_at") == 0 || strcmp(key, "expires_at") == 0))
		jobq_add_fault(ck, trail, psprintf("the job of a schedule cannot have \"%s\". It would be one time for all jobs%s.", key,
										   key[0] == 'r' ? "; \"run_in\" is counted anew for each" : ""));
	if (o->level != NULL && o->level->graph == NULL && v->type != jbvNull &&
		(strcmp(key, "name") == 0 || strcmp(key, "depends_on") == 0 || strcmp(key, "unique_key") == 0))
		jobq_add_fault(ck, trail, psprintf("the job of a map cannot have \"%s\". It would be the same for all items%s.", key,
										   key[0] == 'd' ? "; what they are to wait for is for the map to say" : ""));
	else if (strcmp(key, "args") == 0 && jobq_is_object(v) && o->place != PLACE_FLOW)
	{
		ReferenceCheck check = {.ck = ck,.form = true,.level = o->level,.index = o->index};

		jobq_walk_references(v->val.binary.data, trail, check_reference, &check);
	}
	else if (strcmp(key, "undo") == 0 && jobq_is_object(v))
	{
		ReferenceCheck check = {.ck = ck,.form = true,.level = o->level,.index = o->index,.undo = true};

		jobq_walk_references(v->val.binary.data, trail, check_reference, &check);
	}
	else if (strcmp(key, "depends_on") == 0 && jobq_is_array(v))
		good &= check_depends_on(ck, o, v->val.binary.data, good, trail);
	else if (strcmp(key, "name") == 0 && v->type == jbvString && o->level != NULL)
	{
		int			first = jobq_graph_namesake(o->level->graph, o->index);

		if (first != o->index)
			jobq_add_fault(ck, trail, psprintf("elements %d and %d have the same name \"%s\"",
											   first, o->index, jobq_copy_string(v)));
	}
	return good;
}

/* Is there no use in looking for more? */
static bool
is_enough(const JobqChecker *ck)
{
	return list_length(ck->faults) > JOBQ_MAX_FAULTS;
}

static void check_members(JobqChecker *ck, const JobqObject *flow, const JobqFlowLevel *outer);

/* Check a member, and those of a flow, or the job of a map; json NULL: it is no object. */
static void
check_member(JobqChecker *ck, const JobqFlowLevel *level, JsonbContainer *json, int index, const JobqTrail *trail)
{
	JobqSubmission s;
	JobqElement *kept = NULL;
	JobqObject	o = {.json = json,.trail = trail,.level = level,.index = index};

	if (o.json == NULL)
	{
		jobq_add_fault(ck, trail, "a member must be a JSON object");
		return;
	}
	if (ck->members != NULL && level->outer == NULL)
	{
		MemoryContextSwitchTo(ck->mcxt);
		kept = jobq_elements_add(ck->members);
	}
	else
	{
		MemoryContextReset(ck->scratch);
		MemoryContextSwitchTo(ck->scratch);
	}
	jobq_begin_flow_member(&o, &level->defaults, kept != NULL ? &kept->s : &s);
	jobq_read_keys(ck, &o);

	/* args by default were read there; what they refer to is a matter of each */
	if (level->defaults.args != NULL && !jobq_gives(&o, "args"))
	{
		ReferenceCheck check = {.ck = ck,.level = level,.index = index,.member = trail};

		jobq_walk_references(level->defaults.args, level->defaults.args_trail, check_reference, &check);
	}
	jobq_check_options(ck, &o, &level->defaults);
	check_when(ck, &o);
	if (o.place == PLACE_MAP)
		check_map(ck, &o);
	if (kept != NULL)
		jobq_keep_own(&o, level->given, kept);
	if (o.place != PLACE_JOB)
		check_members(ck, &o, level);
}

/* Check what is in a flow, or a map. */
static void
check_members(JobqChecker *ck, const JobqObject *flow, const JobqFlowLevel *outer)
{
	JobqFlowLevel level = {.outer = outer,.index = flow->index,.depth = outer != NULL ? outer->depth + 1 : 1,
	.trail = flow->trail,.given = &flow->own[OWN_DEFAULTS]};
	JobqTrail	jobs = jobq_step_to(flow->trail, "jobs");
	JobqTrail	step = {.up = &jobs};
	MemoryContext old = CurrentMemoryContext;
	MemoryContext work;
	bool		keeps = ck->members != NULL && outer == NULL;
	ListCell   *cell;

	check_stack_depth();
	if (level.depth > MAX_FLOW_DEPTH)
	{
		jobq_add_fault(ck, flow->trail, psprintf("flows are nested more than %d deep", MAX_FLOW_DEPTH));
		return;
	}
	work = AllocSetContextCreate(ck->work, "jobq flow", ALLOCSET_SMALL_SIZES);
	ck->maps += flow->place == PLACE_MAP;
	/* members that are kept go on with its defaults */
	MemoryContextSwitchTo(keeps ? ck->mcxt : work);
	if (outer != NULL)
		level.defaults = outer->defaults;
	else
		jobq_init_defaults(&level.defaults);
	jobq_add_defaults(ck, &level.defaults, &flow->own[OWN_DEFAULTS], flow->trail);
	if (keeps && jobq_is_array(&flow->own[OWN_JOBS]))
		jobq_elements_init(ck->members, "jobs", JsonContainerSize(flow->own[OWN_JOBS].val.binary.data));
	MemoryContextSwitchTo(work);
	/* what is no object, or no array, is a fault already */
	if (flow->place == PLACE_MAP)
	{
		JobqTrail	job = jobq_step_to(flow->trail, "job");

		if (flow->own[OWN_JOB].type == jbvNull)
			jobq_add_fault(ck, flow->trail, "\"job\" must not be null: it is what the map does with each item");
		if (jobq_is_object(&flow->own[OWN_JOB]))
			check_member(ck, &level, flow->own[OWN_JOB].val.binary.data, 0, &job);
	}
	else if (jobq_is_array(&flow->own[OWN_JOBS]))
	{
		level.graph = jobq_graph_create(flow->own[OWN_JOBS].val.binary.data);
		for (step.index = 0; step.index < jobq_graph_size(level.graph) && !is_enough(ck); step.index++)
		{
			CHECK_FOR_INTERRUPTS();
			check_member(ck, &level, jobq_graph_member(level.graph, step.index), step.index, &step);
			MemoryContextSwitchTo(work);
		}
		check_result(ck, &level, &flow->own[OWN_RESULT]);
		foreach(cell, jobq_graph_cycles(level.graph))
			jobq_add_fault(ck, &jobs, psprintf("jobs depend on each other in a cycle: %s", (char *) lfirst(cell)));
	}
	ck->maps -= flow->place == PLACE_MAP;
	MemoryContextSwitchTo(old);
	MemoryContextDelete(work);
}

/* A document, for jobq_try() */
typedef struct DocumentCheck
{
	JobqChecker *ck;
	Jsonb	   *flow;
	JobqSubmission *s;
} DocumentCheck;

/* Check it. */
static void
check_document(void *arg)
{
	DocumentCheck *check = arg;
	JobqChecker *ck = check->ck;
	JobqTrail	root = {0};
	JobqDefaults defaults;
	JobqObject	o = {.place = PLACE_FLOW,.json = &check->flow->root,.trail = &root,.s = check->s};

	if (VARSIZE_ANY_EXHDR(check->flow) > JOBQ_MAX_FLOW_MB * 1024 * 1024)
		jobq_add_fault(ck, &root, psprintf("a flow can have %d MB at most", JOBQ_MAX_FLOW_MB));
	else if (!JB_ROOT_IS_OBJECT(check->flow))
		jobq_add_fault(ck, &root, "a flow must be a JSON object");
	else if (jobq_is_deep(&check->flow->root))
		jobq_add_fault(ck, &root, psprintf("JSON is nested more than %d deep", JOBQ_MAX_DEPTH));
	else
	{
		MemoryContextSwitchTo(ck->members != NULL ? ck->mcxt : ck->work);
		jobq_init_defaults(&defaults);
		*check->s = defaults.flow;
		jobq_read_keys(ck, &o);
		jobq_check_options(ck, &o, NULL);
		if (o.own[OWN_JOBS].type == jbvNull)
			jobq_add_fault(ck, &root, "\"jobs\" must not be null");
		if (ck->members != NULL)
			jobq_keep_own(&o, NULL, NULL);
		check_members(ck, &o, NULL);
	}
}

/*
 * All faults of a flow, which is the job of a schedule or not, as a list of JobqFlowFault;
 * NIL: it has none, and is read into s and members, if they are not NULL.  These live in
 * the caller's memory context, and point into the document; of one with faults they mean nothing.
 */
List *
jobq_check_document(Jsonb *flow, bool scheduled, JobqSubmission *s, JobqElements *members)
{
	JobqChecker ck = {.mcxt = CurrentMemoryContext,.look = look_at_option,.scheduled = scheduled,.members = members};
	JobqSubmission unkept;
	DocumentCheck check = {&ck, flow, s != NULL ? s : &unkept};
	ErrorData  *error;

	ck.work = AllocSetContextCreate(CurrentMemoryContext, "jobq document", ALLOCSET_DEFAULT_SIZES);
	ck.scratch = AllocSetContextCreate(ck.work, "jobq member", ALLOCSET_DEFAULT_SIZES);
	error = jobq_try(check_document, &check);
	if (error != NULL)
	{
		jobq_require_fault(error);
		FreeErrorData(error);
		ck.gather = true;
		ck.members = NULL;
		ck.maps = 0;
		MemoryContextReset(ck.work);
		ck.scratch = AllocSetContextCreate(ck.work, "jobq member", ALLOCSET_DEFAULT_SIZES);
		check_document(&check);
		MemoryContextSwitchTo(ck.mcxt);
	}
	MemoryContextDelete(ck.work);
	return ck.faults;
}

PG_FUNCTION_INFO_V1(jobq_job_check_flow);

/* job_check_flow(flow) */
Datum
jobq_job_check_flow(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	ListCell   *cell;
	List	   *faults;

	if (PG_ARGISNULL(0))
		jobq_error_null("flow");
	faults = jobq_check_document(PG_GETARG_JSONB_P(0), false, NULL, NULL);
	InitMaterializedSRF(fcinfo, 0);
	foreach(cell, faults)
	{
		const JobqFlowFault *fault = lfirst(cell);
		Datum		values[2] = {CStringGetTextDatum(fault->path), CStringGetTextDatum(fault->problem)};
		bool		nulls[2] = {false, false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
