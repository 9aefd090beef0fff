"""Between a socket and the standard streams, both ways at once; by the kernel alone where it can do that."""

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
    for pipe in (source, target):
        with contextlib.suppress(OSError):  # it is none
            fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, _CHUNK_BYTES)
    # A read from a terminal cannot be interrupted, so nobody waits for this thread.
    threading.Thread(target=_feed, args=(source, sock), name="perdure-stdin", daemon=True).start()
    _drain(sock, target)
    # The other side sends no more, but may still listen: until it hangs up, or we have said all.
    poll = select.poll()
    poll.register(sock, 0)
    poll.poll()


def _feed(source: int, sock: socket.socket) -> None:
    """All of it, then the end. When the other side is gone, that is found out by who reads from it."""
    with contextlib.suppress(OSError):
        try:
            _send(source, sock)
        finally:
            sock.shutdown(socket.SHUT_WR)


def _send(source: int, sock: socket.socket) -> None:
    for move in (os.splice, _send_file):  # for pipes; for files
        with contextlib.suppress(OSError):
            while move(source, sock.fileno(), _CHUNK_BYTES):
                pass
            return
    # What has been moved so far has gone from the source, so this goes on where the others have stopped.
    while data := os.read(source, _CHUNK_BYTES):
        sock.sendall(data)


def _send_file(source: int, target: int, count: int) -> int:
    offset = os.lseek(source, 0, os.SEEK_CUR)
    sent = os.sendfile(target, source, offset, count)
    os.lseek(source, offset + sent, os.SEEK_SET)
    return sent


def _drain(sock: socket.socket, target: int) -> None:
    try:
        while os.splice(sock.fileno(), target, _CHUNK_BYTES):
            pass
        return
    except (BrokenPipeError, ConnectionResetError):
        raise
    except OSError:
        pass  # no pipe
    room = memoryview(bytearray(_CHUNK_BYTES))
    while count := sock.recv_into(room):
        data = room[:count]
        while data:
            data = data[os.write(target, data) :]
