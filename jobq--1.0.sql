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
    stripes       smallint NOT NULL,
    open          boolean NOT NULL,
    held          boolean NOT NULL,
    PRIMARY KEY (job_id)
) WITH (fillfactor = 70);
COMMENT ON TABLE @extschema@.job_waiting IS
    'Jobs that wait for dependencies (open) or for job_unhold (held), with how far their dependencies are, less what the stripes say';

-- A low fillfactor, so that taking from a stripe stays within its page also while an old snapshot is held.
CREATE TABLE @extschema@.job_stripe (
    job_id        bigint NOT NULL,
    stripe        smallint NOT NULL,
    size          int NOT NULL,
    remaining     int NOT NULL,
    PRIMARY KEY (job_id, stripe)
) WITH (fillfactor = 10);
COMMENT ON TABLE @extschema@.job_stripe IS
    'Shares of the undecided parents of jobs that wait for many: of size, remaining are still undecided';

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
-- What is deleted here must be deleted on a subscriber too, or jobs would be run again there.
ALTER TABLE @extschema@.job_ready REPLICA IDENTITY FULL;
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

REVOKE ALL ON @extschema@.job_id_seq, @extschema@.job, @extschema@.job_dependency, @extschema@.job_waiting, @extschema@.job_stripe,
    @extschema@.job_scheduled, @extschema@.job_ready, @extschema@.job_lease, @extschema@.job_expiry, @extschema@.job_attempt, @extschema@.job_queue,
    @extschema@.job_privilege, @extschema@.job_home FROM PUBLIC;

SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_dependency', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_waiting', '');
SELECT pg_catalog.pg_extension_config_dump('@extschema@.job_stripe', '');
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

CREATE FUNCTION @extschema@.job_shared_memory(OUT part text, OUT bytes bigint, OUT entries bigint, OUT used bigint) RETURNS SETOF record
LANGUAGE C VOLATILE PARALLEL SAFE
AS 'MODULE_PATHNAME', 'jobq_job_shared_memory';
COMMENT ON FUNCTION @extschema@.job_shared_memory() IS
    'Internal, for the view job_memory: parts of shared memory, of all databases together';

CREATE VIEW @extschema@.job_memory AS
SELECT part, bytes, entries, used FROM @extschema@.job_shared_memory();
COMMENT ON VIEW @extschema@.job_memory IS
    'A row a part of shared memory, of all databases together: its size, how many entries there are, how many are used';

--
-- Comments.  docs and README say more; these are what \df+ and \d+ show.
--

COMMENT ON FUNCTION @extschema@.job_submit(text, jsonb, text, int, timestamptz, bigint[], text, int, int, int, interval, interval, interval, timestamptz, bigint, jsonb, boolean) IS
    'Submits a job and returns its id. kind (1 to 128 bytes, no control characters) says what to run, args (an object) with what; queue (1 to 50 of A-Z, a-z, 0-9, "_", ".", "-") is made on first use. priority: -32768 to 32767, higher first. run_at: not before this time. depends_on: ids of existing jobs in any state, each once; trigger_rule: what must become of them, by default all_success; quorum: how many must succeed, with trigger_rule quorum only. max_attempts: failures and timeouts, the last of which fails the job; max_lost: the same for lost leases. backoff: first delay after a failure or loss, doubled each time. timeout: of one attempt. lease: how long a worker may be silent. NULL for one of these five means the setting of the queue, else of jobq.max_attempts, jobq.max_lost, jobq.backoff, jobq.timeout, jobq.lease. expires_at: cancelled if no attempt was begun by then. parent: the job on whose behalf it is submitted, only recorded. tags: any JSON, only recorded. notify: send the final state on channel job_<id>. Errors: 22023 or 22003 for a value out of its range, 22004 for NULL where a value is needed, JQ002 if a job named does not exist or may not be seen. Locks the rows of the parents that have not succeeded FOR SHARE to the end of the transaction; whoever ends one of them waits for it. Needs the privilege submit on the queue and sight of all jobs named.';

COMMENT ON FUNCTION @extschema@.job_submit_many(jsonb) IS
    'Submits all jobs of a JSON array or none and returns their ids in the order of the array. Each element is an object whose keys are the arguments of job_submit (times and intervals as strings; null is the same as leaving the key out), and "name"; depends_on may hold ids and names of other elements, which may stand in any order. Errors are those of job_submit, and 22023 for an unknown key, a name that no or two elements have, and a cycle, whose members are named; the context says which element. Locks and privileges are those of job_submit for each element; parents are locked in ascending order of ids.';

COMMENT ON FUNCTION @extschema@.job_claim(text, text, int, interval) IS
    'Takes up to max_jobs (default 1) ready jobs of a queue, by priority, then in the order in which they became ready, and returns an assignment for each; none if there are none or the queue is paused. worker: a name for the views (1 to 128 bytes), default none. lease: how long the worker may be silent, default the setting of the job, else the queue, else jobq.lease. Until it is committed nobody else sees the claim, and nobody else can claim the same jobs; if it is rolled back it never was. Errors: 22023 for a max_jobs or lease that is not greater than zero or a bad name, 22004 for a NULL queue; the transaction cannot be prepared afterwards (0A000). Waits for no lock: rows that others have locked are passed over. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_claim(text[], text, int, interval) IS
    'The same as job_claim(text, text, int, interval) over several queues at once: by priority, then in the order in which the jobs became ready, whatever queue they are in. Paused queues give nothing. 22004 or 2202E for an array that is NULL, holds NULLs or has more than one dimension. Needs the privilege work on every one of the queues.';

COMMENT ON PROCEDURE @extschema@.job_claim_wait(text, text, interval, interval, bigint, bigint, int, text, jsonb, jsonb, text, timestamptz) IS
    'Waits until a job of the queue can be claimed, claims it and returns the assignment in the arguments that follow lease; job_id is NULL when timeout (0: look once; NULL: no limit) is over first. worker and lease are those of job_claim; the values passed for the arguments after them are ignored. It commits before it waits, holds neither snapshot nor transaction id while it sleeps, and therefore cannot be called inside a transaction block or a function (25001). Other errors are those of job_claim, and 22023 for a negative timeout. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_heartbeat(bigint, bigint, interval, jsonb) IS
    'Says that the worker of a job is alive: its lease now ends at the earliest one lease period, or extend if given, from now. Returns false if cancellation was asked for, else true. progress: any JSON, shown in job_status while the job runs. Takes effect at once, whatever becomes of the transaction, and writes nothing, unless extend is longer than the period, progress is given, or shared memory has no entry for the lease. Errors: JQ001 if the token is stale, JQ002 if there is no such job, 22023 for an extend that is not greater than zero. Locks nothing, or the lease where it is written. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_complete(bigint, bigint, jsonb) IS
    'Ends a running job as succeeded, with a result of at most jobq.max_result_size (default NULL: none), and in the same transaction decides or makes ready what depends on it. Repeating the call that decided the job does nothing. It counts even if cancellation was asked for. Errors: JQ001 if the token is stale (nothing is changed), JQ002 if there is no such job, 54000 if the result is too large. Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, in ascending order of ids; waits for whoever submits a job that depends on it. Several such calls in one transaction can end in a deadlock (40P01) with others: repeat the transaction. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_complete_many(bigint[], bigint[], jsonb[]) IS
    'Completes several jobs as job_complete does, in one pass over all that depends on them. Returns a row a job in the order of the arguments; accepted is false, and the rest is done nevertheless, where the token is stale or there is no such job. results: NULL for none at all, or an array with NULLs for none each. Errors: 2202E if the arrays differ in length or have more than one dimension, 22004 if job_ids or tokens is or contains NULL, 22023 if a job is named twice, 54000 if a result is too large. Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, as job_complete does. Needs the privilege work on the queue of each job.';

COMMENT ON FUNCTION @extschema@.job_fail(bigint, bigint, text, boolean, interval) IS
    'Ends the attempt of a running job as failed and returns the state that the job is in now: ready or scheduled if it is tried again, failed if that was the last of max_attempts or retry is false (default true), cancelled if cancellation was asked for. error: recorded with the attempt, default none. retry_in: delay before the next attempt, 0 for none, default the backoff. Only a decided job has an effect on those that depend on it. Errors: JQ001 if the token is stale (nothing is changed), JQ002 if there is no such job, 22023 for a negative retry_in. Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, as job_complete does. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_fail_many(bigint[], bigint[], text[], boolean, interval) IS
    'Fails the attempts of several jobs as job_fail does, with the same retry and retry_in for all. Returns a row a job in the order of the arguments; accepted is false, and state NULL, where the token is stale or there is no such job. errors: NULL for none at all, or an array with NULLs for none each. Errors: those of job_complete_many for the arrays, 22023 for a negative retry_in. Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, as job_complete does. Needs the privilege work on the queue of each job.';

COMMENT ON FUNCTION @extschema@.job_release(bigint, bigint) IS
    'Gives a running job back: it is ready again at once, behind those of its priority that are ready already, and the attempt counts against no budget. If cancellation was asked for it is decided cancelled instead. Errors: JQ001 if the token is stale, JQ002 if there is no such job. Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, as job_complete does. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_snooze(bigint, bigint, interval) IS
    'Gives a running job back to be run after delay, which must be greater than zero; the attempt counts against no budget. If cancellation was asked for it is decided cancelled instead. Errors: JQ001 if the token is stale, JQ002 if there is no such job, 22023 for the delay, 22004 if it is NULL. Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, as job_complete does. Needs the privilege work on the queue.';

COMMENT ON FUNCTION @extschema@.job_result(bigint) IS
    'The result of a job that succeeded; NULL if it had none or has not succeeded. Error: JQ002 if there is no such job or the caller may not see it. Locks nothing. Needs sight of the job (the privilege read or operate on its queue, being who submitted it, or who runs it), or to run a job that depends on it.';

COMMENT ON PROCEDURE @extschema@.job_wait(bigint, interval, text, jsonb) IS
    'Waits until a job is decided and returns its final state and, if it succeeded, its result; when timeout (0: look once; NULL: no limit) is over first, the state it is in. The values passed for state and result are ignored. It commits before it waits, holds neither snapshot nor transaction id while it sleeps, and therefore cannot be called inside a transaction block or a function (25001). Other errors: JQ002 if there is no such job or the caller may not see it, 22023 for a negative timeout. Locks nothing. Needs sight of the job, as job_result.';

COMMENT ON FUNCTION @extschema@.job_cancel(bigint, text) IS
    'Cancels a job. One that does not run is decided cancelled at once, and what depends on it follows. For one that runs it is a request: the next heartbeat returns false, and whatever ends the attempt other than completion decides the job cancelled. reason is recorded as the job''s error. Returns whether it changed anything: false if the job is decided or the request was made before. Error: JQ002 if there is no such job; the transaction cannot be prepared after a request (0A000). Locks the row of the job, and those of waiting jobs that depend on it, to the end of the transaction, as job_complete does. Needs the privilege operate on the queue.';

COMMENT ON FUNCTION @extschema@.job_retry(bigint) IS
    'Opens a failed or cancelled job again with new budgets and a new key; those that were upstream_failed or skipped because of it are opened too, those that are ready, run or have run are left alone. It is ready at once, or waits, if it never ran, for what it depends on and its run_at. Its expires_at no longer applies. Returns true, or false if the job is undecided. Errors: JQ002 if there is no such job, JQ003 if it succeeded, or was skipped or upstream_failed (retry what it depends on), or if what it depends on can no longer let it run. Locks the rows of the jobs it opens, and those of their parents FOR SHARE, to the end of the transaction. Needs the privilege operate on the queue.';

COMMENT ON FUNCTION @extschema@.job_hold(bigint) IS
    'Keeps a job that is waiting, scheduled or ready from running until job_unhold; it is waiting meanwhile. Returns whether it changed anything: false if it was held already. Errors: JQ002 if there is no such job, JQ003 if it runs or is decided. Locks the row of the job''s state to the end of the transaction. Needs the privilege operate on the queue.';

COMMENT ON FUNCTION @extschema@.job_unhold(bigint) IS
    'Lets a held job go on: it waits for its dependencies or its run_at if they are not there yet, else it is ready, behind those of its priority that are ready already. Returns whether it changed anything: false if it was not held. Errors: JQ002 if there is no such job, JQ003 if it is decided. Locks the row of the job''s state to the end of the transaction. Needs the privilege operate on the queue.';

COMMENT ON FUNCTION @extschema@.job_queue_set(text, boolean, int, int, interval, interval, interval, interval, text) IS
    'Changes settings of a queue, which is made if it does not exist; NULL leaves a setting as it is. paused: nothing is claimed from it. max_attempts, max_lost, backoff, timeout, lease: for its jobs that were submitted without, looked up when they are needed; backoff_cap: the longest delay. notify: what announces ready jobs on channel job_queue_<name>: coalesced (the default, by the background worker), transactional (by each transaction that makes one ready), or off. Errors: 22023 for a number or interval that is not greater than zero and for an unknown notify. Others see the change with the first call after its commit. Locks the queue''s row to the end of the transaction. Needs the privilege operate on the queue.';

COMMENT ON FUNCTION @extschema@.job_grant(regrole, text, text) IS
    'Grants a role a privilege on a queue, or on all with ''*'': submit, work, operate or read. It also grants what EXECUTE, SELECT and USAGE it takes. Granting again does nothing. Errors: 42501 if the caller is not the owner of the extension, 22023 for an unknown privilege or a bad name of a queue, 42704 for an unknown role. Locks table job_privilege in SHARE ROW EXCLUSIVE mode to the end of the transaction.';

COMMENT ON FUNCTION @extschema@.job_revoke(regrole, text, text) IS
    'Takes back what job_grant granted with the same arguments, and the EXECUTE, SELECT and USAGE that the role needs for nothing else in jobq. A grant on ''*'' is not touched by revoking one queue. Errors and locks are those of job_grant.';

COMMENT ON COLUMN @extschema@.job_assignment.job_id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_assignment.token IS 'Random, never 0; every act on this attempt takes it';
COMMENT ON COLUMN @extschema@.job_assignment.attempt IS 'Which attempt of the job this is, from 1 on, whatever became of the others';
COMMENT ON COLUMN @extschema@.job_assignment.kind IS 'What to run';
COMMENT ON COLUMN @extschema@.job_assignment.args IS 'With what: an object';
COMMENT ON COLUMN @extschema@.job_assignment.inputs IS 'Results of the parents that succeeded, by id; NULL if they are larger than jobq.max_inputs_size together: read them with job_result';
COMMENT ON COLUMN @extschema@.job_assignment.key IS 'The same over all attempts, new after job_retry, for making effects idempotent';
COMMENT ON COLUMN @extschema@.job_assignment.lease_until IS 'The job is lost if there is no heartbeat before this time';

COMMENT ON COLUMN @extschema@.job_status.id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_status.queue IS 'Its queue';
COMMENT ON COLUMN @extschema@.job_status.kind IS 'What to run';
COMMENT ON COLUMN @extschema@.job_status.state IS 'waiting, scheduled, ready, running, succeeded, failed, skipped, cancelled or upstream_failed';
COMMENT ON COLUMN @extschema@.job_status.priority IS 'Higher first';
COMMENT ON COLUMN @extschema@.job_status.attempt IS 'Attempts begun';
COMMENT ON COLUMN @extschema@.job_status.lost IS 'Attempts, since the last job_retry, whose lease ran out';
COMMENT ON COLUMN @extschema@.job_status.args IS 'As submitted';
COMMENT ON COLUMN @extschema@.job_status.result IS 'What job_complete was given';
COMMENT ON COLUMN @extschema@.job_status.error IS 'Why it failed or was cancelled: the error of the deciding attempt, or the reason of job_cancel';
COMMENT ON COLUMN @extschema@.job_status.tags IS 'As submitted';
COMMENT ON COLUMN @extschema@.job_status.parent IS 'The job on whose behalf it was submitted';
COMMENT ON COLUMN @extschema@.job_status.worker IS 'Who runs it, or ran the deciding attempt';
COMMENT ON COLUMN @extschema@.job_status.progress IS 'The latest that its worker reported, while it runs';
COMMENT ON COLUMN @extschema@.job_status.cancel_requested IS 'It runs and was asked to stop';
COMMENT ON COLUMN @extschema@.job_status.submitted_by IS 'The role that submitted it';
COMMENT ON COLUMN @extschema@.job_status.submitted_at IS 'When it was submitted';
COMMENT ON COLUMN @extschema@.job_status.run_at IS 'Not before this time: of the next attempt while it is scheduled, else as submitted';
COMMENT ON COLUMN @extschema@.job_status.started_at IS 'When the running, or the deciding, attempt began';
COMMENT ON COLUMN @extschema@.job_status.finished_at IS 'When it was decided; NULL until then';
COMMENT ON COLUMN @extschema@.job_status.lease_until IS 'Until when its worker may be silent, while it runs';

COMMENT ON COLUMN @extschema@.job_attempts.job_id IS 'Id of the job';
COMMENT ON COLUMN @extschema@.job_attempts.attempt IS 'Which attempt, from 1 on';
COMMENT ON COLUMN @extschema@.job_attempts.worker IS 'The name that the claim gave';
COMMENT ON COLUMN @extschema@.job_attempts.started_at IS 'When it was claimed';
COMMENT ON COLUMN @extschema@.job_attempts.ended_at IS 'When it ended';
COMMENT ON COLUMN @extschema@.job_attempts.outcome IS 'succeeded, failed, timed_out, lost, released, snoozed or cancelled';
COMMENT ON COLUMN @extschema@.job_attempts.error IS 'The error that was given, if any';

COMMENT ON COLUMN @extschema@.job_queue_status.queue IS 'Name of the queue';
COMMENT ON COLUMN @extschema@.job_queue_status.paused IS 'Nothing is claimed from it';
COMMENT ON COLUMN @extschema@.job_queue_status.waiting IS 'Jobs that wait for dependencies or are held';
COMMENT ON COLUMN @extschema@.job_queue_status.scheduled IS 'Jobs that wait for the clock';
COMMENT ON COLUMN @extschema@.job_queue_status.ready IS 'Jobs that can be claimed';
COMMENT ON COLUMN @extschema@.job_queue_status.running IS 'Jobs that run';
COMMENT ON COLUMN @extschema@.job_queue_status.oldest_ready IS 'Since when the oldest of the ready jobs has been ready';
COMMENT ON COLUMN @extschema@.job_queue_status.running_workers IS 'How many different names of workers the running jobs have';

COMMENT ON COLUMN @extschema@.job_worker_status.worker IS 'The name that the claims gave; NULL: none';
COMMENT ON COLUMN @extschema@.job_worker_status.running IS 'How many jobs it runs';
COMMENT ON COLUMN @extschema@.job_worker_status.last_seen IS 'When it last claimed a job or sent a heartbeat for one it runs';

COMMENT ON COLUMN @extschema@.job_memory.part IS 'databases that can have a worker, heartbeats of running jobs, lanes (queues whose next jobs are known), waiters (sessions that sleep)';
COMMENT ON COLUMN @extschema@.job_memory.bytes IS 'Its size, whatever is used';
COMMENT ON COLUMN @extschema@.job_memory.entries IS 'How many it has room for: jobq.max_databases, jobq.max_heartbeats, jobq.max_lanes, or all sessions';
COMMENT ON COLUMN @extschema@.job_memory.used IS 'How many are used now';

--
-- Privileges: job_grant gives what a role needs.
--

REVOKE ALL ON @extschema@.job_status, @extschema@.job_attempts, @extschema@.job_queue_status, @extschema@.job_worker_status, @extschema@.job_memory FROM PUBLIC;
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
    @extschema@.job_cause_name(smallint),
    @extschema@.job_shared_memory()
FROM PUBLIC;
GRANT SELECT ON @extschema@.job_memory TO pg_monitor;
GRANT EXECUTE ON FUNCTION @extschema@.job_shared_memory() TO pg_monitor;
