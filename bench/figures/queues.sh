# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# 16 clients that claim from a queue each, against 16 at one queue, by the same
# statements.

fresh
jobs=$((rounds * seconds * 30000))
jobq_fill bench0 $jobs
jobq_fill "$(echo bench{0..15})" $jobs
for ((round = 1; round <= rounds; round++)); do
	settle
	sample '16 queues' "$(bench 16 jobq_queues -T "$seconds" -D queues=16)"
	settle
	sample '1 queue' "$(bench 16 jobq_queues -T "$seconds" -D queues=1)"
done
figure 'claim + complete, 16 clients, 16 queues / 1 queue' ratio '>=1.0' '16 queues' '1 queue'
