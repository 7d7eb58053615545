/*
 * flowlimit.c
 *	  Limits of flows: pauses, permits, and how many members run at once.
 *
 * What would become ready in a flow that has a limit waits for the flow, by a row of
 * job_waiting that is closed (limited_by), and has the background worker look at it,
 * by a delta of nothing.  That lets members in while it folds the flow's deltas, with
 * its row locked, by priority, then id: each gets a slot, which is counted in the row
 * (running) and takes a permit.  A member carries its slot from state to state,
 * and gives it back, by a delta, when it is decided or waits for anything again; the permit
 * with it, unless its attempt has begun.
 *
 *	W6	running plus what deltas say of it is the number of state rows of members that have a slot.  Where
 *		there are permits or max_running, and the flow is settled, each member that runs has one.
 *	W7	Where members wait for their flow, something keeps them: a pause of it, or of one around it, no permits,
 *		as many that have slots as may, or the canaries of a map; or it stops; or there is a delta.
 *
 * A pause counts nothing: it keeps all in the flow, at any depth, from beginning.
 *
 * What is ready when a limit is set, or a lower one, has no slot, or one by the
 * settings before, or its flow is paused: the claim that finds it puts it behind its
 * flow (jobq_put_behind_flow).  So no claim that begins after the change is committed
 * takes it.  A claim that began before can still be open, and what it takes was not
 * counted by anybody.  Therefore the flow is not settled from then on: the background
 * worker goes through its members, puts back what has not begun, gives slots to what
 * runs, and lets nobody in before it has met no member that somebody is just moving.
 *
 * Locks: the flow's row in job_flow, and no other row that is not free.  Whoever adds
 * members to the flow, opens some again, or starts it, has the row locked, too, so
 * that these stand where its settings would have them.
 *
 * A crash leaves the rows, and deltas that are still to be folded.
 */
#include "postgres.h"

#include "access/xact.h"
#include "common/int.h"
#include "miscadmin.h"

#include "job/job.h"

#define LET_IN_AT_ONCE	500		/* members, by one fold */

/* Is a flow, or one around it, paused? */
static bool
is_paused(JobqCall *call, int64 flow)
{
	bool		paused = false;

	while (flow != 0 && !paused)
	{
		TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);

		paused = row != NULL && jobq_attr_bool(row, FLOW_PAUSED);
		flow = row != NULL ? jobq_attr_int64(row, STATE_FLOW_ID) : 0;
		jobq_slot_free(row);
	}
	return paused;
}

/* Does a flow count its members? */
static bool
counts_members(TupleTableSlot *flow)
{
	return !slot_attisnull(flow, FLOW_PERMITS) || !slot_attisnull(flow, FLOW_MAX_RUNNING);
}

/*
 * May a member begin with the slot that it has, or has not?  One that was given by
 * settings before is taken away.
 */
static bool
may_use_slot(TupleTableSlot *flow, JobqSlot slot)
{
	return !counts_members(flow) || (slot != SLOT_NONE && (slot != SLOT_GIVEN || jobq_attr_bool(flow, FLOW_SETTLED)));
}

/* Must a member wait for the canaries of its map? */
static bool
waits_for_canaries(TupleTableSlot *flow, int64 member)
{
	return !slot_attisnull(flow, FLOW_CANARY_UPTO) && member > jobq_attr_int64(flow, FLOW_CANARY_UPTO);
}

/*
 * Must a member of a flow, which would begin, wait for that?  In bulk, a flow that
 * keeps nobody is looked at once.
 */
bool
jobq_kept_by_flow(JobqCall *call, const JobqPrefix *prefix)
{
	TupleTableSlot *row;
	bool		limited;
	bool		kept;
	int64		around;

	if (call->bulk && call->let_in == prefix->flow_id)
		return false;
	row = jobq_find_id(call, JOBQ_FLOW, prefix->flow_id);
	limited = row != NULL && (counts_members(row) || !slot_attisnull(row, FLOW_CANARY_UPTO));
	kept = row != NULL && (jobq_attr_bool(row, FLOW_PAUSED) || !may_use_slot(row, prefix->slot) ||
						   waits_for_canaries(row, prefix->job_id));
	around = row != NULL ? jobq_attr_int64(row, STATE_FLOW_ID) : 0;
	jobq_slot_free(row);
	kept |= is_paused(call, around);
	if (call->bulk && !limited && !kept)
		call->let_in = prefix->flow_id;
	return kept;
}

/* Permits with those that are given back; there are never more than fit. */
int32
jobq_add_permits(int32 permits, int32 back)
{
	int32		sum;

	return pg_add_s32_overflow(permits, back, &sum) ? PG_INT32_MAX : sum;
}

/* Have the background worker look at a flow: once for each in a row that a call has to do with. */
static void
look_at_flow(JobqCall *call, int64 flow)
{
	static const JobqFlowChange none = {0};

	if (call->looked_at == flow)
		return;
	jobq_leave_flow_delta(call, flow, &none, true);
	call->looked_at = flow;
}

/* Have a member of a flow wait for that. */
void
jobq_wait_for_flow(JobqCall *call, const JobqPrefix *prefix)
{
	JobqPrefix	placed = *prefix;
	JobqRow		new = {0};
	static const JobqCounters none = {0};

	jobq_give_slot_back(call, &placed);
	jobq_set_counters(&new, WAITING_UNDECIDED, &none);
	jobq_set(&new, WAITING_QUORUM, Int32GetDatum(0));
	jobq_set(&new, WAITING_EPOCH, Int64GetDatum(0));
	jobq_set(&new, WAITING_RULE, Int16GetDatum(RULE_ALL_SUCCESS));
	jobq_set(&new, WAITING_OPEN, BoolGetDatum(false));
	jobq_set(&new, WAITING_HELD, BoolGetDatum(false));
	jobq_set(&new, WAITING_MANUAL, BoolGetDatum(false));
	jobq_set(&new, WAITING_WIDE, BoolGetDatum(false));
	jobq_set(&new, WAITING_LIMITED_BY, Int64GetDatum(prefix->flow_id));
	jobq_state_enter(call, JOBQ_WAITING, &placed, &new);
	look_at_flow(call, prefix->flow_id);
}

/*
 * A job that is to wait, or is decided, gives back its slot, if it has one, and the
 * permit, if it has not begun.
 */
void
jobq_give_slot_back(JobqCall *call, JobqPrefix *prefix)
{
	JobqFlowChange change = {.running = -1,.permits = prefix->slot == SLOT_GIVEN ? 1 : 0};

	if (prefix->slot == SLOT_NONE)
		return;
	jobq_leave_flow_delta(call, prefix->flow_id, &change, true);
	prefix->slot = SLOT_NONE;
}

/*
 * A flow that is a member of another is opened again, whose row is locked: it takes a
 * slot, if there are such.
 */
JobqSlot
jobq_take_slot_again(JobqCall *call, int64 flow)
{
	JobqFlowChange change = {.running = 1};
	TupleTableSlot *row = flow != 0 ? jobq_find_id(call, JOBQ_FLOW, flow) : NULL;
	bool		counted = row != NULL && counts_members(row);

	jobq_slot_free(row);
	if (!counted)
		return SLOT_NONE;
	jobq_leave_flow_delta(call, flow, &change, true);
	return SLOT_BEGUN;
}

/* Settling */

/* Give a member that runs a slot; false: its row is not free. */
static bool
give_slot(JobqCall *call, JobqTable table, TupleTableSlot *row)
{
	JobqRow		new;

	jobq_values(row, &new);
	jobq_set(&new, STATE_SLOT, Int16GetDatum(SLOT_BEGUN));
	return jobq_update(call, table, row, &new, LockWaitSkip);
}

/* Have a member that was about to begin wait for its flow; false: its row is not free. */
static bool
put_back(JobqCall *call, JobqTable table, TupleTableSlot *row, TupleTableSlot *job)
{
	JobqPrefix	prefix;

	if (!jobq_state_leave(call, table, row, LEAVE_TRY))
		return false;
	jobq_read_prefix(row, &prefix);
	prefix.lane = jobq_job_lane(job);
	jobq_wait_for_flow(call, &prefix);
	return true;
}

/*
 * Settle an undecided member: have it wait if it may not begin, or give it a slot if
 * it runs, which is added to *running.  False: somebody is just moving it, who may
 * have read the flow's row before that was changed.  Whoever claims a job has deleted
 * a row of it before he reads that.
 */
static bool
settle_member(JobqCall *call, int64 id, bool counted, bool paused, int *running)
{
	TupleTableSlot *job;
	TupleTableSlot *row;
	JobqTable	table = jobq_find_state(call, id, &job, &row);
	bool		has_slot = row != NULL && !slot_attisnull(row, STATE_SLOT);
	bool		ok = true;

	switch (table)
	{
		case JOBQ_READY:
		case JOBQ_LIMITED:
			if (counted || paused)
				ok = put_back(call, table, row, job);
			break;
		case JOBQ_LEASE:
		case JOBQ_FLOW:
			if (counted && !has_slot)
			{
				ok = give_slot(call, table, row);
				*running += ok ? 1 : 0;
			}
			break;
		case JOBQ_WAITING:
		case JOBQ_SCHEDULED:

			/*
			 * a flow that is about to start; else it can be let go, and
			 * claimed, in one transaction
			 */
			if (counted && has_slot)
				ok = put_back(call, table, row, job);
			else
				ok = !counted || !jobq_being_deleted(call, table, row);
			break;
		default:
			break;
	}
	jobq_slot_free(row);
	jobq_slot_free(job);
	return ok;
}

/* Settle the members of a flow and, where it is paused, of those in it; false: not all of them. */
static bool
settle_members(JobqCall *call, int64 flow, bool counted, bool paused, int *running)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, flow, &n);
	bool		ok = true;

	check_stack_depth();
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (members[i].outcome != 0)
			continue;
		ok &= settle_member(call, members[i].id, counted, paused, running);
		if (paused && members[i].is_flow)
			ok &= settle_members(call, members[i].id, false, true, running);
	}
	pfree(members);
	return ok;
}

/*
 * The settings of a flow have changed, whose row is locked: see that its members
 * stand where these would have them.  False: that is still to be done for some.
 */
static bool
settle(JobqCall *call, TupleTableSlot *flow)
{
	bool		counted = counts_members(flow);
	bool		paused = jobq_attr_bool(flow, FLOW_PAUSED);
	int64		id = jobq_attr_int64(flow, STATE_JOB_ID);
	int			running = 0;
	bool		ok = !(counted || paused) || settle_members(call, id, counted, paused, &running);
	JobqRow		new;

	jobq_values(flow, &new);
	jobq_set(&new, FLOW_RUNNING, Int32GetDatum(jobq_attr_int32(flow, FLOW_RUNNING) + running));
	jobq_set(&new, FLOW_SETTLED, BoolGetDatum(ok));
	if (!jobq_update(call, JOBQ_FLOW, flow, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed while locked", (long long) id);
	jobq_advance();
	return ok;
}

/* Letting in */

/* A canary that waits for its map */
typedef struct WaitingCanary
{
	int64		id;
	int16		priority;
} WaitingCanary;

/* For qsort(): in the order in which they are let in. */
static int
compare_canaries(const void *a, const void *b)
{
	const WaitingCanary *x = a;
	const WaitingCanary *y = b;

	if (x->priority != y->priority)
		return x->priority > y->priority ? -1 : 1;
	return x->id < y->id ? -1 : x->id > y->id;
}

/* Those that wait for a flow, in the order in which they are let in */
typedef struct InTurn
{
	JobqCall   *call;
	int64		flow;
	JobqScan   *scan;			/* NULL: canaries */
	WaitingCanary *canaries;
	int			n;
	int			next;
	TupleTableSlot *row;		/* of the latest canary */
} InTurn;

/*
 * Begin with those that wait for a flow: while it has canaries, with these alone.
 * They are found by their ids, since all the others, which can be very many, wait,
 * too.
 */
static void
in_turn_begin(InTurn *turn, JobqCall *call, TupleTableSlot *flow)
{
	int64		id = jobq_attr_int64(flow, STATE_JOB_ID);
	Datum		key = Int64GetDatum(id);
	TupleTableSlot *waiting;
	JobqScan   *scan;
	int			room = 16;

	memset(turn, 0, sizeof(InTurn));
	turn->call = call;
	turn->flow = id;
	if (slot_attisnull(flow, FLOW_CANARY_UPTO))
	{
		turn->scan = jobq_scan_begin(call, JOBQ_WAITING, INDEX_SECOND, 1, &key, NULL);
		return;
	}
	turn->canaries = palloc(room * sizeof(WaitingCanary));
	scan = jobq_scan_between(call, JOBQ_WAITING, INDEX_KEY, jobq_attr_int64(flow, FLOW_CANARY_FROM),
							 jobq_attr_int64(flow, FLOW_CANARY_UPTO), NULL);
	while ((waiting = jobq_scan_next(scan)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (jobq_attr_int64(waiting, WAITING_LIMITED_BY) != id)
			continue;
		if (turn->n == room)
			turn->canaries = repalloc_huge(turn->canaries, (room *= 2) * sizeof(WaitingCanary));
		turn->canaries[turn->n].id = jobq_attr_int64(waiting, STATE_JOB_ID);
		turn->canaries[turn->n++].priority = jobq_attr_int16(waiting, STATE_PRIORITY);
	}
	jobq_scan_end(scan);
	qsort(turn->canaries, turn->n, sizeof(WaitingCanary), compare_canaries);
}

/* The row of the next, or NULL. */
static TupleTableSlot *
in_turn_next(InTurn *turn)
{
	if (turn->scan != NULL)
		return jobq_scan_next(turn->scan);
	jobq_slot_free(turn->row);
	while (turn->next < turn->n)
	{
		turn->row = jobq_find_id(turn->call, JOBQ_WAITING, turn->canaries[turn->next++].id);
		if (turn->row != NULL && jobq_attr_int64(turn->row, WAITING_LIMITED_BY) == turn->flow)
			return turn->row;
		jobq_slot_free(turn->row);
	}
	turn->row = NULL;
	return NULL;
}

/* End. */
static void
in_turn_end(InTurn *turn)
{
	if (turn->scan != NULL)
		jobq_scan_end(turn->scan);
	else
		pfree(turn->canaries);
	jobq_slot_free(turn->row);
}

/*
 * Let in those that wait for a flow, whose row is locked, and settled; false: one was
 * passed over, since somebody has it locked.
 */
static bool
let_in(JobqCall *call, int64 flow, TupleTableSlot *row)
{
	static const JobqFlowChange none = {0};
	bool		counted = counts_members(row);
	int			room = LET_IN_AT_ONCE;
	int			n = 0;
	bool		passed_over = false;
	InTurn		turn;
	TupleTableSlot *waiting;
	JobqRow		new;

	if (!slot_attisnull(row, FLOW_PERMITS))
		room = Min(room, jobq_attr_int32(row, FLOW_PERMITS));
	if (!slot_attisnull(row, FLOW_MAX_RUNNING))
		room = Min(room, jobq_attr_int32(row, FLOW_MAX_RUNNING) - jobq_attr_int32(row, FLOW_RUNNING));

	in_turn_begin(&turn, call, row);
	while (n < room && (waiting = in_turn_next(&turn)) != NULL)
	{
		JobqPrefix	prefix;

		if (!jobq_state_leave(call, JOBQ_WAITING, waiting, LEAVE_TRY))
		{
			passed_over = true;
			continue;
		}
		jobq_read_waiting(waiting, &prefix);
		if (counted)
			prefix.slot = SLOT_GIVEN;
		(void) jobq_enter_next(call, &prefix, 0);
		n++;
	}
	in_turn_end(&turn);

	if (counted && n > 0)
	{
		jobq_values(row, &new);
		jobq_set(&new, FLOW_RUNNING, Int32GetDatum(jobq_attr_int32(row, FLOW_RUNNING) + n));
		if (new.given[FLOW_PERMITS - 1])
			jobq_set(&new, FLOW_PERMITS, Int32GetDatum(jobq_attr_int32(row, FLOW_PERMITS) - n));
		if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
			elog(ERROR, "row of flow %lld has changed while locked", (long long) flow);
	}
	/* there may be more */
	if (!passed_over && n == LET_IN_AT_ONCE)
		jobq_leave_flow_delta(call, flow, &none, true);
	return !passed_over;
}

/*
 * For the background worker, which has the flow's row locked: settle the members of a
 * flow whose settings have changed, and let in those that wait for it, as many as may
 * begin.  False: somebody has rows of some locked; a delta of nothing is left to try
 * again by.
 */
bool
jobq_let_members_in(JobqCall *call, int64 flow)
{
	static const JobqFlowChange none = {0};
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);
	bool		ok = true;

	if (row != NULL && jobq_attr_bool(row, FLOW_OPEN))
	{
		if (!jobq_attr_bool(row, FLOW_SETTLED))
		{
			ok = settle(call, row);
			jobq_slot_free(row);
			row = jobq_find_id(call, JOBQ_FLOW, flow);
		}
		if (ok && !is_paused(call, flow))
			ok = let_in(call, flow, row);
		if (!ok)
			jobq_leave_flow_delta(call, flow, &none, false);
	}
	jobq_slot_free(row);
	return ok;
}

/* Settings */

/* What job_flow_set() sets */
typedef struct Settings
{
	bool		sets_paused;
	bool		paused;
	int			permits;		/* -1: not given */
	int			max_running;	/* -1: not given; 0: no limit */
	int			on_failure;		/* -1: not given */
} Settings;

/*
 * Have the background worker look at all flows in a flow, whose row is locked.
 * Nobody opens a decided one again meanwhile: he has the rows of all flows around it
 * locked.
 */
static void
look_inside(JobqCall *call, int64 flow)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, flow, &n);

	check_stack_depth();
	for (int i = 0; i < n; i++)
	{
		CHECK_FOR_INTERRUPTS();
		if (members[i].outcome == 0 && members[i].is_flow)
		{
			look_at_flow(call, members[i].id);
			look_inside(call, members[i].id);
		}
	}
	pfree(members);
}

/* Put settings into the row of a flow. */
static void
set_settings(JobqRow *new, const Settings *s)
{
	if (s->sets_paused)
		jobq_set(new, FLOW_PAUSED, BoolGetDatum(s->paused));
	if (s->permits >= 0)
		jobq_set(new, FLOW_PERMITS, Int32GetDatum(s->permits));
	else if (s->sets_paused && !s->paused)
		new->given[FLOW_PERMITS - 1] = false;
	if (s->sets_paused && !s->paused)
		jobq_end_canaries(new);
	if (s->max_running > 0)
		jobq_set(new, FLOW_MAX_RUNNING, Int32GetDatum(s->max_running));
	else if (s->max_running == 0)
		new->given[FLOW_MAX_RUNNING - 1] = false;
	if (s->on_failure >= 0)
		jobq_set(new, FLOW_ON_FAILURE, Int16GetDatum(s->on_failure));
}

/* job_flow_set: a JobqFoundAct */
static bool
set_flow(JobqCall *call, const JobqFound *found, void *arg, const char **problem, bool *changed)
{
	const Settings *s = arg;
	TupleTableSlot *row;
	JobqRow		new;
	bool		open;
	bool		was_paused;
	bool		is_paused_now;
	bool		lower;

	if (!jobq_is_flow(found->job))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("job %lld is no flow", (long long) found->id)));
	if (found->outcome > 0)
	{
		jobq_refuse_state(problem, found->id, "set", jobq_outcome_name(found->outcome), "Flows are set while they are undecided.");
		return true;
	}
	row = jobq_find_id(call, JOBQ_FLOW, found->id);
	if (row == NULL)
		elog(ERROR, "flow %lld has no row", (long long) found->id);
	if (!jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitBlock))
	{
		jobq_slot_free(row);
		return false;
	}
	jobq_values(row, &new);
	set_settings(&new, s);
	open = jobq_attr_bool(row, FLOW_OPEN);
	was_paused = jobq_attr_bool(row, FLOW_PAUSED);
	is_paused_now = DatumGetBool(new.values[FLOW_PAUSED - 1]);
	lower = new.given[FLOW_MAX_RUNNING - 1] &&
		(slot_attisnull(row, FLOW_MAX_RUNNING) || DatumGetInt32(new.values[FLOW_MAX_RUNNING - 1]) < jobq_attr_int32(row, FLOW_MAX_RUNNING));
	if (open && (lower || (is_paused_now && !was_paused) || (new.given[FLOW_PERMITS - 1] && !counts_members(row))))
		jobq_set(&new, FLOW_SETTLED, BoolGetDatum(false));
	if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
		elog(ERROR, "row of flow %lld has changed while locked", (long long) found->id);
	jobq_slot_free(row);
	if (open)
		look_at_flow(call, found->id);
	if (open && was_paused && !is_paused_now)
		look_inside(call, found->id);
	return true;
}

PG_FUNCTION_INFO_V1(jobq_job_flow_set);

/* job_flow_set(flow, paused, permits, max_running, on_failure) */
Datum
jobq_job_flow_set(PG_FUNCTION_ARGS)
{
	int64		id = jobq_check_id(fcinfo, 0, "flow");
	Settings	s = {.permits = -1,.max_running = -1,.on_failure = -1};
	JobqCall	call;

	if (!PG_ARGISNULL(1))
	{
		s.sets_paused = true;
		s.paused = PG_GETARG_BOOL(1);
	}
	if (!PG_ARGISNULL(2) && (s.permits = PG_GETARG_INT32(2)) < 0)
		jobq_error_must("permits", "not be negative");
	if (!PG_ARGISNULL(3) && (s.max_running = PG_GETARG_INT32(3)) < 0)
		jobq_error_must("max_running", "not be negative; 0 takes the limit away");
	if (!PG_ARGISNULL(4))
	{
		char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(4));

		s.on_failure = jobq_find_on_failure(name);
		if (s.on_failure < 0)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("unrecognized value for \"on_failure\": \"%s\"", name),
					 errhint("Valid values are \"continue\", \"cancel\", \"drain\" and \"undo\".")));
	}
	jobq_enter(&call, "job_flow_set()", true);
	(void) jobq_act_on_found(&call, id, true, set_flow, &s, NULL);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}
