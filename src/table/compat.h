/*
 * compat.h
 *	  What differs between PostgreSQL 15 and 18; the only file with tests on
 *	  PG_VERSION_NUM.
 */
#ifndef JOBQ_COMPAT_H
#define JOBQ_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"

/* which indexes an update needs entries in: none, all, or summarizing ones only */
#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes JobqUpdateIndexes;
#define JOBQ_NO_INDEX		TU_None
#define JOBQ_ALL_INDEXES	TU_All
#define jobq_needs_entry(u, index) \
	((u) == TU_All || ((u) == TU_Summarizing && (index)->rd_indam->amsummarizing))
#else
typedef bool JobqUpdateIndexes;
#define JOBQ_NO_INDEX		false
#define JOBQ_ALL_INDEXES	true
#define jobq_needs_entry(u, index)	true
#endif

#if PG_VERSION_NUM >= 170000
#define jobq_index_insert_cleanup(index, info)	index_insert_cleanup(index, info)
#else
#define jobq_index_insert_cleanup(index, info)	((void) 0)
#endif

#if PG_VERSION_NUM >= 180000
#define jobq_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, NULL, nkeys, 0)
#else
#define jobq_index_beginscan(heap, index, snapshot, nkeys) \
	index_beginscan(heap, index, snapshot, nkeys, 0)
#endif

/* which view a subquery with security_barrier was; until 15 only its own entry OLD tells */
#if PG_VERSION_NUM >= 160000
#define jobq_view_of(rte)	((rte)->relid)
#else
#define jobq_view_of(rte)	(linitial_node(RangeTblEntry, (rte)->subquery->rtable)->relid)
#endif

/* the file that holds a table */
#if PG_VERSION_NUM >= 160000
typedef RelFileNumber JobqFileNumber;
#define jobq_file_number(rel)	((rel)->rd_locator.relNumber)
#else
typedef Oid JobqFileNumber;
#define jobq_file_number(rel)	((rel)->rd_node.relNode)
#endif

#if PG_VERSION_NUM >= 170000
#define jobq_wait_event(name)	WaitEventExtensionNew(name)
#else
#define jobq_wait_event(name)	PG_WAIT_EXTENSION
#endif

#if PG_VERSION_NUM >= 160000
#define jobq_owns_database(database)	object_ownercheck(DatabaseRelationId, database, GetUserId())
#else
#define jobq_owns_database(database)	pg_database_ownercheck(database, GetUserId())
#endif

/* came with minor releases */
#ifndef DATCONNLIMIT_INVALID_DB
#define DATCONNLIMIT_INVALID_DB		(-2)
#endif

/*
 * From libpq/libpq.h, which can only be included where the headers of all the
 * libraries that the server was built with are installed.
 */
#define FeBeWaitSetSocketPos 0
#define FeBeWaitSetLatchPos 1
#define FeBeWaitSetNEvents 3
extern PGDLLIMPORT struct WaitEventSet *FeBeWaitSet;
extern bool pq_check_connection(void);

#endif							/* JOBQ_COMPAT_H */
