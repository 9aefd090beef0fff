"""What is said when PostgreSQL cannot be reached: which of the reasons it is, and which setting to look at."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from perdure.adapters import postgres_connect, postgres_sniff
from perdure.adapters.postgres import check, classify
from perdure.adapters.postgres_address import parse_address
from perdure.adapters.postgres_sniff import who_listens
from perdure.adapters.verdict import Verdict
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
from perdure.wire.dependencies import Policy, PostgresOptions
from tests.adapters.postgres_rig import rig, takes_less_than
from tests.support.fault_proxy import BLACK_HOLE, FaultProxy
from tests.support.postgres_server import PostgresBench, ask, make_certificate, through

#: What a job has by default.
USUAL = Policy()


@pytest.fixture(autouse=True)
def _short_questions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgres_sniff, "QUESTION_SECONDS", 0.25)
    monkeypatch.setattr(postgres_connect, "_SLOW_SECONDS", 0.25)


async def failure(dsn: str, policy: Policy = USUAL, **options: object) -> Unavailable:
    """What the first job and `perdure doctor` are told: the same; it must come in time and hold no password."""
    with pytest.raises(Unavailable) as by_doctor, takes_less_than(USUAL.timeout_ms / 1000):
        await check(PostgresOptions(dsn, **options))  # type: ignore[arg-type]
    async with rig(dsn, policy, **options) as one:
        with pytest.raises(Unavailable) as by_job, takes_less_than(policy.timeout_ms / 1000):
            await one.bind().fetchval("SELECT 1")
        assert one.told[-1].failed == 1
    assert type(by_job.value) is type(by_doctor.value)
    assert str(by_job.value) == str(by_doctor.value)
    text = str(by_job.value)
    assert "secret" not in text
    assert parse_address(dsn).place in text
    return by_job.value


def with_user(dsn: str, user: str, password: str = "secret") -> str:
    """The same place, somebody else."""
    return f"postgresql://{user}:{password}@{dsn.rpartition('@')[2]}"


# --- login and database


async def test_wrong_password(postgres_dsn: str) -> None:
    """Somebody would look for a network problem."""
    error = await failure(with_user(postgres_dsn, "perdure"))
    assert type(error) is WrongCredentials
    assert "postgres.dsn" in str(error)
    assert classify(error) is Verdict.REFUSED


async def test_unknown_user(postgres_dsn: str) -> None:
    """The name that was refused would not be shown."""
    error = await failure(with_user(postgres_dsn, "nobody-here"))
    assert type(error) is WrongCredentials
    assert "nobody-here" in str(error)


async def test_unknown_database(postgres_dsn: str) -> None:
    """A typing mistake in the DSN would look like a server that is down."""
    error = await failure(postgres_dsn.rpartition("/")[0] + "/not-there")
    assert type(error) is UnknownDatabase
    assert "'not-there'" in str(error)
    assert classify(error) is Verdict.REFUSED


async def test_password_file_is_missing(postgres_dsn: str, tmp_path: Path) -> None:
    """A file that cannot be read would end in an empty password, and in a puzzle."""
    path = str(tmp_path / "nothing")
    error = await failure(postgres_dsn, password_file=path)
    assert type(error) is WrongCredentials
    assert path in str(error)
    assert "postgres.password_file" in str(error)


async def test_server_without_a_free_connection(postgres_dsn: str, postgres: PostgresBench) -> None:
    """Somebody would look at the network instead of the sizes of the pools."""
    database = postgres_dsn.rpartition("/")[2]
    postgres.own.sql("CREATE ROLE guest LOGIN PASSWORD 'secret'")
    postgres.own.sql(f'ALTER DATABASE "{database}" CONNECTION LIMIT 0')
    error = await failure(with_user(postgres_dsn, "guest"))
    postgres.own.sql("DROP ROLE guest")
    assert "postgres.pool_max" in str(error)
    assert classify(error) is Verdict.UNAVAILABLE


# --- network


async def test_refused() -> None:
    """The commonest reason of all would not be named."""
    with FaultProxy("127.0.0.1", 1) as proxy:
        proxy.mode = "refuse"
        for host in ("127.0.0.1", "localhost"):
            error = await failure(f"postgresql://me:secret@{host}:{proxy.port}/db")
            assert type(error) is NoAnswer
            assert "refused" in str(error)
            assert classify(error) is Verdict.UNAVAILABLE


async def test_unknown_host() -> None:
    """A name that cannot be resolved would look like a server that is down."""
    error = await failure("postgresql://me:secret@nowhere.invalid/db")
    assert type(error) is UnknownHost
    assert "nowhere.invalid:5432" in str(error)


async def test_no_such_socket(tmp_path: Path) -> None:
    """The folder of the socket would not be shown."""
    error = await failure(f"postgresql://me@/db?host={tmp_path}")
    assert type(error) is NoAnswer


async def test_silence(postgres_dsn: str) -> None:
    """A firewall that swallows everything would hang the first job."""
    with FaultProxy("127.0.0.1", 1) as proxy:
        proxy.mode = BLACK_HOLE
        error = await failure(through(postgres_dsn, proxy.port), connect_timeout_ms=500, policy=Policy(tries=1))
    assert type(error) is NoAnswer
    assert "postgres.connect_timeout" in str(error)


async def test_dsn_that_cannot_be_read() -> None:
    """The mistake is in the configuration, and would be looked for on the server."""
    with pytest.raises(Unavailable, match=r"postgres\.dsn cannot be used") as caught:
        await check(PostgresOptions("mysql://me:secret@127.0.0.1/db"))
    assert "secret" not in str(caught.value)


# --- somebody else on that port


@contextlib.asynccontextmanager
async def listening(
    greeting: bytes = b"", answer: bytes = b"", question: bytes = b"", hang_up: bool = False
) -> AsyncIterator[int]:
    """A server that says `greeting`, then answers to what begins like `question`; the port."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            writer.write(greeting)
            if not hang_up:
                heard = await reader.read(1024)
                if heard.startswith(question):
                    writer.write(answer)
                    await reader.read()
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


STRANGERS = {
    "http": ({"answer": b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"}, "an HTTP server"),
    "http that waits for a whole request": (
        {"question": b"GET ", "answer": b"HTTP/1.1 404 Not Found\r\n\r\n"},
        "an HTTP server",
    ),
    "bolt": ({"question": b"\x60\x60\xb0\x17", "answer": b"\0\0\4\5"}, "Bolt"),
    "ssh": ({"greeting": b"SSH-2.0-OpenSSH_9.2\r\n"}, "an SSH server"),
    "garbage": ({"greeting": bytes(range(255, 155, -1))}, "a server that answers"),
}


@pytest.mark.parametrize(
    ("name", "tls"), [*((name, "prefer") for name in STRANGERS), ("http", "require"), ("garbage", "disable")]
)
async def test_another_protocol(name: str, tls: str) -> None:
    """A wrong port would be reported as a broken PostgreSQL."""
    behaviour, words = STRANGERS[name]
    async with listening(**behaviour) as port:  # type: ignore[arg-type]
        error = await failure(f"postgresql://me:secret@127.0.0.1:{port}/db?sslmode={tls}")
    assert type(error) is WrongProtocol
    assert words in str(error)
    assert "port in postgres.dsn" in str(error)
    assert classify(error) is Verdict.REFUSED


async def test_closed_at_once() -> None:
    """A proxy with nothing behind it would be taken for a broken PostgreSQL, or the other way round."""
    async with listening(hang_up=True) as port:
        error = await failure(f"postgresql://me:secret@127.0.0.1:{port}/db")
    assert type(error) is NoAnswer
    assert "closed at once" in str(error)


async def test_who_listens(postgres: PostgresBench) -> None:
    """PostgreSQL itself would be called a stranger."""
    assert (await who_listens(*postgres.address)).kind in ("plain", "tls")


# --- TLS


@pytest.fixture
def tls(postgres: PostgresBench) -> Iterator[Path]:
    """TLS is on, while the test runs; the server's certificate, for "localhost"."""
    server = postgres.own
    owner = server.data.stat()
    certificate = make_certificate(server.data, (owner.st_uid, owner.st_gid))
    server.sql("ALTER SYSTEM SET ssl = on")
    server.restart()
    yield certificate
    server.sql("ALTER SYSTEM RESET ssl")
    server.restart()


async def test_tls_is_not_offered(postgres_dsn: str, postgres: PostgresBench) -> None:
    """TLS that was asked for and is not there: this must be said, and no password sent."""
    assert postgres.own.running
    error = await failure(f"{postgres_dsn}?sslmode=require")
    assert type(error) is TlsNotOffered
    assert "sslmode=require" in str(error)
    assert classify(error) is Verdict.REFUSED


async def test_tls(tls: Path, postgres_dsn: str, postgres: PostgresBench) -> None:
    """Each way in which TLS goes wrong would look like the others."""
    postgres.own.create_role("tls_only", "secret")
    error = await failure(f"{with_user(postgres_dsn, 'tls_only')}?sslmode=disable")
    assert type(error) is TlsRequired
    assert "sslmode=require" in str(error)
    assert type(await failure(f"{with_user(postgres_dsn, 'tls_only', 'secret-2')}?sslmode=prefer")) is WrongCredentials
    postgres.own.sql("DROP ROLE tls_only")

    strange = os.fspath(tls.parent / "PG_VERSION")
    error = await failure(f"{postgres_dsn}?sslmode=verify-full&sslrootcert={tls}")
    assert type(error) is CertificateRefused  # it is not for 127.0.0.1
    assert classify(error) is Verdict.REFUSED
    error = await failure(f"{postgres_dsn}?sslmode=verify-full&sslrootcert={tls.parent / 'not-there'}")
    assert type(error) is CertificateRefused
    assert "sslrootcert" in str(error)
    assert isinstance(await failure(f"{postgres_dsn}?sslmode=verify-full&sslrootcert={strange}"), Unavailable)

    good = f"{postgres_dsn.replace('127.0.0.1', 'localhost')}?sslmode=verify-full&sslrootcert={tls}"
    assert "with TLS" in await check(PostgresOptions(good))
    assert await ask(postgres_dsn, "SELECT 1")


# --- addresses


@pytest.mark.parametrize(
    ("dsn", "place", "database", "user"),
    [
        ("postgresql://me:pw@db.example:6000/shop", "db.example:6000", "shop", "me"),
        ("postgres://me@db.example", "db.example:5432", "me", "me"),
        ("postgresql://me@a:1,b:2/shop", "a:1", "shop", "me"),
        ("postgresql://m%40e:p%40w@[::1]:7/shop", "[::1]:7", "shop", "m@e"),
        ("postgresql://me@/shop?host=/run/pg", "/run/pg/.s.PGSQL.5432", "shop", "me"),
        ("postgresql://host:not-a-port/", "?:5432", "?", "?"),
    ],
)
def test_address(monkeypatch: pytest.MonkeyPatch, dsn: str, place: str, database: str, user: str) -> None:
    """A message would send somebody to the wrong server."""
    for name in ("PGHOST", "PGPORT", "PGUSER", "PGDATABASE", "PGSSLMODE"):
        monkeypatch.delenv(name, raising=False)
    address = parse_address(dsn)
    assert (address.place, address.database, address.user) == (place, database, user)
    assert "pw" not in str(address)
