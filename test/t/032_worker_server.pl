# jobq-worker: leaving, its own death, and the server's; registering, draining, labels.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use IO::Socket::UNIX;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = jobq_node('worker', conf => <<'EOC');
log_statement = all
max_prepared_transactions = 1
max_wal_senders = 1
wal_level = replica
EOC
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

# Signals that it was started to ignore have no effect.
my $ignored = submit($node, q{'held', queue => 'ignored'});
$worker = start_worker_by($node, [ 'sh', '-c', q{trap '' HUP INT QUIT; exec "$@"}, 'sh' ], '--queue', 'ignored', @held);
started($ignored);
$worker->signal($_) foreach qw(HUP INT QUIT TERM);
ok($worker->wait_for_log(qr/event=draining reason=SIGTERM jobs=1/), 'SIGTERM is the first that counts');
let_go($ignored);
$worker->ends_with(0, '... and the worker ends');
is(job_field($node, $ignored, 'state'), 'succeeded', '... and its job has ended well');

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

# So does SIGQUIT, at once.
unlink("$dir/pid.$later");
$worker = start_worker($node, @held);
started($later);
$worker->signal('QUIT');
$worker->ends_with(0, 'SIGQUIT ends the worker');
is(job_field($node, $later, 'state'), 'ready', 'its job is released');

# So does the end of --drain-timeout.
unlink("$dir/pid.$later");
$worker = start_worker($node, @held, '--drain-timeout', '100ms');
started($later);
$worker->signal('INT');
$worker->ends_with(0, '--drain-timeout ends the worker');
is(job_field($node, $later, 'state'), 'ready', 'its job is released');
let_go($later);

# A third one kills, also while the server does not answer the request to
# cancel the CALL that waits for more jobs.
$job = submit($node, q{'deaf', queue => 'third'});
$worker = start_worker($node, '--queue', 'third', '--concurrency', '2', '--kill-after', '1h', '--kind',
	"deaf=trap '' TERM; echo \$\$ >$dir/pid.\$JOBQ_JOB_ID; while :; do sleep 600; done");
$pid = started($job);
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE query ~ '^CALL' AND wait_event_type = 'Extension'}), 'a CALL waits');
kill('STOP', $node->{_pid});
$worker->signal('TERM');
ok($worker->wait_for_log(qr/event=draining/), 'SIGTERM drains');
$worker->signal('TERM');
ok($worker->wait_for_log(qr/event=releasing/), 'a second one releases');
my $begin = time;
$worker->signal('TERM');
$worker->ends_with(1, 'a third one ends the worker');
cmp_ok(time - $begin, '<', stretched(15), '... at once');
like(slurp_file($worker->{log}), qr/event=jobs_left jobs=1/, '... which tells what it leaves');
ok(poll_until(sub { !process_lives($pid) }), '... and its command dead');
kill('CONT', $node->{_pid});

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

# Several jobs whose commands end while the worker cannot report: together.
my @together = (
	@held, '--heartbeat', '1h', '--concurrency', '8',
	'--kind',
	"fail=echo \$\$ >$dir/pid.\$JOBQ_JOB_ID; until [ -e $dir/go.\$JOBQ_JOB_ID ]; do sleep 0.05; done; exit 1",
	'--kind',
	"text=echo \$\$ >$dir/pid.\$JOBQ_JOB_ID; until [ -e $dir/go.\$JOBQ_JOB_ID ]; do sleep 0.05; done; echo no JSON");

# Start a worker with these jobs, and end their commands while it is stopped.
sub ended_together
{
	my @jobs = @_;
	my $worker = start_worker($node, @together, '--max-jobs', scalar(@jobs));
	my @pids = map { started($_) } @jobs;
	ok($worker->wait_for_log(qr/event=draining reason=max-jobs/), 'all run');
	# each connection that comes up makes it send heartbeats
	ok($worker->wait_for_log(qr/(?:event=connected.*){4}/s), '... and no more connections are to come');
	$worker->signal('STOP');
	let_go($_) foreach @jobs;
	ok(poll_until(sub { !grep { process_lives($_) } @pids }), 'all commands have ended');
	return $worker;
}

# Which states are they in, and at which attempts?
sub states
{
	return $node->safe_psql('postgres', sprintf(
		q{SELECT string_agg(state || ' ' || attempt, ', ' ORDER BY id) FROM job_status WHERE id IN (%s)},
		join(',', @_)));
}

# Was there one statement for all of these?
sub sent_together
{
	my ($function, $from, @jobs) = @_;
	my $log = slurp_file($node->logfile, $from);
	return scalar(grep {
		my $ids = $_;
		@jobs == grep { $ids =~ /\b$_\b/ } @jobs
	} $log =~ /\Q$function\E\(.*\n.*DETAIL:  [Pp]arameters: \$1 = '\{([^}]*)\}'/g);
}

my $from = -s $node->logfile;
my @jobs = map { submit($node, q{'held'}) } 1 .. 4;
$worker = ended_together(@jobs);
$node->safe_psql('postgres',
	"SELECT job_fail(job_id, token, 'by hand', retry => false) FROM job_lease WHERE job_id = $jobs[1]");
$worker->signal('CONT');
$worker->ends_with(0, 'four completions, one of them stale');
ok(sent_together('job_complete_many', $from, @jobs), '... were one statement');
is(states(@jobs), 'succeeded 1, failed 1, succeeded 1, succeeded 1', '... which took the others');
my $log = slurp_file($worker->{log});
is_deeply([ $log =~ /event=report_refused job=(\d+)/g ], [ $jobs[1] ], '... and the worker knows');

$from = -s $node->logfile;
@jobs = map { submit($node, q{'fail', max_attempts => 1}) } 1 .. 4;
$worker = ended_together(@jobs);
$node->safe_psql('postgres', "SELECT job_cancel($jobs[2])");
$node->safe_psql('postgres', "SELECT job_release(job_id, token) FROM job_lease WHERE job_id = $jobs[0]");
$worker->signal('CONT');
$worker->ends_with(0, 'four failures, one of them cancelled, one stale');
ok(sent_together('job_fail_many', $from, @jobs), '... were one statement');
is(states(@jobs), 'ready 1, failed 1, cancelled 1, failed 1', '... which treated each by itself');
is(job_field($node, $jobs[1], 'error'), 'command exited with status 1', '... with its error');
$log = slurp_file($worker->{log});
is_deeply([ $log =~ /event=report_refused job=(\d+)/g ], [ $jobs[0] ], '... and the worker knows');
is_deeply([ $log =~ /event=job_cancelled job=(\d+)/g ], [ $jobs[2] ], '... of both');
$node->safe_psql('postgres', "SELECT job_cancel($jobs[0])");

@jobs = map { submit($node, "'$_'") } qw(held text held held);
$worker = ended_together(@jobs);
$node->safe_psql('postgres', "SELECT job_cancel($jobs[3])");
$worker->signal('CONT');
$worker->ends_with(0, 'four completions, one of them not JSON');
like(slurp_file($worker->{log}), qr/event=reports_one_by_one jobs=4 sqlstate=22P02/, '... were one statement, then four');
is(states(@jobs), 'succeeded 1, failed 1, succeeded 1, succeeded 1',
	'... and only that failed; a request to cancel came too late for another');

@jobs = map { submit($node, q{'held'}) } 1 .. 4;
$worker = ended_together(@jobs);
$node->safe_psql('postgres',
	"BEGIN; SELECT FROM job_lease WHERE job_id = $jobs[0] FOR UPDATE; PREPARE TRANSACTION 'lock'");
$worker->signal('CONT');
ok($worker->wait_for_log(qr/event=reports_one_by_one jobs=4 sqlstate=55P03/),
	'four completions, one of a job that is locked');
state_is($node, $_, 'succeeded', '... do not wait for it') foreach @jobs[ 1 .. 3 ];
is(job_field($node, $jobs[0], 'state'), 'running', '... which runs');
$node->safe_psql('postgres', q{COMMIT PREPARED 'lock'});
$worker->ends_with(0, '... until it is not');
is(states(@jobs), 'succeeded 1, succeeded 1, succeeded 1, succeeded 1', 'all have succeeded');

# The same while the server is away.
$from = -s $node->logfile;
@jobs = map { submit($node, q{'held'}) } 1 .. 4;
$worker = ended_together(@jobs);
submit($node, q{'other', queue => 'other'});    # its commit also flushes the claims
$node->stop('immediate');
$worker->signal('CONT');
ok($worker->wait_for_log(qr/(?:event=job_ended.*){4}/s), 'four jobs end while the server is down');
$node->start;
$worker->ends_with(0, '... and are reported');
ok(sent_together('job_complete_many', $from, @jobs), '... by one statement');
is(states(@jobs), 'succeeded 1, succeeded 1, succeeded 1, succeeded 1', 'all have succeeded');

# A completion that is committed, and whose answer is lost: COMMIT waits for a
# standby that is not there, and its session is ended then.
@jobs = map { submit($node, q{'held'}) } 1 .. 4;
$worker = ended_together(@jobs);
$node->append_conf('postgresql.conf', q{synchronous_standby_names = 'nobody'});
$node->reload;
ok($node->poll_query_until('postgres', q{SHOW synchronous_standby_names}, 'nobody'), 'told the server');
$node->safe_psql('postgres', 'CHECKPOINT');    # the checkpointer has it told to all
$worker->signal('CONT');
my $waiting = q{FROM pg_stat_activity WHERE wait_event = 'SyncRep' AND query ~ 'job_complete_many'};
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $waiting"), 'a COMMIT waits');
$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $waiting");
$worker->ends_with(0, 'a completion whose answer was lost is repeated');
$log = slurp_file($worker->{log});
like($log, qr/event=connection_lost conn=pool/, '... as the worker had to');
unlike($log, qr/event=report_refused/, '... silently');
is(states(@jobs), 'succeeded 1, succeeded 1, succeeded 1, succeeded 1', 'all have succeeded');
$node->append_conf('postgresql.conf', q{synchronous_standby_names = ''});
$node->reload;

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

# Jobs that have not begun when their leases may have run out: after a time
# without the server they wait for their heartbeats.
my @prefetch = (@held, '--prefetch', '5', '--lease', '3s', '--max-jobs', '4');
@jobs = map { submit($node, q{'held'}) } 1 .. 4;
$worker = start_worker($node, @prefetch);
started($jobs[0]);
ok($worker->wait_for_log(qr/event=draining reason=max-jobs/), 'one runs, three wait');
$node->stop('fast');
my $stopped = time;
poll_until(sub { time > $stopped + 3 });
let_go($_) foreach @jobs;
ok($worker->wait_for_log(qr/event=job_ended job=$jobs[0]\b/), 'it ends after their leases');
ok($worker->wait_for_log(qr/job_ended.*connection_failed/s), 'the server is still away');
$node->start;
$worker->ends_with(0, 'the server is back');
is(states(@jobs), 'succeeded 1, succeeded 1, succeeded 1, succeeded 1', 'all have succeeded');
$log = slurp_file($worker->{log});
like($log, qr/job_ended job=$jobs[0]\b.*event=connected conn=pool.*event=job_started job=$jobs[1]\b/s,
	'... and the next began only then');

# ... and if another worker may have them they never begin.
@jobs = map { submit($node, q{'held', backoff => '1 h'}) } 1 .. 4;
$worker = start_worker($node, @prefetch);
$pid = started($jobs[0]);
ok($worker->wait_for_log(qr/event=draining reason=max-jobs/), 'one runs, three wait');
$worker->signal('STOP');
let_go($_) foreach @jobs;
ok(poll_until(sub { !process_lives($pid) }), 'it ends while the worker is stopped');
ok($node->poll_query_until('postgres', sprintf(
			q{SELECT count(*) = 4 FROM job_attempts WHERE outcome = 'lost' AND job_id IN (%s)}, join(',', @jobs))),
	'all leases run out');
$worker->signal('CONT');
$worker->ends_with(0, 'the worker goes on');
$log = slurp_file($worker->{log});
is_deeply([ $log =~ /event=job_started job=(\d+)/g ], [ $jobs[0] ], '... and does not begin with them');
is(scalar(() = $log =~ /event=lease_lost/g), 3, '... which it is told are lost');
$node->safe_psql('postgres', "SELECT job_cancel($_)") foreach @jobs;

# The same with a job that comes while the worker waits for one.
$worker = start_worker($node, @held, '--lease', '1s');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE query ~ '^CALL' AND wait_event_type = 'Extension'}), 'a CALL waits');
$worker->signal('STOP');
$job = submit($node, q{'held', backoff => '1 h'});
ok($node->poll_query_until('postgres', qq{SELECT lost = 1 FROM job_status WHERE id = $job}), 'its answer is late');
$worker->signal('CONT');
ok($worker->wait_for_log(qr/event=lease_lost job=$job\b/), '... and the lease lost');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');
unlike(slurp_file($worker->{log}), qr/event=job_started/, '... and has not begun with it');
$node->safe_psql('postgres', "SELECT job_cancel($job)");

# A job that comes while the worker waits for one, with the end of the connection,
# which cannot be asked for the lease any more: it is kept from then on.
$worker = start_worker($node, @held, '--heartbeat', '10s');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
	WHERE query ~ '^CALL' AND wait_event_type = 'Extension'}), 'a CALL waits');
$worker->signal('STOP');
$job = submit($node, q{'held', lease => '3 s', max_lost => 1});
state_is($node, $job, 'running', 'it is answered');
$node->safe_psql('postgres', q{SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query ~ '^CALL'});
$worker->signal('CONT');
started($job);
ok($node->poll_query_until('postgres', qq{SELECT lease_until > started_at + interval '6 s' FROM job_status WHERE id = $job}),
	'the job is kept longer than its lease');
let_go($job);
state_is($node, $job, 'succeeded', '... to its end');

# Idle connections that the server closes: the log says why, and each is made
# again at once.
foreach (1 .. 2)
{
	my $idle = q{FROM pg_stat_activity WHERE backend_type = 'client backend' AND state = 'idle'};
	ok($node->poll_query_until('postgres', "SELECT count(*) = 3 $idle"), 'three are idle');
	$node->safe_psql('postgres', "SELECT pg_terminate_backend(pid) $idle");
}
ok($worker->wait_for_log(qr/(connection_lost conn=pool1.*connected conn=pool1.*){2}/s), 'they are made again');
$log = slurp_file($worker->{log});
is(scalar(() = $log =~ /connection_lost conn=pool\d error=.*terminating connection due to administrator command.* failures=1 /g),
	6, '... and the log says why they were lost');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# --drain-timeout counts from the signal, not from the last of --max-jobs.
$job = submit($node, q{'held'});
$worker = start_worker($node, @held, '--max-jobs', '1', '--drain-timeout', '100ms');
started($job);
ok($worker->wait_for_log(qr/event=draining reason=max-jobs/), 'the only job runs');
my $draining = time;
poll_until(sub { time > $draining + 1 });
let_go($job);
$worker->ends_with(0, 'leaves after it');
is(states($job), 'succeeded 1', '... and has not released it');

# A command that has ended by itself while the worker stood still was neither
# too slow nor stopped by SIGQUIT.
foreach ('timeout', 'SIGQUIT')
{
	$job = submit($node, q{'held', max_attempts => 1});
	$worker = start_worker($node, @held, $_ eq 'timeout' ? ('--timeout', '3s') : (), '--max-jobs', '1');
	$pid = started($job);
	my $began = time;
	$worker->signal('STOP');
	let_go($job);
	ok(poll_until(sub { !process_lives($pid) }), 'the command ends while the worker stands still');
	$worker->signal('QUIT') if $_ eq 'SIGQUIT';
	poll_until(sub { time > $began + 3 }) if $_ eq 'timeout';
	$worker->signal('CONT');
	$worker->ends_with(0, 'the worker leaves');
	is(states($job), 'succeeded 1', "... and the job has succeeded in spite of $_");
}

# A server that takes no writes: connecting again takes longer each time.
$node->safe_psql('postgres', <<'END');
CREATE ROLE reader LOGIN;
SELECT job_grant('reader', 'default', 'work');
ALTER ROLE reader SET default_transaction_read_only = on;
END
my @reader = ('--dbname', $node->connstr('postgres') . ' user=reader');
$worker = start_worker($node, @held, @reader, '--pool', '1');
ok($worker->wait_for_log(qr/connection_dropped conn=pool1 .*read-only transaction.* failures=4 /), 'read-only');
$node->safe_psql('postgres', q{ALTER ROLE reader RESET default_transaction_read_only});
$job = submit($node, q{'held'});
let_go($job);
state_is($node, $job, 'succeeded', '... until it is not');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');
$node->safe_psql('postgres', q{ALTER ROLE reader SET default_transaction_read_only = on});
$worker = start_worker($node, @held, @reader, '--once');
$worker->ends_with(1, '... which with --once is an error');
$node->safe_psql('postgres', q{ALTER ROLE reader RESET default_transaction_read_only});

# A claim that waits much longer than its leases are.
my $locker = JobqClient->new($node);
my $claims = q{FROM pg_stat_activity WHERE wait_event_type = 'Lock'};
$job = submit($node, q{'held', queue => 'late', max_lost => 1});
$locker->rows('BEGIN; LOCK TABLE job_ready');
$worker = start_worker($node, @held, '--queue', 'late', '--lease', '1s', '--heartbeat', '10s', '--max-jobs', '1');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 AND bool_and(now() > query_start + interval '3 s') $claims"),
	'a claim waits for a lock');
$locker->rows('COMMIT');
started($job);
ok($node->poll_query_until('postgres', "SELECT clock_timestamp() > started_at + interval '2 s' FROM job_status WHERE id = $job"),
	'its job runs for longer than a lease');
let_go($job);
$worker->ends_with(0, 'and ends');
is(states($job), 'succeeded 1', '... in the first attempt');

# With --once so is a server that cannot be reached any more.
$locker->rows('BEGIN; LOCK TABLE job_ready');
$worker = start_worker($node, @held, @reader, '--once');
ok($node->poll_query_until('postgres', "SELECT count(*) = 1 $claims"), 'a claim waits');
$node->safe_psql('postgres',
	q{ALTER ROLE reader NOLOGIN; SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'});
$worker->ends_with(1, 'with --once the loss of the server is an error');
$locker->rows('ROLLBACK');
$node->safe_psql('postgres', q{SELECT job_revoke('reader', 'default', 'work'); DROP ROLE reader});

# A worker whose guardian was killed takes no more jobs.
$worker = start_worker($node, @held);
ok($worker->wait_for_log(qr/connected conn=wait/), 'up');
kill 'KILL', split(' ', slurp_file("/proc/$worker->{pid}/task/$worker->{pid}/children"));
ok($worker->wait_for_log(qr/event=guardian_lost/), 'the guardian is killed');
$worker->ends_with(1, '... and the worker leaves');

# ... and what it has still begun does not outlive it.
$job = submit($node, q{'deaf', queue => 'unguarded'});
$worker = start_worker($node, '--queue', 'unguarded', '--kill-after', '1h', '--kind',
	"deaf=trap '' TERM; echo \$\$ >$dir/pid.\$JOBQ_JOB_ID; while :; do sleep 600; done");
$pid = started($job);
kill 'KILL', grep { $_ != $pid } split(' ', slurp_file("/proc/$worker->{pid}/task/$worker->{pid}/children"));
ok($worker->wait_for_log(qr/event=guardian_lost/), 'the guardian is killed while a command runs');
$worker->signal('QUIT');
ok($worker->wait_for_log(qr/event=releasing/), 'SIGQUIT releases');
$worker->signal('TERM');
$worker->ends_with(1, '... and a further signal ends the worker');
ok(poll_until(sub { !process_lives($pid) }), '... and the command');

# Jobs that somebody else keeps locked hold up no others.
my @locked = map { submit($node, q{'held', queue => 'locked'}) } 1 .. 3;
$worker = start_worker($node, '--queue', 'locked', '--concurrency', '4', @held, '--kind', 'm=true');
started($_) foreach @locked;
my $keeper = JobqClient->new($node);
$keeper->rows('BEGIN; SELECT FROM job WHERE queue = \'locked\' FOR UPDATE');
let_go($_) foreach @locked;
ok($worker->wait_for_log(qr/event=report_failed job=$_ .*sqlstate=55P03/), "job $_ is locked") foreach @locked;
my @others = map { submit($node, q{'m', queue => 'locked'}) } 1 .. 5;
state_is($node, $_, 'succeeded', '... and others go on') foreach @others;
$keeper->rows('COMMIT');
state_is($node, $_, 'succeeded', '... and it is reported when it is free') foreach @locked;
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# The first of two hosts does not answer.
my $dead = PostgreSQL::Test::Utils::tempdir_short;
my $listener = IO::Socket::UNIX->new(Local => "$dead/.s.PGSQL." . $node->port, Listen => 5) or die "listen: $!";
$job = submit($node, q{'m', queue => 'hosts'});
$worker = start_worker($node, '--queue', 'hosts', '--max-jobs', '1', '--kind', 'm=true', '--dbname',
	'dbname=postgres connect_timeout=1 port=' . $node->port . " host=$dead," . $node->host);
state_is($node, $job, 'succeeded', 'a host that does not answer is passed over');
$worker->ends_with(0, 'leaves');
close($listener);

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

# It is made again in another schema.
$worker = start_worker($node, @held, '--dbname', $node->connstr('elsewhere'), '--poll-interval', '500ms');
ok($worker->wait_for_log(qr/connected conn=wait .*Job Queue/), 'up');
$node->safe_psql('elsewhere', 'DROP EXTENSION jobq');
ok($worker->wait_for_log(qr/connection_failed conn=wait .*not installed.* failures=4 /),
	'without the extension connecting again takes longer each time');
$node->safe_psql('elsewhere', 'CREATE SCHEMA jobs; CREATE EXTENSION jobq SCHEMA jobs');
$job = $node->safe_psql('elsewhere', q{SELECT jobs.job_submit('held')});
let_go($job);
ok($node->poll_query_until('elsewhere', qq{SELECT state = 'succeeded' FROM jobs.job_status WHERE id = $job}),
	'an extension that was made again in another schema is found');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# It registers, gets nothing while it drains, and unregisters.
my $as = "SELECT labels, version, capacity, draining, state FROM job_worker_status WHERE worker = 'known'";
$worker = start_worker($node, @held, '--worker', 'known', '--version', '1.2 b', '--concurrency', '2');
ok($node->poll_query_until('postgres', $as, '|1.2 b|2|f|alive'), 'a worker registers');
$job = submit($node, q{'held'});
ok(started($job), 'it runs a job');
$node->safe_psql('postgres', q{SELECT job_worker_drain('known')});
my $next = submit($node, q{'held'});
let_go($job);
state_is($node, $job, 'succeeded', 'drains: what it runs is finished');
is($node->safe_psql('postgres', $as), '|1.2 b|2|t|alive', '... it stays');
is(job_field($node, $next, 'state'), 'ready', '... and gets no more');
$node->safe_psql('postgres', q{SELECT job_worker_drain('known', false)});
let_go($next);
state_is($node, $next, 'succeeded', 'when it drains no more, it goes on');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');
is($node->safe_psql('postgres', $as), '', 'and has unregistered');
# where it may not, it works all the same
$node->safe_psql('postgres', q{CREATE ROLE plain LOGIN; SELECT job_grant('plain', 'plain', 'work');
	SELECT job_worker_register('taken')});
$worker = start_worker($node, @held, '--dbname', $node->connstr('postgres') . ' user=plain', '--queue', 'plain', '--worker', 'taken');
ok($worker->wait_for_log(qr/register_failed sqlstate=42501 .*permission denied for worker/), 'another role has the name');
$job = submit($node, q{'held', queue => 'plain'});
let_go($job);
state_is($node, $job, 'succeeded', '... it works');
$worker->signal('TERM');
$worker->ends_with(0, '... and leaves');
is($node->safe_psql('postgres', q{SELECT count(*) FROM job_worker WHERE worker = 'taken'}), '1', '... the other is registered');
# labels: those of its claims, and of its registration, whichever way it waits
foreach my $mode ([], ['--listen'])
{
	$worker = start_worker($node, @held, @$mode, '--worker', 'labelled', '--label', 'gpu', '--label', 'a "b"', '--queue', 'labels', '--max-jobs', '2');
	ok($node->poll_query_until('postgres', q{SELECT labels FROM job_worker_status WHERE worker = 'labelled'}, '{"a \"b\"",gpu}'), 'registers with labels');
	my @jobs = map { submit($node, "'held', queue => 'labels', requires => '$_'") } '{gpu}', '{"a \"b\"",gpu}', '{gpu,other}';
	let_go($_) foreach @jobs;
	state_is($node, $_, 'succeeded', 'runs a job that requires some of them') foreach @jobs[0, 1];
	$worker->ends_with(0, 'leaves');
	is(job_field($node, $jobs[2], 'state'), 'ready', '... and none that requires others');
	$node->safe_psql('postgres', "SELECT job_cancel($jobs[2])");
}
# killed
$worker = start_worker($node, @held, '--worker', 'killed', '--lease', '1s');
ok($node->poll_query_until('postgres', q{SELECT count(*) FROM job_worker_status WHERE worker = 'killed' AND state = 'alive'}, '1'), 'registered');
$worker->signal('KILL');
ok($node->poll_query_until('postgres', q{SELECT state FROM job_worker_status WHERE worker = 'killed'}, 'gone'), 'one that was killed is gone after three times its lease');

$worker = start_worker($node, @held, '--dbname', $node->connstr('template1'));
$worker->ends_with(1, 'a database without the extension is an error');
like(slurp_file($worker->{log}),
	qr/extension \\"jobq\\" is not installed in database \\"template1\\" \[CREATE EXTENSION jobq there, or name another by --dbname\]/, '... which is told');

$node->stop;
done_testing();
