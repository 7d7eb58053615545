# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Long runs at a steady rate, with autovacuum and checkpoints on their defaults:
# the last minute against the third.  QUICK makes a minute of three seconds, to
# try it out.

minute=$((quick ? 3 : 60))
tables="'job_waiting', 'job_scheduled', 'job_limited', 'job_ready', 'job_lease'"

# steady NAME LOAD MINUTES: at LOAD of what it can do; leaves samples of the
# third and of the last minute
steady() {
	local peak start pid
	peak=$(bench 8 jobq_cycle -T $((minute / 3)))
	sql -c CHECKPOINT
	start=$EPOCHSECONDS
	rm -f "$out/steady".*
	bench 8 jobq_cycle -T $(($3 * minute)) -R "$(awk "BEGIN { print $peak * $2 }")" \
		-l --log-prefix="$out/steady" --sampling-rate=0.2 >"$out/steady-rate" &
	pid=$!
	sleep $((2 * minute))
	sample "$1: stolen, third" "$(stolen $minute)"
	sizes "$1: size, third"
	sleep $((($3 - 4) * minute))
	sample "$1: stolen, last" "$(stolen $((minute - 2)))"
	sizes "$1: size, last"
	wait "$pid"
	minutes "$1" 3 third $start
	minutes "$1" "$3" last $start
	cat "$out/steady".* | awk -v start="$start" -v minute=$minute \
		'{ n[int(($5 - start) / minute)]++ } END { for (i in n) print i + 1 "\t" n[i] * 5 / minute }' |
		sort -n >"$out/$1.tsv"
}

# sizes SAMPLE
sizes() {
	sample "$1" "$(sql -c "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relname IN ($tables)")"
}

# stolen SECONDS: percent of the processors' time that the host of this machine
# gave to others
stolen() {
	local before
	before=$(ticks)
	sleep "$1"
	echo "$before $(ticks)" | awk '{ print 100 * ($3 - $1) / ($4 - $2) }'
}

ticks() {
	awk '/^cpu / { print $9, $2 + $3 + $4 + $5 + $6 + $7 + $8 + $9 }' /proc/stat
}

# minutes NAME N SAMPLE START: rate and 99th percentile of the Nth minute
minutes() {
	local latencies=$out/latencies n
	cat "$out/steady".* | awk -v from=$(($4 + ($2 - 1) * minute)) -v to=$(($4 + $2 * minute)) \
		'$5 >= from && $5 < to { print $3 / 1000 }' | sort -n >"$latencies"
	n=$(wc -l <"$latencies")
	sample "$1: rate, $3" "$(awk "BEGIN { print $n * 5 / $minute }")"
	sample "$1: p99, $3" "$(sed -n "$((n * 99 / 100 + 1))p" "$latencies")"
}

# verdicts NAME TEXT P99
verdicts() {
	figure "$2: jobs/s, last minute / third" ratio '>=0.95' "$1: rate, last" "$1: rate, third"
	figure "$2: p99, last minute / third" ratio "$3" "$1: p99, last" "$1: p99, third"
	figure "$2: processor given to others, third minute" % - "$1: stolen, third"
	figure "$2: processor given to others, last minute" % - "$1: stolen, last"
}

# every five minutes, counted from the one before each load, so that none begins
# in the minutes compared
sql -c 'ALTER SYSTEM SET checkpoint_timeout = 300' -c 'SELECT pg_reload_conf()' >/dev/null

fresh
jobq_fill bench 10000
settle
steady soak 0.7 10
verdicts soak 'soak, 70 % load, 10 min' '<=1.2'
figure 'soak, 70 % load, 10 min: narrow tables, end / third minute' ratio '<=1.1' \
	'soak: size, last' 'soak: size, third'

fresh
jobq_fill bench 10000
settle
hold
steady soak-held 0.5 30
release
verdicts soak-held 'soak, snapshot held, half load, 30 min' '<=1.5'
