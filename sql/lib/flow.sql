\set ECHO none
-- What the tests of flows share.

-- poll until a condition holds, with a limit
CREATE FUNCTION pg_temp.comes_true(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
    ok boolean := false;
BEGIN
    FOR i IN 1 .. 4000 LOOP
        EXECUTE 'SELECT ' || condition INTO ok;
        EXIT WHEN ok;
        PERFORM pg_sleep(0.005);
    END LOOP;
    RETURN ok;
END $$;
-- the state of a job, once it is that
CREATE FUNCTION pg_temp.until(of bigint, state text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_temp.comes_true(format('(SELECT state = %L FROM job_status WHERE id = %s)', state, of));
    RETURN (SELECT s.state FROM job_status s WHERE s.id = of);
END $$;
-- once the background worker has nothing to do
CREATE FUNCTION pg_temp.settled() RETURNS boolean LANGUAGE sql AS $$
    SELECT pg_temp.comes_true($q$NOT EXISTS (SELECT FROM job_delta) AND NOT EXISTS (SELECT FROM job_cancel_request) AND NOT EXISTS (SELECT FROM job_scheduled WHERE run_at <= clock_timestamp())$q$) $$;
-- run what becomes ready in a queue until something holds of a job; who has {"fail": true} fails, and "gives" is a result
CREATE PROCEDURE pg_temp.run(queue text, of bigint, ends text) LANGUAGE plpgsql AS $$
DECLARE
    c record;
    done boolean := false;
BEGIN
    FOR i IN 1 .. 4000 LOOP
        FOR c IN SELECT * FROM job_claim(run.queue, max_jobs => 1000) LOOP
            IF c.args -> 'fail' = 'true' THEN
                PERFORM job_fail(c.job_id, c.token, 'no luck', retry => false);
            ELSE
                PERFORM job_complete(c.job_id, c.token, coalesce(c.args -> 'gives', c.args));
            END IF;
        END LOOP;
        COMMIT;
        EXECUTE 'SELECT ' || ends INTO done USING of;
        EXIT WHEN done;
        PERFORM pg_sleep(0.005);
        COMMIT;
    END LOOP;
    IF NOT done THEN
        RAISE 'it did not end';
    END IF;
END $$;
-- what is wrong with a statement, without ids
CREATE FUNCTION pg_temp.problem(statement text) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    detail text; hint text; context text;
BEGIN
    EXECUTE statement;
    RETURN 'none';
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS hint = PG_EXCEPTION_HINT, detail = PG_EXCEPTION_DETAIL, context = PG_EXCEPTION_CONTEXT;
    RETURN regexp_replace(concat_ws(' | ', SQLSTATE, SQLERRM, nullif(detail, ''), nullif(hint, ''), substring(context, 'job \d+, which follows[^\n]*')), '(job|flow|member) -?\d+', '\1 N', 'gi');
END $$;
\set ECHO all
