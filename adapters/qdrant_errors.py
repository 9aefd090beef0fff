"""What goes wrong with Qdrant, and what it means: for the guard (`classify`) and for whoever reads it (`diagnose`).

The driver's exceptions are known by the names of their classes, so that nothing is imported to ask.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from collections.abc import Iterator
from typing import Final, NamedTuple

from perdure.adapters.verdict import Verdict, is_transport_broken
from perdure.errors import (
    CertificateRefused,
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

_RESPONSE: Final = "qdrant_client.http.exceptions.UnexpectedResponse"
_HANDLING: Final = "qdrant_client.http.exceptions.ResponseHandlingException"
_EXHAUSTED: Final = "qdrant_client.common.client_exceptions.ResourceExhaustedResponse"
_TRANSPORT: Final = "httpx.TransportError"
_GRPC: Final = "grpc.RpcError"
#: Transport errors in httpx that are the caller's mistake: a URL or a header that cannot be sent.
_UNSENDABLE: Final = frozenset({"httpx.UnsupportedProtocol", "httpx.LocalProtocolError"})
#: An answer that is not JSON, or JSON of another shape.
_UNREADABLE: Final = frozenset({"json.decoder.JSONDecodeError", "pydantic_core._pydantic_core.ValidationError"})

#: "Not now", and the server's own failures. 500 is among them: Qdrant says it of a full disk, a broken or absent shard,
#: a lost consensus; the caller's mistakes have statuses of their own. 408: the server gave up within its time limit.
_UNAVAILABLE_STATUS: Final = frozenset({408, 429, 500, 502, 503, 504, 507})
_BAD_INPUT_STATUS: Final = frozenset({400, 422})
_REFUSED_STATUS: Final = frozenset({401, 403})
_REDIRECTS: Final = frozenset({301, 302, 307, 308})
#: Statuses that every web server has for what it does not know. Qdrant's own come with its JSON.
_STRANGERS_STATUS: Final = _REDIRECTS | {400, 404, 405, 426, 501}

_UNAVAILABLE_CODES: Final = frozenset(
    {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "INTERNAL", "ABORTED", "CANCELLED"}
)
_REFUSED_CODES: Final = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED"})

#: How gRPC says that a connection broke; the server's own "unavailable" has other words.
_GRPC_LOST: Final = ("socket closed", "connection reset", "broken pipe", "goaway", "stream removed", "endpoint closing")
#: How OpenSSL says that what came back is not TLS at all.
_NOT_TLS: Final = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})

#: What does not pass by itself.
_REFUSALS: Final = (
    WrongCredentials,
    UnknownDatabase,
    WrongProtocol,
    TlsNotOffered,
    TlsRequired,
    CertificateRefused,
)

#: Seconds for finding out who listens on a port, one question.
_PROBE_SECONDS: Final = 0.5
#: How PostgreSQL is asked for TLS. It answers with one letter; what is not its protocol it answers with silence.
_POSTGRES_GREETING: Final = bytes([0, 0, 0, 8, 4, 210, 22, 47])


class Place(NamedTuple):
    """Where Qdrant is expected. `address` is shown; `setting` is the one to look at."""

    address: str
    host: str
    port: int
    https: bool
    setting: str
    grpc: bool = False


# --- for the guard


def classify(exc: BaseException) -> Verdict:
    """The verdict on an exception of the driver or of this adapter. What is not on the list is the caller's."""
    if isinstance(exc, PoolExhausted):
        return Verdict.BUSY
    if isinstance(exc, Unavailable):
        return Verdict.REFUSED if isinstance(exc, _REFUSALS) else Verdict.UNAVAILABLE
    names = _names(exc)
    if _RESPONSE in names:
        return _verdict(_status(exc), _UNAVAILABLE_STATUS, _REFUSED_STATUS)
    if _HANDLING in names:
        source = getattr(exc, "source", None)
        return Verdict.CALLER if source is None else classify(source)
    if _GRPC in names:
        return _verdict(_grpc_code(exc), _UNAVAILABLE_CODES, _REFUSED_CODES)
    passing = _EXHAUSTED in names or (_TRANSPORT in names and not names & _UNSENDABLE) or is_transport_broken(exc)
    # TimeoutError and the rest of ConnectionError: what the event loop and the system raise.
    return Verdict.UNAVAILABLE if passing or isinstance(exc, (ConnectionError, TimeoutError)) else Verdict.CALLER


def _verdict(word: object, unavailable: frozenset[object], refused: frozenset[object]) -> Verdict:
    if word in unavailable:
        return Verdict.UNAVAILABLE
    return Verdict.REFUSED if word in refused else Verdict.CALLER


# --- what an exception is


def is_key_refused(exc: BaseException) -> bool:
    """The server does not take the key, or does not let it do this."""
    return _status(exc) in _REFUSED_STATUS or _grpc_code(exc) in _REFUSED_CODES


def is_collection_unknown(exc: BaseException) -> bool:
    """There is no such collection."""
    local = isinstance(exc, ValueError) and "not found" in str(exc)
    return _status(exc) == 404 or _grpc_code(exc) == "NOT_FOUND" or local


def is_collection_known(exc: BaseException) -> bool:
    """The collection that was to be created exists already. Older servers say so with status 400."""
    told = _status(exc) == 409 or _grpc_code(exc) == "ALREADY_EXISTS"
    return told or "already exists" in (_body(exc) or _grpc_details(exc) or str(exc))


def is_bad_input(exc: BaseException) -> bool:
    """The server has understood what was sent, and does not take it: it would not take it later either."""
    answered = _status(exc) in _BAD_INPUT_STATUS and _is_qdrants(exc)
    return answered or _grpc_code(exc) == "INVALID_ARGUMENT"


def said(exc: BaseException) -> str:
    """The server's own words, in short."""
    return f"{_body(exc) or _grpc_details(exc) or exc:.500}"


def is_unsent(exc: BaseException) -> bool:
    """Nothing was sent, because there was no connection."""
    unsent = {"httpx.ConnectError", "httpx.ConnectTimeout", "httpx.PoolTimeout"}
    return any(_names(one) & unsent or "failed to connect" in _grpc_details(one) for one in _chain(exc))


def is_answer(exc: BaseException) -> bool:
    """Whether it is an answer of Qdrant's, be it a refusal: it is Qdrant that listens there."""
    return _status(exc) is not None and _is_qdrants(exc)


def is_late(exc: BaseException) -> bool:
    """Whether a time limit was over before there was an answer."""
    return _grpc_code(exc) == "DEADLINE_EXCEEDED" or any("httpx.TimeoutException" in _names(one) for one in _chain(exc))


# --- for whoever reads it


def is_hang_up(error: Unavailable) -> bool:
    """Whether it is the diagnosis of a connection that was closed without a word."""
    return type(error) is Unavailable


def diagnose(exc: BaseException, place: Place) -> Unavailable | None:
    """What to raise instead of `exc`, with what to do about it; None: `exc` says it well enough."""
    names = _names(exc)
    if _RESPONSE in names:
        return _of_response(exc, place)
    if _GRPC in names:
        return _of_grpc(exc, place)
    if names & _UNREADABLE:
        return _stranger(place, "its answer cannot be read")
    if _HANDLING in names:
        source = getattr(exc, "source", None)
        if source is None:
            return None
        if is_transport_broken(source):
            return _lost(place)
        if not _names(source) & {_TRANSPORT, *_UNREADABLE} or _names(source) & _UNSENDABLE:
            return None
        return (
            _stranger(place, "its answer has another shape")
            if _names(source) & _UNREADABLE
            else _of_chain(source, place)
        )
    return None


def _of_response(exc: BaseException, place: Place) -> Unavailable | None:
    status, body = _status(exc), _body(exc)
    if status in _REFUSED_STATUS:
        return WrongCredentials(_key_message(place, f"status {status}: {body:.120}"))
    if status in _STRANGERS_STATUS and not _is_qdrants(exc):
        location = str(getattr(exc, "headers", {}).get("location", ""))
        if not place.https and ("HTTPS" in body or location.startswith("https:")):
            return _tls_required(place)
        return _stranger(place, f"status {status}")
    return None


def _of_grpc(exc: BaseException, place: Place) -> Unavailable | None:
    code, details = _grpc_code(exc), _grpc_details(exc)
    said = details.lower()
    if code in _REFUSED_CODES:
        return WrongCredentials(_key_message(place, f"{code}: {details:.120}"))
    if code == "UNIMPLEMENTED":
        return _stranger(place, "it does not know the call")
    if code == "DEADLINE_EXCEEDED":
        return _silent(place)
    if code != "UNAVAILABLE":
        return None
    if "dns resolution" in said or "errors resolving" in said:
        return _unknown_host(place)
    if "http1" in said or "http/1" in said or "settings frame" in said:
        return _stranger(place, "it does not speak gRPC")
    if "certificate_verify_failed" in said:
        return _certificate(place, "it cannot be verified")
    if "handshake failed" in said:
        return _tls_not_offered(place)
    if "connect to" in said:
        return _refused(place)
    return _lost(place) if any(words in said for words in _GRPC_LOST) else None


def _of_chain(source: BaseException, place: Place) -> Unavailable:
    """The transport failed: the reason lies at the bottom, under httpx, httpcore and anyio."""
    for one in _chain(source):
        if isinstance(one, socket.gaierror):
            return _unknown_host(place)
        if isinstance(one, ssl.SSLCertVerificationError):
            return _certificate(place, one.verify_message)
        if isinstance(one, ssl.SSLError) and one.reason in _NOT_TLS:
            return _tls_not_offered(place)
    names = _names(source)
    if "httpx.PoolTimeout" in names:
        return PoolExhausted(f"qdrant at {place.address}: all connections are in use; look at qdrant.pool_max")
    if "httpx.TimeoutException" in names:
        return _silent(place)
    if "httpx.ConnectError" in names:
        return _refused(place)
    if "httpx.RemoteProtocolError" in names and "illegal" in str(source):
        return _stranger(place, "its answer is not HTTP")
    return _lost(place)


def _chain(exc: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    one: BaseException | None = exc
    while one is not None and id(one) not in seen:
        seen.add(id(one))
        yield one
        one = getattr(one, "source", None) or one.__cause__ or one.__context__


# --- the words


def _key_message(place: Place, said: str) -> str:
    return f"qdrant at {place.address} refused the key, or has no right for this ({said}); look at qdrant.api_key_file"


def _unknown_host(place: Place) -> UnknownHost:
    return UnknownHost(f"qdrant at {place.address}: the name {place.host} cannot be resolved; look at {place.setting}")


def _refused(place: Place) -> NoAnswer:
    return NoAnswer(f"qdrant at {place.address}: no connection. Does it run? Otherwise look at {place.setting}")


def _silent(place: Place) -> NoAnswer:
    return NoAnswer(f"qdrant at {place.address} did not answer in time; look at qdrant.timeout_ms if it is only slow")


def _lost(place: Place) -> Unavailable:
    return Unavailable(
        f"qdrant at {place.address}: the connection was closed before the answer was complete. If this does not pass,"
        f" another kind of server may listen there; look at {place.setting}"
    )


def _stranger(place: Place, why: str) -> WrongProtocol:
    return WrongProtocol(f"what listens at {place.address} is not Qdrant ({why}); look at {place.setting}")


def _tls_required(place: Place) -> TlsRequired:
    return TlsRequired(f"qdrant at {place.address} wants TLS; begin qdrant.url with https://")


def _tls_not_offered(place: Place) -> TlsNotOffered:
    return TlsNotOffered(
        f"what listens at {place.address} does not speak TLS; begin qdrant.url with http://, or look at {place.setting}"
    )


def _certificate(place: Place, why: str) -> CertificateRefused:
    return CertificateRefused(
        f"qdrant at {place.address}: its certificate is not trusted ({why}); name a file with the issuer's certificate"
        " in the environment variable SSL_CERT_FILE"
    )


# --- who listens there


async def look_behind(place: Place) -> Unavailable | None:
    """Why a server hung up before it ever answered: does it want TLS, is it another one? None: nobody knows."""
    if place.grpc:
        return _tls_required(place) if not place.https and await _offers_tls(place) else None
    said = await _hear(place, b"GET / HTTP/1.1\r\nHost: qdrant\r\nConnection: close\r\n\r\n")
    if said.startswith(b"HTTP/"):
        return None
    if not place.https and await _offers_tls(place):
        return _tls_required(place)
    if said:
        return _stranger(place, "it does not speak HTTP")
    if await _hear(place, _POSTGRES_GREETING) in (b"S", b"N"):
        return _stranger(place, "it is PostgreSQL")
    return None


async def _hear(place: Place, greeting: bytes) -> bytes:
    """The first bytes that come back; none if nothing does."""
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(place.host, place.port)
            try:
                writer.write(greeting)
                return await reader.read(16)
            finally:
                await _hang_up(writer)
    return b""


async def _offers_tls(place: Place) -> bool:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE  # nothing is sent; the question is only whether it speaks TLS
    with contextlib.suppress(OSError, TimeoutError):
        # A limit of its own: when a handshake is cancelled from outside, asyncio keeps the connection for a minute.
        async with asyncio.timeout(2 * _PROBE_SECONDS):
            _, writer = await asyncio.open_connection(
                place.host, place.port, ssl=context, ssl_handshake_timeout=_PROBE_SECONDS
            )
            await _hang_up(writer)
            return True
    return False


async def _hang_up(writer: asyncio.StreamWriter) -> None:
    writer.transport.abort()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


# --- looking into the driver's exceptions


def _names(exc: BaseException) -> frozenset[str]:
    return frozenset(f"{cls.__module__}.{cls.__qualname__}" for cls in type(exc).__mro__)


def _status(exc: BaseException) -> object:
    return getattr(exc, "status_code", None) if _RESPONSE in _names(exc) else None


def _body(exc: BaseException) -> str:
    content = getattr(exc, "content", b"") if _RESPONSE in _names(exc) else b""
    return content.decode("utf-8", "replace").strip() if isinstance(content, bytes) else ""


def _is_qdrants(exc: BaseException) -> bool:
    """Qdrant's errors are JSON with a status in it; only its refusal of a key is plain text."""
    if is_key_refused(exc):
        return True
    try:
        return "status" in json.loads(_body(exc))
    except (ValueError, TypeError):
        return False


def _grpc_code(exc: BaseException) -> object:
    if _GRPC not in _names(exc):
        return None
    return getattr(exc.code(), "name", None) if hasattr(exc, "code") else None


def _grpc_details(exc: BaseException) -> str:
    details = exc.details() if _GRPC in _names(exc) and hasattr(exc, "details") else ""
    return str(details or "")
