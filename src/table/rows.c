/*
 * rows.c
 *	  Reading, writing and locking the rows of our own tables.
 *
 * The only file that calls the table and index access methods.  Going around
 * the executor means to do here what it would have done:
 *
 * - A row is written into every index of its table that is ready for inserts,
 *   see relations.c.
 * - Rows are found under a registered MVCC snapshot.  The one tid that comes
 *   from elsewhere, the hand-out's, is checked against the table's size, and
 *   the row that is there compared, in jobq_fetch_ready().
 * - Every TM_Result is handled by name.  A row that a concurrent transaction
 *   changed while we waited for it makes the write functions return false:
 *   the caller looks again with a new snapshot.  In REPEATABLE READ and
 *   SERIALIZABLE transactions it is an error 40001 instead, as in core.
 *
 * Except for claims, what these functions read is the latest committed state
 * (plus our own changes) at every isolation level: jobq_find() takes a new
 * snapshot each time, jobq_walk_id() one for neighbouring ids of a call.
 * Read-only and parallel mode are checked once per call, in jobq_enter(), and
 * privileges by each entry point.
 *
 * jobq_open_call() and jobq_close_call() advance the command counter, so that
 * a call sees what its own statement wrote before (a claim inside a
 * completing SELECT) and is seen by what follows.  Within a call a row
 * is not touched twice without jobq_advance() between.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "storage/lmgr.h"
#include "storage/procarray.h"
#include "utils/fmgroids.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "table/relations.h"

int			jobq_clock_offset_ms = 0;

#define BULK_ROWS		256		/* of a table, inserted together */
#define WALK_STEPS		8		/* ids this close are worth walking */

struct JobqScan
{
	JobqRel    *rel;
	JobqIndex	which;
	IndexScanDesc desc;
	TupleTableSlot *slot;
	Snapshot	snapshot;		/* registered here */
};

/* Begin a call: see what was written before, open nothing yet. */
void
jobq_open_call(JobqCall *call)
{
	memset(call, 0, sizeof(JobqCall));
	call->mcxt = CurrentMemoryContext;
	call->now = jobq_wall();
	CommandCounterIncrement();
}

/*
 * A slot for a row that was read.  Slots stay with the table until the call ends,
 * and an empty one is used again, since to make one costs as much as to read a row.
 * The caller fills it before it asks for another.
 */
static TupleTableSlot *
empty_slot(JobqRel *r)
{
	MemoryContext old;

	for (int i = r->nslots - 1; i >= Max(r->nslots - JOBQ_SLOTS_TRIED, 0); i--)
	{
		if (TTS_EMPTY(r->slots[i]))
			return r->slots[i];
	}
	old = MemoryContextSwitchTo(r->mcxt);
	if (r->nslots == 0)
		r->slots = r->first_slots;
	else if (r->nslots >= JOBQ_SLOTS_TRIED && (r->nslots & (r->nslots - 1)) == 0)
	{
		TupleTableSlot **few = r->slots;

		r->slots = palloc_extended(2 * r->nslots * sizeof(TupleTableSlot *), MCXT_ALLOC_HUGE);
		memcpy(r->slots, few, r->nslots * sizeof(TupleTableSlot *));
	}
	r->slots[r->nslots++] = table_slot_create(r->rel, NULL);
	MemoryContextSwitchTo(old);
	return r->slots[r->nslots - 1];
}

/* A copy of a row that a scan stands at, without a pin. */
static TupleTableSlot *
copy_row(JobqScan *scan)
{
	TupleTableSlot *slot = empty_slot(scan->rel);

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

/* End a call: close what it opened (locks stay), let others see what it wrote. */
void
jobq_close_call(JobqCall *call)
{
	for (int t = 0; t < JOBQ_NTABLES; t++)
	{
		JobqRel    *r = call->rels[t];

		if (r == NULL)
			continue;
		end_walk(r);
		for (int i = 0; i < lengthof(r->spare); i++)
		{
			if (r->spare[i] != NULL)
				free_scan(r->spare[i]);
		}
		jobq_close_rel(r);
		call->rels[t] = NULL;
	}
	CommandCounterIncrement();
}

/* Make what this call wrote so far visible to the rest of it. */
void
jobq_advance(void)
{
	CommandCounterIncrement();
}

/*
 * Insert a stored row's entries into the indexes that need one.  With
 * UNIQUE_CHECK_PARTIAL, false: another row may have its key.
 */
static bool
insert_checked_entries(JobqRel *r, TupleTableSlot *slot, JobqUpdateIndexes which,
					   IndexUniqueCheck check)
{
	bool		ok = true;

	if (which == JOBQ_NO_INDEX)
		return true;
	jobq_open_indexes(r);
	for (int i = 0; i < r->nindexes; i++)
	{
		Relation	index = jobq_index_of_row(r, i, slot);
		Datum		values[INDEX_MAX_KEYS];
		bool		isnull[INDEX_MAX_KEYS];

		if (index == NULL || !jobq_needs_entry(which, index))
			continue;
		for (int c = 0; c < index->rd_index->indnatts; c++)
			values[c] = slot_getattr(slot, index->rd_index->indkey.values[c], &isnull[c]);
		if (!index_insert(index, values, isnull, &slot->tts_tid, r->rel,
						  index->rd_index->indisunique ? check : UNIQUE_CHECK_NO,
						  false, r->indexes[i].info) &&
			index->rd_index->indisunique && check == UNIQUE_CHECK_PARTIAL)
			ok = false;
	}
	for (int i = 0; i < r->nindexes; i++)
	{
		if (r->indexes[i].info != NULL)
			jobq_index_insert_cleanup(r->indexes[i].rel, r->indexes[i].info);
	}
	return ok;
}

/* The same, where no other row can have its key. */
static void
insert_index_entries(JobqRel *r, TupleTableSlot *slot, JobqUpdateIndexes which)
{
	(void) insert_checked_entries(r, slot, which, UNIQUE_CHECK_YES);
}

/*
 * Insert the rows held back of a table.  That a unique key is taken already is no
 * surprise, and nobody is waited for to learn whether it will be free.
 */
static void
flush_rows(JobqRel *r)
{
	IndexUniqueCheck check = r->table == JOBQ_UNIQUE ? UNIQUE_CHECK_PARTIAL : UNIQUE_CHECK_YES;

	table_multi_insert(r->rel, r->buffered, r->nbuffered, GetCurrentCommandId(true), 0, NULL);
	for (int i = 0; i < r->nbuffered; i++)
	{
		if (!insert_checked_entries(r, r->buffered[i], JOBQ_ALL_INDEXES, check))
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg_internal("a key in table \"%s\" is taken", RelationGetRelationName(r->rel))));
		ExecClearTuple(r->buffered[i]);
	}
	r->nbuffered = 0;
}

/*
 * Hold a row back until there are many of them.  Their slots have a descriptor of their
 * own, which nobody counts references to: to count hundreds of the same takes longer than
 * all else that is done to a slot.
 */
static void
buffer_row(JobqCall *call, JobqRel *r, HeapTuple tuple)
{
	if (r->buffered == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(call->mcxt);

		r->buffered = palloc0(BULK_ROWS * sizeof(TupleTableSlot *));
		r->buffered_desc = CreateTupleDescCopy(RelationGetDescr(r->rel));
		MemoryContextSwitchTo(old);
	}
	if (r->buffered[r->nbuffered] == NULL)
		r->buffered[r->nbuffered] = MakeSingleTupleTableSlot(r->buffered_desc, &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, r->buffered[r->nbuffered++], true);
	if (r->nbuffered == BULK_ROWS)
		flush_rows(r);
}

/* From here to jobq_bulk_end() what is inserted is not read. */
void
jobq_bulk_begin(JobqCall *call)
{
	call->bulk = true;
}

/* Insert what was held back. */
void
jobq_bulk_end(JobqCall *call)
{
	call->bulk = false;
	for (int t = 0; t < JOBQ_NTABLES; t++)
	{
		JobqRel    *r = call->rels[t];

		if (r == NULL || r->buffered == NULL)
			continue;
		flush_rows(r);
		for (int i = 0; i < BULK_ROWS && r->buffered[i] != NULL; i++)
			ExecDropSingleTupleTableSlot(r->buffered[i]);
		FreeTupleDesc(r->buffered_desc);
		pfree(r->buffered);
		r->buffered = NULL;
	}
}

/* The same after the subtransaction in which it all began was rolled back: forget it. */
void
jobq_bulk_forget(JobqCall *call)
{
	call->bulk = false;
	for (int t = 0; t < JOBQ_NTABLES; t++)
	{
		JobqRel    *r = call->rels[t];

		if (r == NULL || r->buffered == NULL)
			continue;
		FreeTupleDesc(r->buffered_desc);
		pfree(r->buffered);		/* what the slots held went with it */
		r->buffered = NULL;
		r->nbuffered = 0;
	}
}

/* to[i] = !from[i], a word at a time, for this is done for each row that is written. */
static void
invert(bool *to, const bool *from, int n)
{
	uint64		word;

	for (; n >= sizeof(word); n -= sizeof(word))
	{
		memcpy(&word, from, sizeof(word));
		word ^= UINT64CONST(0x0101010101010101);
		memcpy(to, &word, sizeof(word));
		from += sizeof(word);
		to += sizeof(word);
	}
	while (n-- > 0)
		*to++ = !*from++;
}

/* A row as it is stored. */
static HeapTuple
form_tuple(JobqRel *r, JobqRow *new)
{
	TupleDesc	desc = RelationGetDescr(r->rel);
	bool		nulls[JOB_NATTS];

	invert(nulls, new->given, desc->natts);
	return heap_form_tuple(desc, new->values, nulls);
}

/* A slot with a row as it is to be written, which the caller clears. */
static TupleTableSlot *
formed_slot(JobqRel *r, JobqRow *new)
{
	if (r->formed == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(r->mcxt);

		r->formed = MakeSingleTupleTableSlot(RelationGetDescr(r->rel), &TTSOpsHeapTuple);
		MemoryContextSwitchTo(old);
	}
	return ExecStoreHeapTuple(form_tuple(r, new), r->formed, true);
}

/* Insert a row; returns where it is, which is nowhere yet if the call does it in bulk. */
ItemPointerData
jobq_insert(JobqCall *call, JobqTable table, JobqRow *new)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *slot;
	ItemPointerData tid;

	if (call->bulk)
	{
		ItemPointerSetInvalid(&tid);
		buffer_row(call, r, form_tuple(r, new));
		return tid;
	}
	slot = formed_slot(r, new);
	table_tuple_insert(r->rel, slot, GetCurrentCommandId(true), 0, NULL);
	insert_index_entries(r, slot, JOBQ_ALL_INDEXES);
	tid = slot->tts_tid;
	ExecClearTuple(slot);
	return tid;
}

/*
 * Another transaction, still open, is inserting a row with the key of this one, or
 * was until just now: wait for its end.
 */
static void
wait_for_inserter(JobqRel *r, TupleTableSlot *slot, JobqTable table)
{
	const IndexColumns *c = &jobq_index_columns[table][INDEX_KEY];
	Relation	index = jobq_choose_index(r, INDEX_KEY);
	TupleTableSlot *other = empty_slot(r);
	ScanKeyData keys[3];
	SnapshotData dirty;
	IndexScanDesc scan;
	TransactionId inserter = InvalidTransactionId;
	uint32		token = 0;
	ItemPointerData tid;

	InitDirtySnapshot(dirty);
	for (int i = 0; i < c->ncolumns; i++)
	{
		bool		isnull;

		ScanKeyEntryInitialize(&keys[i], 0, i + 1, BTEqualStrategyNumber, InvalidOid,
							   index->rd_indcollation[i], c->equal[i],
							   slot_getattr(slot, c->columns[i], &isnull));
	}
	scan = jobq_index_beginscan(r->rel, index, &dirty, c->ncolumns);
	index_rescan(scan, keys, c->ncolumns, NULL, 0);
	while (!TransactionIdIsValid(inserter) &&
		   index_getnext_slot(scan, ForwardScanDirection, other))
	{
		inserter = dirty.xmin;
		token = dirty.speculativeToken;
		tid = other->tts_tid;
	}
	index_endscan(scan);
	ExecClearTuple(other);
	if (!TransactionIdIsValid(inserter))
		return;
	if (token != 0)
		SpeculativeInsertionWait(inserter, token);
	else
		XactLockTableWait(inserter, r->rel, &tid, XLTW_InsertIndex);
}

/*
 * Insert a row at once unless another has its key, as INSERT ... ON CONFLICT DO
 * NOTHING does: speculatively, so it can be taken back without a subtransaction.
 * False: another has, or had it just now, so the caller looks again; if wait, who
 * was inserting that has ended.
 */
bool
jobq_insert_unless_there(JobqCall *call, JobqTable table, JobqRow *new, bool wait)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *slot = formed_slot(r, new);
	TransactionId xid = GetCurrentTransactionId();
	uint32		token = SpeculativeInsertionLockAcquire(xid);
	bool		ok;

	table_tuple_insert_speculative(r->rel, slot, GetCurrentCommandId(true), 0, NULL, token);
	ok = insert_checked_entries(r, slot, JOBQ_ALL_INDEXES, UNIQUE_CHECK_PARTIAL);
	table_tuple_complete_speculative(r->rel, slot, token, ok);
	SpeculativeInsertionLockRelease(xid);
	if (!ok && wait)
		wait_for_inserter(r, slot, table);
	ExecClearTuple(slot);
	return ok;
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
jobq_scan_between(JobqCall *call, JobqTable table, JobqIndex which, int64 from, int64 upto)
{
	ScanKeyData skeys[2];

	ScanKeyInit(&skeys[0], 1, BTGreaterEqualStrategyNumber, F_INT8GE, Int64GetDatum(from));
	ScanKeyInit(&skeys[1], 1, BTLessEqualStrategyNumber, F_INT8LE, Int64GetDatum(upto));
	return begin_scan(call, table, which, 2, skeys, NULL);
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

/* The last row, in index order, whose first nkeys index columns equal keys, or NULL; under the latest snapshot. */
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

/* The latest version of the row with a number that is the primary key, or NULL. */
TupleTableSlot *
jobq_find_id(JobqCall *call, JobqTable table, int64 id)
{
	Datum		key = Int64GetDatum(id);

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

	slot = empty_slot(r);
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
	other = empty_slot(r);
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
	TupleTableSlot *slot = empty_slot(r);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TableScanDesc scan = table_beginscan_tidrange(r->rel, snapshot, from, upto);

	while (table_scan_getnextslot_tidrange(scan, ForwardScanDirection, slot) && callback(slot, arg))
		CHECK_FOR_INTERRUPTS();
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
	ExecClearTuple(slot);
}

/* Did the write succeed?  False: the row was changed meanwhile, look again. */
static bool
written(JobqRel *r, TM_Result result, LockWaitPolicy policy)
{
	switch (result)
	{
		case TM_Ok:
			return true;
		case TM_Updated:
		case TM_Deleted:
			if (policy != LockWaitSkip && IsolationUsesXactSnapshot())
				ereport(ERROR,
						(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
						 errmsg("could not serialize access due to concurrent update")));
			return false;
		case TM_BeingModified:
		case TM_WouldBlock:
			return false;
		case TM_SelfModified:
		case TM_Invisible:
			break;
	}
	elog(ERROR, "unexpected result %d of a write to table \"%s\"",
		 (int) result, RelationGetRelationName(r->rel));
}

/*
 * Lock a row, which this transaction has read at this place, to the end of the
 * transaction.  Like the next two it waits for whoever has the row locked or, with
 * LockWaitSkip, passes over one that somebody else has locked, changed or deleted,
 * and never waits.  FOR KEY SHARE holds against a deletion also what another is
 * just updating.
 */
bool
jobq_lock_at(JobqCall *call, JobqTable table, ItemPointer place, LockTupleMode mode,
			 LockWaitPolicy policy)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *locked = empty_slot(r);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ItemPointerData tid = *place;
	TM_FailureData tmfd;
	TM_Result	result;

	result = table_tuple_lock(r->rel, &tid, snapshot, locked, GetCurrentCommandId(true),
							  mode, policy,
							  mode == LockTupleKeyShare ? TUPLE_LOCK_FLAG_LOCK_UPDATE_IN_PROGRESS : 0, &tmfd);
	UnregisterSnapshot(snapshot);
	ExecClearTuple(locked);
	return written(r, result, policy);
}

/*
 * Replace a row by the given values; the slot's place is that of the new version
 * then, its values are the old ones.  An update that does not wait is none that
 * the heap provides for, so one that may not wait takes the lock first.
 */
bool
jobq_update(JobqCall *call, JobqTable table, TupleTableSlot *slot, JobqRow *new,
			LockWaitPolicy policy)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *newslot;
	Snapshot	snapshot;
	TM_FailureData tmfd;
	LockTupleMode lockmode;
	JobqUpdateIndexes update_indexes;
	TM_Result	result;
	bool		ok;

	if (policy == LockWaitSkip && !jobq_lock(call, table, slot, LockTupleNoKeyExclusive, policy))
		return false;
	newslot = formed_slot(r, new);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	result = table_tuple_update(r->rel, &slot->tts_tid, newslot, GetCurrentCommandId(true),
								snapshot, InvalidSnapshot, true, &tmfd,
								&lockmode, &update_indexes);
	ok = written(r, result, policy);
	if (ok)
	{
		insert_index_entries(r, newslot, update_indexes);
		slot->tts_tid = newslot->tts_tid;
	}
	UnregisterSnapshot(snapshot);
	ExecClearTuple(newslot);
	return ok;
}

/*
 * Delete a row; LockWaitSkip: unless this call has deleted it before, too.  A row
 * that this transaction has locked looks like one that somebody has locked, until
 * the lock is taken once more.
 */
bool
jobq_delete_at(JobqCall *call, JobqTable table, ItemPointer place, LockWaitPolicy policy)
{
	JobqRel    *r = jobq_rel(call, table);
	bool		wait = policy == LockWaitBlock;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TM_FailureData tmfd;
	TM_Result	result;

	while ((result = table_tuple_delete(r->rel, place, GetCurrentCommandId(true),
										snapshot, InvalidSnapshot, wait, &tmfd, false)) == TM_BeingModified)
	{
		wait = jobq_lock_at(call, table, place, LockTupleExclusive, LockWaitSkip);
		if (!wait)
			break;
	}
	UnregisterSnapshot(snapshot);
	if (policy == LockWaitSkip && result == TM_SelfModified)
		return false;
	return written(r, result, policy);
}

/* A row as it was when this transaction deleted it. */
TupleTableSlot *
jobq_fetch_deleted(JobqCall *call, JobqTable table, const ItemPointerData *place)
{
	JobqRel    *r = jobq_rel(call, table);
	TupleTableSlot *slot = empty_slot(r);
	ItemPointerData tid = *place;

	if (!table_tuple_fetch_row_version(r->rel, &tid, SnapshotAny, slot))
		elog(ERROR, "a deleted row of table \"%s\" is missing", RelationGetRelationName(r->rel));
	return slot;
}

/* Copy a row's values, to change some and write it back. */
void
jobq_values(TupleTableSlot *slot, JobqRow *new)
{
	int			n = slot->tts_tupleDescriptor->natts;

	slot_getallattrs(slot);
	memcpy(new->values, slot->tts_values, n * sizeof(Datum));
	invert(new->given, slot->tts_isnull, n);
}
