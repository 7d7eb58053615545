/*
 * queue.c
 *	  Queues: their lanes and settings.
 *
 * A queue_id is the number under which a queue's jobs are filed: the first eight
 * bytes of the SHA-256 of its name, so that it can be known without reading or
 * writing anything, and is the same on every machine that a dump is moved to.
 *
 * A queue has a row in job_queue from its first use on.  Nobody waits for
 * somebody else to make it: whoever cannot have the creation lock at once
 * leaves it to the one who has, or to a later use.  Rows are kept in a
 * backend-local cache until a relcache invalidation for one of our tables
 * (catalog.c).  job_queue_set() sends one, so a change is seen by whatever starts
 * after its commit.
 */
#include "postgres.h"

#include "common/sha2.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/memutils.h"
#include "utils/timestamp.h"

#include "queue/queue.h"

int			jobq_max_attempts = JOBQ_DEFAULT_MAX_ATTEMPTS;
int			jobq_max_lost = JOBQ_DEFAULT_MAX_LOST;
int			jobq_backoff_ms = JOBQ_DEFAULT_BACKOFF_MS;
int			jobq_backoff_cap_ms = JOBQ_DEFAULT_BACKOFF_CAP_MS;
int			jobq_lease_ms = JOBQ_DEFAULT_LEASE_MS;
int			jobq_min_lease_ms = JOBQ_DEFAULT_MIN_LEASE_MS;
int			jobq_max_lease_s = JOBQ_DEFAULT_MAX_LEASE_S;
int			jobq_max_error_size = JOBQ_DEFAULT_MAX_ERROR_KB;
int			jobq_timeout_ms = 0;
int			jobq_retention_s = JOBQ_DEFAULT_RETENTION_S;
int			jobq_retention_failed_s = JOBQ_DEFAULT_RETENTION_FAILED_S;
int			jobq_affinity_wait_ms = JOBQ_DEFAULT_AFFINITY_WAIT_MS;

#define MICROS_PER_MS	INT64CONST(1000)

static HTAB *queues;			/* queue_id -> JobqQueue */
static JobqQueue *latest;		/* of these, that was asked for last */

/* Forget all settings. */
static void
reset_settings(void)
{
	if (queues != NULL)
	{
		hash_destroy(queues);
		queues = NULL;
		latest = NULL;
	}
}

/* Forget them whenever a table of ours may have changed. */
void
jobq_queue_init(void)
{
	jobq_on_catalog_reset(reset_settings);
}

/* The first eight bytes of the SHA-256 of a name: its number on every machine. */
int64
jobq_name_id(const char *name)
{
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	uint64		id = 0;

	if (ctx == NULL ||
		pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) name, strlen(name)) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute SHA-256: %s", pg_cryptohash_error(ctx));
	pg_cryptohash_free(ctx);
	for (int i = 0; i < 8; i++)
		id = id << 8 | digest[i];
	return (int64) id;
}

/* The id of a queue; the latest are remembered. */
int64
jobq_queue_id(const char *queue)
{
	static struct
	{
		char		queue[JOBQ_MAX_QUEUE_NAME + 1];
		int64		queue_id;
	}			known[16];
	Size		len = strlen(queue);
	int			i = hash_bytes((const unsigned char *) queue, len) % lengthof(known);

	if (len > JOBQ_MAX_QUEUE_NAME)
		return jobq_name_id(queue);
	if (known[i].queue[0] == '\0' || strcmp(known[i].queue, queue) != 0)
	{
		known[i].queue_id = jobq_name_id(queue);
		strcpy(known[i].queue, queue);
	}
	return known[i].queue_id;
}

PG_FUNCTION_INFO_V1(jobq_job_queue_id);

/* job_queue_id(queue) */
Datum
jobq_job_queue_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(jobq_queue_id(text_to_cstring(PG_GETARG_TEXT_PP(0))));
}

/* The last of a queue's gates, that is in force; 0: none. */
static int64
latest_gate(TupleTableSlot *slot)
{
	bool		isnull;
	Datum		gates = slot_getattr(slot, QUEUE_GATES, &isnull);
	ArrayType  *array = isnull ? NULL : DatumGetArrayTypeP(gates);

	int			n = isnull ? 0 : ArrayGetNItems(ARR_NDIM(array), ARR_DIMS(array));

	return n == 0 ? 0 : ((int64 *) ARR_DATA_PTR(array))[n - 1];
}

/* Fill an entry from a row of job_queue. */
static void
read_queue(JobqQueue *queue, TupleTableSlot *slot)
{
	strlcpy(queue->name, jobq_attr_cstring(slot, QUEUE_NAME), sizeof(queue->name));
	queue->known = true;
	queue->paused = jobq_attr_bool(slot, QUEUE_PAUSED);
	queue->max_attempts = jobq_attr_or(slot, QUEUE_MAX_ATTEMPTS, -1);
	queue->max_lost = jobq_attr_or(slot, QUEUE_MAX_LOST, -1);
	queue->backoff = jobq_attr_or(slot, QUEUE_BACKOFF, -1);
	queue->backoff_cap = jobq_attr_or(slot, QUEUE_BACKOFF_CAP, -1);
	queue->timeout = jobq_attr_or(slot, QUEUE_TIMEOUT, -1);
	queue->lease = jobq_attr_or(slot, QUEUE_LEASE, -1);
	queue->notify = (JobqNotifyMode) jobq_attr_int16(slot, QUEUE_NOTIFY);
	queue->retention = jobq_attr_or(slot, QUEUE_RETENTION, -1);
	queue->retention_failed = jobq_attr_or(slot, QUEUE_RETENTION_FAILED, -1);
	queue->pause_after = jobq_attr_int32(slot, QUEUE_PAUSE_AFTER);
	queue->pause_window = jobq_attr_or(slot, QUEUE_PAUSE_WINDOW, JOBQ_DEFAULT_PAUSE_WINDOW);
	queue->max_running = jobq_attr_int32(slot, QUEUE_MAX_RUNNING);
	queue->max_running_per_partition = jobq_attr_int32(slot, QUEUE_MAX_RUNNING_PER_PARTITION);
	queue->ordered = jobq_attr_bool(slot, QUEUE_ORDERED);
	queue->fair = jobq_attr_bool(slot, QUEUE_FAIR);
	queue->rate = jobq_attr_int32(slot, QUEUE_RATE);
	queue->rate_per_partition = jobq_attr_int32(slot, QUEUE_RATE_PER_PARTITION);
	queue->rate_interval = jobq_attr_int64(slot, QUEUE_RATE_INTERVAL);
	queue->affinity_wait = jobq_attr_or(slot, QUEUE_AFFINITY_WAIT, -1);
	queue->gate = latest_gate(slot);
}

/* A default of how long decided jobs are kept, in microseconds; -1: for ever. */
static int64
default_retention(int seconds)
{
	return seconds < 0 ? JOBQ_NEVER : seconds * USECS_PER_SEC;
}

/* Read the row of a queue and remember it; NULL: it has none. */
static JobqQueue *
load_queue(JobqCall *call, int64 queue_id)
{
	JobqQueue	fresh = {.queue_id = queue_id};
	Datum		key = Int64GetDatum(queue_id);
	TupleTableSlot *slot = jobq_find(call, JOBQ_QUEUE, INDEX_SECOND, 1, &key, NULL);
	JobqQueue  *queue;

	if (slot == NULL)
		return NULL;
	read_queue(&fresh, slot);
	jobq_slot_free(slot);
	if (queues == NULL)
	{
		HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(JobqQueue),
		.hcxt = TopMemoryContext};

		queues = hash_create("jobq queues", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	queue = hash_search(queues, &queue_id, HASH_ENTER, NULL);
	*queue = fresh;
	return queue;
}

/*
 * The row of a queue, as it is remembered until the next call; NULL: it has none,
 * which is not remembered, since it may get one at any moment.
 */
const JobqQueue *
jobq_queue_known(JobqCall *call, int64 queue_id)
{
	if (latest != NULL && latest->queue_id == queue_id)
		return latest;
	latest = queues ? hash_search(queues, &queue_id, HASH_FIND, NULL) : NULL;
	if (latest == NULL)
		latest = load_queue(call, queue_id);
	return latest;
}

/* The settings of a queue_id with the defaults filled in; a queue without a row has the defaults. */
void
jobq_queue_settings(JobqCall *call, int64 queue_id, JobqQueue *result)
{
	static const JobqQueue none = {.max_attempts = -1,.max_lost = -1,.backoff = -1,
	.backoff_cap = -1,.timeout = -1,.lease = -1,.retention = -1,.retention_failed = -1,.affinity_wait = -1};
	const JobqQueue *known = jobq_queue_known(call, queue_id);

	*result = known != NULL ? *known : none;
	result->queue_id = queue_id;
	if (result->max_attempts < 0)
		result->max_attempts = jobq_max_attempts;
	if (result->max_lost < 0)
		result->max_lost = jobq_max_lost;
	if (result->backoff < 0)
		result->backoff = jobq_backoff_ms * MICROS_PER_MS;
	if (result->backoff_cap < 0)
		result->backoff_cap = jobq_backoff_cap_ms * MICROS_PER_MS;
	if (result->timeout < 0)
		result->timeout = jobq_timeout_ms * MICROS_PER_MS;
	if (result->lease < 0)
		result->lease = jobq_lease_ms * MICROS_PER_MS;
	if (result->retention < 0)
		result->retention = default_retention(jobq_retention_s);
	if (result->retention_failed < 0)
		result->retention_failed = default_retention(jobq_retention_failed_s);
	if (result->affinity_wait < 0)
		result->affinity_wait = jobq_affinity_wait_ms * MICROS_PER_MS;
}

/* Make a queue's row if it has none, under a lock that is held to the end of the transaction. */
static void
make_queue(JobqCall *call, const char *name, int64 queue_id, bool wait)
{
	JobqRow		new = {0};
	Datum		key = Int64GetDatum(queue_id);
	TupleTableSlot *slot;
	LOCKTAG		tag;

	/*
	 * like an advisory lock on the table's OID and the queue_id, but of our
	 * own class
	 */
	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, jobq_table_oid(JOBQ_QUEUE), (uint32) queue_id, 3);
	if (LockAcquire(&tag, ExclusiveLock, false, !wait) == LOCKACQUIRE_NOT_AVAIL)
		return;
	slot = jobq_find(call, JOBQ_QUEUE, INDEX_SECOND, 1, &key, NULL);
	if (slot != NULL)
	{
		jobq_slot_free(slot);
		return;
	}
	jobq_set(&new, QUEUE_NAME, CStringGetTextDatum(name));
	jobq_set(&new, QUEUE_ID, Int64GetDatum(queue_id));
	jobq_set(&new, QUEUE_PAUSED, BoolGetDatum(false));
	jobq_set(&new, QUEUE_NOTIFY, Int16GetDatum(JOBQ_NOTIFY_COALESCED));
	jobq_set(&new, QUEUE_ORDERED, BoolGetDatum(false));
	jobq_set(&new, QUEUE_FAIR, BoolGetDatum(false));
	jobq_insert(call, JOBQ_QUEUE, &new);
	/* if this is rolled back, nobody must remember it */
	CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_QUEUE));
	jobq_advance();				/* the call may use the queue more than once */
}

/* A queue is used: see that it has a row, without waiting for anybody. */
void
jobq_queue_register(JobqCall *call, const char *name, int64 queue_id)
{
	if (jobq_queue_known(call, queue_id) == NULL)
		make_queue(call, name, queue_id, false);
}

/* The same for who needs it. */
void
jobq_queue_make(JobqCall *call, const char *name, int64 queue_id)
{
	make_queue(call, name, queue_id, true);
}

/* Pause or resume a queue; why and since when stay if it is paused already. */
static void
set_paused(JobqCall *call, TupleTableSlot *slot, JobqRow *new, bool paused, const char *because)
{
	if (paused && jobq_attr_bool(slot, QUEUE_PAUSED))
		return;
	jobq_set(new, QUEUE_PAUSED, BoolGetDatum(paused));
	new->given[QUEUE_PAUSED_BECAUSE - 1] = new->given[QUEUE_PAUSED_AT - 1] = false;
	if (!paused)
		return;
	jobq_set_text(new, QUEUE_PAUSED_BECAUSE, because);
	jobq_set(new, QUEUE_PAUSED_AT, TimestampTzGetDatum(call->now));
}

/* Lock the row of a queue, and what it is to be begins with what it is; NULL: none. */
TupleTableSlot *
jobq_queue_lock(JobqCall *call, int64 queue_id, JobqRow *new)
{
	Datum		key = Int64GetDatum(queue_id);

	for (;;)
	{
		TupleTableSlot *slot = jobq_find(call, JOBQ_QUEUE, INDEX_SECOND, 1, &key, NULL);

		if (slot == NULL)
			return NULL;
		jobq_values(slot, new);
		if (jobq_lock(call, JOBQ_QUEUE, slot, LockTupleNoKeyExclusive, LockWaitBlock))
			return slot;
		jobq_slot_free(slot);
	}
}

/* Write the row of a queue that is locked. */
void
jobq_queue_write(JobqCall *call, TupleTableSlot *slot, JobqRow *new)
{
	(void) jobq_update(call, JOBQ_QUEUE, slot, new, LockWaitBlock);
	jobq_slot_free(slot);
	CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_QUEUE));
}

/*
 * For the background worker: pause a queue, so many of whose attempts ended badly
 * within its pause_window.
 */
void
jobq_queue_pause(JobqCall *call, const JobqQueue *queue, int64 failures)
{
	Interval	window = {.time = queue->pause_window};
	char	   *because = psprintf("attempts that failed, timed out or were lost within %s: %lld",
								   DatumGetCString(DirectFunctionCall1(interval_out, IntervalPGetDatum(&window))),
								   (long long) failures);
	JobqRow		new;
	TupleTableSlot *slot = jobq_queue_lock(call, queue->queue_id, &new);

	if (slot == NULL)
		return;
	set_paused(call, slot, &new, true, because);
	jobq_queue_write(call, slot, &new);
	ereport(LOG, (errmsg("jobq paused queue \"%s\": %s", queue->name, because)));
}

/* An argument of job_queue_set: leave the setting where it is NULL. */
static void
change(JobqRow *new, int attno, bool given, Datum value)
{
	if (given)
		jobq_set(new, attno, value);
}

/* An argument that says how long decided jobs are kept; -1: it is NULL. */
static int64
check_retention(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (!PG_ARGISNULL(argno) && jobq_interval_micros(PG_GETARG_INTERVAL_P(argno)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must not be negative", what),
				 errhint("The longest is %d days; only the setting jobq.%s can be -1, for ever.",
						 (int) JOBQ_MAX_INTERVAL_DAYS, what)));
	return jobq_check_interval(fcinfo, argno, what, true);
}

/* An argument that limits something: that nothing does is for job_queue_reset() to say. */
static int32
check_limit(FunctionCallInfo fcinfo, int argno, const char *what)
{
	if (!PG_ARGISNULL(argno) && PG_GETARG_INT32(argno) <= 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("\"%s\" must be greater than zero", what),
				 errhint("To have none, take the setting back with job_queue_reset().")));
	return jobq_check_count(fcinfo, argno, what);
}

PG_FUNCTION_INFO_V1(jobq_job_queue_set);

/*
 * job_queue_set(queue, paused, max_attempts, max_lost, backoff, backoff_cap,
 * timeout, lease, notify, retention, retention_failed, pause_after, pause_window,
 * max_running, max_running_per_partition, ordered, fair, rate, rate_per_partition,
 * rate_interval, affinity_wait)
 */
Datum
jobq_job_queue_set(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	char	   *name = jobq_check_queue(fcinfo, 0);
	int64		queue_id = jobq_queue_id(name);
	int32		max_attempts = jobq_check_count(fcinfo, 2, "max_attempts");
	int32		max_lost = jobq_check_count(fcinfo, 3, "max_lost");
	int64		backoff = jobq_check_interval(fcinfo, 4, "backoff", false);
	int64		backoff_cap = jobq_check_interval(fcinfo, 5, "backoff_cap", false);
	int64		timeout = jobq_check_interval(fcinfo, 6, "timeout", true);
	int64		lease = jobq_check_lease(jobq_check_interval(fcinfo, 7, "lease", false), "lease");
	int64		retention = check_retention(fcinfo, 9, "retention");
	int64		retention_failed = check_retention(fcinfo, 10, "retention_failed");
	int32		pause_after = check_limit(fcinfo, 11, "pause_after");
	int64		pause_window = jobq_check_interval(fcinfo, 12, "pause_window", false);
	int32		max_running = check_limit(fcinfo, 13, "max_running");
	int32		max_running_per_partition = check_limit(fcinfo, 14, "max_running_per_partition");
	int32		rate = check_limit(fcinfo, 17, "rate");
	int32		rate_per_partition = check_limit(fcinfo, 18, "rate_per_partition");
	int64		rate_interval = jobq_check_interval(fcinfo, 19, "rate_interval", false);
	int64		affinity_wait = jobq_check_interval(fcinfo, 20, "affinity_wait", true);
	int			notify = -1;
	JobqRow		new;
	TupleTableSlot *slot;

	/*
	 * failures are counted by the moments at which the background worker
	 * looks
	 */
	if (pause_window >= 0 && pause_window < USECS_PER_SEC)
		jobq_error_must("pause_window", "be at least one second");
	if (!PG_ARGISNULL(8))
	{
		char	   *mode = text_to_cstring(PG_GETARG_TEXT_PP(8));

		if (strcmp(mode, "coalesced") == 0)
			notify = JOBQ_NOTIFY_COALESCED;
		else if (strcmp(mode, "transactional") == 0)
			notify = JOBQ_NOTIFY_TRANSACTIONAL;
		else if (strcmp(mode, "off") == 0)
			notify = JOBQ_NOTIFY_OFF;
		else
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized value for \"notify\": \"%s\"", mode),
					 errhint("Valid values are \"coalesced\", \"transactional\" and \"off\".")));
	}

	jobq_enter(&call, "job_queue_set()", true);
	jobq_require_privilege(&call, queue_id, PRIV_OPERATE, name);
	make_queue(&call, name, queue_id, true);

	slot = jobq_queue_lock(&call, queue_id, &new);
	if (slot == NULL)
		elog(ERROR, "queue \"%s\" is gone", name);
	if (!PG_ARGISNULL(1))
		set_paused(&call, slot, &new, PG_GETARG_BOOL(1), "by job_queue_set");
	change(&new, QUEUE_MAX_ATTEMPTS, max_attempts > 0, Int32GetDatum(max_attempts));
	change(&new, QUEUE_MAX_LOST, max_lost > 0, Int32GetDatum(max_lost));
	change(&new, QUEUE_BACKOFF, backoff > 0, Int64GetDatum(backoff));
	change(&new, QUEUE_BACKOFF_CAP, backoff_cap > 0, Int64GetDatum(backoff_cap));
	change(&new, QUEUE_TIMEOUT, timeout >= 0, Int64GetDatum(timeout));
	change(&new, QUEUE_LEASE, lease > 0, Int64GetDatum(lease));
	change(&new, QUEUE_NOTIFY, notify >= 0, Int16GetDatum(notify));
	change(&new, QUEUE_RETENTION, retention >= 0, Int64GetDatum(retention));
	change(&new, QUEUE_RETENTION_FAILED, retention_failed >= 0, Int64GetDatum(retention_failed));
	change(&new, QUEUE_PAUSE_AFTER, pause_after > 0, Int32GetDatum(pause_after));
	change(&new, QUEUE_PAUSE_WINDOW, pause_window > 0, Int64GetDatum(pause_window));
	change(&new, QUEUE_MAX_RUNNING, max_running > 0, Int32GetDatum(max_running));
	change(&new, QUEUE_MAX_RUNNING_PER_PARTITION, max_running_per_partition > 0,
		   Int32GetDatum(max_running_per_partition));
	change(&new, QUEUE_ORDERED, !PG_ARGISNULL(15), PG_GETARG_DATUM(15));
	change(&new, QUEUE_FAIR, !PG_ARGISNULL(16), PG_GETARG_DATUM(16));
	change(&new, QUEUE_RATE, rate > 0, Int32GetDatum(rate));
	change(&new, QUEUE_RATE_PER_PARTITION, rate_per_partition > 0, Int32GetDatum(rate_per_partition));
	change(&new, QUEUE_RATE_INTERVAL, rate_interval > 0, Int64GetDatum(rate_interval));
	change(&new, QUEUE_AFFINITY_WAIT, affinity_wait >= 0, Int64GetDatum(affinity_wait));
	if ((rate > 0 || rate_per_partition > 0) && !new.given[QUEUE_RATE_INTERVAL - 1])
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("a rate needs \"rate_interval\""),
				 errhint("Give the interval in which so many attempts may begin, such as rate_interval => '1 minute'.")));
	jobq_change_gate(&call, slot, &new);
	jobq_queue_write(&call, slot, &new);
	if (retention >= 0 || retention_failed >= 0)
		jobq_announce_retention();
	/* a queue that goes on has work for those who wait */
	if (!PG_ARGISNULL(1) && !PG_GETARG_BOOL(1))
		jobq_announce_resumed(queue_id);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}

/* The settings by their names, and where they stand */
static const struct
{
	const char *name;
	int			column;
}			settings[] = {
	{"paused", QUEUE_PAUSED},
	{"max_attempts", QUEUE_MAX_ATTEMPTS},
	{"max_lost", QUEUE_MAX_LOST},
	{"backoff", QUEUE_BACKOFF},
	{"backoff_cap", QUEUE_BACKOFF_CAP},
	{"timeout", QUEUE_TIMEOUT},
	{"lease", QUEUE_LEASE},
	{"notify", QUEUE_NOTIFY},
	{"retention", QUEUE_RETENTION},
	{"retention_failed", QUEUE_RETENTION_FAILED},
	{"pause_after", QUEUE_PAUSE_AFTER},
	{"pause_window", QUEUE_PAUSE_WINDOW},
	{"max_running", QUEUE_MAX_RUNNING},
	{"max_running_per_partition", QUEUE_MAX_RUNNING_PER_PARTITION},
	{"ordered", QUEUE_ORDERED},
	{"fair", QUEUE_FAIR},
	{"rate", QUEUE_RATE},
	{"rate_per_partition", QUEUE_RATE_PER_PARTITION},
	{"rate_interval", QUEUE_RATE_INTERVAL},
	{"affinity_wait", QUEUE_AFFINITY_WAIT},
};

/* Which setting an argument names: its index, or -1 where it is NULL. */
static int
read_setting(FunctionCallInfo fcinfo, int argno)
{
	char	   *name;

	if (PG_ARGISNULL(argno))
		return -1;
	name = text_to_cstring(PG_GETARG_TEXT_PP(argno));
	for (int i = 0; i < lengthof(settings); i++)
	{
		if (strcmp(settings[i].name, name) == 0)
			return i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized setting of a queue: \"%s\"", name),
			 errhint("Settings are the arguments of job_queue_set; NULL means all of them.")));
}

/* Is a column among those that are reset?  setting -1: all are. */
static bool
resets(int setting, int column)
{
	return setting < 0 || settings[setting].column == column;
}

PG_FUNCTION_INFO_V1(jobq_job_queue_reset);

/* job_queue_reset(queue, setting): nothing to do where the queue has no row. */
Datum
jobq_job_queue_reset(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	char	   *name = jobq_check_queue(fcinfo, 0);
	int64		queue_id = jobq_queue_id(name);
	int			setting = read_setting(fcinfo, 1);
	JobqRow		new;
	TupleTableSlot *slot;

	jobq_enter(&call, "job_queue_reset()", true);
	jobq_require_privilege(&call, queue_id, PRIV_OPERATE, name);
	slot = jobq_queue_lock(&call, queue_id, &new);
	if (slot != NULL)
	{
		for (int i = 0; i < lengthof(settings); i++)
		{
			if (!resets(setting, settings[i].column))
				continue;
			if (settings[i].column == QUEUE_PAUSED)
				set_paused(&call, slot, &new, false, NULL);
			else if (settings[i].column == QUEUE_NOTIFY)
				jobq_set(&new, QUEUE_NOTIFY, Int16GetDatum(JOBQ_NOTIFY_COALESCED));
			else if (settings[i].column == QUEUE_ORDERED || settings[i].column == QUEUE_FAIR)
				jobq_set(&new, settings[i].column, BoolGetDatum(false));
			else
				new.given[settings[i].column - 1] = false;
		}
		if ((new.given[QUEUE_RATE - 1] || new.given[QUEUE_RATE_PER_PARTITION - 1]) &&
			!new.given[QUEUE_RATE_INTERVAL - 1])
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("a rate needs \"rate_interval\""),
					 errhint("Reset rate and rate_per_partition first.")));
		if (setting < 0)
			jobq_reset_partitions(&call, slot, &new);
		else
			jobq_change_gate(&call, slot, &new);
		jobq_queue_write(&call, slot, &new);
	}
	if (resets(setting, QUEUE_RETENTION) || resets(setting, QUEUE_RETENTION_FAILED))
		jobq_announce_retention();
	if (resets(setting, QUEUE_PAUSED))
		jobq_announce_resumed(queue_id);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}
