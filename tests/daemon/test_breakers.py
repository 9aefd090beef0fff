"""The breakers of a running daemon, with a supervisor and a store that are told what to do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from perdure.clock import SystemClock
from perdure.daemon.breakers import Breakers
from perdure.errors import StoreFull
from perdure.store.models import ParkedJob, SavedBreaker
from perdure.wire.data import BreakerEvent, KindSpec
from perdure.wire.dependencies import Policy
from perdure.wire.work import Observed
from tests.daemon.world import spec
from tests.support.wait import async_wait_until

POLICY = Policy(break_ms=20, ramp_start=100)


class Line:
    """The parked jobs, and what was asked of the store."""

    def __init__(self) -> None:
        self.parked: dict[str, list[int]] = {}
        self.asked: list[str] = []
        self.saved: dict[str, SavedBreaker] = {}
        self.full = False

    async def unpark_next(self, reason: str, after: ParkedJob | None) -> ParkedJob | None:
        self.asked.append(reason)
        waiting = self.parked.get(reason)
        return ParkedJob(waiting.pop(0), 0, "default") if waiting else None

    async def unpark(self, reasons: Sequence[str], limit: int, now: int) -> tuple[int, list[str]]:
        (reason,) = reasons
        waiting = self.parked.get(reason, [])
        self.parked[reason] = waiting[limit:]
        return len(waiting[:limit]), ["default"]

    async def parked_reasons(self, prefix: str) -> list[str]:
        return sorted(reason for reason, ids in self.parked.items() if ids and reason.startswith(prefix))

    async def save_breakers(self, breakers: Sequence[SavedBreaker], events: Sequence[BreakerEvent]) -> None:
        if self.full:
            raise StoreFull
        self.saved.update((one.name, one) for one in breakers)


class Rig:
    """Two breakers under a supervisor that does nothing."""

    def __init__(self, *kinds: KindSpec) -> None:
        self.line = Line()
        core = SimpleNamespace(stopping=False, kinds={one.name: one for one in kinds}, breaker_opened=lambda name: None)
        supervisor = SimpleNamespace(
            clock=SystemClock(),
            store=self.line,
            core=core,
            fleet=SimpleNamespace(links={}),
            engine=SimpleNamespace(queues_filled=lambda queues: None),
            pulse=asyncio.Event(),
            act=lambda: None,
            task=self.task,
        )
        self.tasks: set[asyncio.Task[Any]] = set()
        self.breakers = Breakers(cast(Any, supervisor), {"a": POLICY, "b": POLICY}, [])

    def task(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self.tasks.add(task)
        task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return task

    def state(self, name: str) -> str:
        return self.breakers.board.state(name).state

    async def half_open(self, *names: str) -> None:
        """Let their breaks be over."""
        for name in names:
            await self.breakers.open(name, "test", "", 1)
        await async_wait_until(lambda: all(self.state(name) == "half_open" for name in names), 10, "the breaks' end")


async def test_a_job_that_needs_two_half_open_breakers_probes_both() -> None:
    """With all jobs needing both, the probe of each would wait for the other: after an outage of two, for ever."""
    rig = Rig()
    await rig.half_open("a", "b")
    assert rig.breakers.parks(("a", "b"), 1) is None
    assert [rig.breakers.board.state(name).probe_job for name in ("a", "b")] == [1, 1]
    assert rig.breakers.parks(("a", "b"), 2) == "breaker:a"
    rig.breakers.observed(1, Observed("a", 1, probe_job=1))
    assert (rig.state("a"), rig.state("b")) == ("closed", "half_open")
    rig.breakers.ended((1,))
    assert rig.breakers.parks(("b",), 2) is None, "the first has not tried b: somebody else may"
    rig.breakers.close()


async def test_a_probe_that_another_dependency_keeps_gives_way() -> None:
    """It would be parked and hold the place of the probe until its time is over."""
    rig = Rig()
    await rig.breakers.open("b", "test", "", None)
    rig.line.parked["breaker:a"] = [1]
    await rig.half_open("a")
    await async_wait_until(lambda: rig.breakers.board.state("a").probe_job == 1, 10, "a probe")
    assert rig.breakers.parks(("a", "b"), 1) == "breaker:b"
    assert rig.breakers.parks(("a",), 2) is None
    rig.breakers.close()


async def test_a_backlog_is_released_while_calls_are_made() -> None:
    """Each report would put the next piece off, and as long as any dependency is in use nothing would be released."""
    rig = Rig()
    rig.line.parked["breaker:a"] = list(range(1, 31))
    await rig.breakers.open("a", "test", "", None)
    await rig.breakers.close_breaker("a", "test", "")

    def released() -> bool:
        rig.breakers.observed(1, Observed("b", 1))
        return not rig.line.parked["breaker:a"]

    await async_wait_until(released, 10, "the backlog to go")
    rig.breakers.close()


async def test_nobody_is_asked_for_again_and_again() -> None:
    """A half-open breaker for which nobody waits would keep an idle daemon busy, ten times a second."""
    rig = Rig()
    await rig.half_open("a")
    await async_wait_until(lambda: rig.line.asked, 10, "a first look")
    await rig.half_open("b")
    await async_wait_until(lambda: "breaker:b" in rig.line.asked, 10, "the other one's")
    assert rig.line.asked == ["breaker:a", "breaker:b"]
    rig.line.parked["breaker:a"] = [7]
    await rig.breakers.look()
    await async_wait_until(lambda: rig.breakers.board.state("a").probe_job == 7, 10, "the next look")
    rig.breakers.close()


async def test_what_could_not_be_saved_is_told_and_saved_later() -> None:
    """`perdure breaker open` would say that it is done, and the next start would know nothing of it."""
    rig = Rig()
    rig.line.full = True
    with pytest.raises(StoreFull):
        await rig.breakers.open("a", "test", "", None)
    assert rig.state("a") == "open"
    rig.line.full = False
    await rig.breakers.look()
    await rig.breakers.saved()
    assert rig.line.saved["a"].state == "open"
    rig.breakers.close()


async def test_a_need_that_no_handler_has_any_more_keeps_nobody() -> None:
    """Jobs of a handler whose need was misspelt would stay parked for ever, whatever is reloaded."""
    rig = Rig(spec("one", "async", ["a"]), spec("two", "async", ["nowhere"]))
    rig.line.parked = {"needs:a": [1], "needs:misspelt": [2], "needs:nowhere": [3]}
    assert await rig.breakers.settled_needs() == ["needs:a", "needs:misspelt"]
