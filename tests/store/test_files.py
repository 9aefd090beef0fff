"""What lies at the path when a store is opened: T30 and T31."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from perdure.errors import SchemaTooNew, StoreCorrupt, StoreError, StoreLocked
from perdure.store import migrate
from perdure.store.lock import read_holder
from perdure.store.migrate import Migration, load_migrations
from perdure.store.sqlite import open_sqlite
from perdure.wire.data import JobFilter
from tests.store.desk import Desk, new_job
from tests.support.wait import async_wait_until


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the lock and what a reader of the write-ahead log leaves: shared memory, and an empty log."""
    files = (path for path in folder.iterdir() if path.is_file() and not path.name.endswith((".lock", "-shm")))
    return {path.name: path.read_bytes() for path in files if path.suffix == ".db" or path.stat().st_size}


def run_sql(path: Path, script: str) -> None:
    """As another program would."""
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(script)


async def make_queue(path: Path) -> None:
    """A queue with one job."""
    async with await open_sqlite(path) as store:
        await Desk(store).enqueue(new_job())


def text_file(size: int) -> Callable[[Path], None]:
    """A file of text."""
    return lambda path: path.write_text("hello\n" * size)  # type: ignore[return-value]  # the number is not used


def foreign(path: Path) -> None:
    """The database of another program."""
    run_sql(path, "CREATE TABLE photos (id INTEGER PRIMARY KEY); INSERT INTO photos VALUES (1)")


def foreign_marked(path: Path) -> None:
    """One that says whose it is, and has nothing in it."""
    run_sql(path, "PRAGMA application_id = 7; VACUUM")


def newer(path: Path) -> None:
    """A queue of a later perdure."""
    asyncio.run(make_queue(path))
    run_sql(path, "PRAGMA user_version = 99")


def cut_short(path: Path) -> None:
    """A queue whose second half is gone."""
    asyncio.run(make_queue(path))
    os.truncate(path, 4096)


def changed_migration(path: Path) -> None:
    """A queue made by a perdure that somebody has edited."""
    asyncio.run(make_queue(path))
    run_sql(path, "UPDATE migrations SET sha256 = 'x'")


def half_migrated(path: Path) -> None:
    """A queue whose version and list of migrations disagree."""
    asyncio.run(make_queue(path))
    run_sql(path, "DELETE FROM migrations")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (text_file(1), StoreCorrupt, "is not a database"),
        (text_file(10_000), StoreCorrupt, "is not a database"),
        (Path.mkdir, StoreCorrupt, "is a folder"),
        (foreign, StoreCorrupt, "another program"),
        (foreign_marked, StoreCorrupt, "another program"),
        (newer, SchemaTooNew, "schema version 99, this perdure knows versions up to"),
        (cut_short, StoreCorrupt, "damaged"),
        (changed_migration, StoreCorrupt, "was changed after"),
        (half_migrated, StoreCorrupt, "lists other migrations"),
    ],
)
def test_a_file_that_is_no_queue_is_left_alone(
    tmp_path: Path, make: Callable[[Path], None], error: type[StoreError], message: str
) -> None:
    """T31: perdure would overwrite or half-convert a file that is not its own, or end in a traceback."""
    path = tmp_path / "queue.db"
    make(path)
    before = contents(tmp_path)

    async def attempt() -> None:
        with pytest.raises(error, match=message) as caught:
            await open_sqlite(path)
        assert str(path) in str(caught.value)

    asyncio.run(attempt())
    assert contents(tmp_path) == before


async def test_a_missing_place_is_named(tmp_path: Path) -> None:
    """A typing error in a path would make a new, empty queue somewhere."""
    with pytest.raises(StoreError, match=r"folder .*/nowhere does not exist"):
        await open_sqlite(tmp_path / "nowhere" / "queue.db")
    with pytest.raises(StoreError, match=r"there is no queue at .*queue.db"):
        await open_sqlite(tmp_path / "queue.db", create=False)
    assert list(tmp_path.iterdir()) == []


async def test_a_path_may_have_any_characters(tmp_path: Path) -> None:
    """A question mark in a path would open another file."""
    path = tmp_path / "a?mode=ro&b#c%20 é.db"
    await make_queue(path)
    assert path.stat().st_size > 0
    async with await open_sqlite(path, create=False) as store:
        assert (await store.count())["available"] == 1


async def test_an_empty_file_becomes_a_queue(tmp_path: Path) -> None:
    """A start that was killed before it wrote anything would leave a file that no start can use."""
    path = tmp_path / "queue.db"
    path.touch()
    await make_queue(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (migrate.APPLICATION_ID,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_an_older_queue_is_brought_up_to_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T31: an upgrade would lose jobs, or a migration that fails would leave half of itself behind."""
    path = tmp_path / "queue.db"
    await make_queue(path)
    known = load_migrations()
    step = Migration(len(known) + 1, "more", "CREATE TABLE more (x); -- a; b\nCREATE INDEX more_x ON more (x);", "s1")
    broken = Migration(step.version + 1, "broken", "CREATE TABLE half (x); SELECT nonsense;", "s2")
    monkeypatch.setattr(migrate, "load_migrations", lambda: [*known, step, broken])
    with pytest.raises(StoreError, match="nonsense"):
        await open_sqlite(path)
    monkeypatch.setattr(migrate, "load_migrations", lambda: [*known, step])
    async with await open_sqlite(path) as store:
        assert (await store.count())["available"] == 1
    with closing(sqlite3.connect(path)) as connection:
        tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        assert "more" in tables
        assert "half" not in tables
        assert connection.execute("PRAGMA user_version").fetchone() == (step.version,)
    monkeypatch.setattr(migrate, "load_migrations", lambda: known)
    with pytest.raises(SchemaTooNew):
        await open_sqlite(path)


#: Twenty parked jobs (1 to 20), a completed one, a dead one (22) and one that waits, as the first perdure wrote them.
FIRST_ROWS = """
INSERT INTO jobs (id, kind, queue, state, priority, args, max_attempts, max_interruptions, created_at, scheduled_at,
                  park_reason)
WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20)
SELECT i, 'gone', 'default', 'parked', i % 3, '{}', 3, 2, 1, 1, 'kind:gone' FROM n;
INSERT INTO jobs (id, kind, queue, state, args, attempt, max_attempts, max_interruptions, created_at, scheduled_at,
                  attempted_at, finalized_at, lease, result)
VALUES (21, 'noop', 'default', 'completed', '{}', 1, 3, 2, 1, 1, 2, 3, 1, '7');
INSERT INTO jobs (id, kind, queue, state, args, max_attempts, max_interruptions, created_at, scheduled_at, unique_key,
                  tags)
VALUES (23, 'noop', 'default', 'available', '{"a": 1}', 3, 2, 1, 1, 'k', '["red"]');
INSERT INTO dead_letters (id, kind, queue, priority, args, last_args, attempt, max_attempts, interruptions,
                          max_interruptions, created_at, died_at, reason, fingerprint, errors)
VALUES (22, 'noop', 'default', 0, '{}', '{}', 1, 3, 0, 2, 1, 4, 'permanent', 'fp', '[{"attempt":1}]');
INSERT INTO queues VALUES ('default', 5, 'ann');
"""


async def test_a_queue_of_the_first_schema_keeps_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """T31: the upgrade to the schema with breakers would lose jobs, letters, pauses or parked lines."""
    path = tmp_path / "queue.db"
    everything = load_migrations()
    monkeypatch.setattr(migrate, "load_migrations", lambda: everything[:1])
    await (await open_sqlite(path)).close()
    run_sql(path, FIRST_ROWS)
    monkeypatch.setattr(migrate, "load_migrations", lambda: everything)
    async with await open_sqlite(path) as store:
        counts = {state: number for state, number in (await store.count()).items() if number}
        assert counts == {"available": 1, "completed": 1, "parked": 20, "dead": 1}
        (waits,) = await store.list(JobFilter(states=["available"]))
        assert (waits.args, waits.unique_key, waits.tags, waits.blob) == ('{"a": 1}', "k", '["red"]', None)
        letter = await store.get_dead(22)
        assert letter is not None
        assert (letter.fingerprint, letter.errors, letter.blob) == ("fp", '[{"attempt":1}]', None)
        assert await store.paused_queues() == ["default"]
        assert await store.breakers() == []
        name = await store.store_id()
        assert await store.parked_counts("kind:") == {"kind:gone": 20}
        assert await store.unpark(["kind:gone"], 100, 0) == (20, ["default"])
    async with await open_sqlite(path) as store:
        assert await store.store_id() == name
    monkeypatch.setattr(migrate, "load_migrations", lambda: everything[:1])
    with pytest.raises(SchemaTooNew, match="knows versions up to 1"):
        await open_sqlite(path)


async def test_only_one_may_write(tmp_path: Path) -> None:
    """T30: two writers would meet SQLite's WAL-reset bug and lose jobs."""
    path = tmp_path / "queue.db"
    link = tmp_path / "link.db"
    link.symlink_to(path)
    async with await open_sqlite(path, role="daemon") as store:
        holder = read_holder(str(path))
        assert (holder["pid"], holder["role"]) == (os.getpid(), "daemon")
        for name in (path, link):
            with pytest.raises(StoreLocked, match=rf"already running \(pid {os.getpid()}\) on {path}"):
                await open_sqlite(name, role="cli")
        await store.count()
        assert sorted(ways_into(path)) == [os.O_RDONLY, os.O_RDWR]
    assert read_holder(str(path)) == {}
    async with await open_sqlite(path, role="cli"):
        with pytest.raises(StoreLocked, match=r"perdure command \(pid"):
            await open_sqlite(path)


def ways_into(path: Path) -> list[int]:
    """How this process has the file open: the access mode of each descriptor."""
    modes = []
    for entry in Path("/proc/self/fd").iterdir():
        if entry.exists() and entry.samefile(path):
            info = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{entry.name}").read_text().splitlines())
            modes.append(int(info["flags"], 8) & os.O_ACCMODE)
    return modes


async def test_a_start_waits_for_a_command_to_end(tmp_path: Path) -> None:
    """The daemon would fail to start because somebody enqueues a job at that moment."""
    path = tmp_path / "queue.db"
    first = await open_sqlite(path, role="cli")
    waiting = asyncio.create_task(open_sqlite(path, lock_wait_seconds=20))
    await async_wait_until(lambda: len(list(lock_descriptors(path))) == 2, what="the second one waits")
    assert not waiting.done()
    await first.close()
    await (await waiting).close()


def lock_descriptors(path: Path) -> list[int]:
    """This process's descriptors of the lock file."""
    lock = Path(f"{path}.lock")
    return [int(entry.name) for entry in Path("/proc/self/fd").iterdir() if entry.exists() and entry.samefile(lock)]


async def test_the_lock_is_not_inherited(tmp_path: Path) -> None:
    """A worker that outlives the daemon would keep the next one from starting."""
    path = tmp_path / "queue.db"
    async with await open_sqlite(path):
        (descriptor,) = lock_descriptors(path)
        assert not os.get_inheritable(descriptor)
        assert json.loads(Path(f"{path}.lock").read_text())["role"] == "daemon"
    assert lock_descriptors(path) == []
