-- claim + complete of 100, each in its own transaction
WITH c AS (SELECT id FROM plain_job WHERE queue=1 AND state='r' ORDER BY priority, id FOR UPDATE SKIP LOCKED LIMIT 100),
    u AS (UPDATE plain_job j SET state='x', attempt=attempt+1, token=1, started_at=now(), lease_until=now()+interval '30s' FROM c
    WHERE j.id=c.id RETURNING j.id) SELECT array_agg(id) AS ids FROM u \gset
UPDATE plain_job SET state='d', result=NULL, finished_at=now(), token=NULL WHERE id = ANY(:ids) AND state='x';
