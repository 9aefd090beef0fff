"""Conformance: what outlasts a restart of the breakers, and the name of the queue."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from perdure.errors import StoreError
from perdure.store.breakers import KEPT_EVENTS
from perdure.store.models import SavedBreaker
from perdure.store.sqlite import open_sqlite
from perdure.wire.data import BreakerEvent
from tests.store.conftest import OpenDesk
from tests.store.desk import START_MS


def saved(name: str, state: str = "open", until: int | None = START_MS) -> SavedBreaker:
    """A breaker as the board saves it."""
    return SavedBreaker(name, state, START_MS, "", "6 of 10 calls failed", until, 30_000)


def event(name: str, number: int) -> BreakerEvent:
    """One of many changes."""
    return BreakerEvent(name, START_MS + number, "closed", "open", f"change {number}", "ann" if number % 2 else "")


async def test_breakers_outlast_a_restart(open_desk: OpenDesk) -> None:
    """A restart would send all jobs at a database that is down, or let go what somebody has closed by hand."""
    async with open_desk() as desk:
        assert await desk.store.breakers() == []
        await desk.store.save_breakers([saved("pg"), saved("neo4j", until=None)], [event("pg", 1)])
        await desk.store.save_breakers([saved("pg", "half_open", None)], [event("pg", 2), event("neo4j", 3)])
        await desk.store.save_breakers([], [])
    async with open_desk() as desk:
        assert await desk.store.breakers() == [saved("neo4j", until=None), saved("pg", "half_open", None)]
        assert await desk.store.breaker_events(9) == [event("neo4j", 3), event("pg", 2), event("pg", 1)]
        assert await desk.store.breaker_events(1) == [event("neo4j", 3), event("pg", 2)]
        assert await desk.store.breaker_events(0) == []


async def test_old_changes_make_way(open_desk: OpenDesk) -> None:
    """A breaker that flaps for a year would fill the disk, or push out the changes of another."""
    async with open_desk() as desk:
        await desk.store.save_breakers([], [event("calm", 0)])
        for start in range(0, 2 * KEPT_EVENTS, 50):
            await desk.store.save_breakers([saved("wild")], [event("wild", start + number) for number in range(50)])
        kept = await desk.store.breaker_events(10 * KEPT_EVENTS)
        newest = [event("wild", number) for number in reversed(range(KEPT_EVENTS, 2 * KEPT_EVENTS))]
        assert kept == [*newest, event("calm", 0)]


async def test_a_breaker_and_its_change_are_saved_together(open_desk: OpenDesk) -> None:
    """After a crash the record would tell another story than the state."""
    async with open_desk() as desk:
        with pytest.raises(StoreError):
            await desk.store.save_breakers([saved("pg"), saved("neo4j", "ajar")], [event("pg", 1)])
        assert await desk.store.breakers() == []
        assert await desk.store.breaker_events(9) == []


async def test_a_queue_has_a_name_of_its_own(open_desk: OpenDesk) -> None:
    """Two queues that share a database would take each other's marks for their own, and skip work."""
    async with open_desk() as desk:
        name = await desk.store.store_id()
        assert re.fullmatch("[0-9a-f]{32}", name)
    async with open_desk() as desk:
        assert await desk.store.store_id() == name


async def test_no_two_queues_have_the_same_name(tmp_path: Path) -> None:
    """The name would be a constant of the program."""
    names = set()
    for number in range(3):
        async with await open_sqlite(tmp_path / f"{number}.db", durability="normal") as store:
            names.add(await store.store_id())
    assert len(names) == 3
