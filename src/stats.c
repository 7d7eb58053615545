/*
 * stats.c
 *	  What can be seen of shared memory.
 *
 * The tables say what becomes of jobs; this says only whether the settings that
 * limit shared memory are large enough.
 */
#include "postgres.h"

#include "funcapi.h"
#include "miscadmin.h"

#include "background.h"

/* Add a row: what a part is for, its size, how many entries it has and uses. */
static void
put_part(ReturnSetInfo *rsinfo, const char *name, Size size, int64 entries, int64 used)
{
	Datum		values[4] = {
		CStringGetTextDatum(name), Int64GetDatum(size), Int64GetDatum(entries), Int64GetDatum(used)
	};
	bool		nulls[4] = {false};

	tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
}

PG_FUNCTION_INFO_V1(jobq_job_shared_memory);

/* job_shared_memory() */
Datum
jobq_job_shared_memory(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	int			databases = 0;

	InitMaterializedSRF(fcinfo, 0);
	if (!jobq_shmem_ready())
		return (Datum) 0;
	for (int i = 0; i < jobq_database_count(); i++)
		databases += OidIsValid(jobq_database_at(i)->database);
	put_part(rsinfo, "databases", jobq_database_size(), jobq_database_count(), databases);
	put_part(rsinfo, "heartbeats", jobq_beat_size(), jobq_max_heartbeats, jobq_beat_count());
	put_part(rsinfo, "lanes", jobq_lanes_size(), jobq_max_lanes, jobq_lanes_count());
	put_part(rsinfo, "waiters", jobq_waiter_size(), MaxBackends, jobq_waiter_count());
	return (Datum) 0;
}
