/*
 * job.h
 *	  Acts on jobs: submit, claim, finish, control, and what follows from them.
 */
#ifndef JOBQ_JOB_H
#define JOBQ_JOB_H

#include "utils/hsearch.h"

#include "dispatch/dispatch.h"
#include "queue/queue.h"

#define JOBQ_DEFAULT_MAX_ARGS_KB	1024
#define JOBQ_DEFAULT_MAX_RESULT_KB	1024
#define JOBQ_DEFAULT_MAX_INPUTS_KB	1024
#define JOBQ_DEFAULT_MAX_CLAIM_KB	(64 * 1024)
#define JOBQ_DEFAULT_MAX_LOG_LINES	10000
#define JOBQ_LARGEST_LOG_LINES		1000000000

extern int	jobq_max_args_size;
extern int	jobq_max_result_size;
extern int	jobq_max_inputs_size;
extern int	jobq_max_claim_size;
extern int	jobq_max_log_lines;

/* States and outcomes */

/* Outcome of a decided job: a bit, so that an edge can prefix a mask of them. */
#define OUTCOME_SUCCEEDED		0x01
#define OUTCOME_FAILED			0x02
#define OUTCOME_SKIPPED			0x04
#define OUTCOME_CANCELLED		0x08
#define OUTCOME_UPSTREAM_FAILED	0x10
#define OUTCOME_ANY				0x1f
#define OUTCOME_REMOVED			0x40	/* there is no such job any more */
/* require of an edge: wait for the end, whatever the rule, and know nothing else of that job */
#define REQUIRE_END_ONLY		(OUTCOME_ANY | 0x20)
#define OUTCOME_HURTS			(OUTCOME_FAILED | OUTCOME_CANCELLED | OUTCOME_UPSTREAM_FAILED)

/* Cause of an attempt's end, as stored in job_attempt.attempt_outcome */
typedef enum JobqAttemptOutcome
{
	ATTEMPT_SUCCEEDED,			/* only in the job row */
	ATTEMPT_FAILED,
	ATTEMPT_TIMED_OUT,
	ATTEMPT_LOST,
	ATTEMPT_RELEASED,
	ATTEMPT_SNOOZED,
	ATTEMPT_CANCELLED
} JobqAttemptOutcome;

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

/* Whether a job was let in by the flow that it is a member of, see flowlimit.c */
typedef enum JobqSlot
{
	SLOT_NONE,
	SLOT_GIVEN,
	SLOT_BEGUN					/* and its attempt has begun */
} JobqSlot;

/* What a job carries from state to state: the columns that their tables share */
typedef struct JobqPrefix
{
	int64		job_id;
	int64		queue_id;		/* what settings and grants name */
	int64		lane;			/* the order of ready jobs it stands in or, if
								 * it is not ready, would without a gate */
	TimestampTz run_at;			/* 0: none */
	TimestampTz expires_at;		/* 0: none */
	int64		partition_id;	/* 0: none */
	int64		affinity_id;	/* 0: none */
	int64		flow_id;		/* that it is a member of; 0: none */
	int32		attempt;		/* attempts begun */
	int32		failed;			/* of these failed or timed out */
	int32		lost;			/* of these lost */
	int16		priority;
	JobqSlot	slot;			/* of its flow, where that has limits */
	bool		manual;			/* nobody runs it; known of those that wait */
} JobqPrefix;

/* How far a job's dependencies are; columns, in this order, of two tables */
enum
{
	UNDECIDED,					/* edges whose upstream job is undecided */
	PENDING,					/* of these with a require mask */
	HITS,						/* decided within suffice */
	VIOLATED,					/* decided outside require */
	HURT,						/* failed, upstream_failed, cancelled */
	NCOUNTERS
};

typedef struct JobqCounters
{
	int32		n[NCOUNTERS];
} JobqCounters;

typedef enum JobqVerdict
{
	VERDICT_WAIT,
	VERDICT_READY,
	VERDICT_SKIPPED = OUTCOME_SKIPPED,	/* these two are the outcomes that
										 * they mean */
	VERDICT_UPSTREAM_FAILED = OUTCOME_UPSTREAM_FAILED
} JobqVerdict;

/* rules.c: what becomes of a job, by what became of those upstream */
extern JobqRule jobq_find_rule(const char *name);
extern const char *jobq_outcome_name(int outcome);
extern JobqVerdict jobq_verdict(JobqRule rule, int quorum, const JobqCounters *c);
extern void jobq_add_counters(JobqCounters *c, const JobqCounters *change);
extern void jobq_count_edge(JobqCounters *c, int16 require, int16 suffice, int outcome, int n);
extern void jobq_count_undecided(JobqCounters *c, int16 require);

/* edges.c: what a job depends on */
/* A condition on an edge */
typedef struct JobqCondition
{
	int64		upstream;		/* must be first, see jobq_compare_ids() */
	const char *name;			/* of that, until it has an id; NULL: none */
	const char *path;			/* a jsonpath over its result */
} JobqCondition;

extern void jobq_insert_edges(JobqCall *call, int64 downstream, int n, const int64 *upstream, const JobqRuleInfo *rule,
							  int nconditions, const JobqCondition *conditions);
extern int	jobq_read_after(JobqCall *call, int64 id, int64 *after, int max);
extern void jobq_read_counters(TupleTableSlot *row, int first, JobqCounters *c);
extern void jobq_set_counters(JobqRow *new, int first, const JobqCounters *c);
extern int	jobq_counts_as(int outcome, const Datum *result, const char *condition);
extern int	jobq_row_counts_as(TupleTableSlot *job, const char *condition);
extern int	jobq_upstream_outcome(JobqCall *call, int64 id, const char *condition, int settled, bool keep, bool *unsure);

/* The outcome of an upstream job; 0: undecided */
typedef int (*JobqOutcomeOf) (JobqCall *call, int64 id, const char *condition, void *arg);

extern void jobq_count_edges_by(JobqCall *call, int64 id, JobqOutcomeOf outcome_of, void *arg, JobqCounters *c);
extern bool jobq_count_edges(JobqCall *call, int64 id, int settled, JobqCounters *c);
extern void jobq_ask_recount(JobqCall *call, int64 id);
extern bool jobq_recount_asked(JobqCall *call, int64 id);

/* metrics.c: what is counted of each queue */
#define TIME_BOUNDS		15		/* of a histogram; a count for each, one for
								 * what is longer, then the sum in
								 * microseconds */

enum
{
	COUNT_WAITING,				/* jobs in each state */
	COUNT_SCHEDULED,
	COUNT_READY,
	COUNT_RUNNING,
	COUNT_LIMITED,				/* behind the gate of the queue */
	COUNT_SUBMITTED,			/* the others since the server was started */
	COUNT_ATTEMPTS,				/* + JobqAttemptOutcome */
	COUNT_DECIDED = COUNT_ATTEMPTS + ATTEMPT_CANCELLED + 1, /* + the number of the
															 * outcome's bit */
	COUNT_WAIT = COUNT_DECIDED + 5, /* how long jobs were ready */
	COUNT_RUN = COUNT_WAIT + TIME_BOUNDS + 2,	/* how long attempts took */
	COUNTS = COUNT_RUN + TIME_BOUNDS + 2
};

extern void jobq_count_time(int64 queue_id, int first, int64 took);

/* state.c: which table a job that is not decided stands in */

/* upstream jobs whose ends are counted by deltas, never in the job's own row */
#define JOBQ_WIDE		64

/* How a state is left */
typedef enum JobqLeaveMode
{
	LEAVE_WAIT,					/* for whoever has the row locked */
	LEAVE_BRIEFLY,				/* the same, and comes back to its place */
	LEAVE_TRY,					/* never waits */
	LEAVE_TRY_BRIEFLY,			/* the same, and comes back */
	LEAVE_CLAIMED,				/* never waits either: to run */
	LEAVE_POPPED				/* the same, and the hand-out knows already */
} JobqLeaveMode;

extern const char *jobq_state_name(JobqTable table);
extern void jobq_read_prefix(TupleTableSlot *row, JobqPrefix *prefix);
extern void jobq_set_prefix(JobqTable table, JobqRow *new, const JobqPrefix *prefix);
extern void jobq_read_job_prefix(TupleTableSlot *job, JobqPrefix *prefix);
extern void jobq_read_waiting(TupleTableSlot *row, JobqPrefix *prefix);
extern Datum jobq_job_requires(TupleTableSlot *job);
extern int64 jobq_job_lane(TupleTableSlot *job);
extern void jobq_state_enter(JobqCall *call, JobqTable table, const JobqPrefix *prefix,
							 JobqRow *new);
extern bool jobq_state_leave(JobqCall *call, JobqTable table, TupleTableSlot *row,
							 JobqLeaveMode mode);
extern void jobq_enter_order(JobqCall *call, JobqTable table, const JobqPrefix *prefix, int64 position,
							 TimestampTz since);
extern const char *jobq_enter_next(JobqCall *call, const JobqPrefix *prefix, int64 position);
extern void jobq_put_behind_flow(JobqCall *call, TupleTableSlot *ready);
extern void jobq_enter_waiting(JobqCall *call, const JobqPrefix *prefix,
							   const JobqCounters *counters, JobqRule rule, int quorum, int64 epoch,
							   bool held);
extern bool jobq_state_rewrite(JobqCall *call, JobqTable table, TupleTableSlot *row,
							   const JobqPrefix *prefix);
extern TupleTableSlot *jobq_find_ready(JobqCall *call, int64 job_id, int64 lane, int16 priority, Snapshot snapshot);
extern JobqTable jobq_find_state(JobqCall *call, int64 job_id, TupleTableSlot **job,
								 TupleTableSlot **row);

/* affinity.c: the worker that a job is kept for */
extern int64 jobq_enter_ready(JobqCall *call, JobqPrefix *prefix, int64 position);
extern bool jobq_end_kept(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at);

/* gate.c: letting jobs in, and back behind the gate of their queue */
typedef struct JobqAdmitted
{
	int64		job_id;
	int64		queue_id;
	int64		partition_id;	/* 0: none */
	int64		lane;			/* that it is ready in; 0: it is not */
	int64		position;		/* there */
	int32		attempt;		/* attempts begun */
} JobqAdmitted;

#define JOBQ_MAX_LOCKED		200

/* Rows that were passed over, since somebody has them locked */
typedef struct JobqLocked
{
	int			n;
	struct
	{
		int64		job_id;
		JobqKey		key;
	}			rows[JOBQ_MAX_LOCKED];
} JobqLocked;

/* What became of one that was tried again */
typedef enum JobqTried
{
	TRIED_DONE,
	TRIED_LOCKED,				/* it still is */
	TRIED_GONE					/* it is not there any more */
} JobqTried;

extern void jobq_set_turn(JobqCall *call, int64 queue_id, int64 partition_id, int64 job_id);
extern int	jobq_let_in_line(JobqCall *call, const JobqOrder *line, const JobqFloors *floors, int64 gate,
							 bool turn, int max, JobqKey limit, JobqAdmitted *out, JobqKey *next,
							 JobqLocked *locked);
extern JobqTried jobq_let_in_job(JobqCall *call, const JobqOrder *line, int64 job_id, const JobqKey *key,
								 int64 gate, bool turn, JobqAdmitted *out);

/* How far a lane, and workers' own beside it, are emptied; lane 0: not begun, or done */
typedef struct JobqEmptied
{
	int64		lane;
	JobqKey		key;
} JobqEmptied;

extern int64 jobq_next_own_lane(JobqCall *call, int64 lane, int64 after);
extern int	jobq_empty_lane(JobqCall *call, int64 lane, int64 gate, int max, JobqEmptied *at,
							JobqLocked *locked);
extern JobqTried jobq_empty_job(JobqCall *call, int64 job_id, int64 lane, int64 gate);
extern bool jobq_runs_unseen(JobqCall *call, int64 queue_id);
extern void jobq_read_admitted(JobqCall *call, int nlanes, const int64 *lanes,
							   void (*callback) (const JobqAdmitted *a, void *arg), void *arg);
extern JobqTable jobq_look_at_admitted(JobqCall *call, int64 job_id, JobqAdmitted *a, int64 *lane);

/* cascade.c: what a decision does to those downstream */
typedef struct JobqCascade JobqCascade;

typedef void (*JobqArgumentHandler) (JobqCascade *cascade, int64 id, int argument, void *arg);

extern JobqCascade *jobq_cascade_create(JobqCall *call);
extern JobqCall *jobq_cascade_call(JobqCascade *cascade);
extern bool jobq_cascade_add_argument(JobqCascade *cascade, int64 id, int argument);
extern void jobq_cascade_add_downstream(JobqCascade *cascade, int64 id, int outcome, const Datum *result, int n);
extern bool jobq_cascade_take(JobqCascade *cascade, int64 id);
extern void jobq_cascade_tell_flow(JobqCascade *cascade, TupleTableSlot *job, int outcome, int n);
extern void jobq_cascade_run(JobqCascade *cascade, JobqArgumentHandler handler, void *arg);
extern void jobq_reconsider(JobqCall *call, int64 id);
extern void jobq_fold_deltas(JobqCall *call, int n, const int64 *seqs, bool *done);

/* What is to be added to what the row of a flow says of its members */
typedef struct JobqFlowChange
{
	JobqCounters c;
	int32		running;		/* that were let in */
	int32		permits;
} JobqFlowChange;

extern void jobq_leave_delta(JobqCall *call, int64 id, int64 epoch, const JobqCounters *c);
extern void jobq_leave_flow_delta(JobqCall *call, int64 flow, const JobqFlowChange *change, bool announce);

/* options.c: what a submission says */
/* Options that are no columns of table job */
#define SUBMISSION_RUN_IN		(JOB_NATTS + 1)
#define SUBMISSION_ON_CONFLICT	(JOB_NATTS + 2)
#define SUBMISSION_HOLD			(JOB_NATTS + 3)

/* What happens to a submission whose unique key another job has */
typedef enum JobqConflict
{
	CONFLICT_KEEP,
	CONFLICT_SKIP,
	CONFLICT_REPLACE,
	CONFLICT_CANCEL,
	CONFLICT_ERROR
} JobqConflict;

/* job.flow_type; NULL: a job */
#define JOBQ_FLOW_TYPE_FLOW	1
#define JOBQ_FLOW_TYPE_MAP	2
#define JOBQ_MAX_FLOW_MB	100 /* of a flow's document, or what a map goes
								 * over */

/* The lane of flows, which no claim asks */
#define JOBQ_FLOW_LANE			1

#define JOBQ_AFTER_ONE	8		/* see jobq_start_after(), which is called
								 * twice at most */

/* What becomes of a flow when a critical member has failed */
typedef enum JobqOnFailure
{
	ON_FAILURE_CONTINUE,		/* what does not depend on it goes on */
	ON_FAILURE_CANCEL,			/* the others are cancelled */
	ON_FAILURE_DRAIN,			/* those that have not begun are cancelled */
	ON_FAILURE_UNDO				/* the same, and then it is undone */
} JobqOnFailure;

/* What a flow is made of */
typedef struct JobqFlowSpec
{
	Jsonb	   *definition;		/* {"jobs": [...], "defaults": {...},
								 * "result": ...}, or of a map {"map": ...,
								 * "job": {...}, "canary": ..., "min_success":
								 * ..., "defaults": {...}}; what is no job if
								 * it was given */
	JobqOnFailure on_failure;
	int64		clone_of;		/* the flow that it is a copy of; 0: none */
	Datum		clone_from;		/* the members from which on it runs anew; 0:
								 * all of it does */
	bool		paused;
	int			permits;		/* -1: no limit */
	int			max_running;	/* 0: no limit */
} JobqFlowSpec;

typedef struct JobqSubmission
{
	int64		id;				/* once submitted, or taken a key for; 0: none */
	int			nafter;
	int64		after[2 * JOBQ_AFTER_ONE];	/* jobs that must have ended first */
	int64		superseded;		/* that whose key it has taken over; 0: none */
	char	   *unique_key;		/* NULL: none */
	bool		dropped;		/* another job has its key, and is id */
	int64		queue_id;
	int64		partition_id;	/* 0: none */
	int64		affinity_id;	/* 0: none */
	char	   *queue;
	char	   *name;			/* NULL: none */
	int			nupstream;
	int64	   *upstream;		/* depends_on: ids */
	int			nnames;
	char	  **names;			/* and names of elements of the same call */
	int			nconditions;
	JobqCondition *conditions;	/* on some of these edges */
	JobqRow		row;			/* in job; 0 where it is null */
	const JobqFlowSpec *flow;	/* that it is; NULL: it is a job */
	bool		starts;			/* a flow that the caller starts, if nothing
								 * keeps it */
	bool		started;		/* so it has to */
	bool		skipped;		/* it is decided so at once */
	bool		succeeded;		/* the same, with its result in the row */
	JobqCounters *joined;		/* of the flow that it is a member of, which
								 * is being started; NULL: none is */
} JobqSubmission;

/* A check of what was read; it can set what follows from it, so it is done once. */
typedef struct JobqCheck
{
	void		(*check) (JobqSubmission *s);
	const char *keys[4];		/* that it is about, up to a NULL */
} JobqCheck;

extern const char *jobq_option_name(int i);
extern bool jobq_is_option(const char *name);
extern void jobq_submission_init(JobqSubmission *s);
extern void jobq_read_arguments(FunctionCallInfo fcinfo, JobqSubmission *s);
extern void jobq_read_key(JobqSubmission *s, const char *key, JsonbValue *v);
extern void jobq_check_payload(const JobqRow *job);
extern void jobq_read_object(JobqSubmission *s, JsonbValue *v);
extern char *jobq_settled_option(const char *key, JsonbValue *v);
extern const JobqCheck *jobq_submission_check(int i);
extern void jobq_check_submission(JobqSubmission *s);
extern void jobq_read_changes(FunctionCallInfo fcinfo, JobqSubmission *s);
extern bool jobq_apply_changes(const JobqSubmission *s, TupleTableSlot *job, JobqRow *new);

/* reference.c: what args refer to, and where something stands in JSON */

#define JOBQ_MAX_DEPTH	1000	/* of JSON in flows */

/* One step down into JSON; a chain of these says where something stands */
typedef struct JobqTrail
{
	const struct JobqTrail *up; /* NULL: the step to the root, the rest is
								 * unused */
	const char *key;			/* NULL: an element of an array */
	int			len;			/* of the key */
	int			index;			/* of the element */
} JobqTrail;

typedef enum JobqReferenceType
{
	REFERENCE_RESULT,			/* {"$result": name, "path": jsonpath} */
	REFERENCE_ARGS,				/* {"$args": jsonpath} */
	REFERENCE_LITERAL,			/* {"$literal": any} */
	REFERENCE_UNDO,				/* {"$undo": "args", "path": jsonpath}, and so
								 * on */
	REFERENCE_TIME,				/* {"$time": "scheduled"}, or "previous" */
	REFERENCE_ITEM,				/* {"$item": jsonpath} */
	REFERENCE_INDEX				/* {"$index": true} */
} JobqReferenceType;

/* What of a job that is undone a reference is to */
typedef enum JobqUndoneValue
{
	UNDONE_ARGS,
	UNDONE_RESULT,
	UNDONE_KEY
} JobqUndoneValue;

/* Which time of a schedule a reference is to */
typedef enum JobqScheduleTime
{
	TIME_SCHEDULED,
	TIME_PREVIOUS
} JobqScheduleTime;

/* A reference; its strings stand in the JSON that it was read from */
typedef struct JobqReference
{
	const char *problem;		/* NULL: it is one, else it is not */
	JobqReferenceType type;
	JsonbValue	value;			/* the name, the jsonpath, or what stands for
								 * itself */
	JsonbValue	path;			/* within a result, or what is undone;
								 * jbvNull: all of it */
	JobqUndoneValue undone;
} JobqReference;

typedef void (*JobqReferenceCallback) (const JobqReference *r, const JobqTrail *trail, void *arg);

extern bool jobq_is_deep(JsonbContainer *json);
extern char *jobq_trail_path(const JobqTrail *trail);
extern bool jobq_read_reference(JsonbContainer *json, JobqReference *r);
extern const char *jobq_reference_problem(const JobqReference *r, bool undo, bool item);
extern bool jobq_is_put_in(const JobqReference *r);
extern int	jobq_find_schedule_time(const JsonbValue *v);
extern void jobq_walk_references(JsonbContainer *json, const JobqTrail *trail,
								 JobqReferenceCallback callback, void *arg);

/* submit.c */
extern int	jobq_compare_ids(const void *a, const void *b);
extern void jobq_admit(JobqCall *call, const JobqSubmission *s);
extern HTAB *jobq_upstream_create(void);
extern void jobq_resolve_upstream(JobqCall *call, HTAB *parents, int64 id, bool known);
extern void jobq_note_expiry(JobqCall *call, int64 id, TimestampTz expires_at);
extern void jobq_start_after(JobqCall *call, JobqSubmission *s, int64 id);
extern int64 jobq_submit(JobqCall *call, JobqSubmission *s, HTAB *parents);
extern void jobq_submit_alone(JobqCall *call, JobqSubmission *s);

/* submitmany.c: many at once, which may name one another */
typedef struct JobqElement
{
	JobqSubmission s;
	int		   *uses;			/* the elements that its depends_on names */
	int			named_by;		/* the latest that named this one, from 1 on */
	int			ndependents;	/* elements that name this one */
	int		   *dependents;
	int			unresolved;		/* named elements not yet in the order */
	int			owner;			/* the element that has its unique key, or -1 */
	char	   *condition;		/* of a member of a flow: "if", a jsonpath
								 * over the flow's args; NULL: none */
} JobqElement;

typedef struct JobqElements
{
	const char *what;			/* the argument, for the error context */
	int			n;
	JobqElement *elements;
	int		   *order;			/* topological */
	int			at;				/* that is being worked on; -1: none */
	int64		known_before;	/* jobs outside with ids below this were there
								 * once: one that is not there any more has
								 * succeeded */
} JobqElements;

extern void jobq_elements_init(JobqElements *es, const char *what, int n);
extern JobqElement *jobq_elements_add(JobqElements *es);
extern void jobq_elements_sort(JobqElements *es);
extern void jobq_elements_submit(JobqCall *call, JobqElements *es);

/* unique.c: unique keys */
typedef enum JobqKeyResult
{
	KEY_TAKEN,
	KEY_HELD,					/* by another job */
	KEY_BUSY					/* somebody is just changing it */
} JobqKeyResult;

extern JobqConflict jobq_find_conflict(const char *name);
extern void jobq_replace_values(JobqCall *call, JobqRow *to, const JobqRow *from);
extern bool jobq_resolve_key(JobqCall *call, JobqSubmission *s);
extern bool jobq_take_keys(JobqCall *call, int n, JobqSubmission **submissions);
extern void jobq_settle_id(JobqCall *call, JobqSubmission *s);
extern JobqKeyResult jobq_take_key_again(JobqCall *call, TupleTableSlot *job, bool wait, int64 *holder);
extern bool jobq_lock_key(JobqCall *call, TupleTableSlot *job);
extern bool jobq_lock_superseded(JobqCall *call, TupleTableSlot *job, LockWaitPolicy policy);
extern JobqKeyResult jobq_move_key(JobqCall *call, TupleTableSlot *job, int64 queue_id, int64 *holder);
extern void jobq_free_key(JobqCall *call, int64 id, int64 queue_id, Datum key, TimestampTz until,
						  int nafter, const int64 *after);
extern void jobq_free_key_of(JobqCall *call, TupleTableSlot *job, bool fresh);

/* finish.c: how an attempt ends, and with it perhaps the job */

/* What is written into the job row when the job is decided */
typedef struct JobqDecision
{
	int			outcome;
	int			attempt_outcome;	/* of the deciding attempt's end, -1: none */
	int64		token;			/* this and the next two of that attempt */
	TimestampTz started_at;
	const char *worker;			/* NULL: none */
	const char *error;			/* NULL: none */
	Oid			decided_by;		/* who decided it by job_decide(), or
								 * InvalidOid */
	bool		has_result;
	Datum		result;
	char	  **queue;			/* where to put the job's queue, or NULL */
} JobqDecision;

extern void jobq_notify_decided(int64 id, int64 queue_id, bool notify, int outcome);
extern void jobq_decide(JobqCascade *cascade, const JobqPrefix *prefix, const JobqDecision *d);
extern const char *jobq_end_attempt(JobqCascade *cascade, TupleTableSlot *lease, JobqAttemptOutcome attempt_outcome,
									const char *error, bool retry, int64 delay);
extern void jobq_error_stale(int64 id);

/* member.c: flows and their members */

/* Why the members of a flow are cancelled; job_flow.stopping */
typedef enum JobqStop
{
	STOP_NOT,
	STOP_DRAINS,				/* a critical one failed: those that have not
								 * begun */
	STOP_FAILED,				/* the same: all */
	STOP_CANCELLED,				/* the flow is */
	STOP_TIMED_OUT				/* the flow has */
} JobqStop;

typedef struct JobqMember
{
	int64		id;				/* first, for jobq_compare_ids() */
	int32		generation;
	int16		outcome;		/* 0: undecided */
	bool		critical;
	bool		is_flow;
} JobqMember;

extern int	jobq_find_on_failure(const char *name);
typedef bool (*JobqVisitor) (TupleTableSlot *job, void *arg);	/* true: into a flow,
																 * too */

extern JobqMember *jobq_read_flow_members(JobqCall *call, int64 flow, int *n);
extern void jobq_visit_inside(JobqCall *call, int64 flow, Snapshot snapshot, JobqVisitor visit, void *arg);
extern bool jobq_is_flow(TupleTableSlot *job);
extern int64 jobq_flow_of(JobqCall *call, int64 id);
extern int64 jobq_former_flow(JobqCall *call, TupleTableSlot *job);
extern void jobq_count_member(JobqCounters *c, bool critical, int outcome, int n);
extern bool jobq_is_map(TupleTableSlot *job);
extern bool jobq_is_critical(TupleTableSlot *job);
extern void jobq_insert_flow(JobqCall *call, const JobqSubmission *s, const JobqPrefix *prefix);
extern void jobq_begin_canaries(JobqCall *call, int64 id, int n, int64 from, int64 upto);
extern void jobq_end_canaries(JobqRow *flow);
extern void jobq_open_flow(JobqCall *call, int64 id, JobqSlot slot, const JobqCounters *c, Jsonb *args);
extern void jobq_redefine_flow(JobqCall *call, int64 id, const JobqFlowSpec *flow);
extern void jobq_set_flow_runs(JobqCall *call, int64 id, JobqSlot slot, JobqRow *flow);
extern void jobq_check_joined(JobqCall *call, const JobqSubmission *s);
extern void jobq_join_flow(JobqCall *call, const JobqSubmission *s);
extern void jobq_check_scope(JobqCall *call, const JobqSubmission *s);
extern void jobq_check_scope_within(JobqCall *call, const JobqSubmission *s, const JobqSubmission *up);
extern bool jobq_lock_open_flow(JobqCall *call, int64 id, LockWaitPolicy policy, bool *open);
extern bool jobq_flow_was_started(JobqCall *call, TupleTableSlot *job);

/* close.c: how they end */
extern bool jobq_lock_to_start(JobqCall *call, int64 id);
extern bool jobq_lock_to_fold(JobqCall *call, int64 id);
extern bool jobq_prepare_to_close(JobqCall *call, int64 id, const JobqFlowChange *change, bool *closes);
extern bool jobq_fold_flow(JobqCascade *cascade, int64 id, const JobqFlowChange *change, bool closes);
extern void jobq_count_members(JobqCall *call, int64 id, JobqCounters *c);
extern bool jobq_stop_flow(JobqCall *call, TupleTableSlot *flow, JobqStop why, const char *reason);

/* flowlimit.c: limits of flows */
extern bool jobq_kept_by_flow(JobqCall *call, const JobqPrefix *prefix);
extern int32 jobq_add_permits(int32 permits, int32 back);
extern JobqSlot jobq_take_slot_again(JobqCall *call, int64 flow);
extern void jobq_wait_for_flow(JobqCall *call, const JobqPrefix *prefix);
extern bool jobq_keeps_slot(JobqCall *call, const JobqPrefix *prefix);
extern void jobq_give_slot_back(JobqCall *call, JobqPrefix *prefix);
extern bool jobq_let_members_in(JobqCall *call, int64 flow);

/* leftover.c: deltas that are left of decided flows */
typedef struct JobqLeftover JobqLeftover;

extern JobqLeftover *jobq_leftover_begin(void);
extern void jobq_leftover_forget(JobqLeftover *left);
extern void jobq_leftover_end(JobqLeftover *left);
extern int	jobq_leftover_drop(JobqCall *call, JobqLeftover *left, TupleTableSlot *job);

/* again.c: flows that are opened again, or begin anew */
extern void jobq_refuse_member(TupleTableSlot *member, int64 flow, TupleTableSlot *job, const char **problem);
extern int64 jobq_undone_by(JobqCall *call, int64 flow);
extern bool jobq_refuse_undone(JobqCall *call, TupleTableSlot *job, const char **problem);
extern void jobq_reopen_flow(JobqCascade *cascade, JobqLeftover *left, TupleTableSlot *job, int outcome);
extern void jobq_begin_flow_anew(JobqCall *call, JobqLeftover *left, TupleTableSlot *job);
extern void jobq_make_former(JobqCall *call, TupleTableSlot *job);
extern bool jobq_open_flows_around(JobqCall *call, JobqLeftover *left, TupleTableSlot *job, const char **problem);
extern bool jobq_open_flow_again(JobqCall *call, JobqLeftover *left, TupleTableSlot *job, int outcome, const char **problem);

/* jsonpath.c: what a jsonpath finds */
extern Jsonb *jobq_path_first(Jsonb *from, const char *string);

/* resolve.c: what references stand for */
extern void jobq_check_references(JobqCall *call, int64 flow, Jsonb *args, bool undo);
extern Jsonb *jobq_resolve_references(JobqCall *call, int64 flow, Jsonb *value);
extern Jsonb *jobq_path_first_or_none(Jsonb *from, const char *path);
extern bool jobq_is_true(Jsonb *found);
extern bool jobq_path_holds(Jsonb *from, const char *path);
extern Jsonb *jobq_flow_args(JobqCall *call, int64 flow);
extern Jsonb *jobq_resolve_items(JobqCall *call, int64 flow, Jsonb *value, bool *too_large);
extern Jsonb *jobq_resolve_undo(JobqCall *call, TupleTableSlot *job, TupleTableSlot *undone);

/* undone.c: jobs that undo others, or do them once more to find out whether they were done */
extern text *jobq_job_key(TupleTableSlot *job);
extern int32 jobq_key_generation(TupleTableSlot *job);
extern bool jobq_keeps_key(JobqCall *call, TupleTableSlot *job, int32 attempts);
extern void jobq_raise_generation(JobqCall *call, TupleTableSlot *job, int32 attempts, JobqRow *new);
extern Jsonb *jobq_read_assigned(JobqCall *call, TupleTableSlot *job, text **key, TupleTableSlot **inputs_of);

/* inputs.c: results of parents, for the worker of their child */
extern Jsonb *jobq_read_inputs(JobqCall *call, int64 id, int n, Size *total);

/* claim.c: which jobs a worker gets */
typedef struct JobqAssignment
{
	int64		job_id;
	int64		token;
	int32		attempt;
	text	   *kind;
	Jsonb	   *args;
	Jsonb	   *inputs;			/* NULL: too large */
	Size		size;			/* of args and inputs */
	text	   *key;
	TimestampTz lease_until;	/* DT_NOEND: that of a session */
	const JobqLabels *required; /* NULL: none */
	int64		flow;			/* that it is a member of; 0: none */
} JobqAssignment;

/* What a claim asks for */
typedef struct JobqClaimRequest
{
	int			nqueues;
	char	  **queues;			/* names that were checked */
	int64		flow;			/* or from what is inside it; 0: from queues */
	text	   *worker;			/* NULL: none */
	int			max_jobs;
	int64		lease;			/* microseconds, -1: the job's or queue's */
	bool		session;		/* leases last as long as this session */
	Datum		labels;			/* of the worker, as they are stored; 0: none */
} JobqClaimRequest;

#define JOBQ_ASSIGNMENT_NATTS	9

extern void jobq_assignment_values(const JobqAssignment *a, Datum *values, bool *nulls);
extern void jobq_return_assignments(FunctionCallInfo fcinfo, const JobqAssignment *jobs, int n);
extern int	jobq_check_queues(FunctionCallInfo fcinfo, int argno, char ***queues);
extern Datum jobq_check_labels(FunctionCallInfo fcinfo, int argno);
extern int	jobq_claim(JobqCall *call, const JobqClaimRequest *request, JobqAssignment **out);

/* lease.c: heartbeats, and leases that run out */
extern TimestampTz jobq_lease_deadline(TimestampTz until, TimestampTz timeout_at);

/* workers.c: workers that are registered */
extern void jobq_workers_init(void);
extern bool jobq_worker_drains(JobqCall *call, const char *name);
extern void jobq_keep_workers(JobqCall *call, bool remove);

/* sight.c: who may see a job, or act upon it */
extern TupleTableSlot *jobq_need_job(JobqCall *call, int64 id);
extern bool jobq_held_by_caller(JobqCall *call, int64 id);
extern bool jobq_may_see(JobqCall *call, int64 id, bool granted);
extern TupleTableSlot *jobq_need_lease(JobqCall *call, int64 id, int64 token);
extern void jobq_require_visible(JobqCall *call, int64 id);
extern bool jobq_may_operate(JobqCall *call, TupleTableSlot *job, bool or_submitter,
							 const char **problem);

/* why.c: questions about rows, which SQL answers */
extern void jobq_ask_as_owner(const char *query, int nargs, Oid *types, Datum *values, bool read_only);

/* many.c: one act on many jobs */

/*
 * An act on a job; true: it changed something.  What is wrong with this job is put
 * in *problem or, where that is NULL, raised.
 */
typedef bool (*JobqAct) (JobqCall *call, int64 id, void *arg, const char **problem);

extern void jobq_refuse(const char **problem, int sqlstate, const char *message, const char *hint);
extern void jobq_refuse_no_such_job(const char **problem, int64 id);
extern void jobq_refuse_state(const char **problem, int64 id, const char *act, const char *state,
							  const char *hint);
extern bool jobq_act_on_one(const char *function, JobqAct act, int64 id, void *arg);
extern Datum jobq_act_on_many(FunctionCallInfo fcinfo, const char *function, JobqAct act, void *arg);

/* remove.c: removing decided jobs */
typedef enum JobqRemoval
{
	REMOVAL_DONE,
	REMOVAL_NEEDED,				/* by an undecided job */
	REMOVAL_BUSY,				/* somebody has it locked or changed it */
	REMOVAL_REFUSED				/* by a foreign key */
} JobqRemoval;

/* A job to be removed */
typedef struct JobqRemovable
{
	int64		id;				/* must be first, see jobq_compare_ids() */
	ItemPointerData place;		/* of its row when it was read */
	int64		flow;			/* that it is a member of; 0: none */
	JobqRemoval became;
} JobqRemovable;

extern int	jobq_remove_free(JobqCall *call, int n, JobqRemovable *jobs);

/* retention.c: which were kept for long enough */

/* Of a queue that keeps jobs no longer than that, decisions are announced. */
#define JOBQ_SHORT_RETENTION	USECS_PER_HOUR

typedef struct JobqPurge
{
	int64		queue_id;		/* 0: all */
	bool		by_caller;		/* of queues that the caller may operate */
	int64		older_than;		/* microseconds; -1: by the queues' settings */
	int			max_jobs;		/* in one call */
	/* found out */
	int			removed;
	bool		more;			/* there may be more in these blocks */
	ItemPointerData from;		/* where to go on, then */
	TimestampTz look_at;		/* when the next are due there */
} JobqPurge;

extern void jobq_note_removal(JobqCall *call, int64 queue_id, int outcome, ItemPointer tid,
							  TimestampTz finished_at);
extern int64 jobq_shortest_retention(JobqCall *call);
extern void jobq_purge_blocks(JobqCall *call, JobqPurge *purge, BlockNumber first, BlockNumber n);

/* cancel.c, retry.c, downstream.c, control.c: what others than its worker do to a job */
extern bool jobq_cancel(JobqCall *call, int64 id, const char *reason, bool checked,
						const char **problem);
extern void jobq_request_cancel(JobqCall *call, int64 id, int32 generation, bool unless_begun, const char *reason);
extern bool jobq_cancel_requested(JobqCall *call, int64 job_id, int generation, char **reason);
extern bool jobq_reopen(JobqCall *call, TupleTableSlot *job, bool expires, JobqPrefix *prefix);
extern void jobq_refuse_key(JobqCall *call, int64 id, int64 holder, bool again, const char **problem);
extern bool jobq_retake_key(JobqCall *call, TupleTableSlot *job, const char **problem);
extern bool jobq_was_let_run(TupleTableSlot *job);
extern const char *jobq_retry_hint(JobqCall *call, int64 id);
extern bool jobq_open_again(JobqCall *call, TupleTableSlot *job, int outcome, const char **problem);
extern bool jobq_refuse_former(JobqCall *call, TupleTableSlot *job, const char **problem);
extern bool jobq_retry_downstream(JobqCall *call, int64 id, JobqLeftover *left, const char **problem);
extern int	jobq_look(JobqCall *call, int64 id, TupleTableSlot **job, JobqTable *table,
					  TupleTableSlot **state, const char **problem);

/* A job as one who wants to act upon it has found it */
typedef struct JobqFound
{
	int64		id;
	int			outcome;		/* 0: undecided, and row is its row of table */
	TupleTableSlot *job;
	JobqTable	table;
	TupleTableSlot *row;
} JobqFound;

/* What is done with it; false: its row was changed meanwhile, look again. */
typedef bool (*JobqFoundAct) (JobqCall *call, const JobqFound *found, void *arg,
							  const char **problem, bool *changed);

extern bool jobq_act_on_found(JobqCall *call, int64 id, bool or_submitter, JobqFoundAct act,
							  void *arg, const char **problem);
extern int	jobq_look_to_act(JobqCall *call, int64 id, bool or_submitter, TupleTableSlot **job,
							 JobqTable *table, TupleTableSlot **state, const char **problem);
extern const char *jobq_job_state(JobqCall *call, int64 id, bool *decided, Datum *result,
								  bool *isnull);

/* search.c: conditions on tags of job_status */
extern void jobq_search_init(void);

/* template.c: what a schedule submits, a job or a flow, and the job of a map */
extern bool jobq_is_flow_template(Jsonb *template);
extern void jobq_read_template(JobqSubmission *s, Jsonb *template);
extern Jsonb *jobq_settle_template(Jsonb *template);
extern bool jobq_uses_time(Jsonb *template, JobqScheduleTime which);
extern Jsonb *jobq_put_times(Jsonb *template, const char *scheduled, const char *previous);
extern JsonbValue *jobq_push_item_job(JsonbParseState **state, JsonbContainer *job, Jsonb *item, int index);
extern char *jobq_iso_time(TimestampTz at);

/* What the layer of flows does with the job of a schedule that is one */

/* Checks all of it, and raises its faults */
extern void (*jobq_check_flow) (Jsonb *flow);

/* Reads it, but for its members */
extern void (*jobq_read_flow_job) (Jsonb *flow, JobqSubmission *s);

/* The caller must be allowed to submit to the queues of all that is in it */
extern void (*jobq_admit_flow) (JobqCall *call, const JobqSubmission *s);

/* schedule.c, tick.c: schedules and their jobs */
typedef enum JobqCatchUp
{
	CATCH_UP_NONE,
	CATCH_UP_LAST,
	CATCH_UP_ALL
} JobqCatchUp;

typedef enum JobqOverlap
{
	OVERLAP_ALLOW,
	OVERLAP_SKIP,
	OVERLAP_QUEUE,
	OVERLAP_CANCEL
} JobqOverlap;

extern TupleTableSlot *jobq_lock_schedule(JobqCall *call, Datum name);
extern int	jobq_schedule_problems(JobqCall *call, TimestampTz *due);

/* What the background worker does with a row that is due */

/* False: try again, at *retry_at or, if that is left 0, soon. */
typedef bool (*JobqDueAct) (JobqCall *call, int64 id, TimestampTz deadline, TimestampTz *retry_at);

extern bool jobq_end_due_lease(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at);

/* Starts a flow whose time has come, and which has left its state */
extern void (*jobq_start_flow) (JobqCall *call, const JobqPrefix *prefix);

/*
 * Submits what undoes a flow that is about to be decided, whose rows are locked; or
 * says what the *problem is
 */
extern void (*jobq_undo_failed_flow) (JobqCall *call, int64 id, char **problem);

extern bool jobq_move_due_job(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at);
extern bool jobq_run_schedule(JobqCall *call, int64 schedule_id, TimestampTz deadline, TimestampTz *retry_at);
extern bool jobq_expire_job(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at);
extern bool jobq_remove_due_key(JobqCall *call, int64 job_id, TimestampTz deadline, TimestampTz *retry_at);
extern bool jobq_act_on_cancel_request(JobqCall *call, int64 seq, TimestampTz deadline, TimestampTz *retry_at);
extern bool jobq_recount(JobqCall *call, int64 seq, TimestampTz deadline, TimestampTz *retry_at);

#endif							/* JOBQ_JOB_H */
