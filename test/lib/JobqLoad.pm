# A client that does everything at random for a while and keeps a record of
# what the server acknowledged; and the comparison of many such records with
# what is in the tables afterwards.
package JobqLoad;

use strict;
use warnings;

use JobqClient;
use JSON::PP;
use List::Util qw(max min shuffle);
use Test::More;
use Time::HiRes qw(time usleep);

our $LEASE = 3;                         # seconds
our @QUEUES = qw(red green blue);

# What may happen to anybody: deadlocks, serialization failures, and refusals
# of control functions that were called on any job.
my %expected = map { $_ => 1 } qw(40P01 40001);

# JobqLoad::run($node, $i, until => time or file => stop when it is there, ...)
#	dbname
#	weights => {op => n}, otherwise those below
#	vanishing => 1: jobs may vanish (TRUNCATE), so JQ001 and JQ002 are no errors
sub run
{
	my ($node, $i, %p) = @_;
	my $self = bless {
		node => $node,
		name => "load $i",
		held => [],
		ids => [],
		p => \%p,
		log => {
			name => "load $i",
			submitted => {},      # id => acknowledged
			doubtful => 0,        # jobs whose COMMIT got no answer
			completed => {},      # id => token, acknowledged
			claims => [],
			errors => [],
			states => {}          # SQLSTATE => count
		}
	}, __PACKAGE__;
	my %weights = (
		submit => 22, submit_many => 5, transaction => 14, claim => 22, finish => 45,
		finish_many => 5, claim_complete => 8, control => 9,
		%{ $p{weights} // {} });
	my @ops = map { ($_) x $weights{$_} } sort keys %weights;

	while (time < $p{until} && !(defined $p{file} && -e $p{file}))
	{
		$self->connected or last;
		my $op = 'do_' . $ops[ rand @ops ];
		$op = 'do_finish' if @{ $self->{held} } > 8;
		$self->$op;
	}
	$self->{client}->disconnect if $self->{client};
	return $self->{log};
}

# Be connected, through restarts of the server.
sub connected
{
	my ($self) = @_;
	return 1 if $self->{client} && $self->{client}->connected;
	my $end = time + 90;
	while (time < $end)
	{
		$self->{client} =
		  JobqClient->new($self->{node}, name => $self->{name}, dbname => $self->{p}{dbname});
		$self->{log}{connections}++, return 1 if $self->{client};
		return 0 if defined $self->{p}{file} && -e $self->{p}{file};
		usleep(30_000);
	}
	die "the server did not come back";
}

# One round trip; SQLSTATEs that are not expected are put on record.
sub query
{
	my ($self, $sql, @also) = @_;
	my $r = $self->{client}->query($sql);
	if ($r->{lost})
	{
		$self->{log}{states}{lost}++;
		return $r;
	}
	if (my $state = $r->{sqlstate})
	{
		$self->{log}{states}{$state}++;
		push @{ $self->{log}{errors} }, "$state $r->{message} by: $sql"
		  unless $expected{$state} || grep { $_ eq $state } @also;
	}
	return $r;
}

sub good { return !$_[0]{lost} && !$_[0]{sqlstate}; }

sub queue { return $QUEUES[ rand @QUEUES ]; }

#
# Submitting
#

# An id that is likely to be somebody's job of late.
sub some_id
{
	my ($self) = @_;
	my $n = @{ $self->{ids} };
	return unless $n;
	return $self->{ids}[ max(0, $n - 1 - int rand 50) ] if rand() < 0.5;
	return max(1, $self->{ids}[-1] - int rand 300);
}

# Arguments of job_submit, as name => literal.
sub submission
{
	my ($self) = @_;
	my %a = (
		kind => "'load'",
		args => "'{}'",
		queue => "'" . queue() . "'",
		# more of them now and then than the hand-out keeps the first jobs of
		priority => int(rand() < 0.8 ? rand(5) : rand(41) - 18) - 2,
		backoff => "'20 ms'",
		lease => "'$LEASE s'");
	$a{run_at} = "now() + interval '" . int(rand(400)) . " ms'" if rand() < 0.1;
	$a{expires_at} = "now() + interval '" . (50 + int(rand(1500))) . " ms'" if rand() < 0.04;
	if (rand() < 0.04)
	{
		$a{timeout} = "'500 ms'";
		$a{args} = q('{"timeout": true}');
	}
	$a{max_attempts} = 1 + int(rand(3)) if rand() < 0.5;
	$a{max_lost} = 1 + int(rand(2)) if rand() < 0.3;
	if (rand() < 0.4 && @{ $self->{ids} })
	{
		my %parents = map { $self->{ids}[ -1 - int rand min(20, scalar @{ $self->{ids} }) ] => 1 } 1 .. 1 + int(rand(4));
		my $n = keys %parents;
		$a{depends_on} = "'{" . join(',', shuffle(keys %parents)) . "}'";
		my @rules = qw(all_success all_success all_success all_done one_failed one_success none_failed always all_failed quorum);
		my $rule = $rules[ rand @rules ];
		$a{trigger_rule} = "'$rule'";
		$a{quorum} = 1 + int(rand($n)) if $rule eq 'quorum';
	}
	return \%a;
}

sub submit_sql
{
	my ($self) = @_;
	my $a = $self->submission;
	return 'SELECT job_submit(' . join(', ', map { "$_ => $a->{$_}" } sort keys %$a) . ')';
}

sub submitted
{
	my ($self, @ids) = @_;
	foreach (@ids)
	{
		$self->{log}{submitted}{$_} = 1;
		push @{ $self->{ids} }, $_;
	}
	splice(@{ $self->{ids} }, 0, 100) if @{ $self->{ids} } > 300;
	return;
}

# SQLSTATEs of a call that names jobs which may have been removed
sub gone { return $_[0]{p}{vanishing} ? qw(JQ001 JQ002) : (); }

sub do_submit
{
	my ($self) = @_;
	my $r = $self->query($self->submit_sql, $self->gone);
	$self->{log}{doubtful}++ if $r->{lost};
	$self->submitted($r->{rows}[0][0]) if good($r);
	return;
}

sub do_submit_many
{
	my ($self) = @_;
	my $n = 2 + int(rand(8));
	my @jobs = map {
		my $i = $_;
		my @parents = grep { rand() < 0.3 } 1 .. $i - 1;
		+{
			kind => 'load', name => "n$i", queue => queue(), lease => "$LEASE s", backoff => '20 ms',
			@parents ? (depends_on => [ map { "n$_" } @parents ]) : (),
			@parents && rand() < 0.4 ? (trigger_rule => (qw(all_done one_success one_failed none_failed))[ rand 4 ]) : ()
		}
	} 1 .. $n;
	# now and then a join that is wide enough for deltas
	if (rand() < 0.02)
	{
		@jobs = map { { kind => 'load', name => "n$_", queue => queue(), lease => "$LEASE s", backoff => '20 ms' } } 1 .. 72;
		@{ $jobs[70] }{qw(depends_on trigger_rule)} = ([ map { "n$_" } 1 .. 70 ], 'all_success');
		@{ $jobs[71] }{qw(depends_on trigger_rule)} = ([ map { "n$_" } 1 .. 71 ], 'all_done');
		$n = @jobs;
	}
	my $r = $self->query('SELECT job_submit_many(' . JobqClient::quote(encode_json([ shuffle(@jobs) ])) . ')', $self->gone);
	$self->{log}{doubtful} += $n if $r->{lost};
	$self->submitted(map { $_->[0] } @{ $r->{rows} }) if good($r);
	return;
}

#
# Claiming
#

sub claim_sql
{
	my ($self, $n) = @_;
	my $queue = rand() < 0.5 ? "'" . queue() . "'" : "'{" . join(',', @QUEUES) . "}'::text[]";
	return "SELECT job_id, token, attempt, extract(epoch FROM lease_until), args ? 'timeout' "
	  . "FROM job_claim($queue, '$self->{name}', $n)";
}

sub claimed
{
	my ($self, @rows) = @_;
	my $now = time;
	my @claims = map {
		+{
			id => $_->[0], token => $_->[1], attempt => $_->[2], until => $_->[3], timeout => $_->[4] eq 't',
			from => $now, name => $self->{name}
		}
	} @rows;
	push @{ $self->{log}{claims} }, @claims;
	return @claims;
}

sub do_claim
{
	my ($self) = @_;
	my $r = $self->query($self->claim_sql(1 + int(rand(4))));
	push @{ $self->{held} }, $self->claimed(@{ $r->{rows} }) if good($r);
	usleep(2000) if good($r) && !@{ $r->{rows} };
	return;
}

sub do_claim_complete
{
	my ($self) = @_;
	my $sql = $self->claim_sql(1 + int(rand(2)));
	$sql =~ s/args/job_complete(job_id, token, '{"here": 1}'), args/;
	my $r = $self->query($sql);
	return unless good($r);
	foreach my $row (@{ $r->{rows} })
	{
		my ($claim) = $self->claimed([ @$row[ 0 .. 3, 5 ] ]);
		$claim->{end} = $claim->{from};
		$claim->{ended} = 'succeeded';
		$self->{log}{completed}{ $row->[0] } = $row->[1];
	}
	return;
}

#
# Ending
#

# An end was refused as stale.  Whether the lease was still good is judged by
# compare, which knows of crashes.
sub stale
{
	my ($self, $claim, $sent) = @_;
	return if $self->{p}{vanishing} || $claim->{timeout} || $claim->{doubt};
	$claim->{refused} = $claim->{until} - $sent if $sent < $claim->{until} - 0.05;
	$claim->{stale} = 1;
	return;
}

sub do_finish
{
	my ($self) = @_;
	return $self->do_claim unless @{ $self->{held} };
	my ($claim) = splice(@{ $self->{held} }, rand @{ $self->{held} }, 1);
	my ($id, $token) = @$claim{qw(id token)};
	my $dice = $claim->{doubt} ? 0 : rand;
	my ($ended, $sql) =
	    $dice < 0.66 ? ('succeeded', "SELECT job_complete($id, $token, '{\"token\": $token}')")
	  : $dice < 0.76 ? ('failed', "SELECT job_fail($id, $token, 'bad luck')")
	  : $dice < 0.80 ? ('failed', "SELECT job_fail($id, $token, 'hopeless', false)")
	  : $dice < 0.85 ? ('released', "SELECT job_release($id, $token)")
	  : $dice < 0.90 ? ('snoozed', "SELECT job_snooze($id, $token, '50 ms')")
	  : $dice < 0.985 ? ('', "SELECT job_heartbeat($id, $token)")
	  : ();
	return unless defined $ended;        # its worker is dead, so to speak

	my $sent = time;
	$claim->{end} //= $sent if $ended;
	my $r = $self->query($sql, 'JQ001', $self->gone);
	if ($r->{lost} || ($r->{sqlstate} // '') =~ /^40/)
	{
		# if it was lost at COMMIT the same again must do no harm
		$claim->{doubt} = 1 if $r->{lost} && $ended;
		delete $claim->{end} unless $claim->{doubt};
		push @{ $self->{held} }, $claim if $ended eq 'succeeded' || !$claim->{doubt};
	}
	elsif ($r->{sqlstate})
	{
		delete $claim->{end} unless $claim->{doubt};
		$self->stale($claim, $sent);
	}
	elsif ($ended)
	{
		$claim->{ended} = $ended;
		$self->{log}{completed}{$id} = $token if $ended eq 'succeeded';
	}
	else
	{
		$claim->{until} = max($claim->{until}, $sent + $LEASE);
		push @{ $self->{held} }, $claim;
	}
	return;
}

sub do_finish_many
{
	my ($self) = @_;
	# a job that was lost and claimed again stands there twice, and may be named once
	my %seen;
	my %take = map { $_->{token} => 1 } grep { !$_->{doubt} && !$seen{ $_->{id} }++ } reverse @{ $self->{held} };
	my @mine = grep { $take{ $_->{token} } } @{ $self->{held} } or return;
	my @others = grep { !$take{ $_->{token} } } @{ $self->{held} };
	my $ids = join ',', map { $_->{id} } @mine;
	my $tokens = join ',', map { $_->{token} } @mine;
	my $fail = rand() < 0.3;
	my $sent = time;
	$_->{end} = $sent foreach @mine;
	my $r = $self->query('SELECT * FROM ' . ($fail ? 'job_fail_many' : 'job_complete_many') . "('{$ids}', '{$tokens}')");
	$self->{held} = \@others;
	if ($r->{lost})
	{
		$_->{doubt} = 1 foreach @mine;
		push @{ $self->{held} }, @mine unless $fail;
	}
	elsif ($r->{sqlstate})
	{
		delete $_->{end} foreach @mine;
		push @{ $self->{held} }, @mine;
	}
	else
	{
		foreach my $i (0 .. $#mine)
		{
			my $claim = $mine[$i];
			push @{ $self->{log}{errors} }, "answers of a batch are out of order" if $r->{rows}[$i][0] != $claim->{id};
			if ($r->{rows}[$i][1] ne 't')
			{
				delete $claim->{end};
				$self->stale($claim, $sent);
				next;
			}
			$claim->{ended} = $fail ? 'failed' : 'succeeded';
			$self->{log}{completed}{ $claim->{id} } = $claim->{token} unless $fail;
		}
	}
	return;
}

# Somebody else's job, or one that does not exist.
sub do_control
{
	my ($self) = @_;
	my $id = $self->some_id // return;
	my $dice = rand;
	my $what = $dice < 0.3 ? 'job_cancel' : $dice < 0.5 ? 'job_hold' : $dice < 0.75 ? 'job_unhold' : 'job_retry';
	$self->query("SELECT $what($id)", 'JQ002', 'JQ003');
	return;
}

# Several things in one transaction, with savepoints, that may roll back.
sub do_transaction
{
	my ($self) = @_;
	my $level = rand() < 0.6 ? 'READ COMMITTED' : rand() < 0.5 ? 'REPEATABLE READ' : 'SERIALIZABLE';
	my (@ids, @claims, @ends);
	my $r = $self->query("BEGIN ISOLATION LEVEL $level");
	foreach (1 .. 1 + int(rand(4)))
	{
		last unless good($r);
		my $dice = rand;
		if ($dice < 0.3)
		{
			$r = $self->query($self->submit_sql, $self->gone);
			push @ids, $r->{rows}[0][0] if good($r);
		}
		elsif ($dice < 0.5)
		{
			# as if it had never been
			my $sql = rand() < 0.3 ? $self->submit_sql : $self->claim_sql(1 + int(rand(3)));
			$r = $self->query('SAVEPOINT s');
			$r = $self->query($sql, $self->gone) if good($r);
			last if $r->{lost};
			$r = $self->query('ROLLBACK TO s');
			$r = $self->query('RELEASE s') if good($r) && rand() < 0.5;
		}
		elsif ($dice < 0.8)
		{
			$r = $self->query('SAVEPOINT t') if rand() < 0.3;
			last unless good($r);
			$r = $self->query($self->claim_sql(1 + int(rand(3))));
			push @claims, @{ $r->{rows} } if good($r);
		}
		elsif (@claims && $dice < 0.95)
		{
			my ($row) = splice(@claims, rand @claims, 1);
			my $sql = "SELECT job_complete($row->[0], $row->[1])";
			$sql .= ', ' . substr($self->submit_sql, 7) if rand() < 0.3;
			$r = $self->query($sql, $self->gone);
			last unless good($r);
			push @ends, $row;
			push @ids, $r->{rows}[0][1] if @{ $r->{rows}[0] } > 1;
		}
		else
		{
			my $id = $self->some_id // next;
			$r = $self->query("SELECT job_cancel($id)", 'JQ002', 'JQ003');
		}
	}
	return if $r->{lost};
	if (!good($r) || rand() < 0.3)
	{
		$self->query('ROLLBACK');
		return;
	}
	$r = $self->query('COMMIT');
	$self->{log}{doubtful} += @ids if $r->{lost};
	return unless good($r);
	$self->submitted(@ids);
	push @{ $self->{held} }, $self->claimed(@claims);
	foreach my $row (@ends)
	{
		my ($claim) = $self->claimed($row);
		$claim->{end} = $claim->{from};
		$claim->{ended} = 'succeeded';
		$self->{log}{completed}{ $claim->{id} } = $claim->{token};
	}
	return;
}

#
# The comparison
#

# Run what is left until every job is decided.  Leases that nobody holds any
# more have to run out, and attempts to be counted.
sub drain
{
	my ($node, $seconds, %p) = @_;
	my $client = JobqClient->new($node, name => 'drain', dbname => $p{dbname}) // die 'no connection';
	my $end = time + $seconds;
	my $queues = join ',', @QUEUES;
	my @claims;
	while (time < $end)
	{
		$client->retry_rows('SELECT job_unhold(job_id) FROM job_waiting WHERE held');
		my @rows = $client->retry_rows("SELECT job_id, token, attempt, extract(epoch FROM lease_until), "
			  . "job_complete(job_id, token) FROM job_claim('{$queues}'::text[], 'drain', 100)");
		push @claims, map {
			+{
				id => $_->[0], token => $_->[1], attempt => $_->[2], until => $_->[3], from => time, end => time,
				ended => 'succeeded', name => 'drain'
			}
		} @rows;
		next if @rows;
		if ($client->value('SELECT NOT EXISTS (SELECT FROM job WHERE outcome IS NULL)') eq 't')
		{
			return {
				name => 'drain', submitted => {}, doubtful => 0, errors => [], states => {}, claims => \@claims,
				completed => { map { $_->{id} => $_->{token} } @claims }
			};
		}
		usleep(20_000);
	}
	diag("not decided:\n" . join("\n", map { $_->[0] } $client->rows(<<'EOQ')));
SELECT v::text FROM (SELECT id, state, attempt, lost, run_at, lease_until, now() FROM job_status
    WHERE finished_at IS NULL ORDER BY id LIMIT 10) v
EOQ
	return;
}

# May a crash have undone this claim?  Those that nothing durable followed are on
# disk after three times wal_writer_delay at the latest; see jobq.async_claim.
sub may_be_lost
{
	my ($claim, $crashes) = @_;
	return 0 if $claim->{ended};
	return scalar grep { $claim->{from} > $_->[0] - 0.6 && $claim->{from} < $_->[1] } @{ $crashes // [] };
}

# Three tests: the records against one another and against the tables.
#	crashes => [[from, to], ...]: when the server was killed, until it was there
#	again; claims of just before may have been lost, but no other
sub compare
{
	my ($node, $name, $logs, %p) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $client = JobqClient->new($node, dbname => $p{dbname}) // die 'no connection';
	my @logs = @$logs;
	my @claims = map { @{ $_->{claims} } } @logs;
	my %may_be_lost = map { $_->{token} => 1 } grep { may_be_lost($_, $p{crashes}) } @claims;
	my @errors = (
		(map { @{ $_->{errors} } } @logs),
		map { sprintf('job %s, attempt %s: refused as stale %.3f s before the end of its lease', @$_{qw(id attempt refused)}) }
		  grep { $_->{refused} && !$may_be_lost{ $_->{token} } } @claims);
	ok(!@errors, "$name: nothing unexpected was answered")
	  or diag(scalar(@errors) . " errors, first: " . join("\n", @errors[ 0 .. min(9, $#errors) ]));

	# what was acknowledged, against the tables
	my @wrong;
	my $doubtful = 0;
	my %submitted = map { %{ $_->{submitted} } } @logs;
	$doubtful += $_->{doubtful} foreach @logs;
	$client->rows($_) foreach 'CREATE TEMPORARY TABLE s (id bigint)', 'CREATE TEMPORARY TABLE c (id bigint, token bigint)',
	  'CREATE TEMPORARY TABLE a (id bigint, token bigint, attempt int, worker text, ended text)';
	load($client, 's', map { "($_)" } keys %submitted);
	load($client, 'c', map { my $l = $_; map { "($_, $l->{completed}{$_})" } keys %{ $l->{completed} } } @logs);
	load($client, 'a', map { "($_->{id}, $_->{token}, $_->{attempt}, '$_->{name}', " . ($_->{ended} ? "'$_->{ended}'" : 'NULL') . ')' }
		  grep { !$may_be_lost{ $_->{token} } } @claims);
	my $n = $client->value('SELECT count(*) FROM job');
	push @wrong, "$n jobs, but " . keys(%submitted) . " were acknowledged and $doubtful perhaps submitted"
	  if $n < keys %submitted || $n > keys(%submitted) + $doubtful;
	my $ids = sub { return join ',', map { $_->[0] } $client->rows($_[0]) };
	my $found = $ids->('SELECT id FROM s WHERE NOT EXISTS (SELECT FROM job WHERE job.id = s.id) LIMIT 5');
	push @wrong, "acknowledged, but lost: jobs $found" if $found;
	$found = $ids->(<<'EOQ');
SELECT c.id FROM c WHERE NOT EXISTS (SELECT FROM job j WHERE j.id = c.id AND j.outcome = 1 AND j.token = c.token) LIMIT 5
EOQ
	push @wrong, "acknowledged as completed, but not so: jobs $found" if $found;
	$found = $ids->(<<'EOQ');
SELECT (a.id, a.attempt, a.worker, a.ended, t.*)::text
FROM a LEFT JOIN (SELECT job_id, attempt, worker, outcome FROM job_attempts
                  UNION ALL SELECT job_id, attempt, worker, NULL FROM job_lease) t ON t.job_id = a.id AND t.attempt = a.attempt
WHERE t.worker IS DISTINCT FROM a.worker
    OR CASE WHEN a.ended IS NULL THEN false
            WHEN a.ended = 'succeeded' THEN t.outcome IS DISTINCT FROM 'succeeded'
            ELSE t.outcome IS NULL OR t.outcome NOT IN (a.ended, 'cancelled') END
LIMIT 5
EOQ
	push @wrong, "claims and ends that are not on record: $found" if $found;
	$client->disconnect;
	ok(!@wrong, "$name: what was acknowledged is there") or diag(join("\n", @wrong));

	# held twice
	my @twice = overlaps(\@claims, %p);
	ok(!@twice, "$name: no job was held twice at once")
	  or diag(scalar(@twice) . " times, first: " . join("\n", @twice[ 0 .. min(9, $#twice) ]));

	my %states;
	foreach my $log (@logs)
	{
		$states{$_} += $log->{states}{$_} foreach keys %{ $log->{states} };
	}
	my %times;
	$times{"$_->{id} $_->{attempt}"}++ foreach @claims;
	note(sprintf('%s: %d claims may have been lost, %d attempts were made again', $name, scalar(keys %may_be_lost), scalar(grep { $_ > 1 } values %times)))
	  if $p{crashes};
	note(sprintf('%s: %d jobs, %d claims; %s', $name, $n, scalar(@claims), join ', ', map { "$_: $states{$_}" } sort keys %states));
	return;
}

sub load
{
	my ($client, $table, @rows) = @_;
	while (my @some = splice(@rows, 0, 5000))
	{
		$client->rows("INSERT INTO $table VALUES " . join(',', @some));
	}
	return;
}

# Until when a claim whose end was not acknowledged was in force for certain: what
# was sent may have arrived, and an attempt with a timeout ends by itself.
sub certain_end
{
	my ($claim) = @_;
	return 0 if $claim->{timeout};
	return min($claim->{end} // $claim->{until}, $claim->{until});
}

# Claims {id, token, attempt, from, end or until} of which two were in force at
# the same time, or were the same attempt.  crashes: as above.
sub overlaps
{
	my ($claims, %p) = @_;
	my (%jobs, @found);
	push @{ $jobs{ $_->{id} } }, $_ foreach @$claims;
	foreach my $id (keys %jobs)
	{
		my @c = sort { $a->{from} <=> $b->{from} } @{ $jobs{$id} };
		foreach my $i (1 .. $#c)
		{
			my ($before, $after) = @c[ $i - 1, $i ];
			my $what = "job $id, attempts $before->{attempt} by $before->{name} and $after->{attempt} by $after->{name}";
			push @found, "$what have one token" if $before->{token} eq $after->{token};
			# the attempt was lost with its claim, and is made again
			next if $before->{attempt} == $after->{attempt} && may_be_lost($before, $p{crashes});
			push @found, "$what have the wrong order" if $before->{attempt} >= $after->{attempt};
			my $until = $before->{ended} ? $before->{end} : certain_end($before);
			push @found, sprintf('%s overlap by %.3f s', $what, $until - $after->{from}) if $after->{from} < $until;
		}
	}
	return @found;
}

1;
