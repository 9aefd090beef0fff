"""`perdure doctor` and `perdure config check`: what is wrong must be found, and nothing changed by looking."""

from __future__ import annotations

import fcntl
import json
import os
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from perdure.cli.checks_store import has_wal_reset_bug
from tests.cli.conftest import Cli


def doctor(cli: Cli, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code, and the findings by check."""
    code, out, err = cli("doctor", "--json", *arguments)
    assert err == ""
    return code, {one["check"]: one for one in map(json.loads, out.splitlines())}


@pytest.mark.parametrize(
    ("version", "affected"),
    [
        ((3, 6, 23), False),
        ((3, 7, 0), True),
        ((3, 40, 1), True),
        ((3, 44, 5), True),
        ((3, 44, 6), False),
        ((3, 45, 0), True),
        ((3, 50, 6), True),
        ((3, 50, 7), False),
        ((3, 51, 2), True),
        ((3, 51, 3), False),
        ((3, 52, 0), False),
    ],
)
def test_wal_reset_verdict(version: tuple[int, int, int], affected: bool) -> None:
    """Fixes went into branches: comparing with the newest alone would be wrong both ways."""
    assert has_wal_reset_bug(version) is affected


def test_a_fresh_folder_is_sound(cli: Cli, folder: Path) -> None:
    """A beginner's installation must not be called broken, and looking at it must leave no file."""
    cli("init", ".")
    before = sorted(folder.iterdir())
    code, found = doctor(cli)
    assert code == 0
    assert {check: one["level"] for check, one in found.items() if one["level"] != "ok"} == {"daemon": "warn"}
    assert "3 kinds" in found["handlers"]["text"]
    assert "SQLite" in found["sqlite"]["text"]
    assert [path for path in sorted(folder.iterdir()) if path.name != "__pycache__"] == before


def test_handlers_that_cannot_be_imported(cli: Cli, folder: Path) -> None:
    """The place in the user's file must be named; SystemExit, a dying process and output must not confuse it."""
    (folder / "broken.py").write_text("print('hello')\nimport no_such_module\n")
    (folder / "exits.py").write_text("raise SystemExit(0)\n")
    (folder / "dies.py").write_text("import os\nos.abort()\n")
    (folder / "typo.py").write_text("\ndef f(:\n")
    (folder / "perdure.toml").write_text('[daemon]\nhandlers = ["broken", "exits", "typo"]\n')
    code, found = doctor(cli)
    assert code == 1
    assert found["handlers"]["level"] == "FAIL"
    assert "broken.py:2" in found["handlers"]["text"]
    assert "typo.py:2)" in found["handlers"]["text"]
    assert "exits: SystemExit" in found["handlers"]["text"]
    (folder / "perdure.toml").write_text('[daemon]\nhandlers = ["dies"]\n')
    assert "signal 6" in doctor(cli)[1]["handlers"]["text"]


def test_files_that_are_no_queue(cli: Cli, folder: Path) -> None:
    """A text file, a damaged file or another program's database must be called what it is, and left alone."""
    db = folder / "perdure.db"
    db.write_text("this is not a database, though it is long enough to be one" * 20)
    code, found = doctor(cli)
    assert code == 1
    assert found["schema"]["level"] == found["integrity"]["level"] == "FAIL"
    db.unlink()
    with sqlite3.connect(db) as connection:
        connection.execute("CREATE TABLE other (x)")
    connection.close()
    content = db.read_bytes()
    code, found = doctor(cli)
    assert "another program" in found["schema"]["text"]
    assert found["integrity"]["level"] == "ok"
    assert db.read_bytes() == content


def test_a_lock_that_is_held_while_nobody_answers(cli: Cli, folder: Path) -> None:
    """A daemon that hangs must be told apart from one that is not running."""
    lock = folder / "perdure.db.lock"
    lock.write_text('{"pid": 4242, "role": "daemon", "since": 0}')
    with open(lock) as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        code, found = doctor(cli)
    assert code == 1
    assert "pid 4242" in found["lock"]["text"]
    assert found["daemon"]["level"] == "FAIL"
    assert doctor(cli)[1]["daemon"]["level"] == "warn"


def test_a_clock_that_went_back(cli: Cli, folder: Path) -> None:
    """Schedules hang on the clock."""
    db = folder / "perdure.db"
    sqlite3.connect(db).close()
    os.utime(db, (4_000_000_000, 4_000_000_000))
    assert doctor(cli)[1]["clock"]["level"] == "warn"


def test_a_bad_configuration_is_shown_whole(cli: Cli, folder: Path) -> None:
    """All mistakes at once, each with its line; for programs as a document."""
    (folder / "perdure.toml").write_text("[jobs]\nmax_attempts = -1\ntimeot = 3\n")
    code, out, err = cli("config", "check")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 2
    assert "perdure.toml:2" in err
    assert "perdure.toml:3" in err
    code, out, _ = cli("config", "check", "--json")
    assert code == 2
    assert [mistake["line"] for mistake in json.loads(out)["mistakes"]] == [2, 3]
    code, found = doctor(cli)
    assert code == 1
    assert found["config"]["level"] == "FAIL"


def test_config_show_prints_a_configuration(cli: Cli, folder: Path) -> None:
    """What is shown must be what can be put into a file."""
    import tomllib

    code, out, err = cli("config", "check", "--show")
    assert code == 0
    assert tomllib.loads(out)["jobs"]["max_attempts"] == 5
    assert "ok" in err
    assert json.loads(cli("config", "check", "--show", "--json").out)["settings"]["jobs"]["max_attempts"] == 5


@pytest.mark.parametrize("name", ["none.toml", "."])
def test_a_configuration_that_cannot_be_read(cli: Cli, folder: Path, name: str) -> None:
    """A folder, or a file that is not there, given as --config."""
    code, out, err = cli("jobs", "--config", name)
    assert (code, out) == (2, "")
    assert err.startswith("perdure: ")
    assert len(err.splitlines()) <= 2
