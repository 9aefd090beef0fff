"""Many jobs from a file of JSON lines: all of it is checked before the first job is sent."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import IO, TYPE_CHECKING, Any, NamedTuple

import msgspec
from msgspec.structs import replace

from perdure.cli.arguments import parse_object
from perdure.cli.session import Session
from perdure.cli.text import is_terminal
from perdure.cli.times import duration_ms, moment_ms
from perdure.config.queues import BLOCK, QueueLimits
from perdure.errors import InvalidArguments, PerdureError, UsageError
from perdure.wire.control import Enqueue, ListKinds
from perdure.wire.data import Enqueued, JobSpec

if TYPE_CHECKING:
    from perdure.config.settings import Settings
    from perdure.payload import Payload

#: Bytes of arguments in one request, so that no single request holds up the daemon.
_REQUEST_BYTES = 8 << 20
#: What a line may have besides its arguments.
_LINE_EXTRA_BYTES = 64 << 10
#: A request takes up to this part of a queue that lets producers wait: one as large as the queue waits for its end.
_SHARE = 4
#: Show a progress bar from this many jobs on.
_WORTH_A_BAR = 2000


class Batch(NamedTuple):
    """Jobs, where they come from ("" for the command line), and the line number of each."""

    jobs: list[JobSpec]
    source: str
    lines: list[int]


class JobLine(msgspec.Struct, forbid_unknown_fields=True):
    """A whole job on one line. Times are text or seconds, as on the command line."""

    kind: str
    args: msgspec.Raw = msgspec.Raw(b"{}")
    queue: str | None = None
    priority: int | None = None
    delay: str | int | float | None = None
    at: str | int | float | None = None
    unique: str | None = None
    max_attempts: int | None = None
    timeout: str | int | float | None = None
    tags: list[str] | None = None


def read_jobs(source: str, template: JobSpec, settings: Settings) -> Batch:
    """The jobs of a file ("-": stdin). `template` holds what the command line says: the kind, if any, and defaults.

    Raises UsageError that names the file and the line; OSError when it cannot be read.
    """
    name = "stdin" if source == "-" else source
    decode = _args_line if template.kind else _whole_line
    jobs, numbers = [], []
    limit = settings.limits.args_bytes + _LINE_EXTRA_BYTES
    with _open(source) as file:
        for number, line in _lines(file, limit, name):
            with _Blame(name, number):
                jobs.append(decode(line, template))
            numbers.append(number)
    return Batch(jobs, name, numbers)


def send(
    session: Session,
    batch: Batch,
    settings: Settings,
    *,
    strict: bool,
    payload: Payload | None = None,
    patience_ms: int | None = None,
) -> list[Enqueued]:
    """Enqueue a batch, in several requests if it is large. A file is checked as a whole before the first.

    `payload`: that of a single job. `patience_ms`: how long each request waits for room in full queues. Raises what the
    daemon answers; when some requests have gone through, the error says how many jobs went in.
    """
    limits = settings.queue_limits()
    most = settings.limits.batch
    if batch.source:
        most = min([most, *_shares(_check_all(session, batch, settings), limits)])
    waits_s = (limits.longest_patience_ms if patience_ms is None else patience_ms) / 1000
    pieces = list(_pieces(batch.jobs, most))
    placed: list[Enqueued] = []
    with _progress(len(batch.jobs)) as advance:
        for piece in pieces:
            try:
                fds, extra_s = (payload.fds, payload.seconds()) if payload is not None else ((), 0.0)
                request = Enqueue(piece, strict, patience_ms)
                placed += session.request_with_fds(request, None, fds, extra_s + waits_s)[0]
            except (PerdureError, KeyboardInterrupt) as error:
                if not placed:
                    raise
                raise _half_way(batch, len(placed), error) from error
            advance(len(piece))
    return placed


def _args_line(line: bytes, template: JobSpec) -> JobSpec:
    parse_object(line, "the line")
    return replace(template, args=line.decode())


def _whole_line(line: bytes, template: JobSpec) -> JobSpec:
    unknown = [key for key in parse_object(line, "the line") if key not in JobLine.__struct_fields__]
    if unknown:
        raise UsageError(_unknown_key(unknown[0]))
    try:
        job = msgspec.json.decode(line, type=JobLine)
    except msgspec.ValidationError as error:
        raise UsageError(_readable(str(error))) from None
    if job.delay is not None and job.at is not None:
        raise UsageError("delay and at: a job has one of them")
    when_given = job.delay is not None or job.at is not None
    return replace(
        template,
        kind=job.kind,
        args=bytes(job.args).decode(),
        queue=template.queue if job.queue is None else job.queue,
        priority=template.priority if job.priority is None else job.priority,
        max_attempts=template.max_attempts if job.max_attempts is None else job.max_attempts,
        timeout_ms=template.timeout_ms if job.timeout is None else _field("timeout", duration_ms, job.timeout),
        delay_ms=(None if job.delay is None else _field("delay", duration_ms, job.delay))
        if when_given
        else template.delay_ms,
        at_ms=(None if job.at is None else _field("at", moment_ms, job.at)) if when_given else template.at_ms,
        unique=job.unique,
        tags=template.tags if job.tags is None else job.tags,
    )


def _field(name: str, parse: Callable[[Any], int], value: str | float) -> int:
    try:
        return parse(value)
    except UsageError as error:
        raise UsageError(f"{name}: {error}") from None


def _unknown_key(key: str) -> str:
    from difflib import get_close_matches

    known = JobLine.__struct_fields__
    close = get_close_matches(key, known, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"a job has: {', '.join(known)}"
    if "kind" not in known or key not in known:
        return f"unknown key {key!r}; {hint} (to give arguments alone, name the KIND on the command line)"
    return f"unknown key {key!r}; {hint}"


def _readable(message: str) -> str:
    """ "Expected `int`, got `str` - at `$.priority`" as "priority: expected int, got str"."""
    what, _, where = message.replace("`", "").partition(" - at $.")
    what = what[:1].lower() + what[1:]
    return f"{where}: {what}" if where else what.replace("object missing required field kind", "the job has no kind")


def _check_all(session: Session, batch: Batch, settings: Settings) -> set[str]:
    """Refuse the file for what the daemon would refuse in one of its jobs, with the line. The queues of its jobs."""
    from perdure.clock import SystemClock
    from perdure.store.intake import Intake, intake_defaults

    intake = Intake(session.request(ListKinds()), intake_defaults(settings))
    now = SystemClock().now_ms()
    queues = set()
    for job, number in zip(batch.jobs, batch.lines, strict=True):
        with _Blame(batch.source, number):
            queues.add(intake.resolve(job, now).queue)
    return queues


def _shares(queues: set[str], limits: QueueLimits) -> Iterator[int]:
    """How many jobs to send at once to queues that let producers wait: so few that they need not be empty for it."""
    for name in queues:
        found = limits.of(name)
        if found is not None and found.when_full == BLOCK and found.max_depth:
            yield max(1, found.max_depth // _SHARE)


def _pieces(jobs: list[JobSpec], most: int) -> Iterator[list[JobSpec]]:
    piece: list[JobSpec] = []
    size = 0
    for job in jobs:
        if piece and (len(piece) >= most or size + len(job.args) > _REQUEST_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(job)
        size += len(job.args)
    if piece:
        yield piece


def _half_way(batch: Batch, count: int, error: BaseException) -> PerdureError:
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else str(error)
    kind = type(error) if isinstance(error, PerdureError) else PerdureError
    last, total = batch.lines[count - 1], len(batch.jobs)
    return kind(
        f"{batch.source}: {count:,} of {total:,} jobs are in the queue, up to line {last}; then: {reason}\n"
        f"To go on, enqueue what begins at line {last + 1}"
    )


class _Blame:
    """Puts file and line before the message of what goes wrong inside."""

    def __init__(self, name: str, number: int) -> None:
        self._name = name
        self._number = number

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, UnicodeError):
            error = InvalidArguments("the line is not valid UTF-8")
        if isinstance(error, PerdureError):
            raise InvalidArguments(f"{self._name}:{self._number}: {error}. Nothing was enqueued") from None


def _open(source: str) -> AbstractContextManager[IO[bytes]]:
    if source != "-":
        return open(source, "rb")
    if sys.stdin is None:
        raise UsageError("stdin is closed; name a file, or pipe something in")
    return nullcontext(sys.stdin.buffer)


def _lines(file: IO[bytes], limit: int, name: str) -> Iterator[tuple[int, bytes]]:
    """The lines that are not empty, with their numbers. A line is never read further than `limit` bytes."""
    number = 0
    while line := file.readline(limit + 1):
        number += 1
        if len(line) > limit:
            raise InvalidArguments(
                f"{name}:{number}: the line is longer than {limit:,} bytes (limits.args); "
                "pass a path to the data instead. Nothing was enqueued"
            )
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")
        line = line.strip()
        if line:
            yield number, line


def _progress(total: int) -> AbstractContextManager[Callable[[int], None]]:
    if total < _WORTH_A_BAR or not is_terminal(sys.stderr):
        return nullcontext(lambda _: None)
    from perdure.cli.progress import bar

    return bar(total)
