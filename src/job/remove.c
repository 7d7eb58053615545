/*
 * remove.c
 *	  Removing decided jobs.
 *
 * A job goes with its edges in both directions and all that belongs to it.  Its
 * row in job is deleted by an ordinary DELETE, for the sake of foreign keys that
 * reference it: RESTRICT makes that fail and keeps the job, CASCADE and SET NULL
 * act.  The rest is deleted as all our rows are.
 *
 * 1. Only a decided job is removed, and only while no undecided job depends on it.
 *	  Its row is locked FOR UPDATE first, then its edges are looked at.  A
 *	  submission locks the rows of its upstream jobs before it inserts edges, those
 *	  of succeeded ones too (FOR KEY SHARE), and waits for whoever is just removing
 *	  one: so either its edge is seen here, or the job does not exist for it.
 * 2. A job that is opened again while some that it depends on are removed counts
 *	  those as succeeded (edges.c).
 * 3. An edge that another transaction is just deleting, with the job at its other
 *	  end, is waited for by who names the job; purging keeps the job for then.
 *
 * A crash leaves a job with all that belongs to it, or nothing.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/plancache.h"
#include "utils/resowner.h"
#include "utils/snapmgr.h"

#include "job/job.h"

/* Where what belongs to a job is found by its id */
static const struct
{
	JobqTable	table;
	JobqIndex	index;
}			belongings[] = {
	{JOBQ_DEPENDENCY, INDEX_KEY},
	{JOBQ_DEPENDENCY, INDEX_SECOND},
	{JOBQ_ATTEMPT, INDEX_KEY},
	{JOBQ_LOG, INDEX_KEY},
};

/* Does an undecided job depend on this one? */
static bool
needed_by(JobqCall *call, int64 id)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *edge;
	bool		needed = false;

	while (!needed && (edge = jobq_scan_next(scan)) != NULL)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(edge, DEP_DOWNSTREAM));

		needed = job != NULL && slot_attisnull(job, JOB_OUTCOME);
		jobq_slot_free(job);
	}
	jobq_scan_end(scan);
	return needed;
}

/*
 * The actions of foreign keys run as the owner of the table that has them, but its
 * triggers would run as the extension's owner, often a superuser: refuse that.
 */
static void
refuse_triggers(void)
{
	static const char *const sql =
	"WITH RECURSIVE r (t) AS (SELECT conrelid FROM pg_catalog.pg_constraint"
	" WHERE contype = 'f' AND confrelid = $1 AND confdeltype IN ('c', 'n', 'd')"
	" UNION SELECT c.conrelid FROM r, pg_catalog.pg_constraint c WHERE c.contype = 'f' AND c.confrelid = r.t)"
	" SELECT g.tgname::text, r.t::pg_catalog.regclass::text FROM r, pg_catalog.pg_trigger g"
	" WHERE g.tgrelid = r.t AND NOT g.tgisinternal AND g.tgenabled <> 'D' ORDER BY 1, 2 LIMIT 1";
	Oid			type = OIDOID;
	Datum		value = ObjectIdGetDatum(jobq_table_oid(JOBQ_JOB));

	if (SPI_execute_with_args(sql, 1, &type, &value, NULL, true, 1) != SPI_OK_SELECT)
		elog(ERROR, "could not look for triggers");
	if (SPI_processed > 0)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("trigger \"%s\" of table \"%s\" would run as the owner of extension jobq",
						SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1),
						SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 2)),
				 errdetail("A foreign key that references jobs changes this table when jobs are removed."),
				 errhint("Drop or disable the trigger, or let the foreign key be ON DELETE RESTRICT.")));
}

/* DELETE FROM job, as the extension's owner, of what is there now at every isolation level. */
static void
delete_rows(int n, Datum *ids)
{
	char	   *sql = psprintf("DELETE FROM ONLY %s.job WHERE id OPERATOR(pg_catalog.=) ANY ($1)",
							   quote_identifier(get_namespace_name(jobq_schema())));
	Oid			type = INT8ARRAYOID;
	Datum		value = PointerGetDatum(construct_array(ids, n, INT8OID, sizeof(int64), true, TYPALIGN_DOUBLE));
	SPIPlanPtr	plan;
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	int			outer = NewGUCNestLevel();
	int			level;
	Oid			user;
	int			context;

	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(jobq_owner(), context | SECURITY_RESTRICTED_OPERATION);
	(void) set_config_option("search_path", "pg_catalog, pg_temp", PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
	SPI_connect();
	refuse_triggers();
	plan = SPI_prepare_cursor(sql, 1, &type, CURSOR_OPT_GENERIC_PLAN);
	if (plan == NULL)
		elog(ERROR, "could not prepare \"%s\"", sql);

	/*
	 * A table without statistics may be thought to be small.  The plan is
	 * made here, so that those of foreign keys are made with the usual
	 * settings.
	 */
	level = NewGUCNestLevel();
	(void) set_config_option("enable_seqscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
	ReleaseCachedPlan(SPI_plan_get_cached_plan(plan), NULL);
	AtEOXact_GUC(false, level);

	if (SPI_execute_snapshot(plan, &value, NULL, snapshot, InvalidSnapshot, false, true, 0) != SPI_OK_DELETE)
		elog(ERROR, "could not execute \"%s\"", sql);
	if (SPI_processed != n)
		elog(ERROR, "%llu rows of jobs were deleted instead of %d", (unsigned long long) SPI_processed, n);
	SPI_finish();
	AtEOXact_GUC(false, outer);
	SetUserIdAndSecContext(user, context);
	UnregisterSnapshot(snapshot);
}

/* Delete what belongs to a job in one table; false: somebody is just deleting a part of it. */
static bool
delete_belongings(JobqCall *call, JobqTable table, JobqIndex index, Datum id, LockWaitPolicy policy)
{
	JobqScan   *scan = jobq_scan_begin(call, table, index, 1, &id, NULL);
	TupleTableSlot *row;
	bool		all = true;

	while ((row = jobq_scan_next(scan)) != NULL)
		all &= jobq_delete(call, table, row, policy);
	jobq_scan_end(scan);
	return all;
}

/*
 * Remove jobs that this transaction has locked and found removable.  With
 * LockWaitSkip it is an error if somebody is just removing a job at the other end of
 * an edge.
 */
static void
remove_locked(JobqCall *call, int n, Datum *ids, LockWaitPolicy policy)
{
	delete_rows(n, ids);
	for (int i = 0; i < n; i++)
	{
		for (int b = 0; b < lengthof(belongings); b++)
		{
			if (delete_belongings(call, belongings[b].table, belongings[b].index, ids[i], policy))
				continue;
			jobq_advance();		/* look again, without what is deleted by now */
			if (!delete_belongings(call, belongings[b].table, belongings[b].index, ids[i], policy))
				ereport(ERROR,
						(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
						 errmsg("another transaction is removing what belongs to job %lld",
								(long long) DatumGetInt64(ids[i]))));
		}
		jobq_advance();			/* an edge between two of them is deleted once */
	}
}

/*
 * Remove locked and removable jobs in a subtransaction: NULL or, after it was rolled
 * back, the error.  What ends the whole transaction is thrown again.
 */
static ErrorData *
try_to_remove(int n, Datum *ids, LockWaitPolicy policy)
{
	MemoryContext old = CurrentMemoryContext;
	ResourceOwner owner = CurrentResourceOwner;
	ErrorData  *volatile error = NULL;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(old);
	PG_TRY();
	{
		JobqCall	call;

		jobq_open_call(&call);
		remove_locked(&call, n, ids, policy);
		jobq_close_call(&call);
		ReleaseCurrentSubTransaction();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(old);
		error = CopyErrorData();
		FlushErrorState();
		RollbackAndReleaseCurrentSubTransaction();
	}
	PG_END_TRY();
	MemoryContextSwitchTo(old);
	CurrentResourceOwner = owner;
	if (error != NULL &&
		(error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTERNAL_ERROR ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION))
		ReThrowError(error);
	return error;
}

/*
 * Lock a decided job for its removal, waiting for whoever has it locked; false: it
 * cannot be removed.
 */
static bool
lock_decided(JobqCall *call, int64 id, const char **problem)
{
	int			outcome;
	bool		locked = false;

	do
	{
		TupleTableSlot *job;
		TupleTableSlot *state;
		JobqTable	table;

		outcome = jobq_look_to_act(call, id, false, &job, &table, &state, problem);
		if (outcome == 0)
			jobq_refuse_state(problem, id, "delete", jobq_state_name(table), "Cancel it first.");
		else if (outcome > 0)
			locked = jobq_lock(call, JOBQ_JOB, job, LockTupleExclusive, LockWaitBlock);
		jobq_slot_free(state);
		jobq_slot_free(job);
	} while (outcome > 0 && !locked);
	return locked;
}

/* job_delete: a JobqAct */
static bool
delete_job(JobqCall *call, int64 id, void *arg, const char **problem)
{
	Datum		key = Int64GetDatum(id);
	ErrorData  *error = NULL;

	if (!lock_decided(call, id, problem))
		return false;
	if (needed_by(call, id))
	{
		jobq_refuse(problem, ERRCODE_JOBQ_WRONG_STATE,
					psprintf("cannot delete job %lld, which an undecided job needs", (long long) id),
					"Wait until what depends on it is decided, or cancel that.");
		return false;
	}

	/*
	 * where others are to go on, an error of a foreign key is said beside the
	 * job
	 */
	if (problem == NULL)
		remove_locked(call, 1, &key, LockWaitBlock);
	else
		error = try_to_remove(1, &key, LockWaitBlock);
	if (error != NULL)
		*problem = error->message;
	return error == NULL;
}

/*
 * Remove those of some jobs, given by ascending ids, that can be, without waiting
 * for a job's row.  Says of each what became of it, and returns how many are gone.
 * All at once, and one by one only where that fails: a subtransaction each would
 * cost more than the jobs.
 */
int
jobq_remove_free(JobqCall *call, int n, const int64 *ids, JobqRemoval *results)
{
	Datum	   *locked = palloc(Max(n, 1) * sizeof(Datum));
	int		   *which = palloc(Max(n, 1) * sizeof(int));
	int			nlocked = 0;
	int			removed = 0;
	bool		all;

	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, ids[i]);

		results[i] = REMOVAL_NEEDED;
		if (job != NULL && !slot_attisnull(job, JOB_OUTCOME) &&
			jobq_lock(call, JOBQ_JOB, job, LockTupleExclusive, LockWaitSkip) &&
			!needed_by(call, ids[i]))
		{
			locked[nlocked] = Int64GetDatum(ids[i]);
			which[nlocked++] = i;
		}
		jobq_slot_free(job);
	}
	if (nlocked == 0)
		return 0;
	all = try_to_remove(nlocked, locked, LockWaitSkip) == NULL;
	for (int i = 0; i < nlocked; i++)
	{
		bool		done = all || (nlocked > 1 && try_to_remove(1, &locked[i], LockWaitSkip) == NULL);

		results[which[i]] = done ? REMOVAL_DONE : REMOVAL_REFUSED;
		removed += done;
	}
	return removed;
}

PG_FUNCTION_INFO_V1(jobq_job_delete);

/* job_delete(job_id) */
Datum
jobq_job_delete(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(jobq_act_on_one("job_delete()", delete_job, jobq_check_id(fcinfo, 0, "job_id"), NULL));
}

PG_FUNCTION_INFO_V1(jobq_job_delete_many);

/* job_delete_many(job_ids) */
Datum
jobq_job_delete_many(PG_FUNCTION_ARGS)
{
	return jobq_act_on_many(fcinfo, "job_delete_many()", delete_job, NULL);
}
