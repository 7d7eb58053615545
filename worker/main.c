/*
 * main.c
 *		Options of jobq-worker, which runs a command for each job of a queue.
 */
#include "worker.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

Options		opt;

static const char help_text[] =
PROGNAME " runs a command for each job of a jobq queue.\n"
"\n"
"Usage:\n"
"  " PROGNAME " [OPTION]... --kind NAME='COMMAND'...\n"
"\n"
"Jobs:\n"
"  -q, --queue=NAME           take jobs of this queue; may be repeated\n"
"                             (default: \"default\")\n"
"  -k, --kind=NAME='COMMAND'  run COMMAND for jobs of kind NAME; may be repeated;\n"
"                             the NAME * stands for all other kinds; COMMAND\n"
"                             :noop succeeds without running anything\n"
"      --flow=ID              take members of this flow alone, whatever their\n"
"                             queues, and print what happens in it\n"
"      --label=NAME           take jobs that require this label, too; may be\n"
"                             repeated\n"
"  -c, --concurrency=N        run up to N jobs at a time (default: 1)\n"
"      --prefetch=N           take up to N more, to begin with as soon as others\n"
"                             have ended (default: 0)\n"
"  -t, --timeout=TIME         stop commands that take longer (default: no limit)\n"
"      --kill-after=TIME      SIGKILL this long after SIGTERM (default: 5s)\n"
"      --lease=TIME           ask for leases of this length (default: the job's)\n"
"      --heartbeat=TIME       longest time between heartbeats, which are sent at\n"
"                             least three times in a lease (default: 10s)\n"
"      --output=FORMAT        what commands write: json, the result; text, which\n"
"                             becomes a JSON string; discard (default: json)\n"
"      --log                  keep what commands write to standard error in the\n"
"                             logs of their jobs, line by line\n"
"\n"
"Waiting:\n"
"      --listen               wait with LISTEN; implied by several queues\n"
"      --poll-interval=TIME   look for jobs this often even if nothing wakes the\n"
"                             worker (default: 60s, with LISTEN 10s, with a\n"
"                             flow 1s)\n"
"\n"
"Leaving:\n"
"      --drain-timeout=TIME   after SIGTERM, release jobs that take longer\n"
"                             (default: no limit)\n"
"      --max-jobs=N           leave after N jobs\n"
"      --exit-when-idle=TIME  leave when there was no job for this long\n"
"      --once                 do what there is to do, without waiting for more,\n"
"                             then leave\n"
"      --until-idle[=TIME]    with --flow: leave when it is decided, or when\n"
"                             nothing of it can go on by itself within TIME\n"
"                             (default: 1min), and say what it waits for\n"
"\n"
"Connections:\n"
"  -d, --dbname=CONNINFO      database name, connection string or URI\n"
"      --wait-dbname=CONNINFO the same for the waiting connection alone, which\n"
"                             should not go through a transaction pooler\n"
"      --schema=NAME          schema of the extension (default: looked up)\n"
"      --pool=N               connections beside the waiting one (default: 3)\n"
"      --reconnect-max=TIME   longest wait before connecting again (default: 10s)\n"
"  -w, --worker=NAME          this worker's name (default: HOST:PID)\n"
"\n"
"Other:\n"
"  -v, --verbose              log every job\n"
"  -V, --version              show the version, then exit\n"
"      --version=TEXT         register with this as the version of its commands\n"
"  -h, --help                 show this help, then exit\n"
"\n"
"TIME is a number of seconds, or has a unit: 500ms, 30s, 5min, 2h, 1d.\n"
"\n"
"The command is run by /bin/sh.  It gets the job's arguments on its standard\n"
"input, and JOBQ_JOB_ID, JOBQ_ATTEMPT, JOBQ_KEY, JOBQ_KIND, JOBQ_TOKEN,\n"
"JOBQ_FLOW and JOBQ_INPUTS in its environment.  Exit status 0: its output, a\n"
"JSON text or nothing, is the result; 65: the job fails without retry; 75 and\n"
"all others: it is tried again.  See " PROGNAME "(1).\n";

static void usage_error(const char *fmt,...) __attribute__((format(printf, 1, 2), noreturn));
static void try_help(void) __attribute__((noreturn));

static void
try_help(void)
{
	fprintf(stderr, "%s: Try \"%s --help\" for more information.\n", PROGNAME, PROGNAME);
	exit(EXIT_USAGE);
}

static void
usage_error(const char *fmt,...)
{
	va_list		args;

	fprintf(stderr, "%s: ", PROGNAME);
	va_start(args, fmt);
	vfprintf(stderr, fmt, args);
	va_end(args);
	fputs("\n", stderr);
	try_help();
}

static int
parse_int(const char *option, const char *value, int min, int max)
{
	char	   *end;
	long		n;

	errno = 0;
	n = strtol(value, &end, 10);
	if (errno != 0 || end == value || *end || n < min || n > max)
		usage_error("--%s must be a whole number from %d to %d, not \"%s\"", option, min, max, value);
	return (int) n;
}

static Usec
parse_time(const char *option, const char *value, Usec min)
{
	static const struct
	{
		const char *name;
		double		usec;
	}			units[] = {
		{"", 1e6}, {"s", 1e6}, {"ms", 1e3}, {"min", 60e6}, {"h", 3600e6}, {"d", 86400e6}
	};
	char	   *end;
	double		n = strtod(value, &end);
	double		usec = -1;

	for (size_t i = 0; i < sizeof(units) / sizeof(units[0]); i++)
	{
		if (end != value && strcmp(end, units[i].name) == 0)
			usec = n * units[i].usec;
	}

	/* strtod() also reads "inf", "nan" and hexadecimal */
	if (!(usec >= 0) || strspn(value, "0123456789.") != (size_t) (end - value))
		usage_error("--%s must be a time such as 500ms, 30s, 5min or 2h, not \"%s\"", option, value);
	if (usec < (double) min || usec > (double) MAX_DURATION)
		usage_error("--%s must be from %g ms to %lld days, not \"%s\"", option, (double) min / 1e3,
					(long long) (MAX_DURATION / (86400 * USEC_PER_SEC)), value);
	return (Usec) (usec + 0.5);
}

/* The id of a job. */
static const char *
parse_id(const char *option, const char *value)
{
	char	   *end;

	errno = 0;
	if (strtoll(value, &end, 10) <= 0 || errno != 0 || *end || strspn(value, "0123456789") != (size_t) (end - value))
		usage_error("--%s must be the id of a flow, not \"%s\"", option, value);
	return value;
}

static Output
parse_output(const char *value)
{
	static const char *const names[] = {"json", "text", "discard"};

	for (int i = 0; i < 3; i++)
	{
		if (strcmp(value, names[i]) == 0)
			return (Output) i;
	}
	usage_error("--output must be json, text or discard, not \"%s\"", value);
}

/* Kinds and workers have names of any text without control characters. */
static void
check_name(const char *option, const char *name, size_t len)
{
	if (len < 1 || len > MAX_NAME)
		usage_error("--%s needs a name of 1 to %d bytes", option, MAX_NAME);
	for (size_t i = 0; i < len; i++)
	{
		if ((unsigned char) name[i] < 0x20 || name[i] == 0x7f)
			usage_error("--%s must have a name without control characters", option);
	}
}

static void
add_queue(const char *name)
{
	size_t		len = strlen(name);

	if (len < 1 || len > MAX_QUEUE_NAME ||
		name[strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-")])
		usage_error("--queue must be 1 to %d letters, digits, \"_\", \".\" or \"-\", not \"%s\"%s",
					MAX_QUEUE_NAME, name, strchr(name, ',') ? "; repeat --queue for several" : "");
	for (int i = 0; i < opt.nqueues; i++)
	{
		if (strcmp(opt.queues[i], name) == 0)
			usage_error("--queue \"%s\" is given twice", name);
	}
	if (opt.nqueues == MAX_QUEUES)
		usage_error("more than %d queues; start several workers, each for some of them", MAX_QUEUES);
	opt.queues = xrealloc(opt.queues, (size_t) (opt.nqueues + 1) * sizeof(*opt.queues));
	opt.queues[opt.nqueues++] = name;
}

static void
add_kind(char *arg)
{
	char	   *equals = strchr(arg, '=');

	if (equals == NULL)
		usage_error("--kind must be NAME=COMMAND, not \"%s\"", arg);
	check_name("kind", arg, (size_t) (equals - arg));
	*equals = '\0';
	if (equals[1 + strspn(equals + 1, " \t\n")] == '\0')
		usage_error("--kind \"%s\" has no command", arg);
	for (int i = 0; i < opt.nkinds; i++)
	{
		if (strcmp(opt.kinds[i].name, arg) == 0)
			usage_error("--kind \"%s\" is given twice", arg);
	}
	if (equals[1] == ':' && strcmp(equals + 1, ":noop") != 0)
		usage_error("--kind \"%s\" names an unknown built-in handler \"%s\"; there is \":noop\"",
					arg, equals + 1);
	opt.kinds = xrealloc(opt.kinds, (size_t) (opt.nkinds + 1) * sizeof(*opt.kinds));
	opt.kinds[opt.nkinds].name = arg;
	opt.kinds[opt.nkinds].command = equals + 1;
	opt.kinds[opt.nkinds++].noop = equals[1] == ':';
}

static void
add_label(const char *name)
{
	check_name("label", name, strlen(name));
	if (opt.nlabels++ == MAX_LABELS)
		usage_error("more than %d labels", MAX_LABELS);
	buf_element(&opt.labels, name);
}

static const char *
check_conninfo(const char *option, const char *value)
{
	PQconninfoOption *parsed;
	char	   *msg = NULL;

	/* As libpq does, take anything else for the name of a database. */
	if (strchr(value, '=') == NULL && strncmp(value, "postgresql://", 13) != 0 &&
		strncmp(value, "postgres://", 11) != 0)
		return value;
	parsed = PQconninfoParse(value, &msg);
	if (parsed == NULL)
	{
		if (msg)
			msg[strcspn(msg, "\n")] = '\0';
		usage_error("--%s: %s", option, msg ? msg : "out of memory");
	}
	PQconninfoFree(parsed);
	return value;
}

static char *
default_worker(void)
{
	char		host[MAX_NAME - 24 + 1];
	Buf			name = {0};

	if (gethostname(host, sizeof(host)) != 0)
		strcpy(host, "localhost");
	host[sizeof(host) - 1] = '\0';
	buf_printf(&name, "%s:%ld", host, (long) getpid());
	return name.data;
}

enum
{
	OPT_KILL_AFTER = 256,
	OPT_LEASE,
	OPT_PREFETCH,
	OPT_HEARTBEAT,
	OPT_OUTPUT,
	OPT_LISTEN,
	OPT_POLL_INTERVAL,
	OPT_DRAIN_TIMEOUT,
	OPT_MAX_JOBS,
	OPT_EXIT_WHEN_IDLE,
	OPT_ONCE,
	OPT_WAIT_DBNAME,
	OPT_SCHEMA,
	OPT_POOL,
	OPT_RECONNECT_MAX,
	OPT_LOG,
	OPT_LABEL,
	OPT_FLOW,
	OPT_UNTIL_IDLE,
	OPT_VERSION
};

static const struct option long_options[] = {
	{"queue", required_argument, NULL, 'q'},
	{"kind", required_argument, NULL, 'k'},
	{"concurrency", required_argument, NULL, 'c'},
	{"prefetch", required_argument, NULL, OPT_PREFETCH},
	{"timeout", required_argument, NULL, 't'},
	{"kill-after", required_argument, NULL, OPT_KILL_AFTER},
	{"lease", required_argument, NULL, OPT_LEASE},
	{"heartbeat", required_argument, NULL, OPT_HEARTBEAT},
	{"output", required_argument, NULL, OPT_OUTPUT},
	{"log", no_argument, NULL, OPT_LOG},
	{"listen", no_argument, NULL, OPT_LISTEN},
	{"poll-interval", required_argument, NULL, OPT_POLL_INTERVAL},
	{"drain-timeout", required_argument, NULL, OPT_DRAIN_TIMEOUT},
	{"max-jobs", required_argument, NULL, OPT_MAX_JOBS},
	{"exit-when-idle", required_argument, NULL, OPT_EXIT_WHEN_IDLE},
	{"dbname", required_argument, NULL, 'd'},
	{"once", no_argument, NULL, OPT_ONCE},
	{"flow", required_argument, NULL, OPT_FLOW},
	{"until-idle", optional_argument, NULL, OPT_UNTIL_IDLE},
	{"wait-dbname", required_argument, NULL, OPT_WAIT_DBNAME},
	{"schema", required_argument, NULL, OPT_SCHEMA},
	{"pool", required_argument, NULL, OPT_POOL},
	{"reconnect-max", required_argument, NULL, OPT_RECONNECT_MAX},
	{"worker", required_argument, NULL, 'w'},
	{"verbose", no_argument, NULL, 'v'},
	{"version", optional_argument, NULL, OPT_VERSION},
	{"label", required_argument, NULL, OPT_LABEL},
	{"help", no_argument, NULL, 'h'},
	{NULL, 0, NULL, 0}
};

static void
show(const char *text)
{
	fputs(text, stdout);
	exit(fflush(stdout) == 0 ? EXIT_SUCCESS : EXIT_FAILURE);
}

static void
parse_options(int argc, char **argv)
{
	int			c;

	while ((c = getopt_long(argc, argv, "q:k:c:t:d:w:vVh", long_options, NULL)) != -1)
	{
		switch (c)
		{
			case 'q':
				add_queue(optarg);
				break;
			case 'k':
				add_kind(optarg);
				break;
			case 'c':
				opt.concurrency = parse_int("concurrency", optarg, 1, MAX_CONCURRENCY);
				break;
			case OPT_PREFETCH:
				opt.prefetch = parse_int("prefetch", optarg, 0, MAX_PREFETCH);
				break;
			case 't':
				opt.timeout = parse_time("timeout", optarg, USEC_PER_MSEC);
				break;
			case OPT_KILL_AFTER:
				opt.kill_after = parse_time("kill-after", optarg, 0);
				break;
			case OPT_LEASE:
				opt.lease = parse_time("lease", optarg, USEC_PER_SEC);
				break;
			case OPT_HEARTBEAT:
				opt.heartbeat = parse_time("heartbeat", optarg, MIN_HEARTBEAT);
				break;
			case OPT_OUTPUT:
				opt.output = parse_output(optarg);
				break;
			case OPT_LOG:
				opt.log = true;
				break;
			case OPT_LISTEN:
				opt.listen = true;
				break;
			case OPT_POLL_INTERVAL:
				opt.poll_interval = parse_time("poll-interval", optarg, 10 * USEC_PER_MSEC);
				break;
			case OPT_DRAIN_TIMEOUT:
				opt.drain_timeout = parse_time("drain-timeout", optarg, 0);
				break;
			case OPT_MAX_JOBS:
				opt.max_jobs = parse_int("max-jobs", optarg, 1, INT32_MAX);
				break;
			case OPT_EXIT_WHEN_IDLE:
				opt.exit_when_idle = parse_time("exit-when-idle", optarg, USEC_PER_MSEC);
				break;
			case OPT_ONCE:
				opt.once = true;
				break;
			case 'd':
				opt.dbname = check_conninfo("dbname", optarg);
				break;
			case OPT_WAIT_DBNAME:
				opt.wait_dbname = check_conninfo("wait-dbname", optarg);
				break;
			case OPT_SCHEMA:
				if (*optarg == '\0')
					usage_error("--schema needs a name");
				opt.schema = optarg;
				break;
			case OPT_POOL:
				opt.pool = parse_int("pool", optarg, 1, MAX_POOL);
				break;
			case OPT_RECONNECT_MAX:
				opt.reconnect_max = parse_time("reconnect-max", optarg, FIRST_RETRY);
				break;
			case 'w':
				check_name("worker", optarg, strlen(optarg));
				opt.worker = optarg;
				break;
			case 'v':
				opt.verbose = true;
				break;
			case OPT_LABEL:
				add_label(optarg);
				break;
			case OPT_FLOW:
				opt.flow = parse_id("flow", optarg);
				break;
			case OPT_UNTIL_IDLE:
				opt.until_idle = optarg ? parse_time("until-idle", optarg, 0) : DEFAULT_UNTIL_IDLE;
				break;
			case OPT_VERSION:
				/* alone it asks for ours */
				if (optarg == NULL && optind < argc && argv[optind][0] != '-')
					optarg = argv[optind++];
				if (optarg != NULL)
				{
					check_name("version", optarg, strlen(optarg));
					opt.version = optarg;
					break;
				}
				/* FALLTHROUGH */
			case 'V':
				show(PROGNAME " (jobq) " JOBQ_VERSION "\n");
				break;
			case 'h':
				show(help_text);
				break;
			default:			/* getopt_long() has said what is wrong */
				try_help();
		}
	}
	if (optind < argc)
		usage_error("unexpected argument \"%s\"", argv[optind]);
	if (opt.nlabels > 0)
		buf_puts(&opt.labels, "}");
	if (opt.flow && opt.nqueues > 0)
		usage_error("--flow takes its members from whatever queues: --queue cannot be given");
	if (opt.until_idle != USEC_NEVER && !opt.flow)
		usage_error("--until-idle needs --flow");
	if (opt.until_idle != USEC_NEVER && opt.once)
		usage_error("--until-idle and --once cannot both be given");
	if (opt.nkinds == 0)
		usage_error("no --kind is given: it says what to run");
}

/* Each job needs three pipes; make room for them. */
static void
raise_file_limit(void)
{
	rlim_t		need = (rlim_t) (opt.concurrency * 3 + opt.pool + 32);
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 ||
		limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur >= need)
		return;
	limit.rlim_cur = limit.rlim_max == RLIM_INFINITY || limit.rlim_max >= need ? need : limit.rlim_max;
	if (limit.rlim_cur < need || setrlimit(RLIMIT_NOFILE, &limit) != 0)
		usage_error("--concurrency %d needs %ld open files, more than the limit (ulimit -n)",
					opt.concurrency, (long) need);
}

/* 0 to 2 are open, so that no pipe of ours ever has one of these numbers. */
static void
open_standard_files(void)
{
	int			fd;

	do
	{
		fd = open("/dev/null", O_RDWR);
	} while (fd >= 0 && fd <= 2);
	if (fd > 2)
		close(fd);
}

int
main(int argc, char **argv)
{
	char	   *worker = NULL;
	int			status;

	open_standard_files();
	opt.concurrency = DEFAULT_CONCURRENCY;
	opt.pool = DEFAULT_POOL;
	opt.heartbeat = DEFAULT_HEARTBEAT;
	opt.kill_after = DEFAULT_KILL_AFTER;
	opt.reconnect_max = DEFAULT_RECONNECT_MAX;
	opt.drain_timeout = opt.exit_when_idle = opt.until_idle = USEC_NEVER;
	parse_options(argc, argv);
	if (opt.nqueues == 0 && !opt.flow)
		add_queue("default");
	if (opt.wait_dbname == NULL)
		opt.wait_dbname = opt.dbname;
	if (opt.worker == NULL)
		opt.worker = worker = default_worker();
	if (opt.poll_interval == 0 && opt.nqueues == 1 && !opt.listen)
		opt.poll_interval = DEFAULT_POLL_CALL;
	else if (opt.poll_interval == 0)
	{
		/* it is seen by its claims only */
		opt.poll_interval = opt.flow ? DEFAULT_POLL_FLOW : DEFAULT_POLL_LISTEN;
		if (opt.lease > 0 && opt.lease < opt.poll_interval)
			opt.poll_interval = opt.lease;
	}
	raise_file_limit();
	srandom((unsigned int) (now_usec() ^ ((Usec) getpid() << 16)));

	status = worker_run();

	free(worker);
	free(opt.queues);
	free(opt.kinds);
	buf_free(&opt.labels);
	return status;
}
