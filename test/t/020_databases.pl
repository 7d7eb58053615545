# The launcher and the workers: which databases have one, and that no statement
# finds a worker in its way.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqClient;
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;
use Time::HiRes qw(time);

my $node = jobq_node('databases', bare => 1, conf => 'restart_after_crash = on');
my $client = JobqClient->new($node);

# Names of the databases that have a worker.
sub databases
{
	return join ' ', map { $_->[0] } $client->rows(
		"SELECT datname FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND datname IS NOT NULL ORDER BY 1");
}

# One test: within a second these databases have workers.
sub databases_are
{
	my ($expected, $name, $seconds) = @_;
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	my $is;
	return ok(within($seconds // 1, sub { ($is = databases()) eq $expected }), $name)
	  || (diag("workers in: $is") && 0);
}

# A client of a database.
sub client
{
	my ($dbname, %param) = @_;
	return JobqClient->new($node, dbname => $dbname, %param) // die "no connection to $dbname";
}

# Does a scheduled job of this database become ready?
sub works
{
	my ($dbname) = @_;
	my $c = client($dbname);
	my $id = $c->value("SELECT job_submit('x', run_at => now() + '0.3 s', queue => 'works')");
	my $ok = within(5, sub { $c->value("SELECT state FROM job_status WHERE id = $id") eq 'ready' });
	$c->disconnect;
	return $ok;
}

ok(within(10, sub { backend_pids($node, '^jobq launcher$') == 1 }), 'a launcher runs');
databases_are('', 'no worker without the extension');

#
# CREATE EXTENSION, DROP EXTENSION
#

$client->rows('CREATE EXTENSION jobq');
databases_are('postgres', 'CREATE EXTENSION brings a worker');
ok(works('postgres'), '... that works');
$client->rows('DROP EXTENSION jobq');
databases_are('', 'DROP EXTENSION takes it away');

$client->rows('CREATE EXTENSION jobq');
databases_are('postgres', 'CREATE EXTENSION again');
$client->rows("SELECT job_queue_set('limited', max_running => 1)");
ok(within(10, sub { $client->value("SELECT cardinality(gates) FROM job_queue WHERE name = 'limited'") == 1 }), 'a queue with a limit');
$client->rows('DROP EXTENSION jobq; CREATE EXTENSION jobq');
ok(works('postgres'), 'DROP and CREATE EXTENSION in one transaction');
databases_are('postgres', '... leave a worker');
$client->rows("SELECT job_submit('x', queue => 'limited') FROM generate_series(1, 2)");
my $written = "SELECT string_agg(xmin::text, ' ') FROM job_ready WHERE queue_id = job_queue_id('limited')";
my $before = $client->value($written);
ok(works('postgres'), '... that works');
is($client->value($written), $before, '... and has forgotten the limits of before');

$client->rows('BEGIN; DROP EXTENSION jobq; ROLLBACK');
ok(works('postgres'), 'a rolled back DROP EXTENSION changes nothing');
$client->rows('CREATE SCHEMA gone');
$client->rows('DROP EXTENSION jobq; CREATE EXTENSION jobq SCHEMA gone');
$client->rows('DROP SCHEMA gone CASCADE');
databases_are('', 'DROP SCHEMA takes the worker away');

$client->rows('BEGIN; SAVEPOINT s; CREATE EXTENSION jobq; ROLLBACK TO s; COMMIT');
databases_are('', 'an extension whose savepoint was rolled back');
$client->rows('BEGIN; SAVEPOINT s; CREATE EXTENSION jobq; RELEASE s; COMMIT');
databases_are('postgres', 'an extension created in a savepoint');

# A worker at work does not hold up DROP EXTENSION.
$client->rows("SELECT job_submit('x', run_at => now() + '0.1 s') FROM generate_series(1, 3000)");
my $begin = time;
$client->rows('DROP EXTENSION jobq');
cmp_ok(time - $begin, '<', stretched(5), 'DROP EXTENSION with the worker at work');
databases_are('', '... and the worker leaves', 2);
$client->rows('CREATE EXTENSION jobq');
databases_are('postgres', '... and comes back');

#
# Several databases
#

$client->rows('CREATE DATABASE one');
$client->rows('CREATE DATABASE two');
$client->rows('CREATE DATABASE none');
client($_)->rows('CREATE EXTENSION jobq') foreach qw(one two);
databases_are('one postgres two', 'a worker for each database with the extension');
ok(works('one') && works('two'), '... which work');

# Jobs of one database are none of the other's business: the same ids, waiters.
my $waiter = client('one');
my $id = $waiter->value(q{SELECT job_submit('x', queue => 'q')});
$waiter->send(qq{CALL job_wait($id, '2 s')});
asleep($client, $waiter);
my $two = client('two');
my $other = $two->value(q{SELECT job_submit('x', queue => 'q')});
$two->rows(q{SELECT job_complete(job_id, token) FROM job_claim('q')}) foreach 1 .. 3;
is($waiter->receive->{rows}[0][0], 'ready', 'a job of another database does not wake');
$two->disconnect;
$waiter->disconnect;

# DROP DATABASE
$begin = time;
$client->rows('DROP DATABASE two');
cmp_ok(time - $begin, '<', stretched(3), 'DROP DATABASE is not held up by the worker');
databases_are('one postgres', '... which is gone');

# RENAME
$client->rows('ALTER DATABASE one RENAME TO uno');
databases_are('postgres uno', 'RENAME', 2);
ok(works('uno'), '... and the worker works on');
$client->rows('BEGIN; ALTER DATABASE uno RENAME TO one; ROLLBACK');
databases_are('postgres uno', 'RENAME rolled back', 2);

# SET TABLESPACE
my $dir = PostgreSQL::Test::Utils::tempdir;
$client->rows("CREATE TABLESPACE elsewhere LOCATION '$dir'");
$client->rows('ALTER DATABASE uno SET TABLESPACE elsewhere');
databases_are('postgres uno', 'SET TABLESPACE', 2);
ok(works('uno'), '... and the worker works on');

# While another session is connected, the statement fails and the worker is back.
my $blocker = client('uno');
my $r = $client->query('DROP DATABASE uno');
is($r->{sqlstate}, '55006', 'DROP DATABASE fails for others, not for the worker');
databases_are('postgres uno', '... and the worker is back', 2);
$blocker->disconnect;

# TEMPLATE: the copy does nothing until it is used.
my $uno = client('uno');
my $due = $uno->value("SELECT job_submit('x', run_at => now() + '1.5 s')");
$uno->disconnect;
$client->rows('CREATE DATABASE copy TEMPLATE uno');
databases_are('copy postgres uno', 'CREATE DATABASE TEMPLATE', 2);
$client->rows('CREATE DATABASE copy_by_file TEMPLATE = uno STRATEGY = file_copy');
$uno = client('uno');
is($uno->query('CREATE DATABASE copy_of_own TEMPLATE uno')->{sqlstate}, undef, 'a copy of the database that one is in');
ok(within(5, sub { $uno->value("SELECT state FROM job_status WHERE id = $due") eq 'ready' }),
	'the worker of the template works on');
my $copy = client('copy');
is($copy->value("SELECT state FROM job_status WHERE id = $due"), 'scheduled',
	'that of the copy does nothing');
is($copy->value('SELECT database <> (SELECT oid FROM pg_database WHERE datname = current_database()) FROM job_active_database'),
	't', '... it is not at home');
$copy->rows(q{SELECT job_submit('x')});
ok(within(5, sub { $copy->value("SELECT state FROM job_status WHERE id = $due") eq 'ready' }),
	'... until it is used');
$copy->disconnect;
$uno->disconnect;
$client->rows("DROP DATABASE $_") foreach qw(copy copy_by_file copy_of_own);
databases_are('postgres uno', 'the copies are dropped', 2);

# A template has no worker, and one that was released has again.
$client->rows('ALTER DATABASE uno IS_TEMPLATE true');
databases_are('postgres', 'a template has no worker', 3);
$client->rows('ALTER DATABASE uno IS_TEMPLATE false');
databases_are('postgres uno', '... until it is none any more', 3);

# Who may not run the statement cannot disturb the worker.
$client->rows('CREATE ROLE bystander LOGIN');
my ($pid) = backend_pids($node, '^jobq worker$', "datname = 'uno'");
my $bystander = client('postgres', user => 'bystander');
is($bystander->query("$_")->{sqlstate}, '42501', "refused: $_")
  foreach 'DROP DATABASE uno', 'ALTER DATABASE uno RENAME TO x', 'CREATE DATABASE x TEMPLATE uno',
  'ALTER DATABASE uno SET TABLESPACE pg_default';
$client->rows('ALTER ROLE bystander CREATEDB');
is($bystander->query('CREATE DATABASE x TEMPLATE uno')->{sqlstate}, '42501',
	'refused: CREATE DATABASE from a database of somebody else');
is_deeply([ backend_pids($node, '^jobq worker$', "datname = 'uno'") ], [$pid],
	'... and the worker was not disturbed');
$bystander->disconnect;

# A session that is terminated while it keeps the worker away lets go of it.
$client->rows('BEGIN; ALTER DATABASE uno RENAME TO one');
databases_are('postgres', 'the worker is kept away until the transaction ends', 2);
my $killer = client('postgres');
$killer->rows('SELECT pg_terminate_backend(' . $client->pid . ')');
$client = $killer;
databases_are('postgres uno', '... even if its session is terminated', 3);

# The owner of a database, who is no superuser, can drop it.
$client->rows('CREATE DATABASE his OWNER bystander');
client('his')->rows('CREATE EXTENSION jobq');
databases_are('his postgres uno', 'a database of somebody else');
$bystander = client('postgres', user => 'bystander');
ok(!$bystander->query('DROP DATABASE his')->{sqlstate}, 'its owner drops it');
$bystander->disconnect;
databases_are('postgres uno', '... with its worker', 2);

#
# Processes that end
#

($pid) = backend_pids($node, '^jobq worker$', "datname = 'uno'");
$client->rows("SELECT pg_terminate_backend($pid)");
ok(within(5, sub { my ($new) = backend_pids($node, '^jobq worker$', "datname = 'uno'"); $new && $new != $pid }),
	'a terminated worker is started again');
ok(works('uno'), '... and works');

($pid) = backend_pids($node, '^jobq launcher$');
$client->rows("SELECT pg_terminate_backend($pid)");
ok(within(10, sub { my ($new) = backend_pids($node, '^jobq launcher$'); $new && $new != $pid }),
	'a terminated launcher is started again');
client('none')->rows('CREATE EXTENSION jobq');
databases_are('none postgres uno', '... and launches');
is(scalar(backend_pids($node, '^jobq worker$')), 3, '... no second worker for the others');
client('none')->rows('DROP EXTENSION jobq');
databases_are('postgres uno', '... and loses them');

foreach my $type ('jobq worker', 'jobq launcher')
{
	my ($victim) = backend_pids($node, "^$type\$");
	kill('KILL', $victim);
	ok(within(30, sub { !process_lives($victim) && ($client = JobqClient->new($node))
				&& (eval { databases() } // '') eq 'postgres uno' }),
		"kill -9 of a $type: all of them come back");
}
ok(works('postgres') && works('uno'), '... and work');

$client->disconnect;
$begin = time;
$node->stop('fast');
cmp_ok(time - $begin, '<', stretched(3), 'shutdown is not held up');
$node->start;
$client = JobqClient->new($node);
databases_are('postgres uno', 'after a restart the workers are there', 5);

# More databases than are looked into at a time.  Nothing but what was found there wakes the launcher.
$client->rows("CREATE DATABASE d$_ TEMPLATE uno") foreach 1 .. 4;
$client->disconnect;
$node->restart;
$client = JobqClient->new($node);
databases_are('d1 d2 d3 d4 postgres uno', '... all of them', 10);

# DROP DATABASE right after the start, while databases are looked into
$client->disconnect;
$node->restart;
$client = JobqClient->new($node);
$r = undef;
$r //= $client->query("DROP DATABASE d$_")->{sqlstate} foreach 1 .. 4;
is($r, undef, 'DROP DATABASE while workers start');
databases_are('postgres uno', '... leaves the others', 5);

unlike(slurp_file($node->logfile), qr/PANIC:|TRAP:|jobq worker could not|does not exist/, 'nothing bad in the log');
$client->disconnect;
$node->stop;

#
# Fewer workers than databases
#

$node->append_conf('postgresql.conf', 'max_worker_processes = 4');	# with two launchers
$node->start;
$client = JobqClient->new($node);
$client->rows("CREATE DATABASE t$_ TEMPLATE uno") foreach 1 .. 4;
my @all = ('postgres', 'uno', map { "t$_" } 1 .. 4);
my @jobs = map { my $c = client($_); my $j = $c->value("SELECT job_submit('x', run_at => now() + '2 s')"); $c->disconnect; $j } @all;
my %ready;
ok(within(30, sub {
		foreach my $i (0 .. $#all)
		{
			next if $ready{$i};
			my $c = client($all[$i]);
			$ready{$i} = 1 if $c->value("SELECT state FROM job_status WHERE id = $jobs[$i]") eq 'ready';
			$c->disconnect;
		}
		return keys %ready == @all;
	}), 'databases take turns') || diag('ready in: ' . join ' ', map { $all[$_] } sort keys %ready);
my @warnings = slurp_file($node->logfile) =~ /too few background workers/g;
is(scalar(@warnings), 1, '... which is logged once');
$client->disconnect;
$node->stop;

# Fewer slots than databases: those without say so once, and get one when another is free.
$node->append_conf('postgresql.conf', "max_worker_processes = 20\njobq.max_databases = 2");
$node->start;
$client = JobqClient->new($node);
ok(within(10, sub { my @d = split / /, databases(); @d == 2 }), 'as many workers as slots');
client($_)->rows(q{SELECT job_submit('x')}) foreach @all;
ok(within(10, sub { slurp_file($node->logfile) =~ /too many databases use jobq/ }), 'which is logged');
foreach my $db (grep { $_ ne 'postgres' } @all)
{
	$client->rows("DROP DATABASE $db") unless $db eq 't4';
}
ok(within(10, sub { databases() eq 'postgres t4' }), 'a free slot is given away') || diag(databases());
$client->rows('DROP DATABASE t4');
$client->rows('CREATE DATABASE t5');
client('t5')->rows('CREATE EXTENSION jobq');
databases_are('postgres t5', '... and not kept by the template of a new database', 10);
$client->disconnect;
$node->stop;

done_testing();
