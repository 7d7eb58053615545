-- claim + complete, the clients spread over :queues queues
SELECT job_id, token FROM job_claim('bench' || :client_id::int % :queues::int) \gset
SELECT job_complete(:job_id, :token);
