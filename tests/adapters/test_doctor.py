"""`perdure doctor` with a real server: which of the mistakes it is."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from perdure.adapters import postgres_connect, postgres_sniff
from perdure.cli.checks import FAIL, OK, WARN, Finding
from perdure.cli.checks_dependencies import look
from perdure.config.settings import load_settings
from tests.support.line_server import LineServer
from tests.support.postgres_server import PostgresBench, through, without_password


def doctor(folder: Path, dsn: str, password: str | None = None, rest: str = "") -> Finding:
    """What is found with this address, and this password in a file."""
    lines = ["[workers]", "count = 1", "[postgres]", f'dsn = "{dsn}"', 'connect_timeout = "3s"', rest]
    if password is not None:
        (folder / "pg").write_text(f"{password}\n")
        (folder / "pg").chmod(0o600)
        lines.append('password_file = "pg"')
    (folder / "perdure.toml").write_text("\n".join(lines))
    return look("postgres", load_settings(folder / "perdure.toml", {}))


def test_a_server_that_is_well(tmp_path: Path, postgres_dsn: str) -> None:
    """Working installations would be called broken; a pool that is too large would not be noticed."""
    dsn, password = without_password(postgres_dsn)
    found = doctor(tmp_path, dsn, password)
    assert (found.check, found.level) == ("postgres", OK)
    assert "PostgreSQL" in found.text
    found = doctor(tmp_path, dsn, password, "pool_max = 1000\nmax_connections = 3000")
    assert found.level == WARN
    assert "3000 in all" in found.text
    assert doctor(tmp_path, postgres_dsn).level == WARN, "the password stands in the configuration"


def test_what_is_wrong(
    tmp_path: Path, postgres: PostgresBench, postgres_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who mistyped the host would be sent to look at the password."""
    monkeypatch.setattr(postgres_connect, "_SLOW_SECONDS", 0.25)
    monkeypatch.setattr(postgres_sniff, "QUESTION_SECONDS", 0.25)
    dsn, password = without_password(postgres_dsn)
    with socket.socket() as silent, LineServer() as other:
        silent.bind(("127.0.0.1", 0))
        tried = {
            "wrong credentials": doctor(tmp_path, dsn, f"{password}x"),
            "wrong database": doctor(tmp_path, dsn.rpartition("/")[0] + "/nowhere", password),
            "no answer": doctor(tmp_path, through(dsn, silent.getsockname()[1]), password),
            "another protocol": doctor(tmp_path, through(dsn, other.port), password),
            "wrong host": doctor(tmp_path, "postgresql://me@no-such-host.invalid/app", password),
        }
        if not postgres.external:
            tried["TLS expected and not offered"] = doctor(tmp_path, f"{dsn}?sslmode=require", password)
    for what, found in tried.items():
        assert found.level == FAIL, what
        assert found.text.startswith(f"{what}: "), found.text
        assert password not in found.text


def test_a_password_file_that_is_not_there(tmp_path: Path, postgres_dsn: str) -> None:
    """The file's name is what has to be mended, not the password."""
    dsn, _ = without_password(postgres_dsn)
    found = doctor(tmp_path, dsn, rest='password_file = "gone"')
    assert found.text.startswith(f"unreadable password file: {tmp_path}/gone (postgres.password_file)")


def test_other_adapters_are_asked_too(tmp_path: Path) -> None:
    """A check that is never reached would find nothing wrong."""
    port = 1  # nobody listens there
    text = (
        f'[workers]\ncount = 1\n[neo4j]\nuri = "bolt://127.0.0.1:{port}"\n[qdrant]\nurl = "http://127.0.0.1:{port}"\n'
    )
    (tmp_path / "perdure.toml").write_text(text)
    settings = load_settings(tmp_path / "perdure.toml", {})
    for name in ("neo4j", "qdrant"):
        found = look(name, settings)
        assert (found.check, found.level) == (name, FAIL)
        assert found.text.startswith("no answer: "), found.text
