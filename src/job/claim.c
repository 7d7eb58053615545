/*
 * claim.c
 *	  Claiming jobs.
 *
 * A claim takes the next rows of job_ready in the order of priority, then
 * position, over all the queues asked for, and turns each into a lease.  It
 * never filters and never waits: a row that somebody else has locked is passed
 * over.  The one exception is a job past its expires_at that the background
 * worker is just about to cancel: to do that here, with all that follows
 * from it, could wait for others.
 *
 * A worker that drains gets nothing.  Which lanes of a queue a claim takes from
 * depends on its labels (labels.c), and on whether jobs are kept for the worker
 * (affinity.c); what may come first in each is looked up for all of them at once, so
 * that many empty ones cost little.
 *
 * Which rows come next is known to the hand-out (handout.c).  What it names is
 * fetched under a snapshot taken after that, compared, and deleted without
 * waiting.  A row that is there but locked by somebody who does not delete it
 * is offered again when this transaction ends.
 *
 * Four kinds of claims scan the index instead, from the hand-out's floors:
 * those of REPEATABLE READ and SERIALIZABLE transactions, which look under the
 * transaction's snapshot and pass over what changed since; those of a
 * transaction that has made jobs of that lane ready itself, which the hand-out
 * does not know of yet; those of lanes for which it has no room; and those that
 * find as many candidates locked by others as the hand-out knows of.
 *
 * A claim from a flow looks at what is inside it instead, and takes what it finds
 * ready there in the same way, past the hand-out, which learns of it as of what a
 * scan has taken.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_type.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "utils/array.h"
#include "utils/inval.h"
#include "utils/snapmgr.h"

#include "dispatch/dispatch.h"
#include "job/job.h"

int			jobq_max_claim_size = JOBQ_DEFAULT_MAX_CLAIM_KB;

#define MAX_POPPED		256		/* candidates taken at once */

/* A lane that a claim takes from */
typedef struct Source
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
} Source;

typedef struct Claim
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
	bool		full;			/* the next would exceed jobq.max_claim_size */
	bool		wal_is_claims;	/* all of this transaction before */
} Claim;

/* A token: 63 bits that nobody can guess, never 0.  Random bits are drawn for many. */
static int64
new_token(void)
{
	static uint64 bits[32];
	static int	left = 0;
	uint64		token = 0;

	do
	{
		if (left == 0)
		{
			if (!pg_strong_random(bits, sizeof(bits)))
				ereport(ERROR,
						(errcode(ERRCODE_INTERNAL_ERROR),
						 errmsg("could not generate a random token")));
			left = lengthof(bits);
		}
		token = bits[--left] & PG_INT64_MAX;
		bits[left] = 0;
	} while (token == 0);
	return (int64) token;
}

/*
 * Read the row of a job that is ready, and what its worker gets.  False: that is
 * more than the claim may return, so the job stays where it is; any claim takes
 * one job.  NULL in *job: there is no such job, or it has ended.
 *
 * This is done before the row of job_ready is deleted.  If the deletion succeeds
 * the job was ready all the time since that row was seen, and nobody changes a
 * job's row meanwhile, so the latest is right.  Where the row was committed and
 * found in a snapshot, that one is as good, and lets ids be walked.
 */
static bool
read_job(Claim *claim, int64 id, Snapshot snapshot, TupleTableSlot **job, JobqAssignment *a)
{
	Size		limit = (Size) jobq_max_claim_size * 1024;
	Size		size;
	TupleTableSlot *inputs_of;
	int			dependencies;

	*job = snapshot && claim->request->max_jobs > 1 ? jobq_walk_id(claim->call, JOBQ_JOB, id, snapshot, NULL) :
		jobq_find_id(claim->call, JOBQ_JOB, id);
	if (*job == NULL || !slot_attisnull(*job, JOB_OUTCOME))
	{
		jobq_slot_free(*job);
		*job = NULL;
		return true;
	}
	a->flow = jobq_attr_int64(*job, JOB_FLOW);
	a->args = jobq_read_assigned(claim->call, *job, &a->key, &inputs_of);
	size = jobq_json_size(a->args, limit);
	dependencies = jobq_attr_int32(inputs_of, JOB_DEPENDENCIES);
	a->inputs = dependencies > 0 ?
		jobq_read_inputs(claim->call, jobq_attr_int64(inputs_of, JOB_ID), dependencies, &size) : claim->no_inputs;
	if (inputs_of != *job)
		jobq_slot_free(inputs_of);
	claim->full = claim->size > 0 && claim->size + size > limit;
	a->size = size;
	return !claim->full;
}

/* Insert the lease of a job that was ready since a time, and fill in the rest of what its worker gets. */
static void
lease_job(Claim *claim, const Source *source, JobqPrefix *prefix, TupleTableSlot *job,
		  TimestampTz since, JobqAssignment *a)
{
	JobqCall   *call = claim->call;
	JobqRow		new = {0};
	int64		period = claim->request->lease;
	const JobqQueue *queue = source->queue;
	int64		timeout = jobq_attr_or(job, JOB_TIMEOUT, queue->timeout);
	TimestampTz timeout_at;
	TimestampTz until;
	TimestampTz deadline;
	TimestampTz started_at;
	TimestampTz now;
	bool		isnull;

	if (period < 0)
		period = jobq_bound_lease(jobq_attr_or(job, JOB_LEASE, queue->lease));

	claim->period = period;
	a->job_id = prefix->job_id;
	a->token = new_token();
	a->attempt = prefix->attempt + 1;
	a->kind = DatumGetTextPCopy(slot_getattr(job, JOB_KIND, &isnull));
	a->required = source->set.labels;

	/* what the claim waited for is not the worker's time */
	jobq_open_table(call, JOBQ_LEASE);
	now = jobq_steady();
	timeout_at = timeout > 0 ? now + timeout : 0;
	until = claim->session != 0 ? DT_NOEND : now + period;
	a->lease_until = jobq_wall_of(until);
	deadline = jobq_lease_deadline(until, timeout_at);

	jobq_set(&new, LEASE_TOKEN, Int64GetDatum(a->token));
	jobq_set(&new, LEASE_DEADLINE, TimestampTzGetDatum(deadline));
	jobq_set(&new, LEASE_UNTIL, TimestampTzGetDatum(until));
	if (timeout_at != 0)
		jobq_set(&new, LEASE_TIMEOUT_AT, TimestampTzGetDatum(timeout_at));
	started_at = jobq_wall_of(now);
	jobq_set(&new, LEASE_STARTED_AT, TimestampTzGetDatum(started_at));
	jobq_set(&new, LEASE_PERIOD, Int64GetDatum(period));
	jobq_set(&new, LEASE_HOLDER, ObjectIdGetDatum(GetUserId()));
	jobq_set(&new, LEASE_CANCEL_REQUESTED, BoolGetDatum(false));
	if (claim->session != 0)
		jobq_set(&new, LEASE_SESSION, Int64GetDatum(claim->session));
	if (claim->request->worker != NULL)
		jobq_set(&new, LEASE_WORKER, PointerGetDatum(claim->request->worker));
	if (claim->request->labels != 0)
		jobq_set(&new, LEASE_LABELS, claim->request->labels);
	prefix->lane = source->set.lane;
	prefix->attempt = a->attempt;
	jobq_state_enter(call, JOBQ_LEASE, prefix, &new);
	if (prefix->affinity_id != 0 && claim->worker != 0)
		jobq_note_affinity(prefix->queue_id, prefix->affinity_id, claim->worker);
	jobq_count_time(prefix->queue_id, COUNT_WAIT, started_at - since);
	jobq_counts(prefix->queue_id)->worked_at = started_at;
}

/* Turn a row of job_ready that was deleted into a lease; false: there is no job to run. */
static bool
assign(Claim *claim, const Source *source, TupleTableSlot *row, TupleTableSlot *job,
	   JobqAssignment *a)
{
	JobqPrefix	prefix;

	jobq_read_prefix(row, &prefix);
	if (job == NULL)
	{
		ereport(WARNING,
				(errmsg("job %lld is ready but has no row in table \"job\", or an outcome there",
						(long long) prefix.job_id),
				 errdetail("Rows were changed by hand; the one in \"job_ready\" is removed now.")));
		return false;
	}
	lease_job(claim, source, &prefix, job, jobq_attr_int64(row, READY_SINCE), a);
	claim->size += a->size;
	return true;
}

/*
 * Is a row of the queue whose privilege was checked?  Lanes are numbers that hashes
 * give; whoever finds two that are the same gets nothing by it.
 */
static bool
is_of_queue(const Source *source, TupleTableSlot *row)
{
	return jobq_attr_int64(row, STATE_QUEUE_ID) == source->queue->queue_id;
}

/* Take a row that a scan found; false: somebody else has it, or it is no job to run now. */
static bool
take_scanned(Claim *claim, Source *source, JobqAssignment *a)
{
	JobqCall   *call = claim->call;
	TupleTableSlot *job = NULL;
	bool		ok;

	ok = is_of_queue(source, source->slot) && !jobq_ready_expired(call, source->slot) &&
		read_job(claim, jobq_attr_int64(source->slot, STATE_JOB_ID), NULL, &job, a) &&
		jobq_state_leave(call, JOBQ_READY, source->slot, LEAVE_CLAIMED) &&
		assign(claim, source, source->slot, job, a);
	jobq_slot_free(job);
	return ok;
}

/* The same for a candidate, which was announced as taken when it was popped. */
static bool
take_candidate(Claim *claim, Source *source, const JobqCandidate *c, Snapshot snapshot,
			   JobqAssignment *a)
{
	JobqCall   *call = claim->call;
	JobqReady	ready = {.lane = source->lane,.queue_id = source->queue->queue_id,.labels = source->set.labels,
	.position = c->position,.tid = c->tid,.priority = c->priority};
	TupleTableSlot *row = claim->full ? NULL : jobq_fetch_ready(call, &ready, snapshot);
	TupleTableSlot *job = NULL;
	bool		ok = false;

	if (row != NULL && is_of_queue(source, row) && !jobq_ready_expired(call, row) &&
		read_job(claim, jobq_attr_int64(row, STATE_JOB_ID), snapshot, &job, a))
	{
		if (jobq_state_leave(call, JOBQ_READY, row, LEAVE_POPPED))
			ok = assign(claim, source, row, job, a);
		else if (!jobq_being_deleted(call, JOBQ_READY, row))
		{
			jobq_ready_origin(call, &ready);
			jobq_announce_ready(&ready);
		}
	}
	if (claim->full)
	{
		/* others can have it at once */
		jobq_ready_origin(call, &ready);
		jobq_lane_offer(&ready);
	}
	jobq_slot_free(job);
	jobq_slot_free(row);
	return ok;
}

/* Go on to the next row of a scan. */
static void
next_scanned(Source *source)
{
	source->slot = jobq_order_scan_next(source->scan);
	source->next = jobq_key_last;
	if (source->slot != NULL)
	{
		source->next.priority = jobq_attr_int16(source->slot, STATE_PRIORITY);
		source->next.position = jobq_attr_int64(source->slot, READY_POSITION);
	}
}

/* Scan a lane from here on. */
static void
scan_from_floors(Claim *claim, Source *source)
{
	int64		lane = source->lane;
	JobqFloors *floors = jobq_handout_floors(claim->call, lane);

	source->scan = jobq_order_scan_begin(claim->call, jobq_lane_order(lane), floors, IsolationUsesXactSnapshot() ?
										 GetTransactionSnapshot() : GetLatestSnapshot());
	next_scanned(source);
}

/* Find out what comes next in a lane, once until something is taken from it. */
static void
look(Claim *claim, Source *source)
{
	if (source->scan == NULL && !source->known &&
		!jobq_handout_peek(claim->call, source->lane, &source->next))
		scan_from_floors(claim, source);
	source->known = true;
}

/*
 * Take up to max jobs of a lane whose keys are not after the limit, but not
 * necessarily all that there are.  Returns how many, or -1: there are no more.
 */
static int
take(Claim *claim, Source *source, JobqKey limit, int max, JobqAssignment *a)
{
	JobqCandidate popped[MAX_POPPED];
	Snapshot	snapshot;
	int			npopped = -1;
	int			n = 0;

	source->known = false;
	if (source->scan == NULL)
	{
		JobqReady	of = {.lane = source->lane,.queue_id = source->queue->queue_id,.labels = source->set.labels,.count = 1};

		npopped = jobq_handout_pop(claim->call, &of, limit, Min(max, MAX_POPPED), popped);
	}
	if (npopped == 0)
		return -1;
	if (npopped > 0)
	{
		snapshot = RegisterSnapshot(GetLatestSnapshot());
		for (int i = 0; i < npopped; i++)
		{
			if (take_candidate(claim, source, &popped[i], snapshot, &a[n]))
				n++;
		}
		UnregisterSnapshot(snapshot);
		source->in_vain = n > 0 ? 0 : source->in_vain + npopped;
		/* the next refill would find the same */
		if (source->in_vain >= jobq_lane_candidates)
			scan_from_floors(claim, source);
		return n;
	}

	if (source->scan == NULL)
		scan_from_floors(claim, source);
	if (jobq_compare_keys(source->next, jobq_key_last) == 0)
		return -1;
	while (n < max && !claim->full && jobq_compare_keys(source->next, jobq_key_last) < 0 &&
		   jobq_compare_keys(source->next, limit) <= 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (take_scanned(claim, source, &a[n]))
			n++;
		next_scanned(source);
	}
	return n;
}

/* {} */
static Jsonb *
empty_object(void)
{
	JsonbParseState *state = NULL;

	pushJsonbValue(&state, WJB_BEGIN_OBJECT, NULL);
	return JsonbValueToJsonb(pushJsonbValue(&state, WJB_END_OBJECT, NULL));
}

/* The source whose next row comes first, and a key before which no other has one; NULL: there is none. */
static Source *
best_source(Claim *claim, Source *sources, int n, JobqKey *limit)
{
	Source	   *best;

	*limit = jobq_key_last;
	if (n == 1)
		return &sources[0];
	for (;;)
	{
		best = NULL;
		*limit = jobq_key_last;
		for (int i = 0; i < n; i++)
		{
			Source	   *s = &sources[i];

			if (jobq_compare_keys(s->next, jobq_key_last) == 0)
				continue;
			if (best == NULL)
				best = s;
			else if (jobq_compare_keys(s->next, best->next) < 0)
			{
				*limit = best->next;
				best = s;
			}
			else if (jobq_compare_keys(s->next, *limit) < 0)
				*limit = s->next;
		}
		if (best == NULL || best->known)
			return best;
		look(claim, best);
	}
}

/* Add a lane to the sources, whose jobs have these labels. */
static void
add_source(Claim *claim, const JobqQueue *queue, int64 lane, const JobqLaneSet *set, Source *s)
{
	int			first = 0;

	memset(s, 0, sizeof(Source));
	s->set = *set;
	s->lane = lane;
	s->queue = queue;
	if (IsolationUsesXactSnapshot() || jobq_own_ready(s->lane, &first))
		scan_from_floors(claim, s);
}

/* The sets of labels whose jobs a claim takes from a queue; returns how many. */
static int
claimed_sets(Claim *claim, int64 queue_id, JobqLaneSet **sets)
{
	if (claim->request->labels != 0)
		return jobq_queue_lanes(claim->call, queue_id, jobq_labels_of(claim->request->labels), sets);
	*sets = palloc(sizeof(JobqLaneSet));
	(*sets)->lane = queue_id;
	(*sets)->labels = NULL;
	return 1;
}

/* The lanes of a queue that a claim takes from: add them to the sources. */
static void
add_sources(Claim *claim, const JobqQueue *queue, Source **sources, int *n, int *room)
{
	JobqLaneSet *lanes;
	int			nlanes = claimed_sets(claim, queue->queue_id, &lanes);

	if (*n + 2 * nlanes > *room)
	{
		*room = *n + 2 * nlanes;
		*sources = *sources ? repalloc(*sources, *room * sizeof(Source)) : palloc(*room * sizeof(Source));
	}
	for (int i = 0; i < nlanes; i++)
	{
		int64		lane = jobq_gate_lane(lanes[i].lane, queue->gate);

		add_source(claim, queue, lane, &lanes[i], &(*sources)[(*n)++]);
		if (claim->place >= 0)
		{
			JobqLaneSet own = {lanes[i].lane, jobq_own_labels(lanes[i].labels, claim->worker)};

			add_source(claim, queue, jobq_own_lane(lane, claim->place), &own, &(*sources)[(*n)++]);
		}
	}
}

/* What may come first in each source, which is looked up as far as it must be. */
static void
look_at_all(Claim *claim, Source *sources, int n)
{
	int64	   *lanes = palloc(n * sizeof(int64));
	JobqKey    *keys = palloc(n * sizeof(JobqKey));
	JobqReady	origin;

	jobq_ready_origin(claim->call, &origin);
	for (int i = 0; i < n; i++)
		lanes[i] = sources[i].lane;
	jobq_lanes_first(&origin, n, lanes, keys);
	for (int i = 0; i < n; i++)
	{
		if (sources[i].scan == NULL)
			sources[i].next = keys[i];
	}
	pfree(keys);
	pfree(lanes);
}

/*
 * Begin a claim: note who makes it.  False: that is a worker which drains, and gets
 * nothing.
 */
static bool
begin_claim(Claim *claim)
{
	const JobqClaimRequest *request = claim->request;
	bool		drains = false;

	/*
	 * limits that were set since this transaction has taken its locks hold,
	 * too
	 */
	AcceptInvalidationMessages();
	if (request->worker != NULL)
	{
		char	   *name = text_to_cstring(request->worker);

		claim->worker = jobq_worker_key(name, strlen(name));
		claim->place = jobq_note_worker(claim->worker, Max(request->lease, 0));
		if (claim->place >= 0 && !jobq_has_own_lanes(claim->place))
			claim->place = -1;
		drains = jobq_worker_drains(claim->call, name);
	}
	if (request->session)
		claim->session = jobq_session_begin(claim->worker);
	return !drains;
}

/*
 * Begin to take jobs.  Of all that is inserted then, the leases, nothing is read
 * again.  None shall run while a later job's inputs wait for a table.
 */
static void
begin_taking(Claim *claim)
{
	claim->wal_is_claims = jobq_wal_is_claims();
	if (claim->request->max_jobs > 1)
	{
		jobq_bulk_begin(claim->call);
		jobq_open_table(claim->call, JOBQ_DEPENDENCY);
	}
}

/* So many were taken. */
static void
end_claim(Claim *claim, int n)
{
	jobq_bulk_end(claim->call);
	jobq_note_claim_wal(claim->wal_is_claims);
	if (n > 0 && claim->worker != 0)
		(void) jobq_note_worker(claim->worker, claim->period);
	if (n > 0)
		jobq_forbid_prepare("cannot PREPARE a transaction that has claimed jobs");
}

/* Claim what is asked for.  Returns how many jobs there are in *out. */
int
jobq_claim(JobqCall *call, const JobqClaimRequest *request, JobqAssignment **out)
{
	Claim		claim = {.call = call,.request = request,.place = -1,.no_inputs = empty_object()};
	Source	   *sources = NULL;
	int			sources_room = 0;
	int			max_jobs = request->max_jobs;
	JobqKey		limit;
	Source	   *s;
	int			nsources = 0;
	int			room = Min(max_jobs, MAX_POPPED);
	bool		gets = begin_claim(&claim);
	int			n = 0;

	*out = palloc(sizeof(JobqAssignment) * room);
	for (int i = 0; i < request->nqueues; i++)
	{
		int64		queue_id = jobq_queue_id(request->queues[i]);
		JobqQueue  *queue;
		bool		seen = false;

		for (int k = 0; k < nsources; k++)
			seen |= sources[k].queue->queue_id == queue_id;
		if (seen)
			continue;
		jobq_require_privilege(call, queue_id, PRIV_WORK, request->queues[i]);
		queue = palloc(sizeof(JobqQueue));
		jobq_queue_settings(call, queue_id, queue);
		if (!queue->paused && gets)
			add_sources(&claim, queue, &sources, &nsources, &sources_room);
	}
	if (nsources > 1)
		look_at_all(&claim, sources, nsources);

	begin_taking(&claim);
	while (n < max_jobs && !claim.full && nsources > 0 &&
		   (s = best_source(&claim, sources, nsources, &limit)) != NULL)
	{
		int			taken;

		if (n == room)
		{
			room = Min((int64) room * 2, max_jobs);
			*out = repalloc_huge(*out, sizeof(JobqAssignment) * room);
		}
		taken = take(&claim, s, limit, room - n, &(*out)[n]);
		if (taken < 0 && nsources == 1)
			break;
		n += Max(taken, 0);
	}
	for (int i = 0; i < nsources; i++)
	{
		if (sources[i].scan != NULL)
			jobq_order_scan_end(sources[i].scan);
	}
	end_claim(&claim, n);
	return n;
}

/* Claims from a flow */

/* A queue that members are of */
typedef struct FlowQueue
{
	JobqQueue	settings;
	bool		may;			/* the caller has the privilege to work on it */
	int			nsources;		/* 0: it gives nothing */
	Source	   *sources;		/* for each set of labels that the claim has */
} FlowQueue;

/* A member that is ready */
typedef struct ReadyMember
{
	JobqReady	ready;
	Source	   *source;
} ReadyMember;

typedef struct FlowClaim
{
	Claim	   *claim;
	bool		gets;			/* else the worker drains */
	bool		may;			/* the caller may work on a queue of a member */
	Snapshot	snapshot;
	List	   *queues;
	int			n;
	int			room;
	ReadyMember *members;
} FlowClaim;

/* A queue that a member is of; what the claim takes from it is found out once. */
static FlowQueue *
flow_queue(FlowClaim *f, int64 queue_id)
{
	Claim	   *claim = f->claim;
	FlowQueue  *q;
	JobqLaneSet *sets;
	ListCell   *lc;

	foreach(lc, f->queues)
	{
		q = lfirst(lc);
		if (q->settings.queue_id == queue_id)
			return q;
	}
	q = palloc0(sizeof(FlowQueue));
	jobq_queue_settings(claim->call, queue_id, &q->settings);
	q->may = jobq_has_privilege(claim->call, queue_id, PRIV_WORK);
	if (q->may && f->gets && !q->settings.paused)
	{
		q->nsources = claimed_sets(claim, queue_id, &sets);
		q->sources = palloc0(q->nsources * sizeof(Source));
		for (int i = 0; i < q->nsources; i++)
		{
			q->sources[i].set = sets[i];
			q->sources[i].lane = jobq_gate_lane(sets[i].lane, q->settings.gate);
			q->sources[i].queue = &q->settings;
		}
	}
	f->queues = lappend(f->queues, q);
	return q;
}

/*
 * Note a member if it is ready and the claim takes from the lane that it is ready in, or
 * would if it were that worker for which the job is kept.  In another lane stands
 * what is still to go back behind the gate.
 */
static void
note_if_ready(FlowClaim *f, const FlowQueue *q, TupleTableSlot *job)
{
	int64		lane = jobq_job_lane(job);
	Source	   *source = NULL;
	TupleTableSlot *row;

	for (int i = 0; i < q->nsources && source == NULL; i++)
	{
		if (q->sources[i].set.lane == lane)
			source = &q->sources[i];
	}
	row = source == NULL ? NULL : jobq_find_ready(f->claim->call, jobq_attr_int64(job, JOB_ID), lane,
												  jobq_attr_int16(job, JOB_PRIORITY), f->snapshot);
	if (row != NULL && jobq_is_in_lane(source->lane, jobq_attr_int64(row, STATE_LANE)))
	{
		if (f->n == f->room)
		{
			f->room = Max(f->room * 2, 64);
			f->members = f->members ? repalloc_huge(f->members, f->room * sizeof(ReadyMember)) :
				palloc(f->room * sizeof(ReadyMember));
		}
		jobq_ready_from_slot(f->claim->call, row, &f->members[f->n].ready);
		f->members[f->n++].source = source;
	}
	jobq_slot_free(row);
}

/*
 * A job inside the flow.  What is decided is looked at only to find out whether the caller
 * may know of the flow.
 */
static bool
visit_member(TupleTableSlot *job, void *arg)
{
	FlowClaim  *f = arg;
	bool		decided = !slot_attisnull(job, JOB_OUTCOME);
	bool		is_flow = jobq_is_flow(job);

	if (decided && f->may)
		return false;
	if (!is_flow)
	{
		char	   *queue = jobq_attr_cstring(job, JOB_QUEUE);
		FlowQueue  *q = flow_queue(f, jobq_queue_id(queue));

		pfree(queue);
		f->may |= q->may;
		if (!decided && q->nsources > 0)
			note_if_ready(f, q, job);
	}
	return true;
}

/* For qsort(): in the order in which they are handed out. */
static int
compare_ready_members(const void *a, const void *b)
{
	const JobqReady *x = &((const ReadyMember *) a)->ready;
	const JobqReady *y = &((const ReadyMember *) b)->ready;
	JobqKey		x_key = {x->priority, x->position};
	JobqKey		y_key = {y->priority, y->position};

	return jobq_compare_keys(x_key, y_key);
}

/*
 * Claim ready members of a flow, and of the flows in it, of those queues that the caller
 * may work on.  To one who may not see the flow and work on none of them, it does not exist.
 */
static int
claim_from_flow(JobqCall *call, const JobqClaimRequest *request, int64 flow, JobqAssignment **out)
{
	Claim		claim = {.call = call,.request = request,.place = -1,.no_inputs = empty_object()};
	FlowClaim	f = {.claim = &claim,.gets = begin_claim(&claim)};
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, flow);
	int			max_jobs;
	int			n = 0;

	f.snapshot = RegisterSnapshot(IsolationUsesXactSnapshot() ? GetTransactionSnapshot() : GetLatestSnapshot());
	if (job != NULL && jobq_is_flow(job))
		jobq_visit_inside(call, flow, f.snapshot, visit_member, &f);
	if (job == NULL || !(f.may || jobq_may_work_on(call, job) || jobq_may_see(call, flow, false)))
		jobq_error_no_such_job(flow);
	if (!jobq_is_flow(job))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job %lld is no flow", (long long) flow)));
	jobq_slot_free(job);
	if (f.n > 1)
		qsort(f.members, f.n, sizeof(ReadyMember), compare_ready_members);

	max_jobs = Min(request->max_jobs, f.n);
	*out = MemoryContextAllocHuge(CurrentMemoryContext, sizeof(JobqAssignment) * Max(max_jobs, 1));
	begin_taking(&claim);
	for (int i = 0; i < f.n && n < max_jobs && !claim.full; i++)
	{
		Source	   *source = f.members[i].source;

		CHECK_FOR_INTERRUPTS();
		source->slot = jobq_fetch_ready(call, &f.members[i].ready, f.snapshot);
		if (source->slot != NULL && take_scanned(&claim, source, &(*out)[n]))
			n++;
		jobq_slot_free(source->slot);
	}
	UnregisterSnapshot(f.snapshot);
	end_claim(&claim, n);
	return n;
}

/* The columns of job_assignment. */
void
jobq_assignment_values(const JobqAssignment *a, Datum *values, bool *nulls)
{
	values[0] = Int64GetDatum(a->job_id);
	values[1] = Int64GetDatum(a->token);
	values[2] = Int32GetDatum(a->attempt);
	values[3] = PointerGetDatum(a->kind);
	values[4] = PointerGetDatum(a->args);
	values[5] = PointerGetDatum(a->inputs);
	values[6] = PointerGetDatum(a->key);
	values[7] = TimestampTzGetDatum(a->lease_until);
	values[8] = Int64GetDatum(a->flow);
	memset(nulls, false, JOBQ_ASSIGNMENT_NATTS * sizeof(bool));
	nulls[5] = a->inputs == NULL;
	nulls[7] = a->lease_until == DT_NOEND;
	nulls[8] = a->flow == 0;
}

/* Return claimed jobs as the rows of a function, whose result is materialized. */
void
jobq_return_assignments(FunctionCallInfo fcinfo, const JobqAssignment *jobs, int n)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	Datum		values[JOBQ_ASSIGNMENT_NATTS];
	bool		nulls[JOBQ_ASSIGNMENT_NATTS];

	for (int i = 0; i < n; i++)
	{
		jobq_assignment_values(&jobs[i], values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
}

/* An argument "queues". */
int
jobq_check_queues(FunctionCallInfo fcinfo, int argno, char ***queues)
{
	Datum	   *values;
	bool	   *nulls;
	int			n = jobq_check_array(fcinfo, argno, "queues", TEXTOID, false, &values, &nulls);

	if (n > JOBQ_MAX_QUEUES)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("too many queues in one claim"),
				 errdetail("There are %d, and %d are allowed.", n, JOBQ_MAX_QUEUES),
				 errhint("Use several claims, or workers, or fewer queues.")));
	*queues = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
	{
		(*queues)[i] = TextDatumGetCString(values[i]);
		jobq_check_queue_name((*queues)[i]);
	}
	return n;
}

/* An argument "labels", as they are stored; 0: there are none. */
Datum
jobq_check_labels(FunctionCallInfo fcinfo, int argno)
{
	Datum		labels = PG_ARGISNULL(argno) ? 0 : jobq_check_label_set(fcinfo, argno, "labels");

	return labels == 0 || ARR_NDIM(DatumGetArrayTypeP(labels)) == 0 ? 0 : labels;
}

/* The arguments that all forms have: worker, max_jobs, lease, labels, session.  flow NULL: from queues. */
static Datum
claim_function(FunctionCallInfo fcinfo, int nqueues, char **queues, const int64 *flow)
{
	JobqClaimRequest request = {.nqueues = nqueues,.queues = queues,
		.worker = PG_ARGISNULL(1) ? NULL : PG_GETARG_TEXT_PP(1),
		.max_jobs = PG_ARGISNULL(2) ? 1 : jobq_check_count(fcinfo, 2, "max_jobs"),
		.lease = jobq_check_lease(jobq_check_interval(fcinfo, 3, "lease", false), "lease"),
	.session = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5)};
	JobqCall	call;
	JobqAssignment *jobs;
	int			n;

	if (request.worker != NULL)
		jobq_check_name(text_to_cstring(request.worker), "worker");
	request.labels = jobq_check_labels(fcinfo, 4);
	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, flow ? "job_claim_flow()" : "job_claim()", true);
	n = flow ? claim_from_flow(&call, &request, *flow, &jobs) : jobq_claim(&call, &request, &jobs);
	jobq_return_assignments(fcinfo, jobs, n);
	jobq_close_call(&call);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(jobq_job_claim);

/* job_claim(queue, worker, max_jobs, lease, labels, session) */
Datum
jobq_job_claim(PG_FUNCTION_ARGS)
{
	char	   *queue = jobq_check_queue(fcinfo, 0);

	return claim_function(fcinfo, 1, &queue, NULL);
}

PG_FUNCTION_INFO_V1(jobq_job_claim_queues);

/* job_claim(queues, worker, max_jobs, lease, labels, session) */
Datum
jobq_job_claim_queues(PG_FUNCTION_ARGS)
{
	char	  **queues;
	int			n = jobq_check_queues(fcinfo, 0, &queues);

	return claim_function(fcinfo, n, queues, NULL);
}

PG_FUNCTION_INFO_V1(jobq_job_claim_flow);

/* job_claim_flow(flow, worker, max_jobs, lease, labels, session) */
Datum
jobq_job_claim_flow(PG_FUNCTION_ARGS)
{
	int64		flow = jobq_check_id(fcinfo, 0, "flow");

	return claim_function(fcinfo, 0, NULL, &flow);
}
