"""pgqueuer on PostgreSQL: two workers that take a thousand jobs at a time."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from typing import Any

import asyncpg
import uvloop
from pgqueuer import AsyncpgDriver, Job, PgQueuer, Queries

from benchmarks.peers.app import App, recovering, url
from benchmarks.peers.record import TEXT, work_async

#: Its own default is 10.
BATCH_SIZE = 1_000


async def make() -> PgQueuer:
    """With its one entry point."""
    manager = PgQueuer(AsyncpgDriver(await asyncpg.connect(url())))

    @manager.entrypoint("noop")
    async def noop(job: Job) -> None:
        assert job.payload is not None
        await work_async(**json.loads(job.payload))

    return manager


class PgqueuerApp(App):
    """pgqueuer."""

    package = "pgqueuer"
    # Many, because two thousand are fetched before the drain begins.
    jobs = 100_000
    batch = 1_000
    settings = "two workers, batch_size 1000 (default 10), durable tables, uvloop"
    recovery = "batch_size 10, max_concurrent_tasks 20, heartbeat_timeout 3 s, dequeue_timeout 2 s (defaults 30 s)"

    def __init__(self) -> None:
        self.queries: Queries

    async def setup(self) -> None:
        self.queries = Queries(AsyncpgDriver(await asyncpg.connect(url())))
        await self.queries.install()

    def workers(self) -> list[list[str]]:
        return [[sys.executable, "-m", "benchmarks.peers.apps.with_pgqueuer"]] * 2

    async def enqueue(self, index: int) -> None:
        await self.queries.enqueue("noop", json.dumps({"index": index, "text": TEXT}).encode())

    async def enqueue_many(self, first: int, count: int) -> None:
        payloads: list[bytes | None] = [
            json.dumps({"index": index, "text": TEXT}).encode() for index in range(first, first + count)
        ]
        await self.queries.enqueue(["noop"] * count, payloads, [0] * count)


APP = PgqueuerApp()


async def run() -> None:
    """A worker: `pgq run` would do, but that of 1.6.0 fails with a type error before it starts."""
    manager = await make()
    options: dict[str, Any] = {"batch_size": BATCH_SIZE}
    if recovering():
        # As small as the others' steps: with a thousand at once all jobs would run when the kill comes.
        options = {"batch_size": 10, "max_concurrent_tasks": 20}
        options |= {"heartbeat_timeout": timedelta(seconds=3), "dequeue_timeout": timedelta(seconds=2)}
    await manager.run(**options)


if __name__ == "__main__":
    uvloop.run(run())
