-- In a schema of its own that no search_path names, beside objects of the same names; dropped and made again
\set VERBOSITY terse
SELECT current_database() AS home \gset
CREATE DATABASE jobq_regress_extension TEMPLATE template0;
\c jobq_regress_extension

CREATE SCHEMA "odd Schema";
CREATE EXTENSION jobq SCHEMA "odd Schema";
SELECT n.nspname, e.extrelocatable FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE e.extname = 'jobq';
SHOW search_path;
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'public';
SELECT job_submit('k');

-- everything works by its full name, whatever lies on the search_path
CREATE TABLE job (id int);
CREATE TABLE job_lease (id int);
CREATE SEQUENCE job_id_seq;
CREATE FUNCTION job_visible(text, regrole, regrole) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';
CREATE FUNCTION job_outcome_name(smallint) RETURNS text LANGUAGE sql AS 'SELECT ''wrong''';
CREATE FUNCTION not_equal(bigint, bigint) RETURNS boolean LANGUAGE sql AS 'SELECT 1 / 0 = 1';
CREATE OPERATOR = (LEFTARG = bigint, RIGHTARG = bigint, FUNCTION = not_equal);
SET search_path = public, pg_catalog;
SELECT "odd Schema".job_submit('a') AS a \gset
SELECT "odd Schema".job_submit('b', depends_on => ARRAY[:a]) AS b \gset
SELECT count(*) FROM "odd Schema".job_submit_many('[{"kind": "c", "name": "c"}, {"kind": "d", "depends_on": ["c"]}]');
SELECT kind FROM "odd Schema".job_claim();
SELECT kind FROM "odd Schema".job_claim('{default}'::text[]);
SET search_path = '';
SELECT "odd Schema".job_complete(job_id, token, '1') FROM "odd Schema".job_lease;
SELECT "odd Schema".job_result(:a);
SELECT kind, state FROM "odd Schema".job_status ORDER BY id;
SELECT job_id = :a AS a, outcome FROM "odd Schema".job_attempts ORDER BY job_id;
SELECT queue, ready FROM "odd Schema".job_queue_status;
SELECT count(*) FROM "odd Schema".job_worker_status;
SELECT "odd Schema".job_fail(job_id, token, retry => false) FROM "odd Schema".job_claim();
SELECT "odd Schema".job_retry(:b), "odd Schema".job_hold(:b), "odd Schema".job_unhold(:b), "odd Schema".job_cancel(:b);
SELECT "odd Schema".job_queue_set('default', paused => true);
CALL "odd Schema".job_wait(:b, '1 s');
CALL "odd Schema".job_claim_wait('default', 'w', '0');
CREATE ROLE jobq_ext_worker;
SELECT "odd Schema".job_queue_set('default', paused => false);
SELECT "odd Schema".job_grant('jobq_ext_worker', 'default', 'work');
SET ROLE jobq_ext_worker;
SELECT kind FROM "odd Schema".job_claim();
SELECT kind FROM "odd Schema".job_status;
RESET ROLE;
SELECT "odd Schema".job_revoke('jobq_ext_worker', 'default', 'work');
SELECT pg_catalog.has_schema_privilege('jobq_ext_worker', 'odd Schema', 'USAGE');
DROP ROLE jobq_ext_worker;
RESET search_path;
SELECT count(*) FROM public.job;

-- it cannot be moved
ALTER EXTENSION jobq SET SCHEMA public;

-- without it, its functions are gone; made again elsewhere, the same session goes on with new tables
DROP EXTENSION jobq;
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'odd Schema';
DROP TABLE job, job_lease;
DROP SEQUENCE job_id_seq;
DROP FUNCTION job_visible, job_outcome_name;
DROP OPERATOR public.= (bigint, bigint);
DROP FUNCTION not_equal;
CREATE EXTENSION jobq;
SELECT job_submit('again', queue => 'new') AS id;
SELECT kind, attempt FROM job_claim('new');
SELECT queue FROM job_queue_status;
DROP EXTENSION jobq;
CREATE EXTENSION jobq SCHEMA "odd Schema";
SELECT "odd Schema".job_submit('once more') AS id;
BEGIN;
DROP EXTENSION jobq;
CREATE EXTENSION jobq;
SELECT job_submit('in between') AS id;
SELECT kind FROM job_claim();
ROLLBACK;
SELECT kind FROM "odd Schema".job_claim();
SELECT pg_catalog.count(*) FROM "odd Schema".job_status;

-- what is read anew at each call looks up names in pg_catalog only
SELECT p.oid::regprocedure FROM pg_proc p JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
    JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'jobq'
    JOIN pg_language l ON l.oid = p.prolang AND l.lanname IN ('sql', 'plpgsql')
WHERE p.prosqlbody IS NULL AND NOT 'search_path=pg_catalog, pg_temp' = ANY (coalesce(p.proconfig, '{}'));

-- and nothing in it depends on what others had made in its schema before
DROP EXTENSION jobq;
CREATE FUNCTION "odd Schema".format(text, int, bigint) RETURNS text LANGUAGE sql AS 'SELECT ''another''';
CREATE FUNCTION "odd Schema".multiply(bigint, interval) RETURNS interval LANGUAGE sql AS 'SELECT $2';
CREATE OPERATOR "odd Schema".* (LEFTARG = bigint, RIGHTARG = interval, FUNCTION = "odd Schema".multiply);
CREATE EXTENSION jobq SCHEMA "odd Schema";
DROP OPERATOR "odd Schema".* (bigint, interval);
DROP FUNCTION "odd Schema".multiply, "odd Schema".format;
SELECT "odd Schema".job_submit('once more') AS id;

-- a renamed schema
ALTER SCHEMA "odd Schema" RENAME TO odder;
SELECT odder.job_submit('renamed', parent => 1) AS id;
SELECT kind, state FROM odder.job_status ORDER BY id;

\c :home
DROP DATABASE jobq_regress_extension;
