/*
 * conn.c
 *		One connection to the server: connecting, one statement at a time,
 *		and coming back after it was lost, all without blocking.
 *
 * DOWN -> CONNECTING -> SETUP -> IDLE <-> BUSY; from anywhere back to DOWN,
 * where it stays for a time that doubles with each failure, with jitter.
 *
 * Statements of the pool are prepared when they are first sent, together with
 * that, under a name that is made of their text.  Behind a pooler the next one
 * may come to a session that does not know the name, or that knows it already,
 * perhaps from another worker, and then for the same text.  The server says so
 * and has done nothing; then this connection does without.
 *
 * A result is handed over only once the server is ready for the next
 * statement: what it sends before that comes before its COMMIT, which may
 * still fail.  If the connection breaks sooner, the reply function is told
 * with a NULL result, and never left waiting.
 */
#include "worker.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Set when a server was reached whose database lacks the extension. */
bool		conn_extension_missing = false;

/* Set when the last answer was that this is not the place, see state_is_elsewhere(). */
bool		conn_elsewhere = false;

/* As much of a command's output is read, in bytes: what the server may take as a result. */
size_t		max_output = MIN_MAX_OUTPUT;

/* As long may an error be, of which the server would cut the end. */
size_t		max_error = STDERR_KEEP;

static void conn_setup_done(Conn *conn, PGresult *res, void *arg);

void
conn_init(Conn *conn, const char *name, const char *conninfo)
{
	memset(conn, 0, sizeof(*conn));
	snprintf(conn->name, sizeof(conn->name), "%s", name);
	conn->conninfo = conninfo;
	conn->state = CONN_DOWN;
	conn->pollslot = -1;
}

bool
conn_up(const Conn *conn)
{
	return conn->state == CONN_IDLE || conn->state == CONN_BUSY;
}

/*
 * May a statement be sent?  Not while a request to cancel the one before is
 * under way, which could meet the next.
 */
bool
conn_free(const Conn *conn)
{
	return conn->state == CONN_IDLE && conn->cancel_pid == 0;
}

/* Without the newline that libpq ends its messages with. */
static char *
trimmed(const char *msg)
{
	char	   *copy = xstrdup(msg);
	size_t		len = strlen(copy);

	while (len > 0 && copy[len - 1] == '\n')
		copy[--len] = '\0';
	return copy;
}

/* Close the connection and forget all that belonged to it. */
static void
conn_forget(Conn *conn)
{
	PQclear(conn->result);
	PQfinish(conn->pg);
	free(conn->schema);
	free(conn->last_words);
	conn->result = NULL;
	conn->pg = NULL;
	conn->schema = NULL;
	conn->last_words = NULL;
	conn->reply = NULL;
	conn->preparing = NULL;
	conn->nprepared = 0;
	conn->pollslot = -1;
	conn->state = CONN_DOWN;
}

/* Forget the connection, tell who waits for a reply, and try again later. */
static void
conn_lost(Conn *conn, const char *event, const char *msg)
{
	ReplyFn		reply = conn->reply;
	void	   *arg = conn->arg;
	Usec		now = now_usec();
	Usec		delay;
	bool		quiet;
	char	   *text = trimmed(msg);

	/* An idle connection that is closed was well. */
	if (conn->state == CONN_IDLE || (conn_up(conn) && now - conn->up_since > opt.reconnect_max))
		conn->failures = 0;
	conn->failures++;
	delay = backoff_delay(conn->failures, opt.reconnect_max);

	/* Of a long outage, log the tries 1, 2, 4, 8 and so on. */
	quiet = (conn->failures & (conn->failures - 1)) != 0;
	log_event(quiet ? LOG_DEBUG : LOG_WARNING, event, "conn", conn->name, "error", text,
			  "failures", num(conn->failures), "retry_ms", num(delay / USEC_PER_MSEC), (char *) NULL);
	free(text);

	conn->unreached = conn->schema == NULL;
	conn_forget(conn);
	conn->retry_at = now + delay;
	if (reply)
		reply(conn, NULL, arg);
}

/* Why the server closes a connection on which no statement runs comes as a notice. */
static void
take_notice(void *arg, const PGresult *res)
{
	Conn	   *conn = arg;
	const char *severity = PQresultErrorField(res, PG_DIAG_SEVERITY_NONLOCALIZED);

	if (severity && strcmp(severity, "FATAL") == 0)
	{
		free(conn->last_words);
		conn->last_words = xstrdup(PQresultErrorMessage(res));
	}
}

/* The connection broke: for what the server said, or else what libpq says. */
static void
conn_broken(Conn *conn)
{
	const char *msg = PQerrorMessage(conn->pg);

	if (conn->result && !result_ok(conn->result))
		msg = PQresultErrorMessage(conn->result);
	else if (conn->last_words)
		msg = conn->last_words;
	conn_lost(conn, "connection_lost", msg);
}

/* A comma-separated list that begins with its element n, or after its last, over again. */
static char *
rotated(const char *list, int n)
{
	Buf			buf = {0};
	const char *from = list;

	while (n-- > 0)
	{
		from += strcspn(from, ",");
		from = *from ? from + 1 : list;
	}
	buf_puts(&buf, from);
	if (from > list)
	{
		buf_puts(&buf, ",");
		buf_append(&buf, list, (size_t) (from - list) - 1);
	}
	return buf.data;
}

/*
 * Begin to connect.  libpq goes on to the next of several hosts where one
 * refuses, but connecting step by step it does not end the wait for one that
 * never answers: that is done here, and the next try begins with the next host.
 */
static void
conn_start(Conn *conn, Usec now)
{
	/* Before dbname: it may override these.  After it: it may not. */
	const char *keys[] = {
		"keepalives_idle", "keepalives_interval", "keepalives_count",
		"tcp_user_timeout", "fallback_application_name",
		"dbname", "client_encoding", NULL, NULL, NULL, NULL
	};
	const char *values[] = {
		"20", "5", "4", "40000", PROGNAME, conn->conninfo, "UTF8", NULL, NULL, NULL, NULL
	};
	PQconninfoOption *options = conn->conninfo ? PQconninfoParse(conn->conninfo, NULL) : NULL;
	int			n = 7;

	conn->connect_by = now + CONNECT_TIMEOUT;
	for (PQconninfoOption *o = options; o && o->keyword; o++)
	{
		if (o->val == NULL)
			continue;
		if (strcmp(o->keyword, "connect_timeout") == 0 && atoi(o->val) > 0)
			conn->connect_by = now + atoi(o->val) * USEC_PER_SEC;
		else if (strcmp(o->keyword, "host") == 0 || strcmp(o->keyword, "hostaddr") == 0 ||
				 strcmp(o->keyword, "port") == 0)
		{
			keys[n] = o->keyword;
			values[n++] = rotated(o->val, conn->timeouts);
		}
	}
	conn->pg = PQconnectStartParams(keys, values, 1);
	while (n > 7)
		free((char *) values[--n]);
	PQconninfoFree(options);
	if (conn->pg == NULL)
	{
		conn_lost(conn, "connection_failed", "out of memory");
		return;
	}
	if (PQstatus(conn->pg) == CONNECTION_BAD)
	{
		conn_lost(conn, "connection_failed", PQerrorMessage(conn->pg));
		return;
	}
	PQsetNoticeReceiver(conn->pg, take_notice, conn);
	conn->state = CONN_CONNECTING;
	conn->polling = PGRES_POLLING_WRITING;
}

/*
 * The first statement finds the extension.  The waiting connection is a
 * session of its own and may also change settings, where they are not as they
 * have to be: those that would end a long wait, and the one by which a time that
 * is sent back may be taken for another.  The connections of the pool may come
 * from a pooler and must not.
 */
static void
conn_setup(Conn *conn)
{
	static const char *const find =
	"SELECT pg_catalog.quote_ident(coalesce($1::text,"
	" (SELECT n.nspname::text FROM pg_catalog.pg_extension e"
	" JOIN pg_catalog.pg_namespace n ON n.oid = e.extnamespace"
	" WHERE e.extname = 'jobq'))),"
	" pg_catalog.pg_size_bytes(pg_catalog.current_setting('jobq.max_result_size', true)),"
	" pg_catalog.pg_size_bytes(pg_catalog.current_setting('jobq.max_error_size', true))";
	static const char *const settings =
	", (SELECT pg_catalog.count(pg_catalog.set_config(name, value, false))"
	" FROM (VALUES ('statement_timeout', '0'), ('idle_session_timeout', '0'), ('datestyle', 'ISO')) s (name, value)"
	" WHERE pg_catalog.current_setting(name) NOT LIKE value || '%')";
	Buf			sql = {0};

	buf_puts(&sql, find);
	if (conn->waiting)
		buf_puts(&sql, settings);
	conn->state = CONN_IDLE;
	conn->up_since = now_usec();
	if (PQsetnonblocking(conn->pg, 1) != 0)
		conn_lost(conn, "connection_failed", PQerrorMessage(conn->pg));
	else
	{
		conn_send(conn, conn_setup_done, NULL, 1, &opt.schema, sql.data);
		if (conn->state == CONN_BUSY)
			conn->state = CONN_SETUP;
	}
	buf_free(&sql);
}

static void
conn_setup_done(Conn *conn, PGresult *res, void *arg)
{
	(void) arg;
	if (res == NULL)
		return;
	if (!result_ok(res))
	{
		conn_lost(conn, "connection_failed", PQresultErrorMessage(res));
		return;
	}
	if (PQgetisnull(res, 0, 0))
	{
		Buf			msg = {0};

		buf_printf(&msg, "extension \"jobq\" is not installed in database \"%s\""
				   " [CREATE EXTENSION jobq there, or name another by --dbname]", PQdb(conn->pg));
		conn_extension_missing = true;
		conn_lost(conn, "connection_failed", msg.data);
		buf_free(&msg);
		return;
	}
	conn_extension_missing = false;
	conn->state = CONN_IDLE;
	conn->unreached = false;
	max_output = (size_t) strtoll(PQgetvalue(res, 0, 1), NULL, 10);
	if (max_output < MIN_MAX_OUTPUT)
		max_output = MIN_MAX_OUTPUT;
	if (max_output > MAX_MAX_OUTPUT)
		max_output = MAX_MAX_OUTPUT;
	if (!PQgetisnull(res, 0, 2))
		max_error = (size_t) strtoll(PQgetvalue(res, 0, 2), NULL, 10);
	conn->schema = xstrdup(PQgetvalue(res, 0, 0));
	log_event(LOG_INFO, "connected", "conn", conn->name, "db", PQdb(conn->pg),
			  "schema", conn->schema, (char *) NULL);
	if (conn->ready)
		conn->ready(conn);
}

static void
conn_continue(Conn *conn)
{
	conn->polling = PQconnectPoll(conn->pg);
	if (conn->polling == PGRES_POLLING_FAILED)
		conn_lost(conn, "connection_failed", PQerrorMessage(conn->pg));
	else if (conn->polling == PGRES_POLLING_OK)
		conn_setup(conn);
}

/* Begin to connect when it is time to, and end attempts that take too long. */
void
conn_tick(Conn *conn, Usec now)
{
	if (conn->state == CONN_DOWN && now >= conn->retry_at)
		conn_start(conn, now);
	else if ((conn->state == CONN_CONNECTING || conn->state == CONN_SETUP) && now >= conn->connect_by)
	{
		conn->timeouts++;
		conn_lost(conn, "connection_failed", "timeout expired");
	}
}

Usec
conn_timer(const Conn *conn)
{
	if (conn->state == CONN_DOWN)
		return conn->retry_at;
	if (conn->state == CONN_CONNECTING || conn->state == CONN_SETUP)
		return conn->connect_by;
	return USEC_NEVER;
}

/* What poll() shall watch for; false if nothing. */
bool
conn_wants(const Conn *conn, struct pollfd *pfd)
{
	if (conn->state == CONN_DOWN)
		return false;
	pfd->fd = PQsocket(conn->pg);
	if (conn->state == CONN_CONNECTING)
		pfd->events = conn->polling == PGRES_POLLING_READING ? POLLIN : POLLOUT;
	else
		pfd->events = conn->flushing ? POLLIN | POLLOUT : POLLIN;
	return pfd->fd >= 0;
}

/* Is a connection that sent this result, and ends, the reason for it? */
static bool
result_means_lost(const Conn *conn, const PGresult *res)
{
	const char *state;

	if (res == NULL)
		return true;
	if (result_ok(res))
		return false;
	state = result_state(res);
	return PQstatus(conn->pg) == CONNECTION_BAD || state[0] == '\0' ||
		state_in_class(state, "08") || strcmp(state, "57P01") == 0 ||
		strcmp(state, "57P02") == 0 || strcmp(state, "57P03") == 0;
}

/* Was the prepared statement not there, or there before? */
static bool
state_is_unprepared(const char *state)
{
	return strcmp(state, "26000") == 0 || strcmp(state, "42P05") == 0;
}

/*
 * Is this not the place to be?  After a failover the server may be a standby,
 * and the extension may have been made again in another schema: connecting
 * again finds the primary, and the schema.
 */
static bool
state_is_elsewhere(const char *state)
{
	return strcmp(state, "25006") == 0 || strcmp(state, "42883") == 0 ||
		strcmp(state, "3F000") == 0;
}

/* The server is ready for the next statement: hand over the result. */
static void
conn_reply(Conn *conn)
{
	PGresult   *res = conn->result;
	ReplyFn		reply = conn->reply;
	void	   *arg = conn->arg;

	if (result_means_lost(conn, res))
	{
		conn_broken(conn);
		return;
	}
	conn_elsewhere = !result_ok(res) && state_is_elsewhere(result_state(res));
	if (conn_elsewhere)
	{
		conn_lost(conn, "connection_dropped", PQresultErrorMessage(res));
		return;
	}
	conn->result = NULL;
	conn->reply = NULL;
	if (conn->state == CONN_BUSY)
		conn->state = CONN_IDLE;

	if (!result_ok(res) && state_is_unprepared(result_state(res)) && !conn->unprepared)
	{
		log_event(LOG_INFO, "statements_unprepared", "conn", conn->name,
				  "sqlstate", result_state(res), (char *) NULL);
		conn->unprepared = true;
		if (reply)
			reply(conn, NULL, arg);
	}
	else if (reply)
		reply(conn, res, arg);
	PQclear(res);
}

/*
 * Take the next result.  False: there was the last.  Of a pipeline, which
 * has a statement prepared and executes it, that is PGRES_PIPELINE_SYNC.
 */
static bool
conn_take_result(Conn *conn)
{
	PGresult   *res = PQgetResult(conn->pg);

	if (res == NULL)
		return PQpipelineStatus(conn->pg) != PQ_PIPELINE_OFF && PQstatus(conn->pg) != CONNECTION_BAD;
	if (PQresultStatus(res) == PGRES_PIPELINE_SYNC)
	{
		PQclear(res);
		PQexitPipelineMode(conn->pg);
		return false;
	}

	if (conn->preparing && result_ok(res))
		conn->prepared[conn->nprepared++] = conn->preparing;
	conn->preparing = NULL;

	/*
	 * An error after a result is the COMMIT's, and decides.  After an error,
	 * the rest of a pipeline is aborted.
	 */
	if (conn->result == NULL ||
		(result_ok(conn->result) && PQresultStatus(res) != PGRES_PIPELINE_ABORTED))
	{
		PQclear(conn->result);
		conn->result = res;
	}
	else
		PQclear(res);
	return true;
}

/* The socket is ready: take what has come, send what is left to send. */
void
conn_io(Conn *conn)
{
	if (conn->state == CONN_CONNECTING)
	{
		conn_continue(conn);
		return;
	}
	if (!PQconsumeInput(conn->pg))
	{
		/* what came before may say why */
		while (!PQisBusy(conn->pg) && conn_take_result(conn))
			;
		conn_broken(conn);
		return;
	}
	if (conn->flushing)
	{
		int			rc = PQflush(conn->pg);

		if (rc < 0)
		{
			conn_broken(conn);
			return;
		}
		conn->flushing = rc > 0;
	}
	while ((conn->state == CONN_BUSY || conn->state == CONN_SETUP) && !PQisBusy(conn->pg))
	{
		if (!conn_take_result(conn))
		{
			conn_reply(conn);
			break;
		}
	}
	if (conn_up(conn))
	{
		PGnotify   *notify;

		while ((notify = PQnotifies(conn->pg)) != NULL)
		{
			if (conn->notified)
				conn->notified(conn, notify->relname);
			PQfreemem(notify);
		}
	}
}

static void
conn_begin(Conn *conn, ReplyFn reply, void *arg)
{
	conn->reply = reply;
	conn->arg = arg;
	conn->state = CONN_BUSY;
}

/* A statement was handed to libpq, or not: begin to send it. */
static void
conn_begun(Conn *conn, bool ok)
{
	int			rc = ok ? PQflush(conn->pg) : -1;

	conn->flushing = rc > 0;
	if (rc < 0)
		conn_broken(conn);
}

/* Send a statement.  If that fails, the reply function hears of it at once. */
void
conn_send(Conn *conn, ReplyFn reply, void *arg, int nparams,
		  const char *const *values, const char *sql)
{
	conn_begin(conn, reply, arg);

	/* Without parameters it may be several statements. */
	conn_begun(conn, nparams == 0 ? PQsendQuery(conn->pg, sql) :
			   PQsendQueryParams(conn->pg, sql, nparams, NULL, values, NULL, NULL, 0));
}

/* The name of a prepared statement: FNV-1a of its text. */
static void
statement_name(char *name, size_t size, const char *sql)
{
	uint64_t	hash = UINT64_C(0xcbf29ce484222325);

	for (const char *p = sql; *p; p++)
		hash = (hash ^ (unsigned char) *p) * UINT64_C(0x100000001b3);
	snprintf(name, size, "jobq_worker_%016llx", (unsigned long long) hash);
}

static bool
is_prepared(const Conn *conn, const char *fmt)
{
	for (int i = 0; i < conn->nprepared; i++)
	{
		if (conn->prepared[i] == fmt)
			return true;
	}
	return false;
}

/* Send a statement; if it is not prepared yet, have that done first. */
static void
conn_send_prepared(Conn *conn, ReplyFn reply, void *arg, int nparams,
				   const char *const *values, const char *fmt, const char *sql)
{
	char		name[40];

	statement_name(name, sizeof(name), sql);
	conn_begin(conn, reply, arg);
	if (is_prepared(conn, fmt))
		conn_begun(conn, PQsendQueryPrepared(conn->pg, name, nparams, values, NULL, NULL, 0));
	else
	{
		conn->preparing = fmt;
		conn_begun(conn, PQenterPipelineMode(conn->pg) &&
				   PQsendPrepare(conn->pg, name, sql, nparams, NULL) &&
				   PQsendQueryPrepared(conn->pg, name, nparams, values, NULL, NULL, 0) &&
				   PQpipelineSync(conn->pg));
	}
}

/*
 * Send a statement with the extension's schema in place of each "@".  The
 * waiting connection sends too few of them to have them prepared.
 */
void
conn_call(Conn *conn, ReplyFn reply, void *arg, int nparams,
		  const char *const *values, const char *fmt)
{
	Buf			sql = {0};

	for (const char *p = fmt; *p; p++)
	{
		if (*p == '@')
			buf_puts(&sql, conn->schema);
		else
			buf_append(&sql, p, 1);
	}
	if (conn->waiting || conn->unprepared)
		conn_send(conn, reply, arg, nparams, values, sql.data);
	else
		conn_send_prepared(conn, reply, arg, nparams, values, fmt, sql.data);
	buf_free(&sql);
}

/*
 * Ask the server to cancel the running statement.  PQcancel() blocks until
 * the server has taken note, and commands must not wait for that, so a child
 * process does it.
 */
void
conn_cancel(Conn *conn)
{
	PGcancel   *cancel;
	char		errbuf[256];

	if (conn->state != CONN_BUSY || conn->cancel_pid > 0)
		return;
	cancel = PQgetCancel(conn->pg);
	if (cancel == NULL)
		return;
	conn->cancel_pid = fork_child();
	if (conn->cancel_pid == 0)
	{
		closefrom(STDERR_FILENO + 1);	/* the commands' pipes above all */
		alarm(30);
		_exit(PQcancel(cancel, errbuf, sizeof(errbuf)) ? 0 : 1);
	}
	if (conn->cancel_pid < 0)
	{
		log_errno(LOG_WARNING, "cancel_failed");
		conn->cancel_pid = 0;
	}
	PQfreeCancel(cancel);
}

/* Take note of the end of the process that conn_cancel() began. */
void
conn_reap(Conn *conn)
{
	if (conn->cancel_pid > 0 && waitpid(conn->cancel_pid, NULL, WNOHANG) != 0)
		conn->cancel_pid = 0;
}

/* Close for good. */
void
conn_close(Conn *conn)
{
	ReplyFn		reply = conn->reply;

	conn_forget(conn);
	if (reply)
		reply(conn, NULL, conn->arg);
}

bool
result_ok(const PGresult *res)
{
	ExecStatusType status = PQresultStatus(res);

	return status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK;
}

const char *
result_state(const PGresult *res)
{
	const char *state = PQresultErrorField(res, PG_DIAG_SQLSTATE);

	return state ? state : "";
}

/* The server's message with its detail, to be freed. */
char *
result_message(const PGresult *res)
{
	const char *primary = PQresultErrorField(res, PG_DIAG_MESSAGE_PRIMARY);
	const char *detail = PQresultErrorField(res, PG_DIAG_MESSAGE_DETAIL);
	const char *hint = PQresultErrorField(res, PG_DIAG_MESSAGE_HINT);
	Buf			msg = {0};

	if (primary == NULL)
		return trimmed(PQresultErrorMessage(res));
	buf_puts(&msg, primary);
	if (detail)
		buf_printf(&msg, " (%s)", detail);
	if (hint)
		buf_printf(&msg, " [%s]", hint);
	return msg.data;
}

bool
state_in_class(const char *state, const char *class)
{
	return strncmp(state, class, 2) == 0;
}

/* Is it an error that goes away? */
bool
state_is_transient(const char *state)
{
	return state_in_class(state, "08") || state_in_class(state, "40") || state_in_class(state, "53") ||
		state_in_class(state, "57") || strcmp(state, "55P03") == 0;
}

/* The job is not ours any more, or no job at all: nothing is left to do. */
bool
state_is_refusal(const char *state)
{
	return state_in_class(state, "JQ");
}
