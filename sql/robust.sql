-- What others did to the tables, or put into them, must not stop the queue
\pset format unaligned
\pset tuples_only on
-- a result that is short as jsonb and very long as text
SELECT job_submit('parent', queue => 'robust') AS parent \gset
SELECT job_submit('child', queue => 'robust', depends_on => ARRAY[:parent]) AS child \gset
SELECT job_id AS id, token FROM job_claim('robust') \gset
\set VERBOSITY sqlstate
SELECT job_complete(:id, :token, (SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 500)));
SELECT job_complete_many(ARRAY[:id], ARRAY[:token], ARRAY[(SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 500))]);
SELECT job_heartbeat(:id, :token, progress => (SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 2100)));
\set VERBOSITY default
SELECT state, progress FROM job_status WHERE id = :id;
-- one of several is too large: none is completed
SELECT job_submit('other', queue => 'robust2') AS other \gset
SELECT token AS other_token FROM job_claim('robust2') \gset
\set VERBOSITY sqlstate
SELECT * FROM job_complete_many(ARRAY[:other, :id], ARRAY[:other_token, :token], ARRAY['1', to_jsonb(repeat('x', 2000000))]);
SELECT * FROM job_complete_many(ARRAY[:other, :id], ARRAY[:other_token, :token], ARRAY['1', to_jsonb(repeat(E'\x01', 200000))]);
\set VERBOSITY terse
SELECT job_heartbeat(:id, :token, progress => (SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 2100)));
\set VERBOSITY default
SELECT state FROM job_status WHERE id IN (:other, :id);
SELECT * FROM job_complete_many(ARRAY[:other], ARRAY[:other_token], ARRAY[to_jsonb(repeat(E'\x01', 100000))]) ORDER BY 1 \gset c_
\echo :c_accepted
SET jobq.max_result_size = '128MB';
SELECT job_complete(:id, :token, (SELECT jsonb_agg(1e131071::numeric) FROM generate_series(1, 500)));
RESET jobq.max_result_size;
SELECT kind, inputs FROM job_claim('robust');
-- arguments and tags that nobody could read, nor what stands beside them
SELECT job_submit('poison', jsonb_build_object('a', (SELECT jsonb_agg('1e131071'::jsonb) FROM generate_series(1, 2100))), 'robust');
SELECT job_submit('poison', queue => 'robust', tags => (SELECT jsonb_agg('1e131071'::jsonb) FROM generate_series(1, 2100)));
-- one that is nested more deeply than the inputs can be: they are read with job_result
SELECT job_submit('deep parent', queue => 'robust') AS parent \gset
SELECT job_submit('deep child', queue => 'robust', depends_on => ARRAY[:parent]) AS child \gset
SELECT count(job_complete(job_id, token, (repeat('[', 3000) || repeat(']', 3000))::jsonb)) FROM job_claim('robust');
SELECT kind, inputs FROM job_claim('robust');
-- results of every type come through as they are
SELECT job_submit('p' || i, queue => 'robust') FROM generate_series(1, 6) i \g /dev/null
SELECT job_submit('all', queue => 'robust', depends_on => ARRAY(SELECT id FROM job WHERE queue = 'robust' AND kind ~ '^p[1-6]$')) AS child \gset
SELECT count(job_complete(job_id, token, ('[null, "x", 1.50, [1, [2, {}]], {"a": {"b": []}}]'::jsonb) -> (substr(kind, 2)::int - 1)))
FROM job_claim('robust', max_jobs => 6);
SELECT v FROM job_claim('robust'), jsonb_each(inputs) e(k, v) ORDER BY k::bigint;
-- a column more
BEGIN;
ALTER TABLE job_ready ADD COLUMN note text;
SELECT job_submit('x', queue => 'robust');
ROLLBACK;
-- a column of another type
BEGIN;
ALTER TABLE job_ready ALTER run_at TYPE timestamp;
SELECT job_submit('x', queue => 'robust');
ROLLBACK;
-- an index on an expression, and indexes of another order, which must not be taken for ours
BEGIN;
CREATE INDEX ON job_scheduled ((run_at IS NULL));
SELECT job_submit('x', queue => 'robust', run_at => '2999-01-01');
ROLLBACK;
BEGIN ISOLATION LEVEL REPEATABLE READ;
DROP INDEX job_ready_order;
CREATE INDEX ON job_ready (lane, priority, position);
SELECT job_claim('robust');
ROLLBACK;
-- a function with the name of one of ours
CREATE FUNCTION job_result(text) RETURNS int LANGUAGE sql AS 'SELECT 1';
REVOKE EXECUTE ON FUNCTION job_result(text) FROM PUBLIC;
CREATE ROLE regress_jobq_robust;
SELECT job_grant('regress_jobq_robust', 'robust', 'work');
SELECT p.oid::regprocedure FROM pg_proc p WHERE proname = 'job_result' AND has_function_privilege('regress_jobq_robust', p.oid, 'EXECUTE') ORDER BY 1;
SELECT job_revoke('regress_jobq_robust', 'robust', 'work');
DROP FUNCTION job_result(text);
DROP ROLE regress_jobq_robust;
-- a job that was retried by hand does not expire any more, whatever its parents do
SELECT job_submit('p', queue => 'robust-p') AS p \gset
SELECT job_submit('c', queue => 'robust-c', depends_on => ARRAY[:p], expires_at => clock_timestamp() + interval '50 ms') AS c \gset
CALL job_wait(:c, '30 s');
SELECT job_retry(:c);
SELECT job_fail(job_id, token, retry => false) FROM job_claim('robust-p');
SELECT job_retry(:p);
SELECT state FROM job_status WHERE id = :c;
SELECT count(*) FROM job_expiry WHERE job_id = :c;
-- a partial index that is not ours
BEGIN;
CREATE INDEX ON job_ready (job_id) WHERE position = job_id;
SELECT job_submit('x', queue => 'robust');
ROLLBACK;
-- indexes that would keep rows out
BEGIN;
CREATE UNIQUE INDEX ON job_unique (job_id);
SELECT job_submit('x', queue => 'robust', unique_key => 'k');
ROLLBACK;
BEGIN;
CREATE UNIQUE INDEX ON job_queue (paused, name);
SELECT job_submit('x', queue => 'robust-new');
ROLLBACK;
BEGIN;
ALTER TABLE job_scheduled ADD EXCLUDE (run_at WITH =, job_id WITH =);
SELECT job_submit('x', queue => 'robust', run_at => '2999-01-01');
ROLLBACK;
-- but the columns of one of ours can have another
BEGIN;
CREATE UNIQUE INDEX ON job_unique (unique_key, queue_id) INCLUDE (until);
SELECT job_submit('x', queue => 'robust-unique', unique_key => 'k') = job_submit('x', queue => 'robust-unique', unique_key => 'k') AS kept;
ROLLBACK;
-- a lot of indexes
SELECT job_submit('x', queue => 'robust-rows') AS id \gset
BEGIN;
DO $$ BEGIN FOR i IN 1 .. 20 LOOP EXECUTE 'CREATE INDEX ON job_attempt (outcome)'; END LOOP; END $$;
SELECT count(job_release(job_id, token)) FROM job_claim('robust-rows');
ROLLBACK;
-- half of a job that was removed
\set VERBOSITY sqlstate
DELETE FROM job WHERE id = :id;
SELECT count(*) FROM job_claim('robust-rows');
SELECT count(*) FROM job_ready WHERE job_id = :id;
SELECT job_submit('x', queue => 'robust-rows') AS id \gset
DELETE FROM job_ready WHERE job_id = :id;
SELECT job_cancel(:id);
SELECT count(*) FROM job_claim('robust-rows');
DELETE FROM job WHERE id = :id;
\set VERBOSITY default
-- one that has ended, and is ready all the same
SELECT job_submit('x', queue => 'robust-rows') AS id \gset
UPDATE job SET outcome = 1 WHERE id = :id;
\set VERBOSITY sqlstate
SELECT count(*) FROM job_claim('robust-rows');
\set VERBOSITY default
SELECT count(*) FROM job_ready WHERE job_id = :id;
SELECT count(*) FROM job_lease WHERE job_id = :id;
