"""PostgreSQL for handlers: asyncpg's verbs behind the guard.

    rows = await ctx.postgres.fetch("SELECT id, path FROM documents WHERE lang = $1", "en")
    async with ctx.postgres.transaction() as tx:
        await tx.execute("INSERT INTO documents (path) VALUES ($1)", path)

A statement that reads is repeated when its connection is lost. One that writes is repeated only while it has not been
sent, because nobody knows what became of it then; in a transaction nothing is repeated but its beginning.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import AsyncIterator, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from perdure.adapters.call import JobCall
from perdure.adapters.guard import NO_FALLBACK, Guard
from perdure.adapters.postgres_address import parse_address
from perdure.adapters.postgres_blocking import BlockingConnection, BlockingPostgres, BlockingTransaction
from perdure.adapters.postgres_errors import classify, mark_sent, was_not_sent
from perdure.adapters.postgres_pool import ConnectionPool, driver
from perdure.adapters.postgres_transaction import Isolation, Transaction, begin, begin_once
from perdure.clock import Clock
from perdure.wire.dependencies import PostgresOptions

if TYPE_CHECKING:
    from asyncpg import Record
    from asyncpg.pool import PoolConnectionProxy

__all__ = [
    "BlockingConnection",
    "BlockingPostgres",
    "BlockingTransaction",
    "Postgres",
    "PostgresPool",
    "Transaction",
    "check",
    "classify",
]

#: Seconds that each question of `check` may take.
_CHECK_SECONDS: Final = 5.0

_READING: Final = re.compile(
    r"(?:\s|\(|--[^\n]*\n|/\*.*?\*/)*(SELECT|VALUES|TABLE|SHOW|WITH)\b", re.IGNORECASE | re.DOTALL
)
_WRITING: Final = re.compile(r"\b(INSERT|UPDATE|DELETE|MERGE|INTO|NEXTVAL|SETVAL|PG_NOTIFY)\b", re.IGNORECASE)


@lru_cache(maxsize=1024)
def reads_only(query: str) -> bool:
    """Whether a statement only reads, as far as its text tells: it may be repeated. FOR UPDATE counts as writing.

    What a function that it calls does is not seen.
    """
    return _READING.match(query) is not None and _WRITING.search(query) is None


class PostgresPool:
    """The connections of one worker. Opened by the first call; `close` it on its loop."""

    def __init__(self, options: PostgresOptions, guard: Guard, clock: Clock) -> None:
        self.connections = ConnectionPool(options, clock)
        self.guard = guard
        guard.where = lambda: parse_address(options.dsn).place

    def bind(self, job: JobCall) -> Postgres:
        """What a job uses: the same pool, with the job's deadline."""
        return Postgres(self, job)

    async def close(self) -> None:
        """Close all connections; takes some seconds at most, whatever the server does. Nothing can be called then."""
        await self.connections.close()


class Postgres:
    """asyncpg's verbs, for one job. Rows are asyncpg.Record.

    Each verb takes `timeout` (seconds for the whole call, repetitions included; default: the policy's), and raises
    BreakerOpen, CallTooLong, errors.Unavailable and its subclasses, and asyncpg's own exceptions. Those that read take
    `cache` and `fallback` besides, see Guard.call, and `retry`: whether the call is repeated when the connection is
    lost; by default the text of the statement decides. Say `retry=False` for a SELECT of a function that writes.
    """

    __slots__ = ("_guard", "_job", "_pool")

    def __init__(self, pool: PostgresPool, job: JobCall) -> None:
        self._pool = pool.connections
        self._guard = pool.guard
        self._job = job

    # --- reading

    async def fetch(
        self,
        query: str,
        *args: Any,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        retry: bool | None = None,
    ) -> list[Record]:
        """All rows."""
        return await self._read("fetch", query, args, timeout, fallback, cache, retry)  # type: ignore[no-any-return]

    async def fetchrow(
        self,
        query: str,
        *args: Any,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        retry: bool | None = None,
    ) -> Record | None:
        """The first row, None if there is none."""
        return await self._read("fetchrow", query, args, timeout, fallback, cache, retry)

    async def fetchval(
        self,
        query: str,
        *args: Any,
        timeout: float | None = None,
        fallback: Any = NO_FALLBACK,
        cache: Hashable | None = None,
        retry: bool | None = None,
    ) -> Any:
        """The first value of the first row, None if there is no row."""
        return await self._read("fetchval", query, args, timeout, fallback, cache, retry)

    # --- writing

    async def execute(self, query: str, *args: Any, timeout: float | None = None, retry: bool = False) -> str:
        """Run it; returns the server's word, such as "INSERT 0 1". `retry=True`: it is idempotent, repeat it freely."""
        return await self._write("execute", (query, *args), {}, timeout, retry)  # type: ignore[no-any-return]

    async def executemany(
        self, command: str, args: Iterable[Sequence[Any]], *, timeout: float | None = None, retry: bool = False
    ) -> None:
        """Run it once for each tuple of arguments: all or none take effect. `retry`: as for `execute`."""
        await self._write("executemany", (command, list(args)), {}, timeout, retry)

    async def copy_records_to_table(
        self,
        table_name: str,
        *,
        records: Iterable[Sequence[Any]],
        columns: Sequence[str] | None = None,
        schema_name: str | None = None,
        timeout: float | None = None,
    ) -> str:
        """COPY rows into a table, all or none: the fastest way. Returns the server's word, such as "COPY 3"."""
        options = {"records": list(records), "columns": columns, "schema_name": schema_name}
        return await self._write("copy_records_to_table", (table_name,), options, timeout, False)  # type: ignore[no-any-return]

    # --- more than one statement

    @contextlib.asynccontextmanager
    async def transaction(
        self,
        *,
        isolation: Isolation | None = None,
        readonly: bool = False,
        deferrable: bool = False,
        timeout: float | None = None,
    ) -> AsyncIterator[Transaction]:
        """A transaction: committed at the end of the block, rolled back if an exception leaves it.

        When the connection is lost while it commits, nobody knows whether it has: the exception says so. `timeout`
        is for its beginning; each statement has its own.
        """
        options = {"isolation": isolation, "readonly": readonly, "deferrable": deferrable}
        tx = await self._guard.call(self._job, begin, self._pool, self._guard, self._job, options, timeout=timeout)
        async with tx:
            yield tx

    @contextlib.asynccontextmanager
    async def once(self, mark: str, *, timeout: float | None = None) -> AsyncIterator[Transaction]:
        """A transaction that holds the mark; `tx.first` is False when it was committed before, by another delivery.

        A concurrent one with the same mark waits until this one has ended. The marks are in the table perdure_once,
        which is made when it is missing, in the first schema of the search path.
        """
        tx = await self._guard.call(self._job, begin_once, self._pool, self._guard, self._job, mark, timeout=timeout)
        async with tx:
            yield tx

    @contextlib.asynccontextmanager
    async def connection(self, *, timeout: float | None = None) -> AsyncIterator[PoolConnectionProxy]:
        """An asyncpg connection, for whatever else the driver can do: cursors, LISTEN, COPY from a file.

        What is called on it is neither guarded nor repeated, and limited by postgres.command_timeout only. `timeout`:
        for getting it.
        """
        con = await self._guard.call(self._job, self._pool.take, timeout=timeout)
        try:
            yield con
        except BaseException as exc:
            self._pool.give_up(con, exc)
            raise
        await self._pool.put_back(con)

    # --- calls

    async def _read(
        self,
        verb: str,
        query: str,
        args: tuple[Any, ...],
        timeout: float | None,
        fallback: Any,
        cache: Hashable | None,
        retry: bool | None,
    ) -> Any:
        again = (reads_only(query) if retry is None else retry) or was_not_sent
        options = {} if timeout is None else {"timeout": timeout}
        return await self._guard.call(
            self._job,
            self._statement,
            verb,
            (query, *args),
            options,
            timeout=timeout,
            retry=again,
            fallback=fallback,
            cache=cache,
        )

    async def _write(
        self, verb: str, args: tuple[Any, ...], options: dict[str, Any], timeout: float | None, retry: bool
    ) -> Any:
        if timeout is not None:
            options = {**options, "timeout": timeout}
        again = retry or was_not_sent
        return await self._guard.call(self._job, self._statement, verb, args, options, timeout=timeout, retry=again)

    async def _statement(self, verb: str, args: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """One statement on a connection of its own."""
        con = await self._pool.take()
        try:
            result = await getattr(con, verb)(*args, **options)
        except BaseException as exc:
            mark_sent(exc)
            self._pool.give_up(con, exc)
            raise
        await self._pool.put_back(con)
        return result


async def check(options: PostgresOptions) -> str:
    """Connect, ask, and tell what is there, in a line for `perdure doctor`.

    Raises errors.Unavailable and its subclasses, PerdureError if the driver is not installed.
    """
    con = await driver().connect(options)
    try:
        row = await con.fetchrow(
            "SELECT current_setting('server_version') AS version, current_setting('max_connections')::int AS most,"
            " (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend') AS used,"
            " coalesce((SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()), false) AS tls,"
            " pg_is_in_recovery() AS standby",
            timeout=_CHECK_SECONDS,
        )
    finally:
        with contextlib.suppress(Exception):
            await con.close(timeout=1.0)
        con.terminate()
    address = parse_address(options.dsn)
    kind = "a standby, read-only, " if row["standby"] else ""
    tls = "with TLS" if row["tls"] else "without TLS"
    return (
        f"PostgreSQL {row['version']} at {address.place}, {kind}database {address.database!r}, user {address.user!r},"
        f" {tls}, {row['used']} of {row['most']} connections in use"
    )
