"""Many time limits behind one timer: each ends what it is the limit of, and nothing else."""

from __future__ import annotations

import asyncio

from perdure.clock import SystemClock
from perdure.deadlines import Deadlines
from tests.support.wait import async_wait_until

SECOND_NS = 1_000_000_000


class Limited:
    """Something with a limit in so many seconds; it refuses to be cut so often before it is."""

    def __init__(self, now_ns: int, seconds: float, refusals: int = 0) -> None:
        self.ends_ns = now_ns + int(seconds * SECOND_NS)
        self.refusals = refusals
        self.early_ns: int | None = None

    def cut(self) -> bool:
        """Note how early it comes."""
        if self.refusals:
            self.refusals -= 1
            return False
        if self.early_ns is None:
            self.early_ns = self.ends_ns - SystemClock().monotonic_ns()
        return True


class World:
    """Deadlines on the running loop."""

    def __init__(self) -> None:
        self.clock = SystemClock()
        self.running: set[Limited] = set()
        self.deadlines = Deadlines(self.clock, self.running)

    def add(self, seconds: float, refusals: int = 0) -> Limited:
        """One more that runs."""
        now_ns = self.clock.monotonic_ns()
        one = Limited(now_ns, seconds, refusals)
        self.running.add(one)
        self.deadlines.watch(one.ends_ns, now_ns)
        return one


async def test_each_is_cut_when_its_time_is_over_and_not_before() -> None:
    """A call would be ended that had time left, or one that never ends would hold its slot for ever."""
    world = World()
    late, never, soon = world.add(0.05), world.add(3_600), world.add(0.01)
    await async_wait_until(lambda: late.early_ns is not None and soon.early_ns is not None)
    assert all((one.early_ns or 0) <= 0 for one in (late, soon))
    assert never.early_ns is None


async def test_what_cannot_be_cut_yet_is_asked_again() -> None:
    """A job that had not begun when its time was over would run without a limit."""
    world = World()
    stubborn = world.add(0.001, refusals=3)
    await async_wait_until(lambda: stubborn.early_ns is not None)


async def test_what_has_ended_is_left_alone_and_others_still_have_limits() -> None:
    """The timer of one that ended in time would be the last one ever."""
    world = World()
    ended = world.add(0.005)
    world.running.discard(ended)
    await asyncio.sleep(0)
    later = world.add(0.02)
    await async_wait_until(lambda: later.early_ns is not None)
    world.running.clear()
    last = world.add(0.01)
    await async_wait_until(lambda: last.early_ns is not None)
    assert ended.early_ns is None


async def test_a_limit_that_matters_no_more_is_not_enforced() -> None:
    """A job whose handler has returned would be cancelled while its result is written."""
    world = World()
    done, other = world.add(0.005), world.add(0.03)
    done.ends_ns = 0
    await async_wait_until(lambda: other.early_ns is not None)
    assert done.early_ns is None


async def test_a_new_limit_does_not_put_off_one_that_is_over() -> None:
    """On a loop that is late, each new call would keep the old ones from being ended."""
    world = World()
    over = world.add(0.001)
    while world.clock.monotonic_ns() < over.ends_ns + 5_000_000:
        pass  # the loop does not turn meanwhile
    world.add(3_600)
    await async_wait_until(lambda: over.early_ns is not None)
