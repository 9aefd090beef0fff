"""Trying again: full jitter, within the tries and within the time."""

from __future__ import annotations

import asyncio
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.adapters.call import JobCall
from perdure.backoff import upper_bound_ms
from perdure.clock import SystemClock
from perdure.errors import CallTooLong
from tests.adapters.guard_rig import Conflict, Gone, Rig, Service

JOB = JobCall(7)
#: What a loaded machine may add to a time limit, seconds.
SLACK = 0.5


@given(
    tries=st.integers(1, 8),
    base_ms=st.integers(0, 500),
    cap_ms=st.integers(0, 2_000),
    seed=st.integers(0, 2**32),
)
async def test_full_jitter_bounds(tries: int, base_ms: int, cap_ms: int, seed: int) -> None:
    """Retries of a crowd would come all at once, too late, or more often than the policy says."""
    rig = Rig(seed=seed, tries=tries, retry_base_ms=base_ms, retry_cap_ms=cap_ms, timeout_ms=3_600_000)
    service = Service(Gone())
    with pytest.raises(Gone):
        await rig.guard.call(JOB, service)
    assert service.tries == tries
    assert len(rig.slept) == tries - 1
    for attempt, seconds in enumerate(rig.slept, 1):
        assert 0 <= seconds <= upper_bound_ms(attempt, base_ms, cap_ms) / 1000 <= cap_ms / 1000


async def test_full_jitter_spreads() -> None:
    """Without jitter, a hundred workers that lost the same server would come back in the same millisecond."""
    rig = Rig(tries=101, retry_base_ms=1_000, retry_cap_ms=1_000, timeout_ms=3_600_000)
    with pytest.raises(Gone):
        await rig.guard.call(JOB, Service(Gone()))
    below = sum(seconds < 0.5 for seconds in rig.slept)
    assert 25 < below < 75
    assert len(set(rig.slept)) > 80


@given(
    tries=st.integers(1, 10),
    call_ms=st.integers(0, 400),
    timeout_ms=st.integers(1, 3_000),
    left_ms=st.none() | st.integers(1, 3_000),
    base_ms=st.integers(0, 1_000),
    seed=st.integers(0, 2**32),
)
async def test_t23_retry_within_the_budget(
    tries: int, call_ms: int, timeout_ms: int, left_ms: int | None, base_ms: int, seed: int
) -> None:
    """Retries would go on, or begin, after the call's time limit or the job's deadline is over."""
    rig = Rig(seed=seed, tries=tries, timeout_ms=timeout_ms, retry_base_ms=base_ms, retry_cap_ms=4_000)
    started = rig.now
    deadline = None if left_ms is None else started + left_ms / 1000
    end = started + min(timeout_ms, timeout_ms if left_ms is None else left_ms) / 1000
    begun: list[float] = []

    async def fail() -> None:
        begun.append(rig.now)
        rig.manual.advance(call_ms)
        raise Gone

    with pytest.raises(Gone):
        await rig.guard.call(JobCall(7, deadline), fail)
    assert 1 <= len(begun) <= tries
    assert all(moment < end for moment in begun)
    assert rig.now <= max(begun) + call_ms / 1000 + 1e-6, "nothing is waited for after the last try"
    assert rig.totals() == (0, 1)


async def test_t23_total_time_with_real_clocks() -> None:
    """The job's deadline would be missed by the time that the retries take."""
    rig = Rig(SystemClock(), tries=1_000_000, retry_base_ms=5, retry_cap_ms=20, timeout_ms=60_000)
    rig.guard._sleep = asyncio.sleep
    service, started = Service(Gone()), time.monotonic()
    with pytest.raises((Gone, CallTooLong)):
        await rig.guard.call(JobCall(7, started + 0.1), service)
    assert time.monotonic() - started < 0.1 + SLACK
    assert service.tries > 1


async def test_t23_a_try_that_hangs_is_cut_at_the_same_end() -> None:
    """Each try would get the whole time again (tenacity#529)."""
    rig, tries = Rig(SystemClock(), tries=5, timeout_ms=50, retry_base_ms=0), 0

    async def fail_then_hang() -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Gone
        await asyncio.Event().wait()

    started = time.monotonic()
    with pytest.raises(CallTooLong):
        await rig.guard.call(JOB, fail_then_hang)
    assert 0.04 < time.monotonic() - started < 0.05 + SLACK
    assert tries == 2
    assert rig.totals() == (0, 1)


async def test_what_must_not_be_repeated_ends_the_retries() -> None:
    """After a lost packet the caller's own mistake would be repeated until the tries are used up."""
    rig, service = Rig(tries=5), Service(Gone(), Conflict(), ValueError("syntax"))
    with pytest.raises(ValueError, match="syntax"):
        await rig.guard.call(JOB, service)
    assert service.tries == 3
    assert rig.totals() == (1, 0), "the server has answered"


async def test_the_seed_decides_the_waits() -> None:
    """A simulation could not be repeated from its seed."""

    async def waits(seed: int) -> list[float]:
        rig = Rig(seed=seed, tries=6, timeout_ms=3_600_000)
        with pytest.raises(Gone):
            await rig.guard.call(JOB, Service(Gone()))
        return rig.slept

    state = random.getstate()
    assert await waits(3) == await waits(3) != await waits(4)
    assert random.getstate() == state, "the process's own generator is not touched"
