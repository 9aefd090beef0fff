"""Tells the service manager how things are, in one line."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

#: While it drains, the daemon asks for this much more time at a time, in microseconds.
EXTENSION_USEC = 15_000_000


class Tell:
    """STATUS= while it runs, EXTEND_TIMEOUT_USEC= while a stop still has time of its own limit left."""

    interval_seconds = 5.0
    busy_only = False

    def __init__(self) -> None:
        self._telling: asyncio.Task[None] | None = None

    async def run(self, supervisor: Supervisor) -> None:
        """One message, none without a manager."""
        if supervisor.notifier.active and (self._telling is None or self._telling.done()):
            self._telling = supervisor.task(self._tell(supervisor))

    async def _tell(self, supervisor: Supervisor) -> None:
        notifier = supervisor.notifier
        counts = await supervisor.store.count()
        queued = sum(counts.get(state, 0) for state in ("available", "scheduled", "retryable"))
        notifier.status(
            f"{supervisor.state}: running {counts.get('running', 0)}, queued {queued}, "
            f"parked {counts.get('parked', 0)}, dead {counts.get('dead', 0)}"
        )
        if supervisor.state == "stopping" and not supervisor.hurried():
            notifier.extend(EXTENSION_USEC)
