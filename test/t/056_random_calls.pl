# Transactions of two to six calls, of any functions over one graph of jobs that
# changes all the time: in the order that docs/dependencies.md asks for, ends and
# cancellations first and submissions after them, none ends in a deadlock.
# JOBQ_SEED repeats the dice.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JSON::PP;
use List::Util qw(sum uniqnum);
use Test::More;
use Time::HiRes qw(time usleep);

my $clients = 12;
my $seconds = 15;
my $live = 60;
my $seed = $ENV{JOBQ_SEED} // 56;
note("JOBQ_SEED=$seed");
srand($seed);

my $node = jobq_node('random_calls');
my $control = JobqClient->new($node);

# Some that are undecided, which are few, so that calls meet.
my $some = "SELECT id FROM job WHERE outcome IS NULL AND queue = 'q' ORDER BY random() LIMIT";

# A job that depends on up to four others, decided ones now and then.
sub options
{
	my ($client) = @_;
	my @upstream = $client->rows("$some " . int(rand(5)));
	push @upstream, $client->rows('SELECT id FROM job WHERE outcome IS NOT NULL ORDER BY id DESC LIMIT 1') if rand() < 0.1;
	@upstream = uniqnum(map { $_->[0] + 0 } @upstream);
	my $rule = $RULES[ rand @RULES ];
	$rule = 'all_success' if rand() < 0.5 || ($rule eq 'quorum' && !@upstream);
	return (kind => 'k', queue => 'q', trigger_rule => $rule,
		@upstream ? (depends_on => \@upstream) : (),
		$rule eq 'quorum' ? (quorum => 1 + int(rand(@upstream))) : ());
}

sub submit_many
{
	my ($client, $n) = @_;
	return $client->rows('SELECT job_submit_many(' . JobqClient::quote(encode_json([ map { +{ options($client) } } 1 .. $n ])) . ')');
}

# What a call does; $held are the jobs of this session that run, with their tokens.
my @ends = (
	sub { my ($c, $held) = @_; push @$held, $c->rows("SELECT job_id, token FROM job_claim('q', max_jobs => 3)"); },
	sub { my ($c, $held) = @_; my $j = shift @$held // return; $c->rows("SELECT job_complete($j->[0], $j->[1])"); },
	sub { my ($c, $held) = @_; my $j = shift @$held // return; push @$held, $c->rows("SELECT job_id, token FROM job_next($j->[0], $j->[1])"); },
	sub { my ($c, $held) = @_; my $j = shift @$held // return; $c->rows("SELECT job_fail($j->[0], $j->[1], retry => false)"); },
	sub { my ($c, $held) = @_; my $j = shift @$held // return; $c->rows("SELECT job_release($j->[0], $j->[1])"); },
	sub {
		my ($c, $held) = @_;
		my @j = splice(@$held, 0, 3);
		$c->rows(sprintf('SELECT job_complete_many(ARRAY[%s]::bigint[], ARRAY[%s]::bigint[])', join(',', map { $_->[0] } @j), join(',', map { $_->[1] } @j)));
	},
	sub { my ($c, $held) = @_; $c->rows("SELECT job_heartbeat($_->[0], $_->[1], progress => '{}')") foreach @$held[ 0 .. (@$held ? 0 : -1) ]; },
	sub { my ($c) = @_; $c->rows("SELECT job_cancel($_->[0])") foreach $c->rows("$some 1"); });
my @submissions = (
	sub { my ($c) = @_; submit_many($c, 1); },
	sub { my ($c) = @_; submit_many($c, 3); });

# One transaction; returns the SQLSTATE of an error that it may get, or ''.
sub transaction
{
	my ($client, $held) = @_;
	my @mine = @$held;
	my $few = $client->value("SELECT count(*) FROM job WHERE queue = 'q' AND outcome IS NULL") < $live;
	my $n = 2 + int(rand(5));
	my $submit = int(rand($few ? $n + 1 : 2));
	eval {
		$client->rows('BEGIN ISOLATION LEVEL ' . (rand() < 0.2 ? 'REPEATABLE READ' : 'READ COMMITTED'));
		foreach my $call ((map { $ends[ rand @ends ] } $submit + 1 .. $n), (map { $submissions[ rand @submissions ] } 1 .. $submit))
		{
			$call->($client, \@mine);
			usleep(rand(4000));
		}
		$client->rows('COMMIT');
	};
	if (my $error = $@)
	{
		die $error if $error !~ /^(40P01|40001)/;
		my $state = $1;
		$client->rows('ROLLBACK');
		return $state;
	}
	@$held = @mine;
	return '';
}

my @results = run_clients(90, $clients, sub {
	my $client = JobqClient->new($node) // die 'no connection';
	my (@held, %n);
	my $end = time + $seconds;
	while (time < $end)
	{
		$n{ transaction($client, \@held) }++;
	}
	$client->rows("SELECT job_release($_->[0], $_->[1])") foreach @held;
	return \%n;
});
note(join ', ', map { my $s = $_; ($s || 'committed') . ': ' . sum(map { $_->{$s} // 0 } @results) } ('', '40001', '40P01'));
is(sum(map { $_->{'40P01'} // 0 } @results), 0, 'no deadlock');
cmp_ok(sum(map { $_->{''} } @results), '>', 10 * $clients, 'transactions have committed');

ok($node->poll_query_until('postgres',
	'SELECT NOT EXISTS (SELECT FROM job_cancel_request) AND NOT EXISTS (SELECT FROM job_delta) AND NOT EXISTS (SELECT FROM job_recount)'),
	'the background worker has counted all and cancelled all');
invariants_hold($node, 'after the calls');

# all others can be ended, too
ok(poll_until(sub {
	$control->rows("SELECT job_complete(job_id, token) FROM job_claim('q', max_jobs => 1000)");
	$control->value("SELECT NOT EXISTS (SELECT FROM job WHERE outcome IS NULL)") eq 't';
}), 'no job waits for ever');
invariants_hold($node, 'at the end');

done_testing();
