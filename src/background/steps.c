/*
 * steps.c
 *	  What is done at a gate, in one transaction each: it is read, the lanes of the
 *	  gates before it are emptied, and jobs are let in.
 *
 * What a step has changed in memory is what its transaction does; where that fails, the
 * gate is read anew.
 */
#include "postgres.h"

#include <math.h>

#include "background/gatekeeper.h"

#define STEP_ROWS		200		/* that one transaction moves */
#define QUEUE_AGAIN		(50 * INT64CONST(1000)) /* for a queue's row that is
												 * locked */
#define UNSEEN_AGAIN	(20 * INT64CONST(1000)) /* for jobs that open
												 * transactions run */
#define PROBE_FIRST		(50 * INT64CONST(1000)) /* for rows that came late,
												 * see probe() */
#define READY_FAIR		8		/* jobs that are kept ready, at least */
#define READY_OTHERS	512
#define READY_MOST		8192

/* A step of a gate, in a transaction */
typedef struct Step
{
	Gate	   *gate;
	TimestampTz now;
	bool		more;			/* there is more to do at once */
} Step;

/* Reading a gate */

/* Read what job_queue, job_partition and job_turn say of a gate. */
static void
read_gate(JobqCall *call, Gate *gate)
{
	JobqPartition *partitions;
	int64	   *found;
	JobqLaneSet *lanes;
	Datum		key = Int64GetDatum(gate->queue_id);
	int			n = jobq_read_partitions(call, gate->queue_id, &partitions);
	JobqScan   *scan;
	TupleTableSlot *row;

	jobq_queue_settings(call, gate->queue_id, &gate->settings);
	gate->ngates = jobq_read_gates(call, gate->queue_id, &found);
	if (gate->gates != NULL)
		pfree(gate->gates);
	gate->gates = MemoryContextAlloc(jobq_keeper.context, Max(gate->ngates, 1) * sizeof(int64));
	if (gate->ngates > 0)
		memcpy(gate->gates, found, gate->ngates * sizeof(int64));
	gate->nlanes = jobq_queue_lanes(call, gate->queue_id, NULL, &lanes);
	if (gate->lanes != NULL)
		pfree(gate->lanes);
	gate->lanes = MemoryContextAlloc(jobq_keeper.context, gate->nlanes * sizeof(JobqLaneSet));
	memcpy(gate->lanes, lanes, gate->nlanes * sizeof(JobqLaneSet));
	gate->emptying = 0;
	gate->emptied.lane = 0;
	gate->found = false;
	gate->keep_ready = gate->settings.fair ? READY_FAIR : READY_OTHERS;
	for (int i = 0; i < n; i++)
	{
		Line	   *line = jobq_get_line(gate, partitions[i].partition_id);

		line->paused = partitions[i].paused;
		line->weight = partitions[i].weight;
		line->max_running = partitions[i].max_running;
	}
	if (!gate->settings.ordered)
		return;
	scan = jobq_scan_begin(call, JOBQ_TURN, INDEX_KEY, 1, &key, NULL);
	while ((row = jobq_scan_next(scan)) != NULL)
	{
		Line	   *line = jobq_get_line(gate, jobq_attr_int64(row, TURN_PARTITION_ID));

		jobq_give_turn(line, jobq_attr_int64(row, TURN_JOB_ID));
		jobq_want_look(&jobq_keeper.looks, line->turn);
	}
	jobq_scan_end(scan);
}

/* Emptying the lanes of those before it */

/* Try again what was locked in the lane that is being emptied; returns how many were tried. */
static int
empty_kept(JobqCall *call, Step *step, int64 lane, int64 number)
{
	Gate	   *gate = step->gate;
	int			n = 0;

	while (n < STEP_ROWS && !pairingheap_is_empty(&gate->kept))
	{
		Kept	   *k = pairingheap_container(Kept, timer, pairingheap_first(&gate->kept));

		if (k->at > step->now)
			break;
		if (jobq_empty_job(call, k->job_id, lane, number) == TRIED_LOCKED)
			jobq_kept_is_locked(k, step->now);
		else
			jobq_forget_kept(NULL, k->job_id);
		n++;
	}
	return n;
}

/*
 * Empty the lanes of the gates before this one, as far as one step does.  A lane is
 * empty when a look at it from its beginning has found no row.  What is locked is
 * kept aside, and the next look begins when all of that has gone.  A job that was made
 * ready and claimed by a transaction which is open still was in no lane that we see:
 * that is waited for at the end.
 */
static void
empty_lanes(JobqCall *call, Step *step)
{
	Gate	   *gate = step->gate;
	int			lanes = (gate->ngates - 1) * gate->nlanes;
	int			left = STEP_ROWS;
	JobqLocked	locked;

	while (gate->emptying < lanes && left > 0)
	{
		int64		number = gate->gates[gate->emptying / gate->nlanes];
		int64		lane = gate->lanes[gate->emptying % gate->nlanes].lane;
		int			n;

		left -= empty_kept(call, step, lane, number);
		if (left <= 0)
			break;
		if (gate->emptied.lane == 0 && !pairingheap_is_empty(&gate->kept))
			return;				/* until these are to be tried again */
		n = jobq_empty_lane(call, lane, number, left, &gate->emptied, &locked);
		jobq_keep_locked(gate, NULL, &locked, step->now);
		left -= n;
		gate->found |= n > 0 || locked.n > 0;
		if (gate->emptied.lane != 0)
			break;				/* there is more in this lane */
		if (!gate->found)
			gate->emptying++;
		gate->found = false;
	}
	if (gate->emptying < lanes)
		step->more = true;
	else if (gate->ngates > 1 && jobq_runs_unseen(call, gate->queue_id))
		gate->at = Min(gate->at, step->now + UNSEEN_AGAIN);
	else
	{
		gate->phase = READING;
		step->more = true;
	}
}

/* Forget the gates before this one, whose lanes are empty. */
static void
forget_gates(JobqCall *call, Step *step)
{
	Gate	   *gate = step->gate;
	int64		latest = gate->gates[gate->ngates - 1];

	if (jobq_gates_emptied(call, gate->queue_id, latest))
	{
		gate->gates[0] = latest;
		gate->ngates = 1;
	}
	else
		gate->at = Min(gate->at, step->now + QUEUE_AGAIN);
}

/* Reading its members */

/* A job that runs, or is ready in the lane of a gate that is being read */
static void
read_member(const JobqAdmitted *a, void *arg)
{
	Gate	   *gate = hash_search(jobq_keeper.gates, &a->queue_id, HASH_FIND, NULL);
	Line	   *line;

	if (gate == NULL || gate->phase != READING || jobq_gate_lets_go(gate))
		return;
	line = jobq_get_line(gate, a->partition_id);
	(void) jobq_add_member(line, a->job_id, a->position, a->attempt);

	/* one that has begun before the queue was ordered has the turn */
	if (gate->settings.ordered && a->partition_id != 0 && a->position == 0 && line->turn == 0)
	{
		jobq_set_turn(arg, a->queue_id, a->partition_id, a->job_id);
		jobq_give_turn(line, a->job_id);
	}
}

/* Read the members of all gates that are to be. */
static void
read_members(JobqCall *call)
{
	int64	   *lanes = NULL;
	int			n = 0;
	HASH_SEQ_STATUS seq;
	Gate	   *gate;

	hash_seq_init(&seq, jobq_keeper.gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->phase == READING && !jobq_gate_lets_go(gate))
		{
			lanes = lanes ? repalloc(lanes, (n + gate->nlanes) * sizeof(int64)) : palloc(gate->nlanes * sizeof(int64));
			for (int i = 0; i < gate->nlanes; i++)
				lanes[n++] = jobq_gate_lane(gate->lanes[i].lane, jobq_gate_number(gate));
		}
	}
	if (n > 0)
		jobq_read_admitted(call, n, lanes, read_member, call);
	hash_seq_init(&seq, jobq_keeper.gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->phase != READING)
			continue;
		gate->phase = PASSING;
		jobq_touch_gate(gate);
	}
}

/* Letting in */

/* How many jobs can be let in, as far as the queue is concerned. */
static int
gate_room(Gate *gate, TimestampTz now)
{
	const JobqQueue *q = &gate->settings;
	double		room = gate->keep_ready - gate->nready;

	if (jobq_gate_lets_go(gate))
		return INT_MAX;
	if (q->max_running > 0)
		room = Min(room, q->max_running - gate->nmembers);
	if (q->rate > 0 && room >= 1)
	{
		room = Min(room, floor(jobq_tokens(&gate->bucket, q->rate, q->rate_interval, now)) - gate->nready);
		if (room < 1)
			gate->at = Min(gate->at, jobq_next_token(&gate->bucket, gate->nready, q->rate, q->rate_interval));
	}
	return Max(room, 0);
}

/* How many jobs are kept ready: enough for what is claimed until the next step, and few enough for turns. */
static void
adapt_ready(Gate *gate)
{
	int			least = gate->settings.fair ? READY_FAIR : READY_OTHERS;

	gate->keep_ready = Max(gate->keep_ready * 0.95, 2.0 * gate->begun);
	gate->keep_ready = Max(Min(gate->keep_ready, READY_MOST), least);
	gate->begun = 0;
}

/* Let in a job of a line that was kept aside, if that is possible now; returns how many were. */
static int
serve_kept(JobqCall *call, Step *step, Kept *k, const JobqOrder *order, JobqAdmitted *in)
{
	Line	   *line = k->line;
	bool		turn = line->turn_waits;
	JobqTried	tried = jobq_let_in_job(call, order, k->job_id, turn ? NULL : &k->key, jobq_gate_number(line->gate),
										jobq_line_is_ordered(line) && !turn, in);

	if (tried == TRIED_LOCKED)
		jobq_kept_is_locked(k, step->now);
	else if (tried == TRIED_GONE && turn)
	{
		/* it has left the line, and may keep its turn */
		jobq_want_look(&jobq_keeper.looks, line->turn);
		jobq_turn_waits(line, false, step->now);
	}
	else if (tried == TRIED_GONE)
		jobq_forget_kept(line, k->job_id);
	return tried == TRIED_DONE;
}

/* Let jobs of a line in; returns how many. */
static int
serve_line(JobqCall *call, Step *step, Line *line, int room)
{
	Gate	   *gate = step->gate;
	JobqOrder	order = {JOBQ_LIMITED, 2, {line->key.queue_id, line->key.partition_id}};
	Kept	   *k = jobq_first_kept(line);
	JobqAdmitted in[STEP_ROWS];
	TimestampTz at;
	int			n;

	room = Min(room, jobq_line_room(line, step->now, &at));
	if (room <= 0)
		return 0;
	if (k != NULL && k->due && jobq_compare_keys(k->key, line->head) <= 0)
		n = serve_kept(call, step, k, &order, in);
	else
	{
		JobqKey		limit = jobq_key_last;
		JobqKey		next;
		JobqLocked	locked;

		if (gate->settings.fair)
			room = 1;
		else if (!pairingheap_is_empty(&gate->lines))
			limit = jobq_first_key(pairingheap_container(Line, node, pairingheap_first(&gate->lines)));
		if (k != NULL && (k->due || jobq_line_is_ordered(line)) && jobq_compare_keys(k->key, limit) < 0)
			limit = k->key;
		n = jobq_let_in_line(call, &order, line->floors, jobq_gate_number(gate), jobq_line_is_ordered(line), Min(room, STEP_ROWS),
							 limit, in, &next, &locked);
		jobq_pass_rows(line, next);
		jobq_keep_locked(gate, line, &locked, step->now);
	}
	for (int i = 0; i < n; i++)
	{
		jobq_forget_kept(line, in[i].job_id);
		if (!jobq_gate_lets_go(gate))
			(void) jobq_add_member(line, in[i].job_id, in[i].position, in[i].attempt);
	}
	if (jobq_line_is_ordered(line) && n > 0)
		jobq_give_turn(line, in[0].job_id);
	gate->had = line->had;
	line->had += (double) n / line->weight;
	return n;
}

/* Let jobs in, up to what one step does. */
static void
let_in(JobqCall *call, Step *step)
{
	Gate	   *gate = step->gate;
	int			left = STEP_ROWS;
	int			room;

	adapt_ready(gate);
	room = gate_room(gate, step->now);
	while (room > 0 && left > 0 && !pairingheap_is_empty(&gate->lines))
	{
		Line	   *line = pairingheap_container(Line, node, pairingheap_first(&gate->lines));
		int			n;

		jobq_unqueue_line(line);
		n = serve_line(call, step, line, Min(room, left));
		room -= n;
		left -= Max(n, 1);
		jobq_queue_line(line, step->now);
		jobq_drop_idle_line(line, step->now);
	}
	step->more = room > 0 && !pairingheap_is_empty(&gate->lines);
}

/* The step */

/*
 * Look for what transactions do that have seen the queue without its gate: rows that
 * come late into its lanes, and members that leave untold.
 */
static void
probe(JobqCall *call, Step *step)
{
	Gate	   *gate = step->gate;
	JobqLaneSet *lanes;
	int			nlanes = jobq_queue_lanes(call, gate->queue_id, NULL, &lanes);
	JobqLocked	locked;			/* for the next time */
	HASH_SEQ_STATUS seq;
	Member	   *m;
	int			n = 0;

	for (int i = 0; i < nlanes && n < STEP_ROWS; i++)
	{
		JobqEmptied at = {0};

		n += jobq_empty_lane(call, lanes[i].lane, 0, STEP_ROWS - n, &at, &locked);
	}
	hash_seq_init(&seq, jobq_keeper.members);
	while ((m = hash_seq_search(&seq)) != NULL)
	{
		if (m->line->gate == gate)
			jobq_want_look(&jobq_keeper.all_looks, m->job_id);
	}
	gate->probe_after = n > 0 ? PROBE_FIRST : Min(gate->probe_after * 2, jobq_sweep_interval_ms * INT64CONST(1000));
	gate->probe_at = step->now + gate->probe_after;
}

/* Do what there is to do at a gate. */
static void
step_work(JobqCall *call, void *arg)
{
	Step	   *step = arg;
	Gate	   *gate = step->gate;

	if (gate->ngates < 0)
		read_gate(call, gate);
	if (gate->ngates > 1 && gate->phase != EMPTYING)
		forget_gates(call, step);
	switch (gate->phase)
	{
		case EMPTYING:
			empty_lanes(call, step);
			break;
		case READING:
			read_members(call);
			break;
		case PASSING:
		case OPEN:
			if (!jobq_gate_lets_go(gate) && gate->probe_at <= step->now)
				probe(call, step);
			let_in(call, step);
			break;
	}
}

/* Do a step at a gate. */
void
jobq_gate_step(Gate *gate)
{
	Step		step = {.gate = gate,.now = jobq_steady()};
	ErrorData  *error;

	gate->dirty = false;
	if (gate->at <= step.now)
		gate->at = DT_NOEND;
	if (gate->phase == OPEN)
		jobq_queue_timed_lines(gate, step.now);
	if (gate->phase == PASSING && jobq_keeper.pass >= gate->pass)
	{
		gate->phase = OPEN;
		gate->probe_after = PROBE_FIRST;
		gate->probe_at = step.now;
		jobq_queue_lines(gate, step.now);
	}
	if (gate->phase == PASSING)
		return;
	error = jobq_worker_run(step_work, &step, true);
	if (error != NULL)
	{
		jobq_reopen_gate(gate);
		gate->pass = jobq_want_pass();
		gate->dirty = false;
		gate->at = step.now + jobq_retry_delay(gate->failures.count);
		jobq_worker_failed(&gate->failures, error, "let jobs in", 0);
		return;
	}
	gate->failures.count = 0;
	if (step.more || gate->phase == READING)
		jobq_touch_gate(gate);
	else
		(void) jobq_drop_gate_if_gone(gate);
}
