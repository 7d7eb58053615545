# shellcheck shell=bash disable=SC2154  # sourced by demo/run
# The map-reduce: list submits one measure per header file and a reduce.

dir=$("$PG_CONFIG" --includedir-server)
killed=        # the worker that was killed
victim=        # the job that it ran
victim_state=  # as last seen since the job was lost

# kill_one: ends a worker by SIGKILL while it holds a job
kill_one() {
	local worker=worker-3 file
	# a stopped worker cannot hand in its job between our look and the kill
	kill -STOP "${pids[$worker]}"
	ask "SELECT id, args ->> 'file' FROM job_status WHERE state = 'running' AND worker = '$worker'"
	if [ ${#rows[@]} -eq 0 ]; then
		kill -CONT "${pids[$worker]}"
		return
	fi
	kill -KILL "${pids[$worker]}"
	wait "${pids[$worker]}" 2>/dev/null || true
	unset "pids[$worker]"
	killed=$worker
	IFS=$'\t' read -r victim file <<<"${rows[0]}"
	say "${red}SIGKILL${plain} to $worker, which runs job $victim (measure ${file#"$dir/"})."
}

# follow_victim: says once that its job was lost and once that it succeeded
follow_victim() {
	local state lost worker
	[ "$victim_state" != succeeded ] || return 0
	ask "SELECT state, lost, worker FROM job_status WHERE id = $victim"
	IFS=$'\t' read -r state lost worker <<<"${rows[0]}"
	[ "$lost" -gt 0 ] || return 0
	[ -n "$victim_state" ] ||
		say "Job $victim is ${red}lost${plain}: its lease ran out. It will run again."
	[ "$state" != succeeded ] ||
		say "Job $victim ${green}succeeded${plain} on $worker."
	victim_state=$state
}

watch_jobs() {
	ask "SELECT count(*) FILTER (WHERE kind = 'measure'),
		count(*) FILTER (WHERE kind = 'measure' AND state = 'succeeded'),
		count(*) FILTER (WHERE state = 'running'),
		count(*) FILTER (WHERE lost > 0) FROM job_status"
	local total done running lost
	IFS=$'\t' read -r total done running lost <<<"${rows[0]}"
	[ "$total" -gt 0 ] || return 0
	if [ -z "$killed" ]; then
		[ $((done * 10)) -lt $((total * 3)) ] || kill_one
	else
		follow_victim
	fi
	bar "$done" "$total" "${running} running on ${#pids[@]} workers, $lost lost"
}

say "${bold}Map-reduce over the header files in $dir${plain}"
ask "SELECT job_queue_set('$queue', lease => '2 s', backoff => '250 ms')"
start_workers 1 --queue "$queue" --kind list=demo/list --kind measure=demo/measure --kind reduce=demo/reduce
start=$SECONDS
ask "SELECT job_submit('list', jsonb_build_object('dir', '$dir'), queue => '$queue', notify => true)"
list=${rows[0]}
say "Job $list: list"
await "$list" watch_jobs
ask "SELECT result ->> 'files', result ->> 'reduce' FROM job_status WHERE id = $list"
IFS=$'\t' read -r files reduce <<<"${rows[0]}"
say "Job $list submitted $files measure jobs, and job $reduce, a reduce that depends on all of them."
await "$reduce" watch_jobs
[ -n "$killed" ] || die 'No worker held a job when it should be killed.'

ask "SELECT job_result($reduce)"
result=${rows[0]}
say "Job $reduce ${green}succeeded${plain} after $((SECONDS - start)) s." ''
jq -r --arg dir "$dir/" --arg bold "$bold" --arg plain "$plain" '
	def left($n): . + " " * ([$n - length, 0] | max);
	def right($n): tostring | " " * ([$n - length, 0] | max) + .;
	"\($bold)Largest files\($plain)",
	(.largest[] | "  \(.bytes | right(8)) bytes  \(.lines | right(6)) lines  \(.file | ltrimstr($dir))"),
	"\($bold)Most included headers\($plain)",
	(.most_included[] | "  \(.times | right(8)) times  \(.header)"),
	"\($bold)Total\($plain)",
	"  \(.files) files (\(.distinct) different), \(.lines) lines, \(.bytes) bytes"' <<<"$result"

echo
echo "${bold}Attempts of job $victim${plain}"
psql -Xq -P footer=off -c "SELECT attempt, worker, to_char(started_at, 'HH24:MI:SS.MS') AS started,
	to_char(ended_at, 'HH24:MI:SS.MS') AS ended, outcome, error
	FROM job_attempts WHERE job_id = $victim ORDER BY started_at"
echo "${bold}All attempts${plain}"
psql -Xq -P footer=off -c "SELECT worker, count(*) AS attempts, count(*) FILTER (WHERE outcome = 'succeeded') AS succeeded,
	count(*) FILTER (WHERE outcome = 'lost') AS lost, count(*) FILTER (WHERE outcome NOT IN ('succeeded', 'lost')) AS other
	FROM job_attempts GROUP BY worker ORDER BY worker"

# the same figures by other means
read -r lines bytes < <(find "$dir" -type f -name '*.h' -exec cat {} + | wc -lc)
jq -e --argjson files "$files" --argjson lines "$lines" --argjson bytes "$bytes" \
	'.files == $files and .lines == $lines and .bytes == $bytes' <<<"$result" >/dev/null ||
	die "wc counts $lines lines and $bytes bytes in $files files."
say "${green}wc counts the same lines and bytes; no file was left out or counted twice.${plain}"
