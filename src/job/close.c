/*
 * close.c
 *	  How a flow ends: what its members come to, and what stops them.
 *
 * The background worker folds the deltas of a flow into its row, with that locked.  Then the flow is
 * closed, if all of its members are decided, is stopped, if one has failed that must not, or
 * lets members in (flowlimit.c).  member.c has the invariants.
 */
#include "postgres.h"

#include <math.h>

#include "miscadmin.h"
#include "utils/builtins.h"

#include "job/job.h"

#define SHOWN_NAMES		8		/* of a path of members, in an error */

/*
 * May a flow that is due start?  Its row is locked, so that its settings are the same
 * to the end of that.  False: somebody has it locked.
 */
bool
jobq_lock_to_start(JobqCall *call, int64 id)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		ok = row == NULL || jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitSkip);

	jobq_slot_free(row);
	return ok;
}

/* May deltas of this flow be folded?  Its row, if it is open, is locked for that. */
bool
jobq_lock_to_fold(JobqCall *call, int64 id)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		ok = row == NULL || !jobq_attr_bool(row, FLOW_OPEN) ||
	jobq_lock(call, JOBQ_FLOW, row, LockTupleNoKeyExclusive, LockWaitSkip);

	jobq_slot_free(row);
	return ok;
}

/* What the members of a flow say of themselves. */
void
jobq_count_members(JobqCall *call, int64 id, JobqCounters *c)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, id, &n);

	memset(c, 0, sizeof(JobqCounters));
	for (int i = 0; i < n; i++)
	{
		jobq_count_member(c, members[i].critical, 0, 1);
		if (members[i].outcome != 0)
			jobq_count_member(c, members[i].critical, members[i].outcome, 1);
	}
	pfree(members);
}

/*
 * A flow's row is locked: is it to be closed once these are added to its counters?
 * Then its row in job is locked, too; false: somebody else has that.
 */
bool
jobq_prepare_to_close(JobqCall *call, int64 id, const JobqFlowChange *change, bool *closes)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	TupleTableSlot *job;
	JobqCounters c;
	JobqCounters members;
	bool		ok = true;

	*closes = false;
	if (row != NULL && jobq_attr_bool(row, FLOW_OPEN))
	{
		jobq_read_counters(row, FLOW_UNDECIDED, &c);
		jobq_add_counters(&c, &change->c);
		if (c.n[UNDECIDED] == 0)
		{
			jobq_count_members(call, id, &members);
			*closes = memcmp(&c, &members, sizeof(JobqCounters)) == 0;
		}
	}
	jobq_slot_free(row);
	if (*closes)
	{
		job = jobq_find_id(call, JOBQ_JOB, id);
		ok = job == NULL || (jobq_lock(call, JOBQ_JOB, job, LockTupleNoKeyExclusive, LockWaitSkip) && jobq_lock_key(call, job));
		jobq_slot_free(job);
	}
	return ok;
}

/* What a key of a flow's definition says; false: nothing. */
static bool
defines(TupleTableSlot *row, const char *key, JsonbValue *v)
{
	bool		isnull;
	Jsonb	   *definition = DatumGetJsonbP(slot_getattr(row, FLOW_DEFINITION, &isnull));

	return getKeyJsonValueFromContainer(&definition->root, key, strlen(key), v) != NULL && v->type != jbvNull;
}

/*
 * The result of a map that has succeeded: those of its items, in order, null for one
 * that has none, or one that is too deep.  NULL: they are too large for one value.
 */
static Jsonb *
map_result(JobqCall *call, int64 id)
{
	Size		room = (Size) JOBQ_MAX_FLOW_MB * 1024 * 1024;
	int			n;
	JobqMember *items = jobq_read_flow_members(call, id, &n);
	JsonbParseState *state = NULL;
	JsonbValue *done;

	pushJsonbValue(&state, WJB_BEGIN_ARRAY, NULL);
	for (int i = 0; i < n; i++)
	{
		TupleTableSlot *job = jobq_need_job(call, items[i].id);
		JsonbValue	v = {.type = jbvNull};
		Jsonb	   *result = NULL;
		bool		isnull;
		Datum		value = slot_getattr(job, JOB_RESULT, &isnull);

		CHECK_FOR_INTERRUPTS();
		if (!isnull)
		{
			result = DatumGetJsonbPCopy(value);
			if (VARSIZE(result) > room)
				return NULL;
			room -= VARSIZE(result);
			if (JB_ROOT_IS_SCALAR(result))
				(void) JsonbExtractScalar(&result->root, &v);
			else if (!jobq_is_deep(&result->root))
			{
				v.type = jbvBinary;
				v.val.binary.data = &result->root;
				v.val.binary.len = VARSIZE(result) - VARHDRSZ;
			}
		}
		pushJsonbValue(&state, WJB_ELEM, &v);
		jobq_slot_free(job);
	}
	done = pushJsonbValue(&state, WJB_END_ARRAY, NULL);
	pfree(items);
	return JsonbValueToJsonb(done);
}

/* The result of a flow that has succeeded, by what its definition refers to; NULL: none. */
static Jsonb *
flow_result(JobqCall *call, int64 id, TupleTableSlot *row)
{
	JsonbValue	v;

	if (defines(row, "map", &v))
		return map_result(call, id);
	return defines(row, "result", &v) ? jobq_resolve_references(call, id, JsonbValueToJsonb(&v)) : NULL;
}

/* How many items of a map must succeed, of n that are not skipped; -1: it does not say. */
static int
items_needed(TupleTableSlot *row, int n)
{
	bool		isnull;
	Datum		part = slot_getattr(row, FLOW_MIN_SUCCESS, &isnull);

	/* 0.07 of 100 are not 8 */
	return isnull ? -1 : (int) ceil(DatumGetFloat8(part) * n - 1e-6);
}

/*
 * What became of the canaries of a map: *failed: one did not succeed; *passed: all
 * have, or were skipped.  Each fold asks, so the other items, which can be very many,
 * are not read; between the ids of the canaries are those of jobs that others have
 * submitted meanwhile.
 */
static void
look_at_canaries(JobqCall *call, TupleTableSlot *row, bool *failed, bool *passed)
{
	int64		id = jobq_attr_int64(row, STATE_JOB_ID);
	JobqScan   *scan = jobq_scan_between(call, JOBQ_JOB, INDEX_KEY, jobq_attr_int64(row, FLOW_CANARY_FROM),
										 jobq_attr_int64(row, FLOW_CANARY_UPTO), NULL);
	TupleTableSlot *job;

	*failed = false;
	*passed = true;
	while (!*failed && (job = jobq_scan_next(scan)) != NULL)
	{
		int			outcome = jobq_attr_int16(job, JOB_OUTCOME);

		CHECK_FOR_INTERRUPTS();
		if (jobq_attr_int64(job, JOB_FLOW) != id)
			continue;
		*failed = (outcome & OUTCOME_HURTS) != 0;
		*passed &= (outcome & (OUTCOME_SUCCEEDED | OUTCOME_SKIPPED)) != 0;
	}
	jobq_scan_end(scan);
}

/* Has a flow failed, or will it, by what its members are? */
static bool
is_failing(TupleTableSlot *row, const JobqCounters *c)
{
	int			needed;

	/* those that hurt, and no others, can keep a map from that */
	if (c->n[HURT] == 0)
		return false;
	needed = items_needed(row, c->n[UNDECIDED] + c->n[HITS] + c->n[HURT]);
	return needed >= 0 ? c->n[UNDECIDED] + c->n[HITS] < needed : c->n[VIOLATED] > 0;
}

/*
 * The first critical member of a flow that ran and failed, else the first that could
 * not run; false: there is neither.
 */
static bool
find_failed(JobqCall *call, int64 flow, JobqMember *found)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, flow, &n);

	found->id = 0;
	for (int i = 0; i < n && (found->id == 0 || found->outcome != OUTCOME_FAILED); i++)
	{
		if (members[i].critical &&
			(members[i].outcome == OUTCOME_FAILED || (members[i].outcome == OUTCOME_UPSTREAM_FAILED && found->id == 0)))
			*found = members[i];
	}
	pfree(members);
	return found->id != 0;
}

/* Has a flow failed by what became of its members? */
static bool
failed_by_members(JobqCall *call, int64 flow)
{
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, flow);
	bool		yes = row != NULL && jobq_attr_int16(row, FLOW_STOPPING) != STOP_TIMED_OUT;

	jobq_slot_free(row);
	return yes;
}

/* Names of members, each of a flow in that before; of very many the first ones and the last. */
static char *
join_names(const List *names)
{
	StringInfoData path;
	int			n = list_length(names);

	initStringInfo(&path);
	for (int i = 0; i < n; i++)
	{
		if (n > SHOWN_NAMES && i >= SHOWN_NAMES / 2 && i < n - SHOWN_NAMES / 2)
		{
			appendStringInfoString(&path, i == SHOWN_NAMES / 2 ? "/..." : "");
			continue;
		}
		appendStringInfo(&path, "%s%s", i > 0 ? "/" : "", (const char *) list_nth(names, i));
	}
	return path.data;
}

/*
 * Why a flow has failed: its first critical member that did and, if that is a flow
 * which failed by a member of its own, that one, and so on; else the first that could
 * not run.  NULL: there is none.
 */
static char *
first_failure(JobqCall *call, int64 id)
{
	List	   *names = NIL;
	JobqMember	first;
	JobqMember	next = {.is_flow = true,.outcome = OUTCOME_FAILED,.id = id};

	do
	{
		TupleTableSlot *job;

		first = next;
		if (!find_failed(call, first.id, &next))
			break;
		job = jobq_need_job(call, next.id);
		names = lappend(names, jobq_attr_cstring(job, slot_attisnull(job, JOB_NAME) ? JOB_KIND : JOB_NAME));
		jobq_slot_free(job);
		first = next;
	} while (first.is_flow && first.outcome == OUTCOME_FAILED && failed_by_members(call, first.id));
	if (names == NIL)
		return NULL;
	return psprintf("member \"%s\", job %lld, %s", join_names(names), (long long) first.id,
					first.outcome == OUTCOME_FAILED ? "failed" : "could not run, since what it depends on did not succeed");
}

/* The same, with how many items of a map have succeeded, where that is what matters. */
static char *
why_failed(JobqCall *call, int64 id, TupleTableSlot *row, const JobqCounters *c, bool canary)
{
	int			n = c->n[HITS] + c->n[HURT];
	int			needed = items_needed(row, n);
	char	   *first = first_failure(call, id);

	if (canary)
		return psprintf("a canary did not succeed%s%s", first != NULL ? ": " : "", first != NULL ? first : "");
	if (needed < 0)
		return first;
	return psprintf("%d of %d items succeeded, and %d must%s%s", c->n[HITS], n, needed,
					first != NULL ? "; " : "", first != NULL ? first : "");
}

/* Was a member of a flow cancelled? */
static bool
has_cancelled_member(JobqCall *call, int64 id)
{
	int			n;
	JobqMember *members = jobq_read_flow_members(call, id, &n);
	bool		found = false;

	for (int i = 0; i < n && !found; i++)
		found = members[i].outcome == OUTCOME_CANCELLED;
	pfree(members);
	return found;
}

void		(*jobq_undo_failed_flow) (JobqCall *call, int64 id, char **problem) = NULL;

/*
 * Decide a flow whose members are all decided, and whose rows are locked; undo it, if
 * it has failed and wants that.
 */
static void
close_flow(JobqCascade *cascade, TupleTableSlot *row, const JobqCounters *c, bool canary_failed)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	JobqDecision decision = {.attempt_outcome = -1};
	JobqPrefix	prefix;
	Jsonb	   *result;

	JobqStop	why = jobq_attr_int16(row, FLOW_STOPPING);

	jobq_read_prefix(row, &prefix);
	if (why == STOP_CANCELLED || why == STOP_TIMED_OUT)
	{
		decision.outcome = why == STOP_CANCELLED ? OUTCOME_CANCELLED : OUTCOME_FAILED;
		decision.error = jobq_attr_cstring(row, FLOW_STOP_REASON);
	}
	else if (canary_failed || why == STOP_FAILED || is_failing(row, c))
	{
		decision.outcome = OUTCOME_FAILED;
		decision.error = why_failed(call, prefix.job_id, row, c, canary_failed || (why == STOP_FAILED && !slot_attisnull(row, FLOW_CANARY)));
	}
	else if (why == STOP_DRAINS && has_cancelled_member(call, prefix.job_id))
	{
		/* since a flow around it drains */
		decision.outcome = OUTCOME_CANCELLED;
		decision.error = jobq_attr_cstring(row, FLOW_STOP_REASON);
	}
	else
	{
		decision.outcome = OUTCOME_SUCCEEDED;
		result = flow_result(call, prefix.job_id, row);
		decision.has_result = result != NULL;
		decision.result = JsonbPGetDatum(result);
	}
	if (decision.outcome == OUTCOME_FAILED && jobq_attr_int16(row, FLOW_ON_FAILURE) == ON_FAILURE_UNDO)
	{
		char	   *problem = NULL;

		jobq_advance();
		jobq_undo_failed_flow(call, prefix.job_id, &problem);
		if (problem != NULL)
			decision.error = psprintf("%s; it could not be undone: %s", decision.error != NULL ? decision.error : "it has failed", problem);
		jobq_advance();
	}
	jobq_decide(cascade, &prefix, &decision);
}

/*
 * Ask for the cancellation of all members of a flow that are undecided, or of those
 * that have not begun (STOP_DRAINS), and mark its row with why, which says how the
 * flow will end.  That is done once; only one that stops since a member failed can
 * still be cancelled, or time out.  False: somebody has the row locked.
 */
bool
jobq_stop_flow(JobqCall *call, TupleTableSlot *flow, JobqStop why, const char *reason)
{
	JobqRow		new;
	JobqMember *members;
	int			n;

	if (jobq_attr_int16(flow, FLOW_STOPPING) > STOP_FAILED || jobq_attr_int16(flow, FLOW_STOPPING) >= (int) why)
		return true;
	jobq_values(flow, &new);
	jobq_set(&new, FLOW_STOPPING, Int16GetDatum(why));
	jobq_set_text(&new, FLOW_STOP_REASON, reason);
	/* its timeout, once over, has no row in job_expiry any more */
	if (why > STOP_FAILED)
		new.given[STATE_EXPIRES_AT - 1] = false;
	if (!jobq_update(call, JOBQ_FLOW, flow, &new, LockWaitSkip))
		return false;
	if (jobq_attr_int16(flow, FLOW_STOPPING) > STOP_DRAINS)
		return true;

	/* what is downstream first, or it would be decided by what is upstream */
	members = jobq_read_flow_members(call, jobq_attr_int64(flow, STATE_JOB_ID), &n);
	while (n-- > 0)
	{
		CHECK_FOR_INTERRUPTS();
		if (members[n].outcome == 0)
			jobq_request_cancel(call, members[n].id, members[n].generation, why == STOP_DRAINS, reason);
	}
	pfree(members);
	return true;
}

/* When a critical member of a flow has failed, are the others to stop, and how? */
static JobqStop
stop_on_failure(TupleTableSlot *flow)
{
	switch ((JobqOnFailure) jobq_attr_int16(flow, FLOW_ON_FAILURE))
	{
		case ON_FAILURE_CONTINUE:
			break;
		case ON_FAILURE_CANCEL:
			return STOP_FAILED;
		case ON_FAILURE_DRAIN:
		case ON_FAILURE_UNDO:
			return STOP_DRAINS;
	}
	return STOP_NOT;
}

/*
 * Add what deltas say to the counters of a flow, whose row is locked, and close it if
 * that was prepared, else let members in that wait for it.  False: some of them are
 * still to be let in.
 */
bool
jobq_fold_flow(JobqCascade *cascade, int64 id, const JobqFlowChange *change, bool closes)
{
	JobqCall   *call = jobq_cascade_call(cascade);
	TupleTableSlot *row = jobq_find_id(call, JOBQ_FLOW, id);
	bool		done = true;
	JobqCounters c;
	JobqRow		new;
	JobqStop	why;
	bool		canary_failed = false;
	bool		canaries_passed = false;

	if (row != NULL && jobq_attr_bool(row, FLOW_OPEN))
	{
		jobq_read_counters(row, FLOW_UNDECIDED, &c);
		jobq_add_counters(&c, &change->c);
		jobq_values(row, &new);
		jobq_set_counters(&new, FLOW_UNDECIDED, &c);
		jobq_set(&new, FLOW_RUNNING, Int32GetDatum(jobq_attr_int32(row, FLOW_RUNNING) + change->running));
		if (new.given[FLOW_PERMITS - 1])
			jobq_set(&new, FLOW_PERMITS, Int32GetDatum(jobq_add_permits(jobq_attr_int32(row, FLOW_PERMITS), change->permits)));
		jobq_set(&new, FLOW_OPEN, BoolGetDatum(!closes));
		if (new.given[FLOW_CANARY - 1])
			look_at_canaries(call, row, &canary_failed, &canaries_passed);
		if (canaries_passed)
			jobq_end_canaries(&new);
		if (!jobq_update(call, JOBQ_FLOW, row, &new, LockWaitBlock))
			elog(ERROR, "row of flow %lld has changed while locked", (long long) id);
		if (jobq_attr_int16(row, FLOW_STOPPING) != STOP_NOT)
			why = STOP_NOT;
		else if (canary_failed)
			why = STOP_FAILED;
		else
			why = stop_on_failure(row) != STOP_NOT && is_failing(row, &c) ? stop_on_failure(row) : STOP_NOT;
		if (closes)
			close_flow(cascade, row, &c, canary_failed);
		else if (why != STOP_NOT)
		{
			TupleTableSlot *latest;

			jobq_advance();
			latest = jobq_find_id(call, JOBQ_FLOW, id);
			if (!jobq_stop_flow(call, latest, why, canary_failed ? "a canary did not succeed" : "another member of its flow failed"))
				elog(ERROR, "row of flow %lld has changed while locked", (long long) id);
			jobq_slot_free(latest);
		}
		else if (jobq_attr_int16(row, FLOW_STOPPING) == STOP_NOT)
		{
			jobq_advance();
			done = jobq_let_members_in(call, id);
		}
	}
	jobq_slot_free(row);
	return done;
}
