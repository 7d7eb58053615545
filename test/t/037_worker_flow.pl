# jobq-worker --flow: it takes the members of one flow alone, prints what happens in it, and
# with --until-idle ends when nothing of it can go on, saying what it waits for.
# JOBQ_SEED repeats the dice of the last part.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use JobqWorker;
use JSON::PP;
use POSIX ();
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = jobq_node('worker_flow', conf => "jobq.sweep_interval = 5s");
my $dir = PostgreSQL::Test::Utils::tempdir;
my $json = JSON::PP->new->canonical;

# what commands connect to
$ENV{PGHOST} = $node->host;
$ENV{PGPORT} = $node->port;
$ENV{PGDATABASE} = 'postgres';
# the worker of a command that is a worker itself
$ENV{JOBQ_FLOW} = 'not this';

sub query { return $node->safe_psql('postgres', $_[0]); }

sub submit_flow
{
	my ($flow) = @_;
	return query('SELECT job_submit_flow($flow$' . $json->encode($flow) . '$flow$)');
}

# A member, and more of it.
sub member
{
	my ($name, %more) = @_;
	return { name => $name, $more{jobs} || $more{map} ? () : (kind => 'say'), %more };
}

my @kinds = (
	'--kind' => 'say=echo "$JOBQ_FLOW"',
	'--kind' => 'fail=echo "no luck" >&2; exit 1',
	'--kind' => 'again=test "$JOBQ_ATTEMPT" -ge 2 || { echo "not yet" >&2; exit 1; }',
	'--kind' => "wait=touch $dir/begun.\$JOBQ_JOB_ID; until test -e $dir/go; do sleep 0.02; done",
	'--kind' => 'log=psql -XAtqc "SELECT job_log($JOBQ_JOB_ID, $JOBQ_TOKEN, m, l, d) FROM (VALUES (\'one\', \'info\', NULL), (E\'two\\nthree\\x1b[31m\\u009b\', \'warning\', \'{\"n\": 2}\'::jsonb)) v (m, l, d)" >/dev/null');

# A worker of a flow, until nothing can go on.
sub start_flow
{
	my ($flow, @args) = @_;
	my ($until) = grep { /^--until-idle/ } @args;
	return start_worker($node, '--flow', $flow, $until ? () : '--until-idle', @kinds, @args);
}

sub state_of { return query("SELECT state FROM job_status WHERE id = $_[0]"); }

# The lines that say what members wait for.
sub waits { return join "\n", grep { /: waits: / } split /\n/, $_[0]->printed; }

# What is told of one member.
sub told_of
{
	my ($w, $name) = @_;
	return join "\n", map { /^\Q$name\E(: .*|\| .*)/ ? $1 : () } split /\n/, $w->printed;
}

#
# Success, in order
#

my $other = submit($node, q{'say'});
my $flow = submit_flow({ name => 'plain', args => { x => 1 }, jobs => [
	member('a'), member('b', depends_on => ['a'], queue => 'second'), member('left out', if => '$.x == 2'), member('after', depends_on => ['left out']),
	member('c', depends_on => ['b'], kind => 'log') ] });
my $worker = start_flow($flow, '--worker', 'w 1');
$worker->ends_with(0, 'a flow that succeeds');
is($worker->printed, <<"EOO", '... is told line by line, with the lines of its logs');
plain: flow $flow is running; members: 5, 2 waiting, 1 ready, 2 skipped
a: started
a: succeeded
b: started
b: succeeded
c: started
c| one
c| warning: two
c| three\\x1b[31m\\x9b {"n": 2}
c: succeeded
plain: succeeded
EOO
like(slurp_file($worker->{out}), qr/^(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \S.*\n)+$/, '... each line with its time');
is(job_field($node, $other, 'state'), 'ready', 'a job outside is left alone');
is(query("SELECT string_agg(result::text, ' ' ORDER BY id) FROM job_status WHERE flow = $flow AND kind = 'say' AND state = 'succeeded'"), "$flow $flow",
	'JOBQ_FLOW is the flow');
is(start_flow($flow)->finish, 0, 'one that has succeeded before');

# JOBQ_FLOW elsewhere: by a claim that waits, one of several queues, and not for what is no member
my $inner = submit_flow({ name => 'elsewhere', jobs => [ member('sub', jobs => [ member('x', queue => 'elsewhere') ]) ] });
ok(poll_until(sub { query("SELECT count(*) FROM job_status WHERE name = 'x'") == 1 }), 'a flow inside starts');
my $plain = start_worker($node, '--queue', 'elsewhere', '--kind', 'say=echo "\"${JOBQ_FLOW-none}\""');
my $sub = query("SELECT id FROM job_status WHERE name = 'sub'");
ok(poll_until(sub { query("SELECT result FROM job_status WHERE name = 'x'") eq qq("$sub") }), 'JOBQ_FLOW by job_claim_wait: the innermost');
my $none = submit($node, q{'say', queue => 'elsewhere'});
state_is($node, $none, 'succeeded', 'a job that is no member');
is(job_field($node, $none, 'result'), '"none"', '... has no JOBQ_FLOW, whatever the worker was given');
$plain->signal('TERM');
$plain->ends_with(0, 'its worker leaves');

#
# Failure
#

$flow = submit_flow({ name => 'fails', jobs => [ member('bad', kind => 'fail', max_attempts => 1, depends_on => ['fine']), member('then', depends_on => ['bad']), member('fine', priority => 1) ] });
$worker = start_flow($flow, '--log');
$worker->ends_with(3, 'a flow that fails');
is($worker->printed, <<"EOO", '... and why');
fails: flow $flow is running; members: 3, 2 waiting, 1 ready
fine: started
fine: succeeded
bad: started
bad| no luck
bad: failed: command exited with status 1
bad: no luck
then: upstream_failed
fails: failed: member "bad", job @{[query("SELECT id FROM job_status WHERE name = 'bad'")]}, failed
EOO
is(start_flow($flow)->finish >> 8, 3, 'one that has failed before');
query("SELECT job_retry($flow)");
$worker = start_flow($flow);
$worker->ends_with(3, 'retried, it fails again');
like($worker->printed, qr/^bad: started, attempt 2\n/m, '... by its next attempt');

# A retry that comes while it is at work
$flow = submit_flow({ name => 'reopened', jobs => [ member('bad', kind => 'fail', max_attempts => 1), member('long', kind => 'wait') ] });
unlink "$dir/go";
$worker = start_flow($flow, '--concurrency', 2);
ok($worker->wait_for_output(qr/^bad: failed/m), 'a member fails');
query("SELECT job_retry(id) FROM job_status WHERE flow = $flow AND name = 'bad'");
ok($worker->wait_for_output(qr/^bad: opened again\nbad: started, attempt 2\nbad: failed/m), '... is opened again, and fails again');
append_to_file("$dir/go", '');
$worker->ends_with(3, '... and so does the flow');

# Cancelled
$flow = submit_flow({ name => 'cancelled', jobs => [ member('long', kind => 'wait'), member('then', depends_on => ['long']) ] });
unlink "$dir/go";
$worker = start_flow($flow, '--heartbeat', '100ms');
ok($worker->wait_for_output(qr/^long: started/m), 'a member runs');
query("SELECT job_cancel($flow, 'no longer wanted')");
$worker->ends_with(3, 'a flow that is cancelled');
like($worker->printed, qr/^then: cancelled: no longer wanted$/m, '... with its members');
like($worker->printed, qr/^long: cancelled/m, '... also the one that ran');
like($worker->printed, qr/^cancelled: cancelled: no longer wanted\n\z/m, '... which ends it');

#
# Flows in flows, retries, growth
#

$flow = submit_flow({ name => 'deep', jobs => [
	member('first'), member('one', depends_on => ['first'], jobs => [
		member('in', queue => 'third'), member('two', depends_on => ['in'], jobs => [ member('again', kind => 'again', backoff => '1500 ms', queue => 'fourth') ]),
		member('empty', jobs => []) ]),
	member('last', depends_on => ['one'], run_in => '1 s') ] });
$worker = start_flow($flow, '--log');
$worker->ends_with(0, 'a flow with flows in it, an attempt that fails, and a time soon');
my $printed = $worker->printed;
like($printed, qr{^one: started\n(?:.*\n)*one/in: started\n(?:.*\n)*one/in: succeeded\n(?:.*\n)*one/two: started\n}m, 'members have the names of the flows around them');
like(told_of($worker, 'one/two/again'), qr{^: started\n\| not yet\n: attempt 1 failed(?:, the next begins in 1\.\d s)?: command exited with status 1\n: not yet\n: started, attempt 2\n: succeeded$},
	'a retry is waited for');
is(told_of($worker, 'one/empty'), ": started\n: succeeded", 'a flow that ends as it starts');
like($printed, qr{^one: succeeded\n(?:.*\n)*last: started\nlast: succeeded\ndeep: succeeded\n\z}m, 'the end');

# Lines are in the order of time, also where flows start and end between two looks.
sub in_order
{
	my ($w, $what) = @_;
	my @stamps = slurp_file($w->{out}) =~ /^(\S+)/mg;
	is(join("\n", @stamps), join("\n", sort @stamps), "$what, in the order of time");
}

in_order($worker, 'flows in flows');
$flow = submit_flow({ name => 'many', max_running => 2, jobs => [ map { member("f$_", jobs => [ member('a'), member('b', depends_on => ['a'], jobs => [ member('c') ]) ]) } 1 .. 12 ] });
$worker = start_flow($flow, '--concurrency', 4);
$worker->ends_with(0, 'many flows, one after the other');
in_order($worker, '... are told');
is(() = $worker->printed =~ m{^f\d+/b/c: succeeded$}mg, 12, '... with all that is in them');

# Maps: items have no names
$flow = submit_flow({ name => 'mapped', jobs => [
	member('each', canary => 1, map => [ 1, 2 ], job => { kind => 'say', hold => JSON::PP::true }), member('outer', map => [ [ 1 ] ], job => { map => { '$item' => '$' }, job => { kind => 'say' } }) ] });
ok(poll_until(sub { query("SELECT count(*) FROM job i JOIN job m ON m.id = i.flow WHERE m.flow = $flow AND m.name = 'each'") == 2 }), 'a map starts');
my @items = split /\n/, query("SELECT i.id FROM job i JOIN job m ON m.id = i.flow WHERE m.flow = $flow AND m.name = 'each' ORDER BY i.id");
$worker = start_flow($flow);
$worker->ends_with(4, 'a map whose items are held');
is(join("\n", sort split /\n/, waits($worker)), join("\n", map { "each/say $_: waits: It is held. [job_unhold($_) lets it go on.]" } @items), '... says what they wait for');
like($worker->printed, qr{^outer/map \d+/say \d+: succeeded$}m, '... after it has done the others, also in a map of maps');
query("SELECT job_unhold(unnest(ARRAY[" . join(', ', @items) . "]))");
$worker = start_flow($flow);
$worker->ends_with(0, 'where they are not');
is(told_of($worker, "each/say $_"), ": started\n: succeeded", '... they are told') foreach @items;
in_order($worker, '... each');

# A member adds members, in a queue that nobody has heard of, until there are enough.
my $grow = q{grow=psql -XAtq -v ON_ERROR_STOP=1 -v args="$(cat)" <<END
BEGIN;
SELECT job_submit('grow', queue => 'grown' || (n + 1), flow => $JOBQ_FLOW, name => 'grown ' || (n + 1), args => jsonb_build_object('n', n + 1), depends_on => ARRAY[$JOBQ_JOB_ID])
FROM (SELECT (:'args'::jsonb ->> 'n')::int) a (n) WHERE n < 5;
SELECT job_complete($JOBQ_JOB_ID, $JOBQ_TOKEN);
COMMIT;
END
};
$flow = submit_flow({ name => 'grows', jobs => [ member('grown 0', kind => 'grow', args => { n => 0 }) ] });
$worker = start_flow($flow, '--output', 'discard', '--kind', $grow);
$worker->ends_with(0, 'a flow that grows');
is(join(' ', $worker->printed =~ /^(grown \d): succeeded$/mg), 'grown 0 grown 1 grown 2 grown 3 grown 4 grown 5', '... is done to its end');

#
# What it cannot bring about
#

# A breakpoint
$flow = submit_flow({ name => 'held', jobs => [ member('a'), member('b', hold => JSON::PP::true, depends_on => ['a']), member('c', depends_on => ['b']) ] });
my ($b) = query("SELECT id FROM job_status WHERE flow = $flow AND name = 'b'");
$worker = start_flow($flow);
$worker->ends_with(4, 'a flow with a breakpoint');
is($worker->printed, <<"EOO", '... says what it waits for, and what that keeps waiting');
held: flow $flow is running; members: 3, 2 waiting, 1 ready
a: started
a: succeeded
b: waits: It is held. [job_unhold($b) lets it go on.]
held: 1 more waits only for others in the flow
held: not decided, and nothing can go on
EOO
query("SELECT job_unhold($b)");
$worker = start_flow($flow);
$worker->ends_with(0, '... and goes on where that is lifted');
is($worker->printed, <<"EOO", '... telling what happens from then on');
held: flow $flow is running; members: 3, 1 waiting, 1 ready, 1 succeeded
b: started
b: succeeded
c: started
c: succeeded
held: succeeded
EOO

# A flow that is waited with: the other things at once
query("SELECT job_queue_set('paused', paused => true)");
my $outside = submit($node, q{'say', queue => 'outside', name => 'outside'});
$flow = submit_flow({ name => 'all', jobs => [
	member('fine'), member('approval', manual => JSON::PP::true), member('paused', queue => 'paused'), member('far', run_in => '2 min'),
	member('beside', depends_on => [ int($outside) ]), member('gpu', requires => ['gpu']), member('sub', hold => JSON::PP::true, jobs => [ member('x') ]),
	member('then', depends_on => ['fine', 'approval']) ] });
$worker = start_flow($flow);
$worker->ends_with(4, 'a person, a pause, a time, a job outside, a label');
$printed = waits($worker);
like($printed, qr/^approval: waits: Nobody runs it: it waits for a decision\./m, 'a person');
like($printed, qr/^paused: waits: Queue "paused" is paused/m, 'a queue that is paused');
like($printed, qr/^far: waits: It is scheduled for /m, 'a time that is far');
like($printed, qr/^beside: waits: Job $outside \(outside\) is ready\./m, 'a job outside');
like($printed, qr/^gpu: waits: It requires gpu/m, 'a label');
like($printed, qr/^sub: waits: It is held\./m, 'a flow inside that is held');
unlike($printed, qr/^(all|fine): waits/m, 'not what waits for these alone, or is done');
unlike($printed, qr/^then: waits/m, '... nor what waits for others');
like($worker->printed, qr/^all: 1 more waits only for others in the flow\nall: not decided/m, '... of which it says how many there are');
is(query("SELECT string_agg(name, ' ' ORDER BY name) FROM job_status WHERE flow = $flow AND state = 'succeeded'"), 'fine', 'the rest was done');
# they go on one after the other, while it waits for one that runs elsewhere
query("SELECT job_decide(id, 'succeeded') FROM job_status WHERE flow = $flow AND name = 'approval'");
query("SELECT job_queue_set('paused', paused => false)");
query("SELECT job_change(id, run_at => now() + interval '1 s') FROM job_status WHERE flow = $flow AND name = 'far'");
query("SELECT job_complete(job_id, token) FROM job_claim('outside')");
query("SELECT job_unhold(id) FROM job_status WHERE flow = $flow AND name = 'sub'");
start_flow($flow, '--label', 'gpu')->ends_with(0, 'when all of that has come, and with the label');

# The time is an option
$flow = submit_flow({ name => 'soon', jobs => [ member('a', run_in => '90 s') ] });
start_flow($flow, '--until-idle=1min')->ends_with(4, 'a time that is not within --until-idle');
query("SELECT job_change(id, run_at => now() + interval '10 s') FROM job_status WHERE flow = $flow AND name = 'a'");
start_flow($flow, '--until-idle=1s')->ends_with(4, '... nor with a shorter one');
start_flow($flow)->ends_with(0, 'one that is');

# The flow itself
$flow = submit_flow({ name => 'waits itself', hold => JSON::PP::true, jobs => [ member('a') ] });
$worker = start_flow($flow);
$worker->ends_with(4, 'a flow that has not started');
like(waits($worker), qr/^waits itself: waits: It is held\./, '... waits, too');

# A limit: of slots that others have, it waits for those that run
query("SELECT job_queue_set('narrow', max_running => 1)");
my $ahead = submit($node, q{'say', queue => 'narrow', priority => 9});
ok(poll_until(sub { state_of($ahead) eq 'ready' }), 'a job that has the only slot');
$flow = submit_flow({ name => 'limited', jobs => [ member('a', queue => 'narrow') ] });
$worker = start_flow($flow);
$worker->ends_with(4, 'a slot that a job has which nobody runs');
like(waits($worker), qr/^a: waits: The slots of queue "narrow" are taken/, '... which it says');
query("SELECT job_id FROM job_claim('narrow', 'somebody')");
$worker = start_flow($flow);
ok($worker->wait_for_log(qr/event=goes_on job=\d+ name=a$/m), 'a slot of a job that runs');
query("SELECT job_complete(job_id, token) FROM job_lease WHERE job_id = $ahead");
$worker->ends_with(0, '... is waited for');

# Limits of flows: a pause, and permits, wait for somebody; a limit waits for the members that run, or are ready for us
$flow = submit_flow({ name => 'narrow', max_running => 1, jobs => [ map { member("m$_") } 1 .. 4 ] });
start_flow($flow)->ends_with(0, 'a flow whose members run one after the other');
$flow = submit_flow({ name => 'steps', permits => 1, jobs => [ member('a'), member('b') ] });
$worker = start_flow($flow);
$worker->ends_with(4, 'a flow without permits');
like(waits($worker), qr/^b: waits: Flow $flow has no permits left\. \[job_flow_set\($flow, permits => 1\) lets one of its members begin, paused => false all\.\]$/m, '... which it says');
query("SELECT job_flow_set($flow, paused => true, permits => 1)");
$worker = start_flow($flow);
$worker->ends_with(4, 'one that is paused');
like(waits($worker), qr/^b: waits: Flow $flow is paused\./m, '... which it says');
query("SELECT job_flow_set($flow, paused => false)");
start_flow($flow)->ends_with(0, '... goes on');
$flow = submit_flow({ name => 'full', max_running => 1, jobs => [ member('a', requires => ['gpu']), member('b') ] });
ok(poll_until(sub { query("SELECT ready FROM job_flow_status WHERE id = $flow") eq '1' }), 'a flow, the slot of which has a member');
$worker = start_flow($flow);
$worker->ends_with(4, '... that is not for this worker');
like($worker->printed, qr/^a: waits: It requires gpu(?:.*\n)*full: 1 more waits only for others in the flow$/m, '... says so');
my ($holder, $its_token) = split /\|/, query("SELECT job_id, token FROM job_claim_flow($flow, 'another', labels => '{gpu}', lease => '10 min')");
$worker = start_flow($flow);
ok($worker->wait_for_log(qr/event=goes_on job=\d+ name=a$/m), 'one that runs elsewhere');
query("SELECT job_complete($holder, $its_token)");
$worker->ends_with(0, '... is waited for');

#
# Other workers
#

# Its leases are waited for, but not those of a worker that is not heard of
$flow = submit_flow({ name => 'elsewhere', jobs => [ member('theirs', priority => 1), member('ours'), member('both', depends_on => ['theirs', 'ours']) ] });
my ($theirs, $token) = split /\|/, query("SELECT job_id, token FROM job_claim_flow($flow, 'another', lease => '10 min')");
$worker = start_flow($flow);
ok($worker->wait_for_output(qr/^ours: succeeded/m), 'the others are done meanwhile');
query("SELECT job_complete($theirs, $token)");
$worker->ends_with(0, 'what another worker runs is waited for');
is($worker->printed, <<"EOO", '... and told');
elsewhere: flow $flow is running; members: 3, 1 waiting, 1 ready, 1 running
ours: started
ours: succeeded
theirs: succeeded
both: started
both: succeeded
elsewhere: succeeded
EOO

$flow = submit_flow({ name => 'silent', jobs => [ member('theirs', max_lost => 9, priority => 1), member('ours') ] });
query("SELECT job_id FROM job_claim_flow($flow, 'another', lease => '10 s')");
$worker = start_flow($flow, '--until-idle=200ms');
$worker->ends_with(4, 'a lease whose worker is silent, and that lasts on');
like(waits($worker), qr/^theirs: waits: It runs since .* as attempt 1 of worker "another".*\ntheirs: waits: Its worker was last heard of/, '... is told');
start_flow($flow)->ends_with(0, 'one that runs out within --until-idle is waited for');
is(query("SELECT attempt || ' ' || lost FROM job_status WHERE flow = $flow AND name = 'theirs'"), '2 1', '... and was lost');

# Beside a worker of the queue, and another of the flow
$flow = submit_flow({ name => 'shared', defaults => { kind => 'say', queue => 'shared' }, jobs => [
	(map { { name => "part $_" } } 1 .. 60), { name => 'sum', depends_on => [ map { "part $_" } 1 .. 60 ] } ] });
$plain = start_worker($node, '--queue', 'shared', '--worker', 'plain', @kinds);
my @both = map { start_flow($flow, '--worker', "flow $_", '--concurrency', $_) } 1 .. 2;
$_->ends_with(0, 'one of two workers beside a third') foreach @both;
foreach my $w (@both)
{
	my %ends;
	$ends{$_}++ foreach $w->printed =~ /^(\S+(?: \d+)?): succeeded$/mg;
	is(join(' ', map { "$_=$ends{$_}" } grep { $ends{$_} != 1 } keys %ends), '', '... no end is told twice');
	my $before = 0;
	($before) = $w->printed =~ /, (\d+) succeeded$/m if $w->printed =~ /\A.*, \d+ succeeded$/m;
	$before++ if $w->printed =~ /\A\S+ flow \d+ is succeeded;/;	# the others were faster
	is(keys(%ends) + $before, 62, '... and each is told');
}
is(query("SELECT count(*), count(*) FILTER (WHERE attempt = 1 AND state = 'succeeded') FROM job_status WHERE flow = $flow"), '61|61', 'each member was run once');
$plain->signal('TERM');
$plain->finish;

# SIGKILL, and another goes on
$flow = submit_flow({ name => 'killed', jobs => [ member('a'), member('long', kind => 'wait', depends_on => ['a'], max_lost => 9), member('c', depends_on => ['long']) ] });
unlink "$dir/go";
$worker = start_flow($flow, '--lease', '2s', '--worker', 'first');
ok($worker->wait_for_output(qr/^long: started/m), 'a worker is at work');
$worker->signal('KILL');
$worker->finish;
append_to_file("$dir/go", '');
$worker = start_flow($flow, '--worker', 'second');
$worker->ends_with(0, 'when it is killed, another goes on');
like($worker->printed, qr/\Akilled: flow $flow is running; members: 3, 1 waiting, 1 running, 1 succeeded\nlong: attempt 1 lost.*: lease ran out\nlong: started, attempt 2\nlong: succeeded\nc: started\nc: succeeded\nkilled: succeeded\n\z/,
	'... when the lease is over');

# The server goes away, and comes back
$flow = submit_flow({ name => 'restarted', jobs => [ member('long', kind => 'wait'), member('then', depends_on => ['long'], queue => 'afterwards') ] });
unlink "$dir/go";
$worker = start_flow($flow, '--reconnect-max', '200ms');
ok($worker->wait_for_output(qr/^long: started/m), 'a worker is at work');
$node->stop('immediate');
$node->start;
append_to_file("$dir/go", '');
$worker->ends_with(0, 'when the server has been restarted, it goes on');
like($worker->printed, qr/^long: succeeded\nthen: started\nthen: succeeded\nrestarted: succeeded\n\z/m, '... and tells the rest');
start_flow($flow, '--dbname', 'host=/nowhere')->ends_with(1, 'a server that is not there at the start');

#
# Signals, and other ways to leave
#

$flow = submit_flow({ name => 'left', jobs => [ member('long', kind => 'wait'), member('then', depends_on => ['long']) ] });
unlink "$dir/go";
$worker = start_flow($flow);
ok($worker->wait_for_output(qr/^long: started/m), 'a worker is at work');
$worker->signal('TERM');
ok($worker->wait_for_log(qr/event=draining reason=SIGTERM/), '... is told to leave');
append_to_file("$dir/go", '');
$worker->ends_with(1, '... which leaves the flow undecided');
is($worker->printed, "left: flow $flow is running; members: 2, 1 waiting, 1 ready\nlong: started\nlong: succeeded\n", '... but what it ran ends, and is told');
is(query("SELECT string_agg(state, ' ' ORDER BY id) FROM job_status WHERE flow = $flow"), 'succeeded ready', '... and no more is begun');
query("SELECT job_cancel($flow)");

$flow = submit_flow({ name => 'released', jobs => [ member('long', kind => 'wait') ] });
unlink "$dir/go";
$worker = start_flow($flow, '--kill-after', '1s');
ok($worker->wait_for_output(qr/^long: started/m), 'a worker is at work');
$worker->signal('INT');
ok($worker->wait_for_log(qr/event=draining reason=SIGINT/), '... is told to leave');
$worker->signal('INT');
$worker->ends_with(1, '... at once');
like($worker->printed, qr/^long: attempt 1 released$/m, '... and gives back what it ran');

# without --until-idle it stays, as any worker does, also when the flow is decided
append_to_file("$dir/go", '');
$worker = start_worker($node, '--flow', $flow, @kinds);
ok($worker->wait_for_output(qr/^released: succeeded/m), 'without --until-idle');
my $after = submit_flow({ name => 'released again', jobs => [ member('a') ] });
is(query("SELECT count(*) FROM job_worker_status WHERE state = 'alive' AND worker LIKE '%:$worker->{pid}'"), '1', '... it stays when the flow is decided');
$worker->signal('TERM');
$worker->ends_with(0, '... until it is told to leave');
$worker = start_worker($node, '--flow', $after, '--once', @kinds);
$worker->ends_with(0, '--once');
like($worker->printed, qr/^a: succeeded$/m, '... tells of what it did');

# what is no flow, or not to be seen
foreach my $id ($other, 999999999)
{
	$worker = start_flow($id);
	$worker->ends_with(1, 'no flow');
	ok($worker->wait_for_log(qr/event=no_such_flow flow=$id error="no flow has this id, or this role may not see it"/), '... is said');
}
query("CREATE ROLE flow_runner LOGIN");
query("SELECT job_grant('flow_runner', 'default', 'work')");
$flow = submit_flow({ name => 'hidden', jobs => [ member('a') ] });
my $runner = $node->connstr('postgres') . ' user=flow_runner';
start_flow($flow, '--dbname', $runner)->ends_with(1, 'a flow that the role may not see');
query("SELECT job_grant('flow_runner', 'default', 'read')");
start_flow($flow, '--dbname', $runner)->ends_with(0, '... once it may');
query("SELECT job_grant('flow_runner', 'another', 'read')");
$flow = submit_flow({ name => 'not its', jobs => [ member('a'), member('b', queue => 'another') ] });
$worker = start_flow($flow, '--dbname', $runner);
$worker->ends_with(4, 'a member of a queue that the role may not work on');
like($worker->printed, qr/^a: succeeded\nb: waits: It is ready .*\nb: waits: This worker does not get it: its role may not work on the queue, or somebody has it locked\.$/m, '... is passed over, and told');
query("SELECT job_revoke('flow_runner', 'default', 'work')");
$worker = start_flow($flow, '--dbname', $runner);
$worker->ends_with(1, 'a role that may not claim at all');
ok($worker->wait_for_log(qr/event=claim_failed sqlstate=42501/), '... is an error');

#
# A reader that does not read
#

# The worker goes on, and what it could not print yet is printed when it is read.
$flow = submit_flow({ name => 'unread', defaults => { queue => 'unread' }, jobs => [ map { member("m$_", kind => 'much') } 1 .. 40 ] });
pipe(my $reader, my $writer) or die "pipe: $!";
my $pid = fork // die "fork: $!";
if ($pid == 0)
{
	close($reader);
	open(STDOUT, '>&', $writer);
	open(STDERR, '>', "$dir/unread.log");
	exec('jobq-worker', '--dbname', $node->connstr('postgres'), '--flow', $flow, '--until-idle', '--log', '--kind', 'much=seq 1 1000 >&2') or POSIX::_exit(126);
}
close($writer);
ok(poll_until(sub { query("SELECT count(*) FROM job_status WHERE flow = $flow AND state = 'succeeded'") == 40 }), 'a worker whose output nobody reads goes on');
my ($lines, $last) = (0, '');
while (my $line = <$reader>)
{
	$lines++;
	$last = $line;
}
waitpid($pid, 0);
is($?, 0, '... ends when it is read');
is($lines, 1 + 40 * 1002 + 1, '... and has printed all');
like($last, qr/unread: succeeded$/, '... to the end');

#
# Random flows: no worker leaves before the end, and each end is told once
#

my $seed = $ENV{JOBQ_SEED} // time % 1000000;
note("JOBQ_SEED=$seed");
srand($seed);

sub chance { return rand() < $_[0]; }

sub random_jobs
{
	my ($depth) = @_;
	my @jobs;
	my $n = (1, 4, 10, 80)[ int(rand(4)) ];
	foreach my $i (0 .. $n - 1)
	{
		my %job = (name => "m$i");
		if ($i > 0 && chance(0.6))
		{
			my %up = map { 'm' . int(rand($i)) => 1 } 1 .. (1, 1, 2, 70)[ int(rand(4)) ];
			$job{depends_on} = [ sort keys %up ];
			$job{trigger_rule} = (qw(all_done one_success none_failed one_failed always))[ int(rand(5)) ] if chance(0.3);
		}
		$job{critical} = JSON::PP::false if chance(0.7);
		if ($depth < 3 && chance(0.1))
		{
			$job{jobs} = random_jobs($depth + 1);
		}
		else
		{
			%job = (%job, kind => chance(0.8) ? 'noop' : 'bad', queue => 'r' . int(rand(3)), max_attempts => 1 + int(rand(2)), backoff => '20 ms');
			$job{run_in} = '100 ms' if chance(0.05);
		}
		push @jobs, \%job;
	}
	return \@jobs;
}

my $beside = start_worker($node, '--queue', 'r0', '--kind', 'noop=true', '--kind', 'bad=exit 1');
foreach my $i (1 .. 12)
{
	my $id = submit_flow({ name => "random $i", jobs => random_jobs(0) });
	my $w = start_worker($node, '--flow', $id, '--until-idle', '--concurrency', 1 + int(rand(8)), '--kind', 'noop=:noop', '--kind', 'bad=exit 1');
	my $status = $w->finish >> 8;
	my $is = state_of($id);
	my %ends;
	$ends{$_}++ foreach $w->printed =~ /^(\S+(?: \d+)?): (?:succeeded|failed|skipped|upstream_failed|cancelled)\b/mg;
	my @twice = grep { $ends{$_} > 1 } keys %ends;
	ok($is =~ /^(?:succeeded|failed)$/ && $status == ($is eq 'succeeded' ? 0 : 3) && !@twice, "random flow $i")
	  or diag("$is, status $status, twice: @twice\n" . $w->printed . slurp_file($w->{log}));
}
$beside->signal('TERM');
$beside->finish;

$node->stop;
done_testing();
