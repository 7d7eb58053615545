-- What users and outside tools rely on: every name, argument, type and default; labels; comments
\pset format unaligned
\pset tuples_only on
CREATE TEMP VIEW member AS
    SELECT d.classid, d.objid FROM pg_depend d
    WHERE d.deptype = 'e' AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = (SELECT oid FROM pg_extension WHERE extname = 'jobq');

-- functions and procedures
SELECT CASE p.prokind WHEN 'p' THEN 'PROCEDURE ' ELSE 'FUNCTION ' END || p.proname || '(' || pg_get_function_arguments(p.oid) || ')' || coalesce(' RETURNS ' || pg_get_function_result(p.oid), '')
FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal%'
ORDER BY p.proname COLLATE "C", pg_get_function_arguments(p.oid) COLLATE "C";

-- those that write are volatile and unsafe in parallel workers; none is strict, so that NULL is refused or means the default
SELECT p.proname, p.provolatile, p.proparallel, p.proisstrict, p.prosecdef FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE p.prokind = 'f' AND obj_description(p.oid, 'pg_proc') NOT LIKE 'Internal%'
    AND (p.provolatile, p.proparallel, p.proisstrict, p.prosecdef) IS DISTINCT FROM ('v', 'u', false, false)
ORDER BY p.proname COLLATE "C";

-- the waiting procedures can have neither SECURITY DEFINER nor a SET clause
SELECT p.proname, p.prosecdef, p.proconfig FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid WHERE p.prokind = 'p' ORDER BY 1;

-- the type
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a WHERE a.attrelid = 'job_assignment'::regclass AND a.attnum > 0 ORDER BY a.attnum;

-- the views
SELECT c.relname || ' (' || string_agg(a.attname, ', ' ORDER BY a.attnum) || ')', c.reloptions
FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
WHERE c.relkind = 'v' GROUP BY c.oid ORDER BY c.relname COLLATE "C";

-- what has no comment, of all that the extension made
SELECT pg_describe_object(m.classid, m.objid, 0) FROM member m
WHERE obj_description(m.objid, (SELECT relname FROM pg_class WHERE oid = m.classid)) IS NULL
    AND NOT (m.classid = 'pg_type'::regclass AND EXISTS (SELECT FROM pg_type t WHERE t.oid = m.objid AND (t.typrelid <> 0 OR t.typelem <> 0)))
ORDER BY 1;
SELECT obj_description('job_assignment'::regtype, 'pg_type') IS NOT NULL, obj_description((SELECT oid FROM pg_extension WHERE extname = 'jobq'), 'pg_extension') IS NOT NULL;

-- PUBLIC has no right on any of it, but for job_schedule_times, which reads nothing
SELECT p.oid::regprocedure FROM pg_proc p JOIN member m ON m.classid = 'pg_proc'::regclass AND m.objid = p.oid
WHERE EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) x WHERE x.grantee = 0);
SELECT c.oid::regclass FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE EXISTS (SELECT FROM aclexplode(c.relacl) x WHERE x.grantee = 0);

-- a dump takes all tables but job_active_database, and no table can be missed when one is added
SELECT c.relname FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind IN ('r', 'S') AND c.oid <> ALL ((SELECT extconfig FROM pg_extension WHERE extname = 'jobq')::oid[]);
-- what is deleted reaches a subscriber of logical replication
SELECT c.relname FROM pg_class c JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = c.oid
WHERE c.relkind = 'r' AND c.relreplident <> 'f' AND NOT EXISTS (SELECT FROM pg_index i WHERE i.indrelid = c.oid AND (i.indisprimary OR i.indisreplident));
-- there is no trigger that could count twice in a restore
SELECT count(*) FROM pg_trigger t JOIN member m ON m.classid = 'pg_class'::regclass AND m.objid = t.tgrelid;

-- the extension cannot be moved, and an index mentions no column that the end of a job writes
SELECT extrelocatable FROM pg_extension WHERE extname = 'jobq';
SELECT i.indexrelid::regclass FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
WHERE i.indrelid = 'job'::regclass AND a.attname IN ('outcome', 'attempt_outcome', 'started_at', 'finished_at', 'token', 'attempt', 'failed', 'lost', 'worker', 'error', 'result');
