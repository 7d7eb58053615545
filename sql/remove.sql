-- job_delete, job_delete_many, job_purge: what goes, what is kept, and who may
\set VERBOSITY sqlstate
CREATE FUNCTION pg_temp.done(kind text, queue text, depends_on bigint[] DEFAULT NULL, trigger_rule text DEFAULT 'all_done') RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    id bigint := job_submit(kind, queue => queue, priority => 100, depends_on => depends_on, trigger_rule => trigger_rule);
BEGIN
    PERFORM job_complete(job_id, token) FROM job_claim(queue);
    RETURN id;
END $$;
-- what is left of jobs
CREATE FUNCTION pg_temp.rows_of(ids bigint[]) RETURNS TABLE (jobs bigint, edges bigint, attempts bigint, logs bigint) LANGUAGE sql AS $$
    SELECT (SELECT count(*) FROM job WHERE id = ANY (ids)), (SELECT count(*) FROM job_dependency WHERE upstream = ANY (ids) OR downstream = ANY (ids)),
        (SELECT count(*) FROM job_attempt WHERE job_id = ANY (ids)), (SELECT count(*) FROM job_log WHERE job_id = ANY (ids)) $$;

-- a job goes with its edges and attempts
SELECT pg_temp.done('parent', 'del') AS parent \gset
SELECT job_submit('job', queue => 'del', depends_on => ARRAY[:parent], max_attempts => 2) AS job \gset
SELECT job_fail(job_id, token, 'no', retry_in => '0') FROM job_claim('del');
SELECT job_id, token FROM job_claim('del') \gset
SELECT job_log(:job_id, :token, 'it fails');
SELECT job_fail(:job_id, :token, 'no');
SELECT pg_temp.done('child', 'del', ARRAY[:job::bigint]) AS child \gset
SELECT * FROM pg_temp.rows_of(ARRAY[:job]);
SELECT job_delete(:job);
SELECT * FROM pg_temp.rows_of(ARRAY[:job]);
SELECT kind, state, depends_on FROM job_status WHERE queue = 'del' ORDER BY id;
SELECT job_delete(:job);
\set VERBOSITY terse
SELECT job_delete(NULL);

-- not one that is undecided, or that an undecided job needs
SELECT job_submit('ready', queue => 'del') AS ready \gset
SELECT job_submit('waiting', queue => 'del', depends_on => ARRAY[:ready]) AS waiting \gset
SELECT job_submit('needs parent', queue => 'del', depends_on => ARRAY[:parent], run_at => '2999-01-01') AS needs \gset
\set VERBOSITY sqlstate
SELECT job_delete(:ready);
SELECT job_delete(:parent);
\set VERBOSITY terse
SELECT changed, problem = CASE job_id WHEN :parent THEN format('cannot delete job %s, which an undecided job needs', :parent)
    WHEN :waiting THEN format('cannot delete job %s in state "waiting"', :waiting) END AS said
FROM job_delete_many(ARRAY[:waiting, :parent, :child]);
\set VERBOSITY sqlstate
SELECT job_delete_many(ARRAY[:waiting, :waiting]);
\set VERBOSITY terse
SELECT changed, problem FROM job_delete_many(ARRAY[-1]);
SELECT * FROM job_delete_many('{}');
SELECT job_delete_many(NULL);
SELECT job_delete_many(ARRAY[1, NULL]);
SELECT job_delete_many('{{1}}');
SELECT job_cancel(:needs), job_delete(:needs), job_delete(:parent);

-- a transaction that deletes a job sees it gone, and may take that back
SELECT pg_temp.done('back', 'del_back') AS back \gset
BEGIN;
SELECT job_delete(:back);
SAVEPOINT s;
\set VERBOSITY sqlstate
SELECT job_submit('child', depends_on => ARRAY[:back]);
\set VERBOSITY terse
ROLLBACK TO s;
SELECT count(*) FROM job_status WHERE id = :back;
ROLLBACK;
SELECT job_delete(:back);

-- also in a transaction whose snapshot is older than the job, or than what needs it
SELECT pg_temp.done('old', 'del_back') AS old \gset
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT job_delete(:old);
COMMIT;

-- foreign keys: RESTRICT and NO ACTION keep the job, CASCADE and SET NULL act
CREATE TABLE restricts (job_id bigint REFERENCES job ON DELETE RESTRICT);
CREATE TABLE cascades (job_id bigint REFERENCES job ON DELETE CASCADE);
CREATE TABLE nulls (job_id bigint REFERENCES job ON DELETE SET NULL);
SELECT pg_temp.done('restricts', 'fk') AS restricts, pg_temp.done('cascades', 'fk') AS cascades, pg_temp.done('nulls', 'fk') AS nulls, pg_temp.done('free', 'fk') AS free \gset
INSERT INTO restricts VALUES (:restricts);
INSERT INTO cascades VALUES (:cascades);
INSERT INTO nulls VALUES (:nulls);
SELECT changed, problem LIKE '%"restricts_job_id_fkey"%' AS said FROM job_delete_many(ARRAY[:restricts]);
SELECT job_purge('fk', '0');
SELECT kind FROM job WHERE queue = 'fk';
SELECT count(*) FROM cascades;
SELECT count(*), count(job_id) FROM nulls;
SELECT job_purge('fk', '0');
DROP TABLE restricts, cascades, nulls;
SELECT job_purge('fk', '0'), job_purge('fk', '0');

-- job_purge: by the age, by the settings of the queue, and no more than it was told
SELECT count(pg_temp.done('a' || n, 'purge')) FROM generate_series(1, 25) n;
SELECT job_submit('fails', queue => 'purge') AS fails \gset
SELECT job_fail(job_id, token, 'no', retry => false) FROM job_claim('purge');
SELECT job_submit('open', queue => 'purge') AS open \gset
SELECT job_purge('purge'), job_purge('purge', '1 hour');
SELECT job_purge('purge', '0', 10), job_purge('other', '0');
SELECT state, count(*) FROM job_status WHERE queue = 'purge' GROUP BY state ORDER BY state;
SELECT job_queue_set('purge', retention => '100 years', retention_failed => '0');
-- the background worker may be first, or just be at it
DO $$
BEGIN
    FOR i IN 1 .. 1200 LOOP
        PERFORM job_purge('purge');
        EXIT WHEN NOT EXISTS (SELECT FROM job_status WHERE queue = 'purge' AND state = 'failed');
        PERFORM pg_sleep(0.05);
    END LOOP;
END $$;
SELECT state, count(*) FROM job_status WHERE queue = 'purge' GROUP BY state ORDER BY state;
SELECT job_purge('purge', '0', 0);
SELECT job_purge('purge', '0', NULL);
SELECT job_purge('purge', '-1 s');
SELECT job_purge('bad name');
SELECT job_purge('purge', '0');
SELECT state, count(*) FROM job_status WHERE queue = 'purge' GROUP BY state;

-- a job that is opened again counts what was removed upstream as succeeded
SELECT pg_temp.done('p1', 'reopen') AS p1, pg_temp.done('p2', 'reopen') AS p2, job_submit('p3', queue => 'reopen', run_at => '2999-01-01') AS p3 \gset
SELECT job_submit('needs two of three', queue => 'reopen', depends_on => ARRAY[:p1, :p2, :p3], trigger_rule => 'quorum', quorum => 3) AS q \gset
SELECT job_cancel(:p3);
SELECT state FROM job_status WHERE id = :q;
SELECT job_delete(:p1), job_retry(:p3);
SELECT state FROM job_status WHERE id = :q;
SELECT undecided, pending, hits, violated, hurt FROM job_waiting WHERE job_id = :q;
SELECT job_cancel(:q), job_cancel(:p3), job_delete(:q);

-- settings
SELECT job_queue_set('del', retention => '-1 s');
SELECT job_queue_set('del', retention_failed => '300 years');
SHOW jobq.retention;
SHOW jobq.retention_failed;

-- who may: operate
CREATE ROLE regress_jobq_operates;
CREATE ROLE regress_jobq_submits;
SELECT job_grant('regress_jobq_operates', 'mine', 'operate'), job_grant('regress_jobq_submits', '*', 'submit');
SELECT pg_temp.done('mine', 'mine') AS mine, pg_temp.done('second', 'mine') AS second, pg_temp.done('theirs', 'theirs') AS theirs \gset
SET ROLE regress_jobq_submits;
SELECT job_delete(:mine);
RESET ROLE;
SET ROLE regress_jobq_operates;
\set VERBOSITY sqlstate
SELECT job_delete(:theirs);
\set VERBOSITY terse
SELECT job_purge('theirs', '0');
SELECT changed, problem = format('job %s does not exist', :theirs) AS hidden FROM job_delete_many(ARRAY[:theirs]);
SELECT job_delete(:mine), job_purge(older_than => '0');
RESET ROLE;
SELECT kind FROM job WHERE queue IN ('mine', 'theirs');
SELECT job_revoke('regress_jobq_operates', 'mine', 'operate'), job_revoke('regress_jobq_submits', '*', 'submit');
DROP ROLE regress_jobq_operates, regress_jobq_submits;

-- the triggers of a table that a foreign key changes would run as the extension's owner
CREATE TABLE audited (job_id bigint REFERENCES job ON DELETE CASCADE);
CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER audit AFTER DELETE ON audited FOR EACH ROW EXECUTE FUNCTION audit();
SELECT pg_temp.done('audited', 'audited') > 0 AS done;
SELECT job_purge('audited', '0');
ALTER TABLE audited DISABLE TRIGGER audit;
SELECT job_purge('audited', '0');
DROP TABLE audited;
DROP FUNCTION audit();
