/*
 * document.h
 *	  What the files that read a flow's document share.
 */
#ifndef JOBQ_DOCUMENT_H
#define JOBQ_DOCUMENT_H

#include "flow/flow.h"

#define JOBQ_MAX_FAULTS	10000	/* that are told */

/* What an object is, as a set */
typedef enum JobqPlace
{
	PLACE_FLOW = 1,				/* the whole document */
	PLACE_SUBFLOW = 2,
	PLACE_JOB = 4,
	PLACE_DEFAULTS = 8,
	PLACE_MAP = 16
} JobqPlace;

/* Keys that are no options */
typedef enum JobqOwnKey
{
	OWN_JOBS,
	OWN_DEFAULTS,
	OWN_RESULT,
	OWN_ON_FAILURE,
	OWN_IF,
	OWN_WHEN,
	OWN_CRITICAL,
	OWN_PAUSED,
	OWN_PERMITS,
	OWN_MAX_RUNNING,
	OWN_MAP,
	OWN_JOB,
	OWN_CANARY,
	OWN_MIN_SUCCESS,
	OWN_UNDO_OF,
	OWN_REPEATS,
	OWN_SCHEDULE_ID,
	OWN_SCHEDULED_FOR,
	NOWN
} JobqOwnKey;

/* What the members of a flow are before they say something */
typedef struct JobqDefaults
{
	JobqSubmission job;
	JobqSubmission flow;		/* those that a flow can have */
	JobqSubmission map;
	JsonbContainer *args;		/* NULL: none */
	const JobqTrail *args_trail;	/* where they stand */
	List	   *faulty;			/* their keys that could not be read */
} JobqDefaults;

/* An object that is being read */
typedef struct JobqObject
{
	JobqPlace	place;
	JsonbContainer *json;
	const JobqTrail *trail;
	const struct JobqFlowLevel *level;	/* of a member that is being checked:
										 * its flow */
	int			index;			/* its own, there */
	JobqSubmission *s;
	JsonbValue	own[NOWN];		/* jbvNull: not given */
	List	   *faulty;			/* keys that could not be read */
} JobqObject;

typedef struct JobqChecker JobqChecker;

/* What an option that was read, if it was (good), says of others; false: it is of no use */
typedef bool (*JobqOptionHook) (JobqChecker *ck, const JobqObject *o, const char *key, const JsonbValue *v,
								bool good, const JobqTrail *trail);

/* What is done with faults */
struct JobqChecker
{
	bool		gather;			/* false: the first is raised */
	bool		stored;			/* what is read was made here: it can have
								 * internal keys */
	bool		scheduled;		/* it is the job of a schedule, submitted at
								 * each of its times */
	int			maps;			/* around what is being read */
	List	   *faults;
	MemoryContext mcxt;			/* that they are kept in */
	JobqOptionHook look;		/* at what an option says of others; NULL: it
								 * does not matter */
	JobqElements *members;		/* of the flow that is in no other, to be kept
								 * as they are read; NULL: they are not */
	MemoryContext scratch;		/* reset with each member; NULL: nothing is */
	MemoryContext work;			/* all else */
};

/* A step down the trail, to a key. */
static inline JobqTrail
jobq_step_to(const JobqTrail *trail, const char *key)
{
	JobqTrail	step = {.up = trail,.key = key,.len = strlen(key)};

	return step;
}

/* Is a value an array? */
static inline bool
jobq_is_array(const JsonbValue *v)
{
	return v->type == jbvBinary && JsonContainerIsArray(v->val.binary.data) &&
		!JsonContainerIsScalar(v->val.binary.data);
}

/* Is a value an object? */
static inline bool
jobq_is_object(const JsonbValue *v)
{
	return v->type == jbvBinary && JsonContainerIsObject(v->val.binary.data);
}

/* A string as a C string. */
static inline char *
jobq_copy_string(const JsonbValue *v)
{
	return pnstrdup(v->val.string.val, v->val.string.len);
}

/* document.c */
extern void jobq_keep_own(JobqObject *o, const JsonbValue *outer, JobqElement *member);
extern int64 jobq_find_upstream(const JobqSubmission *s, const char *string);
extern void jobq_push_pair(JsonbParseState **state, const char *key, JsonbValue *value);

/* faults.c: what is done with what is wrong */
extern void jobq_add_fault(JobqChecker *ck, const JobqTrail *trail, const char *problem);
extern void jobq_require_fault(ErrorData *error);
extern bool jobq_attempt(JobqChecker *ck, const JobqTrail *trail, void (*work) (void *arg), void *arg);
extern void jobq_parse_jsonpath(void *arg);

/* keys.c: what an object says by itself */
extern bool jobq_read_count(const JsonbValue *v, int least, int *n);
extern void jobq_read_keys(JobqChecker *ck, JobqObject *o);
extern bool jobq_gives(const JobqObject *o, const char *key);
extern void jobq_check_options(JobqChecker *ck, JobqObject *o, const JobqDefaults *defaults);
extern void jobq_init_defaults(JobqDefaults *defaults);
extern void jobq_add_defaults(JobqChecker *ck, JobqDefaults *defaults, const JsonbValue *v, const JobqTrail *flow);
extern void jobq_begin_flow_member(JobqObject *o, const JobqDefaults *defaults, JobqSubmission *s);

#endif							/* JOBQ_DOCUMENT_H */
