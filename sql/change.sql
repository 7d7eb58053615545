-- job_change: each option, of a job in each state; what follows from it; what is refused
\set VERBOSITY terse
CREATE FUNCTION pg_temp.show(VARIADIC queues text[]) RETURNS TABLE (queue text, kind text, state text, priority int, args jsonb, tags jsonb) LANGUAGE sql AS
    $$ SELECT s.queue, kind, state, priority, args, tags FROM job_status s WHERE s.queue = ANY (queues) ORDER BY id $$;

-- a ready job: priority and queue decide when it is claimed, and from where
SELECT job_submit('a', queue => 'chg') AS a \gset
SELECT job_submit('b', queue => 'chg') AS b \gset
SELECT job_submit('c', queue => 'chg') AS c \gset
SELECT job_change(:c, priority => 5), job_change(:b, queue => 'chg_other'), job_change(:a, args => '{"n": 1}', tags => '{"t": 2}');
SELECT * FROM pg_temp.show('chg', 'chg_other');
SELECT kind, args FROM job_claim('chg', 'w', 10, '1 day');
SELECT kind FROM job_claim('chg_other', 'w', 10, '1 day');
SELECT job_complete(l.job_id, token) FROM job_lease l WHERE job_id IN (:a, :b);
-- one that runs: priority and tags, no more
SELECT job_change(:c, priority => -3, tags => '["x"]');
SELECT job_change(:c, priority => -3), job_change(:c), job_change(:c, tags => '["x"]');
SELECT priority, tags, state FROM job_status WHERE id = :c;
SELECT job_fail(:c, token, retry_in => '0') FROM job_lease WHERE job_id = :c;
SELECT priority, state FROM job_status WHERE id = :c;
SELECT kind FROM job_claim('chg', 'w', lease => '1 day');
SELECT job_release(:c, token) FROM job_lease WHERE job_id = :c;

-- a ready job keeps its place unless its priority or queue changes
SELECT count(job_submit('in turn ' || n, queue => 'turn')) FROM generate_series(1, 4) n;
SELECT kind, job_change(id, args => '{"x": 1}', max_attempts => 7, timeout => '1 min') FROM job_status WHERE queue = 'turn' AND kind IN ('in turn 1', 'in turn 3') ORDER BY id;
SELECT kind, job_change(id, priority => 1), job_change(id, priority => 0) FROM job_status WHERE queue = 'turn' AND kind = 'in turn 2';
SELECT kind FROM job_claim('turn', max_jobs => 10);

-- the clock: later, earlier, now; expiry too
SELECT job_submit('time', queue => 'time') AS time \gset
SELECT job_change(:time, run_at => '2999-01-01');
SELECT state, run_at FROM job_status WHERE id = :time;
SELECT job_change(:time, run_at => '2998-01-01'), job_change(:time, run_at => '2998-01-01');
SELECT state, run_at FROM job_status WHERE id = :time;
SELECT job_change(:time, run_at => '2001-01-01');
SELECT state, run_at FROM job_status WHERE id = :time;
SELECT job_change(:time, run_at => '2999-01-01', expires_at => '2999-01-01'), job_change(:time, expires_at => '2999-01-01');
SELECT state, expires_at FROM job_status WHERE id = :time;
SELECT count(*) FROM job_expiry WHERE job_id = :time;
SELECT job_change(:time, expires_at => '2001-01-01');
CALL job_wait(:time, '1 min');
-- one that would have expired is saved
SELECT job_submit('saved', queue => 'time', run_at => '2999-01-01', expires_at => '2999-01-01') AS saved \gset
SELECT job_change(:saved, expires_at => '2999-02-01');
SELECT count(*) FROM job_expiry WHERE job_id = :saved;
SELECT state, expires_at FROM job_status WHERE id = :saved;
-- the time of the next attempt
SELECT job_submit('again', queue => 'again') AS again \gset
SELECT job_fail(job_id, token, retry_in => '1 day') FROM job_claim('again');
SELECT job_change(:again, run_at => '2001-01-01', args => '{"fixed": true}', max_attempts => 2);
SELECT args, attempt FROM job_claim('again');
SELECT job_fail(:again, token) FROM job_lease WHERE job_id = :again;

-- waiting for others, held, manual: it still is
SELECT job_submit('up', queue => 'wait') AS up \gset
SELECT job_submit('down', queue => 'wait', depends_on => ARRAY[:up]) AS down \gset
SELECT job_submit('held', queue => 'wait', hold => true) AS held \gset
SELECT job_submit('manual', queue => 'wait', manual => true) AS manual \gset
SELECT id = :down AS down, job_change(id, queue => 'wait_other', priority => 3, args => '{"a": 1}') FROM job_status WHERE id IN (:down, :held, :manual) ORDER BY id;
SELECT * FROM pg_temp.show('wait', 'wait_other');
SELECT job_complete(job_id, token) FROM job_claim('wait');
SELECT job_unhold(:held);
SELECT kind, args FROM job_claim('wait_other', max_jobs => 10);
SELECT queue, waiting, ready, running FROM job_queue_status WHERE queue IN ('wait', 'wait_other') ORDER BY 1;

-- the unique key goes along
SELECT job_submit('key', queue => 'chgu', unique_key => 'k') AS key \gset
SELECT job_submit('key', queue => 'chgu_other', unique_key => 'k') AS taken \gset
SELECT job_change(:key, queue => 'chgu_free'), job_submit('key', queue => 'chgu_free', unique_key => 'k') = :key AS kept;
SELECT job_submit('key', queue => 'chgu', unique_key => 'k') <> :key AS free;
DO $$ BEGIN PERFORM job_change((SELECT id FROM job_status WHERE queue = 'chgu_free'), queue => 'chgu_other');
EXCEPTION WHEN unique_violation THEN RAISE NOTICE '% %', SQLSTATE, SQLERRM; END $$;
SELECT queue FROM job_status WHERE id = :key;
SELECT job_cancel(:taken), job_change(:key, queue => 'chgu_other'), job_submit('key', queue => 'chgu_other', unique_key => 'k') = :key AS kept;
SELECT queue_id = job_queue_id('chgu_other') AS other, count(*) FROM job_unique WHERE job_id = :key GROUP BY 1;
-- that of the old queue is free, or that of the job which it superseded, and which goes on
SELECT job_submit('old', queue => 'chgu_old', unique_key => 'k') AS old \gset
SELECT job_id AS held, token FROM job_claim('chgu_old') \gset
SELECT job_submit('new', queue => 'chgu_old', unique_key => 'k', on_conflict => 'cancel') AS new \gset
SELECT job_change(:new, queue => 'chgu_new'), job_submit('kept', queue => 'chgu_old', unique_key => 'k') = :old AS kept;
SELECT kind, state FROM job_status WHERE id IN (:old, :new) ORDER BY id;
SELECT job_complete(:held, :token);
SELECT kind FROM job_claim('chgu_new');

-- refused, and nothing is changed
CREATE FUNCTION pg_temp.refused(call text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE 'SELECT ' || call;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ' ' || regexp_replace(SQLERRM, 'job \d+', 'job N') || coalesce(' (' || nullif(hint, '') || ')', '');
END $$;
SELECT job_submit('bad', '{"a": 1}', queue => 'chg_bad', tags => '{"t": 1}') AS bad \gset
SELECT pg_temp.refused(format('job_change(%s, %s)', :bad, what)) FROM unnest(ARRAY['priority => 40000', 'queue => ''no such name!''', 'args => ''[]''', 'run_at => ''infinity''',
    'expires_at => ''-infinity''', 'max_attempts => 0', 'timeout => ''-1 s''', 'partition => ''''', 'args => jsonb_build_object(''a'', repeat(''x'', 2000000))']) what;
SET jobq.max_args_size = '2kB';
SELECT pg_temp.refused(format('job_change(%s, args => jsonb_build_object(''a'', repeat(''x'', 2500)))', :bad)), pg_temp.refused(format('job_change(%s, tags => to_jsonb(repeat(''x'', 1500)))', :bad));
RESET jobq.max_args_size;
SELECT pg_temp.refused('job_change(0, priority => 1)'), pg_temp.refused('job_change(NULL)');
SELECT kind FROM job_claim('chg_bad', lease => '1 day');
SELECT pg_temp.refused(format('job_change(%s, %s)', :bad, what)) FROM unnest(ARRAY['args => ''{}''', 'priority => 1, queue => ''other''', 'run_at => now()', 'expires_at => now()', 'max_attempts => 5', 'timeout => ''1 s''']) what;
SELECT job_complete(:bad, token) FROM job_lease WHERE job_id = :bad;
SELECT pg_temp.refused(format('job_change(%s, priority => 1)', :bad)), pg_temp.refused(format('job_change(%s)', :bad));
SELECT priority, args, tags, max_attempts = current_setting('jobq.max_attempts')::int AS unchanged FROM job_status WHERE id = :bad;

-- one that ended, as the hint says
SELECT job_submit('ended', queue => 'chg_ended') AS ended \gset
SELECT job_cancel(:ended);
BEGIN;
SELECT job_retry(:ended), job_change(:ended, priority => 5);
COMMIT;
SELECT state, priority FROM job_status WHERE id = :ended;

-- by the submitter and who may operate; another queue takes submit there
CREATE ROLE jobq_change;
CREATE ROLE jobq_change_op;
SELECT job_grant('jobq_change', 'chg_p', 'submit'), job_grant('jobq_change_op', 'chg_p', 'operate'), job_grant('jobq_change_op', 'chg_q', 'submit');
SELECT job_submit('theirs', queue => 'chg_p') AS theirs \gset
SET ROLE jobq_change;
SELECT job_submit('own', queue => 'chg_p') AS own \gset
SELECT pg_temp.refused(format('job_change(%s, priority => 1)', :own)), pg_temp.refused(format('job_change(%s, queue => ''chg_q'')', :own)), pg_temp.refused(format('job_change(%s, priority => 1)', :theirs));
SET ROLE jobq_change_op;
SELECT pg_temp.refused(format('job_change(%s, priority => 2)', :own)), pg_temp.refused(format('job_change(%s, queue => ''chg_q'')', :own)), pg_temp.refused(format('job_change(%s, queue => ''chg_r'')', :theirs));
RESET ROLE;
SELECT * FROM pg_temp.show('chg_p', 'chg_q', 'chg_r');
SELECT count(*) FROM job_queue WHERE name = 'chg_r';
SELECT job_revoke('jobq_change', 'chg_p', 'submit'), job_revoke('jobq_change_op', 'chg_p', 'operate'), job_revoke('jobq_change_op', 'chg_q', 'submit');
DROP ROLE jobq_change, jobq_change_op;
