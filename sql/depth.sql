-- Depth and width: each in one call, without recursion
\set VERBOSITY terse
SELECT current_database() AS home \gset
CREATE DATABASE jobq_regress_depth TEMPLATE template0;
\c jobq_regress_depth
CREATE EXTENSION jobq;

-- a chain of 100,000: the end of its first job decides all of it
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(CASE i WHEN 1 THEN '{"kind": "link", "queue": "chain", "name": "1"}'
    ELSE jsonb_build_object('kind', 'link', 'queue', 'chain', 'name', i::text, 'depends_on', jsonb_build_array((i - 1)::text)) END) FROM generate_series(1, 100000) i));
SELECT waiting, ready FROM job_queue_status WHERE queue = 'chain';
SELECT job_fail(job_id, token, retry => false) FROM job_claim('chain');
SELECT state, count(*) FROM job_status WHERE queue = 'chain' GROUP BY state ORDER BY state;
-- and a retry opens all of it
SELECT job_retry(min(id)) FROM job_status WHERE queue = 'chain';
SELECT state, count(*) FROM job_status WHERE queue = 'chain' GROUP BY state ORDER BY state;
-- a cascade can be cancelled by its caller, and then changed nothing
SELECT min(id) AS first_link FROM job_status WHERE queue = 'chain' \gset
SET statement_timeout = '20ms';
SELECT job_cancel(:first_link);
RESET statement_timeout;
SELECT state, count(*) FROM job_status WHERE queue = 'chain' GROUP BY state ORDER BY state;

-- 100,000 children of one job
SELECT job_submit('root', queue => 'root') AS root \gset
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'leaf', 'queue', 'wide', 'depends_on', jsonb_build_array(:root))) FROM generate_series(1, 100000)));
SELECT job_complete(job_id, token) FROM job_claim('root');
SELECT waiting, ready FROM job_queue_status WHERE queue = 'wide';

-- 10,000 parents of one job, which end in one call
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'part', 'queue', 'part', 'name', 'p' || i)) FROM generate_series(1, 10000) i)
    || (SELECT jsonb_build_array(jsonb_build_object('kind', 'join', 'queue', 'join', 'depends_on', jsonb_agg('p' || i))) FROM generate_series(1, 10000) i));
CREATE TEMP TABLE part AS SELECT job_id, token FROM job_claim('part', max_jobs => 100000);
SELECT count(*), bool_and(accepted) FROM job_complete_many((SELECT array_agg(job_id) FROM part), (SELECT array_agg(token) FROM part), (SELECT array_agg(to_jsonb(job_id)) FROM part));
DO $$ BEGIN FOR i IN 1 .. 6000 LOOP EXIT WHEN NOT EXISTS (SELECT FROM job_delta); PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT kind, (SELECT count(*) FROM jsonb_object_keys(inputs)) AS inputs FROM job_claim('join');

-- a job that depends on 10,000 decided ones
SELECT job_submit('late', queue => 'join', depends_on => (SELECT array_agg(job_id) FROM part)) IS NOT NULL AS ok;
SELECT kind, inputs = (SELECT jsonb_object_agg(name, id) FROM job WHERE id IN (SELECT job_id FROM part)) AS inputs FROM job_claim('join');

-- a layered graph: 20 layers of 100, each job on all of the layer before; 190,000 edges
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'node', 'queue', CASE l WHEN 1 THEN 'first' ELSE 'layer' END, 'name', l || '.' || n,
    'depends_on', CASE WHEN l > 1 THEN (SELECT jsonb_agg((l - 1) || '.' || m) FROM generate_series(1, 100) m) END)) FROM generate_series(1, 20) l, generate_series(1, 100) n));
SELECT state, count(*) FROM job_status WHERE queue = 'layer' GROUP BY state;
CREATE TEMP TABLE first AS SELECT job_id, token FROM job_claim('first', max_jobs => 100);
SELECT state, count(*) FROM job_fail_many((SELECT array_agg(job_id) FROM first), (SELECT array_agg(token) FROM first), retry => false) GROUP BY state;
DO $$ BEGIN FOR i IN 1 .. 6000 LOOP EXIT WHEN NOT EXISTS (SELECT FROM job_delta); PERFORM pg_sleep(0.01); END LOOP; END $$;
SELECT state, count(*) FROM job_status WHERE queue = 'layer' GROUP BY state;

\c :home
DROP DATABASE jobq_regress_depth;
