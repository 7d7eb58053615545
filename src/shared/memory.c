/*
 * memory.c
 *	  The parts that shared memory is made of, and how far they are used.
 *
 * All have a fixed size and are made at the start of the server, each with locks
 * of one tranche.  The tables say what becomes of jobs; job_shared_memory() says
 * only whether the settings that limit shared memory are large enough.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"
#include "storage/ipc.h"
#include "storage/shmem.h"

#include "shared/shared.h"

static const JobqPart *parts[12];
static int	nparts = 0;
static bool made = false;

static shmem_request_hook_type prev_shmem_request_hook = NULL;
static shmem_startup_hook_type prev_shmem_startup_hook = NULL;

/* Add a part; called while libraries are preloaded. */
void
jobq_add_part(const JobqPart *part)
{
	Assert(nparts < lengthof(parts));
	parts[nparts++] = part;
}

/* How many locks a part has. */
static int
part_locks(const JobqPart *part)
{
	return part->locks + (part->lock_each ? *part->entries : 0);
}

/* Ask for shared memory and locks. */
static void
shmem_request(void)
{
	int			nlocks = 0;

	if (prev_shmem_request_hook)
		prev_shmem_request_hook();
	for (int i = 0; i < nparts; i++)
	{
		RequestAddinShmemSpace(MAXALIGN(parts[i]->size()));
		nlocks += part_locks(parts[i]);
	}
	RequestNamedLWLockTranche("jobq", nlocks);
}

/* Create shared memory, or attach to it. */
static void
shmem_startup(void)
{
	LWLockPadded *locks;

	if (prev_shmem_startup_hook)
		prev_shmem_startup_hook();

	LWLockAcquire(AddinShmemInitLock, LW_EXCLUSIVE);
	locks = GetNamedLWLockTranche("jobq");
	for (int i = 0; i < nparts; i++)
	{
		parts[i]->init(locks);
		locks += part_locks(parts[i]);
	}
	made = true;
	LWLockRelease(AddinShmemInitLock);
}

/* Have shared memory made; called while libraries are preloaded. */
void
jobq_memory_init(void)
{
	jobq_add_part(&jobq_databases_part);
	jobq_add_part(&jobq_heartbeats_part);
	jobq_add_part(&jobq_waiters_part);
	jobq_add_part(&jobq_counts_part);
	jobq_add_part(&jobq_gate_events_part);
	jobq_add_part(&jobq_sessions_part);
	jobq_add_part(&jobq_workers_part);
	jobq_add_part(&jobq_affinities_part);
	prev_shmem_request_hook = shmem_request_hook;
	shmem_request_hook = shmem_request;
	prev_shmem_startup_hook = shmem_startup_hook;
	shmem_startup_hook = shmem_startup;
}

/* Is the library preloaded and shared memory there? */
bool
jobq_shmem_ready(void)
{
	return made;
}

/* A part by its number, from 0 on; NULL: there are no more. */
const JobqPart *
jobq_part(int i)
{
	return made && i < nparts ? parts[i] : NULL;
}

PG_FUNCTION_INFO_V1(jobq_job_shared_memory);

/* job_shared_memory() */
Datum
jobq_job_shared_memory(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	const JobqPart *part;

	InitMaterializedSRF(fcinfo, 0);
	for (int i = 0; (part = jobq_part(i)) != NULL; i++)
	{
		Datum		values[4] = {
			CStringGetTextDatum(part->name), Int64GetDatum(part->size()),
			Int64GetDatum(*part->entries), Int64GetDatum(part->used())
		};
		bool		nulls[4] = {false};

		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
