# A client that speaks the frontend/backend protocol by itself: many of them
# can be forked, each knows exactly which of its statements were acknowledged,
# sees every SQLSTATE, and lives through the death of its server.
package JobqClient;

use strict;
use warnings;

use IO::Select;
use IO::Socket::UNIX;
use PostgreSQL::Test::Utils;
use Time::HiRes qw(time);

# JobqClient->new($node, dbname => ..., user => ..., name => ...); returns undef
# if the server cannot be reached or refuses.
sub new
{
	my ($class, $node, %param) = @_;
	my $self = bless {
		path => $node->host . '/.s.PGSQL.' . $node->port,
		dbname => $param{dbname} // 'postgres',
		user => $param{user} // $ENV{PGUSER} // scalar getpwuid($>),
		name => $param{name} // 'client',
		log => $node->logfile,
		limit => 2 * $PostgreSQL::Test::Utils::timeout_default,
		notifications => [],
		pid => 0
	}, $class;
	return $self->connect ? $self : undef;
}

# Connect, or connect again; false if that is not possible.
sub connect
{
	my ($self) = @_;
	$self->disconnect;
	my $socket = IO::Socket::UNIX->new(Peer => $self->{path}) or return 0;
	$self->{socket} = $socket;
	$self->{buffer} = '';
	$self->{asked} = 'to be let in';
	my $options = join "\0", 'user', $self->{user}, 'database', $self->{dbname},
	  'application_name', $self->{name}, 'client_encoding', 'UTF8', '', '';
	$self->_write(pack('N N a*', 8 + length($options), 196608, $options));
	my $r = $self->receive;
	if ($r->{lost} || $r->{sqlstate})
	{
		$self->disconnect;
		return 0;
	}
	return 1;
}

sub disconnect
{
	my ($self) = @_;
	close($self->{socket}) if $self->{socket};
	delete $self->{socket};
	return;
}

sub connected { return defined $_[0]{socket}; }

# The process on the other side.
sub pid { return $_[0]{pid}; }

# I: idle, T: in a transaction, E: in a failed one.
sub status { return $_[0]{status}; }

sub _write
{
	my ($self, $bytes) = @_;
	local $SIG{PIPE} = 'IGNORE';
	while (length $bytes)
	{
		my $n = syswrite($self->{socket}, $bytes);
		return 0 unless defined $n;
		substr($bytes, 0, $n, '');
	}
	return 1;
}

# What is to be known of a server that does not answer.
my @held_up = (
	'sessions' => <<'EOQ',
SELECT pid, pg_blocking_pids(pid) AS blocked_by, backend_type, state, wait_event_type, wait_event, now() - xact_start AS since, query FROM pg_stat_activity ORDER BY pid
EOQ
	# of a row that is waited for: its tuple lock, and the transaction that has it
	'locks' => <<'EOQ',
SELECT l.pid, l.granted, l.mode, l.locktype, l.relation::regclass, l.page, l.tuple, l.transactionid, p.gid, a.query
FROM pg_locks l LEFT JOIN pg_stat_activity a USING (pid) LEFT JOIN pg_prepared_xacts p ON l.virtualtransaction = '-1/' || p.transaction
WHERE NOT l.granted OR l.locktype IN ('tuple', 'transactionid') OR (p.gid IS NOT NULL AND l.mode NOT IN ('AccessShareLock', 'RowExclusiveLock'))
ORDER BY l.granted, l.pid
EOQ
	'prepared transactions' => 'SELECT transaction, gid, now() - prepared AS since FROM pg_prepared_xacts');

# Say on standard error, so in the log of the test, what may keep the answer to the last query: asked in another session.
sub _explain_silence
{
	my ($self, $seconds) = @_;
	my $other = bless { %$self, name => 'silence', limit => 10, notifications => [] }, ref $self;
	delete $other->{socket};
	print STDERR "no answer for $seconds s to $self->{name}, server process $self->{pid}: $self->{asked}\n";
	eval {
		$other->connect or die "no other connection either\n";
		for (my $i = 0; $i < @held_up; $i += 2)
		{
			print STDERR "$held_up[$i]:\n", map { join(' | ', map { $_ // '' } @$_) . "\n" } $other->rows($held_up[ $i + 1 ]);
		}
	};
	print STDERR $@ if $@;
	$other->disconnect;
	my @lines = split /^/, slurp_file($self->{log});
	print STDERR "end of the server's log:\n", @lines[ (@lines > 200 ? -200 : -@lines) .. -1 ];
	return;
}

# Next message, as (type, body); empty when the connection is lost.
sub _message
{
	my ($self, $end) = @_;
	my $silent = time + 60;
	while (1)
	{
		if (length $self->{buffer} >= 5)
		{
			my ($type, $length) = unpack('a N', $self->{buffer});
			if (length $self->{buffer} >= 1 + $length)
			{
				my $body = substr($self->{buffer}, 5, $length - 4);
				substr($self->{buffer}, 0, 1 + $length, '');
				return ($type, $body);
			}
		}
		my $left = $end - time;
		die "no answer from the server in time" if $left <= 0;
		if (time >= $silent)
		{
			$self->_explain_silence(60);
			$silent = $end;
		}
		IO::Select->new($self->{socket})->can_read($silent < $end ? $silent - time : $left) or next;    # a signal, or time is out
		my $n = sysread($self->{socket}, $self->{buffer}, 65536, length $self->{buffer});
		return unless $n;
	}
}

# Send a query, or several separated by semicolons; false: connection lost.
sub send
{
	my ($self, $sql) = @_;
	return 0 unless $self->{socket};
	$self->{asked} = $sql;
	return $self->_write(pack('a N a* x', 'Q', 5 + length($sql), $sql));
}

# Several statements in one pipeline, hence in one transaction.  Returns what
# receive does; the rows are those of the last statement that returned any.
sub pipeline
{
	my ($self, @sql) = @_;
	my $bytes = '';
	$self->{asked} = join '; ', @sql;
	foreach my $sql (@sql)
	{
		$bytes .= pack('a N x a* x n', 'P', 4 + 1 + length($sql) + 1 + 2, $sql, 0);
		$bytes .= pack('a N x x n n n', 'B', 4 + 2 + 6, 0, 0, 0);
		$bytes .= pack('a N a x', 'D', 4 + 2, 'P');
		$bytes .= pack('a N x N', 'E', 4 + 1 + 4, 0);
	}
	$self->_write($bytes . pack('a N', 'S', 4)) or return do { $self->disconnect; { rows => [], lost => 1 } };
	return $self->receive;
}

# Has anything of the answer arrived?
sub answered
{
	my ($self, $wait) = @_;
	return 1 if length $self->{buffer};
	return scalar IO::Select->new($self->{socket})->can_read($wait // 0);
}

# Receive the answer: {rows, sqlstate, message, detail, hint} of the last statement
# that returned rows, or {lost => 1}.
sub receive
{
	my ($self) = @_;
	my $end = time + $self->{limit};
	my $r = { rows => [] };
	while ($self->{socket})
	{
		my ($type, $body) = $self->_message($end);
		last unless defined $type;
		if ($type eq 'D')
		{
			my ($n, $at, @row) = (unpack('n', $body), 2);
			foreach (1 .. $n)
			{
				my $length = unpack('l>', substr($body, $at, 4));
				$at += 4;
				push @row, $length < 0 ? undef : substr($body, $at, $length);
				$at += $length if $length > 0;
			}
			push @{ $r->{rows} }, \@row;
		}
		elsif ($type eq 'T') { $r->{rows} = []; }
		elsif ($type eq 'E')
		{
			my %field = map { substr($_, 0, 1) => substr($_, 1) } grep { length } split /\0/, $body;
			@$r{qw(sqlstate message detail hint)} = @field{qw(C M D H)};
			if ($field{S} eq 'FATAL' || $field{S} eq 'PANIC')
			{
				$self->disconnect;
				return { %$r, lost => 1 };
			}
		}
		elsif ($type eq 'A') { push @{ $self->{notifications} }, [ unpack('x4 Z* Z*', $body) ]; }
		elsif ($type eq 'K') { $self->{pid} = unpack('N', $body); }
		elsif ($type eq 'Z')
		{
			$self->{status} = $body;
			return $r;
		}
	}
	$self->disconnect;
	return { rows => [], lost => 1 };
}

# One round trip.
sub query
{
	my ($self, $sql) = @_;
	$self->send($sql) or return do { $self->disconnect; { rows => [], lost => 1 } };
	return $self->receive;
}

# The same; dies of an error that is not among those expected.
sub try
{
	my ($self, $statement, $expected) = @_;
	my $r = $self->query($statement);
	die "$r->{sqlstate} $r->{message}: $statement" if $r->{sqlstate} && !$expected->{ $r->{sqlstate} };
	return $r;
}

# The rows of a query that must not fail.
sub rows
{
	my ($self, $sql) = @_;
	my $r = $self->query($sql);
	die "connection lost by: $sql" if $r->{lost};
	die "$r->{sqlstate} $r->{message} by: $sql" if $r->{sqlstate};
	return @{ $r->{rows} };
}

# The first value of the first row.
sub value
{
	my ($self, $sql) = @_;
	my ($row) = $self->rows($sql);
	return $row ? $row->[0] : undef;
}

# The same, done again after a deadlock or a serialization failure.
sub retry_rows
{
	my ($self, $sql) = @_;
	foreach (1 .. 100)
	{
		my $r = $self->query($sql);
		next if ($r->{sqlstate} // '') =~ /^40/;
		die "connection lost by: $sql" if $r->{lost};
		die "$r->{sqlstate} $r->{message} by: $sql" if $r->{sqlstate};
		return @{ $r->{rows} };
	}
	die "a hundred deadlocks in a row by: $sql";
}

# A string or NULL as a literal.
sub quote
{
	my ($value) = @_;
	return 'NULL' unless defined $value;
	$value =~ s/'/''/g;
	return $value =~ s/\\/\\\\/g ? " E'$value'" : "'$value'";
}

1;
