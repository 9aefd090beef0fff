"""Handlers for the tests of workers: each does one thing, most of them something bad."""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from perdure import Context, Permanent, Retry, job


@job("noop")
def noop() -> None:
    """Do nothing."""


@job("anoop")
async def anoop() -> None:
    """Do nothing, later."""


@job("echo")
def echo(ctx: Context, value: Any = None) -> dict[str, Any]:
    """Tell what came in."""
    return {"value": value, "id": ctx.id, "attempt": ctx.attempt, "kind": ctx.kind}


@job("aecho")
async def aecho(ctx: Context, value: Any = None) -> dict[str, Any]:
    """Tell what came in, later."""
    await asyncio.sleep(0)
    return {"value": value, "id": ctx.id, "attempt": ctx.attempt, "kind": ctx.kind}


class Unspeakable(Exception):
    """Has no message."""

    def __str__(self) -> str:
        raise RuntimeError("no words")


def _recurse(depth: int) -> int:
    return _recurse(depth + 1) + 1


def _raise(how: str) -> None:
    match how:
        case "value":
            raise ValueError("bad value")
        case "permanent":
            raise Permanent("never")
        case "retry":
            raise Retry("soon", after="90s")
        case "exit":
            sys.exit(3)
        case "interrupt":
            raise KeyboardInterrupt
        case "unspeakable":
            raise Unspeakable
        case "recursion":
            _recurse(0)
        case "memory":
            raise MemoryError
        case "key":
            raise KeyError("listed as permanent")
        case "timeout":
            raise TimeoutError("the handler's own")
        case "cancelled":
            raise asyncio.CancelledError
        case "group":
            raise ExceptionGroup("two", [ValueError("a"), OSError("b")])
        case "chain":
            try:
                _raise("value")
            except ValueError as error:
                raise OSError("outer") from error


@job("fail", permanent=KeyError)
def fail(how: str) -> None:
    """Raise something."""
    _raise(how)


@job("afail", permanent=KeyError)
async def afail(how: str) -> None:
    """Raise something, later."""
    await asyncio.sleep(0)
    _raise(how)


@job("give")
def give(what: str) -> Any:
    """Return something odd."""
    return {
        "nested": {"user": {"callback": len}},
        "nan": float("nan"),
        "large": "x" * 200_000,
        "umlaut": "ü" * 60_000,
        "zero": 0,
        "list": [1, 2.5, "drei", None, True],
        "fits": "y" * 90_000,
    }[what]


@job("sleep")
def sleep(seconds: float) -> None:
    """Sleep in Python."""
    time.sleep(seconds)


@job("spin")
def spin(seconds: float) -> None:
    """Be busy in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@job("asleep")
async def asleep(seconds: float) -> None:
    """Sleep on the loop."""
    await asyncio.sleep(seconds)


async def _wait_inside(seconds: float) -> None:
    await asyncio.sleep(seconds)


@job("adeep")
async def adeep(seconds: float) -> None:
    """Sleep a few frames down."""
    await _wait_inside(seconds)


@job("stubborn")
async def stubborn(seconds: float) -> None:
    """Swallow every cancellation."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            continue


@job("clean_up")
def clean_up(seconds: float) -> str:
    """Survive its own time limit once."""
    try:
        time.sleep(seconds)
    except TimeoutError:
        time.sleep(0.15)
        return "cleaned up"
    return "not interrupted"


@job("hold_gil")
def hold_gil() -> None:
    """Loop in C for minutes, without giving the GIL away and without looking at signals."""
    sum(itertools.repeat(1, 10**11))


@job("segfault")
def segfault() -> None:
    """Read address zero."""
    ctypes.string_at(0)


@job("vanish")
def vanish(status: int = 9) -> None:
    """End the process from within."""
    os._exit(status)


@job("terminate")
def terminate() -> None:
    """Send SIGINT to itself, which workers let be."""
    os.kill(os.getpid(), signal.SIGINT)


@job("say")
def say(text: str, times: int = 1) -> None:
    """Print lines; `<lone>` becomes a surrogate, which JSON cannot carry."""
    text = text.replace("<lone>", "\udc80")
    for _ in range(times):
        print(text)


@job("say_all")
def say_all(ctx: Context) -> None:
    """Speak through every mouth there is."""
    print("from print")
    print("from stderr", file=sys.stderr)
    sys.stdout.buffer.write(b"from buffer\n")
    logging.getLogger("app").warning("from logging")
    ctx.log.info("from.context", rows=3, name="two words")
    thread = threading.Thread(target=print, args=("from thread",))
    thread.start()
    thread.join()
    print("no end of line", end="")


@job("asay")
async def asay(text: str, times: int = 3) -> None:
    """Print lines in turn with others, also from a thread."""
    for number in range(times):
        print(f"{text} {number}")
        await asyncio.sleep(0.002)
    await asyncio.to_thread(print, f"{text} thread")


@job("environment")
def environment() -> dict[str, Any]:
    """What a job finds around it."""
    return {
        "names": sorted(os.environ),
        "group": os.getpgrp() == os.getpid(),
        "parent": os.getppid(),
        "term": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "stdin": os.readlink("/proc/self/fd/0"),
        "fds": sorted(int(name) for name in os.listdir("/proc/self/fd")),
        "random": random.random(),
    }


@job("child")
def child(seconds: float) -> int:
    """Start a program that outlives the job; its pid."""
    return subprocess.Popen(["sleep", str(seconds)]).pid


@job("fork_and_return")
def fork_and_return() -> str:
    """Fork, and return from the handler in both processes."""
    pid = os.fork()
    if pid == 0:
        return "child"
    os.waitpid(pid, 0)
    return "parent"


@job("leave_thread")
def leave_thread(seconds: float) -> None:
    """Leave a thread behind that would hold up an exit."""
    threading.Thread(target=time.sleep, args=(seconds,)).start()


@job("leave_task")
async def leave_task() -> None:
    """Leave a task behind that raises SystemExit."""

    async def leave() -> None:
        sys.exit(5)

    asyncio.get_running_loop().create_task(leave())


@job("endure")
def endure(ctx: Context, seconds: float) -> dict[str, Any]:
    """Survive being stopped once; what was raised, and whether the context knew."""
    try:
        time.sleep(seconds)
    except Exception as error:
        print("cleaning up")
        time.sleep(0.15)
        return {"raised": type(error).__name__, "cancelled": ctx.cancelled}
    return {}


@job("aendure")
async def aendure(ctx: Context, seconds: float) -> dict[str, Any]:
    """The same on the loop."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError as error:
        await asyncio.sleep(0.15)
        return {"raised": type(error).__name__, "cancelled": ctx.cancelled}
    return {}


@job("tidy_up")
def tidy_up(seconds: float) -> None:
    """Say so in a finally block, and raise something else there."""
    try:
        time.sleep(seconds)
    finally:
        print("tidied up")
        raise ValueError("while tidying up")


@job("atidy_up")
async def atidy_up(seconds: float) -> None:
    """Say so in a finally block."""
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(0.01)
        print("tidied up")
