# More leases than shared memory has entries for heartbeats: the others write
# their rows, and no lease is lost while its holder beats, or kept when it stops.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time usleep);

foreach my $entries (1, 30, 100000)
{
	my $node = jobq_node("entries$entries", conf => "jobq.max_heartbeats = $entries");
	my $c = JobqClient->new($node);
	# whatever the setting is, each partition has room for some
	$c->rows("SELECT job_submit('full', queue => 'full', lease => '1 h') FROM generate_series(1, 900)");
	$c->rows("SELECT * FROM job_claim('full', 'full', 900)");
	my $used = $c->value("SELECT used FROM job_memory WHERE part = 'heartbeats'");
	ok($entries < 900 ? $used < 600 : $used == 900, "$used of 900 leases are in memory");
	$c->rows("SELECT job_submit('x', lease => '3 s', max_lost => 1) FROM generate_series(1, 120)");
	$c->rows("SELECT job_submit('idle', queue => 'idle', lease => '3 s', max_lost => 1) FROM generate_series(1, 20)");
	$c->rows("SELECT * FROM job_claim('idle', 'nobody', 20)");
	my $until = time + 7;
	my @beats = run_clients(60, 3, sub {
		my $client = JobqClient->new($node);
		my @mine = $client->rows("SELECT job_id, token FROM job_claim('default', 'w', 40)");
		my ($beats, @refused) = (0);
		while (time < $until)
		{
			my $calls = join '; ', map {
				"SELECT job_heartbeat($_->[0], $_->[1]" . ($_->[0] % 7 == 0 ? ", progress => '{\"n\": $beats}')" : ')')
			} @mine;
			my $r = $client->query($calls);
			push @refused, "$r->{sqlstate} $r->{message}" if $r->{sqlstate};
			$beats++;
			usleep(300_000);
		}
		return { beats => $beats, refused => \@refused, claims => \@mine };
	});
	is(join(' ', map { @{ $_->{refused} } } @beats), '', "with $entries entries no heartbeat is refused");
	is($c->value("SELECT count(*) FROM job_lease WHERE worker = 'w'"), 120, 'no lease is lost');
	is($c->value("SELECT count(*) FROM job_status WHERE queue = 'idle' AND state = 'failed' AND lost = 1"), 20, 'but those without heartbeats are');
	cmp_ok($c->value("SELECT count(*) FROM job_status WHERE kind = 'x' AND state = 'running' AND lease_until > now()"), '==', 120, 'the view knows');

	# Half of them complete, the others stop beating.
	my @claims = map { @{ $_->{claims} } } @beats;
	my @half = splice(@claims, 0, 60);
	$c->rows('SELECT job_complete(' . join(', ', @$_) . ')') foreach @half;
	ok(within(15, sub { $c->value("SELECT count(*) FROM job_status WHERE kind = 'x' AND state = 'failed' AND lost = 1") == 60 }),
		'leases run out when the heartbeats stop');
	is($c->value("SELECT count(*) FROM job_status WHERE kind = 'x' AND state = 'succeeded'"), 60, 'what was completed stays so');
	invariants_hold($node, "with $entries entries");
	$node->stop;
}
done_testing();
