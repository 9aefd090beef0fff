"""From the pipe of a command to where its output goes, in whole lines, with bounded memory."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import re
import sys
import termios
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Final, Protocol, TypeVar

T = TypeVar("T")

#: How much is read at once, and how long a line can be before it is cut.
CHUNK_BYTES: Final = 64 * 1024
#: How much of one command's output is moved before that of others.
SLICE_BYTES: Final = 1024 * 1024
#: The room of the pipe, where the system allows it.
PIPE_BYTES: Final = 256 * 1024
#: The beginning of a line is passed on after so long without its end: a prompt, a bar that grows.
PARTIAL_SECONDS: Final = 0.5
#: What is kept of the end, for results and errors.
TAIL_BYTES: Final = 8 * 1024
TAIL_LINES: Final = 20
#: What a process that outlives its command still writes is thrown away at this pace.
_DISCARD_SECONDS: Final = 0.05
_LINE_END: Final = ord("\n")

#: Colours and cursor movements of terminals.
_ESCAPES: Final = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")


class Sink(Protocol):
    """Where output goes. Called from one thread at a time, which need not be the loop's."""

    def write(self, data: bytes, /) -> object:
        """Take whole lines, or a piece of one that is too long."""
        ...

    def flush(self) -> object:
        """Let what was written so far be seen, although its line has no end."""
        ...


class Tail:
    """The end of what was written."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        """More was written."""
        self._kept = (self._kept + data[-TAIL_BYTES:])[-TAIL_BYTES:]

    def __str__(self) -> str:
        """The last lines, without what steers terminals. Of a line that was overwritten, its last state."""
        text = _ESCAPES.sub("", self._kept.decode("utf-8", "replace"))
        lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]
        shown = "\n".join(lines).rstrip().split("\n")[-TAIL_LINES:]
        return "\n".join(
            "".join(char if char.isprintable() or char == "\t" else "?" for char in line) for line in shown
        )


class Pump:
    """Moves what comes out of a pipe into a sink, until the pipe ends or `finish` is called. Owns the pipe's end.

    The loop only waits for the pipe; reading and writing are done by `executor`, in slices. As long as a slice is being
    written nothing is read, so a command is slowed down to the pace of the sink. `raw`: bytes as they come, not lines.
    """

    def __init__(self, reader: int, sink: Sink, tail: Tail | None, executor: Executor, *, raw: bool = False) -> None:
        self._fd = reader
        self._sink = sink
        self._tail = tail
        self._executor = executor
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._partial = b""
        self._ends_in_line = True
        #: Bytes still to be read, once the end is known.
        self._left: int | None = None
        self._finishing = False
        self._is_moving = False
        self.at_end = False

    async def run(self) -> None:
        """Move all of it. Closes the pipe, unless somebody else still holds it: then what comes is thrown away."""
        try:
            while not self.at_end and self._left != 0:
                if self._finishing and self._left is None:
                    # Whoever ended has written what it wrote; what others go on writing must not keep us.
                    self._left = _waiting(self._fd)
                if not await self._move() and not self._finishing:
                    await self._until_readable()
            await self._in_thread(self._end_line)
        finally:
            # If this was cancelled, a thread may still be reading from it.
            if self.at_end:
                os.close(self._fd)
            elif not self._is_moving:
                self._discard()

    def finish(self) -> None:
        """The command has ended: take what it has written, and no more."""
        self._finishing = True
        self._wake.set()

    # --- waiting, on the loop

    async def _until_readable(self) -> None:
        """Return when there is something, or `finish` is called. Meanwhile a line without an end becomes visible."""
        self._wake.clear()
        self._loop.add_reader(self._fd, self._wake.set)
        try:
            if self._finishing:
                return
            if self._partial:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(PARTIAL_SECONDS):
                        await self._wake.wait()
                    return
                await self._in_thread(self._show_partial)
            await self._wake.wait()
        finally:
            self._loop.remove_reader(self._fd)

    async def _move(self) -> int:
        return await self._in_thread(self._move_slice)

    async def _in_thread(self, function: Callable[[], T]) -> T:
        self._is_moving = True
        result = await self._loop.run_in_executor(self._executor, function)
        self._is_moving = False
        return result

    # --- moving, in the executor's thread

    def _move_slice(self) -> int:
        """Read and write until nothing is there, or enough for one turn; how many bytes."""
        moved = 0
        while moved < SLICE_BYTES and self._left != 0:
            size = CHUNK_BYTES if self._left is None else min(CHUNK_BYTES, self._left)
            try:
                chunk = os.read(self._fd, size)
            except BlockingIOError:
                if self._left is not None:
                    self._left = 0
                break
            if not chunk:
                self.at_end = True
                break
            moved += len(chunk)
            if self._left is not None:
                self._left -= len(chunk)
            if self._tail is not None:
                self._tail.add(chunk)
            self._pass_on(chunk)
        return moved

    def _pass_on(self, chunk: bytes) -> None:
        """Write whole lines; keep the beginning of the next, unless it is too long already."""
        if self._raw:
            self._sink.write(chunk)
            return
        data = self._partial + chunk if self._partial else chunk
        end = data.rfind(b"\n") + 1
        if len(data) - end >= CHUNK_BYTES:
            end = len(data)
        self._partial = data[end:]
        if end:
            self._ends_in_line = data[end - 1] == _LINE_END
            self._sink.write(data[:end] if self._partial else data)

    def _show_partial(self) -> None:
        if self._partial:
            partial, self._partial = self._partial, b""
            self._ends_in_line = False
            self._sink.write(partial)
            self._sink.flush()

    def _end_line(self) -> None:
        """What the command's last line lacks is added: the next line is not a part of it."""
        partial, self._partial = self._partial, b""
        if partial or not self._ends_in_line:
            self._sink.write(partial + b"\n")

    # --- afterwards

    def _discard(self) -> None:
        """Read on without looking, slowly: who writes into a pipe that nobody holds is killed by that."""
        try:
            gone = not os.read(self._fd, CHUNK_BYTES)
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone or self._loop.is_closed():
            os.close(self._fd)
        else:
            self._loop.call_later(_DISCARD_SECONDS, self._await_more)

    def _await_more(self) -> None:
        self._loop.add_reader(self._fd, self._discard_more)

    def _discard_more(self) -> None:
        self._loop.remove_reader(self._fd)
        self._discard()


def make_pipe() -> tuple[int, int]:
    """A pipe with room, whose reading end does not wait."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with contextlib.suppress(OSError):  # the user has many large pipes already
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    return reader, writer


def _waiting(fd: int) -> int:
    """How many bytes wait in a pipe."""
    size = bytearray(4)
    fcntl.ioctl(fd, termios.FIONREAD, size)
    return int.from_bytes(size, sys.byteorder)
