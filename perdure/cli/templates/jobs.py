"""The jobs of this project. After a change: `perdure reload`."""

from __future__ import annotations

import asyncio
import random

from perdure import Context, job


@job("hello")
def hello(ctx: Context, name: str = "world") -> str:
    """Greet someone. A plain function runs in a worker's main thread: right for work that computes."""
    ctx.log.info("greeting", name=name)
    return f"Hello, {name}!"


@job("nap", timeout="1m")
async def nap(ctx: Context, seconds: float = 1.0) -> None:
    """Wait a while. Many async functions run at once in each worker: right for work that waits."""
    ctx.log.info("falling asleep", seconds=seconds)
    await asyncio.sleep(seconds)


@job("flaky", max_attempts=8)
def flaky(ctx: Context, chance: float = 0.5) -> str:
    """Fail now and then. A failed attempt is repeated after a pause; out of attempts, it becomes a dead letter."""
    if random.random() < chance:
        raise ConnectionError("no luck this time")
    return f"worked at attempt {ctx.attempt}"
