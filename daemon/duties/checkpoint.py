"""Bounds the write-ahead log, away from the hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.log import get_logger

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()


class Checkpoint:
    """A timed checkpoint; a log that stays large is a reader that was left open, and is warned about."""

    busy_only = False

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds

    async def run(self, supervisor: Supervisor) -> None:
        """One checkpoint."""
        size = await supervisor.store.checkpoint()
        limit = supervisor.settings.store.wal_limit_bytes
        if size > 2 * limit:
            log.warning("store.wal_large", bytes=size, limit=limit, advice="close whatever reads the file for long")
