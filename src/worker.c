/*
 * worker.c
 *	  The background worker of one database: what is due by the clock.
 *
 * It ends leases that ran out and attempts that timed out, cancels expired
 * jobs, makes scheduled jobs ready, sends the coalesced notifications, and
 * sweeps.  It acts only where job_home names its database (home.c).
 *
 * For each of the three tables with a time there is a floor: all rows before
 * it have been seen.  A pass scans the index from the floor on, takes what is
 * due and learns from the first row that is not when to wake next.  Rows that
 * are due but cannot be dealt with now (a lease that heartbeats in memory keep
 * alive, a locked row, an error) are remembered here with a time to try
 * again, so the floor passes them and no row is scanned again and again.
 *
 * 1. A transaction that wrote a row before the floor announces it when it
 *	  commits (announced_low).  The worker takes the announcements before its
 *	  snapshot, so a row is either seen by the scan or announced after it.
 * 2. It publishes when it wakes, then looks at the announcements once more,
 *	  then sleeps (shmem.c).
 * 3. It waits for no row longer than a short lock_timeout, and once it has
 *	  waited for one, for the others of the same round hardly at all.  Each lease and each expiry
 *	  is a transaction of its own, and where a batch fails, each of its rows is
 *	  tried alone: one bad row never stops the rest.
 * 4. While it sleeps it holds neither locks nor a snapshot.
 *
 * What was announced by nobody (a callback found no slot) is found by the
 * sweep, which moves the floors back to the beginning, and has the hand-out
 * look at its lanes again.  A sweep that takes
 * long comes less often.
 *
 * A crash leaves nothing but rows that are still due; the next worker begins
 * with floors at the beginning.
 */
#include "postgres.h"

#include "access/xact.h"
#include "commands/async.h"
#include "lib/pairingheap.h"
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
#include "utils/timestamp.h"

#include "background.h"

#define BATCH			100		/* rows that one pass takes */
#define LOCK_TIMEOUT_MS	200		/* for the first row of a round that is locked */
#define RETRY_FIRST		(100 * INT64CONST(1000))	/* delays of what failed */
#define RETRY_MAX		(60 * USECS_PER_SEC)
#define LOG_INTERVAL	(60 * USECS_PER_SEC)	/* between messages on one row */
#define LOG_ERROR		2		/* failures in a row before an error is logged */
#define LOG_CONFLICT	5		/* the same for a conflict with others */
#define SWEEP_SHARE		20		/* a sweep may take 1/20 of the time */
#define STALE_BEAT		(60 * USECS_PER_SEC)

/* How often something failed in a row */
typedef struct Failures
{
	int			count;
	TimestampTz logged_at;		/* 0: never */
} Failures;

/* A row that is due but could not be dealt with */
typedef struct PendingKey
{
	int64		job_id;
	int64		kind;			/* JobqDeadline */
} PendingKey;

typedef struct Pending
{
	PendingKey	key;			/* must be first */
	pairingheap_node node;
	TimestampTz deadline;		/* as in the row that was seen */
	TimestampTz at;				/* try again then */
	Failures	failures;
} Pending;

/* What is known of one table */
typedef struct Clock
{
	TimestampTz floor;			/* rows before it were seen */
	TimestampTz next;			/* nothing there is due before */
	Failures	failures;		/* of the scan */
} Clock;

typedef struct DueRow
{
	int64		job_id;
	TimestampTz deadline;
	bool		done;
	TimestampTz retry_at;
} DueRow;

/* What to do with a row; false: try again at *retry_at, or soon if that is 0. */
typedef bool (*RowAct) (JobqCall *call, int64 job_id, TimestampTz *retry_at);

typedef struct Kind
{
	JobqTable	table;
	JobqIndex	index;
	int			id_column;
	int			deadline_column;
	RowAct		act;
	int			batch;			/* rows in one transaction */
	bool		async;			/* commit without waiting for the disk */
	const char *what;
} Kind;

static bool move_job(JobqCall *call, int64 job_id, TimestampTz *retry_at);
static bool expire_job(JobqCall *call, int64 job_id, TimestampTz *retry_at);

static const Kind kinds[DEADLINE_KINDS] = {
	[DEADLINE_LEASE] = {JOBQ_LEASE, INDEX_SECOND, LEASE_JOB_ID, LEASE_DEADLINE,
	jobq_end_due_lease, 1, false, "end the lease of"},
	[DEADLINE_SCHEDULED] = {JOBQ_SCHEDULED, INDEX_SECOND, SCHEDULED_JOB_ID, SCHEDULED_RUN_AT,
	move_job, BATCH, true, "make ready"},
	[DEADLINE_EXPIRY] = {JOBQ_EXPIRY, INDEX_KEY, EXPIRY_JOB_ID, EXPIRY_EXPIRES_AT,
	expire_job, 1, false, "expire"},
};

static JobqDatabase *database;
static Clock clocks[DEADLINE_KINDS];
static HTAB *pending;
static pairingheap *pending_heap;
static bool at_home = false;
static TimestampTz look_at = DT_NOBEGIN;	/* look whether we are */
static Failures look_failures;
static TimestampTz notify_at = 0;	/* no notification before */
static Failures notify_failures;
static TimestampTz sweep_at = 0;
static TimestampTz sweep_began = 0; /* 0: none is under way */
static int	sweep_partition = JOBQ_BEAT_PARTITIONS; /* next to look at */
static JobqSweep sweep_lanes;
static bool sweep_lanes_done = true;
static bool waited = false;		/* in this round, until lock_timeout */
static MemoryContext round_context; /* emptied in each round of the loop */

/* ----------------
 *		Transactions
 * ----------------
 */

/* What a transaction does. */
typedef void (*Work) (JobqCall *call, void *arg);

/*
 * Do something in a transaction of its own, as the owner of the extension.
 * Returns NULL or, after it was aborted, the error.
 */
static ErrorData *
run(Work work, void *arg, bool async)
{
	int			save_commit = synchronous_commit;
	ErrorData  *volatile error = NULL;

	PG_TRY();
	{
		JobqCall	call;
		Oid			user;
		int			context;

		LockTimeout = waited ? 1 : LOCK_TIMEOUT_MS;
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
		if (async)
			synchronous_commit = SYNCHRONOUS_COMMIT_OFF;
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
		waited |= error->sqlerrcode == ERRCODE_LOCK_NOT_AVAILABLE;
	}
	PG_END_TRY();
	synchronous_commit = save_commit;
	MemoryContextSwitchTo(round_context);
	pgstat_report_stat(false);
	return error;
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
static int64
retry_delay(int failures)
{
	return Min(RETRY_FIRST << Min(failures, 20), RETRY_MAX);
}

/*
 * Count a failure.  Returns whether to log it: not too often, and only if it
 * lasts, for the first may come of an extension that is just being dropped.
 */
static bool
failed(Failures *f, ErrorData *error)
{
	TimestampTz now = GetCurrentTimestamp();

	f->count++;
	if (f->count < (is_conflict(error) ? LOG_CONFLICT : LOG_ERROR))
		return false;
	if (f->logged_at != 0 && now < f->logged_at + LOG_INTERVAL)
		return false;
	f->logged_at = now;
	return true;
}

/* ----------------
 *		Rows to try again
 * ----------------
 */

/* Order the heap by time, earliest first. */
static int
compare_pending(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz x = pairingheap_const_container(Pending, node, a)->at;
	TimestampTz y = pairingheap_const_container(Pending, node, b)->at;

	return x < y ? 1 : (x > y ? -1 : 0);
}

/* The entry of a row, or NULL. */
static Pending *
find_pending(JobqDeadline kind, int64 job_id)
{
	PendingKey	key = {job_id, kind};

	return hash_search(pending, &key, HASH_FIND, NULL);
}

/* Forget a row. */
static void
drop_pending(JobqDeadline kind, int64 job_id)
{
	PendingKey	key = {job_id, kind};
	Pending    *p = find_pending(kind, job_id);

	if (p == NULL)
		return;
	pairingheap_remove(pending_heap, &p->node);
	hash_search(pending, &key, HASH_REMOVE, NULL);
}

/* Remember to try a row again; at 0: after a delay that grows. */
static Pending *
add_pending(JobqDeadline kind, const DueRow *row, TimestampTz at)
{
	PendingKey	key = {row->job_id, kind};
	TimestampTz now = GetCurrentTimestamp();
	bool		found;
	Pending    *p = hash_search(pending, &key, HASH_ENTER, &found);

	if (found)
		pairingheap_remove(pending_heap, &p->node);
	else
		memset(&p->failures, 0, sizeof(Failures));
	p->deadline = row->deadline;
	p->at = at != 0 ? Max(at, now + 1000) : now + retry_delay(p->failures.count);
	pairingheap_add(pending_heap, &p->node);
	return p;
}

/* ----------------
 *		What is due
 * ----------------
 */

/* Make a scheduled job ready. */
static bool
move_job(JobqCall *call, int64 job_id, TimestampTz *retry_at)
{
	*retry_at = 0;
	return jobq_move_due_job(call, job_id);
}

/* Cancel a job that was not started in time. */
static bool
expire_job(JobqCall *call, int64 job_id, TimestampTz *retry_at)
{
	*retry_at = 0;
	return jobq_expire_job(call, job_id);
}

/* Is the worker to end or to make room? */
static bool
must_leave(void)
{
	return ProcDiePending || database->suspended > 0 || pg_atomic_read_u32(&database->yield) != 0;
}

/* Some rows of one kind */
typedef struct Batch
{
	JobqDeadline kind;
	TimestampTz now;
	int			n;
	DueRow	   *rows;
	TimestampTz floor;			/* of the scan after this batch */
	TimestampTz next;
} Batch;

/* Deal with rows. */
static void
act_work(JobqCall *call, void *arg)
{
	Batch	   *batch = arg;

	for (int i = 0; i < batch->n; i++)
	{
		DueRow	   *row = &batch->rows[i];

		row->done = kinds[batch->kind].act(call, row->job_id, &row->retry_at);
		jobq_advance();
	}
}

/* Deal with rows in one transaction; false: an error, nothing was done. */
static bool
act_on_rows(JobqDeadline kind, DueRow *rows, int n)
{
	Batch		batch = {kind, 0, n, rows};
	ErrorData  *error = run(act_work, &batch, kinds[kind].async);

	if (error != NULL && n == 1)
	{
		Pending    *p = add_pending(kind, rows, 0);

		if (failed(&p->failures, error))
			report_error(error, kinds[kind].what, rows->job_id);
	}
	for (int i = 0; i < n && error == NULL; i++)
	{
		if (rows[i].done)
			drop_pending(kind, rows[i].job_id);
		else
		{
			Pending    *p = add_pending(kind, &rows[i], rows[i].retry_at);

			p->failures.count = rows[i].retry_at != 0 ? 0 : p->failures.count + 1;
		}
	}
	return error == NULL;
}

/* Deal with rows in as many transactions as it takes. */
static void
act(JobqDeadline kind, DueRow *rows, int n)
{
	for (int i = 0; i < n; i += kinds[kind].batch)
	{
		int			m = Min(kinds[kind].batch, n - i);

		if (must_leave())
			return;
		if (!act_on_rows(kind, rows + i, m) && m > 1)
		{
			for (int k = i; k < i + m && !must_leave(); k++)
				(void) act_on_rows(kind, rows + k, 1);
		}
	}
}

/* Find rows that are due, from the floor on. */
static void
scan_work(JobqCall *call, void *arg)
{
	Batch	   *batch = arg;
	const Kind *k = &kinds[batch->kind];
	JobqScan   *scan = jobq_scan_range(call, k->table, k->index, clocks[batch->kind].floor,
									   DT_NOEND, GetActiveSnapshot());
	TupleTableSlot *slot;

	batch->n = 0;
	batch->floor = batch->now;
	batch->next = DT_NOEND;
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		int64		job_id = jobq_attr_int64(slot, k->id_column);
		TimestampTz deadline = jobq_attr_int64(slot, k->deadline_column);
		Pending    *p;

		CHECK_FOR_INTERRUPTS();
		if (deadline > batch->now)
		{
			batch->next = deadline;
			break;
		}
		p = find_pending(batch->kind, job_id);
		if (p != NULL && p->deadline == deadline)
			continue;
		if (batch->n == BATCH)
		{
			batch->floor = batch->next = deadline;
			break;
		}
		batch->rows[batch->n].job_id = job_id;
		batch->rows[batch->n].deadline = deadline;
		batch->n++;
	}
	jobq_scan_end(scan);
}

/* Deal with what is due in one table; true if it did something. */
static bool
do_due(JobqDeadline kind, TimestampTz now)
{
	Clock	   *clock = &clocks[kind];
	DueRow		rows[BATCH];
	Batch		batch = {kind, now, 0, rows};
	ErrorData  *error;

	if (clock->next > now)
		return false;
	error = run(scan_work, &batch, true);
	if (error != NULL)
	{
		clock->next = GetCurrentTimestamp() + retry_delay(clock->failures.count);
		if (failed(&clock->failures, error))
			report_error(error, "find jobs", 0);
		return false;
	}
	clock->failures.count = 0;
	clock->floor = batch.floor;
	clock->next = batch.next;
	if (batch.n == 0)
		return false;
	pgstat_report_activity(STATE_RUNNING, kinds[kind].what);
	act(kind, rows, batch.n);
	return true;
}

/* Try rows again whose time has come; true if there were any. */
static bool
do_pending(TimestampTz now)
{
	int			n = 0;

	while (n < BATCH && !pairingheap_is_empty(pending_heap) && !must_leave())
	{
		Pending    *p = pairingheap_container(Pending, node, pairingheap_first(pending_heap));
		DueRow		row = {p->key.job_id, p->deadline};

		if (p->at > now)
			break;
		(void) act_on_rows(p->key.kind, &row, 1);
		n++;
	}
	return n > 0;
}

/* ----------------
 *		Notifications
 * ----------------
 */

typedef struct Lanes
{
	bool		all;
	int			n;
	int64		lanes[JOBQ_DIRTY_LANES];
} Lanes;

/* Announce a queue if it wants that done by us. */
static void
notify_lane(JobqCall *call, int64 lane)
{
	char		channel[NAMEDATALEN];
	JobqQueue	queue;

	jobq_queue_settings(call, lane, &queue);
	if (!queue.known || queue.notify != JOBQ_NOTIFY_COALESCED)
		return;
	snprintf(channel, sizeof(channel), "job_queue_%s", queue.name);
	Async_Notify(channel, "");
}

/* Announce the queues of some lanes, or all. */
static void
notify_work(JobqCall *call, void *arg)
{
	Lanes	   *lanes = arg;

	for (int i = 0; i < lanes->n && !lanes->all; i++)
		notify_lane(call, lanes->lanes[i]);
	if (lanes->all)
	{
		JobqScan   *scan = jobq_scan_begin(call, JOBQ_QUEUE, INDEX_SECOND, 0, NULL, NULL);
		TupleTableSlot *slot;

		while ((slot = jobq_scan_next(scan)) != NULL)
			notify_lane(call, jobq_attr_int64(slot, QUEUE_LANE));
		jobq_scan_end(scan);
	}
}

/* Send the notifications for what became ready since the last time. */
static void
send_notifications(void)
{
	Lanes		lanes;
	ErrorData  *error;

	pg_atomic_exchange_u32(&database->dirty, 0);
	lanes.all = pg_atomic_exchange_u32(&database->dirty_overflow, 0) != 0;
	lanes.n = 0;
	for (int i = 0; i < JOBQ_DIRTY_LANES; i++)
	{
		if (pg_atomic_read_u64(&database->dirty_lanes[i]) != 0)
			lanes.lanes[lanes.n++] =
				(int64) pg_atomic_exchange_u64(&database->dirty_lanes[i], 0);
	}
	if (lanes.n == 0 && !lanes.all)
		return;

	pgstat_report_activity(STATE_RUNNING, "notify");
	error = run(notify_work, &lanes, true);
	notify_at = GetCurrentTimestamp() + jobq_notify_interval_ms * INT64CONST(1000);
	if (error == NULL)
		notify_failures.count = 0;
	else
	{
		/* perhaps the notification queue is full: all of them, later */
		notify_at += retry_delay(notify_failures.count);
		if (failed(&notify_failures, error))
			report_error(error, "notify of new jobs", 0);
		pg_atomic_write_u32(&database->dirty_overflow, 1);
		pg_atomic_write_u32(&database->dirty, 1);
	}
}

/* ----------------
 *		Sweeping
 * ----------------
 */

/* Look at everything again. */
static void
begin_sweep(TimestampTz now)
{
	for (int k = 0; k < DEADLINE_KINDS; k++)
		clocks[k].floor = clocks[k].next = DT_NOBEGIN;
	sweep_partition = 0;
	jobq_handout_sweep_begin(&sweep_lanes);
	sweep_lanes_done = false;
	sweep_began = now;
}

typedef struct StaleBeats
{
	int			n;
	int			kept;			/* belong to a lease */
	JobqBeatRef refs[BATCH];
} StaleBeats;

/* Remove those heartbeats that belong to no lease. */
static void
beats_work(JobqCall *call, void *arg)
{
	StaleBeats *stale = arg;

	for (int i = 0; i < stale->n; i++)
	{
		JobqBeatRef *ref = &stale->refs[i];
		TupleTableSlot *lease = jobq_find_id(call, JOBQ_LEASE, ref->job_id);

		if (lease != NULL && jobq_attr_int64(lease, LEASE_TOKEN) == ref->token)
			stale->kept++;
		else
			jobq_beat_remove(ref->job_id, ref->token);
		jobq_slot_free(lease);
	}
}

/* Look for such heartbeats in the next partition. */
static void
sweep_beats(TimestampTz now)
{
	StaleBeats	stale = {0};

	stale.n = jobq_beat_stale(sweep_partition, now - STALE_BEAT, stale.refs, BATCH);
	if (stale.n > 0 && run(beats_work, &stale, true) != NULL)
		stale.kept = stale.n;	/* the next sweep will see */

	/* stay with this one if there are more, and something to gain */
	if (stale.n < BATCH || stale.kept > 0)
		sweep_partition++;
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
	if (sweep_partition < JOBQ_BEAT_PARTITIONS)
	{
		sweep_beats(now);
		return true;
	}
	if (!sweep_lanes_done)
	{
		if (run(lanes_work, NULL, true) != NULL)
			sweep_lanes_done = true;	/* the next sweep will see */
		return true;
	}
	for (int k = 0; k < DEADLINE_KINDS; k++)
	{
		if (clocks[k].next <= now)
			return true;
	}
	sweep_at = now + Max(jobq_sweep_interval_ms * INT64CONST(1000),
						 (now - sweep_began) * SWEEP_SHARE);
	sweep_began = 0;
	return false;
}

/* ----------------
 *		The loop
 * ----------------
 */

/* Read whether this is the home. */
static void
home_work(JobqCall *call, void *arg)
{
	at_home = jobq_is_home(call);
}

/* Look whether there is an extension, and whether this is its home. */
static void
look_around(void)
{
	ErrorData  *error;
	bool		exists;

	StartTransactionCommand();
	exists = jobq_extension_exists();
	CommitTransactionCommand();
	MemoryContextSwitchTo(round_context);
	if (!exists)
	{
		at_home = false;
		jobq_beats_forget_database(MyDatabaseId);
		if (jobq_worker_detach(database, LEAVE_NO_EXTENSION, DT_NOEND))
			proc_exit(0);
		return;					/* poked meanwhile, so look again */
	}
	SpinLockAcquire(&database->mutex);
	database->state = DATABASE_ACTIVE;
	SpinLockRelease(&database->mutex);

	error = run(home_work, NULL, true);
	if (error == NULL)
		look_failures.count = 0;

	/* elsewhere than at home only a poke wakes us; one could be missed */
	look_at = at_home && error == NULL ? DT_NOEND : GetCurrentTimestamp() +
		(error ? retry_delay(look_failures.count) : jobq_sweep_interval_ms * INT64CONST(1000));
	if (error != NULL && failed(&look_failures, error))
		report_error(error, "read where it may act", 0);
}

/* Take what was announced. */
static void
take_announcements(void)
{
	uint32		poke = pg_atomic_exchange_u32(&database->poke, 0);

	if ((poke & POKE_LOOK) || (look_at != DT_NOEND && look_at <= GetCurrentTimestamp()))
		look_around();
	if (poke & POKE_SWEEP)
		sweep_at = 0;
	for (int k = 0; k < DEADLINE_KINDS && at_home; k++)
	{
		TimestampTz low;

		if (jobq_read_time(&database->announced_low[k]) == DT_NOEND)
			continue;
		low = (TimestampTz) pg_atomic_exchange_u64(&database->announced_low[k], (uint64) DT_NOEND);
		clocks[k].floor = Min(clocks[k].floor, low);
		clocks[k].next = Min(clocks[k].next, low);
	}
}

/* Do one round of what is due; true if there may be more. */
static bool
do_round(void)
{
	TimestampTz now = GetCurrentTimestamp();
	bool		more = false;

	if (!at_home)
		return false;
	waited = false;
	if (pg_atomic_read_u32(&database->dirty) != 0 && now >= notify_at)
		send_notifications();
	for (int k = 0; k < DEADLINE_KINDS && !must_leave(); k++)
		more |= do_due(k, now);
	more |= do_pending(now);
	more |= do_sweep(now);
	return more;
}

/* When to wake by ourselves. */
static TimestampTz
next_wake(void)
{
	TimestampTz at = look_at;

	if (!at_home)
		return at;
	for (int k = 0; k < DEADLINE_KINDS; k++)
		at = Min(at, clocks[k].next);
	if (!pairingheap_is_empty(pending_heap))
		at = Min(at, pairingheap_container(Pending, node, pairingheap_first(pending_heap))->at);
	if (sweep_began == 0)
		at = Min(at, sweep_at);
	if (pg_atomic_read_u32(&database->dirty) != 0)
		at = Min(at, notify_at);
	return Max(at, DT_NOBEGIN + 1);
}

/* Was something announced that needs us before this time? */
static bool
announced_before(TimestampTz at)
{
	if (pg_atomic_read_u32(&database->poke) != 0 || must_leave())
		return true;
	if (!at_home)
		return false;
	return jobq_database_low(database) < at ||
		(pg_atomic_read_u32(&database->dirty) != 0 && notify_at < at);
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
			timeout = TimestampDifferenceMilliseconds(GetCurrentTimestamp(), at + 999);
			timeout = Min(timeout, INT_MAX);
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
	}
	pg_atomic_write_u64(&database->wake_at, (uint64) DT_NOBEGIN);
	pg_memory_barrier();
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
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/* The worker of one database. */
void
jobq_worker_main(Datum arg)
{
	Oid			oid = DatumGetObjectId(arg);
	uint32		wait_event;
	HASHCTL		ctl;

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	database = jobq_worker_attach(oid);
	if (database == NULL)
		proc_exit(0);
	before_shmem_exit(worker_exit, (Datum) 0);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(oid, InvalidOid, 0);
	fix_settings();
	wait_event = jobq_wait_event("JobqWorker");

	ctl.keysize = sizeof(PendingKey);
	ctl.entrysize = sizeof(Pending);
	pending = hash_create("jobq rows to try again", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	MemoryContextSwitchTo(TopMemoryContext);
	pending_heap = pairingheap_allocate(compare_pending, NULL);
	for (int k = 0; k < DEADLINE_KINDS; k++)
		clocks[k].floor = clocks[k].next = DT_NOBEGIN;
	sweep_at = GetCurrentTimestamp() + jobq_sweep_interval_ms * INT64CONST(1000);
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
			sweep_at = Min(sweep_at, GetCurrentTimestamp() + jobq_sweep_interval_ms * INT64CONST(1000));
		}
		take_announcements();
		if (!do_round())
			sleep_until_next(wait_event);
	}
}
