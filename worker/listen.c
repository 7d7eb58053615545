/*
 * listen.c
 *		Waiting by LISTEN, and finding out whether that works.
 *
 * Behind a pooler that gives each transaction another session, LISTEN succeeds
 * and no notification ever comes: the worker would find its jobs by the slow
 * poll alone, without a word.  So it also listens to a channel of its own, and
 * a connection of the pool notifies that once.  The waiting connection itself
 * would prove nothing, since a session that notifies itself is told with the
 * answer.
 */
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PROOF_TIME (5 * USEC_PER_SEC)	/* for a notification to come */

static enum
{
	PROOF_NONE,					/* not listening, or nobody can tell */
	PROOF_DUE,					/* the notification is to be sent */
	PROOF_SENT,					/* it is to come until proof_by */
	PROOF_MISSED,				/* it has not */
	PROOF_DONE
}			proof = PROOF_NONE;

static Conn *listener;
static bool stale = false;		/* there are further queues to listen to */
static Usec proof_by;
static char proof_channel[64];

/*
 * Jobs that came while nobody listened are not announced again: look for
 * them.  If LISTEN failed, the slow poll remains.
 */
static void
listen_reply(Conn *conn, PGresult *res, void *arg)
{
	(void) conn;
	(void) arg;
	if (res == NULL)
		return;
	if (!result_ok(res))
	{
		char	   *msg = result_message(res);

		log_event(LOG_ERROR, "listen_failed", "error", msg, (char *) NULL);
		free(msg);
	}
	else if (proof != PROOF_DONE)
		proof = PROOF_DUE;
	claim_again();
	flow_changed();
}

static void
listen_start(Conn *conn)
{
	Buf			sql = {0};

	stale = false;
	for (int i = 0; i < opt.nqueues; i++)
		buf_printf(&sql, "LISTEN \"job_queue_%s\";", opt.queues[i]);
	if (opt.flow)
		buf_printf(&sql, "LISTEN job_%s;", opt.flow);
	buf_printf(&sql, "LISTEN \"%s\"", proof_channel);
	conn_send(conn, listen_reply, NULL, 0, NULL, sql.data);
	buf_free(&sql);
}

static void
notified(Conn *conn, const char *channel)
{
	if (strcmp(channel, proof_channel) != 0)
	{
		claim_again();
		flow_changed();
	}
	else if (proof != PROOF_DONE)
	{
		proof = PROOF_DONE;
		log_event(LOG_INFO, "listening", "conn", conn->name, (char *) NULL);
	}
}

/* A member of the flow is of this queue. */
void
listen_to(const char *queue)
{
	for (int i = 0; i < opt.nqueues; i++)
	{
		if (strcmp(opt.queues[i], queue) == 0)
			return;
	}
	if (opt.nqueues == MAX_QUEUES)
		return;					/* there is the slow poll */
	opt.queues = xrealloc(opt.queues, (size_t) (opt.nqueues + 1) * sizeof(*opt.queues));
	opt.queues[opt.nqueues++] = xstrdup(queue);
	stale = true;
}

/* This connection is to wait. */
void
listen_init(Conn *conn)
{
	snprintf(proof_channel, sizeof(proof_channel), PROGNAME " %ld %lx", (long) getpid(),
			 (unsigned long) random());
	listener = conn;
	conn->ready = listen_start;
	conn->notified = notified;
}

static void
proof_reply(Conn *conn, PGresult *res, void *arg)
{
	(void) conn;
	(void) arg;
	if (proof != PROOF_SENT)
		return;					/* it was there before this answer */
	if (res == NULL)
		proof = PROOF_DUE;
	else if (!result_ok(res))
		proof = PROOF_NONE;
	else
		proof_by = now_usec() + PROOF_TIME;
}

/* Send the notification, if that is what is to be done. */
bool
listen_send_proof(Conn *conn)
{
	const char *channel = proof_channel;

	if (proof != PROOF_DUE)
		return false;
	proof = PROOF_SENT;
	proof_by = USEC_NEVER;
	conn_send(conn, proof_reply, NULL, 1, &channel, "SELECT pg_catalog.pg_notify($1, '')");
	return true;
}

void
listen_tick(Usec now)
{
	Buf			error = {0};

	if (listener == NULL)
		return;
	if (stale && conn_free(listener))
		listen_start(listener);
	if (proof != PROOF_DONE && !conn_up(listener))
		proof = PROOF_NONE;		/* until it is back */
	if (proof != PROOF_SENT || now < proof_by)
		return;
	proof = PROOF_MISSED;
	buf_printf(&error, "no notification arrives, so jobs are looked for every %g s only"
			   " [with a transaction pooler, let --wait-dbname lead to the server directly,"
			   " or give one --queue without --listen, to wait by job_claim_wait]",
			   (double) opt.poll_interval / USEC_PER_SEC);
	log_event(LOG_WARNING, "not_notified", "conn", listener->name, "error", error.data, (char *) NULL);
	buf_free(&error);
}

Usec
listen_timer(void)
{
	return proof == PROOF_SENT ? proof_by : USEC_NEVER;
}

/* Free what listen_to() has kept; the others are arguments of the program. */
void
listen_end(void)
{
	for (int i = 0; i < opt.nqueues && opt.flow; i++)
		free((char *) opt.queues[i]);
}
