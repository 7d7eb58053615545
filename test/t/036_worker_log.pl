# jobq-worker --log: standard error goes to the log of the attempt, line by line.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('worker', conf => 'jobq.max_log_lines = 5000');
my $dir = PostgreSQL::Test::Utils::tempdir;

# The lines of an attempt, joined.
sub lines
{
	my ($job, $attempt) = @_;
	return $node->safe_psql('postgres',
		"SELECT coalesce(string_agg(level || ':' || message, '|' ORDER BY at), '') FROM job_logs WHERE job_id = $job AND attempt = " . ($attempt // 1));
}

my $worker = start_worker(
	$node, '--log', '--concurrency', '4',
	'--kind', 'two=echo one >&2; echo "two ä" >&2; echo 1',
	'--kind', 'unended=printf "no newline" >&2; exit 65',
	'--kind', q{dirty=printf 'a\\377b\\000c\\n\\n\\303\\244 "x\\\\y", {z}\\n' >&2},
	'--kind', 'again=echo "attempt $JOBQ_ATTEMPT" >&2; test "$JOBQ_ATTEMPT" -ge 2',
	'--kind', 'silent=echo 1',
	'--kind', q{long=head -c 40000 /dev/zero | tr '\\0' x >&2; echo END >&2},
	'--kind', 'many=seq 1 7000 >&2',
	'--kind', "flood=until test -e $dir/stop; do seq 1 1000 >&2; done",
	'--kind', "live=echo begun >&2; until test -e $dir/go; do sleep 0.05; done; echo ended >&2");

my $job = submit($node, q{'two'});
state_is($node, $job, 'succeeded', 'a job that writes two lines');
is(lines($job), 'info:one|info:two ä', '... has them in its log when it is reported');
$job = submit($node, q{'unended'});
state_is($node, $job, 'failed', 'a job that fails');
is(lines($job), 'info:no newline', 'the last line needs no newline');
like(job_field($node, $job, 'error'), qr/no newline/, '... and is part of the error');
$job = submit($node, q{'dirty'});
state_is($node, $job, 'succeeded', 'a job that writes what is no text');
is(lines($job), 'info:a?bc|info:|info:ä "x\y", {z}', '... which is made one');
$job = submit($node, q{'again', backoff => '1 ms'});
state_is($node, $job, 'succeeded', 'a job that needs two attempts');
is(lines($job, 1) . ' ' . lines($job, 2), 'info:attempt 1 info:attempt 2', '... each of which has its own');
$job = submit($node, q{'silent'});
state_is($node, $job, 'succeeded', 'a job that writes nothing');
is(lines($job), '', '... has no log');
$job = submit($node, q{'long'});
state_is($node, $job, 'succeeded', 'a job that writes a long line');
is($node->safe_psql('postgres', "SELECT string_agg(length(message)::text, ' ' ORDER BY at) FROM job_logs WHERE job_id = $job"),
	'16384 16384 7235', '... which is cut in pieces');
$job = submit($node, q{'many'});
state_is($node, $job, 'succeeded', 'a job that writes more lines than a log may have');
is($node->safe_psql('postgres', "SELECT count(*), count(*) FILTER (WHERE level = 'warning'), max(message) FILTER (WHERE level = 'warning') FROM job_logs WHERE job_id = $job"),
	'5001|1|further lines are dropped, for there are jobq.max_log_lines, 5000', '... has so many, and one that says so');
is($node->safe_psql('postgres', "SELECT bool_and(message = n::text) FROM (SELECT message, row_number() OVER (ORDER BY at) AS n FROM job_logs WHERE job_id = $job AND level = 'info') l"),
	't', '... in their order');

# while it runs
$job = submit($node, q{'live'});
ok(poll_until(sub { lines($job) eq 'info:begun' }), 'lines are there while the command runs');
append_to_file("$dir/go", '');
state_is($node, $job, 'succeeded', 'it goes on');
is(lines($job), 'info:begun|info:ended', '... and the rest is there at the end');

# one whose token is not good any more
unlink "$dir/go";
$job = submit($node, q{'live', max_lost => 1});
ok(poll_until(sub { lines($job) eq 'info:begun' }), 'another one runs');
$node->safe_psql('postgres', "SELECT job_take_back($job)");
append_to_file("$dir/go", '');
state_is($node, $job, 'failed', 'a job that was taken back');

# commands that write without end, and one that does not
submit($node, q{'flood', max_attempts => 1}) for 1 .. 3;
ok(poll_until(sub { $node->safe_psql('postgres', q{SELECT count(*) FROM job_logs WHERE message LIKE 'further lines%'}) >= 4 }),
	'logs that are full');
state_is($node, submit($node, q{'silent'}), 'succeeded', 'a job beside them');
ok(poll_until(sub { $node->safe_psql('postgres', q{SELECT count(*) FROM job_status WHERE kind = 'flood' AND state = 'running'}) == 3 }),
	'... is done while they go on');
append_to_file("$dir/stop", '');
ok(poll_until(sub { $node->safe_psql('postgres', q{SELECT count(*) FROM job_status WHERE kind = 'flood' AND state = 'succeeded'}) == 3 }),
	'... until they end');
is($node->safe_psql('postgres', q{SELECT max(n) FROM (SELECT count(*) AS n FROM job_logs GROUP BY job_id, attempt) l}), '5001',
	'no log has more lines than it may have');
$worker->signal('TERM');
is($worker->finish, 0, 'the worker leaves');
is(lines($job), 'info:begun', 'its worker can log no more');
is($node->safe_psql('postgres', "SELECT string_agg(DISTINCT state, ' ') FROM job_status WHERE id <> $job AND kind <> 'unended'"), 'succeeded', 'the others are well');

$node->stop;
done_testing();
