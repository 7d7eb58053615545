-- Jobs with many parents, whose counters are spread over stripes: what becomes of them is what an evaluation of the table of rules says that
-- shares nothing with the extension, and what is counted in job_waiting and job_stripe together is what edges and parents say.
\set VERBOSITY terse
SET jit = off;

\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/rules.inc'
\i :file
INSERT INTO rule VALUES ('quorum', NULL, '{succeeded}', 60, true);

-- How many rows are wrong: counters that differ from a recount; stripes whose sizes are not the undecided parents of an open row
CREATE FUNCTION pg_temp.wrong() RETURNS bigint LANGUAGE sql SET enable_seqscan = off SET enable_hashjoin = off AS $$
    SELECT count(*)
    FROM (SELECT job_id, sum(size) AS size, sum(size - remaining) AS used, max(stripe) AS last, bool_and(remaining BETWEEN 1 AND size) AS ok
          FROM job_stripe GROUP BY job_id) s
        FULL JOIN job_waiting w ON w.job_id = s.job_id
        LEFT JOIN LATERAL
            (SELECT count(*) FILTER (WHERE p.outcome IS NULL) AS undecided,
                 count(*) FILTER (WHERE p.outcome IS NULL AND d.require <> 0) AS pending,
                 count(*) FILTER (WHERE p.outcome & d.suffice <> 0) AS hits,
                 count(*) FILTER (WHERE d.require <> 0 AND p.outcome & d.require = 0) AS violated,
                 count(*) FILTER (WHERE p.outcome IN (2, 8, 16)) AS hurt
             FROM job_dependency d JOIN job p ON p.id = d.upstream WHERE d.downstream = w.job_id) e ON true
    WHERE w.job_id IS NULL
        OR (w.open AND (w.undecided - coalesce(s.used, 0), w.pending - coalesce(s.used, 0), w.hits, w.violated, w.hurt)
                IS DISTINCT FROM (e.undecided, e.pending, e.hits, e.violated, e.hurt))
        OR CASE WHEN w.stripes > 0 THEN (w.open AND s.ok AND s.last < w.stripes AND s.size = w.undecided AND s.size = w.pending) IS NOT TRUE
           ELSE s.job_id IS NOT NULL END
$$;

-- Who is striped, and into what
SELECT array_agg(job_submit('p', queue => 'stripe')) AS p FROM generate_series(1, 1000) \gset
CREATE TEMP TABLE wide AS SELECT r.rule, n, job_submit('c', queue => 'stripe_idle', depends_on => (:'p'::bigint[])[1:n], trigger_rule => r.rule,
    quorum => CASE r.rule WHEN 'quorum' THEN n END) AS id FROM (SELECT DISTINCT rule.rule FROM rule) r, unnest('{63,64,200,1000}'::int[]) n;
SELECT x.rule, n, stripes, (SELECT string_agg(DISTINCT size::text, ',') FROM job_stripe s WHERE s.job_id = w.job_id) AS sizes
FROM wide x LEFT JOIN job_waiting w ON w.job_id = x.id ORDER BY 1, 2;
SELECT pg_temp.wrong();
-- only undecided parents count, and none may be outside require
SELECT job_fail(job_id, token, retry => false) FROM job_claim('stripe', max_jobs => 1) \g /dev/null
SELECT count(job_complete(job_id, token)) FROM job_claim('stripe', max_jobs => 20);
DELETE FROM wide;
INSERT INTO wide SELECT r, n, job_submit('c', queue => 'stripe_idle', depends_on => (:'p'::bigint[])[1:n], trigger_rule => r)
FROM unnest('{all_done,none_failed}'::text[]) r, unnest('{84,85}'::int[]) n;
SELECT x.rule, n, stripes, undecided, hurt FROM wide x LEFT JOIN job_waiting w ON w.job_id = x.id ORDER BY 1, 2;
SELECT job_submit('c', queue => 'stripe_idle', depends_on => (:'p'::bigint[])[2:85]) AS c \gset
SELECT stripes, undecided FROM job_waiting WHERE job_id = :c;
SELECT pg_temp.wrong();
SELECT count(job_cancel(id)) > 900 AS ok FROM job_status WHERE queue LIKE 'stripe%' AND finished_at IS NULL;
SELECT count(*) FROM job_stripe;
-- parents in the same call
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'p', 'queue', 'stripe', 'name', 'p' || i)) ||
    jsonb_build_array(jsonb_build_object('kind', 'c', 'queue', 'stripe_idle', 'depends_on', jsonb_agg('p' || i))) FROM generate_series(1, 96) i));
SELECT stripes, undecided, pg_temp.wrong() FROM job_waiting WHERE stripes > 0;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('stripe', max_jobs => 95)) x;
SELECT state FROM job_status WHERE queue = 'stripe_idle' AND finished_at IS NULL;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('stripe', max_jobs => 95)) x;
SELECT state FROM job_status WHERE queue = 'stripe_idle' AND finished_at IS NULL;
SELECT count(*) FROM job_stripe;

-- A parent, and the job whose end decides it: itself, or one before it
CREATE FUNCTION pg_temp.parent(outcome text, OUT trigger bigint, OUT id bigint) LANGUAGE plpgsql AS $$
BEGIN
    trigger := job_submit(outcome, queue => CASE outcome WHEN 'cancelled' THEN 'stripe_idle' ELSE 'stripe' END);
    id := CASE outcome
        WHEN 'skipped' THEN job_submit('p', queue => 'stripe_idle', depends_on => ARRAY[trigger], trigger_rule => 'all_failed')
        WHEN 'upstream_failed' THEN job_submit('p', queue => 'stripe_idle', depends_on => ARRAY[trigger])
        ELSE trigger END;
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

-- One case: parents that get these outcomes, so many at a time, now and then with a rollback before.  Returns the number of states looked at.
CREATE FUNCTION pg_temp.play(outcomes text[], part int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    n int := cardinality(outcomes);
    triggers bigint[];
    parents bigint[];
    known text[] := array_fill(NULL::text, ARRAY[n]);
    upto int := 0;
    looked bigint := 0;
    bad record;
BEGIN
    DELETE FROM child;
    SELECT array_agg(p.trigger ORDER BY i), array_agg(p.id ORDER BY i) INTO triggers, parents
    FROM unnest(outcomes) WITH ORDINALITY u(o, i), pg_temp.parent(o) p;
    INSERT INTO child SELECT job_submit('c', queue => 'stripe_idle', depends_on => parents, trigger_rule => r.rule,
        quorum => CASE r.rule WHEN 'quorum' THEN r.quorum END), r FROM rule r;
    PERFORM count(*) FROM job_claim('stripe', max_jobs => 1000);
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
        CONTINUE WHEN part < 10 AND upto % 10 > 0 AND upto < n - 5;
        FOR bad IN
            SELECT * FROM (SELECT (c.rule).rule, (c.rule).quorum, pg_temp.state(c.id) AS state, pg_temp.expected(c.rule, known) AS expected
                           FROM child c OFFSET 0) x
            WHERE state IS DISTINCT FROM expected
        LOOP
            RAISE WARNING 'rule % (quorum %), after % of %, % at a time: %, should be %',
                bad.rule, bad.quorum, upto, outcomes, part, bad.state, bad.expected;
        END LOOP;
        IF pg_temp.wrong() > 0 THEN
            RAISE WARNING 'after % of %, % at a time: miscounted', upto, outcomes, part;
        END IF;
        looked := looked + (SELECT count(*) FROM child);
    END LOOP;
    PERFORM job_cancel(id) FROM child;
    RETURN looked;
END $$;
CREATE TEMP TABLE child (id bigint, rule rule);

-- n parents: all with one outcome; all but one; some of each
CREATE FUNCTION pg_temp.outcomes(n int) RETURNS SETOF text[] LANGUAGE sql AS $$
    WITH o AS (SELECT unnest('{succeeded,failed,skipped,cancelled,upstream_failed}'::text[]) AS o)
    SELECT array_fill(o, ARRAY[n]) FROM o
    UNION ALL SELECT array_fill('succeeded'::text, ARRAY[n - n / 3]) || o || array_fill('succeeded'::text, ARRAY[n / 3 - 1]) FROM o WHERE o <> 'succeeded'
    UNION ALL SELECT array_fill('skipped'::text, ARRAY[n - 1]) || o FROM o WHERE o <> 'skipped'
    UNION ALL SELECT (SELECT array_agg((ARRAY['succeeded', 'failed', 'succeeded', 'upstream_failed'])[i % 4 + 1]) FROM generate_series(1, n) i)
    UNION ALL SELECT (SELECT array_agg((ARRAY['skipped', 'succeeded', 'cancelled', 'failed', 'upstream_failed'])[i % 5 + 1]) FROM generate_series(1, n) i)
$$;
CREATE TEMP TABLE played (n int, part int, states bigint);
SELECT format('INSERT INTO played VALUES (%s, %s, pg_temp.play(%L, %s))', n, part, o, part)
FROM (VALUES (63, 16), (64, 1), (64, 7), (65, 33), (64, 64), (200, 34)) v(n, part), pg_temp.outcomes(n) o \gexec
SELECT n, part, sum(states) AS states, count(*) AS cases FROM played GROUP BY 1, 2 ORDER BY 1, 2;
SELECT pg_temp.wrong();
SELECT count(*) FROM job_stripe;

-- Control of a child half done
CREATE FUNCTION pg_temp.make(n int, rule text DEFAULT 'all_success') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE c bigint;
BEGIN
    PERFORM job_cancel(id) FROM job_status WHERE queue LIKE 'stripe%' AND finished_at IS NULL AND state <> 'running';
    PERFORM job_fail(job_id, token, retry => false) FROM job_lease;
    c := job_submit('c', queue => 'stripe_c', trigger_rule => rule,
        depends_on => ARRAY(SELECT job_submit('p', queue => 'stripe') FROM generate_series(1, n)));
    PERFORM job_claim('stripe', max_jobs => n);
    RETURN c;
END $$;
CREATE FUNCTION pg_temp.complete(n int) RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM (SELECT * FROM job_lease ORDER BY job_id LIMIT n) l) x
$$;
CREATE FUNCTION pg_temp.look(c bigint) RETURNS TABLE (state text, stripes smallint, left_ bigint, held boolean, open boolean, wrong bigint) LANGUAGE sql AS $$
    SELECT s.state, w.stripes, w.undecided - coalesce((SELECT sum(size - remaining) FROM job_stripe t WHERE t.job_id = c), 0), w.held, w.open, pg_temp.wrong()
    FROM job_status s LEFT JOIN job_waiting w ON w.job_id = s.id WHERE s.id = c
$$;
-- held and let go: it stays striped; the last parent ends while it is held
SELECT pg_temp.make(100) AS c \gset
SELECT pg_temp.complete(50), job_hold(:c);
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(20), job_unhold(:c), job_unhold(:c), job_hold(:c);
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(30);
SELECT * FROM pg_temp.look(:c);
SELECT job_unhold(:c);
SELECT * FROM pg_temp.look(:c);
-- cancelled, and opened again: it is not striped then
SELECT pg_temp.make(100) AS c \gset
SELECT pg_temp.complete(50), job_cancel(:c), job_cancel(:c);
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:c);
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(49);
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(1);
SELECT * FROM pg_temp.look(:c);
-- a parent fails: it is upstream_failed; the parent is retried
SELECT pg_temp.make(100) AS c \gset
SELECT pg_temp.complete(50);
SELECT job_id AS p, job_fail(job_id, token, retry => false) FROM job_lease ORDER BY job_id LIMIT 1 \gset
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
SELECT job_id = :p AS again FROM job_claim('stripe');
SELECT pg_temp.complete(50);
SELECT * FROM pg_temp.look(:c);
-- one that only waits for the end of all is striped on; a parent that is retried ends that
SELECT pg_temp.make(100, 'all_done') AS c \gset
SELECT pg_temp.complete(40);
SELECT job_id AS p, job_fail(job_id, token, retry => false) FROM job_lease ORDER BY job_id LIMIT 1 \gset
SELECT * FROM pg_temp.look(:c);
BEGIN;
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
ROLLBACK;
SELECT * FROM pg_temp.look(:c);
SELECT job_retry(:p);
SELECT * FROM pg_temp.look(:c);
SELECT job_cancel(:p);
SELECT pg_temp.complete(59);
SELECT * FROM pg_temp.look(:c);
-- more parents in one call than a stripe has left, all of them, and with one that fails in between
SELECT pg_temp.make(96) AS c \gset
SELECT count(*) FROM (SELECT job_complete_many(array_agg(job_id), array_agg(token)) FROM (SELECT * FROM job_lease ORDER BY job_id LIMIT 40) l) x;
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.make(96) AS c \gset
SELECT count(*) FROM (SELECT job_complete_many(array_agg(job_id), array_agg(token)) FROM (SELECT * FROM job_lease ORDER BY job_id LIMIT 32) l) x;
SELECT * FROM pg_temp.look(:c);
SELECT count(*) FROM (SELECT job_complete_many(array_agg(job_id), array_agg(token)) FROM job_lease) x;
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.make(96) AS c \gset
SELECT count(*) FROM (SELECT job_complete_many(array_agg(job_id), array_agg(token)) FROM job_lease) x;
SELECT * FROM pg_temp.look(:c);
-- taken back by savepoints
SELECT pg_temp.make(64) AS c \gset
BEGIN;
SELECT pg_temp.complete(31);
SAVEPOINT a;
SELECT pg_temp.complete(33);
SELECT * FROM pg_temp.look(:c);
ROLLBACK TO a;
SELECT * FROM pg_temp.look(:c);
SELECT job_cancel(:c);
ROLLBACK TO a;
SELECT pg_temp.complete(32);
COMMIT;
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(1);
SELECT * FROM pg_temp.look(:c);
-- expired half done
SELECT pg_temp.make(64) AS c \gset
SELECT job_submit('c', queue => 'stripe_c', depends_on => ARRAY(SELECT job_id FROM job_lease), expires_at => now() + '2 s') AS c \gset
SELECT pg_temp.complete(32);
SELECT * FROM pg_temp.look(:c);
CALL job_wait(:c, '1 min');
SELECT * FROM pg_temp.look(:c);
SELECT pg_temp.complete(32);

SELECT count(*) FROM job_stripe;
SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'stripe%' AND finished_at IS NULL;
