# Metrics beside a load of all that counts: what one look shows fits together, whatever goes on, is rolled back, or is counted
# anew; at rest the numbers of jobs are those of the tables, and the counters what was done.  Then over a restart, a crash,
# prepared transactions, with other databases, and with no room.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('metrics', conf => <<'EOC');
max_prepared_transactions = 5
jobq.max_lost = 1000
jobq.backoff = 10ms
jobq.backoff_cap = 20ms
log_min_messages = fatal
EOC
my $c = JobqClient->new($node);
my @queues = map { "q$_" } 1 .. 4;

# What the load does, once: no job is retried, so each is submitted once and decided once.
$c->rows(<<'EOQ');
CREATE TABLE harmless (i int);
CREATE FUNCTION some_queue() RETURNS text LANGUAGE sql VOLATILE AS $$ SELECT 'q' || 1 + floor(random() * 4)::int $$;
CREATE FUNCTION some_job(of text[]) RETURNS bigint LANGUAGE sql VOLATILE AS $$
    SELECT id FROM job_status WHERE state = ANY (of) AND id > (SELECT last_value - 300 FROM job_id_seq) ORDER BY random() LIMIT 1 $$;
CREATE FUNCTION finish(c job_assignment, dice float8) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF dice < 0.5 THEN PERFORM job_complete(c.job_id, c.token);
    ELSIF dice < 0.65 THEN PERFORM job_fail(c.job_id, c.token, 'no');
    ELSIF dice < 0.7 THEN PERFORM job_fail(c.job_id, c.token, 'no', retry => false);
    ELSIF dice < 0.75 THEN PERFORM job_release(c.job_id, c.token);
    ELSIF dice < 0.8 THEN PERFORM job_snooze(c.job_id, c.token, '10 ms');
    ELSIF dice < 0.85 THEN PERFORM job_cancel(c.job_id); PERFORM job_fail(c.job_id, c.token);
    ELSIF dice < 0.9 THEN PERFORM job_take_back(c.job_id);
    END IF; -- or its lease runs out
END $$;
CREATE PROCEDURE act() LANGUAGE plpgsql AS $$
DECLARE
    dice float8 := random();
    c job_assignment;
BEGIN
    FOR i IN 1 .. 1 + floor(random() * 3)::int LOOP
        dice := random();
        BEGIN
            IF dice < 0.3 THEN
                PERFORM job_submit('k', queue => some_queue(), max_attempts => 3, lease => '1 s') FROM generate_series(1, 1 + floor(random() * 5)::int);
            ELSIF dice < 0.35 THEN
                PERFORM job_submit('k', queue => some_queue(), run_at => clock_timestamp() + interval '20 ms', lease => '1 s');
            ELSIF dice < 0.45 THEN
                PERFORM job_submit('k', queue => some_queue(), lease => '1 s', depends_on => array_remove(ARRAY[some_job('{waiting,ready,running,failed}'), some_job('{ready,cancelled}')], NULL),
                    trigger_rule => (ARRAY['all_success', 'all_done', 'one_failed'])[1 + floor(random() * 3)::int]);
            ELSIF dice < 0.5 THEN
                PERFORM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'queue', some_queue(), 'lease', '1 s')) FROM generate_series(1, 30)));
            ELSIF dice < 0.7 THEN
                FOR c IN SELECT * FROM job_claim(ARRAY['q1', 'q2', 'q3', 'q4'], 'w', 1 + floor(random() * 20)::int) LOOP
                    PERFORM finish(c, random());
                END LOOP;
            ELSIF dice < 0.75 THEN PERFORM job_cancel(some_job('{waiting,scheduled,ready,running}'));
            ELSIF dice < 0.8 THEN PERFORM job_hold(some_job('{ready,scheduled,waiting}'));
            ELSIF dice < 0.85 THEN PERFORM job_unhold(some_job('{waiting}'));
            ELSIF dice < 0.9 THEN PERFORM job_decide(some_job('{waiting,ready,scheduled}'), (ARRAY['succeeded', 'failed', 'skipped', 'cancelled'])[1 + floor(random() * 4)::int]);
            ELSE PERFORM job_change(some_job('{waiting,ready,scheduled}'), queue => some_queue(), priority => floor(random() * 5)::int);
            END IF;
            IF random() < 0.2 THEN
                RAISE 'undo' USING ERRCODE = 'P0001';
            END IF;
        EXCEPTION WHEN raise_exception OR SQLSTATE 'JQ003' OR SQLSTATE 'JQ001' OR SQLSTATE 'JQ002' OR invalid_parameter_value OR null_value_not_allowed THEN
            NULL;
        END;
    END LOOP;
    IF random() < 0.1 THEN
        ROLLBACK;
    END IF;
END $$;
EOQ

# One look at the sums over all queues.
my $look = <<'EOQ';
SELECT sum(value) FILTER (WHERE name = 'jobq_jobs'), sum(value) FILTER (WHERE name = 'jobq_submitted_total'), sum(value) FILTER (WHERE name = 'jobq_decided_total'),
    sum(value) FILTER (WHERE name = 'jobq_attempts_total'), sum(value) FILTER (WHERE name = 'jobq_run_seconds_count'),
    sum(value) FILTER (WHERE name = 'jobq_wait_seconds_count') - sum(value) FILTER (WHERE name = 'jobq_jobs' AND labels ->> 'state' = 'running'),
    min(value)
FROM job_metrics WHERE labels ? 'queue'
EOQ

# Changes when rows are counted.
my $scans = "SELECT coalesce(sum(seq_scan), 0) FROM pg_stat_xact_user_tables WHERE relname = 'job_waiting'";

# Each number of jobs that is another than the tables', seen at rest.
my $wrong = <<'EOQ';
SELECT queue, state, m.n, t.n
FROM (SELECT labels ->> 'queue' AS queue, labels ->> 'state' AS state, value AS n FROM job_metrics WHERE name = 'jobq_jobs') m
    FULL JOIN (SELECT s.queue, k.* FROM job_queue_status s,
        LATERAL (VALUES ('waiting', waiting - limited), ('scheduled', scheduled), ('limited', limited), ('ready', ready), ('running', running)) k (state, n)) t USING (queue, state)
WHERE m.n IS DISTINCT FROM t.n
EOQ

# One test: nothing moves any more, and the numbers of jobs are right.
sub right_at_rest
{
	my ($name, $client) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @wrong;
	my $right = within(60, sub { @wrong = ($client // $c)->rows($wrong); return !@wrong; });
	return ok($right, "$name: the numbers of jobs are those of the tables") || diag(join("\n", map { "@$_" } @wrong));
}

# A load of so many seconds, in which sessions are terminated; $counted: jobs, and attempts that run, which the counters do not know.
sub load
{
	my ($seconds, $counted, $name) = @_;
	my $until = time + $seconds;
	my $work = sub {
		my ($i) = @_;
		my ($acts, $client) = 0;
		my %errors;
		while (time < $until)
		{
			$client = JobqClient->new($node, name => 'works') // next unless $client && $client->connected;
			my $r = $client->query($i % 2 ? 'CALL act()' : 'BEGIN; SAVEPOINT a; SAVEPOINT b; DO $$ BEGIN EXECUTE \'SELECT 1\'; END $$; ' . "SELECT job_submit('k', queue => some_queue(), lease => '1 s'); "
				  . (rand() < 0.3 ? 'ROLLBACK TO b; ' : rand() < 0.5 ? 'RELEASE a; ' : '') . "SELECT finish(c::job_assignment, random()) FROM job_claim(some_queue(), 'w', 2) c; COMMIT")
			  if $client;
			next if $r->{lost};
			$acts++ unless $r->{sqlstate};
			$client->query('ROLLBACK') if $client->status ne 'I';
			$errors{"$r->{sqlstate} $r->{message}"}++ if $r->{sqlstate} && $r->{sqlstate} !~ /^(40P01|40001|2D000|JQ00.)$/;
		}
		return { acts => $acts, errors => \%errors };
	};
	my $read = sub {
		my $client = JobqClient->new($node, name => 'reads');
		my ($looks, @bad) = 0;
		while (time < $until)
		{
			# has the rows counted anew, by the first look, as nobody else looks; the others read shared memory
			$client->rows("BEGIN; INSERT INTO harmless VALUES (1); PREPARE TRANSACTION 'harmless'");
			$client->rows("COMMIT PREPARED 'harmless'");
			$client->rows($look);

			# a commit whose rows were counted, and which has still to add what it did, is waited for; from then on all is to fit
			my ($settled, $seen, $wrong) = (0, 0);
			for (my $give_up = time + 60; time < $give_up && ($seen < 5 || !$settled);)
			{
				$client->rows('BEGIN');
				my $before = $client->value($scans);
				my ($row) = $client->rows($look);
				my $counted_rows = $client->value($scans) != $before;
				$client->rows('COMMIT');
				$settled = 0 if $counted_rows;
				next if $counted_rows;
				my ($jobs, $submitted, $decided, $attempts, $run, $waited, $least) = @$row;
				my $fits = $jobs == $submitted - $decided - $counted->[0] && $attempts == $run && $waited == $attempts - $counted->[1] && $least >= 0;
				$wrong = $fits ? undef : "@$row";
				last if $settled && !$fits;
				$settled = $fits;
				$seen++;
			}
			push @bad, $wrong if defined $wrong;
			$looks += $seen;
		}
		return { looks => $looks, bad => \@bad };
	};
	my @workers = start_clients(4, $work);
	my @readers = start_clients(1, $read);
	while (time < $until)
	{
		usleep(300_000);
		$c->rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'works' ORDER BY random() LIMIT 1");
	}
	my ($reader) = finish_clients(60, @readers);
	my @done = finish_clients(60, @workers);
	my $acts = 0;
	$acts += $_->{acts} foreach @done;
	my %errors = map { %{ $_->{errors} } } @done;
	note("$acts acts, $reader->{looks} looks");
	cmp_ok($acts, '>', 50, "$name: the load did something");
	ok(!%errors, "$name: nothing unexpected was answered") or diag(join("\n", sort keys %errors));
	cmp_ok($reader->{looks}, '>', 10, "$name: somebody looked");
	my @bad = @{ $reader->{bad} };
	ok(!@bad, "$name: what one look shows fits together") or diag(join("\n", @bad[ 0 .. ($#bad > 9 ? 9 : $#bad) ]));
	right_at_rest($name);
	return;
}

# One test each: counters against the tables.
sub counters_are
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $sum = sub { return $c->value("SELECT string_agg(label || ' ' || n, ', ' ORDER BY label) FROM (SELECT labels ->> '$_[1]' AS label, sum(value) AS n FROM job_metrics WHERE name = '$_[0]' GROUP BY 1 HAVING sum(value) > 0) x") // ''; };
	is($c->value("SELECT sum(value) FROM job_metrics WHERE name = 'jobq_submitted_total'"), $c->value('SELECT count(*) FROM job'), "$name: all that was submitted is counted");
	is($sum->('jobq_decided_total', 'state'), $c->value("SELECT string_agg(state || ' ' || n, ', ' ORDER BY state) FROM (SELECT state, count(*) AS n FROM job_status WHERE finished_at IS NOT NULL GROUP BY 1) x"), "$name: what was decided");
	is($sum->('jobq_attempts_total', 'outcome'), $c->value("SELECT string_agg(outcome || ' ' || n, ', ' ORDER BY outcome) FROM (SELECT outcome, count(*) AS n FROM job_attempts GROUP BY 1) x"), "$name: and the attempts");
	return;
}

# One test: what the background worker has still to do is done.
sub rest
{
	my $none = within(60, sub { $c->value("SELECT count(*) FROM job_scheduled") == 0 && $c->value('SELECT count(*) FROM job_lease') == 0 && $c->value('SELECT count(*) FROM job_delta') + $c->value('SELECT count(*) FROM job_recount') == 0 });
	return ok($none, 'the load comes to rest');
}

# also before a first job has said where it may act
ok(within(30, sub { $c->value("SELECT value FROM job_metrics WHERE name = 'jobq_worker_running'") == 1 }), 'the worker runs');
load(8, [ 0, 0 ], 'a load');
rest();
right_at_rest('at rest');
counters_are('at rest');

#
# Prepared transactions
#

$c->rows("BEGIN; SELECT job_submit('k', queue => 'p') FROM generate_series(1, 7); PREPARE TRANSACTION 'a'");
right_at_rest('a prepared transaction');
$c->rows("COMMIT PREPARED 'a'");
right_at_rest('it is committed');
is($c->value("SELECT value FROM job_metrics WHERE name = 'jobq_jobs' AND labels ->> 'queue' = 'p' AND labels ->> 'state' = 'ready'"), 7, 'its jobs are counted');
$c->rows("BEGIN; SELECT job_submit('k', queue => 'p') FROM generate_series(1, 7); PREPARE TRANSACTION 'a'");
$c->rows($look);
$node->restart;
$c->connect;
right_at_rest('a prepared transaction from before a restart');
is($c->value("SELECT sum(value) FROM job_metrics WHERE name = 'jobq_submitted_total'"), 0, 'counters begin at zero');
$c->rows("COMMIT PREPARED 'a'");
right_at_rest('that is committed');

#
# A count that is cancelled, and two at once
#

my $other = JobqClient->new($node);
my $locker = JobqClient->new($node);
$c->rows("BEGIN; INSERT INTO harmless VALUES (1); PREPARE TRANSACTION 'harmless'");
$c->rows("COMMIT PREPARED 'harmless'");
# waits for the table in the middle of its count
$locker->rows('BEGIN; LOCK job_waiting IN ACCESS EXCLUSIVE MODE');
$other->send($look);
ok(within(60, sub { $c->value('SELECT count(*) FROM pg_stat_activity WHERE pid = ' . $other->pid . " AND wait_event_type = 'Lock'") == 1 }), 'somebody is about to count');
$c->rows('SELECT pg_cancel_backend(' . $other->pid . ')');
is($other->receive->{sqlstate}, '57014', 'and is cancelled');
$locker->rows('COMMIT');
right_at_rest('after a count that was cancelled');
is($c->value("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"), 0, 'no lock is left');

#
# A crash
#

my $victim = JobqClient->new($node);
$victim->rows("BEGIN; SELECT job_submit('k', queue => 'p')");
$node->kill9;
start_again($node);
$c->connect or die;
$c->rows($look);
my ($row) = $c->rows($look);
is("@$row[1, 2, 3]", '0 0 0', 'counters begin at zero');
right_at_rest('after a crash');
load(4, [ -$row->[0], 0 ], 'a load after a crash');
rest();
right_at_rest('after the crash, at rest');

#
# Whether the worker may act here
#

my $home = $c->value('SELECT database FROM job_active_database');
$c->rows('UPDATE job_active_database SET database = 1');
is($c->value("SELECT value FROM job_metrics WHERE name = 'jobq_worker_running'"), 0, 'a worker that may not act does not count as one');
$c->rows("UPDATE job_active_database SET database = $home");
is($c->value("SELECT value FROM job_metrics WHERE name = 'jobq_worker_running'"), 1, 'one that may does');

#
# Databases and extensions that go leave no entries
#

my $used = $c->value("SELECT used FROM job_memory WHERE part = 'metrics'");
$c->rows('CREATE DATABASE other');
my $there = JobqClient->new($node, dbname => 'other');
$there->rows('CREATE EXTENSION jobq');
$there->rows("SELECT job_submit('k', queue => 'other' || i) FROM generate_series(1, 10) i");
is($there->value("SELECT count(*) FROM job_metrics WHERE name = 'jobq_jobs' AND labels ->> 'state' = 'ready' AND value = 1"), 10, 'another database has its own numbers');
is($c->value("SELECT used FROM job_memory WHERE part = 'metrics'"), $used + 10, 'an entry for each queue');
is($c->value("SELECT count(*) FROM job_metrics WHERE labels ->> 'queue' LIKE 'other%'"), 0, 'which are not shown here');
$there->rows('DROP EXTENSION jobq');
ok(within(60, sub { $c->value("SELECT used FROM job_memory WHERE part = 'metrics'") == $used }), 'DROP EXTENSION frees them');
$there->rows('CREATE EXTENSION jobq');
$there->rows("SELECT job_submit('k', queue => 'other')");
is($there->value("SELECT string_agg(value::text, ' ') FROM job_metrics WHERE name = 'jobq_jobs'"), '0 0 1 0 0', 'an extension that is made anew begins anew');
$there->disconnect;
$c->rows('DROP DATABASE other WITH (FORCE)');
ok(within(60, sub { $c->value("SELECT used FROM job_memory WHERE part = 'metrics'") == $used }), 'DROP DATABASE frees them');

#
# No room: no counters, and the numbers of jobs are counted at each look
#

$c->rows("SELECT job_cancel(id) FROM job_status WHERE finished_at IS NULL");
$node->append_conf('postgresql.conf', 'jobq.max_metrics = 2');
$node->restart;
$c->connect;
$c->rows("SELECT job_submit('k', queue => 'q' || i) FROM generate_series(1, 4) i");
right_at_rest('without room');
is($c->value("SELECT string_agg(labels ->> 'queue', ' ' ORDER BY labels ->> 'queue') FROM job_metrics WHERE name = 'jobq_jobs' AND value = 1"), 'q1 q2 q3 q4', 'all jobs are shown');
is($c->value("SELECT count(*) FROM job_metrics WHERE name = 'jobq_submitted_total'"), 2, 'two queues have counters');
is($c->value("SELECT value FROM job_metrics WHERE name = 'jobq_memory_used_ratio' AND labels ->> 'part' = 'metrics'"), 1, 'which can be seen');
$c->rows("SELECT job_complete(job_id, token) FROM job_claim('{q1,q2,q3,q4}'::text[], 'w', 4)");
right_at_rest('without room, later');
$node->stop;
done_testing();
