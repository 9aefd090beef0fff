"""The unit file, judged by systemd's own tools."""

from __future__ import annotations

import configparser
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from perdure.cli.systemd_cmd import _render

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
CONFIG = Path(__file__).parents[2] / "config"

#: Exposure times ten, the unit of `--threshold`; 10 is the worst unit, Debian's PostgreSQL has 9.6.
MOST_EXPOSED = 20


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with commands that exist on this machine."""
    path = tmp_path / "perdure.service"
    path.write_text(_render("perdure.service", "/bin/true", "/etc/perdure/perdure.toml"))
    return path


def _analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "LC_ALL": "C", "SYSTEMD_COLORS": "0"}
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, timeout=30, env=environ)


@needs_analyze
def test_systemd_understands_every_line(unit: Path) -> None:
    """A misspelt key is only a warning for systemd: the setting would silently not apply."""
    done = _analyze("verify", str(unit))
    assert done.returncode == 0, done.stderr
    assert not re.search(r"Unknown|Failed to parse", done.stderr), done.stderr


@needs_analyze
def test_exposure_stays_low(unit: Path) -> None:
    """Jobs run other people's code: the unit keeps what that code can reach small."""
    done = _analyze("security", "--offline=true", f"--threshold={MOST_EXPOSED}", str(unit))
    assert done.returncode == 0, done.stdout


def test_what_must_not_be_there() -> None:
    """Settings that look good and break us: clients seen as nobody, status without numbers, libraries that die."""
    settings = [line for line in (CONFIG / "perdure.service").read_text().splitlines() if not line.startswith("#")]
    for forbidden in ("PrivateUsers=yes", "ProcSubset=pid", "MemoryDenyWriteExecute=yes", "ProtectControlGroups=yes"):
        assert forbidden not in settings
    assert "Type=notify" in settings  # 252 falls back to simple at notify-reload


def test_the_stop_leaves_time_for_the_drain() -> None:
    """If systemd killed the daemon within its own drain limit, each stop would interrupt jobs."""
    unit = (CONFIG / "perdure.service").read_text()
    found = re.search(r"^TimeoutStopSec=(\d+)s$", unit, re.MULTILINE)
    assert found
    assert int(found[1]) > 30, "daemon.drain_limit is 30s by default"


def test_the_drop_in_holds_only_what_old_versions_do_not_know() -> None:
    """A drop-in for 254 that changed anything else would make two kinds of installations."""
    parser = configparser.ConfigParser()
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(CONFIG / "perdure-254.conf")
    assert {name: set(parser[name]) for name in parser.sections()} == {
        "Service": {"RestartSteps", "RestartMaxDelaySec"}
    }
