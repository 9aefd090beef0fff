"""SAQ on Redis: one `saq` with two worker processes of a hundred coroutines."""

from __future__ import annotations

import asyncio
from typing import Any

from saq import Queue

from benchmarks.peers.app import App, recovering, tool, url
from benchmarks.peers.record import TEXT, work_async

TIMES: dict[str, Any] = {"timeout": 2, "retries": 5} if recovering() else {}
queue = Queue.from_url(url(), max_concurrent_ops=100)


async def noop(ctx: dict[str, Any], *, index: int, text: str) -> None:
    """Leave a mark."""
    await work_async(index, text)


settings = {
    "queue": queue,
    "functions": [noop],
    "concurrency": 10 if recovering() else 100,
    "timers": {"schedule": 1, "worker_info": 10, "sweep": 1 if recovering() else 60, "abort": 1},
}


class SaqApp(App):
    """SAQ."""

    package = "saq"
    jobs = 6_000
    settings = (
        "--workers 2, concurrency 100, max_concurrent_ops 100, results kept for 0 s, hiredis; many: gather of 100"
    )
    recovery = "concurrency 10, timeout 2 s (default 10 s), retries 5 (default 1), sweep each second (default 60 s)"

    def workers(self) -> list[list[str]]:
        return [[tool("saq"), "benchmarks.peers.apps.with_saq.settings", "--workers", "2", "--quiet"]]

    async def setup(self) -> None:
        await queue.connect()

    async def enqueue(self, index: int) -> None:
        await queue.enqueue("noop", index=index, text=TEXT, ttl=-1, **TIMES)

    async def enqueue_many(self, first: int, count: int) -> None:
        await asyncio.gather(*(self.enqueue(index) for index in range(first, first + count)))


APP = SaqApp()
