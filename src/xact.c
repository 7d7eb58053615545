/*
 * xact.c
 *	  What a transaction does to shared memory when it commits.
 *
 * Writing to the tables announces what others want to know: jobs that became
 * ready or were decided, deadlines, leases.  That is kept here until the
 * transaction commits and its rows are visible, and then done.  If it aborts
 * nobody hears of it, and neither if the server dies at the commit: whoever
 * depends on it looks at the tables then.  The one exception are jobs that it
 * took from job_ready: when that is undone, others can have them.
 *
 * Announcements are appended to arrays.  A mark remembers how long they were
 * when a level of subtransactions first announced something: aborting it cuts
 * them off there, committing it leaves them to its parent.
 *
 * 1. They are carried out after the rows are visible, and also after locks are
 *	  released and caches invalidated: whoever is woken finds neither in its
 *	  way.  That is too late for a commit callback, so the callback that releases
 *	  resources does it.  It touches only memory attached before and allocates
 *	  nothing: it cannot fail.
 * 2. What can fail (allocation, looking at catalogs) is done when something is
 *	  announced, or before the commit.
 * 3. PREPARE TRANSACTION forgets the announcements; COMMIT PREPARED, in
 *	  whatever session, makes the worker sweep and the waiters look (hooks.c).
 */
#include "postgres.h"

#include "access/xact.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/resowner.h"
#include "utils/timestamp.h"

#include "background.h"

/* Jobs that became ready in a lane, one after the other */
typedef struct ReadyLane
{
	int64		lane;
	int64		count;
} ReadyLane;

typedef enum LeaseAct
{
	LEASE_ENTER,
	LEASE_END,
	LEASE_CANCEL
} LeaseAct;

typedef struct LeaseChange
{
	LeaseAct	act;
	int64		job_id;
	int64		token;
	TimestampTz until;
} LeaseChange;

/* What is not in arrays */
typedef struct Scalars
{
	TimestampTz deadlines[DEADLINE_KINDS];	/* the lowest; DT_NOEND: none */
	bool		wake_worker;
	bool		extension;		/* an extension came or went */
	const char *no_prepare;		/* why it cannot be prepared, or NULL */
} Scalars;

/* How things were when a level first announced something */
typedef struct Mark
{
	int			level;
	int			nready;
	int			ntaken;
	int			ndecided;
	int			nleases;
	Scalars		scalars;
} Mark;

/* A growing array of one of the types above */
typedef struct Array
{
	int			n;
	int			max;
	void	   *items;
} Array;

static Array ready;				/* ReadyLane */
static Array taken;				/* ReadyLane, see jobq_announce_taken() */
static Array decided;			/* int64 */
static Array leases;			/* LeaseChange */
static Array marks;				/* Mark, of levels above 1 */
static Scalars scalars;
static bool anything = false;	/* something was announced */
static bool committed = false;	/* and is to be carried out now */

#define KEEP_ITEMS		1024	/* larger arrays are freed after use */
#define LOOK_BACK		16		/* entries searched for the same lane */

/* Make room for one more item and return it. */
static void *
append(Array *a, Size size)
{
	if (a->n >= a->max)
	{
		int			max = Max(a->max * 2, 64);

		if (a->items == NULL)
			a->items = MemoryContextAlloc(TopMemoryContext, max * size);
		else
			a->items = repalloc_huge(a->items, max * size);
		a->max = max;
	}
	return (char *) a->items + size * a->n++;
}

/* Empty an array. */
static void
empty(Array *a)
{
	a->n = 0;
	if (a->max > KEEP_ITEMS)
	{
		pfree(a->items);
		a->items = NULL;
		a->max = 0;
	}
}

/* Forget all announcements. */
static void
forget(void)
{
	empty(&ready);
	empty(&taken);
	empty(&decided);
	empty(&leases);
	empty(&marks);
	memset(&scalars, 0, sizeof(scalars));
	for (int k = 0; k < DEADLINE_KINDS; k++)
		scalars.deadlines[k] = DT_NOEND;
	anything = false;
}

/* The latest mark. */
static Mark *
last_mark(void)
{
	return marks.n > 0 ? &((Mark *) marks.items)[marks.n - 1] : NULL;
}

/* Called before each announcement: false if there is nobody to hear of it. */
static bool
begin_announcement(void)
{
	int			level = GetCurrentTransactionNestLevel();
	Mark	   *last = last_mark();

	if (!jobq_shmem_ready())
		return false;
	if (level > 1 && (last == NULL || last->level < level))
	{
		Mark		mark;

		mark.level = level;
		mark.nready = ready.n;
		mark.ntaken = taken.n;
		mark.ndecided = decided.n;
		mark.nleases = leases.n;
		mark.scalars = scalars;
		*(Mark *) append(&marks, sizeof(Mark)) = mark;
	}
	anything = true;
	return true;
}

/* Count one more job of a lane, in an array whose part before from is closed. */
static void
count_lane(Array *a, int from, int64 lane)
{
	ReadyLane  *r;

	from = Max(from, a->n - LOOK_BACK);
	for (int i = a->n - 1; i >= from; i--)
	{
		r = &((ReadyLane *) a->items)[i];
		if (r->lane == lane)
		{
			r->count++;
			return;
		}
	}
	r = append(a, sizeof(ReadyLane));
	r->lane = lane;
	r->count = 1;
}

/* A job became ready. */
void
jobq_announce_ready(int64 lane)
{
	if (begin_announcement())
		count_lane(&ready, last_mark() ? last_mark()->nready : 0, lane);
}

/* A ready job was taken: if that is undone, it is ready again for others. */
void
jobq_announce_taken(int64 lane)
{
	if (begin_announcement())
		count_lane(&taken, last_mark() ? last_mark()->ntaken : 0, lane);
}

/* Jobs that were there can be claimed again: a queue was resumed. */
void
jobq_announce_resumed(int64 lane)
{
	ReadyLane  *r;

	if (!begin_announcement())
		return;
	r = append(&ready, sizeof(ReadyLane));
	r->lane = lane;
	r->count = INT_MAX;
}

/* A job was decided. */
void
jobq_announce_decided(int64 job_id)
{
	if (begin_announcement())
		*(int64 *) append(&decided, sizeof(int64)) = job_id;
}

/* A row with a deadline was written. */
void
jobq_announce_deadline(JobqDeadline kind, TimestampTz at)
{
	if (begin_announcement())
		scalars.deadlines[kind] = Min(scalars.deadlines[kind], at);
}

/* Something happened to a lease. */
static void
announce_lease_change(LeaseAct act, int64 job_id, int64 token, TimestampTz until)
{
	LeaseChange *c;

	if (!begin_announcement())
		return;
	c = append(&leases, sizeof(LeaseChange));
	c->act = act;
	c->job_id = job_id;
	c->token = token;
	c->until = until;
}

/* A lease began, or its row was extended. */
void
jobq_announce_lease(int64 job_id, int64 token, TimestampTz until)
{
	announce_lease_change(LEASE_ENTER, job_id, token, until);
}

/* A lease ended. */
void
jobq_announce_lease_end(int64 job_id, int64 token)
{
	announce_lease_change(LEASE_END, job_id, token, 0);
}

/* A running job was asked to stop. */
void
jobq_announce_cancel_request(int64 job_id, int64 token)
{
	announce_lease_change(LEASE_CANCEL, job_id, token, 0);
}

/* The worker has to look at more than deadlines. */
void
jobq_announce_wake_worker(void)
{
	if (begin_announcement())
		scalars.wake_worker = true;
}

/* An extension was created or dropped; was it ours? */
void
jobq_announce_extension(void)
{
	if (begin_announcement())
		scalars.extension = true;
}

/* This transaction cannot be prepared; why: an error message. */
void
jobq_forbid_prepare(const char *why)
{
	if (begin_announcement())
		scalars.no_prepare = why;
}

/* Wake those who wait for jobs of a lane. */
static void
tell_lane(const ReadyLane *r)
{
	jobq_wake_lane(r->lane, Min(r->count, INT_MAX));
	jobq_worker_lane_ready(r->lane);
}

/* Taking jobs was undone, from this entry on. */
static void
give_back(int from)
{
	for (int i = from; i < taken.n; i++)
		tell_lane(&((ReadyLane *) taken.items)[i]);
	taken.n = Min(taken.n, from);
}

/* Do what was announced. */
static void
carry_out(void)
{
	for (int i = 0; i < leases.n; i++)
	{
		LeaseChange *c = &((LeaseChange *) leases.items)[i];

		switch (c->act)
		{
			case LEASE_ENTER:
				jobq_beat_enter(c->job_id, c->token, c->until);
				break;
			case LEASE_END:
				jobq_beat_remove(c->job_id, c->token);
				break;
			case LEASE_CANCEL:
				jobq_beat_cancel(c->job_id, c->token);
				break;
		}
	}
	for (int i = 0; i < ready.n; i++)
		tell_lane(&((ReadyLane *) ready.items)[i]);
	for (int i = 0; i < decided.n; i++)
		jobq_wake_job(((int64 *) decided.items)[i]);
	for (int k = 0; k < DEADLINE_KINDS; k++)
	{
		if (scalars.deadlines[k] != DT_NOEND)
			jobq_worker_deadline(k, scalars.deadlines[k]);
	}
	if (scalars.wake_worker)
		jobq_worker_wake();
}

/* Whether to tell the worker of an extension that came or went. */
static void
check_extension(void)
{
	JobqDatabase *db = jobq_my_database(false);

	/* it went if there is a slot, it came if it exists now */
	scalars.extension = false;
	if ((db != NULL && db->state != DATABASE_NONE) || jobq_extension_exists())
		scalars.wake_worker = true;
}

/* Transactions end. */
static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
			if (scalars.extension)
				check_extension();
			break;
		case XACT_EVENT_COMMIT:
			committed = true;
			break;
		case XACT_EVENT_PRE_PREPARE:
			if (scalars.no_prepare != NULL)
				ereport(ERROR,
						(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
						 errmsg("%s", scalars.no_prepare),
						 errhint("Commit it, and let a transaction of its own do what has to be prepared.")));
			break;
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			committed = false;
			if (event == XACT_EVENT_ABORT)
				give_back(0);
			if (anything)
				forget();
			jobq_waiter_at_abort();
			jobq_hooks_end_transaction();
			break;
		case XACT_EVENT_PARALLEL_PRE_COMMIT:
		case XACT_EVENT_PARALLEL_COMMIT:
		case XACT_EVENT_PARALLEL_ABORT:
			break;
	}
}

/* Resources are released: after the locks, once, do what the commit is to do. */
static void
release_callback(ResourceReleasePhase phase, bool commit, bool top_level, void *arg)
{
	if (!committed || phase != RESOURCE_RELEASE_AFTER_LOCKS)
		return;
	committed = false;
	if (anything)
	{
		carry_out();
		forget();
	}
	jobq_waiter_at_commit();
	jobq_hooks_end_transaction();
}

/* Subtransactions end. */
static void
subxact_callback(SubXactEvent event, SubTransactionId subid, SubTransactionId parent, void *arg)
{
	int			level = GetCurrentTransactionNestLevel();
	Mark	   *last = last_mark();

	if (last == NULL || last->level < level)
		return;
	if (event == SUBXACT_EVENT_COMMIT_SUB)
	{
		/* the parent takes over, with a mark of its own if it has none */
		if (level == 2 || (marks.n > 1 && last[-1].level == level - 1))
			marks.n--;
		else
			last->level = level - 1;
	}
	else if (event == SUBXACT_EVENT_ABORT_SUB)
	{
		give_back(last->ntaken);
		ready.n = last->nready;
		decided.n = last->ndecided;
		leases.n = last->nleases;
		scalars = last->scalars;
		marks.n--;
	}
}

/* Register the callbacks, once. */
void
jobq_xact_init(void)
{
	forget();
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
	RegisterResourceReleaseCallback(release_callback, NULL);
}
