# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# What a claim takes with so many jobs ready, each size in a database of its
# own: the queues are filled in the order of size, measured in rounds over all
# sizes.  That of plain SQL takes as long to fill, so it stops at a million.

plain_sizes=(10000 100000)
[ "$quick" -eq 1 ] || plain_sizes+=(1000000)
sizes=("${plain_sizes[@]}")
[ "$quick" -eq 1 ] || sizes+=(10000000)
count=$((quick ? 300 : 2000))

for size in "${sizes[@]}"; do
	fresh "backlog_$size"
	jobq_fill bench "$size"
	[ "$size" -gt "${plain_sizes[-1]}" ] || plain_fill "$size"
	sql -c 'VACUUM ANALYZE'
done
sql -c CHECKPOINT

# claims PEER SIZE ...: a sample of each, the mean latency
claims() {
	local size
	for size in "${@:2}"; do
		export PGDATABASE=backlog_$size
		sample "$1 claim of $size" "$(awk "BEGIN { print 1000 / $(bench 1 "$1_claim" -t $count) }")"
	done
}

# the first look at metrics counts the rows, the others do not
largest=${sizes[-1]}
export PGDATABASE=backlog_$largest
sample "first look of $largest" "$(timed 'SELECT job_metrics_text()')"
for ((round = 1; round <= rounds; round++)); do
	sample "text of $largest" "$(timed 'SELECT job_metrics_text(); SELECT job_metrics_text()')"
	sample "view of $largest" "$(timed 'SELECT * FROM job_metrics; SELECT * FROM job_metrics')"
done
figure "job_metrics_text, first after a start, $largest ready" ms - "first look of $largest"
figure "job_metrics_text, $largest ready" ms '<=20' "text of $largest"
figure "job_metrics, $largest ready" ms '<=20' "view of $largest"

for ((round = 1; round <= rounds; round++)); do
	claims jobq "${sizes[@]}"
	claims plain "${plain_sizes[@]}"
done

# latencies PEER NAME SIZE ...: a figure and a line of the plot for each
latencies() {
	local size
	for size in "${@:3}"; do
		figure "claim latency, $size ready$2" ms - "$1 claim of $size"
		printf '%s\t%s\n' "$size" "$(value "claim latency, $size ready$2")" >>"$out/backlog-$1.tsv"
	done
}

latencies jobq '' "${sizes[@]}"
latencies plain ', plain SQL' "${plain_sizes[@]}"
figure "claim latency, ${sizes[-1]} ready / ${sizes[0]} ready" ratio '<=1.3' \
	"jobq claim of ${sizes[-1]}" "jobq claim of ${sizes[0]}"
figure "claim latency, plain SQL, ${plain_sizes[-1]} ready / ${plain_sizes[0]} ready" ratio - \
	"plain claim of ${plain_sizes[-1]}" "plain claim of ${plain_sizes[0]}"
export PGDATABASE=postgres
for size in "${sizes[@]}"; do
	sql -c "DROP DATABASE backlog_$size WITH (FORCE)"
done
