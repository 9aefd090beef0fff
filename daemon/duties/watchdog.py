"""Tells the service manager that the main loop turns and the store answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor


class Watchdog:
    """Called from the main loop itself: a loop that hangs cannot ping."""

    busy_only = False

    def __init__(self, interval_seconds: float) -> None:
        self.interval_seconds = interval_seconds

    async def run(self, supervisor: Supervisor) -> None:
        """Ask the store, then ping; a store that does not answer leaves the ping out."""
        await supervisor.store.next_due()
        supervisor.notifier.watchdog()
