# Limits of flows hold at every moment: flows with max_running, permits, pauses, draining, undos and flows in them are worked on by
# several clients while others change these settings, and the background worker, sessions and the server are killed.
# Never do more direct members of a flow run than may, never are permits spent that there were not, and in the end nothing is stuck.
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
my $flows = 60;     # of each client
my $queues = "ARRAY['red', 'green']";
my $node = jobq_node('flow_limits', conf => "max_prepared_transactions = 20\njobq.sweep_interval = 2s\nrestart_after_crash = on");
my $control = JobqClient->new($node);
$control->rows("SELECT job_queue_set('$_', backoff => '1 ms', lease => '1 s')") foreach qw(red green);
# one of them behind a gate
$control->rows("SELECT job_queue_set('green', max_running => 5)");

# What of a flow was set last: how many of its members may run since when, and the sum that permits, those that have
# one and the attempts that have begun make from then on; NULL: nothing is known of it.
$control->rows(<<'EOQ');
CREATE TABLE settings (flow bigint PRIMARY KEY, most int, since timestamptz, sum bigint);
-- attempts of members that have begun, a flow that was started is one, members that have a permit, and permits
CREATE VIEW sums AS
SELECT f.job_id AS flow, f.permits + (SELECT coalesce(sum(permits), 0) FROM job_delta WHERE downstream = f.job_id AND epoch = 0)
	+ coalesce(m.begun, 0) + coalesce(s.given, 0) AS sum
FROM job_flow f
	LEFT JOIN (SELECT j.flow, sum(CASE WHEN j.flow_type IS NOT NULL THEN (i.started_at IS NOT NULL)::int
			ELSE coalesce(j.attempt, w.attempt, c.attempt, g.attempt, r.attempt, l.attempt) END) AS begun
		FROM job j LEFT JOIN job_flow i ON i.job_id = j.id LEFT JOIN job_waiting w ON w.job_id = j.id LEFT JOIN job_scheduled c ON c.job_id = j.id
			LEFT JOIN job_limited g ON g.job_id = j.id LEFT JOIN job_ready r ON r.job_id = j.id LEFT JOIN job_lease l ON l.job_id = j.id
		WHERE j.flow IS NOT NULL GROUP BY 1) m ON m.flow = f.job_id
	LEFT JOIN (SELECT flow_id, count(*) AS given FROM (SELECT flow_id, slot FROM job_scheduled UNION ALL SELECT flow_id, slot FROM job_limited
			UNION ALL SELECT flow_id, slot FROM job_ready) x WHERE slot = 1 GROUP BY 1) s ON s.flow_id = f.job_id;
CREATE FUNCTION submit_flow(document jsonb) RETURNS void LANGUAGE sql AS $$
	INSERT INTO settings SELECT job_submit_flow(document), (document->'max_running')::int, '-infinity', (document->'permits')::int $$;
CREATE FUNCTION forget(of bigint) RETURNS SETOF int LANGUAGE sql AS $$ UPDATE settings SET sum = NULL WHERE flow = of RETURNING 1 $$;
-- others are kept from setting the same flow by its row here, which is locked first
CREATE FUNCTION set_flow(of bigint, p boolean, n int, m int, f text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	PERFORM FROM settings WHERE flow = of FOR UPDATE;
	PERFORM job_flow_set(of, p, n, m, f);
	-- what began until it was committed counts for nothing: who has set it says when that was
	UPDATE settings s SET most = CASE WHEN m IS NULL THEN s.most ELSE nullif(m, 0) END, since = CASE WHEN m IS NULL THEN s.since ELSE 'infinity' END,
		sum = CASE WHEN n IS NOT NULL AND s.sum IS NOT NULL THEN (SELECT u.sum FROM sums u WHERE u.flow = of) WHEN NOT p THEN NULL ELSE s.sum END
	WHERE s.flow = of;
END $$;
EOQ

my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my $json = JSON::PP->new->canonical;

sub again { return reconnected($node, $_[0], $stop); }

# What anybody may hear: it is somebody else's job by now, it has ended, is not to be prepared, or the server goes.
my %expected = map { $_ => 1 } qw(JQ001 JQ002 JQ003 0A000 22023 42704 57P01 57P02 57P03 40001 40P01 55P03);

sub try { return $_[0]->try($_[1], \%expected); }

sub chance { return rand() < $_[0]; }

sub one_of { return $_[ int(rand(@_)) ]; }

sub members
{
	my ($depth) = @_;
	my @jobs;
	foreach my $i (0 .. int(rand(10)))
	{
		my $job = { name => "m$i" };
		$job->{depends_on} = [ 'm' . int(rand($i)) ] if $i > 0 && chance(0.3);
		$job->{critical} = JSON::PP::false if chance(0.6);
		if ($depth < 2 && chance(0.15))
		{
			%$job = (%$job, %{ flow($depth + 1) });
		}
		else
		{
			%$job = (%$job, kind => 'work', queue => one_of('red', 'green'), priority => int(rand(3)), max_attempts => 1 + int(rand(2)), undo => { kind => 'undo' });
			$job->{hold} = JSON::PP::true if chance(0.05);
		}
		push @jobs, $job;
	}
	return \@jobs;
}

sub flow
{
	my ($depth) = @_;
	return {
		queue => 'flows', jobs => members($depth),
		(chance(0.5) ? (max_running => 1 + int(rand(3))) : ()), (chance(0.3) ? (permits => int(rand(4))) : ()),
		(chance(0.1) ? (paused => JSON::PP::true) : ()), (chance(0.4) ? (on_failure => one_of('cancel', 'drain', 'drain', 'undo')) : ()),
		(chance(0.03) ? (timeout => '300 ms') : ())
	};
}

sub act { return random_transaction(shift, \%expected, @_); }

# Settings of a flow are changed.
sub set
{
	my ($client) = @_;
	my ($flow) = map { $_->[0] } @{ try($client, "SELECT s.flow FROM settings s JOIN job j ON j.id = s.flow WHERE j.outcome IS NULL ORDER BY random() LIMIT 1")->{rows} // [] };
	return unless defined $flow;
	my $paused = chance(0.3) ? one_of('true', 'false') : 'NULL';
	my $permits = chance(0.4) ? int(rand(4)) : 'NULL';
	my $most = chance(0.5) ? int(rand(4)) : 'NULL';
	my $on_failure = chance(0.1) ? one_of("'continue'", "'drain'", "'undo'") : 'NULL';
	my $begun = act($client, "set_flow($flow, $paused, $permits, $most, $on_failure)");
	# a claim that has looked at the flow before may be a moment behind
	try($client, "UPDATE settings SET since = clock_timestamp() + interval '200 ms' WHERE flow = $flow AND since = 'infinity'") if $begun;
	return;
}

sub work
{
	my ($client, $log) = @_;
	my $n = 1 + int(rand(4));
	my $r = try($client, 'SELECT c.job_id, c.token, c.flow FROM ' . (chance(0.8) ? "job_claim($queues, 'w', $n) c"
		: "(SELECT id FROM job_flow_status WHERE state = 'running' ORDER BY random() LIMIT 1) f, job_claim_flow(f.id, 'w', $n) c"));
	return if $r->{lost} || $r->{sqlstate};
	foreach my $claim (@{ $r->{rows} })
	{
		my ($id, $token, $flow) = @$claim;
		$flow //= 'NULL';
		my $end = rand;
		last unless $client->connected;
		usleep(rand(20_000)) if chance(0.3);
		next if $end < 0.02;
		act($client,
			  $end < 0.65 ? "job_complete($id, $token)"
			: $end < 0.72 ? "job_next($id, $token, queues => $queues)"
			: $end < 0.78 ? "job_fail($id, $token, 'no luck', retry => false)"
			: $end < 0.84 ? "job_fail($id, $token, 'no luck')"
			: $end < 0.89 ? "job_release($id, $token)"
			: $end < 0.92 ? "job_snooze($id, $token, '20 ms')"
			: $end < 0.94 ? "job_take_back($id)"
			: ("job_submit('work', queue => 'red', flow => $flow)", "job_complete($id, $token)"));
		$log->{ended}++;
	}
	return;
}

sub run
{
	my %log = (submitted => 0, ended => 0);
	my $client;
	my $waits = "(SELECT id FROM job_status WHERE flow IS NOT NULL AND state IN ('waiting', 'scheduled', 'ready') ORDER BY random() LIMIT 1) j";
	until (-e $stop)
	{
		$client = again($client) or last;
		my $dice = rand;
		if ($dice < 0.07)
		{
			next if $log{submitted} >= $flows;
			$log{submitted}++;
			act($client, 'submit_flow(' . JobqClient::quote($json->encode(flow(0))) . ')');
		}
		elsif ($dice < 0.17)
		{
			set($client);
		}
		elsif ($dice < 0.20)
		{
			act($client, one_of('job_hold(id)', 'job_cancel(id)', 'job_change(id, priority => 2)', q(job_change(id, run_at => now() + interval '30 ms')), q(job_decide(id, 'succeeded'))) . " FROM $waits");
		}
		elsif ($dice < 0.22)
		{
			act($client, 'job_unhold(id) FROM (SELECT id FROM job_status WHERE held ORDER BY random() LIMIT 3) j');
		}
		elsif ($dice < 0.23)
		{
			# a flow inside that is opened again takes a slot whether there is one or not: of others, a member
			my ($row) = @{ try($client, 'SELECT m.id, m.flow FROM job m JOIN job f ON f.id = m.flow WHERE f.flow IS NULL AND m.flow_type IS NULL AND m.outcome IN (2, 8) ORDER BY random() LIMIT 1')->{rows} // [] };
			act($client, "1 FROM forget($row->[1])", "job_retry($row->[0])") if $row;
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
SELECT 'of flow ' || s.flow || ' run ' || r.n || ', and ' || s.most || ' may' FROM settings s
	JOIN LATERAL (SELECT count(*) AS n FROM (SELECT started_at FROM job_lease WHERE flow_id = s.flow UNION ALL SELECT started_at FROM job_flow WHERE flow_id = s.flow AND open) x
		WHERE x.started_at > s.since) r ON r.n > s.most
UNION ALL
SELECT 'of flow ' || t.flow || ' the permits are ' || s.sum || ', and should be ' || t.sum FROM settings t JOIN sums s USING (flow) JOIN job_flow f ON f.job_id = t.flow WHERE f.open AND s.sum <> t.sum
UNION ALL
SELECT 'of flow ' || f.job_id || ' inside run ' || r.n || ', and ' || f.max_running || ' may' FROM job_flow f LEFT JOIN settings s ON s.flow = f.job_id
	JOIN LATERAL (SELECT count(*) AS n FROM (SELECT 1 FROM job_lease WHERE flow_id = f.job_id UNION ALL SELECT 1 FROM job_flow i WHERE i.flow_id = f.job_id AND i.open) x) r ON r.n > f.max_running
WHERE f.open AND s.flow IS NULL
UNION ALL
SELECT 'of flow ' || f.job_id || ' permits are less than none' FROM job_flow f WHERE f.permits < 0
EOQ
		next if $r->{lost} || $r->{sqlstate};
		push @wrong, map { $_->[0] } @{ $r->{rows} };
		$looks++;
	}
	return { looks => $looks, wrong => \@wrong };
}

my @clients = start_clients(5, \&run);
my @watchers = start_clients(1, \&watch);
disturb($node, \$control, $kills, $stop, crash => 1);
invariants_hold($node, 'meanwhile');
append_to_file($stop, '');
my %sum = (submitted => 0, ended => 0);
foreach my $log (finish_clients(120, @clients))
{
	$sum{$_} += $log->{$_} foreach keys %sum;
}
my ($seen) = finish_clients(120, @watchers);
note("$sum{submitted} flows, $sum{ended} attempts, $seen->{looks} looks");
cmp_ok($sum{submitted}, '>', 10, 'flows were submitted');
cmp_ok($seen->{looks}, '>', 10, 'somebody looked');
is(join("\n", @{ $seen->{wrong} }[0 .. ($#{ $seen->{wrong} } > 4 ? 4 : $#{ $seen->{wrong} })]), '', 'no limit was exceeded, no permit was made or lost');
unlink $stop;

# What was prepared by somebody who was killed then
$control->connect or die 'no connection';
$control->rows("ROLLBACK PREPARED '$_->[0]'") foreach $control->rows('SELECT gid FROM pg_prepared_xacts');

# All that is left comes to an end once nothing is paused, and there are permits: within the limits of how many run.
my $left = sub { return $control->value('SELECT count(*) FROM job WHERE outcome IS NULL'); };
my $before = $left->();
my $since = time;
while ((my $now = $left->()) > 0)
{
	$since = time if $now != $before;
	$before = $now;
	last if time > $since + stretched(30);
	$control->query("SELECT job_flow_set(id, paused => false) FROM job_flow_status WHERE finished_at IS NULL AND (paused OR permits IS NOT NULL)");
	$control->rows('SELECT job_unhold(id) FROM job_status WHERE held');
	$control->rows("SELECT CASE WHEN random() < 0.2 THEN (SELECT 1 FROM job_fail(job_id, token, retry => false)) ELSE (SELECT 2 FROM job_complete(job_id, token)) END FROM job_claim($queues, 'w', 50)");
	$control->rows("SELECT job_retry(id) FROM job_status WHERE kind = 'undo' AND state = 'failed'");
	usleep(20_000);
}
is($left->(), 0, 'all flows and jobs come to an end') or diag(join "\n", map { join '|', map { $_ // '' } @$_ }
	$control->rows("SELECT id, flow, name, kind, state, e.reason, e.detail FROM job_status s, job_explain(s.id) e WHERE finished_at IS NULL ORDER BY id LIMIT 20"));
is($control->value(<<'EOQ'), 0, 'what is to be undone is, once it has failed');
SELECT count(*) FROM job_flow f JOIN job j ON j.id = f.job_id WHERE f.on_failure = 3 AND j.outcome = 2 AND f.started_at IS NOT NULL AND f.undone_by IS NULL AND j.error NOT LIKE '%could not be undone%'
EOQ
is($control->value('SELECT count(*) FROM job_flow WHERE running <> 0 AND NOT EXISTS (SELECT FROM job_delta WHERE downstream = job_id)'), 0, 'no slot is left');
my @outcomes = $control->rows('SELECT outcome, count(*) FROM job WHERE flow_type IS NOT NULL GROUP BY 1 ORDER BY 1');
note(join ', ', map { "outcome $_->[0]: $_->[1]" } @outcomes);
invariants_hold($node, 'at the end');
tables_are_sound($node, 'at the end');

done_testing();
