-- Called by demo/list with the jobs on stdin, as a JSON array.
\set jobs `cat`
-- The list job may be lost after this commits and run again: submit once.
SELECT NOT EXISTS (SELECT FROM job_status WHERE parent = :parent) AS first \gset
\if :first
SELECT count(*) FROM job_submit_many(:'jobs') \gset
\endif
SELECT jsonb_build_object('files', count(*) FILTER (WHERE kind = 'measure'),
                          'reduce', max(id) FILTER (WHERE kind = 'reduce'))
    FROM job_status WHERE parent = :parent;
