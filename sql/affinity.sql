-- Affinity: a job is kept for the worker that was the last to run one with it
\set VERBOSITY terse
-- the kinds that a worker gets, in the order in which it gets them
CREATE FUNCTION pg_temp.take(worker text, max_jobs int DEFAULT 100, labels text[] DEFAULT NULL, queue text DEFAULT 'aff') RETURNS text LANGUAGE sql AS $$
    SELECT coalesce(string_agg(kind, ' '), '-') FROM job_claim(queue, worker, max_jobs, labels => labels)
$$;
-- the same, and they are done
CREATE FUNCTION pg_temp.work(worker text, max_jobs int DEFAULT 100, labels text[] DEFAULT NULL, queue text DEFAULT 'aff') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kinds text := pg_temp.take(worker, max_jobs, labels, queue);
BEGIN
    PERFORM job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = work.queue;
    RETURN kinds;
END $$;
-- poll until a worker gets something, with a limit
CREATE FUNCTION pg_temp.gets(worker text, queue text DEFAULT 'aff') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    kinds text;
BEGIN
    FOR i IN 1 .. 4000 LOOP
        kinds := pg_temp.work(worker, 1, NULL, queue);
        EXIT WHEN kinds <> '-';
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN kinds;
END $$;

-- bad input, and nothing is changed
SELECT format('SELECT job_submit(''x'', affinity => %L)', a) FROM unnest(ARRAY['', repeat('x', 129), E'a\tb']) a \gexec
SELECT format('SELECT job_submit_many(%L)', j) FROM unnest(ARRAY['[{"kind": "x", "affinity": 1}]', '[{"kind": "x", "affinity": ""}]']) j \gexec
SELECT format('SELECT job_queue_set(''aff'', affinity_wait => %L)', a) FROM unnest(ARRAY['-1 s', '300 years', 'x']) a \gexec
SELECT count(*) FROM job_queue WHERE name = 'aff';

-- nobody has run one: it goes to any worker, and the next ones to that one
SELECT job_queue_set('aff', affinity_wait => '1 hour');
SELECT job_submit('first', queue => 'aff', affinity => 'a') AS first \gset
SELECT kind, state, affinity FROM job_status WHERE id = :first;
SELECT pg_temp.work('w1');
SELECT count(job_submit(format('%s-%s', a, i), queue => 'aff', affinity => a)) FROM unnest(ARRAY['a', 'b']) a, generate_series(1, 2) i;
SELECT pg_temp.work('w2');
SELECT pg_temp.work(NULL);
SELECT kind, state FROM job_status WHERE queue = 'aff' AND state = 'ready' ORDER BY id;
SELECT queue, ready FROM job_queue_status WHERE queue = 'aff';
SELECT reason, regexp_replace(regexp_replace(detail, 'until .* at', 'until … at'), 'since [^,]*,', 'since …,') AS detail, hint FROM job j, job_explain(j.id) WHERE j.queue = 'aff' AND j.kind = 'a-1';
SELECT job_worker_register('w1');
SELECT regexp_replace(detail, 'until .* at', 'until … at') AS detail FROM job j, job_explain(j.id) WHERE j.queue = 'aff' AND j.kind = 'a-1' AND reason = 'affinity';
SELECT * FROM job_check();
SELECT pg_temp.work('w1');
-- the last is that which counts
SELECT job_submit('b-last', queue => 'aff', affinity => 'b') > 0 AS ok;
SELECT pg_temp.work('w1');
SELECT pg_temp.work('w2');
-- an affinity is of its queue
SELECT job_submit('elsewhere', queue => 'aff2', affinity => 'a') > 0 AS ok;
SELECT pg_temp.work('w2', queue => 'aff2');

-- with priority, then the order in which they became ready, over what is kept for it and what is not, one by one and together
SELECT count(job_submit(format('%s/%s', p, i), queue => 'aff', priority => p, affinity => CASE i % 3 WHEN 1 THEN 'a' WHEN 2 THEN 'b' END)) FROM unnest(ARRAY[0, 7]) p, generate_series(1, 6) i;
SELECT i, pg_temp.take('w1', 1) FROM generate_series(1, 3) i;
SELECT pg_temp.take('w1');
SELECT pg_temp.take('w2');
SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE queue = 'aff';
-- by a batch of submissions, in the transaction that submits, under one snapshot, and from several queues
SELECT count(*) FROM job_submit_many('[{"kind": "m1", "queue": "aff", "affinity": "a"}, {"kind": "m2", "queue": "aff"}, {"kind": "m3", "queue": "aff", "affinity": "a", "depends_on": []}]');
SELECT pg_temp.work('w2');
BEGIN;
SELECT job_submit('own', queue => 'aff', affinity => 'a') > 0 AS ok;
SELECT pg_temp.work('w2');
SELECT pg_temp.work('w1');
COMMIT;
SELECT job_submit('snapshot', queue => 'aff', affinity => 'a') > 0 AS ok;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT pg_temp.work('w2');
SELECT pg_temp.work('w1');
COMMIT;
SELECT job_submit('two queues', queue => 'aff', affinity => 'a') > 0 AS ok;
SELECT kind FROM job_claim('{aff2,aff}'::text[], 'w2');
SELECT kind, job_id, token FROM job_claim('{aff2,aff}'::text[], 'w1') \gset
-- job_next is by the same worker
SELECT count(job_submit(k, queue => 'aff', affinity => 'a')) FROM unnest(ARRAY['next', 'again']) k;
SELECT kind, job_id, token FROM job_next(:job_id, :token) \gset
\echo :kind

-- whatever becomes of it, it is kept, or not any more: released, tried again, held, changed, moved, cancelled
SELECT job_release(:job_id, :token);
SELECT pg_temp.take('w2');
SELECT job_hold(id), job_unhold(id) FROM job WHERE queue = 'aff' AND kind = 'again';
SELECT pg_temp.take('w2');
SELECT job_change(id, priority => 3) FROM job WHERE queue = 'aff' AND kind = 'again';
SELECT job_change(id, tags => '{"t": 1}') FROM job WHERE queue = 'aff' AND kind = 'next';
SELECT pg_temp.take('w2');
SELECT * FROM job_check();
SELECT job_change(id, queue => 'aff2') FROM job WHERE queue = 'aff' AND kind = 'next';
SELECT pg_temp.take('w1', queue => 'aff2');
SELECT pg_temp.take('w2', queue => 'aff2');
SELECT pg_temp.take('w1');
SELECT job_fail(l.job_id, l.token, 'again', retry_in => '0') FROM job_lease l JOIN job j ON j.id = l.job_id WHERE kind = 'again';
SELECT pg_temp.gets('w1');
SELECT job_submit('cancelled', queue => 'aff', affinity => 'a') AS cancelled \gset
SELECT job_cancel(:cancelled);
SELECT pg_temp.take('w1');
SELECT job_complete(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE queue IN ('aff', 'aff2');
SELECT * FROM job_check();

-- with labels: the worker must have them, too, and is waited for
SELECT job_submit('l0', queue => 'aff', affinity => 'l', requires => '{gpu}') > 0 AS ok;
SELECT pg_temp.work('w1', labels => '{gpu,eu}');
SELECT job_submit('l1', queue => 'aff', affinity => 'l', requires => '{gpu}') > 0 AS ok;
SELECT job_submit('l2', queue => 'aff', affinity => 'l') > 0 AS ok;
SELECT pg_temp.work('w2', labels => '{gpu,eu}');
SELECT pg_temp.work('w1');
SELECT pg_temp.work('w1', labels => '{gpu}');

-- how long: until the time is over, or not at all
SELECT job_queue_set('aff', affinity_wait => '50 ms');
SELECT job_submit('soon', queue => 'aff', affinity => 'a') > 0 AS ok;
SELECT pg_temp.gets('w2');
SELECT job_queue_set('aff', affinity_wait => '0');
SELECT job_submit('at once', queue => 'aff', affinity => 'a') > 0 AS ok;
SELECT pg_temp.work('w3');
SELECT job_queue_reset('aff', 'affinity_wait');
SELECT affinity_wait, own FROM job_queues WHERE queue = 'aff';
SET jobq.affinity_wait = '1h';
SELECT affinity_wait FROM job_queues WHERE queue = 'aff';
SELECT job_submit('by the setting', queue => 'aff', affinity => 'a') > 0 AS ok;
SELECT pg_temp.work('w1');
-- none is waited for that takes no jobs any more
SELECT job_worker_register('w3');
SELECT job_worker_drain('w3');
SELECT pg_temp.gets('w1');
SELECT job_submit('of w1', queue => 'aff', affinity => 'a') > 0 AS ok;
SELECT pg_temp.work('w2');
SELECT job_worker_unregister('w1');
SELECT pg_temp.gets('w2');
SELECT job_worker_unregister('w3');

-- behind a gate: it is let in for its worker, and has its slot meanwhile
SELECT job_queue_set('aff_gate', max_running => 2, affinity_wait => '1 hour');
CREATE FUNCTION pg_temp.settled(n_ready int, n_limited int) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    now text;
BEGIN
    FOR i IN 1 .. 4000 LOOP
        SELECT format('%s ready, %s limited', s.ready, s.limited) INTO now FROM job_queue_status s WHERE s.queue = 'aff_gate';
        EXIT WHEN now = format('%s ready, %s limited', n_ready, n_limited);
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN now;
END $$;
SELECT job_worker_register('w1');
SELECT job_submit('g0', queue => 'aff_gate', affinity => 'g') > 0 AS ok;
SELECT pg_temp.gets('w1', 'aff_gate');
SELECT count(job_submit('g' || i, queue => 'aff_gate', affinity => 'g')) FROM generate_series(1, 3) i;
SELECT pg_temp.settled(2, 1);
SELECT pg_temp.take('w2', queue => 'aff_gate');
SELECT detail FROM job j, job_explain(j.id) e WHERE j.queue = 'aff_gate' AND j.kind = 'g3' AND reason LIKE '%limit';
SELECT * FROM job_check();
-- other settings, another gate
SELECT job_queue_set('aff_gate', max_running => 1);
SELECT pg_temp.settled(1, 2);
SELECT pg_temp.take('w2', queue => 'aff_gate');
SELECT pg_temp.take('w1', queue => 'aff_gate');
SELECT job_queue_set('aff_gate', max_running => 2);
SELECT pg_temp.settled(1, 1);
SELECT job_worker_unregister('w1');
SELECT pg_temp.gets('w2', 'aff_gate');
SELECT pg_temp.gets('w2', 'aff_gate');
SELECT job_queue_reset('aff_gate');
SELECT count(*) FROM job_status WHERE queue = 'aff_gate' AND state <> 'succeeded';

-- A1: what says until when is gone; it is made ready anew
SELECT job_queue_set('aff', affinity_wait => '1 hour');
SELECT job_submit('k0', queue => 'aff', affinity => 'k') > 0 AS ok;
SELECT pg_temp.work('w1');
SELECT job_submit('k1', queue => 'aff', affinity => 'k') AS k1 \gset
DELETE FROM job_kept WHERE job_id = :k1;
SELECT invariant, job_id = :k1 AS k1, problem, repaired FROM job_check();
SELECT invariant, job_id = :k1 AS k1, problem, repaired FROM job_check(true);
SELECT pg_temp.gets('w1');
SELECT job_submit('k2', queue => 'aff', affinity => 'k') AS k2 \gset
UPDATE job SET affinity = 'other' WHERE id = :k2;
SELECT invariant, problem, repaired FROM job_check(true);
SELECT pg_temp.gets('w2');
SELECT * FROM job_check();
