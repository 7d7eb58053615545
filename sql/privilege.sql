-- Who may do what: job_grant, job_revoke, and what each privilege allows
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

-- Run commands as a role, one after the other, and say how each went
CREATE FUNCTION pg_temp.as_role(role text, commands text[]) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    command text; message text; detail text;
BEGIN
    EXECUTE format('SET LOCAL ROLE %I', role);
    FOREACH command IN ARRAY commands LOOP
        BEGIN
            EXECUTE command;
            RETURN NEXT left(regexp_replace(command, '\d+', 'N', 'g'), 70) || ': ok';
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
            RETURN NEXT left(regexp_replace(command, '\d+', 'N', 'g'), 70) || ': ' || SQLSTATE || ' ' || regexp_replace(message, '\mjob \d+', 'job N')
                || coalesce(' (' || nullif(detail, '') || ')', '');
        END;
    END LOOP;
    RESET ROLE;
END $$;

CREATE ROLE jobq_nobody;
CREATE ROLE jobq_submitter;
CREATE ROLE jobq_submitter2;
CREATE ROLE jobq_worker1;
CREATE ROLE jobq_worker2;
CREATE ROLE jobq_operator;
CREATE ROLE jobq_reader;
CREATE ROLE jobq_group;
CREATE ROLE jobq_member IN ROLE jobq_group;
CREATE ROLE jobq_stranger NOINHERIT IN ROLE jobq_group;

-- nothing is executable or readable by PUBLIC, but for job_schedule_times, which reads nothing
SELECT p.oid::regprocedure FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq')
    AND has_function_privilege('jobq_nobody', p.oid, 'EXECUTE');
SELECT c.oid::regclass FROM pg_depend d JOIN pg_class c ON c.oid = d.objid
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq')
    AND CASE c.relkind WHEN 'S' THEN has_sequence_privilege('jobq_nobody', c.oid, 'USAGE, SELECT, UPDATE')
        ELSE has_table_privilege('jobq_nobody', c.oid, 'SELECT, INSERT, UPDATE, DELETE, TRUNCATE, REFERENCES, TRIGGER') END;
SELECT pg_temp.as_role('jobq_nobody', ARRAY['SELECT job_submit(''k'')', 'SELECT job_submit_many(''[]'')', 'SELECT job_claim()', 'SELECT job_claim(''{}''::text[])',
    'SELECT job_heartbeat(1, 1)', 'SELECT job_complete(1, 1)', 'SELECT job_complete_many(''{}'', ''{}'')', 'SELECT job_fail(1, 1)', 'SELECT job_fail_many(''{}'', ''{}'')',
    'SELECT job_release(1, 1)', 'SELECT job_snooze(1, 1, ''1 s'')', 'SELECT job_result(1)', 'SELECT job_cancel(1)', 'SELECT job_take_back(1)', 'SELECT job_retry(1)', 'SELECT job_hold(1)',
    'SELECT job_unhold(1)', 'SELECT job_queue_set(''q'')', 'SELECT job_grant(''jobq_nobody'', ''*'', ''read'')', 'SELECT job_revoke(''jobq_nobody'', ''*'', ''read'')',
    'SELECT * FROM job_status', 'SELECT * FROM job_attempts', 'SELECT * FROM job_queue_status', 'SELECT * FROM job_worker_status', 'SELECT * FROM job', 'SELECT * FROM job_lease']);

SELECT job_grant('jobq_submitter', 'priv_a', 'submit');
SELECT job_grant('jobq_submitter', 'priv_a', 'submit');
SELECT job_grant('jobq_submitter2', 'priv_a', 'submit');
SELECT job_grant('jobq_worker1', 'priv_a', 'work');
SELECT job_grant('jobq_worker2', 'priv_a', 'work');
SELECT job_grant('jobq_operator', 'priv_a', 'operate');
SELECT job_grant('jobq_reader', 'priv_a', 'read');
SELECT role, queue, privilege FROM job_privilege WHERE queue = 'priv_a' ORDER BY role::text;

-- submit: on that queue only; sees what it submitted
SET ROLE jobq_submitter;
SELECT job_submit('mine', '{"secret": 1}', 'priv_a') AS mine \gset
SELECT job_submit('mine, second', queue => 'priv_a', priority => 9, depends_on => ARRAY[:mine], parent => :mine) AS second \gset
RESET ROLE;
SET ROLE jobq_submitter2;
SELECT job_submit('other''s', queue => 'priv_a') AS others \gset
RESET ROLE;
SELECT job_submit('owner''s', queue => 'priv_b') AS owners \gset
SELECT job_submit('owner''s', queue => 'priv_a', priority => 5) AS owners_a \gset
SELECT pg_temp.as_role('jobq_submitter', ARRAY['SELECT job_submit(''k'', queue => ''priv_b'')', 'SELECT job_submit(''k'')', 'SELECT job_submit(''k'', queue => ''priv_new'')',
    'SELECT job_submit_many(''[{"kind": "k", "queue": "priv_a"}, {"kind": "k", "queue": "priv_b"}]'')', 'SELECT job_submit_many(''[{"kind": "many", "queue": "priv_a"}]'')']);
SELECT count(*) FROM job_queue_status WHERE queue = 'priv_new';
-- nor may it learn of others' jobs by depending on them, nor hang its own on them
SELECT pg_temp.as_role('jobq_submitter', ARRAY[format('SELECT job_submit(''k'', queue => ''priv_a'', depends_on => ARRAY[%s])', :others),
    format('SELECT job_submit(''k'', queue => ''priv_a'', depends_on => ARRAY[%s], trigger_rule => ''always'')', :owners),
    format('SELECT job_submit(''k'', queue => ''priv_a'', parent => %s)', :others),
    format('SELECT job_submit_many(''[{"kind": "k", "queue": "priv_a", "depends_on": [%s]}]'')', :others),
    format('SELECT job_result(%s)', :others), format('SELECT job_result(%s)', :owners), format('SELECT job_result(%s)', :mine)]);
SET ROLE jobq_submitter;
SELECT kind, state, args, submitted_by = current_user::regrole FROM job_status ORDER BY id;
SELECT job_result(:mine) IS NULL AS not_yet;
RESET ROLE;
SELECT pg_temp.as_role('jobq_submitter', ARRAY['SELECT * FROM job', 'SELECT * FROM job_ready', 'SELECT nextval(''job_id_seq'')', 'INSERT INTO job_queue (name, queue_id) VALUES (''x'', 1)',
    'SELECT * FROM job_privilege', 'SELECT * FROM job_queue_status', 'SELECT * FROM job_worker_status', 'SELECT job_claim(''priv_a'')', format('SELECT job_retry(%s)', :mine),
    'SELECT job_queue_set(''priv_a'', true)', 'SELECT job_grant(''jobq_submitter'', ''priv_a'', ''work'')']);

-- cancels, holds and unholds its own; others' are as if they were not there, and it cannot retry
SELECT pg_temp.as_role('jobq_submitter', ARRAY[format('SELECT job_hold(%s)', :others),
    format('SELECT job_unhold(%s)', :owners), format('SELECT job_cancel(%s)', :others), format('SELECT job_cancel(%s)', :owners), 'SELECT job_cancel(-1)']);
SET ROLE jobq_submitter;
SELECT job_submit('mine, held', queue => 'priv_a') AS held \gset
SELECT job_hold(:held);
SELECT job_hold(:held);
SELECT job_unhold(:held);
SELECT job_cancel(:held, 'by who submitted it');
SELECT job_cancel(:held);
SELECT state, error FROM job_status WHERE id = :held;
RESET ROLE;
-- also as a member of the role
SELECT job_submit('of the owner', queue => 'priv_a') AS shared \gset
UPDATE job SET submitted_by = 'jobq_submitter' WHERE id = :shared;
GRANT jobq_submitter TO jobq_submitter2;
SET ROLE jobq_submitter2;
SELECT job_hold(:shared);
RESET ROLE;
REVOKE jobq_submitter FROM jobq_submitter2;
SELECT pg_temp.as_role('jobq_submitter2', ARRAY[format('SELECT job_unhold(%s)', :shared), format('SELECT job_cancel(%s)', :shared)]);
SET ROLE jobq_submitter;
SELECT job_cancel(:shared);
RESET ROLE;

-- a view's filter comes before the caller's conditions
SET ROLE jobq_submitter;
CREATE FUNCTION pg_temp.leak(text) RETURNS boolean LANGUAGE plpgsql COST 0.0000001 AS $$ BEGIN RAISE WARNING 'saw %', $1; RETURN true; END $$;
SELECT count(*) FROM job_status WHERE pg_temp.leak(kind) AND kind = 'owner''s';
RESET ROLE;

-- work: claims there, sees what it holds, and needs the token
SET ROLE jobq_worker1;
SELECT count(*) FROM job_status;
SELECT kind, job_id AS held, token FROM job_claim('priv_a', 'w') \gset
\echo :kind
SELECT kind, state, args FROM job_status ORDER BY id;
SELECT kind AS kind2, job_id AS held2, token AS token2 FROM job_claim('priv_a', 'w') \gset
\echo :kind2
SELECT kind, state, submitted_by = 'jobq_submitter'::regrole FROM job_status ORDER BY id;
SELECT job_heartbeat(:held, :token, progress => '1');
RESET ROLE;
SELECT pg_temp.as_role('jobq_worker1', ARRAY['SELECT job_claim(''priv_b'')', 'SELECT job_claim(''{priv_a,priv_b}''::text[])', 'SELECT job_claim()', 'SELECT job_claim(''priv_new'')',
    'SELECT job_submit(''k'', queue => ''priv_a'')', format('SELECT job_complete(%s, 1)', :held), format('SELECT job_fail(%s, 0)', :held), format('SELECT job_complete(%s, 1)', :owners),
    format('SELECT job_result(%s)', :others), format('SELECT job_result(%s)', :held), format('SELECT job_cancel(%s)', :held), 'SELECT token FROM job_lease', 'SELECT * FROM job_queue_status',
    'SELECT * FROM job_worker_status']);
-- another worker does not see it; the token is what counts
SET ROLE jobq_worker2;
SELECT count(*) FROM job_status;
SELECT job_complete(:held2, :token2, '"by worker 2"');
RESET ROLE;
-- not even with its token, when the privilege is gone
SELECT job_submit('owner''s', queue => 'priv_b') AS owners_b \gset
SELECT job_id AS held_b, token AS token_b FROM job_claim('priv_b') \gset
SELECT pg_temp.as_role('jobq_worker1', ARRAY[format('SELECT job_complete(%s, %s)', :held_b, :token_b), format('SELECT job_heartbeat(%s, %s)', :held_b, :token_b),
    format('SELECT * FROM job_complete_many(ARRAY[%s], ARRAY[%s])', :held_b, :token_b), format('SELECT job_release(%s, %s)', :held_b, :token_b)]);
-- and without the token of a running one, a job of another queue is as if it were not there: running, ready, decided or none
SELECT job_submit('owner''s', queue => 'priv_b') AS ready_b \gset
SELECT job_submit('owner''s', queue => 'priv_b', priority => 1) AS decided_b \gset
SELECT job_complete(job_id, token), token AS token_decided FROM job_claim('priv_b') \gset
CREATE FUNCTION pg_temp.acts(id bigint, token bigint) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT DISTINCT regexp_replace(pg_temp.as_role('jobq_worker1', ARRAY[format('SELECT ' || call, id, token)]), '^SELECT \w+\(.*?\): ', '')
    FROM unnest(ARRAY['job_complete(%s, %s)', 'job_fail(%s, %s)', 'job_heartbeat(%s, %s)', 'job_heartbeat(%s, %s, ''1 h'', ''{}'')',
        'job_release(%s, %s)', 'job_snooze(%s, %s, ''1 s'')']) call
$$;
SELECT pg_temp.acts(:held_b, :token_b);
SELECT pg_temp.acts(:held_b, 1);
SELECT pg_temp.acts(:ready_b, 1);
SELECT pg_temp.acts(:decided_b, :token_decided);
SELECT pg_temp.acts(:decided_b, 1);
SELECT pg_temp.acts(1000000000000, 1);
SELECT (job_complete_many(ARRAY[id], ARRAY[token])).accepted FROM (VALUES (:decided_b::bigint, :token_decided::bigint)) v (id, token);
SET ROLE jobq_worker1;
SELECT accepted FROM job_complete_many(ARRAY[:held_b, :ready_b, :decided_b, 1000000000000], ARRAY[1, 1, :token_decided, 1]);
SELECT accepted, state FROM job_fail_many(ARRAY[:held_b, :ready_b, :decided_b, 1000000000000], ARRAY[1, 1, :token_decided, 1]);
RESET ROLE;
SELECT id = :held_b AS held, state, attempt FROM job_status WHERE id IN (:held_b, :ready_b, :decided_b) ORDER BY id;
SET ROLE jobq_worker1;
SELECT job_complete(:held, :token, '{"r": 1}');
SELECT count(*) FROM job_status;
SELECT count(*) FROM job_attempts;
-- the result of a parent of the job it holds, and that only while it holds it
SELECT kind, job_id AS held, token FROM job_claim('priv_a', 'w') \gset
\echo :kind
SELECT job_result(:mine);
SELECT job_complete(:held, :token);
RESET ROLE;
SELECT pg_temp.as_role('jobq_worker1', ARRAY[format('SELECT job_result(%s)', :mine), format('SELECT job_result(%s)', :held)]);

-- procedures, too
\set VERBOSITY sqlstate
SET ROLE jobq_nobody;
CALL job_wait(:mine, '0');
CALL job_claim_wait('priv_a', 'w', '0');
SET ROLE jobq_submitter;
CALL job_wait(:mine, '0');
CALL job_wait(:others, '0');
CALL job_claim_wait('priv_a', 'w', '0');
SET ROLE jobq_worker1;
CALL job_claim_wait('priv_b', 'w', '0');
RESET ROLE;
\set VERBOSITY terse

-- the submitter sees how its jobs end, with their attempts
SET ROLE jobq_submitter;
SELECT kind, state, result, worker FROM job_status ORDER BY id;
SELECT attempt, outcome FROM job_attempts ORDER BY job_id, attempt;
SELECT job_result(:mine);
RESET ROLE;

-- read: all of that queue, and nothing else
SET ROLE jobq_reader;
SELECT kind, queue FROM job_status ORDER BY id;
SELECT queue FROM job_queue_status;
SELECT count(*) FROM job_attempts;
SELECT count(*) FROM job_worker_status;
SELECT job_result(:mine);
RESET ROLE;
SELECT pg_temp.as_role('jobq_reader', ARRAY[format('SELECT job_result(%s)', :owners), 'SELECT job_claim(''priv_a'')', format('SELECT job_cancel(%s)', :mine), 'SELECT * FROM job']);

-- operate: all of that, and control
SET ROLE jobq_operator;
SELECT count(*) > 0 AS sees, bool_and(queue = 'priv_a') AS only FROM job_status;
SELECT queue FROM job_queue_status;
RESET ROLE;
SELECT job_submit('to operate', queue => 'priv_a') AS o \gset
SELECT pg_temp.as_role('jobq_operator', ARRAY[format('SELECT job_hold(%s)', :o), format('SELECT job_unhold(%s)', :o), format('SELECT job_cancel(%s)', :o), format('SELECT job_retry(%s)', :o),
    format('SELECT job_result(%s)', :o), 'SELECT job_queue_set(''priv_a'', max_attempts => 2)', 'SELECT job_queue_set(''priv_b'', max_attempts => 2)', 'SELECT job_queue_set(''priv_new'', true)',
    format('SELECT job_cancel(%s)', :owners), format('SELECT job_retry(%s)', :owners), format('SELECT job_hold(%s)', :owners), format('SELECT job_unhold(%s)', :owners),
    format('SELECT job_result(%s)', :owners), 'SELECT job_claim(''priv_a'')', 'SELECT job_submit(''k'', queue => ''priv_a'')', 'SELECT job_grant(''jobq_operator'', ''priv_b'', ''operate'')']);

-- a group's privilege is its members', if they inherit
SELECT job_grant('jobq_group', 'priv_a', 'read');
SET ROLE jobq_member;
SELECT count(*) > 0 AS sees FROM job_status;
RESET ROLE;
SELECT pg_temp.as_role('jobq_stranger', ARRAY['SELECT * FROM job_status']);

-- '*' is every queue, now and later
SELECT job_grant('jobq_nobody', '*', 'submit');
SET ROLE jobq_nobody;
SELECT job_submit('anywhere', queue => 'priv_new') AS anywhere \gset
SELECT kind FROM job_status;
RESET ROLE;
SELECT job_revoke('jobq_nobody', 'priv_new', 'submit');
SELECT pg_temp.as_role('jobq_nobody', ARRAY['SELECT job_submit(''anywhere'', queue => ''priv_new'')']);
SELECT job_revoke('jobq_nobody', '*', 'submit');
SELECT pg_temp.as_role('jobq_nobody', ARRAY['SELECT job_submit(''anywhere'', queue => ''priv_new'')', 'SELECT * FROM job_status']);

-- taking one privilege leaves the others with what they need
SELECT job_grant('jobq_worker1', 'priv_b', 'read');
SELECT job_grant('jobq_worker1', 'priv_c', 'work');
SELECT job_revoke('jobq_worker1', 'priv_a', 'work');
SELECT pg_temp.as_role('jobq_worker1', ARRAY['SELECT job_claim(''priv_a'')', 'SELECT job_claim(''priv_c'')', 'SELECT * FROM job_status', format('SELECT job_result(%s)', :owners)]);
SELECT job_revoke('jobq_worker1', 'priv_c', 'work');
SELECT pg_temp.as_role('jobq_worker1', ARRAY['SELECT job_claim(''priv_c'')', 'SELECT * FROM job_status', format('SELECT job_result(%s)', :owners)]);
SELECT job_revoke('jobq_worker1', 'priv_b', 'read');
SELECT job_revoke('jobq_worker1', 'priv_b', 'read');
SELECT pg_temp.as_role('jobq_worker1', ARRAY['SELECT * FROM job_status', format('SELECT job_result(%s)', :owners)]);
SELECT count(*) FROM pg_shdepend WHERE refobjid = 'jobq_worker1'::regrole AND deptype = 'a';
-- a grant that is rolled back
BEGIN;
SELECT job_grant('jobq_worker1', 'priv_a', 'work');
ROLLBACK;
SELECT pg_temp.as_role('jobq_worker1', ARRAY['SELECT job_claim(''priv_a'')']);

-- a role that is dropped and made again gets nothing back
SELECT job_submit('for worker 2', queue => 'priv_a') IS NOT NULL;
DROP OWNED BY jobq_worker2;
DROP ROLE jobq_worker2;
CREATE ROLE jobq_worker2;
SELECT pg_temp.as_role('jobq_worker2', ARRAY['SELECT job_claim(''priv_a'')', 'SELECT * FROM job_status']);
SELECT job_grant('jobq_worker2', 'priv_b', 'work');
SELECT pg_temp.as_role('jobq_worker2', ARRAY['SELECT job_claim(''priv_a'')', 'SELECT job_claim(''priv_b'')']);
-- nor is what the dropped one submitted in anybody's way
DROP OWNED BY jobq_submitter2;
DROP ROLE jobq_submitter2;
SELECT count(*) FROM job_status WHERE id = :others;

-- privileges are checked when a call is made: with SECURITY DEFINER, the definer's
CREATE FUNCTION priv_submit(kind text) RETURNS bigint LANGUAGE sql SECURITY DEFINER AS $$ SELECT job_submit(kind, queue => 'priv_a') $$;
SELECT pg_temp.as_role('jobq_nobody', ARRAY['SELECT priv_submit(''by way of the owner'')']);
DROP FUNCTION priv_submit;

-- granting is for the owner, even if somebody else may call it
GRANT EXECUTE ON FUNCTION job_grant(regrole, text, text), job_revoke(regrole, text, text) TO jobq_nobody;
SELECT pg_temp.as_role('jobq_nobody', ARRAY['SELECT job_grant(''jobq_nobody'', ''priv_a'', ''work'')', 'SELECT job_revoke(''jobq_reader'', ''priv_a'', ''read'')']);

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'priv%' AND finished_at IS NULL;
DELETE FROM job_privilege WHERE queue LIKE 'priv%' OR queue = '*';
DROP OWNED BY jobq_nobody, jobq_submitter, jobq_worker1, jobq_worker2, jobq_operator, jobq_reader, jobq_group, jobq_member, jobq_stranger;
DROP ROLE jobq_nobody, jobq_submitter, jobq_worker1, jobq_worker2, jobq_operator, jobq_reader, jobq_group, jobq_member, jobq_stranger;
