/*
 * downstream.c
 *	  Running a job again with all that follows from it.
 *
 * What follows from a job that is opened again are the jobs downstream of it, by
 * an edge of a rule.  Where one of them is a member of a decided flow, that is opened
 * around it, and what is downstream of the flow follows as well.  A flow that was
 * started and follows itself, or is the one that is retried, begins anew: its members
 * become former ones, and it gets others when it starts (again.c).
 *
 *	decided						opened, its dependencies counted anew
 *	decided without having run	the same, if they mean something else by now; else
 *								nothing follows from it
 *	waits for its dependencies	its counters are corrected (cascade.c)
 *	ready, scheduled, limited,	goes back to waiting, if its dependencies are not met
 *	held, manual				any more
 *	runs						the retry is refused
 *
 * Up the ids twice.  The first time finds what follows, refuses what must be, and
 * takes all locks that it may have to wait for: the row in job of a decided job, before
 * its edges are read (D2), the state row of another, then keys.  What it locks it goes
 * by ascending ids.  That finds all, since what a job waits for has a lower id, and so
 * has a flow around it that does not hold what it follows from: a member depends only
 * on what is older than the outermost flow that holds it and not that (member.c).  The
 * second time changes what is locked, and waits for nobody; upstream jobs are locked, or
 * left to a recount, as in any count.
 *
 * What is refused is raised, so nothing is half done; where others are to go on, all
 * this is a subtransaction.
 */
#include "postgres.h"

#include "lib/pairingheap.h"
#include "miscadmin.h"

#include "job/job.h"

/* What is done with a job */
typedef enum Act
{
	ACT_NONE,
	ACT_OPEN,
	ACT_OPEN_AROUND,			/* a flow, not what is in it */
	ACT_BEGIN_ANEW,				/* a flow */
	ACT_GO_BACK,				/* to waiting */
	ACT_MAKE_FORMER
} Act;

typedef struct Follower
{
	int64		id;				/* hash key */
	pairingheap_node node;
	bool		seen;			/* taken from the heap */
	bool		follows;		/* by an edge, or is the job that is retried */
	int64		anew;			/* the flow whose member it is, if that may
								 * begin anew */
	bool		ends;			/* a flow that nothing is opened in */
	Act			act;
	bool		acted;
} Follower;

typedef struct Walk
{
	JobqCall   *call;
	int64		id;				/* that is retried */
	JobqLeftover *left;			/* for flows that are opened */
	HTAB	   *followers;
	pairingheap *heap;
	int			nacts;			/* those with an act, by ascending ids */
	int			room;
	Follower  **acts;
	JobqCascade *cascade;		/* the second time */
} Walk;

/* Order of the heap: lowest id first. */
static int
compare_followers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	int64		ida = pairingheap_const_container(Follower, node, a)->id;
	int64		idb = pairingheap_const_container(Follower, node, b)->id;

	return ida < idb ? 1 : ida > idb ? -1 : 0;
}

/* The follower with an id, or NULL. */
static Follower *
find_follower(const Walk *walk, int64 id)
{
	return hash_search(walk->followers, &id, HASH_FIND, NULL);
}

/* The same, made where there is none. */
static Follower *
add_follower(Walk *walk, int64 id)
{
	bool		found;
	Follower   *f = hash_search(walk->followers, &id, HASH_ENTER, &found);

	if (!found)
	{
		memset((char *) f + sizeof(int64), 0, sizeof(Follower) - sizeof(int64));
		pairingheap_add(walk->heap, &f->node);
	}
	else if (f->seen)
		elog(ERROR, "job %lld follows from a later one", (long long) id);
	return f;
}

/* A job follows; so the flows around it are to be open. */
static void
follow(Walk *walk, int64 id)
{
	Follower   *f = find_follower(walk, id);

	if (f != NULL && f->follows)
		return;
	add_follower(walk, id)->follows = true;
	for (int64 flow = jobq_flow_of(walk->call, id);
		 flow != 0 && find_follower(walk, flow) == NULL;
		 flow = jobq_flow_of(walk->call, flow))
		(void) add_follower(walk, flow);
}

/* What is downstream of a job follows; its row is locked. */
static void
follow_edges(Walk *walk, int64 id)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(walk->call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *edge;

	while ((edge = jobq_scan_next(scan)) != NULL)
	{
		if (jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY)
			follow(walk, jobq_attr_int64(edge, DEP_DOWNSTREAM));
	}
	jobq_scan_end(scan);
}

/* Something is to be done with a job. */
static void
set_act(Walk *walk, Follower *f, Act act)
{
	if (walk->nacts == walk->room)
	{
		walk->room = Max(walk->room * 2, 64);
		walk->acts = walk->acts == NULL ? palloc(walk->room * sizeof(Follower *)) :
			repalloc_huge(walk->acts, walk->room * sizeof(Follower *));
	}
	walk->acts[walk->nacts++] = f;
	f->act = act;
}

/* Is a job in a flow, at whatever depth? */
static bool
is_in_flow(JobqCall *call, int64 id, int64 flow)
{
	int64		around = id;

	do
		around = jobq_flow_of(call, around);
	while (around != 0 && around != flow);
	return around != 0;
}

/* Is a job in a flow that begins anew?  In one that ends, or is gone, it cannot be opened. */
static bool
begins_anew_around(const Walk *walk, TupleTableSlot *job)
{
	for (int64 flow = jobq_attr_int64(job, JOB_FLOW); flow != 0; flow = jobq_flow_of(walk->call, flow))
	{
		Follower   *f = find_follower(walk, flow);

		if (f != NULL && f->act == ACT_BEGIN_ANEW)
			return true;
		if (f != NULL && f->ends)
		{
			TupleTableSlot *around = jobq_find_id(walk->call, JOBQ_JOB, flow);

			jobq_refuse_member(job, flow, around, NULL);
		}
	}
	return false;
}

/*
 * A flow that begins anew gets other members: refuse that, if a job which is not in it
 * depends on one that it has.
 */
static void
refuse_dependents(const Walk *walk, int64 flow, int64 member)
{
	JobqCall   *call = walk->call;
	Datum		key = Int64GetDatum(member);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *edge;

	while ((edge = jobq_scan_next(scan)) != NULL)
	{
		int64		downstream = jobq_attr_int64(edge, DEP_DOWNSTREAM);

		if (jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY && !is_in_flow(call, downstream, flow))
			jobq_refuse(NULL, ERRCODE_JOBQ_WRONG_STATE,
						psprintf("cannot retry flow %lld from its beginning, since a job outside depends on its member %lld",
								 (long long) flow, (long long) member),
						jobq_may_see(call, downstream, false) ?
						psprintf("A flow that begins anew gets other members. Retry that member, or delete job %lld, which depends on it.", (long long) downstream) :
						"A flow that begins anew gets other members. Retry that member.");
	}
	jobq_scan_end(scan);
}

/*
 * Check that nothing is lost when a member of a flow, and what is in it, is there no more
 * for the flow: neither for those that depend on it, nor what is to be undone.
 */
static void
check_member(const Walk *walk, int64 flow, TupleTableSlot *member, bool undone)
{
	JobqCall   *call = walk->call;
	int64		id = jobq_attr_int64(member, JOB_ID);
	JobqMember *members;
	int			n;

	CHECK_FOR_INTERRUPTS();
	check_stack_depth();
	refuse_dependents(walk, flow, id);
	if (!undone && jobq_keeps_key(call, member, jobq_attr_int32(member, JOB_ATTEMPT_NO)))
		jobq_refuse(NULL, ERRCODE_JOBQ_WRONG_STATE,
					psprintf("cannot retry flow %lld from its beginning, since what its member %lld did would not be undone",
							 (long long) flow, (long long) id),
					"Undo the flow, and submit a copy of it by job_clone.");
	if (!jobq_is_flow(member))
		return;
	undone |= jobq_undone_by(call, id) != 0;
	members = jobq_read_flow_members(call, id, &n);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *inside = jobq_need_job(call, members[i].id);

		check_member(walk, flow, inside, undone);
		jobq_slot_free(inside);
	}
	pfree(members);
}

/* A flow begins anew: its members are former ones then. */
static void
add_members(Walk *walk, int64 flow)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(walk->call, flow, &n);

	for (int i = 0; i < n; i++)
		add_follower(walk, members[i].id)->anew = flow;
	pfree(members);
}

/* The caller must be allowed to operate on a job that follows, or on a flow around it. */
static void
require_operate(const Walk *walk, TupleTableSlot *job)
{
	JobqCall   *call = walk->call;
	bool		may = false;
	const char *problem = NULL;

	if (jobq_may_operate(call, job, false, &problem))
		return;
	for (int64 flow = jobq_attr_int64(job, JOB_FLOW); flow != 0 && !may;)
	{
		TupleTableSlot *around = jobq_find_id(call, JOBQ_JOB, flow);

		may = around != NULL && jobq_may_operate(call, around, false, &problem);
		flow = around != NULL ? jobq_attr_int64(around, JOB_FLOW) : 0;
		jobq_slot_free(around);
	}
	if (!may)
		(void) jobq_may_operate(call, job, false, NULL);
}

/* Did a job run, or a flow start? */
static bool
has_run(JobqCall *call, TupleTableSlot *job)
{
	return jobq_attr_int32(job, JOB_ATTEMPT_NO) > 0 || jobq_flow_was_started(call, job);
}

/* The outcome of an upstream job once what was found is opened: a JobqOutcomeOf, without locks. */
static int
outcome_then(JobqCall *call, int64 id, const char *condition, void *arg)
{
	const Walk *walk = arg;
	Follower   *f = find_follower(walk, id);
	TupleTableSlot *job;
	int			outcome = OUTCOME_REMOVED;

	if (f != NULL && f->act != ACT_NONE && f->act != ACT_MAKE_FORMER)
		return 0;
	job = jobq_find_id(call, JOBQ_JOB, id);
	if (job != NULL)
		outcome = jobq_row_counts_as(job, condition);
	jobq_slot_free(job);
	return outcome;
}

/* Was a job decided by its dependencies alone, and would it be so again? */
static bool
stays_decided(Walk *walk, TupleTableSlot *job)
{
	int			outcome = jobq_attr_int16(job, JOB_OUTCOME);
	JobqCounters c;

	if ((outcome & (OUTCOME_SKIPPED | OUTCOME_UPSTREAM_FAILED)) == 0 || !slot_attisnull(job, JOB_DECIDED_BY))
		return false;
	jobq_count_edges_by(walk->call, jobq_attr_int64(job, JOB_ID), outcome_then, walk, &c);
	return (int) jobq_verdict(jobq_attr_int16(job, JOB_RULE), jobq_attr_int32(job, JOB_QUORUM), &c) == outcome;
}

/*
 * Take the key of a job again, whose row is locked.  Another that has it, perhaps since it
 * follows, too, keeps one that ran from running again; one that did not goes on without, as in
 * a cascade.
 */
static void
take_key(const Walk *walk, const Follower *f, TupleTableSlot *job, bool ran)
{
	int64		holder;
	const Follower *other;

	if (jobq_take_key_again(walk->call, job, true, &holder) != KEY_HELD || !(ran || f->id == walk->id))
		return;
	other = find_follower(walk, holder);
	jobq_refuse_key(walk->call, f->id, holder, other != NULL && other->act != ACT_NONE, NULL);
}

/* Lock the row in job_flow of a decided flow, whose row in job is locked, unless another undoes it. */
static bool
lock_flow(JobqCall *call, TupleTableSlot *flow)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, jobq_attr_int64(flow, JOB_ID));
	bool		locked = jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitBlock);

	jobq_slot_free(row);
	if (locked)
		(void) jobq_refuse_undone(call, flow, NULL);
	return locked;
}

/* The first time: a job that follows, and is decided.  False: its row changed, look again. */
static bool
look_at_decided(Walk *walk, Follower *f, TupleTableSlot *job)
{
	JobqCall   *call = walk->call;
	bool		ran;
	bool		started;

	if (jobq_former_flow(call, job) != 0 || begins_anew_around(walk, job))
		return true;
	require_operate(walk, job);
	if (!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitBlock))
		return false;
	if (f->id != walk->id && stays_decided(walk, job))
		return true;
	ran = has_run(call, job);
	started = jobq_flow_was_started(call, job);
	if (started && !slot_attisnull(job, JOB_UNDO_OF))
		jobq_refuse_state(NULL, f->id, "retry", jobq_outcome_name(jobq_attr_int16(job, JOB_OUTCOME)),
						  "It undoes another flow, and does not begin anew; without downstream, job_retry goes on where it failed.");
	if (started && !lock_flow(call, job))
		return false;
	take_key(walk, f, job, ran);
	set_act(walk, f, started ? ACT_BEGIN_ANEW : ACT_OPEN);
	if (started)
		add_members(walk, f->id);
	follow_edges(walk, f->id);
	return true;
}

/* The same for one that is not decided, and was not to begin with; row: where it stands. */
static bool
look_at_undecided(Walk *walk, Follower *f, TupleTableSlot *job, JobqTable table, TupleTableSlot *row)
{
	JobqCall   *call = walk->call;
	char	   *reason;

	if (table == JOBQ_LEASE || table == JOBQ_FLOW)
	{
		require_operate(walk, job);
		jobq_refuse_state(NULL, f->id, "retry", "running",
						  psprintf("It follows from job %lld. Cancel it, or wait until it has ended.", (long long) walk->id));
	}
	if (!jobq_lock(call, table, row, LockTupleExclusive, LockWaitBlock))
		return false;
	if ((table == JOBQ_WAITING && jobq_attr_bool(row, WAITING_OPEN)) ||
		jobq_cancel_requested(call, f->id, jobq_attr_int32(job, JOB_GENERATION), &reason))
		return true;
	require_operate(walk, job);
	if (jobq_attr_int32(row, STATE_ATTEMPT) > 0 &&
		!jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitBlock))
		return false;
	set_act(walk, f, ACT_GO_BACK);
	return true;
}

/* The same for a flow that does not follow, but is around one that does; flow NULL: it was removed. */
static bool
look_at_flow_around(Walk *walk, Follower *f, TupleTableSlot *flow, JobqTable table, TupleTableSlot *row)
{
	JobqCall   *call = walk->call;

	if (flow != NULL && !slot_attisnull(flow, JOB_OUTCOME))
	{
		if (!jobq_lock(call, JOBQ_JOB, flow, LockTupleNoKeyExclusive, LockWaitBlock) ||
			!lock_flow(call, flow))
			return false;
		take_key(walk, f, flow, true);
		set_act(walk, f, ACT_OPEN_AROUND);
		follow_edges(walk, f->id);
		return true;
	}
	if (table == JOBQ_FLOW && jobq_attr_int16(row, FLOW_STOPPING) == STOP_NOT)
		return jobq_lock(call, JOBQ_FLOW, row, LockTupleShare, LockWaitBlock);
	f->ends = true;
	return true;
}

/* The same for a member of a flow that begins anew. */
static bool
look_at_member(Walk *walk, Follower *f, TupleTableSlot *member)
{
	if (!jobq_lock(walk->call, JOBQ_JOB, member, LockTupleNoKeyExclusive, LockWaitBlock))
		return false;
	check_member(walk, f->anew, member, false);
	set_act(walk, f, ACT_MAKE_FORMER);
	return true;
}

/* Say of which job an error is, where it is not the one that is retried. */
static void
follower_error_callback(void *arg)
{
	errcontext("job %lld, which follows from the one that is retried", (long long) *(int64 *) arg);
}

/* The first time, for one job. */
static void
look_at(Walk *walk, Follower *f)
{
	JobqCall   *call = walk->call;
	ErrorContextCallback context = {.callback = follower_error_callback,.arg = &f->id,.previous = error_context_stack};
	bool		done = false;

	if (f->follows && f->id != walk->id)
		error_context_stack = &context;
	f->seen = true;
	while (!done)
	{
		TupleTableSlot *job;
		TupleTableSlot *row;
		JobqTable	table = jobq_find_state(call, f->id, &job, &row);
		bool		decided = job != NULL && !slot_attisnull(job, JOB_OUTCOME);

		if (job != NULL && !decided && row == NULL)
			elog(ERROR, "job %lld has lost its state", (long long) f->id);
		if (f->anew != 0)
			done = !decided || look_at_member(walk, f, job);
		else if (!f->follows)
			done = look_at_flow_around(walk, f, job, table, row);
		else if (decided)
			done = look_at_decided(walk, f, job);
		else
			done = job == NULL || f->id == walk->id || look_at_undecided(walk, f, job, table, row);
		jobq_slot_free(row);
		jobq_slot_free(job);
	}
	error_context_stack = context.previous;
}

/* The second time: a job stays as it is, so it gives its key back. */
static void
leave_decided(Walk *walk, TupleTableSlot *job)
{
	if (!slot_attisnull(job, JOB_UNIQUE_KEY))
		jobq_free_key_of(walk->call, job, false);
}

/* Let a job go where its dependencies say, or decide it by them. */
static void
enter_counted(Walk *walk, TupleTableSlot *job, JobqPrefix *prefix, JobqVerdict verdict, const JobqCounters *c,
			  bool held)
{
	if (verdict == VERDICT_READY)
		jobq_enter_next(walk->call, prefix, 0);
	else if (verdict == VERDICT_WAIT)
		jobq_enter_waiting(walk->call, prefix, c, jobq_attr_int16(job, JOB_RULE), jobq_attr_int32(job, JOB_QUORUM),
						   jobq_nextval(), held);
	else
	{
		JobqDecision decision = {.outcome = verdict,.attempt_outcome = -1};

		jobq_decide(walk->cascade, prefix, &decision);
	}
}

/*
 * Open a decided job.  One that is retried and has run runs at once; others are counted.
 * Of a job that never ran, expires_at holds.
 */
static void
open_decided(Walk *walk, Follower *f, TupleTableSlot *job)
{
	JobqCall   *call = walk->call;
	bool		root = f->id == walk->id;
	bool		ran = has_run(call, job);
	bool		met = root && (jobq_was_let_run(job) || f->act == ACT_BEGIN_ANEW);
	int			outcome = jobq_attr_int16(job, JOB_OUTCOME);
	bool		sure = true;
	JobqVerdict verdict = VERDICT_READY;
	JobqCounters c;
	JobqPrefix	prefix;
	Datum		result;
	bool		isnull;

	if (!met)
	{
		sure = jobq_count_edges(call, f->id, OUTCOME_SUCCEEDED, &c);
		verdict = jobq_verdict(jobq_attr_int16(job, JOB_RULE), jobq_attr_int32(job, JOB_QUORUM), &c);
	}
	if (verdict == VERDICT_SKIPPED || verdict == VERDICT_UPSTREAM_FAILED)
	{
		if (root)
			jobq_refuse_state(NULL, f->id, "retry", jobq_outcome_name(outcome), jobq_retry_hint(call, f->id));
		if ((int) verdict == outcome && slot_attisnull(job, JOB_DECIDED_BY))
		{
			leave_decided(walk, job);
			return;
		}
	}
	if (!jobq_reopen(call, job, !root && !ran, &prefix))
		elog(ERROR, "row of job %lld has changed while locked", (long long) f->id);
	if (ran)
		prefix.run_at = 0;
	if (f->act == ACT_BEGIN_ANEW)
		jobq_begin_flow_anew(call, walk->left, job);
	jobq_advance();				/* those downstream must see it undecided */
	result = slot_getattr(job, JOB_RESULT, &isnull);
	jobq_cascade_add_downstream(walk->cascade, f->id, outcome, isnull ? NULL : &result, -1);
	jobq_cascade_tell_flow(walk->cascade, job, outcome, -1);
	enter_counted(walk, job, &prefix, verdict, &c, false);
	if (!sure)
		jobq_ask_recount(call, f->id);
	f->acted = true;
}

/* Have a job wait again that has not begun, or waits to be tried again, unless it still need not. */
static void
go_back(Walk *walk, Follower *f, TupleTableSlot *job, JobqTable table, TupleTableSlot *row)
{
	JobqCall   *call = walk->call;
	JobqCounters c;
	bool		sure = jobq_count_edges(call, f->id, OUTCOME_SUCCEEDED, &c);
	JobqVerdict verdict = jobq_verdict(jobq_attr_int16(job, JOB_RULE), jobq_attr_int32(job, JOB_QUORUM), &c);
	bool		held = table == JOBQ_WAITING && jobq_attr_bool(row, WAITING_HELD);
	JobqPrefix	prefix;

	if (verdict == VERDICT_READY)
		return;
	jobq_read_prefix(row, &prefix);
	prefix.lane = jobq_job_lane(job);
	prefix.manual = jobq_attr_bool(job, JOB_MANUAL);
	if (!jobq_state_leave(call, table, row, LEAVE_WAIT))
		elog(ERROR, "state row of job %lld has changed while locked", (long long) f->id);
	if (prefix.attempt > 0)
	{
		JobqRow		new;

		jobq_values(job, &new);
		jobq_raise_generation(call, job, prefix.attempt, &new);
		if (!jobq_update(call, JOBQ_JOB, job, &new, LockWaitBlock))
			elog(ERROR, "row of job %lld has changed while locked", (long long) f->id);
		prefix.failed = prefix.lost = 0;
		prefix.run_at = 0;
	}
	jobq_advance();
	enter_counted(walk, job, &prefix, verdict, &c, held);
	if (!sure)
		jobq_ask_recount(call, f->id);
	f->acted = true;
}

/* The second time, for one job: nothing is done where what it follows from was not opened in the end. */
static void
act_on(Walk *walk, Follower *f)
{
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTable	table = jobq_find_state(walk->call, f->id, &job, &row);
	bool		reached = jobq_cascade_take(walk->cascade, f->id) || f->id == walk->id;

	switch (f->act)
	{
		case ACT_OPEN:
		case ACT_BEGIN_ANEW:
			if (reached)
				open_decided(walk, f, job);
			else
				leave_decided(walk, job);
			break;
		case ACT_OPEN_AROUND:
			jobq_reopen_flow(walk->cascade, walk->left, job, jobq_attr_int16(job, JOB_OUTCOME));
			break;
		case ACT_GO_BACK:
			if (reached)
				go_back(walk, f, job, table, row);
			break;
		case ACT_MAKE_FORMER:
			if (find_follower(walk, f->anew)->acted)
				jobq_make_former(walk->call, job);
			break;
		case ACT_NONE:
			break;
	}
	jobq_slot_free(row);
	jobq_slot_free(job);
	jobq_advance();
}

/* Retry a job with all that follows; false: it is not decided.  What is wrong is raised. */
static bool
retry(JobqCall *call, int64 id, JobqLeftover *left)
{
	Walk		walk = {.call = call,.id = id,.left = left};
	HASHCTL		ctl = {.keysize = sizeof(int64),.entrysize = sizeof(Follower),.hcxt = CurrentMemoryContext};
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTable	table;
	int			outcome = jobq_look_to_act(call, id, false, &job, &table, &row, NULL);

	if (outcome != 0)
		jobq_refuse_former(call, job, NULL);
	jobq_slot_free(row);
	jobq_slot_free(job);
	if (outcome == 0)
		return false;
	walk.followers = hash_create("jobq followers", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	walk.heap = pairingheap_allocate(compare_followers, NULL);
	follow(&walk, id);
	while (!pairingheap_is_empty(walk.heap))
	{
		CHECK_FOR_INTERRUPTS();
		look_at(&walk, pairingheap_container(Follower, node, pairingheap_remove_first(walk.heap)));
		jobq_advance();			/* its key is taken, which others that follow
								 * may have, too */
	}
	/* another has opened it meanwhile, or removed it */
	if (find_follower(&walk, id)->act == ACT_NONE)
		return false;
	walk.cascade = jobq_cascade_create(call);
	for (int i = 0; i < walk.nacts; i++)
	{
		CHECK_FOR_INTERRUPTS();
		act_on(&walk, walk.acts[i]);
	}
	jobq_cascade_run(walk.cascade, NULL, NULL);
	return true;
}

/* One of many */
typedef struct Retry
{
	int64		id;
	JobqLeftover *left;
	bool		changed;
} Retry;

/* Retry it, for jobq_try(). */
static void
retry_alone(void *arg)
{
	Retry	   *r = arg;
	JobqCall	call;

	jobq_open_call(&call);
	r->changed = retry(&call, r->id, r->left);
	jobq_close_call(&call);
}

/*
 * job_retry with downstream => true: a JobqAct, in a subtransaction where others are to go
 * on, which see nothing of one that was refused.
 */
bool
jobq_retry_downstream(JobqCall *call, int64 id, JobqLeftover *left, const char **problem)
{
	Retry		r = {id, left};
	ErrorData  *error;

	if (problem == NULL)
		return retry(call, id, left);
	error = jobq_try(retry_alone, &r);
	if (error != NULL && error->sqlerrcode != ERRCODE_JOBQ_WRONG_STATE &&
		error->sqlerrcode != ERRCODE_JOBQ_NO_SUCH_JOB && error->sqlerrcode != ERRCODE_INSUFFICIENT_PRIVILEGE)
		ReThrowError(error);
	if (error != NULL)
	{
		jobq_leftover_forget(left);
		*problem = error->message;
	}
	return r.changed && error == NULL;
}
