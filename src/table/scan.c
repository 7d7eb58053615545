/*
 * scan.c
 *	  Finding and reading the rows of our own tables.
 *
 * Rows are found under a registered MVCC snapshot.  The one tid that comes from
 * elsewhere, the hand-out's, is checked against the table's size, and the row that is
 * there compared, in jobq_fetch_ready().
 *
 * Except for claims, what these functions read is the latest committed state
 * (plus our own changes) at every isolation level: jobq_find() takes a new
 * snapshot each time, jobq_walk_id() one for neighbouring ids of a call.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "table/relations.h"

#define WALK_STEPS		8		/* ids this close are worth walking */

struct JobqScan
{
	JobqRel    *rel;
	JobqIndex	which;
	IndexScanDesc desc;
	TupleTableSlot *slot;
	Snapshot	snapshot;		/* registered here */
};

/* Slots */

/* A copy of a row that a scan stands at, without a pin. */
static TupleTableSlot *
copy_row(JobqScan *scan)
{
	TupleTableSlot *slot = jobq_empty_slot(scan->rel);

	ExecCopySlot(slot, scan->slot);
	ExecMaterializeSlot(slot);
	return slot;
}

/* Empty a slot with a row that was found. */
void
jobq_slot_free(TupleTableSlot *slot)
{
	if (slot != NULL)
		ExecClearTuple(slot);
}

/* Scans */

/* Free a scan. */
static void
free_scan(JobqScan *scan)
{
	index_endscan(scan->desc);
	ExecDropSingleTupleTableSlot(scan->slot);
	pfree(scan);
}

/* End a walk over ids. */
static void
end_walk(JobqRel *r)
{
	if (r->walk == NULL)
		return;
	UnregisterSnapshot(r->walk->snapshot);
	free_scan(r->walk);
	r->walk = NULL;
}

/* End the scans of a table that were kept to be used again. */
void
jobq_end_scans(JobqRel *r)
{
	end_walk(r);
	for (int i = 0; i < lengthof(r->spare); i++)
	{
		if (r->spare[i] != NULL)
			free_scan(r->spare[i]);
	}
}

/* Begin a scan with the given keys; NULL snapshot: the latest. */
static JobqScan *
begin_scan(JobqCall *call, JobqTable table, JobqIndex which, int nkeys, ScanKey keys,
		   Snapshot snapshot)
{
	JobqRel    *r = jobq_rel(call, table);
	JobqScan   *scan = r->spare[which];

	snapshot = RegisterSnapshot(snapshot ? snapshot : GetLatestSnapshot());
	if (scan != NULL && scan->desc->numberOfKeys == nkeys)
	{
		r->spare[which] = NULL;
		scan->desc->xs_snapshot = snapshot;
	}
	else
	{
		MemoryContext old = MemoryContextSwitchTo(r->mcxt);

		scan = palloc(sizeof(JobqScan));
		scan->rel = r;
		scan->which = which;
		scan->slot = table_slot_create(r->rel, NULL);
		scan->desc = jobq_index_beginscan(r->rel, jobq_choose_index(r, which), snapshot, nkeys);
		MemoryContextSwitchTo(old);
	}
	scan->snapshot = snapshot;
	index_rescan(scan->desc, keys, nkeys, NULL, 0);
	return scan;
}

/* Scan the rows whose first nkeys index columns equal keys, in index order. */
JobqScan *
jobq_scan_begin(JobqCall *call, JobqTable table, JobqIndex which, int nkeys,
				const Datum *keys, Snapshot snapshot)
{
	const IndexColumns *c = &jobq_index_columns[table][which];
	Relation	index = jobq_choose_index(jobq_rel(call, table), which);
	ScanKeyData skeys[4];

	Assert(nkeys <= c->ncolumns);
	for (int i = 0; i < nkeys; i++)
		ScanKeyEntryInitialize(&skeys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], c->equal[i], keys[i]);
	return begin_scan(call, table, which, nkeys, skeys, snapshot);
}

/* Scan the rows whose first index column, a time or a number, is not below from. */
JobqScan *
jobq_scan_from(JobqCall *call, JobqTable table, JobqIndex which, int64 from, Snapshot snapshot)
{
	bool		time = jobq_index_columns[table][which].equal[0] == F_TIMESTAMPTZ_EQ;
	ScanKeyData skey;

	ScanKeyInit(&skey, 1, BTGreaterEqualStrategyNumber, time ? F_TIMESTAMPTZ_GE : F_INT8GE,
				Int64GetDatum(from));
	return begin_scan(call, table, which, 1, &skey, snapshot);
}

/* Scan the rows whose first index column, a number, is within from .. upto. */
JobqScan *
jobq_scan_between(JobqCall *call, JobqTable table, JobqIndex which, int64 from, int64 upto, Snapshot snapshot)
{
	ScanKeyData skeys[2];

	ScanKeyInit(&skeys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	ScanKeyInit(&skeys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	return begin_scan(call, table, which, 2, skeys, snapshot);
}

/*
 * Scan the rows of an order, as they are handed out, of some priorities, and of
 * positions from .. upto where it is one priority.
 */
JobqScan *
jobq_scan_order(JobqCall *call, const JobqOrder *order, int16 priority, int16 down_to,
				int64 from, int64 upto, Snapshot snapshot)
{
	ScanKeyData skeys[5];
	int			n = 0;
	AttrNumber	by_priority = order->nkeys + 1;
	AttrNumber	by_position = order->nkeys + 2;

	for (; n < order->nkeys; n++)
		ScanKeyInit(&skeys[n], n + 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(order->keys[n]));
	if (priority == down_to)
	{
		ScanKeyInit(&skeys[n++], by_priority, BTEqualStrategyNumber, F_INT2EQ, Int16GetDatum(priority));
		if (from > PG_INT64_MIN)
			ScanKeyInit(&skeys[n++], by_position, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
		if (upto < PG_INT64_MAX)
			ScanKeyInit(&skeys[n++], by_position, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	}
	else
	{
		if (priority < PG_INT16_MAX)
			ScanKeyInit(&skeys[n++], by_priority, BTLessEqualStrategyNumber, F_INT2LE, Int16GetDatum(priority));
		if (down_to > PG_INT16_MIN)
			ScanKeyInit(&skeys[n++], by_priority, BTGreaterEqualStrategyNumber, F_INT2GE, Int16GetDatum(down_to));
	}
	return begin_scan(call, order->table, order->table == JOBQ_READY ? INDEX_KEY : INDEX_SECOND,
					  n, skeys, snapshot);
}

/*
 * The next row of a scan, or NULL; it is valid until the next call.  What an index
 * scan allocates on its way lives as long as the scan, so in the call's context,
 * whatever the current one is.
 */
TupleTableSlot *
jobq_scan_next(JobqScan *scan)
{
	MemoryContext old = MemoryContextSwitchTo(scan->rel->mcxt);
	bool		found = index_getnext_slot(scan->desc, ForwardScanDirection, scan->slot);

	MemoryContextSwitchTo(old);
	return found ? scan->slot : NULL;
}

/* End a scan; it is kept for the next on the same index, without any pin. */
void
jobq_scan_end(JobqScan *scan)
{
	JobqRel    *r = scan->rel;

	UnregisterSnapshot(scan->snapshot);
	if (r->spare[scan->which] != NULL)
	{
		free_scan(scan);
		return;
	}
	ExecClearTuple(scan->slot);
	table_index_fetch_reset(scan->desc->xs_heapfetch);
	r->spare[scan->which] = scan;
}

/* Would core not prune the page of a row, had the table no fillfactor?  A guess, as it is not locked. */
static bool
page_has_room(TupleTableSlot *slot)
{
	Page		page;

	if (!TTS_IS_BUFFERTUPLE(slot))
		return true;
	page = BufferGetPage(((BufferHeapTupleTableSlot *) slot)->buffer);
	return !PageIsFull(page) && PageGetHeapFreeSpace(page) >= BLCKSZ / 10;
}

/*
 * The next row of a scan, read where its index entry points to, if it stands
 * there: unlike following the chain of its versions, that does not prune the
 * page.  Below its fillfactor every page with a new version looks full, and
 * each visit would prune what the one before it left; so that waits until
 * the page fills up.
 */
static bool
next_in_place(JobqScan *scan)
{
	MemoryContext old = MemoryContextSwitchTo(scan->rel->mcxt);
	ItemPointer tid;
	bool		found = false;

	while (!found && (tid = index_getnext_tid(scan->desc, ForwardScanDirection)) != NULL)
	{
		found = table_tuple_fetch_row_version(scan->rel->rel, tid, scan->snapshot, scan->slot) &&
			page_has_room(scan->slot);
		if (found)
			break;
		ExecClearTuple(scan->slot); /* who prunes has the only pin */
		found = index_fetch_heap(scan->desc, scan->slot);
	}
	MemoryContextSwitchTo(old);
	return found;
}

/* Single rows */

/* The row with a key, or NULL; free it with jobq_slot_free().  NULL snapshot: the latest. */
TupleTableSlot *
jobq_find(JobqCall *call, JobqTable table, JobqIndex which, int nkeys, const Datum *keys,
		  Snapshot snapshot)
{
	JobqScan   *scan = jobq_scan_begin(call, table, which, nkeys, keys, snapshot);
	TupleTableSlot *slot = NULL;

	if (table == JOBQ_JOB ? next_in_place(scan) : jobq_scan_next(scan) != NULL)
		slot = copy_row(scan);
	jobq_scan_end(scan);
	return slot;
}

/*
 * The last row, in index order, whose first nkeys index columns equal keys, or NULL;
 * under the latest snapshot.
 */
TupleTableSlot *
jobq_find_last(JobqCall *call, JobqTable table, JobqIndex which, int nkeys, const Datum *keys)
{
	JobqScan   *scan = jobq_scan_begin(call, table, which, nkeys, keys, NULL);
	MemoryContext old = MemoryContextSwitchTo(scan->rel->mcxt);
	bool		found = index_getnext_slot(scan->desc, BackwardScanDirection, scan->slot);
	TupleTableSlot *slot = NULL;

	MemoryContextSwitchTo(old);
	if (found)
		slot = copy_row(scan);
	jobq_scan_end(scan);
	return slot;
}

/*
 * The latest version of the row with a number that is the primary key, or NULL.  That of a
 * flow that runs is changed again and again.  While a snapshot is held, all its versions stay, and
 * the index has an entry for each page of them; the latest stands mostly in the last one.
 */
TupleTableSlot *
jobq_find_id(JobqCall *call, JobqTable table, int64 id)
{
	Datum		key = Int64GetDatum(id);

	if (table == JOBQ_FLOW)
		return jobq_find_last(call, table, INDEX_KEY, 1, &key);
	return jobq_find(call, table, INDEX_KEY, 1, &key, NULL);
}

/*
 * The row of a job id, for callers that go up the ids: where these are close
 * together, a step in the index instead of a descent.  The row is that of a
 * registered snapshot or, without one, as old as the walk: who then finds that
 * it was changed, or relies on it without writing it, looks again with
 * jobq_find_id(), but for a row that was not *walked to.
 */
TupleTableSlot *
jobq_walk_id(JobqCall *call, JobqTable table, int64 id, Snapshot snapshot, bool *walked)
{
	JobqRel    *r = jobq_rel(call, table);
	bool		near = r->walked != 0 && id > r->walked && id - r->walked <= WALK_STEPS;
	Datum		id_key = Int64GetDatum(id);

	r->walked = id;
	if (walked != NULL)
		*walked = false;
	if (!near || IsolationUsesXactSnapshot())
	{
		end_walk(r);
		return jobq_find(call, table, INDEX_KEY, 1, &id_key, snapshot);
	}
	if (r->walk != NULL && snapshot != NULL && r->walk->snapshot != snapshot)
		end_walk(r);
	if (r->walk == NULL)
	{
		ScanKeyData key;

		ScanKeyInit(&key, 1, BTGreaterEqualStrategyNumber, F_INT8GE, id_key);
		r->walk = begin_scan(call, table, INDEX_KEY, 1, &key, snapshot);
		r->at_end = jobq_scan_next(r->walk) == NULL;
	}
	while (!r->at_end && jobq_attr_int64(r->walk->slot, 1) < id)
		r->at_end = jobq_scan_next(r->walk) == NULL;
	if (r->at_end || jobq_attr_int64(r->walk->slot, 1) != id)
		return jobq_find(call, table, INDEX_KEY, 1, &id_key, snapshot);
	if (walked != NULL)
		*walked = true;
	return copy_row(r->walk);
}

/* Rows by their places */

/* Which table and file hold job_ready now. */
void
jobq_ready_origin(JobqCall *call, JobqReady *ready)
{
	JobqRel    *r = jobq_rel(call, JOBQ_READY);

	ready->table = RelationGetRelid(r->rel);
	ready->file = jobq_file_number(r->rel);
}

/* What the hand-out knows of a row of job_ready. */
void
jobq_ready_from_slot(JobqCall *call, TupleTableSlot *slot, JobqReady *ready)
{
	jobq_ready_origin(call, ready);
	ready->lane = jobq_attr_int64(slot, STATE_LANE);
	ready->queue_id = jobq_attr_int64(slot, STATE_QUEUE_ID);
	ready->position = jobq_attr_int64(slot, READY_POSITION);
	ready->priority = jobq_attr_int16(slot, STATE_PRIORITY);
	ready->tid = slot->tts_tid;
	ready->count = 1;
	ready->many = false;
}

/*
 * The row of job_ready that the hand-out knew to be there, or NULL: the place may
 * hold another row by now, or none, or not even exist.  A row that was written anew
 * in the same place of the order is found by its key.
 */
TupleTableSlot *
jobq_fetch_ready(JobqCall *call, const JobqReady *ready, Snapshot snapshot)
{
	JobqRel    *r = jobq_rel(call, JOBQ_READY);
	ItemPointerData tid = ready->tid;
	Datum		keys[3] = {Int64GetDatum(ready->lane), Int16GetDatum(ready->priority), Int64GetDatum(ready->position)};
	TupleTableSlot *slot;

	slot = jobq_empty_slot(r);
	if (ItemPointerGetBlockNumber(&tid) < RelationGetNumberOfBlocks(r->rel) &&
		table_tuple_fetch_row_version(r->rel, &tid, snapshot, slot) &&
		jobq_attr_int64(slot, STATE_LANE) == ready->lane &&
		jobq_attr_int64(slot, READY_POSITION) == ready->position &&
		jobq_attr_int16(slot, STATE_PRIORITY) == ready->priority)
		return slot;
	ExecClearTuple(slot);
	return jobq_find(call, JOBQ_READY, INDEX_KEY, lengthof(keys), keys, snapshot);
}

/* Is another transaction, still open, about to delete this visible row? */
bool
jobq_being_deleted(JobqCall *call, JobqTable table, TupleTableSlot *slot)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *other;
	SnapshotData dirty;
	bool		deleted;

	InitDirtySnapshot(dirty);
	if (TTS_IS_BUFFERTUPLE(slot) && BufferIsValid(((BufferHeapTupleTableSlot *) slot)->buffer))
		return !table_tuple_satisfies_snapshot(r->rel, slot, &dirty) || TransactionIdIsValid(dirty.xmax);
	/* a copy of the row, without a pin: look at its place */
	other = jobq_empty_slot(r);
	deleted = !table_tuple_fetch_row_version(r->rel, &slot->tts_tid, &dirty, other) ||
		TransactionIdIsValid(dirty.xmax);
	ExecClearTuple(other);
	return deleted;
}

/* How many blocks a table has, and in which file. */
BlockNumber
jobq_blocks(JobqCall *call, JobqTable table, JobqFileNumber *file)
{
	JobqRel    *r = jobq_rel(call, table);

	if (file != NULL)
		*file = jobq_file_number(r->rel);
	return RelationGetNumberOfBlocks(r->rel);
}

/* Read the rows of a table that stand between two places, as of now, in the order of these. */
void
jobq_read_places(JobqCall *call, JobqTable table, ItemPointer from, ItemPointer upto,
				 JobqRowCallback callback, void *arg)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *slot = jobq_empty_slot(r);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan_tidrange(r->rel, snapshot, from, upto);

	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot) && callback(slot, arg))
		CHECK_FOR_INTERRUPTS();
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecClearTuple(slot);
}

/* Read the rows of a table that other transactions, still open, have inserted. */
void
jobq_read_uncommitted(JobqCall *call, JobqTable table, JobqRowCallback callback, void *arg)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *slot = table_slot_create(r->rel, NULL);
	SnapshotData dirty;
	TableScanDesc scan;
	bool		more = true;

	InitDirtySnapshot(dirty);
	scan = table_beginscan(r->rel, &dirty, 0, NULL);
	while (more && table_scan_getnextslot(scan, ForwardScanDirection, slot))
	{
		CHECK_FOR_INTERRUPTS();
		/* each row sets it anew */
		more = !TransactionIdIsValid(dirty.xmin) || callback(slot, arg);
	}
	table_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
}

/* A row as it was when this transaction deleted it. */
TupleTableSlot *
jobq_fetch_deleted(JobqCall *call, JobqTable table, const ItemPointerData *place)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *slot = jobq_empty_slot(r);
	ItemPointerData tid = *place;

	if (!table_tuple_fetch_row_version(r->rel, &tid, SnapshotAny, slot))
		elog(ERROR, "a deleted row of table \"%s\" is missing", RelationGetRelationName(r->rel));
	return slot;
}
