"""What a job's context reaches: adapters made once, guards for other services, marks, and the end of it all."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perdure.adapters.call import JobCall
from perdure.adapters.once import make_mark
from perdure.adapters.toolbox import JobTools, Toolbox
from perdure.adapters.view import BreakerView
from perdure.clock import SystemClock
from perdure.errors import BreakerOpen, CallTooLong, JobCancelled, JobTimeout, UnknownDependency, UsageError
from perdure.wire.dependencies import BreakerState, Dependencies, Policy, QdrantOptions
from perdure.wire.work import Observed
from tests.support.wait import async_wait_until

FAST = Policy(tries=3, retry_base_ms=1, retry_cap_ms=2)


class Kit:
    """A toolbox on the running loop, and what it told."""

    def __init__(self, *, policy: Policy = FAST, **options: Any) -> None:
        self.told: list[Observed] = []
        clock = SystemClock()
        self.view = BreakerView(self.told.append, clock)
        self.box = Toolbox(
            Dependencies(policies={"billing": policy, "postgres": policy, "qdrant": policy}, **options),
            "store",
            self.view,
            asyncio.get_running_loop(),
            clock,
            random.Random(1),
        )
        self.tools = self.box.tools(7, None, 0)

    def totals(self) -> tuple[int, int]:
        """Good and failed calls."""
        self.view.flush()
        return sum(one.ok for one in self.told), sum(one.failed for one in self.told)


async def in_thread(function: Callable[[], Any]) -> Any:
    """Run it as a synchronous handler runs: in another thread."""
    return await asyncio.to_thread(function)


def blocking(kit: Kit, function: Callable[[], Any]) -> Callable[[], Any]:
    """The guarded function, made in the thread that calls it."""

    def run() -> Any:
        guarded: Callable[[], Any] = kit.tools.blocking.guard("billing")(function)
        return guarded()

    return run


class Service:
    """Fails some times, then answers; notes the threads that called."""

    def __init__(self, *failures: BaseException) -> None:
        self.failures = list(failures)
        self.threads: list[int] = []

    def __call__(self, value: Any = "fine", **_named: Any) -> Any:
        self.threads.append(threading.get_ident())
        if self.failures:
            raise self.failures.pop(0)
        return value

    async def later(self, *args: Any, **named: Any) -> Any:
        return self(*args, **named) if not named else (args, named)


# --- names


async def test_an_unknown_name_gets_a_hint() -> None:
    """A misspelt name would leave a call without its breaker."""
    kit = Kit()
    with pytest.raises(UnknownDependency, match="did you mean 'billing'"):
        kit.tools.guard("biling")
    with pytest.raises(UnknownDependency, match=r"\[dependencies\.weather\]"):
        kit.tools.guard("weather")


@pytest.mark.parametrize("name", ["postgres", "neo4j", "qdrant"])
async def test_an_adapter_that_is_not_configured_says_so(name: str) -> None:
    """An AttributeError would tell nobody to add a section."""
    kit = Kit()
    with pytest.raises(UnknownDependency, match=rf"\[{name}\] is not configured"):
        getattr(kit.tools, name)
    with pytest.raises(UnknownDependency, match=rf"\[{name}\] is not configured"):
        await in_thread(lambda: getattr(kit.tools.blocking, name))


# --- places


async def test_each_side_has_its_own_tools() -> None:
    """Blocking the loop stops every job of the worker; a coroutine elsewhere never ends."""
    tools = Kit().tools

    async def elsewhere() -> None:
        _ = tools.postgres

    with pytest.raises(UsageError, match=r"await ctx\.postgres"):
        _ = tools.blocking
    with pytest.raises(UsageError, match=r"ctx\.blocking\.postgres"):
        await in_thread(lambda: tools.postgres)
    with pytest.raises(UsageError, match=r"ctx\.blocking\.guard"):
        await in_thread(lambda: tools.guard("billing"))
    with pytest.raises(UsageError, match=r"ctx\.blocking\.postgres"):
        await in_thread(lambda: asyncio.run(elsewhere()))


# --- guards


async def test_a_guarded_function_keeps_its_arguments_and_name() -> None:
    """An argument named like one of the guard's would be swallowed."""
    service = Service()
    guarded = Kit().tools.guard("billing")(service.later)
    assert await guarded(1, timeout=2, fallback=3, retry=4) == ((1,), {"timeout": 2, "fallback": 3, "retry": 4})
    assert guarded.__name__ == "later"


class SoldOut(Exception):
    """What a client of somebody's own raises when the service is away."""


async def test_a_users_own_exceptions_can_say_that_the_service_is_away() -> None:
    """The breaker of a service with an odd client would never open, and nothing would be repeated."""
    kit = Kit()
    assert await kit.tools.guard("billing", unavailable=(SoldOut,))(Service(SoldOut(), SoldOut()).later)("ok") == "ok"
    assert kit.totals() == (1, 0)
    service = Service(*(SoldOut() for _ in range(9)))
    with pytest.raises(SoldOut):
        await kit.tools.guard("billing", unavailable=(SoldOut,), retry=False)(service.later)()
    group = ExceptionGroup("both", [SoldOut(), TimeoutError()])
    with pytest.raises(ExceptionGroup):
        await kit.tools.guard("billing", unavailable=(SoldOut,), retry=False)(Service(group).later)()
    with pytest.raises(SoldOut):
        await kit.tools.guard("billing")(service.later)()
    assert kit.totals() == (2, 2), "without that word it is the caller's affair"

    def by_hand() -> Any:
        return kit.tools.blocking.guard("billing", unavailable=(SoldOut,))(Service(SoldOut()))("ok")

    assert await in_thread(by_hand) == "ok"
    assert kit.totals() == (3, 2)
    with pytest.raises(UsageError, match="tuple of exception classes"):
        kit.tools.guard("billing", unavailable=SoldOut)  # type: ignore[arg-type]


async def test_a_guard_repeats_counts_and_falls_back() -> None:
    """A user's own service would be worse off than a database."""
    kit = Kit()
    assert await kit.tools.guard("billing")(Service(ConnectionError(), ConnectionError()).later)("ok") == "ok"
    assert kit.totals() == (1, 0)
    dead = Service(*[ConnectionError("gone")] * 9)
    assert await kit.tools.guard("billing", fallback=None)(dead.later)() is None
    assert await kit.tools.guard("billing", fallback=str, retry=False)(dead.later)() == "gone"
    with pytest.raises(ConnectionError):
        await kit.tools.guard("billing", retry=False)(dead.later)()
    assert kit.totals() == (1, 3)


async def test_a_blocking_function_runs_in_its_callers_thread() -> None:
    """It would lose its thread's connections and the soft time limit; its fallback would block the loop."""
    kit = Kit()
    service, reserve = Service(ConnectionError(), ConnectionError()), Service()

    def handler() -> tuple[int, Any, Any]:
        guard = kit.tools.blocking.guard
        first = guard("billing")(service)("ok")
        dead = Service(*[ConnectionError("gone")] * 3)
        second = guard("billing", fallback=lambda error: reserve(str(error)))(dead)()
        return threading.get_ident(), first, second

    thread, first, second = await in_thread(handler)
    assert (first, second) == ("ok", "gone")
    assert set(service.threads + reserve.threads) == {thread}
    assert len(service.threads) == 3
    assert kit.totals() == (1, 1)


async def test_a_blocking_function_may_raise_anything() -> None:
    """StopIteration cannot pass a future: the handler would wait for ever."""
    kit = Kit()

    def stop() -> None:
        next(iter(()))

    for function, raised in ((stop, RuntimeError), (Service(KeyError("x")), KeyError)):
        with pytest.raises(raised):
            await in_thread(blocking(kit, function))
    kit.view.update([BreakerState("billing", "open")])
    untouched = Service()
    with pytest.raises(BreakerOpen):
        await in_thread(blocking(kit, untouched))
    assert untouched.threads == []


@pytest.mark.parametrize("error", [JobTimeout, JobCancelled, SystemExit])
async def test_a_time_limit_within_a_blocking_function_is_the_jobs_alone(error: type[BaseException]) -> None:
    """It would be repeated, or count against a service that did nothing wrong."""
    kit = Kit()
    service = Service(error())
    kit.view.update([BreakerState("billing", "half_open", 0, 7)])
    caught: list[BaseException] = []

    def handler() -> None:
        try:
            kit.tools.blocking.guard("billing", fallback="no")(service)()
        except BaseException as raised:
            caught.append(raised)

    await in_thread(handler)
    assert [type(one) for one in caught] == [error]
    assert len(service.threads) == 1
    assert kit.told == []
    # The probe was given back, so the same job may make it again.
    await async_wait_until(lambda: not asyncio.all_tasks() - {asyncio.current_task()})
    assert await in_thread(blocking(kit, service)) == "fine"
    assert kit.told[0].probe_job == 7


async def test_a_blocking_function_that_takes_too_long_counts_at_once() -> None:
    """A service that hangs would be found out only when it lets go; and what it gives then would be asked for again."""
    kit = Kit(policy=Policy(tries=1, timeout_ms=50))
    release = threading.Event()
    running = asyncio.create_task(in_thread(blocking(kit, release.wait)))
    await async_wait_until(lambda: kit.told)
    assert kit.told[0].failed == 1
    assert not running.done()
    release.set()
    assert await running is True


async def test_a_blocking_function_that_fails_too_late_took_too_long() -> None:
    """Its own error would hide that the time limit was over, or its job would go on without the value."""
    kit = Kit(policy=Policy(tries=1, timeout_ms=50))
    release = threading.Event()

    def fail() -> None:
        release.wait()
        raise ValueError("no")

    running = asyncio.create_task(in_thread(blocking(kit, fail)))
    await async_wait_until(lambda: kit.told)
    release.set()
    with pytest.raises(CallTooLong):
        await running


# --- adapters


async def test_an_adapter_is_made_once_and_used_by_both_sides(tmp_path: Path) -> None:
    """Each job would open a pool of its own."""
    kit = Kit(policy=Policy(timeout_ms=30_000), qdrant=QdrantOptions(path=str(tmp_path / "points")))
    assert await kit.tools.qdrant.ensure_collection("documents", 2)
    other = kit.box.tools(8, None, 0)
    assert await in_thread(lambda: other.blocking.qdrant.count("documents")) == 0
    pools = await asyncio.gather(*(in_thread(kit.box.qdrant) for _ in range(4)))
    assert {id(pool) for pool in pools} == {id(kit.box.qdrant())}
    assert kit.box.guard("qdrant") is kit.box.qdrant().guard
    assert kit.tools.qdrant is kit.tools.qdrant
    await kit.box.close(10.0)


class Stuck:
    """An adapter whose server never lets go, whatever it is told."""

    def __init__(self) -> None:
        self.released = asyncio.Event()

    async def close(self) -> None:
        while not self.released.is_set():
            try:
                await self.released.wait()
            except asyncio.CancelledError:
                continue


class Broken:
    """An adapter that cannot even be closed."""

    async def close(self) -> None:
        raise OSError("no")


async def test_the_end_does_not_wait_for_what_hangs() -> None:
    """A drained worker would never end."""
    kit = Kit(qdrant=QdrantOptions(path="unused"))
    stuck = Stuck()
    kit.box._adapters |= {"neo4j": stuck, "postgres": Broken()}
    started = time.monotonic()
    await kit.box.close(0.05)
    assert time.monotonic() - started < 5
    with pytest.raises(UsageError, match="the worker is ending"):
        _ = kit.tools.qdrant
    stuck.released.set()
    await async_wait_until(lambda: len(asyncio.all_tasks()) == 1)


# --- marks


def test_marks_do_not_collide() -> None:
    """A key that looks like a job's id would take that job's effect for done."""
    marks = [
        make_mark("s", JobCall(5), "a"),
        make_mark("s", JobCall(6), "a"),
        make_mark("s", JobCall(5), "a", "global"),
    ]
    marks += [
        make_mark("s", JobCall(6), "5:a", "global"),
        make_mark("t", JobCall(5), "a"),
        make_mark("s", JobCall(5, None, 9), "a"),
    ]
    assert len(set(marks)) == len(marks)
    assert make_mark("s", JobCall(5), "a", "global") == make_mark("s", JobCall(6), "a", "global")


@pytest.mark.parametrize("key", ["", "x" * 257, "a\0b", 7, None])
def test_a_key_that_cannot_be_one_is_refused(key: object) -> None:
    """An index would refuse it in the middle of a transaction."""
    with pytest.raises(UsageError, match="once: a key has"):
        make_mark("s", JobCall(1), key)


async def test_points_have_the_same_id_at_each_delivery() -> None:
    """A second delivery would double the points."""
    tools: list[JobTools] = [Kit().tools, Kit().tools]
    first, second = ([one.once("passage").point_id(n) for n in range(3)] for one in tools)
    assert first == second
    assert len(set(first)) == 3
    assert await in_thread(lambda: tools[0].blocking.once("passage").point_id(0)) == first[0]
