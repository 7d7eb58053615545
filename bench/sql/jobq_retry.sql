-- an attempt that fails; the job comes back after its backoff, a second
SELECT job_id, token FROM job_claim('bench') \gset
SELECT job_fail(:job_id, :token, 'no luck');
