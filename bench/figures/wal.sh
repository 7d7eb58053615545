# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# WAL of a job, from job_submit to succeeded, without full-page images.

jobs=$((quick ? 1600 : 20000))
fresh
sql -c 'CREATE EXTENSION pg_walinspect'
jobq_fill bench 1000
for ((round = 1; round <= rounds; round++)); do
	from=$(sql -c CHECKPOINT -c 'SELECT pg_current_wal_lsn()')
	bench 8 jobq_cycle -t $((jobs / 8)) >/dev/null
	sample 'WAL per job' "$(sql -c "SELECT sum(record_size) / $jobs
		FROM pg_get_wal_stats('$from', pg_current_wal_flush_lsn())")"
done
figure 'WAL per job, submit to succeeded, 100-byte arguments' bytes '<=1400' 'WAL per job'
