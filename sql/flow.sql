-- Flows: jobs whose work is other jobs
\set VERBOSITY terse
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS TABLE (name text, kind text, state text, depends_on text, result jsonb, error text) LANGUAGE sql AS $$
    SELECT s.name, s.kind, s.state, (SELECT string_agg(coalesce(p.name, 'outside'), ', ' ORDER BY p.id) FROM job_status p WHERE p.id = ANY (s.depends_on)), s.result, s.error
    FROM job_status s WHERE s.flow = members.flow ORDER BY s.id $$;
-- run what comes first in a queue: the result is the args; kind "fail" fails
CREATE FUNCTION pg_temp.work(q text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    PERFORM pg_temp.comes_true(format('EXISTS (SELECT FROM job_queue_status WHERE queue = %L AND ready > 0)', q));
    FOR c IN SELECT * FROM job_claim(q) LOOP
        RETURN NEXT format('%s %s', c.kind, c.args);
        IF c.kind = 'fail' THEN
            PERFORM job_fail(c.job_id, c.token, 'no luck', retry => false);
        ELSE
            PERFORM job_complete(c.job_id, c.token, c.args);
        END IF;
    END LOOP;
END $$;

-- references to results and args, a condition, a sub-flow; a job outside that depends on it
SELECT job_submit_flow('{"name": "all", "queue": "flow", "args": {"a": {"b": 7}, "x": true}, "tags": {"t": 1}, "defaults": {"queue": "flow"}, "jobs": [
  {"name": "end", "kind": "end", "depends_on": ["sub", "left out"], "trigger_rule": "none_failed", "args": {"r": {"$result": "sub"}, "none": {"$result": "left out"}, "part": {"$result": "load", "path": "$.none"}}},
  {"name": "load", "kind": "load", "args": {"src": {"$args": "$.a.b"}, "list": [{"$args": "$.x"}, {"deep": {"$args": "$"}}]}},
  {"name": "left out", "kind": "s", "if": "$.x == false", "depends_on": ["load"]},
  {"name": "sub", "args": {"n": {"$result": "load", "path": "$.list[0]"}}, "depends_on": ["load"], "jobs": [
      {"name": "in", "kind": "in", "if": "$.n", "args": {"m": {"$args": "$.n"}, "of": {"$result": "load", "path": "$.src"}, "as is": {"$literal": {"$args": 1}}}}],
    "result": {"$result": "in"}}],
  "result": {"$result": "end", "path": "$.r.of"}}') AS f \gset
SELECT job_submit('after', queue => 'flow', depends_on => ARRAY[:f], priority => -1) AS after \gset
SELECT * FROM pg_temp.members(:f);
SELECT name, kind, state, tags, flow, started_at IS NOT NULL AS started FROM job_status WHERE id = :f;
SELECT name, state, jobs, waiting, scheduled, ready, running, succeeded, failed, skipped, cancelled, upstream_failed, on_failure, started_at IS NOT NULL AS started FROM job_flow_status WHERE id = :f;
SELECT * FROM job_check();
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM pg_temp.members(:f);
SELECT result, started_at IS NOT NULL AS started, finished_at IS NOT NULL AS finished FROM job_status WHERE id = :f;
SELECT job_result(:f), kind, inputs, job_complete(job_id, token) FROM job_claim('flow');
SELECT state, jobs, succeeded, skipped, finished_at IS NOT NULL AS finished FROM job_flow_status WHERE id = :f;

-- how it ends: a critical member that fails, one that is not critical, none at all
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "fail"}, {"name": "b", "kind": "b", "depends_on": ["a"]}, {"name": "c", "kind": "c"}]}') AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'failed');
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE id = :f;
SELECT * FROM pg_temp.members(:f);
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "fail", "critical": false}, {"name": "b", "kind": "b", "depends_on": ["a"], "trigger_rule": "all_done"}], "result": {"$result": "b"}}') AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded'), job_result(:f);
SELECT job_submit_flow('{"queue": "flow", "jobs": []}') AS f \gset
SELECT pg_temp.until(:f, 'succeeded'), job_result(:f);
SELECT jobs FROM job_flow_status WHERE id = :f;
-- one that is left out alone
SELECT job_submit_flow('{"queue": "flow", "args": {}, "jobs": [{"kind": "x", "queue": "flow", "if": "$.none == 1"}]}') AS f \gset
SELECT pg_temp.until(:f, 'succeeded');
-- on_failure cancel: what has not begun is cancelled
SELECT job_submit_flow('{"queue": "flow", "on_failure": "cancel", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "fail", "priority": 1}, {"name": "b", "kind": "b", "run_in": "1 hour"}, {"name": "c", "kind": "c", "depends_on": ["b"]}]}') AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'failed');
SELECT * FROM pg_temp.members(:f);

-- it waits as any job: held, for a job, for a time; nothing of it is there before
SELECT job_submit('first', queue => 'flow') AS first \gset
SELECT job_submit_flow(jsonb_build_object('queue', 'flow', 'hold', true, 'depends_on', jsonb_build_array(:first), 'jobs', '[{"name": "a", "kind": "a", "queue": "flow"}]'::jsonb)) AS f \gset
SELECT state, held, kind FROM job_status WHERE id = :f;
SELECT state, jobs FROM job_flow_status WHERE id = :f;
SELECT pg_temp.problem(format('SELECT job_submit(''x'', flow => %s)', :f));
SELECT pg_temp.work('flow');
SELECT job_unhold(:f);
SELECT pg_temp.until(:f, 'running');
SELECT pg_temp.problem(format('SELECT %s(%s)', f, :f)) FROM unnest('{job_hold,job_retry}'::text[]) f;
SELECT pg_temp.problem(format('SELECT job_decide(%s, ''succeeded'')', :f));
SELECT pg_temp.problem(format('SELECT job_change(%s, args => ''{}'')', :f));
SELECT job_change(:f, priority => 5), job_take_back(:f), job_unhold(:f);
SELECT priority, state FROM job_status WHERE id = :f;
SELECT reason, replace(detail, 'Job ' || id, 'Job N') AS detail, replace(hint, id::text, 'N') AS hint, other = id AS other FROM (SELECT id FROM job WHERE flow = :f) m, job_explain(:f);
SELECT pg_temp.problem(format('SELECT job_delete(%s)', :f));
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_submit_flow('{"queue": "flow", "run_in": "1 hour", "unique_key": "k", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SELECT state FROM job_status WHERE id = :f;
SELECT job_submit_flow('{"queue": "flow", "unique_key": "k", "jobs": []}') = :f AS same, job_submit_flow('{"queue": "flow", "unique_key": "k", "on_conflict": "skip", "jobs": []}') IS NULL AS skipped;
SELECT job_change(:f, run_at => now());
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');

-- members join while it runs: who submitted it, operates on its queue, or runs one of them may have them do so
CREATE ROLE flow_worker;
CREATE ROLE flow_stranger;
SELECT job_grant('flow_worker', 'flow', 'work'), job_grant('flow_worker', 'flow', 'submit'), job_grant('flow_stranger', 'flow', 'submit');
SELECT job_submit_flow('{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SET ROLE flow_worker;
SELECT pg_temp.problem(format('SELECT job_submit(''x'', queue => ''flow'', flow => %s)', :f));
SELECT job_id, token, flow = :f AS flow FROM job_claim('flow') \gset
\echo :flow
SELECT job_submit('grown', '{"g": 1}', queue => 'flow', flow => :f, name => 'grown', depends_on => ARRAY[:job_id]) AS grown \gset
SELECT pg_temp.problem(format('SELECT job_submit(''x'', queue => ''flow'', flow => %s, name => ''grown'')', :f));
SELECT job_complete(:job_id, :token);
RESET ROLE;
SET ROLE flow_stranger;
SELECT pg_temp.problem(format('SELECT job_submit(''x'', queue => ''flow'', flow => %s)', :f));
RESET ROLE;
SELECT pg_temp.problem(format('SELECT job_submit(''x'', flow => %s)', :grown));
SELECT pg_temp.problem(format('SELECT job_submit(''x'', flow => %s, depends_on => ARRAY[%s])', :f, :f));
SELECT job_submit('later', queue => 'flow', hold => true) AS later \gset
SELECT pg_temp.problem(format('SELECT job_submit(''x'', flow => %s, depends_on => ARRAY[%s])', :f, :later));
SELECT pg_temp.problem('SELECT job_submit(''x'', flow => 9223372036854775807)');
SELECT pg_temp.problem(format('SELECT job_submit_many(''[{"kind": "x", "flow": %s, "name": "grown"}]'')', :f));
SELECT count(*) FROM job_submit_many(format('[{"kind": "m1", "queue": "flow", "flow": %s, "name": "m1"}, {"kind": "m2", "queue": "flow", "flow": %s, "depends_on": ["m1"]}]', :f, :f)::jsonb);
SELECT pg_temp.problem(format('SELECT job_submit(''x'', %L, flow => %s)', args, :f)) FROM unnest(ARRAY['{"a": [{"$none": 1}]}', '{"a": {"$args": "$["}}', '{"a": {"$result": "a", "path": "$$"}}']) args;
SELECT pg_temp.problem(format('SELECT job_change(%s, args => ''{"a": {"$args": 1}}'')', id)) FROM job WHERE flow = :f AND name = 'm1';
SELECT job_cancel(:later);
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded'), job_result(:f);
SELECT * FROM pg_temp.members(:f);
SELECT pg_temp.problem(format('SELECT job_submit(''x'', flow => %s)', :f));
-- who joins, or changes a member, refers only to what it may read
SELECT job_submit_flow('{"queue": "flow_hidden", "args": {"x": 1}, "jobs": [{"name": "hidden", "kind": "a", "queue": "flow_hidden"}, {"name": "seen", "kind": "b", "queue": "flow"}]}') AS f \gset
SET ROLE flow_worker;
SELECT job_id, token FROM job_claim('flow') \gset
SELECT pg_temp.problem(format('SELECT job_submit(''x'', %L, queue => ''flow'', flow => %s)', args, :f)) FROM unnest(ARRAY['{"a": {"$args": "$"}}', '{"a": [{"$result": "hidden", "path": "$.x"}]}', '{"a": {"$result": "later"}}']) args;
SELECT pg_temp.problem(format('SELECT job_submit(''x'', queue => ''flow'', flow => %s, undo => %L)', :f, undo)) FROM unnest(ARRAY['{"kind": "u", "queue": "flow_hidden"}', '{"kind": "u", "args": {"$result": "hidden"}}', '{"kind": "u", "args": {"a": {"$result": "later"}}}']) undo;
SELECT pg_temp.problem(format('SELECT job_submit_many(''[{"kind": "x", "queue": "flow", "flow": %s, "args": {"a": {"$result": "%s"}}}, {"kind": "y", "queue": "flow", "name": "y", "flow": %s}]'')', :f, name, :f)) FROM unnest(ARRAY['hidden', 'later']) name;
SELECT count(*) FROM job_submit_many(format('[{"kind": "x", "queue": "flow", "flow": %s, "depends_on": ["y"], "hold": true, "args": {"a": {"$result": "y"}}}, {"kind": "y", "queue": "flow", "hold": true, "name": "y", "flow": %s}]', :f, :f)::jsonb) s, job_cancel(s);
SELECT job_submit('c', '{"a": {"$result": "seen"}}', queue => 'flow', flow => :f, depends_on => ARRAY[:job_id], unique_key => 'of flow_worker') AS c \gset
SELECT pg_temp.problem(format('SELECT job_change(%s, args => ''{"a": {"$result": "hidden"}}'')', :c));
SELECT pg_temp.problem('SELECT job_submit(''c'', ''{"a": {"$result": "hidden"}}'', queue => ''flow'', unique_key => ''of flow_worker'', on_conflict => ''replace'')');
SELECT job_complete(:job_id, :token, '2');
SELECT kind, args, job_complete(job_id, token) FROM job_claim('flow');
RESET ROLE;
SELECT job_complete(job_id, token) FROM job_claim('flow_hidden');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_revoke('flow_worker', 'flow', 'work'), job_revoke('flow_worker', 'flow', 'submit'), job_revoke('flow_stranger', 'flow', 'submit');
DROP ROLE flow_stranger;

-- what cannot be read, is too deep or too large keeps nobody from claiming, nor the flow from ending
SELECT job_submit_flow('{"queue": "flow", "args": {"d": ["2020-01-01"]}, "defaults": {"queue": "flow"}, "result": {"$args": "$.d[*] ? (@.datetime() < \"2020-06-01T00:00:00+00:00\".datetime())"},
    "jobs": [{"name": "a", "kind": "a", "priority": 1, "args": {"r": {"$args": "$.d[*] ? (@.datetime() < \"2020-06-01T00:00:00+00:00\".datetime())"}, "s": {"$args": "$.d"}}},
             {"name": "b", "kind": "b", "depends_on": ["a"], "args": {"r": {"$result": "a"}, "s": {"$result": "a", "path": "$.s"}}}]}') AS f \gset
SELECT job_complete(job_id, token, jsonb_build_object('s', 1, 'r', (repeat('[', 14000) || repeat(']', 14000))::jsonb)), args FROM job_claim('flow');
SELECT pg_temp.problem(format('SELECT job_submit(''x'', %L, flow => %s)', '{"x": ' || repeat('[', 1000) || repeat(']', 1000) || '}', :f));
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded'), job_result(:f);

-- cancelled: while it waits, while it runs, with what is in it
SELECT job_submit_flow('{"queue": "flow", "hold": true, "jobs": [{"kind": "a", "queue": "flow"}]}') AS f \gset
SELECT job_cancel(:f, 'no'), job_cancel(:f);
SELECT state, error FROM job_status WHERE id = :f;
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "a", "priority": 1}, {"name": "b", "kind": "b", "depends_on": ["a"]}, {"name": "sub", "jobs": [{"name": "s1", "kind": "s1"}, {"name": "s2", "kind": "s2", "depends_on": ["s1"]}]}]}') AS f \gset
SELECT id AS sub FROM job WHERE flow = :f AND name = 'sub' \gset
SELECT pg_temp.until(:sub, 'running');
SELECT job_id, token, kind FROM job_claim('flow') \gset
\echo :kind
SELECT job_cancel(:f, 'enough'), job_cancel(:f);
SELECT pg_temp.comes_true(format('job_heartbeat(%s, %s) = false', :job_id, :token));
SELECT pg_temp.comes_true(format('(SELECT stopping > 0 FROM job_flow WHERE job_id = %s)', :f));
SELECT pg_temp.problem(format('SELECT job_submit(''x'', flow => %s)', :f));
SELECT reason, regexp_replace(detail, '\d of its 3 members \w+', 'N of its 3 members are') AS detail FROM job_explain(:f) WHERE reason = 'members';
SELECT job_fail(:job_id, :token, 'told to');
SELECT pg_temp.until(:f, 'cancelled');
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE id = :f;
SELECT * FROM pg_temp.members(:f);
SELECT * FROM pg_temp.members(:sub);

-- one that times out has failed; the time begins anew when it is opened again
SELECT job_submit_flow('{"queue": "flow", "timeout": "1 ms", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "a", "run_in": "1 hour"}, {"name": "b", "kind": "b", "depends_on": ["a"]}]}') AS f \gset
SELECT pg_temp.until(:f, 'failed');
SELECT error FROM job_status WHERE id = :f;
SELECT * FROM pg_temp.members(:f);
BEGIN;
SELECT job_retry(:f);
SELECT expires_at > now() AS anew, stopping FROM job_flow WHERE job_id = :f;
COMMIT;
SELECT pg_temp.until(:f, 'failed');
-- while one of its members runs on
BEGIN;
SELECT job_submit_flow('{"queue": "flow", "timeout": "1 ms", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SELECT job_id, token FROM job_claim('flow') \gset
COMMIT;
SELECT pg_temp.comes_true(format('(SELECT stopping > 0 FROM job_flow WHERE job_id = %s)', :f));
SELECT * FROM job_check();
SELECT job_complete(:job_id, :token);
SELECT pg_temp.until(:f, 'failed');

-- opened again: a member while the flow runs
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "fail", "priority": 1}, {"name": "b", "kind": "b", "depends_on": ["a"]}, {"name": "c", "kind": "c"}]}') AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.members(:f);
SELECT job_retry(id) FROM job WHERE flow = :f AND name = 'a';
SELECT pg_temp.members(:f);
SELECT job_complete(job_id, token) FROM job_claim('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
-- the flow: what failed in it, and in what it is in, runs again; what succeeded stays, and so does what waits outside
SELECT job_submit_flow('{"queue": "flow", "name": "again", "defaults": {"queue": "flow"}, "jobs": [{"name": "ok", "kind": "ok", "priority": 2}, {"name": "sub", "jobs": [{"name": "a", "kind": "fail"}, {"name": "b", "kind": "b", "depends_on": ["a"]}]},
    {"name": "end", "kind": "end", "depends_on": ["ok", "sub"]}, {"name": "out", "kind": "out", "if": "$.none"}]}') AS f \gset
SELECT job_submit('after', queue => 'flow', depends_on => ARRAY[:f]) AS after \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'failed');
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE id = :f;
SELECT id AS sub FROM job WHERE flow = :f AND name = 'sub' \gset
SELECT state FROM job_status WHERE id IN (:after, :sub) ORDER BY id;
SELECT job_retry(:f), job_retry(:f);
SELECT name, state FROM job_status WHERE id IN (:f, :sub, :after) OR flow IN (:f, :sub) ORDER BY name;
SELECT * FROM job_check();
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'failed');
-- What has failed far inside is named with all that it is in, or with the first and the last of that.
CREATE FUNCTION pg_temp.nested(depth int) RETURNS jsonb LANGUAGE plpgsql AS $$
DECLARE
    member jsonb := '{"name": "x", "kind": "fail"}';
BEGIN
    FOR i IN REVERSE depth .. 1 LOOP
        member := jsonb_build_object('name', 'in ' || i, 'jobs', jsonb_build_array('{"name": "y", "kind": "never", "manual": true, "critical": false}'::jsonb, member), 'on_failure', 'cancel');
    END LOOP;
    RETURN '{"queue": "flow_deep", "defaults": {"queue": "flow_deep"}}' || jsonb_build_object('jobs', jsonb_build_array(member));
END $$;
SELECT job_submit_flow(pg_temp.nested(7)) AS d \gset
SELECT pg_temp.work('flow_deep');
SELECT pg_temp.until(:d, 'failed');
SELECT error = format('member "in 1/in 2/in 3/in 4/in 5/in 6/in 7/x", job %s, failed', (SELECT max(id) FROM job WHERE queue = 'flow_deep' AND name = 'x')) AS named FROM job_status WHERE id = :d;
SELECT job_submit_flow(pg_temp.nested(10)) AS d \gset
SELECT pg_temp.work('flow_deep');
SELECT pg_temp.until(:d, 'failed');
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE id = :d;
-- A flow that fails by itself is the last that is named.
SELECT job_submit_flow('{"queue": "flow_deep", "defaults": {"queue": "flow_deep"}, "jobs": [{"name": "in", "jobs": [{"name": "slow", "timeout": "1 ms", "jobs": [{"name": "y", "kind": "never", "manual": true}]}]}]}') AS d \gset
SELECT pg_temp.until(:d, 'failed');
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE id = :d;
-- a member of what is in it: that opens all around it
SELECT job_retry(id) FROM job WHERE flow = :sub AND name = 'a';
SELECT name, state FROM job_status WHERE id IN (:f, :sub, :after) OR flow IN (:f, :sub) ORDER BY name;
SELECT * FROM job_check();
SELECT job_complete(job_id, token) FROM job_claim('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT state FROM job_status WHERE id = :after;
SELECT pg_temp.problem(format('SELECT job_retry(%s)', :f));
-- one that was cancelled
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "a", "unique_key": "again"}, {"name": "b", "kind": "b", "depends_on": ["a"]}]}') AS f \gset
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT job_retry(:f);
SELECT name, state FROM job_status WHERE flow = :f ORDER BY id;
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
-- what is opened outside leaves it as it is
SELECT job_submit('fail', queue => 'flow') AS outside \gset
SELECT job_submit_flow(format('{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "queue": "flow", "depends_on": [%s]}]}', :outside)::jsonb) AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'failed');
SELECT job_retry(:outside);
SELECT * FROM pg_temp.members(:f);
SELECT * FROM job_check();
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'failed');
-- unless the flow is opened again, when it could run
SELECT job_retry(:outside);
SELECT job_complete(job_id, token) FROM job_claim('flow');
SELECT job_retry(:f);
SELECT * FROM pg_temp.members(:f);
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
-- a member of one that has succeeded stays as it is
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "a", "kind": "fail", "critical": false}, {"name": "out", "kind": "o", "if": "$.no"}]}') AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT pg_temp.problem(format('SELECT job_retry(%s)', id)) FROM job WHERE flow = :f AND name = 'a';
SELECT reason, regexp_replace(detail, 'at .*:', 'at <time>:') AS detail, hint FROM job m, job_explain(m.id) WHERE m.flow = :f AND m.name = 'out';
-- one that is being cancelled says so
SELECT job_submit_flow('{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SELECT job_id, token FROM job_claim('flow') \gset
SELECT cancel_requested FROM job_status WHERE id = :f;
SELECT job_cancel(:f);
SELECT cancel_requested FROM job_status WHERE id = :f;
SELECT pg_temp.comes_true(format('(SELECT stopping > 0 FROM job_flow WHERE job_id = %s)', :f));
SELECT cancel_requested FROM job_status WHERE id = :f;
SELECT job_fail(:job_id, :token);
SELECT pg_temp.until(:f, 'cancelled');
-- a timeout that is a default is of attempts, not of a flow inside
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow", "timeout": "1 hour"}, "jobs": [{"name": "sub", "jobs": [{"name": "a", "kind": "a"}]}]}') AS f \gset
SELECT pg_temp.comes_true(format('EXISTS (SELECT FROM job a JOIN job s ON s.id = a.flow WHERE s.flow = %s)', :f));
SELECT a.timeout AS of_the_member, s.timeout AS of_the_flow FROM job a JOIN job s ON s.id = a.flow WHERE s.flow = :f;
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT pg_temp.problem('SELECT job_submit_flow(''{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "depends_on": [9223372036854775807]}]}'')');
SELECT pg_temp.problem('SELECT job_schedule(''flow'', ''@hourly'', ''{"kind": "x", "queue": "flow", "flow": 1}'')');

-- the flow cannot be started: it has failed, and says why
SELECT job_grant('flow_worker', 'flow', 'submit');
SET ROLE flow_worker;
SELECT pg_temp.problem('SELECT job_submit_flow(''{"queue": "flow", "jobs": [{"kind": "x", "queue": "flow"}, {"jobs": [{"kind": "y", "queue": "flow_other"}]}]}'')');
SELECT job_submit_flow('{"queue": "flow", "hold": true, "jobs": [{"kind": "x", "queue": "flow"}]}') AS f \gset
RESET ROLE;
SELECT job_revoke('flow_worker', 'flow', 'submit');
SELECT job_unhold(:f);
SELECT pg_temp.until(:f, 'failed');
SELECT regexp_replace(error, 'job \d+', 'job N') AS error FROM job_status WHERE id = :f;
UPDATE job SET submitted_by = current_user::regrole WHERE id = :f;
-- it has no members, so that it can be tried again
SELECT job_retry(:f);
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
DROP ROLE flow_worker;

-- removed: not a member of one that is undecided; what it is made of goes with the flow
SELECT job_submit_flow('{"queue": "flow_remove", "defaults": {"queue": "flow_remove"}, "jobs": [{"name": "a", "kind": "a"}, {"name": "b", "kind": "b", "depends_on": ["a"]}]}') AS f \gset
SELECT pg_temp.work('flow_remove');
SELECT pg_temp.problem(format('SELECT job_delete(%s)', id)) FROM job WHERE flow = :f AND name = 'a';
SELECT job_purge('flow_remove', '0');
SELECT pg_temp.work('flow_remove');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_delete(:f);
SELECT count(*) FROM job_flow WHERE job_id = :f;
SELECT job_purge('flow_remove', '0');
SELECT count(*) FROM job WHERE queue = 'flow_remove';
-- with its members, and what is in it, at once
SELECT job_submit_flow('{"queue": "flow_remove", "defaults": {"queue": "flow_remove"}, "jobs": [{"name": "a", "kind": "a"}, {"name": "sub", "jobs": [{"name": "b", "kind": "b"}]}]}') AS f \gset
SELECT pg_temp.work('flow_remove');
SELECT pg_temp.work('flow_remove');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_purge('flow_remove', '0');
SELECT count(*) FROM job_flow f JOIN job j ON j.id = f.job_id WHERE j.queue = 'flow_remove';
SELECT job_submit_flow('{"queue": "flow_remove", "jobs": [{"name": "a", "kind": "a", "queue": "flow_remove"}]}') AS f \gset
SELECT pg_temp.work('flow_remove');
SELECT pg_temp.until(:f, 'succeeded');
SELECT changed, problem FROM job_delete_many(ARRAY(SELECT id FROM job WHERE queue = 'flow_remove'));
SELECT count(*) FROM job WHERE queue = 'flow_remove';

-- a member waits for nothing that could wait for its flow, also where another job has the unique key of what it names, or the same call submits that
SELECT job_submit_flow('{"queue": "flow", "hold": true, "defaults": {"queue": "flow"}, "jobs": [{"name": "m1", "kind": "m", "unique_key": "outside"}, {"name": "m2", "kind": "m", "depends_on": ["m1"]}]}') AS f \gset
SELECT job_submit('m', queue => 'flow', unique_key => 'outside', depends_on => ARRAY[:f]) AS outside \gset
SELECT job_unhold(:f);
SELECT pg_temp.until(:f, 'failed');
SELECT regexp_replace(error, '(job|flow) \d+', '\1 N', 'gi') AS error FROM job_status WHERE id = :f;
SELECT state FROM job_status WHERE id = :outside;
SELECT job_submit_flow('{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SELECT pg_temp.problem(format('SELECT * FROM job_submit_many(''[{"name": "x", "kind": "x", "depends_on": [%s]}, {"kind": "y", "flow": %s, "depends_on": ["x"]}]'')', :f, :f));
SELECT count(*) FROM job_submit_many(format('[{"name": "x", "kind": "x", "queue": "flow", "flow": %s}, {"kind": "y", "queue": "flow", "flow": %s, "depends_on": ["x"]}]', :f, :f)::jsonb);
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');

-- args that replace those of a member are checked as those of one that joins
SELECT job_submit_flow('{"queue": "flow", "jobs": [{"kind": "a", "queue": "flow", "run_in": "1 hour", "unique_key": "member"}]}') AS f \gset
SELECT pg_temp.problem('SELECT job_submit(''a'', ''{"a": {"$none": 1}}'', queue => ''flow'', unique_key => ''member'', on_conflict => ''replace'')');
SELECT job_cancel(id) FROM job WHERE flow = :f;
SELECT pg_temp.until(:f, 'succeeded');
-- it is changed, and replaced by another, before it has started: that one starts, where it stands then
SELECT job_submit_flow('{"queue": "flow", "hold": true, "unique_key": "replaced", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SELECT job_submit_flow('{"queue": "flow", "priority": 3, "unique_key": "replaced", "on_conflict": "replace", "args": {"x": 2}, "on_failure": "cancel", "jobs": [{"name": "b", "kind": "b", "queue": "flow", "args": {"of": {"$args": "$.x"}}}]}') = :f AS same;
SELECT pg_temp.problem('SELECT job_submit(''flow'', queue => ''flow'', unique_key => ''replaced'', on_conflict => ''replace'')');
SELECT job_change(:f, queue => 'flow_elsewhere');
SELECT job_unhold(:f);
SELECT pg_temp.until(:f, 'running');
SELECT * FROM job_check();
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT s.queue, s.priority, f.on_failure, (SELECT count(*) FROM job_unique u WHERE u.job_id = s.id) AS keys FROM job_status s JOIN job_flow_status f USING (id) WHERE s.id = :f;
SELECT job_submit_flow('{"queue": "flow", "defaults": {"queue": "flow"}, "jobs": [{"name": "s1", "unique_key": "s", "jobs": [{"kind": "s1"}]}, {"name": "s2", "unique_key": "s", "on_conflict": "replace", "jobs": [{"kind": "s2"}]}]}') AS f \gset
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');

-- a path that could take too long over large JSON is not followed; the same over small JSON is, and one whose work is bounded
CREATE FUNCTION pg_temp.path(path text, n int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    f bigint;
BEGIN
    f := job_submit_flow(jsonb_build_object('queue', 'flow_path', 'args', jsonb_build_object('a', (SELECT jsonb_agg(i) FROM generate_series(1, n) i), 'b', '[0]'::jsonb || (SELECT jsonb_agg(-i) FROM generate_series(1, n) i),
        'x', (SELECT string_agg('ab', '') FROM generate_series(1, n))), 'jobs', jsonb_build_array(jsonb_build_object('name', 'm', 'kind', 'm', 'if', path))));
    RAISE '%', (SELECT state FROM job_status WHERE flow = f);
EXCEPTION WHEN OTHERS THEN
    RETURN CASE SQLSTATE WHEN 'P0001' THEN SQLERRM ELSE SQLSTATE || ' ' || SQLERRM END;
END $$;
SELECT regexp_replace(path, '9{9,}', '9…', 'g') AS path, pg_temp.path(path, 5) AS small, pg_temp.path(path, 30000) AS large FROM (VALUES ('$.a[*] == $.b[*]'), ('$.a == $.b'), ('strict $.a[0] == $.b[0]'), ('strict $.a[*] == $.b[*]'), ('$.a[*] == 3'), ('$.a[*] > 2 && $.b[*] > 4 || !exists($.x)'),
    ('exists($.a[*] ? (@ > 4))'), ('exists($.a[*] ? (@ == $.b))'), ('exists($.a ? (@[*] ? (@ > 3) == 4))'), ('exists($.**.**.**.a)'), ('$.x like_regex "^a"'), ('$.x like_regex "^(a.*)\\1+$"'),
    ('$[0,0,0,0,0,0,0,0,0,0][0,0,0,0,0,0,0,0,0,0][0,0,0,0,0,0,0,0,0,0][0,0,0,0,0,0,0,0,0,0][0,0,0,0,0,0,0,0,0,0][0,0,0,0,0,0,0,0,0,0][0,0,0,0,0,0,0,0,0,0] == 1'), ('$.a[$.a[0]] == 2'), ('$.a[0 to last] == 2'),
    ('$.x like_regex "(?=.*(?=.*(?=.*c)))"'), ('exists($.a[*] ? (@ * ' || repeat('9', 60000) || ' * ' || repeat('9', 60000) || ' < 0))'), ('exists($.a[*] ? (@ * 1.5 > 2))'), ('-$.a[*] < -4'), ('$.a[0] + $.a[1] == 3'), ('($.a[*] == 3) is unknown'), ('$.x starts with "a"'), ('exists($.keyvalue())'), ('$.a.size() > 3'), ('true')) p (path);
SELECT job_submit_flow(jsonb_build_object('queue', 'flow', 'args', (SELECT jsonb_build_object('a', jsonb_agg(i), 'b', jsonb_agg(i)) FROM generate_series(1, 30000) i), 'jobs', '[{"name": "m", "kind": "m", "if": "$.a == $.b"}]'::jsonb));

-- all in one transaction, rolled back to a savepoint
BEGIN;
SELECT job_submit_flow('{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
SAVEPOINT s;
SELECT job_submit('b', queue => 'flow', flow => :f) > 0 AS joined;
ROLLBACK TO s;
COMMIT;
SELECT * FROM pg_temp.members(:f);
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');

-- 10,000 members, of whom one waits for all
SELECT job_submit_flow(jsonb_build_object('queue', 'flow_many', 'defaults', '{"queue": "flow_many", "kind": "m"}'::jsonb, 'jobs', (SELECT jsonb_agg(jsonb_build_object('name', 'm' || i)) FROM generate_series(1, 9999) i)
    || (SELECT jsonb_build_object('name', 'last', 'depends_on', jsonb_agg('m' || i)) FROM generate_series(1, 9999) i))) AS f \gset
SELECT ready, waiting, jobs FROM job_flow_status WHERE id = :f;
SELECT count(*) FROM (SELECT array_agg(job_id) AS ids, array_agg(token) AS tokens FROM job_claim('flow_many', max_jobs => 10000)) c, job_complete_many(c.ids, c.tokens);
SELECT pg_temp.work('flow_many');
SELECT pg_temp.until(:f, 'succeeded');

-- the checks: counters that are wrong by hand are found, and repaired
SELECT job_submit_flow('{"queue": "flow", "jobs": [{"name": "a", "kind": "a", "queue": "flow"}]}') AS f \gset
UPDATE job_flow SET undecided = 3 WHERE job_id = :f;
SELECT invariant, problem, repaired FROM job_check(true);
SELECT * FROM job_check();
UPDATE job_flow SET open = false WHERE job_id = :f;
SELECT invariant, problem, repaired FROM job_check(true);
SELECT * FROM job_check();
SELECT pg_temp.work('flow');
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, state FROM job_status WHERE queue LIKE 'flow%' AND finished_at IS NULL;
