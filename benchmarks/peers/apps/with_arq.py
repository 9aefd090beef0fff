"""arq on Redis: two workers of a hundred coroutines."""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from arq import create_pool
from arq.connections import ArqRedis, RedisSettings

from benchmarks.peers.app import App, recovering, tool, url
from benchmarks.peers.record import TEXT, work_async


async def noop(ctx: dict[str, Any], index: int, text: str) -> None:
    """Leave a mark."""
    await work_async(index, text)


class WorkerSettings:
    """Read by `arq`."""

    functions: ClassVar[list[Any]] = [noop]
    redis_settings = RedisSettings.from_dsn(url())
    max_jobs = 10 if recovering() else 100
    poll_delay = 0.002
    keep_result = 0
    log_results = False
    job_timeout = 1 if recovering() else 300


class ArqApp(App):
    """arq."""

    package = "arq"
    jobs = 5_000
    settings = "two workers, max_jobs 100, poll_delay 2 ms, keep_result 0, hiredis, uvloop; many: gather of 100"
    recovery = "max_jobs 10, job_timeout 1 s (default 300 s); a job is taken for lost 10 s later"

    def __init__(self) -> None:
        self.pool: ArqRedis

    async def setup(self) -> None:
        self.pool = await create_pool(WorkerSettings.redis_settings)

    def workers(self) -> list[list[str]]:
        return [[tool("arq"), "benchmarks.peers.apps.with_arq.WorkerSettings"]] * 2

    async def enqueue(self, index: int) -> None:
        await self.pool.enqueue_job("noop", index, TEXT)

    async def enqueue_many(self, first: int, count: int) -> None:
        await asyncio.gather(*(self.enqueue(index) for index in range(first, first + count)))


APP = ArqApp()
