/*
 * undone.c
 *	  What the worker of a job gets that undoes another, or repeats it.
 *
 * Both are members of a flow that undoes another flow, and name the member of that
 * (undo_of).  They bear its key, so that a handler knows which effect it is about.  One
 * that repeats has the args and inputs of the original, as its worker had them; one that
 * undoes has its own args, which can refer to the original's.
 */
#include "postgres.h"

#include "port/pg_bitutils.h"
#include "utils/builtins.h"

#include "job/job.h"

/*
 * The key of a job: the same over all its attempts, new after job_retry, unless that
 * has kept it (jobq_keeps_key).  The time of submission keeps it apart from that of
 * another job that had the same id in a database restored from a backup since.
 */
text *
jobq_job_key(TupleTableSlot *job)
{
	uint64		submitted_at = jobq_attr_int64(job, JOB_SUBMITTED_AT);
	char		key[64];
	char	   *end = key + pg_lltoa(jobq_attr_int64(job, JOB_ID), key);

	/* "%lld-%llx-%d", for each job that is claimed */
	*end++ = '-';
	for (int shift = submitted_at == 0 ? 0 : pg_leftmost_one_pos64(submitted_at) & ~3; shift >= 0; shift -= 4)
		*end++ = "0123456789abcdef"[submitted_at >> shift & 15];
	*end++ = '-';
	end += pg_ltoa(jobq_key_generation(job), end);
	return cstring_to_text_with_len(key, end - key);
}

/* The generation of a job that its key is of. */
int32
jobq_key_generation(TupleTableSlot *job)
{
	return jobq_attr_int32(job, slot_attisnull(job, JOB_KEY_GENERATION) ? JOB_GENERATION : JOB_KEY_GENERATION);
}

/*
 * How an attempt ended that did not decide its job, or did so before that was opened
 * again; -1: it is not known.
 */
static int
recorded_outcome(JobqCall *call, TupleTableSlot *job, int32 number)
{
	Datum		keys[2] = {Int64GetDatum(jobq_attr_int64(job, JOB_ID)), Int32GetDatum(number)};
	TupleTableSlot *attempt = jobq_find(call, JOBQ_ATTEMPT, INDEX_KEY, 2, keys, NULL);
	int			outcome = attempt != NULL ? jobq_attr_int16(attempt, ATTEMPT_OUTCOME) : -1;

	jobq_slot_free(attempt);
	return outcome;
}

/* Does the end of an attempt say nothing of those before? */
static bool
says_nothing(int attempt_outcome)
{
	return attempt_outcome == ATTEMPT_RELEASED || attempt_outcome == ATTEMPT_SNOOZED || attempt_outcome == ATTEMPT_CANCELLED;
}

/*
 * Is a job that can be undone, and does not run, to keep its key when it is opened
 * again?  It is if something may stand under that: it has succeeded, or its last
 * attempt, of so many, has, or was lost or timed out, so that nobody knows.  One that
 * was released or snoozed, or ended so when it was to be cancelled, says nothing of
 * those before.
 */
bool
jobq_keeps_key(JobqCall *call, TupleTableSlot *job, int32 attempts)
{
	int			last = -1;

	if (slot_attisnull(job, JOB_UNDO))
		return false;
	if (jobq_attr_int16(job, JOB_OUTCOME) == OUTCOME_SUCCEEDED)
		return true;
	if (!slot_attisnull(job, JOB_ATTEMPT_OUTCOME))
	{
		last = jobq_attr_int16(job, JOB_ATTEMPT_OUTCOME);
		attempts--;				/* which is not recorded elsewhere */
	}
	else
		last = ATTEMPT_RELEASED;
	while (attempts > 0 && says_nothing(last))
		last = recorded_outcome(call, job, attempts--);
	return last == ATTEMPT_SUCCEEDED || last == ATTEMPT_LOST || last == ATTEMPT_TIMED_OUT;
}

/*
 * A job, which has begun so many attempts, begins anew: its row has the next
 * generation, and perhaps the same key.
 */
void
jobq_raise_generation(JobqCall *call, TupleTableSlot *job, int32 attempts, JobqRow *new)
{
	int32		generation = jobq_attr_int32(job, JOB_GENERATION);

	jobq_set(new, JOB_GENERATION, Int32GetDatum(generation + 1));
	if (!jobq_keeps_key(call, job, attempts))
		new->given[JOB_KEY_GENERATION - 1] = false;
	else if (!new->given[JOB_KEY_GENERATION - 1])
		jobq_set(new, JOB_KEY_GENERATION, Int32GetDatum(generation));
}

/*
 * The args that the worker of a job gets, its key, and the job whose inputs it gets,
 * to be freed unless it is the job itself.  Where the original was removed, nothing
 * can be said of it.
 */
Jsonb *
jobq_read_assigned(JobqCall *call, TupleTableSlot *job, text **key, TupleTableSlot **inputs_of)
{
	int64		flow = jobq_attr_int64(job, JOB_FLOW);
	TupleTableSlot *original = slot_attisnull(job, JOB_UNDO_OF) ? NULL :
	jobq_find_id(call, JOBQ_JOB, jobq_attr_int64(job, JOB_UNDO_OF));
	bool		isnull;
	Jsonb	   *args;

	*key = jobq_job_key(original ? original : job);
	*inputs_of = job;
	if (original != NULL && jobq_attr_bool(job, JOB_REPEATS))
	{
		*inputs_of = original;
		return jobq_resolve_references(call, jobq_attr_int64(original, JOB_FLOW),
									   DatumGetJsonbPCopy(slot_getattr(original, JOB_ARGS, &isnull)));
	}
	if (original != NULL)
	{
		args = jobq_resolve_undo(call, job, original);
		jobq_slot_free(original);
		return args;
	}
	args = DatumGetJsonbPCopy(slot_getattr(job, JOB_ARGS, &isnull));
	return flow != 0 ? jobq_resolve_references(call, flow, args) : args;
}
