# Sixteen clients do everything at random, some of them are killed, and the
# tables are rewritten under them.  Then every record of what was acknowledged
# must be found, and no job may have been held twice at once.
# JOBQ_STRESS_SECONDS says how long (30), JOBQ_SEED repeats the dice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqLoad;
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $seconds = $ENV{JOBQ_STRESS_SECONDS} // 30;
my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('stress', conf => <<'EOC');
restart_after_crash = on
autovacuum_naptime = 1s
max_wal_size = 1GB
EOC
my $until = time + $seconds;

my @clients = start_clients(16, sub { return JobqLoad::run($node, $_[0], until => $until) });

# What a DBA does at the worst moment
my ($dba) = start_clients(
	1,
	sub {
		my %done;
		my $client;
		my @tables = qw(job_waiting job_delta job_recount job_scheduled job_ready job_lease job_expiry);
		while (time < $until)
		{
			$client = JobqClient->new($node, name => 'dba') unless $client && $client->connected;
			if (!$client)
			{
				usleep(50_000);
				next;
			}
			my $table = $tables[ rand @tables ];
			my @acts = (
				"VACUUM $table", "VACUUM (FREEZE) $table", "VACUUM FULL $table", "REINDEX TABLE CONCURRENTLY $table",
				"ANALYZE $table", 'VACUUM job', 'VACUUM job_dependency', 'REINDEX TABLE CONCURRENTLY job_dependency');
			my $act = $acts[ rand @acts ];
			my $r = $client->query($act);
			next if $r->{lost} || ($r->{sqlstate} // '') =~ /^(40|57P0)/;
			die "$act: $r->{sqlstate} $r->{message}" if $r->{sqlstate};
			$done{ ($act =~ /^(.*) /)[0] }++;
			usleep(20_000);
		}
		return \%done;
	});

# Now and then a session is ended, rarely a process is killed and with it all
# others, after which the server starts again; claims of just before may be
# lost then.
my ($killer) = start_clients(
	1,
	sub {
		my %done = (ended => 0, killed => 0, crashes => []);
		my $next_crash = time + $seconds / 5;
		while (time < $until - 2)
		{
			usleep(500_000);
			my $client = JobqClient->new($node, name => 'killer') or next;
			if (time > $next_crash)
			{
				$next_crash += $seconds / 3;
				my $r = $client->query(q(SELECT pid FROM pg_stat_activity WHERE application_name ~ '^load'
					ORDER BY random() LIMIT 1));
				next if $r->{lost} || !@{ $r->{rows} };
				my $from = time;
				$done{killed} += kill('KILL', $r->{rows}[0][0]);
				# until everybody has noticed, and it is there again
				within(10, sub { $client->query('SELECT 1')->{lost} });
				within(60, sub { JobqClient->new($node, name => 'killer') });
				push @{ $done{crashes} }, [ $from, time ];
			}
			else
			{
				my $r = $client->query(q(SELECT pg_terminate_backend(pid) FROM pg_stat_activity
					WHERE application_name ~ '^load' AND state <> 'idle' ORDER BY random() LIMIT 1));
				$done{ended} += @{ $r->{rows} };
			}
		}
		return \%done;
	});

my @logs = finish_clients($seconds + 100, @clients);
my ($maintained) = finish_clients(60, $dba);
my ($killed) = finish_clients(60, $killer);
note(join ', ', map { "$_: $maintained->{$_}" } sort keys %$maintained);
note("sessions ended: $killed->{ended}, killed: $killed->{killed}");
ok($killed->{ended} > 0 && $killed->{killed} > 0, 'sessions were ended and killed');
ok((grep { /FULL/ } keys %$maintained) && (grep { /REINDEX/ } keys %$maintained), 'tables were rewritten');

invariants_hold($node, 'when the load has ended');
is($node->safe_psql('postgres', <<'EOQ'), 't', 'submitted = succeeded + failed + cancelled + skipped + upstream_failed + undecided');
SELECT (SELECT count(*) FROM job) = sum(n) FROM (
    SELECT count(*) AS n FROM job_status WHERE state IN ('succeeded', 'failed', 'cancelled', 'skipped', 'upstream_failed')
    UNION ALL SELECT waiting + scheduled + ready + running FROM job_queue_status) x
EOQ

# Nothing stays unclaimed: of each queue one client takes all that there is.
# The background worker adds to it meanwhile, so only what was there before is
# counted, and not what it is about to cancel.
my $c = JobqClient->new($node);
$c->rows('CREATE TABLE there AS SELECT job_id, position, expires_at FROM job_ready');
push @logs, run_clients(60, scalar(@JobqLoad::QUEUES), sub {
	my ($i) = @_;
	my $client = JobqClient->new($node, name => "taker $i");
	my @claims;
	while (my @rows = $client->retry_rows("SELECT job_id, token, attempt, extract(epoch FROM lease_until), args ? 'timeout' "
			  . "FROM job_claim('$JobqLoad::QUEUES[$i]', 'taker $i', " . (1 + int(rand(20))) . ", '1 h')"))
	{
		push @claims, map {
			+{
				id => $_->[0], token => $_->[1], attempt => $_->[2], until => $_->[3], timeout => $_->[4] eq 't',
				from => time, name => "taker $i"
			}
		} @rows;
	}
	foreach my $claim (@claims)
	{
		$claim->{end} = time;
		# one that times out meanwhile is stale
		my $r = { sqlstate => '40001' };
		$r = $client->query("SELECT job_complete($claim->{id}, $claim->{token})") while ($r->{sqlstate} // '') =~ /^40/;
		$claim->{ended} = 'succeeded' unless $r->{sqlstate};
		die "$r->{sqlstate} $r->{message}" if ($r->{sqlstate} // 'JQ001') ne 'JQ001';
	}
	return {
		name => "taker $i", submitted => {}, doubtful => 0, errors => [], states => {}, claims => \@claims,
		completed => { map { $_->{id} => $_->{token} } grep { $_->{ended} } @claims }
	};
});
note($c->value('SELECT count(*) FROM there') . ' jobs were ready when the load had ended');
is($c->value(<<'EOQ'), 0, 'no ready job stays unclaimed');
SELECT count(*) FROM there JOIN job_ready r USING (job_id, position)
WHERE (r.expires_at > now() OR r.expires_at IS NULL OR r.attempt > 0)
EOQ
$c->disconnect;

my $rest = JobqLoad::drain($node, 90);
ok($rest, 'every job is decided in the end');
push @logs, $rest if $rest;
JobqLoad::compare($node, 'stress', \@logs, crashes => $killed->{crashes});
invariants_hold($node, 'at the end');

# a reindex that was cut off leaves an index that is not valid, as documented
$node->safe_psql('postgres', $_)
  foreach split /\n/, $node->safe_psql('postgres', <<'EOQ');
SELECT 'DROP INDEX ' || indexrelid::regclass FROM pg_index WHERE NOT indisvalid
EOQ
tables_are_sound($node, 'at the end');
is($node->safe_psql('postgres', 'SELECT count(*) FROM job_ready'), 0, 'no job is ready');

my @due = backend_pids($node, '^jobq (launcher|worker)$');
is(scalar(@due), 2, 'the launcher and the worker live');

done_testing();
