-- claim + complete, each client from a queue of its own
SELECT job_id, token FROM job_claim('bench' || :client_id::int) \gset
SELECT job_complete(:job_id, :token);
