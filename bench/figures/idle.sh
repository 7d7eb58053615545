# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# What the background worker takes while 100,000 jobs run and no lease expires.

length=$((quick ? 2 : 6))

fresh
jobq_fill bench 200000
claim="SELECT * FROM job_claim('bench', NULL, 100000, '1 h')"
sql -c "SELECT count(*) FROM ($claim) c" >/dev/null
settle
sample idle "$(cpu $length)"
# as many rows as that which have ended, and which nobody may remove
hold
sql -c "SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM ($claim) c) d" >/dev/null
sample 'idle, held' "$(cpu $length)"
release
figure 'background worker, 100,000 leases, none expiring' '% core' '<=1' idle
figure 'background worker, the same under a held snapshot' '% core' '<=1' 'idle, held'
