# Runs the workers of docs/clients.md, each in a database of its own: jobs are
# done, a failing one is tried again, heartbeats keep a long one and learn that
# it is cancelled or lost, and after SIGTERM what was begun is completed.  Those
# of README do jobs.  It installs nothing: a driver that is not there is skipped.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use POSIX ':sys_wait_h';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my $dir = PostgreSQL::Test::Utils::tempdir;
my $node = jobq_node('clients', conf => "listen_addresses = '127.0.0.1'");
my %text = map { $_ => slurp_file("$root/$_") } qw(README.md docs/clients.md);
my @running;
my $user = getpwuid($>);

chomp(my $modules = `npm root -g 2>/dev/null </dev/null` // '');
local $ENV{NODE_PATH} = "$modules:/usr/share/nodejs";
local $ENV{GOPATH} = '/usr/share/gocode';
local $ENV{GO111MODULE} = 'off';
my $jar = '/usr/share/java/postgresql.jar';
my ($pgx) = grep { -d "$ENV{GOPATH}/src/github.com/jackc/pgx/$_" } qw(v5 v4);
my ($python) = grep { succeeds("$_ -c 'import psycopg'") } qw(python3 /usr/bin/python3);

# The language of the code's block, a command that succeeds where it can be run
# (by default the program's name and --version), and how to run it.
my @clients = (
	{ name => 'psql', language => 'sh', needs => 'jq --version', run => ['sh'] },
	{ name => 'psycopg', language => 'python', needs => $python, run => [$python], readme => 1 },
	{ name => 'node-postgres', language => 'js', needs => q{node -e 'require("pg")'}, run => ['node'], readme => 1 },
	{ name => 'pgx', language => 'go', needs => $pgx && 'go version', build => [ 'go', 'build', '-o', "$dir/pgx" ] },
	{
		name => 'JDBC',
		language => 'java',
		needs => -e $jar && 'javac -version',
		run => [ 'java', '-cp', $jar ],
		url => sprintf('jdbc:postgresql://127.0.0.1:%d/jdbc?user=%s', $node->port, $user),
		status => 143
	},
	{ name => 'Ruby', language => 'ruby', needs => q{ruby -e 'require "pg"'}, run => ['ruby'] });

my (@here, @first);
foreach my $client (@clients)
{
  SKIP:
	{
		skip "$client->{name}: the driver is not here", 1 unless $client->{needs} && succeeds($client->{needs});
		prepare($client, 'docs/clients.md');
		push @here, $client;
		next unless $client->{readme};
		push @first, { %$client, name => "$client->{name} of README" };
		prepare($first[-1], 'README.md');
	}
}

# All at the same time: first each gets its jobs, then each is looked at.
all(sub { start($_); });
all(sub { waits($_); kill('TERM', $_->{pid}); });
all(sub { ends($_, 'SIGTERM ends it where it has nothing to do'); });
all(sub { start($_); });
all(sub { waits($_); });

all(sub {
	$_->{greet} = value($_, q{SELECT job_submit('greet', '{"name": "Ada"}')});
	$_->{odd} = value($_, q{SELECT job_submit('odd', max_attempts => 2, backoff => '1 ms')});
});
all(sub {
	becomes($_, "SELECT state || (result::text LIKE '%Ada%') FROM job_status WHERE id = $_->{greet}", 'succeededtrue', 'does a job');
	becomes($_, "SELECT state FROM job_status WHERE id = $_->{odd}", 'failed', 'a job can fail');
	becomes($_, <<"EOQ", 'failed true, failed true', 'it was tried again, and it is said why it failed');
SELECT string_agg(outcome || ' ' || (error <> ''), ', ' ORDER BY attempt) FROM job_attempts WHERE job_id = $_->{odd}
EOQ
});

all(sub { $_->{long} = value($_, q{SELECT job_submit('sleep', '{"seconds": 600}')}); });
all(sub {
	becomes($_, "SELECT lease_until > started_at + interval '62 s' FROM job_status WHERE id = $_->{long}", 't', 'heartbeats keep a long job');
	value($_, "SELECT job_cancel($_->{long}, 'enough')");
});
all(sub {
	becomes($_, "SELECT state || ' ' || error FROM job_status WHERE id = $_->{long}", 'cancelled enough', 'it stops when it is cancelled');
	$_->{lost} = value($_, q{SELECT job_submit('sleep', '{"seconds": 600}', max_lost => 1)});
});
all(sub {
	becomes($_, "SELECT state FROM job_status WHERE id = $_->{lost}", 'running', 'has another long one');
	becomes($_, "SELECT job_take_back($_->{lost})", 't', 'it is taken from it');
	$_->{next} = value($_, q{SELECT job_submit('greet', '{"name": "Bob"}')});
});
all(sub { becomes($_, "SELECT state FROM job_status WHERE id = $_->{next}", 'succeeded', 'it goes on with the next'); });

all(sub { value($_, q{SELECT job_submit('sleep', '{"seconds": 1}', tags => '"end"') FROM generate_series(1, 100)}); });
all(sub {
	becomes($_, q{SELECT count(*) > 0 FROM job_status WHERE tags = '"end"' AND state = 'running'}, 't', 'is at work');
	kill('TERM', $_->{pid});
});
all(sub {
	ends($_, 'SIGTERM ends it');
	becomes($_, q{SELECT string_agg(DISTINCT state, ' ' ORDER BY state) FROM job_status WHERE tags = '"end"'},
		'ready succeeded', 'what was begun is done, the rest is left');
	becomes($_, q{SELECT count(*) FROM job_status WHERE tags = '"end"' AND attempt > 1}, '0', 'nothing was done twice');
});

# Those of README, which know no more than this.
@here = @first;
all(sub { start($_); waits($_); });
all(sub {
	my $greet = value($_, q{SELECT job_submit('greet', '{"name": "Ada"}')});
	becomes($_, "SELECT state || result FROM job_status WHERE id = $greet", 'succeeded{"text": "Hello, Ada"}', 'does a job');
});

$node->stop;
done_testing();

# For each client that has not failed a test yet.
sub all
{
	my ($code) = @_;
	foreach my $client (grep { !$_->{failed} } @here)
	{
		$code->() for $client;
	}
	return;
}

sub succeeds
{
	my ($command) = @_;
	return system("$command >/dev/null 2>&1 </dev/null") == 0;
}

# Put the code into a file, with a heartbeat a second, and make a database.
sub prepare
{
	my ($client, $page) = @_;
	my $file = PostgreSQL::Test::Utils::tempdir . "/Worker.$client->{language}";
	my ($code) = $text{$page} =~ /^```$client->{language}\n(.*?)^```$/ms or die "no code for $client->{name}";
	$code =~ s/\b(beat *= *)20\b/${1}1/i or $page eq 'README.md' or die "no heartbeats in the code for $client->{name}";
	$code =~ s{/pgx/v5"}{/pgx/$pgx"};
	append_to_file($file, $code);
	command_ok([ @{ $client->{build} }, $file ], "$client->{name}: builds") if $client->{build};
	$client->{command} = $client->{run} ? [ @{ $client->{run} }, $file, $client->{url} // () ] : ["$dir/$client->{name}"];
	$client->{dbname} = lc($client->{name}) =~ s/\W/_/gr;
	$node->safe_psql('postgres', "CREATE DATABASE $client->{dbname}");
	value($client, 'CREATE EXTENSION jobq');
	return;
}

# Start it, in a process group of its own.
sub start
{
	my ($client) = @_;
	$client->{log} = "$PostgreSQL::Test::Utils::log_path/$client->{name}.log";
	$client->{pid} = fork // die "fork: $!";
	if ($client->{pid} == 0)
	{
		setpgrp;
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', $client->{log});
		open(STDERR, '>&', \*STDOUT);
		@ENV{qw(PGHOST PGPORT PGUSER PGDATABASE)} = ($node->host, $node->port, $user, $client->{dbname});
		{ exec(@{ $client->{command} }); }
		POSIX::_exit(126);
	}
	push @running, $client->{pid};
	return;
}

sub value
{
	my ($client, $sql) = @_;
	return $node->safe_psql($client->{dbname}, $sql);
}

# A test that it has looked for a job.
sub waits
{
	my ($client) = @_;
	return becomes($client, <<'EOQ', 't', 'waits for a job');
SELECT count(*) > 0 FROM pg_stat_activity
WHERE datname = current_database() AND query LIKE '%job_claim%' AND pid <> pg_backend_pid()
EOQ
}

# A test that it ends, with its status.
sub ends
{
	my ($client, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $status = 'none';
	poll_until(sub {
		return 0 if waitpid($client->{pid}, WNOHANG) == 0;
		$status = $?;
		return 1;
	});
	$client->{failed} = 1 unless is($status, ($client->{status} // 0) << 8, "$client->{name}: $name");
	return;
}

# A test that a query comes to this value.
sub becomes
{
	my ($client, $sql, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found;
	poll_until(sub { $found = value($client, $sql); return $found eq $expected; });
	return 1 if is($found, $expected, "$client->{name}: $name");
	diag("$client->{name} said:\n" . slurp_file($client->{log}));
	$client->{failed} = 1;
	return 0;
}

# None outlives its test, nor does what it started.
END
{
	my $exit = $?;
	kill('KILL', -$_) foreach @running;
	$? = $exit;
}
