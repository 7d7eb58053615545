# What the tests of jobq-worker share: workers that are started, signalled and
# waited for, and the jobs that they are given.
package JobqWorker;

use strict;
use warnings;

use Exporter 'import';
use JobqTest;
use POSIX ':sys_wait_h';
use PostgreSQL::Test::Utils;
use Test::More;

our @EXPORT = qw(start_worker start_worker_by submit state_is job_field slurp_pid);

my @workers;

# Submit a job; the argument is what stands in the parentheses.
sub submit
{
	my ($node, $args) = @_;
	return $node->safe_psql('postgres', "SELECT job_submit($args)");
}

sub job_field
{
	my ($node, $job, $field) = @_;
	return $node->safe_psql('postgres',
		"SELECT $field FROM job_status WHERE id = $job");
}

# A test that the job comes to this state.
sub state_is
{
	my ($node, $job, $state, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $found;
	poll_until(
		sub {
			$found = job_field($node, $job, 'state');
			return $found eq $state;
		});
	return is($found, $state, $name);
}

# The number that a command has written to a file, once it is there.
sub slurp_pid
{
	my ($file) = @_;
	poll_until(sub { -s $file && slurp_file($file) =~ /\n/ })
	  or die "no process wrote $file";
	my ($pid) = slurp_file($file) =~ /(\d+)/;
	return $pid;
}

# Start a worker on a node.  Its log, and what it prints, are in the returned object's files.
sub start_worker
{
	my ($node, @args) = @_;
	return start_worker_by($node, [], @args);
}

# The same by another program, which is given its command line.
sub start_worker_by
{
	my ($node, $by, @args) = @_;
	my $name = sprintf('%s/worker_%03d', $PostgreSQL::Test::Utils::log_path, scalar(@workers));
	my $self = bless { log => "$name.log", out => "$name.out" }, 'JobqWorker';
	my @command = (
		@$by, 'jobq-worker', '--dbname', $node->connstr('postgres'),
		'--verbose', @args);

	note('running: ' . join(' ', @command));
	$self->{pid} = fork // die "fork: $!";
	if ($self->{pid} == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', $self->{out});
		open(STDERR, '>', $self->{log});
		# It ignores what it was started to ignore, as the tests are by nohup.
		$SIG{$_} = 'DEFAULT' foreach qw(HUP INT QUIT TERM);
		{ exec(@command); }
		print STDERR "could not run $command[0]: $!\n";
		POSIX::_exit(126);
	}
	push @workers, $self;
	return $self;
}

sub signal
{
	my ($self, $signal) = @_;
	kill($signal, $self->{pid}) if defined $self->{pid};
	return;
}

# Wait until it has logged this.
sub wait_for_log
{
	my ($self, $pattern) = @_;
	return poll_until(
		sub { -e $self->{log} && slurp_file($self->{log}) =~ $pattern });
}

# What it has printed by now, without the times.
sub printed
{
	my ($self) = @_;
	my $out = -e $self->{out} ? slurp_file($self->{out}) : '';
	$out =~ s/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z //mg;
	return $out;
}

# Wait until it has printed this.
sub wait_for_output
{
	my ($self, $pattern) = @_;
	return poll_until(sub { $self->printed =~ $pattern });
}

# Wait for its end.  Returns the wait status.
sub finish
{
	my ($self) = @_;
	my $status;
	my $ended = poll_until(
		sub {
			return 0 if waitpid($self->{pid}, WNOHANG) == 0;
			$status = $?;
			return 1;
		});
	die "jobq-worker did not end; its log: " . slurp_file($self->{log})
	  unless $ended;
	delete $self->{pid};
	return $status;
}

# A test that it ends with this exit status.
sub ends_with
{
	my ($self, $expected, $name) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $status = $self->finish;
	my $ok = is($status, $expected << 8, $name);
	diag(slurp_file($self->{log})) unless $ok;
	return $ok;
}

# None outlives its test.
END
{
	my $exit = $?;
	foreach my $worker (grep { defined $_->{pid} } @workers)
	{
		kill('KILL', $worker->{pid});
		waitpid($worker->{pid}, 0);
	}
	$? = $exit;
}

1;
