"""Payloads on their way into the queue: which files stay, when a request is refused or its client goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import sys
import threading
from collections.abc import Collection
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.clock import SystemClock
from perdure.config.settings import load_settings
from perdure.daemon import spool as spooling
from perdure.daemon.files import FileIntake
from perdure.daemon.service import Service
from perdure.daemon.spool import Spool
from perdure.errors import Busy, DaemonStopping, Duplicate, InvalidOption, QueueFull, StoreError, StoreFull
from perdure.wire.control import Enqueue
from perdure.wire.data import Blob, Enqueued, JobSpec
from perdure.wire.peer import Peer
from tests.support.wait import async_wait_until


class World:
    """A spool, and a queue that answers when it is told to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = Spool(folder / "spool", 1 << 20)
        self.intake = FileIntake(self.spool, self.enqueue, self.check, self.left)
        self.placing: list[asyncio.Future[list[Enqueued]]] = []
        #: What the store needs, and how often it was asked.
        self.needed: set[str] = set()
        self.asked = 0

    def check(self, request: Enqueue) -> None:
        """As the service does it."""
        if len(request.jobs) > 300:
            raise InvalidOption("too many")

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

    def open_sources(self) -> int:
        """How many of the descriptors that came with requests are open."""
        source, count = str(self.folder / "source"), 0
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):
                count += os.readlink(f"/proc/self/fd/{name}") == source
        return count

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

    monkeypatch.setattr("perdure.daemon.spool.check_path", check)
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


async def test_more_than_may_wait_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Producers of payloads would take all of the daemon's descriptors, and nobody could connect any more."""
    monkeypatch.setattr(spooling, "MOST_WAITING", 3)
    over = threading.Event()
    copy_file = spooling.copy_file

    def slow(*args: Any) -> Blob:
        over.wait()
        return copy_file(*args)

    monkeypatch.setattr(spooling, "copy_file", slow)
    answer = world.send(3)
    with pytest.raises(Busy, match="try again later"):
        world.send(1)
    assert world.open_sources() == 3
    over.set()
    await async_wait_until(lambda: world.placing)
    world.placing[0].set_result([Enqueued(number) for number in range(3)])
    await answer
    world.send(3)


async def test_copies_that_have_not_begun_are_given_up_at_the_end(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that is told to stop would copy gigabytes first; and what it does not copy it must close."""
    begun, over = [], threading.Event()

    def slow(*args: Any) -> Blob:
        begun.append(args)
        over.wait()
        raise InvalidOption("too late")

    monkeypatch.setattr(spooling, "copy_file", slow)
    answer = world.send(5)
    await async_wait_until(lambda: len(begun) == 2)
    world.spool.close()
    over.set()
    with pytest.raises((InvalidOption, DaemonStopping)):
        await answer
    assert len(begun) == 2
    await async_wait_until(lambda: world.open_sources() == 0)


def test_a_thread_that_hangs_does_not_keep_the_process() -> None:
    """A payload on a network mount that is down would keep the daemon from ending."""
    script = (
        "import threading; from perdure.daemon.hands import Hands; begun = threading.Event()\n"
        "def hang(): begun.set(); threading.Event().wait()\n"
        "hands = Hands('x', 1); hands.submit(hang); begun.wait(); hands.close()"
    )
    assert subprocess.run([sys.executable, "-c", script], timeout=30, check=False).returncode == 0


async def test_too_many_jobs_are_refused_before_their_files_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gigabytes would be copied for a request that is refused afterwards."""
    copied: list[object] = []
    monkeypatch.setattr(spooling, "copy_file", lambda *args: copied.append(args))
    fd = os.open("/dev/null", os.O_RDONLY)
    settings: Any = load_settings(None, {"PERDURE_LIMITS_BATCH": "600", "PERDURE_STORE_PATH": str(tmp_path / "db")})
    engine: Any = SimpleNamespace(follow=None)
    service = Service(None, settings, SystemClock(), engine)  # type: ignore[arg-type]
    service.clients = SimpleNamespace(take_fds=lambda peer: [fd])  # type: ignore[assignment]
    jobs = [JobSpec("k", blob_fd=0) for _ in range(601)]
    with pytest.raises(InvalidOption, match="601 jobs in one request"):
        await service.handle(Enqueue(jobs), Peer(1, 2, 3))
    assert copied == []
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)
