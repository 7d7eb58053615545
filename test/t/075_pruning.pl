# The page of a job is pruned when it fills up, so that the row of a job that
# ends fits beside its first version, and not each time it is visited.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use Test::More;

my $jobs = 400;
my $node = jobq_node('pruning');
my $c = JobqClient->new($node);
$c->rows('CREATE EXTENSION pg_walinspect');

foreach my $bytes (0, 40)
{
	$c->rows("SELECT job_submit('x', '{}', 'q$bytes') FROM generate_series(1, $jobs)");
	my $from = $c->value('SELECT pg_current_wal_lsn()');
	foreach (1 .. $jobs)
	{
		my ($claim) = $c->rows("SELECT job_id, token FROM job_claim('q$bytes')");
		$c->rows("SELECT job_complete($claim->[0], $claim->[1], to_jsonb(repeat('x', $bytes)))");
	}
	my ($count) = $c->rows(<<"END");
SELECT count(*) FILTER (WHERE record_type = 'HOT_UPDATE'), count(*) FILTER (WHERE record_type LIKE 'PRUNE%')
FROM pg_get_wal_records_info('$from', pg_current_wal_flush_lsn())
WHERE block_ref LIKE '%/' || pg_relation_filenode('job') || ' %'
END
	cmp_ok($count->[0], '>=', $jobs * 0.98, "$bytes bytes of result: the row stays in its page");
	cmp_ok($count->[1], '<=', $jobs * 0.3, "$bytes bytes of result: few prune it");
}
done_testing();
