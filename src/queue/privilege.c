/*
 * privilege.c
 *	  Who may do what on which queue.
 *
 * job_privilege says it, by role OID, so a role that was dropped and made
 * again gets nothing back.  The functions read and write our tables whatever
 * the caller's rights on them are, so each asks here first.  job_grant() also
 * grants what EXECUTE, SELECT and USAGE the privilege takes (job_apply_grant() in
 * the script), so that the ordinary checks let the caller come that far.
 *
 * The extension's owner and superusers may do everything.  Rows are cached
 * until a relcache invalidation for one of our tables (catalog.c).
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "port/pg_bitutils.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "queue/queue.h"

typedef struct Grant
{
	Oid			role;
	bool		all_queues;
	int64		queue_id;		/* unless all_queues */
	int			privilege;
} Grant;

static List *grants = NIL;
static bool grants_valid;
static uint32 grant_resets;		/* invalidations so far */

/* In the order of the bits of JobqPrivilege */
static const char *const privilege_names[] = {"submit", "work", "operate", "read"};

/* Forget the cached grants. */
static void
forget_grants(void)
{
	grants_valid = false;
	grant_resets++;
}

/* Forget them whenever a table of ours may have changed. */
void
jobq_privilege_init(void)
{
	jobq_on_catalog_reset(forget_grants);
}

/* Find a privilege by name, or fail. */
static JobqPrivilege
find_privilege(const char *name)
{
	for (int i = 0; i < lengthof(privilege_names); i++)
	{
		if (strcmp(privilege_names[i], name) == 0)
			return 1 << i;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized privilege: \"%s\"", name),
			 errhint("Valid privileges are \"submit\", \"work\", \"operate\" and \"read\".")));
}

/*
 * Read job_privilege into the cache.  What is there counts only once it is
 * complete, and if no invalidation came in meanwhile.
 */
static void
load_grants(JobqCall *call)
{
	JobqScan   *scan;
	TupleTableSlot *slot;
	uint32		resets = grant_resets;

	if (grants_valid)
		return;
	list_free_deep(grants);
	grants = NIL;
	scan = jobq_scan_begin(call, JOBQ_PRIVILEGE, INDEX_KEY, 0, NULL, NULL);
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		char	   *queue = jobq_attr_cstring(slot, PRIVILEGE_QUEUE);
		MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
		Grant	   *g = palloc0(sizeof(Grant));

		grants = lappend(grants, g);
		MemoryContextSwitchTo(old);
		g->role = jobq_attr_oid(slot, PRIVILEGE_ROLE);
		g->all_queues = strcmp(queue, "*") == 0;
		g->queue_id = g->all_queues ? 0 : jobq_queue_id(queue);
		g->privilege = find_privilege(jobq_attr_cstring(slot, PRIVILEGE_PRIVILEGE));
	}
	jobq_scan_end(scan);
	grants_valid = resets == grant_resets;
}

/* May the caller do everything? */
bool
jobq_is_owner(void)
{
	return superuser() || has_privs_of_role(GetUserId(), jobq_owner());
}

/* Has the caller one of these privileges, on the queue_id or, if that will do, on any queue? */
static bool
has_privilege(JobqCall *call, bool any_queue, int64 queue_id, int wanted)
{
	ListCell   *lc;

	if (jobq_is_owner())
		return true;
	load_grants(call);
	foreach(lc, grants)
	{
		Grant	   *g = lfirst(lc);

		if ((g->privilege & wanted) && (any_queue || g->all_queues || g->queue_id == queue_id) &&
			has_privs_of_role(GetUserId(), g->role))
			return true;
	}
	return false;
}

/* Has the caller one of these privileges on the queue_id? */
bool
jobq_has_privilege(JobqCall *call, int64 queue_id, int wanted)
{
	return has_privilege(call, false, queue_id, wanted);
}

/* The same on any queue? */
bool
jobq_has_privilege_anywhere(JobqCall *call, int wanted)
{
	return has_privilege(call, true, 0, wanted);
}

/* That one is missing. */
char *
jobq_privilege_problem(const char *queue)
{
	return psprintf("permission denied for queue \"%s\"", queue);
}

/* The same, or an error. */
void
jobq_require_privilege(JobqCall *call, int64 queue_id, JobqPrivilege privilege, const char *queue)
{
	if (jobq_has_privilege(call, queue_id, privilege))
		return;
	if (queue == NULL)
	{
		JobqQueue	settings;

		jobq_queue_settings(call, queue_id, &settings);
		queue = pstrdup(settings.name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg_internal("%s", jobq_privilege_problem(queue)),
			 errdetail("The privilege \"%s\" is needed.",
					   privilege_names[pg_leftmost_one_pos32(privilege)]),
			 errhint("The owner of the extension can grant it with job_grant.")));
}

/* May the caller work on the queue of a job? */
bool
jobq_may_work_on(JobqCall *call, TupleTableSlot *job)
{
	return jobq_is_owner() ||
		jobq_has_privilege(call, jobq_queue_id(jobq_attr_cstring(job, JOB_QUEUE)), PRIV_WORK);
}

/* May the caller see a job of this queue_id, submitted and held by these roles? */
bool
jobq_visible(JobqCall *call, int64 queue_id, Oid submitted_by, Oid holder)
{
	return jobq_has_privilege(call, queue_id, PRIV_READ | PRIV_OPERATE) ||
		(OidIsValid(submitted_by) && has_privs_of_role(GetUserId(), submitted_by)) ||
		(OidIsValid(holder) && has_privs_of_role(GetUserId(), holder));
}

PG_FUNCTION_INFO_V1(jobq_job_visible);

/* job_visible(queue, submitted_by, holder) */
Datum
jobq_job_visible(PG_FUNCTION_ARGS)
{
	JobqCall	call;
	bool		visible;
	char	   *queue;

	if (jobq_is_owner())
		PG_RETURN_BOOL(true);
	if (PG_ARGISNULL(0))
		PG_RETURN_BOOL(false);
	queue = text_to_cstring(PG_GETARG_TEXT_PP(0));
	PreventCommandIfParallelMode("job_visible()");
	jobq_open_call(&call);
	visible = jobq_visible(&call, jobq_queue_id(queue),
						   PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1),
						   PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2));
	jobq_close_call(&call);
	PG_RETURN_BOOL(visible);
}

/*
 * Have job_apply_grant() grant or revoke what EXECUTE, SELECT and USAGE a
 * privilege takes.
 */
static void
apply_grant(Oid role, const char *privilege, bool granted)
{
	Oid			types[3] = {REGROLEOID, TEXTOID, BOOLOID};
	Datum		values[3] = {ObjectIdGetDatum(role), CStringGetTextDatum(privilege), BoolGetDatum(granted)};
	char	   *sql = psprintf("SELECT %s.job_apply_grant($1, $2, $3)",
							   quote_identifier(get_namespace_name(jobq_schema())));

	SPI_connect();
	if (SPI_execute_with_args(sql, 3, types, values, NULL, false, 0) != SPI_OK_SELECT)
		elog(ERROR, "could not execute \"%s\"", sql);
	SPI_finish();
}

/* What job_grant and job_revoke have in common: arguments, rights, the row. */
static Datum
change_grant(FunctionCallInfo fcinfo, bool grant)
{
	JobqCall	call;
	Oid			role;
	char	   *queue;
	char	   *privilege;
	JobqRow		new = {0};
	TupleTableSlot *slot;

	if (PG_ARGISNULL(0))
		jobq_error_null("role");
	if (PG_ARGISNULL(1))
		jobq_error_null("queue");
	if (PG_ARGISNULL(2))
		jobq_error_null("privilege");
	role = PG_GETARG_OID(0);
	queue = text_to_cstring(PG_GETARG_TEXT_PP(1));
	if (strcmp(queue, "*") != 0)
		jobq_check_queue_name(queue);
	privilege = text_to_cstring(PG_GETARG_TEXT_PP(2));
	(void) find_privilege(privilege);
	(void) GetUserNameFromId(role, false);

	jobq_enter(&call, grant ? "job_grant()" : "job_revoke()", true);
	if (!jobq_is_owner())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of extension jobq to grant or revoke privileges on queues")));
	LockRelationOid(jobq_table_oid(JOBQ_PRIVILEGE), ShareRowExclusiveLock);

	jobq_set(&new, PRIVILEGE_ROLE, ObjectIdGetDatum(role));
	jobq_set(&new, PRIVILEGE_QUEUE, CStringGetTextDatum(queue));
	jobq_set(&new, PRIVILEGE_PRIVILEGE, CStringGetTextDatum(privilege));
	slot = jobq_find(&call, JOBQ_PRIVILEGE, INDEX_KEY, 3, new.values, NULL);
	if (grant && slot == NULL)
		jobq_insert(&call, JOBQ_PRIVILEGE, &new);
	else if (!grant && slot != NULL)
		jobq_delete(&call, JOBQ_PRIVILEGE, slot, LockWaitBlock);
	jobq_slot_free(slot);
	CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_PRIVILEGE));
	jobq_advance();

	apply_grant(role, privilege, grant);
	jobq_close_call(&call);
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(jobq_job_grant);

/* job_grant(role, queue, privilege) */
Datum
jobq_job_grant(PG_FUNCTION_ARGS)
{
	return change_grant(fcinfo, true);
}

PG_FUNCTION_INFO_V1(jobq_job_revoke);

/* job_revoke(role, queue, privilege) */
Datum
jobq_job_revoke(PG_FUNCTION_ARGS)
{
	return change_grant(fcinfo, false);
}
