"""What is done from time to time. Each duty has a file of its own in daemon/duties/; this only knows when."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from perdure.log import get_logger

if TYPE_CHECKING:
    from perdure.daemon.supervisor import Supervisor

log = get_logger()


class Duty(Protocol):
    """Something to do every `interval_seconds`; `busy_only`: only while jobs are with workers."""

    interval_seconds: float
    busy_only: bool

    async def run(self, supervisor: Supervisor) -> None:
        """Do it once, briefly: the main loop waits."""
        ...


@dataclass(slots=True)
class _Planned:
    duty: Duty
    due: float


class Housekeeping:
    """Runs duties from the main loop, so that none can run beside a commit, and wakes it when one is due."""

    def __init__(self, supervisor: Supervisor) -> None:
        from perdure.daemon.duties import all_duties

        self._supervisor = supervisor
        self._loop = asyncio.get_running_loop()
        now = self._loop.time()
        self._planned = [_Planned(duty, now + duty.interval_seconds) for duty in all_duties(supervisor)]
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def due(self) -> bool:
        """Whether there is something to run; if not, the alarm is set for what comes next."""
        now, busy = self._loop.time(), self._busy()
        if any(planned.due <= now and (busy or not planned.duty.busy_only) for planned in self._planned):
            return True
        self._set_alarm(busy)
        return False

    async def run_due(self) -> None:
        """Run what is due, and set the alarm for what comes next. While no turn is under way."""
        now, busy = self._loop.time(), self._busy()
        for planned in self._planned:
            if planned.due <= now and (busy or not planned.duty.busy_only):
                try:
                    await planned.duty.run(self._supervisor)
                except Exception as error:
                    # A duty that fails is tried again; the jobs go on. What is wrong with the store, a commit will say.
                    log.error("duty.failed", duty=type(planned.duty).__name__, reason=str(error))
                planned.due = self._loop.time() + planned.duty.interval_seconds
        self._set_alarm(busy)

    def _busy(self) -> bool:
        return any(state.held for state in self._supervisor.core.workers.values())

    def _set_alarm(self, busy: bool) -> None:
        due = min(planned.due for planned in self._planned if busy or not planned.duty.busy_only)
        next_due = self._supervisor.core.next_due
        if next_due is not None:
            wait_seconds = max(0, next_due - self._supervisor.clock.now_ms()) / 1000
            due = min(due, self._loop.time() + wait_seconds)
        if self._timer is not None:
            if abs(due - self._timer_due) < 0.001 and not self._timer.cancelled():
                return
            self._timer.cancel()
        self._timer_due = due
        self._timer = self._loop.call_at(due, self._alarm)

    def _alarm(self) -> None:
        self._timer = None
        self._supervisor.pulse.set()

    def figures(self) -> dict[str, Any]:
        """The state in a few numbers, for the log and the service manager."""
        supervisor = self._supervisor
        workers = supervisor.core.workers.values()
        return {
            "state": supervisor.state,
            "workers": len(supervisor.fleet.links),
            "claimed": sum(len(state.held) for state in workers) + sum(map(len, supervisor.core.ready.values())),
            "jobs_done": supervisor.jobs_done,
        }

    def status_line(self) -> str:
        """A line worth reading in `systemctl status`."""
        figures = self.figures()
        return f"{figures['state']}: {figures['claimed']} claimed, {figures['jobs_done']} done"

    def close(self) -> None:
        """No more alarms."""
        if self._timer is not None:
            self._timer.cancel()
