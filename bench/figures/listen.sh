# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# 64 clients that submit, with a listener attached and without.

fresh
for ((round = 1; round <= rounds; round++)); do
	sample 'nobody listens' "$(bench 64 jobq_submit -T "$seconds")"
	coproc LISTENER {
		exec psql -XAtq 2>&1 9<&-
	}
	pid=$LISTENER_PID
	printf 'LISTEN job_queue_bench;\n\\echo listening\n' >&"${LISTENER[1]}"
	read -r line <&"${LISTENER[0]}"
	[ "$line" = listening ] || die "Not listening: $line"
	sample 'somebody listens' "$(bench 64 jobq_submit -T "$seconds")"
	printf '\\q\n' >&"${LISTENER[1]}"
	wait "$pid"
done
figure 'submit, 64 clients, with a listener / without' ratio '>=0.9' 'somebody listens' 'nobody listens'
