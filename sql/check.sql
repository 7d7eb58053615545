-- job_check: each invariant broken by hand, found, and repaired
\set VERBOSITY terse
SET client_min_messages = warning;
CREATE TEMP TABLE mine (name text PRIMARY KEY, id bigint);
CREATE FUNCTION pg_temp.job(name text, VARIADIC upstream text[] DEFAULT '{}') RETURNS void LANGUAGE sql AS $$
    INSERT INTO mine SELECT name, job_submit(name, queue => 'check', depends_on => (SELECT array_agg(id ORDER BY id) FROM mine m WHERE m.name = ANY (upstream)))
$$;
CREATE FUNCTION pg_temp.id(name text) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT id FROM mine m WHERE m.name = id.name';
-- ids differ: names for them
CREATE FUNCTION pg_temp.mask(said text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    x record;
BEGIN
    FOR x IN SELECT id, name FROM mine ORDER BY id DESC LOOP
        said := regexp_replace(said, format('\m%s\M', x.id), '<' || x.name || '>', 'g');
    END LOOP;
    RETURN regexp_replace(regexp_replace(said, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00', '<time>', 'g'), 'at \d{6,}', 'at <n>');
END $$;
CREATE FUNCTION pg_temp.checked(repair boolean) RETURNS TABLE (invariant text, name text, problem text, repaired boolean) LANGUAGE sql AS $$
    SELECT invariant, (SELECT name FROM mine m WHERE m.id = job_id), pg_temp.mask(problem), repaired FROM job_check(repair) ORDER BY 1, job_id, 3
$$;
-- what is found, whether it is repaired, and what is found then
CREATE FUNCTION pg_temp.both() RETURNS TABLE (invariant text, name text, problem text, repaired boolean) LANGUAGE plpgsql AS $$
DECLARE
    found text := (SELECT string_agg(c::text, ' ') FROM job_check() c);
BEGIN
    RETURN QUERY SELECT * FROM pg_temp.checked(true);
    RETURN QUERY SELECT 'left', c.name, c.problem, c.repaired FROM pg_temp.checked(false) c;
    RETURN QUERY SELECT 'not found before', c.name, '', false FROM mine c WHERE found IS NULL;
END $$;
-- wait until the background worker has counted anew
CREATE PROCEDURE pg_temp.recounted() LANGUAGE plpgsql AS $$
BEGIN
    WHILE EXISTS (SELECT FROM job_recount) LOOP
        PERFORM pg_sleep(0.01);
        COMMIT;
    END LOOP;
END $$;
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
SELECT setval('job_id_seq', greatest(last_value, 100000)) >= 100000 AS large FROM job_id_seq;
-- whatever other tests have left
SELECT * FROM pg_temp.checked(false);

SELECT pg_temp.job('a'), pg_temp.job('b'), pg_temp.job('c', 'a', 'b'), pg_temp.job('d', 'c');
SELECT * FROM pg_temp.checked(false);

-- S1: no state, several, one of a decided job, one of no job
DELETE FROM job_ready WHERE job_id = pg_temp.id('a');
DELETE FROM job_waiting WHERE job_id = pg_temp.id('c');
SELECT * FROM pg_temp.both();
-- whether they were held is not known, so now they are
CALL pg_temp.recounted();
SELECT m.name, s.state, s.held FROM mine m JOIN job_status s USING (id) ORDER BY m.name;
SELECT job_unhold(pg_temp.id('a')), job_unhold(pg_temp.id('c'));
SELECT m.name, s.state, s.held FROM mine m JOIN job_status s USING (id) ORDER BY m.name;
INSERT INTO job_ready SELECT job_id, queue_id, lane, run_at, expires_at, partition_id, affinity_id, flow_id, attempt, failed, lost, priority, slot, nextval('job_id_seq'), now() FROM job_waiting WHERE job_id = pg_temp.id('d');
INSERT INTO job_scheduled SELECT job_id, queue_id, lane, '2999-01-01', expires_at, partition_id, affinity_id, flow_id, attempt, failed, lost, priority, slot FROM job_ready WHERE job_id = pg_temp.id('b');
INSERT INTO job_scheduled SELECT 1000 + nextval('job_id_seq'), queue_id, lane, '2999-01-01', expires_at, partition_id, affinity_id, flow_id, attempt, failed, lost, priority, slot FROM job_ready WHERE job_id = pg_temp.id('b');
SELECT invariant, name, regexp_replace(problem, '\d+', '<n>') AS problem, repaired FROM pg_temp.both();
SELECT m.name, s.state FROM mine m JOIN job_status s USING (id) ORDER BY m.name;
SELECT pg_temp.job('e');
SELECT job_cancel(pg_temp.id('e'));
INSERT INTO job_scheduled SELECT pg_temp.id('e'), queue_id, lane, '2999-01-01', expires_at, partition_id, affinity_id, flow_id, attempt, failed, lost, priority, slot FROM job_waiting WHERE job_id = pg_temp.id('d');
SELECT * FROM pg_temp.both();

-- a manual job waits, whatever it waits for
INSERT INTO mine SELECT 'm', job_submit('m', queue => 'check', manual => true);
INSERT INTO mine SELECT 'n', job_submit('n', queue => 'check', manual => true, hold => true, run_at => '2999-01-01', depends_on => ARRAY[pg_temp.id('a')]);
SELECT * FROM pg_temp.checked(false);
SELECT job_unhold(pg_temp.id('n'));
SELECT * FROM pg_temp.checked(false);
DELETE FROM job_waiting WHERE job_id = pg_temp.id('m') RETURNING open, held, manual;
INSERT INTO job_ready SELECT pg_temp.id('m'), queue_id, lane, run_at, expires_at, partition_id, affinity_id, flow_id, attempt, failed, lost, priority, slot, nextval('job_id_seq'), now() FROM job_waiting WHERE job_id = pg_temp.id('n');
SELECT * FROM pg_temp.both();
CALL pg_temp.recounted();
SELECT open, held, manual FROM job_waiting WHERE job_id = pg_temp.id('m');
UPDATE job_waiting SET manual = false WHERE job_id = pg_temp.id('n');
SELECT * FROM pg_temp.both();
SELECT job_decide(id, 'succeeded') FROM mine WHERE name IN ('m', 'n') ORDER BY id;
SELECT * FROM pg_temp.checked(false);

-- S2: edges and the sequence
UPDATE job_dependency SET require = 4 WHERE downstream = pg_temp.id('d');
INSERT INTO job_dependency VALUES (pg_temp.id('d'), pg_temp.id('d'), 1, 0), (9e15, pg_temp.id('a'), 1, 0);
DELETE FROM job_dependency WHERE (upstream, downstream) = (pg_temp.id('b'), pg_temp.id('c'));
SELECT invariant, name, regexp_replace(problem, '\m9\d+', '<n>') AS problem, repaired FROM pg_temp.both();
SELECT name, (SELECT array_agg((SELECT m.name FROM mine m WHERE m.id = u) ORDER BY u) FROM unnest(depends_on) u) FROM (SELECT m.name, s.depends_on FROM mine m JOIN job_status s USING (id)) s ORDER BY name;
SELECT setval('job_id_seq', 1) AS back;
-- of whatever job it is, since those of other tests become ready, too
SELECT invariant, regexp_replace(problem, '\d+', '<n>') AS problem, repaired FROM pg_temp.both();
SELECT nextval('job_id_seq') > max(id) AS ahead FROM job;
-- a number after which there would be no ids is found, and the sequence stays
BEGIN;
UPDATE job_ready SET position = 9223372036854775807 WHERE job_id = pg_temp.id('a');
SELECT invariant, repaired FROM pg_temp.checked(true);
SELECT nextval('job_id_seq') < 9e15 AS near;
ROLLBACK;
-- counts that no number holds together
BEGIN;
UPDATE job SET generation = 1 WHERE id = pg_temp.id('c');
UPDATE job_waiting SET failed = 2147483647, lost = 1 WHERE job_id = pg_temp.id('c');
SELECT * FROM pg_temp.checked(false) WHERE invariant = 'S4';
ROLLBACK;

-- S3 and S4: attempts
SELECT job_fail(job_id, token, 'once', retry_in => '0') FROM job_claim('check');
SELECT job_fail(job_id, token, 'once', retry_in => '0') FROM job_claim('check');
DELETE FROM job_attempt WHERE job_id = (SELECT min(job_id) FROM job_attempt WHERE job_id IN (SELECT id FROM mine));
UPDATE job_attempt SET attempt = 3, ended_at = started_at - interval '1 h' WHERE job_id IN (SELECT id FROM mine);
INSERT INTO job_attempt VALUES (9e15, 1, now(), now(), 1);
SELECT invariant, name, problem, repaired FROM pg_temp.both();
SELECT m.name, a.attempt, a.outcome, a.error, a.ended_at >= a.started_at AS fits FROM job_attempts a JOIN mine m ON m.id = a.job_id ORDER BY 1, 2;
-- numbers that cannot be become those that are missing
SELECT job_id AS numbered FROM job_attempt WHERE attempt = 2 AND job_id IN (SELECT id FROM mine) \gset
UPDATE job_attempt SET attempt = attempt - 3 WHERE job_id = :numbered;
SELECT invariant, name, problem, repaired FROM pg_temp.both();
SELECT attempt, outcome FROM job_attempts WHERE job_id = :numbered ORDER BY 1;
UPDATE job_ready SET failed = 5 WHERE job_id IN (SELECT id FROM mine);
SELECT invariant, name, problem, repaired FROM pg_temp.both();
-- one that was tried is held, too, if nobody knows better
SELECT id AS tried FROM job_status WHERE attempt > 0 AND state = 'ready' AND id IN (SELECT id FROM mine) \gset
DELETE FROM job_ready WHERE job_id = :tried;
SELECT invariant, name, problem, repaired FROM pg_temp.both();
SELECT state, held, attempt FROM job_status WHERE id = :tried;
SELECT job_unhold(:tried);
SELECT state, held, attempt FROM job_status WHERE id = :tried;

-- S5: what a job says of its end
UPDATE job SET started_at = now(), worker = 'w' WHERE id = pg_temp.id('d');
UPDATE job SET finished_at = NULL, failed = NULL WHERE id = pg_temp.id('e');
SELECT invariant, name, problem, repaired FROM pg_temp.both();
UPDATE job SET result = '1' WHERE id = pg_temp.id('e');
SELECT invariant, name, problem, repaired FROM pg_temp.both();
UPDATE job SET result = NULL WHERE id = pg_temp.id('e');

-- S6: expiry
INSERT INTO mine SELECT 'f', job_submit('f', queue => 'check', expires_at => '2999-01-01', priority => 5);
DELETE FROM job_expiry WHERE job_id = pg_temp.id('f');
SELECT invariant, name, problem, repaired FROM pg_temp.both();

-- S7: leases
SELECT kind FROM job_claim('check');
UPDATE job_lease SET token = 0, deadline = '2999-01-01', period = 0 WHERE job_id = pg_temp.id('f');
SELECT invariant, name, problem, repaired FROM pg_temp.both();
UPDATE job_lease SET token = 7 WHERE job_id = pg_temp.id('f');
SELECT job_complete(pg_temp.id('f'), 7);

-- S8: a state row says what its job says; positions
UPDATE job_ready SET priority = 9, queue_id = 1, lane = 1 WHERE job_id = pg_temp.id('a');
UPDATE job_waiting SET priority = 9 WHERE job_id = pg_temp.id('d');
SELECT invariant, name, problem, repaired FROM pg_temp.both();
SELECT pg_temp.job('g'), pg_temp.job('h');
UPDATE job_ready SET position = pg_temp.id('g') WHERE job_id = pg_temp.id('h');
SELECT invariant, name, problem, repaired FROM pg_temp.both();
-- ready rows that no index finds by job: in another place, in several, and of no job
INSERT INTO mine SELECT name, job_submit(name, queue => 'check') FROM unnest('{p,q,r}'::text[]) name;
UPDATE job_ready SET priority = 9, queue_id = 1, lane = 1 WHERE job_id = pg_temp.id('p');
INSERT INTO job_ready SELECT job_id, 1, 1, run_at, expires_at, partition_id, affinity_id, flow_id, attempt, failed, lost, priority, slot, position, since FROM job_ready WHERE job_id = pg_temp.id('q');
DELETE FROM job WHERE id = pg_temp.id('r');
SELECT invariant, name, problem, repaired FROM pg_temp.both();
CALL pg_temp.recounted();
SELECT m.name, s.state FROM mine m LEFT JOIN job_status s USING (id) WHERE m.name IN ('p', 'q', 'r') ORDER BY 1;
SELECT count(job_cancel(id)) FROM mine WHERE name IN ('p', 'q');
DELETE FROM mine WHERE name IN ('p', 'q', 'r');
UPDATE job_queue SET queue_id = 1 WHERE name = 'check';
SELECT invariant, name, problem, repaired FROM pg_temp.both();
SELECT kind FROM job_claim('check', max_jobs => 10) ORDER BY 1;
SELECT job_release(job_id, token) FROM job_lease WHERE job_id IN (SELECT id FROM mine);

-- D4: counters, their rule, and a job that waits for nothing.  The background worker counts anew.
UPDATE job_waiting SET undecided = undecided + 1 WHERE job_id = pg_temp.id('c');
UPDATE job_waiting SET rule = 2 WHERE job_id = pg_temp.id('d');
SELECT * FROM pg_temp.both();
CALL pg_temp.recounted();
SELECT m.name, undecided, pending, rule FROM job_waiting w JOIN mine m ON m.id = w.job_id ORDER BY 1;
SELECT job_hold(pg_temp.id('g'));
UPDATE job_waiting SET held = false WHERE job_id = pg_temp.id('g');
SELECT * FROM pg_temp.both();
CALL pg_temp.recounted();
SELECT state, held FROM job_status WHERE id = pg_temp.id('g');
SELECT job_unhold(pg_temp.id('g'));
SELECT m.name, s.state FROM mine m JOIN job_status s USING (id) ORDER BY m.name;

-- D1: an outcome without running that its dependencies do not give
SELECT pg_temp.job('i'), pg_temp.job('j', 'i');
DELETE FROM job_waiting WHERE job_id = pg_temp.id('j');
UPDATE job SET outcome = 16, finished_at = now(), attempt = 0, failed = 0, lost = 0 WHERE id = pg_temp.id('j');
SELECT * FROM pg_temp.both();
CALL pg_temp.recounted();
SELECT state FROM job_status WHERE id = pg_temp.id('j');

-- D5: what is still to be done; nobody else sees these rows
BEGIN;
INSERT INTO job_delta SELECT nextval('job_id_seq'), job_id, 9e15, -1, -1, 0, 0, 0, 0, 0 FROM job_waiting WHERE job_id = pg_temp.id('c');
INSERT INTO job_recount VALUES (nextval('job_id_seq'), 9e15);
INSERT INTO job_cancel_request VALUES (nextval('job_id_seq'), 9e15, 0, false);
SELECT * FROM pg_temp.both();
ROLLBACK;
-- of a job that was removed it is dropped when it is due, and right until then
BEGIN;
SELECT job_submit('r', queue => 'check') AS r \gset
SELECT job_cancel(:r);
INSERT INTO job_delta VALUES (nextval('job_id_seq'), :r, :r, -1, -1, 0, 0, 0, 0, 0);
INSERT INTO job_recount VALUES (nextval('job_id_seq'), :r);
INSERT INTO job_cancel_request VALUES (nextval('job_id_seq'), :r, 0, false);
SELECT job_delete(:r);
SELECT * FROM pg_temp.checked(false);
ROLLBACK;

-- W1: members of a flow, and what nothing ends; nobody else sees it
BEGIN;
SELECT job_submit_flow('{"queue": "check", "jobs": [{"kind": "w", "queue": "check"}]}') AS w \gset
INSERT INTO mine VALUES ('w', :w);
INSERT INTO mine SELECT 'member', id FROM job WHERE flow = :w;
UPDATE job_flow SET hurt = 1 WHERE job_id = :w;
SELECT * FROM pg_temp.both();
DELETE FROM job_delta WHERE downstream = :w;
UPDATE job_flow SET open = false WHERE job_id = :w;
SELECT * FROM pg_temp.both();
SELECT undecided, pending, hits, violated, hurt, open FROM job_flow WHERE job_id = :w;
SELECT job_cancel(pg_temp.id('member'));
SELECT * FROM pg_temp.checked(false);
DELETE FROM job_delta WHERE downstream = :w;
UPDATE job_flow SET undecided = 0, pending = 0, hurt = 1 WHERE job_id = :w;
SELECT * FROM pg_temp.both();
SELECT undecided, hurt FROM job_delta WHERE downstream = :w;
ROLLBACK;

-- U2: whose a unique key is, and how long
SELECT job_submit('u', queue => 'check_unique', unique_key => 'k') AS u \gset
INSERT INTO mine VALUES ('u', :u);
UPDATE job_unique SET until = '2999-01-01' WHERE job_id = :u;
SELECT * FROM pg_temp.both();
INSERT INTO job_unique SELECT queue_id, job_id, NULL, 'other' FROM job_unique WHERE job_id = :u;
INSERT INTO job_unique SELECT queue_id, 9e15, NULL, 'none' FROM job_unique WHERE job_id = :u AND unique_key = 'k';
SELECT * FROM pg_temp.both();
SELECT unique_key, until FROM job_unique WHERE job_id = :u;
-- it gets its own again, unless another has it
UPDATE job_unique SET unique_key = 'zz' WHERE job_id = :u;
SELECT * FROM pg_temp.both();
SELECT unique_key, until FROM job_unique WHERE job_id = :u;
UPDATE job_unique SET unique_key = 'zz' WHERE job_id = :u;
INSERT INTO mine SELECT 'v', job_submit('v', queue => 'check_unique', unique_key => 'k');
SELECT * FROM pg_temp.both();
SELECT m.name, u.unique_key FROM job_unique u JOIN mine m ON m.id = u.job_id ORDER BY 1;

-- T1 and T2: when a schedule is due, and what its last job is
SELECT job_schedule('check ' || x, '30 2 1 5 *', '{"kind": "tick"}', 'Europe/Berlin') IS NOT NULL AS made
FROM unnest('{paused,never,had,other,half,ahead,gone}'::text[]) x;
SELECT * FROM pg_temp.checked(false);
UPDATE job_schedule SET paused = true WHERE name = 'check paused';
UPDATE job_schedule SET next_at = NULL WHERE name = 'check never';
UPDATE job_schedule SET last_at = '2999-05-05', last_job = 1, next_at = '2999-05-01 00:30' WHERE name = 'check had';
UPDATE job_schedule SET next_at = '2999-05-05' WHERE name = 'check other';
UPDATE job_schedule SET last_at = '2020-05-05' WHERE name = 'check half';
UPDATE job_schedule SET last_at = '2020-05-05', last_job = 9e15 WHERE name = 'check ahead';
-- that one cannot be read any more is no damage
UPDATE job_schedule SET timezone = 'Mars/Olympus' WHERE name = 'check gone';
SELECT * FROM pg_temp.both();
SELECT name, CASE WHEN next_at > '2900-01-01' THEN next_at::text WHEN next_at > now() THEN 'soon' END AS due, last_at, last_job
FROM job_schedule WHERE name LIKE 'check %' ORDER BY name;
SELECT job_unschedule('check ' || x) FROM unnest('{paused,never,had,other,half,ahead,gone}'::text[]) x;

-- the time grows as the tables do, whatever statistics say; these once led to a join whose time is the square of that
BEGIN;
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'x', 'queue', 'check_many', 'name', 'n' || i,
    'depends_on', CASE WHEN i % 10 = 1 THEN '[]'::jsonb ELSE jsonb_build_array('n' || i - 1) END)) FROM generate_series(1, 60000) i));
SELECT count(*) FROM job_cancel_many(ARRAY(SELECT r.job_id FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'check_many'));
ANALYZE;
SELECT outcome, count(*) FROM job WHERE queue = 'check_many' GROUP BY 1 ORDER BY 1;
SET LOCAL statement_timeout = '60s';
SELECT count(*) FROM job_check();
ROLLBACK;

-- who may ask, and when
CREATE ROLE check_operator;
SELECT job_grant('check_operator', 'check', 'operate');
SET ROLE check_operator;
\set VERBOSITY default
SELECT job_check();
\set VERBOSITY terse
RESET ROLE;
SELECT job_grant('check_operator', '*', 'operate');
UPDATE job_waiting SET priority = 9 WHERE job_id = pg_temp.id('d');
SET ROLE check_operator;
SELECT invariant, repaired FROM job_check();
SELECT invariant, repaired FROM job_check(NULL);
SELECT job_problems();
SELECT job_repair();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT invariant, repaired FROM job_check();
\set VERBOSITY default
SELECT invariant, repaired FROM job_check(true);
\set VERBOSITY terse
ROLLBACK;
BEGIN READ ONLY;
SELECT invariant, repaired FROM job_check(true);
ROLLBACK;
SELECT invariant, repaired FROM job_check(true);
RESET ROLE;
SELECT job_revoke('check_operator', '*', 'operate');
SELECT job_revoke('check_operator', 'check', 'operate');
DROP ROLE check_operator;
SELECT count(*) FROM job_check();
SELECT job_cancel(id) IS NOT NULL AS ended FROM mine ORDER BY name;
