-- claim + complete, each in its own transaction
SELECT job_id, token FROM job_claim('bench') \gset
SELECT job_complete(:job_id, :token);
