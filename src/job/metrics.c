/*
 * metrics.c
 *	  job_metrics and job_metrics_text: numbers of each queue, as Prometheus wants
 *	  them.
 *
 * What is done to a job is counted where it is done (jobq_count) and kept
 * by shared/counts.c.  How many jobs are in each state is there, too, once
 * somebody has counted the rows: whoever asks first counts them, and leaves what
 * it found as the base.  While there is none, as on a standby, everybody
 * counts for themselves: slower, and as right.
 *
 * Whoever is about to count takes a lock that is only taken if it is free, so that
 * two do not spoil each other's base; it ends with the transaction, whatever
 * becomes of that.
 */
#include "postgres.h"

#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/pg_authid.h"
#include "common/shortest_dec.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

/* Bounds of the histograms */
static const struct
{
	int64		most;			/* microseconds */
	const char *label;			/* seconds */
}			bounds[TIME_BOUNDS] = {
	{INT64CONST(5000), "0.005"},
	{INT64CONST(10000), "0.01"},
	{INT64CONST(50000), "0.05"},
	{INT64CONST(100000), "0.1"},
	{INT64CONST(500000), "0.5"},
	{INT64CONST(1000000), "1"},
	{INT64CONST(5000000), "5"},
	{INT64CONST(10000000), "10"},
	{INT64CONST(30000000), "30"},
	{INT64CONST(60000000), "60"},
	{INT64CONST(300000000), "300"},
	{INT64CONST(900000000), "900"},
	{INT64CONST(3600000000), "3600"},
	{INT64CONST(21600000000), "21600"},
	{INT64CONST(86400000000), "86400"},
};

/* Where the values of a metric come from */
typedef enum Source
{
	FROM_COUNTS,				/* one for each value of the label */
	FROM_TIMES,
	FROM_OLDEST,
	FROM_SETTINGS,
	FROM_SCHEDULES,
	FROM_DUE,
	FROM_WORKER,
	FROM_MEMORY
} Source;

typedef struct Metric
{
	const char *name;
	const char *type;
	const char *help;
	Source		source;
	int			first;			/* COUNT_ */
	const char *label;			/* beside the queue, or NULL */
	const char *const *values;	/* of the label, up to a NULL */
} Metric;

static const char *const state_names[] = {"waiting", "scheduled", "ready", "running", "limited", NULL};
static const char *const attempt_names[] = {"succeeded", "failed", "timed_out", "lost", "released",
"snoozed", "cancelled", NULL};
static const char *const decided_names[] = {"succeeded", "failed", "skipped", "cancelled",
"upstream_failed", NULL};
static const char *const no_names[] = {NULL, NULL};

static const Metric metrics[] = {
	{"jobq_jobs", "gauge", "Jobs that are not decided, by state.",
	FROM_COUNTS, COUNT_WAITING, "state", state_names},
	{"jobq_oldest_ready_seconds", "gauge", "How long the oldest of the ready jobs has been ready.",
	FROM_OLDEST},
	{"jobq_queue_paused", "gauge", "Whether the queue is paused.",
	FROM_SETTINGS},
	{"jobq_submitted_total", "counter", "Jobs that were submitted.",
	FROM_COUNTS, COUNT_SUBMITTED, NULL, no_names},
	{"jobq_attempts_total", "counter", "Attempts that ended, by outcome.",
	FROM_COUNTS, COUNT_ATTEMPTS, "outcome", attempt_names},
	{"jobq_decided_total", "counter", "Jobs that were decided, by the state they are in then.",
	FROM_COUNTS, COUNT_DECIDED, "state", decided_names},
	{"jobq_wait_seconds", "histogram", "How long jobs were ready until they were claimed.",
	FROM_TIMES, COUNT_WAIT},
	{"jobq_run_seconds", "histogram", "How long attempts took, from the claim to their end.",
	FROM_TIMES, COUNT_RUN},
	{"jobq_schedule_problems", "gauge", "Schedules whose last time that was due has no job because of a problem.",
	FROM_SCHEDULES},
	{"jobq_schedule_overdue_seconds", "gauge", "How long the schedule that has been due for longest has been due.",
	FROM_DUE},
	{"jobq_worker_running", "gauge", "Whether the background worker of the database runs.",
	FROM_WORKER},
	{"jobq_memory_used_ratio", "gauge", "Share of a part of shared memory that is used, by all databases.",
	FROM_MEMORY, 0, "part"},
};

/* What is told of a queue */
typedef struct QueueCounts
{
	int64		queue_id;		/* hash key */
	char	   *name;			/* NULL: not known */
	bool		paused;
	bool		has_settings;	/* has a row in job_queue */
	bool		has_counters;	/* those in shared memory */
	TimestampTz oldest;			/* DT_NOEND: none is ready */
	int64		values[COUNTS];
} QueueCounts;

/* Where values go: rows or, if that is not NULL, text */
typedef struct Sink
{
	ReturnSetInfo *rsinfo;
	StringInfo text;
	const Metric *metric;
	bool		begun;			/* the metric has a value */
} Sink;

/* Counting */

/* Count a time, in microseconds, in the histogram whose counts begin there. */
void
jobq_count_time(int64 queue_id, int first, int64 took)
{
	int			i = 0;

	took = Max(took, 0);
	while (i < TIME_BOUNDS && took > bounds[i].most)
		i++;
	jobq_count(queue_id, first + i, 1);
	jobq_count(queue_id, first + TIME_BOUNDS + 1, took);
}

/* How many jobs there are */

/* The rows of job_state_counts: how many there are in *n, and in *names the queue of each if asked. */
static JobqCounts *
count_rows(JobqCall *call, char ***names, int *n)
{
	MemoryContext context = CurrentMemoryContext;
	MemoryContext spi;
	JobqCounts *counts;

	jobq_ask_as_owner("SELECT * FROM %s.job_state_counts()", 0, NULL, NULL, true);
	*n = (int) SPI_processed;
	spi = MemoryContextSwitchTo(context);
	counts = palloc0(Max(*n, 1) * sizeof(JobqCounts));
	*names = palloc0(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
	{
		HeapTuple	row = SPI_tuptable->vals[i];
		bool		isnull;
		TupleTableSlot *job;

		counts[i].queue_id = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 1, &isnull));
		for (int k = 0; k < JOBQ_GAUGES; k++)
			counts[i].values[k] = DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2 + k, &isnull));
		job = jobq_find_id(call, JOBQ_JOB,
						   DatumGetInt64(SPI_getbinval(row, SPI_tuptable->tupdesc, 2 + JOBQ_GAUGES, &isnull)));
		if (job != NULL)
			(*names)[i] = jobq_attr_cstring(job, JOB_QUEUE);
		jobq_slot_free(job);
	}
	MemoryContextSwitchTo(spi);
	SPI_finish();
	return counts;
}

/* Count them, and leave that as the base if nobody else is about to, and it can be one. */
static JobqCounts *
count_base(JobqCall *call, const JobqFileNumber *files, char ***names, int *n)
{
	JobqCounts *counts;
	Snapshot	snapshot = NULL;
	uint32		generation = 0;
	LOCKTAG		tag;
	bool		locked;

	SET_LOCKTAG_ADVISORY(tag, MyDatabaseId, jobq_table_oid(JOBQ_QUEUE), 0, 4);
	locked = !RecoveryInProgress() && !TransactionIdIsValid(GetTopTransactionIdIfAny()) &&
		LockAcquire(&tag, ExclusiveLock, false, true) == LOCKACQUIRE_OK;
	if (locked)
		snapshot = jobq_base_begin(files, &generation);
	PushActiveSnapshot(snapshot != NULL ? snapshot : GetLatestSnapshot());
	counts = count_rows(call, names, n);
	PopActiveSnapshot();
	if (snapshot != NULL)
	{
		jobq_base_end(generation, counts, *n);
		UnregisterSnapshot(snapshot);
	}
	if (locked)
		LockRelease(&tag, ExclusiveLock, false);
	return counts;
}

/* The queues */

/* Find or make what is known of a queue. */
static QueueCounts *
queue_entry(HTAB *queues, int64 queue_id)
{
	bool		found;
	QueueCounts *q = hash_search(queues, &queue_id, HASH_ENTER, &found);

	if (!found)
	{
		memset(q, 0, sizeof(QueueCounts));
		q->queue_id = queue_id;
		q->oldest = DT_NOEND;
	}
	return q;
}

/* Read the queues that have a row. */
static void
read_settings(JobqCall *call, HTAB *queues, bool room)
{
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_QUEUE, INDEX_SECOND, 0, NULL, NULL);
	TupleTableSlot *slot;

	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		QueueCounts *q = queue_entry(queues, jobq_attr_int64(slot, QUEUE_ID));

		q->name = jobq_attr_cstring(slot, QUEUE_NAME);
		q->paused = jobq_attr_bool(slot, QUEUE_PAUSED);
		q->has_settings = true;
		q->has_counters |= room;
	}
	jobq_scan_end(scan);
}

/* Read what shared memory has; false: how many jobs there are must be counted. */
static bool
read_counts(HTAB *queues, const JobqCounts *counts, int n, bool there)
{
	for (int i = 0; i < n; i++)
	{
		QueueCounts *q = queue_entry(queues, counts[i].queue_id);

		q->has_counters = true;
		memcpy(q->values, counts[i].values, sizeof(q->values));
		for (int k = 0; k < JOBQ_GAUGES; k++)
		{
			there &= q->name != NULL || q->values[k] == 0;
			/* not those of a base that is not there */
			q->values[k] = there ? q->values[k] : 0;
		}
	}
	return there;
}

/* By name. */
static int
compare_queues(const void *a, const void *b)
{
	return strcmp((*(QueueCounts *const *) a)->name, (*(QueueCounts *const *) b)->name);
}

/*
 * Since when the oldest job has been ready in a lane, as its gate has made it, or in
 * workers' own beside it.
 */
static TimestampTz
oldest_ready(JobqCall *call, int64 lane)
{
	TimestampTz since = DT_NOEND;

	for (int64 l = lane; l != 0; l = jobq_next_own_lane(call, lane, l))
		since = Min(since, jobq_handout_oldest(call, l));
	return since;
}

/* The queues that the caller may read, and how many they are. */
static QueueCounts **
read_queues(JobqCall *call, int *n)
{
	static const JobqTable tables[JOBQ_GAUGES] = {JOBQ_WAITING, JOBQ_SCHEDULED, JOBQ_READY, JOBQ_LEASE,
	JOBQ_LIMITED};
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(QueueCounts),.hcxt = CurrentMemoryContext};
	HTAB	   *queues = hash_create("jobq metrics", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	JobqFileNumber files[JOBQ_GAUGES];
	JobqCounts *counts;
	int			ncounts;
	bool		there;
	bool		room;
	HASH_SEQ_STATUS seq;
	QueueCounts *q;
	QueueCounts **result;

	StaticAssertStmt(COUNTS == JOBQ_COUNTS, "shared memory has room for what is counted");
	StaticAssertStmt(COUNT_SUBMITTED == JOBQ_GAUGES, "states come first");
	for (int i = 0; i < JOBQ_GAUGES; i++)
		(void) jobq_blocks(call, tables[i], &files[i]);

	/*
	 * what was counted first, so that the row of its queue is there to be
	 * seen
	 */
	there = jobq_counts_read(files, &counts, &ncounts, &room);
	read_settings(call, queues, room && !RecoveryInProgress());
	if (!read_counts(queues, counts, ncounts, there))
	{
		char	  **names;

		counts = count_base(call, files, &names, &ncounts);
		hash_seq_init(&seq, queues);
		while ((q = hash_seq_search(&seq)) != NULL)
			memset(q->values, 0, JOBQ_GAUGES * sizeof(int64));
		for (int i = 0; i < ncounts; i++)
		{
			q = queue_entry(queues, counts[i].queue_id);
			memcpy(q->values, counts[i].values, JOBQ_GAUGES * sizeof(int64));
			if (q->name == NULL)
				q->name = names[i];
		}
	}

	result = palloc((hash_get_num_entries(queues) + 1) * sizeof(QueueCounts *));
	*n = 0;
	hash_seq_init(&seq, queues);
	while ((q = hash_seq_search(&seq)) != NULL)
	{
		if (q->name == NULL || !jobq_visible(call, q->queue_id, InvalidOid, InvalidOid))
			continue;
		if (q->values[COUNT_READY] > 0)
		{
			const JobqQueue *known = jobq_queue_known(call, q->queue_id);
			int64		gate = known ? known->gate : 0;
			JobqLaneSet *lanes;
			int			nlanes = jobq_queue_lanes(call, q->queue_id, NULL, &lanes);

			q->oldest = DT_NOEND;
			for (int i = 0; i < nlanes; i++)
				q->oldest = Min(q->oldest, oldest_ready(call, jobq_gate_lane(lanes[i].lane, gate)));
		}
		result[(*n)++] = q;
	}
	qsort(result, *n, sizeof(QueueCounts *), compare_queues);
	return result;
}

/* Telling */

/* Append text as it stands in a help or, quoted, in a label. */
static void
append_escaped(StringInfo out, const char *s, bool quoted)
{
	for (; *s != '\0'; s++)
	{
		if (*s == '\n')
			appendStringInfoString(out, "\\n");
		else
		{
			if (*s == '\\' || (quoted && *s == '"'))
				appendStringInfoChar(out, '\\');
			appendStringInfoChar(out, *s);
		}
	}
}

/* Append a label of a line that has n of them so far. */
static void
append_label(StringInfo out, int n, const char *name, const char *value)
{
	appendStringInfo(out, "%c%s=\"", n == 0 ? '{' : ',', name);
	append_escaped(out, value, true);
	appendStringInfoChar(out, '"');
}

/* A line of the text format. */
static void
put_line(Sink *sink, const char *suffix, int nlabels, const char *const(*labels)[2], double value)
{
	StringInfo	out = sink->text;
	char		number[Max(DOUBLE_SHORTEST_DECIMAL_LEN, MAXINT8LEN + 1)];

	if (!sink->begun)
	{
		appendStringInfo(out, "# HELP %s ", sink->metric->name);
		append_escaped(out, sink->metric->help, false);
		appendStringInfo(out, "\n# TYPE %s %s\n", sink->metric->name, sink->metric->type);
	}
	appendStringInfo(out, "%s%s", sink->metric->name, suffix);
	for (int i = 0; i < nlabels; i++)
		append_label(out, i, labels[i][0], labels[i][1]);
	/* most are whole numbers, which are more easily read like this */
	if (value == (double) (int64) value)
		pg_lltoa((int64) value, number);
	else
		double_to_shortest_decimal_buf(value, number);
	appendStringInfo(out, "%s %s\n", nlabels > 0 ? "}" : "", number);
}

/* A row of the view. */
static void
put_row(Sink *sink, const char *suffix, int nlabels, const char *const(*labels)[2], double value)
{
	JsonbParseState *state = NULL;
	JsonbValue	v;
	Datum		values[5];
	bool		nulls[5] = {false};

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < nlabels; i++)
	{
		for (int k = 0; k < 2; k++)
		{
			v.type = jbvString;
			v.val.string.val = unconstify(char *, labels[i][k]);
			v.val.string.len = strlen(labels[i][k]);
			pushJsonbValue(&state, k == 0 ? WJB_KEY : WJB_VALUE, &v);
		}
	}
	values[0] = CStringGetTextDatum(psprintf("%s%s", sink->metric->name, suffix));
	values[1] = CStringGetTextDatum(sink->metric->type);
	values[2] = CStringGetTextDatum(sink->metric->help);
	values[3] = JsonbPGetDatum(JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL)));
	values[4] = Float8GetDatum(value);
	tuplestore_putvalues(sink->rsinfo->setResult, sink->rsinfo->setDesc, values, nulls);
}

/* A value of the metric, with its labels that are not NULL. */
static void
put(Sink *sink, const char *suffix, const char *queue, const char *label, const char *of_label, double value)
{
	const char *labels[2][2];
	int			n = 0;

	if (queue != NULL)
	{
		labels[n][0] = "queue";
		labels[n++][1] = queue;
	}
	if (label != NULL)
	{
		labels[n][0] = label;
		labels[n++][1] = of_label;
	}
	(sink->text !=NULL ? put_line : put_row) (sink, suffix, n, labels, value);
	sink->begun = true;
}

/* A histogram. */
static void
put_times(Sink *sink, const QueueCounts *q)
{
	const int64 *counts = &q->values[sink->metric->first];
	int64		n = 0;

	for (int i = 0; i <= TIME_BOUNDS; i++)
	{
		n += counts[i];
		put(sink, "_bucket", q->name, "le", i < TIME_BOUNDS ? bounds[i].label : "+Inf", n);
	}
	put(sink, "_sum", q->name, NULL, NULL, counts[TIME_BOUNDS + 1] / 1000000.0);
	put(sink, "_count", q->name, NULL, NULL, n);
}

/* What the metric says of a queue. */
static void
put_queue(Sink *sink, JobqCall *call, const QueueCounts *q)
{
	const Metric *m = sink->metric;

	switch (m->source)
	{
		case FROM_COUNTS:
			for (int i = 0; (i == 0 || m->values[i] != NULL) && (m->first < JOBQ_GAUGES || q->has_counters); i++)
				put(sink, "", q->name, m->label, m->values[i], q->values[m->first + i]);
			break;
		case FROM_TIMES:
			if (q->has_counters)
				put_times(sink, q);
			break;
		case FROM_OLDEST:
			if (q->oldest != DT_NOEND)
				put(sink, "", q->name, NULL, NULL, Max(call->now - q->oldest, 0) / 1000000.0);
			break;
		case FROM_SETTINGS:
			if (q->has_settings)
				put(sink, "", q->name, NULL, NULL, q->paused ? 1 : 0);
			break;
		default:
			break;
	}
}

/* Does the background worker run, and may it act if there is anything to do? */
static bool
worker_runs(JobqCall *call)
{
	JobqDatabase *db = jobq_my_database(false);

	return db != NULL && db->worker_pid != 0 && (jobq_is_active(call) || jobq_is_empty(call, JOBQ_JOB));
}

/* All values of all metrics, those of one together. */
static void
put_all(Sink *sink, const char *function)
{
	JobqCall	call;
	QueueCounts **queues;
	int			n;
	int			problems;
	TimestampTz due;
	const JobqPart *part;

	jobq_enter(&call, function, false);
	queues = read_queues(&call, &n);
	problems = jobq_schedule_problems(&call, &due);
	for (int i = 0; i < lengthof(metrics); i++)
	{
		sink->metric = &metrics[i];
		sink->begun = false;
		for (int k = 0; k < n; k++)
			put_queue(sink, &call, queues[k]);
		if (sink->metric->source == FROM_SCHEDULES)
			put(sink, "", NULL, NULL, NULL, problems);
		if (sink->metric->source == FROM_DUE)
			put(sink, "", NULL, NULL, NULL, due == DT_NOEND ? 0 : (call.now - due) / 1000000.0);
		if (sink->metric->source == FROM_WORKER && !RecoveryInProgress())
			put(sink, "", NULL, NULL, NULL, worker_runs(&call) ? 1 : 0);
		/* as job_memory, which is not only of this database */
		if (sink->metric->source == FROM_MEMORY &&
			(jobq_is_owner() || has_privs_of_role(GetUserId(), ROLE_PG_MONITOR)))
		{
			for (int k = 0; (part = jobq_part(k)) != NULL; k++)
				put(sink, "", NULL, sink->metric->label, part->name, (double) part->used() / *part->entries);
		}
	}
	jobq_close_call(&call);
}

PG_FUNCTION_INFO_V1(jobq_job_metric_values);

/* job_metric_values(), for the view job_metrics */
Datum
jobq_job_metric_values(PG_FUNCTION_ARGS)
{
	Sink		sink = {.rsinfo = (ReturnSetInfo *) fcinfo->resultinfo};

	InitMaterializedSRF(fcinfo, 0);
	put_all(&sink, "job_metrics");
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_metrics_text);

/* job_metrics_text() */
Datum
jobq_job_metrics_text(PG_FUNCTION_ARGS)
{
	Sink		sink = {.text = makeStringInfo()};

	put_all(&sink, "job_metrics_text()");
	PG_RETURN_TEXT_P(cstring_to_text_with_len(sink.text->data, sink.text->len));
}
