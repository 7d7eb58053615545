/*
 * foreign.c
 *	  What foreign keys of others do when rows of ours are deleted.
 *
 * rows.c goes around the executor, so the triggers by which core keeps a foreign
 * key do not fire.  They are called here, for rows that were just deleted: NO
 * ACTION and RESTRICT raise an error if they are referenced, CASCADE, SET NULL and
 * SET DEFAULT change the referencing table.
 *
 * F1. A foreign key acts as the owner of the referencing table, in a restricted
 *	   context, and what it queues is fired before the next one's turn.  So what is
 *	   defined on that table (triggers, rules, checks, defaults, expressions) runs
 *	   with its owner's rights, whoever deletes.  What runs can define more, so this
 *	   relies on nothing that was looked at before.
 * F2. Up to version 17, core also fires the triggers of tables that other foreign
 *	   keys change in turn as that one user.  So these must have the same owner, and
 *	   are locked before that is looked at, so that nobody else can add one.
 * F3. All is done when the call returns: the foreign key is not deferred, and what
 *	   follows from it cannot be.
 */
#include "postgres.h"

#include "access/table.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_trigger.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "utils/fmgroids.h"
#include "utils/guc.h"

#include "table/relations.h"

/* Is it a trigger for a foreign key that changes the referencing table, not only looks there? */
static bool
changes_other(const Trigger *trigger)
{
	switch (trigger->tgfoid)
	{
		case F_RI_FKEY_CASCADE_DEL:
		case F_RI_FKEY_CASCADE_UPD:
		case F_RI_FKEY_SETNULL_DEL:
		case F_RI_FKEY_SETNULL_UPD:
		case F_RI_FKEY_SETDEFAULT_DEL:
		case F_RI_FKEY_SETDEFAULT_UPD:
			return true;
		default:
			return false;
	}
}

/*
 * Lock a table that is about to be changed, with its partitions and all that
 * foreign keys change then, and refuse those that have another owner.
 */
static void
lock_changed(Relation changed)
{
	List	   *oids = list_make1_oid(RelationGetRelid(changed));

	for (int i = 0; i < list_length(oids); i++)
	{
		Relation	rel = table_open(list_nth_oid(oids, i), RowExclusiveLock);
		TriggerDesc *desc = rel->trigdesc;

		if (rel->rd_rel->relowner != changed->rd_rel->relowner)
			ereport(ERROR,
					(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
					 errmsg("table \"%s\" would be changed with the rights of the owner of table \"%s\"",
							RelationGetRelationName(rel), RelationGetRelationName(changed)),
					 errdetail("A foreign key that references jobs changes the latter, which changes the former."),
					 errhint("Give both tables the same owner, or let one of the foreign keys be ON DELETE RESTRICT.")));
		for (int t = 0; desc != NULL && t < desc->numtriggers; t++)
		{
			if (changes_other(&desc->triggers[t]))
				oids = list_append_unique_oid(oids, desc->triggers[t].tgconstrrelid);
		}
		if (rel->rd_rel->relkind == RELKIND_PARTITIONED_TABLE)
			oids = list_concat_unique_oid(oids, find_inheritance_children(RelationGetRelid(rel), RowExclusiveLock));
		table_close(rel, NoLock);
	}
	list_free(oids);
}

/* Call a trigger for rows that were deleted, and fire what it queues. */
static void
fire(JobqCall *call, JobqTable table, Trigger *trigger, int n, const ItemPointerData *places)
{
	LOCKMODE	lockmode = changes_other(trigger) ? RowExclusiveLock : RowShareLock;
	Relation	other = table_open(trigger->tgconstrrelid, lockmode);
	int			level = NewGUCNestLevel();

	LOCAL_FCINFO(fcinfo, 0);
	FmgrInfo	function;
	Oid			user;
	int			context;

	if (changes_other(trigger))
		lock_changed(other);
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(other->rd_rel->relowner,
						   context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	AfterTriggerBeginQuery();
	fmgr_info(trigger->tgfoid, &function);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *row = jobq_fetch_deleted(call, table, &places[i]);
		bool		must_free;
		TriggerData data = {
			.type = T_TriggerData,
			.tg_event = TRIGGER_EVENT_DELETE | TRIGGER_EVENT_ROW | TRIGGER_EVENT_AFTER,
			.tg_relation = jobq_rel(call, table)->rel,
			.tg_trigger = trigger,
			.tg_trigslot = row,
			.tg_trigtuple = ExecFetchSlotHeapTuple(row, true, &must_free)
		};

		InitFunctionCallInfoData(*fcinfo, &function, 0, InvalidOid, (Node *) &data, NULL);
		FunctionCallInvoke(fcinfo);
		if (must_free)
			heap_freetuple(data.tg_trigtuple);
		jobq_slot_free(row);
	}
	AfterTriggerEndQuery(NULL);
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(user, context);
	table_close(other, NoLock);
}

/* Rows that stood at these places were deleted: let the foreign keys that reference them act. */
void
jobq_foreign_keys_act(JobqCall *call, JobqTable table, int n, const ItemPointerData *places)
{
	/* a copy, since all that runs can change what there is */
	TriggerDesc *desc = CopyTriggerDesc(jobq_rel(call, table)->rel->trigdesc);
	char		passive = SessionReplicationRole == SESSION_REPLICATION_ROLE_REPLICA ?
	TRIGGER_FIRES_ON_ORIGIN : TRIGGER_FIRES_ON_REPLICA;

	if (desc == NULL || n == 0)
		return;
	jobq_advance();
	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger    *trigger = &desc->triggers[i];

		/* jobq_open_rel() allows only those of the referenced table */
		if (TRIGGER_FOR_DELETE(trigger->tgtype) && trigger->tgenabled != TRIGGER_DISABLED &&
			trigger->tgenabled != passive)
			fire(call, table, trigger, n, places);
	}
	FreeTriggerDesc(desc);
	jobq_advance();
}
