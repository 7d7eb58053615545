-- job_explain: why a job does not run, or what became of it; each reason in words
\set VERBOSITY terse
SET TimeZone = 'UTC';
SET DateStyle = 'ISO';
-- so that no other number is an id
SELECT setval('job_id_seq', greatest(last_value, 100000)) >= 100000 AS large FROM job_id_seq;

-- ids and times differ: kinds for the first, <time> for the second
CREATE FUNCTION pg_temp.mask(said text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    x record;
BEGIN
    FOR x IN SELECT id, kind FROM job WHERE queue LIKE 'explain%' AND kind <> 'many' ORDER BY id DESC LOOP
        said := regexp_replace(said, format('\m%s\M', x.id), '<' || x.kind || '>', 'g');
    END LOOP;
    RETURN regexp_replace(said, '\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00', '<time>', 'g');
END $$;
CREATE FUNCTION pg_temp.why(id bigint) RETURNS TABLE (reason text, detail text, hint text, other text) LANGUAGE sql AS $$
    SELECT reason, pg_temp.mask(detail), pg_temp.mask(hint), (SELECT kind FROM job WHERE job.id = other) FROM job_explain(id)
$$;
-- what it would say at another time, or of another background worker
CREATE FUNCTION pg_temp.what_if(id bigint, active boolean, worker boolean, waits boolean, later interval DEFAULT '0') RETURNS TABLE (reason text, detail text, hint text) LANGUAGE sql AS $$
    SELECT reason, pg_temp.mask(detail), pg_temp.mask(hint) FROM job_reasons(id, active, worker, waits, '2000-01-01', clock_timestamp() + later)
$$;

-- ready, alone and behind others
SELECT job_submit('first', queue => 'explain') AS first \gset
SELECT job_submit('second', queue => 'explain') AS second \gset
SELECT job_submit('third', queue => 'explain') AS third \gset
SELECT * FROM pg_temp.why(:first);
SELECT * FROM pg_temp.why(:second);
SELECT * FROM pg_temp.why(:third);
-- a session waits, one has a lease, one had a job just now
SELECT reason FROM pg_temp.what_if(:first, true, true, true);
SELECT job_id, token FROM job_claim('explain', 'worker 1') \gset
SELECT reason FROM pg_temp.why(:second);
SELECT job_complete(:job_id, :token);
SELECT reason FROM pg_temp.why(:second);
SELECT reason FROM job_reasons(:second, true, true, false, now() - interval '59 s', now());
SELECT reason FROM job_reasons(:second, true, true, false, now() - interval '61 s', now());

-- there are workers also if all that they do fails, is given back, or is lost, but a claim that was undone says nothing
SELECT count(job_submit('many', queue => 'explain_outage' || n)) FROM generate_series(0, 3) n, generate_series(1, 2);
CREATE FUNCTION pg_temp.outage() RETURNS TABLE (queue text, reasons text) LANGUAGE sql AS $$
    SELECT j.queue, string_agg(reason, ', ' ORDER BY reason DESC) FROM (SELECT queue, max(id) AS id FROM job WHERE queue LIKE 'explain_outage%' GROUP BY 1) j, job_explain(j.id)
    GROUP BY 1 ORDER BY 1
$$;
SELECT * FROM pg_temp.outage();
SELECT job_fail(job_id, token, 'no route', retry_in => '1 h') FROM job_claim('explain_outage0');
SELECT job_release(job_id, token) FROM job_claim('explain_outage1');
SELECT job_id FROM job_claim('explain_outage2') \gset
SELECT job_take_back(:job_id);
BEGIN;
SELECT count(*) FROM job_claim('explain_outage3');
ROLLBACK;
BEGIN;
SAVEPOINT a;
SELECT count(*) FROM job_claim('explain_outage3');
ROLLBACK TO a;
COMMIT;
SELECT * FROM pg_temp.outage();

-- none can be put before the highest priority
SELECT job_submit('highest', queue => 'explain_high', priority => 32766) AS highest \gset
SELECT job_submit('behind', queue => 'explain_high') AS behind \gset
SELECT hint FROM pg_temp.why(:behind) WHERE reason = 'ready';
SELECT job_change(:highest, priority => 32767);
SELECT hint FROM pg_temp.why(:behind) WHERE reason = 'ready';

-- behind more than are counted
SELECT count(job_submit('many', queue => 'explain_many')) FROM generate_series(1, 1001);
SELECT job_submit('last', queue => 'explain_many') AS last \gset
SELECT * FROM pg_temp.why(:last) LIMIT 1;

-- a paused queue
SELECT job_queue_set('explain', paused => true);
SELECT * FROM pg_temp.why(:second) LIMIT 1;
BEGIN;
UPDATE job_queue SET paused_because = '3 attempts failed' WHERE name = 'explain';
SELECT detail FROM pg_temp.why(:second) LIMIT 1;
ROLLBACK;
SELECT job_queue_set('explain', paused => false);

-- dependencies: how many, which, as far as the caller may see them
SELECT job_submit('child', queue => 'explain', depends_on => ARRAY[:first, :second, :third]) AS child \gset
SELECT * FROM pg_temp.why(:child);
SELECT job_submit('chosen', queue => 'explain', depends_on => ARRAY[:second, :third], trigger_rule => 'quorum', quorum => 1) AS chosen \gset
SELECT * FROM pg_temp.why(:chosen) LIMIT 1;
SELECT job_submit('many', queue => 'explain', depends_on => ARRAY(SELECT id FROM job WHERE queue = 'explain_many' ORDER BY id LIMIT 30)) AS wide \gset
SELECT reason, count(*), min(detail) FILTER (WHERE reason = 'dependencies') FROM pg_temp.why(:wide) GROUP BY 1 ORDER BY 1;
CREATE ROLE explain_submitter;
SELECT job_grant('explain_submitter', 'explain', 'submit');
SELECT job_grant('explain_submitter', 'explain_many', 'read');
SET ROLE explain_submitter;
\set VERBOSITY sqlstate
SELECT job_explain(:child);
\set VERBOSITY terse
RESET ROLE;
UPDATE job SET submitted_by = 'explain_submitter' WHERE id IN (:child, :second);
SET ROLE explain_submitter;
SELECT reason, detail ~ '2 of its 3' AS counted, other = :second AS own FROM job_explain(:child);
SELECT job_reasons(:child, true, true, true, now(), now());
RESET ROLE;
SELECT job_revoke('explain_submitter', 'explain', 'submit');
SELECT job_revoke('explain_submitter', 'explain_many', 'read');
UPDATE job SET submitted_by = current_user::regrole WHERE id IN (:child, :second);
DROP ROLE explain_submitter;

-- a unique key that was taken over
SELECT job_submit('old', queue => 'explain_unique', unique_key => 'k') AS old \gset
SELECT count(*) FROM job_claim('explain_unique');
SELECT job_submit('new', queue => 'explain_unique', unique_key => 'k', on_conflict => 'cancel', depends_on => ARRAY[:third]) AS new \gset
SELECT * FROM pg_temp.why(:new);
-- to one who may not see the other job, without it
CREATE ROLE explain_keyed;
SELECT job_grant('explain_keyed', 'explain_unique', 'submit');
UPDATE job SET submitted_by = 'explain_keyed' WHERE id = :new;
SET ROLE explain_keyed;
SELECT reason, detail, other IS NULL AS unnamed FROM job_explain(:new);
RESET ROLE;
SELECT job_revoke('explain_keyed', 'explain_unique', 'submit');
UPDATE job SET submitted_by = current_user::regrole WHERE id = :new;
DROP ROLE explain_keyed;
-- one that ended, whose key another has now; to one who may not see that, without it
SELECT job_submit('former', queue => 'explain_key', unique_key => 'k') AS former \gset
SELECT job_cancel(:former, 'no');
SELECT replace(hint, :'former', '<former>') AS hint FROM job_explain(:former);
SELECT job_submit('latter', queue => 'explain_key', unique_key => 'k', unique_for => '1 h') AS latter \gset
CREATE ROLE explain_former;
SELECT job_grant('explain_former', 'explain_key', 'submit');
UPDATE job SET submitted_by = 'explain_former' WHERE id = :former;
SELECT reason, replace(replace(detail, :'latter', '<latter>'), :'former', '<former>') ~ '^Job <latter> .latter. has its unique key\.$' AS named,
    replace(replace(hint, :'latter', '<latter>'), :'former', '<former>') AS hint, other = :latter AS other FROM job_explain(:former);
SET ROLE explain_former;
SELECT reason, replace(hint, :'former', '<former>') AS hint FROM job_explain(:former);
RESET ROLE;
SELECT job_decide(:latter, 'succeeded');
SELECT reason, replace(detail, :'latter', '<latter>') LIKE 'Job <latter> (latter) has its unique key until 2%' AS named, hint FROM job_explain(:former) OFFSET 1;
SELECT hint FROM job_explain(:latter);
SELECT job_revoke('explain_former', 'explain_key', 'submit');
UPDATE job SET submitted_by = current_user::regrole WHERE id = :former;
DROP ROLE explain_former;
-- a schedule does the same as one that takes a key over, by overlap
BEGIN;
UPDATE job SET unique_key = NULL WHERE id = :old;
SELECT * FROM pg_temp.why(:new) WHERE reason = 'schedule';
ROLLBACK;

-- what is still to be counted; nobody else sees these rows
BEGIN;
UPDATE job SET outcome = 1 WHERE id = :second;
INSERT INTO job_delta SELECT nextval('job_id_seq'), job_id, epoch, -1, -1, 0, 0, 0, 0, 0 FROM job_waiting WHERE job_id = :child;
SELECT reason, detail, hint FROM pg_temp.what_if(:child, true, true, true) WHERE reason <> 'dependency';
INSERT INTO job_recount VALUES (nextval('job_id_seq'), :child);
SELECT reason, detail, hint FROM pg_temp.what_if(:child, true, false, true) WHERE reason <> 'dependency';
ROLLBACK;

-- held
SELECT job_hold(:child);
SELECT * FROM pg_temp.why(:child) WHERE reason = 'held';

-- the clock
SELECT job_submit('later', queue => 'explain', run_at => '2999-01-01') AS later \gset
SELECT * FROM pg_temp.why(:later);
SELECT * FROM pg_temp.what_if(:later, true, true, true, '1000 years');
-- at a time at which it has expired
SELECT job_submit('too late', queue => 'explain', run_at => '2999-01-01', expires_at => '2998-01-01') AS late \gset
SELECT * FROM pg_temp.why(:late);
SELECT job_change(:late, expires_at => '2999-01-02');
SELECT * FROM pg_temp.why(:late);
SELECT job_submit('try', queue => 'explain_try', max_attempts => 3) AS try \gset
SELECT job_fail(job_id, token, 'no route', retry_in => '1 h') FROM job_claim('explain_try');
SELECT * FROM pg_temp.why(:try);
UPDATE job_attempt SET outcome = 2, error = 'timed out' WHERE job_id = :try;
SELECT detail FROM pg_temp.why(:try);
UPDATE job_attempt SET outcome = 3, error = NULL WHERE job_id = :try;
SELECT detail FROM pg_temp.why(:try);
UPDATE job_attempt SET outcome = 1, error = 'no route' WHERE job_id = :try;
SELECT job_submit('snoozer', queue => 'explain_snooze') AS snoozer \gset
SELECT job_snooze(job_id, token, '1 h') FROM job_claim('explain_snooze');
SELECT * FROM pg_temp.why(:snoozer);

-- expired, and cancelled, but not yet
SELECT job_submit('expires', queue => 'explain_expiry', expires_at => now() + interval '1 day') AS expires \gset
SELECT * FROM pg_temp.what_if(:expires, true, true, true, '2 days');
BEGIN;
INSERT INTO job_cancel_request VALUES (nextval('job_id_seq'), :expires, 0, false, 'not now');
SELECT * FROM pg_temp.what_if(:expires, true, true, true) LIMIT 1;
ROLLBACK;

-- running
SELECT job_submit('run', queue => 'explain_run', lease => '100 s', timeout => '1 day') AS run \gset
SELECT token FROM job_claim('explain_run', 'worker 2') \gset
SELECT * FROM pg_temp.why(:run);
SELECT * FROM pg_temp.what_if(:run, true, true, true, '60 s');
SELECT * FROM pg_temp.what_if(:run, true, true, true, '200 s');
BEGIN;
INSERT INTO job_cancel_request VALUES (nextval('job_id_seq'), :run, 0, false, 'by order');
SELECT * FROM pg_temp.what_if(:run, true, true, true);
ROLLBACK;
UPDATE job_lease SET cancel_requested = true, worker = NULL, timeout_at = NULL WHERE job_id = :run;
SELECT * FROM pg_temp.why(:run);
SELECT job_complete(:run, :token);

-- the background worker
SELECT * FROM pg_temp.what_if(:later, false, false, true) OFFSET 1;
SELECT * FROM pg_temp.what_if(:later, true, false, true) OFFSET 1;
BEGIN;
DELETE FROM job_scheduled WHERE job_id = :later;
SELECT * FROM pg_temp.what_if(:later, true, true, true);
ROLLBACK;

-- decided
SELECT * FROM pg_temp.why(:run);
SELECT job_submit('fails', queue => 'explain_fail', max_attempts => 1) AS fails \gset
SELECT job_submit('never', queue => 'explain_fail', depends_on => ARRAY[:fails, :first]) AS never \gset
SELECT job_submit('after never', queue => 'explain_fail', depends_on => ARRAY[:never]) AS after \gset
SELECT job_submit('unless', queue => 'explain_fail', depends_on => ARRAY[:fails, :first], trigger_rule => 'none_skipped') AS unless \gset
SELECT job_submit('one fails', queue => 'explain_fail', depends_on => ARRAY[:run, :first], trigger_rule => 'one_failed') AS skipped \gset
SELECT job_fail(job_id, token, 'no disk') FROM job_claim('explain_fail', 'worker 3');
SELECT * FROM pg_temp.why(:fails);
SELECT * FROM pg_temp.why(:never);
SELECT * FROM pg_temp.why(:after);
SELECT * FROM pg_temp.why(:skipped);
UPDATE job SET attempt_outcome = 2, error = NULL WHERE id = :fails;
SELECT detail FROM pg_temp.why(:fails);
UPDATE job SET attempt_outcome = 3 WHERE id = :fails;
SELECT detail FROM pg_temp.why(:fails);
SELECT job_cancel(:later, 'no longer wanted');
SELECT * FROM pg_temp.why(:later);
-- a retry of what was removed is none
SELECT job_submit('removed', queue => 'explain_removed', manual => true) AS removed \gset
SELECT job_submit('left', queue => 'explain_removed', depends_on => ARRAY[:removed]) AS left \gset
SELECT job_decide(:removed, 'failed');
SELECT * FROM pg_temp.why(:left);
SELECT job_delete(:removed);
SELECT * FROM pg_temp.why(:left);
SELECT depends_on FROM job_status WHERE id = :left;

-- by a decision
SELECT job_submit('asked', queue => 'explain', manual => true) AS asked \gset
SELECT * FROM pg_temp.why(:asked);
SELECT job_decide(:asked, 'skipped', reason => 'not today');
SELECT replace(detail, CURRENT_ROLE, '<role>') AS detail, hint FROM pg_temp.why(:asked);

-- it should be gone, by the settings or those of its queue
SELECT count(*) FROM pg_temp.what_if(:run, true, true, true, '6 days');
SELECT * FROM pg_temp.what_if(:run, true, true, true, '7 days') OFFSET 1;
SELECT count(*) FROM pg_temp.what_if(:later, true, true, true, '29 days');
SELECT * FROM pg_temp.what_if(:later, true, true, true, '30 days') OFFSET 1;
SELECT job_queue_set('explain_run', retention => '60 days');
SELECT count(*) FROM pg_temp.what_if(:run, true, true, true, '59 days');
SELECT reason FROM pg_temp.what_if(:run, true, true, true, '60 days') OFFSET 1;
SELECT job_queue_set('explain_removed', retention_failed => '0');
SELECT job_submit('needed', queue => 'explain_removed', manual => true) AS needed \gset
SELECT job_submit('needs', queue => 'explain_removed', depends_on => ARRAY[:needed], trigger_rule => 'all_done', hold => true) AS needs \gset
SELECT job_decide(:needed, 'failed');
SELECT * FROM pg_temp.why(:needed);

-- of the same statement
SELECT e.reason FROM job_submit('now', queue => 'explain_now') j, job_explain(j) e;

-- bad input
SELECT job_explain(NULL);
SELECT job_explain(0);

-- what was changed by hand is as it was
SELECT * FROM job_check();
