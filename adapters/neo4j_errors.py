"""What the errors of Neo4j's driver mean, and what was wrong when no connection came about."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Final

from neo4j import exceptions as its

from perdure.adapters.neo4j_driver import address_of
from perdure.adapters.verdict import Verdict, is_transport_broken
from perdure.errors import (
    CertificateRefused,
    ConfigError,
    NoAnswer,
    PoolExhausted,
    TlsNotOffered,
    TlsRequired,
    Unavailable,
    UnknownDatabase,
    UnknownHost,
    WrongCredentials,
    WrongProtocol,
)
from perdure.wire.dependencies import Neo4jOptions

#: Seconds for a look at what kind of server it is, after a connection failed in a way that may mean several things.
LOOK_SECONDS: Final = 1.0

#: Of our own errors these pass by themselves; the other Unavailable ones need somebody to change something.
_PASSING: Final = (NoAnswer, UnknownHost)

#: Codes of client errors that are the state of the server, and pass.
_CLIENT_PASSING: Final = frozenset(
    {
        "Neo.ClientError.Cluster.NotALeader",
        "Neo.ClientError.General.ForbiddenOnReadOnlyDatabase",
        "Neo.ClientError.Security.AuthorizationExpired",
        # The server ended the transaction: it is stopping, or the transaction's time was over. It is rolled back.
        "Neo.ClientError.Transaction.Terminated",
        "Neo.ClientError.Transaction.LockClientStopped",
        "Neo.ClientError.Transaction.TransactionTimedOut",
        "Neo.ClientError.Transaction.TransactionTimedOutClientConfiguration",
    }
)
_BOLT_HELLO: Final = bytes.fromhex("6060b017 00020404 00000104 00000004 00000003".replace(" ", ""))
_TLS_RECORDS: Final = (b"\x15", b"\x16")  # alert, handshake


class MarkContended(Exception):
    """Another delivery writes the same mark at this moment."""


def classify(exc: BaseException) -> Verdict:
    """What an exception of the driver, or one of ours, says about the server. Only what is listed is UNAVAILABLE."""
    match exc:
        case MarkContended():
            return Verdict.CONTENDED
        case PoolExhausted():
            return Verdict.BUSY
        case Unavailable():
            return Verdict.UNAVAILABLE if isinstance(exc, _PASSING) else Verdict.REFUSED
        case ConfigError() | its.ConfigurationError():
            return Verdict.REFUSED
        case its.Neo4jError():
            return _classify_answer(exc)
        case its.ServiceUnavailable() | its.SessionExpired() | its.ConnectionPoolError():
            return Verdict.UNAVAILABLE
        case its.TransactionError() if exc.__cause__ is not None:
            return classify(exc.__cause__)  # "Transaction failed", by this
        case ConnectionError() | TimeoutError():
            return Verdict.UNAVAILABLE
    return Verdict.UNAVAILABLE if is_transport_broken(exc) else Verdict.CALLER


def _classify_answer(exc: its.Neo4jError) -> Verdict:
    """The server has answered, with an error."""
    code = exc.code or ""
    if isinstance(exc, (its.DatabaseUnavailable, its.NotALeader, its.ForbiddenOnReadOnlyDatabase)):
        return Verdict.UNAVAILABLE
    if isinstance(exc, its.TransientError):
        # Transaction: deadlock, lock, outdated snapshot … General, Request, Network: the server has too much to do.
        return Verdict.CONTENDED if ".Transaction." in code else Verdict.UNAVAILABLE
    if isinstance(exc, its.AuthError):
        # The driver says "retryable" when the password file has another password by now.
        return Verdict.UNAVAILABLE if exc.is_retryable() else Verdict.REFUSED
    if code in _CLIENT_PASSING:
        return Verdict.UNAVAILABLE
    if code.startswith("Neo.ClientError.Database.") and code.endswith(("DatabaseNotFound", "DatabaseUnavailable")):
        return Verdict.REFUSED if code.endswith("NotFound") else Verdict.UNAVAILABLE
    return Verdict.CALLER


def is_known_fate(exc: BaseException) -> bool:
    """Whether it is certain that nothing was written: False when the connection was lost during the commit."""
    return not isinstance(exc, its.IncompleteCommit)


def is_conflict(exc: BaseException) -> bool:
    """Whether somebody else wrote the same at the same time."""
    return isinstance(exc, its.ConstraintError) or classify(exc) is Verdict.CONTENDED


def is_being_made(exc: BaseException) -> bool:
    """Whether an index or constraint cannot be made because somebody else makes it at this moment, or has made it."""
    code = exc.code or "" if isinstance(exc, its.Neo4jError) else ""
    return code.startswith("Neo.ClientError.Schema.") and code.endswith(("AlreadyExists", "AlreadyExistsException"))


# --- what is wrong


async def diagnose(exc: Exception, options: Neo4jOptions, pool_is_full: bool) -> Unavailable | None:
    """Why there is no connection, with the address and the setting to look at; None: `exc` says all there is.

    May look at the server for up to LOOK_SECONDS. No message has a password in it.
    """
    host, port, address = address_of(options.uri)
    if isinstance(exc, its.ConnectionAcquisitionTimeoutError):
        seconds = options.acquire_timeout_ms / 1000
        if pool_is_full:
            return PoolExhausted(
                f"neo4j: all {options.pool_max} connections to {address} are in use, and none came back within"
                f" {seconds:g} s; look at neo4j.pool_max"
            )
        return NoAnswer(f"neo4j: {address} gave no connection within {seconds:g} s; does the server hang?")
    if isinstance(exc, its.AuthError):
        return _diagnose_auth(exc, options, address)
    if isinstance(exc, its.UnsupportedServerProduct):
        return WrongProtocol(f"neo4j: {address} is not a Bolt server, or too old a one; look at neo4j.uri")
    if isinstance(exc, its.ClientError) and (exc.code or "").endswith(".Database.DatabaseNotFound"):
        return UnknownDatabase(
            f"neo4j: the server at {address} has no database {options.database!r}; look at neo4j.database"
        )
    if isinstance(exc, its.ServiceUnavailable) and not _was_connected(exc):
        return await _diagnose_connecting(exc, host, port, address)
    return None


def _diagnose_auth(exc: its.AuthError, options: Neo4jOptions, address: str) -> Unavailable | None:
    if exc.is_retryable():
        return None  # the file has another password by now
    advice = "look at neo4j.user and neo4j.password_file" if options.password_file else "set neo4j.password_file"
    if (exc.code or "").endswith("AuthenticationRateLimit"):
        advice = f"it refuses all passwords for a while, after too many wrong ones; {advice}"
    return WrongCredentials(f"neo4j: {address} refused user {options.user!r} or the password; {advice}")


def _was_connected(exc: its.ServiceUnavailable) -> bool:
    """Whether an open connection broke: then nothing is wrong with the settings."""
    return "defunct connection" in str(exc) or "write data to connection" in str(exc)


async def _diagnose_connecting(exc: Exception, host: str, port: int, address: str) -> Unavailable | None:
    chain = list(_chain(exc))
    texts = " ".join(str(one) for one in chain)
    for one in chain:
        if isinstance(one, socket.gaierror):
            return UnknownHost(f"neo4j: the host {host!r} cannot be resolved ({one.strerror}); look at neo4j.uri")
        if isinstance(one, ssl.SSLCertVerificationError):
            return CertificateRefused(
                f"neo4j: the certificate of {address} is not trusted ({one.verify_message}); give the server one that"
                " this machine trusts, or use bolt+ssc:// or neo4j+ssc:// in neo4j.uri"
            )
        if isinstance(one, ConnectionRefusedError):
            return NoAnswer(f"neo4j: nobody listens on {address}; is the server running? else look at neo4j.uri")
    if "looks like HTTP" in texts:
        return WrongProtocol(f"neo4j: {address} is an HTTP server; Bolt is usually on port 7687; look at neo4j.uri")
    if any(type(one).__name__ == "BoltSecurityError" for one in chain):
        return await _diagnose_tls(host, port, address)
    if "incomplete handshake" in texts:
        if await _first_byte(host, port, _tls_hello(host)) in _TLS_RECORDS:
            return TlsRequired(f"neo4j: {address} takes TLS only; use bolt+s:// or neo4j+s:// in neo4j.uri")
        return NoAnswer(
            f"neo4j: {address} closes the connection before it says anything: the server is starting or stopping, or"
            " is none for Bolt; look at neo4j.uri"
        )
    for one in chain:
        if isinstance(one, OSError) and one.strerror:
            return NoAnswer(f"neo4j: {address} cannot be reached ({one.strerror}); look at neo4j.uri")
    if any(isinstance(one, TimeoutError) for one in chain) or "Timed out" in texts:
        return NoAnswer(f"neo4j: {address} is silent; look at neo4j.uri and at the network")
    return None


async def _diagnose_tls(host: str, port: int, address: str) -> Unavailable:
    """TLS was asked for, and the handshake failed."""
    answer = await _first_byte(host, port, _BOLT_HELLO)
    if answer == b"\x00":
        return TlsNotOffered(
            f"neo4j: {address} speaks Bolt without TLS; use bolt:// or neo4j:// in neo4j.uri, or turn TLS on there"
        )
    if answer in _TLS_RECORDS:
        return CertificateRefused(
            f"neo4j: no TLS connection to {address} came about; look at the server's TLS settings"
        )
    if answer:
        return WrongProtocol(f"neo4j: {address} speaks neither TLS nor Bolt; look at neo4j.uri")
    return NoAnswer(f"neo4j: {address} did not answer a TLS handshake; look at neo4j.uri and at the network")


def _chain(exc: BaseException) -> Iterator[BaseException]:
    """The exception, its causes, and the members of groups among them."""
    yield exc
    if isinstance(exc, BaseExceptionGroup):
        for member in exc.exceptions:
            yield from _chain(member)
    cause = exc.__cause__ or (None if exc.__suppress_context__ else exc.__context__)
    if cause is not None:
        yield from _chain(cause)


async def _first_byte(host: str, port: int, hello: bytes) -> bytes:
    """What the server answers with; b"" when it says nothing."""
    with contextlib.suppress(OSError):
        async with asyncio.timeout(LOOK_SECONDS):
            reader, writer = await asyncio.open_connection(host, port)
            try:
                writer.write(hello)
                return await reader.read(1)
            finally:
                writer.transport.abort()
    return b""


def _tls_hello(host: str) -> bytes:
    """The first message of a TLS client."""
    context = ssl.create_default_context()
    received, sent = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(received, sent, server_hostname=host).do_handshake()
    return sent.read()
