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
        self._was_busy = False
        self._plan()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = 0.0

    def _plan(self) -> None:
        """What comes first: of all duties, and of those that are done while nothing runs."""
        self._first_busy = min(planned.due for planned in self._planned)
        self._first_idle = min(planned.due for planned in self._planned if not planned.duty.busy_only)

    def due(self) -> bool:
        """Whether there is something to run; if not, the alarm is set for what comes next. Asked before each turn."""
        busy, now = self._busy(), self._loop.time()
        if busy and not self._was_busy and self._first_busy <= now:
            self._work_begins(now)
        self._was_busy = busy
        if (self._first_busy if busy else self._first_idle) <= now:
            return True
        self._set_alarm(busy)
        return False

    def _work_begins(self, now: float) -> None:
        """What is done only beside work was not done meanwhile, and is not overdue: this work has just begun."""
        for planned in self._planned:
            if planned.duty.busy_only:
                planned.due = max(planned.due, now + planned.duty.interval_seconds)
        self._plan()

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
        self._plan()
        self._set_alarm(busy)

    def _busy(self) -> bool:
        for state in self._supervisor.core.workers.values():  # noqa: SIM110 - a generator would take twice as long
            if state.held:
                return True
        return False

    def _set_alarm(self, busy: bool) -> None:
        due = self._first_busy if busy else self._first_idle
        next_due = self._supervisor.core.next_due
        # What is due while a turn is under way is for the next one, and the main loop asks again when this one is on
        # disk. An alarm would only ring again and again until then.
        if next_due is not None and not self._supervisor.turns.under_way:
            wait_seconds = max(0, next_due - self._supervisor.clock.now_ms()) / 1000
            due = min(due, self._loop.time() + wait_seconds)
        if self._timer is not None:
            # One that comes too early finds nothing, and is set anew: cheaper than moving it with each job.
            if self._timer_due < due + 0.001 and not self._timer.cancelled():
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
