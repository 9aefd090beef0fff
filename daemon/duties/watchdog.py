"""Tells the service manager that the main loop turns and the store answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor


class Watchdog:
    """Pings from the main loop itself, and only if the store has answered since the last ping."""

    busy_only = False

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds
        self._asking: asyncio.Task[int | None] | None = None

    async def run(self, supervisor: Supervisor) -> None:
        """Ping if the last question was answered, and ask the next one."""
        if self._asking is None or self._asking.done():
            supervisor.notifier.watchdog()
            self._asking = supervisor.task(supervisor.store.next_due())
