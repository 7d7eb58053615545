/*
 * hooks.c
 *	  Statements that the background workers have to know of.
 *
 * A worker is connected to its database, and some statements want nobody to
 * be: DROP DATABASE, ALTER DATABASE RENAME and SET TABLESPACE, and CREATE
 * DATABASE for its template.  No server up to 18 asks a background worker to
 * leave for them, so a utility hook makes it leave before, and no worker starts
 * there until the transaction has ended.  Only who may run the statement can
 * disturb a worker with it.
 *
 * DISCARD ALL ends the session leases of its session, as it does session-level advisory locks.
 *
 * CREATE EXTENSION and DROP EXTENSION, however they come about, are seen by an
 * object access hook and announced by the commit.
 *
 * A session holds what it has suspended until its transaction ends, which also
 * happens when it is terminated; a crash resets shared memory.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "catalog/objectaccess.h"
#include "catalog/pg_database.h"
#include "catalog/pg_extension.h"
#include "commands/dbcommands.h"
#include "commands/defrem.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "tcop/utility.h"
#include "utils/acl.h"
#include "utils/syscache.h"

#include "background/background.h"

static ProcessUtility_hook_type prev_process_utility = NULL;
static object_access_hook_type prev_object_access = NULL;

/* What this transaction has suspended; a second statement finds it there. */
static JobqDatabase *suspended = NULL;
static bool look_again = false; /* databases may have changed */

/* May the user copy this database? */
static bool
may_copy(Oid database)
{
	HeapTuple	tuple;
	bool		template;

	if (!have_createdb_privilege())
		return false;
	tuple = SearchSysCache1(DATABASEOID, ObjectIdGetDatum(database));
	if (!HeapTupleIsValid(tuple))
		return false;
	template = ((Form_pg_database) GETSTRUCT(tuple))->datistemplate;
	ReleaseSysCache(tuple);
	return template || jobq_owns_database(database);
}

/* The database that a statement wants to have for itself, or InvalidOid. */
static Oid
wanted_database(Node *stmt)
{
	const char *name = NULL;
	Oid			database;
	ListCell   *lc;

	switch (nodeTag(stmt))
	{
		case T_DropdbStmt:
			look_again = true;
			name = ((DropdbStmt *) stmt)->dbname;
			break;
		case T_RenameStmt:
			if (((RenameStmt *) stmt)->renameType == OBJECT_DATABASE)
				name = ((RenameStmt *) stmt)->subname;
			break;
		case T_AlterDatabaseStmt:
			look_again = true;
			foreach(lc, ((AlterDatabaseStmt *) stmt)->options)
			{
				if (strcmp(lfirst_node(DefElem, lc)->defname, "tablespace") == 0)
					name = ((AlterDatabaseStmt *) stmt)->dbname;
			}
			break;
		case T_CreatedbStmt:
			look_again = true;
			name = "template1";
			foreach(lc, ((CreatedbStmt *) stmt)->options)
			{
				DefElem    *option = lfirst_node(DefElem, lc);

				if (strcmp(option->defname, "template") == 0 && option->arg != NULL)
					name = defGetString(option);
			}
			break;
		default:
			break;
	}
	if (name == NULL)
		return InvalidOid;
	database = get_database_oid(name, true);
	if (!OidIsValid(database))
		return InvalidOid;
	if (IsA(stmt, CreatedbStmt) ? !may_copy(database) :
		database == MyDatabaseId || !jobq_owns_database(database))
		return InvalidOid;
	return database;
}

/* Make the worker of a database leave until this transaction ends. */
static void
suspend(Oid database)
{
	JobqDatabase *db = jobq_database_find(database, true);

	if (db == NULL || db == suspended)
		return;
	if (suspended != NULL)
		jobq_database_resume(suspended);
	suspended = db;
	jobq_database_suspend(db);
}

/* Transaction callback: let workers start again. */
static void
end_transaction(void)
{
	if (suspended != NULL)
		jobq_database_resume(suspended);
	else if (look_again)
		jobq_launcher_ask(LAUNCHER_REREAD);
	suspended = NULL;
	look_again = false;
}

/* Run a utility statement. */
static void
process_utility(PlannedStmt *pstmt, const char *query, bool read_only_tree,
				ProcessUtilityContext context, ParamListInfo params,
				QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	Node	   *stmt = pstmt->utilityStmt;
	bool		prepared;		/* whether one ends here */

	prepared = IsA(stmt, TransactionStmt) &&
		(((TransactionStmt *) stmt)->kind == TRANS_STMT_COMMIT_PREPARED ||
		 ((TransactionStmt *) stmt)->kind == TRANS_STMT_ROLLBACK_PREPARED);
	if (jobq_shmem_ready() && IsTransactionState() && !RecoveryInProgress())
	{
		Oid			database = wanted_database(stmt);

		if (OidIsValid(database))
			suspend(database);
	}

	if (prev_process_utility)
		prev_process_utility(pstmt, query, read_only_tree, context, params, env, dest, qc);
	else
		standard_ProcessUtility(pstmt, query, read_only_tree, context, params, env, dest, qc);

	if (IsA(stmt, DiscardStmt) && ((DiscardStmt *) stmt)->target == DISCARD_ALL)
		jobq_session_end();

	/* it announced nothing, see announce.c */
	if (prepared && jobq_shmem_ready())
	{
		JobqDatabase *db = jobq_my_database(false);

		jobq_lanes_forget_database();
		jobq_base_forget();
		if (db != NULL)
			jobq_database_ask(db, ASK_CHECK | ASK_SWEEP);
		jobq_wake_all();
	}
}

/* An object is created or dropped. */
static void
object_access(ObjectAccessType access, Oid class, Oid object, int sub, void *arg)
{
	if (prev_object_access)
		prev_object_access(access, class, object, sub, arg);
	if (class == ExtensionRelationId && (access == OAT_POST_CREATE || access == OAT_DROP))
		jobq_announce_extension();
}

/* Install the hooks. */
void
jobq_hooks_init(void)
{
	prev_process_utility = ProcessUtility_hook;
	ProcessUtility_hook = process_utility;
	prev_object_access = object_access_hook;
	object_access_hook = object_access;
	jobq_at_end.end = end_transaction;
}
