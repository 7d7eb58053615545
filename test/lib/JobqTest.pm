# What the tests with many clients share: servers, forked clients, the check
# of the tables' invariants, and the trigger rules written down once more,
# independently of the extension.
package JobqTest;

use strict;
use warnings;

use Exporter 'import';
use JobqClient;
use POSIX ':sys_wait_h';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Storable qw(store retrieve);
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw(jobq_node reconnected end_prepared disturb random_transaction poll_until within stretched start_clients finish_clients run_clients
  invariants_hold tables_are_sound backend_pids outcome_by_rule @RULES table_digest
  @TABLES start_again process_lives asleep clock_passes set_clock $CLOCK_OFFSET);

our @RULES = qw(all_success all_failed all_done all_skipped one_failed one_success one_done
  none_failed none_skipped none_failed_min_one_success always quorum);

our @TABLES = qw(job job_dependency job_waiting job_delta job_recount job_scheduled job_limited job_ready job_lease job_flow job_kept job_expiry job_cancel_request
  job_unique job_schedule job_attempt job_log job_step job_queue job_lane job_partition job_turn job_worker job_privilege);

# A running server with the extension in database postgres.
sub jobq_node
{
	my ($name, %param) = @_;
	my $node = PostgreSQL::Test::Cluster->new($name);
	$node->init(%{ $param{init} // {} });
	$node->append_conf('postgresql.conf', <<EOC);
shared_preload_libraries = 'jobq'
max_connections = 60
max_worker_processes = 20
log_statement = none
deadlock_timeout = 100ms
jobq.min_lease = 0
@{[ $param{conf} // '' ]}
EOC
	$node->start;
	$node->safe_psql('postgres', 'CREATE EXTENSION jobq') unless $param{bare};
	return $node;
}

# So many seconds on a machine that has nothing else to do: more, the more
# processes have to share a core.
my $cores = `nproc`;
sub stretched
{
	my ($seconds) = @_;
	my ($load, $now) = slurp_file('/proc/loadavg') =~ m{^(\S+) \S+ \S+ (\d+)/};
	return $seconds * (1 + ($load > $now ? $load : $now) / $cores);
}

# Wait for a condition, at most so many seconds, stretched; returns whether it
# came true.
sub within
{
	my ($seconds, $condition) = @_;
	my $begin = time;
	until ($condition->())
	{
		return 0 if time > $begin + stretched($seconds);
		usleep(20_000);
	}
	return 1;
}

sub poll_until
{
	my ($condition) = @_;
	return within($PostgreSQL::Test::Utils::timeout_default, $condition);
}

#
# Every test ends with job_check: whatever it has done, what its servers have
# then breaks no invariant.  A server is asked before it is stopped, the others
# when the test is done.
#

my %running;
my @unsound;

# Ask each database with the extension, if the server answers and has it loaded.
sub check_server
{
	my ($node) = @_;
	my $ask = sub {
		my ($database, $query) = @_;
		my ($rc, $out, $err) = $node->psql($database, "SET lock_timeout = '30s'; $query");
		return $rc == 0 ? split(/\n/, $out) : $err =~ /connection to server|must be loaded via/ ? () : "error: $err";
	};

	local $ENV{PGOPTIONS} = '';
	foreach my $database ($ask->('postgres', 'SELECT datname FROM pg_database WHERE datallowconn'))
	{
		my ($schema) = $ask->($database, "SELECT extnamespace::regnamespace FROM pg_extension WHERE extname = 'jobq'");
		next unless $schema && $schema !~ /^error/;
		my @rows = $ask->($database, "SELECT * FROM $schema.job_check() LIMIT 5");
		push @unsound, map { $node->name . ", $database: $_" } @rows;
	}
	return;
}

{
	no warnings 'redefine';
	my $start = \&PostgreSQL::Test::Cluster::start;
	my $stop = \&PostgreSQL::Test::Cluster::stop;
	my $done = \&Test::Builder::done_testing;
	my $ended = 0;

	*PostgreSQL::Test::Cluster::start = sub {
		$running{ $_[0]->name } = $_[0];
		goto &$start;
	};
	*PostgreSQL::Test::Cluster::stop = sub {
		my ($node, $mode) = @_;
		check_server($node) if delete $running{ $node->name } && !$ended && ($mode // '') ne 'immediate';
		goto &$stop;
	};
	*Test::Builder::done_testing = sub {
		if (!$ended && !$_[0]->parent)
		{
			check_server($running{$_}) foreach sort keys %running;
			$ended = 1;
			ok(!@unsound, 'job_check finds nothing at the end') or diag(join("\n", @unsound));
		}
		goto &$done;
	};
}

#
# Forked clients
#

# Fork n processes that run the code with their number and return what it
# returned, a reference.  They must leave Test::More alone.
sub start_clients
{
	my ($n, $code) = @_;
	my $dir = PostgreSQL::Test::Utils::tempdir;
	my @clients;
	my $seed = int(rand(1 << 30));
	foreach my $i (0 .. $n - 1)
	{
		my $file = "$dir/client.$i";
		my $pid = fork // die "fork: $!";
		if ($pid == 0)
		{
			open(STDOUT, '>&', \*STDERR);
			srand($seed + $i);
			$SIG{TERM} = 'DEFAULT';
			my $result = eval { [ $code->($i) ] };
			store([ $result, $@ ], "$file.new");
			rename("$file.new", $file);
			POSIX::_exit(0);
		}
		push @clients, { pid => $pid, file => $file };
	}
	return @clients;
}

# Wait for them; returns what each returned.
sub finish_clients
{
	my ($seconds, @clients) = @_;
	my $end = time + $seconds;
	my (@results, @errors);
	foreach my $i (0 .. $#clients)
	{
		my $c = $clients[$i];
		my $ended = within($end > time ? $end - time : 0.1, sub { waitpid($c->{pid}, WNOHANG) != 0 });
		if (!$ended)
		{
			kill('KILL', $c->{pid});
			waitpid($c->{pid}, 0);
			push @errors, "client $i did not end";
		}
		elsif (!-e $c->{file})
		{
			push @errors, "client $i died";
		}
		else
		{
			my ($result, $error) = @{ retrieve($c->{file}) };
			push @errors, "client $i: $error" if $error;
			push @results, $result ? @$result : ();
		}
	}
	die join("\n", @errors) if @errors;
	return @results;
}

sub run_clients
{
	my ($seconds, $n, $code) = @_;
	return finish_clients($seconds, start_clients($n, $code));
}

#
# Processes of a server
#

# Processes with this backend_type (a pattern).
sub backend_pids
{
	my ($node, $type, $where) = @_;
	my $pids = $node->safe_psql('postgres',
		"SELECT pid FROM pg_stat_activity WHERE backend_type ~ '$type'"
		  . ($where ? " AND $where" : ''));
	return split /\n/, $pids;
}

# A client, connected again after whatever happened to it, unless a file is there first.
sub reconnected
{
	my ($node, $client, $stop) = @_;
	$client //= JobqClient->new($node);
	until (-e $stop || ($client && ($client->connected || $client->connect)))
	{
		usleep(50_000);
		$client //= JobqClient->new($node);
	}
	return $client;
}

# PREPARE TRANSACTION of what a client has done, and how that ends: COMMIT or ROLLBACK.  Where the client or the server is
# killed before that was answered, it is said again, as a transaction manager does: else others would wait for its locks for ever.
my $prepared = 0;
sub end_prepared
{
	my ($client, $how, $expected) = @_;
	my $name = "'$$." . $prepared++ . "'";
	my $r = $client->try("PREPARE TRANSACTION $name", $expected);
	return if $r->{sqlstate} && !$r->{lost};
	my $done = 0;
	until ($done)
	{
		usleep(50_000) until $client->connected || $client->connect;
		$r = $client->query("$how PREPARED $name");
		my $state = $r->{sqlstate} // '';
		# 42704: it is not prepared, or ended before; 55000: the session that was killed has still to leave it
		die "$state $r->{message}: $how PREPARED $name" if !$r->{lost} && $state !~ /^(|42704|55000)$/;
		$done = !$r->{lost} && $state ne '55000';
	}
	return;
}

# Calls in a transaction, in part rolled back to savepoints: it is committed, rolled back, or prepared and then either.
# Returns whether it is known to be committed.  expected: SQLSTATEs that may come of it.
sub random_transaction
{
	my ($client, $expected, @calls) = @_;
	my $end = rand;
	$client->try('BEGIN' . (rand() < 0.2 ? ' ISOLATION LEVEL REPEATABLE READ' : ''), $expected);
	foreach my $call (@calls)
	{
		my $savepoint = rand() < 0.1;
		last unless $client->connected && $client->status eq 'T';
		$client->try('SAVEPOINT s', $expected) if $savepoint;
		$client->try("SELECT $call", $expected) if $client->connected;
		$client->try('ROLLBACK TO s', $expected) if $savepoint && $client->connected && rand() < 0.5;
	}
	usleep(rand(10_000)) if rand() < 0.1;
	return 0 unless $client->connected;
	end_prepared($client, rand() < 0.5 ? 'COMMIT' : 'ROLLBACK', $expected) if $end < 0.03 && $client->status eq 'T';
	return 0 if !$client->connected || $client->status eq 'I';
	my $commit = $end >= 0.1 && $client->status eq 'T';
	my $r = $client->try($commit ? 'COMMIT' : 'ROLLBACK', $expected);
	return $commit && !$r->{lost} && !$r->{sqlstate};
}

# End n processes, one after the other, while clients are at work: every other time the background worker; each fourth
# with a crash of all backends or, with crash, the fourths in between of the server.  $$client is connected again after it.
sub disturb
{
	my ($node, $client, $n, $stop, %param) = @_;
	foreach my $i (1 .. $n)
	{
		usleep(300_000 + rand(700_000));
		$$client = reconnected($node, $$client, $stop);
		if ($param{crash} && $i % 4 == 0)
		{
			$node->kill9;
			start_again($node);
			next;
		}
		my $type = $i % 2 ? 'jobq worker' : 'client backend';
		my $r = $$client->query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
		kill($i % 4 == 3 ? 'KILL' : 'TERM', $r->{rows}[0][0]) if @{ $r->{rows} // [] };
	}
	$$client = reconnected($node, $$client, $stop);
	return;
}

# Start a server that was killed, once the processes that the kill left alone
# have noticed.
sub start_again
{
	my ($node) = @_;
	my $started = within(60, sub {
		$node->{_pid} = undef;           # the one in a file left behind
		return $node->start(fail_ok => 1);
	});
	die 'the server does not start' unless $started;
	return;
}

sub process_lives
{
	my ($pid) = @_;
	return 0 unless kill(0, $pid);
	my $stat = eval { slurp_file("/proc/$pid/stat") } // '';
	return $stat !~ /\) Z /;
}

# Wait until these clients sleep in a procedure, as another one sees it.
sub asleep
{
	my ($control, @clients) = @_;
	foreach my $pid (map { $_->pid } @clients)
	{
		poll_until(sub {
			$control->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension'") == 1;
		}) or die 'client does not sleep';
	}
	return;
}

# How far jobq takes the time of day to be from the machine's, in SQL; a setting below zero is shown without its unit.
our $CLOCK_OFFSET = "(SELECT CASE WHEN s ~ '^-' THEN s || 'ms' ELSE s END::interval FROM current_setting('jobq.clock_offset') s)";

# Set it, in milliseconds.
sub set_clock
{
	my ($c, $to) = @_;
	$c->rows("ALTER SYSTEM SET jobq.clock_offset = $to");
	$c->rows('SELECT pg_reload_conf()');
	poll_until(sub { $c->value("SELECT $CLOCK_OFFSET = $to * interval '1 ms'") eq 't' })
	  or die 'no reload';
	return;
}

# Keep the clock of the worker beyond the times that matter: it deals with jobs
# that fall due meanwhile, one of them after the deadline in question.
sub clock_passes
{
	my ($c) = @_;
	foreach my $i (1 .. 3)
	{
		my $id = $c->value("SELECT job_submit('tick', queue => 'tick', run_at => clock_timestamp() + interval '150 ms')");
		my $lease = $c->value("SELECT job_submit('tick', queue => 'ticklease', lease => '100 ms', max_lost => 1)");
		my $expiry = $c->value("SELECT job_submit('tick', queue => 'tick', run_at => now() + interval '1 h', expires_at => clock_timestamp() + interval '100 ms')");
		$c->rows("SELECT * FROM job_claim('ticklease')");
		poll_until(sub { $c->value("SELECT count(*) FROM job_status WHERE id = $id AND state = 'ready' OR id = $lease AND state = 'failed' OR id = $expiry AND state = 'cancelled'") == 3 })
		  or die 'the worker does not work';
	}
	return;
}

#
# The trigger rules, in words
#

# What becomes of a job whose parents ended like this: 'run', 'skipped' or
# 'upstream_failed'.
sub outcome_by_rule
{
	my ($rule, $quorum, @parents) = @_;
	return 'run' if !@parents;
	my %n = map { $_ => 0 } qw(succeeded failed skipped cancelled upstream_failed);
	$n{$_}++ foreach @parents;
	my $all = @parents;

	my %runs = (
		all_success => $n{succeeded} == $all,
		all_failed => $n{failed} + $n{upstream_failed} == $all,
		all_done => 1,
		all_skipped => $n{skipped} == $all,
		one_failed => $n{failed} + $n{upstream_failed} >= 1,
		one_success => $n{succeeded} >= 1,
		one_done => $n{succeeded} + $n{failed} >= 1,
		none_failed => $n{failed} + $n{upstream_failed} + $n{cancelled} == 0,
		none_skipped => $n{skipped} + $n{cancelled} == 0,
		none_failed_min_one_success =>
		  ($n{failed} + $n{upstream_failed} + $n{cancelled} == 0 && $n{succeeded} >= 1),
		always => 1,
		quorum => $n{succeeded} >= ($quorum // 0));
	die "no rule $rule" unless exists $runs{$rule};
	return 'run' if $runs{$rule};
	return 'skipped'
	  unless grep { $rule eq $_ } qw(all_success none_failed none_failed_min_one_success one_success quorum);
	return $n{failed} + $n{upstream_failed} + $n{cancelled} > 0 ? 'upstream_failed' : 'skipped';
}

#
# The tables
#

# Rules as job.rule stores them, and what their edges and counters mean; not
# for outcome_by_rule.
our @STORED_RULES = (
	[ 'all_success', 1, 0, 1 ], [ 'all_failed', 18, 0, 0 ], [ 'all_done', 31, 0, 0 ],
	[ 'all_skipped', 4, 0, 0 ], [ 'one_failed', 0, 18, 0 ], [ 'quorum', 0, 1, 1 ],
	[ 'none_failed', 5, 0, 1 ], [ 'none_skipped', 19, 0, 0 ],
	[ 'none_failed_min_one_success', 5, 1, 1 ], [ 'one_success', 0, 1, 1 ],
	[ 'one_done', 0, 3, 0 ], [ 'always', 0, 0, 0 ]);

my $states = <<'EOQ';
(SELECT job_id, 'waiting' AS state, queue_id, lane, priority, attempt, failed, lost, expires_at FROM job_waiting
 UNION ALL SELECT job_id, 'scheduled', queue_id, lane, priority, attempt, failed, lost, expires_at FROM job_scheduled
 UNION ALL SELECT job_id, 'waiting', queue_id, lane, priority, attempt, failed, lost, expires_at FROM job_limited
 UNION ALL SELECT job_id, 'ready', queue_id, lane, priority, attempt, failed, lost, expires_at FROM job_ready
 UNION ALL SELECT job_id, 'running', queue_id, lane, priority, attempt, failed, lost, expires_at FROM job_flow WHERE open
 UNION ALL SELECT job_id, 'running', queue_id, lane, priority, attempt, failed, lost, expires_at FROM job_lease)
EOQ

# The counters of jobs, recounted from edges and parents.
my $recount = <<'EOQ';
(SELECT d.downstream AS id, count(*) FILTER (WHERE p.outcome IS NULL) AS undecided,
     count(*) FILTER (WHERE p.outcome IS NULL AND d.require <> 0) AS pending,
     count(*) FILTER (WHERE p.outcome & d.suffice <> 0) AS hits,
     count(*) FILTER (WHERE d.require <> 0 AND p.outcome & d.require = 0) AS violated,
     count(*) FILTER (WHERE p.outcome IN (2, 8, 16) AND d.require <> 63) AS hurt
 FROM job_dependency d JOIN (SELECT id, outcome, coalesce(result, 'null') AS result FROM job) u ON u.id = d.upstream
     -- one that has succeeded, but not as a condition wants it, counts as skipped
     CROSS JOIN LATERAL (SELECT CASE WHEN u.outcome = 1 AND d.condition IS NOT NULL AND jsonb_path_query_first(u.result, d.condition::jsonpath, '{}', true) IS DISTINCT FROM 'true'
         THEN 4 ELSE u.outcome END AS outcome) p
 GROUP BY d.downstream)
EOQ

# What becomes of a job with counters n of a job j.
my $verdict = <<'EOQ';
CASE WHEN n.violated = 0 AND n.hits + n.undecided >= j.quorum
     THEN CASE WHEN n.pending = 0 AND n.hits >= j.quorum THEN 'ready' ELSE 'wait' END
     WHEN j.rule NOT IN (SELECT rule FROM rules WHERE wants_success) THEN 'skipped'
     WHEN n.hurt > 0 THEN 'upstream_failed'
     WHEN n.undecided > 0 THEN 'wait'
     ELSE 'skipped' END
EOQ

# Each query returns what breaks the invariant.
my @invariants = (
	'an undecided job has one state row, a decided one none' => <<EOQ,
SELECT coalesce(j.id, s.job_id), j.outcome, s.states
FROM job j FULL JOIN (SELECT job_id, array_agg(state) AS states FROM $states x GROUP BY job_id) s ON s.job_id = j.id
WHERE j.id IS NULL OR coalesce(cardinality(s.states), 0) <> (j.outcome IS NULL)::int
EOQ
	'counters of waiting jobs, with the deltas of their epoch, equal a recount' => <<EOQ,
SELECT w.*, n.*, d.* FROM job_waiting w LEFT JOIN $recount n ON n.id = w.job_id
    CROSS JOIN LATERAL (SELECT coalesce(sum(undecided), 0) AS undecided, coalesce(sum(pending), 0) AS pending, coalesce(sum(hits), 0) AS hits,
        coalesce(sum(violated), 0) AS violated, coalesce(sum(hurt), 0) AS hurt FROM job_delta WHERE downstream = w.job_id AND epoch = w.epoch) d
WHERE w.open AND NOT EXISTS (SELECT FROM job_recount r WHERE r.job_id = w.job_id) AND ROW (w.undecided + d.undecided, w.pending + d.pending, w.hits + d.hits, w.violated + d.violated, w.hurt + d.hurt)::text
    IS DISTINCT FROM ROW (n.undecided, n.pending, n.hits, n.violated, n.hurt)::text
EOQ
	'deltas belong to jobs, and are of no later epoch than these' => <<'EOQ',
SELECT d.* FROM job_delta d LEFT JOIN job j ON j.id = d.downstream LEFT JOIN job_waiting w ON w.job_id = d.downstream AND w.open
WHERE j.id IS NULL OR d.epoch > w.epoch OR (d.undecided >= 0 AND j.flow_type IS NULL)
EOQ
	'a waiting job has something to wait for' => <<EOQ,
SELECT w.*, n.* FROM job_waiting w JOIN job j ON j.id = w.job_id LEFT JOIN $recount n ON n.id = w.job_id
WHERE NOT EXISTS (SELECT FROM job_delta d WHERE d.downstream = w.job_id) AND NOT EXISTS (SELECT FROM job_recount r WHERE r.job_id = w.job_id) AND CASE WHEN w.open THEN $verdict IS DISTINCT FROM 'wait' ELSE NOT w.held AND w.limited_by IS NULL END
EOQ
	'a job decided without running was decided by its parents' => <<EOQ,
SELECT j.id, j.rule, j.outcome, n.* FROM job j LEFT JOIN $recount n USING (id)
-- a member of a flow is also left out by its condition, and stays as it is once the flow is decided, or begins anew
WHERE j.outcome IN (4, 16) AND j.former_flow IS NULL AND NOT (j.flow IS NOT NULL AND (j.dependencies = 0 OR NOT EXISTS (SELECT FROM job_flow f WHERE f.job_id = j.flow AND f.open))) AND NOT EXISTS (SELECT FROM job_recount r WHERE r.job_id = j.id) AND $verdict IS DISTINCT FROM CASE j.outcome WHEN 4 THEN 'skipped' ELSE 'upstream_failed' END
EOQ
	'a waiting row says what its job says' => <<'EOQ',
SELECT w.* FROM job_waiting w JOIN job j ON j.id = w.job_id
WHERE CASE WHEN w.limited_by IS NULL THEN (w.rule, w.quorum) IS DISTINCT FROM (j.rule, j.quorum) ELSE w.limited_by IS DISTINCT FROM j.flow END
EOQ
	'a state row says what its job says' => <<EOQ,
SELECT s.*, j.priority, q.queue_id FROM $states s JOIN job j ON j.id = s.job_id LEFT JOIN job_queue q ON q.name = j.queue
WHERE s.priority <> j.priority OR s.queue_id <> q.queue_id
    -- in the lane of its labels, or where it was let in, or kept for a worker
    OR NOT (s.lane = coalesce((SELECT l.lane FROM job_lane l WHERE l.queue_id = s.queue_id AND l.requires = j.requires), CASE WHEN j.flow_type IS NULL THEN s.queue_id ELSE 1 END)
        OR s.state = 'ready' AND (q.gates IS NOT NULL OR EXISTS (SELECT FROM job_kept k JOIN job_ready r USING (job_id, position) WHERE k.job_id = s.job_id)))
    OR s.attempt < 0 OR s.failed < 0 OR s.lost < 0 OR s.failed + s.lost > s.attempt
EOQ
	'columns of an outcome are set together' => <<'EOQ',
SELECT j.* FROM job j
WHERE CASE WHEN outcome IS NULL
      THEN num_nonnulls(finished_at, attempt_outcome, token, started_at, worker, error, result, attempt, failed, lost) > 0
      ELSE num_nulls(finished_at, attempt, failed, lost) > 0
          OR num_nonnulls(attempt_outcome, token, started_at) NOT IN (0, 3)
          OR (result IS NOT NULL AND outcome <> 1)
          OR CASE WHEN flow_type IS NOT NULL THEN attempt_outcome IS NOT NULL ELSE CASE outcome WHEN 1 THEN decided_by IS NULL AND attempt_outcome IS DISTINCT FROM 0
                     -- taken over by a copy of its flow
                     AND NOT (attempt = 0 AND parent IS NOT NULL AND num_nonnulls(flow, former_flow) > 0)
                 WHEN 2 THEN attempt_outcome IS NULL OR attempt_outcome NOT IN (1, 2, 3)
                 WHEN 4 THEN CASE WHEN repeats THEN attempt_outcome <> 1 ELSE attempt_outcome IS NOT NULL OR (attempt > 0 AND generation = 0) END
                 WHEN 8 THEN attempt_outcome NOT IN (2, 3, 6)
                 WHEN 16 THEN attempt_outcome IS NOT NULL OR (attempt > 0 AND generation = 0)
                 ELSE true END END END
EOQ
	'every attempt is on record, once' => <<EOQ,
SELECT j.id, j.outcome, s.state, s.attempt, j.attempt, a.numbers
FROM job j LEFT JOIN $states s ON s.job_id = j.id
    LEFT JOIN (SELECT job_id, array_agg(attempt ORDER BY attempt) AS numbers FROM job_attempt GROUP BY job_id) a ON a.job_id = j.id
WHERE coalesce(a.numbers, '{}') IS DISTINCT FROM ARRAY (SELECT generate_series(1,
    coalesce(j.attempt, s.attempt) - (s.state IS NOT DISTINCT FROM 'running' OR j.attempt_outcome IS NOT NULL)::int))
EOQ
	'failed and lost attempts are counted' => <<EOQ,
SELECT j.id, s.*, j.failed, j.lost, a.*
FROM job j LEFT JOIN $states s ON s.job_id = j.id
    LEFT JOIN (SELECT job_id, count(*) FILTER (WHERE outcome IN (1, 2)) AS failed, count(*) FILTER (WHERE outcome = 3) AS lost
               FROM job_attempt GROUP BY job_id) a ON a.job_id = j.id
WHERE j.generation = 0
    AND (coalesce(s.failed, j.failed) <> coalesce(a.failed, 0) + (j.attempt_outcome IS NOT NULL AND j.attempt_outcome IN (1, 2))::int
         OR coalesce(s.lost, j.lost) <> coalesce(a.lost, 0) + (j.attempt_outcome IS NOT NULL AND j.attempt_outcome = 3)::int)
EOQ
	'attempts ended after they began' => <<'EOQ',
SELECT job_id, attempt FROM job_attempt WHERE ended_at < started_at OR outcome NOT BETWEEN 0 AND 6
UNION ALL SELECT id, attempt FROM job WHERE finished_at < started_at
EOQ
	'an attempt begins after the one before it ended' => <<'EOQ',
SELECT * FROM (SELECT job_id, attempt, started_at, lag(ended_at) OVER (PARTITION BY job_id ORDER BY attempt) AS before
    FROM (SELECT job_id, attempt, started_at, ended_at FROM job_attempt
          UNION ALL SELECT id, attempt, started_at, finished_at FROM job WHERE attempt_outcome IS NOT NULL
          UNION ALL SELECT job_id, attempt, started_at, NULL FROM job_lease) x) y
WHERE started_at < before - interval '1 s'
EOQ
	'edges go from old to new and are complete' => <<'EOQ',
SELECT d.upstream, d.downstream FROM job_dependency d LEFT JOIN job c ON c.id = d.downstream LEFT JOIN job p ON p.id = d.upstream
WHERE d.upstream >= d.downstream OR c.id IS NULL OR p.id IS NULL
UNION ALL
SELECT j.id, j.dependencies FROM job j
WHERE j.dependencies <> (SELECT count(*) FROM job_dependency d WHERE d.downstream = j.id AND d.require <> 63)
EOQ
	'edges carry the masks of their rule' => <<'EOQ',
SELECT d.*, j.rule FROM job_dependency d JOIN job j ON j.id = d.downstream JOIN rules r ON r.rule = j.rule
WHERE (d.require, d.suffice) NOT IN ((r.require, r.suffice), (63, 0))
EOQ
	'unique keys are of jobs that have them, undecided or until a time' => <<'EOQ',
SELECT u.* FROM job_unique u LEFT JOIN job j ON j.id = u.job_id LEFT JOIN job_queue q ON q.name = j.queue
WHERE CASE WHEN j.id IS NULL THEN u.until IS NULL
    ELSE j.unique_key IS DISTINCT FROM u.unique_key OR q.queue_id <> u.queue_id OR (j.outcome IS NULL) <> (u.until IS NULL)
        OR u.until <> j.submitted_at + j.unique_for * interval '1 microsecond' END
EOQ
	'what can expire is looked at then' => <<EOQ,
SELECT s.* FROM $states s
WHERE s.expires_at IS NOT NULL AND s.attempt = 0 AND NOT EXISTS (SELECT FROM job_expiry e WHERE (e.expires_at, e.job_id) = (s.expires_at, s.job_id))
EOQ
	'positions are unique and drawn from the sequence' => <<'EOQ',
SELECT lane, position, count(*) FROM job_ready GROUP BY lane, position
HAVING count(*) > 1 OR max(position) > (SELECT last_value FROM job_id_seq) OR max(job_id) > (SELECT last_value FROM job_id_seq)
EOQ
	'the members of a flow that runs are counted, and undecided ones are of such' => <<'EOQ',
SELECT f.job_id, f.undecided, f.hits, f.violated, d.*, m.* FROM job_flow f
    CROSS JOIN LATERAL (SELECT coalesce(sum(undecided), 0) AS undecided, coalesce(sum(hits), 0) AS hits, coalesce(sum(violated), 0) AS violated
        FROM job_delta WHERE downstream = f.job_id AND epoch = 0) d
    CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE outcome IS NULL) AS undecided, count(*) FILTER (WHERE outcome = 1) AS hits,
        count(*) FILTER (WHERE outcome IN (2, 16) AND critical IS NULL) AS violated FROM job WHERE flow = f.job_id) m
WHERE f.open AND (f.undecided + d.undecided, f.hits + d.hits, f.violated + d.violated) <> (m.undecided, m.hits, m.violated)
UNION ALL
SELECT j.id, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM job j
WHERE j.flow IS NOT NULL AND j.outcome IS NULL AND NOT EXISTS (SELECT FROM job_flow f WHERE f.job_id = j.flow AND f.open)
EOQ
	'members that have slots are counted, and where there are limits, each that runs has one' => <<'EOQ',
SELECT f.job_id, f.running, d.running, s.* FROM job_flow f
    CROSS JOIN LATERAL (SELECT coalesce(sum(running), 0) AS running FROM job_delta WHERE downstream = f.job_id AND epoch = 0) d
    LEFT JOIN (SELECT flow_id, count(slot) AS slots, count(*) FILTER (WHERE slot IS NULL AND runs) AS uncounted
        FROM (SELECT flow_id, slot, false AS runs FROM job_scheduled UNION ALL SELECT flow_id, slot, false FROM job_limited
              UNION ALL SELECT flow_id, slot, false FROM job_ready UNION ALL SELECT flow_id, slot, true FROM job_lease
              UNION ALL SELECT flow_id, slot, true FROM job_flow WHERE open) x
        WHERE flow_id IS NOT NULL GROUP BY flow_id) s ON s.flow_id = f.job_id
WHERE f.open AND (f.running + d.running <> coalesce(s.slots, 0) OR (f.settled AND num_nonnulls(f.permits, f.max_running) > 0 AND s.uncounted > 0))
EOQ
	'a flow has a row that says what it is made of, no other job has' => <<'EOQ',
SELECT j.id, f.job_id FROM job j FULL JOIN job_flow f ON f.job_id = j.id WHERE j.id IS NULL OR (j.flow_type IS NULL) <> (f.job_id IS NULL)
EOQ
	'leases' => <<'EOQ',
SELECT * FROM job_lease
WHERE token <= 0 OR attempt < 1 OR period <= 0 OR deadline <> least(lease_until, timeout_at)
    OR token IN (SELECT token FROM job_lease GROUP BY token HAVING count(*) > 1)
EOQ
	'job_status shows every job in its state' => <<EOQ,
SELECT j.id, v.id, v.state FROM job j FULL JOIN job_status v ON v.id = j.id LEFT JOIN $states s ON s.job_id = j.id
WHERE j.id IS NULL OR v.id IS NULL
    OR v.state <> coalesce(s.state, CASE j.outcome WHEN 1 THEN 'succeeded' WHEN 2 THEN 'failed' WHEN 4 THEN 'skipped'
        WHEN 8 THEN 'cancelled' WHEN 16 THEN 'upstream_failed' END)
EOQ
	'job_queue_status counts every job' => <<EOQ,
SELECT * FROM (SELECT sum(waiting + scheduled + ready + running) AS n FROM job_queue_status) v,
    (SELECT count(*) AS n FROM job WHERE outcome IS NULL AND id NOT IN (SELECT job_id FROM job_flow WHERE open)) j
WHERE coalesce(v.n, 0) <> j.n
EOQ
);

# One test: all that must be true of the tables in every committed state.
sub invariants_hold
{
	my ($node, $name, %param) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $client = JobqClient->new($node, dbname => $param{dbname}) // die "no connection";
	my $schema = $param{schema} // 'public';
	my $rules = join ', ', map { "($_, $STORED_RULES[$_][1], $STORED_RULES[$_][2], " . ($STORED_RULES[$_][3] ? 'true' : 'false') . ')' }
	  0 .. $#STORED_RULES;
	my @broken;

	# one snapshot for all, so that it can be asked while others are at work
	$client->rows($_)
	  foreach 'CREATE TEMPORARY TABLE rules (rule int, require int, suffice int, wants_success boolean)',
	  "INSERT INTO rules VALUES $rules",
	  "SET search_path = $schema, pg_temp",
	  'BEGIN ISOLATION LEVEL REPEATABLE READ';
	for (my $i = 0; $i < @invariants; $i += 2)
	{
		my @rows = $client->rows("SELECT b::text FROM ($invariants[$i + 1]) b");
		next unless @rows;
		push @broken, sprintf("%s: broken %d times, first by %s", $invariants[$i], scalar(@rows),
			join(' ', map { $_->[0] } @rows[ 0 .. ($#rows > 4 ? 4 : $#rows) ]));
	}
	$client->rows('COMMIT');
	$client->disconnect;
	return ok(!@broken, "invariants hold: $name") || (diag(join("\n", @broken)) && 0);
}

# One test: amcheck finds nothing in the tables and indexes of the extension.
sub tables_are_sound
{
	my ($node, $name, %param) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $dbname = $param{dbname} // 'postgres';
	my $found = $node->safe_psql($dbname, <<'EOQ');
SET client_min_messages = warning;
CREATE EXTENSION IF NOT EXISTS amcheck;
SELECT c.relname, h.* FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND d.classid = 'pg_class'::regclass
    CROSS JOIN LATERAL verify_heapam(c.oid) h
WHERE d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e' AND c.relkind = 'r'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq');
EOQ
	my ($rc, $out, $err) = $node->psql($dbname, <<'EOQ');
SELECT bt_index_parent_check(i.indexrelid, true, true), i.indexrelid::regclass FROM pg_depend d JOIN pg_index i ON i.indrelid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_extension'::regclass AND d.deptype = 'e'
    AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq') AND i.indisvalid
    AND EXISTS (SELECT FROM pg_class x JOIN pg_am a ON a.oid = x.relam WHERE x.oid = i.indexrelid AND a.amname = 'btree');
EOQ
	return ok($found eq '' && $rc == 0 && $err eq '' && split(/\n/, $out) > 10,
		"amcheck finds nothing: $name") || (diag("$found\n$err") && 0);
}

# A digest of every table, for comparing two databases.
sub table_digest
{
	my ($client, %param) = @_;
	my %digest;
	foreach my $table (@TABLES)
	{
		$digest{$table} = $client->value(
			"SELECT count(*) || ' ' || coalesce(md5(string_agg(t::text, E'\\n' ORDER BY t::text)), '') FROM $table t");
	}
	$digest{job_id_seq} = $client->value('SELECT (last_value, is_called)::text FROM job_id_seq')
	  unless $param{without_sequence};
	return \%digest;
}

1;
