-- job_retry with downstream: what ran after a job runs again, too
\set VERBOSITY terse
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
-- run n jobs of a queue, as they become ready; the result says which attempt it was, args and inputs are told; kind "fail" fails
CREATE PROCEDURE pg_temp.work(q text, n int DEFAULT 1) LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    FOR i IN 1 .. n LOOP
        PERFORM pg_temp.comes_true(format('EXISTS (SELECT FROM job_queue_status WHERE queue = %L AND ready > 0)', q));
        FOR c IN SELECT * FROM job_claim(q) LOOP
            RAISE NOTICE '%', concat_ws(' ', c.kind, nullif(c.args, '{}'), nullif(c.inputs, '{}'));
            IF c.kind = 'fail' THEN
                PERFORM job_fail(c.job_id, c.token, 'no luck', retry => false);
            ELSE
                PERFORM job_complete(c.job_id, c.token, to_jsonb(c.kind || ' ' || c.attempt));
            END IF;
        END LOOP;
        COMMIT;
    END LOOP;
END $$;
-- the jobs of a queue; the key's last part is how often a job was opened again
CREATE FUNCTION pg_temp.jobs(q text) RETURNS TABLE (kind text, state text, attempt int, opened int, result jsonb) LANGUAGE sql AS $$
    SELECT coalesce(s.name, s.kind), s.state, s.attempt, j.generation, s.result FROM job_status s JOIN job j USING (id) WHERE s.queue = q ORDER BY s.id $$;
CREATE FUNCTION pg_temp.id(k text) RETURNS bigint LANGUAGE sql AS $$ SELECT max(id) FROM job_status WHERE coalesce(name, kind) = k AND queue LIKE 'rd\_%' $$;
CREATE FUNCTION pg_temp.retry(k text) RETURNS text LANGUAGE sql AS $$ SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', pg_temp.id(k))) $$;

-- a chain that has succeeded: from its beginning, and from its middle
SELECT count(*) FROM job_submit_many('[{"name": "a", "kind": "a", "queue": "rd_chain"}, {"name": "b", "kind": "b", "queue": "rd_chain", "depends_on": ["a"]}, {"name": "c", "kind": "c", "queue": "rd_chain", "depends_on": ["b"]}]');
SELECT job_id, token, key FROM job_claim('rd_chain') \gset
SELECT job_step(:job_id, :token, 'step', '1');
SELECT job_complete(:job_id, :token, '"a 1"');
CALL pg_temp.work('rd_chain', 2);
SELECT pg_temp.problem(format('SELECT job_retry(%s)', :job_id));
SELECT job_retry(:job_id, downstream => true);
SELECT job_retry(:job_id, downstream => true);
SELECT * FROM pg_temp.jobs('rd_chain');
SELECT job_result(:job_id);
SELECT pg_temp.problem(format('SELECT job_complete(%s, %s)', :job_id, :token));
SELECT attempt, outcome FROM job_attempts WHERE job_id = :job_id;
SELECT * FROM job_check();
SELECT key <> :'key' AS new_key, attempt, job_step(job_id, token, 'step') IS NULL AS no_step, job_complete(job_id, token, '"a 2"') FROM job_claim('rd_chain');
CALL pg_temp.work('rd_chain', 2);
SELECT job_retry(pg_temp.id('b'), true);
SELECT * FROM pg_temp.jobs('rd_chain');
CALL pg_temp.work('rd_chain', 2);
SELECT * FROM pg_temp.jobs('rd_chain');
SELECT attempt, outcome FROM job_attempts WHERE job_id = (SELECT pg_temp.id('c')) ORDER BY attempt;
-- it fails this time: what follows cannot run, and what is opened with it when it is retried runs on
SELECT job_retry(pg_temp.id('a'), true);
SELECT job_fail(job_id, token, 'no luck', retry => false) FROM job_claim('rd_chain');
SELECT * FROM pg_temp.jobs('rd_chain');
SELECT job_retry(pg_temp.id('a'));
SELECT * FROM pg_temp.jobs('rd_chain');
SELECT job_cancel(pg_temp.id('a'));
-- one that was cancelled, and never ran
SELECT job_retry(pg_temp.id('a'), NULL);
SELECT * FROM job_check();

-- what did not run because of others stays, and so does what ran because of that
SELECT count(*) FROM job_submit_many('[{"name": "left", "kind": "left", "queue": "rd_rule", "priority": 1}, {"name": "fail", "kind": "fail", "queue": "rd_rule", "priority": 1}, {"name": "both", "kind": "both", "queue": "rd_rule", "depends_on": ["left", "fail"]},
    {"name": "alarm", "kind": "alarm", "queue": "rd_rule", "depends_on": ["both"], "trigger_rule": "one_failed"}, {"name": "any", "kind": "any", "queue": "rd_rule", "depends_on": ["left", "fail"], "trigger_rule": "all_done"},
    {"name": "never", "kind": "never", "queue": "rd_rule", "depends_on": ["left"], "trigger_rule": "one_failed"}]');
CALL pg_temp.work('rd_rule', 4);
SELECT job_retry(pg_temp.id('left'), true);
SELECT * FROM pg_temp.jobs('rd_rule');
-- unless it becomes something else
SELECT job_fail(job_id, token, 'this time', retry => false) FROM job_claim('rd_rule');
CALL pg_temp.work('rd_rule', 2);
SELECT * FROM pg_temp.jobs('rd_rule');
SELECT job_retry(pg_temp.id('fail'), true);
SELECT * FROM pg_temp.jobs('rd_rule');
SELECT job_complete(job_id, token) FROM job_claim('rd_rule');
SELECT job_retry(pg_temp.id('left'), true);
CALL pg_temp.work('rd_rule', 3);
SELECT * FROM pg_temp.jobs('rd_rule');
-- all that ran after it, by whatever rule; one that cannot run any more did not
SELECT job_retry(pg_temp.id('left'), true), job_retry(pg_temp.id('fail'), true);
SELECT * FROM pg_temp.jobs('rd_rule');
SELECT job_cancel(pg_temp.id('left')), job_cancel(pg_temp.id('fail'));
SELECT * FROM pg_temp.jobs('rd_rule');
SELECT pg_temp.retry('never');
SELECT job_cancel(pg_temp.id('any'));
SELECT * FROM job_check();

-- what has not begun waits again: ready, at a time, held, for somebody, to be tried again, behind a gate; what need not does not
SELECT job_queue_set('rd_gate', max_running => 1);
SELECT job_submit('other', queue => 'rd_gate') AS other \gset
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_claim(''rd_gate''))');
SELECT count(*) FROM job_submit_many('[{"name": "first", "kind": "first", "queue": "rd_wait", "priority": 9}, {"name": "ready", "kind": "ready", "queue": "rd_back", "depends_on": ["first"]},
    {"name": "at", "kind": "at", "queue": "rd_back", "depends_on": ["first"], "run_at": "2100-01-01 UTC"}, {"name": "held", "kind": "held", "queue": "rd_back", "depends_on": ["first"], "hold": true},
    {"name": "asks", "kind": "asks", "queue": "rd_back", "depends_on": ["first"], "manual": true}, {"name": "tried", "kind": "tried", "queue": "rd_back", "depends_on": ["first"], "priority": 1, "max_attempts": 2},
    {"name": "gate", "kind": "gate", "queue": "rd_gate", "depends_on": ["first"]}, {"name": "second", "kind": "second", "queue": "rd_wait", "priority": 8},
    {"name": "either", "kind": "either", "queue": "rd_back", "depends_on": ["first", "second"], "trigger_rule": "one_success"}, {"name": "last", "kind": "last", "queue": "rd_back", "depends_on": ["first", "ready"]},
    {"name": "expires", "kind": "expires", "queue": "rd_back", "depends_on": ["first"], "expires_at": "2100-01-01 UTC"}]');
CALL pg_temp.work('rd_wait', 2);
SELECT job_id, token, key FROM job_claim('rd_back') \gset
SELECT job_fail(:job_id, :token, 'once', retry_in => '1 day');
SELECT kind, state, held, run_at = '2100-01-01 UTC' AS later FROM job_status WHERE queue IN ('rd_back', 'rd_gate') ORDER BY id;
SELECT job_retry(pg_temp.id('first'), true);
SELECT kind, state, held, run_at = '2100-01-01 UTC' AS later, attempt, (SELECT generation FROM job j WHERE j.id = s.id) AS opened FROM job_status s WHERE queue IN ('rd_back', 'rd_gate', 'rd_wait') ORDER BY id;
SELECT * FROM job_check();
CALL pg_temp.work('rd_wait');
SELECT kind, state, held, run_at = '2100-01-01 UTC' AS later FROM job_status WHERE queue IN ('rd_back', 'rd_gate') ORDER BY id;
SELECT kind, attempt, key <> :'key' AS new_key, job_complete(job_id, token) FROM job_claim('rd_back');
SELECT job_decide(pg_temp.id('asks'), 'succeeded', '"by me"');
-- one that was decided by somebody is to be decided again, one that was marked as done runs
SELECT job_decide(pg_temp.id('held'), 'succeeded');
SELECT job_decide(pg_temp.id('at'), 'skipped');
SELECT job_retry(pg_temp.id('first'), true);
SELECT kind, state, held, run_at = '2100-01-01 UTC' AS later, attempt, (SELECT generation FROM job j WHERE j.id = s.id) AS opened FROM job_status s WHERE queue IN ('rd_back', 'rd_gate', 'rd_wait') ORDER BY id;
SELECT * FROM job_check();
-- the one behind the gate is let in
CALL pg_temp.work('rd_wait');
SELECT job_complete(job_id, token) FROM (SELECT l.job_id, l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.kind = 'other') l;
SELECT pg_temp.comes_true(format('(SELECT state = ''ready'' FROM job_status WHERE id = %s)', pg_temp.id('gate')));
-- what runs: refused, and nothing is done
SELECT job_id, token FROM job_claim('rd_gate') \gset
SELECT pg_temp.retry('first');
SELECT state FROM job_status WHERE queue LIKE 'rd\_%' AND kind IN ('first', 'ready') ORDER BY id;
SELECT job_id = pg_temp.id('first') AS first, changed, regexp_replace(problem, '\d+', 'N') AS problem FROM job_retry_many(ARRAY[pg_temp.id('first'), pg_temp.id('second'), pg_temp.id('left'), -1], downstream => true) ORDER BY job_retry_many.job_id;
SELECT kind, state FROM job_status WHERE queue LIKE 'rd\_%' AND kind IN ('first', 'ready', 'second', 'either', 'left') ORDER BY id;
SELECT * FROM job_check();
SELECT job_complete(:job_id, :token);
SELECT job_retry(pg_temp.id('first'), true);
SELECT count(job_cancel(id)) FROM (SELECT id FROM job_status WHERE queue IN ('rd_back', 'rd_gate', 'rd_wait', 'rd_rule') AND finished_at IS NULL ORDER BY id DESC) j;

-- keys: one that ran does not run beside another with its key; what never ran goes on without
SELECT job_submit('k', name => 'k', queue => 'rd_key') AS k \gset
SELECT job_submit('ran', queue => 'rd_key', unique_key => 'ran', depends_on => ARRAY[:k]) AS ran, job_submit('not', queue => 'rd_key', unique_key => 'not', depends_on => ARRAY[:k], trigger_rule => 'one_failed') AS not_run,
    job_submit('for', queue => 'rd_key', unique_key => 'for', unique_for => '1 day', depends_on => ARRAY[:k]) AS for_long \gset
CALL pg_temp.work('rd_key', 3);
SELECT state FROM job_status WHERE id IN (:ran, :not_run) ORDER BY id;
SELECT job_submit('other ran', queue => 'rd_key', unique_key => 'ran', hold => true) AS other_ran, job_submit('other not', queue => 'rd_key', unique_key => 'not', hold => true) AS other_not \gset
SELECT pg_temp.retry('k');
SELECT * FROM pg_temp.jobs('rd_key');
SELECT job_cancel(:other_ran);
SELECT job_retry(:k, true);
SELECT * FROM pg_temp.jobs('rd_key');
SELECT u.unique_key, j.kind, u.until IS NULL AS undecided FROM job_unique u JOIN job j ON j.id = u.job_id WHERE j.queue = 'rd_key' ORDER BY 1;
SELECT * FROM job_check();
CALL pg_temp.work('rd_key', 3);
SELECT u.unique_key, j.kind, u.until IS NULL AS undecided FROM job_unique u JOIN job j ON j.id = u.job_id WHERE j.queue = 'rd_key' ORDER BY 1;
-- nor beside one with its key that follows, too: they had it one after the other
SELECT job_submit('one', name => 'one', queue => 'rd_key', unique_key => 'turn') AS one \gset
CALL pg_temp.work('rd_key');
SELECT job_submit('two', queue => 'rd_key', unique_key => 'turn', depends_on => ARRAY[:one]) AS two \gset
CALL pg_temp.work('rd_key');
SELECT job_submit('never', queue => 'rd_key', unique_key => 'turn', depends_on => ARRAY[:two], trigger_rule => 'one_failed') AS never \gset
SELECT pg_temp.retry('one');
SELECT job_retry(:two, true);
CALL pg_temp.work('rd_key');
SELECT state FROM job_status WHERE id IN (:one, :two, :never) ORDER BY id;
-- what waits only for the end of another does not follow from it
SELECT job_submit('super', queue => 'rd_key', unique_key => 's') AS s1 \gset
SELECT job_id, token FROM job_claim('rd_key') \gset
SELECT job_submit('superseding', queue => 'rd_key', unique_key => 's', on_conflict => 'cancel') AS s2 \gset
SELECT state FROM job_status WHERE id = :s2;
SELECT job_complete(:job_id, :token);
CALL pg_temp.work('rd_key');
SELECT job_retry(:s1, true);
SELECT kind, state FROM job_status WHERE id IN (:s1, :s2) ORDER BY id;
SELECT job_cancel(:s1);
SELECT * FROM job_check();

-- who may: operate on each job that follows, or on a flow that it is in
CREATE ROLE downstream_operator;
SELECT job_grant('downstream_operator', 'rd_own', 'operate');
SELECT job_submit('own', name => 'own', queue => 'rd_own') AS own \gset
SELECT job_submit('theirs', queue => 'rd_theirs', depends_on => ARRAY[:own]) AS theirs \gset
CALL pg_temp.work('rd_own');
-- a role that may not is not told, either, that one of them runs
SELECT count(*) FROM job_claim('rd_theirs');
SET ROLE downstream_operator;
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', :own));
RESET ROLE;
SELECT job_release(job_id, token) FROM job_lease l WHERE job_id = :theirs;
CALL pg_temp.work('rd_theirs');
SET ROLE downstream_operator;
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', :own));
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', :theirs));
RESET ROLE;
SELECT job_grant('downstream_operator', 'rd_theirs', 'read');
SET ROLE downstream_operator;
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', :own));
SELECT changed, problem FROM job_retry_many(ARRAY[:own], true);
RESET ROLE;
SELECT kind, state FROM job_status WHERE id IN (:own, :theirs) ORDER BY id;
SELECT job_grant('downstream_operator', 'rd_theirs', 'operate');
SET ROLE downstream_operator;
SELECT job_retry(:own, true);
RESET ROLE;
SELECT job_revoke('downstream_operator', 'rd_theirs', 'operate'), job_revoke('downstream_operator', 'rd_theirs', 'read');
SELECT job_submit_flow('{"name": "of own", "queue": "rd_own", "defaults": {"queue": "rd_theirs"}, "jobs": [{"name": "of own 1", "kind": "m", "queue": "rd_own"}, {"name": "of own 2", "kind": "m", "depends_on": ["of own 1"]}]}') AS f \gset
SELECT job_cancel(:own);
CALL pg_temp.work('rd_own');
CALL pg_temp.work('rd_theirs');
SELECT pg_temp.until(:f, 'succeeded');
SET ROLE downstream_operator;
SELECT job_retry(id, true) FROM job_status WHERE flow = :f AND name = 'of own 1';
RESET ROLE;
SELECT name, state FROM job_status WHERE flow = :f OR id = :f ORDER BY id;
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT job_revoke('downstream_operator', 'rd_own', 'operate');
DROP ROLE downstream_operator;

-- a member: the flow around it is opened, though it has succeeded, and what depends on it follows; the others stay
SELECT job_submit_flow('{"name": "flow", "queue": "rd_flows", "defaults": {"queue": "rd_flows"}, "jobs": [{"name": "m1", "kind": "m1", "priority": 1}, {"name": "m2", "kind": "m2", "depends_on": ["m1"], "args": {"r": {"$result": "m1"}}}, {"name": "m3", "kind": "m3", "priority": 2}], "result": {"$result": "m2"}}') AS f \gset
SELECT job_submit('after', queue => 'rd_flows', depends_on => ARRAY[:f]) AS after \gset
CALL pg_temp.work('rd_flows', 4);
SELECT * FROM pg_temp.jobs('rd_flows');
SELECT job_retry(pg_temp.id('m1'), true);
SELECT * FROM pg_temp.jobs('rd_flows');
SELECT * FROM job_check();
CALL pg_temp.work('rd_flows', 3);
SELECT * FROM pg_temp.jobs('rd_flows');
-- while the flow runs; one that is ending is left alone
SELECT job_retry(pg_temp.id('m2'), true);
SELECT job_retry(pg_temp.id('m1'), true);
SELECT * FROM pg_temp.jobs('rd_flows');
SELECT job_id, token FROM job_claim('rd_flows') \gset
SELECT job_cancel(:f);
SELECT pg_temp.comes_true(format('(SELECT stopping > 0 FROM job_flow WHERE job_id = %s)', :f));
SELECT pg_temp.retry('m3');
SELECT job_fail(:job_id, :token);
SELECT pg_temp.until(:f, 'cancelled');
SELECT * FROM pg_temp.jobs('rd_flows');
SELECT job_retry(pg_temp.id('m3'), true);
SELECT * FROM pg_temp.jobs('rd_flows');
CALL pg_temp.work('rd_flows');
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM pg_temp.jobs('rd_flows');
SELECT * FROM job_check();

-- the whole of it begins anew: with other members, by its args as they are now
SELECT job_retry(:f, true), job_retry(:f, true);
SELECT pg_temp.until(:f, 'running');
SELECT name, state, attempt FROM job_status WHERE flow = :f ORDER BY id;
SELECT name, state, flow FROM job_status WHERE queue = 'rd_flows' AND name LIKE 'm_' AND flow IS NULL ORDER BY id;
SELECT pg_temp.problem(format('SELECT job_retry(%s, %L)', id, d)) FROM job_status, unnest('{true,false}'::boolean[]) d WHERE queue = 'rd_flows' AND name = 'm2' AND flow IS NULL;
SELECT replace(detail, finished_at::text, '<time>') AS detail, regexp_replace(hint, '\d+', 'N') AS hint FROM job_status s, job_explain(s.id) WHERE queue = 'rd_flows' AND name = 'm2' AND flow IS NULL;
CALL pg_temp.work('rd_flows', 3);
SELECT pg_temp.until(:f, 'succeeded'), job_result(:f);
SELECT * FROM job_check();
-- from what comes before it, with a flow in it whose args say other things then: a condition, a step that adds members
SELECT job_submit_flow('{"name": "outer", "queue": "rd_deep", "defaults": {"queue": "rd_deep"}, "jobs": [{"name": "list", "kind": "list"}, {"name": "inner", "depends_on": ["list"], "args": {"n": {"$result": "list"}}, "jobs": [
    {"name": "one", "kind": "one", "if": "$.n > 0", "args": {"n": {"$args": "$.n"}}}, {"name": "two", "kind": "two", "if": "$.n > 1", "depends_on": ["one"]}, {"name": "deeper", "depends_on": ["one"], "jobs": [{"name": "leaf", "kind": "leaf"}]}], "result": {"$result": "one"}},
    {"name": "end", "kind": "end", "depends_on": ["inner"]}]}') AS f \gset
SELECT job_complete(job_id, token, '2') FROM job_claim('rd_deep');
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_status WHERE queue LIKE ''rd\_%'' AND name = ''one'' AND state = ''ready'')');
SELECT job_id, token, flow, args FROM job_claim('rd_deep') \gset
SELECT job_submit('added', queue => 'rd_deep', flow => :flow, name => 'added', depends_on => ARRAY[:job_id]) > 0 AS added, job_complete(:job_id, :token, '"one"');
CALL pg_temp.work('rd_deep', 4);
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM pg_temp.jobs('rd_deep');
SELECT job_retry(pg_temp.id('list'), true);
SELECT name, state, jobs FROM job_flow_status WHERE id IN (:f, (SELECT pg_temp.id('inner'))) ORDER BY id;
SELECT name, state FROM job_status WHERE flow = :f ORDER BY id;
SELECT * FROM job_check();
SELECT job_complete(job_id, token, '1') FROM job_claim('rd_deep');
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_status WHERE queue LIKE ''rd\_%'' AND name = ''one'' AND state = ''ready'')');
SELECT job_id, token, flow, args FROM job_claim('rd_deep') \gset
\echo :args
SELECT job_submit('added', queue => 'rd_deep', flow => :flow, name => 'added', depends_on => ARRAY[:job_id]) > 0 AS added, job_complete(:job_id, :token, '"one"');
SELECT name, CASE WHEN state = 'scheduled' THEN 'running' ELSE state END AS state, depends_on = ARRAY[:job_id]::bigint[] AS on_one FROM job_status WHERE flow = :flow ORDER BY id;
CALL pg_temp.work('rd_deep', 3);
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, count(*), count(flow) AS of_a_flow FROM job_status WHERE queue = 'rd_deep' GROUP BY name ORDER BY min(id);
-- members of one that was a member are not opened either, nor what they are in
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', min(id))) FROM job_status WHERE queue LIKE 'rd\_%' AND name = 'leaf';
-- the list fails this time: the flow has no members
SELECT job_retry(pg_temp.id('list'), true);
SELECT job_fail(job_id, token, 'no list', retry => false) FROM job_claim('rd_deep');
SELECT pg_temp.until(:f, 'failed');
SELECT name, state, jobs FROM job_flow_status WHERE id IN (:f, (SELECT pg_temp.id('inner'))) ORDER BY id;
SELECT job_retry(pg_temp.id('list'));
SELECT job_complete(job_id, token, '1') FROM job_claim('rd_deep');
CALL pg_temp.work('rd_deep', 3);
SELECT pg_temp.until(:f, 'succeeded');
-- a member of a flow in it; a flow in it
SELECT job_retry(pg_temp.id('leaf'), true);
SELECT name, state FROM job_status WHERE queue = 'rd_deep' AND (flow IS NOT NULL OR name = 'outer') ORDER BY id;
CALL pg_temp.work('rd_deep', 2);
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_retry(pg_temp.id('inner'), true);
CALL pg_temp.work('rd_deep', 3);
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM job_check();
-- it is refused where it would leave a job outside behind
SELECT job_submit('outside', queue => 'rd_outside', depends_on => ARRAY[pg_temp.id('leaf')]) AS outside \gset
CALL pg_temp.work('rd_outside');
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', pg_temp.id(n))) FROM unnest('{outer,inner,list}'::text[]) n;
SELECT job_retry(pg_temp.id('leaf'), true);
SELECT name, state FROM job_status WHERE queue IN ('rd_deep', 'rd_outside') AND (flow IS NOT NULL OR id = :outside OR name = 'outer') ORDER BY id;
CALL pg_temp.work('rd_deep', 2);
CALL pg_temp.work('rd_outside');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_delete(:outside);
SELECT job_retry(:f, true);
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_status WHERE queue LIKE ''rd\_%'' AND name = ''list'' AND state = ''ready'')');
SELECT job_complete(job_id, token, '0') FROM job_claim('rd_deep');
CALL pg_temp.work('rd_deep');
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, state FROM job_status WHERE flow IN (:f, (SELECT pg_temp.id('inner'))) ORDER BY id;
-- a job outside that a member depends on, by its id: the flow around is opened, or begins anew
SELECT job_submit('source', name => 'source', queue => 'rd_source') AS source \gset
SELECT job_submit_flow(format('{"name": "uses", "queue": "rd_source", "jobs": [{"name": "u1", "kind": "u1", "queue": "rd_source", "depends_on": [%s]}, {"name": "u2", "kind": "u2", "queue": "rd_source"}]}', :source)::jsonb) AS f \gset
SELECT job_submit('after uses', queue => 'rd_source', depends_on => ARRAY[:f]) AS after \gset
SELECT job_submit_flow(format('{"name": "waits", "queue": "rd_source", "depends_on": [%s], "jobs": [{"name": "w", "kind": "w", "queue": "rd_source"}]}', :f)::jsonb) AS w \gset
CALL pg_temp.work('rd_source', 5);
SELECT pg_temp.until(:w, 'succeeded');
SELECT job_retry(:source, true);
SELECT name, state FROM job_status WHERE queue = 'rd_source' ORDER BY id;
SELECT * FROM job_check();
CALL pg_temp.work('rd_source', 4);
SELECT pg_temp.until(:w, 'succeeded');
-- a flow that runs, and follows
SELECT job_retry(:w, true);
SELECT pg_temp.until(:w, 'running');
SELECT pg_temp.retry('source');
CALL pg_temp.work('rd_source');
SELECT pg_temp.until(:w, 'succeeded');
-- one that was held before it starts again, with a key of its own, and members with keys
SELECT job_submit_flow('{"name": "keyed", "unique_key": "f", "unique_for": "1 day", "queue": "rd_keyed", "jobs": [{"name": "k1", "kind": "k1", "queue": "rd_keyed", "unique_key": "k1", "unique_for": "1 day"}]}') AS f \gset
CALL pg_temp.work('rd_keyed');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_retry(:f, true);
SELECT pg_temp.until(:f, 'running');
SELECT name, state, flow IS NULL AS former FROM job_status WHERE queue LIKE 'rd\_%' AND name = 'k1' ORDER BY id;
CALL pg_temp.work('rd_keyed');
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM job_check();
-- what was removed meanwhile
SELECT job_delete(min(id)) FROM job_status WHERE queue LIKE 'rd\_%' AND name = 'k1';
SELECT job_retry(:f, true);
CALL pg_temp.work('rd_keyed');
SELECT pg_temp.until(:f, 'succeeded');
CALL pg_temp.work('rd_chain');
SELECT pg_temp.problem(format('SELECT job_delete(%s)', pg_temp.id('a')));
CALL pg_temp.work('rd_chain', 2);
SELECT job_delete(pg_temp.id('a'));
SELECT job_retry(pg_temp.id('b'), true);
SELECT * FROM pg_temp.jobs('rd_chain');
-- a job outside that members depend on was removed: it has succeeded, for each rule, for the flow that begins anew and one in it
SELECT job_submit('gone', name => 'gone', queue => 'rd_gone') AS gone \gset
CALL pg_temp.work('rd_gone');
SELECT job_submit_flow(replace('{"name": "uses gone", "queue": "rd_gone", "unique_key": "uses gone", "defaults": {"queue": "rd_gone"}, "jobs": [{"name": "g1", "kind": "g1", "depends_on": [GONE]},
    {"name": "g2", "kind": "g2", "depends_on": [GONE], "trigger_rule": "all_failed"}, {"name": "g3", "kind": "g3", "depends_on": [GONE, "g1"], "trigger_rule": "quorum", "quorum": 2},
    {"name": "g4", "kind": "g4", "depends_on": [GONE], "when": {"GONE": "$ == 1"}}, {"name": "g5", "kind": "g5", "depends_on": [GONE, "g2"], "trigger_rule": "one_success"},
    {"name": "inner gone", "jobs": [{"name": "g6", "kind": "g6", "depends_on": [GONE]}]}]}', 'GONE', :'gone')::jsonb) AS f \gset
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_status WHERE name = ''g6'' AND state = ''ready'')');
CALL pg_temp.work('rd_gone', 4);
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, state FROM job_status WHERE flow = :f ORDER BY id;
SELECT job_delete(:gone);
SELECT job_retry(:f, true);
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_status WHERE name = ''g6'' AND state = ''ready'')');
SELECT s.name, s.state, (SELECT array_agg(p.name) FROM job_status p WHERE p.id = ANY (s.depends_on)) AS depends_on, j.dependencies FROM job_status s JOIN job j USING (id) WHERE s.flow = :f ORDER BY s.id;
SELECT * FROM job_check();
CALL pg_temp.work('rd_gone', 5);
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_retry(pg_temp.id('g1'), true);
CALL pg_temp.work('rd_gone', 2);
SELECT pg_temp.until(:f, 'succeeded');
SELECT name, state, attempt FROM job_status WHERE flow = :f ORDER BY id;
SELECT * FROM job_check();
-- it is not known where the flow got another document since
BEGIN;
SELECT job_retry(:f, true);
SELECT job_submit_flow(format('{"name": "uses gone", "queue": "rd_gone", "unique_key": "uses gone", "on_conflict": "replace", "jobs": [{"name": "g1", "kind": "g1", "depends_on": [%s]}]}', :gone)::jsonb) = :f AS the_same;
COMMIT;
SELECT pg_temp.until(:f, 'failed');
SELECT regexp_replace(error, '\d+', 'N') AS error FROM job_status WHERE id = :f;
-- permits that are used up stay so: nothing begins before there are others
SELECT job_submit_flow('{"name": "steps", "queue": "rd_steps", "permits": 2, "defaults": {"queue": "rd_steps"}, "jobs": [{"name": "p1", "kind": "p1"}, {"name": "p2", "kind": "p2"}]}') AS f \gset
CALL pg_temp.work('rd_steps', 2);
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_retry(:f, true);
SELECT pg_temp.until(:f, 'running');
SELECT pg_temp.comes_true('NOT EXISTS (SELECT FROM job_delta)');
SELECT state, permits, jobs, ready FROM job_flow_status WHERE id = :f;
SELECT regexp_replace(detail, '\d+', 'N') AS detail FROM job_explain(pg_temp.id('p1')) WHERE reason = 'flow';
SELECT job_flow_set(:f, permits => 1);
CALL pg_temp.work('rd_steps');
SELECT pg_temp.comes_true('NOT EXISTS (SELECT FROM job_delta)');
SELECT state, permits, jobs, ready, succeeded FROM job_flow_status WHERE id = :f;
-- or given in the transaction of the retry
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
BEGIN;
SELECT job_retry(:f, true);
SELECT job_flow_set(:f, permits => 2);
COMMIT;
CALL pg_temp.work('rd_steps', 2);
SELECT pg_temp.until(:f, 'succeeded');
SELECT permits FROM job_flow_status WHERE id = :f;
-- where jobs of a partition run one after the other: one that waits again gives up its turn
SELECT job_queue_set('rd_turns', ordered => true);
SELECT count(*) FROM job_submit_many('[{"name": "t1", "kind": "t1", "queue": "rd_turns", "partition": "p"}, {"name": "t2", "kind": "t2", "queue": "rd_turns", "partition": "p", "depends_on": ["t1"]}, {"name": "t3", "kind": "t3", "queue": "rd_turns", "partition": "p", "depends_on": ["t2"]}]');
CALL pg_temp.work('rd_turns', 2);
SELECT pg_temp.comes_true('EXISTS (SELECT FROM job_queue_status WHERE queue = ''rd_turns'' AND ready = 1)');
SELECT job_fail(job_id, token, 'once', retry_in => '1 hour') FROM job_claim('rd_turns');
SELECT job_retry(pg_temp.id('t1'), true);
CALL pg_temp.work('rd_turns', 3);
SELECT * FROM pg_temp.jobs('rd_turns');
SELECT job_retry(pg_temp.id('t1'), true);
CALL pg_temp.work('rd_turns', 3);
SELECT * FROM pg_temp.jobs('rd_turns');
-- what has an undo: it keeps its key, so that it is undone once, whatever became of it; the flow does not begin anew before that
SELECT job_submit_flow('{"name": "saga", "queue": "rd_saga", "defaults": {"queue": "rd_saga"}, "jobs": [{"name": "before", "kind": "before"}, {"name": "effect", "kind": "effect", "depends_on": ["before"], "undo": {"kind": "undo effect"}},
    {"name": "within", "depends_on": ["effect"], "jobs": [{"name": "inner effect", "kind": "inner effect", "undo": {"kind": "undo inner"}}]}]}') AS f \gset
CALL pg_temp.work('rd_saga');
SELECT job_id, key, job_complete(job_id, token, '"made"') FROM job_claim('rd_saga') \gset
CALL pg_temp.work('rd_saga');
SELECT pg_temp.until(:f, 'succeeded');
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', id)) FROM job_status WHERE id IN (:f, (SELECT pg_temp.id('within')), (SELECT pg_temp.id('before'))) ORDER BY id;
SELECT job_submit_flow('{"name": "saga", "queue": "rd_saga", "defaults": {"queue": "rd_saga"}, "jobs": [{"name": "before 2", "kind": "before"}, {"name": "effect 2", "kind": "effect", "depends_on": ["before 2"], "undo": {"kind": "undo effect"}}]}') AS f \gset
CALL pg_temp.work('rd_saga');
SELECT job_id, token, key FROM job_claim('rd_saga') \gset
SELECT job_complete(:job_id, :token, '"made"');
SELECT pg_temp.until(:f, 'succeeded');
SELECT job_retry(pg_temp.id('before 2'), true);
CALL pg_temp.work('rd_saga');
SELECT key = :'key' AS the_same, attempt, job_release(job_id, token) FROM job_claim('rd_saga');
SELECT job_retry(pg_temp.id('before 2'), true);
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', :f));
SELECT job_undo(:f) AS undo \gset
SELECT kind, key = :'key' AS the_same, job_complete(job_id, token, '"made"') FROM job_claim('rd_saga');
SELECT kind, key = :'key' AS the_same, args -> 'result' AS result, job_complete(job_id, token) FROM job_claim('rd_saga');
SELECT pg_temp.until(:undo, 'succeeded');
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', id)) FROM job_status WHERE id IN (:f, (SELECT pg_temp.id('before 2')), :undo) ORDER BY id;
SELECT pg_temp.problem(format('SELECT job_retry(%s, true)', -1));
SELECT pg_temp.problem('SELECT job_retry(NULL, true)');
SELECT * FROM job_check();
