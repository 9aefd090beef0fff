"""Is it worth trying again? One place decides, for handlers and for adapters.

For a handler's exception the answer is yes unless something says no: `Permanent`, bad arguments, or the handler's own
`permanent=` list. Programming and data errors (KeyError, ValueError …) are permanent only if they are listed, because a
wrong "permanent" loses work and a wrong "transient" costs a few attempts.

An adapter asks the other way round: it repeats a call at once only for what is known to pass (`is_passing`).
"""

from __future__ import annotations

import socket
from typing import Any, Final

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
        # the same for what people call HTTP, caches and mail servers with
        "urllib.error.ContentTooShortError",
        "http.client.BadStatusLine",
        "http.client.IncompleteRead",
        "http.client.LineTooLong",
        "http.client.NotConnected",
        "http.client.UnknownProtocol",
        "urllib3.exceptions.MaxRetryError",
        "urllib3.exceptions.NewConnectionError",
        "urllib3.exceptions.ProtocolError",
        "urllib3.exceptions.SSLError",
        "urllib3.exceptions.TimeoutError",
        "requests.exceptions.ChunkedEncodingError",
        "requests.exceptions.ConnectionError",
        "requests.exceptions.RetryError",
        "requests.exceptions.Timeout",
        "aiohttp.client_exceptions.ClientConnectionError",
        "aiohttp.client_exceptions.ClientPayloadError",
        "aiohttp.client_exceptions.ServerTimeoutError",
        "botocore.exceptions.ConnectionError",
        "botocore.exceptions.HTTPClientError",
        "redis.exceptions.BusyLoadingError",
        "redis.exceptions.ConnectionError",
        "redis.exceptions.TimeoutError",
        "smtplib.SMTPConnectError",
        "smtplib.SMTPServerDisconnected",
        "ssl.SSLError",
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

#: Answers of HTTP servers that mean "not now": too many requests, bad gateway, unavailable, gateway timeout.
PASSING_STATUS: Final = frozenset({429, 502, 503, 504})
#: Exceptions that are an answer of an HTTP server, and where its status stands in them.
_STATUS_PATHS: Final[dict[str, tuple[str, ...]]] = {
    "urllib.error.HTTPError": ("code",),
    "httpx.HTTPStatusError": ("response", "status_code"),
    "requests.exceptions.HTTPError": ("response", "status_code"),
    "aiohttp.client_exceptions.ClientResponseError": ("status",),
    "botocore.exceptions.ClientError": ("response", "ResponseMetadata", "HTTPStatusCode"),
}
#: gRPC's codes that mean the same. They are in no attribute but behind a call: `code()`.
_GRPC_ERROR: Final = "grpc.RpcError"
_GRPC_PASSING: Final = frozenset({"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"})
#: urllib's own word for all that goes wrong. What did is its `reason`: an exception, or, of a bad URL, a text.
_URL_ERROR: Final = "urllib.error.URLError"


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
    names = class_names(exc)
    for name in names:
        if name in _STATUS_PATHS:
            return _look(exc, _STATUS_PATHS[name]) in PASSING_STATUS
        if name == _GRPC_ERROR:
            return _grpc_code(exc) in _GRPC_PASSING
        if name in PASSING_NAMES:
            return True
        if name == _URL_ERROR:
            return isinstance(getattr(exc, "reason", None), OSError)
    return False


def class_names(exc: BaseException) -> list[str]:
    """Its class and the classes that it is derived from, with their modules, the nearest first."""
    return [f"{cls.__module__}.{cls.__qualname__}" for cls in type(exc).__mro__]


def _look(found: Any, path: tuple[str, ...]) -> Any:
    """What lies there, in attributes or in dictionaries; None: nothing does."""
    for name in path:
        found = found.get(name) if isinstance(found, dict) else getattr(found, name, None)
    return found


def _grpc_code(exc: BaseException) -> str | None:
    code = getattr(exc, "code", None)
    return getattr(code(), "name", None) if callable(code) else None
