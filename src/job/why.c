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

#include "dispatch/dispatch.h"
#include "job/job.h"

/* What a row of the other function has to pass, or NULL for all. */
typedef bool (*RowFilter) (JobqCall *call, HeapTuple row);

/*
 * Run a function of the script as the owner of the extension and return its
 * rows.  The arguments are not null.
 */
static void
return_as_owner(FunctionCallInfo fcinfo, JobqCall *call, const char *function, int nargs, Oid *types,
				Datum *values, bool read_only, RowFilter filter)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StringInfoData sql;
	SPITupleTable *rows;
	uint64		n;
	Oid			user;
	int			context;

	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT * FROM %s.%s(", quote_identifier(get_namespace_name(jobq_schema())), function);
	for (int i = 0; i < nargs; i++)
		appendStringInfo(&sql, "%s$%d", i ? ", " : "", i + 1);
	appendStringInfoChar(&sql, ')');

	SPI_connect();
	GetUserIdAndSecContext(&user, &context);
	SetUserIdAndSecContext(jobq_owner(), context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
	if (SPI_execute_with_args(sql.data, nargs, types, values, NULL, read_only, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql.data);
	SetUserIdAndSecContext(user, context);
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

/* Does a session sleep until a job of this queue is ready? */
static bool
somebody_waits(int64 queue_id)
{
	return jobq_waiter_exists(jobq_lane(queue_id));
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
	Oid			types[] = {INT8OID, BOOLOID, BOOLOID, BOOLOID, TIMESTAMPTZOID};
	Datum		values[lengthof(types)];

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, "job_explain()", false);
	jobq_require_visible(&call, id);
	job = jobq_need_job(&call, id);
	db = jobq_my_database(false);
	values[0] = Int64GetDatum(id);
	values[1] = BoolGetDatum(jobq_is_active(&call));
	values[2] = BoolGetDatum(db != NULL && db->worker_pid != 0);
	values[3] = BoolGetDatum(somebody_waits(jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE))));
	values[4] = TimestampTzGetDatum(call.now);
	jobq_slot_free(job);
	return_as_owner(fcinfo, &call, "job_reasons", lengthof(types), types, values, true, names_no_secret);
	jobq_close_call(&call);
	return (Datum) 0;
}
