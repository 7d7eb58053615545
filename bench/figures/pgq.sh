# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# PgQ, an event log and not a job queue: events consumed per second in batches
# of 500, its default (ticker_max_count).  Shown for comparison.

if [ ! -e "$sharedir/extension/pgq.control" ]; then
	missing 'PgQ, batches of 500 events' events/s - "pgq is not installed."
	return
fi
fresh
sql -c 'CREATE EXTENSION pgq' -c "SELECT pgq.create_queue('bench'), pgq.register_consumer('bench', 'bench')" >/dev/null
batches=$((quick ? 40 : 200))
# a tick after every 500 events, each in a transaction of its own; the first
# goes without, being one event short
sql -c 'SET synchronous_commit = off' -c "DO \$\$ BEGIN FOR i IN 0 .. $((rounds * batches)) LOOP
	PERFORM count(pgq.insert_event('bench', 'noop', bench_args()::text)) FROM generate_series(1, 500);
	COMMIT;
	PERFORM pgq.ticker('bench');
	COMMIT;
	END LOOP; END \$\$"
for ((round = 1; round <= rounds; round++)); do
	settle
	sample pgq "$(awk "BEGIN { print 500 * $(bench 1 pgq_batch -t $batches) }")"
done
figure 'PgQ, batches of 500 events, one consumer' events/s - pgq
