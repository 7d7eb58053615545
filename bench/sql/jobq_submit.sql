SELECT job_submit('noop', :args, 'bench');
