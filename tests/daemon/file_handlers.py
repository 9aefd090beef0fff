"""Handlers for the tests of payloads and results that are files."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from pathlib import Path
from typing import Any

from perdure import Context, job

_PIECE = bytes(range(256)) * 4096


@job("sum")
def sum_of(ctx: Context) -> dict[str, Any]:
    """The payload's digest, and how long its hand-over took."""
    begun = time.perf_counter()
    view = ctx.blob()
    handed_over_ms = (time.perf_counter() - begun) * 1000
    return {"sha256": hashlib.sha256(view).hexdigest(), "size": len(view), "handed_over_ms": handed_over_ms}


@job("asum")
async def asum(ctx: Context) -> str:
    """The same on the loop."""
    return hashlib.sha256(ctx.blob()).hexdigest()


@job("describe")
def describe(ctx: Context) -> Any:
    """What is known of the payload without reading it."""
    return None if ctx.payload is None else [ctx.payload.size, ctx.payload.path, bool(ctx.payload.spool)]


@job("give")
def give(size: int, how: str = "bytes") -> Any:
    """So many bytes, or a text that long."""
    return bytes(size) if how == "bytes" else "x" * size


@job("agive")
async def agive(size: int) -> bytes:
    """The same on the loop."""
    return bytes(size)


@job("same")
def same(ctx: Context) -> memoryview:
    """The payload as the result."""
    return ctx.blob()


@job("write")
def write(ctx: Context, size: int, fail: str = "", wait_at: str = "") -> Any:
    """A result file of so many bytes; raising afterwards, returning something, or waiting in the middle for a file."""
    with ctx.result_file() as out:
        for start in range(0, size, len(_PIECE)):
            out.write(_PIECE[: size - start])
        out.flush()
        if wait_at:
            Path(wait_at).write_text(str(os.getpid()))
            time.sleep(60)
    if fail == "raise":
        raise ValueError("after all")
    return 7 if fail == "return" else None


@job("fork-write")
def fork_write(ctx: Context) -> None:
    """A child that comes back from the handler as its parent does."""
    out = ctx.result_file()
    out.write(b"12345")
    out.flush()
    child = os.fork()
    if child:
        os.waitpid(child, 0)


@job("awrite")
async def awrite(ctx: Context, size: int) -> None:
    """A result file, on the loop."""
    out = ctx.result_file()
    out.write(bytes(size))
    await asyncio.sleep(0)


@job("keep")
def keep(ctx: Context) -> int:
    """Keep a part of the payload beyond the job's end."""
    kept.append(ctx.blob()[1:])
    return len(kept)


kept: list[memoryview] = []


@job("detach")
def detach(ctx: Context) -> int:
    """A result file that nobody can close any more, and a result beside it."""
    ctx.result_file().detach()  # type: ignore[attr-defined]
    return 7


@job("adetach")
async def adetach(ctx: Context) -> int:
    """The same on the loop."""
    ctx.result_file().detach()  # type: ignore[attr-defined]
    return 7
