"""Making a failed call again: full jitter through tenacity, and never beyond a moment in time.

Imported when a first try has failed: a call that goes well costs no tenacity. (Its classes take tens of microseconds,
and its `retry_if_not_…` would repeat cancellations; here only what is on a positive list is repeated.)
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

from tenacity import AsyncRetrying, RetryCallState

from perdure.backoff import full_jitter_ms
from perdure.clock import Clock
from perdure.wire.dependencies import Policy

T = TypeVar("T")


class Repeats:
    """How a call is repeated. `last_ns` (CLOCK_MONOTONIC): no try begins after it. `may`: whether it is worth it."""

    def __init__(
        self, policy: Policy, clock: Clock, rng: random.Random, last_ns: int, may: Callable[[BaseException], bool]
    ) -> None:
        self._policy = policy
        self._clock = clock
        self._rng = rng
        self._last_ns = last_ns
        self._may = may

    async def run(
        self, first: Exception, function: Callable[[], Awaitable[T]], sleep: Callable[[float], Awaitable[None]]
    ) -> T:
        """Make the call again. Raises the last exception when the tries or the time are used up."""
        failed: list[Exception] = [first]

        async def attempt() -> T:
            if failed:
                raise failed.pop()  # the first try was made before tenacity came in
            return await function()

        retrying = AsyncRetrying(sleep=sleep, wait=self._wait, stop=self._stop, retry=self._is_worth_it, reraise=True)
        result: T = await retrying(attempt)
        return result

    def _is_worth_it(self, state: RetryCallState) -> bool:
        exc = state.outcome.exception() if state.outcome is not None else None
        if exc is None:
            return False
        return state.attempt_number == 1 or self._may(exc)  # of the first one it is known: it has led here

    def _wait(self, state: RetryCallState) -> float:
        """Seconds, uniform between 0 and the bound that doubles with each try."""
        policy = self._policy
        return full_jitter_ms(state.attempt_number, policy.retry_base_ms, policy.retry_cap_ms, self._rng) / 1000

    def _stop(self, state: RetryCallState) -> bool:
        """Whether the tries are used up, or the wait would end when too little time is left for a call."""
        wait_ns = int(state.upcoming_sleep * 1e9)
        return state.attempt_number >= self._policy.tries or self._clock.monotonic_ns() + wait_ns >= self._last_ns
