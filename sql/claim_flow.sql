-- job_claim_flow: what is ready inside a flow, whatever its queues
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on

CREATE TEMP VIEW mine AS SELECT * FROM job WHERE queue LIKE 'cf-%';
-- wait until something is true; the background worker folds and starts flows
CREATE PROCEDURE pg_temp.until(condition text) LANGUAGE plpgsql AS $$
DECLARE
    held boolean;
BEGIN
    FOR i IN 1 .. 6000 LOOP
        EXECUTE 'SELECT ' || condition INTO held;
        EXIT WHEN held;
        PERFORM pg_sleep(0.01);
    END LOOP;
    IF NOT held THEN
        RAISE 'never: %', condition;
    END IF;
END $$;
-- the error of a query
CREATE FUNCTION pg_temp.error_of(query text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE query;
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN
    RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, '\mjob \d+', 'job N');
END $$;
-- end all that runs
CREATE FUNCTION pg_temp.complete() RETURNS bigint LANGUAGE sql AS $$ SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN mine j ON j.id = l.job_id $$;

-- by priority, then position, over all queues and flows in it; nothing of others
SELECT job_submit('outside', queue => 'cf-a', priority => 100) > 0;
SELECT job_submit_flow('{"queue": "cf-f", "jobs": [{"kind": "of another flow", "queue": "cf-a", "priority": 100}]}') > 0;
SELECT job_submit_flow('{"name": "f", "queue": "cf-f", "args": {"x": 1}, "jobs": [
    {"name": "one", "kind": "one", "queue": "cf-a", "args": {"x": {"$args": "$.x"}}},
    {"name": "two", "kind": "two", "queue": "cf-b", "priority": 1},
    {"name": "sub", "queue": "cf-f", "jobs": [
        {"name": "in sub", "kind": "in sub", "queue": "cf-b", "priority": 2},
        {"name": "subsub", "queue": "cf-f", "depends_on": ["in sub"], "jobs": [{"kind": "in subsub", "queue": "cf-c", "args": {"of": {"$result": "in sub"}}}]}]},
    {"name": "three", "kind": "three", "queue": "cf-a"},
    {"name": "after", "kind": "after", "queue": "cf-a", "priority": 9, "depends_on": ["one"]},
    {"name": "left out", "kind": "left out", "queue": "cf-a", "if": "$.x == 2"},
    {"name": "held", "kind": "held", "queue": "cf-a", "priority": 9, "hold": true},
    {"name": "manual", "kind": "manual", "queue": "cf-a", "priority": 9, "manual": true},
    {"name": "later", "kind": "later", "queue": "cf-a", "priority": 9, "run_in": "1 day"}]}') AS f \gset
CALL pg_temp.until('EXISTS (SELECT FROM mine WHERE kind = ''in sub'')');
SELECT kind FROM job_claim_flow(:f);
SELECT kind, attempt, args, flow = :f, token > 0, lease_until > now() + '59 s' FROM job_claim_flow(:f, 'w', 3);
SELECT kind FROM job_claim_flow(:f, max_jobs => 9);
SELECT s.kind, s.state, s.worker FROM job_status s WHERE s.queue LIKE 'cf-%' AND kind <> 'flow' ORDER BY s.kind;
-- one that comes back is the last of its priority
SELECT count(job_release(l.job_id, l.token)) FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.kind = 'one';
SELECT job_change(id, priority => 5) FROM mine WHERE kind = 'one';
SELECT kind, attempt FROM job_claim_flow(:f);
SELECT job_complete(l.job_id, l.token, '{"r": 1}') FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.kind = 'one';
SELECT job_complete(l.job_id, l.token, '[2]') FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.kind = 'in sub';
CALL pg_temp.until('EXISTS (SELECT FROM mine WHERE kind = ''in subsub'')');
SELECT kind, args, inputs, flow = (SELECT id FROM mine WHERE name = 'subsub') FROM job_claim_flow(:f, max_jobs => 9);
-- those of a flow inside
SELECT id AS sub FROM mine WHERE name = 'sub' \gset
SELECT count(job_release(l.job_id, l.token)) FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.kind IN ('after', 'in subsub', 'three');
SELECT kind FROM job_claim_flow(:sub, max_jobs => 9);
SELECT kind FROM job_claim_flow(:f, max_jobs => 9);

-- what it took, others do not get; what it passed over, they do
SELECT kind FROM job_claim('{cf-a,cf-b,cf-c}'::text[], max_jobs => 9);

-- one that waits to start, one that is decided
SELECT job_submit_flow('{"name": "waits", "queue": "cf-f", "hold": true, "jobs": [{"kind": "k", "queue": "cf-a"}]}') AS waits \gset
SELECT kind FROM job_claim_flow(:waits);
SELECT job_cancel(:waits);
SELECT kind FROM job_claim_flow(:waits);
SELECT pg_temp.complete();
SELECT job_cancel(:f);
CALL pg_temp.until('(SELECT outcome FROM mine WHERE name = ''f'') = 8');
SELECT kind FROM job_claim_flow(:f, max_jobs => 9);

-- what a queue keeps back
SELECT job_queue_set('cf-paused', paused => true);
SELECT job_submit_flow('{"name": "p", "queue": "cf-f", "jobs": [{"kind": "paused", "queue": "cf-paused", "priority": 3}, {"kind": "open", "queue": "cf-a"},
    {"kind": "expired", "queue": "cf-a", "priority": 2}]}') AS p \gset
UPDATE job_ready SET expires_at = '2001-01-01' WHERE job_id = (SELECT id FROM mine WHERE kind = 'expired');
SELECT kind FROM job_claim_flow(:p, max_jobs => 9);
SELECT job_queue_set('cf-paused', paused => false);
SELECT kind FROM job_claim_flow(:p, max_jobs => 9);
-- a worker that drains
SELECT count(job_release(l.job_id, l.token)) FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.flow = :p;
SELECT job_worker_register('cf w');
SELECT job_worker_drain('cf w');
SELECT kind FROM job_claim_flow(:p, 'cf w', max_jobs => 9);
SELECT job_worker_unregister('cf w');
SELECT kind FROM job_claim_flow(:p, 'cf w', max_jobs => 9);
SELECT pg_temp.complete();

-- labels
SELECT job_submit_flow('{"name": "l", "queue": "cf-f", "defaults": {"queue": "cf-l"}, "jobs": [{"kind": "none"}, {"kind": "gpu", "requires": ["gpu"]}, {"kind": "both", "requires": ["gpu", "big"]}]}') AS l \gset
SELECT kind FROM job_claim_flow(:l, max_jobs => 9);
SELECT kind FROM job_claim_flow(:l, max_jobs => 9, labels => '{gpu,other}');
SELECT kind FROM job_claim_flow(:l, max_jobs => 9, labels => '{big,gpu}');
SELECT labels FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.flow = :l ORDER BY j.id;
SELECT pg_temp.complete();

-- behind a gate: what was let in, and nothing that is still to go back
SELECT job_queue_set('cf-g', max_running => 1);
SELECT job_submit_flow('{"name": "g", "queue": "cf-f", "defaults": {"queue": "cf-g"}, "jobs": [{"kind": "g1"}, {"kind": "g2"}, {"kind": "g3", "priority": 1}]}') AS g \gset
CALL pg_temp.until('(SELECT count(*) = 1 FROM job_ready r JOIN mine j ON j.id = r.job_id WHERE j.queue = ''cf-g'')');
SELECT kind FROM job_claim_flow(:g, max_jobs => 9);
SELECT kind FROM job_claim_flow(:g, max_jobs => 9);
SELECT pg_temp.complete();
CALL pg_temp.until('(SELECT count(*) = 1 FROM job_ready r JOIN mine j ON j.id = r.job_id WHERE j.queue = ''cf-g'')');
BEGIN;
-- its lane is another now
SELECT job_queue_set('cf-g', max_running => 2);
SELECT kind FROM job_claim_flow(:g, max_jobs => 9);
ROLLBACK;
SELECT kind FROM job_claim_flow(:g, max_jobs => 9);
SELECT job_queue_reset('cf-g');
SELECT pg_temp.complete();
CALL pg_temp.until('EXISTS (SELECT FROM job_ready r JOIN mine j ON j.id = r.job_id WHERE j.queue = ''cf-g'')');
SELECT kind FROM job_claim_flow(:g, max_jobs => 9);
SELECT pg_temp.complete();

-- a job that is kept for another worker
SELECT job_queue_set('cf-k', affinity_wait => '1 h');
SELECT job_submit('first', queue => 'cf-k', affinity => 'a') > 0;
SELECT job_complete(job_id, token) FROM job_claim('cf-k', 'cf keeper');
SELECT job_submit_flow('{"name": "k", "queue": "cf-f", "jobs": [{"kind": "kept", "queue": "cf-k", "affinity": "a"}]}') AS k \gset
SELECT count(*) FROM job_kept k JOIN mine j ON j.id = k.job_id WHERE j.kind = 'kept';
SELECT kind FROM job_claim('cf-k', 'cf other');
SELECT kind FROM job_claim_flow(:k, 'cf other');
SELECT pg_temp.complete();

-- within a transaction: what it has made ready itself, and what it gives back
BEGIN;
SELECT job_submit_flow('{"name": "t", "queue": "cf-f", "defaults": {"queue": "cf-a"}, "jobs": [{"name": "a", "kind": "t1"}, {"kind": "t2", "depends_on": ["a"]}]}') AS t \gset
SELECT kind, job_id, token FROM job_claim_flow(:t) \gset
\echo :kind
SELECT job_complete(:job_id, :token);
SAVEPOINT s;
SELECT kind FROM job_claim_flow(:t, max_jobs => 9);
ROLLBACK TO s;
SELECT kind FROM job_claim_flow(:t, max_jobs => 9);
COMMIT;
SELECT kind FROM job_claim('cf-a');
SELECT pg_temp.complete();
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT job_submit_flow('{"name": "rr", "queue": "cf-f", "jobs": [{"kind": "r1", "queue": "cf-a"}]}') AS rr \gset
SELECT kind FROM job_claim_flow(:rr);
COMMIT;
SELECT pg_temp.complete();

-- not more than jobq.max_claim_size; with a lease; of a session
SELECT job_submit_flow(jsonb_build_object('name', 's', 'queue', 'cf-f', 'defaults', '{"queue": "cf-a", "kind": "large"}'::jsonb,
    'jobs', (SELECT jsonb_agg(jsonb_build_object('args', jsonb_build_object('t', repeat('x', 700)))) FROM generate_series(1, 3)))) AS s \gset
SET jobq.max_claim_size = '2kB';
SELECT count(*) FROM job_claim_flow(:s, max_jobs => 3);
RESET jobq.max_claim_size;
SELECT count(*), min(lease_until) > now() + '9 min' FROM job_claim_flow(:s, 'w', 3, '10 min');
SELECT count(job_release(l.job_id, l.token)) FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.kind = 'large';
SELECT count(*), count(lease_until) FROM job_claim_flow(:s, 'w', 3, session => true);
SELECT count(*) FROM job_lease l JOIN mine j ON j.id = l.job_id WHERE j.kind = 'large' AND l.session IS NOT NULL;
SELECT pg_temp.complete();

-- who may: work on each queue; the others' members are passed over
CREATE ROLE jobq_cf_worker;
CREATE ROLE jobq_cf_submitter;
SELECT job_grant('jobq_cf_worker', 'cf-mine', 'work'), job_grant('jobq_cf_submitter', 'cf-other', 'work');
SELECT job_grant('jobq_cf_submitter', q, 'submit') FROM unnest('{cf-f,cf-mine}'::text[]) q;
SET ROLE jobq_cf_submitter;
SELECT job_submit_flow('{"name": "w", "queue": "cf-f", "jobs": [{"kind": "mine", "queue": "cf-mine"}]}') AS w \gset
RESET ROLE;
SELECT job_submit_flow('{"name": "w2", "queue": "cf-f", "jobs": [{"kind": "other", "queue": "cf-other", "priority": 1}, {"kind": "mine, too", "queue": "cf-mine"}]}') AS w2,
    job_submit_flow('{"name": "w3", "queue": "cf-f", "jobs": [{"kind": "other", "queue": "cf-other"}]}') AS w3,
    job_submit_flow('{"name": "w4", "queue": "cf-mine", "jobs": [{"kind": "no", "queue": "cf-a"}]}') AS w4, job_submit('no flow', queue => 'cf-mine') AS job,
    job_submit('no flow', queue => 'cf-a') AS other_job \gset
SET ROLE jobq_cf_worker;
SELECT kind, job_complete(job_id, token) FROM job_claim_flow(:w, max_jobs => 9);
RESET ROLE;
CALL pg_temp.until('(SELECT outcome FROM mine WHERE name = ''w'') = 1');
SET ROLE jobq_cf_worker;
SELECT kind FROM job_claim_flow(:w);
SELECT kind FROM job_claim_flow(:w2, max_jobs => 9);
-- of one that it may not see, and work on no queue of, it hears nothing
SELECT pg_temp.error_of('SELECT job_claim_flow(' || :w3 || ')');
SELECT kind FROM job_claim_flow(:w4);
SELECT pg_temp.error_of('SELECT job_claim_flow(' || :job || ')');
SELECT pg_temp.error_of('SELECT job_claim_flow(' || :other_job || ')');
RESET ROLE;
SET ROLE jobq_cf_submitter;
-- it may see the first, but not work on it
SELECT count(job_release(job_id, token)) FROM job_claim_flow(:w);
SELECT kind FROM job_claim_flow(:w2);
RESET ROLE;
DROP OWNED BY jobq_cf_worker, jobq_cf_submitter;
DELETE FROM job_privilege WHERE queue LIKE 'cf-%';
DROP ROLE jobq_cf_worker, jobq_cf_submitter;

-- bad arguments
SELECT job_claim_flow(NULL);
SELECT job_claim_flow(0);
SELECT job_claim_flow(9000000000000000000);
SELECT pg_temp.error_of('SELECT job_claim_flow(' || :job || ')');
SELECT job_claim_flow(:w, '');
SELECT job_claim_flow(:w, max_jobs => 0);
SELECT job_claim_flow(:w, lease => '0');
SELECT job_claim_flow(:w, labels => '{NULL}');
BEGIN READ ONLY;
SELECT job_claim_flow(:w);
ROLLBACK;

SELECT pg_temp.complete();
SELECT count(job_cancel(id)) > 0 FROM mine WHERE outcome IS NULL;
CALL pg_temp.until('NOT EXISTS (SELECT FROM mine WHERE outcome IS NULL)');
SELECT invariant, problem FROM job_check();
