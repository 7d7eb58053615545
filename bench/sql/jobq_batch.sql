-- claim + complete of 100, each in its own transaction
SELECT array_agg(job_id) AS ids, array_agg(token) AS tokens FROM job_claim('bench', NULL, 100) \gset
SELECT count(*) FROM job_complete_many(:ids, :tokens);
