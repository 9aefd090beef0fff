"""A daemon that answers as it is told: the real server of the control socket on a thread of its own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from perdure.wire import control
from perdure.wire.data import Enqueued
from perdure.wire.peer import Peer
from perdure.wire.server import Server

#: What an answer may be instead of a value: the connection ends without one.
HANG_UP = object()
#: And this: no answer ever comes.
SILENCE = object()


def jobs_in(request: control.Enqueue | control.EnqueueAlike) -> int:
    """How many jobs a request puts in."""
    return len(request.args if isinstance(request, control.EnqueueAlike) else request.jobs)


def place(request: Any) -> Any:
    """Answer Enqueue with ids from 1, everything else with nothing."""
    if isinstance(request, control.Enqueue | control.EnqueueAlike):
        return [Enqueued(number) for number in range(1, jobs_in(request) + 1)]
    return None


class DaemonDouble:
    """Keeps the requests in `got`; `answer(request)` gives the answer, raises, or is HANG_UP or SILENCE."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.got: list[Any] = []
        self.connections = 0
        self.answer: Callable[[Any], Any] = place
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._server: Server | None = None
        self._on_loop(self._listen)

    def restart(self) -> None:
        """Drop all connections and listen again."""
        self._on_loop(self._close)
        self._on_loop(self._listen)

    def stop(self) -> None:
        """End it."""
        self._on_loop(self._close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _listen(self) -> None:
        self._server = Server(self.path, self._handle, self._count, loop=self._loop)
        self._server.start()

    def _close(self) -> None:
        assert self._server is not None
        self._server.close()

    def _count(self, _: Peer) -> bool:
        self.connections += 1
        return True

    def _handle(self, request: Any, peer: Peer) -> Any:
        self.got.append(request)
        answer = self.answer(request)
        if answer is HANG_UP:
            assert self._server is not None
            # Not `self._server.close()`: others must still be able to connect at every moment.
            self._loop.call_soon(self._server._sessions[peer].channel.close)
        return self._loop.create_future() if answer in (HANG_UP, SILENCE) else answer

    def _on_loop(self, act: Callable[[], None]) -> None:
        done: Future[None] = Future()

        def run() -> None:
            try:
                act()
                done.set_result(None)
            except BaseException as error:
                done.set_exception(error)

        self._loop.call_soon_threadsafe(run)
        done.result(10)
