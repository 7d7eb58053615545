# Maps of no item, of one, and of 100,000, whose list is the result of a job, of flows of maps, and of as many permits
# as there are canaries: run while sessions, the background worker and the server are killed.  Each item has one job, in
# order, and what the map results in has what each of them did.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = jobq_node('maps', conf => "restart_after_crash = on\njobq.max_result_size = '8MB'");
my $control = JobqClient->new($node);
my %gone = map { $_ => 1 } qw(57P01 57P02 57P03 JQ001);
my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';

$control->rows("SELECT job_queue_set('maps', backoff => '1 ms', lease => '2 s', max_attempts => 100, max_lost => 100)");

# Whoever works: each result is what the job has for an item; a list is as long as its args say.
sub work
{
	my $client;
	my $done = 0;
	until (-e $stop)
	{
		$client = reconnected($node, $client, $stop) or last;
		my $r = $client->try('SELECT job_id, token, CASE kind WHEN \'list\' THEN (SELECT coalesce(jsonb_agg(i), \'[]\') FROM generate_series(1, (args ->> \'n\')::int) i) ELSE args -> \'item\' END'
			. " FROM job_claim('maps', 'w', 500)", \%gone);
		next if $r->{lost} || $r->{sqlstate};
		my @jobs = @{ $r->{rows} };
		if (!@jobs)
		{
			usleep(2000);
			next;
		}
		my ($ids, $tokens, $results) = map { my $n = $_; 'ARRAY[' . join(',', map { $n < 2 ? $_->[$n] : JobqClient::quote($_->[$n] // 'null') } @jobs) . ']' } 0 .. 2;
		$r = $client->try("SELECT job_complete_many($ids, $tokens, ${results}::jsonb[])", \%gone);
		$done += @jobs unless $r->{lost} || $r->{sqlstate};
	}
	return \$done;
}

# A flow with a list of n, and a map over it.
sub submit
{
	my ($n, $map) = @_;
	return $control->value(<<"EOQ");
SELECT job_submit_flow('{"queue": "maps", "defaults": {"queue": "maps"}, "jobs": [{"name": "list", "kind": "list", "args": {"n": $n}},
    {"name": "map", "depends_on": ["list"], "map": {"\$result": "list"}, "job": {"kind": "item", "args": {"item": {"\$item": "\$"}}}, $map}], "result": {"\$result": "map"}}')
EOQ
}

# Wait until a flow is decided.
sub ended
{
	my ($flow) = @_;
	return within(300, sub {
		$control = reconnected($node, $control, "$stop.never");
		my $r = $control->try("SELECT finished_at IS NOT NULL FROM job_status WHERE id = $flow", \%gone);
		return !$r->{lost} && !$r->{sqlstate} && $r->{rows}[0][0] eq 't';
	});
}

my @clients = start_clients(2, \&work);
foreach my $n (0, 1, 100_000)
{
	my $flow = submit($n, '"max_running": null');
	my $begin = time;

	# while the items are inserted, and while they are worked on
	if ($n > 1)
	{
		foreach my $type ('jobq worker', 'server', 'jobq worker', 'client backend')
		{
			usleep(700_000);
			$control = reconnected($node, $control, "$stop.never");
			if ($type eq 'server')
			{
				$node->kill9;
				start_again($node);
				next;
			}
			my $r = $control->query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
			kill('KILL', $r->{rows}[0][0]) if !$r->{lost} && @{ $r->{rows} };
		}
	}
	ok(ended($flow), "a map of $n items ends");
	note(sprintf '%d items: %.1f s', $n, time - $begin);
	is($control->value("SELECT state FROM job_status WHERE id = $flow"), 'succeeded', 'it succeeds');
	is($control->value("SELECT count(*) FROM job i JOIN job m ON m.id = i.flow WHERE m.flow = $flow"), $n, 'there is a job for each item');
	is($control->value("SELECT result = (SELECT coalesce(jsonb_agg(i), '[]') FROM generate_series(1, $n) i) FROM job WHERE flow = $flow AND name = 'map'"), 't', 'its result has what they did, in order');
	# that is more than a flow takes over from a member
	is($control->value("SELECT result FROM job WHERE id = $flow"), $n == 0 ? '[]' : '[1]', 'and so has the flow') if $n < 2;
}

# 300 flows of maps of maps at once, with canaries, limits, and some that are gone through one by one
my @flows = map { my $i = $_; submit($i % 7, $i % 3 == 0 ? '"canary": 2' : $i % 3 == 1 ? '"max_running": 1' : '"on_failure": "cancel"') } 1 .. 200;
push @flows, map { $control->value(<<'EOQ') } 1 .. 100;
SELECT job_submit_flow('{"queue": "maps", "defaults": {"queue": "maps"}, "jobs": [{"name": "map", "map": [[1, 2], [], [3]], "canary": 1,
    "job": {"map": {"$item": "$"}, "max_running": 1, "job": {"jobs": [{"name": "a", "kind": "item", "args": {"item": {"$item": "$"}}}], "result": {"$result": "a"}}}}], "result": {"$result": "map"}}')
EOQ
foreach my $type ('jobq worker', 'client backend', 'jobq worker')
{
	usleep(300_000);
	$control = reconnected($node, $control, "$stop.never");
	my $r = $control->query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
	kill($type eq 'jobq worker' ? 'TERM' : 'KILL', $r->{rows}[0][0]) if !$r->{lost} && @{ $r->{rows} };
}
is(scalar(grep { !ended($_) } @flows), 0, 'many small maps end');
append_to_file($stop, '');
my @done = finish_clients(120, @clients);
note(join ', ', map { "$$_ completed" } @done);
is($control->value("SELECT string_agg(DISTINCT state, ' ') FROM job_status WHERE flow IS NULL"), 'succeeded', 'all succeed')
  or diag(join "\n", map { join '|', map { $_ // '' } @$_ } $control->rows("SELECT id, flow, name, state, error FROM job_status WHERE state NOT IN ('succeeded') ORDER BY id LIMIT 10"));
is($control->value(<<"EOQ"), 0, 'each with one result of each item, in order');
SELECT count(*) FROM (SELECT f.result, coalesce((SELECT jsonb_agg(i) FROM generate_series(1, (l.args ->> 'n')::int) i), '[]') AS should_be
    FROM job f JOIN job l ON l.flow = f.id AND l.name = 'list' WHERE f.id >= $flows[0]) r WHERE result <> should_be
EOQ
is($control->value("SELECT string_agg(DISTINCT result::text, '; ') FROM job WHERE id >= $flows[200] AND flow IS NULL"), '[[1, 2], [], [3]]', 'maps of maps of flows, too');
invariants_hold($node, 'at the end');

done_testing();
