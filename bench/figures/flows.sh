# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Flows: submitting them, and the rate of their members, against jobs alone.

members=$((quick ? 1000 : 10000))
flows=$((quick ? 100 : 1000))

# a flow of so many members
flow_document="SELECT jsonb_build_object('queue', 'bench', 'jobs', jsonb_agg(jsonb_build_object('name', 'm' || i, 'kind', 'noop', 'queue', 'bench', 'args', bench_args()))) AS flow
	FROM generate_series(1, %s) i"

# of the same jobs, as text, as a client sends it
submit_many="SELECT count(*) FROM document, job_submit_many(jobs::jsonb)"
submit_flow="SELECT job_submit_flow(flow::jsonb) FROM document"

for ((round = 1; round <= rounds; round++)); do
	fresh
	# shellcheck disable=SC2059
	sql -c 'CREATE TABLE document (flow text, jobs text)' -c 'ALTER TABLE document ALTER flow SET STORAGE EXTERNAL, ALTER jobs SET STORAGE EXTERNAL' \
		-c "INSERT INTO document SELECT flow::text, (flow -> 'jobs')::text FROM ($(printf "$flow_document" "$members")) f" \
		-c "$submit_many" -c "$submit_flow" -c CHECKPOINT >/dev/null
	for first in many flow many flow; do
		[ $first = flow ] || sample 'submit many' "$(timed "$submit_many")"
		sample 'submit flow' "$(timed "$submit_flow")"
		[ $first = many ] || sample 'submit many' "$(timed "$submit_many")"
	done

	fresh
	jobq_fill bench $members
	settle
	sample 'independent' "$(bench 8 jobq_one -t $((members / 8)))"
	# shellcheck disable=SC2059
	sql -c 'SET synchronous_commit = off' -c "SELECT job_submit_flow(flow) FROM ($(printf "$flow_document" "$members")) f" >/dev/null
	settle
	sample 'one flow' "$(bench 8 jobq_one -t $((members / 8)))"
	# shellcheck disable=SC2059
	sql -c 'SET synchronous_commit = off' -c "SELECT count(job_submit_flow(flow)) FROM ($(printf "$flow_document" 10)) f, generate_series(1, $flows)" >/dev/null
	settle
	sample 'many flows' "$(bench 8 jobq_one -t $((flows * 10 / 8)))"
done
figure "job_submit_flow of $members" ms '<=1000' 'submit flow'
figure "job_submit_flow of $members, time / job_submit_many" ratio '<=1.1' 'submit flow' 'submit many'
figure "claim + complete, members of a flow of $members, 8 clients, / independent" ratio '>=0.7' 'one flow' independent
figure "claim + complete, $flows flows of 10, 8 clients, / independent" ratio '>=0.6' 'many flows' independent
