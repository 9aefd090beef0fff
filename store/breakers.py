"""The breakers as they outlast a restart, and the queue's own name."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

import msgspec

from perdure.store.models import SavedBreaker
from perdure.store.statements import SQL
from perdure.wire.data import BreakerEvent

#: Changes of a breaker that stay on record.
KEPT_EVENTS = 100


def save_breakers(
    connection: sqlite3.Connection, breakers: Sequence[SavedBreaker], events: Sequence[BreakerEvent]
) -> None:
    """Record breakers and their changes, inside a transaction."""
    for breaker in breakers:
        connection.execute(SQL["save_breaker"], breaker._asdict())
    for event in events:
        connection.execute(SQL["add_breaker_event"], msgspec.structs.asdict(event))
    for name in sorted({event.name for event in events}):
        connection.execute(SQL["forget_breaker_events"], {"name": name, "keep": KEPT_EVENTS})


def breakers(connection: sqlite3.Connection) -> list[SavedBreaker]:
    """Every breaker that was ever recorded, by name."""
    return [SavedBreaker(*row) for row in connection.execute(SQL["breakers"])]


def breaker_events(connection: sqlite3.Connection, limit: int) -> list[BreakerEvent]:
    """Up to `limit` changes of each breaker, newest first."""
    return [BreakerEvent(*row) for row in connection.execute(SQL["breaker_events"], {"limit": limit})]


def store_id(connection: sqlite3.Connection) -> str:
    """The queue's own name."""
    (name,) = connection.execute(SQL["store_id"]).fetchone()
    return str(name)
