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

-- What a referencing table makes run has its owner's rights, whoever removes the job.  They are all called as_owner.
CREATE ROLE regress_jobq_fk1;
CREATE ROLE regress_jobq_fk2;
CREATE SCHEMA fk;
GRANT ALL ON SCHEMA fk TO regress_jobq_fk1, regress_jobq_fk2;
GRANT REFERENCES ON job TO regress_jobq_fk1, regress_jobq_fk2;
SELECT job_grant('regress_jobq_fk1', 'trusts', 'submit');
CREATE FUNCTION fk.as_owner(what text DEFAULT '', n bigint DEFAULT 0) RETURNS bigint IMMUTABLE LANGUAGE plpgsql AS $$
BEGIN
    IF current_user <> 'regress_jobq_fk1' THEN
        RAISE '% runs as %', what, current_user;
    END IF;
    RETURN coalesce(n, -1);
END $$;
SET ROLE regress_jobq_fk1;
CREATE TABLE fk.ran (what text, who text);
-- the triggers of tables that are named for them
CREATE FUNCTION fk.note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO fk.ran VALUES (concat_ws(' ', lower(TG_WHEN), lower(TG_OP), lower(TG_LEVEL), 'on', TG_TABLE_NAME), current_user);
    RETURN coalesce(NEW, OLD);
END $$;
CREATE TABLE fk.cascades (job_id bigint REFERENCES job ON DELETE CASCADE, id int UNIQUE);
CREATE TABLE fk.chained (id int REFERENCES fk.cascades (id) ON DELETE SET NULL);
CREATE TABLE fk.by_rule (id int);
CREATE RULE by_rule AS ON DELETE TO fk.cascades DO ALSO INSERT INTO fk.by_rule VALUES (fk.as_owner('a rule'));
CREATE TRIGGER note BEFORE DELETE ON fk.cascades FOR EACH ROW EXECUTE FUNCTION fk.note();
CREATE TRIGGER notes BEFORE DELETE ON fk.cascades EXECUTE FUNCTION fk.note();
CREATE TRIGGER noted AFTER DELETE ON fk.cascades FOR EACH ROW WHEN (fk.as_owner('a condition') = 0) EXECUTE FUNCTION fk.note();
CREATE TRIGGER notess AFTER DELETE ON fk.cascades REFERENCING OLD TABLE AS old EXECUTE FUNCTION fk.note();
CREATE TRIGGER note AFTER UPDATE ON fk.chained FOR EACH ROW EXECUTE FUNCTION fk.note();
CREATE TRIGGER note AFTER INSERT ON fk.by_rule FOR EACH ROW EXECUTE FUNCTION fk.note();
CREATE DOMAIN fk.checked AS bigint CHECK (fk.as_owner('a domain', VALUE) <> 0);
CREATE TABLE fk.nulls (
    job_id fk.checked REFERENCES job ON DELETE SET NULL CHECK (fk.as_owner('a check', job_id) <> 0),
    generated bigint GENERATED ALWAYS AS (fk.as_owner('a generated column', job_id)) STORED,
    EXCLUDE USING btree ((fk.as_owner('an exclusion', job_id)) WITH =) DEFERRABLE
);
CREATE INDEX ON fk.nulls (fk.as_owner('an index', job_id)) WHERE fk.as_owner('a predicate', job_id) <> 0;
ALTER TABLE fk.nulls ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY policy ON fk.nulls USING (fk.as_owner('a policy') = 0);
CREATE TABLE fk.defaults (job_id bigint DEFAULT fk.as_owner('a default', NULL) + NULL REFERENCES job ON DELETE SET DEFAULT);
CREATE TABLE fk.parts (job_id bigint REFERENCES job ON DELETE CASCADE) PARTITION BY HASH (job_id);
CREATE TABLE fk.part PARTITION OF fk.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
CREATE TRIGGER note AFTER DELETE ON fk.part FOR EACH ROW EXECUTE FUNCTION fk.note();
RESET ROLE;
CREATE FUNCTION pg_temp.reference(id bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    SET LOCAL ROLE regress_jobq_fk1;
    TRUNCATE fk.ran;
    INSERT INTO fk.cascades VALUES (id, 1);
    INSERT INTO fk.chained VALUES (1);
    INSERT INTO fk.nulls VALUES (id);
    INSERT INTO fk.defaults VALUES (id);
    INSERT INTO fk.parts VALUES (id);
    RESET ROLE;
END $$;
SELECT pg_temp.done('a', 'trusts') AS a, pg_temp.done('b', 'trusts') AS b, pg_temp.done('c', 'trusts') AS c \gset
SELECT pg_temp.reference(:a);
SELECT job_delete(:a);
SELECT what, who, count(*) FROM fk.ran GROUP BY what, who ORDER BY what COLLATE "C";
SELECT (SELECT count(*) FROM fk.cascades), (SELECT count(id) FROM fk.chained), (SELECT count(job_id) FROM fk.nulls), (SELECT count(job_id) FROM fk.defaults), (SELECT count(*) FROM fk.parts);
-- also that of a transaction whose snapshot is older than what it runs
TRUNCATE fk.chained, fk.nulls, fk.defaults;
SELECT pg_temp.reference(:b);
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT job_purge('trusts', '0', 1);
SELECT DISTINCT who FROM fk.ran;
ROLLBACK;
-- an exclusion constraint that is broken keeps the job, and its expression runs again when that is looked at
SET ROLE regress_jobq_fk1;
INSERT INTO fk.nulls VALUES (NULL);
RESET ROLE;
SELECT changed, problem FROM job_delete_many(ARRAY[:b]);
DROP TABLE fk.nulls, fk.defaults, fk.parts, fk.chained;

-- it cannot leave that role, nor leave something in the session, nor put something off; what it defines then is no other
SET ROLE regress_jobq_fk1;
DROP RULE by_rule ON fk.cascades;
CREATE TABLE fk.later (job_id bigint REFERENCES job ON DELETE CASCADE);
CREATE FUNCTION fk.break_out() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    command text;
BEGIN
    FOREACH command IN ARRAY ARRAY['RESET ROLE', 'SET ROLE NONE', 'RESET SESSION AUTHORIZATION', 'ALTER ROLE regress_jobq_fk1 SUPERUSER',
        'CREATE TEMP TABLE t ()', 'LISTEN fk', 'DELETE FROM fk.deferred', 'SET search_path = fk', 'SET CONSTRAINTS ALL DEFERRED',
        'CREATE TRIGGER note AFTER DELETE ON fk.later FOR EACH ROW EXECUTE FUNCTION fk.note()']
    LOOP
        BEGIN
            EXECUTE command;
            INSERT INTO fk.ran VALUES (command, current_user);
        EXCEPTION WHEN OTHERS THEN
            INSERT INTO fk.ran VALUES (command, SQLSTATE);
        END;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER break_out AFTER DELETE ON fk.cascades FOR EACH ROW EXECUTE FUNCTION fk.break_out();
CREATE TABLE fk.deferred (id int);
CREATE CONSTRAINT TRIGGER note AFTER DELETE ON fk.deferred DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fk.note();
INSERT INTO fk.deferred VALUES (1);
TRUNCATE fk.cascades, fk.ran;
INSERT INTO fk.cascades VALUES (:b);
INSERT INTO fk.later VALUES (:b);
RESET ROLE;
SELECT job_delete(:b);
SELECT * FROM fk.ran WHERE what !~ 'cascades';
SELECT current_user = session_user AS same, current_setting('search_path') ~ 'fk' AS left_over;
DROP TABLE fk.later;

-- its errors keep the job; it can use jobq as its owner may
SET ROLE regress_jobq_fk1;
CREATE OR REPLACE FUNCTION fk.break_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.job_submit('from a trigger', queue => 'trusts', depends_on => ARRAY[OLD.job_id]);
    RETURN NULL;
END $$;
INSERT INTO fk.cascades VALUES (:c);
RESET ROLE;
SELECT changed, problem = format('job %s in "depends_on" does not exist', :c) AS said FROM job_delete_many(ARRAY[:c]);
CREATE OR REPLACE FUNCTION fk.break_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.job_submit('from a trigger', queue => 'trusts', run_at => '2999-01-01');
    RETURN NULL;
END $$;
SELECT job_purge('trusts', '0');
SELECT kind, submitted_by, state FROM job_status WHERE queue = 'trusts';
CREATE OR REPLACE FUNCTION fk.break_out() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM public.job_submit('from a trigger', queue => 'del');
    RETURN NULL;
END $$;
SELECT pg_temp.done('d', 'trusts') AS d \gset
INSERT INTO fk.cascades VALUES (:d);
SELECT changed, problem FROM job_delete_many(ARRAY[:d]);
DROP TABLE fk.cascades;

-- what foreign keys change in turn must have that owner, too, and so must partitions; to look there is no change
SET ROLE regress_jobq_fk1;
CREATE TABLE fk.cascades (job_id bigint REFERENCES job ON DELETE CASCADE, id int PRIMARY KEY);
GRANT REFERENCES ON fk.cascades TO regress_jobq_fk2;
SET ROLE regress_jobq_fk2;
CREATE TABLE fk.chained (id int PRIMARY KEY REFERENCES fk.cascades);
RESET ROLE;
INSERT INTO fk.cascades VALUES (:d, 1);
INSERT INTO fk.chained VALUES (1);
SELECT job_purge('trusts', '0');
DELETE FROM fk.chained;
SELECT job_purge('trusts', '0');
ALTER TABLE fk.chained DROP CONSTRAINT chained_id_fkey, ADD FOREIGN KEY (id) REFERENCES fk.cascades ON DELETE CASCADE;
SELECT pg_temp.done('e', 'trusts') AS e \gset
SELECT job_delete(:e);
SELECT job_purge('trusts', '0');
ALTER TABLE fk.chained OWNER TO regress_jobq_fk1;
SELECT job_delete(:e);
DROP TABLE fk.chained, fk.cascades;
CREATE TABLE fk.parts (job_id bigint REFERENCES job ON DELETE CASCADE) PARTITION BY HASH (job_id);
CREATE TABLE fk.part PARTITION OF fk.parts FOR VALUES WITH (MODULUS 1, REMAINDER 0);
ALTER TABLE fk.part OWNER TO regress_jobq_fk2;
SELECT pg_temp.done('f', 'trusts') AS f \gset
SELECT job_delete(:f);
ALTER TABLE fk.parts OWNER TO regress_jobq_fk2;
SELECT job_delete(:f);
DROP TABLE fk.parts;

-- a deferred foreign key acts at once, too; what is deferred on a table that it changes cannot be, there
CREATE TABLE fk.deferred_key (job_id bigint REFERENCES job INITIALLY DEFERRED);
SELECT pg_temp.done('g', 'trusts') AS g, pg_temp.done('h', 'trusts') AS h, pg_temp.done('i', 'trusts') AS i, pg_temp.done('j', 'trusts') AS j \gset
INSERT INTO fk.deferred_key VALUES (:g);
\set VERBOSITY sqlstate
SELECT job_delete(:g);
\set VERBOSITY terse
SELECT job_delete(:h);
SELECT job_purge('trusts', '0');
SELECT kind FROM job WHERE queue = 'trusts' AND outcome <> 0;
DROP TABLE fk.deferred_key;
CREATE TABLE fk.deferring (job_id bigint REFERENCES job ON DELETE CASCADE);
CREATE CONSTRAINT TRIGGER note AFTER DELETE ON fk.deferring INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fk.note();
INSERT INTO fk.deferring VALUES (:g);
SELECT job_delete(:g);
BEGIN;
SET CONSTRAINTS ALL IMMEDIATE;
SELECT job_delete(:g);
COMMIT;

-- triggers that are disabled, as by a role for replication
INSERT INTO fk.deferring SELECT pg_temp.done('k', 'trusts') RETURNING job_id AS k \gset
SET session_replication_role = replica;
SELECT job_delete(:k);
RESET session_replication_role;
SELECT count(*) FROM fk.deferring;
SELECT job_revoke('regress_jobq_fk1', 'trusts', 'submit');
SELECT count(job_cancel(id)) FROM job_status WHERE queue = 'trusts' AND finished_at IS NULL;
\set VERBOSITY sqlstate
SET client_min_messages = warning;
DROP SCHEMA fk CASCADE;
RESET client_min_messages;
DROP OWNED BY regress_jobq_fk1, regress_jobq_fk2;
DROP ROLE regress_jobq_fk1, regress_jobq_fk2;
