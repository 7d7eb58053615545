-- a worker that lets its leases run out
CALL job_claim_wait('due', 'bench', '10 s') \gset
