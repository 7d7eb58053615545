# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# A million decided jobs are removed beside a load; and what ten million that are
# kept do to one, by turns with a database without them.  QUICK takes fewer.

jobs=$((quick ? 50000 : 1000000))
many=$((jobs * 10))
turns=$((quick ? 2 : 10))

fresh
decided old "$jobs"
settle
sample 'soak-retention: alone' "$(bench 8 jobq_cycle -T $((seconds * 5)))"
sql -c "SELECT job_queue_set('old', retention => '1 day')" >/dev/null
start=$EPOCHREALTIME
while [ "$(kept old)" -gt 0 ]; do
	sample 'soak-retention: beside' "$(bench 8 jobq_cycle -T $((seconds * 5)))"
done
sample 'soak-retention: gone' "$(awk "BEGIN { print $EPOCHREALTIME - $start }")"
figure "$jobs decided jobs are gone beside the load after" s '<=600' 'soak-retention: gone'

fresh bench_kept
sql -c "SELECT job_queue_set('old', retention => '10 days')" >/dev/null
decided old "$many"
settle
fresh
settle
for ((i = 0; i < turns; i++)); do
	for kept in $( ((i % 2)) && echo bench bench_kept || echo bench_kept bench); do
		export PGDATABASE=$kept
		sample "soak-retention: $kept" "$(bench 8 jobq_cycle -T "$seconds")"
	done
done
figure "claim + complete with $many kept jobs, / none" ratio '>=0.95' 'soak-retention: bench_kept' 'soak-retention: bench'
sql -d postgres -c 'DROP DATABASE bench_kept WITH (FORCE)'
