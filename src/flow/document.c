/*
 * document.c
 *	  What a flow says, as JSON, as submissions.
 *
 * A flow is an object with the options of a submission that make sense for a flow,
 * and "jobs", an array of members: jobs and, with "jobs" of their own, flows.  A
 * member says the same as an element of job_submit_many, and less where "defaults"
 * of the flow say it.  No table is read.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/timestamp.h"

#include "flow/document.h"

/* The member that is being read, for the error context. */
static void
member_error_callback(void *arg)
{
	errcontext("%s of the flow", jobq_trail_path(arg));
}

/* Push a key and its value. */
void
jobq_push_pair(JsonbParseState **state, const char *key, JsonbValue *value)
{
	JsonbValue	k = {.type = jbvString};

	k.val.string.val = unconstify(char *, key);
	k.val.string.len = strlen(key);
	pushJsonbValue(state, WJB_KEY, &k);
	pushJsonbValue(state, WJB_VALUE, value);
}

/* Push what an object gives, but for what another gives (NULL: none). */
static void
push_given(JsonbParseState **state, JsonbContainer *object, const JobqObject *but)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	char	   *key = NULL;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = jobq_copy_string(&v);
		else if (token == WJB_VALUE && v.type != jbvNull && (but == NULL || !jobq_gives(but, key)))
			jobq_push_pair(state, key, &v);
	}
}

/*
 * What a member is made of that is a flow, or a map: only that, its defaults laid over those
 * of the flow around it.
 */
static Jsonb *
member_definition(JobqObject *o, const JsonbValue *outer)
{
	const JsonbValue *defaults = &o->own[OWN_DEFAULTS];
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	if (o->place == PLACE_MAP)
	{
		jobq_push_pair(&state, "map", &o->own[OWN_MAP]);
		jobq_push_pair(&state, "job", &o->own[OWN_JOB]);
		if (o->own[OWN_CANARY].type != jbvNull)
			jobq_push_pair(&state, "canary", &o->own[OWN_CANARY]);
		if (o->own[OWN_MIN_SUCCESS].type != jbvNull)
			jobq_push_pair(&state, "min_success", &o->own[OWN_MIN_SUCCESS]);
	}
	else
		jobq_push_pair(&state, "jobs", &o->own[OWN_JOBS]);
	if (defaults->type != jbvNull || outer->type != jbvNull)
	{
		JobqObject	own = {.json = defaults->type != jbvNull ? defaults->val.binary.data : NULL};

		key.val.string.val = "defaults";
		key.val.string.len = strlen("defaults");
		pushJsonbValue(&state, WJB_KEY, &key);
		pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
		if (outer->type != jbvNull)
			push_given(&state, outer->val.binary.data, own.json != NULL ? &own : NULL);
		if (own.json != NULL)
			push_given(&state, own.json, NULL);
		pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	}
	if (o->own[OWN_RESULT].type != jbvNull)
		jobq_push_pair(&state, "result", &o->own[OWN_RESULT]);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * What a flow is, or a map; of a whole document (outer NULL), whose root the object
 * is, that is the definition.
 */
static void
make_spec(JobqObject *o, const JsonbValue *outer)
{
	JobqFlowSpec *spec = palloc0(sizeof(JobqFlowSpec));

	if (o->own[OWN_ON_FAILURE].type != jbvNull)
		spec->on_failure = jobq_find_on_failure(jobq_copy_string(&o->own[OWN_ON_FAILURE]));
	spec->paused = o->own[OWN_PAUSED].type == jbvBool && o->own[OWN_PAUSED].val.boolean;
	if (!jobq_read_count(&o->own[OWN_PERMITS], 0, &spec->permits))
		spec->permits = -1;
	(void) jobq_read_count(&o->own[OWN_MAX_RUNNING], 1, &spec->max_running);
	if (outer != NULL)
		spec->definition = member_definition(o, outer);
	else
		spec->definition = (Jsonb *) ((char *) o->json - offsetof(Jsonb, root));
	o->s->flow = spec;
}

/* Keep the conditions on results upstream: of names that stand in depends_on, or ids. */
static void
read_when(const JsonbValue *when, JobqSubmission *s)
{
	JsonbIterator *it = JsonbIteratorInit(when->val.binary.data);
	JsonbIteratorToken token;
	JsonbValue	v;

	s->conditions = palloc0(Max(JsonContainerSize(when->val.binary.data), 1) * sizeof(JobqCondition));
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		JobqCondition *c = &s->conditions[s->nconditions];

		if (token == WJB_KEY)
			c->name = jobq_copy_string(&v);
		else if (token == WJB_VALUE && v.type == jbvString)
		{
			c->path = jobq_copy_string(&v);
			c->upstream = jobq_find_upstream(s, c->name);
			s->nconditions++;
		}
	}
}

/*
 * The id of a job outside that a member depends on, given as a string; 0: there is none,
 * or it is a name that stands in depends_on.
 */
int64
jobq_find_upstream(const JobqSubmission *s, const char *string)
{
	for (int i = 0; i < s->nnames; i++)
	{
		if (strcmp(s->names[i], string) == 0)
			return 0;
	}
	for (int i = 0; i < s->nupstream; i++)
	{
		char		id[MAXINT8LEN + 1];

		pg_lltoa(s->upstream[i], id);
		if (strcmp(id, string) == 0)
			return s->upstream[i];
	}
	return 0;
}

/* Keep what only flows say that were made here: that undo others, or are backfills. */
static void
read_internal(const JobqObject *o)
{
	if (o->own[OWN_UNDO_OF].type == jbvNumeric)
		jobq_set(&o->s->row, JOB_UNDO_OF,
				 DirectFunctionCall1(numeric_int8, NumericGetDatum(o->own[OWN_UNDO_OF].val.numeric)));
	if (o->own[OWN_REPEATS].type == jbvBool)
		jobq_set(&o->s->row, JOB_REPEATS, BoolGetDatum(true));
	if (o->own[OWN_SCHEDULE_ID].type == jbvNumeric && o->own[OWN_SCHEDULED_FOR].type == jbvString)
	{
		jobq_set(&o->s->row, JOB_SCHEDULE_ID,
				 DirectFunctionCall1(numeric_int8, NumericGetDatum(o->own[OWN_SCHEDULE_ID].val.numeric)));
		jobq_set(&o->s->row, JOB_SCHEDULED_FOR,
				 DirectFunctionCall3(timestamptz_in, CStringGetDatum(jobq_copy_string(&o->own[OWN_SCHEDULED_FOR])),
									 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
	}
}

/*
 * Keep what an object says that is no option, after all that it says was read: what a
 * flow is made of, with the defaults of the flow around it (outer), and of a member
 * (not NULL) what it says of the flow that it stands in.
 */
void
jobq_keep_own(JobqObject *o, const JsonbValue *outer, JobqElement *member)
{
	if (o->place != PLACE_JOB)
		make_spec(o, outer);
	read_internal(o);
	if (member == NULL)
		return;
	if (o->own[OWN_IF].type != jbvNull)
		member->condition = jobq_copy_string(&o->own[OWN_IF]);
	if (o->own[OWN_WHEN].type != jbvNull)
		read_when(&o->own[OWN_WHEN], o->s);
	if (o->own[OWN_CRITICAL].type == jbvBool && !o->own[OWN_CRITICAL].val.boolean)
		jobq_set(&o->s->row, JOB_CRITICAL, BoolGetDatum(false));
}

/*
 * Read a flow that was checked, or made here, but for its members.  What is wrong with
 * it is raised; what is wrong with defaults, members or the result is not found.  The
 * submission points into the document.
 */
void
jobq_read_flow(Jsonb *flow, JobqSubmission *s)
{
	JobqChecker ck = {.stored = true};
	JobqTrail	root = {0};
	JobqDefaults defaults;
	JobqObject	o = {.place = PLACE_FLOW,.json = &flow->root,.trail = &root,.s = s};

	if (!JB_ROOT_IS_OBJECT(flow))
		jobq_add_fault(&ck, &root, "a flow must be a JSON object");
	jobq_init_defaults(&defaults);
	*s = defaults.flow;
	jobq_read_keys(&ck, &o);
	if (o.own[OWN_JOBS].type == jbvNull)
		jobq_error_null("jobs");
	if (s->nnames > 0)
		jobq_error_must("depends_on", "be an array of ids");
	jobq_check_submission(s);
	jobq_keep_own(&o, NULL, NULL);
}

/* Read a member, which stands where its trail leads to, in a flow with these defaults (given: as JSON). */
static void
read_member(const JsonbValue *v, const JobqTrail *trail, const JobqDefaults *defaults, const JsonbValue *given,
			JobqElement *member)
{
	JobqChecker ck = {.stored = true};
	JobqObject	o = {.trail = trail};

	if (!jobq_is_object(v))
		jobq_add_fault(&ck, trail, "a member must be a JSON object");
	o.json = v->val.binary.data;
	jobq_begin_flow_member(&o, defaults, &member->s);
	jobq_read_keys(&ck, &o);
	jobq_check_submission(&member->s);
	jobq_keep_own(&o, given, member);
}

/*
 * Read the members of a flow, given what it is made of; of a map the one that its items make.
 * Raises what is wrong with one by itself; what they say of each other is not looked at.
 */
void
jobq_read_members(Jsonb *definition, JobqElements *es)
{
	JobqChecker ck = {.stored = true};
	JobqTrail	root = {0};
	JobqTrail	jobs = jobq_step_to(&root, "jobs");
	JobqTrail	step = {.up = &jobs,.index = -1};
	JsonbValue	array;
	JsonbValue	given = {.type = jbvNull};
	JobqDefaults defaults;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	ErrorContextCallback context = {.callback = member_error_callback,.arg = &step,
	.previous = error_context_stack};

	jobq_init_defaults(&defaults);
	if (getKeyJsonValueFromContainer(&definition->root, "defaults", 8, &given) != NULL)
		jobq_add_defaults(&ck, &defaults, &given, &root);
	if (getKeyJsonValueFromContainer(&definition->root, "job", 3, &v) != NULL)
	{
		JobqTrail	job = jobq_step_to(&root, "job");

		jobq_elements_init(es, "job", 1);
		read_member(&v, &job, &defaults, &given, jobq_elements_add(es));
		return;
	}
	if (getKeyJsonValueFromContainer(&definition->root, "jobs", 4, &array) == NULL || !jobq_is_array(&array))
		jobq_error_must("jobs", "be an array of members");
	jobq_elements_init(es, "jobs", JsonContainerSize(array.val.binary.data));
	it = JsonbIteratorInit(array.val.binary.data);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_ELEM)
			continue;
		CHECK_FOR_INTERRUPTS();
		step.index++;
		error_context_stack = &context;
		read_member(&v, &step, &defaults, &given, jobq_elements_add(es));
		error_context_stack = context.previous;
	}
}
