/*
 * jobq.c
 *	  Module initialization and settings.
 */
#include "postgres.h"

#include <limits.h>

#include "miscadmin.h"
#include "utils/guc.h"

#include "background/background.h"
#include "flow/flow.h"

PG_MODULE_MAGIC;

extern PGDLLEXPORT void _PG_init(void);

/* The settings that are numbers.  Those of shared memory can only be preloaded. */
static const struct
{
	const char *name;
	const char *short_desc;
	const char *long_desc;
	int		   *variable;
	int			boot;
	int			min;
	int			max;
	GucContext	context;
	int			flags;
}			settings[] = {

	{"jobq.max_attempts", "Attempts that may fail or time out before a job fails.",
		"For jobs and queues that set none.",
	&jobq_max_attempts, JOBQ_DEFAULT_MAX_ATTEMPTS, 1, INT_MAX, PGC_SUSET, 0},
	{"jobq.max_lost", "Leases that may run out before a job fails.",
		"For jobs and queues that set none.",
	&jobq_max_lost, JOBQ_DEFAULT_MAX_LOST, 1, INT_MAX, PGC_SUSET, 0},
	{"jobq.backoff", "Delay after the first failure or loss, doubled each time.",
		"For jobs and queues that set none.",
	&jobq_backoff_ms, JOBQ_DEFAULT_BACKOFF_MS, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MS},
	{"jobq.backoff_cap", "Longest delay after a failure or loss.",
		"For queues that set none.",
	&jobq_backoff_cap_ms, JOBQ_DEFAULT_BACKOFF_CAP_MS, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MS},
	{"jobq.lease", "Time after which a worker that sends no heartbeat has lost its job.",
		"For jobs, queues and claims that set none.",
	&jobq_lease_ms, JOBQ_DEFAULT_LEASE_MS, 1, INT_MAX, PGC_SUSET, GUC_UNIT_MS},
	{"jobq.min_lease", "Shortest lease.",
		"One that is given must not be shorter, others are made as long.",
	&jobq_min_lease_ms, JOBQ_DEFAULT_MIN_LEASE_MS, 0, 60 * 60 * 1000, PGC_SUSET, GUC_UNIT_MS},
	{"jobq.max_lease", "Longest lease, and longest extension of one.",
		"One that is given must not be longer, others are made as short.",
	&jobq_max_lease_s, JOBQ_DEFAULT_MAX_LEASE_S, 1, INT_MAX, PGC_SUSET, GUC_UNIT_S},
	{"jobq.timeout", "Longest time that one attempt may take.",
		"For jobs and queues that set none; 0 means no limit.",
	&jobq_timeout_ms, 0, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS},
	{"jobq.affinity_wait", "Longest time for which a job is kept for the worker that last ran one with its affinity.",
		"For queues that set none; 0 means that none is kept.",
	&jobq_affinity_wait_ms, JOBQ_DEFAULT_AFFINITY_WAIT_MS, 0, INT_MAX, PGC_SUSET, GUC_UNIT_MS},
	{"jobq.retention", "Time for which succeeded and skipped jobs are kept.",
		"For queues that set none; -1 means for ever.",
	&jobq_retention_s, JOBQ_DEFAULT_RETENTION_S, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S},
	{"jobq.retention_failed", "Time for which failed, upstream_failed and cancelled jobs are kept.",
		"For queues that set none; -1 means for ever.",
	&jobq_retention_failed_s, JOBQ_DEFAULT_RETENTION_FAILED_S, -1, INT_MAX, PGC_SIGHUP, GUC_UNIT_S},
	{"jobq.max_args_size", "Largest size of a job's arguments and tags together.",
		NULL,
	&jobq_max_args_size, JOBQ_DEFAULT_MAX_ARGS_KB, 1, JOBQ_LARGEST_JSON_KB, PGC_SUSET, GUC_UNIT_KB},
	{"jobq.max_error_size", "Size at which errors and reasons are cut.",
		NULL,
	&jobq_max_error_size, JOBQ_DEFAULT_MAX_ERROR_KB, 1, JOBQ_LARGEST_ERROR_KB, PGC_SUSET, GUC_UNIT_KB},
	{"jobq.max_result_size", "Largest result, or progress, that a job may have.",
		NULL,
	&jobq_max_result_size, JOBQ_DEFAULT_MAX_RESULT_KB, 1, JOBQ_LARGEST_JSON_KB, PGC_SUSET, GUC_UNIT_KB},
	{"jobq.max_inputs_size", "Largest size of the parents' ids and results that a claim returns.",
		"Above it inputs is null, and they are read with job_result.",
	&jobq_max_inputs_size, JOBQ_DEFAULT_MAX_INPUTS_KB, 0, JOBQ_LARGEST_JSON_KB, PGC_SUSET, GUC_UNIT_KB},
	{"jobq.max_claim_size", "Largest size of the arguments and inputs that one claim returns.",
		"A claim returns one job at least.",
	&jobq_max_claim_size, JOBQ_DEFAULT_MAX_CLAIM_KB, 1, JOBQ_LARGEST_JSON_KB, PGC_SUSET, GUC_UNIT_KB},
	{"jobq.max_log_lines", "Lines that the log of one attempt may have.",
		"One more says that the others were dropped.",
	&jobq_max_log_lines, JOBQ_DEFAULT_MAX_LOG_LINES, 0, JOBQ_LARGEST_LOG_LINES, PGC_SUSET, 0},
	{"jobq.sweep_interval", "Time between two looks of the background worker for what no announcement told it.",
		NULL,
	&jobq_sweep_interval_ms, JOBQ_DEFAULT_SWEEP_INTERVAL_MS, 100, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS},
	{"jobq.notify_interval", "Shortest time between two coalesced notifications.",
		NULL,
	&jobq_notify_interval_ms, JOBQ_DEFAULT_NOTIFY_INTERVAL_MS, 1, 60000, PGC_SIGHUP, GUC_UNIT_MS},
	{"jobq.clock_offset", "How far jobq takes the time of day to be from the system's.",
		"For tests of what steps of the clock do.",
	&jobq_clock_offset_ms, 0, INT_MIN, INT_MAX, PGC_SIGHUP, GUC_UNIT_MS | GUC_NO_SHOW_ALL | GUC_NOT_IN_SAMPLE},
	{"jobq.max_heartbeats", "Running jobs whose heartbeats are kept in shared memory.",
		"Heartbeats of more running jobs are written to their rows.",
	&jobq_max_heartbeats, JOBQ_DEFAULT_MAX_HEARTBEATS, 1, 10000000, PGC_POSTMASTER, 0},
	{"jobq.max_databases", "Databases that can have a background worker.",
		NULL,
	&jobq_max_databases, JOBQ_DEFAULT_MAX_DATABASES, 1, 1000, PGC_POSTMASTER, 0},
	{"jobq.max_metrics", "Queues whose metrics are kept in shared memory.",
		"With more queues those without room have no counters, and jobs are counted at each look.",
	&jobq_max_metrics, JOBQ_DEFAULT_MAX_METRICS, 1, 10000, PGC_POSTMASTER, 0},
	{"jobq.max_gate_events", "Events of jobs in queues with limits that wait for the background worker.",
		"Where there are more it reads the tables again.",
	&jobq_max_gate_events, JOBQ_DEFAULT_MAX_GATE_EVENTS, 100, 10000000, PGC_POSTMASTER, 0},
	{"jobq.max_workers", "Names of workers of which it is known in shared memory when they were seen.",
		"Of more workers some are seen only while they run jobs.",
	&jobq_max_workers, JOBQ_DEFAULT_MAX_WORKERS, 8, 1000000, PGC_POSTMASTER, 0},
	{"jobq.max_affinities", "Affinities of which it is known in shared memory which worker ran the last job.",
		"Of more of them, jobs go to any worker at once.",
	&jobq_max_affinities, JOBQ_DEFAULT_MAX_AFFINITIES, 8, 10000000, PGC_POSTMASTER, 0},
	{"jobq.max_lanes", "Queues, sets of labels in them, and workers that jobs are kept for, whose next jobs are kept in shared memory.",
		"With more queues some claims begin with a scan.",
	&jobq_max_lanes, JOBQ_DEFAULT_MAX_LANES, 1, 10000, PGC_POSTMASTER, 0},
	{"jobq.lane_candidates", "How many of a queue's next jobs are kept in shared memory.",
		NULL,
	&jobq_lane_candidates, JOBQ_DEFAULT_LANE_CANDIDATES, 1, 100000, PGC_POSTMASTER, 0},
	{"jobq.lane_priorities", "Priorities of a queue whose first jobs are kept in shared memory.",
		"Lower ones are scanned from their beginning.",
	&jobq_lane_priorities, JOBQ_DEFAULT_LANE_PRIORITIES, 1, 65536, PGC_POSTMASTER, 0},
};

/* Define the settings. */
static void
define_settings(void)
{
	for (int i = 0; i < lengthof(settings); i++)
	{
		if (settings[i].context != PGC_POSTMASTER || process_shared_preload_libraries_in_progress)
			DefineCustomIntVariable(settings[i].name, settings[i].short_desc, settings[i].long_desc,
									settings[i].variable, settings[i].boot, settings[i].min,
									settings[i].max, settings[i].context, settings[i].flags,
									NULL, NULL, NULL);
	}
	DefineCustomBoolVariable("jobq.async_claim",
							 "Whether a transaction that only claims jobs commits without waiting for the disk.",
							 "A crash of the server can undo claims of its last moments; these jobs are run again.",
							 &jobq_async_claim, true,
							 PGC_USERSET, 0, NULL, NULL, NULL);
	MarkGUCPrefixReserved("jobq");
}

/*
 * Without preload only the settings and the functions are there, and the
 * functions say what is missing: LOAD and pg_upgrade need that much.
 */
void
_PG_init(void)
{
	define_settings();
	jobq_catalog_init();
	jobq_rows_init();
	jobq_queue_init();
	jobq_labels_init();
	jobq_privilege_init();
	jobq_active_init();
	jobq_workers_init();
	jobq_flow_init();
	if (!process_shared_preload_libraries_in_progress)
		return;
	jobq_memory_init();
	jobq_announce_init();
	jobq_dispatch_init();
	jobq_search_init();
	jobq_hooks_init();
	if (!IsBinaryUpgrade)
		jobq_launcher_register();
}
