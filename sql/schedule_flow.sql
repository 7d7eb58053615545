-- Schedules whose job is a flow, and the times that args refer to
\set VERBOSITY terse
\set SHOW_CONTEXT never
\pset format unaligned
\pset tuples_only on
\pset null -
SELECT last_value AS first FROM job_id_seq \gset
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET client_min_messages = warning;
\getenv srcdir PG_ABS_SRCDIR
\set lib :srcdir '/sql/lib/flow.sql'
\i :lib
-- a schedule that is due every 9,000 days, and now for a time in 2024
CREATE FUNCTION pg_temp.fire(name text, job jsonb, overlap text DEFAULT 'allow', schedule text DEFAULT 'every 9000 days', at timestamptz DEFAULT '2024-08-22') RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM job_schedule(name, schedule, job, overlap => overlap);
    UPDATE job_schedule s SET next_at = at WHERE s.name = fire.name;
    PERFORM job_schedule(name, schedule, job, overlap => overlap);
    RETURN 'due';
END $$;
CREATE FUNCTION pg_temp.ran(name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.comes_true(format('(SELECT next_at > now() FROM job_schedule WHERE name = %L)', name)), pg_temp.settled();
    RETURN (SELECT coalesce(s.last_problem, 'ok') FROM job_schedules s WHERE s.name = ran.name);
END $$;
CREATE FUNCTION pg_temp.jobs(of_queue text) RETURNS SETOF text LANGUAGE sql AS $$
    SELECT concat_ws(' ', s.name, s.kind, CASE WHEN s.flow IS NOT NULL THEN 'in ' || coalesce(f.name, f.kind) END, s.state, s.args, CASE WHEN s.flow IS NULL THEN s.run_at END)
    FROM job_status s LEFT JOIN job f ON f.id = s.flow WHERE s.queue = of_queue ORDER BY s.id $$;
CREATE FUNCTION pg_temp.work(of_queue text, n int DEFAULT 1) RETURNS SETOF text LANGUAGE plpgsql AS $$
DECLARE
    c record;
BEGIN
    PERFORM pg_temp.settled();
    FOR c IN SELECT * FROM job_claim(of_queue, max_jobs => n) ORDER BY job_id LOOP
        RETURN NEXT format('%s %s', c.kind, c.args);
        PERFORM job_complete(c.job_id, c.token, c.args);
    END LOOP;
END $$;
-- an error with all that it says, but for which keys there are
CREATE FUNCTION pg_temp.refused(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text; hint text;
BEGIN
    EXECUTE statement;
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL;
    RETURN concat_ws(E'\n    ', SQLSTATE || ' ' || SQLERRM, nullif(regexp_replace(detail, ' A (member|flow) can have [^.]*\.', '', 'g'), ''), nullif(hint, ''));
END $$;

-- A flow is submitted at each time, and started
SELECT pg_temp.fire('daily', '{"name": "load", "queue": "sf", "args": {"day": {"$time": "scheduled"}, "plain": {"$result": "nobody"}}, "defaults": {"queue": "sf", "args": {"d": {"$time": "scheduled"}}}, "jobs": [
    {"name": "a", "kind": "extract", "args": {"from": {"$time": "previous"}, "to": [{"x": {"$time": "scheduled"}}], "day": {"$args": "$.day"}, "kept": {"$literal": {"$time": "scheduled"}}}},
    {"name": "b", "kind": "load", "depends_on": ["a"], "undo": {"kind": "unload", "args": {"day": {"$time": "scheduled"}, "was": {"$undo": "args"}}}},
    {"name": "s", "depends_on": ["b"], "args": {"day": {"$time": "scheduled"}}, "jobs": [{"name": "c", "kind": "report", "args": {"day": {"$args": "$.day"}, "before": {"$time": "previous"}}}]}]}');
SELECT pg_temp.ran('daily');
SELECT pg_temp.jobs('sf');
SELECT pg_temp.work('sf');
SELECT undo FROM job WHERE queue = 'sf' AND name = 'b';
SELECT pg_temp.work('sf');
SELECT pg_temp.work('sf');
SELECT pg_temp.settled();
SELECT pg_temp.jobs('sf');
SELECT s.last_at, j.run_at, j.name, j.submitted_by = s.owner FROM job_schedules s JOIN job_status j ON j.id = s.last_job WHERE s.name = 'daily';
SELECT job_unschedule('daily');

-- One after the other
SELECT pg_temp.fire('after', '{"queue": "sf2", "jobs": [{"kind": "a", "queue": "sf2"}, {"kind": "b", "queue": "sf2"}]}', 'queue');
SELECT pg_temp.ran('after');
SELECT pg_temp.fire('after', '{"queue": "sf2", "jobs": [{"kind": "c", "queue": "sf2"}]}', 'queue');
SELECT pg_temp.ran('after');
SELECT pg_temp.jobs('sf2');
SELECT pg_temp.work('sf2');
SELECT pg_temp.work('sf2', 9);
SELECT pg_temp.fire('after', '{"queue": "sf2", "jobs": [{"kind": "d", "queue": "sf2"}]}', 'skip');
SELECT pg_temp.ran('after');
SELECT pg_temp.fire('after', '{"queue": "sf2", "jobs": [{"kind": "e", "queue": "sf2"}]}', 'cancel');
SELECT pg_temp.ran('after');
SELECT pg_temp.jobs('sf2');
SELECT pg_temp.fire('after', '{"queue": "sf2", "jobs": []}', 'allow');
SELECT pg_temp.ran('after');
SELECT pg_temp.fire('after', '{"queue": "sf2", "run_in": "1 h", "jobs": []}', 'allow', at => now());
SELECT pg_temp.ran('after');
SELECT kind, state, run_at > now() + interval '50 min' FROM job_status WHERE queue = 'sf2' ORDER BY id DESC LIMIT 2;
SELECT job_unschedule('after');
-- unique keys
SELECT pg_temp.fire('keyed', '{"queue": "sf3", "unique_key": "k", "on_conflict": "skip", "jobs": [{"kind": "a", "queue": "sf3", "args": {"t": {"$time": "scheduled"}}}]}');
SELECT pg_temp.ran('keyed');
SELECT pg_temp.fire('keyed', '{"queue": "sf3", "unique_key": "k", "on_conflict": "skip", "jobs": [{"kind": "b", "queue": "sf3"}]}');
SELECT pg_temp.ran('keyed');
SELECT pg_temp.fire('keyed', '{"queue": "sf3", "unique_key": "k", "on_conflict": "cancel", "jobs": [{"kind": "c", "queue": "sf3"}]}');
SELECT pg_temp.ran('keyed');
SELECT pg_temp.jobs('sf3');
SELECT pg_temp.fire('keyed', '{"queue": "sf3", "unique_key": "h", "hold": true, "jobs": [{"kind": "d", "queue": "sf3"}]}');
SELECT pg_temp.ran('keyed');
SELECT pg_temp.fire('keyed', '{"queue": "sf3", "unique_key": "h", "on_conflict": "replace", "jobs": [{"kind": "e", "queue": "sf3"}]}', schedule => 'every 4500 days');
SELECT pg_temp.ran('keyed');
SELECT job_unhold(id) FROM job_status WHERE queue = 'sf3' AND held;
SELECT pg_temp.settled();
SELECT pg_temp.jobs('sf3');
SELECT job_unschedule('keyed');

-- Times in the args of a job; all else stays as it is
SELECT pg_temp.fire('times', '{"kind": "k", "queue": "sf4", "tags": {"$time": "scheduled"}, "args": {"at": {"$time": "scheduled"}, "before": {"$time": "previous"}, "deep": [[{"x": [1, {"$time": "scheduled"}]}]],
    "literal": {"$literal": {"$time": "scheduled"}}, "other": {"$args": {"t": {"$time": "scheduled"}}}, "time": {"$time": "now"}, "two": {"$time": "scheduled", "y": 1}, "number": {"$time": 1}, "string": "$time", "$time": "scheduled"}}');
SELECT pg_temp.ran('times');
SELECT args, tags FROM job_status WHERE queue = 'sf4';
SELECT job FROM job_schedules WHERE name = 'times';
SELECT job_unschedule('times');
-- the one before it, by the schedule; in any time zone, and whatever the settings
SET timezone = 'Asia/Kolkata';
SET datestyle = 'SQL, DMY';
SELECT pg_temp.fire('zone', '{"kind": "k", "queue": "sf5", "args": {"at": {"$time": "scheduled"}, "before": {"$time": "previous"}}}');
SELECT pg_temp.ran('zone');
RESET timezone;
RESET datestyle;
SET timezone = 'UTC';
SELECT args FROM job_status WHERE queue = 'sf5';
SELECT job_unschedule('zone');
-- ... of each of its times, also where clocks are changed
SELECT job_schedule('nights', '30 2 * * sun', '{"kind": "k", "queue": "sf6", "args": {"p": {"$time": "previous"}, "s": {"$time": "scheduled"}}}', 'Europe/Berlin', catch_up => 'all', overlap => 'allow') > now();
UPDATE job_schedule SET next_at = '2024-03-24 01:30+00' WHERE name = 'nights';
SELECT job_schedule('nights', schedule, job, timezone, catch_up, overlap) <= now() FROM job_schedules WHERE name = 'nights';
SELECT pg_temp.ran('nights');
SELECT count(*) > 20, count(*) FILTER (WHERE (args ->> 's')::timestamptz <> run_at), count(*) FILTER (WHERE args ->> 'p' <> before) FROM (SELECT args, run_at, lag(args ->> 's') OVER (ORDER BY run_at) AS before FROM job_status WHERE queue = 'sf6') j;
SELECT args FROM job_status WHERE queue = 'sf6' AND run_at BETWEEN '2024-03-31' AND '2024-04-08' ORDER BY id;
SELECT job_unschedule('nights');

-- $time is for schedules
SELECT * FROM job_check_flow('{"args": {"t": {"$time": "scheduled"}}, "result": {"$time": "scheduled"}, "defaults": {"kind": "k", "args": {"t": {"$time": "previous"}}}, "jobs": [{}, {"args": {"x": [{"$time": "scheduled"}]}, "undo": {"kind": "u", "args": {"t": {"$time": "previous"}}}}, {"args": {"t": {"$literal": {"$time": "scheduled"}}}}]}');
SELECT * FROM job_check_flow('{"jobs": [{"kind": "k", "args": {"a": {"$time": "now"}, "b": {"$time": 1}, "c": {"$time": "scheduled", "path": "$"}, "d": {"$time": null}}}]}');
SELECT job_submit_flow('{"queue": "sf7", "jobs": [{"name": "m", "kind": "k", "queue": "sf7"}]}') AS f \gset
SELECT pg_temp.refused(format($$SELECT job_submit('k', '{"t": {"$time": "scheduled"}}', 'sf7', flow => %s)$$, :f));
SELECT pg_temp.refused(format($$SELECT job_change(id, args => '{"t": {"$time": "scheduled"}}') FROM job_status WHERE flow = %s$$, :f));
SELECT job_submit('k', '{"t": {"$time": "scheduled"}}', 'sf7') > 0;
SELECT args FROM job_claim('sf7', max_jobs => 9) c WHERE c.flow IS NULL;

-- Faults of a flow are told when it is scheduled, all of them
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"queue": "sf8", "run_at": "2030-01-01", "expires_at": "2030-01-01", "depends_on": ["x"], "result": {"$time": "scheduled"}, "defaults": {"expires_at": "2030-01-01"}, "jobs": [{"kind": "k", "run_at": "2030-01-01"},
    {"kind": "k", "depends_on": ["y"], "args": {"t": {"$time": "now"}}}, {"kind": "k", "args": {"$time": "scheduled"}}, {"jobs": [{"expires_at": null}, {"run_at": "x", "kind": "k"}]}, {"kind": "k", "undo": {"$time": "scheduled"}}, {"kind": "k", "scheduled_for": "2030-01-01", "schedule_id": 1}]}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"kind": "k", "jobs": []}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"jobs": {}}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"kind": "k", "jobs": null}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"flow": 1, "jobs": []}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"depends_on": [-1], "jobs": []}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"kind": "k", "args": {"$time": "scheduled"}}')$$);
SELECT pg_temp.refused($$SELECT job_schedule('bad', '@daily', '{"kind": "k", "undo": {"kind": "u"}}')$$);
SELECT count(*) FROM job_schedules WHERE name = 'bad';
-- intervals are stored as they were read, wherever they stand
SELECT job_schedule('settled', '@yearly', '{"timeout": "-1 day 26:00", "run_in": "1 h", "defaults": {"backoff": "1.5 s", "args": {"timeout": "1 min"}}, "jobs": [{"kind": "k", "run_in": "0", "lease": "1 min", "args": {"lease": "1 min", "jobs": [{"lease": "1 min"}], "defaults": {"lease": "1 min"}},
    "undo": {"kind": "u", "lease": "1 min", "timeout": null, "args": {"backoff": "1 s"}}}, {"jobs": [{"kind": "k", "unique_key": "1 min", "unique_for": "1 mon"}], "defaults": {"timeout": "0"}}]}') > now();
SELECT jsonb_pretty(job) FROM job_schedules WHERE name = 'settled';
SET intervalstyle = 'sql_standard';
SELECT job_schedule('settled', '@yearly', job) > now() FROM job_schedules WHERE name = 'settled';
RESET intervalstyle;
SELECT job #>> '{timeout}', job #>> '{jobs,0,undo,lease}' FROM job_schedules WHERE name = 'settled';
SELECT job_unschedule('settled');

-- Privileges: operate and submit on the queue of the flow, submit on those of its members, when it is made and at each time
CREATE ROLE jobq_sf;
SELECT job_grant('jobq_sf', 'sf9', p) FROM unnest('{operate,submit}'::text[]) p;
SET ROLE jobq_sf;
SELECT pg_temp.refused($$SELECT job_schedule('theirs', 'every 9000 days', '{"queue": "sf9", "jobs": [{"kind": "k", "queue": "sf9"}, {"jobs": [{"kind": "k", "queue": "sf10"}], "queue": "sf9"}]}')$$);
RESET ROLE;
SELECT job_grant('jobq_sf', 'sf10', 'submit');
SET ROLE jobq_sf;
SELECT job_schedule('theirs', 'every 9000 days', '{"queue": "sf9", "jobs": [{"kind": "k", "queue": "sf9"}, {"jobs": [{"kind": "k", "queue": "sf10"}], "queue": "sf9"}]}', overlap => 'allow') > now();
RESET ROLE;
CREATE FUNCTION pg_temp.force(name text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    UPDATE job_schedule s SET next_at = '2024-08-22' WHERE s.name = force.name;
    SET ROLE jobq_sf;
    PERFORM job_schedule('theirs', 'every 9000 days', (SELECT job FROM job_schedules s WHERE s.name = force.name), overlap => 'allow');
    RESET ROLE;
    RETURN 'due';
END $$;
SELECT pg_temp.force('theirs');
SELECT pg_temp.ran('theirs');
SELECT submitted_by, kind, state FROM job_status WHERE queue IN ('sf9', 'sf10') ORDER BY id;
BEGIN;
SELECT pg_temp.force('theirs');
SELECT job_revoke('jobq_sf', 'sf10', 'submit');
COMMIT;
SELECT pg_temp.ran('theirs');
SELECT count(*) FROM job_status WHERE queue IN ('sf9', 'sf10');
SELECT job_unschedule('theirs');
SELECT job_revoke('jobq_sf', 'sf9', p) FROM unnest('{operate,submit}'::text[]) p;
SELECT * FROM job_check() WHERE job_id > :first;
DROP ROLE jobq_sf;
