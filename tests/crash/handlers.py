"""Handlers of the crash campaign: short and long, sync and async, some that fail first."""

from __future__ import annotations

import asyncio
import time

from perdure import Context, job


@job("crash.noop")
def noop(n: int) -> None:
    """Nothing."""


@job("crash.sync")
def sync(n: int) -> int:
    """A little work with a result."""
    end = time.monotonic() + 0.002
    while time.monotonic() < end:
        pass
    return n


@job("crash.io")
async def io(n: int) -> int:
    """A little waiting with a result."""
    await asyncio.sleep(0.02)
    return n


@job("crash.flaky", max_attempts=1000)
def flaky(ctx: Context, n: int) -> int:
    """Fails the first time."""
    if ctx.attempt == 1:
        raise ConnectionError("not this time")
    return n


KINDS = ("crash.noop", "crash.sync", "crash.io", "crash.flaky")
