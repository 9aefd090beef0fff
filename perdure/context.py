"""What a handler is given about the job that it runs."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Awaitable, Callable, Hashable, Mapping
from typing import TYPE_CHECKING, Any, BinaryIO, ParamSpec, Protocol, TypeVar

from perdure.errors import UnknownDependency, UsageError

if TYPE_CHECKING:
    from perdure.adapters.doubles import Doubles
    from perdure.adapters.neo4j import Neo4j
    from perdure.adapters.once import Once, Scope
    from perdure.adapters.port import BlockingPort, Port
    from perdure.adapters.postgres import Postgres
    from perdure.adapters.process import Completed
    from perdure.adapters.qdrant import Qdrant
    from perdure.adapters.toolbox import BlockingTools, JobTools
    from perdure.wire.data import Blob

P = ParamSpec("P")
R = TypeVar("R")

#: Whole numbers below this need no second look.
_EXACT = 2**53


class JobLog(Protocol):
    """A logger with structlog's shape: an event's name, then fields. Its lines go into the job's own log."""

    def debug(self, event: str, /, **fields: Any) -> Any:
        """Something for whoever hunts a bug."""

    def info(self, event: str, /, **fields: Any) -> Any:
        """Something worth reading later."""

    def warning(self, event: str, /, **fields: Any) -> Any:
        """Something odd that did not stop the job."""

    def error(self, event: str, /, **fields: Any) -> Any:
        """Something that went wrong."""

    def exception(self, event: str, /, **fields: Any) -> Any:
        """Something that went wrong, with the exception that is being handled."""

    def bind(self, **fields: Any) -> JobLog:
        """A logger that adds these fields to each line."""
        ...


class _Desk(Protocol):
    """What a worker does for the job: see the methods of Context with the same names."""

    cancelled: bool

    def progress(self, done: float, total: float | None, text: str | None) -> None: ...
    def emit(self, value: Any) -> None: ...
    @property
    def payload(self) -> Blob | None: ...
    def blob(self) -> memoryview: ...
    def result_file(self) -> BinaryIO: ...
    async def run(self, argv: tuple[str, ...], **options: Any) -> Completed: ...
    def run_blocking(self, argv: tuple[str, ...], options: dict[str, Any]) -> Completed: ...
    async def port(self, timeout: float | None) -> Port: ...
    def port_blocking(self, timeout: float | None) -> BlockingPort: ...


class Context:
    """The job as its handler sees it.

    `id`, `kind`, `queue`, `args` (as enqueued), `created_at` (epoch milliseconds), `attempt` (1 for the first),
    `max_attempts`; `deadline` is a moment of time.monotonic() in seconds, or None for no limit; `log` writes into the
    job's log (`perdure logs ID`).
    """

    __slots__ = (
        "_desk",
        "_make_tools",
        "_monotonic",
        "_tools",
        "args",
        "attempt",
        "created_at",
        "deadline",
        "id",
        "kind",
        "log",
        "max_attempts",
        "queue",
    )

    def __init__(
        self,
        *,
        id: int,
        kind: str,
        queue: str,
        args: Mapping[str, Any],
        attempt: int,
        max_attempts: int,
        log: JobLog,
        deadline: float | None = None,
        desk: _Desk | None = None,
        monotonic: Callable[[], float] = time.monotonic,
        created_at: int = 0,
        tools: Callable[[int, float | None, int], JobTools | Doubles] | None = None,
    ) -> None:
        self.id = id
        self.kind = kind
        self.queue = queue
        self.args = args
        self.attempt = attempt
        self.max_attempts = max_attempts
        self.deadline = deadline
        self.log = log
        self._desk = desk
        self._monotonic = monotonic
        self.created_at = created_at
        self._make_tools = tools
        self._tools: JobTools | Doubles | None = None

    @property
    def cancelled(self) -> bool:
        """Whether the job should stop early: cancelled, or its time is up. Long loops look at it now and then."""
        told = self._desk is not None and self._desk.cancelled
        return told or (self.deadline is not None and self._monotonic() >= self.deadline)

    def time_left(self) -> float | None:
        """Seconds until the deadline, never below 0.0; None without a deadline."""
        if self.deadline is None:
            return None
        return max(0.0, self.deadline - self._monotonic())

    # --- telling, while it runs

    def progress(self, done: float, total: float | None = None, text: str | None = None) -> None:
        """Say how far the job is: `done` of `total` (of whatever unit; None: unknown), and a word for people.

        Cheap: of many, the newest of every tenth of a second is told. From any thread. Seen by `perdure follow`. `done`
        may be more than `total`, which was an estimate then. Raises ValueError for what is no number, not finite, or
        below 0.
        """
        if not (type(done) is int and 0 <= done < _EXACT):
            _check_amount("done", done)
        if total is not None and not (type(total) is int and 0 <= total < _EXACT):
            _check_amount("total", total)
        self._with_desk().progress(done, total, text)

    def emit(self, value: Any) -> None:
        """Give a partial result to whoever follows the job; it is also kept beside the job's log. From any thread.

        Raises NotData.
        """
        self._with_desk().emit(value)

    # --- files

    @property
    def payload(self) -> Blob | None:
        """What the job's payload is: size, digest, path; None if it has none. Raises PayloadGone, PayloadChanged."""
        return self._with_desk().payload

    def blob(self) -> memoryview:
        """The job's payload as a read-only memory map, until the job ends. Nothing is read before it is looked at.

        Raises UsageError (the job has none), PayloadGone, PayloadChanged.
        """
        return self._with_desk().blob()

    def result_file(self) -> BinaryIO:
        """A file, open for writing, that becomes the job's result when the handler returns None."""
        return self._with_desk().result_file()

    # --- commands, and a direct line

    async def run(
        self,
        *argv: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | str | None = None,
        timeout: float | str | None = None,
        check: bool = True,
        capture: bool = False,
    ) -> Completed:
        """Run a command; its lines go into the job's log as they come. `ctx.blocking.run` for synchronous handlers.

        `env` is added to a cleaned environment. `timeout`: seconds or text such as "10m". `check=False`: any exit
        status is fine. `capture`: keep stdout (up to limits.result) for `Completed.stdout` instead of logging it. When
        the job is cancelled, or its time is over, the whole process group is ended. Raises CommandFailed, CallTooLong,
        UsageError (there is no such program).
        """
        return await self._with_desk().run(
            tuple(os.fspath(part) for part in argv),
            cwd=cwd,
            env=env,
            input=input,
            timeout=timeout,
            check=check,
            capture=capture,
        )

    async def port(self, timeout: float | None = None) -> Port:
        """Wait for a client (`perdure attach ID`, `client.attach(id)`), and get a direct line to it: bytes both ways.

        `timeout` in seconds; None: as long as the job may run. Raises CallTooLong. `ctx.blocking.port` for synchronous
        handlers.
        """
        return await self._with_desk().port(timeout)

    # --- databases and other services

    @property
    def postgres(self) -> Postgres:
        """PostgreSQL (section [postgres]): `await ctx.postgres.fetch(…)`, `async with ctx.postgres.transaction()`.

        For coroutines of the worker's loop; elsewhere use `ctx.blocking.postgres`. Raises UnknownDependency when it is
        not configured, UsageError in the wrong place. The same holds for `neo4j` and `qdrant`.
        """
        return self._toolset().postgres

    @property
    def neo4j(self) -> Neo4j:
        """Neo4j (section [neo4j]): `await ctx.neo4j.read(…)`, `.write(…)`, `async with ctx.neo4j.session()`."""
        return self._toolset().neo4j

    @property
    def qdrant(self) -> Qdrant:
        """Qdrant (section [qdrant]): `await ctx.qdrant.upsert(…)`, `.query(…)` and so on."""
        return self._toolset().qdrant

    @property
    def blocking(self) -> BlockingTools:
        """The same tools for synchronous handlers and threads: `ctx.blocking.postgres.fetch(…)`, without `await`."""
        return self._toolset().blocking

    def guard(
        self,
        name: str,
        *,
        timeout: float | None = None,
        fallback: Any = ...,
        cache: Hashable | None = None,
        retry: bool | Callable[[BaseException], bool] = True,
        unavailable: tuple[type[Exception], ...] = (),
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """Put an async function behind deadline, breaker and retry: `await ctx.guard("billing")(fetch_bill)(number)`.

        `name`: a dependency of the configuration ([dependencies.NAME]). `timeout`: seconds for the whole call, instead
        of the policy's. `retry=False`: the call must not be repeated; a function of the exception may decide that.
        `fallback`: what to return when the call cannot be made or the service fails, a value or a function of the
        exception (`...`: nothing, raise it). `cache`: keep the last good value under this key, and return that before
        the fallback. `unavailable`: classes of exceptions that say the service is away, besides those that are known:
        they count against its breaker, and are repeated. Raises UnknownDependency; the function raises BreakerOpen,
        CallTooLong and what the call raises.
        """
        return self._toolset().guard(
            name, timeout=timeout, fallback=fallback, cache=cache, retry=retry, unavailable=unavailable
        )

    def once(self, key: str, scope: Scope = "job") -> Once:
        """An effect that a second delivery of this job must not repeat.

        `async with ctx.once("charge").postgres() as tx:`, and inside `if tx.first:` the effect, with `tx.execute`. The
        mark of the effect and the effect are one transaction. `scope="global"`: the key counts for all jobs of
        this queue together.
        """
        return self._toolset().once(key, scope)

    def _with_desk(self) -> _Desk:
        if self._desk is None:
            raise UsageError("this context belongs to no job that runs; in a test: Context.for_test()")
        return self._desk

    def _toolset(self) -> JobTools | Doubles:
        if self._tools is None:
            if self._make_tools is None:
                raise UnknownDependency("there are no adapters here; in a test: Context.for_test(postgres=…)")
            self._tools = self._make_tools(self.id, self.deadline, self.created_at)
            self._tools.desk = self._desk
        return self._tools

    @classmethod
    def for_test(
        cls,
        *,
        id: int = 1,
        kind: str = "test",
        queue: str = "default",
        args: Mapping[str, Any] | None = None,
        attempt: int = 1,
        max_attempts: int = 5,
        time_left: float | None = None,
        cancelled: bool = False,
        log: JobLog | None = None,
        postgres: Any = None,
        neo4j: Any = None,
        qdrant: Any = None,
        blob: bytes | None = None,
    ) -> Context:
        """A context for unit tests of handlers; `time_left` in seconds sets the deadline from now.

        Log lines go to Python's logger "perdure.test", unless `log` is given. `postgres`, `neo4j`, `qdrant`: your
        doubles, which `ctx.postgres` and `ctx.blocking.postgres` hand out as they are. `ctx.guard` makes its calls
        without a breaker and without retries, and knows fallbacks; `ctx.once` makes marks. `blob` is the payload.
        """
        from perdure.adapters.desk_double import DeskDouble
        from perdure.adapters.doubles import Doubles

        doubles = Doubles(id, postgres=postgres, neo4j=neo4j, qdrant=qdrant)
        return cls(
            id=id,
            kind=kind,
            queue=queue,
            args=dict(args or {}),
            attempt=attempt,
            max_attempts=max_attempts,
            deadline=None if time_left is None else time.monotonic() + time_left,
            log=log or _StandardLog(logging.getLogger("perdure.test")),
            desk=DeskDouble(blob, cancelled=cancelled),
            tools=lambda _id, _deadline, _created_at: doubles,
        )

    def __repr__(self) -> str:
        return f"<Context job {self.id} {self.kind}, attempt {self.attempt} of {self.max_attempts}>"


def _check_amount(name: str, value: Any) -> None:
    """Of progress. Raises ValueError."""
    try:
        number = math.nan if isinstance(value, str | bytes | bytearray) else float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError(f"progress: {name} must be a number, 0 or more and finite, not {value!r:.60}")


class _StandardLog:
    """The shape of JobLog over the standard library, so that tests need nothing and caplog sees the lines."""

    def __init__(self, logger: logging.Logger, fields: dict[str, Any] | None = None) -> None:
        self._logger = logger
        self._fields = fields or {}

    def _write(self, level: int, event: str, fields: dict[str, Any], *, trace: bool = False) -> None:
        pairs = "".join(f" {name}={value!r}" for name, value in {**self._fields, **fields}.items())
        self._logger.log(level, "%s%s", event, pairs, exc_info=trace)

    def debug(self, event: str, /, **fields: Any) -> None:
        self._write(logging.DEBUG, event, fields)

    def info(self, event: str, /, **fields: Any) -> None:
        self._write(logging.INFO, event, fields)

    def warning(self, event: str, /, **fields: Any) -> None:
        self._write(logging.WARNING, event, fields)

    def error(self, event: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields)

    def exception(self, event: str, /, **fields: Any) -> None:
        self._write(logging.ERROR, event, fields, trace=True)

    def bind(self, **fields: Any) -> _StandardLog:
        return _StandardLog(self._logger, {**self._fields, **fields})
