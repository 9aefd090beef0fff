"""From a thread with a synchronous handler to the loop that owns the adapters, and back.

The waiting thread may be interrupted between any two bytecodes: its time limit rings as a JobTimeout. Whatever runs on
the loop on its behalf is then given up, wherever the thread was.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from perdure.errors import UsageError

T = TypeVar("T")


class Bridge:
    """Runs coroutines on `loop`, from other threads, which wait."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        #: The loop that owns the adapters.
        self.loop = loop

    def run(self, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """Call `function` on the loop, wait for what it returns, and return or raise what comes of it.

        When an exception interrupts the waiting, the coroutine is cancelled, and not waited for. Raises UsageError on
        the loop's own thread, where it would wait for itself.
        """
        return self.run_to_end(0, function, *args, **kwargs)

    def run_to_end(self, patience: float, function: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any) -> T:
        """The same, but a coroutine that is cancelled is waited for, up to `patience` seconds."""
        self._refuse_own_thread()
        stay = _Stay(self.loop)

        async def call() -> T:
            stay.begin()
            return await function(*args, **kwargs)

        future = asyncio.run_coroutine_threadsafe(call(), self.loop)
        try:
            return future.result()
        except BaseException:
            stay.give_up()
            if patience and not future.done():
                concurrent.futures.wait([future], patience)
            raise

    @contextlib.contextmanager
    def context(self, manager: AbstractAsyncContextManager[T]) -> Iterator[T]:
        """An asynchronous context manager as a synchronous one.

        One task on the loop enters and leaves it, so that it may hold what belongs to a task. If entering is
        interrupted, it is left all the same.
        """
        self._refuse_own_thread()
        visit = _Visit(self.loop, manager)
        try:
            yield visit.enter()
        except BaseException as exc:
            if not visit.leave(exc):
                raise
        else:
            visit.leave(None)

    def _refuse_own_thread(self) -> None:
        if asyncio._get_running_loop() is self.loop:
            raise UsageError("a blocking call on the loop would wait for itself; take the adapter without `.blocking`")


class _Stay:
    """A task on the loop. The other thread can give it up even before it knows of it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._is_unwanted = False

    def begin(self) -> None:
        """The first step of the task. Raises CancelledError if nobody wants it any more."""
        self._task = asyncio.current_task()
        if self._is_unwanted:
            raise asyncio.CancelledError

    def give_up(self) -> None:
        """Cancel it, from the other thread. Does nothing when it has ended."""
        with contextlib.suppress(RuntimeError):  # the loop is closed, nothing runs there
            self._loop.call_soon_threadsafe(self._cancel)

    def _cancel(self) -> None:
        self._is_unwanted = True
        if self._task is not None:
            self._task.cancel()


class _Visit:
    """The task on the loop that is inside of the context manager, seen from the other thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, manager: AbstractAsyncContextManager[Any]) -> None:
        self._loop = loop
        self._manager = manager
        self._stay = _Stay(loop)
        self._inside: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self._body: concurrent.futures.Future[BaseException | None] = concurrent.futures.Future()
        self._left: concurrent.futures.Future[bool] = concurrent.futures.Future()

    def enter(self) -> Any:
        """Wait until the manager is entered; what `as` gives."""
        asyncio.run_coroutine_threadsafe(self._live(), self._loop)
        return self._inside.result()

    def leave(self, error: BaseException | None) -> bool:
        """Let the manager see how the body ended; whether it swallowed `error`."""
        if not self._inside.done():
            self._stay.give_up()  # interrupted while entering
            return False
        if self._inside.exception() is not None:
            return False  # it was never entered
        with contextlib.suppress(concurrent.futures.InvalidStateError):  # the loop has cancelled the visit
            self._body.set_result(error)
        return self._left.result()

    async def _live(self) -> None:
        try:
            self._stay.begin()
            value = await self._manager.__aenter__()
        except BaseException as exc:
            self._inside.set_exception(exc)
            return
        self._inside.set_result(value)
        try:
            self._left.set_result(await self._stay_inside())
        except BaseException as exc:
            self._left.set_exception(exc)

    async def _stay_inside(self) -> bool:
        try:
            error = await asyncio.wrap_future(self._body)
        except asyncio.CancelledError as exc:  # nobody waits inside any more
            await self._manager.__aexit__(type(exc), exc, exc.__traceback__)
            raise
        if error is None:
            await self._manager.__aexit__(None, None, None)
            return False
        return bool(await self._manager.__aexit__(type(error), error, error.__traceback__))
