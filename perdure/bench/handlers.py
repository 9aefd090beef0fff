"""The handlers that benchmarks run: they do nothing, or tell when they began."""

from __future__ import annotations

import time

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
