"""The handlers that benchmarks run: they do nothing, or tell when they began, or talk to a client."""

from __future__ import annotations

import time

from perdure.context import Context
from perdure.job import job

#: A breaker that is closed unless somebody opens it.
SERVICE = "bench-service"
#: With its quotes 200 bytes of JSON.
RESULT = "r" * 198
PAGE_BYTES = 4096


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


@job("bench.needy", needs=(SERVICE,))
def needy(user: int, name: str) -> None:
    """Nothing, but not without its service."""


@job("bench.rich", needs=(SERVICE,))
def rich(user: int, name: str) -> str:
    """The same with a result of 200 bytes."""
    return RESULT


@job("bench.text")
def text(data: str) -> None:
    """Nothing, with large arguments."""


@job("bench.blob")
def blob(ctx: Context) -> int:
    """Read a payload: one byte of each page."""
    return sum(ctx.blob()[::PAGE_BYTES])


@job("bench.hold", max_interruptions=1)
def hold() -> None:
    """Run until the worker is killed."""
    while True:
        time.sleep(1)


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
