# Session leases: lost when their session ends, however it ends, and not before.
# Workers: seen, draining, gone, and removed.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $sessions = 70;    # more than are remembered until the background worker looks
my $node = jobq_node('sessions', conf => <<'EOC');
max_connections = 120
restart_after_crash = on
jobq.sweep_interval = 1h
jobq.backoff = 1ms
jobq.max_lost = 1000
jobq.async_claim = off
EOC
my $c = JobqClient->new($node);

sub client { return JobqClient->new($node, @_) // die 'no connection'; }

# A client that holds a job for its session.
sub holder
{
	my ($queue, $worker) = @_;
	my $client = client();
	within(60, sub { $client->value("SELECT count(*) FROM job_claim('$queue', '$worker', 1, '1 s', session => true)") })
	  or die 'no job';
	return $client;
}

# Have a client run a query that takes long, and wait until it does.
sub sleeps
{
	my ($client) = @_;
	$client->send('SELECT pg_sleep(600)');
	poll_until(sub { $c->value(q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' AND pid = } . $client->pid) == 1 });
	return;
}

# How often a job was lost.
sub lost
{
	my ($id) = @_;
	return $c->value("SELECT count(*) FROM job_attempts WHERE job_id = $id AND outcome = 'lost' AND error = 'session ended'");
}

# End a session, and note how long it takes until its job is lost.
sub ends
{
	my ($id, $how, $end) = @_;
	my $before = lost($id);
	my $holder = holder('a', 'w');
	my $begin = time;
	$end->($holder);
	ok(within(60, sub { lost($id) == $before + 1 }), "lost: $how");
	note sprintf '%s: %.1f ms', $how, (time - $begin) * 1000;
	return;
}

#
# It lasts without heartbeats, and beyond any lease
#
my $id = $c->value(q{SELECT job_submit('j', queue => 'a')});
my $holder = holder('a', 'w');
clock_passes($c) for 1 .. 4;
$c->rows('SELECT pg_sleep(0.2)') until $c->value("SELECT clock_timestamp() > started_at + interval '1.1 s' FROM job_status WHERE id = $id") eq 't';
clock_passes($c);
is($c->value("SELECT state FROM job_status WHERE id = $id"), 'running', 'no heartbeat is needed');
is($c->value("SELECT state FROM job_worker_status WHERE worker = 'w'"), 'alive', '... and its worker is alive');
$holder->disconnect;
ok(within(60, sub { lost($id) == 1 }), 'the client closes its connection: lost');

#
# Every way in which a session ends
#
ends($id, 'terminated', sub { $c->rows('SELECT pg_terminate_backend(' . $_[0]->pid . ')') });
ends($id, 'DISCARD ALL', sub { $_[0]->rows('DISCARD ALL') });
ends($id, 'the client is gone', sub { $_[0]->disconnect });
ends($id, 'terminated in a transaction', sub {
	$_[0]->rows(q{BEGIN; SELECT job_submit('never')});
	$c->rows('SELECT pg_terminate_backend(' . $_[0]->pid . ')');
});
ends($id, 'terminated in a query', sub {
	sleeps($_[0]);
	$c->rows('SELECT pg_terminate_backend(' . $_[0]->pid . ')');
});

# a client that is killed
my $before = lost($id);
pipe(my $from, my $to);
my $pid = fork // die;
if ($pid == 0)
{
	my $holder = holder('a', 'w');
	syswrite $to, 'x';
	sleep 600;
	exit 0;
}
sysread $from, my $byte, 1;
my $begin = time;
kill 'KILL', $pid;
ok(within(60, sub { lost($id) == $before + 1 }), 'lost: the client is killed');
note sprintf 'the client is killed: %.1f ms', (time - $begin) * 1000;
waitpid $pid, 0;

# in the middle of a query the server notices a lost client only if it looks
$before = lost($id);
$holder = holder('a', 'w');
$holder->rows("SET client_connection_check_interval = '20ms'");
sleeps($holder);
$begin = time;
$holder->disconnect;
ok(within(60, sub { lost($id) == $before + 1 }), 'lost: the client is gone in the middle of a query, with client_connection_check_interval');
note sprintf 'in the middle of a query: %.1f ms', (time - $begin) * 1000;

# another session than that which holds it
$holder = holder('a', 'w');
my ($job, $token) = @{ ($c->rows("SELECT job_id, token FROM job_lease WHERE job_id = $id"))[0] };
is($c->value("SELECT job_heartbeat($job, $token)"), 't', 'another session may send heartbeats');
$c->rows("SELECT job_release($job, $token)");
$holder->disconnect;
clock_passes($c);
is($c->value("SELECT state FROM job_status WHERE id = $id"), 'ready', '... and end the attempt; the end of the session is nothing then');

# the timeout of the attempt
my $timed = $c->value(q{SELECT job_submit('j', queue => 'timed', timeout => '200 ms', max_attempts => 1)});
$holder = holder('timed', 'w');
ok(within(60, sub { ($c->value("SELECT error FROM job_status WHERE id = $timed") // '') eq 'timed out' }), 'the timeout of an attempt ends it');
$holder->disconnect;

#
# Many at once, and many jobs of one session
#
$c->rows("SELECT count(job_submit('j', queue => 'many', max_lost => 1)) FROM generate_series(1, $sessions + 1500)");
my @holders = map { client() } 1 .. $sessions;
$_->rows(q{SELECT count(*) FROM job_claim('many', 'w', 1, session => true)}) foreach @holders;
my $all = client();
is($all->value(q{SELECT count(*) FROM job_claim('many', 'all', 1500, session => true)}), 1500, 'one session holds many');
my $stays = holder('a', 'stays');
is($c->value(q{SELECT count(*) FROM job_lease WHERE queue_id = job_queue_id('many')}), $sessions + 1500, 'all are held');
# the background worker cannot look meanwhile
my $lock = client();
$lock->rows('BEGIN; LOCK TABLE job_lease IN SHARE MODE');
$c->rows('SELECT pg_terminate_backend(' . $_->pid . ')') foreach @holders;
poll_until(sub { $c->value('SELECT count(*) FROM pg_stat_activity WHERE pid IN (' . join(',', map { $_->pid } @holders) . ')') == 0 });
$lock->rows('COMMIT');
ok(within(60, sub { $c->value(q{SELECT count(*) FROM job_lease WHERE queue_id = job_queue_id('many')}) == 1500 }), 'many sessions that end at once are all noticed');
$begin = time;
$all->disconnect;
ok(within(60, sub { $c->value(q{SELECT count(*) FROM job_lease WHERE queue_id = job_queue_id('many')}) == 0 }), 'all jobs of a session are lost');
note sprintf '1500 jobs of a session: %.0f ms', (time - $begin) * 1000;
is($c->value("SELECT state FROM job_status WHERE id = $id"), 'running', 'one of a session that lives is not');

#
# The server
#
$before = lost($id);
my $plain = $c->value(q{SELECT job_submit('j', queue => 'plain')});
$c->rows(q{SELECT job_claim('plain', 'plain', lease => '1 h')});
kill 'KILL', $stays->pid;
# the connections are lost on the way
ok(within(60, sub { eval { $c->connect && lost($id) == $before + 1 } }), 'lost: the backend is killed, and the server starts anew');
is($c->value("SELECT state FROM job_status WHERE id = $plain"), 'running', '... at which other leases get a whole period');
$before = lost($id);
$stays = holder('a', 'w');
$node->restart;
ok($c->connect, 'connected again');
ok(within(60, sub { lost($id) == $before + 1 }), 'lost: the server is restarted');
$before = lost($id);
$stays = holder('a', 'w');
$node->stop('immediate');
$node->start;
ok($c->connect, 'connected again');
ok(within(60, sub { lost($id) == $before + 1 }), 'lost: the server is stopped at once');

#
# Workers
#

# a worker that waits is here, however long, and after that it is not
my $waiter = client();
$waiter->send(q{CALL job_claim_wait('nothing', 'waits', NULL, '10 ms')});
asleep($c, $waiter);
$c->rows(q{SELECT job_worker_register('waits'), job_worker_register('drains')});
clock_passes($c);
is($c->value(q{SELECT state FROM job_worker_status WHERE worker = 'waits'}), 'alive', 'one that waits is alive');
$waiter->disconnect;
ok(within(60, sub { $c->value(q{SELECT state FROM job_worker_status WHERE worker = 'waits'}) eq 'gone' }),
	'one that has vanished is gone when three times its lease is over');
cmp_ok($c->value(q{SELECT extract(epoch FROM clock_timestamp() - last_seen) FROM job_worker_status WHERE worker = 'waits'}), '>=', 0.03, '... and not before');

# one that begins to drain while it waits: what wakes it wakes another, and when it drains no more it goes on
my @waiters = map { client() } 1, 2;
$waiters[0]->send(q{CALL job_claim_wait('d', 'drains', NULL)});
asleep($c, $waiters[0]);
$waiters[1]->send(q{CALL job_claim_wait('d', 'other', NULL)});
asleep($c, @waiters);
$c->rows(q{SELECT job_worker_drain('drains')});
$c->rows(q{SELECT job_submit('first', queue => 'd')});
is($waiters[1]->receive->{rows}[0][3], 'first', 'a worker that drains passes its wake-up on');
$c->rows(q{SELECT job_submit('second', queue => 'd')});
clock_passes($c);
is($c->value(q{SELECT state FROM job_status WHERE queue = 'd' AND kind = 'second'}), 'ready', '... gets nothing');
is($c->value(q{SELECT state FROM job_worker_status WHERE worker = 'drains'}), 'alive', '... is alive');
$c->rows(q{SELECT job_worker_drain('drains', false)});
is($waiters[0]->receive->{rows}[0][3], 'second', '... and goes on when it drains no more');
# begun while it drains
$c->rows(q{SELECT job_worker_drain('drains')});
$waiters[0]->send(q{CALL job_claim_wait('d', 'drains', NULL)});
asleep($c, $waiters[0]);
$c->rows(q{SELECT job_submit('third', queue => 'd')});
$c->rows(q{SELECT job_worker_unregister('drains')});
is($waiters[0]->receive->{rows}[0][3], 'third', 'to unregister ends it, too');

# the sweep writes when they were seen, and removes those that were not for a day
$c->rows(q{SELECT job_worker_register('seen'), job_worker_register('forgotten'), job_worker_register('locked')});
$c->rows(q{UPDATE job_worker SET seen_at = seen_at - interval '2 days'});
# a restart is what makes those unseen
$node->restart;
$c->connect;
$c->rows(q{SELECT job_claim('nothing', 'seen')});
$lock = client();
$lock->rows(q{BEGIN; SELECT FROM job_worker WHERE worker = 'locked' FOR UPDATE});
$c->rows(q{ALTER SYSTEM SET jobq.sweep_interval = '100ms'});
$c->rows('SELECT pg_reload_conf()');
ok(within(60, sub { $c->value(q{SELECT string_agg(worker, ' ' ORDER BY worker) FROM job_worker}) eq 'locked seen' }), 'workers that were not seen for long are forgotten');
is($c->value(q{SELECT seen_at > now() - interval '1 h' FROM job_worker WHERE worker = 'seen'}), 't', '... others are written down');
$lock->rows('ROLLBACK');
ok(within(60, sub { $c->value(q{SELECT count(*) FROM job_worker}) == 1 }), '... and one that was locked with the next sweep');

# more names than there is room for
$node->append_conf('postgresql.conf', 'jobq.max_workers = 8');
$node->restart;
$c->connect;
$c->rows(q{SELECT c.job_id FROM generate_series(1, 100) n, job_claim('nothing', 'w' || n) c});
is($c->value(q{SELECT used FROM job_memory WHERE part = 'workers'}), 8, 'names without room are not noted');
my $late = $c->value(q{SELECT job_submit('j', queue => 'late')});
$c->rows(q{SELECT job_claim('late', 'late')});
is($c->value(q{SELECT state FROM job_worker_status WHERE worker = 'late'}), 'alive', '... but they are seen while they run jobs');
is($c->value('SELECT count(*) FROM job_check()'), 0, 'the tables are sound');

$node->stop;
done_testing();
