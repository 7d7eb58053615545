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
-- what they took or made is found by the hand-out when they end, although they announce nothing
SELECT count(job_submit('k' || i, queue => 'prep8')) FROM generate_series(1, 6) i;
SELECT id AS a FROM job WHERE queue = 'prep8' AND kind = 'k1' \gset
SELECT id AS b FROM job WHERE queue = 'prep8' AND kind = 'k2' \gset
SELECT kind, job_release(job_id, token) FROM job_claim('prep8', max_jobs => 6);
BEGIN;
SELECT job_cancel(:a), job_hold(:b), job_submit('new', queue => 'prep8', priority => 1) > 0;
PREPARE TRANSACTION 'jobq_h1';
SELECT kind FROM job_claim('prep8');
ROLLBACK PREPARED 'jobq_h1';
SELECT string_agg(kind, ' ' ORDER BY n) FROM job_claim('prep8', max_jobs => 9) WITH ORDINALITY x (a, b, c, kind, e, f, g, h, n);
SELECT count(job_release(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'prep8';
BEGIN;
SELECT job_cancel(:a), job_hold(:b), job_submit('new', queue => 'prep8', priority => 1) > 0;
PREPARE TRANSACTION 'jobq_h2';
SELECT kind FROM job_claim('prep8', max_jobs => 2);
COMMIT PREPARED 'jobq_h2';
SELECT kind FROM job_claim('prep8');
SELECT job_unhold(:b);
SELECT string_agg(kind, ' ' ORDER BY n) FROM job_claim('prep8', max_jobs => 9) WITH ORDINALITY x (a, b, c, kind, e, f, g, h, n);
SELECT kind, state FROM job_status WHERE queue = 'prep8' ORDER BY id;
-- all that there is in one
SELECT count(job_submit('one', queue => 'prep9')) FROM generate_series(1, 3);
BEGIN;
SELECT count(job_cancel(id)) FROM job WHERE queue = 'prep9';
PREPARE TRANSACTION 'jobq_h3';
SELECT count(*) FROM job_claim('prep9');
ROLLBACK PREPARED 'jobq_h3';
SELECT string_agg(kind, ' ' ORDER BY n) FROM job_claim('prep9', max_jobs => 9) WITH ORDINALITY x (a, b, c, kind, e, f, g, h, n);

-- it has its keys
BEGIN;
SELECT job_submit('prepared', queue => 'prep_key', unique_key => 'k') AS prepared \gset
PREPARE TRANSACTION 'jobq_key';
SET lock_timeout = '20ms';
SELECT job_submit('waits', queue => 'prep_key', unique_key => 'k');
RESET lock_timeout;
COMMIT PREPARED 'jobq_key';
SELECT job_submit('kept', queue => 'prep_key', unique_key => 'k') = :prepared AS kept;

-- metrics have its jobs when it is committed
CREATE TEMP VIEW jobs AS SELECT labels ->> 'state' AS state, value FROM job_metrics WHERE name = 'jobq_jobs' AND labels ->> 'queue' = 'prep_metrics' AND value > 0;
BEGIN;
SELECT count(job_submit('k', queue => 'prep_metrics')) FROM generate_series(1, 3);
PREPARE TRANSACTION 'jobq_metrics';
SELECT * FROM jobs;
COMMIT PREPARED 'jobq_metrics';
SELECT * FROM jobs;

SELECT count(*) FROM pg_prepared_xacts WHERE gid LIKE 'jobq%';

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'prep%' AND finished_at IS NULL;
SELECT count(job_fail(l.job_id, l.token, retry => false)) > 0 AS ok FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue LIKE 'prep%';
