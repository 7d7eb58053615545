-- pause_after and pause_window: attempts that end badly pause a queue, a person resumes it
\set VERBOSITY terse
-- poll until a queue is paused or not, with a limit
CREATE FUNCTION pg_temp.paused(q text, want boolean DEFAULT true) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        EXIT WHEN want = (SELECT paused FROM job_queue_status WHERE queue = q);
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN (SELECT paused FROM job_queue_status WHERE queue = q);
END $$;
CREATE VIEW pg_temp.because AS SELECT queue, paused, paused_because, paused_at IS NOT NULL AS has_time FROM job_queue_status WHERE queue LIKE 'brk%' ORDER BY queue;

SELECT job_queue_set('brk', pause_after => 3, pause_window => '1 hour');
SELECT count(job_submit('j', queue => 'brk')) FROM generate_series(1, 10);
-- what succeeds, or is given back, does not count, nor what is cancelled
SELECT count(job_complete(job_id, token)) FROM job_claim('brk', max_jobs => 2);
SELECT count(job_release(job_id, token)) FROM job_claim('brk', max_jobs => 1);
SELECT count(job_fail(job_id, token, 'no', retry => false)) FROM job_claim('brk', max_jobs => 2);
-- nor what is rolled back
BEGIN;
SELECT count(job_fail(job_id, token, 'no', retry => false)) FROM job_claim('brk', max_jobs => 2);
ROLLBACK;
SELECT * FROM pg_temp.because;
SELECT count(*) FROM job_claim('brk', 'lost');
SELECT job_take_back(job_id) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'brk';
SELECT pg_temp.paused('brk');
SELECT * FROM pg_temp.because;
SELECT count(*) FROM job_claim('brk');
SELECT paused_at BETWEEN (SELECT max(a.ended_at) FROM job_attempts a JOIN job j ON j.id = a.job_id WHERE j.queue = 'brk') AND clock_timestamp() AS since
FROM job_queue_status WHERE queue = 'brk';
-- a person who pauses it again changes nothing, who resumes it begins at zero
SELECT paused_at AS before FROM job_queue_status WHERE queue = 'brk' \gset
SELECT job_queue_set('brk', paused => true);
SELECT * FROM pg_temp.because;
SELECT paused_at = :'before' AS same FROM job_queue_status WHERE queue = 'brk';
SELECT job_queue_set('brk', paused => false);
SELECT * FROM pg_temp.because;
SELECT count(job_fail(job_id, token, 'no', retry => false)) FROM job_claim('brk', max_jobs => 2);
SELECT pg_temp.paused('brk', false);
SELECT job_fail(job_id, token, 'no', retry => false) FROM job_claim('brk');
SELECT pg_temp.paused('brk');
-- what ends while it is paused does not count
SELECT job_queue_set('brk2', pause_after => 1);
SELECT count(job_submit('j', queue => 'brk2')) FROM generate_series(1, 3);
CREATE TEMP TABLE running AS SELECT job_id, token FROM job_claim('brk2', max_jobs => 2);
SELECT job_fail(job_id, token, 'no', retry => false) FROM running WHERE job_id = (SELECT min(job_id) FROM running);
SELECT pg_temp.paused('brk2');
SELECT job_fail(job_id, token, 'no', retry => false) FROM running WHERE job_id = (SELECT max(job_id) FROM running);
SELECT * FROM pg_temp.because;
-- one without is never paused by itself; a person who pauses it stands there
SELECT count(job_submit('j', queue => 'brk3')) FROM generate_series(1, 3);
SELECT count(job_fail(job_id, token, 'no', retry => false)) FROM job_claim('brk3', max_jobs => 3);
SELECT job_queue_set('brk3', paused => true);
SELECT * FROM pg_temp.because;

-- many queues in one call; what a savepoint takes back does not count
SELECT count(job_queue_set('many_' || i, pause_after => 2)) FROM generate_series(1, 40) i;
SELECT count(job_submit('j', queue => 'many_' || i)) FROM generate_series(1, 40) i, generate_series(1, 2);
CREATE TEMP TABLE many AS SELECT i, row_number() OVER (PARTITION BY i ORDER BY c.job_id) AS n, c.job_id, c.token
FROM generate_series(1, 40) i, job_claim('many_' || i, max_jobs => 2) c;
CREATE FUNCTION pg_temp.fail(which int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FILTER (WHERE accepted) FROM job_fail_many((SELECT array_agg(job_id ORDER BY job_id) FROM many WHERE n = which),
        (SELECT array_agg(token ORDER BY job_id) FROM many WHERE n = which), retry => false)
$$;
BEGIN;
SELECT pg_temp.fail(1);
SAVEPOINT s;
SELECT pg_temp.fail(2);
ROLLBACK TO s;
COMMIT;
SELECT count(*) FILTER (WHERE paused) FROM job_queue_status WHERE queue LIKE 'many\_%';
SELECT pg_temp.fail(2);
SELECT count(*) FILTER (WHERE pg_temp.paused('many_' || i)) FROM generate_series(1, 40) i;

SELECT job_queue_set('brk', pause_after => 0);
SELECT job_queue_set('brk', pause_window => '0');
SELECT job_queue_set('brk', pause_window => '999 ms');
SELECT job_queue_set('brk', pause_window => '1 s');
SELECT job_queue_set('brk', pause_window => '-1 s');
