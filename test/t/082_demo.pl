# make try: psql in a server that is gone afterwards.
# make demo FLOW=file: a workflow in WfFormat, and the document of a flow, are run by
# jobq-worker and drawn; what cannot be run is refused.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use JobqFlow;
use JobqTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;

plan(skip_all => 'WORK is not set: run it by make test') unless $ENV{WORK};
plan(skip_all => 'jq is not here') unless can_run('jq', '--version');

# A work folder of its own, with what is built already; server and files of the demo are in it.
my $work = PostgreSQL::Test::Utils::tempdir_short;
symlink("$ENV{WORK}/$_", "$work/$_") or die "$_: $!" foreach qw(src tree);
append_to_file("$work/stamp", slurp_file("$ENV{WORK}/stamp"));
my $json = JSON::PP->new->canonical;

# a program that draws, whether or not there is one
mkdir "$work/bin";
append_to_file("$work/bin/dot", <<'EOD');
#!/bin/sh
# -Tsvg -o FILE FROM
echo "<svg>$(grep -c -e '->' "$4") edges</svg>" >"$3"
EOD
chmod 0755, "$work/bin/dot";

# Run it with a file; returns its exit status and what it prints.
sub demo
{
	my ($name, $content) = @_;
	unlink "$work/$name";
	append_to_file("$work/$name", ref $content ? $json->encode($content) : $content);
	local $ENV{FLOW} = "$work/$name";
	local $ENV{FLOW_NAME} = $name;
	return run_script('run', '', $name);
}

# The same of a script with its input
sub run_script
{
	my ($script, $input, $name) = @_;
	my ($out, $err) = ('', '');
	local $ENV{WORK} = $work;
	local $ENV{TMPDIR} = "$work/tmp";
	local $ENV{PATH} = "$work/bin:$ENV{PATH}";
	local $ENV{COLUMNS} = 100;
	local $ENV{JOBQ_UTF8} = 0;
	delete local @ENV{ grep { /^PG(?!_CONFIG)/ } keys %ENV };
	IPC::Run::run([ 'bash', '-c', 'cd "$WORK/src" && exec tools/reap bash demo/$0 9<"$WORK"', $script ], '<', \$input, '>', \$out, '2>', \$err, IPC::Run::timeout(300));
	my $status = $? >> 8;
	note("$name: status $status\n$out$err");
	return ($status, $out, $err);
}

sub file { return slurp_file("$work/demo/flow.$_[0]"); }

# A fork and a join, in WfFormat
my ($status, $out, $err) = demo('fork.json', {
	name => 'fork',
	workflow => {
		specification => { tasks => [
			{ name => 'split', id => 'split_1', parents => [] },
			(map { { name => 'part', id => "part_$_", parents => ['split_1'] } } 1 .. 5),
			{ name => 'join', id => 'join_1', parents => [ map { "part_$_" } 1 .. 5 ] } ] },
		execution => { tasks => [ map { { id => $_, runtimeInSeconds => 0.1 } } 'split_1', 'join_1', map { "part_$_" } 1 .. 5 ] } } });
is($status, 0, 'a workflow in WfFormat');
like($out, qr/^fork\.json: flow \d+, 7 jobs, a second takes 1000 ms\.$/m, '... is submitted as a flow');
like($out, qr/^ *\+ split\n.*\n *\+ part  \+ part  \+ part  \+ part  \+ part\n.*\n *\+ join\n\n\+ 7 succeeded$/m, '... drawn with the states of its jobs');
like($out, qr/^It has succeeded after \d+ s\.$/m, '... is run');
like($out, qr/^ fork +\| succeeded \| +7 \| +7 \| +0 \| +0 \| +0 \| +0 \| +0$/m, '... and summed up');
like($out, qr/^Each job started after all that it depends on had ended\.$/m, '... in its order');
like($out, qr{^Its graph is in $work/demo/flow\.mermaid and $work/demo/flow\.dot\.\nIt is drawn in $work/demo/flow\.svg\.$}m, 'its graph');
like(file('dot'), qr/^digraph jobq \{\n(?:.*\n)*.*label="split_1\\nsucceeded"/, '... for Graphviz');
like(file('mermaid'), qr/^flowchart LR\n/, '... as Mermaid');
is(file('svg'), "<svg>11 edges</svg>\n", '... and drawn');

# A document: flows in flows, a condition, and what waits for somebody
($status, $out, $err) = demo('document.json', {
	name => 'document', args => { x => 1 }, defaults => { args => { runtimeInSeconds => 0.1 } }, jobs => [
		{ name => 'first', kind => 'a' },
		{ name => 'inside', queue => 'elsewhere', depends_on => ['first'], jobs => [
			{ name => 'one', kind => 'b', queue => 'elsewhere' }, { name => 'two', kind => 'c', depends_on => ['one'] } ] },
		{ name => 'left out', kind => 'd', if => '$.x == 2' },
		{ name => 'last', kind => 'e', depends_on => ['inside'] },
		{ name => 'approval', kind => 'f', manual => JSON::PP::true }, { name => 'then', kind => 'g', depends_on => ['approval'] } ] });
is($status, 4, 'the document of a flow, with a step for a person');
like($out, qr/^It is not decided after \d+ s, and nothing of it can go on:\n  approval: waits: Nobody runs it: it waits for a decision\..*\n\n/m, '... says what it waits for');
like($out, qr/^ document +\| running +\| +6 \| +3 \| +0 \| +1 \| +0 \| +0 \| +2\n inside +\| succeeded \| +2 \| +2 \|/m, '... with flows in it');
like($out, qr/\+ 5 succeeded   \. 2 waiting   - 1 skipped\n\nIt is not/, '... and all of it drawn');
like(file('mermaid'), qr/left out/, '... also in the files');

# A branch and a map over what a job gives
($status, $out, $err) = demo('results.json', { name => 'results', defaults => { args => { runtimeInSeconds => 0.1 } }, jobs => [
		{ name => 'list', kind => 'list', args => { runtimeInSeconds => 0.1, result => [ 1, 2, 3 ] } },
		{ name => 'yes', kind => 'a', depends_on => ['list'], when => { list => '$[0] == 1' } }, { name => 'no', kind => 'b', depends_on => ['list'], when => { list => '$[0] == 2' } },
		{ name => 'each', depends_on => ['list'], map => { '$result' => 'list' }, job => { kind => 'c' } } ] });
is($status, 0, 'conditions on results, and a map over one');
like($out, qr/^ results +\| succeeded \| +4 \| +3 \| +0 \| +1 \|.*\n each +\| succeeded \| +3 \| +3 \|/m, '... which is in the args of the job that gives it');
($status, $out, $err) = demo('nothing.json', { name => 'nothing', jobs => [ { name => 'list', kind => 'list' }, { name => 'each', depends_on => ['list'], map => { '$result' => 'list' }, job => { kind => 'c' } } ] });
is($status, 3, 'a map over nothing');
like($out, qr/^It has ended after \d+ s: failed, member "each", job \d+, failed\.\n  each: "map" refers to nothing/m, '... fails, and why is told');

# What fails
($status, $out, $err) = demo('fails.json', { name => 'fails', jobs => [ { name => 'a', kind => 'a', expires_at => '2001-01-01', hold => JSON::PP::true }, { name => 'b', kind => 'b', depends_on => ['a'] } ] });
is($status, 3, 'a flow that fails');
like($out, qr/^It has ended after \d+ s: failed, member "b", job \d+, could not run, since what it depends on did not succeed\.$/m, '... says why');
unlike($err, qr/the end of/, '... without the logs');
($status, $out, $err) = demo('undone.json', { name => 'undone', on_failure => 'undo', defaults => { args => { runtimeInSeconds => 0.1 } }, jobs => [
		{ name => 'first', kind => 'a', undo => { kind => 'z', args => { runtimeInSeconds => 0.1 } } }, { name => 'each', depends_on => ['first'], map => { '$args' => '$.none' }, job => { kind => 'b' } } ] });
is($status, 3, 'a flow that is undone');
like($out, qr/^Flow \d+, which undoes flow \d+: succeeded\.$/m, '... is, by the same workers');
like($out, qr/^ *\+ first\n *\|\n *X each\n *\|\n *\+ undo of undone\n *\|\n *\+ first\n\n\+ 3 succeeded   X 1 failed\n\nIt has ended/m, '... which is drawn below it');
is($err, '', '... without a complaint');

# What is refused
($status, $out, $err) = demo('faulty.json', { jobs => [ { name => 'a', kind => 'a', depends_on => ['b'] } ] });
is($status, 2, 'a document with a fault');
like($err, qr/ERROR:  the flow has 1 fault\nDETAIL:  \$\.jobs\[0\]\.depends_on\[0\]: no member of this flow has the name "b"\n(?:.*\n)*FLOW=faulty\.json cannot be run\.\n\z/, '... which is told');
($status, $out, $err) = demo('other.json', { a => 1 });
is($status, 2, 'JSON of another sort');
like($err, qr/not a WfFormat file: it has no tasks\nFLOW=other\.json cannot be run\.\n\z/, '... which is told');
($status, $out, $err) = demo('no.json', 'no JSON');
is($status, 2, 'no JSON');
like($err, qr/FLOW=no\.json cannot be run\.\n\z/, '... which is told');

# make try
($status, $out, $err) = run_script('try', <<'EOD', 'try');
SELECT job_submit('hello') AS id \gset
SELECT kind, job_complete(job_id, token, '1') FROM job_claim();
\! jobq-worker --version
CALL job_wait(:id, '10 s');
\! jobq-worker --queue other --kind x=true >/dev/null 2>&1 & echo "worker $!, $(stat -L -c %n /proc/$!/fd/* | xargs -n 1 readlink | grep -cx "$WORK")"
EOD
is($status, 0, 'make try');
like($out, qr/^ hello \|.*\n(?:.*\n)*jobq-worker .*\n(?:.*\n)* +succeeded \| 1$/m, '... has jobq, and a worker');
ok(!-e "$work/pgdata", '... and leaves no server');
is($err, '', '... nor complaints');
my ($worker, $locks) = $out =~ /^worker (\d+), (\d+)$/m;
is($locks, 0, 'what is started there has not the lock of the clone');
ok(poll_until(sub { !-e "/proc/$worker" }), '... and is ended with it');

done_testing();
