# Sagas: each shape of up to five members, with each combination of how these can end, run and undone, with a ledger of what
# was done to the world outside.  An effect is committed by itself, as one outside of the database is; a job that is lost may
# have had it or not.  In the end each effect is taken back, in an order that reverses the edges, and nothing is that was not
# there.  In mode "repeat" all that is done is done twice at once.  JOBQ_SEED repeats the dice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('sagas', conf => "synchronous_commit = off\njobq.max_lost = 1\njobq.max_attempts = 1");
my $c = JobqClient->new($node);
my $json = JSON::PP->new->canonical;

#
# The shapes: the edges of each graph of n members up to isomorphism, each with all ways in which its members can end, up to
# those that are the same
#

# All orders of 0 .. n - 1.
sub orders
{
	my ($n) = @_;
	return [] unless $n;
	my @orders;
	foreach my $order (orders($n - 1))
	{
		push @orders, [ @$order[ 0 .. $_ - 1 ], $n - 1, @$order[ $_ .. $#$order ] ] foreach 0 .. $n - 1;
	}
	return @orders;
}

# The graph, as a number with a bit for each pair, that the members of one are in this order.
sub renamed
{
	my ($edges, $order) = @_;
	my @there;
	$there[ $order->[ $_->[0] ] ][ $order->[ $_->[1] ] ] = 1 foreach @$edges;
	return join '', map { my $i = $_; map { $there[$i][$_] ? 1 : 0 } 0 .. $#$order } 0 .. $#$order;
}

# How a member can end whose parents have all succeeded: S succeeded, F failed, D lost, having had its effect, d lost without,
# C cancelled while it ran, N never begun.  The others, -, could not begin.
my @ends = qw(S F D d C N);

# Each graph of n members, with each combination of these.
sub scenarios
{
	my ($n) = @_;
	my @orders = orders($n);
	my @pairs = map { my $j = $_; map { [ $_, $j ] } 0 .. $j - 1 } 0 .. $n - 1;
	my (%graphs, @scenarios);
	foreach my $graph (0 .. 2**@pairs - 1)
	{
		my $edges = [ map { $pairs[$_] } grep { $graph >> $_ & 1 } 0 .. $#pairs ];
		my $same = renamed($edges, [ 0 .. $n - 1 ]);
		next if $graphs{$same};
		$graphs{ renamed($edges, $_) } = 1 foreach @orders;
		my @symmetric = grep { renamed($edges, $_) eq $same } @orders;
		my @parents = map { my $j = $_; [ map { $_->[0] } grep { $_->[1] == $j } @$edges ] } 0 .. $n - 1;
		my @combinations = ([]);
		foreach my $j (0 .. $n - 1)
		{
			@combinations = map { my $before = $_; map { [ @$before, $_ ] } (grep { $before->[$_] ne 'S' } @{ $parents[$j] }) ? '-' : @ends } @combinations;
		}
		my %seen;
		foreach my $ended (@combinations)
		{
			next if $seen{ join '', @$ended };
			$seen{ join '', map { $ended->[ $_ ] } @$_ } = 1 foreach @symmetric;
			push @scenarios, { parents => \@parents, ended => $ended };
		}
	}
	return @scenarios;
}

# As a flow.  Each member has its effect and takes it back; one of eight, at random, does neither.
sub saga
{
	my ($s, $nr, $first) = @_;
	my @jobs;
	foreach my $i ($first // 0 .. $#{ $s->{ended} })
	{
		my $end = $s->{ended}[$i];
		push @jobs, {
			name => "m$i", kind => 'act', args => { saga => $nr, member => $i, 'end' => $end },
			(@{ $s->{parents}[$i] } ? (depends_on => [ map { "m$_" } @{ $s->{parents}[$i] } ]) : ()),
			($end eq 'N' ? (hold => JSON::PP::true) : ()),
			(rand() < 0.125 ? () : (undo => { kind => 'undo', args => { saga => $nr, member => $i, key => { '$undo' => 'key' }, result => { '$undo' => 'result' } } })) };
	}
	return { name => "saga $nr", queue => 'sagas', defaults => { queue => 'sagas' }, jobs => \@jobs };
}

#
# The world outside, and who acts on it
#

$c->rows(<<'EOQ');
CREATE TABLE ledger (key text PRIMARY KEY, saga int, member text, done_at bigint, undone_at bigint, times int DEFAULT 1);
CREATE TABLE wrong (what text);
CREATE TABLE running (job_id bigint, token bigint);
CREATE SEQUENCE happened;
CREATE FUNCTION effect(k text, s int, m text) RETURNS void LANGUAGE sql AS $$
    INSERT INTO ledger VALUES (k, s, m, nextval('happened')) ON CONFLICT (key) DO UPDATE SET times = ledger.times + 1 $$;
CREATE FUNCTION undo(k text, s int, m text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    UPDATE ledger SET undone_at = coalesce(undone_at, nextval('happened')) WHERE key = k AND saga = s AND member = m;
    IF NOT FOUND THEN
        INSERT INTO wrong VALUES (format('saga %s: %s is undone, and was not done', s, m));
    END IF;
END $$;
-- Act on some jobs; times: how often what is done is done.
CREATE PROCEDURE act(times int, stuck float8) LANGUAGE plpgsql AS $$
DECLARE
    c job_assignment;
    a record;
BEGIN
    FOR c IN SELECT * FROM job_claim('sagas', max_jobs => 50) LOOP
        SELECT x.* INTO a FROM jsonb_to_record(c.args) x (saga int, member text, "end" text, key text, result jsonb);
        IF c.kind = 'undo' THEN
            IF a.key <> c.key OR a.result IS DISTINCT FROM '"done"' THEN
                INSERT INTO wrong VALUES (format('saga %s: %s is undone with key %s of %s and %s', a.saga, a.member, c.key, a.key, a.result));
            END IF;
            IF random() < stuck THEN
                PERFORM job_fail(c.job_id, c.token, 'cannot be taken back now', retry => false);
                CONTINUE;
            END IF;
            FOR i IN 1 .. times LOOP
                PERFORM undo(c.key, a.saga, a.member);
            END LOOP;
            PERFORM job_complete(c.job_id, c.token);
        ELSIF EXISTS (SELECT FROM job WHERE id = c.job_id AND repeats) THEN
            -- done before, or now, or found not to have been
            IF EXISTS (SELECT FROM ledger WHERE key = c.key) OR random() < 0.5 THEN
                PERFORM effect(c.key, a.saga, a.member);
                PERFORM job_complete(c.job_id, c.token, '"done"');
            ELSE
                PERFORM job_fail(c.job_id, c.token, 'it was not done', retry => false);
            END IF;
        ELSE
            FOR i IN 1 .. CASE WHEN a."end" IN ('S', 'D') THEN times ELSE 0 END LOOP
                PERFORM effect(c.key, a.saga, a.member);
            END LOOP;
            CASE a."end"
                WHEN 'S' THEN PERFORM job_complete(c.job_id, c.token, '"done"');
                WHEN 'F' THEN PERFORM job_fail(c.job_id, c.token, 'it cannot be done');
                WHEN 'C' THEN INSERT INTO running VALUES (c.job_id, c.token);
                ELSE PERFORM job_take_back(c.job_id);
            END CASE;
        END IF;
    END LOOP;
END $$;
EOQ

# Flows in these states, among those of a kind.
my $in = sub { return $c->value("SELECT count(*) FROM job WHERE flow_type IS NOT NULL AND flow IS NULL AND $_[0]"); };

# Work until nothing is left that could be done; returns whether it came to that.
sub work
{
	my ($times, $stuck) = @_;
	return within(120, sub {
		$c->rows("CALL act($times, $stuck)") while $c->value("SELECT EXISTS (SELECT FROM job_ready)") eq 't';
		# those that the background worker is about to move, close or start
		return $c->value("SELECT EXISTS (SELECT FROM job_ready) OR EXISTS (SELECT FROM job_delta) OR EXISTS (SELECT FROM job_scheduled) OR EXISTS (SELECT FROM job_cancel_request)") eq 'f';
	});
}

# Run some sagas, and undo them; one test that says whether all is as it should be.
sub run_sagas
{
	my ($name, $times, @sagas) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	subtest $name => sub {
		$c->rows('TRUNCATE ledger, wrong, running, edges, sagas');
		1 while $c->value("SELECT job_purge(older_than => '0', max_jobs => 1000000000)") > 0;
		my $nr = 0;
		foreach my $saga (@sagas)
		{
			$nr++;
			$c->rows('INSERT INTO sagas SELECT ' . $nr . ', job_submit_flow(' . JobqClient::quote($json->encode($saga->{flow}->($nr))) . ')');
			$c->rows("INSERT INTO edges VALUES " . join(', ', map { "($nr, '$_->[0]', '$_->[1]')" } @{ $saga->{edges} })) if @{ $saga->{edges} };
		}
		ok(work($times, 0), 'they come as far as they do by themselves');
		$c->rows('SELECT job_cancel(s.flow) FROM sagas s JOIN job ON id = s.flow WHERE outcome IS NULL');
		ok(within(120, sub { $c->value('SELECT count(*) FROM job_lease WHERE NOT cancel_requested') == 0 && $c->value('SELECT count(*) FROM job_cancel_request') == 0 }), 'who runs on hears of it');
		$c->rows('SELECT job_fail(job_id, token) FROM running');
		ok(work($times, 0) && $c->value('SELECT count(*) FROM sagas s JOIN job ON id = s.flow WHERE outcome IS NULL') == 0, 'all have ended');
		my @done = $c->rows('SELECT count(*), coalesce(sum((times > 1)::int), 0) FROM ledger');
		$c->rows('UPDATE sagas SET undo = job_undo(flow)');
		my $stuck = 0.15;
		my $rounds = 0;
		while (work($times, $stuck) && $c->value('SELECT count(*) FROM sagas s JOIN job ON id = s.undo WHERE outcome = 2') > 0)
		{
			last if ++$rounds > 20;
			# a person takes some of them back
			$c->rows(<<'EOQ') if $rounds == 2;
SELECT job_retry(m.id), undo(job_key.key, (m.args ->> 'saga')::int, m.args ->> 'member'), job_decide(m.id, 'succeeded')
FROM job m JOIN job o ON o.id = m.undo_of, LATERAL (SELECT format('%s-%s-%s', o.id, to_hex((extract(epoch FROM o.submitted_at - '2000-01-01 UTC') * 1000000)::bigint), coalesce(o.key_generation, o.generation)) AS key) job_key
WHERE m.kind = 'undo' AND m.outcome = 2 AND m.id % 3 = 0
EOQ
			$c->rows('SELECT job_retry(s.undo) FROM sagas s JOIN job ON id = s.undo WHERE outcome = 2');
			$stuck /= 2;
		}
		is($c->value('SELECT count(*) FROM sagas s JOIN job ON id = s.undo WHERE outcome IS DISTINCT FROM 1'), 0, 'all are undone')
		  or diag(join "\n", map { join '|', map { $_ // '' } @$_ } $c->rows('SELECT s.flow, s.undo, outcome, error FROM sagas s JOIN job ON id = s.undo WHERE outcome IS DISTINCT FROM 1 LIMIT 5'));
		all_is_taken_back($name);
		note("$nr sagas, $done[0][0] effects, $done[0][1] more than once, stuck in $rounds rounds");
		is($done[0][1] > 0, $times > 1, 'how often each was done');
	};
	return;
}

# Tests: what the ledger says.
sub all_is_taken_back
{
	my ($name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is($c->value(<<'EOQ'), '', "$name: each effect is there or taken back");
SELECT coalesce(string_agg(format('saga %s: %s (%s)', saga, member, j.args ->> 'end'), E'\n'), '')
FROM (SELECT l.* FROM ledger l WHERE undone_at IS NULL LIMIT 10) l JOIN job j ON j.id = split_part(l.key, '-', 1)::bigint WHERE j.undo IS NOT NULL
EOQ
	is($c->value("SELECT coalesce(string_agg(what, E'\n'), '') FROM (SELECT * FROM wrong LIMIT 10) w"), '', "$name: nothing is that was not done");
	is($c->value(<<'EOQ'), '', "$name: in an order that reverses the edges");
WITH RECURSIVE path AS (SELECT saga, up, down FROM edges UNION SELECT p.saga, p.up, e.down FROM path p JOIN edges e ON e.saga = p.saga AND e.up = p.down)
SELECT coalesce(string_agg(format('saga %s: %s before %s', p.saga, p.up, p.down), E'\n'), '')
FROM path p JOIN ledger u ON u.saga = p.saga AND u.member = p.up JOIN ledger d ON d.saga = p.saga AND d.member = p.down WHERE u.undone_at < d.undone_at
EOQ
	invariants_hold($node, $name);
	return;
}

$c->rows('CREATE TABLE edges (saga int, up text, down text); CREATE TABLE sagas (saga int PRIMARY KEY, flow bigint, undo bigint)');

# Scenarios as sagas.
sub plain
{
	return map { my $s = $_; { flow => sub { saga($s, $_[0]) }, edges => [ map { my $j = $_; map { [ $_, $j ] } @{ $s->{parents}[$j] } } 0 .. $#{ $s->{parents} } ] } } @_;
}

run_sagas("all of $_", 1, plain(scenarios($_))) foreach 1 .. 5;
run_sagas("all of $_, done twice", 2, plain(scenarios($_))) foreach 1 .. 3;

#
# With flows in them: a scenario some of whose members that succeed, or that have something in them that does not, are flows
#

my @small = map { scenarios($_) } 1 .. 3;

# A flow's jobs, the names of all that can have effects in each member, and the order of these; names begin with the prefix.
sub nested
{
	my ($s, $nr, $prefix, $depth) = @_;
	my $saga = saga($s, $nr);
	my (@names, @edges);
	foreach my $i (0 .. $#{ $saga->{jobs} })
	{
		my $job = $saga->{jobs}[$i];
		my $name = "$prefix$job->{name}";
		$names[$i] = [$name];
		if ($depth < 3 && $s->{ended}[$i] =~ /[SF]/ && rand() < 0.4)
		{
			# all that is in it succeeds, or not
			my @fit = grep { my $fails = grep { $_ ne 'S' } @{ $_->{ended} }; $s->{ended}[$i] eq 'S' ? !$fails : $fails && !grep { /[CN]/ } @{ $_->{ended} } } @small;
			my ($in, $inner, $order) = nested($fit[ rand @fit ], $nr, "$name.", $depth + 1);
			delete @$job{qw(kind args undo)};
			$job->{jobs} = $in;
			$names[$i] = [ map { @$_ } @$inner ];
			push @edges, @$order;
		}
		else
		{
			$_->{member} = $name foreach $job->{args}, $job->{undo} ? $job->{undo}{args} : ();
		}
		foreach my $parent (@{ $s->{parents}[$i] })
		{
			foreach my $up (@{ $names[$parent] })
			{
				push @edges, map { [ $up, $_ ] } @{ $names[$i] };
			}
		}
		# now and then nobody can ask for it by name
		delete $job->{name} if rand() < 0.2 && !grep { grep { $_ == $i } @$_ } @{ $s->{parents} };
	}
	return ($saga->{jobs}, \@names, \@edges);
}

my @scenarios = map { scenarios($_) } 3, 4;
run_sagas('with flows in them', 1, map {
	my ($jobs, $names, $edges) = nested($scenarios[ rand @scenarios ], $_, '', 0);
	{ flow => sub { { name => "saga $_[0]", queue => 'sagas', defaults => { queue => 'sagas' }, jobs => $jobs } }, edges => $edges } } 1 .. 1000);

#
# With kills between any two steps: each act of a handler is a transaction of its own, and who acts may be killed before and
# after it, as may the background worker and the server.  An effect is had only by who has the lease at that moment, as by
# means of the token; a handler that finds its effect there has nothing to do.
#

$c->rows('TRUNCATE ledger, wrong, edges, sagas');
1 while $c->value("SELECT job_purge(older_than => '0', max_jobs => 1000000000)") > 0;
$c->rows("SELECT job_queue_set('sagas', max_lost => 2, max_attempts => 2, backoff => '1 ms', lease => '1 s')");
$node->append_conf('postgresql.conf', "restart_after_crash = on\nsynchronous_commit = on");
$node->restart;
$c->connect or die;
my $nr = 0;
foreach (1 .. 150)
{
	my ($jobs, $names, $edges) = nested($scenarios[ rand @scenarios ], ++$nr, '', 0);
	$c->rows("INSERT INTO sagas SELECT $nr, job_submit_flow(" . JobqClient::quote($json->encode({ name => "saga $nr", queue => 'sagas', defaults => { queue => 'sagas' }, jobs => $jobs })) . ')');
	$c->rows('INSERT INTO edges VALUES ' . join(', ', map { "($nr, '$_->[0]', '$_->[1]')" } @$edges)) if @$edges;
}

my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
my %expected = map { $_ => 1 } qw(JQ001 JQ002 JQ003 57P01 57P02 57P03 40001 40P01 55P03);

# One who acts; what is done is the plan's, unless it goes otherwise.
sub acts
{
	my ($client, $acted) = (undef, 0);
	until (-e $stop)
	{
		$client = reconnected($node, $client, $stop) or last;
		my $r = $client->try("SELECT job_id, token, kind, args, key, EXISTS (SELECT FROM job WHERE id = job_id AND repeats) FROM job_claim('sagas', max_jobs => 2)", \%expected);
		next if $r->{lost} || $r->{sqlstate};
		usleep(5000) unless @{ $r->{rows} };
		foreach my $claim (@{ $r->{rows} })
		{
			my ($id, $token, $kind, $args, $key, $repeats) = @$claim;
			my $a = $json->decode($args);
			my $do = sub { return $client->connected && rand() > 0.03 && !$client->try($_[0], \%expected)->{lost}; };
			$acted++;
			my $fenced = "FROM (SELECT FROM job_lease WHERE job_id = $id AND token = $token FOR KEY SHARE) held";
			my $member = "'$key', $a->{saga}, '$a->{member}'";
			if ($kind eq 'undo')
			{
				$do->("SELECT undo($member) $fenced") && $do->(rand() < 0.9 ? "SELECT job_complete($id, $token)" : "SELECT job_fail($id, $token, 'not now')");
				next;
			}
			my $there = $client->connected && $client->try("SELECT count(*) FROM ledger WHERE key = '$key'", \%expected);
			next if !$there || $there->{lost} || $there->{sqlstate};
			if (!$there->{rows}[0][0] && (($a->{end} eq 'F' && !$repeats) || rand() < 0.1))
			{
				$do->("SELECT job_fail($id, $token, 'it cannot be done')");
				next;
			}
			$do->("SELECT effect($member) $fenced") && $do->("SELECT job_complete($id, $token, '\"done\"')");
		}
	}
	return { acted => $acted };
}

my @actors = start_clients(3, \&acts);
my $kills = 0;
my $kill_one = sub {
	$kills++;
	if ($kills % 5 == 0)
	{
		$node->kill9;
		start_again($node);
	}
	else
	{
		my $type = $kills % 2 ? 'jobq worker' : 'client backend';
		my $r = $c->query("SELECT pid FROM pg_stat_activity WHERE backend_type = '$type' AND pid <> pg_backend_pid() ORDER BY random() LIMIT 1");
		kill($kills % 5 == 3 ? 'KILL' : 'TERM', $r->{rows}[0][0]) if !$r->{lost} && @{ $r->{rows} };
	}
	$c = reconnected($node, $c, $stop);
	return;
};

# What is done from outside, until all has come to an end; what does not by itself is cancelled, or gone on with.
my $until = sub {
	my ($end, $push) = @_;
	my $begun = time;
	return within(120, sub {
		$kill_one->() if $kills < 25 && rand() < 0.15;
		my $r = $c->query($push);
		$c = reconnected($node, $c, $stop) if $r->{lost};
		$r = $c->query($end);
		return !$r->{lost} && !$r->{sqlstate} && $r->{rows}[0][0] == 0;
	});
};
ok($until->('SELECT count(*) FROM sagas s JOIN job ON id = s.flow WHERE outcome IS NULL', <<'EOQ'), 'with kills: all sagas end');
SELECT job_cancel(s.flow) FROM sagas s WHERE random() < 0.2 AND EXISTS (SELECT FROM job WHERE id = s.flow AND outcome IS NULL AND submitted_at < now() - interval '3 s')
EOQ
ok($until->('SELECT count(*) FROM sagas WHERE undo IS NULL', 'UPDATE sagas SET undo = job_undo(flow) WHERE saga IN (SELECT saga FROM sagas WHERE undo IS NULL ORDER BY random() LIMIT 20)'), 'with kills: all are to be undone');
ok($until->('SELECT count(*) FROM sagas s JOIN job ON id = s.undo WHERE outcome IS DISTINCT FROM 1', 'SELECT job_retry(s.undo) FROM sagas s JOIN job ON id = s.undo WHERE outcome = 2'), 'with kills: all are undone');
append_to_file($stop, '');
my $acted = 0;
$acted += $_->{acted} foreach finish_clients(120, @actors);
$c->connect or die;
note("$acted acts, $kills kills, " . $c->value('SELECT count(*) FROM ledger') . ' effects, ' . $c->value('SELECT count(*) FROM job WHERE repeats') . ' done once more to know');
all_is_taken_back('with kills');
done_testing();
