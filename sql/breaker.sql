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
-- a person who pauses it again changes nothing, who resumes it begins at zero
SELECT job_queue_set('brk', paused => true);
SELECT * FROM pg_temp.because;
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

SELECT job_queue_set('brk', pause_after => 0);
SELECT job_queue_set('brk', pause_window => '0');
SELECT job_queue_set('brk', pause_window => '-1 s');
