# shellcheck shell=bash disable=SC2154  # sourced by demo/run
# FLOW: the tasks of a WfFormat file as sleeps, and their graph.

slots=4    # of each worker
budget=12  # seconds of sleep in all

jq --argjson slots $((slots * nworkers)) --argjson budget $budget -f demo/flow.jq "$FLOW" \
	>"$out/flow" || {
	echo "FLOW=$FLOW_NAME cannot be run." >&2
	exit 2
}
jq -r '.tasks[] | [.id, .label, .level] | @tsv' "$out/flow" >"$out/nodes"
jq -r '.tasks[] | .id as $id | .parents[] | [., $id] | @tsv' "$out/flow" >"$out/edges"
# The last job depends on all others, however they end.
jq -c '[.tasks[] | {kind: "task", name: .id, depends_on: .parents, args: {id, seconds}}]
	| . + [{kind: "end", depends_on: map(.name), trigger_rule: "all_done", notify: true}]
	| map(. + {queue: "demo"})' "$out/flow" >"$out/jobs"

# graph [live]: draws it with the state of each job, over the last one if it
# fits the terminal; with live only then
drawn=0
counts=
graph() {
	local picture height
	picture=$(printf '%s\n' "${rows[@]}" | perl demo/graph --width "$columns" \
		--color "$([ -z "$bold" ] || echo 1)" --utf8 "$JOBQ_UTF8" "$out/nodes" "$out/edges")
	height=$(wc -l <<<"$picture")
	[ $drawn -eq 0 ] || printf '\e[%dA\e[J' $drawn
	drawn=0
	if [ $tty -eq 1 ] && [ "$height" -lt "${lines:-0}" ]; then
		drawn=$height
	elif [ "${1:-}" = live ]; then
		return
	fi
	printf '%s\n' "$picture"
}

# In a terminal the graph itself moves; where it is too long, and in a log,
# it is drawn half-way and at the end.
half=
watch_flow() {
	local done=0 row
	ask "SELECT args ->> 'id', state FROM job_status WHERE kind = 'task'"
	for row in "${rows[@]}"; do
		[[ $row != *$'\tsucceeded' ]] || done=$((done + 1))
	done
	if [ $drawn -gt 0 ]; then
		[ "$counts" = "${rows[*]}" ] || graph
		counts=${rows[*]}
		return
	fi
	bar "$done" "${#rows[@]}" tasks
	if [ -z "$half" ] && [ $((done * 2)) -ge ${#rows[@]} ]; then
		half=1
		clear_bar
		graph
	fi
}

say "${bold}$FLOW_NAME: $(wc -l <"$out/nodes") tasks, $(wc -l <"$out/edges") dependencies${plain}, $(jq -r '"a second takes \(.scale * 100000 | round / 100) ms."' "$out/flow")"
psql -XAtq -v ON_ERROR_STOP=1 -f demo/flow.sql <"$out/jobs" >"$out/end"
start=$SECONDS
start_workers $slots 'task=sleep "$(jq .seconds)"; echo null' 'end=echo null'
if [ $tty -eq 1 ]; then
	ask "SELECT args ->> 'id', state FROM job_status WHERE kind = 'task'"
	graph live
fi
await "$(cat "$out/end")" watch_flow
ask "SELECT args ->> 'id', state FROM job_status WHERE kind = 'task'"
graph
say '' "All ended after $((SECONDS - start)) s."


# no task may have started before all its parents had ended
ask "SELECT args ->> 'id', extract(epoch FROM started_at), extract(epoch FROM finished_at) FROM job_status
	WHERE kind = 'task' AND state = 'succeeded'"
printf '%s\n' "${rows[@]}" | awk -F '\t' '
	NR == FNR { started[$1] = $2; finished[$1] = $3; next }
	!($1 in finished) || !($2 in started) || started[$2] < finished[$1] { bad++; print "  " $1 " -> " $2 }
	END { exit bad > 0 }' - "$out/edges" || die 'These tasks ran in the wrong order.'
say "${green}Each task started after all that it depends on had ended.${plain}"
