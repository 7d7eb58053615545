-- a tenant that submits a job now and then
\set us random(200000, 400000)
\sleep :us us
SELECT job_submit('noop', :args, 'fair', partition => 'small ' || :client_id);
