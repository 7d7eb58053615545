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
CREATE FUNCTION slow.job_claim(text[], text, int, interval) RETURNS SETOF job_assignment
LANGUAGE plpgsql AS $$
DECLARE a job_assignment;
BEGIN
	FOR a IN SELECT * FROM public.job_claim($1, $2, $3, $4) LOOP
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

$node->stop;
done_testing();
