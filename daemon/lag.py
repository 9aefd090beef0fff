"""Measures how long the supervisor's loop keeps others waiting."""

from __future__ import annotations

import asyncio
from collections import deque

#: Between two looks, seconds: rare enough to cost nothing on an idle machine.
INTERVAL_SECONDS = 0.25
#: Looks that are remembered: a minute.
REMEMBERED = 240


class LagMeter:
    """A timer that notes how late it comes: what blocked the loop, and nothing else, makes it late."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._lags_ms: deque[float] = deque(maxlen=REMEMBERED)
        self._due = 0.0
        self._timer = self._set()

    @property
    def max_ms(self) -> float:
        """The longest lag of the last minute, in milliseconds."""
        return round(max(self._lags_ms, default=0.0), 3)

    def close(self) -> None:
        """Stop measuring."""
        self._timer.cancel()

    def _set(self) -> asyncio.TimerHandle:
        self._due = self._loop.time() + INTERVAL_SECONDS
        return self._loop.call_at(self._due, self._look)

    def _look(self) -> None:
        # uvloop rounds timers to whole milliseconds and may come early by less than one.
        self._lags_ms.append(max(0.0, (self._loop.time() - self._due) * 1000))
        self._timer = self._set()
