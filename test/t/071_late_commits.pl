# What falls due before it is committed: the worker has looked at that time
# and seen nothing.  It must look again at the commit, not at the next sweep,
# which the settings put off for longer than this test takes.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

my $node = jobq_node('late', conf => "jobq.sweep_interval = '10min'\nmax_prepared_transactions = 5\n");
my $c = JobqClient->new($node);
my $open = JobqClient->new($node);
$c->rows("SELECT job_submit('first use')");

sub state_within
{
	my ($id, $state, $name) = @_;
	my $found = '';
	within(5, sub { ($found = $c->value("SELECT state FROM job_status WHERE id = $id")) eq $state });
	return is($found, $state, $name);
}

foreach my $how ('COMMIT', 'a savepoint and COMMIT', 'COMMIT PREPARED', 'COMMIT PREPARED elsewhere')
{
	my $begin = $how =~ /savepoint/ ? 'BEGIN; SAVEPOINT s' : 'BEGIN';
	my $commit =
	    $how =~ /PREPARED/ ? "PREPARE TRANSACTION 'p'"
	  : $how =~ /savepoint/ ? 'RELEASE s; COMMIT'
	  : 'COMMIT';
	my $finish = sub {
		clock_passes($c);
		$open->rows($commit);
		return if $how !~ /PREPARED/;
		my $who = $how =~ /elsewhere/ ? JobqClient->new($node) : $open;
		$who->rows("COMMIT PREPARED 'p'");
	};

	$open->rows($begin);
	my $due = $open->value("SELECT job_submit('due', run_at => clock_timestamp() + interval '50 ms')");
	my $expires = $open->value("SELECT job_submit('expires', run_at => now() + interval '1 h', expires_at => clock_timestamp() + interval '50 ms')");
	my $ready = $open->value("SELECT job_submit('ready', queue => 'waited')");
	$finish->();
	state_within($due, 'ready', "a job that was due before $how");
	state_within($expires, 'cancelled', "one that expired before $how");
	my $got = $c->query("CALL job_claim_wait('waited', 'w', '5 s')");
	is($got->{rows}[0][0], $ready, 'one that is ready can be claimed');
	$c->rows("SELECT job_complete($got->{rows}[0][0], $got->{rows}[0][1])");

	next if $how =~ /PREPARED/;          # claims refuse that
	my $id = $c->value("SELECT job_submit('lease', queue => 'lease', lease => '50 ms', max_lost => 1)");
	my $timed = $c->value("SELECT job_submit('timed', queue => 'lease', timeout => '50 ms', max_attempts => 1)");
	my $snoozed = $c->value("SELECT job_submit('snoozed', queue => 'snoozed')");
	my $failed = $c->value("SELECT job_submit('failed', queue => 'snoozed')");
	$open->rows($begin);
	$open->rows("SELECT * FROM job_claim('lease', max_jobs => 2)");
	$open->rows("SELECT job_snooze(job_id, token, '50 ms') FROM job_claim('snoozed')");
	$open->rows("SELECT job_fail(job_id, token, retry_in => '50 ms') FROM job_claim('snoozed')");
	$finish->();
	state_within($id, 'failed', "a lease that ran out before $how");
	state_within($timed, 'failed', "an attempt that timed out before $how");
	state_within($snoozed, 'ready', "one whose snooze was over before $how");
	state_within($failed, 'ready', "one whose delay was over before $how");
	$c->rows("SELECT job_complete(job_id, token) FROM job_claim('snoozed', max_jobs => 9)");
}

# A deadline that the worker cannot act on at its time, as somebody has the row
# locked: it goes on with the others, and comes back.
my $held = $c->value("SELECT job_submit('held', queue => 'x', run_at => clock_timestamp() + interval '100 ms')");
my $lease = $c->value("SELECT job_submit('lease', queue => 'y', lease => '100 ms', max_lost => 1)");
my $child = $c->value("SELECT job_submit('child', depends_on => ARRAY[$lease])");
$open->rows('BEGIN');
$open->rows("SELECT * FROM job_scheduled WHERE job_id = $held FOR UPDATE");
# the end of the lost lease does not wait for this
$open->rows("SELECT * FROM job_waiting WHERE job_id = $child FOR UPDATE");
$c->rows("SELECT * FROM job_claim('y')");
clock_passes($c);
is($c->value("SELECT state FROM job_status WHERE id = $held"), 'scheduled', 'a row that is locked is left alone');
is($c->value("SELECT state FROM job_status WHERE id = $lease"), 'failed', 'one whose child is locked is not');
is($c->value("SELECT state FROM job_status WHERE id = $child"), 'waiting', 'the child waits');
$open->rows('COMMIT');
state_within($held, 'ready', 'then it is moved');
state_within($child, 'upstream_failed', 'and the child is decided');

# A heartbeat that is not yet committed keeps the worker from ending the lease.
my $beat = $c->value("SELECT job_submit('beat', queue => 'beat', lease => '300 ms', max_lost => 1)");
my ($claim) = $c->rows("SELECT job_id, token FROM job_claim('beat')");
$open->rows('BEGIN');
is($open->value("SELECT job_heartbeat($beat, $claim->[1], '1 h', '{\"p\": 1}')"), 't', 'a long heartbeat in a transaction');
clock_passes($c);
is($c->value("SELECT state FROM job_status WHERE id = $beat"), 'running', 'holds the lease');
$open->rows('COMMIT');
clock_passes($c);
is($c->value("SELECT state || (lease_until > now() + interval '50 min')::text FROM job_status WHERE id = $beat"), 'runningtrue', 'and prolongs it');
$c->rows("SELECT job_complete($beat, $claim->[1])");
# the same rolled back: the lease has run out long since
$beat = $c->value("SELECT job_submit('beat', queue => 'beat', lease => '300 ms', max_lost => 1)");
($claim) = $c->rows("SELECT job_id, token FROM job_claim('beat')");
$open->rows('BEGIN');
$open->value("SELECT job_heartbeat($beat, $claim->[1], '1 h')");
clock_passes($c);
$open->rows('ROLLBACK');
state_within($beat, 'failed', 'unless it is rolled back');

invariants_hold($node, 'at the end');
done_testing();
