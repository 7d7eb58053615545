SELECT job_submit('noop', :args, 'bench', unique_key => bench_key(:keys));
