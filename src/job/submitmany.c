/*
 * submitmany.c
 *	  Submitting many jobs at once, from JSON, with names for one another.
 *
 * All elements are read and checked first, then sorted topologically so that ids grow
 * along the edges, then unique keys are taken in one order, then the parents outside
 * the call are locked in ascending order, then the jobs are inserted.  An error at
 * any point undoes all of it; the context line of the error says which element it is
 * about.
 */
#include "postgres.h"

#include "common/hashfn.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "port/pg_bswap.h"

#include "job/job.h"

typedef struct NameEntry
{
	char	   *name;			/* hash key */
	int			index;
} NameEntry;

/* Say which element an error is about. */
static void
element_error_callback(void *arg)
{
	const JobqElements *es = arg;
	const char *name;

	if (es->at < 0)
		return;
	name = es->elements[es->at].s.name;
	if (name != NULL)
		errcontext("element %d (\"%s\") of \"%s\"", es->at, name, es->what);
	else
		errcontext("element %d of \"%s\"", es->at, es->what);
}

/* All elements of the array. */
static void
read_elements(Jsonb *jobs, JobqElements *es)
{
	JsonbIterator *it = JsonbIteratorInit(&jobs->root);
	JsonbIteratorToken token;
	JsonbValue	item;

	while ((token = JsonbIteratorNext(&it, &item, true)) != WJB_DONE)
	{
		JobqElement *e;

		if (token != WJB_ELEM)
			continue;
		e = jobq_elements_add(es);
		es->at++;
		jobq_read_object(&e->s, &item);
	}
	es->at = -1;
}

/* Hash of a NameEntry's key. */
static uint32
name_hash(const void *key, Size keysize)
{
	const char *name = *(const char *const *) key;

	return hash_bytes((const unsigned char *) name, strlen(name));
}

/* Comparison of the same. */
static int
name_match(const void *a, const void *b, Size keysize)
{
	return strcmp(*(const char *const *) a, *(const char *const *) b);
}

/* Resolve the names in depends_on to elements. */
static void
resolve_names(JobqElements *es)
{
	JobqElement *elements = es->elements;
	int			n = es->n;
	HASHCTL		ctl = {.keysize = sizeof(char *),.entrysize = sizeof(NameEntry),
		.hash = name_hash,.match = name_match,
	.hcxt = CurrentMemoryContext};
	HTAB	   *names = hash_create("jobq names", Max(n, 16), &ctl,
									HASH_ELEM | HASH_FUNCTION | HASH_COMPARE | HASH_CONTEXT);
	NameEntry  *entry;
	bool		found;

	for (int i = 0; i < n; i++)
	{
		es->at = i;
		if (elements[i].s.name == NULL)
			continue;
		entry = hash_search(names, &elements[i].s.name, HASH_ENTER, &found);
		if (found)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("elements %d and %d have the same name \"%s\"",
							entry->index, i, elements[i].s.name)));
		entry->index = i;
	}
	for (int i = 0; i < n; i++)
	{
		JobqElement *e = &elements[i];

		es->at = i;
		e->uses = palloc(Max(e->s.nnames, 1) * sizeof(int));
		for (int k = 0; k < e->s.nnames; k++)
		{
			entry = hash_search(names, &e->s.names[k], HASH_FIND, NULL);
			if (entry == NULL)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("no element has the name \"%s\"", e->s.names[k]),
						 errhint("\"depends_on\" names other elements, or has the ids of existing jobs as numbers.")));
			e->uses[k] = entry->index;
			elements[entry->index].ndependents++;
		}
		for (int k = 0; k < e->s.nnames; k++)
		{
			if (elements[e->uses[k]].named_by == i + 1)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("\"%s\" is named twice in \"depends_on\"", e->s.names[k])));
			elements[e->uses[k]].named_by = i + 1;
		}
	}
	es->at = -1;
	hash_destroy(names);
}

/* An element that one which is left waits for, and which is left itself. */
static int
next_unresolved(const JobqElement *elements, int i)
{
	int			k = 0;

	while (elements[elements[i].uses[k]].unresolved == 0)
		k++;
	return elements[i].uses[k];
}

/* Some elements could not be sorted: find a cycle among them and name it. */
static void
error_cycle(JobqElement *elements, int n)
{
	bool	   *seen = palloc0(n * sizeof(bool));
	StringInfoData path;
	int			i = 0;
	int			start;

	/* from an element that is left, going to one it waits for ends in a cycle */
	while (elements[i].unresolved == 0)
		i++;
	while (!seen[i])
	{
		seen[i] = true;
		i = next_unresolved(elements, i);
	}
	start = i;
	initStringInfo(&path);
	do
	{
		appendStringInfo(&path, "\"%s\" -> ", elements[i].s.name);
		i = next_unresolved(elements, i);
	} while (i != start);
	appendStringInfo(&path, "\"%s\"", elements[start].s.name);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("jobs depend on each other in a cycle: %s", path.data)));
}

/* Sort the elements topologically, in input order where it does not matter. */
static int *
sort_elements(JobqElement *elements, int n)
{
	int		   *order = palloc(Max(n, 1) * sizeof(int));
	int			done = 0;

	for (int i = 0; i < n; i++)
	{
		elements[i].dependents = palloc(Max(elements[i].ndependents, 1) * sizeof(int));
		elements[i].ndependents = 0;
	}
	for (int i = 0; i < n; i++)
	{
		JobqElement *e = &elements[i];

		e->unresolved = e->s.nnames;
		for (int k = 0; k < e->s.nnames; k++)
		{
			JobqElement *used = &elements[e->uses[k]];

			used->dependents[used->ndependents++] = i;
		}
		if (e->unresolved == 0)
			order[done++] = i;
	}
	for (int next = 0; next < done; next++)
	{
		JobqElement *e = &elements[order[next]];

		for (int k = 0; k < e->ndependents; k++)
		{
			if (--elements[e->dependents[k]].unresolved == 0)
				order[done++] = e->dependents[k];
		}
	}
	if (done < n)
		error_cycle(elements, n);
	return order;
}

/* An element with a unique key, for sorting */
typedef struct KeyedElement
{
	JobqElement *element;
	int			index;
	int64		queue_id;
	uint64		prefix;			/* of the key, which settles most comparisons */
} KeyedElement;

/* By queue and key. */
static inline int
compare_keys(const KeyedElement *x, const KeyedElement *y)
{
	if (x->queue_id != y->queue_id)
		return x->queue_id < y->queue_id ? -1 : 1;
	if (x->prefix != y->prefix)
		return x->prefix < y->prefix ? -1 : 1;
	return strcmp(x->element->s.unique_key, y->element->s.unique_key);
}

/* The same, then in input order. */
static inline int
compare_keyed(const KeyedElement *x, const KeyedElement *y)
{
	int			order = compare_keys(x, y);

	return order != 0 ? order : x->index < y->index ? -1 : 1;
}

#define ST_SORT sort_keyed
#define ST_ELEMENT_TYPE KeyedElement
#define ST_COMPARE(a, b) compare_keyed(a, b)
#define ST_SCOPE static
#define ST_DEFINE
#include "lib/sort_template.h"

/* An element before this one has its key, and is to be submitted by this call. */
static void
resolve_within(JobqCall *call, JobqElement *elements, JobqElement *e, int owner)
{
	JobqSubmission *s = &e->s;
	JobqSubmission *other = &elements[owner].s;

	if (e->ndependents > 0 || DatumGetInt16(s->row.values[SUBMISSION_ON_CONFLICT - 1]) == CONFLICT_CANCEL)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("element %d has the same unique key", owner),
				 errhint("Of elements with one key, only the first can be named in \"depends_on\", and none of the others have \"on_conflict\" \"cancel\".")));
	e->owner = owner;
	if (DatumGetInt16(s->row.values[SUBMISSION_ON_CONFLICT - 1]) == CONFLICT_REPLACE)
	{
		jobq_replace_values(call, &other->row, &s->row);
		other->flow = s->flow;
		s->dropped = true;
	}
	else
	{
		jobq_advance();
		(void) jobq_resolve_key(call, s);
	}
}

/* Take the keys after the first together, if all are free. */
static bool
take_together(JobqCall *call, JobqElements *es, const KeyedElement *keyed, int nkeyed)
{
	JobqSubmission **submissions = palloc_extended(nkeyed * sizeof(JobqSubmission *), MCXT_ALLOC_HUGE);
	int			n = 0;
	bool		taken;

	es->at = -1;
	for (int i = 1; i < nkeyed; i++)
	{
		if (compare_keys(&keyed[i - 1], &keyed[i]) != 0)
			submissions[n++] = &keyed[i].element->s;
	}
	taken = n > 0 && jobq_try_is_cheap() && jobq_take_keys(call, n, submissions);
	pfree(submissions);
	return taken;
}

/*
 * Take the unique keys of all elements, in the order of queues and keys, as every
 * call does.  Ids are drawn before, in topological order, since the rows of keys
 * name them.  If the first key was free, the others are likely to be free, too.
 */
static void
resolve_keys(JobqCall *call, JobqElements *es)
{
	JobqElement *elements = es->elements;
	const int  *order = es->order;
	int			n = es->n;
	KeyedElement *keyed = palloc_extended(Max(n, 1) * sizeof(KeyedElement), MCXT_ALLOC_HUGE);
	int			nkeyed = 0;
	int			owner = -1;
	bool		together = false;

	for (int i = 0; i < n; i++)
	{
		KeyedElement *k;

		if (elements[i].s.unique_key == NULL)
			continue;
		k = &keyed[nkeyed++];
		k->element = &elements[i];
		k->index = i;
		k->queue_id = elements[i].s.queue_id;
		strncpy((char *) &k->prefix, elements[i].s.unique_key, sizeof(k->prefix));
		k->prefix = pg_ntoh64(k->prefix);
	}
	for (int i = 0; i < n && nkeyed > 0; i++)
		elements[order[i]].s.id = jobq_nextval();
	sort_keyed(keyed, nkeyed);
	for (int i = 0; i < nkeyed; i++)
	{
		JobqElement *e = keyed[i].element;

		CHECK_FOR_INTERRUPTS();
		es->at = keyed[i].index;
		if (i > 0 && compare_keys(&keyed[i - 1], &keyed[i]) != 0)
			owner = -1;
		if (owner >= 0)
			resolve_within(call, elements, e, owner);
		else
		{
			if (!together && jobq_resolve_key(call, &e->s) && i == 0)
				together = take_together(call, es, keyed, nkeyed);
			if (!e->s.dropped)
				owner = keyed[i].index;
		}
	}
	es->at = -1;
	pfree(keyed);
}

/* A parent outside the call, and an element that depends on it */
typedef struct OutsideParent
{
	int64		id;				/* first, for jobq_compare_ids() */
	int			element;
} OutsideParent;

/* Lock and read the parents outside the call, in ascending order. */
static void
resolve_upstream(JobqCall *call, JobqElements *es, HTAB *parents)
{
	JobqElement *elements = es->elements;
	int			n = es->n;
	Size		total = 0;
	OutsideParent *all;

	for (int i = 0; i < n; i++)
		total += elements[i].s.nupstream + 1;
	all = palloc_extended(Max(total, 1) * sizeof(OutsideParent), MCXT_ALLOC_HUGE);
	total = 0;
	for (int i = 0; i < n; i++)
	{
		for (int k = 0; k < elements[i].s.nupstream; k++)
		{
			all[total].id = elements[i].s.upstream[k];
			all[total].element = i;
			total++;
		}
		/* others name the element, and so depend on the job that has its key */
		if (elements[i].s.dropped && elements[i].ndependents > 0)
		{
			all[total].id = elements[i].s.id;
			all[total].element = elements[i].dependents[0];
			total++;
		}
	}
	qsort(all, total, sizeof(OutsideParent), jobq_compare_ids);
	for (Size i = 0; i < total; i++)
	{
		es->at = all[i].element;
		jobq_resolve_upstream(call, parents, all[i].id, all[i].id < es->known_before);
	}
	es->at = -1;
	pfree(all);
}

/*
 * Put the ids of the elements that one depends on to those of jobs outside.  Two of
 * them can be one job, where another has their keys; a quorum must still be one of
 * those that are left.
 */
static void
add_named(JobqCall *call, const JobqElement *elements, JobqElement *e)
{
	JobqSubmission *s = &e->s;
	int			kept = 0;

	for (int k = 0; k < s->nnames; k++)
	{
		const JobqSubmission *up = &elements[e->uses[k]].s;

		jobq_check_scope_within(call, s, up);
		s->upstream[s->nupstream++] = up->id;
	}
	if (s->nnames == 0)
		return;
	for (int i = 0; i < s->nconditions; i++)
	{
		for (int k = 0; k < s->nnames && s->conditions[i].upstream == 0; k++)
		{
			if (strcmp(s->conditions[i].name, s->names[k]) == 0)
				s->conditions[i].upstream = elements[e->uses[k]].s.id;
		}
	}
	qsort(s->upstream, s->nupstream, sizeof(int64), jobq_compare_ids);
	for (int k = 0; k < s->nupstream; k++)
	{
		if (kept == 0 || s->upstream[k] != s->upstream[kept - 1])
			s->upstream[kept++] = s->upstream[k];
	}
	s->nupstream = kept;
	if (DatumGetInt16(s->row.values[JOB_RULE - 1]) == RULE_QUORUM &&
		DatumGetInt32(s->row.values[JOB_QUORUM - 1]) > kept)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"quorum\" is greater than the number of jobs in \"depends_on\", which is %d", kept),
				 errdetail("Some of them are one job, which has the unique keys of the elements that stand there.")));
}

/* Room for n elements; none is there yet. */
void
jobq_elements_init(JobqElements *es, const char *what, int n)
{
	es->what = what;
	es->n = 0;
	es->elements = palloc_extended(Max(n, 1) * sizeof(JobqElement), MCXT_ALLOC_HUGE);
	es->order = NULL;
	es->at = -1;
	es->known_before = 0;
}

/* The next element, which the caller reads into it. */
JobqElement *
jobq_elements_add(JobqElements *es)
{
	JobqElement *e = &es->elements[es->n++];

	memset(e, 0, sizeof(JobqElement));
	e->owner = -1;
	return e;
}

/* Have errors say which element they are about. */
static void
push_context(JobqElements *es, ErrorContextCallback *context)
{
	context->callback = element_error_callback;
	context->arg = es;
	context->previous = error_context_stack;
	error_context_stack = context;
}

/* Resolve their names, and sort them. */
void
jobq_elements_sort(JobqElements *es)
{
	ErrorContextCallback context;

	push_context(es, &context);
	resolve_names(es);
	es->order = sort_elements(es->elements, es->n);
	error_context_stack = context.previous;
}

/* Submit them, which were sorted. */
void
jobq_elements_submit(JobqCall *call, JobqElements *es)
{
	HTAB	   *outcomes;
	ErrorContextCallback context;

	push_context(es, &context);
	for (int i = 0; i < es->n; i++)
	{
		es->at = i;
		jobq_admit(call, &es->elements[i].s);
	}
	es->at = -1;
	resolve_keys(call, es);
	outcomes = jobq_upstream_create();
	resolve_upstream(call, es, outcomes);
	jobq_bulk_begin(call);
	for (int i = 0; i < es->n; i++)
	{
		JobqElement *e = &es->elements[es->order[i]];
		JobqSubmission *s = &e->s;

		CHECK_FOR_INTERRUPTS();
		es->at = es->order[i];
		if (s->dropped)
			continue;
		add_named(call, es->elements, e);
		jobq_settle_id(call, s);
		jobq_submit(call, s, outcomes);
	}
	es->at = -1;
	jobq_bulk_end(call);
	jobq_advance();
	for (int i = 0; i < es->n; i++)
	{
		es->at = i;
		jobq_check_joined(call, &es->elements[i].s);
	}
	es->at = -1;
	error_context_stack = context.previous;
}

PG_FUNCTION_INFO_V1(jobq_job_submit_many);

/* job_submit_many(jobs) */
Datum
jobq_job_submit_many(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobqCall	call;
	Jsonb	   *jobs;
	JobqElements es;
	ErrorContextCallback context;

	if (PG_ARGISNULL(0))
		jobq_error_null("jobs");
	jobs = PG_GETARG_JSONB_P(0);
	if (!JB_ROOT_IS_ARRAY(jobs) || JB_ROOT_IS_SCALAR(jobs))
		jobq_error_must("jobs", "be a JSON array of objects");
	jobq_elements_init(&es, "jobs", JB_ROOT_COUNT(jobs));
	push_context(&es, &context);
	read_elements(jobs, &es);
	error_context_stack = context.previous;
	jobq_elements_sort(&es);

	InitMaterializedSRF(fcinfo, MAT_SRF_USE_EXPECTED_DESC);
	jobq_enter(&call, "job_submit_many()", true);
	jobq_elements_submit(&call, &es);

	for (int i = 0; i < es.n; i++)
	{
		const JobqSubmission *s = &es.elements[i].s;
		int			owner = es.elements[i].owner;
		Datum		value = Int64GetDatum(owner >= 0 ? es.elements[owner].s.id : s->id);
		bool		isnull = s->dropped &&
		DatumGetInt16(s->row.values[SUBMISSION_ON_CONFLICT - 1]) == CONFLICT_SKIP;

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, &value, &isnull);
	}
	jobq_close_call(&call);
	return (Datum) 0;
}
