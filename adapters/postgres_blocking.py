"""PostgreSQL for synchronous handlers: the same verbs, each waits until it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeVar

from perdure.adapters.bridge import Bridge

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

    from perdure.adapters.postgres import Postgres
    from perdure.adapters.postgres_transaction import Isolation, Transaction

R = TypeVar("R")


class _Verbs:
    """What a pool and a transaction have in common. Keywords are those of the verb's own twin."""

    def __init__(self, target: Postgres | Transaction, bridge: Bridge) -> None:
        self._target = target
        self._bridge = bridge

    def fetch(self, query: str, *args: Any, **options: Any) -> list[Record]:
        """All rows."""
        return self._bridge.run(self._target.fetch, query, *args, **options)

    def fetchrow(self, query: str, *args: Any, **options: Any) -> Record | None:
        """The first row, None if there is none."""
        return self._bridge.run(self._target.fetchrow, query, *args, **options)

    def fetchval(self, query: str, *args: Any, **options: Any) -> Any:
        """The first value of the first row, None if there is no row."""
        return self._bridge.run(self._target.fetchval, query, *args, **options)

    def execute(self, query: str, *args: Any, **options: Any) -> str:
        """Run it; returns the server's word, such as "INSERT 0 1"."""
        return self._bridge.run(self._target.execute, query, *args, **options)

    def executemany(self, command: str, args: Iterable[Sequence[Any]], **options: Any) -> None:
        """Run it once for each tuple of arguments."""
        self._bridge.run(self._target.executemany, command, list(args), **options)

    def copy_records_to_table(self, table_name: str, *, records: Iterable[Sequence[Any]], **options: Any) -> str:
        """COPY rows into a table."""
        return self._bridge.run(self._target.copy_records_to_table, table_name, records=list(records), **options)


class BlockingTransaction(_Verbs):
    """A transaction in a synchronous handler. `first`: see Transaction."""

    _target: Transaction

    @property
    def first(self) -> bool:
        """Whether this is the first delivery."""
        return self._target.first

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[BlockingTransaction]:
        """A part that can fail alone."""
        with self._bridge.context(self._target.savepoint()):
            yield self


class BlockingPostgres(_Verbs):
    """The pool in a synchronous handler: `ctx.blocking.postgres`."""

    _target: Postgres

    def __init__(self, bound: Postgres, bridge: Bridge) -> None:
        super().__init__(bound, bridge)

    @contextlib.contextmanager
    def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        readonly: bool = False,
        deferrable: bool = False,
        timeout: float | None = None,
    ) -> Iterator[BlockingTransaction]:
        """A transaction: committed at the end of the block, rolled back if an exception leaves it.

        `timeout` (seconds) is for its beginning; each statement has its own.
        """
        manager = self._target.transaction(
            isolation=isolation, readonly=readonly, deferrable=deferrable, timeout=timeout
        )
        with self._joined(manager) as tx:
            yield tx

    @contextlib.contextmanager
    def once(self, mark: str, *, timeout: float | None = None) -> Iterator[BlockingTransaction]:
        """A transaction that holds the mark; `tx.first` is False when it was committed before. `timeout`: as above."""
        with self._joined(self._target.once(mark, timeout=timeout)) as tx:
            yield tx

    @contextlib.contextmanager
    def connection(self, *, timeout: float | None = None) -> Iterator[BlockingConnection]:
        """A connection for whatever else asyncpg can do. See Postgres.connection."""
        with self._bridge.context(self._target.connection(timeout=timeout)) as con:
            yield BlockingConnection(con, self._bridge)

    @contextlib.contextmanager
    def _joined(self, manager: AbstractAsyncContextManager[Transaction]) -> Iterator[BlockingTransaction]:
        with self._bridge.context(manager) as tx:
            yield BlockingTransaction(tx, self._bridge)


class BlockingConnection:
    """asyncpg's connection, of which the methods are coroutines of the worker's loop: `call` runs them there."""

    def __init__(self, native: PoolConnectionProxy, bridge: Bridge) -> None:
        self.native = native
        self._bridge = bridge

    def call(self, ask: Callable[[PoolConnectionProxy], Awaitable[R]]) -> R:
        """What `ask` returns: `con.call(lambda native: native.copy_to_table("documents", output=path))`.

        Neither guarded nor repeated. `ask` may be an `async def` with any number of calls in it.
        """
        return self._bridge.run(ask, self.native)
