/*
 * relations.h
 *	  A table of ours that a call has open; between relations.c, scan.c and rows.c only.
 */
#ifndef JOBQ_RELATIONS_H
#define JOBQ_RELATIONS_H

#include "postgres.h"

#include "miscadmin.h"
#include "nodes/execnodes.h"

#include "table/table.h"

#define JOBQ_SLOTS_TRIED	8	/* for an empty one; a power of 2 */

typedef struct RelIndex
{
	Oid			oid;
	Relation	rel;			/* NULL: not opened, as no row had an entry */
	IndexInfo  *info;			/* NULL for a btree, which needs none */
	const struct Partial *partial;	/* has entries for some rows only; NULL:
									 * for all */
} RelIndex;

struct JobqRel
{
	JobqTable	table;
	Relation	rel;
	LOCKMODE	lockmode;
	int			nindexes;
	RelIndex   *indexes;		/* NULL: not opened yet */
	MemoryContext mcxt;			/* of the call */
	JobqScan   *spare[NINDEXES];	/* ended scans, by JobqIndex, to be used
									 * again */
	JobqScan   *walk;			/* of jobq_walk_id(), or NULL */
	bool		at_end;			/* there is no more in the walk */
	int64		walked;			/* the last id it was asked for */
	int			nslots;
	TupleTableSlot **slots;		/* for rows that are read, some of them empty */
	TupleTableSlot *first_slots[JOBQ_SLOTS_TRIED];
	TupleTableSlot *formed;		/* for the row that is being written, or NULL */
	int			nbuffered;		/* rows held back, see jobq_bulk_begin() */
	TupleTableSlot **buffered;
	TupleDesc	buffered_desc;	/* of their slots */
};

/* The columns that tell a table's indexes apart, first one first. */
typedef struct IndexColumns
{
	int			ncolumns;
	AttrNumber	columns[4];
	RegProcedure equal[4];
} IndexColumns;

extern const IndexColumns jobq_index_columns[JOBQ_NTABLES][NINDEXES];

extern JobqRel *jobq_open_rel(JobqCall *call, JobqTable table);
extern void jobq_open_indexes(JobqRel *r);
extern Relation jobq_choose_index(JobqRel *r, JobqIndex which);
extern Relation jobq_index_of_row(JobqRel *r, int i, TupleTableSlot *slot);
extern TupleTableSlot *jobq_empty_slot(JobqRel *r);

/* scan.c */
extern void jobq_end_scans(JobqRel *r);
extern TupleTableSlot *jobq_fetch_deleted(JobqCall *call, JobqTable table, const ItemPointerData *place);

/*
 * A table, open for the rest of the call.  Whatever is done to a row comes here
 * first, so a call can be cancelled however many it goes over.
 */
static inline JobqRel *
jobq_rel(JobqCall *call, JobqTable table)
{
	CHECK_FOR_INTERRUPTS();
	return call->rels[table] != NULL ? call->rels[table] : jobq_open_rel(call, table);
}

#endif							/* JOBQ_RELATIONS_H */
