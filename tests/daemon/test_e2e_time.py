"""T05, T07, T17 with a real daemon: far future, lost wake-ups, suspended machines, reused pids."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.daemon.e2e import end_of, execute, make_daemon, query, running
from tests.support.daemon import Daemon
from tests.support.wait import wait_until

DAYS_30 = "30d"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon for tests that do not restart it."""
    with running(tmp_path_factory.mktemp("time")) as one:
        yield one


def count(file: Path) -> int:
    """How often the handler ran."""
    return len(file.read_text().splitlines()) if file.exists() else 0


def test_a_job_far_ahead_runs_once_and_not_before(tmp_path: Path) -> None:
    """T05: it would run at once, at each restart, or as often as the daemon was restarted while it waited."""
    file = tmp_path / "ran"
    daemon = make_daemon(tmp_path)
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("note", {"file": str(file), "text": "x"}, delay=DAYS_30)
            assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        assert daemon.stop() == 0
        daemon.start()
        with daemon.client() as client:
            assert end_of(client, client.enqueue_sync("noop", delay=0.1).id).state == "completed"
            view = client.get_sync(job.id)
            assert view is not None
            assert view.state == "scheduled"
            assert abs(view.scheduled_at - view.created_at - 30 * 86_400_000) < 1000
        daemon.kill()
        assert count(file) == 0
        wait_until(lambda: not daemon.processes(), 10, "the workers to end with their supervisor")
        now_ms = int(time.time() * 1000)
        execute(tmp_path, "UPDATE jobs SET scheduled_at = ? WHERE id = ?", now_ms + 1000, job.id)
        daemon.start()
        with daemon.client() as client:
            assert end_of(client, job.id).state == "completed"
            assert int(time.time() * 1000) >= now_ms + 1000
        assert daemon.stop() == 0
        daemon.start()
        with daemon.client() as client:
            assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        assert daemon.stop() == 0
        assert count(file) == 1
        assert query(tmp_path, "SELECT state, attempt FROM jobs WHERE id = ?", job.id) == [("completed", 1)]
    finally:
        daemon.close()


def test_what_fell_due_while_the_daemon_was_away_runs(tmp_path: Path) -> None:
    """T05, T17: delayed jobs and retries whose moment passed during a stop would wait for ever."""
    daemon = make_daemon(tmp_path)
    try:
        daemon.start()
        with daemon.client() as client:
            delayed = client.enqueue_sync("noop", delay="1h")
            again = client.enqueue_sync("attempts", {"failures": 1, "after": 3600})
            wait_until(
                lambda: (view := client.get_sync(again.id)) and view.state == "retryable", 10, "the first attempt"
            )
        assert daemon.stop() == 0
        execute(tmp_path, "UPDATE jobs SET scheduled_at = created_at")
        daemon.start()
        with daemon.client() as client:
            assert {end.state for end in client.wait_sync([delayed.id, again.id], 10)} == {"completed"}
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_a_moment_that_passed_while_the_machine_slept(shared: Daemon) -> None:
    """T17: a wake-up that was missed would cost more than the next look."""
    with shared.client() as client:
        job = client.enqueue_sync("noop", delay=0.3)
        view = client.get_sync(job.id)
        assert view is not None
        shared.send(signal.SIGSTOP)
        wait_until(lambda: time.time() * 1000 > view.scheduled_at + 200, 10, "the moment to pass")
        shared.send(signal.SIGCONT)
        assert end_of(client, job.id, 2).state == "completed"


def test_an_enqueue_wakes_an_idle_daemon_each_time(shared: Daemon) -> None:
    """T17: a wake-up that is lost between two turns would leave a job lying until something else happens."""
    with shared.client() as client:
        slowest = 0.0
        for kind in ("noop", "anoop") * 100:
            started = time.monotonic()
            assert end_of(client, client.enqueue_sync(kind).id, 10).state == "completed"
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 1.0


def test_pids_and_worker_numbers_begin_anew(tmp_path: Path) -> None:
    """T07: the recorder pages of the last run, by workers of the same number, would be taken for those of this one."""
    daemon = make_daemon(tmp_path)
    try:
        for run in range(1, 3):
            daemon.start()
            with daemon.client() as client:
                done = client.enqueue_sync("noop")
                assert end_of(client, done.id).state == "completed"
                crashed = client.enqueue_sync("crash", {"how": "exit"}, max_interruptions=1)
                assert end_of(client, crashed.id).state == "dead"
            daemon.kill()
            wait_until(lambda: not daemon.processes(), 10, "the workers to end with their supervisor")
            assert query(tmp_path, "SELECT count(*), max(attempt), max(interruptions) FROM jobs") == [(run, 1, 0)]
        assert query(tmp_path, "SELECT count(*), max(deaths), max(interruptions) FROM dead_letters") == [(2, 1, 1)]
    finally:
        daemon.close()
