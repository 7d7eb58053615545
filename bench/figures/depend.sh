# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Dependencies: what they add to the completions of parents and to submitting.

parents=$((quick ? 1200 : 10000))
often=$((quick ? 1 : 4))
chain=$((quick ? 500 : 10000))
children=$((quick ? 10000 : 100000))

# join: a job that waits for all that are ready; then claims and completes them
join() {
	sql -c "SELECT job_submit('join', queue => 'join',
		depends_on => (SELECT array_agg(id) FROM job_status WHERE queue = 'bench' AND state = 'ready'))" >/dev/null
}

# joined: that it becomes ready; takes it away, and samples how long that took
joined() {
	local start=${EPOCHREALTIME/./} id
	id=$(sql -c "CALL job_claim_wait('join', NULL, '1 min')" | cut -d '|' -f 1)
	[ -n "$id" ] || die 'The job that joins has not become ready.'
	sample 'joined after' $(((${EPOCHREALTIME/./} - start) / 1000))
}

fresh
for ((round = 1; round <= rounds; round++)); do
	jobq_fill bench $parents
	settle
	sample 'independent' "$(bench 8 jobq_one -t $((parents / 8)))"

	jobq_fill bench $parents
	join
	sample 'fan-in' "$(bench 8 jobq_one -t $((parents / 8)))"
	joined

	jobq_fill bench $parents
	join
	hold
	sample 'fan-in, held' "$(bench 8 jobq_one -t $((parents / 8)))"
	release
	joined

	# as these are over soon, more often; 4 clients, as many divide the batches
	for ((i = 1; i <= often; i++)); do
		jobq_fill bench $parents
		sample 'independent batches' "$(bench 4 jobq_batch -t $((parents / 400)))"
		jobq_fill bench $parents
		join
		sample 'fan-in batches' "$(bench 4 jobq_batch -t $((parents / 400)))"
		joined
	done
done
figure "fan-in $parents -> 1, 8 clients one by one, / independent" ratio '>=0.7' fan-in independent
figure "fan-in $parents -> 1, ready after the last, with the time of one psql" ms - 'joined after'
figure "fan-in $parents -> 1, batches of 100, / independent" ratio '>=0.9' 'fan-in batches' 'independent batches'
figure "fan-in $parents -> 1, 8 clients, snapshot held, / independent" ratio '>=0.6' 'fan-in, held' independent

for ((round = 1; round <= rounds; round++)); do
	fresh
	sql >/dev/null <<-END
		SET synchronous_commit = off;
		SELECT job_submit('source', queue => 'source') AS source \gset
		SELECT count(job_submit('noop', bench_args(), 'bench', depends_on => ARRAY[:source]))
			FROM generate_series(1, $children);
		CREATE TABLE two_columns (a bigint, b bigint);
		CREATE INDEX ON two_columns (a);
	END
	settle
	sample 'fan-out' "$(timed "SELECT job_id, token FROM job_claim('source') \\gset
		SELECT job_complete(:job_id, :token);")"
	sample 'insert two' "$(timed "INSERT INTO two_columns SELECT i, i FROM generate_series(1, $children) i;")"
done
figure "fan-out 1 -> $children, the completing call" ms - fan-out
figure "fan-out 1 -> $children, the completing call, / INSERT ... SELECT" ratio '<=3' fan-out 'insert two'

fresh
for ((round = 1; round <= rounds; round++)); do
	# a rate needs fewer
	jobq_fill bench $((chain / 4))
	sample 'one worker' "$(bench 1 jobq_one -t $((chain / 4)))"
	sql -c 'SET synchronous_commit = off' -c "CALL bench_chain($chain)"
	sample 'chain' "$(bench 1 jobq_one -t $chain)"
done
figure "chain of $chain, one worker, / independent" ratio '>=0.7' chain 'one worker'

# multixacts: the next one
multixacts() {
	sql -c CHECKPOINT -c 'SELECT next_multixact_id FROM pg_control_checkpoint()'
}

fresh
parent=$(sql -c "SELECT job_submit('source', queue => 'source')")
for ((round = 1; round <= rounds; round++)); do
	sample 'no parent' "$(bench 64 jobq_submit -T "$seconds")"
	before=$(multixacts)
	rate=$(bench 64 jobq_child -T "$seconds" -D "parent=$parent")
	sample 'one parent' "$rate"
	sample 'multixacts' "$(awk "BEGIN { print ($(multixacts) - $before) / ($rate * $seconds) }")"
done
figure 'submit, 64 clients, all children of one job, / independent' ratio '>=0.5' 'one parent' 'no parent'
figure 'submit, 64 clients, all children of one job: multixacts' 1/job - multixacts
