"""Large arguments, and payloads over the limit for them, which go into the spool as files."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path

import msgspec
import uvloop

from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, point
from perdure.bench.load import QUEUE, count, tail
from perdure.bench.raw import Commit, Raw, Work, drained, enqueued, nothing
from perdure.client import Client
from perdure.wire.calls import Caller, connect
from perdure.wire.control import Enqueue, WaitJobs
from perdure.wire.data import JobSpec

PLAIN = "SQLite with the same bytes in rows of a bare table, committed one by one, read once"
KB, MB = 1_000, 1_000_000
#: Bytes of a call: as many jobs as make that up.
CALL_BYTES = MB // 2
IN_FLIGHT = 4
#: Of a size, at least so many jobs.
LEAST_JOBS = 8
#: From this size on the job's data is a payload in the spool: limits.args is 1 MiB.
SPOOL_FROM = MB
#: The rows of the table.
ROW_SIZES = (("payload-1KB", KB), ("payload-100KB", 100 * KB), ("payload-10MB", 10 * MB))
#: Sizes of the plot, in bytes.
PLOT_SIZES = (100, KB, 10 * KB, 100 * KB, 500 * KB, MB, 10 * MB)


def payload(folder: Path, sizes: Sizes) -> list[Figure]:
    """Bytes a second from the first enqueue until all jobs have run: 1 KB and 100 KB as arguments, 10 MB in the spool.

    The limit for arguments is raw SQLite with the store's statements for such jobs; for 10 MB it is rows of a bare
    table with nothing but these bytes, committed one by one and read once. The memory row: by how much the supervisor's
    peak grows over what it has after the first four payloads; the limit is one payload.
    """
    figures = []
    for name, size in ROW_SIZES:
        place = folder / name
        place.mkdir()
        value, limit, details, growth = _measure(place, size, sizes)
        limit_is = PLAIN if size >= SPOOL_FROM else "raw SQLite, the store's statements: insert, claim, complete"
        figures.append(figure(name, value / MB, "MB/s", limit / MB, limit_is, details, sizes))
        if size >= SPOOL_FROM:
            figures.append(
                figure("payload-memory", growth / MB, "MB", size / MB, "one payload", f"peak; {details}", sizes)
            )
    return figures


def plot_payload(folder: Path, sizes: Sizes) -> list[Figure]:
    """Points of a plot: bytes a second for payloads of 100 bytes to 10 MB."""
    points = []
    for size in PLOT_SIZES:
        place = folder / str(size)
        place.mkdir()
        value, limit, details, _ = _measure(place, size, sizes)
        limit_is = "raw SQLite (from 1 MB: bare rows)"
        points.append(point("plot-payload", size, value / MB, "MB/s", limit / MB, limit_is, details, sizes))
    return points


def _measure(folder: Path, size: int, sizes: Sizes) -> tuple[float, float, str, float]:
    """Bytes a second, the same of raw SQLite, how it was done, and by how many bytes the supervisor grew."""
    jobs = max(sizes.payload_bytes // size, LEAST_JOBS)
    if size < KB:
        jobs = min(jobs, sizes.jobs)
    together = max(min(CALL_BYTES // size, 1_000), 1)
    jobs = max(jobs // (together * IN_FLIGHT), 1) * together * IN_FLIGHT
    spooled = size >= SPOOL_FROM
    with daemon(folder, sizes) as running:
        uvloop.run(_spooled(running, IN_FLIGHT, size) if spooled else _as_args(running, IN_FLIGHT, size, 1))
        before = _reset_peak(running.pid)
        started = time.perf_counter()
        ids = uvloop.run(_spooled(running, jobs, size) if spooled else _as_args(running, jobs, size, together))
        seconds = time.perf_counter() - started
        while count(running.database, ids)["completed"] < len(ids):
            seconds = time.perf_counter() - started
        growth = max(_memory_bytes(running.pid, "VmHWM") - before, 0)
    plain = _plain_bandwidth(folder / "plain.db", jobs, size, together)
    limit = plain if spooled else _raw_bandwidth(folder, sizes, jobs, size, together)
    way = "read by the handler from a map of the spooled file" if spooled else f"as arguments, {together} jobs a call"
    details = f"{jobs:,} jobs of {size:,} bytes, {way}, {IN_FLIGHT} calls on the way, {sizes.workers} workers; "
    details += f"bare SQLite rows, written and read: {plain / MB:,.1f} MB/s"
    return jobs * size / seconds, limit, details, growth


def _raw_bandwidth(folder: Path, sizes: Sizes, jobs: int, size: int, together: int) -> float:
    """Bytes a second of raw SQLite with the store's statements for such jobs."""
    raw = Raw(folder, sizes.durability, nothing, _both(jobs, _args(size), together))
    return jobs * size / raw.replay().seconds


def _plain_bandwidth(path: Path, jobs: int, size: int, together: int) -> float:
    """Bytes a second of SQLite that writes rows with nothing but these bytes, durable, and reads each once."""
    data = bytes(size)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, data BLOB)")
        started = time.perf_counter()
        for _ in range(0, jobs, together):
            connection.execute("BEGIN")
            connection.executemany("INSERT INTO t (data) VALUES (?)", [(data,)] * together)
            connection.execute("COMMIT")
        for number in range(1, jobs + 1):
            connection.execute("SELECT data FROM t WHERE id = ?", (number,)).fetchone()
        return jobs * size / (time.perf_counter() - started)


def _both(jobs: int, args: str, together: int) -> Work:
    def work(commit: Commit) -> None:
        enqueued("bench.text", jobs, args=args, chunk=together)(commit)
        drained([together] * (jobs // together))(commit)

    return work


def _args(size: int) -> str:
    """Arguments of about `size` bytes."""
    return msgspec.json.encode({"data": "x" * max(size - len('{"data":""}'), 0)}).decode()


async def _as_args(running: Running, jobs: int, size: int, together: int) -> list[int]:
    """Put the jobs in and wait until they have run; their ids."""
    request = Enqueue([JobSpec("bench.text", _args(size), queue=QUEUE)] * together)
    async with await connect(str(running.socket)) as caller:
        calls = jobs // together
        lanes = [_lane(caller, request, len(range(number, calls, IN_FLIGHT))) for number in range(IN_FLIGHT)]
        ids = sorted(job_id for lane in await asyncio.gather(*lanes) for job_id in lane)
        await caller.request(WaitJobs(tail(ids)))
        return ids


async def _lane(caller: Caller, request: Enqueue, calls: int) -> list[int]:
    ids: list[int] = []
    for _ in range(calls):
        ids += [one.id for one in await caller.request(request)]
    return ids


async def _spooled(running: Running, jobs: int, size: int) -> list[int]:
    """The same with payloads that go into the spool."""
    data = bytes(range(256)) * (size // 256)

    async def lane(calls: int) -> list[int]:
        return [(await client.enqueue("bench.blob", blob=data, queue=QUEUE)).id for _ in range(calls)]

    async with Client(running.socket, timeout=600) as client:
        lanes = await asyncio.gather(*(lane(len(range(number, jobs, IN_FLIGHT))) for number in range(IN_FLIGHT)))
        ids = sorted(job_id for ids in lanes for job_id in ids)
        await client.wait(ids)
        return ids


def _reset_peak(pid: int) -> int:
    """Forget the process's peak; its memory now, in bytes."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
    return _memory_bytes(pid, "VmRSS")


def _memory_bytes(pid: int, name: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) * 1024
    return 0
