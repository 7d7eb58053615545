# job_horizon: what keeps dead rows from being removed, and what to do about it.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('primary', init => { allows_streaming => 'logical' }, conf => 'max_prepared_transactions = 5');
my $control = JobqClient->new($node);

# The rows whose holder is like this, but for the server's own: holder, whether it has a pid and a time, and the hint.
sub holders
{
	my ($like) = @_;
	return join "\n", map { join '|', map { $_ // '' } @$_ } $control->rows(<<"EOQ");
SELECT regexp_replace(holder, ' of \\S+', ' of <role>'), pid IS NOT NULL, since IS NOT NULL, transactions >= 0, regexp_replace(hint, '\\d+', '<pid>')
FROM job_horizon() WHERE holder ~ '$like' AND holder !~ '^(jobq|autovacuum|logical replication)'
EOQ
}

is(holders('.'), '', 'nobody holds anything');

# sessions: one that idles, with a snapshot or a transaction id, and one whose statement runs
my $session = JobqClient->new($node);
$session->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
$session->rows('SELECT 1');
my $idle = 'client backend of <role> in postgres|t|t|t|It is idle in a transaction: have it commit, or SELECT pg_terminate_backend(<pid>).';
is(holders('client'), $idle, 'a session with a snapshot');
$session->rows('COMMIT');
is(holders('.'), '', '... until it ends');
$session->rows('BEGIN');
$session->rows("SELECT job_submit('held')");
is(holders('client'), $idle, 'a session that has written');
$session->rows('ROLLBACK');
$session->send('SELECT pg_sleep(1000)');
ok(poll_until(sub {
	holders('client') eq 'client backend of <role> in postgres|t|t|t|Its statement runs: wait, or SELECT pg_cancel_backend(<pid>).';
}), 'a session whose statement runs');
$control->rows('SELECT pg_cancel_backend(pid) FROM job_horizon() WHERE holder ~ $$^client$$');
$session->receive;

# sessions of other databases: their snapshots keep nothing here, what they write is open in the snapshots that are taken here
my $other = JobqClient->new($node, dbname => 'template1');
$other->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
$other->rows('SELECT 1');
is(holders('.'), '', 'a snapshot in another database');
$other->rows('SELECT pg_current_xact_id()');
is(holders('.'), $idle =~ s/postgres/template1/r, '... and a transaction id');
$other->rows('ROLLBACK');
$other->disconnect;

# VACUUM keeps no row from another
$session->rows('CREATE TABLE vacuumed AS SELECT generate_series(1, 100000)');
$session->rows("SELECT set_config('vacuum_cost_delay', '100', false), set_config('vacuum_cost_limit', '1', false)");
$session->send('VACUUM vacuumed');
ok(poll_until(sub { $control->value('SELECT count(*) FROM pg_stat_progress_vacuum') }), 'a VACUUM runs');
is(holders('.'), '', '... and holds nothing');
$control->rows('SELECT pg_cancel_backend(pid) FROM pg_stat_progress_vacuum');
$session->receive;

# the oldest comes first
$session->rows('BEGIN');
$session->rows("SELECT job_submit('held')");
my $second = JobqClient->new($node);
$second->rows('BEGIN');
$second->rows("SELECT job_submit('held')");
is($control->value('SELECT string_agg(pid::text, $$ $$) FROM job_horizon() WHERE holder ~ $$^client$$'), $session->pid . ' ' . $second->pid, 'the oldest first');
$second->rows('ROLLBACK');

# a prepared transaction
$session->rows("PREPARE TRANSACTION 'forgotten'");
is(holders('.'), "prepared transaction forgotten of <role> in postgres|f|t|t|In that database: COMMIT PREPARED 'forgotten' or ROLLBACK PREPARED 'forgotten'.",
	'a prepared transaction');
$control->rows("COMMIT PREPARED 'forgotten'");

# a slot that nobody uses
$control->rows("SELECT pg_create_logical_replication_slot('unused', 'test_decoding')");
is(holders('slot'), q{replication slot unused|f|f|t|It keeps rows of catalogs only. Nobody uses it: SELECT pg_drop_replication_slot('unused') if nobody will.},
	'a replication slot');
$control->rows("SELECT pg_drop_replication_slot('unused')");

# a standby that tells what its queries need, without a slot and with one
$node->backup('copy');
my $standby = PostgreSQL::Test::Cluster->new('standby');
$standby->init_from_backup($node, 'copy', has_streaming => 1);
$standby->append_conf('postgresql.conf', "hot_standby_feedback = on\nwal_receiver_status_interval = 1\n");
$standby->start;
my $query = JobqClient->new($standby);
$query->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
$query->rows('SELECT 1');
my $asks = 'standby standby|t|t|t|A query there needs it (hot_standby_feedback): end the long query on the standby.';
ok(poll_until(sub { holders('.') eq $asks }), 'a standby') or diag(holders('.'));
is($query->value('SELECT count(*) FROM job_horizon() WHERE holder ~ $$^client$$'), 0, '... which can be asked, too');
$query->rows('COMMIT');
$query->disconnect;
$control->rows("SELECT pg_create_physical_replication_slot('theirs')");
$standby->append_conf('postgresql.conf', "primary_slot_name = 'theirs'\n");
$standby->reload;
ok(poll_until(sub { holders('slot') =~ /^replication slot theirs\|t\|f\|t\|Have its receiver catch up\.$/ }), 'a slot that is used')
  or diag(holders('.'));
$standby->stop;
ok(poll_until(sub { holders('slot') =~ /^replication slot theirs\|f\|f\|t\|Nobody uses it: / }), '... and one that was');
$control->rows("SELECT pg_drop_replication_slot('theirs')");

# who may ask
my $who = JobqClient->new($node);
$control->rows($_) foreach 'CREATE ROLE watcher', 'CREATE ROLE stranger', 'GRANT pg_monitor TO watcher', 'GRANT USAGE ON SCHEMA public TO watcher, stranger';
$who->rows('SET ROLE stranger');
is($who->query('SELECT * FROM job_horizon()')->{sqlstate}, '42501', 'not everybody may ask');
$session->rows('BEGIN');
$session->rows("SELECT job_submit('held')");
$who->rows('SET ROLE watcher');
is($who->value('SELECT count(*) FROM job_horizon() WHERE holder ~ $$^client$$'), 1, 'members of pg_monitor may');
$session->rows('ROLLBACK');
$who->disconnect;
$control->disconnect;

done_testing();
