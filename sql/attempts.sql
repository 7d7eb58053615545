-- How attempts end, which budget each end counts against, and what is on record
SET jobq.min_lease = 0;
\set VERBOSITY terse
CREATE FUNCTION pg_temp.until(id bigint) RETURNS interval LANGUAGE sql AS
    $$ SELECT s.run_at - max(a.ended_at) FROM job_scheduled s JOIN job_attempt a USING (job_id) WHERE s.job_id = id GROUP BY s.run_at $$;

-- success at the first attempt
SELECT job_submit('good', queue => 'att') AS good \gset
SELECT token FROM job_claim('att', 'worker 1') \gset
SELECT job_complete(:good, :token, '{"n": 1}');
SELECT state, attempt, lost, result, error, worker, started_at <= finished_at AS in_order, lease_until, progress FROM job_status WHERE id = :good;
SELECT attempt, worker, outcome, error, started_at <= ended_at AS in_order FROM job_attempts WHERE job_id = :good;
-- said again, as after a reply that was lost: nothing happens, whatever the result says
SELECT job_complete(:good, :token, '{"n": 2}');
SELECT accepted FROM job_complete_many(ARRAY[:good], ARRAY[:token]);
SELECT job_result(:good);
SELECT count(*) FROM job_attempts WHERE job_id = :good;

-- failures use up max_attempts; the backoff doubles, give or take a quarter, up to the cap
SELECT job_queue_set('att', backoff_cap => '25 s');
SELECT job_submit('bad', queue => 'att', max_attempts => 4, backoff => '10 s') AS bad \gset
SELECT job_fail(job_id, token, 'first') FROM job_claim('att', 'worker 1');
SELECT state, attempt, error, worker FROM job_status WHERE id = :bad;
SELECT pg_temp.until(:bad) BETWEEN '7.5 s' AND '12.5 s' AS once;
-- what is due is not waited for here
SELECT job_hold(:bad);
UPDATE job_waiting SET run_at = NULL WHERE job_id = :bad;
SELECT job_unhold(:bad);
SELECT job_fail(job_id, token, 'second') FROM job_claim('att', 'worker 2');
SELECT pg_temp.until(:bad) BETWEEN '15 s' AND '25 s' AS twice;
SELECT job_hold(:bad);
UPDATE job_waiting SET run_at = NULL WHERE job_id = :bad;
SELECT job_unhold(:bad);
SELECT job_fail(job_id, token, 'third') FROM job_claim('att');
SELECT pg_temp.until(:bad) BETWEEN '18.75 s' AND '31.25 s' AS capped;
SELECT job_hold(:bad);
UPDATE job_waiting SET run_at = NULL WHERE job_id = :bad;
SELECT job_unhold(:bad);
SELECT job_fail(job_id, token, 'fourth') FROM job_claim('att', 'worker 4');
SELECT state, attempt, error, worker FROM job_status WHERE id = :bad;
SELECT attempt, worker, outcome, error FROM job_attempts WHERE job_id = :bad ORDER BY attempt;
SELECT job_result(:bad) IS NULL AS none;

-- retry_in instead of the backoff, at once and later; retry => false ends it
SELECT job_submit('retry_in', queue => 'att') AS r \gset
SELECT job_fail(job_id, token, NULL, retry_in => '0') FROM job_claim('att');
SELECT job_fail(job_id, token, retry_in => '1 hour') FROM job_claim('att');
SELECT pg_temp.until(:r) = '1 hour' AS exactly;
SELECT job_hold(:r);
UPDATE job_waiting SET run_at = NULL WHERE job_id = :r;
SELECT job_unhold(:r);
SELECT job_fail(job_id, token, 'never again', retry => false, retry_in => '1 s') FROM job_claim('att');
SELECT attempt, outcome, error FROM job_attempts WHERE job_id = :r ORDER BY attempt;

-- retry => NULL is true; one attempt is one attempt
SELECT job_submit('null', queue => 'att') AS n \gset
SELECT job_fail(job_id, token, 'e', NULL, '0') FROM job_claim('att');
SELECT job_complete(job_id, token) FROM job_claim('att');
SELECT job_submit('one', queue => 'att', max_attempts => 1) AS one \gset
SELECT job_fail(job_id, token, 'only') FROM job_claim('att');

-- release and snooze count against nothing
SELECT job_submit('patient', queue => 'att', max_attempts => 1, max_lost => 1) AS patient \gset
SELECT job_release(job_id, token) FROM job_claim('att', 'w');
SELECT state, attempt FROM job_status WHERE id = :patient;
SELECT job_release(job_id, token) FROM job_claim('att', 'w');
SELECT job_snooze(job_id, token, '2 hours') FROM job_claim('att', 'w');
SELECT state, attempt, lost, error FROM job_status WHERE id = :patient;
SELECT pg_temp.until(:patient) = '2 hours' AS exactly;
SELECT job_hold(:patient);
UPDATE job_waiting SET run_at = NULL WHERE job_id = :patient;
SELECT job_unhold(:patient);
SELECT job_complete(job_id, token) FROM job_claim('att', 'w');
SELECT attempt, worker, outcome, error FROM job_attempts WHERE job_id = :patient ORDER BY attempt;
SELECT attempt, failed, lost FROM job WHERE id = :patient;

-- after the end of an attempt its token is worth nothing, though the job is there
SELECT job_submit('twice', queue => 'att') AS twice \gset
SELECT token AS first FROM job_claim('att') \gset
SELECT job_release(:twice, :first);
SELECT token AS second FROM job_claim('att') \gset
SELECT :first <> :second AS differ;
\set VERBOSITY sqlstate
SELECT job_complete(:twice, :first);
SELECT job_heartbeat(:twice, :first);
SELECT state, attempt FROM job_status WHERE id = :twice;
SELECT job_complete(:twice, :second);
SELECT job_complete(:twice, :first);
\set VERBOSITY terse

-- heartbeats: extend, never shorten; progress is shown while the job runs
SELECT job_submit('long', queue => 'att', lease => '1 min') AS long \gset
SELECT token FROM job_claim('att', 'w') \gset
SELECT job_heartbeat(:long, :token);
SELECT job_heartbeat(:long, :token, '1 hour', '{"done": 0.5}');
SELECT progress, lease_until > now() + '59 min' AS extended FROM job_status WHERE id = :long;
SELECT job_heartbeat(:long, :token, '1 s');
SELECT progress, lease_until > now() + '59 min' AS extended FROM job_status WHERE id = :long;
SELECT job_heartbeat(:long, :token, progress => '[1, 2]');
SELECT progress FROM job_status WHERE id = :long;
SELECT job_complete(:long, :token);
SELECT progress, lease_until FROM job_status WHERE id = :long;

-- a heartbeat that is rolled back shows no progress
SELECT job_submit('back', queue => 'att') AS back \gset
SELECT token FROM job_claim('att', 'w') \gset
BEGIN;
SELECT job_heartbeat(:back, :token, '1 hour', '"gone"');
ROLLBACK;
SELECT progress FROM job_status WHERE id = :back;
SELECT job_complete(:back, :token);

-- the lease: of the claim, else of the job, else of the queue
SELECT job_queue_set('att_lease', lease => '30 s');
SELECT job_submit('queue', queue => 'att_lease') AS q \gset
SELECT job_submit('job', queue => 'att_lease', lease => '90 s') AS j \gset
SELECT job_submit('claim', queue => 'att_lease', lease => '90 s') AS c \gset
SELECT kind, lease_until - clock_timestamp() BETWEEN '20 s' AND '30 s' AS s30, lease_until - clock_timestamp() BETWEEN '80 s' AND '90 s' AS s90
FROM job_claim('att_lease', max_jobs => 2);
SELECT kind, lease_until - clock_timestamp() BETWEEN '4 min' AND '5 min' AS m5 FROM job_claim('att_lease', lease => '5 min');
SELECT count(job_complete(job_id, token)) FROM job_lease WHERE job_id IN (:q, :j, :c);

-- lost and timed out: the background worker ends them; until then a claim does not
SELECT job_submit('lost', queue => 'att', max_lost => 2, backoff => '1 us', lease => '1 us') AS lost \gset
SELECT job_submit('slow', queue => 'att', max_attempts => 1, timeout => '1 us') AS slow \gset
CREATE PROCEDURE pg_temp.wait_for(id bigint, wanted text) LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 3000 LOOP
        IF (SELECT state FROM job_status s WHERE s.id = wait_for.id) = wanted THEN
            RETURN;
        END IF;
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RAISE WARNING 'job does not become %', wanted;
END $$;
SELECT kind FROM job_claim('att', 'w', 2);
CALL pg_temp.wait_for(:lost, 'ready');
SELECT kind FROM job_claim('att', 'w');
CALL pg_temp.wait_for(:lost, 'failed');
CALL pg_temp.wait_for(:slow, 'failed');
SELECT kind, state, attempt, lost, error, worker FROM job_status WHERE id IN (:lost, :slow) ORDER BY id;
SELECT job_id = :lost AS lost, attempt, outcome, error, worker, ended_at > started_at AS in_order FROM job_attempts WHERE job_id IN (:lost, :slow) ORDER BY job_id, attempt;
SELECT kind, failed, j.lost FROM job j WHERE id IN (:lost, :slow) ORDER BY id;

-- losses and failures have budgets of their own
SELECT job_submit('both', queue => 'att', max_lost => 2, max_attempts => 2, backoff => '1 us') AS both \gset
SELECT job_fail(job_id, token, 'f', retry_in => '0') FROM job_claim('att');
SELECT kind FROM job_claim('att', lease => '1 us');
CALL pg_temp.wait_for(:both, 'ready');
SELECT state, attempt, lost FROM job_status WHERE id = :both;
SELECT job_fail(job_id, token, 'f') FROM job_claim('att');
SELECT attempt, outcome FROM job_attempts WHERE job_id = :both ORDER BY attempt;

-- a retry by hand begins new budgets, keeps the record, and forgets error and result
SELECT job_retry(:both);
SELECT state, attempt, lost, error, worker, started_at, finished_at FROM job_status WHERE id = :both;
SELECT job_fail(job_id, token, 'f', retry_in => '0') FROM job_claim('att');
SELECT job_complete(job_id, token, '1') FROM job_claim('att');
SELECT attempt, outcome, error FROM job_attempts WHERE job_id = :both ORDER BY attempt;
SELECT state, attempt, lost, error, result FROM job_status WHERE id = :both;

-- many at once: each for itself, in the order of the arguments
SELECT count(job_submit('many ' || n, queue => 'att_many', max_attempts => n)) FROM generate_series(1, 3) n;
CREATE TEMP TABLE c AS SELECT row_number() OVER () AS n, * FROM job_claim('att_many', 'w', 3);
SELECT f.job_id = c.job_id AS same, accepted, state FROM
    job_fail_many((SELECT array_agg(job_id ORDER BY n DESC) FROM c), (SELECT array_agg(CASE n WHEN 3 THEN 1 ELSE token END ORDER BY n DESC) FROM c),
        ARRAY['c', NULL, 'a'], retry_in => '0') WITH ORDINALITY f(job_id, accepted, state, o) JOIN c ON c.n = 4 - o ORDER BY o;
SELECT kind, state, error FROM job_status WHERE queue = 'att_many' ORDER BY id;
SELECT outcome, error FROM job_attempts JOIN c USING (job_id) ORDER BY n;
DROP TABLE c;
SELECT kind FROM job_claim('att_many', 'w', 3);
CREATE TEMP TABLE c AS SELECT row_number() OVER (ORDER BY j.id) AS n, j.id, l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'att_many';
SELECT f.job_id = c.id AS same, accepted FROM
    job_complete_many((SELECT array_agg(id ORDER BY n DESC) FROM c), (SELECT array_agg(token ORDER BY n DESC) FROM c), ARRAY['"z"', NULL]::jsonb[])
    WITH ORDINALITY f(job_id, accepted, o) JOIN c ON c.n = 3 - o ORDER BY o;
SELECT kind, state, result FROM job_status WHERE queue = 'att_many' ORDER BY id;
SELECT count(*) FROM job_complete_many('{}', '{}');
SELECT count(*) FROM job_fail_many('{}', '{}', '{}');

SELECT count(job_cancel(id)) AS left_over FROM job_status WHERE queue LIKE 'att%' AND finished_at IS NULL;
