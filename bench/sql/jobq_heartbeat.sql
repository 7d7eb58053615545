-- each client has a job of its own
\if :claimed = 0
SELECT job_id, token FROM bench_lease WHERE client = :client_id \gset
\set claimed 1
\endif
SELECT job_heartbeat(:job_id, :token);
