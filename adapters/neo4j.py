"""Neo4j for jobs: the official driver behind the guard.

There is one layer of retry, the guard's: each try is one explicit transaction. The driver's own "managed transactions"
would wait and repeat beneath it, unseen by the breaker, with a clock that starts after the first failure and knows
nothing of the job's deadline. What is repeated is the same: what passes by itself, and never a transaction whose commit
may have been applied. (In `session()` the driver's managed transactions are there, with `max_retry_time`.)
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeVar

from perdure.adapters.call import JobCall
from perdure.adapters.guard import NO_FALLBACK, Guard
from perdure.adapters.neo4j_blocking import BlockingNeo4j, BlockingSession
from perdure.adapters.neo4j_check import check, load_driver
from perdure.adapters.places import Places
from perdure.adapters.verdict import OUTAGES, Verdict
from perdure.clock import Clock
from perdure.errors import ConfigError, Retry, UsageError
from perdure.wire.dependencies import Neo4jOptions

if TYPE_CHECKING:
    from neo4j import AsyncSession, AsyncTransaction

    from perdure.adapters.neo4j_driver import DriverHolder
    from perdure.adapters.neo4j_values import Executed

__all__ = ["BlockingNeo4j", "BlockingSession", "Neo4j", "Neo4jDriver", "Transaction", "check", "classify"]

T = TypeVar("T")

Access = Literal["read", "write"]
Parameters = Mapping[str, Any]

#: The server gives up a transaction so many seconds after its caller has.
_SERVER_GRACE_SECONDS: Final = 1.0

#: How long to wait for another worker that makes the constraint at the same moment, seconds; None: no longer.
_WHILE_IT_IS_MADE: Final = (0.05, 0.1, 0.2, 0.4, 0.8, None)
_FIND_CONSTRAINTS: Final = "SHOW CONSTRAINTS"
_MAKE_CONSTRAINT: Final = "CREATE CONSTRAINT perdure_once IF NOT EXISTS FOR (o:PerdureOnce) REQUIRE o.mark IS UNIQUE"
#: Making it waits for other transactions and reads all nodes of the label; cut short, it leaves half of itself behind.
_MAKING_SECONDS: Final = 10.0
_DROP_INDEX: Final = "DROP INDEX perdure_once IF EXISTS"
_SET_MARK: Final = (
    "MERGE (o:PerdureOnce {mark: $mark}) ON CREATE SET o.by = $by, o.at = timestamp() RETURN o.by = $by AS first"
)
_FIND_MARK: Final = "MATCH (o:PerdureOnce {mark: $mark}) RETURN o.mark AS mark"


def classify(exc: BaseException) -> Verdict:
    """What an exception says about the server; see neo4j_errors."""
    if isinstance(exc, ConfigError):  # the driver may not even be there
        return Verdict.REFUSED
    from perdure.adapters.neo4j_errors import classify as decide

    return decide(exc)


class Neo4jDriver:
    """One for each worker: holds the driver, which is made and connected when a job first asks for something."""

    def __init__(self, options: Neo4jOptions, guard: Guard, clock: Clock) -> None:
        self.options = options
        self.guard = guard
        guard.where = self._where
        self._clock = clock
        self._holder: DriverHolder | None = None
        self._places = Places(options.pool_max, clock)
        self._opening = asyncio.Lock()
        self._has_constraint = False
        self._closed = False

    def bind(self, job: JobCall) -> Neo4j:
        """Neo4j as one job sees it: its calls end before the job's deadline does."""
        return Neo4j(self, job)

    async def close(self) -> None:
        """Close all connections. A server that is silent is not waited for."""
        self._closed = True
        holder, self._holder = self._holder, None
        if holder is not None:
            await holder.close()

    @asynccontextmanager
    async def open_session(self, access: Access, **settings: Any) -> AsyncIterator[AsyncSession]:
        """The driver's session, with the database named. When it ends, so does whatever hangs on its connection.

        Raises what `diagnose` makes of the driver's exceptions.
        """
        holder = self._holder or await self._open()
        from perdure.adapters import neo4j_driver, neo4j_errors

        try:
            async with holder.lease() as driver:
                mode = "READ" if access == "read" else "WRITE"
                session = driver.session(database=self.options.database, default_access_mode=mode, **settings)
                try:
                    yield session
                except BaseException as exc:
                    # A call that was cut off waits for nothing any more.
                    is_over = not isinstance(exc, Exception)
                    await (neo4j_driver.drop_session(session) if is_over else neo4j_driver.close_session(session))
                    raise
                await neo4j_driver.close_session(session)
        except Exception as exc:
            reason = await neo4j_errors.diagnose(exc, self.options, holder.is_full)
            if reason is None:
                raise
            raise reason from exc

    @asynccontextmanager
    async def place(self) -> AsyncIterator[None]:
        """One of as many as there are connections. Raises PoolExhausted."""
        advice = "Raise neo4j.pool_max, lower workers.async_slots, or do less inside of transactions"
        await self._places.take(self.options.acquire_timeout_ms / 1000, lambda: f"neo4j: {self._where()}", advice)
        try:
            yield
        finally:
            self._places.give_back()

    def _where(self) -> str:
        from perdure.adapters.neo4j_driver import address_of  # it is loaded, as somebody has made a call

        return address_of(self.options.uri)[2]

    def transaction_seconds(self, job: JobCall, timeout: float | None) -> float:
        """After how many seconds the server shall end a transaction that its caller has given up by then."""
        seconds = self.guard.policy.timeout_ms / 1000 if timeout is None else timeout
        return max(0.0, min(seconds, self.seconds_left(job, seconds))) + _SERVER_GRACE_SECONDS

    def seconds_left(self, job: JobCall, otherwise: float) -> float:
        """Until the job's deadline; `otherwise` if it has none."""
        if job.deadline is None:
            return otherwise
        return job.deadline - self._clock.monotonic_ns() / 1e9

    async def prepare_marks(self, bound: Neo4j) -> None:
        """Make the uniqueness constraint on marks, unless it is there: once for each worker."""
        for pause in _WHILE_IT_IS_MADE:
            if self._has_constraint:
                return
            records = await bound.read(_FIND_CONSTRAINTS)
            self._has_constraint = any(_is_ours(record) for record in records)
            if not self._has_constraint and not await self._made_constraint(bound, last=pause is None):
                await asyncio.sleep(pause or 0)

    async def _made_constraint(self, bound: Neo4j, last: bool) -> bool:
        """Make it; False: somebody else is about to, and its index is there before the constraint is."""
        from perdure.adapters.neo4j_errors import is_being_made

        try:
            if last:
                # Nobody is: who was about to make it has died, and has left the index without its constraint.
                await bound.write(_DROP_INDEX, retry=True)
            await bound.write(_MAKE_CONSTRAINT, retry=True, timeout=_MAKING_SECONDS)
        except Exception as exc:
            if last or not is_being_made(exc):
                raise
            return False
        self._has_constraint = True
        return True

    async def _open(self) -> DriverHolder:
        """Import the driver (in a thread: it takes its time), once however many ask at the same moment."""
        async with self._opening:
            if self._closed:
                raise UsageError("neo4j: the worker is ending, nothing is opened any more")
            if self._holder is None:
                module = await asyncio.to_thread(load_driver)
                self._holder = module.DriverHolder(self.options, self.guard.policy.timeout_ms / 1000)
            return self._holder


class Neo4j:
    """Neo4j for one job. A query's parameters are given by name, or as a mapping.

    Everything that calls raises BreakerOpen, CallTooLong, subclasses of Unavailable when no connection comes about, and
    else the driver's own exceptions. `timeout`: seconds for the whole call, instead of [breakers.neo4j].
    """

    __slots__ = ("_driver", "_guard", "_job")

    def __init__(self, driver: Neo4jDriver, job: JobCall) -> None:
        self._driver = driver
        self._guard = driver.guard
        self._job = job

    async def read(
        self,
        query: str,
        parameters: Parameters | None = None,
        /,
        *,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        **named: Any,
    ) -> list[dict[str, Any]]:
        """The records of a query with READ access, as plain data. It is repeated when it fails with what passes.

        `fallback`, `cache`: what to return when Neo4j cannot be asked, see Guard.call.
        """

        async def records() -> list[dict[str, Any]]:
            return (await self._try("read", query, {**(parameters or {}), **named}, timeout)).records

        return await self._guard.call(self._job, records, timeout=timeout, fallback=fallback, cache=cache)

    async def write(
        self,
        query: str,
        parameters: Parameters | None = None,
        /,
        *,
        timeout: float | None = None,
        retry: bool = False,
        **named: Any,
    ) -> list[dict[str, Any]]:
        """The records of a query with WRITE access, in a transaction of its own. See `execute` for `retry`."""
        return (await self.execute(query, parameters, timeout=timeout, retry=retry, **named)).records

    async def execute(
        self,
        query: str,
        parameters: Parameters | None = None,
        /,
        *,
        access: Access = "write",
        timeout: float | None = None,
        retry: bool = False,
        **named: Any,
    ) -> Executed:
        """Records and counters of a query in a transaction of its own.

        It is repeated when it failed before its commit: then nothing was written. `retry=True`: also when the
        connection was lost during the commit; say so only if the query may be applied twice.
        """
        values = {**(parameters or {}), **named}
        may_repeat = retry or access == "read" or _nothing_was_written
        return await self._guard.call(
            self._job, self._try, access, query, values, timeout, timeout=timeout, retry=may_repeat
        )

    @asynccontextmanager
    async def transaction(
        self, access: Access = "write", *, timeout: float | None = None
    ) -> AsyncIterator[Transaction]:
        """A transaction over several queries: committed at the end of the block, rolled back if it raises.

        Beginning it is repeated if need be; its queries are not, because what came before them is lost with it.
        `timeout`: seconds for each query in it and for its end.
        """
        stack, native = await self._guard.call(self._job, self._begin, access, timeout=timeout)
        async with stack, self._ending(Transaction(self, native, timeout)) as tx:
            yield tx

    @asynccontextmanager
    async def once(self, mark: str, *, timeout: float | None = None) -> AsyncIterator[Transaction]:
        """A transaction with `mark` in it: `tx.first` says whether this is the first one with that mark.

        Raises Retry when another delivery of the same job has written the mark at the same time: then nothing of this
        transaction is there, and everything of the other one.
        """
        await self._driver.prepare_marks(self)
        stack, native, is_first = await self._guard.call(self._job, self._begin_marked, mark, timeout=timeout)
        async with stack:
            try:
                async with self._ending(Transaction(self, native, timeout, first=is_first)) as tx:
                    yield tx
            except Exception as exc:
                if is_first and await self._was_overtaken(mark, exc):
                    raise Retry("another delivery of this job had the same effect at the same time") from exc
                raise

    @asynccontextmanager
    async def session(self, access: Access = "write", **settings: Any) -> AsyncIterator[AsyncSession]:
        """The driver's own session, with the database named: everything that the driver can do.

        Its queries have no time limit but the job's, and are not repeated but by the driver's managed transactions. A
        failure that leaves the block counts for the breaker. `settings`: the driver's, bookmarks for example.
        """
        most = self._driver.options.max_retry_time_ms / 1000
        settings.setdefault("max_transaction_retry_time", max(0.0, min(most, self._seconds_left(most))))
        stack, session = await self._guard.call(self._job, self._enter, access, settings)
        try:
            async with stack:
                yield session
        except Exception as exc:
            if classify(exc) in OUTAGES:
                await self._guard.watch(self._job, _raise, exc)
            raise

    # --- pieces

    async def _try(self, access: Access, query: str, values: Parameters, timeout: float | None) -> Executed:
        """One try: a transaction with this query in it."""
        async with self._driver.place(), self._driver.open_session(access) as session:
            tx = await session.begin_transaction(timeout=self._driver.transaction_seconds(self._job, timeout))
            done = await _fetch(tx, query, values)
            await tx.commit()
        return done

    async def _begin(self, access: Access) -> tuple[AsyncExitStack, AsyncTransaction]:
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(self._driver.place())
            session = await stack.enter_async_context(self._driver.open_session(access))
            tx = await session.begin_transaction(timeout=self._job_seconds())
            return stack.pop_all(), tx

    async def _begin_marked(self, mark: str) -> tuple[AsyncExitStack, AsyncTransaction, bool]:
        from perdure.adapters.neo4j_errors import MarkContended, is_conflict

        stack, tx = await self._begin("write")
        async with stack:
            try:
                records = (await _fetch(tx, _SET_MARK, {"mark": mark, "by": uuid.uuid4().hex})).records
            except Exception as exc:
                if is_conflict(exc):
                    raise MarkContended(str(exc)) from exc
                raise
            return stack.pop_all(), tx, bool(records[0]["first"])

    async def _enter(self, access: Access, settings: dict[str, Any]) -> tuple[AsyncExitStack, AsyncSession]:
        """A session of which it is known that the server is there and has the database."""
        async with AsyncExitStack() as stack:
            session = await stack.enter_async_context(self._driver.open_session(access, **settings))
            await (await session.begin_transaction()).rollback()
            return stack.pop_all(), session

    @asynccontextmanager
    async def _ending(self, tx: Transaction) -> AsyncIterator[Transaction]:
        """Commit at the end of the block. A rollback is part of closing the session."""
        yield tx
        await tx.commit()

    async def watch(self, timeout: float | None, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Await a step of a transaction that has begun, within its limit, and count it."""
        return await self._guard.watch(self._job, function, *args, timeout=timeout)

    async def _was_overtaken(self, mark: str, exc: Exception) -> bool:
        from perdure.adapters.neo4j_errors import is_conflict

        return is_conflict(exc) and bool(await self.read(_FIND_MARK, mark=mark))

    def _seconds_left(self, otherwise: float) -> float:
        return self._driver.seconds_left(self._job, otherwise)

    def _job_seconds(self) -> float | None:
        """The server's own limit for a transaction over several queries: a bit after the job's deadline."""
        if self._job.deadline is None:
            return None
        return max(0.0, self._seconds_left(0.0)) + _SERVER_GRACE_SECONDS


class Transaction:
    """An open transaction. `first`: no other one has had its mark (in `once`; else True). `native`: the driver's."""

    __slots__ = ("_bound", "first", "native", "timeout")

    def __init__(self, bound: Neo4j, native: AsyncTransaction, timeout: float | None, first: bool = True) -> None:
        self._bound = bound
        self.native = native
        self.timeout = timeout
        self.first = first

    async def run(self, query: str, parameters: Parameters | None = None, /, **named: Any) -> list[dict[str, Any]]:
        """The records of a query, as plain data."""
        return (await self.execute(query, parameters, **named)).records

    async def execute(self, query: str, parameters: Parameters | None = None, /, **named: Any) -> Executed:
        """Records and counters of a query."""
        return await self._bound.watch(self.timeout, _fetch, self.native, query, {**(parameters or {}), **named})

    async def commit(self) -> None:
        """Commit now, if that has not been done; the end of the block does it otherwise."""
        if not self.native.closed():
            await self._bound.watch(self.timeout, self.native.commit)

    async def rollback(self) -> None:
        """Give up all of it, without an exception."""
        if not self.native.closed():
            await self._bound.watch(self.timeout, self.native.rollback)


async def _fetch(tx: AsyncTransaction, query: str, values: Parameters) -> Executed:
    from perdure.adapters.neo4j_values import fetch_all

    return await fetch_all(await tx.run(query, dict(values)))


async def _raise(exc: Exception) -> None:
    raise exc


def _nothing_was_written(exc: BaseException) -> bool:
    from perdure.adapters.neo4j_errors import is_known_fate

    return is_known_fate(exc)


def _is_ours(constraint: dict[str, Any]) -> bool:
    has = constraint.get("labelsOrTypes") == ["PerdureOnce"] and constraint.get("properties") == ["mark"]
    return has and "UNIQUE" in str(constraint.get("type"))
