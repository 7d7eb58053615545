# Many sessions wait for jobs, and leave in every way while they are being
# woken.  No wake-up may be lost: whenever the submitters pause, the waiters
# that stay must finish what there is, without looking again by themselves.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqLoad;
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $rounds = 25;
my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('waiters');
my $dir = PostgreSQL::Test::Utils::tempdir;
my ($calm, $stop) = ("$dir/calm", "$dir/stop");
my $control = JobqClient->new($node, name => 'control');
$control->rows("SELECT job_submit('first use')");
append_to_file($calm, '');

# What a waiter has, and what a job requires: of those that stay, one in each queue can take all.
my @labels = ('NULL', q('{a}'), q('{a,b}'));
my @requires = ('NULL', 'NULL', q('{a}'), q('{b}'), q('{a,b}'));

# Those that stay wait for a minute, in two queues; those that hurry only
# while there is a storm, and for so short that they often leave when woken.
sub wait_for_jobs
{
	my ($i) = @_;
	my $hurry = $i >= 6;
	my $queue = 'q' . $i % 2;
	my $labels = $labels[ int($i / 2) % 3 ];
	my $name = $hurry ? 'hurries' : 'stays';
	my ($client, @claims);
	until (-e $stop)
	{
		$client = JobqClient->new($node, name => $name) unless $client && $client->connected;
		if (!$client || ($hurry && -e $calm))
		{
			usleep(3000);
			next;
		}
		my $timeout = $hurry ? int(rand(12)) : 60000;
		my $r = $client->query("CALL job_claim_wait('$queue', 'w$i', '$timeout ms', '1 min', labels => $labels)");
		next if $r->{lost} || ($r->{sqlstate} // '') eq '57014';
		die "$r->{sqlstate} $r->{message}" if $r->{sqlstate};
		my ($id, $token, $attempt) = @{ $r->{rows}[0] };
		next unless defined $id;
		push @claims, { id => $id, token => $token, attempt => $attempt, from => time, until => time + 60, name => "w$i" };
		# finish it in spite of being cancelled
		until ($claims[-1]{ended})
		{
			$claims[-1]{end} //= time;
			$client = JobqClient->new($node, name => $name) unless $client && $client->connected;
			my $r = $client->query("SELECT job_complete($id, $token)");
			next if $r->{lost} || ($r->{sqlstate} // '') =~ /^(57014|40)/;
			die "$r->{sqlstate} $r->{message}" if $r->{sqlstate};
			$claims[-1]{ended} = 'succeeded';
		}
	}
	return \@claims;
}

# Jobs become ready in every way.
sub submit
{
	my $client = JobqClient->new($node, name => 'submits') // die 'no connection';
	my $n = 0;
	until (-e $stop)
	{
		if (-e $calm)
		{
			usleep(3000);
			next;
		}
		my $queue = 'q' . int(rand(2));
		my $requires = $requires[ rand @requires ];
		my $dice = rand;
		if ($dice < 0.5)
		{
			$n += my @rows = $client->rows("SELECT job_submit('now', queue => '$queue', requires => $requires) FROM generate_series(1, " . (1 + int(rand(4))) . ')');
		}
		elsif ($dice < 0.6)
		{
			$client->rows("BEGIN; SELECT job_submit('never', queue => '$queue', requires => $requires); ROLLBACK");
		}
		elsif ($dice < 0.7)
		{
			$client->rows("SELECT job_submit('soon', queue => '$queue', requires => $requires, run_at => clock_timestamp() + interval '20 ms')");
			$n++;
		}
		elsif ($dice < 0.8)
		{
			$client->value("SELECT job_submit('child', queue => '$queue', requires => $requires, depends_on => ARRAY[job_submit('now', queue => '$queue')])");
			$n += 2;
		}
		elsif ($dice < 0.9)
		{
			$client->rows('BEGIN');
			my $id = $client->value("SELECT job_submit('held', queue => '$queue', requires => $requires)");
			$client->rows("SELECT job_hold($id)");
			$client->rows('COMMIT');
			$client->rows("SELECT job_unhold($id)");
			$n++;
		}
		else
		{
			$client->rows("BEGIN; SAVEPOINT s; SELECT job_submit('never', queue => '$queue', requires => $requires); ROLLBACK TO s; SELECT job_submit('now', queue => '$queue', requires => $requires); COMMIT");
			$n++;
		}
		usleep(int(rand(4000)));
	}
	return $n;
}

my @waiters = start_clients(12, \&wait_for_jobs);
my @submitters = start_clients(3, \&submit);
my $stayed = q(SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stays' AND state = 'active');
my (@lost, $disturbed);
my $submitted = 0;
foreach my $round (1 .. $rounds)
{
	unlink($calm);
	my $end = time + 0.2;
	while (time < $end)
	{
		my $how = rand() < 0.8 ? 'pg_cancel_backend' : 'pg_terminate_backend';
		$disturbed += $control->rows("SELECT $how(pid) FROM pg_stat_activity WHERE application_name IN ('stays', 'hurries') ORDER BY random() LIMIT 1");
		usleep(5000);
	}
	append_to_file($calm, '');
	# 20 seconds are less than the minute after which they would look again
	my $left;
	push @lost, "round $round: $left"
	  unless within(20, sub { !defined($left = $control->value(q(SELECT string_agg(v::text, ' ') FROM (SELECT id, state FROM job_status WHERE finished_at IS NULL AND kind <> 'first use' LIMIT 5) v))) });
	last if @lost;
}
ok(!@lost, 'no wake-up is lost') or diag("@lost; staying: " . $control->value($stayed));
cmp_ok($disturbed, '>', 100, 'waiters were cancelled and terminated');

# One by one: the first in line is woken, but stopped by a signal, so that it
# finds its own end and the wake-up at once.  Then the second must be woken.
foreach my $how ('cancelled', 'terminated', 'left by its client', 'out of time', 'over statement_timeout')
{
	my ($first, $second) = map { JobqClient->new($node, name => $_) } 'first', 'second';
	my ($pid, $timeout) = ($first->pid, $how =~ /out of time/ ? '1 s' : '1 min');
	$first->rows("SET statement_timeout = '1 s'") if $how =~ /statement_timeout/;
	my $began = time;
	$first->send("CALL job_claim_wait('pair', 'first', '$timeout')");
	asleep($control, $first);
	$second->send("CALL job_claim_wait('pair', 'second', '1 min')");
	asleep($control, $second);
	kill('STOP', $pid);
	my $id = $control->value("SELECT job_submit('job', queue => 'pair')");
	$control->rows("SELECT pg_cancel_backend($pid)") if $how =~ /cancelled/;
	$control->rows("SELECT pg_terminate_backend($pid)") if $how =~ /terminated/;
	$first->disconnect if $how =~ /left/;
	poll_until(sub { time > $began + 1.2 }) if $how =~ /time/;
	kill('CONT', $pid);
	my $before = time;
	my $r = $first->receive;
	my ($winner, $loser) = ($second, $first);
	# who finds a job when its time is out may as well take it
	($winner, $loser) = ($first, $second) if !$r->{lost} && !$r->{sqlstate} && defined $r->{rows}[0][0];
	$r = $second->answered(20) ? $second->receive : {} if $winner == $second;
	is($r->{rows}[0][0], $id, "a job whose waiter was $how is given to the next");
	cmp_ok(time - $before, '<', stretched(10), 'at once');
	if ($r->{rows}[0][0])
	{
		$control->rows("SELECT job_complete($id, $r->{rows}[0][1])");
	}
	else
	{
		$control->rows("SELECT job_complete(job_id, token) FROM job_claim('pair')");
	}
	$submitted++;
	$_->disconnect foreach $first, $second;
	poll_until(sub { $control->value("SELECT count(*) FROM pg_stat_activity WHERE application_name IN ('first', 'second')") == 0 });
}

# While they sleep they hold back nothing.
poll_until(sub { $control->value("$stayed AND wait_event_type = 'Extension'") == 6 });
is($control->value("$stayed AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)"), 0, 'who waits holds no snapshot and no xid');
is($control->value($stayed), 6, 'all of them wait');

append_to_file($stop, '');
poll_until(sub {
	$control->rows(q(SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE application_name = 'stays'));
	return $control->value($stayed) == 0;
});
$submitted += $_ foreach finish_clients(60, @submitters);
my @claims = map { @$_ } finish_clients(60, @waiters);
my %times;
$times{ $_->{id} }++ foreach @claims;
is(scalar(grep { $_ > 1 } values %times), 0, 'no job was run twice');
is($control->value(q(SELECT count(*) FROM job WHERE outcome = 1)), $submitted, 'every job succeeded');
my @twice = JobqLoad::overlaps(\@claims);
ok(!@twice, 'no job was held twice at once') or diag(join("\n", @twice[ 0 .. ($#twice > 9 ? 9 : $#twice) ]));
note("$submitted jobs, $disturbed disturbances");
invariants_hold($node, 'at the end');

done_testing();
