/*
 * worker.c
 *	  The background worker of one database: what is due by the clock.
 *
 * It ends leases that ran out or whose session has ended (sessions.c) and attempts
 * that timed out, cancels expired jobs, makes scheduled jobs ready, sends the
 * coalesced notifications, pauses queues (breaker.c), lets jobs of queues with limits
 * in (gatekeeper.c), removes old jobs (purge.c), and sweeps.  It acts only where
 * job_active_database names its database (active.c).
 *
 * 1. A transaction that wrote a row before a floor (due.c) announces it when it
 *	  commits (announced_low).  The worker takes the announcements before its
 *	  snapshot, so a row is either seen by the scan or announced after it.
 * 2. It publishes when it wakes, then looks at the announcements once more,
 *	  then sleeps (slots.c).
 * 3. It waits for no row longer than a short lock_timeout, and once it has
 *	  waited for one, for the others of the same round hardly at all.
 * 4. While it sleeps it holds neither locks nor a snapshot.
 *
 * What was announced by nobody (a callback found no slot) is found by the
 * sweep, which moves the floors back to the beginning, and has the hand-out
 * look at its lanes again.  A sweep that takes long comes less often.
 *
 * A crash leaves nothing but rows that are still due; the next worker begins
 * with floors at the beginning.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/async.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "background/background.h"

int			jobq_sweep_interval_ms = JOBQ_DEFAULT_SWEEP_INTERVAL_MS;
int			jobq_notify_interval_ms = JOBQ_DEFAULT_NOTIFY_INTERVAL_MS;

#define HEARTBEATS			100 /* heartbeats that one step of a sweep takes */
#define LOCK_TIMEOUT_MS	200		/* at most, for a round's first locked row */
#define RETRY_FIRST		(100 * INT64CONST(1000))	/* delays of what failed */
#define RETRY_MAX		(60 * USECS_PER_SEC)
#define LOG_INTERVAL	(60 * USECS_PER_SEC)	/* between messages on one row */
#define LOG_ERROR		2		/* failures in a row before an error is logged */
#define LOG_CONFLICT	5		/* the same for a conflict with others */
#define SWEEP_SHARE		20		/* a sweep may take 1/20 of the time */
#define REMOVE_WORKERS		10	/* sweeps after a start, when all have come
								 * back */
#define STALE_HEARTBEAT		(60 * USECS_PER_SEC)
#define FOLD_PAUSE_MS		2	/* so that the next fold has more deltas */

static JobqDatabase *database;
static bool active = false;
static TimestampTz check_at = DT_NOBEGIN;	/* look whether we are */
static JobqFailures check_failures;
static TimestampTz notify_at = 0;	/* no notification before */
static JobqFailures notify_failures;
static TimestampTz sweep_at = 0;
static TimestampTz sweep_began = 0; /* 0: none is under way */
static bool sweep_again = false;	/* asked for while one is */
static bool sweep_workers = false;	/* still to be looked at */
static int	sweep_partition = JOBQ_HEARTBEAT_PARTITIONS;	/* next to look at */
static JobqSweep sweep_lanes;
static bool sweep_lanes_done = true;
static bool busy = false;		/* many events came in this round */
static bool waited = false;		/* in this round, until lock_timeout */
static MemoryContext round_context; /* emptied in each round of the loop */

/* Transactions */

/*
 * Do something in a transaction of its own, as the owner of the extension.
 * Returns NULL or, after it was aborted, the error.
 */
ErrorData *
jobq_worker_run(JobqTransaction work, void *arg, bool async)
{
	int			save_commit = synchronous_commit;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		JobqCall	call;
		Oid			user;
		int			context;

		/* in a deadlock it is this worker that gives up */
		LockTimeout = waited ? 1 : Max(Min(LOCK_TIMEOUT_MS, DeadlockTimeout / 2), 1);
		SetCurrentStatementStartTimestamp();
		StartTransactionCommand();
		PushActiveSnapshot(GetTransactionSnapshot());
		GetUserIdAndSecContext(&user, &context);
		SetUserIdAndSecContext(jobq_owner(), context | SECURITY_RESTRICTED_OPERATION);
		jobq_open_call(&call);
		work(&call, arg);
		jobq_close_call(&call);
		SetUserIdAndSecContext(user, context);
		PopActiveSnapshot();
		/* it can be done again by another server: wait for no standby */
		synchronous_commit = async ? SYNCHRONOUS_COMMIT_OFF :
			Min(synchronous_commit, SYNCHRONOUS_COMMIT_LOCAL_FLUSH);
		CommitTransactionCommand();
	}
	PG_CATCH();
	{
		MemoryContextSwitchTo(round_context);
		error = CopyErrorData();
		FlushErrorState();
		HOLD_INTERRUPTS();
		AbortCurrentTransaction();
		RESUME_INTERRUPTS();
		waited |= error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE && LockTimeout > 1;
	}
	PG_END_TRY();
	synchronous_commit = save_commit;
	MemoryContextSwitchTo(round_context);
	pgstat_report_stat(false);
	return error;
}

/* Is it an error that goes away when others are done? */
static bool
is_conflict(ErrorData *error)
{
	return error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE ||
		error->sqlerrcode == ERRCODE_T_R_DEADLOCK_DETECTED ||
		error->sqlerrcode == ERRCODE_T_R_SERIALIZATION_FAILURE ||
		error->sqlerrcode == ERRCODE_QUERY_CANCELED;
}

/* The delay after a number of failures. */
int64
jobq_retry_delay(int failures)
{
	return Min(RETRY_FIRST << Min(failures, 20), RETRY_MAX);
}

/* Log an error as what it is here, a warning. */
static void
report_error(ErrorData *error, const char *what, int64 job_id)
{
	bool		exists;

	/* none if the extension is just being dropped */
	StartTransactionCommand();
	exists = jobq_extension_exists();
	CommitTransactionCommand();
	MemoryContextSwitchTo(round_context);
	if (!exists)
		return;

	ereport(WARNING,
			(errcode(error->sqlerrcode),
			 job_id != 0 ? errmsg("jobq worker could not %s job %lld: %s",
								  what, (long long) job_id, error->message) :
			 errmsg("jobq worker could not %s: %s", what, error->message),
			 error->detail ? errdetail_internal("%s", error->detail) : 0,
			 error->hint ? errhint("%s", error->hint) : 0,
			 error->context ? errcontext("%s", error->context) : 0));
}

/*
 * Count a failure, and log it: not too often, and only if it lasts, for the
 * first may come of an extension that is just being dropped.
 */
void
jobq_worker_failed(JobqFailures *f, ErrorData *error, const char *what, int64 job_id)
{
	TimestampTz now = jobq_steady();

	f->count++;
	if (f->count < (is_conflict(error) ? LOG_CONFLICT : LOG_ERROR))
		return;
	if (f->logged_at != 0 && now < f->logged_at + LOG_INTERVAL)
		return;
	f->logged_at = now;
	report_error(error, what, job_id);
}

/* Is the worker to end or to make room? */
bool
jobq_worker_must_leave(void)
{
	return ProcDiePending || database->suspended > 0 || pg_atomic_read_u32(&database->yield) != 0;
}

/* Notifications */

typedef struct Queues
{
	bool		all;
	int			n;
	int64		ids[JOBQ_NOTIFY_QUEUES];
} Queues;

/* Announce a queue if it wants that done by us. */
static void
notify_queue(JobqCall *call, int64 queue_id)
{
	char		channel[NAMEDATALEN];
	JobqQueue	queue;

	jobq_queue_settings(call, queue_id, &queue);
	if (!queue.known || queue.notify != JOBQ_NOTIFY_COALESCED)
		return;
	snprintf(channel, sizeof(channel), "job_queue_%s", queue.name);
	Async_Notify(channel, "");
}

/* Announce some queues, or all. */
static void
notify_work(JobqCall *call, void *arg)
{
	Queues	   *queues = arg;

	for (int i = 0; i < queues->n && !queues->all; i++)
		notify_queue(call, queues->ids[i]);
	if (queues->all)
	{
		JobqScan   *scan = jobq_scan_begin(call, JOBQ_QUEUE, INDEX_SECOND, 0, NULL, NULL);
		TupleTableSlot *slot;

		while ((slot = jobq_scan_next(scan)) != NULL)
			notify_queue(call, jobq_attr_int64(slot, QUEUE_ID));
		jobq_scan_end(scan);
	}
}

/* Send the notifications for what became ready since the last time. */
static void
send_notifications(void)
{
	Queues		queues;
	ErrorData  *error;

	pg_atomic_exchange_u32(&database->notify_wanted, 0);
	queues.all = pg_atomic_exchange_u32(&database->notify_all, 0) != 0;
	queues.n = 0;
	for (int i = 0; i < JOBQ_NOTIFY_QUEUES; i++)
	{
		if (pg_atomic_read_u64(&database->notify_queues[i]) != 0)
			queues.ids[queues.n++] =
				(int64) pg_atomic_exchange_u64(&database->notify_queues[i], 0);
	}
	if (queues.n == 0 && !queues.all)
		return;

	pgstat_report_activity(STATE_RUNNING, "notify");
	error = jobq_worker_run(notify_work, &queues, true);
	notify_at = jobq_steady() + jobq_notify_interval_ms * INT64CONST(1000);
	if (error == NULL)
		notify_failures.count = 0;
	else
	{
		/* perhaps the notification queue is full: all of them, later */
		notify_at += jobq_retry_delay(notify_failures.count);
		jobq_worker_failed(&notify_failures, error, "notify of new jobs", 0);
		pg_atomic_write_u32(&database->notify_all, 1);
		pg_atomic_write_u32(&database->notify_wanted, 1);
	}
}

/* Sweeping */

/* Look at everything again. */
static void
begin_sweep(TimestampTz now)
{
	jobq_due_restart();
	jobq_sessions_restart();
	jobq_gatekeeper_sweep();
	sweep_again = false;
	sweep_workers = true;
	sweep_partition = 0;
	jobq_handout_sweep_begin(&sweep_lanes);
	sweep_lanes_done = false;
	sweep_began = now;
}

typedef struct StaleHeartbeats
{
	int			n;
	int			kept;			/* belong to a lease */
	JobqHeartbeatRef refs[HEARTBEATS];
} StaleHeartbeats;

/* Remove those heartbeats that belong to no lease. */
static void
heartbeats_work(JobqCall *call, void *arg)
{
	StaleHeartbeats *stale = arg;

	for (int i = 0; i < stale->n; i++)
	{
		JobqHeartbeatRef *ref = &stale->refs[i];
		TupleTableSlot *lease = jobq_find_id(call, JOBQ_LEASE, ref->job_id);

		if (lease != NULL && jobq_attr_int64(lease, LEASE_TOKEN) == ref->token)
			stale->kept++;
		else
			jobq_heartbeat_change(LEASE_END, ref->job_id, ref->token, 0);
		jobq_slot_free(lease);
	}
}

/* Look for such heartbeats in the next partition. */
static void
sweep_heartbeats(TimestampTz now)
{
	StaleHeartbeats stale = {0};

	stale.n = jobq_heartbeat_stale(sweep_partition, now - STALE_HEARTBEAT, stale.refs, HEARTBEATS);
	if (stale.n > 0 && jobq_worker_run(heartbeats_work, &stale, true) != NULL)
		stale.kept = stale.n;	/* the next sweep will see */

	/* stay with this one if there are more, and something to gain */
	if (stale.n < HEARTBEATS || stale.kept > 0)
		sweep_partition++;
}

/* Look after the rows of workers. */
static void
workers_work(JobqCall *call, void *arg)
{
	jobq_keep_workers(call, jobq_steady() > jobq_grace_start() +
					  jobq_sweep_interval_ms * INT64CONST(1000) * REMOVE_WORKERS);
}

/* Look for ready jobs that the hand-out does not know. */
static void
lanes_work(JobqCall *call, void *arg)
{
	sweep_lanes_done = !jobq_handout_sweep(call, &sweep_lanes);
}

/* A step of the sweep; true if there is more to do. */
static bool
do_sweep(TimestampTz now)
{
	if (sweep_began == 0)
	{
		if (now < sweep_at)
			return false;
		begin_sweep(now);
		return true;
	}
	if (sweep_workers)
	{
		sweep_workers = false;	/* if that fails, the next sweep will see */
		(void) jobq_worker_run(workers_work, NULL, true);
		return true;
	}
	if (sweep_partition < JOBQ_HEARTBEAT_PARTITIONS)
	{
		sweep_heartbeats(now);
		return true;
	}
	if (!sweep_lanes_done)
	{
		if (jobq_worker_run(lanes_work, NULL, true) != NULL)
			sweep_lanes_done = true;	/* the next sweep will see */
		return true;
	}
	if (!jobq_due_seen())
		return true;
	sweep_at = sweep_again ? now : now + Max(jobq_sweep_interval_ms * INT64CONST(1000),
											 (now - sweep_began) * SWEEP_SHARE);
	sweep_began = 0;
	return false;
}

/* The loop */

/* Read whether this is the home. */
static void
active_work(JobqCall *call, void *arg)
{
	active = jobq_is_active(call);
}

/* Look whether there is an extension, and whether this is its home. */
static void
check_database(void)
{
	static Oid	known = InvalidOid;
	ErrorData  *error;
	bool		exists;
	Oid			queues;
	bool		probe;

	StartTransactionCommand();
	exists = jobq_extension_exists();
	queues = exists ? jobq_table_oid(JOBQ_QUEUE) : InvalidOid;
	CommitTransactionCommand();
	MemoryContextSwitchTo(round_context);
	if (queues != known)
		jobq_gatekeeper_restart();	/* it is another extension */
	known = queues;
	if (!exists)
	{
		active = false;
		jobq_heartbeats_forget_database(MyDatabaseId);
		jobq_counts_forget_database(MyDatabaseId);
		if (jobq_worker_detach(database, LEAVE_NO_EXTENSION, DT_NOEND))
			proc_exit(0);
		return;					/* asked meanwhile, so look again */
	}
	SpinLockAcquire(&database->mutex);
	probe = database->state == DATABASE_UNKNOWN;
	database->state = DATABASE_ACTIVE;
	SpinLockRelease(&database->mutex);
	if (probe)
		jobq_launcher_wake();	/* it may start the next */

	error = jobq_worker_run(active_work, NULL, true);
	if (error == NULL)
		check_failures.count = 0;

	/* elsewhere than at home only a asked wakes us; one could be missed */
	check_at = active && error == NULL ? DT_NOEND : jobq_steady() +
		(error ? jobq_retry_delay(check_failures.count) : jobq_sweep_interval_ms * INT64CONST(1000));
	if (error != NULL)
		jobq_worker_failed(&check_failures, error, "read where it may act", 0);
}

/* Take what was announced. */
static void
take_announcements(void)
{
	uint32		asked = pg_atomic_exchange_u32(&database->asked, 0);

	if ((asked & ASK_CHECK) || (check_at != DT_NOEND && check_at <= jobq_steady()))
		check_database();
	if (asked & ASK_SWEEP)
	{
		/*
		 * what is due at once, also where a sweep is under way; the rest when
		 * it is done
		 */
		jobq_due_restart();
		jobq_sessions_restart();
		jobq_gatekeeper_sweep();
		sweep_again = true;
		sweep_at = 0;
	}
	if (asked & ASK_PURGE)
		jobq_purge_restart();
	for (int k = 0; k < DEADLINE_KINDS && active; k++)
	{
		TimestampTz low;

		if (jobq_read_time(&database->announced_low[k]) == DT_NOEND)
			continue;
		low = (TimestampTz) pg_atomic_exchange_u64(&database->announced_low[k], (uint64) DT_NOEND);
		if (k == DEADLINE_PURGE)
			jobq_purge_lower(low);
		else
			jobq_due_lower(k, low);
	}
}

/* Do one round of what is due; true if there may be more. */
static bool
do_round(void)
{
	TimestampTz now = jobq_steady();
	bool		more = false;

	if (!active)
		return false;
	waited = false;
	if (pg_atomic_read_u32(&database->notify_wanted) != 0 && now >= notify_at)
		send_notifications();
	jobq_sessions_round(database);
	more |= jobq_due_round();
	more |= jobq_gatekeeper_round(database, &busy);
	jobq_breaker_round(database);
	more |= do_sweep(now);
	jobq_purge_round(database);
	return more;
}

/* When to wake by ourselves. */
static TimestampTz
next_wake(void)
{
	TimestampTz at = check_at;

	if (!active)
		return at;
	at = Min(at, Min(jobq_due_next(), jobq_sessions_next()));
	at = Min(at, Min(jobq_breaker_next(), jobq_purge_next()));
	at = Min(at, jobq_gatekeeper_next());
	if (sweep_began == 0)
		at = Min(at, sweep_at);
	if (pg_atomic_read_u32(&database->notify_wanted) != 0)
		at = Min(at, notify_at);
	return Max(at, DT_NOBEGIN + 1);
}

/* Was something announced that needs us before this time? */
static bool
announced_before(TimestampTz at)
{
	if (pg_atomic_read_u32(&database->asked) != 0 || jobq_worker_must_leave())
		return true;
	if (!active)
		return false;
	return jobq_database_low(database) < at || pg_atomic_read_u32(&database->nfailed) != 0 ||
		pg_atomic_read_u32(&database->nended) != 0 ||
		pg_atomic_read_u32(&database->gate_events) != 0 ||
		(pg_atomic_read_u32(&database->notify_wanted) != 0 && notify_at < at);
}

/* Sleep until there is something to do. */
static void
sleep_until_next(uint32 wait_event)
{
	TimestampTz at = next_wake();

	pg_atomic_write_u64(&database->wake_at, (uint64) at);
	pg_memory_barrier();
	if (!announced_before(at))
	{
		long		timeout = -1;

		pgstat_report_stat(true);
		pgstat_report_activity(STATE_IDLE, NULL);
		if (at != DT_NOEND)
		{
			/* round up: do not wake before it is due */
			timeout = TimestampDifferenceMilliseconds(jobq_steady(), at + 999);
			timeout = Min(timeout, INT_MAX);
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
	}
	pg_atomic_write_u64(&database->wake_at, (uint64) DT_NOBEGIN);
	pg_memory_barrier();
}

/*
 * Let deltas gather after a fold: under load one fold then takes many of them, and
 * as we count as awake, no commit spends time on waking us.
 */
static void
pause_after_fold(uint32 wait_event)
{
	(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | WL_TIMEOUT,
					 FOLD_PAUSE_MS, wait_event);
}

/* Leave if that is asked of us. */
static void
leave_if_asked(void)
{
	if (ProcDiePending)
		proc_exit(0);
	if (database->suspended > 0 || pg_atomic_read_u32(&database->yield) != 0)
	{
		(void) jobq_worker_detach(database, LEAVE_ORDERLY, next_wake());
		proc_exit(0);
	}
}

/* Exit callback. */
static void
worker_exit(int code, Datum arg)
{
	(void) jobq_worker_detach(database, LEAVE_FAILED, DT_NOBEGIN);
}

/* Settings of this process, whatever those of the database or the server are. */
static void
fix_settings(void)
{
	static const char *const settings[][2] = {
		{"search_path", "pg_catalog, pg_temp"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"default_transaction_deferrable", "off"},
		{"transaction_timeout", "0"},	/* from version 17 on */
	};

	for (int i = 0; i < lengthof(settings); i++)
	{
		if (GetConfigOption(settings[i][0], true, false) != NULL)
			SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
	}
}

/* The worker of one database. */
void
jobq_worker_main(Datum arg)
{
	Oid			oid = DatumGetObjectId(arg);
	uint32		wait_event;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	database = jobq_worker_attach(oid);
	if (database == NULL)
		proc_exit(0);
	before_shmem_exit(worker_exit, (Datum) 0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
	fix_settings();
	ConfigReloadPending = true; /* one before our handler was there is lost */
	wait_event = jobq_wait_event("JobqWorker");

	jobq_due_init();
	jobq_gatekeeper_restart();
	sweep_at = jobq_steady() + jobq_sweep_interval_ms * INT64CONST(1000);
	round_context = AllocSetContextCreate(TopMemoryContext, "jobq worker",
										  ALLOCSET_DEFAULT_SIZES);

	for (;;)
	{
		ResetLatch(MyLatch);
		MemoryContextSwitchTo(round_context);
		MemoryContextReset(round_context);
		leave_if_asked();
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
			jobq_purge_reload();
			sweep_at = Min(sweep_at, jobq_steady() + jobq_sweep_interval_ms * INT64CONST(1000));
		}
		take_announcements();
		if (!do_round())
			sleep_until_next(wait_event);
		else if (busy || jobq_due_folded())
			pause_after_fold(wait_event);
	}
}
