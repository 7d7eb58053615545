# jobq-worker: what commands get, what becomes of their output and exit status,
# and how they are stopped.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('worker', conf => <<'EOC');
jobq.max_result_size = '1MB'
jobq.max_inputs_size = '64kB'
EOC
my $dir = PostgreSQL::Test::Utils::tempdir;

# From now on, heartbeats come for each job of a queue that is running, at least
# so many, whose leases are of 60 s; and none has been lost.
sub leases_kept
{
	my ($node, $queue, $n) = @_;
	my $now = $node->safe_psql('postgres', 'SELECT clock_timestamp()');
	return $node->poll_query_until('postgres', <<"EOQ")
SELECT count(*) >= $n AND min(lease_until) > '$now'::timestamptz + '60 s' FROM job_status WHERE queue = '$queue' AND state = 'running'
EOQ
	  && $node->safe_psql('postgres', "SELECT sum(lost) FROM job_status WHERE queue = '$queue'") eq '0';
}

my $worker = start_worker(
	$node, '--worker', 'w 1', '--concurrency', '4', '--heartbeat', '100ms', '--kill-after', '1s',
	'--kind', 'echo=cat',
	'--kind', 'quiet=echo',
	'--kind', q{env=printf '{"id":"%s","attempt":"%s","key":"%s","kind":"%s","token":"%s"}' }
	  . q{"$JOBQ_JOB_ID" "$JOBQ_ATTEMPT" "$JOBQ_KEY" "$JOBQ_KIND" "$JOBQ_TOKEN"},
	'--kind', q{inputs=printf '{"path":"%s","inputs":%s}' "$JOBQ_INPUTS" "$(cat "$JOBQ_INPUTS")"},
	'--kind', q{unset=printf '"%s"' "${JOBQ_INPUTS-unset}"},
	'--kind', 'fail=echo no luck >&2; exit 3',
	'--kind', 'refuse=echo no use >&2; exit 65',
	'--kind', 'again=test "$JOBQ_ATTEMPT" -ge 3 || exit 75; echo "$JOBQ_ATTEMPT"',
	'--kind', 'die=kill -KILL $$',
	'--kind', 'missing=no-such-command-at-all',
	'--kind', q{long=head -c 200000 /dev/zero | tr '\\0' x >&2; echo END >&2; exit 1},
	'--kind', q{dirty=printf 'a\\377b\\000c\\303\\244' >&2; exit 1},
	'--kind', 'text=echo not JSON',
	'--kind', q{nul=printf '1\\000'},
	'--kind', q{huge=printf '"'; head -c 2000000 /dev/zero | tr '\\0' x; printf '"'},
	'--kind', 'endless=yes',
	'--kind', 'deaf=exec <&-; echo 1',
	'--kind', 'join=:noop',
	'--kind', 'colon= :',
	'--kind', "stray=sleep 600 & echo \$! >$dir/stray; echo 1",
	'--kind', "barrier=touch $dir/barrier.\$JOBQ_JOB_ID; until [ \$(ls $dir/barrier.* | wc -l) -ge 4 ]; do sleep 0.05; done",
	'--kind', "stubborn=trap '' TERM; (trap '' TERM; exec sleep 600) & echo \$! >$dir/grandchild; echo \$\$ >$dir/child; sleep 600; sleep 600",
	'--kind', "polite=trap 'echo bye >$dir/bye; exit 0' TERM; echo \$\$ >$dir/polite; while :; do sleep 0.05; done");

# What it gets.
my $job = submit($node, q{'echo', '{"a": [1, "ä"]}'});
state_is($node, $job, 'succeeded', 'a job succeeds');
is(job_field($node, $job, 'result'), '{"a": [1, "ä"]}',
	'arguments on stdin, the result from stdout');
is(job_field($node, $job, 'worker'), 'w 1', 'the name of the worker');

$job = submit($node, q{'quiet'});
state_is($node, $job, 'succeeded', 'a command without output succeeds');
is(job_field($node, $job, 'result IS NULL'), 't', '... and has no result');

$job = submit($node, q{'env'});
state_is($node, $job, 'succeeded', 'environment');
is(job_field($node, $job,
	"result->>'id' || ' ' || (result->>'attempt') || ' ' || (result->>'kind')"),
	"$job 1 env", 'JOBQ_JOB_ID, JOBQ_ATTEMPT and JOBQ_KIND');
is(job_field($node, $job, "result->>'key' <> '' AND result->>'token' ~ '^[0-9]+\$'"),
	't', 'JOBQ_KEY and JOBQ_TOKEN');

my $parent = submit($node, q{'echo', '{"p": 1}'});
$job = submit($node, qq{'inputs', depends_on => ARRAY[$parent]});
state_is($node, $job, 'succeeded', 'a job with a parent');
is(job_field($node, $job, "result->'inputs'"), qq({"$parent": {"p": 1}}),
	'JOBQ_INPUTS has its result');
ok(!-e job_field($node, $job, "result->>'path'"), 'the file is gone afterwards');

$parent = submit($node, q{'echo', jsonb_build_object('x', repeat('x', 100000))});
$job = submit($node, qq{'unset', depends_on => ARRAY[$parent]});
state_is($node, $job, 'succeeded', 'a job with a large parent');
is(job_field($node, $job, 'result'), '"unset"', 'JOBQ_INPUTS is not set over jobq.max_inputs_size');

$job = submit($node, q{'deaf', jsonb_build_object('x', repeat('x', 500000))});
state_is($node, $job, 'succeeded', 'a command need not read its input');

# Nothing to run.
my @parents = map { submit($node, q{'echo', '{"p": 1}'}) } 1 .. 2;
$job = submit($node, "'join', depends_on => ARRAY[$parents[0], $parents[1]]");
state_is($node, $job, 'succeeded', 'a job of the kind :noop');
is(job_field($node, $job, q{format('%s %s', attempt, result IS NULL)}), '1 t',
	'... at the first attempt, without a result');
ok($worker->wait_for_log(qr/event=job_succeeded job=$job\b/), '... which the worker logs');
unlike(slurp_file($worker->{log}), qr/event=job_started job=$job\b/, '... without a process');
$job = submit($node, q{'colon'});
state_is($node, $job, 'succeeded', q{the shell's own colon});
like(slurp_file($worker->{log}), qr/event=job_started job=$job\b/, '... is a process');

# What becomes of its exit status and its output.
$job = submit($node, q{'fail', max_attempts => 2, backoff => '10 ms'});
state_is($node, $job, 'failed', 'exit status 3 fails in the end');
is(job_field($node, $job, 'error'), "command exited with status 3\nno luck",
	'the error has status and stderr');
is(job_field($node, $job, 'attempt'), '2', 'exit status 3 is tried again');

$job = submit($node, q{'refuse', max_attempts => 5, backoff => '10 ms'});
state_is($node, $job, 'failed', 'exit status 65 fails');
is(job_field($node, $job, 'attempt'), '1', 'exit status 65 is not tried again');

$job = submit($node, q{'again', max_attempts => 5, backoff => '10 ms'});
state_is($node, $job, 'succeeded', 'exit status 75 is tried again');
is(job_field($node, $job, 'result'), '3', '... until it succeeds');

$job = submit($node, q{'die', max_attempts => 1});
state_is($node, $job, 'failed', 'death by a signal fails');
like(job_field($node, $job, 'error'), qr/^command was killed by signal 9 \(Killed\)$/,
	'... and is named');

$job = submit($node, q{'missing', max_attempts => 1});
state_is($node, $job, 'failed', 'a command that is not there fails');
like(job_field($node, $job, 'error'), qr/^command exited with status 127\n.*no-such-command-at-all/,
	'... and the shell tells why');

$job = submit($node, q{'long', max_attempts => 1});
state_is($node, $job, 'failed', 'a lot of stderr');
my $kept = job_field($node, $job, 'error');
my $line = "command exited with status 1\n";
ok($kept eq $line . ('x' x (65536 - length($line) - 4)) . 'END',
	'... of which the end is kept, up to jobq.max_error_size')
  or diag(length($kept) . ' bytes');

$job = submit($node, q{'dirty', max_attempts => 1});
state_is($node, $job, 'failed', 'stderr that is not UTF-8');
is(job_field($node, $job, 'error'), "command exited with status 1\na?bc\303\244",
	'bad bytes are replaced, NUL taken out');

$job = submit($node, q{'text'});
state_is($node, $job, 'failed', 'output that is not JSON fails');
like(job_field($node, $job, 'error'),
	qr/^the command's output was refused as the result: invalid input syntax for type json.*\[standard output must be one JSON text or nothing: write messages to standard error, or give --output=text or --output=discard\]$/,
	'... with the reason');
is(job_field($node, $job, 'attempt'), '1', '... without retry');

$job = submit($node, q{'nul'});
state_is($node, $job, 'failed', 'output with a NUL byte fails');
like(job_field($node, $job, 'error'),
	qr{^the command's output is not JSON: it contains a NUL byte \[.*--output=text}, '... with the reason');

$job = submit($node, q{'huge'});
state_is($node, $job, 'failed', 'a result over jobq.max_result_size fails');
like(job_field($node, $job, 'error'),
	qr/^the command's output was refused as the result: /, '... with the reason');
is(job_field($node, $job, 'attempt'), '1', '... without retry');

$job = submit($node, q{'endless'});
state_is($node, $job, 'failed', 'output without end fails');
is(job_field($node, $job, 'error'), 'command wrote more than 16384 kB to its standard output',
	'... with the reason');
is(job_field($node, $job, 'attempt'), '1', '... without retry');

$job = submit($node, q{'nobody knows', max_attempts => 1});
state_is($node, $job, 'failed', 'a kind without a command fails');
is(job_field($node, $job, 'error'), 'this worker has no command for kind "nobody knows"',
	'... with the reason');

# A worker that cannot start its commands.
$job = submit($node, q{'m', queue => 'nowhere', max_attempts => 1});
{
	local $ENV{TMPDIR} = "$dir/nowhere";
	start_worker($node, '--queue', 'nowhere', '--max-jobs', '1', '--kind', 'm=true')->ends_with(0, 'a worker without TMPDIR');
}
is(job_field($node, $job, 'error'), 'could not start the command: no inputs file: No such file or directory',
	'... fails its jobs with the reason');

# One that has not enough of what a command takes leaves its jobs to others for a while.
my $other = start_worker($node, '--queue', 'short', '--concurrency', '6', '--kind', 'm=true');
ok($other->wait_for_log(qr/connected conn=wait/), 'up');
system_or_bail('prlimit', '--pid', $other->{pid}, '--nproc=1:');
my @short = map { submit($node, q{'m', queue => 'short', max_attempts => 1}) } 1 .. 6;
ok($other->wait_for_log(qr/event=job_not_started .*no process: Resource temporarily unavailable/),
	'a worker without processes');
ok($other->wait_for_log(qr/event=job_released/), '... gives its jobs back');
my ($limit) = slurp_file('/proc/self/limits') =~ /^Max processes +(\w+)/m;
system_or_bail('prlimit', '--pid', $other->{pid}, "--nproc=$limit:");
state_is($node, $_, 'succeeded', '... and none has failed') foreach @short;
$other->signal('TERM');
$other->ends_with(0, 'leaves');

# One that was started with signals blocked.
$job = submit($node, q{'m', queue => 'blocked'});
$other = start_worker_by($node, [ 'env', '--block-signal=CHLD', '--block-signal=TERM' ],
	'--queue', 'blocked', '--kind', 'm=true');
state_is($node, $job, 'succeeded', 'a worker that was started with signals blocked sees its commands end');
$other->signal('TERM');
$other->ends_with(0, '... and leaves');

# Times are written in many ways.
$node->safe_psql('postgres', q{CREATE DATABASE elsewhen});
$node->safe_psql('postgres', q{ALTER DATABASE elsewhen SET timezone = 'Asia/Kolkata'});
$node->safe_psql('postgres', q{ALTER DATABASE elsewhen SET datestyle = 'SQL, DMY'});
$node->safe_psql('elsewhen', q{CREATE EXTENSION jobq});
$other = start_worker($node, '--dbname', $node->connstr('elsewhen'), '--lease', '2s', '--max-jobs', '1',
	'--kind', 'm=sleep 4');
ok($other->wait_for_log(qr/connected conn=wait/), 'up');
ok($node->poll_query_until('elsewhen', q{SELECT count(*) = 1 FROM pg_stat_activity WHERE query ~ '^CALL'
	AND datname = 'elsewhen' AND wait_event_type = 'Extension'}), 'a worker waits');
$job = $node->safe_psql('elsewhen', q{SELECT job_submit('m')});
$other->ends_with(0, 'with a DateStyle that reads times as others');
is($node->safe_psql('elsewhen', qq{SELECT state || ' ' || attempt FROM job_status WHERE id = $job}),
	'succeeded 1', '... leases are as long as they are');

# A database whose encoding lacks a character of stderr.
$node->safe_psql('postgres', q{CREATE DATABASE latin1 ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0});
$node->safe_psql('latin1', 'CREATE EXTENSION jobq');
$job = $node->safe_psql('latin1', q{SELECT job_submit('euro')});
start_worker($node, '--dbname', $node->connstr('latin1'), '--max-jobs', '1', '--kind',
	q{euro=printf 'a\\342\\202\\254' >&2; exit 65})->ends_with(0, 'a database in LATIN1');
is($node->safe_psql('latin1', "SELECT error FROM job_status WHERE id = $job"),
	"command exited with status 65\na???", '... gets the error in ASCII');

# Processes.
$job = submit($node, q{'stray'});
state_is($node, $job, 'succeeded', 'a command that leaves a process behind');
my $pid = slurp_pid("$dir/stray");
ok(poll_until(sub { !process_lives($pid) }), '... which is killed');

my @jobs = map { submit($node, q{'barrier'}) } 1 .. 4;
state_is($node, $_, 'succeeded', 'one of four jobs at a time') foreach @jobs;

$job = submit($node, q{'stubborn'});
my @pids = map { slurp_pid("$dir/$_") } qw(child grandchild);
$node->safe_psql('postgres', "SELECT job_cancel($job)");
state_is($node, $job, 'cancelled', 'a running job is cancelled');
ok(!process_lives($pids[0]), 'its command is dead');
ok(poll_until(sub { !process_lives($pids[1]) }), 'and so is the child of that');

$job = submit($node, q{'polite'});
slurp_pid("$dir/polite");
$node->safe_psql('postgres', "SELECT job_cancel($job)");
state_is($node, $job, 'cancelled', 'a command that handles SIGTERM is cancelled');
ok(-e "$dir/bye", 'it had the time to');

unlink("$dir/child", "$dir/grandchild");
$job = submit($node, q{'stubborn', timeout => '1 s', max_attempts => 1});
@pids = map { slurp_pid("$dir/$_") } qw(child grandchild);
state_is($node, $job, 'failed', q{a job over its own timeout fails});
ok(poll_until(sub { !process_lives($pids[0]) && !process_lives($pids[1]) }),
	'... and its processes are killed');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves when it has nothing to do');
like(slurp_file($worker->{log}), qr/event=draining reason=SIGTERM/, '... and says why');

# --timeout, "*", and a command that does not react to SIGTERM.
$worker = start_worker($node, '--timeout', '300ms', '--kill-after', '100ms', '--kind',
	q{*=trap '' TERM; echo "$JOBQ_KIND" >&2; while :; do sleep 600; done});
$job = submit($node, q{'whatever', max_attempts => 1});
state_is($node, $job, 'failed', '--timeout ends a command');
is(job_field($node, $job, 'error'), "command timed out after 0.3 s\nwhatever",
	'... and says so; "*" is for all kinds');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# --max-jobs and --exit-when-idle
submit($node, q{'m', queue => 'max'}) foreach 1 .. 5;
$worker = start_worker($node, '--queue', 'max', '--concurrency', '4', '--max-jobs', '3', '--kind',
	'm=true');
$worker->ends_with(0, '--max-jobs ends the worker');
is($node->safe_psql('postgres',
	q{SELECT count(*) FROM job_status WHERE queue = 'max' AND state = 'succeeded'}), '3',
	'... after that many');
$job = submit($node, q{'held', queue => 'held'});
$worker = start_worker($node, '--queue', 'held', '--max-jobs', '1', '--kind',
	"held=until [ -e $dir/max ]; do sleep 0.05; done");
ok($worker->wait_for_log(qr/event=draining reason=max-jobs/), 'a worker that takes no more');
$worker->signal('TERM');
append_to_file("$dir/max", '');
$worker->ends_with(0, '... leaves by the first signal');
is(job_field($node, $job, 'state'), 'succeeded', '... when its job has ended');
$worker = start_worker($node, '--queue', 'max', '--exit-when-idle', '100ms', '--kind', 'm=true');
$worker->ends_with(0, '--exit-when-idle ends the worker');
$worker = start_worker($node, '--queue', 'max', '--exit-when-idle', '500ms', '--listen', '--poll-interval', '100ms',
	'--kind', 'm=true');
$worker->ends_with(0, '... also if it looks for jobs more often');
is($node->safe_psql('postgres',
	q{SELECT count(*) FROM job_status WHERE queue = 'max' AND state = 'succeeded'}), '5',
	'... when nothing is left');

# --once, with what becomes ready on the way, but not what is for later.
my $first = submit($node, q{'m', queue => 'once'});
submit($node, qq{'m', queue => 'once', depends_on => ARRAY[$first]});
submit($node, q{'late', queue => 'once'});
submit($node, q{'m', queue => 'once', run_at => now() + '1 h'});
submit($node, q{'m', queue => 'once'}) foreach 1 .. 5;
$worker = start_worker($node, '--queue', 'once', '--concurrency', '2', '--once', '--kind', 'm=:noop',
	'--kind', 'late=exit 1');
$worker->ends_with(0, '--once ends the worker');
is($node->safe_psql('postgres',
	q{SELECT state, count(*) FROM job_status WHERE queue = 'once' GROUP BY 1 ORDER BY 1}),
	"scheduled|2\nsucceeded|7", '... when nothing is left but for later');
like(slurp_file($worker->{log}), qr/event=draining reason=once/, '... and it says why');
unlike(slurp_file($worker->{log}), qr/conn=wait/, '... and has not waited');
$first = submit($node, q{'slow', queue => 'once2', timeout => '1 s', max_attempts => 1});
my $then = submit($node, qq{'m', queue => 'once2', depends_on => ARRAY[$first], trigger_rule => 'all_done'});
$worker = start_worker($node, '--queue', 'once2', '--concurrency', '2', '--heartbeat', '500ms', '--once',
	'--kind', 'slow=sleep 60', '--kind', 'm=:noop');
$worker->ends_with(0, '--once with a job that the server takes away');
is(job_field($node, $then, 'state'), 'succeeded', '... does what becomes ready by that');
$worker = start_worker($node, '--queue', 'empty', '--once', '--kind', 'm=true');
$worker->ends_with(0, '--once with nothing to do');

$worker = start_worker($node, '--queue', 'once', '--once', '--schema', 'nowhere', '--kind', 'm=true');
$worker->ends_with(1, '--once with an error that stays');
like(slurp_file($worker->{log}), qr/event=draining reason=error/, '... and it says why');
$worker = start_worker($node, '--queue', 'once', '--once', '--dbname', 'nowhere', '--kind', 'm=true');
$worker->ends_with(1, '--once without a database');

# --prefetch: more are taken than run, begun with in the order of their claims,
# kept by heartbeats, and given back.
my @early = map { submit($node, q{'wait', queue => 'early'}) } 1 .. 6;
$worker = start_worker($node, '--queue', 'early', '--concurrency', '2', '--prefetch', '3', '--lease', '60s', '--heartbeat', '100ms',
	'--kind', "wait=echo \$JOBQ_JOB_ID >>$dir/early; until test -e $dir/early.\$JOBQ_JOB_ID; do sleep 0.02; done");
ok(poll_until(sub { -e "$dir/early" && (() = slurp_file("$dir/early") =~ /\n/g) == 2 }), 'two run');
state_is($node, $early[$_], 'running', "... job $_ is taken") foreach 0 .. 4;
is(job_field($node, $early[5], 'state'), 'ready', '... and one is not');
ok(leases_kept($node, 'early', 5), 'their leases are kept');
$node->safe_psql('postgres', "SELECT job_cancel($early[3])");
state_is($node, $early[3], 'cancelled', 'one that is cancelled before it begins');
append_to_file("$dir/early.$early[0]", '');
state_is($node, $early[0], 'succeeded', 'one ends');
ok(poll_until(sub { (() = slurp_file("$dir/early") =~ /\n/g) == 3 }), '... and the next begins');
like(slurp_file("$dir/early"), qr/^$early[2]\n\z/m, '... in order');
$worker->signal('TERM');
state_is($node, $_, 'ready', 'what was not begun with is given back') foreach @early[4, 5];
append_to_file("$dir/early.$_", '') foreach @early[1, 2];
$worker->ends_with(0, 'leaves');
state_is($node, $_, 'succeeded', 'what ran has ended') foreach @early[1, 2];

# Thousands are kept, too, also when one of them is not the worker's any more,
# while others are run and reported; and are given back together.
$node->safe_psql('postgres', "SELECT job_submit('m', queue => 'many') FROM generate_series(1, 8000)");
$worker = start_worker($node, '--queue', 'many', '--concurrency', '2', '--prefetch', '7000', '--lease', '60s', '--heartbeat', '1s',
	'--kind', 'm=sleep 0.01');
$node->poll_query_until('postgres', q{SELECT count(*) > 5000 FROM job_status WHERE queue = 'many' AND state = 'running'});
$job = $node->safe_psql('postgres', 'SELECT max(job_id) FROM job_lease');
$node->safe_psql('postgres',
	"SELECT job_fail(job_id, token, 'by hand', retry => false) FROM job_lease WHERE job_id = $job");
ok($worker->wait_for_log(qr/event=lease_lost job=$job\b/), 'the worker learns that one of thousands is lost');
ok(leases_kept($node, 'many', 1000), '... and keeps the others');
ok($node->poll_query_until('postgres', q{SELECT count(*) > 50 FROM job_status WHERE queue = 'many' AND state = 'succeeded'}),
	'... while it runs them');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');
is($node->safe_psql('postgres', q{SELECT count(*) FROM job_status WHERE queue = 'many' AND state = 'running'}), '0',
	'all were given back');
$node->safe_psql('postgres', q{SELECT job_cancel(id) FROM job_status WHERE queue = 'many' AND state = 'ready'});

# Several queues: by LISTEN.
$worker = start_worker($node, '--queue', 'a', '--queue', 'b', '--concurrency', '2',
	'--poll-interval', '1h', '--kind', 'echo=cat');
ok($worker->wait_for_log(qr/connected conn=wait/), 'listens');
@jobs = map { submit($node, "'echo', queue => '$_'") } qw(a b b);
state_is($node, $_, 'succeeded', 'a job of several queues') foreach @jobs;
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# A worker that no NOTIFY reaches.
$node->safe_psql('postgres', q{SELECT job_queue_set('silent', notify => 'off')});
$worker = start_worker($node, '--queue', 'silent', '--listen', '--poll-interval', '200ms', '--kind',
	'echo=cat');
ok($worker->wait_for_log(qr/connected conn=wait/), 'listens');
$job = submit($node, q{'echo', queue => 'silent'});
state_is($node, $job, 'succeeded', 'the slow poll gets what was not announced');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# A waiting connection that is never there: the pool polls.
foreach my $mode ([], ['--listen'])
{
	$worker = start_worker($node, @$mode, '--wait-dbname', "host=$dir/nowhere", '--poll-interval',
		'200ms', '--kind', 'echo=cat');
	ok($worker->wait_for_log(qr/connection_failed conn=wait/), "no waiting connection @$mode");
	$job = submit($node, q{'echo'});
	state_is($node, $job, 'succeeded', 'the pool polls');
	$worker->signal('TERM');
	$worker->ends_with(0, 'leaves');
}

# A role with no privilege but to work on one queue.
$node->safe_psql('postgres', q{CREATE ROLE limited LOGIN; SELECT job_grant('limited', 'own',
	'work')});
$worker = start_worker($node, '--dbname', $node->connstr('postgres') . ' user=limited', '--queue',
	'own', '--max-jobs', '2', '--kind', 'echo=cat', '--kind', 'fail=exit 65');
@jobs = map { submit($node, "'$_', queue => 'own'") } qw(echo fail);
state_is($node, $jobs[0], 'succeeded', 'a role with the privilege work completes a job');
state_is($node, $jobs[1], 'failed', '... and fails one');
$worker->ends_with(0, 'leaves');

# A larger result than the default allows.
$node->safe_psql('postgres', q{ALTER DATABASE postgres SET jobq.max_result_size = '20MB'});
$job = submit($node, q{'large', queue => 'large'});
$worker = start_worker($node, '--queue', 'large', '--once',
	'--kind', q{large=printf '"'; head -c 17000000 /dev/zero | tr '\\0' x; printf '"'});
$worker->ends_with(0, 'a large result');
is(job_field($node, $job, 'length(result::text)'), '17000002', '... that the settings allow');

# As behind a pooler, whose sessions do not know the worker's statements.
$node->safe_psql('postgres', <<'EOS');
CREATE SCHEMA pooler;
CREATE FUNCTION pooler.job_worker_register(text, text[], text, int) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN PERFORM public.job_worker_register($1, $2, $3, $4); END $$;
CREATE FUNCTION pooler.job_worker_unregister(text) RETURNS boolean
LANGUAGE plpgsql AS $$ BEGIN RETURN public.job_worker_unregister($1); END $$;
CREATE FUNCTION pooler.job_claim(text, text, int, interval, text[]) RETURNS SETOF job_assignment
LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE ALL; RETURN QUERY SELECT * FROM public.job_claim($1, $2, $3, $4, $5); END $$;
CREATE FUNCTION pooler.job_complete(bigint, bigint, jsonb) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN DEALLOCATE ALL; PERFORM public.job_complete($1, $2, $3); END $$;
EOS
@jobs = map { submit($node, q{'m', queue => 'pooler'}) } 1 .. 5;
$worker = start_worker($node, '--queue', 'pooler', '--schema', 'pooler', '--once', '--pool', '1',
	'--kind', 'm=:noop');
$worker->ends_with(0, 'a worker whose prepared statements vanish');
is($node->safe_psql('postgres',
	q{SELECT sum(attempt) FROM job_status WHERE queue = 'pooler' AND state = 'succeeded'}),
	'5', '... runs all the same');
like(slurp_file($worker->{log}), qr/event=statements_unprepared conn=pool1 sqlstate=26000/,
	'... without them');

$node->stop;
done_testing();
