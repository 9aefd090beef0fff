"""Transactions on PostgreSQL: what is guarded in them, how they end, and the mark of an effect that happens once."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Literal, Self

from perdure.adapters.call import JobCall
from perdure.adapters.guard import Guard
from perdure.adapters.postgres_errors import sqlstate
from perdure.adapters.postgres_pool import ConnectionPool, driver, is_gone
from perdure.errors import PerdureError, Unavailable, UsageError

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

Isolation = Literal["read_committed", "repeatable_read", "serializable", "read_uncommitted"]

#: How long a rollback may take; then the connection is cut, and the server rolls back by itself.
_ROLLBACK_SECONDS: Final = 1.0

_UNDEFINED_TABLE: Final = "42P01"
_NO_PRIVILEGE: Final = "42501"
_MARK: Final = "INSERT INTO perdure_once (mark) VALUES ($1) ON CONFLICT DO NOTHING RETURNING true"
_TABLE: Final = "CREATE TABLE IF NOT EXISTS perdure_once (mark text PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
#: "IF NOT EXISTS" alone lets two sessions collide. The number is any that nobody else uses: "perdure" as bytes.
_TABLE_LOCK: Final = f"SELECT pg_advisory_xact_lock({int.from_bytes(b'perdure')})"

_NOT_COMMITTED: Final = (
    "nothing was committed: a statement of the transaction had failed. Let it fail in `async with tx.savepoint()`"
)
_IN_DOUBT: Final = "it is not known whether the transaction was committed: COMMIT was sent, no answer came"


class Transaction:
    """The verbs of asyncpg inside of one transaction. A statement is never repeated; each has its own `timeout`.

    `first`: from `once`, whether this is the first delivery; True in other transactions. `connection` is asyncpg's
    own, for what is not here: cursors, COPY.
    """

    def __init__(self, con: Any, native: Any, pool: ConnectionPool, guard: Guard, job: JobCall, first: bool) -> None:
        self.connection: PoolConnectionProxy = con
        self.first = first
        self._native = native
        self._pool = pool
        self._guard = guard
        self._job = job
        #: The error of a statement that has made the server refuse all others.
        self._failure: BaseException | None = None
        self._is_over = False

    async def fetch(self, query: str, *args: Any, timeout: float | None = None) -> list[Record]:
        """All rows."""
        return await self._watch("fetch", (query, *args), {}, timeout)  # type: ignore[no-any-return]

    async def fetchrow(self, query: str, *args: Any, timeout: float | None = None) -> Record | None:
        """The first row, None if there is none."""
        return await self._watch("fetchrow", (query, *args), {}, timeout)

    async def fetchval(self, query: str, *args: Any, timeout: float | None = None) -> Any:
        """The first value of the first row, None if there is no row."""
        return await self._watch("fetchval", (query, *args), {}, timeout)

    async def execute(self, query: str, *args: Any, timeout: float | None = None) -> str:
        """Run it; returns the server's word, such as "INSERT 0 1"."""
        return await self._watch("execute", (query, *args), {}, timeout)  # type: ignore[no-any-return]

    async def executemany(self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None) -> None:
        """Run it once for each tuple of arguments."""
        await self._watch("executemany", (command, args), {}, timeout)

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        records: Iterable[Sequence[Any]],
        columns: Sequence[str] | None = None,
        schema_name: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """COPY rows into a table. Returns the server's word, such as "COPY 3"."""
        options = {"records": records, "columns": columns, "schema_name": schema_name}
        return await self._watch("copy_records_to_table", (table_name,), options, timeout)  # type: ignore[no-any-return]

    @contextlib.asynccontextmanager
    async def savepoint(self) -> AsyncIterator[Self]:
        """A part that can fail alone: an exception that leaves the block undoes what was done in it, no more."""
        before = self._failure
        native = self.connection.transaction()
        await self._run(native.start)
        try:
            yield self
        except Exception:
            if not self._is_in_doubt:
                await self._run(native.rollback)
                self._failure = before
            raise
        await self._run(native.commit)

    @property
    def _is_in_doubt(self) -> bool:
        """Whether a statement failed without an answer from the server."""
        return is_gone(self.connection) or (self._failure is not None and not sqlstate(self._failure))

    # --- statements

    async def _watch(self, verb: str, args: tuple[Any, ...], options: dict[str, Any], timeout: float | None) -> Any:
        if timeout is not None:
            options = {**options, "timeout": timeout}

        async def statement() -> Any:
            return await getattr(self.connection, verb)(*args, **options)

        return await self._run(statement, timeout)

    async def _run(self, function: Any, timeout: float | None = None) -> Any:
        try:
            return await self._guard.watch(self._job, self._if_there, function, timeout=timeout)
        except BaseException as exc:
            if sqlstate(exc) or not isinstance(exc, Exception) or isinstance(exc, (ConnectionError, TimeoutError)):
                self._failure = exc
            raise

    async def _if_there(self, function: Any) -> Any:
        if self._is_over:
            raise UsageError("postgres: this transaction is over; use it inside of its `async with` block only")
        if is_gone(self.connection):
            raise Unavailable("postgres: the connection was lost within the transaction, which is rolled back")
        return await function()

    # --- the end

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if exc is None:
                await self._commit()
            else:
                await self._roll_back(exc)
        finally:
            self._is_over = True

    async def _commit(self) -> None:
        if self._failure is not None:
            # The server would answer COMMIT with ROLLBACK, and asyncpg would not tell.
            await self._roll_back(self._failure)
            raise driver().asyncpg.InFailedSQLTransactionError(_NOT_COMMITTED) from self._failure
        try:
            await self._guard.watch(self._job, self._if_there, self._native.commit)
        except BaseException as exc:
            if not sqlstate(exc) or is_gone(self.connection):
                exc.add_note(_IN_DOUBT)
            self._pool.give_up(self.connection, exc)
            raise
        await self._pool.put_back(self.connection)

    async def _roll_back(self, why: BaseException) -> None:
        """Free its locks now if the server answers; else cut the connection. Never raises an Exception of its own."""
        if not isinstance(why, Exception) or isinstance(why, (ConnectionError, TimeoutError)):
            self._pool.give_up(self.connection, why)
            return
        try:
            await self._guard.watch(self._job, self._if_there, self._native.rollback, timeout=_ROLLBACK_SECONDS)
        except Exception as exc:
            self._pool.give_up(self.connection, exc)
        except BaseException as exc:
            self._pool.give_up(self.connection, exc)
            raise
        else:
            await self._pool.put_back(self.connection)


async def begin(pool: ConnectionPool, guard: Guard, job: JobCall, options: dict[str, Any]) -> Transaction:
    """BEGIN on a connection of its own."""
    con = await pool.take()
    try:
        native = con.transaction(**options)
        await native.start()
    except BaseException as exc:
        pool.give_up(con, exc)
        raise
    return Transaction(con, native, pool, guard, job, first=True)


async def begin_once(pool: ConnectionPool, guard: Guard, job: JobCall, mark: str) -> Transaction:
    """BEGIN, and write the mark; nothing lasts before the commit, so it may be repeated."""
    con = await pool.take()
    try:
        native = con.transaction()
        await native.start()
        try:
            first = await con.fetchval(_MARK, mark)
        except Exception as exc:
            if sqlstate(exc) != _UNDEFINED_TABLE:
                raise
            await native.rollback()
            await _make_table(con)
            native = con.transaction()
            await native.start()
            first = await con.fetchval(_MARK, mark)
    except BaseException as exc:
        pool.give_up(con, exc)
        raise
    return Transaction(con, native, pool, guard, job, first=bool(first))


async def _make_table(con: Any) -> None:
    try:
        async with con.transaction():
            await con.execute(_TABLE_LOCK)
            await con.execute(_TABLE)
    except Exception as exc:
        if sqlstate(exc) == _NO_PRIVILEGE:
            raise PerdureError(
                f"postgres: this user may not make the table for marks; let its owner run: {_TABLE};"
                " GRANT SELECT, INSERT ON perdure_once TO …"
            ) from exc
        raise
