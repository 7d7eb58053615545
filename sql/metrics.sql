-- Metrics: what is counted, where it is undone, the text format, and who sees what
\pset null NULL
SET client_min_messages = warning;
CREATE TEMP VIEW shown AS
SELECT replace(name, 'jobq_', '') AS name, labels ->> 'queue' AS queue, coalesce(labels ->> 'state', labels ->> 'outcome', labels ->> 'le') AS label, value
FROM job_metrics WHERE labels ->> 'queue' LIKE 'metrics\_%';
CREATE TEMP VIEW jobs AS SELECT queue, string_agg(label || ' ' || value, ', ') AS jobs FROM shown WHERE name = 'jobs' GROUP BY queue ORDER BY queue;
-- what the tables say otherwise
CREATE TEMP VIEW wrong AS
WITH m AS (SELECT labels ->> 'queue' AS queue, labels ->> 'state' AS state, value::bigint AS n FROM job_metrics WHERE name = 'jobq_jobs'),
     t AS (SELECT s.queue, k.state, k.n FROM job_queue_status s,
               LATERAL (VALUES ('waiting', waiting - limited), ('scheduled', scheduled), ('limited', limited), ('ready', ready), ('running', running)) k (state, n))
SELECT coalesce(m.queue, t.queue) AS queue, state, m.n AS metric, t.n AS rows FROM m FULL JOIN t USING (queue, state)
WHERE m.n IS DISTINCT FROM t.n AND queue LIKE 'metrics\_%';

-- known work
SELECT count(job_submit('k', queue => 'metrics_a', backoff => '1 h')) FROM generate_series(1, 9);
SELECT count(job_submit('k', queue => 'metrics_a', run_at => '2999-01-01')) FROM generate_series(1, 2);
SELECT count(job_submit('k', queue => 'metrics_a', depends_on => ARRAY[id])), count(job_submit('k', queue => 'metrics_a', hold => true)) FROM job_status WHERE queue = 'metrics_a' AND state = 'scheduled';
SELECT * FROM jobs;
CREATE TEMP TABLE claimed AS SELECT row_number() OVER (ORDER BY job_id) AS n, job_id, token FROM job_claim('metrics_a', 'w', 7);
SELECT * FROM jobs;
SELECT job_complete(job_id, token) FROM claimed WHERE n = 1;
SELECT job_fail(job_id, token, 'no', retry => false) FROM claimed WHERE n = 2;
SELECT job_fail(job_id, token, 'no', retry_in => '1 h') FROM claimed WHERE n = 3;
SELECT job_release(job_id, token) FROM claimed WHERE n = 4;
SELECT job_snooze(job_id, token, '1 h') FROM claimed WHERE n = 5;
SELECT job_cancel(job_id) FROM claimed WHERE n = 6;
SELECT job_fail(job_id, token) FROM claimed WHERE n = 6;
SELECT job_take_back(job_id) FROM claimed WHERE n = 7;
-- one upstream job fails what waits for it, the other's is skipped
SELECT count(job_cancel(id)) FROM (SELECT id FROM job_status WHERE queue = 'metrics_a' AND state = 'scheduled' AND attempt = 0 ORDER BY id LIMIT 1) x;
SELECT job_decide(id, 'skipped') FROM (SELECT id FROM job_status WHERE queue = 'metrics_a' AND state = 'scheduled' AND attempt = 0 ORDER BY id LIMIT 1) x;
SELECT name, label, value FROM shown WHERE name IN ('jobs', 'submitted_total', 'attempts_total', 'decided_total', 'queue_paused', 'wait_seconds_count', 'run_seconds_count')
ORDER BY name, label;
SELECT * FROM wrong;
-- decided by its submission
SELECT count(job_submit('k', queue => 'metrics_b', depends_on => ARRAY[id])) FROM job_status WHERE queue = 'metrics_a' AND state = 'failed';
SELECT name, label, value FROM shown WHERE queue = 'metrics_b' AND value <> 0;
-- retry opens it again, and is no submission
SELECT job_retry(id) FROM job_status WHERE queue = 'metrics_a' AND state = 'failed';
SELECT name, queue, label, value FROM shown WHERE name IN ('jobs', 'submitted_total') AND value > 0 ORDER BY queue, name, label;

-- histograms: cumulative, and the last bucket is the count
SELECT name, bool_and(value >= before) AS cumulative, count(*) AS buckets, max(value) FROM (
    SELECT name, value, lag(value, 1, 0) OVER (PARTITION BY name ORDER BY label::float8) AS before FROM shown WHERE queue = 'metrics_a' AND name LIKE '%bucket') x
GROUP BY name ORDER BY name;
UPDATE job_ready SET since = since - interval '2 h' WHERE queue_id = job_queue_id('metrics_a');
SELECT value BETWEEN 7200 AND 7300 AS ok FROM shown WHERE name = 'oldest_ready_seconds' AND queue = 'metrics_a';
SELECT count(*) FROM job_claim('metrics_a', 'w');
SELECT label, value FROM shown WHERE queue = 'metrics_a' AND name = 'wait_seconds_bucket' AND label::float8 >= 3600;
SELECT value BETWEEN 7200 AND 7400 AS ok FROM shown WHERE queue = 'metrics_a' AND name = 'wait_seconds_sum';
-- a clock that was set back
UPDATE job_lease SET started_at = started_at + interval '1 h' WHERE queue_id = job_queue_id('metrics_a');
SELECT job_release(job_id, token) FROM job_lease WHERE queue_id = job_queue_id('metrics_a');
SELECT value < 60 AS ok FROM shown WHERE queue = 'metrics_a' AND name = 'run_seconds_sum';

-- what is rolled back is not counted, whatever savepoints say
BEGIN;
SELECT count(job_submit('k', queue => 'metrics_c')) FROM generate_series(1, 3);
ROLLBACK;
BEGIN;
SELECT count(job_submit('k', queue => 'metrics_c')) FROM generate_series(1, 1);
SAVEPOINT a;
SELECT count(job_submit('k', queue => 'metrics_c')) FROM generate_series(1, 10);
SAVEPOINT b;
SELECT count(job_submit('k', queue => 'metrics_c')) FROM generate_series(1, 100);
SELECT count(job_submit('k', queue => 'metrics_d')) FROM generate_series(1, 100);
ROLLBACK TO b;
SELECT count(job_submit('k', queue => 'metrics_d')) FROM generate_series(1, 5);
RELEASE a;
SAVEPOINT c;
SELECT count(*) FROM job_claim('metrics_c', 'w', 5);
SAVEPOINT d;
SELECT count(job_complete(job_id, token)) FROM job_claim('metrics_c', 'w', 2);
RELEASE d;
ROLLBACK TO c;
SELECT count(*) FROM job_claim('metrics_c', 'w', 1);
-- and not before it is committed
SELECT * FROM shown WHERE queue IN ('metrics_c', 'metrics_d') AND value > 0;
COMMIT;
SELECT * FROM shown WHERE queue IN ('metrics_c', 'metrics_d') AND value > 0 AND name IN ('jobs', 'submitted_total', 'attempts_total', 'wait_seconds_count') ORDER BY queue, name, label;
SELECT * FROM wrong;
DO $$
BEGIN
    FOR i IN 1 .. 100 LOOP
        BEGIN
            PERFORM job_submit('k', queue => 'metrics_' || CASE i % 2 WHEN 0 THEN 'e' ELSE 'f' END);
            IF i % 4 = 0 THEN
                RAISE 'no';
            END IF;
        EXCEPTION WHEN raise_exception THEN
            NULL;
        END;
    END LOOP;
END $$;
SELECT * FROM shown WHERE queue IN ('metrics_e', 'metrics_f') AND value > 0 AND name IN ('jobs', 'submitted_total') ORDER BY queue, name, label;

-- a job that changes its queue
SELECT count(job_change(id, queue => 'metrics_g')) FROM job_status WHERE queue = 'metrics_a' AND state IN ('waiting', 'scheduled');
SELECT * FROM jobs WHERE queue IN ('metrics_a', 'metrics_g');
SELECT * FROM wrong;

-- a transaction that has written sees what is committed; where jobs must be counted, also its own
SELECT count(job_submit('k', queue => 'metrics_h')) FROM generate_series(1, 3);
BEGIN;
SELECT count(job_submit('k', queue => 'metrics_h'));
SELECT * FROM jobs WHERE queue = 'metrics_h';
ROLLBACK;

-- rows that are changed by hand are noticed by a number that cannot be, or job_check
DELETE FROM job_ready WHERE queue_id = job_queue_id('metrics_h');
DELETE FROM job WHERE queue = 'metrics_h';
SELECT * FROM jobs WHERE queue = 'metrics_h';
SELECT count(*) IS NOT NULL AS ok FROM job_check(true);
SELECT * FROM jobs WHERE queue = 'metrics_h';
SELECT * FROM wrong;
SELECT count(job_submit('k', queue => 'metrics_h'));
UPDATE job_ready SET queue_id = job_queue_id('metrics_g') WHERE queue_id = job_queue_id('metrics_h');
SELECT count(job_cancel(job_id)) FROM job_ready WHERE queue_id = job_queue_id('metrics_g');
SELECT * FROM wrong;
BEGIN;
TRUNCATE job_scheduled, job_waiting;
SELECT count(*) FROM jobs WHERE jobs NOT LIKE 'waiting 0, scheduled 0%';
ROLLBACK;
SELECT count(*) > 0 AS ok FROM jobs WHERE jobs NOT LIKE 'waiting 0, scheduled 0%';
SELECT * FROM wrong;

-- paused
SELECT job_queue_set('metrics_b', paused => true);
SELECT queue, value FROM shown WHERE name = 'queue_paused' AND value <> 0;

-- a queue without a row: with jobs it is found, without it is not known by name
DELETE FROM job_queue WHERE name IN ('metrics_b', 'metrics_c');
SELECT queue, jobs FROM jobs WHERE queue IN ('metrics_b', 'metrics_c');

-- the text format
INSERT INTO job_queue (name, queue_id) VALUES (E'metrics_"\\\n', job_queue_id(E'metrics_"\\\n'));
SELECT line FROM string_to_table(job_metrics_text(), E'\n') line WHERE line LIKE '%metrics\_\\"%' AND line LIKE 'jobq\_jobs%';
DELETE FROM job_queue WHERE name LIKE 'metrics_"%';
\pset tuples_only on
\pset format unaligned
SELECT regexp_replace(line, '(.*(_sum|oldest|le="[0-9]).*) [0-9.e-]+$', '\1 N') FROM string_to_table(job_metrics_text(), E'\n') WITH ORDINALITY t (line, n) WHERE line LIKE '#%' OR line LIKE '%"metrics\_a"%' OR line NOT LIKE '%{%';
\pset tuples_only off
\pset format aligned
-- as the view
SELECT count(*) > 100 AS ok, count(*) FILTER (WHERE NOT line = ANY (string_to_array(t.text, E'\n'))) AS missing
FROM job_metrics_text() t (text), job_metrics m, LATERAL (SELECT concat(name, '{', (SELECT string_agg(format('%s="%s"', key, e.value), ',' ORDER BY key <> 'queue', key) FROM jsonb_each_text(labels) e), '} ', m.value)) l (line)
WHERE name IN ('jobq_jobs', 'jobq_submitted_total', 'jobq_wait_seconds_bucket') AND (labels ->> 'queue') LIKE 'metrics\_%';
-- each family once, its values together, the last line with its end
SELECT count(*) = count(DISTINCT line) AS once FROM string_to_table(job_metrics_text(), E'\n') line WHERE line LIKE '# TYPE%';
SELECT right(job_metrics_text(), 1) = E'\n' AS ok;
SELECT name, type FROM job_metrics GROUP BY 1, 2 ORDER BY 1;
SELECT labels, value BETWEEN 0 AND 1 AS ok FROM job_metrics WHERE name = 'jobq_memory_used_ratio' ORDER BY labels ->> 'part';
SELECT labels, value IN (0, 1) AS ok FROM job_metrics WHERE name = 'jobq_worker_running';

-- schedules: those with a problem, and for how many hours the first has been due, of those that one sees
CREATE ROLE jobq_metrics_read;
CREATE ROLE jobq_metrics_none;
SELECT job_grant('jobq_metrics_read', 'metrics_a', 'read');
SELECT count(job_schedule('metrics_' || i, '@yearly', format('{"kind": "k", "queue": "metrics_%s"}', left(i, 1))::jsonb)) FROM unnest('{a,a2,c}'::text[]) i;
PREPARE schedules AS SELECT replace(name, 'jobq_schedule_', '') AS name, labels, CASE WHEN name LIKE '%seconds' THEN floor(value / 3600) ELSE value END AS value
FROM job_metrics WHERE name LIKE 'jobq\_schedule%' ORDER BY name;
EXECUTE schedules;
BEGIN;
UPDATE job_schedule SET last_problem = 'no' WHERE name IN ('metrics_a2', 'metrics_c');
UPDATE job_schedule SET next_at = clock_timestamp() - CASE name WHEN 'metrics_c' THEN interval '3 h' ELSE interval '2 h' END WHERE name IN ('metrics_a', 'metrics_c');
EXECUTE schedules;
SET LOCAL ROLE jobq_metrics_read;
EXECUTE schedules;
ROLLBACK;
SELECT count(job_unschedule(name)) FROM job_schedules WHERE name LIKE 'metrics\_%';

-- who sees what
SET ROLE jobq_metrics_read;
SELECT DISTINCT labels ->> 'queue' AS queue FROM job_metrics ORDER BY 1;
SELECT count(*) FROM job_metrics WHERE labels ? 'part';
SELECT job_metrics_text() LIKE '%metrics\_a%' AS own, job_metrics_text() LIKE '%metrics\_c%' AS other;
SELECT * FROM job_state_counts();
RESET ROLE;
GRANT pg_monitor TO jobq_metrics_read;
SET ROLE jobq_metrics_read;
SELECT count(*) > 0 AS ok FROM job_metrics WHERE labels ? 'part';
SET ROLE jobq_metrics_none;
SELECT * FROM job_metrics;
SELECT job_metrics_text();
RESET ROLE;
SELECT job_revoke('jobq_metrics_read', 'metrics_a', 'read');
SET ROLE jobq_metrics_read;
SELECT * FROM job_metrics;
RESET ROLE;
DROP ROLE jobq_metrics_read, jobq_metrics_none;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'metrics%' AND finished_at IS NULL;
SELECT * FROM wrong;
