-- a worker's loop: each job is completed with the claim of the next
\if :job = 0
SELECT job_id AS job, token FROM job_claim('bench') \gset
\else
SELECT job_id AS job, token FROM job_next(:job, :token) \gset
\endif
