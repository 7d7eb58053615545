# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# An old snapshot held for a minute under full load: the last ten seconds
# against the first ten.  Every peer starts with a new snapshot.

length=$((quick ? 3 : 60))
part=$((quick ? 1 : 10))
clients=8

# decay NAME: from its timeline
decay() {
	sample "$1: first" "$(window "$out/$1.tsv" 0 $part)"
	sample "$1: last" "$(window "$out/$1.tsv" -$part 0)"
}

fresh
jobq_fill bench $((length * 25000))
settle
hold
timeline held-jobq $clients jobq_one $length
release
decay held-jobq

fresh
plain_fill $((length * 8000))
settle
hold
timeline held-plain $clients plain_one $length
release
decay held-plain

figure "snapshot held for $length s: claim + complete, last $part s / first" ratio '>=0.9' \
	'held-jobq: last' 'held-jobq: first'
figure "snapshot held for $length s: plain SQL, last $part s / first" ratio - \
	'held-plain: last' 'held-plain: first'

# Only for the plot, which a quick run does not draw.  Their queues take long
# to fill, so these run for ten seconds.
length=10
if [ "$quick" -eq 0 ] && [ -z "$no_peers" ]; then
	fresh
	peer graphile fill $((length * 20000))
	settle
	hold
	peer graphile timeline $length >"$out/held-graphile.tsv"
	release
	fresh
	peer pgboss fill $((length * 25000))
	settle
	hold
	PGBOSS_WORKERS=4 PGBOSS_BATCH=1000 peer pgboss timeline $length >"$out/held-pgboss.tsv"
	release
fi
