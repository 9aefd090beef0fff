"""What handlers reach through their context: the adapters of this worker, guards for other services, marks.

One Toolbox a worker. Nothing is imported, opened or connected before a job first asks for it. The adapters, the view of
the breakers and every call belong to the worker's loop; a synchronous handler reaches them over a bridge.
"""

from __future__ import annotations

import asyncio
import difflib
import os
import random
from collections.abc import Awaitable, Callable, Hashable, Mapping
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar

from perdure.adapters.bridge import Bridge
from perdure.adapters.call import JobCall
from perdure.adapters.errand import Send, run_errands
from perdure.adapters.guard import NO_FALLBACK, Guard, Repeat
from perdure.adapters.once import BlockingOnce, Once, Scope, make_mark
from perdure.adapters.verdict import Classify, classify_plain
from perdure.adapters.view import BreakerView
from perdure.clock import Clock
from perdure.errors import UnknownDependency, UsageError
from perdure.log import get_logger
from perdure.wire.dependencies import NEO4J, POSTGRES, QDRANT, Dependencies, Policy

if TYPE_CHECKING:
    from perdure.adapters.neo4j import BlockingNeo4j, Neo4j, Neo4jDriver
    from perdure.adapters.port import BlockingPort
    from perdure.adapters.postgres import BlockingPostgres, Postgres, PostgresPool
    from perdure.adapters.process import Completed
    from perdure.adapters.qdrant import BlockingQdrant, Qdrant, QdrantPool

P = ParamSpec("P")
R = TypeVar("R")
A = TypeVar("A", bound="Adapter")

log = get_logger()


class Adapter(Protocol):
    """What holds connections, and gives them back at the end."""

    async def close(self) -> None:
        """Close all connections."""
        ...


class BlockingDesk(Protocol):
    """What a worker does for the job, for threads."""

    def run_blocking(self, argv: tuple[str, ...], options: dict[str, Any]) -> Completed:
        """See BlockingTools.run."""
        ...

    def port_blocking(self, timeout: float | None) -> BlockingPort:
        """See BlockingTools.port."""
        ...


class Toolbox:
    """The tools of one worker. Made after the fork; `close` it on its loop.

    Adapters are made by whichever thread asks first, without a lock: a soft time limit may interrupt that thread
    anywhere. An adapter that comes second is dropped unused; it holds nothing before its first call.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        store_id: str,
        view: BreakerView,
        loop: asyncio.AbstractEventLoop,
        clock: Clock,
        rng: random.Random,
    ) -> None:
        self.store_id = store_id
        self.bridge = Bridge(loop)
        self._dependencies = dependencies
        self._view = view
        self.loop = loop
        self._clock = clock
        self._rng = rng
        self._adapters: dict[str, Adapter] = {}
        self._guards: dict[str, Guard] = {}
        self._closed = False

    def tools(self, job_id: int, deadline: float | None, created_at: int) -> JobTools:
        """The tools as one job sees them: with its id, for probes, its deadline, and its birth, for marks."""
        return JobTools(self, JobCall(job_id, deadline, created_at))

    # --- where the caller is

    def on_loop(self) -> bool:
        """Whether the caller is a coroutine or a callback of the worker's loop."""
        try:
            return asyncio.get_running_loop() is self.loop
        except RuntimeError:
            return False

    # --- adapters

    def postgres(self) -> PostgresPool:
        """The pool of this worker. Raises UnknownDependency."""
        if POSTGRES not in self._adapters:
            from perdure.adapters import postgres as module

            options = _configured(POSTGRES, self._dependencies.postgres)
            guard = self._guard(POSTGRES, module.classify)
            self._keep(POSTGRES, module.PostgresPool(options, guard, self._clock))
        return self._adapters[POSTGRES]  # type: ignore[return-value]  # kept under its own name

    def neo4j(self) -> Neo4jDriver:
        """The driver of this worker. Raises UnknownDependency."""
        if NEO4J not in self._adapters:
            from perdure.adapters import neo4j as module

            options = _configured(NEO4J, self._dependencies.neo4j)
            self._keep(NEO4J, module.Neo4jDriver(options, self._guard(NEO4J, module.classify), self._clock))
        return self._adapters[NEO4J]  # type: ignore[return-value]  # kept under its own name

    def qdrant(self) -> QdrantPool:
        """The client of this worker. Raises UnknownDependency."""
        if QDRANT not in self._adapters:
            from perdure.adapters import qdrant as module

            options = _configured(QDRANT, self._dependencies.qdrant)
            self._keep(QDRANT, module.QdrantPool(options, self._guard(QDRANT, module.classify), self._clock))
        return self._adapters[QDRANT]  # type: ignore[return-value]  # kept under its own name

    def _keep(self, name: str, adapter: Adapter) -> None:
        if self._closed:
            raise UsageError(f"{name}: the worker is ending, nothing is opened any more")
        self._adapters.setdefault(name, adapter)

    # --- guards

    def guard(self, name: str) -> Guard:
        """The guard for calls of the users' own to a dependency. Raises UnknownDependency.

        For a database with an adapter it is the adapter's, which knows the driver's exceptions.
        """
        if name == POSTGRES and self._dependencies.postgres is not None:
            return self.postgres().guard
        if name == NEO4J and self._dependencies.neo4j is not None:
            return self.neo4j().guard
        if name == QDRANT and self._dependencies.qdrant is not None:
            return self.qdrant().guard
        guard = self._guards.get(name)
        if guard is None:
            if name not in self._dependencies.policies:
                raise UnknownDependency(_unknown(name, list(self._dependencies.policies)))
            guard = self._guards.setdefault(name, self._guard(name, classify_plain))
        return guard

    def _guard(self, name: str, classify: Classify) -> Guard:
        policy = self._dependencies.policies.get(name) or Policy()
        return Guard(name, policy, self._view, classify, self._clock, self._rng)

    # --- the end

    async def close(self, timeout: float) -> None:
        """Close what was opened, all at once; after `timeout` seconds leave what hangs to the end of the process."""
        self._closed = True
        tasks = {self.loop.create_task(adapter.close()): name for name, adapter in self._adapters.items()}
        if not tasks:
            return
        # Not wait_for: that waits for a cancelled task to end, which is what a driver that hangs does not do.
        _, pending = await asyncio.wait(tasks, timeout=timeout)
        for task, name in tasks.items():
            if task in pending:
                task.cancel()
                log.warning("worker.adapter_not_closed", name=name, waited_s=timeout)
            elif not task.cancelled() and (error := task.exception()) is not None:
                log.warning("worker.adapter_close_failed", name=name, error=f"{type(error).__name__}: {error}")


class JobTools:
    """The toolbox in the hands of one job: what `ctx.postgres` and its neighbours come from.

    `desk` is set by the job's context.
    """

    __slots__ = ("_blocking", "_box", "_job", "_neo4j", "_postgres", "_qdrant", "desk")

    def __init__(self, box: Toolbox, job: JobCall) -> None:
        self._box = box
        self._job = job
        self._postgres: Postgres | None = None
        self._neo4j: Neo4j | None = None
        self._qdrant: Qdrant | None = None
        self._blocking: BlockingTools | None = None
        self.desk: BlockingDesk | None = None

    @property
    def postgres(self) -> Postgres:
        """PostgreSQL, for coroutines of the loop. Raises UnknownDependency, UsageError."""
        self._check("postgres")
        if self._postgres is None:
            self._postgres = self._box.postgres().bind(self._job)
        return self._postgres

    @property
    def neo4j(self) -> Neo4j:
        """Neo4j, for coroutines of the loop. Raises UnknownDependency, UsageError."""
        self._check("neo4j")
        if self._neo4j is None:
            self._neo4j = self._box.neo4j().bind(self._job)
        return self._neo4j

    @property
    def qdrant(self) -> Qdrant:
        """Qdrant, for coroutines of the loop. Raises UnknownDependency, UsageError."""
        self._check("qdrant")
        if self._qdrant is None:
            self._qdrant = self._box.qdrant().bind(self._job)
        return self._qdrant

    @property
    def blocking(self) -> BlockingTools:
        """The same for synchronous code: not on the loop, which it would stop. Raises UsageError."""
        if self._box.on_loop():
            raise UsageError(
                "ctx.blocking would stop all jobs of this worker's loop: in an async handler write"
                " `await ctx.postgres.fetch(…)`; a function in asyncio.to_thread() may use ctx.blocking"
            )
        if self._blocking is None:
            self._blocking = BlockingTools(self._box, self._job, self.desk)
        return self._blocking

    def guard(
        self,
        name: str,
        *,
        timeout: float | None = None,
        fallback: Any = ...,
        cache: Hashable | None = None,
        retry: Repeat = True,
        unavailable: tuple[type[Exception], ...] = (),
    ) -> Callable[[Callable[P, Awaitable[R]]], Callable[P, Awaitable[R]]]:
        """See Context.guard."""
        self._check("guard")
        options = _options(timeout, fallback, cache, retry)
        call = partial(self._box.guard(name).knowing(unavailable).call, self._job)

        def wrap(function: Callable[P, Awaitable[R]]) -> Callable[P, Awaitable[R]]:
            @wraps(function)
            async def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
                # A partial, because the function may have arguments named like the guard's.
                return await call(partial(function, *args, **kwargs), **options)

            return guarded

        return wrap

    def once(self, key: str, scope: Scope = "job") -> Once:
        """See Context.once. Raises UsageError."""
        return Once(make_mark(self._box.store_id, self._job, key, scope), self)

    def _check(self, what: str) -> None:
        if not self._box.on_loop():
            raise UsageError(
                f"ctx.{what} is for coroutines of the worker's loop: in a synchronous handler or a thread use"
                f" ctx.blocking.{what}, without await"
            )


class BlockingTools:
    """The same tools for a synchronous handler, or for a thread: each call waits until it is done."""

    __slots__ = ("_box", "_desk", "_job")

    def __init__(self, box: Toolbox, job: JobCall, desk: BlockingDesk | None = None) -> None:
        self._box = box
        self._job = job
        self._desk = desk

    def run(
        self,
        *argv: str | os.PathLike[str],
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        input: bytes | str | None = None,
        timeout: float | str | None = None,
        check: bool = True,
        capture: bool = False,
    ) -> Completed:
        """Run a command, as Context.run does; returns when it has ended."""
        options = {"cwd": cwd, "env": env, "input": input, "timeout": timeout, "check": check, "capture": capture}
        words = tuple(os.fspath(part) for part in argv)
        return self._with_desk().run_blocking(words, options)

    def port(self, timeout: float | None = None) -> BlockingPort:
        """Wait for a client, and get a direct line to it, as Context.port does. Raises CallTooLong."""
        return self._with_desk().port_blocking(timeout)

    def _with_desk(self) -> BlockingDesk:
        if self._desk is None:
            raise UsageError("these tools belong to no job that runs")
        return self._desk

    @property
    def postgres(self) -> BlockingPostgres:
        """PostgreSQL: `ctx.blocking.postgres.fetch(…)`, `with ctx.blocking.postgres.transaction() as tx`."""
        from perdure.adapters.postgres import BlockingPostgres

        return BlockingPostgres(self._box.postgres().bind(self._job), self._box.bridge)

    @property
    def neo4j(self) -> BlockingNeo4j:
        """Neo4j: `ctx.blocking.neo4j.read(…)`, `.write(…)`, `with ctx.blocking.neo4j.transaction() as tx`."""
        from perdure.adapters.neo4j import BlockingNeo4j

        return BlockingNeo4j(self._box.neo4j().bind(self._job), self._box.bridge)

    @property
    def qdrant(self) -> BlockingQdrant:
        """Qdrant: `ctx.blocking.qdrant.upsert(…)`, `.query(…)` and so on."""
        from perdure.adapters.qdrant import BlockingQdrant

        return BlockingQdrant(self._box.qdrant().bind(self._job), self._box.bridge)

    def guard(
        self,
        name: str,
        *,
        timeout: float | None = None,
        fallback: Any = ...,
        cache: Hashable | None = None,
        retry: Repeat = True,
        unavailable: tuple[type[Exception], ...] = (),
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """`ctx.guard` for a blocking function, which runs in the thread that calls it.

        Such a function cannot be cut short: when it outlasts `timeout`, its breaker knows at once, but the caller only
        when it ends: with what it returns, late as it is, or CallTooLong. So give it a time limit of its own, too.
        """
        options = _options(timeout, fallback, cache, retry)
        call = partial(self._box.guard(name).knowing(unavailable).call, self._job)

        def wrap(function: Callable[P, R]) -> Callable[P, R]:
            @wraps(function)
            def guarded(*args: P.args, **kwargs: P.kwargs) -> R:
                def start(send: Send) -> Awaitable[R]:
                    here = {"fallback": lambda error: send(partial(fallback, error))} if callable(fallback) else {}
                    return call(partial(send, partial(function, *args, **kwargs)), **{**options, **here})

                return run_errands(self._box.loop, start)

            return guarded

        return wrap

    def once(self, key: str, scope: Scope = "job") -> BlockingOnce:
        """`ctx.once` for synchronous handlers. Raises UsageError."""
        return BlockingOnce(make_mark(self._box.store_id, self._job, key, scope), self)


Options = TypeVar("Options")


def _configured(name: str, options: Options | None) -> Options:
    if options is None:
        raise UnknownDependency(
            f"[{name}] is not configured: add the section [{name}] to the configuration, install perdure[{name}]"
        )
    return options


def _unknown(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"{name!r:.60} is no dependency of the configuration; did you mean {close[0]!r}?"
    there = f"there are {', '.join(sorted(known))}" if known else "there are none"
    return f"{name!r:.60} is no dependency of the configuration ({there}); declare it: [dependencies.{name:.60}]"


def _options(timeout: float | None, fallback: Any, cache: Hashable | None, retry: Repeat) -> dict[str, Any]:
    return {
        "timeout": timeout,
        "fallback": NO_FALLBACK if fallback is ... else fallback,
        "cache": cache,
        "retry": retry,
    }
