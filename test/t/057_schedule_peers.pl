# Compares the times of random schedules in random zones with two independent
# implementations: cronsim (Python), which follows Debian's cron, too, and croner
# (JavaScript).  It installs nothing: one that is not there is skipped.
#
# The schedules are random, the same in each run.  Half of them are asked for
# from shortly before a clock was changed.  The years are past ones, on which all
# copies of the time zone database agree.
#
# Where a peer has another language or other rules, schedules are put into its
# words, or it is not asked:
#
# cronsim knows no names before L.  What follows the clock it looks for in steps
# of an hour: where the clock was changed at midnight, or within an hour, it finds
# hours that are not the schedule's, misses some, or goes on forever, so it is not
# asked across such a change.  For what is fixed it takes the second of the hours
# that come twice for the first: what it finds there that has passed is left out.
#
# croner has an option for whether both of day of month and day of week must
# hold, and writes 5L as 5#L.  It takes each field with a step for one that follows
# the clock, so it is not asked for ranges with steps in minute and hour.  In Samoa
# it passes over the day that was skipped in 2011.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use JobqTest;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $count = 10000;
my $dir = PostgreSQL::Test::Utils::tempdir;
my @zones = qw(UTC Europe/Berlin Europe/London America/New_York America/St_Johns America/Sao_Paulo America/Santiago Africa/Cairo
  Africa/Casablanca Asia/Kolkata Asia/Kathmandu Asia/Tehran Asia/Gaza Australia/Lord_Howe Australia/Sydney Pacific/Chatham Pacific/Apia);
# of these, those that change their clocks at midnight or within an hour
my $odd = qr/St_Johns|Sao_Paulo|Santiago|Cairo|Tehran|Gaza|Lord_Howe|Chatham|Apia/;
my @months = qw(jan feb mar apr may jun jul aug sep oct nov dec);
my @weekdays = qw(sun mon tue wed thu fri sat);

my $node = jobq_node('peers');
$node->safe_psql('postgres', <<'EOS');
-- seconds since 1970; none if there is no such date
CREATE FUNCTION times(schedule text, zone text, after bigint, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	detail text;
BEGIN
	RETURN (SELECT string_agg(extract(epoch FROM t)::bigint::text, ' ') FROM job_schedule_times(schedule, zone, to_timestamp(after), n) t);
EXCEPTION WHEN invalid_parameter_value THEN
	GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
	IF detail <> 'No day has such a day of month, month and day of week.' THEN
		RAISE;
	END IF;
	RETURN '';
END
$$;
EOS

# The days before a clock was changed, in 2005 to 2022.
my %changes;
foreach my $line (split /\n/, $node->safe_psql('postgres', <<"EOS"))
SELECT zone, extract(epoch FROM t)::bigint
FROM unnest('{@{[ join ',', @zones ]}}'::text[]) zone, generate_series('2005-01-01 12:00+00'::timestamptz, '2022-12-01', '1 day') t
WHERE (t + interval '1 day') AT TIME ZONE zone - t AT TIME ZONE zone <> interval '1 day'
ORDER BY 1, 2
EOS
{
	my ($zone, $epoch) = split /\|/, $line;
	push @{ $changes{$zone} }, $epoch;
}

srand(12);
my @cases = map { random_case() } 1 .. $count;
append_to_file("$dir/cases", join('', map { join("\t", @{$_}{qw(schedule zone after n)}) . "\n" } @cases));
my @ours = split /\n/, $node->safe_psql('postgres', <<"EOS"), -1;
CREATE TABLE cases (id serial, schedule text, zone text, after bigint, n int);
\\copy cases (schedule, zone, after, n) from '$dir/cases'
SELECT times(schedule, zone, after, n) FROM cases ORDER BY id
EOS
$cases[$_]{ours} = $ours[$_] for 0 .. $#cases;
is(scalar(@ours), $count, 'every schedule was read');
cmp_ok(scalar(grep { $_ ne '' } @ours), '>', 0.98 * $count, 'nearly all have times');
cmp_ok(scalar(grep { /^\S+ \S/ } @ours), '>', 0.98 * $count, 'nearly all of these more than one');

my ($python) = grep { succeeds($_, '-c', 'import cronsim, zoneinfo') } qw(python3 /usr/bin/python3);
SKIP:
{
	skip 'cronsim is not here', 1 unless $python;
	compare('cronsim', $python, \&for_cronsim, <<'EOP');
import sys
from datetime import datetime, timezone
from itertools import islice
from zoneinfo import ZoneInfo
from cronsim import CronSim, CronSimError

for line in open(sys.argv[1]):
    schedule, zone, after, n, _ = line.rstrip("\n").split("\t")
    if schedule == "":
        print()
        continue
    start = datetime.fromtimestamp(int(after), timezone.utc).astimezone(ZoneInfo(zone) if zone != "UTC" else timezone.utc)
    try:
        times = (int(t.timestamp()) for t in CronSim(schedule, start))
        print(*islice((t for t in times if t > int(after)), int(n)))
    except CronSimError:
        print()
EOP
}

chomp(my $modules = `npm root -g 2>/dev/null </dev/null` // '');
local $ENV{NODE_PATH} = "$modules:/usr/share/nodejs";
SKIP:
{
	skip 'croner is not here', 1 unless succeeds('node', '-e', 'require("croner")');
	compare('croner', 'node', \&for_croner, <<'EOP');
const { Cron } = require("croner");
const lines = require("fs").readFileSync(process.argv[2], "utf8").split("\n").slice(0, -1);
console.log(lines.map((line) => {
  const [schedule, zone, after, n, both] = line.split("\t");
  if (schedule === "") return "";
  const job = new Cron(schedule, { timezone: zone, paused: true, domAndDow: both === "1", fixedTimeRule: "no-wildcard" });
  return job.nextRuns(Number(n), new Date(after * 1000)).map((t) => t.getTime() / 1000).join(" ");
}).join("\n"));
EOP
}

$node->stop;
done_testing();

sub succeeds
{
	my @command = @_;
	my ($out, $err) = ('', '');
	return eval { IPC::Run::run(\@command, '<', \undef, '>', \$out, '2>', \$err) };
}

# Run a peer's program over the cases, in its words, and compare what it is asked.
sub compare
{
	my ($name, $interpreter, $translate, $program) = @_;
	my ($out, $err) = ('', '');
	my @asked = map { $translate->($_) // '' } @cases;
	my @different;
	my $n = 0;

	append_to_file("$dir/$name", $program);
	append_to_file("$dir/$name.cases",
		join('', map { join("\t", $asked[$_], @{ $cases[$_] }{qw(zone after n both)}) . "\n" } 0 .. $#cases));
	IPC::Run::run([ $interpreter, "$dir/$name", "$dir/$name.cases" ], '<', \undef, '>', \$out, '2>', \$err,
		IPC::Run::timeout(10 * $PostgreSQL::Test::Utils::timeout_default))
	  or die "$name: $err";
	my @theirs = split /\n/, $out, -1;
	foreach my $i (0 .. $#cases)
	{
		next if $asked[$i] eq '';
		$n++;
		push @different, "$cases[$i]{schedule} ($asked[$i]) in $cases[$i]{zone} after $cases[$i]{after}: $ours[$i], $name: $theirs[$i]"
		  if $theirs[$i] ne $ours[$i];
	}
	is(scalar(@different), 0, "$name: the same times of $n schedules") or diag(join("\n", @different[ 0 .. ($#different < 19 ? $#different : 19) ]));
	cmp_ok($n, '>', 0.7 * $count, "$name: most were compared");
	return;
}

sub for_cronsim
{
	my ($case) = @_;
	my @fields = split / /, $case->{schedule};

	return if !$case->{fixed} && $case->{zone} =~ $odd && meets_change($case);
	$fields[4] =~ s/(sun|mon|tue|wed|thu|fri|sat)L/weekday($1) . 'L'/ge;
	return "@fields";
}

sub for_croner
{
	my ($case) = @_;
	my @fields = split / /, $case->{schedule};

	$fields[4] =~ s/L/#L/g;
	return if grep { m{-.*/} } @fields[ 0, 1 ];
	return if $case->{fixed} && $case->{zone} eq 'Pacific/Apia' && meets_change($case, 1325073600, 1325332800);
	return "@fields";
}

# Whether a clock was changed from a day before the case's first time to its
# last, of all changes or those between two times.
sub meets_change
{
	my ($case, $from, $to) = @_;
	my ($last) = $case->{ours} =~ /(\d+)$/ or return 0;

	return scalar grep {
		$_ >= ($from // 0) && $_ <= ($to // $_) && $_ + 86400 >= $case->{after} && $_ <= $last
	} @{ $changes{ $case->{zone} } // [] };
}

sub weekday
{
	my ($name) = @_;
	return (grep { $weekdays[$_] eq $name } 0 .. 6)[0];
}

sub one
{
	return $_[ int(rand(@_)) ];
}

sub between
{
	my ($min, $max) = @_;
	return $min + int(rand($max - $min + 1));
}

# A value, or the name that it has.
sub value
{
	my ($value, $names) = @_;
	my $name = $names && $names->[$value];
	return $value unless $name && rand() < 0.3;
	return rand() < 0.2 ? uc $name : $name;
}

# A field that is "*" with the probability that is given; what can stand in
# a list beside values, ranges and steps are its extras.
sub field
{
	my ($star, $min, $max, $names, @extras) = @_;

	return '*' if rand() < $star;
	return '*/' . between(2, $max - $min) if rand() < 0.15;
	return join(',', map { item($min, $max, $names, @extras) } 1 .. one(1, 1, 1, 2, 3));
}

sub item
{
	my ($min, $max, $names, @extras) = @_;

	return one(@extras) if @extras && rand() < 0.25;
	my ($first, $last) = sort { $a <=> $b } between($min, $max), between($min, $max);
	return value($first, $names) if $first == $last || rand() < 0.5;
	my $range = value($first, $names) . '-' . value($last, $names);
	return rand() < 0.7 ? $range : "$range/" . between(1, $max - $min);
}

sub random_case
{
	my $weekday = between(0, 7);
	my $zone = one(@zones);
	my %case = (zone => $zone, n => 6);
	my @fields = (
		field(0.15, 0, 59),
		rand() < 0.3 ? field(0, 0, 3) : field(0.2, 0, 23),
		field(0.5, 1, 31, undef, 'L'),
		field(0.6, 1, 12, [ undef, @months ]),
		field(0.5, 0, 6, \@weekdays, "$weekday#" . between(1, 5), value($weekday % 7, \@weekdays) . '#' . between(1, 5), "${weekday}L"));

	# a change of the clock is seldom met by what names a date
	if ($changes{$zone} && rand() < 0.5)
	{
		@fields[ 2 .. 4 ] = ('*', '*', '*') if rand() < 0.7;
		$case{after} = one(@{ $changes{$zone} }) - 43200 + 60 * between(0, 2160);
	}
	else
	{
		$case{after} = 1104537600 + 60 * between(0, 9000000);
	}
	$case{after} += between(1, 59);
	$case{fixed} = $fields[0] !~ /^\*/ && $fields[1] !~ /^\*/ ? 1 : 0;
	$case{both} = $fields[2] =~ /^\*/ || $fields[4] =~ /^\*/ ? 1 : 0;
	$case{schedule} = "@fields";
	return \%case;
}
