# Random graphs and flows, of which jobs are retried with all that follows, beside those who work, submit what depends on them,
# cancel, and copy flows, while the background worker, sessions and the server are killed.  Each result names the attempt
# that it is of, and the results that this has got.  In the end each job has run with what its parents say then.
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
my $submissions = 150;    # of each client
my $queues = "ARRAY['red', 'green']";
my $node = jobq_node('again', conf => "max_prepared_transactions = 20\njobq.sweep_interval = 2s\nrestart_after_crash = on\nlog_lock_waits = on");
my $control = JobqClient->new($node);
$control->rows("SELECT job_queue_set('$_', backoff => '1 ms', lease => '1 s')") foreach qw(red green);
# in one of them, one after the other
$control->rows("SELECT job_queue_set('green', max_running => 5, ordered => true)");

my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $json = JSON::PP->new->canonical;

sub again { return reconnected($node, $_[0], $stop); }

# What anybody may hear: it is somebody else's job by now, has ended, follows from one that runs, is gone, or the server goes.
my %expected = map { $_ => 1 } qw(JQ001 JQ002 JQ003 0A000 22023 23505 42704 57P01 57P02 57P03 40001 40P01 55P03);

sub try { return $_[0]->try($_[1], \%expected); }

sub chance { return rand() < $_[0]; }

sub rule
{
	my ($n) = @_;
	my $rule = chance(0.6) ? 'all_success' : $RULES[ int(rand(@RULES)) ];
	return $rule ne 'quorum' ? (trigger_rule => $rule) : (trigger_rule => $rule, quorum => 1 + int(rand($n)));
}

sub place { return (queue => chance(0.7) ? 'red' : 'green', partition => 'p' . int(rand(3)), max_attempts => 1 + int(rand(2))); }

# The members of a flow: what they depend on comes before them.
sub flow
{
	my ($depth) = @_;
	my @jobs;
	foreach my $i (0 .. int(rand(8)))
	{
		my %up = map { 'm' . int(rand($i)) => 1 } 1 .. int(rand(3));
		my $job = { name => "m$i" };
		if ($i > 0 && %up)
		{
			$job->{depends_on} = [ sort keys %up ];
			%$job = (%$job, rule(scalar keys %up));
			$job->{args} = { of => $job->{depends_on}[0], result => { '$result' => $job->{depends_on}[0] } };
		}
		$job->{critical} = JSON::PP::false if chance(0.2);
		if ($depth < 2 && chance(0.2))
		{
			%$job = (%$job, %{ flow($depth + 1) }, args => { of => $job->{args}{of}, result => $job->{args}{result} });
		}
		else
		{
			%$job = (%$job, kind => 'work', place());
		}
		push @jobs, $job;
	}
	return { queue => 'flows', jobs => \@jobs, result => { '$result' => $jobs[-1]{name} }, (chance(0.2) ? (on_failure => 'cancel') : ()) };
}

# A few jobs that depend on each other, some of them on jobs that are there.
sub graph
{
	my (@there) = @_;
	my @jobs;
	foreach my $i (0 .. int(rand(6)))
	{
		my %up = map { "j" . int(rand($i)) => 1 } 1 .. ($i > 0 ? int(rand(3)) : 0);
		my @up = (sort(keys %up), map { $_ + 0 } grep { chance(0.4) } @there);
		my @key = chance(0.3) ? (unique_key => 'k' . int(rand(8)), on_conflict => 'keep') : ();
		push @jobs, { kind => 'work', name => "j$i", place(), @key, (@up ? (depends_on => \@up, rule(scalar @up)) : ()) };
	}
	return $json->encode(\@jobs);
}

# One call, or several in a transaction: committed, rolled back, or prepared before.
sub act
{
	my ($client, @calls) = @_;
	my $end = rand;
	my $done = 0;
	try($client, 'BEGIN' . (chance(0.2) ? ' ISOLATION LEVEL REPEATABLE READ' : ''));
	foreach my $call (@calls)
	{
		my $savepoint = chance(0.1);
		last unless $client->connected && $client->status eq 'T';
		try($client, 'SAVEPOINT s') if $savepoint;
		my $r = try($client, "SELECT $call") if $client->connected;
		$done += grep { ($_->[0] // '') eq 't' } @{ $r->{rows} // [] };
		try($client, 'ROLLBACK TO s') if $savepoint && $client->connected && chance(0.5);
	}
	return 0 unless $client->connected;
	end_prepared($client, chance(0.5) ? 'COMMIT' : 'ROLLBACK', \%expected) if $end < 0.03 && $client->status eq 'T';
	try($client, $end < 0.1 ? 'ROLLBACK' : 'COMMIT') if $client->connected && $client->status ne 'I';
	return $done;
}

# What an attempt has got, and which it was.
sub result
{
	my ($id, $attempt, $args, $inputs) = @_;
	my %result = (run => "$id.$attempt", in => { map { $_ => ref $inputs->{$_} ? $inputs->{$_}{run} : undef } keys %$inputs });
	$result{ref} = $args->{result}{run} if ref $args->{result};
	return JobqClient::quote($json->encode(\%result));
}

sub work
{
	my ($client, $log) = @_;
	my $r = try($client, "SELECT job_id, token, attempt, args, inputs FROM job_claim($queues, 'w', " . (1 + int(rand(4))) . ')');
	return if $r->{lost} || $r->{sqlstate};
	foreach my $claim (@{ $r->{rows} })
	{
		my ($id, $token, $attempt, $args, $inputs) = @$claim;
		my $result = result($id, $attempt, $json->decode($args), $json->decode($inputs));
		my $end = rand;
		last unless $client->connected;
		next if $end < 0.02;
		act($client,
			  $end < 0.8 ? "job_complete($id, $token, $result)"
			: $end < 0.9 ? "job_fail($id, $token, 'no luck', retry => false)"
			: $end < 0.97 ? "job_fail($id, $token, 'no luck')"
			: "job_release($id, $token)");
		$log->{ended}++;
	}
	return;
}

# Those who submit, and retry.
sub run
{
	my %log = (submitted => 0, ended => 0, retried => 0);
	my $client;
	my $some = "(SELECT id FROM job WHERE outcome %s ORDER BY random() LIMIT %s) j";
	until (-e $stop)
	{
		$client = again($client) or last;
		my $dice = rand;
		if ($dice < 0.06)
		{
			next if $log{submitted} >= $submissions;
			$log{submitted}++;
			if (chance(0.5))
			{
				act($client, 'job_submit_flow(' . JobqClient::quote($json->encode(flow(0))) . ')');
			}
			else
			{
				my $r = try($client, 'SELECT id FROM ' . sprintf($some, chance(0.7) ? '= 1' : 'IS DISTINCT FROM 0', 4));
				next if $r->{lost} || $r->{sqlstate};
				act($client, 'count(*) FROM job_submit_many(' . JobqClient::quote(graph(map { $_->[0] } @{ $r->{rows} })) . ')');
			}
		}
		elsif ($dice < 0.09)
		{
			$log{retried} += act($client, 'job_retry(id, true) FROM ' . sprintf($some, 'IS NOT NULL', 1));
		}
		elsif ($dice < 0.10)
		{
			$log{retried} += act($client, "changed FROM job_retry_many(ARRAY (SELECT id FROM " . sprintf($some, 'IS NOT NULL', 3) . '), true)');
		}
		elsif ($dice < 0.11)
		{
			# of flows, too, which are few
			$log{retried} += act($client, "job_retry(id, true) FROM (SELECT id FROM job WHERE flow_type IS NOT NULL AND outcome IS NOT NULL ORDER BY random() LIMIT 1) j");
		}
		elsif ($dice < 0.12)
		{
			act($client, "job_cancel(id, 'by the test') FROM " . sprintf($some, 'IS NULL', 1));
		}
		elsif ($dice < 0.13)
		{
			next if $log{submitted} >= $submissions;
			$log{submitted}++;
			act($client, "job_clone(id, " . (chance(0.3) ? 'NULL' : "ARRAY (SELECT name FROM job m WHERE m.flow = j.id AND name IS NOT NULL ORDER BY random() LIMIT " . int(rand(3)) . ")") . ") "
				. "FROM (SELECT id FROM job WHERE flow_type IS NOT NULL AND outcome IS NOT NULL ORDER BY random() LIMIT 1) j");
		}
		elsif ($dice < 0.14)
		{
			act($client, "job_delete(id) FROM (SELECT id FROM job WHERE outcome IS NOT NULL AND NOT EXISTS (SELECT FROM job_dependency WHERE upstream = id) ORDER BY random() LIMIT 1) j");
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
UNION ALL SELECT m.id, m.former_flow, 'was a member, and is undecided' FROM job m WHERE m.former_flow IS NOT NULL AND m.outcome IS NULL
UNION ALL SELECT l.job_id, d.upstream, 'runs, and what it depends on is undecided' FROM job_lease l JOIN job c ON c.id = l.job_id AND c.rule IN (0, 1, 2, 3, 6, 7, 8)
    JOIN job_dependency d ON d.downstream = c.id JOIN job p ON p.id = d.upstream AND p.outcome IS NULL
EOQ
		next if $r->{lost} || $r->{sqlstate};
		push @wrong, map { join ' ', map { $_ // '' } @$_ } @{ $r->{rows} };
		$looks++;
	}
	return { looks => $looks, wrong => \@wrong };
}

my @clients = start_clients(5, \&run);
my @watchers = start_clients(1, \&watch);
foreach my $n (1 .. $kills)
{
	usleep(300_000 + rand(700_000));
	$control = again($control);
	if ($n % 4 == 0)
	{
		$node->kill9;
		start_again($node);
		next;
	}
	# two of three end one process only, the third has the server start again
	my $type = $n % 2 ? 'jobq worker' : 'client backend';
	my $r = $control->query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
	kill($n % 4 == 3 ? 'KILL' : 'TERM', $r->{rows}[0][0]) if !$r->{lost} && @{ $r->{rows} };
}
invariants_hold($node, 'meanwhile');
append_to_file($stop, '');
my @logs = finish_clients(120, @clients);
my ($seen) = finish_clients(120, @watchers);
my %sum = (submitted => 0, ended => 0, retried => 0);
foreach my $log (@logs)
{
	$sum{$_} += $log->{$_} foreach keys %sum;
}
note("$sum{submitted} submissions, $sum{ended} attempts, $sum{retried} retries, $seen->{looks} looks");
cmp_ok($sum{submitted}, '>', 10, 'flows and jobs were submitted');
cmp_ok($sum{retried}, '>', 10, 'some were retried');
cmp_ok($seen->{looks}, '>', 10, 'somebody looked');
is("@{ $seen->{wrong} }[0 .. ($#{ $seen->{wrong} } > 4 ? 4 : $#{ $seen->{wrong} })]", '', 'nothing ran before what it depends on had ended, nor outside of its flow');
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
	foreach my $claim ($control->rows("SELECT job_id, token, attempt, args, inputs FROM job_claim($queues, 'w', 50)"))
	{
		my ($id, $token, $attempt, $args, $inputs) = @$claim;
		$control->query(chance(0.1) ? "SELECT job_fail($id, $token, retry => false)"
			: "SELECT job_complete($id, $token, " . result($id, $attempt, $json->decode($args), $json->decode($inputs)) . ')');
	}
	usleep(20_000);
}
is($left->(), 0, 'all jobs come to an end') or diag(join "\n", map { join '|', map { $_ // '' } @$_ }
	$control->rows("SELECT id, flow, name, kind, state, e.reason, e.detail FROM job_status s, job_explain(s.id) e WHERE finished_at IS NULL ORDER BY id LIMIT 20"));

# Of the rules that wait for all: 0 all_success, 1 all_failed, 2 all_done, 3 all_skipped, 6 none_failed, 7 none_skipped, 8 none_failed_min_one_success.
my $ran = "FROM job c JOIN job_dependency d ON d.downstream = c.id AND d.require <> 63 JOIN job p ON p.id = d.upstream WHERE c.outcome = 1 AND c.attempt_outcome = 0 AND c.rule IN (0, 1, 2, 3, 6, 7, 8)";
cmp_ok($control->value("SELECT count(*) $ran AND p.generation > 0"), '>', 10, 'jobs have run after others that were opened again');
is(join("\n", map { join ' ', map { $_ // 'NULL' } @$_ } $control->rows(<<EOQ)), '', 'each has run with what its parents say');
SELECT c.id, c.result, p.id, p.name, p.outcome, p.result $ran
    AND CASE WHEN p.outcome = 1 THEN p.result ->> 'run' END IS DISTINCT FROM coalesce(c.result -> 'in' ->> p.id::text, c.result -> 'in' ->> p.name) LIMIT 5
EOQ
is(join("\n", map { join ' ', map { $_ // 'NULL' } @$_ } $control->rows(<<EOQ)), '', 'and with what its references say');
SELECT c.id, c.result, p.id, p.name, p.outcome, p.result $ran AND c.flow = p.flow AND c.args ->> 'of' = p.name
    AND CASE WHEN p.outcome = 1 THEN p.result ->> 'run' END IS DISTINCT FROM c.result ->> 'ref' LIMIT 5
EOQ
# a flow has the result of its last member
is(join("\n", map { join ' ', map { $_ // 'NULL' } @$_ } $control->rows(<<'EOQ')), '', 'so has each flow');
SELECT f.id, f.result, m.id, m.outcome, m.result FROM job f JOIN job_flow r ON r.job_id = f.id AND r.started_at IS NOT NULL JOIN job m ON m.flow = f.id AND m.name = r.definition -> 'result' ->> '$result'
WHERE f.outcome = 1 AND coalesce(f.result, 'null') <> coalesce(CASE WHEN m.outcome = 1 THEN m.result END, 'null') LIMIT 5
EOQ
note(join ', ', map { "$_->[0]: $_->[1]" } $control->rows("SELECT job_outcome_name(outcome), count(*) FROM job GROUP BY 1 ORDER BY 1"));
note($control->value('SELECT count(*) FROM job WHERE former_flow IS NOT NULL') . ' former members, ' . $control->value('SELECT count(*) FROM job WHERE outcome = 1 AND flow IS NOT NULL AND attempt = 0 AND flow_type IS NULL') . ' taken over');
invariants_hold($node, 'at the end');
tables_are_sound($node, 'at the end');

done_testing();
