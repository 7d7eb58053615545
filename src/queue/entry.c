/*
 * entry.c
 *	  What every entry point does first.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/inval.h"

#include "queue/queue.h"

/* Refuse to work without shared memory. */
void
jobq_require_loaded(void)
{
	if (!jobq_shmem_ready())
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("jobq must be loaded via \"shared_preload_libraries\""),
				 errhint("Add jobq to shared_preload_libraries in postgresql.conf and restart the server.")));
}

/*
 * What every entry point does first: refuse where it cannot work, then begin
 * the call.
 */
void
jobq_enter(JobqCall *call, const char *function, bool writes)
{
	jobq_require_loaded();
	if (writes)
	{
		PreventCommandDuringRecovery(function);
		PreventCommandIfReadOnly(function);
	}
	PreventCommandIfParallelMode(function);
	/* settings and grants that were committed since the transaction began */
	AcceptInvalidationMessages();
	jobq_open_call(call);
	if (writes)
		jobq_make_active(call);
}
