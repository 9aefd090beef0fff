"""Handlers for the tests of commands: they run some, in every way there is."""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import Any

from perdure import Context, job
from perdure.errors import CallTooLong, CommandFailed


@job("run")
async def run(ctx: Context, argv: list[str], options: dict[str, Any] | None = None) -> dict[str, Any]:
    """Run a command."""
    ended = await ctx.run(*argv, **(options or {}))
    return {"returncode": ended.returncode, "last_lines": ended.last_lines, "stdout": ended.stdout.decode()}


@job("run-blocking")
def run_blocking(ctx: Context, argv: list[str], options: dict[str, Any] | None = None) -> dict[str, Any]:
    """The same from the sync lane."""
    ended = ctx.blocking.run(*argv, **(options or {}))
    return {"returncode": ended.returncode, "last_lines": ended.last_lines, "stdout": ended.stdout.decode()}


@job("run-thread")
async def run_thread(ctx: Context, argv: list[str]) -> str:
    """The same from a thread of an async job."""
    return (await asyncio.to_thread(lambda: ctx.blocking.run(*argv))).last_lines


@job("run-many")
async def run_many(ctx: Context, argv: list[str], count: int) -> int:
    """Many at once."""
    return len(await asyncio.gather(*(ctx.run(*argv) for _ in range(count))))


@job("run-mixed")
async def run_mixed(ctx: Context) -> None:
    """Lines of its own between those of commands."""
    print("before")
    await ctx.run("printf", "command")
    print("after")


@job("run-and-leave")
async def run_and_leave(ctx: Context, argv: list[str]) -> None:
    """Start a command without waiting for it."""
    leave_behind.append(asyncio.ensure_future(ctx.run(*argv)))
    await asyncio.sleep(0.3)


leave_behind: list[asyncio.Future[Any]] = []


@job("run-fallback")
async def run_fallback(ctx: Context) -> list[str]:
    """Errors of commands as a handler sees them."""
    told = []
    try:
        await ctx.run("sh", "-c", "echo no; exit 7")
    except CommandFailed as error:
        told.append(f"{error.returncode} {error.last_lines}")
    try:
        await ctx.run("sleep", "1000", timeout="100ms")
    except CallTooLong as error:
        told.append(str(error))
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.1):
            await ctx.run("sleep", "1000")
        told.append("not reached")
    return told


@job("on-blocking-loop")
async def on_blocking_loop(ctx: Context) -> None:
    """The mistake that stops the loop."""
    ctx.blocking.run("true")


@job("lag")
async def lag(ctx: Context, seconds: float) -> float:
    """The longest that the loop did not turn, milliseconds."""
    loop, longest = asyncio.get_running_loop(), 0.0
    end = loop.time() + seconds
    while (before := loop.time()) < end:
        await asyncio.sleep(0.001)
        longest = max(longest, loop.time() - before - 0.001)
    return longest * 1000


@job("environ")
async def environ(ctx: Context) -> dict[str, str]:
    """What a command gets."""
    os.environ["PERDURE_TEST_SECRET"] = "hunter2"
    ended = await ctx.run("env", capture=True)
    return dict(line.split("=", 1) for line in ended.stdout.decode().splitlines())
