"""As many calls at once as there are connections; who finds no place waits, for half of its time at most.

A driver's own pool would let callers wait where no time limit of a call reaches, and leaks what a cancelled one was
about to get (httpx, neo4j). And it does not say how long somebody waited: that must not count against the server.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from perdure.adapters.call import call_time
from perdure.clock import Clock
from perdure.errors import PoolExhausted

#: Of the time for a call, how much may pass until it has a place. Who gets one later would be cut off at work.
WAITING_SHARE: Final = 0.5


class Places:
    """`count` places, handed out in the order of asking. Used on one loop."""

    def __init__(self, count: int, clock: Clock) -> None:
        self._count = count
        self._clock = clock
        self._places = asyncio.Semaphore(count)
        self._taken = 0

    @property
    def free(self) -> int:
        """How many can be taken now."""
        return self._count - self._taken

    async def take(self, most_seconds: float, where: Callable[[], str], advice: str) -> None:
        """A place; `give_back` it. Raises PoolExhausted when none comes free in at most so many seconds.

        `where` and `advice` stand in its message.
        """
        if self._places.locked():
            await self._wait(most_seconds, where, advice)
        else:
            await self._places.acquire()  # at once
        self._taken += 1

    def give_back(self) -> None:
        """The next one may have it."""
        self._taken -= 1
        self._places.release()

    async def _wait(self, most_seconds: float, where: Callable[[], str], advice: str) -> None:
        began_ns, time = self._clock.monotonic_ns(), call_time.get()
        if time is not None:
            until_ns = time.started_ns + int((time.ends_ns - time.started_ns) * WAITING_SHARE)
            most_seconds = max(0.0, min(most_seconds, (until_ns - began_ns) / 1e9))
        try:
            async with asyncio.timeout(most_seconds):
                await self._places.acquire()
        except TimeoutError as exc:
            raise PoolExhausted(
                f"{where()}: all {self._count} connections of this worker are in use, and none came back within"
                f" {most_seconds:.3g} s. {advice}"
            ) from exc
        finally:
            if time is not None:
                time.waited_ns += self._clock.monotonic_ns() - began_ns
