# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Claim + complete, against plain SQL and against the bound that two bare
# updates set.

for clients in 8 32; do
	fresh
	sql -f bench/sql/hot_setup.sql
	# more than can be claimed
	jobq_fill bench $((rounds * seconds * 35000))
	plain_fill $((rounds * seconds * 20000))
	for ((round = 1; round <= rounds; round++)); do
		settle
		sample "jobq $clients" "$(bench "$clients" jobq_one -T "$seconds")"
		sql -c CHECKPOINT
		sample "plain $clients" "$(bench "$clients" plain_one -T "$seconds")"
		# the bound with 8 clients is only shown
		[ "$quick" -eq 0 ] || [ "$clients" -eq 32 ] || continue
		sql -c CHECKPOINT
		sync=$(bench "$clients" hot -T "$seconds")
		async=$(PGOPTIONS='-c synchronous_commit=off' bench "$clients" hot -T "$seconds")
		sample "bound $clients" "$(awk "BEGIN { print 1 / (1 / $async + 1 / $sync) }")"
	done
	figure "claim + complete, one each, $clients clients" jobs/s - "jobq $clients"
done
figure 'claim + complete, one each, 8 clients, / plain SQL' ratio '>=2.2' 'jobq 8' 'plain 8'
figure 'claim + complete, one each, 32 clients, / plain SQL' ratio '>=3.8' 'jobq 32' 'plain 32'
figure 'claim + complete, one each, 32 clients, / bound of bare updates' ratio '>=0.75' 'jobq 32' 'bound 32'
figure 'bound of bare updates, 32 clients, / plain SQL' ratio - 'bound 32' 'plain 32'
[ "$quick" -eq 1 ] ||
	figure 'bound of bare updates, 8 clients, / plain SQL' ratio - 'bound 8' 'plain 8'
