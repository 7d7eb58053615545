# The server is killed under load and started again; then single processes are.
# What was acknowledged must be there, no job may be held twice at once, leases
# get a period of grace, and everything goes on without help.  The one thing
# that the death of the server may undo is claims of just before.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqLoad;
use JobqTest;
use List::Util qw(max);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('crash', conf => "restart_after_crash = on\ncheckpoint_timeout = 30s\n");

#
# The whole server, four times, under the load of ten clients
#
my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $lease = $JobqLoad::LEASE;
my @clients = start_clients(10, sub {
	return JobqLoad::run($node, $_[0], until => time + 90, file => $stop,
		weights => { control => 3 });
});

# Wait until that many jobs more are decided.
my $watch = JobqClient->new($node);
sub some_work
{
	my ($n) = @_;
	my $sql = 'SELECT count(*) FROM job WHERE outcome IS NOT NULL';
	$watch->connect;
	my $from = $watch->value($sql);
	return within(60, sub { $watch->value($sql) >= $from + $n });
}

my @crashes;
foreach my $how (qw(kill immediate kill immediate))
{
	ok(some_work(1500), 'the clients work');
	my $from = time;
	if ($how eq 'kill') { $node->kill9; }
	else { $node->stop('immediate'); }
	start_again($node);
	push @crashes, [ $from, time ];
}
ok(some_work(1500), 'the clients work again');
append_to_file($stop, '');
my @logs = finish_clients(100, @clients);
is(scalar(grep { $_->{connections} >= 5 } @logs), 10, 'each client saw each crash');
invariants_hold($node, 'after the crashes');

my $rest = JobqLoad::drain($node, 90);
ok($rest, 'every job is decided in the end');
push @logs, $rest if $rest;
JobqLoad::compare($node, 'crashes', \@logs, crashes => \@crashes);
invariants_hold($node, 'after the rest');
tables_are_sound($node, 'after the crashes');

#
# Leases over a crash
#
my $control = JobqClient->new($node, name => 'control');
# Ask in spite of restarts.
sub ask
{
	my ($sql) = @_;
	my $r;
	poll_until(sub {
		return 0 unless $control->connected || $control->connect;
		$r = $control->query($sql);
		return !$r->{lost};
	});
	die "$r->{sqlstate} $r->{message} by: $sql" if $r->{sqlstate};
	return wantarray ? @{ $r->{rows} } : $r->{rows}[0][0];
}
sub wait_state
{
	my ($id, $state) = @_;
	return poll_until(sub { $control->value("SELECT state FROM job_status WHERE id = $id") eq $state });
}
my %job;
foreach my $name (qw(completed beating abandoned timed))
{
	my $id = $control->value("SELECT job_submit('lease', queue => '$name', lease => '3 s', backoff => '10 ms'"
		  . ($name eq 'timed' ? ", timeout => '1 s', max_attempts => 1)" : ')'));
	my ($claim) = $control->rows("SELECT job_id, token, extract(epoch FROM lease_until) FROM job_claim('$name', 'w')");
	$job{$name} = $claim;
}
my $until = max(map { $_->[2] } values %job);
my $fail = "SELECT job_fail(job_id, token, retry => false) FROM job_claim('breaks')";
$control->rows("SELECT job_queue_set('breaks', pause_after => 2), job_submit('breaks', queue => 'breaks') FROM generate_series(1, 3)");
$control->rows($fail);
# what is durable makes the claims before it so
$control->value("SELECT job_submit('last')");
$node->kill9;
# the leases run out while nobody is there
poll_until(sub { time > $until + 0.2 });
start_again($node);
$control->connect;
my $started = $control->value('SELECT extract(epoch FROM pg_postmaster_start_time())');
is($control->query("SELECT job_complete($job{completed}[0], $job{completed}[1], '{\"done\": 1}')")->{sqlstate},
	undef, 'what ran during the crash is completed after it');
my $beats = 0;
my $beat = JobqClient->new($node);
my $lost = within(12, sub {
	my $r = $beat->query("SELECT job_heartbeat($job{beating}[0], $job{beating}[1])");
	$beats++ if !$r->{sqlstate} && $r->{rows}[0][0] eq 't';
	usleep(200_000);
	return $control->value("SELECT lost FROM job_status WHERE id = $job{abandoned}[0]") > 0;
});
ok($lost, 'an abandoned lease runs out after the restart');
my $after = $control->value("SELECT extract(epoch FROM ended_at) - $started FROM job_attempts WHERE job_id = $job{abandoned}[0]");
cmp_ok($after, '>=', 3, 'but only after a period of grace');
cmp_ok($after, '<', stretched(6), 'and not much later');
cmp_ok($beats, '>', 1, 'heartbeats go on meanwhile');
is($control->value("SELECT state FROM job_status WHERE id = $job{beating}[0]"), 'running', 'and keep their lease');
is($control->query("SELECT job_complete($job{beating}[0], $job{beating}[1])")->{sqlstate}, undef, 'to the end');
is($control->query("SELECT job_complete($job{abandoned}[0], $job{abandoned}[1])")->{sqlstate}, 'JQ001', 'the token of the lost one is stale');
ok(wait_state($job{abandoned}[0], 'ready'), 'it can be claimed again');
my ($again) = $control->rows("SELECT attempt, job_complete(job_id, token) FROM job_claim('abandoned')");
is($again->[0], 2, 'for the second attempt');
is($control->value("SELECT string_agg(outcome, ' ' ORDER BY attempt) FROM job_attempts WHERE job_id = $job{abandoned}[0]"),
	'lost succeeded', 'the loss is on record');
ok(wait_state($job{timed}[0], 'failed'), 'a timeout is not prolonged');
$control->rows($fail);
clock_passes($control);
my $paused = "SELECT paused FROM job_queue_status WHERE queue = 'breaks'";
is($control->value($paused), 'f', 'what failed before it does not count for a breaker');
$control->rows($fail);
ok(poll_until(sub { $control->value($paused) eq 't' }), '... what fails after it does');
invariants_hold($node, 'after leases over a crash');

#
# Single processes.  Each time a job falls due, a lease runs out, and a claim
# is in progress.
#
sub pid_of
{
	my ($type) = @_;
	my $pid;
	poll_until(sub { $pid = ask("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type'") });
	return $pid;
}

my $n = 0;
sub goes_on
{
	my ($name, $type, $signal) = @_;
	my $queue = 'single' . ++$n;
	my $due = ask("SELECT job_submit('due', queue => '$queue', run_at => clock_timestamp() + interval '500 ms')");
	my $leased = ask("SELECT job_submit('leased', queue => '$queue', lease => '500 ms', backoff => '10 ms')");
	ask("SELECT * FROM job_claim('$queue')");
	my $held = ask("SELECT job_submit('held', queue => '$queue.held')");
	my $victim = JobqClient->new($node, name => 'victim');
	$victim->rows('BEGIN');
	$victim->rows("SELECT * FROM job_claim('$queue.held')");
	my $pid = $type eq 'client backend' ? $victim->pid : pid_of($type);
	kill($signal, $pid) == 1 or die "$pid: $!";
	ok(poll_until(sub { !process_lives($pid) }), "$name is gone");
	poll_until(sub { $victim->query('SELECT 1')->{lost} }) if $signal eq 'KILL';
	ok(poll_until(sub { join(' ', map { $_->[0] } ask("SELECT state FROM job_status WHERE id IN ($due, $leased)")) eq 'ready ready' }),
		'... what was due is ready');
	is(ask("SELECT lost FROM job_status WHERE id = $leased"), 1, '... the lease ran out');
	if ($signal eq 'KILL')
	{
		is(ask("SELECT state FROM job_status WHERE id = $held"), 'ready', '... an open claim is undone');
	}
	# an open claim shows to nobody, so wait for the end of its session
	my $session = $victim->pid;
	$victim->disconnect;
	poll_until(sub { !process_lives($session) });
	ok(poll_until(sub { ask("SELECT state FROM job_status WHERE id = $held") eq 'ready' }), '... and so with its session');
	is(scalar(my @all = ask("SELECT job_complete(job_id, token) FROM job_claim('{$queue,$queue.held}'::text[], max_jobs => 5)")),
		3, '... all of it can be run');
	foreach my $type ('jobq launcher', 'jobq worker')
	{
		ok(poll_until(sub {
			ask("SELECT count(*) FROM pg_stat_activity WHERE backend_type = '$type'") == 1;
		}), "... there is one $type");
	}
	return;
}
goes_on('a killed session', 'client backend', 'KILL');
goes_on('a killed worker', 'jobq worker', 'KILL');
goes_on('a killed launcher', 'jobq launcher', 'KILL');
goes_on('a terminated session', 'client backend', 'TERM');
goes_on('a terminated worker', 'jobq worker', 'TERM');
goes_on('a terminated launcher', 'jobq launcher', 'TERM');
goes_on('a worker terminated again', 'jobq worker', 'TERM');
invariants_hold($node, 'at the end');

# It ends at once when it is told to.
my $before = time;
$node->stop('fast');
cmp_ok(time - $before, '<', stretched(10), 'a fast shutdown is fast');

done_testing();
