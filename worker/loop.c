/*
 * loop.c
 *		The event loop: signals, polling, and who may use which connection.
 *
 * The first SIGTERM, SIGINT or SIGHUP drains: no more claims, the commands
 * that run may end, jobs not begun with are given back.  The second, or
 * SIGQUIT, or the end of --drain-timeout, releases: the commands are stopped
 * and their jobs given back.  The third kills the commands and leaves the jobs
 * to the end of their leases.
 *
 * Heartbeats and other statements take turns, and so do the reports of jobs that
 * are locked and all else.  The first report goes before claims.  Where the pool has more than one connection up, the last free one is
 * kept for heartbeats, so that reports that take long cannot cost the other jobs
 * their leases.
 */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

bool		draining = false;
bool		child_event = false;

static const int caught_signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT, SIGCHLD};

#define NSIGNALS ((int) (sizeof(caught_signals) / sizeof(caught_signals[0])))

static int	signal_pipe[2] = {-1, -1};
static bool releasing;
static bool give_up;
static int	status = EXIT_SUCCESS;
static Usec release_at;			/* the end of --drain-timeout, after a signal */
static Usec give_up_at;			/* the end of our patience with the server */
static Conn wait_conn;
static Conn *pool;

static struct pollfd *pfds;
static int	npfds;
static int	output_slot = -1;
static int	pfds_size;

/*
 * signals
 */

static void
handle_signal(int signum)
{
	int			save_errno = errno;
	unsigned char c = (unsigned char) signum;

	/* If the pipe is full, the loop has enough to wake up for. */
	if (write(signal_pipe[1], &c, 1) < 0)
		errno = save_errno;
}

static bool
signals_init(void)
{
	struct sigaction action = {0};
	sigset_t	caught;

	if (pipe(signal_pipe) != 0)
		return false;
	for (int i = 0; i < 2; i++)
	{
		fcntl(signal_pipe[i], F_SETFD, FD_CLOEXEC);
		fcntl(signal_pipe[i], F_SETFL, O_NONBLOCK);
	}
	sigemptyset(&action.sa_mask);
	sigemptyset(&caught);
	for (int i = 0; i < NSIGNALS; i++)
	{
		struct sigaction old;

		sigaddset(&caught, caught_signals[i]);

		/* nohup, or a shell's "&": leave it ignored */
		sigaction(caught_signals[i], NULL, &old);
		if (old.sa_handler == SIG_IGN && caught_signals[i] != SIGCHLD)
			continue;
		action.sa_handler = handle_signal;
		action.sa_flags = SA_RESTART | SA_NOCLDSTOP;
		sigaction(caught_signals[i], &action, NULL);
	}
	signal(SIGPIPE, SIG_IGN);

	/* whoever started us may have had them blocked */
	sigprocmask(SIG_UNBLOCK, &caught, NULL);
	return true;
}

/*
 * fork() for processes that are not the worker: none of the worker's handlers
 * ever runs in them.
 */
pid_t
fork_child(void)
{
	sigset_t	all;
	sigset_t	old;
	pid_t		pid;

	sigfillset(&all);
	sigprocmask(SIG_BLOCK, &all, &old);
	pid = fork();
	if (pid == 0)
	{
		for (int i = 0; i < NSIGNALS; i++)
		{
			struct sigaction action;

			sigaction(caught_signals[i], NULL, &action);
			if (action.sa_handler == handle_signal)
				signal(caught_signals[i], SIG_DFL);
		}
	}
	sigprocmask(SIG_SETMASK, &old, NULL);
	return pid;
}

/*
 * leaving
 */

static void
begin_drain(const char *reason)
{
	if (draining)
		return;
	log_event(LOG_INFO, "draining", "reason", reason, "jobs", num(njobs), (char *) NULL);
	draining = true;
}

static void
begin_release(const char *reason)
{
	begin_drain(reason);
	if (releasing)
		return;
	log_event(LOG_INFO, "releasing", "reason", reason, "jobs", num(njobs), (char *) NULL);
	releasing = true;
	give_up_at = now_usec() + opt.kill_after + GIVE_UP_AFTER;
	jobs_stop_all(STOP_RELEASE);
}

/* By a signal. */
static void
leave(const char *reason, bool at_once)
{
	static bool told = false;

	if (releasing)
		give_up = true;
	else if (told || at_once)
		begin_release(reason);
	else
	{
		told = true;
		begin_drain(reason);
		if (opt.drain_timeout != USEC_NEVER)
			release_at = now_usec() + opt.drain_timeout;
		jobs_release_queued();
	}
}

/* Let the commands end, but begin no more: nobody would end them if we are killed. */
static void
unguarded(void)
{
	log_event(LOG_ERROR, "guardian_lost", (char *) NULL);
	status = EXIT_FAILURE;
	begin_drain("guardian-lost");
	jobs_release_queued();
}

static void
take_signals(void)
{
	unsigned char buf[64];
	ssize_t		n;

	while ((n = read(signal_pipe[0], buf, sizeof(buf))) > 0)
	{
		for (ssize_t i = 0; i < n; i++)
		{
			switch (buf[i])
			{
				case SIGCHLD:
					child_event = true;
					conn_reap(&wait_conn);
					for (int k = 0; k < opt.pool; k++)
						conn_reap(&pool[k]);
					if (guard_died())
						unguarded();
					break;
				case SIGTERM:
					leave("SIGTERM", false);
					break;
				case SIGINT:
					leave("SIGINT", false);
					break;
				case SIGHUP:
					leave("SIGHUP", false);
					break;
				case SIGQUIT:
					leave("SIGQUIT", true);
					break;
			}
		}
	}
}

/*
 * polling
 */

static int
watch(int fd, short events)
{
	if (npfds == pfds_size)
	{
		pfds_size = pfds_size ? pfds_size * 2 : 64;
		pfds = xrealloc(pfds, (size_t) pfds_size * sizeof(*pfds));
	}
	pfds[npfds].fd = fd;
	pfds[npfds].events = events;
	pfds[npfds].revents = 0;
	return npfds++;
}

static void
watch_conn(Conn *conn)
{
	struct pollfd pfd;

	conn->pollslot = conn_wants(conn, &pfd) ? watch(pfd.fd, pfd.events) : -1;
}

static bool
slot_ready(int slot)
{
	return slot >= 0 && pfds[slot].revents != 0;
}

static void
watch_all(void)
{
	npfds = 0;
	watch(signal_pipe[0], POLLIN);
	watch_conn(&wait_conn);
	for (int i = 0; i < opt.pool; i++)
		watch_conn(&pool[i]);
	output_slot = output_wants() ? watch(STDOUT_FILENO, POLLOUT) : -1;
	for (Job *job = jobs[JOB_RUNNING].first; job; job = job->next)
	{
		Child	   *child = &job->child;

		child->slot_in = child->fd_in >= 0 ? watch(child->fd_in, POLLOUT) : -1;
		child->slot_out = child->fd_out >= 0 ? watch(child->fd_out, POLLIN) : -1;
		child->slot_err = child->fd_err >= 0 ? watch(child->fd_err, POLLIN) : -1;
	}
}

static void
handle_conn(Conn *conn)
{
	if (conn->state != CONN_DOWN && slot_ready(conn->pollslot))
		conn_io(conn);
}

static void
handle_all(void)
{
	if (slot_ready(0))
		take_signals();
	if (slot_ready(output_slot))
		output_io();
	for (Job *job = jobs[JOB_RUNNING].first; job; job = job->next)
	{
		Child	   *child = &job->child;

		if (!slot_ready(child->slot_in))
			child->slot_in = -1;
		if (!slot_ready(child->slot_out))
			child->slot_out = -1;
		if (!slot_ready(child->slot_err))
			child->slot_err = -1;
	}
	jobs_io();

	/* These may add jobs, which have no slots yet. */
	handle_conn(&wait_conn);
	for (int i = 0; i < opt.pool; i++)
		handle_conn(&pool[i]);
}

/*
 * statements
 */

/*
 * Reports go before claims, but not all connections to reports: while one is
 * under way, more come due that can go together.
 */
static bool
send_work(Conn *conn, Usec now)
{
	static bool locked_before = false;
	static bool log_before = false;
	bool		reports_first = !reports_in_flight();

	if (!locked_before && report_send_locked(conn, now))
		return locked_before = true;
	locked_before = false;
	if (listen_send_proof(conn) || register_send(conn, now) || flow_send(conn, now))
		return true;
	if (!log_before && log_send(conn, now))
		return log_before = true;
	log_before = false;
	if ((reports_first && report_send(conn, now)) || claim_send(conn, now) ||
		(!reports_first && report_send(conn, now)))
		return true;
	if (log_send(conn, now))
		return log_before = true;
	return locked_before = report_send_locked(conn, now);
}

/* Send what is due, with heartbeats and work by turns if there are both. */
static bool
send_next(Conn *conn, Usec now, bool may_work)
{
	static bool beat_before = false;

	if (beat_before && may_work && send_work(conn, now))
	{
		beat_before = false;
		return true;
	}
	beat_before = beat_send(conn, now);
	return beat_before || (may_work && send_work(conn, now));
}

/* Send what is due.  Is a connection of the pool left for what comes due? */
static bool
send_all(Usec now)
{
	int			idle = 0;
	int			up = 0;

	claim_send_wait(now);
	for (int i = 0; i < opt.pool; i++)
	{
		idle += conn_free(&pool[i]);
		up += conn_up(&pool[i]);
	}
	for (int i = 0; i < opt.pool && idle > 0; i++)
	{
		Conn	   *conn = &pool[i];

		if (!conn_free(conn))
			continue;
		if (send_next(conn, now, idle > 1 || up == 1))
			idle--;
		else
			break;
	}
	return idle > 0;
}

/* Does every connection of the pool try in vain? */
static bool
pool_unreachable(void)
{
	for (int i = 0; i < opt.pool; i++)
	{
		if (!pool[i].unreached)
			return false;
	}
	return true;
}

/*
 * Is trying again of no use to one who is to end?  A worker of a flow has to have reached the
 * server once; then it waits for it to come back.
 */
static bool
fails_for_good(void)
{
	bool		ends = opt.once || opt.until_idle != USEC_NEVER;
	bool		reached = !opt.once && flow_may_claim();

	return ends && (claim_unable() || (njobs == 0 && !reached && (conn_elsewhere || pool_unreachable())));
}

/* A connection of the pool is back. */
static void
pool_ready(Conn *conn)
{
	(void) conn;
	beats_now(now_usec());
}

static void
tick(Usec now)
{
	if (!opt.once)
		conn_tick(&wait_conn, now);
	for (int i = 0; i < opt.pool; i++)
		conn_tick(&pool[i], now);
	jobs_tick(now);
	jobs_sweep();
	claim_tick(now);
	listen_tick(now);
	if (claim_limit_reached())
		begin_drain("max-jobs");
	if (fails_for_good())
	{
		status = EXIT_FAILURE;
		begin_drain("error");
	}
	if (opt.once && claim_found_nothing())
		begin_drain("once");
	if (flow_gone())
	{
		status = EXIT_FAILURE;
		begin_drain("no-such-flow");
	}
	if (opt.until_idle != USEC_NEVER && (flow_over() || idle_verdict()))
		begin_drain(flow_over() ? "flow-decided" : "flow-idle");
	if (opt.exit_when_idle != USEC_NEVER && now - claim_idle_since(now) >= opt.exit_when_idle)
		begin_drain("idle");
	if (draining)
	{
		if (now >= release_at)
			begin_release("drain-timeout");
		claim_cancel(now);

		/* Only a claim without an answer is left: do not wait for ever. */
		if (njobs == 0 && claim_in_flight())
		{
			if (give_up_at == USEC_NEVER)
				give_up_at = now + GIVE_UP_AFTER;
		}
		if (now >= give_up_at)
			give_up = true;
	}
}

static Usec
next_timer(Usec now, bool sendable)
{
	Usec		timer = jobs_timer(now, sendable);

	if (!opt.once)
		note_time(&timer, conn_timer(&wait_conn));
	for (int i = 0; i < opt.pool; i++)
		note_time(&timer, conn_timer(&pool[i]));
	note_time(&timer, claim_timer(now));
	note_time(&timer, listen_timer());
	note_time(&timer, register_timer(now));
	note_time(&timer, flow_timer(now));
	if (draining)
	{
		if (!releasing)
			note_time(&timer, release_at);
		note_time(&timer, give_up_at);
	}
	else if (opt.exit_when_idle != USEC_NEVER)
		note_time(&timer, claim_idle_since(now) + opt.exit_when_idle);
	return timer;
}

static bool
wait_for_events(Usec timer, Usec now)
{
	int			ms = -1;
	int			rc;

	if (timer <= now)
		ms = 0;
	else if (timer != USEC_NEVER)
	{
		Usec		left = (timer - now + USEC_PER_MSEC - 1) / USEC_PER_MSEC;

		ms = left > 3600 * 1000 ? 3600 * 1000 : (int) left;
	}
	watch_all();
	rc = poll(pfds, (nfds_t) npfds, ms);
	if (rc < 0 && errno != EINTR)
	{
		log_errno(LOG_ERROR, "poll_failed");
		exit(EXIT_FAILURE);
	}
	if (rc > 0)
		handle_all();
	return rc > 0;
}

static void
init_all(void)
{
	Usec		now = now_usec();

	release_at = give_up_at = USEC_NEVER;
	conn_init(&wait_conn, "wait", opt.wait_dbname);
	claim_init(&wait_conn, now);
	pool = xmalloc((size_t) opt.pool * sizeof(*pool));
	for (int i = 0; i < opt.pool; i++)
	{
		char		name[16];

		snprintf(name, sizeof(name), "pool%d", i + 1);
		conn_init(&pool[i], name, opt.dbname);
		pool[i].ready = pool_ready;
	}
}

/* Run until told to leave.  Returns the exit status. */
int
worker_run(void)
{
	bool		ever_up = false;

	guard_start();
	if (!signals_init())
	{
		log_errno(LOG_ERROR, "start_failed");
		return EXIT_FAILURE;
	}
	init_all();
	log_event(LOG_INFO, "started", "worker", opt.worker, "pid", num(getpid()),
			  "concurrency", num(opt.concurrency), (char *) NULL);
	for (;;)
	{
		Usec		now = now_usec();
		bool		sendable;

		tick(now);
		if (give_up || (draining && njobs == 0 && !claim_in_flight() && !flow_keeps(now) && !register_keeps(now)))
			break;
		if (!ever_up)
		{
			/* A wrong database is an error at the start, and only then. */
			if (conn_extension_missing)
			{
				status = EXIT_FAILURE;
				break;
			}
			ever_up = conn_up(&wait_conn);
			for (int i = 0; i < opt.pool; i++)
				ever_up = ever_up || conn_up(&pool[i]);
		}
		sendable = send_all(now);
		/* what has come due since is in the past, and ends the wait at once */
		wait_for_events(next_timer(now, sendable), now_usec());
	}

	if (njobs > 0)
	{
		log_event(LOG_WARNING, "jobs_left", "jobs", num(njobs), (char *) NULL);
		status = EXIT_FAILURE;
	}
	if (opt.until_idle != USEC_NEVER && status == EXIT_SUCCESS)
		status = flow_status();
	conn_close(&wait_conn);
	for (int i = 0; i < opt.pool; i++)
		conn_close(&pool[i]);
	jobs_free_all();
	beats_end();
	claim_end();
	listen_end();
	flow_end();
	free(pool);
	free(pfds);
	guard_end();
	log_event(LOG_INFO, "stopped", "status", num(status), (char *) NULL);
	output_end();
	return status;
}
