"""Looks how full the queues with limits are: producers that wait are let in, whatever has made the room."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor
    from perdure.daemon.throttle import Throttle


class Fullness:
    """Once a second: the age of a queue changes without a turn."""

    interval_seconds = 1.0
    busy_only = False

    def __init__(self, throttle: Throttle) -> None:
        self._throttle = throttle

    async def run(self, supervisor: Supervisor) -> None:
        """One look, beside the main loop."""
        self._throttle.look()
