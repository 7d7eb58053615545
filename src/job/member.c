/*
 * member.c
 *	  Flows and their members: who joins one, and when it ends.
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

#include <math.h>

#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/builtins.h"
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

/* What a flow is made of, and its settings, as its row has them. */
static void
set_spec(JobqRow *new, const JobqFlowSpec *flow)
{
	jobq_set(new, FLOW_ON_FAILURE, Int16GetDatum(flow->on_failure));
	jobq_set(new, FLOW_CLONE_OF, Int64GetDatum(flow->clone_of));
	new->given[FLOW_CLONE_OF - 1] = flow->clone_of != 0;
	jobq_set(new, FLOW_CLONE_FROM, flow->clone_from);
	new->given[FLOW_CLONE_FROM - 1] = flow->clone_from != 0;
	jobq_set(new, FLOW_PAUSED, BoolGetDatum(flow->paused));
	jobq_set(new, FLOW_PERMITS, Int32GetDatum(flow->permits));
	new->given[FLOW_PERMITS - 1] = flow->permits >= 0;
	jobq_set(new, FLOW_MAX_RUNNING, Int32GetDatum(flow->max_running));
	new->given[FLOW_MAX_RUNNING - 1] = flow->max_running > 0;
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
 * A flow starts, or is opened again: its row stands where its job does, which can have
 * been changed since, has a slot of the flow around it, or not, and ends when the timeout is over, if it has one.
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

/* The first n items of a map that starts were inserted, up to this id: they must succeed before those that come begin. */
void
jobq_begin_canaries(JobqCall *call, int64 id, int n, int64 upto)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	JobqRow		new;

	jobq_values(row, &new);
	jobq_set(&new, FLOW_CANARY, Int32GetDatum(n));
	jobq_set(&new, FLOW_CANARY_UPTO, Int64GetDatum(upto));
	if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed", (long long) id);
	jobq_slot_free(row);
	jobq_advance();
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
				 errhint("It was removed, or you may not see it.")));
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
 * Check what a job refers to that becomes a member of a flow which runs.  What it names must be there, or another member
 * of this name could be added later, whose result the caller may not read: so a call that adds several does this
 * once all of them are.
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

/* Closing */

/*
 * May a flow that is due start?  Its row is locked, so that its settings are the same to the end of that.  False:
 * somebody has it locked.
 */
bool
jobq_lock_to_start(JobqCall *call, int64 id)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		ok = row == NULL || jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitSkip);

	jobq_slot_free(row);
	return ok;
}

/* May deltas of this flow be folded?  Its row, if it is open, is locked for that. */
bool
jobq_lock_to_fold(JobqCall *call, int64 id)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		ok = row == NULL || !jobq_attr_bool(row, FLOW_OPEN) ||
	jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitSkip);

	jobq_slot_free(row);
	return ok;
}

/* What the members of a flow say of themselves. */
void
jobq_count_members(JobqCall *call, int64 id, JobqCounters *c)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, id, &n);

	memset(c, 0, sizeof(JobqCounters));
	for (int i = 0; i < n; i++)
	{
		jobq_count_member(c, members[i].critical, 0, 1);
		if (members[i].outcome != 0)
			jobq_count_member(c, members[i].critical, members[i].outcome, 1);
	}
	pfree(members);
}

/*
 * A flow's row is locked: is it to be closed once these are added to its counters?
 * Then its row in job is locked, too; false: somebody else has that.
 */
bool
jobq_prepare_to_close(JobqCall *call, int64 id, const JobqFlowChange *change, bool *closes)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	TupleTableSlot *job;
	JobqCounters c;
	JobqCounters members;
	bool		ok = true;

	*closes = false;
	if (row != NULL && jobq_attr_bool(row, FLOW_OPEN))
	{
		jobq_read_counters(row, FLOW_UNDECIDED, &c);
		jobq_add_counters(&c, &change->c);
		if (c.n[UNDECIDED] == 0)
		{
			jobq_count_members(call, id, &members);
			*closes = memcmp(&c, &members, sizeof(JobqCounters)) == 0;
		}
	}
	jobq_slot_free(row);
	if (*closes)
	{
		job = jobq_find_id(call, JOBQ_JOB, id);
		ok = job == NULL || (jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitSkip) && jobq_lock_key(call, job));
		jobq_slot_free(job);
	}
	return ok;
}

/* What a key of a flow's definition says; false: nothing. */
static bool
defines(TupleTableSlot *row, const char *key, JsonbValue *v)
{
	bool		isnull;
	Jsonb	   *definition = DatumGetJsonbP(slot_getattr(row, FLOW_DEFINITION, &isnull));

	return getKeyJsonValueFromContainer(&definition->root, key, strlen(key), v) != NULL && v->type != jbvNull;
}

/*
 * The result of a map that has succeeded: those of its items, in order, null for one that has none, or one that is
 * too deep.  NULL: they are too large for one value.
 */
static Jsonb *
map_result(JobqCall *call, int64 id)
{
	Size		room = (Size) JOBQ_MAX_FLOW_MB * 1024 * 1024;
	int			n;
	JobqMember *items = jobq_read_flow_members(call, id, &n);
	JsonbParseState *state = NULL;
	JsonbValue *done;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *job = jobq_need_job(call, items[i].id);
		JsonbValue	v = {.type = jbvNull};
		Jsonb	   *result = NULL;
		bool		isnull;
		Datum		value = slot_getattr(job, JOB_RESULT, &isnull);

		CHECK_FOR_INTERRUPTS();
		if (!isnull)
		{
			result = DatumGetJsonbPCopy(value);
			if (VARSIZE(result) > room)
				return NULL;
			room -= VARSIZE(result);
			if (JB_ROOT_IS_SCALAR(result))
				(void) JsonbExtractScalar(&result->root, &v);
			else if (!jobq_is_deep(&result->root))
			{
				v.type = jbvBinary;
				v.val.binary.data = &result->root;
				v.val.binary.len = VARSIZE(result) - VARHDRSZ;
			}
		}
		pushJsonbValue(&state, WJB_ELEM, &v);
		jobq_slot_free(job);
	}
	done = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	pfree(items);
	return JsonbValueToJsonb(done);
}

/* The result of a flow that has succeeded, by what its definition refers to; NULL: none. */
static Jsonb *
flow_result(JobqCall *call, int64 id, TupleTableSlot *row)
{
	JsonbValue	v;

	if (defines(row, "map", &v))
		return map_result(call, id);
	return defines(row, "result", &v) ? jobq_resolve_references(call, id, JsonbValueToJsonb(&v)) : NULL;
}

/* How many items of a map must succeed, of n that are not skipped; -1: it does not say. */
static int
items_needed(TupleTableSlot *row, int n)
{
	JsonbValue	v;

	if (!defines(row, "min_success", &v))
		return -1;
	/* 0.07 of 100 are not 8 */
	return (int) ceil(DatumGetFloat8(DirectFunctionCall1(numeric_float8_no_overflow, NumericGetDatum(v.val.numeric))) * n - 1e-6);
}

/* What became of the canaries of a map: *failed: one did not succeed; *passed: all have, or were skipped. */
static void
look_at_canaries(JobqCall *call, TupleTableSlot *row, bool *failed, bool *passed)
{
	int64		upto = jobq_attr_int64(row, FLOW_CANARY_UPTO);
	int			n;
	JobqMember *items = jobq_read_flow_members(call, jobq_attr_int64(row, STATE_JOB_ID), &n);

	*failed = false;
	*passed = true;
	for (int i = 0; i < n && items[i].id <= upto; i++)
	{
		*failed |= (items[i].outcome & OUTCOME_HURTS) != 0;
		*passed &= (items[i].outcome & (OUTCOME_SUCCEEDED | OUTCOME_SKIPPED)) != 0;
	}
	pfree(items);
}

/* Has a flow failed, or will it, by what its members are? */
static bool
is_failing(TupleTableSlot *row, const JobqCounters *c)
{
	int			needed;

	/* those that hurt, and no others, can keep a map from that */
	if (c->n[HURT] == 0)
		return false;
	needed = items_needed(row, c->n[UNDECIDED] + c->n[HITS] + c->n[HURT]);
	return needed >= 0 ? c->n[UNDECIDED] + c->n[HITS] < needed : c->n[VIOLATED] > 0;
}

/* Why a flow has failed: the first critical member that ran and did, else the first that could not run. */
static char *
first_failure(JobqCall *call, int64 id)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, id, &n);
	const JobqMember *first = NULL;
	TupleTableSlot *job;
	char	   *error;

	for (int i = 0; i < n && (first == NULL || first->outcome != OUTCOME_FAILED); i++)
	{
		if (members[i].critical &&
			(members[i].outcome == OUTCOME_FAILED || (members[i].outcome == OUTCOME_UPSTREAM_FAILED && first == NULL)))
			first = &members[i];
	}
	job = first != NULL ? jobq_find_id(call, JOBQ_JOB, first->id) : NULL;
	if (job == NULL)
		return NULL;
	error = psprintf("member \"%s\", job %lld, %s", jobq_attr_cstring(job, slot_attisnull(job, JOB_NAME) ? JOB_KIND : JOB_NAME),
					 (long long) first->id,
					 first->outcome == OUTCOME_FAILED ? "failed" : "could not run, since what it depends on did not succeed");
	jobq_slot_free(job);
	pfree(members);
	return error;
}

/* The same, with how many items of a map have succeeded, where that is what matters. */
static char *
why_failed(JobqCall *call, int64 id, TupleTableSlot *row, const JobqCounters *c, bool canary)
{
	int			n = c->n[HITS] + c->n[HURT];
	int			needed = items_needed(row, n);
	char	   *first = first_failure(call, id);

	if (canary)
		return psprintf("a canary did not succeed%s%s", first != NULL ? ": " : "", first != NULL ? first : "");
	if (needed < 0)
		return first;
	return psprintf("%d of %d items succeeded, and %d must%s%s", c->n[HITS], n, needed,
					first != NULL ? "; " : "", first != NULL ? first : "");
}

/* Was a member of a flow cancelled? */
static bool
has_cancelled_member(JobqCall *call, int64 id)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, id, &n);
	bool		found = false;

	for (int i = 0; i < n && !found; i++)
		found = members[i].outcome == OUTCOME_CANCELLED;
	pfree(members);
	return found;
}

void		(*jobq_undo_failed_flow) (JobqCall *call, int64 id, char **problem) = NULL;

/* Decide a flow whose members are all decided, and whose rows are locked; undo it, if it has failed and wants that. */
static void
close_flow(JobqCascade *cascade, TupleTableSlot *row, const JobqCounters *c, bool canary_failed)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	JobqDecision decision = {.attempt_outcome = -1};
	JobqPrefix	prefix;
	Jsonb	   *result;

	JobqStop	why = jobq_attr_int16(row, FLOW_STOPPING);

	jobq_read_prefix(row, &prefix);
	if (why == STOP_CANCELLED || why == STOP_TIMED_OUT)
	{
		decision.outcome = why == STOP_CANCELLED ? OUTCOME_CANCELLED : OUTCOME_FAILED;
		decision.error = jobq_attr_cstring(row, FLOW_STOP_REASON);
	}
	else if (canary_failed || why == STOP_FAILED || is_failing(row, c))
	{
		decision.outcome = OUTCOME_FAILED;
		decision.error = why_failed(call, prefix.job_id, row, c, canary_failed || (why == STOP_FAILED && !slot_attisnull(row, FLOW_CANARY)));
	}
	else if (why == STOP_DRAINS && has_cancelled_member(call, prefix.job_id))
	{
		/* since a flow around it drains */
		decision.outcome = OUTCOME_CANCELLED;
		decision.error = jobq_attr_cstring(row, FLOW_STOP_REASON);
	}
	else
	{
		decision.outcome = OUTCOME_SUCCEEDED;
		result = flow_result(call, prefix.job_id, row);
		decision.has_result = result != NULL;
		decision.result = JsonbPGetDatum(result);
	}
	if (decision.outcome == OUTCOME_FAILED && jobq_attr_int16(row, FLOW_ON_FAILURE) == ON_FAILURE_UNDO)
	{
		char	   *problem = NULL;

		jobq_advance();
		jobq_undo_failed_flow(call, prefix.job_id, &problem);
		if (problem != NULL)
			decision.error = psprintf("%s; it could not be undone: %s", decision.error != NULL ? decision.error : "it has failed", problem);
		jobq_advance();
	}
	jobq_decide(cascade, &prefix, &decision);
}

/*
 * Ask for the cancellation of all members of a flow that are undecided, or of those that have not
 * begun (STOP_DRAINS), and mark its row with why, which says how the flow will end.  That is done once; only
 * one that stops since a member failed can still be cancelled, or time out.  False: somebody has the row locked.
 */
bool
jobq_stop_flow(JobqCall *call, TupleTableSlot *flow, JobqStop why, const char *reason)
{
	JobqRow		new;
	JobqMember *members;
	int			n;

	if (jobq_attr_int16(flow, FLOW_STOPPING) > STOP_FAILED || jobq_attr_int16(flow, FLOW_STOPPING) >= (int) why)
		return true;
	jobq_values(flow, &new);
	jobq_set(&new, FLOW_STOPPING, Int16GetDatum(why));
	jobq_set_text(&new, FLOW_STOP_REASON, reason);
	/* its timeout, once over, has no row in job_expiry any more */
	if (why > STOP_FAILED)
		new.given[STATE_EXPIRES_AT - 1] = false;
	if (!jobq_update(call, JOBQ_FLOW, flow, &new, LockWaitSkip))
		return false;
	if (jobq_attr_int16(flow, FLOW_STOPPING) > STOP_DRAINS)
		return true;

	/* what is downstream first, or it would be decided by what is upstream */
	members = jobq_read_flow_members(call, jobq_attr_int64(flow, STATE_JOB_ID), &n);
	while (n-- > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (members[n].outcome == 0)
			jobq_request_cancel(call, members[n].id, members[n].generation, why == STOP_DRAINS, reason);
	}
	pfree(members);
	return true;
}

/* When a critical member of a flow has failed, are the others to stop, and how? */
static JobqStop
stop_on_failure(TupleTableSlot *flow)
{
	switch ((JobqOnFailure) jobq_attr_int16(flow, FLOW_ON_FAILURE))
	{
		case ON_FAILURE_CONTINUE:
			break;
		case ON_FAILURE_CANCEL:
			return STOP_FAILED;
		case ON_FAILURE_DRAIN:
		case ON_FAILURE_UNDO:
			return STOP_DRAINS;
	}
	return STOP_NOT;
}

/*
 * Add what deltas say to the counters of a flow, whose row is locked, and close it if that was prepared, else let members
 * in that wait for it.  False: some of them are still to be let in.
 */
bool
jobq_fold_flow(JobqCascade *cascade, int64 id, const JobqFlowChange *change, bool closes)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		done = true;
	JobqCounters c;
	JobqRow		new;
	JobqStop	why;
	bool		canary_failed = false;
	bool		canaries_passed = false;

	if (row != NULL && jobq_attr_bool(row, FLOW_OPEN))
	{
		jobq_read_counters(row, FLOW_UNDECIDED, &c);
		jobq_add_counters(&c, &change->c);
		jobq_values(row, &new);
		jobq_set_counters(&new, FLOW_UNDECIDED, &c);
		jobq_set(&new, FLOW_RUNNING, Int32GetDatum(jobq_attr_int32(row, FLOW_RUNNING) + change->running));
		if (new.given[FLOW_PERMITS - 1])
			jobq_set(&new, FLOW_PERMITS, Int32GetDatum(jobq_add_permits(jobq_attr_int32(row, FLOW_PERMITS), change->permits)));
		jobq_set(&new, FLOW_OPEN, BoolGetDatum(!closes));
		if (new.given[FLOW_CANARY - 1])
			look_at_canaries(call, row, &canary_failed, &canaries_passed);
		if (canaries_passed)
			new.given[FLOW_CANARY - 1] = new.given[FLOW_CANARY_UPTO - 1] = false;
		if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
			elog(ERROR, "row of flow %lld has changed while locked", (long long) id);
		if (jobq_attr_int16(row, FLOW_STOPPING) != STOP_NOT)
			why = STOP_NOT;
		else if (canary_failed)
			why = STOP_FAILED;
		else
			why = stop_on_failure(row) != STOP_NOT && is_failing(row, &c) ? stop_on_failure(row) : STOP_NOT;
		if (closes)
			close_flow(cascade, row, &c, canary_failed);
		else if (why != STOP_NOT)
		{
			TupleTableSlot *latest;

			jobq_advance();
			latest = jobq_find_id(call, JOBQ_FLOW, id);
			if (!jobq_stop_flow(call, latest, why, canary_failed ? "a canary did not succeed" : "another member of its flow failed"))
				elog(ERROR, "row of flow %lld has changed while locked", (long long) id);
			jobq_slot_free(latest);
		}
		else if (jobq_attr_int16(row, FLOW_STOPPING) == STOP_NOT)
		{
			jobq_advance();
			done = jobq_let_members_in(call, id);
		}
	}
	jobq_slot_free(row);
	return done;
}
