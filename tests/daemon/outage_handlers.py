"""Handlers that need a service, for the tests in which that service goes away."""

from __future__ import annotations

import asyncio
import contextlib
import os

from perdure import Context, job

#: Where the line service listens, for `line` jobs; the daemon passes its environment on.
LINE_PORT = "TEST_LINE_PORT"


@job("row.insert", queue="rows", needs=("postgres",), max_attempts=5)
async def insert(ctx: Context, n: int) -> None:
    """One row a job, exactly once."""
    async with ctx.once("row").postgres() as tx:
        if tx.first:
            await tx.execute("INSERT INTO rows (n) VALUES ($1)", n)


@job("row.insert.sync", queue="rows", needs=("postgres",), max_attempts=5)
def insert_sync(ctx: Context, n: int) -> None:
    """The same from a synchronous handler."""
    with ctx.blocking.once("row").postgres() as tx:
        if tx.first:
            tx.execute("INSERT INTO rows (n) VALUES ($1)", n)


@job("row.count.midway", queue="rows", max_attempts=3)
async def midway(ctx: Context) -> int:
    """Meets its dependency in mid-run: nothing is declared."""
    return int(await ctx.postgres.fetchval("SELECT count(*) FROM rows"))


@job("node.merge", queue="nodes", needs=("neo4j",), max_attempts=5)
async def merge(ctx: Context, n: int) -> None:
    """One node a job, exactly once."""
    async with ctx.once("node").neo4j() as tx:
        if tx.first:
            await tx.execute("CREATE (:Thing {n: $n})", {"n": n})


@job("point.upsert", queue="points", needs=("qdrant",), max_attempts=5)
async def upsert(ctx: Context, n: int) -> None:
    """One point a job, exactly once."""
    point = {"id": ctx.once("point").point_id(), "vector": [float(n), 1.0], "payload": {"n": n}}
    await ctx.qdrant.upsert("things", [point])


@job("line.call", queue="lines", needs=("line",), max_attempts=2)
async def line(ctx: Context, n: int) -> str:
    """A call to a dependency that only the configuration declares."""
    return await ctx.guard("line")(_ask)(n)


@job("line.call.midway", queue="lines", max_attempts=2)
async def line_midway(ctx: Context, n: int) -> str:
    """The same, undeclared."""
    return await ctx.guard("line")(_ask)(n)


@job("line.fallback", queue="lines")
async def line_fallback(ctx: Context, n: int) -> str:
    """Degrades instead of failing."""
    return await ctx.guard("line", fallback="nobody answers")(_ask)(n)


@job("line.call.sync", queue="lines", needs=("line",), max_attempts=2)
def line_sync(ctx: Context, n: int) -> str:
    """A blocking call behind the same guard."""
    return ctx.blocking.guard("line")(_ask_blocking)(n)


@job("line.idle", queue="lines", needs=("line",))
async def line_idle(n: int) -> None:
    """Needs the service, and does not call it: for counting jobs, not calls."""


@job("line.slow", queue="lines", needs=("line",))
async def line_slow(ctx: Context, n: int) -> str:
    """Many calls at once from one job."""
    guarded = ctx.guard("line")(_ask)
    return ",".join(await asyncio.gather(*(guarded(n) for _ in range(5))))


@job("other.noop", queue="others")
async def noop(n: int) -> None:
    """Needs nothing."""


async def _ask(n: int) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ[LINE_PORT]))
    try:
        writer.write(b"%d\n" % n)
        answer = await reader.readline()
        if not answer:
            raise ConnectionResetError("no answer")
        return answer.decode().strip()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def _ask_blocking(n: int) -> str:
    import socket

    address = ("127.0.0.1", int(os.environ[LINE_PORT]))
    with socket.create_connection(address, timeout=1) as sock, sock.makefile("rwb") as file:
        file.write(b"%d\n" % n)
        file.flush()
        answer = file.readline()
        if not answer:
            raise ConnectionResetError("no answer")
        return bytes(answer).decode().strip()
