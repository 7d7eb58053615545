# CALL job_wait and CALL job_claim_wait: waking, what a sleeper holds, and every
# way in which a wait ends.
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

my $node = jobq_node('wait', conf => <<'EOC');
max_prepared_transactions = 5
EOC
my $client = JobqClient->new($node);

sub client { return JobqClient->new($node, @_) // die 'no connection'; }

# Send a statement that waits, and wait until it does.
sub send_and_sleep
{
	my ($c, $sql) = @_;
	$c->send($sql);
	asleep($client, $c);
	return;
}

# The answer of a statement that waited, and how long it took from now.
sub answer
{
	my ($c) = @_;
	my $begin = time;
	my $r = $c->receive;
	return ($r, time - $begin);
}

my $w = client();
my ($r, $took);

# Wait for a wake-up that comes after those that there were to be before it.
my $last = client();
sub wake_another
{
	send_and_sleep($last, q{CALL job_claim_wait('last', 'w', '30 s')});
	$client->rows(q{SELECT job_submit('x', queue => 'last', lease => '1 h')});
	$last->receive;
	return;
}

#
# job_wait
#

my $id = $client->value(q{SELECT job_submit('x', queue => 'a')});
is_deeply([ $w->rows("CALL job_wait($id, '0')") ], [ [ 'ready', undef ] ], 'timeout 0 looks once');
my $begin = time;
is($w->value("CALL job_wait($id, '0.3 s')"), 'ready', 'when the time is out: the state it is in');
cmp_ok(time - $begin, '>=', 0.3, '... not before');

send_and_sleep($w, "CALL job_wait($id, NULL)");
my $pid = $w->pid;
is($client->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND backend_xmin IS NULL AND backend_xid IS NULL"),
	1, 'a sleeper holds neither snapshot nor transaction id');
is($client->value("SELECT count(*) FROM pg_locks WHERE pid = $pid AND locktype <> 'virtualxid'"), 0, '... nor locks');
$client->rows(q{SELECT job_complete(job_id, token, '{"a": 1}') FROM job_claim('a')});
($r, $took) = answer($w);
is_deeply($r->{rows}, [ [ 'succeeded', '{"a": 1}' ] ], 'woken when the job is decided, with its result');
cmp_ok($took, '<', stretched(0.5), '... at once');
is_deeply([ $w->rows("CALL job_wait($id, NULL)") ], [ [ 'succeeded', '{"a": 1}' ] ], 'a decided job needs no wait');

# Results that were toasted live through the commits.
my $big = $client->value(q{SELECT job_submit('x', queue => 'a')});
$client->rows(q{SELECT job_complete(job_id, token, (SELECT jsonb_agg(md5(n::text)) FROM generate_series(1, 3000) n)) FROM job_claim('a')});
is($w->value("CALL job_wait($big, '1 s')"), 'succeeded', 'a large result');

# Many who wait for one job, and one whose decision is rolled back.
$id = $client->value(q{SELECT job_submit('x', queue => 'b')});
my @w = map { client() } 1 .. 5;
send_and_sleep($_, "CALL job_wait($id, '30 s')") foreach @w;
my $other = client();
$other->rows(q{BEGIN; SELECT job_complete(job_id, token) FROM job_claim('b'); ROLLBACK});
wake_another();
is(scalar(grep { $_->answered } @w), 0, 'a decision that is rolled back wakes nobody');
$other->rows(q{SELECT job_cancel(} . $id . q{)});
is_deeply([ map { ($_->receive)->{rows}[0][0] } @w ], [ ('cancelled') x 5 ], 'all waiters of a job are woken');
$_->disconnect foreach @w;

# A cascade wakes those who wait for the children; the worker's acts wake too.
$id = $client->value(q{SELECT job_submit('x', queue => 'c')});
my $child = $client->value(qq{SELECT job_submit('x', queue => 'c', depends_on => ARRAY[$id])});
send_and_sleep($w, "CALL job_wait($child, '30 s')");
$client->rows("SELECT job_cancel($id)");
is(($w->receive)->{rows}[0][0], 'upstream_failed', 'a cascade wakes');
$id = $client->value(q{SELECT job_submit('x', expires_at => now() + interval '0.3 s')});
is($w->value("CALL job_wait($id, '30 s')"), 'cancelled', 'the background worker wakes');

# Many jobs decided in one transaction.
my @ids = map { $_->[0] } $client->rows(q{SELECT job_submit('x', queue => 'd') FROM generate_series(1, 1000)});
send_and_sleep($w, "CALL job_wait($ids[999], '30 s')");
$client->rows(q{SELECT job_complete_many(array_agg(job_id), array_agg(token)) FROM job_claim('d', max_jobs => 1000)});
is(($w->receive)->{rows}[0][0], 'succeeded', 'one of many decided at once');

# Prepared transactions announce nothing themselves.
$id = $client->value(q{SELECT job_submit('x', queue => 'e')});
$client->rows("BEGIN; SELECT job_cancel($id); PREPARE TRANSACTION 'p'");
send_and_sleep($w, "CALL job_wait($id, '30 s')");
$client->rows("COMMIT PREPARED 'p'");
($r, $took) = answer($w);
is($r->{rows}[0][0], 'cancelled', 'COMMIT PREPARED wakes');
cmp_ok($took, '<', stretched(1), '... at once');

foreach my $act ('cancel', 'hold')
{
	$id = $client->value("SELECT job_submit('x', queue => 'back$act')");
	$client->rows("BEGIN; SELECT job_$act($id); PREPARE TRANSACTION 'p'");
	send_and_sleep($w, "CALL job_claim_wait('back$act', 'w', '30 s')");
	$client->rows("ROLLBACK PREPARED 'p'");
	($r, $took) = answer($w);
	is($r->{rows}[0][0], $id, "ROLLBACK PREPARED of job_$act wakes who waits for the job");
	cmp_ok($took, '<', stretched(2), '... soon');
}
$client->rows("BEGIN; SELECT job_submit('x', queue => 'commit'); PREPARE TRANSACTION 'p'");
send_and_sleep($w, "CALL job_claim_wait('commit', 'w', '30 s')");
$client->rows("COMMIT PREPARED 'p'");
($r, $took) = answer($w);
is($r->{rows}[0][3], 'x', 'COMMIT PREPARED of job_submit does, too');
cmp_ok($took, '<', stretched(2), '... soon');

#
# Where it cannot wait
#

is($w->query("CALL job_wait($id, '-1 s')")->{sqlstate}, '22023', 'a negative timeout');
is($w->query("CALL job_wait(NULL, '1 s')")->{sqlstate}, '22004', 'no job');
is($w->query("CALL job_wait(1000000000, '1 s')")->{sqlstate}, 'JQ002', 'no such job');
is($w->query("CALL job_claim_wait('a b', 'w', '1 s')")->{sqlstate}, '22023', 'no such name');
is($w->query("CALL job_claim_wait(NULL, 'w', '1 s')")->{sqlstate}, '22004', 'no queue');
is($w->query("CALL job_claim_wait('a', 'w', '-1 s')")->{sqlstate}, '22023', 'a negative timeout');
is($w->query("CALL job_claim_wait('a', 'w', '0', '0')")->{sqlstate}, '22023', 'a lease of nothing');
foreach my $call ("job_wait($id, '1 s')", "job_claim_wait('a', 'w', '1 s')")
{
	# with variables for what it returns, as PL/pgSQL wants it
	my $block = $call =~ s/^(job_wait.*)\)/$1, t, j)/r =~ s/^(job_claim.*)\)/$1, NULL, b, b, i, t, j, j, t, z, b)/r;
	my $declare = 'DECLARE t text; j jsonb; b bigint; i int; z timestamptz;';
	$w->rows('BEGIN');
	$r = $w->query("CALL $call");
	is($r->{sqlstate}, '25001', "in a transaction block: $call");
	like($r->{message} . $r->{hint}, qr/cannot run inside a transaction block.*LISTEN/, '... with a hint');
	$w->rows('ROLLBACK');
	is($w->query("SELECT 1; CALL $call")->{sqlstate}, '25001', '... or behind another statement');
	is($w->query("DO \$\$$declare BEGIN BEGIN CALL $block; EXCEPTION WHEN division_by_zero THEN NULL; END; END\$\$")->{sqlstate},
		'25001', '... or in a block with an exception handler');
	$w->rows("CREATE OR REPLACE FUNCTION f() RETURNS void LANGUAGE plpgsql AS \$\$$declare BEGIN CALL $block; END\$\$");
	is($w->query('SELECT f()')->{sqlstate}, '25001', '... or in a function');
}

# It can in a procedure, whose transaction it commits.
$w->rows('CREATE TABLE done (state text, result jsonb)');
$w->rows("CREATE PROCEDURE p(id bigint) LANGUAGE plpgsql AS \$\$
DECLARE s text; r jsonb;
BEGIN
  INSERT INTO done VALUES ('begun');
  CALL job_wait(id, '30 s', s, r);
  INSERT INTO done VALUES (s, r);
END\$\$");
$id = $client->value(q{SELECT job_submit('x', queue => 'f')});
send_and_sleep($w, "CALL p($id)");
is($client->value('SELECT count(*) FROM done'), 1, 'in a procedure it commits first');
$client->rows(q{SELECT job_complete(job_id, token, '[2]') FROM job_claim('f')});
$w->receive;
is($client->value(q{SELECT result FROM done WHERE state = 'succeeded'}), '[2]', '... and returns to it');

#
# job_claim_wait
#

is_deeply([ $w->rows(q{CALL job_claim_wait('w', 'w', '0')}) ], [ [ (undef) x 9 ] ], 'nothing to claim');
$id = $client->value(q{SELECT job_submit('k', '{"a": 1}', queue => 'w')});
my ($job) = $w->rows(q{CALL job_claim_wait('w', 'worker 1', '0', '5 s')});
is_deeply([ @$job[ 0, 2, 3, 4, 5 ] ], [ $id, 1, 'k', '{"a": 1}', '{}' ], 'a job that is there');
is($client->value("SELECT worker || ' ' || (lease_until - started_at)::text FROM job_status WHERE id = $id"),
	'worker 1 00:00:05', '... is leased');
is($w->query("SELECT job_complete($job->[0], $job->[1])")->{sqlstate}, undef, '... and ours');

send_and_sleep($w, q{CALL job_claim_wait('w', 'w', '30 s')});
$id = $client->value(q{SELECT job_submit('k', queue => 'w')});
($r, $took) = answer($w);
is($r->{rows}[0][0], $id, 'woken by a job');
cmp_ok($took, '<', stretched(0.5), '... at once');
is($client->value("SELECT state FROM job_status WHERE id = $id"), 'running', '... which is claimed');

# Each job wakes one, in a burst too, and through savepoints.
@w = map { client() } 1 .. 6;
send_and_sleep($_, q{CALL job_claim_wait('w', 'w', '30 s')}) foreach @w;
$client->rows(q{BEGIN; SELECT job_submit('k', queue => 'w'); SAVEPOINT s; SELECT job_submit('k', queue => 'w');
	ROLLBACK TO s; SELECT job_submit('k', queue => 'w'); SAVEPOINT t; SELECT job_submit('k', queue => 'w'); RELEASE t; COMMIT});
my $n;
ok(within(5, sub { ($n = grep { $_->answered } @w) == 3 }), 'three jobs wake three') || diag($n);
wake_another();
is(scalar(grep { $_->answered } @w), 3, '... and no more');
$client->rows(q{SELECT job_submit('k', queue => 'w') FROM generate_series(1, 3)});
my %got = map { $_->receive->{rows}[0][0] => 1 } @w;
is(scalar(keys %got), 6, 'six jobs for six waiters');

# A job that becomes ready by the clock or by its parent, a queue that is resumed.
send_and_sleep($w, q{CALL job_claim_wait('x', 'w', '30 s')});
$id = $client->value(q{SELECT job_submit('k', queue => 'x', run_at => now() + '0.2 s')});
is($w->receive->{rows}[0][0], $id, 'woken by the clock');
$id = $client->value(q{SELECT job_submit('k', queue => 'y')});
$child = $client->value("SELECT job_submit('k', queue => 'x', depends_on => ARRAY[$id])");
send_and_sleep($w, q{CALL job_claim_wait('x', 'w', '30 s')});
$client->rows(q{SELECT job_complete(job_id, token) FROM job_claim('y')});
is($w->receive->{rows}[0][0], $child, 'woken by the end of a parent');
$client->rows(q{SELECT job_queue_set('x', paused => true)});
$id = $client->value(q{SELECT job_submit('k', queue => 'x')});
send_and_sleep($w, q{CALL job_claim_wait('x', 'w', '30 s')});
$client->rows(q{SELECT job_queue_set('x', paused => false)});
($r, $took) = answer($w);
is($r->{rows}[0][0], $id, 'woken when a queue is resumed');
cmp_ok($took, '<', stretched(1), '... at once');

# A claim that is undone, as a whole or by a savepoint, is there for others.
$id = $client->value(q{SELECT job_submit('k', queue => 'u')});
$other->rows('BEGIN');
$other->rows(q{SELECT job_claim('u')});
send_and_sleep($w, q{CALL job_claim_wait('u', 'w', '30 s')});
$other->rows('ROLLBACK');
($r, $took) = answer($w);
is($r->{rows}[0][0], $id, 'woken when a claim is rolled back');
cmp_ok($took, '<', stretched(1), '... at once');
$id = $client->value(q{SELECT job_submit('k', queue => 'u')});
$other->rows('BEGIN; SAVEPOINT s');
$other->rows(q{SELECT job_claim('u')});
send_and_sleep($w, q{CALL job_claim_wait('u', 'w', '30 s')});
$other->rows('ROLLBACK TO s');
($r, $took) = answer($w);
is($r->{rows}[0][0], $id, '... or to a savepoint');
cmp_ok($took, '<', stretched(1), '... at once');
$other->rows('COMMIT');

# A waiter that leaves passes its wake-up on.  The first is stopped, so that
# it is woken but cannot act on it.
my ($w1, $w2) = @w[ 0, 1 ];
send_and_sleep($w1, q{CALL job_claim_wait('z', 'w', '30 s')});
send_and_sleep($w2, q{CALL job_claim_wait('z', 'w', '30 s')});
kill('STOP', $w1->pid);
$id = $client->value(q{SELECT job_submit('k', queue => 'z')});
$client->rows('SELECT pg_terminate_backend(' . $w1->pid . ')');
wake_another();
ok(!$w2->answered, 'one job wakes one');
kill('CONT', $w1->pid);
ok($w2->answered(5), 'a waiter that leaves passes its wake-up on');
is($w2->receive->{rows}[0][0], $id, '... to the next');
$w1->receive;

#
# Ends
#

foreach my $call ("job_wait($child, NULL)", "job_claim_wait('nothing', 'w', NULL)")
{
	$w1 = client();
	send_and_sleep($w1, "CALL $call");
	$client->rows('SELECT pg_cancel_backend(' . $w1->pid . ')');
	($r, $took) = answer($w1);
	is($r->{sqlstate}, '57014', "cancel: $call");
	cmp_ok($took, '<', stretched(1), '... at once');
	$w1->rows("SET statement_timeout = '300ms'");
	is($w1->query("CALL $call")->{sqlstate}, '57014', 'statement_timeout');
	$w1->rows('RESET statement_timeout');

	$w1->send("CALL $call");
	asleep($client, $w1);
	$pid = $w1->pid;
	$w1->disconnect;
	ok(within(3, sub { $client->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 }),
		'a client that has gone');

	$w1 = client();
	send_and_sleep($w1, "CALL $call");
	$client->rows('SELECT pg_terminate_backend(' . $w1->pid . ')');
	($r, $took) = answer($w1);
	is($r->{sqlstate}, '57P01', 'terminated');
}

# A client that has gone gets no job.
$w1 = client();
send_and_sleep($w1, q{CALL job_claim_wait('lost', 'w', '30 s')});
$pid = $w1->pid;
kill('STOP', $pid);
$w1->disconnect;
$id = $client->value(q{SELECT job_submit('k', queue => 'lost')});
kill('CONT', $pid);
ok(within(5, sub { $client->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid") == 0 }), 'a client that goes as a job comes');
is($client->value("SELECT state || ' ' || attempt FROM job_status WHERE id = $id"), 'ready 0', '... does not get it');

# Dropping the extension under a waiter.
send_and_sleep($w, q{CALL job_claim_wait('nothing', 'w', '2 s')});
ok(!$client->query('DROP EXTENSION jobq CASCADE')->{sqlstate}, 'a waiter does not hold up DROP EXTENSION');
$r = $w->receive;
ok($r->{sqlstate}, '... and gets an error') || diag(explain $r);
$client->rows('CREATE EXTENSION jobq');

# Isolation levels
foreach my $level ('repeatable read', 'serializable')
{
	$w->rows("SET default_transaction_isolation = '$level'");
	send_and_sleep($w, q{CALL job_claim_wait('iso', 'w', '30 s')});
	is($client->value("SELECT count(*) FROM pg_stat_activity WHERE pid = " . $w->pid . ' AND backend_xmin IS NULL'), 1,
		"$level: no snapshot");
	$id = $client->value(q{SELECT job_submit('k', queue => 'iso')});
	is($w->receive->{rows}[0][0], $id, '... and woken');
}
$w->rows('RESET default_transaction_isolation');

# Workers in a crowd: every job is done once, none is left.
my $total = 400;
my @clients = start_clients(8, sub {
		my $c = client();
		my $done = 0;
		while (my ($j) = $c->rows(q{CALL job_claim_wait('crowd', 'w', '3 s')}))
		{
			last unless defined $j->[0];
			$c->rows("SELECT job_complete($j->[0], $j->[1])");
			$done++;
		}
		return $done;
	});
my $submitter = client();
foreach (1 .. $total / 4)
{
	$submitter->rows(q{SELECT job_submit('k', queue => 'crowd') FROM generate_series(1, 4)});
	usleep(int(rand(10_000)));
}
my $sum = 0;
$sum += $_ foreach finish_clients(60, @clients);
is($sum, $total, 'a crowd does every job once');

# A wake-up goes to the first that has the labels; one that takes another job passes it on.
my ($plain, $both, $gpu) = map { client() } 1 .. 3;
send_and_sleep($plain, q{CALL job_claim_wait('labels', 'w', '30 s')});
send_and_sleep($both, q{CALL job_claim_wait('labels', 'w', '30 s', labels => '{gpu,big}')});
send_and_sleep($gpu, q{CALL job_claim_wait('labels', 'w', '30 s', labels => '{gpu}')});
$client->rows(q{BEGIN; SELECT job_submit('gpu', queue => 'labels', requires => '{gpu}'); SELECT job_submit('big', queue => 'labels', requires => '{gpu,big}', priority => 1); COMMIT});
($r, $took) = answer($both);
is($r->{rows}[0][3], 'big', 'the first that has the labels is woken, and takes the best');
($r, $took) = answer($gpu);
is($r->{rows}[0][3], 'gpu', '... and the next gets the job that it was woken for');
cmp_ok($took, '<', stretched(5), '... at once');
$client->rows(q{SELECT job_submit('plain', queue => 'labels')});
is((answer($plain))[0]{rows}[0][3], 'plain', 'one without labels waits for what requires none');

# Shutdown ends all waits.
@w = map { client() } 1 .. 3;
send_and_sleep($_, q{CALL job_claim_wait('nothing', 'w', NULL)}) foreach @w;
$begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', stretched(3), 'waiters do not hold up shutdown');
is($w[0]->receive->{sqlstate}, '57P01', '... and are told');
unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:/, 'nothing bad in the log');

done_testing();
