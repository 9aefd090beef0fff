"""One timer for many time limits, since most of what has one ends long before."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from contextvars import Context
from typing import Final, Protocol

from perdure.clock import Clock

#: Between two looks at least, nanoseconds: so late may a limit be when many end one after the other.
LOOK_NS: Final = 5_000_000
#: A loop rounds its timers to whole milliseconds: this much later it is not too early.
_ROUNDING_SECONDS: Final = 0.001


class Limited(Protocol):
    """What may not take for ever."""

    @property
    def ends_ns(self) -> int:
        """When its time is over (CLOCK_MONOTONIC); 0: never, or it does not matter any more."""

    def cut(self) -> bool:
        """End it, its time is over; again is harmless. False: not now, ask again."""


class Deadlines:
    """Watches `running`, which its owner adds to and removes from; in the loop's thread.

    A limit that was put in is enforced once `watch` was told of it, and costs a comparison then.
    """

    def __init__(self, clock: Clock, running: Collection[Limited]) -> None:
        self._clock = clock
        self._running = running
        self._timer: asyncio.TimerHandle | None = None
        #: When it looks; 0: no timer is set.
        self._due_ns = 0
        #: The timer is nobody's: it must not run in the context of whoever is the first, nor keep that alive.
        self._context = Context()

    def watch(self, ends_ns: int, now_ns: int) -> None:
        """One of them ends then: look at that time, if not earlier."""
        if not self._due_ns or ends_ns < self._due_ns:
            self._set(ends_ns, now_ns)

    def _set(self, due_ns: int, now_ns: int) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due_ns = due_ns
        seconds = (due_ns - now_ns) / 1e9 + _ROUNDING_SECONDS
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look, context=self._context)

    def _look(self) -> None:
        now_ns = self._clock.monotonic_ns()
        self._due_ns = next_ns = 0
        for one in tuple(self._running):
            ends_ns = one.ends_ns
            if ends_ns and not (ends_ns <= now_ns and one.cut()) and (not next_ns or ends_ns < next_ns):
                next_ns = ends_ns
        if next_ns:
            self._set(max(next_ns, now_ns + LOOK_NS), now_ns)
