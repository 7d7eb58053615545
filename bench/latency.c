/*
 * latency: from a commit to the session that waits for it.
 *
 * Usage: latency MODE COUNT
 *
 * Two sessions.  One waits: in job_claim_wait(), in job_wait(), or with LISTEN
 * for a queue or for a job.  The other prepares a transaction that makes a job
 * ready, or decides one ("slot": one that has the only slot of the queue, whose
 * next job the first then claims), and when the first has had the time to fall asleep
 * sends its COMMIT.  What is measured goes from there to the moment when the
 * answer or the notification is here.  That includes one way of a round trip
 * in each direction, so the median of a bare one, SELECT 1, is subtracted.
 *
 * The second session commits asynchronously: a flush of the disk is neither the
 * waiter's nor the wake-up's.
 *
 * Prints the 50th and the 99th percentile in milliseconds.
 */
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "libpq-fe.h"

#define QUEUE "latency"
#define CLAIM_WAIT(queue) "CALL job_claim_wait('" queue "', 'waiter', '10 s')"
#define SLOT_QUEUE "latency-slot"
/* long enough for the waiter to sleep */
#define PAUSE_US 2000
/* long enough for what was announced twice to arrive before it is not meant */
#define LISTEN_PAUSE_US 10000

static PGconn *waiter;
static PGconn *other;
static char job[32];			/* that the waiter has claimed */
static char token[32];

static void
die(const char *what, const char *why)
{
	fprintf(stderr, "latency: %s: %s\n", what, why);
	exit(1);
}

static double
now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1e3 + ts.tv_nsec / 1e6;
}

static PGconn *
connection(void)
{
	PGconn	   *conn = PQconnectdb("");

	if (PQstatus(conn) != CONNECTION_OK)
		die("connection", PQerrorMessage(conn));
	return conn;
}

static void
check(PGconn *conn, PGresult *res, const char *sql)
{
	ExecStatusType status = PQresultStatus(res);

	if (status != PGRES_TUPLES_OK && status != PGRES_COMMAND_OK)
		die(sql, PQerrorMessage(conn));
}

static void
run(PGconn *conn, const char *sql)
{
	PGresult   *res = PQexec(conn, sql);

	check(conn, res, sql);
	PQclear(res);
}

static void
send_query(PGconn *conn, const char *sql)
{
	if (!PQsendQuery(conn, sql))
		die(sql, PQerrorMessage(conn));
}

/* Wait for the answer to send_query(); its first value must not be NULL.  It may be that of a claim. */
static void
receive(PGconn *conn, const char *sql, bool value)
{
	PGresult   *res;

	while ((res = PQgetResult(conn)) != NULL)
	{
		check(conn, res, sql);
		if (value && (PQntuples(res) != 1 || PQgetisnull(res, 0, 0)))
			die(sql, "nothing came");
		if (value)
		{
			snprintf(job, sizeof(job), "%s", PQgetvalue(res, 0, 0));
			snprintf(token, sizeof(token), "%s", PQgetvalue(res, 0, 1));
		}
		PQclear(res);
	}
}

static void
receive_notification(PGconn *conn)
{
	PGnotify   *notify;

	while ((notify = PQnotifies(conn)) == NULL)
	{
		struct pollfd fd;

		fd.fd = PQsocket(conn);
		fd.events = POLLIN;
		if (poll(&fd, 1, 10000) != 1 || !PQconsumeInput(conn))
			die("LISTEN", "nothing came");
	}
	PQfreemem(notify);
}

/* Forget what the round before may have left. */
static void
drain(PGconn *conn)
{
	PGnotify   *notify;

	if (!PQconsumeInput(conn))
		die("LISTEN", PQerrorMessage(conn));
	while ((notify = PQnotifies(conn)) != NULL)
		PQfreemem(notify);
}

static int
compare(const void *a, const void *b)
{
	double		x = *(const double *) a,
				y = *(const double *) b;

	return (x > y) - (x < y);
}

static double
round_trip(int count)
{
	double	   *ms = malloc(count * sizeof(double));
	double		median;

	for (int i = 0; i < count; i++)
	{
		double		start = now_ms();

		run(waiter, "SELECT 1");
		ms[i] = now_ms() - start;
	}
	qsort(ms, count, sizeof(double), compare);
	median = ms[count / 2];
	free(ms);
	return median;
}

int
main(int argc, char **argv)
{
	const char *mode = argc == 3 ? argv[1] : "";
	int			count = argc == 3 ? atoi(argv[2]) : 0;
	bool		listen = strncmp(mode, "listen-", 7) == 0;
	bool		decide = strcmp(mode, "wait") == 0 || strcmp(mode, "listen-wait") == 0;
	bool		slot = strcmp(mode, "slot") == 0;
	double	   *ms,
				bare;

	if (count < 1 || (!decide && !slot && strcmp(mode, "claim") != 0 && strcmp(mode, "listen-claim") != 0))
		die("usage", "latency claim|wait|listen-claim|listen-wait|slot COUNT");
	waiter = connection();
	other = connection();
	run(other, "SET synchronous_commit = off");
	if (listen && !decide)
		run(waiter, "LISTEN \"job_queue_" QUEUE "\"");
	if (slot)
	{
		char		sql[200];

		run(other, "SELECT job_queue_set('" SLOT_QUEUE "', max_running => 1)");
		snprintf(sql, sizeof(sql), "SELECT count(job_submit('noop', queue => '" SLOT_QUEUE "')) FROM generate_series(0, %d)", count);
		run(other, sql);
		send_query(waiter, CLAIM_WAIT(SLOT_QUEUE));
		receive(waiter, CLAIM_WAIT(SLOT_QUEUE), true);
	}
	ms = malloc(count * sizeof(double));
	bare = round_trip(count);

	for (int i = 0; i < count; i++)
	{
		char		sql[200];
		double		start;

		if (decide)
		{
			PGresult   *res;
			const char *submit = "SELECT job_submit('noop', queue => '" QUEUE "', notify => true)";

			res = PQexec(other, submit);
			check(other, res, submit);
			snprintf(job, sizeof(job), "%s", PQgetvalue(res, 0, 0));
			PQclear(res);
			res = PQexec(other, "SELECT token FROM job_claim('" QUEUE "')");
			check(other, res, "job_claim");
			if (PQntuples(res) != 1)
				die("job_claim", "no job");
			snprintf(token, sizeof(token), "%s", PQgetvalue(res, 0, 0));
			PQclear(res);

			if (listen)
			{
				snprintf(sql, sizeof(sql), "LISTEN job_%s", job);
				run(waiter, sql);
			}
			else
			{
				snprintf(sql, sizeof(sql), "CALL job_wait(%s, '10 s')", job);
				send_query(waiter, sql);
			}
			run(other, "BEGIN");
			snprintf(sql, sizeof(sql), "SELECT job_complete(%s, %s)", job, token);
			run(other, sql);
		}
		else if (slot)
		{
			snprintf(sql, sizeof(sql), "SELECT job_complete(%s, %s)", job, token);
			send_query(waiter, CLAIM_WAIT(SLOT_QUEUE));
			run(other, "BEGIN");
			run(other, sql);
		}
		else
		{
			if (!listen)
				send_query(waiter, CLAIM_WAIT(QUEUE));
			run(other, "BEGIN");
			run(other, "SELECT job_submit('noop', queue => '" QUEUE "')");
		}
		usleep(listen ? LISTEN_PAUSE_US : PAUSE_US);
		drain(waiter);

		start = now_ms();
		send_query(other, "COMMIT");
		if (listen)
			receive_notification(waiter);
		else
			receive(waiter, mode, true);
		ms[i] = now_ms() - start - bare;
		receive(other, "COMMIT", false);
		if (listen)
			run(waiter, decide ? "UNLISTEN *" : "SELECT FROM job_claim('" QUEUE "')");
	}

	if (slot)
	{
		char		sql[200];

		snprintf(sql, sizeof(sql), "SELECT job_complete(%s, %s)", job, token);
		run(other, sql);
	}
	qsort(ms, count, sizeof(double), compare);
	printf("%.4f %.4f\n", ms[count / 2], ms[count * 99 / 100]);
	PQfinish(waiter);
	PQfinish(other);
	return 0;
}
