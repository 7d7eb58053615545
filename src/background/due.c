/*
 * due.c
 *	  What is due by the clock, in the background worker.
 *
 * For each of the tables with a time, or with a number that is due once it is
 * committed, there is a floor: all rows before it have been seen.  A pass scans the
 * index from the floor on, takes what is due and learns from the first row that is
 * not when to wake next.  Rows that are due but cannot be dealt with now (a lease
 * that heartbeats in memory keep alive, a locked row, an error) are remembered here
 * with a time to try again, so the floor passes them and no row is scanned again and
 * again.  Rows with a number can be very many where one job is locked, so of each
 * kind of them only the lowest number is remembered.
 *
 * Rows of a kind are dealt with in batches, a transaction each.  A batch waits a
 * millisecond at most for a lock that others hold, and where it fails, each of its
 * rows is tried alone, as is what has failed before: one bad row never stops the
 * rest.
 */
#include "postgres.h"

#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "storage/proc.h"
#include "utils/backend_status.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "background/background.h"

#define DUE_KINDS		DEADLINE_PURGE	/* those with a table of their own */
#define BATCH			500		/* rows that one pass takes */
#define AGAIN_FIRST		(10 * INT64CONST(1000)) /* delays of what is seen
												 * again */
#define AGAIN_MAX		(500 * INT64CONST(1000))

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
	TimestampTz at;				/* try again then, by jobq_steady() */
	JobqFailures failures;
} Pending;

/* What is known of one table, by the clock of its deadlines */
typedef struct Clock
{
	TimestampTz floor;			/* rows before it were seen */
	TimestampTz next;			/* nothing there is due before */
	TimestampTz again_at;		/* see the rows from again_from on again then */
	int64		again_from;
	int			again_count;	/* how often in a row */
	bool		all;			/* all rows are to be seen, also before their
								 * time */
	JobqFailures failures;		/* of the scan */
} Clock;

typedef struct DueRow
{
	int64		job_id;			/* or the number, where it is numbered, or a
								 * schedule's */
	TimestampTz deadline;
	bool		done;
	TimestampTz retry_at;
} DueRow;

typedef struct Kind
{
	JobqTable	table;
	JobqIndex	index;
	int			id_column;
	int			deadline_column;
	JobqDueAct	act;			/* NULL: deltas are folded, many at once */
	int			batch;			/* rows in one transaction */
	bool		async;			/* commit without waiting for the disk */
	bool		numbered;		/* the deadline is a number: due once
								 * committed */
	const char *what;
} Kind;

static const Kind kinds[DUE_KINDS] = {
	[DEADLINE_LEASE] = {JOBQ_LEASE, INDEX_SECOND, STATE_JOB_ID, LEASE_DEADLINE,
	jobq_end_due_lease, 100, false, false, "end the lease of"},
	[DEADLINE_SCHEDULED] = {JOBQ_SCHEDULED, INDEX_SECOND, STATE_JOB_ID, STATE_RUN_AT,
	jobq_move_due_job, 100, true, false, "make ready"},
	[DEADLINE_TICK] = {JOBQ_SCHEDULE, INDEX_SECOND, SCHEDULE_ID, SCHEDULE_NEXT_AT,
	jobq_run_schedule, 50, true, false, "submit the jobs of schedules"},
	[DEADLINE_KEPT] = {JOBQ_KEPT, INDEX_KEY, KEPT_JOB_ID, KEPT_LOOK_AT,
	jobq_end_kept, 100, true, false, "let any worker have"},
	[DEADLINE_EXPIRY] = {JOBQ_EXPIRY, INDEX_KEY, EXPIRY_JOB_ID, EXPIRY_EXPIRES_AT,
	jobq_expire_job, 100, false, false, "expire"},
	[DEADLINE_UNIQUE] = {JOBQ_UNIQUE, INDEX_SECOND, UNIQUE_JOB_ID, UNIQUE_UNTIL,
	jobq_remove_due_key, 100, true, false, "free the unique key of"},
	[DEADLINE_CANCEL] = {JOBQ_CANCEL_REQUEST, INDEX_KEY, CANCEL_SEQ, CANCEL_SEQ,
	jobq_act_on_cancel_request, 100, false, true, "cancel a job as requested"},
	[DEADLINE_DELTA] = {JOBQ_DELTA, INDEX_KEY, DELTA_SEQ, DELTA_SEQ,
	NULL, BATCH, true, true, "count dependencies"},
	[DEADLINE_RECOUNT] = {JOBQ_RECOUNT, INDEX_KEY, RECOUNT_SEQ, RECOUNT_SEQ,
	jobq_recount, 1, true, true, "count dependencies anew"},
};

static Clock clocks[DUE_KINDS];
static bool folded = false;		/* in this round, all deltas that were seen */
static HTAB *pending;
static pairingheap *pending_heap;

/* Rows to try again */

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

/* Forget an entry. */
static void
drop_entry(Pending *p)
{
	pairingheap_remove(pending_heap, &p->node);
	hash_search(pending, &p->key, HASH_REMOVE, NULL);
}

/* Forget a row, but not another of the same job. */
static void
drop_pending(JobqDeadline kind, const DueRow *row)
{
	Pending    *p = find_pending(kind, row->job_id);

	if (p != NULL && p->deadline == row->deadline)
		drop_entry(p);
}

/* Forget all rows of a kind. */
static void
drop_all_pending(JobqDeadline kind)
{
	HASH_SEQ_STATUS seq;
	Pending    *p;

	hash_seq_init(&seq, pending);
	while ((p = hash_seq_search(&seq)) != NULL)
	{
		if (p->key.kind == kind)
			drop_entry(p);
	}
}

/*
 * Remember to try a row again; at 0: after a delay that grows, but not far where
 * others wait for what was committed already.
 */
static Pending *
add_pending(JobqDeadline kind, const DueRow *row, TimestampTz at)
{
	PendingKey	key = {row->job_id, kind};
	TimestampTz now = jobq_steady();
	int64		most = kinds[kind].numbered ? AGAIN_MAX : PG_INT64_MAX;
	bool		found;
	Pending    *p = hash_search(pending, &key, HASH_ENTER, &found);

	if (found)
		pairingheap_remove(pending_heap, &p->node);
	else
		memset(&p->failures, 0, sizeof(JobqFailures));
	p->deadline = row->deadline;
	p->at = at != 0 ? Max(at, now + 1000) :
		now + Min(jobq_retry_delay(p->failures.count), most);
	pairingheap_add(pending_heap, &p->node);
	return p;
}

/* Remember to see the rows of a table from this one on again, after a delay that grows. */
static void
put_back(JobqDeadline kind, int64 from)
{
	Clock	   *clock = &clocks[kind];

	if (clock->again_at == DT_NOEND)
		clock->again_at = jobq_deadline_now(kind) +
			Min(AGAIN_FIRST << Min(clock->again_count++, 10), AGAIN_MAX);
	clock->again_from = Min(clock->again_from, from);
}

/* What is due */

/* Fold deltas. */
static void
fold_deltas(JobqCall *call, DueRow *rows, int n)
{
	int64		seqs[BATCH] = {0};
	bool		done[BATCH];

	for (int i = 0; i < n; i++)
		seqs[i] = rows[i].deadline;
	jobq_fold_deltas(call, n, seqs, done);
	for (int i = 0; i < n; i++)
		rows[i].done = done[i];
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

	/* others may wait for what it has done already */
	if (batch->n > 1)
		LockTimeout = 1;
	if (batch->kind == DEADLINE_DELTA)
		fold_deltas(call, batch->rows, batch->n);
	for (int i = 0; i < batch->n && batch->kind != DEADLINE_DELTA; i++)
	{
		DueRow	   *row = &batch->rows[i];

		row->retry_at = 0;
		row->done = kinds[batch->kind].act(call, row->job_id, row->deadline, &row->retry_at);
		jobq_advance();			/* the next may be downstream of this one */
	}
}

/* Deal with rows in one transaction; false: an error, nothing was done. */
static bool
act_on_rows(JobqDeadline kind, DueRow *rows, int n)
{
	Batch		batch = {kind, 0, n, rows};
	ErrorData  *error = jobq_worker_run(act_work, &batch, kinds[kind].async);

	if (error != NULL && n == 1)
	{
		Pending    *p = add_pending(kind, rows, 0);

		jobq_worker_failed(&p->failures, error, kinds[kind].what,
						   kinds[kind].numbered || kind == DEADLINE_TICK ? 0 : rows->job_id);
	}
	for (int i = 0; i < n && error == NULL; i++)
	{
		if (rows[i].done || kinds[kind].numbered)
		{
			drop_pending(kind, &rows[i]);
			if (!rows[i].done)
				put_back(kind, rows[i].deadline);
		}
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

		if (jobq_worker_must_leave())
			return;
		if (!act_on_rows(kind, rows + i, m) && m > 1)
		{
			for (int k = i; k < i + m && !jobq_worker_must_leave(); k++)
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
	JobqScan   *scan = jobq_scan_from(call, k->table, k->index, clocks[batch->kind].floor,
									  GetActiveSnapshot());
	TupleTableSlot *slot;

	batch->n = 0;
	batch->floor = k->numbered ? clocks[batch->kind].floor : batch->now;
	batch->next = DT_NOEND;
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		int64		job_id = jobq_attr_int64(slot, k->id_column);
		TimestampTz deadline = jobq_attr_int64(slot, k->deadline_column);
		Pending    *p;

		CHECK_FOR_INTERRUPTS();
		if (!k->numbered && deadline > batch->now)
		{
			batch->next = deadline;
			break;
		}
		p = find_pending(batch->kind, job_id);
		if (p != NULL && p->deadline == deadline)
			continue;
		if (batch->n == BATCH)
		{
			batch->floor = deadline;
			batch->next = k->numbered ? batch->now : Min(deadline, jobq_deadline_now(batch->kind));
			break;
		}
		batch->rows[batch->n].job_id = job_id;
		batch->rows[batch->n].deadline = deadline;
		batch->n++;
		if (k->numbered)
			batch->floor = deadline + 1;
	}
	jobq_scan_end(scan);
}

/* Deal with what is due in one table; true if it did something. */
static bool
do_due(JobqDeadline kind)
{
	Clock	   *clock = &clocks[kind];
	TimestampTz now = jobq_deadline_now(kind);
	DueRow		rows[BATCH];
	Batch		batch = {kind, now, 0, rows};
	ErrorData  *error;

	/*
	 * Whether a worker is to be waited for changes otherwise than by the
	 * clock.  What is pending from then on was looked at in this look.
	 */
	if (kind == DEADLINE_KEPT && clock->next <= JOBQ_LOOK_AT_ALL)
	{
		clock->all = true;
		drop_all_pending(kind);
	}
	if (clock->all)
		batch.now = DT_NOEND;
	if (clock->again_at <= now)
	{
		clock->floor = Min(clock->floor, clock->again_from);
		clock->next = now;
		clock->again_at = DT_NOEND;
		clock->again_from = PG_INT64_MAX;
	}
	if (clock->next > now)
		return false;
	error = jobq_worker_run(scan_work, &batch, true);
	if (error != NULL)
	{
		clock->next = now + jobq_retry_delay(clock->failures.count);
		jobq_worker_failed(&clock->failures, error, "find jobs", 0);
		return false;
	}
	clock->failures.count = 0;
	clock->floor = batch.floor;
	clock->next = batch.next;
	clock->all &= batch.next != DT_NOEND;
	if (batch.n == 0)
	{
		if (clock->again_at == DT_NOEND)
			clock->again_count = 0;
		return false;
	}
	pgstat_report_activity(STATE_RUNNING, kinds[kind].what);
	act(kind, rows, batch.n);
	return true;
}

/*
 * Take rows of one kind whose time to be tried again has come: a batch of those that
 * have not failed (leases that heartbeats kept alive), or one that has.  Returns how
 * many there are.
 */
static int
take_pending(JobqDeadline *kind, DueRow *rows, TimestampTz now)
{
	int			n = 0;

	while (!pairingheap_is_empty(pending_heap))
	{
		Pending    *p = pairingheap_container(Pending, node, pairingheap_first(pending_heap));
		bool		alone = p->failures.count > 0;

		if (p->at > now || (n > 0 && (alone || p->key.kind != *kind)))
			break;
		*kind = p->key.kind;
		rows[n++] = (DueRow)
		{
			.job_id = p->key.job_id,.deadline = p->deadline
		};

		/* if nobody comes to it now */
		pairingheap_remove_first(pending_heap);
		p->at = now + AGAIN_MAX;
		pairingheap_add(pending_heap, &p->node);
		if (alone || n == kinds[*kind].batch)
			break;
	}
	return n;
}

/* Try rows again whose time has come; true if there were any. */
static bool
do_pending(void)
{
	TimestampTz now = jobq_steady();
	DueRow		rows[BATCH];
	JobqDeadline kind;
	int			total = 0;
	int			n;

	while (total < BATCH && !jobq_worker_must_leave() && (n = take_pending(&kind, rows, now)) > 0)
	{
		act(kind, rows, n);
		total += n;
	}
	return total > 0;
}

/*
 * Do what is due, and try rows again whose time has come; true if there may be
 * more.
 */
bool
jobq_due_round(void)
{
	bool		more = false;

	folded = false;
	for (int k = 0; k < DUE_KINDS && !jobq_worker_must_leave(); k++)
	{
		if (!do_due(k))
			continue;
		more = true;
		if (k == DEADLINE_DELTA)
			folded = clocks[k].next == DT_NOEND;
	}
	more |= do_pending();
	return more;
}

/* A row is due, whatever its deadline says. */
void
jobq_due_add(JobqDeadline kind, int64 job_id, TimestampTz deadline)
{
	DueRow		row = {.job_id = job_id,.deadline = deadline};

	(void) add_pending(kind, &row, jobq_steady());
}

/* Did the last round fold deltas, all that it saw? */
bool
jobq_due_folded(void)
{
	return folded;
}

/* When */

/* Know nothing: all rows have to be seen. */
void
jobq_due_restart(void)
{
	for (int k = 0; k < DUE_KINDS; k++)
	{
		clocks[k].floor = clocks[k].next = DT_NOBEGIN;
		clocks[k].again_at = DT_NOEND;
		clocks[k].again_from = PG_INT64_MAX;
	}
}

/* Begin. */
void
jobq_due_init(void)
{
	HASHCTL		ctl;

	ctl.keysize = sizeof(PendingKey);
	ctl.entrysize = sizeof(Pending);
	pending = hash_create("jobq rows to try again", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	MemoryContextSwitchTo(TopMemoryContext);
	pending_heap = pairingheap_allocate(compare_pending, NULL);
	jobq_due_restart();
}

/* A row of this time was announced. */
void
jobq_due_lower(JobqDeadline kind, TimestampTz at)
{
	clocks[kind].floor = Min(clocks[kind].floor, at);
	clocks[kind].next = Min(clocks[kind].next, at);
}

/* Have all rows been seen that are due? */
bool
jobq_due_seen(void)
{
	for (int k = 0; k < DUE_KINDS; k++)
	{
		if (clocks[k].next <= jobq_deadline_now(k))
			return false;
	}
	return true;
}

/* When there is something to do next, by jobq_steady(). */
TimestampTz
jobq_due_next(void)
{
	TimestampTz at = DT_NOEND;

	for (int k = 0; k < DUE_KINDS; k++)
		at = Min(at, jobq_deadline_of(k, Min(clocks[k].next, clocks[k].again_at)));
	if (!pairingheap_is_empty(pending_heap))
		at = Min(at, pairingheap_container(Pending, node, pairingheap_first(pending_heap))->at);
	return at;
}
