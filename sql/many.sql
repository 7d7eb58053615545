-- job_cancel_many, job_retry_many, job_hold_many, job_unhold_many: one pass over many jobs, what is wrong with one beside its id
\set VERBOSITY terse
CREATE FUNCTION pg_temp.show(queue text) RETURNS TABLE (kind text, state text, held boolean, error text) LANGUAGE sql AS
    $$ SELECT kind, state, held, error FROM job_status s WHERE s.queue = show.queue ORDER BY id $$;
CREATE FUNCTION pg_temp.ids(VARIADIC kinds text[]) RETURNS bigint[] LANGUAGE sql AS
    $$ SELECT array_agg(s.id ORDER BY array_position(kinds, s.kind)) FROM job_status s WHERE s.queue = 'acts' AND s.kind = ANY (kinds) $$;

SELECT count(*) FROM job_submit_many('[{"kind": "ready", "queue": "acts"}, {"kind": "scheduled", "queue": "acts", "run_at": "2999-01-01"},
    {"kind": "up", "name": "up", "queue": "acts", "run_at": "2999-01-01"}, {"kind": "down", "name": "down", "queue": "acts", "depends_on": ["up"]},
    {"kind": "after down", "queue": "acts", "depends_on": ["down"], "trigger_rule": "all_done"}, {"kind": "runs", "queue": "acts", "priority": 9},
    {"kind": "done", "queue": "acts", "priority": 10}]');
SELECT job_complete(job_id, token) FROM job_claim('acts');
SELECT kind FROM job_claim('acts', 'w', lease => '1 day');

-- hold and unhold: in the order of the argument; a job that cannot be held does not keep the others from it
SELECT s.kind, m.changed, regexp_replace(m.problem, '\d+', 'N') AS problem
FROM job_hold_many(pg_temp.ids('up', 'runs', 'down', 'done', 'ready') || 0::bigint) WITH ORDINALITY m LEFT JOIN job_status s ON s.id = m.job_id ORDER BY m.ordinality;
SELECT * FROM pg_temp.show('acts');
SELECT s.kind, m.changed, m.problem FROM job_hold_many(pg_temp.ids('ready', 'scheduled')) m JOIN job_status s ON s.id = m.job_id ORDER BY s.id;
SELECT s.kind, m.changed, regexp_replace(m.problem, '\d+', 'N') AS problem
FROM job_unhold_many(pg_temp.ids('up', 'down', 'ready', 'scheduled', 'runs', 'done')) m JOIN job_status s ON s.id = m.job_id ORDER BY s.id;
SELECT * FROM pg_temp.show('acts');

-- cancel: one that is decided by what became of another argument has not changed by this; one that runs is asked to stop
SELECT s.kind, m.changed, m.problem FROM job_cancel_many(pg_temp.ids('down', 'up', 'runs', 'done', 'scheduled'), 'tenant has left') m JOIN job_status s ON s.id = m.job_id ORDER BY s.id;
SELECT * FROM pg_temp.show('acts');
SELECT cancel_requested FROM job_status WHERE kind = 'runs';
SELECT s.kind, m.changed FROM job_cancel_many(pg_temp.ids('up', 'runs')) m JOIN job_status s ON s.id = m.job_id ORDER BY s.id;

-- retry: what was not run because of one that is retried is opened with it
SELECT s.kind, m.changed, regexp_replace(m.problem, '\d+', 'N') AS problem
FROM job_retry_many(pg_temp.ids('down', 'done', 'scheduled', 'up', 'ready')) m JOIN job_status s ON s.id = m.job_id ORDER BY s.id;
SELECT * FROM pg_temp.show('acts');
SELECT regexp_replace(problem, '\d+', 'N') AS problem FROM job_retry_many(pg_temp.ids('done') || -1::bigint);

-- what a wide job waits for, cancelled in one call: more than are inserted many at once
SELECT count(*) FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'w' || n, 'queue', 'acts_wide', 'name', n::text)) FROM generate_series(1, 300) n)
    || (SELECT jsonb_agg(jsonb_build_object('kind', 'c' || n, 'queue', 'acts_wide', 'depends_on', jsonb_build_array('1'), 'trigger_rule', 'all_done')) FROM generate_series(1, 100) n)
    || jsonb_build_array(jsonb_build_object('kind', 'join', 'queue', 'acts_wide', 'depends_on', (SELECT jsonb_agg(n::text) FROM generate_series(1, 300) n))));
SELECT changed, problem, count(*) FROM job_cancel_many(ARRAY(SELECT id FROM job_status WHERE queue = 'acts_wide' AND kind <> 'join' ORDER BY id DESC)) GROUP BY 1, 2;
SELECT id AS joined FROM job_status WHERE queue = 'acts_wide' AND kind = 'join' \gset
CALL job_wait(:joined, '1 min');
SELECT state, count(*) FROM job_status WHERE queue = 'acts_wide' GROUP BY 1 ORDER BY 1;

-- none; bad input
SELECT * FROM job_cancel_many('{}');
SELECT * FROM job_cancel_many(NULL);
SELECT * FROM job_hold_many('{1,NULL}');
SELECT * FROM job_unhold_many('{{1},{2}}');
SELECT * FROM job_retry_many('{7,8,7}');
BEGIN READ ONLY;
SELECT * FROM job_cancel_many('{}');
ROLLBACK;

-- by one who may not: others' jobs do not exist for the submitter, and are seen but not touched by the reader
CREATE ROLE jobq_many;
CREATE ROLE jobq_many_reader;
SELECT job_grant('jobq_many', 'acts', 'submit'), job_grant('jobq_many_reader', 'acts', 'read'), job_grant('jobq_many_reader', 'other', 'operate');
SELECT (pg_temp.ids('ready'))[1] AS others \gset
SET ROLE jobq_many;
SELECT job_submit('own', queue => 'acts', run_at => '2999-01-01') AS own \gset
SELECT m.job_id = :own AS own, m.changed, regexp_replace(m.problem, '\d+', 'N') AS problem FROM job_hold_many(ARRAY[:others, :own]) m;
SELECT m.job_id = :own AS own, m.changed, regexp_replace(m.problem, '\d+', 'N') AS problem FROM job_unhold_many(ARRAY[:own, :others]) m;
SELECT m.job_id = :own AS own, m.changed, regexp_replace(m.problem, '\d+', 'N') AS problem FROM job_cancel_many(ARRAY[:others, :own]) m;
SELECT * FROM job_retry_many(ARRAY[:own]);
SET ROLE jobq_many_reader;
SELECT m.changed, m.problem FROM job_hold_many(ARRAY[:others]) m;
SELECT m.changed, m.problem FROM job_retry_many(ARRAY[:own]) m;
RESET ROLE;
SELECT job_revoke('jobq_many', 'acts', 'submit'), job_revoke('jobq_many_reader', 'acts', 'read'), job_revoke('jobq_many_reader', 'other', 'operate');
DROP ROLE jobq_many, jobq_many_reader;
