-- What is in the file, and which migrations it got. SQLite only.

-- name: count_tables
SELECT count(*), coalesce(sum(name = 'migrations'), 0) FROM sqlite_schema WHERE type = 'table';

-- name: applied_migrations
SELECT version, sha256 FROM migrations ORDER BY version;

-- name: create_migrations
CREATE TABLE IF NOT EXISTS migrations (
    version    INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL,
    sha256     TEXT    NOT NULL,
    applied_at INTEGER NOT NULL
) STRICT;

-- name: record_migration
INSERT INTO migrations (version, name, sha256, applied_at) VALUES (:version, :name, :sha256, unixepoch() * 1000);
