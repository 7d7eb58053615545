# jobq-worker: jobs that are made to stand in the way of others do not.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('worker');
my $dir = PostgreSQL::Test::Utils::tempdir;

# How many jobs of a queue have succeeded?
sub done
{
	my ($queue) = @_;
	return $node->safe_psql('postgres',
		"SELECT count(*) FROM job_status WHERE queue = '$queue' AND state = 'succeeded'");
}

# Leases that are over, and lost, when their claim answers: what they are by a
# claim that takes long.  The heartbeats would come in an hour.
$node->safe_psql('postgres', <<'END');
CREATE SCHEMA slow;
CREATE FUNCTION slow.job_worker_register(text, text[], text, int) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN PERFORM public.job_worker_register($1, $2, $3, $4); END $$;
CREATE FUNCTION slow.job_worker_unregister(text) RETURNS boolean RETURN public.job_worker_unregister($1);
CREATE FUNCTION slow.job_claim(text[], text, int, interval, text[]) RETURNS SETOF job_assignment
LANGUAGE plpgsql AS $$
DECLARE a job_assignment;
BEGIN
	FOR a IN SELECT * FROM public.job_claim($1, $2, $3, $4, $5) LOOP
		IF a.kind = 'late' THEN
			PERFORM public.job_fail(a.job_id, a.token, 'lost', retry => false);
			a.lease_until := clock_timestamp() - interval '1 s';
		END IF;
		RETURN NEXT a;
	END LOOP;
END $$;
CREATE FUNCTION slow.job_heartbeat(bigint, bigint) RETURNS boolean RETURN public.job_heartbeat($1, $2);
CREATE FUNCTION slow.job_complete(bigint, bigint, jsonb) RETURNS void RETURN public.job_complete($1, $2, $3);
CREATE FUNCTION slow.job_complete_many(bigint[], bigint[], jsonb[]) RETURNS TABLE (job_id bigint, accepted boolean)
	BEGIN ATOMIC SELECT * FROM public.job_complete_many($1, $2, $3); END;
SELECT job_submit('late', queue => 'late') FROM generate_series(1, 20);
SELECT job_submit('m', queue => 'others') FROM generate_series(1, 100);
END
my $worker = start_worker($node, '--schema', 'slow', '--queue', 'late', '--queue', 'others', '--concurrency', '4',
	'--heartbeat', '1h', '--lease', '10h', '--kind', 'm=:noop', '--kind', "late=touch $dir/late");
ok(poll_until(sub { done('others') == 100 }), 'jobs whose leases are over keep no places');
ok(!-e "$dir/late", '... and none of them is begun with');
is(scalar(() = slurp_file($worker->{log}) =~ /event=lease_lost/g), 20, '... but each is asked for once');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# Jobs that cannot be reported, because a role that may only submit keeps a
# transaction open whose job depends on them, keep no places either, and they
# keep their leases.
$node->safe_psql('postgres', q{CREATE ROLE hostile LOGIN; SELECT job_grant('hostile', 'theirs', 'submit')});
my $hostile = JobqClient->new($node, user => 'hostile');
foreach my $case ([ 200, '--concurrency', '4' ], [ 40, '--concurrency', '2', '--pool', '1' ])
{
	my ($n, @args) = @$case;
	my $ids = $hostile->value(
		"SELECT array_agg(job_submit('m', queue => 'theirs', max_lost => 1)) FROM generate_series(1, $n)");
	$hostile->rows('BEGIN');
	$hostile->rows("SELECT job_submit('m', queue => 'theirs', depends_on => '$ids')");
	$node->safe_psql('postgres', q{SELECT job_submit('m', queue => 'ours') FROM generate_series(1, 100)});
	my $worker = start_worker($node, '--queue', 'theirs', '--queue', 'ours', '--lease', '2s', '--kind', 'm=:noop',
		@args);
	ok($node->poll_query_until('postgres',
			q{SELECT count(*) = 0 FROM job_status WHERE queue = 'ours' AND state <> 'succeeded'}),
		"jobs that cannot be reported hold up no others (@args)");
	ok($node->poll_query_until('postgres', qq{SELECT count(*) = $n AND clock_timestamp() > max(started_at) + '3 s'
			FROM job_status WHERE id = ANY ('$ids') AND state = 'running'}),
		'... all of them, which keep their leases');
	state_is($node, submit($node, q{'m', queue => 'ours'}), 'succeeded', '... one that comes later');
	$hostile->rows('COMMIT');
	ok($node->poll_query_until('postgres',
			q{SELECT count(*) = 0 FROM job_status WHERE queue = 'theirs' AND state <> 'succeeded'}),
		'... and they are reported when they can be');
	$worker->signal('TERM');
	$worker->ends_with(0, 'leaves');
	unlike(slurp_file($worker->{log}), qr/event=(?:lease_lost|report_refused)/, 'none was lost');
}

# More locked jobs than may be kept: they take places then, which is told.
my $ids = $hostile->value(q{SELECT array_agg(job_submit('m', queue => 'theirs')) FROM generate_series(1, 1150)});
$hostile->rows('BEGIN');
$hostile->rows("SELECT job_submit('m', queue => 'theirs', depends_on => '$ids')");
$worker = start_worker($node, '--queue', 'theirs', '--concurrency', '60', '--kind', 'm=:noop');
ok($worker->wait_for_log(qr/level=warning event=many_locked jobs=1001 bytes=0$/m), 'very many jobs that are locked');
cmp_ok($node->safe_psql('postgres', q{SELECT count(*) FROM job_status WHERE queue = 'theirs' AND state = 'running'}),
	'<=', 1120, '... are bounded');
$hostile->rows('COMMIT');
ok($node->poll_query_until('postgres',
		q{SELECT count(*) = 0 FROM job_status WHERE queue = 'theirs' AND state <> 'succeeded'}),
	'... and all succeed in the end');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# Large arguments of prefetched jobs: no more are claimed than fit into 64 MB,
# and those of a claim.
$node->safe_psql('postgres', q{
	SELECT job_submit('large', jsonb_build_object('x', repeat('x', 1000000)), queue => 'large') FROM generate_series(1, 200)});
$worker = start_worker($node, '--queue', 'large', '--prefetch', '500', '--concurrency', '2', '--kind',
	"large=until [ -e $dir/large ]; do sleep 0.05; done");
my $taken = q{FROM job_status WHERE queue = 'large' AND state = 'running'};
ok($node->poll_query_until('postgres', "SELECT (SELECT count(*) > 64 $taken) AND
		coalesce(bool_and(state = 'idle' AND clock_timestamp() > state_change + '2 s'), true) FROM pg_stat_activity WHERE query ~ 'job_claim\\('"),
	'large jobs are prefetched');
cmp_ok($node->safe_psql('postgres', "SELECT count(*) $taken"), '<', 140, '... but not all of them');
append_to_file("$dir/large", '');
ok($node->poll_query_until('postgres', q{SELECT count(*) = 200 FROM job_status WHERE queue = 'large' AND state = 'succeeded'}),
	'... until there is room');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');

# A claim that takes long does not keep a worker that is told to leave: it is
# cancelled, and then has claimed nothing.
$node->safe_psql('postgres', <<'END');
CREATE SCHEMA slower;
CREATE FUNCTION slower.job_worker_register(text, text[], text, int) RETURNS void
LANGUAGE plpgsql AS $$ BEGIN PERFORM public.job_worker_register($1, $2, $3, $4); END $$;
CREATE FUNCTION slower.job_worker_unregister(text) RETURNS boolean RETURN public.job_worker_unregister($1);
CREATE FUNCTION slower.job_claim(text, text, int, interval, text[]) RETURNS SETOF job_assignment
LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT * FROM public.job_claim($1, $2, $3, $4, $5);
	PERFORM pg_sleep(3600);
END $$;
END
my $job = submit($node, q{'m', queue => 'slow'});
$worker = start_worker($node, '--schema', 'slower', '--queue', 'slow', '--kind', 'm=true');
my $claims = q{SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'};
ok($node->poll_query_until('postgres', "SELECT ($claims) = 1"), 'a claim takes an hour');
$worker->signal('TERM');
$worker->ends_with(0, '... SIGTERM ends the worker');
ok($node->poll_query_until('postgres', "SELECT ($claims) = 0"), '... and the claim');
is(job_field($node, $job, q{state || ' ' || attempt}), 'ready 0', '... and its job is left');

$node->stop;
done_testing();
