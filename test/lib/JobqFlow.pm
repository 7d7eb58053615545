# What the tests of contrib/flows share: files that are converted, and flows that
# one client works off as a plan says.
package JobqFlow;

use strict;
use warnings;

use Exporter 'import';
use FindBin;
use IPC::Run;
use JobqClient;
use JobqTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

our @EXPORT = qw($CONTRIB can_run yaml_to_json convert conversion_problem faults submit_flow work_off members run_cases);

our $CONTRIB = "$FindBin::RealBin/../../contrib/flows";

my $json = JSON::PP->new->canonical;

# Run a program; returns whether it succeeded, its output and what it complained of.
sub run_program
{
	my ($input, @command) = @_;
	my ($out, $err) = ('', '');
	my $ok = eval {
		IPC::Run::run(\@command, '<', \$input, '>', \$out, '2>', \$err, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	};
	return ($ok, $out, $@ || $err);
}

sub can_run { return (run_program('', @_))[0]; }

# Its output; dies with what it complains of.
sub output_of
{
	my ($ok, $out, $err) = run_program(@_);
	die $err unless $ok;
	return $out;
}

sub yaml_to_json { return output_of($_[0], "$CONTRIB/yaml2json"); }

# JSON by one of the converters, with arguments of jq: the document of a flow, as JSON.
sub convert
{
	my ($converter, $input, @args) = @_;
	return output_of($input, 'jq', '-c', @args, '-f', "$CONTRIB/$converter.jq");
}

# What a converter says to what it refuses.
sub conversion_problem
{
	my @args = @_;
	return eval { convert(@args) } ? 'none' : $@ =~ s/^jq: error \(at <stdin>:\d+\): |\n\z//gr;
}

sub faults
{
	my ($client, $document) = @_;
	return map { "$_->[0]: $_->[1]" } $client->rows('SELECT path, problem FROM job_check_flow(' . JobqClient::quote($document) . ')');
}

sub submit_flow
{
	my ($client, $document) = @_;
	return $client->value('SELECT job_submit_flow(' . JobqClient::quote($document) . ')');
}

# All in a flow, by their names, those of flows in it after the name of these and a
# colon: { state, attempts }.
sub members
{
	my ($client, $flow) = @_;
	return { map { $_->[0] => { state => $_->[1], attempts => $_->[2] } } $client->rows(<<"EOQ") };
WITH RECURSIVE m AS (
	SELECT id, name FROM job WHERE flow = $flow
	UNION ALL SELECT j.id, m.name || ':' || j.name FROM job j JOIN m ON j.flow = m.id)
SELECT m.name, s.state, s.attempt FROM m JOIN job_status s USING (id)
EOQ
}

# Work off all that is ready in the queue "default" until the flow is decided.  The
# plan is asked with the name of a member, as in members(), and says what its attempt
# does: succeed, fail (and be tried again, if it may), give up; or a hash that has its
# result, as JSON.  Returns the names in the order in which they were begun, those
# among them that had a parent which was not decided, and the state of the flow.
sub work_off
{
	my ($client, $flow, $plan) = @_;
	my (@begun, @early, $state);
	my $since = time;
	while (1)
	{
		my @claims = $client->rows("SELECT job_id, token FROM job_claim(worker => 'client', max_jobs => 50)");
		if (!@claims)
		{
			$state = $client->value("SELECT state FROM job_status WHERE id = $flow");
			last if $state !~ /^(waiting|scheduled|ready|running)$/;
			die "flow $flow is $state, and nothing is ready" if time > $since + stretched(60);
			usleep(2000);
			next;
		}
		$since = time;
		my %of = map { $_->[0] => $_ } $client->rows(sprintf(<<'EOQ', join(',', map { $_->[0] } @claims)));
WITH RECURSIVE m AS (
	SELECT id, name, flow FROM job WHERE id IN (%s)
	UNION ALL SELECT m.id, f.name || ':' || m.name, f.flow FROM m JOIN job f ON f.id = m.flow WHERE f.flow IS NOT NULL)
SELECT m.id, m.name, EXISTS (SELECT FROM job_parents(m.id) p WHERE p.state IN ('waiting', 'scheduled', 'ready', 'running'))
FROM m JOIN job f ON f.id = m.flow WHERE f.flow IS NULL
EOQ
		my %batch;
		foreach my $claim (@claims)
		{
			my ($id, $token) = @$claim;
			my (undef, $name, $early) = @{ $of{$id} };
			push @begun, $name;
			push @early, $name if $early eq 't';
			my $act = $plan->($name);
			my $result = ref $act ? JobqClient::quote($act->{result}) : 'NULL';
			push @{ $batch{ ref $act ? 'succeed' : $act } }, [ $id, $token, $result ];
		}
		foreach my $act (keys %batch)
		{
			my ($ids, $tokens, $results) = map { my $n = $_; 'ARRAY[' . join(',', map { $_->[$n] } @{ $batch{$act} }) . ']' } 0 .. 2;
			$client->rows(
				$act eq 'succeed' ? "SELECT job_complete_many($ids, $tokens, ${results}::jsonb[])"
				: $act eq 'fail' ? "SELECT job_fail_many($ids, $tokens)"
				: $act eq 'give up' ? "SELECT job_fail_many($ids, $tokens, retry => false)"
				: die "no act $act");
		}
	}
	return { begun => \@begun, early => \@early, state => $state };
}

# What the extension says, in Azkaban's words.
my %words = (succeeded => 'SUCCEEDED', failed => 'FAILED', skipped => 'CANCELLED', cancelled => 'CANCELLED', upstream_failed => 'CANCELLED');

# Run a flow of Azkaban's in several cases, as a table says, and compare how all ends.
# It has a line for each node and, for the flow, *, and a column for each case.  A node
# that has FAILED or SUCCEEDED is made to, SUCCEEDED=x with result {"param": "x"}; one
# with - never comes into being, since its flow does not start.  What is not in the
# table the converter has added.  No node begins before all its parents have ended,
# but for those in a list.
sub run_cases
{
	my ($client, $name, $document, $param, $table, @not_last) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my @cases;
	foreach my $line (split /\n/, $table)
	{
		my ($node, @words) = split ' ', $line;
		$cases[$_]{$node} = $words[$_] foreach 0 .. $#words;
	}
	foreach my $i (0 .. $#cases)
	{
		my %case = %{ $cases[$i] };
		my $title = "$name, case " . ($i + 1);
		my $end = delete $case{'*'};
		my %flows = map { /^(.*):/ ? ($1 => 1) : () } keys %case;
		my $flow = submit_flow($client, $document);
		my $run = work_off(
			$client, $flow,
			sub {
				my ($word, $value) = split /=/, $case{ $_[0] } // 'CANCELLED';
				return $word eq 'FAILED' ? 'fail' : defined $value ? { result => $json->encode({ $param => $value }) } : 'succeed';
			});
		my $members = members($client, $flow);
		is_deeply({ map { $_ => $members->{$_} ? $words{ $members->{$_}{state} } : '-' } keys %case },
			{ map { $_ => $case{$_} =~ s/=.*//r } keys %case }, "$title: how the nodes end");
		is($words{ $run->{state} }, $end eq 'KILLED' ? 'FAILED' : $end, "$title: the flow is $end");
		is(join(' ', sort @{ $run->{begun} }), join(' ', sort grep { !$flows{$_} && $case{$_} =~ /^[SF]/ } keys %case),
			"$title: each runs once");
		is(join(' ', grep { my $n = $_; !grep { $_ eq $n } @not_last } @{ $run->{early} }), '',
			"$title: each begins when all that it depends on have ended");
	}
	return;
}

1;
