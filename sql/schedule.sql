-- The language of schedules and their times: job_schedule_times
\pset format unaligned
\pset tuples_only on
SET timezone = 'UTC';
SET datestyle = 'ISO';
SET intervalstyle = 'postgres';

-- the next times by the clock of a zone, each with its day of the week and offset
CREATE FUNCTION pg_temp.times(schedule text, zone text, after text, n int DEFAULT 4) RETURNS SETOF text
LANGUAGE plpgsql AS $$
DECLARE
    old constant text := current_setting('timezone');
BEGIN
    PERFORM set_config('timezone', zone, true);
    RETURN QUERY SELECT to_char(t, 'Dy YYYY-MM-DD HH24:MI:SS') || ' ' || to_char(t, 'OF')
        FROM job_schedule_times(schedule, zone, after::timestamptz, n) t;
    PERFORM set_config('timezone', old, true);
END
$$;
-- the same in one line, in UTC
CREATE FUNCTION pg_temp.line(schedule text, after text DEFAULT '2026-01-01', n int DEFAULT 4) RETURNS text
LANGUAGE sql AS $$ SELECT string_agg(substr(t, 1, 20), ', ') FROM pg_temp.times(schedule, 'UTC', after, n) t $$;

-- defaults: five times from now on, in UTC
SELECT count(*), min(t) > now(), bool_and(extract(hour FROM t) = 5) FROM job_schedule_times('0 5 * * *') t;
SELECT count(*) FROM job_schedule_times('* * * * *', n => 0);
SELECT count(*), max(t) FROM job_schedule_times('* * * * *', 'UTC', '2026-01-01', 10000) t;

-- the fields
SELECT s, pg_temp.line(s) FROM unnest(ARRAY[
    '* * * * *', '30 * * * *', '30 6 * * *', '0,20,40 1,3 * * *', '5-7 12 * * *', '*/25 0 * * *', '10-40/15 0 * * *', '50-59/9,3 0 * * *',
    '0 22-23,0-2 * * *', '0 */7 * * *', '0 0 31 * *', '0 0 */10 * *', '0 0 L * *', '0 0 l,15 * *', '0 0 29 2 *',
    '0 0 1 */5 *', '0 0 1 jan,JUL *', '0 0 1 oct-Dec/2 *', '0 0 * * 0', '0 0 * * 7', '0 0 * * sun', '0 0 * * Mon-Fri', '0 0 * * fri-sun',
    '0 0 * * 5-7/2', '0 0 * * */3', '0 0 * * 5#2', '0 0 * * fri#5', '0 0 * * 5L', '0 0 * * friL,mon#1', '0 0 * * 7#1', '0 0 * * 0l',
    E' \t0 0\n1  1 *\r '
]) s;

-- days: one of both fields, or both of them if one begins with "*"
SELECT s, pg_temp.line(s) FROM unnest(ARRAY[
    '0 0 13 * 5', '0 0 13 * *', '0 0 * * 5', '0 0 1-7 * *', '0 0 */2 * 5', '0 0 13 * */5', '0 0 *,13 * 5', '0 0 13,* * 5', '0 0 L * 1#1',
    '0 0 29 2 */7', '0 0 29 2 1'
]) s;

-- aliases
SELECT s, pg_temp.line(s) FROM unnest(ARRAY['@hourly', '@daily', '@midnight', '@weekly', '@monthly', '@yearly', '@annually', ' @Daily ']) s;

-- intervals: counted from 2000-01-01 UTC, whatever the time zone
SELECT s, pg_temp.line(s) FROM unnest(ARRAY['every 15 minutes', 'EVERY 1 second', 'every 7 days', 'every 1 day 12 hours', 'every 36:00', 'every PT90M', E'every\t1.5 s']) s;
SELECT * FROM pg_temp.times('every 1 day', 'Asia/Kolkata', '2026-01-01', 2);
SELECT pg_temp.line('every 1 hour', '1999-12-31 22:30', 3), pg_temp.line('every 7 hours', '1999-12-31 10:00', 3);
SELECT t FROM job_schedule_times('every 73000 days', after => '1700-01-01', n => 3) t;
SELECT t FROM job_schedule_times('every 1.3 s', after => '2000-01-01', n => 3) t;

-- a time counts as passed when it is there
SELECT pg_temp.line('30 6 * * *', '2026-01-01 06:29:59.999999', 1), pg_temp.line('30 6 * * *', '2026-01-01 06:30:00', 1), pg_temp.line('30 6 * * *', '2026-01-01 06:30:00.000001', 1);
SELECT pg_temp.line('30 6 * * *', '1969-12-31 06:29:59.999999', 1), pg_temp.line('30 6 * * *', '1969-12-31 06:30:00', 1), pg_temp.line('30 6 * * *', '1969-12-31 06:30:00.000001', 1);

-- Europe/Berlin, 2026-03-29: 02:00 to 03:00 is skipped; what is fixed comes at its end, once
SELECT s, array_to_string(ARRAY(SELECT pg_temp.times(s, 'Europe/Berlin', '2026-03-28 23:59', n)), E'\n')
FROM (VALUES ('30 2 * * *', 3), ('0 2 * * *', 2), ('0,30 2 * * *', 3), ('30 2,3 * * *', 3), ('0 3 * * *', 2), ('59 1 * * *', 2), ('30 * * * *', 4), ('*/30 2 * * *', 3), ('*/30 2,3 * * *', 3), ('0 */2 * * *', 3)) v (s, n);
-- 2026-10-25: 02:00 to 03:00 comes twice
SELECT s, array_to_string(ARRAY(SELECT pg_temp.times(s, 'Europe/Berlin', '2026-10-24 23:59', n)), E'\n')
FROM (VALUES ('30 2 * * *', 2), ('0 2 * * *', 2), ('0 3 * * *', 2), ('30 1-3 * * *', 4), ('30 * * * *', 6), ('*/30 2 * * *', 5), ('0 */2 * * *', 4)) v (s, n);
-- it is the first of both, also for who asks between them
SELECT pg_temp.times('30 2 * * *', 'Europe/Berlin', '2026-10-25 00:29:59+00', 1);
SELECT pg_temp.times('30 2 * * *', 'Europe/Berlin', '2026-10-25 00:30:00+00', 1);
SELECT pg_temp.times('45 2 * * *', 'Europe/Berlin', '2026-10-25 01:30:00+00', 1);
SELECT pg_temp.times('*/30 2 * * *', 'Europe/Berlin', '2026-10-25 00:30:00+00', 1);
SELECT pg_temp.times('30 2 * * *', 'Europe/Berlin', '2026-03-29 00:59:59.9+00', 1);
SELECT pg_temp.times('30 2 * * *', 'Europe/Berlin', '2026-03-29 01:00:00+00', 1);

-- America/New_York
SELECT pg_temp.times('30 2 * * *', 'America/New_York', '2026-03-07 12:00', 2);
SELECT pg_temp.times('30 1 * * *', 'America/New_York', '2026-10-31 12:00', 2);
SELECT pg_temp.times('@hourly', 'America/New_York', '2026-11-01 03:30+00', 4);
SELECT pg_temp.times('@hourly', 'America/New_York', '2026-11-01 05:00+00', 2);
-- Australia/Lord_Howe: half an hour
SELECT pg_temp.times('15 2 * * *', 'Australia/Lord_Howe', '2026-10-03 12:00', 2);
SELECT pg_temp.times('45 1 * * *', 'Australia/Lord_Howe', '2026-04-04 12:00', 2);
SELECT pg_temp.times('*/15 1-2 * * *', 'Australia/Lord_Howe', '2026-04-05 00:00', 9);
-- Asia/Kolkata: always half past
SELECT pg_temp.times('0 9 * * mon-fri', 'Asia/Kolkata', '2026-01-01', 3);
-- Africa/Cairo: the first hour of a day is skipped
SELECT pg_temp.times('@daily', 'Africa/Cairo', '2026-04-22 12:00', 3);
SELECT pg_temp.times('30 0 * * fri', 'Africa/Cairo', '2026-04-22 12:00', 2);
SELECT pg_temp.times('*/30 0 * * *', 'Africa/Cairo', '2026-04-23 12:00', 2);
SELECT pg_temp.times('30 23 * * *', 'Africa/Cairo', '2026-10-28 12:00', 3);
-- America/Sao_Paulo: midnight was skipped until 2018
SELECT pg_temp.times('@daily', 'America/Sao_Paulo', '2018-11-03 12:00', 3);
SELECT pg_temp.times('@monthly', 'America/Sao_Paulo', '2018-10-15', 2);
SELECT pg_temp.times('30 23 * * *', 'America/Sao_Paulo', '2018-02-16 12:00', 3);
SELECT pg_temp.times('@daily', 'America/Sao_Paulo', '2019-11-02 12:00', 2);
-- Pacific/Apia: 30 December 2011 is missing
SELECT pg_temp.times('0 12 * * *', 'Pacific/Apia', '2011-12-28 23:00', 3);
SELECT pg_temp.times('0 */12 * * *', 'Pacific/Apia', '2011-12-29 00:00', 3);
SELECT pg_temp.times('0 12 30 12 *', 'Pacific/Apia', '2011-01-01', 2);
SELECT pg_temp.times('* 12 30 12 *', 'Pacific/Apia', '2011-01-01', 1);
SELECT pg_temp.times('0 0 31 12 *', 'Pacific/Apia', '2011-01-01', 2);
-- America/Juneau: a day came twice, in 1867
SELECT pg_temp.times('0 12 18-19 10 *', 'America/Juneau', '1867-10-01', 3);
-- seconds in the offset, before there were zones
SELECT pg_temp.times('0 12 * * *', 'America/New_York', '1880-01-01', 1);
-- a name says the way west, and can be written in either case
SELECT pg_temp.times('0 12 * * *', 'etc/gmt+3', '2026-01-01', 1);
-- by the rule at the end of a zone's data
SELECT pg_temp.times('30 2 * * *', 'Europe/Berlin', '2100-03-27 12:00', 2);
-- far from now
SELECT pg_temp.times('30 2 * * *', 'Europe/Berlin', '2999-03-30 12:00', 2);
SELECT pg_temp.line('0 0 29 2 */7', '2072-01-01', 3);
SELECT job_schedule_times('@yearly', after => '294274-06-01');
SELECT job_schedule_times('every 1 day', after => '294276-12-30');
SELECT job_schedule_times('@yearly', 'America/New_York', '294276-06-01');
SELECT job_schedule_times('@yearly', 'Asia/Tokyo', '4714-11-24 00:00:00+00 BC', 1);

-- it is the same wherever it is asked for: from each time the rest follows
SELECT s, zone, count(*) FROM
    unnest(ARRAY['30 2 * * *', '*/20 * * * *', '0,40 0-3 * * *', '15 */2 * * *']) s,
    unnest(ARRAY['Europe/Berlin', 'Australia/Lord_Howe', 'Africa/Cairo', 'Pacific/Apia']) zone,
    unnest(ARRAY['2011-12-28', '2026-03-28', '2026-04-04', '2026-04-23', '2026-10-03', '2026-10-24', '2026-10-29']::timestamptz[]) start,
    LATERAL (SELECT ARRAY(SELECT job_schedule_times(s, zone, start, 250)) AS times OFFSET 0) a,
    generate_series(start, start + interval '2 days', interval '7 minutes') after
WHERE times[width_bucket(after, times) + 1] IS DISTINCT FROM (SELECT job_schedule_times(s, zone, after, 1))
    AND after < times[250]
GROUP BY 1, 2;

-- for everybody, also where nothing can be written
CREATE ROLE regress_jobq_schedule;
GRANT USAGE ON SCHEMA public TO regress_jobq_schedule;
SET ROLE regress_jobq_schedule;
BEGIN READ ONLY;
SELECT count(*) FROM job_schedule_times('@daily');
COMMIT;
RESET ROLE;
REVOKE USAGE ON SCHEMA public FROM regress_jobq_schedule;
DROP ROLE regress_jobq_schedule;

-- what cannot be read
\set VERBOSITY default
SELECT job_schedule_times(NULL);
SELECT job_schedule_times('@daily', NULL);
SELECT job_schedule_times('@daily', after => NULL);
SELECT job_schedule_times('@daily', n => NULL);
SELECT job_schedule_times('@daily', n => -1);
SELECT job_schedule_times('@daily', n => 10001);
SELECT job_schedule_times('@daily', after => 'infinity');
SELECT job_schedule_times('@daily', after => '-infinity');
SELECT job_schedule_times('@daily', 'Europe/Nowhere');
SELECT job_schedule_times('@daily', '');
SELECT job_schedule_times('@daily', 'CEST');
SELECT job_schedule_times('@daily', repeat('x', 1000));
-- numbers and intervals are hours east of Greenwich in the setting TimeZone, but west of it in a name
SELECT job_schedule_times('@daily', '2');
SELECT job_schedule_times('@daily', '-3.5');
SELECT job_schedule_times('@daily', '+02:00');
SELECT job_schedule_times('@daily', '.5');
SELECT job_schedule_times('@daily', 'interval ''2 hours''');
SELECT job_schedule_times('@daily', 'interval''2''');
SELECT zone, job_schedule_times('0 12 * * *', zone, '2026-07-01', 1) FROM unnest('{UTC,Etc/GMT-2,ETC/GMT-2,Europe/Berlin}'::text[]) zone;
-- so are the specifications of POSIX
SELECT job_schedule_times('@daily', 'UTC+2');
SELECT job_schedule_times('@daily', 'Europ/Berlin2');
\set VERBOSITY terse
SELECT job_schedule_times('@daily', 'utc-2');
SELECT job_schedule_times('@daily', 'CET5');
SELECT job_schedule_times('@daily', 'EST5EST');
SELECT job_schedule_times('@daily', '<+02>-2');
SELECT job_schedule_times('@daily', 'CET-1CEST,M3.5.0,M10.5.0/3');
-- each name is taken
SELECT name FROM pg_timezone_names WHERE name !~ '^posix/' AND NOT EXISTS (SELECT FROM job_schedule_times('@daily', upper(name), n => 1));
\set VERBOSITY default
SELECT job_schedule_times(repeat('0', 1001));
-- the number of fields
SELECT job_schedule_times('');
SELECT job_schedule_times('* * * *');
SELECT job_schedule_times('0 * * * * *');
SELECT job_schedule_times('daily');
-- each field, out of its bounds
SELECT job_schedule_times('60 * * * *');
SELECT job_schedule_times('0 24 * * *');
SELECT job_schedule_times('0 0 0 * *');
SELECT job_schedule_times('0 0 1-32 * *');
SELECT job_schedule_times('0 0 1 13 *');
SELECT job_schedule_times('0 0 * * 1,8');
SELECT job_schedule_times('0 0 * * 99999999999999999999');
-- items that are none
\set VERBOSITY terse
CREATE FUNCTION pg_temp.refused(schedule text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    state text;
    detail text;
BEGIN
    PERFORM job_schedule_times(schedule);
    RETURN 'accepted';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS state = RETURNED_SQLSTATE, detail = PG_EXCEPTION_DETAIL;
    RETURN state || ': ' || coalesce(nullif(detail, ''), SQLERRM);
END
$$;
SELECT s, pg_temp.refused(s) FROM unnest(ARRAY[
    'x * * * *', '-5 * * * *', '+5 * * * *', '5- * * * *', '5-x * * * *', ', * * * *', '1, * * * *', ',1 * * * *', '1,,2 * * * *', '1.5 * * * *',
    '30-10 * * * *', '5/10 * * * *', '*/ * * * *', '*/0 * * * *', '*/61 * * * *', '*/x * * * *', '*/-1 * * * *', '*-5 * * * *', '** * * * *', '*5 * * * *',
    '*/5/5 * * * *', '1-5-9 * * * *', '0 mon * * *', '0 */25 * * *', '0 0 L-3 * *', '0 0 15W * *', '0 0 LW * *', '0 0 L/2 * *', '0 0 ? * *', '0 0 1#1 * *', '0 0 */32 * *',
    '0 0 1 january *', '0 0 1 ja *', '0 0 1 mon *', '0 0 1 */13 *', '0 0 1 dec-jan *', '0 0 * * monday', '0 0 * * jan', '0 0 * * L', '0 0 * * 5#0', '0 0 * * 5#6', '0 0 * * 5#',
    '0 0 * * #2', '0 0 * * 1-5#2', '0 0 * * 1-5L', '0 0 * * 5#2L', '0 0 * * 5L#2', '0 0 * * 5L/2', '0 0 * * 8L', '0 0 * * */8', '0 0 * * fri-mon', 'ä * * * *'
]) s;
-- dates that do not exist
\set VERBOSITY default
SELECT job_schedule_times('0 0 30 2 *');
\set VERBOSITY terse
SELECT s, pg_temp.refused(s) FROM unnest(ARRAY['0 0 31 2,4,6,9,11 *', '0 0 30-31 feb *', '0 0 30 2 1', '0 0 */30 2 2#2', '0 0 */31 * 1#5', '0 0 1 2 */7']) s;
-- aliases and intervals
\set VERBOSITY default
SELECT job_schedule_times('@reboot');
SELECT job_schedule_times('every');
SELECT job_schedule_times('every 1 month');
SELECT job_schedule_times('every 0.5 seconds');
SELECT job_schedule_times('every 201 years');
SELECT job_schedule_times('every 80000 days');
SELECT job_schedule_times('every -1 hour');
\set VERBOSITY terse
SELECT s, pg_temp.refused(s) FROM unnest(ARRAY['@', '@dail', '@dailyx', '@daily *', '@every 5 minutes', 'every5 minutes', 'every day', 'every 5 minutes of sorts', 'every 0', 'every 1 year',
    'every infinity', 'every 1000000000000000000000 s', 'every 1000000000000 days', 'every 2147483647 days 2562047788 hours', 'every -2147483648 days']) s;
