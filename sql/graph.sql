-- job_graph: a flow, or what a job is connected with, drawn
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
-- ids as n1, n2 ... in their order
CREATE FUNCTION pg_temp.graph(id bigint, format text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    drawn text := job_graph(id, format);
    n int := 0;
    one bigint;
BEGIN
    FOR one IN SELECT g.id FROM job_graph_jobs(graph.id) g ORDER BY 1 LOOP
        n := n + 1;
        drawn := regexp_replace(drawn, '(\y[jf]|_|"id": |"flow": |^\s+"?)' || one || '\y', '\1n' || n, 'gn');
    END LOOP;
    RETURN drawn;
END $$;
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
SELECT job_submit_flow('{"name": "top \"q\" \\", "queue": "graph", "defaults": {"queue": "graph"}, "jobs": [{"name": "a", "kind": "a"}, {"name": "sub", "hold": true, "depends_on": ["a"], "jobs": [{"name": "x", "kind": "x"}, {"name": "y<#", "kind": "y", "depends_on": ["x"]}]},
    {"kind": "z", "depends_on": ["sub", "a"]}, {"name": "out", "kind": "o", "if": "$.no"}]}') AS f \gset
SELECT pg_temp.graph(:f, 'dot');
SELECT job_unhold(id) FROM job WHERE flow = :f AND name = 'sub';
DO $$
BEGIN
    FOR i IN 1 .. 2 LOOP
        PERFORM job_complete(job_id, token) FROM job_claim('graph');
        COMMIT;
        FOR k IN 1 .. 4000 LOOP
            EXIT WHEN EXISTS (SELECT FROM job_queue_status WHERE queue = 'graph' AND ready = 1);
            PERFORM pg_sleep(0.005);
        END LOOP;
    END LOOP;
END $$;
SELECT pg_temp.graph(:f, 'dot');
SELECT pg_temp.graph(:f, 'mermaid');
SELECT pg_temp.graph(:f, 'json');
-- of a member: what it is connected with
SELECT pg_temp.graph(id, 'mermaid') FROM job WHERE flow = :f AND name = 'a';
-- conditions on the results upstream, and maps: one node each, with the states of their items
SELECT job_submit_flow('{"name": "m", "queue": "graph_map", "defaults": {"queue": "graph_map"}, "args": {"n": [1, 2, 3]}, "jobs": [{"name": "a", "kind": "a"},
    {"name": "b", "kind": "b", "depends_on": ["a"], "when": {"a": "exists ($.x ? (@ == \"a|b\"  && @ <> \"#\\\\\"))"}}, {"name": "c", "kind": "c", "depends_on": ["a", "each"], "when": {"a": "$.long == \"0123456789012345678901234567890123456789012345678901234567890123456789\""}},
    {"name": "each", "depends_on": ["b"], "map": {"$args": "$.n"}, "job": {"kind": "item", "max_attempts": 1}},
    {"name": "plain", "kind": "map"}, {"name": "of flows", "map": [1, 2], "job": {"jobs": [{"kind": "inner", "queue": "graph_inner"}]}}]}') AS m \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE queue = 'graph_inner')$$);
SELECT pg_temp.graph(:m, 'dot');
SELECT job_complete(job_id, token, '{"x": "a|b"}') FROM job_claim('graph_map');
SELECT job_complete(job_id, token) FROM job_claim('graph_map', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 3 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE kind = 'item')$$);
SELECT job_fail(job_id, token, 'no') FROM job_claim('graph_map');
SELECT job_complete(job_id, token) FROM job_claim('graph_map');
SELECT pg_temp.graph(:m, 'dot');
SELECT pg_temp.graph(:m, 'mermaid');
SELECT pg_temp.graph(:m, 'json');
-- a map by itself
SELECT pg_temp.graph(id, 'mermaid') FROM job WHERE flow = :m AND name = 'each';
SELECT job_cancel(:m);
-- one alone, and what the caller may see
SELECT job_submit('p', queue => 'graph_other') AS p \gset
SELECT job_submit('c', queue => 'graph', depends_on => ARRAY[:p]) AS c \gset
SELECT pg_temp.graph(:c, 'dot');
CREATE ROLE graph_reader;
SELECT job_grant('graph_reader', 'graph', 'read');
SET ROLE graph_reader;
SELECT job_graph(:c) LIKE '%"p"%' AS shows_the_other, job_graph(:f) LIKE '%"y<#"%' AS shows_the_flow;
\set VERBOSITY sqlstate
SELECT job_graph(:p);
\set VERBOSITY terse
RESET ROLE;
SELECT job_revoke('graph_reader', 'graph', 'read');
DROP ROLE graph_reader;
-- 10,000 in a chain
SELECT job_submit_flow(jsonb_build_object('queue', 'graph', 'jobs', (SELECT jsonb_agg(jsonb_build_object('name', 'm' || i, 'kind', 'k', 'queue', 'graph', 'depends_on', CASE WHEN i > 1 THEN jsonb_build_array('m' || (i-1)) ELSE '[]' END)) FROM generate_series(1, 10000) i))) AS many \gset
SELECT count(*) FROM regexp_matches(job_graph(:many, 'dot'), ' -> ', 'g');
-- bad values
SELECT job_graph(NULL);
SELECT job_graph(:f, NULL);
SELECT job_graph(:f, 'svg');
SELECT job_graph(0);
SELECT job_cancel(:f), job_cancel(:many), job_cancel(:p), job_cancel(:c);
