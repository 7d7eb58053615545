# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Submitting, one at a time and by the thousand, against plain INSERTs.

calls=$((quick ? 25 : 150))  # of each of the two that submit by the thousand

fresh
for ((round = 1; round <= rounds; round++)); do
	sql -c CHECKPOINT
	sample 'submit' "$(bench 32 jobq_submit -T "$seconds")"
	sql -c CHECKPOINT
	sample 'insert' "$(bench 32 plain_submit -T "$seconds")"
	sql -c CHECKPOINT
	sample 'submit_many' "$(bench 2 jobq_submit_many -t $calls)"
	sql -c CHECKPOINT
	sample 'insert many' "$(bench 2 plain_submit_many -t $calls)"
done
figure 'submit, one each, 32 clients' jobs/s - submit
figure 'submit, one each, 32 clients, / INSERT' ratio '>=1.0' submit insert
figure 'submit_many of 1,000, 2 clients' calls/s - submit_many
figure 'submit_many of 1,000, 2 clients, / INSERT ... SELECT' ratio '>=0.5' submit_many 'insert many'
