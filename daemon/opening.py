"""Opens the store that the settings name: the daemon and a command alone on the file do it the same way."""

from __future__ import annotations

from typing import Literal

from perdure.config.settings import Settings
from perdure.store.contract import Store
from perdure.store.sqlite import open_sqlite

#: What the log of a quiet daemon needs from one checkpoint to the next: 250 jobs that come one by one.
LOG_BYTES = 8 * 1024 * 1024


async def open_store(settings: Settings, role: Literal["daemon", "cli"], lock_wait_seconds: float = 0.0) -> Store:
    """The store, under its lock. Raises StoreLocked and the other errors of the store."""
    return await open_sqlite(
        settings.paths.db,
        durability=settings.store.durability,
        cache_bytes=settings.store.cache_bytes,
        wal_limit_bytes=settings.store.wal_limit_bytes,
        role=role,
        lock_wait_seconds=lock_wait_seconds,
        log_bytes=LOG_BYTES if role == "daemon" else 0,
    )
