"""The world around the store fails: full disks, cancelled callers, kills, and processes that end."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest

from perdure.errors import StoreCorrupt, StoreError, StoreFull, StoreReadOnly
from perdure.store.models import Claim, NewBatch, Recovered, Turn
from perdure.store.sqlite import SqliteStore, open_sqlite
from tests.store.desk import START_MS, Desk, new_job
from tests.support.abilities import small_filesystem


async def in_writer(store: SqliteStore, script: str) -> list[tuple[object, ...]]:
    """Run a statement on the one writable connection."""
    return await store._writer.run(lambda connection: connection.execute(script).fetchall())


async def in_transaction(store: SqliteStore) -> bool:
    """Whether a transaction was left open."""
    return await store._writer.run(lambda connection: connection.in_transaction)


@pytest.mark.usefixtures("either_way")
async def test_a_full_database_changes_nothing(tmp_path: Path) -> None:
    """T26: half a turn would stay, or the real error would be hidden by the one of the rollback."""
    async with await open_sqlite(tmp_path / "queue.db") as store:
        desk = Desk(store)
        job = await desk.running()
        await in_writer(store, "PRAGMA max_page_count = 1")
        big = new_job(args='"' + "x" * 200_000 + '"')
        with pytest.raises(StoreFull, match=r"full: free some space"):
            await desk.turn(completed={desk.lease: [job.id]}, batches=[NewBatch([big], False)])
        assert not await in_transaction(store)
        assert await desk.state(job.id) == "running"
        await in_writer(store, "PRAGMA max_page_count = 1073741823")
        (place,) = await desk.enqueue(big)
        assert place.id == job.id + 1
        await desk.complete(job)


FULL_DISK = """
import asyncio, os, sys
from perdure.errors import StoreFull, StoreReadOnly
from perdure.store.sqlite import open_sqlite
from tests.store.desk import Desk, new_job

async def fill(path):
    async with await open_sqlite(path) as store:
        desk, acknowledged = Desk(store), 0
        try:
            while True:
                await desk.enqueue(*[new_job(args='"' + "x" * 1000 + '"')] * 20)
                acknowledged += 20
        except StoreFull as error:
            assert path in str(error), error
        assert (await store.count())["available"] == acknowledged > 0
        os.unlink(os.path.dirname(path) + "/ballast")
        await desk.enqueue(new_job())
    return acknowledged + 1

async def look(path, expected):
    async with await open_sqlite(path) as store:
        assert (await store.count())["available"] == expected

path = sys.argv[1] + "/queue.db"
with open(sys.argv[1] + "/ballast", "wb") as file:
    file.write(bytes(500_000))
expected = asyncio.run(fill(path))
asyncio.run(look(path, expected))
os.system(f"mount -o remount,ro {sys.argv[1]}")
try:
    asyncio.run(look(path, expected))
except StoreReadOnly as error:
    print("fine:", error)
"""


@pytest.mark.skipif(bool(small_filesystem().missing), reason=small_filesystem().missing)
def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    """T26: acknowledged jobs would be lost with the disk full, or the daemon would never recover from it."""
    script = 'mount -t tmpfs -o size=2m tmpfs "$1" && exec "$2" -c "$3" "$1"'
    command = ["unshare", "--mount", "sh", "-c", script, "sh", str(tmp_path), sys.executable, FULL_DISK]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    assert "fine:" in done.stdout
    assert "permissions" in done.stdout


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("folder_mode", [0o755, 0o777], ids=["folder", "file"])
def test_files_of_somebody_else(tmp_path: Path, folder_mode: int) -> None:
    """A queue that this user may not write would be found out by the first job, not by the start."""
    for folder in (tmp_path, *tmp_path.parents):
        if folder == Path(tempfile.gettempdir()):
            break
        folder.chmod(0o755)
    asyncio.run(_open_and_close(tmp_path / "queue.db"))
    tmp_path.chmod(folder_mode)
    if folder_mode == 0o777:
        (tmp_path / "queue.db.lock").unlink()

    async def as_nobody() -> None:
        with pytest.raises(StoreReadOnly, match="check owner and permissions"):
            await open_sqlite(tmp_path / "queue.db")

    assert in_child(as_nobody, uid=65534) == 0


async def _open_and_close(path: Path) -> None:
    async with await open_sqlite(path):
        pass


def in_child(work: Callable[[], Awaitable[None]], uid: int | None = None) -> int:
    """Run a coroutine in a forked process: its wait status."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            if uid is not None:
                os.setuid(uid)
            asyncio.run(work())  # type: ignore[arg-type]  # a coroutine function, as all callers pass one
            status = 0
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
        finally:
            os._exit(status)
    return os.waitpid(pid, 0)[1]


async def test_damage_is_named_when_it_is_met(tmp_path: Path) -> None:
    """A damaged page would end the daemon with a bare sqlite3 error."""
    path = tmp_path / "queue.db"
    async with await open_sqlite(path) as store:
        await Desk(store).enqueue(*[new_job(args='"' + "x" * 1000 + '"')] * 100)
    with open(path, "r+b") as file:
        file.seek(4096)
        file.write(b"\xff" * (path.stat().st_size - 4096))
    with pytest.raises(StoreCorrupt, match="restore a backup"):
        async with await open_sqlite(path) as store:
            await store.count()


async def test_a_cancelled_caller_leaves_no_transaction(tmp_path: Path) -> None:
    """T32: a cancelled coroutine would hold the write lock for ever, or tear a turn in two."""
    async with await open_sqlite(tmp_path / "queue.db", durability="normal") as store:
        batch = NewBatch([new_job()] * 50, False)
        for spins in range(40):
            turn = Turn(START_MS, lease=spins, batches=[batch], claims=[Claim("default", 20)], claim_total=20)
            task = asyncio.create_task(store.commit(turn))
            for _ in range(spins % 8):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait({task})
            assert not await in_transaction(store)
        counts = await store.count()
        assert counts["running"] * 30 == counts["available"] * 20
        assert counts["running"] > 0


async def test_verbs_of_a_closed_store_say_so(tmp_path: Path) -> None:
    """A late caller would hang, or see an error about threads."""
    store = await open_sqlite(tmp_path / "queue.db")
    await store.close()
    await store.close()
    with pytest.raises(StoreError, match="is closed"):
        await store.count()
    with pytest.raises(StoreError, match="is closed"):
        await store.commit(Turn(START_MS))


def test_a_process_ends_although_nobody_closed_the_store(tmp_path: Path) -> None:
    """T33: aiosqlite's thread would keep a daemon that failed at start from exiting."""
    script = (
        "import asyncio, sys\n"
        "from perdure.store.sqlite import open_sqlite\n"
        "async def main():\n"
        "    global store\n"
        "    store = await open_sqlite(sys.argv[1])\n"
        "    await store.count()\n"
        "    raise SystemExit(7)\n"
        "asyncio.run(main())\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "queue.db")], timeout=20)
    assert done.returncode == 7


async def seed_crash(path: Path) -> None:
    """A queue as a killed daemon leaves it: ten jobs run, one of them for the last time."""
    async with await open_sqlite(path) as store:
        desk = Desk(store)
        await desk.enqueue(*[new_job()] * 9, new_job(max_interruptions=1))
        assert len(await desk.claim()) == 10


def kill_at(statement: int) -> Callable[[str], None]:
    """A trace callback that ends the process before its n-th statement runs."""
    left = statement

    def trace(_: str) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    return trace


@pytest.mark.parametrize("statement", range(1, 7))
def test_recovery_killed_half_way_twice(tmp_path: Path, statement: int) -> None:
    """T08: a job would be charged twice, or lost, when recovery itself is killed."""
    path = tmp_path / "queue.db"
    asyncio.run(seed_crash(path))

    async def killed() -> None:
        async with await open_sqlite(path) as store:
            await store._writer.run(lambda connection: connection.set_trace_callback(kill_at(statement)))
            await store.recover([(1, 1), (2, 1), (10, 1)], START_MS)

    for _ in range(2):
        assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL

    async def recovered() -> None:
        async with await open_sqlite(path) as store:
            assert (await store.count())["running"] == 10
            assert await store.recover([(1, 1), (2, 1), (10, 1)], START_MS) == Recovered(2, 7, 1)
            counts = await store.count()
            assert (counts["running"], counts["available"], counts["dead"]) == (0, 9, 1)

    asyncio.run(recovered())
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("statement", range(1, 9))
def test_a_turn_killed_half_way_has_not_happened(tmp_path: Path, statement: int) -> None:
    """T02: a job would be finished and claimed again, or acknowledged and lost."""
    path = tmp_path / "queue.db"
    asyncio.run(seed_crash(path))
    turn = Turn(
        START_MS,
        lease=2,
        completed={1: [1, 2, 3]},
        results=[(4, 1, "{}")],
        promote=True,
        batches=[NewBatch([new_job()] * 5, False)],
        claims=[Claim("default", 3)],
        claim_total=3,
    )

    async def killed() -> None:
        async with await open_sqlite(path) as store:
            await store._writer.run(lambda connection: connection.set_trace_callback(kill_at(statement)))
            await store.commit(turn)

    assert os.WTERMSIG(in_child(killed)) == signal.SIGKILL

    async def look() -> None:
        async with await open_sqlite(path) as store:
            assert {state: count for state, count in (await store.count()).items() if count} == {"running": 10}
            assert [job.id for job in (await store.commit(turn)).claimed] == [11, 12, 13]

    asyncio.run(look())
