/*
 * news.c
 *	  What has happened at gates: what commits tell of, and what the tables say.
 *
 * Each event names what it tells of by a number that is never used again, so one that
 * comes late or twice does no harm:
 *
 *	LEFT	the row of job_ready with that position is gone, but by no claim
 *	BEGUN	that attempt of the job runs
 *	ENDED	it does not run any more
 *
 * Where events were lost all members are looked up, and job_limited is read again;
 * the sweep has the same done.
 */
#include "postgres.h"

#include "background/gatekeeper.h"

#define STEP_LOOKS		200		/* jobs that one transaction looks up */
#define PASS_BLOCKS		32		/* of job_limited, that one reads */
#define ROUND_EVENTS	4096	/* that one round takes */

static JobqFailures pass_failures;
static JobqFailures look_failures;
static JobqFailures read_failures;

/* Events */

/* Deal with what a commit tells. */
static void
hear(const JobqGateEvent *e, TimestampTz now)
{
	Gate	   *gate = jobq_get_gate(e->queue_id);
	Member	   *m = hash_search(jobq_keeper.members, &e->job_id, HASH_FIND, NULL);

	if (e->act == GATE_CHANGED)
		jobq_reopen_gate(gate);
	else if (e->act == GATE_ARRIVED)
	{
		JobqKey		key = {e->priority, e->number};

		jobq_note_row(jobq_get_line(gate, e->partition_id), e->job_id, key, now);
	}
	if (gate->phase < PASSING || jobq_gate_lets_go(gate))
	{
		/* its members are still to be read, but not what they have begun */
		if (e->act == GATE_BEGUN)
			jobq_take_token(jobq_get_line(gate, e->partition_id), now);
		return;
	}

	switch ((JobqGateAct) e->act)
	{
		case GATE_LEFT:
			if (m != NULL && m->position != 0 && m->position == e->number)
				jobq_remove_member(m, now);
			break;
		case GATE_BEGUN:
			if (m != NULL && m->position != 0 && m->attempt + 1 == e->number)
			{
				jobq_begin_member(jobq_add_member(m->line, e->job_id, 0, e->number), now);
				jobq_touch_gate(gate);
			}
			else if (m != NULL && m->position == 0 && m->attempt == e->number)
				jobq_begin_member(m, now);	/* was read before this was told */
			else
				jobq_want_look(&jobq_keeper.looks, e->job_id);
			break;
		case GATE_ENDED:
			if (m != NULL && m->position != 0 && m->attempt + 1 == e->number)
				jobq_take_token(m->line, now);	/* that it began is still to
												 * be told */
			else if (m != NULL && (m->position != 0 || m->attempt != e->number))
				break;
			if (m != NULL)
				jobq_remove_member(m, now);
			break;
		case GATE_LOOK:
			jobq_want_look(&jobq_keeper.looks, e->job_id);
			break;
		case GATE_ARRIVED:
		case GATE_CHANGED:
			break;
	}
}

/* Begin to look up all members. */
static void
begin_all_looks(void)
{
	HASH_SEQ_STATUS seq;
	Member	   *m;
	Line	   *line;

	hash_seq_init(&seq, jobq_keeper.members);
	while ((m = hash_seq_search(&seq)) != NULL)
		jobq_want_look(&jobq_keeper.all_looks, m->job_id);
	hash_seq_init(&seq, jobq_keeper.lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->turn != 0)
			jobq_want_look(&jobq_keeper.all_looks, line->turn);
		jobq_drop_idle_line(line, jobq_steady());
	}
}

/*
 * Look up all members, and read job_limited: something was not told.  Others are let in
 * meanwhile, since whoever has left untold only counts too long.
 */
void
jobq_look_at_all(void)
{
	if (jobq_keeper.all_looks.n > 0)
		jobq_keeper.all_again = true;
	else
		begin_all_looks();
	(void) jobq_want_pass();
}

/* Take what was told. */
int
jobq_hear_events(JobqDatabase *database, TimestampTz now)
{
	JobqGateEvent events[256];
	int			total = 0;
	int			n;

	do
	{
		bool		lost;

		n = jobq_gate_events_take(database, events, lengthof(events), &lost);
		for (int i = 0; i < n; i++)
			hear(&events[i], now);
		if (lost)
		{
			jobq_keeper.unknown = true;
			jobq_look_at_all();
		}
		total += n;
	} while (n == lengthof(events) && total < ROUND_EVENTS);
	return total;
}

/* Looking up */

/* What is known of a job is made what is so. */
static void
look_at(JobqCall *call, int64 job_id, TimestampTz now)
{
	JobqAdmitted a;
	int64		lane = 0;
	JobqTable	table = jobq_look_at_admitted(call, job_id, &a, &lane);
	Gate	   *gate = table != JOBQ_JOB ? hash_search(jobq_keeper.gates, &a.queue_id, HASH_FIND, NULL) : NULL;
	Member	   *m = hash_search(jobq_keeper.members, &job_id, HASH_FIND, NULL);
	bool		counts = gate != NULL && gate->phase >= PASSING && !jobq_gate_lets_go(gate) &&
	(table == JOBQ_LEASE || (table == JOBQ_READY && jobq_is_in_lane(jobq_gate_lane(lane, jobq_gate_number(gate)), a.lane)));
	Turn	   *turn = hash_search(jobq_keeper.turns, &job_id, HASH_FIND, NULL);
	Line	   *line;

	if (counts)
	{
		bool		began = a.position == 0 && (m == NULL || m->position != 0 || m->attempt != a.attempt);

		m = jobq_add_member(jobq_get_line(gate, a.partition_id), job_id, a.position, a.attempt);
		if (began)
			jobq_begin_member(m, now);
	}
	else if (m != NULL)
	{
		/* it may have begun, and ended, without that being told */
		if (m->position != 0 && (table == JOBQ_JOB || a.attempt > m->attempt))
			jobq_take_token(m->line, now);
		jobq_remove_member(m, now);
	}

	/* a job that has begun keeps its turn until it is decided */
	if (turn == NULL)
		return;
	line = turn->line;
	if (gate == line->gate && a.partition_id == line->key.partition_id && (a.attempt > 0 || counts))
		jobq_turn_waits(line, table == JOBQ_LIMITED, now);
	else
	{
		jobq_set_turn(call, line->key.queue_id, line->key.partition_id, 0);
		jobq_give_turn(line, 0);
	}
	jobq_queue_line(line, now);
}

/* Look up the last of those that are to be. */
static void
look_work(JobqCall *call, void *arg)
{
	Looks	   *l = arg;
	TimestampTz now = jobq_steady();
	int			upto = l->n;	/* it can be asked for more meanwhile */

	for (int i = Max(upto - STEP_LOOKS, 0); i < upto; i++)
		look_at(call, l->ids[i], now);
}

/* The same; what fails is tried again. */
void
jobq_do_looks(Looks *l, TimestampTz now)
{
	int			upto = l->n;
	int			from = Max(upto - STEP_LOOKS, 0);
	ErrorData  *error = jobq_worker_run(look_work, l, true);

	if (error != NULL)
	{
		jobq_keeper.failed_until = now + jobq_retry_delay(look_failures.count);
		jobq_worker_failed(&look_failures, error, "look up jobs in queues with limits", 0);
		return;
	}
	look_failures.count = 0;
	memmove(l->ids + from, l->ids + upto, (l->n - upto) * sizeof(int64));
	l->n -= upto - from;
	if (jobq_keeper.all_looks.n == 0 && jobq_keeper.all_again)
	{
		jobq_keeper.all_again = false;
		begin_all_looks();
	}
}

/* Reading job_limited, and which queues have gates */

/* A row that the pass reads. */
static bool
pass_row(TupleTableSlot *row, void *arg)
{
	JobqKey		key = {jobq_attr_int16(row, STATE_PRIORITY), jobq_attr_int64(row, READY_POSITION)};

	jobq_note_row(jobq_get_line(jobq_get_gate(jobq_attr_int64(row, STATE_QUEUE_ID)), jobq_attr_int64(row, STATE_PARTITION_ID)),
				  jobq_attr_int64(row, STATE_JOB_ID), key, *(TimestampTz *) arg);
	return true;
}

/* Read some blocks. */
static void
pass_work(JobqCall *call, void *arg)
{
	JobqFileNumber file;
	BlockNumber blocks = jobq_blocks(call, JOBQ_LIMITED, &file);
	ItemPointerData from;
	ItemPointerData upto;

	if (jobq_keeper.pass_block < blocks)
	{
		BlockNumber last = Min(jobq_keeper.pass_block + PASS_BLOCKS, blocks) - 1;

		ItemPointerSet(&from, jobq_keeper.pass_block, FirstOffsetNumber);
		ItemPointerSet(&upto, last, MaxOffsetNumber);
		jobq_read_places(call, JOBQ_LIMITED, &from, &upto, pass_row, arg);
		jobq_keeper.pass_block = last + 1;
	}
	jobq_keeper.passing = jobq_keeper.pass_block < blocks;
}

/* A step of the pass. */
void
jobq_do_pass(TimestampTz now)
{
	BlockNumber block = jobq_keeper.pass_block;
	ErrorData  *error = jobq_worker_run(pass_work, &now, true);
	HASH_SEQ_STATUS seq;
	Gate	   *gate;

	if (error != NULL)
	{
		jobq_keeper.pass_block = block;
		jobq_keeper.passing = true;
		jobq_keeper.failed_until = now + jobq_retry_delay(pass_failures.count);
		jobq_worker_failed(&pass_failures, error, "read jobs in queues with limits", 0);
		return;
	}
	pass_failures.count = 0;
	if (jobq_keeper.passing)
		return;
	jobq_keeper.pass++;
	if (jobq_keeper.pass_again)
	{
		jobq_keeper.pass_again = false;
		(void) jobq_want_pass();
	}
	hash_seq_init(&seq, jobq_keeper.gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->phase == PASSING)
			jobq_touch_gate(gate);
	}
}

/* Which queues have gates, or have had. */
static void
queues_work(JobqCall *call, void *arg)
{
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_QUEUE, INDEX_SECOND, 0, NULL, NULL);
	TupleTableSlot *row;
	HASH_SEQ_STATUS seq;
	Gate	   *gate;

	while ((row = jobq_scan_next(scan)) != NULL)
	{
		if (!slot_attisnull(row, QUEUE_GATES))
			(void) jobq_get_gate(jobq_attr_int64(row, QUEUE_ID));
	}
	jobq_scan_end(scan);

	/* that one has changed can have been told in vain */
	hash_seq_init(&seq, jobq_keeper.gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		int64	   *found;
		int			n = jobq_read_gates(call, gate->queue_id, &found);

		if (gate->ngates >= 0 && (n == 0 ? 0 : found[n - 1]) != (gate->ngates == 0 ? 0 : gate->gates[gate->ngates - 1]))
			jobq_reopen_gate(gate);
	}
	if (jobq_keeper.pass == 0)
		(void) jobq_want_pass();
	jobq_keeper.unknown = false;
}

/* The same; false: that failed. */
bool
jobq_read_gated_queues(TimestampTz now)
{
	ErrorData  *error = jobq_worker_run(queues_work, NULL, true);

	if (error != NULL)
	{
		jobq_keeper.failed_until = now + jobq_retry_delay(read_failures.count);
		jobq_worker_failed(&read_failures, error, "read which queues have limits", 0);
		return false;
	}
	read_failures.count = 0;
	return true;
}
