-- Flows: pauses, permits, how many run at once, draining, undo on failure
\set VERBOSITY terse
\pset null -
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(s.name || ' ' || s.state, ', ' ORDER BY s.id) FROM job_status s WHERE s.flow = members.flow $$;
CREATE FUNCTION pg_temp.explained(of bigint) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT regexp_replace(concat_ws(' | ', e.reason, e.detail, e.hint), '(flow|set\(|job|explain\() ?\d+', '\1 N', 'gi') FROM job_explain(of) e $$;

-- So many at once, by priority, then id; retries and what is released wait their turn again.
SELECT job_submit_flow('{"queue": "fl", "max_running": 2, "defaults": {"queue": "fl", "backoff": "1 ms"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}, {"name": "c", "kind": "k"}, {"name": "d", "kind": "k", "priority": 1}]}') AS f \gset
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT jobs, waiting, ready, paused, permits, max_running FROM job_flow_status WHERE id = :f;
SELECT pg_temp.explained(id) FROM job_status WHERE flow = :f AND name = 'c';
SELECT count(*) FROM job_claim('fl', max_jobs => 9);
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'd' AND queue = 'fl';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT job_fail(l.job_id, l.token, retry_in => '0') FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'a' AND queue = 'fl';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT count(*) FROM job_claim('fl', max_jobs => 9);
SELECT job_release(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'b' AND queue = 'fl';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT * FROM job_check();
-- held, cancelled, decided while they wait, or were let in
SELECT job_hold(id) FROM job_status WHERE flow = :f AND name = 'b';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT job_unhold(id) FROM job_status WHERE flow = :f AND held ORDER BY id;
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT job_cancel(id) FROM job_status WHERE flow = :f AND state = 'ready';
SELECT job_flow_set(:f, max_running => 1);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT job_flow_set(:f, max_running => 0);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT job_complete(job_id, token) FROM job_claim('fl', max_jobs => 9);
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = job_id WHERE queue = 'fl';
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM job_check();

-- Single steps: each takes a permit, which one that has not begun gives back.
SELECT job_submit_flow('{"queue": "fl", "permits": 0, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k", "depends_on": ["a"]}, {"name": "c", "kind": "k", "depends_on": ["a"]}]}') AS f \gset
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT pg_temp.explained(id) FROM job_status WHERE flow = :f AND name = 'a';
SELECT pg_temp.explained(:f);
SELECT job_flow_set(:f, permits => 1);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_hold(id) FROM job_status WHERE flow = :f AND name = 'a';
SELECT pg_temp.settled();
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_unhold(id) FROM job_status WHERE flow = :f AND name = 'a';
SELECT pg_temp.settled();
SELECT job_complete(job_id, token) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_flow_set(:f, permits => 1);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_flow_set(:f, paused => false);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_complete(job_id, token) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.until(:f, 'succeeded');

-- Paused: nothing in it begins, at any depth, also what was ready; what runs goes on.
SELECT job_submit_flow('{"queue": "fl", "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}, {"name": "in", "jobs": [{"name": "x", "kind": "k"}, {"name": "y", "jobs": [{"name": "z", "kind": "k"}]}]}, {"name": "last", "depends_on": ["a"], "jobs": [{"name": "l", "kind": "k"}]}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 4 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$);
SELECT count(*) FROM job_claim('fl');
SELECT job_flow_set(:f, paused => true);
SELECT count(*) FROM job_claim('fl', max_jobs => 9);
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = job_id WHERE queue = 'fl';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT name, state FROM job_status WHERE queue = 'fl' AND name IN ('x', 'z') AND finished_at IS NULL ORDER BY id;
SELECT pg_temp.explained(id) FROM job_status WHERE queue = 'fl' AND name = 'z' AND finished_at IS NULL;
SELECT pg_temp.explained(:f) LIMIT 1;
SELECT * FROM job_check();
SELECT job_flow_set(:f, paused => false);
SELECT pg_temp.comes_true($$(SELECT count(*) = 4 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$);
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.until(:f, 'succeeded');
-- and from the beginning, before it has started, and as it is told to be
SELECT job_submit_flow('{"queue": "fl", "paused": true, "hold": true, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}]}') AS f \gset
SELECT paused, permits, max_running FROM job_flow_status WHERE id = :f;
SELECT job_flow_set(:f, max_running => 3, on_failure => 'drain', permits => 2);
SELECT paused, permits, max_running, on_failure FROM job_flow_status WHERE id = :f;
SELECT job_unhold(:f);
SELECT pg_temp.until(:f, 'running');
SELECT pg_temp.members(:f);
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT pg_temp.problem(format('SELECT job_flow_set(%s, paused => true)', :f));

-- Sub-flows are members as others: one at a time.
SELECT job_submit_flow('{"queue": "fl", "max_running": 1, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "jobs": [{"name": "x", "kind": "k"}, {"name": "x2", "kind": "k"}]}, {"name": "b", "jobs": [{"name": "y", "kind": "k"}]}, {"name": "c", "kind": "k"}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 2 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$), pg_temp.settled(), pg_temp.members(:f);
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$), pg_temp.settled(), pg_temp.members(:f);
SELECT * FROM job_check();
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$), pg_temp.settled(), pg_temp.members(:f);
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.until(:f, 'succeeded');

-- A flow in it that is opened again runs at once, and is counted.
SELECT job_submit_flow('{"queue": "fl", "max_running": 1, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "priority": 1, "jobs": [{"name": "x", "kind": "k"}]}, {"name": "b", "kind": "k"}, {"name": "c", "kind": "k"}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$);
SELECT job_fail(job_id, token, 'no', retry => false) FROM job_claim('fl');
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$), pg_temp.settled(), pg_temp.members(:f);
SELECT job_retry(id) FROM job_status WHERE flow = :f AND name = 'a';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT * FROM job_check();
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.comes_true(format('(SELECT succeeded = 2 AND ready = 1 FROM job_flow_status WHERE id = %s)', :f)), pg_temp.settled(), pg_temp.members(:f);
SELECT * FROM job_check();
-- The whole flow again: what was counted is forgotten.
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');
SELECT job_retry(:f, downstream => true);
SELECT pg_temp.until(:f, 'running'), pg_temp.settled(), pg_temp.members(:f);
SELECT * FROM job_check();
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');

-- A flow takes a permit that it does not give back.
SELECT job_submit_flow('{"queue": "fl", "permits": 1, "defaults": {"queue": "fl"}, "jobs": [{"name": "sub", "jobs": [{"name": "x", "kind": "k"}]}, {"name": "b", "kind": "k"}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$);
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.comes_true(format('(SELECT succeeded = 1 FROM job_flow_status WHERE id = %s)', :f)), pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');

-- A lower limit takes slots away from what has not begun.
SELECT job_submit_flow('{"queue": "fl", "max_running": 3, "permits": 3, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "sub", "jobs": [{"name": "x", "kind": "k", "hold": true}]}, {"name": "b", "kind": "k"}]}') AS f \gset
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_flow_set(:f, max_running => 2);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_flow_set(:f, max_running => 1);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT * FROM job_check();
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');

-- What job_check finds, and repairs
SELECT job_submit_flow('{"queue": "fl", "max_running": 2, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}, {"name": "c", "kind": "k"}]}') AS f \gset
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT count(*) FROM job_claim('fl', max_jobs => 2);
UPDATE job_flow SET running = 1 WHERE job_id = :f;
SELECT invariant, problem, repaired FROM job_check(true);
SELECT job_flow_set(:f);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT running FROM job_flow WHERE job_id = :f;
UPDATE job_lease SET slot = NULL WHERE job_id = (SELECT min(id) FROM job WHERE flow = :f);
UPDATE job_flow SET running = 1 WHERE job_id = :f;
SELECT invariant, regexp_replace(problem, 'member \d+', 'member N') AS problem, repaired FROM job_check(true);
SELECT job_flow_set(:f);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT running FROM job_flow WHERE job_id = :f;
UPDATE job_flow SET max_running = 3 WHERE job_id = :f;
SELECT invariant, problem, repaired FROM job_check(true);
SELECT job_flow_set(:f);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT running FROM job_flow WHERE job_id = :f;
SELECT * FROM job_check();
SELECT job_cancel(:f);
SELECT pg_temp.comes_true($$NOT EXISTS (SELECT FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'fl' AND NOT l.cancel_requested)$$);
SELECT job_fail(l.job_id, l.token, retry => false) FROM job_lease l JOIN job j ON j.id = job_id WHERE j.flow = :f;
SELECT pg_temp.until(:f, 'cancelled');

-- A limit that is set while members run counts them.
SELECT job_submit_flow('{"queue": "fl", "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}, {"name": "c", "kind": "k"}, {"name": "d", "kind": "k"}]}') AS f \gset
SELECT count(*) FROM job_claim('fl', max_jobs => 2);
SELECT job_flow_set(:f, max_running => 3);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT count(*) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT count(*) FROM job_claim('fl', max_jobs => 9);
SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = job_id WHERE queue = 'fl';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT count(job_complete(job_id, token)) FROM job_claim('fl', max_jobs => 9);
SELECT pg_temp.until(:f, 'succeeded');

-- Behind the gate of a queue as well
SELECT job_queue_set('fl_gated', max_running => 1);
SELECT job_submit_flow('{"queue": "fl", "max_running": 2, "defaults": {"queue": "fl_gated"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}, {"name": "c", "kind": "k"}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'fl_gated')$$), pg_temp.settled();
SELECT count(*) FROM job_limited g JOIN job j ON j.id = g.job_id WHERE j.queue = 'fl_gated';
SELECT job_flow_set(:f, paused => true);
SELECT count(*) FROM job_claim('fl_gated', max_jobs => 9);
SELECT pg_temp.settled();
SELECT job_flow_set(:f, paused => false);
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'fl_gated')$$);
SELECT job_complete(job_id, token) FROM job_claim('fl_gated');
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'fl_gated')$$);
SELECT job_complete(job_id, token) FROM job_claim('fl_gated');
SELECT pg_temp.comes_true($$(SELECT count(*) = 1 FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'fl_gated')$$);
SELECT job_complete(job_id, token) FROM job_claim('fl_gated');
SELECT pg_temp.until(:f, 'succeeded');
SELECT * FROM job_check();

-- Drain: nothing new begins, also no other attempt; what runs ends as it does.
SELECT job_submit_flow('{"queue": "fl", "on_failure": "drain", "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}, {"name": "c", "kind": "k"}, {"name": "d", "kind": "k"}, {"name": "e", "kind": "k"}, {"name": "f", "kind": "k", "depends_on": ["b"]}, {"name": "in", "jobs": [{"name": "x", "kind": "k", "priority": 1}, {"name": "y", "kind": "k", "hold": true}]}]}') AS f \gset
SELECT pg_temp.comes_true($$(SELECT count(*) = 6 FROM job_status WHERE queue = 'fl' AND state = 'ready')$$);
SELECT count(*) FROM job_claim('fl', max_jobs => 5);
SELECT job_fail(l.job_id, l.token, 'no', retry => false) FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'a' AND queue = 'fl';
SELECT pg_temp.comes_true($$(SELECT count(*) = 4 FROM job_lease WHERE last)$$), pg_temp.settled(), pg_temp.members(:f);
SELECT pg_temp.explained(:f) LIMIT 1;
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = job_id WHERE name IN ('b', 'x') AND queue = 'fl';
SELECT job_release(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'c' AND queue = 'fl';
SELECT job_fail(l.job_id, l.token, 'again') FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'd' AND queue = 'fl';
SELECT pg_temp.until(:f, 'failed');
SELECT name, state, error FROM job_status WHERE flow = :f OR name IN ('x', 'y') AND queue = 'fl' AND flow > :f ORDER BY id;
SELECT regexp_replace(error, '\d+', 'N') AS error FROM job_status WHERE id = :f;
SELECT * FROM job_check();

-- and its timeout holds on
SELECT job_submit_flow('{"queue": "fl", "on_failure": "drain", "timeout": "1 s", "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k"}]}') AS f \gset
SELECT job_id AS failing, token AS its_token FROM job_claim('fl') \gset
SELECT job_id, token FROM job_claim('fl') \gset
SELECT job_fail(:failing, :its_token, 'no', retry => false);
SELECT pg_temp.comes_true(format('(SELECT cancel_requested FROM job_status WHERE id = %s)', :job_id));
SELECT job_fail(:job_id, :token);
SELECT pg_temp.until(:f, 'failed');
SELECT error FROM job_status WHERE id = :f;
SELECT * FROM job_check();

-- Undone when it has failed, as the role that submitted it
SELECT job_submit_flow('{"queue": "fl", "name": "saga", "on_failure": "undo", "defaults": {"queue": "fl", "undo": {"kind": "undo"}}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k", "depends_on": ["a"]}, {"name": "c", "kind": "k", "depends_on": ["a"]}, {"name": "d", "kind": "k", "depends_on": ["a"]}]}') AS f \gset
SELECT job_complete(job_id, token, '1') FROM job_claim('fl');
SELECT count(*) FROM job_claim('fl', max_jobs => 2);
SELECT job_fail(l.job_id, l.token, 'no', retry => false) FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'b' AND queue = 'fl';
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT undone_by FROM job_flow_status WHERE id = :f;
SELECT job_complete(l.job_id, l.token, '3') FROM job_lease l JOIN job j ON j.id = job_id WHERE name = 'c' AND queue = 'fl';
SELECT pg_temp.until(:f, 'failed');
SELECT undone_by AS u, on_failure FROM job_flow_status WHERE id = :f \gset
\echo :on_failure
SELECT name, state FROM job_status WHERE id = :u;
SELECT pg_temp.members(:u);
SELECT job_complete(job_id, token) FROM job_claim('fl');
SELECT job_complete(job_id, token) FROM job_claim('fl');
SELECT pg_temp.until(:u, 'succeeded');
-- one that cannot be
CREATE ROLE regress_flow_limits;
SELECT job_grant('regress_flow_limits', 'fl', 'submit');
SET ROLE regress_flow_limits;
SELECT job_submit_flow('{"queue": "fl", "on_failure": "undo", "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k", "undo": {"kind": "undo", "queue": "fl_other"}}, {"name": "b", "kind": "k", "depends_on": ["a"]}]}') AS f \gset
RESET ROLE;
SELECT job_complete(job_id, token, '1') FROM job_claim('fl');
SELECT job_fail(job_id, token, 'no', retry => false) FROM job_claim('fl');
SELECT pg_temp.until(:f, 'failed');
SELECT regexp_replace(error, '\d+', 'N') AS error FROM job_status WHERE id = :f;
SELECT job_undo(:f) AS u \gset
SELECT job_complete(job_id, token) FROM job_claim('fl_other');
SELECT pg_temp.until(:u, 'succeeded');
SET ROLE regress_flow_limits;
SELECT pg_temp.problem('SELECT job_flow_set(1, paused => true)');
RESET ROLE;
SELECT job_revoke('regress_flow_limits', 'fl', 'submit');
DROP ROLE regress_flow_limits;

-- As many permits as there can be are not more when one is given back.
SELECT job_submit_flow('{"queue": "fl", "permits": 1, "defaults": {"queue": "fl"}, "jobs": [{"name": "a", "kind": "k"}, {"name": "b", "kind": "k", "manual": true}]}') AS f \gset
SELECT pg_temp.settled(), pg_temp.members(:f);
SELECT job_flow_set(:f, permits => 2147483647);
SELECT job_cancel(id) FROM job_status WHERE flow = :f AND name = 'a';
SELECT pg_temp.settled();
SELECT permits FROM job_flow_status WHERE id = :f;
SELECT job_cancel(:f);
SELECT pg_temp.until(:f, 'cancelled');

-- A claim puts back 10,000 jobs at most and ends; others go on, and none loses what is behind them.
SELECT job_submit_flow(jsonb_build_object('queue', 'fl', 'jobs', (SELECT jsonb_agg('{"kind": "k", "queue": "fl_many"}'::jsonb) FROM generate_series(1, 21000)))) AS f \gset
SELECT job_submit('other', queue => 'fl_many') AS other \gset
BEGIN;
SELECT job_flow_set(:f, paused => true);
SELECT kind FROM job_claim('fl_many', max_jobs => 9);
SELECT count(*) FROM job_waiting WHERE limited_by = :f;
SELECT kind FROM job_claim_flow(:f, max_jobs => 9);
SELECT count(*) FROM job_waiting WHERE limited_by = :f;
SELECT kind FROM job_claim('fl_many', max_jobs => 9);
SELECT count(*) FROM job_waiting WHERE limited_by = :f;
ROLLBACK;
-- by hand, so that the background worker does not come first: what becomes of a claim that waits
UPDATE job_flow SET paused = true WHERE job_id = :f;
BEGIN;
SELECT kind FROM job_claim('fl_many', max_jobs => 9);
SELECT count(*) FROM job_waiting WHERE limited_by = :f;
COMMIT;
CALL job_claim_wait('fl_many', NULL, '60 s') \gset
SELECT :job_id = :other AS is_other;
SELECT count(*) FROM job_waiting WHERE limited_by = :f;
SELECT pg_temp.settled();
SELECT * FROM job_check();
SELECT job_cancel(:f), job_complete(:job_id, :token);
SELECT pg_temp.until(:f, 'cancelled');

-- What cannot be
SELECT path, problem FROM job_check_flow('{"paused": 1, "permits": -1, "max_running": 0, "on_failure": "stop", "jobs": [{"name": "a", "kind": "k", "max_running": 1}, {"name": "b", "permits": 1.5, "max_running": 1e10, "jobs": []}]}');
SELECT job_submit('k', queue => 'fl', run_in => '1 day') AS j \gset
SELECT pg_temp.problem(format('SELECT job_flow_set(%s, paused => true)', :j));
SELECT pg_temp.problem('SELECT job_flow_set(1000000000, paused => true)');
SELECT pg_temp.problem('SELECT job_flow_set(NULL, paused => true)');
SELECT pg_temp.problem('SELECT job_flow_set(1, permits => -1)');
SELECT pg_temp.problem('SELECT job_flow_set(1, max_running => -1)');
SELECT pg_temp.problem('SELECT job_flow_set(1, on_failure => ''stop'')');
SELECT job_cancel(:j);
SELECT * FROM job_check();
