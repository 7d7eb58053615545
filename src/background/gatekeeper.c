/*
 * gatekeeper.c
 *	  Which jobs of gated queues may be claimed: limits, order, rates and turns.
 *
 * It is a part of the background worker, so what it decides it decides in sequence,
 * and what it knows is in its own memory:
 *
 *	Gate	a queue that has, or has had, a gate
 *	Line	the jobs of one partition of it that wait (job_limited), and its share
 *			of the members; jobs without a partition are a line, too
 *	Member	a job that was let in and has not left: ready in the gate's lane, or
 *			running
 *
 * A gate that is new or has changed goes through three phases.  First the lanes of
 * the gates before it are emptied.  Then its members are read, under one snapshot,
 * and a pass over job_limited begins that is to show its lines.  When that has ended
 * it is open.  From there on the events that commits leave (shared/gate.c) keep lines
 * and members as the tables are (news.c).  Whatever fails has its gate read anew.
 *
 * A crash leaves nothing: the next worker begins with no gate at all.
 */
#include "postgres.h"

#include "utils/backend_status.h"

#include "background/gatekeeper.h"

#define ROUND_USECS		(10 * INT64CONST(1000)) /* after which others have
												 * their turn */
#define PAUSE_EVENTS	16		/* of one round, for which it pauses after it */

/* Something changed that was not announced, or may have. */
void
jobq_gatekeeper_sweep(void)
{
	if (!jobq_keeper.unknown)
		jobq_look_at_all();
	jobq_keeper.unknown = true;
}

/* When there is something to do at a gate, by the clock. */
static TimestampTz
gate_at(Gate *gate)
{
	TimestampTz at = gate->at;

	if (gate->phase == OPEN && !jobq_gate_lets_go(gate))
		at = Min(at, gate->probe_at);
	if (!pairingheap_is_empty(&gate->timers))
		at = Min(at, pairingheap_container(Line, timer, pairingheap_first(&gate->timers))->again_at);
	if (!pairingheap_is_empty(&gate->kept))
		at = Min(at, pairingheap_container(Kept, timer, pairingheap_first(&gate->kept))->at);
	return at;
}

/* Is there something to do at once? */
static bool
work_left(void)
{
	return jobq_keeper.changed || jobq_keeper.passing || jobq_keeper.looks.n > 0 || jobq_keeper.all_looks.n > 0;
}

/* Do what there is to do, for some milliseconds; true if there is more. */
bool
jobq_gatekeeper_round(JobqDatabase *database, bool *pause)
{
	TimestampTz now = jobq_steady();
	TimestampTz until = now + ROUND_USECS;
	HASH_SEQ_STATUS seq;
	Gate	   *gate;
	Gate	  **due;
	int			n = 0;

	*pause = false;
	if (pg_atomic_read_u32(&database->gate_events) != 0)
		*pause = jobq_hear_events(database, now) >= PAUSE_EVENTS;
	if (jobq_keeper.failed_until > now)
		return false;
	if (jobq_keeper.unknown && !jobq_read_gated_queues(now))
		return false;
	while (jobq_keeper.looks.n > 0 && jobq_keeper.failed_until <= now && jobq_steady() < until && !jobq_worker_must_leave())
		jobq_do_looks(&jobq_keeper.looks, now);
	if (jobq_keeper.all_looks.n > 0 && jobq_keeper.failed_until <= now)
		jobq_do_looks(&jobq_keeper.all_looks, now);
	if (jobq_keeper.passing && jobq_keeper.failed_until <= now)
		jobq_do_pass(now);
	due = palloc(hash_get_num_entries(jobq_keeper.gates) * sizeof(Gate *));
	hash_seq_init(&seq, jobq_keeper.gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->dirty || gate_at(gate) <= now)
			due[n++] = gate;
	}
	jobq_keeper.changed = false;
	for (int i = 0; i < n; i++)
	{
		if (jobq_keeper.looks.n > 0 || jobq_steady() >= until || jobq_worker_must_leave())
			jobq_touch_gate(due[i]);
		else
			jobq_gate_step(due[i]);
	}
	return work_left();
}

/* When there is something to do next, by jobq_steady(). */
TimestampTz
jobq_gatekeeper_next(void)
{
	TimestampTz at = work_left() || jobq_keeper.unknown ? jobq_keeper.failed_until : DT_NOEND;
	HASH_SEQ_STATUS seq;
	Gate	   *gate;

	hash_seq_init(&seq, jobq_keeper.gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		at = Min(at, gate_at(gate));
	}
	return Max(at, jobq_keeper.failed_until);
}
