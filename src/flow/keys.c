/*
 * keys.c
 *	  What an object of a flow's document says by itself: its keys.
 *
 * Options are those of a submission, and are read by options.c; which of them an
 * object can have, and what else, is said here.  The defaults of a flow are read
 * once, and each member begins as a copy of them.
 */
#include "postgres.h"

#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"
#include "utils/varlena.h"

#include "flow/document.h"

#define MOST_WRONG_LETTERS	3	/* of a key that is taken for another */

/* All that a member can be */
#define PLACE_MEMBER	(PLACE_SUBFLOW | PLACE_JOB | PLACE_MAP)

/* Keys that are no options, and which objects can have them */
static const struct
{
	const char *key;
	int			places;
	bool		internal;		/* job_undo() or job_backfill() makes it */
}			own_keys[NOWN] = {

	/* where a member gives it, it is a flow, or a map */
	[OWN_JOBS] = {"jobs", PLACE_FLOW | PLACE_SUBFLOW | PLACE_JOB},
	[OWN_MAP] = {"map", PLACE_MAP | PLACE_JOB},
	[OWN_DEFAULTS] = {"defaults", PLACE_FLOW | PLACE_SUBFLOW},
	[OWN_RESULT] = {"result", PLACE_FLOW | PLACE_SUBFLOW},
	[OWN_ON_FAILURE] = {"on_failure", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	[OWN_IF] = {"if", PLACE_MEMBER},
	[OWN_WHEN] = {"when", PLACE_MEMBER},
	[OWN_CRITICAL] = {"critical", PLACE_MEMBER},
	[OWN_PAUSED] = {"paused", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	[OWN_PERMITS] = {"permits", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	[OWN_MAX_RUNNING] = {"max_running", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	[OWN_JOB] = {"job", PLACE_MAP},
	[OWN_CANARY] = {"canary", PLACE_MAP},
	[OWN_MIN_SUCCESS] = {"min_success", PLACE_MAP},
	[OWN_UNDO_OF] = {"undo_of", PLACE_FLOW | PLACE_SUBFLOW | PLACE_JOB, true},
	[OWN_REPEATS] = {"repeats", PLACE_JOB, true},
	[OWN_SCHEDULE_ID] = {"schedule_id", PLACE_SUBFLOW | PLACE_JOB, true},
	[OWN_SCHEDULED_FOR] = {"scheduled_for", PLACE_SUBFLOW | PLACE_JOB, true},
};

/* Options that not all objects can have */
static const struct
{
	const char *key;
	int			places;			/* that cannot */
}			excluded[] = {
	{"flow", PLACE_FLOW | PLACE_MEMBER | PLACE_DEFAULTS},
	{"kind", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	{"requires", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	{"affinity", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	{"partition", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	{"manual", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	{"undo", PLACE_FLOW | PLACE_SUBFLOW | PLACE_MAP},
	/* it has those of the flow around it */
	{"args", PLACE_MAP},
	{"name", PLACE_DEFAULTS},
	{"depends_on", PLACE_DEFAULTS},
	{"unique_key", PLACE_DEFAULTS},
};

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
is_allowed(const char *option, JobqPlace place)
{
	for (int i = 0; i < lengthof(excluded); i++)
	{
		if (excluded[i].key[0] == option[0] && strcmp(excluded[i].key, option) == 0)
			return (excluded[i].places & place) == 0;
	}
	return true;
}

/* Which of the keys that are no options a key is there, or NOWN. */
static JobqOwnKey
find_own_key(const JobqChecker *ck, const char *key, JobqPlace place)
{
	int			i = 0;

	/* most differ in the first letter */
	while (i < NOWN && !(own_keys[i].key[0] == key[0] && strcmp(own_keys[i].key, key) == 0 &&
						 (own_keys[i].places & place) && (ck->stored || !own_keys[i].internal)))
		i++;
	return i;
}

/* Is a value a number within from .. upto?  As a double it may be out of range. */
static bool
is_within(const JsonbValue *v, int from, int upto)
{
	return v->type == jbvNumeric &&
		DatumGetBool(DirectFunctionCall2(numeric_ge, NumericGetDatum(v->val.numeric), NumericGetDatum(int64_to_numeric(from)))) &&
		DatumGetBool(DirectFunctionCall2(numeric_le, NumericGetDatum(v->val.numeric), NumericGetDatum(int64_to_numeric(upto))));
}

/* Read a whole number that is least or more; false: it is none. */
bool
jobq_read_count(const JsonbValue *v, int least, int *n)
{
	Datum		number;

	if (!is_within(v, least, PG_INT32_MAX))
		return false;
	number = NumericGetDatum(v->val.numeric);
	*n = DatumGetInt32(DirectFunctionCall1(numeric_int4, number));
	/* one with a fraction was rounded */
	return DatumGetBool(DirectFunctionCall2(numeric_eq, number, NumericGetDatum(int64_to_numeric(*n))));
}

/* The keys that can be there. */
static List *
allowed_keys(JobqPlace place)
{
	List	   *keys = NIL;
	const char *option;

	for (int i = 0; i < NOWN; i++)
	{
		if ((own_keys[i].places & place) && !own_keys[i].internal)
			keys = lappend(keys, unconstify(char *, own_keys[i].key));
	}
	for (int i = 0; (option = jobq_option_name(i)) != NULL; i++)
	{
		if (is_allowed(option, place))
			keys = lappend(keys, unconstify(char *, option));
	}
	return keys;
}

/*
 * The first of the keys that differ least from one that is wrong, by a letter in
 * three at most; NULL: there is none.
 */
static const char *
nearest_key(const char *key, const List *keys)
{
	int			len = strlen(key);
	int			most = Min((len + 1) / 3, MOST_WRONG_LETTERS);
	const char *nearest = NULL;
	ListCell   *cell;

	foreach(cell, keys)
	{
		const char *right = lfirst(cell);
		int			d = varstr_levenshtein_less_equal(key, len, right, strlen(right), 1, 1, 1, most, true);

		if (d > most)
			continue;
		nearest = right;
		most = d - 1;
	}
	return nearest;
}

/* A key that cannot be there: which was meant, or which can be. */
static void
fault_key(JobqChecker *ck, const JobqTrail *trail, const char *key, JobqPlace place)
{
	StringInfoData text;
	List	   *keys = allowed_keys(place);
	const char *nearest = nearest_key(key, keys);
	ListCell   *cell;
	const char *what = place == PLACE_DEFAULTS ? "Defaults" : place == PLACE_JOB ? "A member" :
	place == PLACE_FLOW ? "A flow" : place == PLACE_MAP ? "A map" : "A flow in a flow";
	const char *separator = "";

	initStringInfo(&text);
	appendStringInfo(&text, "unrecognized key: \"%s\". ", key);
	if (place == PLACE_JOB && strcmp(key, "job") == 0)
	{
		appendStringInfoString(&text, "It goes with \"map\", which is not there.");
		jobq_add_fault(ck, trail, text.data);
		return;
	}
	if (nearest != NULL)
	{
		appendStringInfo(&text, "Did you mean \"%s\"?", nearest);
		jobq_add_fault(ck, trail, text.data);
		return;
	}
	appendStringInfo(&text, "%s can have ", what);
	foreach(cell, keys)
	{
		appendStringInfo(&text, "%s\"%s\"", separator, (const char *) lfirst(cell));
		separator = ", ";
	}
	appendStringInfoString(&text, place == PLACE_MAP ? ". What is done with each item stands in its \"job\"." : ".");
	jobq_add_fault(ck, trail, text.data);
}

/* An option to be read */
typedef struct OptionRead
{
	JobqSubmission *s;
	const char *key;
	JsonbValue *v;
} OptionRead;

/* Read it; for jobq_attempt(). */
static void
read_option(void *arg)
{
	OptionRead *read = arg;

	jobq_read_key(read->s, read->key, read->v);
}

/* Check the conditions on results upstream, each by itself. */
static void
check_when(JobqChecker *ck, const JobqTrail *trail, JsonbContainer *when)
{
	JsonbIterator *it = JsonbIteratorInit(when);
	JsonbIteratorToken token;
	JsonbValue	v;
	JobqTrail	step = {.up = trail};

	while ((token = JsonbIteratorNext(&it, &v, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
		{
			step.key = v.val.string.val;
			step.len = v.val.string.len;
		}
		else if (token == WJB_VALUE && v.type == jbvString)
			jobq_attempt(ck, &step, jobq_parse_jsonpath, jobq_copy_string(&v));
		else if (token == WJB_VALUE)
			jobq_add_fault(ck, &step, "a condition must be a string, which is a jsonpath");
	}
}

/* Check a value that is no option and has a form of its own. */
static void
check_own(JobqChecker *ck, const JobqTrail *trail, JobqOwnKey key, const JsonbValue *v)
{
	const char *must = NULL;
	int			n;

	if (v->type == jbvNull)
		return;
	switch (key)
	{
		case OWN_JOBS:
			if (!jobq_is_array(v))
				must = "be an array of members";
			break;
		case OWN_DEFAULTS:
			if (!jobq_is_object(v))
				must = "be an object";
			break;
		case OWN_JOB:
			if (!jobq_is_object(v))
				must = "be a member, which is an object";
			break;
		case OWN_WHEN:
			if (jobq_is_object(v))
				check_when(ck, trail, v->val.binary.data);
			else
				must = "be an object with a jsonpath for each upstream job";
			break;
		case OWN_MAP:
			if (v->type != jbvBinary)
				must = "be a reference to an array, or an array";
			break;
		case OWN_CANARY:
			if (!jobq_read_count(v, 1, &n))
				must = "be a whole number, 1 or more";
			break;
		case OWN_MIN_SUCCESS:
			if (!is_within(v, 0, 1))
				must = "be a number from 0 to 1";
			break;
		case OWN_ON_FAILURE:
			if (v->type != jbvString)
				must = "be a string";
			else
			{
				char	   *name = jobq_copy_string(v);

				if (jobq_find_on_failure(name) >= 0)
					return;
				jobq_add_fault(ck, trail, psprintf("unrecognized value for \"on_failure\": \"%s\". Valid values are \"continue\", \"cancel\", \"drain\" and \"undo\".", name));
			}
			break;
		case OWN_IF:
			if (v->type == jbvString)
				jobq_attempt(ck, trail, jobq_parse_jsonpath, jobq_copy_string(v));
			else
				must = "be a string";
			break;
		case OWN_CRITICAL:
		case OWN_PAUSED:
			if (v->type != jbvBool)
				must = "be true or false";
			break;
		case OWN_PERMITS:
			if (!jobq_read_count(v, 0, &n))
				must = "be a whole number, 0 or more";
			break;
		case OWN_MAX_RUNNING:
			if (!jobq_read_count(v, 1, &n))
				must = "be a whole number, 1 or more";
			break;
		case OWN_RESULT:
		case OWN_UNDO_OF:
		case OWN_REPEATS:
		case OWN_SCHEDULE_ID:
		case OWN_SCHEDULED_FOR:
		case NOWN:
			break;
	}
	if (must != NULL)
		jobq_add_fault(ck, trail, psprintf("\"%s\" must %s", own_keys[key].key, must));
}

/* Read the keys of an object into its submission, and what it has beside. */
void
jobq_read_keys(JobqChecker *ck, JobqObject *o)
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
		JobqOwnKey	own;

		if (token == WJB_KEY)
			key = jobq_copy_string(&v);
		if (token != WJB_VALUE)
			continue;
		step = jobq_step_to(o->trail, key);
		own = find_own_key(ck, key, o->place);
		if (own != NOWN)
		{
			check_own(ck, &step, own, &v);
			o->own[own] = v;
		}
		else if (jobq_is_option(key) && is_allowed(key, o->place))
		{
			OptionRead	read = {o->s, key, &v};
			bool		good = jobq_attempt(ck, &step, read_option, &read);

			if (ck->look != NULL)
				good = ck->look(ck, o, key, &v, good, &step);
			if (!good)
				o->faulty = lappend(o->faulty, key);
		}
		else
			fault_key(ck, &step, key, o->place);
	}
}

/* A check of options together, for jobq_attempt() */
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
bool
jobq_gives(const JobqObject *o, const char *key)
{
	JsonbValue	v;

	return getKeyJsonValueFromContainer(o->json, key, strlen(key), &v) != NULL && v.type != jbvNull;
}

/*
 * Check the options of an object together, where all that a check is about could be
 * read.  Of defaults only what is about one key, and is given, is checked.
 */
void
jobq_check_options(JobqChecker *ck, JobqObject *o, const JobqDefaults *defaults)
{
	CheckRun	run = {.s = o->s};

	/* the first fault ends it, so all that is there could be read */
	if (!ck->gather && o->place != PLACE_DEFAULTS)
	{
		jobq_check_submission(o->s);
		return;
	}
	for (int i = 0; (run.check = jobq_submission_check(i)) != NULL; i++)
	{
		const char *const *keys = run.check->keys;
		JobqTrail	step = jobq_step_to(o->trail, keys[0]);
		bool		good = o->place != PLACE_DEFAULTS || (keys[1] == NULL && jobq_gives(o, keys[0]));

		for (int k = 0; good && keys[k] != NULL; k++)
			good = !is_among(o->faulty, keys[k]) &&
				(defaults == NULL || jobq_gives(o, keys[k]) || !is_among(defaults->faulty, keys[k]));
		if (good && !jobq_attempt(ck, jobq_gives(o, keys[0]) ? &step : o->trail, run_check, &run))
			o->faulty = lappend(o->faulty, unconstify(char *, keys[0]));
	}
}

/* What the members of a flow that is in no other are without defaults. */
void
jobq_init_defaults(JobqDefaults *defaults)
{
	Datum		empty = DirectFunctionCall1(jsonb_in, CStringGetDatum("{}"));

	memset(defaults, 0, sizeof(JobqDefaults));
	jobq_submission_init(&defaults->job);
	jobq_set(&defaults->job.row, JOB_ARGS, empty);
	defaults->flow = defaults->job;
	jobq_set_text(&defaults->flow.row, JOB_KIND, "flow");
	jobq_set(&defaults->flow.row, JOB_FLOW_TYPE, Int16GetDatum(JOBQ_FLOW_TYPE_FLOW));
	defaults->map = defaults->flow;
	jobq_set_text(&defaults->map.row, JOB_KIND, "map");
	jobq_set(&defaults->map.row, JOB_FLOW_TYPE, Int16GetDatum(JOBQ_FLOW_TYPE_MAP));
}

/* Lay the defaults of a flow, if it has any, over those that are there. */
void
jobq_add_defaults(JobqChecker *ck, JobqDefaults *defaults, const JsonbValue *v, const JobqTrail *flow)
{
	JobqTrail  *trails = palloc(2 * sizeof(JobqTrail));
	JobqObject	o = {.place = PLACE_DEFAULTS,.trail = &trails[0],.s = &defaults->job};
	List	   *faulty = NIL;
	ListCell   *cell;
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	value;
	char	   *key = NULL;
	bool		good;

	if (!jobq_is_object(v))
		return;
	trails[0] = jobq_step_to(flow, "defaults");
	trails[1] = jobq_step_to(&trails[0], "args");
	o.json = v->val.binary.data;
	jobq_read_keys(ck, &o);
	jobq_check_options(ck, &o, NULL);

	/* those that a flow can have, again */
	it = JsonbIteratorInit(o.json);
	while ((token = JsonbIteratorNext(&it, &value, true)) != WJB_DONE)
	{
		if (token == WJB_KEY)
			key = jobq_copy_string(&value);
		if (token != WJB_VALUE || value.type == jbvNull || !jobq_is_option(key) ||
			!is_allowed(key, PLACE_DEFAULTS))
			continue;
		good = !is_among(o.faulty, key);
		/* a timeout is of attempts there, not of a flow as a whole */
		if (good && is_allowed(key, PLACE_SUBFLOW) && strcmp(key, "timeout") != 0)
			jobq_read_key(&defaults->flow, key, &value);
		if (good && is_allowed(key, PLACE_MAP) && strcmp(key, "timeout") != 0)
			jobq_read_key(&defaults->map, key, &value);
		if (strcmp(key, "args") == 0)
		{
			defaults->args = good ? value.val.binary.data : NULL;
			defaults->args_trail = &trails[1];
		}
	}

	/* what was wrong outside does not matter where it is given anew */
	foreach(cell, defaults->faulty)
	{
		if (!jobq_gives(&o, lfirst(cell)))
			faulty = lappend(faulty, lfirst(cell));
	}
	defaults->faulty = list_concat(faulty, o.faulty);
}

/* Begin to read a member: what it is, and how it is without what it says itself. */
void
jobq_begin_flow_member(JobqObject *o, const JobqDefaults *defaults, JobqSubmission *s)
{
	o->place = jobq_gives(o, "map") ? PLACE_MAP : jobq_gives(o, "jobs") ? PLACE_SUBFLOW : PLACE_JOB;
	*s = o->place == PLACE_MAP ? defaults->map : o->place == PLACE_SUBFLOW ? defaults->flow : defaults->job;
	o->s = s;
}
