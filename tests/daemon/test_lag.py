"""The meter of a loop's lag: what is late is noted, what stood in the way is named, and nobody else."""

from __future__ import annotations

import asyncio
import inspect
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from typing import Any
from unittest.mock import patch

import pytest
import uvloop

from perdure.daemon import lag
from perdure.daemon.lag import BURST, COARSE_NS, FINE_NS, QUIET_TICKS, REFILL_NS, UNSEEN, LagMeter, Throttle
from perdure.daemon.lag_sample import Sample
from perdure.wire.work import LoopBlocked
from tests.support.wait import async_wait_until

MS = 1_000_000
SECOND = 1_000_000_000


# --- the rules, with a clock and a loop that are passed in


class Handle:
    """A timer."""

    def __init__(self, seconds: float, callback: Callable[[], None]) -> None:
        self.interval_ns = round(seconds * 1e9)
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class NoUse:
    """A thread that uses no CPU and waits for none: what the test itself takes is none of the loop's."""

    def read(self) -> tuple[int, int]:
        return 0, 0

    def close(self) -> None:
        pass


class World:
    """A loop that turns when told, and the clocks. The watcher looks when told, too."""

    def __init__(self, **options: Any) -> None:
        self.now_ns = 10 * SECOND
        self.cpu_ns = 0
        self.timers: list[Handle] = []
        self.told: list[LoopBlocked] = []
        self.held = False
        self.takes = True
        loop: Any = self
        self.meter = LagMeter(
            loop,
            self._tell,
            held=lambda: self.held,
            clock=lambda: self.now_ns,
            cpu_clock=lambda: self.cpu_ns,
            **options,
        )
        self.meter._watch = lambda: None  # type: ignore[method-assign]
        self.meter._watcher = threading.Thread(target=self.meter._watch)
        with patch.object(lag, "ThreadUse", NoUse):
            self.meter.start()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Handle:
        self.timers.append(Handle(seconds, callback))
        return self.timers[-1]

    def _tell(self, blocked: LoopBlocked) -> bool:
        if self.takes:
            self.told.append(blocked)
        return self.takes

    @property
    def interval_ns(self) -> int:
        """Until the next tick."""
        return self.timers[-1].interval_ns

    def tick(self, late_ns: int = 0, *, seen_as: Sample | None = None, cpu_ns: int = 0) -> None:
        """The timer fires, late or in time; the watcher has looked when it was due to look, if there was something."""
        timer = self.timers[-1]
        if seen_as is not None:
            begun_ns = self.now_ns
            self.now_ns += timer.interval_ns + lag.BLOCKED_NS
            self.meter._planned_ns = self.now_ns
            self.meter._sample = lambda: seen_as  # type: ignore[method-assign]
            self.meter.look()
            self.now_ns = begun_ns
        self.now_ns += timer.interval_ns + late_ns
        self.cpu_ns += cpu_ns
        timer.callback()

    def rest(self) -> None:
        """Let it find that nothing goes on."""
        for _ in range(QUIET_TICKS + 1):
            self.tick()


@pytest.fixture
def world() -> Iterator[World]:
    """A world in which nothing goes on yet."""
    made = World()
    yield made
    made.meter.close()


HANDLER = Sample("job 12 reports.nightly attempt 1", "/srv/reports.py:7 in nightly")


def test_a_loop_that_does_nothing_is_looked_at_once_a_second(world: World) -> None:
    """An idle daemon would wake up a hundred times a second."""
    world.rest()
    assert world.interval_ns == COARSE_NS


def test_work_is_looked_at_closely_from_its_beginning(world: World) -> None:
    """A short block would fall between two coarse ticks."""
    world.rest()
    coarse = world.timers[-1]
    world.now_ns += 300 * MS
    world.meter.busy()
    assert world.interval_ns == FINE_NS
    assert coarse.cancelled
    assert world.meter._alarm_ns == world.now_ns + lag.BLOCKED_NS
    timers = len(world.timers)
    world.meter.busy()
    assert len(world.timers) == timers, "the hot path must not touch the timer"


def test_work_that_may_begin_at_any_moment_is_watched_all_the_time() -> None:
    """A handler that awaits for long and then blocks would not be seen."""
    world = World()
    world.held = True
    world.rest()
    assert world.interval_ns == FINE_NS
    world.held = False
    world.rest()
    assert world.interval_ns == COARSE_NS
    world.meter.close()


def test_what_blocked_is_named_once_it_is_over(world: World) -> None:
    """The length is known at the end only."""
    world.tick(100 * MS, seen_as=HANDLER)
    assert world.told == [LoopBlocked(100.0, HANDLER.task, HANDLER.stack)]
    assert world.meter.figures()[0] == 100.0


def test_a_short_lag_is_noted_and_not_told(world: World) -> None:
    """Warnings that name what is in order are not read."""
    world.tick(15 * MS)
    assert world.told == []
    assert world.meter.figures()[0] == 15.0


def test_a_timer_that_comes_early_is_no_lag(world: World) -> None:
    """uvloop rounds to milliseconds."""
    world.tick(-MS)
    assert world.meter.figures() == (0.0, 0.0)


def test_nobody_is_blamed_for_a_machine_that_is_too_busy(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An innocent line would be named whenever other programs take the CPUs."""
    use = world.meter._use
    assert use is not None
    ran_ns, starved_ns = use.read()
    monkeypatch.setattr(use, "read", lambda: (ran_ns, starved_ns + 90 * MS))
    world.tick(100 * MS, seen_as=HANDLER)
    assert world.told == []
    assert world.meter.figures()[0] == 100.0


def test_a_suspended_machine_is_no_lag(world: World) -> None:
    """After a laptop's lid was closed the status would show an hour."""
    world.tick(3600 * SECOND)
    assert world.told == []
    assert world.meter.figures()[0] == 0.0


def test_a_long_lag_that_the_watcher_has_seen_is_one(world: World) -> None:
    """A handler that waits for a minute in a blocking call uses no CPU, as if it were suspended."""
    world.tick(60 * SECOND, seen_as=HANDLER)
    assert world.told[0].lag_ms == 60_000
    assert world.meter.figures()[0] == 60_000


def test_a_long_lag_that_used_the_cpu_is_one(world: World) -> None:
    """C code that holds the GIL stops the watcher too."""
    world.tick(5 * SECOND, cpu_ns=4 * SECOND)
    assert world.meter.figures()[0] == 5_000


def test_who_holds_the_gil_in_another_thread_is_named() -> None:
    """The loop itself executes nothing then, and nothing would be found."""
    rival = Sample("job 3 reports.regex attempt 1", "/srv/reports.py:21 in regex")
    world = World(rival=lambda: rival)
    world.tick(100 * MS)
    assert world.told == [LoopBlocked(100.0, *rival)]
    world.meter.close()


def test_a_lag_that_nobody_explains_is_not_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that names nothing is of no use; one that used the CPU, and so ran on the loop, is told without a name."""
    world.tick(100 * MS)
    assert world.told == []
    use = world.meter._use
    assert use is not None
    ran_ns, starved_ns = use.read()
    monkeypatch.setattr(use, "read", lambda: (ran_ns + 90 * MS, starved_ns))
    world.tick(100 * MS)
    assert world.told == [LoopBlocked(100.0, "", UNSEEN)]


def test_what_hangs_is_told_before_it_ends(world: World) -> None:
    """A handler that never comes back would never be named."""
    meter = world.meter
    meter._sample = lambda: HANDLER  # type: ignore[method-assign]
    world.now_ns += FINE_NS
    for _ in range(9):
        wait_ns = meter._planned_ns = world.now_ns + meter.look()
        world.now_ns = wait_ns
    assert [(round(one.lag_ms / 1000), one.still) for one in world.told] == [(1, True), (2, True)]


def test_a_flood_of_warnings_is_counted_and_not_written(world: World) -> None:
    """A handler that blocks at each call would fill the disk with its log."""
    for _ in range(BURST + 3):
        world.tick(50 * MS, seen_as=HANDLER)
    assert len(world.told) == BURST
    world.now_ns += REFILL_NS
    world.timers[-1].interval_ns = 0
    world.tick(50 * MS, seen_as=HANDLER, cpu_ns=REFILL_NS)
    assert world.told[-1].left_out == 3


def test_what_could_not_be_told_is_counted(world: World) -> None:
    """A supervisor that reads slowly must learn that something is missing."""
    world.takes = False
    world.tick(50 * MS, seen_as=HANDLER)
    world.takes = True
    world.tick(50 * MS, seen_as=HANDLER)
    assert world.told[-1].left_out == 1


def test_the_throttle_fills_up_again() -> None:
    """Tomorrow's trouble would be left out for today's."""
    throttle = Throttle()
    assert [throttle.allows(0) for _ in range(BURST + 1)] == [True] * BURST + [False]
    assert throttle.allows(REFILL_NS)
    assert [throttle.allows(1000 * REFILL_NS) for _ in range(BURST + 1)] == [True] * BURST + [False]


def test_the_heart_beats_once_a_second_at_any_pace() -> None:
    """The supervisor's figures would be old, or cost more than what they measure."""
    beats: list[int] = []
    world = World(beat=lambda: beats.append(world.now_ns))
    for _ in range(3 * SECOND // FINE_NS):
        world.meter.busy()
        world.tick()
    assert 3 <= len(beats) <= 4
    world.rest()
    del beats[:]
    for _ in range(3):
        world.tick()
    assert len(beats) == 3
    world.meter.close()


# --- a real loop


def run_on_uvloop(test: Callable[[list[LoopBlocked], LagMeter], Coroutine[Any, Any, None]]) -> None:
    """Run it on the loop that the daemon has, with a meter."""

    async def main() -> None:
        told: list[LoopBlocked] = []

        def tell(blocked: LoopBlocked) -> bool:
            told.append(blocked)
            return True

        meter = LagMeter(asyncio.get_running_loop(), tell)
        meter.start()
        # What is told on top of a loop is known from the first tick on.
        await async_wait_until(lambda: meter._base is not None, what="the first tick")
        try:
            await test(told, meter)
        finally:
            meter.close()

    uvloop.run(main())


def spin(seconds: float) -> int:
    """Use the CPU; the line of the loop."""
    end = time.thread_time() + seconds
    while time.thread_time() < end:
        pass
    frame = inspect.currentframe()
    assert frame is not None
    return frame.f_lineno


def test_a_task_that_blocks_is_found_on_a_real_loop() -> None:
    """Who reads the log must find the job, and the line in it."""

    async def test(told: list[LoopBlocked], meter: LagMeter) -> None:
        async def nightly() -> None:
            spin(0.2)

        await asyncio.create_task(nightly(), name="job 12 reports.nightly attempt 1")
        await async_wait_until(lambda: told, what="the report")
        frames = told[0].stack.split(" < ")
        assert told[0].task == "job 12 reports.nightly attempt 1"
        assert frames[0].startswith(f"{__file__}:")
        assert frames[0].endswith(" in spin")
        assert frames[1].endswith(" in nightly")
        assert len(frames) == 2, "what turns the loop is of no interest"
        assert 150 <= told[0].lag_ms == round(meter.figures()[0], 1)

    run_on_uvloop(test)


def test_a_task_that_hangs_is_found_while_it_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    """The watchdog would abort the daemon before a word was said."""
    monkeypatch.setattr(lag, "STILL_NS", 40 * MS)

    async def test(told: list[LoopBlocked], meter: LagMeter) -> None:
        seen = threading.Event()
        meter._tell = lambda blocked: not told.append(blocked) and not seen.set()  # type: ignore[func-returns-value]
        assert seen.wait(20), "nothing was told while the loop stood still"
        assert told[0].still
        assert "threading.py" in told[0].stack.split(" < ")[0]

    run_on_uvloop(test)


def test_a_loop_that_was_quiet_is_looked_at_as_soon_as_there_is_work() -> None:
    """The watcher sleeps for long while nothing goes on, and must be woken."""

    async def test(told: list[LoopBlocked], meter: LagMeter) -> None:
        await async_wait_until(lambda: not meter._fine, what="coarse ticks")
        meter.busy()
        spin(0.2)
        await async_wait_until(lambda: told, what="the report")
        assert "in spin" in told[0].stack

    run_on_uvloop(test)


def test_a_meter_leaves_nothing_behind() -> None:
    """A thread for each meter that ever was."""

    async def test(told: list[LoopBlocked], meter: LagMeter) -> None:
        assert meter._watcher.is_alive()
        meter.close()
        assert not meter._watcher.is_alive()
        meter.busy()

    run_on_uvloop(test)
