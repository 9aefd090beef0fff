"""Making a connection to PostgreSQL, and saying what is wrong when there is none. Imports asyncpg."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import socket
import ssl
from asyncio import FIRST_COMPLETED
from pathlib import Path
from typing import Any, Final

import asyncpg

from perdure.adapters.call import Patience
from perdure.adapters.postgres_address import Address, parse_address
from perdure.adapters.postgres_errors import sqlstate
from perdure.adapters.postgres_sniff import Listener, who_listens
from perdure.errors import (
    CertificateRefused,
    NoAnswer,
    TlsNotOffered,
    TlsRequired,
    Unavailable,
    UnknownDatabase,
    UnknownHost,
    WrongCredentials,
    WrongProtocol,
)
from perdure.redact import scrub
from perdure.wire.dependencies import PostgresOptions

#: While the server is away, asyncpg logs a traceback each time it cannot restore `pool_min`; calls tell it better.
logging.getLogger("asyncpg.pool").addFilter(lambda record: "pool connection floor" not in str(record.msg))

#: When a connection is not there after so many seconds, somebody looks who it is that listens there.
_SLOW_SECONDS: Final = 1.0
#: Unanswered keepalive probes until the kernel gives a connection up.
_KEEPALIVE_PROBES: Final = 3
APPLICATION: Final = "perdure"


class Connection(asyncpg.Connection):  # type: ignore[misc]  # asyncpg has no types
    """A connection that knows when it was last known to be good (nanoseconds of the clock, 0: not yet used)."""

    good_at_ns = 0

    def keep_alive(self, idle_ms: int) -> None:
        """Have the kernel ask the other side after so long a silence, and give up unanswered data after twice that."""
        sock = self._transport.get_extra_info("socket")
        if sock is None or sock.family not in (socket.AF_INET, socket.AF_INET6):
            return
        idle_seconds = max(1, round(idle_ms / 1000))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle_seconds)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle_seconds // _KEEPALIVE_PROBES))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 2 * idle_ms)

    def is_hung_up(self) -> bool:
        """Whether the other side has closed it, though the loop has not come to see that yet."""
        sock = self._transport.get_extra_info("socket")
        poll = select.poll()
        poll.register(sock.fileno(), select.POLLRDHUP)  # hang-up and error are always told
        return bool(poll.poll(0))

    def good(self, now_ns: int) -> None:
        """It has just answered."""
        self.good_at_ns = now_ns


async def connect(options: PostgresOptions, patience: Patience | None = None) -> Connection:
    """A new connection. The password is read from its file each time. Raises errors.Unavailable and its subclasses.

    `patience`: how long to try, instead of the options' connect_timeout. CallTooLong when that was in a hurry.
    """
    address = parse_address(options.dsn)
    patience = patience or Patience(options.connect_timeout_ms / 1000)
    password = await asyncio.to_thread(_read_password, options, address) if options.password_file else None
    making = asyncio.ensure_future(_make(options, password, patience.seconds))
    try:
        con = await _watched(making, address, patience)
    except BaseException as exc:
        making.add_done_callback(_end_unwanted)
        making.cancel()
        if isinstance(exc, WrongProtocol) or not isinstance(exc, Exception):
            raise
        listener = await who_listens(address.host, address.port) if _is_puzzling(exc, address) else None
        error = diagnose(exc, address, options, listener, patience)
        raise (patience.blame(error) if isinstance(exc, TimeoutError) else error) from exc
    if options.keepalive_idle_ms:
        with contextlib.suppress(OSError):
            con.keep_alive(options.keepalive_idle_ms)
    return con


async def _watched(making: asyncio.Future[Connection], address: Address, patience: Patience) -> Connection:
    """Await it; when it takes long, see whether it is PostgreSQL at all. Some servers wait in silence for more."""
    done, _ = await asyncio.wait({making}, timeout=min(_SLOW_SECONDS, patience.seconds / 2))
    if not done and not address.is_local:
        looking = asyncio.ensure_future(who_listens(address.host, address.port))
        try:
            # When the call ends soon, its end does not wait for the look.
            awaited: set[asyncio.Future[Any]] = {looking, making} if patience.is_short else {looking}
            await asyncio.wait(awaited, return_when=FIRST_COMPLETED)
            listener = looking.result() if looking.done() else None
        finally:
            looking.cancel()
        if listener is not None and listener.kind == "other" and not (making.done() and making.exception() is None):
            raise _wrong_protocol(address, listener)
    return await making


async def _make(options: PostgresOptions, password: str | None, seconds: float) -> Connection:
    con = await asyncpg.connect(
        options.dsn,
        password=password,
        timeout=seconds,
        command_timeout=options.command_timeout_ms / 1000,
        statement_cache_size=options.statement_cache,
        server_settings={"application_name": APPLICATION},
        connection_class=Connection,
    )
    assert isinstance(con, Connection)
    return con


def _end_unwanted(making: asyncio.Future[Connection]) -> None:
    """Nobody waits for it any more; if it was made all the same, it must not stay open."""
    if not making.cancelled() and making.exception() is None:
        making.result().terminate()


def _read_password(options: PostgresOptions, address: Address) -> str:
    try:
        return Path(options.password_file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as exc:
        reason = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise WrongCredentials(
            f"{address}: the file with the password, {options.password_file}, cannot be read: {reason}."
            " Look at postgres.password_file"
        ) from exc


# --- what is wrong


def _is_puzzling(exc: Exception, address: Address) -> bool:
    """Whether it helps to ask who listens there: the connection was taken, and then came to a strange end."""
    if address.is_local or isinstance(exc, (TimeoutError, ConnectionRefusedError, socket.gaierror, ssl.SSLError)):
        return False
    if isinstance(exc, (ConnectionError, asyncpg.InternalClientError, asyncpg.InterfaceError)):
        return not isinstance(exc, asyncpg.ClientConfigurationError)
    return isinstance(exc, asyncpg.PostgresConnectionError)


def diagnose(
    exc: Exception, address: Address, options: PostgresOptions, listener: Listener | None, patience: Patience
) -> Unavailable:
    """The same failure in words that say what to do. `listener`: who was found there, if somebody looked."""
    if isinstance(exc, Unavailable):
        return exc
    if listener is not None and listener.kind == "other":
        return _wrong_protocol(address, listener)
    if isinstance(exc, ssl.SSLError):
        return _bad_tls(exc, address)
    if isinstance(exc, (asyncpg.ClientConfigurationError, ValueError)):
        return _bad_dsn(exc, address)
    if isinstance(exc, (FileNotFoundError, PermissionError)) and not address.is_local:
        return CertificateRefused(
            f"{address}: a file for TLS cannot be read: {exc.strerror}. Look at sslrootcert, sslcert and sslkey in"
            " postgres.dsn, and at ~/.postgresql"
        )
    if isinstance(exc, asyncpg.PostgresError) and not isinstance(exc, asyncpg.PostgresConnectionError):
        return _refused_by_server(exc, address, options)
    return _network(exc, address, patience, listener)


def _wrong_protocol(address: Address, listener: Listener) -> WrongProtocol:
    return WrongProtocol(f"{address}: it is {listener.name} that listens there. Look at host and port in postgres.dsn")


def _bad_tls(exc: ssl.SSLError, address: Address) -> Unavailable:
    reason = getattr(exc, "verify_message", "") or exc.reason or str(exc)
    return CertificateRefused(
        f"{address}: TLS failed: {reason}. Look at sslmode, sslrootcert and sslcert in postgres.dsn, and at the"
        " server's certificate"
    )


def _bad_dsn(exc: Exception, address: Address) -> Unavailable:
    text = scrub(_first_line(exc))
    if "certificate" in text:
        return CertificateRefused(f"{address}: {text}. Look at sslrootcert and sslcert in postgres.dsn")
    return Unavailable(f"{address}: postgres.dsn cannot be used: {text}")


def _refused_by_server(exc: asyncpg.PostgresError, address: Address, options: PostgresOptions) -> Unavailable:
    state, text = sqlstate(exc), _first_line(exc)
    if state.startswith("28"):
        return _bad_login(exc, address, options)
    if state == "3D000":
        return UnknownDatabase(
            f"{address}: the server has no database {address.database!r}. Create it, or look at postgres.dsn"
        )
    if state == "42501":
        return WrongCredentials(f"{address}: {text}. GRANT CONNECT to this user, or look at the user in postgres.dsn")
    if state == "53300":
        return Unavailable(
            f"{address}: {text}. Lower postgres.pool_max or workers.count, or raise the server's max_connections"
        )
    if state in ("57P01", "57P02", "57P03"):
        return Unavailable(f"{address}: {text}. It is starting or stopping; nothing need be done if that passes")
    return Unavailable(f"{address}: {text}")


def _bad_login(exc: asyncpg.PostgresError, address: Address, options: PostgresOptions) -> Unavailable:
    """Of two tries, with TLS and without, the one that got as far as the password says more."""
    first = exc.__cause__
    if sqlstate(exc) != "28P01" and first is not None and sqlstate(first) == "28P01":
        exc = first
    text = _first_line(exc)
    if "no encryption" in text or "SSL off" in text:
        return TlsRequired(
            f"{address}: the server takes no connection without TLS from here: {text}."
            " Set sslmode=require, or better sslmode=verify-full, in postgres.dsn"
        )
    if "pg_hba.conf" in text:
        return WrongCredentials(f"{address}: {text}. Let it in there, or look at user and database in postgres.dsn")
    where = f"the password in {options.password_file} (postgres.password_file)" if options.password_file else ""
    return WrongCredentials(f"{address}: {text}. Look at the user in postgres.dsn and at {where or 'its password'}")


def _network(exc: Exception, address: Address, patience: Patience, listener: Listener | None) -> Unavailable:
    kind = listener.kind if listener is not None else ""
    if isinstance(exc, socket.gaierror):
        return UnknownHost(f"{address}: the host's name cannot be resolved. Look at the host in postgres.dsn")
    if isinstance(exc, TimeoutError):
        limit = "a call's time" if patience.is_short else "postgres.connect_timeout"
        return NoAnswer(
            f"{address}: no answer within {patience.seconds:.3g} s ({limit}). Is the server well, and no firewall"
            " between? Look at host and port in postgres.dsn"
        )
    if "rejected SSL upgrade" in str(exc) and kind in ("plain", ""):
        return TlsNotOffered(
            f"{address}: TLS is asked for (sslmode={address.tls} in postgres.dsn), and the server does not offer it."
            " Turn ssl on in its postgresql.conf, or change sslmode"
        )
    if kind == "closed":
        return NoAnswer(
            f"{address}: the connection is taken and closed at once. Another kind of server, or a proxy with nothing"
            " behind it? Look at host and port in postgres.dsn"
        )
    if kind in ("tls", "plain"):
        return NoAnswer(f"{address}: the connection was lost while it was made: {_first_line(exc)}")
    return NoAnswer(f"{address}: {_reason(exc)}. Is the server running? Look at host and port in postgres.dsn")


def _reason(exc: Exception) -> str:
    if isinstance(exc, ConnectionRefusedError) or "Connect call failed" in str(exc):
        return "the connection was refused"
    if isinstance(exc, FileNotFoundError):
        return "there is no such socket"
    if isinstance(exc, OSError) and exc.strerror:
        return exc.strerror
    return scrub(_first_line(exc)) or type(exc).__name__


def _first_line(exc: BaseException) -> str:
    return (str(exc).splitlines() or [""])[0].rstrip(".")
