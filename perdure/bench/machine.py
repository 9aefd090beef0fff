"""What the machine does by itself: virtual ones are twice as fast on one day as on the next."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import time
from importlib.metadata import version
from pathlib import Path

from perdure.bench.figure import p99, short

#: Steps of the loop whose time is printed.
LOOP_STEPS = 1_000_000
SYNCS = 200
COMMITS = 500
#: What is written before each sync, in bytes: a page of SQLite.
PAGE = b"x" * 4096


def describe(folder: Path) -> str:
    """The machine and its speed right now, on the disk of `folder`, in one line."""
    cores = len(os.sched_getaffinity(0))
    versions = f"Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}, uvloop {version('uvloop')}"
    syncs = fdatasync_ms(folder, SYNCS)
    disk = f"fdatasync {short(statistics.median(syncs))} ms, p99 {short(p99(syncs))} ms"
    return (
        f"{cores} cores, {_processor()}, Linux {platform.release()}, {versions}; now: {loop_ns():.1f} ns a step of an "
        f"empty Python loop, {commits_per_second(folder):,.0f} SQLite commits/s, {disk}"
    )


def loop_ns() -> float:
    """Nanoseconds of a step of a loop that adds numbers: the best of five."""
    times = []
    for _ in range(5):
        started = time.perf_counter_ns()
        total = 0
        for number in range(LOOP_STEPS):
            total += number
        times.append((time.perf_counter_ns() - started) / LOOP_STEPS)
    return min(times)


def fdatasync_ms(folder: Path, samples: int) -> list[float]:
    """How long the disk takes to make one written page durable, so many times."""
    with SyncProbe(folder) as probe:
        return [probe.sync_ms() for _ in range(samples)]


class SyncProbe:
    """Writes a page and syncs it whenever asked, for figures that are taken between others."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "sync"
        self._file = self._path.open("wb", buffering=0)

    def sync_ms(self) -> float:
        """Append a page; milliseconds until it is on the disk."""
        started = time.perf_counter()
        self._file.write(PAGE)
        os.fdatasync(self._file.fileno())
        return (time.perf_counter() - started) * 1000

    def __enter__(self) -> SyncProbe:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._path.unlink()


def commits_per_second(folder: Path) -> float:
    """Transactions of one small row each, in a write-ahead log with synchronous=FULL."""
    path = folder / "commits.db"
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, text TEXT)")
        started = time.perf_counter()
        for _ in range(COMMITS):
            connection.execute("INSERT INTO t (text) VALUES ('x')")
        return COMMITS / (time.perf_counter() - started)
    finally:
        connection.close()
        for file in folder.glob("commits.db*"):
            file.unlink()


class Stolen:
    """The share of the processors' time that the hypervisor gave to other machines since this was made."""

    def __init__(self) -> None:
        self._before = _processor_ticks()

    def percent(self) -> float:
        """In percent of all time; 0.0 where the system does not say."""
        before, now = self._before, _processor_ticks()
        total = now[0] - before[0]
        return round(100 * (now[1] - before[1]) / total, 1) if total else 0.0


def _processor_ticks() -> tuple[int, int]:
    """All ticks of all processors, and those stolen. The two columns after steal are contained in others."""
    with open("/proc/stat") as file:
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks), ticks[7] if len(ticks) > 7 else 0


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
