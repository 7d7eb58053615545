# Transactions that end several jobs by separate calls, in any order, of any
# graph, and then submit jobs that depend on those which others end: none ends in
# a deadlock with another, and every job comes out as the trigger rules say in
# words, which JobqTest::outcome_by_rule evaluates.
# JOBQ_SEED repeats the dice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JSON::PP;
use List::Util qw(shuffle sum);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $clients = 8;
my $batch = 20;
my $jobs = 7000;
my $edges = 12000;
my $seed = $ENV{JOBQ_SEED} // 17;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('deadlocks');
my $control = JobqClient->new($node);
$control->rows('CREATE TABLE rule_names (rule int, trigger_rule text)');
$control->rows("INSERT INTO rule_names VALUES ($_, '$JobqTest::STORED_RULES[$_][0]')") foreach 0 .. $#JobqTest::STORED_RULES;

# Jobs, parents before children, that many and with that many edges.  Children
# share parents, and are joins of 2 to 500 of the jobs shortly before them.
sub random_graph
{
	my ($failures, $cancellations) = @_;
	my @fan_in = (500, 400, 300, 200, 150, 100, 100, 80, 66, 64, 63, 40, 30);
	my $left = $edges - sum(@fan_in);
	while ($left > 3)
	{
		push @fan_in, 2 + int(rand(4));
		$left -= $fan_in[-1];
		$fan_in[-1] += $left, $left = 0 if $left < 2;
	}
	push @fan_in, $left if $left;
	my %fan_in;
	@fan_in{ (shuffle(500 .. $jobs - 1))[ 0 .. $#fan_in ] } = @fan_in;

	my @graph;
	foreach my $i (0 .. $jobs - 1)
	{
		my $dice = rand;
		my %job = (
			rule => 'all_success', parents => [],
			act => $dice < $failures ? 'fail' : $dice < $failures + $cancellations ? 'cancel' : 'complete');
		if (my $n = $fan_in{$i})
		{
			my $oldest = $i < 1500 ? 0 : $i - 1500;
			my %parents;
			$parents{ $oldest + int(rand($i - $oldest)) } = 1 while keys %parents < $n;
			$job{parents} = [ shuffle(keys %parents) ];
			# half of them run only if all goes well
			$job{rule} = $RULES[ rand @RULES ] if rand() < 0.5;
			$job{quorum} = 1 + int(rand($n)) if $job{rule} eq 'quorum';
		}
		push @graph, \%job;
	}
	return @graph;
}

# Submit it; adds the ids.
sub submit_graph
{
	my ($queue, @graph) = @_;
	my $i = 0;
	my @elements = map {
		my %e = (name => 'j' . $i++, kind => 'job', queue => $queue, args => { act => $_->{act} }, trigger_rule => $_->{rule});
		$e{depends_on} = [ map { "j$_" } @{ $_->{parents} } ] if @{ $_->{parents} };
		$e{quorum} = $_->{quorum} if $_->{quorum};
		\%e
	} @graph;
	my @ids = $control->rows('SELECT job_submit_many(' . JobqClient::quote(encode_json(\@elements)) . ')');
	$graph[$_]{id} = $ids[$_][0] foreach 0 .. $#graph;
	return;
}

# A transaction of several calls, each a round trip.  A deadlock is counted and
# rolls it back; nothing else may fail.  Returns their rows.
sub transaction
{
	my ($client, $deadlocks, $calls) = @_;
	$client->rows('BEGIN');
	my @rows = eval { $calls->() };
	if (my $error = $@)
	{
		die $error if $error !~ /^40P01/;
		$$deadlocks++;
		$client->rows('ROLLBACK');
		return;
	}
	$client->rows('COMMIT');
	return @rows;
}

# What ends a job that runs, as its arguments say: one call, or two.
sub calls_for
{
	my ($id, $token, $act) = @_;
	return
	    $act eq 'complete' ? "SELECT job_complete($id, $token)"
	  : $act eq 'fail' ? "SELECT job_fail($id, $token, retry => false)"
	  : ("SELECT job_cancel($id)", "SELECT job_fail($id, $token)");
}

sub by_separate_calls
{
	my ($client, $queue) = @_;
	my @jobs = $client->rows("SELECT job_id, token, args->>'act' FROM job_claim('$queue', max_jobs => $batch)");
	foreach my $job (shuffle(@jobs))
	{
		$client->rows($_) foreach calls_for(@$job);
	}
	return @jobs;
}

my %ways = (
	'by separate calls' => \&by_separate_calls,
	'before others are submitted' => sub {
		my ($client, $queue, @graph) = @_;
		my @jobs = by_separate_calls($client, $queue) or return;
		foreach (1 .. 3)
		{
			my %upstream = map { $graph[ rand @graph ]{id} => 1 } 1 .. 5;
			my $rule = $RULES[ rand $#RULES ];    # the last one is quorum
			$client->rows("SELECT job_submit('late', queue => '$queue.late', trigger_rule => '$rule', depends_on => ARRAY["
				  . join(',', shuffle(keys %upstream)) . '])');
		}
		return @jobs;
	},
	'by one statement' => sub {
		my ($client, $queue) = @_;
		return $client->rows("SELECT job_complete(c.job_id, c.token) FROM job_claim('$queue', max_jobs => $batch) c");
	},
	'in every way by one statement' => sub {
		my ($client, $queue) = @_;
		return $client->rows(<<EOQ);
SELECT CASE args->>'act' WHEN 'complete' THEN job_complete(job_id, token)::text
    ELSE CASE WHEN args->>'act' = 'cancel' THEN job_cancel(job_id) END::text || job_fail(job_id, token, retry => false) END
FROM job_claim('$queue', max_jobs => $batch)
EOQ
	});

# Eight sessions work until all jobs of the queue are decided; returns the
# number of deadlocks.
sub work
{
	my ($queue, $way, @graph) = @_;
	my @deadlocks = run_clients(180, $clients, sub {
		my $client = JobqClient->new($node) // die 'no connection';
		my $deadlocks = 0;
		my $busy = time;
		while (1)
		{
			my $before = $deadlocks;
			next if transaction($client, \$deadlocks, sub { $ways{$way}->($client, $queue, @graph) }) && ($busy = time);
			next if $deadlocks > $before;
			last if $client->value("SELECT NOT EXISTS (SELECT FROM job WHERE queue = '$queue' AND outcome IS NULL)") eq 't';
			die 'nothing can be claimed, but jobs are undecided' if time > $busy + 60;
			usleep(3000);
		}
		return $deadlocks;
	});
	return sum(@deadlocks);
}

# Eight sessions cancel these jobs before any has run, in any order, each
# transaction several; notes which of them were cancelled by that.  Returns the
# number of deadlocks.
sub cancel
{
	my (@cancelled) = @_;
	my @jobs = shuffle(@cancelled);
	my @results = run_clients(100, $clients, sub {
		my ($i) = @_;
		my $client = JobqClient->new($node) // die 'no connection';
		my $deadlocks = 0;
		my @mine = map { $_->{id} } @jobs[ grep { $_ % $clients == $i } 0 .. $#jobs ];
		my @done;
		while (my @some = splice(@mine, 0, $batch))
		{
			my @rows = transaction($client, \$deadlocks, sub {
				map { [ $_, $client->value("SELECT job_cancel($_)") ] } @some;
			});
			push @done, map { $_->[0] } grep { $_->[1] eq 't' } @rows;
			push @mine, @some unless @rows;
		}
		return [ $deadlocks, \@done ];
	});
	# one that was decided by its parents meanwhile stays so
	my %asked = map { $_ => 1 } map { @{ $_->[1] } } @results;
	$node->poll_query_until('postgres',
		'SELECT NOT EXISTS (SELECT FROM job_cancel_request) AND NOT EXISTS (SELECT FROM job_delta) AND NOT EXISTS (SELECT FROM job_recount)')
	  or die 'requests to cancel are not acted on';
	my %cancelled = map { $_->[0] => 1 } $control->rows("SELECT id FROM job_status WHERE state = 'cancelled'");
	$_->{cancelled} = $asked{ $_->{id} } && $cancelled{ $_->{id} } foreach @jobs;
	return sum(map { $_->[0] } @results);
}

# One test: all have ended as the rules and their workers would have it.
sub ended_well
{
	my ($queue, $name, @graph) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my %state = map { $_->[0] => $_->[1] } $control->rows("SELECT id, state FROM job_status WHERE queue = '$queue'");
	my %ended = (complete => 'succeeded', fail => 'failed', cancel => 'cancelled');
	my (@wrong, %n);
	foreach my $job (@graph)
	{
		my $fate = outcome_by_rule($job->{rule}, $job->{quorum}, map { $graph[$_]{outcome} } @{ $job->{parents} });
		$job->{outcome} = $job->{cancelled} ? 'cancelled' : $fate eq 'run' ? $ended{ $job->{act} } : $fate;
		$n{ $job->{outcome} }++;
		my $state = $state{ $job->{id} } // 'gone';
		push @wrong, "job $job->{id}, $job->{rule} of " . @{ $job->{parents} } . ", is $state and not $job->{outcome}"
		  if $state ne $job->{outcome};
	}
	note(join ', ', map { "$n{$_} $_" } sort keys %n);
	return ok(!@wrong && keys %state == @graph, $name)
	  || (diag(join("\n", @wrong[ 0 .. ($#wrong > 20 ? 20 : $#wrong) ])) && 0);
}

# One test: so have those that were submitted meanwhile; none has run.
sub late_ones_are_well
{
	my ($queue, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	$node->poll_query_until('postgres', 'SELECT NOT EXISTS (SELECT FROM job_delta) AND NOT EXISTS (SELECT FROM job_recount)')
	  or die 'something is not counted';
	my @late = $control->rows(<<EOQ);
SELECT id, trigger_rule, state, (SELECT string_agg(p.state, ' ') FROM job_parents(s.id) p)
FROM (SELECT s.*, j.rule FROM job_status s JOIN job j USING (id) WHERE s.queue = '$queue.late') s JOIN rule_names USING (rule)
EOQ
	my @wrong = grep { ($_->[2] eq 'ready' ? 'run' : $_->[2]) ne outcome_by_rule($_->[1], undef, split / /, $_->[3]) } @late;
	note(scalar(@late) . ' jobs were submitted meanwhile');
	return ok(@late > 0 && !@wrong, $name) || (diag(join("\n", map { "@$_" } @wrong)) && 0);
}

my $runs = 0;
foreach my $run (
	[ 'by separate calls', 0, 0 ],
	[ 'by one statement', 0, 0 ],
	[ 'before others are submitted', 0.05, 0.05 ],
	[ 'by separate calls', 0.05, 0.05 ],
	[ 'in every way by one statement', 0.05, 0.05 ])
{
	my ($way, @dice) = @$run;
	my $queue = 'q' . ++$runs;
	my $what = "jobs that are ended $way" . ($dice[0] ? ', by failures and cancellations, too' : '');
	my @graph = random_graph(@dice);
	is(scalar(map { @{ $_->{parents} } } @graph), $edges, "run $runs: a graph of $jobs jobs and $edges edges");
	submit_graph($queue, @graph);
	is(cancel(grep { rand() < 0.05 } @graph), 0, "run $runs: no deadlock between cancellations") if $dice[0];
	my $begin = time;
	my $deadlocks = work($queue, $way, @graph);
	note(sprintf('%.1f s', time - $begin));
	is($deadlocks, 0, "run $runs: no deadlock between $what");
	ended_well($queue, "run $runs: all end as they should", @graph);
	late_ones_are_well($queue, "run $runs: so do those that were submitted meanwhile") if $way =~ /submitted/;
	invariants_hold($node, "run $runs");
}

done_testing();
