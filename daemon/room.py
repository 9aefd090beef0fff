"""How many more jobs the daemon should claim."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from perdure.daemon.run_times import RunTimes
from perdure.daemon.worker_state import DispatchLimits, WorkerState
from perdure.wire.data import Lane


class Room:
    """What each lane can take: what workers should hold, and for short jobs as much again in reserve.

    The reserve lets a worker be refilled at once, without waiting for the commit that is under way.
    """

    def __init__(self, limits: DispatchLimits, run_times: RunTimes) -> None:
        self._limits = limits
        self._run_times = run_times

    def free(
        self,
        lanes: Iterable[Lane],
        workers: Iterable[WorkerState],
        waiting: Mapping[Lane, int],
        saturated: Collection[Lane],
    ) -> dict[Lane, int]:
        """How many more jobs each of `lanes` can take, beside those that are `waiting`; none where it is saturated."""
        able = [state for state in workers if state.open]
        room: dict[Lane, int] = {}
        for lane in lanes:
            loads = [state.lanes[lane] for state in able if not state.lanes[lane].stuck]
            wanted = self._jobs_ahead(lane) * len(loads) + self.reserve(lane, len(loads))
            free = wanted - sum(load.count for load in loads) - waiting[lane]
            room[lane] = 0 if lane in saturated else max(0, free)
        return room

    def reserve(self, lane: Lane, workers: int) -> int:
        """How many jobs may wait in the supervisor, claimed and not sent: none where jobs are long."""
        short = self._run_times.by_lane[lane] * self._limits.prefetch_jobs <= self._limits.prefetch_ns
        return self._limits.prefetch_jobs * workers if short else 0

    def _jobs_ahead(self, lane: Lane) -> int:
        """How many jobs of the usual length one worker should hold in a lane."""
        short = int(min(self._limits.prefetch_jobs, self._limits.prefetch_ns / self._run_times.by_lane[lane]))
        return max(short, self._limits.async_slots if lane == "async" else 1)
