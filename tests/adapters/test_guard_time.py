"""The guard's time limits: the policy's, the caller's and the job's; and whose fault it is when one is reached."""

from __future__ import annotations

import asyncio

import pytest

from perdure.adapters.call import JobCall
from perdure.clock import SystemClock
from perdure.errors import CallTooLong, JobTimeout
from tests.adapters.guard_rig import NAME, Rig, Service, forever

JOB = JobCall(7)


async def test_a_call_is_cut_at_the_policys_timeout_and_counted() -> None:
    """A server that is silent would hold its callers for ever, and its breaker would never open."""
    rig = Rig(SystemClock(), timeout_ms=20)
    with pytest.raises(CallTooLong, match=r"billing: the call did not end within 0\.02 s") as caught:
        await rig.guard.call(JOB, forever)
    assert caught.value.perdure_dependency == NAME  # type: ignore[attr-defined]
    assert rig.totals() == (0, 1)
    assert await rig.guard.call(JOB, forever, fallback="instead") == "instead"


async def test_a_call_cut_by_the_jobs_deadline_is_not_counted() -> None:
    """Jobs with little time would open the breaker of a healthy service."""
    rig = Rig(SystemClock(), timeout_ms=60_000)
    with pytest.raises(CallTooLong, match="before the job's time was over"):
        await rig.guard.call(JobCall(7, rig.now + 0.02), forever)
    assert rig.totals() == (0, 0)


async def test_a_call_that_had_a_fair_share_of_the_time_counts_though_it_was_cut_earlier() -> None:
    """Where jobs have less time than a call may take, a service that swallows everything would look well for ever."""
    rig = Rig(SystemClock(), timeout_ms=60)
    with pytest.raises(CallTooLong, match="before the job's time was over"):
        await rig.guard.call(JobCall(7, rig.now + 0.03), forever)
    with pytest.raises(CallTooLong):
        await rig.guard.call(JOB, forever, timeout=0.03)
    assert rig.totals() == (0, 2)


async def test_a_call_cut_by_the_callers_own_shorter_timeout_is_not_counted() -> None:
    """One impatient handler would open the breaker for all others."""
    rig = Rig(SystemClock(), timeout_ms=60_000)
    with pytest.raises(CallTooLong):
        await rig.guard.call(JOB, forever, timeout=0.02)
    assert rig.totals() == (0, 0)


async def test_a_longer_timeout_than_the_policys_is_the_callers_right() -> None:
    """A report that takes ten minutes could not be made at all."""
    rig = Rig(SystemClock(), timeout_ms=1)
    inside = asyncio.Event()
    asyncio.get_running_loop().call_later(0.01, inside.set)
    assert await rig.guard.call(JOB, inside.wait, timeout=30)
    assert rig.totals() == (1, 0)


async def test_no_call_is_made_after_the_deadline() -> None:
    """Work would begin that nobody waits for any more."""
    rig, service = Rig(), Service("answer")
    rig.breaker("half_open", probe_job=7)
    with pytest.raises(JobTimeout, match="no call was made, the job's time is over"):
        await rig.guard.call(JobCall(7, rig.now), service)
    assert service.tries == 0
    assert await rig.guard.call(JOB, service) == "answer", "the probe must not be used up"


async def test_a_driver_that_answers_the_cut_with_its_own_error() -> None:
    """Its odd error would be classified as the caller's mistake: a silent server would count as well."""
    rig = Rig(SystemClock(), timeout_ms=20)

    async def driver() -> None:
        try:
            await forever()
        except asyncio.CancelledError:
            raise ValueError("query was interrupted") from None

    with pytest.raises(CallTooLong) as caught:
        await rig.guard.call(JOB, driver)
    assert isinstance(caught.value.__cause__, ValueError)
    assert rig.totals() == (0, 1)


async def test_a_drivers_own_timeout_is_an_outage_with_its_own_name() -> None:
    """A pool that gives no connection would look like our limit, or like nothing at all."""
    rig, error = Rig(tries=1), TimeoutError("no connection from the pool")
    with pytest.raises(TimeoutError) as caught:
        await rig.guard.call(JOB, Service(error))
    assert caught.value is error
    assert rig.totals() == (0, 1)
