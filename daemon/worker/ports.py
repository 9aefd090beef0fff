"""Direct lines between jobs and clients: offered to the supervisor, which hands the other end to a client."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from perdure.errors import CallTooLong, UsageError
from perdure.wire.work import PortOffered

#: Sends a message with one descriptor.
Send = Callable[[PortOffered, int], object]


class Ports:
    """The ports of this worker's jobs that wait for a client. Used in the loop's thread."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._waiting: dict[int, asyncio.Future[None]] = {}

    async def open(self, job_id: int, timeout: float | None) -> socket.socket:
        """A socket that is connected with a client. Raises CallTooLong, UsageError."""
        if job_id in self._waiting:
            raise UsageError(f"job {job_id} waits at its port already; it has one for one client at a time")
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[job_id] = future
        try:
            with theirs:
                self._send(PortOffered(job_id), theirs.fileno())
            async with asyncio.timeout(timeout):
                await future
        except TimeoutError:
            # The supervisor sees that our end is closed, and takes the offer back.
            ours.close()
            raise CallTooLong(f"no client came to the port of job {job_id} within {timeout:g} s") from None
        except BaseException:
            ours.close()
            raise
        finally:
            del self._waiting[job_id]
        return ours

    def taken(self, job_id: int) -> None:
        """A client has the other end."""
        future = self._waiting.get(job_id)
        if future is not None and not future.done():
            future.set_result(None)
