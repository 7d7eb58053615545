-- job_parents and job_children
\set VERBOSITY sqlstate

-- parents in every state, in the order of their ids
SELECT job_submit('done', queue => 'related', name => 'first') AS done, job_submit('bad', queue => 'related') AS bad,
    job_submit('off', queue => 'related', name => 'off') AS off, job_submit('silent', queue => 'related') AS silent \gset
SELECT job_complete(job_id, token, '{"n": 1}') FROM job_claim('related');
SELECT job_fail(job_id, token, 'broken', false) FROM job_claim('related');
SELECT job_cancel(:off, 'not wanted');
SELECT job_complete(job_id, token) FROM job_claim('related');
SELECT job_submit('skipped', queue => 'related', depends_on => ARRAY[:done], trigger_rule => 'all_failed') AS skipped,
    job_submit('upstream', queue => 'related', depends_on => ARRAY[:bad]) AS upstream, job_submit('running', queue => 'related') AS running,
    job_submit('ready', queue => 'related') AS ready, job_submit('later', queue => 'related', run_in => '1 day') AS later \gset
SELECT kind FROM job_claim('related');
SELECT job_submit('waiting', queue => 'related', depends_on => ARRAY[:later]) AS waiting \gset
SELECT job_submit('alarm', queue => 'related_alarm', depends_on => ARRAY[:waiting, :done, :bad, :off, :silent, :skipped, :upstream, :running, :ready, :later],
    trigger_rule => 'one_failed', name => 'alarm') AS alarm \gset
SELECT job_id = :alarm AS alarm, kind FROM job_claim('related_alarm');
SELECT p.name, p.kind, p.state, p.result, p.error, j.kind = p.kind AS same FROM job_parents(:alarm) WITH ORDINALITY p JOIN job j ON j.id = p.job_id ORDER BY ordinality;
SELECT string_agg(format('%s: %s', coalesce(name, kind), error), ', ' ORDER BY job_id) AS failed FROM job_parents(:alarm) WHERE state IN ('failed', 'cancelled');

-- children in every state, and what has neither
SELECT c.name, c.kind, c.state, j.kind = c.kind AS same FROM job_children(:done) WITH ORDINALITY c JOIN job j ON j.id = c.job_id ORDER BY ordinality;
SELECT kind, state FROM job_children(:later);
SELECT count(*) FROM job_children(:alarm);
SELECT count(*) FROM job_parents(:done);

-- what is as it is now: a retry takes back state and error
SELECT job_retry(:bad);
SELECT kind, state, error FROM job_parents(:alarm) WHERE job_id IN (:bad, :upstream) ORDER BY job_id;

-- in a read-only transaction; bad arguments
BEGIN READ ONLY;
SELECT count(*) FROM job_parents(:alarm);
SELECT count(*) FROM job_children(:done);
COMMIT;
SELECT * FROM job_parents(NULL);
SELECT * FROM job_children(NULL);
SELECT * FROM job_parents(-1);
SELECT * FROM job_children(-1);

-- whoever may see the job, of the others what they may see; its worker all of its parents
CREATE ROLE regress_related_submit;
CREATE ROLE regress_related_work;
CREATE ROLE regress_related_read;
CREATE ROLE regress_related_other;
SELECT job_grant('regress_related_submit', 'related_a', 'submit');
SELECT job_grant('regress_related_work', 'related_b', 'work');
SELECT job_grant('regress_related_read', 'related_b', 'read');
SELECT job_grant('regress_related_other', 'related_c', 'submit');
SET ROLE regress_related_submit;
SELECT job_submit('mine', queue => 'related_a', priority => 1) AS mine \gset
RESET ROLE;
SELECT job_submit('theirs', queue => 'related_a') AS theirs \gset
SELECT job_complete(job_id, token, to_jsonb('of ' || kind)) FROM job_claim('related_a', max_jobs => 2);
SELECT job_submit('child', queue => 'related_b', depends_on => ARRAY[:mine, :theirs]) AS child \gset
SELECT job_submit('grandchild', queue => 'related_b', depends_on => ARRAY[:child]) AS grandchild \gset
UPDATE job SET submitted_by = 'regress_related_submit' WHERE id = :child;

SET ROLE regress_related_submit;
SELECT kind, state, result FROM job_parents(:child);
SELECT kind, state FROM job_children(:child);
SELECT kind, state FROM job_children(:mine);
SELECT kind FROM job_children(:theirs);
SET ROLE regress_related_read;
SELECT kind, state, result FROM job_parents(:child);
SELECT kind, state FROM job_children(:child);
SELECT kind FROM job_children(:mine);
SET ROLE regress_related_other;
SELECT kind FROM job_parents(:child);
SELECT kind FROM job_children(:child);
SET ROLE regress_related_work;
SELECT kind FROM job_parents(:child);
SELECT job_id, token FROM job_claim('related_b') \gset
SELECT kind, state, result FROM job_parents(:child);
SELECT kind, state FROM job_children(:child);
SELECT kind FROM job_children(:theirs);
SELECT kind FROM job_parents(:theirs);
SELECT kind FROM job_next(:job_id, :token);
SELECT kind FROM job_parents(:theirs);
-- the worker of the grandchild now: its parent it sees, but not the parents of that
SELECT kind, state FROM job_parents(:grandchild);
SELECT kind FROM job_parents(:child);
RESET ROLE;
DELETE FROM job_privilege WHERE queue LIKE 'related%';
UPDATE job SET submitted_by = CURRENT_USER::regrole WHERE queue LIKE 'related%';
DROP OWNED BY regress_related_submit, regress_related_work, regress_related_read, regress_related_other;
DROP ROLE regress_related_submit, regress_related_work, regress_related_read, regress_related_other;

SELECT count(job_complete(l.job_id, l.token)) > 0 AS ok FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue LIKE 'related%';
SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'related%' AND finished_at IS NULL;
