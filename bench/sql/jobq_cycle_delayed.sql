-- a job that is not to run before a second has passed, and the life of another
SELECT job_submit('noop', :args, 'bench', run_at => now() + interval '1 s');
SELECT job_id, token FROM job_claim('bench') \gset
SELECT job_complete(:job_id, :token);
