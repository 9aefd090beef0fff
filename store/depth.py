"""How full queues are, and which new jobs would be duplicates and take no room."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Mapping

import msgspec

from perdure.store.models import Depth
from perdure.store.statements import SQL

#: So many jobs of each priority are looked at for the oldest one.
FIRST = 20

_encode = msgspec.json.Encoder().encode


def depths(connection: sqlite3.Connection, queues: Mapping[str, int]) -> dict[str, Depth]:
    """How full each queue is; its jobs are counted up to the number that stands beside its name."""
    found = {}
    for queue, limit in queues.items():
        (waiting,) = connection.execute(SQL["waiting"], {"queue": queue, "limit": limit}).fetchone()
        (oldest_at,) = connection.execute(SQL["oldest_available"], {"queue": queue, "first": FIRST}).fetchone()
        found[queue] = Depth(waiting, oldest_at)
    return found


def keys_held(connection: sqlite3.Connection, keys: Collection[tuple[str, str]]) -> set[tuple[str, str]]:
    """Those (kind, unique key) that an unfinished job has."""
    return set(connection.execute(SQL["keys_held"], {"keys": _encode(list(keys)).decode()}).fetchall())
