# A dump of a database with jobs in every state, taken while its worker runs,
# restores to the same tables, and nothing happens there until somebody uses
# it; the same for a copy made by CREATE DATABASE ... TEMPLATE.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = jobq_node('dump');
my $dir = PostgreSQL::Test::Utils::tempdir;
my $source = JobqClient->new($node, name => 'source');

is($source->value(<<'EOQ'), join(' ', sort @TABLES, 'job_active_database'), 'these are all tables');
SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq') AND c.relkind = 'r'
EOQ

# Jobs in every state, and a row in every table.  What is due soon falls due after the dump was taken.
sub every_state
{
	my ($c) = @_;
	(my $jobs = <<'EOQ') =~ s/SOON/stretched(3) . ' s'/ge;
SELECT job_queue_set('other', max_attempts => 3, lease => '90 s', notify => 'off');
SELECT job_queue_set('quiet', paused => true);
SELECT job_submit('ready ' || i, args => '{"a": [1, null, "\\ü''"]}', priority => i, tags => '["x"]') FROM generate_series(-2, 2) i;
SELECT job_submit('paused', queue => 'quiet');
SELECT job_submit('late', run_at => now() + interval '1 day');
SELECT job_submit('due soon', queue => 'soon', run_at => clock_timestamp() + interval 'SOON');
SELECT job_submit('expires soon', queue => 'expiring', run_at => now() + interval '1 day', expires_at => clock_timestamp() + interval 'SOON');
SELECT job_submit('lost soon', queue => 'lost', lease => 'SOON', max_lost => 1);
SELECT * FROM job_claim('lost', 'w1');
SELECT job_submit('timed out soon', queue => 'timed', timeout => 'SOON', max_attempts => 1);
SELECT * FROM job_claim('timed', 'w1');
SELECT job_submit('running', queue => 'long', lease => '1 h');
SELECT job_heartbeat(job_id, token, progress => '{"half": true}') FROM job_claim('long', 'w2');
SELECT job_submit('cancel requested', queue => 'long', lease => '1 h');
SELECT job_cancel(job_id, 'why not') FROM job_claim('long', 'w2');
SELECT job_worker_register('w2', '{gpu}', '1.0', 2, '{"a": 1}'), job_worker_register('drains'), job_worker_drain('drains');
SELECT job_submit('succeeds', queue => 'a');
SELECT job_complete(job_id, token, '{"r": 1}') FROM job_claim('a', 'w3');
SELECT job_submit('skipped', queue => 'a', depends_on => ARRAY(SELECT id FROM job WHERE kind = 'succeeds'), trigger_rule => 'all_failed');
SELECT job_submit('fails', queue => 'a', max_attempts => 2, backoff => '1 ms');
SELECT job_fail(job_id, token, 'first', retry_in => '0') FROM job_claim('a', 'w3');
SELECT job_fail(job_id, token, 'second') FROM job_claim('a', 'w3');
SELECT job_submit('retried', queue => 'a', backoff => '1 d');
SELECT job_fail(job_id, token, 'first') FROM job_claim('a', 'w3');
SELECT job_cancel(job_submit('cancelled', queue => 'a'), 'no use');
SELECT job_hold(job_submit('held', queue => 'b'));
SELECT job_submit('parent', queue => 'b');
SELECT job_submit('child ' || r, queue => 'b', depends_on => ARRAY[p, f], trigger_rule => r)
FROM (SELECT max(id) FILTER (WHERE kind = 'parent') AS p, max(id) FILTER (WHERE kind = 'fails') AS f FROM job) j,
    unnest('{all_success,all_done,one_failed,all_failed,one_success,always}'::text[]) r;
SELECT job_submit('grandchild', queue => 'b', depends_on => ARRAY(SELECT id FROM job WHERE kind ~ '^child'), trigger_rule => 'quorum', quorum => 3);
SELECT job_submit('join', queue => 'b', depends_on => ARRAY(SELECT job_submit('wide', queue => 'w') FROM generate_series(1, 70)));
SELECT job_complete(job_id, token) FROM job_claim('w', max_jobs => 10);
SELECT job_submit('has a key', queue => 'u', unique_key => 'k', hold => true);
SELECT job_submit('had a key', queue => 'v', unique_key => 'k', unique_for => '1 h'), job_submit('has it for a time', queue => 'v', unique_key => 'l', unique_for => 'SOON');
SELECT job_log(job_id, token, 'half done', 'warning', '{"n": 1}') FROM job_claim('v', max_jobs => 2);
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'v';
SELECT job_decide(job_submit('decided', queue => 'm', manual => true), 'skipped', reason => 'not now');
SELECT job_queue_set('o', ordered => true), job_partition_set('o', 'p', weight => 2);
SELECT job_submit('in order', queue => 'o', partition => 'p') FROM generate_series(1, 2);
SELECT job_submit('labelled', queue => 'label', requires => '{gpu}');
SELECT job_queue_set('kept', affinity_wait => '1 h');
SELECT job_submit('was the last', queue => 'kept', affinity => 'a');
SELECT job_complete(job_id, token) FROM job_claim('kept', 'w3');
SELECT job_submit('kept', queue => 'kept', affinity => 'a');
SELECT job_submit_flow('{"name": "flow", "queue": "flow", "args": {"a": 1}, "defaults": {"queue": "flow", "lease": "1 h"}, "jobs": [{"name": "m1", "kind": "m1", "args": {"a": {"$args": "$.a"}}}, {"name": "m2", "kind": "m2"},
    {"name": "sub", "depends_on": ["m1"], "jobs": [{"name": "in", "kind": "in", "args": {"r": {"$result": "m1"}}}]}], "result": {"$result": "m2"}}');
SELECT job_submit_flow('{"name": "held flow", "queue": "flow", "hold": true, "jobs": [{"kind": "h", "queue": "flow"}]}');
SELECT job_submit_flow('{"name": "narrow", "queue": "limits", "max_running": 1, "defaults": {"queue": "limits", "lease": "1 h"}, "jobs": [{"name": "n1", "kind": "n1"}, {"name": "n2", "kind": "n2"}]}');
SELECT job_submit_flow('{"name": "steps", "queue": "limits", "permits": 1, "defaults": {"queue": "limits", "lease": "1 h"}, "jobs": [{"name": "s1", "kind": "s1", "hold": true}, {"name": "s2", "kind": "s2"}, {"name": "s3", "kind": "s3"}]}');
SELECT job_submit_flow('{"name": "paused flow", "queue": "limits", "paused": true, "defaults": {"queue": "limits"}, "jobs": [{"name": "p1", "kind": "p1"}, {"name": "in it", "jobs": [{"name": "p2", "kind": "p2"}]}]}');
SELECT job_submit_flow('{"name": "drains", "queue": "limits", "on_failure": "drain", "defaults": {"queue": "drains", "lease": "1 h"}, "jobs": [{"name": "d1", "kind": "d1"}, {"name": "d2", "kind": "d2"}, {"name": "d3", "kind": "d3", "hold": true}]}');
SELECT job_submit_flow('{"name": "saga", "queue": "limits", "on_failure": "undo", "defaults": {"queue": "saga", "lease": "1 h", "undo": {"kind": "undo"}}, "jobs": [{"name": "u1", "kind": "u1"}, {"name": "u2", "kind": "u2"}, {"name": "u3", "kind": "u3"}]}');
SELECT job_step(job_id, token, 'step', '{"s": 1}') FROM job_claim('flow', 'w2');
SELECT job_schedule(kind, '30 2 1 5 *', jsonb_build_object('kind', kind, 'queue', 'ticks'), 'Europe/Berlin') FROM unnest('{yearly,ticks soon}'::text[]) kind;
SELECT job_schedule('paused', '@hourly', '{"kind": "never"}', catch_up => 'all', overlap => 'cancel', paused => true);
UPDATE job_schedule SET next_at = clock_timestamp() + interval 'SOON' WHERE name = 'ticks soon';
EOQ
	$c->rows($jobs);
	return;
}
every_state($source);
# a flow that has begun anew, and a copy of it, which is to take over what it has done
$source->rows(q(SELECT job_submit_flow('{"name": "again", "queue": "again", "jobs": [{"name": "g1", "kind": "g1", "queue": "again"}, {"name": "g2", "kind": "g2", "queue": "again", "depends_on": ["g1"]}]}')));
foreach my $time (1, 2)
{
	poll_until(sub { $source->rows("SELECT job_complete(job_id, token, '$time') FROM job_claim('again')") }) or die 'a flow does not begin anew' foreach 1, 2;
	poll_until(sub { $source->value("SELECT state = 'succeeded' FROM job_status WHERE name = 'again'") eq 't' }) or die 'a flow does not end';
	$source->rows("SELECT job_retry(id, true) FROM job_status WHERE name = 'again'") if $time == 1;
}
$source->rows("UPDATE job SET run_at = '2100-01-01' WHERE name = 'again'");
$source->rows("SELECT job_clone(id, '{g2}') FROM job_status WHERE name = 'again'");
poll_until(sub { $source->value('SELECT count(*) FROM job_turn') == 1 }) or die 'no job is let in';
# flows with limits: what was let in runs, some drain, and one is still to do so
poll_until(sub { $source->value(q(SELECT string_agg(kind, ' ' ORDER BY kind) FROM job_ready JOIN job ON id = job_id WHERE queue IN ('limits', 'drains', 'saga'))) eq 'd1 d2 n1 s2 u1 u2 u3' }) or die 'flows with limits do not start';
$source->rows("SELECT job_id FROM job_claim('limits', 'w4', 9)");
$source->rows("SELECT job_id FROM job_claim('drains', 'w4', 9)");
$source->rows("SELECT job_complete(job_id, token, '1') FROM job_claim('saga', 'w4')");
$source->rows("SELECT job_id FROM job_claim('saga', 'w4', 2)");
foreach my $kind (qw(d1 u2))
{
	$source->rows("SELECT job_fail(l.job_id, l.token, 'no', retry => false) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.kind = '$kind'");
}
poll_until(sub { $source->value('SELECT count(*) FROM job_lease WHERE last') == 2 }) or die 'flows do not drain';
is( $source->value("SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM job_status"),
	'cancelled failed ready running scheduled skipped succeeded upstream_failed waiting',
	'there are jobs in every state');
$source->rows("CREATE ROLE somebody; SELECT job_grant('somebody', 'a', 'work')");

# A digest and a dump of the same snapshot, while the worker goes on.
sub dump_database
{
	my ($dbname, $file) = @_;
	my $c = JobqClient->new($node, dbname => $dbname);
	$c->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
	my $snapshot = $c->value('SELECT pg_export_snapshot()');
	my $digest = table_digest($c);
	$node->command_ok(
		[ 'pg_dump', '-Fc', '-f', $file, "--snapshot=$snapshot", $node->connstr($dbname) ],
		"pg_dump of $dbname while the worker runs");
	$c->rows('COMMIT');
	return $digest;
}

# In the original everything that is due soon comes to pass.  That is the
# evidence that workers had the time to look.
sub passes_in
{
	my ($c, $name) = @_;
	my $expected = 'due soon: ready, expires soon: cancelled, lost soon: failed, ticks soon: ready, timed out soon: failed';
	my $found = '';
	poll_until(sub {
		$found = $c->value(
			"SELECT string_agg(kind || ': ' || state, ', ' ORDER BY kind) FROM job_status WHERE kind ~ 'soon\$'");
		return $found eq $expected;
	});
	return is($found, $expected, $name);
}

# A database created later, whose worker comes, looks and acts: all workers
# that were to start before it have had their turn.
my $probes = 0;
sub workers_have_looked
{
	my $name = 'probe' . ++$probes;
	$node->safe_psql('postgres', "CREATE DATABASE $name");
	$node->safe_psql($name, 'CREATE EXTENSION jobq');
	my $c = JobqClient->new($node, dbname => $name);
	my $id = $c->value("SELECT job_submit('probe', run_at => clock_timestamp() + interval '1 s')");
	ok(poll_until(sub { $c->value("SELECT state FROM job_status WHERE id = $id") eq 'ready' }),
		'the worker of a database made later has acted');
	$c->disconnect;
	return;
}

# What is still left to the worker is in the dump, too: somebody has rows locked.
my $holder = JobqClient->new($node, name => 'holder');
my ($doomed, $parent) = @{ ($source->rows("SELECT job_submit('doomed', queue => 'b'), job_submit('last parent', queue => 'b')"))[0] };
$holder->rows(<<EOQ);
BEGIN;
SELECT FROM job_waiting JOIN job ON id = job_id WHERE kind = 'join' FOR UPDATE;
SELECT FROM job_ready WHERE job_id = $doomed FOR UPDATE;
SELECT FROM job WHERE id = $parent FOR NO KEY UPDATE;
SELECT FROM job_flow WHERE open FOR UPDATE;
EOQ
$source->rows("SELECT job_complete(job_id, token, '2') FROM job_claim('flow')");
$source->rows("SELECT job_complete(job_id, token) FROM job_claim('w', max_jobs => 5)");
$source->rows("SELECT job_cancel($doomed), job_submit('last child', queue => 'b', depends_on => ARRAY[$parent])");
my $left = 'SELECT (SELECT count(*) FROM job_delta), (SELECT count(*) FROM job_cancel_request), (SELECT count(*) FROM job_recount)';
my $digest = dump_database('postgres', "$dir/jobs.dump");
is(join(' ', grep { $digest->{$_} =~ /^0 / } @TABLES), '', 'no table is empty');
$holder->disconnect;
passes_in($source, 'what is due happens in the original');

# Restore: now all of that is overdue.
$node->safe_psql('postgres', 'CREATE DATABASE restored');
$node->command_ok([ 'pg_restore', '-d', $node->connstr('restored'), '--exit-on-error', "$dir/jobs.dump" ], 'pg_restore');
my $restored = JobqClient->new($node, dbname => 'restored');
is_deeply(table_digest($restored), $digest, 'the restored tables are equal');
is("@{ ($restored->rows($left))[0] }", '6 1 1', 'with what is left to the worker');
workers_have_looked();
is_deeply(table_digest($restored), $digest, 'nothing happens in it, though jobs and leases are overdue');
is($restored->value('SELECT count(*) FROM job_active_database'), 0, 'it has no home');
$restored->value('SELECT count(*) FROM job_status');
$restored->value('SELECT count(*) FROM job_attempts');
$restored->value('SELECT sum(ready) FROM job_queue_status');
$restored->value('SELECT job_result(min(id)) FROM job');
workers_have_looked();
is_deeply(table_digest($restored), $digest, 'and neither when somebody looks at it');
invariants_hold($node, 'in the restored database', dbname => 'restored');

# Somebody uses it.
my ($row) = $restored->rows("SELECT * FROM job_claim('a')");
ok(!$row, 'a claim from an empty queue');
passes_in($restored, 'it wakes up');
# before somebody claims it
ok(poll_until(sub { $restored->value("SELECT state FROM job_status WHERE id = $doomed") eq 'cancelled' }), 'a job that was to be cancelled is');
ok(poll_until(sub { $restored->value("SELECT string_agg(unique_key, ' ') FROM job_unique") eq 'k k' }), 'a unique key that was to be free is');
foreach my $queue (qw(u v))
{
	is($restored->value("SELECT job_submit('again', queue => '$queue', unique_key => 'k') = id FROM job WHERE queue = '$queue' AND unique_key = 'k'"),
		't', "one that is taken is, of queue $queue");
}
is($restored->value("SELECT string_agg(message, ', ') FROM job_logs"), 'half done, half done', 'lines of logs are there');
is($restored->value("SELECT next_at > now() AND last_job IS NOT NULL FROM job_schedules WHERE name = 'ticks soon'"), 't', 'a schedule goes on');
my $next = $restored->value("SELECT job_submit('next', queue => 'new')");
cmp_ok($next, '>', $restored->value("SELECT max(id) FROM job WHERE kind <> 'next'"), 'ids go on');
$restored->rows("SELECT job_complete(job_id, token) FROM job_claim('b', max_jobs => 5)");
invariants_hold($node, 'in the restored database, used', dbname => 'restored');
$restored->rows("SELECT job_complete(job_id, token) FROM job_claim('w', max_jobs => 100)");
ok(poll_until(sub { $restored->value("SELECT state FROM job_status WHERE kind = 'join'") eq 'ready' }), 'a job with many parents goes on counting');
ok(poll_until(sub { "@{ ($restored->rows($left))[0] }" eq '0 0 0' }), 'what was left to the worker is done');
my $running = $restored->value("SELECT l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'running'");
is($restored->query("SELECT job_complete(job_id, $running) FROM job_lease WHERE token = $running")->{sqlstate},
	undef, 'a token from before the dump still fits');
# a flow that runs goes on: a member's steps are there, what is in it starts, and it ends
my ($step) = $restored->rows("SELECT job_step(job_id, l.token, 'step', '{\"other\": 1}'), job_complete(job_id, l.token, '1') FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.kind = 'm1'");
is($step->[0], '{"s": 1}', 'steps of a member of a flow that runs are there');
my @in;
ok(poll_until(sub { @in = $restored->rows("SELECT kind, args, job_complete(job_id, token) FROM job_claim('flow')") }), 'a flow in it starts');
is("$in[0][0] $in[0][1]", 'in {"r": 1}', '... with what it refers to');
ok(poll_until(sub { $restored->value("SELECT state FROM job_status WHERE name = 'flow'") eq 'succeeded' }), 'it ends');
is($restored->value("SELECT result FROM job_status WHERE name = 'flow'"), 2, '... with its result');
$restored->rows("SELECT job_unhold(id) FROM job_status WHERE name = 'held flow'");
ok(poll_until(sub { $restored->value("SELECT state FROM job_status WHERE name = 'held flow'") eq 'running' }), 'one that was held starts');
# a copy of a flow takes over what that has done since it began anew
is($restored->value('SELECT count(*) FROM job WHERE former_flow IS NOT NULL'), 2, 'members that were are there');
$restored->rows("SELECT job_change(id, run_at => now()) FROM job_status WHERE name = 'again' AND state = 'scheduled'");
ok(poll_until(sub { @in = $restored->rows("SELECT kind, inputs FROM job_claim('again')") }), 'a copy of a flow starts');
is("$in[0][0] $in[0][1]", 'g2 {"g1": 2}', '... with what it takes over');
# flows with limits go on by these: who has a slot, a permit or a pause still has it
is(join(', ', map { join ' ', map { $_ // '-' } @$_ } $restored->rows(q(SELECT name, running, permits, max_running, paused, on_failure FROM job_flow_status WHERE name IN ('narrow', 'steps', 'paused flow', 'drains', 'saga') ORDER BY id))),
	'narrow 1 - 1 f continue, steps 1 0 - f continue, paused flow 0 - - t continue, drains 1 - - f drain, saga 1 - - f undo', 'limits of flows are there');
is($restored->value("SELECT count(*) FROM job_claim('limits', max_jobs => 9)"), 0, '... and hold');
my $finish = sub {
	my ($function, $kind) = @_;
	return $restored->value("SELECT $function(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.kind = '$kind'");
};
my $ready = sub {
	my ($kind) = @_;
	return poll_until(sub { $restored->value("SELECT state FROM job_status WHERE kind = '$kind'") eq 'ready' });
};
$finish->('job_complete', 'n1');
ok($ready->('n2'), 'a slot that is given back is used');
$finish->('job_complete', 's2');
$restored->rows("SELECT job_flow_set(id, permits => 1) FROM job_status WHERE name = 'steps'");
ok($ready->('s3'), 'as is a permit');
$restored->rows("SELECT job_flow_set(id, paused => false) FROM job_status WHERE name = 'paused flow'");
ok($ready->($_), 'what was paused goes on') foreach qw(p1 p2);
$finish->('job_release', 'd2');
$finish->('job_complete', 'u3');
ok(poll_until(sub { $restored->value("SELECT string_agg(state, ' ') FROM job_status WHERE name IN ('drains', 'saga')") eq 'failed failed' }), 'those that drain end');
is($restored->value("SELECT string_agg(kind || ' ' || state, ', ' ORDER BY id) FROM job_status WHERE queue = 'drains'"), 'd1 failed, d2 cancelled, d3 cancelled', '... with nothing begun anew');
ok(poll_until(sub { $restored->value("SELECT count(*) FROM job_status WHERE kind = 'undo' AND state = 'ready'") == 2 }), '... and one is undone');
tables_are_sound($node, 'in the restored database', dbname => 'restored');
is($source->value("SELECT state FROM job_status WHERE kind = 'running'"), 'running', 'the original is not touched');

# Only data, into a database that has the extension.
$node->safe_psql('postgres', 'CREATE DATABASE data_only');
$node->safe_psql('data_only', 'CREATE EXTENSION jobq');
$node->command_ok(
	[ 'pg_restore', '--data-only', '--disable-triggers', '-d', $node->connstr('data_only'), '--exit-on-error', "$dir/jobs.dump" ],
	'pg_restore --data-only');
my $data = JobqClient->new($node, dbname => 'data_only');
is_deeply(table_digest($data), $digest, 'its tables are equal');

# A copy.  The worker of the template has to leave for it.
$node->safe_psql('postgres', 'CREATE DATABASE template_of');
$node->safe_psql('template_of', 'CREATE EXTENSION jobq');
my $template = JobqClient->new($node, dbname => 'template_of');
every_state($template);
# a due job that the worker has acted on: it is there
my $quick = $template->value("SELECT job_submit('quick', run_at => clock_timestamp() + interval '100 ms')");
ok(poll_until(sub { $template->value("SELECT state FROM job_status WHERE id = $quick") eq 'ready' }), 'the template has a worker');
is($node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE datname = 'template_of' AND backend_type = 'jobq worker')),
	1, 'which is attached');
my $copied = table_digest($template);
$template->disconnect;
poll_until(sub { $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE datname = 'template_of' AND backend_type = 'client backend')) == 0 });
my $before = time;
$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template_of');
cmp_ok(time - $before, '<', stretched(5), 'CREATE DATABASE ... TEMPLATE with a worker attached');
my $copy = JobqClient->new($node, dbname => 'copy');
is_deeply(table_digest($copy), $copied, 'the copy is equal');
is($copy->value('SELECT count(*) FROM job_active_database'), 1, 'and has the home of its template');
$template = JobqClient->new($node, dbname => 'template_of');
passes_in($template, 'the worker of the template has come back');
workers_have_looked();
is_deeply(table_digest($copy), $copied, 'nothing happens in the copy');
$copy->value("SELECT job_cancel(min(id)) FROM job WHERE kind = 'late'");
passes_in($copy, 'until somebody uses it');
is($copy->value('SELECT count(*) FROM job_active_database h, pg_database d WHERE d.datname = current_database() AND h.database = d.oid'),
	1, 'then it is at home there');
invariants_hold($node, 'in the copy', dbname => 'copy');

# Renaming and dropping, with workers attached.
$copy->disconnect;
$template->disconnect;
$restored->disconnect;
poll_until(sub { $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE datname IN ('copy', 'template_of', 'restored') AND backend_type = 'client backend')) == 0 });
$before = time;
$node->safe_psql('postgres', 'ALTER DATABASE copy RENAME TO copied');
$copy = JobqClient->new($node, dbname => 'copied');
my $due = $copy->value("SELECT job_submit('after', run_at => clock_timestamp() + interval '100 ms')");
ok(poll_until(sub { $copy->value("SELECT state FROM job_status WHERE id = $due") eq 'ready' }), 'the worker follows a new name');
$copy->disconnect;
poll_until(sub { $node->safe_psql('postgres', q(SELECT count(*) FROM pg_stat_activity WHERE datname = 'copied' AND backend_type = 'client backend')) == 0 });
$node->safe_psql('postgres', "DROP DATABASE $_") foreach qw(copied template_of restored probe1);
cmp_ok(time - $before, '<', stretched(15), 'databases are renamed and dropped');
is($node->safe_psql('postgres', q(SELECT string_agg(datname, ' ' ORDER BY datname) FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND datname IS NOT NULL AND datname NOT LIKE 'probe%')),
	'data_only postgres', 'the others keep their workers');
$node->stop;
unlike(slurp_file($node->logfile), qr/PANIC|TRAP|FATAL:.*jobq|WARNING/, 'nothing was logged');

done_testing();
