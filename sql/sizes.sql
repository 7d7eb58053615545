-- What a job can hold is bounded: what is too large is refused, errors and reasons are cut
\set VERBOSITY default
\pset format unaligned
\pset tuples_only on
-- args and tags together, stored or as text
SET jobq.max_args_size = '1kB';
SELECT job_submit('fits', jsonb_build_object('a', repeat('x', 1010)), 'sizes') IS NOT NULL AS ok;
SELECT job_submit('over', jsonb_build_object('a', repeat('x', 1024)), 'sizes');
SELECT job_submit('fits', jsonb_build_object('a', repeat('x', 500)), 'sizes', tags => to_jsonb(repeat('y', 500))) IS NOT NULL AS ok;
SELECT job_submit('over', jsonb_build_object('a', repeat('x', 500)), 'sizes', tags => to_jsonb(repeat('y', 520)));
SELECT job_submit('over', jsonb_build_object('a', repeat(E'\x01', 200)), 'sizes');
SELECT job_submit('over', jsonb_build_object('a', 1e2000), 'sizes');
SELECT job_submit('over', queue => 'sizes', tags => to_jsonb(1e2000));
SELECT count(*) FROM job_submit_many(jsonb_build_array('{"kind": "good", "queue": "sizes"}'::jsonb,
    jsonb_build_object('kind', 'over', 'queue', 'sizes', 'args', jsonb_build_object('a', repeat('x', 500)), 'tags', repeat('y', 520))));
RESET jobq.max_args_size;
SELECT kind, count(*) FROM job_status WHERE queue = 'sizes' GROUP BY kind ORDER BY kind;

-- results and progress
SET jobq.max_result_size = '1kB';
SELECT job_id AS id, token FROM job_claim('sizes') \gset
SELECT job_heartbeat(:id, :token, progress => to_jsonb(repeat('x', 1000)));
SELECT job_heartbeat(:id, :token, progress => to_jsonb(repeat('x', 1024)));
\set VERBOSITY sqlstate
SELECT job_complete(:id, :token, to_jsonb(repeat('x', 1024)));
\set VERBOSITY default
SELECT job_complete(:id, :token, to_jsonb(repeat('x', 1000)));
RESET jobq.max_result_size;
SELECT length(result::text), progress FROM job_status WHERE id = :id;

-- errors are cut, with a mark that says so; never within a character
SET jobq.max_error_size = '1kB';
SELECT job_submit('fails', queue => 'sizes_error', max_attempts => 4) AS id \gset
SELECT job_fail(job_id, token, repeat('x', 1024), retry_in => '0') FROM job_claim('sizes_error');
SELECT job_fail(job_id, token, repeat('x', 1025), retry_in => '0') FROM job_claim('sizes_error');
SELECT accepted, state FROM job_claim('sizes_error') c, job_fail_many(ARRAY[c.job_id], ARRAY[c.token], ARRAY[repeat('ä', 300000)], retry_in => '0');
SELECT job_fail(job_id, token, 'x' || repeat('ä', 300000)) FROM job_claim('sizes_error');
SELECT attempt, octet_length(error), right(error, 30), error LIKE repeat('x', 990) || '%' OR rtrim(replace(left(error, 490), 'ä', ''), 'x') = '' AS ok
FROM job_attempts WHERE job_id = :id ORDER BY attempt;
SELECT right(error, 30) FROM job_status WHERE id = :id;
-- one that was stored, compressed
CREATE TEMP TABLE big AS SELECT repeat('z', 100000000) AS error;
SELECT job_submit('fails', queue => 'sizes_error') AS id \gset
SELECT job_fail(job_id, token, big.error, false) FROM big, job_claim('sizes_error');
SELECT octet_length(error), right(error, 35) FROM job_status WHERE id = :id;
-- so are reasons, of a job that runs and of one that does not
SELECT job_submit('runs', queue => 'sizes_error') AS id \gset
SELECT job_id, token FROM job_claim('sizes_error') \gset
SELECT job_cancel(:id, repeat('x', 2000));
SELECT job_release(:job_id, :token);
SELECT octet_length(error), right(error, 30) FROM job_status WHERE id = :id;
SELECT job_submit('waits', queue => 'sizes_error') AS id \gset
SELECT job_cancel(:id, repeat('x', 2000));
SELECT octet_length(error), right(error, 30) FROM job_status WHERE id = :id;
RESET jobq.max_error_size;

-- a claim returns no more than jobq.max_claim_size, and leaves to others what it does not return; but any claim returns a job
SELECT count(job_submit('big', jsonb_build_object('a', repeat('x', 3000)), 'sizes_claim', lease => '1 h')) FROM generate_series(1, 5);
SELECT job_submit('huge', jsonb_build_object('a', repeat('x', 20000)), 'sizes_claim', 1) IS NOT NULL AS ok;
SELECT job_submit('many', jsonb_build_object('a', (SELECT jsonb_agg(1e1000) FROM generate_series(1, 5))), 'sizes_claim2', 5) IS NOT NULL AS ok;
SET jobq.max_claim_size = '10kB';
BEGIN;
SELECT kind, length(args::text) FROM job_claim('sizes_claim', max_jobs => 10);
SELECT kind, length(args::text) FROM job_claim('{sizes_claim,sizes_claim2}'::text[], max_jobs => 10);
ROLLBACK;
-- under the snapshot of a transaction, and of jobs that it has submitted itself
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT kind, length(args::text) FROM job_claim('sizes_claim', max_jobs => 10);
SELECT kind, length(args::text) FROM job_claim('sizes_claim2', max_jobs => 10);
ROLLBACK;
BEGIN;
SELECT count(job_submit('own', jsonb_build_object('a', repeat('x', 3000)), 'sizes_own')) FROM generate_series(1, 5);
SELECT kind, length(args::text) FROM job_claim('sizes_own', max_jobs => 10);
SELECT kind, length(args::text) FROM job_claim('sizes_own', max_jobs => 10);
ROLLBACK;
-- inputs count
SELECT job_submit('part', queue => 'sizes_part') AS part \gset
SELECT count(job_submit('join', queue => 'sizes_join', depends_on => ARRAY[:part]::bigint[])) FROM generate_series(1, 5);
SELECT job_complete(job_id, token, to_jsonb(repeat('x', 4000))) FROM job_claim('sizes_part');
SELECT kind, length(inputs::text) > 4000 AS ok FROM job_claim('sizes_join', max_jobs => 10);
SELECT kind, length(inputs::text) > 4000 AS ok FROM job_claim('sizes_join', max_jobs => 10);
RESET jobq.max_claim_size;
SELECT kind, count(*) FROM job_claim('{sizes_claim,sizes_claim2,sizes_join}'::text[], max_jobs => 10) GROUP BY kind ORDER BY kind;

-- bounds of the settings
SELECT name, setting, unit, context, min_val, max_val FROM pg_settings WHERE name LIKE 'jobq.max%size' ORDER BY name COLLATE "C";
SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'sizes%' AND finished_at IS NULL;
