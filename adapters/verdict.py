"""What an exception says about the service that was called. Each adapter has its own list; this is the plain one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from traceback import walk_tb
from typing import Final

from perdure.classify import class_names, is_passing


class Verdict(Enum):
    """What the guard does with a failed call."""

    #: Network, server starting or stopping, timeout. Repeated within the call; counts against the breaker.
    UNAVAILABLE = "unavailable"
    #: Wrong credentials, unknown database, TLS, wrong protocol. Not repeated; counts against the breaker.
    REFUSED = "refused"
    #: Our own pool is used up, the server was not even asked. Not repeated within the call; not counted at all.
    BUSY = "busy"
    #: Serialization, deadlock, a lock that is held: the server is alive. Repeated within the call; counts as well done.
    CONTENDED = "contended"
    #: The caller's own mistake (syntax, constraint, bad input): proof of life. Not repeated; counts as well done.
    CALLER = "caller"


Classify = Callable[[BaseException], Verdict]

#: Verdicts that count against the breaker.
OUTAGES: Final = frozenset({Verdict.UNAVAILABLE, Verdict.REFUSED})
#: Verdicts after which the same call may be made again.
REPEATABLE: Final = frozenset({Verdict.UNAVAILABLE, Verdict.CONTENDED})

#: What nobody but a person can mend. A certificate that is not trusted; a password.
_REFUSED_NAMES: Final = frozenset(
    {
        "ssl.SSLCertVerificationError",
        "ssl.CertificateError",
        "aiohttp.client_exceptions.ClientConnectorCertificateError",
        "redis.exceptions.AuthenticationError",
        "redis.exceptions.AuthorizationError",
    }
)


def classify_plain(exc: BaseException) -> Verdict:
    """The verdict for a service without an adapter: only what is known to pass is the service's fault.

    Exceptions of many clients are known, by the names of their classes. A group is the service's fault when all of its
    members are.
    """
    if isinstance(exc, BaseExceptionGroup):
        return _common(exc, classify_plain)
    if is_passing(exc):
        return Verdict.REFUSED if any(_is_refused(one) for one in _layers(exc)) else Verdict.UNAVAILABLE
    if _is_refused(exc):
        return Verdict.REFUSED
    return Verdict.UNAVAILABLE if is_transport_broken(exc) else Verdict.CALLER


def adding(classify: Classify, unavailable: tuple[type[Exception], ...]) -> Classify:
    """The same list of verdicts, with these classes on it besides."""

    def decide(exc: BaseException) -> Verdict:
        if isinstance(exc, unavailable):
            return Verdict.UNAVAILABLE
        return _common(exc, decide) if isinstance(exc, BaseExceptionGroup) else classify(exc)

    return decide


def _common(group: BaseExceptionGroup[BaseException], classify: Classify) -> Verdict:
    verdicts = {classify(member) for member in group.exceptions}
    if verdicts <= {Verdict.UNAVAILABLE}:
        return Verdict.UNAVAILABLE
    return Verdict.REFUSED if verdicts <= OUTAGES else Verdict.CALLER


def _is_refused(exc: BaseException) -> bool:
    return any(name in _REFUSED_NAMES for name in class_names(exc))


def _layers(exc: BaseException) -> Iterator[BaseException]:
    """A client's exception, and those of the layers below that it wraps: as cause, context, reason or argument."""
    seen: set[int] = set()
    waiting = [exc]
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            wrapped = (one.__cause__, one.__context__, getattr(one, "reason", None), *one.args[:2])
            waiting += [layer for layer in wrapped if isinstance(layer, BaseException)]


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
