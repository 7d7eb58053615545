-- the whole life of a job
SELECT job_submit('noop', :args, 'bench');
SELECT job_id, token FROM job_claim('bench') \gset
SELECT job_complete(:job_id, :token);
