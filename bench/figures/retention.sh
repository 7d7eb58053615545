# shellcheck shell=bash disable=SC2154  # sourced by bench/run
# The background worker removes a million decided jobs: beside a load, against
# the same load alone, and how long that takes.  QUICK takes 100,000.

jobs=$((quick ? 100000 : 1000000))

# decided JOBS: jobs that were decided two days ago
decided() {
	sql <<-END
		SET synchronous_commit = off;
		SELECT count(job_queue_set('old', retention => '10 days'));
		INSERT INTO job (id, submitted_at, finished_at, started_at, submitted_by, quorum, dependencies, generation, attempt, failed, lost,
				priority, rule, outcome, attempt_outcome, notify, manual, queue, kind, args)
			SELECT nextval('job_id_seq'), now() - interval '2 days', now() - interval '2 days', now() - interval '2 days', current_user::regrole,
				0, 0, 0, 1, 0, 0, 0, 0, 1, 0, false, false, 'old', 'noop', '{}' FROM generate_series(1, $1);
	END
}

# left: of the old jobs
left() {
	sql -c "SELECT count(*) FROM job WHERE queue = 'old'"
}

fresh
decided "$jobs"
settle
sample 'load alone' "$(bench 8 jobq_cycle -T "$seconds")"
sql -c "SELECT job_queue_set('old', retention => '1 day')"
start=$EPOCHREALTIME
sample 'load beside removal' "$(bench 8 jobq_cycle -T "$seconds")"
sample 'removed beside the load' "$(((jobs - $(left)) / seconds))"
while [ "$(left)" -gt 0 ]; do
	sleep 1
done
sample 'all are gone' "$(awk "BEGIN { print $EPOCHREALTIME - $start }")"
figure 'claim + complete beside removal, / alone' ratio '>=0.9' 'load beside removal' 'load alone'
figure 'removed beside the load' jobs/s - 'removed beside the load'
figure "$jobs decided jobs are gone after" s '<=600' 'all are gone'
