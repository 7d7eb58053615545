# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Other loads under a held snapshot: the last part against the first.

length=$((quick ? 3 : 15))
part=$((quick ? 1 : 4))

# mix NAME SCRIPTS JOBS
mix() {
	settle
	hold
	timeline "mix-$1" 8 "$2" $length
	release
	sample "$1: first" "$(window "$out/mix-$1.tsv" 0 $part)"
	sample "$1: last" "$(window "$out/mix-$1.tsv" -$part 0)"
	figure "snapshot held for $length s: $1, last $part s / first" ratio '>=0.85' "$1: last" "$1: first"
}

fresh
jobq_fill bench $((length * 25000)) 3
mix 'three priorities' jobq_one

fresh
jobq_fill bench $((length * 25000))
mix '10 % retried' 'jobq_one@9 jobq_retry@1'

fresh
jobq_fill bench 20000
mix '10 % delayed' 'jobq_cycle@9 jobq_cycle_delayed@1'

fresh
jobq_fill bench $((length * 25000))
mix '10 % rolled back' 'jobq_one@9 jobq_rollback@1'
