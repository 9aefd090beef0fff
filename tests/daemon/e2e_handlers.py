"""Handlers for the tests with a real daemon: each does one thing, most of them something bad."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import itertools
import os
import resource
import signal
import subprocess
import threading
import time
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from perdure import Context, Permanent, Retry, job
from perdure.daemon.worker.sync_lane import SyncLane


@job("noop")
def noop() -> None:
    """Nothing."""


@job("anoop")
async def anoop() -> None:
    """Nothing, on the loop."""


@job("echo")
def echo(value: Any = None) -> Any:
    """What came in."""
    return value


@job("note")
def note(file: str, text: str) -> None:
    """Append a line to a file: the witness of a run."""
    with Path(file).open("a") as out:
        out.write(f"{text}\n")


@job("work")
def work(file: str, seconds: float) -> int:
    """Note the start, take a while, note the end; the pid of the worker."""
    with Path(file).open("a") as out:
        out.write(f"begun {os.getpid()}\n")
        out.flush()
        time.sleep(seconds)
        out.write("done\n")
    return os.getpid()


@job("awork")
async def awork(seconds: float) -> None:
    """Wait on the loop."""
    await asyncio.sleep(seconds)


@job("speak")
def speak(ctx: Context) -> None:
    """Say something through print and through the context."""
    print("a line from print")
    ctx.log.info("a.line", attempt=ctx.attempt)


@job("attempts")
def attempts(ctx: Context, failures: int, after: float | None = None) -> int:
    """Fail a number of times, then tell which attempt this is."""
    if ctx.attempt <= failures:
        raise Retry("not yet", after=after)
    return ctx.attempt


@job("fail")
def fail(permanent: bool = False) -> None:
    """Raise."""
    raise Permanent("this can never work") if permanent else ValueError("a bad value")


@job("size")
def size(text: str) -> int:
    """How long the argument is."""
    return len(text)


@job("fat")
def fat(bytes: int) -> str:
    """A large result."""
    return "x" * bytes


@job("crash")
def crash(how: str) -> None:
    """End the worker in one of many ways."""
    match how:
        case "exit":
            os._exit(7)
        case "segv":
            ctypes.string_at(0)
        case "abort":
            os.abort()
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "term":
            os.kill(os.getpid(), signal.SIGTERM)
        case "c-stack":
            _overflow_the_c_stack()


@job("acrash")
async def acrash(how: str) -> None:
    """The same from the async lane."""
    crash(how)


def _overflow_the_c_stack() -> None:
    """Each call from C puts a large block on the stack: its end comes long before any of Python's limits."""

    def _recurse_in_c(block: _Block) -> None:
        call_from_c(block)

    call_from_c = ctypes.CFUNCTYPE(None, _Block)(_recurse_in_c)
    call_from_c(_Block())


class _Block(ctypes.Structure):
    _fields_ = [("room", ctypes.c_char * (64 << 10))]


def _recurse(depth: int) -> int:
    return [depth].__class__(map(_recurse, [depth + 1]))[0]


@job("recurse")
def recurse() -> int:
    """Recurse in Python without an end: Python's own limit."""
    return _recurse(0)


@job("hoard")
def hoard() -> int:
    """Ask for more memory than this process may have."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (4 * 1024**3, hard))
    try:
        return len(bytearray(64 * 1024**3))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))


@job("hold_gil")
def hold_gil() -> None:
    """Loop in C for minutes, with the GIL held and deaf to signals: no Python thread of this worker runs meanwhile."""
    sum(itertools.repeat(1, 10**11))


@job("hold_lock")
def hold_lock() -> None:
    """Wait for a lock that nobody gives back, and swallow what is raised."""
    lock = threading.Lock()
    lock.acquire()
    while True:
        try:
            lock.acquire()
        except BaseException:
            continue


@job("swallow")
async def swallow() -> None:
    """Ignore every cancellation."""
    while True:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            continue


@job("block_loop")
async def block_loop(seconds: float = 60) -> None:
    """Stop the loop of the worker."""
    time.sleep(seconds)


@job("nap")
def nap(seconds: float) -> None:
    """Sleep in Python, where the soft limit reaches."""
    time.sleep(seconds)


@job("suspend")
async def suspend() -> None:
    """SIGSTOP to the own process: alive, and silent."""
    os.kill(os.getpid(), signal.SIGSTOP)
    await asyncio.sleep(60)


@job("choose")
def choose(ctx: Context, seed: int) -> int:
    """Do well, fail, hang or crash, as the seed says; what ended badly does well the next time."""
    if ctx.attempt > 1:
        return seed
    match seed % 8:
        case 0:
            os._exit(3)
        case 1:
            os.kill(os.getpid(), signal.SIGKILL)
        case 2:
            raise ConnectionError("not now")
        case 3:
            time.sleep(60)
        case 4:
            time.sleep(0.01)
    return seed


@job("achoose")
async def achoose(ctx: Context, seed: int) -> int:
    """The same in the async lane."""
    if ctx.attempt == 1 and seed % 8 == 3:
        await asyncio.sleep(60)
    if ctx.attempt == 1 and seed % 8 == 4:
        await asyncio.sleep(0.01)
    return seed if seed % 8 in (3, 4) else choose(ctx, seed)


@job("sabotage")
async def sabotage() -> None:
    """Keep the sync lane of this worker from ever waking up again, and no job executing."""
    lanes = [thing for thing in gc.get_objects() if isinstance(thing, SyncLane)]
    for lane in lanes:
        lane._wake = SimpleQueue()


@job("spawn")
def spawn(seconds: float) -> list[Any]:
    """Start a program that outlives the job: its pid, and what it has open."""
    with Path(os.devnull).open("r+b") as null:
        child = subprocess.Popen(["sleep", str(seconds)], stdin=null, stdout=null, stderr=null)
    # The kernel closes descriptors one by one at the exec, and changes the name when it has.
    while Path(f"/proc/{child.pid}/comm").read_text() != "sleep\n":
        os.sched_yield()
    links = []
    for path in Path(f"/proc/{child.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the loader opens libraries, and closes them again
            links.append(os.readlink(path))
    return [child.pid, links]


@job("gate")
def gate(gate: str, file: str) -> str:
    """Wait until a file is there, and leave a witness."""
    while not Path(gate).exists():
        time.sleep(0.005)
    with Path(file).open("a") as out:
        out.write("ran\n")
    return "x" * 8_000
