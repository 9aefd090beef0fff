"""The measurements. Each returns its figure and the limit it is compared with, both from this run."""

from __future__ import annotations

import asyncio
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import msgspec

from perdure.bench.daemon import running_daemon
from perdure.errors import PerdureError
from perdure.store.models import Claim, NewBatch, NewJob, Turn
from perdure.store.sqlite import open_sqlite
from perdure.wire.control import Enqueue, GetStatus, PauseQueue, ResumeQueue, WaitJobs
from perdure.wire.data import JobSpec

Durability = Literal["full", "normal"]

#: 100 bytes of arguments, as the goals say.
ARGS = msgspec.json.encode({"user": 123, "name": "x" * 79}).decode()
#: Jobs a request while the backlog is prepared.
CHUNK = 1_000
#: Jobs a turn in the measurement of the store alone.
RAW_TURN = 512


class Figure(msgspec.Struct):
    """One line of the table. `limit` is measured in the same run; `ratio` is value to limit."""

    benchmark: str
    value: float
    unit: str
    limit: float
    limit_is: str
    ratio: float
    goal: str
    met: bool
    details: str = ""


def drain(folder: Path, jobs: int, workers: int, durability: Durability, kind: str = "bench.noop") -> Figure:
    """Run a prepared backlog of jobs that do nothing; and the same statements without daemon and workers."""
    with running_daemon(folder, workers=workers, durability=durability) as caller:
        caller.request(PauseQueue("bench"))
        spec = JobSpec(kind, ARGS, queue="bench")
        started = time.perf_counter()
        last = 0
        for _ in range(0, jobs, CHUNK):
            last = caller.request(Enqueue([spec] * CHUNK))[-1].id
        enqueue_seconds = time.perf_counter() - started
        cpu_before = _cpu_seconds(caller.request(GetStatus()).pid)
        started = time.perf_counter()
        caller.request(ResumeQueue("bench"))
        caller.request(WaitJobs([last]), timeout_s=600)
        while (counts := caller.request(GetStatus()).counts).get("completed", 0) < jobs:
            if counts.get("available", 0) + counts.get("running", 0) + counts.get("completed", 0) < jobs:
                raise PerdureError(f"jobs did not complete: {counts}")
        seconds = time.perf_counter() - started
        cpu = _cpu_seconds(caller.request(GetStatus()).pid) - cpu_before
    limit = asyncio.run(_store_alone(folder, jobs, durability))
    rate = jobs / seconds
    name = "drain, async no-op" if kind == "bench.async_noop" else "drain, no-op"
    details = f"{jobs:,} jobs, {workers} workers, durability {durability}, 100-byte arguments; prepared at "
    details += f"{jobs / enqueue_seconds:,.0f} jobs/s in requests of {CHUNK:,}; {cpu / jobs * 1000:.3f} CPU s per 1,000"
    return Figure(
        name, round(rate), "jobs/s", round(limit), "the store alone, same statements", round(rate / limit, 2),
        ">= 30,000 jobs/s", rate >= 30_000, details,
    )  # fmt: skip


def latency(folder: Path, samples: int, durability: Durability) -> list[Figure]:
    """From the call of enqueue to the handler's first line, on an idle daemon; and what the disk takes for a sync."""
    syncs = _fdatasync_ms(folder, samples)
    with running_daemon(folder, workers=2, durability=durability) as caller:
        taken = []
        for _ in range(samples):
            before = time.monotonic_ns()
            job_id = caller.request(Enqueue([JobSpec("bench.began")]))[0].id
            end = caller.request(WaitJobs([job_id]), timeout_s=60)[0]
            taken.append((int(end.result) - before) / 1e6)
    details = f"{samples} jobs one after the other, durability {durability}"

    def figure(name: str, pick: Callable[[list[float]], float], goal_ms: float) -> Figure:
        value, limit = pick(taken), pick(syncs)
        text = f"<= {goal_ms:g} ms"
        ratio = round(value / limit, 1)
        return Figure(
            name, round(value, 3), "ms", round(limit, 3), "one fdatasync", ratio, text, value <= goal_ms, details
        )

    return [
        figure("latency idle, median", statistics.median, 3.0),
        figure("latency idle, p99", _p99, 25.0),
    ]


async def _store_alone(folder: Path, jobs: int, durability: Durability) -> float:
    """Claim and complete the same number of jobs with nobody running them: jobs a second."""
    store = await open_sqlite(folder / "alone.db", durability=durability)
    try:
        job = NewJob("bench.noop", "bench", 0, ARGS, 5, 3, None, None, None, None)
        for _ in range(0, jobs, CHUNK):
            await store.commit(Turn(1, batches=[NewBatch([job] * CHUNK, False)]))
        started = time.perf_counter()
        done: list[int] = []
        lease, completed = 1, 0
        while completed < jobs:
            turn = Turn(1, lease=lease + 1, claims=[Claim("bench", RAW_TURN)], claim_total=RAW_TURN)
            if done:
                turn.completed = {lease: done}
            result = await store.commit(turn)
            completed += len(done)
            lease, done = lease + 1, [row.id for row in result.claimed]
        return jobs / (time.perf_counter() - started)
    finally:
        await store.close()


def _fdatasync_ms(folder: Path, samples: int) -> list[float]:
    path = folder / "sync"
    taken = []
    with path.open("wb", buffering=0) as file:
        for _ in range(samples):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    path.unlink()
    return taken


def _p99(values: list[float]) -> float:
    return sorted(values)[int(len(values) * 0.99)]


def _cpu_seconds(pid: int) -> float:
    """User and system time of a process and everything below it, in seconds."""
    import psutil

    family = [psutil.Process(pid)]
    family += family[0].children(recursive=True)
    return sum(times.user + times.system for times in (process.cpu_times() for process in family))
