"""The guard: what it counts, what it marks, what it gives instead, and what it leaves alone."""

from __future__ import annotations

import asyncio
import subprocess
import sys

import pytest

from perdure.adapters.call import JobCall
from perdure.adapters.last_good import MOST_KEPT
from perdure.clock import SystemClock
from perdure.errors import BreakerOpen, JobCancelled, JobTimeout, Permanent, Unavailable
from tests.adapters.guard_rig import NAME, Conflict, Gone, Refusal, Rig, Service, forever
from tests.support.wait import async_wait_until

JOB = JobCall(7)


# --- what is passed on, and what is counted


async def test_a_good_call_is_passed_on_and_counted() -> None:
    """Arguments or results would be lost on the way, or the breaker would never see that a service is well."""
    rig, service = Rig(), Service("answer")
    assert await rig.guard.call(JOB, service, 1, "two", three=3) == "answer"
    assert service.calls == [((1, "two"), {"three": 3})]
    assert rig.told == []
    assert rig.view.pending
    assert rig.totals() == (1, 0)


async def test_a_good_call_runs_in_the_callers_task_without_tenacity() -> None:
    """Each call would pay for a task, or for tenacity's classes, which take longer than everything else."""
    program = (
        "import asyncio, random, sys\n"
        "from perdure.adapters.guard import Guard\n"
        "from perdure.adapters.call import NO_JOB\n"
        "from perdure.adapters.verdict import classify_plain\n"
        "from perdure.adapters.view import BreakerView\n"
        "from perdure.clock import SystemClock\n"
        "from perdure.wire.dependencies import Policy\n"
        "async def main():\n"
        "    guard = Guard('x', Policy(), BreakerView(print, SystemClock()), classify_plain, SystemClock(), None)\n"
        "    mine = asyncio.current_task()\n"
        "    async def call(): return asyncio.current_task() is mine\n"
        "    print(await guard.call(NO_JOB, call), 'tenacity' in sys.modules)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert done.stdout.split() == ["True", "False"]


@pytest.mark.parametrize(
    ("error", "tries", "counted"),
    [
        (Gone("connection refused"), 3, (0, 1)),
        (Refusal("wrong password"), 1, (0, 1)),
        (Conflict("deadlock"), 3, (1, 0)),
        (ValueError("syntax"), 1, (1, 0)),
        (Permanent("no such customer"), 1, (1, 0)),
    ],
)
async def test_positive_list(error: Exception, tries: int, counted: tuple[int, int]) -> None:
    """A caller's mistake would be repeated or held against the service, or an outage would not."""
    rig, service = Rig(tries=3), Service(error)
    with pytest.raises(type(error)) as caught:
        await rig.guard.call(JOB, service)
    assert caught.value is error
    assert service.tries == tries
    assert rig.totals() == counted
    assert getattr(error, "perdure_dependency", None) == (NAME if counted[1] else None)


async def test_a_call_that_came_right_in_the_end_is_one_good_call() -> None:
    """The breaker would open though every call succeeds at its second try."""
    rig, service = Rig(), Service(Gone(), Conflict(), "answer")
    assert await rig.guard.call(JOB, service) == "answer"
    assert service.tries == 3
    assert rig.totals() == (1, 0)


async def test_a_failure_is_told_at_once_with_its_reason() -> None:
    """The supervisor would charge the job before it hears that the service is down; or nobody would see why."""
    rig = Rig(tries=1)
    await rig.guard.call(JOB, Service("answer"))
    with pytest.raises(Gone):
        await rig.guard.call(JOB, Service(Gone("postgres://me:hunter2@db: connection refused")))
    (told,) = rig.told
    assert (told.name, told.ok, told.failed, told.probe_job) == (NAME, 1, 1, 0)
    assert told.error == "Gone: postgres://me:***@db: connection refused"


async def test_slow_calls_are_counted_besides() -> None:
    """A service that answers after ages would never open its breaker."""
    rig = Rig(slow_after_ms=500)

    async def slow(milliseconds: int, error: Exception | None = None) -> None:
        rig.manual.advance(milliseconds)
        if error is not None:
            raise error

    await rig.guard.call(JOB, slow, 500)
    await rig.guard.call(JOB, slow, 501)
    with pytest.raises(Refusal):
        await rig.guard.call(JOB, slow, 501, Refusal())
    assert rig.totals() == (2, 1)
    assert sum(one.slow for one in rig.told) == 2


async def test_retry_may_be_left_to_the_caller() -> None:
    """A write whose fate is unknown would be made twice."""
    rig, lost = Rig(), Gone("lost in the middle")
    service = Service(lost)
    with pytest.raises(Gone):
        await rig.guard.call(JOB, service, retry=False)
    assert service.tries == 1
    asked: list[BaseException] = []

    def not_sent(exc: BaseException) -> bool:
        asked.append(exc)
        return len(asked) < 2

    service = Service(lost)
    with pytest.raises(Gone):
        await rig.guard.call(JOB, service, retry=not_sent)
    assert service.tries == 2
    assert asked == [lost, lost]


async def test_an_exception_that_takes_no_mark_is_raised_all_the_same() -> None:
    """The mark's own trouble would replace the driver's exception."""

    class Closed(ConnectionError):
        __slots__ = ()

        def __setattr__(self, name: str, value: object) -> None:
            if not name.startswith("__"):
                raise AttributeError(name)
            super().__setattr__(name, value)

    rig, error = Rig(tries=1), Closed("no room")
    with pytest.raises(Closed) as caught:
        await rig.guard.call(JOB, Service(error))
    assert caught.value is error
    assert await rig.guard.call(JOB, Service(error), fallback="instead") == "instead"
    assert rig.totals() == (0, 2)


# --- what is left alone


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit, GeneratorExit, JobTimeout, JobCancelled])
async def test_what_is_no_failure_passes_untouched(signal: type[BaseException]) -> None:
    """The end of a job or of the process would count as an outage, be repeated, or come out as something else."""
    rig, error = Rig(), signal()
    service = Service(error)
    with pytest.raises(signal) as caught:
        await rig.guard.call(JOB, service, fallback="instead", cache="key")
    assert caught.value is error
    assert service.tries == 1
    assert rig.totals() == (0, 0)


async def test_a_driver_that_cancels_a_piece_of_its_own_has_failed() -> None:
    """Its CancelledError would look like an end of the job that nobody asked for, and the server like a sound one."""
    rig = Rig()
    with pytest.raises(Unavailable, match="its driver gave the call up"):
        await rig.guard.call(JOB, Service(asyncio.CancelledError()))
    assert rig.totals() == (0, 1)


async def test_t22_cancellation_passes_through_uncounted() -> None:
    """A drain, or a client that hangs up, would open the breaker; or the job would go on after its cancellation."""
    rig, inside = Rig(SystemClock()), asyncio.Event()

    async def hang() -> None:
        inside.set()
        await forever()

    task = asyncio.create_task(rig.guard.call(JOB, hang, fallback="instead"))
    await inside.wait()
    task.cancel("drain")
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()
    assert rig.totals() == (0, 0)


async def test_t22_cancellation_between_two_tries() -> None:
    """tenacity would take the cancellation for one more failure, and try again."""
    rig, waiting = Rig(SystemClock()), asyncio.Event()

    async def wait(_seconds: float) -> None:
        waiting.set()
        await forever()

    rig.guard._sleep = wait
    service = Service(Gone())
    task = asyncio.create_task(rig.guard.call(JOB, service))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert service.tries == 1
    assert rig.totals() == (0, 0)


@pytest.mark.parametrize("failures_before", [0, 1])
async def test_t22_a_driver_that_hides_a_cancellation_is_not_asked_again(failures_before: int) -> None:
    """Drivers turn a cancellation into "connection lost": the guard would swallow it with a retry."""
    rig, inside, tries = Rig(SystemClock(), retry_base_ms=0), asyncio.Event(), 0

    async def driver() -> None:
        nonlocal tries
        tries += 1
        if tries <= failures_before:
            raise Gone
        inside.set()
        try:
            await forever()
        except asyncio.CancelledError:
            raise Gone("connection lost") from None

    task = asyncio.create_task(rig.guard.call(JOB, driver))
    await inside.wait()
    task.cancel()
    with pytest.raises(Gone):
        await task
    assert tries == failures_before + 1
    assert rig.totals() == (0, 0)


async def test_another_dependencys_failure_is_not_held_against_this_one() -> None:
    """When the database is down, every service whose calls use it would seem to be down, too."""
    outer, inner = Rig(), Rig(tries=1)
    inner.guard.name = "postgres"
    service = Service(Gone())
    with pytest.raises(Gone) as caught:
        await outer.guard.call(JOB, inner.guard.call, JOB, service)
    assert service.tries == 1
    assert (outer.totals(), inner.totals()) == ((0, 0), (0, 1))
    assert caught.value.perdure_dependency == "postgres"  # type: ignore[attr-defined]
    with pytest.raises(BreakerOpen):
        await outer.guard.call(JOB, Service(BreakerOpen(name="postgres")))
    assert outer.totals() == (0, 0)


# --- the breaker


async def test_nothing_is_called_while_the_breaker_is_open() -> None:
    """A service that is down would be hammered by every job."""
    rig, service = Rig(), Service("answer")
    rig.breaker("open", seconds=12)
    with pytest.raises(BreakerOpen) as caught:
        await rig.guard.call(JOB, service)
    assert (caught.value.name, caught.value.seconds_left) == (NAME, 12)
    assert service.tries == 0
    assert rig.totals() == (0, 0)


async def test_t21_of_many_callers_one_is_the_probe() -> None:
    """A service that has just come back would get the whole crowd at once, and fall again."""
    rig, answered, service = Rig(SystemClock()), asyncio.Event(), Service("answer")
    rig.breaker("half_open", probe_job=7)

    async def call() -> str:
        await answered.wait()
        return str(await service())

    calls = [asyncio.create_task(rig.guard.call(JobCall(7 + i % 4), call)) for i in range(20)]
    await async_wait_until(lambda: sum(task.done() for task in calls) == 19)
    answered.set()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert results[0] == "answer"
    assert all(isinstance(one, BreakerOpen) for one in results[1:])
    assert service.tries == 1
    assert [(one.ok, one.probe_job) for one in rig.told] == [(1, 7)]
    assert await rig.guard.call(JOB, service) == "answer", "the job whose probe succeeded goes on"


async def test_a_probe_is_repeated_like_any_call_and_judged_once() -> None:
    """One lost packet would keep the breaker open for another break."""
    rig = Rig(tries=3)
    rig.breaker("half_open", probe_job=7)
    assert await rig.guard.call(JOB, Service(Gone(), "answer")) == "answer"
    assert [(one.ok, one.failed, one.probe_job) for one in rig.told] == [(1, 0, 7)]


async def test_t22_a_cancelled_probe_is_no_verdict() -> None:
    """The breaker would hang half open for ever, or close or open though nobody has asked the service."""
    rig, inside = Rig(SystemClock()), asyncio.Event()
    rig.breaker("half_open", probe_job=7)

    async def hang() -> None:
        inside.set()
        await forever()

    task = asyncio.create_task(rig.guard.call(JOB, hang))
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert rig.told == []
    assert await rig.guard.call(JOB, Service("answer")) == "answer"
    assert [(one.ok, one.probe_job) for one in rig.told] == [(1, 7)]


async def test_watch_counts_but_neither_asks_nor_repeats() -> None:
    """A statement in the middle of a transaction would be refused, or run again outside of what it belongs to."""
    rig, service = Rig(), Service(Gone())
    rig.breaker("open")
    with pytest.raises(Gone):
        await rig.guard.watch(JOB, service)
    assert await rig.guard.watch(JOB, Service("answer"), timeout=1) == "answer"
    assert service.tries == 1
    assert rig.totals() == (1, 1)


# --- something else instead


async def test_fallback() -> None:
    """A page could not be shown because its least important part is down."""
    rig, down = Rig(tries=1), Service(Gone("down"))

    async def ask_elsewhere(exc: Exception) -> str:
        return f"elsewhere, {exc}"

    assert await rig.guard.call(JOB, down, fallback=None) is None
    assert await rig.guard.call(JOB, down, fallback=[]) == []
    assert await rig.guard.call(JOB, down, fallback=lambda exc: f"instead, {exc}") == "instead, down"
    assert await rig.guard.call(JOB, down, fallback=ask_elsewhere) == "elsewhere, down"
    assert rig.totals() == (0, 4), "a fallback must not hide the outage from the breaker"
    rig.breaker("open")
    assert await rig.guard.call(JOB, Service("answer"), fallback="instead") == "instead"


async def test_no_fallback_for_the_callers_mistakes() -> None:
    """A typing error in a query would look like degraded service for ever."""
    rig = Rig(tries=1)
    for error in (ValueError("syntax"), Conflict("deadlock")):
        with pytest.raises(type(error)):
            await rig.guard.call(JOB, Service(error), fallback="instead", cache="key")


async def test_the_last_good_value_comes_before_the_fallback() -> None:
    """While a service is down its readers would get nothing, though they had it a minute ago."""
    rig = Rig(tries=1)
    assert await rig.guard.call(JOB, Service(Gone()), cache=("user", 1), fallback="none yet") == "none yet"
    with pytest.raises(Gone):
        await rig.guard.call(JOB, Service(Gone()), cache=("user", 1))
    assert await rig.guard.call(JOB, Service("old"), cache=("user", 1)) == "old"
    assert await rig.guard.call(JOB, Service("new"), cache=("user", 1)) == "new"
    rig.breaker("open")
    assert await rig.guard.call(JOB, Service("unheard"), cache=("user", 1), fallback="none") == "new"
    assert await rig.guard.call(JOB, Service("unheard"), cache=("user", 2), fallback="none") == "none"


async def test_few_last_good_values_are_kept() -> None:
    """A worker would grow with every key that it ever saw; or forget the ones that are in use."""
    rig = Rig(tries=1)
    for key in range(MOST_KEPT):
        await rig.guard.call(JOB, Service(key), cache=key)
    assert await rig.guard.call(JOB, Service(Gone()), cache=0) == 0, "used again: no longer the oldest"
    await rig.guard.call(JOB, Service("one more"), cache=MOST_KEPT)
    assert await rig.guard.call(JOB, Service(Gone()), cache=0) == 0
    assert await rig.guard.call(JOB, Service(Gone()), cache=1, fallback="forgotten") == "forgotten"
    assert len(rig.guard._last_good) == MOST_KEPT
