"""The notify protocol, spoken to a service manager that listens for real."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from perdure.daemon.systemd import NOT_FOR_JOBS, Notifier, job_environ, listen_fds
from tests.support.service_manager import ServiceManager


@pytest.mark.parametrize("abstract", [False, True])
def test_ready_reaches_the_manager(tmp_path: Path, abstract: bool) -> None:
    """A service whose READY does not arrive, at a path or an abstract address, never counts as started."""
    with ServiceManager(tmp_path, abstract=abstract) as manager, Notifier.from_environ(manager.environ()) as notifier:
        assert notifier.ready("running 0, queued 12")
        message = manager.wait_for("READY", "1")
    assert message.fields == {"READY": "1", "STATUS": "running 0, queued 12"}
    assert message.pid == os.getpid()


def test_reload_is_one_datagram(tmp_path: Path) -> None:
    """systemd ignores a RELOADING=1 that does not carry its time in the same datagram."""
    with ServiceManager(tmp_path) as manager, Notifier.from_environ(manager.environ()) as notifier:
        notifier.reloading(123_456)
        assert manager.receive().fields == {"RELOADING": "1", "MONOTONIC_USEC": "123456"}


def test_no_ping_after_stopping(tmp_path: Path) -> None:
    """A ping during the stop would tell the manager that a daemon which hangs in its drain is well."""
    with ServiceManager(tmp_path) as manager:
        with Notifier.from_environ(manager.environ(watchdog_seconds=30, pid=os.getpid())) as notifier:
            assert notifier.watchdog()
            assert notifier.stopping()
            assert not notifier.watchdog()
            assert notifier.extend(5_000_000)
        assert [message.fields for message in manager.pending()] == [
            {"WATCHDOG": "1"},
            {"STOPPING": "1"},
            {"EXTEND_TIMEOUT_USEC": "5000000"},
        ]


@pytest.mark.parametrize(
    ("limit_usec", "pid", "interval_seconds"),
    [
        pytest.param("30000000", str(os.getpid()), 10, id="own pid"),
        ("600000", None, 0.2),
        ("30000000", "1", None),
        ("", None, None),
        ("0", None, None),
        ("-5", None, None),
        ("soon", None, None),
        ("١٢", None, None),
    ],
)
def test_three_pings_per_limit(
    tmp_path: Path, limit_usec: str, pid: str | None, interval_seconds: float | None
) -> None:
    """With fewer, one late ping is enough to be killed; a limit for another process, or none, is not ours."""
    with ServiceManager(tmp_path) as manager:
        environ = {**manager.environ(), "WATCHDOG_USEC": limit_usec, **({"WATCHDOG_PID": pid} if pid else {})}
        with Notifier.from_environ(environ) as notifier:
            assert notifier.watchdog_interval_seconds == pytest.approx(interval_seconds)
            assert notifier.watchdog() == (interval_seconds is not None)


def test_children_do_not_inherit_the_line(tmp_path: Path) -> None:
    """A job that inherited NOTIFY_SOCKET could end the service's start, or be taken for the daemon."""
    with ServiceManager(tmp_path) as manager:
        environ = manager.environ(watchdog_seconds=3, pid=os.getpid())
        environ.update(LISTEN_FDS="1", LISTEN_PID="1", A="b")
        Notifier.from_environ(environ).close()
    assert environ == {"A": "b"}
    secret = dict.fromkeys(NOT_FOR_JOBS, "x")
    assert job_environ({**secret, "PATH": "/bin"}) == {"PATH": "/bin"}


@pytest.mark.parametrize("address", ["", "vsock:2:1234", "relative/path"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    """`perdure run` in a terminal must work as it does under systemd."""
    notifier = Notifier.from_environ({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    assert not notifier.active
    assert notifier.watchdog_interval_seconds is None
    assert not any([notifier.ready("x"), notifier.watchdog(), notifier.stopping(), notifier.status("x")])


def test_a_manager_that_is_gone_is_no_error(tmp_path: Path) -> None:
    """The daemon goes on when the manager's socket vanishes, is not there, or cannot exist."""
    manager = ServiceManager(tmp_path)
    notifier = Notifier.from_environ(manager.environ(watchdog_seconds=3))
    manager.close()
    assert not notifier.watchdog()
    assert not notifier.ready("still here")
    with Notifier("/" + "x" * 200) as nowhere:
        assert not nowhere.ready("a path that no socket can have")
    notifier.close()
    assert not notifier.status("closed")


def test_a_manager_that_does_not_read_never_blocks_the_loop(tmp_path: Path) -> None:
    """Pings and status lines are dropped when the manager's queue is full; waiting would stop the main loop."""
    with ServiceManager(tmp_path) as manager, Notifier(manager.address, 1.0) as notifier:
        sent = 0
        while notifier.watchdog():
            sent += 1
        assert sent > 0
        assert not notifier.status("the queue is full")
        manager.pending()
        assert notifier.watchdog()


def test_status_cannot_smuggle_fields(tmp_path: Path) -> None:
    """A line break in a status text would be read as another field, a lone surrogate would raise."""
    with ServiceManager(tmp_path) as manager, Notifier.from_environ(manager.environ()) as notifier:
        notifier.status("parked\nSTOPPING=1\r\nMAINPID=1\udc80")
        assert manager.receive().fields == {"STATUS": "parked STOPPING=1 MAINPID=1?"}


def test_sockets_meant_for_another_process_are_left_alone() -> None:
    """Descriptor 3 of a process that only inherited LISTEN_FDS is something else entirely."""
    assert listen_fds({}) == []
    assert listen_fds({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) == []
    assert listen_fds({"LISTEN_FDS": "many", "LISTEN_PID": str(os.getpid())}) == []


def test_sockets_of_a_socket_unit_are_taken(tmp_path: Path) -> None:
    """Socket activation: descriptor 3 is our listening socket, and children must not get it."""
    code = (
        "import os, socket, subprocess, sys\n"
        f"server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); server.bind({str(tmp_path / 's')!r})\n"
        "server.listen(); os.dup2(server.fileno(), 3)\n"
        "os.environ.update(LISTEN_FDS='1', LISTEN_PID=str(os.getpid()))\n"
        "from perdure.daemon.systemd import listen_fds\n"
        "(fd,) = listen_fds(os.environ); print(fd, os.get_inheritable(fd), socket.socket(fileno=fd).getsockname())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.split(maxsplit=2) == ["3", "False", f"{tmp_path / 's'}\n"]
