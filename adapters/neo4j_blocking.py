"""Neo4j for synchronous handlers: each call waits until the worker's loop has done it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.adapters.bridge import Bridge

if TYPE_CHECKING:
    from neo4j import AsyncSession

    from perdure.adapters.neo4j import Access, Neo4j, Parameters, Transaction
    from perdure.adapters.neo4j_values import Executed

R = TypeVar("R")


class BlockingNeo4j:
    """The same for synchronous handlers."""

    __slots__ = ("_bound", "_bridge")

    def __init__(self, bound: Neo4j, bridge: Bridge) -> None:
        self._bound = bound
        self._bridge = bridge

    def read(self, query: str, parameters: Parameters | None = None, /, **options: Any) -> list[dict[str, Any]]:
        """See Neo4j.read."""
        return self._bridge.run(self._bound.read, query, parameters, **options)

    def write(self, query: str, parameters: Parameters | None = None, /, **options: Any) -> list[dict[str, Any]]:
        """See Neo4j.write."""
        return self._bridge.run(self._bound.write, query, parameters, **options)

    def execute(self, query: str, parameters: Parameters | None = None, /, **options: Any) -> Executed:
        """See Neo4j.execute."""
        return self._bridge.run(self._bound.execute, query, parameters, **options)

    @contextmanager
    def transaction(self, access: Access = "write", *, timeout: float | None = None) -> Iterator[BlockingTransaction]:
        """See Neo4j.transaction."""
        with self._bridge.context(self._bound.transaction(access, timeout=timeout)) as tx:
            yield BlockingTransaction(tx, self._bridge)

    @contextmanager
    def once(self, mark: str, *, timeout: float | None = None) -> Iterator[BlockingTransaction]:
        """See Neo4j.once."""
        with self._bridge.context(self._bound.once(mark, timeout=timeout)) as tx:
            yield BlockingTransaction(tx, self._bridge)

    @contextmanager
    def session(self, access: Access = "write", **settings: Any) -> Iterator[BlockingSession]:
        """See Neo4j.session."""
        with self._bridge.context(self._bound.session(access, **settings)) as session:
            yield BlockingSession(session, self._bridge)


class BlockingSession:
    """The driver's own session, of which the methods are coroutines of the worker's loop: `call` runs them there."""

    __slots__ = ("_bridge", "native")

    def __init__(self, native: AsyncSession, bridge: Bridge) -> None:
        self.native = native
        self._bridge = bridge

    def call(self, ask: Callable[[AsyncSession], Awaitable[R]]) -> R:
        """What `ask` returns: `session.call(lambda native: native.execute_read(work))`; `work` is an `async def`."""
        return self._bridge.run(ask, self.native)


class BlockingTransaction:
    """An open transaction, for synchronous handlers."""

    __slots__ = ("_bridge", "_tx")

    def __init__(self, tx: Transaction, bridge: Bridge) -> None:
        self._tx = tx
        self._bridge = bridge

    @property
    def first(self) -> bool:
        """See Transaction.first."""
        return self._tx.first

    def run(self, query: str, parameters: Parameters | None = None, /, **named: Any) -> list[dict[str, Any]]:
        """The records of a query, as plain data."""
        return self._bridge.run(self._tx.run, query, parameters, **named)

    def execute(self, query: str, parameters: Parameters | None = None, /, **named: Any) -> Executed:
        """Records and counters of a query."""
        return self._bridge.run(self._tx.execute, query, parameters, **named)

    def commit(self) -> None:
        """Commit now; the end of the block does it otherwise."""
        self._bridge.run(self._tx.commit)

    def rollback(self) -> None:
        """Give up all of it, without an exception."""
        self._bridge.run(self._tx.rollback)
