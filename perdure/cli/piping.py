"""Between a socket and the standard streams, both ways at once; by the kernel alone where it can do that.

The socket never makes anybody wait: splice(2) holds the lock of a pipe while it waits for a socket, and with that
whoever is at the other end of the pipe, even for what stands in it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import socket
import threading
from typing import Final

#: What is moved at once.
_CHUNK_BYTES: Final = 1 << 20


def connect_streams(sock: socket.socket, source: int, target: int) -> None:
    """Move what is read from `source` into the socket, and what comes out of it to `target`, until the other side has
    hung up, or both sides have said all they had. Raises OSError; ConnectionResetError: it hung up in the middle.
    """
    sock.setblocking(False)
    for pipe in (source, target):
        with contextlib.suppress(OSError):  # it is none
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)
    # A read from a terminal cannot be interrupted, so nobody waits for this thread.
    threading.Thread(target=_feed, args=(source, sock), name="perdure-stdin", daemon=True).start()
    _move(sock.fileno(), target)
    # The other side sends no more, but may still listen: until it hangs up, or we have said all.
    _await(sock.fileno(), 0)


def _feed(source: int, sock: socket.socket) -> None:
    """All of it, then the end. When the other side is gone, that is found out by who reads from it."""
    with contextlib.suppress(OSError):
        try:
            _move(source, sock.fileno())
        finally:
            sock.shutdown(socket.SHUT_WR)


def _move(source: int, target: int) -> None:
    """Everything, to the end of `source`. Raises OSError."""
    try:
        while _splice(source, target):
            pass
    except OSError as error:
        if isinstance(error, ConnectionError):
            raise
        # Neither of them is a pipe. What has been moved until now has gone from the source.
        _copy(source, target)


def _splice(source: int, target: int) -> int:
    while True:
        try:
            return os.splice(source, target, _CHUNK_BYTES)
        except BlockingIOError:
            _await(source, select.POLLIN)
            _await(target, select.POLLOUT)


def _copy(source: int, target: int) -> None:
    room = memoryview(bytearray(_CHUNK_BYTES))
    while True:
        try:
            count = os.readv(source, [room])
        except BlockingIOError:
            _await(source, select.POLLIN)
            continue
        if not count:
            return
        left = room[:count]
        while left:
            try:
                left = left[os.write(target, left) :]
            except BlockingIOError:
                _await(target, select.POLLOUT)


def _await(fd: int, events: int) -> None:
    """Until one of these can be done without waiting, or the other side has hung up."""
    poll = select.poll()
    poll.register(fd, events)
    poll.poll()
