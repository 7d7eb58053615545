-- job_cancel, job_take_back, job_retry, job_hold, job_unhold: in every state, and what they do to those who depend on it
\set VERBOSITY terse
CREATE FUNCTION pg_temp.show(queue text) RETURNS TABLE (kind text, state text, attempt int, cancel_requested boolean, error text) LANGUAGE sql AS
    $$ SELECT kind, state, attempt, cancel_requested, error FROM job_status s WHERE s.queue = show.queue ORDER BY id $$;

-- claim a job of a queue as soon as it is ready
CREATE FUNCTION pg_temp.claimed(name text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    claimed text;
BEGIN
    FOR i IN 1 .. 6000 LOOP
        SELECT kind INTO claimed FROM job_claim(name, 'w', lease => '1 day');
        EXIT WHEN claimed IS NOT NULL;
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN claimed;
END $$;

-- cancelling what does not run decides it at once
SELECT job_submit('ready', queue => 'ctl') AS ready \gset
SELECT job_submit('scheduled', queue => 'ctl', run_at => '2999-01-01') AS scheduled \gset
SELECT job_submit('waiting', queue => 'ctl', depends_on => ARRAY[:scheduled]) AS waiting \gset
SELECT job_submit('child of waiting', queue => 'ctl', depends_on => ARRAY[:waiting], trigger_rule => 'all_done', run_at => '2999-01-01') AS child \gset
SELECT job_submit('held', queue => 'ctl', run_at => '2999-01-01') AS held \gset
SELECT job_hold(:held);
SELECT job_cancel(:ready), job_cancel(:waiting, 'not needed'), job_cancel(:scheduled, ''), job_cancel(:held, 'x');
SELECT * FROM pg_temp.show('ctl');
SELECT job_cancel(:ready, 'again'), job_cancel(:waiting), job_cancel(:child), job_cancel(:child);
SELECT * FROM pg_temp.show('ctl');
SELECT count(*) FROM job_attempts WHERE job_id IN (:ready, :scheduled, :waiting, :held);
SELECT count(*) FROM job_claim('ctl');

-- cancelling what runs is a request: the heartbeat says so, and whatever end but success the worker gives it, it is cancelled
SELECT count(job_submit('runs ' || n, queue => 'ctl_run', max_attempts => 9)) FROM generate_series(1, 6) n;
SELECT kind FROM job_claim('ctl_run', 'w', 6);
CREATE TEMP TABLE r AS SELECT row_number() OVER (ORDER BY j.id) AS n, j.id, l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'ctl_run';
SELECT bool_and(job_heartbeat(id, token)) FROM r;
SELECT bool_and(job_cancel(id, 'because')) FROM r;
SELECT bool_or(job_cancel(id, 'because')) FROM r;
SELECT * FROM pg_temp.show('ctl_run');
SELECT bool_or(job_heartbeat(id, token)), bool_or(job_heartbeat(id, token, '1 hour', '1')) FROM r;
SELECT job_complete(id, token, '"done"') FROM r WHERE n = 1;
SELECT job_fail(id, token, 'stopped') FROM r WHERE n = 2;
SELECT job_fail(id, token, 'stopped', retry => false) FROM r WHERE n = 3;
SELECT job_release(id, token) FROM r WHERE n = 4;
SELECT job_snooze(id, token, '1 hour') FROM r WHERE n = 5;
SELECT accepted, state FROM job_fail_many((SELECT array_agg(id) FROM r WHERE n = 6), (SELECT array_agg(token) FROM r WHERE n = 6));
SELECT * FROM pg_temp.show('ctl_run');
SELECT n, outcome, a.error FROM job_attempts a JOIN r ON r.id = a.job_id ORDER BY n;
DROP TABLE r;

-- a request that is rolled back was never made
SELECT job_submit('back', queue => 'ctl_back') AS back \gset
SELECT token FROM job_claim('ctl_back') \gset
BEGIN;
SELECT job_cancel(:back);
SELECT job_heartbeat(:back, :token);
ROLLBACK;
SELECT job_heartbeat(:back, :token);
SELECT cancel_requested FROM job_status WHERE id = :back;
-- a request without a reason keeps the worker's error
SELECT job_cancel(:back);
SELECT job_fail(:back, :token, 'mine');
SELECT * FROM pg_temp.show('ctl_back');

-- a job can be taken back from a worker that is alive and has asked for long: it is lost, as if its lease had run out
SELECT job_submit('taken', queue => 'ctl_take', max_lost => 3, backoff => '1 us', timeout => '100 years') AS taken \gset
SELECT job_submit('child', queue => 'ctl_take', depends_on => ARRAY[:taken], trigger_rule => 'one_failed') AS child \gset
SELECT job_take_back(:taken), job_take_back(:child);
SELECT token FROM job_claim('ctl_take', 'w', lease => '1 day') \gset
SELECT job_heartbeat(:taken, :token, '1 day', '1');
SELECT job_take_back(:taken, 'the machine is on fire');
SELECT job_take_back(:taken);
\set VERBOSITY sqlstate
SELECT job_heartbeat(:taken, :token);
SELECT job_complete(:taken, :token);
SELECT job_take_back(-1);
SELECT job_take_back(NULL);
\set VERBOSITY terse
SELECT accepted FROM job_complete_many(ARRAY[:taken], ARRAY[:token]);
SELECT attempt, worker, outcome, error FROM job_attempts WHERE job_id = :taken;
SELECT attempt, lost FROM job_status WHERE id = :taken;
-- where that is rolled back the attempt goes on
SELECT pg_temp.claimed('ctl_take');
BEGIN;
SELECT job_take_back(:taken);
ROLLBACK;
SELECT job_heartbeat(:taken, (SELECT token FROM job_lease WHERE job_id = :taken));
SET jobq.max_error_size = '1kB';
SELECT job_take_back(:taken, repeat('x', 2000));
RESET jobq.max_error_size;
-- the last of max_lost fails it; one that is to be cancelled is cancelled
SELECT pg_temp.claimed('ctl_take');
SELECT job_take_back(:taken);
SELECT kind, state, attempt, lost, right(error, 35) AS error FROM job_status WHERE queue = 'ctl_take' ORDER BY id;
SELECT attempt, outcome, right(error, 35) AS error FROM job_attempts WHERE job_id = :taken ORDER BY attempt;
SELECT job_submit('asked', queue => 'ctl_take2') AS asked \gset
SELECT count(*) FROM job_claim('ctl_take2');
SELECT job_cancel(:asked, 'no use');
SELECT job_take_back(:asked, 'now');
SELECT * FROM pg_temp.show('ctl_take2');

-- a cancelled job can be retried, a failed one too; what still runs or waits is left alone
SELECT job_retry(:back);
SELECT job_retry(:back);
SELECT * FROM pg_temp.show('ctl_back');
SELECT kind, attempt FROM job_claim('ctl_back');
SELECT job_retry(:back);
SELECT job_complete(job_id, token) FROM job_lease WHERE job_id = :back;
\set VERBOSITY sqlstate
SELECT job_retry(:back);
\set VERBOSITY terse

-- a job that is retried runs now, though it was to run later; one that never ran runs when it was to
SELECT job_submit('ran', queue => 'ctl_when', run_at => '1999-01-01') AS ran \gset
SELECT job_submit('never ran', queue => 'ctl_when', run_at => '2999-01-01') AS never \gset
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_when');
SELECT job_cancel(:never);
SELECT job_retry(:ran), job_retry(:never);
SELECT * FROM pg_temp.show('ctl_when');

-- a cancelled job that waited waits again, for what is still undecided
SELECT job_submit('p', queue => 'ctl_wait') AS p \gset
SELECT job_submit('c', queue => 'ctl_wait2', depends_on => ARRAY[:p]) AS c \gset
SELECT job_submit('g', queue => 'ctl_wait2', depends_on => ARRAY[:c]) AS g \gset
SELECT job_cancel(:c);
SELECT * FROM pg_temp.show('ctl_wait2');
SELECT job_retry(:c);
SELECT * FROM pg_temp.show('ctl_wait2');
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_wait');
SELECT * FROM pg_temp.show('ctl_wait2');
-- now its dependencies cannot be met
\set VERBOSITY sqlstate
SELECT job_retry(:c);
\set VERBOSITY terse
SELECT job_retry(:p);
SELECT * FROM pg_temp.show('ctl_wait2');
SELECT job_cancel(:c);
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_wait');
DO $$
DECLARE
    hint text;
BEGIN
    PERFORM job_retry(id) FROM job_status WHERE queue = 'ctl_wait2' AND kind = 'c';
EXCEPTION WHEN SQLSTATE 'JQ003' THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RAISE NOTICE '% (%)', regexp_replace(SQLERRM, '\d+', 'N'), regexp_replace(hint, '\d+', 'N');
END $$;

-- what was never run cannot be retried: the hint says what can, past those that were not run either
CREATE FUNCTION pg_temp.hint(id bigint) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    PERFORM job_retry(id);
    RETURN 'none';
EXCEPTION WHEN SQLSTATE 'JQ003' THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    IF hint !~ '\d' THEN
        RETURN hint;
    END IF;
    RETURN regexp_replace(hint, '\d+', coalesce((SELECT kind FROM job j WHERE j.id = (regexp_match(hint, '\d+'))[1]::bigint), '?'));
END $$;
SELECT job_submit('good', queue => 'ctl_hint') AS good, job_submit('bad', queue => 'ctl_hint_up') AS bad, job_submit('off', queue => 'ctl_hint') AS off \gset
SELECT job_submit('c1', queue => 'ctl_hint', depends_on => ARRAY[:good, :bad]) AS c1, job_submit('s1', queue => 'ctl_hint', depends_on => ARRAY[:good], trigger_rule => 'all_failed') AS s1,
    job_submit('x1', queue => 'ctl_hint', depends_on => ARRAY[:off], trigger_rule => 'none_failed') AS x1 \gset
SELECT job_submit('c2', queue => 'ctl_hint', depends_on => ARRAY[:c1]) AS c2, job_submit('s2', queue => 'ctl_hint', depends_on => ARRAY[:s1]) AS s2,
    job_submit('x2', queue => 'ctl_hint', depends_on => ARRAY[:good, :x1]) AS x2 \gset
SELECT job_submit('both', queue => 'ctl_hint', depends_on => ARRAY[:s2, :c2], trigger_rule => 'none_failed') AS both \gset
SELECT job_cancel(:off);
SELECT job_complete(job_id, token) FROM job_claim('ctl_hint');
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_hint_up');
SELECT kind, state, pg_temp.hint(id) FROM job_status WHERE queue = 'ctl_hint' AND state NOT IN ('cancelled') ORDER BY id;
CREATE ROLE regress_control;
SELECT job_grant('regress_control', 'ctl_hint', 'operate');
SET ROLE regress_control;
SELECT pg_temp.hint(:c2);
RESET ROLE;
SELECT job_revoke('regress_control', 'ctl_hint', 'operate');
DROP ROLE regress_control;

-- retrying opens what was decided because of it, through the whole graph, and nothing that has been started
SELECT array_agg(id) AS d FROM job_submit_many('[{"queue": "ctl_top", "kind": "top", "name": "top"},
    {"queue": "ctl_top", "kind": "other", "name": "other"},
    {"queue": "ctl_graph", "kind": "child", "name": "child", "depends_on": ["top"]},
    {"queue": "ctl_graph", "kind": "grandchild", "name": "grandchild", "depends_on": ["child", "other"]},
    {"queue": "ctl_graph", "kind": "deep", "name": "deep", "depends_on": ["grandchild"]},
    {"queue": "ctl_graph", "kind": "skipped", "name": "skipped", "depends_on": ["deep"], "trigger_rule": "all_skipped"},
    {"queue": "ctl_graph", "kind": "of two", "name": "of two", "depends_on": ["child", "skipped"], "trigger_rule": "none_failed"},
    {"queue": "ctl_started", "kind": "alarm", "name": "alarm", "depends_on": ["top"], "trigger_rule": "one_failed", "priority": 1},
    {"queue": "ctl_started", "kind": "alarm, ready", "name": "alarm2", "depends_on": ["top"], "trigger_rule": "one_failed"},
    {"queue": "ctl_started", "kind": "after alarm", "depends_on": ["alarm"]},
    {"queue": "ctl_started", "kind": "later", "depends_on": ["top"], "trigger_rule": "one_failed", "run_at": "2999-01-01"}]') id \gset
SELECT job_fail(job_id, token, 'no', false) FROM job_claim('ctl_top', max_jobs => 1);
SELECT kind FROM job_claim('ctl_started');
SELECT * FROM pg_temp.show('ctl_graph');
SELECT * FROM pg_temp.show('ctl_started');
SELECT job_retry((:'d'::bigint[])[1]);
SELECT * FROM pg_temp.show('ctl_graph');
SELECT * FROM pg_temp.show('ctl_started');
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('ctl_top', max_jobs => 9)) x;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('ctl_graph')) x;
SELECT * FROM pg_temp.show('ctl_graph');
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_lease WHERE job_id = ANY (:'d'::bigint[])) x;
SELECT * FROM pg_temp.show('ctl_started');

-- a child that failed for two reasons needs both to go away
SELECT job_submit('a', queue => 'ctl_two') AS a \gset
SELECT job_submit('b', queue => 'ctl_two') AS b \gset
SELECT job_submit('c', queue => 'ctl_two', depends_on => ARRAY[:a, :b]) AS c \gset
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_two', max_jobs => 2);
SELECT job_retry(:a);
SELECT * FROM pg_temp.show('ctl_two');
SELECT job_retry(:b);
SELECT * FROM pg_temp.show('ctl_two');

-- retry inside a transaction that also failed it; rolled back to a savepoint
BEGIN;
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_two');
SAVEPOINT s;
SELECT job_retry(:a);
SELECT * FROM pg_temp.show('ctl_two');
ROLLBACK TO s;
SELECT * FROM pg_temp.show('ctl_two');
COMMIT;

-- expires_at holds for a job that is opened again and never ran
SELECT job_submit('p', queue => 'ctl_expire') AS p \gset
SELECT job_submit('c', queue => 'ctl_expire2', depends_on => ARRAY[:p], expires_at => '2999-01-01') AS c \gset
SELECT expires_at IS NOT NULL AS expires FROM job_waiting WHERE job_id = :c;
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_expire');
SELECT job_retry(:p);
SELECT expires_at IS NOT NULL AS expires FROM job_waiting WHERE job_id = :c;

-- holding: ready, scheduled and waiting jobs; the same on top of a dependency
SELECT job_submit('ready', queue => 'ctl_hold') AS h1 \gset
SELECT job_submit('scheduled', queue => 'ctl_hold', run_at => '2999-01-01') AS h2 \gset
SELECT job_submit('waiting', queue => 'ctl_hold', depends_on => ARRAY[:h1]) AS h3 \gset
SELECT job_unhold(:h1), job_unhold(:h2), job_unhold(:h3);
SELECT job_hold(:h1), job_hold(:h2), job_hold(:h3);
SELECT job_hold(:h1), job_hold(:h2), job_hold(:h3);
SELECT * FROM pg_temp.show('ctl_hold');
SELECT count(*) FROM job_claim('ctl_hold');
SELECT job_unhold(:h2), job_unhold(:h2);
SELECT job_unhold(:h1), job_unhold(:h1);
SELECT * FROM pg_temp.show('ctl_hold');
SELECT job_complete(job_id, token) FROM job_claim('ctl_hold');
-- its parent is done, and it is held still
SELECT * FROM pg_temp.show('ctl_hold');
SELECT count(*) FROM job_claim('ctl_hold');
SELECT job_unhold(:h3);
SELECT kind FROM job_claim('ctl_hold');
-- unheld before the parent ends: it goes on waiting
SELECT job_submit('p', queue => 'ctl_hold') AS p \gset
SELECT job_submit('c', queue => 'ctl_hold2', depends_on => ARRAY[:p]) AS c \gset
SELECT job_hold(:c), job_unhold(:c);
SELECT * FROM pg_temp.show('ctl_hold2');
-- a held job is decided by its parents all the same
SELECT job_hold(:c);
SELECT job_fail(job_id, token, retry => false) FROM job_claim('ctl_hold');
SELECT * FROM pg_temp.show('ctl_hold2');
SELECT job_retry(:p);
SELECT * FROM pg_temp.show('ctl_hold2');

-- attempts survive a hold; it costs the place in the line
SELECT job_submit('first', queue => 'ctl_order') AS o1 \gset
SELECT job_submit('second', queue => 'ctl_order') AS o2 \gset
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('ctl_order');
SELECT job_hold(:o1), job_unhold(:o1);
SELECT kind, attempt FROM job_claim('ctl_order', max_jobs => 2);

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'ctl%' AND finished_at IS NULL;
