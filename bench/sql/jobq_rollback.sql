-- claim + complete in a transaction that rolls back
BEGIN;
SELECT job_id, token FROM job_claim('bench') \gset
SELECT job_complete(:job_id, :token);
ROLLBACK;
