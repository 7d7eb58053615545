-- job_submit: every argument, and the state that a job begins in
SET jobq.min_lease = 0;
\set VERBOSITY terse
SET TimeZone = 'UTC';

-- what nothing but a kind means
SELECT job_submit('plain') AS plain \gset
SELECT queue, kind, state, priority, attempt, lost, args, result, error, tags, parent, worker, progress, cancel_requested,
    submitted_by = current_user::regrole AS submitted_by_me, abs(extract(epoch FROM clock_timestamp() - submitted_at)) < 60 AS submitted_now,
    run_at, started_at, finished_at, lease_until
FROM job_status WHERE id = :plain;
SELECT queue, paused FROM job_queue_status WHERE queue = 'default';
SELECT attempt, kind, args, inputs FROM job_claim() WHERE job_id = :plain;
SELECT job_complete(job_id, token) FROM job_lease WHERE job_id = :plain;

-- all of it, by position and by name
SELECT job_submit('by position', '{"a": [1, null]}', 'submit', -5, '2999-01-01', NULL, 'all_success', NULL, 7, 2, '3 s', '1 min', '2 min',
    '2999-02-01', NULL, '["x"]', true, 'key', '1 day', 'skip', false, false, 'tenant', '{a}', 'cache', NULL, 'first', NULL) AS position \gset
SELECT job_submit(kind => 'by name', args => '{"b": {}}', queue => 'submit', priority => 9, run_at => '2999-01-02', depends_on => ARRAY[:position],
    trigger_rule => 'quorum', quorum => 1, max_attempts => 1, max_lost => 1, backoff => '1 day', timeout => '1 month', lease => '1 us',
    expires_at => '2999-02-02', parent => :position, tags => '{"t": 1}', notify => false, unique_key => 'other', unique_for => '1 us', on_conflict => 'error', name => 'second') AS named \gset
SELECT kind, state, priority, args, tags, parent = :position AS parent, run_at FROM job_status WHERE id IN (:position, :named) ORDER BY id;
SELECT kind, expires_at, backoff, timeout, lease, max_attempts, max_lost, notify, unique_key, unique_for, partition, requires, affinity, name FROM job WHERE id IN (:position, :named) ORDER BY id;

-- NULL is the default, wherever one can be
SELECT job_submit('nulls', '{}', 'submit', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL) AS nulls \gset
SELECT state, priority FROM job_status WHERE id = :nulls;

-- run_in counts from now(); a month has 30 days, and 0 is at once
BEGIN;
SELECT job_submit('in a month', queue => 'submit_in', run_in => '1 month 1 s') AS month \gset
SELECT job_submit('at once', queue => 'submit_in', run_in => '0') AS at_once \gset
SELECT kind, state, run_at - now() AS run_in FROM job_status WHERE queue = 'submit_in' ORDER BY id;
COMMIT;

-- names: any may have one, and more than one the same
SELECT count(job_submit('named', queue => 'submit_in', name => 'twice')) FROM generate_series(1, 2);
SELECT job_submit('named', queue => 'submit_in', name => repeat('ü', 64)) IS NOT NULL AS ok;
SELECT length(name), count(*) FROM job WHERE queue = 'submit_in' GROUP BY name ORDER BY name;

-- states to begin in
SELECT job_submit('run_at in the past', queue => 'submit', run_at => '1999-12-31') AS past \gset
SELECT job_submit('run_at of the epoch', queue => 'submit', run_at => '2000-01-01 00:00:00+00') AS epoch \gset
SELECT job_submit('no parents', queue => 'submit', depends_on => '{}') AS none \gset
SELECT job_submit('no parents, one_success', queue => 'submit', depends_on => '{}', trigger_rule => 'one_success') AS none2 \gset
SELECT job_submit('undecided parent', queue => 'submit', depends_on => ARRAY[:past]) AS waits \gset
SELECT job_submit('undecided parent, always', queue => 'submit', depends_on => ARRAY[:past], trigger_rule => 'always') AS always \gset
SELECT job_submit('undecided parents, unsorted', queue => 'submit', depends_on => ARRAY[:waits, :past, :none]) AS unsorted \gset
SELECT job_submit('decided parent', queue => 'submit', depends_on => ARRAY[:plain]) AS decided \gset
SELECT job_submit('decided parent, later', queue => 'submit', depends_on => ARRAY[:plain], run_at => '2999-01-01') AS later \gset
SELECT job_submit('hopeless: skipped', queue => 'submit', depends_on => ARRAY[:plain], trigger_rule => 'all_failed') AS skipped \gset
SELECT job_submit('child of skipped', queue => 'submit', depends_on => ARRAY[:skipped]) AS skipped2 \gset
SELECT job_submit('cancelled', queue => 'submit') AS cancelled \gset
SELECT job_cancel(:cancelled);
SELECT job_submit('child of cancelled', queue => 'submit', depends_on => ARRAY[:cancelled]) AS upstream \gset
SELECT job_submit('child of upstream_failed', queue => 'submit', depends_on => ARRAY[:upstream, :waits]) AS upstream2 \gset
SELECT kind, state, date_trunc('second', run_at) AS run_at, finished_at IS NOT NULL AS finished FROM job_status WHERE queue = 'submit' AND id > :nulls ORDER BY id;
SELECT upstream = :waits AS waits, upstream = :past AS past, upstream = :none AS none FROM job_dependency WHERE downstream = :unsorted ORDER BY upstream;

-- a job that expired before it was submitted is never run
SELECT job_submit('expired', queue => 'submit_expired', expires_at => '2000-01-01') AS expired \gset
SELECT job_submit('child of expired', queue => 'submit_expired', depends_on => ARRAY[:expired]) AS expired2 \gset
SELECT count(*) FROM job_claim('submit_expired');
CALL job_wait(:expired2, '1 min');
SELECT kind, state, attempt, error FROM job_status WHERE queue = 'submit_expired' ORDER BY id;

-- names as long as they can be, and odd ones
SELECT job_submit(repeat('k', 128), queue => repeat('q', 50)) IS NOT NULL AS ok;
SELECT job_submit(repeat('ü', 64), queue => '-._AZaz09') IS NOT NULL AS ok;
SELECT job_submit(' "quoted'' %s \n ', queue => '..') IS NOT NULL AS ok;
SELECT queue, length(kind), octet_length(kind) FROM job_status WHERE queue IN (repeat('q', 50), '-._AZaz09', '..') ORDER BY id;
SELECT kind = repeat('ü', 64) AS same FROM job_claim('-._AZaz09', repeat('w', 128));
SELECT length(worker) FROM job_status WHERE queue = '-._AZaz09';
SELECT count(job_cancel(id)) FROM job_status WHERE queue IN (repeat('q', 50), '-._AZaz09', '..');

-- priorities at their ends
SELECT job_submit('low', queue => 'submit_priority', priority => -32768) AS low \gset
SELECT job_submit('high', queue => 'submit_priority', priority => 32767) AS high \gset
SELECT kind FROM job_claim('submit_priority', max_jobs => 2);

-- a rollback leaves nothing
BEGIN;
SELECT job_submit('gone', queue => 'submit_gone') IS NOT NULL AS ok;
SAVEPOINT s;
SELECT job_submit('gone too', queue => 'submit_gone') IS NOT NULL AS ok;
ROLLBACK TO s;
SELECT kind, state FROM job_status WHERE queue = 'submit_gone';
ROLLBACK;
SELECT count(*) FROM job_status WHERE queue = 'submit_gone';
SELECT count(*) FROM job_queue_status WHERE queue = 'submit_gone';

-- many in one statement, each depending on the one before it
WITH RECURSIVE chain(n, id) AS (
    SELECT 1, job_submit('chain', queue => 'submit_chain')
    UNION ALL
    SELECT n + 1, job_submit('chain', queue => 'submit_chain', depends_on => ARRAY[id]) FROM chain WHERE n < 5)
SELECT n FROM chain;
SELECT state, count(*) FROM job_status WHERE queue = 'submit_chain' GROUP BY state ORDER BY state;
SELECT count(*) FROM job_dependency d JOIN job j ON j.id = d.downstream WHERE j.queue = 'submit_chain' AND d.upstream < d.downstream;

SELECT count(job_cancel(id)) > 0 AS ok FROM job_status WHERE queue LIKE 'submit%' AND finished_at IS NULL;
