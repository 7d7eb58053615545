/*
 * lease.c
 *	  Heartbeats, and leases that run out.
 *
 * A lease runs until the later of what its row and its entry in shared memory
 * say.  A heartbeat extends the entry and costs no WAL; it writes the row where
 * there is no entry (the table of entries was full, or the server was
 * restarted), where it asks for more than the stored period, and for progress.
 *
 * The background worker ends a lease in two steps: it takes the entry away
 * under its lock if that has run out too, then deletes the row without waiting.
 * A heartbeat that comes between finds no entry, goes to the row, and waits for
 * the deletion or makes it fail.
 *
 * A session lease (session.c) has no entry and runs until its session has ended.
 *
 * A crash loses the entries; therefore every lease gets one full period from
 * the start of the server (or its promotion) on.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "job/job.h"

/* The earlier of a lease's end and its attempt's timeout. */
TimestampTz
jobq_lease_deadline(TimestampTz until, TimestampTz timeout_at)
{
	return timeout_at != 0 ? Min(until, timeout_at) : until;
}

/* Write a heartbeat into the row; false: the row changed, look again. */
static bool
write_heartbeat(JobqCall *call, TupleTableSlot *lease, TimestampTz until, bool has_progress, Datum progress)
{
	JobqRow		new;
	TimestampTz deadline = jobq_attr_int64(lease, LEASE_DEADLINE);

	jobq_values(lease, &new);
	if (until != 0)
	{
		until = Max(until, jobq_attr_int64(lease, LEASE_UNTIL));
		deadline = jobq_lease_deadline(until, jobq_attr_int64(lease, LEASE_TIMEOUT_AT));
		jobq_set(&new, LEASE_UNTIL, TimestampTzGetDatum(until));
		jobq_set(&new, LEASE_DEADLINE, TimestampTzGetDatum(deadline));
	}
	if (has_progress)
		jobq_set(&new, LEASE_PROGRESS, progress);
	if (!jobq_update(call, JOBQ_LEASE, lease, &new, LockWaitBlock))
		return false;
	if (until != 0)
	{
		jobq_announce_lease(LEASE_ENTER, jobq_attr_int64(lease, STATE_JOB_ID),
							jobq_attr_int64(lease, LEASE_TOKEN), until);
		jobq_announce_deadline(DEADLINE_LEASE, deadline);
	}
	return true;
}

/*
 * Was it asked that a running job be cancelled?  The request is looked for before the lease, into
 * which the background worker moves it.
 */
static bool
cancel_requested(JobqCall *call, int64 id, int64 token)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	TupleTableSlot *lease;
	char	   *reason;
	bool		requested = job != NULL &&
	jobq_cancel_requested(call, id, jobq_attr_int32(job, JOB_GENERATION), &reason);

	lease = requested ? NULL : jobq_find_id(call, JOBQ_LEASE, id);
	if (lease != NULL && jobq_attr_int64(lease, LEASE_TOKEN) == token)
		requested = jobq_attr_bool(lease, LEASE_CANCEL_REQUESTED);
	jobq_slot_free(lease);
	jobq_slot_free(job);
	return requested;
}

PG_FUNCTION_INFO_V1(jobq_job_heartbeat);

/* job_heartbeat(job_id, token, extend, progress) */
Datum
jobq_job_heartbeat(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	int64		token = jobq_check_id(fcinfo, 1, "token");
	int64		extend = jobq_check_lease(jobq_check_interval(fcinfo, 2, "extend", false), "extend");
	bool		has_progress = !PG_ARGISNULL(3);
	Datum		progress = PG_GETARG_DATUM(3);
	bool		cancel = false;
	bool		done = false;

	if (has_progress)
		jobq_check_json(DatumGetJsonbP(progress), NULL, "\"progress\"",
						"jobq.max_result_size", jobq_max_result_size);
	jobq_enter(&call, "job_heartbeat()", true);
	while (!done)
	{
		TupleTableSlot *lease = jobq_find_id(&call, JOBQ_LEASE, id);
		int64		period;
		TimestampTz until;
		JobqHeartbeat heartbeat = HEARTBEAT_NONE;
		bool		session;

		if (lease == NULL || jobq_attr_int64(lease, LEASE_TOKEN) != token)
		{
			TupleTableSlot *job = jobq_find_id(&call, JOBQ_JOB, id);

			if (job == NULL || !jobq_may_work_on(&call, job))
				jobq_error_no_such_job(id);
			jobq_error_stale(id);
		}
		jobq_require_privilege(&call, jobq_attr_int64(lease, STATE_QUEUE_ID), PRIV_WORK, NULL);

		period = jobq_attr_int64(lease, LEASE_PERIOD);
		if (!slot_attisnull(lease, LEASE_WORKER))
		{
			char	   *worker = jobq_attr_cstring(lease, LEASE_WORKER);

			(void) jobq_note_worker(jobq_worker_key(worker, strlen(worker)), period);
		}
		until = jobq_steady() + (extend > 0 ? extend : period);
		session = !slot_attisnull(lease, LEASE_SESSION);
		if (extend <= period && !session)
			heartbeat = jobq_heartbeat_extend(id, token, until);
		cancel = jobq_attr_bool(lease, LEASE_CANCEL_REQUESTED) || heartbeat == HEARTBEAT_CANCEL ||
			jobq_own_cancel(id) || (heartbeat == HEARTBEAT_NONE && cancel_requested(&call, id, token));
		if ((heartbeat == HEARTBEAT_NONE && !session) || has_progress)
			done = write_heartbeat(&call, lease, heartbeat == HEARTBEAT_NONE && !session ? until : 0,
								   has_progress, progress);
		else
			done = true;
		jobq_slot_free(lease);
	}
	jobq_close_call(&call);
	PG_RETURN_BOOL(!cancel);
}

PG_FUNCTION_INFO_V1(jobq_job_lease_until);

/*
 * job_lease_until(job_id, token, lease_until): by the wall clock, for the views,
 * which have asked job_visible().  Who calls it otherwise hears of no heartbeat.
 * NULL: it has no end by the clock.
 */
Datum
jobq_job_lease_until(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	TimestampTz until;
	TimestampTz heard;
	TupleTableSlot *lease;
	TupleTableSlot *job;

	if (PG_ARGISNULL(0) || PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	until = PG_GETARG_TIMESTAMPTZ(2);
	if (until == DT_NOEND)
		PG_RETURN_NULL();
	heard = jobq_shmem_ready() ? jobq_heartbeat_until(PG_GETARG_INT64(0), PG_GETARG_INT64(1)) : 0;
	if (heard > until && !jobq_is_owner())
	{
		PreventCommandIfParallelMode("job_lease_until()");
		jobq_open_call(&call);
		lease = jobq_find_id(&call, JOBQ_LEASE, PG_GETARG_INT64(0));
		job = jobq_find_id(&call, JOBQ_JOB, PG_GETARG_INT64(0));
		if (lease == NULL || job == NULL ||
			!jobq_visible(&call, jobq_attr_int64(lease, STATE_QUEUE_ID),
						  jobq_attr_oid(job, JOB_SUBMITTED_BY),
						  jobq_attr_oid(lease, LEASE_HOLDER)))
			heard = 0;
		jobq_slot_free(job);
		jobq_slot_free(lease);
		jobq_close_call(&call);
	}
	PG_RETURN_TIMESTAMPTZ(jobq_wall_of(Max(until, heard)));
}

/*
 * For the background worker: end a lease that has run out, whose session has ended or
 * whose attempt has taken too long.  True: done, or gone.  False: look again at
 * *retry_at, or, if that is 0, soon, since somebody has it locked.
 */
bool
jobq_end_due_lease(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at)
{
	TupleTableSlot *lease = jobq_find_id(call, JOBQ_LEASE, job_id);
	int64		token;
	TimestampTz timeout_at;
	TimestampTz now = jobq_steady();
	JobqAttemptOutcome attempt_outcome = ATTEMPT_TIMED_OUT;
	const char *error = "timed out";
	JobqCascade *cascade;

	if (lease == NULL)
		return true;
	token = jobq_attr_int64(lease, LEASE_TOKEN);
	timeout_at = jobq_attr_int64(lease, LEASE_TIMEOUT_AT);

	if ((timeout_at == 0 || timeout_at > now) && !slot_attisnull(lease, LEASE_SESSION))
	{
		if (jobq_session_lives(jobq_attr_int64(lease, LEASE_SESSION)))
		{
			/* another than that which was seen, or due no more */
			jobq_slot_free(lease);
			return true;
		}
		attempt_outcome = ATTEMPT_LOST;
		error = "session ended";
	}
	else if (timeout_at == 0 || timeout_at > now)
	{
		TimestampTz until = Max(jobq_attr_int64(lease, LEASE_UNTIL),
								jobq_grace_start() + jobq_attr_int64(lease, LEASE_PERIOD));

		if (until > now || !jobq_heartbeat_expire(job_id, token, now, &until))
		{
			*retry_at = jobq_lease_deadline(until, timeout_at);
			jobq_slot_free(lease);
			return false;
		}
		attempt_outcome = ATTEMPT_LOST;
		error = "lease ran out";
	}
	if (!jobq_state_leave(call, JOBQ_LEASE, lease, LEAVE_TRY))
	{
		jobq_slot_free(lease);
		return false;
	}
	cascade = jobq_cascade_create(call);
	jobq_end_attempt(cascade, lease, attempt_outcome, error, true, -1);
	jobq_slot_free(lease);
	jobq_cascade_run(cascade, NULL, NULL);
	return true;
}
