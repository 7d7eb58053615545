/*
 * lines.c
 *	  The lines of a gate: what waits there, and which of them comes next.
 *
 * Floors of a line are never above a row that is committed, unless it is kept aside,
 * or its event, or the pass that will read it, is still to come; so a step scans from the
 * floors on.
 *
 * A row that somebody has locked is kept aside (Kept): the floors pass it, or each step
 * would scan what is dead behind it again, and it is looked up by its id and tried again a
 * little later, in its place.  In an ordered line nobody overtakes it.  If it is not there
 * any more it is forgotten: its event says where it has gone.
 */
#include "postgres.h"

#include <math.h>

#include "background/gatekeeper.h"

#define LOCKED_FIRST	(5 * INT64CONST(1000))	/* until a locked row is tried
												 * again; what it grows by */
#define LOCKED_MOST		(50 * INT64CONST(1000))
#define LOCKED_EACH		100		/* and more where many are, by row */

/* What comes first */

/* Is it the line of a partition in an ordered queue? */
bool
jobq_line_is_ordered(const Line *line)
{
	return line->gate->settings.ordered && line->key.partition_id != 0;
}

/* The first of the rows of a line that are kept aside, or NULL. */
Kept *
jobq_first_kept(const Line *line)
{
	return pairingheap_is_empty(&line->kept) ? NULL : pairingheap_container(Kept, node, line->kept.ph_root);
}

/* The key of the first job of a line that can be tried; jobq_key_last: there is none. */
JobqKey
jobq_first_key(const Line *line)
{
	const Kept *k = jobq_first_kept(line);

	if (k == NULL || jobq_compare_keys(line->head, k->key) < 0)
		return line->head;
	if (k->due)
		return k->key;
	/* nobody overtakes */
	return jobq_line_is_ordered(line) ? jobq_key_last : line->head;
}

/* The first line is that whose first job comes first or, in a fair queue, that has had the least. */
static int
compare_lines(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Line *x = pairingheap_const_container(Line, node, a);
	const Line *y = pairingheap_const_container(Line, node, b);

	if (x->gate->settings.fair && x->had != y->had)
		return x->had < y->had ? 1 : -1;
	return -jobq_compare_keys(jobq_first_key(x), jobq_first_key(y));
}

/* Timers, by time. */
static int
compare_timers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz x = pairingheap_const_container(Line, timer, a)->again_at;
	TimestampTz y = pairingheap_const_container(Line, timer, b)->again_at;

	return x < y ? 1 : (x > y ? -1 : 0);
}

/*
 * Rows of a line that are kept aside: those that are due first or, in an ordered one,
 * all in the line's order.
 */
static int
compare_kept(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Kept *x = pairingheap_const_container(Kept, node, a);
	const Kept *y = pairingheap_const_container(Kept, node, b);

	if (!jobq_line_is_ordered(x->line) && x->due != y->due)
		return x->due ? 1 : -1;
	return -jobq_compare_keys(x->key, y->key);
}

/* All of a gate that are not due, by time. */
static int
compare_kept_timers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz x = pairingheap_const_container(Kept, timer, a)->at;
	TimestampTz y = pairingheap_const_container(Kept, timer, b)->at;

	return x < y ? 1 : (x > y ? -1 : 0);
}

/* No line of a gate can let one in yet. */
void
jobq_lines_init(Gate *gate)
{
	gate->lines.ph_compare = compare_lines;
	gate->timers.ph_compare = compare_timers;
	gate->kept.ph_compare = compare_kept_timers;
}

/* Buckets */

/* The tokens of a bucket now. */
double
jobq_tokens(Bucket *bucket, int rate, int64 interval, TimestampTz now)
{
	bucket->tokens = Min(rate, bucket->tokens + (double) (now - bucket->at) * rate / interval);
	bucket->at = now;
	return bucket->tokens;
}

/* When a bucket will have so many tokens that one more job can be ready. */
TimestampTz
jobq_next_token(const Bucket *bucket, int nready, int rate, int64 interval)
{
	return bucket->at + (int64) ceil((nready + 1 - bucket->tokens) * interval / rate);
}

/* An attempt has begun: it takes a token of the queue and of the partition, as they are now. */
void
jobq_take_token(Line *line, TimestampTz now)
{
	Gate	   *gate = line->gate;
	const JobqQueue *q = &gate->settings;

	gate->begun++;
	if (q->rate > 0)
		gate->bucket.tokens = jobq_tokens(&gate->bucket, q->rate, q->rate_interval, now) - 1;
	if (q->rate_per_partition > 0)
		line->bucket.tokens = jobq_tokens(&line->bucket, q->rate_per_partition, q->rate_interval, now) - 1;
}

/* Lines */

/*
 * How many jobs can be let in from a line, as far as it alone is concerned; *at: when
 * more can, if not now.
 */
int
jobq_line_room(Line *line, TimestampTz now, TimestampTz *at)
{
	const JobqQueue *q = &line->gate->settings;
	int			most = line->max_running > 0 ? line->max_running : q->max_running_per_partition;
	int			room = INT_MAX;

	*at = DT_NOEND;
	if (jobq_gate_lets_go(line->gate) || line->key.partition_id == 0)
		return room;
	if (line->paused)
		return 0;
	if (most > 0)
		room = Max(most - line->nmembers, 0);
	if (q->ordered)
		room = line->nmembers > 0 || (line->turn != 0 && !line->turn_waits) ? 0 : Min(room, 1);
	if (q->rate_per_partition > 0 && room > 0)
	{
		double		have = jobq_tokens(&line->bucket, q->rate_per_partition, q->rate_interval, now);

		room = Min(room, Max((int) floor(have) - line->nready, 0));
		if (room == 0)
			*at = jobq_next_token(&line->bucket, line->nready, q->rate_per_partition, q->rate_interval);
	}
	return room;
}

/* Look at a line again then, or, DT_NOEND, not by the clock. */
static void
set_timer(Line *line, TimestampTz at)
{
	if (line->timed)
		pairingheap_remove(&line->gate->timers, &line->timer);
	line->timed = at != DT_NOEND;
	line->again_at = at;
	if (line->timed)
		pairingheap_add(&line->gate->timers, &line->timer);
}

/* Put a line into its gate's heap if it can let one in, or note when. */
void
jobq_queue_line(Line *line, TimestampTz now)
{
	Gate	   *gate = line->gate;
	TimestampTz at;

	if (gate->phase != OPEN || line->queued || jobq_compare_keys(jobq_first_key(line), jobq_key_last) == 0)
		return;
	if (jobq_line_room(line, now, &at) > 0)
	{
		line->had = Max(line->had, gate->had);
		pairingheap_add(&gate->lines, &line->node);
		line->queued = true;
		jobq_touch_gate(gate);
	}
	else
		set_timer(line, at);
}

/* Take a line out of the heap. */
void
jobq_unqueue_line(Line *line)
{
	if (line->queued)
		pairingheap_remove(&line->gate->lines, &line->node);
	line->queued = false;
}

/* The line of a partition, which is made. */
Line *
jobq_get_line(Gate *gate, int64 partition_id)
{
	LineKey		key = {gate->queue_id, partition_id};
	bool		found;
	Line	   *line = hash_search(jobq_keeper.lines, &key, HASH_ENTER, &found);

	if (found)
		return line;
	memset((char *) line + sizeof(LineKey), 0, sizeof(Line) - sizeof(LineKey));
	line->gate = gate;
	line->room = 2;
	line->floors = MemoryContextAlloc(jobq_keeper.context, offsetof(JobqFloors, floors) + line->room * sizeof(JobqFloor));
	line->floors->n = 0;
	line->floors->rest = PG_INT16_MIN;	/* there is no row */
	line->floors->dropped = false;
	line->head = jobq_key_last;
	line->kept.ph_compare = compare_kept;
	line->weight = 1;
	line->had = gate->had;
	line->bucket.at = jobq_keeper.began_at;
	return line;
}

/* Rows that are kept aside */

/* Put one where it belongs. */
static void
put_kept(Kept *k)
{
	if (k->line != NULL)
		pairingheap_add(&k->line->kept, &k->node);
	if (!k->due)
		pairingheap_add(&k->gate->kept, &k->timer);
}

/* Take one out, so that it can be changed; the caller queues its line again. */
static void
take_kept(Kept *k)
{
	if (k->line != NULL)
	{
		jobq_unqueue_line(k->line);
		pairingheap_remove(&k->line->kept, &k->node);
	}
	if (!k->due)
		pairingheap_remove(&k->gate->kept, &k->timer);
}

/* The entry of a job, or NULL. */
static Kept *
find_kept(int64 job_id)
{
	return hash_search(jobq_keeper.kept, &job_id, HASH_FIND, NULL);
}

/* Forget it, if it is kept in this line. */
void
jobq_forget_kept(Line *line, int64 job_id)
{
	Kept	   *k = find_kept(job_id);

	if (k == NULL || k->line != line)
		return;
	take_kept(k);
	hash_search(jobq_keeper.kept, &job_id, HASH_REMOVE, NULL);
}

/* One of a line is to be tried as soon as that is possible. */
static void
kept_is_due(Kept *k, TimestampTz now)
{
	take_kept(k);
	k->due = true;
	put_kept(k);
	jobq_queue_line(k->line, now);
}

/* When to try one again that was locked: together with others, and the later the more there are. */
static TimestampTz
kept_at(int tries, TimestampTz now)
{
	int64		delay = Min(LOCKED_FIRST << Min(tries, 10), LOCKED_MOST);

	delay = Max(delay, hash_get_num_entries(jobq_keeper.kept) * LOCKED_EACH);
	return ((now + delay) / LOCKED_FIRST + 1) * LOCKED_FIRST;
}

/* It is still locked. */
void
jobq_kept_is_locked(Kept *k, TimestampTz now)
{
	take_kept(k);
	k->due = false;
	k->at = kept_at(k->tries++, now);
	put_kept(k);
}

/* Keep a row aside; one that is there already is to be tried when it was to be. */
static Kept *
keep_aside(Gate *gate, Line *line, int64 job_id, JobqKey key, TimestampTz now)
{
	bool		found;
	Kept	   *k = hash_search(jobq_keeper.kept, &job_id, HASH_ENTER, &found);
	Line	   *before = found ? k->line : NULL;

	if (found)
	{
		take_kept(k);
		/* the emptying of its lane may have waited for it alone */
		if (before == NULL && line != NULL)
			jobq_touch_gate(k->gate);
	}
	else
	{
		k->due = false;
		k->tries = 0;
		k->at = kept_at(k->tries++, now);
	}
	k->gate = gate;
	k->line = line;
	k->key = key;
	put_kept(k);
	if (before != NULL && before != line)
		jobq_queue_line(before, now);
	return k;
}

/* Keep all of these aside. */
void
jobq_keep_locked(Gate *gate, Line *line, const JobqLocked *locked, TimestampTz now)
{
	for (int i = 0; i < locked->n; i++)
		(void) keep_aside(gate, line, locked->rows[i].job_id, locked->rows[i].key, now);
}

/* Turns, and lines that are not needed */

/* The turn of a line is that of a job, or 0. */
void
jobq_give_turn(Line *line, int64 job_id)
{
	if (line->turn != 0)
		hash_search(jobq_keeper.turns, &line->turn, HASH_REMOVE, NULL);
	if (line->turn_waits)
		jobq_forget_kept(line, line->turn);
	line->turn = job_id;
	line->turn_waits = false;
	if (job_id != 0)
		((Turn *) hash_search(jobq_keeper.turns, &job_id, HASH_ENTER, NULL))->line = line;
}

/* The job that has the turn waits behind the gate, or does not. */
void
jobq_turn_waits(Line *line, bool waits, TimestampTz now)
{
	jobq_forget_kept(line, line->turn);
	line->turn_waits = waits;
	if (waits)
		kept_is_due(keep_aside(line->gate, line, line->turn, jobq_key_first, now), now);
}

/* Forget a line. */
void
jobq_forget_line(Line *line)
{
	set_timer(line, DT_NOEND);
	jobq_give_turn(line, 0);
	jobq_unqueue_line(line);
	pfree(line->floors);
	hash_search(jobq_keeper.lines, &line->key, HASH_REMOVE, NULL);
}

/* What a line was by the settings of its gate is not known any more. */
void
jobq_close_line(Line *line)
{
	line->nmembers = line->nready = line->max_running = 0;
	jobq_give_turn(line, 0);
	set_timer(line, DT_NOEND);
	line->paused = false;
	line->weight = 1;
	jobq_unqueue_line(line);
}

/* Forget a line that has nothing, and of which nothing need be remembered. */
void
jobq_drop_idle_line(Line *line, TimestampTz now)
{
	const JobqQueue *q = &line->gate->settings;

	if (line->nmembers > 0 || line->turn != 0 || line->queued || line->paused || line->max_running > 0 ||
		line->weight != 1 || jobq_compare_keys(line->head, jobq_key_last) != 0 || !pairingheap_is_empty(&line->kept))
		return;
	if (q->rate_per_partition > 0 &&
		jobq_tokens(&line->bucket, q->rate_per_partition, q->rate_interval, now) < q->rate_per_partition)
		return;
	if (q->fair && line->had > line->gate->had)
		return;
	jobq_forget_line(line);
}

/* Rows that wait */

/* Make room for one more floor, and one that is about to go. */
static void
reserve_floor(Line *line)
{
	if (line->floors->n + 2 <= line->room)
		return;
	line->room *= 2;
	line->floors = repalloc(line->floors, offsetof(JobqFloors, floors) + line->room * sizeof(JobqFloor));
}

/* There is a row in a line. */
static void
note_row(Line *line, JobqKey key, TimestampTz now)
{
	reserve_floor(line);
	jobq_floors_lower(line->floors, key, false);
	if (jobq_compare_keys(key, line->head) < 0)
	{
		jobq_unqueue_line(line);
		line->head = key;
	}
	jobq_queue_line(line, now);
}

/* The same of a row that was found or told of; one that is kept aside is not scanned for. */
void
jobq_note_row(Line *line, int64 job_id, JobqKey key, TimestampTz now)
{
	Kept	   *k = find_kept(job_id);

	if (k != NULL && k->line != NULL)
		kept_is_due(k, now);
	if (k == NULL || k->line != line || jobq_compare_keys(k->key, key) != 0)
		note_row(line, key, now);
}

/* Scan for what is kept aside at a gate that is closed; it may go on by other settings. */
void
jobq_scan_for_kept(Gate *gate)
{
	HASH_SEQ_STATUS seq;
	Kept	   *k;

	hash_seq_init(&seq, jobq_keeper.kept);
	while ((k = hash_seq_search(&seq)) != NULL)
	{
		if (k->gate != gate)
			continue;
		if (k->line != NULL)
			note_row(k->line, k->key, 0);
		jobq_forget_kept(k->line, k->job_id);
	}
}

/* All rows of a line before a key were let in, or are kept aside. */
void
jobq_pass_rows(Line *line, JobqKey key)
{
	JobqFloors *f = line->floors;
	int			n = 0;

	line->head = key;
	if (jobq_compare_keys(key, jobq_key_last) == 0)
	{
		f->n = 0;
		f->rest = PG_INT16_MIN;
		return;
	}
	for (int i = 0; i < f->n; i++)
	{
		if (f->floors[i].priority < key.priority)
			f->floors[n++] = f->floors[i];
	}
	f->n = n;
	reserve_floor(line);
	line->floors->rest = Min(line->floors->rest, key.priority);
	jobq_floors_add(line->floors, key.priority, key.position, key.position);
}

/* Queue the lines whose time has come: they can have tokens now, or rows that were locked. */
void
jobq_queue_timed_lines(Gate *gate, TimestampTz now)
{
	while (!pairingheap_is_empty(&gate->kept))
	{
		Kept	   *k = pairingheap_container(Kept, timer, pairingheap_first(&gate->kept));

		if (k->at > now)
			break;
		kept_is_due(k, now);
	}
	while (!pairingheap_is_empty(&gate->timers))
	{
		Line	   *line = pairingheap_container(Line, timer, pairingheap_first(&gate->timers));

		if (line->again_at > now)
			break;
		set_timer(line, DT_NOEND);
		jobq_queue_line(line, now);
	}
}

/* Queue all lines of a gate that opens. */
void
jobq_queue_lines(Gate *gate, TimestampTz now)
{
	HASH_SEQ_STATUS seq;
	Line	   *line;

	hash_seq_init(&seq, jobq_keeper.lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->gate == gate)
			jobq_queue_line(line, now);
	}
}
