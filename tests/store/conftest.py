"""The stores that the conformance tests run over. A new backend gets a class here, and every test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest

from perdure.store import small_turns
from perdure.store.contract import Store
from perdure.store.sqlite import open_sqlite
from tests.store.desk import Desk

#: Opens the test's queue; a second time, after the first is closed, the same queue again.
OpenDesk = Callable[[], AbstractAsyncContextManager[Desk]]


class SqliteBackend:
    """One file in the test's folder."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "queue.db"

    async def open(self) -> Store:
        """Durability is no matter of these tests, so they do not wait for the disk."""
        return await open_sqlite(self._path, durability="normal")


@pytest.fixture(params=[small_turns.MOST_STEPS, -1], ids=["small", "large"])
def either_way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Turns of a few jobs are carried out in their own way; and all turns like those of many jobs."""
    monkeypatch.setattr(small_turns, "MOST_STEPS", request.param)


@pytest.fixture(params=[SqliteBackend], ids=["sqlite"])
def open_desk(request: pytest.FixtureRequest, tmp_path: Path, either_way: None) -> OpenDesk:
    """The conformance tests' way to a store."""
    backend = request.param(tmp_path)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Desk]:
        store = await backend.open()
        try:
            yield Desk(store)
        finally:
            await store.close()

    return opened
