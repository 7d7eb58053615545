-- unique_key, unique_for, on_conflict: who has a key, and until when
\set VERBOSITY terse
CREATE FUNCTION pg_temp.show(queue text) RETURNS TABLE (kind text, state text, unique_key text, args jsonb, priority int, error text) LANGUAGE sql AS
    $$ SELECT kind, state, unique_key, args, priority, error FROM job_status s WHERE s.queue = show.queue ORDER BY id $$;
CREATE FUNCTION pg_temp.keys(queue text) RETURNS TABLE (unique_key text, kind text, is_free_later boolean) LANGUAGE sql AS
    $$ SELECT u.unique_key, j.kind, u.until IS NOT NULL FROM job_unique u JOIN job j ON j.id = u.job_id WHERE j.queue = keys.queue ORDER BY 1, 2 $$;

-- an error without the ids in it
CREATE FUNCTION pg_temp.problem(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text;
    hint text;
BEGIN
    EXECUTE statement;
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL, hint = PG_EXCEPTION_HINT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, '')), '(job|Job) \d+', '\1 N', 'g');
END $$;

-- bad input, and nothing is changed
SELECT job_submit('x', queue => 'uq_bad', unique_for => '1 s');
SELECT job_submit('x', queue => 'uq_bad', unique_key => 'k', unique_for => '0');
SELECT job_submit('x', queue => 'uq_bad', unique_key => 'k', unique_for => '-1 s');
SELECT job_submit('x', queue => 'uq_bad', unique_key => '');
SELECT job_submit('x', queue => 'uq_bad', unique_key => repeat('k', 129));
SELECT job_submit('x', queue => 'uq_bad', unique_key => 'k', on_conflict => 'drop');
SELECT job_submit('x', queue => 'uq_bad', unique_key => 'k', on_conflict => 'replace', depends_on => ARRAY[1]);
SELECT job_submit_many('[{"kind": "x", "queue": "uq_bad", "unique_for": "1 s"}]');
SELECT job_submit_many('[{"kind": "x", "queue": "uq_bad", "unique_key": 1}]');
SELECT job_submit_many('[{"kind": "x", "queue": "uq_bad", "unique_key": "k", "on_conflict": true}]');
SELECT job_submit_many('[{"kind": "x", "queue": "uq_bad", "name": "a"}, {"kind": "x", "queue": "uq_bad", "unique_key": "k", "on_conflict": "replace", "depends_on": ["a"]}]');
SELECT count(*) FROM job WHERE queue = 'uq_bad';

-- keep, skip and error; a key is of its queue
SELECT job_submit('first', '{"n": 1}', queue => 'uq', unique_key => 'k') AS first \gset
SELECT job_submit('second', '{"n": 2}', queue => 'uq', unique_key => 'k') = :first AS kept;
SELECT job_submit('third', queue => 'uq', unique_key => 'k', on_conflict => 'skip') AS skipped;
SELECT pg_temp.problem($$SELECT job_submit('fourth', queue => 'uq', unique_key => 'k', on_conflict => 'error')$$);
SELECT job_submit('other queue', queue => 'uq2', unique_key => 'k') <> :first AS submitted;
SELECT job_submit('other key', queue => 'uq', unique_key => 'K') <> :first AS submitted;
SELECT job_submit('no key', queue => 'uq', on_conflict => 'cancel') <> :first AS submitted;
SELECT job_submit('null', queue => 'uq', unique_key => NULL, unique_for => NULL, on_conflict => NULL) <> :first AS submitted;
SELECT * FROM pg_temp.show('uq');
SELECT * FROM pg_temp.keys('uq');

-- taken while it runs, and between its attempts; free when it is decided
SELECT job_id, token FROM job_claim('uq') \gset
SELECT job_submit('second', queue => 'uq', unique_key => 'k', on_conflict => 'skip');
SELECT job_snooze(:job_id, :token, '1 hour');
SELECT job_submit('second', queue => 'uq', unique_key => 'k', on_conflict => 'skip');
SELECT job_cancel(:first);
SELECT job_submit('second', queue => 'uq', unique_key => 'k', on_conflict => 'skip') AS second \gset
SELECT * FROM pg_temp.keys('uq');

-- in one statement, in one transaction, back to a savepoint
BEGIN;
SELECT job_submit('a', queue => 'uq_tx', unique_key => 'k') = job_submit('b', queue => 'uq_tx', unique_key => 'k') AS same;
SELECT job_complete(job_id, token) FROM job_claim('uq_tx');
SAVEPOINT s;
SELECT job_submit('c', queue => 'uq_tx', unique_key => 'k') AS c \gset
ROLLBACK TO s;
SELECT job_submit('d', queue => 'uq_tx', unique_key => 'k') AS d \gset
SELECT :c <> :d AS other;
SELECT job_cancel(:d);
ROLLBACK;
SELECT job_submit('e', queue => 'uq_tx', unique_key => 'k') AS e \gset
BEGIN;
SELECT job_cancel(:e), job_submit('f', queue => 'uq_tx', unique_key => 'k') <> :e AS submitted;
ROLLBACK;
SELECT * FROM pg_temp.keys('uq_tx');

-- every end frees it: completed, failed, expired, decided by those upstream, at once too
SELECT job_submit('p', queue => 'uq_up') AS p \gset
SELECT job_submit('c', queue => 'uq_end', unique_key => 'c', depends_on => ARRAY[:p]) AS c \gset
SELECT job_submit('completes', queue => 'uq_end', unique_key => 'completes') IS NULL;
SELECT job_submit('fails', queue => 'uq_end', unique_key => 'fails') IS NULL;
SELECT unique_key FROM pg_temp.keys('uq_end');
SELECT job_complete(job_id, token) FROM job_claim('uq_end');
SELECT unique_key FROM pg_temp.keys('uq_end');
SELECT job_fail(job_id, token, retry => false) FROM job_claim('uq_end');
SELECT unique_key FROM pg_temp.keys('uq_end');
SELECT job_fail(job_id, token, retry => false) FROM job_claim('uq_up');
SELECT unique_key FROM pg_temp.keys('uq_end');
SELECT job_submit('at once', queue => 'uq_end', unique_key => 'at once', depends_on => ARRAY[:c]) IS NULL;
SELECT * FROM job_submit_many(format('[{"kind": "at once, many", "queue": "uq_end", "unique_key": "at once", "depends_on": [%s]}]', :c)::jsonb) \gset
SELECT kind, state FROM job_status WHERE queue = 'uq_end' ORDER BY id;
SELECT unique_key FROM pg_temp.keys('uq_end');

-- a retry takes it again, or is refused
SELECT id AS fails FROM job WHERE queue = 'uq_end' AND kind = 'fails' \gset
SELECT job_submit('in between', queue => 'uq_end', unique_key => 'fails') AS between \gset
SELECT pg_temp.problem(format('SELECT job_retry(%s)', :fails));
SELECT changed, regexp_replace(problem, '\d+', 'N', 'g') AS problem FROM job_retry_many(ARRAY[:fails]);
SELECT job_cancel(:between), job_retry(:fails), job_retry(:fails);
SELECT * FROM pg_temp.keys('uq_end');
SELECT job_submit('after the retry', queue => 'uq_end', unique_key => 'fails') = :fails AS kept;

-- that another has ended is no end of its key
SELECT job_cancel(:fails), job_submit('for long', queue => 'uq_end', unique_key => 'fails', unique_for => '1 hour') AS long \gset
SELECT pg_temp.problem(format('SELECT job_retry(%s)', :fails)) ~ 'Cancel that job first' AS undecided;
SELECT job_cancel(:long);
SELECT pg_temp.problem(format('SELECT job_retry(%s)', :fails));
DELETE FROM job_unique WHERE job_id = :long;
SELECT job_retry(:fails);

-- one that is opened again by the retry of another takes its key if it is free, else goes on without
SELECT job_retry(:p);
SELECT * FROM pg_temp.keys('uq_end');
SELECT job_fail(job_id, token, retry => false) FROM job_claim('uq_up');
SELECT job_submit('instead', queue => 'uq_end', unique_key => 'c') <> :c AS submitted;
SELECT job_retry(:p);
SELECT * FROM pg_temp.keys('uq_end');
SELECT job_complete(job_id, token) FROM job_claim('uq_up');
SELECT kind, state FROM job_status WHERE queue = 'uq_end' AND unique_key = 'c' ORDER BY id;
SELECT job_cancel(:c);
SELECT * FROM pg_temp.keys('uq_end');

-- unique_for: until then, whatever became of the job
SELECT job_submit('t1', queue => 'uq_for', unique_key => 'k', unique_for => '1 hour') AS t1 \gset
SELECT job_complete(job_id, token) FROM job_claim('uq_for');
SELECT * FROM pg_temp.keys('uq_for');
SELECT job_submit('t2', queue => 'uq_for', unique_key => 'k') = :t1 AS kept;
SELECT job_submit('t2', queue => 'uq_for', unique_key => 'k', on_conflict => 'skip') AS skipped;
-- also when the job is gone: the id is of no use then
BEGIN;
SELECT job_delete(:t1);
SELECT job_submit('t2', queue => 'uq_for', unique_key => 'k') = :t1 AS kept;
SELECT pg_temp.problem($$SELECT job_submit_many('[{"kind": "t2", "name": "t2", "queue": "uq_for", "unique_key": "k"}, {"kind": "t3", "depends_on": ["t2"]}]')$$);
SELECT job_submit('t2', queue => 'uq_for', unique_key => 'k', on_conflict => 'replace') <> :t1 AS submitted;
ROLLBACK;
-- its time has come: whoever comes first has it, the next job or the background worker
UPDATE job_unique SET until = now() - interval '1 s' WHERE job_id = :t1;
SELECT job_submit('t2', queue => 'uq_for', unique_key => 'k', unique_for => '1 hour', on_conflict => 'skip') <> :t1 AS submitted;
SELECT * FROM pg_temp.keys('uq_for');
-- a job that lasts longer than that frees it when it is decided
UPDATE job SET submitted_at = submitted_at - interval '2 hours' WHERE queue = 'uq_for' AND kind = 't2';
SELECT job_complete(job_id, token) FROM job_claim('uq_for');
SELECT * FROM pg_temp.keys('uq_for');
-- its own key is no obstacle to a retry
SELECT job_submit('t3', queue => 'uq_for', unique_key => 'k', unique_for => '1 hour') AS t3 \gset
SELECT job_fail(job_id, token, retry => false) FROM job_claim('uq_for');
SELECT * FROM pg_temp.keys('uq_for');
SELECT job_retry(:t3);
SELECT * FROM pg_temp.keys('uq_for');
-- replace and cancel take it over all the same
SELECT job_cancel(:t3);
SELECT job_submit('t4', queue => 'uq_for', unique_key => 'k', unique_for => '1 hour', on_conflict => 'replace') AS t4 \gset
SELECT job_complete(job_id, token) FROM job_claim('uq_for');
SELECT job_submit('t5', queue => 'uq_for', unique_key => 'k', on_conflict => 'cancel') AS t5 \gset
SELECT kind, state, depends_on IS NULL AS at_once FROM job_status WHERE queue = 'uq_for' ORDER BY id;
-- the background worker removes what is free
SELECT job_submit('soon', queue => 'uq_soon', unique_key => 'k', unique_for => '0.2 s') IS NULL;
SELECT job_complete(job_id, token) FROM job_claim('uq_soon');
DO $$
BEGIN
    FOR i IN 1 .. 6000 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM job_unique u JOIN job j ON j.id = u.job_id WHERE j.queue = 'uq_soon');
        PERFORM pg_sleep(0.01);
        COMMIT;
    END LOOP;
END $$;
SELECT * FROM pg_temp.keys('uq_soon');

-- replace: ready, ready to scheduled and back, held, waiting
SELECT job_submit('r', '{"n": 1}', queue => 'uq_rep', unique_key => 'k', tags => '{"t": 1}', max_attempts => 3, timeout => '1 s') AS r \gset
SELECT job_submit('later', queue => 'uq_rep') IS NULL;
SELECT job_submit('r', '{"n": 2}', queue => 'uq_rep', unique_key => 'k', on_conflict => 'replace') = :r AS replaced;
SELECT * FROM pg_temp.show('uq_rep');
SELECT tags, max_attempts, timeout FROM job WHERE id = :r;
SELECT job_submit('r', '{"n": 3}', queue => 'uq_rep', unique_key => 'k', on_conflict => 'replace', run_in => '1 hour', priority => 5, expires_at => '2999-01-01', tags => '{"t": 3}',
    max_attempts => 4, max_lost => 5, backoff => '1 min', timeout => '2 min', lease => '3 min') = :r AS replaced;
SELECT state, priority, args, tags, max_attempts, expires_at = '2999-01-01' AS expires FROM job_status WHERE id = :r;
SELECT max_lost, backoff, timeout, lease FROM job WHERE id = :r;
SELECT count(*) FROM job_expiry WHERE job_id = :r;
SELECT job_hold(:r);
SELECT job_submit('r', '{"n": 4}', queue => 'uq_rep', unique_key => 'k', on_conflict => 'replace', priority => 6, run_at => '2998-01-01') = :r AS replaced;
SELECT state, held, priority, args, run_at = '2998-01-01' AS at, expires_at FROM job_status WHERE id = :r;
SELECT job_submit('r', '{"n": 5}', queue => 'uq_rep', unique_key => 'k', on_conflict => 'replace') = :r AS replaced;
SELECT job_unhold(:r);
SELECT * FROM pg_temp.show('uq_rep');
-- the place is kept with the priority
SELECT job_submit('first', queue => 'uq_place', unique_key => 'k') AS first \gset
SELECT job_submit('second', queue => 'uq_place') IS NULL;
SELECT since FROM job_ready WHERE job_id = :first \gset
SELECT job_submit('first', '{"n": 2}', queue => 'uq_place', unique_key => 'k', on_conflict => 'replace') = :first AS replaced;
SELECT since = :'since' AS as_long FROM job_ready WHERE job_id = :first;
SELECT kind, args FROM job_claim('uq_place');
-- a job that has begun is not replaced, and neither is one that is between attempts
SELECT job_submit('r2', queue => 'uq_begun', unique_key => 'k') AS r2 \gset
SELECT job_id, token FROM job_claim('uq_begun') \gset
SELECT job_submit('r3', '{"n": 3}', queue => 'uq_begun', unique_key => 'k', on_conflict => 'replace') AS r3 \gset
SELECT :r2 <> :r3 AS submitted;
SELECT * FROM pg_temp.keys('uq_begun');
SELECT job_release(:job_id, :token);
SELECT * FROM pg_temp.show('uq_begun');
SELECT job_submit('r3', '{"n": 4}', queue => 'uq_begun', unique_key => 'k', on_conflict => 'replace') = :r3 AS replaced;
SELECT job_cancel(:r2);
SELECT * FROM pg_temp.keys('uq_begun');
SELECT job_submit('other kind', queue => 'uq_begun', unique_key => 'k', on_conflict => 'replace');

-- cancel: what does not run is cancelled at once, what runs is asked to stop and waited for
SELECT job_submit('s1', queue => 'uq_sup', unique_key => 'k') AS s1 \gset
SELECT job_submit('s2', queue => 'uq_sup', unique_key => 'k', on_conflict => 'cancel') AS s2 \gset
SELECT * FROM pg_temp.show('uq_sup');
SELECT job_id, token FROM job_claim('uq_sup') \gset
SELECT job_submit('s3', queue => 'uq_sup', unique_key => 'k', on_conflict => 'cancel', trigger_rule => 'one_success') AS s3 \gset
SELECT job_heartbeat(:job_id, :token);
SELECT kind, state, cancel_requested, depends_on = ARRAY[:s2]::bigint[] AS after FROM job_status WHERE id IN (:s2, :s3) ORDER BY id;
-- it knows nothing else of the other
SELECT count(*) FROM job_parents(:s3);
SELECT count(*) FROM job_children(:s2);
SELECT job_complete(:job_id, :token, '"secret"');
SELECT * FROM pg_temp.show('uq_sup');
SELECT kind, inputs FROM job_claim('uq_sup');
-- beside what it depends on itself: both must be met, and that the other was cancelled is no failure
SELECT job_submit('s4', queue => 'uq_both', unique_key => 'k') AS s4 \gset
SELECT job_id, token FROM job_claim('uq_both') \gset
SELECT job_submit('up', queue => 'uq_up2') AS up \gset
SELECT job_submit('s5', queue => 'uq_both', unique_key => 'k', on_conflict => 'cancel', depends_on => ARRAY[:up]) AS s5 \gset
SELECT job_complete(c.job_id, c.token) FROM job_claim('uq_up2') c;
SELECT state FROM job_status WHERE id = :s5;
SELECT job_fail(:job_id, :token, 'stopped');
SELECT * FROM pg_temp.show('uq_both');
SELECT pg_temp.problem(format($$SELECT job_submit('s6', queue => 'uq_both', unique_key => 'k', on_conflict => 'cancel', depends_on => ARRAY[%s])$$, :s5));
SELECT * FROM pg_temp.keys('uq_both');

-- a job that is another's is not replaced but superseded, unless the caller could change it
CREATE ROLE uq_ada;
CREATE ROLE uq_bob;
CREATE ROLE uq_team;
GRANT uq_team TO uq_bob;
SELECT job_grant(r::regrole, 'uq_whose', 'submit') FROM unnest('{uq_ada,uq_bob,uq_team}'::text[]) r \g /dev/null
SET ROLE uq_ada;
SELECT job_submit('w', '{"of": "ada"}', queue => 'uq_whose', unique_key => 'k') AS ada \gset
SELECT job_submit('w', '{"of": "ada", "n": 2}', queue => 'uq_whose', unique_key => 'k', on_conflict => 'replace') = :ada AS replaced;
SET ROLE uq_bob;
SELECT job_submit('w', '{"of": "bob"}', queue => 'uq_whose', unique_key => 'k', on_conflict => 'replace') AS bob \gset
SELECT id = :bob AS own, args FROM job_status;
SET ROLE uq_team;
SELECT job_submit('w', '{"of": "team"}', queue => 'uq_whose', unique_key => 'k', on_conflict => 'replace') AS team \gset
-- by a member of the role, and by who may operate
SET ROLE uq_bob;
SELECT job_submit('w', '{"of": "team", "by": "bob"}', queue => 'uq_whose', unique_key => 'k', on_conflict => 'replace') = :team AS replaced;
RESET ROLE;
SELECT job_grant('uq_ada', 'uq_whose', 'operate');
SET ROLE uq_ada;
SELECT job_submit('w', '{"of": "team", "by": "ada"}', queue => 'uq_whose', unique_key => 'k', on_conflict => 'replace') = :team AS replaced;
RESET ROLE;
SELECT submitted_by, state, args, error FROM job_status WHERE queue = 'uq_whose' ORDER BY id;
SELECT job_revoke(r::regrole, 'uq_whose', p) FROM unnest('{uq_ada,uq_bob,uq_team}'::text[]) r, unnest('{submit,operate}'::text[]) p \g /dev/null
UPDATE job SET submitted_by = current_user::regrole WHERE queue = 'uq_whose';
DROP ROLE uq_ada, uq_bob, uq_team;

-- many: in one order, ids in input order
SELECT job_submit('m', queue => 'uq_many', unique_key => 'b') AS b \gset
SELECT n, id IS NULL AS skipped, id = :b AS kept FROM job_submit_many('[
    {"kind": "m0", "queue": "uq_many", "unique_key": "c"},
    {"kind": "m1", "queue": "uq_many", "unique_key": "b"},
    {"kind": "m2", "queue": "uq_many", "unique_key": "b", "on_conflict": "skip"},
    {"kind": "m3", "queue": "uq_many"},
    {"kind": "m4", "queue": "uq_many", "unique_key": "a"}]') WITH ORDINALITY AS m (id, n) ORDER BY n;
SELECT * FROM pg_temp.show('uq_many');
SELECT * FROM pg_temp.keys('uq_many');
-- those with one key: the first has it
SELECT n, id IS NULL AS skipped, id = min(id) OVER () AS first FROM job_submit_many('[
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "args": {"n": 0}},
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "on_conflict": "keep", "args": {"n": 1}},
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "on_conflict": "skip"},
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "on_conflict": "replace", "args": {"n": 3}}]') WITH ORDINALITY AS m (id, n) ORDER BY n;
SELECT * FROM pg_temp.show('uq_many2');
SELECT count(*) FROM job_submit_many('[
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "on_conflict": "replace", "args": {"n": 4}},
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "on_conflict": "replace", "args": {"n": 5}},
    {"kind": "m", "queue": "uq_many2", "unique_key": "k", "args": {"n": 6}}]');
SELECT * FROM pg_temp.show('uq_many2');
SELECT count(*) FROM job_submit_many('[{"kind": "n", "queue": "uq_many2", "unique_key": "k", "on_conflict": "cancel", "args": {"n": 7}}]');
SELECT * FROM pg_temp.show('uq_many2');
SELECT job_submit_many('[
    {"kind": "m", "queue": "uq_many3", "unique_key": "k"},
    {"kind": "m", "queue": "uq_many3", "unique_key": "k", "on_conflict": "error"}]');
SELECT job_submit_many('[
    {"kind": "m", "queue": "uq_many3", "unique_key": "k"},
    {"kind": "m", "queue": "uq_many3", "unique_key": "k", "on_conflict": "cancel"}]');
SELECT job_submit_many('[
    {"kind": "m", "queue": "uq_many3", "unique_key": "k"},
    {"kind": "m", "queue": "uq_many3", "unique_key": "k", "name": "second"},
    {"kind": "m", "queue": "uq_many3", "depends_on": ["second"]}]');
SELECT job_submit_many('[
    {"kind": "m", "queue": "uq_many3", "unique_key": "k"},
    {"kind": "n", "queue": "uq_many3", "unique_key": "k", "on_conflict": "replace"}]');
SELECT * FROM pg_temp.keys('uq_many3');
-- a removed job that was only to end first is no dependency: the rule counts its own
SELECT job_submit('old', queue => 'uq_after', unique_key => 'k') AS old \gset
SELECT job_id AS held, token AS token FROM job_claim('uq_after') \gset
SELECT job_submit('up', queue => 'uq_after') AS up \gset
SELECT job_submit('new', queue => 'uq_after', unique_key => 'k', on_conflict => 'cancel', depends_on => ARRAY[:up], trigger_rule => 'one_success') AS new \gset
SELECT depends_on = ARRAY[:up::bigint] AS own_only FROM job_status WHERE id = :new;
SELECT job_complete(:held, :token);
SELECT token AS token FROM job_claim('uq_after') \gset
SELECT job_fail(:up, :token, retry => false);
SELECT state FROM job_status WHERE id = :new;
SELECT job_delete(:old), job_retry(:up);
SELECT state FROM job_status WHERE id = :new;
SELECT job_complete(job_id, token) FROM job_claim('uq_after');
SELECT kind, state FROM pg_temp.show('uq_after');
SELECT job_complete(job_id, token) FROM job_claim('uq_after');
-- what superseded a job that goes on, and never began, gives it the key back when it ends
SELECT job_submit('old', queue => 'uq_after', unique_key => 'k') AS old \gset
SELECT job_id AS held, token AS token FROM job_claim('uq_after') \gset
SELECT job_submit('new', queue => 'uq_after', unique_key => 'k', on_conflict => 'cancel', trigger_rule => 'one_success') AS new \gset
SELECT job_cancel(:new);
SELECT job_submit('kept', queue => 'uq_after', unique_key => 'k') = :old AS kept;
SELECT pg_temp.problem(format('SELECT job_retry(%s)', :new));
SELECT job_submit('next', queue => 'uq_after', unique_key => 'k', on_conflict => 'cancel') AS next \gset
SELECT count(*) FROM job_claim('uq_after');
SELECT job_decide(:next, 'failed');
SELECT count(*) FROM job_submit_many(format('[{"kind": "fails", "queue": "uq_after", "unique_key": "k", "on_conflict": "cancel", "depends_on": [%s]}]', :new)::jsonb);
SELECT kind, state FROM pg_temp.show('uq_after') WHERE kind IN ('old', 'new', 'next', 'fails');
SELECT job_submit('last', queue => 'uq_after', unique_key => 'k', on_conflict => 'cancel') AS last \gset
SELECT state FROM job_status WHERE id = :last;
SELECT job_complete(:held, :token);
SELECT state FROM job_status WHERE id = :last;
SELECT job_complete(job_id, token) FROM job_claim('uq_after');
SELECT job_retry(:new);
SELECT state FROM job_status WHERE id = :new;
SELECT job_cancel(:new), job_delete(:old), job_retry(:new);
SELECT state FROM job_status WHERE id = :new;
SELECT count(*) FROM job_check() WHERE job_id IN (:old, :new, :up, :next, :last);
-- superseded twice: the last one waits for the one that runs, too, and cannot say otherwise by depending on it
SELECT job_submit('v1', queue => 'uq_twice', unique_key => 'k') AS v1 \gset
SELECT job_id AS held, token AS token FROM job_claim('uq_twice') \gset
SELECT job_submit('v2', queue => 'uq_twice', unique_key => 'k', on_conflict => 'cancel') AS v2 \gset
SELECT job_submit('v3', queue => 'uq_twice', unique_key => 'k', on_conflict => 'cancel') AS v3 \gset
SELECT pg_temp.problem(format('SELECT job_submit(''v4'', queue => ''uq_twice'', unique_key => ''k'', on_conflict => ''cancel'', depends_on => ARRAY[%s], trigger_rule => %L)', :v1, rule))
FROM unnest(ARRAY['always', 'all_done', 'all_success']) rule;
SELECT job_submit('v4', queue => 'uq_twice', unique_key => 'k', on_conflict => 'cancel') AS v4 \gset
SELECT kind, state FROM pg_temp.show('uq_twice');
SELECT count(*) FROM job_claim('uq_twice');
SELECT job_complete(:held, :token);
SELECT kind, state FROM pg_temp.show('uq_twice');
-- the end of the one that was superseded decides what superseded it: nobody is left who could have the key
SELECT job_submit('old', queue => 'uq_chain_end', unique_key => 'k') AS old \gset
SELECT job_id AS held, token AS token FROM job_claim('uq_chain_end') \gset
SELECT job_submit('between', queue => 'uq_chain_end', depends_on => ARRAY[:old]) AS between \gset
SELECT job_submit('new', queue => 'uq_chain_end', unique_key => 'k', on_conflict => 'cancel', depends_on => ARRAY[:between]) IS NOT NULL AS submitted;
SELECT job_fail(:held, :token, retry => false);
SELECT kind, state FROM pg_temp.show('uq_chain_end');
SELECT count(*) FROM pg_temp.keys('uq_chain_end');
-- many calls in one transaction, of which not all take their keys together; then none of them is free
BEGIN;
SELECT count(*), count(DISTINCT id) FROM generate_series(1, 40) n, job_submit_many(format('[
    {"kind": "m", "queue": "uq_many5", "unique_key": "a%1$s"},
    {"kind": "m", "queue": "uq_many5", "unique_key": "b%1$s"},
    {"kind": "m", "queue": "uq_many5", "unique_key": "c%1$s"}]', n)::jsonb) id;
SELECT count(*), count(id) FROM generate_series(1, 40) n, job_submit_many(format('[
    {"kind": "m", "queue": "uq_many5", "unique_key": "a%1$s", "on_conflict": "skip"},
    {"kind": "m", "queue": "uq_many5", "unique_key": "a0%1$s"},
    {"kind": "m", "queue": "uq_many5", "unique_key": "c%1$s", "on_conflict": "skip"}]', n)::jsonb) id;
COMMIT;
SELECT count(*), count(DISTINCT unique_key) FROM job_unique u JOIN job j USING (unique_key) WHERE j.queue = 'uq_many5' AND j.id = u.job_id;
-- more rows than are inserted at a time, and one that is not free after them
SELECT job_submit('m', queue => 'uq_many6', unique_key => '2600') AS held \gset
SELECT count(id), sum((id = :held)::int) AS held FROM job_submit_many((SELECT jsonb_agg(jsonb_build_object(
    'kind', 'm', 'queue', 'uq_many6', 'unique_key', (2000 + n)::text)) FROM generate_series(1, 700) n)) id;
SELECT count(*), count(DISTINCT unique_key) FROM job_unique JOIN job USING (unique_key) WHERE queue = 'uq_many6' AND id = job_id;
-- an element that another job stands for is what others depend on
SELECT job_submit('stands', queue => 'uq_many4', unique_key => 'k') AS stands \gset
SELECT job_submit('stands too', queue => 'uq_many4', unique_key => 'k2') AS stands2 \gset
SELECT count(*) FROM job_submit_many('[
    {"kind": "child", "queue": "uq_many4", "depends_on": ["a", "b", "c"], "unique_key": "child"},
    {"kind": "a", "queue": "uq_many4", "unique_key": "k", "name": "a"},
    {"kind": "b", "queue": "uq_many4", "unique_key": "k2", "name": "b", "on_conflict": "skip"},
    {"kind": "c", "queue": "uq_many4", "name": "c"}]');
SELECT kind, state, depends_on[1] = :stands AS one, depends_on[2] = :stands2 AS two, cardinality(depends_on) FROM job_status WHERE queue = 'uq_many4' ORDER BY id;
-- which can be one that it depends on anyway: a quorum counts it once
SELECT pg_temp.problem(format($$SELECT job_submit_many('[{"kind": "a", "queue": "uq_many4", "unique_key": "k", "name": "a"}, {"kind": "two", "queue": "uq_many4", "depends_on": [%s, "a"], "trigger_rule": "quorum", "quorum": 2}]')$$, :stands));
SELECT count(*) FROM job_submit_many(format('[{"kind": "a", "queue": "uq_many4", "unique_key": "k", "name": "a"}, {"kind": "one", "queue": "uq_many4", "depends_on": [%s, "a"], "trigger_rule": "quorum", "quorum": 1}]', :stands)::jsonb);
SELECT kind, depends_on = ARRAY[:stands]::bigint[] AS once FROM job_status WHERE queue = 'uq_many4' AND kind IN ('one', 'two');
-- an error about that one is one of who depends on it
SELECT job_submit('gone', queue => 'uq_gone', unique_key => 'k', unique_for => '1 day') AS gone \gset
SELECT job_cancel(:gone), job_delete(:gone);
CREATE FUNCTION pg_temp.element(jobs jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    context text;
BEGIN
    PERFORM job_submit_many(jobs);
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS context = PG_EXCEPTION_CONTEXT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, substring(context FROM '^element[^\n]*')), '(job|Job) \d+', '\1 N', 'g');
END $$;
SELECT pg_temp.element('[{"kind": "a", "queue": "uq_gone", "unique_key": "k", "name": "a"}, {"kind": "b", "queue": "uq_gone", "name": "b", "depends_on": ["a"]}]');
DELETE FROM job_unique WHERE job_id = :gone;

-- submitting privilege is enough; who may not see the job that has the key learns its id
CREATE ROLE jobq_uq_one;
CREATE ROLE jobq_uq_two;
SELECT job_grant('jobq_uq_one', 'uq_priv', 'submit'), job_grant('jobq_uq_two', 'uq_priv', 'submit');
SET ROLE jobq_uq_one;
SELECT job_submit('p1', queue => 'uq_priv', unique_key => 'k') AS p1 \gset
SET ROLE jobq_uq_two;
SELECT job_submit('p2', queue => 'uq_priv', unique_key => 'k') = :p1 AS kept;
SELECT count(*) FROM job_status;
SELECT pg_temp.problem(format('SELECT job_result(%s)', :p1));
SELECT pg_temp.problem($$SELECT job_submit_many('[{"kind": "a", "queue": "uq_priv", "unique_key": "k", "name": "a"}, {"kind": "b", "queue": "uq_priv", "depends_on": ["a"]}]')$$);
SELECT job_submit('p2', queue => 'uq_priv', unique_key => 'k', on_conflict => 'cancel') <> :p1 AS submitted;
SELECT kind, state FROM job_status;
SELECT count(*) FROM job_unique;
RESET ROLE;
SELECT * FROM pg_temp.show('uq_priv');
SELECT job_revoke('jobq_uq_one', 'uq_priv', 'submit'), job_revoke('jobq_uq_two', 'uq_priv', 'submit');
DROP ROLE jobq_uq_one, jobq_uq_two;

-- at every isolation level, a key that was taken after the snapshot counts (test unique of the isolation tests has two sessions)
BEGIN ISOLATION LEVEL SERIALIZABLE;
SELECT job_submit('se', queue => 'uq_iso', unique_key => 'k') = job_submit('se', queue => 'uq_iso', unique_key => 'k') AS same;
SELECT job_submit('se', '{"n": 2}', queue => 'uq_iso', unique_key => 'k', on_conflict => 'replace') IS NULL AS replaced;
SELECT job_submit('se2', queue => 'uq_iso', unique_key => 'k', on_conflict => 'cancel') IS NULL AS submitted;
COMMIT;
SELECT * FROM pg_temp.show('uq_iso');

-- U2: the job of a row has its key, is undecided or, with a time, decided
SELECT count(*) FROM job_unique u LEFT JOIN job j ON j.id = u.job_id
WHERE j.unique_key IS DISTINCT FROM u.unique_key OR (j.outcome IS NULL) <> (u.until IS NULL);
