"""The pool of one worker: how connections are taken, put back, and given up when they are in doubt.

asyncpg's own pool waits for a server in places where no time limit reaches: it resets a connection on its way back,
asks the server to cancel a statement, says goodbye when it closes. Here each of these runs as a task of its own with
a limit, nobody waits for it longer than a moment, and at its end the connection is cut. A slot is free again when
that is over, whatever became of the server.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any, Final

from perdure.adapters.call import patience
from perdure.adapters.places import Places
from perdure.adapters.postgres_address import parse_address
from perdure.adapters.postgres_errors import leaves_connection_whole
from perdure.clock import Clock
from perdure.errors import PerdureError, Unavailable
from perdure.wire.dependencies import PostgresOptions

if TYPE_CHECKING:
    from asyncpg import Pool

#: How long a connection is trusted without being asked.
_TRUSTED_SECONDS: Final = 5.0
#: How long it may take to answer when it is asked.
_PING_SECONDS: Final = 1.0
#: How long putting back (a reset) or giving up (cancelling what runs on the server) may take in the background.
_CLEANING_SECONDS: Final = 1.0
#: How long the caller waits for that: as a rule it is over at once, and the next call finds the connection.
_GRACE_SECONDS: Final = 0.05
#: How long `close` waits for connections that are in use, and for the farewell.
_CLOSING_SECONDS: Final = 2.0


def driver() -> Any:
    """The module that needs asyncpg. Raises PerdureError if that is not installed."""
    try:
        from perdure.adapters import postgres_connect
    except ModuleNotFoundError as exc:
        if exc.name != "asyncpg":
            raise
        raise PerdureError("PostgreSQL needs a driver that is not installed: pip install 'perdure[postgres]'") from exc
    return postgres_connect


class ConnectionPool:
    """At most `pool_max` connections, made when they are needed. Used on one loop; opened by the first `take`."""

    def __init__(self, options: PostgresOptions, clock: Clock) -> None:
        self._options = options
        self._clock = clock
        self._slots = Places(options.pool_max, clock)
        self._pool: Pool | None = None
        self._opening: asyncio.Task[None] | None = None
        self._cleaning: set[asyncio.Task[None]] = set()
        self._closed = False
        #: Connections that were good at this time or before have to prove it before they are used.
        self._doubted_ns = -1
        #: Those that were good at this time or before are cut.
        self._dead_ns = -1

    @property
    def free_slots(self) -> int:
        """How many more connections can be taken now. All of them when nothing runs: else one has leaked."""
        return self._slots.free

    @property
    def size(self) -> int:
        """Connections that are open."""
        return 0 if self._pool is None else int(self._pool.get_size())

    # --- taking

    async def take(self) -> Any:
        """A connection that can be trusted; `put_back` or `give_up` it.

        Raises PoolExhausted when none is free within the acquire timeout, and other errors.Unavailable.
        """
        await self._take_slot()
        try:
            pool = await self._opened()
            while not await self._is_good(con := await pool.acquire()):
                _cut(con)
        except BaseException:
            self._slots.give_back()
            raise
        return con

    async def _take_slot(self) -> None:
        if self._closed:
            raise Unavailable("postgres: the pool is closed, because the worker is stopping")
        advice = "Raise postgres.pool_max, lower workers.async_slots, or do less inside of transactions"
        seconds = self._options.acquire_timeout_ms / 1000
        await self._slots.take(seconds, lambda: str(parse_address(self._options.dsn)), advice)

    async def _is_good(self, con: Any) -> bool:
        """Whether it was good a moment ago, or answers now. A dead one casts doubt on all that are as old."""
        now_ns = self._clock.monotonic_ns()
        if not con.good_at_ns:  # it was made just now
            return True
        if con.good_at_ns <= self._dead_ns or con.is_hung_up():
            return False
        if con.good_at_ns > self._doubted_ns and now_ns - con.good_at_ns < _TRUSTED_SECONDS * 1e9:
            return True
        try:
            await con.execute("SELECT 1", timeout=_PING_SECONDS)
        except Exception:
            self._dead_ns = now_ns
            return False
        except BaseException:
            _cut(con)
            raise
        return True

    # --- giving back

    async def put_back(self, con: Any) -> None:
        """Its work is done, and well. Waits a moment, no longer, for it to be ready for the next one."""
        if is_gone(con):
            self._drop(con)
            return
        con.good(self._clock.monotonic_ns())
        cleaning = self._clean(self._reset(con))
        await asyncio.wait({cleaning}, timeout=_GRACE_SECONDS)

    def give_up(self, con: Any, why: BaseException) -> None:
        """Its work has failed. Returns at once; if that leaves it in doubt, it is cut in the background."""
        if is_gone(con):
            self._drop(con)
        elif leaves_connection_whole(why):
            con.good(self._clock.monotonic_ns())
            self._clean(self._reset(con))
        else:
            if isinstance(why, Exception):
                self._doubted_ns = self._clock.monotonic_ns()
            self._clean(self._cancel(con))

    def _drop(self, con: Any) -> None:
        """It is lost already; the others may be, too."""
        self._doubted_ns = self._clock.monotonic_ns()
        _cut(con)
        self._slots.give_back()

    def _clean(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._cleaning.add(task)
        task.add_done_callback(self._cleaned)
        return task

    def _cleaned(self, task: asyncio.Task[None]) -> None:
        self._cleaning.discard(task)
        self._slots.give_back()

    async def _reset(self, con: Any) -> None:
        """asyncpg's own way back: rolls back what is open, resets the session."""
        assert self._pool is not None
        try:
            # asyncpg shields what it does here, so its own limit has to come first.
            async with asyncio.timeout(2 * _CLEANING_SECONDS):
                await self._pool.release(con, timeout=_CLEANING_SECONDS)
        except Exception:
            self._doubted_ns = self._clock.monotonic_ns()
        finally:
            _cut(con)  # does nothing once it is back

    async def _cancel(self, con: Any) -> None:
        """Ask the server to stop what runs on it, then end it: a statement must not go on for nobody."""
        try:
            async with asyncio.timeout(2 * _CLEANING_SECONDS):
                await con.close(timeout=_CLEANING_SECONDS)
        except Exception:  # noqa: S110  # the server does not answer: it is cut
            pass
        finally:
            _cut(con)

    # --- opening and closing

    async def _opened(self) -> Pool:
        if self._pool is None:
            if self._opening is None:
                self._opening = asyncio.create_task(self._open())
                self._opening.add_done_callback(self._open_done)
            # Whoever asked first may be cancelled; the others still wait for it.
            await asyncio.shield(self._opening)
        if self._pool is None or self._closed:
            raise Unavailable("postgres: the pool is closed, because the worker is stopping")
        return self._pool

    def _open_done(self, opening: asyncio.Task[None]) -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # whoever waited has it; if nobody did, it must not be logged as forgotten

    async def _open(self) -> None:
        postgres, options = driver(), self._options

        async def connect(*_args: Any, **_kwargs: Any) -> Any:
            limit = patience(options.connect_timeout_ms / 1000, self._clock.monotonic_ns())
            return await postgres.connect(options, limit)

        self._pool = await postgres.asyncpg.create_pool(
            min_size=options.pool_min,
            max_size=options.pool_max,
            max_inactive_connection_lifetime=options.idle_timeout_ms / 1000,
            connection_class=postgres.Connection,
            connect=connect,
        )

    async def close(self) -> None:
        """Close all connections; those in use are waited for a little, then cut. Ends within some seconds."""
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
        pool = self._pool
        if pool is not None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(_CLOSING_SECONDS):
                    await pool.close()
            with contextlib.suppress(Exception):
                pool.terminate()
        if self._cleaning:
            await asyncio.wait(set(self._cleaning), timeout=_CLEANING_SECONDS)
        for task in self._cleaning:
            task.cancel()


def is_gone(con: Any) -> bool:
    """Whether the connection is closed; asyncpg takes a lost one back into its pool by itself, then raises."""
    try:
        return bool(con.is_closed())
    except Exception:
        return True


def _cut(con: Any) -> None:
    """End it without a word. Does nothing for one that is back in the pool."""
    with contextlib.suppress(Exception):
        con.terminate()
