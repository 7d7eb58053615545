/*
 * active.c
 *	  Where the background worker may act.
 *
 * job_active_database holds the system identifier and the database that last used jobq.
 * It is written by the first call of a function that writes, not by CREATE
 * EXTENSION, and is not dumped.  So in a restored dump, or in a database that
 * was copied from a template, the worker stays still until somebody uses jobq
 * there: yesterday's backup, restored beside production, runs no job.
 *
 * Nobody ever waits here: while one transaction writes the row, those of
 * others find the lock taken and go on without; one of them is next if the
 * first one aborts.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_class.h"
#include "miscadmin.h"
#include "storage/lock.h"

#include "queue/queue.h"

static bool seen = false;		/* the row, committed */

/* The table may have been emptied or replaced. */
static void
forget_active(void)
{
	seen = false;
}

/* Look again whenever a table of ours may have changed. */
void
jobq_active_init(void)
{
	jobq_on_catalog_reset(forget_active);
}

/* Does the row name this database? */
static bool
is_here(TupleTableSlot *slot)
{
	return slot != NULL &&
		jobq_attr_int64(slot, ACTIVE_SYSTEM_IDENTIFIER) == (int64) GetSystemIdentifier() &&
		jobq_attr_oid(slot, ACTIVE_DATABASE) == MyDatabaseId;
}

/* Was the row written by this transaction? */
static bool
is_ours(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		xmin = slot_getsysattr(slot, MinTransactionIdAttributeNumber, &isnull);

	return TransactionIdIsCurrentTransactionId(DatumGetTransactionId(xmin));
}

/* May the worker act in this database? */
bool
jobq_is_active(JobqCall *call)
{
	TupleTableSlot *slot = jobq_find(call, JOBQ_ACTIVE, INDEX_KEY, 0, NULL, NULL);
	bool		here = is_here(slot);

	jobq_slot_free(slot);
	return here;
}

/* Write the row, under the lock. */
static void
write_active(JobqCall *call, TupleTableSlot *old)
{
	JobqRow		new = {0};

	jobq_set(&new, ACTIVE_SYSTEM_IDENTIFIER, Int64GetDatum((int64) GetSystemIdentifier()));
	jobq_set(&new, ACTIVE_DATABASE, ObjectIdGetDatum(MyDatabaseId));
	if (old == NULL)
		jobq_insert(call, JOBQ_ACTIVE, &new);
	else if (!jobq_update(call, JOBQ_ACTIVE, old, &new, LockWaitBlock))
		return;					/* changed by hand; the next call tries again */
	jobq_advance();
	jobq_announce_changed_rows();	/* those of a dump, which nobody has
									 * counted */
	jobq_announce_wake_worker();
}

/* Make this database the home of its jobs if it is not yet. */
void
jobq_make_active(JobqCall *call)
{
	TupleTableSlot *slot;
	LOCKTAG		tag;

	if (seen)
		return;
	slot = jobq_find(call, JOBQ_ACTIVE, INDEX_KEY, 0, NULL, NULL);
	if (is_here(slot))
	{
		seen = !is_ours(slot);
		jobq_slot_free(slot);
		return;
	}
	jobq_slot_free(slot);

	/* a lock on the table as an object is taken by nobody else */
	SET_LOCKTAG_OBJECT(tag, MyDatabaseId, RelationRelationId, jobq_table_oid(JOBQ_ACTIVE), 0);
	if (LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return;
	slot = jobq_find(call, JOBQ_ACTIVE, INDEX_KEY, 0, NULL, NULL);
	if (!is_here(slot))
		write_active(call, slot);
	jobq_slot_free(slot);
}
