"""How calls to a dependency went of late, in bounded memory."""

from __future__ import annotations

from typing import NamedTuple

#: The window moves on in steps of this part of its length.
BUCKETS = 10


class Tally(NamedTuple):
    """Calls: how many ended well, how many failed, and how many of both took too long."""

    ok: int = 0
    failed: int = 0
    slow: int = 0

    @property
    def calls(self) -> int:
        """All of them."""
        return self.ok + self.failed


class Window:
    """A rolling window of BUCKETS buckets: what is older than the window is out, what is younger than 9/10 of it is in.

    Times are nanoseconds of one monotonic clock; a time before the last one is taken for the last one.
    """

    def __init__(self, window_ms: int) -> None:
        self._bucket_ns = max(1, window_ms * 1_000_000 // BUCKETS)
        self._buckets = [Tally()] * BUCKETS
        self._newest = 0  # which bucket of time is being filled
        self._sum = Tally()

    def add(self, now_ns: int, ok: int, failed: int, slow: int) -> Tally:
        """Count these calls; returns what is in the window then."""
        self._advance(now_ns)
        place = self._newest % BUCKETS
        here = self._buckets[place]
        self._buckets[place] = Tally(here.ok + ok, here.failed + failed, here.slow + slow)
        self._sum = Tally(self._sum.ok + ok, self._sum.failed + failed, self._sum.slow + slow)
        return self._sum

    def tally(self, now_ns: int) -> Tally:
        """What is in the window."""
        self._advance(now_ns)
        return self._sum

    def clear(self) -> None:
        """Forget all calls."""
        self._buckets = [Tally()] * BUCKETS
        self._sum = Tally()

    def _advance(self, now_ns: int) -> None:
        newest = now_ns // self._bucket_ns
        if newest <= self._newest:
            return
        if newest - self._newest >= BUCKETS:
            self.clear()
        else:
            for bucket in range(self._newest + 1, newest + 1):
                gone = self._buckets[bucket % BUCKETS]
                self._buckets[bucket % BUCKETS] = Tally()
                self._sum = Tally(self._sum.ok - gone.ok, self._sum.failed - gone.failed, self._sum.slow - gone.slow)
        self._newest = newest
