"""T26 with a real daemon: a disk that is full, or cannot be written."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from perdure.client import Client
from perdure.errors import StoreFull
from perdure.wire.data import JobSpec
from tests.daemon.e2e import QUICK, await_executing, end_of, enqueue_on, make_daemon, query
from tests.support.daemon import Daemon
from tests.support.disks import small_disk_at
from tests.support.wait import wait_until

SETTINGS = QUICK + '[store]\nfull_disk_wait = "30s"\n'


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 4 MiB."""
    with small_disk_at(tmp_path / "disk", "4m") as folder:
        yield folder


@pytest.fixture
def daemon(small_disk: Path) -> Iterator[Daemon]:
    """A daemon on that disk; its log is elsewhere."""
    one = make_daemon(small_disk, SETTINGS)
    one.log_path = small_disk.parent / "daemon.log"
    try:
        one.start()
        yield one
    finally:
        one.close()


def fill(folder: Path) -> Path:
    """Take all the space that is left."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    return ballast


def enqueue_until_full(client: Client) -> int:
    """Enqueue until the daemon refuses; how many were taken."""
    taken: list[int] = []
    with pytest.raises(StoreFull, match=r"full: free some space"):
        enqueue_on(client, JobSpec("size", f'{{"text":"{"x" * 20_000}"}}', delay_ms=3_600_000), taken)
    return len(taken)


def test_a_full_disk_refuses_producers_and_keeps_outcomes(daemon: Daemon, small_disk: Path) -> None:
    """T26: acknowledged jobs would be lost, outcomes dropped, or the daemon would end at once."""
    gate, file = small_disk.parent / "gate", small_disk.parent / "witness"
    with daemon.client() as client:
        running = client.enqueue_sync("gate", {"gate": str(gate), "file": str(file)})
        await_executing(daemon, running.id)
        ballast = fill(small_disk)
        taken = enqueue_until_full(client)
        gate.touch()
        wait_until(lambda: daemon.events("store.full"), 10, "the outcome to meet the full disk")
        status = client.status_sync()
        assert any("full" in warning for warning in status.warnings)
        with pytest.raises(StoreFull):
            client.enqueue_sync("noop")
        ballast.unlink()
        assert end_of(client, running.id).state == "completed"
        assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        assert not [warning for warning in client.status_sync().warnings if "is full" in warning]
    assert daemon.events("store.has_space_again")
    assert daemon.stop() == 0
    assert file.read_text() == "ran\n"
    assert query(small_disk, "PRAGMA integrity_check") == [("ok",)]
    assert query(small_disk, "SELECT count(*) FROM jobs WHERE kind = 'size'") == [(taken,)]


def test_a_stop_on_a_full_disk_ends(daemon: Daemon, small_disk: Path) -> None:
    """T26: a stop would wait for space, and systemd would kill everything."""
    gate, file = small_disk.parent / "gate", small_disk.parent / "witness"
    with daemon.client() as client:
        job = client.enqueue_sync("gate", {"gate": str(gate), "file": str(file)}, max_attempts=1, max_interruptions=1)
        await_executing(daemon, job.id)
        ballast = fill(small_disk)
        enqueue_until_full(client)
    gate.touch()
    wait_until(lambda: daemon.events("store.full"), 10, "the outcome to meet the full disk")
    daemon.send(signal.SIGTERM)
    wait_until(lambda: daemon.events("stop.begun"), 10, "the stop to begin")
    assert daemon.stop(15) in (0, 1)
    assert daemon.processes() == []
    assert "Traceback" not in daemon.log()
    ballast.unlink()
    daemon.start()
    with daemon.client() as client:
        assert end_of(client, job.id).state == "completed"
        assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
    assert daemon.stop() == 0


def test_the_daemon_gives_up_when_the_wait_is_over(small_disk: Path) -> None:
    """T26: it would try for ever where an administrator has said how long, or charge what it could not record."""
    daemon = make_daemon(small_disk, QUICK + '[store]\nfull_disk_wait = "1s"\n')
    daemon.log_path = small_disk.parent / "daemon.log"
    gate, file = small_disk.parent / "gate", small_disk.parent / "witness"
    try:
        daemon.start()
        with daemon.client() as client:
            job = client.enqueue_sync("gate", {"gate": str(gate), "file": str(file)})
            await_executing(daemon, job.id)
            ballast = fill(small_disk)
            enqueue_until_full(client)
        gate.touch()
        assert daemon.process is not None
        assert daemon.process.wait(20) == 1
        assert "is full" in daemon.events("daemon.failed")[-1]["reason"]
        assert daemon.processes() == []
        ballast.unlink()
        daemon.start()
        with daemon.client() as client:
            assert end_of(client, job.id).state == "completed"
            view = client.get_sync(job.id)
            assert view is not None
            assert (view.interruptions, view.errors) == (0, None)
        assert daemon.stop() == 0
    finally:
        daemon.close()


def test_a_start_on_a_full_disk_says_so(small_disk: Path) -> None:
    """T26: the first message would be a stack trace."""
    daemon = make_daemon(small_disk, SETTINGS)
    daemon.log_path = small_disk.parent / "daemon.log"
    fill(small_disk)
    try:
        daemon.spawn()
        assert daemon.process is not None
        assert daemon.process.wait(30) == 1
        assert "is full" in daemon.events("daemon.failed")[-1]["reason"]
        assert "Traceback" not in daemon.log()
    finally:
        daemon.close()


def test_a_disk_that_cannot_be_written_any_more(daemon: Daemon, small_disk: Path) -> None:
    """T26: a disk that the kernel made read-only would let the daemon take jobs that are nowhere."""
    with daemon.client() as client:
        kept = client.enqueue_sync("noop", delay="1h")
        end_of(client, client.enqueue_sync("noop").id)
    assert daemon.stop() == 0
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 1
    reason = daemon.events("daemon.failed")[-1]["reason"]
    assert "owner and permissions" in reason
    assert "Traceback" not in daemon.log()
    subprocess.run(["mount", "-o", "remount,rw", small_disk], check=True)
    daemon.start()
    with daemon.client() as client:
        view = client.get_sync(kept.id)
        assert view is not None
        assert view.state == "scheduled"
