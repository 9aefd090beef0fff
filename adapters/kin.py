"""Processes that belong together, found in /proc by a mark in their environment. All of this reads files: in a thread.

A process inherits its environment from who started it, however often it forks, leaves its group or its session, or
loses its parent. Only one that cleans its environment is lost sight of, if it leaves its session, too.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

_PROC: Final = Path("/proc")
#: A process that is just becoming another program has no environment for a moment: how often to look again, and the
#: pause before that, seconds.
_LOOKS, _PAUSE_SECONDS = 4, 0.001
#: The parent of the kernel's own processes, which never have any.
_KTHREADD: Final = 2
_SHOWN_CHARS: Final = 80
_PIECE_BYTES: Final = 64 * 1024


class Process(NamedTuple):
    """A living process. `environ`: as the kernel has it from its start, entries between NUL bytes."""

    pid: int
    name: str
    parent: int
    session: int
    environ: bytes

    def has(self, entry: bytes) -> bool:
        """Whether its environment has exactly this entry, b"NAME=value"."""
        return entry in self.environ and entry in self.environ.split(b"\0")

    def variable(self, name: bytes) -> str | None:
        """The value of a variable; None if it has none of this name."""
        for entry in self.environ.split(b"\0"):
            if entry.startswith(name + b"="):
                return entry[len(name) + 1 :].decode("utf-8", "replace")
        return None

    def __str__(self) -> str:
        return f"pid {self.pid} ({command_line(self.pid)})"


def look(pid: int) -> Process | None:
    """A process, if it lives. The environment of one that we may not look into is empty."""
    try:
        stat = _read(pid, "stat")
    except OSError:
        return None
    # The name stands in parentheses and may have any character in it, parentheses too.
    end = stat.rindex(b")")
    state, parent, _group, session = stat[end + 1 :].split()[:4]
    if state in (b"Z", b"X"):
        return None
    environ = _environ(pid) if int(parent) not in (0, _KTHREADD) else b""
    name = stat[stat.index(b"(") + 1 : end].decode("utf-8", "replace")
    return Process(pid, name, int(parent), int(session), environ)


def _environ(pid: int) -> bytes:
    for _ in range(_LOOKS):
        try:
            environ = _read(pid, "environ")
        except OSError:
            break
        if environ:
            return environ
        time.sleep(_PAUSE_SECONDS)
    return b""


def _read(pid: int, name: str) -> bytes:
    """A file of a process, by bare calls of the system: a look at everybody takes a third of the time, and others wait
    for it. Raises OSError."""
    fd = os.open(f"{_PROC}/{pid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(fd, _PIECE_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(fd)


def everybody() -> Iterator[Process]:
    """All living processes that this one can see."""
    with os.scandir(_PROC) as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for pid in pids:
        found = look(pid)
        if found is not None:
            yield found


def children(pid: int) -> list[int] | None:
    """The children of a process, orphans that it took in among them; None if this kernel does not tell.

    Some may be missing while others end.
    """
    lists: list[bytes] = []
    with contextlib.suppress(OSError):
        for task in os.listdir(_PROC / str(pid) / "task"):
            with contextlib.suppress(OSError):  # a thread that has just ended
                lists.append((_PROC / str(pid) / "task" / task / "children").read_bytes())
    return [int(child) for one in lists for child in one.split()] if lists else None


def family(mark: bytes, leader: int) -> list[Process]:
    """Who has this entry in the environment, or is in the session that `leader` began; but for `leader` itself."""
    own = os.getpid()
    return [one for one in everybody() if one.pid not in (leader, own) and (one.session == leader or one.has(mark))]


def left_behind(mark: bytes, leader: int, reaper: int) -> list[Process]:
    """Of the same family, once its leader has ended: orphans, which `reaper` has taken in. Quick: reads a few files."""
    orphans = children(reaper)
    if orphans is None:
        return family(mark, leader)
    found = (look(pid) for pid in orphans if pid != leader)
    return [one for one in found if one is not None and (one.session == leader or one.has(mark))]


def send(processes: Iterable[Process], number: signal.Signals) -> None:
    """Send a signal to each of these that still is who it was; those that we may not signal are left alone."""
    for one in processes:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            handle = os.pidfd_open(one.pid)
            try:
                # The number may belong to somebody else by now; what the handle stands for cannot change any more.
                now = look(one.pid)
                if now is not None and now.session == one.session and now.environ == one.environ:
                    signal.pidfd_send_signal(handle, number)
            finally:
                os.close(handle)


def command_line(pid: int) -> str:
    """How it was called, cut to a readable length."""
    try:
        line = (_PROC / str(pid) / "cmdline").read_bytes()
    except OSError:
        return "gone"
    text = line.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}…"
