"""The soft time limit of the sync lane: JobTimeout is raised inside the handler, and nowhere else.

The loop's thread sees that the limit of the executing job is over and sends SIGUSR2 to the main thread; that interrupts
sleeps and other system calls. Python then runs `_ring` in the main thread, between any two bytecodes there. It may come
late: the job may have ended, the next one may have begun. So the signal carries no meaning of its own. What counts is
`due_ns` at the moment when `_ring` runs:

- it is not zero only while the lane is inside the `try` around the call of a handler (see `SyncLane._call`), so the
  exception always has somewhere to go, and never reaches the lane's own bookkeeping;
- it is the limit of the job that executes now, so a signal that was meant for the job before finds a limit that is not
  over yet, and does nothing;
- `_ring` clears it before it raises, so there is one exception a job: a handler that cleans up is not hit again. If it
  does not end then, the supervisor's hard limit follows.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType

from perdure.clock import Clock
from perdure.duration import format_duration
from perdure.errors import JobTimeout


class Alarm:
    """Made in the main thread, which arms and disarms `due_ns` by plain stores; `poke` is for the loop's thread."""

    __slots__ = ("_clock", "_main_thread", "due_ns", "limit_ms")

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._main_thread = threading.get_ident()
        #: When the executing handler's time is over (CLOCK_MONOTONIC); 0: nothing may be raised.
        self.due_ns = 0
        #: Its limit, for the message.
        self.limit_ms = 0

    def install(self) -> None:
        """Listen to SIGUSR2. Main thread only."""
        signal.signal(signal.SIGUSR2, self._ring)

    def poke(self) -> None:
        """Interrupt the main thread if its job's time is over."""
        if self.due_ns and self._clock.monotonic_ns() >= self.due_ns:
            signal.pthread_kill(self._main_thread, signal.SIGUSR2)

    def _ring(self, _signal: int, _frame: FrameType | None) -> None:
        due_ns = self.due_ns
        if due_ns and self._clock.monotonic_ns() >= due_ns:
            self.due_ns = 0
            raise timeout_error(self.limit_ms)


def timeout_error(limit_ms: int) -> JobTimeout:
    """What a job that is over its limit gets."""
    return JobTimeout(f"the job reached its time limit of {format_duration(limit_ms)}")
