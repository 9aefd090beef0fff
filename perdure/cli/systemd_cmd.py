"""`perdure systemd`: print the unit for this installation, or install it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from importlib import resources
from pathlib import Path
from typing import Final, NamedTuple

import click

from perdure.cli.lazy import Group
from perdure.errors import Refused, UsageError

#: What the files in config/ say; replaced by what is true for this installation.
_SHIPPED_EXECUTABLE: Final = "/usr/bin/perdure"
_SHIPPED_CONFIG: Final = "/etc/perdure/perdure.toml"
#: Paths that need neither quoting nor escaping in a unit file.
_PLAIN_PATH: Final = re.compile(r"/[A-Za-z0-9._+@:/-]*")
#: Folders that ProtectHome= and PrivateTmp= hide from the service.
_HIDDEN: Final = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # noqa: S108 - compared with, not written
#: The first systemd that knows RestartSteps=.
_RESTART_STEPS_SINCE: Final = 254


class _File(NamedTuple):
    """A file to install. `keep`: it belongs to the administrator once it is there."""

    target: str
    content: str
    keep: bool = False


@click.group("systemd", cls=Group)
def systemd() -> None:
    """Run perdure as a systemd service."""


_executable_option = click.option(
    "--executable", metavar="PATH", help="The perdure that the service runs.  [default: this one]"
)
_config_option = click.option(
    "--config", default=_SHIPPED_CONFIG, show_default=True, metavar="PATH", help="The service's configuration file."
)


@systemd.command("print")
@_executable_option
@_config_option
def print_unit(executable: str | None, config: str) -> None:
    """Print the unit file with the paths of this installation."""
    command = _command(executable)
    click.echo(_render("perdure.service", command, config), nl=False)
    if reason := _invisible(command):
        click.echo(f"warning: {reason}", err=True)


@systemd.command("install")
@_executable_option
@_config_option
@click.option("--root", default="/", metavar="DIR", help="Install below this folder, as for an image.")
@click.option("--force", is_flag=True, help="Replace files that were changed.")
@click.option("--dry-run", is_flag=True, help="Say what would be done, and do nothing.")
def install(executable: str | None, config: str, root: str, force: bool, dry_run: bool) -> None:
    """Install unit, user, folders and a first configuration; print what to run next."""
    command = _command(executable)
    if reason := _invisible(command):
        raise UsageError(reason)
    base = Path(root)
    files = _files(command, config, with_steps=_systemd_version() >= _RESTART_STEPS_SINCE)
    _refuse_changed(base, files, force)
    for file in files:
        click.echo(f"{_put(base, file, dry_run)} {_below(base, file.target)}")
    if dry_run:
        click.echo("Nothing was written (--dry-run).")
    elif base.resolve() == Path("/"):
        click.echo(_next_steps(config))


def _files(command: str, config: str, *, with_steps: bool) -> list[_File]:
    files = [
        _File("/etc/systemd/system/perdure.service", _render("perdure.service", command, config)),
        _File("/etc/sysusers.d/perdure.conf", _shipped("perdure.sysusers.conf")),
        _File("/etc/tmpfiles.d/perdure.conf", _shipped("perdure.tmpfiles.conf")),
        _File(config, _shipped("service.toml"), keep=True),
    ]
    if with_steps:
        files.append(_File("/etc/systemd/system/perdure.service.d/254.conf", _shipped("perdure-254.conf")))
    return files


def _shipped(name: str) -> str:
    return resources.files("perdure.config").joinpath(name).read_text()


def _render(name: str, command: str, config: str) -> str:
    return _shipped(name).replace(_SHIPPED_EXECUTABLE, _plain(command)).replace(_SHIPPED_CONFIG, _plain(config))


def _plain(path: str) -> str:
    """`path`, if it means the same in a unit file; UsageError otherwise."""
    if not _PLAIN_PATH.fullmatch(path):
        raise UsageError(
            f"{path!r} cannot stand in a unit file. Use an absolute path of letters, digits and . _ + @ : / - only."
        )
    return path


def _command(given: str | None) -> str:
    """The absolute path of the `perdure` that the service runs."""
    if given:
        return given
    beside = Path(sys.executable).with_name("perdure")
    if beside.is_file():
        return str(beside)
    if found := shutil.which("perdure"):
        return os.path.abspath(found)
    raise UsageError("No perdure command was found beside this Python. Name it with --executable PATH.")


def _invisible(command: str) -> str | None:
    """Why the service could not start `command`: it, or the Python that runs it, lies where the unit cannot look."""
    places = [command, os.path.realpath(command)]
    if os.path.dirname(command) == os.path.dirname(sys.executable):
        places.append(os.path.realpath(sys.executable))
    for place in places:
        for folder in _HIDDEN:
            if place.startswith(folder + "/"):
                return (
                    f"The service cannot see {place}: its unit hides {folder}. Make a virtual environment elsewhere, "
                    "from a Python that is not in a home folder: /usr/bin/python3 -m venv /opt/perdure"
                )
    return None


def _systemd_version() -> int:
    """The major version of this machine's systemd; 0 where there is none."""
    try:
        said = subprocess.run(["systemctl", "--version"], capture_output=True, text=True, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return 0
    found = re.match(r"systemd (\d+)", said)
    return int(found[1]) if found else 0


def _below(base: Path, target: str) -> Path:
    return base / target.lstrip("/")


def _refuse_changed(base: Path, files: list[_File], force: bool) -> None:
    """All or nothing: one file that was changed by hand stops the installation before it writes any."""
    ours = ((_below(base, file.target), file.content) for file in files if not file.keep)
    changed = [str(path) for path, content in ours if _differs(path, content)]
    if changed and not force:
        raise Refused(
            f"Changed since it was installed, or from another version: {', '.join(changed)}. "
            "Keep your changes in a drop-in (systemctl edit perdure), then replace the file with --force."
        )


def _differs(path: Path, content: str) -> bool:
    try:
        return path.read_text(errors="replace") != content
    except FileNotFoundError:
        return False


def _put(base: Path, file: _File, dry_run: bool) -> str:
    """Write one file, complete or not at all; the word for what was done."""
    path = _below(base, file.target)
    if path.exists() and (file.keep or not _differs(path, file.content)):
        return "kept     "
    done = "replaced " if path.exists() else "installed"
    if not dry_run:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.new")
        draft.write_text(file.content)
        draft.chmod(0o644)
        draft.replace(path)
    return done


def _next_steps(config: str) -> str:
    return f"""
Next:
  systemd-sysusers perdure.conf                     # the user
  systemd-tmpfiles --create perdure.conf            # its folders
  $EDITOR {config:<42}# name your handlers
  systemctl daemon-reload
  systemctl enable --now perdure
  journalctl -u perdure -f                          # what it says"""
