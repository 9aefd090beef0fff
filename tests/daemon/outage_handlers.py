"""Handlers that need a service, for the tests in which that service goes away."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import time
from collections.abc import Iterator
from typing import Any

from perdure import Context, job
from perdure.errors import BreakerOpen, CallTooLong
from tests.support.twice import die

#: Where the line service listens, for `line` jobs; the daemon passes its environment on.
LINE_PORT = "TEST_LINE_PORT"
#: The file in which each call to a database is noted: a line of JSON each, whatever process makes it.
JOURNAL = "TEST_OUTAGE_JOURNAL"
#: More than a socket buffers, so that it can be cut in the middle.
BIG_ROWS, BIG_TEXT = 120, "x" * 500

#: One at a time in a process: two would wait for each other's connections.
_filling = asyncio.Lock()


@contextlib.contextmanager
def noted(ctx: Context, call: str) -> Iterator[None]:
    """Note how long what is inside takes, and how it ends."""
    started, error = time.monotonic(), ""
    try:
        yield
    except BaseException as exc:
        error = type(exc).__name__
        raise
    finally:
        entry = {"job": ctx.id, "kind": ctx.kind, "call": call, "pid": os.getpid(), "error": error}
        entry |= {"at": time.time(), "took": time.monotonic() - started}
        with open(os.environ[JOURNAL], "a", encoding="ascii") as journal:
            journal.write(json.dumps(entry) + "\n")


# --- PostgreSQL


@job("row.insert", queue="rows", needs=("postgres",), max_attempts=5)
async def insert(ctx: Context, run: str, step: str = "") -> None:
    """One row a job, exactly once."""
    async with contextlib.AsyncExitStack() as transaction:
        with noted(ctx, "begin"):
            tx = await transaction.enter_async_context(ctx.once("row").postgres())
        if tx.first:
            with noted(ctx, "insert"):
                await tx.execute("INSERT INTO rows (job, run) VALUES ($1, $2)", ctx.id, run)
        die(ctx, step, "inside")
        with noted(ctx, "commit"):
            await transaction.aclose()
    die(ctx, step, "after")


@job("row.insert.sync", queue="rows", needs=("postgres",), max_attempts=5)
def insert_sync(ctx: Context, run: str, step: str = "") -> None:
    """The same from a synchronous handler."""
    with contextlib.ExitStack() as transaction:
        with noted(ctx, "begin"):
            tx = transaction.enter_context(ctx.blocking.once("row").postgres())
        if tx.first:
            with noted(ctx, "insert"):
                tx.execute("INSERT INTO rows (job, run) VALUES ($1, $2)", ctx.id, run)
        die(ctx, step, "inside")
        with noted(ctx, "commit"):
            transaction.close()
    die(ctx, step, "after")


@job("row.read", queue="rows", max_attempts=5)
async def read_rows(ctx: Context, run: str) -> int:
    """Meets its dependency in mid-run, for nothing is declared; and its result is long."""
    with noted(ctx, "fetch"):
        query = "SELECT n, $1::text AS text FROM generate_series(1, $2::int) AS n"
        return len(await ctx.postgres.fetch(query, BIG_TEXT, BIG_ROWS))


@job("row.fill", queue="rows", max_attempts=3)
async def fill_rows(ctx: Context, size: int) -> None:
    """Has all connections that the pool may have, at the same time."""
    meeting = asyncio.Barrier(size)

    async def hold() -> None:
        async with ctx.postgres.transaction() as tx:
            await tx.fetchval("SELECT 1")
            await meeting.wait()

    async with _filling, asyncio.timeout(10):
        with noted(ctx, "fill"):
            await asyncio.gather(*(hold() for _ in range(size)))


# --- Neo4j


@job("node.create", queue="nodes", needs=("neo4j",), max_attempts=5)
async def create(ctx: Context, run: str, step: str = "") -> None:
    """One node a job, exactly once."""
    async with contextlib.AsyncExitStack() as transaction:
        with noted(ctx, "begin"):
            tx = await transaction.enter_async_context(ctx.once("node").neo4j())
        if tx.first:
            with noted(ctx, "create"):
                await tx.run("CREATE (:Thing {job: $job, run: $run})", job=ctx.id, run=run)
        die(ctx, step, "inside")
        with noted(ctx, "commit"):
            await transaction.aclose()
    die(ctx, step, "after")


@job("node.create.sync", queue="nodes", needs=("neo4j",), max_attempts=5)
def create_sync(ctx: Context, run: str, step: str = "") -> None:
    """The same from a synchronous handler."""
    with contextlib.ExitStack() as transaction:
        with noted(ctx, "begin"):
            tx = transaction.enter_context(ctx.blocking.once("node").neo4j())
        if tx.first:
            with noted(ctx, "create"):
                tx.run("CREATE (:Thing {job: $job, run: $run})", job=ctx.id, run=run)
        die(ctx, step, "inside")
        with noted(ctx, "commit"):
            transaction.close()
    die(ctx, step, "after")


@job("node.read", queue="nodes", max_attempts=5)
async def read_nodes(ctx: Context, run: str) -> int:
    """Undeclared, and long."""
    with noted(ctx, "read"):
        query = "UNWIND range(1, $count) AS n RETURN n, $text AS text"
        return len(await ctx.neo4j.read(query, count=BIG_ROWS, text=BIG_TEXT))


@job("node.fill", queue="nodes", max_attempts=3)
async def fill_nodes(ctx: Context, size: int) -> None:
    """Has all connections that the driver's pool may have, at the same time."""
    meeting = asyncio.Barrier(size)

    async def hold() -> None:
        async with ctx.neo4j.transaction() as tx:
            await tx.run("RETURN 1")
            await meeting.wait()

    async with _filling, asyncio.timeout(10):
        with noted(ctx, "fill"):
            await asyncio.gather(*(hold() for _ in range(size)))


# --- Qdrant


def _point(point_id: str, job_id: int) -> Any:
    from qdrant_client.models import PointStruct

    return PointStruct(id=point_id, vector=[1.0, 1.0], payload={"job": job_id, "text": BIG_TEXT})


@job("point.upsert", queue="points", needs=("qdrant",), max_attempts=5)
async def upsert(ctx: Context, run: str, step: str = "") -> None:
    """One point a job, exactly once."""
    with noted(ctx, "upsert"):
        await ctx.qdrant.upsert(run, [_point(ctx.once("point").point_id(), ctx.id)])
    die(ctx, step, "after")


@job("point.upsert.sync", queue="points", needs=("qdrant",), max_attempts=5)
def upsert_sync(ctx: Context, run: str, step: str = "") -> None:
    """The same from a synchronous handler."""
    with noted(ctx, "upsert"):
        ctx.blocking.qdrant.upsert(run, [_point(ctx.blocking.once("point").point_id(), ctx.id)])
    die(ctx, step, "after")


@job("point.read", queue="points", max_attempts=5)
async def read_points(ctx: Context, run: str) -> int:
    """Undeclared, and long as soon as there are some points."""
    with noted(ctx, "scroll"):
        points, _ = await ctx.qdrant.scroll(run, limit=BIG_ROWS)
        return len(points)


@job("point.fill", queue="points", max_attempts=3)
async def fill_points(ctx: Context, size: int) -> None:
    """As many calls at once as there may be connections; then none of these may be taken any more."""
    async with _filling, asyncio.timeout(10):
        with noted(ctx, "fill"):
            for _ in range(3):
                await asyncio.gather(*(ctx.qdrant.collection_exists("none") for _ in range(size)))
            client: Any = await ctx.qdrant.client()
            pool = client.http.client._async_client._transport._pool
            while pool._requests or not all(one.is_idle() for one in pool.connections):
                await asyncio.sleep(0.01)


# --- a service that only the configuration declares


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


@job("line.hammer", queue="lines")
async def hammer(ctx: Context, n: int) -> str:
    """Calls again and again until it gets an answer; it never parks."""
    while not ctx.cancelled:
        try:
            return await ctx.guard("line")(_ask)(n)
        except (BreakerOpen, CallTooLong):
            await asyncio.sleep(0.005)
    return ""


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
