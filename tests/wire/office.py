"""A server for the tests of calls, and what it answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

from perdure.errors import NotFound
from perdure.wire.calls import Caller
from perdure.wire.control import GetJob, GetStatus, ListJobs, ListQueues, PauseQueue, RetryJobs, WaitJobs
from perdure.wire.data import JobFilter, QueueView, Verdict
from perdure.wire.peer import Peer
from perdure.wire.server import Server


class Office:
    """A handler that shows what became of its calls."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.begun = 0
        self.futures: list[asyncio.Future[Any]] = []

    def __call__(self, request: object, peer: Peer) -> Any:
        """Each kind of request is answered in another way."""
        self.begun += 1
        match request:
            case PauseQueue():
                return None
            case ListQueues():
                return [QueueView("q" * 100_000, {})]
            case GetJob(id):
                raise NotFound(f"there is no job {id}")
            case RetryJobs(ids):
                return self._later([Verdict(id) for id in ids])
            case WaitJobs():
                return self._wait()
            case ListJobs():
                self.futures.append(asyncio.get_running_loop().create_future())
                return self.futures[-1]
            case GetStatus():
                return object()
        raise AssertionError(request)

    async def _later(self, answer: object) -> object:
        await asyncio.sleep(0)
        return answer

    async def _wait(self) -> object:
        try:
            return await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


LIST = ListJobs(JobFilter())


def anybody(_: Peer) -> bool:
    """Serve whoever comes."""
    return True


def serving(path: Path, office: Callable[[Any, Peer], Any], **options: Any) -> Server:
    """A server that listens."""
    server = Server(str(path), office, options.pop("may_connect", anybody), **options)
    server.start()
    return server


async def shut(server: Server, *callers: Caller) -> None:
    """End all, and see that nothing is left."""
    for caller in callers:
        caller.close()
        assert len(caller.pending) == 0
    server.close()
    await server.wait_closed()
    assert server.clients == []
    assert server.calls_in_flight == 0
