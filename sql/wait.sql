-- job_wait and job_claim_wait, as far as nobody else has to do anything meanwhile
SET jobq.min_lease = 0;
\set VERBOSITY terse

-- a decided job: at once
SELECT job_submit('good', queue => 'wait') AS good \gset
SELECT job_complete(job_id, token, '{"r": 1}') FROM job_claim('wait') \gset
CALL job_wait(:good, '1 hour');
CALL job_wait(:good, NULL);
CALL job_wait(job_id => :good, timeout => '0');
SELECT job_submit('bad', queue => 'wait') AS bad \gset
SELECT job_fail(job_id, token, retry => false) FROM job_claim('wait') \gset
CALL job_wait(:bad, '1 hour');

-- the others: when the time is out, the state it is in
SELECT job_submit('ready', queue => 'wait') AS ready \gset
SELECT job_submit('waiting', queue => 'wait', depends_on => ARRAY[:ready]) AS waiting \gset
CALL job_wait(:ready, '0');
CALL job_wait(:waiting, '20 ms');

-- claiming: what is ready, at once
CALL job_claim_wait('wait', 'w', '1 hour') \gset c_
\echo :c_kind :c_attempt :c_args :c_inputs
SELECT c.lease_until = :'c_lease_until' AS same_lease, c.worker FROM job_status c WHERE id = :ready;
SELECT job_complete(:c_job_id, :c_token);
CALL job_claim_wait('wait', NULL, '1 hour', '5 min') \gset c_
\echo :c_kind
SELECT lease_until > now() + '4 min' AS long FROM job_status WHERE id = :waiting;
SELECT job_complete(:c_job_id, :c_token);

-- nothing there; a paused queue; a queue that was never used
CALL job_claim_wait('wait', 'w', '0');
CALL job_claim_wait('wait', 'w', '20 ms');
CALL job_claim_wait('wait_never', 'w', '0');
SELECT count(*) FROM job_queue_status WHERE queue = 'wait_never';
SELECT job_submit('paused', queue => 'wait') AS paused \gset
SELECT job_queue_set('wait', paused => true);
CALL job_claim_wait('wait', 'w', '20 ms');
SELECT job_queue_set('wait', paused => false);

-- the arguments it is given for what it returns do not matter
CALL job_claim_wait('wait', 'w', '0', NULL, 1, 2, 3, 'x', '{}', '{}', 'y', now()) \gset c_
\echo :c_kind
SELECT job_complete(:c_job_id, :c_token);

-- a job becomes due while somebody waits for it
SELECT job_submit('soon', queue => 'wait', run_at => clock_timestamp() + '0.2 s') AS soon \gset
CALL job_claim_wait('wait', 'w', '1 min') \gset c_
\echo :c_kind
SELECT job_complete(:c_job_id, :c_token, '2');
-- one expires while somebody waits
SELECT job_submit('expires', queue => 'wait', run_at => '2999-01-01', expires_at => clock_timestamp() + '0.2 s') AS expires \gset
CALL job_wait(:expires, '1 min');
-- and one whose lease runs out
SELECT job_submit('lost', queue => 'wait', max_lost => 1) AS lost \gset
SELECT kind FROM job_claim('wait', lease => '0.2 s');
CALL job_wait(:lost, '1 min');

-- statement_timeout ends it, and the session goes on
SET statement_timeout = '100 ms';
SELECT job_submit('never', queue => 'wait_never', run_at => '2999-01-01') AS never \gset
\set VERBOSITY sqlstate
CALL job_wait(:never, '1 hour');
CALL job_claim_wait('wait', 'w', NULL);
\set VERBOSITY terse
RESET statement_timeout;
CALL job_wait(:never, '0');

-- in a procedure that runs outside a transaction block
CREATE PROCEDURE pg_temp.waits(id bigint) LANGUAGE plpgsql AS $$
DECLARE
    state text; result jsonb;
BEGIN
    CALL job_wait(id, '10 ms', state, result);
    RAISE NOTICE '%', state;
END $$;
CALL pg_temp.waits(:good);

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'wait%' AND finished_at IS NULL;
