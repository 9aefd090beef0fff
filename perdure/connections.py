"""A client's connections: one for each event loop, one for each thread without one, none from before a fork."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import threading
from collections.abc import AsyncIterator, Iterator
from typing import TYPE_CHECKING, Any

from perdure.asks import Ask
from perdure.errors import CallTimeout, ChannelClosed, PerdureError
from perdure.wire import control
from perdure.wire.packet import close_all
from perdure.wire.streams import Entry, News, Skipped

if TYPE_CHECKING:
    from perdure.wire.blocking import BlockingCaller
    from perdure.wire.calls import Caller

_UNKNOWN = (
    "{reason} Whether the daemon took the request is not known, so it was not sent again. {remedy} before you repeat it"
)
_REMEDY_ENQUEUE = "Give the jobs a unique= key to make that safe, or look with `perdure jobs`"
_REMEDY = "Look with `perdure jobs` or `perdure dead list`"

#: Connections of the parent process. They must not be used here, nor closed through an event loop that is the parent's
#: too; kept, so that nobody else closes them.
_inherited: list[object] = []


class LoopConnections:
    """Asks from coroutines. Safe with several event loops (each in its own thread), and after a fork."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._callers: dict[int, tuple[asyncio.AbstractEventLoop, Caller]] = {}

    async def ask(self, ask: Ask[Any], timeout_s: float | None) -> Any:
        """The answer. A repeatable request is sent again, once, when the connection ends before the answer."""
        answer, fds = await self.ask_with_fds(ask, timeout_s)
        close_all(fds)
        return answer

    async def ask_with_fds(self, ask: Ask[Any], timeout_s: float | None) -> tuple[Any, list[int]]:
        """As `ask`; the answer and the descriptors that came with it, which the caller closes."""
        caller = await self._caller()
        try:
            return await caller.request_with_fds(ask.request, timeout_s, ask.fds)
        except (ChannelClosed, CallTimeout) as error:
            if isinstance(error, ChannelClosed):
                caller.close()
            if not ask.repeatable:
                raise unknown_outcome(ask, error) from error
            if isinstance(error, CallTimeout):
                raise
        return await (await self._caller()).request_with_fds(ask.request, timeout_s, ask.fds)

    async def news(self, request: control.Subscribe, timeout_s: float | None) -> AsyncIterator[Entry | Skipped]:
        """What a subscription brings; it ends with this generator."""
        from perdure.wire.subscription import subscribe

        async with subscribe(await self._caller(), request, timeout_s) as news:
            async for message in news:
                for one in _unpacked(message):
                    yield one

    def close(self) -> None:
        """Close the connection of the running loop, and of loops that have ended."""
        self._forget()
        entry = self._callers.pop(id(asyncio.get_running_loop()), None)
        if entry is not None:
            entry[1].close()

    async def _caller(self) -> Caller:
        from perdure.wire.calls import connect

        self._forget()
        loop = asyncio.get_running_loop()
        entry = self._callers.get(id(loop))
        if entry is not None and not entry[1].closed and not is_hung_up(entry[1].fileno()):
            return entry[1]
        fresh = await connect(self._path)
        entry_now = self._callers.get(id(loop))
        if entry_now is not None and entry_now is not entry and not entry_now[1].closed:
            fresh.close()  # another task was faster
            return entry_now[1]
        self._callers[id(loop)] = (loop, fresh)
        return fresh

    def _forget(self) -> None:
        """Drop what belongs to the parent process or to a loop that has ended."""
        with self._lock:
            if self._pid != os.getpid():
                _inherited.extend(self._callers.values())
                self._callers = {}
                self._pid = os.getpid()
            for key, (loop, caller) in list(self._callers.items()):
                if loop.is_closed():
                    del self._callers[key]
                    with contextlib.suppress(RuntimeError):  # what is left to clean up was the loop's
                        caller.close()


class ThreadConnections:
    """Asks from code without an event loop: a connection for each thread, so that a long wait holds up nobody else."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._local = threading.local()

    def ask(self, ask: Ask[Any], timeout_s: float | None) -> Any:
        """The answer. A repeatable request is sent again, once, when the connection ends before the answer."""
        answer, fds = self.ask_with_fds(ask, timeout_s)
        close_all(fds)
        return answer

    def ask_with_fds(self, ask: Ask[Any], timeout_s: float | None) -> tuple[Any, list[int]]:
        """As `ask`; the answer and the descriptors that came with it, which the caller closes."""
        caller = self._caller()
        try:
            return caller.request_with_fds(ask.request, timeout_s, ask.fds)
        except (ChannelClosed, CallTimeout) as error:
            if isinstance(error, ChannelClosed):
                self.close()
            if not ask.repeatable:
                raise unknown_outcome(ask, error) from error
            if isinstance(error, CallTimeout):
                raise
        except PerdureError:
            raise
        except BaseException:
            self.close()  # an interrupted exchange would leave its answer to the next question
            raise
        return self._caller().request_with_fds(ask.request, timeout_s, ask.fds)

    def news(self, request: control.Subscribe, timeout_s: float | None) -> Iterator[Entry | Skipped]:
        """What a subscription brings, on a connection of its own: the thread may ask for something else meanwhile."""
        from perdure.wire.blocking import BlockingCaller

        with BlockingCaller.connect(self._path) as caller, caller.subscription(request, timeout_s) as news:
            for message in news:
                yield from _unpacked(message)

    def close(self) -> None:
        """Close this thread's connection."""
        entry = self._local.__dict__.pop("entry", None)
        if entry is not None:
            entry[1].close()  # only the descriptor: the parent of a fork keeps its own

    def _caller(self) -> BlockingCaller:
        from perdure.wire.blocking import BlockingCaller

        entry: tuple[int, BlockingCaller] | None = self._local.__dict__.get("entry")
        if entry is not None:
            pid, caller = entry
            if pid == os.getpid() and not is_hung_up(caller.fileno()):
                return caller
            self.close()
        caller = BlockingCaller.connect(self._path)
        self._local.entry = (os.getpid(), caller)
        return caller


def _unpacked(message: News) -> Iterator[Entry | Skipped]:
    """The entries of a message, after a word about what is missing before them."""
    if message.skipped != Skipped():
        yield message.skipped
    yield from message.entries
    if message.error is not None:
        raise PerdureError(message.error)


def is_hung_up(fd: int) -> bool:
    """Whether the other side has gone: asked before sending, so that a restart of the daemon is no doubtful case."""
    if fd < 0:
        return True
    poll = select.poll()
    poll.register(fd, select.POLLRDHUP)
    return bool(poll.poll(0))


def unknown_outcome(ask: Ask[Any], error: ChannelClosed | CallTimeout) -> Exception:
    """The error for a request that changes something and had no answer."""
    enqueues = isinstance(ask.request, control.Enqueue | control.EnqueueAlike)
    remedy = _REMEDY_ENQUEUE if enqueues else _REMEDY
    reason = str(error) if str(error).endswith((".", "!", "?")) else f"{error}."
    return type(error)(_UNKNOWN.format(reason=reason, remedy=remedy))
