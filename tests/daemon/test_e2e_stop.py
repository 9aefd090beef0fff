"""T12, T34, T35, T44 with a real daemon: stops at every stage, in time, and at no job's expense."""

from __future__ import annotations

import asyncio
import signal
import time
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.errors import DaemonStopping, DaemonUnreachable
from perdure.wire.data import JobFilter, JobSpec
from tests.daemon.e2e import QUICK, await_executing, end_of, enqueue_on, make_daemon, query, running
from tests.support.wait import wait_until


def states(folder: Path) -> dict[str, int]:
    """How many jobs in which state, from the file."""
    return dict(query(folder, "SELECT state, count(*) FROM jobs GROUP BY state"))


def begun(file: Path) -> bool:
    """Whether the handler has noted its start."""
    return file.exists() and "begun" in file.read_text()


def test_sigterm_finishes_what_runs_and_claims_nothing_new(tmp_path: Path) -> None:
    """T34: a deploy would cut jobs off, begin new ones while it waits, or charge those that wait."""
    file = tmp_path / "witness"
    daemon = make_daemon(tmp_path, QUICK.replace("count = 2", "count = 1"))
    try:
        daemon.start()
        with daemon.client() as client:
            long = client.enqueue_sync("work", {"file": str(file), "seconds": 0.6})
            wait_until(lambda: begun(file))
            client.enqueue_many_sync([JobSpec("noop") for _ in range(300)])
        assert daemon.stop() == 0
        assert file.read_text().endswith("done\n")
        assert query(tmp_path, "SELECT state, attempt, interruptions FROM jobs WHERE id = ?", long.id) == [
            ("completed", 1, 0)
        ]
        waiting = query(
            tmp_path, "SELECT state, attempt, errors, count(*) FROM jobs WHERE kind = 'noop' GROUP BY 1, 2, 3"
        )
        assert waiting == [("available", 0, None, 300)]
        assert daemon.processes() == []
    finally:
        daemon.close()


def test_a_producer_during_the_drain_is_answered(tmp_path: Path) -> None:
    """T34: an enqueue that was acknowledged while the daemon drains would be lost; one that hangs would be as bad."""
    file = tmp_path / "witness"
    daemon = make_daemon(tmp_path)
    taken: list[int] = []
    try:
        daemon.start()
        with daemon.client(timeout=5) as client:
            client.enqueue_sync("work", {"file": str(file), "seconds": 0.8})
            wait_until(lambda: begun(file))
            daemon.send(signal.SIGTERM)
            with pytest.raises(DaemonUnreachable):
                enqueue_on(client, JobSpec("noop"), taken)
        assert daemon.stop() == 0
        there = {job_id for (job_id,) in query(tmp_path, "SELECT id FROM jobs WHERE kind = 'noop'")}
        assert set(taken) <= there
    finally:
        daemon.close()


def test_the_drain_limit_ends_what_does_not_end(tmp_path: Path) -> None:
    """T34, T12: a stop would hang on a job until systemd kills everything, and burn the job's attempt."""
    work = ("work", {"file": str(tmp_path / "witness"), "seconds": 60})
    hung: list[tuple[str, dict[str, object]]] = [work, ("awork", {"seconds": 60}), ("hold_gil", {}), ("hold_lock", {})]
    hung += [("swallow", {}), ("block_loop", {})]
    daemon = make_daemon(tmp_path, QUICK.replace("count = 2", "count = 6"), daemon='drain_limit = "200ms"')
    try:
        daemon.start()
        with daemon.client() as client:
            for kind, args in hung:
                await_executing(daemon, client.enqueue_sync(kind, args).id)
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 3
        assert daemon.processes() == []
        rows = query(tmp_path, "SELECT state, attempt, interruptions, errors, count(*) FROM jobs GROUP BY 1, 2, 3, 4")
        assert rows == [("available", 0, 0, None, len(hung))]
    finally:
        daemon.close()


def test_a_second_sigterm_hurries(tmp_path: Path) -> None:
    """T34: somebody at a terminal would have to reach for kill -9."""
    daemon = make_daemon(tmp_path, daemon='drain_limit = "10m"')
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("awork", {"seconds": 60})
            await_executing(daemon, job.id)
        daemon.send(signal.SIGTERM)
        wait_until(lambda: daemon.events("stop.begun"), 10, "the stop to begin")
        assert daemon.process is not None
        assert daemon.process.poll() is None
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 3
        assert states(tmp_path) == {"available": 1}
    finally:
        daemon.close()


def test_deploys_burn_no_attempt(tmp_path: Path) -> None:
    """T12: twenty deploys would bury a job that takes longer than the time between them."""
    daemon = make_daemon(tmp_path, daemon='drain_limit = "50ms"')
    file = tmp_path / "witness"
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("work", {"file": str(file), "seconds": 60}, max_attempts=1, max_interruptions=1)
            other = client.enqueue_sync("awork", {"seconds": 60}, max_attempts=1, max_interruptions=1)
        for _ in range(3):
            await_executing(daemon, job.id, other.id)
            assert daemon.stop() == 0
            daemon.start()
        assert file.read_text().count("begun") >= 3
        with daemon.client() as client:
            view = client.get_sync(job.id)
            assert view is not None
            assert (view.attempt, view.interruptions, view.errors) == (1, 0, None)
    finally:
        daemon.close()


def test_sigterm_while_handlers_are_imported(tmp_path: Path) -> None:
    """T35: a stop during a slow start would be ignored, or leave the nursery behind."""
    (tmp_path / "slow_jobs.py").write_text("import time\nopen('importing', 'w').close()\ntime.sleep(60)\n")
    daemon = make_daemon(tmp_path, handlers=["slow_jobs"])
    try:
        daemon.spawn()
        wait_until((tmp_path / "importing").exists, 20, "the import to begin")
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 2
        assert daemon.events("start.interrupted")
        assert daemon.processes() == []
    finally:
        daemon.close()


def test_sigterm_at_any_moment_of_the_start(tmp_path: Path) -> None:
    """T35: a stop in the midst of a start or of recovery would lose jobs, charge them twice, or leave orphans."""
    daemon = make_daemon(tmp_path, daemon='drain_limit = "0s"')
    lock = tmp_path / "perdure.db.lock"
    try:
        daemon.start()
        with daemon.client() as client:
            client.enqueue_many_sync([JobSpec("awork", '{"seconds": 600}') for _ in range(40)])
            wait_until(lambda: client.list_sync(JobFilter(states=["running"])), 20, "jobs to run")
        daemon.kill()
        wait_until(lambda: not daemon.processes(), 10, "the workers to end with their supervisor")
        for moment in ("", "jobs.recovered", "handlers.loaded", "worker.started", "daemon.ready"):
            before = len(daemon.events(moment))
            daemon.spawn()
            wait_until(
                lambda seen=moment, count=before: len(daemon.events(seen)) > count if seen else lock.read_text(), 20
            )
            assert daemon.stop() in (0, -signal.SIGTERM), daemon.log()
            assert daemon.processes() == []
            if moment == "":
                continue
        assert set(states(tmp_path)) <= {"available"}
        assert query(tmp_path, "SELECT count(*), max(interruptions) FROM jobs") == [(40, 1)]
    finally:
        daemon.close()


def test_a_stop_under_full_load_ends_in_time(tmp_path: Path) -> None:
    """T44: a daemon that is never idle would never stop, or lose what was under way."""
    daemon = make_daemon(tmp_path)
    total = 20_000
    try:
        daemon.start()
        with daemon.client() as client:
            client.enqueue_many_sync([JobSpec("noop" if n % 2 else "anoop") for n in range(total)])
            wait_until(lambda: client.status_sync().jobs_done > 100, 20, "the load to flow")
        started = time.monotonic()
        assert daemon.stop() == 0
        assert time.monotonic() - started < 3
        left = states(tmp_path)
        assert set(left) <= {"completed", "available"}
        assert sum(left.values()) == total
        assert query(tmp_path, "SELECT max(interruptions) FROM jobs") == [(0,)]
    finally:
        daemon.close()


def test_waiting_clients_are_told_of_the_stop(tmp_path: Path) -> None:
    """T34: `perdure wait` would hang when the daemon goes."""
    with running(tmp_path) as daemon, Client(daemon.socket) as client:
        job = client.enqueue_sync("noop", delay="1h")
        daemon.send(signal.SIGTERM)
        with pytest.raises(DaemonUnreachable):
            end_of(client, job.id)


async def test_who_waits_at_a_stop_is_told_why(tmp_path: Path) -> None:
    """A closed connection looks like a crash of the daemon."""
    with running(tmp_path) as daemon:
        async with Client(daemon.socket) as client:
            job = await client.enqueue("noop", delay="1h")
            waiting = asyncio.ensure_future(client.wait(job.id, timeout=20))
            # Tasks begin in order, and a connection's requests are taken in order: the wait, then this one.
            await asyncio.ensure_future(client.status())
            daemon.send(signal.SIGTERM)
            with pytest.raises(DaemonStopping):
                await waiting
