"""What the tests with a real daemon share: how one is set up, and what is looked up about it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec

from perdure.client import Client
from perdure.wire.control import JobEnd, WorkerView
from perdure.wire.data import DeadView, JobSpec
from tests.support.daemon import ROOT, Daemon
from tests.support.wait import wait_until

HANDLERS = "tests.daemon.e2e_handlers"
#: Nothing waits longer than it must.
QUICK = """
[workers]
count = 2
restart_backoff_base = "10ms"
[jobs]
backoff_base = "1ms"
backoff_cap = "10ms"
"""


def make_daemon(
    folder: Path, rest: str = QUICK, *, daemon: str = 'drain_limit = "10s"', handlers: Sequence[str] = (HANDLERS,)
) -> Daemon:
    """A daemon that is not started yet. `daemon`: lines for that section; `rest`: the other sections."""
    folder.mkdir(parents=True, exist_ok=True)
    names = ", ".join(f'"{name}"' for name in handlers)
    head = f'[daemon]\nhandlers = [{names}]\npath = [".", "{ROOT}"]\n{daemon}\n'
    return Daemon(folder, list(handlers), head + rest)


@contextlib.contextmanager
def running(
    folder: Path, rest: str = QUICK, *, daemon: str = 'drain_limit = "10s"', handlers: Sequence[str] = (HANDLERS,)
) -> Iterator[Daemon]:
    """A daemon that runs; at the end it must stop well and leave nobody behind."""
    one = make_daemon(folder, rest, daemon=daemon, handlers=handlers)
    try:
        one.start()
        yield one
        assert one.stop() == 0, one.log()
        left = one.left_behind()
        assert left == [], left
    finally:
        one.close()


def end_of(client: Client, job_id: int, timeout: float = 20) -> JobEnd:
    """How a job ended, once it has."""
    return client.wait_sync(job_id, timeout)[0]


def enqueue_on(client: Client, spec: JobSpec, taken: list[int]) -> None:
    """Enqueue one job after the other, until that raises; their ids go into `taken`."""
    while True:
        taken.append(client.enqueue_many_sync([spec])[0].id)


def dead_letter(client: Client, job_id: int, timeout: float = 20) -> DeadView:
    """The letter of a job that must die."""
    end = end_of(client, job_id, timeout)
    letter = client.dead_get_sync(job_id)
    assert end.state == "dead", end
    assert letter is not None
    return letter


def errors_of(entry: Any) -> list[dict[str, Any]]:
    """The errors of a job or a dead letter, oldest first."""
    decoded: list[dict[str, Any]] = msgspec.json.decode(entry.errors or "[]")
    return decoded


def workers_of(daemon: Daemon) -> list[WorkerView]:
    """The workers as the status shows them."""
    status = daemon.status()
    return status.workers if status else []


def executing(daemon: Daemon, *ids: int) -> bool:
    """Whether all of these jobs are being executed."""
    return set(ids) <= {job_id for worker in workers_of(daemon) for job_id in worker.executing}


def await_executing(daemon: Daemon, *ids: int) -> None:
    """Wait until all of these jobs are being executed."""
    wait_until(lambda: executing(daemon, *ids), 20, f"jobs {ids} to begin; log: {daemon.log()[-2000:]}")


def at_rest(daemon: Daemon, size: int = 2) -> bool:
    """Whether every worker is there, ready, and nothing is held or executed."""
    workers = workers_of(daemon)
    return len(workers) == size and all(
        one.state == "ready" and not one.executing and not one.waiting for one in workers
    )


def await_rest(daemon: Daemon, size: int = 2) -> None:
    """Wait until every worker is idle."""
    wait_until(lambda: at_rest(daemon, size), 20, f"every worker to be idle; log: {daemon.log()[-2000:]}")


def nursery_of(daemon: Daemon) -> int:
    """The pid of the nursery that was loaded last."""
    pid: int = daemon.events("handlers.loaded")[-1]["nursery"]
    return pid


def lives(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process that may be gone."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)


def query(folder: Path, sql: str, *parameters: object) -> list[Any]:
    """Read from the queue's file."""
    connection = sqlite3.connect(f"file:{folder / 'perdure.db'}?mode=ro", uri=True)
    try:
        return connection.execute(sql, parameters).fetchall()
    finally:
        connection.close()


def execute(folder: Path, sql: str, *parameters: object) -> None:
    """Write to the queue's file of a daemon that is stopped."""
    connection = sqlite3.connect(folder / "perdure.db")
    try:
        with connection:
            connection.execute(sql, parameters)
    finally:
        connection.close()
