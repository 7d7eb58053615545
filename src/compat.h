/*
 * compat.h
 *	  What differs between PostgreSQL 15 and 18; the only file with tests on
 *	  PG_VERSION_NUM.
 */
#ifndef JOBQ_COMPAT_H
#define JOBQ_COMPAT_H

#include "access/genam.h"
#include "access/tableam.h"

#if PG_VERSION_NUM >= 160000
typedef TU_UpdateIndexes JobqUpdateIndexes;
#define jobq_update_needs_indexes(u)	((u) == TU_All)
#else
typedef bool JobqUpdateIndexes;
#define jobq_update_needs_indexes(u)	(u)
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

#if PG_VERSION_NUM >= 160000
#define jobq_has_schema_usage(schema, role) \
	(object_aclcheck(NamespaceRelationId, schema, role, ACL_USAGE) == ACLCHECK_OK)
#else
#define jobq_has_schema_usage(schema, role) \
	(pg_namespace_aclcheck(schema, role, ACL_USAGE) == ACLCHECK_OK)
#endif

#endif							/* JOBQ_COMPAT_H */
