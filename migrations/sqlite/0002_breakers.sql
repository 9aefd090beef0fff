-- Circuit breakers outlast a restart, a queue has a name of its own, and a long line of parked jobs costs nothing.

CREATE TABLE breakers (
    name       TEXT PRIMARY KEY CHECK (length(name) BETWEEN 1 AND 128),
    state      TEXT    NOT NULL CHECK (state IN ('closed', 'open', 'half_open')),
    changed_at INTEGER NOT NULL,
    changed_by TEXT    NOT NULL DEFAULT '', -- '': by itself
    reason     TEXT    NOT NULL,
    until      INTEGER,                     -- end of the break; NULL while open: until somebody closes it
    break_ms   INTEGER NOT NULL CHECK (break_ms >= 0)
) STRICT, WITHOUT ROWID;

CREATE TABLE breaker_events (
    id     INTEGER PRIMARY KEY,
    name   TEXT    NOT NULL,
    at     INTEGER NOT NULL,
    was    TEXT    NOT NULL,
    now    TEXT    NOT NULL,
    reason TEXT    NOT NULL,
    who    TEXT    NOT NULL DEFAULT ''
) STRICT;

CREATE INDEX breaker_events_name ON breaker_events (name, id);

-- Queue before priority: a probe is looked for in the queues that are not paused, without reading past the jobs of the
-- others. State stands at the end so that looking and counting never touch the table.
DROP INDEX jobs_parked;
CREATE INDEX jobs_parked ON jobs (park_reason, queue, priority, id, state) WHERE state = 'parked';

-- Marks of `ctx.once` in a database that several queues share begin with this.
CREATE TABLE identity (
    store_id TEXT NOT NULL CHECK (length(store_id) = 32)
) STRICT;

INSERT INTO identity (store_id) VALUES (lower(hex(randomblob(16))));
