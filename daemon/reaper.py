"""Collects processes that have ended: the supervisor's own, and orphans that it inherits as subreaper."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

#: Exits of processes that nobody has asked about yet; a worker may end before its pid is known here.
UNCLAIMED = 256


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended, and what it had used."""

    pid: int
    status: int | None
    signal: int | None
    cpu_seconds: float
    max_rss_bytes: int

    @classmethod
    def of(cls, pid: int, wait_status: int, usage: resource.struct_rusage) -> Exit:
        """From what wait4(2) says."""
        code = os.waitstatus_to_exitcode(wait_status)
        cpu = usage.ru_utime + usage.ru_stime
        return cls(pid, code if code >= 0 else None, -code if code < 0 else None, cpu, usage.ru_maxrss * 1024)

    @property
    def clean(self) -> bool:
        """It ended with status 0."""
        return self.status == 0

    def __str__(self) -> str:
        if self.signal is not None:
            try:
                name = signal.Signals(self.signal).name
            except ValueError:
                name = f"signal {self.signal}"
            return f"killed by {name}"
        return f"exited with status {self.status}"

    def as_data(self) -> dict[str, int | float | str]:
        """For the record of the jobs that it took along."""
        how: dict[str, int | float | str] = {"pid": self.pid}
        if self.signal is not None:
            how["signal"] = str(self).removeprefix("killed by ")
        else:
            how["status"] = self.status or 0
        return how | {"cpu_seconds": round(self.cpu_seconds, 3), "max_rss_bytes": self.max_rss_bytes}


class Reaper:
    """Calls back when a watched process has ended. By pidfd: no signal handler, and nothing can be missed."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._watched: dict[int, tuple[int, Callable[[Exit], None]]] = {}
        self._unclaimed: OrderedDict[int, Exit] = OrderedDict()

    def watch(self, pid: int, on_exit: Callable[[Exit], None]) -> None:
        """Call `on_exit` once, from the loop, when `pid` (a child, or about to be one) has ended."""
        known = self._unclaimed.pop(pid, None)
        if known is not None:
            self._loop.call_soon(on_exit, known)
            return
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            lost = Exit(pid, None, None, 0.0, 0)
            self._loop.call_soon(on_exit, lost)
            return
        self._watched[pid] = (fd, on_exit)
        self._loop.add_reader(fd, self._collect, pid)

    def forget_unclaimed(self) -> None:
        """Nobody will ask about the orphans collected so far: their pids may be used again."""
        self._unclaimed.clear()

    def sweep(self) -> None:
        """Collect orphans: processes that jobs left behind and that have ended."""
        while True:
            try:
                pid, status, usage = os.wait4(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            self._ended(Exit.of(pid, status, usage))

    def close(self) -> None:
        """Watch nothing any more."""
        for fd, _ in self._watched.values():
            self._loop.remove_reader(fd)
            os.close(fd)
        self._watched.clear()

    def _collect(self, pid: int) -> None:
        try:
            ended, status, usage = os.wait4(pid, os.WNOHANG)
        except ChildProcessError:
            # Not our child yet: its first parent is about to end. The descriptor stays readable, so this comes again.
            return
        if ended:
            self._ended(Exit.of(ended, status, usage))

    def _ended(self, ended: Exit) -> None:
        watched = self._watched.pop(ended.pid, None)
        if watched is None:
            self._unclaimed[ended.pid] = ended
            while len(self._unclaimed) > UNCLAIMED:
                self._unclaimed.popitem(last=False)
            return
        fd, on_exit = watched
        self._loop.remove_reader(fd)
        os.close(fd)
        on_exit(ended)
