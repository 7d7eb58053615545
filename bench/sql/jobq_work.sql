-- the same with a job that takes its time
CALL job_claim_wait(:queue, 'bench', '10 s') \gset
\sleep :us us
SELECT job_complete(:job_id, :token);
