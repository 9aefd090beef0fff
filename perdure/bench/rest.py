"""A daemon at rest: what it costs to do nothing, and what it keeps in memory."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from perdure.bench.daemon import daemon
from perdure.bench.figure import Figure, Sizes, figure
from perdure.bench.fill import fill_available
from perdure.bench.latency import latency_figures, once
from perdure.bench.load import cpu_seconds, release_oldest
from perdure.bench.machine import SyncProbe

#: How long it lies still before each job that wakes it.
STILL_SECONDS = 0.2
#: Jobs that are run before the memory is looked at: a daemon that has just started has its caches empty.
WORKED = 50_000
MB = 1e6

_LOOP = """
import asyncio, uvloop
async def main():
    print("ready", flush=True)
    while True:
        await asyncio.sleep(1)
uvloop.run(main())
"""
_MODULES = """
import asyncio, sqlite3, sys, msgspec, uvloop
print("ready", flush=True)
sys.stdin.read()
"""


def idle(folder: Path, sizes: Sizes) -> list[Figure]:
    """CPU of one core that supervisor, nursery and workers use with nothing queued; and the latency of waking up.

    The limit is a bare uvloop with one timer a second, at the same time; for the latency, the disk's fdatasync.
    """
    with daemon(folder, sizes) as running, _python(_LOOP) as bare, SyncProbe(folder) as probe:
        once(running)
        # What a job leaves behind (finer ticks of the lag meter) is over after a second.
        time.sleep(min(3.0, sizes.idle_seconds))
        before, bare_before, started = cpu_seconds(running.pid), cpu_seconds(bare.pid), time.perf_counter()
        time.sleep(sizes.idle_seconds)
        seconds = time.perf_counter() - started
        value = (cpu_seconds(running.pid) - before) / seconds * 100
        limit = (cpu_seconds(bare.pid) - bare_before) / seconds * 100
        taken, syncs = [], []
        for _ in range(max(sizes.samples // 5, 2)):
            time.sleep(STILL_SECONDS)
            taken.append(once(running))
            syncs.append(probe.sync_ms())
    details = f"over {seconds:.1f} s, {sizes.workers} workers, all threads of all processes (schedstat)"
    woken = f"{len(taken)} jobs, each after {STILL_SECONDS:g} s of nothing"
    return [
        figure("idle", value, "%", limit, "a bare uvloop with one timer a second", details, sizes),
        *latency_figures("idle-latency", taken, syncs, woken, sizes),
    ]


def memory(folder: Path, sizes: Sizes) -> list[Figure]:
    """Resident memory of the supervisor with --many jobs queued, after 50,000 of them have run; and of a worker.

    The worker's is what it shares with nobody. The limit is a bare Python with the modules that no supervisor is
    without: asyncio, sqlite3, msgspec and uvloop.
    """
    worked = min(WORKED, sizes.many)
    fill_available(folder / "perdure.db", sizes.many + worked)
    with daemon(folder, sizes) as running, _python(_MODULES) as bare:
        fresh = _kib(running.pid, "Rss")
        release_oldest(running, worked)
        supervisor = _kib(running.pid, "Rss")
        workers = [_private_kib(worker.pid) for worker in running.status().workers]
        limit, limit_private = _kib(bare.pid, "Rss"), _private_kib(bare.pid)
    scale = 1024 / MB
    details = f"{sizes.many:,} queued; after {worked:,} jobs were run, {fresh * scale:.1f} MB before; smaps_rollup"
    limit_is = "a bare Python with asyncio, sqlite3, msgspec and uvloop imported"
    private = f"the largest of {len(workers)} workers, Private_Clean + Private_Dirty"
    return [
        figure("memory", supervisor * scale, "MB", limit * scale, limit_is, details, sizes),
        figure("memory-worker", max(workers) * scale, "MB", limit_private * scale, limit_is, private, sizes),
    ]


@contextlib.contextmanager
def _python(code: str) -> Iterator[subprocess.Popen[str]]:
    """A bare Python that runs `code`, and has said that it is ready; it is killed at the end."""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.communicate()


def _kib(pid: int, *names: str) -> int:
    """The sum of these lines of a process's smaps_rollup, in KiB."""
    lines = (line.split() for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines())
    return sum(int(words[1]) for words in lines if words[0].rstrip(":") in names)


def _private_kib(pid: int) -> int:
    return _kib(pid, "Private_Clean", "Private_Dirty")
