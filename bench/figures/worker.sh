# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# The whole run of a worker whose handler does nothing: jobq-worker, 16 jobs at
# a time, against graphile-worker and pg-boss.  Like graphile-worker it keeps 500
# jobs ready to begin with; how fast it is without is shown, too.  Of ours the
# time includes the start of the process, of theirs it does not.

jobs=$((quick ? 5000 : 50000))
few=$((quick ? 200 : 1000))  # for the one that would take minutes

# none SQL: that it counts nothing
none() {
	[ "$(sql -c "$1")" -eq 0 ] || die "Not 0: $1"
}

for ((round = 1; round <= rounds; round++)); do
	fresh
	jobq_fill bench $jobs
	if [ -z "$no_peers" ]; then
		peer graphile fill $jobs
		peer pgboss fill $jobs
	fi
	settle
	rate 'jobq-worker' jobq_worker bench 500 $jobs
	none "SELECT count(*) FROM job_status WHERE state <> 'succeeded'"
	jobq_fill bench $jobs
	settle
	rate 'jobq-worker without prefetch' jobq_worker bench 0 $jobs
	[ -z "$no_peers" ] || continue
	rate 'graphile-worker' peer graphile run $jobs
	none 'SELECT count(*) FROM graphile_worker.jobs'
	PGBOSS_WORKERS=4 PGBOSS_BATCH=1000 rate 'pg-boss, batches' peer pgboss run $jobs
	# the same again, for jobs that can fail one by one
	sql -c 'TRUNCATE pgboss.job'
	peer pgboss fill $few
	settle
	PGBOSS_WORKERS=16 PGBOSS_BATCH=1 rate 'pg-boss, one each' peer pgboss run $few
done

name="worker that does nothing"
figure "$name, 16 at a time" jobs/s - jobq-worker
figure "$name, without prefetch" jobs/s - 'jobq-worker without prefetch'
if [ -z "$no_peers" ]; then
	figure "$name: graphile-worker" jobs/s - graphile-worker
	figure "$name: pg-boss, 4 in batches of 1,000" jobs/s - 'pg-boss, batches'
	figure "$name: pg-boss, 16 one by one" jobs/s - 'pg-boss, one each'
fi
while IFS=: read -r peer target of; do
	if [ -n "$no_peers" ]; then
		missing "$name, / $peer" ratio "$target" "$no_peers"
	else
		figure "$name, / $peer" ratio "$target" jobq-worker "$of"
	fi
done <<-END
	graphile-worker:>=3:graphile-worker
	pg-boss, batches of 1,000:>=10:pg-boss, batches
	pg-boss, one by one:>=10:pg-boss, one each
END
