/*
 * gates.c
 *	  The gates, and their members: who was let in and has not left.
 */
#include "postgres.h"

#include "utils/memutils.h"

#include "background/gatekeeper.h"

Gatekeeper	jobq_keeper = {.unknown = true};

/* Memory */

/* Forget everything. */
void
jobq_gatekeeper_restart(void)
{
	HASHCTL		ctl = {0};

	if (jobq_keeper.context == NULL)
		jobq_keeper.context = AllocSetContextCreate(TopMemoryContext, "jobq gatekeeper", ALLOCSET_DEFAULT_SIZES);
	else
		MemoryContextReset(jobq_keeper.context);
	ctl.hcxt = jobq_keeper.context;
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Gate);
	jobq_keeper.gates = hash_create("jobq gates", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Member);
	jobq_keeper.members = hash_create("jobq members", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Turn);
	jobq_keeper.turns = hash_create("jobq turns", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Kept);
	jobq_keeper.kept = hash_create("jobq rows kept aside", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(LineKey);
	ctl.entrysize = sizeof(Line);
	jobq_keeper.lines = hash_create("jobq lines", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memset(&jobq_keeper.looks, 0, sizeof(Looks));
	memset(&jobq_keeper.all_looks, 0, sizeof(Looks));
	jobq_keeper.all_again = false;
	jobq_keeper.unknown = true;
	jobq_keeper.changed = false;
	jobq_keeper.passing = jobq_keeper.pass_again = false;
	jobq_keeper.pass = 0;
	jobq_keeper.began_at = jobq_steady();
}

/* Have a job looked up. */
void
jobq_want_look(Looks *l, int64 job_id)
{
	if (l->n == l->room)
	{
		l->room = Max(2 * l->room, 256);
		l->ids = l->ids ? repalloc_huge(l->ids, l->room * sizeof(int64)) :
			MemoryContextAlloc(jobq_keeper.context, l->room * sizeof(int64));
	}
	l->ids[l->n++] = job_id;
}

/* Have job_limited read; returns the number of a pass that begins from here on. */
int
jobq_want_pass(void)
{
	jobq_keeper.pass_again |= jobq_keeper.passing;
	if (!jobq_keeper.passing)
	{
		jobq_keeper.passing = true;
		jobq_keeper.pass_block = 0;
	}
	return jobq_keeper.pass + (jobq_keeper.pass_again ? 2 : 1);
}

/* Members */

/* A job counts, ready with this position or, 0, running. */
Member *
jobq_add_member(Line *line, int64 job_id, int64 position, int32 attempt)
{
	bool		found;
	Member	   *m = hash_search(jobq_keeper.members, &job_id, HASH_ENTER, &found);

	if (found)
	{
		m->line->nmembers--;
		m->line->gate->nmembers--;
		m->line->nready -= m->position != 0;
		m->line->gate->nready -= m->position != 0;
	}
	if (!found || m->position != position || m->attempt != attempt)
		m->began = false;
	m->line = line;
	m->position = position;
	m->attempt = attempt;
	line->nmembers++;
	line->gate->nmembers++;
	line->nready += position != 0;
	line->gate->nready += position != 0;
	return m;
}

/* The attempt of a member has begun. */
void
jobq_begin_member(Member *m, TimestampTz now)
{
	if (!m->began)
		jobq_take_token(m->line, now);
	m->began = true;
}

/* A job does not count any more. */
void
jobq_remove_member(Member *m, TimestampTz now)
{
	Line	   *line = m->line;
	Gate	   *gate = line->gate;

	line->nmembers--;
	gate->nmembers--;
	line->nready -= m->position != 0;
	gate->nready -= m->position != 0;
	if (gate->settings.ordered && line->turn == m->job_id)
		jobq_want_look(&jobq_keeper.looks, m->job_id);
	hash_search(jobq_keeper.members, &m->job_id, HASH_REMOVE, NULL);
	jobq_touch_gate(gate);
	jobq_queue_line(line, now);
	jobq_drop_idle_line(line, now);
}

/* Gates */

/* A gate is to be read anew, from its row in job_queue on. */
void
jobq_reopen_gate(Gate *gate)
{
	HASH_SEQ_STATUS seq;
	Line	   *line;
	Member	   *m;

	hash_seq_init(&seq, jobq_keeper.members);
	while ((m = hash_seq_search(&seq)) != NULL)
	{
		if (m->line->gate == gate)
			hash_search(jobq_keeper.members, &m->job_id, HASH_REMOVE, NULL);
	}
	hash_seq_init(&seq, jobq_keeper.lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->gate == gate)
			jobq_close_line(line);
	}
	gate->phase = EMPTYING;
	jobq_scan_for_kept(gate);
	gate->nmembers = gate->nready = 0;
	gate->ngates = -1;			/* not read */
	gate->at = DT_NOEND;
	jobq_touch_gate(gate);
}

/* The gate of a queue, which is made. */
Gate *
jobq_get_gate(int64 queue_id)
{
	bool		found;
	Gate	   *gate = hash_search(jobq_keeper.gates, &queue_id, HASH_ENTER, &found);

	if (found)
		return gate;
	memset((char *) gate + sizeof(int64), 0, sizeof(Gate) - sizeof(int64));
	jobq_lines_init(gate);
	gate->pass = 1;				/* what came since the first was told */
	gate->bucket.at = jobq_keeper.began_at;
	jobq_reopen_gate(gate);
	return gate;
}

/* A gate whose queue has none any more, and nothing behind it, is forgotten. */
bool
jobq_drop_gate_if_gone(Gate *gate)
{
	HASH_SEQ_STATUS seq;
	Line	   *line;

	if (gate->phase != OPEN || gate->ngates > 1 || !jobq_gate_lets_go(gate) || !pairingheap_is_empty(&gate->lines) ||
		!pairingheap_is_empty(&gate->timers) || !pairingheap_is_empty(&gate->kept) || gate->at != DT_NOEND)
		return false;
	hash_seq_init(&seq, jobq_keeper.lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->gate == gate)
			jobq_forget_line(line);
	}
	pfree(gate->gates);
	pfree(gate->lanes);
	hash_search(jobq_keeper.gates, &gate->queue_id, HASH_REMOVE, NULL);
	return true;
}
