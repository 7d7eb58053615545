# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# From a commit to whoever waits for it; see latency.c.

count=$((quick ? 100 : 600))

fresh
for ((round = 1; round <= rounds; round++)); do
	for mode in claim wait listen-claim listen-wait; do
		n=$count
		# these pause longer
		[[ $mode != listen-* ]] || n=$((count / 4))
		latency $mode "$n"
	done
done
while IFS=: read -r mode name p50 p99; do
	figure "$name, p50 over a round trip" ms "$p50" "$mode p50"
	figure "$name, p99 over a round trip" ms "$p99" "$mode p99"
done <<-END
	claim:ready to claimed in job_claim_wait:<=0.3:<=2
	wait:decided to job_wait returning:<=0.3:<=2
	listen-claim:ready to notified by LISTEN:<=3:<=15
	listen-wait:decided to notified by LISTEN:<=3:<=15
END
