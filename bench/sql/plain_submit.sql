INSERT INTO plain_job (queue, payload) VALUES (1, :args);
