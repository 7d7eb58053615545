-- two versions of each row in its page
CREATE TABLE bench_hot (id int PRIMARY KEY, n int NOT NULL) WITH (fillfactor = 50);
INSERT INTO bench_hot SELECT i, 0 FROM generate_series(1, 100000) i;
