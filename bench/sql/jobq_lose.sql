-- a worker that lets every fifth lease run out
CALL job_claim_wait('due', 'bench', '10 s') \gset
\if :job_id % 5 != 0
SELECT job_complete(:job_id, :token);
\endif
