-- An index finds jobs by their tags: for whom, in which queries, and whatever became of the row
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE ROLE jobq_tags_read;
CREATE ROLE jobq_tags_submit;
CREATE ROLE jobq_tags_none;
SELECT job_grant('jobq_tags_read', 'tg_mail', 'read'), job_grant('jobq_tags_submit', 'tg_mail', 'submit'), job_grant('jobq_tags_none', 'tg_none', 'read');
-- the smaller the tables are, the less the planner likes an index
SET enable_seqscan = off;
SET jit = off;
SET enable_indexscan = off;
SELECT q, (SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'k', 'queue', q, 'name', i::text,
    'tags', CASE WHEN i % 4 > 0 THEN jsonb_build_object('tg', i % 10, 'n', jsonb_build_array(i)) END)) FROM generate_series(1, 400) i)))
FROM unnest(ARRAY['tg_mail', 'tg_other']) q;
CREATE FUNCTION pg_temp.find(condition text, role text DEFAULT 'none') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    query text := 'SELECT count(*) || coalesce('': '' || string_agg(CASE WHEN queue = ''tg_mail'' THEN name END, '' '' ORDER BY id) FILTER (WHERE name::int < 30), '''') FROM job_status s WHERE ' || condition;
    line text;
    served boolean := false;
    result text;
BEGIN
    PERFORM set_config('role', role, true);
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        served := served OR line LIKE '%Bitmap Index Scan on job_tags%';
    END LOOP;
    EXECUTE query INTO result;
    RESET role;
    RETURN format('%s, %s', CASE WHEN served THEN 'index' ELSE 'no index' END, result);
END $$;

-- for whom
SELECT role, pg_temp.find($$queue = 'tg_mail' AND tags @> '{"tg": 7}'$$, role), pg_temp.find($$tags @> '{"tg": 7}'$$, role)
FROM unnest(ARRAY['none', 'jobq_tags_read', 'jobq_tags_submit', 'jobq_tags_none']) role;
-- the condition is not in the way of others, nor given to them
SELECT pg_temp.find(c) FROM unnest(ARRAY[
    $$tags @> '{"tg": 7}' AND state = 'ready' AND NOT held$$,
    $$tags @> '{"tg": 7}' AND tags @> '{"n": [17]}'$$,
    $$(tags @> '{"tg": 7}' AND kind = 'k') AND (tags @> '{"n": [17]}' AND id > 0)$$,
    $$tags @> '{"n": [17, 18]}'$$,
    $$tags @> jsonb_build_object('tg', 3 + 4)$$,
    $$tags @> NULL AND queue = 'tg_mail'$$,
    $$tags @> '{}' AND tags @> '{"tg": 7}' AND queue = 'tg_mail'$$,
    -- these find no index, but what they ask for
    $$(tags @> '{"tg": 7}' OR name = '1') AND queue = 'tg_mail'$$,
    $$NOT tags @> '{"tg": 7}' AND queue = 'tg_mail'$$,
    $$'{"tg": 7}' <@ tags AND queue = 'tg_mail'$$,
    $$tags @> (SELECT '{"tg": 7}'::jsonb) AND queue = 'tg_mail'$$,
    $$tags @> args AND queue = 'tg_mail'$$,
    $$tags @> jsonb_build_object('tg', 7 + floor(random())) AND queue = 'tg_mail'$$]) c;

-- in which queries
CREATE FUNCTION pg_temp.plan(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    line text;
    scans int := 0;
BEGIN
    FOR line IN EXECUTE 'EXPLAIN (COSTS OFF) ' || query LOOP
        scans := scans + (line LIKE '%Bitmap Index Scan on job_tags%')::int;
    END LOOP;
    RETURN scans;
END $$;
SET ROLE jobq_tags_read;
SELECT cardinality(ARRAY(SELECT id FROM job_status WHERE queue = 'tg_mail' AND tags @> '{"tg": 7}'));
CREATE TEMP VIEW tg_view AS SELECT id, name FROM job_status WHERE tags @> '{"tg": 7}';
CREATE TEMP TABLE tg (t jsonb);
INSERT INTO tg VALUES ('{"n": [1]}'), ('{"n": [2]}'), ('{"n": [4]}'), ('{"n": [9999]}');
PREPARE tg_one(jsonb) AS SELECT count(*) FROM job_status WHERE tags @> $1;
RESET ROLE;
CREATE TEMP TABLE queries (query text);
INSERT INTO queries VALUES
    ($$SELECT count(*) FROM unnest(ARRAY(SELECT id FROM job_status WHERE queue = 'tg_mail' AND tags @> '{"tg": 7}'))$$),
    ($$SELECT count(*) FROM tg_view$$),
    ($$WITH v AS MATERIALIZED (SELECT id FROM job_status WHERE tags @> '{"tg": 7}') SELECT count(*) FROM v$$),
    ($$SELECT count(*) FROM (SELECT id FROM job_status WHERE tags @> '{"tg": 7}' UNION ALL SELECT id FROM job_status WHERE tags @> '{"tg": 9}') v$$),
    ($$SELECT count(*) FROM job_status a, job_status b WHERE a.tags @> '{"tg": 7}' AND b.tags @> '{"n": [17]}'$$),
    ($$SELECT string_agg((SELECT name FROM job_status s WHERE s.tags @> tg.t), ' ' ORDER BY t) FROM tg$$),
    ($$SELECT string_agg(t::text, ' ' ORDER BY t) FROM tg WHERE EXISTS (SELECT FROM job_status s WHERE s.tags @> tg.t)$$),
    ($$SELECT string_agg(v.name, ' ' ORDER BY t) FROM tg, LATERAL (SELECT name FROM job_status s WHERE s.tags @> tg.t) v$$),
    ($$SELECT count(*), count(s.id) FROM tg LEFT JOIN job_status s ON s.name = t #>> '{n,0}' WHERE s.tags @> '{"n": [1]}'$$),
    ($$SELECT count(*), count(s.id) FROM tg FULL JOIN job_status s ON s.name = t #>> '{n,0}' WHERE s.tags @> '{"n": [1]}'$$),
    ($$SELECT count(*), count(s.id) FROM tg LEFT JOIN job_status s ON s.tags @> '{"n": [1]}' AND s.name = t #>> '{n,0}'$$),
    ($$SELECT count(*) FROM tg JOIN job_status s ON s.tags @> tg.t$$),
    ($$SELECT count(*) FROM tg, job_status s WHERE s.tags @> tg.t$$),
    ($$SELECT count(*) FROM (SELECT * FROM job_status LIMIT 5) s WHERE tags @> '{"n": [17]}' AND id < 0$$),
    ($$SELECT kind, count(*) FROM job_status WHERE tags @> '{"tg": 7}' GROUP BY kind HAVING count(*) > 1$$),
    ($$SELECT name FROM job_status WHERE tags @> '{"tg": 7}' ORDER BY id DESC LIMIT 1$$);
CREATE FUNCTION pg_temp.run(query text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    result text;
    row record;
BEGIN
    FOR row IN EXECUTE query LOOP
        result := concat_ws(' ', result, row::text);
    END LOOP;
    RETURN result;
END $$;
SET ROLE jobq_tags_read;
GRANT SELECT ON tg, tg_view TO PUBLIC;
RESET ROLE;
GRANT SELECT ON queries TO PUBLIC;
SET ROLE jobq_tags_read;
SELECT pg_temp.plan(query) AS scans, pg_temp.run(query) AS result, query FROM queries;
-- prepared, with a plan of its own and one for all; in a function
SET plan_cache_mode = force_custom_plan;
SELECT pg_temp.plan('EXECUTE tg_one(''{"tg": 7}'')');
EXECUTE tg_one('{"tg": 7}');
SET plan_cache_mode = force_generic_plan;
SELECT pg_temp.plan('EXECUTE tg_one(''{"tg": 7}'')');
EXECUTE tg_one('{"tg": 7}');
EXECUTE tg_one('{"tg": 8}');
EXECUTE tg_one(NULL);
RESET plan_cache_mode;
SELECT pg_temp.plan('DECLARE c CURSOR FOR SELECT id FROM job_status WHERE tags @> ''{"tg": 7}'''), pg_temp.plan('CREATE TEMP TABLE x AS SELECT id FROM job_status WHERE tags @> ''{"tg": 7}''');
RESET ROLE;

-- what becomes of a row
CREATE FUNCTION pg_temp.all_tags() RETURNS text LANGUAGE sql AS $$ SELECT concat_ws(' / ', pg_temp.find('tags @> ''{"tg": "a"}'''), pg_temp.find('tags @> ''{"tg": "b"}''')) $$;
SELECT job_submit('k', queue => 'tg_row', tags => '{"tg": "a"}', name => '1') AS a \gset
SELECT pg_temp.all_tags();
SELECT job_change(:a, tags => '{"tg": "b"}');
SELECT pg_temp.all_tags();
BEGIN;
SELECT job_change(:a, tags => '{"tg": "a"}');
SELECT pg_temp.all_tags();
ROLLBACK;
SELECT pg_temp.all_tags();
BEGIN;
SAVEPOINT s;
SELECT job_change(:a, tags => '{"tg": ["a"]}');
ROLLBACK TO s;
SELECT job_change(:a, tags => '{"tg": "a"}');
COMMIT;
SELECT pg_temp.all_tags();
-- tags where there were none, and large ones
SELECT job_submit('k', queue => 'tg_row', name => '2') AS b \gset
SELECT job_change(:b, tags => '{"tg": "b"}');
SELECT job_submit('k', queue => 'tg_row', name => '3', tags => jsonb_build_object('tg', 'b', 'x', (SELECT jsonb_agg(md5(i::text)) FROM generate_series(1, 5000) i))) AS c \gset
SELECT job_submit('k', jsonb_build_object('a', repeat('x', 5000)), 'tg_row', name => '4', tags => jsonb_build_object('tg', 'b', 'x', repeat('y', 3000))) AS d \gset
SELECT pg_temp.all_tags();
-- an end of a job is a HOT update, whatever its tags; a change of tags is none
CREATE TEMP VIEW updates AS SELECT n_tup_hot_upd AS hot, n_tup_upd AS updates FROM pg_stat_xact_user_tables WHERE relid = 'job'::regclass;
BEGIN;
SELECT hot, updates FROM updates \gset
SELECT count(job_complete(job_id, token, '{"r": 1}')) FROM job_claim('tg_row', max_jobs => 10);
SELECT hot - :hot, updates - :updates FROM updates;
SELECT job_submit('k', queue => 'tg_row', name => '5', tags => '{"tg": "a"}') AS e \gset
SELECT job_change(:e, priority => 3);
SELECT hot - :hot, updates - :updates FROM updates;
SELECT job_change(:e, tags => '{"tg": "b"}');
SELECT hot - :hot, updates - :updates FROM updates;
COMMIT;
SELECT pg_temp.all_tags();
-- a debounced submission brings its own
SELECT job_submit('k', queue => 'tg_row', name => '6', unique_key => 'k', tags => '{"tg": "a"}') AS f \gset
SELECT job_submit('k', queue => 'tg_row', name => '6', unique_key => 'k', on_conflict => 'replace', tags => '{"tg": "b"}') = :f;
SELECT pg_temp.all_tags();
-- removed, and vacuumed
SELECT job_cancel(:e), job_cancel(:f);
SELECT count(job_delete(id)) FROM job_status WHERE queue = 'tg_row' AND tags @> '{"tg": "b"}';
SELECT pg_temp.all_tags();
VACUUM job;
SELECT pg_temp.all_tags();

-- made anew, and another one beside it
SELECT count(job_submit('k', queue => 'tg_row', tags => '{"tg": "b"}', name => i::text)) FROM generate_series(10, 12) i;
REINDEX INDEX job_tags;
SELECT job_submit('k', queue => 'tg_row', tags => '{"tg": "b"}', name => '13') AS g \gset
REINDEX INDEX CONCURRENTLY job_tags;
SELECT job_submit('k', queue => 'tg_row', tags => '{"tg": "b"}', name => '14') AS h \gset
SELECT pg_temp.all_tags();
CREATE INDEX CONCURRENTLY job_tags_2 ON job USING gin (tags) WHERE tags IS NOT NULL;
SELECT job_submit('k', queue => 'tg_row', tags => '{"tg": "b"}', name => '15') AS i \gset
SELECT count(job_submit('k', queue => 'tg_row')) FROM generate_series(1, 3) i;
SELECT pg_temp.all_tags();
BEGIN;
DROP INDEX job_tags;
SELECT pg_temp.all_tags();
ROLLBACK;
DROP INDEX job_tags_2;
SELECT pg_temp.all_tags();
-- one of other rows is not ours
BEGIN;
CREATE INDEX job_tags_3 ON job USING gin (tags) WHERE tags IS NULL;
SELECT job_submit('k', queue => 'tg_row');
ROLLBACK;
BEGIN;
CREATE INDEX job_tags_3 ON job USING gin (args) WHERE tags IS NOT NULL;
SELECT job_submit('k', queue => 'tg_row');
ROLLBACK;
-- without it there is nothing to find, and all goes on
BEGIN;
DROP INDEX job_tags;
SELECT job_submit('k', queue => 'tg_row', tags => '{"tg": "b"}', name => '16') IS NOT NULL;
SELECT pg_temp.all_tags();
ROLLBACK;

-- many at once, as the role that may
SELECT job_grant('jobq_tags_submit', 'tg_mail', 'operate');
SET ROLE jobq_tags_submit;
SELECT changed, problem, count(*) FROM job_cancel_many(ARRAY(SELECT id FROM job_status WHERE queue = 'tg_mail' AND tags @> '{"tg": 7}')) GROUP BY changed, problem;
RESET ROLE;
SELECT queue, state, count(*) FROM job_status WHERE tags @> '{"tg": 7}' GROUP BY queue, state ORDER BY queue, state;
SELECT count(job_cancel(id)) FROM job_status WHERE queue LIKE 'tg\_%' AND finished_at IS NULL;
DELETE FROM job_privilege WHERE queue LIKE 'tg\_%';
DROP OWNED BY jobq_tags_read, jobq_tags_submit, jobq_tags_none;
DROP ROLE jobq_tags_read, jobq_tags_submit, jobq_tags_none;

-- what MERGE joins by is no condition of WHERE
CREATE TEMP TABLE merged (id bigint);
SELECT count(job_submit('m', queue => 'tags_merge', tags => t)) FROM (VALUES ('{"m": 1}'::jsonb), ('{"m": 2}'), (NULL)) v (t);
MERGE INTO merged t USING (SELECT id, tags FROM job_status WHERE queue = 'tags_merge') s ON t.id = s.id AND s.tags @> '{"m": 1}'
    WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT VALUES (s.id);
MERGE INTO merged t USING job_status s ON t.id = s.id AND s.tags @> '{"m": 1}' AND s.queue = 'tags_merge'
    WHEN MATCHED THEN DO NOTHING WHEN NOT MATCHED THEN INSERT VALUES (s.id);
SELECT count(DISTINCT m.id) = (SELECT count(*) FROM job_status) AS all_of_them FROM merged m;
