"""Bounds the write-ahead log."""

from __future__ import annotations

import sqlite3

from perdure.store.log_file import wal_bytes

#: Milliseconds that a statement waits for another program's lock on the file (a backup tool, say).
BUSY_TIMEOUT_MS = 5_000


def checkpoint(connection: sqlite3.Connection, path: str, wal_limit_bytes: int) -> int:
    """Move what readers let go into the database file; cut the log if it has outgrown its limit. Its size in bytes.

    A checkpoint that has moved everything lets SQLite begin the log anew, so that it does not grow. One that is held up
    by a reader only moves a part: the log grows until the reader has gone, and is cut then.
    """
    # Nothing here may wait for a reader: this thread is the one that writes.
    connection.execute("PRAGMA busy_timeout = 0")
    try:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        if wal_bytes(path) > wal_limit_bytes:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MS}")
    return wal_bytes(path)
