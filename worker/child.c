/*
 * child.c
 *		A command: its process group, its pipes, its end.
 *
 * The command's shell leads a process group of its own.  Its exit is looked
 * at with WNOWAIT first: until it is reaped, the number of the group cannot
 * pass to somebody else, so the group can still be signalled.  Whatever is
 * left of the group when the command has ended is killed.  While it is being
 * stopped, its other processes have the time until the SIGKILL, as long as
 * one of them holds the shell's output open.
 */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define READ_SIZE (64 * 1024)
#define READS_PER_TURN 16		/* leave the others their turn */
#define READS_AT_END 64			/* more than a pipe holds */

void
child_init(Child *child)
{
	memset(child, 0, sizeof(*child));
	child->fd_in = child->fd_out = child->fd_err = -1;
	child->slot_in = child->slot_out = child->slot_err = -1;
	child->kill_at = USEC_NEVER;
}

static void
close_fd(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static bool
make_pipe(int fds[2])
{
	if (pipe(fds) != 0)
	{
		fds[0] = fds[1] = -1;
		return false;
	}
	fcntl(fds[0], F_SETFD, FD_CLOEXEC);
	fcntl(fds[1], F_SETFD, FD_CLOEXEC);
	return true;
}

/* Write the parents' results to a file that only this user can read. */
static bool
write_inputs(Child *child, const char *inputs)
{
	const char *dir = getenv("TMPDIR");
	Buf			path = {0};
	size_t		len = strlen(inputs);
	int			fd;

	buf_printf(&path, "%s/" PROGNAME "-inputs-XXXXXX", dir && *dir ? dir : "/tmp");
	fd = mkstemp(path.data);
	if (fd < 0)
	{
		buf_free(&path);
		return false;
	}
	child->inputs_path = path.data;
	for (size_t done = 0; done < len;)
	{
		ssize_t		n = write(fd, inputs + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
		{
			int			save_errno = errno;

			close(fd);
			errno = save_errno;
			return false;
		}
		done += (size_t) n;
	}
	return close(fd) == 0;
}

static void
remove_inputs(Child *child)
{
	if (child->inputs_path)
		unlink(child->inputs_path);
	free(child->inputs_path);
	child->inputs_path = NULL;
}

/* Without a value, the command is not to get that of the worker itself. */
static void
set_env(const char *name, const char *value)
{
	if (value)
		setenv(name, value, 1);
	else
		unsetenv(name);
}

/* In the new process: become the command. */
static void
run_command(const char *command, const char *inputs_path, const ChildEnv *env, int nenv,
			int fd_in, int fd_out, int fd_err)
{
	const char *msg = PROGNAME ": could not run /bin/sh\n";

	setpgid(0, 0);
	guard_add(getpid());
	signal(SIGPIPE, SIG_DFL);
	for (int i = 0; i < nenv; i++)
		set_env(env[i].name, env[i].value);
	set_env("JOBQ_INPUTS", inputs_path);

	/*
	 * The worker has 0 to 2 open, so these are above, and dup2() clears
	 * CLOEXEC.
	 */
	if (dup2(fd_in, STDIN_FILENO) >= 0 &&
		dup2(fd_out, STDOUT_FILENO) >= 0 &&
		dup2(fd_err, STDERR_FILENO) >= 0)
		execl("/bin/sh", "sh", "-c", command, (char *) NULL);
	if (write(STDERR_FILENO, msg, strlen(msg)) < 0)
		_exit(126);
	_exit(127);
}

/* Start a command.  If that cannot be, say why in errbuf, and in errno. */
bool
child_start(Child *child, const char *command, const char *args, const char *inputs,
			const ChildEnv *env, int nenv, char *errbuf, size_t errlen)
{
	int			in[2] = {-1, -1};
	int			out[2] = {-1, -1};
	int			err[2] = {-1, -1};
	const char *what = "inputs file";
	int			error;
	pid_t		pid = -1;

	if (inputs == NULL || write_inputs(child, inputs))
	{
		what = "pipe";
		if (make_pipe(in) && make_pipe(out) && make_pipe(err))
		{
			what = "process";
			pid = fork_child();
			if (pid == 0)
				run_command(command, child->inputs_path, env, nenv, in[0], out[1], err[1]);
		}
	}
	error = errno;
	if (pid < 0)
	{
		snprintf(errbuf, errlen, "could not start the command: no %s: %s", what, strerror(error));
		close_fd(&in[1]);
		close_fd(&out[0]);
		close_fd(&err[0]);
	}
	else
	{
		Buf			input = {0};

		setpgid(pid, pid);		/* here too: whoever is first */
		child->pid = pid;
		buf_puts(&input, args);
		buf_puts(&input, "\n");
		child->input = input.data;
		child->input_len = input.len;
		child->fd_in = in[1];
		child->fd_out = out[0];
		child->fd_err = err[0];
		fcntl(child->fd_in, F_SETFL, O_NONBLOCK);
		fcntl(child->fd_out, F_SETFL, O_NONBLOCK);
		fcntl(child->fd_err, F_SETFL, O_NONBLOCK);
	}
	close_fd(&in[0]);
	close_fd(&out[1]);
	close_fd(&err[1]);
	errno = error;
	return pid > 0;
}

static void
write_input(Child *child)
{
	while (child->input_done < child->input_len)
	{
		ssize_t		n = write(child->fd_in, child->input + child->input_done,
							  child->input_len - child->input_done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n < 0)
			break;				/* EPIPE: it does not want to read it */
		child->input_done += (size_t) n;
	}
	close_fd(&child->fd_in);
	free(child->input);
	child->input = NULL;
}

static void
keep_error(Child *child, const char *data, size_t len)
{
	if (child->err == NULL)
		child->err = xmalloc(STDERR_KEEP);
	for (size_t done = 0; done < len;)
	{
		size_t		at = (size_t) (child->err_len % STDERR_KEEP);
		size_t		n = STDERR_KEEP - at;

		if (n > len - done)
			n = len - done;
		memcpy(child->err + at, data + done, n);
		child->err_len += n;
		done += n;
	}
}

/*
 * Read what there is, up to a limit: a process that has left the group may
 * write without end.
 */
static void
read_output(Child *child, int *fd, bool is_error, int reads)
{
	static char data[READ_SIZE];

	for (int i = 0; i < reads; i++)
	{
		ssize_t		n = read(*fd, data, sizeof(data));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return;
		if (n <= 0)
		{
			close_fd(fd);
			return;
		}
		if (is_error)
		{
			keep_error(child, data, (size_t) n);
			log_keep(child, data, (size_t) n);
		}
		else if (opt.output != OUTPUT_DISCARD && child->out.len <= max_output)
			buf_append(&child->out, data, (size_t) n);
	}
}

/* Do with each pipe what poll() found it ready for. */
void
child_io(Child *child)
{
	if (child->slot_in >= 0 && child->fd_in >= 0)
		write_input(child);
	if (child->slot_out >= 0 && child->fd_out >= 0)
		read_output(child, &child->fd_out, false, READS_PER_TURN);
	if (child->slot_err >= 0 && child->fd_err >= 0)
		read_output(child, &child->fd_err, true, READS_PER_TURN);
}

static void
signal_group(const Child *child, int signum)
{
	if (child->pid > 0)
		kill(-child->pid, signum);
}

/* Has the command's shell ended? */
bool
child_exited(Child *child)
{
	if (!child->exited)
	{
		siginfo_t	info;

		memset(&info, 0, sizeof(info));
		child->exited = waitid(P_PID, (id_t) child->pid, &info, WEXITED | WNOHANG | WNOWAIT) == 0 &&
			info.si_pid != 0;
	}
	return child->exited;
}

/*
 * Has the command ended, so that its status is known and nothing of it runs
 * any more?
 */
bool
child_ended(Child *child, Usec now)
{
	if (!child_exited(child))
		return false;
	if (child->stopping && !child->killed && now < child->kill_at &&
		(child->fd_out >= 0 || child->fd_err >= 0))
		return false;

	signal_group(child, SIGKILL);
	guard_remove(child->pid);
	while (waitpid(child->pid, &child->status, 0) < 0 && errno == EINTR)
		;
	child->pid = 0;
	child->kill_at = USEC_NEVER;
	if (child->fd_out >= 0)
		read_output(child, &child->fd_out, false, READS_AT_END);
	if (child->fd_err >= 0)
		read_output(child, &child->fd_err, true, READS_AT_END);
	close_fd(&child->fd_in);
	close_fd(&child->fd_out);
	close_fd(&child->fd_err);
	remove_inputs(child);
	return true;
}

/* Ask the whole group to end, and remember when to insist. */
void
child_stop(Child *child, Usec now)
{
	if (child->stopping)
		return;
	child->stopping = true;
	child->kill_at = now + opt.kill_after;
	signal_group(child, SIGTERM);
	signal_group(child, SIGCONT);	/* a stopped one too */
}

void
child_tick(Child *child, Usec now)
{
	if (child->pid > 0 && !child->killed && now >= child->kill_at)
	{
		child->killed = true;
		signal_group(child, SIGKILL);
	}
}

Usec
child_timer(const Child *child)
{
	return child->pid > 0 && !child->killed ? child->kill_at : USEC_NEVER;
}

/* Append the last of stderr, as much as the server takes, and as it takes it. */
void
child_stderr(const Child *child, Buf *to)
{
	size_t		start = to->len;
	size_t		room = max_error > start ? max_error - start : 0;
	size_t		len = child->err_len < STDERR_KEEP ? (size_t) child->err_len : STDERR_KEEP;
	size_t		at;
	size_t		first;

	if (len > room)
		len = room;
	if (len == 0)
		return;
	at = (size_t) ((child->err_len - len) % STDERR_KEEP);
	first = STDERR_KEEP - at < len ? STDERR_KEEP - at : len;
	buf_append(to, child->err + at, first);
	buf_append(to, child->err, len - first);

	/* Where the beginning is cut, do not show half a character. */
	if (child->err_len > len)
	{
		size_t		skip = 0;

		while (skip < 3 && skip < len && ((unsigned char) to->data[start + skip] & 0xc0) == 0x80)
			skip++;
		memmove(to->data + start, to->data + start + skip, len - skip + 1);
		to->len -= skip;
	}
	to->len = start + make_utf8(to->data + start, to->len - start);
	to->data[to->len] = '\0';
}

/* Forget all of a command that has ended but its output. */
void
child_forget(Child *child)
{
	remove_inputs(child);
	free(child->input);
	free(child->err);
	child->input = child->err = NULL;
}

/* Forget a command; one that still runs is killed. */
void
child_free(Child *child)
{
	signal_group(child, SIGKILL);
	close_fd(&child->fd_in);
	close_fd(&child->fd_out);
	close_fd(&child->fd_err);
	child_forget(child);
	buf_free(&child->out);
	buf_free(&child->log);
}
