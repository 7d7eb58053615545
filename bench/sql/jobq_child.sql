SELECT job_submit('noop', :args, 'bench', depends_on => ARRAY[:parent::bigint]);
