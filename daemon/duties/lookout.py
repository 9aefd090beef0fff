"""Looks whether jobs wait of which nobody has told: a missed wake-up costs this interval and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.daemon.dispatch import SUSPECT_REASON

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

#: Suspects that come back at a time; they run one after the other.
SUSPECTS_AT_ONCE = 8


class Lookout:
    """Asks the store for queues with available jobs, and for suspects when there is room for them."""

    interval_seconds = 2.0
    busy_only = False

    async def run(self, supervisor: Supervisor) -> None:
        """One look."""
        core = supervisor.core
        if core.stopping:
            return
        if core.suspects_parked and not core.suspects:
            count, _ = await supervisor.store.unpark([SUSPECT_REASON], SUSPECTS_AT_ONCE, supervisor.clock.now_ms())
            core.suspects_parked = count == SUSPECTS_AT_ONCE
        for name in await supervisor.store.available_queues():
            core.queues.fill(name)
