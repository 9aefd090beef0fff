"""The handlers that benchmarks run: they do nothing, or tell when they began, or talk to a client."""

from __future__ import annotations

import time

from perdure.context import Context
from perdure.job import job


@job("bench.noop")
def noop(user: int, name: str) -> None:
    """Nothing, in the sync lane."""


@job("bench.async_noop")
async def async_noop(user: int, name: str) -> None:
    """Nothing, in the async lane."""


@job("bench.began")
def began() -> int:
    """When the handler was entered: CLOCK_MONOTONIC, nanoseconds."""
    return time.monotonic_ns()


@job("bench.needy", needs=("bench-service",))
def needy(user: int, name: str) -> None:
    """Nothing, but not without its service."""


@job("bench.tell")
def tell(ctx: Context, count: int, pause_s: float) -> None:
    """Emit values: when each was emitted."""
    for _ in range(count):
        ctx.emit(time.monotonic_ns())
        if pause_s:
            time.sleep(pause_s)


@job("bench.swallow")
async def swallow(ctx: Context) -> None:
    """Send back single bytes that come through the port; from the first longer piece on only count."""
    async with await ctx.port(60) as port:
        total = 0
        async for data in port:
            if len(data) == 1 and not total:
                await port.send(data)
            else:
                total += len(data)
        await port.send(total.to_bytes(8, "big"))
