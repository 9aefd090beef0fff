"""Deletes finished jobs whose retention is over, with their logs and files, in small batches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from perdure.daemon.joblog import remove_logs

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

#: Rows a transaction: about 5 ms, so that a claim never waits long behind it.
BATCH = 1_000
REST_SECONDS = 60.0
#: After a full batch: so that pruning takes about a fifth of the store's time.
REST_BETWEEN_SECONDS = 0.02


class Prune:
    """By age and by count; after a full batch it comes back soon, with room for other work in between."""

    busy_only = False

    def __init__(self, age_ms: int, keep: int) -> None:
        self._age_ms = age_ms
        self._keep = keep
        self.interval_seconds = 1.0

    async def run(self, supervisor: Supervisor) -> None:
        """One batch."""
        pruned = await supervisor.store.prune(supervisor.clock.now_ms(), self._age_ms, self._keep, BATCH)
        self.interval_seconds = REST_BETWEEN_SECONDS if len(pruned.ids) >= BATCH else REST_SECONDS
        if pruned.ids:
            supervisor.task(asyncio.to_thread(remove_logs, supervisor.settings.paths.logs_dir, pruned.ids))
        if pruned.spooled:
            supervisor.task(supervisor.service.spool.remove(pruned.spooled))
