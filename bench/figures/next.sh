# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# job_next, which completes a job and claims the next in one transaction,
# against claim + complete in two.

for clients in 8 32; do
	fresh
	# more than can be claimed
	jobq_fill bench $((rounds * seconds * 80000))
	for ((round = 1; round <= rounds; round++)); do
		settle
		sample "two $clients" "$(bench "$clients" jobq_one -T "$seconds")"
		sql -c CHECKPOINT
		sample "next $clients" "$(bench "$clients" jobq_next -T "$seconds" -D job=0 -D token=0)"
	done
	figure "job_next, $clients clients" jobs/s - "next $clients"
done
figure 'job_next, 8 clients, / claim + complete' ratio '>=1.15' 'next 8' 'two 8'
figure 'job_next, 32 clients, / claim + complete' ratio '>=1.3' 'next 32' 'two 32'
