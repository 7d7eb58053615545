/*
 * queue.h
 *	  Queues: what settings and grants name; and what every entry point checks.
 */
#ifndef JOBQ_QUEUE_H
#define JOBQ_QUEUE_H

#include "utils/jsonb.h"

#include "shared/shared.h"

/* SQLSTATEs of our own */
#define ERRCODE_JOBQ_STALE_TOKEN	MAKE_SQLSTATE('J','Q','0','0','1')
#define ERRCODE_JOBQ_NO_SUCH_JOB	MAKE_SQLSTATE('J','Q','0','0','2')
#define ERRCODE_JOBQ_WRONG_STATE	MAKE_SQLSTATE('J','Q','0','0','3')

#define JOBQ_MAX_QUEUE_NAME		50
#define JOBQ_MAX_NAME			128
#define JOBQ_MAX_INTERVAL_DAYS	INT64CONST(73000)
#define JOBQ_MAX_QUEUES			1000	/* that one claim names */
#define JOBQ_MAX_LABEL_SETS		1000	/* that jobs of a queue require */
#define JOBQ_ALL_QUEUES			0	/* no queue has this number, so only
									 * grants on all of them count */

#define JOBQ_DEFAULT_MAX_ATTEMPTS	20
#define JOBQ_DEFAULT_MAX_LOST		3
#define JOBQ_DEFAULT_BACKOFF_MS		1000
#define JOBQ_DEFAULT_BACKOFF_CAP_MS	3600000
#define JOBQ_DEFAULT_LEASE_MS		60000
#define JOBQ_DEFAULT_MIN_LEASE_MS	1000
#define JOBQ_DEFAULT_MAX_LEASE_S	86400
#define JOBQ_DEFAULT_MAX_ERROR_KB	64
#define JOBQ_DEFAULT_RETENTION_S	(7 * SECS_PER_DAY)
#define JOBQ_DEFAULT_RETENTION_FAILED_S	(30 * SECS_PER_DAY)
#define JOBQ_DEFAULT_PAUSE_WINDOW	USECS_PER_MINUTE
#define JOBQ_DEFAULT_AFFINITY_WAIT_MS	5000
#define JOBQ_NEVER	PG_INT64_MAX	/* a retention */

/*
 * Bounds of the settings for sizes, so that a row with all that it can hold can
 * be read and dumped: COPY writes two bytes for a backslash, other encodings up
 * to three for a character of one, and 1 GB is the end of a line.
 */
#define JOBQ_LARGEST_JSON_KB		(128 * 1024)
#define JOBQ_LARGEST_ERROR_KB		(16 * 1024)

extern int	jobq_max_attempts;
extern int	jobq_max_lost;
extern int	jobq_backoff_ms;
extern int	jobq_backoff_cap_ms;
extern int	jobq_lease_ms;
extern int	jobq_timeout_ms;
extern int	jobq_min_lease_ms;
extern int	jobq_max_lease_s;
extern int	jobq_max_error_size;
extern int	jobq_retention_s;
extern int	jobq_retention_failed_s;
extern int	jobq_affinity_wait_ms;

/* queue.c: settings */
typedef enum JobqNotifyMode
{
	JOBQ_NOTIFY_COALESCED,
	JOBQ_NOTIFY_TRANSACTIONAL,
	JOBQ_NOTIFY_OFF
} JobqNotifyMode;

/* Settings of a queue */
typedef struct JobqQueue
{
	int64		queue_id;		/* hash key */
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
	int64		retention;
	int64		retention_failed;
	int32		pause_after;	/* attempts that ended badly; 0: never */
	int64		pause_window;
	int64		gate;			/* number of the gate before it; 0: none */
	int32		max_running;	/* 0: no limit, as the next four */
	int32		max_running_per_partition;
	int32		rate;
	int32		rate_per_partition;
	int64		rate_interval;
	int64		affinity_wait;	/* -1: not set */
	bool		ordered;
	bool		fair;
} JobqQueue;

extern int64 jobq_name_id(const char *name);
extern int64 jobq_queue_id(const char *queue);
extern void jobq_queue_settings(JobqCall *call, int64 queue_id, JobqQueue *result);
extern const JobqQueue *jobq_queue_known(JobqCall *call, int64 queue_id);
extern TupleTableSlot *jobq_queue_lock(JobqCall *call, int64 queue_id, JobqRow *new);
extern void jobq_queue_write(JobqCall *call, TupleTableSlot *slot, JobqRow *new);
extern void jobq_queue_make(JobqCall *call, const char *name, int64 queue_id);
extern void jobq_queue_register(JobqCall *call, const char *name, int64 queue_id);
extern void jobq_queue_pause(JobqCall *call, const JobqQueue *queue, int64 failures);
extern void jobq_queue_init(void);

/* limits.c: what keeps ready jobs of a queue behind its gate */
typedef struct JobqPartition
{
	int64		partition_id;
	bool		paused;
	int32		weight;
	int32		max_running;	/* 0: the queue's */
} JobqPartition;

#define JOBQ_MAX_WEIGHT		1000000

extern int64 jobq_partition_id(const char *partition);
extern void jobq_change_gate(JobqCall *call, TupleTableSlot *slot, JobqRow *new);
extern void jobq_reset_partitions(JobqCall *call, TupleTableSlot *slot, JobqRow *new);
extern int	jobq_read_gates(JobqCall *call, int64 queue_id, int64 **gates);
extern bool jobq_gates_emptied(JobqCall *call, int64 queue_id, int64 gate);
extern int	jobq_read_partitions(JobqCall *call, int64 queue_id, JobqPartition **partitions);

/* labels.c: the lanes of the sets of labels that jobs require */
typedef struct JobqLaneSet
{
	int64		lane;
	const JobqLabels *labels;	/* NULL: none */
} JobqLaneSet;

extern void jobq_labels_init(void);
extern const JobqLabels *jobq_labels_of(Datum labels);
extern int64 jobq_lane_of(const char *queue, Datum requires);
extern int	jobq_queue_lanes(JobqCall *call, int64 queue_id, const JobqLabels *labels, JobqLaneSet **lanes);
extern const JobqLabels *jobq_own_labels(const JobqLabels *labels, uint64 worker);
extern const JobqLabels *jobq_ready_labels(JobqCall *call, int64 queue_id, int64 lane);
extern void jobq_lane_register(JobqCall *call, const char *queue, int64 queue_id, Datum requires);

/* privilege.c: grants */
typedef enum JobqPrivilege
{
	PRIV_SUBMIT = 0x01,
	PRIV_WORK = 0x02,
	PRIV_OPERATE = 0x04,
	PRIV_READ = 0x08
} JobqPrivilege;

extern bool jobq_has_privilege(JobqCall *call, int64 queue_id, int privileges);
extern bool jobq_has_privilege_anywhere(JobqCall *call, int privileges);
extern bool jobq_is_owner(void);
extern bool jobq_may_work_on(JobqCall *call, TupleTableSlot *job);
extern bool jobq_visible(JobqCall *call, int64 queue_id, Oid submitted_by, Oid holder);
extern char *jobq_privilege_problem(const char *queue);
extern void jobq_require_privilege(JobqCall *call, int64 queue_id, JobqPrivilege privilege,
								   const char *queue);
extern void jobq_privilege_init(void);

/* entry.c: what every entry point does first */
extern void jobq_require_loaded(void);
extern void jobq_enter(JobqCall *call, const char *function, bool writes);

/* active.c: the database whose background worker may act */
extern void jobq_active_init(void);
extern void jobq_make_active(JobqCall *call);
extern bool jobq_is_active(JobqCall *call);

/* check.c: arguments */
extern void jobq_error_null(const char *what);
extern void jobq_error_must(const char *what, const char *must);
extern void jobq_error_no_such_job(int64 id);

/* Said also of one that the caller may not see */
#define JOBQ_HINT_NO_SUCH_JOB "It was removed, or you may not see it."

extern void jobq_check_queue_name(const char *name);
extern char *jobq_check_queue(FunctionCallInfo fcinfo, int argno);
extern void jobq_check_name(const char *name, const char *what);
extern int64 jobq_interval_micros(const Interval *interval);
extern int64 jobq_interval(Interval *interval, const char *what, bool zero_ok);
extern int64 jobq_check_interval(FunctionCallInfo fcinfo, int argno, const char *what, bool zero_ok);
extern int64 jobq_bound_lease(int64 lease);
extern int64 jobq_check_lease(int64 lease, const char *what);
extern TimestampTz jobq_check_time(TimestampTz at, const char *what);
extern void jobq_check_positive(int64 value, const char *what);
extern int32 jobq_check_count(FunctionCallInfo fcinfo, int argno, const char *what);
extern int64 jobq_check_id(FunctionCallInfo fcinfo, int argno, const char *what);
extern Size jobq_json_size(Jsonb *json, Size limit);
extern void jobq_check_json(Jsonb *json, Jsonb *other, const char *what, const char *setting,
							int limit_kb);
extern char *jobq_cut_error(Datum error);
extern Datum jobq_label_set(int n, Datum *values, const char *what);
extern Datum jobq_check_label_set(FunctionCallInfo fcinfo, int argno, const char *what);
extern int	jobq_check_array(FunctionCallInfo fcinfo, int argno, const char *what, Oid elemtype,
							 bool nulls_ok, Datum **values, bool **nulls);

#endif							/* JOBQ_QUEUE_H */
