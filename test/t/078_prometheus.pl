# contrib/prometheus, with the programs of Debian: prometheus-postgres-exporter
# and node_exporter serve what job_metrics_text() says, promtool has no complaint
# about it or about the alert rules, whose unit test passes, and rules and
# dashboard ask for what exists.  A program that is not there is skipped.
use strict;
use warnings;

use FindBin;
use lib "$FindBin::RealBin/../lib";
use HTTP::Tiny;
use IPC::Run;
use JobqClient;
use JobqTest;
use JSON::PP;
use POSIX ':sys_wait_h';
use PostgreSQL::Test::Cluster;
use PostgreSQL::Test::Utils;
use Test::More;

my $contrib = "$FindBin::RealBin/../../contrib/prometheus";
my $dir = PostgreSQL::Test::Utils::tempdir;
my %program = map {
	my $name = $_;
	my ($path) = grep { -x } map { "$_/$name" } split /:/, $ENV{PATH};
	$name => $path
} qw(promtool prometheus-postgres-exporter prometheus-node-exporter);
my %running;
END { kill('KILL', keys %running) if %running; }

# Start a program that serves metrics on a port of its own; returns it.
sub start_exporter
{
	my ($program, @options) = @_;
	my %exporter = (port => PostgreSQL::Test::Cluster::get_free_port());
	$exporter{log} = "$PostgreSQL::Test::Utils::log_path/$program.$exporter{port}.log";
	$exporter{pid} = fork // die "fork: $!";
	if ($exporter{pid} == 0)
	{
		open(STDIN, '<', '/dev/null');
		open(STDOUT, '>', $exporter{log});
		open(STDERR, '>&', \*STDOUT);
		exec($program{$program}, "--web.listen-address=127.0.0.1:$exporter{port}", @options) or POSIX::_exit(127);
	}
	$running{ $exporter{pid} } = 1;
	return \%exporter;
}

# What it serves, once it answers.
my $http = HTTP::Tiny->new(timeout => $PostgreSQL::Test::Utils::timeout_default, proxy => undef, http_proxy => undef);

sub scrape
{
	my ($exporter) = @_;
	my $answer;
	poll_until(sub {
		$answer = $http->get("http://127.0.0.1:$exporter->{port}/metrics");
		return $answer->{success} || waitpid($exporter->{pid}, WNOHANG) != 0;
	});
	return $answer->{content} if $answer->{success};
	diag(slurp_file($exporter->{log}));
	die 'it does not answer';
}

sub stop_exporter
{
	my ($exporter) = @_;
	kill('TERM', $exporter->{pid});
	ok(poll_until(sub { waitpid($exporter->{pid}, WNOHANG) != 0 }), '... and ends');
	delete $running{ $exporter->{pid} };
	return;
}

# The samples of a text, by name and labels, and what is said of each metric.
# The exporter's own label, and the ways to write a number, do not count.
sub parse
{
	my ($text) = @_;
	my (%samples, %about, %labels);
	foreach my $line (split /\n/, $text)
	{
		$about{$2}{$1} = $3 if $line =~ /^# (HELP|TYPE) (jobq_\w+) (.*)/;
		next unless $line =~ /^(jobq_\w+)(?:\{(.*)\})? (\S+)$/;
		my ($name, $inside, $value) = ($1, $2 // '', $3);
		my %label = $inside =~ /(\w+)="((?:[^"\\]|\\.)*)"/g;
		delete $label{server};
		$label{le} = 0 + $label{le} if defined $label{le} && $label{le} ne '+Inf';
		@{ $labels{$name} }{ keys %label } = ();
		$samples{ "$name\{" . join(',', map { "$_=$label{$_}" } sort keys %label) . '}' } = 0 + $value;
	}
	return { samples => \%samples, about => \%about, labels => \%labels };
}

# Feed a program; returns its exit status and all that it says.
sub feed
{
	my ($input, @command) = @_;
	my $said = '';
	IPC::Run::run(\@command, '<', \$input, '>&', \$said, IPC::Run::timeout($PostgreSQL::Test::Utils::timeout_default));
	return ($? >> 8) . " $said";
}

#
# A database with queues in which all has happened, as README has it set up
#

my $node = jobq_node('metrics', bare => 1);
$node->safe_psql('postgres', 'CREATE DATABASE app');
$node->safe_psql('app', 'CREATE SCHEMA jobs; CREATE EXTENSION jobq SCHEMA jobs');
my $readme = slurp_file("$contrib/README.md");
$node->safe_psql('app', $_) foreach $readme =~ /^```sql\n(.*?)^```\n/gms;

my $client = JobqClient->new($node, dbname => 'app');
$client->rows('SET search_path = jobs');
foreach my $queue (map { "'$_'" } 'mail', 'Mail_2.x-y')
{
	$client->rows("SELECT job_submit('send', queue => $queue, max_attempts => 1, run_at => CASE n WHEN 10 THEN now() + interval '1 h' END) FROM generate_series(1, 10) n");
	$client->rows("SELECT job_complete(job_id, token) FROM job_claim($queue, max_jobs => 3)");
	$client->rows("SELECT job_fail(job_id, token, 'no') FROM job_claim($queue, max_jobs => 2)");
	$client->rows("SELECT job_release(job_id, token) FROM job_claim($queue, max_jobs => 1)");
	$client->rows("SELECT job_claim($queue, 'worker', max_jobs => 1)");
	$client->rows("SELECT job_cancel(max(id), 'no') FROM job_status WHERE queue = $queue AND state = 'ready'");
}
$client->rows("SELECT job_submit('wait', queue => 'mail', depends_on => ARRAY[max(id)]) FROM job_status WHERE queue = 'mail' AND state = 'ready'");
$client->rows("SELECT job_queue_set('paused', paused => true)");

my $reader = JobqClient->new($node, dbname => 'app', user => 'prometheus');
is($reader->value("SELECT string_agg(state, ' ') FROM (SELECT DISTINCT labels->>'state' AS state FROM job_metrics WHERE name = 'jobq_jobs' AND value > 0 ORDER BY 1) s"),
	'ready running scheduled waiting', 'the role reads metrics');
is($reader->query($_)->{sqlstate}, '42501', "... and not: $_")
  foreach 'SELECT * FROM job_memory', 'SELECT * FROM job_status', 'SELECT * FROM job_attempts', 'SELECT * FROM job', 'SELECT job_result(1)', 'SELECT job_explain(1)', "SELECT job_submit('x')";

# then, README says, it has more
$node->safe_psql('app', 'GRANT pg_monitor TO prometheus');
my $text = sub { return $reader->value('SELECT job_metrics_text()'); };
poll_until(sub { $text->() =~ /^jobq_worker_running 1$/m });
my $truth = parse($text->());
cmp_ok(scalar(keys %{ $truth->{samples} }), '>', 50, 'there are metrics');

# One test: what is taken has the samples of job_metrics_text, before and after.
# The age of a job grows meanwhile.
sub same_as_text
{
	my ($take, $name) = @_;
	my ($before, $got, $after);
	poll_until(sub {
		($before, $got, $after) = map { parse($_) } $text->(), $take->(), $text->();
		return !grep { !/^jobq_oldest/ && ($before->{samples}{$_} // '') ne ($after->{samples}{$_} // '') } keys %{ $after->{samples} };
	});
	my @bad;
	foreach my $sample (sort keys %{ { %{ $after->{samples} }, %{ $got->{samples} } } })
	{
		my ($from, $is, $to) = map { $_->{samples}{$sample} } $before, $got, $after;
		push @bad, "$sample: " . join(', ', map { $_ // 'none' } $from, $is, $to)
		  unless defined $from && defined $is && defined $to && $from <= $is && $is <= $to;
	}
	local $Test::Builder::Level = $Test::Builder::Level + 1;
	is(join("\n", @bad), '', "$name serves the samples of job_metrics_text");
	return $got;
}

#
# What serves them
#

SKIP:
{
	skip 'prometheus-postgres-exporter is not here', 1 unless $program{'prometheus-postgres-exporter'};
	my @options = ("--extend.query-path=$contrib/queries.yaml", '--disable-default-metrics', '--disable-settings-metrics');
	my $connection = 'host=' . $node->host . ' port=' . $node->port . ' dbname=app';
	local $ENV{DATA_SOURCE_NAME} = "user=prometheus $connection";
	my $exporter = start_exporter('prometheus-postgres-exporter', @options);
	my $got = same_as_text(sub { scrape($exporter) }, 'the exporter');
	is_deeply($got->{about}, $truth->{about}, '... with its types and texts');
	my $scrape = scrape($exporter);
	like($scrape, qr/^pg_exporter_last_scrape_error(\{.*\})? 0$/m, '... without an error');
  SKIP:
	{
		skip 'promtool is not here', 1 unless $program{promtool};
		# newer ones have metrics of their own that it does not like
		like(feed($scrape, $program{promtool}, 'check', 'metrics'), qr/^[03] (?!.*jobq)/s, '... and promtool takes it, without a complaint about ours');
	}
	stop_exporter($exporter);

	# a role that may not: nothing of ours, and the exporter says so
	$node->safe_psql('app', 'CREATE ROLE stranger LOGIN; ALTER ROLE stranger SET search_path = jobs');
	$ENV{DATA_SOURCE_NAME} = "user=stranger $connection";
	$exporter = start_exporter('prometheus-postgres-exporter', @options);
	$scrape = scrape($exporter);
	unlike($scrape, qr/^jobq/m, 'who may not read gets no metrics');
	like($scrape, qr/^pg_exporter_last_scrape_error(\{.*\})? 1$/m, '... and an error');
	stop_exporter($exporter);
}

my @textfile = ("$contrib/textfile", "$dir/jobq.prom", '-h', $node->host, '-p', $node->port, '-U', 'prometheus', '-d');
my $written = sub {
	is(feed('', @textfile, 'app'), '0 ', 'the script writes a file');
	return slurp_file("$dir/jobq.prom");
};
same_as_text($written, 'it');
SKIP:
{
	skip 'prometheus-node-exporter is not here', 1 unless $program{'prometheus-node-exporter'};
	my $exporter = start_exporter('prometheus-node-exporter', '--collector.disable-defaults', '--collector.textfile', "--collector.textfile.directory=$dir");
	same_as_text(sub { $written->(); return scrape($exporter); }, 'node_exporter');
	my $scrape = scrape($exporter);
	like($scrape, qr/^node_textfile_scrape_error 0$/m, '... without an error');
	like($scrape, qr{^node_textfile_mtime_seconds\{file="[^"]*/jobq\.prom"\} }m, '... and when it was written');
	stop_exporter($exporter);
}
like(feed('', @textfile, 'nosuch'), qr/^1 .*database "nosuch" does not exist/s, 'where psql fails, the script does');
is(join(' ', glob("$dir/jobq*")), '', '... and leaves no old file');

#
# Who asks for them
#

# What an expression names that there is not: metrics, their labels, and states
# and outcomes.
my %is_value = map { $_ => 1 } qw(waiting scheduled ready running succeeded failed skipped cancelled upstream_failed timed_out lost released snoozed);

sub unknown
{
	my ($rest) = @_;
	my %known = (%{ $truth->{labels} }, node_textfile_mtime_seconds => { file => undef });
	my @unknown;
	while ($rest =~ s/(\w+)\{((?:[^{}"]|"(?:[^"\\]|\\.)*")*)\}/$1/)
	{
		my ($name, $selector) = ($1, $2);
		while ($selector =~ /(\w+)(?:=~?|!=|!~)"((?:[^"\\]|\\.)*)"/g)
		{
			my ($label, $values) = ($1, $2);
			push @unknown, "$name\{$label\}" unless $label eq 'instance' || exists(($known{$name} // {})->{$label});
			push @unknown, grep { !$is_value{$_} } split /\|/, $values if $label =~ /^(?:state|outcome)$/;
		}
	}
	$rest =~ s/\[[^\]]*\]|\b(?:by|without|ignoring) \([^()]*\)//g;
	push @unknown, grep { !$known{$_} && !/^(?:and|unless)$/ } $rest =~ /\b([a-z]\w*)\b(?!\s*\()/g;
	return @unknown;
}

my $rules = slurp_file("$contrib/alerts.yml");
my @of_rules = map { s/\s+/ /gr } $rules =~ /^ {8}expr:(?: >-\n)?((?: [^\n]*\n(?: {10}[^\n]*\n)*|(?: {10}[^\n]*\n)+))/gm;
is(scalar(@of_rules), scalar(() = $rules =~ /- alert:/g), 'each rule has an expression');
is(join(', ', map { unknown($_) } @of_rules), '', '... that names what exists');

# the descriptions' queries, as an operator of all queues who may read of the server
my @queries = map { s/\s+/ /gr =~ s/\{\{ \$labels\.queue \}\}/mail/gr } $rules =~ /`(SELECT [^`]*)`/g;
cmp_ok(scalar(@queries), '>=', 8, 'descriptions have queries');
$client->rows('CREATE ROLE operator; GRANT pg_monitor TO operator; SELECT job_grant($$operator$$, $$*$$, $$operate$$); SET ROLE operator');
my $failed = $client->value("SELECT max(id) FROM job_status WHERE state = 'failed' AND queue = 'mail'");
foreach my $query (@queries)
{
	my $answer = $client->query($query =~ s/\bjob_retry\(id\)/job_retry($failed)/r);
	is($answer->{message} // '', '', "it works: $query");
}
$client->rows('RESET ROLE');

# the dashboard, with the variables as Grafana sets them
my $dashboard = decode_json(slurp_file("$contrib/dashboard.json"));
my @of_dashboard = map { $_->{expr} } map { @{ $_->{targets} } } @{ $dashboard->{panels} };
push @of_dashboard, map { $_->{definition} =~ /^label_values\((.*), \w+\)$/ } grep { $_->{type} eq 'query' } @{ $dashboard->{templating}{list} };
s/\$__rate_interval/5m/g, s/\$\w+/.*/g foreach @of_dashboard;
cmp_ok(scalar(@of_dashboard), '>=', 20, 'the dashboard has queries');
is(join(', ', map { unknown($_) } @of_dashboard), '', '... that name what exists');
my %asked = map { $_ => 1 } join(' ', @of_dashboard) =~ /\bjobq_\w+/g;
is(join(' ', grep { !$asked{$_} && !$asked{"${_}_bucket"} } sort keys %{ $truth->{about} }), '', '... all that exists');

SKIP:
{
	skip 'promtool is not here', 5 unless $program{promtool};
	is(feed($text->(), $program{promtool}, 'check', 'metrics'), '0 ', 'promtool likes job_metrics_text');
	like(feed('', $program{promtool}, 'check', 'rules', "$contrib/alerts.yml"), qr/^0 .*SUCCESS: @{[ scalar(@of_rules) ]} rules/s, '... the rules');
	like(feed('', $program{promtool}, 'test', 'rules', "$contrib/alerts_test.yml"), qr/^0 .*SUCCESS/s, '... and what they do');
	append_to_file("$dir/dashboard.yml", encode_json({ groups => [ { name => 'dashboard',
		rules => [ map { { record => 'dashboard', labels => { query => "$_" }, expr => $of_dashboard[$_] } } 0 .. $#of_dashboard ] } ] }));
	like(feed('', $program{promtool}, 'check', 'rules', "$dir/dashboard.yml"), qr/^0 .*SUCCESS/s, "... and the dashboard's queries");
	my ($yaml) = $readme =~ /^```yaml\n(.*?)^```\n/ms;
	append_to_file("$dir/prometheus.yml", $yaml);
	append_to_file("$dir/jobq_alerts.yml", $rules);
	like(feed('', $program{promtool}, 'check', 'config', "$dir/prometheus.yml"), qr/^0 .*SUCCESS/s, "... and README's configuration");
}

is(join(' ', grep { !-e "$contrib/" . s/#.*//r } grep { !/^http/ } $readme =~ /\]\(([^)\s]+)\)/g), '', "README's links");

$_->disconnect foreach $client, $reader;
$node->stop;
done_testing();
