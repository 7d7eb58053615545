/*
 * remove.c
 *	  Removing decided jobs.
 *
 * A job goes with its edges in both directions and all that belongs to it, deleted
 * as all our rows are.  Foreign keys that reference table job act then: RESTRICT
 * makes the removal fail, which keeps the job.
 *
 * 1. Only a decided job is removed, and only while no undecided job depends on it, nor
 *	  was it to start after one.
 *	  Its row is deleted first, then its edges are looked at; if one says no, all is
 *	  rolled back.  A submission locks the rows of its upstream jobs before it
 *	  inserts edges, those of succeeded ones too (FOR KEY SHARE), and waits for
 *	  whoever is just removing one: so either its edge is seen here, or the job does
 *	  not exist for it.
 *	  Nor while it is a member of a flow that is there, nor a flow that another has still to undo.
 * 2. A job that is opened again while some that it depends on are removed counts
 *	  those as succeeded (edges.c).
 * 3. An edge that another transaction is just deleting, with the job at its other
 *	  end, is waited for by job_delete() alone; the others keep the job for then.
 *	  All delete edges in one order, so those that wait do not wait for each other.
 *
 * A crash leaves a job with all that belongs to it, or nothing.
 */
#include "postgres.h"

#include "job/job.h"

#define NEAR			8		/* jobs whose ids are this close are looked
								 * for together */

/* Where what belongs to a job is found by its id */
typedef struct Belonging
{
	JobqTable	table;
	JobqIndex	index;
	int			column;
} Belonging;

/* edges from upstream first: so all of a job are deleted by ascending upstream, then downstream ids */
static const Belonging belongings[] = {
	{JOBQ_DEPENDENCY, INDEX_SECOND, DEP_DOWNSTREAM},
	{JOBQ_DEPENDENCY, INDEX_KEY, DEP_UPSTREAM},
	{JOBQ_ATTEMPT, INDEX_KEY, ATTEMPT_JOB_ID},
	{JOBQ_LOG, INDEX_KEY, LOG_JOB_ID},
	{JOBQ_STEP, INDEX_KEY, STEP_JOB_ID},
	{JOBQ_FLOW, INDEX_KEY, STATE_JOB_ID},
};

static const Belonging *const upstream = &belongings[0];
static const Belonging *const downstream = &belongings[1];
static const Belonging *const flows = &belongings[5];

/* Jobs to be removed */
typedef struct Batch
{
	JobqCall   *call;
	LockWaitPolicy policy;
	int			n;
	JobqRemovable *jobs;		/* by ascending ids */
} Batch;

/* What is done with a row that belongs to a job; false: the job is to be reported. */
typedef bool (*RowAct) (Batch *batch, const Belonging *of, TupleTableSlot *row, JobqRemovable *job);

/*
 * Act on the rows that belong to the jobs of a batch, but for those that stay, and
 * return one of those jobs that were reported, or NULL.  A scan goes over jobs whose
 * ids are close together, since most have no such row; it begins anew where it meets
 * a row of a job that stays, which may have many.
 */
static JobqRemovable *
act_on_belongings(Batch *batch, const Belonging *of, RowAct act)
{
	JobqRemovable *jobs = batch->jobs;
	JobqRemovable *reported = NULL;
	int			i = 0;

	while (i < batch->n)
	{
		int			last = i;
		JobqScan   *scan;
		TupleTableSlot *row;

		while (last + 1 < batch->n && jobs[last + 1].id - jobs[last].id <= NEAR)
			last++;
		scan = jobq_scan_between(batch->call, of->table, of->index, jobs[i].id, jobs[last].id, NULL);
		while ((row = jobq_scan_next(scan)) != NULL)
		{
			int64		id = jobq_attr_int64(row, of->column);

			while (i <= last && (jobs[i].id < id || jobs[i].became != REMOVAL_DONE))
				i++;
			if (i > last || jobs[i].id != id)
				break;
			if (!act(batch, of, row, &jobs[i]))
				reported = &jobs[i];
		}
		if (row == NULL)
			i = last + 1;
		jobq_scan_end(scan);
	}
	return reported;
}

/* Is there such a job, and is it undecided? */
static bool
is_undecided(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	bool		undecided = job != NULL && slot_attisnull(job, JOB_OUTCOME);

	jobq_slot_free(job);
	return undecided;
}

/* A RowAct: a job stays, and is reported, if the job at the other end of an edge is undecided. */
static bool
check_need(Batch *batch, const Belonging *of, TupleTableSlot *edge, JobqRemovable *job)
{
	if (is_undecided(batch->call, jobq_attr_int64(edge, DEP_DOWNSTREAM)))
		job->became = REMOVAL_NEEDED;
	return job->became == REMOVAL_DONE;
}

/* Is a job among those that are to be removed, and stays not? */
static bool
goes(const Batch *batch, int64 id)
{
	const JobqRemovable *job = bsearch(&id, batch->jobs, batch->n, sizeof(JobqRemovable), jobq_compare_ids);

	return job != NULL && job->became == REMOVAL_DONE;
}

/*
 * May members of a flow be removed?  Not before it is, or with it: they refer to each other while it
 * is undecided, are counted when it is opened again, and are what there is to be undone.
 */
static bool
may_remove_members(const Batch *batch, int64 flow)
{
	TupleTableSlot *job = goes(batch, flow) ? NULL : jobq_find_id(batch->call, JOBQ_JOB, flow);

	jobq_slot_free(job);
	return job == NULL;
}

/*
 * A RowAct: a flow stays, and is reported, while another is to undo it and has not
 * done so; that takes what it does from here.
 */
static bool
check_undone(Batch *batch, const Belonging *of, TupleTableSlot *flow, JobqRemovable *job)
{
	TupleTableSlot *undo = slot_attisnull(flow, FLOW_UNDONE_BY) ? NULL :
	jobq_find_id(batch->call, JOBQ_JOB, jobq_attr_int64(flow, FLOW_UNDONE_BY));

	if (undo != NULL && jobq_attr_int16(undo, JOB_OUTCOME) != OUTCOME_SUCCEEDED &&
		!goes(batch, jobq_attr_int64(undo, JOB_ID)))
		job->became = REMOVAL_NEEDED;
	jobq_slot_free(undo);
	return job->became == REMOVAL_DONE;
}

/*
 * A RowAct: delete a row; if somebody is just doing that, the job is reported.  One that
 * was to start after another stays while that is undecided: where it never began, what
 * comes next of its schedule is to start after that one, too (jobq_start_after()).
 */
static bool
delete_row(Batch *batch, const Belonging *of, TupleTableSlot *row, JobqRemovable *job)
{
	if (of == upstream && jobq_attr_int16(row, DEP_REQUIRE) == REQUIRE_END_ONLY &&
		is_undecided(batch->call, jobq_attr_int64(row, DEP_UPSTREAM)))
		ereport(ERROR,
				(errcode(ERRCODE_JOBQ_WRONG_STATE),
				 errmsg("cannot delete job %lld before job %lld has ended, which it was to start after",
						(long long) job->id, (long long) jobq_attr_int64(row, DEP_UPSTREAM))));
	return jobq_delete(batch->call, of->table, row, batch->policy);
}

/* Delete what belongs to the jobs of a batch in one table. */
static void
delete_belongings(Batch *batch, const Belonging *of)
{
	JobqRemovable *busy = act_on_belongings(batch, of, delete_row);

	jobq_advance();				/* an edge between two of them is deleted once */
	if (busy == NULL)
		return;
	/* look again, without what others have deleted by now */
	busy = act_on_belongings(batch, of, delete_row);
	if (busy != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_LOCK_NOT_AVAILABLE),
				 errmsg("another transaction is removing what belongs to job %lld",
						(long long) busy->id)));
	jobq_advance();
}

/*
 * Remove the jobs of a batch, but for those that stay and those whose row is not as
 * it was read any more.  It is an error if one is needed, or refused by a foreign key.
 * With LockWaitSkip a locked job is passed over, and it is an error if somebody is just
 * removing a job at the other end of an edge.
 */
static void
remove_batch(Batch *batch)
{
	JobqCall   *call = batch->call;
	ItemPointerData *deleted = palloc(batch->n * sizeof(ItemPointerData));
	int			n = 0;
	JobqRemovable *needed;

	/* which locks them, too; flows come before their members */
	for (int i = 0; i < batch->n; i++)
	{
		JobqRemovable *job = &batch->jobs[i];

		if (job->became != REMOVAL_DONE)
			continue;
		if (job->flow != 0 && !may_remove_members(batch, job->flow))
		{
			job->became = REMOVAL_NEEDED;
			if (batch->n == 1)
				ereport(ERROR,
						(errcode(ERRCODE_JOBQ_WRONG_STATE),
						 errmsg("cannot delete job %lld, a member of flow %lld", (long long) job->id, (long long) job->flow),
						 errhint("Members are kept as long as their flow; delete that first.")));
		}
		else if (jobq_delete_at(call, JOBQ_JOB, &job->place, batch->policy))
			deleted[n++] = job->place;
		else
			job->became = REMOVAL_BUSY;
	}
	needed = act_on_belongings(batch, flows, check_undone);
	if (needed != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_JOBQ_WRONG_STATE),
				 errmsg("cannot delete flow %lld, which is not undone yet", (long long) needed->id),
				 errhint("Wait until the flow that undoes it has succeeded, or delete that.")));
	/* no edge downstream can be inserted from here on */
	needed = act_on_belongings(batch, downstream, check_need);
	if (needed != NULL)
		ereport(ERROR,
				(errcode(ERRCODE_JOBQ_WRONG_STATE),
				 errmsg("cannot delete job %lld, which an undecided job needs", (long long) needed->id),
				 errhint("Wait until what depends on it is decided, or cancel that.")));
	jobq_foreign_keys_act(call, JOBQ_JOB, n, deleted);
	pfree(deleted);
	for (int b = 0; b < lengthof(belongings); b++)
		delete_belongings(batch, &belongings[b]);
}

/* The same, as what can be rolled back alone. */
static void
remove_alone(void *arg)
{
	Batch		batch = *(Batch *) arg;
	JobqCall	call;

	jobq_open_call(&call);
	batch.call = &call;
	remove_batch(&batch);
	jobq_close_call(&call);
}

/*
 * Remove the jobs of a batch in a subtransaction: NULL or, after it was rolled back,
 * the error.  What ends the whole transaction is thrown again.
 */
static ErrorData *
try_to_remove(Batch *batch)
{
	ErrorData  *error = jobq_try(remove_alone, batch);

	if (error != NULL &&
		(error->sqlerrcode == ERRCODE_FEATURE_NOT_SUPPORTED ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INTERNAL_ERROR ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_INSUFFICIENT_RESOURCES ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_TRANSACTION_ROLLBACK ||
		 ERRCODE_TO_CATEGORY(error->sqlerrcode) == ERRCODE_OPERATOR_INTERVENTION))
		ReThrowError(error);
	return error;
}

/*
 * Lock a decided job for its removal, waiting for whoever has it locked, and say
 * where its row stands; false: it cannot be removed.
 */
static bool
lock_decided(JobqCall *call, int64 id, JobqRemovable *removable, const char **problem)
{
	int			outcome;
	bool		locked = false;

	do
	{
		TupleTableSlot *job;
		TupleTableSlot *state;
		JobqTable	table;

		outcome = jobq_look_to_act(call, id, false, &job, &table, &state, problem);
		if (outcome == 0)
			jobq_refuse_state(problem, id, "delete", jobq_state_name(table), "Cancel it first.");
		else if (outcome > 0)
		{
			removable->place = job->tts_tid;
			removable->flow = jobq_attr_int64(job, JOB_FLOW);
			locked = jobq_lock(call, JOBQ_JOB, job, LockTupleExclusive, LockWaitBlock);
		}
		jobq_slot_free(state);
		jobq_slot_free(job);
	} while (outcome > 0 && !locked);
	return locked;
}

/*
 * job_delete: a JobqAct; where others are to go on, in a subtransaction, and without
 * waiting for a transaction that removes a job at the other end of an edge, since that
 * one may come to wait for an edge of a job that was removed here before.
 */
static bool
delete_job(JobqCall *call, int64 id, void *arg, const char **problem)
{
	JobqRemovable job = {id};
	Batch		batch = {call, problem == NULL ? LockWaitBlock : LockWaitSkip, 1, &job};
	ErrorData  *error = NULL;

	if (!lock_decided(call, id, &job, problem))
		return false;
	if (problem == NULL)
		remove_batch(&batch);
	else
		error = try_to_remove(&batch);
	if (error != NULL)
		*problem = error->message;
	return error == NULL;
}

/*
 * Remove jobs n of a batch from one on, but for those that stay: all at once and, where
 * that fails, in halves, since a subtransaction for each would cost more than the jobs.
 * Where a lock was waited for in vain, those that are left stay for this time, or one
 * table that somebody has locked would be waited for as often as there are jobs.
 */
static void
remove_some(const Batch *batch, int from, int n)
{
	Batch		part = {batch->call, batch->policy, n, batch->jobs + from};
	ErrorData  *error = n > 0 ? try_to_remove(&part) : NULL;

	if (error == NULL)
		return;
	if (error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE || n == 1)
	{
		for (int i = 0; i < n; i++)
		{
			if (part.jobs[i].became == REMOVAL_DONE)
				part.jobs[i].became = error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ? REMOVAL_BUSY :
					error->sqlerrcode == ERRCODE_JOBQ_WRONG_STATE ? REMOVAL_NEEDED : REMOVAL_REFUSED;
		}
		return;
	}
	remove_some(batch, from, n / 2);
	remove_some(batch, from + n / 2, n - n / 2);
}

/*
 * Remove those of some jobs, whose rows were read in this transaction, that can be,
 * without waiting for a job's row.  Says of each what became of it, and returns how
 * many are gone.
 */
int
jobq_remove_free(JobqCall *call, int n, JobqRemovable *jobs)
{
	Batch		batch = {call, LockWaitSkip, n, jobs};
	int			removed = 0;

	qsort(jobs, n, sizeof(JobqRemovable), jobq_compare_ids);
	for (int i = 0; i < n; i++)
		jobs[i].became = REMOVAL_DONE;
	/* those that are needed make nothing fail */
	(void) act_on_belongings(&batch, downstream, check_need);
	(void) act_on_belongings(&batch, flows, check_undone);
	remove_some(&batch, 0, n);
	for (int i = 0; i < n; i++)
		removed += jobs[i].became == REMOVAL_DONE;
	return removed;
}

PG_FUNCTION_INFO_V1(jobq_job_delete);

/* job_delete(job_id) */
Datum
jobq_job_delete(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(jobq_act_on_one("job_delete()", delete_job, jobq_check_id(fcinfo, 0, "job_id"), NULL));
}

PG_FUNCTION_INFO_V1(jobq_job_delete_many);

/* job_delete_many(job_ids) */
Datum
jobq_job_delete_many(PG_FUNCTION_ARGS)
{
	return jobq_act_on_many(fcinfo, "job_delete_many()", delete_job, NULL);
}
