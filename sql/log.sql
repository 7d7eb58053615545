-- job_log and job_logs: what a worker tells of an attempt
\set VERBOSITY terse
SET client_min_messages = warning;
SELECT job_submit('logs', queue => 'log') AS job \gset
SELECT token FROM job_claim('log', 'worker 1') \gset
SELECT job_log(:job, :token, 'begun');
SELECT job_log(:job, :token, 'slow', 'warning', '{"ms": 1200}'), job_log(:job, :token, '', 'debug');
SELECT attempt, level, message, data, at <= now() + interval '1 min' AS at FROM job_logs WHERE job_id = :job ORDER BY at;

-- the next attempt has its own lines; the token of the one before is stale
SELECT job_fail(:job, :token, 'no', retry_in => '0');
\set VERBOSITY sqlstate
SELECT job_log(:job, :token, 'late');
\set VERBOSITY terse
SELECT token FROM job_claim('log') \gset
SELECT job_log(:job, :token, 'again', 'error');
SELECT attempt, level, message FROM job_logs WHERE job_id = :job ORDER BY at;

-- a transaction that is rolled back has told nothing
BEGIN;
SELECT job_log(:job, :token, 'never');
ROLLBACK;
SELECT count(*) FROM job_logs WHERE job_id = :job;

-- bounds
SET jobq.max_log_lines = 3;
SELECT count(job_log(:job, :token, format('line %s', i), data => '1')) FROM generate_series(2, 6) i;
SELECT attempt, level, message, data FROM job_logs WHERE job_id = :job AND attempt = 2 ORDER BY at;
RESET jobq.max_log_lines;
SET jobq.max_error_size = '1kB';
SELECT job_release(:job, :token);
SELECT token FROM job_claim('log') \gset
SELECT job_log(:job, :token, repeat('x', 2000));
SELECT length(message), right(message, 30) FROM job_logs WHERE job_id = :job AND attempt = 3;
RESET jobq.max_error_size;
SET jobq.max_result_size = '1kB';
SELECT job_log(:job, :token, 'large', data => to_jsonb(repeat('x', 2000)));
RESET jobq.max_result_size;

-- bad input
SELECT job_log(NULL, :token, 'x');
SELECT job_log(:job, NULL, 'x');
SELECT job_log(:job, :token, NULL);
SELECT job_log(:job, :token, 'x', NULL);
\set VERBOSITY default
SELECT job_log(:job, :token, 'x', 'fatal');
\set VERBOSITY terse
SELECT job_log(0, 1, 'x');
\set VERBOSITY sqlstate
SELECT job_log(:job, 1, 'x');
BEGIN READ ONLY;
SELECT job_log(:job, :token, 'x');
ROLLBACK;
\set VERBOSITY terse

-- who may write, and who sees
CREATE ROLE log_worker;
CREATE ROLE log_other;
SELECT job_grant('log_worker', 'log', 'work');
SELECT job_grant('log_other', 'log_other', 'work');
SET ROLE log_other;
\set VERBOSITY sqlstate
SELECT job_log(:job, :token, 'x');
\set VERBOSITY terse
SELECT count(*) FROM job_logs;
RESET ROLE;
SET ROLE log_worker;
SELECT job_log(:job, :token, 'x');
SELECT count(*) FROM job_logs;
SELECT count(*) FROM job_log;
RESET ROLE;
SELECT job_release(:job, :token);
SET ROLE log_worker;
SELECT token FROM job_claim('log') \gset
SELECT job_log(:job, :token, 'mine');
SELECT count(*) > 0 AS sees FROM job_logs;
SELECT job_complete(:job, :token);
SELECT count(*) FROM job_logs;
RESET ROLE;
SELECT job_revoke('log_worker', 'log', 'work');
SELECT job_revoke('log_other', 'log_other', 'work');
DROP ROLE log_worker, log_other;

-- the lines go with the job
SELECT count(*) > 0 AS lines FROM job_log WHERE job_id = :job;
BEGIN;
SELECT job_delete(:job);
SELECT count(*) FROM job_log WHERE job_id = :job;
ROLLBACK;

-- lines without a job are found and removed
BEGIN;
INSERT INTO job_log SELECT 9e15, seq, at, attempt, line, level, message FROM job_log WHERE job_id = :job;
SELECT * FROM job_check() WHERE invariant = 'L1';
SELECT invariant, repaired FROM job_check(true) WHERE invariant = 'L1';
SELECT * FROM job_check() WHERE invariant = 'L1';
ROLLBACK;
