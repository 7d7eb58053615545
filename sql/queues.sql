-- job_queues and job_queue_reset: the settings in force, which are the queue's own, and back to the defaults
\set VERBOSITY terse
SELECT job_queue_set('qs', paused => true, max_attempts => 7, max_lost => 2, backoff => '2 s', backoff_cap => '1 min', timeout => '5 s', lease => '90 s', notify => 'off',
    retention => '1 day', retention_failed => '0', pause_after => 3, pause_window => '1 h');
SELECT job_queue_set('qs_plain');
SELECT * FROM job_queues WHERE queue IN ('qs', 'qs_plain') ORDER BY 1 \gx
-- one by one, then all
CREATE FUNCTION pg_temp.reset_all() RETURNS SETOF text[] LANGUAGE plpgsql AS $$
DECLARE
    s text;
BEGIN
    FOREACH s IN ARRAY (SELECT own FROM job_queues WHERE queue = 'qs') LOOP
        PERFORM job_queue_reset('qs', s);
        RETURN QUERY SELECT own FROM job_queues WHERE queue = 'qs';
    END LOOP;
END $$;
SELECT * FROM pg_temp.reset_all();
SELECT job_queue_set('qs', paused => true, lease => '90 s', notify => 'transactional');
SELECT paused, own FROM job_queues WHERE queue = 'qs';
SELECT job_queue_reset('qs');
SELECT paused, own FROM job_queues WHERE queue = 'qs';
SELECT (to_jsonb(a) - 'queue') = (to_jsonb(b) - 'queue') AS same FROM job_queues a, job_queues b WHERE a.queue = 'qs' AND b.queue = 'qs_plain';
-- the defaults of the session
SET jobq.max_attempts = 3;
SELECT max_attempts, own FROM job_queues WHERE queue = 'qs';
RESET jobq.max_attempts;
-- a queue that is not there, and bad input
SELECT job_queue_reset('qs_none');
SELECT count(*) FROM job_queues WHERE queue = 'qs_none';
SELECT job_queue_reset(NULL);
SELECT job_queue_reset('no such name!');
\set VERBOSITY default
SELECT job_queue_reset('qs', 'queue');
\set VERBOSITY terse
-- by who may read, and who may operate
CREATE ROLE jobq_queues;
SELECT job_grant('jobq_queues', 'qs', 'read');
SET ROLE jobq_queues;
SELECT queue FROM job_queues;
SELECT job_queue_reset('qs');
RESET ROLE;
SELECT job_grant('jobq_queues', 'qs', 'operate');
SET ROLE jobq_queues;
SELECT job_queue_reset('qs');
SELECT job_queue_reset('qs_plain');
RESET ROLE;
SELECT job_revoke('jobq_queues', 'qs', 'read'), job_revoke('jobq_queues', 'qs', 'operate');
DROP ROLE jobq_queues;
