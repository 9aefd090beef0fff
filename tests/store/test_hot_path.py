"""What keeps the store fast: few statements a turn, short ways to the rows, and a bounded log."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path

import pytest

from perdure.errors import StoreError
from perdure.store import log_file, plain_turns
from perdure.store.log_file import wal_bytes
from perdure.store.migrate import apply, load_migrations
from perdure.store.models import Buried, Claim, NewBatch, Parked, Postponed, Released, Retried, Stopped, Turn
from perdure.store.plain_turns import is_plain
from perdure.store.sqlite import SqliteStore, open_sqlite
from perdure.store.statements import SQL
from tests.store.desk import Desk, new_job


async def statements_of_a_turn(store: SqliteStore, jobs: int) -> list[str]:
    """What one full turn over `jobs` jobs of each fate executes."""
    desk = Desk(store)
    await desk.enqueue(*[new_job()] * (9 * jobs))
    ids = [job.id for job in await desk.claim(limit=9 * jobs)]
    fates = [ids[fate * jobs : (fate + 1) * jobs] for fate in range(9)]
    lease = desk.lease
    seen: list[str] = []
    await store._writer.run(lambda connection: connection.set_trace_callback(seen.append))
    done = await desk.turn(
        lease=1_000 + jobs,
        completed={lease: fates[0]},
        results=[(job_id, lease, "{}") for job_id in fates[1]],
        retried=[Retried(job_id, lease, desk.now, "{}") for job_id in fates[2]],
        released=[Released(job_id, lease) for job_id in fates[3]],
        parked=[Parked(job_id, lease, "kind:x") for job_id in fates[4]],
        buried=[Buried(job_id, lease, "permanent", "{}", "fp", False) for job_id in fates[5]],
        cancelled=[Released(job_id, lease) for job_id in fates[6]],
        postponed=[Postponed(job_id, lease, desk.now, "{}") for job_id in fates[7]],
        stopped=[Stopped(job_id, lease, "{}") for job_id in fates[8]],
        promote=True,
        batches=[NewBatch([new_job(unique_key=f"{jobs}-{n}", kind=f"k{n}") for n in range(jobs)], False)] * 2,
        claims=[Claim("default", jobs)],
        claim_total=jobs,
    )
    await store._writer.run(lambda connection: connection.set_trace_callback(None))
    assert not done.stale
    assert len(done.claimed) == jobs
    return seen


async def test_the_number_of_statements_does_not_grow_with_the_jobs(tmp_path: Path) -> None:
    """A turn would cost a statement a job, and a tenth of the speed."""
    async with await open_sqlite(tmp_path / "queue.db", durability="normal") as store:
        few, many = await statements_of_a_turn(store, 10), await statements_of_a_turn(store, 300)
        assert len(few) == len(many) <= 18


async def test_a_drain_turn_is_two_statements(tmp_path: Path) -> None:
    """The supervisor's loop would keep the GIL between statements, and the loop that runs 50,000 jobs a second wait."""
    async with await open_sqlite(tmp_path / "queue.db", durability="normal") as store:
        desk = Desk(store)
        await desk.enqueue(*[new_job()] * 500)
        ids = [job.id for job in await desk.claim(limit=200)]
        seen: list[str] = []
        await store._writer.run(lambda connection: connection.set_trace_callback(seen.append))
        await desk.turn(completed={desk.lease: ids}, lease=1_000, claims=[Claim("default", 200)], claim_total=200)
        # A statement is traced again for each trigger and for each statement of one.
        assert [statement.split()[0] for statement in dict.fromkeys(seen)] == ["INSERT", "SELECT"]


@pytest.mark.usefixtures("either_way")
async def test_claims_that_are_too_long_for_one_text_are_read_one_by_one(tmp_path: Path) -> None:
    """What is on disk would be carried out a second time: new jobs refused that are there, and claims of nobody."""
    async with await open_sqlite(tmp_path / "queue.db", durability="normal") as store:
        desk = Desk(store)
        first = await desk.running()
        for _ in range(5):
            await desk.enqueue(new_job(args=f'"{"x" * 40_000}"'))
        await store._writer.run(lambda connection: connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000))
        done = await desk.turn(
            completed={desk.lease: [first.id]},
            batches=[NewBatch([new_job()], False)],
            lease=1_000,
            claims=[Claim("default", 9)],
            claim_total=9,
        )
        assert [job.id for job in done.claimed] == [2, 3, 4, 5, 6, 7]
        assert (done.stale, done.drained) == ([], ["default"])
        (placed,) = await desk.enqueue(new_job())
        assert placed.id == 8


@pytest.mark.usefixtures("either_way")
async def test_what_is_on_disk_is_not_carried_out_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error while the claimed jobs are read would put new jobs in twice."""

    def unreadable(*_: object) -> None:
        raise sqlite3.DataError("string or blob too big")

    async with await open_sqlite(tmp_path / "queue.db", durability="normal") as store:
        desk = Desk(store)
        monkeypatch.setattr(plain_turns, "read_claimed", unreadable)
        with pytest.raises(StoreError, match="too big"):
            await desk.turn(
                batches=[NewBatch([new_job()], False)], lease=1_000, claims=[Claim("default", 1)], claim_total=1
            )
        monkeypatch.undo()
        assert (await store.count())["running"] == 1
        (placed,) = await desk.enqueue(new_job())
        assert placed.id == 2
        assert sum((await store.count()).values()) == 2


@pytest.mark.parametrize(
    ("trigger", "statement", "names"),
    [
        ("plain_turn_complete", "complete", {}),
        ("plain_turn_results", "complete_with_results", {"results": "outcomes"}),
        ("plain_turn_claim", "claim", {"wanted": "limit"}),
    ],
)
def test_a_plain_turn_says_what_any_other_says(trigger: str, statement: str, names: dict[str, str]) -> None:
    """The fence would hold in one way to the table, and not in the other."""
    body = re.sub(r"NEW\.([a-z]+)", lambda match: ":" + names.get(match[1], match[1]), SQL[trigger])
    first = " ".join(body.split(" BEGIN\n")[1].split(";")[0].split())
    assert first == " ".join(SQL[statement].split())


@pytest.mark.parametrize(
    ("statement", "way"),
    [
        ("claim", "USING INDEX jobs_available (queue=?)"),
        ("claimed", "USING INDEX jobs_running (lease=?)"),
        ("complete", "SEARCH jobs USING INTEGER PRIMARY KEY"),
        ("complete_with_results", "SEARCH jobs USING INTEGER PRIMARY KEY"),
        ("complete_one", "SEARCH jobs USING INTEGER PRIMARY KEY"),
        ("complete_one_with_result", "SEARCH jobs USING INTEGER PRIMARY KEY"),
        ("retry_later", "SEARCH jobs USING INTEGER PRIMARY KEY"),
        ("bury", "SEARCH j USING INTEGER PRIMARY KEY"),
        ("promote", "COVERING INDEX jobs_due (scheduled_at<?)"),
        ("next_due", "COVERING INDEX jobs_due"),
        ("unpark", "COVERING INDEX jobs_parked (park_reason=? AND queue=?)"),
        ("parked_queues", "COVERING INDEX jobs_parked (park_reason=? AND queue>?)"),
        ("next_parked", "COVERING INDEX jobs_parked (park_reason=? AND queue=? AND priority=? AND id>?)"),
        ("next_parked", "COVERING INDEX jobs_parked (park_reason=? AND queue=? AND priority>?)"),
        ("parked_reasons", "COVERING INDEX jobs_parked (park_reason>?)"),
        ("parked_counts", "COVERING INDEX jobs_parked (park_reason>? AND park_reason<?)"),
        ("counts", "COVERING INDEX jobs_parked"),
        ("queue_counts", "COVERING INDEX jobs_parked"),
        ("postpone", "SEARCH jobs USING INTEGER PRIMARY KEY"),
        ("waiting", "INDEX jobs_available (queue=?)"),
        ("waiting", "COVERING INDEX jobs_due_queue (queue=? AND state=?)"),
        ("waiting", "COVERING INDEX jobs_parked (park_reason=? AND queue=?)"),
        ("oldest_available", "INDEX jobs_available (queue=? AND priority=?)"),
        ("oldest_available", "SEARCH first USING INTEGER PRIMARY KEY"),
        ("keys_held", "jobs_unique (kind=? AND unique_key=?)"),
        ("least_urgent", "INDEX jobs_available (queue=?)"),
        ("shed", "SEARCH j USING INTEGER PRIMARY KEY"),
        ("ahead", "INDEX jobs_available (queue=? AND priority<?)"),
        ("ahead", "INDEX jobs_available (queue=? AND priority=? AND id<?)"),
        ("forget_breaker_events", "INDEX breaker_events_name (name=?"),
        ("key_holders", "jobs_unique (kind=? AND unique_key=?)"),
        ("available_queues", "jobs_available (queue>?)"),
        ("prune_old", "COVERING INDEX jobs_finalized (finalized_at"),
        ("prune_surplus", "COVERING INDEX jobs_finalized (finalized_at"),
        ("prune_letters", "dead_letters_resolved (resolved_at<?)"),
        ("counts", "COVERING INDEX jobs_finalized"),
        ("queue_counts", "COVERING INDEX jobs_finalized"),
        ("list_dead_open", "dead_letters_open (died_at<?)"),
        ("list_dead_alike", "dead_letters_fingerprint (fingerprint=? AND died_at<?)"),
        ("list_dead_all", "dead_letters_died (died_at<?)"),
        ("newest_running", "USING INDEX jobs_running"),
        ("newest_due", "USING INDEX jobs_due"),
    ],
)
def test_rows_are_found_through_an_index(statement: str, way: str) -> None:
    """T43: with a million finished jobs in the table, this would read all of them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply(connection, load_migrations(), ":memory:")
        parameters = dict.fromkeys(re.findall(r":([a-z_]+)", SQL[statement]))
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[statement]}", parameters)]
    assert any(way in line for line in plan), plan
    assert not any(re.fullmatch(r"SCAN (jobs|dead_letters)", line) for line in plan), plan


async def test_the_log_is_bounded(tmp_path: Path) -> None:
    """T27: a reader that stays open would make the log grow without end, even after it has gone."""
    path = tmp_path / "queue.db"
    limit = 256 * 1024
    async with await open_sqlite(path, wal_limit_bytes=limit, durability="normal") as store:
        desk = Desk(store)
        await desk.enqueue(new_job())
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)) as reader:
            reader.execute("BEGIN")
            reader.execute("SELECT count(*) FROM jobs").fetchone()
            for _ in range(20):
                await desk.enqueue(*[new_job(args='"' + "x" * 1000 + '"')] * 50)
            assert await store.checkpoint() > limit
        assert await store.checkpoint() <= limit
        for _ in range(20):
            await desk.enqueue(*[new_job(args='"' + "x" * 1000 + '"')] * 50)
        assert wal_bytes(str(path)) < 4 * limit, "bounded without the timer, too"


async def test_durability_is_what_was_asked_for(tmp_path: Path) -> None:
    """Guarantee 1: an acknowledged job would be lost in a power cut."""
    for durability, level in (("full", 2), ("normal", 1)):
        async with await open_sqlite(tmp_path / "queue.db", durability=durability) as store:  # type: ignore[arg-type]  # both are
            (row,) = await store._writer.run(lambda connection: connection.execute("PRAGMA synchronous").fetchall())
            assert row == (level,)


async def test_a_large_turn_is_written_once(tmp_path: Path) -> None:
    """With a small cache, pages would be written, read and written again before their commit."""
    path = tmp_path / "queue.db"
    async with await open_sqlite(path, durability="normal", cache_bytes=1024 * 1024) as store:

        def enqueue(connection: sqlite3.Connection) -> int:
            connection.execute("BEGIN IMMEDIATE")
            jobs = "SELECT value, 'k', 'q', 'available', ?, 1, 1, 0, 0, 'key-' || (value * 7919 % 20011) FROM generate"
            connection.execute(
                "WITH RECURSIVE generate(value) AS (SELECT 1 UNION ALL SELECT value + 1 FROM generate LIMIT 20000) "
                "INSERT INTO jobs (id, kind, queue, state, args, max_attempts, max_interruptions, created_at, "
                f"scheduled_at, unique_key) {jobs}",
                (json.dumps("x" * 200),),
            )
            before = wal_bytes(str(path))
            connection.execute("ROLLBACK")
            return before

        before = await store._writer.run(lambda _: wal_bytes(str(path)))
        assert await store._writer.run(enqueue) == before


async def test_a_log_has_its_length_before_anybody_waits(tmp_path: Path) -> None:
    """The first jobs of a daemon would each wait for the file system to write down that the log is longer."""
    path = tmp_path / "queue.db"
    room = 512 * 1024
    async with await open_sqlite(path, log_bytes=room) as store:
        assert wal_bytes(str(path)) == room
        for _ in range(20):
            await Desk(store).enqueue(new_job())
        assert wal_bytes(str(path)) == room
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as reader:
            assert reader.execute("SELECT count(*) FROM jobs").fetchone() == (20,)
    async with await open_sqlite(path, log_bytes=room, wal_limit_bytes=256 * 1024):
        assert wal_bytes(str(path)) == 256 * 1024


async def test_what_was_in_a_log_with_room_is_found_after_a_crash(tmp_path: Path) -> None:
    """Recovery would take the zeros for jobs, or find none of those before them."""
    path, copy = tmp_path / "queue.db", tmp_path / "copy.db"
    async with await open_sqlite(path, log_bytes=512 * 1024) as store:
        for count in (0, 3, 5):
            await Desk(store).enqueue(*[new_job()] * count)
            for suffix in ("", "-wal"):
                shutil.copyfile(f"{path}{suffix}", f"{copy}{suffix}")
            Path(f"{copy}-shm").unlink(missing_ok=True)
            async with await open_sqlite(copy, log_bytes=1024 * 1024) as found:
                assert sum((await found.count()).values()) == {0: 0, 3: 3, 5: 8}[count]


async def test_a_log_takes_no_room_that_there_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that is nearly full, the log would take what the jobs need."""
    path = tmp_path / "queue.db"
    monkeypatch.setattr(log_file, "SPARE", 1 << 60)
    async with await open_sqlite(path, log_bytes=512 * 1024) as store:
        assert wal_bytes(str(path)) < 512 * 1024
        await Desk(store).enqueue(new_job())


async def test_a_row_does_not_grow_when_it_is_claimed_and_completed(tmp_path: Path) -> None:
    """Pages are full of rows as they were enqueued: each would be split in a drain, and written twice as often."""
    async with await open_sqlite(tmp_path / "queue.db", durability="normal") as store:
        desk = Desk(store)
        desk.lease = 2**32  # as long as those of a daemon
        await desk.enqueue(*[new_job(args=json.dumps("x" * 100))] * 4_000)
        ids = [job.id for job in await desk.claim(limit=1)]
        await desk.turn(completed={desk.lease: ids})
        before = await pages(store)
        ids = [job.id for job in await desk.claim(limit=3_999)]
        await desk.turn(completed={desk.lease: ids})
        # Those of the indexes for what runs and what is finished are 14; rows that grow take 54 more.
        assert await pages(store) - before <= 25


async def pages(store: SqliteStore) -> int:
    """Pages of the file that are in use."""

    def count(connection: sqlite3.Connection) -> int:
        (there,), (free,) = (
            connection.execute(f"PRAGMA {name}").fetchone() for name in ("page_count", "freelist_count")
        )
        return int(there - free)

    return await store._writer.run(count)


def test_a_turn_with_anything_else_is_not_plain() -> None:
    """What a plain turn does not know of would be dropped: an outcome is lost, and its job stays running."""
    known = {"now", "lease", "completed", "results", "batches", "claims", "claim_total"}
    others = [field.name for field in fields(Turn) if field.name not in known]
    assert is_plain(Turn(0))
    assert others
    assert not any(is_plain(replace(Turn(0), **{name: [object()]})) for name in others)
