# What the worker does by the clock: leases, timeouts, scheduled jobs, expiry,
# notifications; rows it cannot deal with; what nobody announced.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = jobq_node('due', conf => <<'EOC');
max_prepared_transactions = 5
restart_after_crash = on
jobq.sweep_interval = 1h
EOC
my $client = JobqClient->new($node);

sub state_of
{
	my ($id) = @_;
	return $client->value("SELECT state FROM job_status WHERE id = $id");
}

# One test: a job gets into this state within so many seconds.
sub becomes
{
	my ($id, $state, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $is;
	return ok(within($seconds // 5, sub { ($is = state_of($id)) eq $state }), $name) || (diag("it is $is") && 0);
}

# Claim a job of a queue: (id, token).
sub claim
{
	my ($queue, $lease) = @_;
	return @{ ($client->rows("SELECT job_id, token FROM job_claim('$queue', 'w', 1, '$lease')"))[0] };
}

# CPU time of a process in seconds.
sub cpu
{
	my ($pid) = @_;
	my @stat = split ' ', (slurp_file("/proc/$pid/stat") =~ s/.*\) //r);
	return ($stat[11] + $stat[12]) / 100;
}

#
# Leases and heartbeats
#

my $id = $client->value(q{SELECT job_submit('x', queue => 'a', backoff => '1 h')});
claim('a', '0.3 s');
becomes($id, 'scheduled', 'a lost job goes through its backoff');
is($client->value("SELECT outcome || ' ' || error FROM job_attempts WHERE job_id = $id"),
	'lost lease ran out', '... with an attempt on record');
cmp_ok($client->value("SELECT extract(epoch FROM ended_at - started_at) FROM job_attempts WHERE job_id = $id"),
	'<', stretched(5), '... in time');

$id = $client->value(q{SELECT job_submit('x', queue => 'a', max_lost => 1)});
claim('a', '0.2 s');
becomes($id, 'failed', 'a job that may not be lost fails');

$id = $client->value(q{SELECT job_submit('x', queue => 'a')});
my ($job, $token) = claim('a', '3 s');
my $xmin = $client->value("SELECT xmin FROM job_lease WHERE job_id = $id");
# the worker has come to it when the lease as it was at first is over
my $after = $client->value(q{SELECT job_submit('x', run_at => clock_timestamp() + interval '3.1 s')});
my $refused = 0;
poll_until(sub {
	$refused++ if $client->value("SELECT job_heartbeat($job, $token)") ne 't';
	return state_of($after) eq 'ready';
});
is($refused, 0, 'heartbeats keep a lease alive');
is($client->value("SELECT state || ' ' || attempt FROM job_status WHERE id = $id"), 'running 1', '... well beyond its period');
is($client->value("SELECT xmin FROM job_lease WHERE job_id = $id"), $xmin, '... without writing its row');
cmp_ok($client->value("SELECT extract(epoch FROM lease_until - now()) FROM job_status WHERE id = $id"),
	'>', 0, 'job_status shows until when');
ok(within(10, sub { $client->value("SELECT lost FROM job_status WHERE id = $id") == 1 }), 'without them it is lost');
is($client->query("SELECT job_heartbeat($job, $token)")->{sqlstate}, 'JQ001', '... and the next one is stale');

$id = $client->value(q{SELECT job_submit('x', queue => 'b', timeout => '0.3 s', max_attempts => 1)});
($job, $token) = claim('b', '1 h');
$client->rows("SELECT job_heartbeat($job, $token)");
becomes($id, 'failed', 'an attempt times out in spite of heartbeats');
is($client->value("SELECT outcome FROM job_attempts WHERE job_id = $id"), 'timed_out', '... as such');

# A claim in a subtransaction that is rolled back leaves no heartbeat behind.
$id = $client->value(q{SELECT job_submit('x', queue => 'c')});
$client->rows('BEGIN; SAVEPOINT s');
my ($old, $old_token) = claim('c', '1 h');
$client->rows('ROLLBACK TO s');
($job, $token) = claim('c', '0.2 s');
$client->rows('COMMIT');
isnt($token, $old_token, 'a token of its own');
ok(within(5, sub { $client->value("SELECT lost FROM job_status WHERE id = $id") == 1 }),
	'what a savepoint announced is forgotten with it');

# Cancelling reaches a heartbeat that looks at no row.
$id = $client->value(q{SELECT job_submit('x', queue => 'd')});
($job, $token) = claim('d', '1 h');
is($client->value("SELECT job_heartbeat($job, $token)"), 't', 'a heartbeat');
$client->rows("SELECT job_cancel($id)");
is($client->value("SELECT job_heartbeat($job, $token)"), 'f', '... hears of cancellation');

#
# Scheduled jobs, expiry
#

$client->rows(q{SELECT job_submit('x', queue => 'many', run_at => now() + '0.5 s') FROM generate_series(1, 2000)});
ok(within(10, sub { $client->value("SELECT ready FROM job_queue_status WHERE queue = 'many'") == 2000 }),
	'2000 jobs become ready at once');
$id = $client->value(q{SELECT job_submit('x', run_at => now() - interval '1 h')});
is(state_of($id), 'ready', 'a job of the past is ready');
my $far = $client->value(q{SELECT job_submit('x', run_at => now() + interval '1 h')});
my $near = $client->value(q{SELECT job_submit('x', run_at => now() + interval '0.2 s')});
becomes($near, 'ready', 'a nearer deadline wakes the worker that sleeps to a farther one');
is(state_of($far), 'scheduled', '... which still waits');

$id = $client->value(q{SELECT job_submit('x', queue => 'e', expires_at => now() + interval '0.3 s')});
my $child = $client->value("SELECT job_submit('x', queue => 'e', depends_on => ARRAY[$id])");
becomes($id, 'cancelled', 'a job that nobody started expires');
becomes($child, 'upstream_failed', '... with its children');
$id = $client->value(q{SELECT job_submit('x', queue => 'e', expires_at => now() + interval '1.5 s')});
claim('e', '1 h');
ok(within(5, sub { $client->value("SELECT count(*) FROM job_expiry WHERE job_id = $id") == 0 }), 'one that runs');
is(state_of($id), 'running', '... does not');

# What reminds of it goes at that time, whatever became of the job.
my ($retried, $purged) = map { $client->value(q{SELECT job_submit('x', queue => 'e', expires_at => now() + interval '1.5 s')}) } 1 .. 2;
$client->rows("SELECT job_cancel($_)") foreach $retried, $purged;
$client->rows("SELECT job_retry($retried)");
$client->rows("DELETE FROM job WHERE id = $purged");
is($client->value("SELECT count(*) FROM job_expiry WHERE job_id IN ($retried, $purged)"), 2, 'jobs that would expire');
ok(within(10, sub { $client->value("SELECT count(*) FROM job_expiry WHERE job_id IN ($retried, $purged)") == 0 }),
	'... are retried and purged, and nothing is left');
is(state_of($retried), 'ready', '... of their expiry');

#
# Rows in the way
#

my $other = JobqClient->new($node);
my @ids = map { $client->value(q{SELECT job_submit('x', queue => 'f', run_at => now() + interval '1.5 s')}) } 1 .. 5;
$other->rows("BEGIN; SELECT FROM job_scheduled WHERE job_id = $ids[2] FOR UPDATE");
becomes($ids[$_], 'ready', "job $_, though another is locked") foreach 0, 1, 3, 4;
is(state_of($ids[2]), 'scheduled', 'the locked one is passed over');
$other->rows('COMMIT');
becomes($ids[2], 'ready', '... and comes when it is free');

@ids = map { $client->value(q{SELECT job_submit('x', queue => 'g')}) } 1 .. 3;
claim('g', '1.5 s') foreach 1 .. 3;
$other->rows("BEGIN; SELECT FROM job WHERE id = $ids[0] FOR UPDATE; SELECT FROM job_lease WHERE job_id = $ids[1] FOR UPDATE");
ok(within(5, sub { $client->value("SELECT lost FROM job_status WHERE id = $ids[2]") == 1 }),
	'a lost job, though others are locked');
clock_passes($client);
$other->rows('COMMIT');
ok(within(5, sub { $client->value("SELECT sum(lost) FROM job_status WHERE id = ANY ('{$ids[0], $ids[1]}')") == 2 }),
	'... which come when they are free');

# Many expired jobs that an open transaction holds must not delay other work.
$client->rows(q{SELECT job_submit('x', queue => 'held', expires_at => now() + interval '1 s') FROM generate_series(1, 300)});
my ($parents) = $client->value(q{SELECT array_agg(id) FROM job WHERE queue = 'held'});
$other->rows('BEGIN');
$child = $other->value("SELECT job_submit('x', queue => 'held', depends_on => '$parents')");
# they are tried, and cannot be had
ok(poll_until(sub { $client->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND wait_event_type = 'Lock'") }),
	'the worker meets expired jobs that are locked');
foreach my $round (1 .. 5)
{
	my $queue = "beside$round";
	my $lost = $client->value("SELECT job_submit('x', queue => '$queue', backoff => '1 h')");
	claim($queue, '0.3 s');
	my $due = $client->value("SELECT job_submit('x', queue => '$queue', run_at => clock_timestamp() + interval '0.3 s')");
	my $expired = $client->value("SELECT job_submit('x', queue => '$queue', expires_at => clock_timestamp() + interval '0.3 s')");
	my %left = ($lost => 'scheduled', $due => 'ready', $expired => 'cancelled');
	ok(within(10, sub { $left{$_} eq state_of($_) && delete $left{$_} foreach keys %left; !%left }),
		'... and does what is due beside them')
	  or diag(join ' ', map { "$_ is not $left{$_}" } keys %left);
}
is($client->value("SELECT count(*) FROM job_status WHERE queue = 'held' AND state = 'ready'"), 300, '... they are still held');
$other->rows('COMMIT');
becomes($child, 'upstream_failed', '... and expire when they are free', 30);
ok(within(90, sub { $client->value("SELECT count(*) FROM job_status WHERE queue = 'held' AND state = 'cancelled'") == 300 }), '... all of them');

# A row that always fails: its attempt is on record already.
my $bad = $client->value(q{SELECT job_submit('x', queue => 'h')});
my $good = $client->value(q{SELECT job_submit('x', queue => 'h')});
claim('h', '0.5 s') foreach 1 .. 2;
$client->rows("INSERT INTO job_attempt VALUES ($bad, 1, now(), now(), 3)");
ok(within(5, sub { $client->value("SELECT lost FROM job_status WHERE id = $good") == 1 }), 'a bad row does not stop others');
my $logged = sub { scalar(() = slurp_file($node->logfile) =~ /WARNING:  jobq worker could not end the lease of job $bad\b/g) };
ok(within(5, sub { $logged->() == 1 }), '... and is logged');
# what is tried is counted, even if it fails
my $tried = sub { $client->value("SELECT pg_stat_get_tuples_inserted('job_attempt'::regclass)") };
my $before = $tried->();
ok(poll_until(sub { $tried->() >= $before + 2 }), '... and tried again');
is($logged->(), 1, '... but logged once');
$client->rows("DELETE FROM job_attempt WHERE job_id = $bad");
ok(within(10, sub { $client->value("SELECT lost FROM job_status WHERE id = $bad") == 1 }),
	'... and comes when what was wrong with it has been put right');

# A whole table that is locked.  A limit that is meant for clients is none for the worker.
if ($node->pg_version >= 17)
{
	$_->rows('SET transaction_timeout = 0') foreach $client, $other;
	$ENV{PGOPTIONS} = '-c transaction_timeout=0';
	$node->append_conf('postgresql.conf', 'transaction_timeout = 20ms');
	$node->reload;
}
my @workers = backend_pids($node, '^jobq worker$');
my $blocked = sub { scalar(backend_pids($node, '^jobq worker$', "wait_event_type = 'Lock'")) };
$near = $client->value(q{SELECT job_submit('x', run_at => now() + interval '0.2 s')});
$other->rows('BEGIN; LOCK TABLE job_scheduled, job_lease');
$id = $client->value(q{SELECT job_submit('x', queue => 'i', expires_at => now() + interval '0.3 s')});
ok(poll_until(sub { $blocked->() }) && poll_until(sub { !$blocked->() }) && poll_until(sub { $blocked->() }),
	'the worker waits for locked tables, and gives up, and waits again');
is_deeply([ backend_pids($node, '^jobq worker$') ], \@workers, '... and survives it');
$other->rows('COMMIT');
becomes($near, 'ready', '... and goes on when they are free');
becomes($id, 'cancelled', '... with all of it');
if ($node->pg_version >= 17)
{
	delete $ENV{PGOPTIONS};
	$node->append_conf('postgresql.conf', 'transaction_timeout = 0');
	$node->reload;
}

#
# Notifications
#

$other->rows('LISTEN "job_queue_n1"; LISTEN "job_queue_n2"; LISTEN "job_queue_n3"');

# The channels of the notifications that have come, in order, once this is among them.
sub notified_of
{
	my ($channel) = @_;
	my @channels;
	within(10, sub {
		$other->rows('SELECT 1');
		@channels = map { $_->[0] } @{ $other->{notifications} };
		return grep { $_ eq $channel } @channels;
	});
	return @channels;
}
$client->rows(q{SELECT job_queue_set('n2', notify => 'off')});
$client->rows(qq{SELECT job_submit('x', queue => 'n2'), job_submit('x', queue => 'n1'), job_submit('x', queue => 'n1')});
is_deeply([ notified_of('job_queue_n1') ], ['job_queue_n1'], 'a notification');
$client->rows(q{SELECT job_submit('x', queue => 'n3')});
is_deeply([ notified_of('job_queue_n3') ], [ 'job_queue_n1', 'job_queue_n3' ], '... one for a commit, none where switched off');
$other->{notifications} = [];
$client->rows("SELECT job_submit('x', queue => 'n1')") foreach 1 .. 300;
$client->rows(q{SELECT job_submit('x', queue => 'n3')});
my @channels = notified_of('job_queue_n3');
ok((grep { $_ eq 'job_queue_n3' } @channels), 'a notification after commits in a row');
cmp_ok(scalar(@channels), '<', 290, '... which are coalesced');
$other->{notifications} = [];
$client->rows("SELECT job_submit('x', queue => 'many' || n) FROM generate_series(1, 200) n; SELECT job_submit('x', queue => 'n3')");
ok((grep { $_ eq 'job_queue_n3' } notified_of('job_queue_n3')), 'more queues at once than are remembered');

#
# What nobody announced
#

$id = $client->value(q{SELECT job_submit('x', queue => 'p2')});
$client->rows('BEGIN');
claim('p2', '1 h');
my $r = $client->query("PREPARE TRANSACTION 'p'");
is("$r->{sqlstate} $r->{message}", '0A000 cannot PREPARE a transaction that has claimed jobs', 'a claim cannot be prepared');
is(state_of($id), 'ready', '... and is undone');
$client->rows('BEGIN; SAVEPOINT s');
claim('p2', '1 h');
$client->rows("ROLLBACK TO s; SELECT job_submit('x', queue => 'p2')");
is($client->query("PREPARE TRANSACTION 'p'")->{sqlstate}, undef, '... unless it was rolled back');
$client->rows("ROLLBACK PREPARED 'p'");

# A claim that met a locked job and got nothing can be; the job is there for others.
$client->rows(q{SELECT job_submit('x', queue => 'p3')});
$other->rows('BEGIN; SELECT FROM job_ready FOR UPDATE');
$client->rows('BEGIN');
is($client->value("SELECT count(*) FROM job_claim('p3')"), 0, 'a locked job is not claimed');
$client->rows("CREATE TABLE prepared (); PREPARE TRANSACTION 'p'");
$other->rows('ROLLBACK');
is($other->value("SELECT count(*) FROM job_claim('p3')"), 1, '... but by others, once it can be');
$client->rows("ROLLBACK PREPARED 'p'");

# The sweep finds what was written behind our back.
$node->append_conf('postgresql.conf', 'jobq.sweep_interval = 200ms');
$node->reload;
$id = $client->value(q{SELECT job_submit('x', run_at => now() + interval '1 h')});
$client->rows("UPDATE job_scheduled SET run_at = now() - interval '1 s' WHERE job_id = $id");
becomes($id, 'ready', 'the sweep finds what was changed by hand');
$node->append_conf('postgresql.conf', 'jobq.sweep_interval = 1h');
$node->reload;

# A worker that starts while the configuration is reloaded gets no signal.
$node->append_conf('postgresql.conf', 'jobq.sweep_interval = 300ms');
$client->rows("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE backend_type = 'jobq worker'");
poll_until(sub { backend_pids($node, '^jobq worker$', "state = 'idle'") });
$id = $client->value(q{SELECT job_submit('x', run_at => now() + interval '1 h')});
$client->rows("UPDATE job_scheduled SET run_at = now() - interval '1 s' WHERE job_id = $id");
becomes($id, 'ready', 'a worker begins with the configuration as it is');
$node->append_conf('postgresql.conf', 'jobq.sweep_interval = 1h');
$node->reload;

# It comes to an end, and begins again, where positions are far on.
$client->rows('CREATE DATABASE far');
my $far_away = JobqClient->new($node, dbname => 'far');
$far_away->rows('CREATE EXTENSION jobq');
$far_away->rows('ALTER SEQUENCE job_id_seq RESTART 9000000000000000000');
$far_away->rows("SELECT job_submit('x', priority => $_)") foreach 1, 2;
$far_away->rows('SELECT job_claim()');
$node->append_conf('postgresql.conf', 'jobq.sweep_interval = 200ms');
$node->reload;
foreach my $ago ('1 s', '1 h')    # the second is earlier than what the first sweep had come to
{
	$id = $far_away->value(q{SELECT job_submit('x', run_at => now() + interval '1 h')});
	$far_away->rows("UPDATE job_scheduled SET run_at = now() - interval '$ago' WHERE job_id = $id");
	ok(within(30, sub { $far_away->value("SELECT state FROM job_status WHERE id = $id") eq 'ready' }),
		"a sweep of positions that are far on, $ago");
}
$node->append_conf('postgresql.conf', 'jobq.sweep_interval = 1h');
$node->reload;
$far_away->disconnect;
$client->rows('DROP DATABASE far');

# Where it is not at home it does nothing, until somebody uses jobq.
$id = $client->value(q{SELECT job_submit('x', queue => 'home', run_at => now() + interval '0.5 s')});
my ($homeless) = backend_pids($node, '^jobq worker$');
$other->rows('TRUNCATE job_active_database');
$other->rows("SELECT pg_terminate_backend($homeless, 5000)");
ok(within(5, sub { my ($new) = backend_pids($node, '^jobq worker$', "state = 'idle'"); $new && $new != $homeless }), 'another worker');
ok(poll_until(sub { $client->value("SELECT now() > run_at + interval '0.2 s' FROM job WHERE id = $id") eq 't' }), '... when a job is due');
is(state_of($id), 'scheduled', '... does nothing away from home');
$client->rows(q{SELECT job_submit('x', queue => 'home')});
becomes($id, 'ready', '... which a session of before makes again');

#
# Idle, and crashes
#

$client->rows("SELECT job_cancel(id) FROM job_status WHERE state IN ('ready', 'scheduled', 'waiting', 'running')");
my ($worker) = backend_pids($node, '^jobq worker$');
my ($launcher) = backend_pids($node, '^jobq launcher$');
poll_until(sub { backend_pids($node, '^jobq worker$', "state = 'idle' AND state_change < now() - interval '0.5 s'") });
is($client->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $worker AND backend_xmin IS NULL AND backend_xid IS NULL AND state = 'idle'"),
	1, 'an idle worker holds no snapshot');
my ($w0, $l0) = (cpu($worker), cpu($launcher));
my $switches = sub { slurp_file("/proc/$worker/status") =~ /^voluntary_ctxt_switches:\s*(\d+)/m; $1 };
my $s0 = $switches->();
usleep(3_000_000);
cmp_ok(cpu($worker) - $w0 + cpu($launcher) - $l0, '<', 0.03, 'idle processes use no CPU');
cmp_ok($switches->() - $s0, '<=', 4, '... and do not wake') ;

$id = $client->value(q{SELECT job_submit('x', queue => 'z')});
# claims that shall outlive a crash
$client->rows('SET jobq.async_claim = off');
($job, $token) = claim('z', '3 s');
$client->rows("SELECT job_heartbeat($job, $token)");
kill('KILL', $worker);
ok(within(30, sub { !process_lives($worker) && ($client = JobqClient->new($node))
			&& eval { $client->value('SELECT 1') } }), 'the server comes back after kill -9');
is($client->value("SELECT job_heartbeat($job, $token)"), 't', '... and takes heartbeats on leases of before');
$id = $client->value(q{SELECT job_submit('x', queue => 'z2')});
$client->rows('SET jobq.async_claim = off');
($job, $token) = claim('z2', '2 s');
my $until = $client->value("SELECT extract(epoch FROM lease_until) FROM job_lease WHERE job_id = $id");
$client->disconnect;
$node->stop('immediate');
poll_until(sub { time > $until });
$node->start;
$client = JobqClient->new($node);
my $started = $client->value('SELECT pg_postmaster_start_time()');
is(state_of($id), 'running', 'a lease that ended while the server was down');
ok(within(10, sub { $client->value("SELECT lost FROM job_status WHERE id = $id") == 1 }), '... is lost later');
is($client->value("SELECT ended_at >= '$started'::timestamptz + '2 s' FROM job_attempts WHERE job_id = $id"), 't',
	'... after one period of grace');

invariants_hold($node, 'in the end');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:/, 'nothing bad in the log');
$client->disconnect;
$node->stop;

done_testing();
