"""What goes wrong with PostgreSQL, and what it means for the guard.

Errors are known by their SQLSTATE and the driver's classes by their names, so that nothing is imported to ask.
"""

from __future__ import annotations

import errno
import socket
from typing import Final

from perdure.adapters.verdict import Verdict, is_transport_broken
from perdure.errors import (
    CertificateRefused,
    PoolExhausted,
    TlsNotOffered,
    TlsRequired,
    Unavailable,
    UnknownDatabase,
    WrongCredentials,
    WrongProtocol,
)

#: What does not pass by itself.
REFUSALS: Final = (WrongCredentials, UnknownDatabase, WrongProtocol, TlsNotOffered, TlsRequired, CertificateRefused)

#: Whole classes of SQLSTATE: connection lost or not made, out of resources, trouble outside of the server.
_UNAVAILABLE_CLASSES: Final = frozenset({"08", "53", "58"})
#: Shut down by the administrator, crashed, starting or stopping, ended for having been idle.
_UNAVAILABLE_STATES: Final = frozenset({"57P01", "57P02", "57P03", "57P05"})
#: Serialization failure, deadlock, lock not available: somebody else was first.
_CONTENDED_STATES: Final = frozenset({"40001", "40P01", "55P03"})
#: User, password, database; the database was dropped under the connection.
_REFUSED_STATES: Final = frozenset({"28000", "28P01", "3D000", "57P04"})

#: The driver got what it cannot read: the connection is broken, whatever the reason.
_BROKEN: Final = frozenset(
    {
        *("asyncpg.exceptions._base.ProtocolError", "asyncpg.exceptions.ProtocolError"),
        # Its own state machine lost track: seen when the server ends a session in the middle of a statement.
        *("asyncpg.exceptions._base.InternalClientError", "asyncpg.exceptions.InternalClientError"),
    }
)

_NETWORK_ERRNOS: Final = frozenset(
    {
        *(errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ETIMEDOUT),
        *(errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ENETUNREACH, errno.ENETDOWN, errno.ENETRESET),
    }
)

#: On an exception of a statement: it had been sent, and may have had its effect.
_SENT: Final = "perdure_sent"


def classify(exc: BaseException) -> Verdict:
    """What an exception from asyncpg, or from the making of a connection, says about the server."""
    if isinstance(exc, REFUSALS):
        return Verdict.REFUSED
    if isinstance(exc, PoolExhausted):
        return Verdict.BUSY
    if isinstance(exc, (Unavailable, ConnectionError, TimeoutError, socket.gaierror)):
        return Verdict.UNAVAILABLE
    state = sqlstate(exc)
    if state:
        return _of_state(state)
    if isinstance(exc, OSError) and exc.errno in _NETWORK_ERRNOS:
        return Verdict.UNAVAILABLE
    if any(f"{cls.__module__}.{cls.__qualname__}" in _BROKEN for cls in type(exc).__mro__) or is_transport_broken(exc):
        return Verdict.UNAVAILABLE
    return Verdict.CALLER


def _of_state(state: str) -> Verdict:
    if state in _CONTENDED_STATES:
        return Verdict.CONTENDED
    if state in _REFUSED_STATES:
        return Verdict.REFUSED
    if state in _UNAVAILABLE_STATES or state[:2] in _UNAVAILABLE_CLASSES:
        return Verdict.UNAVAILABLE
    return Verdict.CALLER


def sqlstate(exc: BaseException) -> str:
    """The five letters of a PostgreSQL error; "" if it is none."""
    state = getattr(exc, "sqlstate", None)
    return state if isinstance(state, str) else ""


def leaves_connection_whole(exc: BaseException) -> bool:
    """Whether the connection can be used after this: the server has answered, or the driver refused to send.

    Everything else leaves it in doubt, and it is given up.
    """
    if sqlstate(exc):
        return classify(exc) in (Verdict.CALLER, Verdict.CONTENDED)
    names = {f"{cls.__module__}.{cls.__qualname__}" for cls in type(exc).__mro__}
    return bool(names & {"asyncpg.exceptions._base.InterfaceError", "asyncpg.exceptions.InterfaceError"})


def mark_sent(exc: BaseException) -> None:
    """Note that the statement had been sent when it failed, unless the server has said that nothing came of it."""
    if isinstance(exc, Exception) and classify(exc) is not Verdict.CONTENDED:
        try:
            setattr(exc, _SENT, True)
        except Exception:  # noqa: S110  # it takes no attributes; asyncpg's and Python's own do
            pass


def was_not_sent(exc: BaseException) -> bool:
    """Whether the statement cannot have had an effect, so that it may be sent again."""
    return not getattr(exc, _SENT, False)
