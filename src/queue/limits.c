/*
 * limits.c
 *	  What keeps ready jobs of a queue behind its gate: settings of partitions, and
 *	  the gates that a queue has had.
 *
 * A queue has a gate while one of its settings, or a partition with settings of its
 * own, can keep a job from running that is ready for it.  A number is drawn for the
 * gate whenever one of these changes, so that what was let in before is in another
 * lane, which no claim asks for any more.  job_queue.gates has the numbers of those
 * whose lanes can still hold rows, in order; 0 is that of the queue without a gate.
 */
#include "postgres.h"

#include "catalog/pg_type_d.h"
#include "common/hashfn.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/inval.h"

#include "dispatch/dispatch.h"
#include "queue/queue.h"

#define PARTITION_LOOK	100		/* ready jobs that are asked for their
								 * partition */

/* The settings of a queue that are a matter of the gatekeeper */
static const int limits[] = {QUEUE_MAX_RUNNING, QUEUE_MAX_RUNNING_PER_PARTITION, QUEUE_ORDERED, QUEUE_FAIR,
QUEUE_RATE, QUEUE_RATE_PER_PARTITION, QUEUE_RATE_INTERVAL};

/* The same of a partition */
static const int own_limits[] = {PARTITION_PAUSED, PARTITION_WEIGHT, PARTITION_MAX_RUNNING};

/* The number under which the jobs of a partition are filed; never 0, which is none. */
int64
jobq_partition_id(const char *partition)
{
	int64		id = jobq_name_id(partition);

	return id != 0 ? id : 1;
}

/* The numbers in an array of gates. */
static int
gates_of(Datum array, int64 **gates)
{
	Datum	   *values;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(array), INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE, &values, NULL, &n);
	*gates = palloc(Max(n, 1) * sizeof(int64));
	for (int i = 0; i < n; i++)
		(*gates)[i] = DatumGetInt64(values[i]);
	return n;
}

/* Put gates into the row of a queue; 0 alone is none. */
static void
set_gates(JobqRow *new, int n, const int64 *gates)
{
	Datum	   *values = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		values[i] = Int64GetDatum(gates[i]);
	jobq_set(new, QUEUE_GATES, PointerGetDatum(construct_array(values, n, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE)));
	new->given[QUEUE_GATES - 1] = n > 1 || gates[0] != 0;
}

/* Is there anything that asks for a gate? */
static bool
needs_gate(JobqCall *call, const JobqRow *queue)
{
	TupleTableSlot *partition;

	for (int i = 0; i < lengthof(limits); i++)
	{
		bool		flag = limits[i] == QUEUE_ORDERED || limits[i] == QUEUE_FAIR;

		if (limits[i] != QUEUE_RATE_INTERVAL && queue->given[limits[i] - 1] &&
			(!flag || DatumGetBool(queue->values[limits[i] - 1])))
			return true;
	}
	partition = jobq_find(call, JOBQ_PARTITION, INDEX_KEY, 1, &queue->values[QUEUE_ID - 1], NULL);
	jobq_slot_free(partition);
	return partition != NULL;
}

/* Give a queue another gate, or none, whatever its settings were; its row is locked, and will be written. */
static void
next_gate(JobqCall *call, JobqRow *new)
{
	int64		none = 0;
	int64	   *gates = &none;
	int			n = 1;

	if (new->given[QUEUE_GATES - 1])
		n = gates_of(new->values[QUEUE_GATES - 1], &gates);
	if (needs_gate(call, new) || gates[n - 1] != 0)
	{
		int64	   *more = palloc((n + 1) * sizeof(int64));

		memcpy(more, gates, n * sizeof(int64));
		more[n] = needs_gate(call, new) ? jobq_nextval() : 0;
		set_gates(new, n + 1, more);
		jobq_announce_gate(GATE_CHANGED, DatumGetInt64(new->values[QUEUE_ID - 1]), 0, 0, 0, 0);
	}
}

/* Does what is to be written differ from a row in some of these columns? */
static bool
differs(TupleTableSlot *slot, const JobqRow *new, const int *columns, int n)
{
	for (int i = 0; i < n; i++)
	{
		int			c = columns[i] - 1;
		bool		isnull;
		Datum		old = slot_getattr(slot, columns[i], &isnull);

		if (isnull == new->given[c] || (!isnull && old != new->values[c]))
			return true;
	}
	return false;
}

/*
 * Does a queue, whose row this is, show a partition: by settings of one, behind its gate,
 * or among the first jobs that are ready in its own lane?
 */
static bool
shows_partition(JobqCall *call, TupleTableSlot *queue)
{
	Datum		key = Int64GetDatum(jobq_attr_int64(queue, QUEUE_ID));
	int64		none = 0;
	int64	   *gates = &none;
	int			n = 1;
	JobqOrder	order = {JOBQ_READY, 1};
	JobqScan   *scan;
	TupleTableSlot *row = jobq_find(call, JOBQ_PARTITION, INDEX_KEY, 1, &key, NULL);
	bool		shows = row != NULL;
	bool		isnull;

	jobq_slot_free(row);
	/* those behind the gate are ordered by partition, and 0 is none */
	for (int i = 0; i < 2 && !shows; i++)
	{
		row = i == 0 ? jobq_find(call, JOBQ_LIMITED, INDEX_SECOND, 1, &key, NULL) :
			jobq_find_last(call, JOBQ_LIMITED, INDEX_SECOND, 1, &key);
		shows = row != NULL && jobq_attr_int64(row, STATE_PARTITION_ID) != 0;
		jobq_slot_free(row);
	}
	if (shows)
		return true;
	if (!slot_attisnull(queue, QUEUE_GATES))
		n = gates_of(slot_getattr(queue, QUEUE_GATES, &isnull), &gates);
	order.keys[0] = jobq_gate_lane(DatumGetInt64(key), gates[n - 1]);
	scan = jobq_scan_order(call, &order, PG_INT16_MAX, PG_INT16_MIN, 0, PG_INT64_MAX, NULL);
	for (int i = 0; i < PARTITION_LOOK && !shows && (row = jobq_scan_next(scan)) != NULL; i++)
		shows = jobq_attr_int64(row, STATE_PARTITION_ID) != 0;
	jobq_scan_end(scan);
	return shows;
}

/* Say so where a queue is made fair or ordered, and shows no partition. */
static void
tell_of_partitions(JobqCall *call, TupleTableSlot *slot, const JobqRow *new)
{
	static const int flags[] = {QUEUE_ORDERED, QUEUE_FAIR};

	for (int i = 0; i < lengthof(flags); i++)
	{
		bool		ordered = flags[i] == QUEUE_ORDERED;

		if (!new->given[flags[i] - 1] || !DatumGetBool(new->values[flags[i] - 1]) || jobq_attr_bool(slot, flags[i]) ||
			shows_partition(call, slot))
			continue;
		ereport(NOTICE,
				(errmsg("\"%s\" concerns jobs that have a partition", ordered ? "ordered" : "fair"),
				 errdetail("None of the jobs of queue \"%s\" that can run now has one.", jobq_attr_cstring(slot, QUEUE_NAME)),
				 ordered ? errhint("Submit jobs with \"partition\": those without one have no order.") :
				 errhint("Submit jobs with \"partition\": those without one take turns as if they were of the same.")));
	}
}

/* Give it another gate where what is to be written differs from the row in what the gatekeeper minds. */
void
jobq_change_gate(JobqCall *call, TupleTableSlot *slot, JobqRow *new)
{
	if (!differs(slot, new, limits, lengthof(limits)))
		return;
	tell_of_partitions(call, slot, new);
	next_gate(call, new);
}

/* The gates of a queue, the latest, which is in force, last; returns how many, 0 if it has and had none. */
int
jobq_read_gates(JobqCall *call, int64 queue_id, int64 **gates)
{
	Datum		key = Int64GetDatum(queue_id);
	TupleTableSlot *slot = jobq_find(call, JOBQ_QUEUE, INDEX_SECOND, 1, &key, NULL);
	bool		isnull = true;
	Datum		array = slot ? slot_getattr(slot, QUEUE_GATES, &isnull) : 0;
	int			n = isnull ? 0 : gates_of(array, gates);

	jobq_slot_free(slot);
	return n;
}

/*
 * The lanes of all gates before this one are empty, if that is still the latest.
 * False: somebody has the queue locked, and may do so for long.
 */
bool
jobq_gates_emptied(JobqCall *call, int64 queue_id, int64 gate)
{
	Datum		key = Int64GetDatum(queue_id);
	TupleTableSlot *slot = jobq_find(call, JOBQ_QUEUE, INDEX_SECOND, 1, &key, NULL);
	JobqRow		new;
	int64	   *gates;
	bool		ok = true;
	int			n;

	if (slot == NULL)
		return true;
	jobq_values(slot, &new);
	n = new.given[QUEUE_GATES - 1] ? gates_of(new.values[QUEUE_GATES - 1], &gates) : 0;
	if (n > 1 && gates[n - 1] == gate)
	{
		set_gates(&new, 1, &gate);
		ok = jobq_update(call, JOBQ_QUEUE, slot, &new, LockWaitSkip);
		CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_QUEUE));
	}
	jobq_slot_free(slot);
	return ok;
}

/* The partitions of a queue that have settings of their own; returns how many. */
int
jobq_read_partitions(JobqCall *call, int64 queue_id, JobqPartition **partitions)
{
	Datum		key = Int64GetDatum(queue_id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_PARTITION, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *slot;
	int			room = 16;
	int			n = 0;

	*partitions = palloc(room * sizeof(JobqPartition));
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		JobqPartition *p;

		if (n == room)
			*partitions = repalloc_huge(*partitions, (room *= 2) * sizeof(JobqPartition));
		p = &(*partitions)[n++];
		p->partition_id = jobq_attr_int64(slot, PARTITION_ID);
		p->paused = jobq_attr_bool(slot, PARTITION_PAUSED);
		p->weight = jobq_attr_int32(slot, PARTITION_WEIGHT);
		p->max_running = jobq_attr_int32(slot, PARTITION_MAX_RUNNING);
	}
	jobq_scan_end(scan);
	return n;
}

/* Take the settings of all partitions of a queue back, whose row is locked; false: none has any. */
static bool
forget_partitions(JobqCall *call, int64 queue_id)
{
	Datum		key = Int64GetDatum(queue_id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_PARTITION, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *slot;
	bool		found = false;

	while ((slot = jobq_scan_next(scan)) != NULL)
		found |= jobq_delete(call, JOBQ_PARTITION, slot, LockWaitBlock);
	jobq_scan_end(scan);
	jobq_advance();
	return found;
}

/* All settings of a queue were taken back: those of its partitions are, too. */
void
jobq_reset_partitions(JobqCall *call, TupleTableSlot *slot, JobqRow *new)
{
	if (forget_partitions(call, jobq_attr_int64(slot, QUEUE_ID)))
		next_gate(call, new);
	else
		jobq_change_gate(call, slot, new);
}

PG_FUNCTION_INFO_V1(jobq_job_partition_set);

/* job_partition_set(queue, partition, paused, weight, max_running) */
Datum
jobq_job_partition_set(PG_FUNCTION_ARGS)
{
	char	   *queue = jobq_check_queue(fcinfo, 0);
	int64		queue_id = jobq_queue_id(queue);
	char	   *partition;
	int32		weight = PG_ARGISNULL(3) ? 0 : PG_GETARG_INT32(3);
	int32		max_running = jobq_check_count(fcinfo, 4, "max_running");
	JobqCall	call;
	JobqRow		new;
	JobqRow		row = {0};
	TupleTableSlot *slot;
	TupleTableSlot *old;
	Datum		keys[2];
	bool		changes;

	if (PG_ARGISNULL(1))
		jobq_error_null("partition");
	partition = text_to_cstring(PG_GETARG_TEXT_PP(1));
	jobq_check_name(partition, "partition");
	if (!PG_ARGISNULL(3) && (weight < 1 || weight > JOBQ_MAX_WEIGHT))
		ereport(ERROR,
				(errcode(ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE),
				 errmsg("\"weight\" is out of range"),
				 errhint("It is between 1 and %d.", JOBQ_MAX_WEIGHT)));

	jobq_enter(&call, "job_partition_set()", true);
	jobq_require_privilege(&call, queue_id, PRIV_OPERATE, queue);
	jobq_queue_make(&call, queue, queue_id);
	slot = jobq_queue_lock(&call, queue_id, &new);
	if (slot == NULL)
		elog(ERROR, "queue \"%s\" is gone", queue);

	/* the queue's row is locked, so nobody else writes one of its partitions */
	keys[0] = Int64GetDatum(queue_id);
	keys[1] = Int64GetDatum(jobq_partition_id(partition));
	old = jobq_find(&call, JOBQ_PARTITION, INDEX_KEY, 2, keys, NULL);
	if (old != NULL)
		jobq_values(old, &row);
	else
	{
		jobq_set(&row, PARTITION_QUEUE_ID, keys[0]);
		jobq_set(&row, PARTITION_ID, keys[1]);
		jobq_set(&row, PARTITION_PAUSED, BoolGetDatum(false));
		jobq_set(&row, PARTITION_WEIGHT, Int32GetDatum(1));
		jobq_set_text(&row, PARTITION_QUEUE, queue);
		jobq_set_text(&row, PARTITION_NAME, partition);
	}
	if (!PG_ARGISNULL(2))
		jobq_set(&row, PARTITION_PAUSED, PG_GETARG_DATUM(2));
	if (weight > 0)
		jobq_set(&row, PARTITION_WEIGHT, Int32GetDatum(weight));
	if (max_running > 0)
		jobq_set(&row, PARTITION_MAX_RUNNING, Int32GetDatum(max_running));
	changes = old == NULL || differs(old, &row, own_limits, lengthof(own_limits));
	if (changes && old != NULL)
		(void) jobq_update(&call, JOBQ_PARTITION, old, &row, LockWaitBlock);
	else if (changes)
		jobq_insert(&call, JOBQ_PARTITION, &row);
	jobq_slot_free(old);
	if (changes)
	{
		jobq_advance();			/* whether there is a partition is asked next */
		next_gate(&call, &new);
		jobq_queue_write(&call, slot, &new);
	}
	else
		jobq_slot_free(slot);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}
