-- max_running, ordered, fair, rates and partitions: which jobs of a queue are let in
\set VERBOSITY terse
-- poll until so many jobs of a queue are ready and so many wait behind the gate, with a limit
CREATE FUNCTION pg_temp.settled(q text, n_ready int, n_limited int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now text;
BEGIN
    FOR i IN 1 .. 4000 LOOP
        SELECT format('%s ready, %s limited', s.ready, s.limited) INTO now FROM job_queue_status s WHERE s.queue = q;
        EXIT WHEN now = format('%s ready, %s limited', n_ready, n_limited);
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN now;
END $$;
-- the same until the lanes of earlier gates are empty
CREATE FUNCTION pg_temp.moved(q text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    done boolean;
BEGIN
    FOR i IN 1 .. 4000 LOOP
        SELECT cardinality(t.gates) = 1 INTO done FROM job_queue t WHERE t.name = q;
        EXIT WHEN done;
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN done;
END $$;
-- what keeps a job back, without times
CREATE FUNCTION pg_temp.why(kind text) RETURNS TABLE (reason text, detail text, hint text, other text) LANGUAGE sql AS $$
    SELECT e.reason, regexp_replace(e.detail, 'Job \d+', 'Job N'), regexp_replace(regexp_replace(e.hint, '\(\d+', '(N'), 'about [^,]*, if', 'about …, if'), o.kind
    FROM job j, job_explain(j.id) WITH ORDINALITY e LEFT JOIN job o ON o.id = e.other WHERE j.kind = why.kind AND j.queue LIKE 'gate%' ORDER BY e.ordinality $$;
CREATE FUNCTION pg_temp.problem(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT;
    RETURN concat_ws(' | ', SQLSTATE, SQLERRM, nullif(hint, ''));
END $$;

-- bad input, and nothing is changed
SELECT s, pg_temp.problem(format('SELECT job_queue_set(''gate_bad'', %s)', s)) FROM unnest(ARRAY['max_running => 0', 'max_running => -1', 'max_running_per_partition => 0', 'rate => 0, rate_interval => ''1 s''',
    'rate => 1', 'rate_per_partition => 1', 'rate => 1, rate_interval => ''0''', 'rate => 1, rate_interval => ''-1 s''', 'rate_per_partition => -1, rate_interval => ''1 s''']) s;
SELECT s, pg_temp.problem(format('SELECT job_partition_set(%s)', s)) FROM unnest(ARRAY['''gate_bad'', NULL', 'NULL, ''p''', '''no such name!'', ''p''', '''gate_bad'', ''''', '''gate_bad'', repeat(''p'', 129)',
    '''gate_bad'', ''p'', weight => 0', '''gate_bad'', ''p'', weight => 1000001', '''gate_bad'', ''p'', max_running => 0']) s;
SELECT pg_temp.problem('SELECT job_submit(''x'', partition => '''')'), pg_temp.problem('SELECT job_submit(''x'', partition => E''a\tb'')');
SELECT count(*) FROM job_queue WHERE name = 'gate_bad';
SELECT count(*) FROM job_partition;

-- so many at once
SELECT job_queue_set('gate', max_running => 2);
SELECT count(job_submit('j' || i, queue => 'gate', priority => i / 4)) FROM generate_series(1, 5) i;
SELECT pg_temp.settled('gate', 2, 3);
SELECT kind, state FROM job_status WHERE queue = 'gate' ORDER BY id;
SELECT queue, waiting, ready, running, limited FROM job_queue_status WHERE queue = 'gate';
SELECT * FROM pg_temp.why('j3');
SELECT kind FROM job_claim('gate', 'w', 10);
SELECT count(*) FROM job_claim('gate');
SELECT * FROM pg_temp.why('j3');
-- one that depends on it hears that it waits
SELECT job_submit('child', queue => 'gate', depends_on => ARRAY[(SELECT id FROM job WHERE kind = 'j3' AND queue = 'gate')]) AS child \gset
SELECT reason, detail, other FROM pg_temp.why('child') WHERE reason = 'dependency';
SELECT job_cancel(:child);
-- each end lets one in: by completion, failure or cancellation
SELECT job_complete(job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'j4';
SELECT pg_temp.settled('gate', 1, 2);
SELECT kind FROM job_status WHERE queue = 'gate' AND state = 'ready';
SELECT job_fail(job_id, l.token, retry => false) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'j5';
SELECT pg_temp.settled('gate', 2, 1);
SELECT job_cancel(id) FROM job WHERE kind = 'j1';
SELECT pg_temp.settled('gate', 2, 0);
-- what is given back goes behind the gate, and in again
SELECT job_release(job_id, token) FROM job_claim('gate');
SELECT pg_temp.settled('gate', 2, 0);
-- a higher limit, a lower one, and none; settings that stay the same change nothing
SELECT count(job_submit('k' || i, queue => 'gate')) FROM generate_series(1, 6) i;
SELECT pg_temp.settled('gate', 2, 6);
SELECT job_queue_set('gate', max_running => 5);
SELECT pg_temp.settled('gate', 5, 3);
SELECT gates AS gates FROM job_queue WHERE name = 'gate' \gset
SELECT job_queue_set('gate', max_running => 5);
SELECT gates = :'gates' AS same FROM job_queue WHERE name = 'gate';
SELECT job_queue_set('gate', max_running => 1);
SELECT pg_temp.settled('gate', 1, 7);
SELECT count(*) FROM job_claim('gate', 'w', 10);
SELECT job_queue_reset('gate', 'max_running');
SELECT pg_temp.settled('gate', 7, 0);
SELECT gates IS NULL AS open FROM job_queue WHERE name = 'gate';
SELECT count(*) FROM job_claim('gate', 'w', 10);

-- a limit for jobs that are ready without one: no claim that begins after it goes beyond it
SELECT count(job_submit('m' || i, queue => 'gate_later')) FROM generate_series(1, 4) i;
SELECT kind FROM job_claim('gate_later');
BEGIN;
SELECT job_queue_set('gate_later', max_running => 2);
COMMIT;
SELECT count(*) <= 1 AS within FROM job_claim('gate_later', 'w', 10);
SELECT pg_temp.settled('gate_later', 2 - running::int, 2) = format('%s ready, 2 limited', 2 - running) AS settled FROM job_queue_status WHERE queue = 'gate_later';
SELECT count(*) <= 1 AS within FROM job_claim('gate_later', 'w', 10);
SELECT running FROM job_queue_status WHERE queue = 'gate_later';

-- so many of each partition; jobs without one are not counted
SELECT job_queue_set('gate_part', max_running_per_partition => 1);
SELECT count(job_submit(p || i, queue => 'gate_part', partition => p)) FROM unnest(ARRAY['a', 'b']) p, generate_series(1, 3) i;
SELECT count(job_submit('none' || i, queue => 'gate_part')) FROM generate_series(1, 3) i;
SELECT pg_temp.settled('gate_part', 5, 4);
SELECT * FROM job_partition_status WHERE queue = 'gate_part' ORDER BY partition;
SELECT kind FROM job_claim('gate_part', 'w', 10) ORDER BY kind;
SELECT * FROM pg_temp.why('a2');
-- one with a limit of its own, one that is paused
SELECT job_partition_set('gate_part', 'a', max_running => 2), job_partition_set('gate_part', 'b', paused => true);
SELECT pg_temp.settled('gate_part', 1, 3);
SELECT * FROM pg_temp.why('b2');
SELECT job_complete(job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'b1';
SELECT * FROM job_partition_status WHERE queue = 'gate_part' ORDER BY partition;
SELECT job_partition_set('gate_part', 'b', paused => false);
SELECT pg_temp.settled('gate_part', 2, 2);
SELECT gates FROM job_queue WHERE name = 'gate_part' \gset
SELECT job_partition_set('gate_part', 'b', paused => false);
SELECT gates = :'gates' AS same FROM job_queue WHERE name = 'gate_part';
-- a job that changes its partition, or its queue
SELECT job_change(id, partition => 'c') FROM job WHERE kind = 'b3';
SELECT pg_temp.settled('gate_part', 3, 1);
SELECT kind, partition, state FROM job_status WHERE queue = 'gate_part' AND state IN ('waiting', 'ready') ORDER BY id;
SELECT job_change(id, queue => 'gate_other') FROM job WHERE kind = 'a3';
SELECT queue, partition, state FROM job_status WHERE kind = 'a3';
-- one that stays where it is keeps its slot
SELECT job_change(id, tags => '{"a": 1}') FROM job WHERE kind = 'b3';
SELECT pg_temp.settled('gate_part', 3, 0);
-- so do many that change at once
SELECT job_queue_set('gate_many', max_running => 300), job_queue_set('gate_next', max_running => 2);
SELECT count(job_submit('many', queue => 'gate_many')) FROM generate_series(1, 700);
SELECT pg_temp.settled('gate_many', 300, 400);
SELECT count(job_change(r.job_id, tags => '{"a": 1}')) FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'gate_many';
SELECT job_submit('next', queue => 'gate_next') > 0 AS submitted;
SELECT pg_temp.settled('gate_next', 1, 0);
SELECT count(*) FROM job_claim('gate_many', 'w', 1000);
SELECT count(job_cancel(id)) FROM job WHERE queue = 'gate_many';

-- one after the other
SELECT job_queue_set('gate_order', ordered => true, backoff => '1 hour');
SELECT count(job_submit(p || i, queue => 'gate_order', partition => p, priority => CASE i WHEN 3 THEN 1 ELSE 0 END)) FROM unnest(ARRAY['x', 'y']) p, generate_series(1, 3) i;
SELECT pg_temp.settled('gate_order', 2, 4);
SELECT kind FROM job_claim('gate_order', 'w', 10) ORDER BY kind;
-- one that fails keeps its turn until it is decided, also while it is held
SELECT kind, job_fail(job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'x3' OR kind = 'x1';
SELECT count(*) FROM job_claim('gate_order');
SELECT * FROM pg_temp.why((SELECT kind FROM job_status WHERE queue = 'gate_order' AND partition = 'x' AND state = 'waiting' ORDER BY id LIMIT 1));
SELECT job_hold(job_id) FROM job_scheduled s JOIN job j ON j.id = s.job_id WHERE j.queue = 'gate_order';
SELECT job_decide(w.job_id, 'succeeded') FROM job_waiting w JOIN job j ON j.id = w.job_id WHERE j.queue = 'gate_order';
SELECT pg_temp.settled('gate_order', 1, 3);
SELECT kind FROM job_claim('gate_order', 'w', 10);
-- one that was let in and has not begun gives its turn up when it is held
SELECT kind, job_complete(job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'gate_order' ORDER BY kind;
SELECT pg_temp.settled('gate_order', 2, 1);
SELECT job_hold(r.job_id) FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'gate_order' AND j.partition = 'y';
SELECT pg_temp.settled('gate_order', 2, 0);
SELECT job_complete(job_id, token) FROM job_claim('gate_order', 'w', 10);
SELECT job_unhold(w.job_id) FROM job_waiting w JOIN job j ON j.id = w.job_id WHERE j.queue = 'gate_order';
SELECT pg_temp.settled('gate_order', 1, 0);
-- one that is held leaves it to those that are behind when it changes its partition, or its queue
SELECT count(job_submit('hop' || i, queue => 'gate_order', partition => 'm')) FROM generate_series(1, 3) i;
SELECT pg_temp.settled('gate_order', 2, 2);
SELECT job_fail(c.job_id, c.token) FROM job_claim('gate_order', 'w', 10) c JOIN job j ON j.id = c.job_id WHERE j.kind = 'hop1';
SELECT job_hold(id) FROM job WHERE kind = 'hop1';
SELECT job_change(id, partition => 'n') FROM job WHERE kind = 'hop1';
SELECT pg_temp.settled('gate_order', 1, 1);
SELECT kind, job_fail(job_id, token) FROM job_claim('gate_order');
SELECT job_hold(id) FROM job WHERE kind = 'hop2';
SELECT job_change(id, queue => 'gate_other') FROM job WHERE kind = 'hop2';
SELECT pg_temp.settled('gate_order', 1, 0);
-- one that runs when the queue becomes ordered has the turn
SELECT count(job_submit('then' || i, queue => 'gate_then', partition => 'p')) FROM generate_series(1, 2) i;
SELECT kind FROM job_claim('gate_then');
SELECT job_queue_set('gate_then', ordered => true, backoff => '1 hour');
SELECT job_submit('none', queue => 'gate_then') > 0 AS submitted;
SELECT pg_temp.moved('gate_then');
SELECT pg_temp.settled('gate_then', 1, 1);
SELECT job_fail(job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'then1';
SELECT job_submit('next', queue => 'gate_next') > 0 AS submitted;
SELECT pg_temp.settled('gate_next', 2, 0);
SELECT kind, state FROM job_status WHERE queue = 'gate_then' ORDER BY id;

-- turns: who has one job waits behind a short row
SELECT job_queue_set('gate_fair', fair => true), job_partition_set('gate_fair', 'heavy', weight => 3);
SELECT count(job_submit('big', queue => 'gate_fair', partition => 'big')) FROM generate_series(1, 200);
SELECT count(job_submit('heavy', queue => 'gate_fair', partition => 'heavy')) FROM generate_series(1, 200);
SELECT job_submit('small', queue => 'gate_fair', partition => 'small') > 0;
SELECT pg_temp.settled('gate_fair', 8, 393);
DO $$
BEGIN
    FOR i IN 1 .. 40 LOOP
        PERFORM job_complete(job_id, token) FROM job_claim('gate_fair', 'w', 4);
        COMMIT;
        PERFORM pg_temp.settled('gate_fair', 8, (SELECT count(*)::int - 8 FROM job WHERE queue = 'gate_fair' AND outcome IS NULL));
    END LOOP;
END $$;
SELECT count(*) FILTER (WHERE kind = 'small') AS small, count(*) FILTER (WHERE kind = 'big') BETWEEN 30 AND 70 AS big,
    count(*) FILTER (WHERE kind = 'heavy') BETWEEN 90 AND 130 AS heavy FROM job WHERE queue = 'gate_fair' AND outcome = 1;

-- a rate: what is told of it (079_limits.pl and limit-rate.spec look at the times)
SELECT job_queue_set('gate_rate', rate => 3, rate_interval => '1 hour');
SELECT count(job_submit('r' || i, queue => 'gate_rate', partition => 'p')) FROM generate_series(1, 5) i;
SELECT * FROM pg_temp.why('r5') WHERE reason = 'rate';
-- where partitions take turns, others may come before
SELECT job_queue_set('gate_rate', fair => true);
SELECT hint FROM pg_temp.why('r5') WHERE reason = 'rate';
SELECT job_queue_reset('gate_rate', 'fair');

-- a rate and a limit: the limit keeps it back, and the rate has no time of its own
SELECT job_queue_set('gate_both', rate => 3, rate_interval => '1 ms', max_running => 2);
SELECT count(job_submit('both' || i, queue => 'gate_both')) FROM generate_series(1, 4) i;
SELECT pg_temp.settled('gate_both', 2, 2);
SELECT kind FROM job_claim('gate_both', 'w', 2);
SELECT * FROM pg_temp.why('both3');
-- of more than ten that have the slots, ten are named
SELECT job_queue_set('gate_ten', max_running => 12, max_running_per_partition => 12);
SELECT count(job_submit('ten' || i, queue => 'gate_ten', partition => 'p')) FROM generate_series(1, 13) i;
SELECT pg_temp.settled('gate_ten', 12, 1);
SELECT count(*) FROM job_claim('gate_ten', 'w', 3);
SELECT reason, regexp_replace(detail, '^Job .* is', 'Job is') AS detail, count(*) FROM pg_temp.why('ten13') GROUP BY 1, 2 ORDER BY min(detail);
-- the limit is told to those too who may not see the jobs that have its slots
CREATE ROLE gate_tenant;
SELECT job_grant('gate_tenant', 'gate_ten', 'submit');
SET ROLE gate_tenant;
SELECT job_submit('tenant', queue => 'gate_ten') AS tenant \gset
RESET ROLE;
SELECT pg_temp.settled('gate_ten', 9, 2);
SET ROLE gate_tenant;
SELECT reason, detail, other FROM job_explain(:tenant);
RESET ROLE;
SELECT job_revoke('gate_tenant', 'gate_ten', 'submit');
UPDATE job SET submitted_by = current_user::regrole WHERE id = :tenant;
DROP ROLE gate_tenant;

-- many lines with a job each, more than one step lets in: without a limit they all go on
SELECT job_queue_set('wide_gate', max_running => 1);
SELECT count(job_submit('w', queue => 'wide_gate', partition => 'p' || i)) FROM generate_series(1, 500) i;
SELECT pg_temp.settled('wide_gate', 1, 499);
SELECT job_queue_reset('wide_gate');
SELECT pg_temp.settled('wide_gate', 500, 0);

-- the job that has the turn, and has begun before, is ready when the gate changes
SELECT job_queue_set('gate_turn', ordered => true, backoff => '1 ms');
SELECT count(job_submit('turn', queue => 'gate_turn', partition => 'p'));
SELECT pg_temp.settled('gate_turn', 1, 0);
SELECT count(job_fail(job_id, token, 'no luck')) FROM job_claim('gate_turn');
SELECT pg_temp.settled('gate_turn', 1, 0);
SELECT job_partition_set('gate_turn', 'p', weight => 2);
SELECT pg_temp.moved('gate_turn');
SELECT pg_temp.settled('gate_turn', 1, 0);

-- by partition, where there is none: a notice, once
\set VERBOSITY default
SELECT job_queue_set('gate_none', ordered => true);
SELECT job_queue_set('gate_none', ordered => true, fair => true, max_running => 1);
\set VERBOSITY terse
-- not where one has settings, waits behind the gate, or is ready
SELECT job_partition_set('gate_set', 'p', weight => 2), job_queue_set('gate_set', fair => true);
SELECT count(job_submit('none' || i, queue => 'gate_none', partition => nullif(p, ''))) FROM unnest(ARRAY['', 'a', 'b', 'c']) WITH ORDINALITY u(p, i);
SELECT pg_temp.settled('gate_none', 1, 3);
SELECT job_queue_reset('gate_none', 'fair');
SELECT job_queue_set('gate_none', fair => true);
SELECT count(job_submit('own' || i, queue => 'gate_own', partition => CASE i WHEN 9 THEN 'p' END)) FROM generate_series(1, 9) i;
SELECT job_queue_set('gate_own', fair => true, ordered => true);

-- what has one, and takes it back
SELECT queue, max_running, max_running_per_partition, ordered, fair, rate, rate_per_partition, rate_interval, own FROM job_queues WHERE queue LIKE 'gate%' ORDER BY queue;
SELECT pg_temp.problem('SELECT job_queue_reset(''gate_rate'', ''rate_interval'')');
SELECT job_queue_reset('gate_rate');
SELECT pg_temp.settled('gate_rate', 5, 0);
-- all of them can go on, and nothing is wrong
SELECT job_queue_reset(name) IS NOT NULL FROM job_queue WHERE name LIKE 'gate%' ORDER BY name;
SELECT count(*) FROM job_partition WHERE queue LIKE 'gate%';
SELECT * FROM job_check();
