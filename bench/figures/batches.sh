# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Claim + complete of 100 at a time, 8 clients.

batches=$((quick ? 50 : 150))  # for each client and round
fresh
jobq_fill bench $((rounds * 8 * batches * 100))
plain_fill $((rounds * 8 * batches * 100))
for ((round = 1; round <= rounds; round++)); do
	settle
	sample 'jobq batches' "$(bench 8 jobq_batch -t $batches)"
	sql -c CHECKPOINT
	sample 'plain batches' "$(bench 8 plain_batch -t $batches)"
done
figure 'claim + complete, batches of 100, 8 clients' batches/s - 'jobq batches'
figure 'claim + complete, batches of 100, 8 clients, / plain SQL' ratio '>=2.2' 'jobq batches' 'plain batches'
