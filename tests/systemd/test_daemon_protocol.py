"""What `perdure run` tells its service manager, and when."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.service_manager import ServiceManager

PROJECT = Path(__file__).parents[2]
HANDLERS = Path(__file__).with_name("handlers.py")
Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[ServiceManager]:
    """A service manager that listens."""
    with ServiceManager(tmp_path) as listening:
        yield listening


@pytest.fixture
def start(tmp_path: Path, manager: ServiceManager) -> Iterator[Start]:
    """Starts `perdure run` in a scratch folder under the manager; ends it at the end of the test."""
    daemons: list[subprocess.Popen[bytes]] = []
    (tmp_path / "jobs.py").write_text(HANDLERS.read_text())

    def run(*, watchdog_seconds: float | None = None) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **manager.environ(watchdog_seconds=watchdog_seconds)}
        environ.update(PYTHONPATH=str(PROJECT), PERDURE_WORKERS_COUNT="1")
        command = [sys.executable, "-m", "perdure", "run", "jobs"]
        with open(tmp_path / "log", "ab") as log:
            daemons.append(subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=log, stdout=log))
        return daemons[-1]

    yield run
    for daemon in daemons:
        daemon.terminate()
        try:
            daemon.wait(10)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait(10)
    print((tmp_path / "log").read_text())  # shown when the test has failed


def test_ready_means_that_clients_can_connect(tmp_path: Path, start: Start, manager: ServiceManager) -> None:
    """READY before the socket listens would let the next service start into "connection refused"."""
    daemon = start()
    message = manager.wait_for("READY", "1", timeout=20)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as client:
        client.connect(str(tmp_path / "perdure.sock"))
    assert message.pid == daemon.pid
    assert message.fields["STATUS"]


def test_pings_come_in_time(start: Start, manager: ServiceManager) -> None:
    """Pings that come late get a healthy daemon killed."""
    start(watchdog_seconds=1.5)
    ready = manager.wait_for("READY", "1", timeout=20)
    pings = [manager.wait_for("WATCHDOG", "1").at for _ in range(3)]
    gaps = [later - earlier for earlier, later in zip([ready.at, *pings], pings, strict=False)]
    assert max(gaps) < 1.5, gaps


def test_no_ping_while_it_drains(tmp_path: Path, start: Start, manager: ServiceManager) -> None:
    """Pings after STOPPING would hide a stop that hangs; systemd has another limit for the stop."""
    daemon = start(watchdog_seconds=0.6)
    manager.wait_for("READY", "1", timeout=20)
    command = [sys.executable, "-m", "perdure", "enqueue", "nap", "seconds:=1"]
    subprocess.run(command, cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(PROJECT)}, check=True, timeout=20)
    daemon.send_signal(signal.SIGTERM)
    stopping = manager.wait_for("STOPPING", "1")
    assert daemon.wait(20) == 0
    assert time.monotonic() - stopping.at > 0.6, "the drain was too short to see anything"
    assert not [message for message in manager.pending() if "WATCHDOG" in message.fields]


def test_a_reload_tells_its_begin_and_its_end(start: Start, manager: ServiceManager) -> None:
    """systemd 253 and newer wants the begin with its time in one datagram, and READY=1 at the end."""
    daemon = start()
    manager.wait_for("READY", "1", timeout=20)
    before = time.monotonic_ns() // 1000
    daemon.send_signal(signal.SIGHUP)
    begun = manager.wait_for("RELOADING", "1")
    assert before <= int(begun.fields["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
    assert manager.wait_for("READY", "1", timeout=20).pid == daemon.pid


def test_nobody_else_speaks_for_the_daemon(start: Start, manager: ServiceManager) -> None:
    """With NotifyAccess=main a message of a worker is dropped with a warning; there must be none."""
    daemon = start(watchdog_seconds=0.6)
    manager.wait_for("READY", "1", timeout=20)
    for _ in range(3):
        manager.wait_for("WATCHDOG", "1")
    assert {message.pid for message in manager.messages} == {daemon.pid}
