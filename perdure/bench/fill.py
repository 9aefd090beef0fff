"""Large queues, written by the store's own code before a daemon starts on them."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from perdure.bench.handlers import SERVICE
from perdure.bench.load import ARGS, QUEUE
from perdure.store.models import Buried, Claim, ClaimedJob, NewBatch, NewJob, Parked, SavedBreaker, Turn
from perdure.store.sqlite import SqliteStore, open_sqlite
from perdure.wire.data import ErrorData

#: Jobs a transaction.
TURN_JOBS = 10_000
#: Memory for pages while the file is written.
CACHE_BYTES = 1 << 28

Finish = Callable[[Turn, int, list[ClaimedJob]], None]


def fill_available(database: Path, count: int, kind: str = "bench.noop") -> None:
    """Available jobs, in a queue that is paused."""
    asyncio.run(_fill(database, count, kind, None))


def fill_parked(database: Path, count: int) -> None:
    """Jobs that wait for a service whose breaker somebody has opened."""
    asyncio.run(_fill(database, count, "bench.needy", _park))


def fill_finished(database: Path, count: int) -> None:
    """Completed jobs, kept for as long as retention says."""
    asyncio.run(_fill(database, count, "bench.noop", _complete))


def fill_dead(database: Path, count: int) -> None:
    """Dead letters that wait for a decision, all of one group."""
    asyncio.run(_fill(database, count, "bench.noop", _bury))


def fill_running(database: Path, count: int, running: int, kind: str) -> None:
    """Available jobs, and such as were running when the daemon was killed: that is how its run is on record."""
    asyncio.run(_fill_running(database, count, running, kind))


def fill_wide(database: Path, count: int, queues: int) -> None:
    """Available jobs in the even ones of so many queues, in turns, each queue with a kind of its own. The odd ones are
    paused and have a job each. With one queue: all jobs in that."""
    asyncio.run(_fill_wide(database, count, queues))


async def recover_alone(database: Path, claim: int) -> float:
    """Seconds that the store takes by itself to open such a file, put back what ran, and claim."""
    started = time.perf_counter()
    async with await open_sqlite(database) as store:
        await store.begin_run(os.getpid(), "bench", _now())
        await store.recover(None, _now())
        await store.commit(Turn(_now(), lease=1 << 40, claims=[Claim(QUEUE, claim)], claim_total=claim))
        return time.perf_counter() - started


async def _fill(database: Path, count: int, kind: str, finish: Finish | None) -> None:
    async with await open_sqlite(database, durability="normal", cache_bytes=CACHE_BYTES) as store:
        if finish is None:
            await store.pause(QUEUE, "bench", _now())
        if finish is _park:
            breaker = SavedBreaker(SERVICE, "open", _now(), "bench", "down", None, 30_000)
            await store.save_breakers([breaker], [])
        for lease, first in enumerate(range(0, count, TURN_JOBS), 1):
            jobs = min(TURN_JOBS, count - first)
            turn = Turn(_now(), lease=lease, batches=[_batch(kind, jobs)])
            if finish is not None:
                turn.claims, turn.claim_total = [Claim(QUEUE, jobs)], jobs
            result = await store.commit(turn)
            if finish is not None:
                after = Turn(_now())
                finish(after, lease, result.claimed)
                await store.commit(after)
            await _checkpoint(store, lease)


async def _fill_running(database: Path, count: int, running: int, kind: str) -> None:
    async with await open_sqlite(database, durability="normal", cache_bytes=CACHE_BYTES) as store:
        await store.begin_run(os.getpid(), "bench", _now())
        for number, first in enumerate(range(0, count + running, TURN_JOBS)):
            await store.commit(Turn(_now(), batches=[_batch(kind, min(TURN_JOBS, count + running - first))]))
            await _checkpoint(store, number)
        await store.commit(Turn(_now(), lease=1, claims=[Claim(QUEUE, running)], claim_total=running))


async def _fill_wide(database: Path, count: int, queues: int) -> None:
    async with await open_sqlite(database, durability="normal", cache_bytes=CACHE_BYTES) as store:
        odd, even = range(1, queues, 2), range(0, queues, 2)
        for number in odd:
            await store.pause(f"queue{number}", "bench", _now())
        numbers = [*odd, *(even[index % len(even)] for index in range(count))]
        for first in range(0, len(numbers), TURN_JOBS):
            jobs = [_wide_job(number) for number in numbers[first : first + TURN_JOBS]]
            await store.commit(Turn(_now(), batches=[NewBatch(jobs, False)]))


def _wide_job(number: int) -> NewJob:
    return NewJob(f"bench.wide{number}", f"queue{number}", 0, ARGS, 5, 3, 3_600_000, None, None, None)


async def _checkpoint(store: SqliteStore, number: int) -> None:
    """Now and then: the log must not grow without end."""
    if number % 10 == 0:
        await store.checkpoint()


def _batch(kind: str, count: int) -> NewBatch:
    return NewBatch([NewJob(kind, QUEUE, 0, ARGS, 5, 3, 3_600_000, None, None, None)] * count, False)


def _park(turn: Turn, lease: int, jobs: list[ClaimedJob]) -> None:
    turn.parked = [Parked(job.id, lease, f"breaker:{SERVICE}") for job in jobs]


def _complete(turn: Turn, lease: int, jobs: list[ClaimedJob]) -> None:
    turn.completed = {lease: [job.id for job in jobs]}


def _bury(turn: Turn, lease: int, jobs: list[ClaimedJob]) -> None:
    error = msgspec.json.encode(ErrorData("ValueError", "there is no such user", False)).decode()
    turn.buried = [Buried(job.id, lease, "permanent", error, "bench", False) for job in jobs]


def _now() -> int:
    return time.time_ns() // 1_000_000
