/*
 * clone.c
 *	  Copies of flows.
 *
 * A copy is submitted as any flow, by what was asked of another: what stands in its row in job
 * and its row in job_flow, but for times that have passed.  It does not wait for what
 * the other has waited for, and goes without its unique key where another job has that.
 *
 * Where it is to begin from some members (clone_from), those are reused that do not
 * follow from these, nor from any that has to run again: one that has succeeded in
 * the other flow, and is not undone, is inserted with its result, one that was left
 * out is left out.  So what is reused comes of what is reused alone.  One that was
 * skipped because of others is so again, by its rule.  That is found out when the
 * copy is expanded, for its submitter.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/datum.h"
#include "utils/snapmgr.h"

#include "flow/flow.h"

/* Columns of job that say what was asked of a flow */
static const int asked[] = {JOB_RUN_AT, JOB_EXPIRES_AT, JOB_BACKOFF, JOB_TIMEOUT, JOB_LEASE, JOB_UNIQUE_FOR,
	JOB_MAX_ATTEMPTS, JOB_MAX_LOST, JOB_PRIORITY, JOB_FLOW_TYPE, JOB_NOTIFY, JOB_MANUAL, JOB_QUEUE, JOB_KIND, JOB_NAME,
JOB_UNIQUE_KEY, JOB_ARGS, JOB_TAGS};

/* The members in a flow's document. */
static JobqFlowGraph *
graph_of(Jsonb *definition)
{
	JsonbValue	jobs;

	if (getKeyJsonValueFromContainer(&definition->root, "jobs", 4, &jobs) == NULL)
		elog(ERROR, "a flow has no members in its document");
	return jobq_graph_create(jobs.val.binary.data);
}

/* Reused members */

/*
 * The row of the member of another flow that one with this name can take over, as a snapshot
 * shows it, if the caller may see it; NULL: none, so it runs.
 */
static TupleTableSlot *
find_reusable(JobqCall *call, int64 flow, const char *name, Snapshot snapshot)
{
	Datum		keys[2] = {Int64GetDatum(flow), name != NULL ? CStringGetTextDatum(name) : 0};
	TupleTableSlot *job = name != NULL ? jobq_find(call, JOBQ_JOB, INDEX_SECOND, 2, keys, snapshot) : NULL;

	if (job != NULL && (jobq_attr_int16(job, JOB_OUTCOME) & (OUTCOME_SUCCEEDED | OUTCOME_SKIPPED)) != 0 &&
		jobq_may_see(call, jobq_attr_int64(job, JOB_ID), false))
		return job;
	jobq_slot_free(job);
	return NULL;
}

/* What is in a flow that is to be reused */
typedef struct Inside
{
	JobqCall   *call;
	bool		has_undo;		/* a job that can be undone */
	bool		undone;			/* a flow that has succeeded, and is undone */
} Inside;

/* Look at a job in it: a JobqVisitor */
static bool
look_inside(TupleTableSlot *job, void *arg)
{
	Inside	   *inside = arg;

	inside->has_undo |= !slot_attisnull(job, JOB_UNDO);
	inside->undone |= jobq_is_flow(job) && jobq_attr_int16(job, JOB_OUTCOME) == OUTCOME_SUCCEEDED &&
		jobq_undone_by(inside->call, jobq_attr_int64(job, JOB_ID)) != 0;
	return true;
}

/*
 * The member that one was taken over from, which is one of the flow of which its own
 * is a copy, or was; NULL: it was not, or that was removed.
 */
TupleTableSlot *
jobq_find_original(JobqCall *call, TupleTableSlot *job)
{
	TupleTableSlot *row = jobq_attr_int32(job, JOB_ATTEMPT_NO) == 0 && !slot_attisnull(job, JOB_PARENT) ?
	jobq_find_id(call, JOBQ_FLOW, jobq_attr_int64(job, JOB_FLOW)) : NULL;
	int64		clone_of = row != NULL ? jobq_attr_int64(row, FLOW_CLONE_OF) : 0;
	TupleTableSlot *original = clone_of != 0 ? jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(job, JOB_PARENT)) : NULL;

	jobq_slot_free(row);
	if (original == NULL || jobq_attr_int64(original, JOB_FLOW) == clone_of ||
		jobq_attr_int64(original, JOB_FORMER_FLOW) == clone_of)
		return original;
	jobq_slot_free(original);
	return NULL;
}

/*
 * Is what a member has done undone, or about to be?  So it is with its flow, or, if
 * it was taken over itself, with that which it was taken over from.  What cannot be
 * undone stays.
 */
static bool
is_undone(JobqCall *call, TupleTableSlot *job, Snapshot snapshot)
{
	Inside		inside = {call};
	TupleTableSlot *original;

	/* copies of copies can be very many */
	check_stack_depth();
	(void) look_inside(job, &inside);
	if (jobq_is_flow(job))
		jobq_visit_inside(call, jobq_attr_int64(job, JOB_ID), snapshot, look_inside, &inside);
	if (inside.undone || (inside.has_undo && jobq_undone_by(call, jobq_attr_int64(job, JOB_FLOW)) != 0))
		return true;
	original = jobq_find_original(call, job);
	if (original == NULL)
		return false;
	inside.undone = is_undone(call, original, snapshot);
	jobq_slot_free(original);
	return inside.undone;
}

/* Give a column of a member's row the value that another has. */
static void
take_over_column(JobqSubmission *s, TupleTableSlot *job, int column)
{
	Form_pg_attribute attribute = TupleDescAttr(job->tts_tupleDescriptor, column - 1);
	bool		isnull;
	Datum		value = slot_getattr(job, column, &isnull);

	/* not a pointer to a toasted value, which can go with the other flow */
	if (!isnull && attribute->attlen == -1)
		value = PointerGetDatum(PG_DETOAST_DATUM_COPY(value));
	else if (!isnull)
		value = datumCopy(value, attribute->attbyval, attribute->attlen);
	if (!isnull)
		jobq_set(&s->row, column, value);
}

/*
 * A job outside that a reused member depends on can have been removed since, or may not be
 * seen by the caller: then its edge is of no use.
 */
static void
drop_gone(JobqCall *call, JobqSubmission *s)
{
	int			kept = 0;

	for (int i = 0; i < s->nupstream; i++)
	{
		if (jobq_may_see(call, s->upstream[i], false))
			s->upstream[kept++] = s->upstream[i];
	}
	if (DatumGetInt16(s->row.values[JOB_RULE - 1]) == RULE_QUORUM)
		jobq_set(&s->row, JOB_QUORUM,
				 Int32GetDatum(Min(DatumGetInt32(s->row.values[JOB_QUORUM - 1]), kept + s->nnames)));
	s->nupstream = kept;
}

/* Have a member take over what became of another, which has succeeded or was skipped. */
static void
take_over(JobqCall *call, JobqSubmission *s, TupleTableSlot *job)
{
	bool		skipped = jobq_attr_int16(job, JOB_OUTCOME) == OUTCOME_SKIPPED;
	bool		decided = !slot_attisnull(job, JOB_DECIDED_BY);

	/* by its rule again, as what it depends on is the same */
	if (skipped && !decided && jobq_attr_int32(job, JOB_DEPENDENCIES) > 0)
		return;
	s->succeeded = !skipped;
	s->skipped = skipped;
	s->unique_key = NULL;		/* which it does not take */
	if (skipped && !decided)
		s->nnames = s->nupstream = 0;	/* it was left out */
	drop_gone(call, s);
	take_over_column(s, job, JOB_RESULT);
	take_over_column(s, job, JOB_DECIDED_BY);
	jobq_set(&s->row, JOB_PARENT, Int64GetDatum(jobq_attr_int64(job, JOB_ID)));
}

/*
 * Of the members of a flow that is expanded, have those reused that need not run.  The other flow can
 * run again meanwhile, so all of its members are read under one snapshot.
 */
void
jobq_reuse_members(JobqCall *call, Jsonb *definition, int64 clone_of, Datum clone_from, JobqElements *members)
{
	JobqFlowGraph *graph = graph_of(definition);
	bool	   *runs = palloc0(Max(members->n, 1) * sizeof(bool));
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	TupleTableSlot *job;
	Datum	   *names;
	bool	   *nulls;
	int			n;

	deconstruct_array(DatumGetArrayTypeP(clone_from), TEXTOID, -1, false, TYPALIGN_INT, &names, &nulls, &n);
	for (int i = 0; i < n; i++)
	{
		char	   *name = TextDatumGetCString(names[i]);

		runs[jobq_graph_find(graph, name, strlen(name))] = true;
	}
	for (int i = 0; i < members->n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (runs[i])
			continue;
		job = find_reusable(call, clone_of, members->elements[i].s.name, snapshot);
		runs[i] = job == NULL || is_undone(call, job, snapshot);
		jobq_slot_free(job);
	}
	jobq_graph_mark_below(graph, runs);
	for (int i = 0; i < members->n; i++)
	{
		job = runs[i] ? NULL : find_reusable(call, clone_of, members->elements[i].s.name, snapshot);
		if (job != NULL)
			take_over(call, &members->elements[i].s, job);
		jobq_slot_free(job);
	}
	UnregisterSnapshot(snapshot);
	pfree(runs);
}

/* Is a flow a copy, or in one? */
bool
jobq_is_in_copy(JobqCall *call, int64 flow)
{
	bool		copy = false;

	for (; flow != 0 && !copy; flow = jobq_flow_of(call, flow))
	{
		TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);

		copy = row != NULL && !slot_attisnull(row, FLOW_CLONE_OF);
		jobq_slot_free(row);
	}
	return copy;
}

/* Copies */

/*
 * The caller gets to know what a flow has in it: so it must be the role that submitted
 * it, or be allowed to read the queues of all members, and of those in them.
 */
static void
require_sight(JobqCall *call, Oid submitter, Jsonb *definition)
{
	JobqElements members;

	check_stack_depth();
	jobq_read_members(definition, &members);
	for (int i = 0; i < members.n; i++)
	{
		const JobqSubmission *s = &members.elements[i].s;

		if (!jobq_visible(call, s->queue_id, submitter, InvalidOid))
			jobq_require_privilege(call, s->queue_id, PRIV_READ, s->queue);
		if (s->flow != NULL)
			require_sight(call, submitter, s->flow->definition);
	}
}

/* Refuse names that no member has: all of them are said. */
static void
check_names(int64 id, Jsonb *definition, int n, const Datum *names)
{
	JobqFlowGraph *graph = graph_of(definition);
	StringInfoData unknown;
	int			count = 0;

	initStringInfo(&unknown);
	for (int i = 0; i < n; i++)
	{
		char	   *name = TextDatumGetCString(names[i]);

		if (jobq_graph_find(graph, name, strlen(name)) < 0)
			appendStringInfo(&unknown, "%s\"%s\"", count++ > 0 ? ", " : "", name);
	}
	if (count > 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg_plural("flow %lld has no member %s", "flow %lld has no members %s", count, (long long) id, unknown.data),
				 errhint("\"from_members\" names members in the document of the flow, not those that were added or are in flows in it.")));
}

/* What a flow that waits depends on: the same for its copy. */
static void
copy_dependencies(JobqCall *call, TupleTableSlot *job, JobqSubmission *s)
{
	Datum		key = Int64GetDatum(jobq_attr_int64(job, JOB_ID));
	int			n = jobq_attr_int32(job, JOB_DEPENDENCIES);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *edge;

	s->upstream = palloc(Max(n, 1) * sizeof(int64));
	while (s->nupstream < n && (edge = jobq_scan_next(scan)) != NULL)
	{
		if (jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY)
			s->upstream[s->nupstream++] = jobq_attr_int64(edge, DEP_UPSTREAM);
	}
	jobq_scan_end(scan);
	jobq_set(&s->row, JOB_RULE, Int16GetDatum(jobq_attr_int16(job, JOB_RULE)));
	/* those that were removed have succeeded */
	jobq_set(&s->row, JOB_QUORUM, Int32GetDatum(jobq_attr_int16(job, JOB_RULE) == RULE_QUORUM ?
												jobq_attr_int32(job, JOB_QUORUM) - (n - s->nupstream) :
												jobq_attr_int32(job, JOB_QUORUM)));
}

/* A copy of what was asked of a flow, given its rows. */
static void
copy_flow(JobqCall *call, TupleTableSlot *job, JobqTable table, TupleTableSlot *state, TupleTableSlot *row, JobqSubmission *s)
{
	JobqFlowSpec *spec = palloc0(sizeof(JobqFlowSpec));
	JobqRow		old;
	bool		isnull;

	jobq_submission_init(s);
	jobq_values(job, &old);
	for (int i = 0; i < lengthof(asked); i++)
	{
		if (old.given[asked[i] - 1])
			jobq_set(&s->row, asked[i], old.values[asked[i] - 1]);
	}
	for (int i = 0; i < 2; i++)
	{
		if (s->row.given[asked[i] - 1] && DatumGetTimestampTz(s->row.values[asked[i] - 1]) <= call->now)
			jobq_unset(&s->row, asked[i]);
	}
	jobq_set(&s->row, JOB_PARENT, Int64GetDatum(jobq_attr_int64(job, JOB_ID)));
	jobq_set(&s->row, JOB_QUORUM, Int32GetDatum(0));
	jobq_set(&s->row, SUBMISSION_ON_CONFLICT, Int16GetDatum(CONFLICT_KEEP));
	s->queue = jobq_attr_cstring(job, JOB_QUEUE);
	s->queue_id = jobq_queue_id(s->queue);
	s->name = jobq_attr_cstring(job, JOB_NAME);
	s->unique_key = jobq_attr_cstring(job, JOB_UNIQUE_KEY);
	if (table == JOBQ_WAITING && jobq_attr_bool(state, WAITING_OPEN))
		copy_dependencies(call, job, s);
	spec->definition = DatumGetJsonbPCopy(slot_getattr(row, FLOW_DEFINITION, &isnull));
	spec->on_failure = jobq_attr_int16(row, FLOW_ON_FAILURE);
	spec->max_running = jobq_attr_int32(row, FLOW_MAX_RUNNING);
	spec->permits = -1;			/* which are used up */
	spec->clone_of = jobq_attr_int64(job, JOB_ID);
	s->flow = spec;
}

/*
 * Is the row in job of a flow still the one that was found?  One that has not started
 * can have been replaced since.
 */
static bool
is_unchanged(JobqCall *call, TupleTableSlot *job)
{
	TupleTableSlot *now = jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(job, JOB_ID));
	bool		same = now != NULL && ItemPointerEquals(&now->tts_tid, &job->tts_tid);

	jobq_slot_free(now);
	return same;
}

/* Find a flow that can be copied, and its state; decided: it is to be, and stays so. */
static void
find_job(JobqCall *call, int64 id, bool decided, TupleTableSlot **job, JobqTable *table, TupleTableSlot **state)
{
	int			outcome;

	jobq_require_visible(call, id);
	for (;;)
	{
		outcome = jobq_look(call, id, job, table, state, NULL);
		if (!jobq_is_flow(*job))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("job %lld is no flow", (long long) id),
					 errhint("A job is submitted anew by job_submit.")));
		if (!slot_attisnull(*job, JOB_FLOW) || !slot_attisnull(*job, JOB_FORMER_FLOW) || !slot_attisnull(*job, JOB_UNDO_OF))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("cannot clone flow %lld, which %s", (long long) id,
							slot_attisnull(*job, JOB_UNDO_OF) ? "is, or was, a member of another" : "undoes another"),
					 errhint(slot_attisnull(*job, JOB_UNDO_OF) ? "Clone the flow around it, from this member on." :
							 "Clone the one that was undone.")));
		if (!decided)
			return;
		if (outcome == 0)
			jobq_refuse_state(NULL, id, "clone", jobq_state_name(*table),
							  "With \"from_members\" a flow is cloned once it has ended, as its results are taken over.");
		if (jobq_lock(call, JOBQ_JOB, *job, LockTupleShare, LockWaitBlock))
			return;
		jobq_slot_free(*state);
		jobq_slot_free(*job);
	}
}

/*
 * The same with its row in job_flow, all being of one moment: a submission that
 * replaces it writes both rows.
 */
static void
find_flow(JobqCall *call, int64 id, bool decided, TupleTableSlot **job, JobqTable *table, TupleTableSlot **state, TupleTableSlot **row)
{
	for (;;)
	{
		find_job(call, id, decided, job, table, state);
		*row = jobq_find_id(call, JOBQ_FLOW, id);
		if (is_unchanged(call, *job))
			break;
		jobq_slot_free(*row);
		jobq_slot_free(*state);
		jobq_slot_free(*job);
	}
	if (*row == NULL)
		elog(ERROR, "flow %lld has no row", (long long) id);
}

PG_FUNCTION_INFO_V1(jobq_job_clone);

/* job_clone(flow, from_members, args) */
Datum
jobq_job_clone(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "flow");
	bool		reuse = !PG_ARGISNULL(1);
	Datum	   *names;
	bool	   *nulls;
	int			n = reuse ? jobq_check_array(fcinfo, 1, "from_members", TEXTOID, false, &names, &nulls) : 0;
	JobqCall	call;
	TupleTableSlot *job;
	TupleTableSlot *state;
	TupleTableSlot *row;
	JobqTable	table;
	JobqSubmission s;

	jobq_enter(&call, "job_clone()", true);
	find_flow(&call, id, reuse, &job, &table, &state, &row);
	copy_flow(&call, job, table, state, row, &s);
	if (!PG_ARGISNULL(2))
		jobq_set(&s.row, JOB_ARGS, JsonbPGetDatum(PG_GETARG_JSONB_P(2)));
	jobq_check_payload(&s.row);
	if (reuse)
	{
		check_names(id, s.flow->definition, n, names);
		unconstify(JobqFlowSpec *, s.flow)->clone_from = PointerGetDatum(PG_GETARG_ARRAYTYPE_P(1));
	}
	require_sight(&call, jobq_attr_oid(job, JOB_SUBMITTED_BY), s.flow->definition);
	jobq_submit_read_flow(&call, &s);
	if (s.dropped)
	{
		/* another job has its key */
		s.dropped = false;
		s.id = 0;
		s.unique_key = NULL;
		jobq_unset(&s.row, JOB_UNIQUE_KEY);
		jobq_unset(&s.row, JOB_UNIQUE_FOR);
		jobq_submit_read_flow(&call, &s);
	}
	jobq_slot_free(row);
	jobq_slot_free(state);
	jobq_slot_free(job);
	jobq_close_call(&call);
	PG_RETURN_INT64(s.id);
}
