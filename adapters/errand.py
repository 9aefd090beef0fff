"""A blocking function behind a guard: the guard decides on the loop, the function runs in the thread that called.

There it finds what it expects: its thread's connections and locks, and in the main thread the soft time limit. The
guard knows nothing of this: it awaits an errand, and whoever waits for the guard runs it meanwhile.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from queue import SimpleQueue
from typing import Any, Final, NamedTuple, TypeVar

from perdure.errors import CallTooLong, JobCancelled, JobTimeout

R = TypeVar("R")

#: Await it on the loop to have a function run in the thread that waits, and to get what it returns or raises.
Send = Callable[[Callable[[], Any]], Awaitable[Any]]


_NOTHING: Final = object()


class _Errand(NamedTuple):
    function: Callable[[], Any]
    answer: asyncio.Future[Any]


def run_errands(loop: asyncio.AbstractEventLoop, start: Callable[[Send], Awaitable[R]]) -> R:
    """Run what `start(send)` returns on `loop`, and until it ends, here, the functions that it sends.

    Returns and raises what comes of it. JobTimeout, JobCancelled, and what is no Exception, ends all at once: it is
    meant for the handler, and says nothing about a service. Not for the loop's own thread.
    """
    errands: SimpleQueue[_Errand | None] = SimpleQueue()

    async def send(function: Callable[[], Any]) -> Any:
        answer: asyncio.Future[Any] = loop.create_future()
        errands.put(_Errand(function, answer))
        return await answer

    async def run() -> R:
        return await start(send)

    ended = asyncio.run_coroutine_threadsafe(run(), loop)
    value: Any = _NOTHING
    try:
        ended.add_done_callback(lambda _: errands.put(None))
        while (errand := errands.get()) is not None:
            value = _run_here(loop, errand)
        return ended.result()
    except CallTooLong:
        if value is _NOTHING:
            raise
        # It came late, but it came. The breaker has counted a failure; to drop the value would repeat the effect.
        return value  # type: ignore[no-any-return]  # what the function returns
    finally:
        ended.cancel()  # does nothing when it is done


def _run_here(loop: asyncio.AbstractEventLoop, errand: _Errand) -> Any:
    """What the function returned; _NOTHING if it raised."""
    try:
        value = errand.function()
    except (JobTimeout, JobCancelled):
        raise
    except StopIteration as error:
        # No future can carry it; this is what Python itself makes of it in a coroutine.
        wrapped = RuntimeError("the guarded function raised StopIteration")
        wrapped.__cause__ = error
        loop.call_soon_threadsafe(_settle, errand.answer, None, wrapped)
    except Exception as error:
        loop.call_soon_threadsafe(_settle, errand.answer, None, error)
    else:
        loop.call_soon_threadsafe(_settle, errand.answer, value, None)
        return value
    return _NOTHING


def _settle(answer: asyncio.Future[Any], value: Any, error: Exception | None) -> None:
    """Fill the future, unless nobody waits for it any more: the guard's time was over."""
    if answer.done():
        return
    if error is not None:
        answer.set_exception(error)
    else:
        answer.set_result(value)
