/*
 * unique.c
 *	  Unique keys: at most one job of a queue has a key.
 *
 * Who has a key is a row of job_unique, which names the job.  It is inserted by
 * the submission that takes the key, changed by one that takes it over, and
 * deleted by the decision of the job or, where unique_for lasts longer, by the
 * background worker at the time that the decision writes into it.
 *
 * Invariants
 *	U1	There is one row for each queue and key at most: its unique index says so.
 *	U2	The job of a row has that key; without a time in the row it is undecided, with
 *		one it is decided, or removed, and the key is taken until then.
 *
 * A key is looked up under the latest snapshot at every isolation level, so that a
 * row which the transaction's own snapshot does not show counts as well.  The row
 * is inserted speculatively, as INSERT ... ON CONFLICT does, and who loses waits
 * for the other transaction, then looks again: this is the one wait that keys
 * bring, and job_submit_many goes by queue and key, so two calls do not wait for
 * each other.  Many keys that are likely to be free are inserted in bulk.
 *
 * Locks, for one job: its state row, its row in job, the row of its key.  Whoever
 * takes a key over writes that row first, but then waits for no state row.
 *
 * A crash leaves what was committed: a row whose time has come is free for whoever
 * comes first, the next job or the background worker.
 */
#include "postgres.h"

#include "job/job.h"

static const char *const conflicts[] = {
	[CONFLICT_KEEP] = "keep",
	[CONFLICT_SKIP] = "skip",
	[CONFLICT_REPLACE] = "replace",
	[CONFLICT_CANCEL] = "cancel",
	[CONFLICT_ERROR] = "error",
};

/* What a replacement takes from the new submission */
static const int replaced[] = {JOB_SCHEDULE_ID, JOB_SCHEDULED_FOR, JOB_ARGS, JOB_PRIORITY, JOB_RUN_AT, JOB_TAGS, JOB_EXPIRES_AT,
JOB_MAX_ATTEMPTS, JOB_MAX_LOST, JOB_BACKOFF, JOB_TIMEOUT, JOB_LEASE};

typedef enum Replacement
{
	REPLACED,
	BEGUN,						/* or decided, or it is still to be cancelled:
								 * its arguments would not be read */
	ANOTHERS,					/* the caller may not change it */
	CHANGED						/* look again */
} Replacement;

/* Find what to do on a conflict, by name. */
JobqConflict
jobq_find_conflict(const char *name)
{
	for (int i = 0; i < lengthof(conflicts); i++)
	{
		if (strcmp(conflicts[i], name) == 0)
			return (JobqConflict) i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized value for \"on_conflict\": \"%s\"", name),
			 errhint("Valid values are \"keep\", \"skip\", \"replace\", \"cancel\" and \"error\".")));
}

/* The row of a key, or NULL. */
static TupleTableSlot *
find_key(JobqCall *call, int64 queue_id, Datum key)
{
	Datum		keys[2] = {key, Int64GetDatum(queue_id)};

	return jobq_find(call, JOBQ_UNIQUE, INDEX_KEY, 2, keys, NULL);
}

/* Give a key to a job, in place of whoever its row names; false: the row changed, look again. */
static bool
repoint(JobqCall *call, TupleTableSlot *row, int64 id, LockWaitPolicy policy)
{
	JobqRow		new;

	jobq_values(row, &new);
	jobq_set(&new, UNIQUE_JOB_ID, Int64GetDatum(id));
	new.given[UNIQUE_UNTIL - 1] = false;
	return jobq_update(call, JOBQ_UNIQUE, row, &new, policy);
}

/* The row of a key that a job takes. */
static void
set_key(JobqRow *new, int64 queue_id, Datum key, int64 id)
{
	jobq_set(new, UNIQUE_QUEUE_ID, Int64GetDatum(queue_id));
	jobq_set(new, UNIQUE_JOB_ID, Int64GetDatum(id));
	jobq_set(new, UNIQUE_KEY, key);
}

/*
 * Take a key for a job.  KEY_HELD: *holder has it.  KEY_BUSY, only if not wait:
 * somebody is just taking or freeing it.
 */
static JobqKeyResult
take(JobqCall *call, int64 queue_id, Datum key, int64 id, bool wait, int64 *holder)
{
	JobqRow		new = {0};

	set_key(&new, queue_id, key, id);
	for (;;)
	{
		TupleTableSlot *row = find_key(call, queue_id, key);
		TimestampTz until;
		bool		done;

		if (row == NULL)
			done = jobq_insert_unless_there(call, JOBQ_UNIQUE, &new, wait);
		else
		{
			*holder = jobq_attr_int64(row, UNIQUE_JOB_ID);
			until = jobq_attr_int64(row, UNIQUE_UNTIL);
			/* its own, or free since its time came */
			if (*holder == id && until == 0)
				done = true;
			else if (*holder == id || (until != 0 && until <= call->now))
				done = repoint(call, row, id, wait ? LockWaitBlock : LockWaitSkip);
			else
			{
				jobq_slot_free(row);
				return KEY_HELD;
			}
			jobq_slot_free(row);
		}
		if (done)
			return KEY_TAKEN;
		if (!wait)
			return KEY_BUSY;
	}
}

/* Take a submission's key over from the job that has it; false: look again. */
static bool
take_over(JobqCall *call, JobqSubmission *s, int64 holder)
{
	TupleTableSlot *row = find_key(call, s->queue_id, s->row.values[JOB_UNIQUE_KEY - 1]);
	bool		ok = row != NULL && jobq_attr_int64(row, UNIQUE_JOB_ID) == holder &&
	repoint(call, row, s->id, LockWaitBlock);

	jobq_slot_free(row);
	return ok;
}

/*
 * Give a row of job what a replacement takes from another; they must be of one kind,
 * and both flows, or none.  The args of a member of a flow must be those of one.
 */
void
jobq_replace_values(JobqCall *call, JobqRow *to, const JobqRow *from)
{
	char	   *kind = TextDatumGetCString(to->values[JOB_KIND - 1]);

	if (strcmp(kind, TextDatumGetCString(from->values[JOB_KIND - 1])) != 0 ||
		to->given[JOB_FLOW_TYPE - 1] != from->given[JOB_FLOW_TYPE - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a job cannot be replaced by one of another kind"),
				 errhint("Make the kind a part of \"unique_key\", if jobs of several kinds shall not share keys.")));
	for (int i = 0; i < lengthof(replaced); i++)
	{
		to->values[replaced[i] - 1] = from->values[replaced[i] - 1];
		to->given[replaced[i] - 1] = from->given[replaced[i] - 1];
	}
	if (to->given[JOB_FLOW - 1])
		jobq_check_references(call, DatumGetInt64(to->values[JOB_FLOW - 1]), DatumGetJsonbP(to->values[JOB_ARGS - 1]), false);
}

/* Write the state row of a job that is replaced, which is locked. */
static void
replace_state(JobqCall *call, JobqTable table, TupleTableSlot *row, int64 lane, const JobqRow *job)
{
	JobqPrefix	prefix;

	jobq_read_prefix(row, &prefix);
	prefix.lane = lane;
	prefix.priority = DatumGetInt16(job->values[JOB_PRIORITY - 1]);
	prefix.run_at = job->given[JOB_RUN_AT - 1] ? DatumGetTimestampTz(job->values[JOB_RUN_AT - 1]) : 0;
	prefix.expires_at = job->given[JOB_EXPIRES_AT - 1] ?
		DatumGetTimestampTz(job->values[JOB_EXPIRES_AT - 1]) : 0;
	if (!jobq_state_rewrite(call, table, row, &prefix))
		elog(ERROR, "state row of job %lld has changed while locked", (long long) prefix.job_id);
	if (prefix.expires_at != 0 && prefix.expires_at != jobq_attr_int64(row, STATE_EXPIRES_AT))
		jobq_note_expiry(call, prefix.job_id, prefix.expires_at);
}

/*
 * Replace the job that has a submission's key, if it has not begun, and the caller
 * could change it as well: a job that is another's is not to run with arguments
 * that are not.  Its state row is locked first, which waits for a claim of it, and
 * keeps others away.
 */
static Replacement
replace(JobqCall *call, JobqSubmission *s, int64 holder)
{
	TupleTableSlot *job;
	TupleTableSlot *row;
	TupleTableSlot *key = NULL;
	JobqTable	table = jobq_find_state(call, holder, &job, &row);
	Replacement result = CHANGED;
	const char *problem = NULL;
	char	   *reason;
	JobqRow		new;

	if (row == NULL || table == JOBQ_LEASE || table == JOBQ_FLOW || jobq_attr_int32(row, STATE_ATTEMPT) > 0)
		result = BEGUN;
	else if (!jobq_may_operate(call, job, true, &problem))
		result = ANOTHERS;
	else if (jobq_lock(call, table, row, LockTupleExclusive, LockWaitBlock))
	{
		key = find_key(call, s->queue_id, s->row.values[JOB_UNIQUE_KEY - 1]);
		if (jobq_cancel_requested(call, holder, jobq_attr_int32(job, JOB_GENERATION), &reason))
			result = BEGUN;
		else if (key != NULL && jobq_attr_int64(key, UNIQUE_JOB_ID) == holder)
		{
			jobq_values(job, &new);
			jobq_replace_values(call, &new, &s->row);
			if (jobq_update(call, JOBQ_JOB, job, &new, LockWaitBlock))
			{
				replace_state(call, table, row, jobq_job_lane(job), &new);
				if (s->flow != NULL)
					jobq_redefine_flow(call, holder, s->flow);
				jobq_advance();
				result = REPLACED;
			}
		}
	}
	jobq_slot_free(key);
	jobq_slot_free(row);
	jobq_slot_free(job);
	return result;
}

/* Cancel a job whose key was taken over, and start after it; somebody may have removed it. */
static void
supersede(JobqCall *call, JobqSubmission *s, int64 holder)
{
	const char *problem = NULL;

	jobq_advance();				/* it has no key any more */
	jobq_cancel(call, holder, "superseded by another job with its unique key", true, &problem);
	jobq_advance();
	s->superseded = holder;
	jobq_start_after(call, s, holder);
}

/* Another job has the key of a submission. */
static void
drop(JobqSubmission *s, int64 holder)
{
	s->id = holder;
	s->dropped = true;
}

/*
 * Take the key of a submission, or do what it says on a conflict.  Either it is to
 * be submitted, as s->id and perhaps after another job, or s->dropped is set and
 * s->id the job that has the key.  Returns whether no other job had it.
 */
bool
jobq_resolve_key(JobqCall *call, JobqSubmission *s)
{
	JobqConflict conflict = DatumGetInt16(s->row.values[SUBMISSION_ON_CONFLICT - 1]);
	Datum		key = s->row.values[JOB_UNIQUE_KEY - 1];
	int64		holder = 0;
	bool		done = false;

	if (s->id == 0)
		s->id = jobq_nextval();
	while (!done && take(call, s->queue_id, key, s->id, true, &holder) == KEY_HELD)
	{
		Replacement result = CHANGED;

		if (conflict == CONFLICT_ERROR)
			ereport(ERROR,
					(errcode(ERRCODE_UNIQUE_VIOLATION),
					 errmsg("unique key \"%s\" of queue \"%s\" is taken", s->unique_key, s->queue),
					 errdetail("Job %lld has it.", (long long) holder)));
		else if (conflict == CONFLICT_REPLACE)
			result = replace(call, s, holder);
		else if (conflict == CONFLICT_CANCEL)
			result = ANOTHERS;
		if (result == REPLACED || conflict == CONFLICT_KEEP || conflict == CONFLICT_SKIP)
		{
			drop(s, holder);
			done = true;
		}
		else if (result != CHANGED && take_over(call, s, holder))
		{
			done = true;
			if (result == ANOTHERS)
				supersede(call, s, holder);
		}
	}
	return holder == 0;
}

/* Submissions that take their keys together */
typedef struct Takers
{
	JobqCall   *call;
	int			n;
	JobqSubmission **submissions;
} Takers;

/* Insert the rows of their keys. */
static void
insert_keys(void *arg)
{
	Takers	   *takers = arg;
	JobqRow		new = {0};

	jobq_bulk_begin(takers->call);
	for (int i = 0; i < takers->n; i++)
	{
		JobqSubmission *s = takers->submissions[i];

		set_key(&new, s->queue_id, s->row.values[JOB_UNIQUE_KEY - 1], s->id);
		jobq_insert(takers->call, JOBQ_UNIQUE, &new);
	}
	jobq_bulk_end(takers->call);
}

/*
 * Take the keys of submissions, which are all different, without waiting; false: one
 * is not free, or somebody is just taking or freeing it, and none is taken.  The rows
 * are inserted in bulk, so not speculatively, but in a subtransaction, whose end frees
 * those of them that others have met.  The table is open.
 */
bool
jobq_take_keys(JobqCall *call, int n, JobqSubmission **submissions)
{
	Takers		takers = {call, n, submissions};
	ErrorData  *error = jobq_try(insert_keys, &takers);

	if (error == NULL)
		return true;
	jobq_bulk_forget(call);
	if (error->sqlerrcode != ERRCODE_UNIQUE_VIOLATION)
		ReThrowError(error);
	FreeErrorData(error);
	return false;
}

/*
 * Ids grow along edges: a submission whose id was drawn before it was known after
 * which jobs it comes gets another, where one of them has a higher one.
 */
void
jobq_settle_id(JobqCall *call, JobqSubmission *s)
{
	int64		highest = s->nupstream > 0 ? s->upstream[s->nupstream - 1] : 0;
	int64		id = s->id;

	for (int i = 0; i < s->nafter; i++)
		highest = Max(highest, s->after[i]);
	if (id == 0 || highest < id)
		return;
	s->id = jobq_nextval();
	if (s->unique_key == NULL)
		return;
	jobq_advance();
	if (!take_over(call, s, id))
		elog(ERROR, "unique key \"%s\" was lost while its row was locked", s->unique_key);
}

/* The queue's id and the key of a job; false: it has none. */
static bool
key_of(TupleTableSlot *job, int64 *queue_id, Datum *key)
{
	bool		isnull;

	*key = slot_getattr(job, JOB_UNIQUE_KEY, &isnull);
	if (!isnull)
		*queue_id = jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE));
	return !isnull;
}

/*
 * Take the key of a decided job, whose row is locked, if it has one, again, before it
 * is opened.
 * KEY_HELD: *holder has it.  KEY_BUSY, only if not wait: try again later.
 */
JobqKeyResult
jobq_take_key_again(JobqCall *call, TupleTableSlot *job, bool wait, int64 *holder)
{
	int64		queue_id;
	Datum		key;

	if (!key_of(job, &queue_id, &key))
		return KEY_TAKEN;
	return take(call, queue_id, key, jobq_attr_int64(job, JOB_ID), wait, holder);
}

/*
 * Is a job undecided, and has it this key?  Then its row is locked, so that it stays so.
 * *busy, only if policy is to skip: somebody else has it locked, so nobody knows.
 */
static bool
has_key(JobqCall *call, int64 id, int64 queue_id, Datum key, LockWaitPolicy policy, bool *busy)
{
	bool		has;
	bool		locked;

	do
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
		int64		its_queue_id;
		Datum		its_key;

		has = job != NULL && slot_attisnull(job, JOB_OUTCOME) &&
			key_of(job, &its_queue_id, &its_key) && its_queue_id == queue_id &&
			strcmp(TextDatumGetCString(its_key), TextDatumGetCString(key)) == 0;
		locked = has && jobq_lock(call, JOBQ_JOB, job, LockTupleShare, policy);
		jobq_slot_free(job);
	} while (has && !locked && policy == LockWaitBlock);
	*busy |= has && !locked;
	return locked;
}

/*
 * A job that is about to be decided, or to go to another queue: lock those to one of which
 * it will give its key back, so that it is known then which goes on.  False: somebody
 * has one locked, who may end it or not.
 */
bool
jobq_lock_superseded(JobqCall *call, TupleTableSlot *job, LockWaitPolicy policy)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	int64		after[2 * JOBQ_AFTER_ONE];
	int			nafter = 0;
	int64		queue_id;
	Datum		key;
	TupleTableSlot *row;
	bool		busy = false;

	if (!key_of(job, &queue_id, &key))
		return true;
	row = find_key(call, queue_id, key);
	if (row != NULL && jobq_attr_int64(row, UNIQUE_JOB_ID) == id)
		nafter = jobq_read_after(call, id, after, lengthof(after));
	jobq_slot_free(row);
	if (nafter > 0)
		jobq_advance();			/* this call may have decided some of those */
	for (int i = 0; i < nafter; i++)
		(void) has_key(call, after[i], queue_id, key, policy, &busy);
	return !busy;
}

/*
 * An undecided job, whose row is locked, goes to another queue: so does its key, if
 * it has it; what it is to start after, and goes on, has that of the old queue again.
 * KEY_HELD: *holder has it there.
 */
JobqKeyResult
jobq_move_key(JobqCall *call, TupleTableSlot *job, int64 queue_id, int64 *holder)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	int64		old_queue_id;
	int64		after[2 * JOBQ_AFTER_ONE];
	Datum		key;
	TupleTableSlot *row;
	bool		own;

	if (!key_of(job, &old_queue_id, &key) || old_queue_id == queue_id)
		return KEY_TAKEN;
	row = find_key(call, old_queue_id, key);
	own = row != NULL && jobq_attr_int64(row, UNIQUE_JOB_ID) == id;
	jobq_slot_free(row);
	if (!own)
		return KEY_TAKEN;
	if (take(call, queue_id, key, id, true, holder) == KEY_HELD)
		return KEY_HELD;
	(void) jobq_lock_superseded(call, job, LockWaitBlock);
	jobq_free_key(call, id, old_queue_id, key, 0, jobq_read_after(call, id, after, lengthof(after)), after);
	return KEY_TAKEN;
}

/*
 * Lock the row of the key that a job has, if any, so that its decision will not
 * wait.  False: somebody has it locked.
 */
bool
jobq_lock_key(JobqCall *call, TupleTableSlot *job)
{
	int64		queue_id;
	Datum		key;
	TupleTableSlot *row;
	bool		ok;

	if (!key_of(job, &queue_id, &key))
		return true;
	row = find_key(call, queue_id, key);
	ok = row == NULL || jobq_attr_int64(row, UNIQUE_JOB_ID) != jobq_attr_int64(job, JOB_ID) ||
		jobq_lock(call, JOBQ_UNIQUE, row, LockTupleExclusive, LockWaitSkip);
	jobq_slot_free(row);
	return ok;
}

/*
 * A job is decided, or goes to another queue: free its key in this one, if it still has
 * it, now or at a later time.  Waits for whoever is just taking it over.  after: where it
 * never began, what it was to start after; if one of these goes on and had the key, it has
 * it again.
 */
void
jobq_free_key(JobqCall *call, int64 id, int64 queue_id, Datum key, TimestampTz until,
			  int nafter, const int64 *after)
{
	bool		done = false;
	bool		busy;

	if (nafter > 0)
		jobq_advance();			/* this call may have decided some of those */
	while (!done)
	{
		TupleTableSlot *row = find_key(call, queue_id, key);
		int			i = 0;

		if (row != NULL && jobq_attr_int64(row, UNIQUE_JOB_ID) == id)
		{
			while (i < nafter && !has_key(call, after[i], queue_id, key, LockWaitSkip, &busy))
				i++;
		}
		if (row == NULL || jobq_attr_int64(row, UNIQUE_JOB_ID) != id)
			done = true;
		else if (i < nafter)
			done = repoint(call, row, after[i], LockWaitBlock);
		else if (until <= call->now)
			done = jobq_delete(call, JOBQ_UNIQUE, row, LockWaitBlock);
		else
		{
			JobqRow		new;

			jobq_values(row, &new);
			jobq_set(&new, UNIQUE_UNTIL, TimestampTzGetDatum(until));
			done = jobq_update(call, JOBQ_UNIQUE, row, &new, LockWaitBlock);
			if (done)
				jobq_announce_deadline(DEADLINE_UNIQUE, until);
		}
		jobq_slot_free(row);
	}
}

/* The same for a decided job, given its row in job; fresh: it never began. */
void
jobq_free_key_of(JobqCall *call, TupleTableSlot *job, bool fresh)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	int64		unique_for = jobq_attr_int64(job, JOB_UNIQUE_FOR);
	int64		after[2 * JOBQ_AFTER_ONE];
	int64		queue_id;
	Datum		key;

	if (key_of(job, &queue_id, &key))
		jobq_free_key(call, id, queue_id, key,
					  unique_for != 0 ? jobq_attr_int64(job, JOB_SUBMITTED_AT) + unique_for : 0,
					  fresh ? jobq_read_after(call, id, after, lengthof(after)) : 0, after);
}

/*
 * For the background worker: the time of a key has come, remove its row.  False:
 * somebody has it locked, try again later.
 */
bool
jobq_remove_due_key(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at)
{
	Datum		keys[2] = {TimestampTzGetDatum(deadline), Int64GetDatum(job_id)};
	TupleTableSlot *row = jobq_find(call, JOBQ_UNIQUE, INDEX_SECOND, 2, keys, NULL);
	bool		ok = row == NULL || jobq_delete(call, JOBQ_UNIQUE, row, LockWaitSkip);

	jobq_slot_free(row);
	return ok;
}
