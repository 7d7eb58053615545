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
 * A claim that has put very many jobs back behind their flows ends, with the jobs
 * that it has by then, or none.  What else is ready it has not seen.  So its commit
 * wakes who waits for a job of the queue, as if that had been resumed: they go on
 * where it ended, and so does the caller, if he waits.
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
#include "job/claim.h"

int			jobq_max_claim_size = JOBQ_DEFAULT_MAX_CLAIM_KB;

#define MAX_POPPED		256		/* candidates taken at once */
#define MAX_PUT_BACK	10000	/* jobs behind their flows, by one claim */

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
read_job(JobqClaim *claim, int64 id, Snapshot snapshot, TupleTableSlot **job, JobqAssignment *a)
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
	/* a claim of one job returns it whatever its size */
	size = claim->request->max_jobs > 1 ? jobq_json_size(a->args, limit) : 0;
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
lease_job(JobqClaim *claim, const JobqClaimSource *source, JobqPrefix *prefix, TupleTableSlot *job,
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
	jobq_set(&new, LEASE_LAST, BoolGetDatum(false));
	if (claim->session != 0)
		jobq_set(&new, LEASE_SESSION, Int64GetDatum(claim->session));
	if (claim->request->worker != NULL)
		jobq_set(&new, LEASE_WORKER, PointerGetDatum(claim->request->worker));
	if (claim->request->labels != 0)
		jobq_set(&new, LEASE_LABELS, claim->request->labels);
	prefix->lane = source->set.lane;
	prefix->attempt = a->attempt;
	if (prefix->slot != SLOT_NONE)
		prefix->slot = SLOT_BEGUN;
	jobq_state_enter(call, JOBQ_LEASE, prefix, &new);
	if (prefix->affinity_id != 0 && claim->worker != 0)
		jobq_note_affinity(prefix->queue_id, prefix->affinity_id, claim->worker);
	jobq_count_time(prefix->queue_id, COUNT_WAIT, started_at - since);
	jobq_counts(prefix->queue_id)->worked_at = started_at;
}

/*
 * Turn a row of job_ready that was deleted into a lease; false: there is no job to
 * run, or its flow keeps it.
 */
static bool
assign(JobqClaim *claim, const JobqClaimSource *source, TupleTableSlot *row, TupleTableSlot *job,
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
	if (prefix.flow_id != 0 && jobq_kept_by_flow(claim->call, &prefix))
	{
		jobq_put_behind_flow(claim->call, row);
		if (++claim->put_back == MAX_PUT_BACK)
		{
			claim->full = true;
			jobq_announce_resumed(source->queue->queue_id);
		}
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
is_of_queue(const JobqClaimSource *source, TupleTableSlot *row)
{
	return jobq_attr_int64(row, STATE_QUEUE_ID) == source->queue->queue_id;
}

/* Take a row that a scan found; false: somebody else has it, or it is no job to run now. */
bool
jobq_take_scanned(JobqClaim *claim, JobqClaimSource *source, JobqAssignment *a)
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
take_candidate(JobqClaim *claim, JobqClaimSource *source, const JobqCandidate *c, Snapshot snapshot,
			   JobqAssignment *a)
{
	JobqCall   *call = claim->call;
	JobqReady	ready = {.lane = source->lane,.queue_id = source->queue->queue_id,.labels = source->set.labels,
	.position = c->position,.tid = c->tid,.priority = c->priority};
	TupleTableSlot *row = claim->full ? NULL : jobq_fetch_ready(call, &ready, snapshot);
	TupleTableSlot *job = NULL;
	bool		gone = false;
	bool		ok = false;

	if (row != NULL && is_of_queue(source, row) && !jobq_ready_expired(call, row) &&
		read_job(claim, jobq_attr_int64(row, STATE_JOB_ID), snapshot, &job, a))
	{
		gone = jobq_state_leave(call, JOBQ_READY, row, LEAVE_POPPED);
		if (gone)
			ok = assign(claim, source, row, job, a);
		else if (!jobq_being_deleted(call, JOBQ_READY, row))
		{
			jobq_ready_origin(call, &ready);
			jobq_announce_ready(&ready);
		}
	}
	if (claim->full && !gone)
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
next_scanned(JobqClaimSource *source)
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
scan_from_floors(JobqClaim *claim, JobqClaimSource *source)
{
	int64		lane = source->lane;
	JobqFloors *floors = jobq_handout_floors(claim->call, lane);

	source->scan = jobq_order_scan_begin(claim->call, jobq_lane_order(lane), floors, IsolationUsesXactSnapshot() ?
										 GetTransactionSnapshot() : GetLatestSnapshot());
	next_scanned(source);
}

/* Find out what comes next in a lane, once until something is taken from it. */
static void
look(JobqClaim *claim, JobqClaimSource *source)
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
take(JobqClaim *claim, JobqClaimSource *source, JobqKey limit, int max, JobqAssignment *a)
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
		if (source->in_vain >= jobq_lane_candidates && !claim->full)
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
		if (jobq_take_scanned(claim, source, &a[n]))
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
static JobqClaimSource *
best_source(JobqClaim *claim, JobqClaimSource *sources, int n, JobqKey *limit)
{
	JobqClaimSource *best;

	*limit = jobq_key_last;
	if (n == 1)
		return &sources[0];
	for (;;)
	{
		best = NULL;
		*limit = jobq_key_last;
		for (int i = 0; i < n; i++)
		{
			JobqClaimSource *s = &sources[i];

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
add_source(JobqClaim *claim, const JobqQueue *queue, int64 lane, const JobqLaneSet *set, JobqClaimSource *s)
{
	int			first = 0;

	memset(s, 0, sizeof(JobqClaimSource));
	s->set = *set;
	s->lane = lane;
	s->queue = queue;
	if (IsolationUsesXactSnapshot() || jobq_own_ready(s->lane, &first))
		scan_from_floors(claim, s);
}

/* The sets of labels whose jobs a claim takes from a queue; returns how many. */
int
jobq_claimed_sets(JobqClaim *claim, int64 queue_id, JobqLaneSet **sets)
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
add_sources(JobqClaim *claim, const JobqQueue *queue, JobqClaimSource **sources, int *n, int *room)
{
	JobqLaneSet *lanes;
	int			nlanes = jobq_claimed_sets(claim, queue->queue_id, &lanes);

	if (*n + 2 * nlanes > *room)
	{
		*room = *n + 2 * nlanes;
		*sources = *sources ? repalloc(*sources, *room * sizeof(JobqClaimSource)) : palloc(*room * sizeof(JobqClaimSource));
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
look_at_all(JobqClaim *claim, JobqClaimSource *sources, int n)
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
 * Begin a claim, and note who makes it.  False: that is a worker which drains, and gets
 * nothing.
 */
bool
jobq_begin_claim(JobqClaim *claim, JobqCall *call, const JobqClaimRequest *request)
{
	bool		drains = false;

	memset(claim, 0, sizeof(JobqClaim));
	claim->call = call;
	claim->request = request;
	claim->place = -1;
	claim->no_inputs = empty_object();

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
void
jobq_begin_taking(JobqClaim *claim)
{
	claim->wal_is_claims = jobq_wal_is_claims();
	if (claim->request->max_jobs > 1)
	{
		jobq_bulk_begin(claim->call);
		jobq_open_table(claim->call, JOBQ_DEPENDENCY);
	}
}

/* So many were taken. */
void
jobq_end_claim(JobqClaim *claim, int n)
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
	JobqClaim	claim;
	JobqClaimSource *sources = NULL;
	int			sources_room = 0;
	int			max_jobs = request->max_jobs;
	JobqKey		limit;
	JobqClaimSource *s;
	int			nsources = 0;
	int			room = Min(max_jobs, MAX_POPPED);
	bool		gets = jobq_begin_claim(&claim, call, request);
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

	jobq_begin_taking(&claim);
	while (n < max_jobs && !claim.full && nsources > 0 &&
		   (s = best_source(&claim, sources, nsources, &limit)) != NULL)
	{
		int			taken;

		/* what flows keep is put behind them, and can be many */
		CHECK_FOR_INTERRUPTS();
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
	jobq_end_claim(&claim, n);
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

/* A claiming function; the arguments that all have: worker, max_jobs, lease, labels, session. */
Datum
jobq_claim_function(FunctionCallInfo fcinfo, const char *function, JobqClaimRequest *request, JobqClaimFrom from)
{
	JobqCall	call;
	JobqAssignment *jobs;
	int			n;

	request->max_jobs = PG_ARGISNULL(2) ? 1 : jobq_check_count(fcinfo, 2, "max_jobs");
	request->lease = jobq_check_lease(jobq_check_interval(fcinfo, 3, "lease", false), "lease");
	request->session = !PG_ARGISNULL(5) && PG_GETARG_BOOL(5);
	if (!PG_ARGISNULL(1))
	{
		request->worker = PG_GETARG_TEXT_PP(1);
		jobq_check_name(text_to_cstring(request->worker), "worker");
	}
	request->labels = jobq_check_labels(fcinfo, 4);
	InitMaterializedSRF(fcinfo, 0);
	jobq_enter(&call, function, true);
	n = from(&call, request, &jobs);
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
	JobqClaimRequest request = {.nqueues = 1,.queues = &queue};

	return jobq_claim_function(fcinfo, "job_claim()", &request, jobq_claim);
}

PG_FUNCTION_INFO_V1(jobq_job_claim_queues);

/* job_claim(queues, worker, max_jobs, lease, labels, session) */
Datum
jobq_job_claim_queues(PG_FUNCTION_ARGS)
{
	JobqClaimRequest request = {0};

	request.nqueues = jobq_check_queues(fcinfo, 0, &request.queues);
	return jobq_claim_function(fcinfo, "job_claim()", &request, jobq_claim);
}
