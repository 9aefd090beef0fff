"""Commands on behalf of jobs: asynchronous, with live output, bounded memory, and an end for all that they started."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
import uuid
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Final, Literal, TypeVar

import msgspec

from perdure.adapters import kin
from perdure.adapters.output_pump import Pump, Sink, Tail, make_pipe
from perdure.adapters.program import Wishes, spawn
from perdure.duration import format_duration, format_size
from perdure.errors import CallTooLong, CommandFailed

T = TypeVar("T")

#: What every process of one command has in its environment, with a value of its own.
COMMAND_MARK: Final = "PERDURE_COMMAND"
#: How long what was killed may take to be gone, seconds. Longer: it hangs in the kernel.
KILL_SECONDS: Final = 1.0
#: How long a command that was ended may take to have its last output written, seconds.
OUTPUT_SECONDS: Final = 2.0
#: How long a look at all processes may take, seconds: /proc can hang on one that hangs.
LOOK_SECONDS: Final = 1.0
#: Between two looks at who is still there, seconds: at first and at most.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.1
#: Of standard input, so much is put into memory at once.
_INPUT_SLICE: Final = 4 * 1024 * 1024
#: When somebody else has waited for our child, nobody knows how it ended.
_UNKNOWN_STATUS: Final = 255

#: Why a command was ended before it ended by itself.
Reason = Literal["time", "given up", "too much", "output"]


class Completed(msgspec.Struct, frozen=True):
    """A command that has ended. `last_lines`: the end of what it printed; `stdout`: all of it, when captured."""

    command: str
    returncode: int
    last_lines: str
    stdout: bytes = b""


class Helpers:
    """The two threads that commands need: one moves their output, one looks at processes. Made when first needed.

    Apart from each other, and from the loop's own: a disk that hangs must not keep a command from being ended, and
    handlers that wait for commands in all of the loop's threads must not keep these from being served.
    """

    def __init__(self) -> None:
        self.output = ThreadPoolExecutor(1, "perdure-output")
        self.lookout = ThreadPoolExecutor(1, "perdure-lookout")

    def close(self) -> None:
        """End the threads, without waiting for them."""
        self.output.shutdown(wait=False)
        self.lookout.shutdown(wait=False)


class Surroundings(msgspec.Struct, frozen=True):
    """Where commands run, and what holds for all of them.

    `grace_seconds`: from SIGTERM to SIGKILL, which comes at `until` (of time.monotonic()) at the latest. `reaper`: the
    pid of the process that takes in orphans, None: unknown. `capture_bytes`: how much output can be kept.
    """

    sink: Sink
    helpers: Helpers
    grace_seconds: float = 2.0
    until: float | None = None
    reaper: int | None = None
    capture_bytes: int = 1024 * 1024


async def run(wishes: Wishes, around: Surroundings) -> Completed:
    """Run a command to its end.

    However this ends, all that the command started has ended, too, but for processes that outlive a command which ended
    well: these are named in its output. To be cancelled takes as long as it takes to end the command: the grace and
    KILL_SECONDS at most. Raises CommandFailed, CallTooLong, UsageError.
    """
    stdin = await _standard_input(wishes.input)
    try:
        command = _Command(wishes, around, stdin)
    finally:
        os.close(stdin)
    # A task of its own: who waits for it may be cancelled, and more than once; its steps are done all the same.
    life = asyncio.get_running_loop().create_task(command.live(), name=f"command {wishes.program}")
    is_cancelled = False
    while not life.done():
        try:
            await asyncio.wait({life})
        except asyncio.CancelledError:
            is_cancelled = True
            command.stop("given up")
    if not is_cancelled:
        return life.result()
    if not life.cancelled():
        life.exception()  # looked at: there is nobody left to hear of it
    raise asyncio.CancelledError


async def _standard_input(data: bytes | None) -> int:
    """A descriptor to read it from. A file in memory, so that nobody has to push it in while the command runs."""
    if data is None:
        return os.open(os.devnull, os.O_RDONLY)
    fd = os.memfd_create("perdure-input")
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view[:_INPUT_SLICE]) :]
            await asyncio.sleep(0)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


class _Capture:
    """A sink that keeps what comes, up to a limit."""

    def __init__(self, limit: int, on_full: Callable[[], object]) -> None:
        self.kept = bytearray()
        self._limit = limit
        self._on_full = on_full
        self._loop = asyncio.get_running_loop()

    def write(self, data: bytes) -> None:
        if len(self.kept) + len(data) <= self._limit:
            self.kept += data
        else:
            self._loop.call_soon_threadsafe(self._on_full)

    def flush(self) -> None:
        pass


class _Command:
    """One command. It runs as soon as this is made; `live` must follow at once."""

    def __init__(self, wishes: Wishes, around: Surroundings, stdin: int) -> None:
        self._wishes = wishes
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        self._reason: Reason | None = None
        self._returncode: int | None = None
        #: Somebody else has reaped the leader, so that its number may belong to anybody.
        self._is_lost = False
        self._tail = Tail()
        self._capture = _Capture(around.capture_bytes, lambda: self.stop("too much")) if wishes.capture else None
        mark = uuid.uuid4().hex
        self._mark = f"{COMMAND_MARK}={mark}".encode()
        readers: list[int] = []
        try:
            self._pid = self._spawn({**wishes.environ, COMMAND_MARK: mark}, stdin, readers)
            self._pidfd = self._watch()
        except BaseException:
            for reader in readers:
                os.close(reader)
            raise
        sinks = [around.sink] if self._capture is None else [around.sink, self._capture]
        self._pumps = [
            Pump(reader, sink, self._tail, around.helpers.output, raw=sink is self._capture)
            for reader, sink in zip(readers, sinks, strict=True)
        ]
        self._moving = {self._loop.create_task(pump.run()) for pump in self._pumps}
        for task in self._moving:
            task.add_done_callback(self._moved)

    def _spawn(self, environ: Mapping[str, str], stdin: int, readers: list[int]) -> int:
        """Start it; `readers` gets our ends of its pipes: that of the log, and that of what is captured."""
        writers: list[int] = []
        try:
            for _ in range(1 if self._capture is None else 2):
                reader, writer = make_pipe()
                readers.append(reader)
                writers.append(writer)
            # One pipe for both streams: the lines come in the order in which they were written.
            return spawn(self._wishes.program, environ, stdin, writers[-1], writers[0])
        finally:
            for writer in writers:
                os.close(writer)

    def _watch(self) -> int:
        try:
            pidfd = os.pidfd_open(self._pid)
        except OSError:
            os.killpg(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            raise
        self._loop.add_reader(pidfd, self._look_at_leader)
        return pidfd

    def _look_at_leader(self) -> None:
        """It has ended. It stays a zombie until the end of all this, so that its number remains that of its group."""
        try:
            ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        except ChildProcessError:
            self._is_lost = True
            self._returncode = _UNKNOWN_STATUS
        else:
            if ended is None:
                return
            self._returncode = ended.si_status if ended.si_code == os.CLD_EXITED else -ended.si_status
        self._loop.remove_reader(self._pidfd)
        self._changed.set()

    def _moved(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.stop("output")
        self._changed.set()

    def stop(self, reason: Reason) -> None:
        """End it. Does nothing if it is being ended already."""
        self._reason = self._reason or reason
        self._changed.set()

    # --- from its start to its end

    async def live(self) -> Completed:
        """Wait for its end, or end it; then see to what is left of it. Raises CommandFailed, CallTooLong."""
        try:
            await self._until_end()
            if self._reason is None and (self._returncode == 0 or not self._wishes.check):
                notes = await self._left_behind()
            else:
                notes = await self._end_all()
            await self._finish_output()
            for note in notes:
                await self._loop.run_in_executor(self._around.helpers.output, self._around.sink.write, note)
        except BaseException:
            self._signal_group(signal.SIGKILL)
            raise
        finally:
            self._forget()
        return self._outcome()

    async def _until_end(self) -> None:
        try:
            async with asyncio.timeout(self._wishes.seconds):
                while self._reason is None and self._returncode is None:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            self.stop("time")

    async def _end_all(self) -> list[bytes]:
        """SIGTERM, and SIGKILL to who is left after the grace. Notes about who could not be ended."""
        self._signal_group(signal.SIGTERM)
        # What is stopped hears of a signal when it goes on.
        self._signal_group(signal.SIGCONT)
        others = await self._family()
        await self._look(partial(kin.send, others, signal.SIGTERM))
        patience = time.monotonic() + self._around.grace_seconds
        left = await self._until_gone(min(patience, self._around.until or patience), None)
        if left or self._returncode is None:
            left = await self._until_gone(time.monotonic() + KILL_SECONDS, signal.SIGKILL)
        return [f"perdure: {one} could not be ended\n".encode() for one in left]

    async def _until_gone(self, deadline: float, number: signal.Signals | None) -> list[kin.Process]:
        """Wait until nobody is left, or the time is over; with a signal, for those who are. Who is left then."""
        pause = _FIRST_PAUSE
        while True:
            if number is not None:
                self._signal_group(number)
            left = await self._family() if self._returncode is not None or number is not None else []
            if number is not None:
                await self._look(partial(kin.send, left, number))
            wait = deadline - time.monotonic()
            if (self._returncode is not None and not left) or wait <= 0:
                return left
            # Who leads is not polled for: its end is told.
            await self._pause(wait if self._returncode is None and number is None else min(pause, wait))
            pause = min(2 * pause, _LONGEST_PAUSE)

    async def _pause(self, seconds: float) -> None:
        self._changed.clear()
        if self._returncode is not None:
            await asyncio.sleep(seconds)
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    def _signal_group(self, number: signal.Signals) -> None:
        if not self._is_lost:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._pid, number)

    async def _family(self) -> list[kin.Process]:
        return await self._look(partial(kin.family, self._mark, self._pid)) or []

    async def _left_behind(self) -> list[bytes]:
        """Notes about processes that go on without the command."""
        reaper = self._around.reaper
        if reaper is None:
            left = await self._family()
        else:
            left = await self._look(partial(kin.left_behind, self._mark, self._pid, reaper)) or []
        return [f"perdure: {one} goes on after the end of the command\n".encode() for one in left]

    async def _look(self, function: Callable[[], T]) -> T | None:
        """Have the lookout do it; None when it takes too long."""
        future = self._loop.run_in_executor(self._around.helpers.lookout, function)
        done, _ = await asyncio.wait({future}, timeout=LOOK_SECONDS)
        return future.result() if done else None

    async def _finish_output(self) -> None:
        """Wait until what it wrote is where it belongs; not for long if nobody wants it any more."""
        for pump in self._pumps:
            pump.finish()
        while self._reason is None and not all(task.done() for task in self._moving):
            self._changed.clear()
            await self._changed.wait()
        await asyncio.wait(self._moving, timeout=OUTPUT_SECONDS)

    def _forget(self) -> None:
        self._loop.remove_reader(self._pidfd)
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG)
        os.close(self._pidfd)

    # --- what it came to

    def _outcome(self) -> Completed:
        command, status = str(self._wishes.program), self._returncode if self._returncode is not None else -9
        last_lines = str(self._tail)
        wrote = f"; it wrote last:\n{last_lines}" if last_lines else "; it wrote nothing"
        for task in self._moving:
            if task.done() and not task.cancelled():
                task.result()  # what broke while its output was moved
        match self._reason:
            case "time":
                limit = format_duration(int(1000 * (self._wishes.seconds or 0)))
                raise CallTooLong(f"{command} did not end within {limit}, so it was ended{wrote}")
            case "too much":
                limit = format_size(self._around.capture_bytes)
                message = (
                    f"{command} was ended because it wrote more than the {limit} that can be captured (limits.result);"
                    " let it write into a file"
                )
                raise CommandFailed(message, command=command, returncode=status, last_lines=last_lines)
        if status and self._wishes.check:
            message = f"{command} {how_it_ended(status)}{wrote}"
            raise CommandFailed(message, command=command, returncode=status, last_lines=last_lines)
        return Completed(command, status, last_lines, bytes(self._capture.kept) if self._capture else b"")


def how_it_ended(returncode: int) -> str:
    """In words: "exited with status 3", "was killed by SIGTERM"."""
    if returncode >= 0:
        return f"exited with status {returncode}"
    try:
        return f"was killed by {signal.Signals(-returncode).name}"
    except ValueError:
        return f"was killed by signal {-returncode}"
