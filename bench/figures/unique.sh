# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# Submitting with unique keys, one at a time and by the thousand, against the
# same without: with keys that follow one another, and with random ones.

calls=$((quick ? 25 : 300))  # of each of the two that submit by the thousand

for ((round = 1; round <= rounds; round++)); do
	fresh
	for keys in no ordered random; do
		sql -c CHECKPOINT
		sample "submit, $keys keys" "$(bench 32 jobq_submit_key -T "$seconds" -D keys=$keys)"
		sql -c "CALL bench_fill_keyed('$keys', $calls)" -c CHECKPOINT
		sample "submit_many, $keys keys" "$(bench 2 jobq_submit_many_key -t $calls -D call=0)"
	done
done
for keys in ordered random; do
	figure "submit, one each, 32 clients, $keys keys / none" ratio '>=0.6' "submit, $keys keys" 'submit, no keys'
	figure "submit_many of 1,000, 2 clients, $keys keys / none" ratio '>=0.6' "submit_many, $keys keys" 'submit_many, no keys'
done
