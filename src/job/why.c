/*
 * why.c
 *	  job_explain and job_check: why a job does not run, and whether the tables are
 *	  sound.
 *
 * Both are questions about rows, so SQL in the install script answers them:
 * job_reasons and job_problems, which only the owner of the extension may call.
 * Here the caller's privilege is checked, and what they cannot see is given to
 * them: shared memory, and what the caller may see.  They then run as the
 * owner, in a restricted context.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/* What a row of the other function has to pass, or NULL for all. */
typedef bool (*RowFilter) (JobqCall *call, HeapTuple row);

/*
 * Run a query, %s in which is the extension's schema, as its owner.  The arguments
 * are not null.  The caller takes the rows, and calls SPI_finish().
 */
void
jobq_ask_as_owner(const char *query, int nargs, Oid *types, Datum *values, bool read_only)
{
	char	   *sql = psprintf(query, quote_identifier(get_namespace_name(jobq_schema())));
	Oid			user;
	int			context;

	SPI_connect();
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(jobq_owner(), context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	if (SPI_execute_with_args(sql, nargs, types, values, NULL, read_only, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	SetUserIdAndSecContext(user, context);
}

/* The same, and return the rows, as of now: a statement's snapshot does not show what it has done itself. */
static void
return_as_owner(FunctionCallInfo fcinfo, JobqCall *call, const char *query, int nargs, Oid *types,
				Datum *values, bool read_only, RowFilter filter)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	SPITupleTable *rows;
	uint64		n;

	PushActiveSnapshot(GetLatestSnapshot());
	jobq_ask_as_owner(query, nargs, types, values, read_only);
	PopActiveSnapshot();
	rows = SPI_tuptable;
	n = SPI_processed;
	for (uint64 i = 0; i < n; i++)
	{
		if (filter == NULL || filter(call, rows->vals[i]))
			tuplestore_puttuple(rsinfo->setResult, rows->vals[i]);
	}
	SPI_finish();
}

/* Of the jobs in the way, each is named if the caller may see that one, too. */
static bool
names_no_secret(JobqCall *call, HeapTuple row)
{
	bool		isnull;
	Datum		other = SPI_getbinval(row, SPI_tuptable->tupdesc, 4, &isnull);

	return isnull || jobq_may_see(call, DatumGetInt64(other), false);
}

PG_FUNCTION_INFO_V1(jobq_job_explain);

/* job_explain(job_id) */
Datum
jobq_job_explain(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	JobqDatabase *db;
	TupleTableSlot *job;
	int64		queue_id;
	int64		lane;
	int64		gate_lane;
	const JobqQueue *queue;
	Oid			types[] = {INT8OID, BOOLOID, BOOLOID, BOOLOID, TIMESTAMPTZOID, TIMESTAMPTZOID, TIMESTAMPTZOID};
	Datum		values[lengthof(types)];

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, "job_explain()", false);
	jobq_require_visible(&call, id);
	job = jobq_need_job(&call, id);
	db = jobq_my_database(false);
	values[0] = Int64GetDatum(id);
	values[1] = BoolGetDatum(jobq_is_active(&call));
	values[2] = BoolGetDatum(db != NULL && db->worker_pid != 0);
	queue_id = jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE));
	lane = jobq_job_lane(job);
	/* what is remembered of the queue can be forgotten by what follows */
	queue = jobq_queue_known(&call, queue_id);
	gate_lane = jobq_gate_lane(lane, queue ? queue->gate : 0);
	values[3] = BoolGetDatum(jobq_waiter_exists(queue_id, jobq_ready_labels(&call, queue_id, lane)));
	values[4] = TimestampTzGetDatum(jobq_counts_worked_at(queue_id));
	values[5] = TimestampTzGetDatum(call.now);
	values[6] = TimestampTzGetDatum(jobq_lane_used_at(gate_lane));
	jobq_slot_free(job);
	return_as_owner(fcinfo, &call, "SELECT * FROM %s.job_reasons($1, $2, $3, $4, $5, $6, $7)",
					lengthof(types), types, values, true, names_no_secret);
	jobq_close_call(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_check);

/* job_check(repair) */
Datum
jobq_job_check(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	bool		repair = !PG_ARGISNULL(0) && PG_GETARG_BOOL(0);

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, "job_check()", repair);
	if (!jobq_has_privilege(&call, JOBQ_ALL_QUEUES, PRIV_OPERATE))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to check all jobs"),
				 errdetail("The privilege \"operate\" on all queues is needed."),
				 errhint("The owner of the extension can grant it with job_grant, on \"*\".")));
	if (repair && IsolationUsesXactSnapshot())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("job_check() repairs only in READ COMMITTED transactions"),
				 errhint("A repair has to see what others did before it had their rows locked.")));
	return_as_owner(fcinfo, &call, repair ? "SELECT * FROM %s.job_repair()" :
					"SELECT *, false FROM %s.job_all_problems()", 0, NULL, NULL, !repair, NULL);
	if (repair)
		jobq_announce_changed_rows();
	jobq_close_call(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_enter_again);

/*
 * job_enter_again(job_id, attempt, failed, lost, hold): for a job that was never
 * run, or was opened again, how far its dependencies are is left to the background worker.
 */
Datum
jobq_job_enter_again(PG_FUNCTION_ARGS)
{
	static const JobqCounters unknown = {0};
	JobqCall	call;
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	TupleTableSlot *job;
	bool		hold = PG_GETARG_BOOL(4);
	JobqPrefix	prefix;

	jobq_enter(&call, "job_enter_again()", true);
	job = jobq_need_job(&call, id);
	jobq_read_job_prefix(job, &prefix);
	prefix.attempt = PG_GETARG_INT32(1);
	prefix.failed = PG_GETARG_INT32(2);
	prefix.lost = PG_GETARG_INT32(3);
	prefix.expires_at = prefix.attempt == 0 ? jobq_attr_int64(job, JOB_EXPIRES_AT) : 0;
	if (prefix.attempt == 0 || jobq_attr_int32(job, JOB_GENERATION) > 0)
	{
		jobq_enter_waiting(&call, &prefix, &unknown, jobq_attr_int16(job, JOB_RULE),
						   jobq_attr_int32(job, JOB_QUORUM), jobq_nextval(), hold);
		jobq_ask_recount(&call, id);
	}
	else if (hold)
		jobq_enter_waiting(&call, &prefix, NULL, RULE_ALL_SUCCESS, 0, 0, true);
	else
		(void) jobq_enter_next(&call, &prefix, 0);
	jobq_slot_free(job);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(jobq_job_gate_lane);

/* job_gate_lane(lane, gate) */
Datum
jobq_job_gate_lane(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(jobq_gate_lane(PG_GETARG_INT64(0), PG_ARGISNULL(1) ? 0 : PG_GETARG_INT64(1)));
}

PG_FUNCTION_INFO_V1(jobq_job_own_lanes);

/* job_own_lanes(lane) */
Datum
jobq_job_own_lanes(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(jobq_own_lanes(PG_GETARG_INT64(0)));
}

PG_FUNCTION_INFO_V1(jobq_job_worker_key);

/* job_worker_key(worker) */
Datum
jobq_job_worker_key(PG_FUNCTION_ARGS)
{
	text	   *worker = PG_GETARG_TEXT_PP(0);

	PG_RETURN_INT64((int64) jobq_worker_key(VARDATA_ANY(worker), VARSIZE_ANY_EXHDR(worker)));
}

PG_FUNCTION_INFO_V1(jobq_job_count_again);

/* job_count_again(job_id) */
Datum
jobq_job_count_again(PG_FUNCTION_ARGS)
{
	JobqCall	call;

	jobq_enter(&call, "job_count_again()", true);
	jobq_ask_recount(&call, jobq_check_id(fcinfo, 0, "job_id"));
	jobq_close_call(&call);
	PG_RETURN_VOID();
}
