-- Sagas: a flow is undone by another, with its edges reversed.
\set VERBOSITY terse
SELECT last_value AS first FROM job_id_seq \gset
\pset null -
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS TABLE (name text, kind text, state text, depends_on text, error text) LANGUAGE sql AS $$
    SELECT regexp_replace(s.name, '\d{2,}$', 'N'), s.kind, s.state, (SELECT string_agg(CASE WHEN p.flow = s.flow THEN regexp_replace(p.name, '\d{2,}$', 'N') ELSE 'outside' END, ', ' ORDER BY p.id) FROM job_status p WHERE p.id = ANY (s.depends_on)), s.error
    FROM job_status s WHERE s.flow = members.flow ORDER BY s.id $$;
-- claim what comes first, and end it as its kind, or the second argument, says
CREATE FUNCTION pg_temp.work(as_kind text DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    c record;
    what text;
BEGIN
    PERFORM pg_temp.comes_true($c$EXISTS (SELECT FROM job_queue_status WHERE queue = 'undo' AND ready > 0)$c$);
    FOR c IN SELECT j.*, s.name FROM job_claim('undo') j JOIN job_status s ON s.id = j.job_id LOOP
        what := coalesce(as_kind, c.kind);
        RETURN NEXT format('%s %s: %s', c.kind, regexp_replace(c.name, '\d{2,}$', 'N'), regexp_replace(regexp_replace(c.args::text, '\d+-[0-9a-f]+-(\d)', 'KEY-\1', 'g'), '#again \d+', '#again N', 'g'));
        CASE what
            WHEN 'fail' THEN PERFORM job_fail(c.job_id, c.token, 'no luck', retry => false);
            WHEN 'lose' THEN PERFORM job_take_back(c.job_id, 'nobody knows');
            ELSE PERFORM job_complete(c.job_id, c.token, jsonb_build_object('made', c.name));
        END CASE;
    END LOOP;
END $$;
SELECT job_queue_set('undo', max_lost => 1);

-- What has succeeded is undone, from the end: with the key, args and result of the original; what cannot be undone is passed through.
SELECT job_submit_flow('{"queue": "undo", "name": "trip", "priority": 3, "args": {"who": "ann"}, "defaults": {"queue": "undo"}, "jobs": [
    {"name": "hotel", "kind": "book", "args": {"what": "hotel", "who": {"$args": "$.who"}}, "priority": 2,
     "undo": {"kind": "unbook", "args": {"made": {"$undo": "result", "path": "$.made"}, "who": {"$undo": "args", "path": "$.who"}, "again": {"$args": "$.who"}, "key": {"$undo": "key"}, "none": {"$undo": "result", "path": "$.x"}}}},
    {"name": "mail", "kind": "mail", "depends_on": ["hotel"]},
    {"name": "flight", "kind": "book", "args": {"what": "flight", "of": {"$result": "hotel", "path": "$.made"}}, "depends_on": ["mail"], "undo": {"kind": "unbook", "queue": null, "priority": 7}},
    {"name": "pay", "kind": "fail", "depends_on": ["flight"], "undo": {"kind": "refund"}},
    {"name": "review", "kind": "ask", "depends_on": ["pay"], "undo": {"kind": "unask"}}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 4) \gexec
SELECT pg_temp.until(:f, 'failed');
SELECT job_undo(:f) AS u \gset
SELECT name, kind, queue, priority, parent = :f AS parent FROM job_status WHERE id = :u;
SELECT * FROM pg_temp.members(:u);
SELECT name, kind, queue, priority FROM job_status WHERE flow = :u ORDER BY id;
SELECT undo_of = :f AS undo_of, undone_by FROM job_flow_status WHERE id = :u;
SELECT undo_of, undone_by = :u AS undone_by, state FROM job_flow_status WHERE id = :f;
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT pg_temp.until(:u, 'succeeded');

-- The key is that of the original.
SELECT job_submit_flow('{"queue": "undo", "jobs": [{"name": "a", "kind": "act", "queue": "undo", "undo": {"kind": "undo"}}]}') AS g \gset
SELECT key AS a_key FROM job_claim('undo') \gset
SELECT job_complete(l.job_id, l.token, '1') FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'undo';
SELECT pg_temp.until(:g, 'succeeded');
SELECT job_undo(:g) AS h \gset
SELECT key = :'a_key' AS key, args, attempt FROM job_claim('undo');
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'undo';
SELECT pg_temp.until(:h, 'succeeded');

-- Undone once: no member is opened again, and no other flow undoes it.
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :f));
SELECT pg_temp.problem(format('SELECT job_retry(%s)', f)) FROM unnest(ARRAY[:f, :g]) f;
SELECT pg_temp.problem(format('SELECT job_retry(%s)', id)) FROM job_status WHERE flow = :f AND name = 'pay';
SELECT replace(problem, :'f', 'N') FROM job_retry_many(ARRAY[:f]);
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :u));
SELECT e.reason, regexp_replace(regexp_replace(e.detail, ' at .*:\d\d[^:]*:', ':'), '(job|flow) \d+', '\1 N', 'gi') AS detail, replace(e.hint, coalesce(e.other::text, '-'), 'N') AS hint
FROM (SELECT id FROM job WHERE id = :f OR (flow = :f AND name = 'pay')) m, job_explain(m.id) e ORDER BY m.id, e.other NULLS FIRST;

-- In doubt: the same again, with the same key and inputs, and then its undo, if it was done; by other attempts it may have been found out already.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [
    {"name": "before", "kind": "act", "undo": {"kind": "undo"}},
    {"name": "done", "kind": "lose", "args": {"n": {"$result": "before"}}, "depends_on": ["before"], "timeout": "1 min", "max_attempts": 4, "undo": {"kind": "undo"}},
    {"name": "not done", "kind": "lose", "depends_on": ["before"], "undo": {"kind": "undo"}},
    {"name": "no undo", "kind": "lose", "depends_on": ["before"]},
    {"name": "told", "kind": "lose", "depends_on": ["before"], "undo": {"kind": "undo"}}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 5) \gexec
SELECT pg_temp.until(:f, 'failed');
-- a person knows of one
SELECT job_retry(id), job_decide(id, 'failed', reason => 'it did not happen') FROM job_status WHERE flow = :f AND name = 'told';
SELECT pg_temp.until(:f, 'failed');
SELECT job_undo(:f) AS u \gset
SELECT * FROM pg_temp.members(:u);
SELECT c.kind, c.args, c.inputs, regexp_replace(key, '^\d+-[0-9a-f]+', '') AS key FROM job_claim('undo', max_jobs => 2) c ORDER BY c.args;
SELECT CASE o.name WHEN 'done' THEN (SELECT 1 FROM job_complete(j.id, l.token, '{"made": "after all"}')) ELSE (SELECT 2 FROM job_fail(j.id, l.token, 'there is nothing', retry => false)) END AS found FROM job_lease l JOIN job j ON j.id = l.job_id JOIN job o ON o.id = j.undo_of ORDER BY 1;
SELECT * FROM pg_temp.members(:u);
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT pg_temp.until(:u, 'succeeded');
SELECT name, state, error FROM job_status WHERE flow = :u ORDER BY id DESC LIMIT 2;

-- Found out by nobody: lost again.
SELECT job_submit_flow('{"queue": "undo", "jobs": [{"name": "a", "kind": "lose", "queue": "undo", "undo": {"kind": "undo"}}]}') AS f \gset
SELECT pg_temp.work();
SELECT pg_temp.until(:f, 'failed');
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'failed');
SELECT * FROM pg_temp.members(:u);
SELECT regexp_replace(error, '\d+', 'N', 'g') AS error FROM job_status WHERE id = :u;
SELECT job_retry(:u);
SELECT $$SELECT pg_temp.work('act')$$ FROM generate_series(1, 2) \gexec
SELECT pg_temp.until(:u, 'succeeded');

-- A retry of what is in doubt keeps the key; else it has a new one.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [{"name": "a", "kind": "act", "undo": {"kind": "undo"}}]}') AS f \gset
CREATE TEMP TABLE keys (n serial, key text);
INSERT INTO keys (key) SELECT key FROM job_claim('undo');
SELECT job_take_back(l.job_id) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'undo';
SELECT pg_temp.until(:f, 'failed');
SELECT job_retry(:f);
INSERT INTO keys (key) SELECT key FROM job_claim('undo');
SELECT job_take_back(l.job_id) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'undo';
SELECT pg_temp.until(:f, 'failed');
SELECT job_retry(:f);
INSERT INTO keys (key) SELECT key FROM job_claim('undo');
SELECT job_fail(l.job_id, l.token, retry => false) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'undo';
SELECT pg_temp.until(:f, 'failed');
SELECT job_retry(:f);
INSERT INTO keys (key) SELECT key FROM job_claim('undo');
SELECT job_fail(l.job_id, l.token, retry => false) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'undo';
SELECT pg_temp.until(:f, 'failed');
SELECT n, regexp_replace(key, '^\d+-[0-9a-f]+-', '') AS generation FROM keys ORDER BY n;

-- Stuck: nothing behind it begins, job_retry goes on, job_decide says what a person did.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [
    {"name": "a", "kind": "act", "undo": {"kind": "undo"}}, {"name": "b", "kind": "act", "depends_on": ["a"], "undo": {"kind": "undo"}},
    {"name": "c", "kind": "act", "depends_on": ["b"], "undo": {"kind": "undo"}}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 3) \gexec
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.work('fail');
SELECT pg_temp.until(:u, 'failed');
SELECT * FROM pg_temp.members(:u);
SELECT job_retry(:u);
SELECT pg_temp.work();
SELECT pg_temp.work('fail');
SELECT pg_temp.until(:u, 'failed');
SELECT e.reason, regexp_replace(e.hint, '\d+', 'N') AS hint FROM job j, job_explain(j.id) e WHERE j.flow = :u AND j.name = 'b';
SELECT job_retry(id), job_decide(id, 'succeeded', reason => 'done by hand') FROM job_status WHERE flow = :u AND name = 'b';
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');

-- Flows in it are undone as flows; members that were added, too; edges between members of different flows count.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo", "undo": {"kind": "undo"}}, "jobs": [
    {"name": "a", "kind": "act"},
    {"name": "in", "depends_on": ["a"], "jobs": [{"name": "x", "kind": "act"}, {"name": "y", "kind": "act", "depends_on": ["x"]}]},
    {"name": "none", "depends_on": ["in"], "jobs": [{"kind": "act", "undo": null, "if": "$.never"}]},
    {"name": "z", "kind": "act", "depends_on": ["none"], "trigger_rule": "all_done"},
    {"name": "late", "kind": "act", "hold": true}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 3) \gexec
SELECT job_submit('act', queue => 'undo', flow => :f, name => 'added', depends_on => ARRAY[id], undo => '{"kind": "undo"}', priority => 1) > 0 FROM job_status WHERE name = 'x' AND flow > :f;
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT job_undo(:f) AS u \gset
SELECT * FROM pg_temp.members(:u);
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 5) \gexec
SELECT pg_temp.until(:u, 'succeeded');
SELECT m.* FROM job_status s, pg_temp.members(s.id) m WHERE s.flow = :u AND s.name = 'in';

-- One that was undone before the flow around it is waited for; one whose flow is undone is not undone again.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo", "undo": {"kind": "undo"}}, "jobs": [
    {"name": "a", "kind": "act"}, {"name": "in", "depends_on": ["a"], "jobs": [{"name": "x", "kind": "act"}]}, {"name": "b", "kind": "act", "depends_on": ["in"]}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT id AS sub FROM job_status WHERE flow = :f AND name = 'in' \gset
SELECT pg_temp.until(:sub, 'succeeded');
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :sub));
SELECT pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:sub) AS u1 \gset
SELECT job_undo(:f) AS u2 \gset
SELECT * FROM pg_temp.members(:u2);
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :sub));
-- x is undone before a, and b before in
SELECT pg_temp.work('fail');
SELECT pg_temp.work();
SELECT pg_temp.until(:u2, 'failed');
SELECT * FROM pg_temp.members(:u2);
SELECT job_retry(:u1);
SELECT pg_temp.work();
SELECT pg_temp.until(:u1, 'succeeded');
SELECT job_retry(:u2);
SELECT pg_temp.work();
SELECT pg_temp.until(:u2, 'succeeded');
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [{"name": "in", "jobs": [{"name": "x", "kind": "act", "undo": {"kind": "undo"}}]}]}') AS f \gset
SELECT pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.problem(format('SELECT job_undo(%s)', id)) FROM job_status WHERE flow = :f;
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');

-- Nothing to be undone: a flow that never started, or has nothing.
SELECT job_submit_flow('{"queue": "undo", "hold": true, "jobs": [{"kind": "act", "queue": "undo", "undo": {"kind": "undo"}}]}') AS f \gset
SELECT job_cancel(:f);
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.until(:u, 'succeeded');
SELECT jobs FROM job_flow_status WHERE id = :u;

-- Such a one can still start, by its retry or that of what it depends on, and is undone then.
SELECT job_retry(:f);
SELECT pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT undone_by = :u AS undone FROM job_flow_status WHERE id = :f;
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_submit('act', queue => 'undo') AS j \gset
SELECT job_submit_flow(jsonb_build_object('queue', 'undo', 'depends_on', ARRAY[:j], 'jobs', '[{"name": "a", "kind": "act", "queue": "undo", "undo": {"kind": "undo"}}]'::jsonb)) AS f \gset
SELECT pg_temp.work('fail');
SELECT pg_temp.until(:f, 'upstream_failed');
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_retry(:j);
SELECT pg_temp.work();
SELECT pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');
SELECT * FROM job_check() WHERE job_id > :first;

-- What a name that is made up could be that of
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo", "undo": {"kind": "undo"}}, "jobs": [{"kind": "act"}, {"name": "#1", "kind": "act"}, {"name": "#1.2", "kind": "act"}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 3) \gexec
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT * FROM pg_temp.members(:u);
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 3) \gexec
SELECT pg_temp.until(:u, 'succeeded');

-- What runs, is no flow, or is not there
SELECT job_submit('act', queue => 'undo', run_in => '1 day') AS j \gset
SELECT job_submit_flow('{"queue": "undo", "jobs": [{"name": "a", "kind": "act", "run_in": "1 day"}]}') AS f \gset
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :f));
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :j));
SELECT pg_temp.problem('SELECT job_undo(1000000000)');
SELECT pg_temp.problem('SELECT job_undo(NULL)');
SELECT job_cancel(:f), job_cancel(:j);

-- A worker that gives a job back which is to be cancelled says nothing of the attempt before, which was lost. What that recorded
-- as a step, who repeats it finds.
SELECT job_queue_set('undo', max_lost => 9, backoff => '1 ms');
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [{"name": "a", "kind": "act", "undo": {"kind": "undo"}}]}') AS f \gset
SELECT job_id, token FROM job_claim('undo') \gset
SELECT job_step(:job_id, :token, 'half', '{"done": 1}');
SELECT job_take_back(:job_id);
SELECT pg_temp.until(:job_id, 'ready');
SELECT job_id, token FROM job_claim('undo') \gset
SELECT job_cancel(:job_id);
SELECT job_release(:job_id, :token);
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT c.kind, j.repeats, c.job_id, c.token FROM job_claim('undo') c JOIN job j ON j.id = c.job_id \gset
\echo :kind :repeats
SELECT name, result FROM job_steps(:job_id, :token);
SELECT job_step(:job_id, :token, 'half');
SELECT job_complete(:job_id, :token);
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_queue_reset('undo', 'max_lost'), job_queue_reset('undo', 'backoff');

-- What a copy has taken over is undone with the flow that it is a copy of.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [{"name": "a", "kind": "act", "undo": {"kind": "undo"}}, {"name": "b", "kind": "act", "depends_on": ["a"], "undo": {"kind": "undo"}}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_clone(:f, from_members => '{b}') AS g \gset
SELECT pg_temp.work();
SELECT pg_temp.until(:g, 'succeeded');
SELECT job_undo(:g) AS u \gset
SELECT name, kind FROM job_status WHERE flow = :u;
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_undo(:f) AS u \gset
SELECT name, kind FROM job_status WHERE flow = :u ORDER BY name;
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT pg_temp.until(:u, 'succeeded');

-- What an undo can say, and where
SELECT path, problem FROM job_check_flow('{"undo": {"kind": "u"}, "defaults": {"undo": {"kind": 1}}, "jobs": [
    {"name": "a", "kind": "k", "undo": "u"}, {"name": "b", "kind": "k", "undo": {}}, {"name": "c", "kind": "k", "undo": {"kind": "u", "depends_on": []}},
    {"name": "d", "kind": "k", "undo": {"kind": "u", "args": [1]}}, {"name": "e", "kind": "k", "undo": {"kind": "u", "args": {"x": {"$undo": "all"}, "y": {"$undo": "key", "way": 1}, "z": {"$result": "zz"}, "p": {"$undo": "args", "path": "$.["}}}},
    {"name": "f", "kind": "k", "args": {"x": {"$undo": "args"}}, "undo": {"kind": "u", "max_attempts": 0}}, {"name": "g", "undo": {"kind": "u"}, "jobs": []}, {"name": "h", "kind": "k", "undo": {"kind": "u", "lease": "1 us"}}, {"kind": "k", "undo_of": 1, "repeats": true}]}');
SELECT pg_temp.problem($$SELECT job_submit('act', queue => 'undo', undo => '{"kind": "undo"}')$$);
SELECT pg_temp.problem($$SELECT job_submit_many('[{"kind": "act", "queue": "undo", "undo": {"kind": "undo"}}]')$$);
SELECT job_submit_flow('{"queue": "undo", "jobs": [{"name": "a", "kind": "act", "queue": "undo", "run_in": "1 day"}]}') AS f \gset
SELECT pg_temp.problem(format($$SELECT job_submit('act', queue => 'undo', flow => %s, undo => '{"kind": "undo", "args": {"a": {"$undo": "sum"}}}')$$, :f));
SELECT pg_temp.problem(format($$SELECT job_submit('act', queue => 'undo', flow => %s, args => '{"a": {"$undo": "key"}}')$$, :f));
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');

-- Who may: who has submitted it, or operates on its queue, if they may submit what undoes it.
CREATE ROLE regress_undo;
CREATE ROLE regress_undo_other;
SELECT job_grant('regress_undo', 'undo', 'submit'), job_grant('regress_undo_other', 'undo2', 'submit');
SET ROLE regress_undo;
SELECT job_submit_flow('{"queue": "undo", "jobs": [{"name": "a", "kind": "act", "queue": "undo", "undo": {"kind": "undo", "queue": "undo2"}}]}') AS f \gset
RESET ROLE;
SELECT pg_temp.work();
SELECT pg_temp.until(:f, 'succeeded');
SET ROLE regress_undo_other;
SELECT pg_temp.problem(format('SELECT job_undo(%s)', :f));
SET ROLE regress_undo;
SELECT job_undo(:f);
RESET ROLE;
SELECT job_grant('regress_undo', 'undo2', 'submit');
SET ROLE regress_undo;
SELECT job_undo(:f) > 0;
RESET ROLE;
SELECT queue, submitted_by FROM job_status WHERE flow = (SELECT undone_by FROM job_flow_status WHERE id = :f);
SELECT job_complete(job_id, token) FROM job_claim('undo2');
-- Who undoes what others have submitted does not get to read it, by moving what undoes it to another queue.
SELECT job_grant('regress_undo_other', 'undo3', 'operate'), job_grant('regress_undo_other', 'undo3', 'submit'), job_grant('regress_undo', 'undo3', 'submit');
SET ROLE regress_undo;
SELECT job_submit_flow('{"queue": "undo3", "jobs": [{"name": "a", "kind": "act", "queue": "undo2", "undo": {"kind": "undo"}}]}') AS f \gset
RESET ROLE;
SELECT job_complete(job_id, token, '"secret"') FROM job_claim('undo2');
SELECT pg_temp.until(:f, 'succeeded');
SET ROLE regress_undo_other;
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.problem(format('SELECT job_change(%s, queue => ''undo3'')', id)), job_change(id, priority => 1) FROM job_status WHERE flow = :u;
RESET ROLE;
SELECT job_change(id, queue => 'undo3') FROM job_status WHERE flow = :u;
SELECT args, job_complete(job_id, token) FROM job_claim('undo3');
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_revoke('regress_undo_other', 'undo3', 'operate'), job_revoke('regress_undo_other', 'undo3', 'submit'), job_revoke('regress_undo', 'undo3', 'submit');

-- Who submitted a flow undoes it, also where another has begun to undo a flow in it, which it may not see.
SELECT job_grant('regress_undo_other', 'undo3', 'operate'), job_grant('regress_undo_other', 'undo3', 'submit'), job_grant('regress_undo', 'undo3', 'submit');
SET ROLE regress_undo;
SELECT job_submit_flow('{"queue": "undo3", "jobs": [{"name": "sub", "queue": "undo3", "jobs": [{"name": "a", "kind": "act", "queue": "undo3", "undo": {"kind": "undo"}}]}]}') AS f \gset
RESET ROLE;
SELECT pg_temp.until(id, 'running') FROM job_status WHERE flow = :f;
SELECT job_complete(job_id, token) FROM job_claim('undo3');
SELECT pg_temp.until(:f, 'succeeded');
SET ROLE regress_undo_other;
SELECT job_undo(id) AS inner_undo FROM job_status WHERE flow = :f \gset
RESET ROLE;
SET ROLE regress_undo;
SELECT count(*) FROM job_status WHERE id = :inner_undo;
SELECT job_undo(:f) AS u \gset
RESET ROLE;
SELECT pg_temp.until(id, 'waiting') FROM job_status WHERE flow = :u;
SELECT job_complete(job_id, token) FROM job_claim('undo3');
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_revoke('regress_undo_other', 'undo3', 'operate'), job_revoke('regress_undo_other', 'undo3', 'submit'), job_revoke('regress_undo', 'undo3', 'submit');

-- Kept as long as they are needed: members as long as their flow, that until it is undone.
SELECT job_submit_flow('{"queue": "undo", "defaults": {"queue": "undo"}, "jobs": [{"name": "a", "kind": "act", "undo": {"kind": "undo"}}, {"name": "b", "kind": "act", "depends_on": ["a"]}]}') AS f \gset
SELECT 'SELECT pg_temp.work()' FROM generate_series(1, 2) \gexec
SELECT pg_temp.until(:f, 'succeeded');
SELECT pg_temp.problem(format('SELECT job_delete(%s)', id)) FROM job_status WHERE flow = :f ORDER BY id;
SELECT job_undo(:f) AS u \gset
SELECT pg_temp.problem(format('SELECT job_delete(%s)', :f));
SELECT pg_temp.work('fail');
SELECT pg_temp.until(:u, 'failed');
SELECT pg_temp.problem(format('SELECT job_delete(%s)', :f));
SELECT job_retry(:u);
SELECT pg_temp.work();
SELECT pg_temp.until(:u, 'succeeded');
SELECT job_delete(:f);
SELECT count(job_delete(id)) FROM job_status WHERE flow = :f;
-- in one go
SELECT job_purge('undo', '0') > 0;
SELECT job_purge('undo', '0') >= 0;
SELECT count(*) FROM job_status WHERE queue = 'undo';
SELECT * FROM job_check() WHERE job_id >= :f;
SELECT job_revoke('regress_undo', 'undo', 'submit'), job_revoke('regress_undo', 'undo2', 'submit'), job_revoke('regress_undo_other', 'undo2', 'submit');
DROP ROLE regress_undo, regress_undo_other;
