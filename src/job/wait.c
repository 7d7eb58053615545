/*
 * wait.c
 *	  Waiting in the server: CALL job_wait and CALL job_claim_wait.
 *
 * A session that waits registers (waiter.c), looks at the tables, and sleeps
 * until it is woken, its time is out, its client has gone or it is cancelled.
 * It commits before each sleep, so while it sleeps it holds neither a snapshot
 * nor a transaction id nor locks, and does not hinder vacuum.  That is why these
 * are procedures, and why they cannot run inside a transaction block.
 *
 * What a sleeper looks at is in the tables: wake-ups are hints.  It looks anew
 * after RECHECK_INTERVAL in case one was missed.
 *
 * A job that job_claim_wait returns is claimed by the transaction that the end
 * of CALL commits.  The client is checked before the claim, so that no job goes
 * to a connection that is known to be lost.
 *
 * Arguments are detoasted and copied before the first commit, because they
 * could point to what only a snapshot keeps.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "pgstat.h"
#include "tcop/pquery.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

#define RECHECK_INTERVAL	(60 * USECS_PER_SEC)
#define STANDBY_INTERVAL	(1 * USECS_PER_SEC) /* where nobody wakes us */

/* One wait */
typedef struct Wait
{
	FunctionCallInfo fcinfo;
	const char *name;			/* of the procedure */
	TimestampTz deadline;		/* DT_NOEND: for ever */
	TupleDesc	tupdesc;		/* of its result */
	MemoryContext mcxt;			/* survives commits, as does the next */
	MemoryContext look_mcxt;	/* of one look at the tables */
	uint32		wait_event;
} Wait;

/* Check how we are called, commit, and prepare to wait. */
static void
begin_wait(Wait *wait, FunctionCallInfo fcinfo, const char *name, int timeout_arg,
		   const char *wait_event)
{
	CallContext *context = (CallContext *) fcinfo->context;
	int64		timeout = jobq_check_interval(fcinfo, timeout_arg, "timeout", true);

	jobq_require_loaded();		/* before the first look we register */
	if (context == NULL || !IsA(context, CallContext) || context->atomic || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", name),
				 errhint("Call it with autocommit, or use LISTEN, or poll.")));

	wait->fcinfo = fcinfo;
	wait->name = name;
	wait->deadline = timeout < 0 ? DT_NOEND : jobq_steady() + timeout;
	wait->mcxt = CurrentMemoryContext;
	wait->look_mcxt = AllocSetContextCreate(wait->mcxt, "jobq wait", ALLOCSET_SMALL_SIZES);
	wait->wait_event = jobq_wait_event(wait_event);
	if (get_call_result_type(fcinfo, NULL, &wait->tupdesc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	wait->tupdesc = BlessTupleDesc(wait->tupdesc);

	SPI_connect_ext(SPI_OPT_NONATOMIC);
	SPI_commit();
}

/* Make the procedure's result. */
static Datum
end_wait(Wait *wait, Datum *values, bool *nulls)
{
	Datum		result;

	MemoryContextSwitchTo(wait->mcxt);
	result = HeapTupleGetDatum(heap_form_tuple(wait->tupdesc, values, nulls));
	SPI_finish();
	return result;
}

/* Can the loss of this session's client be seen? */
static bool
has_socket(void)
{
	return MyProcPort != NULL && FeBeWaitSet != NULL && WaitEventSetCanReportClosed();
}

/* End the session: its client has gone. */
static void
client_lost(void)
{
	ClientConnectionLost = true;
	InterruptPending = true;
	CHECK_FOR_INTERRUPTS();
}

/* Sleep until the latch is set, the client has gone or the time is out. */
static void
sleep_once(Wait *wait, long timeout)
{
	WaitEvent	events[FeBeWaitSetNEvents];
	int			n;

	if (!has_socket())
	{
		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 timeout, wait->wait_event);
		ResetLatch(MyLatch);
		return;
	}

	ModifyWaitEvent(FeBeWaitSet, FeBeWaitSetSocketPos, WL_SOCKET_CLOSED, NULL);
	n = WaitEventSetWait(FeBeWaitSet, timeout, events, lengthof(events), wait->wait_event);
	for (int i = 0; i < n; i++)
	{
		if (events[i].events & WL_LATCH_SET)
			ResetLatch(MyLatch);
		if (events[i].events & WL_SOCKET_CLOSED)
			client_lost();
		if (events[i].events & WL_POSTMASTER_DEATH)
			ereport(FATAL,
					(errcode(ERRCODE_ADMIN_SHUTDOWN),
					 errmsg("terminating connection due to unexpected postmaster exit")));
	}
}

/* Sleep until woken or it is time to look again; false: the time is out. */
static bool
sleep_until_woken(Wait *wait)
{
	TimestampTz recheck = jobq_steady();

	recheck += RecoveryInProgress() ? STANDBY_INTERVAL : RECHECK_INTERVAL;
	if (jobq_steady() >= wait->deadline)
		return false;

	/* end the transaction that has looked, with its snapshot */
	SPI_commit();
	InvalidateCatalogSnapshot();

	while (!jobq_waiter_woken())
	{
		TimestampTz now;

		CHECK_FOR_INTERRUPTS();
		now = jobq_steady();
		if (now >= wait->deadline || now >= recheck)
			break;
		/* round up, so as not to wake before the deadline */
		sleep_once(wait, TimestampDifferenceMilliseconds(now, Min(wait->deadline, recheck)) + 1);
	}
	CHECK_FOR_INTERRUPTS();
	return true;
}

/* Begin to look at the tables. */
static void
begin_look(Wait *wait, JobqCall *call, bool writes)
{
	MemoryContextReset(wait->look_mcxt);
	MemoryContextSwitchTo(wait->look_mcxt);
	/* the transaction began before we slept */
	AcceptInvalidationMessages();
	EnsurePortalSnapshotExists();
	jobq_enter(call, wait->name, writes);
}

PG_FUNCTION_INFO_V1(jobq_job_wait);

/* job_wait(job_id, timeout, INOUT state, INOUT result) */
Datum
jobq_job_wait(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "job_id");
	Wait		wait;
	Datum		values[2] = {0};
	bool		nulls[2] = {false};

	begin_wait(&wait, fcinfo, "job_wait()", 1, "JobqWait");
	for (;;)
	{
		JobqCall	call;
		bool		decided;

		jobq_waiter_register(true, id, 0, NULL);
		begin_look(&wait, &call, false);
		jobq_require_visible(&call, id);
		values[0] = CStringGetTextDatum(jobq_job_state(&call, id, &decided, &values[1], &nulls[1]));
		jobq_close_call(&call);
		if (decided || !sleep_until_woken(&wait))
			break;
	}
	jobq_waiter_leave(true);
	return end_wait(&wait, values, nulls);
}

PG_FUNCTION_INFO_V1(jobq_job_claim_wait);

/* job_claim_wait(queue, worker, timeout, lease, INOUT the columns of job_assignment, labels) */
Datum
jobq_job_claim_wait(PG_FUNCTION_ARGS)
{
	char	   *queue = jobq_check_queue(fcinfo, 0);
	JobqClaimRequest request = {.nqueues = 1,.queues = &queue,
		.worker = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_P_COPY(1),.max_jobs = 1,
	.lease = jobq_check_lease(jobq_check_interval(fcinfo, 3, "lease", false), "lease")};
	int64		queue_id = jobq_queue_id(queue);
	char	   *name = request.worker ? text_to_cstring(request.worker) : NULL;
	uint64		worker = name ? jobq_worker_key(name, strlen(name)) : 0;
	bool		drains = false;
	Wait		wait;
	Datum		values[JOBQ_ASSIGNMENT_NATTS] = {0};
	bool		nulls[JOBQ_ASSIGNMENT_NATTS];

	memset(nulls, true, sizeof(nulls));
	if (name != NULL)
		jobq_check_name(name, "worker");
	request.labels = jobq_check_labels(fcinfo, 4 + JOBQ_ASSIGNMENT_NATTS);
	begin_wait(&wait, fcinfo, "job_claim_wait()", 2, "JobqClaimWait");
	for (;;)
	{
		JobqCall	call;
		JobqAssignment *job;
		bool		drained = drains;
		int			n;

		/*
		 * one that drains waits for no queue, or it would get others'
		 * wake-ups
		 */
		jobq_waiter_register(drains, drains ? 0 : queue_id, worker, jobq_labels_of(request.labels));
		if (has_socket() && !pq_check_connection())
			client_lost();
		begin_look(&wait, &call, true);
		n = jobq_claim(&call, &request, &job);
		if (n > 0)
			jobq_assignment_values(job, values, nulls);
		drains = name != NULL && jobq_worker_drains(&call, name);
		jobq_close_call(&call);
		if (n > 0)
		{
			jobq_waiter_claimed(job->required);
			break;
		}
		if (drains != drained)
		{
			jobq_waiter_leave(false);
			continue;
		}
		if (!sleep_until_woken(&wait))
		{
			jobq_waiter_leave(false);
			break;
		}
	}
	return end_wait(&wait, values, nulls);
}
