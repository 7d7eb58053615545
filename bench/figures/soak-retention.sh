# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# A million decided jobs are removed beside a load; and what ten million that are
# kept do to one, by turns with a database without them.  QUICK takes fewer.

jobs=$((quick ? 50000 : 1000000))
many=$((jobs * 10))
turns=$((quick ? 2 : 60))  # many that are short, as both sides of one find the same machine

fresh
decided old "$jobs"
settle
sql -c "SELECT job_queue_set('old', retention => '1 day')" >/dev/null
start=$EPOCHREALTIME
while [ "$(kept old)" -gt 0 ]; do
	bench 8 jobq_cycle -T 5 >/dev/null
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
		sample "soak-retention: $kept" "$(bench 8 jobq_cycle -T 1)"
	done
done
figure "submit + claim + complete with $many kept jobs, / none" ratio '>=0.95' 'soak-retention: bench_kept' 'soak-retention: bench'
export PGDATABASE=bench_kept
[ "$(kept old)" -eq "$many" ] || die 'Jobs that are to be kept are gone.'
sql -d postgres -c 'DROP DATABASE bench_kept WITH (FORCE)'
