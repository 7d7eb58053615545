-- "when": conditions on the results of upstream jobs
\set VERBOSITY terse
\pset null -
SELECT last_value AS first FROM job_id_seq \gset
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(coalesce(s.name, s.kind) || ' ' || s.state, ', ' ORDER BY s.id) FROM job_status s WHERE s.flow = members.flow $$;

\set decided '(SELECT finished_at IS NOT NULL FROM job_status WHERE id = $1)'

-- A branch is taken where its condition holds; the other is skipped, and what joins them goes on.
SELECT job_submit_flow('{"queue": "when", "defaults": {"queue": "when"}, "jobs": [{"name": "ask", "kind": "k", "args": {"gives": {"n": 7, "s": "x"}}},
    {"name": "large", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$.n > 5"}}, {"name": "small", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$.n <= 5"}},
    {"name": "not there", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$.gone"}}, {"name": "no boolean", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$.n"}}, {"name": "no time", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$.s.datetime() > \"2026-01-01\".datetime()"}},
    {"name": "too slow", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$.s like_regex \"(x+x+)+y\""}},
    {"name": "join", "kind": "k", "depends_on": ["large", "small"], "trigger_rule": "none_failed_min_one_success"}, {"name": "all", "kind": "k", "depends_on": ["large", "small"]}]}') AS f \gset
CALL pg_temp.run('when', :f, :'decided');
SELECT pg_temp.members(:f);
SELECT state FROM job_status WHERE id = :f;
-- What is told of one that was left out, and of one behind it
SELECT m.name, e.reason, regexp_replace(e.detail, ' at .*:\d\d[^:]*:', ':') AS detail, replace(e.hint, coalesce(e.other::text, '-'), 'N') AS hint
FROM (SELECT id, name FROM job WHERE flow = :f AND name IN ('small', 'all')) m, LATERAL (SELECT reason, replace(detail, coalesce('Job ' || other, '-'), 'Job N') AS detail, hint, other FROM job_explain(m.id)) e ORDER BY m.id, e.other NULLS FIRST;
-- Of several parents each has its own; a rule counts it as skipped. One that did not succeed counts as what it is.
SELECT job_submit_flow('{"queue": "when", "defaults": {"queue": "when"}, "jobs": [{"name": "a", "kind": "k", "args": {"gives": true}}, {"name": "b", "kind": "k", "args": {"gives": false}}, {"name": "c", "kind": "k", "critical": false, "args": {"fail": true}},
    {"name": "one", "kind": "k", "depends_on": ["a", "b"], "trigger_rule": "one_success", "when": {"a": "$", "b": "$"}}, {"name": "both", "kind": "k", "depends_on": ["a", "b"], "when": {"a": "$", "b": "$"}},
    {"name": "two", "kind": "k", "depends_on": ["a", "b"], "trigger_rule": "quorum", "quorum": 2, "when": {"b": "$"}}, {"name": "none failed", "kind": "k", "depends_on": ["a", "b"], "trigger_rule": "none_failed", "when": {"a": "$ == false", "b": "$"}},
    {"name": "failed", "kind": "k", "critical": false, "depends_on": ["c"], "when": {"c": "$"}}, {"name": "all skipped", "kind": "k", "depends_on": ["a", "b"], "trigger_rule": "all_skipped", "when": {"a": "$ == false", "b": "$"}},
    {"name": "done", "kind": "k", "depends_on": ["a", "b"], "trigger_rule": "all_done", "when": {"b": "$"}}, {"name": "person", "kind": "k", "manual": true}, {"name": "null", "kind": "k", "depends_on": ["person"], "when": {"person": "$ == null"}}, {"name": "not null", "kind": "k", "depends_on": ["person"], "when": {"person": "$ != null"}},
    {"name": "flow", "depends_on": ["b"], "when": {"b": "$"}, "jobs": [{"kind": "k"}]}, {"name": "map", "depends_on": ["a"], "when": {"a": "$"}, "map": [1], "job": {"kind": "k"}}]}') AS f \gset
SELECT job_decide(id, 'succeeded') FROM job_status WHERE flow = :f AND name = 'person';
CALL pg_temp.run('when', :f, :'decided');
SELECT pg_temp.members(:f);

-- On a job outside, which has ended, or has not; on one that a person decides, and that is run again.
SELECT job_submit('outside', queue => 'when', manual => true) AS o \gset
SELECT job_submit_flow(format('{"queue": "when", "defaults": {"queue": "when"}, "jobs": [{"name": "yes", "kind": "k", "depends_on": [%1$s], "when": {"%1$s": "$.ok"}}, {"name": "no", "kind": "k", "depends_on": [%1$s], "when": {"%1$s": "$.ok == false"}}]}', :o)::jsonb) AS f \gset
SELECT * FROM job_check() WHERE job_id > :first;
SELECT job_decide(:o, 'succeeded', '{"ok": true}');
SELECT pg_temp.members(:f);
SELECT job_submit_flow(format('{"queue": "when", "defaults": {"queue": "when"}, "jobs": [{"name": "yes", "kind": "k", "depends_on": [%1$s], "when": {"%1$s": "$.ok == true"}}, {"name": "no", "kind": "k", "depends_on": [%1$s], "when": {"%1$s": "$.ok == false"}}]}', :o)::jsonb) AS g \gset
SELECT pg_temp.members(:g);
CALL pg_temp.run('when', :g, :'decided');
SELECT * FROM job_check() WHERE job_id > :first;
SELECT job_retry(:o, downstream => true);
SELECT * FROM job_check() WHERE job_id > :first;
SELECT pg_temp.members(:g);
SELECT job_decide(:o, 'succeeded', '{"ok": false}');
SELECT pg_temp.comes_true($$NOT EXISTS (SELECT FROM job_delta) AND NOT EXISTS (SELECT FROM job_recount)$$);
SELECT pg_temp.members(:g);
CALL pg_temp.run('when', :g, :'decided');
SELECT pg_temp.members(:g);
SELECT * FROM job_check() WHERE job_id > :first;
-- In a copy that takes results over
SELECT job_submit_flow('{"queue": "when", "defaults": {"queue": "when"}, "jobs": [{"name": "ask", "kind": "k", "args": {"gives": 3}}, {"name": "three", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$ == 3"}}, {"name": "four", "kind": "k", "depends_on": ["ask"], "when": {"ask": "$ == 4"}}]}') AS f \gset
CALL pg_temp.run('when', :f, :'decided');
SELECT job_clone(:f, from_members => '{three,four}') AS g \gset
SELECT pg_temp.members(:g);
CALL pg_temp.run('when', :g, :'decided');
SELECT condition FROM job_dependency d JOIN job j ON j.id = d.downstream WHERE j.flow = :g ORDER BY d.downstream;
-- What is wrong with it
SELECT path, problem FROM job_check_flow('{"jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k", "when": {"a": "$"}}, {"kind": "k", "depends_on": ["a", 17], "when": {"a": "$[", "b": "$", "17": "$", "18": "$", "x": 3}}, {"kind": "k", "depends_on": ["a"], "when": "$"}, {"kind": "k", "depends_on": ["a"], "when": []},
    {"map": [], "depends_on": ["a"], "when": {"a": null}, "job": {"kind": "k", "when": {"a": "$"}}}], "when": {}}');
SELECT * FROM job_check() WHERE job_id > :first;
