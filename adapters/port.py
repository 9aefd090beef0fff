"""A direct line between a handler and a client: a stream socket whose two ends they hold, and nobody else.

It is given up by either side, or by the death of one; what was sent before can still be received.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Final

#: The most that one `receive` gives, unless it is told otherwise: about what a socket holds. More, or larger buffers of
#: sockets, are slower: the bytes have left the processor's cache by the time they are read.
RECEIVE_BYTES: Final = 256 * 1024

Data = bytes | bytearray | memoryview


class _Line:
    """What both forms have in common."""

    def __init__(self, sock: socket.socket) -> None:
        #: The socket itself, for libraries that want one.
        self.socket = sock
        self.closed = False

    def fileno(self) -> int:
        """The socket's descriptor; -1 when closed."""
        return self.socket.fileno()

    def end(self) -> None:
        """Nothing more will be sent: the other side receives b"". Receiving goes on."""
        with contextlib.suppress(OSError):  # the other side is gone
            self.socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Hang up; again is harmless."""
        if not self.closed:
            self.closed = True
            # A process that was forked meanwhile may have a copy, which would keep the line open.
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_RDWR)
            self.socket.close()


class Port(_Line):
    """A connected stream for coroutines: `await port.send(data)`, `await port.receive()`, `async for data in port`.

    One coroutine may send while another one receives. Both raise ConnectionError when the other side is gone.
    """

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(False)

    async def send(self, data: Data) -> None:
        """Send all of it; returns when the last of it is on its way, so a slow reader makes this wait."""
        await asyncio.get_running_loop().sock_sendall(self.socket, data)

    async def receive(self, most: int = RECEIVE_BYTES) -> bytes:
        """What has come, at most so many bytes; b"" when the other side sends no more."""
        return await asyncio.get_running_loop().sock_recv(self.socket, most)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while data := await self.receive():
            yield data

    async def __aenter__(self) -> Port:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()


class BlockingPort(_Line):
    """The same for code without an event loop: each call waits until it is done."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        sock.setblocking(True)

    def send(self, data: Data) -> None:
        """Send all of it."""
        self.socket.sendall(data)

    def receive(self, most: int = RECEIVE_BYTES) -> bytes:
        """What has come, at most so many bytes; b"" when the other side sends no more."""
        return self.socket.recv(most)

    def __iter__(self) -> Iterator[bytes]:
        while data := self.receive():
            yield data

    def __enter__(self) -> BlockingPort:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
