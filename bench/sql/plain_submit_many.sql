INSERT INTO plain_job (queue, payload) SELECT 1, payload FROM bench_payload;
