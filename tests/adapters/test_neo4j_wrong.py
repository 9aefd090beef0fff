"""What is wrong when Neo4j cannot be used: each cause must be told from the others, with what to do."""

from __future__ import annotations

import asyncio
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from neo4j import exceptions as its

from perdure.adapters import neo4j_errors
from perdure.adapters.neo4j import check, classify
from perdure.adapters.verdict import Verdict
from perdure.errors import (
    CertificateRefused,
    ConfigError,
    NoAnswer,
    PerdureError,
    TlsNotOffered,
    TlsRequired,
    Unavailable,
    UnknownDatabase,
    UnknownHost,
    WrongCredentials,
    WrongProtocol,
)
from perdure.wire.dependencies import Neo4jOptions
from tests.adapters.neo4j_rig import BRIEF, options_for, rig
from tests.support.bolt_server import PASSWORD, BoltServer, OwnServer

pytestmark = pytest.mark.usefixtures("neo4j_sockets")

Answer = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture(autouse=True)
def _short_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neo4j_errors, "LOOK_SECONDS", 0.3)


async def refused(options: Neo4jOptions, expected: type[PerdureError]) -> str:
    """The message, which doctor and the first failing job must agree on; it never has the password in it."""
    with pytest.raises(expected) as by_doctor:
        await check(options)
    async with rig(options, BRIEF) as one:
        with pytest.raises(expected) as by_job:
            await one.neo4j.read("RETURN 1")
        assert str(by_job.value) == str(by_doctor.value)
        assert by_job.value.__cause__ is not None
        assert one.failures == 1
        await one.no_slot_is_taken()
    assert PASSWORD not in str(by_job.value)
    return str(by_job.value)


@asynccontextmanager
async def listener(answer: Answer, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Another kind of server; its port."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def as_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.read(10)
    writer.write(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")
    writer.close()


async def as_ssh(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")
    await reader.read(10)
    writer.close()


async def as_closing(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


@pytest.fixture
def tls(tmp_path: Path) -> ssl.SSLContext:
    """A certificate that nobody trusts."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    files = ["-keyout", str(key), "-out", str(certificate), "-days", "2", "-subj", "/CN=localhost"]
    subprocess.run([*make, *files], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


async def test_wrong_password(bolt: BoltServer, tmp_path: Path) -> None:
    """A wrong password must not look like a network that is down."""
    (tmp_path / "password").write_text("certainly-wrong-1")
    message = await refused(options_for(bolt, tmp_path), WrongCredentials)
    assert "neo4j.password_file" in message
    assert "certainly-wrong-1" not in message


async def test_no_password_file(bolt: BoltServer, tmp_path: Path) -> None:
    """A file that is not there must be named."""
    missing = str(tmp_path / "missing")
    message = await refused(options_for(bolt, tmp_path, password_file=missing), WrongCredentials)
    assert missing in message
    assert "No such file" in message
    assert "set neo4j.password_file" in await refused(options_for(bolt, tmp_path, password_file=""), WrongCredentials)


async def test_unknown_host(bolt: BoltServer, tmp_path: Path) -> None:
    """A misspelt host must be named."""
    message = await refused(options_for(bolt, tmp_path, "bolt://no-such-host.invalid:7687"), UnknownHost)
    assert "no-such-host.invalid" in message
    assert "neo4j.uri" in message


async def test_nobody_listens(bolt: BoltServer, tmp_path: Path) -> None:
    """A server that is not running must be told from one that is silent; for a cluster's address, too."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        assert f"nobody listens on {address}" in await refused(
            options_for(bolt, tmp_path, f"bolt://{address}"), NoAnswer
        )
        routed = options_for(bolt, tmp_path, f"neo4j://{address}")
        assert f"nobody listens on {address}" in await refused(routed, NoAnswer)


async def test_unknown_database(bolt: BoltServer, tmp_path: Path) -> None:
    """A misspelt database must be named."""
    message = await refused(options_for(bolt, tmp_path, database="nosuchdatabase"), UnknownDatabase)
    assert "'nosuchdatabase'" in message
    assert "neo4j.database" in message


@pytest.mark.parametrize(("kind", "answer"), [("HTTP", as_http), ("not a Bolt server", as_ssh)])
async def test_another_protocol(bolt: BoltServer, tmp_path: Path, kind: str, answer: Answer) -> None:
    """The port of another service must be told from a server that is down."""
    async with listener(answer) as port:
        assert kind in await refused(options_for(bolt, tmp_path, f"bolt://127.0.0.1:{port}"), WrongProtocol)


async def test_closed_at_once(bolt: BoltServer, tmp_path: Path) -> None:
    """A server that hangs up is starting, or of another kind: both must be said."""
    async with listener(as_closing) as port:
        message = await refused(options_for(bolt, tmp_path, f"bolt://127.0.0.1:{port}"), NoAnswer)
        assert "closes the connection" in message


async def test_tls_expected_and_absent(bolt: BoltServer, tmp_path: Path) -> None:
    """TLS to a plain server must be told from a server that is down."""
    message = await refused(options_for(bolt, tmp_path, f"bolt+s://{bolt.host}:{bolt.port}"), TlsNotOffered)
    assert "without TLS" in message
    async with listener(as_http) as port:
        await refused(options_for(bolt, tmp_path, f"bolt+s://127.0.0.1:{port}"), WrongProtocol)


async def test_tls_required(bolt: BoltServer, tmp_path: Path, tls: ssl.SSLContext) -> None:
    """A plain connection to a TLS server must be told from a server that is down."""
    async with listener(as_closing, tls) as port:
        message = await refused(options_for(bolt, tmp_path, f"bolt://127.0.0.1:{port}"), TlsRequired)
        assert "bolt+s://" in message


async def test_certificate_is_not_trusted(bolt: BoltServer, tmp_path: Path, tls: ssl.SSLContext) -> None:
    """A certificate that is not trusted must be said to be that."""
    async with listener(as_closing, tls) as port:
        message = await refused(options_for(bolt, tmp_path, f"bolt+s://127.0.0.1:{port}"), CertificateRefused)
        assert "self-signed" in message


async def test_not_an_address(bolt: BoltServer, tmp_path: Path) -> None:
    """A URI that is none must be named as such, without the password that may stand in it."""
    with pytest.raises(ConfigError, match=r"neo4j\.uri") as caught:
        await check(options_for(bolt, tmp_path, f"postgres://someone:{PASSWORD}@127.0.0.1:5432/x"))
    assert PASSWORD not in str(caught.value)


async def test_corrected_password_file_is_taken_up(bolt: BoltServer, tmp_path: Path) -> None:
    """Once the file has the right password, the next call must go well, without a restart."""
    options = options_for(bolt, tmp_path)
    (tmp_path / "password").write_text("certainly-wrong-2")
    async with rig(options) as one:
        with pytest.raises(WrongCredentials):
            await one.neo4j.read("RETURN 1")
        (tmp_path / "password").write_text(bolt.password)
        assert await one.neo4j.read("RETURN 1 AS n") == [{"n": 1}]


async def test_changed_password_is_taken_up(own_bolt: OwnServer, tmp_path: Path) -> None:
    """A password that is changed while connections are open must cost no restart. Neo4j only."""
    if own_bolt.kind != "neo4j":
        pytest.skip(f"{own_bolt} has no Cypher for users")
    async with (
        rig(options_for(own_bolt, tmp_path)) as one,
        rig(options_for(own_bolt, tmp_path, database="system")) as admin,
    ):
        change = "ALTER CURRENT USER SET PASSWORD FROM $old TO $new"
        await one.neo4j.read("RETURN 1")
        changed = f"{own_bolt.password}-changed"
        await admin.neo4j.write(change, old=own_bolt.password, new=changed)
        try:
            (tmp_path / "password").write_text(changed)
            assert await one.neo4j.read("RETURN 1 AS n") == [{"n": 1}]
        finally:
            await admin.neo4j.write(change, old=changed, new=own_bolt.password)
        async with rig(options_for(own_bolt, tmp_path)) as fresh:
            with pytest.raises(WrongCredentials):
                await fresh.neo4j.read("RETURN 1")


# --- classification


def answer_of(code: str) -> its.Neo4jError:
    return its.Neo4jError._basic_hydrate(neo4j_code=code, message="…")


@pytest.mark.parametrize(
    ("exc", "verdict"),
    [
        (its.ServiceUnavailable("…"), Verdict.UNAVAILABLE),
        (its.SessionExpired("…"), Verdict.UNAVAILABLE),
        (its.ConnectionAcquisitionTimeoutError("…"), Verdict.UNAVAILABLE),
        (its.ConfigurationError("…"), Verdict.REFUSED),
        (its.ResultNotSingleError("…", "…"), Verdict.CALLER),
        (answer_of("Neo.TransientError.Transaction.DeadlockDetected"), Verdict.CONTENDED),
        (answer_of("Neo.TransientError.Transaction.LockAcquisitionTimeout"), Verdict.CONTENDED),
        (answer_of("Neo.TransientError.General.MemoryPoolOutOfMemoryError"), Verdict.UNAVAILABLE),
        (answer_of("Neo.TransientError.General.DatabaseUnavailable"), Verdict.UNAVAILABLE),
        (answer_of("Neo.TransientError.Transaction.Terminated"), Verdict.UNAVAILABLE),
        (answer_of("Neo.ClientError.Cluster.NotALeader"), Verdict.UNAVAILABLE),
        (answer_of("Neo.ClientError.Security.Unauthorized"), Verdict.REFUSED),
        (answer_of("Neo.ClientError.Security.Forbidden"), Verdict.CALLER),
        (answer_of("Neo.ClientError.Database.DatabaseNotFound"), Verdict.REFUSED),
        (answer_of("Neo.ClientError.Schema.ConstraintValidationFailed"), Verdict.CALLER),
        (answer_of("Neo.ClientError.Statement.SyntaxError"), Verdict.CALLER),
        (answer_of("Neo.DatabaseError.General.UnknownError"), Verdict.CALLER),
        (NoAnswer(), Verdict.UNAVAILABLE),
        (UnknownHost(), Verdict.UNAVAILABLE),
        (WrongCredentials(), Verdict.REFUSED),
        (Unavailable(), Verdict.REFUSED),
        (ValueError(), Verdict.CALLER),
    ],
    ids=lambda value: getattr(value, "code", None) or type(value).__name__,
)
def test_verdicts(exc: Exception, verdict: Verdict) -> None:
    """Only what is known to pass may be repeated; a caller's mistake must not open the breaker."""
    assert classify(exc) is verdict
