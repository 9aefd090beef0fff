"""Backoff with full jitter."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from perdure.backoff import full_jitter_ms, upper_bound_ms

attempts = st.integers(1, 10_000)
base = st.integers(0, 10**7)
cap = st.integers(0, 10**9)


@given(attempts, base, cap, st.integers())
def test_delay_is_within_its_bounds(attempt: int, base_ms: int, cap_ms: int, seed: int) -> None:
    """A job would wait for ever, or hammer a service that is down."""
    delay = full_jitter_ms(attempt, base_ms, cap_ms, random.Random(seed))
    assert 0 <= delay <= min(cap_ms, base_ms * 2 ** min(attempt - 1, 64))


@given(attempts, base, cap)
def test_bound_never_falls(attempt: int, base_ms: int, cap_ms: int) -> None:
    """A later attempt would be allowed to come sooner."""
    assert upper_bound_ms(attempt, base_ms, cap_ms) <= upper_bound_ms(attempt + 1, base_ms, cap_ms)


def test_same_seed_same_delays() -> None:
    """A simulation could not be repeated from its seed."""
    first, second = (
        [full_jitter_ms(n, 1_000, 60_000, rng) for n in range(1, 20)] for rng in (random.Random(7), random.Random(7))
    )
    assert first == second


def test_bound_doubles_up_to_the_cap() -> None:
    """The documented schedule would not be the real one."""
    assert [upper_bound_ms(n, 1_000, 600_000) for n in (1, 2, 3, 10, 11, 5_000)] == [
        1_000, 2_000, 4_000, 512_000, 600_000, 600_000,
    ]  # fmt: skip


def test_delays_are_spread_over_the_whole_range() -> None:
    """A crowd of failed jobs would come back together."""
    rng = random.Random(1)
    delays = [full_jitter_ms(4, 1_000, 60_000, rng) for _ in range(2_000)]
    quarters = [sum(quarter * 2_000 <= delay < (quarter + 1) * 2_000 for delay in delays) for quarter in range(4)]
    assert min(quarters) > 400
