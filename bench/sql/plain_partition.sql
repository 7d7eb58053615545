-- claim + complete of a queue in which one of each partition runs at most
SELECT plain_claim_partition(2, 1) AS id \gset
UPDATE plain_job SET state='d', result=NULL, finished_at=now(), token=NULL WHERE id = ANY(ARRAY[:id::bigint]) AND state='x';
