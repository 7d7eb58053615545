# Sessions that must not wait for one another: readers and new sessions for
# grants, grants for readers.  And one that does wait, for DROP EXTENSION, and
# then says what has happened, as it does in a server that has not loaded jobq;
# and one that takes long, and ends when it is asked to.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

# Who waits for a lock gets an error, except where a test says otherwise.
my $node = jobq_node('way', conf => "lock_timeout = 2s\nmax_prepared_transactions = 5\n");
my $c = JobqClient->new($node);

sub client
{
	return JobqClient->new($node, @_) // die 'no connection';
}

# One test: a statement does not wait, nor fail.
sub passes
{
	my ($client, $sql, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $r = $client->query($sql);
	return is($r->{sqlstate}, undef, $name) || (diag("$r->{message} by: $sql") && 0);
}

#
# Grants
#

my @roles = qw(reader submitter worker operator);
my %privilege = (reader => 'read', submitter => 'submit', worker => 'work', operator => 'operate');
foreach my $role (@roles, 'other')
{
	$c->rows("CREATE ROLE $role LOGIN");
	$c->rows("SELECT job_grant('$role', 'q', '$privilege{$role}')") if $privilege{$role};
}
$c->rows("SELECT job_submit('x', queue => 'q') FROM generate_series(1, 50)");
my %acts = (
	reader => [ 'SELECT count(*) FROM job_status', 'SELECT count(*) FROM job_queue_status', 'SELECT count(*) FROM job_attempts' ],
	submitter => [ "SELECT job_submit('x', queue => 'q')", 'SELECT count(*) FROM job_status' ],
	worker => [ "SELECT job_complete(job_id, token) FROM job_claim('q')", 'SELECT count(*) FROM job_status' ],
	operator => [ "SELECT job_hold(min(id)) FROM job_status WHERE state = 'ready'", "SELECT job_cancel(max(id)) FROM job_status WHERE state = 'ready'" ]);

foreach my $level ('READ COMMITTED', 'SERIALIZABLE')
{
	foreach my $role (@roles)
	{
		my $idle = client(user => $role);
		$idle->rows("BEGIN ISOLATION LEVEL $level");
		$idle->rows($_) foreach @{ $acts{$role} };
		passes($c, "SELECT job_grant('other', 'q', 'read')", "job_grant does not wait for an idle $role, $level");
		passes($c, "SELECT job_revoke('other', 'q', 'read')", '... nor does job_revoke');
		passes($c, "SELECT job_grant('$role', 'q2', '$privilege{$role}')", "... to the $role itself");
		passes($c, "SELECT job_revoke('$role', 'q2', '$privilege{$role}')", '... nor from it');
		$idle->rows('COMMIT');
		$idle->disconnect;
	}
}

# A grant or revocation that is not committed: neither those that are there,
# nor new sessions, wait for it.
foreach my $what ("job_grant('other', 'q', 'work')", "job_revoke('reader', 'q', 'read')", "job_grant('reader', '*', 'operate')")
{
	my %old = map { $_ => client(user => $_) } @roles;
	$old{$_}->rows($acts{$_}[0]) foreach @roles;
	$c->rows('BEGIN');
	$c->rows("SELECT $what");
	foreach my $role (@roles)
	{
		my $new = client(user => $role);
		my ($wrong, $n) = ('', 0);
		foreach my $act (@{ $acts{$role} })
		{
			foreach my $client ($old{$role}, $new)
			{
				my $r = $client->query($act);
				$wrong .= "$r->{sqlstate} $r->{message} by $act; " if $r->{sqlstate};
				$n++;
			}
		}
		is($wrong, '', "$n calls of the $role do not wait for an uncommitted $what");
		$_->disconnect foreach $new, $old{$role};
	}
	my $owner = client();
	passes($owner, "SELECT job_complete(job_id, token) FROM job_claim('q')", '... nor does the owner');
	$c->rows('ROLLBACK');
}
invariants_hold($node, 'after grants');

#
# DROP EXTENSION
#

my @calls = (
	"SELECT job_submit('x')", q(SELECT job_submit_many('[{"kind": "x"}]')), 'SELECT * FROM job_claim()', 'SELECT job_complete(1, 1)',
	'SELECT job_fail(1, 1)', 'SELECT job_heartbeat(1, 1)', 'SELECT job_release(1, 1)', 'SELECT job_cancel(1)', 'SELECT job_retry(1)',
	'SELECT job_hold(1)', 'SELECT job_result(1)', "SELECT job_queue_set('q', true)", "SELECT job_grant('reader', 'q', 'read')",
	"CALL job_wait(1, '1 s')", "CALL job_claim_wait('q', 'w', '1 s')", "SELECT * FROM job_complete_many('{1}', '{1}')");
$c->rows('CREATE DATABASE gone');
foreach my $known (0, 1)
{
	my $s1 = client(dbname => 'gone');
	$s1->rows('CREATE EXTENSION jobq');
	$s1->rows("SELECT job_submit('x')");
	# where the caller's session does not know the type yet, parsing waits, and
	# fails with the server's own error
	my @calls = grep { $known || !/FROM job_claim/ } @calls;
	my @s2 = map { client(dbname => 'gone') } @calls;
	foreach my $s2 (@s2)
	{
		$s2->rows("SET lock_timeout = '1 min'");
		$s2->rows('SELECT count(*) FROM job_status') if $known;
		$s2->rows("SELECT job_submit('x'), job_heartbeat(job_id, token) FROM job_claim()") if $known;
	}
	$s1->rows('BEGIN; DROP EXTENSION jobq');
	$s2[$_]->send($calls[$_]) foreach 0 .. $#calls;
	my $pids = join ',', map { $_->pid } @s2;
	ok(poll_until(sub { $c->value("SELECT count(*) FROM pg_stat_activity WHERE pid IN ($pids) AND wait_event_type = 'Lock'") == @calls }),
		'all calls wait for DROP EXTENSION');
	$s1->rows('COMMIT');
	foreach my $i (0 .. $#calls)
	{
		my $r = $s2[$i]->receive;
		is(($r->{sqlstate} // '') . ' ' . ($r->{hint} // ''), '55000 Run CREATE EXTENSION jobq.',
			($known ? 'in a session that has used jobq: ' : 'in a new session: ') . $calls[$i]) or diag($r->{message} // 'no error');
		note("$r->{message}") if $i == 0;
	}
	# when it is there again they work
	$s1->rows('CREATE EXTENSION jobq');
	is(scalar(grep { !$_->query("SELECT job_submit('x')")->{sqlstate} } @s2), scalar(@s2), 'the sessions go on when it is made again');
	$s1->rows('BEGIN; DROP EXTENSION jobq');
	$s2[0]->send("SELECT job_submit('x')");
	$s1->rows('ROLLBACK');
	is($s2[0]->receive->{sqlstate}, undef, 'and when it was not dropped after all');
	$_->disconnect foreach @s2;
	$s1->rows('DROP EXTENSION jobq');
	$s1->disconnect;
}

#
# A call that takes long: it can be cancelled on the way
#

my ($parents) = $c->value(q{SELECT array_agg(job_submit('x', queue => 'parents')) FROM generate_series(1, 100000)});
my $submit = "SELECT job_submit('x', depends_on => '$parents')";
my $begun = time;
passes($c, $submit, 'a job with 100,000 parents');
my $whole = time - $begun;
$c->rows('SET statement_timeout = ' . int(100 * $whole));
# of ten, one that nobody else's load keeps from it
my $soon = 0;
foreach (1 .. 10)
{
	$begun = time;
	last unless ($c->query($submit)->{sqlstate} // '') eq '57014';
	last if $soon = time - $begun < $whole / 2;
}
ok($soon, '... is cancelled before it is done');
$c->rows('RESET statement_timeout');
$c->rows("DELETE FROM job_ready WHERE lane = (SELECT queue_id FROM job_queue WHERE name = 'parents')");

#
# A server that has not loaded jobq
#

$c->rows("SELECT job_submit('x', queue => 'q'), job_claim('q')");
$c->disconnect;
$node->append_conf('postgresql.conf', "shared_preload_libraries = ''");
$node->restart;
$c = client();
$node->safe_psql('postgres', 'CREATE DATABASE not_loaded');
my (undef, undef, $warning) = $node->psql('not_loaded', 'CREATE EXTENSION jobq');
like($warning, qr/WARNING:  jobq is not loaded, and its functions refuse to work until it is\nHINT:  Add jobq to shared_preload_libraries/,
	'not loaded: CREATE EXTENSION warns');
foreach my $call (@calls)
{
	my $r = $c->query($call);
	is(($r->{sqlstate} // '') . ' ' . ($r->{hint} // ''),
		'55000 Add jobq to shared_preload_libraries in postgresql.conf and restart the server.', "not loaded: $call")
	  or diag($r->{message} // 'no error');
}
my $reader = client(user => 'reader');
foreach my $view (qw(job_status job_queue_status job_attempts job_worker_status))
{
	cmp_ok($c->value("SELECT count(v) FROM $view v"), '>', 0, "not loaded: the owner reads $view");
	cmp_ok($reader->value("SELECT count(v) FROM $view v"), '>', 0, '... and so does a reader');
}
$reader->disconnect;

unlike(slurp_file($node->logfile), qr/XX000|could not open relation|cache lookup failed|PANIC:|TRAP:/, 'nothing bad in the log');
$c->disconnect;
$node->stop;

done_testing();
