"""A daemon that cannot start says why in one line, ends, and changes nothing."""

from __future__ import annotations

import os
import socket
import sqlite3
from pathlib import Path

import pytest

from perdure.wire.data import JobSpec
from tests.daemon.e2e import QUICK, end_of, execute, make_daemon, query, running
from tests.support.abilities import root
from tests.support.daemon import Daemon
from tests.support.wait import wait_until


def refused(daemon: Daemon, code: int = 1) -> str:
    """Start it; the reason why it ends with this code, leaving nobody behind."""
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == code, daemon.log()
    assert daemon.processes() == []
    reasons = daemon.events("daemon.failed")
    assert "Traceback" not in daemon.log()
    return str(reasons[-1]["reason"]) if reasons else daemon.log()


def test_a_second_daemon_on_the_same_file_is_refused(tmp_path: Path) -> None:
    """Two writers would corrupt the file; or the first one would lose its socket."""
    with running(tmp_path) as first, first.client() as client:
        second = make_daemon(tmp_path)
        second.log_path = tmp_path / "second.log"
        reason = refused(second)
        assert str(first.pid) in reason
        assert "already running" in reason
        assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        with first.client() as other:
            assert other.status_sync().pid == first.pid


def test_a_text_file_is_no_database(tmp_path: Path) -> None:
    """A mistyped path would overwrite somebody's notes."""
    (tmp_path / "perdure.db").write_text("my notes, which are long enough to have no header of a database\n" * 50)
    before = (tmp_path / "perdure.db").read_bytes()
    assert "is not a database" in refused(make_daemon(tmp_path))
    assert (tmp_path / "perdure.db").read_bytes() == before


def test_another_programs_database_is_left_alone(tmp_path: Path) -> None:
    """Our tables would be put into it."""
    connection = sqlite3.connect(tmp_path / "perdure.db")
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    assert "another program" in refused(make_daemon(tmp_path))
    assert query(tmp_path, "SELECT name FROM sqlite_schema") == [("theirs",)]


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """After a downgrade the file would be damaged."""
    with running(tmp_path) as daemon, daemon.client() as client:
        client.enqueue_sync("noop", delay="1h")
    execute(tmp_path, "PRAGMA user_version = 99")
    reason = refused(make_daemon(tmp_path))
    assert "schema version 99" in reason
    assert query(tmp_path, "SELECT state FROM jobs") == [("scheduled",)]


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    """A daemon that goes on with a broken file makes it worse."""
    with running(tmp_path) as daemon, daemon.client() as client:
        client.enqueue_many_sync([JobSpec("noop", delay_ms=3_600_000) for _ in range(2000)])
    with (tmp_path / "perdure.db").open("r+b") as file:
        file.seek(0, os.SEEK_END)
        size = file.tell()
        for offset in range(4096, size, 4096):
            file.seek(offset)
            file.write(b"\xff" * 512)
    assert "is damaged" in refused(make_daemon(tmp_path))


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    """The message would be SQLite's 'unable to open database file'."""
    (tmp_path / "perdure.db").mkdir()
    assert "is a folder" in refused(make_daemon(tmp_path))


def test_a_socket_path_that_is_too_long(tmp_path: Path) -> None:
    """The message would be 'AF_UNIX path too long', without the way out."""
    folder = tmp_path / ("x" * 120)
    reason = refused(make_daemon(folder), code=2)
    assert "107" in reason
    assert "daemon.socket" in reason


def test_a_socket_that_somebody_else_listens_on(tmp_path: Path) -> None:
    """The socket of another program, or of a daemon on another file, would be taken away."""
    path = tmp_path / "perdure.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as other:
        other.bind(str(path))
        other.listen()
        assert "perdure.sock" in refused(make_daemon(tmp_path), code=2)
        assert path.exists()


def test_a_socket_that_a_killed_daemon_left_is_replaced(tmp_path: Path) -> None:
    """T07, T02: after a crash somebody would have to remove the socket and the lock by hand."""
    daemon = make_daemon(tmp_path)
    try:
        daemon.start()
        daemon.kill()
        assert daemon.socket.exists()
        # Its pid may belong to anybody by now: a lock that went by the pid would wait for a stranger.
        (tmp_path / "perdure.db.lock").write_text(f'{{"pid": {os.getpid()}, "role": "daemon", "since": 0}}')
        wait_until(lambda: not daemon.processes(), 10, "the workers to end with their supervisor")
        daemon.start()
        with daemon.client() as client:
            assert end_of(client, client.enqueue_sync("noop").id).state == "completed"
        assert daemon.stop() == 0
        assert not daemon.socket.exists()
    finally:
        daemon.close()


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A daemon that cannot write its queue would take jobs, or end with a stack trace."""
    if not root().missing:
        pytest.skip("root may write everywhere; a read-only mount is tried in test_e2e_disk.py")
    tmp_path.chmod(0o500)
    try:
        assert "cannot be" in refused(make_daemon(tmp_path))
    finally:
        tmp_path.chmod(0o700)


def test_mistakes_in_the_configuration_are_told_all_at_once(tmp_path: Path) -> None:
    """Each start would bring up the next mistake."""
    daemon = make_daemon(tmp_path, QUICK + 'backof_base = "1s"\ntimeout = "soon"\n')
    daemon.spawn()
    assert daemon.process is not None
    assert daemon.process.wait(30) == 2
    assert "backof_base" in daemon.log()
    assert "soon" in daemon.log()
