/* jobq--1.0.sql */

-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION jobq" to load this file. \quit

-- Others may have made functions and operators in the extension's schema: none of them is to be taken for one of pg_catalog.
SET LOCAL search_path = pg_catalog, pg_temp;

DO $$
BEGIN
    IF current_setting('shared_preload_libraries') !~ '(^|[/,"[:space:]])jobq([.,"[:space:]]|$)' THEN
        RAISE WARNING 'jobq is not loaded, and its functions refuse to work until it is'
            USING HINT = 'Add jobq to shared_preload_libraries in postgresql.conf and restart the server.';
    END IF;
END $$;

--
-- Tables.  docs/DESIGN.md says what each row means and who may change it.
-- Columns stand in the order that src/table/table.h names them; those of job so that
-- what few jobs have is last, for a row is stored without the NULLs at its end.
-- The five tables of states begin with the same columns.
-- PUBLIC has no right on anything here but job_schedule_times; job_grant gives
-- what a role needs.
--

CREATE SEQUENCE @extschema@.job_id_seq AS bigint CACHE 1;
COMMENT ON SEQUENCE @extschema@.job_id_seq IS 'Ids of jobs and positions of ready jobs, one after the other';
REVOKE ALL ON @extschema@.job_id_seq FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_id_seq', '');

CREATE TABLE @extschema@.job (
    id            bigint NOT NULL,
    submitted_at  timestamptz NOT NULL,
    submitted_by  regrole NOT NULL,
    quorum        int NOT NULL,
    dependencies  int NOT NULL,
    generation    int NOT NULL,
    priority      smallint NOT NULL,
    rule          smallint NOT NULL,
    notify        boolean NOT NULL,
    manual        boolean NOT NULL,
    queue         text NOT NULL,
    kind          text NOT NULL,
    args          jsonb NOT NULL,
    started_at    timestamptz,
    finished_at   timestamptz,
    token         bigint,
    attempt       int,
    failed        int,
    lost          int,
    outcome       smallint,
    attempt_outcome smallint,
    worker        text,
    result        jsonb,
    error         text,
    unique_key    text,
    flow          bigint,
    flow_type     smallint,
    critical      boolean,
    name          text,
    run_at        timestamptz,
    expires_at    timestamptz,
    backoff       bigint,
    timeout       bigint,
    lease         bigint,
    max_attempts  int,
    max_lost      int,
    tags          jsonb,
    parent        bigint,
    unique_for    bigint,
    partition     text,
    requires      text[],
    affinity      text,
    schedule_id   bigint,
    scheduled_for timestamptz,
    key_generation int,
    decided_by    regrole,
    former_flow   bigint,
    undo_of       bigint,
    repeats       boolean,
    undo          jsonb,
    PRIMARY KEY (id)
) WITH (fillfactor = 43);
CREATE UNIQUE INDEX job_members ON @extschema@.job (flow, name text_pattern_ops) WHERE flow IS NOT NULL;
CREATE INDEX job_times ON @extschema@.job (schedule_id, scheduled_for) WHERE schedule_id IS NOT NULL;
CREATE INDEX job_tags ON @extschema@.job USING gin (tags jsonb_path_ops) WITH (gin_pending_list_limit = 256) WHERE tags IS NOT NULL;
COMMENT ON TABLE @extschema@.job IS
    'What was asked and, once decided, what came of it; written when a job is submitted and when it ends. Intervals are in microseconds; NULL means the setting of the queue';
REVOKE ALL ON @extschema@.job FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job', '');

CREATE TABLE @extschema@.job_dependency (
    upstream      bigint NOT NULL,
    downstream    bigint NOT NULL,
    require       smallint NOT NULL,
    suffice       smallint NOT NULL,
    condition     text,
    PRIMARY KEY (upstream, downstream)
);
CREATE INDEX job_dependency_downstream ON @extschema@.job_dependency (downstream, upstream);
COMMENT ON TABLE @extschema@.job_dependency IS
    'Edges. require and suffice are masks over the outcome of upstream: 1 succeeded, 2 failed, 4 skipped, 8 cancelled, 16 upstream_failed. require 63: only that it has ended. condition: a jsonpath over the result of upstream; where that does not hold, one that has succeeded counts as skipped';
REVOKE ALL ON @extschema@.job_dependency FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_dependency', '');

CREATE TABLE @extschema@.job_waiting (
    job_id        bigint NOT NULL,
    queue_id      bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    partition_id  bigint,
    affinity_id   bigint,
    flow_id       bigint,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    slot          smallint,
    epoch         bigint NOT NULL,
    limited_by    bigint,
    undecided     int NOT NULL,
    pending       int NOT NULL,
    hits          int NOT NULL,
    violated      int NOT NULL,
    hurt          int NOT NULL,
    quorum        int NOT NULL,
    rule          smallint NOT NULL,
    open          boolean NOT NULL,
    held          boolean NOT NULL,
    manual        boolean NOT NULL,
    wide          boolean NOT NULL,
    PRIMARY KEY (job_id)
) WITH (fillfactor = 70);
CREATE INDEX job_waiting_limited_by ON @extschema@.job_waiting (limited_by, priority DESC, job_id) WHERE limited_by IS NOT NULL;
COMMENT ON TABLE @extschema@.job_waiting IS
    'Jobs that wait for dependencies (open), for job_unhold (held), for job_decide (manual) or for the flow that they are members of (limited_by), with how far their dependencies are, but for what job_delta says';
REVOKE ALL ON @extschema@.job_waiting FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_waiting', '');

CREATE TABLE @extschema@.job_delta (
    seq           bigint NOT NULL,
    downstream    bigint NOT NULL,
    epoch         bigint NOT NULL,
    undecided     int NOT NULL,
    pending       int NOT NULL,
    hits          int NOT NULL,
    violated      int NOT NULL,
    hurt          int NOT NULL,
    running       int NOT NULL,
    permits       int NOT NULL,
    PRIMARY KEY (seq)
);
COMMENT ON TABLE @extschema@.job_delta IS
    'What is still to be added to the counters of a job that waits, by the background worker';
REVOKE ALL ON @extschema@.job_delta FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_delta', '');

CREATE TABLE @extschema@.job_recount (
    seq           bigint NOT NULL,
    job_id        bigint NOT NULL,
    PRIMARY KEY (seq)
);
CREATE INDEX ON @extschema@.job_recount (job_id);
COMMENT ON TABLE @extschema@.job_recount IS 'Jobs whose dependencies the background worker has still to count anew';
REVOKE ALL ON @extschema@.job_recount FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_recount', '');

CREATE TABLE @extschema@.job_scheduled (
    job_id        bigint NOT NULL,
    queue_id      bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    partition_id  bigint,
    affinity_id   bigint,
    flow_id       bigint,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    slot          smallint,
    PRIMARY KEY (job_id)
);
CREATE INDEX job_scheduled_run_at ON @extschema@.job_scheduled (run_at, job_id);
COMMENT ON TABLE @extschema@.job_scheduled IS 'Jobs that wait for the clock';
REVOKE ALL ON @extschema@.job_scheduled FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_scheduled', '');

CREATE TABLE @extschema@.job_limited (
    job_id        bigint NOT NULL,
    queue_id      bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    partition_id  bigint NOT NULL,
    affinity_id   bigint,
    flow_id       bigint,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    slot          smallint,
    position      bigint NOT NULL,
    since         timestamptz NOT NULL,
    PRIMARY KEY (job_id)
);
CREATE INDEX job_limited_order ON @extschema@.job_limited (queue_id, partition_id, priority DESC, position);
COMMENT ON TABLE @extschema@.job_limited IS 'Jobs that wait for a slot, a rate or their turn; partition_id 0 means that they have no partition';
REVOKE ALL ON @extschema@.job_limited FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_limited', '');

CREATE TABLE @extschema@.job_ready (
    job_id        bigint NOT NULL,
    queue_id      bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    partition_id  bigint,
    affinity_id   bigint,
    flow_id       bigint,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    slot          smallint,
    position      bigint NOT NULL,
    since         timestamptz NOT NULL
);
-- What is deleted here must be deleted on a subscriber too, or jobs would be run again there.
ALTER TABLE @extschema@.job_ready REPLICA IDENTITY FULL;
CREATE INDEX job_ready_order ON @extschema@.job_ready (lane, priority DESC, position);
-- A job that is ready when it is submitted has its id for a position, so the index above finds it by id.
CREATE INDEX job_ready_job_id ON @extschema@.job_ready (job_id) WHERE position <> job_id;
COMMENT ON TABLE @extschema@.job_ready IS 'Jobs that can be claimed now';
REVOKE ALL ON @extschema@.job_ready FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_ready', '');

CREATE TABLE @extschema@.job_lease (
    job_id        bigint NOT NULL,
    queue_id      bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    partition_id  bigint,
    affinity_id   bigint,
    flow_id       bigint,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    slot          smallint,
    token         bigint NOT NULL,
    deadline      timestamptz NOT NULL,
    lease_until   timestamptz NOT NULL,
    timeout_at    timestamptz,
    started_at    timestamptz NOT NULL,
    period        bigint NOT NULL,
    holder        regrole NOT NULL,
    cancel_requested boolean NOT NULL,
    last          boolean NOT NULL,
    session       bigint,
    worker        text,
    labels        text[],
    cancel_reason text,
    progress      jsonb,
    PRIMARY KEY (job_id)
) WITH (fillfactor = 80);
CREATE INDEX job_lease_deadline ON @extschema@.job_lease (deadline);
-- leases that last as long as their session
CREATE INDEX job_lease_session ON @extschema@.job_lease (session) WHERE session IS NOT NULL;
COMMENT ON TABLE @extschema@.job_lease IS 'Jobs that run. Heartbeats extend a lease in shared memory, not here';
REVOKE ALL ON @extschema@.job_lease FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_lease', '');

CREATE TABLE @extschema@.job_flow (
    job_id        bigint NOT NULL,
    queue_id      bigint NOT NULL,
    lane          bigint NOT NULL,
    run_at        timestamptz,
    expires_at    timestamptz,
    partition_id  bigint,
    affinity_id   bigint,
    flow_id       bigint,
    attempt       int NOT NULL,
    failed        int NOT NULL,
    lost          int NOT NULL,
    priority      smallint NOT NULL,
    slot          smallint,
    undecided     int NOT NULL,
    pending       int NOT NULL,
    hits          int NOT NULL,
    violated      int NOT NULL,
    hurt          int NOT NULL,
    running       int NOT NULL,
    permits       int,
    max_running   int,
    canary        int,
    started_at    timestamptz,
    undone_by     bigint,
    clone_of      bigint,
    canary_from   bigint,
    canary_upto   bigint,
    min_success   double precision,
    on_failure    smallint NOT NULL,
    stopping      smallint NOT NULL,
    open          boolean NOT NULL,
    paused        boolean NOT NULL,
    settled       boolean NOT NULL,
    anew          boolean NOT NULL,
    stop_reason   text,
    clone_from    text[],
    definition    jsonb NOT NULL,
    args          jsonb,
    PRIMARY KEY (job_id)
) WITH (fillfactor = 70);
-- where the server was built with it; pglz takes a tenth of the time of a submission
DO $$
BEGIN
    ALTER TABLE @extschema@.job_flow ALTER definition SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported THEN
    NULL;
END $$;
COMMENT ON TABLE @extschema@.job_flow IS
    'What flows are made of, and, of those that run (open), how far their members are, but for what job_delta says. running: members that have a slot, of a flow with permits or max_running. settled: none of its members is ready that may not begin and, with permits or max_running, each that runs has a slot. anew: it has begun anew, so what its members depend on outside was there once. canary: of a map, so many items, from canary_from to canary_upto, must succeed before the others begin. min_success: of a map, as its definition has it. on_failure: 0 continue, 1 cancel, 2 drain, 3 undo. stopping: 0 no, 1 members that have not begun are cancelled, since one failed, else all are: 2 one failed, 3 it is cancelled, 4 it timed out. clone_from: what does not follow from these members is taken over from the flow of which it is a copy';
REVOKE ALL ON @extschema@.job_flow FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_flow', '');

CREATE TABLE @extschema@.job_kept (
    look_at       timestamptz NOT NULL,
    job_id        bigint NOT NULL,
    position      bigint NOT NULL,
    until         timestamptz NOT NULL,
    worker        bigint NOT NULL
);
ALTER TABLE @extschema@.job_kept REPLICA IDENTITY FULL;
CREATE INDEX job_kept_look_at ON @extschema@.job_kept (look_at, job_id);
COMMENT ON TABLE @extschema@.job_kept IS
    'When to look whether a job that is ready is still to be kept for a worker, if it has that position; removed at that time, whatever became of the job';
REVOKE ALL ON @extschema@.job_kept FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_kept', '');

CREATE TABLE @extschema@.job_expiry (
    expires_at    timestamptz NOT NULL,
    job_id        bigint NOT NULL,
    PRIMARY KEY (expires_at, job_id)
);
COMMENT ON TABLE @extschema@.job_expiry IS 'When to look whether a job has expired; removed at that time, whatever became of the job';
REVOKE ALL ON @extschema@.job_expiry FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_expiry', '');

CREATE TABLE @extschema@.job_cancel_request (
    seq           bigint NOT NULL,
    job_id        bigint NOT NULL,
    generation    int NOT NULL,
    unless_begun  boolean NOT NULL,
    reason        text,
    PRIMARY KEY (seq)
);
CREATE INDEX job_cancel_request_job_id ON @extschema@.job_cancel_request (job_id);
COMMENT ON TABLE @extschema@.job_cancel_request IS 'Requests to cancel a job that the background worker has not acted on yet';
REVOKE ALL ON @extschema@.job_cancel_request FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_cancel_request', '');

CREATE TABLE @extschema@.job_unique (
    queue_id      bigint NOT NULL,
    job_id        bigint NOT NULL,
    until         timestamptz,
    unique_key    text COLLATE "C" NOT NULL
) WITH (fillfactor = 90);
-- by the bytes alone, so that no comparison asks for a collation
CREATE UNIQUE INDEX job_unique_key ON @extschema@.job_unique (unique_key text_pattern_ops, queue_id);
ALTER TABLE @extschema@.job_unique REPLICA IDENTITY USING INDEX job_unique_key;
CREATE INDEX job_unique_until ON @extschema@.job_unique (until, job_id) WHERE until IS NOT NULL;
COMMENT ON TABLE @extschema@.job_unique IS
    'Unique keys that are taken, each by one job of its queue: until that is decided or, where it is decided, until a time';
REVOKE ALL ON @extschema@.job_unique FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_unique', '');

CREATE TABLE @extschema@.job_schedule (
    id            bigint NOT NULL,
    next_at       timestamptz,
    last_at       timestamptz,
    last_job      bigint,
    owner         regrole NOT NULL,
    catch_up      smallint NOT NULL,
    overlap       smallint NOT NULL,
    paused        boolean NOT NULL,
    name          text COLLATE "C" NOT NULL,
    schedule      text NOT NULL,
    timezone      text NOT NULL,
    job           jsonb NOT NULL,
    last_problem  text,
    PRIMARY KEY (name)
) WITH (fillfactor = 70);
CREATE INDEX job_schedule_next_at ON @extschema@.job_schedule (next_at, id);
COMMENT ON TABLE @extschema@.job_schedule IS
    'Schedules, with the job that each submits and when it is due next (NULL: never, or paused). Change it with job_schedule and job_unschedule only';
REVOKE ALL ON @extschema@.job_schedule FROM PUBLIC;
-- one whose owner is gone must not come back as that of whoever has the number there
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_schedule',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = owner::pg_catalog.oid)');

CREATE TABLE @extschema@.job_attempt (
    job_id        bigint NOT NULL,
    attempt       int NOT NULL,
    started_at    timestamptz NOT NULL,
    ended_at      timestamptz NOT NULL,
    outcome       smallint NOT NULL,
    worker        text,
    error         text,
    PRIMARY KEY (job_id, attempt)
);
COMMENT ON TABLE @extschema@.job_attempt IS 'Attempts that ended without deciding their job, or decided it before it was opened again; the deciding one is in job';
REVOKE ALL ON @extschema@.job_attempt FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_attempt', '');

CREATE TABLE @extschema@.job_log (
    job_id        bigint NOT NULL,
    seq           bigint NOT NULL,
    at            timestamptz NOT NULL,
    attempt       int NOT NULL,
    line          int NOT NULL,
    level         smallint NOT NULL,
    message       text NOT NULL,
    data          jsonb,
    PRIMARY KEY (job_id, seq)
);
COMMENT ON TABLE @extschema@.job_log IS 'What the worker of an attempt told of it, line by line; levels are 0 debug, 1 info, 2 warning, 3 error';
REVOKE ALL ON @extschema@.job_log FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_log', '');

CREATE TABLE @extschema@.job_step (
    job_id        bigint NOT NULL,
    at            timestamptz NOT NULL,
    generation    int NOT NULL,
    name          text COLLATE "C" NOT NULL,
    result        jsonb NOT NULL,
    PRIMARY KEY (job_id, name)
);
COMMENT ON TABLE @extschema@.job_step IS 'Steps that the workers of a job have recorded; those of an earlier generation than the job''s count no more';
REVOKE ALL ON @extschema@.job_step FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_step', '');

CREATE TABLE @extschema@.job_queue (
    name          text NOT NULL,
    queue_id      bigint NOT NULL,
    paused        boolean NOT NULL DEFAULT false,
    max_attempts  int,
    max_lost      int,
    backoff       bigint,
    backoff_cap   bigint,
    timeout       bigint,
    lease         bigint,
    notify        smallint NOT NULL DEFAULT 0,
    retention     bigint,
    retention_failed bigint,
    pause_after   int,
    pause_window  bigint,
    paused_because text,
    paused_at     timestamptz,
    max_running   int,
    max_running_per_partition int,
    ordered       boolean NOT NULL DEFAULT false,
    fair          boolean NOT NULL DEFAULT false,
    rate          int,
    rate_per_partition int,
    rate_interval bigint,
    affinity_wait bigint,
    gates         bigint[],
    PRIMARY KEY (name)
);
CREATE UNIQUE INDEX job_queue_id ON @extschema@.job_queue (queue_id);
COMMENT ON TABLE @extschema@.job_queue IS 'Queues and their settings; a row is made on first use. Change it with job_queue_set only';
REVOKE ALL ON @extschema@.job_queue FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_queue', '');

CREATE TABLE @extschema@.job_partition (
    queue_id      bigint NOT NULL,
    partition_id  bigint NOT NULL,
    paused        boolean NOT NULL,
    weight        int NOT NULL,
    max_running   int,
    queue         text NOT NULL,
    partition     text NOT NULL,
    PRIMARY KEY (queue_id, partition_id)
);
COMMENT ON TABLE @extschema@.job_partition IS 'Partitions with settings of their own. Change it with job_partition_set only';
REVOKE ALL ON @extschema@.job_partition FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_partition', '');

CREATE TABLE @extschema@.job_lane (
    lane          bigint NOT NULL,
    queue_id      bigint NOT NULL,
    requires      text[] NOT NULL
);
ALTER TABLE @extschema@.job_lane REPLICA IDENTITY FULL;
CREATE INDEX job_lane_queue_id ON @extschema@.job_lane (queue_id, lane);
COMMENT ON TABLE @extschema@.job_lane IS 'The sets of labels that jobs of a queue require, each with its order of ready jobs; a row is made on first use, and two can be of one set';
REVOKE ALL ON @extschema@.job_lane FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_lane', '');

CREATE TABLE @extschema@.job_turn (
    queue_id      bigint NOT NULL,
    partition_id  bigint NOT NULL,
    job_id        bigint NOT NULL,
    PRIMARY KEY (queue_id, partition_id)
) WITH (fillfactor = 50);
COMMENT ON TABLE @extschema@.job_turn IS 'In ordered queues, the job of each partition whose turn it is';
REVOKE ALL ON @extschema@.job_turn FROM PUBLIC;
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_turn', '');

CREATE TABLE @extschema@.job_worker (
    registered_at timestamptz NOT NULL,
    seen_at       timestamptz NOT NULL,
    role          regrole NOT NULL,
    capacity      int,
    draining      boolean NOT NULL,
    worker        text COLLATE "C" NOT NULL,
    version       text,
    labels        text[],
    data          jsonb,
    PRIMARY KEY (worker)
) WITH (fillfactor = 70);
COMMENT ON TABLE @extschema@.job_worker IS
    'Workers that have registered. When they were seen is in shared memory, here up to an hour later. Change it with job_worker_register and its sisters only';
REVOKE ALL ON @extschema@.job_worker FROM PUBLIC;
-- one whose role is gone must not come back as that of whoever has the number there
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_worker',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role::pg_catalog.oid)');

CREATE TABLE @extschema@.job_privilege (
    role          regrole NOT NULL,
    queue         text NOT NULL,
    privilege     text NOT NULL,
    PRIMARY KEY (role, queue, privilege)
);
COMMENT ON TABLE @extschema@.job_privilege IS 'Who may do what on which queue (* for all). Change it with job_grant and job_revoke only';
REVOKE ALL ON @extschema@.job_privilege FROM PUBLIC;
-- a grant to a role that is gone must not come back as one to whoever has its number there
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_privilege',
    'WHERE EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.oid = role::pg_catalog.oid)');

CREATE TABLE @extschema@.job_active_database (
    system_identifier bigint NOT NULL,
    database      oid NOT NULL,
    PRIMARY KEY (system_identifier)
);
COMMENT ON TABLE @extschema@.job_active_database IS
    'The database whose background worker may act: written by the first use, not dumped, so that a restored or copied database stays still';
REVOKE ALL ON @extschema@.job_active_database FROM PUBLIC;

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
    notify        boolean     DEFAULT false,
    unique_key    text        DEFAULT NULL,
    unique_for    interval    DEFAULT NULL,
    on_conflict   text        DEFAULT 'keep',
    hold          boolean     DEFAULT false,
    manual        boolean     DEFAULT false,
    partition     text        DEFAULT NULL,
    requires      text[]      DEFAULT NULL,
    affinity      text        DEFAULT NULL,
    flow          bigint      DEFAULT NULL,
    name          text        DEFAULT NULL,
    undo          jsonb       DEFAULT NULL,
    run_in        interval    DEFAULT NULL
) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_submit';
COMMENT ON FUNCTION @extschema@.job_submit(text, jsonb, text, int, timestamptz, bigint[], text, int, int, int, interval, interval, interval, timestamptz, bigint, jsonb, boolean, text, interval, text, boolean, boolean, text, text[], text, bigint, text, jsonb, interval) IS
    'Submits a job and returns its id or, where another has its unique_key, what on_conflict says; NULL for an option means the setting of the queue, else the GUC''s. 22003, 22004 or 22023 for a bad value, JQ002 where a job that is named does not exist or may not be seen, 23505 with on_conflict ''error'', 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_submit(text, jsonb, text, int, timestamptz, bigint[], text, int, int, int, interval, interval, interval, timestamptz, bigint, jsonb, boolean, text, interval, text, boolean, boolean, text, text[], text, bigint, text, jsonb, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_submit_many(jobs jsonb) RETURNS SETOF bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_submit_many';
COMMENT ON FUNCTION @extschema@.job_submit_many(jsonb) IS
    'Submits all jobs of an array of objects with job_submit''s arguments, or none, and returns their ids in the array''s order; depends_on may hold the "name" of other elements, which none may share. SQLSTATEs are job_submit''s, and 22023 for an unknown key or name and for a cycle.';
REVOKE ALL ON FUNCTION @extschema@.job_submit_many(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_submit_flow(flow jsonb) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_submit_flow';
COMMENT ON FUNCTION @extschema@.job_submit_flow(jsonb) IS
    'Submits a flow, a job whose work is its members, and returns its id. 22023 with all its faults, as job_check_flow lists them; else SQLSTATEs are job_submit''s.';
REVOKE ALL ON FUNCTION @extschema@.job_submit_flow(jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_check_flow(flow jsonb) RETURNS TABLE (path text, problem text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_check_flow';
COMMENT ON FUNCTION @extschema@.job_check_flow(jsonb) IS
    'All that is wrong with a flow that job_submit_flow would get, and where, as jsonpaths; no rows: nothing. Jobs outside that it depends on and privileges are not looked at. 22004.';
REVOKE ALL ON FUNCTION @extschema@.job_check_flow(jsonb) FROM PUBLIC;

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
    lease_until   timestamptz,
    flow          bigint
);
COMMENT ON TYPE @extschema@.job_assignment IS 'A claimed job';
COMMENT ON COLUMN @extschema@.job_assignment.job_id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_assignment.token IS 'Random, never 0; every act on this attempt takes it';
COMMENT ON COLUMN @extschema@.job_assignment.attempt IS 'Which attempt of the job this is, from 1 on, whatever became of the others';
COMMENT ON COLUMN @extschema@.job_assignment.kind IS 'What to run';
COMMENT ON COLUMN @extschema@.job_assignment.args IS 'With what: an object';
COMMENT ON COLUMN @extschema@.job_assignment.inputs IS 'Results of the parents that succeeded, by name where no other parent has it, else by id; NULL if they are larger than jobq.max_inputs_size together: read them with job_parents';
COMMENT ON COLUMN @extschema@.job_assignment.key IS 'The same over all attempts, new after job_retry, for making effects idempotent';
COMMENT ON COLUMN @extschema@.job_assignment.lease_until IS 'The job is lost if there is no heartbeat before this time; NULL: when the session ends';
COMMENT ON COLUMN @extschema@.job_assignment.flow IS 'The flow that it is a member of, or NULL';

CREATE FUNCTION @extschema@.job_claim(queue text DEFAULT 'default', worker text DEFAULT NULL, max_jobs int DEFAULT 1, lease interval DEFAULT NULL,
    labels text[] DEFAULT NULL, session boolean DEFAULT false)
RETURNS SETOF @extschema@.job_assignment
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_claim';
COMMENT ON FUNCTION @extschema@.job_claim(text, text, int, interval, text[], boolean) IS
    'Takes up to max_jobs ready jobs of a queue, by priority, then in the order in which they became ready. 22004 or 22023 for a bad value, 42501. With session the lease lasts as long as the session: no heartbeats.';
REVOKE ALL ON FUNCTION @extschema@.job_claim(text, text, int, interval, text[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_claim(queues text[], worker text DEFAULT NULL, max_jobs int DEFAULT 1, lease interval DEFAULT NULL,
    labels text[] DEFAULT NULL, session boolean DEFAULT false)
RETURNS SETOF @extschema@.job_assignment
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_claim_queues';
COMMENT ON FUNCTION @extschema@.job_claim(text[], text, int, interval, text[], boolean) IS
    'The same over several queues at once: the best of all of them. 2202E for an array of several dimensions, else as for one queue.';
REVOKE ALL ON FUNCTION @extschema@.job_claim(text[], text, int, interval, text[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_claim_flow(flow bigint, worker text DEFAULT NULL, max_jobs int DEFAULT 1, lease interval DEFAULT NULL,
    labels text[] DEFAULT NULL, session boolean DEFAULT false)
RETURNS SETOF @extschema@.job_assignment
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_claim_flow';
COMMENT ON FUNCTION @extschema@.job_claim_flow(bigint, text, int, interval, text[], boolean) IS
    'The same of what is inside a flow, at any depth, whatever their queues. Queues that the caller may not work on are passed over; for which worker a job is kept does not count. JQ002, 22023 for a job that is no flow, else as for one queue.';
REVOKE ALL ON FUNCTION @extschema@.job_claim_flow(bigint, text, int, interval, text[], boolean) FROM PUBLIC;

CREATE PROCEDURE @extschema@.job_claim_wait(
    IN queue text, IN worker text, IN timeout interval, IN lease interval DEFAULT NULL,
    INOUT job_id bigint DEFAULT NULL, INOUT token bigint DEFAULT NULL, INOUT attempt int DEFAULT NULL, INOUT kind text DEFAULT NULL,
    INOUT args jsonb DEFAULT NULL, INOUT inputs jsonb DEFAULT NULL, INOUT key text DEFAULT NULL, INOUT lease_until timestamptz DEFAULT NULL,
    INOUT flow bigint DEFAULT NULL, IN labels text[] DEFAULT NULL)
LANGUAGE C
AS 'MODULE_PATHNAME', 'jobq_job_claim_wait';
COMMENT ON PROCEDURE @extschema@.job_claim_wait(text, text, interval, interval, bigint, bigint, int, text, jsonb, jsonb, text, timestamptz, bigint, text[]) IS
    'Waits until a job of the queue can be claimed and claims it; job_id is NULL when timeout is over first. 25001 in a transaction block or function, 22004 or 22023 for a bad value, 42501.';
REVOKE ALL ON PROCEDURE @extschema@.job_claim_wait(text, text, interval, interval, bigint, bigint, int, text, jsonb, jsonb, text, timestamptz, bigint, text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_worker_register(worker text, labels text[] DEFAULT NULL, version text DEFAULT NULL, capacity int DEFAULT NULL, data jsonb DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_worker_register';
COMMENT ON FUNCTION @extschema@.job_worker_register(text, text[], text, int, jsonb) IS
    'Tells of a worker by its name; again, it replaces what was told and leaves whether it drains. 22004 or 22023 for a bad value, 2202E, 54000 for too many labels or too large data, 42501 also where another role has registered it.';
REVOKE ALL ON FUNCTION @extschema@.job_worker_register(text, text[], text, int, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_worker_unregister(worker text) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_worker_unregister';
COMMENT ON FUNCTION @extschema@.job_worker_unregister(text) IS
    'Forgets a worker that has registered, and whether it drained; false if none has. The jobs that it runs go on. 22004 or 22023 for a bad name, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_worker_unregister(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_worker_drain(worker text, draining boolean DEFAULT true) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_worker_drain';
COMMENT ON FUNCTION @extschema@.job_worker_drain(text, boolean) IS
    'Has the claims of a worker that has registered get nothing, until it is ended with false; false if that changes nothing. 22004 or 22023 for a bad value, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_worker_drain(text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_heartbeat(job_id bigint, token bigint, extend interval DEFAULT NULL, progress jsonb DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_heartbeat';
COMMENT ON FUNCTION @extschema@.job_heartbeat(bigint, bigint, interval, jsonb) IS
    'Says that a job''s worker is alive: its lease now ends at the earliest one period, or extend, from now. False if cancellation was asked for. JQ001 for a stale token, JQ002, 22023 for a bad extend, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_heartbeat(bigint, bigint, interval, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_complete(job_id bigint, token bigint, result jsonb DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_complete';
COMMENT ON FUNCTION @extschema@.job_complete(bigint, bigint, jsonb) IS
    'Ends a running job as succeeded and lets what depends on it go on; repeating the call that decided the job does nothing. JQ001 for a stale token, JQ002, 54000 for a result over jobq.max_result_size, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_complete(bigint, bigint, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_next(job_id bigint, token bigint, result jsonb DEFAULT NULL, queues text[] DEFAULT NULL, max_jobs int DEFAULT 1)
RETURNS SETOF @extschema@.job_assignment
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_next';
COMMENT ON FUNCTION @extschema@.job_next(bigint, bigint, jsonb, text[], int) IS
    'Completes a job, then claims the next for the same worker with the same lease, or one of this session if it had one of a session, of its queue or the given ones. SQLSTATEs are those of job_complete, in which case nothing is claimed, and of job_claim.';
REVOKE ALL ON FUNCTION @extschema@.job_next(bigint, bigint, jsonb, text[], int) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_complete_many(job_ids bigint[], tokens bigint[], results jsonb[] DEFAULT NULL)
RETURNS TABLE (job_id bigint, accepted boolean)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_complete_many';
COMMENT ON FUNCTION @extschema@.job_complete_many(bigint[], bigint[], jsonb[]) IS
    'Completes several jobs in one pass; accepted is false where the token is stale or there is no such job. 22004, 22023 or 2202E for bad arrays, 54000 for a result over jobq.max_result_size, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_complete_many(bigint[], bigint[], jsonb[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_fail(job_id bigint, token bigint, error text DEFAULT NULL, retry boolean DEFAULT true, retry_in interval DEFAULT NULL)
RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_fail';
COMMENT ON FUNCTION @extschema@.job_fail(bigint, bigint, text, boolean, interval) IS
    'Ends an attempt as failed and returns the state that the job is in now: ready or scheduled, failed, or cancelled if that was asked for. JQ001 for a stale token, JQ002, 22023 for a bad retry_in, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_fail(bigint, bigint, text, boolean, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_fail_many(job_ids bigint[], tokens bigint[], errors text[] DEFAULT NULL, retry boolean DEFAULT true,
    retry_in interval DEFAULT NULL)
RETURNS TABLE (job_id bigint, accepted boolean, state text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_fail_many';
COMMENT ON FUNCTION @extschema@.job_fail_many(bigint[], bigint[], text[], boolean, interval) IS
    'Fails the attempts of several jobs; accepted is false where the token is stale or there is no such job. 22004, 22023 or 2202E for bad arguments, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_fail_many(bigint[], bigint[], text[], boolean, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_release(job_id bigint, token bigint) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_release';
COMMENT ON FUNCTION @extschema@.job_release(bigint, bigint) IS
    'Gives a running job back, to be run again at once; the attempt counts against no budget. JQ001 for a stale token, JQ002, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_release(bigint, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_snooze(job_id bigint, token bigint, delay interval) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_snooze';
COMMENT ON FUNCTION @extschema@.job_snooze(bigint, bigint, interval) IS
    'Gives a running job back, to be run after delay; the attempt counts against no budget. JQ001 for a stale token, JQ002, 22004 or 22023 for a bad delay, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_snooze(bigint, bigint, interval) FROM PUBLIC;

--
-- Results and control
--

CREATE FUNCTION @extschema@.job_result(job_id bigint) RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_result';
COMMENT ON FUNCTION @extschema@.job_result(bigint) IS
    'The result of a job that succeeded, else NULL. JQ002 if there is no such job or the caller may not see it.';
REVOKE ALL ON FUNCTION @extschema@.job_result(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_parents(job_id bigint)
RETURNS TABLE (job_id bigint, name text, kind text, state text, result jsonb, error text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_parents';
COMMENT ON FUNCTION @extschema@.job_parents(bigint) IS
    'The jobs that a job depends on, as far as the caller may see them, its worker all of them. JQ002 if there is no such job or the caller may not see it.';
REVOKE ALL ON FUNCTION @extschema@.job_parents(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_children(job_id bigint)
RETURNS TABLE (job_id bigint, name text, kind text, state text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_children';
COMMENT ON FUNCTION @extschema@.job_children(bigint) IS
    'The jobs that depend on a job, as far as the caller may see them. JQ002 if there is no such job or the caller may not see it.';
REVOKE ALL ON FUNCTION @extschema@.job_children(bigint) FROM PUBLIC;

CREATE PROCEDURE @extschema@.job_wait(IN job_id bigint, IN timeout interval, INOUT state text DEFAULT NULL, INOUT result jsonb DEFAULT NULL)
LANGUAGE C
AS 'MODULE_PATHNAME', 'jobq_job_wait';
COMMENT ON PROCEDURE @extschema@.job_wait(bigint, interval, text, jsonb) IS
    'Waits until a job is decided and returns its final state and result, or the state it is in when timeout is over first. 25001 in a transaction block or function, JQ002, 22023 for a bad timeout.';
REVOKE ALL ON PROCEDURE @extschema@.job_wait(bigint, interval, text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_cancel(job_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_cancel';
COMMENT ON FUNCTION @extschema@.job_cancel(bigint, text) IS
    'Cancels a job that does not run, asks the worker of one that runs to stop; false if that changed nothing. JQ002, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_cancel(bigint, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_retry(job_id bigint, downstream boolean DEFAULT false) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_retry';
COMMENT ON FUNCTION @extschema@.job_retry(bigint, boolean) IS
    'Opens a failed or cancelled job again, and those that were upstream_failed or skipped because of it; false if it is undecided. JQ002, JQ003 if it cannot run again, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_retry(bigint, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_take_back(job_id bigint, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_take_back';
COMMENT ON FUNCTION @extschema@.job_take_back(bigint, text) IS
    'Ends the attempt of a running job now, as if its lease had run out; false if it does not run, or another transaction is just ending it. JQ002, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_take_back(bigint, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_hold(job_id bigint) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_hold';
COMMENT ON FUNCTION @extschema@.job_hold(bigint) IS
    'Keeps a job from running until job_unhold; false if it was held already. JQ002, JQ003 if it runs or is decided, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_hold(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_unhold(job_id bigint) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_unhold';
COMMENT ON FUNCTION @extschema@.job_unhold(bigint) IS
    'Lets a held job go on; false if it was not held. JQ002, JQ003 if it is decided, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_unhold(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_change(job_id bigint, priority int DEFAULT NULL, run_at timestamptz DEFAULT NULL, queue text DEFAULT NULL,
    args jsonb DEFAULT NULL, tags jsonb DEFAULT NULL, expires_at timestamptz DEFAULT NULL, max_attempts int DEFAULT NULL,
    timeout interval DEFAULT NULL, partition text DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_change';
COMMENT ON FUNCTION @extschema@.job_change(bigint, int, timestamptz, text, jsonb, jsonb, timestamptz, int, interval, text) IS
    'Changes what was asked of a job that does not run and is not decided; priority and tags also of one that runs. NULL leaves a value as it is; false if that changed nothing. JQ002, JQ003, 22003 or 22023 for a bad value, 23505 if its unique key is taken in the new queue, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_change(bigint, int, timestamptz, text, jsonb, jsonb, timestamptz, int, interval, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_decide(job_id bigint, state text, result jsonb DEFAULT NULL, reason text DEFAULT NULL) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_decide';
COMMENT ON FUNCTION @extschema@.job_decide(bigint, text, jsonb, text) IS
    'Decides a job that does not run as succeeded, failed, skipped or cancelled; false if it is decided. JQ002, JQ003 if it runs, 22004 or 22023 for a bad state, 54000 for a result over jobq.max_result_size, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_decide(bigint, text, jsonb, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_cancel_many(job_ids bigint[], reason text DEFAULT NULL)
RETURNS TABLE (job_id bigint, changed boolean, problem text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_cancel_many';
COMMENT ON FUNCTION @extschema@.job_cancel_many(bigint[], text) IS
    'Cancels many jobs in one pass; what job_cancel would raise for one stands in problem, and the others go on. 22004, 22023 or 2202E for bad job_ids.';
REVOKE ALL ON FUNCTION @extschema@.job_cancel_many(bigint[], text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_retry_many(job_ids bigint[], downstream boolean DEFAULT false)
RETURNS TABLE (job_id bigint, changed boolean, problem text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_retry_many';
COMMENT ON FUNCTION @extschema@.job_retry_many(bigint[], boolean) IS
    'Opens many jobs again in one pass, with downstream => true with all that follows; what job_retry would raise for one stands in problem, and the others go on. 22004, 22023 or 2202E for bad job_ids.';
REVOKE ALL ON FUNCTION @extschema@.job_retry_many(bigint[], boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_hold_many(job_ids bigint[])
RETURNS TABLE (job_id bigint, changed boolean, problem text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_hold_many';
COMMENT ON FUNCTION @extschema@.job_hold_many(bigint[]) IS
    'Holds many jobs in one pass; what job_hold would raise for one stands in problem, and the others go on. 22004, 22023 or 2202E for bad job_ids.';
REVOKE ALL ON FUNCTION @extschema@.job_hold_many(bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_unhold_many(job_ids bigint[])
RETURNS TABLE (job_id bigint, changed boolean, problem text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_unhold_many';
COMMENT ON FUNCTION @extschema@.job_unhold_many(bigint[]) IS
    'Lets many held jobs go on in one pass; what job_unhold would raise for one stands in problem, and the others go on. 22004, 22023 or 2202E for bad job_ids.';
REVOKE ALL ON FUNCTION @extschema@.job_unhold_many(bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_delete(job_id bigint) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_delete';
COMMENT ON FUNCTION @extschema@.job_delete(bigint) IS
    'Removes a decided job with its edges and attempts. JQ002, JQ003 if it is undecided, an undecided job depends on it, or it was to start after one, 23503 where a foreign key keeps it, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_delete(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_delete_many(job_ids bigint[]) RETURNS TABLE (job_id bigint, changed boolean, problem text)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_delete_many';
COMMENT ON FUNCTION @extschema@.job_delete_many(bigint[]) IS
    'Removes many decided jobs in one pass; what job_delete would raise for one stands in problem, and the others go on. 22004, 22023 or 2202E for bad job_ids.';
REVOKE ALL ON FUNCTION @extschema@.job_delete_many(bigint[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_purge(queue text DEFAULT NULL, older_than interval DEFAULT NULL, max_jobs int DEFAULT 10000) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_purge';
COMMENT ON FUNCTION @extschema@.job_purge(text, interval, int) IS
    'Removes up to max_jobs decided jobs of a queue, or of all that the caller may operate, that were decided longer ago than the queues'' retention, or older_than, and returns how many; those that cannot be removed are passed over. 22004 or 22023 for a bad value, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_purge(text, interval, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_queue_set(queue text, paused boolean DEFAULT NULL, max_attempts int DEFAULT NULL, max_lost int DEFAULT NULL,
    backoff interval DEFAULT NULL, backoff_cap interval DEFAULT NULL, timeout interval DEFAULT NULL, lease interval DEFAULT NULL,
    notify text DEFAULT NULL, retention interval DEFAULT NULL, retention_failed interval DEFAULT NULL,
    pause_after int DEFAULT NULL, pause_window interval DEFAULT NULL,
    max_running int DEFAULT NULL, max_running_per_partition int DEFAULT NULL, ordered boolean DEFAULT NULL, fair boolean DEFAULT NULL,
    rate int DEFAULT NULL, rate_per_partition int DEFAULT NULL, rate_interval interval DEFAULT NULL, affinity_wait interval DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_queue_set';
COMMENT ON FUNCTION @extschema@.job_queue_set(text, boolean, int, int, interval, interval, interval, interval, text, interval, interval, int, interval, int, int, boolean, boolean, int, int, interval, interval) IS
    'Changes settings of a queue, which is made on first use; NULL leaves one as it is. 22004 or 22023 for a bad value, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_queue_set(text, boolean, int, int, interval, interval, interval, interval, text, interval, interval, int, interval, int, int, boolean, boolean, int, int, interval, interval) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_partition_set(queue text, partition text, paused boolean DEFAULT NULL, weight int DEFAULT NULL, max_running int DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_partition_set';
COMMENT ON FUNCTION @extschema@.job_partition_set(text, text, boolean, int, int) IS
    'Changes settings of a partition of a queue; NULL leaves one as it is. 22003, 22004 or 22023 for a bad value, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_partition_set(text, text, boolean, int, int) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_queue_reset(queue text, setting text DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_queue_reset';
COMMENT ON FUNCTION @extschema@.job_queue_reset(text, text) IS
    'Takes a setting of a queue, an argument of job_queue_set, back to the default; NULL: all of them. 22004 or 22023 for a bad name, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_queue_reset(text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_grant(role regrole, queue text, privilege text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_grant';
COMMENT ON FUNCTION @extschema@.job_grant(regrole, text, text) IS
    'Grants a role a privilege on a queue, or on all with ''*'': submit, work, operate or read. 42501 if the caller is not the owner of the extension, 22023 for an unknown privilege or bad name, 42704.';
REVOKE ALL ON FUNCTION @extschema@.job_grant(regrole, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_revoke(role regrole, queue text, privilege text) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_revoke';
COMMENT ON FUNCTION @extschema@.job_revoke(regrole, text, text) IS
    'Takes back what job_grant granted with the same arguments. SQLSTATEs are job_grant''s.';
REVOKE ALL ON FUNCTION @extschema@.job_revoke(regrole, text, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_apply_grant(role regrole, privilege text, granted boolean) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    results constant text := 'job_result,job_parents,job_children,job_explain,job_graph,job_graph_jobs,job_graph_text,job_conditions';
    own constant text := 'job_change,job_undo,job_flow_set,job_cancel,job_cancel_many,job_hold,job_hold_many,job_unhold,job_unhold_many';
    views constant text := 'job_status,job_flow_status,job_attempts,job_logs,job_visible,job_lease_until,job_outcome_name,job_attempt_outcome_name';
    members constant jsonb := jsonb_build_object(
        'submit', 'job_submit,job_submit_many,job_submit_flow,job_check_flow,job_clone,job_wait,' || own || ',' || results || ',' || views,
        'work', 'job_claim,job_claim_flow,job_claim_wait,job_next,job_heartbeat,job_complete,job_complete_many,job_fail,job_fail_many,'
            'job_release,job_snooze,job_log,job_step,job_steps,job_worker_register,job_worker_unregister,job_worker_drain,' || results || ',' || views,
        'operate', 'job_check,job_worker_unregister,job_worker_drain,job_decide,job_take_back,job_retry,job_retry_many,job_queue_set,job_queue_reset,job_partition_set,job_schedule,job_unschedule,job_backfill,job_schedules,job_delete,job_delete_many,job_purge,job_wait,' || own || ',' || results || ',' || views
            || ',job_queue_status,job_partition_status,job_queues,job_worker_status,job_worker_seen,job_metrics,job_metrics_text,job_metric_values',
        'read', 'job_schedules,job_wait,' || results || ',' || views || ',job_queue_status,job_partition_status,job_queues,job_worker_status,job_worker_seen,job_metrics,job_metrics_text,job_metric_values');
    kept text[];
    object record;
BEGIN
    -- what other privileges of the role take stays
    SELECT array_agg(name) INTO kept
    FROM @extschema@.job_privilege p, LATERAL string_to_table(members ->> p.privilege, ',') name
    WHERE p.role = job_apply_grant.role AND NOT granted;
    IF granted AND NOT has_schema_privilege(role::oid, '@extschema@'::regnamespace::oid, 'USAGE') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA @extschema@ TO %s', role);
    END IF;
    -- others may have made functions of the same names in the schema
    FOR object IN
        SELECT CASE m.type WHEN 'view' THEN 'SELECT ON TABLE ' ELSE 'EXECUTE ON ROUTINE ' END || m.identity AS what
        FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e',
            LATERAL pg_identify_object(d.classid, d.objid, 0) m,
            LATERAL (SELECT coalesce(m.name, (SELECT proname FROM pg_proc WHERE d.classid = 'pg_proc'::regclass AND oid = d.objid)) AS name) n
        WHERE e.extname = 'jobq' AND d.classid IN ('pg_proc'::regclass, 'pg_class'::regclass)
            AND m.type IN ('view', 'function', 'procedure') AND n.name = ANY (string_to_array(members ->> privilege, ',')) AND n.name <> ALL (coalesce(kept, '{}'))
    LOOP
        EXECUTE format(CASE WHEN granted THEN 'GRANT %s TO %s' ELSE 'REVOKE %s FROM %s' END, object.what, role);
    END LOOP;
    IF NOT granted AND kept IS NULL AND '@extschema@' <> 'public' THEN
        EXECUTE format('REVOKE USAGE ON SCHEMA @extschema@ FROM %s', role);
    END IF;
END $$;
COMMENT ON FUNCTION @extschema@.job_apply_grant(regrole, text, boolean) IS
    'Internal, for job_grant and job_revoke: grants or revokes the EXECUTE, SELECT and USAGE that a privilege takes';
REVOKE ALL ON FUNCTION @extschema@.job_apply_grant(regrole, text, boolean) FROM PUBLIC;

--
-- Schedules
--

-- It reads nothing of ours, so everybody may call it.
CREATE FUNCTION @extschema@.job_schedule_times(schedule text, timezone text DEFAULT 'UTC', after timestamptz DEFAULT pg_catalog.now(), n int DEFAULT 5)
RETURNS SETOF timestamptz
LANGUAGE C STABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_schedule_times';
COMMENT ON FUNCTION @extschema@.job_schedule_times(text, text, timestamptz, int) IS
    'The next n times of a schedule (five cron fields, an alias such as @daily, or every <interval>) in a time zone. 22023 if one of them cannot be read.';
GRANT EXECUTE ON FUNCTION @extschema@.job_schedule_times(text, text, timestamptz, int) TO PUBLIC;

CREATE FUNCTION @extschema@.job_schedule(name text, schedule text, job jsonb, timezone text DEFAULT 'UTC', catch_up text DEFAULT 'last',
    overlap text DEFAULT 'skip', paused boolean DEFAULT false) RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_schedule';
COMMENT ON FUNCTION @extschema@.job_schedule(text, text, jsonb, text, text, text, boolean) IS
    'Makes a schedule or replaces the one of its name, and returns when it is due next; NULL if it is paused. 22004, 22023 or job_submit_many''s for what cannot be read, JQ002, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_schedule(text, text, jsonb, text, text, text, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_backfill(schedule text, during tstzrange, newest_first boolean DEFAULT false, max_running int DEFAULT 1, again text DEFAULT 'none')
RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_backfill';
COMMENT ON FUNCTION @extschema@.job_backfill(text, tstzrange, boolean, int, text) IS
    'Submits a flow with a member for each time of a schedule in a range that has no job yet or, with again => ''failed'' or ''all'', has failed or not, and returns its id; NULL: there is none. 22004, 22023, 42501, 42704, 54000, else SQLSTATEs are job_submit''s.';
REVOKE ALL ON FUNCTION @extschema@.job_backfill(text, tstzrange, boolean, int, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_unschedule(name text) RETURNS boolean
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_unschedule';
COMMENT ON FUNCTION @extschema@.job_unschedule(text) IS
    'Removes a schedule; its jobs stay. False if there is none of this name. 22004, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_unschedule(text) FROM PUBLIC;

--
-- Views.  Each filters by what the caller may see.
--

CREATE FUNCTION @extschema@.job_visible(queue text, submitted_by regrole, holder regrole) RETURNS boolean
LANGUAGE C STABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_visible';
COMMENT ON FUNCTION @extschema@.job_visible(text, regrole, regrole) IS
    'Internal, for the views: may the caller see a job of this queue, submitted by and now run by these roles (NULL: none)?';
REVOKE ALL ON FUNCTION @extschema@.job_visible(text, regrole, regrole) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_lease_until(job_id bigint, token bigint, lease_until timestamptz) RETURNS timestamptz
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_lease_until';
COMMENT ON FUNCTION @extschema@.job_lease_until(bigint, bigint, timestamptz) IS
    'Internal, for the views: until when a lease runs, given what its row says';
REVOKE ALL ON FUNCTION @extschema@.job_lease_until(bigint, bigint, timestamptz) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_outcome_name(outcome smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE outcome WHEN 1 THEN 'succeeded' WHEN 2 THEN 'failed' WHEN 4 THEN 'skipped' WHEN 8 THEN 'cancelled' WHEN 16 THEN 'upstream_failed' END;
END;
COMMENT ON FUNCTION @extschema@.job_outcome_name(smallint) IS 'Internal, for the views: the name of a stored outcome';
REVOKE ALL ON FUNCTION @extschema@.job_outcome_name(smallint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_attempt_outcome_name(outcome smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE outcome WHEN 0 THEN 'succeeded' WHEN 1 THEN 'failed' WHEN 2 THEN 'timed_out' WHEN 3 THEN 'lost' WHEN 4 THEN 'released' WHEN 5 THEN 'snoozed'
        WHEN 6 THEN 'cancelled' END;
END;
COMMENT ON FUNCTION @extschema@.job_attempt_outcome_name(smallint) IS 'Internal, for the views: the name of how an attempt ended';
REVOKE ALL ON FUNCTION @extschema@.job_attempt_outcome_name(smallint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_undecided_state(id bigint) RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE WHEN EXISTS (SELECT FROM @extschema@.job_lease l WHERE l.job_id = id) OR EXISTS (SELECT FROM @extschema@.job_flow f WHERE f.job_id = id AND f.open) THEN 'running'
        WHEN EXISTS (SELECT FROM @extschema@.job_waiting w WHERE w.job_id = id) OR EXISTS (SELECT FROM @extschema@.job_limited g WHERE g.job_id = id) THEN 'waiting'
        WHEN EXISTS (SELECT FROM @extschema@.job_scheduled s WHERE s.job_id = id) THEN 'scheduled' ELSE 'ready' END;
END;
COMMENT ON FUNCTION @extschema@.job_undecided_state(bigint) IS 'Internal, for job_explain: the state of a job that is not decided';
REVOKE ALL ON FUNCTION @extschema@.job_undecided_state(bigint) FROM PUBLIC;

CREATE VIEW @extschema@.job_status WITH (security_barrier) AS
SELECT j.id, j.queue, j.kind,
    CASE WHEN j.outcome IS NOT NULL THEN @extschema@.job_outcome_name(j.outcome)
         WHEN l.job_id IS NOT NULL OR f.open THEN 'running'
         WHEN s.job_id IS NOT NULL THEN 'scheduled'
         WHEN w.job_id IS NOT NULL OR g.job_id IS NOT NULL THEN 'waiting'
         ELSE 'ready' END AS state,
    j.priority::int AS priority,
    coalesce(j.attempt, l.attempt, s.attempt, w.attempt, g.attempt, r.attempt, 0) AS attempt,
    coalesce(j.lost, l.lost, s.lost, w.lost, g.lost, r.lost, 0) AS lost,
    j.args, j.result, j.error, j.tags, j.parent,
    coalesce(j.worker, l.worker) AS worker,
    l.progress,
    (l.job_id IS NOT NULL AND l.cancel_requested) OR coalesce(f.open AND f.stopping > 0, false)
        OR ((l.job_id IS NOT NULL OR coalesce(f.open, false)) AND EXISTS (SELECT FROM @extschema@.job_cancel_request c WHERE c.job_id = j.id AND c.generation = j.generation AND NOT c.unless_begun)) AS cancel_requested,
    j.submitted_by, j.submitted_at,
    coalesce(s.run_at, w.run_at, j.run_at) AS run_at,
    coalesce(j.started_at, l.started_at, f.started_at) AS started_at,
    j.finished_at,
    @extschema@.job_lease_until(l.job_id, l.token, l.lease_until) AS lease_until,
    j.name,
    coalesce(w.held, false) AS held,
    coalesce(j.max_attempts, q.max_attempts, (SELECT pg_catalog.current_setting('jobq.max_attempts', true)::int)) AS max_attempts,
    j.expires_at,
    CASE WHEN j.dependencies > 0 THEN nullif(ARRAY(SELECT d.upstream FROM @extschema@.job_dependency d WHERE d.downstream = j.id AND d.require <> 63 ORDER BY d.upstream), '{}') END AS depends_on,
    CASE WHEN j.attempt_outcome IS NOT NULL THEN j.error
         ELSE (SELECT a.error FROM @extschema@.job_attempt a WHERE a.job_id = j.id ORDER BY a.attempt DESC LIMIT 1) END AS last_error,
    greatest(j.submitted_at, j.started_at, j.finished_at, l.started_at, r.since,
             (SELECT a.ended_at FROM @extschema@.job_attempt a WHERE a.job_id = j.id ORDER BY a.attempt DESC LIMIT 1)) AS changed_at,
    j.manual,
    j.unique_key,
    j.partition,
    j.requires,
    j.affinity,
    j.flow
FROM @extschema@.job j
    LEFT JOIN @extschema@.job_flow f ON f.job_id = j.id
    LEFT JOIN @extschema@.job_lease l ON l.job_id = j.id
    LEFT JOIN @extschema@.job_scheduled s ON s.job_id = j.id
    LEFT JOIN @extschema@.job_waiting w ON w.job_id = j.id
    LEFT JOIN @extschema@.job_limited g ON g.job_id = j.id
    LEFT JOIN @extschema@.job_ready r ON r.job_id = j.id AND r.position <> r.job_id
    LEFT JOIN @extschema@.job_queue q ON q.name = j.queue
WHERE @extschema@.job_visible(j.queue, j.submitted_by, l.holder);
COMMENT ON VIEW @extschema@.job_status IS
    'One row for each job that the caller may see: its state, and what was asked and what came of it. attempt counts the attempts begun, lost those of them whose lease ran out';
COMMENT ON COLUMN @extschema@.job_status.id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_status.queue IS 'Its queue';
COMMENT ON COLUMN @extschema@.job_status.kind IS 'What to run';
COMMENT ON COLUMN @extschema@.job_status.state IS 'waiting, scheduled, ready, running, succeeded, failed, skipped, cancelled or upstream_failed';
COMMENT ON COLUMN @extschema@.job_status.priority IS 'Higher first';
COMMENT ON COLUMN @extschema@.job_status.attempt IS 'Attempts begun';
COMMENT ON COLUMN @extschema@.job_status.lost IS 'Attempts, since the last job_retry, whose lease ran out';
COMMENT ON COLUMN @extschema@.job_status.args IS 'As submitted';
COMMENT ON COLUMN @extschema@.job_status.result IS 'What job_complete was given';
COMMENT ON COLUMN @extschema@.job_status.error IS 'Why it failed or was cancelled: the error of the deciding attempt, or the reason of job_cancel or job_decide';
COMMENT ON COLUMN @extschema@.job_status.tags IS 'As submitted or changed; an index finds jobs by tags @> value';
COMMENT ON COLUMN @extschema@.job_status.parent IS 'The job on whose behalf it was submitted';
COMMENT ON COLUMN @extschema@.job_status.worker IS 'Who runs it, or ran the deciding attempt';
COMMENT ON COLUMN @extschema@.job_status.progress IS 'The latest that its worker reported, while it runs';
COMMENT ON COLUMN @extschema@.job_status.cancel_requested IS 'It runs and was asked to stop';
COMMENT ON COLUMN @extschema@.job_status.submitted_by IS 'The role that submitted it';
COMMENT ON COLUMN @extschema@.job_status.submitted_at IS 'When it was submitted';
COMMENT ON COLUMN @extschema@.job_status.run_at IS 'Not before this time: of the next attempt while it is scheduled, else as submitted';
COMMENT ON COLUMN @extschema@.job_status.started_at IS 'When the running, or the deciding, attempt began';
COMMENT ON COLUMN @extschema@.job_status.finished_at IS 'When it was decided; NULL until then';
COMMENT ON COLUMN @extschema@.job_status.lease_until IS 'Until when its worker may be silent, while it runs; NULL for a lease that lasts as long as a session';
COMMENT ON COLUMN @extschema@.job_status.name IS 'As submitted';
COMMENT ON COLUMN @extschema@.job_status.held IS 'It waits for job_unhold';
COMMENT ON COLUMN @extschema@.job_status.max_attempts IS 'How many failures and timeouts fail it: its own number, else the queue''s, else that of the reader''s session';
COMMENT ON COLUMN @extschema@.job_status.expires_at IS 'Cancelled if no attempt was begun by then';
COMMENT ON COLUMN @extschema@.job_status.depends_on IS 'Ids of the jobs that it depends on and that were not removed, in ascending order; NULL: none';
COMMENT ON COLUMN @extschema@.job_status.last_error IS 'The error of the latest attempt that ended, whether or not that decided the job';
COMMENT ON COLUMN @extschema@.job_status.changed_at IS 'When it last changed: was submitted, became ready, was claimed, or ended an attempt';
COMMENT ON COLUMN @extschema@.job_status.manual IS 'Nobody runs it: job_decide decides it';
COMMENT ON COLUMN @extschema@.job_status.unique_key IS 'As submitted; another job may have the key by now';
COMMENT ON COLUMN @extschema@.job_status.partition IS 'As submitted or changed: what the settings by partition of the queue count';
COMMENT ON COLUMN @extschema@.job_status.requires IS 'Labels that its worker must have, in the order of their bytes; NULL: none';
COMMENT ON COLUMN @extschema@.job_status.affinity IS 'As submitted: it is best run by the worker that last ran a job of the queue with it';
COMMENT ON COLUMN @extschema@.job_status.flow IS 'The flow that it is a member of';
REVOKE ALL ON @extschema@.job_status FROM PUBLIC;

CREATE VIEW @extschema@.job_flow_status WITH (security_barrier) AS
SELECT j.id, j.name,
    CASE WHEN j.outcome IS NOT NULL THEN @extschema@.job_outcome_name(j.outcome) WHEN f.open THEN 'running' WHEN s.job_id IS NOT NULL THEN 'scheduled' ELSE 'waiting' END AS state,
    m.jobs, m.waiting, m.scheduled, m.ready, m.running, m.succeeded, m.failed, m.skipped, m.cancelled, m.upstream_failed,
    f.paused, f.permits, f.max_running, (ARRAY['continue', 'cancel', 'drain', 'undo'])[f.on_failure + 1] AS on_failure,
    j.undo_of, f.undone_by, f.started_at, j.finished_at
FROM @extschema@.job_flow f
    JOIN @extschema@.job j ON j.id = f.job_id
    LEFT JOIN @extschema@.job_scheduled s ON s.job_id = j.id,
    LATERAL (SELECT count(*) AS jobs,
                 count(*) FILTER (WHERE x.state = 'waiting') AS waiting, count(*) FILTER (WHERE x.state = 'scheduled') AS scheduled,
                 count(*) FILTER (WHERE x.state = 'ready') AS ready, count(*) FILTER (WHERE x.state = 'running') AS running,
                 count(*) FILTER (WHERE x.outcome = 1) AS succeeded, count(*) FILTER (WHERE x.outcome = 2) AS failed,
                 count(*) FILTER (WHERE x.outcome = 4) AS skipped, count(*) FILTER (WHERE x.outcome = 8) AS cancelled,
                 count(*) FILTER (WHERE x.outcome = 16) AS upstream_failed
             FROM (SELECT o.outcome, CASE WHEN o.outcome IS NOT NULL THEN NULL WHEN num_nonnulls(ol.job_id, fo.job_id) > 0 THEN 'running'
                       WHEN num_nonnulls(ow.job_id, og.job_id) > 0 THEN 'waiting' WHEN os.job_id IS NOT NULL THEN 'scheduled' ELSE 'ready' END AS state
                   FROM @extschema@.job o
                       LEFT JOIN @extschema@.job_lease ol ON ol.job_id = o.id
                       LEFT JOIN @extschema@.job_flow fo ON fo.job_id = o.id AND fo.open
                       LEFT JOIN @extschema@.job_waiting ow ON ow.job_id = o.id
                       LEFT JOIN @extschema@.job_limited og ON og.job_id = o.id
                       LEFT JOIN @extschema@.job_scheduled os ON os.job_id = o.id
                   WHERE o.flow = f.job_id) x) m
WHERE @extschema@.job_visible(j.queue, j.submitted_by, NULL);
COMMENT ON VIEW @extschema@.job_flow_status IS 'One row for each flow that the caller may see: its state, and how many of its members are in each';
COMMENT ON COLUMN @extschema@.job_flow_status.id IS 'Id of the flow';
COMMENT ON COLUMN @extschema@.job_flow_status.name IS 'As submitted';
COMMENT ON COLUMN @extschema@.job_flow_status.state IS 'As in job_status; running: it was started, and its members are not all decided';
COMMENT ON COLUMN @extschema@.job_flow_status.jobs IS 'Its members, flows among them counted as one each';
COMMENT ON COLUMN @extschema@.job_flow_status.waiting IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.scheduled IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.ready IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.running IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.succeeded IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.failed IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.skipped IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.cancelled IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.upstream_failed IS 'Of these';
COMMENT ON COLUMN @extschema@.job_flow_status.paused IS 'Nothing in it begins';
COMMENT ON COLUMN @extschema@.job_flow_status.permits IS 'How many of its members may still begin; NULL: all';
COMMENT ON COLUMN @extschema@.job_flow_status.max_running IS 'How many of its members run at once, at most; NULL: all';
COMMENT ON COLUMN @extschema@.job_flow_status.on_failure IS 'What becomes of it when a critical member has failed: continue, cancel, drain or undo';
COMMENT ON COLUMN @extschema@.job_flow_status.undo_of IS 'The flow that it undoes';
COMMENT ON COLUMN @extschema@.job_flow_status.undone_by IS 'The flow that undoes it';
COMMENT ON COLUMN @extschema@.job_flow_status.started_at IS 'When its members were submitted';
COMMENT ON COLUMN @extschema@.job_flow_status.finished_at IS 'When it was decided';
REVOKE ALL ON @extschema@.job_flow_status FROM PUBLIC;

-- The filter stands above the union: one that is written into its branches does not keep the caller's from being run first.
CREATE VIEW @extschema@.job_attempts WITH (security_barrier) AS
SELECT e.job_id, e.attempt, e.worker, e.started_at, e.ended_at, @extschema@.job_attempt_outcome_name(e.outcome) AS outcome, e.error
FROM (SELECT a.job_id, a.attempt, a.worker, a.started_at, a.ended_at, a.outcome, a.error, j.queue, j.submitted_by, l.holder
      FROM @extschema@.job_attempt a
          JOIN @extschema@.job j ON j.id = a.job_id
          LEFT JOIN @extschema@.job_lease l ON l.job_id = j.id
      UNION ALL
      SELECT j.id, j.attempt, j.worker, j.started_at, j.finished_at, j.attempt_outcome, j.error, j.queue, j.submitted_by, NULL::regrole
      FROM @extschema@.job j
      WHERE j.attempt_outcome IS NOT NULL) e
WHERE @extschema@.job_visible(e.queue, e.submitted_by, e.holder);
COMMENT ON VIEW @extschema@.job_attempts IS 'One row for each attempt that ended, of the jobs that the caller may see';
COMMENT ON COLUMN @extschema@.job_attempts.job_id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_attempts.attempt IS 'Which attempt, from 1 on';
COMMENT ON COLUMN @extschema@.job_attempts.worker IS 'The name that the claim gave';
COMMENT ON COLUMN @extschema@.job_attempts.started_at IS 'When it was claimed';
COMMENT ON COLUMN @extschema@.job_attempts.ended_at IS 'When it ended';
COMMENT ON COLUMN @extschema@.job_attempts.outcome IS 'succeeded, failed, timed_out, lost, released, snoozed or cancelled';
COMMENT ON COLUMN @extschema@.job_attempts.error IS 'The error that was given, if any';
REVOKE ALL ON @extschema@.job_attempts FROM PUBLIC;

CREATE VIEW @extschema@.job_queue_status WITH (security_barrier) AS
WITH w AS (SELECT queue_id, count(*) AS n, min(job_id) AS any_job FROM @extschema@.job_waiting GROUP BY queue_id),
     s AS (SELECT queue_id, count(*) AS n, min(job_id) AS any_job FROM @extschema@.job_scheduled GROUP BY queue_id),
     g AS (SELECT queue_id, count(*) AS n, min(job_id) AS any_job FROM @extschema@.job_limited GROUP BY queue_id),
     r AS (SELECT queue_id, count(*) AS n, min(job_id) AS any_job, min(since) AS oldest FROM @extschema@.job_ready GROUP BY queue_id),
     l AS (SELECT queue_id, count(*) AS n, min(job_id) AS any_job, count(DISTINCT worker) AS workers FROM @extschema@.job_lease GROUP BY queue_id),
     queues AS (SELECT coalesce(q.name, j.queue) AS queue, coalesce(q.paused, false) AS paused, q.paused_because, q.paused_at, u.queue_id
               FROM (SELECT queue_id, min(any_job) AS any_job
                     FROM (SELECT queue_id, any_job FROM w UNION ALL SELECT queue_id, any_job FROM s UNION ALL SELECT queue_id, any_job FROM g UNION ALL SELECT queue_id, any_job FROM r
                           UNION ALL SELECT queue_id, any_job FROM l UNION ALL SELECT queue_id, NULL FROM @extschema@.job_queue) x
                     GROUP BY queue_id) u
                    LEFT JOIN @extschema@.job_queue q ON q.queue_id = u.queue_id
                    LEFT JOIN @extschema@.job j ON j.id = u.any_job)
SELECT queues.queue, queues.paused,
    coalesce(w.n, 0) + coalesce(g.n, 0) AS waiting, coalesce(s.n, 0) AS scheduled, coalesce(r.n, 0) AS ready, coalesce(l.n, 0) AS running,
    r.oldest AS oldest_ready, coalesce(l.workers, 0) AS running_workers,
    coalesce(g.n, 0) AS limited, queues.paused_because, queues.paused_at
FROM queues LEFT JOIN w USING (queue_id) LEFT JOIN s USING (queue_id) LEFT JOIN g USING (queue_id) LEFT JOIN r USING (queue_id) LEFT JOIN l USING (queue_id)
WHERE @extschema@.job_visible(queues.queue, NULL, NULL);
COMMENT ON VIEW @extschema@.job_queue_status IS
    'One row for each queue that the caller may read: how many jobs are in each state, since when the oldest ready one has been ready, how many workers run jobs';
COMMENT ON COLUMN @extschema@.job_queue_status.queue IS 'Name of the queue';
COMMENT ON COLUMN @extschema@.job_queue_status.paused IS 'Nothing is claimed from it';
COMMENT ON COLUMN @extschema@.job_queue_status.waiting IS 'Jobs that wait for dependencies, are held or limited';
COMMENT ON COLUMN @extschema@.job_queue_status.scheduled IS 'Jobs that wait for the clock';
COMMENT ON COLUMN @extschema@.job_queue_status.ready IS 'Jobs that can be claimed';
COMMENT ON COLUMN @extschema@.job_queue_status.running IS 'Jobs that run';
COMMENT ON COLUMN @extschema@.job_queue_status.oldest_ready IS 'Since when the oldest of the ready jobs has been ready';
COMMENT ON COLUMN @extschema@.job_queue_status.running_workers IS 'How many different names of workers the running jobs have';
COMMENT ON COLUMN @extschema@.job_queue_status.limited IS 'Of the waiting, those that wait for a slot, a rate or their turn';
COMMENT ON COLUMN @extschema@.job_queue_status.paused_because IS 'Why it is paused';
COMMENT ON COLUMN @extschema@.job_queue_status.paused_at IS 'Since when';
REVOKE ALL ON @extschema@.job_queue_status FROM PUBLIC;

-- The name of a partition is that of one of its jobs, or of its settings.
CREATE VIEW @extschema@.job_partition_status WITH (security_barrier) AS
WITH c AS (SELECT queue_id, partition_id, count(*) FILTER (WHERE state = 1) AS limited, count(*) FILTER (WHERE state = 2) AS ready,
              count(*) FILTER (WHERE state = 3) AS running, min(job_id) AS any_job
           FROM (SELECT queue_id, partition_id, 1 AS state, job_id FROM @extschema@.job_limited WHERE partition_id <> 0
                 UNION ALL SELECT queue_id, partition_id, 2, job_id FROM @extschema@.job_ready WHERE partition_id IS NOT NULL
                 UNION ALL SELECT queue_id, partition_id, 3, job_id FROM @extschema@.job_lease WHERE partition_id IS NOT NULL) x
           GROUP BY queue_id, partition_id)
SELECT coalesce(p.queue, j.queue) AS queue, coalesce(p.partition, j.partition) AS partition,
    coalesce(p.paused, false) AS paused, coalesce(p.weight, 1) AS weight, coalesce(p.max_running, q.max_running_per_partition) AS max_running,
    coalesce(c.limited, 0) AS limited, coalesce(c.ready, 0) AS ready, coalesce(c.running, 0) AS running
FROM c FULL JOIN @extschema@.job_partition p USING (queue_id, partition_id)
    LEFT JOIN @extschema@.job j ON j.id = c.any_job
    LEFT JOIN @extschema@.job_queue q ON q.queue_id = coalesce(c.queue_id, p.queue_id)
WHERE @extschema@.job_visible(coalesce(p.queue, j.queue), NULL, NULL);
COMMENT ON VIEW @extschema@.job_partition_status IS
    'One row for each partition, of the queues that the caller may read, that has jobs waiting to be let in, ready or running, or settings of its own';
COMMENT ON COLUMN @extschema@.job_partition_status.queue IS 'Name of the queue';
COMMENT ON COLUMN @extschema@.job_partition_status.partition IS 'Name of the partition';
COMMENT ON COLUMN @extschema@.job_partition_status.paused IS 'Nothing of it is let in';
COMMENT ON COLUMN @extschema@.job_partition_status.weight IS 'Its share of the turns, in a fair queue';
COMMENT ON COLUMN @extschema@.job_partition_status.max_running IS 'So many of its jobs run at most, by itself or by the queue; NULL: no limit';
COMMENT ON COLUMN @extschema@.job_partition_status.limited IS 'Jobs that wait for a slot, a rate or their turn';
COMMENT ON COLUMN @extschema@.job_partition_status.ready IS 'Jobs that can be claimed';
COMMENT ON COLUMN @extschema@.job_partition_status.running IS 'Jobs that run';
REVOKE ALL ON @extschema@.job_partition_status FROM PUBLIC;

CREATE VIEW @extschema@.job_queues WITH (security_barrier) AS
SELECT q.name AS queue, q.paused,
    coalesce(q.max_attempts, (SELECT pg_catalog.current_setting('jobq.max_attempts', true)::int)) AS max_attempts,
    coalesce(q.max_lost, (SELECT pg_catalog.current_setting('jobq.max_lost', true)::int)) AS max_lost,
    coalesce(q.backoff * interval '1 microsecond', (SELECT pg_catalog.current_setting('jobq.backoff', true)::interval)) AS backoff,
    coalesce(q.backoff_cap * interval '1 microsecond', (SELECT pg_catalog.current_setting('jobq.backoff_cap', true)::interval)) AS backoff_cap,
    coalesce(q.timeout * interval '1 microsecond', (SELECT pg_catalog.current_setting('jobq.timeout', true)::interval)) AS timeout,
    coalesce(q.lease * interval '1 microsecond', (SELECT pg_catalog.current_setting('jobq.lease', true)::interval)) AS lease,
    (ARRAY['coalesced', 'transactional', 'off'])[q.notify + 1] AS notify,
    coalesce(q.retention * interval '1 microsecond', (SELECT nullif(pg_catalog.current_setting('jobq.retention', true), '-1')::interval)) AS retention,
    coalesce(q.retention_failed * interval '1 microsecond', (SELECT nullif(pg_catalog.current_setting('jobq.retention_failed', true), '-1')::interval)) AS retention_failed,
    q.pause_after,
    coalesce(q.pause_window * interval '1 microsecond', interval '1 minute') AS pause_window,
    q.max_running, q.max_running_per_partition, q.ordered, q.fair, q.rate, q.rate_per_partition, q.rate_interval * interval '1 microsecond' AS rate_interval,
    coalesce(q.affinity_wait * interval '1 microsecond', (SELECT pg_catalog.current_setting('jobq.affinity_wait', true)::interval)) AS affinity_wait,
    array_remove(ARRAY[CASE WHEN q.paused THEN 'paused' END, CASE WHEN q.max_attempts IS NOT NULL THEN 'max_attempts' END, CASE WHEN q.max_lost IS NOT NULL THEN 'max_lost' END, CASE WHEN q.backoff IS NOT NULL THEN 'backoff' END, CASE WHEN q.backoff_cap IS NOT NULL THEN 'backoff_cap' END, CASE WHEN q.timeout IS NOT NULL THEN 'timeout' END, CASE WHEN q.lease IS NOT NULL THEN 'lease' END,
        CASE WHEN q.notify <> 0 THEN 'notify' END, CASE WHEN q.retention IS NOT NULL THEN 'retention' END, CASE WHEN q.retention_failed IS NOT NULL THEN 'retention_failed' END, CASE WHEN q.pause_after IS NOT NULL THEN 'pause_after' END, CASE WHEN q.pause_window IS NOT NULL THEN 'pause_window' END,
        CASE WHEN q.max_running IS NOT NULL THEN 'max_running' END, CASE WHEN q.max_running_per_partition IS NOT NULL THEN 'max_running_per_partition' END, CASE WHEN q.ordered THEN 'ordered' END, CASE WHEN q.fair THEN 'fair' END,
        CASE WHEN q.rate IS NOT NULL THEN 'rate' END, CASE WHEN q.rate_per_partition IS NOT NULL THEN 'rate_per_partition' END, CASE WHEN q.rate_interval IS NOT NULL THEN 'rate_interval' END,
        CASE WHEN q.affinity_wait IS NOT NULL THEN 'affinity_wait' END], NULL) AS own
FROM @extschema@.job_queue q
WHERE @extschema@.job_visible(q.name, NULL, NULL);
COMMENT ON VIEW @extschema@.job_queues IS 'One row for each queue that the caller may read: its settings in force, and which of them are its own';
COMMENT ON COLUMN @extschema@.job_queues.queue IS 'Name of the queue';
COMMENT ON COLUMN @extschema@.job_queues.paused IS 'Nothing is claimed from it';
COMMENT ON COLUMN @extschema@.job_queues.max_attempts IS 'Failures and timeouts, the last of which fails a job';
COMMENT ON COLUMN @extschema@.job_queues.max_lost IS 'Lost leases, the last of which fails a job';
COMMENT ON COLUMN @extschema@.job_queues.backoff IS 'Delay after the first failure or loss';
COMMENT ON COLUMN @extschema@.job_queues.backoff_cap IS 'The longest delay';
COMMENT ON COLUMN @extschema@.job_queues.timeout IS 'Of one attempt; 0: none';
COMMENT ON COLUMN @extschema@.job_queues.lease IS 'How long a worker may be silent';
COMMENT ON COLUMN @extschema@.job_queues.notify IS 'coalesced, transactional or off';
COMMENT ON COLUMN @extschema@.job_queues.retention IS 'How long succeeded and skipped jobs are kept; NULL: for ever, by the setting';
COMMENT ON COLUMN @extschema@.job_queues.retention_failed IS 'How long other decided jobs are kept; NULL: for ever, by the setting';
COMMENT ON COLUMN @extschema@.job_queues.pause_after IS 'So many attempts that end badly within pause_window pause it; NULL: none do';
COMMENT ON COLUMN @extschema@.job_queues.pause_window IS 'See pause_after';
COMMENT ON COLUMN @extschema@.job_queues.max_running IS 'So many of its jobs run at most; NULL: no limit';
COMMENT ON COLUMN @extschema@.job_queues.max_running_per_partition IS 'The same for those of each partition';
COMMENT ON COLUMN @extschema@.job_queues.ordered IS 'The jobs of a partition run one after the other, by priority and submission';
COMMENT ON COLUMN @extschema@.job_queues.fair IS 'Partitions take turns, by weight';
COMMENT ON COLUMN @extschema@.job_queues.rate IS 'So many attempts begin within rate_interval at most; NULL: no limit';
COMMENT ON COLUMN @extschema@.job_queues.rate_per_partition IS 'The same for those of each partition';
COMMENT ON COLUMN @extschema@.job_queues.rate_interval IS 'See rate';
COMMENT ON COLUMN @extschema@.job_queues.affinity_wait IS 'So long a job is kept for the worker that last ran one with its affinity; 0: it is not';
COMMENT ON COLUMN @extschema@.job_queues.own IS 'The settings that are its own; the others are the defaults, those of attempts, leases and affinity by the reader''s session';
REVOKE ALL ON @extschema@.job_queues FROM PUBLIC;

CREATE FUNCTION @extschema@.job_worker_seen(worker text, OUT seen timestamptz, OUT lease bigint, OUT watched timestamptz) RETURNS record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_worker_seen';
COMMENT ON FUNCTION @extschema@.job_worker_seen(text) IS
    'Internal, for the view job_worker_status: when a worker was last seen, the microseconds of its last lease, and since when this server sees any';
REVOKE ALL ON FUNCTION @extschema@.job_worker_seen(text) FROM PUBLIC;

-- What a worker told is shown to its role, to who may see the jobs of all queues, and to who sees jobs that its role runs as that worker.
CREATE VIEW @extschema@.job_worker_status WITH (security_barrier) AS
SELECT x.worker, x.running, x.last_seen, x.labels, x.version, x.capacity, x.draining,
    CASE WHEN greatest(x.last_seen, x.watched) > x.now - x.lease THEN 'alive'
         WHEN greatest(x.last_seen, x.watched) > x.now - 3 * x.lease THEN 'silent'
         ELSE 'gone' END AS state
FROM (SELECT coalesce(l.worker, w.worker) AS worker, coalesce(l.running, 0) AS running,
          greatest(l.last_seen, s.seen, CASE WHEN v.shown THEN w.seen_at END) AS last_seen,
          CASE WHEN v.shown THEN w.labels END AS labels, CASE WHEN v.shown THEN w.version END AS version,
          CASE WHEN v.shown THEN w.capacity END AS capacity, v.shown AND w.draining AS draining, s.watched,
          coalesce(greatest(l.period, s.lease) * interval '1 microsecond', (SELECT pg_catalog.current_setting('jobq.lease', true)::interval)) AS lease,
          pg_catalog.statement_timestamp() AS now
      FROM (SELECT o.worker, count(*) AS running, max(o.period) AS period, array_agg(DISTINCT o.holder) AS holders,
                max(coalesce(@extschema@.job_lease_until(o.job_id, o.token, o.lease_until) - o.period * interval '1 microsecond',
                             pg_catalog.statement_timestamp())) AS last_seen
            FROM @extschema@.job_lease o JOIN @extschema@.job j ON j.id = o.job_id
            WHERE @extschema@.job_visible(j.queue, NULL, o.holder)
            GROUP BY o.worker) l
          FULL JOIN @extschema@.job_worker w ON w.worker = l.worker,
          LATERAL (SELECT w.worker IS NOT NULL AND (w.role = ANY (l.holders) IS TRUE OR @extschema@.job_visible('*', w.role, NULL)) AS shown) v,
          LATERAL @extschema@.job_worker_seen(coalesce(l.worker, w.worker)) s
      WHERE l.running IS NOT NULL OR v.shown) x;
COMMENT ON VIEW @extschema@.job_worker_status IS
    'One row for each worker that runs jobs which the caller may see, or has registered and may be seen: how many jobs, when it was last seen, what it told';
COMMENT ON COLUMN @extschema@.job_worker_status.worker IS 'The name that the claims gave; NULL: none';
COMMENT ON COLUMN @extschema@.job_worker_status.running IS 'How many jobs it runs';
COMMENT ON COLUMN @extschema@.job_worker_status.last_seen IS 'When it last claimed, sent a heartbeat or registered; now while it waits for a job or its session holds leases';
COMMENT ON COLUMN @extschema@.job_worker_status.labels IS 'What it told when it registered, as the next two';
COMMENT ON COLUMN @extschema@.job_worker_status.version IS 'Of its program';
COMMENT ON COLUMN @extschema@.job_worker_status.capacity IS 'How many jobs it runs at a time';
COMMENT ON COLUMN @extschema@.job_worker_status.draining IS 'Its claims get nothing';
COMMENT ON COLUMN @extschema@.job_worker_status.state IS 'alive: seen within its lease; silent: within three times its lease; gone: not even that';
REVOKE ALL ON @extschema@.job_worker_status FROM PUBLIC;

CREATE VIEW @extschema@.job_schedules WITH (security_barrier) AS
SELECT name, schedule, timezone, job, (ARRAY['none', 'last', 'all'])[catch_up + 1] AS catch_up,
    (ARRAY['allow', 'skip', 'queue', 'cancel'])[overlap + 1] AS overlap, paused, next_at, last_at, last_job, last_problem, owner
FROM @extschema@.job_schedule
WHERE @extschema@.job_visible(coalesce(job ->> 'queue', 'default'), owner, NULL);
COMMENT ON VIEW @extschema@.job_schedules IS 'One row for each schedule of queues that the caller may read, or that it owns';
COMMENT ON COLUMN @extschema@.job_schedules.name IS 'Its name';
COMMENT ON COLUMN @extschema@.job_schedules.schedule IS 'When it is due, as job_schedule got it';
COMMENT ON COLUMN @extschema@.job_schedules.timezone IS 'The time zone whose clock it follows';
COMMENT ON COLUMN @extschema@.job_schedules.job IS 'What it submits: an element of job_submit_many, or a flow';
COMMENT ON COLUMN @extschema@.job_schedules.catch_up IS 'What becomes of missed times: none, last or all';
COMMENT ON COLUMN @extschema@.job_schedules.overlap IS 'What happens while the last job is undecided: allow, skip, queue or cancel';
COMMENT ON COLUMN @extschema@.job_schedules.paused IS 'It submits nothing';
COMMENT ON COLUMN @extschema@.job_schedules.next_at IS 'When it is due next; NULL: never, or paused';
COMMENT ON COLUMN @extschema@.job_schedules.last_at IS 'The time of the last job';
COMMENT ON COLUMN @extschema@.job_schedules.last_job IS 'The id of the last job';
COMMENT ON COLUMN @extschema@.job_schedules.last_problem IS 'Why the last time that was due has no job; NULL: it has one, or was skipped';
COMMENT ON COLUMN @extschema@.job_schedules.owner IS 'The role that its jobs are submitted as: who called job_schedule last';
REVOKE ALL ON @extschema@.job_schedules FROM PUBLIC;

CREATE FUNCTION @extschema@.job_shared_memory(OUT part text, OUT bytes bigint, OUT entries bigint, OUT used bigint) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_shared_memory';
COMMENT ON FUNCTION @extschema@.job_shared_memory() IS
    'Internal, for the view job_memory: parts of shared memory, of all databases together';
REVOKE ALL ON FUNCTION @extschema@.job_shared_memory() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.job_shared_memory() TO pg_monitor;

CREATE VIEW @extschema@.job_memory AS
SELECT part, bytes, entries, used FROM @extschema@.job_shared_memory();
COMMENT ON VIEW @extschema@.job_memory IS
    'One row for each part of shared memory, of all databases together: its size, how many entries there are, how many are used';
COMMENT ON COLUMN @extschema@.job_memory.part IS 'databases that can have a worker, heartbeats of running jobs, lanes (queues whose next jobs are known), waiters (sessions that sleep), metrics (queues whose numbers are kept), sessions (that have claimed session leases), workers (names of which it is known when they were seen)';
COMMENT ON COLUMN @extschema@.job_memory.bytes IS 'Its size, whatever is used';
COMMENT ON COLUMN @extschema@.job_memory.entries IS 'How many it has room for: jobq.max_databases, jobq.max_heartbeats, jobq.max_lanes, jobq.max_metrics, jobq.max_workers, or all sessions';
COMMENT ON COLUMN @extschema@.job_memory.used IS 'How many are used now';
REVOKE ALL ON @extschema@.job_memory FROM PUBLIC;
GRANT SELECT ON @extschema@.job_memory TO pg_monitor;

--
-- Metrics
--

CREATE FUNCTION @extschema@.job_state_counts() RETURNS TABLE (queue_id bigint, waiting bigint, scheduled bigint, ready bigint, running bigint, limited bigint, any_job bigint)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT queue_id, sum(waiting)::bigint, sum(scheduled)::bigint, sum(ready)::bigint, sum(running)::bigint, sum(limited)::bigint, min(any_job)
    FROM (SELECT queue_id, count(*) AS waiting, 0 AS scheduled, 0 AS ready, 0 AS running, 0 AS limited, min(job_id) AS any_job FROM @extschema@.job_waiting GROUP BY queue_id
          UNION ALL SELECT queue_id, 0, count(*), 0, 0, 0, min(job_id) FROM @extschema@.job_scheduled GROUP BY queue_id
          UNION ALL SELECT queue_id, 0, 0, count(*), 0, 0, min(job_id) FROM @extschema@.job_ready GROUP BY queue_id
          UNION ALL SELECT queue_id, 0, 0, 0, count(*), 0, min(job_id) FROM @extschema@.job_lease GROUP BY queue_id
          UNION ALL SELECT queue_id, 0, 0, 0, 0, count(*), min(job_id) FROM @extschema@.job_limited GROUP BY queue_id) x
    GROUP BY queue_id;
END;
COMMENT ON FUNCTION @extschema@.job_state_counts() IS 'Internal, for job_metrics: how many jobs are in each state, by queue, and the id of one of them';
REVOKE ALL ON FUNCTION @extschema@.job_state_counts() FROM PUBLIC;

CREATE FUNCTION @extschema@.job_metric_values(OUT name text, OUT type text, OUT help text, OUT labels jsonb, OUT value double precision) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_metric_values';
COMMENT ON FUNCTION @extschema@.job_metric_values() IS 'Internal, for the view job_metrics: what the caller may read';
REVOKE ALL ON FUNCTION @extschema@.job_metric_values() FROM PUBLIC;

CREATE VIEW @extschema@.job_metrics AS
SELECT name, type, help, labels, value FROM @extschema@.job_metric_values();
COMMENT ON VIEW @extschema@.job_metrics IS
    'Metrics with the names and types of Prometheus: of the queues and schedules that the caller may read, of the background worker and, for members of pg_monitor, of shared memory';
COMMENT ON COLUMN @extschema@.job_metrics.name IS 'Name; that of a histogram with _bucket, _sum or _count';
COMMENT ON COLUMN @extschema@.job_metrics.type IS 'gauge, counter (since the server was started) or histogram';
COMMENT ON COLUMN @extschema@.job_metrics.help IS 'What it means';
COMMENT ON COLUMN @extschema@.job_metrics.labels IS 'An object: queue, and state, outcome, part or le, the upper bound of a bucket in seconds';
COMMENT ON COLUMN @extschema@.job_metrics.value IS 'Its value; times are in seconds';
REVOKE ALL ON @extschema@.job_metrics FROM PUBLIC;

CREATE FUNCTION @extschema@.job_metrics_text() RETURNS text
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_metrics_text';
COMMENT ON FUNCTION @extschema@.job_metrics_text() IS 'What the view job_metrics shows, in the text format of Prometheus.';
REVOKE ALL ON FUNCTION @extschema@.job_metrics_text() FROM PUBLIC;

--
-- Why, and is it sound?  src/job/why.c checks who asks, and calls these as the owner.
--

CREATE FUNCTION @extschema@.job_queue_id(queue text) RETURNS bigint
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_queue_id';
COMMENT ON FUNCTION @extschema@.job_queue_id(text) IS 'Internal, for job_explain and job_check: the number under which the jobs of a queue are filed';
REVOKE ALL ON FUNCTION @extschema@.job_queue_id(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_counts_as(outcome smallint, result jsonb, condition text) RETURNS smallint
LANGUAGE C IMMUTABLE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_counts_as';
COMMENT ON FUNCTION @extschema@.job_counts_as(smallint, jsonb, text) IS 'Internal, for job_check: as what an outcome counts on an edge with a condition';
REVOKE ALL ON FUNCTION @extschema@.job_counts_as(smallint, jsonb, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_lane_id(queue text, requires text[]) RETURNS bigint
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_lane_id';
COMMENT ON FUNCTION @extschema@.job_lane_id(text, text[]) IS 'Internal, for job_explain and job_check: the lane of the jobs of a queue that require these labels, where it has no gate';
REVOKE ALL ON FUNCTION @extschema@.job_lane_id(text, text[]) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_gate_lane(lane bigint, gate bigint) RETURNS bigint
LANGUAGE C IMMUTABLE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_gate_lane';
COMMENT ON FUNCTION @extschema@.job_gate_lane(bigint, bigint) IS 'Internal, for job_explain and the views: the lane into which a gate lets the jobs of a lane; NULL or 0: it has none';
REVOKE ALL ON FUNCTION @extschema@.job_gate_lane(bigint, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_own_lanes(lane bigint) RETURNS bigint
LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_own_lanes';
COMMENT ON FUNCTION @extschema@.job_own_lanes(bigint) IS 'Internal, for job_explain and job_check: the first of the 1048576 lanes of workers'' own beside a lane, as a gate has made that';
REVOKE ALL ON FUNCTION @extschema@.job_own_lanes(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_worker_key(worker text) RETURNS bigint
LANGUAGE C STABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_worker_key';
COMMENT ON FUNCTION @extschema@.job_worker_key(text) IS 'Internal, for job_explain: the number by which job_kept names a worker';
REVOKE ALL ON FUNCTION @extschema@.job_worker_key(text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_rule_name(rule smallint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT (ARRAY['all_success', 'all_failed', 'all_done', 'all_skipped', 'one_failed', 'quorum', 'none_failed', 'none_skipped',
        'none_failed_min_one_success', 'one_success', 'one_done', 'always'])[rule + 1];
END;
COMMENT ON FUNCTION @extschema@.job_rule_name(smallint) IS 'Internal, for job_explain: the name of a stored trigger rule';
REVOKE ALL ON FUNCTION @extschema@.job_rule_name(smallint) FROM PUBLIC;

-- Why a job is behind the gate of its queue.  Jobs that are ready in the gate's lanes have slots, too.
CREATE FUNCTION @extschema@.job_limited_reasons(g @extschema@.job_limited, j @extschema@.job, now timestamptz)
RETURNS TABLE (reason text, detail text, hint text, other bigint)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named constant int := 10;
    counted constant int := 1000;
    q @extschema@.job_queue;
    p @extschema@.job_partition;
    ahead bigint;
    bound record;
    slots record;
    wait interval;
    ready_lanes bigint[];
    holders bigint[] := '{}';
    kept boolean := false;
BEGIN
    SELECT * INTO q FROM @extschema@.job_queue t WHERE t.queue_id = g.queue_id;
    ready_lanes := ARRAY(SELECT @extschema@.job_gate_lane(a.lane, q.gates[cardinality(q.gates)])
        FROM (SELECT g.queue_id AS lane UNION SELECT t.lane FROM @extschema@.job_lane t WHERE t.queue_id = g.queue_id) a);
    ready_lanes := ready_lanes || ARRAY(SELECT DISTINCT r.lane FROM unnest(ready_lanes) l, @extschema@.job_own_lanes(l) own,
        LATERAL (SELECT r.lane FROM @extschema@.job_ready r WHERE r.lane BETWEEN own AND own + 1048575) r);
    SELECT * INTO p FROM @extschema@.job_partition t WHERE t.queue_id = g.queue_id AND t.partition_id = g.partition_id;
    SELECT count(*) INTO ahead FROM (SELECT FROM @extschema@.job_limited o
        WHERE o.queue_id = g.queue_id AND o.partition_id = g.partition_id AND o.priority >= g.priority AND (o.priority > g.priority OR o.position < g.position)
        ORDER BY o.priority DESC, o.position LIMIT counted) o;

    IF p.paused THEN
        kept := true;
        reason := 'partition paused';
        detail := format('Partition "%s" of queue "%s" is paused.', j.partition, j.queue);
        hint := format('job_partition_set(%L, %L, paused => false) resumes it.', j.queue, j.partition);
        RETURN NEXT;
    END IF;
    IF q.ordered AND g.partition_id <> 0 THEN
        holders := ARRAY(SELECT t.job_id FROM @extschema@.job_turn t JOIN @extschema@.job o ON o.id = t.job_id
            WHERE t.queue_id = g.queue_id AND t.partition_id = g.partition_id AND t.job_id <> g.job_id AND o.outcome IS NULL);
        IF holders <> '{}' THEN
            kept := true;
            reason := 'order';
            detail := format('A job of partition "%s" comes before it, and is not decided.', j.partition);
            hint := 'It goes on when that job is decided and its turn comes.';
            RETURN NEXT;
        END IF;
    END IF;

    -- the slots of its partition, and of its queue
    FOR bound IN
        SELECT 'partition limit' AS name, format('partition "%s"', j.partition) AS whose, g.partition_id AS of, coalesce(p.max_running, q.max_running_per_partition) AS most,
            CASE WHEN p.max_running IS NULL THEN 'max_running_per_partition' ELSE 'max_running' END AS setting,
            CASE WHEN p.max_running IS NULL THEN format('job_queue_set(%L, max_running_per_partition => ...)', j.queue)
                ELSE format('job_partition_set(%L, %L, max_running => ...)', j.queue, j.partition) END AS call WHERE g.partition_id <> 0
        UNION ALL SELECT 'queue limit', format('queue "%s"', j.queue), NULL, q.max_running, 'max_running', format('job_queue_set(%L, max_running => ...)', j.queue)
    LOOP
        CONTINUE WHEN bound.most IS NULL;
        SELECT count(*) FILTER (WHERE s.runs) AS running, count(*) FILTER (WHERE NOT s.runs) AS ready, array_agg(s.job_id ORDER BY s.runs DESC, s.job_id) AS holders INTO slots
        FROM (SELECT l.job_id, true AS runs, l.partition_id FROM @extschema@.job_lease l WHERE l.queue_id = g.queue_id
            UNION ALL SELECT r.job_id, false, r.partition_id FROM @extschema@.job_ready r WHERE r.lane = ANY (ready_lanes)) s
        WHERE bound.of IS NULL OR s.partition_id = bound.of;
        CONTINUE WHEN slots.running + slots.ready < bound.most;
        kept := true;
        reason := bound.name;
        detail := format('The slots of %s are taken: running %s, ready %s, %s %s.', bound.whose, slots.running, slots.ready, bound.setting, bound.most);
        hint := format('It is let in when one of these jobs ends and its turn comes. %s allows more.', bound.call);
        RETURN NEXT;
        holders := holders || slots.holders[:named];
    END LOOP;

    IF q.rate IS NOT NULL OR (q.rate_per_partition IS NOT NULL AND g.partition_id <> 0) THEN
        wait := (ahead + 1) * q.rate_interval * interval '1 microsecond' / least(q.rate, CASE WHEN g.partition_id <> 0 THEN q.rate_per_partition END);
        reason := 'rate';
        detail := concat_ws(' and ', CASE WHEN q.rate IS NOT NULL THEN format('%s of queue "%s"', q.rate, j.queue) END,
                CASE WHEN q.rate_per_partition IS NOT NULL AND g.partition_id <> 0 THEN format('%s of partition "%s"', q.rate_per_partition, j.partition) END)
            || format(' may begin an attempt within %s.', q.rate_interval * interval '1 microsecond');
        hint := CASE WHEN kept THEN 'It can keep the job once nothing above does.'
            ELSE format('By that, it is let in at about %s, if those before it are claimed%s.', date_trunc('second', now + wait),
                CASE WHEN q.fair THEN ', or later, as other partitions take their turns' ELSE '' END) END;
        RETURN NEXT;
    END IF;
    reason := 'limited';
    detail := CASE ahead WHEN 0 THEN 'It is the next' WHEN 1 THEN 'It is behind 1 job' WHEN counted THEN format('It is behind %s jobs or more', ahead) ELSE format('It is behind %s jobs', ahead) END
        || CASE WHEN g.partition_id <> 0 THEN format(' of partition "%s"', j.partition) ELSE ' of those without a partition' END
        || CASE ahead WHEN 0 THEN '' WHEN 1 THEN ' that waits' ELSE ' that wait' END || format(' to be let into queue "%s"', j.queue)
        || CASE WHEN q.fair THEN ', whose partitions take turns.' ELSE '.' END;
    hint := 'job_queues shows the limits of the queue.';
    RETURN NEXT;

    -- whose slots and turn these are
    FOR other, detail IN
        SELECT o.id, format('Job %s (%s) is %s.', o.id, o.kind, @extschema@.job_undecided_state(o.id))
        FROM unnest(holders) WITH ORDINALITY h JOIN @extschema@.job o ON o.id = h.h GROUP BY o.id ORDER BY min(h.ordinality)
    LOOP
        reason := 'slot';
        hint := format('job_explain(%s) says why it has not ended.', other);
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION @extschema@.job_limited_reasons(@extschema@.job_limited, @extschema@.job, timestamptz) IS 'Internal, for job_explain: why a job is not let in';
REVOKE ALL ON FUNCTION @extschema@.job_limited_reasons(@extschema@.job_limited, @extschema@.job, timestamptz) FROM PUBLIC;

-- Of what a job waits for, so many others are named, and so many before it counted.
CREATE FUNCTION @extschema@.job_reasons(id bigint, active boolean, worker boolean, waits boolean, worked_at timestamptz, now timestamptz, labels_at timestamptz DEFAULT NULL)
RETURNS TABLE (reason text, detail text, hint text, other bigint)
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named constant int := 10;
    counted constant int := 1000;
    in_a_moment constant text := 'The background worker does it in a moment.';
    x record;
    j @extschema@.job;
    w @extschema@.job_waiting;
    s @extschema@.job_scheduled;
    g @extschema@.job_limited;
    r @extschema@.job_ready;
    l @extschema@.job_lease;
    q record;
    a record;
    kept record;
    drained record;
    flow record;
    budget int;
    n bigint;
    of bigint;
    ended bigint[];
    keyed boolean;
    until timestamptz;
    heard timestamptz;
    expired boolean;
    former bigint;
    around bigint;
    undone bigint;
    undo record;
    worker_needed boolean := false;
BEGIN
    -- the job and all its states under one snapshot
    SELECT aj AS j, aw AS w, ac AS s, ag AS g, coalesce(ar, ar0) AS r, al AS l INTO x
    FROM @extschema@.job aj
        LEFT JOIN @extschema@.job_waiting aw ON aw.job_id = aj.id
        LEFT JOIN @extschema@.job_scheduled ac ON ac.job_id = aj.id
        LEFT JOIN @extschema@.job_limited ag ON ag.job_id = aj.id
        LEFT JOIN @extschema@.job_ready ar ON ar.job_id = aj.id AND ar.position <> ar.job_id
        LEFT JOIN @extschema@.job_ready ar0 ON ar0.lane = @extschema@.job_lane_id(aj.queue, aj.requires) AND ar0.priority = aj.priority
            AND ar0.position = aj.id AND ar0.job_id = aj.id
        LEFT JOIN @extschema@.job_lease al ON al.job_id = aj.id
    WHERE aj.id = job_reasons.id;
    j := x.j; w := x.w; s := x.s; g := x.g; r := x.r; l := x.l;
    SELECT * INTO q FROM @extschema@.job_queue t WHERE t.name = j.queue;
    budget := coalesce(j.max_attempts, q.max_attempts, current_setting('jobq.max_attempts')::int);
    SELECT t.attempt, @extschema@.job_attempt_outcome_name(t.outcome) AS outcome, t.error INTO a
    FROM @extschema@.job_attempt t WHERE t.job_id = j.id ORDER BY t.attempt DESC LIMIT 1;

    -- decided: how
    IF j.outcome IS NOT NULL THEN
        IF j.outcome IN (4, 16) AND j.decided_by IS NULL THEN
            ended := ARRAY(SELECT p.id FROM @extschema@.job_dependency d JOIN @extschema@.job p ON p.id = d.upstream
                WHERE d.downstream = j.id
                    AND @extschema@.job_counts_as(p.outcome, p.result, d.condition) & CASE d.require WHEN 0 THEN d.suffice ELSE d.require END = 0
                    AND (j.outcome = 4 OR p.outcome IN (2, 8, 16))
                ORDER BY p.id LIMIT named);
        END IF;
        reason := @extschema@.job_outcome_name(j.outcome);
        detail := CASE j.outcome WHEN 1 THEN 'It succeeded' WHEN 2 THEN 'It failed' WHEN 8 THEN 'It was cancelled' WHEN 4 THEN 'It was skipped'
            ELSE 'It ended without running' END || format(' at %s', j.finished_at)
            || CASE WHEN j.attempt_outcome IS NOT NULL THEN format(', by attempt %s', j.attempt) || coalesce(' of worker "' || j.worker || '"', '')
                || CASE WHEN j.attempt_outcome IN (2, 3) THEN format(', which %s', CASE j.attempt_outcome WHEN 2 THEN 'timed out' ELSE 'was lost' END) ELSE '' END
                ELSE '' END
            || CASE WHEN j.decided_by IS NOT NULL THEN ', by job_decide'
                WHEN j.outcome = 1 AND j.attempt_outcome IS NULL AND NOT EXISTS (SELECT FROM @extschema@.job_flow f WHERE f.job_id = j.id AND f.started_at IS NOT NULL)
                THEN format(': what became of job %s was taken over', j.parent) ELSE '' END
            || CASE WHEN j.outcome = 4 AND j.decided_by IS NULL AND j.flow IS NOT NULL AND j.dependencies = 0 THEN ': its condition did not hold when its flow started'
                WHEN j.outcome IN (4, 16) AND j.decided_by IS NULL
                THEN format(': its dependencies can no longer meet trigger rule %s', @extschema@.job_rule_name(j.rule)) ELSE '' END
            || coalesce(': ' || CASE WHEN j.flow_type IS NULL THEN nullif(j.error, 'timed out') ELSE j.error END, '') || '.';
        SELECT p.id, p.kind, u.until INTO x FROM @extschema@.job_unique u JOIN @extschema@.job p ON p.id = u.job_id
        WHERE u.unique_key = j.unique_key AND u.queue_id = @extschema@.job_queue_id(j.queue) AND u.job_id <> j.id AND coalesce(u.until > now, true);
        keyed := x.id IS NOT NULL AND ended IS NULL AND j.outcome <> 1;
        former := j.former_flow;
        around := j.flow;
        SELECT t.undone_by INTO undone FROM @extschema@.job_flow t WHERE t.job_id = j.id;
        WHILE former IS NULL AND around IS NOT NULL LOOP
            SELECT f.former_flow, f.flow, coalesce(undone, t.undone_by) INTO former, around, undone
            FROM @extschema@.job f LEFT JOIN @extschema@.job_flow t ON t.job_id = f.id WHERE f.id = around;
        END LOOP;
        hint := CASE WHEN former IS NOT NULL THEN format('Flow %s, which it was in, has begun anew since; it stays as it is.', former)
                     WHEN undone IS NOT NULL THEN NULL
                     WHEN j.outcome IN (2, 8) OR (j.outcome = 4 AND j.decided_by IS NOT NULL)
                         THEN format('job_retry(%s) opens it again%s.', j.id, CASE WHEN keyed THEN ', when no other job has its unique key' ELSE '' END)
                             || CASE WHEN j.undo_of IS NOT NULL AND j.flow_type IS NULL THEN ' With job_decide in the same transaction, a person says what became of it.' ELSE '' END
                     WHEN j.outcome = 4 AND j.flow IS NOT NULL AND j.dependencies = 0 THEN NULL
                     WHEN cardinality(ended) > 0 THEN 'A retry of those upstream that ended otherwise opens it again.'
                     WHEN j.outcome IN (4, 16) THEN 'Those upstream that ended otherwise were removed; submit it again.' END;
        RETURN NEXT;
        SELECT p.id, p.name, p.parent, coalesce(@extschema@.job_outcome_name(p.outcome), @extschema@.job_undecided_state(p.id)) AS state INTO undo
        FROM @extschema@.job p WHERE p.id = undone;
        IF undo.id IS NOT NULL THEN
            reason := 'undone';
            detail := format('Flow %s (%s) undoes %s; its state is %s.', undo.id, undo.name,
                CASE undo.parent WHEN j.id THEN 'it' ELSE format('flow %s, which it is in', undo.parent) END, undo.state);
            hint := format('job_explain(%s) says how far that is. What is undone is not opened again; job_clone submits it anew.', undo.id);
            other := undo.id;
            RETURN NEXT;
            other := NULL;
        END IF;
        IF keyed THEN
            reason := 'key taken';
            detail := format('Job %s (%s) has its unique key%s.', x.id, x.kind, coalesce(' until ' || x.until, ''));
            hint := CASE WHEN x.until IS NULL THEN 'Cancel that job first, or wait for its end.' END;
            other := x.id;
            RETURN NEXT;
        END IF;
        FOR x IN SELECT p.id, coalesce(p.name, p.kind) AS name, p.outcome,
                CASE WHEN @extschema@.job_counts_as(p.outcome, p.result, d.condition) <> p.outcome THEN d.condition END AS condition
            FROM @extschema@.job p LEFT JOIN @extschema@.job_dependency d ON d.upstream = p.id AND d.downstream = j.id
            WHERE p.id = ANY (ended) ORDER BY p.id
        LOOP
            reason := 'upstream';
            detail := format('Job %s (%s) ended as %s', x.id, x.name, @extschema@.job_outcome_name(x.outcome))
                || coalesce(', and counts as skipped here, since ' || x.condition || ' is not true of its result', '') || '.';
            hint := CASE WHEN x.condition IS NULL THEN format('job_explain(%s) says why.', x.id)
                ELSE format('job_retry(%s, downstream => true) runs it again, and all that follows from it.', x.id) END;
            other := x.id;
            RETURN NEXT;
        END LOOP;
        FOR x IN SELECT m.id, m.kind, m.name, m.outcome FROM @extschema@.job m
            WHERE m.flow = j.id AND m.outcome IN (2, 16) AND m.critical IS NULL AND j.outcome = 2 ORDER BY m.outcome, m.id LIMIT named
        LOOP
            reason := 'member';
            detail := format('Job %s (%s) ended as %s.', x.id, coalesce(x.name, x.kind), @extschema@.job_outcome_name(x.outcome));
            hint := format('job_explain(%s) says why.', x.id);
            other := x.id;
            RETURN NEXT;
        END LOOP;
        until := j.finished_at + CASE WHEN j.outcome IN (1, 4) THEN coalesce(q.retention * interval '1 microsecond', nullif(current_setting('jobq.retention'), '-1')::interval)
            ELSE coalesce(q.retention_failed * interval '1 microsecond', nullif(current_setting('jobq.retention_failed'), '-1')::interval) END;
        IF until <= now THEN
            reason := 'kept';
            detail := format('It was to be removed at %s.', until);
            hint := format('job_delete(%s) removes it, or says what keeps it.', j.id);
            other := NULL;
            RETURN NEXT;
        END IF;
        RETURN;
    END IF;

    -- it cannot run before anything else
    expired := coalesce(w.expires_at, s.expires_at, g.expires_at, r.expires_at) <= now AND coalesce(w.attempt, s.attempt, g.attempt, r.attempt) = 0;
    IF expired THEN
        worker_needed := true;
        reason := 'expired';
        detail := format('It was not begun before it expired at %s, and is still to be cancelled.', j.expires_at);
        hint := in_a_moment;
        RETURN NEXT;
    ELSIF l.job_id IS NULL AND EXISTS (SELECT FROM @extschema@.job_cancel_request c WHERE c.job_id = j.id AND c.generation = j.generation) THEN
        worker_needed := true;
        reason := 'cancel requested';
        detail := 'It is still to be cancelled, as was asked for.';
        hint := in_a_moment;
        RETURN NEXT;
    END IF;

    IF w.job_id IS NOT NULL THEN
        IF w.open THEN
            SELECT count(*) FILTER (WHERE p.outcome IS NULL), count(*) INTO n, of FROM @extschema@.job_dependency d JOIN @extschema@.job p ON p.id = d.upstream
            WHERE d.downstream = j.id AND d.require <> 63;
            IF n > 0 THEN
                reason := 'dependencies';
                detail := format('%s of its %s dependencies %s not decided; its trigger rule is %s.', n, of,
                    CASE n WHEN 1 THEN 'is' ELSE 'are' END,
                    @extschema@.job_rule_name(j.rule) || CASE WHEN j.rule = 5 THEN format(' (%s have to succeed)', j.quorum) ELSE '' END);
                hint := 'It goes on when enough of them have ended as the rule says.';
                RETURN NEXT;
            END IF;
            FOR x IN SELECT DISTINCT p.unique_key = j.unique_key IS TRUE AS keyed FROM @extschema@.job_dependency d JOIN @extschema@.job p ON p.id = d.upstream
                WHERE d.downstream = j.id AND d.require = 63 AND p.outcome IS NULL ORDER BY 1 DESC
            LOOP
                reason := CASE WHEN x.keyed THEN 'unique key' ELSE 'schedule' END;
                detail := CASE WHEN x.keyed THEN format('It took unique key "%s" over, and starts when the job that had it has ended.', j.unique_key)
                    ELSE 'It starts when the job before it of its schedule has ended.' END;
                hint := NULL;
                RETURN NEXT;
            END LOOP;
            -- those that it only waits for the end of come first
            FOR x IN SELECT p.id, coalesce(p.name, p.kind) AS name, @extschema@.job_undecided_state(p.id) AS state
                FROM @extschema@.job_dependency d JOIN @extschema@.job p ON p.id = d.upstream
                WHERE d.downstream = j.id AND p.outcome IS NULL ORDER BY d.require = 63 DESC, p.id LIMIT named
            LOOP
                reason := 'dependency';
                detail := format('Job %s (%s) is %s.', x.id, x.name, x.state);
                hint := format('job_explain(%s) says why it is not decided.', x.id);
                other := x.id;
                RETURN NEXT;
            END LOOP;
            other := NULL;
            IF EXISTS (SELECT FROM @extschema@.job_recount c WHERE c.job_id = j.id) THEN
                worker_needed := true;
                reason := 'recount';
                detail := 'Its dependencies are still to be counted anew.';
                hint := in_a_moment;
                RETURN NEXT;
            END IF;
            -- there is no index on downstream, and seldom a row
            SELECT -sum(d.undecided) INTO n FROM @extschema@.job_delta d WHERE d.downstream = j.id AND d.epoch = w.epoch;
            IF n > 0 THEN
                worker_needed := true;
                reason := 'deltas';
                detail := format('The end of %s of its dependencies is still to be counted.', n);
                hint := in_a_moment;
                RETURN NEXT;
            END IF;
        END IF;
        IF w.held THEN
            reason := 'held';
            detail := 'It is held.';
            hint := format('job_unhold(%s) lets it go on.', j.id);
            RETURN NEXT;
        END IF;
        IF w.limited_by IS NOT NULL THEN
            worker_needed := true;
            FOR x IN WITH RECURSIVE around (flow, outer_flow) AS (
                         SELECT f, f.flow_id FROM @extschema@.job_flow f WHERE f.job_id = w.limited_by
                         UNION ALL SELECT f, f.flow_id FROM around JOIN @extschema@.job_flow f ON f.job_id = around.outer_flow)
                     SELECT (around.flow).* FROM around
            LOOP
                other := x.job_id;
                reason := 'flow';
                IF x.paused THEN
                    detail := format('Flow %s is paused.', x.job_id);
                    hint := format('job_flow_set(%s, paused => false) lets it go on.', x.job_id);
                    RETURN NEXT;
                END IF;
                -- what the background worker has still to look at can change the rest
                CONTINUE WHEN x.job_id <> w.limited_by OR EXISTS (SELECT FROM @extschema@.job_delta d WHERE d.downstream = x.job_id AND d.epoch = 0);
                IF j.id > x.canary_upto THEN
                    detail := format('The first %s of the items of flow %s, a map, must succeed before the others begin (canary).', x.canary, x.job_id);
                    hint := format('job_flow_set(%s, paused => false) lets all begin.', x.job_id);
                    RETURN NEXT;
                END IF;
                IF x.permits <= 0 THEN
                    detail := format('Flow %s has no permits left.', x.job_id);
                    hint := format('job_flow_set(%s, permits => 1) lets one of its members begin, paused => false all.', x.job_id);
                    RETURN NEXT;
                END IF;
                IF x.running >= x.max_running THEN
                    detail := format('Flow %s lets %s of its members run at once (max_running), and as many are running or ready.', x.job_id, x.max_running);
                    hint := 'It goes on when one of them has ended, in the order of priorities, then of ids; job_flow_set changes the limit.';
                    RETURN NEXT;
                END IF;
            END LOOP;
            IF reason IS DISTINCT FROM 'flow' OR detail IS NULL THEN
                reason := 'flow';
                detail := format('Flow %s is still to let it in.', w.limited_by);
                hint := in_a_moment;
                RETURN NEXT;
            END IF;
            other := NULL;
        END IF;
        IF j.manual THEN
            reason := 'manual';
            detail := 'Nobody runs it: it waits for a decision' || coalesce(', until ' || w.expires_at, '') || '.';
            hint := format('job_decide(%s, ''succeeded'') decides it.', j.id);
            RETURN NEXT;
        END IF;
    END IF;

    IF s.job_id IS NOT NULL OR (w.job_id IS NOT NULL AND w.run_at > now AND NOT j.manual) THEN
        until := coalesce(s.run_at, w.run_at);
        hint := format('job_change(%s, run_at => now()) lets it run at once.', j.id);
        IF until <= now THEN
            worker_needed := true;
            reason := 'due';
            detail := format('Its time came at %s, and it is still to be made ready.', until);
            hint := in_a_moment;
        ELSIF a.outcome IN ('failed', 'timed_out', 'lost') THEN
            reason := 'backoff';
            detail := format('Attempt %s ', a.attempt) || CASE a.outcome WHEN 'lost' THEN 'was lost' WHEN 'failed' THEN 'failed' ELSE 'timed out' END
                || coalesce(': ' || nullif(a.error, 'timed out'), '')
                || format('. The next begins at %s. Failures so far: %s of %s; losses: %s.', until, coalesce(s.failed, w.failed), budget,
                    coalesce(s.lost, w.lost));
        ELSIF a.outcome = 'snoozed' THEN
            reason := 'snoozed';
            detail := format('Its worker put it off until %s.', until);
        ELSE
            reason := 'scheduled';
            detail := format('It is scheduled for %s', until)
                || CASE WHEN coalesce(s.expires_at, w.expires_at) <= until AND coalesce(s.attempt, w.attempt) = 0
                    THEN format(', but is cancelled before, when it expires at %s', j.expires_at) ELSE '' END || '.';
        END IF;
        RETURN NEXT;
    END IF;

    IF l.job_id IS NULL AND q.paused AND j.flow_type IS NULL THEN
        reason := 'queue paused';
        detail := format('Queue "%s" is paused', j.queue) || coalesce(': ' || q.paused_because, '') || '.';
        hint := format('job_queue_set(%L, paused => false) resumes it.', j.queue);
        RETURN NEXT;
    END IF;

    IF g.job_id IS NOT NULL AND NOT expired IS TRUE THEN
        worker_needed := true;
        RETURN QUERY SELECT e.reason, e.detail, e.hint, e.other FROM @extschema@.job_limited_reasons(g, j, now) e;
    END IF;

    IF r.job_id IS NOT NULL AND NOT expired IS TRUE THEN
        SELECT k.until, (SELECT n.worker FROM (SELECT o.worker FROM @extschema@.job_worker o UNION SELECT o.worker FROM @extschema@.job_lease o) n
            WHERE @extschema@.job_worker_key(n.worker) = k.worker LIMIT 1) AS worker INTO kept
        FROM @extschema@.job_kept k WHERE r.affinity_id IS NOT NULL AND k.job_id = r.job_id AND k.position = r.position LIMIT 1;
        SELECT count(*) INTO n FROM (SELECT FROM @extschema@.job_ready o
            WHERE o.lane = r.lane AND o.priority >= r.priority AND (o.priority > r.priority OR o.position < r.position)
            ORDER BY o.priority DESC, o.position LIMIT counted) o;
        reason := 'ready';
        detail := format('It is ready since %s, ', r.since)
            || CASE n WHEN 0 THEN 'and the next' WHEN 1 THEN 'behind 1 job' WHEN counted THEN format('behind %s jobs or more', n) ELSE format('behind %s jobs', n) END
            || format(' of queue "%s"', j.queue) || CASE WHEN j.requires IS NOT NULL THEN ', of those that require the same labels' ELSE '' END
            || CASE WHEN kept.until IS NOT NULL THEN ', of those that are kept for the same worker.' ELSE '.' END;
        hint := CASE WHEN kept.until IS NOT NULL THEN 'The next claim in the name of that worker takes the first.'
                WHEN j.requires IS NULL THEN 'The next worker that claims from the queue takes the first.'
                ELSE 'The next worker that claims from the queue, and has the labels, takes the first.' END
            || coalesce((SELECT format(' job_change(%s, priority => %s) puts it first.', j.id, max(o.priority) + 1)
                FROM @extschema@.job_ready o WHERE o.lane = r.lane HAVING n > 0 AND max(o.priority) < 32767), '');
        RETURN NEXT;
        IF kept.until IS NOT NULL THEN
            worker_needed := true;
            reason := 'affinity';
            detail := format('It is kept for the worker that was the last to run a job of affinity "%s"%s, until %s at the latest.', j.affinity,
                coalesce(', "' || kept.worker || '"', ''), kept.until);
            hint := format('Any worker may take it then. job_queue_set(%L, affinity_wait => ...) says for how long jobs are kept.', j.queue);
            RETURN NEXT;
        END IF;
        IF j.requires IS NULL AND NOT waits AND worked_at <= now - interval '1 minute' AND NOT pg_is_in_recovery()
            AND NOT EXISTS (SELECT FROM @extschema@.job_lease o WHERE o.queue_id = r.queue_id
                AND (o.session IS NOT NULL OR @extschema@.job_lease_until(o.job_id, o.token, o.lease_until) - o.period * interval '1 microsecond' > now - interval '1 minute'))
        THEN
            reason := 'no worker';
            detail := format('No worker of queue "%s" was seen in the last minute.', j.queue);
            hint := format('Start one, such as jobq-worker --queue=%s.', j.queue);
            RETURN NEXT;
        END IF;
    END IF;

    -- whoever may take it, or runs jobs with these labels
    IF j.requires IS NOT NULL AND num_nonnulls(g.job_id, r.job_id) > 0 AND NOT expired IS TRUE THEN
        IF NOT waits AND labels_at <= now - interval '1 minute' AND NOT pg_is_in_recovery()
            AND NOT EXISTS (SELECT FROM @extschema@.job_lease o WHERE o.queue_id = @extschema@.job_queue_id(j.queue) AND o.labels @> j.requires
                AND (o.session IS NOT NULL OR @extschema@.job_lease_until(o.job_id, o.token, o.lease_until) - o.period * interval '1 microsecond' > now - interval '1 minute'))
        THEN
            reason := 'no worker with its labels';
            detail := format('It requires %s; no worker of queue "%s" that has %s was seen in the last minute.', array_to_string(j.requires, ', '), j.queue,
                CASE cardinality(j.requires) WHEN 1 THEN 'it' ELSE 'all of them' END);
            hint := format('Start one, such as jobq-worker --queue=%s --label=%s.', j.queue, array_to_string(j.requires, ' --label='));
        ELSE
            reason := 'labels';
            detail := format('It requires %s.', array_to_string(j.requires, ', '));
            hint := 'Only a worker that claims with these labels takes it.';
        END IF;
        RETURN NEXT;
    END IF;

    -- registered workers do not say of which queues they are
    IF NOT waits AND num_nonnulls(g.job_id, r.job_id) > 0 AND NOT expired IS TRUE THEN
        SELECT count(*) AS n, string_agg(format('"%s"', k.worker), ', ' ORDER BY k.worker) FILTER (WHERE k.place <= named) AS workers INTO drained
        FROM (SELECT t.worker, row_number() OVER (ORDER BY t.worker) AS place
              FROM @extschema@.job_worker t, @extschema@.job_worker_seen(t.worker) v WHERE t.draining AND greatest(t.seen_at, v.seen) > now - interval '1 minute') k;
        IF drained.n > 0 THEN
            reason := 'draining';
            detail := format('Of the workers that were seen in the last minute, these drain, and take no job of any queue: %s%s.', drained.workers, CASE WHEN drained.n > named THEN ', ...' ELSE '' END);
            hint := 'job_worker_drain(worker, false) lets one go on.';
            RETURN NEXT;
        END IF;
    END IF;

    IF l.job_id IS NOT NULL THEN
        until := @extschema@.job_lease_until(l.job_id, l.token, l.lease_until);
        heard := until - l.period * interval '1 microsecond';
        worker_needed := true;
        reason := 'running';
        detail := format('It runs since %s, as attempt %s%s; its lease %s%s.', l.started_at, l.attempt,
            coalesce(' of worker "' || l.worker || '"', ''), coalesce('runs until ' || until, 'lasts as long as the session that claimed it'), coalesce(', and the attempt times out at ' || l.timeout_at, ''));
        hint := NULL;
        RETURN NEXT;
        IF l.cancel_requested OR EXISTS (SELECT FROM @extschema@.job_cancel_request c WHERE c.job_id = j.id AND c.generation = j.generation AND NOT c.unless_begun) THEN
            reason := 'cancel requested';
            detail := 'Its worker is asked to stop' || coalesce(': ' || coalesce(l.cancel_reason, (SELECT c.reason FROM @extschema@.job_cancel_request c
                WHERE c.job_id = j.id AND c.generation = j.generation ORDER BY c.seq LIMIT 1)), '') || '.';
            hint := format('It hears of that by its next heartbeat. job_take_back(%s) ends the attempt now.', j.id);
            RETURN NEXT;
        END IF;
        IF until <= now THEN
            reason := 'lease over';
            detail := format('Its lease ran out at %s, and its attempt is still to be ended.', until);
            hint := in_a_moment;
            RETURN NEXT;
        ELSIF now - heard > l.period / 2 * interval '1 microsecond' THEN
            reason := 'silent';
            detail := format('Its worker was last heard of at %s, more than half a lease ago.', heard);
            hint := format('If it is gone, the job runs again when the lease is over, or after job_take_back(%s).', j.id);
            RETURN NEXT;
        END IF;
    END IF;

    SELECT count(*) FILTER (WHERE m.outcome IS NULL) AS undecided, count(*) AS members, f.stopping, f.paused, f.permits, f.canary INTO flow
    FROM @extschema@.job_flow f LEFT JOIN @extschema@.job m ON m.flow = f.job_id WHERE f.job_id = j.id AND f.open GROUP BY f.job_id;
    IF flow.members IS NOT NULL THEN
        worker_needed := flow.undecided = 0;
        reason := 'members';
        detail := format('It is a flow that was started: %s of its %s members %s not decided.', flow.undecided, flow.members, CASE flow.undecided WHEN 1 THEN 'is' ELSE 'are' END)
            || CASE WHEN flow.stopping = 1 THEN ' Those that had not begun were cancelled, since one failed.' WHEN flow.stopping > 1 THEN ' They are being cancelled.' ELSE '' END
            || CASE WHEN flow.paused THEN ' It is paused.' ELSE '' END || CASE WHEN flow.canary > 0 THEN format(' The first %s must succeed before the others begin (canary).', flow.canary) ELSE '' END
            || CASE WHEN flow.permits <= 0 THEN ' It has no permits left.' ELSE '' END;
        hint := CASE WHEN flow.undecided = 0 THEN in_a_moment
            WHEN flow.paused THEN format('job_flow_set(%s, paused => false) lets it go on.', j.id)
            WHEN flow.canary > 0 THEN format('job_flow_set(%s, paused => false) lets all begin.', j.id)
            WHEN flow.permits <= 0 THEN format('job_flow_set(%s, permits => 1) lets one of its members begin, paused => false all.', j.id)
            ELSE 'It ends when all of them have ended.' END;
        RETURN NEXT;
        FOR x IN SELECT m.id, m.kind, m.name, @extschema@.job_undecided_state(m.id) AS state FROM @extschema@.job m
            WHERE m.flow = j.id AND m.outcome IS NULL ORDER BY m.id LIMIT named
        LOOP
            reason := 'member';
            detail := format('Job %s (%s) is %s.', x.id, coalesce(x.name, x.kind), x.state);
            hint := format('job_explain(%s) says why it is not decided.', x.id);
            other := x.id;
            RETURN NEXT;
        END LOOP;
        other := NULL;
    ELSIF num_nonnulls(w.job_id, s.job_id, g.job_id, r.job_id, l.job_id) = 0 THEN
        reason := 'no state';
        detail := 'It is in no state, which only a change by hand can bring about.';
        hint := 'job_check(true) repairs that.';
        RETURN NEXT;
    END IF;

    -- who does by the clock what is due
    IF pg_is_in_recovery() THEN
        reason := 'standby';
        detail := 'This server is a standby: it shows what the primary has done.';
        hint := 'Ask there.';
        RETURN NEXT;
    ELSIF NOT active THEN
        reason := 'not active';
        detail := 'The background worker does nothing in this database, which is a copy or was restored: nothing that is due happens.';
        hint := 'The next call of a function that writes, such as job_submit, makes it act here.';
        RETURN NEXT;
    ELSIF NOT worker AND (worker_needed OR s.job_id IS NOT NULL) THEN
        reason := 'no background worker';
        detail := 'No background worker runs in this database: nothing that is due happens.';
        hint := 'The log of the server says why; max_worker_processes may be too low.';
        RETURN NEXT;
    END IF;
END $$;
COMMENT ON FUNCTION @extschema@.job_reasons(bigint, boolean, boolean, boolean, timestamptz, timestamptz, timestamptz) IS
    'Internal, for job_explain, which knows whether the background worker may act here and runs, whether a session waits for a job of the queue, and when a worker last claimed or ended one';
REVOKE ALL ON FUNCTION @extschema@.job_reasons(bigint, boolean, boolean, boolean, timestamptz, timestamptz, timestamptz) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_flow_set(flow bigint, paused boolean DEFAULT NULL, permits int DEFAULT NULL, max_running int DEFAULT NULL,
    on_failure text DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_flow_set';
COMMENT ON FUNCTION @extschema@.job_flow_set(bigint, boolean, int, int, text) IS
    'Sets what is given of an undecided flow: whether it is paused (false takes permits away, too), how many of its members may still begin, how many run at once (0: no limit), and what happens when one fails. JQ002, JQ003, 22004, 22023, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_flow_set(bigint, boolean, int, int, text) FROM PUBLIC;

-- The members of a flow, with what is to be undone of them, that are part of the flow which undoes it, and which others each of them waits for there.
CREATE FUNCTION @extschema@.job_undo_members(of_flow bigint) RETURNS TABLE (id bigint, done boolean, doubt boolean, inside boolean, depends_on bigint[])
LANGUAGE C STABLE STRICT PARALLEL UNSAFE ROWS 100
AS 'MODULE_PATHNAME', 'jobq_job_undo_members';
COMMENT ON FUNCTION @extschema@.job_undo_members(bigint) IS 'Internal, for job_undo: what there is to be undone in a flow, in which order';
REVOKE ALL ON FUNCTION @extschema@.job_undo_members(bigint) FROM PUBLIC;

-- What is to be done to undo what a flow has in it, as "jobs" of a flow; NULL: nothing. A member of which nothing is to be undone is left out or,
-- if it is on the way from one to another, an empty flow.
-- Not compiled (jit), and all that is looked up in tables is by index, one by one, whatever statistics say: a flow that undoes itself has the
-- background worker wait for it, with rows locked.
CREATE FUNCTION @extschema@.job_undo_jobs(of_flow bigint) RETURNS jsonb
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET enable_seqscan = off SET jit = off SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    prefix text := '#';
    jobs jsonb;
BEGIN
    -- begins the names that are made up here, and that of no member
    FOR n IN 1 .. 2147483647 LOOP
        EXIT WHEN NOT EXISTS (SELECT FROM @extschema@.job j WHERE j.flow = of_flow AND starts_with(j.name, prefix));
        prefix := format('#%s.', n);
    END LOOP;
    SELECT jsonb_agg(x.job ORDER BY p.id DESC, x.nr) INTO jobs
    FROM (
        SELECT j.*, m.done, m.doubt, coalesce(j.name, prefix || j.id) AS called, prefix || 'again ' || j.id AS again,
            (SELECT f.undone_by FROM @extschema@.job_flow f WHERE f.job_id = j.id) AS undone_by,
            CASE WHEN m.inside THEN @extschema@.job_undo_jobs(j.id) END AS jobs,
            jsonb_strip_nulls(jsonb_build_object('queue', j.queue, 'priority', j.priority, 'partition', j.partition)) AS same,
            jsonb_build_object('trigger_rule', 'none_failed', 'depends_on', coalesce((SELECT jsonb_agg(coalesce(d.name, prefix || d.id) ORDER BY d.id)
                FROM unnest(m.depends_on) u (id) CROSS JOIN LATERAL (SELECT d.id, d.name FROM @extschema@.job d WHERE d.id = u.id OFFSET 0) d), '[]')) AS place
        FROM @extschema@.job_undo_members(of_flow) m CROSS JOIN LATERAL (SELECT j.* FROM @extschema@.job j WHERE j.id = m.id OFFSET 0) j
        OFFSET 0) p,
    LATERAL (
        -- the same again, with its key, to know
        SELECT 1, p.same || p.place || jsonb_build_object('name', p.again, 'kind', p.kind, 'undo_of', p.id, 'repeats', true)
            || jsonb_strip_nulls(jsonb_build_object('max_attempts', p.max_attempts, 'max_lost', p.max_lost, 'backoff', p.backoff || ' microseconds',
                'timeout', p.timeout || ' microseconds', 'lease', p.lease || ' microseconds', 'requires', p.requires, 'affinity', p.affinity))
        WHERE p.doubt
        UNION ALL SELECT 2, jsonb_build_object('args', '{"args": {"$undo": "args"}, "result": {"$undo": "result"}}'::jsonb) || p.same
            || jsonb_strip_nulls(jsonb_build_object('requires', p.requires))
            || (SELECT jsonb_object_agg(u.key, u.value) FROM jsonb_each(p.undo) u WHERE u.value <> 'null') || jsonb_build_object('name', p.called, 'undo_of', p.id)
            || CASE WHEN p.doubt THEN jsonb_build_object('depends_on', jsonb_build_array(p.again)) ELSE p.place END
        WHERE p.done OR p.doubt
        UNION ALL SELECT 3, p.same - 'partition' || p.place || jsonb_build_object('name', p.called, 'undo_of', p.id, 'jobs', p.jobs)
        WHERE p.jobs IS NOT NULL
        -- one that another flow undoes is waited for
        UNION ALL SELECT 4, p.same - 'partition' || jsonb_set(p.place, '{depends_on}', p.place -> 'depends_on' || coalesce(to_jsonb(p.undone_by), '[]'))
            || jsonb_build_object('name', p.called, 'jobs', '[]'::jsonb)
        WHERE NOT p.done AND NOT p.doubt AND p.jobs IS NULL) x (nr, job);
    RETURN jobs;
END $$;
COMMENT ON FUNCTION @extschema@.job_undo_jobs(bigint) IS 'Internal, for job_undo: the members of the flow that undoes what is in one';
REVOKE ALL ON FUNCTION @extschema@.job_undo_jobs(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_clone(flow bigint, from_members text[] DEFAULT NULL, args jsonb DEFAULT NULL) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_clone';
COMMENT ON FUNCTION @extschema@.job_clone(bigint, text[], jsonb) IS
    'Submits a copy of a flow, with other args if they are given, and returns its id. from_members: what does not follow from these, and has succeeded, is taken over. 22004, 22023, 2202E, JQ002, JQ003, 42501, 54000.';
REVOKE ALL ON FUNCTION @extschema@.job_clone(bigint, text[], jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_undo_document(of_flow bigint) RETURNS jsonb
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object('queue', j.queue, 'priority', j.priority, 'undo_of', j.id, 'parent', j.id,
            'name', CASE WHEN pg_catalog.octet_length('undo of ' || j.name) <= 128 THEN 'undo of ' || j.name END))
        || pg_catalog.jsonb_build_object('jobs', coalesce(@extschema@.job_undo_jobs(j.id), '[]'))
    FROM @extschema@.job j WHERE j.id = of_flow;
END;
COMMENT ON FUNCTION @extschema@.job_undo_document(bigint) IS 'Internal, for job_undo: the flow that undoes one';
REVOKE ALL ON FUNCTION @extschema@.job_undo_document(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_undo(flow bigint) RETURNS bigint
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_undo';
COMMENT ON FUNCTION @extschema@.job_undo(bigint) IS
    'Submits the flow that undoes one that has ended, and returns its id. JQ002, JQ003 for one that runs, is undone or undoes another, 22004, 22023 for a job that is no flow, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_undo(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_conditions(job_id bigint) RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_conditions';
COMMENT ON FUNCTION @extschema@.job_conditions(bigint) IS
    'Internal, for job_graph: what must be true of the results of jobs that one depends on, by their ids, as jsonpath; NULL: nothing, or the caller may not see it';
REVOKE ALL ON FUNCTION @extschema@.job_conditions(bigint) FROM PUBLIC;

-- What job_graph draws: a flow with all that is in it, but for the items of maps, or a job with all that it is connected with, of what the caller may see.
-- OFFSET 0: each is looked up by index, whatever statistics say of the others.
CREATE FUNCTION @extschema@.job_graph_jobs(of_job bigint)
RETURNS TABLE (id bigint, flow bigint, name text, kind text, state text, depends_on bigint[], "when" jsonb, items jsonb)
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH RECURSIVE inside AS (
        SELECT j.id, j.kind FROM @extschema@.job_status j WHERE j.id = of_job AND EXISTS (SELECT FROM @extschema@.job_flow_status f WHERE f.id = of_job)
        UNION ALL SELECT m.id, m.kind
        FROM inside, LATERAL (SELECT s.id, s.kind FROM @extschema@.job_status s WHERE s.flow = inside.id OFFSET 0) m WHERE inside.kind <> 'map'),
    connected AS (
        SELECT j.id FROM @extschema@.job_status j WHERE j.id = of_job AND NOT EXISTS (SELECT FROM inside)
        UNION SELECT j.id
        FROM connected c, LATERAL (SELECT p.job_id FROM @extschema@.job_parents(c.id) p UNION ALL SELECT d.job_id FROM @extschema@.job_children(c.id) d) x,
            LATERAL (SELECT s.id FROM @extschema@.job_status s WHERE s.id = x.job_id OFFSET 0) j)
    SELECT j.id, j.flow, j.name, j.kind, j.state, j.depends_on,
        CASE WHEN j.depends_on IS NOT NULL THEN @extschema@.job_conditions(j.id) END,
        CASE WHEN j.kind = 'map' THEN (SELECT jsonb_strip_nulls(jsonb_build_object('waiting', nullif(f.waiting, 0), 'scheduled', nullif(f.scheduled, 0), 'ready', nullif(f.ready, 0),
                'running', nullif(f.running, 0), 'succeeded', nullif(f.succeeded, 0), 'failed', nullif(f.failed, 0), 'skipped', nullif(f.skipped, 0),
                'cancelled', nullif(f.cancelled, 0), 'upstream_failed', nullif(f.upstream_failed, 0)))
            FROM @extschema@.job_flow_status f WHERE f.id = j.id) END
    FROM (SELECT inside.id FROM inside UNION ALL SELECT connected.id FROM connected) g,
        LATERAL (SELECT s.id, s.flow, s.name, s.kind, s.state, s.depends_on FROM @extschema@.job_status s WHERE s.id = g.id OFFSET 0) j
    ORDER BY j.id;
END;
COMMENT ON FUNCTION @extschema@.job_graph_jobs(bigint) IS 'Internal, for job_graph: the jobs to be drawn, by ascending ids';
REVOKE ALL ON FUNCTION @extschema@.job_graph_jobs(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_graph_text(string text, format text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT CASE format WHEN 'dot' THEN replace(replace(string, '\', '\\'), '"', '\"')
        ELSE replace(replace(replace(replace(string, '#', '#35;'), '"', '#quot;'), '<', '#lt;'), '|', '#124;') END;
END;
COMMENT ON FUNCTION @extschema@.job_graph_text(text, text) IS 'Internal, for job_graph: a string as it stands between quotes';
REVOKE ALL ON FUNCTION @extschema@.job_graph_text(text, text) FROM PUBLIC;

-- Each flow is a box of its own, so that nothing is nested; a dotted line leads to it from the member that it is. A map is one node, with the states of its items.
CREATE FUNCTION @extschema@.job_graph(job_id bigint, format text DEFAULT 'json') RETURNS text
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET jit = off SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    colors constant jsonb := '{"waiting": "#eceff1", "scheduled": "#e1f5fe", "ready": "#fff9c4", "running": "#bbdefb", "succeeded": "#c8e6c9",
        "failed": "#ffcdd2", "skipped": "#f5f5f5", "cancelled": "#d7ccc8", "upstream_failed": "#ffe0b2"}';
    states constant text[] := '{succeeded,failed,skipped,cancelled,upstream_failed,running,ready,scheduled,waiting}';
    jobs jsonb;
    drawn text;
BEGIN
    IF job_id IS NULL OR format IS NULL THEN
        RAISE EXCEPTION '"%" must not be null', CASE WHEN job_id IS NULL THEN 'job_id' ELSE 'format' END USING ERRCODE = 'null_value_not_allowed';
    END IF;
    IF format NOT IN ('json', 'dot', 'mermaid') THEN
        RAISE EXCEPTION 'unrecognized format: "%"', format USING ERRCODE = 'invalid_parameter_value', HINT = 'Valid formats are "json", "dot" and "mermaid".';
    END IF;
    SELECT jsonb_agg(to_jsonb(g) ORDER BY g.id) INTO jobs FROM @extschema@.job_graph_jobs(job_graph.job_id) g;
    IF jobs IS NULL THEN
        RAISE EXCEPTION 'job % does not exist', job_id USING ERRCODE = 'JQ002', HINT = 'It was removed, or you may not see it.';
    END IF;
    IF format = 'json' THEN
        RETURN jsonb_pretty(jsonb_build_object('jobs', jobs));
    END IF;

    WITH j AS (
        SELECT x.id, x.flow, x.state, x.depends_on, x."when", x.items IS NOT NULL AS is_map,
            x.id IN (SELECT (m ->> 'flow')::bigint FROM jsonb_array_elements(jobs) m WHERE m ->> 'flow' IS NOT NULL) AS is_flow,
            @extschema@.job_graph_text(coalesce(x.name, x.kind), format) AS label,
            (SELECT string_agg(format('%s %s', to_char(i.value::bigint, 'FM999,999,999'), i.key), ', ' ORDER BY array_position(states, i.key)) FROM jsonb_each_text(x.items) i) AS items
        FROM jsonb_to_recordset(jobs) x (id bigint, flow bigint, name text, kind text, state text, depends_on bigint[], "when" jsonb, items jsonb)),
    nodes AS (
        SELECT j.id, j.flow, CASE format
            WHEN 'dot' THEN format(E'    j%s [label="%s\\n%s%s", fillcolor="%s"%s];\n', j.id, j.label, j.state, E'\\n' || j.items, colors ->> j.state,
                CASE WHEN j.is_map THEN ', shape=box3d' WHEN j.is_flow THEN ', shape=folder' ELSE '' END)
            ELSE format(CASE WHEN j.is_map THEN E'    j%s[["%s<br/>%s%s"]]:::%s\n' ELSE E'    j%s["%s<br/>%s%s"]:::%s\n' END, j.id, j.label, j.state, '<br/>' || j.items, j.state) END AS line
        FROM j),
    boxes AS (
        SELECT n.flow, CASE WHEN f.id IS NULL THEN string_agg(n.line, '' ORDER BY n.id)
            WHEN format = 'dot' THEN format(E'  subgraph cluster_%s {\n    label="%s";\n%s  }\n', f.id, f.label, string_agg(n.line, '' ORDER BY n.id))
            ELSE format(E'  subgraph f%s["%s"]\n%s  end\n', f.id, f.label, string_agg(n.line, '' ORDER BY n.id)) END AS text
        FROM nodes n LEFT JOIN j f ON f.id = n.flow
        GROUP BY n.flow, f.id, f.label),
    edges AS (
        SELECT j.id, u.id AS up, false AS dotted, @extschema@.job_graph_text(regexp_replace(regexp_replace(j."when" ->> u.id::text, '\s+', ' ', 'g'), '^(.{77}).{4,}$', '\1...'), format) AS label
        FROM j, unnest(j.depends_on) d JOIN j u ON u.id = d
        UNION ALL SELECT min(m.id), f.id, true, NULL FROM j m JOIN j f ON f.id = m.flow GROUP BY f.id)
    SELECT concat((SELECT string_agg(b.text, '' ORDER BY b.flow NULLS FIRST) FROM boxes b),
        (SELECT string_agg(CASE format
            WHEN 'dot' THEN format(E'  j%s -> j%s%s;\n', e.up, e.id, CASE WHEN e.dotted THEN ' [style=dotted, arrowhead=none]' ELSE coalesce(' [label="' || e.label || '"]', '') END)
            ELSE format(E'  j%s %s%s j%s\n', e.up, CASE WHEN e.dotted THEN '-.-' ELSE '-->' END, '|"' || e.label || '"|', e.id) END, '' ORDER BY e.up, e.id) FROM edges e)) INTO drawn;
    IF format = 'dot' THEN
        RETURN E'digraph jobq {\n  rankdir=LR;\n  node [shape=box, style="rounded,filled"];\n' || drawn || '}';
    END IF;
    RETURN E'flowchart LR\n' || drawn
        || (SELECT string_agg(format('  classDef %s fill:%s', c.key, c.value), E'\n' ORDER BY c.key COLLATE "C") FROM jsonb_each_text(colors) c);
END $$;
COMMENT ON FUNCTION @extschema@.job_graph(bigint, text) IS
    'Draws a flow with all that is in it, maps as one with how many of their items are in which state, or a job with all that it is connected with, and their states and conditions, as far as the caller may see them: as json, dot (Graphviz) or mermaid. JQ002, 22004, 22023.';
REVOKE ALL ON FUNCTION @extschema@.job_graph(bigint, text) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_explain(job_id bigint) RETURNS TABLE (reason text, detail text, hint text, other bigint)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_explain';
COMMENT ON FUNCTION @extschema@.job_explain(bigint) IS
    'Why a job does not run or, if it is decided, how: a row for each thing that it waits for, what would make it go on, and the job in the way. JQ002 if there is no such job or the caller may not see it.';
REVOKE ALL ON FUNCTION @extschema@.job_explain(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_horizon()
RETURNS TABLE (holder text, pid int, xmin xid, since timestamptz, transactions bigint, hint text)
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT h.holder, h.pid, h.xmin, h.since, age(h.xmin)::bigint AS transactions, h.hint
    FROM (SELECT format('%s%s%s', a.backend_type, coalesce(' of ' || a.usename, ''), coalesce(' in ' || a.datname, '')) AS holder,
              a.pid, x.xmin, coalesce(a.xact_start, a.backend_start) AS since,
              CASE WHEN a.backend_type = 'walsender' THEN 'The standby or receiver that it serves asks for it: end the long query there.'
                   WHEN a.state LIKE 'idle in transaction%' THEN format('It is idle in a transaction: have it commit, or SELECT pg_terminate_backend(%s).', a.pid)
                   WHEN a.backend_type = 'client backend' THEN format('Its statement runs: wait, or SELECT pg_cancel_backend(%s).', a.pid)
                   ELSE 'Wait for it to end.' END AS hint
          -- the snapshots of other databases do not count here, their open transactions do, by the snapshots that are taken here; those of VACUUM never
          FROM pg_stat_activity a, LATERAL (SELECT CASE WHEN a.backend_xmin IS NULL OR a.datname <> current_database() OR age(a.backend_xid) > age(a.backend_xmin)
              THEN a.backend_xid ELSE a.backend_xmin END AS xmin) x
          WHERE x.xmin IS NOT NULL AND a.pid <> pg_backend_pid() AND NOT EXISTS (SELECT FROM pg_stat_replication r WHERE r.pid = a.pid)
              AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum v WHERE v.pid = a.pid)
          UNION ALL
          SELECT format('replication slot %s', s.slot_name), s.active_pid,
              CASE WHEN s.xmin IS NULL OR age(s.catalog_xmin) > age(s.xmin) THEN s.catalog_xmin ELSE s.xmin END, NULL,
              CASE WHEN s.xmin IS NULL THEN 'It keeps rows of catalogs only. ' ELSE '' END
                  || CASE WHEN s.active THEN 'Have its receiver catch up.' ELSE format('Nobody uses it: SELECT pg_drop_replication_slot(%L) if nobody will.', s.slot_name) END
          FROM pg_replication_slots s WHERE s.xmin IS NOT NULL OR s.catalog_xmin IS NOT NULL
          UNION ALL
          SELECT format('standby %s', coalesce(nullif(r.application_name, ''), r.client_addr::text)), r.pid, r.backend_xmin, r.backend_start,
              'A query there needs it (hot_standby_feedback): end the long query on the standby.'
          FROM pg_stat_replication r WHERE r.backend_xmin IS NOT NULL
          UNION ALL
          SELECT format('prepared transaction %s of %s in %s', p.gid, p.owner, p.database), NULL, p.transaction, p.prepared,
              format('In that database: COMMIT PREPARED %L or ROLLBACK PREPARED %L.', p.gid, p.gid)
          FROM pg_prepared_xacts p) h
    ORDER BY age(h.xmin) DESC, h.since, h.pid;
END;
COMMENT ON FUNCTION @extschema@.job_horizon() IS
    'What keeps dead rows from being removed, the oldest first: sessions, replication slots, standbys and prepared transactions, and what to do about each. Shows what members of pg_read_all_stats see.';
REVOKE ALL ON FUNCTION @extschema@.job_horizon() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION @extschema@.job_horizon() TO pg_monitor;

-- The next time of a schedule; NULL: never, or it cannot be read any more.
CREATE FUNCTION @extschema@.job_schedule_next(schedule text, timezone text, after timestamptz) RETURNS timestamptz
LANGUAGE plpgsql STABLE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT t FROM @extschema@.job_schedule_times(schedule, timezone, after, 1) t);
EXCEPTION WHEN data_exception THEN
    RETURN NULL;
END $$;
COMMENT ON FUNCTION @extschema@.job_schedule_next(text, text, timestamptz) IS 'Internal, for job_check: the next time of a schedule, NULL if it has none or cannot be read';
REVOKE ALL ON FUNCTION @extschema@.job_schedule_next(text, text, timestamptz) FROM PUBLIC;

-- What breaks an invariant of schedules.  A time that has come may be of a definition that was replaced.
CREATE FUNCTION @extschema@.job_schedule_problems(of_schedule text DEFAULT NULL) RETURNS TABLE (invariant text, name text, problem text)
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT p.invariant, s.name, format('schedule "%s" %s', s.name, p.problem)
    FROM @extschema@.job_schedule s, LATERAL (
        SELECT 'T1' AS invariant, format('is paused, but due next at %s', s.next_at) AS problem WHERE s.paused AND s.next_at IS NOT NULL
        UNION ALL
        SELECT 'T1', 'is never due, but has times'
        WHERE NOT s.paused AND s.next_at IS NULL AND @extschema@.job_schedule_next(s.schedule, s.timezone, greatest(s.last_at, clock_timestamp())) IS NOT NULL
        UNION ALL
        SELECT 'T1', format('is due next at %s, but has had a job for %s', s.next_at, s.last_at) WHERE NOT s.paused AND s.next_at <= s.last_at
        UNION ALL
        SELECT 'T1', format('is due next at %s, which is none of its times', s.next_at)
        WHERE NOT s.paused AND s.next_at > clock_timestamp()
            AND @extschema@.job_schedule_next(s.schedule, s.timezone, s.next_at - interval '1 microsecond') <> s.next_at
        UNION ALL
        SELECT 'T2', 'has a last job without its time, or the time without the job' WHERE num_nulls(s.last_at, s.last_job) = 1
        UNION ALL
        SELECT 'T2', format('has a last job, %s, that the sequence has not reached', s.last_job) FROM @extschema@.job_id_seq q WHERE s.last_job > q.last_value) p
    WHERE of_schedule IS NULL OR s.name = of_schedule;
END;
COMMENT ON FUNCTION @extschema@.job_schedule_problems(text) IS 'Internal, for job_check: what breaks an invariant, of all schedules or one';
REVOKE ALL ON FUNCTION @extschema@.job_schedule_problems(text) FROM PUBLIC;

-- Is the sequence below an id or position, and which is the highest?
CREATE FUNCTION @extschema@.job_sequence_problems() RETURNS TABLE (invariant text, number bigint, problem text)
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT 'S2', max(n.n), format('the sequence is at %s, below this id or position', max(q.last_value))
    FROM (SELECT max(j.id) AS n FROM @extschema@.job j UNION ALL SELECT max(r.position) FROM @extschema@.job_ready r
        UNION ALL SELECT max(g.position) FROM @extschema@.job_limited g) n, @extschema@.job_id_seq q
    HAVING max(n.n) > max(q.last_value);
END;
COMMENT ON FUNCTION @extschema@.job_sequence_problems() IS 'Internal, for job_check: whether the sequence is below an id or position';
REVOKE ALL ON FUNCTION @extschema@.job_sequence_problems() FROM PUBLIC;

-- Where the row of job_ready of a job is, if it is in the place that its job gives, or has a position of its own.
CREATE FUNCTION @extschema@.job_ready_row(of_job bigint) RETURNS SETOF tid
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT r.ctid FROM @extschema@.job_ready r WHERE r.job_id = of_job AND r.position <> r.job_id
    UNION ALL
    SELECT r.ctid
    FROM @extschema@.job j JOIN @extschema@.job_ready r
        ON r.lane = @extschema@.job_lane_id(j.queue, j.requires) AND r.priority = j.priority AND r.position = j.id AND r.job_id = j.id
    WHERE j.id = of_job;
END;
COMMENT ON FUNCTION @extschema@.job_ready_row(bigint) IS 'Internal, for job_check: where the row of job_ready of a job is';
REVOKE ALL ON FUNCTION @extschema@.job_ready_row(bigint) FROM PUBLIC;

-- Where the row of job_unique of a job is: of its own key, since those of others cannot be found by job.
CREATE FUNCTION @extschema@.job_unique_row(of_job bigint) RETURNS SETOF tid
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    SELECT u.ctid
    FROM @extschema@.job j JOIN @extschema@.job_unique u
        ON u.unique_key = j.unique_key AND u.queue_id = @extschema@.job_queue_id(j.queue) AND u.job_id = j.id
    WHERE j.id = of_job;
END;
COMMENT ON FUNCTION @extschema@.job_unique_row(bigint) IS 'Internal, for job_check: where the row of job_unique of a job is, if the key is its own';
REVOKE ALL ON FUNCTION @extschema@.job_unique_row(bigint) FROM PUBLIC;

-- All that must be true of the tables in every committed state, by the numbers of docs/DESIGN.md.  One statement, so one snapshot: what others
-- change meanwhile is no problem.  Its body is inlined, so that to look at a single job costs only that.  Each table is aggregated by job and
-- joined to job once; nothing is looked up job by job, so that it is linear without nested loops (job_all_problems).  Of a single job, a row of
-- job_ready or job_unique that is where no index finds it is left out.
CREATE FUNCTION @extschema@.job_problems(of_job bigint DEFAULT NULL) RETURNS TABLE (invariant text, job_id bigint, problem text)
LANGUAGE sql STABLE PARALLEL UNSAFE
BEGIN ATOMIC
    WITH states AS (
        SELECT s.job_id, count(*) AS n, array_agg(s.state) AS states, max(s.queue_id) AS queue_id, max(s.lane) AS lane, max(s.priority) AS priority,
            max(s.partition_id) AS partition_id, max(s.affinity_id) AS affinity_id, max(s.flow_id) AS flow_id, max(s.attempt) AS attempt, max(s.failed) AS failed, max(s.lost) AS lost, max(s.expires_at) AS expires_at
        FROM (SELECT w.job_id, 'waiting' AS state, w.queue_id, w.lane, w.priority, w.partition_id, w.affinity_id, w.flow_id, w.attempt, w.failed, w.lost, w.expires_at FROM @extschema@.job_waiting w
                WHERE of_job IS NULL OR w.job_id = of_job
            UNION ALL SELECT c.job_id, 'scheduled', c.queue_id, c.lane, c.priority, c.partition_id, c.affinity_id, c.flow_id, c.attempt, c.failed, c.lost, c.expires_at FROM @extschema@.job_scheduled c
                WHERE of_job IS NULL OR c.job_id = of_job
            UNION ALL SELECT g.job_id, 'limited', g.queue_id, g.lane, g.priority, nullif(g.partition_id, 0), g.affinity_id, g.flow_id, g.attempt, g.failed, g.lost, g.expires_at FROM @extschema@.job_limited g
                WHERE of_job IS NULL OR g.job_id = of_job
            UNION ALL SELECT r.job_id, 'ready', r.queue_id, r.lane, r.priority, r.partition_id, r.affinity_id, r.flow_id, r.attempt, r.failed, r.lost, r.expires_at FROM @extschema@.job_ready r
                WHERE of_job IS NULL OR r.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(of_job)))
            UNION ALL SELECT f.job_id, 'a running flow', f.queue_id, f.lane, f.priority, f.partition_id, f.affinity_id, f.flow_id, f.attempt, f.failed, f.lost, f.expires_at FROM @extschema@.job_flow f
                WHERE f.open AND (of_job IS NULL OR f.job_id = of_job)
            UNION ALL SELECT l.job_id, 'running', l.queue_id, l.lane, l.priority, l.partition_id, l.affinity_id, l.flow_id, l.attempt, l.failed, l.lost, l.expires_at FROM @extschema@.job_lease l
                WHERE of_job IS NULL OR l.job_id = of_job) s
        GROUP BY s.job_id),
    -- no two have one number
    attempts AS (
        SELECT a.job_id, count(*) AS n, min(a.attempt) AS first, max(a.attempt) AS latest,
            count(*) FILTER (WHERE a.outcome IN (1, 2)) AS failed, count(*) FILTER (WHERE a.outcome = 3) AS lost,
            bool_or(a.ended_at < a.started_at OR a.outcome NOT BETWEEN 0 AND 6) AS bad
        FROM @extschema@.job_attempt a WHERE of_job IS NULL OR a.job_id = of_job GROUP BY a.job_id),
    -- what the edges and the outcomes upstream say; n: those that its dependencies made, there: to jobs that are there
    edges AS (
        SELECT d.downstream AS id, count(*) FILTER (WHERE d.require <> 63) AS n, count(*) FILTER (WHERE d.require <> 63 AND p.id IS NOT NULL) AS there,
            min(d.upstream) FILTER (WHERE d.require <> 63) AS first,
            min(64 * d.require + d.suffice) FILTER (WHERE d.require <> 63) AS min_masks, max(64 * d.require + d.suffice) FILTER (WHERE d.require <> 63) AS max_masks,
            count(*) FILTER (WHERE p.id IS NOT NULL AND p.outcome IS NULL) AS undecided,
            count(*) FILTER (WHERE p.id IS NOT NULL AND p.outcome IS NULL AND d.require <> 0) AS pending,
            count(*) FILTER (WHERE c.outcome & d.suffice <> 0) AS hits,
            count(*) FILTER (WHERE d.require <> 0 AND c.outcome & d.require = 0) AS violated,
            count(*) FILTER (WHERE p.outcome IN (2, 8, 16) AND d.require <> 63) AS hurt
        FROM @extschema@.job_dependency d LEFT JOIN @extschema@.job p ON p.id = d.upstream
            -- results are read by id, so that they are not carried through the join
            CROSS JOIN LATERAL (SELECT CASE WHEN d.condition IS NULL OR p.outcome <> 1 THEN p.outcome
                ELSE @extschema@.job_counts_as(p.outcome, (SELECT r.result FROM @extschema@.job r WHERE r.id = d.upstream), d.condition) END AS outcome) c
        WHERE of_job IS NULL OR d.downstream = of_job GROUP BY d.downstream),
    deltas AS (
        SELECT d.downstream, d.epoch, sum(d.undecided) AS undecided, sum(d.pending) AS pending, sum(d.hits) AS hits, sum(d.violated) AS violated,
            sum(d.hurt) AS hurt, sum(d.running) AS running
        FROM @extschema@.job_delta d WHERE of_job IS NULL OR d.downstream = of_job GROUP BY d.downstream, d.epoch),
    -- each job with all of that; OFFSET 0 keeps what is wide out of the joins
    known AS (
        SELECT j.*, coalesce(s.n, 0) AS n_states, s.states, s.failed AS has_failed, s.lost AS has_lost,
            coalesce(j.attempt, s.attempt) AS begun, CASE WHEN s.states = '{running}' OR j.attempt_outcome IS NOT NULL THEN 1 ELSE 0 END AS open_attempt,
            s.n = 1 AND (s.priority <> j.priority OR s.queue_id <> @extschema@.job_queue_id(j.queue)
                OR coalesce(s.partition_id, 0) <> coalesce(@extschema@.job_queue_id(j.partition), 0)
                OR coalesce(s.affinity_id, 0) <> coalesce(@extschema@.job_queue_id(j.affinity), 0)
                OR s.flow_id IS DISTINCT FROM j.flow OR w.limited_by <> j.flow
                -- in another lane only where it was let in by a gate, or is kept for a worker
                OR (s.lane <> CASE WHEN j.flow_type IS NULL THEN @extschema@.job_lane_id(j.queue, j.requires) ELSE 1 END AND (s.states <> '{ready}'
                    OR (q.gates IS NULL AND NOT s.lane BETWEEN @extschema@.job_own_lanes(@extschema@.job_lane_id(j.queue, j.requires))
                        AND @extschema@.job_own_lanes(@extschema@.job_lane_id(j.queue, j.requires)) + 1048575)))) AS misplaced,
            s.n = 1 AND j.requires IS NOT NULL
                AND @extschema@.job_lane_id(j.queue, j.requires) <> ALL (ARRAY (SELECT t.lane FROM @extschema@.job_lane t)) AS unregistered,
            coalesce(a.n, 0) AS on_record, a.first AS first_attempt, a.latest AS latest_attempt,
            coalesce(a.failed, 0) AS record_failed, coalesce(a.lost, 0) AS record_lost,
            coalesce(f.n, 0) AS edges, f.there, f.first AS first_edge, f.min_masks, f.max_masks,
            w.job_id AS waiting, w.open, w.held OR w.limited_by IS NOT NULL AS held, w.manual AS has_manual, (w.rule, w.quorum) <> (j.rule, j.quorum) AS other_rule,
            d.downstream IS NOT NULL AS has_deltas,
            ROW (w.undecided + coalesce(d.undecided, 0), w.pending + coalesce(d.pending, 0), w.hits + coalesce(d.hits, 0),
                w.violated + coalesce(d.violated, 0), w.hurt + coalesce(d.hurt, 0)) AS has,
            ROW (e.undecided, e.pending, e.hits, e.violated, e.hurt) AS should_have,
            CASE WHEN e.violated = 0 AND e.hits + e.undecided >= j.quorum
                     THEN CASE WHEN e.pending = 0 AND e.hits >= j.quorum THEN 'ready' ELSE 'wait' END
                 WHEN j.rule NOT IN (0, 5, 6, 8, 9) THEN 'skipped'
                 WHEN e.hurt > 0 THEN 'upstream_failed'
                 WHEN e.undecided > 0 THEN 'wait'
                 ELSE 'skipped' END AS verdict
        FROM (SELECT t.id, t.outcome, t.finished_at, t.decided_by, t.attempt_outcome, t.token, t.started_at, t.worker IS NOT NULL AS has_worker,
                    t.result IS NOT NULL AS has_result, t.attempt, t.failed, t.lost, t.queue, t.partition, t.requires, t.affinity, t.priority, t.manual, t.rule, t.quorum, t.dependencies, t.generation, t.flow, t.former_flow, t.flow_type
                FROM @extschema@.job t WHERE of_job IS NULL OR t.id = of_job OFFSET 0) j
            LEFT JOIN states s ON s.job_id = j.id
            LEFT JOIN @extschema@.job_queue q ON q.name = j.queue
            LEFT JOIN attempts a ON a.job_id = j.id
            LEFT JOIN edges f ON f.id = j.id
            LEFT JOIN @extschema@.job_waiting w ON w.job_id = j.id
            LEFT JOIN deltas d ON d.downstream = j.id AND d.epoch = w.epoch
            -- those to jobs that were removed count as of succeeded ones
            CROSS JOIN LATERAL (SELECT coalesce(f.undecided, 0) AS undecided, coalesce(f.pending, 0) AS pending, coalesce(f.hurt, 0) AS hurt,
                    coalesce(f.hits, 0) + CASE WHEN j.rule IN (5, 8, 9, 10) THEN g.gone ELSE 0 END AS hits,
                    coalesce(f.violated, 0) + CASE WHEN j.rule IN (1, 3) THEN g.gone ELSE 0 END AS violated
                FROM (SELECT greatest(j.dependencies - coalesce(f.there, 0), 0) AS gone) g) e),
    -- those with a problem, and which it is
    wrong AS (
        SELECT * FROM (
            SELECT k.*,
                k.n_states <> CASE WHEN k.outcome IS NULL THEN 1 ELSE 0 END AS s1,
                k.manual AND k.outcome IS NULL AND k.n_states = 1 AND k.states <> '{waiting}' AS s1_manual,
                -- edges to jobs that were removed may be gone, but only where nobody counts them any more, or there never were any, in a flow that has begun anew
                k.dependencies > 0 AND CASE WHEN k.edges >= k.dependencies THEN k.edges > k.dependencies WHEN k.outcome IS NOT NULL OR k.generation > 0 THEN false
                    ELSE NOT EXISTS (WITH RECURSIVE around AS (SELECT f.anew, f.flow_id FROM @extschema@.job_flow f WHERE f.job_id = k.flow
                        UNION ALL SELECT f.anew, f.flow_id FROM around a JOIN @extschema@.job_flow f ON f.job_id = a.flow_id) SELECT FROM around a WHERE a.anew) END AS s2,
                k.dependencies = 0 AND k.edges > 0 AS s2_none,
                (k.min_masks, k.max_masks) <> (r.masks, r.masks) AS s2_masks,
                k.begun IS NOT NULL AND k.n_states <= 1 AND (k.on_record <> greatest(k.begun - k.open_attempt, 0)
                    OR k.first_attempt < 1 OR k.latest_attempt > k.on_record) AS s3,
                k.n_states = 1 AND CASE WHEN k.generation = 0 THEN (k.has_failed, k.has_lost) <> (k.record_failed, k.record_lost)
                    ELSE k.has_failed < 0 OR k.has_lost < 0 OR k.has_failed::bigint + k.has_lost > k.begun END AS s4,
                CASE WHEN k.outcome IS NULL
                    THEN num_nonnulls(k.finished_at, k.decided_by, k.attempt_outcome, k.token, k.started_at, k.attempt, k.failed, k.lost) > 0
                        OR k.has_worker OR k.has_result
                    ELSE k.outcome NOT IN (1, 2, 4, 8, 16) OR num_nulls(k.finished_at, k.attempt, k.failed, k.lost) > 0 OR k.finished_at < k.started_at
                        OR num_nonnulls(k.attempt_outcome, k.token, k.started_at) NOT IN (0, 3) OR (k.has_result AND k.outcome <> 1) END AS s5,
                k.has_manual <> k.manual AS s8_manual,
                -- members that were left out depend on nothing, and those of a decided flow stay as they are, as former ones do
                k.outcome IN (4, 16) AND k.there = k.dependencies AND k.decided_by IS NULL AND k.former_flow IS NULL
                    AND (k.flow IS NULL OR (k.dependencies > 0 AND EXISTS (SELECT FROM @extschema@.job_flow f WHERE f.job_id = k.flow AND f.open)))
                    AND k.verdict <> CASE k.outcome WHEN 4 THEN 'skipped' ELSE 'upstream_failed' END AS d1,
                k.open AND k.has <> k.should_have AS d4,
                k.waiting IS NOT NULL AND NOT k.has_deltas AND NOT k.manual
                    AND CASE WHEN k.open THEN k.has = k.should_have AND k.verdict <> 'wait' ELSE NOT k.held END AS d4_nothing
            FROM known k CROSS JOIN LATERAL (SELECT (ARRAY[64 * 1, 64 * 18, 64 * 31, 64 * 4, 18, 1, 64 * 5, 64 * 19, 64 * 5 + 1, 1, 3, 0])[k.rule + 1] AS masks) r) k
        WHERE s1 OR s1_manual OR s2 OR s2_none OR s2_masks OR s3 OR s4 OR s5 OR misplaced OR unregistered OR s8_manual OR d1 OR d4 OR d4_nothing OR (open AND other_rule))

    SELECT p.invariant, x.id, p.problem
    FROM (SELECT y.*, (SELECT string_agg(t, ' and ' ORDER BY t) FROM unnest(y.states) t) AS state,
            EXISTS (SELECT FROM @extschema@.job_recount r WHERE r.job_id = y.id) AS recount FROM wrong y) x,
        LATERAL (VALUES
            (x.s1, 'S1', CASE WHEN x.outcome IS NOT NULL THEN format('it is decided, and %s too', x.state)
                ELSE coalesce('it is ' || x.state, 'it is in no state') END),
            (x.s1_manual, 'S1', format('it is manual, and %s', x.state)),
            (x.s2, 'S2', format('it has %s dependencies, and edges for %s', x.dependencies, x.edges)),
            (x.s2_none, 'S2', format('it has no dependencies, and an edge from %s', x.first_edge)),
            (x.s2_masks, 'S2', 'an edge says something else than its trigger rule'),
            (x.s3, 'S3', format('it has begun %s attempts, and %s are on record', x.begun, x.on_record)),
            (x.s4, 'S4', format('%s attempts failed and %s were lost, but %s and %s are counted', x.record_failed, x.record_lost, x.has_failed, x.has_lost)),
            (x.s5, 'S5', 'what it says of its end does not fit together'),
            (x.misplaced, 'S8', format('it is %s with another queue, partition, affinity, flow or priority than its own', x.state)),
            (x.unregistered, 'S10', 'no claim knows the labels that it requires'),
            (x.s8_manual, 'S8', format('it waits as if it were %smanual', CASE WHEN x.has_manual THEN '' ELSE 'not ' END)),
            (x.d1 AND NOT x.recount, 'D1', format('it is %s, but its dependencies mean: %s', @extschema@.job_outcome_name(x.outcome), x.verdict)),
            (x.d4 AND NOT x.recount, 'D4', format('its dependencies are counted as %s, but are %s', x.has, x.should_have)),
            (x.d4_nothing AND NOT x.recount, 'D4', 'it waits for nothing'),
            (x.open AND x.other_rule, 'D4', 'it waits by another trigger rule than its own')) p (found, invariant, problem)
    WHERE p.found
    UNION ALL
    SELECT 'S1', s.job_id, format('there is no such job, and it is %s', (SELECT string_agg(t, ' and ' ORDER BY t) FROM unnest(s.states) t))
    FROM states s WHERE NOT EXISTS (SELECT FROM @extschema@.job j WHERE j.id = s.job_id)
    UNION ALL
    SELECT 'S2', d.downstream, format('it depends on %s, which %s', d.upstream,
        CASE WHEN d.upstream >= d.downstream THEN 'is not older' WHEN p.id IS NULL THEN 'does not exist' ELSE 'does, but it does not exist itself' END)
    FROM @extschema@.job_dependency d LEFT JOIN @extschema@.job p ON p.id = d.upstream LEFT JOIN @extschema@.job c ON c.id = d.downstream
    WHERE (of_job IS NULL OR d.downstream = of_job) AND (d.upstream >= d.downstream OR p.id IS NULL OR c.id IS NULL)
    UNION ALL
    SELECT 'W1', f.job_id, CASE WHEN f.has <> f.should_have THEN format('its members are counted as %s, but are %s', f.has, f.should_have)
        ELSE 'its members are decided, and nothing ends it' END
    FROM (SELECT t.job_id, d.downstream IS NULL AND t.undecided = 0 AS left_open,
              ROW (t.undecided + coalesce(d.undecided, 0), t.pending + coalesce(d.pending, 0), t.hits + coalesce(d.hits, 0), t.violated + coalesce(d.violated, 0),
                  t.hurt + coalesce(d.hurt, 0)) AS has,
              ROW (coalesce(m.undecided, 0), coalesce(m.undecided, 0), coalesce(m.hits, 0), coalesce(m.violated, 0), coalesce(m.hurt, 0)) AS should_have
          FROM @extschema@.job_flow t
              LEFT JOIN deltas d ON d.downstream = t.job_id AND d.epoch = 0
              LEFT JOIN (SELECT o.flow, count(*) FILTER (WHERE o.outcome IS NULL) AS undecided, count(*) FILTER (WHERE o.outcome = 1) AS hits,
                             count(*) FILTER (WHERE o.outcome IN (2, 16) AND o.critical IS NULL) AS violated, count(*) FILTER (WHERE o.outcome IN (2, 8, 16)) AS hurt
                         FROM @extschema@.job o WHERE o.flow IS NOT NULL AND (of_job IS NULL OR o.flow = of_job) GROUP BY o.flow) m ON m.flow = t.job_id
          WHERE t.open AND (of_job IS NULL OR t.job_id = of_job)) f
    WHERE f.has <> f.should_have OR f.left_open
    UNION ALL
    SELECT 'W2', o.id, format('it is undecided, and flow %s, which it is a member of, does not run', o.flow)
    FROM @extschema@.job o
    WHERE o.flow IS NOT NULL AND o.outcome IS NULL AND (of_job IS NULL OR o.id = of_job)
        AND NOT EXISTS (SELECT FROM @extschema@.job_flow f WHERE f.job_id = o.flow AND f.open)
    UNION ALL
    SELECT 'W4', o.id, format('it is undecided, and a former member of flow %s', o.former_flow)
    FROM @extschema@.job o
    WHERE o.former_flow IS NOT NULL AND o.outcome IS NULL AND (of_job IS NULL OR o.id = of_job)
    UNION ALL
    SELECT 'W6', t.job_id, format('it counts %s members that it has let in, and has %s', t.running + coalesce(d.running, 0), coalesce(s.n, 0))
    FROM @extschema@.job_flow t
        LEFT JOIN deltas d ON d.downstream = t.job_id AND d.epoch = 0
        LEFT JOIN (SELECT x.flow_id, count(*) AS n
                   FROM (SELECT c.flow_id FROM @extschema@.job_scheduled c WHERE c.slot IS NOT NULL
                         UNION ALL SELECT g.flow_id FROM @extschema@.job_limited g WHERE g.slot IS NOT NULL
                         UNION ALL SELECT r.flow_id FROM @extschema@.job_ready r WHERE r.slot IS NOT NULL
                         UNION ALL SELECT l.flow_id FROM @extschema@.job_lease l WHERE l.slot IS NOT NULL
                         UNION ALL SELECT f.flow_id FROM @extschema@.job_flow f WHERE f.slot IS NOT NULL AND f.open) x
                   GROUP BY x.flow_id) s ON s.flow_id = t.job_id
    WHERE t.open AND (of_job IS NULL OR t.job_id = of_job) AND t.running + coalesce(d.running, 0) <> coalesce(s.n, 0)
    UNION ALL
    SELECT 'W6', t.job_id, format('member %s runs, and is not counted', x.job_id)
    FROM @extschema@.job_flow t
        JOIN (SELECT l.flow_id, l.job_id FROM @extschema@.job_lease l WHERE l.slot IS NULL
              UNION ALL SELECT f.flow_id, f.job_id FROM @extschema@.job_flow f WHERE f.slot IS NULL AND f.open) x ON x.flow_id = t.job_id
    WHERE t.open AND t.settled AND (t.permits IS NOT NULL OR t.max_running IS NOT NULL) AND (of_job IS NULL OR t.job_id = of_job)
    UNION ALL
    SELECT 'W7', t.job_id, 'members wait for it, and nothing keeps them'
    FROM @extschema@.job_flow t LEFT JOIN deltas d ON d.downstream = t.job_id AND d.epoch = 0
    WHERE t.open AND (of_job IS NULL OR t.job_id = of_job) AND EXISTS (SELECT FROM @extschema@.job_waiting w WHERE w.limited_by = t.job_id AND (t.canary_upto IS NULL OR w.job_id <= t.canary_upto))
        AND d.downstream IS NULL AND t.stopping = 0 AND coalesce(t.permits, 1) > 0 AND coalesce(t.max_running > t.running, true)
        AND NOT EXISTS (WITH RECURSIVE around (id, paused, outer_flow) AS (
                            SELECT t.job_id, t.paused, t.flow_id
                            UNION ALL SELECT f.job_id, f.paused, f.flow_id FROM around a JOIN @extschema@.job_flow f ON f.job_id = a.outer_flow)
                        SELECT FROM around WHERE around.paused)
    UNION ALL
    SELECT 'W5', t.job_id, format('flow %s is to undo it, and %s', t.undone_by, CASE WHEN o.outcome IS NULL THEN 'it is not decided' ELSE 'undoes another' END)
    FROM @extschema@.job_flow t JOIN @extschema@.job o ON o.id = t.job_id LEFT JOIN @extschema@.job u ON u.id = t.undone_by
    WHERE t.undone_by IS NOT NULL AND (of_job IS NULL OR t.job_id = of_job) AND (o.outcome IS NULL OR u.undo_of <> t.job_id)
    UNION ALL
    SELECT s.* FROM @extschema@.job_sequence_problems() s WHERE of_job IS NULL
    UNION ALL
    SELECT 'S3', a.job_id, 'an attempt on record ended before it began, or in no known way' FROM attempts a WHERE a.bad
    UNION ALL
    SELECT 'S3', a.job_id, 'there is no such job, but attempts at it'
    FROM attempts a WHERE NOT EXISTS (SELECT FROM @extschema@.job j WHERE j.id = a.job_id)
    UNION ALL
    SELECT 'S6', s.job_id, format('nothing cancels it when it expires at %s', s.expires_at)
    FROM states s
    WHERE s.expires_at IS NOT NULL AND s.attempt = 0
        AND NOT EXISTS (SELECT FROM @extschema@.job_expiry e WHERE e.expires_at = s.expires_at AND e.job_id = s.job_id)
    UNION ALL
    SELECT 'A1', r.job_id, 'it is kept for a worker, and nothing ends that'
    FROM @extschema@.job_ready r JOIN @extschema@.job j ON j.id = r.job_id LEFT JOIN @extschema@.job_queue q ON q.name = j.queue
    WHERE (of_job IS NULL OR r.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(of_job)))) AND r.affinity_id IS NOT NULL
        AND EXISTS (SELECT FROM unnest(0 || q.gates) g, @extschema@.job_own_lanes(@extschema@.job_gate_lane(@extschema@.job_lane_id(j.queue, j.requires), g)) own
            WHERE r.lane BETWEEN own AND own + 1048575)
        AND NOT EXISTS (SELECT FROM @extschema@.job_kept k WHERE k.job_id = r.job_id AND k.position = r.position)
    UNION ALL
    SELECT 'S7', l.job_id, 'its lease has no token, an end that is not its earliest, no length, no attempt, or both a session and an end'
    FROM @extschema@.job_lease l
    WHERE (of_job IS NULL OR l.job_id = of_job) AND (l.token <= 0 OR l.deadline <> least(l.lease_until, l.timeout_at) OR l.period <= 0 OR l.attempt < 1
            OR (l.session IS NULL) <> isfinite(l.lease_until))
    UNION ALL
    SELECT 'S8', min(r.job_id), format('%s jobs are ready at one position', count(*))
    FROM @extschema@.job_ready r WHERE of_job IS NULL GROUP BY r.lane, r.position HAVING count(*) > 1
    UNION ALL
    SELECT 'S8', NULL, format('queue "%s" has another number than its name gives', q.name)
    FROM @extschema@.job_queue q WHERE of_job IS NULL AND q.queue_id <> @extschema@.job_queue_id(q.name)
    UNION ALL
    SELECT 'S8', NULL, format('partition "%s" of queue "%s" has another number than its name gives', p.partition, p.queue)
    FROM @extschema@.job_partition p
    WHERE of_job IS NULL AND (p.queue_id, p.partition_id) <> (@extschema@.job_queue_id(p.queue), @extschema@.job_queue_id(p.partition))
    UNION ALL
    SELECT 'G2', t.job_id, 'it never was, and has the turn of a partition'
    FROM @extschema@.job_turn t WHERE of_job IS NULL AND t.job_id > (SELECT q.last_value FROM @extschema@.job_id_seq q)
    UNION ALL
    -- what is to be done about a job that was removed is dropped when it is due
    SELECT 'D5', d.downstream, 'what is still to be counted was never begun, or is of a job that never was'
    FROM @extschema@.job_delta d LEFT JOIN @extschema@.job_waiting w ON w.job_id = d.downstream
    WHERE (of_job IS NULL OR d.downstream = of_job)
        AND (d.downstream > (SELECT q.last_value FROM @extschema@.job_id_seq q) OR (w.open AND d.epoch > w.epoch) OR (d.undecided >= 0 AND d.epoch <> 0))
    UNION ALL
    SELECT 'D5', r.job_id, 'what is to be counted anew never was'
    FROM @extschema@.job_recount r WHERE (of_job IS NULL OR r.job_id = of_job) AND r.job_id > (SELECT q.last_value FROM @extschema@.job_id_seq q)
    UNION ALL
    SELECT 'D5', c.job_id, 'what is to be cancelled never was'
    FROM @extschema@.job_cancel_request c WHERE (of_job IS NULL OR c.job_id = of_job) AND c.job_id > (SELECT q.last_value FROM @extschema@.job_id_seq q)
    UNION ALL
    SELECT DISTINCT 'L1', g.job_id, 'there is no such job, but lines of its log'
    FROM @extschema@.job_log g WHERE (of_job IS NULL OR g.job_id = of_job) AND NOT EXISTS (SELECT FROM @extschema@.job j WHERE j.id = g.job_id)
    UNION ALL
    SELECT DISTINCT 'L2', p.job_id, 'there is no such job, but steps of it'
    FROM @extschema@.job_step p WHERE (of_job IS NULL OR p.job_id = of_job) AND NOT EXISTS (SELECT FROM @extschema@.job j WHERE j.id = p.job_id)
    UNION ALL
    SELECT 'U2', u.job_id, format('it has a unique key, "%s", that is not its own, or not as long as it says', u.unique_key)
    FROM @extschema@.job_unique u LEFT JOIN @extschema@.job j ON j.id = u.job_id
    WHERE (of_job IS NULL OR u.ctid = ANY (ARRAY (SELECT @extschema@.job_unique_row(of_job)))) AND CASE WHEN j.id IS NULL THEN u.until IS NULL
        ELSE j.unique_key IS DISTINCT FROM u.unique_key OR @extschema@.job_queue_id(j.queue) <> u.queue_id OR (j.outcome IS NULL) <> (u.until IS NULL)
            OR u.until <> j.submitted_at + j.unique_for * interval '1 microsecond' END
    UNION ALL
    SELECT s.invariant, NULL, s.problem FROM @extschema@.job_schedule_problems() s WHERE of_job IS NULL;
END;
COMMENT ON FUNCTION @extschema@.job_problems(bigint) IS 'Internal, for job_check: what breaks an invariant, of all jobs or one';
REVOKE ALL ON FUNCTION @extschema@.job_problems(bigint) FROM PUBLIC;

-- Of all jobs.  Statistics of tables that change as these do must not lead to a plan whose time is the product of two tables, or whose memory
-- is one of them: all joins are merge joins.
CREATE FUNCTION @extschema@.job_all_problems() RETURNS TABLE (invariant text, job_id bigint, problem text)
LANGUAGE sql STABLE PARALLEL UNSAFE SET enable_nestloop = off SET enable_hashjoin = off SET jit = off SET search_path = pg_catalog, pg_temp
BEGIN ATOMIC
    SELECT * FROM @extschema@.job_problems();
END;
COMMENT ON FUNCTION @extschema@.job_all_problems() IS 'Internal, for job_check: what breaks an invariant, of all jobs';
REVOKE ALL ON FUNCTION @extschema@.job_all_problems() FROM PUBLIC;

-- Of one job, with its number in the query: all is looked up by index, whatever statistics say.
CREATE FUNCTION @extschema@.job_problems_of(of_job bigint) RETURNS TABLE (invariant text, job_id bigint, problem text)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET enable_hashjoin = off SET enable_mergejoin = off SET enable_seqscan = off SET jit = off SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT * FROM @extschema@.job_problems(%s)', of_job);
END $$;
COMMENT ON FUNCTION @extschema@.job_problems_of(bigint) IS 'Internal, for job_check: what breaks an invariant, of one job';
REVOKE ALL ON FUNCTION @extschema@.job_problems_of(bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_enter_again(job_id bigint, attempt int, failed int, lost int, hold boolean) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_enter_again';
COMMENT ON FUNCTION @extschema@.job_enter_again(bigint, int, int, int, boolean) IS 'Internal, for job_check: puts an undecided job that is in no state into the one that it belongs in, held or not';
REVOKE ALL ON FUNCTION @extschema@.job_enter_again(bigint, int, int, int, boolean) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_count_again(job_id bigint) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_count_again';
COMMENT ON FUNCTION @extschema@.job_count_again(bigint) IS 'Internal, for job_check: has the background worker count a job''s dependencies anew';
REVOKE ALL ON FUNCTION @extschema@.job_count_again(bigint) FROM PUBLIC;

-- Repairs what can be, of a job whose rows the caller has locked.
CREATE FUNCTION @extschema@.job_repair_job(id bigint, invariant text) RETURNS void
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    j @extschema@.job;
    waits boolean := EXISTS (SELECT FROM @extschema@.job_waiting w WHERE w.job_id = id);
    runs boolean := EXISTS (SELECT FROM @extschema@.job_lease l WHERE l.job_id = id) OR EXISTS (SELECT FROM @extschema@.job_flow f WHERE f.job_id = id AND f.open);
    scheduled boolean;
    latest int := coalesce((SELECT max(a.attempt) FROM @extschema@.job_attempt a WHERE a.job_id = id), 0);
    n_failed int;
    n_lost int;
    n int;
    state record;
BEGIN
    SELECT * INTO j FROM @extschema@.job t WHERE t.id = job_repair_job.id;
    SELECT count(*) FILTER (WHERE a.outcome IN (1, 2)), count(*) FILTER (WHERE a.outcome = 3) INTO n_failed, n_lost
    FROM @extschema@.job_attempt a WHERE a.job_id = id;
    IF j.generation > 0 THEN
        n_failed := 0;
        n_lost := 0;
    END IF;

    CASE invariant
    WHEN 'S1' THEN
        -- the worker of a job that runs goes on; else what lets it run last stays
        IF j.id IS NULL OR j.outcome IS NOT NULL THEN
            DELETE FROM @extschema@.job_lease l WHERE l.job_id = job_repair_job.id;
            UPDATE @extschema@.job_flow f SET open = false WHERE f.job_id = job_repair_job.id AND f.open AND j.id IS NOT NULL;
            DELETE FROM @extschema@.job_flow f WHERE f.job_id = job_repair_job.id AND j.id IS NULL;
        END IF;
        IF j.id IS NULL OR j.outcome IS NOT NULL OR runs THEN
            DELETE FROM @extschema@.job_waiting w WHERE w.job_id = job_repair_job.id;
        END IF;
        IF j.id IS NULL OR j.outcome IS NOT NULL OR runs OR waits OR j.manual THEN
            DELETE FROM @extschema@.job_scheduled s WHERE s.job_id = job_repair_job.id;
        END IF;
        scheduled := EXISTS (SELECT FROM @extschema@.job_scheduled s WHERE s.job_id = id);
        IF j.id IS NULL OR j.outcome IS NOT NULL OR runs OR waits OR j.manual OR scheduled THEN
            DELETE FROM @extschema@.job_limited g WHERE g.job_id = job_repair_job.id;
        END IF;
        scheduled := scheduled OR EXISTS (SELECT FROM @extschema@.job_limited g WHERE g.job_id = id);
        IF j.id IS NULL OR j.outcome IS NOT NULL OR runs OR waits OR j.manual OR scheduled THEN
            DELETE FROM @extschema@.job_ready r WHERE r.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(job_repair_job.id)));
        END IF;
        DELETE FROM @extschema@.job_ready r WHERE r.ctid = ANY (ARRAY (SELECT t FROM @extschema@.job_ready_row(job_repair_job.id) t OFFSET 1));
        IF j.id IS NOT NULL AND j.outcome IS NULL AND NOT (runs OR waits OR scheduled OR EXISTS (SELECT @extschema@.job_ready_row(id))) THEN
            -- a flow that was started runs; of others nobody knows whether they were held; a manual one runs in no case
            UPDATE @extschema@.job_flow f SET open = true WHERE f.job_id = job_repair_job.id AND f.started_at IS NOT NULL;
            IF NOT FOUND AND (j.flow_type IS NULL OR EXISTS (SELECT FROM @extschema@.job_flow f WHERE f.job_id = job_repair_job.id)) THEN
                PERFORM @extschema@.job_enter_again(id, latest, n_failed, n_lost, NOT j.manual);
            END IF;
        END IF;
    WHEN 'S2' THEN
        DELETE FROM @extschema@.job_dependency d
        WHERE d.downstream = id AND (d.upstream >= d.downstream OR j.id IS NULL OR NOT EXISTS (SELECT FROM @extschema@.job p WHERE p.id = d.upstream));
        UPDATE @extschema@.job_dependency d SET require = r.require, suffice = r.suffice
        FROM (VALUES (0, 1, 0), (1, 18, 0), (2, 31, 0), (3, 4, 0), (4, 0, 18), (5, 0, 1), (6, 5, 0), (7, 19, 0), (8, 5, 1), (9, 0, 1), (10, 0, 3),
            (11, 0, 0)) r (rule, require, suffice)
        WHERE d.downstream = id AND r.rule = j.rule AND d.require <> 63 AND (d.require, d.suffice) <> (r.require, r.suffice);
        UPDATE @extschema@.job t SET dependencies = e.n
        FROM (SELECT count(*)::int AS n FROM @extschema@.job_dependency d WHERE d.downstream = job_repair_job.id AND d.require <> 63) e
        WHERE t.id = job_repair_job.id AND t.dependencies <> e.n;
        IF waits THEN
            PERFORM @extschema@.job_count_again(id);
        END IF;
    WHEN 'S3' THEN
        DELETE FROM @extschema@.job_attempt a WHERE a.job_id = id AND j.id IS NULL;
        UPDATE @extschema@.job_attempt a SET started_at = least(a.started_at, a.ended_at), outcome = CASE WHEN a.outcome BETWEEN 0 AND 6 THEN a.outcome ELSE 4 END
        WHERE a.job_id = id AND (a.ended_at < a.started_at OR a.outcome NOT BETWEEN 0 AND 6);
        -- numbers below the first become those that are free
        UPDATE @extschema@.job_attempt a SET attempt = f.attempt
        FROM (SELECT b.attempt, row_number() OVER (ORDER BY b.attempt) AS k FROM @extschema@.job_attempt b WHERE b.job_id = job_repair_job.id AND b.attempt < 1) b
            JOIN (SELECT i AS attempt, row_number() OVER (ORDER BY i) AS k
                FROM generate_series(1, (SELECT count(*)::int FROM @extschema@.job_attempt c WHERE c.job_id = job_repair_job.id)) i
                WHERE NOT EXISTS (SELECT FROM @extschema@.job_attempt c WHERE c.job_id = job_repair_job.id AND c.attempt = i)) f USING (k)
        WHERE a.job_id = job_repair_job.id AND a.attempt = b.attempt;
        latest := coalesce((SELECT max(a.attempt) FROM @extschema@.job_attempt a WHERE a.job_id = job_repair_job.id), 0);
        n := latest + CASE WHEN runs OR j.attempt_outcome IS NOT NULL THEN 1 ELSE 0 END;
        UPDATE @extschema@.job t SET attempt = n WHERE t.id = job_repair_job.id AND t.attempt < n;
        UPDATE @extschema@.job_waiting t SET attempt = n WHERE t.job_id = job_repair_job.id AND t.attempt < n;
        UPDATE @extschema@.job_scheduled t SET attempt = n WHERE t.job_id = job_repair_job.id AND t.attempt < n;
        UPDATE @extschema@.job_limited t SET attempt = n WHERE t.job_id = job_repair_job.id AND t.attempt < n;
        UPDATE @extschema@.job_ready t SET attempt = n WHERE t.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(job_repair_job.id))) AND t.attempt < n;
        UPDATE @extschema@.job_lease t SET attempt = n WHERE t.job_id = job_repair_job.id AND t.attempt < n;
        -- what is not known of an attempt counts against no budget
        INSERT INTO @extschema@.job_attempt (job_id, attempt, started_at, ended_at, outcome, error)
        SELECT j.id, i, j.submitted_at, j.submitted_at, 4, 'the record of this attempt was missing'
        FROM (SELECT max(x.attempt) AS attempt FROM (SELECT j.attempt UNION ALL SELECT t.attempt FROM @extschema@.job_waiting t WHERE t.job_id = job_repair_job.id
            UNION ALL SELECT t.attempt FROM @extschema@.job_scheduled t WHERE t.job_id = job_repair_job.id
            UNION ALL SELECT t.attempt FROM @extschema@.job_limited t WHERE t.job_id = job_repair_job.id
            UNION ALL SELECT t.attempt FROM @extschema@.job_ready t WHERE t.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(job_repair_job.id)))
            UNION ALL SELECT t.attempt FROM @extschema@.job_lease t WHERE t.job_id = job_repair_job.id) x) s,
            generate_series(1, s.attempt - CASE WHEN runs OR j.attempt_outcome IS NOT NULL THEN 1 ELSE 0 END) i
        WHERE j.id IS NOT NULL
        ON CONFLICT DO NOTHING;
    WHEN 'S4' THEN
        UPDATE @extschema@.job_waiting t SET failed = n_failed, lost = n_lost WHERE t.job_id = job_repair_job.id;
        UPDATE @extschema@.job_scheduled t SET failed = n_failed, lost = n_lost WHERE t.job_id = job_repair_job.id;
        UPDATE @extschema@.job_limited t SET failed = n_failed, lost = n_lost WHERE t.job_id = job_repair_job.id;
        UPDATE @extschema@.job_ready t SET failed = n_failed, lost = n_lost WHERE t.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(job_repair_job.id)));
        UPDATE @extschema@.job_lease t SET failed = n_failed, lost = n_lost WHERE t.job_id = job_repair_job.id;
    WHEN 'S5' THEN
        IF j.outcome IS NULL THEN
            UPDATE @extschema@.job t SET finished_at = NULL, decided_by = NULL, attempt_outcome = NULL, token = NULL, started_at = NULL, worker = NULL, result = NULL, attempt = NULL,
                failed = NULL, lost = NULL
            WHERE t.id = job_repair_job.id;
        ELSE
            -- a result of one that did not succeed is left for somebody to look at
            UPDATE @extschema@.job t SET finished_at = greatest(t.finished_at, t.started_at, t.submitted_at),
                attempt = coalesce(t.attempt, latest + CASE WHEN t.attempt_outcome IS NULL THEN 0 ELSE 1 END),
                failed = coalesce(t.failed, n_failed), lost = coalesce(t.lost, n_lost),
                started_at = CASE WHEN t.attempt_outcome IS NOT NULL THEN coalesce(t.started_at, t.submitted_at) END,
                token = CASE WHEN t.attempt_outcome IS NOT NULL THEN coalesce(t.token, 1 + floor(random() * 9e18)::bigint) END
            WHERE t.id = job_repair_job.id;
        END IF;
    WHEN 'S6' THEN
        INSERT INTO @extschema@.job_expiry (expires_at, job_id)
        SELECT t.expires_at, t.job_id
        FROM (SELECT expires_at, job_id FROM @extschema@.job_waiting UNION ALL SELECT expires_at, job_id FROM @extschema@.job_scheduled
              UNION ALL SELECT expires_at, job_id FROM @extschema@.job_limited
              UNION ALL SELECT r.expires_at, r.job_id FROM @extschema@.job_ready r WHERE r.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(job_repair_job.id)))
              UNION ALL SELECT expires_at, job_id FROM @extschema@.job_flow WHERE open
              UNION ALL SELECT expires_at, job_id FROM @extschema@.job_lease) t
        WHERE t.job_id = job_repair_job.id AND t.expires_at IS NOT NULL
        ON CONFLICT DO NOTHING;
    WHEN 'S7' THEN
        -- a worker whose token was lost has lost the job
        UPDATE @extschema@.job_lease l SET token = CASE WHEN l.token > 0 THEN l.token ELSE 1 + floor(random() * 9e18)::bigint END,
            lease_until = u.lease_until, deadline = least(u.lease_until, l.timeout_at), period = greatest(l.period, 1000000), attempt = greatest(l.attempt, latest + 1)
        FROM (SELECT CASE WHEN o.session IS NOT NULL THEN 'infinity' WHEN isfinite(o.lease_until) THEN o.lease_until ELSE now() END AS lease_until
              FROM @extschema@.job_lease o WHERE o.job_id = job_repair_job.id) u
        WHERE l.job_id = job_repair_job.id;
    WHEN 'S8', 'A1' THEN
        UPDATE @extschema@.job_waiting t SET queue_id = @extschema@.job_queue_id(j.queue), lane = CASE WHEN j.flow_type IS NULL THEN @extschema@.job_lane_id(j.queue, j.requires) ELSE 1 END, priority = j.priority, partition_id = @extschema@.job_queue_id(j.partition), affinity_id = @extschema@.job_queue_id(j.affinity), flow_id = j.flow, limited_by = CASE WHEN t.limited_by IS NOT NULL THEN j.flow END, manual = j.manual
        WHERE t.job_id = job_repair_job.id;
        UPDATE @extschema@.job_scheduled t SET queue_id = @extschema@.job_queue_id(j.queue), lane = CASE WHEN j.flow_type IS NULL THEN @extschema@.job_lane_id(j.queue, j.requires) ELSE 1 END, priority = j.priority, partition_id = @extschema@.job_queue_id(j.partition), affinity_id = @extschema@.job_queue_id(j.affinity), flow_id = j.flow
        WHERE t.job_id = job_repair_job.id;
        UPDATE @extschema@.job_lease t SET queue_id = @extschema@.job_queue_id(j.queue), lane = @extschema@.job_lane_id(j.queue, j.requires), priority = j.priority, partition_id = @extschema@.job_queue_id(j.partition), affinity_id = @extschema@.job_queue_id(j.affinity), flow_id = j.flow
        WHERE t.job_id = job_repair_job.id;
        -- to its place among those that are ready, or behind the gate, of which claims and the gatekeeper are told
        DELETE FROM @extschema@.job_ready t WHERE t.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(job_repair_job.id))) RETURNING t.job_id, t.attempt, t.failed, t.lost INTO state;
        IF state.job_id IS NULL THEN
            DELETE FROM @extschema@.job_limited t WHERE t.job_id = job_repair_job.id RETURNING t.job_id, t.attempt, t.failed, t.lost INTO state;
        END IF;
        IF state.job_id IS NOT NULL THEN
            PERFORM @extschema@.job_enter_again(id, state.attempt, state.failed, state.lost, false);
        END IF;
    WHEN 'S10' THEN
        INSERT INTO @extschema@.job_lane (lane, queue_id, requires) SELECT @extschema@.job_lane_id(j.queue, j.requires), @extschema@.job_queue_id(j.queue), j.requires;
        -- of which others hear
        PERFORM @extschema@.job_queue_set(j.queue);
    WHEN 'D1' THEN
        PERFORM @extschema@.job_count_again(id);
    WHEN 'D4' THEN
        -- one that is not open was held, or is manual
        UPDATE @extschema@.job_waiting w SET rule = j.rule, quorum = j.quorum, held = w.held OR NOT (w.open OR j.manual OR w.limited_by IS NOT NULL) WHERE w.job_id = job_repair_job.id;
        PERFORM @extschema@.job_count_again(id);
    WHEN 'D5' THEN
        DELETE FROM @extschema@.job_delta d
        WHERE d.downstream = id
            AND (j.id IS NULL OR (d.undecided >= 0 AND d.epoch <> 0) OR d.epoch > (SELECT w.epoch FROM @extschema@.job_waiting w WHERE w.job_id = job_repair_job.id));
        DELETE FROM @extschema@.job_recount r WHERE r.job_id = job_repair_job.id AND j.id IS NULL;
        DELETE FROM @extschema@.job_cancel_request c WHERE c.job_id = job_repair_job.id AND j.id IS NULL;
        IF waits THEN
            PERFORM @extschema@.job_count_again(id);
        END IF;
    WHEN 'G2' THEN
        DELETE FROM @extschema@.job_turn t WHERE t.job_id = id AND j.id IS NULL;
    WHEN 'L1' THEN
        DELETE FROM @extschema@.job_log g WHERE g.job_id = job_repair_job.id AND j.id IS NULL;
    WHEN 'L2' THEN
        DELETE FROM @extschema@.job_step p WHERE p.job_id = job_repair_job.id AND j.id IS NULL;
    WHEN 'U2' THEN
        DELETE FROM @extschema@.job_unique u
        WHERE u.ctid = ANY (ARRAY (SELECT @extschema@.job_unique_row(job_repair_job.id))) AND j.outcome IS NOT NULL AND j.unique_for IS NULL;
        UPDATE @extschema@.job_unique u SET until = CASE WHEN j.outcome IS NOT NULL THEN j.submitted_at + j.unique_for * interval '1 microsecond' END
        WHERE u.ctid = ANY (ARRAY (SELECT @extschema@.job_unique_row(job_repair_job.id)));
        -- its own key, if nobody has it
        INSERT INTO @extschema@.job_unique (queue_id, unique_key, job_id)
        SELECT @extschema@.job_queue_id(j.queue), j.unique_key, j.id WHERE j.outcome IS NULL AND j.unique_key IS NOT NULL
        ON CONFLICT DO NOTHING;
    WHEN 'W6' THEN
        UPDATE @extschema@.job_flow f SET settled = false, running = x.n - coalesce((SELECT sum(d.running) FROM @extschema@.job_delta d WHERE d.downstream = id AND d.epoch = 0), 0)
        FROM (SELECT (SELECT count(*) FROM @extschema@.job_scheduled c WHERE c.flow_id = job_repair_job.id AND c.slot IS NOT NULL)
                  + (SELECT count(*) FROM @extschema@.job_limited g WHERE g.flow_id = job_repair_job.id AND g.slot IS NOT NULL)
                  + (SELECT count(*) FROM @extschema@.job_ready r WHERE r.flow_id = job_repair_job.id AND r.slot IS NOT NULL)
                  + (SELECT count(*) FROM @extschema@.job_lease l WHERE l.flow_id = job_repair_job.id AND l.slot IS NOT NULL)
                  + (SELECT count(*) FROM @extschema@.job_flow o WHERE o.flow_id = job_repair_job.id AND o.slot IS NOT NULL AND o.open) AS n) x
        WHERE f.job_id = job_repair_job.id;
        INSERT INTO @extschema@.job_delta VALUES (nextval('@extschema@.job_id_seq'), id, 0, 0, 0, 0, 0, 0, 0, 0);
    WHEN 'W7' THEN
        INSERT INTO @extschema@.job_delta VALUES (nextval('@extschema@.job_id_seq'), id, 0, 0, 0, 0, 0, 0, 0, 0);
    WHEN 'W1' THEN
        -- counted anew; a delta of nothing has the background worker look whether that ends it
        DELETE FROM @extschema@.job_delta d WHERE d.downstream = id AND d.epoch = 0;
        UPDATE @extschema@.job_flow f SET undecided = m.undecided, pending = m.undecided, hits = m.hits, violated = m.violated, hurt = m.hurt
        FROM (SELECT count(*) FILTER (WHERE o.outcome IS NULL) AS undecided, count(*) FILTER (WHERE o.outcome = 1) AS hits,
                  count(*) FILTER (WHERE o.outcome IN (2, 16) AND o.critical IS NULL) AS violated, count(*) FILTER (WHERE o.outcome IN (2, 8, 16)) AS hurt
              FROM @extschema@.job o WHERE o.flow = job_repair_job.id) m
        WHERE f.job_id = job_repair_job.id;
        INSERT INTO @extschema@.job_delta VALUES (nextval('@extschema@.job_id_seq'), id, 0, 0, 0, 0, 0, 0, 0, 0);
    WHEN 'W4' THEN
        -- it goes on, as a job of no flow
        UPDATE @extschema@.job t SET former_flow = NULL WHERE t.id = job_repair_job.id;
    ELSE
        NULL;
    END CASE;
END $$;
COMMENT ON FUNCTION @extschema@.job_repair_job(bigint, text) IS 'Internal, for job_check: repairs what breaks an invariant, of a job whose rows are locked';
REVOKE ALL ON FUNCTION @extschema@.job_repair_job(bigint, text) FROM PUBLIC;

-- Looks at everything under one snapshot; then, job by job in ascending order, waits for its rows, looks again, and repairs what is still so.
CREATE FUNCTION @extschema@.job_repair() RETURNS TABLE (invariant text, job_id bigint, problem text, repaired boolean)
LANGUAGE plpgsql VOLATILE PARALLEL UNSAFE SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    ids bigint[];
    x bigint;
    t text;
    p record;
    place record;
    seen jsonb;
    problems jsonb;
    before jsonb;
BEGIN
    ids := ARRAY(SELECT DISTINCT job_id FROM @extschema@.job_all_problems() WHERE job_id IS NOT NULL);
    -- what is not of one job: the sequence, positions that several have
    FOR invariant, job_id, problem IN SELECT * FROM @extschema@.job_sequence_problems() LOOP
        -- a number out of any reach is damage, and after it there would be no ids
        repaired := job_id < 1::bigint << 62;
        IF repaired THEN
            PERFORM setval('@extschema@.job_id_seq', greatest(nextval('@extschema@.job_id_seq'), job_id));
        END IF;
        RETURN NEXT;
    END LOOP;
    FOR p IN SELECT s.first, s.n, array_agg(r.job_id ORDER BY r.job_id) AS others
        FROM (SELECT r.lane, r.position, min(r.job_id) AS first, count(*) AS n FROM @extschema@.job_ready r GROUP BY 1, 2 HAVING count(*) > 1) s
            JOIN @extschema@.job_ready r ON r.lane = s.lane AND r.position = s.position AND r.job_id <> s.first
        GROUP BY s.lane, s.position, s.first, s.n
    LOOP
        invariant := 'S8'; job_id := p.first; problem := format('%s jobs are ready at one position', p.n); repaired := true;
        FOREACH x IN ARRAY p.others LOOP
            PERFORM FROM @extschema@.job_ready r WHERE r.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(x))) FOR UPDATE;
            PERFORM FROM @extschema@.job j WHERE j.id = x FOR NO KEY UPDATE;
            PERFORM @extschema@.job_repair_job(x, 'S8');
        END LOOP;
        RETURN NEXT;
    END LOOP;
    FOR p IN SELECT * FROM @extschema@.job_queue q WHERE q.queue_id <> @extschema@.job_queue_id(q.name) LOOP
        invariant := 'S8'; job_id := NULL; problem := format('queue "%s" has another number than its name gives', p.name); repaired := true;
        UPDATE @extschema@.job_queue q SET queue_id = @extschema@.job_queue_id(q.name) WHERE q.name = p.name;
        PERFORM @extschema@.job_queue_set(p.name, paused => p.paused);
        RETURN NEXT;
    END LOOP;
    FOR p IN SELECT * FROM @extschema@.job_partition t WHERE (t.queue_id, t.partition_id) <> (@extschema@.job_queue_id(t.queue), @extschema@.job_queue_id(t.partition)) LOOP
        invariant := 'S8'; job_id := NULL; problem := format('partition "%s" of queue "%s" has another number than its name gives', p.partition, p.queue); repaired := true;
        DELETE FROM @extschema@.job_partition t WHERE (t.queue_id, t.partition_id) = (p.queue_id, p.partition_id);
        PERFORM @extschema@.job_partition_set(p.queue, p.partition, p.paused, p.weight, p.max_running);
        RETURN NEXT;
    END LOOP;
    -- schedules: times that were missed meanwhile have no jobs
    FOR t IN SELECT DISTINCT s.name FROM @extschema@.job_schedule_problems() s ORDER BY 1 LOOP
        PERFORM FROM @extschema@.job_schedule s WHERE s.name = t FOR UPDATE;
        FOR p IN SELECT * FROM @extschema@.job_schedule_problems(t) s ORDER BY 1, 3 LOOP
            IF p.invariant = 'T1' THEN
                UPDATE @extschema@.job_schedule s
                SET next_at = CASE WHEN NOT s.paused THEN @extschema@.job_schedule_next(s.schedule, s.timezone, greatest(s.last_at, clock_timestamp())) END
                WHERE s.name = t;
            ELSE
                UPDATE @extschema@.job_schedule s SET last_at = NULL, last_job = NULL WHERE s.name = t;
            END IF;
            invariant := p.invariant; job_id := NULL; problem := p.problem; repaired := true;
            RETURN NEXT;
        END LOOP;
    END LOOP;

    -- job by job, with the rows that no index finds by job: they are looked for once
    FOR place IN SELECT i.id, r.lane, r.priority, u.queue_id, u.unique_key
        FROM unnest(ids) i (id) LEFT JOIN @extschema@.job_ready r ON r.job_id = i.id AND r.position = i.id LEFT JOIN @extschema@.job_unique u ON u.job_id = i.id
        ORDER BY 1
    LOOP
        x := place.id;
        -- with a position of its own it is found, and repaired below
        UPDATE @extschema@.job_ready r SET position = nextval('@extschema@.job_id_seq')
        WHERE (r.lane, r.priority, r.position, r.job_id) = (place.lane, place.priority, x, x)
            AND NOT EXISTS (SELECT FROM @extschema@.job j WHERE j.id = x AND @extschema@.job_lane_id(j.queue, j.requires) = r.lane AND j.priority = r.priority);
        PERFORM FROM @extschema@.job_lease t WHERE t.job_id = x FOR UPDATE;
        PERFORM FROM @extschema@.job_flow t WHERE t.job_id = x FOR UPDATE;
        PERFORM FROM @extschema@.job_waiting t WHERE t.job_id = x FOR UPDATE;
        PERFORM FROM @extschema@.job_scheduled t WHERE t.job_id = x FOR UPDATE;
        PERFORM FROM @extschema@.job_limited t WHERE t.job_id = x FOR UPDATE;
        PERFORM FROM @extschema@.job_ready r WHERE r.ctid = ANY (ARRAY (SELECT @extschema@.job_ready_row(x))) FOR UPDATE;
        PERFORM FROM @extschema@.job j WHERE j.id = x FOR NO KEY UPDATE;
        seen := '{}';
        -- a key that is not its own
        DELETE FROM @extschema@.job_unique u
        WHERE (u.unique_key, u.queue_id, u.job_id) = (place.unique_key, place.queue_id, x)
            AND u.ctid <> ALL (ARRAY (SELECT @extschema@.job_unique_row(x)))
            AND (u.until IS NULL OR EXISTS (SELECT FROM @extschema@.job j WHERE j.id = x));
        IF FOUND THEN
            seen := jsonb_build_object(format('it has a unique key, "%s", that is not its own, or not as long as it says', place.unique_key), 'U2');
            PERFORM @extschema@.job_repair_job(x, 'U2');
        END IF;
        -- a repair can show what was hidden by what it repairs, such as the counters of a job that was in no state
        problems := NULL;
        FOR i IN 0 .. 4 LOOP
            before := problems;
            problems := '{}';
            FOR p IN SELECT * FROM @extschema@.job_problems_of(x) LOOP
                problems := problems || jsonb_build_object(p.problem, p.invariant);
                IF i < 4 THEN
                    PERFORM @extschema@.job_repair_job(x, p.invariant);
                END IF;
            END LOOP;
            seen := problems || seen;
            EXIT WHEN problems = '{}' OR problems = before;
        END LOOP;
        FOR p IN SELECT s.key, s.value FROM jsonb_each_text(seen) s ORDER BY 2, 1 LOOP
            invariant := p.value; job_id := x; problem := p.key; repaired := NOT problems ? p.key;
            RETURN NEXT;
        END LOOP;
    END LOOP;
END $$;
COMMENT ON FUNCTION @extschema@.job_repair() IS 'Internal, for job_check: finds what breaks an invariant and repairs what can be repaired';
REVOKE ALL ON FUNCTION @extschema@.job_repair() FROM PUBLIC;

CREATE FUNCTION @extschema@.job_check(repair boolean DEFAULT false) RETURNS TABLE (invariant text, job_id bigint, problem text, repaired boolean)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_check';
COMMENT ON FUNCTION @extschema@.job_check(boolean) IS
    'Whether the tables are sound: a row for each violation of an invariant of docs/DESIGN.md; none means that they are. repair: repair what can be, with the rows locked. 42501 without operate on all queues, 25000 for a repair outside of READ COMMITTED.';
REVOKE ALL ON FUNCTION @extschema@.job_check(boolean) FROM PUBLIC;

--
-- Logs
--

CREATE FUNCTION @extschema@.job_step(job_id bigint, token bigint, name text, result jsonb DEFAULT NULL) RETURNS jsonb
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_step';
COMMENT ON FUNCTION @extschema@.job_step(bigint, bigint, text, jsonb) IS
    'Records a step of a job once, and returns what is recorded; NULL: nothing is, and result was not given. JQ001 for a stale token, JQ002, 22004 or 22023 for a bad value, 54000 for a too large one, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_step(bigint, bigint, text, jsonb) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_steps(job_id bigint, token bigint) RETURNS TABLE (name text, result jsonb, at timestamptz)
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_steps';
COMMENT ON FUNCTION @extschema@.job_steps(bigint, bigint) IS 'The steps of a job that are recorded, by name. SQLSTATEs are job_step''s.';
REVOKE ALL ON FUNCTION @extschema@.job_steps(bigint, bigint) FROM PUBLIC;

CREATE FUNCTION @extschema@.job_log(job_id bigint, token bigint, message text, level text DEFAULT 'info', data jsonb DEFAULT NULL) RETURNS void
LANGUAGE C VOLATILE PARALLEL UNSAFE
AS 'MODULE_PATHNAME', 'jobq_job_log';
COMMENT ON FUNCTION @extschema@.job_log(bigint, bigint, text, text, jsonb) IS
    'Adds a line to the log of a running attempt; of one with jobq.max_log_lines lines, a last one says that more are dropped. JQ001 for a stale token, JQ002, 22004 or 22023 for a bad value, 54000 for data over jobq.max_result_size, 42501.';
REVOKE ALL ON FUNCTION @extschema@.job_log(bigint, bigint, text, text, jsonb) FROM PUBLIC;

CREATE VIEW @extschema@.job_logs WITH (security_barrier) AS
SELECT g.job_id, g.attempt, g.at, CASE g.level WHEN 0 THEN 'debug' WHEN 1 THEN 'info' WHEN 2 THEN 'warning' WHEN 3 THEN 'error' END AS level, g.message, g.data
FROM @extschema@.job_log g
    JOIN @extschema@.job j ON j.id = g.job_id
    LEFT JOIN @extschema@.job_lease l ON l.job_id = j.id
WHERE @extschema@.job_visible(j.queue, j.submitted_by, l.holder);
COMMENT ON VIEW @extschema@.job_logs IS 'One row for each line that workers told of attempts at the jobs which the caller may see';
COMMENT ON COLUMN @extschema@.job_logs.job_id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_logs.attempt IS 'Which attempt';
COMMENT ON COLUMN @extschema@.job_logs.at IS 'When it was told; lines that are told one after the other have ascending times';
COMMENT ON COLUMN @extschema@.job_logs.level IS 'debug, info, warning or error';
COMMENT ON COLUMN @extschema@.job_logs.message IS 'Cut at jobq.max_error_size';
COMMENT ON COLUMN @extschema@.job_logs.data IS 'What job_log was given';
REVOKE ALL ON @extschema@.job_logs FROM PUBLIC;
