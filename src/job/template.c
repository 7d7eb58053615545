/*
 * template.c
 *	  The job of a schedule: what is submitted at each of its times; and that of a map, for
 *	  each of its items.
 *
 * That of a schedule is a job, an element of job_submit_many, or a flow, an object with "jobs".  A
 * schedule keeps it settled, so that the background worker, which has other settings,
 * reads in it what was read when the schedule was made.  In args, of a flow also those of its
 * members and of their undos, {"$time": "scheduled"} stands for the time that it is
 * submitted for, and {"$time": "previous"} for the one before it.  These are put in when it is
 * submitted, so nothing else needs to know of them; {"$literal": any} stays as it is.
 *
 * That of a map is a member of a flow, in which {"$item": jsonpath} and {"$index": true} stand for
 * a value in the item, and its number.  They are put in when the map starts; what comes of an item
 * and could be taken for a reference becomes a literal.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/datetime.h"
#include "utils/fmgrprotos.h"

#include "job/job.h"

void		(*jobq_check_flow) (Jsonb *flow) = NULL;
void		(*jobq_read_flow_job) (Jsonb *flow, JobqSubmission *s) = NULL;
void		(*jobq_admit_flow) (JobqCall *call, const JobqSubmission *s) = NULL;

/* What is done with a template */
typedef struct Rewrite
{
	bool		settle;			/* intervals become those of ISO 8601, else
								 * times are put in: */
	const char *times[2];		/* by JobqScheduleTime; NULL: there is none */
	bool		used[2];		/* those that were referred to */
	Jsonb	   *item;			/* of a map, is put in and no times are; NULL:
								 * none */
	int			index;			/* its number */
} Rewrite;

/* Is the job of a schedule a flow? */
bool
jobq_is_flow_template(Jsonb *template)
{
	JsonbValue	jobs;

	return JB_ROOT_IS_OBJECT(template) &&
		getKeyJsonValueFromContainer(&template->root, "jobs", 4, &jobs) != NULL && jobs.type != jbvNull;
}

/* Read the job of a schedule, and check what can be checked of it alone, but for the members of a flow. */
void
jobq_read_template(JobqSubmission *s, Jsonb *template)
{
	JsonbValue	v = {.type = jbvBinary};

	v.val.binary.data = &template->root;
	v.val.binary.len = VARSIZE_ANY_EXHDR(template);
	if (jobq_is_flow_template(template))
		jobq_read_flow_job(template, s);
	else
		jobq_read_object(s, &v);
	if (s->nnames > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"depends_on\" of a schedule's job cannot name \"%s\"", s->names[0]),
				 errhint("It can have ids of existing jobs.")));
	if (s->row.given[JOB_FLOW - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the job of a schedule cannot have \"flow\""),
				 errhint("A flow ends, and gets no members after that.")));
	if (s->row.given[JOB_RUN_AT - 1] && !s->row.given[SUBMISSION_RUN_IN - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the job of a schedule cannot have \"run_at\""),
				 errhint("That is the time of the schedule; \"run_in\" can put it off.")));
	if (s->row.given[JOB_EXPIRES_AT - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("the job of a schedule cannot have \"expires_at\""),
				 errhint("It would be one time for all jobs; with \"overlap\" \"cancel\" each is cancelled when the next comes.")));
}

/* Is an object nothing but this key, with a value? */
static bool
is_only(JsonbContainer *object, const char *key, JsonbValue *value)
{
	return JsonContainerSize(object) == 1 && getKeyJsonValueFromContainer(object, key, strlen(key), value) != NULL;
}

/*
 * Push what was found in an item, NULL for nothing; as a literal, if that is asked
 * for, or there could be a reference in it.
 */
static JsonbValue *
push_found(JsonbParseState **state, JsonbIteratorToken token, Jsonb *found, bool literal)
{
	JsonbValue	v = {.type = jbvNull};
	JsonbValue	key = {.type = jbvString};

	if (found != NULL && JB_ROOT_IS_SCALAR(found))
		(void) JsonbExtractScalar(&found->root, &v);
	else if (found != NULL)
	{
		v.type = jbvBinary;
		v.val.binary.data = &found->root;
		v.val.binary.len = VARSIZE(found) - VARHDRSZ;
		literal |= memchr(VARDATA(found), '$', VARSIZE(found) - VARHDRSZ) != NULL;
	}
	if (!literal)
		return pushJsonbValue(state, token, &v);
	/* an object takes the place of the value */
	key.val.string.val = "$literal";
	key.val.string.len = strlen("$literal");
	pushJsonbValue(state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(state, WJB_KEY, &key);
	pushJsonbValue(state, WJB_VALUE, &v);
	return pushJsonbValue(state, WJB_END_OBJECT, NULL);
}

/*
 * Push what an object in the job of a map stands for; false: it is no reference to the item.
 * whole: it is all there is of args, which must be an object.
 */
static bool
push_of_item(const Rewrite *rewrite, JsonbParseState **state, JsonbIteratorToken token, JsonbContainer *object,
			 bool whole, JsonbValue **done)
{
	JsonbValue	v;
	Jsonb	   *found;

	if (is_only(object, "$index", &v))
		found = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(psprintf("%d", rewrite->index))));
	else if (is_only(object, "$item", &v) && v.type == jbvString)
		found = jobq_path_first_or_none(rewrite->item, pnstrdup(v.val.string.val, v.val.string.len));
	else
		return false;
	*done = push_found(state, token, found, whole);
	return true;
}

/* Push a value of args, with what it refers to put in: times, or an item. */
static JsonbValue *
push_args(Rewrite *rewrite, JsonbParseState **state, JsonbIteratorToken token, JsonbValue *value, bool whole)
{
	JsonbContainer *container = value->val.binary.data;
	JsonbIterator *it;
	JsonbValue	v;
	JsonbValue *done = NULL;
	int			which;

	check_stack_depth();
	if (value->type != jbvBinary || (JsonContainerIsObject(container) && is_only(container, "$literal", &v)))
		return pushJsonbValue(state, token, value);
	if (rewrite->item != NULL && JsonContainerIsObject(container) && push_of_item(rewrite, state, token, container, whole, &done))
		return done;
	if (rewrite->item == NULL && JsonContainerIsObject(container) && is_only(container, "$time", &v) && (which = jobq_find_schedule_time(&v)) >= 0)
	{
		const char *time = rewrite->times[which];

		rewrite->used[which] = true;
		v.type = time != NULL ? jbvString : jbvNull;
		v.val.string.val = unconstify(char *, time);
		v.val.string.len = time != NULL ? strlen(time) : 0;
		return pushJsonbValue(state, token, &v);
	}
	it = JsonbIteratorInit(container);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		CHECK_FOR_INTERRUPTS();
		if (token == WJB_VALUE || token == WJB_ELEM)
			done = push_args(rewrite, state, token, &v, false);
		else
			done = pushJsonbValue(state, token, token == WJB_KEY ? &v : NULL);
	}
	return done;
}

/*
 * Does a key of an object have args, in which something is put in?  So has what a map
 * goes over and, in the job of a map, the result of a flow.
 */
static bool
has_args(const Rewrite *rewrite, const char *key)
{
	return !rewrite->settle &&
		(strcmp(key, "args") == 0 || strcmp(key, "map") == 0 ||
		 (strcmp(key, "result") == 0 && rewrite->item != NULL));
}

/*
 * Is the value of a key an object like the one around it?  The job of a map in the
 * job of a map has items of its own.
 */
static bool
is_nested(const Rewrite *rewrite, const char *key)
{
	return strcmp(key, "defaults") == 0 || strcmp(key, "undo") == 0 ||
		(strcmp(key, "job") == 0 && rewrite->item == NULL);
}

/* Push an object of a template: a job, a flow, a map, what undoes a job or, of a flow, its defaults. */
static JsonbValue *
push_object(Rewrite *rewrite, JsonbParseState **state, JsonbContainer *object)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	JsonbValue *done = NULL;
	char	   *key = NULL;
	char	   *text;

	check_stack_depth();
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		bool		is_object = token == WJB_VALUE && v.type == jbvBinary && JsonContainerIsObject(v.val.binary.data);
		bool		is_array = token == WJB_VALUE && v.type == jbvBinary && JsonContainerIsArray(v.val.binary.data);

		CHECK_FOR_INTERRUPTS();
		if (token == WJB_KEY)
			key = pnstrdup(v.val.string.val, v.val.string.len);
		if (is_object && is_nested(rewrite, key))
			done = push_object(rewrite, state, v.val.binary.data);
		else if ((is_object || is_array) && has_args(rewrite, key))
			done = push_args(rewrite, state, token, &v, true);
		else if (is_array && strcmp(key, "jobs") == 0)
		{
			JsonbIterator *members = JsonbIteratorInit(v.val.binary.data);

			while ((token = JsonbIteratorNext(&members, &v, true)) != WJB_DONE)
			{
				if (token == WJB_ELEM && v.type == jbvBinary && JsonContainerIsObject(v.val.binary.data))
					done = push_object(rewrite, state, v.val.binary.data);
				else
					done = pushJsonbValue(state, token, token == WJB_ELEM ? &v : NULL);
			}
		}
		else if (token == WJB_VALUE && rewrite->settle && (text = jobq_settled_option(key, &v)) !=NULL)
		{
			v.val.string.val = text;

			v.val.string.len = strlen(text);
			done = pushJsonbValue(state, token, &v);
		}
		else
			done = pushJsonbValue(state, token, token == WJB_KEY || token == WJB_VALUE ? &v : NULL);
	}
	return done;
}

/* A template, rewritten. */
static Jsonb *
rewrite_template(Rewrite *rewrite, Jsonb *template)
{
	JsonbParseState *state = NULL;

	return JsonbValueToJsonb(push_object(rewrite, &state, &template->root));
}

/* A template that was read, such that it is read in the same way under all settings.  It has no times. */
Jsonb *
jobq_settle_template(Jsonb *template)
{
	Rewrite		rewrite = {.settle = true};

	return rewrite_template(&rewrite, template);
}

/* Can there be a reference to a time?  Most templates have none. */
static bool
may_refer(Jsonb *template)
{
	const char *at = VARDATA_ANY(template);
	const char *end = at + VARSIZE_ANY_EXHDR(template);

	while ((at = memchr(at, '$', end - at)) != NULL && (end - at < 5 || memcmp(at, "$time", 5) != 0))
		at++;
	return at != NULL && JB_ROOT_IS_OBJECT(template);
}

/* Does a template refer to this time? */
bool
jobq_uses_time(Jsonb *template, JobqScheduleTime which)
{
	Rewrite		rewrite = {.settle = false};

	if (!may_refer(template))
		return false;
	(void) rewrite_template(&rewrite, template);
	return rewrite.used[which];
}

/* A template with its times put in; previous: NULL for none. */
Jsonb *
jobq_put_times(Jsonb *template, const char *scheduled, const char *previous)
{
	Rewrite		rewrite = {.times = {scheduled, previous}};

	return may_refer(template) ? rewrite_template(&rewrite, template) : template;
}

/* Push the job of a map, with an item put in. */
JsonbValue *
jobq_push_item_job(JsonbParseState **state, JsonbContainer *job, Jsonb *item, int index)
{
	Rewrite		rewrite = {.item = item,.index = index};

	return push_object(&rewrite, state, job);
}

/* A time as it is put in: ISO 8601, in UTC, with as many digits of a second as it has. */
char *
jobq_iso_time(TimestampTz at)
{
	struct pg_tm tm;
	fsec_t		fsec;
	char text[	MAXDATELEN + 1];
	bool		bc;

	if (timestamp2tm(at, NULL, &tm, &fsec, NULL, NULL) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_DATETIME_VALUE_OUT_OF_RANGE),
				 errmsg("timestamp out of range")));
	bc = tm.tm_year <= 0;
	EncodeDateTime(&tm, fsec, false, 0, NULL, USE_XSD_DATES, text);
	return psprintf("%.*sZ%s", (int) strlen(text) - (bc ? 3 : 0), text, bc ? " BC" : "");
}
