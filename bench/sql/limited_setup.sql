-- plain SQL with limits: a queue's, and one of each partition's.  Who claims counts under a lock, by a function, which saves
-- round trips; each statement of it has a snapshot of its own, so that of the second is taken when the lock is held.
ALTER TABLE plain_job ADD partition int;
CREATE INDEX ON plain_job (queue, partition) WHERE state = 'x';

CREATE FUNCTION plain_claim_limited(of_queue int, most int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    claimed bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(of_queue);
    UPDATE plain_job SET state='x', attempt=attempt+1, token=1, started_at=now(), lease_until=now()+interval '30s' WHERE id =
        (SELECT id FROM plain_job WHERE queue = of_queue AND state = 'r'
            AND (SELECT count(*) FROM plain_job WHERE queue = of_queue AND state = 'x') < most
            ORDER BY priority, id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id INTO claimed;
    RETURN claimed;
END $$;

CREATE FUNCTION plain_claim_partition(of_queue int, most int) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    claimed bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(of_queue);
    UPDATE plain_job SET state='x', attempt=attempt+1, token=1, started_at=now(), lease_until=now()+interval '30s' WHERE id =
        (SELECT id FROM plain_job j WHERE queue = of_queue AND state = 'r'
            AND (SELECT count(*) FROM plain_job x WHERE queue = of_queue AND state = 'x' AND x.partition = j.partition) < most
            ORDER BY priority, id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id INTO claimed;
    RETURN claimed;
END $$;

CREATE PROCEDURE bench_fill_plain_partitions(partitions int, jobs bigint) LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO plain_job (queue, partition, payload) SELECT 2, i % partitions, bench_args() FROM generate_series(1, jobs) i;
END $$;
