"""What interrupts a handler of the sync lane: its time limit, and its cancellation. Inside the handler, nowhere else.

The loop's thread sees that the limit of the executing job is over, or learns that the job is to be stopped, and sends
SIGUSR2 to the main thread; that interrupts sleeps and other system calls. Python then runs `_ring` in the main thread,
between any two bytecodes there. It may come late: the job may have ended, the next one may have begun. So the signal
carries no meaning of its own. What counts is `job_id` at the moment when `_ring` runs, and what is known of that job:

- it is not zero only while the lane is inside the `try` around the call of a handler (see `SyncLane._perform`), so the
  exception always has somewhere to go, and never reaches the lane's own bookkeeping;
- it names the job that executes now, so a signal that was meant for the job before finds another one, which is not in
  `stopping` and whose limit is not over yet, and does nothing;
- `_ring` clears it before it raises, so there is one exception a job: a handler that cleans up is not hit again. If it
  does not end then, the supervisor's hard limit follows.

`stopping` is what the supervisor wants to end (Stop) of what was sent here before. Such a job may be on its way from
the lane's queue to its handler: therefore the lane looks once it has set `job_id`. The same job may come again, in a
later attempt, so it is taken out when it does; and all is forgotten when the lane has nothing left to do.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterable
from types import FrameType

from perdure.clock import Clock
from perdure.duration import format_duration
from perdure.errors import JobCancelled, JobTimeout


class Alarm:
    """Made in the main thread, which arms and disarms it by plain stores; the loop's thread asks it to ring."""

    __slots__ = ("_clock", "_main_thread", "due_ns", "job_id", "limit_ms", "stopping")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._main_thread = threading.get_ident()
        #: The job whose handler may be interrupted; 0: nothing may be raised.
        self.job_id = 0
        #: When its time is over (CLOCK_MONOTONIC); 0: never. Set before `job_id`, as is the limit.
        self.due_ns = 0
        #: Its limit, for the message.
        self.limit_ms = 0
        #: Jobs that are to end. Changed by the loop's thread only.
        self.stopping: set[int] = set()

    def install(self) -> None:
        """Listen to SIGUSR2. Main thread only."""
        signal.signal(signal.SIGUSR2, self._ring)

    # --- the main thread

    def ring(self) -> None:
        """After `job_id` was set: whoever asked for the end of this job before that has rung in vain."""
        self._ring(0, None)

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        job_id = self.job_id
        if job_id and job_id in self.stopping:
            self.job_id = 0
            raise JobCancelled("the job was cancelled")
        if job_id and self._is_over():
            self.job_id = 0
            raise timeout_error(self.limit_ms)

    # --- the loop's thread

    def stop(self, ids: Iterable[int]) -> None:
        """End these, if they are or come between here and their handler."""
        self.stopping.update(ids)
        self.poke()

    def came_again(self, ids: Iterable[int]) -> None:
        """These are new: whatever was to be stopped was an earlier attempt."""
        if self.stopping:
            self.stopping.difference_update(ids)

    def poke(self) -> None:
        """Interrupt the main thread if its job is to end."""
        job_id = self.job_id
        if job_id and (job_id in self.stopping or self._is_over()):
            signal.pthread_kill(self._main_thread, signal.SIGUSR2)

    def _is_over(self) -> bool:
        return self.due_ns != 0 and self._clock.monotonic_ns() >= self.due_ns


def timeout_error(limit_ms: int) -> JobTimeout:
    """What a job that is over its limit gets."""
    return JobTimeout(f"the job reached its time limit of {format_duration(limit_ms)}")
