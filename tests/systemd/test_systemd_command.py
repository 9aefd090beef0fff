"""`perdure systemd print` and `install`."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from perdure.cli import systemd_cmd
from perdure.errors import Refused, UsageError

UNIT = "etc/systemd/system/perdure.service"
DROP_IN = "etc/systemd/system/perdure.service.d/254.conf"


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(systemd_cmd.systemd, arguments, standalone_mode=False)


def _install(root: Path, *more: str) -> Result:
    return _run("install", "--root", str(root), "--executable", "/opt/perdure/bin/perdure", *more)


def test_print_shows_the_paths_of_this_installation() -> None:
    """A unit that starts another perdure, or reads another configuration, is worse than none."""
    printed = _run("print", "--executable", "/opt/p/bin/perdure", "--config", "/srv/p.toml").stdout
    assert "\nExecStart=/opt/p/bin/perdure run\n" in printed
    assert "\nExecReload=/opt/p/bin/perdure reload --wait\n" in printed
    assert "\nEnvironment=PERDURE_CONFIG=/srv/p.toml\n" in printed
    assert "/usr/bin/perdure" not in printed


def test_print_without_options_names_an_absolute_command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """systemd refuses a relative ExecStart: the command beside this Python is found."""
    (tmp_path / "perdure").touch()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert f"\nExecStart={tmp_path}/perdure run\n" in _run("print").stdout


def test_install_writes_everything_below_the_root(tmp_path: Path) -> None:
    """An image builder gets a complete service, readable by all, and the host's own files stay as they are."""
    result = _install(tmp_path)
    assert result.exception is None
    found = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()} - {DROP_IN}
    assert found == {UNIT, "etc/sysusers.d/perdure.conf", "etc/tmpfiles.d/perdure.conf", "etc/perdure/perdure.toml"}
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in found} == {0o644}


def test_install_twice_changes_nothing(tmp_path: Path) -> None:
    """Configuration management runs it again and again."""
    _install(tmp_path)
    before = (tmp_path / UNIT).stat()
    result = _install(tmp_path)
    assert result.exception is None
    assert "installed" not in result.stdout
    assert (tmp_path / UNIT).stat().st_ino == before.st_ino


def test_a_changed_file_is_not_replaced_without_force(tmp_path: Path) -> None:
    """An administrator's change would be lost; and nothing else may be written by half."""
    unit = tmp_path / UNIT
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\nExecStart=/mine\n")
    result = _install(tmp_path)
    assert isinstance(result.exception, Refused)
    assert str(unit) in str(result.exception)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [unit]
    assert _install(tmp_path, "--force").exception is None
    assert "ExecStart=/opt/perdure/bin/perdure run" in unit.read_text()


def test_the_configuration_is_never_replaced(tmp_path: Path) -> None:
    """Not even --force throws away the administrator's configuration."""
    config = tmp_path / "etc/perdure/perdure.toml"
    config.parent.mkdir(parents=True)
    config.write_text("# mine\n")
    assert _install(tmp_path, "--force").exception is None
    assert config.read_text() == "# mine\n"


def test_dry_run_writes_nothing(tmp_path: Path) -> None:
    """--dry-run is for looking before leaping."""
    result = _install(tmp_path, "--dry-run")
    assert UNIT in result.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("version", "expected"), [(252, False), (254, True), (257, True), (0, False)])
def test_the_drop_in_comes_with_254(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: int, expected: bool
) -> None:
    """An older systemd would warn about unknown keys at every reload."""
    monkeypatch.setattr(systemd_cmd, "_systemd_version", lambda: version)
    _install(tmp_path)
    assert (tmp_path / DROP_IN).exists() == expected


@pytest.mark.parametrize("place", ["/root/venv/bin/perdure", "/home/ann/.local/bin/perdure", "/tmp/v/bin/perdure"])
def test_a_command_that_the_service_cannot_see_is_refused(tmp_path: Path, place: str) -> None:
    """ProtectHome and PrivateTmp hide it: the service would fail with 203/EXEC, which says nothing."""
    result = _run("install", "--root", str(tmp_path), "--executable", place)
    assert isinstance(result.exception, UsageError)
    assert "python3 -m venv /opt/perdure" in str(result.exception)
    assert "warning:" in _run("print", "--executable", place).stderr


@pytest.mark.parametrize(
    "path", ["relative/perdure", "/opt/a b/perdure", "/opt/100%/perdure", "/opt/$x/perdure", '/o"']
)
def test_paths_that_systemd_would_read_differently_are_refused(path: str) -> None:
    """Spaces, % and $ have a meaning in unit files."""
    assert isinstance(_run("print", "--executable", path).exception, UsageError)
