-- The views, a row for every state
\set VERBOSITY terse
SET TimeZone = 'UTC';

SELECT job_submit('to run', '{"n": 1}', 'views', 3, tags => '{"team": "x"}') AS run \gset
SELECT job_submit('ready', '{"n": 2}', 'views', parent => :run) AS ready \gset
SELECT job_submit('scheduled', queue => 'views', run_at => '2999-01-01') AS scheduled \gset
SELECT job_submit('waiting', queue => 'views', depends_on => ARRAY[:ready], run_at => '2998-01-01') AS waiting \gset
SELECT job_submit('held', queue => 'views', run_at => '2997-01-01') AS held \gset
SELECT job_hold(:held);
SELECT token FROM job_claim('views', 'worker 1') \gset
SELECT job_heartbeat(:run, :token, progress => '{"percent": 10}');
SELECT job_submit('again', queue => 'views', priority => 9) AS again \gset
SELECT job_fail(job_id, token, 'first try', retry_in => '0') FROM job_claim('views', 'worker 1');
SELECT job_submit('done', queue => 'views_done') AS done \gset
SELECT job_complete(job_id, token, '[1]') FROM job_claim('views_done', 'worker 2');

SELECT queue, kind, state, priority, attempt, lost, args, result, error, tags, parent = :run AS parent, worker, progress, cancel_requested, run_at
FROM job_status WHERE queue LIKE 'views%' ORDER BY id;
SELECT kind, submitted_by = current_user::regrole AS mine, submitted_at <= now() AS submitted, started_at >= submitted_at AS started, finished_at >= started_at AS finished, lease_until > now() AS lease
FROM job_status WHERE queue LIKE 'views%' ORDER BY id;

-- what keeps a job waiting, and what came of its last attempt
SELECT job_submit('detailed', queue => 'more_views', name => 'one', expires_at => '2999-01-01', max_attempts => 7) AS one \gset
SELECT job_submit('detailed', queue => 'more_views', name => 'two', depends_on => ARRAY[:one, :done, :ready]) AS two \gset
SELECT job_submit('detailed', queue => 'set_views') AS three \gset
SELECT job_hold(:two);
SELECT job_queue_set('set_views', max_attempts => 3);
CREATE FUNCTION pg_temp.more(id bigint) RETURNS TABLE (state text, name text, held boolean, max_attempts int, expires_at timestamptz, last_error text, changed text) LANGUAGE sql AS $$
    SELECT s.state, s.name, s.held, s.max_attempts, s.expires_at, s.last_error,
        CASE s.changed_at WHEN s.submitted_at THEN 'submitted' WHEN s.started_at THEN 'started' WHEN s.finished_at THEN 'finished'
            WHEN (SELECT max(ended_at) FROM job_attempts WHERE job_id = s.id) THEN 'ended' ELSE 'ready' END
    FROM job_status s WHERE s.id = more.id
$$;
SELECT depends_on = ARRAY[:ready, :done, :one]::bigint[] AS depends_on FROM job_status WHERE id = :two;
SELECT depends_on FROM job_status WHERE id = :one;
SELECT m.* FROM unnest(ARRAY[:one, :two, :three]) WITH ORDINALITY u(id, n), pg_temp.more(id) m ORDER BY n;
SELECT job_id, token FROM job_claim('more_views') \gset
SELECT * FROM pg_temp.more(:one);
SELECT job_fail(:job_id, :token, 'once', retry_in => '1 h');
SELECT * FROM pg_temp.more(:one);
SELECT job_cancel(:one, 'not now');
SELECT error, m.* FROM job_status s, pg_temp.more(s.id) m WHERE s.id = :one;
SELECT job_retry(:one);
SELECT * FROM pg_temp.more(:one);
SELECT job_id, token FROM job_claim('more_views') \gset
SELECT * FROM pg_temp.more(:one);
SELECT job_fail(:job_id, :token, 'twice', retry => false);
SELECT * FROM pg_temp.more(:one);
SELECT job_retry(:one);
SELECT * FROM pg_temp.more(:one);
SELECT job_complete(job_id, token) FROM job_claim('more_views');
SELECT * FROM pg_temp.more(:one);
SET jobq.max_attempts = 11;
SELECT max_attempts FROM job_status WHERE id = :two;
RESET jobq.max_attempts;

SELECT kind, a.attempt, a.worker, a.outcome, a.error, a.ended_at >= a.started_at AS ended FROM job_attempts a JOIN job_status s ON s.id = a.job_id
WHERE s.queue LIKE 'views%' ORDER BY id;

-- a queue that another one shares nothing with; the same worker on two jobs, a worker without a name
SELECT count(*) FROM job_claim('views', 'worker 1');
SELECT job_submit('nameless', queue => 'views') AS nameless \gset
SELECT job_hold(:ready);
SELECT kind FROM job_claim('views');
SELECT job_unhold(:ready);
SELECT queue, paused, waiting, scheduled, ready, running, oldest_ready >= (SELECT submitted_at FROM job_status WHERE id = :ready) AS oldest_ready, running_workers
FROM job_queue_status WHERE queue LIKE 'views%' ORDER BY queue;
SELECT worker, running, now() - last_seen < '1 min' AS seen FROM job_worker_status WHERE worker = 'worker 1';
SELECT count(*) FROM job_worker_status WHERE worker = 'worker 2';

-- a queue whose row is not there yet is shown all the same
BEGIN;
SELECT job_submit('k', queue => 'views_new') AS n \gset
DELETE FROM job_queue WHERE name = 'views_new';
SELECT queue, paused, ready FROM job_queue_status WHERE queue = 'views_new';
ROLLBACK;

-- their columns, in order
SELECT c.relname AS view, string_agg(a.attname || ' ' || format_type(a.atttypid, a.atttypmod), ', ' ORDER BY a.attnum) AS columns
FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relkind = 'v' AND c.relname LIKE 'job\_%' AND a.attnum > 0 AND NOT a.attisdropped GROUP BY c.relname ORDER BY c.relname COLLATE "C" \gx

-- one job is found by its key, without reading the others
CREATE FUNCTION pg_temp.explain(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    line text;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        RETURN NEXT line;
    END LOOP;
END $$;
SET enable_seqscan = off;
SELECT count(*) FROM pg_temp.explain('SELECT state FROM job_status WHERE id = 1') e WHERE e LIKE '%Seq Scan%';
-- what nobody asks for is not looked up
SELECT count(*) FROM pg_temp.explain('SELECT state FROM job_status WHERE id = 1') e WHERE e LIKE '%job_attempt%' OR e LIKE '%job_dependency%' OR e LIKE '%job_queue%';
RESET enable_seqscan;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'views%' AND finished_at IS NULL;
-- shared memory: at the defaults under 8 MB, the waiters of as many sessions as there may be included
SELECT part, entries > 0 AS entries, used BETWEEN 0 AND entries AS used FROM job_memory ORDER BY part;
SELECT sum(bytes) < 8 * 1024 * 1024 AS small FROM job_memory;
SELECT part FROM job_memory WHERE part IN ('databases', 'lanes') AND used = 0;
