"""PostgreSQL for synchronous handlers: the same verbs, each waits until it is done."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any

from perdure.adapters.bridge import Bridge

if TYPE_CHECKING:
    from asyncpg import Record

    from perdure.adapters.postgres import Postgres
    from perdure.adapters.postgres_transaction import Isolation, Transaction


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
        self, *, isolation: Isolation | None = None, readonly: bool = False, deferrable: bool = False
    ) -> Iterator[BlockingTransaction]:
        """A transaction: committed at the end of the block, rolled back if an exception leaves it."""
        manager = self._target.transaction(isolation=isolation, readonly=readonly, deferrable=deferrable)
        with self._joined(manager) as tx:
            yield tx

    @contextlib.contextmanager
    def once(self, mark: str) -> Iterator[BlockingTransaction]:
        """A transaction that holds the mark; `tx.first` is False when it was committed before."""
        with self._joined(self._target.once(mark)) as tx:
            yield tx

    @contextlib.contextmanager
    def _joined(self, manager: AbstractAsyncContextManager[Transaction]) -> Iterator[BlockingTransaction]:
        with self._bridge.context(manager) as tx:
            yield BlockingTransaction(tx, self._bridge)
