/*
 * catalog.c
 *	  Where our own objects are.
 *
 * OIDs of tables are looked up by name in the extension's schema and kept until
 * the relcache says that one of the tables changed; what layers above read from
 * them is forgotten with them.  That the extension does not exist is never
 * remembered.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_extension.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/fmgroids.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"

#include "table/table.h"

static const char *const table_names[JOBQ_NTABLES] = {
	[JOBQ_JOB] = "job",
	[JOBQ_DEPENDENCY] = "job_dependency",
	[JOBQ_WAITING] = "job_waiting",
	[JOBQ_DELTA] = "job_delta",
	[JOBQ_RECOUNT] = "job_recount",
	[JOBQ_SCHEDULED] = "job_scheduled",
	[JOBQ_LIMITED] = "job_limited",
	[JOBQ_READY] = "job_ready",
	[JOBQ_LEASE] = "job_lease",
	[JOBQ_FLOW] = "job_flow",
	[JOBQ_KEPT] = "job_kept",
	[JOBQ_EXPIRY] = "job_expiry",
	[JOBQ_CANCEL_REQUEST] = "job_cancel_request",
	[JOBQ_UNIQUE] = "job_unique",
	[JOBQ_SCHEDULE] = "job_schedule",
	[JOBQ_ATTEMPT] = "job_attempt",
	[JOBQ_LOG] = "job_log",
	[JOBQ_STEP] = "job_step",
	[JOBQ_QUEUE] = "job_queue",
	[JOBQ_PARTITION] = "job_partition",
	[JOBQ_LANE] = "job_lane",
	[JOBQ_TURN] = "job_turn",
	[JOBQ_WORKER] = "job_worker",
	[JOBQ_PRIVILEGE] = "job_privilege",
	[JOBQ_ACTIVE] = "job_active_database",
};

typedef struct Catalog
{
	bool		valid;
	Oid			schema;
	Oid			owner;
	Oid			sequence;
	Oid			status;
	Oid			tables[JOBQ_NTABLES];
	bool		checked[JOBQ_NTABLES];	/* columns and triggers are ours */
} Catalog;

static Catalog catalog;
static uint32 catalog_resets;	/* so far */

static JobqResetCallback callbacks[8];
static int	ncallbacks = 0;

/* Have something done whenever a relation of ours may have changed. */
void
jobq_on_catalog_reset(JobqResetCallback callback)
{
	Assert(ncallbacks < lengthof(callbacks));
	callbacks[ncallbacks++] = callback;
}

/*
 * Forget everything if the relation that is invalidated may be one of ours: any,
 * while it is not known which are.
 */
static void
relcache_callback(Datum arg, Oid relid)
{
	bool		ours = !catalog.valid || relid == InvalidOid || relid == catalog.sequence || relid == catalog.status;

	for (int i = 0; i < JOBQ_NTABLES && !ours; i++)
		ours = relid == catalog.tables[i];
	if (ours)
		jobq_catalog_reset();
}

/* Register the invalidation callback, once per backend. */
void
jobq_catalog_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}

/*
 * Look up the extension and all its relations; false if it does not exist.
 * What was found is used again only if no invalidation came in meanwhile.
 */
static bool
load_catalog(void)
{
	Catalog		new = {0};
	uint32		resets = catalog_resets;
	Relation	rel;
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum("jobq"));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
	{
		Form_pg_extension form = (Form_pg_extension) GETSTRUCT(tuple);

		new.schema = form->extnamespace;
		new.owner = form->extowner;
		new.valid = true;
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	if (!new.valid)
		return false;

	new.sequence = get_relname_relid("job_id_seq", new.schema);
	new.status = get_relname_relid("job_status", new.schema);
	new.valid = OidIsValid(new.sequence) && OidIsValid(new.status);
	for (int i = 0; i < JOBQ_NTABLES; i++)
	{
		new.tables[i] = get_relname_relid(table_names[i], new.schema);
		new.valid = new.valid && OidIsValid(new.tables[i]);
	}
	if (!new.valid)				/* in the middle of CREATE EXTENSION */
		return false;
	new.valid = resets == catalog_resets;
	catalog = new;
	return true;
}

/* Does the extension exist?  Each id that is drawn comes here. */
bool
jobq_extension_exists(void)
{
	return catalog.valid || load_catalog();
}

/* Forget where our objects are, and what was read from them. */
void
jobq_catalog_reset(void)
{
	catalog.valid = false;
	catalog_resets++;
	for (int i = 0; i < ncallbacks; i++)
		callbacks[i] ();
}

/* The catalog, or an error that says what to do. */
static Catalog *
need_catalog(void)
{
	if (!jobq_extension_exists())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("extension \"jobq\" does not exist in this database"),
				 errhint("Run CREATE EXTENSION jobq.")));
	return &catalog;
}

/* The extension's schema. */
Oid
jobq_schema(void)
{
	return need_catalog()->schema;
}

/* The extension's owner. */
Oid
jobq_owner(void)
{
	return need_catalog()->owner;
}

/* The OID of one of our tables. */
Oid
jobq_table_oid(JobqTable table)
{
	return need_catalog()->tables[table];
}

/* Has one of our tables been found in order, as it is since the last reset? */
bool
jobq_table_checked(JobqTable table)
{
	return catalog.valid && catalog.checked[table];
}

/* It has; its caller has it open, so what changes it later resets the catalog. */
void
jobq_table_set_checked(JobqTable table)
{
	catalog.checked[table] = catalog.valid;
}

/* The OID of job_status. */
Oid
jobq_status_oid(void)
{
	return need_catalog()->status;
}

/* The next id or position.  Often the first that a call locks. */
int64
jobq_nextval(void)
{
	/* if it is dropped while we wait, we hear of it then */
	LockRelationOid(need_catalog()->sequence, RowExclusiveLock);
	return nextval_internal(need_catalog()->sequence, false);
}
