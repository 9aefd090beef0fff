"""T37 with a real daemon: new code through SIGHUP, broken code at start and at reload, kinds that nobody knows."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from perdure.errors import HandlersNotLoaded
from tests.daemon.e2e import QUICK, await_executing, end_of, make_daemon, nursery_of, running, workers_of
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

OLD = """
from perdure import job

@job("version")
def version() -> str:
    return "old"

@job("slow")
def slow(file: str) -> str:
    import pathlib, time
    while not pathlib.Path(file).exists():
        time.sleep(0.01)
    return "old"
"""
NEW = (
    OLD.replace('"old"', '"new"')
    + """
@job("brand.new")
async def brand_new() -> str:
    return "here"
"""
)
BROKEN = OLD + "\nraise RuntimeError('left half-way')\n"


def write(folder: Path, text: str) -> None:
    """The handlers' module, and no trace of the former one."""
    folder.mkdir(exist_ok=True)
    (folder / "reloaded_jobs.py").write_text(text)
    for stale in folder.glob("__pycache__/reloaded_jobs.*"):
        stale.unlink()


def hang_up(daemon: Daemon, outcome: str) -> None:
    """SIGHUP, and wait for what the log says about it."""
    count = len(daemon.events(outcome))
    daemon.send(signal.SIGHUP)
    wait_until(lambda: len(daemon.events(outcome)) > count, 20, f"{outcome}; log: {daemon.log()[-2000:]}")


def test_new_code_comes_with_sighup(tmp_path: Path) -> None:
    """T37: a deploy would need a restart, cut running jobs off, or lose jobs of kinds that come with it."""
    write(tmp_path, OLD)
    with running(tmp_path, handlers=["reloaded_jobs"]) as daemon, daemon.client() as client:
        assert end_of(client, client.enqueue_sync("version").id).result == '"old"'
        unknown = client.enqueue_sync("brand.new")
        wait_until(lambda: (view := client.get_sync(unknown.id)) and view.state == "parked", 10, "the job to be parked")
        parked = client.get_sync(unknown.id)
        assert parked is not None
        assert (parked.park_reason, parked.attempt) == ("kind:brand.new", 0)
        gate = tmp_path / "gate"
        slow = client.enqueue_sync("slow", {"file": str(gate)})
        await_executing(daemon, slow.id)
        before = {worker.pid for worker in workers_of(daemon)}
        write(tmp_path, NEW)
        hang_up(daemon, "reload.done")
        assert end_of(client, unknown.id).result == '"here"'
        assert end_of(client, client.enqueue_sync("version").id).result == '"new"'
        gate.touch()
        assert end_of(client, slow.id).result == '"old"'
        wait_until(lambda: not before & {worker.pid for worker in workers_of(daemon)}, 10, "the old workers to end")
        assert len(workers_of(daemon)) == 2
        view = client.get_sync(slow.id)
        assert view is not None
        assert (view.attempt, view.interruptions) == (1, 0)
        assert daemon.processes().count(nursery_of(daemon)) == 1
        wait_until(lambda: len(daemon.processes()) == 4, 10, "the old nursery to end")


def test_broken_code_leaves_the_old_in_use(tmp_path: Path) -> None:
    """T37: a syntax error in a deploy would stop the service."""
    write(tmp_path, OLD)
    with running(tmp_path, handlers=["reloaded_jobs"]) as daemon, daemon.client() as client:
        before = {worker.pid for worker in workers_of(daemon)}
        write(tmp_path, BROKEN)
        hang_up(daemon, "reload.failed")
        with pytest.raises(HandlersNotLoaded, match="left half-way"):
            client.reload_sync()
        for source, reason in (("def half(:\n", "reloaded_jobs.py"), ("import nowhere_at_all\n", "nowhere_at_all")):
            write(tmp_path, source)
            with pytest.raises(HandlersNotLoaded, match=reason):
                client.reload_sync()
        assert {worker.pid for worker in workers_of(daemon)} == before
        assert end_of(client, client.enqueue_sync("version").id).result == '"old"'
        assert daemon.events("reload.failed")[-1]["advice"]
        write(tmp_path, NEW)
        assert {spec.name for spec in client.reload_sync()} == {"version", "slow", "brand.new"}
        assert end_of(client, client.enqueue_sync("version").id).result == '"new"'


def test_a_kind_that_is_gone_parks_its_jobs(tmp_path: Path) -> None:
    """T37: jobs of a handler that a deploy took away would fail one after the other, or be dropped."""
    write(tmp_path, NEW)
    with running(tmp_path, handlers=["reloaded_jobs"]) as daemon, daemon.client() as client:
        client.pause_sync("later")
        job = client.enqueue_sync("brand.new", queue="later")
        write(tmp_path, OLD)
        hang_up(daemon, "reload.done")
        client.resume_sync("later")
        wait_until(lambda: (view := client.get_sync(job.id)) and view.state == "parked", 10, "the job to be parked")
        write(tmp_path, NEW)
        hang_up(daemon, "reload.done")
        assert end_of(client, job.id).result == '"here"'


def test_reloads_under_load_lose_nothing(tmp_path: Path) -> None:
    """T37: jobs that were on the way to an old worker would be lost or run twice."""
    write(tmp_path, OLD)
    with running(tmp_path, handlers=["reloaded_jobs"]) as daemon, daemon.client() as client:
        jobs = client.enqueue_many_sync([("version", {}) for _ in range(5_000)])
        for text in (NEW, OLD, NEW):
            write(tmp_path, text)
            client.reload_sync()
        ends = client.wait_sync([job.id for job in jobs], 40)
        assert {end.state for end in ends} == {"completed"}
        assert {end.result for end in ends} <= {'"old"', '"new"'}
        views = [client.get_sync(job.id) for job in jobs[::50]]
        assert {view.interruptions for view in views if view} == {0}


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (BROKEN, "left half-way"),
        ("import os\nos._exit(3)\n", "exited with status 3"),
    ],
)
def test_handlers_that_cannot_be_imported_stop_the_start(tmp_path: Path, source: str, reason: str) -> None:
    """The daemon would run without its handlers, or end without saying which module is wrong."""
    write(tmp_path, source)
    daemon = make_daemon(tmp_path, QUICK, handlers=["reloaded_jobs"])
    try:
        daemon.spawn()
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1
        (failed,) = daemon.events("daemon.failed")
        assert reason in failed["reason"]
        assert "reloaded_jobs" in failed["reason"]
        assert daemon.processes() == []
    finally:
        daemon.close()
