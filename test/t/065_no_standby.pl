# A synchronous standby that is not there: the background worker goes on, as do
# clients that do not wait for it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use Test::More;

my $node = jobq_node('no_standby', init => { allows_streaming => 1 }, conf => "jobq.sweep_interval = 1s");
my $c = JobqClient->new($node);
$c->rows(q{ALTER SYSTEM SET synchronous_standby_names = 'nobody'});
$c->rows('SELECT pg_reload_conf()');
$c->rows('SET synchronous_commit = local');
poll_until(sub { $c->value('SHOW synchronous_standby_names') eq 'nobody' }) or die 'no reload';

my $listener = JobqClient->new($node);
$listener->rows('LISTEN "job_queue_q"');
$c->rows(<<'EOQ');
SELECT job_submit('lost', queue => 'q', lease => '200 ms', max_lost => 1);
SELECT job_submit('timed out', queue => 'q', timeout => '200 ms', max_attempts => 1);
SELECT job_submit('cancelled', queue => 'q');
SELECT job_cancel(job_id) FROM job_claim('q', max_jobs => 3) WHERE kind = 'cancelled';
SELECT job_submit('scheduled', queue => 'q2', run_in => '200 ms');
SELECT job_submit('expired', queue => 'q', run_in => '1 day', expires_at => now() + interval '200 ms');
SELECT job_submit('child of ' || kind, queue => 'q', depends_on => ARRAY[id], trigger_rule => 'all_done')
FROM job_status WHERE kind IN ('lost', 'expired');
EOQ
foreach my $case ([ 'lost', 'failed' ], [ 'timed out', 'failed' ], [ 'scheduled', 'ready' ], [ 'expired', 'cancelled' ],
	[ 'child of lost', 'ready' ], [ 'child of expired', 'ready' ])
{
	ok(poll_until(sub { $c->value("SELECT state FROM job_status WHERE kind = '$case->[0]'") eq $case->[1] }), "$case->[0]: $case->[1]");
}
ok(poll_until(sub { $c->value("SELECT cancel_requested FROM job_lease JOIN job ON id = job_id WHERE kind = 'cancelled'") eq 't' }),
	'a request to cancel is acted on');
ok(poll_until(sub { $listener->rows('SELECT 1'); @{ $listener->{notifications} // [] } > 0 }), 'notifications are sent');
is($c->value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"), 0, 'nobody waits for the standby');

# whoever wants it does wait
my $waits = JobqClient->new($node);
$waits->send("SELECT job_submit('waits')");
ok(poll_until(sub { $c->value("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'") == 1 }), 'but for who wants to');
$c->rows(q{ALTER SYSTEM RESET synchronous_standby_names});
$c->rows('SELECT pg_reload_conf()');
$waits->receive;
invariants_hold($node, 'without a standby');
$node->stop;
done_testing();
