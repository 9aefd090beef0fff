"""Collects processes that jobs left behind, so that none stays a zombie."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor


class Orphans:
    """The supervisor is the subreaper of everything below it."""

    interval_seconds = 10.0
    busy_only = False

    async def run(self, supervisor: Supervisor) -> None:
        """Collect whatever has ended."""
        supervisor.fleet.reaper.sweep()
