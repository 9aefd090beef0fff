"""Which files of the spool the queue still needs."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from contextlib import closing

import msgspec

from perdure.store.connection import database_uri, explain
from perdure.store.statements import SQL

#: The schema that came with files.
FIRST_VERSION = 3

_encode = msgspec.json.Encoder().encode


def unneeded_files(connection: sqlite3.Connection, names: Collection[str]) -> list[str]:
    """Those of `names` that no job and no dead letter names."""
    if not names:
        return []
    rows = connection.execute(SQL["unneeded_files"], {"names": _encode(sorted(names)).decode()})
    return [name for (name,) in rows]


def result_files(connection: sqlite3.Connection, ids: Sequence[int]) -> list[str]:
    """The files that are the results of these jobs."""
    rows = connection.execute(SQL["result_files"], {"ids": _encode(ids).decode()})
    return [name for (name,) in rows]


def needed_files(path: str) -> set[str]:
    """Every name of a file in the spool that the queue at `path` has, on a connection that can only read.

    Raises StoreError and its children.
    """
    try:
        with closing(sqlite3.connect(database_uri(path, "ro"), uri=True)) as connection:
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version < FIRST_VERSION:
                return set()
            return {name for (name,) in connection.execute(SQL["needed_files"])}
    except sqlite3.Error as error:
        raise explain(error, path) from error
