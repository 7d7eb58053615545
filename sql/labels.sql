-- Labels: which jobs a worker gets, in which order, and what is told of those that none gets
\set VERBOSITY terse
CREATE FUNCTION pg_temp.claim(labels text[], max_jobs int DEFAULT 100, queue text DEFAULT 'labels') RETURNS SETOF text LANGUAGE sql AS $$
    SELECT kind FROM job_claim(queue, 'w', max_jobs, labels => labels)
$$;

-- a claim gets the jobs that require nothing but what it has; sets have no order and hold each label once
SELECT count(job_submit(kind, queue => 'labels', requires => requires)) FROM (VALUES
    ('none', NULL::text[]), ('empty', '{}'), ('gpu', '{gpu}'), ('gpu eu', '{gpu,eu}'), ('eu gpu', '{eu,gpu,gpu}'), ('us', '{us}')) v (kind, requires);
SELECT kind, requires FROM job_status WHERE queue = 'labels' ORDER BY id;
SELECT requires FROM job_lane JOIN job_queue q USING (queue_id) WHERE q.name = 'labels' ORDER BY requires;
SELECT * FROM job_check();
SELECT * FROM pg_temp.claim(NULL);
SELECT * FROM pg_temp.claim('{eu,us2}');
SELECT * FROM pg_temp.claim('{gpu}');
SELECT * FROM pg_temp.claim('{gpu,eu,x}');
SELECT * FROM pg_temp.claim('{us}');
SELECT * FROM job_check();

-- priority, then the order in which they became ready, over all that it may take, one by one, together, and from several queues
SELECT count(job_submit(format('%s %s', p, i), queue => 'labels', priority => p, requires => CASE i % 3 WHEN 1 THEN '{a}'::text[] WHEN 2 THEN '{b,a}' END))
FROM unnest(ARRAY[0, 7, -3]) p, generate_series(1, 6) i;
SELECT job_submit('other', queue => 'labels2', priority => 7, requires => '{b}') IS NOT NULL AS ok;
SELECT i, pg_temp.claim('{a,b}', least(i, 1)) FROM generate_series(1, 4) i;
SELECT array_agg(kind) FROM pg_temp.claim('{a}', 4) kind;
SELECT array_agg(kind) FROM job_claim('{labels2,labels}'::text[], 'w', 6, labels => '{b,a}');
SELECT array_agg(kind) FROM pg_temp.claim('{a,b}') kind;
-- the same where it scans: jobs of its own transaction, and under one snapshot
BEGIN;
SELECT count(job_submit(i::text, queue => 'labels', priority => i % 2, requires => CASE i % 3 WHEN 1 THEN '{a}'::text[] WHEN 2 THEN '{b,a}' END)) FROM generate_series(1, 6) i;
SELECT array_agg(kind) FROM pg_temp.claim('{a}', 2) kind;
COMMIT;
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT array_agg(kind) FROM pg_temp.claim('{a}') kind;
COMMIT;
SELECT array_agg(kind) FROM pg_temp.claim('{a,b}') kind;

-- a set that was not there is taken back with its job
BEGIN;
SELECT job_submit('gone', queue => 'labels', requires => '{new}') IS NOT NULL AS ok;
SELECT * FROM pg_temp.claim('{new}');
ROLLBACK;
SELECT count(*) FROM job_lane WHERE requires = '{new}';
SELECT job_submit('there', queue => 'labels', requires => '{new}') IS NOT NULL AS ok;
SELECT count(*) FROM job_lane WHERE requires = '{new}';
SELECT * FROM pg_temp.claim('{new}');

-- job_next has the labels of the claim before, and another queue its own sets
SELECT count(job_submit(kind, queue => queue, requires => requires)) FROM (VALUES
    ('first', 'labels', '{a}'::text[]), ('second', 'labels', '{a}'), ('not', 'labels', '{c}'), ('third', 'labels2', '{a}')) v (kind, queue, requires);
SELECT job_id, token, kind FROM job_claim('labels', 'w', labels => '{a,b}') \gset
SELECT job_id, token, kind FROM job_next(:job_id, :token) \gset
\echo :kind
SELECT kind FROM job_next(:job_id, :token, queues => '{labels,labels2}', max_jobs => 5);
SELECT * FROM pg_temp.claim('{c}');

-- whatever becomes of it, a job stays among its like: held, changed, moved, released, tried again
CREATE FUNCTION pg_temp.take() RETURNS text LANGUAGE sql AS $$
    SELECT coalesce((SELECT string_agg(c, ',') FROM pg_temp.claim(NULL) c), '-') || ' ' || coalesce((SELECT string_agg(kind, ',') FROM job_claim('{labels,labels2}'::text[], labels => '{a}')), '-')
$$;
SELECT job_submit('walker', queue => 'labels', requires => '{a}', backoff => '1 us') AS walker \gset
SELECT job_hold(:walker), job_unhold(:walker), pg_temp.take();
SELECT job_release(job_id, token), pg_temp.take() FROM job_lease WHERE job_id = :walker;
SELECT job_release(job_id, token), job_change(:walker, priority => 3), pg_temp.take() FROM job_lease WHERE job_id = :walker;
SELECT job_release(job_id, token), job_change(:walker, queue => 'labels2'), pg_temp.take() FROM job_lease WHERE job_id = :walker;
SELECT job_fail(job_id, token, retry => false), job_retry(:walker), pg_temp.take() FROM job_lease WHERE job_id = :walker;
SELECT job_submit('child', queue => 'labels', requires => '{a}', depends_on => ARRAY[:walker], unique_key => 'k') AS child \gset
SELECT job_complete(job_id, token), job_submit('child', '{"n": 2}', queue => 'labels', unique_key => 'k', on_conflict => 'replace') = :child AS replaced, pg_temp.take()
FROM job_lease WHERE job_id = :walker;
SELECT * FROM job_check();

-- the same behind a gate; a limit that changes takes them along
SELECT count(job_submit('g' || i, queue => 'labels_gate', requires => CASE i % 2 WHEN 0 THEN '{a}'::text[] END)) FROM generate_series(1, 6) i;
SELECT job_queue_set('labels_gate', max_running => 2);
CREATE FUNCTION pg_temp.until_ready(n bigint) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    FOR i IN 1 .. 1000 LOOP
        IF (SELECT count(*) FROM job_status WHERE queue = 'labels_gate' AND state = 'ready') = n THEN RETURN true; END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN false;
END $$;
SELECT pg_temp.until_ready(2);
SELECT kind, state FROM job_status WHERE queue = 'labels_gate' ORDER BY id;
SELECT * FROM pg_temp.claim(NULL, queue => 'labels_gate');
SELECT * FROM job_check();
SELECT job_queue_set('labels_gate', max_running => 4);
SELECT pg_temp.until_ready(3);
SELECT * FROM pg_temp.claim('{a}', queue => 'labels_gate');
SELECT * FROM job_check();
SELECT reason, detail FROM job, job_explain(id) WHERE kind = 'g6' AND reason IN ('queue limit', 'labels', 'no worker with its labels');
SELECT job_queue_reset('labels_gate');
SELECT pg_temp.until_ready(2);
SELECT * FROM pg_temp.claim('{a}', queue => 'labels_gate');

-- what is told: that no worker has them, or which they are
SELECT job_submit('rare', queue => 'labels3', requires => '{tape,eu}') AS rare \gset
SELECT reason, regexp_replace(detail, 'since [^,]*,', 'since <time>,') AS detail, hint FROM job_explain(:rare);
SELECT * FROM pg_temp.claim('{eu}', queue => 'labels3');
SELECT reason FROM job_explain(:rare);
BEGIN;
SELECT kind FROM job_claim('labels3', labels => '{tape,eu,x}');
ROLLBACK;
SELECT reason, detail, hint FROM job_explain(:rare) OFFSET 1;

-- a lane that nobody knows, by a change by hand
DELETE FROM job_lane WHERE requires = '{eu,tape}';
SELECT invariant, job_id = :rare AS rare, problem, repaired FROM job_check(true);
SELECT * FROM job_check();
SELECT * FROM pg_temp.claim('{tape,eu}', queue => 'labels3');

-- a queue has no more than a thousand sets
SELECT count(job_submit('many', queue => 'labels_many', requires => ARRAY['l' || i])) FROM generate_series(1, 1000) i;
SELECT job_submit('many', queue => 'labels_many', requires => '{l1001}');
SELECT job_submit('many', queue => 'labels_many', requires => '{l1000}') IS NOT NULL AS ok;
SELECT count(*) FROM job_claim('labels_many', max_jobs => 2000, labels => ARRAY(SELECT 'l' || i FROM generate_series(901, 1000) i));
SELECT * FROM job_check();
