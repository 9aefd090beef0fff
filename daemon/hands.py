"""Threads for what the system may never finish: reading a file that a client names, on a network mount that hangs.

The threads of asyncio and of concurrent.futures are waited for when a process ends. Nobody waits for these: the daemon
ends whatever they hang on, and they end with it.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class Hands:
    """So many threads, begun when there is something to do. The methods are called by one thread."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._most = threads
        self._threads = 0
        #: What was asked for and is not over.
        self.busy_with = 0
        self._counting = threading.Lock()
        self._closed = False
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Have this done, after what was asked for before. After `close` it is cancelled at once."""
        future: Future[T] = Future()
        with self._counting:
            self.busy_with += 1
        future.add_done_callback(self._over)
        if self._closed:
            future.cancel()
            return future
        self._work.put((future, work))
        if self._threads < self._most:
            self._threads += 1
            threading.Thread(target=self._run, name=f"{self._name}-{self._threads}", daemon=True).start()
        return future

    def close(self) -> None:
        """Begin nothing more; what was begun is let go on for as long as the process lives."""
        self._closed = True
        for _ in range(self._threads):
            self._work.put(None)

    def _over(self, _: Future[Any]) -> None:
        with self._counting:
            self.busy_with -= 1

    def _run(self) -> None:
        while (one := self._work.get()) is not None:
            future, work = one
            if self._closed or not future.set_running_or_notify_cancel():
                future.cancel()
                continue
            # Whoever asked may have gone away, and cancelled it.
            with contextlib.suppress(InvalidStateError):
                try:
                    result = work()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del future, work, one
