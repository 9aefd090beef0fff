"""Neo4j's official driver: opened once, with the password read anew, and replaced after a call was cut off.

Two things about the driver (6.4, read and measured) decide the shape of this module:

- It has no read timeout, so only a cancellation ends a call to a server that went silent. The connection of that call
  is closed then, but its idle neighbours in the pool, which are as dead, are handed out one after the other.
- A call that is cancelled during the liveness check of a connection leaves its slot of the pool taken for ever.

So after each call that was cut off the driver *retires*: calls that run on it end there, new ones get a fresh driver
with fresh connections, and the old one is closed when its last call is over. Only the driver's public API is used.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final
from urllib.parse import urlsplit

import neo4j
from neo4j.auth_management import AsyncAuthManager

from perdure.adapters.call import CONNECTING_SHARE
from perdure.adapters.verdict import is_transport_broken
from perdure.errors import CallTooLong, ConfigError, WrongCredentials
from perdure.wire.dependencies import Neo4jOptions

#: Seconds for the farewell of a driver or a session. What does not answer by then is closed without one.
CLOSE_SECONDS: Final = 2.0


class PasswordFile(AsyncAuthManager):
    """The user, and the password out of its file: read again when the file has changed.

    The driver asks each time it hands out a connection. When the server refuses a password and the file has another
    one by now, the failed call may be made again.
    """

    def __init__(self, user: str, path: str) -> None:
        self._user = user
        self._path = path
        self._stamp: tuple[int, ...] = ()
        self._auth = neo4j.Auth("basic", user, "")

    async def get_auth(self) -> neo4j.Auth | None:
        """What to authenticate with; None without a file: the server asks for nothing. Raises WrongCredentials."""
        return self._read() if self._path else None

    async def handle_security_exception(self, auth: Any, error: neo4j.exceptions.Neo4jError) -> bool:
        """Whether the same call may go well now, because the password is another one."""
        return bool(self._path) and self._read() != auth

    def _read(self) -> neo4j.Auth:
        try:
            found = os.stat(self._path)
            stamp = (found.st_mtime_ns, found.st_ctime_ns, found.st_ino, found.st_size)
            if stamp != self._stamp:
                with open(self._path, encoding="utf-8") as file:
                    self._auth = neo4j.Auth("basic", self._user, file.read().rstrip("\r\n"))
                self._stamp = stamp
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
            raise WrongCredentials(
                f"neo4j: the password file {self._path} cannot be read: {reason}; look at neo4j.password_file"
            ) from error
        return self._auth


class _Generation:
    """A driver, and how many calls run on it."""

    __slots__ = ("driver", "retired", "users")

    def __init__(self, driver: neo4j.AsyncDriver) -> None:
        self.driver = driver
        self.users = 0
        self.retired = False


class DriverHolder:
    """The driver of a worker, and those before it that are still in use. For one event loop.

    `call_seconds`: how long a whole call may take, see open_driver.
    """

    def __init__(self, options: Neo4jOptions, call_seconds: float) -> None:
        self._options = options
        self._call_seconds = call_seconds
        self._generation: _Generation | None = None
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def is_full(self) -> bool:
        """Whether other calls hold all connections that its pool may have."""
        return self._generation is not None and self._generation.users >= self._options.pool_max

    @property
    def is_idle(self) -> bool:
        """Whether no call runs, and no old driver is being closed."""
        return not self._closing and (self._generation is None or not self._generation.users)

    @asynccontextmanager
    async def lease(self) -> AsyncIterator[neo4j.AsyncDriver]:
        """The driver, for one call or one session. Raises ConfigError when it cannot be made."""
        if self._generation is None:
            self._generation = _Generation(open_driver(self._options, self._call_seconds))
        generation = self._generation
        generation.users += 1
        try:
            yield generation.driver
        except BaseException as exc:
            if isinstance(exc, CallTooLong) or is_transport_broken(exc) or not isinstance(exc, Exception):
                self._retire(generation)
            raise
        finally:
            generation.users -= 1
            self._bury_if_unused(generation)

    async def close(self) -> None:
        """Close all connections; at most about CLOSE_SECONDS."""
        generation, self._generation = self._generation, None
        if generation is not None:
            self._bury(generation)
        if self._closing:
            await asyncio.wait(self._closing)

    def _retire(self, generation: _Generation) -> None:
        generation.retired = True
        if self._generation is generation:
            self._generation = None

    def _bury_if_unused(self, generation: _Generation) -> None:
        if generation.retired and not generation.users:
            self._bury(generation)

    def _bury(self, generation: _Generation) -> None:
        task = asyncio.get_running_loop().create_task(_close(generation.driver))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)


def open_driver(options: Neo4jOptions, call_seconds: float) -> neo4j.AsyncDriver:
    """A driver, which connects when it is first used. Raises ConfigError when the options make no sense to it.

    Getting a connection is given up a bit before a call of `call_seconds` is: the driver knows what was wrong then,
    which a call that is cut off does not tell.
    """
    most = call_seconds * CONNECTING_SHARE
    # What the driver logs as errors, it raises as well; and that is where it is counted, classified and told.
    logging.getLogger("neo4j").setLevel(logging.CRITICAL)
    try:
        return neo4j.AsyncGraphDatabase.driver(
            options.uri,
            auth=PasswordFile(options.user, options.password_file),
            user_agent="perdure",
            max_connection_pool_size=options.pool_max,
            connection_acquisition_timeout=min(options.acquire_timeout_ms / 1000, most),
            connection_timeout=min(options.connect_timeout_ms / 1000, most),
            max_transaction_retry_time=options.max_retry_time_ms / 1000,
            max_connection_lifetime=options.max_lifetime_ms / 1000,
            liveness_check_timeout=options.liveness_check_ms / 1000,
            keep_alive=True,
            notifications_min_severity="OFF",
            telemetry_disabled=True,
        )
    except (neo4j.exceptions.ConfigurationError, ValueError) as error:
        raise ConfigError(f"neo4j.uri: {address_of(options.uri)[2]} cannot be used: {error}") from error


def address_of(uri: str) -> tuple[str, int, str]:
    """Host, port, and both as text, of a URI. A user and a password in it are left out."""
    try:
        parts = urlsplit(uri)
        host, port = parts.hostname or "localhost", parts.port or 7687
    except ValueError:
        return "localhost", 7687, "the address"
    return host, port, f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def close_session(session: neo4j.AsyncSession) -> None:
    """Close it, with a rollback if need be; without an answer in CLOSE_SECONDS its connection is thrown away.

    A connection of which the state is not known never goes back to the pool.
    """
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await session.close()
    except BaseException as exc:
        await drop_session(session)
        if not isinstance(exc, Exception):
            raise


async def drop_session(session: neo4j.AsyncSession) -> None:
    """Close it at once, and its connection with it: no farewell, nothing that waits for the server."""
    session.cancel()
    await session.close()  # it has no connection any more: this only marks it


async def _close(driver: neo4j.AsyncDriver) -> None:
    try:
        async with asyncio.timeout(CLOSE_SECONDS):
            await driver.close()
    except Exception:  # noqa: S110  # it was thrown away because something is wrong with it
        pass
