"""Handlers for the tests of ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal

from perdure import Context, job
from perdure.adapters.port import Port
from perdure.errors import UsageError


@job("shout")
async def shout(ctx: Context) -> int:
    """Answer in capital letters, until the client has said all."""
    count = 0
    async with await ctx.port() as port:
        async for data in port:
            await port.send(data.upper())
            count += len(data)
    return count


@job("shout-blocking")
def shout_blocking(ctx: Context) -> int:
    """The same from the sync lane."""
    count = 0
    with ctx.blocking.port() as port:
        for data in port:
            port.send(data.upper())
            count += len(data)
    return count


@job("later")
async def later(ctx: Context, file: str) -> str:
    """Open the port when a file is there."""
    while not os.path.exists(file):
        await asyncio.sleep(0.01)
    port = await ctx.port()
    return (await port.receive()).decode()


@job("never")
async def never(ctx: Context, seconds: float) -> None:
    """Do without a port."""
    await asyncio.sleep(seconds)


@job("impatient")
async def impatient(ctx: Context) -> str:
    """Wait for a client, but not for long; then for another one."""
    told = "a client came too early"
    try:
        await ctx.port(timeout=0.1)
    except TimeoutError as error:
        told = str(error)
        print("nobody came")
        port = await ctx.port()
        await port.send(b"second try")
    return told


@job("two-clients")
async def two_clients(ctx: Context) -> list[str]:
    """One client after the other."""
    heard = []
    for _ in range(2):
        port = await ctx.port()
        heard.append((await port.receive()).decode())
        await port.send(b"thanks")
        port.close()
    return heard


@job("talk-and-die")
async def talk_and_die(ctx: Context) -> None:
    """Say something and take the worker along."""
    if ctx.attempt == 1:
        port = await ctx.port()
        await port.send(b"last words")
        await port.receive()
        os.kill(os.getpid(), signal.SIGKILL)


@job("sink")
async def sink(ctx: Context) -> int:
    """Count what comes, and tell."""
    port = await ctx.port()
    count = 0
    while data := await port.receive():
        count += len(data)
    await port.send(str(count).encode())
    return count


@job("source")
async def source(ctx: Context, mib: int) -> None:
    """Send zeros."""
    port = await ctx.port()
    data = bytes(1 << 20)
    for _ in range(mib):
        await port.send(data)


@job("listener")
async def listener(ctx: Context) -> str:
    """Wait until the client is gone."""
    port = await ctx.port()
    await port.send(b"hello")
    with contextlib.suppress(ConnectionError):
        while await port.receive():
            pass
    return "gone"


@job("twice-at-once")
async def twice_at_once(ctx: Context) -> list[str]:
    """Ask for the port while it is being asked for."""
    first = asyncio.ensure_future(ctx.port())
    await asyncio.sleep(0)
    answers = await asyncio.gather(ctx.port(), return_exceptions=True)
    first.cancel()
    return [type(answer).__name__ for answer in answers]


@job("leaves-its-port")
async def leaves_its_port(ctx: Context) -> None:
    """End while somebody still waits at the port."""
    left.append(asyncio.ensure_future(ctx.port()))
    await asyncio.sleep(0.1)


left: list[asyncio.Future[Port]] = []


@job("too-late")
async def too_late(ctx: Context) -> str:
    """What the contexts of jobs that have ended say."""
    if not old:
        old.append(ctx)
        return "first"
    told = []
    for attempt in (old[0].port(), old[0].run("true")):
        try:
            await attempt
        except UsageError as error:
            told.append(str(error))
    return " | ".join(told)


old: list[Context] = []
