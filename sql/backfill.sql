-- Backfills: job_backfill
\set SHOW_CONTEXT never
\set VERBOSITY default
\pset format unaligned
\pset tuples_only on
\pset null -
SET timezone = 'UTC';
SET datestyle = 'ISO';
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', s.name, s.kind, s.state, s.args) FROM job_status s WHERE s.flow = members.flow ORDER BY s.id $$;
-- so many jobs, one after the other, once all is settled; those of this month fail
CREATE FUNCTION pg_temp.work(of_queue text, n int DEFAULT 1, fail text DEFAULT NULL) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    PERFORM pg_temp.settled();
    FOR c IN SELECT * FROM job_claim(of_queue, max_jobs => n) ORDER BY job_id LOOP
        RETURN NEXT format('%s %s', c.kind, c.args);
        IF c.args::text LIKE '%' || fail || '%' THEN
            PERFORM job_fail(c.job_id, c.token, retry => false);
        ELSE
            PERFORM job_complete(c.job_id, c.token);
        END IF;
    END LOOP;
END $$;
-- an error, without its ids
CREATE FUNCTION pg_temp.months(lower text, upper text, bounds text DEFAULT '[)') RETURNS tstzrange RETURN tstzrange(lower::timestamptz, upper::timestamptz, bounds);

-- A member for each time in the range, the oldest first, one at a time
SELECT job_schedule('months', '@monthly', '{"name": "m", "kind": "month", "queue": "bf", "run_in": "1 h", "unique_key": "m", "unique_for": "1 h", "on_conflict": "error", "args": {"month": {"$time": "scheduled"}}}') > now();
SELECT job_backfill('months', pg_temp.months('2020-01-01', '2020-04-01')) AS f \gset
SELECT pg_temp.settled();
SELECT name, state, queue, args FROM job_status WHERE id = :f;
SELECT jobs, max_running, on_failure FROM job_flow_status WHERE id = :f;
SELECT pg_temp.members(:f);
SELECT name, run_at, unique_key, submitted_by = current_user::regrole FROM job_status WHERE flow = :f ORDER BY id;
SELECT pg_temp.work('bf', 9);
SELECT pg_temp.work('bf', 9, '2020-02');
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
-- the bounds, and what is there already, also with another definition, and while it is paused
SELECT job_schedule('months', '0 0 1 * *', '{"kind": "month", "queue": "bf", "args": {"month": {"$time": "scheduled"}}}', paused => true);
SELECT job_backfill('months', pg_temp.months('2020-01-01', '2020-03-01', '(]'));
SELECT job_backfill('months', pg_temp.months('2019-12-01', '2020-05-01', '()')) AS f2 \gset
SELECT pg_temp.settled(), pg_temp.members(:f2);
SELECT job_backfill('months', pg_temp.months('2019-12-01', '2020-05-01', '[]'), max_running => 2) AS f3 \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f3);
-- those that failed, once; not what is to be retried, or runs
SELECT pg_temp.work('bf', 9);
SELECT pg_temp.settled();
SELECT job_cancel(id) FROM job_status WHERE flow = :f3 AND name = '2020-05-01T00:00:00Z';
SELECT job_backfill('months', pg_temp.months('2019-01-01', '2019-12-01', '(]'), again => 'failed') AS f4 \gset
SELECT job_cancel(:f4);
SELECT pg_temp.settled();
SELECT job_backfill('months', pg_temp.months('2019-11-01', '2020-12-01'), again => 'failed', max_running => 9) AS f5 \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f5);
SELECT job_backfill('months', pg_temp.months('2019-11-01', '2020-12-01'), again => 'failed');
SELECT pg_temp.work('bf', 99, '2020-02');
SELECT pg_temp.settled();
SELECT job_retry(id) FROM job_status WHERE flow = :f5 AND state = 'failed';
SELECT job_backfill('months', pg_temp.months('2020-02-01', '2020-02-01', '[]'), again => 'failed');
SELECT pg_temp.work('bf', 99);
-- all
SELECT job_backfill('months', pg_temp.months('2020-02-01', '2020-03-01', '[]'), again => 'all') AS f6 \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f6);
SELECT job_backfill('months', pg_temp.months('2020-02-01', '2020-03-01', '[]'), again => 'failed');
-- what is removed is not there
SELECT job_cancel(:f6);
SELECT pg_temp.settled();
SELECT job_delete(:f6);
SELECT pg_temp.problem($$SELECT job_delete(id) FROM job_status WHERE queue = 'bf' AND name = '2020-03-01T00:00:00Z'$$);
SELECT changed FROM job_delete_many(ARRAY[:f, :f2, :f3, :f4]);
SELECT job_purge('bf', '0') > 0;
SELECT job_backfill('months', pg_temp.months('2020-01-01', '2020-04-01')) AS f \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
-- nor is what a schedule of that name had that was removed
SELECT job_unschedule('months');
SELECT job_schedule('months', '0 0 1 * *', '{"kind": "month", "queue": "bf2", "args": {"month": {"$time": "scheduled"}}}') > now();
SELECT job_backfill('months', pg_temp.months('2020-01-01', '2020-04-01'), true, 2) AS f \gset
-- the newest first
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT pg_temp.work('bf2');
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
-- not where that is wrong
SELECT job_schedule('months', '0 0 1 * *', '{"kind": "month", "queue": "bf2"}', overlap => 'queue') > now();
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), true);
SELECT job_schedule('months', '0 0 1 * *', '{"kind": "month", "queue": "bf2", "args": {"x": [{"$time": "previous"}]}}') > now();
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), newest_first => true);
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01')) AS f \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT job_schedule('months', '0 0 1 * *', '{"kind": "month", "queue": "bf2", "args": {"x": {"$literal": {"$time": "previous"}}}}') > now();
SELECT job_backfill('months', pg_temp.months('2022-01-01', '2022-03-01'), newest_first => true) AS f \gset
-- args that look like references stay what they are
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT args FROM job_claim('bf2', max_jobs => 99) WHERE flow = :f;
SELECT job_schedule('months', '0 0 1 * *', '{"kind": "month", "queue": "bf3", "args": {"$result": "x", "t": {"$time": "scheduled"}, "u": {"$time": "scheduled", "v": 1}}, "priority": 7, "requires": ["gpu"], "tags": {"a": 1}, "notify": true, "max_attempts": 2, "backoff": "1 s"}') > now();
SELECT job_backfill('months', pg_temp.months('2022-06-01', '2022-07-01')) AS f \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT c.args, s.priority, s.requires, s.tags, s.max_attempts FROM job_claim('bf3', labels => '{gpu}') c JOIN job_status s ON s.id = c.job_id;

-- A time before, as of each tick
CREATE FUNCTION pg_temp.previous(schedule text, zone text, at timestamptz) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    f bigint;
BEGIN
    PERFORM job_schedule('p', schedule, '{"kind": "k", "queue": "bf4", "args": {"p": {"$time": "previous"}, "s": {"$time": "scheduled"}}}', zone);
    f := job_backfill('p', tstzrange(at, at, '[]'), again => 'all');
    RETURN (SELECT format('%s after %s', s.args ->> 's', coalesce(s.args ->> 'p', 'none')) FROM job_status s WHERE s.flow = f);
END $$;
SELECT s, z, pg_temp.previous(s, z, t) FROM (VALUES
    ('0 3 * * *', 'UTC', timestamptz '2024-01-02 03:00+00'), ('0 0 1 * *', 'UTC', '2024-03-01 00:00+00'), ('0 0 29 2 *', 'UTC', '2024-02-29 00:00+00'), ('0 0 29 2 */7', 'UTC', '2004-02-29 00:00+00'),
    ('30 2 * * *', 'Europe/Berlin', '2024-03-31 01:00+00'), ('30 2 * * *', 'Europe/Berlin', '2024-04-01 00:30+00'), ('0 * * * *', 'Europe/Berlin', '2023-10-29 01:00+00'), ('*/5 * * * *', 'UTC', '2024-01-01 00:00+00'),
    ('every 1.5 s', 'UTC', '2024-01-01 00:00+00'), ('every 1.25 s', 'UTC', '2024-01-01 00:00:01.25+00'), ('@yearly', 'UTC', '0001-01-01 00:00+00 BC'), ('@yearly', 'UTC', '4713-01-01 00:00+00 BC'), ('every 73000 days', 'UTC', '1800-02-18 00:00+00')) v (s, z, t);
SELECT job_unschedule('p');
SELECT count(*) FROM job_cancel_many(ARRAY(SELECT id FROM job_status WHERE queue = 'bf4' AND flow IS NULL));

-- A flow is a sub-flow for each time
SELECT job_schedule('flows', '@monthly', '{"name": "x", "queue": "bf5", "args": {"day": {"$time": "scheduled"}, "odd": {"$args": "$.x"}}, "defaults": {"queue": "bf5"}, "result": {"$result": "b"}, "unique_key": "f", "timeout": "1 day", "jobs": [
    {"name": "a", "kind": "a", "args": {"day": {"$args": "$.day"}, "odd": {"$args": "$.odd"}, "from": {"$time": "previous"}}}, {"name": "b", "kind": "b", "if": "$.day <> \"2020-01-01T00:00:00Z\"", "depends_on": ["a"]}]}') > now();
SELECT job_backfill('flows', pg_temp.months('2020-01-01', '2020-03-01')) AS f \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT pg_temp.work('bf5', 9);
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT pg_temp.work('bf5', 9, '2020-02');
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT state, error LIKE 'member "2020-02-01T00:00:00Z/a"%' FROM job_status WHERE id = :f;
SELECT job_backfill('flows', pg_temp.months('2020-01-01', '2020-03-01'), again => 'failed', newest_first => true);
SELECT job_backfill('flows', pg_temp.months('2020-01-01', '2020-03-01'), again => 'failed') AS f \gset
SELECT pg_temp.settled();
SELECT pg_temp.members(:f);
SELECT job_unschedule('flows');

-- What a tick has submitted is there; what is due, or has not come, is the schedule's
SELECT job_schedule('ticks', 'every 1000 days', '{"kind": "t", "queue": "bf6", "args": {"t": {"$time": "scheduled"}}}', overlap => 'allow') > now();
UPDATE job_schedule SET next_at = '2021-11-26' WHERE name = 'ticks';
SELECT pg_temp.comes_true(format($$(SELECT job_schedule('ticks', 'every 1000 days', job, overlap => 'allow') IS NOT NULL FROM job_schedules WHERE name = 'ticks')$$));
SELECT pg_temp.comes_true($$(SELECT next_at > now() FROM job_schedule WHERE name = 'ticks')$$);
SELECT count(*) FROM job_status WHERE queue = 'bf6';
SELECT job_backfill('ticks', tstzrange((SELECT last_at FROM job_schedules WHERE name = 'ticks'), '2200-01-01'));
SELECT job_backfill('ticks', tstzrange('2010-01-01', '2200-01-01')) AS f \gset
SELECT count(*) = count(*) FILTER (WHERE name <> (SELECT to_char(last_at, 'YYYY-MM-DD"T"HH24:MI:SS"Z"') FROM job_schedules WHERE name = 'ticks')), min(name), count(*) FILTER (WHERE name::timestamptz > now()) FROM job_status WHERE flow = :f;
SELECT pg_temp.settled();
SELECT job_schedule('ticks', 'every 1000 days', '{"kind": "t", "queue": "bf6"}', paused => true);
UPDATE job_schedule SET next_at = '2010-01-01', paused = false WHERE name = 'ticks' RETURNING 'due';
SELECT job_backfill('ticks', tstzrange('2010-01-01', '2200-01-01'), again => 'all');
SELECT job_unschedule('ticks');
-- a job that is replaced is for the time whose args it has
SELECT job_schedule('r', '@monthly', '{"kind": "r", "queue": "bf7", "unique_key": "r", "on_conflict": "replace", "hold": true}') > now();
SELECT job_submit('r', queue => 'bf7', unique_key => 'r', hold => true) AS j \gset
UPDATE job_schedule SET next_at = '2021-01-01' WHERE name = 'r';
SELECT job_schedule('r', '@monthly', job) <= now() FROM job_schedules WHERE name = 'r';
SELECT pg_temp.comes_true($$(SELECT next_at > now() FROM job_schedule WHERE name = 'r')$$);
SELECT count(*), bool_and(scheduled_for = date_trunc('month', now())) FROM job WHERE queue = 'bf7';
SELECT job_submit('r', queue => 'bf7', unique_key => 'r', on_conflict => 'replace') = :j;
SELECT scheduled_for, schedule_id FROM job WHERE id = :j;
SELECT job_unschedule('r');

-- What is refused
SELECT job_backfill(NULL, pg_temp.months('2021-01-01', '2021-04-01'));
SELECT job_backfill('months', NULL);
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), NULL);
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), max_running => NULL);
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), again => NULL);
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), again => 'some');
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'), max_running => 0);
SELECT job_backfill('nobody', pg_temp.months('2021-01-01', '2021-04-01'));
SELECT job_backfill('months', tstzrange('2021-01-01', NULL));
SELECT job_backfill('months', tstzrange(NULL, '2021-01-01'));
SELECT job_backfill('months', tstzrange('2021-01-01', 'infinity'));
SELECT job_backfill('months', tstzrange('-infinity', '2021-01-01'));
SELECT job_backfill('months', 'empty');
SELECT job_backfill('months', pg_temp.months('2021-01-02', '2021-02-01'));
SELECT job_backfill('months', pg_temp.months('2199-01-01', '2199-04-01'));
SELECT job_schedule('seconds', 'every 1 second', '{"kind": "k", "queue": "bf8"}', paused => true);
SELECT job_backfill('seconds', tstzrange('2021-01-01', '2021-01-03'));
SELECT job_schedule('seconds', 'every 1 second', jsonb_build_object('kind', 'k', 'queue', 'bf8', 'args', jsonb_build_object('x', repeat('x', 100000))), paused => true);
SELECT job_backfill('seconds', tstzrange('2021-01-01', '2021-01-01 00:20'));
SELECT job_schedule('seconds', 'every 1 second', format('{"kind": "k", "queue": "bf8", "args": {"x": %s1%s}}', repeat('[', 1000), repeat(']', 1000))::jsonb, paused => true);
SELECT job_backfill('seconds', tstzrange('2021-01-01', '2021-01-01 00:20'));
SELECT job_submit('up', queue => 'bf8') AS up \gset
SELECT job_schedule('seconds', 'every 1 second', format('{"kind": "k", "queue": "bf8", "depends_on": [%s]}', :up)::jsonb, paused => true);
SELECT job_cancel(:up), job_delete(:up);
SELECT pg_temp.problem($$SELECT job_backfill('seconds', tstzrange('2021-01-01', '2021-01-01 00:20'))$$);
SELECT job_schedule(repeat('s', 128), 'every 1 second', '{"kind": "k", "queue": "bf8"}', paused => true);
SELECT job_backfill(repeat('s', 128), tstzrange('2021-01-01', '2021-01-01 00:00:02')) AS f \gset
SELECT name, state FROM job_status WHERE id = :f;
SELECT job_unschedule(name) FROM job_schedules WHERE name ~ '^s';
BEGIN READ ONLY;
SELECT job_backfill('months', pg_temp.months('2021-01-01', '2021-04-01'));
ROLLBACK;

-- Privileges: to own the schedule, or operate its queue, and to submit to all queues
CREATE ROLE jobq_bf_owner;
CREATE ROLE jobq_bf_operator;
CREATE ROLE jobq_bf_submitter;
SELECT count(job_grant(r::regrole, q, p)) FROM (VALUES ('jobq_bf_owner', 'bf9', 'operate'), ('jobq_bf_owner', 'bf9', 'submit'), ('jobq_bf_owner', 'bf10', 'submit'), ('jobq_bf_operator', 'bf9', 'operate'), ('jobq_bf_submitter', 'bf9', 'submit'), ('jobq_bf_submitter', 'bf10', 'submit'), ('jobq_bf_submitter', 'bf11', 'operate')) v (r, q, p);
GRANT USAGE ON SCHEMA public TO jobq_bf_owner, jobq_bf_operator, jobq_bf_submitter;
SET ROLE jobq_bf_owner;
SELECT job_schedule('theirs', '@monthly', '{"queue": "bf9", "jobs": [{"kind": "k", "queue": "bf10"}]}') > now();
SELECT job_backfill('theirs', tstzrange('2021-01-01', '2021-02-01')) > 0;
SET ROLE jobq_bf_submitter;
SELECT job_backfill('theirs', tstzrange('2021-02-01', '2021-03-01'));
SET ROLE jobq_bf_operator;
SELECT job_backfill('theirs', tstzrange('2021-02-01', '2021-03-01'));
RESET ROLE;
SELECT job_grant('jobq_bf_operator', 'bf9', 'submit');
SET ROLE jobq_bf_operator;
SELECT job_backfill('theirs', tstzrange('2021-02-01', '2021-03-01'));
RESET ROLE;
SELECT job_grant('jobq_bf_operator', 'bf10', 'submit');
SET ROLE jobq_bf_operator;
SELECT job_backfill('theirs', tstzrange('2021-01-01', '2021-03-01')) > 0;
RESET ROLE;
SELECT submitted_by, name FROM job_status WHERE queue = 'bf9' ORDER BY id;
SELECT job_unschedule('theirs'), job_unschedule('months');
SELECT count(job_revoke(r::regrole, q, p)) FROM (VALUES ('jobq_bf_owner', 'bf9', 'operate'), ('jobq_bf_owner', 'bf9', 'submit'), ('jobq_bf_owner', 'bf10', 'submit'), ('jobq_bf_operator', 'bf9', 'operate'), ('jobq_bf_operator', 'bf9', 'submit'), ('jobq_bf_operator', 'bf10', 'submit'), ('jobq_bf_submitter', 'bf9', 'submit'), ('jobq_bf_submitter', 'bf10', 'submit'), ('jobq_bf_submitter', 'bf11', 'operate')) v (r, q, p);
REVOKE USAGE ON SCHEMA public FROM jobq_bf_owner, jobq_bf_operator, jobq_bf_submitter;
SELECT pg_temp.settled();
SELECT * FROM job_check();
DROP ROLE jobq_bf_owner, jobq_bf_operator, jobq_bf_submitter;
