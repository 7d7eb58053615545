/*
 * related.c
 *	  job_parents, job_children and job_conditions: what a job depends on, and what depends on it.
 *
 * Asked by whoever may see the job.  Of the others, each is shown if the caller
 * may see that one, too; the worker of a job may see all its parents.  Each is
 * shown as it is now, its state, result and error being of one moment.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "utils/builtins.h"
#include "utils/jsonb.h"

#include "job/job.h"

/* Return a row about a job; its first columns are for both functions. */
static void
put_job(JobqCall *call, ReturnSetInfo *rsinfo, int64 id)
{
	Datum		values[6];
	bool		nulls[6] = {false};
	TupleTableSlot *job;
	TupleTableSlot *state;
	JobqTable	table;
	int			outcome = jobq_look(call, id, &job, &table, &state, NULL);

	values[0] = Int64GetDatum(id);
	values[1] = slot_getattr(job, JOB_NAME, &nulls[1]);
	values[2] = slot_getattr(job, JOB_KIND, &nulls[2]);
	values[3] = CStringGetTextDatum(outcome != 0 ? jobq_outcome_name(outcome) : jobq_state_name(table));
	if (rsinfo->setDesc->natts == lengthof(values)) /* job_parents */
	{
		values[4] = slot_getattr(job, JOB_RESULT, &nulls[4]);
		values[5] = slot_getattr(job, JOB_ERROR, &nulls[5]);
	}
	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	jobq_slot_free(state);
	jobq_slot_free(job);
}

/* Either function: the jobs at the other end of a job's edges. */
static Datum
related_jobs(FunctionCallInfo fcinfo, const char *function, JobqIndex index, int other_end)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	Datum		key = Int64GetDatum(id);
	MemoryContext row = AllocSetContextCreate(CurrentMemoryContext, "jobq related job",
											  ALLOCSET_DEFAULT_SIZES);
	JobqCall	call;
	JobqScan   *scan;
	TupleTableSlot *edge;
	bool		all;

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, function, false);
	jobq_require_visible(&call, id);
	all = other_end == DEP_UPSTREAM && jobq_held_by_caller(&call, id);
	scan = jobq_scan_begin(&call, JOBQ_DEPENDENCY, index, 1, &key, NULL);
	while ((edge = jobq_scan_next(scan)) != NULL)
	{
		int64		other = jobq_attr_int64(edge, other_end);
		MemoryContext old = MemoryContextSwitchTo(row);

		if (jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY &&
			jobq_may_see(&call, other, all))
			put_job(&call, rsinfo, other);
		MemoryContextSwitchTo(old);
		MemoryContextReset(row);
	}
	jobq_scan_end(scan);
	jobq_close_call(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_parents);

/* job_parents(job_id) */
Datum
jobq_job_parents(PG_FUNCTION_ARGS)
{
	return related_jobs(fcinfo, "job_parents()", INDEX_SECOND, DEP_UPSTREAM);
}

PG_FUNCTION_INFO_V1(jobq_job_children);

/* job_children(job_id) */
Datum
jobq_job_children(PG_FUNCTION_ARGS)
{
	return related_jobs(fcinfo, "job_children()", INDEX_KEY, DEP_DOWNSTREAM);
}

PG_FUNCTION_INFO_V1(jobq_job_conditions);

/* job_conditions(job_id), for job_graph */
Datum
jobq_job_conditions(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	Datum		key = Int64GetDatum(id);
	JsonbParseState *state = NULL;
	JsonbValue *conditions;
	JobqCall	call;
	JobqScan   *scan;
	TupleTableSlot *edge;
	int			n = 0;

	jobq_enter(&call, "job_conditions()", false);
	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	scan = jobq_scan_begin(&call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	while ((edge = jobq_scan_next(scan)) != NULL)
	{
		JsonbValue	v = {.type = jbvString};

		CHECK_FOR_INTERRUPTS();
		if (slot_attisnull(edge, DEP_CONDITION))
			continue;
		if (n++ == 0 && !jobq_may_see(&call, id, false))
			break;
		v.val.string.val = psprintf("%lld", (long long) jobq_attr_int64(edge, DEP_UPSTREAM));
		v.val.string.len = strlen(v.val.string.val);
		pushJsonbValue(&state, WJB_KEY, &v);
		v.val.string.val = jobq_attr_cstring(edge, DEP_CONDITION);
		v.val.string.len = strlen(v.val.string.val);
		pushJsonbValue(&state, WJB_VALUE, &v);
	}
	jobq_scan_end(scan);
	conditions = pushJsonbValue(&state, WJB_END_OBJECT, NULL);
	jobq_close_call(&call);
	if (conditions->val.object.nPairs == 0)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(JsonbValueToJsonb(conditions));
}
