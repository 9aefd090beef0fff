"""What an exception says about the service that was called. Each adapter has its own list; this is the plain one."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from traceback import walk_tb
from typing import Final

from perdure.classify import is_passing


class Verdict(Enum):
    """What the guard does with a failed call."""

    #: Network, server starting or stopping, pool, timeout. Repeated within the call; counts against the breaker.
    UNAVAILABLE = "unavailable"
    #: Wrong credentials, unknown database, TLS, wrong protocol. Not repeated; counts against the breaker.
    REFUSED = "refused"
    #: Our own pool is used up, the server was not even asked. Repeated within the call; not counted at all.
    BUSY = "busy"
    #: Serialization, deadlock, a lock that is held: the server is alive. Repeated within the call; counts as well done.
    CONTENDED = "contended"
    #: The caller's own mistake (syntax, constraint, bad input): proof of life. Not repeated; counts as well done.
    CALLER = "caller"


Classify = Callable[[BaseException], Verdict]

#: Verdicts that count against the breaker.
OUTAGES: Final = frozenset({Verdict.UNAVAILABLE, Verdict.REFUSED})
#: Verdicts after which the same call may be made again.
REPEATABLE: Final = frozenset({Verdict.UNAVAILABLE, Verdict.BUSY, Verdict.CONTENDED})

#: Answers of HTTP servers that mean "not now": too many requests, bad gateway, unavailable, gateway timeout.
_PASSING_STATUS: Final = frozenset({429, 502, 503, 504})


def classify_plain(exc: BaseException) -> Verdict:
    """The verdict for a service without an adapter: only what is known to pass is the service's fault.

    A group is the service's fault when all of its members are.
    """
    if isinstance(exc, BaseExceptionGroup):
        plain = all(classify_plain(member) is Verdict.UNAVAILABLE for member in exc.exceptions)
        return Verdict.UNAVAILABLE if plain else Verdict.CALLER
    if is_passing(exc) or _http_status(exc) in _PASSING_STATUS or is_transport_broken(exc):
        return Verdict.UNAVAILABLE
    return Verdict.CALLER


def is_transport_broken(exc: BaseException) -> bool:
    """Whether a driver used a connection that was gone already, and got what is no network error.

    uvloop says RuntimeError ("… the handler is closed") when such a connection is written to; nothing was sent then.
    And httpx finds None in the place of a socket that was reset as soon as it was made: an AttributeError in anyio,
    known by the frame of its transport, httpcore.
    """
    if isinstance(exc, RuntimeError):
        text = str(exc)
        return text.startswith("unable to perform operation on <") and text.endswith("the handler is closed")
    return isinstance(exc, AttributeError) and any(
        frame.f_globals.get("__name__", "").partition(".")[0] == "httpcore" for frame, _ in walk_tb(exc.__traceback__)
    )


def _http_status(exc: BaseException) -> int | None:
    """The status in an httpx.HTTPStatusError; httpx is not imported to ask this."""
    if not any(cls.__module__.partition(".")[0] == "httpx" for cls in type(exc).__mro__):
        return None
    status = getattr(getattr(exc, "response", None), "status_code", None)
    return status if isinstance(status, int) else None
