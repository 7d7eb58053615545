# jobq-worker: --help, --version, and a clear error for each bad option.
use strict;
use warnings;

use IPC::Run;
use PostgreSQL::Test::Utils;
use Test::More;

my $program = 'jobq-worker';

command_checks_all([ $program, '--help' ],
	0, [qr/^Usage:/m, qr/--kind=NAME/, qr/:noop/, qr/--drain-timeout/, qr/--once/], [qr/^$/], '--help');
command_checks_all([ $program, '-h' ], 0, [qr/^Usage:/m], [qr/^$/], '-h');
command_checks_all([ $program, '--version' ],
	0, [qr/^jobq-worker \(jobq\) \d+\.\d+$/], [qr/^$/], '--version');

my ($help) = run_command([ $program, '--help' ]);
is(join("\n", grep { length > 80 } split /\n/, $help), '', '--help fits into 80 columns');

command_checks_all([ 'sh', '-c', 'ulimit -n 64; exec jobq-worker --kind k=true --concurrency 100' ],
	2, [qr/^$/], [qr/--concurrency 100 needs 335 open files, more than the limit \(ulimit -n\)/], 'too few open files');

command_checks_all([ 'sh', '-c', 'exec jobq-worker --kind k=true $(seq -f "--queue q%.0f" 1001)' ],
	2, [qr/^$/], [qr/^jobq-worker: more than 1000 queues; start several workers, each for some of them$/m], 'too many queues');

# The options, and the error they make.
my @kind = ('--kind', 'k=true');
my @cases = (
	[ [], 'no --kind is given: it says what to run' ],
	[ ['--nonsense'], q{unrecognized option '--nonsense'} ],
	[ ['--queue'], q{option '--queue' requires an argument} ],
	[ [ @kind, 'extra' ], 'unexpected argument "extra"' ],
	[ [ '--kind', 'k' ], '--kind must be NAME=COMMAND, not "k"' ],
	[ [ '--kind', '=true' ], '--kind needs a name of 1 to 128 bytes' ],
	[ [ '--kind', 'k' x 129 . '=true' ], '--kind needs a name of 1 to 128 bytes' ],
	[ [ '--kind', "a\tb=true" ], '--kind must have a name without control characters' ],
	[ [ '--kind', 'k= ' ], '--kind "k" has no command' ],
	[ [ @kind, @kind ], '--kind "k" is given twice' ],
	[ [ '--kind', 'k=:nop' ], '--kind "k" names an unknown built-in handler ":nop"; there is ":noop"' ],
	[ [ '--kind', 'k=:noop now' ], '--kind "k" names an unknown built-in handler ":noop now"' ],
	[ [ '--kind', 'k=:' ], '--kind "k" names an unknown built-in handler ":"' ],
	[ [ @kind, '--queue', 'a b' ], '--queue must be 1 to 50 letters, digits, "_", "." or "-", not "a b"' ],
	[ [ @kind, '--queue', 'a,b' ], 'not "a,b"; repeat --queue for several' ],
	[ [ @kind, '--queue', 'q' x 51 ], '--queue must be 1 to 50 letters' ],
	[ [ @kind, '--queue', '' ], '--queue must be 1 to 50 letters' ],
	[ [ @kind, '--queue', 'a', '--queue', 'a' ], '--queue "a" is given twice' ],
	[ [ @kind, '--concurrency', '0' ], '--concurrency must be a whole number from 1 to 1000, not "0"' ],
	[ [ @kind, '--concurrency', '1001' ], '--concurrency must be a whole number from 1 to 1000, not "1001"' ],
	[ [ @kind, '--concurrency', '4x' ], '--concurrency must be a whole number from 1 to 1000, not "4x"' ],
	[ [ @kind, '--concurrency', '' ], '--concurrency must be a whole number from 1 to 1000, not ""' ],
	[ [ @kind, '--pool', '33' ], '--pool must be a whole number from 1 to 32, not "33"' ],
	[ [ @kind, '--max-jobs', '-1' ], '--max-jobs must be a whole number from 1 to 2147483647, not "-1"' ],
	[ [ @kind, '--worker', '' ], '--worker needs a name of 1 to 128 bytes' ],
	[ [ @kind, '--worker', "a\nb" ], '--worker must have a name without control characters' ],
	[ [ @kind, '--label', '' ], '--label needs a name of 1 to 128 bytes' ],
	[ [ @kind, map { ('--label', $_) } 1 .. 101 ], 'more than 100 labels' ],
	(map { [ [ @kind, '--flow', $_ ], "--flow must be the id of a flow, not \"$_\"" ] } '', '0', '-1', 'x', '1x', ' 1', '9223372036854775808'),
	[ [ @kind, '--flow', '1', '--queue', 'q' ], '--flow takes its members from whatever queues: --queue cannot be given' ],
	[ [ @kind, '--until-idle' ], '--until-idle needs --flow' ],
	[ [ @kind, '--flow', '1', '--until-idle', '--once' ], '--until-idle and --once cannot both be given' ],
	[ [ @kind, '--version=' ], '--version needs a name of 1 to 128 bytes' ],
	[ [ @kind, '--version', "a\tb" ], '--version must have a name without control characters' ],
	[ [ @kind, '--output', 'xml' ], '--output must be json, text or discard, not "xml"' ],
	[ [ @kind, '--output', '' ], '--output must be json, text or discard, not ""' ],
	[ [ @kind, '--schema', '' ], '--schema needs a name' ],
	[ [ @kind, '--dbname', 'nonsense=1' ], '--dbname: invalid connection option "nonsense"' ],
	[ [ @kind, '--wait-dbname', 'postgresql://[::1/' ], '--wait-dbname: ' ],
	[ [ @kind, '--exit-when-idle', '0' ], '--exit-when-idle must be from 1 ms to 366 days, not "0"' ],
	[ [ @kind, '--heartbeat', '1ms' ], '--heartbeat must be from 50 ms to 366 days, not "1ms"' ],
	[ [ @kind, '--lease', '367d' ], '--lease must be from 1000 ms to 366 days, not "367d"' ],);
foreach my $option (
	qw(timeout kill-after lease heartbeat poll-interval drain-timeout
	exit-when-idle reconnect-max until-idle))
{
	foreach my $value ('', 'soon', '-1', '5 s', 'inf', '0x10', '1e3', '3w')
	{
		push @cases,
		  [
			[ @kind, "--$option=$value" ],
			"--$option must be a time such as 500ms, 30s, 5min or 2h, not \"$value\""
		  ];
	}
}
foreach my $case (@cases)
{
	my ($options, $error) = @$case;
	my ($out, $err);
	IPC::Run::run([ $program, @$options ],
		'>', \$out, '2>', \$err, IPC::Run::timeout(60));
	my $status = $? >> 8;
	my $told = $err =~ /\Q$error\E/
	  && $err =~ /^jobq-worker: Try "jobq-worker --help" for more information\.$/m;
	ok($status == 2 && $out eq '' && $told, "bad options: @$options" =~ s/\s+/ /gr)
	  or diag("status $status, output: $out$err");
}

done_testing();
