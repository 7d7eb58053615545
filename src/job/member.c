/*
 * member.c
 *	  Flows and their members: who joins one.
 *
 * A flow that was started has an open row in job_flow, with counters of its members.
 * What becomes of these reaches the row as deltas only, which bear epoch 0, and which
 * the background worker folds: the id of a flow is lower than those of its members,
 * so whoever decides one may not write the flow's row.
 *
 *	W1	The counters of an open row, plus the deltas that name it, equal what its
 *		members say.
 *	W2	A member that is undecided has an open flow around it.  Who adds one, or opens
 *		one again, locks the flow's row FOR SHARE and sees it open; who closes it
 *		has the row locked, and then compares the counters with the members: where
 *		they differ there are deltas that are still to be folded.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/fmgrprotos.h"
#include "utils/numeric.h"

#include "job/job.h"

/* What the end of a critical member must be for its flow not to fail */
#define CRITICAL_REQUIRE	(OUTCOME_ANY & ~(OUTCOME_FAILED | OUTCOME_UPSTREAM_FAILED))

/* The names of JobqOnFailure */
static const char *const on_failures[] = {"continue", "cancel", "drain", "undo"};

/* A value of "on_failure" by its name, or -1. */
int
jobq_find_on_failure(const char *name)
{
	for (int i = 0; i < lengthof(on_failures); i++)
	{
		if (strcmp(on_failures[i], name) == 0)
			return i;
	}
	return -1;
}

/* Is a job a flow? */
bool
jobq_is_flow(TupleTableSlot *job)
{
	return !slot_attisnull(job, JOB_FLOW_TYPE);
}

/* Is a flow a map? */
bool
jobq_is_map(TupleTableSlot *job)
{
	return jobq_attr_int16(job, JOB_FLOW_TYPE) == JOBQ_FLOW_TYPE_MAP;
}

/* Is a member of a flow critical? */
bool
jobq_is_critical(TupleTableSlot *job)
{
	return slot_attisnull(job, JOB_CRITICAL);
}

/* The flow that a job is a member of; 0: none. */
int64
jobq_flow_of(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	int64		flow = job != NULL ? jobq_attr_int64(job, JOB_FLOW) : 0;

	jobq_slot_free(job);
	return flow;
}

/* The flow that a job, or one around it, was a member of until that began anew; 0: none. */
int64
jobq_former_flow(JobqCall *call, TupleTableSlot *job)
{
	int64		former = jobq_attr_int64(job, JOB_FORMER_FLOW);
	int64		flow = jobq_attr_int64(job, JOB_FLOW);

	while (former == 0 && flow != 0)
	{
		TupleTableSlot *around = jobq_find_id(call, JOBQ_JOB, flow);

		flow = 0;
		if (around != NULL)
		{
			former = jobq_attr_int64(around, JOB_FORMER_FLOW);
			flow = jobq_attr_int64(around, JOB_FLOW);
		}
		jobq_slot_free(around);
	}
	return former;
}

/* Count a member: one that joins (outcome 0), got an outcome (n = 1) or lost it (n = -1). */
void
jobq_count_member(JobqCounters *c, bool critical, int outcome, int n)
{
	int16		require = critical ? CRITICAL_REQUIRE : OUTCOME_ANY;

	if (outcome == 0)
		jobq_count_undecided(c, require);
	else
		jobq_count_edge(c, require, OUTCOME_SUCCEEDED, outcome, n);
}

/*
 * How many of its items must succeed, if it is a map that says so.  The definition,
 * which can be large, says the same; it is not read again while deltas are folded.
 */
static void
set_min_success(JobqRow *new, Jsonb *definition)
{
	JsonbValue	v;
	bool		given = getKeyJsonValueFromContainer(&definition->root, "min_success", strlen("min_success"), &v) != NULL &&
	v.type == jbvNumeric;

	jobq_set(new, FLOW_MIN_SUCCESS, given ? DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(v.val.numeric)) : 0);
	new->given[FLOW_MIN_SUCCESS - 1] = given;
}

/* What a flow is made of, and its settings, as its row has them. */
static void
set_spec(JobqRow *new, const JobqFlowSpec *flow)
{
	jobq_set(new, FLOW_ON_FAILURE, Int16GetDatum(flow->on_failure));
	jobq_set(new, FLOW_CLONE_OF, Int64GetDatum(flow->clone_of));
	new->given[FLOW_CLONE_OF - 1] = flow->clone_of != 0;
	jobq_set(new, FLOW_CLONE_FROM, flow->clone_from);
	new->given[FLOW_CLONE_FROM - 1] = flow->clone_from != 0;
	jobq_set(new, FLOW_ANEW, BoolGetDatum(false));
	jobq_set(new, FLOW_PAUSED, BoolGetDatum(flow->paused));
	jobq_set(new, FLOW_PERMITS, Int32GetDatum(flow->permits));
	new->given[FLOW_PERMITS - 1] = flow->permits >= 0;
	jobq_set(new, FLOW_MAX_RUNNING, Int32GetDatum(flow->max_running));
	new->given[FLOW_MAX_RUNNING - 1] = flow->max_running > 0;
	set_min_success(new, flow->definition);
	jobq_set(new, FLOW_DEFINITION, JsonbPGetDatum(flow->definition));
}

/* Insert the row of a flow that is submitted. */
void
jobq_insert_flow(JobqCall *call, const JobqSubmission *s, const JobqPrefix *prefix)
{
	static const JobqCounters none = {0};
	JobqRow		new = {0};

	jobq_set(&new, STATE_JOB_ID, Int64GetDatum(s->id));
	jobq_set(&new, STATE_QUEUE_ID, Int64GetDatum(prefix->queue_id));
	jobq_set(&new, STATE_LANE, Int64GetDatum(prefix->lane));
	jobq_set(&new, STATE_ATTEMPT, Int32GetDatum(0));
	jobq_set(&new, STATE_FAILED, Int32GetDatum(0));
	jobq_set(&new, STATE_LOST, Int32GetDatum(0));
	jobq_set(&new, STATE_PRIORITY, Int16GetDatum(prefix->priority));
	jobq_set_counters(&new, FLOW_UNDECIDED, &none);
	jobq_set(&new, FLOW_RUNNING, Int32GetDatum(0));
	set_spec(&new, s->flow);
	jobq_set(&new, FLOW_STOPPING, Int16GetDatum(STOP_NOT));
	jobq_set(&new, FLOW_OPEN, BoolGetDatum(false));
	jobq_set(&new, FLOW_SETTLED, BoolGetDatum(true));
	if (prefix->flow_id != 0)
		jobq_set(&new, STATE_FLOW_ID, Int64GetDatum(prefix->flow_id));
	jobq_insert(call, JOBQ_FLOW, &new);
}

/* Another submission takes the place of one that has not started, whose state row is locked. */
void
jobq_redefine_flow(JobqCall *call, int64 id, const JobqFlowSpec *flow)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	JobqRow		new;

	if (row == NULL)
		elog(ERROR, "flow %lld has no row", (long long) id);
	jobq_values(row, &new);
	set_spec(&new, flow);
	if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed", (long long) id);
	jobq_slot_free(row);
}

/*
 * A flow starts, or is opened again: its row stands where its job does, which can
 * have been changed since, has a slot of the flow around it, or not, and ends when
 * the timeout is over, if it has one.
 */
void
jobq_set_flow_runs(JobqCall *call, int64 id, JobqSlot slot, JobqRow *flow)
{
	TupleTableSlot *job = jobq_need_job(call, id);
	int64		timeout = jobq_attr_int64(job, JOB_TIMEOUT);
	JobqPrefix	prefix;

	jobq_read_job_prefix(job, &prefix);
	prefix.run_at = 0;
	prefix.slot = slot != SLOT_NONE ? SLOT_BEGUN : SLOT_NONE;
	jobq_set_prefix(JOBQ_FLOW, flow, &prefix);
	if (timeout > 0)
	{
		jobq_set(flow, STATE_EXPIRES_AT, TimestampTzGetDatum(call->now + timeout));
		jobq_note_expiry(call, id, call->now + timeout);
	}
	jobq_slot_free(job);
}

/*
 * The first n items of a map that starts were inserted, which have these ids: they
 * must succeed before those that come begin.
 */
void
jobq_begin_canaries(JobqCall *call, int64 id, int n, int64 from, int64 upto)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	JobqRow		new;

	jobq_values(row, &new);
	jobq_set(&new, FLOW_CANARY, Int32GetDatum(n));
	jobq_set(&new, FLOW_CANARY_FROM, Int64GetDatum(from));
	jobq_set(&new, FLOW_CANARY_UPTO, Int64GetDatum(upto));
	if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed", (long long) id);
	jobq_slot_free(row);
	jobq_advance();
}

/* All items may begin. */
void
jobq_end_canaries(JobqRow *flow)
{
	jobq_unset(flow, FLOW_CANARY);
	jobq_unset(flow, FLOW_CANARY_FROM);
	jobq_unset(flow, FLOW_CANARY_UPTO);
}

/*
 * Open the row of a flow whose members were inserted: it runs.  args: what its own
 * are once references in them are replaced; NULL: the same.  Where no member is
 * undecided, a delta has the background worker close it.
 */
void
jobq_open_flow(JobqCall *call, int64 id, JobqSlot slot, const JobqCounters *c, Jsonb *args)
{
	static const JobqCounters none = {0};
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	JobqRow		new;

	if (row == NULL)
		elog(ERROR, "flow %lld has no row", (long long) id);
	jobq_values(row, &new);
	jobq_set_counters(&new, FLOW_UNDECIDED, c);
	jobq_set(&new, FLOW_STARTED_AT, TimestampTzGetDatum(call->now));
	jobq_set(&new, FLOW_OPEN, BoolGetDatum(true));
	jobq_set_flow_runs(call, id, slot, &new);
	if (args != NULL)
		jobq_set(&new, FLOW_ARGS, JsonbPGetDatum(args));
	if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed", (long long) id);
	jobq_slot_free(row);
	if (c->n[UNDECIDED] == 0)
		jobq_leave_delta(call, id, 0, &none);
}

/*
 * Lock a flow's row FOR SHARE to the end of the transaction, so that it is not closed
 * meanwhile, and say whether it is open.  False: somebody has it locked, or it changed.
 */
bool
jobq_lock_open_flow(JobqCall *call, int64 id, LockWaitPolicy policy, bool *open)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		ok = true;

	*open = row != NULL && jobq_attr_bool(row, FLOW_OPEN) && jobq_attr_int16(row, FLOW_STOPPING) == STOP_NOT;
	if (*open)
		ok = jobq_lock(call, JOBQ_FLOW, row, LockTupleShare, policy);
	jobq_slot_free(row);
	return ok;
}

/* Is a job a flow that was started once? */
bool
jobq_flow_was_started(JobqCall *call, TupleTableSlot *job)
{
	TupleTableSlot *row = jobq_is_flow(job) ? jobq_find_id(call, JOBQ_FLOW, jobq_attr_int64(job, JOB_ID)) : NULL;
	bool		started = row != NULL && !slot_attisnull(row, FLOW_STARTED_AT);

	jobq_slot_free(row);
	return started;
}

/* The members of a flow, by ascending ids; returns them, and how many. */
JobqMember *
jobq_read_flow_members(JobqCall *call, int64 flow, int *n)
{
	Datum		key = Int64GetDatum(flow);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_JOB, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *job;
	int			room = 64;
	JobqMember *members = palloc(room * sizeof(JobqMember));

	*n = 0;
	while ((job = jobq_scan_next(scan)) != NULL)
	{
		JobqMember *m;

		CHECK_FOR_INTERRUPTS();
		if (*n == room)
			members = repalloc_huge(members, (room *= 2) * sizeof(JobqMember));
		m = &members[(*n)++];
		m->id = jobq_attr_int64(job, JOB_ID);
		m->generation = jobq_attr_int32(job, JOB_GENERATION);
		m->outcome = jobq_attr_int16(job, JOB_OUTCOME);
		m->critical = jobq_is_critical(job);
		m->is_flow = jobq_is_flow(job);
	}
	jobq_scan_end(scan);
	qsort(members, *n, sizeof(JobqMember), jobq_compare_ids);
	return members;
}

/*
 * Visit the jobs inside a flow as a registered snapshot shows them: its members, and those
 * of the flows among these for which the visitor says so.
 */
void
jobq_visit_inside(JobqCall *call, int64 flow, Snapshot snapshot, JobqVisitor visit, void *arg)
{
	int			room = 16;
	int			n = 1;
	int64	   *flows = palloc(room * sizeof(int64));

	flows[0] = flow;
	for (int i = 0; i < n; i++)
	{
		Datum		key = Int64GetDatum(flows[i]);
		JobqScan   *scan = jobq_scan_begin(call, JOBQ_JOB, INDEX_SECOND, 1, &key, snapshot);
		TupleTableSlot *job;

		while ((job = jobq_scan_next(scan)) != NULL)
		{
			CHECK_FOR_INTERRUPTS();
			if (!visit(job, arg) || !jobq_is_flow(job))
				continue;
			if (n == room)
				flows = repalloc_huge(flows, (room *= 2) * sizeof(int64));
			flows[n++] = jobq_attr_int64(job, JOB_ID);
		}
		jobq_scan_end(scan);
	}
	pfree(flows);
}

/*
 * Does the caller run a member of a flow?  If so it is most likely one that the
 * submission depends on; otherwise the leases tell, which are far fewer than the
 * members of a large flow.
 */
static bool
runs_member(JobqCall *call, const JobqSubmission *s, int64 flow)
{
	JobqScan   *scan;
	TupleTableSlot *lease;
	bool		runs = false;

	for (int i = 0; i < s->nupstream && !runs; i++)
		runs = jobq_held_by_caller(call, s->upstream[i]) && jobq_flow_of(call, s->upstream[i]) == flow;
	if (runs)
		return true;
	scan = jobq_scan_begin(call, JOBQ_LEASE, INDEX_KEY, 0, NULL, NULL);
	while (!runs && (lease = jobq_scan_next(scan)) != NULL)
		runs = has_privs_of_role(GetUserId(), jobq_attr_oid(lease, LEASE_HOLDER)) &&
			jobq_flow_of(call, jobq_attr_int64(lease, STATE_JOB_ID)) == flow;
	jobq_scan_end(scan);
	return runs;
}

/* Has a flow a member of this name? */
static bool
has_member(JobqCall *call, int64 flow, const char *name)
{
	Datum		keys[2] = {Int64GetDatum(flow), CStringGetTextDatum(name)};
	TupleTableSlot *job = jobq_find(call, JOBQ_JOB, INDEX_SECOND, 2, keys, NULL);

	jobq_slot_free(job);
	return job != NULL;
}

/*
 * What undoes a member that is added is submitted by who undoes the flow, and runs where
 * the caller says: so the caller must be allowed to submit there.
 */
static void
admit_undo(JobqCall *call, Jsonb *undo)
{
	JsonbValue	v;
	char	   *queue;

	if (getKeyJsonValueFromContainer(&undo->root, "queue", strlen("queue"), &v) == NULL || v.type != jbvString)
		return;					/* the member's */
	queue = pnstrdup(v.val.string.val, v.val.string.len);
	jobq_require_privilege(call, jobq_queue_id(queue), PRIV_SUBMIT, queue);
}

/*
 * A job is submitted that becomes a member of a flow which runs.  The caller must
 * have submitted the flow, operate on its queue, or run a member of it.  The flow's
 * row is locked FOR SHARE, which waits for the background worker at most.
 */
void
jobq_join_flow(JobqCall *call, const JobqSubmission *s)
{
	int64		id = DatumGetInt64(s->row.values[JOB_FLOW - 1]);
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	const char *problem = NULL;
	bool		open;
	bool		may = job != NULL && (jobq_may_operate(call, job, true, &problem) || runs_member(call, s, id));

	if (job == NULL || !(may || jobq_may_see(call, id, false)))
		ereport(ERROR,
				(errcode(ERRCODE_JOBQ_NO_SUCH_JOB),
				 errmsg("job %lld in \"flow\" does not exist", (long long) id),
				 errhint(JOBQ_HINT_NO_SUCH_JOB)));
	if (!jobq_is_flow(job))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job %lld in \"flow\" is no flow", (long long) id)));
	if (!may)
		jobq_require_privilege(call, jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE)), PRIV_OPERATE, jobq_attr_cstring(job, JOB_QUEUE));
	if (s->row.given[JOB_UNDO - 1])
		admit_undo(call, DatumGetJsonbP(s->row.values[JOB_UNDO - 1]));
	while (!jobq_lock_open_flow(call, id, LockWaitBlock, &open))
		;
	if (!open)
		ereport(ERROR,
				(errcode(ERRCODE_JOBQ_WRONG_STATE),
				 errmsg("cannot add a member to flow %lld, which %s", (long long) id,
						!slot_attisnull(job, JOB_OUTCOME) ? "is decided" : jobq_flow_was_started(call, job) ? "is ending" : "has not started"),
				 errhint("Members are added while the flow runs.")));
	jobq_slot_free(job);
	if (s->name != NULL && has_member(call, id, s->name))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("flow %lld has a member \"%s\"", (long long) id, s->name),
				 errhint("Names are unique in a flow.")));
}

/*
 * Check what a job refers to that becomes a member of a flow which runs.  What it
 * names must be there, or another member of this name could be added later, whose
 * result the caller may not read: so a call that adds several does this once all of
 * them are.
 */
void
jobq_check_joined(JobqCall *call, const JobqSubmission *s)
{
	if (!s->row.given[JOB_FLOW - 1] || s->joined != NULL || s->dropped)
		return;
	jobq_check_references(call, DatumGetInt64(s->row.values[JOB_FLOW - 1]), DatumGetJsonbP(s->row.values[JOB_ARGS - 1]), false);
	if (s->row.given[JOB_UNDO - 1])
		jobq_check_references(call, DatumGetInt64(s->row.values[JOB_FLOW - 1]), DatumGetJsonbP(s->row.values[JOB_UNDO - 1]), true);
}

/* A member of a flow is to depend on a job, which is a member of another: may it? */
static void
check_upstream(JobqCall *call, int64 flow, int64 up, int64 around)
{
	int64		outermost = 0;

	if (around == flow)
		return;					/* beside it */
	for (int64 f = flow; f != 0; f = jobq_flow_of(call, f))
	{
		int64		g = around;

		if (f == up)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a member of flow %lld cannot depend on the flow", (long long) up),
					 errhint("The flow ends after its members.")));
		while (g != 0 && g != f)
			g = jobq_flow_of(call, g);
		if (g == 0)
			outermost = f;
	}
	if (outermost != 0 && up >= outermost)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a member of flow %lld cannot depend on job %lld, which was submitted after the flow",
						(long long) outermost, (long long) up),
				 errhint("What is outside the flow can wait for it, so its members wait only for what is older than the flow.")));
}

/* The flow that a submission joins; 0: none. */
static int64
flow_joined(const JobqSubmission *s)
{
	return s->row.given[JOB_FLOW - 1] ? DatumGetInt64(s->row.values[JOB_FLOW - 1]) : 0;
}

/*
 * A member of a flow may depend on another job unless that waits for the flow, or could:
 * not on a flow that it is in itself, and only on what is older than the outermost
 * flow that it is in and the other is not.  Then ids grow along what waits for what.
 */
void
jobq_check_scope(JobqCall *call, const JobqSubmission *s)
{
	int64		flow = flow_joined(s);

	for (int i = 0; flow != 0 && i < s->nupstream; i++)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, s->upstream[i]);

		/* one that is not there is refused as such */
		if (job != NULL)
			check_upstream(call, flow, s->upstream[i], jobq_attr_int64(job, JOB_FLOW));
		jobq_slot_free(job);
	}
}

/* The same of a job that the same call submits, or of that which has its unique key. */
void
jobq_check_scope_within(JobqCall *call, const JobqSubmission *s, const JobqSubmission *up)
{
	int64		flow = flow_joined(s);

	if (flow != 0)
		check_upstream(call, flow, up->id, up->dropped ? jobq_flow_of(call, up->id) : flow_joined(up));
}
