# Claims, completions and the worker go on correctly while other sessions hold
# old snapshots; and the sessions that hold them get what is right for them.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqLoad;
use JobqTest;
use JSON::PP;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

# The serializable holder makes the server keep what every serializable
# transaction since has read; the default is too little for that.
my $node = jobq_node('snapshot', conf => <<'EOC');
autovacuum_naptime = 1s
max_pred_locks_per_transaction = 2048
jobq.sweep_interval = 1h
EOC
my $c = JobqClient->new($node);

# Something old before all begins: a reader, and one that has an xid.
$c->rows("SELECT job_submit('old', queue => 'old', priority => i % 3) FROM generate_series(1, 60) i");
my @holders = map { JobqClient->new($node, name => "holder $_") } 0 .. 2;
$holders[0]->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holders[0]->rows('SELECT count(*) FROM job');
$holders[1]->rows('BEGIN ISOLATION LEVEL SERIALIZABLE; CREATE TABLE something ()');
$holders[1]->rows('SELECT count(*) FROM job_ready');
$holders[2]->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
$holders[2]->rows('SELECT count(*) FROM job_ready');

# Order, over many dead entries: by priority, then by when they became ready.
my @order = map { $_->[0] } $c->rows("SELECT id FROM job WHERE queue = 'old' ORDER BY priority DESC, id");
my @got;
while (my ($row) = $c->rows("SELECT job_id, job_complete(job_id, token) FROM job_claim('old')"))
{
	push @got, $row->[0];
}
is("@got", "@order", 'jobs come in order');

# A refill that takes long, over what a claim past the hand-out has left dead,
# while more jobs come than there is room for: none may be forgotten.
$c->rows("SELECT job_submit('dead', queue => 'refill') FROM generate_series(1, 100000)");
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('refill', max_jobs => 600)");
$c->rows('BEGIN ISOLATION LEVEL REPEATABLE READ');
$c->rows("SELECT count(job_complete(job_id, token)) FROM job_claim('refill', max_jobs => 100000)");
$c->rows('COMMIT');
my $claimer = JobqClient->new($node);
$claimer->rows("SELECT job_claim('empty')");
$claimer->send("SELECT job_complete(job_id, token) FROM job_claim('refill')");
$c->rows("SELECT job_submit('late', queue => 'refill', priority => $_) FROM generate_series(1, 300)") foreach 1, 2;
my $there = 600 - @{ $claimer->receive->{rows} };
is($c->value("SELECT count(job_complete(job_id, token)) FROM job_claim('refill', max_jobs => 1000)"),
	$there, 'what came during a refill is there');
$claimer->disconnect;

my $cycles = 0;
my $id = $c->value("SELECT job_submit('again and again', queue => 'cycle')");
foreach (1 .. 1000)
{
	my ($row) = $c->rows("SELECT job_id, job_release(job_id, token) FROM job_claim('cycle')");
	$cycles++ if $row && $row->[0] == $id;
}
is($cycles, 1000, 'one job is claimed and released a thousand times');
is($c->value("SELECT attempt FROM job_status WHERE id = $id"), 1000, 'and each is an attempt');
is($c->value("SELECT job_cancel($id)"), 't', 'it can still be found');
my $due = 0;
foreach (1 .. 20)
{
	my $id = $c->value("SELECT job_submit('due', queue => 'due', run_at => clock_timestamp() + interval '20 ms')");
	$due++ if within(10, sub { $c->value("SELECT count(*) FROM job_ready WHERE job_id = $id") });
	$c->rows("SELECT job_complete(job_id, token) FROM job_claim('due')");
}
is($due, 20, 'the worker moves what is due');

# The load, with leases that run out, retries and dependencies
my @logs = run_clients(60, 6, sub { return JobqLoad::run($node, $_[0], until => time + 7) });
invariants_hold($node, 'after the load');
my $rest = JobqLoad::drain($node, 60);
ok($rest, 'every job is decided');
push @logs, $rest if $rest;
my @claims = map { @{ $_->{claims} } } @logs;
my @twice = JobqLoad::overlaps(\@claims);
ok(!@twice, 'no job was held twice at once') or diag(join("\n", @twice[ 0 .. ($#twice > 9 ? 9 : $#twice) ]));
my @errors = map { @{ $_->{errors} } } @logs;
ok(!@errors, 'nothing unexpected was answered') or diag(join("\n", @errors[ 0 .. ($#errors > 9 ? 9 : $#errors) ]));

# The row of a flow is changed again and again, and all its versions stay: a claim of a member looks at few of them.
my $flow = $c->value(q{SELECT job_submit_flow('{"queue": "flow", "defaults": {"kind": "member", "queue": "flow"}, "jobs": [{}, {}, {}, {}, {}]}')});
my @blocks;
foreach my $changes (1, 1, 5000, 1, 1)
{
	$c->rows("SELECT count(job_flow_set($flow, on_failure => CASE i % 2 WHEN 0 THEN 'continue' ELSE 'drain' END)) FROM generate_series(1, $changes) i");
	my $plan = decode_json(join '', map { $_->[0] } $c->rows("EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) SELECT * FROM job_claim('flow')"));
	push @blocks, $plan->[0]{Plan}{'Shared Hit Blocks'} + $plan->[0]{Plan}{'Shared Read Blocks'};
}
note("blocks: @blocks");
my ($fewest) = sort { $a <=> $b } @blocks[ 2 .. 4 ];
cmp_ok($fewest, '<', $blocks[1] + 60, 'a claim of a member of a flow that was changed 5,000 times');
is($c->value("SELECT count(*) FROM job_status WHERE flow = $flow AND state = 'running'"), 5, '... and all are claimed');

# The holders still see what they saw, and what they do is right.
is($holders[0]->value("SELECT count(*) FROM job_status WHERE state = 'ready'"), 60, 'an old snapshot shows the old states');
is($holders[0]->value('SELECT count(*) FROM job_status WHERE state IS NULL OR finished_at IS NOT NULL'), 0, 'and nothing else');
foreach my $i (0, 2)
{
	my $r = $holders[$i]->query("SELECT * FROM job_claim('old', max_jobs => 100)");
	is($r->{sqlstate}, undef, 'a claim under an old snapshot is no error') or diag($r->{message});
	is(scalar(@{ $r->{rows} }), 0, 'but gets nothing that has gone');
}
my $r = $holders[1]->query("SELECT * FROM job_claim('old', max_jobs => 100)");
ok((!$r->{sqlstate} && !@{ $r->{rows} }) || $r->{sqlstate} eq '40001', 'under SERIALIZABLE neither') or diag($r->{message});
$_->query('ROLLBACK') foreach @holders;

# Under REPEATABLE READ: a claim takes what its snapshot shows and nobody else
# has taken; completing sees children that its snapshot does not show.
foreach my $level ('REPEATABLE READ', 'SERIALIZABLE')
{
	my $queue = 'level' . length($level);
	my @ids = map { $_->[0] } $c->rows("SELECT job_submit('p', queue => '$queue') FROM generate_series(1, 4)");
	$holders[0]->rows("BEGIN ISOLATION LEVEL $level");
	$holders[0]->rows("SELECT count(*) FROM job_ready");
	$c->rows("SELECT job_complete(job_id, token) FROM job_claim('$queue')");
	my $late = $c->value("SELECT job_submit('late', queue => '$queue', priority => 9)");
	my @rows = $holders[0]->rows("SELECT job_id, token FROM job_claim('$queue', max_jobs => 2)");
	is(join(' ', map { $_->[0] } @rows), "@ids[1, 2]", "a claim under $level skips what is gone and what came later");
	my $child = $c->value("SELECT job_submit('child', queue => '$queue', depends_on => ARRAY[$ids[1]])");
	my $r = $holders[0]->query("SELECT job_complete($rows[0][0], $rows[0][1])");
	if (($r->{sqlstate} // '') eq '40001')
	{
		# submitting has locked the parent's row after the snapshot was taken
		$holders[0]->rows('ROLLBACK');
		note("40001 under $level");
		my ($again) = $c->rows("SELECT job_id, token FROM job_claim('$queue', max_jobs => 3) ORDER BY job_id = $ids[1] DESC");
		$c->rows("SELECT job_complete($again->[0], $again->[1])");
	}
	else
	{
		is($r->{sqlstate}, undef, "a completion under $level") or diag($r->{message});
		$r = $holders[0]->query('COMMIT');
		is($r->{sqlstate}, undef, 'is committed');
	}
	is($c->value("SELECT state FROM job_status WHERE id = $child"), 'ready', 'the child that its snapshot does not show is woken');
}
invariants_hold($node, 'at the end');
tables_are_sound($node, 'at the end');

done_testing();
