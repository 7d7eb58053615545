UPDATE plain_job SET state='x', attempt=attempt+1, token=1, started_at=now(), lease_until=now()+interval '30s' WHERE id =
    (SELECT id FROM plain_job WHERE queue=1 AND state='r' ORDER BY priority, id FOR UPDATE SKIP LOCKED LIMIT 1) RETURNING id \gset
