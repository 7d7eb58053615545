/*
 * expand.c
 *	  Submitting flows, and starting them.
 *
 * A flow is submitted as a job.  When it starts its members are inserted, as
 * job_submit_many does, in one transaction with the change of its state: by
 * job_submit_flow() where nothing keeps it waiting, else by the background worker, as
 * the role that submitted it.  Members that are flows start in their turn.
 *
 * A crash leaves the flow as it was, waiting or due, or started with all its members.
 */
#include "postgres.h"

#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/syscache.h"

#include "flow/flow.h"

#define SHOWN_FAULTS	20		/* in an error */

/* The row of a flow in job_flow. */
static TupleTableSlot *
need_flow(JobqCall *call, int64 id)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);

	if (row == NULL)
		elog(ERROR, "flow %lld has no row", (long long) id);
	return row;
}

/*
 * Does the condition of a member hold?  Unlike one on a result, it fails the flow
 * where it cannot be evaluated.
 */
static bool
holds(const char *condition, Jsonb *args)
{
	return jobq_is_true(jobq_path_first(args, condition));
}

/* The outermost flow that one is, or is in, which has begun anew; 0: none. */
static int64
begun_anew(JobqCall *call, int64 flow)
{
	int64		anew = 0;

	for (; flow != 0; flow = jobq_flow_of(call, flow))
	{
		TupleTableSlot *row = need_flow(call, flow);

		if (jobq_attr_bool(row, FLOW_ANEW))
			anew = flow;
		jobq_slot_free(row);
	}
	return anew;
}

/* Insert members of a flow that starts, whose args are given, and count them. */
void
jobq_insert_members(JobqCall *call, int64 id, JobqElements *members, Jsonb *args, JobqCounters *c)
{
	bool		outside = false;

	for (int i = 0; i < members->n; i++)
	{
		JobqSubmission *s = &members->elements[i].s;
		const char *condition = members->elements[i].condition;

		jobq_set(&s->row, JOB_FLOW, Int64GetDatum(id));
		s->joined = c;
		/* what was to be begun by a time that had not come for the original */
		if (s->row.given[JOB_EXPIRES_AT - 1] && DatumGetTimestampTz(s->row.values[JOB_EXPIRES_AT - 1]) <= call->now &&
			jobq_is_in_copy(call, id))
			jobq_unset(&s->row, JOB_EXPIRES_AT);

		/*
		 * only a backfill is of times of a schedule, under the schedule's
		 * lock
		 */
		if (s->row.given[JOB_SCHEDULE_ID - 1] && jobq_is_in_copy(call, id))
		{
			jobq_unset(&s->row, JOB_SCHEDULE_ID);
			jobq_unset(&s->row, JOB_SCHEDULED_FOR);
		}
		/* one that is left out waits for nothing, so no retry opens it */
		if (condition != NULL && !s->succeeded && !s->skipped && !holds(condition, args))
		{
			s->skipped = true;
			s->nnames = s->nupstream = 0;
		}
		outside |= s->nupstream > 0;
	}
	/* members depend only on what is older than their flows */
	if (outside)
		members->known_before = begun_anew(call, id);
	jobq_elements_sort(members);
	jobq_elements_submit(call, members);
	jobq_advance();
}

/*
 * Insert the members of a flow, which has left its state, with a slot or not, and
 * open its row; args: NULL for its own.
 */
static void
start(JobqCall *call, int64 id, JobqSlot slot, JobqElements *members, Jsonb *own, Jsonb *args)
{
	JobqCounters c = {0};

	jobq_insert_members(call, id, members, args != NULL ? args : own, &c);
	jobq_open_flow(call, id, slot, &c, args);
}

/* The same, by what the tables say of it. */
static void
start_stored(JobqCall *call, int64 id, JobqSlot slot)
{
	TupleTableSlot *row = need_flow(call, id);
	TupleTableSlot *job = jobq_need_job(call, id);
	int64		around = jobq_attr_int64(job, JOB_FLOW);
	bool		isnull;
	Jsonb	   *definition = DatumGetJsonbPCopy(slot_getattr(row, FLOW_DEFINITION, &isnull));
	Jsonb	   *own = DatumGetJsonbPCopy(slot_getattr(job, JOB_ARGS, &isnull));
	Jsonb	   *args = around != 0 ? jobq_resolve_references(call, around, own) : own;
	int64		clone_of = jobq_attr_int64(row, FLOW_CLONE_OF);
	Datum		clone_from = slot_getattr(row, FLOW_CLONE_FROM, &isnull);
	JobqElements members;

	if (jobq_is_map(job))
	{
		jobq_slot_free(row);
		jobq_slot_free(job);
		jobq_start_map(call, id, slot, definition);
		return;
	}
	jobq_read_members(definition, &members);
	if (!isnull)
		jobq_reuse_members(call, definition, clone_of, clone_from, &members);
	jobq_slot_free(row);
	jobq_slot_free(job);
	start(call, id, slot, &members, own, args != own ? args : NULL);
}

/*
 * For the background worker: act as the role that submitted a flow from here on;
 * *user and *context are what it was.
 */
void
jobq_become_submitter(JobqCall *call, int64 flow, Oid *user, int *context)
{
	TupleTableSlot *job = jobq_need_job(call, flow);
	Oid			submitter = jobq_attr_oid(job, JOB_SUBMITTED_BY);

	jobq_slot_free(job);
	if (!SearchSysCacheExists1(AUTHOID, ObjectIdGetDatum(submitter)))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("the role that submitted the flow does not exist any more")));
	GetUserIdAndSecContext(user, context);
	SetUserIdAndSecContext(submitter, *context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION);
}

/* What the background worker does, as the role that submitted the flow. */
static void
start_as_submitter(void *arg)
{
	const JobqPrefix *prefix = arg;
	JobqCall	call;
	Oid			user;
	int			context;

	jobq_open_call(&call);
	jobq_become_submitter(&call, prefix->job_id, &user, &context);
	start_stored(&call, prefix->job_id, prefix->slot);
	SetUserIdAndSecContext(user, context);
	jobq_close_call(&call);
}

/*
 * For the background worker: start a flow that has left its state.  If that fails in a
 * way that does not pass, the flow has failed.
 */
static void
start_due(JobqCall *call, const JobqPrefix *prefix)
{
	JobqPrefix	started = *prefix;
	ErrorData  *error;

	jobq_advance();
	error = jobq_try(start_as_submitter, &started);
	if (error != NULL)
	{
		JobqCascade *cascade = jobq_cascade_create(call);
		JobqDecision decision = {.outcome = OUTCOME_FAILED,.attempt_outcome = -1};

		if (jobq_error_passes(error))
			ReThrowError(error);
		decision.error = error->detail == NULL ? error->message : psprintf("%s: %s", error->message, error->detail);
		jobq_decide(cascade, prefix, &decision);
		jobq_cascade_run(cascade, NULL, NULL);
	}
}

/* The caller must be allowed to submit to the queues of members, and of those inside of them. */
static void
admit_members(JobqCall *call, const JobqElements *members)
{
	check_stack_depth();
	for (int i = 0; i < members->n; i++)
	{
		const JobqSubmission *s = &members->elements[i].s;
		JobqElements inside;

		jobq_require_privilege(call, s->queue_id, PRIV_SUBMIT, s->queue);
		if (s->flow == NULL)
			continue;
		jobq_read_members(s->flow->definition, &inside);
		admit_members(call, &inside);
	}
}

/* Refuse a flow that has faults, and say all of them; scheduled: the job of a schedule. */
static void
refuse(List *faults, bool scheduled)
{
	StringInfoData detail;
	int			n = list_length(faults);

	initStringInfo(&detail);
	for (int i = 0; i < Min(n, SHOWN_FAULTS); i++)
	{
		JobqFlowFault *fault = list_nth(faults, i);

		appendStringInfo(&detail, "%s%s: %s", i > 0 ? "\n" : "", fault->path, fault->problem);
	}
	if (n > SHOWN_FAULTS)
		appendStringInfo(&detail, "\n%d more", n - SHOWN_FAULTS);
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg_plural("the flow has %d fault", "the flow has %d faults", n, n),
			 errdetail_internal("%s", detail.data),
			 scheduled ? 0 : errhint("job_check_flow lists them all.")));
}

/* Refuse a flow that is the job of a schedule, if it has faults. */
static void
check_flow(Jsonb *flow)
{
	List	   *faults = jobq_check_document(flow, true, NULL, NULL);

	if (faults != NIL)
		refuse(faults, true);
}

/* The caller must be allowed to submit to the queues of all that is in a flow. */
static void
admit_flow(JobqCall *call, const JobqSubmission *s)
{
	JobqElements members;

	jobq_read_members(s->flow->definition, &members);
	admit_members(call, &members);
}

/* Have the layer below start flows, and submit those of schedules. */
void
jobq_flow_init(void)
{
	jobq_start_flow = start_due;
	jobq_undo_failed_flow = jobq_undo_due;
	jobq_check_flow = check_flow;
	jobq_read_flow_job = jobq_read_flow;
	jobq_admit_flow = admit_flow;
}

/*
 * Submit a flow, which was read with its members, as the current role, and start it where
 * nothing keeps it waiting.  Its id is s->id, see jobq_submit_alone().
 */
static void
submit_with_members(JobqCall *call, JobqSubmission *s, JobqElements *members)
{
	s->starts = true;
	admit_members(call, members);
	jobq_submit_alone(call, s);
	if (s->started)
	{
		jobq_advance();
		if (s->flow->clone_from != 0)
			jobq_reuse_members(call, s->flow->definition, s->flow->clone_of, s->flow->clone_from, members);
		start(call, s->id, SLOT_NONE, members, DatumGetJsonbP(s->row.values[JOB_ARGS - 1]), NULL);
	}
}

/* The same of a flow of which only itself was read, or that is a copy of another. */
void
jobq_submit_read_flow(JobqCall *call, JobqSubmission *s)
{
	JobqElements members;

	jobq_read_members(s->flow->definition, &members);
	submit_with_members(call, s, &members);
}

/* The same of a flow that was made here. */
void
jobq_submit_flow(JobqCall *call, Jsonb *flow, JobqSubmission *s)
{
	jobq_read_flow(flow, s);
	jobq_submit_read_flow(call, s);
}

PG_FUNCTION_INFO_V1(jobq_job_submit_flow);

/* job_submit_flow(flow) */
Datum
jobq_job_submit_flow(PG_FUNCTION_ARGS)
{
	JobqSubmission s;
	JobqElements members;
	JobqCall	call;
	List	   *faults;

	if (PG_ARGISNULL(0))
		jobq_error_null("flow");
	faults = jobq_check_document(PG_GETARG_JSONB_P(0), false, &s, &members);
	if (faults != NIL)
		refuse(faults, false);
	jobq_enter(&call, "job_submit_flow()", true);
	submit_with_members(&call, &s, &members);
	jobq_close_call(&call);
	if (s.dropped && DatumGetInt16(s.row.values[SUBMISSION_ON_CONFLICT - 1]) == CONFLICT_SKIP)
		PG_RETURN_NULL();
	PG_RETURN_INT64(s.id);
}
