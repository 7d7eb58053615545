/*
 * many.c
 *	  One act on many jobs, by their ids.
 *
 * The acts themselves are those of the functions for one job.  They go up the ids
 * in one pass, so two calls meet in the same order; each sees what those before it
 * have done to the jobs downstream.  What is wrong with one job (it does not exist,
 * is in the wrong state, is none of the caller's) is reported beside its id, and
 * the others go on.  All else, such as a cancelled statement or 40001, is an error
 * of the call and undoes all of it.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/memutils.h"

#include "job/job.h"

/* One job of the call */
typedef struct Target
{
	int64		id;				/* first, for jobq_compare_ids() */
	int			argument;
	bool		changed;
	const char *problem;		/* NULL: none */
} Target;

/* What is wrong with a job: said to *problem or, without that, raised. */
void
jobq_refuse(const char **problem, int sqlstate, const char *message, const char *hint)
{
	if (problem == NULL)
		ereport(ERROR,
				(errcode(sqlstate),
				 errmsg_internal("%s", message),
				 hint ? errhint("%s", hint) : 0));
	*problem = message;
}

/* No job has this id, for all that the caller may know. */
void
jobq_refuse_no_such_job(const char **problem, int64 id)
{
	jobq_refuse(problem, ERRCODE_JOBQ_NO_SUCH_JOB,
				psprintf("job %lld does not exist", (long long) id), JOBQ_HINT_NO_SUCH_JOB);
}

/* The act makes no sense in this state. */
void
jobq_refuse_state(const char **problem, int64 id, const char *act, const char *state, const char *hint)
{
	jobq_refuse(problem, ERRCODE_JOBQ_WRONG_STATE,
				psprintf("cannot %s job %lld in state \"%s\"", act, (long long) id, state), hint);
}

/* A function for one job. */
bool
jobq_act_on_one(const char *function, JobqAct act, int64 id, void *arg)
{
	JobqCall	call;
	bool		changed;

	jobq_enter(&call, function, true);
	changed = act(&call, id, arg, NULL);
	jobq_close_call(&call);
	return changed;
}

/* A function for many jobs, the first argument: a row for each, in that order. */
Datum
jobq_act_on_many(FunctionCallInfo fcinfo, const char *function, JobqAct act, void *arg)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	MemoryContext outer = CurrentMemoryContext;
	MemoryContext each = AllocSetContextCreate(outer, "jobq act", ALLOCSET_DEFAULT_SIZES);
	JobqCall	call;
	Datum	   *ids;
	bool	   *nulls;
	int			n = jobq_check_array(fcinfo, 0, "job_ids", INT8OID, false, &ids, &nulls);
	Target	   *targets = palloc_extended(Max(n, 1) * sizeof(Target), MCXT_ALLOC_HUGE | MCXT_ALLOC_ZERO);
	Target	  **rows = palloc_extended(Max(n, 1) * sizeof(Target *), MCXT_ALLOC_HUGE);

	for (int i = 0; i < n; i++)
	{
		targets[i].id = DatumGetInt64(ids[i]);
		targets[i].argument = i;
	}
	qsort(targets, n, sizeof(Target), jobq_compare_ids);
	for (int i = 0; i < n; i++)
	{
		if (i > 0 && targets[i].id == targets[i - 1].id)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("job %lld is named twice", (long long) targets[i].id)));
		rows[targets[i].argument] = &targets[i];
	}

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, function, true);
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		MemoryContextSwitchTo(each);
		targets[i].changed = act(&call, targets[i].id, arg, &targets[i].problem);
		MemoryContextSwitchTo(outer);
		if (targets[i].problem != NULL)
			targets[i].problem = pstrdup(targets[i].problem);
		MemoryContextReset(each);
		jobq_advance();			/* the next may be downstream of this one */
	}
	for (int i = 0; i < n; i++)
	{
		Datum		values[3] = {Int64GetDatum(rows[i]->id), BoolGetDatum(rows[i]->changed), 0};
		bool		isnull[3] = {false, false, rows[i]->problem == NULL};

		if (rows[i]->problem != NULL)
			values[2] = CStringGetTextDatum(rows[i]->problem);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, isnull);
	}
	jobq_close_call(&call);
	return (Datum) 0;
}
