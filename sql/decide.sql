-- hold and manual at submission; job_decide: every state it can be called in, every outcome, and what follows downstream
\set VERBOSITY terse
CREATE FUNCTION pg_temp.show(queue text) RETURNS TABLE (kind text, state text, held boolean, manual boolean, result jsonb, error text) LANGUAGE sql AS
    $$ SELECT kind, state, held, manual, result, error FROM job_status s WHERE s.queue = show.queue ORDER BY id $$;

-- hold: as if job_hold had been called at once
SELECT job_submit('held', queue => 'dec', hold => true) AS held \gset
SELECT job_submit('held, later', queue => 'dec', run_at => '2999-01-01', hold => true) AS later \gset
SELECT job_submit('held, down', queue => 'dec', depends_on => ARRAY[:held], hold => true) AS down \gset
SELECT job_submit('not held', queue => 'dec_not', hold => false) AS free \gset
SELECT job_submit('NULL is the default', queue => 'dec_not', hold => NULL, manual => NULL) > 0;
SELECT count(*) FROM job_submit_many('[{"kind": "held, one of many", "name": "a", "queue": "dec", "hold": true}, {"kind": "its child", "queue": "dec", "depends_on": ["a"], "hold": null}]');
SELECT * FROM pg_temp.show('dec');
SELECT kind, state FROM job_status WHERE queue = 'dec_not' ORDER BY id;
SELECT job_hold(:held), job_unhold(:held), job_unhold(:later), job_unhold(:down);
SELECT * FROM pg_temp.show('dec');
SELECT count(*) FROM job_submit_many('[{"kind": "k", "hold": "yes"}]');
SELECT count(*) FROM job_submit_many('[{"kind": "k", "manual": 1}]');
-- what is decided when it is submitted is not held
SELECT job_submit('up', queue => 'dec_up') AS up \gset
SELECT job_cancel(:up);
SELECT job_submit('hopeless', queue => 'dec_up', depends_on => ARRAY[:up], hold => true, manual => true) AS hopeless \gset
SELECT * FROM pg_temp.show('dec_up');

-- manual: nobody runs it, whether or not its dependencies are met
SELECT job_submit('order', queue => 'man') AS order \gset
SELECT job_submit('approve', queue => 'man', depends_on => ARRAY[:order], manual => true) AS approve \gset
SELECT job_submit('ship', queue => 'man', depends_on => ARRAY[:approve]) AS ship \gset
SELECT job_submit('sign', queue => 'man', manual => true, run_at => '2999-01-01') AS sign \gset
SELECT job_complete(job_id, token) FROM job_claim('man', max_jobs => 10);
SELECT * FROM pg_temp.show('man');
SELECT count(*) FROM job_claim('man', max_jobs => 10);
SELECT job_id = :approve AS approve, open, held, manual FROM job_waiting WHERE job_id IN (:approve, :sign) ORDER BY job_id;
SELECT job_decide(:approve, 'succeeded', '{"by": "Ada"}', 'looks good');
SELECT * FROM pg_temp.show('man');
SELECT kind, inputs = jsonb_build_object(:approve, jsonb '{"by": "Ada"}') AS inputs FROM job_claim('man', 'w', lease => '1 day');
SELECT job_result(:approve), job_decide(:approve, 'failed'), job_decide(:approve, 'succeeded');
SELECT attempt, last_error FROM job_status WHERE id = :approve;
SELECT count(*) FROM job_attempts WHERE job_id = :approve;
SELECT decided_by = current_user::regrole AS by_me, attempt_outcome FROM job WHERE id = :approve;
SELECT reason, detail, regexp_replace(hint, '\d+', 'N') AS hint FROM job_explain(:sign);
-- held, let go, cancelled, retried: it waits again
SELECT job_hold(:sign), job_hold(:sign), job_unhold(:sign), job_unhold(:sign), job_cancel(:sign, 'nobody is there');
SELECT job_retry(:sign), job_retry(:sign);
SELECT state, held, manual, error FROM job_status WHERE id = :sign;
SELECT count(*) FROM job_claim('man');
SELECT job_decide(:sign, 'failed', reason => 'refused');
SELECT state, error, last_error FROM job_status WHERE id = :sign;
SELECT job_retry(:sign), job_hold(:sign), job_decide(:sign, 'succeeded');
-- held before its dependencies are met, and after
SELECT job_submit('a', queue => 'man2') AS a \gset
SELECT job_submit('b', queue => 'man2', depends_on => ARRAY[:a], manual => true, hold => true) AS b \gset
SELECT job_complete(job_id, token) FROM job_claim('man2');
SELECT open, held, manual FROM job_waiting WHERE job_id = :b;
SELECT job_unhold(:b);
SELECT open, held, manual FROM job_waiting WHERE job_id = :b;
-- one whose dependencies cannot be met is decided by them, and opened again with them
SELECT job_submit('a', queue => 'man3') AS a \gset
SELECT job_submit('b', queue => 'man3', depends_on => ARRAY[:a], manual => true) AS b \gset
SELECT job_fail(job_id, token, retry => false) FROM job_claim('man3');
SELECT * FROM pg_temp.show('man3');
SELECT job_retry(:a);
SELECT * FROM pg_temp.show('man3');
SELECT job_complete(job_id, token) FROM job_claim('man3');
SELECT * FROM pg_temp.show('man3');
SELECT job_decide(:b, 'succeeded');

-- expires_at is the deadline of a manual job
SELECT job_submit('too late', queue => 'man4', manual => true, expires_at => now() + interval '1 ms') AS late \gset
CALL job_wait(:late, '1 min');
SELECT * FROM pg_temp.show('man4');

-- every outcome, of a job in every state, and what it means downstream
CREATE PROCEDURE pg_temp.decide_all() LANGUAGE plpgsql AS $$
DECLARE
    s text; o text; up bigint; job bigint; child bigint; other bigint; decided boolean;
BEGIN
    FOREACH o IN ARRAY '{succeeded,failed,skipped,cancelled}'::text[] LOOP
        FOREACH s IN ARRAY '{waiting,scheduled,ready,held}'::text[] LOOP
            up := job_submit('up', queue => 'all', run_at => '2999-01-01');
            job := job_submit('job', queue => 'all', run_at => CASE s WHEN 'scheduled' THEN '2999-01-01'::timestamptz END,
                depends_on => CASE s WHEN 'waiting' THEN ARRAY[up] END, hold => s = 'held');
            child := job_submit('child', queue => 'all', depends_on => ARRAY[job]);
            other := job_submit('other', queue => 'all', depends_on => ARRAY[job], trigger_rule => 'all_done');
            decided := job_decide(job, o, reason => 'said so');
            RAISE NOTICE '%, %: %, is %; child %, other %', s, o, decided, (SELECT state FROM job_status WHERE id = job),
                (SELECT state FROM job_status WHERE id = child), (SELECT state FROM job_status WHERE id = other);
        END LOOP;
    END LOOP;
END $$;
CALL pg_temp.decide_all();
-- one that waits for its next attempt
SELECT job_submit('tries', queue => 'try', notify => true) AS tries \gset
SELECT job_fail(job_id, token, 'first', retry_in => '1 day') FROM job_claim('try');
SELECT job_decide(:tries, 'succeeded', '1', 'done by hand');
SELECT state, attempt, error, last_error, result FROM job_status WHERE id = :tries;
SELECT attempt, outcome, error FROM job_attempts WHERE job_id = :tries;

-- what was skipped by a person stays so, whatever becomes of what it depended on; it can be retried itself
SELECT job_submit('a', queue => 'skip') AS a \gset
SELECT job_submit('b', queue => 'skip', depends_on => ARRAY[:a]) AS b \gset
SELECT job_submit('c', queue => 'skip', depends_on => ARRAY[:b], trigger_rule => 'all_skipped') AS c \gset
SELECT job_decide(:b, 'skipped'), job_cancel(:a), job_retry(:a);
SELECT * FROM pg_temp.show('skip');
SELECT reason, regexp_replace(detail, 'at .*,', 'at T,') AS detail, regexp_replace(hint, '\d+', 'N') AS hint FROM job_explain(:b);
SELECT job_retry(:b);
SELECT * FROM pg_temp.show('skip');
SELECT decided_by FROM job WHERE id = :b;

-- a token of before does not complete it
SELECT job_submit('k', queue => 'tok') AS k \gset
SELECT token FROM job_claim('tok') \gset
SELECT job_release(:k, :token), job_decide(:k, 'succeeded');
SELECT accepted FROM job_complete_many(ARRAY[:k], ARRAY[:token]);
SELECT accepted FROM job_complete_many(ARRAY[:k], ARRAY[0]);

-- refused
\set VERBOSITY default
SELECT job_submit('k', queue => 'dec_bad') AS bad \gset
SELECT job_decide(:bad, 'upstream_failed');
SELECT job_decide(:bad, 'running');
SELECT job_decide(:bad, 'failed', '1');
SELECT job_decide(1, NULL);
SELECT job_decide(NULL, 'failed');
SELECT job_decide(0, 'failed');
SELECT state FROM job_status WHERE id = :bad;
SET jobq.max_result_size = '1kB';
DO $$ BEGIN PERFORM job_decide((SELECT id FROM job_status WHERE queue = 'dec_bad'), 'succeeded', to_jsonb(repeat('x', 2000)));
EXCEPTION WHEN program_limit_exceeded THEN RAISE NOTICE '%', regexp_replace(SQLERRM, '\d+', 'N'); END $$;
RESET jobq.max_result_size;
SELECT count(*) FROM job_claim('dec_bad');
DO $$ BEGIN PERFORM job_decide((SELECT id FROM job_status WHERE queue = 'dec_bad'), 'succeeded');
EXCEPTION WHEN SQLSTATE 'JQ003' THEN RAISE NOTICE '%', regexp_replace(SQLERRM, '\d+', 'N'); END $$;
\set VERBOSITY terse

-- it takes operate: to have submitted it is not enough
CREATE ROLE jobq_decide;
SELECT job_grant('jobq_decide', 'dec_p', 'submit'), job_grant('jobq_decide', 'dec_q', 'operate');
SET ROLE jobq_decide;
SELECT job_submit('own', queue => 'dec_p', manual => true) AS own \gset
SELECT job_decide(:own, 'succeeded');
SELECT job_cancel(:own);
RESET ROLE;
SELECT job_submit('theirs', queue => 'dec_q', manual => true) AS theirs \gset
SELECT job_submit('unseen', queue => 'dec_p', manual => true) AS unseen \gset
SET ROLE jobq_decide;
SELECT job_decide(:theirs, 'succeeded');
SELECT set_config('jobq_test.unseen', :'unseen', false) = :'unseen';
DO $$ BEGIN PERFORM job_decide(current_setting('jobq_test.unseen')::bigint, 'failed');
EXCEPTION WHEN OTHERS THEN RAISE NOTICE '% %', SQLSTATE, regexp_replace(SQLERRM, '\d+', 'N'); END $$;
RESET ROLE;
SELECT job_revoke('jobq_decide', 'dec_p', 'submit'), job_revoke('jobq_decide', 'dec_q', 'operate');
DROP ROLE jobq_decide;
