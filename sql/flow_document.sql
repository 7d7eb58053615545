-- job_check_flow: what a flow says, and all that can be wrong with it
\pset format unaligned
\pset tuples_only on

-- flows that are right
SELECT * FROM job_check_flow('{"jobs": []}');
SELECT * FROM job_check_flow('{"jobs": [{"kind": "a"}, {"kind": "b", "name": null, "if": null, "critical": null, "jobs": null}], "name": null, "args": null, "defaults": null, "result": null, "on_failure": null}');
SELECT * FROM job_check_flow(jsonb_build_object('name', 'all', 'args', '{"a": {"$b": 1}, "c": {"$result": "nobody"}}'::jsonb, 'queue', 'q', 'priority', 1, 'run_at', '2999-01-01',
    'depends_on', '[1, 2]'::jsonb, 'trigger_rule', 'quorum', 'quorum', 2, 'max_attempts', 1, 'max_lost', 2, 'backoff', '1 s', 'timeout', '1 h', 'lease', '1 min',
    'expires_at', '2999-02-01', 'parent', 1, 'tags', '{"$x": 1}'::jsonb, 'notify', true, 'unique_key', 'k', 'unique_for', '1 h', 'on_conflict', 'skip', 'hold', true,
    'on_failure', 'cancel', 'result', '{"$result": "b", "path": "$.x[*]"}'::jsonb,
    'defaults', jsonb_build_object('kind', 'd', 'queue', 'q', 'requires', '["x"]'::jsonb, 'affinity', 'a', 'partition', 'p', 'manual', false, 'max_attempts', 3),
    'jobs', '[{"name": "b", "depends_on": ["a", 7], "args": {"x": [1, {"$result": "a"}, {"$args": "$.a"}, {"$literal": {"$any": {"$thing": 1}, "$literal": 2}}]}, "critical": false, "if": "$.a > 1"},
        {"name": "a", "run_in": "1 min", "manual": true, "requires": [], "on_conflict": "replace", "unique_key": "u"},
        {"name": "s", "depends_on": ["b"], "trigger_rule": "all_done", "if": "$.b", "critical": true, "args": {"y": {"$result": "a", "path": "$"}, "z": {"$args": "$"}}, "result": {"$args": "$.z"},
            "jobs": [{"name": "a", "args": {"x": {"$result": "b"}}}, {"depends_on": ["a"], "args": {"x": {"$result": "a"}}},
                {"kind": "f", "name": "t", "jobs": null}, {"jobs": [{"args": {"from outside": {"$result": "b"}}}], "defaults": {"queue": "r"}, "result": {"$literal": 1}}]}]'::jsonb));

-- what is no flow
SELECT job_check_flow(NULL);
SELECT * FROM unnest(ARRAY['1', '"x"', 'null', '[]', '[{}]', '{}', '{"jobs": null}', '{"jobs": {}}', '{"jobs": "x"}', '{"jobs": [1, "x", null, [], [{"kind": "a"}], {"kind": "a"}]}']::jsonb[]) flow,
    job_check_flow(flow);

-- keys that there are not, and where they can be
SELECT problem FROM job_check_flow('{"jobs": [{"kind": "k", "x": 1}, {"jobs": [], "x": 1}], "defaults": {"x": 1}, "x": 1}');
SELECT path, split_part(problem, '. ', 1) FROM job_check_flow('{"jobs": [{"kind": "a", "on_failure": "cancel", "result": 1, "flow": 1, "Kind": "a", "defaults": {}, "undo": 1, "": 1, "a b": 2, "\"\\\n": 3, "ä": 4, "x9": 5, "9x": 6},
    {"jobs": [], "kind": "flow", "affinity": "a", "paused": true}],
    "kind": "flow", "if": "$", "critical": true, "requires": ["x"], "affinity": "x", "undo": {}, "flow": 1, "manual": true, "partition": "x", "max_running": 2,
    "defaults": {"name": "x", "depends_on": [], "flow": 1, "unique_key": "x", "if": "$", "critical": false, "jobs": [], "queue": "q"}}');
-- the right key that a wrong one is nearest to, if it is near
SELECT path, regexp_replace(problem, '(A \w+|A flow in a flow|Defaults) can have .*', '') FROM job_check_flow(jsonb_build_object('on_fail', 1, 'max_runing', 1, 'default', 1, 'xob', 1, 'defaults', '{"priorty": 1, "quue": "q"}'::jsonb, 'jobs',
    '[{"kind": "k", "depend_on": [], "dependsOn": [], "Depends_On": [], "max_atempts": 1, "äfterx": 1, "nme": "x"}, {"map": [], "jobs": [], "job": {"kind": "k"}, "min_sucess": 1}, {"jobs": [], "result_": 1}]'::jsonb || jsonb_build_array(jsonb_build_object('kind', 'k', repeat('kind', 100), 1))));

-- bad values, of each key: those of job_submit's, in its words
CREATE TEMP TABLE bad (key text, value jsonb);
INSERT INTO bad VALUES ('kind', '1'), ('kind', '""'), ('args', '1'), ('args', '[]'), ('queue', '"a b"'), ('queue', 'true'), ('priority', '1.5'), ('priority', '40000'), ('priority', '"1"'),
    ('run_at', '"x"'), ('run_at', '"infinity"'), ('depends_on', '1'), ('depends_on', '[true]'), ('depends_on', '[1.5]'), ('depends_on', '[1e30]'), ('trigger_rule', '"all"'), ('quorum', '0'), ('quorum', '1'), ('max_attempts', '-1'),
    ('max_attempts', '3000000000'), ('max_lost', '[]'), ('backoff', '"0"'), ('timeout', '"-1 s"'), ('lease', '"1 us"'), ('lease', '"x"'), ('expires_at', '1'), ('parent', '"x"'), ('tags', '"ok"'),
    ('notify', '1'), ('unique_key', '""'), ('unique_for', '"1 h"'), ('unique_for', '"-1 h"'), ('on_conflict', '"x"'), ('hold', '"x"'), ('manual', '1'), ('partition', '""'), ('requires', '"x"'),
    ('requires', '[""]'), ('affinity', '""'), ('name', '""'), ('name', '7'), ('run_in', '"-1 s"'), ('if', '1'), ('if', '"$."'), ('if', '"$ like_regex \"x\" flag \"x\""'), ('if', '"$ like_regex \"(\""'), ('critical', '"x"'), ('jobs', '1'),
    ('on_failure', '"stop"'), ('on_failure', '1'), ('defaults', '[]'), ('defaults', '1'), ('result', '1'), ('result', '{}'), ('result', '{"a": {"$args": "$"}}'), ('result', '{"$result": "x"}'), ('result', '[{"$args": "$"}]');
SELECT 'member: ' || key || ' ' || value, path, problem FROM bad, job_check_flow(jsonb_build_object('jobs', jsonb_build_array('{"kind": "good"}'::jsonb, '{"kind": "k"}'::jsonb || jsonb_build_object(key, value))))
WHERE key NOT IN ('on_failure', 'defaults', 'result');
SELECT 'flow: ' || key || ' ' || value, path, problem FROM bad, job_check_flow('{"jobs": []}'::jsonb || jsonb_build_object(key, value))
WHERE key NOT IN ('kind', 'requires', 'affinity', 'partition', 'manual', 'if', 'critical');
SELECT 'sub-flow: ' || key || ' ' || value, path, problem FROM bad, job_check_flow(jsonb_build_object('jobs', jsonb_build_array('{"jobs": []}'::jsonb || jsonb_build_object(key, value))))
WHERE key IN ('queue', 'lease', 'jobs', 'if', 'critical', 'on_failure', 'defaults', 'result', 'quorum');
SELECT 'defaults: ' || key || ' ' || value, path, problem FROM bad, job_check_flow(jsonb_build_object('jobs', '[{"kind": "k"}, {"kind": "k"}, {"jobs": [{"kind": "k"}]}]'::jsonb, 'defaults', jsonb_build_object(key, value)))
WHERE key NOT IN ('depends_on', 'unique_key', 'name', 'if', 'critical', 'jobs', 'on_failure', 'defaults', 'result');

-- all of the bad values at once, in the order of the document
SELECT path, problem FROM job_check_flow((SELECT jsonb_build_object('jobs', jsonb_agg('{"kind": "k"}'::jsonb || jsonb_build_object(key, value))) FROM bad WHERE key NOT IN ('on_failure', 'defaults', 'result')));
SELECT path, problem FROM job_check_flow(jsonb_build_object('jobs', jsonb_build_array((SELECT jsonb_object_agg(key, value) FROM bad WHERE key NOT IN ('on_failure', 'defaults', 'result', 'jobs')))));

-- values that do not go together; not told where one of them could not be read
SELECT path, problem FROM job_check_flow('{"quorum": 3, "depends_on": [1, 2], "trigger_rule": "quorum", "unique_for": "1 h", "run_in": "1 h", "run_at": "2999-01-01", "jobs": [
    {},
    {"kind": null},
    {"kind": "a", "name": "a", "quorum": 2, "depends_on": [1], "trigger_rule": "quorum"},
    {"kind": "b", "trigger_rule": "quorum"},
    {"kind": "c", "quorum": 1},
    {"kind": "d", "on_conflict": "replace", "depends_on": ["a"], "unique_for": "1 h", "run_in": "1 h", "run_at": "2999-01-01"},
    {"kind": "e", "run_in": "-1 h", "run_at": "2999-01-01"},
    {"kind": "f", "quorum": 2, "trigger_rule": "quorun", "depends_on": 1}]}');
SET jobq.max_args_size = '1kB';
SELECT path, problem FROM job_check_flow(jsonb_build_object('args', jsonb_build_object('x', repeat('x', 2000)), 'jobs', jsonb_build_array(
    jsonb_build_object('kind', 'a', 'args', jsonb_build_object('x', repeat('x', 2000))), jsonb_build_object('kind', 'a', 'tags', jsonb_build_array(repeat('x', 2000))), '{"kind": "b"}'::jsonb)));
RESET jobq.max_args_size;

-- defaults: a fault is told where it stands, once, and not at all where it is given anew
SELECT path, problem FROM job_check_flow('{"defaults": {"queue": "a b", "priority": 99999, "lease": "1 us", "quorum": 1, "kind": ""}, "jobs": [{}, {"queue": "good"}, {"trigger_rule": "quorum"},
    {"jobs": [{}, {"quorum": 3, "trigger_rule": "quorum", "depends_on": [1]}], "defaults": {"queue": "also good", "lease": "1 h"}}, {"jobs": [{}], "defaults": {"kind": "k", "quorum": null}}]}');
SELECT path, problem FROM job_check_flow('{"defaults": {"kind": "k", "requires": ["x"], "run_at": "2999-01-01", "unique_for": "1 h"}, "jobs": [{"unique_key": "x"}, {}, {"run_in": "1 h"}, {"jobs": [{}], "unique_key": "y"}]}');

-- names and dependencies
SELECT path, problem FROM job_check_flow('{"jobs": [{"kind": "a", "name": "x"}, {"kind": "b", "name": "y"}, {"kind": "c", "name": "x"}, {"jobs": [{"kind": "d", "name": "x"}], "name": "x"}, {"kind": "e", "name": ""}, {"kind": "e", "name": ""}]}');
SELECT path, problem FROM job_check_flow('{"name": "top", "depends_on": [1, "x", 2, 1], "jobs": [{"kind": "a", "name": "x", "depends_on": ["x", "y", "nobody", "y", "y", "x", "nobody"]}, {"kind": "b", "name": "y", "depends_on": [1, 2, 1, 3, 2, 2, "7"]},
    {"name": "s", "depends_on": ["x", "y", "s", "top"], "jobs": [{"kind": "c", "name": "z", "depends_on": ["x", "s"]}]}, {"kind": "d", "depends_on": ["z"]}, {"kind": "e", "depends_on": [1.5, "w", 3, 3]}]}');

-- cycles, each once, at the end of their flow
SELECT path, problem FROM job_check_flow('{"jobs": [{"kind": "k", "name": "start"}, {"kind": "k", "name": "b", "depends_on": ["a", "start"]}, {"kind": "k", "name": "a", "depends_on": ["b"]}, {"kind": "k", "name": "after", "depends_on": ["a", "z"]},
    {"jobs": [{"kind": "k", "name": "p", "depends_on": ["q"]}, {"kind": "k", "name": "q", "depends_on": ["r"]}, {"kind": "k", "name": "r", "depends_on": ["p"]}]},
    {"kind": "k", "name": "x", "depends_on": ["y"]}, {"kind": "k", "name": "y", "depends_on": ["z", "after"]}, {"kind": "k", "name": "z", "depends_on": ["w", "x"]}, {"kind": "k", "name": "w", "depends_on": ["x"]},
    {"kind": "k", "name": "me", "depends_on": ["me"]}, {"kind": "k"}]}');
SELECT path, length(problem), left(problem, 100) FROM job_check_flow((SELECT jsonb_build_object('jobs', jsonb_agg(jsonb_build_object('kind', 'k', 'name', i::text, 'depends_on', jsonb_build_array(((i + 1) % 10000)::text)) ORDER BY i)) FROM generate_series(0, 9999) i));

-- references: their form
SELECT path, problem FROM job_check_flow('{"jobs": [{"kind": "k", "name": "a"}, {"kind": "k", "depends_on": ["a"], "args": {
    "0": {"$": 1}, "1": {"$results": "a"}, "2": {"$result": "a", "paths": "$"}, "3": {"$result": 1}, "4": {"$result": "a", "path": 1}, "5": {"$result": "a", "path": "$["}, "6": {"$args": 1},
    "7": {"$args": "$."}, "8": {"$args": "$", "path": "$"}, "9": {"$literal": 1, "x": 2}, "a": {"$result": "a", "$args": "$"}, "b": {"$$": 1, "$args": "$"}, "c": [[0, {"x y": {"$args": null}}]], "d": {"x": 1, "$y": {"$z": 1}},
    "e": {"$result": "a", "path": null}, "f": {"x": {"$literal": {"$x": 1}}}, "g": {"": 1, "a$": 2}, "h": {"$result": ["a"], "path": 1}}},
    {"kind": "k", "args": {"$args": "$"}}, {"kind": "k", "args": {"$nothing": "$"}, "tags": {"$nothing": "$"}},
    {"jobs": [], "args": {"x": {"$nothing": 1}}, "result": {"$nothing": 1}}, {"jobs": [], "result": {"$result": "x", "path": "$["}}, {"kind": "k", "if": "yes"}], "result": {"$result": "a", "further": 1}}');

-- references: whom they name
SELECT path, problem FROM job_check_flow('{"name": "top", "args": {"x": {"$result": "nobody"}}, "result": {"$result": "x"}, "jobs": [
    {"kind": "k", "name": "a", "args": {"self": {"$result": "a"}, "later": {"$result": "b"}, "nobody": {"$result": "nobody"}, "flow": {"$result": "top"}}},
    {"kind": "k", "name": "b", "depends_on": ["a"], "args": {"x": {"$result": "a"}, "y": {"$result": "c"}}},
    {"kind": "k", "name": "c", "depends_on": ["b"], "args": {"x": {"$result": "a"}, "y": {"$result": "b"}, "z": {"$result": "other"}}},
    {"kind": "k", "name": "other"},
    {"name": "s", "depends_on": ["b"], "args": {"x": {"$result": "a"}, "y": {"$result": "c"}, "z": {"$result": "x"}}, "result": {"$result": "a"}, "jobs": [
        {"kind": "k", "name": "x", "args": {"a": {"$result": "a"}, "b": {"$result": "b"}, "c": {"$result": "c"}, "s": {"$result": "s"}, "other": {"$result": "other"}, "y": {"$result": "y"}, "nobody": {"$result": "nobody"}}},
        {"kind": "k", "name": "b", "args": {"x": {"$result": "x"}}},
        {"kind": "k", "depends_on": ["x"], "args": {"not that outside": {"$result": "b"}, "x": {"$result": "x"}}},
        {"name": "t", "depends_on": ["x"], "result": {"$result": "in"}, "jobs": [{"kind": "k", "name": "in", "args": {"x": {"$result": "x"}, "a": {"$result": "a"}, "b": {"$result": "b"}, "t": {"$result": "t"}, "z": {"$result": "s"}}}]}]}]}');
-- by any way, and in cycles
SELECT count(*), count(*) FILTER (WHERE path LIKE '%far'), min(problem), max(problem) FROM job_check_flow((SELECT jsonb_build_object('jobs', jsonb_agg(jsonb_build_object('kind', 'k', 'name', l || '.' || n,
    'depends_on', CASE WHEN l > 0 THEN jsonb_build_array((l - 1) || '.' || n, (l - 1) || '.' || (n + 1) % 9) ELSE '[]' END,
    'args', CASE WHEN l > 0 THEN jsonb_build_object('far', jsonb_build_object('$result', (l - least(l, 3)) || '.' || (n + 4) % 9), 'near', jsonb_build_object('$result', (l - least(l, 3)) || '.' || (n + least(l, 3)) % 9)) ELSE '{}' END) ORDER BY l, n))
    FROM generate_series(0, 4) l, generate_series(0, 8) n));
SELECT path, problem FROM job_check_flow('{"jobs": [{"kind": "k", "name": "a", "depends_on": ["b", "r"]}, {"kind": "k", "name": "b", "depends_on": ["a"], "args": {"x": {"$result": "a"}, "y": {"$result": "r"}, "z": {"$result": "c"}, "b": {"$result": "b"}}},
    {"kind": "k", "name": "c", "depends_on": ["b"], "args": {"x": {"$result": "r"}}}, {"kind": "k", "name": "r"}]}');
-- in graphs of all kinds, as a recursive query finds them: edges, cycles among them, references without an ancestor, and how many of these are told otherwise
CREATE TEMP TABLE edge AS SELECT g, a, b FROM generate_series(1, 60) g, generate_series(0, 11) a, generate_series(0, 11) b
WHERE a <> b AND (a > b OR g % 3 = 0) AND ('x' || substr(md5(format('%s %s %s', g, a, b)), 1, 4))::bit(16)::int % (4 + g % 9) = 0;
CREATE TEMP TABLE ancestor AS WITH RECURSIVE up AS (SELECT g, a, b FROM edge UNION SELECT up.g, up.a, e.b FROM up JOIN edge e ON e.g = up.g AND e.a = up.b) SELECT * FROM up;
CREATE TEMP TABLE told AS SELECT g, path, problem FROM generate_series(1, 60) g, job_check_flow((
    SELECT jsonb_build_object('jobs', jsonb_agg(jsonb_build_object('kind', 'k', 'name', a::text,
        'depends_on', (SELECT coalesce(jsonb_agg(b::text ORDER BY b DESC), '[]') FROM edge e WHERE e.g = graph.g AND e.a = member.a),
        'args', (SELECT jsonb_object_agg('to' || b, jsonb_build_object('$result', b::text)) FROM generate_series(0, 11) b)) ORDER BY (a * 7) % 12))
    FROM (SELECT g) graph, generate_series(0, 11) member(a)));
SELECT (SELECT count(*) FROM edge), (SELECT count(DISTINCT g) FROM ancestor WHERE a = b) AS cyclic, (SELECT count(DISTINCT g) FROM told WHERE problem LIKE '%cycle%') AS told_cyclic,
    count(*) FILTER (WHERE expected), count(*) FILTER (WHERE expected IS DISTINCT FROM found) AS otherwise
FROM (SELECT NOT EXISTS (SELECT FROM ancestor x WHERE x.g = q.g AND x.a = q.a AND x.b = q.b) AS expected,
        EXISTS (SELECT FROM told t WHERE t.g = q.g AND t.path = format('$.jobs[%s].args.to%s', (q.a * 7) % 12, q.b)) AS found
    FROM (SELECT g, a, b FROM generate_series(1, 60) g, generate_series(0, 11) a, generate_series(0, 11) b) q) compared;
-- each strongly connected component once
SELECT count(*) - (SELECT count(*) FROM told WHERE problem LIKE '%cycle%') AS difference
FROM (SELECT DISTINCT x.g, (SELECT min(y.b) FROM ancestor y JOIN ancestor z ON z.g = y.g AND z.a = y.b AND z.b = y.a WHERE y.g = x.g AND y.a = x.a) FROM ancestor x WHERE x.a = x.b) components;
-- in defaults: their form is theirs, whom they name is each member's
SELECT path, problem FROM job_check_flow('{"defaults": {"kind": "k", "args": {"x": {"$result": "a"}, "y": {"$args": "$["}, "z": {"$x": 1}}}, "jobs": [{"name": "a"}, {"name": "b", "depends_on": ["a"]}, {"args": {}}, {"args": null, "depends_on": ["b"]},
    {"jobs": [{}, {"name": "a"}], "depends_on": ["b"]}, {"jobs": [{}], "args": {}, "defaults": {"args": {"x": {"$result": "b"}}}}]}');
SELECT path, problem FROM job_check_flow('{"defaults": {"kind": "k", "args": {"x": {"$x": 1}}}, "jobs": []}');
SELECT path, problem FROM job_check_flow('{"defaults": {"kind": "k", "args": {"x": {"$result": "nobody"}}}, "jobs": [{"args": {}, "jobs": [{}], "defaults": {"args": 1}}, {"args": {}, "jobs": [{}], "defaults": {"args": null}}]}');

-- deep and large
CREATE FUNCTION pg_temp.nested(depth int, inmost jsonb) RETURNS jsonb LANGUAGE sql AS $$
    SELECT (repeat('{"name": "f", "jobs": [', depth) || inmost || repeat(']}', depth))::jsonb
$$;
SELECT * FROM job_check_flow(pg_temp.nested(100, '{"kind": "k"}'));
SELECT length(path), problem FROM job_check_flow(pg_temp.nested(100, '{"kind": 1}'));
SELECT length(path), problem FROM job_check_flow(pg_temp.nested(200, '{"kind": 1}'));
SELECT * FROM job_check_flow(pg_temp.nested(600, '{"kind": 1}'));
SELECT path, problem FROM job_check_flow(jsonb_build_object('jobs', '[1]'::jsonb, 'args', jsonb_build_object('x', (repeat('[', 998) || repeat(']', 998))::jsonb)));
SELECT path, problem FROM job_check_flow(jsonb_build_object('jobs', '[1]'::jsonb, 'args', jsonb_build_object('x', (repeat('[', 999) || repeat(']', 999))::jsonb)));
SELECT length(path), problem FROM job_check_flow(jsonb_build_object('jobs', jsonb_build_array(jsonb_build_object('kind', 'k', 'args', jsonb_build_object('x', (repeat('[', 990) || '{"$x": 1}' || repeat(']', 990))::jsonb)))));
-- a chain, each with the result of that before it and of the first
CREATE TEMP TABLE chain AS
SELECT jsonb_build_object('jobs', jsonb_agg(jsonb_build_object('kind', 'link', 'name', i::text) ||
    CASE i WHEN 1 THEN '{}' ELSE jsonb_build_object('depends_on', jsonb_build_array((i - 1)::text),
        'args', jsonb_build_object('last', jsonb_build_object('$result', (i - 1)::text), 'first', jsonb_build_object('$result', '1', 'path', '$.x'))) END ORDER BY i)) AS flow
FROM generate_series(1, 10000) i;
SELECT * FROM chain, job_check_flow(flow);
SELECT count(*), min(path), (array_agg(problem))[1:2], max(problem) FROM chain, job_check_flow(jsonb_set(jsonb_set(flow, '{jobs,9999,args,last,$result}', '"10000"'), '{jobs,5000,depends_on,0}', '"5002"'));
SELECT count(*), min(path), max(path) FROM job_check_flow((SELECT jsonb_build_object('jobs', jsonb_agg(jsonb_build_object('kind', 'k', 'queue', 'q' || i, 'depends_on', jsonb_build_array('n' || i))) || '{"kind": "k", "name": "last"}') FROM generate_series(1, 9000) i));
-- more faults than anybody reads
SELECT count(*), count(DISTINCT path), max(problem) FILTER (WHERE path = '$') FROM job_check_flow((SELECT jsonb_build_object('jobs', jsonb_agg(i)) FROM generate_series(1, 20000) i));
SELECT path, problem FROM job_check_flow(jsonb_build_object('jobs', '[]'::jsonb, 'tags', repeat('x', 101 * 1024 * 1024)));

-- a check that is cancelled says so, not what is wrong with the flow
CREATE TEMP TABLE wrong AS SELECT jsonb_build_object('jobs', jsonb_agg('{"kind": "k", "priority": "x"}'::jsonb)) AS flow FROM generate_series(1, 100000);
SET statement_timeout = 1;
SELECT count(*) FROM wrong, job_check_flow(flow);
RESET statement_timeout;
