# The jobs of schedules: one for each tick, whatever restarts or is changed
# meanwhile; what was missed, what overlaps, what the owner may not do any more.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('schedules', conf => "jobq.sweep_interval = 200ms\nrestart_after_crash = on");
my $c = JobqClient->new($node);

my $now = "(clock_timestamp() + $CLOCK_OFFSET)";

# Make a schedule whose jobs have its name for their kind.
sub schedule
{
	my ($name, $schedule, $options, $job) = @_;
	$job //= '';
	return $c->value(qq{SELECT job_schedule('$name', '$schedule', '{"kind": "$name"$job}'} . ($options ? ", $options" : '') . ')');
}

# Make it due now, and wait until that is over.  The sweep sees it.
sub force
{
	my ($name) = @_;
	$c->rows("UPDATE job_schedule SET next_at = date_trunc('second', $now) - interval '1 s' WHERE name = '$name'");
	return poll_until(sub { $c->value("SELECT next_at > $now FROM job_schedule WHERE name = '$name'") eq 't' });
}

# The states of the jobs of a schedule.
sub states
{
	my ($kind) = @_;
	return $c->value("SELECT coalesce(string_agg(state, ' ' ORDER BY id), '') FROM job_status WHERE kind = '$kind'");
}

# One test: a schedule has had one job for each of its times from the first job on.
sub each_once
{
	my ($kind, $schedule, $zone, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $wrong = $c->value(<<EOQ);
SELECT string_agg(format('%s: %s jobs', at, n), ', ') FROM (
	SELECT at, count(j.id) AS n
	FROM (SELECT min(run_at) AS first, max(run_at) AS last FROM job WHERE kind = '$kind') x,
		LATERAL (SELECT DISTINCT at FROM (SELECT first AS at UNION ALL
			SELECT t FROM job_schedule_times('$schedule', '$zone', first, 10000) t WHERE t <= last UNION ALL SELECT run_at FROM job WHERE kind = '$kind') y) t
		LEFT JOIN job j ON j.kind = '$kind' AND j.run_at = t.at
	GROUP BY at) z WHERE n <> 1
EOQ
	return is($wrong, undef, $name);
}

#
# What was missed
#

# at half past some hour
my $past = $c->value("SELECT (1800 - extract(epoch FROM clock_timestamp() - date_trunc('hour', clock_timestamp())))::int");
$past += 3600 if $past < 0;
set_clock($c, $past * 1000);
schedule("catch $_", '0 * * * *', "catch_up => '$_', overlap => 'allow'") foreach qw(none last all);
schedule('catch paused', '0 * * * *', "catch_up => 'all', paused => true");
set_clock($c, ($past + 25 * 3600) * 1000);
ok(poll_until(sub { $c->value("SELECT bool_and(next_at > $now) FROM job_schedule WHERE NOT paused") eq 't' }), 'a day later all schedules go on');
is(states('catch none'), '', 'catch_up none: what was missed has no job');
is(states('catch last'), 'ready', '... last: one');
is($c->value("SELECT run_at = date_trunc('hour', $now) FROM job WHERE kind = 'catch last'"), 't', '... for the latest time');
is($c->value("SELECT count(*) FROM job WHERE kind = 'catch all'"), 25, '... all: each');
each_once('catch all', '0 * * * *', 'UTC', '... once');
is(states('catch paused'), '', 'one that is paused has none');
is($c->value("SELECT last_at = date_trunc('hour', $now) AND last_job = (SELECT max(id) FROM job WHERE kind = 'catch all') FROM job_schedules WHERE name = 'catch all'"),
	't', 'last_at and last_job are those of the last');
schedule('none', 'every 1 second', "catch_up => 'none', overlap => 'allow'");
ok(poll_until(sub { $c->value("SELECT count(*) >= 2 FROM job WHERE kind = 'none'") eq 't' }), 'what is not missed has a job with none, too');
$c->rows("SELECT job_unschedule('none')");
set_clock($c, 0);
ok(force('catch last'), 'the clock goes back');
is(states('catch last'), 'ready ready', 'what is due has a job, whatever was before');

# Daylight saving, in a year that has passed, with a run_in
foreach my $zone ('Europe/Berlin', 'America/New_York')
{
	schedule("dst $zone", '30 2 * * *', "'$zone', 'all', 'allow'");
	$c->rows("UPDATE job_schedule SET next_at = (SELECT t FROM job_schedule_times('30 2 * * *', '$zone', '2026-03-01', 1) t) WHERE name = 'dst $zone'");
	ok(poll_until(sub { $c->value("SELECT next_at > now() FROM job_schedule WHERE name = 'dst $zone'") eq 't' }), "$zone: all nights since March");
	each_once("dst $zone", '30 2 * * *', $zone, '... one job each');
	cmp_ok($c->value("SELECT count(DISTINCT (run_at AT TIME ZONE '$zone')::time) FROM job WHERE kind = 'dst $zone'"), '==', 2, '... but for one at half past two');
}
schedule('late', '0 * * * *', '', ', "run_in": "2 h"');
force('late');
is($c->value("SELECT j.run_at = s.last_at + interval '2 h' FROM job j, job_schedules s WHERE j.kind = 'late' AND s.name = 'late'"), 't', 'run_in counts from the time of the schedule');
is(states('late'), 'scheduled', '... and puts the job off');

#
# What overlaps
#

schedule($_, 'every 1 day', "overlap => '$_'", qq{, "queue": "$_"}) foreach qw(allow skip queue cancel);
foreach my $name (qw(allow skip queue cancel))
{
	force($name) for 1 .. 2;
}
is(states('allow'), 'ready ready', 'overlap allow: both');
is(states('skip'), 'ready', '... skip: one');
is(states('queue'), 'ready waiting', '... queue: one after the other');
is(states('cancel'), 'cancelled ready', '... cancel: the new one');
is($c->value("SELECT error FROM job WHERE kind = 'cancel' AND outcome IS NOT NULL"), 'superseded by the next job of its schedule', '... and the old one says why');
$c->rows("SELECT job_complete(job_id, token) FROM job_claim('skip')");
force('skip');
is(states('skip'), 'succeeded ready', 'skip: after the end, one');
$c->rows("SELECT job_fail(job_id, token, retry => false) FROM job_claim('queue')");
is(states('queue'), 'failed ready', 'queue: however it ended');
my ($job, $token) = @{ ($c->rows("SELECT job_id, token FROM job_claim('cancel')"))[0] };
force('cancel');
is(states('cancel'), 'cancelled running waiting', 'cancel: one that runs is asked to stop');
is($c->value("SELECT job_heartbeat($job, $token)"), 'f', '... by its heartbeat');
force('cancel');
is(states('cancel'), 'cancelled running cancelled waiting', '... and the next but one waits for it, too');
$c->rows("SELECT job_fail($job, $token)");
is(states('cancel'), 'cancelled cancelled cancelled ready', '... and the new one starts when it has');
schedule('stays', 'every 1 day', "overlap => 'queue'", ', "queue": "stays"');
force('stays');
($job, $token) = @{ ($c->rows("SELECT job_id, token FROM job_claim('stays')"))[0] };
force('stays');
$c->rows("SELECT job_cancel(last_job) FROM job_schedule WHERE name = 'stays'");
is($c->value("SELECT job_purge('stays', '0')"), 0, 'queue: one that is cancelled stays until what it was to start after has ended');
my $cancelled = $c->value("SELECT last_job FROM job_schedule WHERE name = 'stays'");
is($c->query("SELECT job_delete($cancelled)")->{message}, "cannot delete job $cancelled before job $job has ended, which it was to start after", '... and cannot be removed by hand');
force('stays');
is(states('stays'), 'running cancelled waiting', '... so that the next does not overtake that one');
$c->rows("SELECT job_complete($job, $token)");
is($c->value("SELECT job_purge('stays', '0')"), 1, '... then it can go');
is(states('stays'), 'succeeded ready', '... and the next starts');
$c->rows("SELECT job_unschedule('stays')");
$c->rows("DELETE FROM job WHERE id = (SELECT last_job FROM job_schedule WHERE name = 'allow')");
$c->rows("SELECT job_unschedule(s) FROM unnest('{allow,skip,queue,cancel}'::text[]) s");

# ... also if more wait than it can name
schedule('many', 'every 1 day', "overlap => 'queue'", ', "queue": "many"');
force('many') for 1 .. 16;
$c->rows("SELECT * FROM job_cancel_many(ARRAY(SELECT id FROM job WHERE kind = 'many' ORDER BY id LIMIT 6 OFFSET 9))");
foreach my $n (1 .. 10)
{
	is($c->value("SELECT count(job_complete(job_id, token)) FROM job_claim('many', max_jobs => 9)"), 1, "job $n of many waited for the one before it");
}
is($c->value("SELECT count(*) FROM job_status WHERE kind = 'many' AND finished_at IS NULL"), 0, '... to the last');

# ... and a unique key: what on_conflict says comes first
my $keyed = ', "queue": "keyed", "unique_key": "k"';
my $others = $c->value("SELECT job_submit('others', queue => 'keyed', unique_key => 'k')");
schedule('keyed', 'every 1 day', "overlap => 'cancel'", $keyed);
force('keyed') for 1 .. 2;
is(states('keyed'), '', "keep: no job where another has the key");
is($c->value("SELECT last_at IS NULL AND last_job IS NULL AND last_problem IS NULL FROM job_schedules WHERE name = 'keyed'"), 't', '... and that one is not the last of the schedule');
is(states('others'), 'ready', '... which overlap would cancel');
$c->rows("SELECT job_cancel($others)");
force('keyed') for 1 .. 2;
is(states('keyed'), 'ready', 'keep: the last job stays where it has the key, and would be cancelled');
$c->rows("SELECT job_id, token FROM job_claim('keyed')");
schedule('keyed', 'every 1 day', "overlap => 'queue'", "$keyed, \"on_conflict\": \"cancel\"");
$others = $c->value("SELECT job_submit('others', queue => 'keyed', unique_key => 'k', on_conflict => 'replace')");
my ($others_token) = map { $_->[0] } $c->rows("SELECT token FROM job_claim('keyed')");
force('keyed');
is(states('keyed'), 'running waiting', 'cancel: the new job waits');
$c->rows("SELECT job_complete($others, $others_token)");
is(states('keyed'), 'running waiting', '... for who had the key, and for the last job');
$c->rows("SELECT job_complete(job_id, token) FROM job_lease WHERE job_id = (SELECT min(id) FROM job WHERE kind = 'keyed')");
is(states('keyed'), 'succeeded ready', '... and is ready when both have ended');
$c->rows("SELECT job_unschedule('keyed')");

#
# Who may not any more
#

$c->rows("CREATE ROLE robin");
$c->rows("SELECT job_grant('robin', 'theirs', p) FROM unnest('{operate,submit}'::text[]) p");
$c->rows('SET ROLE robin');
schedule('theirs', 'every 1 day', "overlap => 'allow'", ', "queue": "theirs"');
$c->rows('RESET ROLE');
schedule('ours', 'every 1 day', "overlap => 'allow'", ', "queue": "theirs"');
force('theirs');
is($c->value("SELECT submitted_by FROM job_status WHERE kind = 'theirs'"), 'robin', 'jobs are submitted as the owner');
foreach my $privilege (qw(submit operate))
{
	$c->rows("SELECT job_revoke('robin', 'theirs', '$privilege')");
	force($_) foreach qw(theirs ours);
	is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'theirs'"),
		qq{permission denied for queue "theirs": The privilege "$privilege" is needed.}, "without $privilege: last_problem");
	is(states('theirs'), 'ready', '... and no job');
	like(slurp_file($node->logfile), qr/WARNING: .*could not submit the job of schedule "theirs" for .*: permission denied for queue "theirs"/, '... and the log');
	is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'ours'"), undef, '... the others go on');
	$c->rows("SELECT job_grant('robin', 'theirs', '$privilege')");
}
is(states('ours'), 'ready ready', '... each time');
force('theirs');
is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'theirs'"), undef, 'with them: no problem');
is(states('theirs'), 'ready ready', '... and a job');
$c->rows("SELECT job_revoke('robin', 'theirs', p) FROM unnest('{operate,submit}'::text[]) p");
is($c->query('DROP ROLE robin')->{sqlstate}, undef, 'the role can be dropped');
force($_) foreach qw(theirs ours);
is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'theirs'"), 'the owner of the schedule does not exist any more', '... which last_problem says');
is(states('ours'), 'ready ready ready', '... the others go on');

# A time zone that is gone: what is due stays due, and is tried again, each minute
$c->rows("UPDATE job_schedule SET timezone = 'Mars/Olympus', next_at = now() - interval '1 s' WHERE name = 'ours'");
my $mars = 'time zone "Mars/Olympus" not recognized';
ok(poll_until(sub { ($c->value("SELECT last_problem FROM job_schedules WHERE name = 'ours'") // '') eq $mars }), 'a time zone that is gone');
my $metrics = sub { $c->value("SELECT string_agg(name, ' ' ORDER BY name) FROM job_metrics WHERE name LIKE 'jobq\\_schedule%' AND value > 0") // '' };
is($metrics->(), 'jobq_schedule_overdue_seconds jobq_schedule_problems', '... which metrics say');
my $written = $c->value("SELECT xmin::text FROM job_schedule WHERE name = 'ours'");
# another worker does not wait for that minute
my $another = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND datname = current_database()";
$c->rows($another);
ok(poll_until(sub { $c->value("SELECT xmin::text FROM job_schedule WHERE name = 'ours'") ne $written }), '... is tried again');
is(scalar(() = slurp_file($node->logfile) =~ /WARNING: .*schedule "ours" for .*: $mars/g), 1, '... and logged once');
is($c->value("SELECT next_at < now() AND last_problem = '$mars' FROM job_schedules WHERE name = 'ours'"), 't', '... and still due');
ok(force('theirs'), '... the others go on');
schedule('ours', 'every 1 day', "overlap => 'allow'", ', "queue": "theirs"');
$c->rows($another);
ok(poll_until(sub { states('ours') eq 'ready ready ready ready' }), '... with a time zone it has its job');
is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'ours'"), undef, '... and no problem');
# one that job_schedule would refuse now
$c->rows(q{UPDATE job_schedule SET timezone = 'UTC+2', schedule = '0 1 * * *' WHERE name = 'ours'});
force('ours');
is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'ours'"), undef, 'a time zone of POSIX goes on');
is(states('ours'), 'ready ready ready ready ready', '... with a job');
is($c->value("SELECT to_char(next_at AT TIME ZONE 'UTC', 'HH24:MI') FROM job_schedules WHERE name = 'ours'"), '03:00', '... as it was');
$c->rows(q{UPDATE job_schedule SET job = job || '{"expires_at": "2999-01-01"}' WHERE name = 'ours'});
force('ours');
is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'ours'"), 'the job of a schedule cannot have "expires_at"', 'an expires_at does not');
# a parent that is gone
my $parent = $c->value("SELECT job_submit('parent')");
schedule('child', 'every 1 day', '', qq{, "depends_on": [$parent]});
$c->rows("DELETE FROM $_ WHERE job_id = $parent") foreach qw(job_ready);
$c->rows("DELETE FROM job WHERE id = $parent");
force('child');
is($c->value("SELECT last_problem FROM job_schedules WHERE name = 'child'"), qq{job $parent in "depends_on" does not exist}, 'a parent that is gone');
$c->rows("SELECT job_unschedule(name) FROM job_schedules WHERE name NOT IN ('theirs', 'catch paused')");

#
# Each tick once, while the server is restarted, crashes, and schedules are changed
#

$c->rows('TRUNCATE job, job_ready, job_scheduled, job_waiting, job_lease, job_dependency, job_expiry, job_unique, job_attempt');
schedule('each', 'every 1 second', "catch_up => 'all', overlap => 'allow'");
schedule('same', 'every 1 second', "catch_up => 'all', overlap => 'allow'");
# ... and one whose job is a flow
sub schedule_flow
{
	my ($options) = @_;
	return $c->rows(qq{SELECT job_schedule('whole', 'every 1 second', '{"jobs": [{"name": "a", "kind": "part", "args": {"at": {"\$time": "scheduled"}}}, {"kind": "part", "depends_on": ["a"]}]}', $options)});
}
schedule_flow("catch_up => 'all', overlap => 'allow'");
my $n = 0;
my $ticks = sub { $c->value("SELECT count(*) FROM job WHERE kind = 'each'") };
foreach my $how (qw(kill restart immediate kill))
{
	ok(poll_until(sub { $c->connect unless $c->connected; $ticks->() > $n + 1 }), "ticks before $how");
	schedule('same', 'every 1 second', "catch_up => 'all', overlap => 'allow'") for 1 .. 20;
	$n = $ticks->();
	if ($how eq 'kill')
	{
		my ($worker) = backend_pids($node, 'jobq worker');
		kill('KILL', $worker);
		poll_until(sub { !process_lives($worker) });
		poll_until(sub { $c->connect && !($c->query('SELECT 1')->{sqlstate}) });
	}
	else
	{
		$c->disconnect;
		$node->stop($how eq 'restart' ? 'fast' : 'immediate');
		$node->start;
		$c->connect;
	}
}
ok(poll_until(sub { $ticks->() > $n + 2 }), 'ticks after all of them');
schedule($_, 'every 1 second', "catch_up => 'all', overlap => 'allow', paused => true") foreach qw(each same);
each_once('each', 'every 1 second', 'UTC', 'one job for each tick');
each_once('same', 'every 1 second', 'UTC', '... also of one that is made again all the time');
schedule_flow("catch_up => 'all', overlap => 'allow', paused => true");
each_once('flow', 'every 1 second', 'UTC', '... one flow for each');
ok(poll_until(sub { $c->value("SELECT count(*) FROM job_flow WHERE NOT open") == 0 }), '... which all start');
is($c->value(<<'EOQ'), 0, '... and have their members once, for their time');
SELECT count(*) FROM job f
WHERE kind = 'flow' AND ARRAY(SELECT (args ->> 'at')::timestamptz FROM job m WHERE m.flow = f.id ORDER BY id) IS DISTINCT FROM ARRAY[f.run_at, NULL]
EOQ

# many at one moment
my $many = 2000;
$c->rows(qq{SELECT job_schedule('many ' || i, '0 0 * * *', '{"kind": "many", "queue": "many"}') FROM generate_series(1, $many) i});
$c->rows("UPDATE job_schedule SET next_at = date_trunc('second', now()) WHERE name ~ '^many'");
ok(poll_until(sub { $c->value("SELECT bool_and(next_at > now()) FROM job_schedule WHERE name ~ '^many'") eq 't' }), "$many at one moment");
is($c->value("SELECT count(*) FROM job WHERE kind = 'many'"), $many, '... one job each');

#
# A dump
#

$c->rows(q{SELECT job_schedule('months', '@monthly', '{"kind": "month", "queue": "months"}')});
$c->rows(q{SELECT job_backfill('months', '[2024-01-01 UTC, 2024-04-01 UTC)')});
my $dump = "$node->{_basedir}/schedules.sql";
my $digest = "SELECT string_agg(s::text, E'\\n' ORDER BY name) FROM job_schedules s WHERE name <> 'theirs'";
my $before = $c->value($digest);
$node->command_ok([ 'pg_dump', '-f', $dump, $node->connstr('postgres') ], 'dump');
$node->safe_psql('postgres', 'CREATE DATABASE copy');
$node->command_ok([ 'psql', '-qXf', $dump, $node->connstr('copy') ], 'restore');
my $copy = JobqClient->new($node, dbname => 'copy');
is($copy->value($digest), $before, 'schedules are restored');
my $missing = $copy->value("SELECT job_backfill('months', '[2023-12-01 UTC, 2024-06-01 UTC)')");
is($copy->value("SELECT string_agg(name, ' ' ORDER BY id) FROM job_status WHERE flow = $missing"),
	'2023-12-01T00:00:00Z 2024-04-01T00:00:00Z 2024-05-01T00:00:00Z', '... and which times have had their job');
is($copy->value("SELECT count(*) FROM job_schedule WHERE name = 'theirs'"), 0, '... but for one whose owner is gone');

invariants_hold($node, "the tables are sound");
$node->stop;
done_testing();
