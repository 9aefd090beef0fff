"""Is it worth trying again? One place decides, for handlers and for adapters.

For a handler's exception the answer is yes unless something says no: `Permanent`, bad arguments, or the handler's own
`permanent=` list. Programming and data errors (KeyError, ValueError …) are permanent only if they are listed, because a
wrong "permanent" loses work and a wrong "transient" costs a few attempts.

An adapter asks the other way round: it repeats a call at once only for what is known to pass (`is_passing`).
"""

from __future__ import annotations

import socket
from typing import Final

from perdure.errors import InvalidArguments, Permanent, Retry

#: Failures of the network and of waiting that pass by themselves. TimeoutError covers asyncio's and socket's.
PASSING: Final[tuple[type[BaseException], ...]] = (
    ConnectionError,
    TimeoutError,
    BlockingIOError,
    InterruptedError,
    socket.gaierror,
)

#: The same for drivers, by the names of their classes: a driver is not imported to ask this. Base classes count.
PASSING_NAMES: Final[frozenset[str]] = frozenset(
    {
        # network and server not (yet) there
        "asyncpg.exceptions.PostgresConnectionError",
        "asyncpg.exceptions.CannotConnectNowError",
        "asyncpg.exceptions.AdminShutdownError",
        "asyncpg.exceptions.CrashShutdownError",
        "neo4j.exceptions.ServiceUnavailable",
        "neo4j.exceptions.SessionExpired",
        "qdrant_client.http.exceptions.ResponseHandlingException",
        "httpx.TransportError",
        # pools and servers with too many callers
        "asyncpg.exceptions.TooManyConnectionsError",
        "asyncpg.exceptions.InsufficientResourcesError",
        # serialization and deadlocks: somebody else won
        "asyncpg.exceptions.SerializationError",
        "asyncpg.exceptions.DeadlockDetectedError",
        "asyncpg.exceptions.LockNotAvailableError",
        "neo4j.exceptions.TransientError",
    }
)


def is_retryable(
    exc: BaseException,
    permanent: tuple[type[BaseException], ...] = (),
    transient: tuple[type[BaseException], ...] = (),
) -> bool:
    """Whether another attempt at the job may help.

    `Permanent` and `Retry` are the handler's own word. Then come the handler's lists, of which the class nearest to the
    exception's own counts, so that `permanent=(OSError,), transient=(ConnectionError,)` means what it says. A group of
    exceptions is retryable when all of its members are.
    """
    if isinstance(exc, Permanent):
        return False
    if isinstance(exc, Retry):
        return True
    for ancestor in type(exc).__mro__:
        if ancestor in permanent:
            return False
        if ancestor in transient:
            return True
    if isinstance(exc, BaseExceptionGroup):
        return all(is_retryable(member, permanent, transient) for member in exc.exceptions)
    return not isinstance(exc, InvalidArguments)


def is_passing(exc: BaseException) -> bool:
    """Whether it is known to pass by itself: network, pool, serialization, deadlock."""
    if isinstance(exc, PASSING):
        return True
    return any(f"{cls.__module__}.{cls.__qualname__}" in PASSING_NAMES for cls in type(exc).__mro__)
