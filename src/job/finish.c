/*
 * finish.c
 *	  How an attempt ends, and with it perhaps the job.
 *
 * Every act of a worker is fenced by (job, token): the lease is found by job,
 * its token compared, and the lease deleted, which only one transaction can
 * do.  A worker that lost its lease gets an error and changes nothing.
 *
 *	succeeded	 the job is decided
 *	failed		 decided, or scheduled again while max_attempts lasts
 *	timed_out	 the same, by the background worker
 *	lost		 decided failed, or scheduled again while max_lost lasts
 *	released	 ready again at once, counts against nothing
 *	snoozed		 scheduled again, counts against nothing
 *	cancelled	 ended by its worker, but for success, after cancellation was requested
 *
 * An attempt that does not decide its job is recorded in job_attempt; the
 * deciding one stands in the row in job.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "commands/async.h"
#include "common/pg_prng.h"
#include "funcapi.h"
#include "port/pg_bitutils.h"

#include "job/job.h"

int			jobq_max_result_size = JOBQ_DEFAULT_MAX_RESULT_KB;

/* What became of one argument */
typedef enum Verdict
{
	ACCEPTED,
	STALE,
	UNKNOWN
} Verdict;

typedef struct Argument
{
	int64		job_id;
	int64		token;
	bool		has_payload;	/* result or error */
	Datum		payload;
	Verdict		verdict;
	const char *state;			/* the job's state after it */
	/* for job_next() */
	int64		period;			/* of the lease that was ended, -1: none was */
	bool		session;		/* it lasted as long as its session */
	const char *worker;			/* its worker, or NULL */
	Datum		labels;			/* that this had; 0: none */
	char	   *queue;
} Argument;

typedef struct FinishRequest
{
	JobqAttemptOutcome attempt_outcome;
	bool		retry;
	int64		delay;			/* microseconds; -1: by backoff */
	Argument   *arguments;
} FinishRequest;

/* The n-th delay: doubled each time, give or take a quarter, capped. */
static int64
backoff(int64 first, int64 cap, int n)
{
	double		delay = first;

	for (int i = 1; i < n && delay < cap; i++)
		delay *= 2;
	delay = Min(delay, (double) cap) * (0.75 + pg_prng_double(&pg_global_prng_state) / 2);
	return (int64) Min(delay, (double) cap);
}

/* Announce a decided job, in the transaction that decides it. */
void
jobq_notify_decided(int64 id, int64 queue_id, bool notify, int outcome)
{
	jobq_announce_decided(id);
	jobq_count(queue_id, COUNT_DECIDED + pg_rightmost_one_pos32(outcome), 1);
	if (notify)
		Async_Notify(psprintf("job_%lld", (long long) id), jobq_outcome_name(outcome));
}

/* Count an attempt that ended.  Of one that was lost no worker was heard. */
static void
count_attempt(JobqCall *call, int64 queue_id, JobqAttemptOutcome outcome, int64 took)
{
	jobq_count(queue_id, COUNT_ATTEMPTS + outcome, 1);
	if (outcome != ATTEMPT_LOST)
		jobq_counts(queue_id)->worked_at = call->now;
	jobq_count_time(queue_id, COUNT_RUN, took);
}

/* Write how a job ended into its row, and go on to its children. */
void
jobq_decide(JobqCascade *cascade, const JobqPrefix *prefix, const JobqDecision *d)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	JobqPrefix	placed = *prefix;
	bool		notify = false;
	bool		done = false;
	bool		walk = d->attempt_outcome == ATTEMPT_SUCCEEDED;

	while (!done)
	{
		TupleTableSlot *slot = walk ? jobq_walk_id(call, JOBQ_JOB, prefix->job_id, NULL, NULL) :
		jobq_find_id(call, JOBQ_JOB, prefix->job_id);
		JobqRow		new;

		if (slot == NULL)		/* removed by hand: nothing to say, nobody to
								 * tell */
			return;
		jobq_values(slot, &new);
		notify = jobq_attr_bool(slot, JOB_NOTIFY);
		if (d->queue != NULL)
			*d->queue = jobq_attr_cstring(slot, JOB_QUEUE);
		jobq_set(&new, JOB_OUTCOME, Int16GetDatum(d->outcome));
		/* a lease that this call waited for may be younger than the call */
		jobq_set(&new, JOB_FINISHED_AT,
				 TimestampTzGetDatum(d->attempt_outcome >= 0 ? Max(call->now, d->started_at) : call->now));
		jobq_set(&new, JOB_ATTEMPT_NO, Int32GetDatum(prefix->attempt));
		jobq_set(&new, JOB_FAILED, Int32GetDatum(prefix->failed));
		jobq_set(&new, JOB_LOST, Int32GetDatum(prefix->lost));
		if (d->attempt_outcome >= 0)
		{
			jobq_set(&new, JOB_ATTEMPT_OUTCOME, Int16GetDatum(d->attempt_outcome));
			jobq_set(&new, JOB_TOKEN, Int64GetDatum(d->token));
			jobq_set(&new, JOB_STARTED_AT, TimestampTzGetDatum(d->started_at));
		}
		if (OidIsValid(d->decided_by))
			jobq_set(&new, JOB_DECIDED_BY, ObjectIdGetDatum(d->decided_by));
		jobq_set_text(&new, JOB_WORKER, d->worker);
		jobq_set_text(&new, JOB_ERROR, d->error);
		if (d->has_result)
			jobq_set(&new, JOB_RESULT, d->result);
		done = jobq_update(call, JOBQ_JOB, slot, &new, LockWaitBlock);
		if (done && new.given[JOB_UNIQUE_KEY - 1])
			jobq_free_key_of(call, slot, prefix->attempt == 0);
		if (done)
			jobq_note_removal(call, prefix->queue_id, d->outcome, &slot->tts_tid, call->now);
		if (done)
			jobq_cascade_tell_flow(cascade, slot, d->outcome, 1);
		jobq_slot_free(slot);
		walk = false;
	}
	jobq_give_slot_back(call, &placed);
	if (d->attempt_outcome >= 0)
		count_attempt(call, prefix->queue_id, d->attempt_outcome, call->now - d->started_at);
	jobq_notify_decided(prefix->job_id, prefix->queue_id, notify, d->outcome);
	jobq_cascade_add_downstream(cascade, prefix->job_id, d->outcome, d->has_result ? &d->result : NULL, 1);
}

/* Record an attempt that did not decide its job. */
static void
record_attempt(JobqCall *call, TupleTableSlot *lease, JobqAttemptOutcome attempt_outcome, const char *error)
{
	JobqRow		new = {0};

	jobq_set(&new, ATTEMPT_JOB_ID, Int64GetDatum(jobq_attr_int64(lease, STATE_JOB_ID)));
	jobq_set(&new, ATTEMPT_NO, Int32GetDatum(jobq_attr_int32(lease, STATE_ATTEMPT)));
	jobq_set(&new, ATTEMPT_STARTED_AT,
			 TimestampTzGetDatum(jobq_attr_int64(lease, LEASE_STARTED_AT)));
	jobq_set(&new, ATTEMPT_ENDED_AT,
			 TimestampTzGetDatum(Max(call->now, jobq_attr_int64(lease, LEASE_STARTED_AT))));
	jobq_set(&new, ATTEMPT_OUTCOME, Int16GetDatum(attempt_outcome));
	jobq_set_text(&new, ATTEMPT_WORKER, jobq_attr_cstring(lease, LEASE_WORKER));
	jobq_set_text(&new, ATTEMPT_ERROR, error);
	jobq_insert(call, JOBQ_ATTEMPT, &new);
	count_attempt(call, jobq_attr_int64(lease, STATE_QUEUE_ID), attempt_outcome,
				  call->now - jobq_attr_int64(lease, LEASE_STARTED_AT));
}

/* The job's own setting, else the queue's. */
static int64
own_or(TupleTableSlot *job, int attno, int64 otherwise)
{
	return job == NULL ? otherwise : jobq_attr_or(job, attno, otherwise);
}

/*
 * End the attempt of a lease that was just deleted, other than by success.
 * delay: until the next attempt, -1 for the backoff.  Returns the job's state.
 */
const char *
jobq_end_attempt(JobqCascade *cascade, TupleTableSlot *lease, JobqAttemptOutcome attempt_outcome,
				 const char *error, bool retry, int64 delay)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	JobqPrefix	prefix;
	JobqQueue	queue;
	TupleTableSlot *job;
	bool		decided = false;
	char	   *reason = NULL;
	JobqDecision decision = {.outcome = OUTCOME_FAILED,.attempt_outcome = attempt_outcome};
	const char *state;

	jobq_read_prefix(lease, &prefix);
	jobq_queue_settings(call, prefix.queue_id, &queue);
	job = jobq_find_id(call, JOBQ_JOB, prefix.job_id);

	if (jobq_attr_bool(lease, LEASE_CANCEL_REQUESTED))
		reason = jobq_attr_cstring(lease, LEASE_CANCEL_REASON);
	if (jobq_attr_bool(lease, LEASE_CANCEL_REQUESTED) ||
		(job != NULL &&
		 jobq_cancel_requested(call, prefix.job_id, jobq_attr_int32(job, JOB_GENERATION), &reason)))
	{
		decided = true;
		decision.outcome = OUTCOME_CANCELLED;
		/* of one that was lost, or timed out, nobody knows what it did */
		if (attempt_outcome == ATTEMPT_LOST)
			prefix.lost++;
		else if (attempt_outcome == ATTEMPT_TIMED_OUT)
			prefix.failed++;
		else
			decision.attempt_outcome = ATTEMPT_CANCELLED;
		if (reason != NULL)
			error = reason;
	}
	else if (attempt_outcome == ATTEMPT_FAILED || attempt_outcome == ATTEMPT_TIMED_OUT)
	{
		if (queue.pause_after > 0)
			jobq_announce_failure(prefix.queue_id);
		prefix.failed++;
		decided = !retry ||
			prefix.failed >= own_or(job, JOB_MAX_ATTEMPTS, queue.max_attempts);
		/* one that was repeated to find out has not happened */
		if (attempt_outcome == ATTEMPT_FAILED && job != NULL && jobq_attr_bool(job, JOB_REPEATS))
			decision.outcome = OUTCOME_SKIPPED;
		if (delay < 0)
			delay = backoff(own_or(job, JOB_BACKOFF, queue.backoff), queue.backoff_cap,
							prefix.failed);
	}
	else if (attempt_outcome == ATTEMPT_LOST)
	{
		if (queue.pause_after > 0)
			jobq_announce_failure(prefix.queue_id);
		prefix.lost++;
		decided = prefix.lost >= own_or(job, JOB_MAX_LOST, queue.max_lost);
		if (delay < 0)
			delay = backoff(own_or(job, JOB_BACKOFF, queue.backoff), queue.backoff_cap,
							prefix.lost);
	}
	jobq_slot_free(job);
	if (!decided && jobq_attr_bool(lease, LEASE_LAST))
	{
		/* its flow drains */
		decided = true;
		if (attempt_outcome == ATTEMPT_RELEASED || attempt_outcome == ATTEMPT_SNOOZED)
		{
			decision.outcome = OUTCOME_CANCELLED;
			decision.attempt_outcome = ATTEMPT_CANCELLED;
			error = "another member of its flow failed";
		}
	}

	if (decided)
	{
		decision.token = jobq_attr_int64(lease, LEASE_TOKEN);
		decision.started_at = jobq_attr_int64(lease, LEASE_STARTED_AT);
		decision.worker = jobq_attr_cstring(lease, LEASE_WORKER);
		decision.error = error;
		jobq_decide(cascade, &prefix, &decision);
		state = jobq_outcome_name(decision.outcome);
	}
	else
	{
		record_attempt(call, lease, attempt_outcome, error);
		prefix.run_at = delay > 0 ? call->now + delay : 0;
		state = jobq_enter_next(call, &prefix, 0);
	}
	return state;
}

/* The labels that a lease was claimed with; 0: none. */
static Datum
lease_labels(TupleTableSlot *lease)
{
	bool		isnull;
	Datum		labels = slot_getattr(lease, LEASE_LABELS, &isnull);

	return isnull ? 0 : PointerGetDatum(PG_DETOAST_DATUM_COPY(labels));
}

/* Decide a job that its worker completed. */
static void
complete(JobqCascade *cascade, TupleTableSlot *lease, Argument *a)
{
	JobqPrefix	prefix;
	JobqDecision decision = {.outcome = OUTCOME_SUCCEEDED,.attempt_outcome = ATTEMPT_SUCCEEDED};

	jobq_read_prefix(lease, &prefix);
	decision.token = a->token;
	decision.started_at = jobq_attr_int64(lease, LEASE_STARTED_AT);
	decision.worker = jobq_attr_cstring(lease, LEASE_WORKER);
	decision.has_result = a->has_payload;
	decision.result = a->payload;
	decision.queue = a->period < 0 ? &a->queue : NULL;
	a->period = jobq_attr_int64(lease, LEASE_PERIOD);
	a->session = !slot_attisnull(lease, LEASE_SESSION);
	a->worker = decision.worker;
	a->labels = lease_labels(lease);
	jobq_decide(cascade, &prefix, &decision);
}

/* There is no lease with this token: why? */
static Verdict
refused(JobqCall *call, const FinishRequest *request, const Argument *a)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, a->job_id);
	Verdict		verdict = STALE;

	if (job == NULL || !jobq_may_work_on(call, job))
		verdict = UNKNOWN;
	else if (request->attempt_outcome == ATTEMPT_SUCCEEDED &&
			 jobq_attr_int16(job, JOB_OUTCOME) == OUTCOME_SUCCEEDED &&
			 !slot_attisnull(job, JOB_TOKEN) &&
			 jobq_attr_int64(job, JOB_TOKEN) == a->token)
		verdict = ACCEPTED;		/* the reply to the first time was lost */
	jobq_slot_free(job);
	return verdict;
}

/* Handle one argument of the finishing functions. */
static void
finish_one(JobqCascade *cascade, int64 id, int argument, void *arg)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	FinishRequest *request = arg;
	Argument   *a = &request->arguments[argument];
	TupleTableSlot *lease = jobq_walk_id(call, JOBQ_LEASE, id, NULL, NULL);

	for (;; lease = jobq_find_id(call, JOBQ_LEASE, id))
	{
		if (lease == NULL || jobq_attr_int64(lease, LEASE_TOKEN) != a->token)
		{
			jobq_slot_free(lease);
			a->verdict = refused(call, request, a);
			return;
		}
		jobq_require_privilege(call, jobq_attr_int64(lease, STATE_QUEUE_ID), PRIV_WORK, NULL);
		if (jobq_state_leave(call, JOBQ_LEASE, lease, LEAVE_WAIT))
		{
			if (request->attempt_outcome == ATTEMPT_SUCCEEDED)
				complete(cascade, lease, a);
			else
				a->state = jobq_end_attempt(cascade, lease, request->attempt_outcome,
											a->has_payload ? jobq_cut_error(a->payload) : NULL,
											request->retry, request->delay);
			jobq_slot_free(lease);
			a->verdict = ACCEPTED;
			return;
		}
		jobq_slot_free(lease);
	}
}

/* Handle n arguments. */
static void
finish(JobqCall *call, FinishRequest *request, int n)
{
	JobqCascade *cascade = jobq_cascade_create(call);

	for (int i = 0; i < n; i++)
	{
		if (!jobq_cascade_add_argument(cascade, request->arguments[i].job_id, i))
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("job %lld is named twice", (long long) request->arguments[i].job_id)));
	}
	jobq_cascade_run(cascade, finish_one, request);
}

/* The token does not fit. */
void
jobq_error_stale(int64 id)
{
	ereport(ERROR,
			(errcode(ERRCODE_JOBQ_STALE_TOKEN),
			 errmsg("token for job %lld is stale", (long long) id),
			 errdetail("The lease ran out, the attempt has ended, or the token was never given."),
			 errhint("Stop working on the job and discard what was done; whoever holds it now does it.")));
}

/* Handle one argument, or fail. */
static void
finish_or_fail(JobqCall *call, FinishRequest *request, Argument *a)
{
	request->arguments = a;
	finish(call, request, 1);
	if (a->verdict == UNKNOWN)
		jobq_error_no_such_job(a->job_id);
	if (a->verdict == STALE)
		jobq_error_stale(a->job_id);
}

/* A finishing function for one job. */
static const char *
finish_single(const char *function, Argument *a, FinishRequest *request)
{
	JobqCall	call;

	jobq_enter(&call, function, true);
	finish_or_fail(&call, request, a);
	jobq_close_call(&call);
	return a->state;
}

/* The job_id and token arguments. */
static void
read_job_and_token(FunctionCallInfo fcinfo, Argument *a)
{
	a->job_id = jobq_check_id(fcinfo, 0, "job_id");
	a->token = jobq_check_id(fcinfo, 1, "token");
}

/* A result within bounds? */
static void
check_result(int64 job_id, Datum result)
{
	jobq_check_json(DatumGetJsonbP(result), NULL,
					psprintf("result of job %lld", (long long) job_id),
					"jobq.max_result_size", jobq_max_result_size);
}

/* The arguments that a completion begins with: job_id, token, result. */
static void
read_completion(FunctionCallInfo fcinfo, Argument *a)
{
	read_job_and_token(fcinfo, a);
	if (!PG_ARGISNULL(2))
	{
		a->has_payload = true;
		a->payload = PG_GETARG_DATUM(2);
		check_result(a->job_id, a->payload);
	}
}

PG_FUNCTION_INFO_V1(jobq_job_complete);

/* job_complete(job_id, token, result) */
Datum
jobq_job_complete(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_SUCCEEDED};
	Argument	a = {0};

	read_completion(fcinfo, &a);
	finish_single("job_complete()", &a, &request);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(jobq_job_next);

/*
 * job_next(job_id, token, result, queues, max_jobs): what the completion made
 * ready can be claimed at once.  Where it had been completed before, the lease is
 * gone, and the claim's is that of the next job.
 */
Datum
jobq_job_next(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_SUCCEEDED};
	Argument	a = {.period = -1};
	JobqClaimRequest next = {.max_jobs = PG_ARGISNULL(4) ? 1 : jobq_check_count(fcinfo, 4, "max_jobs")};
	JobqCall	call;
	JobqAssignment *jobs;
	int			n;

	if (!PG_ARGISNULL(3))
		next.nqueues = jobq_check_queues(fcinfo, 3, &next.queues);
	read_completion(fcinfo, &a);
	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, "job_next()", true);
	finish_or_fail(&call, &request, &a);
	jobq_advance();

	/* where it had been completed before, its row says by whom */
	if (a.period < 0)
	{
		TupleTableSlot *job = jobq_find_id(&call, JOBQ_JOB, a.job_id);

		if (job == NULL)
			jobq_error_no_such_job(a.job_id);
		a.queue = jobq_attr_cstring(job, JOB_QUEUE);
		a.worker = jobq_attr_cstring(job, JOB_WORKER);
		jobq_slot_free(job);
	}
	if (next.queues == NULL && a.queue != NULL)
	{
		next.queues = &a.queue;
		next.nqueues = 1;
	}
	if (a.worker != NULL)
		next.worker = cstring_to_text(a.worker);
	next.lease = a.period;
	next.session = a.session;
	next.labels = a.labels;
	n = jobq_claim(&call, &next, &jobs);
	jobq_return_assignments(fcinfo, jobs, n);
	jobq_close_call(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_fail);

/* job_fail(job_id, token, error, retry, retry_in) */
Datum
jobq_job_fail(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_FAILED};
	Argument	a = {0};

	read_job_and_token(fcinfo, &a);
	a.has_payload = !PG_ARGISNULL(2);
	a.payload = PG_GETARG_DATUM(2);
	request.retry = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	request.delay = jobq_check_interval(fcinfo, 4, "retry_in", true);
	PG_RETURN_TEXT_P(cstring_to_text(finish_single("job_fail()", &a, &request)));
}

PG_FUNCTION_INFO_V1(jobq_job_release);

/* job_release(job_id, token) */
Datum
jobq_job_release(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_RELEASED};
	Argument	a = {0};

	read_job_and_token(fcinfo, &a);
	finish_single("job_release()", &a, &request);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(jobq_job_snooze);

/* job_snooze(job_id, token, delay) */
Datum
jobq_job_snooze(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_SNOOZED};
	Argument	a = {0};

	read_job_and_token(fcinfo, &a);
	request.delay = jobq_check_interval(fcinfo, 2, "delay", false);
	if (request.delay < 0)
		jobq_error_null("delay");
	finish_single("job_snooze()", &a, &request);
	PG_RETURN_VOID();
}

/* The arrays of the _many functions. */
static int
read_arrays(FunctionCallInfo fcinfo, const char *payload_name, Oid payload_type, Argument **arguments)
{
	Datum	   *ids;
	Datum	   *tokens;
	Datum	   *payloads = NULL;
	bool	   *nulls;
	bool	   *payload_nulls = NULL;
	int			n = jobq_check_array(fcinfo, 0, "job_ids", INT8OID, false, &ids, &nulls);

	if (jobq_check_array(fcinfo, 1, "tokens", INT8OID, false, &tokens, &nulls) != n ||
		(!PG_ARGISNULL(2) &&
		 jobq_check_array(fcinfo, 2, payload_name, payload_type, true, &payloads, &payload_nulls) != n))
		ereport(ERROR,
				(errcode(ERRCODE_ARRAY_SUBSCRIPT_ERROR),
				 errmsg("\"job_ids\", \"tokens\" and \"%s\" must have the same number of elements",
						payload_name)));

	*arguments = palloc0(Max(n, 1) * sizeof(Argument));
	for (int i = 0; i < n; i++)
	{
		Argument   *a = &(*arguments)[i];

		a->job_id = DatumGetInt64(ids[i]);
		a->token = DatumGetInt64(tokens[i]);
		if (payloads != NULL && !payload_nulls[i])
		{
			a->has_payload = true;
			a->payload = payloads[i];
		}
	}
	return n;
}

/* A finishing function for many jobs, which returns as many of its columns as it has. */
static Datum
finish_many(FunctionCallInfo fcinfo, const char *function, FinishRequest *request, int n)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	JobqCall	call;

	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, function, true);
	finish(&call, request, n);
	for (int i = 0; i < n; i++)
	{
		Argument   *a = &request->arguments[i];
		Datum		values[3] = {Int64GetDatum(a->job_id), BoolGetDatum(a->verdict == ACCEPTED), 0};
		bool		nulls[3] = {false, false, a->state == NULL};

		if (a->state != NULL)
			values[2] = CStringGetTextDatum(a->state);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	jobq_close_call(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_complete_many);

/* job_complete_many(job_ids, tokens, results) */
Datum
jobq_job_complete_many(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_SUCCEEDED};
	int			n = read_arrays(fcinfo, "results", JSONBOID, &request.arguments);

	for (int i = 0; i < n; i++)
	{
		if (request.arguments[i].has_payload)
			check_result(request.arguments[i].job_id, request.arguments[i].payload);
	}
	return finish_many(fcinfo, "job_complete_many()", &request, n);
}

PG_FUNCTION_INFO_V1(jobq_job_fail_many);

/* job_fail_many(job_ids, tokens, errors, retry, retry_in) */
Datum
jobq_job_fail_many(PG_FUNCTION_ARGS)
{
	FinishRequest request = {.attempt_outcome = ATTEMPT_FAILED};
	int			n = read_arrays(fcinfo, "errors", TEXTOID, &request.arguments);

	request.retry = PG_ARGISNULL(3) || PG_GETARG_BOOL(3);
	request.delay = jobq_check_interval(fcinfo, 4, "retry_in", true);
	return finish_many(fcinfo, "job_fail_many()", &request, n);
}
