"""One SQLite connection in a thread of its own, and what its errors mean to people."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from collections.abc import Callable
from functools import partial
from typing import TypeVar

import aiosqlite

from perdure.errors import StoreCorrupt, StoreError, StoreFull, StoreLocked, StoreReadOnly

T = TypeVar("T")

#: Statements that sqlite3 keeps prepared, a connection: more than there are in all the .sql files.
CACHED_STATEMENTS = 256


class SqliteThread:
    """A connection and the thread that it lives in."""

    def __init__(self, connection: aiosqlite.Connection, path: str) -> None:
        self._connection = connection
        self._path = path
        self._closed = False

    @classmethod
    async def open(cls, path: str, *, mode: str, setup: Callable[[sqlite3.Connection], None]) -> SqliteThread:
        """Connect (`mode` as in SQLite's URIs: ro, rw, rwc) and run `setup`. Raises StoreError and its children."""
        connection = aiosqlite.connect(
            database_uri(path, mode), isolation_level=None, uri=True, cached_statements=CACHED_STATEMENTS
        )
        # aiosqlite's thread is not a daemon thread: a store that nobody closed would keep the process from exiting.
        connection._thread.daemon = True
        self = cls(connection, path)
        try:
            await connection
        except (sqlite3.Error, OSError) as error:
            raise explain(error, path) from error
        try:
            await self.run(setup)
        except BaseException:
            await self.close()
            raise
        return self

    async def run(self, verb: Callable[[sqlite3.Connection], T], *, droppable: bool = False) -> T:
        """Call `verb(connection)` in the thread: one hop, however many statements it has.

        The only place that uses aiosqlite's queue. It is private, but its public methods are one hop a statement
        (50 to 100 µs), and a coroutine that is cancelled between two of them leaves a transaction open. A verb is
        queued at once and whole, so nothing needs a shield: cancelling the caller drops the answer, never half a verb.
        `droppable`: a verb that has not begun when its caller is cancelled is not begun at all.
        """
        if self._closed:
            raise StoreError(f"{self._path} is closed: open the store again")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        # Without a future of aiosqlite's own: the result comes back by ours, and by nothing else on the way.
        self._connection._tx.put_nowait((None, partial(self._call, verb, droppable, loop, answer)))
        try:
            return await answer
        except (sqlite3.Error, OSError) as error:
            raise explain(error, self._path) from error

    def _call(
        self,
        verb: Callable[[sqlite3.Connection], T],
        droppable: bool,
        loop: asyncio.AbstractEventLoop,
        answer: asyncio.Future[T],
    ) -> None:
        """In the thread: carry a verb out, and tell the loop."""
        if droppable and answer.cancelled():
            return
        try:
            result = verb(self._connection._conn)
        except BaseException as error:
            loop.call_soon_threadsafe(_refuse, answer, error)
        else:
            loop.call_soon_threadsafe(_answer, answer, result)

    async def close(self) -> None:
        """Finish what is queued, disconnect, end the thread. Safe to call twice."""
        if not self._closed:
            self._closed = True
            await self._connection.close()


def _answer(answer: asyncio.Future[T], result: T) -> None:
    if not answer.done():
        answer.set_result(result)


def _refuse(answer: asyncio.Future[T], error: BaseException) -> None:
    if not answer.done():
        answer.set_exception(error)


def database_uri(path: str, mode: str) -> str:
    """SQLite's URI for a path, whatever characters are in it."""
    quoted = path.replace("%", "%25").replace("?", "%3f").replace("#", "%23")
    return f"file:{quoted}?mode={mode}"


def transaction(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], T]) -> T:
    """`work(connection)` in one write transaction: all of it is durable when this returns, or none of it happened."""
    # IMMEDIATE: a read that turns into a write later fails at once when the file is locked, whatever the timeout is.
    connection.execute("BEGIN IMMEDIATE")
    try:
        result = work(connection)
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise
    return result


def roll_back(connection: sqlite3.Connection) -> None:
    """Roll back if that is still to be done: after a full disk or an I/O error SQLite has done so by itself."""
    if connection.in_transaction:
        try:
            connection.execute("ROLLBACK")
        except sqlite3.Error:
            pass  # the error that led here is the one to show


def explain(error: sqlite3.Error | OSError, path: str) -> StoreError:
    """What SQLite or the system reports about `path`, as an error that says what to do."""
    if isinstance(error, OSError):
        return _explain_os(error, path)
    code = getattr(error, "sqlite_errorcode", None)
    name = getattr(error, "sqlite_errorname", "")
    primary = code & 0xFF if code is not None else None
    if primary == sqlite3.SQLITE_FULL:
        return StoreFull(f"the disk that holds {path} is full: free some space; every job is where it was")
    if primary in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM):
        return StoreReadOnly(
            f"{path} cannot be opened or written ({error}): check owner and permissions of the file and its folder"
        )
    if primary == sqlite3.SQLITE_NOTADB:
        return StoreCorrupt(f"{path} is not a database: give perdure another path, or move that file away")
    if primary == sqlite3.SQLITE_CORRUPT:
        return StoreCorrupt(
            f"{path} is damaged ({error}): stop perdure, keep a copy of the file, and restore a backup "
            "or recover it with `sqlite3 FILE .recover`"
        )
    if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
        return StoreLocked(f"another program holds a lock on {path}: end it, then try again")
    if primary == sqlite3.SQLITE_IOERR:
        return StoreError(f"reading or writing {path} failed ({name}): check the disk and the kernel's log (dmesg)")
    return StoreError(f"{path}: {error} ({name or type(error).__name__})")


def _explain_os(error: OSError, path: str) -> StoreError:
    where = error.filename or path
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StoreFull(f"the disk that holds {where} is full: free some space; every job is where it was")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return StoreReadOnly(
            f"{where} cannot be written ({error.strerror}): check owner and permissions of the file and its folder"
        )
    return StoreError(f"{where}: {error.strerror or error}")
