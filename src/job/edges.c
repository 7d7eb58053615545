/*
 * edges.c
 *	  Edges: what a job depends on, and how far that is.
 *
 * An edge is written when the downstream job is submitted and never changes.
 * What becomes of its upstream job is read from that job's row, locked where it
 * could still change (D2 in cascade.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/snapmgr.h"

#include "job/job.h"

/*
 * Insert the edges of a job.  upstream is sorted, and so are the conditions, each of
 * which is on one of these.
 */
void
jobq_insert_edges(JobqCall *call, int64 downstream, int n, const int64 *upstream, const JobqRuleInfo *rule,
				  int nconditions, const JobqCondition *conditions)
{
	for (int i = 0, k = 0; i < n; i++)
	{
		JobqRow		new = {0};

		while (k < nconditions && conditions[k].upstream < upstream[i])
			k++;
		if (k < nconditions && conditions[k].upstream == upstream[i])
			jobq_set_text(&new, DEP_CONDITION, conditions[k].path);
		jobq_set(&new, DEP_UPSTREAM, Int64GetDatum(upstream[i]));
		jobq_set(&new, DEP_DOWNSTREAM, Int64GetDatum(downstream));
		jobq_set(&new, DEP_REQUIRE, Int16GetDatum(rule->require));
		jobq_set(&new, DEP_SUFFICE, Int16GetDatum(rule->suffice));
		jobq_insert(call, JOBQ_DEPENDENCY, &new);
	}
}

/* What a job was to start after, up to max of them; returns how many. */
int
jobq_read_after(JobqCall *call, int64 id, int64 *after, int max)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *edge;
	int			n = 0;

	while (n < max && (edge = jobq_scan_next(scan)) != NULL)
	{
		if (jobq_attr_int16(edge, DEP_REQUIRE) == REQUIRE_END_ONLY)
			after[n++] = jobq_attr_int64(edge, DEP_UPSTREAM);
	}
	jobq_scan_end(scan);
	return n;
}

/* The counters that stand in a row of job_waiting or job_delta, from a column on. */
void
jobq_read_counters(TupleTableSlot *row, int first, JobqCounters *c)
{
	for (int i = 0; i < NCOUNTERS; i++)
		c->n[i] = jobq_attr_int32(row, first + i);
}

/* Put counters there. */
void
jobq_set_counters(JobqRow *new, int first, const JobqCounters *c)
{
	for (int i = 0; i < NCOUNTERS; i++)
		jobq_set(new, first + i, Int32GetDatum(c->n[i]));
}

/*
 * What the outcome of an upstream job counts as where the edge has a condition (NULL: it has
 * none): one that has succeeded was skipped, unless the condition holds of its result (NULL:
 * it has none, which is null).
 */
int
jobq_counts_as(int outcome, const Datum *result, const char *condition)
{
	Datum		value;
	Jsonb	   *json;
	bool		holds;

	if (outcome != OUTCOME_SUCCEEDED || condition == NULL)
		return outcome;
	value = result != NULL ? *result : DirectFunctionCall1(jsonb_in, CStringGetDatum("null"));
	json = DatumGetJsonbP(value);
	holds = jobq_path_holds(json, condition);
	/* many edges can have conditions on one large result */
	if ((Pointer) json != DatumGetPointer(value))
		pfree(json);
	return holds ? outcome : OUTCOME_SKIPPED;
}

/* The same for the outcome that a row in job has. */
int
jobq_row_counts_as(TupleTableSlot *job, const char *condition)
{
	int			outcome = jobq_attr_int16(job, JOB_OUTCOME);
	bool		isnull;
	Datum		result;

	if (outcome != OUTCOME_SUCCEEDED || condition == NULL)
		return outcome;
	result = slot_getattr(job, JOB_RESULT, &isnull);
	return jobq_counts_as(outcome, isnull ? NULL : &result, condition);
}

/*
 * The outcome of an upstream job, 0 if it is undecided, as an edge with this condition
 * (NULL: none) counts it.  Its row is locked FOR
 * SHARE to the end of the transaction unless its outcome is one of settled.  If
 * somebody is just changing the row, it is taken for undecided and *unsure is
 * set, without waiting: its edges are to be counted anew later.
 *
 * keep: an edge to it is to be written, so it must not be removed before that is
 * seen.  Then its row is locked in any case, FOR KEY SHARE at least, which waits for
 * a removal and for nothing else.
 */
int
jobq_upstream_outcome(JobqCall *call, int64 id, const char *condition, int settled, bool keep, bool *unsure)
{
	for (int tries = 1;; tries++)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
		int			outcome;
		bool		done;

		if (job == NULL)
			return OUTCOME_REMOVED;
		outcome = jobq_attr_int16(job, JOB_OUTCOME);
		if ((outcome & settled) != 0)
			/* removed, one that did not succeed would count as if it had */
			done = (!keep && settled == OUTCOME_SUCCEEDED) ||
				jobq_lock(call, JOBQ_JOB, job, LockTupleKeyShare, keep ? LockWaitBlock : LockWaitSkip);
		else
			done = jobq_lock(call, JOBQ_JOB, job, LockTupleShare, LockWaitSkip);

		/* the second time it was not just changed before we looked */
		if (!done && tries > 1 &&
			(!keep || jobq_lock(call, JOBQ_JOB, job, LockTupleKeyShare, LockWaitBlock)))
		{
			*unsure = true;
			outcome = 0;
			done = true;
		}
		if (done && outcome != 0)
			outcome = jobq_row_counts_as(job, condition);
		jobq_slot_free(job);
		if (done)
			return outcome;
	}
}

/*
 * Count a job's edges, given how to find the outcome of an upstream job, for one
 * that has no row in job_waiting.
 */
void
jobq_count_edges_by(JobqCall *call, int64 id, JobqOutcomeOf outcome_of, void *arg, JobqCounters *c)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_SECOND, 1, &key, NULL);
	TupleTableSlot *edge;
	TupleTableSlot *job;
	int			found = 0;

	memset(c, 0, sizeof(JobqCounters));
	while ((edge = jobq_scan_next(scan)) != NULL)
	{
		int16		require = jobq_attr_int16(edge, DEP_REQUIRE);
		int			outcome;

		found += require != REQUIRE_END_ONLY;
		jobq_count_undecided(c, require);
		outcome = outcome_of(call, jobq_attr_int64(edge, DEP_UPSTREAM), jobq_attr_cstring(edge, DEP_CONDITION), arg);
		if (outcome == OUTCOME_REMOVED)
			outcome = OUTCOME_SUCCEEDED;
		if (outcome != 0)
			jobq_count_edge(c, require, jobq_attr_int16(edge, DEP_SUFFICE), outcome, 1);
	}
	jobq_scan_end(scan);

	/* dependencies that were removed, with their edges, count as succeeded */
	job = jobq_find_id(call, JOBQ_JOB, id);
	for (; job != NULL && found < jobq_attr_int32(job, JOB_DEPENDENCIES); found++)
	{
		const JobqRuleInfo *rule = &jobq_rules[jobq_attr_int16(job, JOB_RULE)];

		jobq_count_undecided(c, rule->require);
		jobq_count_edge(c, rule->require, rule->suffice, OUTCOME_SUCCEEDED, 1);
	}
	jobq_slot_free(job);
}

/* How upstream jobs are looked at */
typedef struct Look
{
	int			settled;		/* outcomes that need no lock */
	bool		unsure;			/* one was just being changed */
} Look;

/* Lock and read one: a JobqOutcomeOf. */
static int
locked_outcome(JobqCall *call, int64 id, const char *condition, void *arg)
{
	Look	   *look = arg;

	return jobq_upstream_outcome(call, id, condition, look->settled, false, &look->unsure);
}

/*
 * The same from the rows of its upstream jobs, which are locked unless their
 * outcome is one of settled (D2): who opens one of those again has seen the edge, and
 * comes to this job after that.  Where a recount is asked for, that may not be so, since
 * the submission has met one who was just doing it, and all are locked.  False: some
 * could not be, and count as undecided.
 */
bool
jobq_count_edges(JobqCall *call, int64 id, int settled, JobqCounters *c)
{
	Look		look = {jobq_recount_asked(call, id) ? 0 : settled};

	jobq_count_edges_by(call, id, locked_outcome, &look, c);
	return !look.unsure;
}

/* The last transaction of this backend that has asked for a recount */
static TransactionId asked_by = InvalidTransactionId;

/* Have the background worker count a job's edges anew after the commit. */
void
jobq_ask_recount(JobqCall *call, int64 id)
{
	JobqRow		new = {0};
	int64		seq = jobq_nextval();

	jobq_set(&new, RECOUNT_SEQ, Int64GetDatum(seq));
	jobq_set(&new, RECOUNT_JOB_ID, Int64GetDatum(id));
	jobq_insert(call, JOBQ_RECOUNT, &new);
	asked_by = GetTopTransactionId();
	jobq_announce_deadline(DEADLINE_RECOUNT, seq);
}

/*
 * Is that asked for, by who has committed or by this transaction?  Until it is
 * done the counters may be lower than the truth, so no verdict is taken from them.
 * Mostly the table has no page, and what was so stays so until another transaction ends,
 * or this one asks, be it in another call or with a row that is held back.
 */
bool
jobq_recount_asked(JobqCall *call, int64 id)
{
	Datum		key = Int64GetDatum(id);
	uint64		ended = GetLatestSnapshot()->snapXactCompletionCount;
	TupleTableSlot *asked;
	bool		found;

	if (ended != 0 && ended == call->no_recounts && asked_by != GetTopTransactionIdIfAny())
		return false;
	if (jobq_is_empty(call, JOBQ_RECOUNT))
	{
		call->no_recounts = ended;
		return false;
	}
	asked = jobq_find(call, JOBQ_RECOUNT, INDEX_SECOND, 1, &key, NULL);
	found = asked != NULL;
	jobq_slot_free(asked);
	return found;
}

PG_FUNCTION_INFO_V1(jobq_job_counts_as);

/* job_counts_as(outcome, result, condition) */
Datum
jobq_job_counts_as(PG_FUNCTION_ARGS)
{
	Datum		result = PG_GETARG_DATUM(1);

	if (PG_ARGISNULL(0))
		PG_RETURN_NULL();
	PG_RETURN_INT16(jobq_counts_as(PG_GETARG_INT16(0), PG_ARGISNULL(1) ? NULL : &result,
								   PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2))));
}
