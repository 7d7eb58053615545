/*
 * table.h
 *	  Our tables, their rows, and the catalog's entries of them.
 *
 * The lowest layer: it knows how to find, lock and write a row, not what a row
 * means.  Whatever reads or writes a table of ours does so through a JobqCall.
 */
#ifndef JOBQ_TABLE_H
#define JOBQ_TABLE_H

#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "datatype/timestamp.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "utils/builtins.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "table/compat.h"

extern int	jobq_clock_offset_ms;

/* Tables and their columns, in the order of jobq--1.0.sql */
typedef enum JobqTable
{
	JOBQ_JOB,
	JOBQ_DEPENDENCY,
	JOBQ_WAITING,
	JOBQ_DELTA,
	JOBQ_RECOUNT,
	JOBQ_SCHEDULED,
	JOBQ_LIMITED,
	JOBQ_READY,
	JOBQ_LEASE,
	JOBQ_FLOW,
	JOBQ_KEPT,
	JOBQ_EXPIRY,
	JOBQ_CANCEL_REQUEST,
	JOBQ_UNIQUE,
	JOBQ_SCHEDULE,
	JOBQ_ATTEMPT,
	JOBQ_LOG,
	JOBQ_STEP,
	JOBQ_QUEUE,
	JOBQ_PARTITION,
	JOBQ_LANE,
	JOBQ_TURN,
	JOBQ_WORKER,
	JOBQ_PRIVILEGE,
	JOBQ_ACTIVE,
	JOBQ_NTABLES
} JobqTable;

enum
{
	JOB_ID = 1,
	JOB_SUBMITTED_AT,
	JOB_SUBMITTED_BY,
	JOB_QUORUM,
	JOB_DEPENDENCIES,
	JOB_GENERATION,
	JOB_PRIORITY,
	JOB_RULE,
	JOB_NOTIFY,
	JOB_MANUAL,
	JOB_QUEUE,
	JOB_KIND,
	JOB_ARGS,
	JOB_STARTED_AT,
	JOB_FINISHED_AT,
	JOB_TOKEN,
	JOB_ATTEMPT_NO,
	JOB_FAILED,
	JOB_LOST,
	JOB_OUTCOME,
	JOB_ATTEMPT_OUTCOME,
	JOB_WORKER,
	JOB_RESULT,
	JOB_ERROR,
	JOB_UNIQUE_KEY,
	JOB_FLOW,
	JOB_FLOW_TYPE,
	JOB_CRITICAL,
	JOB_NAME,
	JOB_RUN_AT,
	JOB_EXPIRES_AT,
	JOB_BACKOFF,
	JOB_TIMEOUT,
	JOB_LEASE,
	JOB_MAX_ATTEMPTS,
	JOB_MAX_LOST,
	JOB_TAGS,
	JOB_PARENT,
	JOB_UNIQUE_FOR,
	JOB_PARTITION,
	JOB_REQUIRES,
	JOB_AFFINITY,
	JOB_SCHEDULE_ID,
	JOB_SCHEDULED_FOR,
	JOB_KEY_GENERATION,
	JOB_DECIDED_BY,
	JOB_FORMER_FLOW,
	JOB_UNDO_OF,
	JOB_REPEATS,
	JOB_UNDO,
	JOB_NATTS = JOB_UNDO
};

enum
{
	DEP_UPSTREAM = 1,
	DEP_DOWNSTREAM,
	DEP_REQUIRE,
	DEP_SUFFICE,
	DEP_CONDITION
};

/* The columns that all tables of states begin with */
enum
{
	STATE_JOB_ID = 1,
	STATE_QUEUE_ID,
	STATE_LANE,
	STATE_RUN_AT,
	STATE_EXPIRES_AT,
	STATE_PARTITION_ID,
	STATE_AFFINITY_ID,
	STATE_FLOW_ID,
	STATE_ATTEMPT,
	STATE_FAILED,
	STATE_LOST,
	STATE_PRIORITY,
	STATE_SLOT,
	STATE_NATTS = STATE_SLOT
};

enum
{
	WAITING_EPOCH = STATE_NATTS + 1,
	WAITING_LIMITED_BY,
	WAITING_UNDECIDED,
	WAITING_PENDING,
	WAITING_HITS,
	WAITING_VIOLATED,
	WAITING_HURT,
	WAITING_QUORUM,
	WAITING_RULE,
	WAITING_OPEN,
	WAITING_HELD,
	WAITING_MANUAL,
	WAITING_WIDE
};

enum
{
	DELTA_SEQ = 1,
	DELTA_DOWNSTREAM,
	DELTA_EPOCH,
	DELTA_UNDECIDED,
	DELTA_PENDING,
	DELTA_HITS,
	DELTA_VIOLATED,
	DELTA_HURT,
	DELTA_RUNNING,
	DELTA_PERMITS
};

enum
{
	RECOUNT_SEQ = 1,
	RECOUNT_JOB_ID
};

/* job_limited has the same */
enum
{
	READY_POSITION = STATE_NATTS + 1,
	READY_SINCE
};

enum
{
	LEASE_TOKEN = STATE_NATTS + 1,
	LEASE_DEADLINE,
	LEASE_UNTIL,
	LEASE_TIMEOUT_AT,
	LEASE_STARTED_AT,
	LEASE_PERIOD,
	LEASE_HOLDER,
	LEASE_CANCEL_REQUESTED,
	LEASE_LAST,
	LEASE_SESSION,
	LEASE_WORKER,
	LEASE_LABELS,
	LEASE_CANCEL_REASON,
	LEASE_PROGRESS
};

enum
{
	FLOW_UNDECIDED = STATE_NATTS + 1,
	FLOW_PENDING,
	FLOW_HITS,
	FLOW_VIOLATED,
	FLOW_HURT,
	FLOW_RUNNING,
	FLOW_PERMITS,
	FLOW_MAX_RUNNING,
	FLOW_CANARY,
	FLOW_STARTED_AT,
	FLOW_UNDONE_BY,
	FLOW_CLONE_OF,
	FLOW_CANARY_FROM,
	FLOW_CANARY_UPTO,
	FLOW_MIN_SUCCESS,
	FLOW_ON_FAILURE,
	FLOW_STOPPING,
	FLOW_OPEN,
	FLOW_PAUSED,
	FLOW_SETTLED,
	FLOW_ANEW,
	FLOW_STOP_REASON,
	FLOW_CLONE_FROM,
	FLOW_DEFINITION,
	FLOW_ARGS
};

enum
{
	KEPT_LOOK_AT = 1,
	KEPT_JOB_ID,
	KEPT_POSITION,
	KEPT_UNTIL,
	KEPT_WORKER
};

enum
{
	EXPIRY_EXPIRES_AT = 1,
	EXPIRY_JOB_ID
};

enum
{
	CANCEL_SEQ = 1,
	CANCEL_JOB_ID,
	CANCEL_GENERATION,
	CANCEL_UNLESS_BEGUN,
	CANCEL_REASON
};

enum
{
	UNIQUE_QUEUE_ID = 1,
	UNIQUE_JOB_ID,
	UNIQUE_UNTIL,
	UNIQUE_KEY
};

enum
{
	SCHEDULE_ID = 1,
	SCHEDULE_NEXT_AT,
	SCHEDULE_LAST_AT,
	SCHEDULE_LAST_JOB,
	SCHEDULE_OWNER,
	SCHEDULE_CATCH_UP,
	SCHEDULE_OVERLAP,
	SCHEDULE_PAUSED,
	SCHEDULE_NAME,
	SCHEDULE_SCHEDULE,
	SCHEDULE_TIMEZONE,
	SCHEDULE_JOB,
	SCHEDULE_LAST_PROBLEM
};

enum
{
	ATTEMPT_JOB_ID = 1,
	ATTEMPT_NO,
	ATTEMPT_STARTED_AT,
	ATTEMPT_ENDED_AT,
	ATTEMPT_OUTCOME,
	ATTEMPT_WORKER,
	ATTEMPT_ERROR
};

enum
{
	LOG_JOB_ID = 1,
	LOG_SEQ,
	LOG_AT,
	LOG_ATTEMPT,
	LOG_LINE,
	LOG_LEVEL,
	LOG_MESSAGE,
	LOG_DATA
};

enum
{
	STEP_JOB_ID = 1,
	STEP_AT,
	STEP_GENERATION,
	STEP_NAME,
	STEP_RESULT
};

enum
{
	QUEUE_NAME = 1,
	QUEUE_ID,
	QUEUE_PAUSED,
	QUEUE_MAX_ATTEMPTS,
	QUEUE_MAX_LOST,
	QUEUE_BACKOFF,
	QUEUE_BACKOFF_CAP,
	QUEUE_TIMEOUT,
	QUEUE_LEASE,
	QUEUE_NOTIFY,
	QUEUE_RETENTION,
	QUEUE_RETENTION_FAILED,
	QUEUE_PAUSE_AFTER,
	QUEUE_PAUSE_WINDOW,
	QUEUE_PAUSED_BECAUSE,
	QUEUE_PAUSED_AT,
	QUEUE_MAX_RUNNING,
	QUEUE_MAX_RUNNING_PER_PARTITION,
	QUEUE_ORDERED,
	QUEUE_FAIR,
	QUEUE_RATE,
	QUEUE_RATE_PER_PARTITION,
	QUEUE_RATE_INTERVAL,
	QUEUE_AFFINITY_WAIT,
	QUEUE_GATES
};

enum
{
	PARTITION_QUEUE_ID = 1,
	PARTITION_ID,
	PARTITION_PAUSED,
	PARTITION_WEIGHT,
	PARTITION_MAX_RUNNING,
	PARTITION_QUEUE,
	PARTITION_NAME
};

enum
{
	LANE_LANE = 1,
	LANE_QUEUE_ID,
	LANE_REQUIRES
};

enum
{
	TURN_QUEUE_ID = 1,
	TURN_PARTITION_ID,
	TURN_JOB_ID
};

enum
{
	WORKER_REGISTERED_AT = 1,
	WORKER_SEEN_AT,
	WORKER_ROLE,
	WORKER_CAPACITY,
	WORKER_DRAINING,
	WORKER_NAME,
	WORKER_VERSION,
	WORKER_LABELS,
	WORKER_DATA
};

enum
{
	PRIVILEGE_ROLE = 1,
	PRIVILEGE_QUEUE,
	PRIVILEGE_PRIVILEGE
};

enum
{
	ACTIVE_SYSTEM_IDENTIFIER = 1,
	ACTIVE_DATABASE
};

/* scan.c, rows.c and relations.c, the only files that call the table and index AM */
typedef struct JobqRel JobqRel;
typedef struct JobqScan JobqScan;

/* Which index of a table a scan uses; relations.c says what they are on */
typedef enum JobqIndex
{
	INDEX_KEY,
	INDEX_SECOND,
	INDEX_THIRD,
	NINDEXES
} JobqIndex;

/*
 * One call of an entry point: the relations it has open.  jobq_open_call()
 * makes what the calling statement wrote before visible, jobq_close_call() makes
 * what was written here visible to what follows.
 */
typedef struct JobqCall
{
	JobqRel    *rels[JOBQ_NTABLES];
	MemoryContext mcxt;			/* lives as long as the call */
	TimestampTz now;			/* the wall clock when the call began */
	bool		bulk;			/* rows are inserted many at once */
	int64		looked_at;		/* the flow that the background worker was
								 * last asked to look at; 0: none */
	int64		let_in;			/* the flow whose members all begin at once,
								 * as was found in bulk; 0: none */
	uint64		no_recounts;	/* how many transactions had ended when
								 * job_recount had no page; 0: not known */
} JobqCall;

extern void jobq_open_call(JobqCall *call);
extern void jobq_close_call(JobqCall *call);
extern void jobq_advance(void);
extern bool jobq_is_empty(JobqCall *call, JobqTable table);
extern void jobq_open_table(JobqCall *call, JobqTable table);

/* A row to be written; a column that is not given is NULL */
typedef struct JobqRow
{
	Datum		values[JOB_NATTS + 3];	/* no table has more, see options.c */
	bool		given[JOB_NATTS + 3];
} JobqRow;

/* A row of job_ready, as the hand-out knows it */
typedef struct JobqReady
{
	int64		lane;
	int64		queue_id;		/* to be notified of */
	const struct JobqLabels *labels;	/* that it requires; NULL: none */
	int64		position;
	int64		count;			/* jobs to wake waiters for */
	Oid			table;			/* InvalidOid: there is no row, only wake */
	JobqFileNumber file;
	ItemPointerData tid;
	int16		priority;
	bool		many;			/* rows of this priority from position on */
} JobqReady;

extern void jobq_rows_init(void);
extern ItemPointerData jobq_insert(JobqCall *call, JobqTable table, JobqRow *new);
extern bool jobq_insert_unless_there(JobqCall *call, JobqTable table, JobqRow *new, bool wait);
extern void jobq_bulk_begin(JobqCall *call);
extern void jobq_bulk_end(JobqCall *call);
extern void jobq_bulk_forget(JobqCall *call);

/* Rows that stand in an order, by priority, then position: of a lane, or a line */
typedef struct JobqOrder
{
	JobqTable	table;			/* JOBQ_READY or JOBQ_LIMITED */
	int			nkeys;
	int64		keys[2];		/* lane; queue_id, partition_id */
} JobqOrder;

extern JobqScan *jobq_scan_order(JobqCall *call, const JobqOrder *order, int16 priority,
								 int16 down_to, int64 from, int64 upto, Snapshot snapshot);
extern TupleTableSlot *jobq_fetch_ready(JobqCall *call, const JobqReady *ready, Snapshot snapshot);
extern void jobq_ready_origin(JobqCall *call, JobqReady *ready);
extern void jobq_ready_from_slot(JobqCall *call, TupleTableSlot *slot, JobqReady *ready);
extern bool jobq_being_deleted(JobqCall *call, JobqTable table, TupleTableSlot *slot);
extern JobqScan *jobq_scan_begin(JobqCall *call, JobqTable table, JobqIndex which,
								 int nkeys, const Datum *keys, Snapshot snapshot);
extern JobqScan *jobq_scan_from(JobqCall *call, JobqTable table, JobqIndex which, int64 from,
								Snapshot snapshot);
extern JobqScan *jobq_scan_between(JobqCall *call, JobqTable table, JobqIndex which, int64 from,
								   int64 upto, Snapshot snapshot);
extern TupleTableSlot *jobq_scan_next(JobqScan *scan);
extern void jobq_scan_end(JobqScan *scan);
extern TupleTableSlot *jobq_find(JobqCall *call, JobqTable table, JobqIndex which, int nkeys,
								 const Datum *keys, Snapshot snapshot);
extern TupleTableSlot *jobq_find_last(JobqCall *call, JobqTable table, JobqIndex which, int nkeys,
									  const Datum *keys);
extern TupleTableSlot *jobq_find_id(JobqCall *call, JobqTable table, int64 id);
extern TupleTableSlot *jobq_walk_id(JobqCall *call, JobqTable table, int64 id, Snapshot snapshot,
									bool *walked);
extern void jobq_slot_free(TupleTableSlot *slot);
extern bool jobq_update(JobqCall *call, JobqTable table, TupleTableSlot *slot, JobqRow *new,
						LockWaitPolicy policy);
extern bool jobq_delete_at(JobqCall *call, JobqTable table, ItemPointer place, LockWaitPolicy policy);
extern bool jobq_lock_at(JobqCall *call, JobqTable table, ItemPointer place, LockTupleMode mode,
						 LockWaitPolicy policy);
extern void jobq_values(TupleTableSlot *slot, JobqRow *new);

typedef bool (*JobqRowCallback) (TupleTableSlot *row, void *arg);	/* false: enough */

extern BlockNumber jobq_blocks(JobqCall *call, JobqTable table, JobqFileNumber *file);
extern void jobq_read_uncommitted(JobqCall *call, JobqTable table, JobqRowCallback callback, void *arg);
extern void jobq_read_places(JobqCall *call, JobqTable table, ItemPointer from, ItemPointer upto,
							 JobqRowCallback callback, void *arg);

/* Lock a row that was read, as jobq_lock_at() does. */
static inline bool
jobq_lock(JobqCall *call, JobqTable table, TupleTableSlot *slot, LockTupleMode mode,
		  LockWaitPolicy policy)
{
	return jobq_lock_at(call, table, &slot->tts_tid, mode, policy);
}

/* Delete a row that was read, as jobq_delete_at() does. */
static inline bool
jobq_delete(JobqCall *call, JobqTable table, TupleTableSlot *slot, LockWaitPolicy policy)
{
	return jobq_delete_at(call, table, &slot->tts_tid, policy);
}

/* Set a column of a row to be written. */
static inline void
jobq_set(JobqRow *new, int attno, Datum value)
{
	new->values[attno - 1] = value;
	new->given[attno - 1] = true;
}

/* Make it NULL. */
static inline void
jobq_unset(JobqRow *new, int attno)
{
	new->values[attno - 1] = 0;
	new->given[attno - 1] = false;
}

/* The same for text; NULL leaves the column as it is. */
static inline void
jobq_set_text(JobqRow *new, int attno, const char *value)
{
	if (value != NULL)
		jobq_set(new, attno, CStringGetTextDatum(value));
}

/* A column of these types; 0 or false where it is NULL. */
#define JOBQ_ATTR(type, name, get) \
static inline type \
jobq_attr_##name(TupleTableSlot *slot, int attno) \
{ \
	bool		isnull; \
	Datum		d = slot_getattr(slot, attno, &isnull); \
\
	return isnull ? 0 : get(d); \
}

JOBQ_ATTR(int64, int64, DatumGetInt64)
JOBQ_ATTR(int32, int32, DatumGetInt32)
JOBQ_ATTR(int16, int16, DatumGetInt16)
JOBQ_ATTR(bool, bool, DatumGetBool)
JOBQ_ATTR(Oid, oid, DatumGetObjectId)

/* An integer column of either size, or something else where it is NULL. */
static inline int64
jobq_attr_or(TupleTableSlot *slot, int attno, int64 otherwise)
{
	if (slot_attisnull(slot, attno))
		return otherwise;
	return TupleDescAttr(slot->tts_tupleDescriptor, attno - 1)->attlen == sizeof(int32) ?
		jobq_attr_int32(slot, attno) : jobq_attr_int64(slot, attno);
}

/* A text column as a C string, or NULL. */
static inline char *
jobq_attr_cstring(TupleTableSlot *slot, int attno)
{
	bool		isnull;
	Datum		d = slot_getattr(slot, attno, &isnull);

	return isnull ? NULL : TextDatumGetCString(d);
}

/* The time of day.  jobq.clock_offset is for tests. */
static inline TimestampTz
jobq_wall(void)
{
	return GetCurrentTimestamp() + jobq_clock_offset_ms * INT64CONST(1000);
}

/* Is a job past its expires_at (0: it has none) without having begun? */
static inline bool
jobq_is_expired(JobqCall *call, TimestampTz expires_at, int32 attempt)
{
	return expires_at != 0 && expires_at <= call->now && attempt == 0;
}

/* foreign.c */
extern void jobq_foreign_keys_act(JobqCall *call, JobqTable table, int n, const ItemPointerData *places);

/* try.c */
extern bool jobq_error_passes(const ErrorData *error);
extern ErrorData *jobq_try(void (*work) (void *arg), void *arg);
extern bool jobq_try_is_cheap(void);

/* catalog.c: where our own objects are */
typedef void (*JobqResetCallback) (void);

extern void jobq_catalog_init(void);
extern void jobq_on_catalog_reset(JobqResetCallback callback);
extern void jobq_catalog_reset(void);
extern bool jobq_extension_exists(void);
extern Oid	jobq_schema(void);
extern Oid	jobq_owner(void);
extern Oid	jobq_table_oid(JobqTable table);
extern bool jobq_table_checked(JobqTable table);
extern void jobq_table_set_checked(JobqTable table);
extern Oid	jobq_status_oid(void);
extern int64 jobq_nextval(void);

#endif							/* JOBQ_TABLE_H */
