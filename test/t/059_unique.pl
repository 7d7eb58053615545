# Sixteen clients submit jobs with the same keys at the same time, at each
# isolation level, by job_submit and by job_submit_many, alone and between other
# statements: exactly one job has each key.  Then they do whatever there is with
# a few keys, while workers end the jobs: no call ends in a deadlock, and no key
# stays with a job that has ended.
# JOBQ_SEED repeats the dice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $clients = 16;
my $keys = 60;
my $calls = 120;
my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('unique');
my $control = JobqClient->new($node);
my $json = JSON::PP->new->canonical;

# Repeat a transaction that could not be serialized, as everybody has to.
sub repeated
{
	my ($client, $level, @statements) = @_;
	while (1)
	{
		my ($failed, @rows);
		foreach my $statement ("BEGIN ISOLATION LEVEL $level", 'SELECT 1', @statements, 'COMMIT')
		{
			my $r = $client->query($statement);
			die 'connection lost' if $r->{lost};
			$failed = $r and last if $r->{sqlstate};
			push @rows, @{ $r->{rows} } if $statement =~ /job_submit/;
		}
		return @rows unless $failed;
		$client->rows('ROLLBACK');
		die "$failed->{sqlstate} $failed->{message}" if $failed->{sqlstate} ne '40001';
	}
}

# Every client submits every key, in an order of its own or many at once in any.
foreach my $level ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')
{
	foreach my $many (0, 1)
	{
		my $queue = lc("$level $many") =~ s/ /_/gr;
		my $begin = time + 1;
		my @results = run_clients(300, $clients, sub {
			my ($i) = @_;
			my $client = JobqClient->new($node) or die 'no connection';
			my @ids;
			usleep(1000) while time < $begin;
			if ($many)
			{
				foreach my $part (0 .. 3)
				{
					my @part = map { 15 * $part + $_ } 0 .. 14;
					my $n = $i;
					my $jobs = $json->encode([ map { { kind => "by $i", queue => $queue, unique_key => "key $_" } } sort { ($a * 7 + $i) % 15 <=> ($b * 7 + $i) % 15 } @part ]);
					push @ids, map { $_->[0] } repeated($client, $level, "SELECT id FROM job_submit_many('$jobs') id");
				}
			}
			else
			{
				push @ids, map { $_->[0] } map { repeated($client, $level, "SELECT job_submit('by $i', queue => '$queue', unique_key => 'key $_')") } 0 .. $keys - 1;
			}
			return { map { $_ => 1 } @ids };
		});
		my %ids = map { %$_ } @results;
		is($control->value("SELECT count(*) FROM job WHERE queue = '$queue'"), $keys, "$queue: one job for each key");
		is($control->value("SELECT count(DISTINCT unique_key) FROM job WHERE queue = '$queue'"), $keys, "$queue: each of another key");
		is(scalar(keys %ids), $keys, "$queue: everybody got their ids");
	}
}

# What a client can do with one key
my @on_conflict = qw(keep skip replace cancel error);
my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';

my @workers = start_clients(4, sub {
	my $client = JobqClient->new($node) or die 'no connection';
	my $n = 0;
	until (-e $stop)
	{
		my @jobs = $client->rows("SELECT job_id, token FROM job_claim('mixed', max_jobs => 3)");
		usleep(1000) unless @jobs;
		foreach my $job (@jobs)
		{
			my ($id, $token) = @$job;
			my $dice = rand;
			my $call =
				$dice < 0.6 ? "job_complete($id, $token)"
			  : $dice < 0.8 ? "job_fail($id, $token, retry => false)"
			  : $dice < 0.9 ? "job_release($id, $token)"
			  : "job_fail($id, $token, retry_in => '0')";
			my $r = $client->query("SELECT $call");
			die "$r->{sqlstate} $r->{message}" if ($r->{sqlstate} // 'JQ001') ne 'JQ001';
			$n++;
		}
	}
	return $n;
});
my @counts = run_clients(300, $clients, sub {
	my ($i) = @_;
	my $client = JobqClient->new($node) or die 'no connection';
	my %n;
	foreach my $call (1 .. $calls)
	{
		my $key = 'key ' . int(rand(4));
		my $conflict = $on_conflict[ int(rand(@on_conflict)) ];
		my $for = rand() < 0.1 ? ", unique_for => '20 ms'" : '';
		my $level = ('READ COMMITTED', 'REPEATABLE READ', 'SERIALIZABLE')[ int(rand(3)) ];
		my $dice = rand;
		my $sql = "SELECT job_submit('mixed', queue => 'mixed', unique_key => '$key', on_conflict => '$conflict', args => '{\"by\": $i}'$for)";
		$sql = "SELECT job_retry(id) FROM job WHERE queue = 'mixed' AND outcome IN (2, 8) ORDER BY id DESC LIMIT 1" if $dice < 0.15;
		$sql = "SELECT job_cancel(id) FROM job WHERE queue = 'mixed' AND outcome IS NULL ORDER BY random() LIMIT 1" if $dice > 0.9;
		my $r = $client->query("BEGIN ISOLATION LEVEL $level");
		$r = $client->query($sql);
		$client->query(rand() < 0.8 ? 'COMMIT' : 'ROLLBACK');
		die 'connection lost' if $r->{lost};
		$n{ $r->{sqlstate} // 'done' }++;
	}
	return \%n;
});
my %n;
foreach my $count (@counts)
{
	$n{$_} += $count->{$_} foreach keys %$count;
}
note(join(', ', map { "$_: $n{$_}" } sort keys %n));
is(join(' ', grep { !/^(done|23505|40001|JQ003)$/ } sort keys %n), '', 'no other error');
cmp_ok($n{done}, '>', $clients * $calls / 3, 'most calls did something');
append_to_file($stop, '');
cmp_ok($_, '>', 0, 'a worker worked') foreach finish_clients(120, @workers);

# One key, replaced again and again beside those who claim its job.
my @replacing = run_clients(120, 4, sub {
	my ($i) = @_;
	my $client = JobqClient->new($node) or die 'no connection';
	my $sql = $i % 2 ? "SELECT job_submit('r', queue => 'replaced', unique_key => 'k', on_conflict => 'replace')"
	  : "SELECT job_complete(job_id, token) FROM job_claim('replaced')";
	my %states;
	foreach (1 .. 3000)
	{
		my $r = $client->query($sql);
		$states{ $r->{sqlstate} // 'done' }++;
	}
	return join(' ', sort keys %states);
});
is(join(',', @replacing), 'done,done,done,done', 'replacing beside claims: no error');
$control->rows("SELECT job_complete(job_id, token) FROM job_claim('replaced')");

# All that is left ends, and no key stays behind.
ok(poll_until(sub {
	$control->rows("SELECT job_complete(job_id, token) FROM job_claim('mixed', max_jobs => 100)");
	return $control->value("SELECT NOT EXISTS (SELECT FROM job WHERE queue = 'mixed' AND outcome IS NULL)") eq 't';
}), 'all jobs end');
invariants_hold($node, 'after all that');
ok(poll_until(sub {
	$control->value("SELECT NOT EXISTS (SELECT FROM job_unique u JOIN job j ON j.id = u.job_id WHERE j.queue = 'mixed')") eq 't';
}), 'no key of theirs is taken');
tables_are_sound($node, 'after all that');
$node->stop;
done_testing();
