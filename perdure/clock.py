"""Time is passed in, so that tests and simulations can own it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Where the engine gets its time from."""

    def now_ms(self) -> int:
        """Wall clock, milliseconds since the epoch: for what is stored and shown."""
        ...

    def monotonic_ns(self) -> int:
        """CLOCK_MONOTONIC in nanoseconds, the same in all processes of a boot: for limits and intervals."""
        ...


class SystemClock:
    """The machine's clocks."""

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return time.time_ns() // 1_000_000

    #: CLOCK_MONOTONIC in nanoseconds. Python's own function, as it is called for every job.
    monotonic_ns = staticmethod(time.monotonic_ns)


class ManualClock:
    """A clock that only moves when told: for tests and simulations."""

    def __init__(self, now_ms: int = 1_700_000_000_000, monotonic_ns: int = 0) -> None:
        self._now_ms = now_ms
        self._monotonic_ns = monotonic_ns

    def now_ms(self) -> int:
        """Milliseconds since the epoch."""
        return self._now_ms

    def monotonic_ns(self) -> int:
        """Nanoseconds since this clock was made."""
        return self._monotonic_ns

    def advance(self, milliseconds: int) -> None:
        """Move both clocks forward."""
        self._now_ms += milliseconds
        self._monotonic_ns += milliseconds * 1_000_000

    def step_wall(self, milliseconds: int) -> None:
        """Step the wall clock alone, as an administrator or NTP does."""
        self._now_ms += milliseconds
