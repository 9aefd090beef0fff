"""Payloads on their way into the queue: which files stay, when a request is refused or its client goes away."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from perdure.daemon import spool as spooling
from perdure.daemon.files import FileIntake
from perdure.daemon.spool import Spool
from perdure.errors import Duplicate, InvalidOption, QueueFull, StoreError, StoreFull
from perdure.wire.control import Enqueue
from perdure.wire.data import Blob, Enqueued, JobSpec
from tests.support.wait import async_wait_until


class World:
    """A spool, and a queue that answers when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = Spool(folder / "spool", 1 << 20)
        self.intake = FileIntake(self.spool, self.enqueue, lambda request: None, self.left)
        self.placing: list[asyncio.Future[list[Enqueued]]] = []
        #: What the store needs, and how often it was asked.
        self.needed: set[str] = set()
        self.asked = 0

    def enqueue(self, request: Enqueue) -> asyncio.Future[list[Enqueued]]:
        """Waits for room."""
        self.placing.append(asyncio.get_running_loop().create_future())
        return self.placing[-1]

    async def left(self, names: Collection[str]) -> list[str]:
        """Those that no row names."""
        self.asked += 1
        return [name for name in names if name not in self.needed]

    def send(self, count: int = 1) -> asyncio.Future[list[Enqueued]]:
        """A request with so many payloads."""
        (self.folder / "source").write_bytes(b"12345")
        fds = [os.open(self.folder / "source", os.O_RDONLY) for _ in range(count)]
        return self.intake.take(Enqueue([JobSpec("k", blob_fd=number) for number in range(count)]), fds)

    def files(self) -> list[str]:
        """What is in the spool."""
        return sorted(path.name for path in self.spool.folder.iterdir()) if self.spool.folder.exists() else []


@pytest.fixture
def world(tmp_path: Path) -> World:
    """One for each test."""
    return World(tmp_path)


@pytest.mark.parametrize("needed", [False, True])
async def test_a_client_that_goes_away_in_the_line_leaves_its_file_only_to_a_job(world: World, needed: bool) -> None:
    """Its payload would stay for hours; or a job that went in at that moment would lose it."""
    answer = world.send()
    await async_wait_until(lambda: world.placing)
    (name,) = world.files()
    world.needed = {name} if needed else set()
    answer.cancel()
    await async_wait_until(lambda: not world.spool.pending)
    await async_wait_until(lambda: world.files() == sorted(world.needed))
    assert (world.placing[0].cancelled(), world.asked) == (True, 1)


async def test_nothing_is_enqueued_for_a_client_that_is_gone(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that went away when the copy was just complete would find its job in the queue."""
    looked: list[asyncio.Future[Any]] = []
    loop = asyncio.get_running_loop()

    def check(blob: Blob) -> None:
        loop.call_soon_threadsafe(looked[0].cancel)

    monkeypatch.setattr("perdure.daemon.files.check_path", check)
    (world.folder / "source").write_bytes(b"12345")
    jobs = [JobSpec("k", blob_fd=0), JobSpec("k", blob=Blob(1, "0" * 64, path="/named"))]
    looked.append(world.intake.take(Enqueue(jobs), [os.open(world.folder / "source", os.O_RDONLY)]))
    await async_wait_until(looked[0].done)
    await async_wait_until(lambda: not world.intake._tasks)
    assert (world.placing, world.files(), world.spool.pending) == ([], [], set())


@pytest.mark.parametrize(
    ("error", "stays"), [(QueueFull(), 0), (Duplicate(), 0), (StoreFull(), 0), (StoreError("I/O error"), 1)]
)
async def test_a_refused_payload_goes(world: World, error: Exception, stays: int) -> None:
    """The disk would fill with what nobody has enqueued; or a commit of which nobody knows would lose its file."""
    answer = world.send()
    await async_wait_until(lambda: world.placing)
    world.placing[0].set_exception(error)
    with pytest.raises(type(error)):
        await answer
    assert (len(world.files()), world.spool.pending) == (stays, set())


async def test_a_shed_job_keeps_its_payload_and_a_duplicate_does_not(world: World) -> None:
    """A dead letter could not be replayed."""
    answer = world.send(2)
    await async_wait_until(lambda: world.placing)
    world.placing[0].set_result([Enqueued(1, False, True), Enqueued(2, True)])
    await answer
    assert len(world.files()) == 1


async def test_what_is_copied_is_safe_while_others_are_copied(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep would take the first file of a request whose second one takes hours; its job would go in without it."""
    copy_file, block = spooling.copy_file, asyncio.Event()
    loop, seen = asyncio.get_running_loop(), []

    def slow(*args: Any) -> Blob:
        seen.append(args)
        if len(seen) == 2:
            asyncio.run_coroutine_threadsafe(block.wait(), loop).result()
            raise InvalidOption("the second one is bad")
        return copy_file(*args)

    monkeypatch.setattr(spooling, "copy_file", slow)
    answer = world.send(2)
    await async_wait_until(lambda: len(seen) == 2 and world.spool.pending)
    assert set(world.files()) == world.spool.pending
    block.set()
    with pytest.raises(InvalidOption, match="bad"):
        await answer
    assert (world.files(), world.spool.pending) == ([], set())
