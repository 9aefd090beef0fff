"""Handlers with an effect in each database; each tells whether it was the first to have it."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from perdure import Context, job
from tests.support.twice import die


@job("effect.postgres")
async def in_postgres(ctx: Context, name: str, step: str = "") -> bool:
    """A row."""
    async with ctx.once("row").postgres() as tx:
        die(ctx, step, "marked")
        if tx.first:
            await tx.execute("INSERT INTO effects (name) VALUES ($1)", name)
        die(ctx, step, "inside")
    die(ctx, step, "after")
    return bool(tx.first)


@job("effect.postgres.blocking")
def in_postgres_blocking(ctx: Context, name: str, step: str = "") -> bool:
    """A row, from a synchronous handler."""
    with ctx.blocking.once("row").postgres() as tx:
        first = tx.first
        if first:
            tx.execute("INSERT INTO effects (name) VALUES ($1)", name)
        die(ctx, step, "inside")
    die(ctx, step, "after")
    return bool(first)


@job("effect.neo4j")
async def in_neo4j(ctx: Context, name: str, step: str = "") -> bool:
    """A node."""
    async with ctx.once("node").neo4j() as tx:
        die(ctx, step, "marked")
        if tx.first:
            await tx.run("CREATE (:TwiceEffect {name: $name})", name=name)
        die(ctx, step, "inside")
    die(ctx, step, "after")
    return bool(tx.first)


@job("effect.neo4j.blocking")
def in_neo4j_blocking(ctx: Context, name: str, step: str = "") -> bool:
    """A node, from a synchronous handler."""
    with ctx.blocking.once("node").neo4j() as tx:
        first = tx.first
        if first:
            tx.run("CREATE (:TwiceEffect {name: $name})", name=name)
        die(ctx, step, "inside")
    die(ctx, step, "after")
    return bool(first)


@job("effect.qdrant")
async def in_qdrant(ctx: Context, name: str, step: str = "") -> bool:
    """Three points in a collection of that name."""
    once = ctx.once("passages")
    await ctx.qdrant.ensure_collection(name, 2)
    die(ctx, step, "marked")
    points = [_point(once.point_id(number), number) for number in range(3)]
    await ctx.qdrant.upsert(name, points[:1])
    die(ctx, step, "inside")
    await ctx.qdrant.upsert(name, points)
    die(ctx, step, "after")
    return True


@job("effect.qdrant.blocking")
def in_qdrant_blocking(ctx: Context, name: str, step: str = "") -> bool:
    """Three points, from a synchronous handler."""
    once, qdrant = ctx.blocking.once("passages"), ctx.blocking.qdrant
    qdrant.ensure_collection(name, 2)
    points = [_point(once.point_id(number), number) for number in range(3)]
    qdrant.upsert(name, points[:1])
    die(ctx, step, "inside")
    qdrant.upsert(name, points)
    die(ctx, step, "after")
    return True


def _point(point_id: str, number: int) -> Any:
    from qdrant_client.models import PointStruct

    return PointStruct(id=point_id, vector=[0.5, 0.5], payload={"number": number})


@job("slow.statement")
async def slow_statement(ctx: Context) -> None:
    """A statement that takes a minute."""
    await ctx.postgres.execute("SELECT pg_sleep(60)", timeout=60)


@job("slow.statement.blocking")
def slow_statement_blocking(ctx: Context) -> None:
    """The same, from a synchronous handler."""
    ctx.blocking.postgres.execute("SELECT pg_sleep(60)", timeout=60)


@job("slow.transaction")
async def slow_transaction(ctx: Context) -> None:
    """A transaction whose second statement takes a minute."""
    async with ctx.postgres.transaction() as tx:
        await tx.execute("INSERT INTO effects (name) VALUES ('slow')")
        await tx.execute("SELECT pg_sleep(60)", timeout=60)


@job("slow.transaction.blocking")
def slow_transaction_blocking(ctx: Context) -> None:
    """The same, from a synchronous handler."""
    with ctx.blocking.postgres.transaction() as tx:
        tx.execute("INSERT INTO effects (name) VALUES ('slow')")
        tx.execute("SELECT pg_sleep(60)", timeout=60)


@job("slow.handler")
async def slow_handler(ctx: Context) -> None:
    """A transaction in which the handler itself takes its time."""
    async with ctx.postgres.transaction() as tx:
        await tx.execute("INSERT INTO effects (name) VALUES ('slow')")
        await asyncio.sleep(60)


@job("slow.handler.blocking")
def slow_handler_blocking(ctx: Context) -> None:
    """The same, from a synchronous handler."""
    with ctx.blocking.postgres.transaction() as tx:
        tx.execute("INSERT INTO effects (name) VALUES ('slow')")
        time.sleep(60)


@job("quick.statement")
async def quick_statement(ctx: Context) -> int:
    """Needs a connection of the pool."""
    return int(await ctx.postgres.fetchval("SELECT count(*) FROM effects"))
