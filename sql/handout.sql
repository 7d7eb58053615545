-- The hand-out: whatever becomes ready, comes back, or moves to another file, claims come in order and miss nothing
\pset format unaligned
\pset tuples_only on
\set VERBOSITY terse

-- What is ready of some queues, in the order in which it is to be claimed
CREATE FUNCTION pg_temp.expected(variadic queues text[]) RETURNS bigint[] LANGUAGE sql AS $$
    SELECT array_agg(r.job_id ORDER BY r.priority DESC, r.position) FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = ANY (queues)
$$;
-- Claims n at a time until there is no more: true if all came, in order
CREATE FUNCTION pg_temp.all_in_order(n int, variadic queues text[]) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    expected bigint[] := pg_temp.expected(variadic queues);
    got bigint[] := '{}';
    more bigint[];
BEGIN
    LOOP
        SELECT array_agg(job_id ORDER BY ordinality) INTO more FROM job_claim(queues, 'w', n) WITH ORDINALITY;
        EXIT WHEN more IS NULL;
        got := got || more;
    END LOOP;
    IF got IS DISTINCT FROM coalesce(expected, '{}') THEN
        RETURN format('claimed %s instead of %s', got, expected);
    END IF;
    RETURN cardinality(got) || ' in order';
END $$;
CREATE FUNCTION pg_temp.release(queue text) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(job_release(job_id, token))
    FROM (SELECT l.job_id, l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = $1 ORDER BY l.job_id OFFSET 0) x
$$;

-- more priorities than have floors (16), from the lowest to the highest
SELECT count(job_submit('p' || p, queue => 'hand', priority => p))
FROM (SELECT unnest(ARRAY[-32768, 32767, 0, -1, 1]) UNION ALL SELECT (i * 7919) % 60000 - 30000 FROM generate_series(1, 45) i) x (p), generate_series(1, 3);
SELECT pg_temp.all_in_order(1, 'hand');
SELECT pg_temp.release('hand');
SELECT pg_temp.all_in_order(7, 'hand');
SELECT count(DISTINCT l.priority), min(l.priority), max(l.priority) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'hand';

-- lower and lower, higher and higher, and then between what is there, with a claim after each
SELECT count(job_submit('x', queue => 'hand2', priority => -p)) FROM generate_series(1, 40) p;
SELECT j.priority, job_complete(c.job_id, c.token) FROM job_claim('hand2') c JOIN job j ON j.id = c.job_id;
SELECT count(job_submit('x', queue => 'hand2', priority => p)) FROM generate_series(1, 40) p;
SELECT j.priority, job_complete(c.job_id, c.token) FROM job_claim('hand2') c JOIN job j ON j.id = c.job_id;
SELECT count(job_submit('x', queue => 'hand2', priority => (p * 37) % 83 - 41)) FROM generate_series(1, 82) p;
SELECT j.priority, job_complete(c.job_id, c.token) FROM job_claim('hand2') c JOIN job j ON j.id = c.job_id;
SELECT count(job_submit('x', queue => 'hand2', priority => p)) FROM unnest(ARRAY[-32768, 32767]) p;
SELECT pg_temp.all_in_order(3, 'hand2');

-- one by one, each before what the ring holds
SELECT count(job_submit('x', queue => 'hand3')) FROM generate_series(1, 1000);
DO $$
DECLARE
    id bigint;
    got bigint;
BEGIN
    FOR p IN 1 .. 50 LOOP
        id := job_submit('x', queue => 'hand3', priority => p % 7);
        COMMIT;
        SELECT j.priority, r.job_id INTO STRICT id, got FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'hand3' ORDER BY r.priority DESC, r.position LIMIT 1;
        SELECT job_id INTO STRICT id FROM job_claim('hand3');
        COMMIT;
        IF id <> got THEN
            RAISE 'job % instead of %', id, got;
        END IF;
    END LOOP;
END $$;

-- a claim of more jobs than a ring, or an array of pops, has room for
SELECT count(*), count(DISTINCT job_id) FROM job_claim('hand3', max_jobs => 700);
SELECT pg_temp.release('hand3');
SELECT pg_temp.all_in_order(1000, 'hand3');
SELECT pg_temp.release('hand3');
SELECT pg_temp.all_in_order(513, 'hand3');

-- retries, releases, snoozes, holds and children among them
SELECT count(job_submit('x' || i, queue => 'hand4', priority => i % 3, backoff => '1 ms')) FROM generate_series(1, 30) i;
SELECT count(job_hold(id)) FROM (SELECT id, row_number() OVER (ORDER BY id) AS n FROM job WHERE queue = 'hand4') j WHERE n % 4 = 0;
SELECT count(CASE row_number % 4 WHEN 0 THEN job_release(job_id, token)::text WHEN 1 THEN job_fail(job_id, token, retry_in => '0') WHEN 2 THEN job_fail(job_id, token, retry => false)
    ELSE job_complete(job_id, token)::text END) FROM (SELECT *, row_number() OVER () FROM job_claim('hand4', max_jobs => 12)) c;
SELECT count(*) FROM job_claim('hand4', max_jobs => 2);
SELECT count(job_retry(id)) FROM job_status WHERE queue = 'hand4' AND state = 'failed';
SELECT count(job_unhold(id)) FROM job_status WHERE queue = 'hand4' AND state = 'waiting';
SELECT count(job_submit('child', queue => 'hand4', priority => 1, depends_on => ARRAY[id])) FROM job_status WHERE queue = 'hand4' AND state = 'running';
SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'hand4';
SELECT count(job_cancel(job_id)) FROM (SELECT r.job_id, row_number() OVER (ORDER BY r.priority DESC, r.position) FROM job_ready r JOIN job j ON j.id = r.job_id WHERE j.queue = 'hand4') x
WHERE row_number IN (1, 2, 5, 6, 9);
SELECT pg_temp.all_in_order(2, 'hand4');

-- of several queues, by priority, then by when they became ready
SELECT count(job_submit('x', queue => 'hand_' || chr(97 + (i * 5) % 7 % 3), priority => (i * 11) % 20)) FROM generate_series(1, 300) i;
SELECT pg_temp.all_in_order(1000, 'hand_c', 'hand_a', 'hand_b');
BEGIN;
SELECT pg_temp.release('hand_b'), pg_temp.release('hand_a');
SELECT pg_temp.all_in_order(1000, 'hand_a', 'hand_c', 'hand_b');
ROLLBACK;
SELECT pg_temp.release('hand_c'), pg_temp.release('hand_a'), pg_temp.release('hand_b');
SELECT pg_temp.all_in_order(4, 'hand_b', 'hand_c', 'hand_a', 'hand_none');

-- in the transaction, and the statement, that made them ready, among those of before
SELECT count(job_submit('old', queue => 'hand5', priority => i)) FROM generate_series(1, 3) i;
SELECT kind, j.priority FROM job_claim('hand5') c JOIN job j USING (kind) WHERE j.id = c.job_id;
BEGIN;
SELECT count(job_submit('own', queue => 'hand5', priority => i)) FROM generate_series(-1, 5, 2) i;
SELECT c.kind, j.priority FROM job_claim('hand5', max_jobs => 3) c JOIN job j ON j.id = c.job_id;
SAVEPOINT s;
SELECT count(job_submit('own, undone', queue => 'hand5', priority => 9));
SELECT c.kind, j.priority FROM job_claim('hand5', max_jobs => 2) c JOIN job j ON j.id = c.job_id;
ROLLBACK TO s;
SELECT c.kind, j.priority FROM job_claim('hand5') c JOIN job j ON j.id = c.job_id;
COMMIT;
SELECT c.kind, j.priority, s.id = c.job_id FROM (SELECT job_submit('same statement', queue => 'hand5', priority => 7) AS id OFFSET 0) s,
    LATERAL job_claim('hand5', 'w' || s.id) c JOIN LATERAL (SELECT 7 AS priority) j ON true;
SELECT pg_temp.all_in_order(9, 'hand5');
SELECT pg_temp.release('hand5');
BEGIN;
SELECT count(job_submit('own', queue => 'hand5')) FROM generate_series(1, 600);
SELECT pg_temp.all_in_order(100, 'hand5');
ROLLBACK;
SELECT pg_temp.all_in_order(100, 'hand5');

-- savepoints: what comes back is claimed again, and is the same
SELECT count(job_submit('s' || i, queue => 'hand6', priority => i % 2)) FROM generate_series(1, 6) i;
BEGIN;
SELECT kind FROM job_claim('hand6');
SAVEPOINT a;
SELECT kind FROM job_claim('hand6', max_jobs => 2);
ROLLBACK TO a;
SELECT kind FROM job_claim('hand6');
SAVEPOINT b;
SELECT kind FROM job_claim('hand6', max_jobs => 9);
SAVEPOINT c;
SELECT kind FROM job_claim('hand6');
RELEASE c;
ROLLBACK TO b;
SELECT kind FROM job_claim('hand6', max_jobs => 2);
RELEASE b;
ROLLBACK TO a;
SELECT kind FROM job_claim('hand6', max_jobs => 9);
ROLLBACK;
SELECT pg_temp.all_in_order(1, 'hand6');
SELECT pg_temp.release('hand6');
DO $$
DECLARE
    first text;
    again text;
BEGIN
    FOR i IN 1 .. 100 LOOP
        BEGIN
            SELECT kind INTO first FROM job_claim('hand6', max_jobs => 1 + i % 4);
            RAISE division_by_zero;
        EXCEPTION WHEN division_by_zero THEN
            NULL;
        END;
        SELECT kind INTO again FROM job_claim('hand6');
        IF first <> again THEN
            RAISE '% instead of %', again, first;
        END IF;
        PERFORM job_release(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'hand6';
        COMMIT;
    END LOOP;
END $$;
SELECT pg_temp.all_in_order(1, 'hand6');

-- job_ready in another file
SELECT pg_temp.release('hand6'), pg_temp.release('hand5') > 0, pg_temp.release('hand4') > 0;
SELECT kind FROM job_claim('hand6');
SELECT (SELECT count(*) FROM job_claim('hand5')), (SELECT count(*) FROM job_claim('hand4'));
VACUUM FULL job_ready;
SELECT kind FROM job_claim('hand6');
CLUSTER job_ready USING job_ready_order;
SELECT kind FROM job_claim('hand6');
REINDEX TABLE job_ready;
SELECT kind FROM job_claim('hand6');
BEGIN;
SELECT kind FROM job_claim('hand6');
TRUNCATE job_ready;
SELECT kind FROM job_claim('hand6');
SELECT job_submit('in the new file', queue => 'hand6') > 0;
SELECT kind FROM job_claim('hand6');
ROLLBACK;
SELECT pg_temp.all_in_order(1, 'hand6');
SELECT pg_temp.all_in_order(2, 'hand5');
SELECT pg_temp.all_in_order(2, 'hand4');
SELECT job_submit('after', queue => 'hand6') > 0;
SELECT kind FROM job_claim('hand6');
-- dead rows whose place is used again
SELECT pg_temp.release('hand3');
SELECT count(*) FROM job_claim('hand3', max_jobs => 500);
VACUUM job_ready;
SELECT count(job_submit('y', queue => 'hand7', priority => i % 4)) FROM generate_series(1, 400) i;
SELECT pg_temp.all_in_order(50, 'hand3');
SELECT pg_temp.all_in_order(50, 'hand7');

SELECT count(job_cancel(id)) > 0 FROM job_status WHERE queue LIKE 'hand%' AND finished_at IS NULL;
SELECT count(job_fail(l.job_id, l.token, retry => false)) > 0 FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue LIKE 'hand%';
