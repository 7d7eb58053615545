# Whatever is stored, it can be read and dumped: jobs with as much as the settings
# allow, by default and at their bounds, of characters that take the most room.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;

my ($free) = slurp_file('/proc/meminfo') =~ /^MemAvailable:\s+(\d+) kB/m;
my $node = jobq_node('sizes', conf => "fsync = off\nmax_wal_size = 4GB\nshared_buffers = 256MB");

# Jobs decided and running whose args and tags, result or progress, error and
# reason are as large as can be; kB of each.
sub fill
{
	my ($json, $error) = @_;
	$node->safe_psql('postgres', <<EOC);
SET jobq.max_args_size = '${json}kB'; SET jobq.max_result_size = '${json}kB'; SET jobq.max_error_size = '${error}kB';
CREATE TEMP TABLE big AS SELECT to_jsonb(repeat('\\', $json * 512 - 50)) AS json, to_jsonb(repeat('\\', $json * 256 - 50)) AS half,
	repeat('\\', $error * 1024 * 3) AS error;
SELECT job_submit('fails', max_attempts => 2) IS NOT NULL;
SELECT job_fail(job_id, token, error, retry_in => '1 day') FROM big, job_claim();
SELECT job_submit('k', jsonb_build_object('a', half), tags => half, lease => '1 h') IS NOT NULL FROM big, generate_series(1, 2);
SELECT job_complete(job_id, token, json) FROM big, job_claim();
SELECT job_heartbeat(job_id, token, progress => json), job_cancel(job_id, error) FROM big, job_claim();
EOC
}

# A dump, its restore, and all views read whole.
sub check
{
	my ($what) = @_;
	my $row = 'SELECT id, pg_column_size(args), pg_column_size(tags), pg_column_size(result), finished_at FROM job ORDER BY id';

	$node->safe_psql('postgres', 'CREATE DATABASE copy TEMPLATE template0');
	ok(IPC::Run::run([ 'pg_dump', '-d', $node->connstr('postgres') ], '|',
			[ 'psql', '-Xq', '-v', 'ON_ERROR_STOP=1', '-o', '/dev/null', '-d', $node->connstr('copy') ]),
		"$what: pg_dump, and its restore");
	is($node->safe_psql('copy', $row), $node->safe_psql('postgres', $row), "$what: what was restored is the same");
	$node->safe_psql('postgres', 'DROP DATABASE copy');
	command_ok([ 'psql', '-XqAt', '-o', '/dev/null', '-c', "SELECT * FROM $_", $node->connstr('postgres') ], "$what: $_")
	  foreach qw(job_status job_attempts);
	$node->safe_psql('postgres', 'TRUNCATE job, job_attempt, job_lease, job_scheduled');
	return;
}

fill(1024, 64);
check('default sizes');
SKIP:
{
	skip 'the largest sizes take 8 GB of memory', 4 if !defined $free || $free < 8e6;
	fill(128 * 1024, 16 * 1024);
	check('largest sizes');
}
$node->stop;
done_testing();
