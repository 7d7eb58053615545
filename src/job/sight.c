/*
 * sight.c
 *	  Which jobs the caller may see, and which act upon.
 *
 * To one who may not even see a job, it does not exist (JQ002).
 */
#include "postgres.h"

#include "miscadmin.h"
#include "utils/acl.h"

#include "job/job.h"

/* The row of a job, or JQ002; free it with jobq_slot_free(). */
TupleTableSlot *
jobq_need_job(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);

	if (job == NULL)
		jobq_error_no_such_job(id);
	return job;
}

/* Is this job leased by the caller? */
bool
jobq_held_by_caller(JobqCall *call, int64 id)
{
	TupleTableSlot *lease = jobq_find_id(call, JOBQ_LEASE, id);
	bool		held = lease != NULL && has_privs_of_role(GetUserId(), jobq_attr_oid(lease, LEASE_HOLDER));

	jobq_slot_free(lease);
	return held;
}

/* Is a child of this job leased by the caller, who thus may read its result? */
static bool
child_held_by_caller(JobqCall *call, int64 id)
{
	Datum		key = Int64GetDatum(id);
	JobqScan   *scan = jobq_scan_begin(call, JOBQ_DEPENDENCY, INDEX_KEY, 1, &key, NULL);
	TupleTableSlot *edge;
	bool		held = false;

	while (!held && (edge = jobq_scan_next(scan)) != NULL)
		held = jobq_attr_int16(edge, DEP_REQUIRE) != REQUIRE_END_ONLY &&
			jobq_held_by_caller(call, jobq_attr_int64(edge, DEP_DOWNSTREAM));
	jobq_scan_end(scan);
	return held;
}

/* May the caller see the job, if there is one?  granted: that is known already. */
bool
jobq_may_see(JobqCall *call, int64 id, bool granted)
{
	TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);
	bool		may = job != NULL &&
	(granted || jobq_is_owner() ||
	 jobq_visible(call, jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE)),
				  jobq_attr_oid(job, JOB_SUBMITTED_BY), InvalidOid) ||
	 jobq_held_by_caller(call, id) ||
	 child_held_by_caller(call, id));

	jobq_slot_free(job);
	return may;
}

/* A job that the caller may not see does not exist. */
void
jobq_require_visible(JobqCall *call, int64 id)
{
	if (!jobq_may_see(call, id, false))
		jobq_error_no_such_job(id);
}

/*
 * The caller must be allowed to operate on the job's queue, or have submitted
 * the job where that is enough; to one who cannot even see it, it does not exist.
 * False: it is not, and *problem says so; without that, it is an error.
 */
bool
jobq_may_operate(JobqCall *call, TupleTableSlot *job, bool or_submitter, const char **problem)
{
	int64		id = jobq_attr_int64(job, JOB_ID);
	char	   *queue = jobq_attr_cstring(job, JOB_QUEUE);
	int64		queue_id = jobq_queue_id(queue);

	if ((or_submitter && has_privs_of_role(GetUserId(), jobq_attr_oid(job, JOB_SUBMITTED_BY))) ||
		jobq_has_privilege(call, queue_id, PRIV_OPERATE))
		return true;
	if (!jobq_may_see(call, id, false))
		jobq_refuse_no_such_job(problem, id);
	else if (problem != NULL)
		*problem = jobq_privilege_problem(queue);
	else
		jobq_require_privilege(call, queue_id, PRIV_OPERATE, queue);
	return false;
}

/* Have a job stay until the end of this transaction; false: its row changed, look again. */
static bool
keep_job(JobqCall *call, int64 id)
{
	TupleTableSlot *job = jobq_need_job(call, id);
	bool		locked = jobq_lock(call, JOBQ_JOB, job, LockTupleKeyShare, LockWaitBlock);

	jobq_slot_free(job);
	return locked;
}

/*
 * The lease of the attempt with this token, under the latest snapshot, for what its worker
 * tells of it; or JQ001, or JQ002 for those who may not know.  The lease is not locked,
 * but the job's row is, FOR KEY SHARE, which only a removal minds: so nothing is
 * committed of a job that is gone.
 */
TupleTableSlot *
jobq_need_lease(JobqCall *call, int64 id, int64 token)
{
	TupleTableSlot *lease = jobq_find_id(call, JOBQ_LEASE, id);

	if (lease == NULL || jobq_attr_int64(lease, LEASE_TOKEN) != token)
	{
		TupleTableSlot *job = jobq_find_id(call, JOBQ_JOB, id);

		if (job == NULL || !jobq_may_work_on(call, job))
			jobq_error_no_such_job(id);
		jobq_error_stale(id);
	}
	jobq_require_privilege(call, jobq_attr_int64(lease, STATE_QUEUE_ID), PRIV_WORK, NULL);
	if (keep_job(call, id))
		return lease;
	jobq_slot_free(lease);
	return jobq_need_lease(call, id, token);
}
