# The background worker removes jobs that were kept for long enough: by a clock that is moved, beside a load, under a
# held snapshot, with foreign keys, over a restart; and those of retention '0' at once.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('retention', conf => <<'EOC');
jobq.sweep_interval = 1h
jobq.clock_offset = 0
EOC
my $c = JobqClient->new($node);

# How many jobs of a queue there are, by outcome.
sub kept
{
	my ($queue) = @_;
	return join ' ', map { "@$_" } $c->rows(<<"EOQ");
SELECT coalesce(job_outcome_name(outcome), 'undecided'), count(*) FROM job WHERE queue = '$queue' GROUP BY outcome ORDER BY outcome
EOQ
}

# One test: a queue comes to keep these.
sub comes_to_keep
{
	my ($queue, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $kept;
	return ok(within(60, sub { ($kept = kept($queue)) eq $expected }), $name) || (diag("it keeps $kept") && 0);
}

# Move the clock to so many days from now.
sub days
{
	my ($days) = @_;
	$c->rows(sprintf "ALTER SYSTEM SET jobq.clock_offset = '%dms'", $days * 86400000);
	$c->rows('SELECT pg_reload_conf()');
	return;
}

$c->rows(<<'EOQ');
CREATE PROCEDURE load(n int) LANGUAGE plpgsql AS $$
BEGIN
	FOR i IN 1 .. n LOOP
		PERFORM job_submit('load', queue => 'load');
		COMMIT;
		PERFORM job_complete(job_id, token) FROM job_claim('load');
		COMMIT;
	END LOOP;
END $$
EOQ

# Old jobs, of each kind that is kept or not.
$c->rows("SELECT job_submit('old', queue => 'old') FROM generate_series(1, 3000) i");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('old', max_jobs => 3000)");
$c->rows("SELECT job_submit('failed', queue => 'failed') FROM generate_series(1, 50)");
$c->rows("SELECT count(job_fail(job_id, token, 'no', retry => false)) FROM job_claim('failed', max_jobs => 50)");
$c->rows('CREATE TABLE restricts (job bigint REFERENCES job DEFERRABLE INITIALLY DEFERRED)');
$c->rows('CREATE TABLE cascades (job bigint REFERENCES job ON DELETE CASCADE)');
$c->rows(<<'EOQ');
CREATE ROLE keeper;
CREATE TABLE gone (job bigint, who name);
CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO public.gone VALUES (OLD.job, current_user); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER keep AFTER DELETE ON cascades DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION keep();
ALTER TABLE gone OWNER TO keeper;
ALTER TABLE cascades OWNER TO keeper;
EOQ
$c->rows("INSERT INTO restricts SELECT id FROM job WHERE queue = 'old' AND id % 100 = 0 LIMIT 20");
$c->rows("INSERT INTO cascades SELECT id FROM job WHERE queue = 'old'");
my ($needed) = map { $_->[0] } $c->rows("SELECT max(id) FROM job WHERE queue = 'old' AND id NOT IN (SELECT job FROM restricts)");
my $child = $c->value("SELECT job_submit('child', queue => 'child', depends_on => ARRAY[$needed\::bigint], run_at => '2999-01-01')");
$c->rows("SELECT job_queue_set('forever', retention => '200 years'), job_submit('forever', queue => 'forever')");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('forever')");
my $restricted = $c->value('SELECT count(*) FROM restricts');

# A session that holds a snapshot, and one that does something else all the time.
my $holder = JobqClient->new($node);
$holder->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
is($holder->value("SELECT count(*) FROM job WHERE queue = 'old'"), 3000, 'a snapshot is held');
my $load = JobqClient->new($node);
$load->send('CALL load(3000)');

days(6);
is(kept('old'), 'succeeded 3000', 'nothing goes before its time');
days(8);
comes_to_keep('old', 'succeeded ' . ($restricted + 1), 'what succeeded goes after a week, but for what is referenced or needed');
is($c->value('SELECT count(*) FROM cascades'), $restricted + 1, 'ON DELETE CASCADE has acted');
is_deeply([ $c->rows('SELECT who, count(DISTINCT job) FROM gone GROUP BY who') ], [ [ 'keeper', 2999 - $restricted ] ],
	'... and a deferred trigger of the table, with the rights of its owner');
is(kept('failed'), 'failed 50', 'what failed stays');
is(kept('forever'), 'succeeded 1', 'a queue keeps what it is told to');
is($c->value("SELECT depends_on = ARRAY[$needed\::bigint] FROM job_status WHERE id = $child"), 't', 'what an undecided job needs is there');
is($holder->value("SELECT count(*) FROM job WHERE queue = 'old'"), 3000, 'who holds the snapshot sees them still');
ok(!defined $load->receive->{sqlstate}, 'the load went on');

# What kept them goes.
$c->rows('DELETE FROM restricts');
$c->rows("SELECT job_cancel($child)");
days(20);
comes_to_keep('old', '', 'they go when nothing needs them any more');
$c->rows("SELECT job_queue_set('failed', retention_failed => '15 days')");
comes_to_keep('failed', '', 'what failed goes after its own time');
$holder->rows('COMMIT');
$c->rows('DROP TABLE restricts, cascades');

# At once.
$c->rows("SELECT job_queue_set('at_once', retention => '0', retention_failed => '0')");
$c->rows("SELECT job_submit('short', queue => 'at_once') FROM generate_series(1, 500)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('at_once', max_jobs => 400)");
$c->rows("SELECT count(job_fail(job_id, token, 'no', retry => false)) FROM job_claim('at_once', max_jobs => 50)");
comes_to_keep('at_once', 'undecided 50', q(retention '0' removes jobs when they are decided));
$c->rows("SELECT count(job_cancel(id)) FROM job WHERE queue = 'at_once'");
comes_to_keep('at_once', '', 'cancelled ones, too');

# Those whose row moves to other pages when they are decided, too.
$c->rows("SELECT job_queue_set('moves', retention => '0')");
my $kilobyte = q(SELECT jsonb_build_object('is', string_agg(md5(random()::text), NULL)) FROM generate_series(1, 30));
$c->rows("SELECT count(job_submit('moves', ($kilobyte WHERE i > 0), queue => 'moves')) FROM generate_series(1, 2000) i");
is($c->value("SELECT pg_relation_size('job') / 8192 > 300"), 't', 'they have many pages');
$c->rows("SELECT count(job_complete(job_id, token, ($kilobyte WHERE job_id > 0))) FROM job_claim('moves', max_jobs => 2000)");
comes_to_keep('moves', '', 'those that moved, too');

# A referencing table that somebody has locked holds up nothing else.
$c->rows("SELECT job_queue_set('locked', retention => '0')");
$c->rows('CREATE TABLE locked (job bigint REFERENCES job ON DELETE SET NULL)');
$holder->rows('BEGIN');
$holder->rows('LOCK TABLE locked IN EXCLUSIVE MODE');
$c->rows("SELECT job_submit('locked', queue => 'locked') FROM generate_series(1, 1000)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('locked', max_jobs => 1000)");
foreach my $n (1 .. 5)
{
	my $due = $c->value("SELECT job_submit('due', queue => 'due', run_in => '100 ms')");
	ok(within(10, sub { $c->value("SELECT state FROM job_status WHERE id = $due") eq 'ready' }), "beside a locked table a job becomes ready ($n)");
}
is(kept('locked'), 'succeeded 1000', 'whose jobs are kept');
$holder->rows('COMMIT');
$c->rows('DROP TABLE locked');
$c->rows("SELECT job_purge('locked')");
is(kept('locked'), '', 'until it is free');

# What makes it fail is logged; it goes on when that is mended.
$c->rows("SELECT job_queue_set('fails', retention => '0')");
$c->rows('CREATE TABLE first (id int PRIMARY KEY, job bigint REFERENCES job ON DELETE CASCADE)');
$c->rows('CREATE TABLE second (id int REFERENCES first ON DELETE CASCADE)');
$c->rows('ALTER TABLE second OWNER TO keeper');
$c->rows("SELECT job_submit('fails', queue => 'fails') FROM generate_series(1, 10)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('fails', max_jobs => 10)");
ok(within(60, sub { slurp_file($node->logfile) =~ /could not remove old jobs: table "second" would be changed with the rights of/ }), 'an error is logged');
is(kept('fails'), 'succeeded 10', 'and nothing is removed');
$c->rows('ALTER TABLE first OWNER TO keeper');
comes_to_keep('fails', '', 'it goes on when that is mended');
$c->rows('DROP TABLE first, second');

# All is read anew if a retention is reset, not if something else is.
$c->rows("SELECT job_submit('read', queue => 'read') FROM generate_series(1, 1000)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('read', max_jobs => 1000)");
my $all = $c->value('SELECT count(*) FROM job');
$c->rows('SELECT pg_stat_force_next_flush()');
my $rows_read = "SELECT pg_stat_get_tuples_returned('job'::regclass)";
my $read = $c->value($rows_read);
$c->rows("SELECT job_queue_set('read', lease => '2 min', retention => '8 days')");
ok(within(60, sub { $c->value($rows_read) >= $read + $all }), 'a retention that is set has all read');
$read = $c->value($rows_read);
$c->rows("SELECT job_queue_reset('read', 'lease')");
ok(!within(3, sub { $c->value($rows_read) > $read }), 'another setting that is reset does not');
$c->rows("SELECT job_queue_reset('read', 'retention')");
ok(within(60, sub { $c->value($rows_read) >= $read + $all }), 'a retention that is reset does');

# A retention that is changed applies to what there is, and so does the setting of the server.
$c->rows("SELECT job_submit('changed', queue => 'changed') FROM generate_series(1, 100)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('changed', max_jobs => 50)");
$c->rows("SELECT job_queue_set('changed', retention => '0')");
comes_to_keep('changed', 'undecided 50', 'a retention that is changed');
$c->rows("SELECT job_submit('global', queue => 'global') FROM generate_series(1, 100)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('global', max_jobs => 100)");
$c->rows("ALTER SYSTEM SET jobq.retention = '0'");
$c->rows('SELECT pg_reload_conf()');
comes_to_keep('global', '', 'jobq.retention that is changed');

# None is ever removed.
$c->rows("ALTER SYSTEM SET jobq.$_ = '-1'") foreach qw(retention retention_failed);
$c->disconnect;
$node->restart;
$c = JobqClient->new($node);

# A server that is started again begins to read anew.
$c->rows("SELECT job_submit('crash', queue => 'crash') FROM generate_series(1, 100)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('crash', max_jobs => 100)");
is(kept('crash'), 'succeeded 100', 'jobq.retention = -1 keeps jobs');
$c->rows("ALTER SYSTEM SET jobq.retention = '1s'");
$c->disconnect;
$node->stop('immediate');
$node->start;
$c = JobqClient->new($node);
comes_to_keep('crash', '', 'after a crash');
is($c->value('SELECT count(*) FROM job_dependency d WHERE NOT EXISTS (SELECT FROM job WHERE id = upstream)'), 0, 'no edge is left behind');
is($c->value('SELECT count(*) FROM job_check()'), 0, 'the tables are sound');
$node->stop;
done_testing();
