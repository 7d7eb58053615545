-- claim + complete, each in its own transaction, by a worker that waits where nothing is ready
CALL job_claim_wait(:queue, 'bench', '10 s') \gset
SELECT job_complete(:job_id, :token);
