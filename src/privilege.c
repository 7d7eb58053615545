/*
 * privilege.c
 *	  Who may do what on which queue.
 *
 * job_privilege says it, by role OID, so a role that was dropped and made
 * again gets nothing back.  The functions read and write our tables whatever
 * the caller's rights on them are, so each asks here first.  job_grant() also
 * grants what EXECUTE, SELECT and USAGE the privilege takes, so that the
 * ordinary checks let the caller come that far.
 *
 * The extension's owner and superusers may do everything.  Rows are cached
 * until a relcache invalidation for job_privilege.
 */
#include "postgres.h"

#include "catalog/pg_namespace.h"
#include "executor/spi.h"
#include "lib/stringinfo.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"

#include "jobq.h"

typedef struct Grant
{
	Oid			role;
	bool		all_queues;
	int64		lane;			/* unless all_queues */
	int			privilege;
} Grant;

static Grant *grants;
static int	ngrants;
static bool grants_valid;

typedef struct PrivilegeInfo
{
	const char *name;
	JobqPrivilege bit;
	const char *routines;		/* comma-separated; %s is the schema */
	const char *views;
} PrivilegeInfo;

#define VIEW_ROUTINES	"job_visible,job_lease_until,job_outcome_name,job_cause_name"

static const PrivilegeInfo privileges[] = {
	{"submit", PRIV_SUBMIT,
		"job_submit,job_submit_many,job_result,job_wait," VIEW_ROUTINES,
	"job_status,job_attempts"},
	{"work", PRIV_WORK,
		"job_claim(text; text; int; interval),job_claim(text[]; text; int; interval),job_claim_wait,"
		"job_heartbeat,job_complete,job_complete_many,job_fail,job_fail_many,job_release,job_snooze,"
		"job_result," VIEW_ROUTINES,
	"job_status,job_attempts"},
	{"operate", PRIV_OPERATE,
		"job_cancel,job_retry,job_hold,job_unhold,job_queue_set,job_result,job_wait," VIEW_ROUTINES,
	"job_status,job_attempts,job_queue_status,job_worker_status"},
	{"read", PRIV_READ,
		"job_result,job_wait," VIEW_ROUTINES,
	"job_status,job_attempts,job_queue_status,job_worker_status"},
};

/* Forget the cached grants. */
void
jobq_privilege_reset(void)
{
	grants_valid = false;
}

/* Find a privilege by name, or fail. */
static const PrivilegeInfo *
find_privilege(const char *name)
{
	for (int i = 0; i < lengthof(privileges); i++)
	{
		if (strcmp(privileges[i].name, name) == 0)
			return &privileges[i];
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unrecognized privilege: \"%s\"", name),
			 errhint("Valid privileges are \"submit\", \"work\", \"operate\" and \"read\".")));
}

/* Read job_privilege into the cache. */
static void
load_grants(JobqCall *call)
{
	JobqScan   *scan;
	TupleTableSlot *slot;
	int			capacity = 16;

	if (grants_valid)
		return;
	if (grants)
		pfree(grants);
	grants = MemoryContextAlloc(TopMemoryContext, capacity * sizeof(Grant));
	ngrants = 0;

	/* set first: an invalidation that comes in meanwhile must not be lost */
	grants_valid = true;
	scan = jobq_scan_begin(call, JOBQ_PRIVILEGE, INDEX_KEY, 0, NULL, NULL);
	while ((slot = jobq_scan_next(scan)) != NULL)
	{
		bool		isnull;
		char	   *queue = TextDatumGetCString(jobq_attr(slot, PRIVILEGE_QUEUE, &isnull));
		char	   *name = TextDatumGetCString(jobq_attr(slot, PRIVILEGE_PRIVILEGE, &isnull));
		Grant	   *g;

		if (ngrants == capacity)
		{
			capacity *= 2;
			grants = repalloc(grants, capacity * sizeof(Grant));
		}
		g = &grants[ngrants++];
		g->role = DatumGetObjectId(jobq_attr(slot, PRIVILEGE_ROLE, &isnull));
		g->all_queues = strcmp(queue, "*") == 0;
		g->lane = g->all_queues ? 0 : jobq_lane(queue);
		g->privilege = find_privilege(name)->bit;
	}
	jobq_scan_end(scan);
}

/* May the caller do everything? */
bool
jobq_is_owner(void)
{
	return superuser() || has_privs_of_role(GetUserId(), jobq_owner());
}

/* Has the caller one of these privileges on the lane? */
bool
jobq_has_privilege(JobqCall *call, int64 lane, int wanted)
{
	if (jobq_is_owner())
		return true;
	load_grants(call);
	for (int i = 0; i < ngrants; i++)
	{
		if ((grants[i].privilege & wanted) &&
			(grants[i].all_queues || grants[i].lane == lane) &&
			has_privs_of_role(GetUserId(), grants[i].role))
			return true;
	}
	return false;
}

/* The same, or an error. */
void
jobq_require_privilege(JobqCall *call, int64 lane, JobqPrivilege privilege, const char *queue)
{
	const char *name = "";

	if (jobq_has_privilege(call, lane, privilege))
		return;
	for (int i = 0; i < lengthof(privileges); i++)
	{
		if (privileges[i].bit == privilege)
			name = privileges[i].name;
	}
	if (queue == NULL)
	{
		JobqQueue	settings;

		jobq_queue_settings(call, lane, &settings);
		queue = pstrdup(settings.name);
	}
	ereport(ERROR,
			(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
			 errmsg("permission denied for queue \"%s\"", queue),
			 errdetail("The privilege \"%s\" is needed.", name),
			 errhint("The owner of the extension can grant it with job_grant.")));
}

/* May the caller see a job of this lane, submitted and held by these roles? */
bool
jobq_visible(JobqCall *call, int64 lane, Oid submitted_by, Oid holder)
{
	return jobq_has_privilege(call, lane, PRIV_READ | PRIV_OPERATE) ||
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
	jobq_open_call(&call);
	visible = jobq_visible(&call, jobq_lane(queue),
						   PG_ARGISNULL(1) ? InvalidOid : PG_GETARG_OID(1),
						   PG_ARGISNULL(2) ? InvalidOid : PG_GETARG_OID(2));
	jobq_close_call(&call);
	PG_RETURN_BOOL(visible);
}

/* Run a GRANT or REVOKE for each of a comma-separated list of objects. */
static void
run_acl_commands(bool grant, const char *objtype, const char *objects, const char *except, Oid role)
{
	const char *schema = quote_identifier(get_namespace_name(jobq_schema()));
	const char *rolename = quote_identifier(GetUserNameFromId(role, false));
	char	   *list = pstrdup(objects);
	char	   *save = NULL;

	for (char *object = strtok_r(list, ",", &save); object; object = strtok_r(NULL, ",", &save))
	{
		StringInfoData sql;

		if (except && strstr(except, psprintf(",%s,", object)))
			continue;
		for (char *p = object; *p; p++)
		{
			if (*p == ';')		/* between argument types */
				*p = ',';
		}
		initStringInfo(&sql);
		appendStringInfo(&sql, "%s %s ON %s %s.%s %s %s",
						 grant ? "GRANT" : "REVOKE",
						 strcmp(objtype, "ROUTINE") == 0 ? "EXECUTE" : "SELECT",
						 objtype, schema, object, grant ? "TO" : "FROM", rolename);
		if (SPI_execute(sql.data, false, 0) != SPI_OK_UTILITY)
			elog(ERROR, "could not execute \"%s\"", sql.data);
	}
}

/* Grant or revoke USAGE on the extension's schema, which others may have granted too. */
static void
run_schema_command(bool grant, Oid role)
{
	char	   *schema = get_namespace_name(jobq_schema());

	if (grant ? jobq_has_schema_usage(jobq_schema(), role) : strcmp(schema, "public") == 0)
		return;
	if (SPI_execute(psprintf("%s USAGE ON SCHEMA %s %s %s",
							 grant ? "GRANT" : "REVOKE", quote_identifier(schema),
							 grant ? "TO" : "FROM",
							 quote_identifier(GetUserNameFromId(role, false))),
					false, 0) != SPI_OK_UTILITY)
		elog(ERROR, "could not change the privileges of schema \"%s\"", schema);
}

/* What job_grant and job_revoke have in common: arguments, rights, the row. */
static Datum
change_grant(FunctionCallInfo fcinfo, bool grant)
{
	JobqCall	call;
	Oid			role;
	char	   *queue;
	const PrivilegeInfo *info;
	Datum		values[PRIVILEGE_NATTS];
	bool		nulls[PRIVILEGE_NATTS] = {false};
	TupleTableSlot *slot;
	Oid			save_user;
	int			save_context;

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
	info = find_privilege(text_to_cstring(PG_GETARG_TEXT_PP(2)));
	(void) GetUserNameFromId(role, false);

	jobq_enter(&call, grant ? "job_grant()" : "job_revoke()", true);
	if (!jobq_is_owner())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be owner of extension jobq to grant or revoke privileges on queues")));
	LockRelationOid(jobq_table_oid(JOBQ_PRIVILEGE), ShareRowExclusiveLock);

	values[0] = ObjectIdGetDatum(role);
	values[1] = CStringGetTextDatum(queue);
	values[2] = CStringGetTextDatum(info->name);
	slot = jobq_find(&call, JOBQ_PRIVILEGE, INDEX_KEY, 3, values);
	if (grant && slot == NULL)
		jobq_insert(&call, JOBQ_PRIVILEGE, values, nulls);
	else if (!grant && slot != NULL)
		jobq_delete(&call, JOBQ_PRIVILEGE, slot);
	jobq_slot_free(slot);
	CacheInvalidateRelcacheByRelid(jobq_table_oid(JOBQ_PRIVILEGE));
	jobq_advance();

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(jobq_owner(), save_context | SECURITY_LOCAL_USERID_CHANGE);
	SPI_connect();
	if (grant)
	{
		run_schema_command(true, role);
		run_acl_commands(true, "ROUTINE", info->routines, NULL, role);
		run_acl_commands(true, "TABLE", info->views, NULL, role);
	}
	else
	{
		StringInfoData routines;
		StringInfoData views;
		bool		any = false;

		initStringInfo(&routines);
		initStringInfo(&views);
		appendStringInfoChar(&routines, ',');
		appendStringInfoChar(&views, ',');
		grants_valid = false;
		load_grants(&call);
		for (int i = 0; i < ngrants; i++)
		{
			if (grants[i].role != role)
				continue;
			any = true;
			for (int p = 0; p < lengthof(privileges); p++)
			{
				if (privileges[p].bit != grants[i].privilege)
					continue;
				appendStringInfo(&routines, "%s,", privileges[p].routines);
				appendStringInfo(&views, "%s,", privileges[p].views);
			}
		}
		grants_valid = false;
		run_acl_commands(false, "ROUTINE", info->routines, routines.data, role);
		run_acl_commands(false, "TABLE", info->views, views.data, role);
		if (!any)
			run_schema_command(false, role);
	}
	SPI_finish();
	SetUserIdAndSecContext(save_user, save_context);
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
