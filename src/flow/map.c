/*
 * map.c
 *	  Maps: flows that do one job with each item of an array.
 *
 * A map is a flow whose members are made of one, its "job", when it starts: one for each item of
 * the array that "map" refers to then.  What it says of {"$item": jsonpath} and {"$index": true} is
 * put in (template.c), so nothing else needs to know of items.  The members have no names, and
 * ids in the order of the items, which is that of the map's result, too.
 *
 * With "canary": n the row of the map says up to which id members may begin.  When these have
 * succeeded, all may; when one did not, the others are cancelled (jobq_fold_flow).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/memutils.h"

#include "flow/document.h"

#define ITEMS_AT_ONCE	1000	/* that are in memory */
#define MAX_ITEMS	1000000

/* For the error context: which items of a map are being inserted. */
static void
items_error_callback(void *arg)
{
	const int  *first = arg;

	errcontext("items of a map from number %d on", *first);
}

/*
 * What a map goes over, as an array.  The flow around it has that open, so what it refers
 * to is decided.
 */
static JsonbContainer *
find_items(JobqCall *call, int64 id, Jsonb *definition)
{
	JsonbValue	v;
	JsonbValue	scalar;
	Jsonb	   *items;
	bool		too_large;

	getKeyJsonValueFromContainer(&definition->root, "map", 3, &v);
	items = jobq_resolve_items(call, id, JsonbValueToJsonb(&v), &too_large);
	if (too_large)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("\"map\" refers to more than %d MB", JOBQ_MAX_FLOW_MB)));
	if (items == NULL || !JB_ROOT_IS_ARRAY(items) || JB_ROOT_IS_SCALAR(items))
	{
		scalar.type = jbvNull;
		if (items != NULL && !JsonbExtractScalar(&items->root, &scalar))
		{
			scalar.type = jbvBinary;
			scalar.val.binary.data = &items->root;
		}
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 scalar.type == jbvNull ? errmsg("\"map\" refers to nothing") :
				 errmsg("\"map\" refers to JSON of type %s, not to an array", JsonbTypeName(&scalar))));
	}
	if (JB_ROOT_COUNT(items) > MAX_ITEMS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("\"map\" refers to an array of %d items, and a map can have %d at most", (int) JB_ROOT_COUNT(items), MAX_ITEMS)));
	return &items->root;
}

/*
 * The items of a map from one to before another as the members of a flow, as jobq_read_members()
 * reads them.
 */
static Jsonb *
items_definition(Jsonb *definition, JsonbContainer *items, int from, int to)
{
	JsonbParseState *state = NULL;
	JsonbValue	key = {.type = jbvString};
	JsonbValue	job;
	JsonbValue	defaults;

	getKeyJsonValueFromContainer(&definition->root, "job", 3, &job);
	key.val.string.val = "jobs";
	key.val.string.len = strlen("jobs");
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	pushJsonbValue(&state, WJB_KEY, &key);
	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = from; i < to; i++)
		jobq_push_item_job(&state, job.val.binary.data, JsonbValueToJsonb(getIthJsonbValueFromContainer(items, i)), i);
	pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	if (getKeyJsonValueFromContainer(&definition->root, "defaults", 8, &defaults) != NULL)
		jobq_push_pair(&state, "defaults", &defaults);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/*
 * Insert the items of a map, which has left its state, some at a time, and open its row.  Their
 * ids are in the order of the items.
 */
void
jobq_start_map(JobqCall *call, int64 id, JobqSlot slot, Jsonb *definition)
{
	JsonbContainer *items = find_items(call, id, definition);
	int			n = JsonContainerSize(items);
	Jsonb	   *args = jobq_flow_args(call, id);
	MemoryContext old = CurrentMemoryContext;
	MemoryContext chunk = AllocSetContextCreate(old, "jobq items", ALLOCSET_DEFAULT_SIZES);
	JobqCounters c = {0};
	JsonbValue	v;
	int			canaries = 0;
	int			to;
	int			first;
	int64		first_id = 0;
	ErrorContextCallback context = {.callback = items_error_callback,.arg = &first,.previous = error_context_stack};

	if (getKeyJsonValueFromContainer(&definition->root, "canary", 6, &v) != NULL)
		(void) jobq_read_count(&v, 1, &canaries);
	error_context_stack = &context;
	for (first = 0; first < n; first = to)
	{
		JobqElements members;

		/* the canaries by themselves */
		to = Min(first + ITEMS_AT_ONCE, n);
		if (first < canaries && canaries < to)
			to = canaries;
		MemoryContextSwitchTo(chunk);
		jobq_read_members(items_definition(definition, items, first, to), &members);
		jobq_insert_members(call, id, &members, args, &c);
		if (first == 0)
			first_id = members.elements[0].s.id;
		if (to == canaries || (to == n && n < canaries))
			jobq_begin_canaries(call, id, canaries, first_id, members.elements[members.n - 1].s.id);
		MemoryContextSwitchTo(old);
		MemoryContextReset(chunk);
	}
	error_context_stack = context.previous;
	MemoryContextDelete(chunk);
	jobq_open_flow(call, id, slot, &c, NULL);
}
