/*
 * step.c
 *	  job_step: what a job has done already, for the next attempt at it.
 *
 * A step is a row of job_step, by its job and name, which is written once: who records it
 * again is told what is there.  Steps have the scope of the job's key: they are kept over all
 * attempts, and begin anew with job_retry, whose generation the rows bear.  They are
 * fenced by the token, as lines of the log are, and removed with the job.
 *
 * Where two sessions of one attempt record a step at once, the second waits for the first.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"

#include "job/job.h"

/*
 * The job whose steps those of a job are, and the generation of it: the steps have the scope of the
 * key.  A job that repeats another has its key, and goes on where that was.  The attempt that asks
 * must have its lease still after the generation was read, which then is its own.
 */
static int64
steps_of(JobqCall *call, int64 id, int64 token, int32 *generation)
{
	int64		asks = id;

	TupleTableSlot *job = jobq_need_job(call, id);
	TupleTableSlot *original = jobq_attr_bool(job, JOB_REPEATS) ?
	jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(job, JOB_UNDO_OF)) : NULL;

	if (original != NULL)
	{
		jobq_slot_free(job);
		job = original;
	}
	id = jobq_attr_int64(job, JOB_ID);
	*generation = jobq_key_generation(job);
	jobq_slot_free(job);
	jobq_slot_free(jobq_need_lease(call, asks, token));
	return id;
}

/*
 * What is recorded as a step or, where nothing is, record it, if a result is given; 0:
 * nothing is recorded.
 */
static Datum
record(JobqCall *call, int64 id, int64 token, const char *name, Datum result)
{
	int32		generation;
	Datum		keys[2] = {Int64GetDatum(steps_of(call, id, token, &generation)), CStringGetTextDatum(name)};
	JobqRow		new = {0};
	bool		isnull;

	jobq_set(&new, STEP_JOB_ID, keys[0]);
	jobq_set(&new, STEP_AT, TimestampTzGetDatum(call->now));
	jobq_set(&new, STEP_GENERATION, Int32GetDatum(generation));
	jobq_set(&new, STEP_NAME, keys[1]);
	jobq_set(&new, STEP_RESULT, result);
	for (;;)
	{
		TupleTableSlot *row = jobq_find(call, JOBQ_STEP, INDEX_KEY, 2, keys, NULL);
		Datum		found = 0;
		bool		done;

		if (row != NULL && jobq_attr_int32(row, STEP_GENERATION) == generation)
			found = PointerGetDatum(PG_DETOAST_DATUM_COPY(slot_getattr(row, STEP_RESULT, &isnull)));

		/*
		 * the attempt ended, and the job was retried, since its lease was
		 * seen
		 */
		if (row != NULL && jobq_attr_int32(row, STEP_GENERATION) > generation)
			jobq_error_stale(id);
		if (found != 0 || result == 0)
			done = true;
		else if (row == NULL)
			done = jobq_insert_unless_there(call, JOBQ_STEP, &new, true);
		else
			done = jobq_update(call, JOBQ_STEP, row, &new, LockWaitBlock);
		jobq_slot_free(row);
		if (done)
			return found != 0 ? found : result;
	}
}

PG_FUNCTION_INFO_V1(jobq_job_step);

/* job_step(job_id, token, name, result) */
Datum
jobq_job_step(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	int64		token = jobq_check_id(fcinfo, 1, "token");
	char	   *name;
	Datum		result = PG_ARGISNULL(3) ? 0 : JsonbPGetDatum(PG_GETARG_JSONB_P(3));

	if (PG_ARGISNULL(2))
		jobq_error_null("name");
	name = text_to_cstring(PG_GETARG_TEXT_PP(2));
	jobq_check_name(name, "name");
	if (result != 0)
		jobq_check_json(DatumGetJsonbP(result), NULL, "\"result\"", "jobq.max_result_size", jobq_max_result_size);

	jobq_enter(&call, "job_step()", true);
	result = record(&call, id, token, name, result);
	jobq_close_call(&call);
	if (result == 0)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

PG_FUNCTION_INFO_V1(jobq_job_steps);

/* job_steps(job_id, token) */
Datum
jobq_job_steps(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobqCall	call;
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	int64		token = jobq_check_id(fcinfo, 1, "token");
	Datum		key;
	int32		generation;
	JobqScan   *scan;
	TupleTableSlot *row;

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, "job_steps()", true);
	key = Int64GetDatum(steps_of(&call, id, token, &generation));
	scan = jobq_scan_begin(&call, JOBQ_STEP, INDEX_KEY, 1, &key, NULL);
	while ((row = jobq_scan_next(scan)) != NULL)
	{
		Datum		values[3];
		bool		nulls[3];

		if (jobq_attr_int32(row, STEP_GENERATION) != generation)
			continue;
		values[0] = slot_getattr(row, STEP_NAME, &nulls[0]);
		values[1] = slot_getattr(row, STEP_RESULT, &nulls[1]);
		values[2] = slot_getattr(row, STEP_AT, &nulls[2]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	jobq_scan_end(scan);
	jobq_close_call(&call);
	return (Datum) 0;
}
