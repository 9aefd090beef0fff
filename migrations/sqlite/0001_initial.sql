-- Times are milliseconds since the epoch. Field names follow River.
-- The CHECKs of jobs say OR, not IN: with IN, SQLite builds a small table for each statement and probes it for each row,
-- which made a claim twice as dear.

CREATE TABLE jobs (
    id                INTEGER PRIMARY KEY AUTOINCREMENT, -- never used twice, even after a prune
    kind              TEXT    NOT NULL CHECK (length(kind) BETWEEN 1 AND 128),
    queue             TEXT    NOT NULL CHECK (length(queue) BETWEEN 1 AND 128),
    state             TEXT    NOT NULL CHECK (state = 'available' OR state = 'running' OR state = 'completed' OR
                          state = 'scheduled' OR state = 'retryable' OR state = 'parked' OR state = 'cancelled'),
    priority          INTEGER NOT NULL DEFAULT 0 CHECK (priority BETWEEN -20 AND 19), -- like nice: lower runs first
    args              TEXT    NOT NULL CHECK (json_valid(args)),
    attempt           INTEGER NOT NULL DEFAULT 0 CHECK (attempt >= 0), -- charged deliveries, the running one included
    max_attempts      INTEGER NOT NULL CHECK (max_attempts >= 1),      -- budget of failures
    interruptions     INTEGER NOT NULL DEFAULT 0 CHECK (interruptions BETWEEN 0 AND attempt),
    max_interruptions INTEGER NOT NULL CHECK (max_interruptions >= 1), -- budget of attempts whose worker died
    timeout_ms        INTEGER CHECK (timeout_ms > 0),                  -- NULL: no limit
    created_at        INTEGER NOT NULL,
    scheduled_at      INTEGER NOT NULL,
    attempted_at      INTEGER,
    finalized_at      INTEGER,
    lease             INTEGER, -- token of the last claim; every write about a running job must name it
    park_reason       TEXT,    -- 'kind:NAME', 'breaker:NAME', …
    unique_key        TEXT CHECK (length(unique_key) BETWEEN 1 AND 256),
    tags              TEXT CHECK (tags IS NULL OR json_valid(tags)),   -- array of strings
    errors            TEXT CHECK (errors IS NULL OR json_valid(errors)), -- array, one object an attempt that went wrong
    result            TEXT CHECK (result IS NULL OR json_valid(result)),
    CHECK ((state = 'parked') = (park_reason IS NOT NULL)),
    CHECK ((state = 'completed' OR state = 'cancelled') = (finalized_at IS NOT NULL)),
    CHECK (state <> 'running' OR (lease IS NOT NULL AND attempted_at IS NOT NULL AND attempt >= 1)),
    CHECK (attempt - interruptions <= max_attempts),
    CHECK (interruptions <= max_interruptions),
    -- A job that waits has budget left, so that no claim can fail for one.
    CHECK ((attempt - interruptions < max_attempts AND interruptions < max_interruptions)
           OR state = 'running' OR finalized_at IS NOT NULL)
) STRICT;

CREATE INDEX jobs_available ON jobs (queue, priority, id) WHERE state = 'available';
-- State and queue stand at the end of these two so that counting never touches the table.
CREATE INDEX jobs_due ON jobs (scheduled_at, state, queue) WHERE state IN ('scheduled', 'retryable');
CREATE INDEX jobs_finalized ON jobs (finalized_at, state, queue) WHERE finalized_at IS NOT NULL;
CREATE INDEX jobs_running ON jobs (lease) WHERE state = 'running';
CREATE INDEX jobs_parked ON jobs (park_reason, priority, id) WHERE state = 'parked';
CREATE UNIQUE INDEX jobs_unique ON jobs (kind, unique_key) WHERE unique_key IS NOT NULL AND finalized_at IS NULL;

CREATE TABLE dead_letters (
    id                INTEGER PRIMARY KEY, -- the job's id: it keeps it through replays
    kind              TEXT    NOT NULL,
    queue             TEXT    NOT NULL,
    priority          INTEGER NOT NULL,
    args              TEXT    NOT NULL CHECK (json_valid(args)), -- as first enqueued; never overwritten
    last_args         TEXT    NOT NULL CHECK (json_valid(last_args)), -- as last run, edits of replays included
    attempt           INTEGER NOT NULL,
    max_attempts      INTEGER NOT NULL,
    interruptions     INTEGER NOT NULL,
    max_interruptions INTEGER NOT NULL,
    timeout_ms        INTEGER,
    created_at        INTEGER NOT NULL,
    attempted_at      INTEGER,
    died_at           INTEGER NOT NULL,
    deaths            INTEGER NOT NULL DEFAULT 1 CHECK (deaths >= 1),
    reason            TEXT    NOT NULL CHECK (reason IN ('permanent', 'attempts', 'interruptions', 'shed')),
    fingerprint       TEXT    NOT NULL,
    unique_key        TEXT,
    tags              TEXT CHECK (tags IS NULL OR json_valid(tags)),
    errors            TEXT    NOT NULL CHECK (json_valid(errors)), -- of all its lives
    history           TEXT    NOT NULL DEFAULT '[]' CHECK (json_valid(history)), -- replays, edits, discards: who and when
    resolution        TEXT CHECK (resolution IN ('replayed', 'discarded')), -- NULL: waits for a decision
    resolved_at       INTEGER,
    CHECK ((resolution IS NULL) = (resolved_at IS NULL))
) STRICT;

CREATE INDEX dead_letters_died ON dead_letters (died_at, id);
CREATE INDEX dead_letters_open ON dead_letters (died_at, id) WHERE resolution IS NULL;
CREATE INDEX dead_letters_fingerprint ON dead_letters (fingerprint, died_at, id) WHERE resolution IS NULL;
CREATE INDEX dead_letters_resolved ON dead_letters (resolved_at) WHERE resolution IS NOT NULL;

CREATE TABLE queues (
    name      TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
    paused_at INTEGER,
    paused_by TEXT,
    CHECK ((paused_at IS NULL) = (paused_by IS NULL))
) STRICT, WITHOUT ROWID;

-- What the handlers loaded last declare, so that arguments can be checked when no daemon runs.
CREATE TABLE kinds (
    name      TEXT PRIMARY KEY,
    spec      TEXT    NOT NULL CHECK (json_valid(spec)),
    loaded_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row a start of the daemon. A row without stopped_at is a run that ended uncleanly, or the present one.
CREATE TABLE runs (
    id         INTEGER PRIMARY KEY AUTOINCREMENT, -- seeds the leases: they never repeat across runs
    pid        INTEGER NOT NULL,
    boot_id    TEXT    NOT NULL,
    started_at INTEGER NOT NULL,
    stopped_at INTEGER
) STRICT;
