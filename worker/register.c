/*
 * register.c
 *		Telling the server of this worker, and that it ends.
 *
 * The worker registers as soon as a connection of the pool is up, before it
 * claims, and unregisters when it has nothing left to do.  Neither holds it up:
 * it works without, and where the server does not answer it leaves all the same.
 */
#include "worker.h"

#include <stdlib.h>

static enum
{
	REGISTER_DUE,
	REGISTER_SENT,
	REGISTER_DONE,
	UNREGISTER_SENT,
	REGISTER_OVER				/* unregistered, or refused */
}			state = REGISTER_DUE;

static Usec retry_at;
static int	failures;
static Usec leave_by = USEC_NEVER;	/* the end of our patience */

/* The server refused; false: try again later. */
static bool
refused(const PGresult *res, const char *event)
{
	char	   *msg = result_message(res);

	log_event(LOG_WARNING, event, "sqlstate", result_state(res), "error", msg, (char *) NULL);
	free(msg);
	retry_at = now_usec() + backoff_delay(++failures, RETRY_MAX);
	return !state_is_transient(result_state(res));
}

static void
register_reply(Conn *conn, PGresult *res, void *arg)
{
	(void) conn;
	(void) arg;
	state = REGISTER_DUE;
	if (res == NULL)
		return;
	if (result_ok(res))
		state = REGISTER_DONE;
	else if (refused(res, "register_failed"))
		state = REGISTER_OVER;
}

static void
unregister_reply(Conn *conn, PGresult *res, void *arg)
{
	(void) conn;
	(void) arg;
	state = REGISTER_DONE;
	if (res == NULL)
		return;
	if (result_ok(res) || refused(res, "unregister_failed"))
		state = REGISTER_OVER;
}

/* Is there nothing left to do but to unregister? */
static bool
leaving(void)
{
	return draining && njobs == 0 && !claim_in_flight();
}

/* Register, or unregister, if that is what is to be done. */
bool
register_send(Conn *conn, Usec now)
{
	const char *values[4];

	if (now < retry_at)
		return false;
	values[0] = opt.worker;
	if (state == REGISTER_DUE && !draining)
	{
		values[1] = opt.labels.data;
		values[2] = opt.version;
		values[3] = num(opt.concurrency);
		state = REGISTER_SENT;
		conn_call(conn, register_reply, NULL, 4, values,
				  "SELECT @.job_worker_register($1, $2::text[], $3, $4::int)");
		return true;
	}
	if (state == REGISTER_DONE && leaving())
	{
		state = UNREGISTER_SENT;
		conn_call(conn, unregister_reply, NULL, 1, values, "SELECT @.job_worker_unregister($1)");
		return true;
	}
	return false;
}

/* Is the worker to wait before it ends, so that it is unregistered? */
bool
register_keeps(Usec now)
{
	if (state == REGISTER_DUE || state == REGISTER_OVER)
		return false;
	if (leave_by == USEC_NEVER && leaving())
		leave_by = now + UNREGISTER_WITHIN;
	return now < leave_by;
}

Usec
register_timer(Usec now)
{
	Usec		timer = leave_by;

	if (retry_at > now && ((state == REGISTER_DUE && !draining) || (state == REGISTER_DONE && leaving())))
		note_time(&timer, retry_at);
	return timer;
}
