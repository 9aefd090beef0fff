"""Async handlers that share a slot's task: what one leaves behind must not reach the next."""

from __future__ import annotations

import asyncio
import contextvars
import threading
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any

from perdure.daemon.worker import lane
from perdure.daemon.worker.spooling import write_result
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


@dataclass
class Marked:
    """An argument that runs code of the user when it is bound."""

    number: int

    def __post_init__(self) -> None:
        print("bound")
        _mark.set(self.number)


@job("lane.bound")
async def bound(marked: Marked | None = None) -> int:
    """What the context variable is when the handler begins."""
    return _mark.get()


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


@job("lane.cancel_later")
async def cancel_later() -> None:
    """Wait, and have its task cancelled when it has ended."""
    task = asyncio.current_task()
    assert task is not None
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, task.cancel)


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


_is_free = threading.Event()


def _write_when_free(*args: Any, **options: Any) -> str:
    assert _is_free.wait(5), "nothing was begun meanwhile"
    return write_result(*args, **options)


@job("lane.slow_disk")
async def slow_disk() -> bytes:
    """Return what goes into the spool, which takes until `lane.free_disk`."""
    vars(lane)["write_result"] = _write_when_free
    return b"large"


@job("lane.free_disk")
async def free_disk() -> None:
    """Let it be written."""
    _is_free.set()


@job("lane.late_cancel")
async def late_cancel() -> int:
    """Ask for its own task's end a little later than it ends."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().call_later(0.003, task.cancel)
    return 1


@job("lane.stop_loop")
async def stop_loop() -> int:
    """Stop the loop that it runs on."""
    asyncio.get_running_loop().stop()
    return 1


@job("lane.give_in")
async def give_in(answer: bool = True) -> str:
    """Wait for ever; when that is ended, wait a moment longer, and return something or pass it on."""
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        await asyncio.sleep(0.02)
        if not answer:
            raise
    return "cleaned up"
