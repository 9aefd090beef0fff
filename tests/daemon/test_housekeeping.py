"""When duties are run."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.daemon import duties
from perdure.daemon.housekeeping import Housekeeping


class Counted:
    """A duty that counts."""

    def __init__(self, interval_seconds: float, *, busy_only: bool = False) -> None:
        self.interval_seconds = interval_seconds
        self.busy_only = busy_only
        self.runs = 0

    async def run(self, supervisor: Any) -> None:
        """Do it once."""
        self.runs += 1


class World:
    """A supervisor with one worker, and a loop whose time stands still."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.always, self.beside_work = Counted(10.0), Counted(0.1, busy_only=True)
        self.worker = SimpleNamespace(held={})
        self.alarms: list[Any] = []
        supervisor: Any = SimpleNamespace(
            core=SimpleNamespace(workers={1: self.worker}, next_due=None),
            clock=SimpleNamespace(now_ms=lambda: 0),
            turns=SimpleNamespace(under_way=False),
            pulse=asyncio.Event(),
        )
        monkeypatch.setattr(duties, "all_duties", lambda _: [self.always, self.beside_work])
        self.supervisor = supervisor
        self.housekeeping = Housekeeping(supervisor)
        self.now = self.housekeeping._loop.time()
        loop: Any = SimpleNamespace(time=lambda: self.now, call_at=self._call_at)
        self.housekeeping._loop = loop

    def _call_at(self, when: float, callback: Any) -> Any:
        alarm: Any = SimpleNamespace(when=when, cancelled=lambda: False, cancel=lambda: self.alarms.remove(alarm))
        self.alarms.append(alarm)
        return alarm

    async def pass_time(self, seconds: float) -> None:
        """Later the main loop asks, and runs what is due."""
        self.now += seconds
        if self.housekeeping.due():
            await self.housekeeping.run_due()

    @property
    def runs(self) -> tuple[int, int]:
        """How often which duty was run."""
        return self.always.runs, self.beside_work.runs


async def test_a_duty_beside_work_waits_for_its_interval_from_where_work_begins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first job after a rest would wait for a look at all that does not execute yet."""
    world = World(monkeypatch)
    await world.pass_time(5)
    assert world.runs == (0, 0)
    world.worker.held = {7: object()}
    await world.pass_time(1)
    assert world.runs == (0, 0)
    await world.pass_time(0.11)
    assert world.runs == (0, 1)
    await world.pass_time(0.05)
    assert world.runs == (0, 1)
    await world.pass_time(0.06)
    assert world.runs == (0, 2)


async def test_what_is_due_while_nothing_runs_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing would be pruned, and no watchdog fed, on an idle daemon."""
    world = World(monkeypatch)
    await world.pass_time(11)
    assert world.runs == (1, 0)
    await world.pass_time(9)
    await world.pass_time(1.1)
    assert world.runs == (2, 0)


async def test_there_is_one_alarm_and_it_is_not_too_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """A duty would come late, or each job would leave a timer behind."""
    world = World(monkeypatch)
    for number in range(50):
        world.worker.held = {} if number % 2 else {number: object()}
        await world.pass_time(0.03)
        (alarm,) = world.alarms
        first = world.housekeeping._first_idle if number % 2 else world.housekeeping._first_busy
        assert alarm.when <= first + 0.001


async def test_jobs_that_become_due_wake_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduled job would wait for the next duty."""
    world = World(monkeypatch)
    await world.pass_time(1)
    world.supervisor.core.next_due = 2_000
    await world.pass_time(0)
    assert [alarm.when for alarm in world.alarms] == [pytest.approx(world.now + 2)]


async def test_no_alarm_rings_for_what_is_due_while_a_turn_is_under_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """The main loop would spin until the turn is on disk, and take the GIL from the thread that writes it."""
    world = World(monkeypatch)
    world.supervisor.core.next_due = 0
    world.supervisor.turns.under_way = True
    await world.pass_time(0.0)
    assert [alarm.when for alarm in world.alarms if alarm.when <= world.now] == []
    world.supervisor.turns.under_way = False
    await world.pass_time(0.0)
    assert world.alarms[-1].when == world.now
