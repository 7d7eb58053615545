-- what the scripts of pgbench find in their database

-- 100 bytes
CREATE FUNCTION bench_args() RETURNS jsonb LANGUAGE sql IMMUTABLE
    RETURN jsonb_build_object('payload', repeat('x', 86));

-- ready jobs over the queues, whose names are separated by blanks, and over the
-- priorities from 0, up to a thousand in each call
CREATE PROCEDURE bench_fill_jobq(queues text, priorities int, jobs bigint) LANGUAGE plpgsql AS $$
DECLARE
    queue text[] := string_to_array(queues, ' ');
    a_thousand jsonb := jsonb_agg(jsonb_build_object('kind', 'noop', 'args', bench_args(),
        'queue', queue[i % cardinality(queue) + 1], 'priority', i % priorities)) FROM generate_series(1, 1000) i;
BEGIN
    WHILE jobs >= 1000 LOOP
        PERFORM job_submit_many(a_thousand);
        COMMIT;
        jobs := jobs - 1000;
    END LOOP;
    PERFORM job_submit_many(jsonb_path_query_array(a_thousand, '$[0 to $last]', jsonb_build_object('last', jobs - 1)))
        WHERE jobs > 0;
END $$;

CREATE PROCEDURE bench_fill_plain(jobs bigint) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO plain_job (queue, payload) SELECT 1, bench_args() FROM generate_series(1, jobs);
END $$;

-- a thousand jobs, as an array and as rows
CREATE TABLE bench_payload AS SELECT bench_args() AS payload FROM generate_series(1, 1000);
CREATE TABLE bench_jobs AS
    SELECT jsonb_agg(jsonb_build_object('kind', 'noop', 'queue', 'bench', 'args', payload))::text AS jobs FROM bench_payload;

CREATE PROCEDURE bench_chain(jobs int) LANGUAGE plpgsql AS $$
DECLARE
    previous bigint := job_submit('noop', bench_args(), 'bench');
BEGIN
    FOR i IN 2 .. jobs LOOP
        previous := job_submit('noop', bench_args(), 'bench', depends_on => ARRAY[previous]);
    END LOOP;
END $$;
