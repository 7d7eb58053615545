/*
 * reference.c
 *	  What args refer to: the results of other members of a flow, and the flow's args.
 *
 * A reference is an object with a key that begins with "$":
 *
 *		{"$result": name, "path": jsonpath}		the path can be left out
 *		{"$args": jsonpath}
 *		{"$literal": any}						stands for what it has
 *		{"$undo": "args" | "result" | "key", "path": jsonpath}	of the job that is
 *												undone, in what undoes it
 *		{"$time": "scheduled" | "previous"}		of a schedule, in its job; replaced when
 *												that is submitted (template.c)
 *		{"$item": jsonpath}, {"$index": true}	of a map, in its job; replaced when the
 *												map starts (template.c)
 *
 * Here is known what one looks like and where the references of a document stand,
 * not what they stand for.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/json.h"

#include "job/job.h"

#define REFERENCES	"a reference is {\"$result\": name, \"path\": jsonpath}, {\"$args\": jsonpath} or {\"$literal\": value}, " \
	"in the job of a map also {\"$item\": jsonpath} or {\"$index\": true}, " \
	"in that of a schedule {\"$time\": \"scheduled\" or \"previous\"}, " \
	"in an undo {\"$undo\": \"args\", \"result\" or \"key\", \"path\": jsonpath}"

/* The names of JobqReferenceType */
static const char *const types[] = {"$result", "$args", "$literal", "$undo", "$time", "$item", "$index"};

/* The names of JobqUndoneValue */
static const char *const undone_values[] = {"args", "result", "key"};

/* The names of JobqScheduleTime */
static const char *const schedule_times[] = {"scheduled", "previous"};

/*
 * Is JSON nested more deeply than members of flows may have it?  What is put together of
 * such could else be too deep for a claim.
 */
bool
jobq_is_deep(JsonbContainer *json)
{
	JsonbIterator *it = JsonbIteratorInit(json);
	JsonbIteratorToken token;
	JsonbValue	v;
	int			depth = 0;

	while ((token = JsonbIteratorNext(&it, &v, false)) != WJB_DONE && depth <= JOBQ_MAX_DEPTH)
	{
		if (token == WJB_BEGIN_OBJECT || token == WJB_BEGIN_ARRAY)
			depth++;
		else if (token == WJB_END_OBJECT || token == WJB_END_ARRAY)
			depth--;
	}
	return depth > JOBQ_MAX_DEPTH;
}

/* Can a key stand in a jsonpath without quotes? */
static bool
is_plain(const char *key, int len)
{
	for (int i = 0; i < len; i++)
	{
		char		c = key[i];

		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '_' || (i > 0 && c >= '0' && c <= '9')))
			return false;
	}
	return len > 0;
}

/* Where a trail leads to, as a jsonpath. */
char *
jobq_trail_path(const JobqTrail *trail)
{
	StringInfoData path;
	List	   *steps = NIL;

	for (; trail->up != NULL; trail = trail->up)
		steps = lappend(steps, unconstify(JobqTrail *, trail));
	initStringInfo(&path);
	appendStringInfoChar(&path, '$');
	for (int i = list_length(steps) - 1; i >= 0; i--)
	{
		const JobqTrail *step = list_nth(steps, i);

		if (step->key == NULL)
			appendStringInfo(&path, "[%d]", step->index);
		else if (is_plain(step->key, step->len))
			appendStringInfo(&path, ".%.*s", step->len, step->key);
		else
		{
			appendStringInfoChar(&path, '.');
			escape_json(&path, pnstrdup(step->key, step->len));
		}
	}
	list_free(steps);
	return path.data;
}

/* Which of some names a string is, or -1. */
static int
find_name(const JsonbValue *string, const char *const *names, int n)
{
	for (int i = 0; i < n; i++)
	{
		if (strlen(names[i]) == string->val.string.len &&
			memcmp(names[i], string->val.string.val, string->val.string.len) == 0)
			return i;
	}
	return -1;
}

/* Which type of reference a key makes, or -1. */
static int
find_type(const JsonbValue *key)
{
	return find_name(key, types, lengthof(types));
}

/* Which time of a schedule a value of "$time" names, or -1. */
int
jobq_find_schedule_time(const JsonbValue *v)
{
	return v->type == jbvString ? find_name(v, schedule_times, lengthof(schedule_times)) : -1;
}

/* Does a key begin with "$"? */
static bool
is_special(const JsonbValue *key)
{
	return key->val.string.len > 0 && key->val.string.val[0] == '$';
}

/* The key of an object that makes it a reference; of several, one that is known. */
static bool
find_special(JsonbContainer *object, JsonbValue *special)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	bool		found = false;

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token != WJB_KEY || !is_special(&v))
			continue;
		if (!found || find_type(special) < 0)
			*special = v;
		found = true;
	}
	return found;
}

/* Read what stands beside the key that makes a reference. */
static void
read_rest(JsonbContainer *object, const JsonbValue *special, JobqReference *r)
{
	JsonbIterator *it = JsonbIteratorInit(object);
	JsonbIteratorToken token;
	JsonbValue	v;
	JsonbValue	key = {0};

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = v;
		else if (token != WJB_VALUE)
			continue;
		else if (key.val.string.val == special->val.string.val)
			r->value = v;
		else if ((r->type == REFERENCE_RESULT || r->type == REFERENCE_UNDO) && key.val.string.len == 4 &&
				 memcmp(key.val.string.val, "path", 4) == 0)
			r->path = v;
		else if (r->problem == NULL)
			r->problem = psprintf("unrecognized key beside \"%s\": \"%.*s\"; " REFERENCES, types[r->type],
								  key.val.string.len, key.val.string.val);
	}
}

/*
 * Read a reference; false: it is none, but plain JSON.  Whether its jsonpath is one,
 * and whom it names, is not looked at.
 */
bool
jobq_read_reference(JsonbContainer *json, JobqReference *r)
{
	JsonbValue	special = {.type = jbvNull};
	int			type;

	if (!JsonContainerIsObject(json) || !find_special(json, &special))
		return false;
	memset(r, 0, sizeof(JobqReference));
	r->value.type = jbvNull;
	r->path.type = jbvNull;
	type = find_type(&special);
	if (type < 0)
	{
		r->problem = psprintf("unrecognized reference: \"%.*s\"; " REFERENCES,
							  special.val.string.len, special.val.string.val);
		return true;
	}
	r->type = type;
	read_rest(json, &special, r);
	if (r->problem == NULL && type == REFERENCE_INDEX && !(r->value.type == jbvBool && r->value.val.boolean))
		r->problem = "\"$index\" must be true";
	if (r->problem == NULL && type != REFERENCE_LITERAL && type != REFERENCE_INDEX && r->value.type != jbvString)
		r->problem = psprintf("\"%s\" must be a string", types[type]);
	if (r->problem == NULL && r->path.type != jbvNull && r->path.type != jbvString)
		r->problem = "\"path\" must be a string";
	if (r->problem == NULL && type == REFERENCE_UNDO)
	{
		int			undone = find_name(&r->value, undone_values, lengthof(undone_values));

		if (undone < 0)
			r->problem = "\"$undo\" must be \"args\", \"result\" or \"key\"";
		else
			r->undone = undone;
	}
	if (r->problem == NULL && type == REFERENCE_TIME && jobq_find_schedule_time(&r->value) < 0)
		r->problem = "\"$time\" must be \"scheduled\" or \"previous\"";
	return true;
}

/*
 * What is wrong with a reference where it stands, in what undoes a member (undo) or
 * elsewhere, in the job of a map (item) or not; NULL: nothing.  In the job of a
 * schedule times are put in before anything looks at it.
 */
const char *
jobq_reference_problem(const JobqReference *r, bool undo, bool item)
{
	if (r->problem == NULL && r->type == REFERENCE_UNDO && !undo)
		return "\"$undo\" stands in the args of an undo only";
	if (r->problem == NULL && r->type == REFERENCE_TIME)
		return "\"$time\" stands in the args of a schedule's job only";
	if (r->problem == NULL && (r->type == REFERENCE_ITEM || r->type == REFERENCE_INDEX) && !item)
		return psprintf("\"%s\" stands in the job of a map only", types[r->type]);
	return r->problem;
}

/* Is what a reference is to put in before any member of a flow can be claimed (template.c)? */
bool
jobq_is_put_in(const JobqReference *r)
{
	return r->type == REFERENCE_TIME || r->type == REFERENCE_ITEM || r->type == REFERENCE_INDEX;
}

/* Call back for each reference in JSON, which stands where the trail leads to. */
void
jobq_walk_references(JsonbContainer *json, const JobqTrail *trail, JobqReferenceCallback callback, void *arg)
{
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	v;
	JobqReference r;
	JobqTrail	step = {.up = trail,.index = -1};

	check_stack_depth();
	if (jobq_read_reference(json, &r))
	{
		callback(&r, trail, arg);
		return;
	}
	it = JsonbIteratorInit(json);
	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			step.key = v.val.string.val;
			step.len = v.val.string.len;
		}
		else if (token == WJB_ELEM)
			step.index++;
		if ((token == WJB_VALUE || token == WJB_ELEM) && v.type == jbvBinary)
			jobq_walk_references(v.val.binary.data, &step, callback, arg);
	}
}
