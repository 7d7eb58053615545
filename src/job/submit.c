/*
 * submit.c
 *	  Submitting jobs.
 *
 * A submission locks the rows of its upstream jobs FOR SHARE before it reads
 * their outcomes and inserts anything (D2 in cascade.c).  Those that are decided are
 * locked too, since job_retry could open them again.  It waits for none of them: one that
 * somebody is just changing counts as undecided, and a recount is asked for,
 * before which the job is not decided.
 *
 * The job goes straight to where it belongs: job_ready, job_scheduled or
 * job_waiting, or nowhere if its upstream jobs have decided it already.  One that is
 * ready at once has its id for a position.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "miscadmin.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/* A parent outside this call */
typedef struct Parent
{
	int64		id;				/* hash key */
	int			outcome;		/* 0: undecided */
	bool		unsure;			/* somebody was just changing it */
	const JobqRow *row;			/* that this call has inserted; NULL: it is
								 * older */
} Parent;

/* Order of ids. */
int
jobq_compare_ids(const void *a, const void *b)
{
	int64		ida = *(const int64 *) a;
	int64		idb = *(const int64 *) b;

	return ida < idb ? -1 : ida > idb ? 1 : 0;
}

/* A table of parents that are resolved once per call. */
HTAB *
jobq_upstream_create(void)
{
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(Parent),
	.hcxt = CurrentMemoryContext};

	return hash_create("jobq parents", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
}

/* A job that an argument names does not exist, or may not be seen. */
static void
error_argument(int64 id, const char *what)
{
	ereport(ERROR,
			(errcode(ERRCODE_JOBQ_NO_SUCH_JOB),
			 errmsg("job %lld in \"%s\" does not exist", (long long) id, what),
			 errhint(JOBQ_HINT_NO_SUCH_JOB)));
}

/* Was a job, which is known to have been there, removed since? */
static bool
was_removed(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);

	jobq_slot_free(job);
	return job == NULL;
}

/*
 * May the caller have a job wait for another?  Who may see a flow may wait for the one that
 * undoes it, whoever submitted that: else it would keep from undoing the flow around it.
 */
static bool
may_wait_for(JobqCall *call, int64 id)
{
	TupleTableSlot *job;
	bool		may;

	if (jobq_may_see(call, id, false))
		return true;
	job = jobq_find_id(call, JOBQ_JOB, id);
	may = job != NULL && jobq_is_flow(job) && !slot_attisnull(job, JOB_UNDO_OF) &&
		jobq_may_see(call, jobq_attr_int64(job, JOB_UNDO_OF), false);
	jobq_slot_free(job);
	return may;
}

/*
 * Lock and read an upstream job, without waiting.  The caller must be allowed to see
 * it, since its result goes to the worker of the new job, or what it undoes.  known:
 * it was there once, so that it can have been removed.
 */
void
jobq_resolve_upstream(JobqCall *call, HTAB *parents, int64 id, bool known)
{
	bool		found;
	Parent	   *p = hash_search(parents, &id, HASH_ENTER, &found);

	if (found)
		return;
	p->unsure = false;
	p->row = NULL;
	if (may_wait_for(call, id))
		p->outcome = jobq_upstream_outcome(call, id, NULL, 0, true, &p->unsure);
	else if (known && was_removed(call, id))
		p->outcome = OUTCOME_REMOVED;
	else
		error_argument(id, "depends_on");
	if (p->outcome == OUTCOME_REMOVED && !known)
		error_argument(id, "depends_on");
}

/* What a parent counts as on an edge with a condition. */
static int
parent_counts_as(JobqCall *call, Parent *p, const char *condition)
{
	TupleTableSlot *job;
	int			outcome = p->outcome;

	if (outcome == OUTCOME_REMOVED)
		return OUTCOME_SUCCEEDED;
	if (outcome != OUTCOME_SUCCEEDED || condition == NULL)
		return outcome;
	if (p->row != NULL)
		return jobq_counts_as(outcome, p->row->given[JOB_RESULT - 1] ? &p->row->values[JOB_RESULT - 1] : NULL, condition);
	job = jobq_find_id(call, JOBQ_JOB, p->id);	/* it is locked */
	outcome = jobq_row_counts_as(job, condition);
	jobq_slot_free(job);
	return outcome;
}

/* Insert the row in job, of which the options are there. */
static void
insert_job(JobqCall *call, JobqSubmission *s, int outcome)
{
	ItemPointerData tid;

	jobq_set(&s->row, JOB_ID, Int64GetDatum(s->id));
	jobq_set(&s->row, JOB_SUBMITTED_AT, TimestampTzGetDatum(call->now));
	jobq_set(&s->row, JOB_SUBMITTED_BY, ObjectIdGetDatum(GetUserId()));
	jobq_set(&s->row, JOB_DEPENDENCIES, Int32GetDatum(s->nupstream));
	jobq_set(&s->row, JOB_GENERATION, Int32GetDatum(0));
	if (outcome != 0)
	{
		jobq_set(&s->row, JOB_OUTCOME, Int16GetDatum(outcome));
		jobq_set(&s->row, JOB_FINISHED_AT, TimestampTzGetDatum(call->now));
		jobq_set(&s->row, JOB_ATTEMPT_NO, Int32GetDatum(0));
		jobq_set(&s->row, JOB_FAILED, Int32GetDatum(0));
		jobq_set(&s->row, JOB_LOST, Int32GetDatum(0));
	}
	tid = jobq_insert(call, JOBQ_JOB, &s->row);
	if (outcome != 0)
		jobq_note_removal(call, s->queue_id, outcome, &tid, call->now);
}

/*
 * See that the worker looks at a job when it expires.  A row from before the
 * job was opened again is replaced: the worker may be about to remove that one.
 */
void
jobq_note_expiry(JobqCall *call, int64 id, TimestampTz expires_at)
{
	JobqRow		new = {0};
	TupleTableSlot *noted;

	jobq_set(&new, EXPIRY_EXPIRES_AT, TimestampTzGetDatum(expires_at));
	jobq_set(&new, EXPIRY_JOB_ID, Int64GetDatum(id));
	noted = jobq_find(call, JOBQ_EXPIRY, INDEX_KEY, 2, new.values, NULL);
	if (noted != NULL)
		(void) jobq_delete(call, JOBQ_EXPIRY, noted, LockWaitBlock);
	jobq_slot_free(noted);
	jobq_insert(call, JOBQ_EXPIRY, &new);
	jobq_announce_deadline(DEADLINE_EXPIRY, expires_at);
}

/* Have a job start after another has ended, if that is undecided; false: it has begun, or is not there. */
static bool
start_after(JobqCall *call, JobqSubmission *s, int64 id)
{
	TupleTableSlot *job;
	TupleTableSlot *row;
	bool		undecided;
	bool		fresh;

	(void) jobq_find_state(call, id, &job, &row);
	undecided = row != NULL;
	fresh = undecided ? jobq_attr_int32(row, STATE_ATTEMPT) == 0 :
		job != NULL && jobq_attr_int32(job, JOB_ATTEMPT_NO) == 0;
	jobq_slot_free(row);
	jobq_slot_free(job);
	for (int i = 0; i < s->nafter; i++)
		undecided &= s->after[i] != id;
	if (undecided)
		s->after[s->nafter++] = id;
	return fresh;
}

/*
 * Have a job start after another has ended.  If that one never began, it can be
 * cancelled, or is, while what it was to start after itself goes on: so also after
 * that; of many such jobs, after the first that goes on, and the last ones, so that
 * neither all nor some in a row that are cancelled let it overtake.
 */
void
jobq_start_after(JobqCall *call, JobqSubmission *s, int64 id)
{
	int64		after[2 * JOBQ_AFTER_ONE];
	int			upto = s->nafter + JOBQ_AFTER_ONE;
	int			first = 0;
	int			before;
	int			n;

	if (!start_after(call, s, id))
		return;
	n = jobq_read_after(call, id, after, lengthof(after));
	qsort(after, n, sizeof(int64), jobq_compare_ids);
	for (before = s->nafter; first < n && s->nafter == before; first++)
		(void) start_after(call, s, after[first]);
	while (n > first && s->nafter < upto)
		(void) start_after(call, s, after[--n]);
}

/* Does a job depend on another? */
static bool
depends_on(const JobqSubmission *s, int64 id)
{
	for (int i = 0; i < s->nupstream; i++)
	{
		if (s->upstream[i] == id)
			return true;
	}
	return false;
}

/*
 * Which of the jobs that this one is to start after have not ended?  Edges will
 * name these, beside those of the rule.
 */
static void
resolve_after(JobqCall *call, JobqSubmission *s, JobqCounters *counters, bool *unsure)
{
	int			n = 0;

	if (s->superseded != 0 && depends_on(s, s->superseded))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job %lld in \"depends_on\" has the unique key \"%s\" and would be cancelled",
						(long long) s->superseded, s->unique_key)));
	for (int i = 0; i < s->nafter; i++)
	{
		if (jobq_upstream_outcome(call, s->after[i], NULL, OUTCOME_ANY, true, unsure) != 0)
			continue;

		/*
		 * there is one edge between two jobs, and that of the rule need not
		 * wait
		 */
		if (depends_on(s, s->after[i]))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("job %lld in \"depends_on\" must have ended before this one can start", (long long) s->after[i]),
					 errhint("Leave it out: it had the unique key before, or is of the same schedule, so this job starts after it in any case.")));
		s->after[n++] = s->after[i];
		jobq_count_undecided(counters, REQUIRE_END_ONLY);
	}
	s->nafter = n;
}

/* An upstream job that was removed gets no edge: it is one of those that a job has had. */
static void
drop_removed(JobqSubmission *s, HTAB *parents)
{
	int			kept = 0;

	for (int i = 0; i < s->nupstream; i++)
	{
		const Parent *p = hash_search(parents, &s->upstream[i], HASH_FIND, NULL);

		if (p->outcome != OUTCOME_REMOVED)
			s->upstream[kept++] = s->upstream[i];
	}
	s->nupstream = kept;
}

/* Count a job that is submitted, and perhaps decided at once, for the flow that it is a member of. */
static void
count_for_flow(JobqCall *call, JobqSubmission *s, int outcome)
{
	JobqCounters joins = {0};
	JobqCounters *c = s->joined ? s->joined : &joins;
	bool		critical = !s->row.given[JOB_CRITICAL - 1];

	if (!s->row.given[JOB_FLOW - 1])
		return;
	jobq_count_member(c, critical, 0, 1);
	if (outcome != 0)
		jobq_count_member(c, critical, outcome, 1);
	if (s->joined == NULL)
		jobq_leave_delta(call, DatumGetInt64(s->row.values[JOB_FLOW - 1]), 0, c);
}

/*
 * Insert a job whose parents are all in the table of parents.  s->upstream is
 * sorted.  The job itself is added to the table, as a parent for others; without
 * a table it has none and is none.
 */
int64
jobq_submit(JobqCall *call, JobqSubmission *s, HTAB *parents)
{
	static const JobqRuleInfo end_only = {.require = REQUIRE_END_ONLY};
	JobqRule	rule;
	const JobqRuleInfo *info;
	int			quorum;
	JobqCounters counters = {0};
	JobqVerdict verdict;
	JobqPrefix	prefix = {0};
	int			outcome = 0;
	bool		unsure = false;
	bool		removed = false;
	bool		hold = s->row.given[SUBMISSION_HOLD - 1] &&
	DatumGetBool(s->row.values[SUBMISSION_HOLD - 1]);

	resolve_after(call, s, &counters, &unsure);
	/* without parents there is nothing to wait for, whatever the rule */
	if (s->nupstream == 0)
	{
		jobq_set(&s->row, JOB_RULE, Int16GetDatum(RULE_ALL_SUCCESS));
		jobq_set(&s->row, JOB_QUORUM, Int32GetDatum(0));
	}
	rule = DatumGetInt16(s->row.values[JOB_RULE - 1]);
	info = &jobq_rules[rule];
	quorum = DatumGetInt32(s->row.values[JOB_QUORUM - 1]);
	qsort(s->conditions, s->nconditions, sizeof(JobqCondition), jobq_compare_ids);
	for (int i = 0, k = 0; i < s->nupstream; i++)
	{
		Parent	   *p = hash_search(parents, &s->upstream[i], HASH_FIND, NULL);
		const char *condition = NULL;

		while (k < s->nconditions && s->conditions[k].upstream < s->upstream[i])
			k++;
		if (k < s->nconditions && s->conditions[k].upstream == s->upstream[i])
			condition = s->conditions[k].path;
		jobq_count_undecided(&counters, info->require);
		unsure |= p->unsure;
		removed |= p->outcome == OUTCOME_REMOVED;
		if (p->outcome != 0)
			jobq_count_edge(&counters, info->require, info->suffice, parent_counts_as(call, p, condition), 1);
	}
	verdict = jobq_verdict(rule, quorum, &counters);

	/*
	 * who is just opening one of them again has not seen the edges: the
	 * recount decides
	 */
	if (unsure && verdict != VERDICT_READY)
		verdict = VERDICT_WAIT;
	if (verdict == VERDICT_SKIPPED || verdict == VERDICT_UPSTREAM_FAILED)
		outcome = verdict;
	if (s->skipped)
		outcome = OUTCOME_SKIPPED;
	else if (s->succeeded)
		outcome = OUTCOME_SUCCEEDED;

	if (s->id == 0)
		s->id = jobq_nextval();
	if (s->nupstream > 0 && s->upstream[s->nupstream - 1] >= s->id)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("sequence \"job_id_seq\" is behind the ids of existing jobs"),
				 errhint("Set it, with setval, to the largest number that was drawn from it; docs/troubleshooting.md has the statement.")));
	insert_job(call, s, outcome);
	if (removed)
		drop_removed(s, parents);
	jobq_count(s->queue_id, COUNT_SUBMITTED, 1);
	jobq_insert_edges(call, s->id, s->nupstream, s->upstream, info, s->nconditions, s->conditions);
	jobq_insert_edges(call, s->id, s->nafter, s->after, &end_only, 0, NULL);

	prefix.job_id = s->id;
	prefix.queue_id = s->queue_id;
	prefix.lane = s->flow != NULL ? JOBQ_FLOW_LANE : s->row.given[JOB_REQUIRES - 1] ? jobq_lane_of(s->queue, s->row.values[JOB_REQUIRES - 1]) : s->queue_id;
	prefix.partition_id = s->partition_id;
	prefix.affinity_id = s->affinity_id;
	prefix.flow_id = s->row.given[JOB_FLOW - 1] ? DatumGetInt64(s->row.values[JOB_FLOW - 1]) : 0;
	prefix.run_at = DatumGetTimestampTz(s->row.values[JOB_RUN_AT - 1]);
	prefix.expires_at = DatumGetTimestampTz(s->row.values[JOB_EXPIRES_AT - 1]);
	prefix.priority = DatumGetInt16(s->row.values[JOB_PRIORITY - 1]);
	prefix.manual = DatumGetBool(s->row.values[JOB_MANUAL - 1]);
	if (s->flow != NULL)
		jobq_insert_flow(call, s, &prefix);
	count_for_flow(call, s, outcome);
	if (outcome != 0)
	{
		jobq_notify_decided(s->id, s->queue_id, DatumGetBool(s->row.values[JOB_NOTIFY - 1]), outcome);
		if (s->unique_key != NULL)
		{
			jobq_advance();		/* this call took it */
			jobq_free_key(call, s->id, s->queue_id, s->row.values[JOB_UNIQUE_KEY - 1],
						  s->row.given[JOB_UNIQUE_FOR - 1] ?
						  call->now + DatumGetInt64(s->row.values[JOB_UNIQUE_FOR - 1]) : 0, s->nafter, s->after);
		}
	}
	else
	{
		if (prefix.expires_at != 0)
			jobq_note_expiry(call, s->id, prefix.expires_at);
		s->started = s->starts && verdict == VERDICT_READY && !hold && prefix.run_at <= call->now;
		if (s->started)
			;
		else if (verdict == VERDICT_READY && !hold)
			jobq_enter_next(call, &prefix, s->id);
		else
			jobq_enter_waiting(call, &prefix, verdict == VERDICT_READY ? NULL : &counters,
							   rule, quorum, s->id, hold);
		if (unsure && verdict == VERDICT_WAIT)
			jobq_ask_recount(call, s->id);
	}

	if (parents != NULL)
	{
		Parent	   *self = hash_search(parents, &s->id, HASH_ENTER, NULL);

		self->outcome = outcome;
		self->unsure = false;
		self->row = &s->row;
	}
	return s->id;
}

/* Checks that need to read: rights on the queue, the job it is submitted for. */
void
jobq_admit(JobqCall *call, const JobqSubmission *s)
{
	jobq_require_privilege(call, s->queue_id, PRIV_SUBMIT, s->queue);
	jobq_queue_register(call, s->queue, s->queue_id);
	jobq_lane_register(call, s->queue, s->queue_id, s->row.given[JOB_REQUIRES - 1] ? s->row.values[JOB_REQUIRES - 1] : 0);
	if (s->row.given[JOB_FLOW - 1] && s->joined == NULL)
		jobq_join_flow(call, s);
	if (s->row.given[JOB_UNDO - 1] && !s->row.given[JOB_FLOW - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"undo\" goes with \"flow\" only"),
				 errhint("Flows are undone as a whole, by job_undo.")));
	jobq_check_scope(call, s);
	if (s->row.given[JOB_PARENT - 1] &&
		!jobq_may_see(call, DatumGetInt64(s->row.values[JOB_PARENT - 1]), false))
		error_argument(DatumGetInt64(s->row.values[JOB_PARENT - 1]), "parent");
}

/*
 * Submit one job whose options were checked.  Its id is s->id or, if s->dropped,
 * that is the job that has its unique key.
 */
void
jobq_submit_alone(JobqCall *call, JobqSubmission *s)
{
	HTAB	   *parents = NULL;

	jobq_admit(call, s);
	jobq_check_joined(call, s);
	if (s->unique_key != NULL)
		(void) jobq_resolve_key(call, s);
	if (s->dropped)
		return;
	if (s->nupstream > 0)
		parents = jobq_upstream_create();
	for (int i = 0; i < s->nupstream; i++)
		jobq_resolve_upstream(call, parents, s->upstream[i], false);
	jobq_settle_id(call, s);
	jobq_submit(call, s, parents);
}

PG_FUNCTION_INFO_V1(jobq_job_submit);

/* job_submit(kind, ...): the arguments are those of the table in options.c */
Datum
jobq_job_submit(PG_FUNCTION_ARGS)
{
	JobqSubmission s;
	JobqCall	call;

	jobq_read_arguments(fcinfo, &s);
	jobq_check_submission(&s);

	jobq_enter(&call, "job_submit()", true);
	jobq_submit_alone(&call, &s);
	jobq_close_call(&call);
	if (s.dropped && DatumGetInt16(s.row.values[SUBMISSION_ON_CONFLICT - 1]) == CONFLICT_SKIP)
		PG_RETURN_NULL();
	PG_RETURN_INT64(s.id);
}
