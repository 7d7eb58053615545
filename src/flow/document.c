/*
 * document.c
 *	  What a flow says, as JSON.
 *
 * A flow is an object with the options of a submission that make sense for a flow,
 * and "jobs", an array of members: jobs and, with "jobs" of their own, flows.
 * Options are read by options.c, so a member says the same as an element of
 * job_submit_many; "defaults" are read once, and each member begins as a copy of
 * them.  No table is read.
 *
 * A document is checked twice at most: in one go up to the first fault, which is
 * all for one that has none.  If there is a fault, all are gathered, and each value
 * is read in a subtransaction of its own.
 *
 * Faults come in the order of the document, as jsonb keeps it (shorter keys first):
 * what a flow says itself, its members, its result, then the cycles among its
 * members.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/jsonpath.h"
#include "utils/memutils.h"

#include "flow/flow.h"

/* Bounds of a document */
#define MAX_SIZE		(100 * 1024 * 1024)
#define MAX_JSON_DEPTH	1000
#define MAX_FLOW_DEPTH	100
#define MAX_FAULTS		10000	/* that are told */

/* What an object is, as a set */
typedef enum Place
{
	PLACE_FLOW = 1,				/* the whole document */
	PLACE_SUBFLOW = 2,
	PLACE_JOB = 4,
	PLACE_DEFAULTS = 8
} Place;

/* Keys that are no options */
typedef enum OwnKey
{
	OWN_JOBS,
	OWN_DEFAULTS,
	OWN_RESULT,
	OWN_ON_FAILURE,
	OWN_IF,
	OWN_CRITICAL,
	NOWN
} OwnKey;

static const struct
{
	const char *key;
	int			places;
}			own_keys[NOWN] = {

	/* where a member gives it, it is a flow */
	[OWN_JOBS] = {"jobs", PLACE_FLOW | PLACE_SUBFLOW | PLACE_JOB},
	[OWN_DEFAULTS] = {"defaults", PLACE_FLOW | PLACE_SUBFLOW},
	[OWN_RESULT] = {"result", PLACE_FLOW | PLACE_SUBFLOW},
	[OWN_ON_FAILURE] = {"on_failure", PLACE_FLOW | PLACE_SUBFLOW},
	[OWN_IF] = {"if", PLACE_SUBFLOW | PLACE_JOB},
	[OWN_CRITICAL] = {"critical", PLACE_SUBFLOW | PLACE_JOB},
};

/* Options that not all objects can have */
static const struct
{
	const char *key;
	int			places;			/* that cannot */
}			excluded[] = {
	{"flow", PLACE_FLOW | PLACE_SUBFLOW | PLACE_JOB | PLACE_DEFAULTS},
	{"kind", PLACE_FLOW | PLACE_SUBFLOW},
	{"requires", PLACE_FLOW | PLACE_SUBFLOW},
	{"affinity", PLACE_FLOW | PLACE_SUBFLOW},
	{"partition", PLACE_FLOW | PLACE_SUBFLOW},
	{"manual", PLACE_FLOW | PLACE_SUBFLOW},
	{"name", PLACE_DEFAULTS},
	{"depends_on", PLACE_DEFAULTS},
	{"unique_key", PLACE_DEFAULTS},
};

/* The names of JobqOnFailure */
static const char *const on_failures[] = {"continue", "cancel"};

/* What is done with faults */
typedef struct Checker
{
	bool		gather;			/* false: the first is raised */
	List	   *faults;
	MemoryContext mcxt;			/* that they are kept in */
	MemoryContext scratch;		/* reset with each member; NULL: nothing is */
	MemoryContext work;			/* all else */
} Checker;

/* What the members of a flow are before they say something */
typedef struct Defaults
{
	JobqSubmission job;
	JobqSubmission flow;		/* those that a flow can have */
	JsonbContainer *args;		/* NULL: none */
	const JobqTrail *args_trail;	/* where they stand */
	List	   *faulty;			/* their keys that could not be read */
} Defaults;

/* A flow whose members are being checked */
typedef struct Level
{
	const struct Level *outer;	/* the flow around it; NULL: none */
	int			index;			/* its own, there */
	int			depth;			/* from 1 on */
	const JobqTrail *trail;
	JobqFlowGraph *graph;
	Defaults	defaults;
} Level;

/* An object that is being read */
typedef struct Object
{
	Place		place;
	JsonbContainer *json;
	const JobqTrail *trail;
	const Level *level;			/* of a member that is being checked: its flow */
	int			index;			/* its own, there */
	JobqSubmission *s;
	JsonbValue	own[NOWN];		/* jbvNull: not given */
	List	   *faulty;			/* keys that could not be read */
} Object;

/* A step down the trail, to a key. */
static JobqTrail
step_to(const JobqTrail *trail, const char *key)
{
	JobqTrail	step = {.up = trail,.key = key,.len = strlen(key)};

	return step;
}

/* A fault: raise or keep it. */
static void
add_fault(Checker *ck, const JobqTrail *trail, const char *problem)
{
	MemoryContext old;
	JobqFlowFault *fault;

	if (!ck->gather)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg_internal("%s", problem)));
	if (list_length(ck->faults) > MAX_FAULTS)
		return;
	old = MemoryContextSwitchTo(ck->mcxt);
	fault = palloc(sizeof(JobqFlowFault));
	if (list_length(ck->faults) < MAX_FAULTS)
	{
		fault->path = jobq_trail_path(trail);
		fault->problem = pstrdup(problem);
	}
	else
	{
		fault->path = pstrdup("$");
		fault->problem = psprintf("there are more than %d faults", MAX_FAULTS);
	}
	ck->faults = lappend(ck->faults, fault);
	MemoryContextSwitchTo(old);
}

/* Is there no use in looking for more? */
static bool
is_enough(const Checker *ck)
{
	return list_length(ck->faults) > MAX_FAULTS;
}

/* Was the error about what was read?  Otherwise raise it again. */
static void
require_fault(ErrorData *error)
{
	switch (ERRCODE_TO_CATEGORY(error->sqlerrcode))
	{
		case MAKE_SQLSTATE('0', 'A', '0', '0', '0'):	/* these of jsonpaths */
		case MAKE_SQLSTATE('4', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('2', '2', '0', '0', '0'):
		case MAKE_SQLSTATE('5', '4', '0', '0', '0'):
			break;
		default:
			ReThrowError(error);
	}
}

/* Do something that raises faults; false: it did, and the fault is kept. */
static bool
attempt(Checker *ck, const JobqTrail *trail, void (*work) (void *arg), void *arg)
{
	ErrorData  *error;
	StringInfoData problem;

	if (!ck->gather)
	{
		work(arg);
		return true;
	}
	error = jobq_try(work, arg);
	if (error == NULL)
		return true;
	require_fault(error);
	initStringInfo(&problem);
	appendStringInfoString(&problem, error->message);
	if (error->detail != NULL)
		appendStringInfo(&problem, ". %s", error->detail);
	if (error->hint != NULL)
		appendStringInfo(&problem, "%s %s", error->detail != NULL ? "" : ".", error->hint);
	add_fault(ck, trail, problem.data);
	pfree(problem.data);
	FreeErrorData(error);
	return false;
}

/* Is a key among these? */
static bool
is_among(const List *keys, const char *key)
{
	ListCell   *cell;

	foreach(cell, keys)
	{
		if (strcmp(lfirst(cell), key) == 0)
			return true;
	}
	return false;
}

/* Can an option be given there? */
static bool
is_allowed(const char *option, Place place)
{
	for (int i = 0; i < lengthof(excluded); i++)
	{
		if (excluded[i].key[0] == option[0] && strcmp(excluded[i].key, option) == 0)
			return (excluded[i].places & place) == 0;
	}
	return true;
}

/* Which of the keys that are no options a key is there, or NOWN. */
static OwnKey
find_own_key(const char *key, Place place)
{
	int			i = 0;

	while (i < NOWN && !((own_keys[i].places & place) && strcmp(own_keys[i].key, key) == 0))
		i++;
	return i;
}

/* A key that cannot be there. */
static void
fault_key(Checker *ck, const JobqTrail *trail, const char *key, Place place)
{
	StringInfoData text;
	const char *what = place == PLACE_DEFAULTS ? "Defaults" : place == PLACE_JOB ? "A member" :
	place == PLACE_FLOW ? "A flow" : "A flow in a flow";
	const char *separator = "";
	const char *option;

	initStringInfo(&text);
	appendStringInfo(&text, "unrecognized key: \"%s\". %s can have ", key, what);
	for (int i = 0; i < NOWN; i++)
	{
		if (own_keys[i].places & place)
		{
			appendStringInfo(&text, "%s\"%s\"", separator, own_keys[i].key);
			separator = ", ";
		}
	}
	for (int i = 0; (option = jobq_option_name(i)) != NULL; i++)
	{
		if (is_allowed(option, place))
		{
			appendStringInfo(&text, "%s\"%s\"", separator, option);
			separator = ", ";
		}
	}
	appendStringInfoChar(&text, '.');
	add_fault(ck, trail, text.data);
}

/* Is a value an array? */
static bool
is_array(const JsonbValue *v)
{
	return v->type == jbvBinary && JsonContainerIsArray(v->val.binary.data) &&
		!JsonContainerIsScalar(v->val.binary.data);
}

/* Is a value an object? */
static bool
is_object(const JsonbValue *v)
{
	return v->type == jbvBinary && JsonContainerIsObject(v->val.binary.data);
}

/* A string as a C string. */
static char *
copy_string(const JsonbValue *v)
{
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* Read a jsonpath, which must be one; for attempt(). */
static void
parse_jsonpath(void *arg)
{
	DirectFunctionCall1(jsonpath_in, CStringGetDatum(arg));
}

/*
 * References
 */

/* What is checked of references */
typedef struct ReferenceCheck
{
	Checker    *ck;
	bool		form;			/* whether they are well-formed */
	const Level *level;			/* the flow whose members are referred to;
								 * NULL: names are not looked at */
	int			index;			/* whose ancestors they must be; -1: any
								 * member will do */
	const JobqTrail *member;	/* that takes defaults which refer; NULL: says
								 * so itself */
} ReferenceCheck;

/* A member that is referred to: in the innermost flow that has one of its name. */
static void
check_referred(const ReferenceCheck *check, const JsonbValue *name, const JobqTrail *trail)
{
	const Level *level = check->level;
	int			index = check->index;
	int			found;

	while ((found = jobq_graph_find(level->graph, name->val.string.val, name->val.string.len)) < 0)
	{
		if (check->index < 0 || level->outer == NULL)
		{
			add_fault(check->ck, trail, psprintf("no member has the name \"%s\"", copy_string(name)));
			return;
		}
		index = level->index;
		level = level->outer;
	}
	if (index >= 0 && !jobq_graph_is_ancestor(level->graph, found, index))
		add_fault(check->ck, trail,
				  psprintf("\"%s\" is no job that %s%s depends on", copy_string(name),
						   level == check->level ? "" : "the flow around ",
						   check->member != NULL ? jobq_trail_path(check->member) :
						   level == check->level ? "this one" : "it"));
}

/* Check a reference. */
static void
check_reference(const JobqReference *r, const JobqTrail *trail, void *arg)
{
	const ReferenceCheck *check = arg;
	const JsonbValue *path = r->type == REFERENCE_ARGS ? &r->value : &r->path;

	if (r->problem != NULL)
	{
		if (check->form)
			add_fault(check->ck, trail, r->problem);
		return;
	}
	if (r->type == REFERENCE_LITERAL)
		return;
	if (check->form && path->type != jbvNull)
	{
		JobqTrail	step = step_to(trail, r->type == REFERENCE_ARGS ? "$args" : "path");

		attempt(check->ck, &step, parse_jsonpath, copy_string(path));
	}
	if (r->type == REFERENCE_RESULT && check->level != NULL)
		check_referred(check, &r->value, trail);
}

/* The result of a flow: a reference to any of its members. */
static void
check_result(Checker *ck, const Level *level, const JsonbValue *v)
{
	JobqTrail	step = step_to(level->trail, "result");
	ReferenceCheck check = {.ck = ck,.form = true,.level = level,.index = -1};
	JobqReference r;

	if (v->type == jbvNull)
		return;
	if (is_object(v) && jobq_read_reference(v->val.binary.data, &r))
		check_reference(&r, &step, &check);
	else
		add_fault(ck, &step, "\"result\" must be a reference, {\"$result\": name, \"path\": jsonpath}, {\"$args\": jsonpath} or {\"$literal\": value}");
}

/*
 * Keys
 */

/* An option to be read */
typedef struct OptionRead
{
	JobqSubmission *s;
	const char *key;
	JsonbValue *v;
} OptionRead;

/* Read it; for attempt(). */
static void
read_option(void *arg)
{
	OptionRead *read = arg;

	jobq_read_key(read->s, read->key, read->v);
}

/* Check a value that is no option and has a form of its own. */
static void
check_own(Checker *ck, const JobqTrail *trail, OwnKey key, const JsonbValue *v)
{
	const char *must = NULL;

	if (v->type == jbvNull)
		return;
	switch (key)
	{
		case OWN_JOBS:
			if (!is_array(v))
				must = "be an array of members";
			break;
		case OWN_DEFAULTS:
			if (!is_object(v))
				must = "be an object";
			break;
		case OWN_ON_FAILURE:
			if (v->type != jbvString)
				must = "be a string";
			else
			{
				char	   *name = copy_string(v);

				for (int i = 0; i < lengthof(on_failures); i++)
				{
					if (strcmp(on_failures[i], name) == 0)
						return;
				}
				add_fault(ck, trail, psprintf("unrecognized value for \"on_failure\": \"%s\". Valid values are \"continue\" and \"cancel\".", name));
			}
			break;
		case OWN_IF:
			if (v->type == jbvString)
				attempt(ck, trail, parse_jsonpath, copy_string(v));
			else
				must = "be a string";
			break;
		case OWN_CRITICAL:
			if (v->type != jbvBool)
				must = "be true or false";
			break;
		case OWN_RESULT:
		case NOWN:
			break;
	}
	if (must != NULL)
		add_fault(ck, trail, psprintf("\"%s\" must %s", own_keys[key].key, must));
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
check_depends_on(Checker *ck, const Object *o, JsonbContainer *array, bool ids, const JobqTrail *trail)
{
	int			n = JsonContainerSize(array);
	Upstream   *members = palloc(Max(n, 1) * sizeof(Upstream));
	Upstream   *jobs = palloc(Max(n, 1) * sizeof(Upstream));
	bool	   *repeated = palloc0(Max(n, 1) * sizeof(bool));
	int			nmembers = 0;
	int			njobs = 0;
	JsonbIterator *it = JsonbIteratorInit(array);
	JsonbIteratorToken token;
	JsonbValue	v;
	JobqTrail	step = {.up = trail,.index = -1};
	bool		twice = false;

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
		else if (v.type == jbvString && o->level != NULL &&
				 (found = jobq_graph_find(o->level->graph, v.val.string.val, v.val.string.len)) >= 0)
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
				add_fault(ck, &step, psprintf("job %lld is named twice in \"depends_on\"",
											  (long long) o->s->upstream[njobs]));
			njobs++;
			continue;
		}
		if (v.type != jbvString)
			continue;
		if (o->level == NULL)
		{
			add_fault(ck, &step, "\"depends_on\" of a flow that is in no other has ids of jobs only");
			continue;
		}
		found = jobq_graph_find(o->level->graph, v.val.string.val, v.val.string.len);
		if (found < 0)
			add_fault(ck, &step, psprintf("no member of this flow has the name \"%s\"", copy_string(&v)));
		else if (repeated[step.index])
			add_fault(ck, &step, psprintf("\"%s\" is named twice in \"depends_on\"", copy_string(&v)));
		else if (found == o->index)
			add_fault(ck, &step, psprintf("\"%s\" depends on itself", copy_string(&v)));
	}
	return !twice;
}

/* Check what else there is to an option that was read, if it was (good). */
static bool
check_option(Checker *ck, const Object *o, const char *key, const JsonbValue *v, bool good,
			 const JobqTrail *trail)
{
	if (strcmp(key, "args") == 0 && is_object(v) && o->place != PLACE_FLOW)
	{
		ReferenceCheck check = {.ck = ck,.form = true,.level = o->level,.index = o->index};

		jobq_walk_references(v->val.binary.data, trail, check_reference, &check);
	}
	else if (strcmp(key, "depends_on") == 0 && is_array(v))
		good &= check_depends_on(ck, o, v->val.binary.data, good, trail);
	else if (strcmp(key, "name") == 0 && v->type == jbvString && o->level != NULL)
	{
		int			first = jobq_graph_namesake(o->level->graph, o->index);

		if (first != o->index)
			add_fault(ck, trail, psprintf("elements %d and %d have the same name \"%s\"",
										  first, o->index, copy_string(v)));
	}
	return good;
}

/*
 * Read the keys of an object into its submission, and what it has beside; if it is
 * being checked (check), also what they say of others.
 */
static void
read_object(Checker *ck, Object *o, bool check)
{
	JsonbIterator *it = JsonbIteratorInit(o->json);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	for (int i = 0; i < NOWN; i++)
		o->own[i].type = jbvNull;
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		JobqTrail	step;
		OwnKey		own;

		if (token == WJB_KEY)
			key = copy_string(&v);
		if (token != WJB_VALUE)
			continue;
		step = step_to(o->trail, key);
		own = find_own_key(key, o->place);
		if (own != NOWN)
		{
			check_own(ck, &step, own, &v);
			o->own[own] = v;
		}
		else if (jobq_is_option(key) && is_allowed(key, o->place))
		{
			OptionRead	read = {o->s, key, &v};
			bool		good = attempt(ck, &step, read_option, &read);

			if (check)
				good = check_option(ck, o, key, &v, good, &step);
			if (!good)
				o->faulty = lappend(o->faulty, key);
		}
		else
			fault_key(ck, &step, key, o->place);
	}
}

/* A check of options together, for attempt() */
typedef struct CheckRun
{
	const JobqCheck *check;
	JobqSubmission *s;
} CheckRun;

/* Run it. */
static void
run_check(void *arg)
{
	CheckRun   *run = arg;

	run->check->check(run->s);
}

/* Does an object give a key? */
static bool
is_given(const Object *o, const char *key)
{
	JsonbValue	v;

	return getKeyJsonValueFromContainer(o->json, key, strlen(key), &v) != NULL && v.type != jbvNull;
}

/*
 * Check the options of an object together, where all that a check is about could be
 * read.  Of defaults only what is about one key, and is given, is checked.
 */
static void
check_options(Checker *ck, Object *o, const Defaults *defaults)
{
	CheckRun	run = {.s = o->s};

	for (int i = 0; (run.check = jobq_submission_check(i)) != NULL; i++)
	{
		const char *const *keys = run.check->keys;
		JobqTrail	step = step_to(o->trail, keys[0]);
		bool		good = o->place != PLACE_DEFAULTS || (keys[1] == NULL && is_given(o, keys[0]));

		for (int k = 0; good && keys[k] != NULL; k++)
			good = !is_among(o->faulty, keys[k]) &&
				(defaults == NULL || is_given(o, keys[k]) || !is_among(defaults->faulty, keys[k]));
		if (good && !attempt(ck, is_given(o, keys[0]) ? &step : o->trail, run_check, &run))
			o->faulty = lappend(o->faulty, unconstify(char *, keys[0]));
	}
}

/*
 * Defaults
 */

/* What the members of a flow that is in no other are without defaults. */
static void
init_defaults(Defaults *defaults)
{
	Datum		empty = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));

	memset(defaults, 0, sizeof(Defaults));
	jobq_submission_init(&defaults->job);
	jobq_set(&defaults->job.row, JOB_ARGS, empty);
	defaults->flow = defaults->job;
	jobq_set_text(&defaults->flow.row, JOB_KIND, "flow");
	jobq_set(&defaults->flow.row, JOB_FLOW_TYPE, Int16GetDatum(JOBQ_FLOW_TYPE_FLOW));
}

/* Lay the defaults of a flow, if it has any, over those that are there. */
static void
add_defaults(Checker *ck, Defaults *defaults, const JsonbValue *v, const JobqTrail *flow, bool check)
{
	JobqTrail  *trails = palloc(2 * sizeof(JobqTrail));
	Object		o = {.place = PLACE_DEFAULTS,.trail = &trails[0],.s = &defaults->job};
	List	   *faulty = NIL;
	ListCell   *cell;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;

	if (!is_object(v))
		return;
	trails[0] = step_to(flow, "defaults");
	trails[1] = step_to(&trails[0], "args");
	o.json = v->val.binary.data;
	read_object(ck, &o, check);
	if (check)
		check_options(ck, &o, NULL);

	/* those that a flow can have, again */
	it = JsonbIteratorInit(o.json);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = copy_string(&value);
		if (token != WJB_VALUE || !jobq_is_option(key) || !is_allowed(key, PLACE_DEFAULTS) ||
			is_among(o.faulty, key))
			continue;
		if (is_allowed(key, PLACE_SUBFLOW))
			jobq_read_key(&defaults->flow, key, &value);
		if (strcmp(key, "args") == 0 && is_object(&value))
		{
			defaults->args = value.val.binary.data;
			defaults->args_trail = &trails[1];
		}
	}

	/* what was wrong outside does not matter where it is given anew */
	foreach(cell, defaults->faulty)
	{
		if (!is_given(&o, lfirst(cell)))
			faulty = lappend(faulty, lfirst(cell));
	}
	defaults->faulty = list_concat(faulty, o.faulty);
}

/* Begin to read a member: what it is, and how it is without what it says itself. */
static void
begin_member(Object *o, const Defaults *defaults, JobqSubmission *s)
{
	JsonbValue	jobs;

	o->place = getKeyJsonValueFromContainer(o->json, "jobs", 4, &jobs) != NULL && jobs.type != jbvNull ?
		PLACE_SUBFLOW : PLACE_JOB;
	*s = o->place == PLACE_SUBFLOW ? defaults->flow : defaults->job;
	o->s = s;
}

/*
 * Checking
 */

/* How deep JSON is, or at least the bound. */
static bool
is_too_deep(Jsonb *json)
{
	JsonbIterator *it = JsonbIteratorInit(&json->root);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			depth = 0;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE)
	{
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
			depth++;
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			depth--;
		if (depth > MAX_JSON_DEPTH)
			return true;
	}
	return false;
}

static void check_members(Checker *ck, const Object *flow, const Level *outer);

/* Check a member, and those of a flow. */
static void
check_member(Checker *ck, const Level *level, int index, const JobqTrail *trail)
{
	JobqSubmission s;
	Object		o = {.json = jobq_graph_member(level->graph, index),.trail = trail,
	.level = level,.index = index};

	if (o.json == NULL)
	{
		add_fault(ck, trail, "a member must be a JSON object");
		return;
	}
	MemoryContextReset(ck->scratch);
	MemoryContextSwitchTo(ck->scratch);
	begin_member(&o, &level->defaults, &s);
	read_object(ck, &o, true);

	/*
	 * args that it takes were read there, but what they refer to depends on
	 * it
	 */
	if (level->defaults.args != NULL && !is_given(&o, "args"))
	{
		ReferenceCheck check = {.ck = ck,.level = level,.index = index,.member = trail};

		jobq_walk_references(level->defaults.args, level->defaults.args_trail, check_reference, &check);
	}
	check_options(ck, &o, &level->defaults);
	if (o.place == PLACE_SUBFLOW)
		check_members(ck, &o, level);
}

/* Check what is in a flow. */
static void
check_members(Checker *ck, const Object *flow, const Level *outer)
{
	Level		level = {.outer = outer,.index = flow->index,.depth = outer != NULL ? outer->depth + 1 : 1,
	.trail = flow->trail};
	JobqTrail	jobs = step_to(flow->trail, "jobs");
	JobqTrail	step = {.up = &jobs};
	MemoryContext work;
	ListCell   *cell;

	check_stack_depth();
	if (level.depth > MAX_FLOW_DEPTH)
	{
		add_fault(ck, flow->trail, psprintf("flows are nested more than %d deep", MAX_FLOW_DEPTH));
		return;
	}
	work = AllocSetContextCreate(ck->work, "jobq flow", ALLOCSET_SMALL_SIZES);
	MemoryContextSwitchTo(work);
	if (outer != NULL)
		level.defaults = outer->defaults;
	else
		init_defaults(&level.defaults);
	add_defaults(ck, &level.defaults, &flow->own[OWN_DEFAULTS], flow->trail, true);
	/* what is no array is a fault already */
	if (is_array(&flow->own[OWN_JOBS]))
	{
		level.graph = jobq_graph_create(flow->own[OWN_JOBS].val.binary.data);
		for (step.index = 0; step.index < jobq_graph_size(level.graph) && !is_enough(ck); step.index++)
		{
			CHECK_FOR_INTERRUPTS();
			check_member(ck, &level, step.index, &step);
			MemoryContextSwitchTo(work);
		}
		check_result(ck, &level, &flow->own[OWN_RESULT]);
		foreach(cell, jobq_graph_cycles(level.graph))
			add_fault(ck, &jobs, psprintf("jobs depend on each other in a cycle: %s", (char *) lfirst(cell)));
	}
	MemoryContextDelete(work);
}

/* A document, for jobq_try() */
typedef struct DocumentCheck
{
	Checker    *ck;
	Jsonb	   *flow;
} DocumentCheck;

/* Check it. */
static void
check_document(void *arg)
{
	DocumentCheck *check = arg;
	Checker    *ck = check->ck;
	JobqTrail	root = {0};
	Defaults	defaults;
	Object		o = {.place = PLACE_FLOW,.json = &check->flow->root,.trail = &root,.s = &defaults.flow};

	if (VARSIZE_ANY_EXHDR(check->flow) > MAX_SIZE)
		add_fault(ck, &root, psprintf("a flow can have %d MB at most", MAX_SIZE / (1024 * 1024)));
	else if (!JB_ROOT_IS_OBJECT(check->flow))
		add_fault(ck, &root, "a flow must be a JSON object");
	else if (is_too_deep(check->flow))
		add_fault(ck, &root, psprintf("JSON is nested more than %d deep", MAX_JSON_DEPTH));
	else
	{
		MemoryContextSwitchTo(ck->work);
		init_defaults(&defaults);
		read_object(ck, &o, true);
		check_options(ck, &o, NULL);
		if (o.own[OWN_JOBS].type == jbvNull)
			add_fault(ck, &root, "\"jobs\" must not be null");
		check_members(ck, &o, NULL);
	}
}

/* All faults of a flow, as a list of JobqFlowFault; NIL: it has none. */
List *
jobq_check_document(Jsonb *flow)
{
	Checker		ck = {.mcxt = CurrentMemoryContext};
	DocumentCheck check = {&ck, flow};
	ErrorData  *error;

	ck.work = AllocSetContextCreate(CurrentMemoryContext, "jobq document", ALLOCSET_DEFAULT_SIZES);
	ck.scratch = AllocSetContextCreate(ck.work, "jobq member", ALLOCSET_DEFAULT_SIZES);
	error = jobq_try(check_document, &check);
	if (error != NULL)
	{
		require_fault(error);
		FreeErrorData(error);
		ck.gather = true;
		MemoryContextReset(ck.work);
		ck.scratch = AllocSetContextCreate(ck.work, "jobq member", ALLOCSET_DEFAULT_SIZES);
		check_document(&check);
		MemoryContextSwitchTo(ck.mcxt);
	}
	MemoryContextDelete(ck.work);
	return ck.faults;
}

/*
 * Reading
 */

/* The member that is being read, for the error context. */
static void
member_error_callback(void *arg)
{
	errcontext("%s of the flow", jobq_trail_path(arg));
}

/* Push a key and its value. */
static void
push_pair(JsonbParseState **state, const char *key, JsonbValue *value)
{
	JsonbValue	k = {.type = jbvString};

	k.val.string.val = unconstify(char *, key);
	k.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &k);
	pushJsonbValue(state, WJB_VALUE, value);
}

/* Push what an object gives, but for what another gives (NULL: none). */
static void
push_given(JsonbParseState **state, JsonbContainer *object, const Object *but)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = copy_string(&v);
		else if (token == WJB_VALUE && v.type != jbvNull && (but == NULL || !is_given(but, key)))
			push_pair(state, key, &v);
	}
}

/* What a flow is made of, its defaults laid over those of the flow around it (NULL: none). */
static void
make_spec(Object *o, const JsonbValue *outer)
{
	JobqFlowSpec *spec = palloc0(sizeof(JobqFlowSpec));
	JsonbValue *defaults = &o->own[OWN_DEFAULTS];
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString};

	if (o->own[OWN_ON_FAILURE].type != jbvNull)
	{
		const char *name = copy_string(&o->own[OWN_ON_FAILURE]);

		while (strcmp(on_failures[spec->on_failure], name) != 0)
			spec->on_failure++;
	}
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	push_pair(&state, "jobs", &o->own[OWN_JOBS]);
	if (defaults->type != jbvNull || (outer != NULL && outer->type != jbvNull))
	{
		Object		own = {.json = defaults->type != jbvNull ? defaults->val.binary.data : NULL};

		key.val.string.val = "defaults";
		key.val.string.len = strlen("defaults");
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		if (outer != NULL && outer->type != jbvNull)
			push_given(&state, outer->val.binary.data, own.json != NULL ? &own : NULL);
		if (own.json != NULL)
			push_given(&state, own.json, NULL);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	if (o->own[OWN_RESULT].type != jbvNull)
		push_pair(&state, "result", &o->own[OWN_RESULT]);
	spec->definition = JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
	o->s->flow = spec;
}

/*
 * Read a flow, but for its members.  What is wrong with it is raised; what is wrong
 * with defaults, members or the result is not found.
 */
void
jobq_read_flow(Jsonb *flow, JobqSubmission *s)
{
	Checker		ck = {.gather = false};
	JobqTrail	root = {0};
	Defaults	defaults;
	Object		o = {.place = PLACE_FLOW,.json = &flow->root,.trail = &root,.s = s};

	if (!JB_ROOT_IS_OBJECT(flow))
		add_fault(&ck, &root, "a flow must be a JSON object");
	init_defaults(&defaults);
	*s = defaults.flow;
	read_object(&ck, &o, true);
	if (o.own[OWN_JOBS].type == jbvNull)
		jobq_error_null("jobs");
	make_spec(&o, NULL);
	jobq_check_submission(s);
}

/*
 * Read the members of a flow, given what it is made of; returns how many.  Raises what
 * is wrong with one by itself; what they say of each other is not looked at.
 */
int
jobq_read_members(Jsonb *definition, JobqFlowMember **members)
{
	Checker		ck = {.gather = false};
	JobqTrail	root = {0};
	JobqTrail	jobs = step_to(&root, "jobs");
	JobqTrail	step = {.up = &jobs,.index = -1};
	JsonbValue	array;
	JsonbValue	given = {.type = jbvNull};
	Defaults	defaults;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	ErrorContextCallback context = {.callback = member_error_callback,.arg = &step,
	.previous = error_context_stack};

	if (getKeyJsonValueFromContainer(&definition->root, "jobs", 4, &array) == NULL || !is_array(&array))
		jobq_error_must("jobs", "be an array of members");
	init_defaults(&defaults);
	if (getKeyJsonValueFromContainer(&definition->root, "defaults", 8, &given) != NULL)
		add_defaults(&ck, &defaults, &given, &root, false);
	*members = palloc_extended(Max(JsonContainerSize(array.val.binary.data), 1) * sizeof(JobqFlowMember),
							   MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	it = JsonbIteratorInit(array.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		Object		o = {.trail = &step};
		JobqFlowMember *member;

		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		step.index++;
		error_context_stack = &context;
		if (!is_object(&v))
			add_fault(&ck, &step, "a member must be a JSON object");
		member = &(*members)[step.index];
		o.json = v.val.binary.data;
		begin_member(&o, &defaults, &member->s);
		read_object(&ck, &o, false);
		if (o.place == PLACE_SUBFLOW)
			make_spec(&o, &given);
		jobq_check_submission(&member->s);
		if (o.own[OWN_IF].type != jbvNull)
			member->condition = copy_string(&o.own[OWN_IF]);
		if (o.own[OWN_CRITICAL].type == jbvBool && !o.own[OWN_CRITICAL].val.boolean)
			jobq_set(&member->s.row, JOB_CRITICAL, BoolGetDatum(false));
		member->path = jobq_trail_path(&step);
		error_context_stack = context.previous;
	}
	return step.index + 1;
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
	faults = jobq_check_document(PG_GETARG_JSONB_P(0));
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
