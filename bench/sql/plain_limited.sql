-- claim + complete of a queue in which 1,000 run at most
SELECT plain_claim_limited(1, 1000) AS id \gset
UPDATE plain_job SET state='d', result=NULL, finished_at=now(), token=NULL WHERE id = ANY(ARRAY[:id::bigint]) AND state='x';
