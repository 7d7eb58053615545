/*
 * launcher.c
 *	  The process that sees to it that every database with the extension has
 *	  its worker.
 *
 * The launcher is a static background worker that is connected to no database.
 * When it starts it reads pg_database and has a worker look into each database;
 * a worker that finds no extension says so in its slot and ends.  From then on
 * the launcher sleeps until it is told something: an extension was created, a
 * function used, a database made, changed or released (hooks.c), a worker
 * ended.  It has no tick.
 *
 * A worker that ended by an error is started again after a second.  Where
 * max_worker_processes leaves too few workers, the databases take turns: those
 * with something due first, then those that have waited longest.
 *
 * Templates and databases that allow no connections get no worker.
 *
 * If the launcher dies, the postmaster starts it again, and it finds the
 * workers of before in their slots.  If any process crashes, the postmaster
 * ends all of them and starts the launcher with empty shared memory.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "background/background.h"

#define RESTART_DELAY	(1 * USECS_PER_SEC) /* of a worker that failed */
#define TURN_TIME		(1 * USECS_PER_SEC) /* of each, where they are too few */
#define MAX_PROBES		2		/* workers that look, at a time */

/* What the launcher knows of the slot with the same number */
typedef struct Managed
{
	Oid			database;
	BackgroundWorkerHandle *handle; /* NULL: we have started none */
	TimestampTz started_at;
	TimestampTz not_before;		/* do not start one before */
} Managed;

static Managed *managed;
static List *all_databases = NIL;	/* in pg_database */
static List *eligible = NIL;	/* those of them that can have a worker */
static List *to_probe = NIL;	/* those nobody has looked into yet */
static bool warned_slots = false;
static bool warned_workers = false;

/* Describe a background worker of ours to the postmaster. */
static void
describe(BackgroundWorker *worker, const char *function, const char *type)
{
	memset(worker, 0, sizeof(BackgroundWorker));
	worker->bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker->bgw_start_time = BgWorkerStart_RecoveryFinished;
	strlcpy(worker->bgw_library_name, "jobq", sizeof(worker->bgw_library_name));
	strlcpy(worker->bgw_function_name, function, sizeof(worker->bgw_function_name));
	strlcpy(worker->bgw_name, type, BGW_MAXLEN);
	strlcpy(worker->bgw_type, type, BGW_MAXLEN);
}

/* Have the postmaster start the launcher. */
void
jobq_launcher_register(void)
{
	BackgroundWorker worker;

	describe(&worker, "jobq_launcher_main", "jobq launcher");
	worker.bgw_restart_time = 1;
	RegisterBackgroundWorker(&worker);
}

/* Read pg_database; what is new there is to be looked into. */
static void
read_databases(void)
{
	List	   *old = eligible;
	MemoryContext mcxt = CurrentMemoryContext;
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;

	list_free(all_databases);
	all_databases = eligible = NIL;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();
	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while ((tuple = heap_getnext(scan, ForwardScanDirection)) != NULL)
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		MemoryContext transaction = MemoryContextSwitchTo(mcxt);

		all_databases = lappend_oid(all_databases, form->oid);
		if (form->datallowconn && !form->datistemplate &&
			form->datconnlimit != DATCONNLIMIT_INVALID_DB)
		{
			eligible = lappend_oid(eligible, form->oid);
			if (!list_member_oid(old, form->oid))
				to_probe = list_append_unique_oid(to_probe, form->oid);
		}
		MemoryContextSwitchTo(transaction);
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();
	MemoryContextSwitchTo(mcxt);
	list_free(old);
}

/* Give slots to databases that are to be looked into. */
static void
fill_slots(void)
{
	while (to_probe != NIL)
	{
		Oid			database = linitial_oid(to_probe);

		if (list_member_oid(eligible, database) &&
			jobq_database_find(database, false) == NULL)
		{
			if (jobq_database_find(InvalidOid, false) == NULL)
				return;			/* none is free */
			jobq_database_find(database, true);
		}
		to_probe = list_delete_first(to_probe);
	}
}

/* A worker of ours has ended: when may the next one start? */
static void
worker_ended(Managed *m, JobqDatabase *db)
{
	bool		dismissed;

	pfree(m->handle);
	m->handle = NULL;
	SpinLockAcquire(&db->mutex);
	dismissed = db->dismissed;
	db->dismissed = false;
	SpinLockRelease(&db->mutex);
	pg_atomic_write_u32(&db->yield, 0);
	m->not_before = 0;
	if (!dismissed)
	{
		m->not_before = jobq_steady() + RESTART_DELAY;
		jobq_launcher_ask(LAUNCHER_REREAD); /* perhaps the database is gone */
	}
}

/* Ask a worker to leave. */
static void
ask_to_leave(JobqDatabase *db)
{
	if (pg_atomic_exchange_u32(&db->yield, 1) == 0)
		jobq_database_ask(db, 0);
}

/* Note which workers have ended, and free slots that are no longer needed. */
static void
review_slots(void)
{
	for (int i = 0; i < jobq_max_databases; i++)
	{
		JobqDatabase *db = jobq_database_at(i);
		Managed    *m = &managed[i];
		Oid			database = db->database;
		pid_t		pid;

		if (m->handle != NULL && GetBackgroundWorkerPid(m->handle, &pid) == BGWH_STOPPED)
			worker_ended(m, db);
		if (!OidIsValid(database) || m->handle != NULL)
			continue;
		if (m->database != database)
		{
			memset(m, 0, sizeof(Managed));
			m->database = database;
		}
		if (jobq_database_evict(db, !list_member_oid(eligible, database)) &&
			!list_member_oid(all_databases, database))
		{
			jobq_heartbeats_forget_database(database);
			jobq_counts_forget_database(database);
		}
	}
	for (int i = 0; i < jobq_max_databases; i++)
	{
		JobqDatabase *db = jobq_database_at(i);

		if (db->worker_pid != 0 && !list_member_oid(eligible, db->database))
			ask_to_leave(db);
	}
}

/* Does a database without a worker need one now? */
static bool
is_due(JobqDatabase *db, TimestampTz now)
{
	return db->state == DATABASE_UNKNOWN ||
		pg_atomic_read_u32(&db->asked) != 0 ||
		pg_atomic_read_u32(&db->notify_wanted) != 0 ||
		jobq_read_time(&db->wake_at) <= now ||
		jobq_database_low(db) <= now;
}

/* Can a worker be started for a database? */
static bool
is_waiting(int i)
{
	JobqDatabase *db = jobq_database_at(i);

	return OidIsValid(db->database) && managed[i].database == db->database &&
		managed[i].handle == NULL && db->worker_pid == 0 && db->suspended == 0 &&
		db->state != DATABASE_NONE && list_member_oid(eligible, db->database);
}

/* The number of the slot whose turn it is, or -1. */
static int
next_to_start(TimestampTz now, bool *due)
{
	int			best = -1;

	*due = false;
	for (int i = 0; i < jobq_max_databases; i++)
	{
		bool		this_due;

		if (!is_waiting(i) || managed[i].not_before > now)
			continue;
		this_due = is_due(jobq_database_at(i), now);
		if (best < 0 || (this_due && !*due) ||
			(this_due == *due && managed[i].started_at < managed[best].started_at))
		{
			best = i;
			*due = this_due;
		}
	}
	return best;
}

/* Start the worker of a slot; false: there is no room. */
static bool
start_worker(int i)
{
	BackgroundWorker worker;

	describe(&worker, "jobq_worker_main", "jobq worker");
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	snprintf(worker.bgw_name, BGW_MAXLEN, "jobq worker for database %u", managed[i].database);
	worker.bgw_main_arg = ObjectIdGetDatum(managed[i].database);
	worker.bgw_notify_pid = MyProcPid;
	if (!RegisterDynamicBackgroundWorker(&worker, &managed[i].handle))
	{
		managed[i].handle = NULL;
		return false;
	}
	managed[i].started_at = jobq_steady();
	return true;
}

/* How many of our workers are looking for the extension. */
static int
count_probes(void)
{
	int			n = 0;

	for (int i = 0; i < jobq_max_databases; i++)
		n += managed[i].handle != NULL && jobq_database_at(i)->state == DATABASE_UNKNOWN;
	return n;
}

/*
 * Make one worker leave whose turn is over: the one that would sleep longest,
 * or else the one that runs longest.  Returns when to try again.
 */
static TimestampTz
make_room(TimestampTz now)
{
	int			best = -1;
	TimestampTz wait_until = DT_NOEND;

	for (int i = 0; i < jobq_max_databases; i++)
	{
		JobqDatabase *db = jobq_database_at(i);
		TimestampTz over = managed[i].started_at + TURN_TIME;
		TimestampTz wake_at = jobq_read_time(&db->wake_at);

		if (!OidIsValid(db->database) || db->worker_pid == 0)
			continue;
		if (pg_atomic_read_u32(&db->yield) != 0)
			return DT_NOEND;	/* one is leaving; that will wake us */
		if (over > now)
		{
			wait_until = Min(wait_until, over);
			continue;
		}
		if (best >= 0)
		{
			TimestampTz best_wake_at = jobq_read_time(&jobq_database_at(best)->wake_at);

			if (wake_at < best_wake_at ||
				(wake_at == best_wake_at && managed[i].started_at >= managed[best].started_at))
				continue;
		}
		best = i;
	}
	if (best < 0)
		return Min(wait_until, now + 10 * USECS_PER_SEC);
	ask_to_leave(jobq_database_at(best));
	return DT_NOEND;
}

/* Say once that there are too few workers. */
static void
warn_workers(void)
{
	if (warned_workers)
		return;
	warned_workers = true;
	ereport(WARNING,
			(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
			 errmsg("too few background workers for all databases that use jobq"),
			 errdetail("These databases take turns."),
			 errhint("You might need to increase \"max_worker_processes\".")));
}

/* Start the workers that are missing.  Returns when to look again. */
static TimestampTz
start_workers(void)
{
	TimestampTz now = jobq_steady();
	TimestampTz wait_until = DT_NOEND;
	int			probes = count_probes();
	bool		due;
	int			i;

	while ((i = next_to_start(now, &due)) >= 0)
	{
		bool		probe = jobq_database_at(i)->state == DATABASE_UNKNOWN;

		if (probe && probes >= MAX_PROBES)
			break;				/* one of them having looked wakes us */
		if (!start_worker(i))
		{
			if (probes == 0)
				warn_workers();
			wait_until = due ? make_room(now) : now + 10 * USECS_PER_SEC;
			break;
		}
		probes += probe;
	}

	/* those that wait for a time */
	for (i = 0; i < jobq_max_databases; i++)
	{
		if (!is_waiting(i))
			continue;
		if (managed[i].not_before > now)
			wait_until = Min(wait_until, managed[i].not_before);
		else if (!is_due(jobq_database_at(i), now))
		{
			wait_until = Min(wait_until, jobq_read_time(&jobq_database_at(i)->wake_at));
			wait_until = Min(wait_until, jobq_database_low(jobq_database_at(i)));
		}
	}
	return wait_until;
}

/* Exit callback. */
static void
launcher_exit(int code, Datum arg)
{
	jobq_launcher_detach();
}

/* The launcher. */
void
jobq_launcher_main(Datum arg)
{
	uint32		wait_event = jobq_wait_event("JobqLauncher");

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);

	before_shmem_exit(launcher_exit, (Datum) 0);
	jobq_launcher_attach();
	MemoryContextSwitchTo(TopMemoryContext);
	managed = palloc0(jobq_max_databases * sizeof(Managed));
	jobq_launcher_ask(LAUNCHER_REREAD);
	pgstat_report_activity(STATE_IDLE, NULL);

	for (;;)
	{
		TimestampTz wait_until;
		long		timeout = -1;
		uint32		asked;

		ResetLatch(MyLatch);
		if (ProcDiePending)
			proc_exit(1);		/* to be started again unless this is shutdown */
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		asked = jobq_launcher_take_asked();
		if (asked != 0)
			read_databases();
		review_slots();
		if (asked & LAUNCHER_FULL)
		{
			/* whoever found no slot is among those that have none */
			list_free(to_probe);
			to_probe = list_copy(eligible);
			if (jobq_database_find(InvalidOid, false) == NULL && !warned_slots)
			{
				warned_slots = true;
				ereport(WARNING,
						(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
						 errmsg("too many databases use jobq"),
						 errdetail("Some of them have no background worker."),
						 errhint("You might need to increase \"jobq.max_databases\".")));
			}
		}
		fill_slots();
		review_slots();
		wait_until = start_workers();

		if (wait_until != DT_NOEND)
		{
			timeout = TimestampDifferenceMilliseconds(jobq_steady(), wait_until);
			timeout = Min(timeout + 1, INT_MAX);
		}
		(void) WaitLatch(MyLatch,
						 WL_LATCH_SET | WL_EXIT_ON_PM_DEATH | (timeout >= 0 ? WL_TIMEOUT : 0),
						 timeout, wait_event);
	}
}
