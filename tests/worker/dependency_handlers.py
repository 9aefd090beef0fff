"""Handlers that call a service named "billing", which does what their arguments say, and Qdrant."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

from perdure import Context, job
from perdure.errors import BreakerOpen


def _serve(how: str) -> str:
    match how:
        case "gone":
            raise ConnectionRefusedError("billing is not there")
        case "bug":
            raise KeyError("billing found a mistake")
    return how


async def _aserve(how: str) -> str:
    return _serve(how)


@job("needy", needs=("billing",))
def needy(ctx: Context) -> str:
    """Needs billing, and would say that it ran."""
    return "ran"


@job("aneedy", needs=("postgres", "billing"))
async def aneedy(ctx: Context) -> str:
    """Needs two, and would say that it ran."""
    return "ran"


@job("call")
def call(ctx: Context, how: str = "ok", times: int = 1) -> str:
    """Call billing from the sync lane."""
    for _ in range(times - 1):
        ctx.blocking.guard("billing")(_serve)("ok")
    return ctx.blocking.guard("billing")(_serve)(how)


@job("acall")
async def acall(ctx: Context, how: str = "ok", times: int = 1) -> str:
    """Call billing from the async lane."""
    for _ in range(times - 1):
        await ctx.guard("billing")(_aserve)("ok")
    return await ctx.guard("billing")(_aserve)(how)


@job("acall_and_wait")
async def acall_and_wait(ctx: Context) -> None:
    """Call billing once, then go on with something else for long."""
    await ctx.guard("billing")(_aserve)("ok")
    await asyncio.sleep(60)


@job("wrong_place")
def wrong_place(ctx: Context) -> str:
    """Use what belongs to the loop."""
    ctx.guard("billing")
    return "it went well"


@job("awrong_place")
async def awrong_place(ctx: Context) -> str:
    """Use what would stop the loop."""
    return str(ctx.blocking)


@job("around")
async def around(ctx: Context) -> dict[str, Any]:
    """Call billing from a child task and from a thread."""
    async with asyncio.TaskGroup() as group:
        child = group.create_task(ctx.guard("billing")(_aserve)("child"))
    thread = await asyncio.to_thread(lambda: ctx.blocking.guard("billing")(_serve)("thread"))
    return {"child": child.result(), "thread": thread}


@job("same_thread")
def same_thread(ctx: Context) -> bool:
    """Whether a guarded blocking function runs where the handler does."""
    return ctx.blocking.guard("billing")(threading.get_ident)() == threading.get_ident()


@job("in_spite")
def in_spite(ctx: Context) -> str:
    """Do without billing."""
    try:
        return ctx.blocking.guard("billing")(_serve)("ok")
    except BreakerOpen:
        return "without"


@job("marks")
async def marks(ctx: Context) -> list[str]:
    """The marks of an effect."""
    return [ctx.once("a").mark, ctx.once("a", scope="global").mark]


@job("count_points")
def count_points(ctx: Context) -> int:
    """Ask Qdrant from the sync lane."""
    return ctx.blocking.qdrant.count("documents")


@job("acount_points")
async def acount_points(ctx: Context) -> int:
    """Ask Qdrant from the async lane."""
    return await ctx.qdrant.count("documents")


@job("write_point")
def write_point(ctx: Context) -> int:
    """Write a point twice, and count."""
    qdrant = ctx.blocking.qdrant
    qdrant.ensure_collection("documents", 2)
    for _ in range(2):
        qdrant.upsert("documents", [_point(ctx.blocking.once("p").point_id())])
    return qdrant.count("documents")


@job("awrite_point")
async def awrite_point(ctx: Context) -> int:
    """Write the point of another job, and count."""
    await ctx.qdrant.ensure_collection("documents", 2)
    await ctx.qdrant.upsert("documents", [_point(ctx.once("p").point_id())])
    return await ctx.qdrant.count("documents")


def _point(point_id: str) -> Any:
    from qdrant_client.models import PointStruct

    return PointStruct(id=point_id, vector=[0.5, 0.5], payload={})
