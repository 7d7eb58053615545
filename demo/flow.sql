-- Submits the JSON array of jobs on stdin; prints the id of the last.
\set jobs `cat`
SELECT max(job_submit_many) FROM job_submit_many(:'jobs');
