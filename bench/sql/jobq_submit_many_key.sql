\set call :call + 1
-- from text, as a client sends it
SELECT count(*) FROM job_submit_many((SELECT jobs::jsonb FROM bench_keyed WHERE client = :client_id AND call = :call));
