-- job_clone: copies of flows, from the beginning or from some members on
\set VERBOSITY terse
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
-- run n jobs of queue clone, as they become ready; args and inputs are told; kind "fail" fails
CREATE PROCEDURE pg_temp.work(n int DEFAULT 1) LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    FOR i IN 1 .. n LOOP
        PERFORM pg_temp.comes_true('EXISTS (SELECT FROM job_queue_status WHERE queue = ''clone'' AND ready > 0)');
        FOR c IN SELECT * FROM job_claim('clone') LOOP
            RAISE NOTICE '%', concat_ws(' ', c.kind, nullif(c.args, '{}'), nullif(c.inputs, '{}'));
            IF c.kind = 'fail' THEN
                PERFORM job_fail(c.job_id, c.token, 'no luck', retry => false);
            ELSE
                PERFORM job_complete(c.job_id, c.token, to_jsonb(c.kind || coalesce(' of ' || nullif(c.args, '{}')::text, '')));
            END IF;
        END LOOP;
        COMMIT;
    END LOOP;
END $$;
-- what is in a flow; from: whether its parent is the member of that name of another
CREATE FUNCTION pg_temp.members(of bigint, other bigint DEFAULT NULL) RETURNS TABLE (name text, state text, attempt int, result jsonb, depends_on text, taken_over boolean) LANGUAGE sql AS $$
    SELECT s.name, CASE WHEN s.kind = 'flow' AND s.state IN ('scheduled', 'running') THEN 'begun' ELSE s.state END, s.attempt, s.result, (SELECT string_agg(coalesce(p.name, 'outside'), ', ' ORDER BY p.name) FROM job_status p WHERE p.id = ANY (s.depends_on)),
        s.parent = (SELECT o.id FROM job_status o WHERE o.flow = other AND o.name = s.name)
    FROM job_status s WHERE s.flow = of ORDER BY s.name $$;
-- cancel what there is
CREATE PROCEDURE pg_temp.clear() LANGUAGE plpgsql AS $$
BEGIN
    PERFORM job_cancel(id) FROM job_status WHERE queue LIKE 'clone%' AND flow IS NULL AND finished_at IS NULL;
    COMMIT;
    IF NOT pg_temp.comes_true('NOT EXISTS (SELECT FROM job_status WHERE queue LIKE ''clone%'' AND finished_at IS NULL)') THEN
        RAISE 'not cancelled';
    END IF;
    COMMIT;
END $$;

-- a flow of all kinds of members, one of which fails
SELECT job_submit('outside', queue => 'clone', name => 'outside') AS outside \gset
CALL pg_temp.work();
SELECT job_submit_flow(format('{"name": "all", "queue": "clone", "priority": 3, "tags": {"t": 1}, "notify": true, "timeout": "1 day", "on_failure": "continue", "args": {"n": 1, "left": false}, "defaults": {"queue": "clone", "expires_at": "2100-01-01 UTC"}, "jobs": [
    {"name": "a", "kind": "a", "args": {"n": {"$args": "$.n"}}, "depends_on": [%s], "unique_key": "clone a"}, {"name": "b", "kind": "b", "depends_on": ["a"], "args": {"r": {"$result": "a"}}},
    {"name": "sub", "depends_on": ["a"], "jobs": [{"name": "s", "kind": "s"}], "result": {"$result": "s"}}, {"name": "out", "kind": "out", "if": "$.left"}, {"name": "after out", "kind": "x", "depends_on": ["out"]},
    {"name": "asks", "kind": "asks", "manual": true}, {"name": "c", "kind": "fail", "depends_on": ["b", "sub"]}, {"name": "d", "kind": "d", "depends_on": ["c"]}, {"name": "anyway", "kind": "anyway", "depends_on": ["c"], "trigger_rule": "all_done"},
    {"name": "alone", "kind": "alone", "depends_on": ["b"]}, {"kind": "unnamed"}], "result": {"$result": "d"}}', :outside)::jsonb) AS f \gset
SELECT job_decide(id, 'succeeded', '"yes"') FROM job_status WHERE flow = :f AND name = 'asks';
CALL pg_temp.work(7);
SELECT pg_temp.until(:f, 'failed');
SELECT * FROM pg_temp.members(:f);

-- from its beginning: as it was submitted, all of it runs
SELECT job_clone(:f) AS g \gset
SELECT a.name = b.name AS name, b.state, b.priority, b.tags, b.args, b.parent = a.id AS parent, x.timeout, x.notify FROM job_status a, job_status b JOIN job x USING (id) WHERE a.id = :f AND b.id = :g;
SELECT * FROM pg_temp.members(:g, :f);
SELECT on_failure FROM job_flow_status WHERE id = :g;
CALL pg_temp.clear();
-- from where it failed: what has succeeded, or was left out, is taken over
SELECT job_clone(:f, '{}') AS g \gset
SELECT * FROM pg_temp.members(:g, :f);
SELECT name, decided_by IS NOT NULL AS by_somebody FROM job WHERE flow = :g AND outcome = 1 ORDER BY name;
SELECT name, jobs, state FROM job_flow_status f WHERE name = 'sub' AND EXISTS (SELECT FROM job j WHERE j.id = f.id AND j.flow = :g);
SELECT regexp_replace(regexp_replace(detail, 'at [^:]*:[^:]*:\S+ \d+ \w+', 'at <time>'), 'job \d+', 'job N') AS detail FROM job j, job_explain(j.id) WHERE j.flow = :g AND j.name IN ('a', 'out', 'sub') ORDER BY j.name;
SELECT * FROM job_check();
CALL pg_temp.work(3);
SELECT pg_temp.until(:g, 'failed');
-- from a member on, with other args; what follows from it, or from one that runs again, runs
SELECT job_clone(:f, '{sub,out}', '{"n": 2, "left": true}') AS g \gset
SELECT * FROM pg_temp.members(:g, :f);
CALL pg_temp.clear();
SELECT job_clone(:f, '{a}', '{"n": 2, "left": true}') AS g \gset
SELECT * FROM pg_temp.members(:g, :f);
CALL pg_temp.work(2);
SELECT * FROM job_check();
CALL pg_temp.clear();
-- a copy of a copy: of what that has taken over, too; it is removed with nothing of the others
SELECT job_clone(:f, '{}') AS g \gset
CALL pg_temp.work();
CALL pg_temp.clear();
SELECT job_clone(:g, '{alone}') AS h \gset
SELECT * FROM pg_temp.members(:h, :g);
-- what it has taken over can run again
SELECT job_retry(id, true) FROM job_status WHERE flow = :h AND name = 'a';
SELECT * FROM pg_temp.members(:h, :g);
SELECT * FROM job_check();
CALL pg_temp.clear();
SELECT job_clone(:f, '{}') AS h \gset
CALL pg_temp.clear();
-- the whole of it again, without what it took over
SELECT job_retry(:h, true);
SELECT pg_temp.comes_true(format('(SELECT jobs > 0 FROM job_flow_status WHERE id = %s)', :h));
SELECT * FROM pg_temp.members(:h, :f);
CALL pg_temp.clear();

-- one that waits: a copy waits for the same; one that was scheduled, expires or is to be undone
SELECT job_submit('first', queue => 'clone_first') AS first \gset
SELECT job_submit_flow(format('{"name": "waits", "queue": "clone", "depends_on": [%s, %s], "trigger_rule": "quorum", "quorum": 2, "hold": true, "jobs": [{"name": "w", "kind": "w", "queue": "clone"}]}', :outside, :first)::jsonb) AS f \gset
SELECT job_clone(:f) AS g \gset
SELECT state, held, depends_on = ARRAY[:outside, :first]::bigint[] AS depends FROM job_status WHERE id = :g;
SELECT job_decide(:first, 'succeeded');
SELECT pg_temp.until(:g, 'running');
SELECT job_clone(:g) AS h \gset
SELECT state, depends_on FROM job_status WHERE id = :h;
CALL pg_temp.work(2);
SELECT pg_temp.problem(format('SELECT job_clone(%s, ''{w}'')', :f));
SELECT job_unhold(:f);
CALL pg_temp.work();
SELECT job_submit_flow('{"queue": "clone", "run_at": "2100-01-01 UTC", "expires_at": "2100-01-02 UTC", "jobs": []}') AS f \gset
SELECT job_clone(:f) AS g \gset
SELECT state, run_at = '2100-01-01 UTC' AS run_at, expires_at = '2100-01-02 UTC' AS expires FROM job_status WHERE id = :g;
UPDATE job SET run_at = '2000-01-01 UTC', expires_at = '2000-01-02 UTC' WHERE id = :f;
SELECT job_clone(:f) AS h \gset
SELECT run_at, expires_at FROM job_status WHERE id = :h;
CALL pg_temp.clear();
-- of its members, too
SELECT job_submit_flow('{"queue": "clone", "jobs": [{"name": "e", "kind": "e", "queue": "clone", "expires_at": "2000-01-01 UTC"}, {"name": "in", "jobs": [{"name": "e", "kind": "e", "queue": "clone", "expires_at": "2000-01-01 UTC"}]}]}') AS f \gset
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, state FROM job_status WHERE flow = :f ORDER BY id;
SELECT job_clone(:f) AS g \gset
CALL pg_temp.work(2);
SELECT pg_temp.until(:g, 'succeeded');
SELECT name, state FROM job_status WHERE flow = :g ORDER BY id;
-- its key, if no other job has it; what was added is not a part of it
SELECT job_submit_flow('{"queue": "clone", "unique_key": "clone f", "jobs": [{"name": "k", "kind": "k", "queue": "clone"}]}') AS f \gset
SELECT job_submit('added', queue => 'clone', flow => :f, name => 'added') > 0 AS added;
SELECT job_clone(:f) AS g \gset
SELECT unique_key, :g <> :f AS another FROM job_status WHERE id = :g;
SELECT name FROM job_status WHERE flow = :g;
CALL pg_temp.work(3);
SELECT pg_temp.until(:g, 'succeeded'), pg_temp.until(:f, 'succeeded');
SELECT job_clone(:f) AS g \gset
SELECT unique_key FROM job_status WHERE id = :g;
CALL pg_temp.clear();
-- an undo is a part of it; one that is undone, too, can be cloned
SELECT job_submit_flow('{"name": "saga", "queue": "clone", "jobs": [{"name": "u", "kind": "u", "queue": "clone", "undo": {"kind": "undo", "queue": "clone"}}]}') AS f \gset
CALL pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
CALL pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_clone(:f) AS g \gset
CALL pg_temp.work();
SELECT pg_temp.until(:g, 'succeeded');
SELECT undo FROM job WHERE flow = :g;
SELECT pg_temp.problem(format('SELECT job_clone(%s)', :u));
-- what is undone is not taken over, as it does not stand any more; what nothing undoes is
SELECT job_submit_flow('{"queue": "clone", "defaults": {"queue": "clone"}, "jobs": [{"name": "plan", "kind": "plan"}, {"name": "none", "depends_on": ["plan"], "jobs": [{"kind": "y"}]},
    {"name": "sub", "depends_on": ["none"], "jobs": [{"name": "x", "kind": "x", "undo": {"kind": "undo"}}]}, {"name": "mail", "kind": "mail", "depends_on": ["sub"]}, {"name": "book", "kind": "book", "depends_on": ["mail"], "undo": {"kind": "undo"}}]}') AS o \gset
CALL pg_temp.work(5);
SELECT pg_temp.until(:o, 'succeeded');
SELECT job_clone(:o, '{}') AS g \gset
SELECT pg_temp.until(:g, 'succeeded');
SELECT job_undo(:o) AS u \gset
SELECT job_clone(:o, '{}') AS h \gset
SELECT job_clone(:g, '{}') AS i \gset
SELECT f.id = :h AS of_the_flow, j.name, j.outcome IS NOT NULL AS taken_over FROM job j JOIN job f ON f.id = j.flow WHERE f.id IN (:h, :i) ORDER BY j.id;
SELECT count(*) FROM job_status f, job_cancel(f.id) WHERE f.id IN (:u, :h, :i);
SELECT pg_temp.until(:h, 'cancelled'), pg_temp.until(:i, 'cancelled'), pg_temp.until(:u, 'cancelled');
-- nor a flow that was undone alone
SELECT job_submit_flow('{"queue": "clone", "defaults": {"queue": "clone"}, "jobs": [{"name": "book", "kind": "book", "undo": {"kind": "undo"}}, {"name": "sub", "depends_on": ["book"], "jobs": [{"name": "in", "jobs": [{"name": "x", "kind": "x", "undo": {"kind": "undo"}}]}]}]}') AS o \gset
CALL pg_temp.work(2);
SELECT pg_temp.until(:o, 'succeeded');
SELECT job_undo(i.id) AS u FROM job_status s JOIN job_status i ON i.flow = s.id WHERE s.flow = :o \gset
SELECT job_clone(:o, '{}') AS g \gset
SELECT j.name, j.outcome IS NOT NULL AS taken_over FROM job j WHERE j.flow = :g ORDER BY j.id;
CALL pg_temp.work(2);
SELECT pg_temp.until(:g, 'succeeded'), pg_temp.until(:u, 'succeeded');

-- what is refused
SELECT pg_temp.problem(format('SELECT job_clone(%s, ''{no,u,none}'')', :f));
SELECT pg_temp.problem(format('SELECT job_clone(%s, ''{no}'')', :f));
SELECT pg_temp.problem(format('SELECT job_clone(%s, ''{no,NULL}'')', :f));
SELECT pg_temp.problem(format('SELECT job_clone(%s, ''{{no},{u}}'')', :f));
SELECT pg_temp.problem(format('SELECT job_clone(%s, NULL, ''[]'')', :f));
SELECT pg_temp.problem(format('SELECT job_clone(%s, NULL, jsonb_build_object(''a'', repeat(''x'', 2000000)))', :f));
SELECT pg_temp.problem('SELECT job_clone(NULL)');
SELECT pg_temp.problem('SELECT job_clone(-1)');
SELECT pg_temp.problem(format('SELECT job_clone(%s)', id)) FROM job_status WHERE flow = :f;
SELECT job_submit_flow('{"queue": "clone", "jobs": [{"name": "sub", "jobs": [{"kind": "h", "queue": "clone"}]}]}') AS f \gset
SELECT pg_temp.comes_true(format('EXISTS (SELECT FROM job_flow_status s JOIN job j USING (id) WHERE j.flow = %s AND state = ''running'')', :f));
SELECT pg_temp.problem(format('SELECT job_clone(%s)', id)) FROM job_status WHERE flow = :f;
SELECT pg_temp.problem(format('SELECT job_clone(%s, ''{sub}'')', :f));
CALL pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
-- who may: sees the flow and the queues of all members, and submits to them
CREATE ROLE clone_role;
SELECT job_submit_flow('{"queue": "clone", "jobs": [{"name": "seen", "kind": "h", "queue": "clone"}, {"name": "sub", "jobs": [{"name": "hidden", "kind": "h", "queue": "clone2"}]}]}') AS f \gset
CALL pg_temp.work();
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_queue_status WHERE queue = ''clone2'' AND ready > 0)');
SELECT job_complete(job_id, token) FROM job_claim('clone2');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_grant('clone_role', 'clone', 'submit');
SET ROLE clone_role;
SELECT pg_temp.problem(format('SELECT job_clone(%s)', :f));
RESET ROLE;
SELECT job_grant('clone_role', 'clone', 'read'), job_grant('clone_role', 'clone2', 'submit'), job_grant('clone_role', 'default', 'submit'), job_grant('clone_role', 'default', 'read');
SET ROLE clone_role;
SELECT pg_temp.problem(format('SELECT job_clone(%s)', :f));
RESET ROLE;
SELECT job_grant('clone_role', 'clone2', 'read'), job_revoke('clone_role', 'clone2', 'submit');
SET ROLE clone_role;
SELECT pg_temp.problem(format('SELECT job_clone(%s)', :f));
RESET ROLE;
SELECT job_grant('clone_role', 'clone2', 'submit');
SET ROLE clone_role;
SELECT job_clone(:f, '{sub}') AS g \gset
RESET ROLE;
SELECT submitted_by, state FROM job_status WHERE id = :g;
SELECT name, state, attempt FROM pg_temp.members(:g);
CALL pg_temp.clear();
SELECT job_revoke('clone_role', q, p) FROM (VALUES ('clone', 'submit'), ('clone', 'read'), ('clone2', 'submit'), ('clone2', 'read'), ('default', 'submit'), ('default', 'read')) r (q, p);
DROP ROLE clone_role;

-- one that is started later takes over what is there then
SELECT job_submit_flow('{"queue": "clone", "run_in": "1 hour", "jobs": [{"name": "x", "kind": "x", "queue": "clone"}, {"name": "y", "kind": "y", "queue": "clone", "depends_on": ["x"]}]}') AS f \gset
SELECT job_change(:f, run_at => now());
CALL pg_temp.work(2);
SELECT pg_temp.until(:f, 'succeeded');
UPDATE job SET run_at = '2100-01-01 UTC' WHERE id = :f;
SELECT job_clone(:f, '{y}') AS g \gset
SELECT job_clone(:f, '{y}') AS h \gset
SELECT state, jobs FROM job_flow_status WHERE id = :g;
SELECT job_change(:g, run_at => now());
SELECT pg_temp.until(:g, 'running');
SELECT * FROM pg_temp.members(:g, :f);
CALL pg_temp.work();
SELECT count(job_delete(id)) FROM (SELECT id FROM job WHERE :f IN (id, flow) ORDER BY id) j;
SELECT job_change(:h, run_at => now());
SELECT pg_temp.until(:h, 'running');
SELECT * FROM pg_temp.members(:h, :f);
CALL pg_temp.work(2);
SELECT pg_temp.until(:h, 'succeeded');
SELECT * FROM job_check();
