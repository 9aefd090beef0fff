"""Enqueueing: each call is acknowledged when its jobs are on disk. The queue is paused, so that nothing runs."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import time
from pathlib import Path

import uvloop

from perdure.asks import enqueue_request
from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, p99, spread
from perdure.bench.load import QUEUE, spec
from perdure.bench.raw import Raw, Work, enqueued, enqueued_apart, nothing
from perdure.wire.calls import Caller, connect
from perdure.wire.control import Enqueue, PauseQueue

CLIENTS = 64
#: Jobs of a call of `enqueue-bulk`, and calls that the one client has on the way.
BULK = 1_000
IN_FLIGHT = 4


def enqueue_one(folder: Path, sizes: Sizes) -> list[Figure]:
    """One client, one job a call, one call after the other; the limit is raw SQLite with one such insert a commit."""
    with daemon(folder, sizes) as running:
        running.caller.request(PauseQueue(QUEUE))
        rates, delays = [], []
        for _ in range(sizes.rounds):
            one = [_one_by_one(running) for _ in range(sizes.calls)]
            rates.append(sizes.calls / sum(one))
            delays += one
    limits = raw_rates(folder, sizes, enqueued_apart(sizes.calls, 1), sizes.calls)
    details = f"{sizes.calls:,} calls a round: {spread(rates)}; a call: median {statistics.median(delays) * 1e3:.3f} ms"
    details += f", p99 {p99(delays) * 1e3:.3f} ms"
    limit_is = "raw SQLite, the same insert, a commit each"
    return [
        figure("enqueue-one", statistics.median(rates), "jobs/s", statistics.median(limits), limit_is, details, sizes)
    ]


def enqueue_64(folder: Path, sizes: Sizes) -> list[Figure]:
    """64 clients, one job a call, each its next call when the last is acknowledged; raw SQLite commits 64 at a time."""
    calls = max(sizes.calls * 4 // CLIENTS, 1)
    with daemon(folder, sizes) as running:
        running.caller.request(PauseQueue(QUEUE))
        rates = []
        for _ in range(sizes.rounds):
            seconds = uvloop.run(_together(running, CLIENTS, calls))
            rates.append(CLIENTS * calls / seconds)
    limits = raw_rates(folder, sizes, enqueued_apart(CLIENTS * calls, CLIENTS), CLIENTS * calls)
    details = f"{CLIENTS} connections of one client process, {calls:,} calls each a round: {spread(rates)}"
    limit_is = f"raw SQLite, the same insert, {CLIENTS} a commit"
    return [
        figure("enqueue-64", statistics.median(rates), "jobs/s", statistics.median(limits), limit_is, details, sizes)
    ]


def enqueue_bulk(folder: Path, sizes: Sizes) -> list[Figure]:
    """One client, 1,000 jobs a call, four calls on the way; raw SQLite inserts 1,000 a commit."""
    calls = max(sizes.jobs // BULK // IN_FLIGHT, 1) * IN_FLIGHT
    with daemon(folder, sizes) as running:
        running.caller.request(PauseQueue(QUEUE))
        rates = [BULK * calls / uvloop.run(in_bulk(running, calls, IN_FLIGHT, BULK)) for _ in range(sizes.rounds)]
        alone = BULK * calls / uvloop.run(in_bulk(running, calls, 1, BULK))
    limits = raw_rates(folder, sizes, enqueued("bench.noop", BULK * calls), BULK * calls)
    details = f"{calls:,} calls of {BULK:,} jobs a round: {spread(rates)}; with one call on the way: {alone:,.0f}"
    limit_is = f"raw SQLite, the same insert, {BULK:,} a commit"
    return [
        figure("enqueue-bulk", statistics.median(rates), "jobs/s", statistics.median(limits), limit_is, details, sizes)
    ]


def _one_by_one(running: Running) -> float:
    started = time.perf_counter()
    running.caller.request(Enqueue([spec("bench.noop")]))
    return time.perf_counter() - started


async def _together(running: Running, clients: int, calls: int) -> float:
    """Seconds until each of so many connections has made its calls."""
    async with contextlib.AsyncExitStack() as stack:
        callers = [await stack.enter_async_context(await connect(str(running.socket))) for _ in range(clients)]
        started = time.perf_counter()
        await asyncio.gather(*(_ask(caller, calls, 1) for caller in callers))
        return time.perf_counter() - started


async def in_bulk(running: Running, calls: int, in_flight: int, jobs: int) -> float:
    """Seconds for so many calls of one connection, each with so many jobs."""
    async with await connect(str(running.socket)) as caller:
        started = time.perf_counter()
        await asyncio.gather(*(_ask(caller, calls // in_flight, jobs) for _ in range(in_flight)))
        return time.perf_counter() - started


async def _ask(caller: Caller, calls: int, jobs: int) -> None:
    specs = [spec("bench.noop")] * jobs
    for _ in range(calls):
        await caller.request(enqueue_request(specs))


def raw_rates(folder: Path, sizes: Sizes, work: Work, jobs: int) -> list[float]:
    """Jobs a second of raw SQLite in an empty file, so many rounds."""
    raw = Raw(folder, sizes.durability, nothing, work)
    return [jobs / raw.replay().seconds for _ in range(sizes.rounds)]
