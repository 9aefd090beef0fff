"""What this machine can do: printed at the start of a test run, and the reason of what is skipped."""

from __future__ import annotations

import functools
import os
import platform
import shutil
import sqlite3
import subprocess
import sys
from typing import NamedTuple


class Ability(NamedTuple):
    """`missing` is the reason why it is not there; empty: it is."""

    name: str
    missing: str


def machine() -> str:
    """Python, SQLite, kernel and cores in one line."""
    python, cores = platform.python_version(), len(os.sched_getaffinity(0))
    return f"Python {python}, SQLite {sqlite3.sqlite_version}, Linux {platform.release()}, {cores} cores"


def root() -> Ability:
    """Tests that need uid 0."""
    return Ability("root", "" if os.geteuid() == 0 else f"running as uid {os.geteuid()}")


@functools.cache
def namespaces() -> Ability:
    """New mount, pid and network namespaces."""
    if shutil.which("unshare") is None:
        return Ability("namespaces", "unshare (util-linux) is not installed")
    command = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup", "--fork", "true"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    return Ability("namespaces", "" if done.returncode == 0 else done.stderr.strip() or f"unshare: {done.returncode}")


def systemd() -> Ability:
    """The real systemd as pid 1 of fresh namespaces."""
    if not os.path.exists("/lib/systemd/systemd"):
        return Ability("systemd", "/lib/systemd/systemd is not installed")
    missing = root().missing or namespaces().missing
    return Ability("systemd", missing and f"cannot be booted in namespaces: {missing}")


def small_filesystem() -> Ability:
    """A tmpfs of a few MiB, to fill up."""
    missing = root().missing or namespaces().missing
    return Ability("full disk", missing and f"cannot mount a small tmpfs: {missing}")


def abilities() -> list[Ability]:
    """All of them."""
    return [root(), namespaces(), systemd(), small_filesystem(), _python_stacks()]


def _python_stacks() -> Ability:
    return Ability("pidfd", "" if hasattr(os, "pidfd_open") and sys.platform == "linux" else "no pidfd_open")
