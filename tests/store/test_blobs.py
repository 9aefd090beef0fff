"""Jobs with payloads and results that are files: what the queue says about them, and which files it still needs."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from perdure.store.files import needed_files
from perdure.store.migrate import apply, load_migrations
from perdure.store.models import Stopped
from perdure.store.sqlite import open_sqlite
from perdure.store.statements import SQL
from perdure.wire.data import Blob
from tests.store.conftest import OpenDesk
from tests.store.desk import Desk, error_json, new_job

HOUR = 3_600_000


def blob(spool: str = "", path: str = "") -> str:
    """A Blob as it stands in the queue."""
    return msgspec.json.encode(Blob(3, "ab", path=path, spool=spool)).decode()


async def spooled(desk: Desk, name: str, **fields: object) -> int:
    """A job that has completed with a result in the spool."""
    job = await desk.running(**fields)
    assert not (await desk.turn(spooled=[(job.id, desk.lease, blob(name))])).stale
    return job.id


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("key", [None, "k"])
async def test_a_payload_goes_with_its_job(open_desk: OpenDesk, count: int, key: str | None) -> None:
    """The worker would get the payload of another job, or none; by both ways into the table."""
    async with open_desk() as desk:
        jobs = [new_job(blob_json=blob(f"f{number}"), unique_key=key and f"{key}{number}") for number in range(count)]
        placed = await desk.enqueue(*jobs, new_job())
        claimed = await desk.claim()
        assert [job.blob for job in claimed] == [*(job.blob_json for job in jobs), None]
        view = await desk.store.get(placed[0].id)
        assert view is not None
        assert (view.blob, view.result_blob) == (jobs[0].blob_json, None)


async def test_a_payload_outlives_deaths_and_replays(open_desk: OpenDesk) -> None:
    """A replayed job would run without what it is to work on."""
    async with open_desk() as desk:
        for bury in (desk.bury, desk.interrupt):
            job = await desk.running(blob_json=blob("one"), max_interruptions=1)
            await bury(job)
            letter = await desk.store.get_dead(job.id)
            assert letter is not None
            assert letter.blob == blob("one")
            await desk.store.replay([job.id], None, "ann", desk.now)
            (again,) = await desk.claim()
            assert (again.id, again.blob) == (job.id, blob("one"))
            await desk.complete(again)
        job = await desk.running(blob_json=blob("one"), max_interruptions=1)
        await desk.store.recover(None, desk.now)
        letter = await desk.store.get_dead(job.id)
        assert letter is not None
        assert letter.blob == blob("one")


async def test_a_spooled_result_completes_the_job(open_desk: OpenDesk) -> None:
    """The result would be lost, or the job would stand beside it as running."""
    async with open_desk() as desk:
        job_id = await spooled(desk, "one")
        view = await desk.store.get(job_id)
        assert view is not None
        assert (view.state, view.result, view.result_blob) == ("completed", None, blob("one"))
        assert await desk.store.result_files([job_id, 99]) == ["one"]


async def test_a_stale_result_is_named(open_desk: OpenDesk) -> None:
    """Its file would stay for ever, or it would take the place of the one that counts."""
    async with open_desk() as desk:
        job, other = await desk.running(), await desk.running()
        old = desk.lease
        await desk.release(other)
        (again,) = await desk.claim()
        done = await desk.turn(spooled=[(job.id, old - 1, blob("good")), (again.id, old, blob("late"))])
        assert done.stale == [(again.id, old)]
        assert await desk.states([job.id, again.id]) == ["completed", "running"]
        assert await desk.store.unneeded_files(["good", "late"]) == ["late"]
        done = await desk.turn(spooled=[(job.id, old - 1, blob("twice"))])
        assert done.stale == [(job.id, old - 1)]


async def test_a_retried_job_has_no_result(open_desk: OpenDesk) -> None:
    """`perdure result` would give what an earlier run has made."""
    async with open_desk() as desk:
        job_id = await spooled(desk, "one", blob_json=blob("payload"))
        await desk.store.retry([job_id], desk.now)
        view = await desk.store.get(job_id)
        assert view is not None
        assert (view.state, view.blob, view.result_blob) == ("available", blob("payload"), None)
        assert sorted(await desk.store.unneeded_files(["one", "payload"])) == ["one"]


async def test_a_file_goes_with_the_last_who_names_it(open_desk: OpenDesk) -> None:
    """It would go while a job needs it, or stay for ever."""
    async with open_desk() as desk:
        for job in (await desk.running(blob_json=blob("shared")), await desk.running(blob_json=blob("shared"))):
            await desk.turn(completed={desk.lease: [job.id], desk.lease - 1: [job.id]})
        far = desk.now + 2 * HOUR
        assert (await desk.store.prune(far, HOUR, 100, 1)).spooled == []
        assert (await desk.store.prune(far, HOUR, 100, 1)).spooled == ["shared"]

        job = await desk.running(blob_json=blob("told"))
        await desk.bury(job)
        await desk.store.replay([job.id], None, "ann", desk.now)
        (again,) = await desk.claim()
        await desk.turn(spooled=[(again.id, desk.lease, blob("made"))])
        far = desk.now + 2 * HOUR
        assert await desk.store.prune(far, HOUR, 100, 1) == ([job.id], ["made"])
        assert await desk.store.prune(far, HOUR, 100, 1) == ([job.id], ["told"])
        assert await desk.store.prune(far, HOUR, 100, 1) == ([], [])


async def test_a_named_file_is_no_file_of_the_spool(open_desk: OpenDesk) -> None:
    """A prune would remove what belongs to somebody else."""
    async with open_desk() as desk:
        job = await desk.running(blob_json=blob(path="/data/x"))
        await desk.complete(job)
        assert await desk.store.prune(desk.now + 2 * HOUR, HOUR, 100, 10) == ([job.id], [])


async def test_a_stopped_job_keeps_its_payload(open_desk: OpenDesk) -> None:
    """It may be retried."""
    async with open_desk() as desk:
        job = await desk.running(blob_json=blob("one"))
        await desk.turn(stopped=[Stopped(job.id, desk.lease, error_json(1))])
        assert await desk.store.unneeded_files(["one"]) == []


async def test_needed_files_are_read_beside_a_daemon(tmp_path: Path) -> None:
    """`perdure doctor` would miss files, or take living ones for orphans."""
    path = tmp_path / "queue.db"
    async with await open_sqlite(path, durability="normal") as store:
        desk = Desk(store)
        await spooled(desk, "result", blob_json=blob("payload"))
        await desk.dead(blob_json=blob("dead"))
        await desk.enqueue(new_job(blob_json=blob(path="/data/x")), new_job())
        assert needed_files(str(path)) == {"result", "payload", "dead"}


@pytest.mark.parametrize("index", ["jobs_blob", "jobs_result_blob", "dead_letters_blob"])
@pytest.mark.parametrize("statement", ["unneeded_files", "needed_files"])
def test_files_are_found_through_their_indexes(statement: str, index: str) -> None:
    """With a million jobs in the table, a prune would read all of them."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        apply(connection, load_migrations(), ":memory:")
        parameters = dict.fromkeys(re.findall(r":([a-z_]+)", SQL[statement]))
        plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {SQL[statement]}", parameters)]
    assert any(f"INDEX {index} " in f"{line} " for line in plan), plan
