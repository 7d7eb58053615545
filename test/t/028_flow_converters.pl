# contrib/flows beyond what real files have: what conditions become, what is refused,
# how conditional flows end, older versions, properties, YAML, and README's example.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqFlow;
use JobqTest;
use JobqWorker;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

plan(skip_all => 'jq is not here') unless can_run('jq', '--version');

my $yaml = can_run('perl', '-MYAML::PP', '-e', 1);
my $node = jobq_node('converters');
my $client = JobqClient->new($node);
my $json = JSON::PP->new->canonical;

# A flow of Azkaban's: nodes are [name, [what it depends on], condition, more keys].
sub azkaban_flow
{
	my ($config, @nodes) = @_;
	return $json->encode({
		config => $config,
		nodes => [
			map {
				my ($name, $parents, $condition, %more) = @$_;
				{ name => $name, type => 'test', dependsOn => $parents, condition => $condition, %more }
			} @nodes ]
	});
}

sub members_of { return @{ $json->decode($_[0])->{jobs} }; }

#
# Conditions
#

# by condition: results, as JSON, and whether it holds
my @comparisons = (
	[ q(${A:p} == 'foo'), '{"p": "foo"}' => 't', '{"p": "bar"}' => 'f', '{"p": 1}' => 'f', '{}' => 'f', 'null' => 'f', '[]' => 'f' ],
	[ q(${A:p} == "foo"), '{"p": "foo"}' => 't', '{"q": "foo"}' => 'f' ],
	[ q(${A:p} != 'foo'), '{"p": "foo"}' => 'f', '{"p": "bar"}' => 't', '{"p": 1}' => 't', '{"p": null}' => 't', '{}' => 't', 'null' => 't' ],
	[ q(${A:p} == 1), '{"p": 1}' => 't', '{"p": "1"}' => 't', '{"p": "1.0"}' => 't', '{"p": 2}' => 'f', '{"p": "x"}' => 'f', '{"p": true}' => 'f', '{}' => 'f' ],
	[ q(${A:p}!=1), '{"p": 1}' => 'f', '{"p": "1"}' => 'f', '{"p": 2}' => 't', '{"p": "x"}' => 't', '{"p": true}' => 't', '{}' => 't' ],
	[ q(${A:p} == '1'), '{"p": 1}' => 't', '{"p": "1"}' => 't', '{"p": "1.0"}' => 'f' ],
	[ q(${A:p} != '1'), '{"p": 1}' => 'f', '{"p": "1"}' => 'f', '{"p": "1.0"}' => 't' ],
	[ q(${A:p} == 'true'), '{"p": true}' => 't', '{"p": "true"}' => 't', '{"p": false}' => 'f' ],
	[ q(${A:p} == '007'), '{"p": "007"}' => 't', '{"p": 7}' => 'f' ],
	[ q(${A:p} == 'null'), '{}' => 't', 'null' => 't', '{"p": null}' => 't', '{"p": "null"}' => 't', '{"p": "x"}' => 'f' ],
	[ q(${A:p} != 'null'), '{}' => 'f', '{"p": null}' => 'f', '{"p": "x"}' => 't', '{"p": 0}' => 't' ],
	[ q(${A:p} > 5), '{"p": 6}' => 't', '{"p": "10"}' => 't', '{"p": 5}' => 'f', '{"p": "x"}' => 'f', '{}' => 'f' ],
	[ q(${A:p} >= 5), '{"p": 5}' => 't', '{"p": "4"}' => 'f' ],
	[ q(${A:p} < 007), '{"p": 6.5}' => 't', '{"p": 7}' => 'f' ],
	[ q(${A:p} <= 5), '{"p": 5}' => 't', '{"p": "6"}' => 'f' ],
	[ q(${A:p} > '5'), '{"p": "6"}' => 't', '{"p": "10"}' => 'f' ],
	[ q(${A:a.b} == 'it"s'), '{"a.b": "it\"s"}' => 't', '{"a": {"b": "it\"s"}}' => 'f' ],
	[ q(${A:p} == 'a && ${A:q}'), '{"p": "x"}' => undef ],
	[ q( all_success &&${A:p}==1&& ${A:q} != 'x' ), '{"p": 1, "q": "y"}' => 't', '{"p": 1, "q": "x"}' => 'f', '{"p": 2}' => 'f', '{"p": 1}' => 't' ]);
foreach my $comparison (@comparisons)
{
	my ($condition, @results) = @$comparison;
	my $flow = azkaban_flow({}, [ 'A', [] ], [ 'B', ['A'], $condition ]);
	if (!defined $results[1])
	{
		like(conversion_problem('azkaban', $flow), qr/joined by &&$/, "$condition: it is refused");
		next;
	}
	my $path = (members_of(convert('azkaban', $flow)))[1]{when}{A};
	while (my ($result, $holds) = splice(@results, 0, 2))
	{
		is($client->value('SELECT jsonb_path_match(' . JobqClient::quote($result) . ', ' . JobqClient::quote($path) . ", '{}', true) IS TRUE"),
			$holds, "$condition: $result");
	}
}

# which jobs a node waits for, and how
my @diamond = ([ 'A', [] ], [ 'B', ['A'] ], [ 'C', ['A'] ]);
my %become = (
	q(One_Success) => [ { name => 'D', depends_on => [ 'B', 'C' ], trigger_rule => 'one_success' } ],
	q(${B:x} == 'x' && ${A:x} == 'y' && ${B:y} < 3) => [
		{ name => 'D', depends_on => [ 'B', 'C', 'A' ], when => { A => '$."x" == "y"', B => '($."x" == "x") && ($."y".double() < 3)' } } ],
	q(${A:x} == 'x' && all_done) => [
		{ name => 'D', depends_on => [ 'D: all_done', 'A' ], when => { A => '$."x" == "x"' } },
		{ name => 'D: all_done', depends_on => [ 'B', 'C' ], trigger_rule => 'all_done', critical => JSON::PP::false, jobs => [] } ],
	q(${E:x} == 'x') => [ { name => 'D', depends_on => [ 'B', 'C', 'E' ], when => { E => '$."x" == "x"' } } ]);
foreach my $condition (sort keys %become)
{
	my $document = convert('azkaban', azkaban_flow({}, @diamond, [ 'D', [ 'B', 'C' ], $condition ], [ 'E', [] ]));
	my @members = grep { $_->{name} =~ /^D/ } members_of($document);
	delete @{ $members[0] }{qw(kind args)};
	is_deeply(\@members, $become{$condition}, "$condition: what it becomes");
	is_deeply([ faults($client, $document) ], [], '... which is valid');
}

# what is refused: a condition, or all of a flow
my $convertible = 'what can be converted is one macro and comparisons of what jobs put out with numbers and strings, joined by &&';
my %problems = (
	q(all_done || ${B:x} == 'x') => $convertible,
	q(!${B:x}) => $convertible,
	q((${B:x} == 'x')) => $convertible,
	q(${B:x} == ${C:x}) => $convertible,
	q(${B:x} == 1.5) => $convertible,
	q(none_failed) => $convertible,
	q(all_done && ) => $convertible,
	q(all_done && one_failed) => 'it has more than one macro');
foreach my $condition (sort keys %problems)
{
	is(conversion_problem('azkaban', azkaban_flow({}, @diamond, [ 'D', [ 'B', 'C' ], $condition ])),
		'node "D": condition ' . $json->allow_nonref->encode($condition) . ": $problems{$condition}", "$condition: it is refused");
}
my @refused = (
	[ azkaban_flow({}, [ 'A', [], 'one_failed' ]), 'node "A": it has one_failed and depends on nothing, so it never runs' ],
	[
		azkaban_flow({}, @diamond, [ 'D', [ 'B', 'C' ], 'one_failed' ], [ 'E', ['D'] ], [ 'F', [ 'A', 'E' ], 'all_failed' ]),
		'node "F": it has all_failed, for which one that was cancelled by its condition has failed, and "E" can be'
	],
	[ azkaban_flow({ retries => 'x' }, [ 'A', [] ]), 'node "A": "retries" is no whole number: "x"' ],
	[ azkaban_flow({}, [ 'A', [], undef, type => 'flow', nodes => [ { name => 'B', config => { 'retries' => 1, 'retry.backoff' => -1 } } ] ]),
		'node "A:B": "retry.backoff" is no whole number: "-1"' ],
	[ azkaban_flow({}, [ undef, [] ]), 'a node of "" has no name' ],
	[ '{"nodes": [{"id": "a"}], "edges": [{"source": "a", "target": "b"}]}', 'there is no node "b", to which an edge leads' ],
	[ '{"nodes": [{"id": "a", "embeddedFlowId": "x"}], "edges": []}', 'node "a": its flow "x" is not in this file' ],
	[ '{"config": {}}', 'not an Azkaban flow: it has no nodes' ],
	[ '"nodes"', 'not an Azkaban flow: it has no nodes' ]);
is(conversion_problem('azkaban', $_->[0]), $_->[1], "refused: $_->[1]") foreach @refused;
is(conversion_problem('wfformat', '{"workflow": {}}'), 'not a WfFormat file: it has no tasks', 'refused: no WfFormat file');

# what is left to job_check_flow
my @faults = faults($client, convert('azkaban', azkaban_flow({}, @diamond, [ 'D', [ 'B', 'X' ], q(${Y:x} == 1) ], [ 'B', [] ], [ 'E', ['A'], undef, type => undef ])));
is_deeply(\@faults, [
		'$.jobs[3].depends_on[1]: no member of this flow has the name "X"',
		'$.jobs[3].depends_on[2]: no member of this flow has the name "Y"',
		'$.jobs[4].name: elements 1 and 4 have the same name "B"',
		'$.jobs[5]: "kind" must not be null' ], 'unknown names, names that are there twice and nodes without a type');

#
# How conditional flows end, see run_cases
#

my @pair = ([ 'A', [] ], [ 'B', [] ]);
run_cases($client, 'one_success', convert('azkaban', azkaban_flow({}, @pair, [ 'C', [ 'A', 'B' ], 'one_success' ])), undef, <<'EOT', 'C');
A SUCCEEDED FAILED    SUCCEEDED FAILED    FAILED
B SUCCEEDED SUCCEEDED FAILED    FAILED    SUCCEEDED
C SUCCEEDED SUCCEEDED SUCCEEDED CANCELLED FAILED
* SUCCEEDED SUCCEEDED SUCCEEDED KILLED    FAILED
EOT
run_cases($client, 'all_done', convert('azkaban', azkaban_flow({}, @pair, [ 'C', [ 'A', 'B' ], 'all_done' ])), undef, <<'EOT');
A SUCCEEDED FAILED    SUCCEEDED FAILED    FAILED
B SUCCEEDED SUCCEEDED FAILED    FAILED    SUCCEEDED
C SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED FAILED
* SUCCEEDED SUCCEEDED SUCCEEDED SUCCEEDED FAILED
EOT

# A is needed to succeed, B is not
run_cases($client, 'all_done at the end', convert('azkaban', azkaban_flow({}, [ 'A', [] ], [ 'B', ['A'] ], [ 'C', ['B'], 'all_done' ])), undef, <<'EOT');
A SUCCEEDED FAILED    SUCCEEDED SUCCEEDED
B SUCCEEDED CANCELLED FAILED    SUCCEEDED
C SUCCEEDED SUCCEEDED SUCCEEDED FAILED
* SUCCEEDED FAILED    SUCCEEDED FAILED
EOT

# one that was cancelled is one that has failed, for what follows
run_cases($client, 'after a cancelled one', convert('azkaban', azkaban_flow({}, @pair, [ 'C', [ 'A', 'B' ], 'one_success' ], [ 'D', ['C'], 'one_failed' ])), undef, <<'EOT', 'C');
A FAILED    SUCCEEDED SUCCEEDED
B FAILED    SUCCEEDED SUCCEEDED
C CANCELLED SUCCEEDED FAILED
D SUCCEEDED CANCELLED SUCCEEDED
* SUCCEEDED KILLED    SUCCEEDED
EOT

SKIP:
{
	my @flow = ([ 'A', [] ], [ 'B', ['A'], q(${A:p} == 'foo') ], [ 'C', ['A'], q(${A:p} == 'bar') ]);
	my $document = convert('azkaban', azkaban_flow({}, @flow, [ 'D', [ 'B', 'C' ], q(one_success && ${A:p} == 'foo') ]));
	run_cases($client, 'one_success and a result', $document, 'p', <<'EOT');
A SUCCEEDED=foo SUCCEEDED=foo SUCCEEDED=foo SUCCEEDED=bar SUCCEEDED=bar SUCCEEDED=baz SUCCEEDED FAILED
B SUCCEEDED     SUCCEEDED     FAILED        CANCELLED     CANCELLED     CANCELLED     CANCELLED CANCELLED
C CANCELLED     CANCELLED     CANCELLED     SUCCEEDED     FAILED        CANCELLED     CANCELLED CANCELLED
D SUCCEEDED     FAILED        CANCELLED     CANCELLED     CANCELLED     CANCELLED     CANCELLED CANCELLED
* SUCCEEDED     FAILED        KILLED        KILLED        KILLED        KILLED        KILLED    FAILED
EOT
	run_cases($client, 'all_done and a result', convert('azkaban', azkaban_flow({}, @flow[ 0, 1 ], [ 'D', ['B'], q(all_done && ${A:p} != 'bar') ])), 'p', <<'EOT');
A SUCCEEDED=foo SUCCEEDED=foo SUCCEEDED=foo SUCCEEDED=bar SUCCEEDED=baz SUCCEEDED
B SUCCEEDED     SUCCEEDED     FAILED        CANCELLED     CANCELLED     CANCELLED
D SUCCEEDED     FAILED        SUCCEEDED     CANCELLED     SUCCEEDED     SUCCEEDED
* SUCCEEDED     FAILED        SUCCEEDED     KILLED        SUCCEEDED     SUCCEEDED
EOT
}

# several ends: that one is cancelled ends nothing else
foreach my $action (undef, 'finish_all_possible', 'cancel_all')
{
	my $document = convert('azkaban', azkaban_flow({ $action ? ('failure.action' => $action) : () },
		[ 'A', [] ], [ 'B', ['A'], 'one_failed' ], [ 'C', ['A'] ], [ 'D', ['C'] ]));
	is($json->decode($document)->{on_failure}, { finish_all_possible => 'continue', cancel_all => 'cancel' }->{ $action // '' }, 'what failure.action becomes');
	run_cases($client, 'several ends, ' . ($action // 'no failure.action'), $document, undef, <<'EOT');
A SUCCEEDED
B CANCELLED
C SUCCEEDED
D SUCCEEDED
* KILLED
EOT
	next if ($action // '') eq 'cancel_all';
	run_cases($client, 'several ends, ' . ($action // 'no failure.action'), $document, undef, <<'EOT');
A FAILED
B SUCCEEDED
C CANCELLED
D CANCELLED
* FAILED
EOT
}
is($json->decode(convert('azkaban', azkaban_flow({ 'failure.action' => $_ })))->{on_failure}, 'drain', "$_ is drain")
  foreach qw(finish_currently_running unknown);

# a flow that is killed is one that has failed, for what is around it
run_cases($client, 'in a flow', convert('azkaban', azkaban_flow({},
	[ 'f', [], undef, type => 'flow', nodes => [ map { { name => $_->[0], type => 'test', dependsOn => $_->[1], condition => $_->[2] } } [ 'A', [] ], [ 'B', ['A'], 'all_failed' ] ] ],
	[ 'C', ['f'] ])), undef, <<'EOT');
f:A SUCCEEDED FAILED
f:B CANCELLED SUCCEEDED
f   FAILED    SUCCEEDED
C   CANCELLED SUCCEEDED
*   FAILED    SUCCEEDED
EOT
# one that was not begun is cancelled as well
run_cases($client, 'a flow with a condition', convert('azkaban', azkaban_flow({},
	[ 'A', [] ], [ 'f', ['A'], 'one_failed', type => 'flow', nodes => [ { name => 'B', type => 'test' } ] ])), undef, <<'EOT');
A   SUCCEEDED FAILED    FAILED
f   CANCELLED SUCCEEDED FAILED
f:B -         SUCCEEDED FAILED
*   KILLED    SUCCEEDED FAILED
EOT

# what makes such a flow fail waits for all ends
my @before;
my $flow = submit_flow($client, convert('azkaban', azkaban_flow({}, [ 'A', [] ], [ 'B', ['A'], 'one_failed' ], [ 'C', ['A'] ], [ 'D', ['C'] ])));
my $run = work_off(
	$client, $flow,
	sub {
		push @before, "$_[0] " . members($client, $flow)->{'an end was cancelled'}{state};
		return 'succeed';
	});
is_deeply([ @before, $run->{state} ], [ 'A waiting', 'C waiting', 'D waiting', 'failed' ], 'a flow is killed when all its ends are decided');

# tried again, such a flow ends as before
$flow = submit_flow($client, convert('azkaban', azkaban_flow({}, [ 'A', [] ], [ 'B', ['A'], 'one_failed' ])));
my $error = sub { return $client->value("SELECT regexp_replace(error, '\\d+', 'N') FROM job_status WHERE id = $flow"); };
work_off($client, $flow, sub { return 'succeed'; });
is($error->(), 'member "an end was cancelled", job N, failed', 'the error of a flow that is killed');
is($client->value("SELECT job_retry($flow)"), 't', '... which is tried again');
is(work_off($client, $flow, sub { return 'succeed'; })->{state}, 'failed', '... and fails again');

#
# Properties
#

my $nested = azkaban_flow({ a => 1, b => 1, retries => 1 },
	[ 'A', [], undef, config => { b => 2, '$args' => 'x' } ],
	[ 'f', ['A'], undef, type => 'flow', config => { b => 3, 'retry.backoff' => 500 }, nodes => [ { name => 'B', type => 'noop', config => { c => 4, retries => 0 } }, { name => 'C', type => 'noop' } ] ]);
my %set = ('' => { d => 5 }, 'f:B' => { c => 6 });
is_deeply($json->decode(convert('azkaban', $nested, '--arg', 'name', 'n', '--arg', 'queue', 'q', '--argjson', 'config', $json->encode(\%set))), {
		name => 'n', queue => 'q', defaults => { queue => 'q', max_attempts => 1 },
		args => { a => 1, b => 1, retries => 1, d => 5 },
		jobs => [
			{ name => 'A', kind => 'test', max_attempts => 2, backoff => '1 ms', args => { '$literal' => { a => 1, b => 2, retries => 1, d => 5, '$args' => 'x' } } },
			{ name => 'f', depends_on => ['A'], args => { a => 1, b => 3, retries => 1, d => 5, 'retry.backoff' => 500 },
				jobs => [
					{ name => 'B', kind => 'noop', args => { a => 1, b => 3, c => 6, retries => 0, d => 5, 'retry.backoff' => 500 } },
					{ name => 'C', kind => 'noop', max_attempts => 2, backoff => '500 ms', args => { a => 1, b => 3, retries => 1, d => 5, 'retry.backoff' => 500 } } ] } ],
		result => { '$result' => 'f' } }, 'properties of flows and jobs');
is_deeply([ faults($client, convert('azkaban', $nested)) ], [], '... which are valid');

#
# WfFormat before 1.5
#

my %old = (
	1.1 => [ { schemaVersion => '1.1', name => 'w', workflow => { jobs => [
				{ name => 'a_1', type => 'compute', runtime => 1.5, cores => 2, arguments => ['x'], priority => 7,
					files => [ { link => 'input', name => 'i', size => 1 }, { link => 'output', name => 'o', size => 1 } ] },
				{ name => 'b_2', type => 'compute', runtime => 2, parents => ['a_1'] } ] } }, 'a_1', { arguments => ['x'] } ],
	1.4 => [ { schemaVersion => '1.4', name => 'w', workflow => { tasks => [
				{ name => 'a_1', id => '1', category => 'a', type => 'compute', runtimeInSeconds => 1.5, cores => 2, command => { program => 'p', arguments => ['x'] }, priority => 7,
					files => [ { link => 'input', name => 'i', sizeInBytes => 1 }, { link => 'output', name => 'o', sizeInBytes => 1 } ] },
				{ name => 'b_2', id => '2', category => 'b_2', type => 'compute', runtimeInSeconds => 2, parents => ['a_1'] } ] } }, 'a', { program => 'p', arguments => ['x'] } ]);
foreach my $version (sort keys %old)
{
	my ($file, $task, $command) = @{ $old{$version} };
	my $document = convert('wfformat', $json->encode($file), '--arg', 'kind', 'k', '--arg', 'queue', 'q');
	is_deeply($json->decode($document), {
			name => 'w', queue => 'q', defaults => { kind => 'k', queue => 'q' },
			jobs => [
				{ name => 'a_1', priority => 7, args => { task => $task, command => $command, inputFiles => ['i'], outputFiles => ['o'], coreCount => 2, runtimeInSeconds => 1.5 } },
				{ name => 'b_2', depends_on => ['a_1'], args => { task => 'b_2', inputFiles => [], outputFiles => [], runtimeInSeconds => 2 } } ] },
		"WfFormat $version");
	is_deeply([ faults($client, $document) ], [], '... which is valid');
}

#
# YAML, and the example of README
#

SKIP:
{
	skip 'libyaml-pp-perl is not here', 1 unless $yaml;
	is_deeply($json->decode(yaml_to_json(<<'EOY')), { a => '1.10', b => '007', c => 'yes', d => '', e => ['0x1F'], base => { k => '1', l => '2' }, f => { k => '1', l => '3' } }, 'scalars are what is written');
a: 1.10
b: 007
c: yes
d:
e: [0x1F]
base: &base {k: 1, l: 2}
f:
  <<: *base
  l: 3
EOY
	is($json->utf8->decode(yaml_to_json("u: \xc3\xbc\n"))->{u}, "\xfc", 'in UTF-8');
	ok(!eval { yaml_to_json("a: 1\n---\na: 2\n") } && $@ =~ /there are several documents/, 'several documents are refused');
	ok(!eval { yaml_to_json("a: &a [*a]\n") }, 'and what contains itself');

	my $dir = PostgreSQL::Test::Utils::tempdir;
	my $readme = slurp_file("$CONTRIB/README.md");
	my ($file) = $readme =~ /^```yaml\n(.*?)^```\n/ms;
	my ($submit, $work) = $readme =~ /^```sh\n(.*?)^```\n/gms;
	append_to_file("$dir/nightly.flow", $file);
	symlink("$CONTRIB/..", "$dir/contrib") or die;
	local $ENV{PGHOST} = $node->host;
	local $ENV{PGPORT} = $node->port;
	local $ENV{PGDATABASE} = 'postgres';
	my $id = `cd '$dir' && $submit`;
	like($id, qr/^\d+\n\z/, 'README: the flow is submitted');
	chomp $id;
	my %command = $work =~ /--kind (\w+)='([^']*)'/g;
	chdir($dir) or die;
	my $worker = start_worker($node, map { ('--kind', "$_=$command{$_}") } keys %command);
	state_is($node, $id, 'succeeded', 'README: the flow succeeds');
	$worker->signal('TERM');
	$worker->ends_with(0, 'README: the worker ends');
	is_deeply([ map { join ' ', map { $_ // 'NULL' } @$_ } $client->rows("SELECT name, state, max_attempts, result FROM job_status WHERE flow = $id ORDER BY name") ],
		[ 'clean succeeded 3 NULL', 'fetch succeeded 3 5000', 'load succeeded 3 5000' ], 'README: its jobs have run');
}

invariants_hold($node, 'after all');
done_testing();
