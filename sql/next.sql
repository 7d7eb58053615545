-- job_next: complete a job and claim the next, in one transaction
\set VERBOSITY terse

-- by the same worker, with the lease that the claim asked for; the result is kept
SELECT count(job_submit('job ' || n, queue => 'next')) FROM generate_series(1, 4) n;
SELECT job_id, token FROM job_claim('next', 'worker', lease => '5 min') \gset
SELECT job_id AS job_id2, token AS token2, attempt, kind, args, inputs FROM job_next(:job_id, :token, '{"n": 1}') \gset
\echo :attempt :kind :args :inputs
SELECT kind, state, result, worker, lease_until - started_at AS lease FROM job_status WHERE queue = 'next' ORDER BY id;

-- repeated, as after a lost reply: nothing is completed, and the lease is the next job's own
SELECT job_id AS job_id3, token AS token3, kind, lease_until - clock_timestamp() < '2 min' AS own_lease FROM job_next(:job_id, :token, '{"n": 2}') \gset
\echo :kind :own_lease
SELECT kind, state, result, worker FROM job_status WHERE queue = 'next' ORDER BY id;

-- a token that is stale, was never given, or is of another job; no such job: nothing is claimed
SELECT job_release(:job_id3, :token3);
\set VERBOSITY sqlstate
SELECT * FROM job_next(:job_id3, :token3);
SELECT * FROM job_next(:job_id2, :token2 # 1);
SELECT * FROM job_next(:job_id2, :token3);
SELECT * FROM job_next(-1, 1);
-- bad arguments
\set VERBOSITY terse
SELECT * FROM job_next(NULL, 1);
SELECT * FROM job_next(1, NULL);
SELECT * FROM job_next(:job_id2, :token2, max_jobs => 0);
SELECT * FROM job_next(:job_id2, :token2, queues => '{next,NULL}');
SELECT * FROM job_next(:job_id2, :token2, queues => '{a b}');
SELECT * FROM job_next(:job_id2, :token2, queues => '{{next,next}}');
SET jobq.max_result_size = '1kB';
\set VERBOSITY sqlstate
SELECT * FROM job_next(:job_id2, :token2, to_jsonb(repeat('x', 1100)));
\set VERBOSITY terse
RESET jobq.max_result_size;
SELECT kind, state FROM job_status WHERE queue = 'next' ORDER BY id;

-- a rollback takes both back
BEGIN;
SELECT kind FROM job_next(:job_id2, :token2, max_jobs => 2);
ROLLBACK;
SELECT kind, state FROM job_status WHERE queue = 'next' ORDER BY id;
-- several, in the order of a claim; then there are none
SELECT array_agg(job_id) AS ids, array_agg(token) AS tokens, array_agg(kind) AS kinds FROM job_next(:job_id2, :token2, max_jobs => 9) \gset
\echo :kinds
SELECT accepted FROM job_complete_many(:'ids', :'tokens');
SELECT job_submit('last', queue => 'next') IS NOT NULL AS ok;
SELECT job_id, token FROM job_claim('next') \gset
SELECT count(*) FROM job_next(:job_id, :token);
SELECT kind, state, worker FROM job_status WHERE queue = 'next' ORDER BY id;

-- what the completion made ready can be claimed at once, by priority as ever, and has its result
SELECT array_agg(id) AS ids FROM job_submit_many('[{"name": "a", "kind": "a", "queue": "next_dag", "priority": 5},
    {"name": "b", "kind": "b", "queue": "next_dag", "depends_on": ["a"]}, {"name": "c", "kind": "c", "queue": "next_dag", "depends_on": ["a"], "priority": 2},
    {"kind": "d", "queue": "next_dag", "depends_on": ["b", "c"]}, {"kind": "alone", "queue": "next_dag", "priority": 1}]') id \gset
SELECT job_id, token FROM job_claim('next_dag') \gset
SELECT job_id, token, kind, inputs FROM job_next(:job_id, :token, '"of a"') \gset
\echo :kind :inputs
SELECT job_id, token, kind FROM job_next(:job_id, :token, '"of c"') \gset
\echo :kind
SELECT job_id, token, kind FROM job_next(:job_id, :token) \gset
\echo :kind
SELECT job_id, token, kind, inputs FROM job_next(:job_id, :token, '"of b"') \gset
\echo :kind :inputs
SELECT count(*) FROM job_next(:job_id, :token);
SELECT kind, state FROM job_status WHERE queue = 'next_dag' ORDER BY id;
-- also under a snapshot of the transaction's own
SELECT count(*) FROM job_submit_many('[{"name": "p", "kind": "p", "queue": "next_rr"}, {"kind": "q", "queue": "next_rr", "depends_on": ["p"]}]');
BEGIN ISOLATION LEVEL REPEATABLE READ;
SELECT job_id, token FROM job_claim('next_rr') \gset
SELECT job_id, token, kind, inputs ->> 'p' AS input FROM job_next(:job_id, :token, '1') \gset
\echo :kind :input
SELECT count(*) FROM job_next(:job_id, :token);
COMMIT;

-- other queues than the job's; a paused one gives nothing
SELECT count(job_submit(queue, queue => queue)) FROM unnest('{next_a,next_b,next_c}'::text[]) queue;
SELECT job_queue_set('next_c', paused => true);
SELECT job_id, token FROM job_claim('next_a') \gset
SELECT job_id, token, kind FROM job_next(:job_id, :token, queues => '{next_c,next_b}') \gset
\echo :kind
SELECT count(*) FROM job_next(:job_id, :token, queues => '{next_c}');
SELECT job_queue_set('next_c', paused => false);
SELECT job_id, token FROM job_claim('next_c') \gset
SELECT count(*) FROM job_next(:job_id, :token, queues => '{}');
SELECT kind, state FROM job_status WHERE queue LIKE 'next__' ORDER BY id;

-- without the privilege on the queue to claim from, the job is not completed either
CREATE ROLE regress_next;
SELECT job_grant('regress_next', 'next_p', 'work');
SELECT count(job_submit('mine', queue => 'next_p')) FROM generate_series(1, 2);
SET ROLE regress_next;
SELECT job_id, token FROM job_claim('next_p') \gset
SELECT * FROM job_next(:job_id, :token, queues => '{next_a}');
\echo :LAST_ERROR_SQLSTATE
SELECT state FROM job_status;
SELECT kind FROM job_next(:job_id, :token);
RESET ROLE;
SELECT kind, state FROM job_status WHERE queue = 'next_p' ORDER BY id;
SELECT job_revoke('regress_next', 'next_p', 'work');
DROP ROLE regress_next;

-- what has claimed cannot be prepared
SELECT count(job_submit('prepared', queue => 'next_2pc')) FROM generate_series(1, 2);
SELECT job_id, token FROM job_claim('next_2pc') \gset
BEGIN;
SELECT kind FROM job_next(:job_id, :token);
PREPARE TRANSACTION 'next';

SELECT count(job_complete(l.job_id, l.token)) > 0 AS ok FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.queue LIKE 'next%';
SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'next%' AND finished_at IS NULL;
