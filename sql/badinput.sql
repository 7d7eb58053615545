-- Everything that must be refused: with which code, in which words, and that nothing changed
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;

-- Run a command that must fail and show how it does; numbers of jobs are masked
CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text; message text; detail text; hint text; context text;
BEGIN
    EXECUTE command;
    RETURN 'ACCEPTED';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, message = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT,
        context = PG_EXCEPTION_CONTEXT;
    RETURN regexp_replace(concat_ws(E'\n', state || ': ' || message, 'DETAIL: ' || nullif(detail, ''), 'HINT: ' || nullif(hint, ''),
        'CONTEXT: ' || substring(context FROM '^element[^\n]*')), '\mjob \d+', 'job N', 'g');
END $$;

-- All that is in the tables, in one value
CREATE FUNCTION pg_temp.fingerprint() RETURNS text LANGUAGE sql AS $$
    SELECT md5(string_agg(r, E'\n' ORDER BY r)) FROM (
        SELECT t::text FROM job t UNION ALL SELECT t::text FROM job_dependency t UNION ALL SELECT t::text FROM job_waiting t UNION ALL
        SELECT t::text FROM job_delta t UNION ALL
        SELECT t::text FROM job_scheduled t UNION ALL SELECT t::text FROM job_ready t UNION ALL SELECT t::text FROM job_lease t UNION ALL
        SELECT t::text FROM job_expiry t UNION ALL SELECT t::text FROM job_attempt t UNION ALL SELECT t::text FROM job_queue t UNION ALL
        SELECT t::text FROM job_privilege t) all_rows(r)
$$;

-- jobs in several states to act on
SELECT job_queue_set('bad', lease => '1 day');
SELECT job_submit('ready', queue => 'bad', priority => -1) AS ready \gset
SELECT job_submit('waiting', queue => 'bad', depends_on => ARRAY[:ready]) AS waiting \gset
SELECT job_submit('scheduled', queue => 'bad', run_at => '2999-01-01') AS scheduled \gset
SELECT job_submit('running', queue => 'bad') AS running \gset
SELECT token AS running_token FROM job_claim('bad') \gset
SELECT job_submit('running too', queue => 'bad') AS running2 \gset
SELECT token AS running2_token FROM job_claim('bad') \gset
SELECT job_submit('succeeded', queue => 'bad') AS succeeded \gset
SELECT token AS succeeded_token, job_complete(job_id, token, '1') FROM job_claim('bad') \gset
SELECT job_submit('failed', queue => 'bad') AS failed \gset
SELECT token AS failed_token, job_fail(job_id, token, retry => false) FROM job_claim('bad') \gset
SELECT job_submit('upstream_failed', queue => 'bad', depends_on => ARRAY[:failed]) AS upstream_failed \gset
SELECT job_submit('skipped', queue => 'bad', depends_on => ARRAY[:succeeded], trigger_rule => 'all_failed') AS skipped \gset
SELECT job_submit('cancelled', queue => 'bad') AS cancelled \gset
SELECT job_cancel(:cancelled);
SELECT kind, state FROM job_status WHERE queue = 'bad' ORDER BY id;
SELECT pg_temp.fingerprint() AS before \gset

-- args
SELECT pg_temp.try($$SELECT job_submit('k', '[]')$$);
SELECT pg_temp.try($$SELECT job_submit('k', '1')$$);
SELECT pg_temp.try($$SELECT job_submit('k', 'null')$$);
SELECT pg_temp.try($$SELECT job_submit('k', NULL)$$);

-- names
SELECT pg_temp.try($$SELECT job_submit(NULL)$$);
SELECT pg_temp.try($$SELECT job_submit('')$$);
SELECT pg_temp.try($$SELECT job_submit(repeat('k', 129))$$);
SELECT pg_temp.try($$SELECT job_submit(repeat('ü', 65))$$);
SELECT pg_temp.try($$SELECT job_submit(E'a\nb')$$);
SELECT pg_temp.try($$SELECT job_submit(E'a\x7f')$$);
SELECT pg_temp.try($$SELECT job_submit('k', name => '')$$);
SELECT pg_temp.try($$SELECT job_submit('k', name => repeat('n', 129))$$);
SELECT pg_temp.try($$SELECT job_submit('k', name => E'a\nb')$$);
SELECT pg_temp.try($$SELECT job_submit('k', args => NULL)$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => NULL)$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => '')$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => repeat('q', 51))$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => 'a b')$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => 'ü')$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => '*')$$);
SELECT pg_temp.try($$SELECT job_submit('k', queue => E'a\n')$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('a"b')$$);
SELECT pg_temp.try($$SELECT * FROM job_claim(NULL::text)$$);
SELECT pg_temp.try($$SELECT * FROM job_claim(NULL::text[])$$);
SELECT pg_temp.try($$SELECT * FROM job_claim(ARRAY['bad', NULL])$$);
SELECT pg_temp.try($$SELECT * FROM job_claim(ARRAY['bad', ''])$$);
SELECT pg_temp.try($$SELECT * FROM job_claim(ARRAY[ARRAY['bad', 'bad']])$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', '')$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', repeat('w', 129))$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', E'\t')$$);
SELECT pg_temp.try($$SELECT job_queue_set('a/b', true)$$);
SELECT pg_temp.try($$SELECT job_queue_set(NULL, true)$$);
SELECT pg_temp.try($$SELECT job_grant('pg_monitor', 'a,b', 'work')$$);

-- trigger rules and quorums
SELECT pg_temp.try($$SELECT job_submit('k', trigger_rule => 'some_success')$$);
SELECT pg_temp.try($$SELECT job_submit('k', trigger_rule => 'ALL_DONE')$$);
SELECT pg_temp.try($$SELECT job_submit('k', trigger_rule => '')$$);
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s], trigger_rule => 'quorum')$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s], trigger_rule => 'quorum', quorum => 0)$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s], trigger_rule => 'quorum', quorum => -1)$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s], trigger_rule => 'quorum', quorum => 2)$$, :ready));
SELECT pg_temp.try($$SELECT job_submit('k', trigger_rule => 'quorum', quorum => 1)$$);
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s], quorum => 1)$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s], trigger_rule => 'one_success', quorum => 1)$$, :ready));

-- parents
SELECT pg_temp.try($$SELECT job_submit('k', depends_on => ARRAY[9223372036854775807])$$);
SELECT pg_temp.try($$SELECT job_submit('k', depends_on => ARRAY[0])$$);
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s, 9223372036854775807], trigger_rule => 'always')$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s, %s, %1$s])$$, :ready, :waiting));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[%s, NULL])$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit('k', depends_on => ARRAY[ARRAY[%s, %s]])$$, :ready, :waiting));
SELECT pg_temp.try($$SELECT job_submit('k', parent => 9223372036854775807)$$);

-- numbers and intervals
SELECT pg_temp.try($$SELECT job_submit('k', priority => 32768)$$);
SELECT pg_temp.try($$SELECT job_submit('k', priority => -32769)$$);
SELECT pg_temp.try(format($$SELECT job_submit('k', %s => %s)$$, name, value))
FROM unnest('{max_attempts,max_lost}'::text[]) name, unnest('{0,-1}'::text[]) value;
SELECT pg_temp.try(format($$SELECT job_submit('k', %s => %L)$$, name, value))
FROM unnest('{backoff,timeout,lease,run_in}'::text[]) name, unnest('{0,-1 us,1 day -25 h,1 month -31 days,72999 days 24:00:00.000001,300 years,-300 years,178000000 years}'::text[]) value
WHERE name NOT IN ('timeout', 'run_in') OR value <> '0';
SELECT pg_temp.try($$SELECT job_submit('k', run_at => '2999-01-01', run_in => '1 s')$$);
SELECT pg_temp.try(format($$SELECT job_submit('k', %s => %L)$$, name, value))
FROM unnest('{run_at,expires_at}'::text[]) name, unnest('{infinity,-infinity}'::text[]) value;
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', max_jobs => 0)$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', max_jobs => -1)$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('{bad}'::text[], max_jobs => 0)$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', lease => '0')$$);
SELECT pg_temp.try($$SELECT * FROM job_claim('bad', lease => '-1 s')$$);
SELECT pg_temp.try(format($$SELECT job_heartbeat(%s, %s, extend => '0')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT job_heartbeat(%s, %s, extend => '-1 s')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT job_snooze(%s, %s, '0')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT job_snooze(%s, %s, '-1 s')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT job_snooze(%s, %s, NULL)$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT job_fail(%s, %s, retry_in => '-1 s')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_fail_many(ARRAY[%s], ARRAY[%s], retry_in => '-1 s')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT job_queue_set('bad', %s => %s)$$, name, value))
FROM unnest('{max_attempts,max_lost}'::text[]) name, unnest('{0,-1}'::text[]) value;
SELECT pg_temp.try(format($$SELECT job_queue_set('bad', %s => %L)$$, name, value))
FROM unnest('{backoff,backoff_cap,timeout,lease}'::text[]) name, unnest('{0,-1 us}'::text[]) value WHERE (name, value) <> ('timeout', '0');
SELECT pg_temp.try($$SELECT job_queue_set('bad', notify => 'sometimes')$$);

-- arrays
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s], '{}')$$, :running));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s], ARRAY[%s], '{}')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s], ARRAY[%s], '{1,2}')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s, NULL], ARRAY[%s, 1])$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s], ARRAY[NULL::bigint])$$, :running));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(NULL, ARRAY[%s])$$, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s], NULL)$$, :running));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[ARRAY[%s]], ARRAY[%s])$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s, %1$s], ARRAY[%s, %2$s])$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_fail_many(ARRAY[%s], '{}')$$, :running));
SELECT pg_temp.try(format($$SELECT * FROM job_fail_many(ARRAY[%s], ARRAY[%s], '{}')$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_fail_many(ARRAY[%s], ARRAY[NULL::bigint])$$, :running));
SELECT pg_temp.try(format($$SELECT * FROM job_fail_many(ARRAY[%s, %1$s], ARRAY[%s, %2$s])$$, :running, :running_token));

-- jobs that do not exist
SELECT pg_temp.try(format('SELECT %s', call)) FROM unnest(ARRAY[
    'job_heartbeat(-1, 1)', 'job_complete(-1, 1)', 'job_fail(-1, 1)', 'job_release(-1, 1)', $$job_snooze(-1, 1, '1 s')$$, 'job_result(-1)', 'job_parents(-1)', 'job_children(-1)',
    'job_cancel(-1)', 'job_retry(-1)', 'job_hold(-1)', 'job_unhold(-1)']) call;
SELECT pg_temp.try(format('SELECT %s', call)) FROM unnest(ARRAY[
    'job_heartbeat(NULL, 1)', 'job_heartbeat(1, NULL)', 'job_complete(NULL, 1)', 'job_complete(1, NULL)', 'job_fail(NULL, 1)', 'job_release(1, NULL)',
    $$job_snooze(NULL, 1, '1 s')$$, 'job_result(NULL)', 'job_parents(NULL)', 'job_children(NULL)', 'job_cancel(NULL)', 'job_retry(NULL)', 'job_hold(NULL)', 'job_unhold(NULL)']) call;
CALL job_wait(-1, '1 s');
\echo :LAST_ERROR_SQLSTATE
CALL job_wait(NULL, '1 s');
\echo :LAST_ERROR_SQLSTATE

-- stale tokens: a wrong one, one of another job, one whose attempt is over
SELECT count(*) || E'\n' || try FROM (
    SELECT pg_temp.try(format('SELECT ' || call, job, token)) FROM unnest(ARRAY['job_heartbeat(%s, %s)', 'job_heartbeat(%s, %s, progress => ''1'')',
        'job_complete(%s, %s)', 'job_fail(%s, %s)', 'job_release(%s, %s)', 'job_snooze(%s, %s, ''1 s'')']) call,
        (VALUES (:running, :running_token # 1), (:running, :running2_token), (:running, 0), (:ready, :running_token), (:waiting, 1), (:scheduled, 1),
            (:succeeded, 1), (:failed, :failed_token), (:cancelled, 1), (:skipped, 1)) v(job, token)) t GROUP BY try;
SELECT count(*) || E'\n' || try FROM (
    SELECT pg_temp.try(format('SELECT ' || call, :succeeded, :succeeded_token)) FROM unnest(ARRAY['job_heartbeat(%s, %s)',
        'job_fail(%s, %s)', 'job_release(%s, %s)', 'job_snooze(%s, %s, ''1 s'')']) call) t GROUP BY try;
SELECT accepted FROM job_complete_many(ARRAY[:running, :succeeded, -1, :failed]::bigint[], ARRAY[:running_token # 1, :running_token, 1, :failed_token]::bigint[]);
SELECT accepted, state FROM job_fail_many(ARRAY[:running, :succeeded, -1, :failed]::bigint[], ARRAY[:running_token # 1, :succeeded_token, 1, :failed_token]::bigint[]);

-- states in which an act makes no sense
SELECT kind || ': ' || pg_temp.try(format('SELECT job_retry(%s)', id)) FROM job_status WHERE id IN (:succeeded, :upstream_failed, :skipped) ORDER BY id;
SELECT kind || ': ' || pg_temp.try(format('SELECT job_hold(%s)', id)) FROM job_status
WHERE id IN (:running, :succeeded, :failed, :upstream_failed, :skipped, :cancelled) ORDER BY id;
SELECT kind || ': ' || pg_temp.try(format('SELECT job_unhold(%s)', id)) FROM job_status
WHERE id IN (:succeeded, :failed, :upstream_failed, :skipped, :cancelled) ORDER BY id;

-- results over jobq.max_result_size
SET jobq.max_result_size = '1kB';
SELECT pg_temp.try(format($$SELECT job_complete(%s, %s, to_jsonb(repeat('x', 1100)))$$, :running, :running_token));
SELECT pg_temp.try(format($$SELECT * FROM job_complete_many(ARRAY[%s, %s], ARRAY[%s, %s], ARRAY['1'::jsonb, to_jsonb(repeat('x', 1100))])$$,
    :running, :running2, :running_token, :running2_token));
RESET jobq.max_result_size;

-- job_submit_many: what it is not
SELECT pg_temp.try($$SELECT job_submit_many(NULL)$$);
SELECT pg_temp.try($$SELECT job_submit_many('{}')$$);
SELECT pg_temp.try($$SELECT job_submit_many('null')$$);
SELECT pg_temp.try($$SELECT job_submit_many('"x"')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[1]')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k"}, null]')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k"}, [{"kind": "k"}]]')$$);

-- job_submit_many: one bad element; the good ones around it are not kept
SELECT pg_temp.try(format($$SELECT job_submit_many('[{"kind": "good", "queue": "bad_many"}, {"kind": "b", "queue": "bad_many", "name": "b", %s}, {"kind": "good", "queue": "bad_many"}]')$$, bad))
FROM unnest(ARRAY['"args": []', '"args": "x"', '"queue": "a b"', '"queue": 1', '"kind": ""', '"kind": null', '"kind": 1', '"kind": ["x"]', '"name": 1', '"name": ""',
    '"name": "a\tb"', '"run_in": "-1 s"', '"run_in": 60', '"run_in": "1 s", "run_at": "2999-01-01"',
    '"priority": 32768', '"priority": 1.5', '"priority": "1"', '"priority": 3000000000', '"priority": 1e30', '"run_at": "soon"', '"run_at": 1', '"run_at": "infinity"',
    '"depends_on": 1', '"depends_on": {}', '"depends_on": [null]', '"depends_on": [1.5]', '"depends_on": [[]]', '"depends_on": "b"', '"depends_on": ["x"]',
    '"depends_on": [1e30]', '"depends_on": [9223372036854775807]', '"depends_on": [0, 0]', '"trigger_rule": "x"', '"trigger_rule": 1', '"quorum": 1',
    '"trigger_rule": "quorum"', '"trigger_rule": "quorum", "quorum": 1', '"max_attempts": 0', '"max_attempts": true', '"max_lost": -1', '"backoff": "0"', '"backoff": 1',
    '"timeout": "-1 s"', '"lease": "x"', '"lease": "0"', '"expires_at": "x"', '"expires_at": "-infinity"', '"parent": "x"', '"parent": 9223372036854775807', '"parent": 0.1',
    '"notify": "yes"', '"colour": "red"', '"Kind": "k"', '"retries": null', '"job_id": 1']) bad;
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k"}, {"queue": "q"}]')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k", "name": "x"}, {"kind": "k"}, {"kind": "k", "name": "x"}]')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k", "name": "x"}, {"kind": "k", "name": "y", "depends_on": ["x", "x"]}]')$$);
SELECT pg_temp.try(format($$SELECT job_submit_many('[{"kind": "k"}, {"kind": "k", "name": "y", "depends_on": [%s, %1$s]}]')$$, :ready));
SELECT pg_temp.try(format($$SELECT job_submit_many('[{"kind": "k", "name": "%s"}, {"kind": "k", "depends_on": [%1$s, "%1$s"], "trigger_rule": "quorum", "quorum": 3}]')$$, :ready));

-- job_submit_many: cycles
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k", "name": "me", "depends_on": ["me"]}]')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k", "name": "a", "depends_on": ["b"]}, {"kind": "k", "name": "b", "depends_on": ["a"]}]')$$);
SELECT pg_temp.try($$SELECT job_submit_many('[{"kind": "k", "name": "start"}, {"kind": "k", "name": "in", "depends_on": ["start", "z"]},
    {"kind": "k", "name": "x", "depends_on": ["in"]}, {"kind": "k", "name": "y", "depends_on": ["x", "start"]}, {"kind": "k", "name": "z", "depends_on": ["y"]},
    {"kind": "k", "depends_on": ["z"]}]')$$);

-- privileges of which there are none
SELECT pg_temp.try($$SELECT job_grant('pg_monitor', 'bad', 'own')$$);
SELECT pg_temp.try($$SELECT job_grant(NULL, 'bad', 'work')$$);
SELECT pg_temp.try($$SELECT job_grant('pg_monitor', NULL, 'work')$$);
SELECT pg_temp.try($$SELECT job_grant('pg_monitor', 'bad', NULL)$$);
SELECT pg_temp.try($$SELECT job_grant('nobody_at_all', 'bad', 'work')$$);
SELECT regexp_replace(pg_temp.try($$SELECT job_grant(4294967295::oid::regrole, 'bad', 'work')$$), '\d{10}', 'N');
SELECT pg_temp.try($$SELECT job_revoke('pg_monitor', 'bad', 'own')$$);

-- read-only transactions: looking is allowed
BEGIN READ ONLY;
SELECT pg_temp.try(format('SELECT ' || call, :running, :running_token)) FROM unnest(ARRAY['job_submit(''k'')', 'job_submit_many(''[]'')', 'job_claim(''bad'')',
    'job_claim(''{bad}''::text[])', 'job_heartbeat(%s, %s)', 'job_complete(%s, %s)', 'job_complete_many(ARRAY[%s], ARRAY[%s])', 'job_fail(%s, %s)',
    'job_fail_many(ARRAY[%s], ARRAY[%s])', 'job_release(%s, %s)', 'job_snooze(%s, %s, ''1 s'')', 'job_cancel(%s)', 'job_retry(%s)', 'job_hold(%s)', 'job_unhold(%s)',
    'job_queue_set(''bad'', true)', 'job_grant(''pg_monitor'', ''bad'', ''work'')', 'job_revoke(''pg_monitor'', ''bad'', ''work'')']) call;
SELECT job_result(:succeeded);
SELECT kind, state FROM job_status WHERE id = :running;
SELECT queue, ready, running FROM job_queue_status WHERE queue = 'bad';
COMMIT;

-- in parallel workers, where nobody would call them by accident
CREATE FUNCTION bad_parallel(command text) RETURNS text LANGUAGE plpgsql PARALLEL SAFE AS $$
BEGIN
    EXECUTE command;
    RETURN 'ACCEPTED';
END $$;
SELECT set_config(CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'force_parallel_mode' ELSE 'debug_parallel_query' END, 'on', false);
\set VERBOSITY terse
SELECT bad_parallel($$SELECT job_submit('k')$$);
\echo :LAST_ERROR_SQLSTATE
SELECT bad_parallel($$SELECT job_claim('bad')$$);
\echo :LAST_ERROR_SQLSTATE
SELECT bad_parallel($$SELECT job_cancel(1)$$);
\echo :LAST_ERROR_SQLSTATE
SELECT bad_parallel($$SELECT job_result(1)$$);
\echo :LAST_ERROR_SQLSTATE
SELECT set_config(CASE WHEN current_setting('server_version_num')::int < 160000 THEN 'force_parallel_mode' ELSE 'debug_parallel_query' END, 'off', false);
DROP FUNCTION bad_parallel;

-- PREPARE TRANSACTION after a claim
\set VERBOSITY default
BEGIN;
SELECT kind FROM job_claim('bad');
PREPARE TRANSACTION 'claimed';
\echo :LAST_ERROR_SQLSTATE
SELECT count(*) FROM pg_prepared_xacts WHERE gid = 'claimed';

-- a procedure that waits, in a transaction block, from a function, with bad arguments
BEGIN;
CALL job_wait(:succeeded, '1 s');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
BEGIN;
CALL job_claim_wait('bad', 'w', '1 s');
\echo :LAST_ERROR_SQLSTATE
ROLLBACK;
CREATE FUNCTION pg_temp.waits(id bigint) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    state text; result jsonb;
BEGIN
    CALL job_wait(id, '1 s', state, result);
END $$;
SELECT pg_temp.try(format('SELECT pg_temp.waits(%s)', :succeeded));
\set VERBOSITY terse
CALL job_wait(:succeeded, '-1 s');
\echo :LAST_ERROR_SQLSTATE
CALL job_claim_wait('b a d', 'w', '1 s');
\echo :LAST_ERROR_SQLSTATE
CALL job_claim_wait('bad', '', '1 s');
\echo :LAST_ERROR_SQLSTATE
CALL job_claim_wait('bad', 'w', '-1 s');
\echo :LAST_ERROR_SQLSTATE
CALL job_claim_wait('bad', 'w', '1 s', '0');
\echo :LAST_ERROR_SQLSTATE
CALL job_claim_wait('bad', 'w', '1 s', labels => '{""}');
\echo :LAST_ERROR_SQLSTATE
SELECT pg_temp.try(call) FROM unnest(ARRAY[
    'SELECT job_claim(''bad'', labels => ARRAY[''gpu'', NULL])', 'SELECT job_claim(''bad'', labels => ''{{gpu}}'')', 'SELECT job_claim(''bad'', labels => ''{""}'')',
    'SELECT job_claim(''{bad}''::text[], labels => ARRAY[E''a\nb''])', 'SELECT job_claim(''bad'', labels => ARRAY[repeat(''l'', 129)])',
    'SELECT job_claim(''bad'', labels => ARRAY(SELECT ''l'' || i FROM generate_series(1, 101) i))']) call;
SELECT pg_temp.try(format('SELECT job_submit(''k'', requires => %s)', requires)) FROM unnest(ARRAY['ARRAY[''gpu'', NULL]', '''{{gpu}}''', '''{""}''', 'ARRAY[E''a\nb'']',
    'ARRAY[repeat(''l'', 129)]', 'ARRAY(SELECT ''l'' || i FROM generate_series(1, 101) i)']) requires;
SELECT pg_temp.try(format('SELECT job_submit_many(''[{"kind": "k", "requires": %s}]'')', requires)) FROM unnest(ARRAY['"gpu"', '{}', '[1]', '[null]', '[""]', '[["gpu"]]']) requires;

-- settings
SET jobq.max_attempts = 0;
\echo :LAST_ERROR_SQLSTATE
SET jobq.no_such_setting = 1;
\echo :LAST_ERROR_SQLSTATE

-- leases out of their bounds
SET jobq.min_lease = '1s';
SELECT pg_temp.try(replace(call, '#', lease)) FROM unnest(ARRAY['999 ms', '1441 min']) lease, unnest(ARRAY['SELECT job_submit(''k'', lease => ''#'')',
    'SELECT job_submit_many(''[{"kind": "k", "lease": "#"}]'')', 'SELECT job_claim(''bad'', lease => ''#'')', 'SELECT job_claim(''{bad}''::text[], lease => ''#'')',
    'CALL job_claim_wait(''bad'', ''w'', ''0'', ''#'')', 'SELECT job_heartbeat(1, 1, ''#'')', 'SELECT job_queue_set(''bad'', lease => ''#'')']) call;
RESET jobq.min_lease;
-- -1 is for ever in the settings only
SELECT pg_temp.try(format('SELECT job_queue_set(''bad'', %s => ''-1'')', what)) FROM unnest('{retention,retention_failed}'::text[]) what;
-- more queues than a claim takes
SELECT pg_temp.try($$SELECT job_claim((SELECT array_agg('bad' || i) FROM generate_series(1, 1001) i))$$);

-- nothing changed
SELECT pg_temp.fingerprint() = :'before' AS unchanged;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'bad%' AND finished_at IS NULL;
