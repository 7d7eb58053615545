/*
 * jobq.h
 *	  Types, limits and the functions that the files of jobq share.
 *
 * docs/DESIGN.md describes the model; each file begins with what it keeps.
 */
#ifndef JOBQ_H
#define JOBQ_H

#include "postgres.h"

#include "access/genam.h"
#include "access/tableam.h"
#include "datatype/timestamp.h"
#include "fmgr.h"
#include "nodes/parsenodes.h"
#include "executor/tuptable.h"
#include "storage/latch.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/snapshot.h"
#include "utils/timestamp.h"

#include "compat.h"

/* SQLSTATEs of our own */
#define ERRCODE_JOBQ_STALE_TOKEN	MAKE_SQLSTATE('J','Q','0','0','1')
#define ERRCODE_JOBQ_NO_SUCH_JOB	MAKE_SQLSTATE('J','Q','0','0','2')
#define ERRCODE_JOBQ_WRONG_STATE	MAKE_SQLSTATE('J','Q','0','0','3')

#define JOBQ_MAX_QUEUE_NAME		50
#define JOBQ_MAX_NAME			128
#define JOBQ_MAX_ARGS_SIZE		(256 * 1024 * 1024) /* as text */
#define JOBQ_WAIT_LANES			8	/* lanes a waiter can name */

#define JOBQ_DEFAULT_MAX_ATTEMPTS	5
#define JOBQ_DEFAULT_MAX_LOST		3
#define JOBQ_DEFAULT_BACKOFF_MS		1000
#define JOBQ_DEFAULT_BACKOFF_CAP_MS	3600000
#define JOBQ_DEFAULT_LEASE_MS		60000
#define JOBQ_DEFAULT_MAX_RESULT_KB	1024
#define JOBQ_DEFAULT_MAX_INPUTS_KB	1024
#define JOBQ_DEFAULT_MAX_HEARTBEATS	100000
#define JOBQ_DEFAULT_MAX_DATABASES	64
#define JOBQ_DEFAULT_MAX_LANES		128
#define JOBQ_DEFAULT_LANE_CANDIDATES	512
#define JOBQ_DEFAULT_LANE_PRIORITIES	16
#define JOBQ_DEFAULT_SWEEP_INTERVAL_MS	60000
#define JOBQ_DEFAULT_NOTIFY_INTERVAL_MS	5

/* ----------------
 *		Tables and their columns, in the order of jobq--1.0.sql
 * ----------------
 */
typedef enum JobqTable
{
	JOBQ_JOB,
	JOBQ_DEPENDENCY,
	JOBQ_WAITING,
	JOBQ_STRIPE,
	JOBQ_SCHEDULED,
	JOBQ_READY,
	JOBQ_LEASE,
	JOBQ_EXPIRY,
	JOBQ_ATTEMPT,
	JOBQ_QUEUE,
	JOBQ_PRIVILEGE,
	JOBQ_HOME,
	JOBQ_NTABLES
} JobqTable;

enum
{
	JOB_ID = 1,
	JOB_PARENT,
	JOB_SUBMITTED_AT,
	JOB_RUN_AT,
	JOB_EXPIRES_AT,
	JOB_BACKOFF,
	JOB_TIMEOUT,
	JOB_LEASE,
	JOB_STARTED_AT,
	JOB_FINISHED_AT,
	JOB_TOKEN,
	JOB_SUBMITTED_BY,
	JOB_MAX_ATTEMPTS,
	JOB_MAX_LOST,
	JOB_QUORUM,
	JOB_DEPENDENCIES,
	JOB_GENERATION,
	JOB_ATTEMPT_NO,
	JOB_FAILED,
	JOB_LOST,
	JOB_PRIORITY,
	JOB_RULE,
	JOB_OUTCOME,
	JOB_CAUSE,
	JOB_NOTIFY,
	JOB_QUEUE,
	JOB_KIND,
	JOB_ARGS,
	JOB_TAGS,
	JOB_WORKER,
	JOB_ERROR,
	JOB_RESULT,
	JOB_NATTS = JOB_RESULT
};

enum
{
	DEP_PARENT = 1,
	DEP_CHILD,
	DEP_REQUIRE,
	DEP_SUFFICE,
	DEP_NATTS = DEP_SUFFICE
};

enum
{
	WAITING_JOB_ID = 1,
	WAITING_LANE,
	WAITING_RUN_AT,
	WAITING_EXPIRES_AT,
	WAITING_UNDECIDED,
	WAITING_PENDING,
	WAITING_HITS,
	WAITING_VIOLATED,
	WAITING_HURT,
	WAITING_QUORUM,
	WAITING_ATTEMPT,
	WAITING_FAILED,
	WAITING_LOST,
	WAITING_PRIORITY,
	WAITING_RULE,
	WAITING_STRIPES,
	WAITING_OPEN,
	WAITING_HELD,
	WAITING_NATTS = WAITING_HELD
};

enum
{
	STRIPE_JOB_ID = 1,
	STRIPE_NO,
	STRIPE_SIZE,
	STRIPE_REMAINING,
	STRIPE_NATTS = STRIPE_REMAINING
};

enum
{
	SCHEDULED_RUN_AT = 1,
	SCHEDULED_JOB_ID,
	SCHEDULED_LANE,
	SCHEDULED_EXPIRES_AT,
	SCHEDULED_ATTEMPT,
	SCHEDULED_FAILED,
	SCHEDULED_LOST,
	SCHEDULED_PRIORITY,
	SCHEDULED_NATTS = SCHEDULED_PRIORITY
};

enum
{
	READY_LANE = 1,
	READY_POSITION,
	READY_JOB_ID,
	READY_SINCE,
	READY_EXPIRES_AT,
	READY_ATTEMPT,
	READY_FAILED,
	READY_LOST,
	READY_PRIORITY,
	READY_NATTS = READY_PRIORITY
};

enum
{
	LEASE_JOB_ID = 1,
	LEASE_TOKEN,
	LEASE_LANE,
	LEASE_DEADLINE,
	LEASE_UNTIL,
	LEASE_TIMEOUT_AT,
	LEASE_STARTED_AT,
	LEASE_PERIOD,
	LEASE_HOLDER,
	LEASE_ATTEMPT,
	LEASE_FAILED,
	LEASE_LOST,
	LEASE_PRIORITY,
	LEASE_CANCEL_REQUESTED,
	LEASE_WORKER,
	LEASE_CANCEL_REASON,
	LEASE_PROGRESS,
	LEASE_NATTS = LEASE_PROGRESS
};

enum
{
	EXPIRY_EXPIRES_AT = 1,
	EXPIRY_JOB_ID,
	EXPIRY_NATTS = EXPIRY_JOB_ID
};

enum
{
	ATTEMPT_JOB_ID = 1,
	ATTEMPT_NO,
	ATTEMPT_STARTED_AT,
	ATTEMPT_ENDED_AT,
	ATTEMPT_CAUSE,
	ATTEMPT_WORKER,
	ATTEMPT_ERROR,
	ATTEMPT_NATTS = ATTEMPT_ERROR
};

enum
{
	QUEUE_NAME = 1,
	QUEUE_LANE,
	QUEUE_PAUSED,
	QUEUE_MAX_ATTEMPTS,
	QUEUE_MAX_LOST,
	QUEUE_BACKOFF,
	QUEUE_BACKOFF_CAP,
	QUEUE_TIMEOUT,
	QUEUE_LEASE,
	QUEUE_NOTIFY,
	QUEUE_NATTS = QUEUE_NOTIFY
};

enum
{
	PRIVILEGE_ROLE = 1,
	PRIVILEGE_QUEUE,
	PRIVILEGE_PRIVILEGE,
	PRIVILEGE_NATTS = PRIVILEGE_PRIVILEGE
};

enum
{
	HOME_SYSTEM_IDENTIFIER = 1,
	HOME_DATABASE,
	HOME_NATTS = HOME_DATABASE
};

/* ----------------
 *		States and outcomes
 * ----------------
 */

/* Outcome of a decided job: a bit, so that an edge can carry a mask of them. */
#define OUTCOME_SUCCEEDED		0x01
#define OUTCOME_FAILED			0x02
#define OUTCOME_SKIPPED			0x04
#define OUTCOME_CANCELLED		0x08
#define OUTCOME_UPSTREAM_FAILED	0x10
#define OUTCOME_ANY				0x1f
#define OUTCOME_HURTS			(OUTCOME_FAILED | OUTCOME_CANCELLED | OUTCOME_UPSTREAM_FAILED)

/* Cause of an attempt's end, as stored in job_attempt.cause */
typedef enum JobqCause
{
	CAUSE_SUCCEEDED,			/* only in the job row */
	CAUSE_FAILED,
	CAUSE_TIMED_OUT,
	CAUSE_LOST,
	CAUSE_RELEASED,
	CAUSE_SNOOZED,
	CAUSE_CANCELLED
} JobqCause;

typedef enum JobqRule
{
	RULE_ALL_SUCCESS,
	RULE_ALL_FAILED,
	RULE_ALL_DONE,
	RULE_ALL_SKIPPED,
	RULE_ONE_FAILED,
	RULE_QUORUM,
	RULE_NONE_FAILED,
	RULE_NONE_SKIPPED,
	RULE_NONE_FAILED_MIN_ONE_SUCCESS,
	RULE_ONE_SUCCESS,
	RULE_ONE_DONE,
	RULE_ALWAYS
} JobqRule;

typedef struct JobqRuleInfo
{
	const char *name;
	int16		require;
	int16		suffice;
	int			quorum;			/* -1: given by the caller */
	bool		wants_success;
} JobqRuleInfo;

extern const JobqRuleInfo jobq_rules[];
extern const int jobq_nrules;

typedef enum JobqNotifyMode
{
	JOBQ_NOTIFY_COALESCED,
	JOBQ_NOTIFY_TRANSACTIONAL,
	JOBQ_NOTIFY_OFF
} JobqNotifyMode;

/* What all four state tables carry along */
typedef struct JobqCarry
{
	int64		job_id;
	int64		lane;
	TimestampTz run_at;			/* 0: none */
	TimestampTz expires_at;		/* 0: none */
	int32		attempt;		/* attempts begun */
	int32		failed;			/* of these failed or timed out */
	int32		lost;			/* of these lost */
	int16		priority;
} JobqCarry;

/* How far a job's dependencies are; kept in job_waiting */
typedef struct JobqCounters
{
	int32		undecided;		/* edges whose parent is undecided */
	int32		pending;		/* of these with a require mask */
	int32		hits;			/* decided parents within suffice */
	int32		violated;		/* decided parents outside require */
	int32		hurt;			/* failed, upstream_failed, cancelled */
} JobqCounters;

typedef enum JobqVerdict
{
	VERDICT_WAIT,
	VERDICT_READY,
	VERDICT_SKIPPED,
	VERDICT_UPSTREAM_FAILED
} JobqVerdict;

/* ----------------
 *		rowio.c: the only file that calls the table and index AM
 * ----------------
 */
typedef struct JobqRel JobqRel;
typedef struct JobqScan JobqScan;

/* Which index of a table a scan uses; rowio.c says what they are on */
typedef enum JobqIndex
{
	INDEX_KEY,
	INDEX_SECOND
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
} JobqCall;

extern void jobq_open_call(JobqCall *call);
extern void jobq_close_call(JobqCall *call);
extern void jobq_advance(void);
extern void jobq_open_table(JobqCall *call, JobqTable table);

/* A row of job_ready, as the hand-out knows it */
typedef struct JobqReady
{
	int64		lane;
	int64		position;
	int64		count;			/* jobs to wake waiters for */
	Oid			table;			/* InvalidOid: there is no row, only wake */
	JobqFileNumber file;
	ItemPointerData tid;
	int16		priority;
	bool		many;			/* rows of this priority from position on */
} JobqReady;

extern ItemPointerData jobq_insert(JobqCall *call, JobqTable table, Datum *values, bool *nulls);
extern void jobq_bulk_begin(JobqCall *call);
extern void jobq_bulk_end(JobqCall *call);
extern JobqScan *jobq_scan_ready(JobqCall *call, int64 lane, int16 priority, int16 down_to,
								 int64 from, int64 upto, Snapshot snapshot);
extern TupleTableSlot *jobq_fetch_ready(JobqCall *call, const JobqReady *ready, Snapshot snapshot);
extern void jobq_ready_origin(JobqCall *call, JobqReady *ready);
extern void jobq_ready_from_slot(JobqCall *call, TupleTableSlot *slot, JobqReady *ready);
extern bool jobq_being_deleted(JobqCall *call, JobqTable table, TupleTableSlot *slot);
extern JobqScan *jobq_scan_begin(JobqCall *call, JobqTable table, JobqIndex which,
								 int nkeys, const Datum *keys, Snapshot snapshot);
extern JobqScan *jobq_scan_range(JobqCall *call, JobqTable table, JobqIndex which,
								 TimestampTz from, TimestampTz upto, Snapshot snapshot);
extern TupleTableSlot *jobq_scan_next(JobqScan *scan);
extern void jobq_scan_end(JobqScan *scan);
extern TupleTableSlot *jobq_find_in(JobqCall *call, JobqTable table, JobqIndex which,
									int nkeys, const Datum *keys, Snapshot snapshot);
extern TupleTableSlot *jobq_find(JobqCall *call, JobqTable table, JobqIndex which,
								 int nkeys, const Datum *keys);
extern TupleTableSlot *jobq_find_id(JobqCall *call, JobqTable table, int64 id);
extern TupleTableSlot *jobq_walk_id(JobqCall *call, JobqTable table, int64 id, Snapshot snapshot);
extern void jobq_slot_free(TupleTableSlot *slot);
extern bool jobq_update(JobqCall *call, JobqTable table, TupleTableSlot *slot,
						Datum *values, bool *nulls);
extern bool jobq_try_update(JobqCall *call, JobqTable table, TupleTableSlot *slot,
							Datum *values, bool *nulls);
extern bool jobq_delete(JobqCall *call, JobqTable table, TupleTableSlot *slot);
extern bool jobq_try_delete(JobqCall *call, JobqTable table, TupleTableSlot *slot);
extern bool jobq_lock(JobqCall *call, JobqTable table, TupleTableSlot *slot,
					  LockTupleMode mode);
extern void jobq_values(TupleTableSlot *slot, Datum *values, bool *nulls);

/* Set a column of a row to be written. */
static inline void
jobq_set(Datum *values, bool *nulls, int attno, Datum value)
{
	values[attno - 1] = value;
	nulls[attno - 1] = false;
}

static inline Datum
jobq_attr(TupleTableSlot *slot, int attno, bool *isnull)
{
	return slot_getattr(slot, attno, isnull);
}

static inline int64
jobq_attr_int64(TupleTableSlot *slot, int attno)
{
	bool		isnull;
	Datum		d = slot_getattr(slot, attno, &isnull);

	return isnull ? 0 : DatumGetInt64(d);
}

static inline int32
jobq_attr_int32(TupleTableSlot *slot, int attno)
{
	bool		isnull;
	Datum		d = slot_getattr(slot, attno, &isnull);

	return isnull ? 0 : DatumGetInt32(d);
}

static inline int16
jobq_attr_int16(TupleTableSlot *slot, int attno)
{
	bool		isnull;
	Datum		d = slot_getattr(slot, attno, &isnull);

	return isnull ? 0 : DatumGetInt16(d);
}

static inline bool
jobq_attr_bool(TupleTableSlot *slot, int attno)
{
	bool		isnull;
	Datum		d = slot_getattr(slot, attno, &isnull);

	return isnull ? false : DatumGetBool(d);
}

static inline bool
jobq_attr_isnull(TupleTableSlot *slot, int attno)
{
	return slot_attisnull(slot, attno);
}

/* A text column that is not null, as a C string. */
static inline char *
jobq_attr_cstring(TupleTableSlot *slot, int attno)
{
	bool		isnull;

	return text_to_cstring(DatumGetTextPP(slot_getattr(slot, attno, &isnull)));
}

/* ----------------
 *		catalog.c: our own objects and the caches over job_queue, job_privilege
 * ----------------
 */
extern bool jobq_extension_exists(void);
extern void jobq_catalog_reset(void);
extern Oid	jobq_schema(void);
extern Oid	jobq_owner(void);
extern Oid	jobq_table_oid(JobqTable table);
extern int64 jobq_nextval(void);
extern void jobq_catalog_init(void);
extern void jobq_require_loaded(void);
extern void jobq_enter(JobqCall *call, const char *function, bool writes);

/* ----------------
 *		queue.c
 * ----------------
 */

/* Settings of a queue */
typedef struct JobqQueue
{
	int64		lane;			/* hash key */
	char		name[JOBQ_MAX_QUEUE_NAME + 1];
	bool		known;			/* has a row in job_queue */
	bool		paused;
	int32		max_attempts;
	int32		max_lost;
	int64		backoff;		/* microseconds, as all below */
	int64		backoff_cap;
	int64		timeout;
	int64		lease;
	JobqNotifyMode notify;
} JobqQueue;

extern int64 jobq_lane(const char *queue);
extern void jobq_queue_settings(JobqCall *call, int64 lane, JobqQueue *result);
extern void jobq_queue_register(JobqCall *call, const char *name, int64 lane);
extern void jobq_queue_reset(void);

/* ----------------
 *		privilege.c
 * ----------------
 */
typedef enum JobqPrivilege
{
	PRIV_SUBMIT = 0x01,
	PRIV_WORK = 0x02,
	PRIV_OPERATE = 0x04,
	PRIV_READ = 0x08
} JobqPrivilege;

extern bool jobq_has_privilege(JobqCall *call, int64 lane, int privileges);
extern bool jobq_is_owner(void);
extern bool jobq_may_work_on(JobqCall *call, TupleTableSlot *job);
extern bool jobq_visible(JobqCall *call, int64 lane, Oid submitted_by, Oid holder);
extern void jobq_require_privilege(JobqCall *call, int64 lane, JobqPrivilege privilege,
								   const char *queue);
extern void jobq_privilege_reset(void);

/* ----------------
 *		check.c: arguments
 * ----------------
 */
extern void jobq_error_null(const char *what);
extern void jobq_error_no_such_job(int64 id);
extern void jobq_check_queue_name(const char *name);
extern char *jobq_check_queue(FunctionCallInfo fcinfo, int argno);
extern void jobq_check_name(const char *name, const char *what);
extern int64 jobq_interval(Interval *interval, const char *what, bool zero_ok);
extern int64 jobq_check_interval(FunctionCallInfo fcinfo, int argno, const char *what, bool zero_ok);
extern TimestampTz jobq_check_time(TimestampTz at, const char *what);
extern void jobq_check_positive(int64 value, const char *what);
extern int32 jobq_check_count(FunctionCallInfo fcinfo, int argno, const char *what);
extern int64 jobq_check_id(FunctionCallInfo fcinfo, int argno, const char *what);
extern Size jobq_json_size(Jsonb *json, Size limit);
extern void jobq_check_json(Jsonb *json, const char *what);
extern int	jobq_check_array(FunctionCallInfo fcinfo, int argno, const char *what, Oid elemtype,
							 bool nulls_ok, Datum **values, bool **nulls);

/* ----------------
 *		submit.c
 * ----------------
 */
typedef struct JobqSubmission
{
	int64		id;				/* once submitted */
	int64		lane;
	char	   *kind;
	char	   *queue;
	Jsonb	   *args;
	Jsonb	   *tags;			/* NULL: none */
	int32		priority;
	JobqRule	rule;
	int32		quorum;			/* -1: not given */
	int32		max_attempts;	/* -1 here and below: not given */
	int32		max_lost;
	int64		backoff;
	int64		timeout;
	int64		lease;
	TimestampTz run_at;			/* 0: none */
	TimestampTz expires_at;		/* 0: none */
	bool		notify;
	bool		has_parent;
	int64		parent;
	int			nparents;
	int64	   *parents;		/* depends_on */
} JobqSubmission;

extern void jobq_submission_init(JobqSubmission *s);
extern JobqRule jobq_find_rule(const char *name);
extern int	jobq_compare_ids(const void *a, const void *b);
extern void jobq_check_submission(JobqSubmission *s, int ndependencies);
extern void jobq_admit(JobqCall *call, const JobqSubmission *s);
extern HTAB *jobq_parents_create(void);
extern void jobq_resolve_parent(JobqCall *call, HTAB *parents, int64 id);
extern void jobq_note_expiry(JobqCall *call, int64 id, TimestampTz expires_at);
extern int64 jobq_submit(JobqCall *call, JobqSubmission *s, HTAB *parents);

/* ----------------
 *		place.c: which table a job that is not decided stands in
 * ----------------
 */
extern const char *jobq_place(JobqCall *call, const JobqCarry *carry, int64 position);
extern void jobq_place_ready(JobqCall *call, const JobqCarry *carry, int64 position);
extern void jobq_place_waiting(JobqCall *call, const JobqCarry *carry, const JobqCounters *counters,
							   JobqRule rule, int quorum, int stripes, bool open, bool held);
extern void jobq_set_counters(Datum *values, bool *nulls, const JobqCounters *c);
extern void jobq_carry_from_slot(JobqTable table, TupleTableSlot *slot, JobqCarry *carry);
extern bool jobq_is_expired(JobqCall *call, TimestampTz expires_at, int32 attempt);
extern bool jobq_ready_expired(JobqCall *call, TupleTableSlot *row);
extern JobqTable jobq_find_state(JobqCall *call, int64 job_id, TupleTableSlot **state);
extern bool jobq_displace(JobqCall *call, JobqTable table, TupleTableSlot *state, bool wait);

/* ----------------
 *		stripe.c: the counters of a job with many parents
 * ----------------
 */
extern int	jobq_stripes_wanted(JobqRule rule, const JobqCounters *c);
extern void jobq_stripes_make(JobqCall *call, int64 job_id, int nstripes, int size);
extern bool jobq_stripe_use(JobqCall *call, TupleTableSlot *waiting, JobqCounters *delta);
extern bool jobq_unstripe(JobqCall *call, TupleTableSlot *waiting);

/* ----------------
 *		depend.c
 * ----------------
 */
typedef struct JobqWork JobqWork;

typedef void (*JobqArgumentHandler) (JobqWork *work, int64 id, int argument, void *arg);

extern JobqVerdict jobq_verdict(JobqRule rule, int quorum, const JobqCounters *c);
extern int	jobq_verdict_outcome(JobqVerdict verdict);
extern void jobq_read_counters(TupleTableSlot *waiting, JobqCounters *c);
extern void jobq_count_edge(JobqCounters *c, int16 require, int16 suffice, int outcome, int n);
extern void jobq_count_undecided(JobqCounters *c, int16 require);
extern void jobq_count_edges(JobqCall *call, int64 id, int settled, JobqCounters *c);
extern int	jobq_parent_outcome(JobqCall *call, int64 id, int settled);
extern JobqWork *jobq_work_create(JobqCall *call);
extern JobqCall *jobq_work_call(JobqWork *work);
extern bool jobq_work_add_argument(JobqWork *work, int64 id, int argument);
extern void jobq_work_decided(JobqWork *work, int64 id, int outcome);
extern void jobq_work_reopened(JobqWork *work, int64 id, int outcome);
extern void jobq_work_run(JobqWork *work, JobqArgumentHandler handler, void *arg);

/* ----------------
 *		finish.c
 * ----------------
 */

/* What is written into the job row when the job is decided */
typedef struct JobqDecision
{
	int			outcome;
	int			cause;			/* of the deciding attempt's end, -1: none */
	int64		token;			/* this and the next two of that attempt */
	TimestampTz started_at;
	Datum		worker;			/* text, 0: none */
	const char *error;			/* NULL: none */
	bool		has_result;
	Datum		result;
} JobqDecision;

extern const char *jobq_outcome_name(int outcome);
extern void jobq_notify_decided(int64 id, bool notify, int outcome);
extern void jobq_decide(JobqWork *work, const JobqCarry *carry, const JobqDecision *d);
extern const char *jobq_end_attempt(JobqWork *work, TupleTableSlot *lease, JobqCause cause,
									const char *error, bool retry, int64 delay);
extern void jobq_error_stale(int64 id);

/* ----------------
 *		lease.c, claim.c, control.c
 * ----------------
 */
extern TimestampTz jobq_lease_deadline(TimestampTz until, TimestampTz timeout_at);

typedef struct JobqAssignment
{
	int64		job_id;
	int64		token;
	int32		attempt;
	text	   *kind;
	Jsonb	   *args;
	Jsonb	   *inputs;			/* NULL: too large */
	text	   *key;
	TimestampTz lease_until;
} JobqAssignment;

extern int	jobq_claim(JobqCall *call, int nqueues, char **queues, text *worker, int max_jobs,
					   int64 lease, JobqAssignment **out);

extern void jobq_require_visible(JobqCall *call, int64 id);
extern const char *jobq_job_state(JobqCall *call, int64 id, Datum *result, bool *isnull);
extern bool jobq_reopen(JobqCall *call, TupleTableSlot *job, bool expires, JobqCarry *carry);

/* What the background worker does with one due row; in the file of the act */
extern bool jobq_end_due_lease(JobqCall *call, int64 job_id, TimestampTz *retry_at);	/* lease.c */
extern bool jobq_move_due_job(JobqCall *call, int64 job_id);	/* place.c */
extern bool jobq_expire_job(JobqCall *call, int64 job_id, TimestampTz expires_at);	/* control.c */

/* ----------------
 *		lane.c
 * ----------------
 */

/* The order in which jobs are handed out: higher priority, then lower position */
typedef struct JobqKey
{
	int16		priority;
	int64		position;
} JobqKey;

typedef struct JobqCandidate
{
	int64		position;
	ItemPointerData tid;
	int16		priority;
} JobqCandidate;

typedef struct JobqFloor
{
	int64		position;		/* no row to hand out is below */
	int64		offered;		/* lowest since the last refill began */
	int16		priority;
} JobqFloor;

/* Where the rows of a lane begin; priorities in descending order */
typedef struct JobqFloors
{
	int			n;
	int			rest;			/* nothing is known of priorities below */
	bool		dropped;		/* one was, since the last refill began */
	JobqFloor	floors[FLEXIBLE_ARRAY_MEMBER];
} JobqFloors;

/* before and after all keys */
extern const JobqKey jobq_key_first;
extern const JobqKey jobq_key_last;

extern int	jobq_compare_keys(JobqKey a, JobqKey b);
extern void jobq_floors_init(JobqFloors *f);
extern void jobq_floors_lower(JobqFloors *f, JobqKey key, bool refilling);
extern void jobq_lane_offer(const JobqReady *ready);
extern void jobq_lanes_forget_database(void);

/* ----------------
 *		handout.c
 * ----------------
 */

/* How far a sweep is */
typedef struct JobqSweep
{
	int			entry;
	int			priority;
	int64		position;
} JobqSweep;

typedef struct JobqLaneScan JobqLaneScan;

extern JobqFloors *jobq_handout_floors(JobqCall *call, int64 lane);
extern JobqLaneScan *jobq_lane_scan_begin(JobqCall *call, int64 lane, const JobqFloors *floors,
										  Snapshot snapshot);
extern TupleTableSlot *jobq_lane_scan_next(JobqLaneScan *s);
extern void jobq_lane_scan_end(JobqLaneScan *s);
extern bool jobq_handout_peek(JobqCall *call, int64 lane, JobqKey *key);
extern int	jobq_handout_pop(JobqCall *call, int64 lane, JobqKey limit, int max, JobqCandidate *out);
extern void jobq_handout_at_abort(void);
extern void jobq_handout_sweep_begin(JobqSweep *sweep);
extern bool jobq_handout_sweep(JobqCall *call, JobqSweep *sweep);

/* ----------------
 *		xact.c: what a transaction does to shared memory when it commits
 * ----------------
 */
typedef enum JobqDeadline
{
	DEADLINE_LEASE,
	DEADLINE_SCHEDULED,
	DEADLINE_EXPIRY,
	DEADLINE_KINDS
} JobqDeadline;

extern void jobq_xact_init(void);
extern void jobq_announce_ready(const JobqReady *ready);
extern void jobq_reserve_taken(int n);
extern void jobq_announce_taken(const JobqReady *ready);
extern void jobq_announce_decided(int64 job_id);
extern void jobq_announce_deadline(JobqDeadline kind, TimestampTz at);
extern void jobq_announce_lease(int64 job_id, int64 token, TimestampTz until);
extern void jobq_announce_lease_end(int64 job_id, int64 token);
extern void jobq_announce_cancel_request(int64 job_id, int64 token);
extern void jobq_announce_wake_worker(void);
extern void jobq_announce_resumed(int64 lane);
extern bool jobq_own_ready(int64 lane, JobqFloors *floors);
extern void jobq_forbid_prepare(const char *why);
extern bool jobq_wal_is_claims(void);
extern void jobq_note_claim_wal(bool before);

/* ----------------
 *		shmem.c
 * ----------------
 */
extern void jobq_shmem_init(void);
extern bool jobq_shmem_ready(void);

/* heartbeats */
typedef enum JobqBeat
{
	BEAT_NONE,					/* no entry: use the row */
	BEAT_ALIVE,
	BEAT_CANCEL					/* alive, and cancellation was asked for */
} JobqBeat;

extern void jobq_beat_enter(int64 job_id, int64 token, TimestampTz until);
extern void jobq_beat_remove(int64 job_id, int64 token);
extern void jobq_beat_cancel(int64 job_id, int64 token);
extern JobqBeat jobq_beat_extend(int64 job_id, int64 token, TimestampTz until);
extern TimestampTz jobq_beat_until(int64 job_id, int64 token);
extern bool jobq_beat_expire(int64 job_id, int64 token, TimestampTz now, TimestampTz *until);
extern TimestampTz jobq_grace_start(void);
extern void jobq_beats_forget_database(Oid database);

/* waiters */
extern void jobq_waiter_register_job(int64 job_id);
extern void jobq_waiter_register_lanes(int nlanes, const int64 *lanes);
extern void jobq_waiter_leave(bool consumed);
extern bool jobq_waiter_woken(void);
extern void jobq_wake_job(int64 job_id);
extern void jobq_wake_lane(int64 lane, int n);

/* the background worker of this database */
extern void jobq_worker_wake(void);
extern void jobq_worker_deadline(JobqDeadline kind, TimestampTz at);
extern void jobq_worker_lane_ready(int64 lane);

/* ----------------
 *		launcher.c, worker.c, hooks.c
 * ----------------
 */
extern void jobq_launcher_register(void);
extern void jobq_hooks_init(void);

/* home.c */
extern void jobq_claim_home(JobqCall *call);
extern bool jobq_is_home(JobqCall *call);

/* GUCs, jobq.c */
extern int	jobq_max_attempts;
extern int	jobq_max_lost;
extern int	jobq_backoff_ms;
extern int	jobq_backoff_cap_ms;
extern int	jobq_lease_ms;
extern int	jobq_timeout_ms;
extern int	jobq_max_result_size;
extern int	jobq_max_inputs_size;
extern int	jobq_max_heartbeats;
extern int	jobq_max_databases;
extern int	jobq_max_lanes;
extern int	jobq_lane_candidates;
extern int	jobq_lane_priorities;
extern int	jobq_sweep_interval_ms;
extern int	jobq_notify_interval_ms;
extern bool jobq_async_claim;

#endif							/* JOBQ_H */
