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
 * and members as the tables are.  Each event names what it tells of by a number that
 * is never used again, so one that comes late or twice does no harm:
 *
 *	LEFT	the row of job_ready with that position is gone, but by no claim
 *	BEGUN	that attempt of the job runs
 *	ENDED	it does not run any more
 *
 * Where events were lost all members are looked up, and job_limited is read again;
 * the sweep has the same done.  Whatever fails has its gate read anew.
 *
 * Floors of a line are never above a row that is committed, unless it is kept aside,
 * or its event, or the pass that will read it, is still to come; so a step scans from the
 * floors on.
 *
 * A row that somebody has locked is kept aside (Kept): the floors pass it, or each step
 * would scan what is dead behind it again, and it is looked up by its id and tried again a
 * little later, in its place.  In an ordered line nobody overtakes it.  If it is not there
 * any more it is forgotten: its event says where it has gone.
 *
 * A crash leaves nothing: the next worker begins with no gate at all.
 */
#include "postgres.h"

#include <math.h>

#include "lib/pairingheap.h"
#include "miscadmin.h"
#include "utils/backend_status.h"
#include "utils/hsearch.h"
#include "utils/memutils.h"

#include "background/background.h"

#define STEP_ROWS		200		/* that one transaction moves */
#define STEP_LOOKS		200		/* jobs that one transaction looks up */
#define PASS_BLOCKS		32		/* of job_limited, that one reads */
#define ROUND_EVENTS	4096	/* that one round takes */
#define ROUND_USECS		(10 * INT64CONST(1000)) /* after which others have
												 * their turn */
#define LOCKED_FIRST	(5 * INT64CONST(1000))	/* until a locked row is tried
												 * again; what it grows by */
#define LOCKED_MOST		(50 * INT64CONST(1000))
#define LOCKED_EACH		100		/* and more where many are, by row */
#define PROBE_FIRST		(50 * INT64CONST(1000)) /* for rows that came late,
												 * see probe() */
#define READY_FAIR		8		/* jobs that are kept ready, at least */
#define READY_OTHERS	512
#define READY_MOST		8192
#define PAUSE_EVENTS	16		/* of one round, for which it pauses after it */

typedef enum Phase
{
	EMPTYING,					/* the lanes of the gates before */
	READING,					/* its members */
	PASSING,					/* until job_limited was read */
	OPEN
} Phase;

/* A token bucket */
typedef struct Bucket
{
	double		tokens;
	TimestampTz at;				/* as of then, by jobq_steady() */
} Bucket;

typedef struct Gate
{
	int64		queue_id;		/* hash key */
	JobqQueue	settings;
	Phase		phase;
	int			ngates;			/* as in job_queue.gates */
	int64	   *gates;
	int			nlanes;			/* of the queue, as it would be without gates */
	JobqLaneSet *lanes;
	int			emptying;		/* the lane that is being emptied: of the gate
								 * emptying / nlanes, that of emptying %
								 * nlanes */
	JobqKey		emptied;		/* how far */
	bool		found;			/* there were rows in this look at it */
	int			pass;			/* that must have ended before it is open */
	int			nmembers;
	int			nready;			/* of these */
	int			begun;			/* attempts since the last step */
	double		keep_ready;
	double		had;			/* what the line that was served last had had */
	Bucket		bucket;
	pairingheap *lines;			/* that can let one in */
	pairingheap *timers;		/* lines that can then */
	pairingheap kept;			/* rows that are to be tried again then */
	bool		dirty;			/* there may be something to do */
	TimestampTz at;				/* there is then; DT_NOEND: not by the clock */
	TimestampTz probe_at;
	int64		probe_after;
	JobqFailures failures;
} Gate;

typedef struct LineKey
{
	int64		queue_id;
	int64		partition_id;
} LineKey;

typedef struct Line
{
	LineKey		key;			/* must be first */
	Gate	   *gate;
	pairingheap_node node;
	bool		queued;			/* in the gate's heap */
	pairingheap_node timer;
	bool		timed;
	TimestampTz again_at;
	int			room;			/* for so many floors */
	JobqFloors *floors;
	JobqKey		head;			/* no row is before it, but those that are
								 * kept aside; jobq_key_last: there is none */
	pairingheap kept;			/* these, by compare_kept() */
	int			nmembers;
	int			nready;
	int64		turn;			/* the job whose turn it is, or 0 */
	bool		turn_waits;		/* behind the gate, where it is kept aside */
	bool		paused;
	int			weight;
	int			max_running;	/* its own, or 0 */
	double		had;			/* jobs that were let in, by its weight */
	Bucket		bucket;
} Line;

typedef struct Member
{
	int64		job_id;			/* hash key */
	Line	   *line;
	int64		position;		/* of its row in job_ready; 0: it runs */
	int32		attempt;		/* attempts begun */
	bool		began;			/* the latest has taken its token */
} Member;

/* A row that somebody had locked */
typedef struct Kept
{
	int64		job_id;			/* hash key */
	Gate	   *gate;
	Line	   *line;			/* NULL: it is in the lane that is emptied */
	JobqKey		key;			/* in the line; jobq_key_first: any, it has
								 * the turn */
	int			tries;
	bool		due;			/* to be tried, else "at" */
	TimestampTz at;
	pairingheap_node node;		/* in the line's heap */
	pairingheap_node timer;		/* in the gate's, unless it is due */
} Kept;

/* Of which line a job has the turn */
typedef struct Turn
{
	int64		job_id;			/* hash key */
	Line	   *line;
} Turn;

static MemoryContext gate_context = NULL;	/* all below */
static HTAB *gates;
static HTAB *lines;
static HTAB *members;
static HTAB *turns;
static HTAB *kept;
static bool unknown = true;		/* queues are still to be read */
static TimestampTz began_at;	/* buckets were empty then */
static bool changed;			/* some gate is dirty */

/* Jobs to be looked up */
typedef struct Looks
{
	int64	   *ids;
	int			n;
	int			room;
} Looks;

static Looks looks;				/* before any other is let in */
static Looks all_looks;			/* meanwhile: all members */
static bool all_again = false;	/* and once more after it */

/* the pass over job_limited */
static int	pass = 0;			/* the number of the last that has ended */
static bool passing = false;
static bool pass_again = false; /* another is wanted after it */
static BlockNumber pass_block;
static JobqFailures pass_failures;
static JobqFailures look_failures;
static JobqFailures read_failures;
static TimestampTz failed_until = 0;

/* Memory */

/* Is it the line of a partition in an ordered queue? */
static bool
is_ordered(const Line *line)
{
	return line->gate->settings.ordered && line->key.partition_id != 0;
}

/* The first of the rows of a line that are kept aside, or NULL. */
static Kept *
first_kept(const Line *line)
{
	return pairingheap_is_empty(&line->kept) ? NULL : pairingheap_container(Kept, node, line->kept.ph_root);
}

/* The key of the first job of a line that can be tried; jobq_key_last: there is none. */
static JobqKey
first_key(const Line *line)
{
	const Kept *k = first_kept(line);

	if (k == NULL || jobq_compare_keys(line->head, k->key) < 0)
		return line->head;
	if (k->due)
		return k->key;
	/* nobody overtakes */
	return is_ordered(line) ? jobq_key_last : line->head;
}

/* The first line is that whose first job comes first or, in a fair queue, that has had the least. */
static int
compare_lines(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Line *x = pairingheap_const_container(Line, node, a);
	const Line *y = pairingheap_const_container(Line, node, b);

	if (x->gate->settings.fair && x->had != y->had)
		return x->had < y->had ? 1 : -1;
	return -jobq_compare_keys(first_key(x), first_key(y));
}

/* Timers, by time. */
static int
compare_timers(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	TimestampTz x = pairingheap_const_container(Line, timer, a)->again_at;
	TimestampTz y = pairingheap_const_container(Line, timer, b)->again_at;

	return x < y ? 1 : (x > y ? -1 : 0);
}

/* Rows of a line that are kept aside: those that are due first or, in an ordered one, all in the line's order. */
static int
compare_kept(const pairingheap_node *a, const pairingheap_node *b, void *arg)
{
	const Kept *x = pairingheap_const_container(Kept, node, a);
	const Kept *y = pairingheap_const_container(Kept, node, b);

	if (!is_ordered(x->line) && x->due != y->due)
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

/* Forget everything. */
void
jobq_gatekeeper_restart(void)
{
	HASHCTL		ctl = {0};

	if (gate_context == NULL)
		gate_context = AllocSetContextCreate(TopMemoryContext, "jobq gatekeeper", ALLOCSET_DEFAULT_SIZES);
	else
		MemoryContextReset(gate_context);
	ctl.hcxt = gate_context;
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(Gate);
	gates = hash_create("jobq gates", 16, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Member);
	members = hash_create("jobq members", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Turn);
	turns = hash_create("jobq turns", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.entrysize = sizeof(Kept);
	kept = hash_create("jobq rows kept aside", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	ctl.keysize = sizeof(LineKey);
	ctl.entrysize = sizeof(Line);
	lines = hash_create("jobq lines", 256, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	memset(&looks, 0, sizeof(Looks));
	memset(&all_looks, 0, sizeof(Looks));
	all_again = false;
	unknown = true;
	changed = false;
	passing = pass_again = false;
	pass = 0;
	began_at = jobq_steady();
}

/* There may be something to do at a gate. */
static void
touch(Gate *gate)
{
	gate->dirty = changed = true;
}

/* Have a job looked up. */
static void
want_look(Looks *l, int64 job_id)
{
	if (l->n == l->room)
	{
		l->room = Max(2 * l->room, STEP_LOOKS);
		l->ids = l->ids ? repalloc_huge(l->ids, l->room * sizeof(int64)) :
			MemoryContextAlloc(gate_context, l->room * sizeof(int64));
	}
	l->ids[l->n++] = job_id;
}

/* Have job_limited read; returns the number of a pass that begins from here on. */
static int
want_pass(void)
{
	pass_again |= passing;
	if (!passing)
	{
		passing = true;
		pass_block = 0;
	}
	return pass + (pass_again ? 2 : 1);
}

/* Buckets */

/* The tokens of a bucket now. */
static double
tokens(Bucket *bucket, int rate, int64 interval, TimestampTz now)
{
	bucket->tokens = Min(rate, bucket->tokens + (double) (now - bucket->at) * rate / interval);
	bucket->at = now;
	return bucket->tokens;
}

/* When a bucket will have so many tokens that one more job can be ready. */
static TimestampTz
next_token(const Bucket *bucket, int nready, int rate, int64 interval)
{
	return bucket->at + (int64) ceil((nready + 1 - bucket->tokens) * interval / rate);
}

/* An attempt has begun: it takes a token of the queue and of the partition, as they are now. */
static void
take_token(Line *line, TimestampTz now)
{
	Gate	   *gate = line->gate;
	const JobqQueue *q = &gate->settings;

	gate->begun++;
	if (q->rate > 0)
		gate->bucket.tokens = tokens(&gate->bucket, q->rate, q->rate_interval, now) - 1;
	if (q->rate_per_partition > 0)
		line->bucket.tokens = tokens(&line->bucket, q->rate_per_partition, q->rate_interval, now) - 1;
}

/* Lines */

/* The number of the gate that is in force; 0: there is none. */
static int64
gate_number(const Gate *gate)
{
	return gate->ngates > 0 ? gate->gates[gate->ngates - 1] : 0;
}

/* Has a gate nothing to keep jobs back by?  Then it lets go what is left behind it. */
static bool
lets_go(const Gate *gate)
{
	return gate->ngates >= 0 && gate_number(gate) == 0;
}

/* How many jobs can be let in from a line, as far as it alone is concerned; *at: when more can, if not now. */
static int
line_room(Line *line, TimestampTz now, TimestampTz *at)
{
	const JobqQueue *q = &line->gate->settings;
	int			most = line->max_running > 0 ? line->max_running : q->max_running_per_partition;
	int			room = INT_MAX;

	*at = DT_NOEND;
	if (lets_go(line->gate) || line->key.partition_id == 0)
		return room;
	if (line->paused)
		return 0;
	if (most > 0)
		room = Max(most - line->nmembers, 0);
	if (q->ordered)
		room = line->nmembers > 0 || (line->turn != 0 && !line->turn_waits) ? 0 : Min(room, 1);
	if (q->rate_per_partition > 0 && room > 0)
	{
		double		have = tokens(&line->bucket, q->rate_per_partition, q->rate_interval, now);

		room = Min(room, Max((int) floor(have) - line->nready, 0));
		if (room == 0)
			*at = next_token(&line->bucket, line->nready, q->rate_per_partition, q->rate_interval);
	}
	return room;
}

/* Look at a line again then, or, DT_NOEND, not by the clock. */
static void
set_timer(Line *line, TimestampTz at)
{
	if (line->timed)
		pairingheap_remove(line->gate->timers, &line->timer);
	line->timed = at != DT_NOEND;
	line->again_at = at;
	if (line->timed)
		pairingheap_add(line->gate->timers, &line->timer);
}

/* Put a line into its gate's heap if it can let one in, or note when. */
static void
queue_line(Line *line, TimestampTz now)
{
	Gate	   *gate = line->gate;
	TimestampTz at;

	if (gate->phase != OPEN || line->queued || jobq_compare_keys(first_key(line), jobq_key_last) == 0)
		return;
	if (line_room(line, now, &at) > 0)
	{
		line->had = Max(line->had, gate->had);
		pairingheap_add(gate->lines, &line->node);
		line->queued = true;
		touch(gate);
	}
	else
		set_timer(line, at);
}

/* Take a line out of the heap. */
static void
unqueue_line(Line *line)
{
	if (line->queued)
		pairingheap_remove(line->gate->lines, &line->node);
	line->queued = false;
}

/* The line of a partition, which is made. */
static Line *
get_line(Gate *gate, int64 partition_id)
{
	LineKey		key = {gate->queue_id, partition_id};
	bool		found;
	Line	   *line = hash_search(lines, &key, HASH_ENTER, &found);

	if (found)
		return line;
	memset((char *) line + sizeof(LineKey), 0, sizeof(Line) - sizeof(LineKey));
	line->gate = gate;
	line->room = 2;
	line->floors = MemoryContextAlloc(gate_context, offsetof(JobqFloors, floors) + line->room * sizeof(JobqFloor));
	line->floors->n = 0;
	line->floors->rest = PG_INT16_MIN;	/* there is no row */
	line->floors->dropped = false;
	line->head = jobq_key_last;
	line->kept.ph_compare = compare_kept;
	line->weight = 1;
	line->had = gate->had;
	line->bucket.at = began_at;
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
		unqueue_line(k->line);
		pairingheap_remove(&k->line->kept, &k->node);
	}
	if (!k->due)
		pairingheap_remove(&k->gate->kept, &k->timer);
}

/* The entry of a job, or NULL. */
static Kept *
find_kept(int64 job_id)
{
	return hash_search(kept, &job_id, HASH_FIND, NULL);
}

/* Forget it, if it is kept in this line. */
static void
forget_kept(Line *line, int64 job_id)
{
	Kept	   *k = find_kept(job_id);

	if (k == NULL || k->line != line)
		return;
	take_kept(k);
	hash_search(kept, &job_id, HASH_REMOVE, NULL);
}

/* One of a line is to be tried as soon as that is possible. */
static void
kept_is_due(Kept *k, TimestampTz now)
{
	take_kept(k);
	k->due = true;
	put_kept(k);
	queue_line(k->line, now);
}

/* When to try one again that was locked: together with others, and the later the more there are. */
static TimestampTz
kept_at(int tries, TimestampTz now)
{
	int64		delay = Min(LOCKED_FIRST << Min(tries, 10), LOCKED_MOST);

	delay = Max(delay, hash_get_num_entries(kept) * LOCKED_EACH);
	return ((now + delay) / LOCKED_FIRST + 1) * LOCKED_FIRST;
}

/* It is still locked. */
static void
kept_is_locked(Kept *k, TimestampTz now)
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
	Kept	   *k = hash_search(kept, &job_id, HASH_ENTER, &found);
	Line	   *before = found ? k->line : NULL;

	if (found)
		take_kept(k);
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
		queue_line(before, now);
	return k;
}

/* Keep all of these aside. */
static void
keep_locked(Gate *gate, Line *line, const JobqLocked *locked, TimestampTz now)
{
	for (int i = 0; i < locked->n; i++)
		(void) keep_aside(gate, line, locked->rows[i].job_id, locked->rows[i].key, now);
}

/* The turn of a line is that of a job, or 0. */
static void
set_turn(Line *line, int64 job_id)
{
	if (line->turn != 0)
		hash_search(turns, &line->turn, HASH_REMOVE, NULL);
	if (line->turn_waits)
		forget_kept(line, line->turn);
	line->turn = job_id;
	line->turn_waits = false;
	if (job_id != 0)
		((Turn *) hash_search(turns, &job_id, HASH_ENTER, NULL))->line = line;
}

/* The job that has the turn waits behind the gate, or does not. */
static void
set_turn_waits(Line *line, bool waits, TimestampTz now)
{
	forget_kept(line, line->turn);
	line->turn_waits = waits;
	if (waits)
		kept_is_due(keep_aside(line->gate, line, line->turn, jobq_key_first, now), now);
}

/* Forget a line. */
static void
forget_line(Line *line)
{
	set_timer(line, DT_NOEND);
	set_turn(line, 0);
	unqueue_line(line);
	pfree(line->floors);
	hash_search(lines, &line->key, HASH_REMOVE, NULL);
}

/* Forget a line that has nothing, and of which nothing need be remembered. */
static void
drop_line_if_idle(Line *line, TimestampTz now)
{
	const JobqQueue *q = &line->gate->settings;

	if (line->nmembers > 0 || line->turn != 0 || line->queued || line->paused || line->max_running > 0 ||
		line->weight != 1 || jobq_compare_keys(line->head, jobq_key_last) != 0 || !pairingheap_is_empty(&line->kept))
		return;
	if (q->rate_per_partition > 0 &&
		tokens(&line->bucket, q->rate_per_partition, q->rate_interval, now) < q->rate_per_partition)
		return;
	if (q->fair && line->had > line->gate->had)
		return;
	forget_line(line);
}

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
		unqueue_line(line);
		line->head = key;
	}
	queue_line(line, now);
}

/* The same of a row that was found or told of; one that is kept aside is not scanned for. */
static void
note_job(Line *line, int64 job_id, JobqKey key, TimestampTz now)
{
	Kept	   *k = find_kept(job_id);

	if (k != NULL && k->line != NULL)
		kept_is_due(k, now);
	if (k == NULL || k->line != line || jobq_compare_keys(k->key, key) != 0)
		note_row(line, key, now);
}

/* All rows of a line before a key were let in, or are kept aside. */
static void
pass_rows(Line *line, JobqKey key)
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

/* Members */

/* A job counts, ready with this position or, 0, running. */
static Member *
add_member(Line *line, int64 job_id, int64 position, int32 attempt)
{
	bool		found;
	Member	   *m = hash_search(members, &job_id, HASH_ENTER, &found);

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
static void
begin_member(Member *m, TimestampTz now)
{
	if (!m->began)
		take_token(m->line, now);
	m->began = true;
}

/* A job does not count any more. */
static void
remove_member(Member *m, TimestampTz now)
{
	Line	   *line = m->line;
	Gate	   *gate = line->gate;

	line->nmembers--;
	gate->nmembers--;
	line->nready -= m->position != 0;
	gate->nready -= m->position != 0;
	if (gate->settings.ordered && line->turn == m->job_id)
		want_look(&looks, m->job_id);
	hash_search(members, &m->job_id, HASH_REMOVE, NULL);
	touch(gate);
	queue_line(line, now);
	drop_line_if_idle(line, now);
}

/* Gates */

/* A gate is to be read anew, from its row in job_queue on. */
static void
reopen(Gate *gate)
{
	HASH_SEQ_STATUS seq;
	Line	   *line;
	Member	   *m;
	Kept	   *k;

	hash_seq_init(&seq, members);
	while ((m = hash_seq_search(&seq)) != NULL)
	{
		if (m->line->gate == gate)
			hash_search(members, &m->job_id, HASH_REMOVE, NULL);
	}
	hash_seq_init(&seq, lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->gate != gate)
			continue;
		line->nmembers = line->nready = line->max_running = 0;
		set_turn(line, 0);
		set_timer(line, DT_NOEND);
		line->paused = false;
		line->weight = 1;
		unqueue_line(line);
	}
	/* what is kept aside is scanned for again, by other settings */
	gate->phase = EMPTYING;
	hash_seq_init(&seq, kept);
	while ((k = hash_seq_search(&seq)) != NULL)
	{
		if (k->gate != gate)
			continue;
		if (k->line != NULL)
			note_row(k->line, k->key, 0);
		forget_kept(k->line, k->job_id);
	}
	gate->nmembers = gate->nready = 0;
	gate->ngates = -1;			/* not read */
	gate->at = DT_NOEND;
	touch(gate);
}

/* The gate of a queue, which is made. */
static Gate *
get_gate(int64 queue_id)
{
	bool		found;
	Gate	   *gate = hash_search(gates, &queue_id, HASH_ENTER, &found);

	if (found)
		return gate;
	memset((char *) gate + sizeof(int64), 0, sizeof(Gate) - sizeof(int64));
	gate->lines = MemoryContextAllocZero(gate_context, sizeof(pairingheap));
	gate->lines->ph_compare = compare_lines;
	gate->timers = MemoryContextAllocZero(gate_context, sizeof(pairingheap));
	gate->timers->ph_compare = compare_timers;
	gate->kept.ph_compare = compare_kept_timers;
	gate->pass = 1;				/* what came since the first was told */
	gate->bucket.at = began_at;
	reopen(gate);
	return gate;
}

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
	gate->gates = MemoryContextAlloc(gate_context, Max(gate->ngates, 1) * sizeof(int64));
	if (gate->ngates > 0)
		memcpy(gate->gates, found, gate->ngates * sizeof(int64));
	gate->nlanes = jobq_queue_lanes(call, gate->queue_id, NULL, &lanes);
	if (gate->lanes != NULL)
		pfree(gate->lanes);
	gate->lanes = MemoryContextAlloc(gate_context, gate->nlanes * sizeof(JobqLaneSet));
	memcpy(gate->lanes, lanes, gate->nlanes * sizeof(JobqLaneSet));
	gate->emptying = 0;
	gate->emptied = jobq_key_first;
	gate->found = false;
	gate->keep_ready = gate->settings.fair ? READY_FAIR : READY_OTHERS;
	for (int i = 0; i < n; i++)
	{
		Line	   *line = get_line(gate, partitions[i].partition_id);

		line->paused = partitions[i].paused;
		line->weight = partitions[i].weight;
		line->max_running = partitions[i].max_running;
	}
	if (!gate->settings.ordered)
		return;
	scan = jobq_scan_begin(call, JOBQ_TURN, INDEX_KEY, 1, &key, NULL);
	while ((row = jobq_scan_next(scan)) != NULL)
	{
		Line	   *line = get_line(gate, jobq_attr_int64(row, TURN_PARTITION_ID));

		set_turn(line, jobq_attr_int64(row, TURN_JOB_ID));
		want_look(&looks, line->turn);
	}
	jobq_scan_end(scan);
}

/* A step of a gate, in a transaction */
typedef struct Step
{
	Gate	   *gate;
	TimestampTz now;
	bool		more;			/* there is more to do at once */
} Step;

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
			kept_is_locked(k, step->now);
		else
			forget_kept(NULL, k->job_id);
		n++;
	}
	return n;
}

/*
 * Empty the lanes of the gates before this one, as far as one step does.  A lane is
 * empty when a look at it from its beginning has found no row.  What is locked is
 * kept aside, and the next look begins when all of that has gone.
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
		if (jobq_compare_keys(gate->emptied, jobq_key_first) == 0 && !pairingheap_is_empty(&gate->kept))
			return;				/* until these are to be tried again */
		n = jobq_empty_lane(call, lane, number, left, &gate->emptied, &locked);
		keep_locked(gate, NULL, &locked, step->now);
		left -= n;
		gate->found |= n > 0 || locked.n > 0;
		if (jobq_compare_keys(gate->emptied, jobq_key_first) != 0)
			break;				/* there is more in this lane */
		if (!gate->found)
			gate->emptying++;
		gate->found = false;
	}
	if (gate->emptying >= lanes)
		gate->phase = READING;
	step->more = true;
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
		gate->at = Min(gate->at, step->now + LOCKED_MOST);
}

/* A job that runs, or is ready in the lane of a gate that is being read */
static void
read_member(const JobqAdmitted *a, void *arg)
{
	Gate	   *gate = hash_search(gates, &a->queue_id, HASH_FIND, NULL);
	Line	   *line;

	if (gate == NULL || gate->phase != READING || lets_go(gate))
		return;
	line = get_line(gate, a->partition_id);
	(void) add_member(line, a->job_id, a->position, a->attempt);

	/* one that has begun before the queue was ordered has the turn */
	if (gate->settings.ordered && a->partition_id != 0 && a->position == 0 && line->turn == 0)
	{
		jobq_set_turn(arg, a->queue_id, a->partition_id, a->job_id);
		set_turn(line, a->job_id);
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

	hash_seq_init(&seq, gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->phase == READING && !lets_go(gate))
		{
			lanes = lanes ? repalloc(lanes, (n + gate->nlanes) * sizeof(int64)) : palloc(gate->nlanes * sizeof(int64));
			for (int i = 0; i < gate->nlanes; i++)
				lanes[n++] = jobq_gate_lane(gate->lanes[i].lane, gate_number(gate));
		}
	}
	if (n > 0)
		jobq_read_admitted(call, n, lanes, read_member, call);
	hash_seq_init(&seq, gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->phase != READING)
			continue;
		gate->phase = PASSING;
		touch(gate);
	}
}

/* How many jobs can be let in, as far as the queue is concerned. */
static int
gate_room(Gate *gate, TimestampTz now)
{
	const JobqQueue *q = &gate->settings;
	double		room = gate->keep_ready - gate->nready;

	if (lets_go(gate))
		return INT_MAX;
	if (q->max_running > 0)
		room = Min(room, q->max_running - gate->nmembers);
	if (q->rate > 0 && room >= 1)
	{
		room = Min(room, floor(tokens(&gate->bucket, q->rate, q->rate_interval, now)) - gate->nready);
		if (room < 1)
			gate->at = Min(gate->at, next_token(&gate->bucket, gate->nready, q->rate, q->rate_interval));
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
	JobqTried	tried = jobq_let_in_job(call, order, k->job_id, turn ? NULL : &k->key, gate_number(line->gate),
										is_ordered(line) && !turn, in);

	if (tried == TRIED_LOCKED)
		kept_is_locked(k, step->now);
	else if (tried == TRIED_GONE && turn)
	{
		/* it has left the line, and may keep its turn */
		want_look(&looks, line->turn);
		set_turn_waits(line, false, step->now);
	}
	else if (tried == TRIED_GONE)
		forget_kept(line, k->job_id);
	return tried == TRIED_DONE;
}

/* Let jobs of a line in; returns how many. */
static int
serve_line(JobqCall *call, Step *step, Line *line, int room)
{
	Gate	   *gate = step->gate;
	JobqOrder	order = {JOBQ_LIMITED, 2, {line->key.queue_id, line->key.partition_id}};
	Kept	   *k = first_kept(line);
	JobqAdmitted in[STEP_ROWS];
	TimestampTz at;
	int			n;

	room = Min(room, line_room(line, step->now, &at));
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
		else if (!pairingheap_is_empty(gate->lines))
			limit = first_key(pairingheap_container(Line, node, pairingheap_first(gate->lines)));
		if (k != NULL && (k->due || is_ordered(line)) && jobq_compare_keys(k->key, limit) < 0)
			limit = k->key;
		n = jobq_let_in_line(call, &order, line->floors, gate_number(gate), is_ordered(line), Min(room, STEP_ROWS),
							 limit, in, &next, &locked);
		pass_rows(line, next);
		keep_locked(gate, line, &locked, step->now);
	}
	for (int i = 0; i < n; i++)
	{
		forget_kept(line, in[i].job_id);
		if (!lets_go(gate))
			(void) add_member(line, in[i].job_id, in[i].position, in[i].attempt);
	}
	if (is_ordered(line) && n > 0)
		set_turn(line, in[0].job_id);
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
	while (room > 0 && left > 0 && !pairingheap_is_empty(gate->lines))
	{
		Line	   *line = pairingheap_container(Line, node, pairingheap_first(gate->lines));
		int			n;

		unqueue_line(line);
		n = serve_line(call, step, line, Min(room, left));
		room -= n;
		left -= Max(n, 1);
		queue_line(line, step->now);
		drop_line_if_idle(line, step->now);
	}
	step->more = room > 0 && !pairingheap_is_empty(gate->lines);
}

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
		JobqKey		key = jobq_key_first;

		n += jobq_empty_lane(call, lanes[i].lane, 0, STEP_ROWS - n, &key, &locked);
	}
	hash_seq_init(&seq, members);
	while ((m = hash_seq_search(&seq)) != NULL)
	{
		if (m->line->gate == gate)
			want_look(&all_looks, m->job_id);
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
			if (!lets_go(gate) && gate->probe_at <= step->now)
				probe(call, step);
			let_in(call, step);
			break;
	}
}

/* Queue the lines whose time has come: they can have tokens now, or rows that were locked. */
static void
queue_timed_lines(Gate *gate, TimestampTz now)
{
	while (!pairingheap_is_empty(&gate->kept))
	{
		Kept	   *k = pairingheap_container(Kept, timer, pairingheap_first(&gate->kept));

		if (k->at > now)
			break;
		kept_is_due(k, now);
	}
	while (!pairingheap_is_empty(gate->timers))
	{
		Line	   *line = pairingheap_container(Line, timer, pairingheap_first(gate->timers));

		if (line->again_at > now)
			break;
		set_timer(line, DT_NOEND);
		queue_line(line, now);
	}
}

/* Queue all lines of a gate that opens. */
static void
queue_lines(Gate *gate, TimestampTz now)
{
	HASH_SEQ_STATUS seq;
	Line	   *line;

	hash_seq_init(&seq, lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->gate == gate)
			queue_line(line, now);
	}
}

/* A gate whose queue has none any more, and nothing behind it, is forgotten. */
static bool
drop_gate_if_gone(Gate *gate)
{
	HASH_SEQ_STATUS seq;
	Line	   *line;

	if (gate->phase != OPEN || gate->ngates > 1 || !lets_go(gate) || !pairingheap_is_empty(gate->lines) ||
		!pairingheap_is_empty(gate->timers) || !pairingheap_is_empty(&gate->kept) || gate->at != DT_NOEND)
		return false;
	hash_seq_init(&seq, lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->gate == gate)
			forget_line(line);
	}
	pfree(gate->lines);
	pfree(gate->timers);
	pfree(gate->gates);
	pfree(gate->lanes);
	hash_search(gates, &gate->queue_id, HASH_REMOVE, NULL);
	return true;
}

/* Do a step at a gate. */
static void
do_step(Gate *gate)
{
	Step		step = {.gate = gate,.now = jobq_steady()};
	ErrorData  *error;

	gate->dirty = false;
	if (gate->at <= step.now)
		gate->at = DT_NOEND;
	if (gate->phase == OPEN)
		queue_timed_lines(gate, step.now);
	if (gate->phase == PASSING && pass >= gate->pass)
	{
		gate->phase = OPEN;
		gate->probe_after = PROBE_FIRST;
		gate->probe_at = step.now;
		queue_lines(gate, step.now);
	}
	if (gate->phase == PASSING)
		return;
	error = jobq_worker_run(step_work, &step, true);
	if (error != NULL)
	{
		reopen(gate);
		gate->pass = want_pass();
		gate->dirty = false;
		gate->at = step.now + jobq_retry_delay(gate->failures.count);
		jobq_worker_failed(&gate->failures, error, "let jobs in", 0);
		return;
	}
	gate->failures.count = 0;
	if (step.more || gate->phase == READING)
		touch(gate);
	else
		(void) drop_gate_if_gone(gate);
}

/* Events */

/* Deal with what a commit tells. */
static void
hear(const JobqGateEvent *e, TimestampTz now)
{
	Gate	   *gate = get_gate(e->queue_id);
	Member	   *m = hash_search(members, &e->job_id, HASH_FIND, NULL);

	if (e->act == GATE_CHANGED)
		reopen(gate);
	else if (e->act == GATE_ARRIVED)
	{
		JobqKey		key = {e->priority, e->number};

		note_job(get_line(gate, e->partition_id), e->job_id, key, now);
	}
	if (gate->phase < PASSING || lets_go(gate))
	{
		/* its members are still to be read, but not what they have begun */
		if (e->act == GATE_BEGUN)
			take_token(get_line(gate, e->partition_id), now);
		return;
	}

	switch ((JobqGateAct) e->act)
	{
		case GATE_LEFT:
			if (m != NULL && m->position != 0 && m->position == e->number)
				remove_member(m, now);
			break;
		case GATE_BEGUN:
			if (m != NULL && m->position != 0 && m->attempt + 1 == e->number)
			{
				begin_member(add_member(m->line, e->job_id, 0, e->number), now);
				touch(gate);
			}
			else if (m != NULL && m->position == 0 && m->attempt == e->number)
				begin_member(m, now);	/* was read before this was told */
			else
				want_look(&looks, e->job_id);
			break;
		case GATE_ENDED:
			if (m != NULL && m->position != 0 && m->attempt + 1 == e->number)
				take_token(m->line, now);	/* that it began is still to be
											 * told */
			else if (m != NULL && (m->position != 0 || m->attempt != e->number))
				break;
			if (m != NULL)
				remove_member(m, now);
			break;
		case GATE_LOOK:
			want_look(&looks, e->job_id);
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

	hash_seq_init(&seq, members);
	while ((m = hash_seq_search(&seq)) != NULL)
		want_look(&all_looks, m->job_id);
	hash_seq_init(&seq, lines);
	while ((line = hash_seq_search(&seq)) != NULL)
	{
		if (line->turn != 0)
			want_look(&all_looks, line->turn);
		drop_line_if_idle(line, jobq_steady());
	}
}

/*
 * Look up all members, and read job_limited: something was not told.  Others are let in
 * meanwhile, since whoever has left untold only counts too long.
 */
static void
look_at_all(void)
{
	if (all_looks.n > 0)
		all_again = true;
	else
		begin_all_looks();
	(void) want_pass();
}

/* Take what was told. */
static int
take_events(JobqDatabase *database, TimestampTz now)
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
			unknown = true;
			look_at_all();
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
	Gate	   *gate = table != JOBQ_JOB ? hash_search(gates, &a.queue_id, HASH_FIND, NULL) : NULL;
	Member	   *m = hash_search(members, &job_id, HASH_FIND, NULL);
	bool		counts = gate != NULL && gate->phase >= PASSING && !lets_go(gate) &&
	(table == JOBQ_LEASE || (table == JOBQ_READY && a.lane == jobq_gate_lane(lane, gate_number(gate))));
	Turn	   *turn = hash_search(turns, &job_id, HASH_FIND, NULL);
	Line	   *line;

	if (counts)
	{
		bool		began = a.position == 0 && (m == NULL || m->position != 0 || m->attempt != a.attempt);

		m = add_member(get_line(gate, a.partition_id), job_id, a.position, a.attempt);
		if (began)
			begin_member(m, now);
	}
	else if (m != NULL)
	{
		/* it may have begun, and ended, without that being told */
		if (m->position != 0 && (table == JOBQ_JOB || a.attempt > m->attempt))
			take_token(m->line, now);
		remove_member(m, now);
	}

	/* a job that has begun keeps its turn until it is decided */
	if (turn == NULL)
		return;
	line = turn->line;
	if (gate == line->gate && a.partition_id == line->key.partition_id && (a.attempt > 0 || counts))
		set_turn_waits(line, table == JOBQ_LIMITED, now);
	else
	{
		jobq_set_turn(call, line->key.queue_id, line->key.partition_id, 0);
		set_turn(line, 0);
	}
	queue_line(line, now);
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
static void
do_looks(Looks *l, TimestampTz now)
{
	int			upto = l->n;
	int			from = Max(upto - STEP_LOOKS, 0);
	ErrorData  *error = jobq_worker_run(look_work, l, true);

	if (error != NULL)
	{
		failed_until = now + jobq_retry_delay(look_failures.count);
		jobq_worker_failed(&look_failures, error, "look up jobs in queues with limits", 0);
		return;
	}
	look_failures.count = 0;
	memmove(l->ids + from, l->ids + upto, (l->n - upto) * sizeof(int64));
	l->n -= upto - from;
	if (all_looks.n == 0 && all_again)
	{
		all_again = false;
		begin_all_looks();
	}
}

/* Reading job_limited */

/* A row that the pass reads. */
static bool
pass_row(TupleTableSlot *row, void *arg)
{
	JobqKey		key = {jobq_attr_int16(row, STATE_PRIORITY), jobq_attr_int64(row, READY_POSITION)};

	note_job(get_line(get_gate(jobq_attr_int64(row, STATE_QUEUE_ID)), jobq_attr_int64(row, STATE_PARTITION_ID)),
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

	if (pass_block < blocks)
	{
		BlockNumber last = Min(pass_block + PASS_BLOCKS, blocks) - 1;

		ItemPointerSet(&from, pass_block, FirstOffsetNumber);
		ItemPointerSet(&upto, last, MaxOffsetNumber);
		jobq_read_places(call, JOBQ_LIMITED, &from, &upto, pass_row, arg);
		pass_block = last + 1;
	}
	passing = pass_block < blocks;
}

/* A step of the pass. */
static void
do_pass(TimestampTz now)
{
	BlockNumber block = pass_block;
	ErrorData  *error = jobq_worker_run(pass_work, &now, true);
	HASH_SEQ_STATUS seq;
	Gate	   *gate;

	if (error != NULL)
	{
		pass_block = block;
		passing = true;
		failed_until = now + jobq_retry_delay(pass_failures.count);
		jobq_worker_failed(&pass_failures, error, "read jobs in queues with limits", 0);
		return;
	}
	pass_failures.count = 0;
	if (passing)
		return;
	pass++;
	if (pass_again)
	{
		pass_again = false;
		(void) want_pass();
	}
	hash_seq_init(&seq, gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->phase == PASSING)
			touch(gate);
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
			(void) get_gate(jobq_attr_int64(row, QUEUE_ID));
	}
	jobq_scan_end(scan);

	/* that one has changed can have been told in vain */
	hash_seq_init(&seq, gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		int64	   *found;
		int			n = jobq_read_gates(call, gate->queue_id, &found);

		if (gate->ngates >= 0 && (n == 0 ? 0 : found[n - 1]) != (gate->ngates == 0 ? 0 : gate->gates[gate->ngates - 1]))
			reopen(gate);
	}
	if (pass == 0)
		(void) want_pass();
	unknown = false;
}

/* The round */

/* Something changed that was not announced, or may have. */
void
jobq_gatekeeper_sweep(void)
{
	if (!unknown)
		look_at_all();
	unknown = true;
}

/* When there is something to do at a gate, by the clock. */
static TimestampTz
gate_at(Gate *gate)
{
	TimestampTz at = gate->at;

	if (gate->phase == OPEN && !lets_go(gate))
		at = Min(at, gate->probe_at);
	if (!pairingheap_is_empty(gate->timers))
		at = Min(at, pairingheap_container(Line, timer, pairingheap_first(gate->timers))->again_at);
	if (!pairingheap_is_empty(&gate->kept))
		at = Min(at, pairingheap_container(Kept, timer, pairingheap_first(&gate->kept))->at);
	return at;
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
		*pause = take_events(database, now) >= PAUSE_EVENTS;
	if (failed_until > now)
		return false;
	if (unknown)
	{
		ErrorData  *error = jobq_worker_run(queues_work, NULL, true);

		if (error != NULL)
		{
			failed_until = now + jobq_retry_delay(read_failures.count);
			jobq_worker_failed(&read_failures, error, "read which queues have limits", 0);
			return false;
		}
		read_failures.count = 0;
	}
	while (looks.n > 0 && failed_until <= now && jobq_steady() < until && !jobq_worker_must_leave())
		do_looks(&looks, now);
	if (all_looks.n > 0 && failed_until <= now)
		do_looks(&all_looks, now);
	if (passing && failed_until <= now)
		do_pass(now);
	due = palloc(hash_get_num_entries(gates) * sizeof(Gate *));
	hash_seq_init(&seq, gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		if (gate->dirty || gate_at(gate) <= now)
			due[n++] = gate;
	}
	changed = false;
	for (int i = 0; i < n; i++)
	{
		if (looks.n > 0 || jobq_steady() >= until || jobq_worker_must_leave())
			touch(due[i]);
		else
			do_step(due[i]);
	}
	return changed || passing || looks.n > 0 || all_looks.n > 0;
}

/* When there is something to do next, by jobq_steady(). */
TimestampTz
jobq_gatekeeper_next(void)
{
	TimestampTz at = changed || passing || looks.n > 0 || all_looks.n > 0 || unknown ? failed_until : DT_NOEND;
	HASH_SEQ_STATUS seq;
	Gate	   *gate;

	hash_seq_init(&seq, gates);
	while ((gate = hash_seq_search(&seq)) != NULL)
	{
		at = Min(at, gate_at(gate));
	}
	return Max(at, failed_until);
}
