# The clock is set forward and back: what is measured from now goes on, what is a
# time of day follows.  jobq.clock_offset stands for the clock of the machine.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $limit = $PostgreSQL::Test::Utils::timeout_default;
my ($node, $c);

# Send heartbeats for all jobs of a worker, for some seconds.
sub beat
{
	my ($worker, $seconds) = @_;
	for (my $end = time + $seconds; time < $end; usleep(100_000))
	{
		$c->rows("SELECT job_heartbeat(job_id, token) FROM job_lease WHERE worker = '$worker'");
	}
	return;
}

# More leases than memory has room for, too: then the rows alone count.
foreach my $leases (20, 900)
{
	$node = jobq_node("clock$leases", conf => "jobq.max_heartbeats = 1\njobq.sweep_interval = 500ms");
	$c = JobqClient->new($node);
	my $claim = sub {
		my ($queue, $options) = @_;
		$c->rows("SELECT job_submit('$queue', queue => '$queue', max_lost => 1, max_attempts => 1, $options) FROM generate_series(1, $leases)");
		return $c->rows("SELECT job_id, token FROM job_claim('$queue', '$queue', $leases)");
	};

	is(scalar($claim->('alive', "lease => '5 s', timeout => '1 min'")), $leases, "$leases leases");
	set_clock($c, 120_000);
	beat('alive', 6);
	is($c->value("SELECT count(*) FROM job_status WHERE queue = 'alive' AND state = 'running' AND attempt = 1"),
		$leases, 'two minutes forward: whoever is alive keeps its job');
	is($c->value("SELECT count(*) FROM job_status WHERE queue = 'alive' AND lease_until - clock_timestamp() - interval '2 min' BETWEEN '1 s' AND '5 s'"),
		$leases, 'and the view shows the time of day');
	is($c->value("SELECT count(*) FROM (SELECT lease_until - clock_timestamp() AS l FROM job_submit('k', queue => 'later'), job_claim('later', lease => '1 min')) x WHERE l BETWEEN '175 s' AND '181 s'"),
		1, 'as a claim does');
	$c->rows("SELECT job_complete(job_id, token) FROM job_lease WHERE worker = 'alive'");
	is($c->value("SELECT count(*) FROM job_attempts WHERE outcome <> 'succeeded'"), 0, 'no job was run twice');

	# back by an hour
	$claim->('dead', "lease => '2 s'");
	$claim->('timed', "lease => '10 min', timeout => '3 s'");
	my $begin = time;
	set_clock($c, 120_000 - 3_600_000);
	ok(poll_until(sub { $c->value("SELECT count(*) FROM job_attempts WHERE outcome = 'lost'") == $leases }),
		'an hour back: the leases of the dead run out');
	ok(poll_until(sub { $c->value("SELECT count(*) FROM job_attempts WHERE outcome = 'timed_out'") == $leases }),
		'and timeouts come');
	cmp_ok(time - $begin, '>=', 1.5, 'not before their time');
	$node->stop;
}

# What is neither a lease nor a timeout, after a step back by an hour.
$node = jobq_node('clock', conf => "jobq.sweep_interval = 500ms\njobq.clock_offset = 3600000\nrestart_after_crash = on");
$c = JobqClient->new($node);
my $now = "(clock_timestamp() + $CLOCK_OFFSET)";
my $listener = JobqClient->new($node);
$listener->rows('LISTEN "job_queue_told"');

# Submit a job, and hear of it.
sub told
{
	$listener->{notifications} = [];
	$c->value("SELECT job_submit('k', queue => 'told')");
	return poll_until(sub { $listener->rows('SELECT 1'); @{ $listener->{notifications} } > 0 });
}
ok(told(), 'a notification');
my $waiter = JobqClient->new($node);
$waiter->send("CALL job_claim_wait('never', 'w', '4 s')");
asleep($c, $waiter);
my $moved = $c->value("SELECT job_submit('k', queue => 'moved', run_at => $now + interval '1 day')");
my $begin = time;
set_clock($c, 0);

ok(told(), 'an hour back: notifications go on');
$c->rows("UPDATE job_scheduled SET run_at = $now WHERE job_id = $moved");
ok(poll_until(sub { $c->value("SELECT state FROM job_status WHERE id = $moved") eq 'ready' }), 'sweeps go on');
my $soon = $c->value("SELECT job_submit('k', queue => 'moved', run_at => $now + interval '1 s')");
ok(poll_until(sub { $c->value("SELECT state FROM job_status WHERE id = $soon") eq 'ready' }), 'what falls due becomes ready');
is($waiter->receive->{sqlstate} // '', '', 'who waits is told that the time is out');
cmp_ok(time - $begin, '<', $limit, 'and not an hour later');

# Forward by a day: what is a time of day has come.
my $later = $c->value("SELECT job_submit('k', queue => 'moved', run_at => $now + interval '20 h')");
my $expires = $c->value("SELECT job_submit('k', queue => 'moved', run_at => $now + interval '3 days', expires_at => $now + interval '20 h')");
set_clock($c, 86_400_000);
ok(poll_until(sub { $c->value("SELECT state FROM job_status WHERE id = $later") eq 'ready' }), 'a day forward: a scheduled job is ready');
ok(poll_until(sub { $c->value("SELECT state FROM job_status WHERE id = $expires") eq 'cancelled' }), 'and one that had to begin before is cancelled');

# A crash does not forget how far the clock is from where it was.
$c->value("SELECT job_submit('k', queue => 'crash', lease => '3 s', max_lost => 1)");
$c->rows("SELECT job_id FROM job_claim('crash')");
set_clock($c, 86_400_000 - 3_600_000);
$c->rows('CHECKPOINT');
my $victim = JobqClient->new($node);
kill('KILL', $victim->pid);
ok(poll_until(sub { $c->connect && ($c->query("SELECT state FROM job_status WHERE queue = 'crash'")->{rows}[0][0] // '') eq 'failed' }),
	'after a crash leases run out in their time');
$node->stop;
done_testing();
