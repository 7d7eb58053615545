# Jobs that are kept for the worker that was the last to run one with their affinity:
# woken for them, waited for so long, not when it was not seen for a minute, nor after
# a crash; each worker gets its own under a load, also behind a gate.
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

my $node = jobq_node('affinity', conf => <<'EOC');
restart_after_crash = on
jobq.sweep_interval = 1h
EOC
my $c = JobqClient->new($node);

sub client { return JobqClient->new($node, @_) // die 'no connection'; }

# A worker runs a job of an affinity.
sub runs
{
	my ($worker, $queue, $affinity) = @_;
	$c->rows("SELECT job_submit('first', queue => '$queue', affinity => '$affinity')");
	ok($c->value("SELECT count(job_complete(job_id, token)) FROM job_claim('$queue', '$worker', 10)") > 0, "$worker runs a job of affinity $affinity");
	return;
}

# One that sleeps until it gets a job of a queue.
sub waits
{
	my ($worker, $queue) = @_;
	my $client = client();
	$client->send("CALL job_claim_wait('$queue', '$worker', '10 min')");
	asleep($c, $client);
	return $client;
}

# The kind of the job that it gets.
sub got { return $_[0]->receive->{rows}[0][3]; }

#
# Nobody is waited for that was not seen in the last minute: its end is below
#
$c->rows(q{SELECT job_queue_set('minute', affinity_wait => '1 hour')});
runs('away', 'minute', 'a');
my $last_seen = time;
my $stays = waits('here', 'minute');
$c->rows(q{SELECT job_submit('kept', queue => 'minute', affinity => 'a')});

#
# A wake-up for a job goes to the worker that it is kept for, whoever came first
#
$c->rows(q{SELECT job_queue_set('wake', affinity_wait => '1 hour')});
runs('w1', 'wake', 'a');
my $w2 = waits('w2', 'wake');
my $w1 = waits('w1', 'wake');
$c->rows(q{SELECT job_submit('its', queue => 'wake', affinity => 'a')});
is(got($w1), 'its', 'the worker that waits is woken for a job that is kept for it');
$c->rows(q{SELECT job_submit('any', queue => 'wake')});
is(got($w2), 'any', '... and another that waits longer is not');
# it is busy now: the next waits for it, and is had by a claim of its name
$c->rows(q{SELECT job_submit('next', queue => 'wake', affinity => 'a')});
is($c->value(q{SELECT count(*) FROM job_claim('wake', 'w2')}), 0, 'while it is busy others do not get the next');
is($c->value(q{SELECT kind FROM job_claim('wake', 'w1')}), 'next', '... which it gets by a claim');

#
# When the time is over, who waits is woken, and not before
#
$c->rows(q{SELECT job_queue_set('wake', affinity_wait => '300 ms')});
$w2 = waits('w2', 'wake');
my $begin = time;
$c->rows(q{SELECT job_submit('late', queue => 'wake', affinity => 'a')});
is(got($w2), 'late', 'another that waits is woken when affinity_wait is over');
cmp_ok(time - $begin, '>=', 0.3, '... not before');

#
# Two sessions of one worker
#
$c->rows(q{SELECT job_queue_set('wake', affinity_wait => '1 hour')});
my @both = map { waits('w2', 'wake') } 1 .. 2;
$c->rows(q{SELECT job_submit(k, queue => 'wake', affinity => 'a') FROM unnest(ARRAY['one', 'two']) k});
is_deeply([ sort map { got($_) } @both ], [ 'one', 'two' ], 'all sessions of a worker get what is kept for it');

#
# Very many are kept for a worker that goes
#
$c->rows(q{SELECT job_queue_set('many', affinity_wait => '1 hour')});
$c->rows(q{SELECT job_worker_register(w) FROM unnest(ARRAY['goes', 'stays']) w});
runs('goes', 'many', 'a');
$c->rows(q{SELECT job_submit('k', queue => 'many', affinity => 'a') FROM generate_series(1, 1500)});
$c->rows(q{SELECT job_worker_drain('stays')});
is($c->value(q{SELECT count(*) FROM job_claim('many', 'w3', 10)}), 0, 'others get none of them');
$c->rows(q{SELECT job_worker_drain('goes')});
my $got = 0;
ok(within(60, sub { ($got += $c->value(q{SELECT count(*) FROM job_claim('many', 'w3', 1500)})) == 1500 }), 'when it drains they go to another');

#
# What an earlier time that a job was kept has left is not taken for the present one
#
$c->rows(q{SELECT job_worker_register('w4')});
runs('w4', 'many', 'b');
my $released = $c->value(q{SELECT job_submit('k', queue => 'many', affinity => 'b')});
$c->rows(q{SELECT job_queue_set('many', affinity_wait => '200 ms')});
$c->rows(q{SELECT job_release(job_id, token) FROM job_claim('many', 'w4')});
$c->rows(q{SELECT job_worker_drain('goes', false)});    # has all that is kept looked at
ok(within(60, sub { $c->value(q{SELECT count(*) FROM job_claim('many', 'w3')}) == 1 }), 'the time of a job that was kept before, for longer, ends too');

#
# Under a load, with a limit and without, each worker gets its own, in no other's place
#
my $workers = 4;
my $keys = 12;
my $jobs = 40;
foreach my $queue ('load', 'load_limit')
{
	$c->rows("SELECT job_queue_set('$queue', affinity_wait => '1 hour')");
	$c->rows("SELECT job_queue_set('$queue', max_running => 3)") if $queue eq 'load_limit';
	foreach my $key (1 .. $keys)
	{
		$c->rows("SELECT job_submit('first', queue => '$queue', affinity => 'k$key')");
		my $worker = 'load' . $key % $workers;
		poll_until(sub { $c->value("SELECT count(job_complete(job_id, token)) FROM job_claim('$queue', '$worker')") == 1 });
	}
	run_clients(180, $workers, sub {
		my ($i) = @_;
		my $client = client();
		my $done = 0;
		my $rounds = $jobs * $keys / $workers;
		while ($done < $rounds)
		{
			$client->rows("SELECT job_submit('work', queue => '$queue', affinity => 'k' || 1 + floor(random() * $keys)::int) FROM generate_series(1, 5)") if $done % 5 == 0 && $done < $rounds;
			$client->rows("SELECT job_complete(job_id, token) FROM job_claim('$queue', 'load$i')");
			$done++;
		}
		# what the others still submit for it
		$client->rows("SELECT job_complete(job_id, token) FROM job_claim('$queue', 'load$i')")
		  while $client->value("SELECT count(*) FROM job_status WHERE queue = '$queue' AND state <> 'succeeded' LIMIT 1") > 0;
		return 1;
	});
	is($c->value("SELECT count(*) FROM job_status WHERE queue = '$queue' AND state <> 'succeeded'"), 0, "$queue: all are done");
	is($c->value("SELECT count(*) FROM (SELECT affinity FROM job_status WHERE queue = '$queue' GROUP BY affinity HAVING count(DISTINCT worker) > 1) a"),
		0, '... those of an affinity by one worker');
	is($c->value("SELECT count(DISTINCT worker) FROM job_status WHERE queue = '$queue'"), $workers, '... and each has run some');
}

#
# Nobody is waited for that was not seen in the last minute
#
is(got($stays), 'kept', 'a worker that was not seen for a minute is not waited for');
cmp_ok(time - $last_seen, '>=', 59, '... but for a minute');
is_deeply([ $c->rows(q{SELECT state, worker FROM job_status WHERE queue = 'minute' AND kind = 'kept'}) ], [ [ 'running', 'here' ] ], '... and another runs it');

#
# A crash forgets who was the last, and what was kept goes to any worker
#
runs('w1', 'minute', 'b');
$c->rows(q{SELECT job_submit('before', queue => 'minute', affinity => 'b')});
is($c->value(q{SELECT count(*) FROM job_claim('minute', 'w2')}), 0, 'kept before a crash');
my $victim = client();
kill('KILL', $victim->pid);
# the connection can still be lost by it
ok(poll_until(sub { ($c->connected || $c->connect) && eval { $c->value(q{SELECT count(*) FROM job_claim('minute', 'w2')}) == 1 } }),
	'after a crash any worker gets it');

#
# More affinities than there is room for: of those that are forgotten jobs go to any worker
#
$node->append_conf('postgresql.conf', 'jobq.max_affinities = 8');
$node->restart;
$c->connect;
foreach my $round (1, 2)
{
	$c->rows("SELECT job_submit('many', queue => 'minute', affinity => 'm' || n) FROM generate_series(1, 50) n");
	is($c->value(q{SELECT count(*) FROM job_kept k JOIN job_ready r USING (job_id, position)}), 8 * $round - 8, "round $round: those are kept that are known");
	$c->rows(q{SELECT job_complete(job_id, token) FROM job_claim('minute', 'w1', 100)});
}
is($c->value(q{SELECT used FROM job_memory WHERE part = 'affinities'}), 8, 'as many are known as there is room for');
is($c->value(q{SELECT count(*) FROM job_status WHERE kind = 'many' AND state = 'succeeded'}), 100, '... and all jobs run');
tables_are_sound($node);

$node->stop;
done_testing();
