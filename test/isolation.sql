-- What the isolation specs share, loaded into their database by test/run.

ALTER DATABASE isolation_regression SET jobq.min_lease = 0;

-- tokens of the attempts that procedure claim began, also of those that have ended since
CREATE TABLE claimed (kind text, token bigint);

-- begin again: no jobs, no queues, and ids from 1
CREATE PROCEDURE reset() LANGUAGE plpgsql AS $$
BEGIN
	EXECUTE (SELECT 'TRUNCATE claimed, ' || string_agg(c.oid::regclass::text, ', ')
			 FROM pg_depend d JOIN pg_extension e ON (d.refclassid, d.refobjid) = ('pg_extension'::regclass, e.oid)
				 JOIN pg_class c ON (d.classid, d.objid) = ('pg_class'::regclass, c.oid)
			 WHERE e.extname = 'jobq' AND d.deptype = 'e' AND c.relkind = 'r' AND c.relname <> 'job_home');
	PERFORM setval('job_id_seq', 1, false);
END $$;

CREATE PROCEDURE claim(queue text, max_jobs int DEFAULT 1, lease interval DEFAULT NULL) LANGUAGE sql AS
	$$ INSERT INTO claimed SELECT kind, token FROM job_claim(queue, 'worker', max_jobs, lease) $$;

-- the job of this kind, and its token: of its first attempt if claim began that, else of the one that runs
CREATE FUNCTION id_of(k text) RETURNS bigint LANGUAGE sql STABLE AS
	$$ SELECT id FROM job WHERE kind = k $$;
CREATE FUNCTION token_of(k text) RETURNS bigint LANGUAGE sql STABLE AS
	$$ SELECT token FROM claimed WHERE kind = k UNION ALL
	   SELECT l.token FROM job_lease l JOIN job j ON j.id = l.job_id WHERE j.kind = k LIMIT 1 $$;

-- the state of the job of this kind; if it waits for others, for how many, and how many of those it waited for failed
CREATE FUNCTION state_of(k text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT s.state || CASE WHEN w.open THEN format(' for %s', w.undecided) ELSE '' END || CASE WHEN w.open AND w.hurt <> 0 THEN format(', %s failed', w.hurt) ELSE '' END
		|| CASE WHEN w.held THEN ', held' ELSE '' END
	FROM job_status s LEFT JOIN job_waiting w ON w.job_id = s.id WHERE s.kind = k $$;

-- poll until a condition holds, with a limit; returns whether it does
CREATE FUNCTION comes_true(condition text) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
	held boolean;
BEGIN
	FOR i IN 1 .. 6000 LOOP
		EXECUTE 'SELECT ' || condition INTO held;
		EXIT WHEN held;
		PERFORM pg_sleep(0.005), pg_stat_clear_snapshot();
	END LOOP;
	RETURN held;
END $$;

-- complete what is ready in queue q until a condition holds, with a limit
CREATE PROCEDURE work_off(condition text) LANGUAGE plpgsql AS $$
DECLARE
	held boolean := false;
BEGIN
	FOR i IN 1 .. 6000 LOOP
		PERFORM job_complete(job_id, token) FROM job_claim('q', max_jobs => 9);
		COMMIT;
		EXECUTE 'SELECT ' || condition INTO held;
		EXIT WHEN held;
		PERFORM pg_sleep(0.005);
	END LOOP;
	IF NOT held THEN
		RAISE 'it does not end';
	END IF;
END $$;

-- wait until the background worker has nothing left to count or to cancel, with a limit
CREATE FUNCTION left_over() RETURNS text LANGUAGE sql AS
	$$ SELECT format('%s deltas, %s recounts, %s requests to cancel', (SELECT count(*) FROM job_delta), (SELECT count(*) FROM job_recount),
					 (SELECT count(*) FROM job_cancel_request)) $$;
CREATE PROCEDURE settle() LANGUAGE plpgsql AS $$
BEGIN
	IF NOT comes_true('left_over() = ''0 deltas, 0 recounts, 0 requests to cancel''') THEN
		RAISE 'left: %', left_over();
	END IF;
END $$;

-- how many jobs are counted wrongly, or were decided without having run by what their upstream jobs are not; once all is settled
CREATE FUNCTION miscounted() RETURNS bigint LANGUAGE sql AS $$
	SELECT count(*)
	FROM job j LEFT JOIN job_waiting w ON w.job_id = j.id
		CROSS JOIN LATERAL
			(SELECT count(*) FILTER (WHERE p.outcome IS NULL) AS undecided,
				 count(*) FILTER (WHERE p.outcome IS NULL AND d.require <> 0) AS pending,
				 count(*) FILTER (WHERE p.outcome & d.suffice <> 0) AS hits,
				 count(*) FILTER (WHERE d.require <> 0 AND p.outcome & d.require = 0) AS violated,
				 count(*) FILTER (WHERE p.outcome IN (2, 8, 16) AND d.require <> 63) AS hurt
			 FROM job_dependency d JOIN job p ON p.id = d.upstream WHERE d.downstream = j.id) e
	WHERE w.open AND (w.undecided, w.pending, w.hits, w.violated, w.hurt) IS DISTINCT FROM (e.undecided, e.pending, e.hits, e.violated, e.hurt)
		OR j.outcome IN (4, 16) AND j.decided_by IS NULL AND e.violated = 0 AND e.hits + e.undecided >= j.quorum $$;

-- a flow whose members are jobs of these kinds in queue q, named like them; options: more of it
CREATE FUNCTION flow_of(kinds text[], options jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 'f', 'queue', 'f', 'jobs',
			(SELECT jsonb_agg(jsonb_build_object('name', k, 'kind', k, 'queue', 'q') ORDER BY n) FROM unnest(kinds) WITH ORDINALITY u (k, n))) || options $$;

-- a flow, one member of which is a flow, to be undone
CREATE FUNCTION saga() RETURNS jsonb LANGUAGE sql AS $$
	SELECT '{"name": "f", "queue": "a", "defaults": {"queue": "q", "max_lost": 1}, "jobs": [
		{"name": "m1", "kind": "m1", "undo": {"kind": "u1"}},
		{"name": "sub", "jobs": [{"name": "m2", "kind": "m2", "undo": {"kind": "u2"}}]},
		{"name": "m3", "kind": "m3", "undo": {"kind": "u3"}}]}'::jsonb $$;

-- a flow of two members that depend on a job, if its result is 1, or 2
CREATE FUNCTION branches(up bigint) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 'f', 'queue', 'f', 'jobs', (SELECT jsonb_agg(jsonb_build_object('name', 'm' || n, 'kind', 'm' || n, 'queue', 'q',
			'depends_on', jsonb_build_array(up), 'when', jsonb_build_object(up::text, '$ == ' || n)) ORDER BY n) FROM generate_series(1, 2) n)) $$;

-- a flow with a map over 1, 2 and 3; options: more of the map
CREATE FUNCTION map_of(options jsonb DEFAULT '{}') RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_build_object('name', 'f', 'queue', 'f', 'jobs', jsonb_build_array(
		'{"name": "map", "queue": "f", "map": [1, 2, 3], "job": {"kind": "item", "queue": "q", "args": {"$item": "$"}}}'::jsonb || options)) $$;

-- the item of the map with this number, from 1 on, and the token that it has
CREATE FUNCTION item_of(n int) RETURNS bigint LANGUAGE sql STABLE AS
	$$ SELECT id FROM job WHERE kind = 'item' ORDER BY id OFFSET n - 1 LIMIT 1 $$;
CREATE FUNCTION item_token(n int) RETURNS bigint LANGUAGE sql STABLE AS
	$$ SELECT token FROM job_lease WHERE job_id = item_of(n) $$;

-- the flow of this name
CREATE FUNCTION flow_id(n text) RETURNS bigint LANGUAGE sql STABLE AS
	$$ SELECT id FROM job WHERE name = n AND flow_type IS NOT NULL $$;

-- wait until the background worker has folded deltas that come after all there are, with a limit
CREATE PROCEDURE passes() LANGUAGE plpgsql AS $$
DECLARE
	other bigint := job_submit_flow('{"queue": "other", "jobs": []}');
BEGIN
	COMMIT;
	IF NOT comes_true(format('EXISTS (SELECT FROM job WHERE id = %s AND outcome = 1)', other)) THEN
		RAISE 'the background worker does not come by';
	END IF;
	COMMIT;
	PERFORM job_delete(other);
END $$;
