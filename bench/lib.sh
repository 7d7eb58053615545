# shellcheck shell=bash disable=SC2154,SC2034  # sourced by bench/run
# What the files of bench/figures are written in.

# --- samples and figures ---------------------------------------------------
#
# A sample is one measurement of one round.  A figure is the median over the
# rounds, of the samples themselves or of their ratios to others' of the same
# round, so that what slows down a round slows down both sides.

# sample NAME VALUE
sample() {
	[[ ${2:-} =~ ^-?[0-9] ]] || die "No measurement of $1."
	printf '%s\t%s\n' "$1" "$2" >>"$out/$group.samples.tsv"
}

# figure NAME UNIT TARGET SAMPLE [SAMPLE]: of the first sample, or of its
# ratios to the second.  TARGET is '>=N', '<=N', or - if it is only shown.
figure() {
	local line
	line=$(jq -Rn -c --arg name "$1" --arg unit "$2" --arg target "$3" '
		def median: sort | if length % 2 == 1 then .[length / 2 | floor]
			else (.[length / 2 - 1] + .[length / 2]) / 2 end;
		[inputs | split("\t")] as $samples
		| [$ARGS.positional[] as $of
			| {key: $of, value: [$samples[] | select(.[0] == $of) | .[1] | tonumber]}] as $sides
		| (if ($sides | length) == 1 then $sides[0].value
			else [$sides | map(.value) | transpose[] | .[0] / .[1]] end) as $rounds
		| ($rounds | median) as $value
		| {name: $name, value: $value, unit: $unit, target: $target,
			ok: (if $target == "-" then null
				elif $target | startswith(">=") then $value >= ($target[2:] | tonumber)
				else $value <= ($target[2:] | tonumber) end),
			rounds: $rounds}
			+ if ($sides | length) > 1 then {of: $sides | from_entries} else {} end' \
		--args "${@:4}" <"$out/$group.samples.tsv")
	printf '%s\n' "$line" >>"$out/figures.jsonl"
	show "$line"
}

# value NAME: of a figure
value() {
	jq -r --arg name "$1" 'select(.name == $name) | .value' "$out/figures.jsonl"
}

# missing NAME UNIT TARGET REASON: a figure that cannot be measured here
missing() {
	local line
	line=$(jq -n -c '$ARGS.positional as [$name, $unit, $target, $reason]
		| {name: $name, value: null, unit: $unit, target: $target, ok: null, missing: $reason}' \
		--args "$@")
	printf '%s\n' "$line" >>"$out/figures.jsonl"
	show "$line"
	printf '%s: %s\n' "$1" "$4" >&2
}

# show FIGURE: its line
show() {
	local name value unit target verdict
	IFS=$'\t' read -r name value unit target verdict < <(jq -r '
		def digits: if fabs >= 100 then round elif fabs >= 10 then . * 10 | round / 10
			elif fabs >= 1 then . * 100 | round / 100 else . * 1000 | round / 1000 end;
		[.name, (.value | if . == null then "-" else digits end), .unit, .target,
			if .missing then "missing" elif .ok == null then "shown"
			elif .ok then "ok" else "short" end] | @tsv' <<<"$1")
	printf '%-66s %9s %-9s %7s  %s\n' "$name" "$value" "$unit" "$target" "$verdict"
}

# --- the database ----------------------------------------------------------

sql() {
	psql -XAtq -v ON_ERROR_STOP=1 "$@"
}

# fresh [NAME]: a new database with jobq and the table of plain SQL
fresh() {
	export PGDATABASE=postgres
	sql -c 'SET client_min_messages = warning' -c "DROP DATABASE IF EXISTS ${1:-bench} WITH (FORCE)" \
		-c "CREATE DATABASE ${1:-bench}"
	export PGDATABASE=${1:-bench}
	sql -c 'CREATE EXTENSION jobq' -f bench/plain.sql -f bench/sql/setup.sql
}

# fill PROCEDURE ARGUMENTS JOBS: by two sessions that do not wait for the disk,
# as filling is not what is measured
fill() {
	local half=$((($3 + 1) / 2)) pid
	sql -c 'SET synchronous_commit = off' -c "CALL $1($2 $half)" &
	pid=$!
	sql -c 'SET synchronous_commit = off' -c "CALL $1($2 $3 - $half)"
	wait "$pid"
}

# jobq_fill QUEUES JOBS [PRIORITIES]: ready jobs with 100 bytes of arguments
jobq_fill() {
	fill bench_fill_jobq "'$1', ${3:-1}," "$2"
}

# partitions_fill QUEUE PARTITIONS JOBS: the partitions in turn
partitions_fill() {
	fill bench_fill_partitions "'$1', $2," $(($3 / $2))
}

# plain_fill JOBS
plain_fill() {
	fill bench_fill_plain '' "$1"
}

# decided QUEUE JOBS: jobs that were decided two days ago
decided() {
	sql <<-END
		SET synchronous_commit = off;
		INSERT INTO job (id, submitted_at, finished_at, started_at, token, submitted_by, quorum, dependencies, generation, attempt, failed, lost,
				priority, rule, outcome, attempt_outcome, notify, manual, queue, kind, args)
			SELECT nextval('job_id_seq'), now() - interval '2 days', now() - interval '2 days', now() - interval '2 days', i, current_user::regrole,
				0, 0, 0, 1, 0, 0, 0, 0, 1, 0, false, false, '$1', 'noop', '{}' FROM generate_series(1, $2) i;
	END
}

# kept QUEUE: its jobs
kept() {
	sql -c "SELECT count(*) FROM job WHERE queue = '$1'"
}

# settle: so that no round pays for the one before it
settle() {
	sql <<-'END'
		SELECT 'VACUUM ANALYZE ' || string_agg(oid::regclass::text, ', ') FROM pg_class
			WHERE relkind = 'r' AND relnamespace <> 'pg_catalog'::regnamespace \gexec
		CHECKPOINT;
	END
}

# hold, release: a transaction with an old snapshot
hold() {
	local line
	coproc HELD {
		exec psql -XAtq 2>&1 9<&-
	}
	printf 'BEGIN ISOLATION LEVEL REPEATABLE READ;\nSELECT count(*) FROM pg_class;\n' >&"${HELD[1]}"
	read -r line <&"${HELD[0]}"
	[[ $line =~ ^[0-9]+$ ]] || die "No snapshot: $line"
}

release() {
	local pid=$HELD_PID
	printf '\\q\n' >&"${HELD[1]}"
	wait "$pid"
}

# --- pgbench ---------------------------------------------------------------

# bench CLIENTS SCRIPT OPTION ...: scripts run per second; -f takes SCRIPT, a
# name in bench/sql or several with their weights, "a@9 b@1".  An error, such
# as that of a claim that found nothing, ends it.
bench() {
	local script scripts=() log=$out/pgbench.log
	for script in $2; do
		case $script in
			*@*) scripts+=(-f "bench/sql/${script%@*}.sql@${script#*@}") ;;
			*) scripts+=(-f "bench/sql/$script.sql") ;;
		esac
	done
	pgbench -n -M prepared -j 2 -c "$1" "${scripts[@]}" -D "args=$args" "${@:3}" \
		>"$log" 2>&1 9<&- || {
		tail -n 5 "$log" >&2
		die "pgbench $2 with $1 clients failed."
	}
	sed -n 's/^tps = \([0-9.]*\).*/\1/p' "$log"
}

# timeline NAME CLIENTS SCRIPT SECONDS OPTION ...: NAME.tsv has the rate of
# each second
timeline() {
	bench "$2" "$3" -T "$4" -P 1 "${@:5}" >/dev/null
	sed -n 's/^progress: \([0-9.]*\) s, \([0-9.]*\) tps.*/\1\t\2/p' "$out/pgbench.log" >"$out/$1.tsv"
}

# window FILE FROM TO: the mean rate of these seconds, or the last of them if
# FROM is negative
window() {
	if [ "$2" -lt 0 ]; then
		tail -n "${2#-}" "$1"
	else
		sed -n "$(($2 + 1)),$3p" "$1"
	fi | awk '{ sum += $2 } END { print sum / NR }'
}

# cpu SECONDS: what the background worker takes, percent of a core
cpu() {
	local pid before after
	pid=$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND datname = current_database()")
	[ -n "$pid" ] || die 'No background worker.'
	before=$(cpu_ticks "$pid")
	sleep "$1"
	after=$(cpu_ticks "$pid")
	awk "BEGIN { print ($after - $before) / $(getconf CLK_TCK) / $1 * 100 }"
}

# cpu_ticks PID: the fields after the name, which may have blanks
cpu_ticks() {
	sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

# latency MODE COUNT: samples of bench/latency.c
latency() {
	local program=$WORK/out/latency p50 p99
	[ -e "$program" ] ||
		"${CC:-gcc}" -O2 -Wall -Wextra -Werror -I"$("$PG_CONFIG" --includedir)" bench/latency.c \
			-L"$("$PG_CONFIG" --libdir)" -lpq -o "$program"
	read -r p50 p99 < <("$program" "$@" 9<&-)
	sample "$1 p50" "${p50:-}"
	sample "$1 p99" "$p99"
}

# jobq_worker QUEUE PREFETCH JOBS: seconds of the whole run of a worker whose handler does nothing
jobq_worker() {
	local start=$EPOCHREALTIME
	jobq-worker --queue "$1" --concurrency 16 --prefetch "$2" --kind 'noop=:noop' --max-jobs "$3" \
		>"$out/worker.log" 2>&1 </dev/null 9<&- || return
	awk "BEGIN { print $EPOCHREALTIME - $start }"
}

# rate SAMPLE COMMAND ... JOBS: of a run that prints its seconds
rate() {
	local took
	took=$("${@:2}")
	sample "$1" "$(awk "BEGIN { print ${*: -1} / $took }")"
}

# timed SQL: milliseconds that the last statement took
timed() {
	printf '\\timing on\n%s\n' "$1" | sql | sed -n 's/^Time: \([0-9.]*\) ms.*/\1/p' | tail -n 1
}
