"""The client of one worker: opened once, shared by all calls, and opened anew when the key has changed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, TypeVar

from perdure.adapters.call import JobCall, call_time
from perdure.adapters.guard import Guard
from perdure.adapters.places import Places
from perdure.adapters.qdrant_errors import diagnose, is_answer, is_hang_up, is_key_refused, is_late, look_behind
from perdure.adapters.qdrant_open import Ask, Client, Remote, load_driver, open_client, place_of, read_key
from perdure.clock import Clock
from perdure.errors import CallTooLong, Unavailable, UsageError
from perdure.wire.dependencies import QdrantOptions

if TYPE_CHECKING:
    from qdrant_client import AsyncQdrantClient

    from perdure.adapters.qdrant import Qdrant

R = TypeVar("R")


class QdrantPool:
    """The client of one worker, with its connections. Opened by the first call; used on one loop."""

    def __init__(self, options: QdrantOptions, guard: Guard, clock: Clock) -> None:
        self.options = options
        self.guard = guard
        self.clock = clock
        self._place = place_of(options)
        guard.where = lambda: self._place.address
        self._loading: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[_Shared] | None = None
        self._current: _Shared | None = None
        self._has_answered = False
        self._closed = False
        self._places = Places(options.pool_max, clock)
        self._has_places = not (options.path or options.grpc)
        #: Clients that were given up and are being closed.
        self._closings: set[asyncio.Task[None]] = set()

    def bind(self, job: JobCall) -> Qdrant:
        """The methods, on behalf of this job."""
        from perdure.adapters.qdrant import Qdrant

        return Qdrant(self, job)

    async def close(self) -> None:
        """Close all connections. Calls that are under way end first, or with their own deadline."""
        self._closed = True
        if self._opening is not None:
            await asyncio.wait([self._opening])
        current, self._current = self._current, None
        if current is not None:
            await current.retire()
        if self._closings:
            await asyncio.wait(set(self._closings))

    async def load(self) -> None:
        """Import the driver, once. Not within the guard: slow as it is, no server is to blame. Raises UsageError."""
        if self._loading is None or (self._loading.done() and self._loading.exception() is not None):
            self._loading = asyncio.create_task(load_driver())
        await asyncio.shield(self._loading)

    async def use(self, ask: Ask[R]) -> R:
        """Run `ask` with the client, opened if it is not. Raises Unavailable, and the driver's exceptions.

        PoolExhausted: no connection came free in half of the call's time. A refused key is read again from its file:
        if it has changed, the client is opened anew with it and asked again.
        """
        if not self._has_places:
            return await self._ask(ask)
        advice = "Raise qdrant.pool_max, or lower workers.async_slots"
        await self._places.take(self.options.timeout_ms / 1000, lambda: f"qdrant at {self._place.address}", advice)
        try:
            return await self._ask(ask)
        finally:
            self._places.give_back()

    async def _ask(self, ask: Ask[R]) -> R:
        while True:
            shared = await self._open()
            try:
                result = await shared.run(ask)
            except Exception as exc:
                self._has_answered = self._has_answered or is_answer(exc)
                if is_key_refused(exc) and await self._has_new_key(shared):
                    continue
                error = await self._explain(exc)
                if error is None:
                    raise
                raise _fair(error, exc) from exc
            self._has_answered = True
            return result

    async def native(self) -> AsyncQdrantClient:
        """The driver's own client. Raises UsageError in the embedded mode, where it would stop the loop."""
        client = (await self._open()).client
        if not isinstance(client, Remote):
            raise UsageError("the embedded Qdrant has no client of its own; use ctx.qdrant.call(lambda client: …)")
        return client.client

    # --- opening

    async def _open(self) -> _Shared:
        """The client that is open; the first of those who ask opens it, and the others wait for the same."""
        if self._current is not None and not self._current.is_given_up:
            return self._current
        if self._closed:
            raise UsageError("qdrant: the worker is ending, nothing is opened any more")
        if self._opening is None:
            self._opening = asyncio.create_task(self._open_now())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    async def _open_now(self) -> _Shared:
        await self.load()
        self._current = _Shared(await open_client(self.options), self._closings)
        return self._current

    def _opened(self, task: asyncio.Task[_Shared]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # looked at, in case nobody waits any more

    async def _has_new_key(self, used: _Shared) -> bool:
        """Whether there is another key than the one that was refused; then the client with the old one is given up."""
        if self._current is used:
            key = await asyncio.to_thread(read_key, self.options)
            if key == used.client.key:
                return False
        if self._current is used:
            self._current = None
            await used.retire()
        return True

    async def _explain(self, exc: Exception) -> Unavailable | None:
        error = diagnose(exc, self._place)
        if error is not None and is_hang_up(error) and not self._has_answered:
            return await look_behind(self._place) or error
        return error


def _fair(error: Unavailable, exc: Exception) -> Exception:
    """The error; but CallTooLong when a call with less than its usual time did not get an answer in it."""
    time = call_time.get()
    is_hurried = time is not None and not time.is_full
    return CallTooLong(str(error)) if is_hurried and is_late(exc) else error


class _Shared:
    """A client and how many calls use it. It is closed when it has been given up and the last of them has ended.

    A call that is cut off while it waits for a connection leaves its place in httpx's pool taken for ever (httpcore
    1.0.9, measured: with more callers than places all are gone after one outage). So the client is given up then, and
    the next call gets a fresh one. The embedded one has no connections.
    """

    def __init__(self, client: Client, closings: set[asyncio.Task[None]]) -> None:
        self.client = client
        self._closings = closings
        self._calls = 0
        self.is_given_up = False
        self._closing: asyncio.Task[None] | None = None

    async def run(self, ask: Ask[R]) -> R:
        self._calls += 1
        try:
            return await self.client.run(ask)
        except BaseException as exc:
            if not isinstance(exc, Exception) and isinstance(self.client, Remote):
                self.is_given_up = True
            raise
        finally:
            self._calls -= 1
            self._close_if_unused()

    async def retire(self) -> None:
        self.is_given_up = True
        self._close_if_unused()
        if self._closing is not None:
            await asyncio.shield(self._closing)

    def _close_if_unused(self) -> None:
        """In a task of its own: whoever was cut off must not wait for it."""
        if self.is_given_up and self._calls == 0 and self._closing is None:
            self._closing = asyncio.create_task(self._close())
            self._closings.add(self._closing)
            self._closing.add_done_callback(self._closings.discard)

    async def _close(self) -> None:
        with contextlib.suppress(Exception):  # it was given up because something is wrong with it
            await self.client.close()
