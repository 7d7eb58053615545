/*
 * session.c
 *	  Sessions that hold leases: which of them live.
 *
 * A session draws a number before its first session lease is written, and puts
 * it into the entry of its backend.  It stands there until the backend ends or
 * the session is discarded.  So a number that stands nowhere is of a session
 * that has ended, of this server or another, and never comes again.
 *
 * The number is made of random bits and the place of the entry, so it is looked
 * up without a search.  Whoever ends a session leaves its number in the slot of
 * the database (slots.c), for the background worker.
 *
 * The exit callback runs after the transaction was aborted, while the backend
 * still has its entry among the processes.  A crash leaves nothing: the memory
 * is made anew, and all sessions have ended.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "port/atomics.h"
#include "storage/ipc.h"
#include "storage/proc.h"
#include "storage/shmem.h"

#include "shared/shared.h"

#define PLACE_BITS	18			/* MAX_BACKENDS fits */

typedef struct Session
{
	pg_atomic_uint64 number;	/* 0: none */
	pg_atomic_uint64 worker;	/* the key of the name that claimed last */
	Oid			database;		/* written before number */
} Session;

static Session *sessions = NULL;
static int64 my_number = 0;

/* How much shared memory it takes. */
static Size
sessions_size(void)
{
	return mul_size(MaxBackends, sizeof(Session));
}

/* Initialize or attach. */
static void
sessions_init(LWLockPadded *locks)
{
	bool		found;

	sessions = ShmemInitStruct("jobq sessions", sessions_size(), &found);
	for (int i = 0; i < MaxBackends && !found; i++)
	{
		pg_atomic_init_u64(&sessions[i].number, 0);
		pg_atomic_init_u64(&sessions[i].worker, 0);
		sessions[i].database = InvalidOid;
	}
}

/* How many of them live. */
static int
sessions_used(void)
{
	int			n = 0;

	for (int i = 0; i < MaxBackends; i++)
		n += pg_atomic_read_u64(&sessions[i].number) != 0;
	return n;
}

const JobqPart jobq_sessions_part = {"sessions", &MaxBackends, 0, false,
sessions_size, sessions_init, sessions_used};

/* The entry of this backend. */
static Session *
my_session(void)
{
	return &sessions[MyProc - ProcGlobal->allProcs];
}

/* Exit callback. */
static void
end_at_exit(int code, Datum arg)
{
	jobq_session_end();
}

/* The number of this session, which a worker of this name, or none (0), claims for. */
int64
jobq_session_begin(uint64 worker)
{
	static bool exit_registered = false;
	Session    *session = my_session();
	uint64		random;

	if (!exit_registered)
	{
		on_shmem_exit(end_at_exit, (Datum) 0);
		exit_registered = true;
	}
	pg_atomic_write_u64(&session->worker, worker);
	if (my_number != 0)
		return my_number;
	do
	{
		if (!pg_strong_random(&random, sizeof(random)))
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("could not generate a random session number")));
		random &= PG_INT64_MAX >> PLACE_BITS;
	} while (random == 0);
	(void) jobq_my_database(true);	/* so that the exit has nothing to look up */
	session->database = MyDatabaseId;
	pg_write_barrier();
	my_number = random << PLACE_BITS | (MyProc - ProcGlobal->allProcs);
	pg_atomic_write_u64(&session->number, my_number);
	return my_number;
}

/* This session ends, or is given to somebody else: what it holds is lost. */
void
jobq_session_end(void)
{
	int64		number = my_number;

	if (number == 0)
		return;
	my_number = 0;
	pg_atomic_write_u64(&my_session()->number, 0);
	jobq_worker_session_ended(number);
}

/* Does a session live? */
bool
jobq_session_lives(int64 number)
{
	int			place = number & ((1 << PLACE_BITS) - 1);

	return place < MaxBackends && pg_atomic_read_u64(&sessions[place].number) == (uint64) number;
}

/* Does a session of this database live that claimed for a worker of this name? */
bool
jobq_session_of_worker(uint64 worker)
{
	for (int i = 0; i < MaxBackends; i++)
	{
		if (pg_atomic_read_u64(&sessions[i].worker) == worker &&
			pg_atomic_read_u64(&sessions[i].number) != 0 && sessions[i].database == MyDatabaseId)
			return true;
	}
	return false;
}

/* For qsort(). */
static int
compare_numbers(const void *a, const void *b)
{
	int64		x = *(const int64 *) a;
	int64		y = *(const int64 *) b;

	return x < y ? -1 : x > y;
}

/* The numbers of the sessions of this database that live, in ascending order; returns how many. */
int
jobq_live_sessions(int64 **numbers)
{
	int			n = 0;

	*numbers = palloc(MaxBackends * sizeof(int64));
	for (int i = 0; i < MaxBackends; i++)
	{
		int64		number = pg_atomic_read_u64(&sessions[i].number);

		pg_read_barrier();
		if (number != 0 && sessions[i].database == MyDatabaseId)
			(*numbers)[n++] = number;
	}
	qsort(*numbers, n, sizeof(int64), compare_numbers);
	return n;
}
