"""A machine with the real systemd, in namespaces of this one, with perdure installed in /opt/perdure."""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import IO, Any, Self

from packaging.requirements import Requirement

PROJECT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("systemd_namespace.sh")
#: Pythons that a service user can run: not in a home folder.
PYTHONS = ("/usr/bin/python3", "/usr/local/bin/python3")
#: What `ProtectHome=` hides.
HOMES = ("/root/", "/home/", "/run/user/")


@functools.cache
def why_not(folder: Path) -> str:
    """Why the machine cannot be booted here; empty if it can. `folder`: any writable one."""
    if service_python() is None:
        return "no Python 3.11 or newer outside home folders"
    done = subprocess.run([SCRIPT, "probe", folder], capture_output=True, text=True, timeout=30)
    return "" if done.returncode == 0 else " ".join(done.stderr.split())


@functools.cache
def service_python() -> Path | None:
    """A Python for the service's virtual environment."""
    mine = Path(sys.executable).resolve()
    candidates = [mine, *(Path(name) for name in PYTHONS)]
    return next((path for path in candidates if not _in_a_home(path) and _is_new_enough(path)), None)


class Machine:
    """Boot, run commands inside, power off. It dies with this process, however this process ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._boot: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        install_perdure(self._folder / "opt" / "perdure")
        command = [str(SCRIPT), "boot", str(self._folder)]
        self._boot = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        line = _file(self._boot.stdout).readline()
        if not line.startswith("up: "):
            self.__exit__()
            raise AssertionError(f"the machine did not boot: {line!r}")
        return self

    def __exit__(self, *_: object) -> None:
        if self._boot is not None:
            _file(self._boot.stdin).close()
            self._boot.wait(30)
            _file(self._boot.stdout).close()

    def run(self, *command: str, timeout: float = 30, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as root. Raises AssertionError with its output if it fails and `check` is set."""
        enter = [str(SCRIPT), "enter", str(self._folder), *command]
        done = subprocess.run(enter, capture_output=True, text=True, timeout=timeout)
        if check and done.returncode != 0:
            raise AssertionError(f"{command}: exit code {done.returncode}\n{done.stdout}{done.stderr}{self.story()}")
        return done

    def perdure(self, *arguments: str, timeout: float = 30, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run the installed perdure, as an administrator would."""
        return self.run("/opt/perdure/bin/perdure", *arguments, timeout=timeout, check=check)

    def write(self, path: str, text: str) -> None:
        """Put a file inside."""
        self.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && printf %s "$2" >"$1"', "-", path, text)

    def show(self, name: str, unit: str = "perdure.service") -> str:
        """A property of a unit, as `systemctl show` gives it."""
        return self.run("systemctl", "show", "--property", name, "--value", unit).stdout.strip()

    def journal(self, unit: str = "perdure.service") -> list[dict[str, Any]]:
        """Every journal entry of a unit, oldest first."""
        self.run("journalctl", "--sync")
        said = self.run("journalctl", "--unit", unit, "--output", "json", "--no-pager")
        return [json.loads(line) for line in said.stdout.splitlines()]

    def story(self) -> str:
        """What the service said last, for the message of a failed test."""
        enter = [str(SCRIPT), "enter", str(self._folder)]
        lines = subprocess.run(
            [*enter, "journalctl", "-n", "40", "--no-pager", "-o", "short-precise"], capture_output=True, text=True
        )
        return f"--- journal\n{lines.stdout}"


def install_perdure(place: Path) -> None:
    """A virtual environment at `place` that will be /opt/perdure inside.

    With the same minor version of Python, the packages are copied from the environment that runs the tests: no
    network is needed, and a second is enough. Otherwise they are installed. Compiled, as pip does it: nobody can write
    there later, and each command would compile everything anew.
    """
    python = service_python()
    assert python is not None
    subprocess.run([python, "-m", "venv", "--without-pip", place], check=True, timeout=60)
    inside = place / "bin" / "python"
    if _minor_version(python) == f"{sys.version_info.major}.{sys.version_info.minor}":
        packages = place / "lib" / f"python{_minor_version(python)}" / "site-packages"
        for name in _needed():
            _copy_distribution(name, packages)
        shutil.copytree(PROJECT / "perdure", packages / "perdure", ignore=shutil.ignore_patterns("__pycache__"))
        subprocess.run([inside, "-m", "compileall", "-q", packages / "perdure"], check=True, timeout=60)
    else:
        pip = [sys.executable, "-m", "pip", "--python", str(inside), "install", "--quiet", str(PROJECT)]
        subprocess.run(pip, check=True, timeout=180)
    script = place / "bin" / "perdure"
    script.write_text("#!/opt/perdure/bin/python\nfrom perdure.cli.main import main\nmain()\n")
    script.chmod(0o755)
    _readable_by_all(place)


def _needed() -> set[str]:
    """The distributions that perdure needs, and those that they need."""
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    found: set[str] = set()
    left = list(project["dependencies"])
    while left:
        need = Requirement(left.pop())
        if need.name not in found and (need.marker is None or need.marker.evaluate({"extra": ""})):
            found.add(need.name)
            left += metadata.requires(need.name) or []
    return found


def _copy_distribution(name: str, packages: Path) -> None:
    for file in metadata.files(name) or []:
        if ".." not in file.parts:
            target = packages / file
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file.locate(), target)  # with the times: compiled code is for a source of a certain time


def _readable_by_all(place: Path) -> None:
    for folder, _, files in os.walk(place):
        os.chmod(folder, 0o755)
        for name in files:
            path = Path(folder, name)
            if not path.is_symlink():
                path.chmod(path.stat().st_mode | 0o444)


def _in_a_home(path: Path) -> bool:
    return str(path.resolve()).startswith(HOMES)


def _is_new_enough(path: Path) -> bool:
    version = _minor_version(path)
    return bool(version) and tuple(map(int, version.split("."))) >= (3, 11)


@functools.cache
def _minor_version(python: Path) -> str:
    code = "import sys, venv; print('%d.%d' % sys.version_info[:2])"
    try:
        return subprocess.run(
            [python, "-c", code], capture_output=True, text=True, timeout=20, check=True
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _file(stream: IO[str] | None) -> IO[str]:
    assert stream is not None
    return stream
