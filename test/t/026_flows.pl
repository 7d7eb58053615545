# Random flows, with flows in them, members that fail, are left out, are not critical, and that join while they run, are
# submitted, worked on, cancelled, retried and removed, while the background worker, sessions and the server are killed.
# At no moment is a flow decided that has a member which is not; in the end all are, as their members say.
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

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $kills = 12;
my $flows = 120;    # of each client
my $queues = "ARRAY['red', 'green']";
my $node = jobq_node('flows', conf => "max_prepared_transactions = 20\njobq.sweep_interval = 2s\nrestart_after_crash = on\nlog_lock_waits = on");
my $control = JobqClient->new($node);
$control->rows("SELECT job_queue_set('$_', backoff => '1 ms', lease => '1 s')") foreach qw(red green);
# one of them behind a gate
$control->rows("SELECT job_queue_set('green', max_running => 5)");

my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $json = JSON::PP->new->canonical;

sub again { return reconnected($node, $_[0], $stop); }

# What anybody may hear: it is somebody else's job by now, it has ended, is not to be prepared, or the server goes.
my %expected = map { $_ => 1 } qw(JQ001 JQ002 JQ003 0A000 22023 23505 42704 57P01 57P02 57P03 40001 40P01 55P03);

sub try { return $_[0]->try($_[1], \%expected); }

sub chance { return rand() < $_[0]; }

# The members of a flow: what they depend on comes before them.
sub members
{
	my ($depth) = @_;
	my @jobs;
	foreach my $i (0 .. int(rand(12)))
	{
		my %up = map { 'm' . int(rand($i)) => 1 } 1 .. int(rand(3));
		my $job = { name => "m$i" };
		if ($i > 0 && %up)
		{
			$job->{depends_on} = [ sort keys %up ];
			my $rule = chance(0.6) ? 'all_success' : $RULES[ int(rand(@RULES)) ];
			$job->{trigger_rule} = $rule;
			$job->{quorum} = 1 + int(rand(keys %up)) if $rule eq 'quorum';
			$job->{args}{of} = $job->{depends_on}[0];
			$job->{args}{result} = { '$result' => $job->{depends_on}[0] };
			# results are ids
			$job->{when} = { map { $_ => '$ % 2 == ' . int(rand(2)) } grep { chance(0.5) } @{ $job->{depends_on} } } if chance(0.1);
		}
		$job->{critical} = JSON::PP::false if chance(0.2);
		$job->{if} = '$.odd == ' . (chance(0.5) ? 'true' : 'false') if chance(0.1);
		if ($depth < 3 && chance(0.15))
		{
			%$job = (%$job, %{ flow($depth + 1) });
		}
		elsif ($depth < 3 && chance(0.1))
		{
			# over numbers or, what fails, a result that is no array; a job, or a flow, for each
			$job->{map} = $job->{args} && chance(0.05) ? $job->{args}{result} : [ 1 .. int(rand(6)) ];
			$job->{job} = chance(0.3) ? flow($depth + 2) : { kind => 'work', queue => chance(0.5) ? 'red' : 'green', max_attempts => 1, args => { item => { '$item' => '$' } } };
			$job->{canary} = 1 + int(rand(3)) if chance(0.3);
			$job->{max_running} = 1 + int(rand(3)) if chance(0.2);
			$job->{min_success} = int(rand(5)) / 4 if chance(0.3);
			$job->{queue} = 'flows';
			delete $job->{args};
		}
		else
		{
			$job->{kind} = 'work';
			$job->{queue} = chance(0.5) ? 'red' : 'green';
			$job->{max_attempts} = 1 + int(rand(2));
		}
		push @jobs, $job;
	}
	return \@jobs;
}

sub flow
{
	my ($depth) = @_;
	my $jobs = members($depth);
	return {
		queue => 'flows', jobs => $jobs, args => { odd => chance(0.5) ? JSON::PP::true : JSON::PP::false },
		result => { '$result' => $jobs->[-1]{name} },
		(chance(0.2) ? (on_failure => chance(0.5) ? 'cancel' : 'drain') : ()), (chance(0.2) ? (max_running => 1 + int(rand(3))) : ()), (chance(0.03) ? (timeout => '300 ms') : ())
	};
}

# What else can be said of one that is in none.
sub submission
{
	my $flow = flow(0);
	$flow->{hold} = JSON::PP::true if chance(0.1);
	$flow->{run_in} = int(rand(100)) . ' ms' if chance(0.1);
	$flow->{unique_key} = 'k' . int(rand(3)) if chance(0.1);
	$flow->{on_conflict} = (qw(keep skip cancel))[ int(rand(3)) ] if $flow->{unique_key};
	return $json->encode($flow);
}

sub act { return random_transaction(shift, \%expected, @_); }

# Whoever works: the result of a job is its id; what it gets of the result of another is that, or nothing.
sub work
{
	my ($client, $log) = @_;
	my $n = 1 + int(rand(4));
	my $r = try($client, 'SELECT c.job_id, c.token, c.flow, c.args FROM ' . (chance(0.8) ? "job_claim($queues, 'w', $n) c"
		: "(SELECT id FROM job_flow_status WHERE state = 'running' ORDER BY random() LIMIT 1) f, job_claim_flow(f.id, 'w', $n) c"));
	return if $r->{lost} || $r->{sqlstate};
	foreach my $claim (@{ $r->{rows} })
	{
		my ($id, $token, $flow, $args) = @$claim;
		$flow //= 'NULL';
		my $end = rand;
		$args = $json->decode($args);
		push @{ $log->{wrong} }, "job $id got " . $json->encode($args)
		  if exists $args->{result} && defined $args->{result} && !(ref $args->{result} || $args->{result} =~ /^\d+$/);
		last unless $client->connected;
		next if $end < 0.02;
		my $complete = "job_complete($id, $token, to_jsonb($id))";
		my $name = chance(0.5) ? 'NULL' : "'g" . int(rand(20)) . "'";
		my $grow = "job_submit('work', queue => 'red', flow => $flow, name => $name";
		act($client,
			  $end < 0.62 ? $complete
			: $end < 0.74 ? "job_fail($id, $token, 'no luck', retry => false)"
			: $end < 0.80 ? "job_fail($id, $token, 'no luck')"
			: $end < 0.83 ? "job_release($id, $token)"
			: $end < 0.91 ? ("$grow)", $complete)
			: $end < 0.96 ? ("$grow, depends_on => ARRAY[$id])", $complete)
			: ($complete, "$grow)"));
		$log->{ended}++;
	}
	return;
}

# Those who submit, and look after it.
sub run
{
	my %log = (submitted => 0, ended => 0, wrong => []);
	my $client;
	my $some = "(SELECT id FROM job_flow_status WHERE state %s ORDER BY random() LIMIT 1) j";
	until (-e $stop)
	{
		$client = again($client) or last;
		my $dice = rand;
		if ($dice < 0.07)
		{
			next if $log{submitted} >= $flows;
			$log{submitted}++;
			act($client, 'job_submit_flow(' . JobqClient::quote(submission()) . ')');
		}
		elsif ($dice < 0.09)
		{
			# what a flow is followed by
			act($client, "job_submit('work', queue => 'red', trigger_rule => 'all_done', depends_on => ARRAY[id]) FROM " . sprintf($some, 'IS NOT NULL'));
		}
		elsif ($dice < 0.11)
		{
			act($client, "job_cancel(id, 'by the test') FROM " . sprintf($some, "IN ('waiting', 'scheduled', 'running')"));
		}
		elsif ($dice < 0.14)
		{
			act($client, "job_retry(id) FROM " . sprintf($some, "IN ('failed', 'cancelled')"));
		}
		elsif ($dice < 0.17)
		{
			act($client, "job_retry(id) FROM (SELECT id FROM job WHERE flow IS NOT NULL AND outcome IN (2, 8) ORDER BY random() LIMIT 1) j");
		}
		elsif ($dice < 0.19)
		{
			act($client, "job_unhold(id) FROM job_status WHERE held");
		}
		elsif ($dice < 0.20)
		{
			act($client, "job_delete(id) FROM (SELECT id FROM job WHERE outcome = 1 AND NOT EXISTS (SELECT FROM job_dependency WHERE id IN (upstream, downstream)) ORDER BY random() LIMIT 1) j");
		}
		else
		{
			work($client, \%log);
			usleep(1000);
		}
	}
	return \%log;
}

# Looks, as often as it can, for what should never be.
sub watch
{
	my $client;
	my ($looks, @wrong) = (0);
	until (-e $stop)
	{
		$client = again($client) or last;
		my $r = try($client, <<'EOQ');
SELECT m.id, m.flow, 'is undecided in a flow that does not run' FROM job m LEFT JOIN job_flow f ON f.job_id = m.flow AND f.open WHERE m.flow IS NOT NULL AND m.outcome IS NULL AND f.job_id IS NULL
UNION ALL SELECT f.job_id, NULL, 'is decided and runs' FROM job_flow f JOIN job j ON j.id = f.job_id WHERE f.open AND j.outcome IS NOT NULL
EOQ
		next if $r->{lost} || $r->{sqlstate};
		push @wrong, map { join ' ', map { $_ // '' } @$_ } @{ $r->{rows} };
		$looks++;
	}
	return { looks => $looks, wrong => \@wrong };
}

my @clients = start_clients(5, \&run);
my @watchers = start_clients(1, \&watch);
disturb($node, \$control, $kills, $stop, crash => 1);
invariants_hold($node, 'meanwhile');
append_to_file($stop, '');
my @logs = finish_clients(120, @clients);
my ($seen) = finish_clients(120, @watchers);
my %sum = (submitted => 0, ended => 0);
foreach my $log (@logs)
{
	$sum{$_} += $log->{$_} foreach keys %sum;
	is(join("\n", @{ $log->{wrong} }), '', 'results are what they refer to');
}
note("$sum{submitted} flows, $sum{ended} attempts, $seen->{looks} looks");
cmp_ok($sum{submitted}, '>', 10, 'flows were submitted');
cmp_ok($seen->{looks}, '>', 10, 'somebody looked');
is("@{ $seen->{wrong} }[0 .. ($#{ $seen->{wrong} } > 4 ? 4 : $#{ $seen->{wrong} })]", '', 'no flow was decided before its members');
unlink $stop;

$control->connect or die 'no connection';
is($control->value('SELECT count(*) FROM pg_prepared_xacts'), 0, 'nothing is left prepared');

# All that is left comes to an end.
my $left = sub { return $control->value('SELECT count(*) FROM job WHERE outcome IS NULL'); };
my $before = $left->();
my $since = time;
while ((my $now = $left->()) > 0)
{
	$since = time if $now != $before;
	$before = $now;
	last if time > $since + stretched(30);
	$control->rows('SELECT job_unhold(id) FROM job_status WHERE held');
	$control->rows("SELECT CASE WHEN random() < 0.2 THEN (SELECT 1 FROM job_fail(job_id, token, retry => false)) ELSE (SELECT 2 FROM job_complete(job_id, token)) END FROM job_claim($queues, 'w', 50)");
	usleep(20_000);
}
is($left->(), 0, 'all flows and jobs come to an end') or diag(join "\n", map { join '|', map { $_ // '' } @$_ }
	$control->rows("SELECT id, flow, name, kind, state, e.reason, e.detail FROM job_status s, job_explain(s.id) e WHERE finished_at IS NULL ORDER BY id LIMIT 20"));

# How they ended follows from how their members did; the outcomes: 1 succeeded, 2 failed, 8 cancelled, 16 upstream_failed.
is($control->value(<<'EOQ'), 0, 'a flow has failed if a critical member has, or could not run, unless it was cancelled or timed out');
SELECT count(*) FROM job j JOIN job_flow f ON f.job_id = j.id
WHERE f.started_at IS NOT NULL AND j.outcome <> 8 AND j.error IS DISTINCT FROM 'timed out'
    AND NOT f.definition ? 'min_success' AND f.canary IS NULL
    AND j.outcome <> CASE WHEN EXISTS (SELECT FROM job m WHERE m.flow = j.id AND m.critical IS NULL AND m.outcome IN (2, 16)) THEN 2 ELSE 1 END
EOQ
is($control->value(<<'EOQ'), 0, 'a map has failed if too few items have succeeded, or a canary has not');
SELECT count(*) FROM job j JOIN job_flow f ON f.job_id = j.id,
    LATERAL (SELECT count(*) FILTER (WHERE outcome = 1) AS good, count(*) FILTER (WHERE outcome <> 4) AS n FROM job m WHERE m.flow = j.id) m
WHERE f.started_at IS NOT NULL AND j.outcome <> 8 AND j.error IS DISTINCT FROM 'timed out' AND f.definition ? 'min_success'
    AND j.outcome <> CASE WHEN m.good < ceil((f.definition ->> 'min_success')::numeric * m.n) OR f.canary IS NOT NULL AND m.good < m.n THEN 2 ELSE 1 END
EOQ
is($control->value(<<'EOQ'), 0, 'what a map that has succeeded gives is what its items have, in order');
SELECT count(*) FROM job j WHERE j.flow_type = 2 AND j.outcome = 1 AND j.result <> (SELECT coalesce(jsonb_agg(m.result ORDER BY m.id), '[]') FROM job m WHERE m.flow = j.id)
EOQ
is($control->value(<<'EOQ'), 0, 'one is cancelled only by those who did, or because of the flow around it');
SELECT count(*) FROM job WHERE flow_type IS NOT NULL AND outcome = 8 AND error IS DISTINCT FROM 'by the test' AND error NOT IN ('another member of its flow failed', 'a canary did not succeed', 'timed out')
    AND error <> 'superseded by another job with its unique key'
EOQ
is($control->value('SELECT count(*) FROM (SELECT FROM job WHERE flow IS NOT NULL AND name IS NOT NULL GROUP BY flow, name HAVING count(*) > 1) n'), 0, 'names are unique in a flow');
is($control->value(<<'EOQ'), 0, 'one that did not start has no members');
SELECT count(*) FROM job m JOIN job_flow f ON f.job_id = m.flow WHERE f.started_at IS NULL
EOQ
my @outcomes = $control->rows('SELECT outcome, count(*) FROM job WHERE flow_type IS NOT NULL GROUP BY 1 ORDER BY 1');
note(join ', ', map { "outcome $_->[0]: $_->[1]" } @outcomes);
invariants_hold($node, 'at the end');
tables_are_sound($node, 'at the end');

done_testing();
