# Graphs of jobs, run by eight clients at once with failures on the way.  How
# each job ends is compared with what the trigger rules say in words, which
# JobqTest::outcome_by_rule evaluates from the outcomes of its parents alone.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Digest::MD5 qw(md5);
use JobqTest;
use JSON::PP;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $clients = 8;
my $seed = $ENV{JOBQ_SEED} // 20240229;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('dags');
my $control = JobqClient->new($node);
my $json = JSON::PP->new->canonical;

#
# Graphs: {name, jobs: [{name, parents: [names], rule, quorum, act}]}, jobs in
# an order in which parents come first.
#

# What its workers do with a job: a number below 100 made of the names.
sub lot
{
	my ($graph, $name, $salt) = @_;
	return unpack('N', md5("$graph/$name/$salt")) % 100;
}

sub act_for
{
	my ($graph, $name, $failures) = @_;
	my $lot = lot($graph, $name, 'act');
	return 'succeed' if $lot >= $failures;
	return (qw(fail fail fail_once fail_once cancel release snooze cancel_first fail_for_good fail))[ lot($graph, $name, 'kind') % 10 ];
}

# Sort topologically.
sub in_order
{
	my (@jobs) = @_;
	my %by_name = map { $_->{name} => $_ } @jobs;
	my (%done, @order);
	my $visit;
	$visit = sub {
		my ($job) = @_;
		return if $done{ $job->{name} }++;
		$visit->($by_name{$_}) foreach @{ $job->{parents} };
		push @order, $job;
	};
	$visit->($_) foreach @jobs;
	return @order;
}

sub graph_of_file
{
	my ($file) = @_;
	my $tasks = $json->decode(slurp_file($file))->{workflow}{specification}{tasks};
	my ($name) = $file =~ m{([^/]+)\.json$};
	return {
		name => $name,
		jobs => [ in_order(map { { name => $_->{id}, parents => $_->{parents} } } @$tasks) ]
	};
}

sub random_graph
{
	my ($name) = @_;
	my $n = 5 + int(rand(36));
	my $density = rand;
	my @jobs;
	foreach my $i (0 .. $n - 1)
	{
		my @parents = shuffle(map { "j$_" } grep { $i - $_ < 12 } 0 .. $i - 1);
		my $want = rand() < 0.15 ? 0 : 1 + int(rand() * $density * 8);
		$#parents = $want - 1 if @parents > $want;
		push @jobs, { name => "j$i", parents => \@parents };
	}
	return { name => $name, jobs => \@jobs };
}

# Give the jobs trigger rules and what is done with them.
sub dress
{
	my ($graph, $failures, $mixed) = @_;
	foreach my $job (@{ $graph->{jobs} })
	{
		$job->{act} = act_for($graph->{name}, $job->{name}, $failures);
		$job->{rule} = 'all_success';
		delete $job->{quorum};
		next unless $mixed && @{ $job->{parents} };
		$job->{rule} = $RULES[ lot($graph->{name}, $job->{name}, 'rule') % @RULES ];
		$job->{quorum} = 1 + lot($graph->{name}, $job->{name}, 'quorum') % @{ $job->{parents} }
		  if $job->{rule} eq 'quorum';
	}
	return;
}

sub element
{
	my ($job, $queue, $ids) = @_;
	my %e = (
		kind => 'task', queue => $queue, backoff => '1 ms', priority => lot($queue, $job->{name}, 'priority') % 3,
		args => { name => $job->{name}, act => $job->{act} });
	$e{depends_on} = [ map { $ids ? $ids->{$_} : $_ } @{ $job->{parents} } ] if @{ $job->{parents} };
	$e{trigger_rule} = $job->{rule} if $job->{rule} ne 'all_success';
	$e{quorum} = $job->{quorum} if $job->{quorum};
	$e{name} = $job->{name} unless $ids;
	return \%e;
}

# All in one call, in any order; returns name => id.
sub submit_graph
{
	my ($graph, $queue) = @_;
	my @jobs = shuffle(@{ $graph->{jobs} });
	my @rows = $control->rows('SELECT job_submit_many('
		  . JobqClient::quote($json->encode([ map { element($_, $queue) } @jobs ])) . ')');
	my %ids;
	@ids{ map { $_->{name} } @jobs } = map { $_->[0] } @rows;
	$graph->{named} = 1;
	return \%ids;
}

# Cancel those that are to be before anything runs; the lower ids first.
# Returns the names of those that were not decided already by that.
sub cancel_first
{
	my ($graph, $ids) = @_;
	my %cancelled;
	foreach my $job (grep { $_->{act} eq 'cancel_first' } @{ $graph->{jobs} })
	{
		$cancelled{ $job->{name} } = 1
		  if $control->value("SELECT job_cancel($ids->{$job->{name}}, 'first')") eq 't';
	}
	return \%cancelled;
}

#
# Workers
#

# Do with one job what its arguments say; returns what is left to be done by
# the batch functions.
sub act
{
	my ($client, $row, $log) = @_;
	my ($id, $token, $attempt, $kind, $args, $inputs, $key) = @$row;
	my $act = $json->decode($args)->{act};

	push @{ $log->{$id}{attempts} }, $attempt;
	$log->{$id}{inputs} = $json->decode($inputs) if defined $inputs;
	$log->{$id}{keys}{$key} = 1;
	if ($act eq 'fail_once' && $attempt == 1)
	{
		my $in = $id % 2 ? ", retry_in => '0'" : '';
		$client->retry_rows("SELECT job_fail($id, $token, 'once'$in)");
	}
	elsif ($act eq 'release' && $attempt == 1)
	{
		$client->retry_rows("SELECT job_release($id, $token)");
	}
	elsif ($act eq 'snooze' && $attempt == 1)
	{
		$client->retry_rows("SELECT job_snooze($id, $token, '5 ms')");
	}
	elsif ($act eq 'cancel')
	{
		my $cancelled = $client->value("SELECT job_cancel($id, 'running')");
		my $go_on = $client->value("SELECT job_heartbeat($id, $token)");
		die "job_cancel says $cancelled, job_heartbeat $go_on" if $cancelled ne 't' || $go_on ne 'f';
		if ($id % 2) { $client->retry_rows("SELECT job_fail($id, $token)"); }
		else { $client->retry_rows("SELECT job_release($id, $token)"); }
	}
	elsif ($act eq 'fail_for_good')
	{
		$client->retry_rows("SELECT job_fail($id, $token, 'for good', false)");
	}
	else
	{
		return [ $act eq 'fail' ? 'fail' : 'complete', $id, $token ];
	}
	return;
}

# Run a queue until all its jobs are decided.
sub work
{
	my ($queue, $log) = @_;
	my $client = JobqClient->new($node) // die "no connection";
	my $busy = time;
	while (1)
	{
		my $want = 1 + int(rand(4));
		my @rows = $client->rows("SELECT * FROM job_claim('$queue', 'w$$', $want)");
		if (!@rows)
		{
			last if $client->value("SELECT NOT EXISTS (SELECT FROM job WHERE queue = '$queue' AND outcome IS NULL)") eq 't'
			  && -e $log->{go};
			die 'nothing can be claimed, but jobs are undecided' if time > $busy + stretched(30);
			usleep(3000);
			next;
		}
		$busy = time;
		my %rest = (fail => [], complete => []);
		foreach my $row (@rows)
		{
			my $rest = act($client, $row, $log->{jobs}) or next;
			push @{ $rest{ $rest->[0] } }, $rest;
		}
		foreach my $what (keys %rest)
		{
			my @jobs = shuffle(@{ $rest{$what} }) or next;
			my $ids = join ',', map { $_->[1] } @jobs;
			my $tokens = join ',', map { $_->[2] } @jobs;
			my @done;
			if (@jobs > 1)
			{
				@done = $client->retry_rows($what eq 'fail'
					? "SELECT * FROM job_fail_many(ARRAY[$ids], ARRAY[$tokens], retry => false)"
					: "SELECT * FROM job_complete_many(ARRAY[$ids], ARRAY[$tokens], "
					  . "ARRAY(SELECT jsonb_build_object('id', i) FROM unnest(ARRAY[$ids]) i))");
				die "not accepted" if grep { $_->[1] ne 't' } @done;
				die "not in order" if join(',', map { $_->[0] } @done) ne $ids;
			}
			elsif ($what eq 'fail')
			{
				$client->retry_rows("SELECT job_fail($ids, $tokens, NULL, false)");
			}
			else
			{
				$client->retry_rows("SELECT job_complete($ids, $tokens, '{\"id\": $ids}')");
			}
		}
	}
	return $log->{jobs};
}

# Start the workers; they end when all is decided after the file go appeared.
sub start_workers
{
	my ($queue, $go) = @_;
	return start_clients($clients, sub { work($queue, { go => $go, jobs => {} }) });
}

#
# The comparison
#

# Compare how the jobs ended with what is expected; returns what differs.
sub differences
{
	my ($graph, $ids, $cancelled, @logs) = @_;
	my (%log, @different);
	foreach my $l (@logs)
	{
		foreach my $id (keys %$l)
		{
			push @{ $log{$id}{attempts} }, @{ $l->{$id}{attempts} };
			$log{$id}{keys}{$_} = 1 foreach keys %{ $l->{$id}{keys} };
			$log{$id}{inputs} //= $l->{$id}{inputs};
		}
	}
	my $range = join ',', values %$ids;
	my %found = map { $_->[0] => $_ }
	  $control->rows("SELECT id, state, attempt, result->>'id' FROM job_status WHERE id IN ($range)");
	my %outcome;
	foreach my $job (@{ $graph->{jobs} })
	{
		my $name = $job->{name};
		my $id = $ids->{$name};
		my (undef, $state, $attempts, $result) = @{ $found{$id} };
		my @parents = map { $outcome{$_} } @{ $job->{parents} };
		my $fate = outcome_by_rule($job->{rule}, $job->{quorum}, @parents);
		my $act = $job->{act};
		my $expected = $fate;
		my $runs = 0;

		if ($cancelled->{$name}) { $expected = 'cancelled'; }
		elsif ($fate eq 'run')
		{
			$expected = $act =~ /^(fail|fail_for_good)$/ ? 'failed' : $act eq 'cancel' ? 'cancelled' : 'succeeded';
			$runs = $act =~ /^(fail_once|release|snooze)$/ ? 2 : 1;
		}
		$outcome{$name} = $expected;
		my $what = "$graph->{name}: $name ($id, $job->{rule}" . ($job->{quorum} // '') . " of @parents, to $act)";
		push @different, "$what is $state, not $expected" if $state ne $expected;
		push @different, "$what had $attempts attempts, not $runs" if $attempts != $runs;
		my $claimed = join ',', sort { $a <=> $b } @{ $log{$id}{attempts} // [] };
		push @different, "$what was claimed for attempts $claimed" if $claimed ne join(',', 1 .. $runs);
		push @different, "$what had different keys" if $runs && keys %{ $log{$id}{keys} } != 1;
		push @different, "$what has the result " . ($result // 'NULL')
		  if ($result // '') ne ($expected eq 'succeeded' ? $id : '');

		# inputs: of all parents that succeeded, or of those that had by then
		next unless $runs;
		my $inputs = $log{$id}{inputs};
		my %succeeded = map { ($graph->{named} ? $_ : $ids->{$_}) => $ids->{$_} } grep { $outcome{$_} eq 'succeeded' } @{ $job->{parents} };
		push @different, "$what got foreign inputs"
		  if grep { !$succeeded{$_} || $inputs->{$_}{id} != $succeeded{$_} } keys %$inputs;
		push @different, "$what got too few inputs"
		  if keys %$inputs < keys %succeeded && $job->{rule} !~ /^(one_.*|always|quorum)$/;
	}
	return @different;
}

# Run graphs in one queue and compare.
my $runs = 0;

sub run_graphs
{
	my ($name, @graphs) = @_;
	my $queue = 'q' . ++$runs;
	my $go = PostgreSQL::Test::Utils::tempdir . '/go';
	my (@ids, @cancelled);

	foreach my $graph (@graphs)
	{
		push @ids, submit_graph($graph, $queue);
		push @cancelled, cancel_first($graph, $ids[-1]);
	}
	append_to_file($go, '');
	my @logs = finish_clients(150, start_workers($queue, $go));
	my @different = map { differences($graphs[$_], $ids[$_], $cancelled[$_], @logs) } 0 .. $#graphs;
	ok(!@different, $name) or diag(join("\n", @different[ 0 .. ($#different > 20 ? 20 : $#different) ]));
	return;
}

# The same, but submitted one by one while the workers run already, so that
# parents are in any state when their child comes.
sub run_graphs_late
{
	my ($name, @graphs) = @_;
	my $queue = 'q' . ++$runs;
	my $go = PostgreSQL::Test::Utils::tempdir . '/go';
	my @workers = start_workers($queue, $go);
	my @submitters = start_clients(
		2,
		sub {
			my ($i) = @_;
			my $client = JobqClient->new($node);
			my %result;
			my @mine = grep { $_ % 2 == $i } 0 .. $#graphs;
			# all their jobs, interleaved
			my %next = map { $_ => 0 } @mine;
			while (my @left = grep { $next{$_} < @{ $graphs[$_]{jobs} } } @mine)
			{
				my $g = $left[ int(rand(@left)) ];
				my $job = $graphs[$g]{jobs}[ $next{$g}++ ];
				my $e = element($job, $queue, $result{$g} //= {});
				my $depends = $e->{depends_on} ? 'ARRAY[' . join(',', @{ $e->{depends_on} }) . ']::bigint[]' : 'NULL';
				my ($row) = $client->retry_rows(
					"SELECT job_submit('task', " . JobqClient::quote($json->encode($e->{args}))
					  . ", '$queue', depends_on => $depends, backoff => '1 ms', trigger_rule => '$job->{rule}', quorum => "
					  . ($job->{quorum} // 'NULL') . ')');
				$result{$g}{ $job->{name} } = $row->[0];
			}
			return \%result;
		});
	my %ids = map { %$_ } finish_clients(100, @submitters);
	append_to_file($go, '');
	my @logs = finish_clients(150, @workers);
	my @different = map { differences($graphs[$_], $ids{$_}, {}, @logs) } 0 .. $#graphs;
	ok(!@different, $name) or diag(join("\n", @different[ 0 .. ($#different > 20 ? 20 : $#different) ]));
	return;
}

#
# Real graphs
#

my ($data) = grep { defined && -d "$_/wfformat" }
  ($ENV{JOBQ_DATA}, "$FindBin::RealBin/../../../shared/data");
SKIP:
{
	skip 'no folder of WfFormat files; random graphs take their place', 1 unless $data;
	foreach my $file (sort { -s $a <=> -s $b } glob("$data/wfformat/*.json"))
	{
		my $graph = graph_of_file($file);
		my $n = @{ $graph->{jobs} };
		dress($graph, 0, 0);
		run_graphs("$graph->{name}: $n jobs, all succeed", $graph);
		dress($graph, $n > 500 ? 4 : 25, 0);
		run_graphs("$graph->{name}: $n jobs with failures", $graph);
		dress($graph, 30, 1);
		run_graphs("$graph->{name}: $n jobs with failures and all trigger rules", $graph);
	}
	invariants_hold($node, 'after the real graphs');
}

#
# Random graphs
#

foreach my $round (1 .. 4)
{
	my @graphs = map { random_graph("random $seed $round.$_") } 1 .. 15;
	dress($_, 45, 1) foreach @graphs;
	run_graphs("random graphs, round $round", @graphs);
}
invariants_hold($node, 'after random graphs');

foreach my $round (1 .. 4)
{
	my @graphs = map { random_graph("late $seed $round.$_") } 1 .. 15;
	foreach my $graph (@graphs)
	{
		dress($graph, 45, 1);
		$_->{act} =~ s/cancel_first/fail/ foreach @{ $graph->{jobs} };
	}
	run_graphs_late("graphs submitted while they run, round $round", @graphs);
}
invariants_hold($node, 'after graphs submitted while they run');
tables_are_sound($node, 'after all');

# Wide joins: every rule over all of 500 parents and over some of them, where
# none fail, one fails, and some end in every way.
sub wide_graph
{
	my ($name, $failures, $n) = @_;
	my %bad = map { $_ => 1 } (shuffle(0 .. $n - 1))[ 0 .. $failures - 1 ];
	my @jobs = map { { name => "p$_", parents => [], rule => 'all_success',
			act => $bad{$_} ? (qw(fail fail_for_good cancel fail_once release))[ $_ % ($failures > 1 ? 5 : 3) ] : 'succeed' } } 0 .. $n - 1;
	foreach my $rule (@RULES)
	{
		foreach my $part (64, 65 + int(rand($n - 65)), $n)
		{
			my @parents = (shuffle(0 .. $n - 1))[ 0 .. $part - 1 ];
			push @jobs, {
				name => "$rule$part", rule => $rule, quorum => $rule eq 'quorum' ? $part - 1 : undef,
				parents => [ map { "p$_" } @parents ], act => 'succeed' };
		}
	}
	push @jobs, {
		name => 'last', rule => 'all_done', act => 'succeed',
		parents => [ map { $_->{name} } @jobs ] };
	return { name => $name, jobs => \@jobs };
}

foreach my $round (1 .. 3)
{
	run_graphs("wide joins, round $round, $_ parents fail", wide_graph("wide $seed $round.$_", $_, 500)) foreach 0, 1, 40;
	run_graphs("wide joins in small graphs, round $round",
		map { wide_graph("wide $seed $round.small.$_", $_ % 3, 90) } 1 .. 4);
}
invariants_hold($node, 'after wide joins');
ok(poll_until(sub { $control->value('SELECT count(*) FROM job_delta') == 0 }), 'no delta is left');

# every rule with every pair and triple of outcomes, in every order of the ends
{
	my @outcomes = qw(succeeded failed skipped cancelled upstream_failed);
	my @graphs;
	my $n = 0;
	foreach my $size (1 .. 3)
	{
		foreach my $code (0 .. @outcomes**$size - 1)
		{
			my @parents = map { $outcomes[ int($code / @outcomes**$_) % @outcomes ] } 0 .. $size - 1;
			next if $size == 3 && join(' ', sort @parents) ne join(' ', @parents);
			# the parents, by what makes them end so
			my @jobs = ({ name => 'bad', parents => [], rule => 'all_success', act => 'fail' });
			foreach my $i (0 .. $#parents)
			{
				my $o = $parents[$i];
				my $act = { failed => 'fail', cancelled => 'cancel' }->{$o} // 'succeed';
				push @jobs, {
					name => "p$i", act => $act,
					parents => $o =~ /skipped|upstream/ ? ['bad'] : [],
					rule => $o eq 'skipped' ? 'all_skipped' : 'all_success' };
			}
			foreach my $rule (@RULES)
			{
				foreach my $quorum ($rule eq 'quorum' ? 1 .. $size : undef)
				{
					push @jobs, {
						name => $rule . ($quorum // ''), rule => $rule, quorum => $quorum,
						parents => [ map { "p$_" } 0 .. $#parents ], act => 'succeed' };
				}
			}
			push @graphs, { name => "table $code of $size", jobs => \@jobs };
		}
	}
	run_graphs('every rule with every combination of up to three outcomes', @graphs);
}
invariants_hold($node, 'at the end');

done_testing();
