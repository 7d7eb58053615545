/*
 * gatekeeper.h
 *	  What the gatekeeper keeps in memory; between its own files only.
 *
 * lines.c and gates.c keep it, news.c makes it what the tables are, steps.c acts on it,
 * and gatekeeper.c has them do so; each calls only those named before it.
 */
#ifndef JOBQ_GATEKEEPER_H
#define JOBQ_GATEKEEPER_H

#include "postgres.h"

#include "lib/pairingheap.h"
#include "utils/hsearch.h"

#include "background/background.h"

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
	JobqEmptied emptied;		/* how far */
	bool		found;			/* there were rows in this look at it */
	int			pass;			/* that must have ended before it is open */
	int			nmembers;
	int			nready;			/* of these */
	int			begun;			/* attempts since the last step */
	double		keep_ready;
	double		had;			/* what the line that was served last had had */
	Bucket		bucket;
	pairingheap lines;			/* that can let one in */
	pairingheap timers;			/* lines that can then */
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

/* Jobs to be looked up */
typedef struct Looks
{
	int64	   *ids;
	int			n;
	int			room;
} Looks;

/* All of it */
typedef struct Gatekeeper
{
	MemoryContext context;		/* of what is below */
	HTAB	   *gates;
	HTAB	   *lines;
	HTAB	   *members;
	HTAB	   *turns;
	HTAB	   *kept;
	bool		unknown;		/* queues are still to be read */
	TimestampTz began_at;		/* buckets were empty then */
	bool		changed;		/* some gate is dirty */

	Looks		looks;			/* before any other is let in */
	Looks		all_looks;		/* meanwhile: all members */
	bool		all_again;		/* and once more after it */

	/* the pass over job_limited */
	int			pass;			/* the number of the last that has ended */
	bool		passing;
	bool		pass_again;		/* another is wanted after it */
	BlockNumber pass_block;

	TimestampTz failed_until;	/* neither looks nor steps before */
} Gatekeeper;

extern Gatekeeper jobq_keeper;

/* There may be something to do at a gate. */
static inline void
jobq_touch_gate(Gate *gate)
{
	gate->dirty = jobq_keeper.changed = true;
}

/* The number of the gate that is in force; 0: there is none. */
static inline int64
jobq_gate_number(const Gate *gate)
{
	return gate->ngates > 0 ? gate->gates[gate->ngates - 1] : 0;
}

/* Has a gate nothing to keep jobs back by?  Then it lets go what is left behind it. */
static inline bool
jobq_gate_lets_go(const Gate *gate)
{
	return gate->ngates >= 0 && jobq_gate_number(gate) == 0;
}

/* lines.c */
extern void jobq_lines_init(Gate *gate);
extern Kept *jobq_first_kept(const Line *line);
extern JobqKey jobq_first_key(const Line *line);
extern bool jobq_line_is_ordered(const Line *line);
extern double jobq_tokens(Bucket *bucket, int rate, int64 interval, TimestampTz now);
extern TimestampTz jobq_next_token(const Bucket *bucket, int nready, int rate, int64 interval);
extern void jobq_take_token(Line *line, TimestampTz now);
extern int	jobq_line_room(Line *line, TimestampTz now, TimestampTz *at);
extern void jobq_queue_line(Line *line, TimestampTz now);
extern void jobq_unqueue_line(Line *line);
extern Line *jobq_get_line(Gate *gate, int64 partition_id);
extern void jobq_forget_line(Line *line);
extern void jobq_close_line(Line *line);
extern void jobq_drop_idle_line(Line *line, TimestampTz now);
extern void jobq_forget_kept(Line *line, int64 job_id);
extern void jobq_kept_is_locked(Kept *k, TimestampTz now);
extern void jobq_keep_locked(Gate *gate, Line *line, const JobqLocked *locked, TimestampTz now);
extern void jobq_scan_for_kept(Gate *gate);
extern void jobq_give_turn(Line *line, int64 job_id);
extern void jobq_turn_waits(Line *line, bool waits, TimestampTz now);
extern void jobq_note_row(Line *line, int64 job_id, JobqKey key, TimestampTz now);
extern void jobq_pass_rows(Line *line, JobqKey key);
extern void jobq_queue_timed_lines(Gate *gate, TimestampTz now);
extern void jobq_queue_lines(Gate *gate, TimestampTz now);

/* gates.c */
extern void jobq_want_look(Looks *l, int64 job_id);
extern int	jobq_want_pass(void);
extern Member *jobq_add_member(Line *line, int64 job_id, int64 position, int32 attempt);
extern void jobq_begin_member(Member *m, TimestampTz now);
extern void jobq_remove_member(Member *m, TimestampTz now);
extern void jobq_reopen_gate(Gate *gate);
extern Gate *jobq_get_gate(int64 queue_id);
extern bool jobq_drop_gate_if_gone(Gate *gate);

/* news.c */
extern int	jobq_hear_events(JobqDatabase *database, TimestampTz now);
extern void jobq_look_at_all(void);
extern void jobq_do_looks(Looks *l, TimestampTz now);
extern void jobq_do_pass(TimestampTz now);
extern bool jobq_read_gated_queues(TimestampTz now);

/* steps.c */
extern void jobq_gate_step(Gate *gate);

#endif							/* JOBQ_GATEKEEPER_H */
