SELECT job_id, token FROM job_claim('bench') \gset
