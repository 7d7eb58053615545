# jobq-worker: what commands write, and commands that decide their jobs
# themselves, whatever is killed meanwhile.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('worker', conf => 'restart_after_crash = on');
my $dir = PostgreSQL::Test::Utils::tempdir;
($ENV{PGHOST}, $ENV{PGPORT}, $ENV{PGDATABASE}) = ($node->host, $node->port, 'postgres');

# --output
my @outputs = (
	[ 'text', q{echo hello}, '"hello"' ],
	[ 'text', q{printf 'a "b"\\n\\\\c\\001\\t\\303\\244\\377\\000z\\n\\n'}, "\"a \\\"b\\\"\\n\\\\c\\u0001\\t\303\244?z\"" ],
	[ 'text', q{echo 1}, '"1"' ],
	[ 'text', q{echo; echo}, '' ],
	[ 'text', q{:}, '' ],
	[ 'text', q{head -c 900000 /dev/zero | tr '\\0' x}, '"' . 'x' x 900000 . '"' ],
	[ 'discard', q{echo no JSON}, '' ],
	[ 'discard', q{head -c 20000000 /dev/zero}, '' ],
	[ 'json', q{echo '{"a": 1}'}, '{"a": 1}' ],);
foreach my $case (@outputs)
{
	my ($output, $command, $result) = @$case;
	my $job = submit($node, q{'m', queue => 'output'});
	start_worker($node, '--queue', 'output', '--once', '--output', $output, '--kind', "m= $command")
	  ->ends_with(0, "--output $output: $command");
	is(job_field($node, $job, 'state'), 'succeeded', '... it succeeds');
	ok(job_field($node, $job, 'result') eq $result, '... with the result that was asked for')
	  or diag(substr(job_field($node, $job, 'result'), 0, 1000));
}
$node->safe_psql('postgres', q{CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin1', 'CREATE EXTENSION jobq');
my $job = $node->safe_psql('latin1', q{SELECT job_submit('m')});
start_worker($node, '--dbname', $node->connstr('latin1'), '--once', '--output', 'text',
	'--kind', q{m=printf 'a\\342\\202\\254'})->ends_with(0, '--output text, of a character that the database lacks');
is($node->safe_psql('latin1', "SELECT state || ' ' || result FROM job_status WHERE id = $job"),
	'succeeded "a???"', '... gives it in ASCII');

# Columns that come in another order, and more of them.
$node->safe_psql('postgres', <<'END');
CREATE SCHEMA columns;
CREATE FUNCTION columns.job_worker_register(text, text[], text, int) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN PERFORM public.job_worker_register($1, $2, $3, $4); END $$;
CREATE FUNCTION columns.job_worker_unregister(text) RETURNS boolean RETURN public.job_worker_unregister($1);
CREATE FUNCTION columns.job_claim(text, text, int, interval, text[])
	RETURNS TABLE (flow bigint, lease_until timestamptz, key text, inputs jsonb, args jsonb, kind text, attempt int, token bigint, job_id bigint, more text)
LANGUAGE sql BEGIN ATOMIC
	SELECT NULL::bigint, a.lease_until, a.key, a.inputs, a.args, a.kind, a.attempt, a.token, a.job_id, 'more'::text FROM public.job_claim($1, $2, $3, $4, $5) a;
END;
CREATE FUNCTION columns.job_heartbeat(bigint, bigint) RETURNS boolean RETURN public.job_heartbeat($1, $2);
CREATE FUNCTION columns.job_complete(bigint, bigint, jsonb) RETURNS void RETURN public.job_complete($1, $2, $3);
END
$job = submit($node, q{'m', '{"a": 1}', queue => 'columns'});
start_worker($node, '--schema', 'columns', '--queue', 'columns', '--once', '--kind', 'm=cat')
  ->ends_with(0, 'columns in another order');
is(job_field($node, $job, q{state || ' ' || result}), 'succeeded {"a": 1}', '... are known by their names');

# The log has the error of a command, or its end.
my $worker = start_worker($node, '--queue', 'log', '--max-jobs', '2', '--kind', 'short=echo "no luck" >&2; exit 3',
	'--kind', 'long=for i in $(seq 1000); do echo "line $i" >&2; done; exit 3');
submit($node, "'$_', queue => 'log', max_attempts => 1") foreach qw(short long);
$worker->ends_with(0, 'commands that fail');
my $log = slurp_file($worker->{log});
like($log, qr/event=job_failed job=\d+ kind=short attempt=1 state=failed error="command exited with status 3\\nno luck"$/m,
	'the log has what a command said');
like($log, qr/kind=long .*error="command exited with status 3\\n\.\.\..{900,1200}line 999\\nline 1000"$/m, '... at the end');

# Commands that complete their jobs in the transaction of their effects.  The
# first attempt stops at the stage that its kind is named after.
append_to_file("$dir/stage", <<END);
[ \$JOBQ_KIND = \$1 ] && [ "\$JOBQ_ATTEMPT" = 1 ] || exit 0
echo \$\$ >$dir/at.\$JOBQ_JOB_ID
until [ -e $dir/go.\$JOBQ_JOB_ID ]; do sleep 0.05; done
END
append_to_file("$dir/effect", <<END);
psql -XAtq -v ON_ERROR_STOP=1 <<EOS
BEGIN;
INSERT INTO effect SELECT \$JOBQ_JOB_ID, \$JOBQ_ATTEMPT, pg_backend_pid();
\\! sh $dir/stage effect
SELECT job_complete(\$JOBQ_JOB_ID, \$JOBQ_TOKEN, '{"by": "itself"}');
\\! sh $dir/stage complete
COMMIT;
EOS
rc=\$?
sh $dir/stage commit
exit \$rc
END
$node->safe_psql('postgres', 'CREATE TABLE effect (job bigint, attempt int, pid int)');
my @effect = ('--kind', "*=sh $dir/effect", '--lease', '2s', '--heartbeat', '200ms', '--reconnect-max', '500ms');
my $pids = q{SELECT pid FROM pg_stat_activity WHERE query ~ '^(INSERT INTO effect|SELECT job_complete.*by)'};
my %kill = (
	command => sub { kill('KILL', -(slurp_file($worker->{log}) =~ /event=job_started job=$job .*pid=(\d+)/)[0]) },
	worker => sub { $worker->signal('KILL'); $worker->finish },
	session => sub { $node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) FROM ($pids) p") },
	backend => sub { kill('KILL', $node->safe_psql('postgres', $pids)) },
	server => sub { $node->stop('immediate'); start_again($node) });
foreach my $stage (qw(effect complete commit))
{
	foreach my $what (sort keys %kill)
	{
		next if $stage eq 'commit' && ($what eq 'session' || $what eq 'backend');    # is over
		$job = submit($node, "'$stage', backoff => '10 ms'");
		$worker = start_worker($node, @effect);
		slurp_pid("$dir/at.$job");
		# its claim need not be flushed
		submit($node, q{'other', queue => 'other'});
		$kill{$what}->();
		append_to_file("$dir/go.$job", '');
		$worker = start_worker($node, @effect) unless defined $worker->{pid};
		# the server may be on its way down still
		ok(poll_until(sub { (eval { job_field($node, $job, 'state') } // '') eq 'succeeded' }),
			"KILL of the $what after $stage: the job succeeds");
		is($node->safe_psql('postgres', "SELECT attempt FROM effect WHERE job = $job"), job_field($node, $job, 'attempt'),
			'... its effect is there once, of the attempt that has');
		is(job_field($node, $job, 'result'), '{"by": "itself"}', '... with its result');
		$worker->signal('QUIT');
		$worker->finish;
	}
}

# A command may go on when it has completed its job.
$job = submit($node, q{'m', queue => 'goes_on'});
$worker = start_worker($node, '--queue', 'goes_on', '--max-jobs', '1', '--heartbeat', '50ms', '--lease', '1s', '--kind',
	"m=psql -XAtqc 'SELECT job_complete('\$JOBQ_JOB_ID', '\$JOBQ_TOKEN')'; until [ -e $dir/goes_on ]; do sleep 0.05; done; touch $dir/ended");
state_is($node, $job, 'succeeded', 'a command completes its job');
ok(poll_until(sub { $node->safe_psql('postgres',
	q{SELECT count(*) > 0 FROM pg_stat_activity WHERE query ~ 'job_complete.*NULL'}) eq 't' }), '... and the worker asks for that');
append_to_file("$dir/goes_on", '');
$worker->ends_with(0, '... leaves');
ok(-e "$dir/ended", '... when the command has ended by itself');
unlike(slurp_file($worker->{log}), qr/level=(?:warning|error)/, '... and finds nothing wrong');

invariants_hold($node, 'commands that complete their jobs');

# The example of the documentation.
my ($example) = slurp_file("$FindBin::RealBin/../../docs/worker.md") =~ /^```sh\n(#!\/bin\/sh\n# archive-orders.*?)^```/ms;
append_to_file("$dir/archive-orders", $example);
$node->safe_psql('postgres', <<'END');
CREATE ROLE archiver LOGIN;
SELECT job_grant('archiver', 'default', 'work'), job_grant('archiver', 'default', 'submit');
CREATE TABLE orders AS SELECT id, id % 10 > 0 AS paid FROM generate_series(1, 100) id;
CREATE TABLE archive (LIKE orders);
GRANT ALL ON orders, archive TO archiver;
SELECT job_submit('archive', '{"batch": 25}');
END
{
	local $ENV{PGUSER} = 'archiver';
	$worker = start_worker($node, '--once', '--dbname', $node->connstr('postgres') . ' user=archiver',
		'--kind', "archive=sh $dir/archive-orders");
	$worker->ends_with(0, 'a job that submits its successor');
}
is($node->safe_psql('postgres', q{SELECT state, count(*) FROM job_status WHERE kind = 'archive' GROUP BY 1}),
	'succeeded|4', '... as often as there is more');
is($node->safe_psql('postgres', q{SELECT count(*), count(DISTINCT id), bool_and(paid) FROM archive}),
	'90|90|t', '... and all is done once');
unlike(slurp_file($worker->{log}), qr/level=(?:warning|error)/, '... and the worker finds nothing wrong');

$node->stop;
done_testing();
