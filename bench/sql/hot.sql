-- a bare HOT update by key
\set id random(1, 100000)
UPDATE bench_hot SET n = n + 1 WHERE id = :id;
