/*
 * claim.h
 *	  What the files share that take ready jobs.
 */
#ifndef JOBQ_CLAIM_H
#define JOBQ_CLAIM_H

#include "job/job.h"

/* A lane that a claim takes from */
typedef struct JobqClaimSource
{
	int64		lane;			/* of the queue's gate, if it has one, or the
								 * worker's own beside it */
	JobqLaneSet set;			/* without these */
	const JobqQueue *queue;
	JobqKey		next;			/* of the next row; jobq_key_last: none */
	bool		known;			/* else nothing is before it */
	JobqOrderScan *scan;		/* NULL: the hand-out knows */
	TupleTableSlot *slot;		/* the next row of the scan */
	int			in_vain;		/* candidates in a row that could not be taken */
} JobqClaimSource;

/* A claim under way */
typedef struct JobqClaim
{
	JobqCall   *call;
	const JobqClaimRequest *request;
	uint64		worker;			/* the key of its name; 0: none */
	int			place;			/* in whose own lanes jobs may be; -1: none */
	int64		period;			/* of the last lease */
	int64		session;		/* number of this session; 0: leases run out
								 * by the clock */
	Jsonb	   *no_inputs;		/* an empty object */
	Size		size;			/* of the jobs so far */
	bool		full;			/* it ends: the next would exceed
								 * jobq.max_claim_size, or enough were put
								 * back */
	int			put_back;		/* jobs, behind their flows */
	bool		wal_is_claims;	/* all of this transaction before */
} JobqClaim;

/* claim.c */

/* Takes jobs; returns how many there are in *out. */
typedef int (*JobqClaimFrom) (JobqCall *call, const JobqClaimRequest *request, JobqAssignment **out);

extern bool jobq_begin_claim(JobqClaim *claim, JobqCall *call, const JobqClaimRequest *request);
extern int	jobq_claimed_sets(JobqClaim *claim, int64 queue_id, JobqLaneSet **sets);
extern void jobq_begin_taking(JobqClaim *claim);
extern bool jobq_take_scanned(JobqClaim *claim, JobqClaimSource *source, JobqAssignment *a);
extern void jobq_end_claim(JobqClaim *claim, int n);
extern Datum jobq_claim_function(FunctionCallInfo fcinfo, const char *function, JobqClaimRequest *request,
								 JobqClaimFrom from);

#endif							/* JOBQ_CLAIM_H */
