"""Waiting for events with a deadline: the only place in the tests where time passes by itself."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import TypeVar

T = TypeVar("T")

#: Between two looks, seconds: at first and at most.
FIRST_PAUSE, LONGEST_PAUSE = 0.002, 0.05


def wait_until(predicate: Callable[[], T], timeout: float = 10.0, what: str = "") -> T:
    """Look until `predicate` gives something true, and return that.

    Fails the test with an AssertionError that names `what` when `timeout` (seconds) has passed.
    """
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    while not (found := predicate()):
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(predicate, timeout, what, found))
        time.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return found


async def async_wait_until(predicate: Callable[[], T | Awaitable[T]], timeout: float = 10.0, what: str = "") -> T:
    """The same for coroutines: the loop runs on between two looks; `predicate` may be a coroutine function."""
    deadline, pause = time.monotonic() + timeout, FIRST_PAUSE
    while not (found := await _result(predicate())):
        if time.monotonic() >= deadline:
            raise AssertionError(_complaint(predicate, timeout, what, found))
        await asyncio.sleep(pause)
        pause = min(pause * 1.5, LONGEST_PAUSE)
    return found


async def _result(value: T | Awaitable[T]) -> T:
    return await value if isawaitable(value) else value


def _complaint(predicate: Callable[[], object], timeout: float, what: str, last: object) -> str:
    name = what or getattr(predicate, "__qualname__", repr(predicate))
    return f"waited {timeout:g} s in vain for: {name} (last look: {last!r})"
