-- Every trigger rule against every combination of its parents' outcomes, in every order in which they can end, submitted before, between and
-- after their ends; compared with an evaluation of the table of rules that shares nothing with the extension.
\set VERBOSITY terse

\getenv dir PG_ABS_SRCDIR
\set file :dir '/sql/rules.inc'
\i :file
INSERT INTO rule VALUES
    ('quorum', NULL, '{succeeded}', 2, true),
    ('quorum', NULL, '{succeeded}', 3, true);

-- A parent, and the job whose end decides it: itself, or one before it
CREATE FUNCTION pg_temp.parent(outcome text, OUT trigger bigint, OUT id bigint) LANGUAGE plpgsql AS $$
BEGIN
    trigger := job_submit(outcome, queue => CASE outcome WHEN 'cancelled' THEN 'depend_idle' ELSE 'depend' END);
    id := CASE outcome
        WHEN 'skipped' THEN job_submit('p', queue => 'depend_idle', depends_on => ARRAY[trigger], trigger_rule => 'all_failed')
        WHEN 'upstream_failed' THEN job_submit('p', queue => 'depend_idle', depends_on => ARRAY[trigger])
        ELSE trigger END;
END $$;

CREATE FUNCTION pg_temp.decide(trigger bigint, outcome text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    CASE outcome
        WHEN 'succeeded', 'skipped' THEN PERFORM job_complete(job_id, token) FROM job_lease WHERE job_id = trigger;
        WHEN 'failed', 'upstream_failed' THEN PERFORM job_fail(job_id, token, retry => false) FROM job_lease WHERE job_id = trigger;
        WHEN 'cancelled' THEN PERFORM job_cancel(trigger);
    END CASE;
END $$;

-- One case: parents that get these outcomes in this order.  Returns the number of states looked at; complains about the wrong ones.
CREATE FUNCTION pg_temp.play(outcomes text[], ending int[], late boolean) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    triggers bigint[];
    parents bigint[];
    known text[] := array_fill(NULL::text, ARRAY[cardinality(outcomes)]);
    looked bigint := 0;
    wrong record;
BEGIN
    DELETE FROM child;
    FOR i IN 1 .. cardinality(outcomes) LOOP
        SELECT triggers || p.trigger, parents || p.id INTO triggers, parents FROM pg_temp.parent(outcomes[i]) p;
    END LOOP;
    PERFORM count(*) FROM job_claim('depend', max_jobs => 1000);
    FOR step IN 0 .. cardinality(outcomes) LOOP
        IF step > 0 THEN
            PERFORM pg_temp.decide(triggers[ending[step]], outcomes[ending[step]]);
            known[ending[step]] := outcomes[ending[step]];
        END IF;
        IF step = 0 OR late THEN
            INSERT INTO child
            SELECT job_submit('c', queue => 'depend_idle', depends_on => parents, trigger_rule => r.rule,
                              quorum => CASE r.rule WHEN 'quorum' THEN r.quorum END), r, step
            FROM rule r WHERE r.quorum <= cardinality(outcomes);
        END IF;
        FOR wrong IN
            SELECT * FROM (SELECT c.submitted, (c.rule).rule, (c.rule).quorum, pg_temp.state(c.id) AS state, pg_temp.expected(c.rule, known) AS expected
                           FROM child c OFFSET 0) x
            WHERE state IS DISTINCT FROM expected
        LOOP
            RAISE WARNING 'rule % (quorum %), parents %, ending %, submitted at step %, at step %: %, should be %',
                wrong.rule, wrong.quorum, outcomes, ending, wrong.submitted, step, wrong.state, wrong.expected;
        END LOOP;
        looked := looked + (SELECT count(*) FROM child);
    END LOOP;
    RETURN looked;
END $$;
CREATE TEMP TABLE child (id bigint, rule rule, submitted int);
CREATE TEMP TABLE outcome AS SELECT unnest('{succeeded,failed,skipped,cancelled,upstream_failed}'::text[]) AS o;

-- one parent, two, three
SELECT sum(pg_temp.play(ARRAY[a.o], '{1}', true)) AS states FROM outcome a;
SELECT sum(pg_temp.play(ARRAY[a.o, b.o], e, true)) AS states FROM outcome a, outcome b, (VALUES ('{1,2}'::int[]), ('{2,1}')) v(e);
SELECT sum(pg_temp.play(ARRAY[a.o, b.o, c.o], e, e = '{1,2,3}')) AS states FROM outcome a, outcome b, outcome c,
    (VALUES ('{1,2,3}'::int[]), ('{1,3,2}'), ('{2,1,3}'), ('{2,3,1}'), ('{3,1,2}'), ('{3,2,1}')) v(e);

-- what job_waiting counts equals what edges and parents say
CREATE FUNCTION pg_temp.miscounted() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM job_waiting w JOIN LATERAL
        (SELECT count(*) FILTER (WHERE p.outcome IS NULL) AS undecided,
             count(*) FILTER (WHERE p.outcome IS NULL AND d.require <> 0) AS pending,
             count(*) FILTER (WHERE p.outcome & d.suffice <> 0) AS hits,
             count(*) FILTER (WHERE d.require <> 0 AND p.outcome & d.require = 0) AS violated,
             count(*) FILTER (WHERE p.outcome IN (2, 8, 16)) AS hurt
         FROM job_dependency d JOIN job p ON p.id = d.upstream WHERE d.downstream = w.job_id) e ON true
    WHERE w.open AND (w.undecided, w.pending, w.hits, w.violated, w.hurt) IS DISTINCT FROM (e.undecided, e.pending, e.hits, e.violated, e.hurt)
$$;
SELECT pg_temp.miscounted();

-- every job has as many rows of state as it should
CREATE FUNCTION pg_temp.misplaced() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM job j LEFT JOIN
        (SELECT job_id, count(*) AS n FROM (SELECT job_id FROM job_waiting UNION ALL SELECT job_id FROM job_scheduled UNION ALL
             SELECT job_id FROM job_ready UNION ALL SELECT job_id FROM job_lease UNION ALL SELECT job_id FROM job_flow WHERE open) u GROUP BY job_id) s ON s.job_id = j.id
    WHERE coalesce(n, 0) <> CASE WHEN j.outcome IS NULL THEN 1 ELSE 0 END
$$;
SELECT pg_temp.misplaced();

-- A parent that is retried: children that were decided without running are what they would be without its outcome, the others as they were;
-- then it succeeds, and whoever waits is what the new outcomes say.
CREATE FUNCTION pg_temp.replay(outcomes text[], decided int, again text) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    triggers bigint[];
    parents bigint[];
    known text[] := array_fill(NULL::text, ARRAY[cardinality(outcomes)]);
    wrong record;
BEGIN
    DELETE FROM retried;
    FOR i IN 1 .. cardinality(outcomes) LOOP
        SELECT triggers || p.trigger, parents || p.id INTO triggers, parents FROM pg_temp.parent(outcomes[i]) p;
    END LOOP;
    INSERT INTO retried SELECT job_submit('c', queue => 'depend_idle', depends_on => parents, trigger_rule => r.rule,
        quorum => CASE r.rule WHEN 'quorum' THEN r.quorum END), r
    FROM rule r WHERE r.quorum <= cardinality(outcomes);
    -- and whoever waits for those
    UPDATE retried SET grandchild = job_submit('g', queue => 'depend_idle', depends_on => ARRAY[id]);
    PERFORM count(*) FROM job_claim('depend', max_jobs => 1000);
    FOR i IN 1 .. decided LOOP
        PERFORM pg_temp.decide(triggers[i], outcomes[i]);
        known[i] := outcomes[i];
    END LOOP;
    UPDATE retried SET before = pg_temp.state(id);
    IF NOT job_retry(triggers[1]) THEN
        RAISE WARNING 'job_retry says that it did nothing';
    END IF;
    known[1] := NULL;
    UPDATE retried SET between = CASE WHEN before = 'ready' THEN 'ready' ELSE pg_temp.expected(rule, known) END;
    FOR wrong IN
        SELECT (rule).rule, (rule).quorum, before, pg_temp.state(id) AS state, between AS expected FROM retried
        WHERE pg_temp.state(id) IS DISTINCT FROM between
    LOOP
        RAISE WARNING 'rule % (quorum %), parents %, % decided, first retried: was %, is %, should be %',
            wrong.rule, wrong.quorum, outcomes, decided, wrong.before, wrong.state, wrong.expected;
    END LOOP;
    FOR wrong IN
        SELECT (rule).rule, (rule).quorum, between, pg_temp.state(grandchild) AS state FROM retried
        WHERE pg_temp.state(grandchild) IS DISTINCT FROM CASE WHEN between IN ('ready', 'waiting') THEN 'waiting' ELSE between END
    LOOP
        RAISE WARNING 'rule % (quorum %), parents %, % decided, first retried: child is %, its child is %',
            wrong.rule, wrong.quorum, outcomes, decided, wrong.between, wrong.state;
    END LOOP;
    -- the end
    PERFORM pg_temp.finish(triggers[1], again);
    known[1] := again;
    FOR i IN decided + 1 .. cardinality(outcomes) LOOP
        PERFORM pg_temp.decide(triggers[i], outcomes[i]);
        known[i] := outcomes[i];
    END LOOP;
    FOR wrong IN
        SELECT * FROM (SELECT (rule).rule, (rule).quorum, pg_temp.state(id) AS state,
                           CASE WHEN between = 'ready' THEN 'ready' ELSE pg_temp.expected(rule, known) END AS expected
                       FROM retried OFFSET 0) x
        WHERE state IS DISTINCT FROM expected
    LOOP
        RAISE WARNING 'rule % (quorum %), parents % with first now %: is %, should be %',
            wrong.rule, wrong.quorum, outcomes, again, wrong.state, wrong.expected;
    END LOOP;
    RETURN (SELECT count(*) FROM retried);
END $$;
CREATE TEMP TABLE retried (id bigint, rule rule, grandchild bigint, before text, between text);

-- End a job whatever queue it is ready in
CREATE FUNCTION pg_temp.finish(id bigint, outcome text) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text := (SELECT queue FROM job j WHERE j.id = finish.id);
    c record;
BEGIN
    IF outcome = 'cancelled' THEN
        PERFORM job_cancel(id);
        RETURN;
    END IF;
    FOR c IN SELECT * FROM job_claim(name, max_jobs => 1000000) LOOP
        IF c.job_id <> id THEN
            PERFORM job_release(c.job_id, c.token);
        ELSIF outcome = 'succeeded' THEN
            PERFORM job_complete(c.job_id, c.token);
        ELSE
            PERFORM job_fail(c.job_id, c.token, retry => false);
        END IF;
    END LOOP;
END $$;

-- leave no idle jobs: finish() goes through them
SELECT count(job_cancel(id)) > 1000 AS ok FROM job_status WHERE queue LIKE 'depend%' AND finished_at IS NULL;

BEGIN;
SELECT sum(pg_temp.replay(ARRAY[a.o], 1, x.o)) AS children FROM outcome a, outcome x WHERE a.o IN ('failed', 'cancelled') AND x.o IN ('succeeded', 'failed', 'cancelled');
SELECT sum(pg_temp.replay(ARRAY[a.o, b.o], d, x.o)) AS children FROM outcome a, outcome b, outcome x, generate_series(1, 2) d
WHERE a.o IN ('failed', 'cancelled') AND x.o IN ('succeeded', 'failed', 'cancelled');
SELECT pg_temp.miscounted(), pg_temp.misplaced();
ROLLBACK;
SELECT pg_temp.miscounted(), pg_temp.misplaced();

-- a failed attempt with attempts left, or a release, wakes nobody
SELECT job_submit('p', queue => 'depend_one', max_attempts => 2) AS p \gset
SELECT job_submit('c', queue => 'depend_idle', depends_on => ARRAY[:p], trigger_rule => 'one_failed') AS c \gset
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('depend_one');
SELECT state FROM job_status WHERE id = :c;
SELECT job_release(job_id, token) FROM job_claim('depend_one');
SELECT state FROM job_status WHERE id = :c;
SELECT job_fail(job_id, token, retry_in => '0') FROM job_claim('depend_one');
SELECT state FROM job_status WHERE id = :c;

-- a child is ready in the transaction that decides its last parent, and is not when that is rolled back
SELECT job_submit('p', queue => 'depend_one') AS p1 \gset
SELECT job_submit('p', queue => 'depend_one') AS p2 \gset
SELECT job_submit('c', queue => 'depend_two', depends_on => ARRAY[:p1, :p2]) AS c \gset
BEGIN;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('depend_one', max_jobs => 2)) x;
SELECT kind FROM job_claim('depend_two');
ROLLBACK;
SELECT id = :c AS child, state FROM job_status WHERE id IN (:p1, :p2, :c) ORDER BY id;
BEGIN;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('depend_one', max_jobs => 2)) x;
SAVEPOINT s;
SELECT kind FROM job_claim('depend_two');
ROLLBACK TO s;
COMMIT;
SELECT id = :c AS child, state FROM job_status WHERE id IN (:p1, :p2, :c) ORDER BY id;

-- run_at counts from when the dependencies are met, too
SELECT job_submit('p', queue => 'depend_one') AS p \gset
SELECT job_submit('later', queue => 'depend_two', depends_on => ARRAY[:p], run_at => '2999-01-01') AS later \gset
SELECT job_submit('earlier', queue => 'depend_two', depends_on => ARRAY[:p], run_at => '1999-01-01') AS earlier \gset
SELECT state FROM job_status WHERE id IN (:later, :earlier);
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_claim('depend_one')) x;
SELECT kind, state FROM job_status WHERE id IN (:later, :earlier) ORDER BY id;

-- a diamond of what is decided without running, in one call
SELECT array_agg(id) AS d FROM job_submit_many('[{"queue": "depend_one", "kind": "top", "name": "top"},
    {"queue": "depend_two", "kind": "left", "name": "left", "depends_on": ["top"]},
    {"queue": "depend_two", "kind": "right", "name": "right", "depends_on": ["top"], "trigger_rule": "none_skipped"},
    {"queue": "depend_two", "kind": "bottom", "name": "bottom", "depends_on": ["left", "right", "top"]},
    {"queue": "depend_two", "kind": "cleanup", "depends_on": ["bottom"], "trigger_rule": "all_done"},
    {"queue": "depend_two", "kind": "if all were skipped", "depends_on": ["bottom"], "trigger_rule": "all_skipped"}]') id \gset
SELECT job_fail(job_id, token, 'no', false) FROM job_claim('depend_one');
SELECT kind, state, attempt, started_at IS NULL AS never_started FROM job_status WHERE id = ANY (:'d'::bigint[]) ORDER BY id;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'depend%' AND finished_at IS NULL;
