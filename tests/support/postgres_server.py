"""PostgreSQL for the tests: the one named by PERDURE_TEST_POSTGRES_DSN, else a private one on loopback."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest

from examples.demo.postgres_server import NoServer, PostgresServer, find_binaries, run_apart

VARIABLE = "PERDURE_TEST_POSTGRES_DSN"
TEMPLATE = "perdure_template"


class PostgresBench:
    """A server for a whole run, started by the first test that needs it, and a database of its own for each test."""

    def __init__(self) -> None:
        self.external = os.environ.get(VARIABLE, "")
        self._own: PostgresServer | None = None

    @property
    def own(self) -> PostgresServer:
        """The private server, running, for tests that stop and kill it. Skips the test if there is none."""
        if self.external:
            pytest.skip(f"{VARIABLE} names a server that the tests may not stop")
        if self._own is None:
            try:
                server = PostgresServer().start()
            except NoServer as exc:
                pytest.skip(str(exc))
            server.create_database(TEMPLATE)
            self._own = server
        if not self._own.running:
            self._own.start()
        return self._own

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        if self.external:
            parts = urlsplit(self.external)
            return parts.hostname or "localhost", parts.port or 5432
        return self.own.host, self.own.port

    @contextmanager
    def database(self) -> Iterator[str]:
        """The DSN of a fresh database, with its password."""
        name = f"perdure_{uuid.uuid4().hex[:12]}"
        if self.external:
            self._outside(f'CREATE DATABASE "{name}"')
            yield urlunsplit(urlsplit(self.external)._replace(path=f"/{name}"))
            self._outside(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
            return
        self.own.create_database(name, TEMPLATE)
        yield self.own.dsn(name)
        self.own.drop_database(name)

    def _outside(self, statement: str) -> None:
        run_apart(ask(self.external, statement))

    def close(self) -> None:
        """End the private server."""
        if self._own is not None:
            self._own.close()


async def ask(dsn: str, statement: str, *args: Any) -> list[Any]:
    """One statement on a connection of its own, past all that is tested."""
    con = await asyncpg.connect(dsn, timeout=10)
    try:
        return list(await con.fetch(statement, *args, timeout=10))
    finally:
        await con.close(timeout=10)


@functools.cache
def description() -> str:
    """Which PostgreSQL the tests use, in a line."""
    if os.environ.get(VARIABLE):
        return f"PostgreSQL: the one named by {VARIABLE}"
    try:
        binaries = find_binaries()
    except NoServer as exc:
        return f"PostgreSQL: none ({exc})"
    done = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=False)
    return f"{done.stdout.strip() or 'PostgreSQL'}, private, from {binaries}"


def through(dsn: str, port: int) -> str:
    """The same database by way of another port on loopback."""
    parts = urlsplit(dsn)
    credentials = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{credentials}@127.0.0.1:{port}"))


def without_password(dsn: str) -> tuple[str, str]:
    """The DSN for a configuration, and the password for a file."""
    parts = urlsplit(dsn)
    netloc = parts.netloc.replace(f":{parts.password}@", "@")
    return urlunsplit(parts._replace(netloc=netloc)), parts.password or ""


def make_certificate(folder: Path, owner: tuple[int, int]) -> Path:
    """A key and a self-signed certificate for "localhost", readable for the server's user. Returns the certificate."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed: no certificate can be made")
    key, certificate = folder / "server.key", folder / "server.crt"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,DNS:other.example", "-days", "2"]
    subprocess.run([*command, *names, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    key.chmod(0o600)
    for path in (key, certificate):
        os.chown(path, *owner)
    return certificate
