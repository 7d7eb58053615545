# pg_upgrade to the same major version, with the extension preloaded on both
# sides and jobs in every state.
use strict;
use warnings;

use Cwd;
use File::Basename qw(dirname);
use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $old = jobq_node('old');
my $c = JobqClient->new($old);
$old->safe_psql('postgres', 'CREATE ROLE somebody; CREATE DATABASE other');
$old->safe_psql('other', 'CREATE SCHEMA "a b"; CREATE EXTENSION jobq SCHEMA "a b"');
$old->safe_psql('other', q(SET search_path = "a b"; SELECT job_submit('elsewhere')));
my $soon = stretched(3) . ' s';
my $schedule = q(SELECT job_schedule('theirs', '30 2 1 5 *', '{"kind": "tick", "queue": "a"}', 'Europe/Berlin'));
$c->rows(<<"EOQ");
SELECT job_grant('somebody', 'a', p) FROM unnest('{work,operate,submit}'::text[]) p;
SELECT job_queue_set('a', max_attempts => 9);
SELECT job_submit('ready', args => jsonb_build_object('big', repeat('x', 100000)), priority => i) FROM generate_series(-1, 1) i;
SELECT job_submit('due', run_at => clock_timestamp() + interval '$soon');
SELECT job_submit('lease', queue => 'lost', lease => '$soon', max_lost => 1);
SELECT * FROM job_claim('lost', 'w1');
SELECT job_submit('running', queue => 'a', lease => '1 h');
SELECT * FROM job_claim('a', 'w1');
SELECT job_submit('done', queue => 'b');
SELECT job_complete(job_id, token, '[1]') FROM job_claim('b');
SELECT job_submit('failed', queue => 'b', max_attempts => 1);
SELECT job_fail(job_id, token, 'e') FROM job_claim('b');
SELECT job_hold(job_submit('held'));
SELECT job_submit('child', depends_on => ARRAY(SELECT id FROM job WHERE kind IN ('ready', 'done')));
SELECT job_submit('hopeless', depends_on => ARRAY(SELECT id FROM job WHERE kind IN ('failed')));
SELECT job_submit('unique', queue => 'u', unique_key => 'k');
SELECT job_log(job_id, token, 'half done') FROM job_claim('u');
SET ROLE somebody;
$schedule;
RESET ROLE;
EOQ
my $roles = "SELECT string_agg(DISTINCT role::text, ' ') || ' ' || (SELECT string_agg(owner::text, ' ') FROM job_schedule) FROM job_privilege";
is($c->value($roles), 'somebody somebody', 'a role has privileges and a schedule');
my $digest = table_digest($c);
my ($token) = $c->rows("SELECT l.job_id, l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'running'");
my $system = $c->value('SELECT system_identifier FROM pg_control_system()');
$c->disconnect;
$old->stop;

my $new = jobq_node('new', bare => 1);
$new->stop;

# it works in, and leaves files in, the current folder
my $here = getcwd;
chdir(PostgreSQL::Test::Utils::tempdir) or die $!;
my $bin = $old->config_data('--bindir');
command_ok(
	[
		'pg_upgrade', '--no-sync', '-d', $old->data_dir, '-D', $new->data_dir, '-b', $bin, '-B', $bin,
		'-s', $new->host, '-p', $old->port, '-P', $new->port
	],
	'pg_upgrade');
chdir($here);

$new->start;
$c = JobqClient->new($new);
is_deeply(table_digest($c), $digest, 'the tables are equal');
is($c->value($roles), 'somebody somebody', '... and those of the same role');
isnt($c->value('SELECT system_identifier FROM pg_control_system()'), $system, 'it is another system');

# Nobody has used it yet there.  A database made now has its worker, the old
# one stays as it is.
$new->safe_psql('postgres', 'CREATE DATABASE probe');
$new->safe_psql('probe', 'CREATE EXTENSION jobq');
my $probe = JobqClient->new($new, dbname => 'probe');
my $id = $probe->value("SELECT job_submit('probe', run_at => clock_timestamp() + interval '1 s')");
ok(poll_until(sub { $probe->value("SELECT state FROM job_status WHERE id = $id") eq 'ready' }), 'workers are at work');
is_deeply(table_digest($c), $digest, 'nothing happens before it is used');

my $next = $c->value("SELECT job_submit('next')");
cmp_ok($next, '>', $c->value("SELECT max(id) FROM job WHERE kind <> 'next'"), 'ids go on');
ok(poll_until(sub { $c->value("SELECT string_agg(state, ' ' ORDER BY kind) FROM job_status WHERE kind IN ('due', 'lease')") eq 'ready failed' }),
	'then what is due happens');
is($c->value("SELECT job_submit('again', queue => 'u', unique_key => 'k') = id FROM job WHERE queue = 'u'"), 't', 'a unique key is taken');
is($c->value('SELECT message FROM job_logs'), 'half done', 'lines of logs are there');
# what is due stays due, and the worker hears of it
$c->rows("UPDATE job_schedule SET next_at = now() - interval '1 s'; SET ROLE somebody; $schedule; RESET ROLE");
ok(poll_until(sub { ($c->value("SELECT submitted_by FROM job_status WHERE kind = 'tick'") // '') eq 'somebody' }), 'a schedule submits as its owner');
is($c->query("SELECT job_complete($token->[0], $token->[1])")->{sqlstate}, undef, 'a token from before still fits');
is($c->value("SELECT job_retry(id) FROM job WHERE kind = 'failed'"), 't', 'a retry opens what depends on it');
is($c->value("SELECT state FROM job_status WHERE kind = 'hopeless'"), 'waiting', 'again');
$c->rows("SELECT job_complete(job_id, token) FROM job_claim('{default,b}'::text[], max_jobs => 10)");
is($c->value("SELECT string_agg(state, ' ' ORDER BY kind) FROM job_status WHERE kind IN ('child', 'hopeless')"), 'ready ready', 'children become ready');
invariants_hold($new, 'after the upgrade');
tables_are_sound($new, 'after the upgrade');
my $other = JobqClient->new($new, dbname => 'other');
is($other->value(q(SELECT kind FROM "a b".job_claim())), 'elsewhere', 'the other database works too');
$other->disconnect;
invariants_hold($new, 'there', dbname => 'other', schema => '"a b"');

# Both sides have logged no trouble.
$new->stop;
unlike(slurp_file($_->logfile), qr/PANIC|TRAP|WARNING/, 'no trouble logged by ' . $_->name) foreach $old, $new;
done_testing();
