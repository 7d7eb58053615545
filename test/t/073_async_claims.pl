# A transaction that only claims commits without waiting for the disk; every
# other waits.  What a crash of the server loses by that is the claim: the job
# is ready as if it had never been claimed, and the token is void.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# The WAL writer, which would flush it soon, hardly ever comes by.
my $node = jobq_node('async', conf => <<'EOC');
fsync = on
autovacuum = off
wal_writer_delay = 10s
max_prepared_transactions = 5
EOC
my $c = JobqClient->new($node);
$c->rows($_) foreach split /;\n/, <<'EOQ';
CREATE TABLE t (n bigint);
CREATE TEMPORARY TABLE later (n bigint);
CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); RETURN NULL; END';
CREATE CONSTRAINT TRIGGER note AFTER INSERT ON later DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION note();
CREATE TABLE watched (n bigint);
CREATE TRIGGER note AFTER UPDATE ON watched FOR EACH STATEMENT EXECUTE FUNCTION note();
EOQ

my $lsn = 'pg_current_wal_insert_lsn()';
my $claim = "SELECT job_id, token, $lsn FROM job_claim('a', lease => '1 h')";

# Is the log on disk beyond this?
sub flushed { return $c->value("SELECT pg_current_wal_flush_lsn() > '$_[0]'") eq 't'; }

sub submit
{
	$c->rows("SELECT job_submit('x', queue => 'a', backoff => '1 h')");
	return;
}

# Run one transaction: statements in turn, or in one packet, or pipelined.  The
# last row that comes ends in an LSN that is before the record of its commit.
# Returns whether that is on disk, and this row.
sub run
{
	my ($how, @sql) = @_;
	my $row;
	if ($how eq 'turns')
	{
		foreach my $sql (@sql)
		{
			my ($got) = $c->rows($sql);
			$row = $got if $got && @$got && ($got->[-1] // '') =~ m{^[0-9A-F]+/[0-9A-F]+$};
		}
	}
	else
	{
		my $r = $how eq 'packet' ? $c->query(join '; ', @sql) : $c->pipeline(@sql);
		die "$r->{sqlstate} $r->{message} by: @sql" if $r->{sqlstate};
		$row = $r->{rows}[-1];
	}
	die "no LSN from: @sql" unless $row;
	return (flushed($row->[-1]), $row);
}

# How many of twenty such transactions were on disk when they were answered
sub count_flushed
{
	my ($how, @sql) = @_;
	my $n = 0;
	foreach (1 .. 20)
	{
		submit();
		my ($flushed) = run($how, @sql);
		$n += $flushed;
		$c->rows("ROLLBACK") if $c->status ne 'I';
	}
	return $n;
}

#
# What does not wait
#

is($c->value('SHOW jobq.async_claim'), 'on', 'claims need not be flushed');
foreach my $case (
	[ 'a claim alone' => 'turns', $claim ],
	[ 'a claim in a block' => 'turns', 'BEGIN', $claim, 'COMMIT' ],
	[ 'two claims, of which one finds nothing' => 'turns', 'BEGIN', $claim, "SELECT job_id, token, $lsn FROM job_claim('none')", 'COMMIT' ],
	[ 'a claim in a savepoint' => 'turns', 'BEGIN', 'SAVEPOINT s', $claim, 'RELEASE s', 'COMMIT' ],
	[ 'a claim and a look' => 'turns', 'BEGIN', 'SELECT count(*) FROM t', $claim, 'SELECT count(*) FROM job_status', 'COMMIT' ],
	[ 'pipelined claims' => 'pipeline', "SELECT job_id, token, $lsn FROM job_claim('none')", $claim ],
	[ 'a claim under REPEATABLE READ' => 'turns', 'BEGIN ISOLATION LEVEL REPEATABLE READ', $claim, 'COMMIT' ])
{
	my ($name, $how, @sql) = @$case;
	my $n = count_flushed($how, @sql);
	cmp_ok($n, '<', 20, "$name does not wait for the disk");
	note("$n of 20 were flushed");
}
is($c->value('SHOW synchronous_commit'), 'on', 'the setting is what it was');

#
# What does
#

my $complete = "SELECT count(job_complete(c.job_id, c.token)), $lsn FROM job_claim('a') c";
foreach my $case (
	[ 'INSERT before' => 'turns', 'BEGIN', 'INSERT INTO t VALUES (1)', $claim, 'COMMIT' ],
	[ 'INSERT after' => 'turns', 'BEGIN', $claim, 'INSERT INTO t VALUES (1)', "SELECT $lsn", 'COMMIT' ],
	[ 'INSERT between two claims' => 'turns', 'BEGIN', $claim, 'INSERT INTO t VALUES (1)', $claim, 'COMMIT' ],
	[ 'INSERT between two claims of nothing' => 'turns', 'BEGIN', "SELECT job_id FROM job_claim('none')", 'INSERT INTO t VALUES (1)', $claim, 'COMMIT' ],
	[ 'INSERT in a savepoint that is released' => 'turns', 'BEGIN', 'SAVEPOINT s', 'INSERT INTO t VALUES (1)', 'RELEASE s', $claim, 'COMMIT' ],
	[ 'INSERT in a savepoint, and a claim in it that is rolled back' => 'turns', 'BEGIN', 'INSERT INTO t VALUES (1)', 'SAVEPOINT s', $claim, 'ROLLBACK TO s', $claim, 'COMMIT' ],
	[ 'INSERT after a claim that is rolled back' => 'turns', 'BEGIN', 'SAVEPOINT s', $claim, 'ROLLBACK TO s', 'INSERT INTO t VALUES (1)', $claim, 'COMMIT' ],
	[ 'INSERT in the statement' => 'turns', "WITH i AS (INSERT INTO t SELECT job_id FROM job_claim('a') RETURNING n) SELECT n, $lsn FROM i" ],
	[ 'a trigger of a statement that changes nothing' => 'turns', 'BEGIN', $claim, 'UPDATE watched SET n = 0', "SELECT $lsn", 'COMMIT' ],
	[ 'a trigger at the commit' => 'turns', 'BEGIN', 'INSERT INTO later VALUES (1)', $claim, 'COMMIT' ],
	[ 'a trigger at the commit, noted after the claim' => 'turns', 'BEGIN', $claim, 'INSERT INTO later VALUES (1)', "SELECT $lsn", 'COMMIT' ],
	[ 'a locked row' => 'turns', 'BEGIN', $claim, 'SELECT n FROM t LIMIT 1 FOR UPDATE', "SELECT $lsn", 'COMMIT' ],
	[ 'one packet, INSERT first' => 'packet', 'INSERT INTO t VALUES (1)', $claim ],
	[ 'one packet, claim first' => 'packet', $claim, "INSERT INTO t VALUES (1) RETURNING n, $lsn" ],
	[ 'pipelined, INSERT first' => 'pipeline', 'INSERT INTO t VALUES (1)', $claim ],
	[ 'pipelined, claim first' => 'pipeline', $claim, "INSERT INTO t VALUES (1) RETURNING n, $lsn" ],
	[ 'completion in the statement' => 'turns', $complete ],
	[ 'completion before' => 'turns', 'BEGIN', $complete, "SELECT $lsn FROM job_claim('none')", "SELECT $lsn", 'COMMIT' ],
	[ 'completion after' => 'turns', 'BEGIN', $claim, "SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'a'", "SELECT $lsn", 'COMMIT' ],
	[ 'release after' => 'turns', 'BEGIN', $claim, "SELECT count(job_release(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'a'", "SELECT $lsn", 'COMMIT' ],
	[ 'heartbeat with progress' => 'turns', 'BEGIN', $claim, "SELECT count(job_heartbeat(l.job_id, l.token, progress => '1')) FROM job_lease l", "SELECT $lsn", 'COMMIT' ],
	[ 'job_submit before' => 'turns', 'BEGIN', "SELECT job_submit('x', queue => 'b')", $claim, 'COMMIT' ],
	[ 'job_submit of the job' => 'turns', 'BEGIN', "SELECT job_submit('x', queue => 'a')", $claim, 'COMMIT' ],
	[ 'job_submit after' => 'turns', 'BEGIN', $claim, "SELECT job_submit('x', queue => 'b')", "SELECT $lsn", 'COMMIT' ],
	[ 'the setting is off' => 'turns', 'SET jobq.async_claim = off', $claim, 'RESET jobq.async_claim' ],
	[ 'the setting is off for the transaction' => 'turns', 'BEGIN', $claim, 'SET LOCAL jobq.async_claim = off', 'COMMIT' ])
{
	my ($name, $how, @sql) = @$case;
	is(count_flushed($how, @sql), 20, "flushed: $name");
}
is($c->value('SHOW synchronous_commit'), 'on', 'the setting is what it was');

# The transaction after an asynchronous claim, or one that fails, is as usual.
my $n = 0;
foreach (1 .. 20)
{
	submit();
	$c->rows($claim);
	my ($flushed) = run('turns', "INSERT INTO t VALUES (1) RETURNING n, $lsn");
	$n += $flushed;
	$c->rows('BEGIN');
	$c->rows($claim);
	$c->query('SELECT 1 / 0');
	$c->rows('ROLLBACK');
	($flushed) = run('turns', "INSERT INTO t VALUES (1) RETURNING n, $lsn");
	$n += $flushed;
}
is($n, 40, 'the next transaction is flushed');

#
# The server dies
#

my $lost = 0;
# Claims of which some are on disk and some are not; and completions, which are.
sub crash
{
	my ($name) = @_;
	my (%lost, %kept, @done);
	$c->rows("SELECT job_cancel(id) FROM job_status WHERE state = 'ready'");
	# a claim that was made durable by what came after it
	submit();
	my (undef, $row) = run('turns', $claim);
	run('turns', "INSERT INTO t VALUES (1) RETURNING n, $lsn");
	$kept{ $row->[0] } = $row->[1];
	foreach (1 .. 20)
	{
		submit();
		my ($row) = $c->rows("SELECT c.job_id, c.token, job_complete(c.job_id, c.token) FROM job_claim('a') c");
		push @done, $row;
	}
	# one that was claimed asynchronously, then completed
	submit();
	(undef, $row) = run('turns', $claim);
	$c->rows("SELECT job_complete($row->[0], $row->[1])");
	push @done, $row;
	my @pids = map { $_->[0] } $c->rows('SELECT pid FROM pg_stat_activity');
	poll_until(sub {
		submit() foreach 1 .. 5;
		my @claims = map { (run('turns', $claim))[1] } 1 .. 5;
		foreach my $row (@claims)
		{
			(flushed($row->[2]) ? \%kept : \%lost)->{ $row->[0] } = $row->[1];
		}
		return %lost;
	});
	kill('KILL', $node->{_pid}, @pids);
	start_again($node);
	$c->connect;
	my $list = sub { return join ',', 0, @_ };
	# a claim may have reached the disk after all
	my ($n) = $c->rows('SELECT count(*) FILTER (WHERE state = $$ready$$ AND attempt = 0), count(*) FILTER (WHERE state = $$running$$ AND attempt = 1) '
		  . 'FROM job_status WHERE id IN (' . $list->(keys %lost) . ')');
	is($n->[0] + $n->[1], scalar(keys %lost), "$name: a lost claim leaves the job ready and without an attempt");
	$lost += $n->[0];
	my @wrong;
	foreach my $id (keys %lost)
	{
		next if $c->value("SELECT state FROM job_status WHERE id = $id") eq 'running';
		foreach my $call ("job_complete($id, $lost{$id})", "job_fail($id, $lost{$id})", "job_heartbeat($id, $lost{$id})", "job_release($id, $lost{$id})")
		{
			my $r = $c->query("SELECT $call");
			push @wrong, "$call: " . ($r->{sqlstate} // 'no error') if ($r->{sqlstate} // '') ne 'JQ001';
		}
	}
	is("@wrong", '', '... and its token void');
	is($c->value('SELECT count(*) FROM job_status WHERE state = $$running$$ AND attempt = 1 AND id IN (' . $list->(keys %kept) . ')'),
		scalar(keys %kept), '... one that was followed by a durable commit is there');
	is($c->value("SELECT job_heartbeat($_, $kept{$_})"), 't', '... with its token') foreach (sort keys %kept)[0];
	is($c->value('SELECT count(*) FROM job_status WHERE state = $$succeeded$$ AND id IN (' . $list->(map { $_->[0] } @done) . ')'),
		21, '... and so is every completion');
	my @again = $c->rows("SELECT job_id, attempt, token FROM job_claim('a', max_jobs => 100) ORDER BY job_id");
	is(join(' ', map { "$_->[0]:$_->[1]" } @again), join(' ', map { "$_:1" } map { $_->[0] } $c->rows(
				"SELECT job_id FROM job_lease WHERE job_id IN (" . $list->(keys %lost) . ') AND job_id = ANY ($${' . join(',', map { $_->[0] } @again) . '}$$) ORDER BY job_id')),
		'... what was lost is claimed again, as the first attempt');
	is(scalar(@again), $n->[0], '... all of it');
	is(scalar(grep { ($lost{ $_->[0] } // $_->[2]) eq $_->[2] } @again), 0, '... with a new token');
	$c->rows("SELECT job_complete(l.job_id, l.token) FROM job_lease l");
	invariants_hold($node, $name);
	return;
}
crash('after a crash');
crash('after another');
crash('after a third');
cmp_ok($lost, '>', 0, 'some claims were lost');
note("$lost claims were lost");

# With the setting off, nothing is lost.
$c->rows("SELECT job_cancel(id) FROM job_status WHERE finished_at IS NULL");
$c->rows("SELECT job_submit('x', queue => 'a') FROM generate_series(1, 10)");
$c->rows('SET jobq.async_claim = off');
my @rows = map { $c->rows($claim) } 1 .. 10;
$node->kill9;
start_again($node);
$c->connect;
is(scalar(grep { ($c->query("SELECT job_complete($_->[0], $_->[1])")->{sqlstate} // '') eq '' } @rows), 10,
	'claims of sessions that ask for it are durable');
invariants_hold($node, 'at the end');
tables_are_sound($node, 'at the end');
$c->disconnect;
$node->stop;

done_testing();
