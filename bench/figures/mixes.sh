# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Other loads under one held snapshot, by turns: the last turns of each against
# its first.

turns=$((quick ? 2 : 8))  # of each load
ends=$((quick ? 1 : 3))   # of them to compare
length=$((quick ? 1 : 2)) # seconds of a turn
mixes=(
	'three priorities:jobq_one'
	'10 % retried:jobq_one@9 jobq_retry@1'
	'10 % delayed:jobq_cycle@9 jobq_cycle_delayed@1'
	'10 % rolled back:jobq_one@9 jobq_rollback@1'
)

fresh
jobq_fill bench $((turns * length * 75000)) 3
settle
hold
for ((turn = 1; turn <= turns; turn++)); do
	for mix in "${mixes[@]}"; do
		rate=$(bench 8 "${mix#*:}" -T $length)
		if [ $turn -le $ends ]; then
			sample "${mix%:*}: first" "$rate"
		elif [ $turn -gt $((turns - ends)) ]; then
			sample "${mix%:*}: last" "$rate"
		fi
	done
done
release
for mix in "${mixes[@]}"; do
	name=${mix%:*}
	figure "snapshot held for $((turns * length * ${#mixes[@]})) s: $name, last / first" ratio '>=0.85' \
		"$name: last" "$name: first"
done
