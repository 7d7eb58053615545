/*
 * labels.c
 *	  Labels that jobs require, and the lanes that their sets have.
 *
 * A job that requires labels is ready in another lane of its queue than one that
 * requires none, so that a claim still takes whatever comes first in the lanes that
 * its worker's labels reach.  The number of a lane follows from the queue and the set;
 * without labels it is that of the queue, which is read and written nowhere.
 *
 * Which sets there are is in job_lane.  Whoever submits a job and does not see the row
 * of its set inserts one, and waits for nobody: so a job that is committed has one,
 * whatever becomes of other transactions.  Two at once make two rows of a set, which
 * mean the same.  Rows stay, as those of queues do.
 *
 * They are remembered by each backend until one of our tables is invalidated, as is
 * done by the insertion of a row.  A claim that begins after the commit sees it;
 * one that slept is woken by the job.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "lib/stringinfo.h"
#include "utils/array.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/memutils.h"

#include "dispatch/dispatch.h"
#include "queue/queue.h"

/* The sets of labels of a queue */
typedef struct QueueLanes
{
	int64		queue_id;		/* hash key */
	int			n;
	JobqLaneSet *lanes;
} QueueLanes;

static MemoryContext lanes_context = NULL;	/* what the next holds */
static HTAB *queue_lanes;
static uint32 resets = 0;

/* Labels of lanes, which announcements refer to, so they stay */
typedef struct KnownLabels
{
	int64		lane;			/* hash key */
	JobqLabels *labels;
} KnownLabels;

static HTAB *known_labels = NULL;

/* Forget which lanes there are. */
static void
reset_lanes(void)
{
	resets++;
	if (lanes_context != NULL)
		MemoryContextDelete(lanes_context);
	lanes_context = NULL;
	queue_lanes = NULL;
}

/* Forget them whenever a table of ours may have changed. */
void
jobq_labels_init(void)
{
	jobq_on_catalog_reset(reset_lanes);
}

/* For qsort(). */
static int
compare_label_ids(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* Labels as their ids: the names' numbers, in ascending order. */
static JobqLabels *
ids_of(Datum labels)
{
	JobqLabels *ids;
	Datum	   *values;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(labels), TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	ids = palloc0(sizeof(JobqLabels));
	ids->n = n;
	for (int i = 0; i < n; i++)
		ids->ids[i] = jobq_name_id(TextDatumGetCString(values[i]));
	qsort(ids->ids, n, sizeof(int64), compare_label_ids);
	return ids;
}

/* The same of a claim, of which the latest is remembered; NULL: no labels. */
const JobqLabels *
jobq_labels_of(Datum labels)
{
	static struct varlena *latest = NULL;
	static JobqLabels *latest_ids = NULL;
	struct varlena *array = (struct varlena *) DatumGetPointer(labels);
	MemoryContext old;

	if (array == NULL)
		return NULL;
	if (latest == NULL || VARSIZE(latest) != VARSIZE(array) || memcmp(latest, array, VARSIZE(array)) != 0)
	{
		if (latest != NULL)
		{
			pfree(latest);
			latest = NULL;
		}
		old = MemoryContextSwitchTo(TopMemoryContext);
		if (latest_ids == NULL)
			latest_ids = palloc(sizeof(JobqLabels));
		MemoryContextSwitchTo(old);
		memcpy(latest_ids, ids_of(labels), sizeof(JobqLabels));
		latest = MemoryContextAlloc(TopMemoryContext, VARSIZE(array));
		memcpy(latest, array, VARSIZE(array));
	}
	return latest_ids;
}

/* The lane of the jobs of a queue that require labels, as stored; 0: none. */
int64
jobq_lane_of(const char *queue, Datum requires)
{
	StringInfoData name;
	Datum	   *values;
	int			n;

	if (requires == 0)
		return jobq_queue_id(queue);
	/* no name has a control character */
	deconstruct_array(DatumGetArrayTypeP(requires), TEXTOID, -1, false, TYPALIGN_INT, &values, NULL, &n);
	initStringInfo(&name);
	appendStringInfoString(&name, queue);
	for (int i = 0; i < n; i++)
		appendStringInfo(&name, "\n%s", TextDatumGetCString(values[i]));
	return jobq_name_id(name.data);
}

PG_FUNCTION_INFO_V1(jobq_job_lane_id);

/* job_lane_id(queue, requires) */
Datum
jobq_job_lane_id(PG_FUNCTION_ARGS)
{
	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_INT64(jobq_lane_of(text_to_cstring(PG_GETARG_TEXT_PP(0)), PG_ARGISNULL(1) ? 0 : PG_GETARG_DATUM(1)));
}

/* The labels of a lane, which stay where they are. */
static const JobqLabels *
keep_labels(int64 lane, Datum requires)
{
	KnownLabels *known;

	if (known_labels == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(KnownLabels),.hcxt = TopMemoryContext};

		known_labels = hash_create("jobq labels", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	known = hash_search(known_labels, &lane, HASH_FIND, NULL);
	if (known == NULL)
	{
		JobqLabels *ids = ids_of(requires);
		Size		size = offsetof(JobqLabels, ids) + ids->n * sizeof(int64);
		JobqLabels *kept = MemoryContextAlloc(TopMemoryContext, size);

		memcpy(kept, ids, size);
		known = hash_search(known_labels, &lane, HASH_ENTER, NULL);
		known->labels = kept;
	}
	return known->labels;
}

/*
 * The lanes of a queue for labels, by its rows in job_lane; those are remembered, if
 * no invalidation came in meanwhile.  Returns how many there are in *lanes, to be
 * looked at before anything else is done.
 */
static int
read_lanes(JobqCall *call, int64 queue_id, const JobqLaneSet **lanes)
{
	QueueLanes *entry = queue_lanes ? hash_search(queue_lanes, &queue_id, HASH_FIND, NULL) : NULL;
	Datum		key = Int64GetDatum(queue_id);
	uint32		before = resets;
	JobqLaneSet *found;
	JobqLaneSet *kept;
	JobqScan   *scan;
	TupleTableSlot *row;
	int			room = 16;
	int			n = 0;

	if (entry != NULL)
	{
		*lanes = entry->lanes;
		return entry->n;
	}
	found = palloc(room * sizeof(JobqLaneSet));
	scan = jobq_scan_begin(call, JOBQ_LANE, INDEX_KEY, 1, &key, NULL);
	while ((row = jobq_scan_next(scan)) != NULL)
	{
		int64		lane = jobq_attr_int64(row, LANE_LANE);
		bool		isnull;

		/* two rows of a set stand together */
		if (n > 0 && found[n - 1].lane == lane)
			continue;
		if (n == room)
			found = repalloc(found, (room *= 2) * sizeof(JobqLaneSet));
		found[n].lane = lane;
		found[n++].labels = keep_labels(lane, slot_getattr(row, LANE_REQUIRES, &isnull));
	}
	jobq_scan_end(scan);
	*lanes = found;
	if (before != resets)
		return n;

	if (queue_lanes == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(QueueLanes)};

		lanes_context = AllocSetContextCreate(TopMemoryContext, "jobq lanes", ALLOCSET_SMALL_SIZES);
		ctl.hcxt = lanes_context;
		queue_lanes = hash_create("jobq lanes", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	kept = MemoryContextAlloc(lanes_context, Max(n, 1) * sizeof(JobqLaneSet));
	memcpy(kept, found, n * sizeof(JobqLaneSet));
	pfree(found);
	entry = hash_search(queue_lanes, &queue_id, HASH_ENTER, NULL);
	entry->lanes = kept;
	entry->n = n;
	*lanes = kept;
	return n;
}

/*
 * The lanes of a queue that a worker with these labels may take from, that without
 * labels first; NULL: all of them.  Returns how many.
 */
int
jobq_queue_lanes(JobqCall *call, int64 queue_id, const JobqLabels *labels, JobqLaneSet **out)
{
	const JobqLaneSet *lanes;
	int			all = read_lanes(call, queue_id, &lanes);
	int			n = 0;

	*out = palloc((all + 1) * sizeof(JobqLaneSet));
	(*out)[n].lane = queue_id;
	(*out)[n++].labels = NULL;
	for (int i = 0; i < all; i++)
	{
		if (labels == NULL || jobq_has_labels(labels, lanes[i].labels))
			(*out)[n++] = lanes[i];
	}
	return n;
}

/*
 * Labels and the key of a worker, in whose own lane jobs with these labels are; until
 * the transaction ends.
 */
const JobqLabels *
jobq_own_labels(const JobqLabels *labels, uint64 worker)
{
	JobqLabels *own = MemoryContextAlloc(TopTransactionContext, offsetof(JobqLabels, ids) +
										 ((labels ? labels->n : 0) + 1) * sizeof(int64));

	jobq_add_worker(own, labels, worker);
	return own;
}

/* The labels of a lane of a queue in which jobs are ready, with the worker whose own it is; NULL: none. */
const JobqLabels *
jobq_ready_labels(JobqCall *call, int64 queue_id, int64 lane)
{
	const JobqLabels *labels = NULL;
	const JobqQueue *queue;
	const JobqLaneSet *lanes;
	int64		gate;
	int			place;
	uint64		worker;
	int			n;

	if (lane == queue_id)
		return NULL;
	queue = jobq_queue_known(call, queue_id);
	gate = queue ? queue->gate : 0;
	if (lane == jobq_gate_lane(queue_id, gate))
		return NULL;
	n = read_lanes(call, queue_id, &lanes);
	for (int i = 0; i < n; i++)
	{
		if (lane == lanes[i].lane || lane == jobq_gate_lane(lanes[i].lane, gate))
			return lanes[i].labels;
	}

	/* a worker's own beside one of them */
	place = jobq_place_of_lane(jobq_gate_lane(queue_id, gate), lane);
	for (int i = 0; i < n && place < 0; i++)
	{
		labels = lanes[i].labels;
		place = jobq_place_of_lane(jobq_gate_lane(lanes[i].lane, gate), lane);
	}
	if (place < 0)
		return NULL;
	worker = jobq_worker_at(place);
	return worker != 0 ? jobq_own_labels(labels, worker) : labels;
}

/* A job that requires labels comes into a queue: see that its lane is known, without waiting for anybody. */
void
jobq_lane_register(JobqCall *call, const char *queue, int64 queue_id, Datum requires)
{
	const JobqLaneSet *lanes;
	JobqRow		new = {0};
	int64		lane;
	int			n;

	if (requires == 0)
		return;
	lane = jobq_lane_of(queue, requires);
	n = read_lanes(call, queue_id, &lanes);
	for (int i = 0; i < n; i++)
	{
		if (lanes[i].lane == lane)
			return;
	}
	if (n >= JOBQ_MAX_LABEL_SETS)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many sets of labels in queue \"%s\"", queue),
				 errdetail("Jobs of a queue can require %d different sets.", JOBQ_MAX_LABEL_SETS),
				 errhint("Use more queues, or labels that more workers share.")));
	jobq_set(&new, LANE_LANE, Int64GetDatum(lane));
	jobq_set(&new, LANE_QUEUE_ID, Int64GetDatum(queue_id));
	jobq_set(&new, LANE_REQUIRES, requires);
	jobq_insert(call, JOBQ_LANE, &new);
	/* others shall hear of it, and nobody remember it if this is rolled back */
	CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_LANE));
	jobq_advance();				/* this call, too, looks for it */
}
