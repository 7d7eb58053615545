/*
 * output.c
 *		What --flow prints, on standard output.
 *
 * Whoever reads it may be slow, or a pager that waits for somebody, and must not
 * keep heartbeats from being sent.  So lines are kept here and written when
 * poll() says that there is room, as much as a pipe then takes without blocking.
 * Where too much is waiting nothing further is asked for (flow.c).
 */
#include "worker.h"

#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define OUTPUT_ENOUGH (1024 * 1024)

static Buf	output;
static size_t written;			/* of it */
static bool closed = false;		/* nobody reads it any more */

/* Is so much waiting that no more should come? */
bool
output_is_full(void)
{
	return output.len - written > OUTPUT_ENOUGH;
}

/* Append text, with control characters, which a terminal might obey, as \x and their code. */
static void
append_escaped(Buf *to, const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *) text;

	for (size_t i = 0; i < len; i++)
	{
		if ((s[i] < 0x20 && s[i] != '\t') || s[i] == 0x7f)
			buf_printf(to, "\\x%02x", s[i]);
		else if (s[i] == 0xc2 && i + 1 < len && s[i + 1] < 0xa0)
			buf_printf(to, "\\x%02x", s[++i]);
		else
			buf_append(to, &text[i], 1);
	}
}

/*
 * Print text of a job, as many lines as it has, each with the time, the job's name, and
 * what stands between that and the text.
 */
void
output_text(const char *time, const char *name, const char *between, const char *text)
{
	if (closed)
		return;
	do
	{
		size_t		len = strcspn(text, "\n");

		buf_puts(&output, time);
		buf_puts(&output, " ");
		append_escaped(&output, name, strlen(name));
		buf_puts(&output, between);
		append_escaped(&output, text, len);
		buf_puts(&output, "\n");
		text	  +=len;
	} while (*text ++== '\n' && *text);
}

/* Is there anything to be written? */
bool
output_wants(void)
{
	return written < output.len;
}

static void
write_some(size_t most)
{
	size_t		left = output.len - written;
	ssize_t		n = write(STDOUT_FILENO, output.data + written, left < most ? left : most);

	if (n >= 0)
		written += (size_t) n;
	else if (errno != EINTR && errno != EAGAIN)
	{
		log_errno(LOG_WARNING, "output_failed");
		closed = true;
	}
	if (closed || written == output.len)
	{
		written = 0;
		buf_free(&output);
	}
	else if (written > OUTPUT_ENOUGH)
	{
		memmove(output.data, output.data + written, output.len - written);
		output.len -= written;
		written = 0;
	}
}

/* There is room for something. */
void
output_io(void)
{
	write_some(PIPE_BUF);
}

/* Write the rest, however long that takes: nothing else is to be done any more, and signals end it. */
void
output_end(void)
{
	static const int signals[] = {SIGTERM, SIGINT, SIGHUP, SIGQUIT};

	for (int i = 0; i < 4 && output_wants(); i++)
	{
		struct sigaction old;

		sigaction(signals[i], NULL, &old);
		if (old.sa_handler != SIG_IGN)
			signal(signals[i], SIG_DFL);
	}
	while (output_wants())
		write_some(PIPE_BUF);
}
