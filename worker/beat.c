/*
 * beat.c
 *		Keeping the leases of the jobs held.
 *
 * The jobs whose heartbeats are to be sent are in a heap, that which is due
 * first on top, so thousands of prefetched jobs cost nothing but when they are
 * due.  All that are due by then go together, in one statement.
 *
 * One job must not spoil the others' heartbeats, as one that is not ours any
 * more does, since the server refuses the whole statement then.  The jobs of a
 * statement that was refused are due still and go in smaller ones, in the end
 * each alone.
 */
#include "worker.h"

#include <stdlib.h>
#include <string.h>

#define BEATS_MAX 1000			/* in one statement */
#define BEATS_SPLIT 10			/* into so many, if it was refused */

/* heap[1] is on top; those below heap[i] are heap[2 * i] and heap[2 * i + 1] */
static Job **heap;
static int	nheap = 0;
static int	heap_size = 0;

static void
heap_put(Job *job, int slot)
{
	heap[slot] = job;
	job->beat_slot = slot;
}

/* Put a job where it belongs, from a slot whose content is void. */
static void
heap_place(Job *job, int slot)
{
	for (; slot > 1 && heap[slot / 2]->heartbeat_at > job->heartbeat_at; slot /= 2)
		heap_put(heap[slot / 2], slot);
	for (int below = 2 * slot; below <= nheap; below = 2 * slot)
	{
		if (below < nheap && heap[below + 1]->heartbeat_at < heap[below]->heartbeat_at)
			below++;
		if (heap[below]->heartbeat_at >= job->heartbeat_at)
			break;
		heap_put(heap[below], slot);
		slot = below;
	}
	heap_put(job, slot);
}

/* Half a heartbeat late must not cost the lease, nor must one that is lost. */
static Usec
heartbeat_interval(const Job *job)
{
	Usec		interval = opt.heartbeat;

	if (job->lease > 0 && job->lease / 3 < interval)
		interval = job->lease / 3;
	return interval < MIN_HEARTBEAT ? MIN_HEARTBEAT : interval;
}

/* Send heartbeats for a job again, when they are due. */
void
beat_resume(Job *job)
{
	if (job->heartbeat_busy || job->report_busy || job->completed || job->phase == JOB_DONE ||
		job->stop == STOP_LOST)
		return;
	if (job->beat_slot == 0)
	{
		if (nheap + 1 >= heap_size)
		{
			heap_size = heap_size ? heap_size * 2 : 64;
			heap = xrealloc(heap, (size_t) heap_size * sizeof(*heap));
		}
		job->beat_slot = ++nheap;
	}
	heap_place(job, job->beat_slot);
}

static void
beat_at(Job *job, Usec when)
{
	job->heartbeat_at = when;
	beat_resume(job);
}

/* A heartbeat that counts, or the claim, was sent then. */
static void
beat_after(Job *job, Usec sent)
{
	beat_at(job, sent + heartbeat_interval(job));
}

/* Send no heartbeats for a job for now. */
void
beat_pause(Job *job)
{
	int			slot = job->beat_slot;
	Job		   *last;

	if (slot == 0)
		return;
	job->beat_slot = 0;
	last = heap[nheap--];
	if (last != job)
		heap_place(last, slot);
}

/* A job is held that was claimed by a statement sent then. */
void
beat_start(Job *job, Usec sent)
{
	job->heartbeat_sent = sent;
	job->beat_with = BEATS_MAX;
	beat_after(job, sent);
}

/*
 * The lease lasts this long from then on.  One that was over when its claim
 * answered has its heartbeat at once, which tells whether the job is ours: it
 * must not keep its place until then.
 */
void
beat_set_lease(Job *job, Usec from, Usec lease)
{
	job->kept_until = from + lease;
	job->lease = lease > 3 * MIN_HEARTBEAT ? lease : 3 * MIN_HEARTBEAT;
	if (lease > 0)
		beat_after(job, from);
	else
		beat_at(job, now_usec());
}

/*
 * A job whose command has ended keeps its lease too, as long as its report
 * is not accepted; but what becomes of it is then the report's to find out.
 */
static void
beat_accepted(Job *job, bool cancelled)
{
	job->kept_until = job->heartbeat_sent + (job->lease > 0 ? job->lease : opt.heartbeat);
	job->beat_with = BEATS_MAX;
	beat_after(job, job->heartbeat_sent);
	if (cancelled)
		job_stop(job, STOP_CANCELLED);
}

/*
 * The server refused the heartbeat of this job alone, or what was asked then.
 */
static void
beat_refused(Job *job, const PGresult *res, Usec now)
{
	bool		lost = state_is_refusal(result_state(res));
	char	   *msg = result_message(res);

	if (job->phase <= JOB_RUNNING)
		log_event(LOG_WARNING, lost ? "lease_lost" : "heartbeat_failed",
				  "job", job->id, "sqlstate", result_state(res), "error", msg, (char *) NULL);
	free(msg);
	if (lost)
		job_stop(job, STOP_LOST);
	beat_at(job, now + heartbeat_interval(job) / 2);
}

/* Was it completed already, with the token that is stale now? */
static void
completed_reply(Conn *conn, PGresult *res, void *arg)
{
	Job		   *job = arg;
	Usec		now = now_usec();

	(void) conn;
	job->heartbeat_busy = false;
	if (res == NULL)
		beat_at(job, now);
	else if (result_ok(res))
		job->completed = true;
	else
		beat_refused(job, res, now);
}

/*
 * The token of a job is stale whose command runs.  If the command has completed
 * the job itself, it may go on to its end.  To complete the job once more tells:
 * the server takes the repetition, and refuses any other stale token.
 */
static void
ask_completed(Conn *conn, Job *job)
{
	const char *values[] = {job->id, job->token};

	job->heartbeat_busy = true;
	conn_call(conn, completed_reply, job, 2, values,
			  "SELECT @.job_complete(" ONE_ID("'" LOCK_TIMEOUT "'") ", $2, NULL)");
}

/* What became of a statement; the rows are in the order of the arguments. */
static void
beat_reply(Conn *conn, PGresult *res, void *arg)
{
	Batch	   *batch = arg;
	Usec		now = now_usec();

	if (res && batch->njobs > 1 && !result_ok(res))
		log_event(LOG_DEBUG, "heartbeats_split", "jobs", num(batch->njobs),
				  "sqlstate", result_state(res), (char *) NULL);
	for (int i = 0; i < batch->njobs; i++)
	{
		Job		   *job = batch->jobs[i];

		job->heartbeat_busy = false;
		if (res == NULL)
			beat_at(job, now);
		else if (result_ok(res))
			beat_accepted(job, strcmp(PQgetvalue(res, i, 0), "f") == 0);
		else if (batch->njobs == 1 && job->phase == JOB_RUNNING && state_is_refusal(result_state(res)))
			ask_completed(conn, job);
		else if (batch->njobs == 1)
			beat_refused(job, res, now);
		else
		{
			job->beat_with = batch->njobs / BEATS_SPLIT;
			beat_resume(job);
		}
	}
	free(batch);
}

/* Those most overdue, as many as may go together. */
static Batch *
make_batch(Usec now)
{
	Batch	   *batch = batch_create(nheap < BEATS_MAX ? nheap : BEATS_MAX);
	int			most = BEATS_MAX;

	while (nheap > 0 && heap[1]->heartbeat_at <= now)
	{
		Job		   *job = heap[1];

		if (job->beat_with < most)
			most = job->beat_with;
		if (batch->njobs > 0 && batch->njobs >= most)
			break;
		beat_pause(job);
		job->heartbeat_busy = true;
		job->heartbeat_sent = now;
		batch->jobs[batch->njobs++] = job;
	}
	return batch;
}

/* Send the heartbeats that are due. */
bool
beat_send(Conn *conn, Usec now)
{
	Batch	   *batch;
	Buf			ids = {0};
	Buf			tokens = {0};
	const char *values[2];

	if (nheap == 0 || heap[1]->heartbeat_at > now)
		return false;
	batch = make_batch(now);
	batch_arrays(batch, &ids, &tokens);
	values[0] = ids.data;
	values[1] = tokens.data;
	conn_call(conn, beat_reply, batch, 2, values,
			  "SELECT @.job_heartbeat(b.id, b.token) FROM unnest(" MANY_IDS("'" LOCK_TIMEOUT "'") ", $2::pg_catalog.int8[]) AS b (id, token)");
	buf_free(&ids);
	buf_free(&tokens);
	return true;
}

/* Are heartbeats so late that the worker should not take more jobs? */
bool
beats_late(Usec now)
{
	return nheap > 0 && now - heap[1]->heartbeat_at > heartbeat_interval(heap[1]) / 4;
}

/* The server is back: do not leave it in doubt about what runs. */
void
beats_now(Usec now)
{
	for (int i = 1; i <= nheap; i++)	/* which keeps their order */
		note_time(&heap[i]->heartbeat_at, now);
}

/* When the next one is due, unless that is now. */
Usec
beats_timer(Usec now)
{
	return nheap > 0 && heap[1]->heartbeat_at > now ? heap[1]->heartbeat_at : USEC_NEVER;
}

void
beats_end(void)
{
	free(heap);
}
