# Tables are rewritten and emptied under load, in two databases at once, and
# what is done to one does nothing to the other.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqLoad;
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('maintenance', bare => 1);
my @databases = qw(one two);
my %session;
foreach my $db (@databases)
{
	$node->safe_psql('postgres', "CREATE DATABASE $db");
	$node->safe_psql($db, 'CREATE EXTENSION jobq');
	$session{$db} = JobqClient->new($node, dbname => $db, name => "session of $db");
}
my @tables = (@JobqTest::TABLES, 'job_active_database');

# Something that falls due happens in a database, for a session that has been
# there all the time; seen by a job of its own.
sub worker_works
{
	my ($db, $name, $c) = @_;
	$c //= $session{$db};
	my $ok;
	foreach (1 .. 10)
	{
		my $due = $c->value("SELECT job_submit('due', queue => 'check', run_at => clock_timestamp() + interval '200 ms')");
		my $lost = $c->value("SELECT job_submit('lost', queue => 'check', lease => '200 ms', backoff => '1 ms')");
		$c->rows("SELECT job_id FROM job_claim('check')");

		# the load cancels and holds whatever it meets: then take two others
		my $touched = "SELECT count(*) FROM job j LEFT JOIN job_waiting w ON w.job_id = j.id LEFT JOIN job_lease l ON l.job_id = j.id"
		  . " WHERE j.id IN ($due, $lost) AND (j.outcome IS NOT NULL OR w.held OR l.cancel_requested)";
		my $taken;
		$ok = within(
			20,
			sub {
				$c->value("SELECT count(*) FROM job_ready WHERE job_id IN ($due, $lost)") == 2
				  || ($taken = $c->value($touched) > 0);
			});
		$c->rows("SELECT job_complete(job_id, token) FROM job_claim('check', max_jobs => 9)");
		last unless $taken;
		$ok = 0;
	}
	return ok($ok, $name);
}

#
# Rewriting, under the load of five clients in each database
#
my $file = PostgreSQL::Test::Utils::tempdir . '/stop';
my %clients;
foreach my $db (@databases)
{
	$clients{$db} = [
		start_clients(5, sub { JobqLoad::run($node, "$_[0] of $db", until => time + 60, file => $file, dbname => $db) })
	];
}
my $started = time;
foreach my $table (@tables)
{
	foreach my $db (@databases)
	{
		foreach my $act ("VACUUM FULL $table", "REINDEX TABLE CONCURRENTLY $table", "VACUUM (FREEZE, ANALYZE) $table")
		{
			my $r;
			within(20, sub { $r = $session{$db}->query($act); ($r->{sqlstate} // '') !~ /^40/ });
			is($r->{sqlstate}, undef, "$act in $db") or diag($r->{message});
		}
	}
}
foreach my $db (@databases)
{
	my $r;
	within(20, sub { $r = $session{$db}->query('CLUSTER job_ready USING job_ready_order'); ($r->{sqlstate} // '') !~ /^40/ });
	is($r->{sqlstate}, undef, "CLUSTER in $db");
}
poll_until(sub { time > $started + 6 });
append_to_file($file, '');
foreach my $db (@databases)
{
	my @logs = finish_clients(60, @{ $clients{$db} });
	invariants_hold($node, "after rewriting, $db", dbname => $db);
	my $rest = JobqLoad::drain($node, 60, dbname => $db);
	ok($rest, "every job of $db is decided");
	push @logs, $rest if $rest;
	JobqLoad::compare($node, "rewriting, $db", \@logs, dbname => $db);
	invariants_hold($node, "at the end, $db", dbname => $db);
	tables_are_sound($node, "rewritten, $db", dbname => $db);
	worker_works($db, "the worker of $db works on");
}

#
# Two databases are two queues.
#
is($node->safe_psql('postgres', q(SELECT count(DISTINCT datname) FROM pg_stat_activity WHERE backend_type = 'jobq worker')),
	2, 'each database has a worker');
{
	my ($one, $two) = @session{@databases};
	# the same ids in both
	my $max = 0;
	foreach ($one, $two)
	{
		my $last = $_->value('SELECT last_value FROM job_id_seq');
		$max = $last if $last > $max;
	}
	$_->rows("SELECT setval('job_id_seq', $max)") foreach $one, $two;
	$_->rows("SELECT job_submit('same', queue => 'same', lease => '500 ms', backoff => '1 h')") foreach $one, $two;
	my ($a) = $one->rows("SELECT job_id, token FROM job_claim('same')");
	is(scalar(my @none = $one->rows("SELECT * FROM job_claim('same')")), 0, 'a claim takes no job of the other database');
	my ($b) = $two->rows("SELECT job_id, token FROM job_claim('same')");
	is($a->[0], $b->[0], 'two jobs with the same id');
	is($two->query("SELECT job_complete($a->[0], $a->[1])")->{sqlstate}, 'JQ001', 'a token is good in its database only');
	is($two->query("SELECT job_heartbeat($a->[0], $a->[1])")->{sqlstate}, 'JQ001', 'for heartbeats too');
	# one is kept by heartbeats, the other, with the same id, is not
	ok( within(20, sub {
			$one->value("SELECT job_heartbeat($a->[0], $a->[1])");
			return $two->value("SELECT lost FROM job_status WHERE id = $b->[0]") == 1;
		}),
		'a lease runs out beside one with the same id that is kept');
	is($one->value("SELECT state FROM job_status WHERE id = $a->[0]"), 'running', 'which goes on');
	$one->rows("SELECT job_complete($a->[0], $a->[1])");

	# waiting in one is not ended by what happens in the other
	$one->send("CALL job_claim_wait('same', 'w', '1500 ms')");
	asleep($two, $one);
	$two->rows("SELECT job_submit('same', queue => 'same')");
	my $r = $one->receive;
	is($r->{rows}[0][0], undef, 'job_claim_wait gets nothing from the other database');
	$two->rows("SELECT job_complete(job_id, token) FROM job_claim('same')");
	$one->rows('LISTEN job_queue_same');
	$one->{notifications} = [];
	$two->rows("SELECT job_submit('same', queue => 'same')");
	worker_works('two', 'the worker of two notifies');
	$two->rows("SELECT job_cancel(id) FROM job WHERE outcome IS NULL AND queue = 'same'");
	$one->rows('SELECT 1');
	is(scalar(@{ $one->{notifications} }), 0, 'nor any notification');
}

#
# Emptying, under load in one; two has a load of its own and loses nothing.
#
my $before_two = $session{two}->value('SELECT count(*) FROM job');
unlink($file);
my @one = start_clients(6, sub { JobqLoad::run($node, "$_[0] of one", until => time + 60, file => $file, dbname => 'one', vanishing => 1) });
my @two = start_clients(3, sub { JobqLoad::run($node, "$_[0] of two", until => time + 60, file => $file, dbname => 'two') });
my $jobs = 'SELECT count(*) FROM job';
foreach my $round (1 .. 4)
{
	ok(within(30, sub { $session{one}->value($jobs) > 300 }), 'jobs are submitted');
	my $list = join ', ', $round % 2 ? @tables : reverse @tables;
	$list =~ s/, job_active_database|job_active_database, // if $round == 1;
	my $r;
	ok(within(60, sub { $r = $session{one}->query("TRUNCATE $list"); ($r->{sqlstate} // '') !~ /^40/ }) && !$r->{sqlstate},
		"TRUNCATE of all tables, round $round") or diag($r->{message});
	worker_works('one', "the worker works after it, round $round");
	invariants_hold($node, "after TRUNCATE, round $round", dbname => 'one');
}
# a worker that starts now finds no home but what sessions from before made
$session{one}->rows('TRUNCATE job_active_database');
$session{one}->rows("SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity WHERE datname = 'one' AND backend_type = 'jobq worker'");
worker_works('one', 'another worker works too');
append_to_file($file, '');
my @logs = finish_clients(60, @one);
my @errors = map { @{ $_->{errors} } } @logs;
ok(!@errors, 'nothing unexpected was answered while tables were emptied') or diag(join("\n", @errors[ 0 .. ($#errors > 9 ? 9 : $#errors) ]));
my @logs_two = finish_clients(60, @two);
my $rest = JobqLoad::drain($node, 60, dbname => 'one');
ok($rest, 'every job left in one is decided');
# the load may have retried what was cancelled in a queue that it does not drain
$session{two}->rows("SELECT job_cancel(id) FROM job WHERE outcome IS NULL AND queue = 'same'");
my $rest_two = JobqLoad::drain($node, 60, dbname => 'two');
ok($rest_two, 'every job of two is decided');
invariants_hold($node, "at the end, $_", dbname => $_) foreach @databases;
tables_are_sound($node, 'after TRUNCATE', dbname => 'one');
my @errors_two = map { @{ $_->{errors} } } @logs_two;
ok(!@errors_two, 'nothing unexpected in two') or diag(join("\n", @errors_two[ 0 .. ($#errors_two > 9 ? 9 : $#errors_two) ]));
my $acknowledged = 0;
$acknowledged += keys %{ $_->{submitted} } foreach @logs_two;
cmp_ok($session{two}->value('SELECT count(*) FROM job'), '>=', $before_two + $acknowledged, 'two has lost nothing');

#
# Dropping and creating, with sessions that remember
#
my $other = JobqClient->new($node, dbname => 'one', name => 'remembers');
$other->value("SELECT job_submit('x')");
foreach my $round (1 .. 3)
{
	$session{one}->rows('DROP EXTENSION jobq');
	ok(within(10, sub {
			$node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND datname = 'one')) == 0;
		}), "DROP EXTENSION sends the worker away, round $round");
	is($other->query("SELECT job_submit('x')")->{sqlstate}, '42883', 'no function is left');
	$session{one}->rows('CREATE EXTENSION jobq');
	is($other->value("SELECT job_submit('x')"), 1, 'after CREATE EXTENSION a session from before submits');
	worker_works('one', 'there is a worker again', $other);
	is($other->value('SELECT job_complete(job_id, token)::text FROM job_claim()'), '', 'and it can work');
	invariants_hold($node, "created again, round $round", dbname => 'one');
}
worker_works('two', 'the other database has seen nothing of it');

done_testing();
