"""How fast a backlog is let go after a break: slowly at first, and faster while the dependency stays healthy."""

from __future__ import annotations

#: Time passes in steps: ten a second.
STEP_NS = 100_000_000
SECOND_STEPS = 10
#: Jobs that may be released at once: about 30 ms of work for the store.
MOST_AT_ONCE = 5_000
#: Nothing is faster than this many jobs a second, so there is no use in doubling on.
HIGHEST_RATE = 1_000_000.0
LOWEST_RATE = 1.0
#: This share of failed calls among the released jobs of a second halves the rate.
TROUBLE = 0.1


class Ramp:
    """Releases `rate` jobs a second at first. Each second the rate doubles; it stays when a call to the dependency
    failed in that second, and halves when as many as a tenth of the released jobs did.

    Times are nanoseconds of one monotonic clock. What was not asked for in time is not kept: a supervisor that was away
    for a minute does not release a minute's jobs at once.
    """

    def __init__(self, rate: float, now_ns: int) -> None:
        self.rate = float(max(rate, LOWEST_RATE))
        self.total = 0
        self._since_ns = now_ns
        self._steps = 0
        #: In tenths of a job, so that no rate is lost in rounding.
        self._tokens = 0.0
        self._failed = 0
        self._released = 0

    def failed(self, count: int) -> None:
        """So many calls to the dependency failed."""
        self._failed += count

    def due(self, now_ns: int) -> int:
        """How many jobs may be released now."""
        passed = (now_ns - self._since_ns) // STEP_NS
        if passed > 0:
            self._since_ns += passed * STEP_NS
            for _ in range(min(passed, SECOND_STEPS)):
                self._step()
        return min(int(self._tokens // SECOND_STEPS), MOST_AT_ONCE)

    def released(self, count: int) -> None:
        """So many of them were."""
        self._tokens = max(0.0, self._tokens - count * SECOND_STEPS)
        self._released += count
        self.total += count

    def _step(self) -> None:
        self._tokens = min(self._tokens + self.rate, self.rate * SECOND_STEPS)
        self._steps += 1
        if self._steps % SECOND_STEPS == 0:
            self._adapt()

    def _adapt(self) -> None:
        if self._failed == 0:
            self.rate = min(self.rate * 2, HIGHEST_RATE)
        elif self._failed >= TROUBLE * self._released:
            self.rate = max(self.rate / 2, LOWEST_RATE)
        self._failed = self._released = 0
