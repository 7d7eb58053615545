-- Jobs that depend on many, which are counted by deltas that the background worker folds: what becomes of them is what an evaluation of the
-- table of rules says that shares nothing with the extension, and counters and deltas together are what edges and parents say.
\set VERBOSITY terse
SET jit = off;

\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/rules.inc'
\i :file
INSERT INTO rule VALUES ('quorum', NULL, '{succeeded}', 60, true);

-- How many waiting jobs are counted wrongly, by their counters and the deltas of their epoch together
CREATE FUNCTION pg_temp.wrong() RETURNS bigint LANGUAGE sql SET enable_seqscan = off SET enable_hashjoin = off AS $$
    SELECT count(*)
    FROM job_waiting w
        CROSS JOIN LATERAL
            (SELECT count(*) FILTER (WHERE p.outcome IS NULL) AS undecided,
                 count(*) FILTER (WHERE p.outcome IS NULL AND d.require <> 0) AS pending,
                 count(*) FILTER (WHERE p.outcome & d.suffice <> 0) AS hits,
                 count(*) FILTER (WHERE d.require <> 0 AND p.outcome & d.require = 0) AS violated,
                 count(*) FILTER (WHERE p.outcome IN (2, 8, 16)) AS hurt
             FROM job_dependency d JOIN job p ON p.id = d.upstream WHERE d.downstream = w.job_id) e
        CROSS JOIN LATERAL
            (SELECT coalesce(sum(undecided), 0) AS undecided, coalesce(sum(pending), 0) AS pending, coalesce(sum(hits), 0) AS hits,
                 coalesce(sum(violated), 0) AS violated, coalesce(sum(hurt), 0) AS hurt
             FROM job_delta WHERE downstream = w.job_id AND epoch = w.epoch) d
    WHERE w.queue_id IN (SELECT q.queue_id FROM job_queue q WHERE q.name LIKE 'wide%') AND w.open AND (w.undecided + d.undecided, w.pending + d.pending, w.hits + d.hits, w.violated + d.violated, w.hurt + d.hurt)
        IS DISTINCT FROM (e.undecided, e.pending, e.hits, e.violated, e.hurt)
$$;

-- Until the background worker has nothing left to do; outside a transaction that has left it something
CREATE PROCEDURE pg_temp.settle() LANGUAGE plpgsql AS $$
DECLARE left_ bigint;
BEGIN
    FOR i IN 1 .. 30000 LOOP
        left_ := (SELECT count(*) FROM job_delta) + (SELECT count(*) FROM job_recount) + (SELECT count(*) FROM job_cancel_request);
        EXIT WHEN left_ = 0;
        PERFORM pg_sleep(0.001);
    END LOOP;
    IF left_ > 0 THEN RAISE '% are left', left_; END IF;
END $$;

-- From how many parents on a job is wide: undecided ones
SELECT array_agg(job_submit('p', queue => 'wide')) AS p FROM generate_series(1, 200) \gset
CREATE TEMP TABLE wide AS SELECT rule, n, job_submit('c', queue => 'wide_idle', depends_on => (:'p'::bigint[])[1:n], trigger_rule => rule,
    quorum => CASE rule WHEN 'quorum' THEN n END) AS id FROM (SELECT DISTINCT rule FROM rule) r, unnest('{63,64,200}'::int[]) n;
SELECT n, wide, undecided, count(*), string_agg(x.rule, ' ' ORDER BY x.rule) AS rules FROM wide x LEFT JOIN job_waiting w ON w.job_id = x.id
GROUP BY 1, 2, 3 ORDER BY 1, 2;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('wide', max_jobs => 10)) x;
DELETE FROM wide;
INSERT INTO wide SELECT 'all_success', n, job_submit('c', queue => 'wide_idle', depends_on => (:'p'::bigint[])[1:n]) FROM unnest('{73,74}'::int[]) n;
SELECT n, wide, undecided FROM wide x JOIN job_waiting w ON w.job_id = x.id ORDER BY 1;
SELECT pg_temp.wrong();
SELECT count(job_cancel(id)) > 190 AS ok FROM job_status WHERE queue LIKE 'wide%' AND finished_at IS NULL;
CALL pg_temp.settle();

-- A parent, and the job whose end decides it: itself, or one before it
CREATE FUNCTION pg_temp.parent(outcome text, OUT trigger bigint, OUT id bigint) LANGUAGE plpgsql AS $$
BEGIN
    trigger := job_submit(outcome, queue => CASE outcome WHEN 'cancelled' THEN 'wide_idle' ELSE 'wide' END);
    id := CASE outcome
        WHEN 'skipped' THEN job_submit('p', queue => 'wide_idle', depends_on => ARRAY[trigger], trigger_rule => 'all_failed')
        WHEN 'upstream_failed' THEN job_submit('p', queue => 'wide_idle', depends_on => ARRAY[trigger])
        ELSE trigger END;
END $$;

-- The same for all parents and children by one call
CREATE FUNCTION pg_temp.submit_many(outcomes text[], OUT triggers bigint[], OUT parents bigint[]) LANGUAGE plpgsql AS $$
DECLARE
    n int := cardinality(outcomes);
    ids bigint[];
BEGIN
    SELECT array_agg(id ORDER BY o) INTO ids FROM job_submit_many(
        (SELECT jsonb_agg(jsonb_build_object('kind', u.o, 'name', 't' || i, 'queue', CASE u.o WHEN 'cancelled' THEN 'wide_idle' ELSE 'wide' END) ORDER BY i)
         FROM unnest(outcomes) WITH ORDINALITY u(o, i)) ||
        (SELECT jsonb_agg(jsonb_build_object('kind', 'p', 'name', 'p' || i, 'queue', 'wide_idle', 'depends_on', jsonb_build_array('t' || i),
            'trigger_rule', CASE u.o WHEN 'skipped' THEN 'all_failed' ELSE 'all_success' END) ORDER BY i)
         FROM unnest(outcomes) WITH ORDINALITY u(o, i)) ||
        (SELECT jsonb_agg(jsonb_build_object('kind', 'c', 'queue', 'wide_idle', 'trigger_rule', r.rule,
            'depends_on', (SELECT jsonb_agg(CASE WHEN u.o IN ('skipped', 'upstream_failed') THEN 'p' ELSE 't' END || i) FROM unnest(outcomes) WITH ORDINALITY u(o, i)))
            || CASE r.rule WHEN 'quorum' THEN jsonb_build_object('quorum', r.quorum) ELSE '{}' END)
         FROM (SELECT * FROM rule ORDER BY rule, quorum) r)) WITH ORDINALITY s(id, o);
    triggers := ids[:n];
    SELECT array_agg(CASE WHEN u.o IN ('skipped', 'upstream_failed') THEN ids[n + i] ELSE ids[i] END ORDER BY i) INTO parents
    FROM unnest(outcomes) WITH ORDINALITY u(o, i);
    INSERT INTO child SELECT ids[2 * n + o], r FROM (SELECT r, row_number() OVER (ORDER BY r.rule, r.quorum) AS o FROM rule r) x;
END $$;

-- Decide some of the parents, as many of them in one call as go together
CREATE FUNCTION pg_temp.decide(triggers bigint[], outcomes text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    good record;
    bad record;
BEGIN
    SELECT array_agg(job_id) AS ids, array_agg(token) AS tokens INTO good
    FROM unnest(triggers, outcomes) u(t, o) JOIN job_lease ON job_id = t WHERE o IN ('succeeded', 'skipped');
    SELECT array_agg(job_id) AS ids, array_agg(token) AS tokens INTO bad
    FROM unnest(triggers, outcomes) u(t, o) JOIN job_lease ON job_id = t WHERE o IN ('failed', 'upstream_failed');
    IF good.ids IS NOT NULL THEN PERFORM job_complete_many(good.ids, good.tokens); END IF;
    PERFORM job_cancel(t) FROM unnest(triggers, outcomes) u(t, o) WHERE o = 'cancelled';
    IF bad.ids IS NOT NULL THEN PERFORM job_fail_many(bad.ids, bad.tokens, retry => false); END IF;
END $$;

-- One case: parents that get these outcomes, so many at a time, now and then with a rollback before.  Halfway, as act says, the children are
-- held, and let go at the end; or they are cancelled and retried, before the deltas of the same transaction are folded; or the parents were
-- submitted together with them.  Counts the states looked at.
CREATE TEMP TABLE child (id bigint, rule rule);
CREATE TEMP TABLE played (act text, n int, part int, states bigint);
CREATE PROCEDURE pg_temp.play(act text, outcomes text[], part int) LANGUAGE plpgsql AS $$
DECLARE
    n int := cardinality(outcomes);
    triggers bigint[];
    parents bigint[];
    known text[] := array_fill(NULL::text, ARRAY[n]);
    upto int := 0;
    half boolean;
    bad record;
BEGIN
    DELETE FROM child;
    IF act = 'many' THEN
        SELECT * INTO triggers, parents FROM pg_temp.submit_many(outcomes);
    ELSE
        SELECT array_agg(p.trigger ORDER BY i), array_agg(p.id ORDER BY i) INTO triggers, parents
        FROM unnest(outcomes) WITH ORDINALITY u(o, i), pg_temp.parent(o) p;
        INSERT INTO child SELECT job_submit('c', queue => 'wide_idle', depends_on => parents, trigger_rule => r.rule,
            quorum => CASE r.rule WHEN 'quorum' THEN r.quorum END), r FROM rule r;
    END IF;
    PERFORM count(*) FROM job_claim('wide', max_jobs => 1000);
    COMMIT;
    WHILE upto < n LOOP
        IF upto % 4 = 0 THEN
            BEGIN
                PERFORM pg_temp.decide(triggers[upto + 1 : upto + part], outcomes[upto + 1 : upto + part]);
                RAISE division_by_zero;
            EXCEPTION WHEN division_by_zero THEN NULL;
            END;
        END IF;
        PERFORM pg_temp.decide(triggers[upto + 1 : upto + part], outcomes[upto + 1 : upto + part]);
        known := outcomes[1 : least(upto + part, n)] || known[upto + part + 1 :];
        upto := upto + part;
        half := upto - part < n / 2 AND upto >= n / 2;
        IF act = 'hold' AND half THEN
            PERFORM job_hold(id) FROM child WHERE pg_temp.state(id) IN ('waiting', 'ready');
        ELSIF act = 'hold' AND upto >= n THEN
            COMMIT;
            CALL pg_temp.settle();
            IF EXISTS (SELECT FROM job_waiting JOIN child ON id = job_id WHERE open) THEN RAISE WARNING 'still open'; END IF;
            PERFORM job_unhold(job_id) FROM job_waiting JOIN child ON id = job_id;
        ELSIF act = 'retry' AND half THEN
            PERFORM job_cancel(id), job_retry(id) FROM child
            WHERE pg_temp.state(id) = 'waiting' AND pg_temp.expected(child.rule, known) IN ('waiting', 'ready');
        END IF;
        COMMIT;
        CONTINUE WHEN part < 10 AND upto % 10 > 0 AND upto < n - 5;
        IF pg_temp.wrong() > 0 THEN
            RAISE WARNING '%: after % of %, % at a time: miscounted', act, upto, outcomes, part;
        END IF;
        CALL pg_temp.settle();
        FOR bad IN
            SELECT * FROM (SELECT (c.rule).rule, (c.rule).quorum, pg_temp.state(c.id) AS state, pg_temp.expected(c.rule, known) AS expected,
                               EXISTS (SELECT FROM job_waiting w WHERE w.job_id = c.id AND w.held AND NOT w.open) AS held
                           FROM child c OFFSET 0) x
            WHERE CASE WHEN held THEN 'ready' ELSE state END IS DISTINCT FROM expected
        LOOP
            RAISE WARNING '%: rule % (quorum %), after % of %, % at a time: %, should be %',
                act, bad.rule, bad.quorum, upto, outcomes, part, bad.state, bad.expected;
        END LOOP;
        INSERT INTO played SELECT act, n, part, count(*) FROM child;
    END LOOP;
    PERFORM job_cancel(id) FROM child;
    COMMIT;
END $$;

-- n parents: all with one outcome; all but one; some of each
CREATE FUNCTION pg_temp.outcomes(n int) RETURNS SETOF text[] LANGUAGE sql AS $$
    WITH o AS (SELECT unnest('{succeeded,failed,skipped,cancelled,upstream_failed}'::text[]) AS o)
    SELECT array_fill(o, ARRAY[n]) FROM o
    UNION ALL SELECT array_fill('succeeded'::text, ARRAY[n - n / 3]) || o || array_fill('succeeded'::text, ARRAY[n / 3 - 1]) FROM o WHERE o <> 'succeeded'
    UNION ALL SELECT array_fill('skipped'::text, ARRAY[n - 1]) || o FROM o WHERE o <> 'skipped'
    UNION ALL SELECT (SELECT array_agg((ARRAY['succeeded', 'failed', 'succeeded', 'upstream_failed'])[i % 4 + 1]) FROM generate_series(1, n) i)
    UNION ALL SELECT (SELECT array_agg((ARRAY['skipped', 'succeeded', 'cancelled', 'failed', 'upstream_failed'])[i % 5 + 1]) FROM generate_series(1, n) i)
$$;
DO $$
DECLARE c record;
BEGIN
    FOR c IN
        SELECT act, o, part
        FROM (VALUES ('', 63, 22), ('', 64, 64), ('', 65, 33), ('', 200, 70), ('hold', 64, 22), ('retry', 65, 22), ('many', 65, 24)) v(act, n, part),
            pg_temp.outcomes(n) o
        UNION ALL
        SELECT act, o, part
        FROM (VALUES ('', 64, 1), ('retry', 140, 30), ('', 1000, 400)) v(act, n, part), pg_temp.outcomes(n) WITH ORDINALITY o(o, i) WHERE i IN (7, 13, 15)
    LOOP
        CALL pg_temp.play(c.act, c.o, c.part);
    END LOOP;
END $$;
SELECT act, n, part, sum(states) AS states FROM played GROUP BY 1, 2, 3 ORDER BY 1, 2, 3;
SELECT pg_temp.wrong();

-- One job with so many parents, which run; and what became of it
CREATE FUNCTION pg_temp.make(n int, rule text DEFAULT 'all_success') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE c bigint;
BEGIN
    PERFORM job_cancel(id) FROM job_status WHERE queue LIKE 'wide%' AND finished_at IS NULL AND state <> 'running';
    PERFORM job_fail(job_id, token, retry => false) FROM job_lease;
    c := job_submit('c', queue => 'wide_c', trigger_rule => rule,
        depends_on => ARRAY(SELECT job_submit('p', queue => 'wide') FROM generate_series(1, n)));
    PERFORM job_claim('wide', max_jobs => n);
    RETURN c;
END $$;
CREATE FUNCTION pg_temp.complete(n int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM (SELECT * FROM job_lease ORDER BY job_id LIMIT n) l) x
$$;
CREATE FUNCTION pg_temp.look(c bigint) RETURNS TABLE (state text, undecided int, wide boolean, held boolean, open boolean, wrong bigint) LANGUAGE sql AS $$
    SELECT s.state, w.undecided, w.wide, w.held, w.open, pg_temp.wrong() FROM job_status s LEFT JOIN job_waiting w ON w.job_id = s.id WHERE s.id = c
$$;
-- before the commit nothing is counted; all of it after
SELECT pg_temp.make(64) AS c \gset
BEGIN;
SELECT pg_temp.complete(64);
SELECT * FROM pg_temp.look(:c);
SELECT count(*), sum(undecided) FROM job_delta;
COMMIT;
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- held and let go; the last parent ends while it is held
SELECT pg_temp.make(100) AS c \gset
SELECT pg_temp.complete(50), job_hold(:c);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(20), job_unhold(:c), job_unhold(:c), job_hold(:c);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(30);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT job_unhold(:c);
SELECT * FROM pg_temp.look(:c);
-- cancelled with deltas of the same transaction, and opened again: only what is undecided then makes it wide
SELECT pg_temp.make(164) AS c \gset
SELECT pg_temp.complete(100), job_cancel(:c), job_cancel(:c);
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:c), pg_temp.complete(1);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT job_cancel(:c), job_retry(:c);
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(62);
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(1);
SELECT * FROM pg_temp.look(:c);
-- a parent fails: it is upstream_failed; the parent is retried
SELECT pg_temp.make(100) AS c \gset
SELECT pg_temp.complete(30);
SELECT job_id AS p, job_fail(job_id, token, retry => false) FROM job_lease ORDER BY job_id LIMIT 1 \gset
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
SELECT job_id = :p AS again FROM job_claim('wide');
SELECT pg_temp.complete(70);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- the same, retried before the delta of its failure is committed, and again after it is folded
SELECT pg_temp.make(100) AS c \gset
BEGIN;
SELECT job_id AS p, job_fail(job_id, token, retry => false) FROM job_lease ORDER BY job_id LIMIT 1 \gset
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
SELECT count(*), sum(undecided) FROM job_delta;
COMMIT;
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT job_id = :p AS again, job_fail(job_id, token, retry => false) FROM job_claim('wide');
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:p), pg_temp.complete(99);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT job_id = :p AS again, job_complete(job_id, token) FROM job_claim('wide');
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- one that only waits for the ends of all; the retry of a parent is rolled back
SELECT pg_temp.make(100, 'all_done') AS c \gset
SELECT pg_temp.complete(40);
SELECT job_id AS p, job_fail(job_id, token, retry => false) FROM job_lease ORDER BY job_id LIMIT 1 \gset
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
BEGIN;
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
ROLLBACK;
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
SELECT job_cancel(:p), pg_temp.complete(59);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- all parents in one call, and one that fails between them
SELECT pg_temp.make(96) AS c \gset
SELECT count(*) FROM (SELECT job_complete_many(array_agg(job_id), array_agg(token)) FROM job_lease) x;
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.make(96) AS c \gset
SELECT job_fail(job_id, token, retry => false) FROM job_lease ORDER BY job_id LIMIT 1 OFFSET 50;
SELECT pg_temp.complete(90);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- taken back by savepoints
SELECT pg_temp.make(64) AS c \gset
BEGIN;
SELECT pg_temp.complete(31);
SAVEPOINT a;
SELECT pg_temp.complete(33);
SELECT count(*), sum(undecided), pg_temp.wrong() FROM job_delta;
ROLLBACK TO a;
SELECT count(*), sum(undecided), pg_temp.wrong() FROM job_delta;
SELECT job_cancel(:c);
ROLLBACK TO a;
SELECT pg_temp.complete(32);
COMMIT;
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(1);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- expired half done
SELECT pg_temp.make(64) AS c \gset
SELECT job_submit('c', queue => 'wide_c', depends_on => ARRAY(SELECT job_id FROM job_lease), expires_at => now() + '1 s') AS c \gset
SELECT pg_temp.complete(32);
CALL job_wait(:c, '1 min');
SELECT pg_temp.complete(32);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:c);
-- not before its time, and with children of its own
SELECT pg_temp.make(64) AS c \gset
SELECT job_submit('c', queue => 'wide_c', depends_on => ARRAY(SELECT job_id FROM job_lease), run_in => '1 day') AS later \gset
SELECT job_submit('d', queue => 'wide_c', depends_on => ARRAY(SELECT job_id FROM job_lease) || :c::bigint) AS d \gset
SELECT pg_temp.complete(64);
CALL pg_temp.settle();
SELECT state FROM job_status WHERE id IN (:c, :later, :d) ORDER BY id;
SELECT job_cancel(:c);
CALL pg_temp.settle();
SELECT * FROM pg_temp.look(:d);

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'wide%' AND finished_at IS NULL;
CALL pg_temp.settle();
SELECT count(*) FROM job_delta;
