"""`perdure doctor` on databases: which of the many ways of not being there it is."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from perdure import errors
from perdure.cli import checks_dependencies, session
from perdure.cli.checks import FAIL, OK, WARN, Finding
from perdure.cli.checks_dependencies import look
from tests.cli.conftest import Cli

Ask = Callable[[Any], Awaitable[str]]


def finding(folder: Path, text: str, ask: Ask, name: str = "postgres", limit_seconds: float = 5.0) -> Finding:
    """What is found with this configuration, and an adapter that does `ask`."""
    (folder / "perdure.toml").write_text(f"[workers]\ncount = 3\n{text}")
    return look(name, session.load(None), ask, limit_seconds)


def says(line: str) -> Ask:
    """An adapter that is well."""

    async def ask(_options: Any) -> str:
        return line

    return ask


def fails(error: Exception) -> Ask:
    """An adapter that is not."""

    async def ask(_options: Any) -> str:
        raise error

    return ask


POSTGRES = '[postgres]\ndsn = "postgresql://me@db/app"\n'


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.WrongCredentials, "wrong credentials: "),
        (errors.UnknownHost, "wrong host: "),
        (errors.UnknownDatabase, "wrong database: "),
        (errors.WrongProtocol, "another protocol: "),
        (errors.TlsNotOffered, "TLS expected and not offered: "),
        (errors.TlsRequired, "TLS required and not used: "),
        (errors.CertificateRefused, "certificate refused: "),
        (errors.PoolExhausted, "no connection left: "),
        (errors.NoAnswer, "no answer: "),
        (errors.Unavailable, "not available: "),
        (ImportError, "missing extra: "),
        (RuntimeError, "RuntimeError: "),
    ],
)
def test_which_of_them_it_is(folder: Path, error: type[Exception], said: str) -> None:
    """Somebody would look for the mistake in the wrong place; or read the password in the message."""
    found = finding(folder, POSTGRES, fails(error("postgresql://me:hunter2@db:5432\nsaid no")))
    assert (found.check, found.level) == ("postgres", FAIL)
    assert found.text == f"{said}postgresql://me:***@db:5432 said no"
    assert found.advice


def test_an_adapter_that_hangs(folder: Path) -> None:
    """The doctor would hang with it."""

    async def never(_options: Any) -> str:
        await asyncio.get_running_loop().create_future()
        raise AssertionError

    found = finding(folder, POSTGRES, never, limit_seconds=0.05)
    assert (found.level, found.text) == (FAIL, "no answer: nothing came within 0.05 s")


def test_it_is_asked_with_the_options_of_a_worker(folder: Path) -> None:
    """The doctor would try another address than the daemon."""
    asked: list[Any] = []

    async def ask(options: Any) -> str:
        asked.append(options)
        return "PostgreSQL 15.9 at db:5432"

    found = finding(folder, POSTGRES + "pool_max = 2\n", ask)
    assert found == Finding("postgres", OK, "PostgreSQL 15.9 at db:5432")
    assert (asked[0].dsn, asked[0].pool_max) == ("postgresql://me@db/app", 2)


def test_more_connections_than_the_server_has(folder: Path) -> None:
    """The last worker would find none, on a busy day."""
    line = "PostgreSQL 15.9 at db:5432, 3 of 20 connections in use"
    found = finding(folder, POSTGRES, says(line))
    assert found.level == WARN
    assert "7 workers (old and new ones in a reload) may open 10 connections each, 70 in all" in found.text
    assert finding(folder, POSTGRES + "pool_max = 2\n", says(line)).level == OK


def test_secrets(folder: Path) -> None:
    """A file that only root can read, or that everybody can; a password in the configuration."""
    text = POSTGRES + 'password_file = "pg"\n'
    found = finding(folder, text, says("fine"))
    assert (found.level, found.text) == (
        FAIL,
        f"unreadable password file: {folder}/pg (postgres.password_file): No such file or directory",
    )
    secret = folder / "pg"
    secret.write_text("\n")
    assert "is empty" in finding(folder, text, says("fine")).text
    secret.write_text("hunter2\n")
    os.chmod(secret, 0o644)
    found = finding(folder, text, says("fine"))
    assert (found.level, found.advice) == (WARN, f"chmod o-rwx {secret}")
    os.chmod(secret, 0o600)
    assert finding(folder, text, says("fine")) == Finding("postgres", OK, "fine")
    found = finding(folder, '[postgres]\ndsn = "postgresql://me:hunter2@db/app"\n', says("fine"))
    assert (found.level, found.text) == (WARN, "fine; the password stands in the configuration (postgres.dsn)")


def test_a_driver_that_is_not_installed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first job would be the first to tell."""
    monkeypatch.setitem(checks_dependencies.DRIVERS, "postgres", "no_such_driver")
    (folder / "perdure.toml").write_text(POSTGRES)
    found = look("postgres", session.load(None))
    assert (found.level, found.text) == (
        FAIL,
        "missing extra: [postgres] is configured, and its driver, no_such_driver, is not installed",
    )
    assert found.advice is not None
    assert "pip install 'perdure[postgres]'" in found.advice


def test_a_folder_that_is_not_there_yet(folder: Path) -> None:
    """The doctor must leave no file behind."""
    (folder / "perdure.toml").write_text('[workers]\ncount = 1\n[qdrant]\npath = "vectors"\n')
    found = look("qdrant", session.load(None), fails(AssertionError()))
    assert found == Finding("qdrant", OK, f"embedded; the folder {folder}/vectors is made when it is first used")
    assert not (folder / "vectors").exists()


def test_only_what_is_configured_is_looked_at(cli: Cli, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who uses no database would read of three that are missing."""
    lines = [json.loads(line) for line in cli("doctor", "--json").out.splitlines()]
    assert not {"postgres", "neo4j", "qdrant"} & {one["check"] for one in lines}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # bound, and nobody listens
        port = unused.getsockname()[1]
        (folder / "perdure.toml").write_text(f'[postgres]\ndsn = "postgresql://me@127.0.0.1:{port}/app"\n')
        code, out, _ = cli("doctor", "--json")
    found = {one["check"]: one for one in map(json.loads, out.splitlines())}
    assert code == 1
    assert found["postgres"]["level"] == FAIL
    assert str(port) in found["postgres"]["text"]
    assert not {"neo4j", "qdrant"} & set(found)
