"""taskiq on Redis: streams with acknowledgement where jobs are to survive, else lists."""

from __future__ import annotations

import asyncio

from taskiq_redis import ListQueueBroker, RedisStreamBroker

from benchmarks.peers.app import App, durable, recovering, tool, url
from benchmarks.peers.record import TEXT, work_async

if durable():
    times = {"idle_timeout": 3_000, "unacknowledged_lock_timeout": 3.0} if recovering() else {}
    broker = RedisStreamBroker(url(), consumer_id="0", xread_count=100, **times)
else:
    broker = ListQueueBroker(url())


@broker.task(task_name="noop")
async def noop(index: int, text: str) -> None:
    """Leave a mark."""
    await work_async(index, text)


class TaskiqApp(App):
    """taskiq."""

    package = "taskiq"
    jobs = 8_000
    settings = (
        "RedisStreamBroker (acknowledges), xread_count 100" if durable() else "ListQueueBroker (at most once)"
    ) + ", --workers 2, --max-async-tasks 100, --no-parse, uvloop; many: gather of 100"
    recovery = "--max-async-tasks 10, idle_timeout and unacknowledged_lock_timeout 3 s (default 10 min, none)"

    async def setup(self) -> None:
        await broker.startup()

    def workers(self) -> list[list[str]]:
        tasks = "10" if recovering() else "100"
        options = ["--workers", "2", "--max-async-tasks", tasks, "--no-parse", "--log-level", "ERROR"]
        return [[tool("taskiq"), "worker", "benchmarks.peers.apps.with_taskiq:broker", *options]]

    async def enqueue(self, index: int) -> None:
        await noop.kiq(index, TEXT)

    async def enqueue_many(self, first: int, count: int) -> None:
        await asyncio.gather(*(self.enqueue(index) for index in range(first, first + count)))


APP = TaskiqApp()
