-- job_queue_set, and which setting counts: the job's, else the queue's, else the server's
\set VERBOSITY terse
CREATE FUNCTION pg_temp.due(id bigint) RETURNS interval LANGUAGE sql AS
    $$ SELECT s.run_at - max(a.ended_at) FROM job_scheduled s JOIN job_attempt a USING (job_id) WHERE s.job_id = id GROUP BY s.run_at $$;

-- made on first use, by submitting or by setting
SELECT count(*) FROM job_queue_status WHERE queue LIKE 'queue_%';
SELECT job_submit('k', queue => 'queue_a') IS NOT NULL AS ok;
SELECT job_queue_set('queue_b');
SELECT queue, paused, waiting, scheduled, ready, running, oldest_ready IS NOT NULL AS oldest, running_workers FROM job_queue_status WHERE queue LIKE 'queue_%' ORDER BY queue;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('queue_a')) x;

-- NULL leaves a setting as it is
SELECT job_queue_set('queue_b', true, 7, 8, '9 s', '10 s', '11 s', '12 s', 'off');
SELECT * FROM job_queue WHERE name = 'queue_b' AND queue_id IS NOT NULL \gset q_
\echo :q_paused :q_max_attempts :q_max_lost :q_backoff :q_backoff_cap :q_timeout :q_lease :q_notify
SELECT job_queue_set('queue_b');
SELECT job_queue_set('queue_b', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
SELECT job_queue_set('queue_b', lease => '13 s');
SELECT job_queue_set('queue_b', notify => 'transactional');
SELECT paused, max_attempts, max_lost, backoff, backoff_cap, timeout, lease, notify FROM job_queue WHERE name = 'queue_b';
BEGIN;
SELECT job_queue_set('queue_b', paused => false, max_attempts => 1);
SELECT paused, max_attempts FROM job_queue WHERE name = 'queue_b';
ROLLBACK;
SELECT paused, max_attempts FROM job_queue WHERE name = 'queue_b';

-- max_attempts
SET jobq.max_attempts = 1;
SELECT job_submit('server', queue => 'queue_m') IS NOT NULL AS ok;
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_m');
SELECT job_queue_set('queue_m', max_attempts => 2);
SELECT job_submit('queue', queue => 'queue_m') IS NOT NULL AS ok;
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_m');
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_m');
SELECT job_submit('job', queue => 'queue_m', max_attempts => 3) IS NOT NULL AS ok;
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_m');
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_m');
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_m');
RESET jobq.max_attempts;
-- without any of these: twenty, whose delays (1 s, doubled up to 1 h) are eight hours together
DO $$
DECLARE
    attempts int := 0;
    state text := 'ready';
BEGIN
    PERFORM job_submit('default', queue => 'queue_m20');
    WHILE state = 'ready' LOOP
        SELECT job_fail(job_id, token, retry_in => '0') INTO state FROM job_claim('queue_m20');
        attempts := attempts + 1;
    END LOOP;
    RAISE NOTICE '% after % attempts', state, attempts;
END $$;
SELECT sum(least(interval '1 s' * 2 ^ (n - 1), '1 h')) FROM generate_series(1, current_setting('jobq.max_attempts')::int - 1) n;

-- backoff
SET jobq.backoff = '1000 s';
SELECT job_submit('server', queue => 'queue_f') AS s \gset
SELECT job_fail(job_id, token) FROM job_claim('queue_f');
SELECT pg_temp.due(:s) BETWEEN '750 s' AND '1250 s' AS ok;
SELECT job_queue_set('queue_f', backoff => '3000 s');
SELECT job_submit('queue', queue => 'queue_f') AS q \gset
SELECT job_fail(job_id, token) FROM job_claim('queue_f');
SELECT pg_temp.due(:q) BETWEEN '2250 s' AND '3750 s' AS ok;
SELECT job_submit('job', queue => 'queue_f', backoff => '100 s') AS j \gset
SELECT job_fail(job_id, token) FROM job_claim('queue_f');
SELECT pg_temp.due(:j) BETWEEN '75 s' AND '125 s' AS ok;
-- the cap is the queue's or the server's, and holds for a job's backoff, too
SELECT job_submit('cap', queue => 'queue_f', backoff => '1 day') AS c \gset
SELECT job_fail(job_id, token) FROM job_claim('queue_f');
SELECT pg_temp.due(:c) BETWEEN '45 min' AND '75 min' AS ok;
SELECT job_queue_set('queue_f', backoff_cap => '200 s');
SELECT job_submit('cap', queue => 'queue_f', backoff => '1 day') AS c \gset
SELECT job_fail(job_id, token) FROM job_claim('queue_f');
SELECT pg_temp.due(:c) BETWEEN '150 s' AND '250 s' AS ok;
RESET jobq.backoff;

-- lease and timeout
SELECT job_submit('server', queue => 'queue_t') AS s \gset
SET jobq.lease = '1000 s';
SET jobq.timeout = '5000 s';
SELECT count(*) FROM job_claim('queue_t');
SELECT lease_until - started_at = '1000 s' AS lease, timeout_at - started_at = '5000 s' AS timeout FROM job_lease WHERE job_id = :s;
SELECT job_queue_set('queue_t', lease => '2000 s', timeout => '6000 s');
SELECT job_submit('queue', queue => 'queue_t') AS q \gset
SELECT count(*) FROM job_claim('queue_t');
SELECT lease_until - started_at = '2000 s' AS lease, timeout_at - started_at = '6000 s' AS timeout FROM job_lease WHERE job_id = :q;
SELECT job_submit('job', queue => 'queue_t', lease => '3000 s', timeout => '7000 s') AS j \gset
SELECT count(*) FROM job_claim('queue_t');
SELECT lease_until - started_at = '3000 s' AS lease, timeout_at - started_at = '7000 s' AS timeout FROM job_lease WHERE job_id = :j;
SELECT job_submit('claim', queue => 'queue_t', lease => '3000 s') AS c \gset
SELECT count(*) FROM job_claim('queue_t', lease => '4000 s');
SELECT lease_until - started_at = '4000 s' AS lease, timeout_at - started_at = '6000 s' AS timeout FROM job_lease WHERE job_id = :c;
-- '0' is no limit, whatever the queue says
SELECT job_submit('no limit', queue => 'queue_t', timeout => '0') AS n \gset
SELECT count(*) FROM job_claim('queue_t');
SELECT timeout_at FROM job_lease WHERE job_id = :n;
-- nor the setting, where the queue says so
SELECT job_queue_set('queue_t', timeout => '0');
SELECT timeout, 'timeout' = ANY (own) AS own FROM job_queues WHERE queue = 'queue_t';
SELECT job_submit('no limit', queue => 'queue_t') AS n \gset
SELECT count(*) FROM job_claim('queue_t');
SELECT timeout_at FROM job_lease WHERE job_id = :n;
SELECT job_queue_reset('queue_t', 'timeout');
SELECT job_submit('limit', queue => 'queue_t') AS n \gset
SELECT count(*) FROM job_claim('queue_t');
SELECT timeout_at - started_at = '5000 s' AS timeout FROM job_lease WHERE job_id = :n;
RESET jobq.lease;
RESET jobq.timeout;
-- none at all
SELECT job_submit('none', queue => 'queue_n') AS n \gset
SELECT count(*) FROM job_claim('queue_n');
SELECT lease_until - started_at AS lease, timeout_at FROM job_lease WHERE job_id = :n;

-- a setting counts when it is needed, not when the job was submitted
SELECT job_submit('before', queue => 'queue_w') AS w \gset
SELECT job_queue_set('queue_w', max_attempts => 1);
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_w');

-- but by the end of an attempt: one that is scheduled has its next attempt, also if it had the last by now
SELECT job_submit('again', queue => 'queue_again', max_attempts => 3) AS a \gset
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_again');
SELECT job_change(:a, max_attempts => 1);
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('queue_again');
SELECT state, attempt FROM job_status WHERE id = :a;

-- a queue that was first used in a transaction that was rolled back is made by the next use
BEGIN;
SELECT job_submit('gone', queue => 'queue_back') IS NOT NULL AS ok;
ROLLBACK;
SELECT job_submit('kept', queue => 'queue_back') IS NOT NULL AS ok;
SELECT count(*) FROM job_queue WHERE name = 'queue_back';
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('queue_back')) x;
SELECT queue FROM job_queue_status WHERE queue = 'queue_back';

-- settings that are rolled back, to a savepoint too, count for nobody
SELECT job_submit('k', queue => 'queue_sub') IS NOT NULL AS ok;
BEGIN;
SAVEPOINT s;
SELECT job_queue_set('queue_sub', paused => true);
SELECT kind FROM job_claim('queue_sub');
ROLLBACK TO s;
SELECT kind FROM job_claim('queue_sub');
ROLLBACK TO s;
SELECT job_queue_set('queue_sub', paused => true);
ROLLBACK;
SELECT kind FROM job_claim('queue_sub');

-- leases that are outside of bounds which were set later
SET jobq.min_lease = 0;
SELECT job_queue_set('queue_lease', lease => '2 h');
SELECT count(job_submit('queue''s', queue => 'queue_lease')), count(job_submit('own', queue => 'queue_lease', lease => '30 ms')),
    count(job_submit('server''s', queue => 'queue_lease2')) FROM generate_series(1, 1);
SET jobq.min_lease = '10s';
SET jobq.max_lease = '1h';
SET jobq.lease = '3h';
SELECT count(*) FROM job_claim('{queue_lease,queue_lease2}'::text[], max_jobs => 3);
SELECT j.kind, l.lease_until - l.started_at, l.period FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue LIKE 'queue\_lease%' ORDER BY l.job_id;
SET jobq.min_lease = 0;
RESET jobq.max_lease;
RESET jobq.lease;
-- a thousand queues in one claim
SELECT count(job_submit('k', queue => 'queue_many' || i)) FROM generate_series(1, 1000) i;
SELECT count(*) FROM job_claim((SELECT array_agg('queue_many' || i) FROM generate_series(1, 1000) i), max_jobs => 2000);

-- settings, their units and limits
SELECT name, setting, unit, context, min_val FROM pg_settings WHERE name IN ('jobq.max_attempts', 'jobq.max_lost', 'jobq.backoff', 'jobq.backoff_cap',
    'jobq.lease', 'jobq.min_lease', 'jobq.max_lease', 'jobq.timeout', 'jobq.max_result_size', 'jobq.max_inputs_size') ORDER BY name COLLATE "C";

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'queue_%' AND finished_at IS NULL;
