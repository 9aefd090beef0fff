"""Listening to a worker as the supervisor does, and giving orders to a handler that obeys."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from perdure.daemon.joblog import log_path, values_path
from perdure.daemon.log_position import rotated_path
from perdure.wire.streams import Emitted, LogText, Progress, WorkerEntry
from perdure.wire.work import Done, Told
from tests.worker.rig import Worker

HANDLERS = "tests.worker.telling_handlers"


def entries(worker: Worker, job_id: int) -> list[WorkerEntry]:
    """All that was told of a job."""
    return [entry for told in worker.told for entry in told.entries if entry.id == job_id]


def text(worker: Worker, job_id: int, *, earlier: bool | None = None) -> str:
    """What was told of its log."""
    some = [one for one in entries(worker, job_id) if isinstance(one, LogText)]
    return "".join(one.text for one in some if earlier is None or one.earlier == earlier)


def values(worker: Worker, job_id: int) -> list[Emitted]:
    """The values that were told."""
    return [one for one in entries(worker, job_id) if isinstance(one, Emitted)]


def progress(worker: Worker, job_id: int) -> list[Progress]:
    """The progress that was told."""
    return [one for one in entries(worker, job_id) if isinstance(one, Progress)]


def stories(worker: Worker, job_id: int) -> int:
    """How many stories of it were told to their end."""
    return sum(isinstance(one, LogText) and one.earlier and not one.text for one in entries(worker, job_id))


def skipped(worker: Worker, job_id: int) -> tuple[int, int]:
    """How many lines and values were left out."""
    some = [one for told in worker.told for one in told.skipped if one.id == job_id]
    return sum(one.lines for one in some), sum(one.values for one in some)


def told_after_its_end(worker: Worker, job_id: int) -> list[WorkerEntry]:
    """What was told of a job when its outcome had been told."""
    late: list[WorkerEntry] = []
    ended = False
    for message in worker.news:
        if isinstance(message, Done):
            ids = {*message.completed, *(one for one, _ in message.results), *(one.id for one in message.failed)}
            ended = ended or job_id in ids
        elif isinstance(message, Told) and ended:
            late += [entry for entry in message.entries if entry.id == job_id]
    return late


def whole_log(worker: Worker, job_id: int) -> str:
    """The rotated and the present file of a job's log together."""
    path = log_path(worker.logs, job_id)
    return "".join(one.read_text() for one in (rotated_path(path), path) if one.exists())


def kept_values(worker: Worker, job_id: int) -> list[list[object]]:
    """The rotated and the present file of its values together: pairs of number and value."""
    path = values_path(worker.logs, job_id)
    files = [one.read_text() for one in (rotated_path(path), path) if one.exists()]
    return [msgspec.json.decode(line)[:2] for line in "".join(files).splitlines()]


class Orders:
    """What goes through the pipe to the handlers `obey` and `aobey`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self._fd = os.open(path, os.O_RDWR)

    def give(self, *orders: str) -> None:
        """Have these done, one after the other."""
        for order in orders:
            os.write(self._fd, f"{order}\n".encode())

    def close(self) -> None:
        """No more."""
        os.close(self._fd)


@contextlib.contextmanager
def orders_in(folder: Path, name: str = "orders") -> Iterator[Orders]:
    """A pipe."""
    orders = Orders(folder / name)
    try:
        yield orders
    finally:
        orders.close()
