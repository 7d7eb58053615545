-- job_claim: what it hands out, in which order, and to whom it belongs after a rollback
\set VERBOSITY terse

-- by priority, then position
SELECT count(job_submit('p' || p || ' n' || n, queue => 'claim', priority => p)) FROM generate_series(-1, 1) p, generate_series(1, 2) n;
SELECT kind FROM job_claim('claim');
SELECT kind FROM job_claim('claim', 'w', 3);
SELECT kind FROM job_claim('claim', 'w', 100);
SELECT kind FROM job_claim('claim', 'w', 100);

-- a job that comes back is last of its priority
SELECT job_release(l.job_id, l.token) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'claim' ORDER BY j.kind = 'p1 n1', j.kind DESC;
SELECT kind, attempt FROM job_claim('claim', max_jobs => 100);
SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'claim';

-- what an assignment holds
SELECT job_submit('mother', '{"x": [1, "a"]}', 'claim') AS mother \gset
SELECT job_submit('father', queue => 'claim') AS father \gset
SELECT job_submit('silent', queue => 'claim') AS silent \gset
SELECT job_submit('skipped', queue => 'claim', depends_on => ARRAY[:mother], trigger_rule => 'all_failed') AS skipped \gset
SELECT job_submit('child', '{"c": 1}', 'claim', depends_on => ARRAY[:silent, :mother, :skipped, :father], trigger_rule => 'all_done') AS child \gset
SELECT job_id IN (:mother, :father, :silent) AS ids, token > 0 AS token, attempt, kind, args, inputs, lease_until > now() + '59 s' AS until FROM job_claim('claim', 'me', 9);
SELECT job_complete(:mother, token, '{"m": 1}') FROM job_lease WHERE job_id = :mother;
SELECT job_fail(:father, token, 'no', false) FROM job_lease WHERE job_id = :father;
SELECT job_complete(:silent, token) FROM job_lease WHERE job_id = :silent;
SELECT kind, args, inputs -> :'mother' AS mother, inputs -> :'silent' AS silent, (SELECT count(*) FROM jsonb_object_keys(inputs)) AS n FROM job_claim('claim');
SELECT kind, state, worker FROM job_status WHERE id = :child;
SELECT job_complete(:child, token) FROM job_lease WHERE job_id = :child;

-- inputs over jobq.max_inputs_size are left to job_result
SELECT job_submit('big', queue => 'claim') AS big \gset
SELECT job_submit('reader', queue => 'claim', depends_on => ARRAY[:big]) AS reader \gset
SELECT job_complete(job_id, token, jsonb_build_object('t', repeat('x', 2000))) FROM job_claim('claim');
SET jobq.max_inputs_size = '1kB';
BEGIN;
SELECT inputs IS NULL AS none FROM job_claim('claim');
SELECT length(job_result(:big) ->> 't');
ROLLBACK;
SET jobq.max_inputs_size = 0;
BEGIN;
SELECT inputs IS NULL AS none FROM job_claim('claim');
ROLLBACK;
RESET jobq.max_inputs_size;
SELECT length(inputs -> :'big' ->> 't'), job_complete(job_id, token) FROM job_claim('claim');
-- the ids count
SELECT job_submit('many', queue => 'claim', depends_on => array_agg(p)) AS many FROM (SELECT job_submit('p', queue => 'claim-p') AS p FROM generate_series(1, 600)) p \gset
SELECT count(job_complete(job_id, token)) FROM job_claim('claim-p', max_jobs => 600);
DO $$ BEGIN FOR i IN 1 .. 6000 LOOP EXIT WHEN NOT EXISTS (SELECT FROM job_delta); PERFORM pg_sleep(0.01); END LOOP; END $$;
SET jobq.max_inputs_size = '1kB';
BEGIN;
SELECT inputs IS NULL AS none FROM job_claim('claim');
ROLLBACK;
RESET jobq.max_inputs_size;
SELECT inputs -> (SELECT min(upstream)::text FROM job_dependency WHERE downstream = :many) AS input, job_complete(job_id, token) FROM job_claim('claim');

-- by name, where no other parent has it for a name or an id, whatever became of that one; else by id
SELECT job_submit('a', queue => 'claim-n', name => 'alike') AS a, job_submit('b', queue => 'claim-n', name => 'alike') AS b,
    job_submit('c', queue => 'claim-n', name => '"odd"\') AS c, job_submit('d', queue => 'claim-n') AS d,
    job_submit('e', queue => 'claim-n', name => 'failed') AS e, job_submit('f', queue => 'claim-n', name => 'failed') AS f,
    job_submit('g', queue => 'claim-n', name => 'silent') AS g \gset
SELECT job_submit('h', queue => 'claim-n', name => :'d') AS h \gset
SELECT job_submit('i', queue => 'claim-n', name => :'h') AS i \gset
SELECT job_submit('j', queue => 'claim-n', name => :'i' || '0') AS j \gset
SELECT job_submit('join', queue => 'claim-j', depends_on => ARRAY[:a, :b, :c, :d, :e, :f, :g, :h, :i, :j], trigger_rule => 'all_done') IS NOT NULL AS ok;
SELECT kind, CASE kind WHEN 'e' THEN job_fail(job_id, token, retry => false) ELSE job_complete(job_id, token, CASE WHEN kind <> 'g' THEN to_jsonb(kind) END)::text END
FROM job_claim('claim-n', max_jobs => 20);
SELECT inputs = jsonb_build_object(:'a', 'a', :'b', 'b', '"odd"\', 'c', :'d', 'd', :'f', 'f', 'silent', NULL, :'h', 'h', :'i', 'i', :'i' || '0', 'j') AS ok,
    (SELECT count(*) FROM jsonb_object_keys(inputs)) AS n FROM job_claim('claim-j');

-- the key: the same over all attempts, new after job_retry, never another job's
SELECT job_submit('key', queue => 'claim_key') AS k \gset
SELECT key AS key1, job_release(job_id, token) FROM job_claim('claim_key') \gset
SELECT key = :'key1' AS same, token, key AS key2 FROM job_claim('claim_key') \gset
\echo :same
SELECT job_fail(:k, :token, retry => false);
SELECT job_retry(:k);
SELECT key <> :'key1' AS new, attempt FROM job_claim('claim_key');
SELECT job_submit('key', queue => 'claim_key') AS k2 \gset
SELECT key <> :'key1' AS new FROM job_claim('claim_key');

-- several queues: the best of all of them
SELECT count(job_submit(format('%s %s', q, p), queue => q, priority => p)) FROM unnest('{claim_a,claim_b,claim_c}'::text[]) q, generate_series(1, 2) p;
SELECT kind FROM job_claim(ARRAY['claim_b', 'claim_a', 'claim_b', 'claim_none'], max_jobs => 3);
SELECT kind FROM job_claim(ARRAY['claim_c', 'claim_a', 'claim_b'], max_jobs => 2);
SELECT kind FROM job_claim('{}'::text[]);
SELECT kind FROM job_claim(queues => '{claim_c}', worker => NULL, max_jobs => NULL, lease => NULL);
SELECT count(*) FROM job_claim('claim_never_used');
SELECT count(*) FROM job_queue_status WHERE queue = 'claim_never_used';

-- a paused queue gives nothing; the others do
SELECT count(job_submit(q, queue => q)) FROM unnest('{claim_a,claim_b}'::text[]) q;
SELECT job_queue_set('claim_a', paused => true);
SELECT kind FROM job_claim('claim_a');
SELECT kind FROM job_claim('{claim_a,claim_b}'::text[], max_jobs => 9);
SELECT queue, paused, ready FROM job_queue_status WHERE queue = 'claim_a';
SELECT job_queue_set('claim_a', paused => false);
SELECT kind FROM job_claim('{claim_a,claim_b}'::text[], max_jobs => 9);

-- claimed and completed in one statement
SELECT count(job_submit('once', queue => 'claim_once')) FROM generate_series(1, 3);
SELECT job_complete(c.job_id, c.token) FROM job_claim('claim_once', max_jobs => 2) c;
SELECT kind, state, attempt FROM job_status WHERE queue = 'claim_once' ORDER BY id;
SELECT job_fail(c.job_id, c.token, 'at once', retry => false) FROM job_claim('claim_once') c;
SELECT state, error FROM job_status WHERE queue = 'claim_once' ORDER BY id DESC LIMIT 1;
WITH c AS (SELECT * FROM job_claim('claim_once')) SELECT count(*) FROM c;

-- a parent completed and its child submitted in one statement, in both orders, and claimed in the same transaction
SELECT job_submit('parent', queue => 'claim_once') AS parent \gset
SELECT token AS token FROM job_claim('claim_once') \gset
BEGIN;
SELECT job_complete(:parent, :token) IS NOT NULL AS completed, job_submit('after', queue => 'claim_once', depends_on => ARRAY[:parent]) IS NOT NULL AS submitted;
SELECT kind FROM job_claim('claim_once');
ROLLBACK;
BEGIN;
SELECT job_submit('before', queue => 'claim_once', depends_on => ARRAY[:parent]) IS NOT NULL AS submitted, job_complete(:parent, :token, '7') IS NOT NULL AS completed;
SELECT kind, inputs -> :'parent' AS input FROM job_claim('claim_once');
COMMIT;
SELECT kind, state FROM job_status WHERE queue = 'claim_once' ORDER BY id DESC LIMIT 2;
SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'claim_once';

-- submitted and claimed in one transaction, and in one statement
BEGIN;
SELECT job_submit('both', queue => 'claim_both') AS both \gset
SELECT kind FROM job_claim('claim_both');
SELECT kind, state FROM job_status WHERE id = :both;
COMMIT;
SELECT state FROM job_status WHERE id = :both;
SELECT s.id IS NOT NULL AS submitted, c.kind FROM (SELECT job_submit('statement', queue => 'claim_both') AS id OFFSET 0) s, LATERAL job_claim('claim_both', 'w' || s.id) c;
SELECT count(job_complete(l.job_id, l.token)) FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue = 'claim_both';

-- a rollback, and one to a savepoint: as if it had never been claimed
SELECT count(job_submit('back ' || n, queue => 'claim_back')) FROM generate_series(1, 3) n;
BEGIN;
SELECT kind FROM job_claim('claim_back', max_jobs => 2);
SELECT kind FROM job_claim('claim_back', max_jobs => 2);
ROLLBACK;
SELECT kind, state, attempt FROM job_status WHERE queue = 'claim_back' ORDER BY id;
BEGIN;
SELECT kind FROM job_claim('claim_back');
SAVEPOINT a;
SELECT kind FROM job_claim('claim_back');
SAVEPOINT b;
SELECT kind FROM job_claim('claim_back');
SELECT kind FROM job_claim('claim_back');
ROLLBACK TO b;
SELECT kind FROM job_claim('claim_back');
ROLLBACK TO a;
SELECT kind, attempt FROM job_claim('claim_back', max_jobs => 9);
ROLLBACK TO a;
RELEASE a;
COMMIT;
SELECT kind, state, attempt FROM job_status WHERE queue = 'claim_back' ORDER BY id;
SELECT kind, attempt FROM job_claim('claim_back', max_jobs => 9);
SELECT count(*) FROM job_attempts a JOIN job_status j ON j.id = a.job_id WHERE j.queue = 'claim_back';

-- an error that a block catches gives its claim back, too
SELECT job_submit('caught', queue => 'claim_caught') AS caught \gset
DO $$
BEGIN
    BEGIN
        PERFORM job_complete(job_id, token + 1) FROM job_claim('claim_caught');
    EXCEPTION WHEN SQLSTATE 'JQ001' THEN
        RAISE NOTICE 'stale';
    END;
    PERFORM job_complete(job_id, token) FROM job_claim('claim_caught');
END $$;
SELECT state, attempt FROM job_status WHERE id = :caught;

-- a cursor hands out what was claimed when it began
SELECT count(job_submit('cursor ' || n, queue => 'claim_cursor')) FROM generate_series(1, 3) n;
BEGIN;
DECLARE c CURSOR FOR SELECT kind FROM job_claim('claim_cursor', max_jobs => 2);
FETCH 1 FROM c;
SELECT running FROM job_queue_status WHERE queue = 'claim_cursor';
CLOSE c;
COMMIT;
SELECT ready, running FROM job_queue_status WHERE queue = 'claim_cursor';

-- under REPEATABLE READ and SERIALIZABLE, what the transaction itself made ready included
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT kind FROM job_claim('claim_cursor');
SELECT job_submit('own', queue => 'claim_cursor') AS own \gset
SELECT kind FROM job_claim('claim_cursor');
SELECT job_complete(:own, token) FROM job_lease WHERE job_id = :own;
COMMIT;
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT job_submit('own', queue => 'claim_cursor') AS own \gset
SELECT job_complete(c.job_id, c.token) FROM job_claim('claim_cursor') c;
COMMIT;
SELECT kind, state FROM job_status WHERE queue = 'claim_cursor' AND kind = 'own';

-- over what is first in line: an expired job is decided on the way and not handed out
SELECT job_submit('expired', queue => 'claim_expired', expires_at => '2000-01-01', priority => 1) AS expired \gset
SELECT job_submit('fine', queue => 'claim_expired', expires_at => '2999-01-01') AS fine \gset
SELECT kind FROM job_claim('claim_expired');
CALL job_wait(:expired, '30 s');
SELECT kind, state FROM job_status WHERE queue = 'claim_expired' ORDER BY id;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'claim%' AND finished_at IS NULL;
