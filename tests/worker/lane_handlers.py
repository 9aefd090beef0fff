"""Async handlers that share a slot's task: what one leaves behind must not reach the next."""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Generator
from typing import Any

from perdure.job import job

_mark: contextvars.ContextVar[int] = contextvars.ContextVar("mark", default=0)
_running = 0


@job("lane.mark")
async def mark(number: int, wait: bool) -> list[int]:
    """Set a context variable, and look at it before, after, and in a task of its own."""
    before = _mark.get()
    _mark.set(number)
    if wait:
        await asyncio.sleep(0.01)

    async def inside() -> int:
        return _mark.get()

    return [before, _mark.get(), await asyncio.create_task(inside()) if wait else _mark.get()]


@job("lane.together")
async def together(others: int) -> int:
    """Wait until so many run at once."""
    global _running
    _running += 1
    deadline = time.monotonic() + 5
    while _running < others and time.monotonic() < deadline:
        await asyncio.sleep(0)
    return _running


@job("lane.cancel_self")
async def cancel_self() -> None:
    """Ask for its own task's end, and return without waiting: the request is still there when it has ended."""
    task = asyncio.current_task()
    assert task is not None
    task.cancel()


@job("lane.cancel_all")
async def cancel_all() -> None:
    """Cancel all that the loop has, its own task and tasks that have not begun included."""
    for task in asyncio.all_tasks():
        task.cancel()


@job("lane.name")
async def name() -> str:
    """How its task is called."""
    task = asyncio.current_task()
    assert task is not None
    return task.get_name()


@job("lane.spin")
async def spin(seconds: float) -> None:
    """Take time without waiting."""
    ends = time.monotonic() + seconds
    while time.monotonic() < ends:
        pass


@job("lane.ticks")
async def ticks(most: int) -> int:
    """How often the loop comes around, until it has done so `most` times."""
    for _ in range(most):
        await asyncio.sleep(0)
    return most


class _Later:
    """An awaitable that is no coroutine."""

    def __await__(self) -> Generator[Any, None, str]:
        yield from asyncio.sleep(0).__await__()
        return "later"


@job("lane.deep")
async def deep() -> str:
    """Wait in something that is no coroutine."""
    return await _Later()
