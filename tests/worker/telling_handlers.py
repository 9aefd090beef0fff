"""Handlers that tell while they run, for the tests of the newsroom."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from typing import Any

import msgspec

from perdure import Context, job


def _obey(ctx: Context, order: str) -> bool:
    """Do what a line says; False: it was the last."""
    verb, _, rest = order.rstrip("\n").partition(" ")
    match verb:
        case "print":
            print(rest)
        case "begin":
            print(rest, end="", flush=True)
        case "log":
            ctx.log.info(rest)
        case "emit":
            ctx.emit(msgspec.json.decode(rest))
        case "progress":
            done, total, text = msgspec.json.decode(rest)
            ctx.progress(done, total, text)
        case _:
            return False
    return True


@job("obey")
def obey(ctx: Context, orders: str) -> str:
    """Do what comes through a named pipe, line by line."""
    with open(orders) as lines:
        while _obey(ctx, lines.readline()):
            pass
    return "done"


@job("aobey")
async def aobey(ctx: Context, orders: str) -> str:
    """The same on the loop."""
    with await asyncio.to_thread(open, orders) as lines:
        while _obey(ctx, await asyncio.to_thread(lines.readline)):
            pass
    return "done"


@job("count")
def count(ctx: Context, lines: int = 0, values: int = 0, steps: int = 0, width: int = 1) -> None:
    """Tell many things as fast as it goes."""
    for number in range(max(lines, values, steps)):
        if number < lines:
            sys.stdout.write(f"{number:0{width}}\n")
        if number < values:
            ctx.emit(number)
        if number < steps:
            ctx.progress(number + 1, steps)


@job("acount")
async def acount(ctx: Context, lines: int = 0, values: int = 0, steps: int = 0, pause: float = 0.0) -> None:
    """The same on the loop, in turn with others."""
    for number in range(max(lines, values, steps)):
        if number < lines:
            print(f"job {ctx.id} line {number}")
        if number < values:
            ctx.emit([ctx.id, number])
        if number < steps:
            ctx.progress(number + 1, steps)
        await asyncio.sleep(pause)


@job("flood")
def flood(ctx: Context, seconds: float, width: int = 1) -> dict[str, int]:
    """Progress, values and lines in turn, as fast as it goes; how many of each."""
    end, rounds = time.monotonic() + seconds, 0
    progress, emit, write = ctx.progress, ctx.emit, sys.stdout.write
    while time.monotonic() < end:
        for number in range(rounds, rounds + 100):
            progress(number, None)
            emit(number)
            write(f"line {number:{width}}\n")
        rounds += 100
    return {"progress": rounds, "values": rounds, "lines": rounds}


@job("threads")
def threads(ctx: Context, number: int, lines: int) -> None:
    """Print and emit from several threads at once."""

    def speak(name: int) -> None:
        for line in range(lines):
            sys.stdout.write(f"{name} {line}\n")
            ctx.emit([name, line])
            ctx.progress(line + 1, lines)

    all_of_them = [threading.Thread(target=speak, args=(name,)) for name in range(number)]
    for one in all_of_them:
        one.start()
    for one in all_of_them:
        one.join()


@job("fork_and_tell")
def fork_and_tell(ctx: Context, lines: int) -> int:
    """Tell much in a forked child; its status."""
    ctx.progress(1)
    print("before")
    pid = os.fork()
    if pid == 0:
        for number in range(lines):
            ctx.emit(number)
            ctx.progress(number)
            print(f"child {number}")
        os._exit(0)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    print("after")
    return status


@job("bad_tell")
def bad_tell(ctx: Context, how: str) -> Any:
    """Tell what cannot be told."""
    match how:
        case "value":
            ctx.emit(object())
        case "large":
            ctx.emit("x" * 100_000)
        case "number":
            ctx.progress("many")  # type: ignore[arg-type]
        case "text":
            ctx.progress(1, None, "\udc80" + "x" * 10_000)
            return "fine"
    return None


@job("tell_later")
async def tell_later(ctx: Context) -> None:
    """Leave a task behind that tells when the job has ended."""

    async def late() -> None:
        await asyncio.sleep(0.05)
        ctx.emit("late")
        ctx.progress(1)
        print("late")

    ctx.log.info("in time")
    asyncio.get_running_loop().create_task(late())


@job("quiet")
def quiet(seconds: float) -> None:
    """Say nothing for a while."""
    time.sleep(seconds)


@job("nothing")
def nothing() -> None:
    """Do nothing."""
