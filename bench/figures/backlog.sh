# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# What a claim takes with so many jobs ready, for jobq and for plain SQL, each
# size in a database of its own.  The queues are filled in the order of size,
# measured in rounds over all sizes.

sizes=(10000 100000)
[ "$quick" -eq 1 ] || sizes+=(10000000)
count=$((quick ? 500 : 1000))

for size in "${sizes[@]}"; do
	fresh "backlog_$size"
	jobq_fill bench "$size"
	plain_fill "$size"
	sql -c 'VACUUM ANALYZE'
done
sql -c CHECKPOINT

# claim_ms SCRIPT: mean latency
claim_ms() {
	awk "BEGIN { print 1000 / $(bench 1 "$1" -t $count) }"
}

for ((round = 1; round <= rounds; round++)); do
	for size in "${sizes[@]}"; do
		export PGDATABASE=backlog_$size
		sample "jobq claim of $size" "$(claim_ms jobq_claim)"
		sample "plain claim of $size" "$(claim_ms plain_claim)"
	done
done

for size in "${sizes[@]}"; do
	figure "claim latency, $size ready" ms - "jobq claim of $size"
	figure "claim latency, $size ready, plain SQL" ms - "plain claim of $size"
	printf '%s\t%s\t%s\n' "$size" "$(value "claim latency, $size ready")" \
		"$(value "claim latency, $size ready, plain SQL")" >>"$out/backlog.tsv"
done
figure "claim latency, ${sizes[-1]} ready / ${sizes[0]} ready" ratio '<=1.3' \
	"jobq claim of ${sizes[-1]}" "jobq claim of ${sizes[0]}"
figure "claim latency, plain SQL, ${sizes[-1]} ready / ${sizes[0]} ready" ratio - \
	"plain claim of ${sizes[-1]}" "plain claim of ${sizes[0]}"
export PGDATABASE=postgres
for size in "${sizes[@]}"; do
	sql -c "DROP DATABASE backlog_$size WITH (FORCE)"
done
