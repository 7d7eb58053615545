-- Sagas: a flow is undone by another, with its edges reversed.
\set VERBOSITY terse
\pset null -
-- id of the latest flow, its members, and one step of work: the first ready job ends as told
CREATE FUNCTION pg_temp.members(flow bigint) RETURNS TABLE (name text, kind text, state text, depends_on text, error text) LANGUAGE sql AS $$
    SELECT coalesce(regexp_replace(s.name, '\d{2,}', 'N'), '-'), s.kind, s.state, (SELECT string_agg(coalesce(regexp_replace(u.name, '\d{2,}', 'N'), u.kind), ', ' ORDER BY u.id) FROM job_status u WHERE u.id = ANY (s.depends_on)), s.error
    FROM job_status s WHERE s.flow = members.flow ORDER BY s.id $$;
CREATE PROCEDURE pg_temp.until(id bigint, wanted text) LANGUAGE plpgsql AS $$
DECLARE
    give_up timestamptz := clock_timestamp() + '60 s';
BEGIN
    WHILE (SELECT state FROM job_status s WHERE s.id = until.id) <> wanted AND clock_timestamp() < give_up LOOP
        COMMIT;
        PERFORM pg_sleep(0.01);
    END LOOP;
    COMMIT;
    IF (SELECT state FROM job_status s WHERE s.id = until.id) <> wanted THEN
        RAISE 'job % is %', id, (SELECT state FROM job_status s WHERE s.id = until.id);
    END IF;
END $$;

SELECT job_submit_flow('{"queue": "undo", "name": "trip", "defaults": {"queue": "undo"}, "jobs": [
    {"name": "hotel", "kind": "book", "args": {"what": "hotel"}, "undo": {"kind": "cancel", "args": {"booking": {"$undo": "result", "path": "$.id"}, "what": {"$undo": "args", "path": "$.what"}, "key": {"$undo": "key"}}}},
    {"name": "mail", "kind": "mail", "depends_on": ["hotel"]},
    {"name": "flight", "kind": "book", "args": {"what": "flight", "hotel": {"$result": "hotel", "path": "$.id"}}, "depends_on": ["mail"], "undo": {"kind": "cancel"}},
    {"name": "pay", "kind": "pay", "depends_on": ["flight"], "max_attempts": 1, "undo": {"kind": "refund"}}]}') AS f \gset
SELECT job_undo(:f);
SELECT job_id AS hotel, key AS hotel_key FROM job_claim('undo') c \gset
SELECT job_complete(:hotel, token, '{"id": 7}') FROM job_lease WHERE job_id = :hotel;
SELECT job_complete(job_id, token) FROM job_claim('undo');
SELECT job_complete(job_id, token, '{"id": 8}') FROM job_claim('undo');
SELECT job_fail(job_id, token, 'no money') FROM job_claim('undo');
CALL pg_temp.until(:f, 'failed');
SELECT job_undo(:f) AS u \gset
SELECT * FROM pg_temp.members(:u);
SELECT kind, args, inputs, flow = :u AS flow FROM job_claim('undo') \gx
SELECT job_complete(job_id, token) FROM job_lease WHERE job_id = (SELECT max(job_id) FROM job_lease);
