"""Removes files of the spool that belong to nobody: what a worker was writing when it was killed, and the like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from perdure.daemon.spool import ORPHAN_SECONDS

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor


class Sweep:
    """Old ones only: the job of a young one may be on its way into the queue."""

    interval_seconds = 3600.0
    busy_only = False

    async def run(self, supervisor: Supervisor) -> None:
        """Look through the folder, beside the main loop."""
        supervisor.task(supervisor.service.spool.sweep(supervisor.store, ORPHAN_SECONDS))
