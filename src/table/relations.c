/*
 * relations.c
 *	  Our tables and their indexes: opened, recognized, and refused where others
 *	  changed what we rely on.
 *
 * Whoever goes around the executor has to look for itself at what a table has
 * become since CREATE EXTENSION: other columns, triggers, rules, indexes.  What
 * is fine is used, an index that was added as well; all else is an error, so
 * nothing that somebody made goes by unnoticed.  Indexes are taken from the
 * relcache at each use (REINDEX CONCURRENTLY swaps OIDs).
 *
 * jobq_open_call() and jobq_close_call() advance the command counter, so that
 * a call sees what its own statement wrote before (a claim inside a
 * completing SELECT) and is seen by what follows.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_am_d.h"
#include "catalog/pg_type_d.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "storage/bufmgr.h"
#include "utils/fmgroids.h"

#include "table/relations.h"

int			jobq_clock_offset_ms = 0;

const IndexColumns jobq_index_columns[JOBQ_NTABLES][NINDEXES] = {
	[JOBQ_JOB] = {{1, {JOB_ID}, {F_INT8EQ}},
	{2, {JOB_FLOW, JOB_NAME}, {F_INT8EQ, F_TEXTEQ}},
	{2, {JOB_SCHEDULE_ID, JOB_SCHEDULED_FOR}, {F_INT8EQ, F_TIMESTAMPTZ_EQ}}},
	[JOBQ_DEPENDENCY] = {{2, {DEP_UPSTREAM, DEP_DOWNSTREAM}, {F_INT8EQ, F_INT8EQ}},
	{2, {DEP_DOWNSTREAM, DEP_UPSTREAM}, {F_INT8EQ, F_INT8EQ}}},
	[JOBQ_WAITING] = {{1, {STATE_JOB_ID}, {F_INT8EQ}},
	{3, {WAITING_LIMITED_BY, STATE_PRIORITY, STATE_JOB_ID}, {F_INT8EQ, F_INT2EQ, F_INT8EQ}}},
	[JOBQ_DELTA] = {{1, {DELTA_SEQ}, {F_INT8EQ}}},
	[JOBQ_RECOUNT] = {{1, {RECOUNT_SEQ}, {F_INT8EQ}},
	{1, {RECOUNT_JOB_ID}, {F_INT8EQ}}},
	[JOBQ_SCHEDULED] = {{1, {STATE_JOB_ID}, {F_INT8EQ}},
	{1, {STATE_RUN_AT}, {F_TIMESTAMPTZ_EQ}}},
	[JOBQ_LIMITED] = {{1, {STATE_JOB_ID}, {F_INT8EQ}},
	{4, {STATE_QUEUE_ID, STATE_PARTITION_ID, STATE_PRIORITY, READY_POSITION}, {F_INT8EQ, F_INT8EQ, F_INT2EQ, F_INT8EQ}}},
	[JOBQ_READY] = {{3, {STATE_LANE, STATE_PRIORITY, READY_POSITION}, {F_INT8EQ, F_INT2EQ, F_INT8EQ}},
	{1, {STATE_JOB_ID}, {F_INT8EQ}}},
	[JOBQ_LEASE] = {{1, {STATE_JOB_ID}, {F_INT8EQ}},
	{1, {LEASE_DEADLINE}, {F_TIMESTAMPTZ_EQ}},
	{1, {LEASE_SESSION}, {F_INT8EQ}}},
	[JOBQ_FLOW] = {{1, {STATE_JOB_ID}, {F_INT8EQ}}},
	[JOBQ_KEPT] = {{2, {KEPT_LOOK_AT, KEPT_JOB_ID}, {F_TIMESTAMPTZ_EQ, F_INT8EQ}}},
	[JOBQ_EXPIRY] = {{2, {EXPIRY_EXPIRES_AT, EXPIRY_JOB_ID}, {F_TIMESTAMPTZ_EQ, F_INT8EQ}}},
	[JOBQ_CANCEL_REQUEST] = {{1, {CANCEL_SEQ}, {F_INT8EQ}},
	{1, {CANCEL_JOB_ID}, {F_INT8EQ}}},
	[JOBQ_UNIQUE] = {{2, {UNIQUE_KEY, UNIQUE_QUEUE_ID}, {F_TEXTEQ, F_INT8EQ}},
	{2, {UNIQUE_UNTIL, UNIQUE_JOB_ID}, {F_TIMESTAMPTZ_EQ, F_INT8EQ}}},
	[JOBQ_SCHEDULE] = {{1, {SCHEDULE_NAME}, {F_TEXTEQ}},
	{2, {SCHEDULE_NEXT_AT, SCHEDULE_ID}, {F_TIMESTAMPTZ_EQ, F_INT8EQ}}},
	[JOBQ_ATTEMPT] = {{2, {ATTEMPT_JOB_ID, ATTEMPT_NO}, {F_INT8EQ, F_INT4EQ}}},
	[JOBQ_LOG] = {{2, {LOG_JOB_ID, LOG_SEQ}, {F_INT8EQ, F_INT8EQ}}},
	[JOBQ_STEP] = {{2, {STEP_JOB_ID, STEP_NAME}, {F_INT8EQ, F_TEXTEQ}}},
	[JOBQ_QUEUE] = {{1, {QUEUE_NAME}, {F_TEXTEQ}},
	{1, {QUEUE_ID}, {F_INT8EQ}}},
	[JOBQ_PARTITION] = {{2, {PARTITION_QUEUE_ID, PARTITION_ID}, {F_INT8EQ, F_INT8EQ}}},
	[JOBQ_WORKER] = {{1, {WORKER_NAME}, {F_TEXTEQ}}},
	[JOBQ_LANE] = {{2, {LANE_QUEUE_ID, LANE_LANE}, {F_INT8EQ, F_INT8EQ}}},
	[JOBQ_TURN] = {{2, {TURN_QUEUE_ID, TURN_PARTITION_ID}, {F_INT8EQ, F_INT8EQ}}},
	[JOBQ_PRIVILEGE] = {{3, {PRIVILEGE_ROLE, PRIVILEGE_QUEUE, PRIVILEGE_PRIVILEGE}, {F_OIDEQ, F_TEXTEQ, F_TEXTEQ}}},
	[JOBQ_ACTIVE] = {{1, {ACTIVE_SYSTEM_IDENTIFIER}, {F_INT8EQ}}},
};

/* The types of our tables' columns, a letter each */
#define STATE "888tt88844422"

static const char *const column_types[JOBQ_NTABLES] = {
	[JOBQ_JOB] = "8tr44422bbxxjtt844422xjxx82bxtt88844j88xAx8t4r88bj",
	[JOBQ_DEPENDENCY] = "8822x",
	[JOBQ_WAITING] = STATE "884444442bbbb",
	[JOBQ_DELTA] = "8884444444",
	[JOBQ_RECOUNT] = "88",
	[JOBQ_SCHEDULED] = STATE,
	[JOBQ_LIMITED] = STATE "8t",
	[JOBQ_READY] = STATE "8t",
	[JOBQ_LEASE] = STATE "8tttt8rbb8xAxj",
	[JOBQ_FLOW] = STATE "444444444t8888f22bbbbxAjj",
	[JOBQ_KEPT] = "t88t8",
	[JOBQ_EXPIRY] = "t8",
	[JOBQ_CANCEL_REQUEST] = "884bx",
	[JOBQ_UNIQUE] = "88tx",
	[JOBQ_SCHEDULE] = "8tt8r22bxxxjx",
	[JOBQ_ATTEMPT] = "84tt2xx",
	[JOBQ_LOG] = "88t442xj",
	[JOBQ_STEP] = "8t4xj",
	[JOBQ_QUEUE] = "x8b44888828848xt44bb4488a",
	[JOBQ_PARTITION] = "88b44xx",
	[JOBQ_LANE] = "88A",
	[JOBQ_TURN] = "888",
	[JOBQ_WORKER] = "ttr4bxxAj",
	[JOBQ_PRIVILEGE] = "rxx",
	[JOBQ_ACTIVE] = "8o",
};

static const Oid types[] = {
	['2'] = INT2OID,
	['4'] = INT4OID,
	['8'] = INT8OID,
	['A'] = TEXTARRAYOID,
	['a'] = INT8ARRAYOID,
	['b'] = BOOLOID,
	['f'] = FLOAT8OID,
	['j'] = JSONBOID,
	['o'] = OIDOID,
	['r'] = REGROLEOID,
	['t'] = TIMESTAMPTZOID,
	['x'] = TEXTOID,
};

/* A table whose columns are not those of CREATE EXTENSION cannot be used. */
static void
check_columns(Relation rel, JobqTable table)
{
	TupleDesc	desc = RelationGetDescr(rel);
	const char *letters = column_types[table];
	bool		ok = desc->natts == strlen(letters);

	for (int i = 0; ok && i < desc->natts; i++)
	{
		Form_pg_attribute column = TupleDescAttr(desc, i);

		ok = !column->attisdropped && column->atttypid == types[(uint8) letters[i]];
	}
	if (!ok)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("columns of table \"%s\" of extension jobq were added, dropped or changed",
						RelationGetRelationName(rel)),
				 errhint("Undo that; or dump the database and restore it into a new one, and keep other data in tables of your own.")));
}

/*
 * A trigger or a rule would not fire, and whoever made it relies on it, as tools
 * that copy the changes of a table by triggers do.  Of foreign keys there can be
 * those that reference job, whose triggers are for deletions.
 */
static void
check_triggers(Relation rel, JobqTable table)
{
	TriggerDesc *desc = rel->trigdesc;
	const char *found = rel->rd_rules != NULL ? "a rule" : NULL;

	for (int i = 0; desc != NULL && i < desc->numtriggers && found == NULL; i++)
	{
		Trigger    *trigger = &desc->triggers[i];

		if (trigger->tgenabled == TRIGGER_DISABLED ||
			(table == JOBQ_JOB && RI_FKey_trigger_type(trigger->tgfoid) == RI_TRIGGER_PK))
			continue;
		found = trigger->tgisinternal ? "the trigger of a constraint" :
			psprintf("trigger \"%s\"", trigger->tgname);
	}
	if (found != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("table \"%s\" of extension jobq has %s, which would not fire",
						RelationGetRelationName(rel), found),
				 errhint("Drop it.  What can be done instead is in docs/operations.md.")));
}

/* Our partial indexes, and which they are, once they were seen */
typedef struct Partial
{
	JobqTable	table;
	AttrNumber	key;			/* its first column */
	bool		not_by_id;		/* the predicate is position <> job_id, else
								 * that the key is not null */
} Partial;

static const Partial partials[] = {
	{JOBQ_JOB, JOB_TAGS},
	{JOBQ_JOB, JOB_FLOW},
	{JOBQ_WAITING, WAITING_LIMITED_BY},
	{JOBQ_JOB, JOB_SCHEDULE_ID},
	{JOBQ_READY, STATE_JOB_ID, true},
	{JOBQ_LEASE, LEASE_SESSION},
	{JOBQ_UNIQUE, UNIQUE_UNTIL},
};
static Oid	our_partial[lengthof(partials)];

/* Which of them was seen under this OID? NULL: none. */
static const Partial *
known_partial(JobqTable table, Oid oid)
{
	for (int i = 0; i < lengthof(partials); i++)
	{
		if (partials[i].table == table && our_partial[i] == oid)
			return &partials[i];
	}
	return NULL;
}

/* Does an index predicate say "position <> job_id"? */
static bool
is_not_by_id(Node *predicate)
{
	OpExpr	   *op = (OpExpr *) predicate;

	return IsA(op, OpExpr) && op->opfuncid == F_INT8NE &&
		IsA(linitial(op->args), Var) && IsA(lsecond(op->args), Var) &&
		linitial_node(Var, op->args)->varattno == READY_POSITION &&
		lsecond_node(Var, op->args)->varattno == STATE_JOB_ID;
}

/* Does it say "column IS NOT NULL"? */
static bool
is_not_null(Node *predicate, AttrNumber column)
{
	NullTest   *test = (NullTest *) predicate;

	return IsA(test, NullTest) && test->nulltesttype == IS_NOT_NULL &&
		IsA(test->arg, Var) && ((Var *) test->arg)->varattno == column;
}

/* Which of our partial indexes is this? NULL: none. */
static const Partial *
find_partial(JobqTable table, Relation index)
{
	List	   *predicate = RelationGetIndexPredicate(index);

	for (int i = 0; i < lengthof(partials) && list_length(predicate) == 1; i++)
	{
		const Partial *p = &partials[i];

		if (p->table == table && p->key == index->rd_index->indkey.values[0] &&
			(p->not_by_id ? is_not_by_id(linitial(predicate)) : is_not_null(linitial(predicate), p->key)))
		{
			our_partial[i] = RelationGetRelid(index);
			return p;
		}
	}
	return NULL;
}

/* Has a row an entry in a partial index? */
static bool
in_partial(const Partial *partial, TupleTableSlot *slot)
{
	if (partial->not_by_id)
		return jobq_attr_int64(slot, READY_POSITION) != jobq_attr_int64(slot, STATE_JOB_ID);
	/* not by the slot, which would read all columns before it */
	return !heap_attisnull(ExecFetchSlotHeapTuple(slot, false, NULL), partial->key, NULL);
}

/*
 * Does an index keep rows out that ours let in?  Who inserts unless there is a row
 * with the key (rows.c) would wait for another that is not there, and others fail.
 */
static bool
is_other_unique(JobqTable table, Form_pg_index form)
{
	AttrNumber	first = form->indkey.values[0];
	bool		second = (table == JOBQ_QUEUE && first == QUEUE_ID) || (table == JOBQ_JOB && first == JOB_FLOW);
	const IndexColumns *key = &jobq_index_columns[table][second ? INDEX_SECOND : INDEX_KEY];

	return (form->indisunique || form->indisexclusion) &&
		(form->indnkeyatts != key->ncolumns ||
		 memcmp(form->indkey.values, key->columns, key->ncolumns * sizeof(AttrNumber)) != 0);
}

/* Open an index, if it can be written; an error, if we would not know how. */
static void
open_index(JobqRel *r, RelIndex *index)
{
	Relation	rel = index_open(index->oid, r->lockmode);
	bool		other = false;

	if (!rel->rd_index->indisready)
	{
		index_close(rel, NoLock);
		return;
	}
	if (index->partial == NULL && !heap_attisnull(rel->rd_indextuple, Anum_pg_index_indpred, NULL))
	{
		index->partial = find_partial(r->table, rel);
		other = index->partial == NULL;
	}
	if (other || !heap_attisnull(rel->rd_indextuple, Anum_pg_index_indexprs, NULL) ||
		is_other_unique(r->table, rel->rd_index))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("index \"%s\" on a table of extension jobq is unique, partial or on an expression",
						RelationGetRelationName(rel)),
				 errhint("Drop the index; only plain indexes on columns can be added.")));
	index->rel = rel;
	index->info = rel->rd_rel->relam == BTREE_AM_OID ? NULL : BuildIndexInfo(rel);
}

/* Open a table for the rest of the call; it is not open yet. */
JobqRel *
jobq_open_rel(JobqCall *call, JobqTable table)
{
	JobqRel    *r;
	MemoryContext old;
	LOCKMODE	lockmode = RowExclusiveLock;

	/* every call reads it; its writers lock it themselves */
	if (table == JOBQ_PRIVILEGE)
		lockmode = AccessShareLock;
	old = MemoryContextSwitchTo(call->mcxt);
	r = palloc0(sizeof(JobqRel));
	r->table = table;
	r->mcxt = call->mcxt;
	r->lockmode = lockmode;
	r->rel = try_table_open(jobq_table_oid(table), lockmode);
	if (r->rel == NULL)
	{
		/* dropped while we waited for the lock */
		jobq_catalog_reset();
		r->rel = table_open(jobq_table_oid(table), lockmode);
	}
	if (!jobq_table_checked(table))
	{
		check_columns(r->rel, table);
		check_triggers(r->rel, table);
		jobq_table_set_checked(table);
	}
	call->rels[table] = r;
	MemoryContextSwitchTo(old);
	return r;
}

/*
 * Open the indexes of a table for the rest of the call, when the first is needed;
 * but partial ones, once they are known, when a row has an entry there.
 */
void
jobq_open_indexes(JobqRel *r)
{
	MemoryContext old;
	List	   *oids;
	ListCell   *lc;

	if (r->indexes != NULL)
		return;
	old = MemoryContextSwitchTo(r->mcxt);
	oids = RelationGetIndexList(r->rel);
	r->indexes = palloc0(Max(list_length(oids), 1) * sizeof(RelIndex));
	foreach(lc, oids)
	{
		RelIndex   *index = &r->indexes[r->nindexes];

		index->oid = lfirst_oid(lc);
		index->partial = known_partial(r->table, index->oid);
		if (index->partial == NULL)
			open_index(r, index);
		if (index->partial != NULL || index->rel != NULL)
			r->nindexes++;
	}
	list_free(oids);
	MemoryContextSwitchTo(old);
}

/* An index of those of a table, open; or NULL. */
static Relation
opened(JobqRel *r, RelIndex *index)
{
	if (index->rel == NULL)
	{
		MemoryContext old = MemoryContextSwitchTo(r->mcxt);

		open_index(r, index);
		MemoryContextSwitchTo(old);
	}
	return index->rel;
}

/* One of the indexes of a table, if a row has an entry there, or NULL. */
Relation
jobq_index_of_row(JobqRel *r, int i, TupleTableSlot *slot)
{
	RelIndex   *index = &r->indexes[i];

	if (index->partial != NULL && !in_partial(index->partial, slot))
		return NULL;
	return opened(r, index);
}

/* Wait for a table's locks now, if at all in this call. */
void
jobq_open_table(JobqCall *call, JobqTable table)
{
	jobq_open_indexes(jobq_rel(call, table));
}

/*
 * Has a table no page at all?  That is far cheaper than to look for a row, and
 * true of one that is seldom written to.
 */
bool
jobq_is_empty(JobqCall *call, JobqTable table)
{
	return RelationGetNumberOfBlocks(jobq_rel(call, table)->rel) == 0;
}

/* Find the index that begins with the given columns, in our order, and can be scanned. */
Relation
jobq_choose_index(JobqRel *r, JobqIndex which)
{
	const IndexColumns *want = &jobq_index_columns[r->table][which];

	jobq_open_indexes(r);
	for (int i = 0; i < r->nindexes; i++)
	{
		Relation	index;
		Form_pg_index form;
		bool		match;

		/* no key is in a partial one */
		if (r->indexes[i].partial != NULL && which == INDEX_KEY)
			continue;
		index = opened(r, &r->indexes[i]);
		if (index == NULL)
			continue;
		form = index->rd_index;
		match = form->indisvalid && form->indnkeyatts >= want->ncolumns &&
			index->rd_rel->relam == BTREE_AM_OID;

		for (int c = 0; match && c < want->ncolumns; c++)
		{
			bool		descending = (r->table == JOBQ_READY || r->table == JOBQ_LIMITED || r->table == JOBQ_WAITING) &&
			want->columns[c] == STATE_PRIORITY;


			match = form->indkey.values[c] == want->columns[c] &&
				((index->rd_indoption[c] & INDOPTION_DESC) != 0) == descending;
		}
		if (match)
			return index;
	}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("an index of table \"%s\" of extension jobq is missing or invalid",
					RelationGetRelationName(r->rel)),
			 errhint("Make it again with REINDEX TABLE, or as CREATE EXTENSION made it.")));
}

/* Close a table and its indexes; their locks stay. */
static void
close_rel(JobqRel *r)
{
	for (int i = 0; i < r->nslots; i++)
		ExecDropSingleTupleTableSlot(r->slots[i]);
	if (r->formed != NULL)
		ExecDropSingleTupleTableSlot(r->formed);
	for (int i = 0; i < r->nindexes; i++)
	{
		if (r->indexes[i].rel != NULL)
			index_close(r->indexes[i].rel, NoLock);
	}
	table_close(r->rel, NoLock);
	if (r->indexes != NULL)
		pfree(r->indexes);
	pfree(r);
}

/* Slots */

/*
 * A slot for a row that was read.  Slots stay with the table until the call ends,
 * and an empty one is used again, since to make one costs as much as to read a row.
 * The caller fills it before it asks for another.
 */
TupleTableSlot *
jobq_empty_slot(JobqRel *r)
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

/* Calls */

/* Begin a call: see what was written before, open nothing yet. */
void
jobq_open_call(JobqCall *call)
{
	memset(call, 0, sizeof(JobqCall));
	call->mcxt = CurrentMemoryContext;
	call->now = jobq_wall();
	CommandCounterIncrement();
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
		jobq_end_scans(r);
		close_rel(r);
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
