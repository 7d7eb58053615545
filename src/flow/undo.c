/*
 * undo.c
 *	  Undoing flows.
 *
 * A flow that has ended is undone by another flow, with its shape and the edges
 * reversed.  What that is made of is read from the rows of the members
 * (job_undo_document, in the install script), so also from those that were added.
 * The flow's row names the flow that undoes it from then on; with it no member is
 * opened again.
 *
 * A flow that wants to be undone when it has failed is so by the background worker, in the
 * transaction that decides it.
 *
 * Locks: of each flow around the row in job_flow FOR SHARE, outermost first, so that
 * none of them is undone meanwhile; then the flow's row in job FOR SHARE, which keeps
 * it decided, and there, and its row in job_flow.  Nothing is locked below it: what a
 * flow that was decided has in it stays as it is.
 *
 * A crash leaves the flow as it was, or the flow that undoes it, started or waiting.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "utils/snapmgr.h"

#include "flow/flow.h"

/* A flow cannot be undone, since another does that. */
static void
require_not_undone(TupleTableSlot *flow)
{
	if (!slot_attisnull(flow, FLOW_UNDONE_BY))
		ereport(ERROR,
				(errcode(ERRCODE_JOBQ_WRONG_STATE),
				 errmsg("flow %lld is undone by flow %lld",
						(long long) jobq_attr_int64(flow, STATE_JOB_ID), (long long) jobq_attr_int64(flow, FLOW_UNDONE_BY)),
				 errhint("Use job_retry to go on with that one where it failed.")));
}

/* Lock the flows around one, none of which may be undone, or run. */
static void
lock_around(JobqCall *call, int64 flow)
{
	bool		locked = false;

	if (flow == 0)
		return;
	lock_around(call, jobq_flow_of(call, flow));
	while (!locked)
	{
		TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);

		if (row == NULL)
			return;				/* it was removed */
		require_not_undone(row);
		if (jobq_attr_bool(row, FLOW_OPEN))
			ereport(ERROR,
					(errcode(ERRCODE_JOBQ_WRONG_STATE),
					 errmsg("cannot undo a member of flow %lld, which is running", (long long) flow),
					 errhint("Cancel that flow first, or wait for its end.")));
		locked = jobq_lock(call, JOBQ_FLOW, row, LockTupleShare, LockWaitBlock);
		jobq_slot_free(row);
	}
}

/* Lock the rows of a flow that the caller may undo, and that has ended; returns that in job_flow. */
static TupleTableSlot *
lock_flow(JobqCall *call, int64 id)
{
	for (;;)
	{
		TupleTableSlot *job;
		TupleTableSlot *state;
		TupleTableSlot *row;
		JobqTable	table;
		int			outcome = jobq_look_to_act(call, id, true, &job, &table, &state, NULL);

		if (!jobq_is_flow(job))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("job %lld is no flow", (long long) id),
					 errhint("Flows are undone as a whole.")));
		if (!slot_attisnull(job, JOB_UNDO_OF))
			ereport(ERROR,
					(errcode(ERRCODE_JOBQ_WRONG_STATE),
					 errmsg("cannot undo flow %lld, which undoes flow %lld", (long long) id,
							(long long) jobq_attr_int64(job, JOB_UNDO_OF)),
					 errhint("Submit that flow anew to have it done again.")));
		if (outcome == 0)
			jobq_refuse_state(NULL, id, "undo", jobq_state_name(table), "Cancel it first, or wait for its end.");
		if (jobq_lock(call, JOBQ_JOB, job, LockTupleShare, LockWaitBlock))
		{
			row = jobq_find_id(call, JOBQ_FLOW, id);
			if (row == NULL)
				elog(ERROR, "flow %lld has no row", (long long) id);
			require_not_undone(row);
			if (jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitBlock))
				return row;
			jobq_slot_free(row);
		}
		jobq_slot_free(state);
		jobq_slot_free(job);
	}
}

/* The flow that undoes one, as JSON. */
static Jsonb *
undo_document(int64 id)
{
	Oid			types[] = {INT8OID};
	Datum		values[] = {Int64GetDatum(id)};
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi;
	bool		isnull;
	Jsonb	   *document;

	PushActiveSnapshot(GetLatestSnapshot());
	jobq_ask_as_owner("SELECT %s.job_undo_document($1)", lengthof(types), types, values, true);
	PopActiveSnapshot();
	spi = MemoryContextSwitchTo(context);
	document = DatumGetJsonbPCopy(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
	MemoryContextSwitchTo(spi);
	SPI_finish();
	return document;
}

/*
 * Submit the flow that undoes one whose rows are locked; returns its id.  In one that
 * was never started there is nothing to undo: that flow is empty, and the other is
 * not undone by it, since it can still start.
 */
static int64
submit_undo(JobqCall *call, TupleTableSlot *row)
{
	JobqSubmission s;
	JobqRow		new;

	jobq_advance();
	jobq_submit_flow(call, undo_document(jobq_attr_int64(row, STATE_JOB_ID)), &s);
	if (slot_attisnull(row, FLOW_STARTED_AT))
		return s.id;
	jobq_values(row, &new);
	jobq_set(&new, FLOW_UNDONE_BY, Int64GetDatum(s.id));
	if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed while locked", (long long) jobq_attr_int64(row, STATE_JOB_ID));
	return s.id;
}

/* The same for the background worker, as the role that submitted the flow. */
static void
undo_as_submitter(void *arg)
{
	int64		id = *(int64 *) arg;
	JobqCall	call;
	TupleTableSlot *row;
	Oid			user;
	int			context;

	jobq_open_call(&call);
	row = jobq_find_id(&call, JOBQ_FLOW, id);
	jobq_become_submitter(&call, id, &user, &context);
	(void) submit_undo(&call, row);
	SetUserIdAndSecContext(user, context);
	jobq_slot_free(row);
	jobq_close_call(&call);
}

/*
 * For the background worker, which has the rows of a flow locked that has failed:
 * submit what undoes it, or say what the *problem is, after which job_undo() can be
 * called.
 */
void
jobq_undo_due(JobqCall *call, int64 id, char **problem)
{
	ErrorData  *error = jobq_try(undo_as_submitter, &id);

	if (error == NULL)
		return;
	if (jobq_error_passes(error))
		ReThrowError(error);
	*problem = error->detail == NULL ? error->message : psprintf("%s: %s", error->message, error->detail);
}

PG_FUNCTION_INFO_V1(jobq_job_undo);

/* job_undo(flow) */
Datum
jobq_job_undo(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "flow");
	JobqCall	call;
	TupleTableSlot *row;

	jobq_enter(&call, "job_undo()", true);
	lock_around(&call, jobq_flow_of(&call, id));
	row = lock_flow(&call, id);
	id = submit_undo(&call, row);
	jobq_slot_free(row);
	jobq_close_call(&call);
	PG_RETURN_INT64(id);
}
