/*
 * rows.c
 *	  Writing and locking the rows of our own tables.
 *
 * With scan.c, the only file that calls the table and index access methods.  Going
 * around the executor means to do here what it would have done:
 *
 * - A row is written into every index of its table that is ready for inserts,
 *   see relations.c.
 * - Every TM_Result is handled by name.  A row that a concurrent transaction
 *   changed while we waited for it makes the write functions return false:
 *   the caller looks again with a new snapshot.  In REPEATABLE READ and
 *   SERIALIZABLE transactions it is an error 40001 instead, as in core.
 *
 * Read-only and parallel mode are checked once per call, in jobq_enter(), and
 * privileges by each entry point.
 *
 * Within a call a row is not touched twice without jobq_advance() between.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/xact.h"
#include "storage/lmgr.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "table/relations.h"

#define BULK_ROWS		256		/* of a table, inserted together */

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
	call->let_in = 0;
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

/* Descriptors of the first columns of a table, so many of them; NULL: not made yet */
static TupleDesc heads[JOBQ_NTABLES][JOB_NATTS + 1];
static MemoryContext heads_mcxt = NULL; /* NULL: none was made */

/* Forget them whenever a table of ours may have changed. */
static void
forget_heads(void)
{
	if (heads_mcxt == NULL)
		return;
	MemoryContextDelete(heads_mcxt);
	heads_mcxt = NULL;
	memset(heads, 0, sizeof(heads));
}

/* Register that, once per backend. */
void
jobq_rows_init(void)
{
	jobq_on_catalog_reset(forget_heads);
}

/*
 * The descriptor of the first n columns of a table.  It is to be used at once: a look into
 * a catalog can forget it.
 */
static TupleDesc
head(JobqRel *r, int n)
{
	TupleDesc	desc = RelationGetDescr(r->rel);
	MemoryContext old;
	TupleDesc	new;

	if (n == desc->natts)
		return desc;
	if (heads[r->table][n] != NULL)
		return heads[r->table][n];

	if (heads_mcxt == NULL)
		heads_mcxt = AllocSetContextCreate(TopMemoryContext, "jobq rows", ALLOCSET_DEFAULT_SIZES);
	old = MemoryContextSwitchTo(heads_mcxt);
	new = CreateTemplateTupleDesc(n);
	for (int i = 1; i <= n; i++)
		TupleDescCopyEntry(new, i, desc, i);
	MemoryContextSwitchTo(old);
	heads[r->table][n] = new;
	return new;
}

/*
 * A row as it is stored: without the NULLs at its end, like one that is older than the
 * last columns of its table.  What few jobs have stands there, and costs the others
 * neither time nor room.  No column may be added with a default and without NOT NULL,
 * for such a row would get it.  Where values are compressed or stored apart, the heap
 * adds the NULLs again.
 */
static HeapTuple
form_tuple(JobqRel *r, JobqRow *new)
{
	TupleDesc	desc = RelationGetDescr(r->rel);
	int			n = desc->natts;
	bool		nulls[JOB_NATTS];

	while (n > 1 && !new->given[n - 1])
		n--;
	invert(nulls, new->given, n);
	return heap_form_tuple(head(r, n), new->values, nulls);
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
	TupleTableSlot *other = jobq_empty_slot(r);
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
	TupleTableSlot *locked = jobq_empty_slot(r);
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

/* Copy a row's values, to change some and write it back. */
void
jobq_values(TupleTableSlot *slot, JobqRow *new)
{
	int			n = slot->tts_tupleDescriptor->natts;

	slot_getallattrs(slot);
	memcpy(new->values, slot->tts_values, n * sizeof(Datum));
	invert(new->given, slot->tts_isnull, n);
}
