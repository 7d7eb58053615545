-- Making, replacing and removing schedules: job_schedule, job_unschedule, the view job_schedules
\set VERBOSITY terse
\pset format unaligned
\pset tuples_only on
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET client_min_messages = warning;

-- defaults; the next time is the first after now, and comes back
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "sched_backup"}') = (SELECT min(t) FROM job_schedule_times('0 3 * * *') t);
SELECT name, schedule, timezone, job, catch_up, overlap, paused, next_at = (SELECT min(t) FROM job_schedule_times('0 3 * * *') t), last_at, last_job, last_problem,
    owner = current_user::regrole FROM job_schedules;
SELECT job_schedule('Ünïcode name', '@yearly', '{"kind": "k", "queue": "reports", "args": {"a": 1}, "priority": 3, "tags": {"x": 1}, "run_in": "5 min"}', 'Europe/Berlin', 'all', 'queue', true);
SELECT name, timezone, job, catch_up, overlap, paused, next_at FROM job_schedules WHERE name <> 'nightly';

-- the same name replaces it, as a whole
SELECT job_schedule('Ünïcode name', '0 0 1 1 *', '{"kind": "sched_other"}') = (SELECT min(t) FROM job_schedule_times('@yearly') t);
SELECT schedule, timezone, job, catch_up, overlap, paused FROM job_schedules WHERE name <> 'nightly';
SELECT count(*) FROM job_schedules;

-- intervals are stored as they were read, whatever the settings are at a tick
SELECT job_schedule('settled', '@yearly', '{"kind": "k", "args": {"expires_at": "01/02/2027"}, "tags": {"timeout": "1 min"}, "timeout": "-1 day 26:00", "backoff": "1.5 s",
    "unique_key": "1 min", "unique_for": "1 mon 1 day", "depends_on": [], "lease": null, "run_in": "0"}') > now();
SELECT job FROM job_schedules WHERE name = 'settled';
SET intervalstyle = 'sql_standard';
SELECT job_schedule('settled', '@yearly', job) > now() FROM job_schedules WHERE name = 'settled';
SELECT job FROM job_schedules WHERE name = 'settled';
SELECT job_schedule('settled', '@yearly', '{"kind": "k", "timeout": "-1 day 26:00"}');
RESET intervalstyle;
SELECT job_unschedule('settled');

-- what cannot be read is refused, and nothing changes
\set VERBOSITY default
\set SHOW_CONTEXT never
SELECT job_schedule('', '0 3 * * *', '{"kind": "k"}');
SELECT job_schedule(repeat('n', 129), '0 3 * * *', '{"kind": "k"}');
SELECT job_schedule(E'a\nb', '0 3 * * *', '{"kind": "k"}');
SELECT job_schedule('nightly', '0 25 * * *', '{"kind": "k"}');
SELECT job_schedule('nightly', '0 0 30 2 *', '{"kind": "k"}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', 'Mars/Olympus');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', 'UTC+2', paused => true);
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', catch_up => 'some');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', overlap => 'never');
SELECT job_schedule('nightly', '0 3 * * *', '[{"kind": "k"}]');
SELECT job_schedule('nightly', '0 3 * * *', '"k"');
SELECT job_schedule('nightly', '0 3 * * *', '{}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": ""}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "colour": 1}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "queue": "no such name"}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "args": 1}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "timeout": "-1 s"}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "priority": 40000}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "run_at": "2030-01-01"}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "run_at": "2030-01-01", "run_in": "1 s"}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "expires_at": "2030-01-01"}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "depends_on": ["other"]}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "depends_on": [-1]}');
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k", "parent": -1}');
SELECT job_schedule(NULL, '0 3 * * *', '{"kind": "k"}');
SELECT job_schedule('nightly', NULL, '{"kind": "k"}');
SELECT job_schedule('nightly', '0 3 * * *', NULL);
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', NULL);
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', catch_up => NULL);
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', overlap => NULL);
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}', paused => NULL);
SELECT job_unschedule(NULL);
BEGIN READ ONLY;
SELECT job_schedule('nightly', '0 3 * * *', '{"kind": "k"}');
ROLLBACK;
BEGIN READ ONLY;
SELECT job_unschedule('nightly');
ROLLBACK;
\set VERBOSITY terse
SELECT name, schedule, job FROM job_schedules ORDER BY name;
SELECT count(*) FROM job WHERE kind IN ('sched_backup', 'sched_other');

-- removing
SELECT job_unschedule('no such schedule'), job_unschedule('Ünïcode name'), job_unschedule('Ünïcode name');
BEGIN;
SELECT job_unschedule('nightly'), (SELECT count(*) FROM job_schedules);
SELECT count(*) FROM job_schedules;
ROLLBACK;
SELECT job_unschedule('nightly');

-- an unreachable year: there is a next time, and none after it
SELECT job_schedule('rare', 'every 73000 days', '{"kind": "k"}') > now(), job_unschedule('rare');

-- privileges: operate and submit on the queue of the job
CREATE ROLE jobq_sched_both;
CREATE ROLE jobq_sched_operator;
CREATE ROLE jobq_sched_submitter;
CREATE ROLE jobq_sched_reader;
CREATE ROLE jobq_sched_member IN ROLE jobq_sched_both;
SELECT job_grant(r::regrole, 'sched', p) FROM (VALUES ('jobq_sched_both', 'operate'), ('jobq_sched_both', 'submit'), ('jobq_sched_operator', 'operate'),
    ('jobq_sched_submitter', 'submit'), ('jobq_sched_reader', 'read')) v (r, p);
\set VERBOSITY default
SET ROLE jobq_sched_submitter;
SELECT job_schedule('mine', '@daily', '{"kind": "k", "queue": "sched"}');
SELECT * FROM job_schedules;
SET ROLE jobq_sched_reader;
SELECT job_schedule('mine', '@daily', '{"kind": "k", "queue": "sched"}');
SELECT job_unschedule('mine');
SET ROLE jobq_sched_operator;
SELECT job_schedule('mine', '@daily', '{"kind": "k", "queue": "sched"}');
SET ROLE jobq_sched_both;
SELECT job_schedule('mine', '@daily', '{"kind": "k"}');
SELECT job_schedule('mine', '@daily', '{"kind": "k", "queue": "sched"}') > now();
SELECT name, owner FROM job_schedules;
RESET ROLE;
SELECT job_schedule('ours', '@daily', '{"kind": "k", "queue": "priv"}') > now();
-- another's schedule is seen by who may read its queue, and changed by who operates it
SET ROLE jobq_sched_reader;
SELECT name, owner FROM job_schedules;
SET ROLE jobq_sched_member;
SELECT name, owner FROM job_schedules;
SELECT job_schedule('ours', '@daily', '{"kind": "k", "queue": "sched"}');
SELECT job_unschedule('ours');
SELECT job_schedule('mine', '@hourly', '{"kind": "k", "queue": "sched"}') > now();
SELECT name, owner FROM job_schedules;
SET ROLE jobq_sched_operator;
SELECT job_unschedule('mine');
RESET ROLE;
\set VERBOSITY terse
SELECT job_unschedule('ours');
SELECT job_revoke(r::regrole, 'sched', p) FROM (VALUES ('jobq_sched_both', 'operate'), ('jobq_sched_both', 'submit'), ('jobq_sched_operator', 'operate'),
    ('jobq_sched_submitter', 'submit'), ('jobq_sched_reader', 'read')) v (r, p);
DROP ROLE jobq_sched_member, jobq_sched_both, jobq_sched_operator, jobq_sched_submitter, jobq_sched_reader;
