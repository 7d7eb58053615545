/*
 * guard.c
 *		A small process that ends the commands if the worker is killed.
 *
 * A worker that dies by SIGKILL loses its leases, and the jobs are run again
 * elsewhere.  Commands left behind would then run beside their successors.
 * So a guardian, forked before anything else, reads from a pipe which process
 * groups exist, and when the pipe ends, because the worker has, it kills
 * those that are left.
 *
 * Each message is one pid_t, written at once: a process group that begins, or
 * minus one that is over.  It is taken off the list before its leader is
 * reaped, so that its number cannot mean another group yet.
 */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

static int	guard_fd = -1;
static pid_t guard_pid;

static void
guard_main(int fd)
{
	pid_t	   *groups = NULL;
	size_t		n = 0;
	size_t		size = 0;
	pid_t		msg;
	ssize_t		got;

	while ((got = read(fd, &msg, sizeof(msg))) != 0)
	{
		size_t		i;

		if (got < 0 && errno == EINTR)
			continue;
		if (got != (ssize_t) sizeof(msg))
			break;
		for (i = 0; i < n && groups[i] != (msg > 0 ? msg : -msg); i++)
			;
		if (msg > 0 && i == n)
		{
			if (n == size)
			{
				size = size ? size * 2 : 64;
				groups = xrealloc(groups, size * sizeof(*groups));
			}
			groups[n++] = msg;
		}
		else if (msg < 0 && i < n)
			groups[i] = groups[--n];
	}
	for (size_t i = 0; i < n; i++)
		kill(-groups[i], SIGKILL);
	free(groups);
}

void
guard_start(void)
{
	int			fds[2];

	if (pipe(fds) != 0)
	{
		log_errno(LOG_ERROR, "guard_failed");
		exit(EXIT_FAILURE);
	}
	guard_pid = fork();
	if (guard_pid < 0)
	{
		log_errno(LOG_ERROR, "guard_failed");
		exit(EXIT_FAILURE);
	}
	if (guard_pid == 0)
	{
		/* A session of its own: it must outlive what ends the worker. */
		setsid();
		signal(SIGHUP, SIG_IGN);
		signal(SIGINT, SIG_IGN);
		signal(SIGQUIT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		close(STDIN_FILENO);
		close(STDOUT_FILENO);
		close(STDERR_FILENO);
		close(fds[1]);
		guard_main(fds[0]);
		_exit(0);
	}
	close(fds[0]);
	guard_fd = fds[1];
	fcntl(guard_fd, F_SETFD, FD_CLOEXEC);
}

static void
guard_write(pid_t msg)
{
	while (write(guard_fd, &msg, sizeof(msg)) < 0 && errno == EINTR)
		;
}

/* Called by the command's process itself, so that no moment is unguarded. */
void
guard_add(pid_t pgid)
{
	guard_write(pgid);
}

void
guard_remove(pid_t pgid)
{
	guard_write(-pgid);
}

/* Has the guardian ended, though we have not? */
bool
guard_died(void)
{
	if (guard_pid <= 0 || waitpid(guard_pid, NULL, WNOHANG) != guard_pid)
		return false;
	guard_pid = 0;
	return true;
}

void
guard_end(void)
{
	close(guard_fd);
	guard_fd = -1;
	while (guard_pid > 0 && waitpid(guard_pid, NULL, 0) < 0 && errno == EINTR)
		;
}
