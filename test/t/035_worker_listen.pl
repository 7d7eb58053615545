# jobq-worker: whether notifications reach it, also through a pooler.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JobqWorker;
use PostgreSQL::Test::Utils;
use Test::More;

my $node = jobq_node('worker');

# Leave, when this was logged.
sub logs
{
	my ($worker, $pattern, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	ok($worker->wait_for_log($pattern), $name);
	$worker->signal('TERM');
	$worker->ends_with(0, 'leaves');
	return;
}

my @args = ('--listen', '--poll-interval', '1h', '--kind', 'm=true');
my $warned = qr/level=warning event=not_notified conn=wait error="no notification arrives, so jobs are looked for every 3600 s only \[.*--wait-dbname.*job_claim_wait\]"/;
my $worker = start_worker($node, @args);
logs($worker, qr/event=listening conn=wait/, 'a worker knows that notifications reach it');
unlike(slurp_file($worker->{log}), qr/event=not_notified/, '... and has no warning');

# It goes on knowing that when its connections were made again.
$worker = start_worker($node, @args);
ok($worker->wait_for_log(qr/event=listening/), 'a worker listens');
$node->restart;
ok($worker->wait_for_log(qr/connection_lost.*connected conn=wait/s), 'the server is back');
my $job = submit($node, q{'m'});
state_is($node, $job, 'succeeded', '... and the worker hears of a job');
$worker->signal('TERM');
$worker->ends_with(0, 'leaves');
is(scalar(() = slurp_file($worker->{log}) =~ /event=listening/g), 1, '... which it has found out once');

# Another database has other notifications.
$node->safe_psql('postgres', 'CREATE DATABASE elsewhere');
$node->safe_psql('elsewhere', 'CREATE EXTENSION jobq');
logs(start_worker($node, @args, '--wait-dbname', $node->connstr('elsewhere')),
	$warned, 'a worker that no notification reaches');

# A pooler that gives each transaction another session.
SKIP:
{
	my ($pgbouncer) = grep { -x } map { "$_/pgbouncer" } split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin';
	skip 'pgbouncer is not there', 7 unless defined $pgbouncer;

	my $dir = PostgreSQL::Test::Utils::tempdir_short;
	my ($host, $port, $user) = ($node->host, $node->port, scalar getpwuid($>));
	append_to_file("$dir/pgbouncer.ini", <<EOC);
[databases]
postgres = host=$host port=$port user=$user
[pgbouncer]
listen_port = 6432
unix_socket_dir = $dir
auth_type = any
pool_mode = transaction
EOC
	my $pooler = fork // die "fork: $!";
	if ($pooler == 0)
	{
		open(STDOUT, '>', "$dir/log");
		open(STDERR, '>&', \*STDOUT);
		exec($pgbouncer, "$dir/pgbouncer.ini");
		POSIX::_exit(126);
	}
	my $pooled = "host=$dir port=6432 dbname=postgres";
	ok(poll_until(sub { -S "$dir/.s.PGSQL.6432" }), 'a pooler runs') or diag(slurp_file("$dir/log"));

	logs(start_worker($node, @args, '--dbname', $pooled), $warned, 'a worker whose LISTEN goes through a pooler');
	logs(start_worker($node, @args, '--dbname', $pooled, '--wait-dbname', $node->connstr('postgres')),
		qr/event=listening/, '... only its other connections do');

	$worker = start_worker($node, '--dbname', $pooled, '--poll-interval', '1h', '--kind', 'm=true');
	ok($node->poll_query_until('postgres', q{SELECT count(*) = 1 FROM pg_stat_activity
		WHERE query ~ '^CALL' AND wait_event_type = 'Extension'}), '... one that waits by job_claim_wait');
	$job = submit($node, q{'m'});
	state_is($node, $job, 'succeeded', '... has its jobs at once');
	$worker->signal('TERM');
	$worker->ends_with(0, 'leaves');
	kill('TERM', $pooler);
	waitpid($pooler, 0);
}

$node->stop;
done_testing();
