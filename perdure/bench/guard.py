"""What the guard adds to a call that goes well: no daemon, one awaitable that does nothing."""

from __future__ import annotations

import asyncio
import random
import statistics
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import uvloop

from perdure.adapters.call import NO_JOB, JobCall
from perdure.adapters.guard import Guard
from perdure.adapters.verdict import classify_plain
from perdure.adapters.view import BreakerView
from perdure.bench.figure import Figure, Sizes, figure
from perdure.clock import SystemClock
from perdure.wire.dependencies import Policy

#: Calls in a row; the fastest round counts, because the others tell of the neighbours on this machine.
ROUND_CALLS, ROUNDS = 5_000, 15


def guard_overhead(folder: Path, sizes: Sizes) -> list[Figure]:
    """Microseconds that a guarded call takes longer than the bare one, on a loop like a worker's; no daemon."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        bare, guarded, with_deadline = runner.run(_measure())
    value = min(guarded) - min(bare)
    median = statistics.median(guarded) - statistics.median(bare)
    deadline = min(with_deadline) - min(bare)
    details = f"best of {ROUNDS} rounds of {ROUND_CALLS:,} calls; median {median:.2f} us, with a job's deadline "
    details += f"{deadline:.2f} us; per call: deadline armed, breaker asked, outcome counted, no tenacity, no task"
    return [figure("guard", value, "us", min(bare), "the bare awaitable", details)]


async def _measure() -> tuple[list[float], list[float], list[float]]:
    """Microseconds a call in each round: bare, guarded, and guarded with a deadline. Rounds take turns."""
    clock = SystemClock()
    view = BreakerView(lambda _observed: None, clock)
    guard = Guard("bench", Policy(), view, classify_plain, clock, random.Random(0))
    job = JobCall(1, time.monotonic() + 3_600)
    bare: list[float] = []
    guarded: list[float] = []
    with_deadline: list[float] = []
    for _ in range(ROUNDS):
        bare.append(await _round(lambda: _nothing(1)))
        guarded.append(await _round(lambda: guard.call(NO_JOB, _nothing, 1)))
        with_deadline.append(await _round(lambda: guard.call(job, _nothing, 1)))
        view.flush()
    return bare, guarded, with_deadline


async def _round(call: Callable[[], Awaitable[int]]) -> float:
    started = time.perf_counter()
    for _ in range(ROUND_CALLS):
        await call()
    await asyncio.sleep(0)  # the loop's share: cancelled timers
    return (time.perf_counter() - started) / ROUND_CALLS * 1e6


async def _nothing(value: int) -> int:
    return value
