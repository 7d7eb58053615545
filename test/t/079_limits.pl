# Limits, order and rates hold at every moment: workers claim, complete, fail,
# release, snooze, lose, cancel and move jobs of queues with limits, settings
# change, backends and the background worker are terminated and killed, and the
# server restarts, while observers look at job_lease all the time.  In the end no
# slot was lost: all that is left can be run.
# JOBQ_SEED repeats the dice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $kills = 12;
my %limit = (limit => 7, partition => 2);
my $node = jobq_node('limits', conf => "max_prepared_transactions = 20\njobq.sweep_interval = 2s\nrestart_after_crash = on");
my $control = JobqClient->new($node);

my %settings = (
	limit => "max_running => $limit{limit}, max_running_per_partition => $limit{partition}",
	ordered => 'ordered => true',
	rate => "rate => 60, rate_per_partition => 30, rate_interval => '1 s'",
	fair => "fair => true, max_running => $limit{limit}");
my @queues = sort keys %settings;
$control->rows("SELECT job_queue_set('$_', $settings{$_}, backoff => '1 ms', lease => '1 s', affinity_wait => '50 ms')") foreach @queues;

my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';

sub again { return reconnected($node, $_[0], $stop); }

# What anybody may hear: the job is somebody else's by now, a running one that was
# cancelled cannot be prepared, nor what has failed, or the server goes.
my %expected = map { $_ => 1 } qw(JQ001 JQ002 JQ003 0A000 42704 57P01 57P02 57P03 40P01 55P03);

sub try { return $_[0]->try($_[1], \%expected); }

# Everything that a worker and those who watch it do.
sub work
{
	my ($i) = @_;
	my $client;
	my $n = 0;
	until (-e $stop)
	{
		$client = again($client) or last;
		my $queue = $queues[ int(rand(@queues)) ];
		my $partition = "'p" . int(rand(5)) . "'";
		my $dice = rand;
		if ($dice < 0.25)
		{
			my $jobs = 1 + int(rand(4));
			try($client, "SELECT job_submit('k', queue => '$queue', partition => $partition, affinity => " . (rand() < 0.3 ? $partition : 'NULL') . ", priority => " . int(rand(3)) . ", max_attempts => 3) FROM generate_series(1, $jobs)");
		}
		elsif ($dice < 0.85)
		{
			try($client, 'BEGIN');
			my $r = try($client, "SELECT job_id, token FROM job_claim('$queue', 'w" . int(rand(3)) . "', " . (1 + int(rand(3))) . ')');
			my $rolled = rand() < 0.1;
			try($client, $rolled ? 'ROLLBACK' : 'COMMIT');
			next if $rolled || $r->{lost} || $r->{sqlstate};
			foreach my $job (@{ $r->{rows} })
			{
				my ($id, $token) = @$job;
				my $end = rand;
				$n++;
				next if $end < 0.02;
				my $call =
					$end < 0.65 ? "job_complete($id, $token)"
				  : $end < 0.75 ? "job_fail($id, $token)"
				  : $end < 0.82 ? "job_release($id, $token)"
				  : $end < 0.90 ? "job_snooze($id, $token, '20 ms')"
				  : $end < 0.95 ? "job_cancel($id)"
				  : "job_take_back($id)";
				usleep(rand(20_000)) if rand() < 0.2;
				if (rand() < 0.03)
				{
					try($client, 'BEGIN');
					try($client, "SELECT $call");
					end_prepared($client, rand() < 0.5 ? 'COMMIT' : 'ROLLBACK', \%expected) if $client->connected && $client->status eq 'T';
					try($client, 'ROLLBACK') if $client->connected && $client->status ne 'I';
				}
				else
				{
					try($client, 'BEGIN');
					try($client, "SELECT $call");
					try($client, rand() < 0.05 ? 'ROLLBACK' : 'COMMIT');
				}
			}
		}
		elsif ($dice < 0.92)
		{
			my $call = ('job_cancel(id)', 'job_hold(id)', 'job_change(id, priority => 2)', "job_change(id, partition => $partition)", q{job_change(id, tags => '{"a": 1}')},
				q{job_decide(id, 'succeeded')})[ int(rand(6)) ];
			try($client, "SELECT $call FROM (SELECT id FROM job_status WHERE queue = '$queue' AND state IN ('waiting', 'scheduled', 'ready') ORDER BY random() LIMIT 1) j");
		}
		elsif ($dice < 0.95)
		{
			try($client, "SELECT job_unhold(id) FROM job_status WHERE queue = '$queue' AND held");
		}
		elsif ($dice < 0.97)
		{
			# the same limits before another gate
			my $change = (qq{paused => @{[ rand() < 0.5 ? 'true' : 'false' ]}}, 'weight => ' . (1 + int(rand(3))))[ int(rand(2)) ];
			try($client, "SELECT job_partition_set('$queue', $partition, $change)");
		}
		else
		{
			usleep(2000);
		}
	}
	return $n;
}

# Looks at what runs, as often as it can; returns what it should never have seen.
sub watch
{
	my $client;
	my ($looks, @wrong) = (0);
	until (-e $stop)
	{
		$client = again($client) or last;
		my $r = try($client, <<'EOQ');
SELECT q.name, sum(l.n), max(l.n) FILTER (WHERE l.partition_id IS NOT NULL)
FROM (SELECT queue_id, partition_id, count(*) AS n FROM job_lease GROUP BY 1, 2) l JOIN job_queue q USING (queue_id) GROUP BY 1
EOQ
		next if $r->{lost} || $r->{sqlstate};
		foreach my $row (@{ $r->{rows} })
		{
			my ($queue, $all, $most) = @$row;
			push @wrong, "$queue: $all run, $most of a partition"
			  if ($queue eq 'limit' && ($all > $limit{limit} || $most > $limit{partition}))
			  || ($queue eq 'fair' && $all > $limit{limit})
			  || ($queue eq 'ordered' && $most > 1);
		}
		# nobody overtakes one that has begun
		$r = try($client, <<'EOQ');
SELECT t.job_id, l.job_id FROM job_turn t JOIN job j ON j.id = t.job_id AND j.outcome IS NULL AND EXISTS (SELECT FROM job_attempt a WHERE a.job_id = j.id)
    JOIN job_lease l ON (l.queue_id, l.partition_id) = (t.queue_id, t.partition_id) AND l.job_id <> t.job_id JOIN job_queue q ON q.queue_id = t.queue_id
WHERE q.name = 'ordered' AND j.partition = (SELECT partition FROM job WHERE id = l.job_id)
EOQ
		next if $r->{lost} || $r->{sqlstate};
		push @wrong, map { "job $_->[1] overtakes $_->[0]" } @{ $r->{rows} };
		$looks++;
	}
	return { looks => $looks, wrong => \@wrong };
}

my @workers = start_clients(6, \&work);
my @watchers = start_clients(2, \&watch);
disturb($node, \$control, $kills, $stop);
append_to_file($stop, '');
my $begun = 0;
$begun += $_ foreach finish_clients(120, @workers);
my @seen = finish_clients(120, @watchers);
note("$begun attempts, $seen[0]{looks} and $seen[1]{looks} looks");
ok($begun > 0, 'jobs ran');
foreach my $seen (@seen)
{
	cmp_ok($seen->{looks}, '>', 10, 'somebody looked');
	is("@{ $seen->{wrong} }[0 .. ($#{ $seen->{wrong} } > 4 ? 4 : $#{ $seen->{wrong} })]", '', 'no limit was exceeded, and nobody overtook');
}
unlink $stop;

$control = again($control);
is($control->value('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left prepared');

# In any time so many attempts of a queue or partition began at most, by the times that they have on record.
# On a busy machine a partition can have had none.
$control = again($control);
cmp_ok($control->value("SELECT count(*) FROM job_attempt a JOIN job j ON j.id = a.job_id WHERE j.queue = 'rate'"), '>', 0, 'attempts of the queue with a rate are on record');
foreach my $bound ([ 60, 'true' ], map { [ 30, "partition = 'p$_'" ] } 0 .. 4)
{
	my ($rate, $which) = @$bound;
	my $worst = $control->value(<<EOQ);
WITH a AS (SELECT a.started_at AS at FROM job_attempt a JOIN job j ON j.id = a.job_id WHERE j.queue = 'rate' AND $which
		UNION ALL SELECT j.started_at FROM job j WHERE j.queue = 'rate' AND $which AND j.attempt_outcome IS NOT NULL),
	n AS (SELECT at, row_number() OVER (ORDER BY at) AS i FROM a),
	-- attempts i to k are k - i + 1 within at(k) - at(i): the worst of i is where i - rate * at is least so far
	v AS (SELECT i - $rate * extract(epoch FROM at - (SELECT min(at) FROM a)) AS v, i FROM n)
SELECT coalesce(max(v - least + 1), 0) <= $rate + 0.1 FROM (SELECT v, min(v) OVER (ORDER BY i) AS least FROM v) w
EOQ
	is($worst, 't', "no more attempts began than the rate allows ($which)");
}

# All that is left can be run: no slot was lost, nobody has a turn for ever.
$control->rows("SELECT job_partition_set('$_', 'p' || i, paused => false) FROM generate_series(0, 4) i") foreach @queues;
$control->rows('SELECT job_unhold(id) FROM job_status WHERE held');
my $left = sub { return $control->value('SELECT count(*) FROM job WHERE outcome IS NULL'); };
my $before = $left->();
my $since = time;
while ((my $now = $left->()) > 0)
{
	$since = time if $now < $before;
	$before = $now;
	last if time > $since + stretched(30);
	$control->rows("SELECT job_complete(job_id, token) FROM job_claim(ARRAY['fair', 'limit', 'ordered', 'rate'], 'w', 50)");
}
is($left->(), 0, 'all jobs come to an end') or diag(join "\n", map { join '|', map { $_ // '' } @$_ }
	$control->rows("SELECT id, queue, partition, state, e.reason, e.detail FROM job_status s, job_explain(s.id) e WHERE finished_at IS NULL LIMIT 20"));

done_testing();
