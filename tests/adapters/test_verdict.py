"""The verdicts for services without an adapter."""

from __future__ import annotations

import contextlib
import http.client
import smtplib
import socket
import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.message import Message
from types import SimpleNamespace
from typing import Any

import pytest

from perdure.adapters.verdict import Verdict, classify_plain


def test_classify_plain() -> None:
    """A user's own service would be called down for the user's mistakes, or up while its gateway says it is not."""
    assert classify_plain(ConnectionRefusedError()) is Verdict.UNAVAILABLE
    assert classify_plain(TimeoutError()) is Verdict.UNAVAILABLE
    assert classify_plain(KeyError("x")) is Verdict.CALLER
    assert classify_plain(FileNotFoundError("x")) is Verdict.CALLER
    assert classify_plain(ExceptionGroup("both", [ConnectionResetError(), TimeoutError()])) is Verdict.UNAVAILABLE
    assert classify_plain(ExceptionGroup("one", [ConnectionResetError(), KeyError()])) is Verdict.CALLER


@pytest.mark.parametrize(("status", "verdict"), [(503, "UNAVAILABLE"), (429, "UNAVAILABLE"), (404, "CALLER")])
def test_classify_plain_knows_httpx(status: int, verdict: str) -> None:
    """A gateway that says "not now" would be taken for an answer of the service."""
    httpx = pytest.importorskip("httpx")
    request = httpx.Request("GET", "http://billing.test/")
    error = httpx.HTTPStatusError("no", request=request, response=httpx.Response(status, request=request))
    assert classify_plain(error) is Verdict[verdict]
    assert classify_plain(httpx.ConnectTimeout("late")) is Verdict.UNAVAILABLE


# --- the standard library, for real

#: What a server says, and what becomes of it. None: it hangs up without a word.
ANSWERS = [
    (None, "UNAVAILABLE"),
    (b"nonsense\r\n\r\n", "UNAVAILABLE"),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\ncut", "UNAVAILABLE"),
    (b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "UNAVAILABLE"),
    (b"HTTP/1.1 429 Slowly\r\nContent-Length: 0\r\n\r\n", "UNAVAILABLE"),
    (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", "CALLER"),
    (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", "CALLER"),
]


@contextlib.contextmanager
def server(answer: bytes | None) -> Iterator[str]:
    """A server for one request; its address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                if answer is not None:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listener.getsockname()[1]}"
        thread.join(5)


def by_urllib(address: str) -> None:
    """As anybody would."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"http://{address}/", timeout=5) as response:
        response.read()


def by_http_client(address: str) -> None:
    """The layer below, which knows no bad status."""
    with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        connection.request("GET", "/")
        connection.getresponse().read()


@pytest.mark.parametrize("call", [by_urllib, by_http_client])
@pytest.mark.parametrize(("answer", "verdict"), ANSWERS)
def test_the_standard_librarys_clients(call: Callable[[str], None], answer: bytes | None, verdict: str) -> None:
    """URLError is an OSError and no ConnectionError: a service that is down would count as one that is well."""
    if call is by_http_client and (answer or b"").startswith((b"HTTP/1.1 4", b"HTTP/1.1 5")):
        with server(answer) as address:
            call(address)  # an answer like any other
        return
    with server(answer) as address, pytest.raises((OSError, http.client.HTTPException)) as caught:
        call(address)
    if isinstance(caught.value, urllib.error.HTTPError):
        caught.value.close()
    assert classify_plain(caught.value) is Verdict[verdict]


def test_urllib_without_an_answer() -> None:
    """The service that is not there is the first thing a breaker is for; a bad URL is none of its business."""
    for url, verdict in (("http://127.0.0.1:1/", Verdict.UNAVAILABLE), ("nowhere://x/", Verdict.CALLER)):
        with pytest.raises(urllib.error.URLError) as caught:
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=5)
        assert classify_plain(caught.value) is verdict
    assert classify_plain(urllib.error.URLError(socket.gaierror(-2, "no such name"))) is Verdict.UNAVAILABLE
    assert classify_plain(urllib.error.HTTPError("http://x", 504, "late", Message(), None)) is Verdict.UNAVAILABLE


def test_other_clients_of_the_standard_library() -> None:
    """A mail server that hung up would be the job's fault."""
    assert classify_plain(smtplib.SMTPServerDisconnected("gone")) is Verdict.UNAVAILABLE
    assert classify_plain(smtplib.SMTPConnectError(421, "later")) is Verdict.UNAVAILABLE
    assert classify_plain(smtplib.SMTPDataError(554, "spam")) is Verdict.CALLER
    assert classify_plain(ssl.SSLEOFError("cut")) is Verdict.UNAVAILABLE
    assert classify_plain(http.client.InvalidURL("with a space")) is Verdict.CALLER


# --- certificates


def test_a_certificate_that_is_not_trusted() -> None:
    """It does not get better by asking again, however many layers a client has wrapped around it."""
    reason = ssl.SSLCertVerificationError("self-signed")
    assert classify_plain(reason) is Verdict.REFUSED
    assert classify_plain(urllib.error.URLError(reason)) is Verdict.REFUSED
    middle = made("urllib3.exceptions", "MaxRetryError")("of requests")
    middle.reason = made("urllib3.exceptions", "SSLError")(reason)  # type: ignore[attr-defined]
    assert classify_plain(made("requests.exceptions", "SSLError", "ConnectionError")(middle)) is Verdict.REFUSED
    assert classify_plain(made("requests.exceptions", "ConnectionError")("else")) is Verdict.UNAVAILABLE


# --- what is not installed here


def made(module: str, name: str, *bases: str, root: type[Exception] = Exception) -> type[Exception]:
    """A class with the name of another library's, derived from classes with such names."""
    parent = root
    for one in (*reversed(bases), name):
        parent = type(one, (parent,), {"__module__": module})
    return parent


def error(module: str, name: str, *bases: str, **attributes: Any) -> Exception:
    """An exception of such a class."""
    exc = made(module, name, *bases)("made up")
    for key, value in attributes.items():
        setattr(exc, key, value)
    return exc


def grpc_error(code: str) -> Exception:
    """As grpc.aio raises it."""
    return error("grpc", "AioRpcError", "RpcError", code=lambda: SimpleNamespace(name=code))


AIOHTTP = "aiohttp.client_exceptions"


@pytest.mark.parametrize(
    ("exc", "verdict"),
    [
        (error("requests.exceptions", "ConnectTimeout", "ConnectionError"), "UNAVAILABLE"),
        (error("requests.exceptions", "ReadTimeout", "Timeout"), "UNAVAILABLE"),
        (error("requests.exceptions", "ChunkedEncodingError"), "UNAVAILABLE"),
        (error("requests.exceptions", "HTTPError", response=SimpleNamespace(status_code=502)), "UNAVAILABLE"),
        (error("requests.exceptions", "HTTPError", response=SimpleNamespace(status_code=500)), "CALLER"),
        (error("requests.exceptions", "HTTPError", response=None), "CALLER"),
        (error("requests.exceptions", "InvalidURL"), "CALLER"),
        (error(AIOHTTP, "ClientConnectorError", "ClientOSError", "ClientConnectionError"), "UNAVAILABLE"),
        (error(AIOHTTP, "ClientPayloadError"), "UNAVAILABLE"),
        (error(AIOHTTP, "ServerTimeoutError"), "UNAVAILABLE"),
        (error(AIOHTTP, "ClientConnectorCertificateError", "ClientConnectionError"), "REFUSED"),
        (error(AIOHTTP, "ClientResponseError", status=503), "UNAVAILABLE"),
        (error(AIOHTTP, "ClientResponseError", status=400), "CALLER"),
        (error("botocore.exceptions", "EndpointConnectionError", "ConnectionError"), "UNAVAILABLE"),
        (
            error("botocore.exceptions", "ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 503}}),
            "UNAVAILABLE",
        ),
        (error("botocore.exceptions", "ClientError", response={"ResponseMetadata": {"HTTPStatusCode": 403}}), "CALLER"),
        (grpc_error("UNAVAILABLE"), "UNAVAILABLE"),
        (grpc_error("DEADLINE_EXCEEDED"), "UNAVAILABLE"),
        (grpc_error("RESOURCE_EXHAUSTED"), "UNAVAILABLE"),
        (grpc_error("INVALID_ARGUMENT"), "CALLER"),
        (error("redis.exceptions", "ConnectionError"), "UNAVAILABLE"),
        (error("redis.exceptions", "BusyLoadingError", "ConnectionError"), "UNAVAILABLE"),
        (error("redis.exceptions", "TimeoutError"), "UNAVAILABLE"),
        (error("redis.exceptions", "AuthenticationError", "ConnectionError"), "REFUSED"),
        (error("redis.exceptions", "ResponseError"), "CALLER"),
        (error("somebody.elses", "ConnectionError"), "CALLER"),
    ],
    ids=lambda value: type(value).__qualname__ if isinstance(value, Exception) else value,
)
def test_clients_by_name(exc: Exception, verdict: str) -> None:
    """A user's own service would have a breaker that never opens, or opens for the caller's mistakes."""
    assert classify_plain(exc) is Verdict[verdict]
