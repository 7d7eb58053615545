SELECT * FROM job_check_flow('{"jobs": []}');
SELECT * FROM job_check_flow('{"jobs": [{"kind": "a", "name": "a"}, {"kind": "b", "name": "b", "depends_on": ["a"], "args": {"x": {"$result": "a", "path": "$.y"}}}]}');
SELECT * FROM job_check_flow('{"jobs": [{"kind": "a", "name": "a"}, {"kind": "b", "name": "b", "depends_on": ["c"], "args": {"x": {"$result": "d", "path": "$.y["}}}]}');
