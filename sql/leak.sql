-- A function in WHERE that keeps what it is given, as any role: it is given nothing of queues on which the role has no privilege
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
-- without the jobs of other tests, since each view is read many times
TRUNCATE job, job_dependency, job_waiting, job_delta, job_recount, job_scheduled, job_ready, job_lease, job_expiry, job_cancel_request, job_unique, job_attempt, job_flow;

CREATE ROLE jobq_leak_none;
CREATE ROLE jobq_leak_submit;
CREATE ROLE jobq_leak_work;
CREATE ROLE jobq_leak_operate;
CREATE ROLE jobq_leak_read;
SELECT job_grant(('jobq_leak_' || p)::regrole, 'leak_mine', p) FROM unnest(ARRAY['submit', 'work', 'operate', 'read']) p;
CREATE TEMP VIEW roles AS SELECT rolname AS role FROM pg_roles WHERE rolname LIKE 'jobq\_leak\_%';
SELECT count(job_schedule(q || ' schedule', '@yearly', jsonb_build_object('kind', 'k', 'queue', q, 'args', jsonb_build_object('in', q)))) FROM unnest(ARRAY['leak_mine', 'leak_other']) q;

-- as cheap as can be, so that it is run as early as the planner dares; and able to keep what it sees although it is not volatile
CREATE FUNCTION pg_temp.leak(VARIADIC seen text[]) RETURNS boolean LANGUAGE plpgsql STABLE COST 0.0001 AS $$
BEGIN
    PERFORM set_config('leak.seen', current_setting('leak.seen', true) || seen::text, false);
    RETURN true;
END $$;
CREATE FUNCTION pg_temp.leak_more(seen text) RETURNS boolean LANGUAGE plpgsql VOLATILE COST 0.0001 AS $$
BEGIN
    PERFORM set_config('leak.seen', current_setting('leak.seen', true) || coalesce(seen, ''), false);
    RETURN seen IS NOT NULL;
END $$;
CREATE FUNCTION pg_temp.leak_op(seen text, unused int) RETURNS boolean LANGUAGE sql STABLE COST 0.0001 AS 'SELECT pg_temp.leak(seen)';
CREATE OPERATOR pg_temp.<<< (LEFTARG = text, RIGHTARG = int, FUNCTION = pg_temp.leak_op);

-- what the function saw in a query that a role runs; its SQLSTATE if it failed
CREATE FUNCTION pg_temp.seen(role text, query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    problem text;
BEGIN
    PERFORM set_config('leak.seen', '', false);
    EXECUTE format('SET LOCAL ROLE %I', role);
    BEGIN
        EXECUTE query;
    EXCEPTION WHEN OTHERS THEN
        problem := SQLSTATE;
    END;
    RESET ROLE;
    RETURN coalesce(problem || ' ', '') || current_setting('leak.seen');
END $$;

-- Two queues with jobs in each state.  All that is text or JSON names its queue, all numbers and times of the other queue are unlike the first's.
SET ROLE jobq_leak_submit;
SELECT count(job_submit('leak_mine', '{"q": "leak_mine"}', 'leak_mine', 100 * i, tags => '"leak_mine"')) FROM generate_series(1, 3) i;
SELECT job_submit_flow('{"name": "leak_mine", "queue": "leak_mine", "hold": true, "jobs": []}') > 0;
RESET ROLE;
CREATE TEMP TABLE q (queue text, priority int);
INSERT INTO q VALUES ('leak_mine', 1), ('leak_other', 7777);
CREATE FUNCTION pg_temp.fill(queue text, priority int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    base bigint;
    args jsonb := jsonb_build_object('q', queue);
BEGIN
    base := job_submit(queue, args, queue, priority - 1, tags => to_jsonb(queue), max_attempts => 3);
    PERFORM job_submit(queue, args, queue, priority, depends_on => ARRAY[base], tags => to_jsonb(queue), parent => base);
    PERFORM job_submit(queue, args, queue, priority, run_at => '2999-01-01', tags => to_jsonb(queue));
    PERFORM job_hold(job_submit(queue, args, queue, priority));
    PERFORM job_cancel(job_submit(queue, args, queue, priority), queue);
    PERFORM job_submit(queue, args, queue, priority + i) FROM generate_series(1, 5) i;
    PERFORM job_submit_flow(jsonb_build_object('name', queue, 'queue', queue, 'hold', true, 'jobs', '[]'::jsonb));
END $$;
SELECT pg_temp.fill(queue, priority) FROM q WHERE queue = 'leak_mine';
SELECT count(nextval('job_id_seq')) FROM generate_series(1, 1000);
SELECT pg_temp.fill(queue, priority) FROM q WHERE queue = 'leak_other';
-- one completed, one failed for good, one failed to be tried again; two run, with progress, and a heartbeat beyond what the row says
SELECT job_complete(job_id, token, to_jsonb(kind)) FROM q, job_claim(q.queue, q.queue, 1) c;
SELECT job_fail(job_id, token, kind, false) FROM q, job_claim(q.queue, q.queue, 1) c;
SELECT job_fail(job_id, token, kind, true, '0') FROM q, job_claim(q.queue, q.queue, 1) c;
SET ROLE jobq_leak_work;
SELECT job_heartbeat(job_id, token, progress => to_jsonb(kind)) FROM job_claim('leak_mine', 'leak_mine', 1, '1 h');
RESET ROLE;
SELECT bool_and(job_heartbeat(job_id, token, progress => to_jsonb(kind))) FROM q, job_claim(q.queue, q.queue, 1, CASE q.queue WHEN 'leak_mine' THEN interval '1 h' ELSE '2 h' END) c;
INSERT INTO job_log SELECT id, nextval('job_id_seq'), now(), 1, 1, 1, queue, to_jsonb(queue) FROM job WHERE queue LIKE 'leak%';
SELECT queue, array_agg(DISTINCT state ORDER BY state) FROM job_status WHERE queue IN ('leak_mine', 'leak_other') GROUP BY queue ORDER BY queue;

-- every column of every view, each by itself and as the whole row, with three ways to be called; the role may see in it what it may select
CREATE TEMP VIEW columns AS
SELECT c.relname, format('(v.%I)::text', a.attname) AS expression
FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'v' JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq')
UNION ALL
SELECT c.relname, 'v::text'
FROM pg_depend d JOIN pg_class c ON c.oid = d.objid AND c.relkind = 'v'
WHERE d.classid = 'pg_class'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq');
CREATE TEMP TABLE allowed AS
SELECT r.role, c.relname, c.expression, pg_temp.seen(r.role, format('SELECT pg_temp.leak(x.a) FROM (SELECT %s AS a FROM %I v OFFSET 0) x', c.expression, c.relname)) AS seen
FROM roles r, columns c;
SELECT role, relname, CASE WHEN bool_and(seen = '42501 ') THEN 'not allowed' WHEN bool_or(seen LIKE '%leak\_mine%') THEN 'sees its own' WHEN bool_and(seen = '') THEN 'sees nothing' ELSE 'mixed' END
FROM allowed GROUP BY role, relname ORDER BY relname, role;
SELECT role, relname, expression, seen FROM allowed WHERE seen LIKE '%other%';
-- sorted, because the order in which rows are met says nothing; how long something has lasted differs
CREATE FUNCTION pg_temp.sorted(seen text) RETURNS text[] LANGUAGE sql AS $$ SELECT array_agg(s ORDER BY s) FROM regexp_split_to_table(regexp_replace(seen, '[0-9]+\.[0-9]+', 'N', 'g'), '(?<=})(?={)') s $$;
SELECT a.role, a.relname, a.expression, w.condition, s.seen
FROM allowed a, unnest(ARRAY['pg_temp.leak(%s)', '%s OPERATOR(pg_temp.<<<) 1', 'NOT pg_temp.leak(%s)']) w (condition),
    LATERAL pg_temp.seen(a.role, format('SELECT * FROM %I v WHERE ' || w.condition, a.relname, a.expression)) s (seen)
WHERE pg_temp.sorted(s.seen) IS DISTINCT FROM pg_temp.sorted(a.seen);
SELECT a.role, a.relname, a.expression, s.seen
FROM allowed a, LATERAL pg_temp.seen(a.role, format('SELECT * FROM %I v WHERE pg_temp.leak_more(%s)', a.relname, a.expression)) s (seen)
WHERE s.seen LIKE '%other%' OR length(pg_temp.sorted(s.seen)::text) > length(pg_temp.sorted(a.seen)::text);
-- a condition on tags, which is run first, takes no other with it
CREATE FUNCTION pg_temp.leak_tags(seen text) RETURNS jsonb LANGUAGE plpgsql STABLE COST 0.0001 AS $$
BEGIN
    PERFORM pg_temp.leak(seen);
    RETURN '{}';
END $$;
SELECT a.role, a.expression, c.condition, s.seen
FROM allowed a, unnest(ARRAY['v.tags @> ''"leak_other"'' AND pg_temp.leak(%s)', 'v.tags @> ''"leak_other"'' AND v.tags @> pg_temp.leak_tags(%s)', 'v.tags @> pg_temp.leak_tags(%s)',
        '(v.tags @> ''"leak_other"'' OR pg_temp.leak(%s)) AND v.tags @> ''"leak_other"'' ']) c (condition),
    LATERAL pg_temp.seen(a.role, format('SELECT * FROM job_status v WHERE ' || c.condition, a.expression)) s (seen)
WHERE a.relname = 'job_status' AND s.seen LIKE '%other%';
SELECT a.role, a.expression, s.seen
FROM allowed a, LATERAL pg_temp.seen(a.role, format('SELECT * FROM job_status v WHERE v.tags @> ''"leak_mine"'' AND pg_temp.leak(%s)', a.expression)) s (seen)
WHERE a.relname = 'job_status' AND (s.seen LIKE '%other%' OR length(pg_temp.sorted(s.seen)::text) > length(pg_temp.sorted(a.seen)::text));
-- the same by way of a join, and with a key
SELECT a.role, a.relname, a.expression, s.seen
FROM allowed a, LATERAL pg_temp.seen(a.role, format('SELECT * FROM (VALUES (1)) x LEFT JOIN %I v ON pg_temp.leak(%s)', a.relname, a.expression)) s (seen)
WHERE pg_temp.sorted(s.seen) IS DISTINCT FROM pg_temp.sorted(a.seen);
SELECT r.role, k.view, s.seen
FROM roles r, (VALUES ('job_status', 'id', 'args'), ('job_attempts', 'job_id', 'error')) k (view, key, what),
    LATERAL pg_temp.seen(r.role, format('SELECT * FROM %I v WHERE %I = ANY (%L) AND pg_temp.leak(%I::text)', k.view, k.key,
        (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'), k.what)) s (seen)
WHERE s.seen NOT IN ('', '42501 ');

-- every function that returns rows is tried here
SELECT job_submit_flow(jsonb_build_object('name', 'leak_flow', 'queue', 'leak_mine', 'jobs', (SELECT jsonb_agg(jsonb_build_object('kind', queue, 'queue', queue)) FROM q))) AS flow \gset
CREATE TEMP TABLE calls (name text, call text);
INSERT INTO calls VALUES
    ('job_claim_flow', format('job_claim_flow(%s, max_jobs => 2)', :flow)),
    ('job_claim', 'job_claim(''leak_mine'')'), ('job_claim', 'job_claim(''{leak_mine}''::text[])'), ('job_claim', 'job_claim(''leak_other'')'),
    ('job_claim', 'job_claim(''{leak_mine,leak_other}''::text[])'),
    ('job_submit_many', 'job_submit_many(''[{"kind": "k", "queue": "leak_mine"}]'')'), ('job_submit_many', 'job_submit_many(''[{"kind": "k", "queue": "leak_other"}]'')'),
    ('job_complete_many', format('job_complete_many(%L, %L)', (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'), (SELECT array_agg(1) FROM job WHERE queue = 'leak_other'))),
    ('job_fail_many', format('job_fail_many(%L, %L)', (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'), (SELECT array_agg(1) FROM job WHERE queue = 'leak_other'))),
    ('job_next', format('job_next(%s, 1, queues => ''{leak_mine,leak_other}'')', (SELECT min(job_id) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'leak_other'))),
    ('job_horizon', 'job_horizon()'),
    ('job_cancel_many', format('job_cancel_many(%L)', (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'))),
    ('job_retry_many', format('job_retry_many(%L)', (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'))),
    ('job_hold_many', format('job_hold_many(%L)', (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'))),
    ('job_unhold_many', format('job_unhold_many(%L)', (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'))),
    ('job_problems', 'job_problems()'), ('job_all_problems', 'job_all_problems()'), ('job_problems_of', 'job_problems_of(1)'), ('job_ready_row', 'job_ready_row(1)'), ('job_unique_row', 'job_unique_row(1)'), ('job_schedule_problems', 'job_schedule_problems()'), ('job_sequence_problems', 'job_sequence_problems()'), ('job_repair', 'job_repair()'), ('job_check', 'job_check()'),
    ('job_limited_reasons', 'job_limited_reasons(NULL, NULL, now())'),
    ('job_reasons', format('job_reasons(%s, true, true, true, now(), now())', (SELECT min(id) FROM job WHERE queue = 'leak_other'))),
    ('job_schedule_times', 'job_schedule_times(''@daily'')'), ('job_check_flow', 'job_check_flow(''{}'')'), ('job_shared_memory', 'job_shared_memory()'),
    ('job_state_counts', 'job_state_counts()'), ('job_metric_values', 'job_metric_values()');
INSERT INTO calls SELECT f, format('%s(%L)', f, (SELECT array_agg(id) FROM job WHERE queue = 'leak_other'))
FROM unnest(ARRAY['job_cancel_many', 'job_retry_many', 'job_hold_many', 'job_unhold_many', 'job_delete_many']) f;
INSERT INTO calls SELECT f, format('%s(%s)', f, id) FROM unnest(ARRAY['job_parents', 'job_children', 'job_explain']) f, job WHERE queue = 'leak_other';
SELECT p.oid::regprocedure FROM pg_depend d JOIN pg_proc p ON p.oid = d.objid
WHERE d.classid = 'pg_proc'::regclass AND d.deptype = 'e' AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq')
    AND p.proretset AND p.proname NOT IN (SELECT name FROM calls);
BEGIN;
SELECT r.role, c.call, s.seen FROM roles r, calls c, LATERAL pg_temp.seen(r.role, format('SELECT * FROM %s v WHERE pg_temp.leak(v::text)', c.call)) s (seen)
WHERE s.seen LIKE '%other%' OR s.seen ~ ',t[,)]';
ROLLBACK;

-- what the views are made of, called directly, tells nothing either: not until when others' jobs are leased, not even with the token
CREATE TEMP TABLE lease AS SELECT l.job_id, l.token, j.queue FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue LIKE 'leak%';
GRANT SELECT ON lease TO PUBLIC;
SELECT bool_and(job_lease_until(job_id, token, '2000-01-01') > now()) FROM lease;
SELECT r.role, l.queue, pg_temp.seen(r.role, format('SELECT pg_temp.leak((job_lease_until(%s, %s, ''2000-01-01'') > now())::text)', l.job_id, l.token)) AS later, count(*)
FROM roles r, lease l GROUP BY r.role, l.queue, later ORDER BY r.role, l.queue, later;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'leak%' AND finished_at IS NULL;
SELECT count(job_release(job_id, token)) FROM lease;
SELECT count(job_unschedule(name)) FROM job_schedules WHERE name LIKE 'leak%';
DELETE FROM job_privilege WHERE queue LIKE 'leak%';
DROP OWNED BY jobq_leak_none, jobq_leak_submit, jobq_leak_work, jobq_leak_operate, jobq_leak_read;
DROP ROLE jobq_leak_none, jobq_leak_submit, jobq_leak_work, jobq_leak_operate, jobq_leak_read;
