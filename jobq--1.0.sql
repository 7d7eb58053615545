/* jobq--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION jobq" to load this file. \quit

--
-- Tables.  docs/DESIGN.md says what each row means and who may change it.
-- Columns stand in the order that src/jobq.h names them, wide ones last.
--

CREATE SEQUENCE @extschema@.job_id_seq AS bigint CACHE 1;
COMMENT ON SEQUENCE @extschema@.job_id_seq IS 'Ids of jobs and positions of ready jobs, one after the other';

CREATE TABLE @extschema@.job (
    id            bigint NOT NULL,
    parent        bigint,
    submitted_at  timestamptz NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    backoff       bigint,
    timeout       bigint,
    lease         bigint,
    started_at    timestamptz,
    finished_at   timestamptz,
    token         bigint,
    submitted_by  regrole NOT NULL,
    max_attempts  int,
    max_lost      int,
    quorum        int NOT NULL,
    dependencies  int NOT NULL,
    generation    int NOT NULL,
    attempt       int,
    failed        int,
    lost          int,
    priority      smallint NOT NULL,
    rule          smallint NOT NULL,
    outcome       smallint,
    cause         smallint,
    notify        boolean NOT NULL,
    queue         text NOT NULL,
    kind          text NOT NULL,
    args          jsonb NOT NULL,
    tags          jsonb,
    worker        text,
    error         text,
    result        jsonb,
    PRIMARY KEY (id)
) WITH (fillfactor = 45);
COMMENT ON TABLE @extschema@.job IS
    'What was asked and, once decided, what came of it; written when a job is submitted and when it ends. Intervals are in microseconds; NULL means the setting of the queue';

CREATE TABLE @extschema@.job_dependency (
    parent        bigint NOT NULL,
    child         bigint NOT NULL,
    require       smallint NOT NULL,
    suffice       smallint NOT NULL,
    PRIMARY KEY (parent, child)
);
CREATE INDEX job_dependency_child ON @extschema@.job_dependency (child, parent);
COMMENT ON TABLE @extschema@.job_dependency IS
    'Edges. require and suffice are masks over the outcome of the parent: 1 succeeded, 2 failed, 4 skipped, 8 cancelled, 16 upstream_failed';

CREATE TABLE @extschema@.job_waiting (
    job_id        bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    undecided     int NOT NULL,
    pending       int NOT NULL,
    hits          int NOT NULL,
    violated      int NOT NULL,
    hurt          int NOT NULL,
    quorum        int NOT NULL,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    rule          smallint NOT NULL,
    open          boolean NOT NULL,
    held          boolean NOT NULL,
    PRIMARY KEY (job_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE @extschema@.job_waiting IS
    'Jobs that wait for dependencies (open) or for job_unhold (held), with how far their dependencies are';

CREATE TABLE @extschema@.job_scheduled (
    run_at        timestamptz NOT NULL,
    job_id        bigint NOT NULL,
    lane          bigint NOT NULL,
    expires_at    timestamptz,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    PRIMARY KEY (job_id)
);
CREATE INDEX job_scheduled_run_at ON @extschema@.job_scheduled (run_at, job_id);
COMMENT ON TABLE @extschema@.job_scheduled IS 'Jobs that wait for the clock';

CREATE TABLE @extschema@.job_ready (
    lane          bigint NOT NULL,
    position      bigint NOT NULL,
    job_id        bigint NOT NULL,
    since         timestamptz NOT NULL,
    expires_at    timestamptz,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL
);
CREATE INDEX job_ready_order ON @extschema@.job_ready (lane, priority DESC, position);
-- A job that is ready when it is submitted has its id for a position, so the index above finds it by id.
CREATE INDEX job_ready_job_id ON @extschema@.job_ready (job_id) WHERE position <> job_id;
COMMENT ON TABLE @extschema@.job_ready IS 'Jobs that can be claimed now';

CREATE TABLE @extschema@.job_lease (
    job_id        bigint NOT NULL,
    token         bigint NOT NULL,
    lane          bigint NOT NULL,
    deadline      timestamptz NOT NULL,
    lease_until   timestamptz NOT NULL,
    timeout_at    timestamptz,
    started_at    timestamptz NOT NULL,
    period        bigint NOT NULL,
    holder        regrole NOT NULL,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    cancel_requested boolean NOT NULL,
    worker        text,
    cancel_reason text,
    progress      jsonb,
    PRIMARY KEY (job_id)
) WITH (fillfactor = 80);
CREATE INDEX job_lease_deadline ON @extschema@.job_lease (deadline);
COMMENT ON TABLE @extschema@.job_lease IS 'Jobs that run. Heartbeats extend a lease in shared memory, not here';

CREATE TABLE @extschema@.job_expiry (
    expires_at    timestamptz NOT NULL,
    job_id        bigint NOT NULL,
    PRIMARY KEY (expires_at, job_id)
);
COMMENT ON TABLE @extschema@.job_expiry IS 'When to look whether a job has expired; removed at that time, whatever became of the job';

CREATE TABLE @extschema@.job_attempt (
    job_id        bigint NOT NULL,
    attempt       int NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL,
    cause         smallint NOT NULL,
    worker        text,
    error         text,
    PRIMARY KEY (job_id, attempt)
);
COMMENT ON TABLE @extschema@.job_attempt IS 'Attempts that ended without deciding their job; the deciding one is in job';

CREATE TABLE @extschema@.job_queue (
    name          text NOT NULL,
    lane          bigint NOT NULL,
    paused        boolean NOT NULL DEFAULT false,
    max_attempts  int,
    max_lost      int,
    backoff       bigint,
    backoff_cap   bigint,
    timeout       bigint,
    lease         bigint,
    notify        smallint NOT NULL DEFAULT 0,
    PRIMARY KEY (name)
);
CREATE UNIQUE INDEX job_queue_lane ON @extschema@.job_queue (lane);
COMMENT ON TABLE @extschema@.job_queue IS 'Queues and their settings; a row is made on first use. Change it with job_queue_set only';

CREATE TABLE @extschema@.job_privilege (
    role          regrole NOT NULL,
    queue         text NOT NULL,
    privilege     text NOT NULL,
    PRIMARY KEY (role, queue, privilege)
);
COMMENT ON TABLE @extschema@.job_privilege IS 'Who may do what on which queue (* for all). Change it with job_grant and job_revoke only';

CREATE TABLE @extschema@.job_home (
    system_identifier bigint NOT NULL,
    database      oid NOT NULL,
    PRIMARY KEY (system_identifier)
);
COMMENT ON TABLE @extschema@.job_home IS
    'The database whose background worker may act: written by the first use, not dumped, so that a restored or copied database stays still';

REVOKE ALL ON @extschema@.job_id_seq, @extschema@.job, @extschema@.job_dependency, @extschema@.job_waiting, @extschema@.job_scheduled,
    @extschema@.job_ready, @extschema@.job_lease, @extschema@.job_expiry, @extschema@.job_attempt, @extschema@.job_queue,
    @extschema@.job_privilege, @extschema@.job_home FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_dependency', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_waiting', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_scheduled', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_ready', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_lease', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_expiry', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_attempt', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_queue', '');
-- a grant to a role that is gone must not come back as one to whoever has its number there
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_privilege',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role::pg_catalog.oid)');

--
-- Submitting
--

CREATE FUNCTION @extschema@.job_submit(
    kind          text,
    args          jsonb       DEFAULT '{}',
    queue         text        DEFAULT 'default',
    priority      int         DEFAULT 0,
    run_at        timestamptz DEFAULT NULL,
    depends_on    bigint[]    DEFAULT NULL,
    trigger_rule  text        DEFAULT 'all_success',
    quorum        int         DEFAULT NULL,
    max_attempts  int         DEFAULT NULL,
    max_lost      int         DEFAULT NULL,
    backoff       interval    DEFAULT NULL,
    timeout       interval    DEFAULT NULL,
    lease         interval    DEFAULT NULL,
    expires_at    timestamptz DEFAULT NULL,
    parent        bigint      DEFAULT NULL,
    tags          jsonb       DEFAULT NULL,
    notify        boolean     DEFAULT false
) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_submit';

CREATE FUNCTION @extschema@.job_submit_many(jobs jsonb) RETURNS SETOF bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_submit_many';

--
-- Working
--

CREATE TYPE @extschema@.job_assignment AS (
    job_id        bigint,
    token         bigint,
    attempt       int,
    kind          text,
    args          jsonb,
    inputs        jsonb,
    key           text,
    lease_until   timestamptz
);
COMMENT ON TYPE @extschema@.job_assignment IS
    'A claimed job. token: needed to act on it. inputs: results of the succeeded parents by id, NULL over jobq.max_inputs_size. key: the same over all attempts, new after job_retry';

CREATE FUNCTION @extschema@.job_claim(queue text DEFAULT 'default', worker text DEFAULT NULL, max_jobs int DEFAULT 1, lease interval DEFAULT NULL)
RETURNS SETOF @extschema@.job_assignment
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_claim';

CREATE FUNCTION @extschema@.job_claim(queues text[], worker text DEFAULT NULL, max_jobs int DEFAULT 1, lease interval DEFAULT NULL)
RETURNS SETOF @extschema@.job_assignment
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_claim_queues';

CREATE PROCEDURE @extschema@.job_claim_wait(
    IN queue text, IN worker text, IN timeout interval, IN lease interval DEFAULT NULL,
    INOUT job_id bigint DEFAULT NULL, INOUT token bigint DEFAULT NULL, INOUT attempt int DEFAULT NULL, INOUT kind text DEFAULT NULL,
    INOUT args jsonb DEFAULT NULL, INOUT inputs jsonb DEFAULT NULL, INOUT key text DEFAULT NULL, INOUT lease_until timestamptz DEFAULT NULL)
LANGUAGE C
AS 'MODULE_PATHNAME', 'jobq_job_claim_wait';

CREATE FUNCTION @extschema@.job_heartbeat(job_id bigint, token bigint, extend interval DEFAULT NULL, progress jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_heartbeat';

CREATE FUNCTION @extschema@.job_complete(job_id bigint, token bigint, result jsonb DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_complete';

CREATE FUNCTION @extschema@.job_complete_many(job_ids bigint[], tokens bigint[], results jsonb[] DEFAULT NULL)
RETURNS TABLE (job_id bigint, accepted boolean)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_complete_many';

CREATE FUNCTION @extschema@.job_fail(job_id bigint, token bigint, error text DEFAULT NULL, retry boolean DEFAULT true, retry_in interval DEFAULT NULL)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_fail';

CREATE FUNCTION @extschema@.job_fail_many(job_ids bigint[], tokens bigint[], errors text[] DEFAULT NULL, retry boolean DEFAULT true,
    retry_in interval DEFAULT NULL)
RETURNS TABLE (job_id bigint, accepted boolean, state text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_fail_many';

CREATE FUNCTION @extschema@.job_release(job_id bigint, token bigint) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_release';

CREATE FUNCTION @extschema@.job_snooze(job_id bigint, token bigint, delay interval) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_snooze';

--
-- Results and control
--

CREATE FUNCTION @extschema@.job_result(job_id bigint) RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_result';

CREATE PROCEDURE @extschema@.job_wait(IN job_id bigint, IN timeout interval, INOUT state text DEFAULT NULL, INOUT result jsonb DEFAULT NULL)
LANGUAGE C
AS 'MODULE_PATHNAME', 'jobq_job_wait';

CREATE FUNCTION @extschema@.job_cancel(job_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_cancel';

CREATE FUNCTION @extschema@.job_retry(job_id bigint) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_retry';

CREATE FUNCTION @extschema@.job_hold(job_id bigint) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_hold';

CREATE FUNCTION @extschema@.job_unhold(job_id bigint) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_unhold';

CREATE FUNCTION @extschema@.job_queue_set(queue text, paused boolean DEFAULT NULL, max_attempts int DEFAULT NULL, max_lost int DEFAULT NULL,
    backoff interval DEFAULT NULL, backoff_cap interval DEFAULT NULL, timeout interval DEFAULT NULL, lease interval DEFAULT NULL,
    notify text DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_queue_set';

CREATE FUNCTION @extschema@.job_grant(role regrole, queue text, privilege text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_grant';

CREATE FUNCTION @extschema@.job_revoke(role regrole, queue text, privilege text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_revoke';

--
-- Views.  Each filters by what the caller may see.
--

CREATE FUNCTION @extschema@.job_visible(queue text, submitted_by regrole, holder regrole) RETURNS boolean
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_visible';
COMMENT ON FUNCTION @extschema@.job_visible(text, regrole, regrole) IS
    'Internal, for the views: may the caller see a job of this queue, submitted by and now run by these roles (NULL: none)?';

CREATE FUNCTION @extschema@.job_lease_until(job_id bigint, token bigint, lease_until timestamptz) RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_lease_until';
COMMENT ON FUNCTION @extschema@.job_lease_until(bigint, bigint, timestamptz) IS
    'Internal, for the views: until when a lease runs, given what its row says';

CREATE FUNCTION @extschema@.job_outcome_name(outcome smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE outcome WHEN 1 THEN 'succeeded' WHEN 2 THEN 'failed' WHEN 4 THEN 'skipped' WHEN 8 THEN 'cancelled' WHEN 16 THEN 'upstream_failed' END;
END;
COMMENT ON FUNCTION @extschema@.job_outcome_name(smallint) IS 'Internal, for the views: the name of a stored outcome';

CREATE FUNCTION @extschema@.job_cause_name(cause smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE cause WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' WHEN 2 THEN 'timed_out' WHEN 3 THEN 'lost' WHEN 4 THEN 'released' WHEN 5 THEN 'snoozed'
        WHEN 6 THEN 'cancelled' END;
END;
COMMENT ON FUNCTION @extschema@.job_cause_name(smallint) IS 'Internal, for the views: the name of how an attempt ended';

CREATE VIEW @extschema@.job_status WITH (security_barrier) AS
SELECT j.id, j.queue, j.kind,
    CASE WHEN j.outcome IS NOT NULL THEN @extschema@.job_outcome_name(j.outcome)
         WHEN l.job_id IS NOT NULL THEN 'running'
         WHEN s.job_id IS NOT NULL THEN 'scheduled'
         WHEN w.job_id IS NOT NULL THEN 'waiting'
         ELSE 'ready' END AS state,
    j.priority::int AS priority,
    coalesce(j.attempt, l.attempt, s.attempt, w.attempt, r.attempt, 0) AS attempt,
    coalesce(j.lost, l.lost, s.lost, w.lost, r.lost, 0) AS lost,
    j.args, j.result, j.error, j.tags, j.parent,
    coalesce(j.worker, l.worker) AS worker,
    l.progress,
    coalesce(l.cancel_requested, false) AS cancel_requested,
    j.submitted_by, j.submitted_at,
    coalesce(s.run_at, w.run_at, j.run_at) AS run_at,
    coalesce(j.started_at, l.started_at) AS started_at,
    j.finished_at,
    @extschema@.job_lease_until(l.job_id, l.token, l.lease_until) AS lease_until
FROM @extschema@.job j
    LEFT JOIN @extschema@.job_lease l ON l.job_id = j.id
    LEFT JOIN @extschema@.job_scheduled s ON s.job_id = j.id
    LEFT JOIN @extschema@.job_waiting w ON w.job_id = j.id
    LEFT JOIN @extschema@.job_ready r ON r.job_id = j.id AND r.position <> r.job_id
WHERE @extschema@.job_visible(j.queue, j.submitted_by, l.holder);
COMMENT ON VIEW @extschema@.job_status IS
    'A row a job that the caller may see: its state, and what was asked and what came of it. attempt counts the attempts begun, lost those of them whose lease ran out';

CREATE VIEW @extschema@.job_attempts WITH (security_barrier) AS
SELECT a.job_id, a.attempt, a.worker, a.started_at, a.ended_at, @extschema@.job_cause_name(a.cause) AS outcome, a.error
FROM @extschema@.job_attempt a
    JOIN @extschema@.job j ON j.id = a.job_id
    LEFT JOIN @extschema@.job_lease l ON l.job_id = j.id
WHERE @extschema@.job_visible(j.queue, j.submitted_by, l.holder)
UNION ALL
SELECT j.id, j.attempt, j.worker, j.started_at, j.finished_at, @extschema@.job_cause_name(j.cause), j.error
FROM @extschema@.job j
WHERE j.cause IS NOT NULL AND @extschema@.job_visible(j.queue, j.submitted_by, NULL);
COMMENT ON VIEW @extschema@.job_attempts IS 'A row for every attempt that ended, of the jobs that the caller may see';

CREATE VIEW @extschema@.job_queue_status WITH (security_barrier) AS
WITH w AS (SELECT lane, count(*) AS n, min(job_id) AS any_job FROM @extschema@.job_waiting GROUP BY lane),
     s AS (SELECT lane, count(*) AS n, min(job_id) AS any_job FROM @extschema@.job_scheduled GROUP BY lane),
     r AS (SELECT lane, count(*) AS n, min(job_id) AS any_job, min(since) AS oldest FROM @extschema@.job_ready GROUP BY lane),
     l AS (SELECT lane, count(*) AS n, min(job_id) AS any_job, count(DISTINCT worker) AS workers FROM @extschema@.job_lease GROUP BY lane),
     lanes AS (SELECT coalesce(q.name, j.queue) AS queue, coalesce(q.paused, false) AS paused, u.lane
               FROM (SELECT lane, min(any_job) AS any_job
                     FROM (SELECT lane, any_job FROM w UNION ALL SELECT lane, any_job FROM s UNION ALL SELECT lane, any_job FROM r
                           UNION ALL SELECT lane, any_job FROM l UNION ALL SELECT lane, NULL FROM @extschema@.job_queue) x
                     GROUP BY lane) u
                    LEFT JOIN @extschema@.job_queue q ON q.lane = u.lane
                    LEFT JOIN @extschema@.job j ON j.id = u.any_job)
SELECT lanes.queue, lanes.paused,
    coalesce(w.n, 0) AS waiting, coalesce(s.n, 0) AS scheduled, coalesce(r.n, 0) AS ready, coalesce(l.n, 0) AS running,
    r.oldest AS oldest_ready, coalesce(l.workers, 0) AS running_workers
FROM lanes LEFT JOIN w USING (lane) LEFT JOIN s USING (lane) LEFT JOIN r USING (lane) LEFT JOIN l USING (lane)
WHERE @extschema@.job_visible(lanes.queue, NULL, NULL);
COMMENT ON VIEW @extschema@.job_queue_status IS
    'A row a queue that the caller may read: how many jobs are in each state, since when the oldest ready one has been ready, how many workers run jobs';

CREATE VIEW @extschema@.job_worker_status WITH (security_barrier) AS
SELECT l.worker, count(*) AS running,
    max(@extschema@.job_lease_until(l.job_id, l.token, l.lease_until) - l.period * interval '1 microsecond') AS last_seen
FROM @extschema@.job_lease l
    JOIN @extschema@.job j ON j.id = l.job_id
WHERE @extschema@.job_visible(j.queue, NULL, l.holder)
GROUP BY l.worker;
COMMENT ON VIEW @extschema@.job_worker_status IS 'A row a worker that runs jobs the caller may see: how many, and when it last claimed or sent a heartbeat';

--
-- Privileges: job_grant gives what a role needs.
--

REVOKE ALL ON @extschema@.job_status, @extschema@.job_attempts, @extschema@.job_queue_status, @extschema@.job_worker_status FROM PUBLIC;
REVOKE ALL ON ROUTINE
    @extschema@.job_submit(text, jsonb, text, int, timestamptz, bigint[], text, int, int, int, interval, interval, interval, timestamptz, bigint, jsonb, boolean),
    @extschema@.job_submit_many(jsonb),
    @extschema@.job_claim(text, text, int, interval),
    @extschema@.job_claim(text[], text, int, interval),
    @extschema@.job_claim_wait(text, text, interval, interval, bigint, bigint, int, text, jsonb, jsonb, text, timestamptz),
    @extschema@.job_heartbeat(bigint, bigint, interval, jsonb),
    @extschema@.job_complete(bigint, bigint, jsonb),
    @extschema@.job_complete_many(bigint[], bigint[], jsonb[]),
    @extschema@.job_fail(bigint, bigint, text, boolean, interval),
    @extschema@.job_fail_many(bigint[], bigint[], text[], boolean, interval),
    @extschema@.job_release(bigint, bigint),
    @extschema@.job_snooze(bigint, bigint, interval),
    @extschema@.job_result(bigint),
    @extschema@.job_wait(bigint, interval, text, jsonb),
    @extschema@.job_cancel(bigint, text),
    @extschema@.job_retry(bigint),
    @extschema@.job_hold(bigint),
    @extschema@.job_unhold(bigint),
    @extschema@.job_queue_set(text, boolean, int, int, interval, interval, interval, interval, text),
    @extschema@.job_grant(regrole, text, text),
    @extschema@.job_revoke(regrole, text, text),
    @extschema@.job_visible(text, regrole, regrole),
    @extschema@.job_lease_until(bigint, bigint, timestamptz),
    @extschema@.job_outcome_name(smallint),
    @extschema@.job_cause_name(smallint)
FROM PUBLIC;
