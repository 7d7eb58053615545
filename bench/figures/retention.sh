# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# The background worker removes decided jobs beside a load, against the same load
# alone, by turns, without and with an old snapshot.  soak-retention removes a
# million, and keeps ten.

turns=$((quick ? 2 : 6))
jobs=$((turns * (quick ? 20000 : 40000)))  # more than go meanwhile

# removal on|off: of the jobs of queue old
removal() {
	local days=10
	[ "$1" = off ] || days=1
	sql -c "SELECT job_queue_set('old', retention => '$days days')" >/dev/null
}

# turn NAME on|off: a window of the load
turn() {
	local before start
	removal "$2"
	sleep 0.5  # the worker reads what there is
	before=$(kept old)
	start=$EPOCHREALTIME
	sample "$1: $2" "$(bench 8 jobq_cycle -T "$seconds")"
	[ "$2" = off ] ||
		sample "$1: removed" "$(awk "BEGIN { print ($before - $(kept old)) / ($EPOCHREALTIME - $start) }")"
}

# by_turns NAME: what goes first changes, so that what was there before weighs the same
by_turns() {
	local i
	for ((i = 0; i < turns; i++)); do
		if ((i % 2)); then
			turn "$1" on
			turn "$1" off
		else
			turn "$1" off
			turn "$1" on
		fi
	done
	[ "$(kept old)" -gt 0 ] || die "Nothing was left to be removed."
}

fresh
removal off
decided old "$jobs"
settle
by_turns retention
decided old "$jobs"
settle
hold
by_turns retention-held
release
figure 'claim + complete beside removal, / alone' ratio '>=0.9' 'retention: on' 'retention: off'
figure 'the same, snapshot held' ratio '>=0.9' 'retention-held: on' 'retention-held: off'
figure 'removed beside the load' jobs/s '>=1667' 'retention: removed'
