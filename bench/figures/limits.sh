# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Limits and turns: what they cost, how soon a slot is used again, what waits
# behind them, and who is next.

waiting=$((quick ? 100000 : 1000000))  # jobs
partitions=$((quick ? 1000 : 10000))
clients=8

# set_queue QUEUE SETTINGS
set_queue() {
	sql -c "SELECT job_queue_set('$1', $2)" >/dev/null
}

# --- claim + complete, against a queue without a limit and plain SQL --------

fresh
sql -f bench/sql/limited_setup.sql
set_queue limited 'max_running => 1000'
set_queue partitions 'max_running_per_partition => 1'
jobq_fill bench $((rounds * seconds * 20000))
jobq_fill limited $((rounds * seconds * 20000))
partitions_fill partitions $partitions $waiting
plain_fill $((rounds * seconds * 15000))
fill bench_fill_plain_partitions "$partitions," $waiting
settle
for ((round = 1; round <= rounds; round++)); do
	for queue in bench limited partitions; do
		sql -c CHECKPOINT
		sample "$queue" "$(bench $clients jobq_wait -T "$seconds" -D queue=$queue)"
	done
	for script in plain_limited plain_partition; do
		sql -c CHECKPOINT
		sample "$script" "$(bench $clients $script -T "$seconds")"
	done
done
name="claim + complete, one each, $clients clients"
figure "$name, no limit" jobs/s - bench
figure "$name, max_running 1,000" jobs/s - limited
figure "$name, max_running 1,000, / no limit" ratio '>=0.5' limited bench
figure "$name, $partitions partitions, one each, $waiting waiting" jobs/s - partitions
figure "$name, $partitions partitions, one each, / no limit" ratio '>=0.3' partitions bench
figure "$name, max_running 1,000, / plain SQL that counts" ratio - limited plain_limited
figure "$name, $partitions partitions, / plain SQL that counts" ratio - partitions plain_partition

# --- the same under a held snapshot -----------------------------------------

length=$((quick ? 3 : 60))
part=$((quick ? 1 : 10))
fresh
set_queue limited 'max_running => 1000'
jobq_fill limited $((length * 20000))
settle
hold
timeline limits-held $clients jobq_wait $length -D queue=limited
release
sample 'held: first' "$(window "$out/limits-held.tsv" 0 $part)"
sample 'held: last' "$(window "$out/limits-held.tsv" -$part 0)"
figure "snapshot held for $length s: $name, max_running 1,000, last $part s / first" ratio '>=0.85' \
	'held: last' 'held: first'

# --- a slot that becomes free -----------------------------------------------

fresh
for ((round = 1; round <= rounds; round++)); do
	latency slot $((quick ? 100 : 600))
done
figure 'slot free to next job claimed in job_claim_wait, p50 over a round trip' ms '<=1' 'slot p50'
figure 'slot free to next job claimed in job_claim_wait, p99 over a round trip' ms '<=5' 'slot p99'

# --- jobs that wait and do not move -----------------------------------------

# The sweep, of once a minute, looks at all of them: one of it is in the minute
# that is measured. A quick run takes less, and the share that a minute would have.
sweep=$((quick ? 3 : 60))
fresh
sql -c "ALTER SYSTEM SET jobq.sweep_interval = '$sweep s'" -c 'SELECT pg_reload_conf()' >/dev/null
set_queue partitions 'max_running_per_partition => 1, max_running => 100'
partitions_fill partitions $partitions $waiting
settle
sample idle "$(awk "BEGIN { print $(cpu $sweep) * $sweep / 60 }")"
sql -c 'ALTER SYSTEM RESET jobq.sweep_interval' -c 'SELECT pg_reload_conf()' >/dev/null
figure "background worker, $waiting limited jobs waiting, none moving" '% core' '<=1' idle

# --- due jobs and leases while they are let in ------------------------------

# Jobs are due every four milliseconds and are claimed at once; one in five is
# lost a second later.  Those count that were due while the limited ones were
# let in.
due=$((quick ? 1000 : 6000))
set_queue due "lease => '1 s', max_lost => 1"
sql -c "SELECT count(job_submit('noop', queue => 'due', run_at => now() + interval '1 s' + i * interval '4 ms'))
	FROM generate_series(1, $due) i" >/dev/null
(bench 4 jobq_lose -t $((due / 4)) >/dev/null) &
pid=$!
sleep 1.5
# the last of them, as to count them would be a load of its own
last=$(sql -c 'SELECT max(job_id) FROM job_limited')
from=$(sql -c 'SELECT clock_timestamp()')
sql -c "SELECT job_queue_reset('partitions')" >/dev/null
while [ "$(sql -c "SELECT count(*) FROM job_limited WHERE job_id = $last")" -gt 0 ]; do
	sleep 0.1
done
upto=$(sql -c 'SELECT clock_timestamp()')
wait $pid
while [ "$(sql -c "SELECT count(*) FROM job_status WHERE queue = 'due' AND state = 'running'")" -gt 0 ]; do
	sleep 0.1
done

# delay SAMPLE STATE EVENT DUE: the 99th percentile
delay() {
	sample "$1" "$(sql -c "SELECT 1000 * extract(epoch FROM percentile_disc(0.99) WITHIN GROUP (ORDER BY $3 - ($4)))
		FROM job_status WHERE queue = 'due' AND state = '$2' AND $4 BETWEEN '$from' AND '$upto'")"
}

delay 'due jobs' succeeded started_at run_at
delay 'leases' failed finished_at "started_at + interval '1 s'"
sample 'let in' "$(sql -c "SELECT $waiting / extract(epoch FROM timestamptz '$upto' - '$from')")"
figure "$waiting limited jobs let in" jobs/s - 'let in'
figure "due to claimed in job_claim_wait while $waiting are let in, p99" ms '<=50' 'due jobs'
figure "lease that runs out to lost while $waiting are let in, p99" ms '<=50' leases

# --- turns ------------------------------------------------------------------

# Eight workers, jobs of ten milliseconds, and twenty tenants.
length=$((quick ? 3 : 10))
fresh
set_queue fair 'fair => true'

# tenants SAMPLE: the 95th percentile of their jobs, from submission to success
tenants() {
	local last
	last=$(sql -c 'SELECT coalesce(max(id), 0) FROM job')
	(bench $clients jobq_work -T $length -D queue=fair -D us=10000 >/dev/null) &
	pid=$!
	# longer than the workers, so that none of these waits in vain
	out=$TMPDIR bench 20 jobq_tenant -T $((length + 2)) >/dev/null
	wait $pid
	sample "$1" "$(sql -c "SELECT 1000 * extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY finished_at - submitted_at))
		FROM job_status WHERE queue = 'fair' AND partition LIKE 'small%' AND id > $last AND state = 'succeeded'")"
}

tenants alone
sql >/dev/null <<-END
	SET synchronous_commit = off;
	SELECT count(job_submit('noop', bench_args(), 'fair', partition => 'big')) FROM generate_series(1, 100000);
END
tenants 'beside a big one'
figure 'fair: 20 small tenants alone, jobs of 10 ms, p95 from submission to success' ms - alone
figure 'fair: the same beside one with 100,000 jobs waiting, / alone' ratio '<=3' 'beside a big one' alone

# All busy, by weight.
sql >/dev/null <<-END
	SET synchronous_commit = off;
	SELECT job_queue_set('shares', fair => true), job_partition_set('shares', 'p2', weight => 2), job_partition_set('shares', 'p3', weight => 5);
END
partitions_fill shares 3 $((seconds * 60000))
settle
bench $clients jobq_wait -T "$seconds" -D queue=shares >/dev/null
sample shares "$(sql -c "SELECT max(abs(jobs * 8 / of_all / weight - 1)) * 100 FROM
	(SELECT count(*), sum(count(*)) OVER (), CASE partition WHEN 'p1' THEN 1 WHEN 'p2' THEN 2 ELSE 5 END
		FROM job_status WHERE queue = 'shares' AND state = 'succeeded' GROUP BY partition) s (jobs, of_all, weight)")"
figure 'fair: share of a partition, of weight 1, 2 or 5, from its weight' '%' '<=5' shares

# --- pg-boss, whose groups have a limit -------------------------------------

# As in worker.sh.
jobs=$((quick ? 5000 : 50000))
few=$((quick ? 200 : 1000))
for ((round = 1; round <= rounds; round++)); do
	fresh
	set_queue partitions 'max_running_per_partition => 1'
	partitions_fill partitions $((jobs / 5)) $jobs
	settle
	rate 'jobq-worker' jobq_worker partitions 500 $jobs
	[ -z "$no_peers" ] || continue
	export PGBOSS_GROUPS=$((jobs / 5))
	peer pgboss-groups fill $jobs
	settle
	PGBOSS_WORKERS=4 PGBOSS_BATCH=1000 rate 'pg-boss, batches' peer pgboss-groups run $jobs
	sql -c 'TRUNCATE pgboss.job'
	peer pgboss-groups fill $few
	settle
	PGBOSS_WORKERS=16 PGBOSS_BATCH=1 rate 'pg-boss, one each' peer pgboss-groups run $few
done
name="worker that does nothing, $((jobs / 5)) partitions, one each"
figure "$name" jobs/s - jobq-worker
while IFS=: read -r peer of; do
	if [ -n "$no_peers" ]; then
		missing "$name, / $peer" ratio - "$no_peers"
	else
		figure "$name, / $peer" ratio - jobq-worker "$of"
	fi
done <<-END
	pg-boss, batches of 1,000:pg-boss, batches
	pg-boss, one by one:pg-boss, one each
END
