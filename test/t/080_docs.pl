# Runs every SQL example of README.md and docs/*.md and compares its output,
# and checks that the reference is complete.  docs/testing.md has the rules.
use strict;
use warnings;

use File::Basename;
use FindBin;
use lib "$FindBin::RealBin/../lib";
use IPC::Run;
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use JobqTest;
use Test::More;

my $root = "$FindBin::RealBin/../..";
my @documents = ("$root/README.md", sort glob("$root/docs/*.md"));
my $limit = 10 * $PostgreSQL::Test::Utils::timeout_default;

# What differs from run to run.  Columns get as wide as what stands in them, so
# where something was masked, runs of blanks and dashes count as one.
sub mask
{
	my ($text) = @_;
	my $n = 0;

	$n += $text =~ s/\b\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?[+-]\d\d(?::\d\d)?/<time>/g;
	$n += $text =~ s/\b(\d+)-[0-9a-f]{12,16}-(\d+)\b/$1-<time>-$2/g;
	$n += $text =~ s/\b\d{14,19}\b/<token>/g;
	$n += $text =~ s/\bPID \d+/PID <pid>/g;
	if ($n)
	{
		$text =~ s/ +/ /g;
		$text =~ s/-+/-/g;
	}
	$text =~ s/ +$//mg;
	return $text;
}

# Cut a document into pieces, each { text }, { sql }, { output } or { until }.
sub pieces
{
	my ($document) = @_;
	my @pieces;

	while ($document =~ m{\G(.*?)^(?:```(sql|output)\n(.*?)^```\n|<!-- until: (.*?) -->\n)}gcms)
	{
		push @pieces, { text => $1 };
		push @pieces, defined $2 ? { $2 => $3 } : { until => $4 };
	}
	push @pieces, { text => substr($document, pos($document) // 0) };
	return @pieces;
}

# The SQL pieces of a document, each with the output that is expected of it:
# that of the output block right after it, else none.
sub examples
{
	my @pieces = grep { !defined $_->{text} || $_->{text} =~ /\S/ } @_;
	my @examples;

	foreach my $i (0 .. $#pieces)
	{
		my $next = $pieces[ $i + 1 ] // {};
		push @examples, { until => $pieces[$i]{until} } if defined $pieces[$i]{until};
		push @examples, { sql => $pieces[$i]{sql}, expected => $next->{output} // '' }
		  if defined $pieces[$i]{sql};
		die "an output block that follows no sql block:\n$pieces[$i]{output}"
		  if defined $pieces[$i]{output} && !($i > 0 && defined $pieces[ $i - 1 ]{sql});
	}
	return @examples;
}

# Run all examples of a document in one session, and fill in what came out.
sub run_examples
{
	my ($node, $database, @examples) = @_;
	my $input = '';
	my $output = '';

	foreach my $i (0 .. $#examples)
	{
		my $example = $examples[$i];

		$input .= "\\echo <<<$i>>>\n";
		$input .= $example->{sql} if defined $example->{sql};
		$input .= <<"EOS" if defined $example->{until};
DO \$until\$
BEGIN
	FOR i IN 1 .. @{[ 20 * $PostgreSQL::Test::Utils::timeout_default ]} LOOP
		PERFORM pg_stat_clear_snapshot();
		EXIT WHEN ($example->{until});
		PERFORM pg_sleep(0.05);
		COMMIT;
	END LOOP;
END
\$until\$;
EOS
	}
	local $ENV{PGTZ} = 'UTC';
	local $ENV{PGOPTIONS} = '-c client_min_messages=notice';
	IPC::Run::run(
		[ 'psql', '-Xq', '-d', $node->connstr($database) ],
		'<', \$input, '>&', \$output, IPC::Run::timeout($limit))
	  or diag("psql ended with status $?");
	while ($output =~ m{<<<(\d+)>>>\n(.*?)(?=<<<\d+>>>\n|\z)}gs)
	{
		# psql ends each result with an empty line
		my ($i, $text) = ($1, $2);
		$text =~ s/\n+\z/\n/;
		$examples[$i]{actual} = $text;
	}
	return;
}

my $node = PostgreSQL::Test::Cluster->new('docs');
$node->init;
$node->append_conf('postgresql.conf', <<'EOC');
shared_preload_libraries = 'jobq'
max_worker_processes = 40
EOC
$node->start;

my %text;
foreach my $file (@documents)
{
	my $name = basename($file);
	my $database = lc($name =~ s/\W/_/gr);
	$text{$name} = slurp_file($file);
	my @pieces = pieces($text{$name});
	my @examples = examples(@pieces);
	next unless @examples;

	$node->safe_psql('postgres', "CREATE DATABASE $database");
	$node->safe_psql($database, 'CREATE EXTENSION jobq')
	  unless grep { ($_->{sql} // '') =~ /^CREATE EXTENSION jobq\b/m } @examples;
	run_examples($node, $database, @examples);

	my $n = 0;
	foreach my $example (@examples)
	{
		my $actual = $example->{actual} // '(psql ended before)';
		if (defined $example->{until})
		{
			is($actual, '', "$name: waiting for " . $example->{until} =~ s/\s+/ /gr);
			next;
		}
		$n++;
		my ($title) = $example->{sql} =~ /^(.{1,60})/;
		is(mask($actual), mask($example->{expected}), "$name, example $n: $title");
	}

	# the document as it would be right, to copy from
	open my $out, '>', "$PostgreSQL::Test::Utils::tmp_check/$name" or die;
	my @actual = map { $_->{actual} } grep { defined $_->{sql} } @examples;
	foreach my $piece (grep { !defined $_->{output} } @pieces)
	{
		print $out $piece->{text} if defined $piece->{text};
		print $out "<!-- until: $piece->{until} -->\n" if defined $piece->{until};
		next unless defined $piece->{sql};
		my $actual = shift @actual;
		print $out "```sql\n$piece->{sql}```\n";
		print $out "```output\n$actual```\n" if defined $actual && $actual ne '';
	}
	close $out;
}

# Links between the documents lead somewhere.
foreach my $file (@documents)
{
	my $name = basename($file);
	my @bad;
	while ($text{$name} =~ /\]\(([^)\s]+)\)/g)
	{
		my $link = $1;
		next if $link =~ m{^https?://};
		my ($path, $anchor) = $link =~ /^([^#]*)(?:#(.*))?$/;
		my $target = $path eq '' ? $file : dirname($file) . "/$path";
		if (!-e $target)
		{
			push @bad, $link;
		}
		elsif (defined $anchor)
		{
			my %anchors;
			foreach my $heading (slurp_file($target) =~ /^#+ +(.*?)\s*$/mg)
			{
				my $id = lc $heading;
				$id =~ s/[^\w\- ]//g;
				$id =~ s/ /-/g;
				$anchors{$id} = 1;
			}
			push @bad, $link unless $anchors{$anchor};
		}
	}
	is("@bad", '', "$name: links");
}

# The reference has everything that there is: each function and procedure with
# its arguments, views and types with their columns, privileges, settings.
my $reference = $text{'reference.md'};
my $database = 'complete';
$node->safe_psql('postgres', "CREATE DATABASE $database");
$node->safe_psql($database, 'CREATE EXTENSION jobq');

# The entry of a name: what stands between its heading and the next one.
sub entry
{
	my ($name) = @_;
	return $reference =~ /^#+ `\Q$name\E`\n(.*?)(?=^#|\z)/ms ? $1 : '';
}

# The other cells of the row of a table whose first cell has the name.
sub row
{
	my ($text, $name) = @_;
	return unless $text =~ /^\|[^|\n]*`\Q$name\E`[^|\n]*\|(.*)\|$/m;
	return map { s/^\s+|\s+$//gr } split /\|/, $1, -1;
}

my $public = <<'EOS';
WITH public AS (SELECT p.* FROM pg_proc p
	JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
	JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
	WHERE e.extname = 'jobq' AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal%')
EOS

my @missing;
my @functions = split /\n/, $node->safe_psql($database, "$public SELECT DISTINCT proname FROM public");
cmp_ok(scalar(@functions), '>=', 20, 'the extension has functions');
foreach my $name (@functions)
{
	my $entry = entry($name);
	push @missing, map { "$name: $_" } grep { $entry !~ /^\| $_ \| \S/m } qw(Returns Errors Locks Privilege);
}
is("@missing", '', 'reference.md: all functions and procedures');

@missing = ();
foreach my $line (split /\n/, $node->safe_psql($database, "$public " . <<'EOS'))
SELECT proname, name, replace(replace(format_type(type, NULL), 'timestamp with time zone', 'timestamptz'), 'integer', 'int'),
	coalesce(regexp_replace(pg_get_function_arg_default(p.oid, n::int), '::.*|''', '', 'g'), ''), mode
FROM public p, unnest(proargnames, coalesce(proallargtypes, proargtypes::oid[]), proargmodes)
	WITH ORDINALITY AS a (name, type, mode, n)
WHERE coalesce(mode, 'i') IN ('i', 'b')
EOS
{
	my ($function, $name, $type, $default, $mode) = split /\|/, $line, -1;
	my $entry = entry($function);

	# INOUT arguments that are those of a type stand together
	next if $mode eq 'b' && $entry =~ /^\| `\w+` … `\w+` \|.*INOUT/m;
	my @row = row($entry, $name);
	push @missing, "$function.$name $type default '$default'"
	  unless @row == 3
	  && ($row[0] eq '' || $row[0] eq $type)
	  && ($row[0] eq '' && $row[1] eq '' || $row[1] =~ s/`//gr eq $default)
	  && ($row[2] ne '' || $name =~ /^(job_id|queue)$/);
}
is(join(', ', @missing), '', 'reference.md: all arguments, with their types and defaults');

@missing = ();
foreach my $line (split /\n/, $node->safe_psql($database, <<'EOS'))
SELECT c.relname, a.attname, replace(replace(format_type(atttypid, NULL), 'timestamp with time zone', 'timestamptz'), 'integer', 'int')
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE (relkind = 'v' AND relname LIKE 'job\_%') OR relname = 'job_assignment'
EOS
{
	my ($view, $column, $type) = split /\|/, $line;
	my @row = row(entry($view), $column);
	push @missing, "$view.$column $type" unless @row == 2 && $row[0] eq $type && $row[1] ne '';
}
is(join(', ', @missing), '', 'reference.md: all views and their columns, with their types');

# What a privilege lets use is what a role can use that has no other.
my $error;
$node->psql($database, "SELECT job_grant(CURRENT_ROLE::regrole, '*', 'none')", stderr => \$error);
my ($valid) = $error =~ /^HINT:  Valid privileges are (.*)\.$/m;
my ($section) = $reference =~ /^## Privileges\n(.*?)^## /ms;
foreach my $privilege ($valid =~ /"(\w+)"/g)
{
	my ($of_functions, $of_views) = row($section, $privilege);
	$node->safe_psql($database, "CREATE ROLE only_$privilege; SELECT job_grant('only_$privilege', '*', '$privilege')");
	my @may = map { [ split /\n/, $_ ] } (
		$node->safe_psql($database, <<"EOS"),
$public SELECT DISTINCT proname COLLATE "C" FROM public WHERE has_function_privilege('only_$privilege', oid, 'EXECUTE') ORDER BY 1
EOS
		$node->safe_psql($database, <<"EOS"));
SELECT relname COLLATE "C" FROM pg_class
WHERE relkind = 'v' AND relname LIKE 'job\\_%' AND has_table_privilege('only_$privilege', oid, 'SELECT') ORDER BY 1
EOS
	is("@{[ sort(($of_functions // '') =~ /`(\w+)`/g) ]}", "@{$may[0]}", "reference.md: functions of $privilege");
	is("@{[ sort(($of_views // '') =~ /`(\w+)`/g) ]}", "@{$may[1]}", "reference.md: views of $privilege");
}

@missing = ();
foreach my $line (split /\n/, $node->safe_psql($database, <<'EOS'))
SELECT name, CASE WHEN unit IS NULL OR boot_val = '0' THEN boot_val ELSE current_setting(name) END
	FROM pg_settings WHERE name LIKE 'jobq.%'
EOS
{
	my ($name, $default) = split /\|/, $line;
	my @row = row($reference, $name);
	push @missing, "$name=$default" unless @row == 3 && $row[0] eq "`$default`" && $row[2] ne '';
}
is("@missing", '', 'reference.md: all settings, with their defaults');

my ($emptied) = $text{'operations.md'} =~ /^TRUNCATE (.*);$/m;
is(join(' ', sort split /, /, $emptied), $node->safe_psql($database, <<'EOS'), 'operations.md: all tables but settings, grants and schedules are emptied');
SELECT string_agg(c.relname, ' ' ORDER BY c.relname COLLATE "C") FROM pg_class c
	JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e'
	JOIN pg_extension e ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid
WHERE e.extname = 'jobq' AND c.relkind = 'r' AND c.relname NOT IN ('job_active_database', 'job_lane', 'job_partition', 'job_privilege', 'job_queue', 'job_schedule', 'job_worker')
EOS

my ($help) = run_command([ 'jobq-worker', '--help' ]);
my @options = $help =~ /^\s+(?:-\w, |    )(--[\w-]+)/mg;
@missing = grep { $text{'worker.md'} !~ /`(?:-\w, )?\Q$_\E/ } @options;
is("@missing", '', 'worker.md: all options');
my @described = (slurp_file("$root/worker/jobq-worker.1") =~ s/\\-/-/gr) =~ /^\.TP\n\.BR? (?:-\w ", " )?(--[\w-]+)/mg;
is("@described", "@options", 'jobq-worker.1: all options, and no others');
cmp_ok(scalar(@options), '>', 10, 'jobq-worker --help lists options');

$node->stop;
done_testing();
