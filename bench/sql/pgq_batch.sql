SELECT pgq.next_batch('bench', 'bench') AS batch \gset
SELECT ev_id, ev_type, ev_data FROM pgq.get_batch_events(:batch);
SELECT pgq.finish_batch(:batch);
