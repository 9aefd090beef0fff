"""Plays the supervisor for real processes: spawns a nursery, forks workers from it, talks to them."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import msgspec
import pytest

from perdure.daemon.joblog import log_path
from perdure.daemon.process_control import become_subreaper
from perdure.daemon.worker.recorder import RecorderPage
from perdure.wire.data import Blob, KindSpec
from perdure.wire.endpoint import BlockingEndpoint
from perdure.wire.envelope import Call, Fault, Reply
from perdure.wire.work import (
    Done,
    Failed,
    Forked,
    ForkWorker,
    FromNursery,
    FromWorker,
    Hello,
    JobRow,
    LoadHandlers,
    Observed,
    Returned,
    Run,
    StacksDumped,
    Told,
    WorkerConfig,
)
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]
HANDLERS = "tests.worker.sample_handlers"
DEADLINE = 10.0
#: A test of handlers of which there are two: `name`, and `aname` in the loop.
BOTH = pytest.mark.parametrize("lane", ["", "a"], ids=["sync", "async"])


def job_row(job_id: int, kind: str, args: object = None, *, timeout_ms: int | None = None, attempt: int = 1) -> JobRow:
    """A job as the supervisor sends it."""
    text = msgspec.json.encode({} if args is None else args).decode()
    return JobRow(job_id, kind, text, attempt, "default", 5, timeout_ms, 0, 3, 0)


class Worker:
    """One real worker, seen from the supervisor's side."""

    def __init__(self, folder: Path, worker_id: int, async_slots: int) -> None:
        self.pid = 0
        self.status: int | None = None
        self.page = RecorderPage.create(folder / f"{worker_id}.page", async_slots, run_id=7, boot_id="boot")
        self.stacks_path = folder / f"{worker_id}.stacks"
        self.output_path = folder / f"{worker_id}.output"
        self.logs = folder / f"{worker_id}.logs"
        self.spool = folder / f"{worker_id}.spool"
        ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock = ours
        self.endpoint: BlockingEndpoint[FromWorker] = BlockingEndpoint(ours, msgspec.msgpack.Decoder(FromWorker))
        self.messages = 0
        self.hello: int | None = None
        self.completed: list[int] = []
        self.results: dict[int, Any] = {}
        self.failed: dict[int, Failed] = {}
        self.spooled: dict[int, Blob] = {}
        self.returned: list[int] = []
        self.returns = 0
        self.dumped = 0
        #: What was told of calls to dependencies; and of these and of outcomes, in the order of arrival.
        self.observed: list[Observed] = []
        self.order: list[Observed | Done] = []
        #: What jobs told, and these messages and the outcomes in the order of arrival.
        self.told: list[Told] = []
        self.news: list[Told | Done] = []
        self.timings: dict[str, tuple[int, int]] = {}
        self.ended = False

    @contextlib.contextmanager
    def descriptors(self) -> Iterator[list[int]]:
        """What goes to the nursery; our copies are closed afterwards."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        stacks, output = os.open(self.stacks_path, flags, 0o600), os.open(self.output_path, flags, 0o600)
        try:
            yield [self._theirs.fileno(), self.page.fileno(), stacks, output]
        finally:
            self._theirs.close()
            os.close(stacks)
            os.close(output)

    def send(self, message: object) -> None:
        """Send any message."""
        self.endpoint.send(message)

    def run(self, *rows: JobRow) -> None:
        """Send jobs in one message."""
        self.send(Run(list(rows)))

    def perform(self, *rows: JobRow) -> None:
        """Send jobs and wait until each has an outcome."""
        self.run(*rows)
        self.wait_for(*(row.id for row in rows))

    def wait_for(self, *ids: int, timeout: float = DEADLINE) -> None:
        """Read until each of these has an outcome."""
        self.pump(lambda: set(ids) <= self.known(), timeout)

    def known(self) -> set[int]:
        """Ids with an outcome."""
        return {*self.completed, *self.results, *self.failed, *self.spooled}

    def pump(self, until: Callable[[], bool], timeout: float = DEADLINE) -> None:
        """Read messages until a condition holds."""
        deadline = time.monotonic() + timeout
        while not until():
            left = deadline - time.monotonic()
            if left <= 0 or not self.pump_one(left):
                raise AssertionError(f"the worker {'ended' if self.ended else 'was silent'}; it said: {self.report()}")

    def pump_one(self, timeout: float) -> bool:
        """Read one message; False: the time is over or the worker has ended."""
        try:
            received = self.endpoint.recv(timeout)
        except TimeoutError:
            return False
        if received is None:
            self.ended = True
            return False
        self.messages += 1
        self._note(received[0])
        return True

    def _note(self, message: FromWorker) -> None:
        if isinstance(message, Observed | Done):
            self.order.append(message)
        if isinstance(message, Told | Done):
            self.news.append(message)
        match message:
            case Told():
                self.told.append(message)
            case Observed():
                self.observed.append(message)
            case Hello():
                self.hello = message.pid
            case Done():
                self.completed += message.completed
                self.results |= {job_id: msgspec.json.decode(text) for job_id, text in message.results}
                self.failed |= {failed.id: failed for failed in message.failed}
                self.spooled |= {job_id: msgspec.json.decode(text, type=Blob) for job_id, text in message.spooled}
                for timing in message.timings:
                    count, total = self.timings.get(timing.kind, (0, 0))
                    self.timings[timing.kind] = (count + timing.count, total + timing.total_ns)
            case Returned():
                self.returned += message.ids
                self.returns += 1
            case StacksDumped():
                self.dumped += 1

    def report(self) -> str:
        """All that is known, for a failed test."""
        return (
            f"completed={self.completed} results={self.results} failed={self.failed} returned={self.returned}"
            f" spooled={self.spooled}"
            f" output={self.output!r} executing={self.page.executing()}"
        )

    def drain_messages(self) -> None:
        """Read all that is left, after the end."""
        while self.pump_one(1.0):
            pass

    @property
    def output(self) -> str:
        """What it wrote outside all jobs."""
        return self.output_path.read_text(errors="replace")

    @property
    def stacks(self) -> str:
        """What is in the stacks file."""
        return self.stacks_path.read_text(errors="replace")

    def job_log(self, job_id: int) -> str:
        """The log of a job; empty if there is none."""
        path = log_path(self.logs, job_id)
        return path.read_text() if path.exists() else ""

    def executes(self, *ids: int) -> bool:
        """Whether the recorder says that these execute."""
        return set(ids) <= {slot.job_id for slot in self.page.executing()}

    def kill(self, number: signal.Signals = signal.SIGKILL) -> None:
        """Send a signal."""
        os.kill(self.pid, number)

    def wait_exit(self, timeout: float = DEADLINE) -> int:
        """Reap it; its exit code, or minus its signal."""
        if self.status is None:
            wait_until(self._reap, timeout, "the worker's end")
        assert self.status is not None
        return self.status

    def _reap(self) -> bool:
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.status = os.waitstatus_to_exitcode(status)
        return pid != 0

    def close(self) -> None:
        """End and free everything."""
        if self.pid and self.status is None:
            with contextlib.suppress(ProcessLookupError):
                self.kill()
            self.wait_exit()
        self.endpoint.close()
        self.page.close()


class Rig:
    """A nursery and its workers."""

    def __init__(self, folder: Path, environ: dict[str, str] | None = None) -> None:
        become_subreaper()
        self.folder = folder
        self.workers: list[Worker] = []
        self._calls = 0
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.log_path = folder / "nursery.log"
        log = os.open(self.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-m", "perdure.daemon.nursery", "3"],
            {**os.environ, "PYTHONPATH": str(ROOT), **(environ or {})},
            file_actions=[
                (os.POSIX_SPAWN_DUP2, log, 1),
                (os.POSIX_SPAWN_DUP2, log, 2),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
            ],
        )
        os.close(log)
        theirs.close()
        self.endpoint: BlockingEndpoint[Reply[FromNursery] | Fault] = BlockingEndpoint(
            ours, msgspec.msgpack.Decoder(Reply[FromNursery] | Fault)
        )

    def call(self, body: object, fds: Sequence[int] = ()) -> Any:
        """Ask the nursery; its answer, or the Fault."""
        self._calls += 1
        self.endpoint.send(Call(self._calls, None, body), fds)
        received = self.endpoint.recv(DEADLINE)
        assert received is not None, f"the nursery has ended: {self.log_path.read_text()}"
        answer = received[0]
        assert answer.id == self._calls
        return answer if isinstance(answer, Fault) else answer.body

    def load(self, *modules: str, path: Sequence[Path] = ()) -> list[KindSpec] | Fault:
        """Import handlers."""
        answer = self.call(LoadHandlers(list(modules or (HANDLERS,)), [str(folder) for folder in path]))
        return answer if isinstance(answer, Fault) else list(answer.kinds)

    def fork(self, *, async_slots: int = 4, **config: Any) -> Worker:
        """Fork a worker and wait for its Hello."""
        worker = Worker(self.folder, len(self.workers) + 1, async_slots)
        self.workers.append(worker)
        settings: dict[str, Any] = {
            "job_log_dir": str(worker.logs),
            "job_log_bytes": 4096,
            "result_bytes": 100_000,
            "spool_dir": str(worker.spool),
            "blob_bytes": 10_000_000,
            **config,
        }
        sent = WorkerConfig(id=len(self.workers), supervisor_pid=os.getpid(), async_slots=async_slots, **settings)
        with worker.descriptors() as fds:
            answer = self.call(ForkWorker(sent), fds)
        assert isinstance(answer, Forked), answer
        worker.pid = answer.pid
        worker.pump(lambda: worker.hello is not None)
        return worker

    def kill(self) -> None:
        """Kill the nursery and reap it."""
        with contextlib.suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)

    def close(self) -> None:
        """End everything."""
        for worker in self.workers:
            worker.close()
        self.endpoint.close()
        self.kill()

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
