"""What both lanes do with a job: the steps before and after the call, each with a name."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from perdure.clock import Clock
from perdure.context import Context
from perdure.daemon.worker.failure import failure
from perdure.daemon.worker.handlers import Handler, Handlers
from perdure.daemon.worker.job_logger import JobLogger
from perdure.daemon.worker.output import Output
from perdure.daemon.worker.spooling import Spool, write_result
from perdure.data_check import encode_data
from perdure.wire.data import ErrorData
from perdure.wire.work import Failed, JobRow

if TYPE_CHECKING:
    from perdure.adapters.toolbox import Toolbox
    from perdure.adapters.view import BreakerView
    from perdure.daemon.worker.commands import Commands
    from perdure.daemon.worker.desk import JobDesk
    from perdure.daemon.worker.newsroom import Newsroom
    from perdure.daemon.worker.ports import Ports


class Spooled(NamedTuple):
    """A result that lies in the spool: its Blob as JSON text."""

    blob_json: str


#: A result that is still to be written into the spool: takes as long as the disk does. Raises as `settle` does.
Writing = Callable[[], Spooled]
#: What one job came to: None (it completed without a result), the JSON text of its result, its file, or its failure.
Outcome = str | Spooled | Failed | None


class Bench:
    """What is on a worker's bench, for both lanes: handlers, clock, output, limits, adapters and breakers."""

    __slots__ = (
        "clock",
        "commands",
        "handlers",
        "logger",
        "newsroom",
        "output",
        "ports",
        "result_bytes",
        "spool",
        "toolbox",
        "tools",
        "view",
    )

    def __init__(
        self,
        handlers: Handlers,
        clock: Clock,
        output: Output,
        logger: JobLogger,
        result_bytes: int,
        view: BreakerView,
        toolbox: Toolbox,
        newsroom: Newsroom,
        spool: Spool,
        commands: Commands,
        ports: Ports,
    ) -> None:
        self.handlers = handlers
        self.clock = clock
        self.output = output
        self.logger = logger
        self.result_bytes = result_bytes
        self.view = view
        self.toolbox = toolbox
        self.tools = toolbox.tools
        self.newsroom = newsroom
        self.spool = spool
        self.commands = commands
        self.ports = ports


def job_name(row: JobRow) -> str:
    """What a job is called where its worker is looked at: the name of its task."""
    return f"job {row.id} {row.kind} attempt {row.attempt}"


def make_context(
    bench: Bench, row: JobRow, args: dict[str, object], started_ns: int, desk: JobDesk | None = None
) -> Context:
    """What the handler is told about its job."""
    limit = row.timeout_ms
    return Context(
        id=row.id,
        kind=row.kind,
        queue=row.queue,
        args=args,
        attempt=row.attempt,
        max_attempts=row.max_attempts,
        log=bench.logger,
        deadline=None if limit is None else (started_ns + limit * 1_000_000) / 1e9,
        created_at=row.created_at,
        tools=bench.tools,
        desk=desk,
    )


def settle(bench: Bench, row: JobRow, result: object, desk: JobDesk | None) -> Outcome | Writing:
    """What a handler's return value, or the file it has written, means.

    Bytes, files, and JSON over limits.result go into the spool. Raises NotData, ResultTooLarge, StoreFull, OSError.
    """
    if result is None:
        file = None if desk is None else desk.result
        return None if file is None else lambda: Spooled(file.keep())
    if isinstance(result, (bytes, bytearray, memoryview)):
        view = memoryview(result)
        data = view.cast("B") if view.c_contiguous else memoryview(view.tobytes())
        return lambda: Spooled(write_result(bench.spool, row.id, data, json=False))
    text = encode_data(result, "result")
    # A character takes one byte or more: the exact count is only needed near the limit.
    if len(text) * 4 <= bench.result_bytes or len(content := text.encode()) <= bench.result_bytes:
        return text
    return lambda: Spooled(write_result(bench.spool, row.id, memoryview(content), json=True))


def fail(row: JobRow, handler: Handler, error: BaseException) -> Failed:
    """Classify what was raised."""
    return failure(row.id, error, handler.permanent, handler.transient)


def unknown_kind(row: JobRow) -> Failed:
    """The supervisor sends only kinds that this worker's nursery has declared, so this is a defect, not a fate."""
    message = f"this worker has no handler for {row.kind}; it is tried again elsewhere"
    return Failed(row.id, ErrorData(type="UnknownKind", message=message, retryable=True), True)
