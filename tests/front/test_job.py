"""@job: declaring, calling, enqueueing."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from perdure.client import set_default_client
from perdure.context import Context
from perdure.errors import InvalidArguments, InvalidHandler, InvalidOption, NotData
from perdure.job import Job, job
from perdure.registry import Registry, registry
from perdure.wire.data import Enqueued, JobSpec


class Recorder:
    """Stands for the client: keeps what would be sent, and what else is said with it."""

    def __init__(self) -> None:
        self.sent: list[JobSpec] = []
        self.said: list[dict[str, Any]] = []

    async def enqueue(self, job: JobSpec, **said: Any) -> Enqueued:
        return self.enqueue_sync(job, **said)

    def enqueue_sync(self, job: JobSpec, **said: Any) -> Enqueued:
        return self.enqueue_many_sync([job], **said)[0]

    async def enqueue_many(self, jobs: Iterable[JobSpec], **said: Any) -> list[Enqueued]:
        return self.enqueue_many_sync(jobs, **said)

    def enqueue_many_sync(self, jobs: Iterable[JobSpec], **said: Any) -> list[Enqueued]:
        new = list(jobs)
        self.sent += new
        self.said.append(said)
        return [Enqueued(number) for number, _ in enumerate(new, len(self.sent))]


@pytest.fixture
def client() -> Iterator[Recorder]:
    recorder = Recorder()
    set_default_client(recorder)  # type: ignore[arg-type]
    yield recorder
    set_default_client(None)


@pytest.fixture(autouse=True)
def jobs() -> Iterator[Registry]:
    with registry.isolated() as empty:
        yield empty


def ingest(ctx: Context, path: str, lang: str = "en") -> str:
    """Split a document.

    And more.
    """
    return f"{ctx.attempt} {path} {lang}"


def make() -> Job[..., str]:
    return job("documents.ingest", queue="ingest", needs=("postgres", "postgres"), timeout="2m", max_attempts=8)(ingest)


def test_a_job_is_still_the_function(jobs: Registry) -> None:
    """A handler could not be unit-tested by calling it."""
    declared = make()
    assert declared(Context.for_test(), "a", lang="de") == "1 a de"
    assert vars(declared)["__name__"] == "ingest"
    assert declared.__doc__ == ingest.__doc__
    assert jobs.get("documents.ingest") is declared
    assert declared.takes_context
    assert declared.bind('{"path":"x"}') == {"path": "x"}


def test_the_declaration_is_in_the_spec() -> None:
    """The daemon would not know what the handler's author wrote."""
    spec = make().spec
    assert (spec.name, spec.lane, spec.queue, spec.needs, spec.timeout_ms, spec.max_attempts) == (
        "documents.ingest", "sync", "ingest", ["postgres"], 120_000, 8,
    )  # fmt: skip
    assert (spec.module, spec.doc, spec.priority) == (__name__, "Split a document.", None)


def test_without_a_kind_the_functions_name_is_used() -> None:
    """`@job` bare, and `@job()`, would not work."""
    assert job(ingest).kind == f"{__name__}.ingest"
    assert job()(ingest).kind == f"{__name__}.ingest"
    assert job(queue="q")(ingest).spec.queue == "q"


@pytest.mark.parametrize(
    ("declare", "message"),
    [
        (lambda: job(lambda: 0), "cannot lend its name"),
        (lambda: job("a/b")(ingest), "begins with a letter"),
        (lambda: job("")(ingest), "begins with a letter"),
        (lambda: job("k", queue="a/b")(ingest), "k: queue"),
        (lambda: job("k", priority=99)(ingest), "k: priority"),
        (lambda: job("k", queu="q")(ingest), "k: @job does not know 'queu'; did you mean 'queue'?"),
        (lambda: job("k", max_attempts=0)(ingest), "k: max_attempts"),
        (lambda: job("k", timeout="soon")(ingest), "k: timeout"),
        (lambda: job("k", needs="postgres")(ingest), re.escape('needs=("postgres",)')),
        (lambda: job("k", permanent=(3,))(ingest), "is no exception class"),  # type: ignore[arg-type]
        (lambda: job("k")(Context), "is a class"),
    ],
)
def test_a_bad_declaration_is_refused(declare: Any, message: str) -> None:
    """A typing mistake in a decorator would come out when the daemon runs."""
    with pytest.raises(InvalidHandler, match=message):
        declare()


def test_a_kind_has_one_place(jobs: Registry) -> None:
    """Of two handlers with the same kind, the one imported last would win in silence."""
    make()
    make()

    def other(path: str) -> None: ...

    with pytest.raises(InvalidHandler, match=r"declared twice: at .*test_job.py:\d+ and at .*test_job.py:\d+"):
        job("documents.ingest")(other)
    assert len(list(jobs)) == len(jobs) == 1


async def test_enqueue_takes_arguments_and_options_together(client: Recorder) -> None:
    """`await ingest.enqueue(path=…, delay="10m")` is the documented way."""
    declared = make()
    placed = await declared.enqueue(path="a", delay="10m", unique="a.md")
    assert placed == Enqueued(1)
    assert client.sent == [JobSpec("documents.ingest", '{"path":"a"}', delay_ms=600_000, unique="a.md")]
    assert declared.enqueue_sync(path="b") == Enqueued(2)


async def test_payload_and_patience(client: Recorder) -> None:
    """Who enqueues by the handler could give it no file, and could not wait for room."""
    declared = make()
    await declared.enqueue(path="a", blob=b"123", patience="10m")
    declared.options(blob="/a/file", spool=True, delay=1).enqueue_sync(path="b")
    declared.options(patience=0).enqueue_many_sync([{"path": "c"}])
    assert client.said == [{"blob": b"123", "patience": "10m"}, {"blob": "/a/file", "spool": True}, {"patience": 0}]
    assert [spec.args for spec in client.sent] == ['{"path":"a"}', '{"path":"b"}', '{"path":"c"}']
    with pytest.raises(InvalidOption, match="a payload belongs to one job"):
        await declared.options(blob=b"1").enqueue_many([{"path": "d"}])
    job("load")(lambda blob: None).enqueue_sync(blob="an argument")
    assert (client.sent[-1].args, client.said[-1]) == ('{"blob":"an argument"}', {})


async def test_many_at_once(client: Recorder) -> None:
    """Thousands of jobs would be thousands of requests."""
    declared = make()
    await declared.options(queue="q").enqueue_many({"path": str(n)} for n in range(3))
    declared.enqueue_many_sync([{"path": "x"}])
    assert [spec.args for spec in client.sent] == ['{"path":"0"}', '{"path":"1"}', '{"path":"2"}', '{"path":"x"}']
    assert [spec.queue for spec in client.sent] == ["q", "q", "q", None]


def test_an_argument_named_like_an_option_is_the_handlers(client: Recorder) -> None:
    """A handler with an argument `priority` could not be enqueued, or would get none."""

    def ship(self: int, priority: str, delay: int = 0) -> None: ...

    def free(**rest: Any) -> None: ...

    declared = job("ship")(lambda priority, delay=0, self=0: None)
    declared.enqueue_sync(priority="high", self=1)
    declared.options(priority=-5, delay="1s").enqueue_sync(priority="high", delay=3)
    job("free")(free).options(queue="q").enqueue_sync(queue="mine")
    assert client.sent == [
        JobSpec("ship", '{"priority":"high","self":1}'),
        JobSpec("ship", '{"priority":"high","delay":3}', priority=-5, delay_ms=1_000),
        JobSpec("free", '{"queue":"mine"}', queue="q"),
    ]


def test_bad_arguments_are_refused_before_anything_is_sent(client: Recorder) -> None:
    """The mistake would come back from the daemon, or from the worker, far from the line that made it."""
    declared = make()
    with pytest.raises(InvalidArguments, match='argument "path" is missing'):
        declared.enqueue_sync()
    with pytest.raises(InvalidArguments, match="expected str, got int"):
        declared.enqueue_sync(path=3)
    with pytest.raises(NotData, match=r"args\.path: function"):
        declared.enqueue_sync(path=make)
    with pytest.raises(InvalidOption, match="negative"):
        declared.enqueue_sync(path="a", delay=-1)
    with pytest.raises(InvalidArguments):
        declared.enqueue_many_sync([{"path": "a"}, {"pth": "b"}])
    assert client.sent == []
