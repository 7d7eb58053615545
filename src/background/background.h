/*
 * background.h
 *	  What happens by the clock: the launcher, the workers, statements that they
 *	  have to know of.
 */
#ifndef JOBQ_BACKGROUND_H
#define JOBQ_BACKGROUND_H

#include "dispatch/dispatch.h"
#include "job/job.h"

#define JOBQ_DEFAULT_SWEEP_INTERVAL_MS	60000
#define JOBQ_DEFAULT_NOTIFY_INTERVAL_MS	5

extern int	jobq_sweep_interval_ms;
extern int	jobq_notify_interval_ms;

/* worker.c */
typedef struct JobqFailures		/* how often something failed in a row */
{
	int			count;
	TimestampTz logged_at;		/* 0: never */
} JobqFailures;

typedef void (*JobqTransaction) (JobqCall *call, void *arg);

extern ErrorData *jobq_worker_run(JobqTransaction work, void *arg, bool async);
extern void jobq_worker_failed(JobqFailures *f, ErrorData *error, const char *what, int64 job_id);
extern int64 jobq_retry_delay(int failures);
extern bool jobq_worker_must_leave(void);

/* due.c */
extern void jobq_due_init(void);
extern void jobq_due_restart(void);
extern void jobq_due_lower(JobqDeadline kind, TimestampTz at);
extern bool jobq_due_seen(void);
extern TimestampTz jobq_due_next(void);
extern bool jobq_due_round(void);
extern bool jobq_due_folded(void);
extern void jobq_due_add(JobqDeadline kind, int64 job_id, TimestampTz deadline);

/* sessions.c */
extern void jobq_sessions_restart(void);
extern void jobq_sessions_round(JobqDatabase *database);
extern TimestampTz jobq_sessions_next(void);

/* purge.c */
extern void jobq_purge_restart(void);
extern void jobq_purge_reload(void);
extern void jobq_purge_lower(TimestampTz at);
extern void jobq_purge_round(JobqDatabase *database);
extern TimestampTz jobq_purge_next(void);

/* gates.c, gatekeeper.c */
extern void jobq_gatekeeper_restart(void);
extern void jobq_gatekeeper_sweep(void);
extern bool jobq_gatekeeper_round(JobqDatabase *database, bool *pause);
extern TimestampTz jobq_gatekeeper_next(void);

/* breaker.c */
extern void jobq_breaker_round(JobqDatabase *database);
extern TimestampTz jobq_breaker_next(void);

/* launcher.c, worker.c, hooks.c */
extern void jobq_launcher_register(void);
extern void jobq_hooks_init(void);
extern PGDLLEXPORT void jobq_launcher_main(Datum arg);
extern PGDLLEXPORT void jobq_worker_main(Datum arg);

#endif							/* JOBQ_BACKGROUND_H */
