"""The other process of a measurement of channels."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import uvloop
from msgspec import Struct
from msgspec.msgpack import Decoder

from perdure.wire.channel import Channel

#: What a sink reads at once.
PIECE_BYTES = 1 << 20


class Note(Struct, array_like=True, tag="note"):
    """An event of the measurement. `sent_ns`: CLOCK_MONOTONIC. `answer`: send it back, with when it came."""

    sent_ns: int
    answer: bool
    text: str
    came_ns: int = 0


@contextlib.contextmanager
def far_end(role: str, kind: socket.SocketKind) -> Iterator[socket.socket]:
    """Our end of a socket of this kind, at the other end of which a process plays `role`: bare, channel or sink."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, kind)
    with ours:
        with theirs:
            code = "from perdure.bench.far_end import main; main()"
            command = [sys.executable, "-c", code, role, str(theirs.fileno())]
            process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        try:
            yield ours
        finally:
            ours.close()
            process.wait()


def _bare(sock: socket.socket) -> None:
    """Send back each packet that begins with 1, as it is."""
    while packet := sock.recv(65536):
        if packet[0] == 1:
            sock.send(packet)


async def _channel(sock: socket.socket) -> None:
    """The same with messages, on an event loop."""
    ended = asyncio.Event()

    def on_message(note: Note) -> None:
        if note.answer:
            note.came_ns = time.monotonic_ns()
            channel.send(note)

    channel: Channel[Note] = Channel(sock, Decoder(Note), on_message, lambda _: ended.set())
    await ended.wait()


def _sink(sock: socket.socket) -> None:
    """Answer single bytes; from the first longer piece on read to the end, and say how many bytes that was."""
    buffer = bytearray(PIECE_BYTES)
    total = 0
    while count := sock.recv_into(buffer):
        if count == 1 and not total:
            sock.sendall(b"\1")
        else:
            total += count
    sock.sendall(total.to_bytes(8, "big"))


def main() -> None:
    """Play the role of the first argument on the descriptor of the second one, until the other side closes."""
    role, fd = sys.argv[1], int(sys.argv[2])
    with socket.socket(fileno=fd) as sock:
        if role == "channel":
            uvloop.run(_channel(sock))
        else:
            {"bare": _bare, "sink": _sink}[role](sock)
