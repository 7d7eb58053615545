# A streaming standby: the views work there, the functions refuse; after
# promotion the worker starts, leases get a period of grace, and what is due
# happens.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $primary = jobq_node('primary', init => { allows_streaming => 1 });
my $p = JobqClient->new($primary);
# so that what is replicated up to then is all that was done
$p->rows('SET jobq.async_claim = off');
$p->rows("SELECT job_queue_set('other', max_attempts => 7)");
my $done = $p->value("SELECT job_submit('done', tags => '{\"t\": 1}')");
$p->rows("SELECT job_complete(job_id, token, '{\"r\": 1}') FROM job_claim()");

$primary->backup('backup');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($primary, 'backup', has_streaming => 1);
$standby->start;

# The primary's worker is stopped, so nothing happens to what is due, however
# long the primary lives.
my ($stopped) = backend_pids($primary, '^jobq worker$');
kill('STOP', $stopped) or die "$stopped: $!";
my $ready = $p->value("SELECT job_submit('ready')");
my $due = $p->value("SELECT job_submit('due', queue => 'due', run_at => clock_timestamp() + interval '2 s')");
my $expires = $p->value("SELECT job_submit('expires', queue => 'e', run_at => now() + interval '1 d', expires_at => clock_timestamp() + interval '2 s')");
my %held;
foreach my $queue (qw(beating abandoned))
{
	$p->value("SELECT job_submit('lease', queue => '$queue', lease => '4 s', backoff => '1 ms')");
	($held{$queue}) = $p->rows("SELECT job_id, token, extract(epoch FROM lease_until) FROM job_claim('$queue', 'w1')");
}
my $session = $p->value("SELECT job_submit('session', queue => 'session', lease => '1 h', backoff => '1 ms')");
$p->rows("SELECT job_claim('session', 'w1', session => true)");
$p->rows("SELECT job_worker_register('w1', version => '1'), job_worker_register('idle')");
$primary->wait_for_catchup($standby);

# Reading
my $s = JobqClient->new($standby);
my $views = <<'EOQ';
SELECT string_agg(x, E'\n' ORDER BY x) FROM (
    SELECT (id, kind, state, attempt, result, tags, worker, started_at, finished_at)::text FROM job_status
    UNION ALL SELECT a::text FROM job_attempts a
    UNION ALL SELECT (queue, paused, waiting, scheduled, ready, running)::text FROM job_queue_status
    UNION ALL SELECT (worker, running)::text FROM job_worker_status) v(x)
EOQ
is($s->value($views), $p->value($views), 'the views show the same on the standby');
my $metrics = "SELECT string_agg(labels::text || value, ' ' ORDER BY labels) FROM job_metrics WHERE name = 'jobq_jobs'";
is($s->value($metrics), $p->value($metrics), 'the numbers of jobs are counted');
is($s->value("SELECT string_agg(DISTINCT name, ' ' ORDER BY name) FROM job_metrics WHERE labels ? 'queue' OR name LIKE '%worker%'"),
	'jobq_jobs jobq_oldest_ready_seconds jobq_queue_paused', 'and there are neither counters nor a worker');
is($s->value("SELECT lease_until > now() - interval '1 h' FROM job_status WHERE id = $held{beating}[0]"), 't', 'lease_until too');
is($s->value("SELECT job_result($done)"), '{"r": 1}', 'job_result works');
is($s->value("SELECT string_agg(reason, ' ' ORDER BY reason) FROM job_explain($ready)"), 'ready standby',
	'job_explain does not miss workers, of which it cannot know here');

# Refusing
my ($id, $token) = @{ $held{beating} };
foreach my $call (
	"SELECT job_submit('x')",
	"SELECT job_submit_many('[{\"kind\": \"x\"}]')",
	'SELECT job_claim()',
	"SELECT job_claim('{default,other}'::text[])",
	"SELECT job_heartbeat($id, $token)",
	"SELECT job_complete($id, $token)",
	"SELECT job_complete_many('{$id}', '{$token}')",
	"SELECT job_fail($id, $token)",
	"SELECT job_fail_many('{$id}', '{$token}')",
	"SELECT job_release($id, $token)",
	"SELECT job_snooze($id, $token, '1 s')",
	"SELECT job_cancel($id)",
	"SELECT job_retry($done)",
	"SELECT job_hold($ready)",
	"SELECT job_unhold($ready)",
	"SELECT job_queue_set('default', paused => true)",
	"SELECT job_grant('pg_monitor', 'default', 'read')",
	"SELECT job_revoke('pg_monitor', 'default', 'read')",
	"SELECT job_worker_register('w1')",
	"SELECT job_worker_drain('w1')",
	"SELECT job_worker_unregister('w1')",
	"CALL job_claim_wait('default', 'w', '1 s')")
{
	my $r = $s->query($call);
	is($r->{sqlstate}, '25006', "refused on a standby: $call") or diag($r->{message} // 'no error');
}

# Nobody wakes a waiter on a standby, but it must not wait longer than it said,
# nor say what is no longer true.
my $before = time;
my $r = $s->query("CALL job_wait($done, '10 min')");
is_deeply($r->{rows}[0], [ 'succeeded', '{"r": 1}' ], 'job_wait for a decided job');
cmp_ok(time - $before, '<', stretched(10), 'answers at once');
my $brief = $p->value("SELECT job_submit('brief', queue => 'brief')");
$primary->wait_for_catchup($standby);
$before = time;
$s->send("CALL job_wait($brief, '3 s')");
$p->rows("SELECT job_complete(job_id, token) FROM job_claim('brief')");
$r = $s->receive;
is($r->{rows}[0][0], 'succeeded', 'job_wait for one that is decided meanwhile');
cmp_ok(time - $before, '<', stretched(10), 'answers in time');
is($s->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^jobq'"), 0, 'no process of jobq there');
is($p->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^jobq'"), 2, 'unlike on the primary');

# The primary dies; leases run out while nobody is there.
$primary->kill9;
kill('KILL', $stopped);
my $until = $held{abandoned}[2];
poll_until(sub { time > $until + 0.3 });
is($s->value("SELECT state FROM job_status WHERE id = $held{abandoned}[0]"), 'running', 'nothing happens on the standby');
is($s->value("SELECT state FROM job_status WHERE id = $due"), 'scheduled', 'to what is due neither');

my $promoted = time;
$standby->promote;
ok(poll_until(sub { $s->value("SELECT count(*) FROM pg_stat_activity WHERE backend_type ~ '^jobq'") == 2 }),
	'promoted, it has a launcher and a worker');
ok(poll_until(sub { $s->value("SELECT state FROM job_status WHERE id = $due") eq 'ready' }), 'what is due becomes ready');
cmp_ok(time - $promoted, '<', stretched(5), 'soon');
ok(poll_until(sub { $s->value("SELECT state FROM job_status WHERE id = $expires") eq 'cancelled' }), 'what has expired is cancelled');

ok(poll_until(sub { ($s->value("SELECT error FROM job_attempts WHERE job_id = $session") // '') eq 'session ended' }),
	'a session of the primary holds nothing here, whatever its lease would have been');
ok(poll_until(sub { $s->value("SELECT count(*) FROM job_claim('session')") == 1 }), '... and its job runs again');

# A session that was there before the promotion goes on.
my $beats = 0;
my $begin = $s->value("SELECT extract(epoch FROM backend_start) FROM pg_stat_activity WHERE backend_type = 'jobq worker'");
ok( within(60, sub {
		my $r = $s->query("SELECT job_heartbeat($id, $token)");
		$beats++ if !$r->{sqlstate} && $r->{rows}[0][0] eq 't';
		usleep(200_000);
		return $s->value("SELECT lost FROM job_status WHERE id = $held{abandoned}[0]") == 1;
	}),
	'an abandoned lease runs out');
my $after = $s->value("SELECT extract(epoch FROM ended_at) FROM job_attempts WHERE job_id = $held{abandoned}[0]") - $begin;
cmp_ok($after, '>', 3.8, 'after a period of grace');
cmp_ok($after, '<', stretched(8), 'and not much later');
cmp_ok($beats, '>', 1, 'heartbeats went on');
is($s->query("SELECT job_complete($id, $token)")->{sqlstate}, undef, 'who sent them can complete');
ok(poll_until(sub { $s->value("SELECT state FROM job_status WHERE id = $held{abandoned}[0]") eq 'ready' }), 'the lost one comes back');
my $new = $s->value("SELECT job_submit('new')");
cmp_ok($new, '>', $held{abandoned}[0], 'ids go on');
my @claimed = $s->rows("SELECT job_id, job_complete(job_id, token) FROM job_claim('{default,due,abandoned}'::text[], max_jobs => 10)");
is(join(' ', sort { $a <=> $b } map { $_->[0] } @claimed), join(' ', sort { $a <=> $b } $ready, $due, $held{abandoned}[0], $new),
	'every job can be run');
invariants_hold($standby, 'after promotion');
tables_are_sound($standby, 'after promotion');

done_testing();
