# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Heartbeats, 8 clients, against SELECT 1, and the WAL they write.

# wal_since LSN: bytes of records that a heartbeat could have written; pruning a
# page and what the server writes by the clock are not among them
wal_since() {
	local to
	to=$(sql -c 'SELECT pg_current_wal_insert_lsn()' -c CHECKPOINT)
	[ "$to" != "$1" ] || {
		echo 0
		return
	}
	sql -c "SELECT coalesce(sum(record_size), 0) FROM pg_get_wal_stats('$1', '$to', true)
		WHERE \"resource_manager/record_type\" ~ '^(Heap|Btree|Transaction)'
			AND \"resource_manager/record_type\" <> 'Heap2/PRUNE'"
}

calls=$((quick ? 3000 : 20000))  # of each client

fresh
jobq_fill bench 8
sql -c 'CREATE EXTENSION pg_walinspect' -c "CREATE TABLE bench_lease AS
	SELECT row_number() OVER () - 1 AS client, job_id, token FROM job_claim('bench', NULL, 8, '1 h')"
for ((round = 1; round <= rounds; round++)); do
	settle
	from=$(sql -c 'SELECT pg_current_wal_insert_lsn()')
	sample heartbeat "$(bench 8 jobq_heartbeat -t $calls -D claimed=0)"
	sample 'heartbeat WAL' "$(wal_since "$from")"
	sample 'SELECT 1' "$(bench 8 select -t $calls)"
done
figure 'heartbeats, 8 clients' calls/s - heartbeat
figure 'heartbeats, 8 clients, / SELECT 1' ratio '>=0.5' heartbeat 'SELECT 1'
figure 'heartbeats: WAL but of pruning' bytes '<=0' 'heartbeat WAL'
