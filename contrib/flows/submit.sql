-- Submits the flow on standard input; prints its id.
\set flow `cat`
SELECT job_submit_flow(:'flow');
