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

-- a job of each partition, p1 and so on, with each call
CREATE PROCEDURE bench_fill_partitions(queue text, partitions int, calls bigint) LANGUAGE plpgsql AS $$
DECLARE
    one_of_each jsonb := jsonb_agg(jsonb_build_object('kind', 'noop', 'args', bench_args(), 'queue', queue, 'partition', 'p' || i))
        FROM generate_series(1, partitions) i;
BEGIN
    FOR i IN 1 .. calls LOOP
        PERFORM job_submit_many(one_of_each);
        COMMIT;
    END LOOP;
END $$;

CREATE PROCEDURE bench_fill_plain(jobs bigint) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO plain_job (queue, payload) SELECT 1, bench_args() FROM generate_series(1, jobs);
END $$;

-- a thousand jobs, as an array and as rows
CREATE TABLE bench_payload AS SELECT bench_args() AS payload FROM generate_series(1, 1000);
CREATE TABLE bench_jobs AS
    SELECT jsonb_agg(jsonb_build_object('kind', 'noop', 'queue', 'bench', 'args', payload))::text AS jobs FROM bench_payload;

-- a unique key: one that follows another, a random one, or none
CREATE SEQUENCE bench_keys START 1000001;
CREATE FUNCTION bench_key(keys text) RETURNS text LANGUAGE sql
    RETURN CASE keys WHEN 'ordered' THEN 'order-' || nextval('bench_keys') WHEN 'random' THEN md5(random()::text) END;

-- a thousand jobs with keys for each call of two clients, not compressed, so that it is quick to read
CREATE UNLOGGED TABLE bench_keyed (client int, call int, jobs text, PRIMARY KEY (client, call));
ALTER TABLE bench_keyed ALTER jobs SET STORAGE EXTERNAL;

CREATE PROCEDURE bench_fill_keyed(keys text, calls int) LANGUAGE plpgsql AS $$
BEGIN
    TRUNCATE bench_keyed;
    -- the keys of one call follow one another
    FOR client IN 0 .. 1 LOOP
        INSERT INTO bench_keyed SELECT client, call, (SELECT jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
                'kind', 'noop', 'queue', 'bench', 'args', payload, 'unique_key', bench_key(keys))))::text FROM bench_payload WHERE call > 0)
            FROM generate_series(1, calls) call;
    END LOOP;
END $$;

CREATE PROCEDURE bench_chain(jobs int) LANGUAGE plpgsql AS $$
DECLARE
    previous bigint := job_submit('noop', bench_args(), 'bench');
BEGIN
    FOR i IN 2 .. jobs LOOP
        previous := job_submit('noop', bench_args(), 'bench', depends_on => ARRAY[previous]);
    END LOOP;
END $$;
