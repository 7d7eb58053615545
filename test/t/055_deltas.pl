# What is left to the background worker (deltas, recounts, requests to cancel) outlives it, the server, and the session that left it: nothing is
# lost, and all of it is done soon.  And a wide join beside an old snapshot.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

# no sweep of the worker's own accord shall find what it should have been told
my $node = jobq_node('deltas', conf => <<'EOC');
restart_after_crash = on
max_prepared_transactions = 5
jobq.sweep_interval = 1h
EOC
my $c = JobqClient->new($node, name => 'control');
my $other = JobqClient->new($node, name => 'other');

my $left = 'SELECT (SELECT count(*) FROM job_delta), (SELECT count(*) FROM job_recount), (SELECT count(*) FROM job_cancel_request)';

sub left
{
	return join ' ', map { $_ // '' } @{ ($c->rows($left))[0] };
}

sub settled
{
	return poll_until(sub { left() eq '0 0 0' });
}

# The first time that a worker works is when there is something to do.
sub worker
{
	my @pids;
	$c->rows("SELECT job_submit('wake', queue => 'wake', run_at => now() + interval '1 ms')");
	poll_until(sub { @pids = backend_pids($node, 'jobq worker', "datname = 'postgres'"); @pids == 1 }) or die 'no worker';
	return $pids[0];
}

sub state
{
	my ($id) = @_;
	return $c->value("SELECT state FROM job_status WHERE id = $id");
}

# A wide join, a narrow one whose row somebody has locked, a child whose parent is retried then, and a job that runs and is cancelled: while
# the worker stands still each leaves something behind.  Returns what there is to be seen, and what becomes of it.
my $round = 0;

sub leave_behind
{
	my ($n) = @_;
	my $q = 'q' . ++$round;
	my ($wide, $narrow, $again, $parent, $cancelled) = @{ ($c->rows(<<EOQ))[0] };
WITH p AS MATERIALIZED (SELECT job_submit('p', queue => '$q', lease => '1 h') AS id FROM generate_series(1, 70)),
	parent AS MATERIALIZED (SELECT job_submit('parent', queue => '${q}_parent', lease => '1 h') AS id, job_submit('r', queue => '${q}_r', lease => '1 h') AS r),
	a AS MATERIALIZED (SELECT array_agg(id) AS ids FROM p)
SELECT job_submit('wide', queue => '${q}_c', depends_on => ids), job_submit('narrow', queue => '${q}_c', depends_on => ids[1:2]),
	job_submit('again', queue => '${q}_c', depends_on => ARRAY[parent.id]), parent.id, parent.r FROM a, parent
EOQ
	my $tokens = join ',', map { "($_->[0]::bigint, $_->[1]::bigint)" } $c->rows("SELECT job_id, token FROM job_claim('$q', max_jobs => 70)");
	$c->rows("SELECT job_fail(job_id, token, retry => false) FROM job_claim('${q}_parent')");
	$c->rows("SELECT * FROM job_claim('${q}_r')");
	my $pid = worker();
	settled() or die 'not settled';
	poll_until(sub { $c->value("SELECT count(*) FROM pg_stat_activity WHERE pid = $pid AND wait_event_type = 'Extension'") == 1 }) or die 'worker does not sleep';
	kill('STOP', $pid) == 1 or die "$pid: $!";

	$other->rows("BEGIN; SELECT FROM job_waiting WHERE job_id = $narrow FOR UPDATE; SELECT FROM job WHERE id = $again FOR UPDATE");
	$c->rows("SELECT job_complete(id, token) FROM (VALUES $tokens) v(id, token)");
	$c->rows("SELECT job_retry($parent)");
	$c->rows("SELECT job_cancel($cancelled)");
	$other->rows('COMMIT');
	is(left(), '72 1 1', "$round: there is something left behind");
	is(join(' ', map { state($_) } $wide, $narrow, $again), 'waiting waiting upstream_failed', "$round: and nothing is done");
	return ($pid, sub {
		settled() or diag('left: ' . left());
		is(left(), '0 0 0', "$round: nothing is left behind");
		is(join(' ', map { state($_) } $wide, $narrow, $again), 'ready ready waiting', "$round: and all is done");
		is($c->value("SELECT cancel_requested FROM job_status WHERE id = $cancelled"), 't', "$round: the request has arrived");
		invariants_hold($node, "round $round");
	});
}

sub connect_again
{
	# those of before the crash may live on for a moment
	foreach my $pid (map { $_->pid } $c, $other)
	{
		poll_until(sub { !process_lives($pid) }) or die 'a connection has survived';
	}
	poll_until(sub { $_->connect }) or die 'no connection' foreach $c, $other;
	return;
}

#
# The worker goes on; it dies, and with it all others; the server does
#
my ($pid, $done) = leave_behind();
kill('CONT', $pid);
$done->();

($pid, $done) = leave_behind();
kill('KILL', $pid);
poll_until(sub { !process_lives($pid) });
connect_again();
$done->();

($pid, $done) = leave_behind();
$node->stop('immediate');
$node->start;
connect_again();
$done->();

# it is killed wherever it is just then, a few times
my ($p, $join) = @{ ($c->rows(<<'EOQ'))[0] };
WITH p AS MATERIALIZED (SELECT job_submit('p', queue => 'killed', lease => '1 h') AS id FROM generate_series(1, 2000))
SELECT count(*), job_submit('c', queue => 'killed_c', depends_on => array_agg(id)) FROM p
EOQ
foreach my $i (1 .. 4)
{
	my @jobs = $c->rows("SELECT job_id, token FROM job_claim('killed', max_jobs => 500)");
	my $last = pop @jobs;
	$c->rows("SELECT job_complete($_->[0], $_->[1])") foreach @jobs;
	$c->rows("SELECT job_complete($last->[0], $last->[1])") if $i < 4;
	$pid = worker();
	kill('KILL', $pid);
	poll_until(sub { !process_lives($pid) });
	connect_again();
	$c->rows("SELECT job_complete($last->[0], $last->[1])") if $i == 4;
}
ok(settled(), 'nothing is left behind by kills under load');
is(state($join), 'ready', 'and nothing is lost');

#
# Transactions that are prepared
#
sub prepare
{
	my ($name) = @_;
	my ($wide) = @{ ($c->rows(<<EOQ))[0] };
WITH p AS MATERIALIZED (SELECT job_submit('p', queue => '$name') AS id FROM generate_series(1, 70))
SELECT job_submit('wide', queue => '${name}_c', depends_on => array_agg(id)) FROM p
EOQ
	my $tokens = join ',', map { "($_->[0]::bigint, $_->[1]::bigint)" } $c->rows("SELECT job_id, token FROM job_claim('$name', max_jobs => 70)");
	$other->rows("BEGIN; SELECT job_complete(id, token) FROM (VALUES $tokens) v(id, token)");
	$other->rows("PREPARE TRANSACTION '$name'");
	return $wide;
}
my %wide = map { $_ => prepare($_) } qw(committed rolled_back restarted);
is(left(), '0 0 0', 'what is prepared is not there yet');
$other->rows("ROLLBACK PREPARED 'rolled_back'");
$c->rows("COMMIT PREPARED 'committed'");
ok(poll_until(sub { state($wide{committed}) eq 'ready' }), 'what was prepared is counted when that is committed');
is(state($wide{rolled_back}), 'waiting', 'and not when it is rolled back');
$node->stop('immediate');
$node->start;
connect_again();
worker();
is(state($wide{restarted}), 'waiting', 'it is still prepared after a crash');
$c->rows("COMMIT PREPARED 'restarted'");
ok(poll_until(sub { state($wide{restarted}) eq 'ready' }), 'and counted when it is committed');
invariants_hold($node, 'after prepared transactions');

#
# A wide join beside a held snapshot: eight sessions, one call each
#
my $parents = 5000;
my $big = $c->value(<<EOQ);
WITH p AS MATERIALIZED (SELECT job_submit('p', queue => 'big', lease => '1 h') AS id FROM generate_series(1, $parents))
SELECT job_submit('c', queue => 'big_c', depends_on => array_agg(id)) FROM p
EOQ
$other->rows('BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT count(*) FROM job_delta');
my $begin = time;
my $completed = 0;
$completed += $_ foreach run_clients(180, 8, sub {
	my $client = JobqClient->new($node);
	my $n = 0;
	while (my @jobs = $client->rows("SELECT job_id, token FROM job_claim('big', max_jobs => 10)"))
	{
		foreach my $job (@jobs)
		{
			$client->rows("SELECT job_complete($job->[0], $job->[1])");
			$n++;
		}
	}
	return $n;
});
is($completed, $parents, 'all of the parents are completed');
my $end = time;
ok(poll_until(sub { state($big) eq 'ready' }), 'the child is ready beside a held snapshot');
note(sprintf('%d parents in %.1f s, their child %.0f ms after', $parents, $end - $begin, 1000 * (time - $end)));
is(left(), '0 0 0', 'nothing is left');
invariants_hold($node, 'beside a held snapshot');
$other->rows('COMMIT');

#
# An open submission locks the rows of jobs that its jobs depend on: what decides these waits without keeping others, or the log
#
$c->rows(<<'EOQ');
DO $$
DECLARE
	p bigint := job_submit('p', queue => 'open');
BEGIN
	CREATE TEMP TABLE w AS SELECT job_submit('w', queue => 'open_w', depends_on => ARRAY[p]) AS id FROM generate_series(1, 600);
END $$
EOQ
$c->rows('BEGIN');
$c->rows("SELECT count(job_submit('below', queue => 'open_w', depends_on => ARRAY[id])) FROM w");
$c->rows('SAVEPOINT s');
my $log = -s $node->logfile;
$other->rows("SELECT job_fail(job_id, token, retry => false) FROM job_claim('open')");
cmp_ok($other->value('SELECT count(*) FROM job_delta'), '>=', 600, 'while somebody submits below them, jobs are decided later');
my $due = $other->value("SELECT job_submit('due', queue => 'due', run_in => '20 ms')");
ok(poll_until(sub { $other->value("SELECT state FROM job_status WHERE id = $due") eq 'ready' }), 'others go on');
$c->rows('COMMIT');
ok(settled(), 'they are decided when it is committed');
is($c->value("SELECT count(*) FROM job_status WHERE queue = 'open_w' AND state = 'upstream_failed'"), 1200, 'with those below');
unlike(slurp_file($node->logfile, $log), qr/could not count/, 'the log has nothing of it');
invariants_hold($node, 'after an open submission');

#
# How long it takes from the last end to ready
#
my @took;
foreach my $i (1 .. 30)
{
	my $child = $c->value(<<EOQ);
WITH p AS MATERIALIZED (SELECT job_submit('p', queue => 'soon') AS id FROM generate_series(1, 64))
SELECT job_submit('c', queue => 'soon_c', depends_on => array_agg(id)) FROM p
EOQ
	my @jobs = $c->rows("SELECT job_id, token FROM job_claim('soon', max_jobs => 64)");
	my $last = pop @jobs;
	$c->rows('SELECT count(*) FROM job_complete_many(ARRAY[' . join(',', map { $_->[0] } @jobs) . ']::bigint[], ARRAY['
		  . join(',', map { $_->[1] } @jobs) . ']::bigint[])');
	settled() or die 'not settled';
	$c->rows("SELECT job_complete($last->[0], $last->[1])");
	poll_until(sub { state($child) eq 'ready' }) or die 'not ready';
	push @took, $c->value("SELECT extract(epoch FROM since - (SELECT finished_at FROM job WHERE id = $last->[0])) * 1000 FROM job_ready WHERE job_id = $child");
}
@took = sort { $a <=> $b } @took;
note(sprintf('from the last end to ready: median %.1f ms, at most %.1f ms', $took[15], $took[-1]));
cmp_ok($took[0], '<', 1000 * stretched(1), 'a wide join is soon ready');
invariants_hold($node, 'at the end');
tables_are_sound($node, 'at the end');

done_testing();
