# Random graphs run by eight clients while others retry, cancel, hold and
# unhold their jobs.  Whatever they do, every job is decided in the end, and
# one that was decided without running so that its parents explain it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Digest::MD5 qw(md5);
use JobqLoad;
use JobqTest;
use JSON::PP;
use List::Util qw(shuffle);
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // 4711;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('retry');
my $control = JobqClient->new($node);

# Jobs as job_submit_many takes them
sub random_jobs
{
	my ($graph, $queue) = @_;
	my $n = 10 + int(rand(40));
	my @jobs;
	foreach my $i (0 .. $n - 1)
	{
		my @parents = shuffle(grep { $i - $_ < 10 } 0 .. $i - 1);
		my $want = rand() < 0.1 ? 0 : 1 + int(rand(5));
		$#parents = $want - 1 if @parents > $want;
		my %job = (name => "j$i", kind => 'task', queue => $queue, backoff => '1 ms', max_attempts => 2);
		if (@parents)
		{
			$job{depends_on} = [ map { "j$_" } @parents ];
			$job{trigger_rule} = $RULES[ rand @RULES ];
			$job{quorum} = 1 + int(rand(@parents)) if $job{trigger_rule} eq 'quorum';
		}
		push @jobs, \%job;
	}
	return @jobs;
}

# The same with wide joins, which hear of their parents by deltas.
sub wide_jobs
{
	my ($queue) = @_;
	my %common = (kind => 'task', queue => $queue, backoff => '1 ms', max_attempts => 2);
	my $n = 70 + int(rand(40));
	my @jobs = map { { %common, name => "p$_" } } 1 .. $n;
	foreach my $rule (qw(all_success all_done all_skipped none_failed none_skipped one_success))
	{
		my @parents = shuffle(map { "p$_" } 1 .. $n);
		$#parents = 63 + int(rand($n - 64));
		push @jobs, { %common, name => $rule, trigger_rule => $rule, depends_on => \@parents };
		push @jobs, { %common, name => "after $rule", depends_on => [$rule] };
	}
	return @jobs;
}

# Fail two attempts of five, by the dice of job and attempt.
sub fails
{
	my ($id, $attempt) = @_;
	return unpack('N', md5("$seed/$id/$attempt")) % 5 < 2;
}

sub work
{
	my ($queue, $stop) = @_;
	my $client = JobqClient->new($node) // die 'no connection';
	my @claims;
	my $busy = time;
	while (1)
	{
		my $r = $client->query("SELECT job_id, token, attempt, extract(epoch FROM lease_until), key FROM job_claim('$queue', 'w', " . (1 + int(rand(3))) . ')');
		die "$r->{sqlstate} $r->{message}" if $r->{sqlstate};
		if (!@{ $r->{rows} })
		{
			# a recount can open one again whose upstream jobs were, and are decided anew
			last if -e $stop
			  && $client->value("SELECT NOT EXISTS (SELECT FROM job WHERE queue = '$queue' AND outcome IS NULL) AND NOT EXISTS (SELECT FROM job_recount)") eq 't';
			die 'nothing can be claimed, but jobs are undecided' if time > $busy + stretched(30);
			usleep(2000);
		}
		foreach my $row (@{ $r->{rows} })
		{
			$busy = time;
			my %claim = (name => "w$$", from => time);
			@claim{qw(id token attempt until key)} = @$row;
			push @claims, \%claim;
			usleep(int(rand(3000))) if rand() < 0.3;
			$claim{end} = time;
			my ($id, $token) = @claim{qw(id token)};
			if (fails($id, $claim{attempt}))
			{
				my $for_good = $id % 3 ? 'false' : 'true';
				$claim{ended} = ($client->retry_rows("SELECT job_fail($id, $token, 'dice', $for_good)"))[0][0];
			}
			else
			{
				$client->retry_rows("SELECT job_complete($id, $token)");
				$claim{ended} = 'succeeded';
			}
		}
	}
	return \@claims;
}

sub operate
{
	my ($ids, $n) = @_;
	my $client = JobqClient->new($node) // die 'no connection';
	my %did = map { $_ => {} } qw(job_retry job_cancel job_hold job_unhold);
	my %refused;
	foreach (1 .. $n)
	{
		my $id = $ids->[ rand @$ids ];
		my $dice = rand;
		if ($dice < 0.3)
		{
			# one that can be retried
			my ($row) = $client->rows("SELECT id FROM job WHERE outcome IN (2, 8) AND id BETWEEN $ids->[0] AND $ids->[-1] ORDER BY random() LIMIT 1");
			$id = $row->[0] if $row;
		}
		my $what = $dice < 0.45 ? 'job_retry' : $dice < 0.6 ? 'job_cancel' : $dice < 0.75 ? 'job_hold' : 'job_unhold';
		my $sql = "SELECT $what($id)";
		# two at once, in any order, and sometimes taken back
		$sql .= ', job_retry(' . $ids->[ rand @$ids ] . ')' if $dice < 0.1;
		my $back = rand() < 0.1;
		$client->rows('BEGIN') if $back;
		my $r = $client->query($sql);
		$client->rows('ROLLBACK') if $back;
		if (my $state = $r->{sqlstate})
		{
			$refused{$state}++;
			die "$state $r->{message} by: $sql" if $state !~ /^(JQ003|40P01)$/;
		}
		elsif (!$back && $r->{rows}[0][0] eq 't')
		{
			$did{$what}{$id}++;
		}
		usleep(int(rand(1500))) if rand() < 0.5;
	}
	return [ \%did, \%refused ];
}

foreach my $round (1 .. 6)
{
	my $queue = "q$round";
	my $stop = PostgreSQL::Test::Utils::tempdir . '/stop';
	my @jobs;
	my @ids;
	foreach (1 .. 12)
	{
		my @mine = $_ % 6 ? random_jobs("$round.$_", $queue) : wide_jobs($queue);
		push @ids, map { $_->[0] } $control->rows('SELECT job_submit_many(' . JobqClient::quote(encode_json(\@mine)) . ')');
	}
	my @workers = start_clients(8, sub { work($queue, $stop) });
	my @operators = start_clients(3, sub { operate(\@ids, 400) });
	# in the middle of it all, whatever is committed must hold
	invariants_hold($node, "in round $round, at work");
	my @did = finish_clients(100, @operators);
	$control->retry_rows("SELECT job_unhold(job_id) FROM job_waiting WHERE held");
	append_to_file($stop, '');
	my @claims = map { @$_ } finish_clients(100, @workers);
	invariants_hold($node, "in round $round, at the end");

	my @wrong = JobqLoad::overlaps(\@claims);
	my %job = map { $_->[0] => { state => $_->[1], attempts => $_->[2], rule => $JobqTest::STORED_RULES[ $_->[5] ][0], quorum => $_->[3], generation => $_->[4] } }
	  $control->rows(<<EOQ);
SELECT id, job_outcome_name(outcome), attempt, quorum, generation, rule FROM job WHERE queue = '$queue'
EOQ
	my $n = 0;
	my $g = 0;
	push @{ $job{ $_->[1] }{parents} }, $_->[0]
	  foreach $control->rows("SELECT upstream, downstream FROM job_dependency WHERE downstream IN (SELECT id FROM job WHERE queue = '$queue')");

	my (%claims, %keys);
	foreach my $claim (@claims)
	{
		$claims{ $claim->{id} }{ $claim->{attempt} }++;
		$keys{ $claim->{id} }{ $claim->{key} }++;
	}
	foreach my $id (sort { $a <=> $b } keys %job)
	{
		my $j = $job{$id};
		my @parents = @{ $j->{parents} // [] };
		my $fate = outcome_by_rule($j->{rule}, $j->{quorum}, map { $job{$_}{state} } @parents);
		my $what = "job $id ($j->{rule} of " . join(' ', map { $job{$_}{state} } @parents) . ", generation $j->{generation})";
		push @wrong, "$what is $j->{state}" if $j->{state} =~ /skipped|upstream/ && $j->{state} ne $fate;
		# where nobody intervened the rule says all
		my $untouched = !grep { $_->{generation} > 0 } $j, map { $job{$_} } @parents;
		push @wrong, "$what is $j->{state}, but nobody opened it or its parents again"
		  if $untouched && $j->{state} ne 'cancelled' && ($fate eq 'run') != ($j->{attempts} > 0);
		$n++ if $untouched;
		push @wrong, "$what has $j->{attempts} attempts, but was claimed " . (keys %{ $claims{$id} // {} }) . ' times'
		  if $j->{attempts} != keys %{ $claims{$id} // {} };
		push @wrong, "$what has too many keys" if keys %{ $keys{$id} // {} } > 1 + $j->{generation};
		my $retries = 0;
		$retries += $_->[0]{job_retry}{$id} // 0 foreach @did;
		$g += $retries;
		push @wrong, "$what was retried $retries times" if $retries > $j->{generation};
		push @wrong, "$what succeeded, but its last attempt was to fail"
		  if $j->{state} eq 'succeeded' && fails($id, $j->{attempts});
	}
	ok(!@wrong, "round $round: outcomes are consistent") or diag(join("\n", @wrong[ 0 .. ($#wrong > 15 ? 15 : $#wrong) ]));
	my %refused;
	foreach my $r (map { $_->[1] } @did) { $refused{$_} += $r->{$_} foreach keys %$r; }
	note("$n jobs of " . keys(%job) . " untouched, $g retries; " . join ', ', map { "$_: $refused{$_}" } sort keys %refused);
	ok($g > 0 && $n > 0, "round $round: there were retries");
}

# Two concurrent retries of one job act once, many times over; its children
# are opened again once, and end as their parent does then.
{
	my @ids = $control->rows(<<'EOQ');
SELECT job_submit_many(jsonb_build_array(
    jsonb_build_object('name', 'p', 'kind', 'k', 'queue', 'pair', 'max_attempts', 1),
    jsonb_build_object('name', 'c', 'kind', 'k', 'queue', 'pair', 'depends_on', '["p"]'::jsonb),
    jsonb_build_object('name', 'd', 'kind', 'k', 'queue', 'pair', 'depends_on', '["c"]'::jsonb, 'trigger_rule', 'all_success')))
EOQ
	my ($p, $c, $d) = map { $_->[0] } @ids;
	my $both = 0;
	foreach my $round (1 .. 60)
	{
		my ($row) = $control->rows("SELECT job_fail(job_id, token) FROM job_claim('pair')");
		last if $row->[0] ne 'failed';
		my @results = finish_clients(60, start_clients(2, sub {
			my $client = JobqClient->new($node);
			usleep(int(rand(2000)));
			return ($client->retry_rows("SELECT job_retry($p)"))[0][0];
		}));
		$both++ if join('', sort @results) ne 'ft';
	}
	is($both, 0, 'of two retries at once, one acts');
	is($control->value("SELECT generation FROM job WHERE id = $p"), 60, 'each time');
	is($control->value("SELECT string_agg(state, ' ' ORDER BY id) FROM job_status WHERE queue = 'pair'"),
		'ready waiting waiting', 'the children wait again');
	$control->rows("SELECT job_complete(job_id, token) FROM job_claim('pair')") foreach 1 .. 3;
	is($control->value("SELECT string_agg(state, ' ' ORDER BY id) FROM job_status WHERE queue = 'pair'"),
		'succeeded succeeded succeeded', 'and run after it');
}
invariants_hold($node, 'after all');
tables_are_sound($node, 'after all');

done_testing();
