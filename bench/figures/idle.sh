# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# What the background worker takes while 100,000 jobs run and no lease expires.

length=$((quick ? 2 : 6))

# cpu SAMPLE: percent of a core
cpu() {
	local pid ticks before after
	pid=$(sql -c "SELECT pid FROM pg_stat_activity WHERE backend_type = 'jobq worker' AND datname = current_database()")
	[ -n "$pid" ] || die 'No background worker.'
	ticks=$(getconf CLK_TCK)
	before=$(cpu_ticks "$pid")
	sleep $length
	after=$(cpu_ticks "$pid")
	sample "$1" "$(awk "BEGIN { print ($after - $before) / $ticks / $length * 100 }")"
}

# cpu_ticks PID: the fields after the name, which may have blanks
cpu_ticks() {
	sed 's/.*) //' "/proc/$1/stat" | awk '{ print $12 + $13 }'
}

fresh
jobq_fill bench 200000
claim="SELECT * FROM job_claim('bench', NULL, 100000, '1 h')"
sql -c "SELECT count(*) FROM ($claim) c" >/dev/null
settle
cpu idle
# as many rows as that which have ended, and which nobody may remove
hold
sql -c "SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM ($claim) c) d" >/dev/null
cpu 'idle, held'
release
figure 'background worker, 100,000 leases, none expiring' '% core' '<=1' idle
figure 'background worker, the same under a held snapshot' '% core' '<=1' 'idle, held'
