-- job_step: what a job has done already
\set VERBOSITY sqlstate
SELECT job_submit('long', queue => 'step', backoff => '1 ms') AS id, job_submit('other', queue => 'step', priority => -1) AS other \gset
SELECT token FROM job_claim('step', 'w') \gset
-- recorded once: what is there comes back
SELECT job_step(:id, :token, 'fetch');
SELECT job_step(:id, :token, 'fetch', '{"rows": 7}'), job_step(:id, :token, 'fetch', '{"rows": 8}'), job_step(:id, :token, 'fetch');
SELECT job_step(:id, :token, 'a null', 'null') IS NOT NULL AS recorded;
BEGIN;
SELECT job_step(:id, :token, 'undone', '1');
ROLLBACK;
SELECT name, result, at <= now() AS at FROM job_steps(:id, :token);
-- over all attempts
SELECT job_release(:id, :token);
SELECT token FROM job_claim('step', 'w') \gset
SELECT job_step(:id, :token, 'fetch'), job_step(:id, :token, 'undone', '2');
SELECT name, result FROM job_steps(:id, :token);
-- not of another job, nor of another token
SELECT job_step(:other, :token, 'fetch', '1');
SELECT job_step(:id, :token # 1, 'fetch');
SELECT job_steps(:id, :token # 1);
SELECT job_step(9223372036854775807, 1, 'x');
-- bad values
SELECT job_step(NULL, :token, 'x');
SELECT job_step(:id, NULL, 'x');
SELECT job_step(:id, :token, NULL);
SELECT job_step(:id, :token, '');
SELECT job_step(:id, :token, E'a\tb');
SELECT job_step(:id, :token, repeat('x', 129));
SELECT job_step(:id, :token, 'large', to_jsonb(repeat('x', 1100000)));
SELECT job_steps(NULL, 1);
BEGIN READ ONLY;
SELECT job_step(:id, :token, 'x', '1');
ROLLBACK;
-- privileges: of who may work on the queue
CREATE ROLE step_worker;
CREATE ROLE step_other;
SELECT job_grant('step_worker', 'step', 'work'), job_grant('step_other', 'step_other', 'work');
SET ROLE step_worker;
SELECT job_step(:id, :token, 'fetch');
SELECT count(*) FROM job_steps(:id, :token);
SELECT count(*) FROM job_step;
SET ROLE step_other;
SELECT job_step(:id, :token, 'fetch');
SELECT job_steps(:id, :token);
RESET ROLE;
SELECT job_revoke('step_worker', 'step', 'work'), job_revoke('step_other', 'step_other', 'work');
DROP ROLE step_worker, step_other;
-- job_retry begins anew, as the job's key does
SELECT job_fail(:id, :token, 'no', retry => false);
SELECT job_retry(:id);
SELECT token FROM job_claim('step', 'w') \gset
SELECT count(*) FROM job_steps(:id, :token);
SELECT job_step(:id, :token, 'fetch'), job_step(:id, :token, 'fetch', '9'), job_step(:id, :token, 'fetch', '10');
SELECT name, result FROM job_steps(:id, :token);
-- after the end; and gone with the job
SELECT job_complete(:id, :token);
SELECT job_step(:id, :token, 'fetch');
SELECT count(*) > 0 AS kept FROM job_step WHERE job_id = :id;
SELECT job_delete(:id);
SELECT count(*) FROM job_step WHERE job_id = :id;
-- by hand
INSERT INTO job_step VALUES (:id, now(), 0, 'x', '1');
SELECT invariant, problem, repaired FROM job_check(true) WHERE invariant = 'L2';
SELECT count(*) FROM job_step;
SELECT job_cancel(:other);
