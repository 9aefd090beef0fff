"""The command line with a stand-in for the queue: it records the requests and gives prepared answers."""

from __future__ import annotations

import contextlib
import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from perdure.cli import session
from perdure.cli.main import run
from perdure.errors import NotFound
from perdure.wire import control
from perdure.wire.data import Enqueued, KindSpec, Param, Verdict
from perdure.wire.streams import News

HELLO = KindSpec("hello", "sync", [Param("name", "str", required=False)], doc="Greets.")


class FakeQueue:
    """Answers by type of request: a value, an exception, or a function of the request."""

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.answers: dict[type, Any] = {
            control.Enqueue: self._enqueue,
            control.ListKinds: [HELLO],
            control.ListJobs: [],
            control.ListDead: [],
            control.GetJob: None,
            control.GetDead: None,
            control.CancelJobs: lambda request: [Verdict(job_id) for job_id in request.ids],
            control.RetryJobs: lambda request: [Verdict(job_id) for job_id in request.ids],
            control.ReplayDead: lambda request: [Verdict(job_id) for job_id in request.ids],
            control.DiscardDead: lambda request: [Verdict(job_id) for job_id in request.ids],
            control.PauseQueue: None,
            control.ResumeQueue: None,
            control.ListQueues: [],
            control.WaitJobs: lambda request: [control.JobEnd(job_id, "completed") for job_id in request.ids],
            control.ReadLog: NotFound("no such job"),
        }
        #: The messages of one subscription after the other.
        self.news: list[list[News | Exception]] = []
        self.live = True
        self.closed = 0
        self._last_id = 0

    def request(self, control_request: Any, timeout_s: float | None = None) -> Any:
        """The prepared answer."""
        self.requests.append(control_request)
        answer = self.answers[type(control_request)]
        if callable(answer):
            answer = answer(control_request)
        if isinstance(answer, BaseException):
            raise answer
        return _page(control_request, answer) if isinstance(answer, list) else answer

    def request_with_fds(
        self, control_request: Any, timeout_s: float | None = None, fds: Sequence[int] = ()
    ) -> tuple[Any, list[int]]:
        """The prepared answer; no descriptors come with it."""
        return self.request(control_request, timeout_s), []

    @contextlib.contextmanager
    def subscription(self, request: control.Subscribe, timeout_s: float | None = None) -> Iterator[Iterator[News]]:
        """The prepared messages of the next subscription; an exception among them is raised."""
        self.requests.append(request)
        yield _raising(self.news.pop(0))

    def close(self) -> None:
        """Count it: every session must be closed."""
        self.closed += 1

    def sent(self, kind: type) -> list[Any]:
        """The requests of one type."""
        return [request for request in self.requests if type(request) is kind]

    def _enqueue(self, request: control.Enqueue) -> list[Enqueued]:
        first, self._last_id = self._last_id + 1, self._last_id + len(request.jobs)
        return [Enqueued(job_id) for job_id in range(first, self._last_id + 1)]


def _raising(messages: list[News | Exception]) -> Iterator[News]:
    for message in messages:
        if isinstance(message, Exception):
            raise message
        yield message


def _page(request: Any, entries: list[Any]) -> list[Any]:
    """The part of a prepared list that this request asks for."""
    match request:
        case control.ListJobs(which):
            last = which.before
        case control.ListDead(which):
            last = which.after
        case _:
            return entries
    ids = [entry.id for entry in entries]
    start = ids.index(last) + 1 if last in ids else 0
    return entries[start : start + which.limit]


class Result(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty current folder, and nothing in the environment that steers perdure."""
    import os

    for name in [name for name in os.environ if name.startswith("PERDURE_")]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def queue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FakeQueue:
    """The queue that every command talks to."""
    fake = FakeQueue()

    def connect(settings: object, *, local: bool = True, create: bool = False) -> session.Session:
        return session.Session(fake, live=True)

    monkeypatch.setattr(session, "connect", connect)
    return fake


@pytest.fixture
def cli(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Cli:
    """Run a command in this process: cli("jobs", "--json", stdin=b"…")."""

    def call(*arguments: str, stdin: bytes = b"", tty: bool = False) -> Result:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        if tty:
            monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
            monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
            monkeypatch.setenv("TERM", "xterm")
            monkeypatch.setenv("COLUMNS", "80")
        capfd.readouterr()
        code = run(list(arguments))
        out, err = capfd.readouterr()
        return Result(code, out, err)

    return call
