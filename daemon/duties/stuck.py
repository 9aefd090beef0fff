"""Finds a worker that lives, holds jobs and executes none of them, and replaces it."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from perdure.log import get_logger

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()

#: A look that comes this long after the one before says nothing.
LATE_NS = 5_000_000_000


class Stuck:
    """Looks at progress, not at heartbeats: a zombie's heart may well beat."""

    interval_seconds = 1.0
    busy_only = False

    def __init__(self, patience_ns: int) -> None:
        self._patience_ns = patience_ns
        self._last_ns = 0

    async def run(self, supervisor: Supervisor) -> None:
        """Kill workers that have had jobs for too long without beginning one, or have never become ready.

        Their jobs go on elsewhere, uncharged.
        """
        now_ns = supervisor.clock.monotonic_ns()
        # After a suspend, or a main loop that was held up, nobody has had the time to do anything.
        late = now_ns - self._last_ns > LATE_NS
        self._last_ns = now_ns
        for link in list(supervisor.fleet.links.values()):
            state = supervisor.core.workers.get(link.id)
            progress = link.page.progress
            idle = state is None or (state.ready and not state.held and not state.draining)
            if late or idle or progress != link.progress_seen[0] or link.page.executing():
                link.progress_seen = (progress, now_ns)
            elif now_ns - link.progress_seen[1] > self._patience_ns:
                log.error("worker.stuck", worker=link.id, pid=link.pid, holds=len(state.held) if state else 0)
                link.signal(signal.SIGKILL)
