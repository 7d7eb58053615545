# Real workflows, written by others, as flows: each file of the data is converted by
# contrib/flows, submitted and worked off, and all in it, and itself, end as the
# system that it was written for says.  Invalid ones are refused.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use Digest::MD5 qw(md5);
use File::Basename;
use JobqFlow;
use JobqTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

my ($data) = grep { defined && -d "$_/wfformat" } ($ENV{JOBQ_DATA}, "$FindBin::RealBin/../../../shared/data");
plan(skip_all => 'no folder of real workflows') unless $data;
plan(skip_all => 'jq is not here') unless can_run('jq', '--version');

my $node = jobq_node('real_flows');
my $client = JobqClient->new($node);
my $json = JSON::PP->new->canonical;

#
# WfFormat
#

# How each ends whose plan is to fail, and what follows from it: all depend by
# all_success.
sub expected_states
{
	my ($parents, $fails) = @_;
	my (%state, $state);
	$state = sub {
		my ($name) = @_;
		return $state{$name} //= (grep { $state->($_) ne 'succeeded' } @{ $parents->{$name} }) ? 'upstream_failed'
		  : $fails->{$name} ? 'failed' : 'succeeded';
	};
	$state->($_) foreach keys %$parents;
	return \%state;
}

my @files = sort { -s $a <=> -s $b } glob("$data/wfformat/*.json");
cmp_ok(scalar(@files), '>=', 11, 'there are files in WfFormat');
foreach my $file (@files)
{
	my $name = basename($file, '.json');
	my $text = slurp_file($file);
	my $workflow = $json->decode($text)->{workflow};
	my %parents = map { $_->{id} => $_->{parents} } @{ $workflow->{specification}{tasks} };
	my %execution = map { $_->{id} => $_ } @{ $workflow->{execution}{tasks} };
	my @jobs = sort keys %parents;
	my $document = convert('wfformat', $text);

	is_deeply([ faults($client, $document) ], [], "$name: it is valid");
	foreach my $failures (0, 5)
	{
		my $what = $failures ? 'some fail' : 'all succeed';
		my %fails = map { $_ => 1 } grep { unpack('N', md5($_)) % 100 < $failures } @jobs;
		$fails{ $jobs[ @jobs / 2 ] } = 1 if $failures && !%fails;
		my $expected = expected_states(\%parents, \%fails);
		my $flow = submit_flow($client, $document);
		my @edges = map { "$_->[0] -> $_->[1]" } $client->rows(<<"EOQ");
SELECT u.name, j.name FROM job j JOIN job_dependency d ON d.downstream = j.id JOIN job u ON u.id = d.upstream WHERE j.flow = $flow
EOQ
		is($client->value("SELECT jobs FROM job_flow_status WHERE id = $flow"), scalar(@jobs), "$name: as many members as tasks, " . @jobs);
		is_deeply([ sort @edges ], [ sort map { my $c = $_; map { "$_ -> $c" } @{ $parents{$c} } } @jobs ], "$name: the dependencies of the file, " . @edges);
		my %args = map { $_->[0] => $json->decode($_->[1]) } $client->rows("SELECT name, args FROM job WHERE flow = $flow");
		is_deeply([ map { [ @{ $args{$_} }{qw(command runtimeInSeconds)} ] } @jobs ],
			[ map { [ @{ $execution{$_} }{qw(command runtimeInSeconds)} ] } @jobs ], "$name: the commands of the file");

		my $run = work_off($client, $flow, sub { return $fails{ $_[0] } ? 'give up' : 'succeed'; });
		my $members = members($client, $flow);
		is("@{ $run->{early} }", '', "$name, $what: each begins when all that it depends on have ended");
		is_deeply({ map { $_ => $members->{$_}{state} } keys %$members }, $expected, "$name, $what: how they end");
		is(join(' ', sort @{ $run->{begun} }), join(' ', sort grep { $expected->{$_} ne 'upstream_failed' } @jobs), "$name, $what: each runs once");
		is($run->{state}, %fails ? 'failed' : 'succeeded', "$name, $what: how the flow ends");
	}
}

#
# Azkaban
#

# How all ends in each case (see run_cases), from Azkaban's documentation and its own
# tests.  A node is CANCELLED if its condition does not hold or what it needs has not
# succeeded.  A flow has FAILED if a node did that is an end or that another needs to
# succeed; else it is KILLED if an end was CANCELLED.
my %cases = (
	'basicflowyamltest__basic_flow' => <<'EOT',
shell_pwd  SUCCEEDED FAILED    SUCCEEDED SUCCEEDED FAILED    FAILED    SUCCEEDED FAILED    SUCCEEDED
shell_echo SUCCEEDED SUCCEEDED FAILED    SUCCEEDED FAILED    SUCCEEDED FAILED    FAILED    SUCCEEDED
shell_bash SUCCEEDED SUCCEEDED SUCCEEDED FAILED    SUCCEEDED FAILED    FAILED    FAILED    SUCCEEDED
shell_end  SUCCEEDED CANCELLED CANCELLED CANCELLED CANCELLED CANCELLED CANCELLED CANCELLED FAILED
*          SUCCEEDED FAILED    FAILED    FAILED    FAILED    FAILED    FAILED    FAILED    FAILED
EOT
	'conditionalflowyamltest__conditional_flow1' => <<'EOT',
jobA SUCCEEDED=foo SUCCEEDED=bar SUCCEEDED=baz SUCCEEDED SUCCEEDED=foo SUCCEEDED=bar FAILED
jobB SUCCEEDED     CANCELLED     CANCELLED     CANCELLED FAILED        CANCELLED     CANCELLED
jobC CANCELLED     SUCCEEDED     CANCELLED     CANCELLED CANCELLED     FAILED        CANCELLED
jobD CANCELLED     CANCELLED     CANCELLED     CANCELLED CANCELLED     CANCELLED     CANCELLED
*    KILLED        KILLED        KILLED        KILLED    FAILED        FAILED        FAILED
EOT
	# one_failed
	'conditionalflowyamltest__conditional_flow3' => <<'EOT',
jobA SUCCEEDED FAILED    SUCCEEDED FAILED    FAILED    SUCCEEDED FAILED
jobB SUCCEEDED SUCCEEDED FAILED    FAILED    SUCCEEDED FAILED    FAILED
jobC CANCELLED SUCCEEDED SUCCEEDED SUCCEEDED FAILED    FAILED    FAILED
*    KILLED    SUCCEEDED SUCCEEDED SUCCEEDED FAILED    FAILED    FAILED
EOT
	# all_failed
	'conditionalflowyamltest__conditional_flow4' => <<'EOT',
jobA SUCCEEDED FAILED    SUCCEEDED FAILED    FAILED
jobB SUCCEEDED SUCCEEDED FAILED    FAILED    FAILED
jobC CANCELLED CANCELLED CANCELLED SUCCEEDED FAILED
*    KILLED    KILLED    KILLED    SUCCEEDED FAILED
EOT
	# as with finish_all_possible: what does not depend on what failed goes on
	'embeddedflowyamltest__embedded_flow' => <<'EOT',
shell_pwd                               SUCCEEDED FAILED    SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED
shell_echo                              SUCCEEDED SUCCEEDED FAILED    SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED
embedded_flow1                          SUCCEEDED SUCCEEDED SUCCEEDED FAILED    FAILED    FAILED    FAILED    FAILED    SUCCEEDED
embedded_flow1:shell_echo               SUCCEEDED SUCCEEDED SUCCEEDED FAILED    SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED
embedded_flow1:shell_bash               SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED FAILED    SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED
embedded_flow1:embedded_flow2           SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED CANCELLED FAILED    FAILED    SUCCEEDED SUCCEEDED
embedded_flow1:embedded_flow2:shell_pwd SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED -         FAILED    SUCCEEDED SUCCEEDED SUCCEEDED
embedded_flow1:embedded_flow2:shell_end SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED -         CANCELLED FAILED    SUCCEEDED SUCCEEDED
embedded_flow1:shell_end                SUCCEEDED SUCCEEDED SUCCEEDED CANCELLED CANCELLED CANCELLED CANCELLED FAILED    SUCCEEDED
shell_end                               SUCCEEDED CANCELLED CANCELLED CANCELLED CANCELLED CANCELLED CANCELLED CANCELLED FAILED
*                                       SUCCEEDED FAILED    FAILED    FAILED    FAILED    FAILED    FAILED    FAILED    FAILED
EOT
	# without the properties of its jobs, which are in other files
	'exectest1__exec4-retry' => <<'EOT',
job-retry      SUCCEEDED FAILED    SUCCEEDED SUCCEEDED
job-pass       SUCCEEDED CANCELLED FAILED    SUCCEEDED
job-retry-fail SUCCEEDED CANCELLED CANCELLED FAILED
*              SUCCEEDED FAILED    FAILED    FAILED
EOT
);
my %invalid = (
	'cyclefoundyamltest__cycle_found' =>
	  '$.jobs: jobs depend on each other in a cycle: "shell_echo" -> "shell_pwd" -> "shell_bash" -> "shell_echo"',
	'dependencyundefinedyamltest__dependency_undefined' =>
	  '$.jobs[0].depends_on[2]: no member of this flow has the name "shell_bash"');

is(join(' ', map { basename($_, '.flow') } sort glob("$data/azkaban/*.flow")), join(' ', sort keys %cases, keys %invalid),
	'the files of Azkaban are those that are known');

SKIP:
{
	skip 'libyaml-pp-perl is not here', 1 unless can_run('perl', '-MYAML::PP', '-e', 1);
	my %document = map { $_ => convert('azkaban', yaml_to_json(slurp_file("$data/azkaban/$_.flow")), '--arg', 'name', $_) } keys %cases, keys %invalid;

	foreach my $name (sort keys %cases)
	{
		is_deeply([ faults($client, $document{$name}) ], [], "$name: it is valid");

		# one parent suffices for one_failed
		run_cases($client, $name, $document{$name}, 'azkaban.server.name', $cases{$name}, $name =~ /conditional_flow3/ ? 'jobC' : ());
	}

	# Those that are not valid: all is said, and nothing remains.
	foreach my $name (sort keys %invalid)
	{
		my @tables = qw(job job_dependency job_flow);
		my $before = table_digest($client);
		my $r = $client->query('SELECT job_submit_flow(' . JobqClient::quote($document{$name}) . ')');
		is_deeply([ faults($client, $document{$name}) ], [ $invalid{$name} ], "$name: what is wrong with it");
		is("$r->{sqlstate} $r->{message}, $r->{detail}", "22023 the flow has 1 fault, $invalid{$name}", "$name: it is refused");
		is_deeply([ @{ table_digest($client) }{@tables} ], [ @$before{@tables} ], "$name: nothing of it is there");
	}

	# The properties that belong to it, in files of its own: the first succeeds at its
	# last attempt, or not even then; the last fails at all of its.
	my $retry = 'exectest1__exec4-retry';
	my $with = convert('azkaban', yaml_to_json(slurp_file("$data/azkaban/$retry.flow")), '--argjson', 'config', <<'EOJ');
{"job-retry": {"retries": "3", "retry.backoff": "0"}, "job-retry-fail": {"retries": "2", "retry.backoff": "10"}}
EOJ
	foreach my $failures (3, 4)
	{
		my %attempt;
		my $flow = submit_flow($client, $with);
		my $run = work_off(
			$client, $flow,
			sub {
				my $n = ++$attempt{ $_[0] };
				return $_[0] eq 'job-retry' && $n <= $failures || $_[0] eq 'job-retry-fail' ? 'fail' : 'succeed';
			});
		is_deeply(members($client, $flow), {
				'job-retry' => { state => $failures == 3 ? 'succeeded' : 'failed', attempts => 4 },
				'job-pass' => $failures == 3 ? { state => 'succeeded', attempts => 1 } : { state => 'upstream_failed', attempts => 0 },
				'job-retry-fail' => $failures == 3 ? { state => 'failed', attempts => 3 } : { state => 'upstream_failed', attempts => 0 } },
			"$retry, $failures attempts of the first fail");
		is($run->{state}, 'failed', "$retry: the flow has failed");
	}
}

invariants_hold($node, 'after all');
done_testing();
