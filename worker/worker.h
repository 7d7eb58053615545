/*
 * worker.h
 *		Types and functions that the files of jobq-worker share.
 *
 * jobq-worker is one process with one thread.  Its event loop (loop.c) waits
 * with poll() for the server's sockets, the commands' pipes and a pipe that
 * the signal handlers write to.  Nothing else in it ever blocks, but for files,
 * which are those of JOBQ_INPUTS and the log, and for name resolution, which
 * libpq does while a connection is begun.
 *
 * A job is *held* from the moment its claim is read until the server has
 * accepted its outcome, refused it, or the lease is known to be lost.  The
 * number of jobs that run, wait to begin or are asked for is never above
 * --concurrency and --prefetch together.  With those that have ended and are
 * still to be reported it is never above twice that.  Those that cannot be
 * reported because somebody keeps them locked do not count, up to MAX_LOCKED.
 */
#ifndef JOBQ_WORKER_H
#define JOBQ_WORKER_H

#include <poll.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include <libpq-fe.h>

#define PROGNAME "jobq-worker"
#define JOBQ_VERSION "1.0"

#define EXIT_USAGE 2
#define EXIT_FLOW_FAILED 3		/* with --until-idle: it did not succeed */
#define EXIT_FLOW_STUCK 4		/* it is not decided, and nothing can go on */

/*
 * Times are microseconds of a clock that never goes back, and that goes on, as
 * leases do, while the machine is suspended.
 */
typedef int64_t Usec;

#define USEC_PER_SEC INT64_C(1000000)
#define USEC_PER_MSEC INT64_C(1000)
#define USEC_NEVER INT64_MAX

#define MAX_QUEUES 1000			/* in a claim, of the server */
#define MAX_QUEUE_NAME 50
#define MAX_NAME 128			/* of kinds, workers, labels and versions */
#define MAX_LABELS 100			/* of a worker, of the server */
#define MAX_DURATION (INT64_C(366) * 24 * 3600 * USEC_PER_SEC)

#define DEFAULT_CONCURRENCY 1
#define MAX_CONCURRENCY 1000
#define MAX_PREFETCH 10000
#define DEFAULT_POOL 3
#define MAX_POOL 32
#define DEFAULT_HEARTBEAT (10 * USEC_PER_SEC)
#define MIN_HEARTBEAT (50 * USEC_PER_MSEC)
#define MIN_LEASE USEC_PER_SEC	/* of the server */
#define LEASE_UNKNOWN USEC_NEVER
#define DEFAULT_KILL_AFTER (5 * USEC_PER_SEC)
#define DEFAULT_RECONNECT_MAX (10 * USEC_PER_SEC)
#define DEFAULT_POLL_CALL (60 * USEC_PER_SEC)
#define DEFAULT_POLL_LISTEN (10 * USEC_PER_SEC)
#define DEFAULT_POLL_FLOW (1 * USEC_PER_SEC)
#define DEFAULT_UNTIL_IDLE (60 * USEC_PER_SEC)

#define CONNECT_TIMEOUT (15 * USEC_PER_SEC)
#define FIRST_RETRY (100 * USEC_PER_MSEC)
#define RETRY_MAX (10 * USEC_PER_SEC)	/* of a statement the server refused */
#define LOCKED_RETRY (1 * USEC_PER_SEC) /* of a report whose job is locked */
#define LOCKED_PAUSE (100 * USEC_PER_MSEC)	/* after one, before the next */
#define MAX_LOCKED 1000			/* such jobs that keep no places */
#define MAX_BYTES (64 * 1024 * 1024)	/* of what they came to, and of what
										 * jobs that wait to begin are given */
#define SHORTAGE_DELAY (5 * USEC_PER_SEC)	/* before the next claim, of
											 * processes or the like */
#define CANCEL_REPEAT (1 * USEC_PER_SEC)
#define CANCEL_AFTER (1 * USEC_PER_SEC) /* a claim may take, when leaving */
#define GIVE_UP_AFTER (10 * USEC_PER_SEC)	/* on the server, when leaving */
#define UNREGISTER_WITHIN (2 * USEC_PER_SEC)	/* when leaving */
#define MAX_PREPARED 20			/* statements of a connection */
#define UNKNOWN_KIND_DELAY "30 s"

#define STDERR_KEEP (64 * 1024)
#define MIN_MAX_OUTPUT (16 * 1024 * 1024)
#define MAX_MAX_OUTPUT (512 * 1024 * 1024)	/* the server takes no message
											 * above 1 GB */

#define NOT_JSON_HINT " [standard output must be one JSON text or nothing: write messages to" \
	" standard error, or give --output=text or --output=discard]"

#define EXITCODE_FAIL 65		/* EX_DATAERR: fail without retry */

typedef struct Buf
{
	char	   *data;			/* with a NUL after it, or NULL */
	size_t		len;
	size_t		size;
} Buf;

/* options (main.c) */

typedef struct Kind
{
	const char *name;			/* "*" stands for every other kind */
	const char *command;
	bool		noop;			/* :noop, no command */
} Kind;

typedef enum Output
{
	OUTPUT_JSON,				/* is the result */
	OUTPUT_TEXT,				/* becomes a JSON string */
	OUTPUT_DISCARD
} Output;

typedef struct Options
{
	const char *dbname;
	const char *wait_dbname;
	const char *schema;			/* NULL: where the extension is */
	const char *worker;
	const char *version;		/* that it registers with, or NULL */
	int			nlabels;
	Buf			labels;			/* an array; data is NULL: none */
	const char **queues;
	int			nqueues;		/* 0: those of a flow */
	const char *flow;			/* NULL: none */
	Kind	   *kinds;
	int			nkinds;
	int			concurrency;
	int			pool;
	int			prefetch;
	int			max_jobs;		/* 0: no limit */
	bool		listen;
	bool		verbose;
	Output		output;
	Usec		lease;			/* 0: the job's or the queue's */
	Usec		heartbeat;
	Usec		timeout;		/* 0: none */
	Usec		kill_after;
	Usec		poll_interval;
	Usec		reconnect_max;
	Usec		drain_timeout;	/* USEC_NEVER: none */
	Usec		exit_when_idle; /* USEC_NEVER: never */
	Usec		until_idle;		/* times within this are waited for;
								 * USEC_NEVER: not given */
	bool		once;
	bool		log;			/* standard error goes to job_log */
} Options;

extern Options opt;

/* util.c */

typedef enum LogLevel
{
	LOG_DEBUG,					/* with --verbose only */
	LOG_INFO,
	LOG_WARNING,
	LOG_ERROR
} LogLevel;

extern void *xmalloc(size_t size);
extern void *xrealloc(void *ptr, size_t size);
extern char *xstrdup(const char *str);
extern void buf_append(Buf *buf, const char *data, size_t len);
extern void buf_puts(Buf *buf, const char *str);
extern void buf_element(Buf *array, const char *value);
extern void buf_printf(Buf *buf, const char *fmt,...) __attribute__((format(printf, 2, 3)));
extern void buf_free(Buf *buf);
extern Usec now_usec(void);
extern void note_time(Usec *timer, Usec when);
extern Usec backoff_delay(int failures, Usec cap);
extern Usec jittered(Usec interval);
extern size_t make_utf8(char *str, size_t len);
extern void buf_json_string(Buf *buf, const char *str);
extern void make_ascii(char *str);
extern const char *num(int64_t value);
extern void log_event(LogLevel level, const char *event,...) __attribute__((sentinel));
extern void log_errno(LogLevel level, const char *event);

/* conn.c */

typedef enum ConnState
{
	CONN_DOWN,					/* until retry_at */
	CONN_CONNECTING,
	CONN_SETUP,					/* its first statement runs */
	CONN_IDLE,
	CONN_BUSY
} ConnState;

typedef struct Conn Conn;

/*
 * Receives a statement's result.  NULL means that the statement has none and
 * is to be repeated: the connection was lost, and whether the statement took
 * effect is unknown, or a pooler had no use for a prepared statement.
 */
typedef void (*ReplyFn) (Conn *conn, PGresult *res, void *arg);

struct Conn
{
	char		name[16];
	const char *conninfo;
	bool		waiting;		/* the waiting connection, not of the pool */
	PGconn	   *pg;
	ConnState	state;
	PostgresPollingStatusType polling;
	char	   *schema;			/* quoted */
	char	   *last_words;		/* of the server, before it closed the
								 * connection */
	Usec		retry_at;
	Usec		connect_by;
	int			timeouts;		/* of attempts to connect */
	Usec		up_since;
	int			failures;
	bool		unreached;		/* the last try to connect failed */
	bool		flushing;		/* part of the statement is not sent yet */
	bool		unprepared;		/* prepared statements do not work here */
	const char *preparing;
	const char *prepared[MAX_PREPARED];
	int			nprepared;
	PGresult   *result;
	ReplyFn		reply;
	void	   *arg;
	void		(*ready) (Conn *conn);
	void		(*notified) (Conn *conn, const char *channel);
	pid_t		cancel_pid;
	int			pollslot;
};

extern void conn_init(Conn *conn, const char *name, const char *conninfo);
extern bool conn_up(const Conn *conn);
extern bool conn_free(const Conn *conn);
extern void conn_tick(Conn *conn, Usec now);
extern Usec conn_timer(const Conn *conn);
extern bool conn_wants(const Conn *conn, struct pollfd *pfd);
extern void conn_io(Conn *conn);
extern void conn_send(Conn *conn, ReplyFn reply, void *arg, int nparams,
					  const char *const *values, const char *sql);
extern void conn_call(Conn *conn, ReplyFn reply, void *arg, int nparams,
					  const char *const *values, const char *fmt);
extern void conn_cancel(Conn *conn);
extern void conn_reap(Conn *conn);
extern void conn_close(Conn *conn);
extern bool conn_extension_missing;
extern bool conn_elsewhere;
extern size_t max_output;
extern size_t max_error;

extern bool result_ok(const PGresult *res);
extern const char *result_state(const PGresult *res);
extern char *result_message(const PGresult *res);
extern bool state_in_class(const char *state, const char *class);
extern bool state_is_transient(const char *state);
extern bool state_is_refusal(const char *state);

/* child.c */

typedef struct Child
{
	pid_t		pid;			/* also its process group; 0: none */
	bool		exited;			/* seen, but not reaped yet */
	int			status;			/* as of waitpid(), once reaped */
	int			fd_in;
	int			fd_out;
	int			fd_err;
	int			slot_in;
	int			slot_out;
	int			slot_err;
	char	   *input;
	size_t		input_len;
	size_t		input_done;
	Buf			out;
	char	   *err;			/* the last STDERR_KEEP bytes, as a ring */
	uint64_t	err_len;		/* bytes ever written to it */
	Buf			log;			/* these four are log.c's */
	Usec		log_from;		/* since when something is there */
	int			log_lines;		/* that the server has */
	bool		log_ascii;		/* the database lacks other characters */
	bool		log_dropped;
	bool		log_off;		/* the server takes no more */
	char	   *inputs_path;
	bool		stopping;		/* SIGTERM was sent */
	bool		killed;			/* SIGKILL was sent */
	Usec		kill_at;
} Child;

typedef struct ChildEnv
{
	const char *name;
	const char *value;			/* NULL: it is not set */
} ChildEnv;

extern void child_init(Child *child);
extern bool child_start(Child *child, const char *command, const char *args, const char *inputs,
						const ChildEnv *env, int nenv, char *errbuf, size_t errlen);
extern void child_io(Child *child);
extern bool child_exited(Child *child);
extern bool child_ended(Child *child, Usec now);
extern void child_stop(Child *child, Usec now);
extern void child_tick(Child *child, Usec now);
extern Usec child_timer(const Child *child);
extern void child_stderr(const Child *child, Buf *to);
extern void child_forget(Child *child);
extern void child_free(Child *child);

/* guard.c */

extern void guard_start(void);
extern void guard_add(pid_t pgid);
extern void guard_remove(pid_t pgid);
extern bool guard_died(void);
extern void guard_end(void);

/* job.c */

typedef enum JobPhase
{
	JOB_QUEUED,					/* its command is to be started */
	JOB_RUNNING,				/* its command runs */
	JOB_REPORTING,				/* the outcome is to be sent */
	JOB_LOCKED,					/* the same, but somebody keeps it locked */
	JOB_DONE
} JobPhase;

#define JOB_PHASES (JOB_DONE + 1)

typedef enum StopReason
{
	STOP_NONE,
	STOP_OUTPUT,				/* too much of it */
	STOP_TIMEOUT,
	STOP_CANCELLED,
	STOP_RELEASE,				/* this worker is leaving */
	STOP_LOST					/* the job is no longer ours */
} StopReason;

typedef enum Report
{
	REPORT_COMPLETE,
	REPORT_FAIL,				/* to be tried again */
	REPORT_FAIL_FINALLY,
	REPORT_RELEASE
} Report;

typedef struct Job
{
	struct Job *prev;			/* in the list of its phase */
	struct Job *next;
	char	   *id;
	char	   *token;
	char	   *attempt;
	char	   *kind;
	char	   *key;
	char	   *flow;			/* that it is a member of, or NULL */
	char	   *args;			/* this and the next while it is queued */
	char	   *inputs;			/* or NULL */
	JobPhase	phase;
	StopReason	stop;
	Child		child;
	Usec		started;
	Usec		deadline;		/* by --timeout */
	Usec		lease;			/* its length, 0 while not known */
	Usec		kept_until;		/* no other worker has it before, by our clock */
	Usec		heartbeat_at;	/* these six are beat.c's */
	Usec		heartbeat_sent;
	bool		heartbeat_busy;
	bool		completed;		/* by its own command */
	int			beat_slot;		/* in its heap; 0: none */
	int			beat_with;		/* how many may be in one statement with it */
	Report		report;
	Buf			error;
	const char *retry_in;
	bool		ascii;			/* its text was refused before */
	int			report_failures;
	Usec		report_at;
	size_t		bytes;			/* that it keeps while it is queued or locked */
	bool		report_busy;
	bool		log_busy;		/* these three are log.c's */
	size_t		log_sending;	/* bytes of child.log */
	Usec		log_retry_at;
	bool		report_alone;	/* not together with others */
	bool		lease_asked;	/* its reply will refer to this job */
} Job;

typedef struct JobList
{
	Job		   *first;
	Job		   *last;
	int			n;
	size_t		bytes;
} JobList;

/* Jobs of one statement. */
typedef struct Batch
{
	int			njobs;
	Job		   *jobs[];
} Batch;

#define LOCK_TIMEOUT "250"		/* ms, so that a locked job does not hold up
								 * others */

/* The arguments of a function are computed before it begins. */
#define WITH_LOCK_TIMEOUT(timeout, argument) \
	"CASE WHEN pg_catalog.set_config('lock_timeout', " timeout ", true) <> '' THEN " argument " END"
#define ONE_ID(timeout) WITH_LOCK_TIMEOUT(timeout, "$1::pg_catalog.int8")
#define MANY_IDS(timeout) WITH_LOCK_TIMEOUT(timeout, "$1::pg_catalog.int8[]")

extern JobList jobs[JOB_PHASES];
extern int	njobs;

extern Job *job_start(const PGresult *res, int row, Usec sent, Usec lease, bool release);
extern void job_report(Job *job, Report report);
extern void job_locked(Job *job, Usec retry_at, bool first);
extern int	jobs_locked(void);
extern void job_done(Job *job);
extern void job_stop(Job *job, StopReason reason);
extern Batch *batch_create(int size);
extern void batch_arrays(const Batch *batch, Buf *ids, Buf *tokens);
extern void jobs_io(void);
extern void jobs_tick(Usec now);
extern void jobs_release_queued(void);
extern void jobs_stop_all(StopReason reason);
extern Usec jobs_timer(Usec now, bool sendable);
extern void jobs_sweep(void);
extern void jobs_free_all(void);

/* beat.c */

extern void beat_start(Job *job, Usec sent);
extern void beat_resume(Job *job);
extern void beat_pause(Job *job);
extern void beat_set_lease(Job *job, Usec from, Usec lease);
extern bool beat_send(Conn *conn, Usec now);
extern bool beats_late(Usec now);
extern void beats_now(Usec now);
extern Usec beats_timer(Usec now);
extern void beats_end(void);

/* report.c */

extern bool report_send(Conn *conn, Usec now);
extern bool report_send_locked(Conn *conn, Usec now);
extern bool reports_in_flight(void);

/* log.c */

#define RETRY_LOG (100 * USEC_PER_MSEC)

extern void log_keep(Child *child, const char *data, size_t len);
extern bool log_pending(const Job *job);
extern bool log_send(Conn *conn, Usec now);
extern Usec log_timer(Usec now);

/* claim.c */

extern void claim_init(Conn *conn, Usec now);
extern void claim_send_wait(Usec now);
extern bool claim_send(Conn *conn, Usec now);
extern void claim_cancel(Usec now);
extern bool claim_in_flight(void);
extern bool claim_limit_reached(void);
extern void claim_again(void);
extern void claim_pause(void);
extern bool claim_found_nothing(void);
extern bool claim_unable(void);
extern Usec claim_idle_since(Usec now);
extern void claim_tick(Usec now);
extern Usec claim_timer(Usec now);
extern void claim_end(void);

/* listen.c */

extern void listen_init(Conn *conn);
extern void listen_to(const char *queue);
extern bool listen_send_proof(Conn *conn);
extern void listen_tick(Usec now);
extern Usec listen_timer(void);
extern void listen_end(void);

/* register.c */

extern bool register_send(Conn *conn, Usec now);
extern bool register_keeps(Usec now);
extern Usec register_timer(Usec now);

/* flow.c */

/* In the order of the names in flow.c; those that are decided come last */
typedef enum MemberState
{
	MEMBER_WAITING,
	MEMBER_SCHEDULED,
	MEMBER_READY,
	MEMBER_RUNNING,
	MEMBER_SUCCEEDED,
	MEMBER_FAILED,
	MEMBER_SKIPPED,
	MEMBER_CANCELLED,
	MEMBER_UPSTREAM_FAILED
} MemberState;

/* The flow, or a job inside it, as the last look has seen it */
typedef struct Member
{
	int64_t		id;
	struct Member *flow;		/* around it; NULL: it is the outermost */
	char	   *label;
	MemberState state;
	int			attempt;		/* attempts begun */
	bool		is_flow;
	bool		asked;			/* the look under way looks into it */
	bool		looked_into;	/* since it started, or was decided */
	bool		fresh;			/* it changed by the last look */
	bool		lingers;		/* or by the one before */
	int64_t		log_at;			/* the last line that was printed; 0: none */
	Usec		due_at;			/* while it is scheduled */
	Usec		ready_since;	/* while it is ready */
} Member;

extern Member **members;
extern int	nmembers;

extern bool member_decided(const Member *m);
extern Member *member_find(int64_t id);
extern void flow_changed(void);
extern bool flow_send(Conn *conn, Usec now);
extern bool flow_may_claim(void);
extern bool flow_gone(void);
extern bool flow_over(void);
extern bool flow_keeps(Usec now);
extern int	flow_status(void);
extern Usec flow_timer(Usec now);
extern void flow_end(void);

/* idle.c */

extern void idle_changed(Usec now);
extern bool idle_send(Conn *conn, Usec now);
extern bool idle_verdict(void);
extern Usec idle_timer(Usec now);

/* output.c */

extern void output_text(const char *time, const char *name, const char *between, const char *text);
extern bool output_is_full(void);
extern bool output_wants(void);
extern void output_io(void);
extern void output_end(void);

/* loop.c */

extern bool draining;			/* no job is claimed any more */
extern bool child_event;		/* a child process has ended */
extern pid_t fork_child(void);
extern int	worker_run(void);

#endif							/* JOBQ_WORKER_H */
