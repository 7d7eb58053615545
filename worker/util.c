/*
 * util.c
 *		Memory, text, time and the log.
 */
#include "worker.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifdef CLOCK_BOOTTIME
#define WORKER_CLOCK CLOCK_BOOTTIME
#else
#define WORKER_CLOCK CLOCK_MONOTONIC
#endif

/* Out of memory ends the worker: its leases run out and the jobs come back. */
static void
out_of_memory(void)
{
	fprintf(stderr, "%s: out of memory\n", PROGNAME);
	exit(EXIT_FAILURE);
}

void *
xmalloc(size_t size)
{
	void	   *ptr = calloc(1, size ? size : 1);

	if (ptr == NULL)
		out_of_memory();
	return ptr;
}

void *
xrealloc(void *ptr, size_t size)
{
	ptr = realloc(ptr, size ? size : 1);
	if (ptr == NULL)
		out_of_memory();
	return ptr;
}

char *
xstrdup(const char *str)
{
	size_t		size = strlen(str) + 1;

	return memcpy(xmalloc(size), str, size);
}

void
buf_append(Buf *buf, const char *data, size_t len)
{
	if (buf->size - buf->len < len + 1)
	{
		size_t		size = buf->size ? buf->size : 128;

		while (size - buf->len < len + 1)
			size *= 2;
		buf->data = xrealloc(buf->data, size);
		buf->size = size;
	}
	if (len > 0)
		memcpy(buf->data + buf->len, data, len);
	buf->len += len;
	buf->data[buf->len] = '\0';
}

void
buf_puts(Buf *buf, const char *str)
{
	buf_append(buf, str, strlen(str));
}

void
buf_printf(Buf *buf, const char *fmt,...)
{
	va_list		args;
	int			len;
	char	   *str;

	va_start(args, fmt);
	len = vsnprintf(NULL, 0, fmt, args);
	va_end(args);
	if (len < 0)
		return;
	str = xmalloc((size_t) len + 1);
	va_start(args, fmt);
	vsnprintf(str, (size_t) len + 1, fmt, args);
	va_end(args);
	buf_append(buf, str, (size_t) len);
	free(str);
}

/* Append a value to an array, which "}" is to end. */
void
buf_element(Buf *array, const char *value)
{
	buf_puts(array, array->len == 0 ? "{" : ",");
	if (value == NULL)
	{
		buf_puts(array, "NULL");
		return;
	}
	buf_puts(array, "\"");
	while (*value)
	{
		size_t		plain = strcspn(value, "\"\\");

		buf_append(array, value, plain);
		value += plain;
		if (*value)
			buf_printf(array, "\\%c", *value++);
	}
	buf_puts(array, "\"");
}

void
buf_free(Buf *buf)
{
	free(buf->data);
	memset(buf, 0, sizeof(*buf));
}

Usec
now_usec(void)
{
	struct timespec ts;

	clock_gettime(WORKER_CLOCK, &ts);
	return (Usec) ts.tv_sec * USEC_PER_SEC + ts.tv_nsec / 1000;
}

/* Make *timer the earlier of itself and "when". */
void
note_time(Usec *timer, Usec when)
{
	if (when < *timer)
		*timer = when;
}

/*
 * The delay before the next try after that many failures in a row: at random
 * between nothing and a limit that doubles each time up to the cap, so that
 * workers that lost the same server do not come back in step.
 */
Usec
backoff_delay(int failures, Usec cap)
{
	Usec		limit = FIRST_RETRY;

	while (--failures > 0 && limit < cap)
		limit *= 2;
	if (limit > cap)
		limit = cap;
	return (Usec) ((double) random() / ((double) RAND_MAX + 1) * (double) limit);
}

/* An interval, give or take a tenth. */
Usec
jittered(Usec interval)
{
	return (Usec) ((double) interval * (0.9 + 0.2 * (double) random() / (double) RAND_MAX));
}

/* The length of the valid UTF-8 character at str, or 0. */
static size_t
utf8_length(const unsigned char *str, size_t len)
{
	unsigned char c = str[0];
	size_t		need;

	if (c < 0x80)
		return 1;
	if (c >= 0xc2 && c <= 0xdf)
		need = 2;
	else if (c >= 0xe0 && c <= 0xef)
		need = 3;
	else if (c >= 0xf0 && c <= 0xf4)
		need = 4;
	else
		return 0;
	if (need > len)
		return 0;
	for (size_t i = 1; i < need; i++)
	{
		if ((str[i] & 0xc0) != 0x80)
			return 0;
	}
	if ((c == 0xe0 && str[1] < 0xa0) || /* overlong */
		(c == 0xed && str[1] > 0x9f) || /* surrogate */
		(c == 0xf0 && str[1] < 0x90) || /* overlong */
		(c == 0xf4 && str[1] > 0x8f))	/* above U+10FFFF */
		return 0;
	return need;
}

/*
 * Make valid UTF-8 in place: NUL bytes are taken out, other bad bytes become
 * question marks, so that the text never grows.  Returns the new length.
 */
size_t
make_utf8(char *str, size_t len)
{
	size_t		to = 0;

	for (size_t from = 0; from < len;)
	{
		size_t		n = utf8_length((unsigned char *) str + from, len - from);

		if (n == 0)
		{
			str[to++] = '?';
			from++;
		}
		else if (str[from] == '\0')
			from++;
		else
		{
			memmove(str + to, str + from, n);
			to += n;
			from += n;
		}
	}
	return to;
}

/* Append a text as a JSON string. */
void
buf_json_string(Buf *buf, const char *str)
{
	buf_puts(buf, "\"");
	while (*str)
	{
		size_t		plain = 0;

		while ((unsigned char) str[plain] >= 0x20 && str[plain] != '"' && str[plain] != '\\')
			plain++;
		buf_append(buf, str, plain);
		str += plain;
		if (*str == '"' || *str == '\\')
			buf_printf(buf, "\\%c", *str++);
		else if (*str)
			buf_printf(buf, "\\u%04x", (unsigned char) *str++);
	}
	buf_puts(buf, "\"");
}

/* For a database whose encoding lacks a character: ASCII always goes. */
void
make_ascii(char *str)
{
	for (; *str; str++)
	{
		if (*str & 0x80)
			*str = '?';
	}
}

/* A number as text, good until eight more of them were made. */
const char *
num(int64_t value)
{
	static char bufs[8][24];
	static int	next = 0;
	char	   *buf = bufs[next++ % 8];

	snprintf(buf, sizeof(bufs[0]), "%lld", (long long) value);
	return buf;
}

/* Append a value to a line of the log, in quotes where it needs them. */
static void
log_value(Buf *line, const char *value)
{
	if (*value && strpbrk(value, " \"\\=\t\r\n") == NULL)
	{
		bool		plain = true;

		for (const char *p = value; *p && plain; p++)
			plain = (unsigned char) *p >= 0x20 && *p != 0x7f;
		if (plain)
		{
			buf_puts(line, value);
			return;
		}
	}
	buf_puts(line, "\"");
	for (const char *p = value; *p; p++)
	{
		if (*p == '"' || *p == '\\')
			buf_printf(line, "\\%c", *p);
		else if (*p == '\n')
			buf_puts(line, "\\n");
		else if ((unsigned char) *p < 0x20 || *p == 0x7f)
			buf_printf(line, "\\x%02x", (unsigned char) *p);
		else
			buf_append(line, p, 1);
	}
	buf_puts(line, "\"");
}

/*
 * Write one line: the time, then key=value.  The arguments after the event
 * are pairs of strings, ended by NULL; a pair without a value is left out.
 */
void
log_event(LogLevel level, const char *event,...)
{
	static const char *const names[] = {"debug", "info", "warning", "error"};
	struct timespec ts;
	struct tm	tm;
	char		stamp[32];
	Buf			line = {0};
	va_list		args;
	const char *key;

	if (level == LOG_DEBUG && !opt.verbose)
		return;
	clock_gettime(CLOCK_REALTIME, &ts);
	gmtime_r(&ts.tv_sec, &tm);
	strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
	buf_printf(&line, "%s.%03ldZ level=%s event=%s", stamp, ts.tv_nsec / 1000000, names[level], event);
	va_start(args, event);
	while ((key = va_arg(args, const char *)) != NULL)
	{
		const char *value = va_arg(args, const char *);

		if (value == NULL)
			continue;
		buf_printf(&line, " %s=", key);
		log_value(&line, value);
	}
	va_end(args);
	buf_puts(&line, "\n");
	fwrite(line.data, 1, line.len, stderr);
	buf_free(&line);
}

/* The same for a system call that failed. */
void
log_errno(LogLevel level, const char *event)
{
	log_event(level, event, "error", strerror(errno), (char *) NULL);
}
