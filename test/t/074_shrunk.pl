# A server whose shared memory has room for next to nothing: one queue with one
# candidate and one priority, one heartbeat, one database.  All that is a hint
# is wrong or missing most of the time; order and completeness must not depend
# on it.  Then with room for a little more, and without the sweep, which would
# find what has been forgotten.
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

my $node = jobq_node('shrunk', conf => <<'EOC');
jobq.max_lanes = 1
jobq.lane_candidates = 1
jobq.lane_priorities = 1
jobq.max_heartbeats = 1
jobq.max_databases = 1
jobq.sweep_interval = 100ms
EOC
my $c = JobqClient->new($node);
my @queues = map { "q$_" } 1 .. 5;
my $all = "'{" . join(',', @queues) . "}'::text[]";

# Is what is ready of these queues claimed in order?
sub in_order
{
	my ($name, $n, @of) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $list = join ',', @of;
	my @expected = map { $_->[0] } $c->rows(<<"EOQ");
SELECT r.job_id FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = ANY ('{$list}') ORDER BY r.priority DESC, r.position
EOQ
	my @got;
	while (my @rows = $c->rows("SELECT job_id, job_complete(job_id, token) FROM job_claim('{$list}'::text[], 'alone', $n)"))
	{
		push @got, map { $_->[0] } @rows;
	}
	return is("@got", "@expected", $name);
}

#
# One client
#

sub fill
{
	my ($n) = @_;
	$c->rows("SELECT job_submit('x', queue => 'q' || 1 + i % 5, priority => (i * 7) % 20) FROM generate_series(1, $n) i");
	return;
}
fill(200);
in_order("$_ comes in order", 1, $_) foreach @queues[ 0, 1 ];
in_order('two queues come in order, some at a time', 3, @queues[ 2, 3 ]);
fill(200);
in_order('all come in order', 7, @queues);

# a worker that came by is not forgotten with the entry of its lane
$c->rows("SELECT job_submit('x', queue => 'labels', requires => '{a}') FROM generate_series(1, 2)");
$c->rows("SELECT job_complete(job_id, token) FROM job_claim('labels', labels => '{a}')");
$c->rows("SELECT * FROM job_claim('q1')");
is($c->value("SELECT e.reason FROM job_status s, job_explain(s.id) e WHERE s.queue = 'labels' AND s.state = 'ready' AND e.reason <> 'ready'"),
	'labels', 'job_explain knows of a worker whose lane has no entry any more');
$c->rows("SELECT job_complete(job_id, token) FROM job_claim('labels', labels => '{a}')");

# mixed with rollbacks, one after the other from different queues
fill(100);
my @got;
my @expected = map { $_->[0] } $c->rows('SELECT job_id FROM job_ready ORDER BY priority DESC, position');
while (1)
{
	my $dice = rand;
	if ($dice < 0.3)
	{
		$c->rows('BEGIN');
		$c->rows("SELECT * FROM job_claim($all, 'alone', 3)");
		$c->rows('ROLLBACK');
	}
	elsif ($dice < 0.6)
	{
		my $queue = $queues[ rand @queues ];
		$c->rows('BEGIN; SAVEPOINT s');
		$c->rows("SELECT * FROM job_claim('$queue', 'alone', 2)");
		$c->rows('ROLLBACK TO s; COMMIT');
	}
	my ($row) = $c->rows("SELECT job_id, job_complete(job_id, token) FROM job_claim($all)");
	last unless $row;
	push @got, $row->[0];
}
is("@got", "@expected", 'also with claims that are undone between them');

#
# Heartbeats: there is room for one, those of the others go to the row.
#

$c->rows("SELECT job_submit('x', queue => 'beat', backoff => '1 h') FROM generate_series(1, 4)");
my @held = $c->rows("SELECT job_id, token FROM job_claim('beat', 'w', 4, '3 s')");
my ($silent) = shift @held;
my $before = join ' ', map { $_->[0] } $c->rows('SELECT xmin FROM job_lease ORDER BY job_id');
my $beats = 0;
my $end = time + 7;
while (time < $end)
{
	$beats += $c->value("SELECT job_heartbeat($_->[0], $_->[1])") eq 't' foreach @held;
	usleep(100_000);
}
is($c->value("SELECT count(*) FROM job_status WHERE queue = 'beat' AND state = 'running'"), 3, 'heartbeats through the row keep leases');
isnt(join(' ', map { $_->[0] } $c->rows('SELECT xmin FROM job_lease ORDER BY job_id')), $before, 'which are written');
is($c->value("SELECT lost FROM job_status WHERE id = $silent->[0]"), 1, 'who is silent loses its job');
$c->rows("SELECT job_cancel($held[0][0])");
is($c->value("SELECT job_heartbeat($held[0][0], $held[0][1])"), 'f', 'cancellation is told');
is($c->query("SELECT job_complete($_->[0], $_->[1])")->{sqlstate}, undef, 'a job that was kept alive is completed') foreach @held;

#
# Another database finds no room in shared memory, and works without.
#

$c->rows('CREATE DATABASE other');
my $other = JobqClient->new($node, dbname => 'other');
$other->rows('CREATE EXTENSION jobq');
$other->rows("SELECT job_submit('x'), job_submit('y', priority => 1)");
is(join(' ', map { $_->[0] } $other->rows("SELECT kind FROM job_claim(max_jobs => 5)")), 'y x', 'another database works');
$other->disconnect;

#
# Many clients
#

my $submitters = 3;
my $workers = 5;
my ($done, $until);

# Submits in transactions of all kinds.  Returns the ids that were committed.
sub submit
{
	my $client = JobqClient->new($node, name => 'submits') // die 'no connection';
	my $one = sub { "SELECT job_submit('x', queue => '$queues[rand @queues]', priority => " . (int(rand(20)) - 10) . ", lease => '1 min')" };
	my @ids;
	while (time < $until)
	{
		my $dice = rand;
		if ($dice < 0.4)
		{
			push @ids, $client->value($one->());
		}
		elsif ($dice < 0.6)
		{
			my ($queue, $n) = ($queues[ rand @queues ], 1 + int(rand(40)));
			push @ids, map { $_->[0] } $client->rows(
				"SELECT job_submit('x', queue => '$queue', priority => n % 20 - 10, lease => '1 min') FROM generate_series(1, $n) n");
		}
		else
		{
			$client->rows('BEGIN');
			my @kept = ($client->value($one->()));
			$client->rows('SAVEPOINT s');
			my $maybe = $client->value($one->());
			usleep(int(rand(5000)));
			if (rand() < 0.5) { $client->rows('ROLLBACK TO s'); }
			else { push @kept, $maybe; }
			push @kept, $client->value($one->());
			if (rand() < 0.2)
			{
				$client->rows('ROLLBACK');
				next;
			}
			$client->rows('COMMIT');
			push @ids, @kept;
		}
		usleep(int(rand(4000)));
	}
	return \@ids;
}

# Claims, undoes some of it, completes.  Returns claims for JobqLoad::overlaps.
sub work
{
	my ($i) = @_;
	my $client = JobqClient->new($node, name => "works $i") // die 'no connection';
	my @claims;
	my $idle = 0;
	until (-e $done && $idle > 20)
	{
		my $from = rand() < 0.6 ? "'$queues[rand @queues]'" : $all;
		my $sql = "SELECT job_id, token, attempt FROM job_claim($from, 'w$i', " . (1 + int(rand(4))) . ')';
		my @rows;
		my $dice = rand;
		if ($dice < 0.4)
		{
			@rows = $client->rows($sql);
		}
		else
		{
			$client->rows('BEGIN' . ($dice < 0.5 ? ' ISOLATION LEVEL REPEATABLE READ' : ''));
			@rows = $client->rows($sql);
			$client->rows('SAVEPOINT s');
			my @maybe = $client->rows($sql);
			if (rand() < 0.5) { $client->rows('ROLLBACK TO s'); }
			else { push @rows, @maybe; }
			push @rows, $client->rows($sql) if rand() < 0.3;
			if (rand() < 0.3)
			{
				$client->rows('ROLLBACK');
				next;
			}
			$client->rows('COMMIT');
		}
		my $now = time;
		foreach my $row (@rows)
		{
			my ($id, $token, $attempt) = @$row;
			my $claim = { id => $id, token => $token, attempt => $attempt, from => $now, until => $now + 60, name => "w$i" };
			push @claims, $claim;
			$client->rows("SELECT job_heartbeat($id, $token)") if rand() < 0.2;
			$claim->{end} = time;
			if (rand() < 0.1)
			{
				$client->rows("SELECT job_release($id, $token)");
				$claim->{ended} = 'released';
			}
			else
			{
				$client->rows("SELECT job_complete($id, $token)");
				$claim->{ended} = 'succeeded';
			}
		}
		$idle = @rows ? 0 : $idle + 1;
		usleep(2000) unless @rows;
	}
	return \@claims;
}

# Five tests: all that was submitted is claimed, once.
sub all_is_claimed
{
	my ($with) = @_;
	$done = PostgreSQL::Test::Utils::tempdir . '/done';
	$until = time + 6;
	$c->rows("SELECT job_cancel(id) FROM job_status WHERE finished_at IS NULL");
	my @workers = start_clients($workers, \&work);
	my @submitters = start_clients($submitters, \&submit);
	my @ids = map { @$_ } finish_clients(60, @submitters);
	append_to_file($done, '');
	my @claims = map { @$_ } finish_clients(120, @workers);
	my $succeeded = grep { $_->{ended} eq 'succeeded' } @claims;
	note(scalar(@ids) . ' jobs, ' . scalar(@claims) . ' claims');
	is($c->value('SELECT count(*) FROM job_ready'), 0, "nothing stays unclaimed: $with");
	is($succeeded, scalar(@ids), 'every job was completed once');
	my @twice = JobqLoad::overlaps(\@claims);
	ok(!@twice, 'no job was held twice at once') or diag(join("\n", @twice[ 0 .. ($#twice > 9 ? 9 : $#twice) ]));
	fill(300);
	in_order('in the end, too, all come in order', 4, @queues);
	invariants_hold($node, $with);
	return;
}
all_is_claimed('with next to nothing');
foreach my $size ([ 100, 1, 1 ], [ 100, 3, 2 ], [ 3, 8, 4 ])
{
	my ($lanes, $candidates, $priorities) = @$size;
	$c->disconnect;
	$node->append_conf('postgresql.conf', <<"EOC");
jobq.max_lanes = $lanes
jobq.lane_candidates = $candidates
jobq.lane_priorities = $priorities
jobq.sweep_interval = 1h
EOC
	$node->restart;
	$c->connect;
	all_is_claimed("with $lanes queues, $candidates candidates, $priorities priorities");
}
tables_are_sound($node, 'at the end');

# The load that does everything, for a few seconds
$until = time + 5;
my @logs = run_clients(60, 8, sub { return JobqLoad::run($node, $_[0], until => $until) });
my $rest = JobqLoad::drain($node, 90);
ok($rest, 'every job is decided in the end');
push @logs, $rest if $rest;
my @errors = map { @{ $_->{errors} } } @logs;
ok(!@errors, 'nothing unexpected was answered') or diag(join("\n", @errors[ 0 .. ($#errors > 9 ? 9 : $#errors) ]));
my @twice = JobqLoad::overlaps([ map { @{ $_->{claims} } } @logs ]);
ok(!@twice, 'no job was held twice at once by the load') or diag(join("\n", @twice[ 0 .. ($#twice > 9 ? 9 : $#twice) ]));
invariants_hold($node, 'after the load');
done_testing();
