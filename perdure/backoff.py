"""When a failed job is tried again: exponential backoff with full jitter.

Full jitter (the delay is uniform between 0 and the exponential bound) spreads a crowd of retries best; see "Exponential
Backoff And Jitter", AWS Architecture Blog, 2015. The bound comes from tenacity, the spreading from the caller's random
generator, so that a simulation can be repeated from its seed.
"""

from __future__ import annotations

import random
from functools import lru_cache

from tenacity import RetryCallState, Retrying
from tenacity.wait import wait_exponential


def full_jitter_ms(attempt: int, base_ms: int, cap_ms: int, rng: random.Random) -> int:
    """Milliseconds to wait after failed attempt number `attempt` (from 1).

    Uniform in 0 … min(cap_ms, base_ms · 2^(attempt-1)), both included.
    """
    return rng.randint(0, upper_bound_ms(attempt, base_ms, cap_ms))


@lru_cache(maxsize=4096)
def upper_bound_ms(attempt: int, base_ms: int, cap_ms: int) -> int:
    """The longest wait after this attempt, in milliseconds. Never above `cap_ms`, however many attempts there were."""
    if base_ms <= 0:
        return 0
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = max(1, attempt)
    return int(wait_exponential(multiplier=base_ms, max=cap_ms)(state))
