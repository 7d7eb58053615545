-- Maps: a job for each item of an array, which is known when the map starts
\set VERBOSITY terse
\pset null -
SELECT last_value AS first FROM job_id_seq \gset
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(coalesce(s.name, s.kind) || ' ' || s.state, ', ' ORDER BY s.id) FROM job_status s WHERE s.flow = members.flow $$;

\set decided '(SELECT finished_at IS NOT NULL FROM job_status WHERE id = $1)'

-- Items from the result of a job; their results in order, whatever order they end in.
SELECT job_submit_flow('{"queue": "map", "args": {"by": 10}, "defaults": {"queue": "map"}, "jobs": [{"name": "list", "kind": "list", "args": {"gives": {"$literal": {"files": ["a", {"$result": "list"}, 3, null, [{"x": "$"}]]}}}},
    {"name": "each", "map": {"$result": "list", "path": "$.files"}, "job": {"kind": "one", "args": {"it": {"$item": "$"}, "nr": {"$index": true}, "by": {"$args": "$.by"}, "x": [{"$item": "$.x"}]}}, "depends_on": ["list"]},
    {"name": "sum", "kind": "sum", "depends_on": ["each"], "args": {"third": {"$result": "each", "path": "$[2].nr"}, "all": {"$result": "each"}}}], "result": {"$result": "sum"}}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT name, kind, state, result FROM job_status WHERE flow = :f ORDER BY id;
SELECT i.kind, i.name, i.args, i.result FROM job_status i JOIN job_status m ON m.id = i.flow WHERE m.flow = :f ORDER BY i.id;
SELECT state, jsonb_path_query(result, '$.third') AS third FROM job_status WHERE id = :f;

-- An array in the document, with what it refers to; no items; those that are left out; items that are flows and maps.
SELECT job_submit_flow('{"queue": "map", "args": {"n": [1, 2], "no": false}, "defaults": {"queue": "map"}, "jobs": [
    {"name": "some", "map": [7, {"$args": "$.n"}, {"$literal": {"$item": "$"}}], "job": {"kind": "k", "args": {"gives": {"$item": "$"}}}},
    {"name": "args", "map": [[4], "s", {"a": 1}], "job": {"kind": "k", "args": {"$item": "$"}}}, {"name": "none", "map": {"$literal": []}, "job": {"kind": "k"}}, {"name": "left out", "map": [1, 2], "job": {"kind": "k", "if": "$.no"}}, {"name": "whole left out", "map": [1, 2], "if": "$.no", "job": {"kind": "k"}},
    {"name": "flows", "map": ["p", "q"], "job": {"jobs": [{"name": "first", "kind": "k", "args": {"gives": {"$item": "$"}}}, {"name": "second", "kind": "k", "depends_on": ["first"], "args": {"gives": [{"$result": "first"}, {"$index": true}]}}],
        "result": {"$result": "second"}}},
    {"name": "maps", "map": [[1, 2], [], [{"x": 3}]], "job": {"map": {"$item": "$"}, "job": {"kind": "k", "args": {"gives": {"in": {"$item": "$"}, "nr": {"$index": true}}}}}}]}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT name, kind, state, result FROM job_status WHERE flow = :f ORDER BY id;
SELECT s.state, count(*) FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f AND m.name = 'left out' GROUP BY 1;
SELECT state FROM job_status WHERE id = :f;

-- What is no array fails the map.
SELECT job_submit_flow(jsonb_build_object('queue', 'map', 'defaults', '{"queue": "map"}'::jsonb, 'args', '{"o": {}, "n": null, "s": "x"}'::jsonb,
    'jobs', (SELECT jsonb_agg(jsonb_build_object('name', path, 'critical', false, 'map', jsonb_build_object('$args', path), 'job', '{"kind": "k"}'::jsonb)) FROM unnest('{$.o,$.n,$.s,$.gone}'::text[]) path))) AS f \gset
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, state, error FROM job_status WHERE flow = :f ORDER BY id;
-- and what is too large as a whole
SELECT job_submit_flow(jsonb_build_object('queue', 'map', 'defaults', '{"queue": "map"}'::jsonb, 'args', jsonb_build_object('x', repeat('x', 1000000)), 'jobs', jsonb_build_array(
    jsonb_build_object('name', 'm', 'map', (SELECT jsonb_agg('{"$args": "$.x"}'::jsonb) FROM generate_series(1, 106)), 'job', '{"kind": "k"}'::jsonb)))) AS f \gset
SELECT pg_temp.until(:f, 'failed');
SELECT name, state, error FROM job_status WHERE flow = :f;
-- An item that is too large for args
SELECT job_submit_flow(jsonb_build_object('queue', 'map', 'defaults', '{"queue": "map"}'::jsonb, 'jobs', jsonb_build_array(
    jsonb_build_object('name', 'm', 'map', jsonb_build_array(1, repeat('x', 2000000)), 'job', '{"kind": "k", "args": {"i": {"$item": "$"}}}'::jsonb)))) AS f \gset
SELECT pg_temp.until(:f, 'failed');
SELECT name, state, left(error, 150) AS error FROM job_status WHERE flow = :f;
SELECT count(*) FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f;

-- One item fails: the map has, unless so many are enough, or they are not critical.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [
    {"name": "all", "critical": false, "map": [false, true, false, false], "job": {"kind": "k", "args": {"fail": {"$item": "$"}}}},
    {"name": "three of four", "map": [false, true, false, false], "min_success": 0.75, "job": {"kind": "k", "args": {"fail": {"$item": "$"}}}},
    {"name": "more than three of four", "critical": false, "map": [false, true, false, false], "min_success": 0.76, "job": {"kind": "k", "args": {"fail": {"$item": "$"}}}},
    {"name": "none", "map": [true, true], "min_success": 0, "job": {"kind": "k", "args": {"fail": {"$item": "$"}}}},
    {"name": "not critical", "map": [true, false], "job": {"kind": "k", "critical": false, "args": {"gives": {"$index": true}, "fail": {"$item": "$"}}}}]}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT name, state, regexp_replace(error, 'job \d+', 'job N') AS error, result FROM job_status WHERE flow = :f ORDER BY id;
SELECT state FROM job_status WHERE id = :f;
-- what the folds go by is what the definition says, of copies too
SELECT job_cancel(job_clone(:f));
SELECT count(min_success), count(*) FILTER (WHERE min_success IS DISTINCT FROM (definition ->> 'min_success')::float8) AS differ FROM job_flow WHERE job_id >= :f;
-- It stops when too few can succeed.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [true, true, true, false, false, false, false, false, false, false], "min_success": 0.8, "on_failure": "cancel", "max_running": 3,
    "job": {"kind": "k", "args": {"fail": {"$item": "$"}}}}]}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT s.state, count(*) FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f GROUP BY 1 ORDER BY 1;
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE flow = :f;

-- Canaries: the first ones are alone until they have succeeded.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [0, 1, 2, 3, 4], "canary": 2, "job": {"kind": "k", "args": {"gives": {"$item": "$"}}}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT args FROM job_status WHERE queue = 'map' AND state = 'ready' ORDER BY id;
SELECT waiting, ready FROM job_flow_status s JOIN job j USING (id) WHERE j.flow = :f;
SELECT DISTINCT e.reason, regexp_replace(e.detail, 'flow \d+', 'flow N') AS detail, regexp_replace(e.hint, '\(\d+', '(N') AS hint
FROM (SELECT m.id FROM job m WHERE m.flow = :f UNION SELECT i.id FROM job m JOIN job i ON i.flow = m.id WHERE m.flow = :f) j, job_explain(j.id) e WHERE e.reason IN ('members', 'flow') ORDER BY 1;
SELECT job_complete(job_id, token) FROM job_claim('map');
SELECT pg_temp.comes_true($$NOT EXISTS (SELECT FROM job_delta)$$);
SELECT waiting, ready FROM job_flow_status s JOIN job j USING (id) WHERE j.flow = :f;
SELECT job_complete(job_id, token) FROM job_claim('map');
SELECT pg_temp.comes_true($$(SELECT count(*) = 3 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
CALL pg_temp.run('map', :f, :'decided');
SELECT state, result FROM job_status WHERE flow = :f;
-- One that fails stops the map; a retry begins with it again.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [false, true, false, false], "canary": 2, "min_success": 0.1, "job": {"kind": "k", "args": {"fail": {"$item": "$"}}}}]}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT s.state, s.error FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f ORDER BY s.id;
SELECT state, regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE flow = :f;
SELECT job_retry(:f);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT s.state FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f ORDER BY s.id;
SELECT job_complete(job_id, token) FROM job_claim('map');
CALL pg_temp.run('map', :f, :'decided');
SELECT s.state FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f ORDER BY s.id;
-- One whose attempt fails, and is tried again, is still a canary; one that is skipped is none.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [0, 1, 2], "canary": 2, "job": {"kind": "k", "max_attempts": 2, "backoff": "1 ms", "args": {"gives": {"$item": "$"}}}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT job_fail(job_id, token) FROM job_claim('map', max_jobs => 2);
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT job_hold(id) FROM job_status WHERE queue = 'map' AND args = '{"gives": 1}' AND state = 'ready';
SELECT job_decide(id, 'skipped') FROM job_status WHERE queue = 'map' AND args = '{"gives": 1}' AND state = 'waiting';
SELECT s.state FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :f ORDER BY s.id;
CALL pg_temp.run('map', :f, :'decided');
SELECT state, result FROM job_status WHERE flow = :f;
-- Canaries are let in by priority, then by their order, and no other before them; one that is held is not.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [0, 1, 2, 3, 4], "canary": 4, "permits": 0, "job": {"kind": "k", "args": {"gives": {"$item": "$"}}}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 5 FROM job_waiting w JOIN job j ON j.id = w.job_id WHERE j.queue = 'map' AND limited_by IS NOT NULL)$$);
SELECT job_change(id, priority => CASE args WHEN '{"gives": 2}' THEN 5 ELSE 9 END) FROM job_status WHERE queue = 'map' AND args IN ('{"gives": 2}', '{"gives": 4}') AND state = 'waiting' ORDER BY id;
SELECT job_hold(id) FROM job_status WHERE queue = 'map' AND args = '{"gives": 0}' AND state = 'waiting';
SELECT job_flow_set(id, permits => 2) FROM job_status WHERE flow = :f;
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map') AND NOT EXISTS (SELECT FROM job_delta)$$);
SELECT args, job_complete(job_id, token) FROM job_claim('map', max_jobs => 9);
SELECT job_flow_set(id, permits => 9) FROM job_status WHERE flow = :f;
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map') AND NOT EXISTS (SELECT FROM job_delta)$$);
SELECT args, job_complete(job_id, token) FROM job_claim('map', max_jobs => 9);
SELECT job_unhold(id) FROM job_status WHERE queue = 'map' AND args = '{"gives": 0}' AND state = 'waiting';
CALL pg_temp.run('map', :f, :'decided');
SELECT state, (SELECT count(*) FROM job_status i WHERE i.flow = s.id AND i.state = 'succeeded') AS items FROM job_status s WHERE flow = :f;
-- All items are canaries, of which one fails.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [true, false], "canary": 5, "job": {"kind": "k", "critical": false, "args": {"fail": {"$item": "$"}}}}]}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT state, error FROM job_status WHERE flow = :f;
-- A person lets all of them in.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [0, 1, 2, 3, 4], "canary": 2, "job": {"kind": "k"}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT job_flow_set(id, paused => false) FROM job_status WHERE flow = :f;
SELECT pg_temp.comes_true($$(SELECT count(*) = 5 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
CALL pg_temp.run('map', :f, :'decided');
-- One that fails, is lost or given back before its last attempt is tried again, and the others still wait.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map", "backoff": "1 ms"}, "jobs": [{"name": "m", "map": [0, 1, 2], "canary": 1, "job": {"kind": "k", "args": {"gives": {"$item": "$"}}}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT args, job_fail(job_id, token, 'not yet') FROM job_claim('map', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT args, attempt, job_take_back(job_id) FROM job_claim('map', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT args, attempt, job_release(job_id, token) FROM job_claim('map', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT waiting, ready, permits FROM job_flow_status s JOIN job j USING (id) WHERE j.flow = :f;
SELECT * FROM job_check();
SELECT args, attempt, job_complete(job_id, token, '"done"') FROM job_claim('map', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
CALL pg_temp.run('map', :f, :'decided');
SELECT state, result FROM job_status WHERE flow = :f;
-- One that has succeeded, and is retried, is a canary again.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [0, 1, 2, 3], "canary": 2, "job": {"kind": "k"}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT job_id AS first, job_complete(job_id, token) FROM job_claim('map') \gset
SELECT pg_temp.comes_true($$NOT EXISTS (SELECT FROM job_delta)$$);
SELECT job_retry(:first, downstream => true);
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT * FROM job_check();
CALL pg_temp.run('map', :f, :'decided');
SELECT state FROM job_status WHERE flow = :f;

-- A result that is too deep to be put into another is null in that of the map.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": [0, 1], "job": {"kind": "k"}}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT job_complete(job_id, token, (repeat('[', 1001) || repeat(']', 1001))::jsonb) FROM job_claim('map');
CALL pg_temp.run('map', :f, :'decided');
SELECT state, result FROM job_status WHERE flow = :f;

-- Again with all that follows: the map has the items that there are then. An item is added by its worker.
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "list", "kind": "list", "manual": true}, {"name": "m", "map": {"$result": "list"}, "depends_on": ["list"], "job": {"kind": "k", "args": {"gives": {"$item": "$"}}}}], "result": {"$result": "m"}}') AS f \gset
SELECT job_decide(id, 'succeeded', '[1, 2, 3]') FROM job_status WHERE flow = :f AND name = 'list';
SELECT pg_temp.comes_true($$(SELECT count(*) = 3 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'map')$$);
SELECT job_submit('more', queue => 'map', args => '{"gives": "more"}', flow => id) > 0 AS added FROM job_status WHERE flow = :f AND name = 'm';
CALL pg_temp.run('map', :f, :'decided');
SELECT result FROM job_status WHERE id = :f;
SELECT job_retry(id, downstream => true) FROM job_status WHERE flow = :f AND name = 'list';
SELECT job_decide(id, 'succeeded', '["x"]') FROM job_status WHERE flow = :f AND name = 'list';
CALL pg_temp.run('map', :f, :'decided');
SELECT result FROM job_status WHERE id = :f;
SELECT job_clone(:f, from_members => '{m}') AS g \gset
CALL pg_temp.run('map', :g, :'decided');
SELECT result FROM job_status WHERE id = :g;

-- Undone, items are, each with its own
SELECT job_submit_flow('{"queue": "map", "defaults": {"queue": "map"}, "jobs": [{"name": "m", "map": ["p", {"$literal": {"$undo": "key"}}], "job": {"kind": "k", "args": {"gives": {"$index": true}}, "undo": {"kind": "un", "args": {"gives": {"of": {"$item": "$"}, "did": {"$undo": "result"}}}}}}]}') AS f \gset
CALL pg_temp.run('map', :f, :'decided');
SELECT job_undo(:f) AS u \gset
CALL pg_temp.run('map', :u, :'decided');
SELECT s.kind, s.result FROM job_status s JOIN job_status m ON m.id = s.flow WHERE m.flow = :u ORDER BY s.result::text;

-- What is wrong with it
SELECT path, problem FROM job_check_flow('{"args": {"a": {"$item": "$"}}, "jobs": [
    {"name": "m", "map": {"$result": "later"}, "job": {"kind": "k", "name": "n", "depends_on": ["m"], "unique_key": "u", "args": {"a": {"$item": "$["}, "b": {"$item": 3}, "c": {"$index": 1}, "d": {"$item": "$", "path": "$"}, "e": {"$result": "later"}}}},
    {"name": "later", "kind": "k", "args": {"a": {"$item": "$"}, "b": {"$index": true}}}, {"name": "x", "map": 3, "job": {"kind": "k"}}, {"name": "y", "map": {"a": 1}, "job": {"kind": "k"}}, {"name": "z", "map": []}, {"name": "w", "map": [], "job": []},
    {"name": "v", "map": [], "job": {"kind": "k"}, "canary": 0, "min_success": 1.5, "max_running": 0}, {"name": "u", "map": [], "job": {"kind": "k"}, "canary": 1.5, "min_success": "all"},
    {"name": "t", "map": [], "jobs": [], "job": {"kind": "k", "x": 1}, "args": {}, "kind": "k"}, {"name": "s", "job": {"kind": "k"}, "kind": "k"}, {"map": [], "job": {"map": [{"$item": "$"}, {"$item": "$["}], "job": {}}}]}');
SELECT pg_temp.problem($$SELECT job_submit_flow('{"map": [1], "job": {"kind": "k"}}')$$);
SELECT path, problem FROM job_check_flow('{"permits": 1e400, "max_running": 1e-400, "jobs": [{"map": [], "job": {"kind": "k"}, "canary": 1e400, "min_success": 1e400}, {"map": [], "job": {"kind": "k"}, "min_success": 1e-400}]}');
SELECT job_submit_flow('{"queue": "map", "jobs": [{"kind": "k", "queue": "map", "hold": true}]}') AS f \gset
SELECT pg_temp.problem(format($$SELECT job_submit('k', queue => 'map', flow => %s, args => '{"a": {"$item": "$"}}')$$, :f));
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT * FROM job_check() WHERE job_id > :first;
