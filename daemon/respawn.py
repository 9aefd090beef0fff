"""When to start the next worker after one has died: soon, never at once again and again, and never give up."""

from __future__ import annotations

import random

#: A worker that lived this long, or completed a job, was in order: the next death counts from zero again.
HEALTHY_SECONDS = 10.0
#: Where jobs kill their workers the wait stays short: other jobs want to go on.
JOB_DEATH_CAP_MS = 1_000


class Respawn:
    """Full-jitter exponential backoff over deaths in a row; the first restart is immediate."""

    def __init__(self, base_ms: int, cap_ms: int, rng: random.Random) -> None:
        self._base_ms = base_ms
        self._cap_ms = cap_ms
        self._rng = rng
        self.deaths_in_row = 0
        self._last_wait = 0.0

    def recovered(self) -> None:
        """One ended as it should: the next start need not wait."""
        self.deaths_in_row, self._last_wait = 0, 0.0

    def next_wait(self) -> float:
        """Seconds that the next start has to wait, as far as the deaths before it say."""
        return self._last_wait

    def died(self, *, lived_seconds: float, jobs_done: int, by_job: bool) -> float:
        """A worker died without being asked to; returns the seconds until the next may start.

        `by_job`: it was executing something, so that the worker itself is probably in order.
        """
        if jobs_done or lived_seconds >= HEALTHY_SECONDS:
            self.deaths_in_row = 0
        wait_ms = 0.0
        if self.deaths_in_row:
            cap = min(self._cap_ms, JOB_DEATH_CAP_MS) if by_job else self._cap_ms
            bound = min(cap, self._base_ms * 2.0 ** min(self.deaths_in_row - 1, 30))
            wait_ms = self._rng.uniform(bound / 2, bound)
        self.deaths_in_row += 1
        self._last_wait = wait_ms / 1000
        return self._last_wait
