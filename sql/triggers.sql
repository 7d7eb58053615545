-- Triggers and rules on our tables would not fire, so nothing works while there are some; foreign keys that reference job are welcome
\pset format unaligned
\pset tuples_only on
SET client_min_messages = warning;
CREATE FUNCTION pg_temp.nothing() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE FUNCTION pg_temp.try(command text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    message text; hint text;
BEGIN
    EXECUTE command;
    RETURN 'ok';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS message = MESSAGE_TEXT, hint = PG_EXCEPTION_HINT;
    RETURN SQLSTATE || ': ' || message || coalesce(' HINT: ' || nullif(hint, ''), '');
END $$;

SELECT job_submit('runs', queue => 'trig') AS runs \gset
SELECT token FROM job_claim('trig') \gset
-- on any of them: whoever comes to it says so
BEGIN;
CREATE TRIGGER copy_changes AFTER INSERT OR UPDATE OR DELETE ON job FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing();
SELECT pg_temp.try('SELECT job_submit(''k'', queue => ''trig'')');
SELECT pg_temp.try(format('SELECT job_complete(%s, %s)', :runs, :token));
SELECT pg_temp.try(format('SELECT job_result(%s)', :runs));
-- what only reads the views goes on
SELECT state FROM job_status WHERE id = :runs;
-- one that is disabled fires for nobody
ALTER TABLE job DISABLE TRIGGER copy_changes;
SELECT pg_temp.try(format('SELECT job_complete(%s, %s)', :runs, :token));
ALTER TABLE job ENABLE REPLICA TRIGGER copy_changes;
SELECT pg_temp.try('SELECT job_submit(''k'', queue => ''trig'')');
DROP TRIGGER copy_changes ON job;
SELECT pg_temp.try('SELECT job_submit(''k'', queue => ''trig'')');
ROLLBACK;
BEGIN;
CREATE TRIGGER once AFTER INSERT ON job_ready FOR EACH STATEMENT EXECUTE FUNCTION pg_temp.nothing();
SELECT pg_temp.try('SELECT job_submit(''k'', queue => ''trig'')');
ROLLBACK;
BEGIN;
CREATE RULE gone AS ON DELETE TO job_lease DO ALSO NOTIFY gone;
SELECT pg_temp.try(format('SELECT job_heartbeat(%s, %s)', :runs, :token));
ROLLBACK;
BEGIN;
CREATE TRIGGER changed AFTER UPDATE ON job_queue FOR EACH ROW EXECUTE FUNCTION pg_temp.nothing();
SELECT pg_temp.try('SELECT job_queue_set(''trig'', max_attempts => 3)');
ROLLBACK;
-- constraints that are kept by triggers: a foreign key of ours, one that references what comes and goes, one that is deferred
BEGIN;
CREATE TABLE trig_kind (kind text PRIMARY KEY);
INSERT INTO trig_kind SELECT DISTINCT kind FROM job;
ALTER TABLE job ADD FOREIGN KEY (kind) REFERENCES trig_kind;
SELECT pg_temp.try('SELECT job_submit(''k'', queue => ''trig'')');
ROLLBACK;
BEGIN;
CREATE TABLE trig_lease (job_id bigint REFERENCES job_lease);
SELECT pg_temp.try(format('SELECT job_complete(%s, %s)', :runs, :token));
ROLLBACK;
BEGIN;
ALTER TABLE job_attempt ADD UNIQUE (job_id, attempt) DEFERRABLE;
SELECT pg_temp.try(format('SELECT job_release(%s, %s)', :runs, :token));
ROLLBACK;

-- foreign keys that reference jobs: in the transaction that submits one, whatever becomes of the job, until it is removed
CREATE TABLE trig_order (id int PRIMARY KEY, job_id bigint NOT NULL REFERENCES job);
CREATE TABLE trig_note (job_id bigint REFERENCES job ON DELETE CASCADE);
CREATE TABLE trig_link (job_id bigint REFERENCES job ON DELETE SET NULL);
BEGIN;
SELECT job_submit('ordered', queue => 'trig_fk', max_attempts => 2, backoff => '1 us') AS id \gset
INSERT INTO trig_order VALUES (1, :id);
INSERT INTO trig_note VALUES (:id);
INSERT INTO trig_link VALUES (:id);
COMMIT;
INSERT INTO trig_order SELECT 1 + row_number() OVER (), id FROM job_submit_many('[{"kind": "a", "queue": "trig_fk", "name": "a"}, {"kind": "b", "queue": "trig_fk", "depends_on": ["a"]}]') id;
SELECT pg_temp.try('INSERT INTO trig_order VALUES (9, -1)') ~ 'violates foreign key';
SELECT kind, job_fail(job_id, token, 'x', retry => false) FROM job_claim('trig_fk');
SELECT job_retry(:id);
SELECT kind, job_complete(job_id, token, '1') FROM job_claim('trig_fk');
SELECT kind, job_complete(job_id, token) FROM job_claim('trig_fk');
SELECT o.id, j.kind, j.state FROM trig_order o JOIN job_status j ON j.id = o.job_id ORDER BY o.id;
SELECT pg_temp.try('DELETE FROM job WHERE id = ' || :id) ~ 'violates foreign key';
DELETE FROM trig_order WHERE job_id = :id;
DELETE FROM job WHERE id = :id;
SELECT count(*) FROM trig_note;
SELECT count(*), count(job_id) FROM trig_link;
DROP TABLE trig_order, trig_note, trig_link;
SELECT job_complete(:runs, :token);
SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'trig%' AND finished_at IS NULL;
