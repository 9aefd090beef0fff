"""What goes wrong when Qdrant is looked for in the wrong place or with the wrong words, and what each failure means."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from qdrant_client.common.client_exceptions import ResourceExhaustedResponse
from qdrant_client.http.exceptions import ResponseHandlingException, UnexpectedResponse

from perdure.adapters import qdrant_errors
from perdure.adapters.qdrant import check, classify
from perdure.adapters.qdrant_errors import diagnose
from perdure.adapters.qdrant_open import place_of
from perdure.adapters.verdict import Verdict
from perdure.errors import (
    CertificateRefused,
    ConfigError,
    NoAnswer,
    TlsNotOffered,
    TlsRequired,
    Unavailable,
    UnknownHost,
    WrongCredentials,
    WrongProtocol,
)
from perdure.wire.dependencies import QdrantOptions
from tests.adapters.qdrant_rig import rig_for, within

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _short_looks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qdrant_errors, "_PROBE_SECONDS", 0.25)


def answer(status: int, body: bytes = b'{"status":{"error":"so it is"}}', **headers: str) -> UnexpectedResponse:
    return UnexpectedResponse(status, "", body, httpx.Headers(headers))


def transport(error: type[httpx.TransportError]) -> ResponseHandlingException:
    return ResponseHandlingException(error("so it is"))


def rpc(code: grpc.StatusCode, details: str = "") -> grpc.RpcError:
    return grpc.aio.AioRpcError(code, grpc.aio.Metadata(), grpc.aio.Metadata(), details)


@pytest.mark.parametrize(
    ("exc", "verdict"),
    [
        *((answer(status), Verdict.UNAVAILABLE) for status in (408, 429, 500, 502, 503, 504, 507)),
        *((answer(status), Verdict.REFUSED) for status in (401, 403)),
        *((answer(status), Verdict.CALLER) for status in (400, 404, 409, 413, 422)),
        *(
            (transport(error), Verdict.UNAVAILABLE)
            for error in (httpx.ConnectError, httpx.ReadTimeout, httpx.ReadError)
        ),
        *((transport(error), Verdict.UNAVAILABLE) for error in (httpx.RemoteProtocolError, httpx.PoolTimeout)),
        *((transport(error), Verdict.CALLER) for error in (httpx.UnsupportedProtocol, httpx.LocalProtocolError)),
        (ResponseHandlingException(TypeError("not JSON")), Verdict.CALLER),
        (ResourceExhaustedResponse("slowly", 1), Verdict.UNAVAILABLE),
        *(
            (rpc(code), Verdict.UNAVAILABLE)
            for code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
        ),
        *((rpc(code), Verdict.UNAVAILABLE) for code in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INTERNAL)),
        *(
            (rpc(code), Verdict.REFUSED)
            for code in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)
        ),
        *((rpc(code), Verdict.CALLER) for code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT)),
        (WrongCredentials(), Verdict.REFUSED),
        (WrongProtocol(), Verdict.REFUSED),
        (NoAnswer(), Verdict.UNAVAILABLE),
        (UnknownHost(), Verdict.UNAVAILABLE),
        (TimeoutError(), Verdict.UNAVAILABLE),
        (ValueError("Collection x not found"), Verdict.CALLER),
    ],
    ids=repr,
)
def test_verdicts(exc: BaseException, verdict: Verdict) -> None:
    """A mistake of the caller's would open the breaker, or an outage would be taken for one."""
    assert classify(exc) is verdict


@pytest.mark.parametrize(
    ("exc", "error"),
    [
        (answer(404, b"<html>"), WrongProtocol),
        (answer(404), None),
        (answer(400, b"<html>The plain HTTP request was sent to HTTPS port</html>"), TlsRequired),
        (answer(301, b"", location="https://db/"), TlsRequired),
        (answer(503, b"<html>"), None),
        (rpc(grpc.StatusCode.UNIMPLEMENTED), WrongProtocol),
        (rpc(grpc.StatusCode.UNAUTHENTICATED, "no"), WrongCredentials),
        (rpc(grpc.StatusCode.NOT_FOUND), None),
        (ValueError(), None),
    ],
    ids=repr,
)
def test_diagnosis_of_answers(exc: BaseException, error: type[Unavailable] | None) -> None:
    """The log would show another server's web page instead of what to do."""
    found = diagnose(exc, place_of(QdrantOptions(url="http://user:secret@db:6333")))
    assert type(found) is error if error else found is None
    assert "secret" not in str(found)


# --- somebody else listens there


async def hang_up(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.read(65_536)


async def speak_redis(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"-ERR wrong number of arguments\r\n")


async def speak_postgres(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    if (await reader.read(65_536)).startswith(b"\0\0\0\x08"):
        writer.write(b"N")


async def speak_other_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(65_536)
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")


@contextlib.asynccontextmanager
async def serving(serve: Serve, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await serve(reader, writer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    """A server's side of TLS with a certificate that nobody has signed."""
    folder: Path = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-subj", "/CN=127.0.0.1", "-days", "2", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def fails_with(error: type[Unavailable], url: str, setting: str = "qdrant.url", **options: Any) -> None:
    """`doctor` and the first call both say `error`."""
    wanted = QdrantOptions(url=url, timeout_ms=2_000, **options)
    with within(3), pytest.raises(Unavailable) as told:
        await check(wanted)
    async with rig_for(wanted, timeout_ms=2_500) as rig:
        with within(2.5), pytest.raises(Unavailable) as caught:
            await rig.qdrant.collection_exists("x")
    for exc in (told.value, caught.value):
        assert type(exc) is error
        assert "127.0.0.1" in str(exc) or "invalid" in str(exc)
        assert setting in str(exc)


@pytest.mark.parametrize(
    ("serve", "error"),
    [
        (speak_redis, WrongProtocol),
        (speak_postgres, WrongProtocol),
        (speak_other_http, WrongProtocol),
        (hang_up, Unavailable),
    ],
)
async def test_another_server_on_the_port(serve: Serve, error: type[Unavailable]) -> None:
    """The port of another database would be waited for as if Qdrant were down."""
    async with serving(serve) as port:
        await fails_with(error, f"http://127.0.0.1:{port}")


async def test_tls_absent_required_and_not_trusted(tls: ssl.SSLContext) -> None:
    """Three mistakes with TLS would all look like a lost connection."""
    async with serving(speak_other_http) as port:
        await fails_with(TlsNotOffered, f"https://127.0.0.1:{port}")
    async with serving(speak_other_http, tls) as port:
        await fails_with(TlsRequired, f"http://127.0.0.1:{port}")
        await fails_with(CertificateRefused, f"https://127.0.0.1:{port}", "SSL_CERT_FILE")


async def test_nobody_there() -> None:
    """Port and host would have to be guessed from the driver's empty message."""
    await fails_with(NoAnswer, "http://127.0.0.1:1")
    await fails_with(UnknownHost, "http://no-such-host.invalid:6333")


async def test_settings_that_lead_nowhere() -> None:
    """A section without an address would fail with the driver's default, localhost."""
    async with rig_for(QdrantOptions()) as rig:
        with pytest.raises(ConfigError, match="neither url nor path"):
            await rig.qdrant.collection_exists("x")
    with pytest.raises(ConfigError, match=r"qdrant\.url"):
        place_of(QdrantOptions(url="http://db:port"))
