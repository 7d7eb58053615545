# shellcheck shell=bash disable=SC2154  # sourced by demo/run
# FLOW: a flow whose jobs are sleeps that give the "result" of their args, and its graph.
# The file is the document of a flow, or in WfFormat.

slots=4    # of each worker
budget=12  # seconds of sleep in all

refuse() {
	echo "FLOW=$FLOW_NAME cannot be run." >&2
	exit 2
}

if jq -e 'type == "object" and has("jobs")' "$FLOW" >/dev/null 2>&1; then
	cp "$FLOW" "$out/document"
else
	jq --arg queue "$queue" -f contrib/flows/wfformat.jq "$FLOW" >"$out/document" || refuse
fi
psql -XAtq -v ON_ERROR_STOP=1 -f contrib/flows/submit.sql <"$out/document" >"$out/id" || refuse
flow=$(cat "$out/id")
scale=$(jq --argjson slots $((slots * nworkers)) --argjson budget $budget -f demo/scale.jq "$out/document") || refuse

# states: all jobs in the flow and in what undoes it, each with its state
states() {
	ask "SELECT id, state FROM job_status WHERE id <> $flow ORDER BY id"
}

# read_nodes: what is to be drawn; flows that start have further jobs
nodes=-1
read_nodes() {
	[ $nodes -ne ${#rows[@]} ] || return 0
	nodes=${#rows[@]}
	ask "SELECT jsonb_agg(jsonb_build_object('id', id::text, 'name', coalesce(args ->> 'task', name, kind), 'flow', flow::text,
		'depends_on', to_jsonb(depends_on::text[]), 'undo_of', (SELECT undo_of FROM job_flow_status f WHERE f.id = s.id)::text) ORDER BY id)
		FROM job_status s WHERE id <> $flow"
	printf '%s\n' "${rows[0]:-[]}" | jq --arg flow "$flow" -f demo/nodes.jq >"$out/graph" || die 'Its graph cannot be made.'
	jq -r '.nodes[]' "$out/graph" >"$out/nodes"
	jq -r '.edges[]' "$out/graph" >"$out/edges"
	states
}

# graph [live]: draws it with the state of each job, over the last one if it
# fits the terminal; with live only then
drawn=0
counts=
graph() {
	local picture height
	read_nodes
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
	states
	for row in "${rows[@]}"; do
		[[ $row == *$'\t'@(waiting|scheduled|ready|running) ]] || done=$((done + 1))
	done
	if [ $drawn -gt 0 ]; then
		[ "$counts" = "${rows[*]}" ] || graph
		counts=${rows[*]}
		return
	fi
	bar "$done" "${#rows[@]}" jobs
	if [ -z "$half" ] && [ $((done * 2)) -ge ${#rows[@]} ]; then
		half=1
		clear_bar
		graph
	fi
}

# work_on FLOW: until the workers have nothing left to do there; returns the largest of what they exit with
work_on() {
	local worker alive=1 until=$((SECONDS + 900)) rc status=0
	start_workers $slots --flow "$1" --until-idle --kind '*=args=$(cat); sleep "$(printf %s "$args" | jq "((.runtimeInSeconds | numbers) // 1) * '"$scale"'")"; printf %s "$args" | jq -c .result'
	while [ $alive -eq 1 ]; do
		[ "$SECONDS" -lt "$until" ] || die "Flow $1 does not end."
		watch_flow
		sleep 0.2
		alive=0
		for worker in "${!pids[@]}"; do
			! kill -0 "${pids[$worker]}" 2>/dev/null || alive=1
		done
	done
	for worker in "${!pids[@]}"; do
		rc=0
		wait "${pids[$worker]}" || rc=$?
		unset "pids[$worker]"
		[ $rc -le $status ] || status=$rc
	done
	clear_bar
	return $status
}

states
say "${bold}$FLOW_NAME: flow $flow, ${#rows[@]} jobs${plain}, $(jq -rn --argjson scale "$scale" '"a second takes \($scale * 100000 | round / 100) ms."')"
start=$SECONDS
[ $tty -eq 0 ] || graph live
status=0
work_on "$flow" || status=$?
took=$((SECONDS - start))

# what undoes the flow, or one in it, is in none
undoing="FROM job_flow_status f JOIN job_status s USING (id) WHERE undo_of IS NOT NULL AND flow IS NULL ORDER BY id"
ask "SELECT id $undoing"
for undo in "${rows[@]}"; do
	undo_status=0
	work_on "$undo" || undo_status=$?
	[[ $undo_status =~ ^[034]$ ]] || status=$undo_status
done
states
graph
case $status in
0) say '' "It has ${green}succeeded${plain} after $took s." ;;
3)
	ask "SELECT state, error FROM job_status WHERE id = $flow"
	say '' "It has ended after $took s: ${red}${rows[0]//$'\t'/, }${plain}."
	ask "SELECT format('  %s: %s', coalesce(name, kind), error) FROM job_status WHERE id <> $flow AND state = 'failed' AND error IS NOT NULL ORDER BY id LIMIT 10"
	[ ${#rows[@]} -eq 0 ] || say "${rows[@]}"
	;;
4)
	say '' "It is ${red}not decided${plain} after $took s, and nothing of it can go on:"
	sed -n 's/^[^ ]* \(.*: waits: .*\)/  \1/p' "$out"/worker-*.out | sort -u
	;;
*) die "A worker has ended with status $status." ;;
esac
ask "SELECT format('Flow %s, which undoes flow %s: %s%s.', id, undo_of, f.state, ', ' || s.error) $undoing"
[ ${#rows[@]} -eq 0 ] || say "${rows[@]}"

echo
psql -Xq -P footer=off -P pager=off -c "SELECT coalesce(name, 'flow ' || id) AS flow, state, jobs, succeeded, failed, skipped, cancelled, upstream_failed,
	waiting + scheduled + ready + running AS undecided FROM job_flow_status ORDER BY id"
for format in mermaid dot; do
	psql -XAtq -v ON_ERROR_STOP=1 -c "SELECT job_graph($flow, '$format')" >"$out/flow.$format"
done
say "Its graph is in $out/flow.mermaid and $out/flow.dot."
if ! command -v dot >/dev/null; then
	say 'There is no dot, of package graphviz, to draw it.'
elif timeout 60 dot -Tsvg -o "$out/flow.svg" "$out/flow.dot"; then
	say "It is drawn in $out/flow.svg."
else
	say 'dot could not draw it within a minute.'
fi

# no job may have started before all that it depends on had ended, unless its trigger rule lets it
if ! jq -e 'any(.. | objects; has("trigger_rule"))' "$out/document" >/dev/null; then
	ask "SELECT p.id || ' -> ' || c.id FROM job_status c, unnest(c.depends_on) d JOIN job_status p ON p.id = d
		WHERE c.started_at IS NOT NULL AND (p.finished_at IS NULL OR p.finished_at > c.started_at)"
	[ ${#rows[@]} -eq 0 ] || die 'These jobs ran in the wrong order:' "${rows[@]}"
	say "${green}Each job started after all that it depends on had ended.${plain}"
fi
exit $status
