-- job_submit_many: many jobs at once, with names for one another
\set VERBOSITY terse
SET TimeZone = 'UTC';

SELECT count(*) FROM job_submit_many('[]');

-- ids come back in input order and grow along the edges, whatever the order
SELECT array_agg(id) AS ids FROM job_submit_many('[
    {"queue": "many", "kind": "d", "name": "d", "depends_on": ["b", "c"]},
    {"queue": "many", "kind": "b", "name": "b", "depends_on": ["a"]},
    {"queue": "many", "kind": "a", "name": "a"},
    {"queue": "many", "kind": "c", "name": "c", "depends_on": ["a"], "trigger_rule": "all_done"},
    {"queue": "many", "kind": "free"}]') id \gset
SELECT n, kind, state FROM unnest(:'ids'::bigint[]) WITH ORDINALITY u(id, n) JOIN job_status USING (id) ORDER BY n;
SELECT p.kind AS parent, c.kind AS child, p.id < c.id AS ascending FROM job_dependency d JOIN job p ON p.id = d.upstream JOIN job c ON c.id = d.downstream
WHERE c.queue = 'many' ORDER BY 1, 2;

-- names and ids together; a name may look like a number
SELECT job_submit('outside', queue => 'many_more') AS outside \gset
SELECT array_agg(id) AS ids FROM job_submit_many(jsonb_build_array(
    jsonb_build_object('queue', 'many_more', 'kind', 'x', 'name', '1'),
    jsonb_build_object('queue', 'many_more', 'kind', 'y', 'name', ' ', 'depends_on', jsonb_build_array('1', :outside)),
    jsonb_build_object('queue', 'many_more', 'kind', 'z', 'depends_on', jsonb_build_array(:outside, ' ', '1'), 'trigger_rule', 'quorum', 'quorum', 3))) id \gset
SELECT c.kind AS child, p.kind AS parent FROM job_dependency d JOIN job p ON p.id = d.upstream JOIN job c ON c.id = d.downstream
WHERE c.queue = 'many_more' ORDER BY c.id, p.id;
SELECT kind, state FROM job_status WHERE queue = 'many_more' ORDER BY id;
SELECT kind, name FROM job WHERE queue = 'many_more' ORDER BY id;

-- every key
SELECT job_submit_many(jsonb_build_array(jsonb_build_object('kind', 'all', 'args', '{"a": 1}'::jsonb, 'queue', 'many_all', 'priority', -3,
    'run_at', '2999-01-01 00:00:00+00', 'depends_on', jsonb_build_array(:outside), 'trigger_rule', 'quorum', 'quorum', 1, 'max_attempts', 4,
    'max_lost', 6, 'backoff', '2 s', 'timeout', '3 min', 'lease', '00:00:04', 'expires_at', '2999-01-02 00:00:00+00', 'parent', :outside,
    'tags', '[1, {"x": null}]'::jsonb, 'notify', true, 'name', 'n'))) AS id \gset
SELECT kind, args, queue, priority, run_at, trim(tags::text) AS tags, parent = :outside AS parent FROM job_status WHERE id = :id;
SELECT quorum, max_attempts, max_lost, backoff, timeout, lease, expires_at, notify, name FROM job WHERE id = :id;
BEGIN;
SELECT job_submit_many('[{"kind": "later", "queue": "many_in", "run_in": "2 days", "timeout": "0"}]') AS id \gset
SELECT state, run_at - now() AS run_in FROM job_status WHERE id = :id;
SELECT timeout FROM job WHERE id = :id;
ROLLBACK;

-- null is the same as leaving it out; numbers may be written in any way
SELECT count(*) FROM job_submit_many('[{"kind": "nulls", "args": null, "queue": "many_nulls", "priority": null, "run_at": null, "depends_on": null,
    "trigger_rule": null, "quorum": null, "max_attempts": null, "max_lost": null, "backoff": null, "timeout": null, "lease": null,
    "expires_at": null, "parent": null, "tags": null, "notify": null, "name": null, "run_in": null},
    {"kind": "numbers", "queue": "many_nulls", "priority": 1.0e1, "max_attempts": 300e-2}]');
SELECT kind, args, priority, tags FROM job_status WHERE queue = 'many_nulls' ORDER BY id;

-- parents of every state, those that are decided here included
SELECT job_cancel(:outside);
SELECT array_agg(id) AS ids FROM job_submit_many(jsonb_build_array(
    jsonb_build_object('queue', 'many_decided', 'kind', 'first', 'name', 'first', 'depends_on', jsonb_build_array(:outside)),
    jsonb_build_object('queue', 'many_decided', 'kind', 'second', 'name', 'second', 'depends_on', jsonb_build_array('first')),
    jsonb_build_object('queue', 'many_decided', 'kind', 'cleanup', 'depends_on', jsonb_build_array('second', 'first'), 'trigger_rule', 'all_done'),
    jsonb_build_object('queue', 'many_decided', 'kind', 'alarm', 'depends_on', jsonb_build_array('second'), 'trigger_rule', 'one_failed'))) id \gset
SELECT kind, state FROM job_status WHERE queue = 'many_decided' ORDER BY id;

-- as one transaction sees it
BEGIN;
SELECT count(*) FROM job_submit_many('[{"kind": "p", "queue": "many_tx", "name": "p"}, {"kind": "c", "queue": "many_tx", "depends_on": ["p"]}]');
SELECT kind FROM job_claim('many_tx', max_jobs => 9);
ROLLBACK;
SELECT count(*) FROM job_status WHERE queue = 'many_tx';

-- the rows can be the source of another statement
CREATE TEMP TABLE submitted AS SELECT * FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object('kind', 'bulk', 'queue', 'many_bulk'))
    FROM generate_series(1, 1000))) WITH ORDINALITY AS s(id, n);
SELECT count(*), count(DISTINCT id), bool_and(id > before) AS ascending FROM (SELECT id, lag(id, 1, 0::bigint) OVER (ORDER BY n) AS before FROM submitted) x;
SELECT ready FROM job_queue_status WHERE queue = 'many_bulk';
SELECT bool_and(same) FROM (SELECT c.job_id = s.id AS same FROM job_claim('many_bulk', max_jobs => 2000) WITH ORDINALITY c(job_id, token, attempt, kind, args, inputs, key, lease_until, flow, n)
    JOIN submitted s USING (n)) x;
SELECT count(*) FROM (SELECT job_complete(job_id, token) FROM job_lease WHERE job_id IN (SELECT id FROM submitted)) x;
DROP TABLE submitted;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'many%' AND finished_at IS NULL;
