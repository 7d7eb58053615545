# jobq-worker: leaving, its own death, and the server's.
use strict;
use warnings;

use FindBin;
use lib $FindBin::RealBin;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = new_node('worker');
my $dir = PostgreSQL::Test::Utils::tempdir;

# Each job writes the number of its process, and ends when its file is there.
my @held = (
	'--heartbeat', '200ms', '--kill-after', '1s', '--reconnect-max', '500ms',
	'--kind',
	"held=echo \$\$ >$dir/pid.\$JOBQ_JOB_ID; until [ -e $dir/go.\$JOBQ_JOB_ID ]; do sleep 0.05; done; echo '\"done\"'");

sub started
{
	my ($job) = @_;
	return slurp_pid("$dir/pid.$job");
}

sub let_go
{
	my ($job) = @_;
	append_to_file("$dir/go.$job", '');
	return;
}

# SIGTERM drains.
my $job = submit($node, q{'held'});
my $later = submit($node, q{'held'});
my $worker = start_worker($node, @held);
started($job);
$worker->signal('TERM');
ok($worker->wait_for_log(qr/event=draining reason=SIGTERM jobs=1/), 'SIGTERM drains');
let_go($job);
$worker->ends_with(0, '... and the worker ends');
is(job_field($node, $job, 'state'), 'succeeded', 'what ran has ended well');
is(job_field($node, $later, 'state'), 'ready', 'what did not is left');

# A second one releases.
$worker = start_worker($node, @held);
my $pid = started($later);
$worker->signal('TERM');
ok($worker->wait_for_log(qr/event=draining/), 'SIGTERM drains');
is(job_field($node, $later, 'state'), 'running', 'the job runs on');
$worker->signal('TERM');
$worker->ends_with(0, 'a second SIGTERM ends the worker');
is(job_field($node, $later, 'state'), 'ready', 'its job is released');
ok(poll_until(sub { !process_lives($pid) }), '... and its command dead');
is( $node->safe_psql('postgres', "SELECT outcome FROM job_attempts WHERE job_id = $later"),
	'released', '... and the attempt says so');

# So does the end of --drain-timeout.
unlink("$dir/pid.$later");
$worker = start_worker($node, @held, '--drain-timeout', '100ms');
started($later);
$worker->signal('INT');
$worker->ends_with(0, '--drain-timeout ends the worker');
is(job_field($node, $later, 'state'), 'ready', 'its job is released');
let_go($later);

# A restart in the middle of a job.
$job = submit($node, q{'held'});
$worker = start_worker($node, @held);
state_is($node, $later, 'succeeded', 'a released job runs again');
started($job);
$node->restart;
ok($worker->wait_for_log(qr/connection_lost.*connected conn=pool\d+/s), 'the worker comes back');
let_go($job);
state_is($node, $job, 'succeeded', 'a job over a restart');
is(job_field($node, $job, 'attempt'), '1', '... at the first attempt');

# A job that ends while the server is away, longer than its lease.
$job = submit($node, q{'held', lease => '2 s'});
my $waits = submit($node, q{'held', lease => '2 s'});
my $second = start_worker($node, @held);
started($job);
$pid = started($waits);
$node->stop('fast');
let_go($job);
ok(poll_until(sub { (-s $worker->{log} && slurp_file($worker->{log}) =~ /job_ended job=$job\b/)
	|| slurp_file($second->{log}) =~ /job_ended job=$job\b/ }),
		'a job ends while the server is away');
ok($worker->wait_for_log(qr/connection_failed.*retry_ms=(\d\d\d).*connection_failed/s),
	'the worker tries again and again');
ok(process_lives($pid), 'the other goes on');
$node->start;
state_is($node, $job, 'succeeded', '... and is completed when it is back');
is(job_field($node, $job, 'result'), '"done"', '... with its result');
let_go($waits);
state_is($node, $waits, 'succeeded', 'so is the other');
is($node->safe_psql('postgres',
	"SELECT string_agg(attempt::text, ' ') FROM job_status WHERE id IN ($job, $waits)"), '1 1',
	'both at the first attempt');
$second->signal('TERM');
$second->ends_with(0, 'leaves');

# A crash of the server.
$job = submit($node, q{'held'});
started($job);
submit($node, q{'other', queue => 'other'});    # its commit also flushes the claim
$node->stop('immediate');
let_go($job);
ok($worker->wait_for_log(qr/job_ended job=$job\b/), 'a job ends while the server is down');
$node->start;
state_is($node, $job, 'succeeded', '... and is completed after its recovery');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# Without a server it can still be told to leave.
$worker = start_worker($node, @held);
ok($worker->wait_for_log(qr/connected conn=wait/), 'connected');
$node->stop('fast');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves without a server when it has no job');

# Started before the server, it waits for it.
$worker = start_worker($node, @held);
ok($worker->wait_for_log(qr/connection_failed/), 'no server yet');
$node->start;
ok($worker->wait_for_log(qr/connected conn=wait/), 'then there is');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# A lease that is lost: the worker is stopped while its lease runs out.
$job = submit($node, q{'held', lease => '1 s', max_lost => 1});
$worker = start_worker($node, @held);
$pid = started($job);
$worker->signal('STOP');
state_is($node, $job, 'failed', 'a job whose worker does not answer is lost');
$worker->signal('CONT');
ok($worker->wait_for_log(qr/event=lease_lost job=$job\b/), 'the worker learns of it');
ok(poll_until(sub { !process_lives($pid) }), '... and kills the command');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# SIGKILL of the worker.
$job = submit($node, q{'held', lease => '1 s', backoff => '10 ms'});
$worker = start_worker($node, @held);
$pid = started($job);
$worker->signal('KILL');
is($worker->finish, 9, 'the worker is killed');
ok(poll_until(sub { !process_lives($pid) }), '... and its command with it');
state_is($node, $job, 'ready', 'the job comes back');
is($node->safe_psql('postgres', "SELECT outcome FROM job_attempts WHERE job_id = $job"), 'lost',
	'... as lost');
let_go($job);
$worker = start_worker($node, @held);
state_is($node, $job, 'succeeded', '... and runs elsewhere');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# The extension in a schema off the search_path, and a database without it.
$node->safe_psql('postgres', q{CREATE DATABASE elsewhere});
$node->safe_psql('elsewhere',
	q{CREATE SCHEMA "Job Queue"; CREATE EXTENSION jobq SCHEMA "Job Queue"});
$job = $node->safe_psql('elsewhere', q{SELECT "Job Queue".job_submit('held')});
let_go($job);
$worker = start_worker($node, @held, '--dbname', $node->connstr('elsewhere'), '--max-jobs', '1');
$worker->ends_with(0, 'works with a schema off the search_path');
is($node->safe_psql('elsewhere', qq{SELECT state FROM "Job Queue".job_status WHERE id = $job}),
	'succeeded', '... and the job has run');

$worker = start_worker($node, @held, '--dbname', $node->connstr('template1'));
$worker->ends_with(1, 'a database without the extension is an error');
like(slurp_file($worker->{log}),
	qr/extension \\"jobq\\" is not installed in database \\"template1\\"/, '... which is told');

$node->stop;
done_testing();
