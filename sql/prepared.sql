-- Two-phase commit: what can be prepared, and what came of it
\set VERBOSITY terse
SELECT current_setting('max_prepared_transactions')::int = 0 AS off \gset
\if :off
\echo max_prepared_transactions is 0
\quit
\endif

-- submitting, in several states
BEGIN;
SELECT job_submit('ready', queue => 'prep') AS ready \gset
SELECT job_submit('waiting', queue => 'prep', depends_on => ARRAY[:ready]) AS waiting \gset
PREPARE TRANSACTION 'jobq_1';
SELECT count(*) FROM job_claim('prep');
COMMIT PREPARED 'jobq_1';
SELECT kind, state FROM job_status WHERE queue = 'prep' ORDER BY id;

-- completing: its child is ready when it is committed, and not before
SELECT token FROM job_claim('prep') \gset
BEGIN;
SELECT job_complete(:ready, :token, '1');
PREPARE TRANSACTION 'jobq_2';
SELECT kind, state FROM job_status WHERE queue = 'prep' ORDER BY id;
SET lock_timeout = '20ms';
SELECT job_complete(:ready, :token, '1');
RESET lock_timeout;
SELECT job_heartbeat(:ready, :token);
COMMIT PREPARED 'jobq_2';
SELECT kind, state FROM job_status WHERE queue = 'prep' ORDER BY id;
CALL job_claim_wait('prep', 'w', '10 s') \gset c_
\echo :c_kind

-- failing, rolled back: as if it had not been
BEGIN;
SELECT job_fail(:c_job_id, :c_token, retry => false);
PREPARE TRANSACTION 'jobq_3';
ROLLBACK PREPARED 'jobq_3';
SELECT kind, state FROM job_status WHERE queue = 'prep' ORDER BY id;
SELECT job_heartbeat(:c_job_id, :c_token);
SELECT job_fail(:c_job_id, :c_token, retry => false);

-- cancelling what does not run, retrying, holding, settings
SELECT job_submit('cancel', queue => 'prep') AS cancel \gset
SELECT job_submit('hold', queue => 'prep') AS hold \gset
BEGIN;
SELECT job_cancel(:cancel), job_retry(:c_job_id), job_hold(:hold);
SELECT job_queue_set('prep', max_attempts => 7);
PREPARE TRANSACTION 'jobq_4';
SELECT kind, state FROM job_status WHERE queue = 'prep' ORDER BY id;
COMMIT PREPARED 'jobq_4';
SELECT kind, state FROM job_status WHERE queue = 'prep' ORDER BY id;
SELECT max_attempts FROM job_queue WHERE name = 'prep';
SELECT job_unhold(:hold);

-- what a worker claimed cannot be prepared, nor can a request to cancel
BEGIN;
SELECT kind FROM job_claim('prep');
PREPARE TRANSACTION 'jobq_5';
SELECT kind FROM job_claim('prep');
BEGIN;
SELECT job_cancel(:c_job_id);
PREPARE TRANSACTION 'jobq_6';
SELECT cancel_requested FROM job_status WHERE id = :c_job_id;
-- but one that found nothing, or was undone, can
BEGIN;
SELECT count(*) FROM job_claim('prep_empty');
SAVEPOINT s;
SELECT kind FROM job_claim('prep');
ROLLBACK TO s;
PREPARE TRANSACTION 'jobq_7';
ROLLBACK PREPARED 'jobq_7';
SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'jobq%';

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'prep%' AND finished_at IS NULL;
