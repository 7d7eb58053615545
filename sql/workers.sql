-- Workers that register, and leases that last as long as a session, as far as one session can tell
\set VERBOSITY terse
SET client_min_messages = warning;

-- to register: what it told is shown; again it is replaced
SELECT job_worker_register('reg 1', '{ssd,gpu,gpu}', 'v1', 4, '{"host": "a"}');
SELECT worker, running, labels, version, capacity, draining, state, last_seen <= clock_timestamp() AS seen FROM job_worker_status WHERE worker LIKE 'reg%';
SELECT worker, labels, data, role = CURRENT_USER::regrole AS own FROM job_worker;
SELECT job_worker_register('reg 1', version => 'v2');
SELECT worker, labels, version, capacity, draining, state FROM job_worker_status WHERE worker LIKE 'reg%';
SELECT data FROM job_worker;
SELECT job_worker_register('reg 2', '{}');
SELECT labels FROM job_worker_status WHERE worker = 'reg 2';
SELECT job_worker_unregister('reg 2'), job_worker_unregister('reg 2'), job_worker_unregister('never');

-- one that only runs jobs is there as well, and one without a name
SELECT count(job_submit('k', queue => 'workers')) FROM generate_series(1, 9);
SELECT job_id AS id1, token AS token1 FROM job_claim('workers', 'reg 1') \gset
SELECT job_id AS id2, token AS token2 FROM job_claim('workers', 'other', lease => '10 min') \gset
SELECT job_id AS id3, token AS token3 FROM job_claim('workers') \gset
SELECT worker, running, version, capacity, draining, state FROM job_worker_status WHERE worker IN ('reg 1', 'other') ORDER BY worker;
SELECT running > 0 AS running, draining, state FROM job_worker_status WHERE worker IS NULL;

-- draining: claims of that name get nothing, also the one of job_next; others do, and what it runs goes on
SELECT job_worker_drain('reg 1'), job_worker_drain('reg 1'), job_worker_drain('never');
SELECT count(*) FROM job_claim('workers', 'reg 1', 5);
SELECT count(*) FROM job_claim('{workers,other}'::text[], 'reg 1', 5);
CALL job_claim_wait('workers', 'reg 1', '10 ms');
SELECT job_heartbeat(:id1, :token1);
SELECT count(*) FROM job_next(:id1, :token1);
SELECT count(*) FROM job_claim('workers', 'reg 2');
SELECT state FROM job_status WHERE id = :id1;
SELECT worker, running, draining FROM job_worker_status WHERE worker = 'reg 1';
-- to register again does not end it; a rollback does
SELECT job_worker_register('reg 1');
SELECT count(*) FROM job_claim('workers', 'reg 1');
BEGIN;
SELECT job_worker_drain('reg 1', false);
SELECT count(*) FROM job_claim('workers', 'reg 1');
ROLLBACK;
SELECT count(*) FROM job_claim('workers', 'reg 1');
SELECT job_worker_drain('reg 1', false), job_worker_drain('reg 1', false);
SELECT count(*) FROM job_claim('workers', 'reg 1');
SELECT job_worker_drain('reg 1');
SELECT job_worker_unregister('reg 1');
SELECT count(*) FROM job_claim('workers', 'reg 1');

-- job_explain says so where a queue has no worker
SELECT job_submit('k', queue => 'workers_none') AS none \gset
SELECT detail, hint FROM job_reasons(:none, true, true, false, now() - interval '61 s', now()) WHERE reason = 'no worker';
SELECT job_worker_register('drains'), job_worker_drain('drains'), job_worker_register('goes on');
SELECT reason FROM job_reasons(:none, true, true, false, now() - interval '61 s', now());
SELECT job_worker_drain('goes on');
SELECT reason, detail, hint FROM job_reasons(:none, true, true, false, now() - interval '61 s', now()) OFFSET 1;
-- not while a session waits, nor of those that were not seen
SELECT reason FROM job_reasons(:none, true, true, true, now() - interval '61 s', now());
SELECT reason FROM job_reasons(:none, true, true, false, now(), now() + interval '1 hour');
SELECT job_worker_unregister('goes on');
SELECT job_worker_unregister('drains'), job_cancel(:none);

-- state: by the lease, or jobq.lease where none is known
SELECT job_worker_register('idle');
UPDATE job_worker SET seen_at = '2000-01-01', registered_at = '2000-01-01';
SELECT state, last_seen > now() - interval '1 min' AS seen FROM job_worker_status WHERE worker = 'idle';
-- one that this server has not seen: by how long it has been there, in terms of the lease; a statement has one time
CREATE FUNCTION pg_temp.state_of(lease_share float8) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    watched float8 := (SELECT extract(epoch FROM statement_timestamp() - s.watched) * 1000 FROM job_worker_seen('absent') s);
BEGIN
    PERFORM set_config('jobq.lease', greatest(watched * lease_share, 1)::bigint || 'ms', true);
    RETURN (SELECT state FROM job_worker_status WHERE worker = 'absent');
END $$;
BEGIN;
INSERT INTO job_worker VALUES ('2000-01-01', '2000-01-01', CURRENT_USER::regrole, NULL, false, 'absent');
SELECT last_seen = '2000-01-01' AS seen FROM job_worker_status WHERE worker = 'absent';
SELECT share, pg_temp.state_of(share) FROM unnest('{2,0.7,0.2}'::float8[]) share;
ROLLBACK;
SELECT job_worker_unregister('idle');

-- bad values
SELECT job_worker_register(NULL);
SELECT job_worker_register('');
SELECT job_worker_register(repeat('x', 129));
SELECT job_worker_register(E'a\nb');
SELECT job_worker_register('w', '{a,NULL}');
SELECT job_worker_register('w', ARRAY['']);
SELECT job_worker_register('w', '{{a},{b}}');
SELECT job_worker_register('w', ARRAY(SELECT 'l' || n FROM generate_series(1, 101) n));
SELECT job_worker_register('w', version => '');
SELECT job_worker_register('w', version => E'\t');
SELECT job_worker_register('w', capacity => 0);
SELECT job_worker_register('w', data => to_jsonb(repeat('x', 1100000)));
SELECT job_worker_unregister(NULL);
SELECT job_worker_unregister('');
SELECT job_worker_drain(NULL);
SELECT job_worker_drain('w', NULL);
BEGIN READ ONLY;
SELECT job_worker_register('w');
ROLLBACK;
SELECT count(*) FROM job_worker;

-- privileges: one's own, or all with operate on all queues
CREATE FUNCTION pg_temp.as_role(role text, VARIADIC commands text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    command text; result text;
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    FOREACH command IN ARRAY commands LOOP
        BEGIN
            EXECUTE command INTO result;
            RETURN NEXT format('%s: %s', command, result);
        EXCEPTION WHEN OTHERS THEN
            RETURN NEXT format('%s: %s %s', command, SQLSTATE, SQLERRM);
        END;
    END LOOP;
    RESET ROLE;
END $$;
CREATE ROLE workers_a;
CREATE ROLE workers_b;
CREATE ROLE workers_member IN ROLE workers_a;
CREATE ROLE workers_operator;
CREATE ROLE workers_operator_all;
CREATE ROLE workers_reader;
CREATE ROLE workers_submitter;
SELECT job_grant('workers_a', 'workers', 'work'), job_grant('workers_b', 'workers', 'work'), job_grant('workers_operator', 'workers', 'operate'),
    job_grant('workers_operator_all', '*', 'operate'), job_grant('workers_reader', 'workers', 'read'), job_grant('workers_submitter', 'workers', 'submit');
\pset format unaligned
\pset tuples_only on
SELECT pg_temp.as_role('workers_submitter', 'SELECT job_worker_register(''a'')', 'SELECT job_worker_unregister(''a'')', 'SELECT job_worker_drain(''a'')');
SELECT pg_temp.as_role('workers_operator', 'SELECT job_worker_register(''a'')');
SELECT pg_temp.as_role('workers_a', 'SELECT job_worker_register(''a'', ''{l}'', ''v'')', 'SELECT job_worker_drain(''a'')', 'SELECT job_worker_drain(''a'', false)',
    'SELECT count(*) FROM job_claim(''workers'', ''a'')', 'SELECT count(*) FROM job_worker_status', 'SELECT count(*) FROM job_worker', 'SELECT job_worker_seen(''a'')');
SELECT pg_temp.as_role('workers_b', 'SELECT job_worker_register(''a'')', 'SELECT job_worker_unregister(''a'')', 'SELECT job_worker_drain(''a'')', 'SELECT job_worker_drain(''none'')');
SELECT pg_temp.as_role('workers_operator', 'SELECT job_worker_unregister(''a'')', 'SELECT job_worker_drain(''a'')');
SELECT pg_temp.as_role('workers_member', 'SELECT job_worker_drain(''a'')', 'SELECT job_worker_drain(''a'', false)');
SELECT pg_temp.as_role('workers_operator_all', 'SELECT job_worker_drain(''a'')', 'SELECT job_worker_drain(''a'', false)');
-- EXECUTE alone is not the privilege
GRANT EXECUTE ON FUNCTION job_worker_register TO workers_submitter;
SELECT pg_temp.as_role('workers_submitter', 'SELECT job_worker_register(''b'')');
REVOKE EXECUTE ON FUNCTION job_worker_register FROM workers_submitter;
-- what is told is shown to who sees all queues, its own role, and who sees jobs that it runs as that worker
SELECT pg_temp.as_role('workers_b', 'SELECT job_worker_register(''b'', ''{m}'', ''v'')', 'SELECT job_worker_register(''quiet'', ''{n}'')');
SELECT pg_temp.as_role(r, 'SELECT string_agg(format(''%s %s %s %s'', worker, running, coalesce(labels::text, ''-''), state), '', '' ORDER BY worker) FROM job_worker_status WHERE worker IN (''a'', ''b'', ''quiet'')')
FROM unnest('{workers_reader,workers_operator,workers_operator_all}'::text[]) r;
-- who takes the name of another's worker learns nothing of it, nor when it was seen
SELECT job_grant('workers_a', 'workers', 'read') IS NULL;
SELECT pg_temp.as_role('workers_a', 'SELECT count(*) FROM job_claim(''workers'', ''b'')',
    'SELECT format(''%s %s %s'', running, coalesce(labels::text, ''-''), coalesce(version, ''-'')) FROM job_worker_status WHERE worker = ''b''',
    'SELECT seen IS NULL AND lease IS NULL FROM job_worker_seen(''b'')', 'SELECT seen IS NULL FROM job_worker_seen(''other'')', 'SELECT seen IS NOT NULL FROM job_worker_seen(''a'')');
SELECT pg_temp.as_role('workers_operator_all', 'SELECT job_worker_unregister(''a'')', 'SELECT job_worker_unregister(''b'')', 'SELECT job_worker_unregister(''quiet'')');
SELECT count(job_release(l.job_id, l.token)) > 0 FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'workers';
DROP OWNED BY workers_a, workers_b, workers_operator, workers_operator_all, workers_reader, workers_submitter;
DELETE FROM job_privilege WHERE role::text LIKE 'workers%';
DROP ROLE workers_member, workers_a, workers_b, workers_operator, workers_operator_all, workers_reader, workers_submitter;
\pset format aligned
\pset tuples_only off

-- session leases: no end by the clock, whatever lease is asked for
SELECT count(job_submit('s' || n, queue => 'sessions', timeout => CASE n WHEN 2 THEN interval '1 h' END, backoff => '1 ms')) FROM generate_series(1, 4) n;
SELECT job_id AS id1, token AS token1, kind, lease_until FROM job_claim('sessions', 'in session', 1, '1 s', session => true) \gset
\echo :kind :lease_until
SELECT job_id AS id2, token AS token2, kind, lease_until FROM job_claim('{sessions}'::text[], 'in session', session => true) \gset
\echo :kind :lease_until
SELECT kind, state, lease_until FROM job_status WHERE queue = 'sessions' ORDER BY id;
SELECT lease_until, timeout_at IS NOT NULL AS times_out, deadline = coalesce(timeout_at, 'infinity') AS deadline, session > 0 AS session FROM job_lease l JOIN job j ON j.id = l.job_id WHERE queue = 'sessions' ORDER BY job_id;
SELECT count(DISTINCT session) FROM job_lease WHERE queue_id = job_queue_id('sessions');
SELECT reason, regexp_replace(detail, 'since .*, as', 'since <time>, as') AS detail FROM job_explain(:id1);
SELECT worker, running, state FROM job_worker_status WHERE worker = 'in session';
SELECT used > 0 AS used FROM job_memory WHERE part = 'sessions';
-- heartbeats answer and write progress, and extend nothing
SELECT job_heartbeat(:id1, :token1), job_heartbeat(:id1, :token1, '1 h', '{"at": 1}');
SELECT progress, lease_until FROM job_status WHERE id = :id1;
SELECT job_cancel(:id2);
SELECT job_heartbeat(:id2, :token2);
SELECT job_fail(:id2, :token2, 'asked to');
-- a stale token, bad values, and what cannot be
\set VERBOSITY sqlstate
SELECT job_heartbeat(:id1, :token1 # 1);
SELECT job_claim('sessions', session => true, lease => '-1 s');
BEGIN;
SELECT count(*) FROM job_claim('sessions', session => true);
PREPARE TRANSACTION 'session';
\set VERBOSITY terse
-- rolled back
BEGIN;
SELECT count(*) FROM job_claim('sessions', session => true);
ROLLBACK;
SELECT count(*) FROM job_lease WHERE queue_id = job_queue_id('sessions');
-- NULL means the default
SELECT job_id AS id3, token AS token3, lease_until IS NOT NULL AS ends FROM job_claim('sessions', session => NULL) \gset
\echo :ends
SELECT job_release(:id3, :token3);
-- job_next of a session lease is one, too
SELECT job_id AS id3, token AS token3, kind, lease_until FROM job_next(:id1, :token1) \gset
\echo :kind :lease_until
SELECT count(DISTINCT session) FROM job_lease WHERE queue_id = job_queue_id('sessions');
SELECT * FROM job_check() WHERE job_id IN (:id1, :id2, :id3);
-- one with an end, or that has none and no session, is repaired
UPDATE job_lease SET lease_until = now(), deadline = now() WHERE job_id = :id3;
SELECT invariant, problem, repaired FROM job_check(true) WHERE job_id = :id3;
SELECT lease_until, deadline FROM job_lease WHERE job_id = :id3;
-- taken back
SELECT job_take_back(:id3);
SELECT outcome, error FROM job_attempts WHERE job_id = :id3;

-- DISCARD ALL ends them, as it drops temporary functions, and the background worker takes them back
CREATE FUNCTION comes_true(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ok boolean := false;
BEGIN
    FOR i IN 1 .. 3000 LOOP
        EXECUTE 'SELECT ' || condition INTO ok;
        EXIT WHEN ok;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN ok;
END $$;
SELECT comes_true('NOT EXISTS (SELECT FROM job_status WHERE queue = ''sessions'' AND state = ''scheduled'')');
SELECT job_id AS id4, token AS token4, kind FROM job_claim('sessions', 'in session', session => true) \gset
DISCARD ALL;
SELECT comes_true('NOT EXISTS (SELECT FROM job_lease WHERE queue_id = job_queue_id(''sessions''))');
\set VERBOSITY sqlstate
SELECT job_complete(:id4, :token4);
\set VERBOSITY terse
SELECT outcome, error FROM job_attempts WHERE job_id = :id4 ORDER BY attempt DESC LIMIT 1;
-- without any, it does nothing
DISCARD ALL;
SELECT count(job_cancel(id)) FROM job_status WHERE queue IN ('workers', 'sessions') AND finished_at IS NULL;
SELECT c.* FROM job_check() c JOIN job j ON j.id = c.job_id WHERE j.queue IN ('workers', 'sessions');
DROP FUNCTION comes_true;
