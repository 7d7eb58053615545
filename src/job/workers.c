/*
 * workers.c
 *	  Workers that are registered, and those that drain.
 *
 * A worker is a name that claims give.  A row of job_worker says what it told of
 * itself, whose it is, and whether it drains: then claims that give its name get
 * nothing.  Each session remembers that of the name it asked for last, until
 * one of our tables is invalidated (catalog.c), which job_worker_drain() does.
 *
 * When a worker was seen is noted in shared memory (seen.c).  The background
 * worker's sweep writes it into the row now and then, and removes the rows of
 * those that were not seen for long.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/acl.h"
#include "utils/inval.h"

#include "job/job.h"

#define WRITE_SEEN_AFTER	USECS_PER_HOUR
#define KEEP_WORKER			USECS_PER_DAY

/* The name that was asked for last */
static char known_name[JOBQ_MAX_NAME + 1];
static bool known_drains;
static bool known = false;
static uint32 resets = 0;

/* Forget it. */
static void
forget_known(void)
{
	known = false;
	resets++;
}

/* Forget it whenever a table of ours may have changed. */
void
jobq_workers_init(void)
{
	jobq_on_catalog_reset(forget_known);
}

/* The row of a worker, or NULL. */
static TupleTableSlot *
find_worker(JobqCall *call, const char *name)
{
	Datum		key = CStringGetTextDatum(name);

	return jobq_find(call, JOBQ_WORKER, INDEX_KEY, 1, &key, NULL);
}

/* Does a worker drain? */
bool
jobq_worker_drains(JobqCall *call, const char *name)
{
	uint32		before = resets;
	TupleTableSlot *row;
	bool		drains;

	if (known && strcmp(known_name, name) == 0)
		return known_drains;
	row = find_worker(call, name);
	drains = row != NULL && jobq_attr_bool(row, WORKER_DRAINING);
	jobq_slot_free(row);
	known = before == resets;
	strlcpy(known_name, name, sizeof(known_name));
	known_drains = drains;
	return drains;
}

/* An argument "worker". */
static char *
check_worker(FunctionCallInfo fcinfo)
{
	char	   *name;

	if (PG_ARGISNULL(0))
		jobq_error_null("worker");
	name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	jobq_check_name(name, "worker");
	return name;
}

/*
 * The row of a worker that the caller may change, or NULL: there is none.  That of
 * another role may be changed by who may operate on all queues.
 */
static TupleTableSlot *
find_own(JobqCall *call, const char *name)
{
	TupleTableSlot *row = find_worker(call, name);

	if (row != NULL && !has_privs_of_role(GetUserId(), jobq_attr_oid(row, WORKER_ROLE)) &&
		!jobq_has_privilege(call, JOBQ_ALL_QUEUES, PRIV_OPERATE))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied for worker \"%s\"", name),
				 errdetail("Another role has registered it."),
				 errhint("Use another name, or the privilege \"operate\" on all queues.")));
	return row;
}

PG_FUNCTION_INFO_V1(jobq_job_worker_register);

/* job_worker_register(worker, labels, version, capacity, data): once more, it replaces what it told. */
Datum
jobq_job_worker_register(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	char	   *name = check_worker(fcinfo);
	int32		capacity = jobq_check_count(fcinfo, 3, "capacity");
	JobqRow		new = {0};
	bool		done = false;

	if (!PG_ARGISNULL(1))
		jobq_set(&new, WORKER_LABELS, jobq_check_label_set(fcinfo, 1, "labels"));
	if (!PG_ARGISNULL(2))
	{
		jobq_set(&new, WORKER_VERSION, PG_GETARG_DATUM(2));
		jobq_check_name(text_to_cstring(PG_GETARG_TEXT_PP(2)), "version");
	}
	if (capacity > 0)
		jobq_set(&new, WORKER_CAPACITY, Int32GetDatum(capacity));
	if (!PG_ARGISNULL(4))
	{
		jobq_set(&new, WORKER_DATA, PG_GETARG_DATUM(4));
		jobq_check_json(PG_GETARG_JSONB_P(4), NULL, "\"data\"", "jobq.max_args_size", jobq_max_args_size);
	}

	jobq_enter(&call, "job_worker_register()", true);
	if (!jobq_has_privilege_anywhere(&call, PRIV_WORK))
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("permission denied to register a worker"),
				 errdetail("The privilege \"work\" on some queue is needed."),
				 errhint("The owner of the extension can grant it with job_grant.")));
	jobq_set_text(&new, WORKER_NAME, name);
	jobq_set(&new, WORKER_REGISTERED_AT, TimestampTzGetDatum(call.now));
	jobq_set(&new, WORKER_SEEN_AT, TimestampTzGetDatum(call.now));
	while (!done)
	{
		TupleTableSlot *row = find_own(&call, name);

		jobq_set(&new, WORKER_ROLE, row ? ObjectIdGetDatum(jobq_attr_oid(row, WORKER_ROLE)) : ObjectIdGetDatum(GetUserId()));
		jobq_set(&new, WORKER_DRAINING, BoolGetDatum(row && jobq_attr_bool(row, WORKER_DRAINING)));
		done = row ? jobq_update(&call, JOBQ_WORKER, row, &new, LockWaitBlock) :
			jobq_insert_unless_there(&call, JOBQ_WORKER, &new, true);
		jobq_slot_free(row);
	}
	(void) jobq_note_worker(jobq_worker_key(name, strlen(name)), 0);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}

/* Whether a worker drains has changed, or will have with the commit. */
static void
draining_changed(const char *name, bool drains)
{
	CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_WORKER));
	jobq_announce_worker(jobq_worker_key(name, strlen(name)), drains);
	/* it does not say where it waits */
	if (!drains)
		jobq_announce_wake_waiters();
}

PG_FUNCTION_INFO_V1(jobq_job_worker_unregister);

/* job_worker_unregister(worker) */
Datum
jobq_job_worker_unregister(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	char	   *name = check_worker(fcinfo);
	TupleTableSlot *row;
	bool		done = false;

	jobq_enter(&call, "job_worker_unregister()", true);
	while (!done && (row = find_own(&call, name)) != NULL)
	{
		done = jobq_delete(&call, JOBQ_WORKER, row, LockWaitBlock);
		if (done && jobq_attr_bool(row, WORKER_DRAINING))
			draining_changed(name, false);
		else if (done)
			jobq_announce_worker(jobq_worker_key(name, strlen(name)), false);
		jobq_slot_free(row);
	}
	jobq_close_call(&call);
	PG_RETURN_BOOL(done);
}

PG_FUNCTION_INFO_V1(jobq_job_worker_drain);

/* job_worker_drain(worker, draining) */
Datum
jobq_job_worker_drain(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	char	   *name = check_worker(fcinfo);
	bool		drains;
	TupleTableSlot *row;
	bool		done = false;

	if (PG_ARGISNULL(1))
		jobq_error_null("draining");
	drains = PG_GETARG_BOOL(1);
	jobq_enter(&call, "job_worker_drain()", true);
	while (!done && (row = find_own(&call, name)) != NULL &&
		   jobq_attr_bool(row, WORKER_DRAINING) != drains)
	{
		JobqRow		new;

		jobq_values(row, &new);
		jobq_set(&new, WORKER_DRAINING, BoolGetDatum(drains));
		done = jobq_update(&call, JOBQ_WORKER, row, &new, LockWaitBlock);
		if (done)
			draining_changed(name, drains);
		jobq_slot_free(row);
	}
	jobq_close_call(&call);
	PG_RETURN_BOOL(done);
}

PG_FUNCTION_INFO_V1(jobq_job_worker_seen);

/*
 * job_worker_seen(worker), for the view: when it was last seen, the microseconds of its last
 * lease, and since when workers are seen by this server; the first two are null to who
 * may not see a worker of that role.
 */
Datum
jobq_job_worker_seen(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	JobqCall	call;
	Datum		values[3] = {0};
	bool		nulls[3] = {true, true, true};

	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE)
		elog(ERROR, "return type must be a row type");
	PreventCommandIfParallelMode("job_worker_seen()");
	jobq_open_call(&call);
	if (jobq_shmem_ready() && !PG_ARGISNULL(0))
	{
		char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
		TupleTableSlot *row = find_worker(&call, name);

		values[2] = TimestampTzGetDatum(jobq_wall_of(jobq_grace_start()));
		nulls[2] = false;
		/* as the view shows a row of job_worker; of others only who sees all */
		if (jobq_visible(&call, JOBQ_ALL_QUEUES, row ? jobq_attr_oid(row, WORKER_ROLE) : InvalidOid, InvalidOid))
		{
			int64		lease;
			TimestampTz at = jobq_worker_seen(jobq_worker_key(name, strlen(name)), &lease);

			values[0] = TimestampTzGetDatum(jobq_wall_of(at));
			nulls[0] = at == 0;
			values[1] = Int64GetDatum(lease);
			nulls[1] = lease == 0;
		}
		jobq_slot_free(row);
	}
	jobq_close_call(&call);
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/*
 * For the background worker's sweep: write when workers were seen into their rows, and if
 * asked to remove the rows of those that were not seen for long.  Locked rows are left
 * alone.
 */
void
jobq_keep_workers(JobqCall *call, bool remove)
{
	JobqScan   *scan;
	TupleTableSlot *row;

	if (jobq_is_empty(call, JOBQ_WORKER))
		return;
	scan = jobq_scan_begin(call, JOBQ_WORKER, INDEX_KEY, 0, NULL, NULL);
	while ((row = jobq_scan_next(scan)) != NULL)
	{
		TimestampTz written = jobq_attr_int64(row, WORKER_SEEN_AT);
		TimestampTz at;
		int64		lease;
		char	   *name;
		JobqRow		new;

		if (written > call->now - WRITE_SEEN_AFTER)
			continue;
		name = jobq_attr_cstring(row, WORKER_NAME);
		at = jobq_wall_of(jobq_worker_seen(jobq_worker_key(name, strlen(name)), &lease));
		if (Max(at, written) < call->now - KEEP_WORKER)
		{
			bool		drained = jobq_attr_bool(row, WORKER_DRAINING);

			if (remove && jobq_delete(call, JOBQ_WORKER, row, LockWaitSkip) && drained)
				draining_changed(name, false);
		}
		else if (at > written + WRITE_SEEN_AFTER)
		{
			jobq_values(row, &new);
			jobq_set(&new, WORKER_SEEN_AT, TimestampTzGetDatum(at));
			(void) jobq_update(call, JOBQ_WORKER, row, &new, LockWaitSkip);
		}
		pfree(name);
	}
	jobq_scan_end(scan);
}
