"""Handlers for the tests of cancellation: each ends, or does not, in a way of its own."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

from perdure import Context, JobCancelled, job


@job("spin")
def spin(seconds: float) -> None:
    """Loop in Python."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@job("catch")
def catch(seconds: float) -> str:
    """Do it all the same."""
    try:
        time.sleep(seconds)
    except JobCancelled:
        return "done all the same"
    return "undisturbed"


@job("acatch")
async def acatch(ctx: Context, seconds: float) -> str:
    """The same on the loop; the context knows."""
    try:
        await asyncio.sleep(seconds)
    except asyncio.CancelledError:
        return "done all the same" if ctx.cancelled else "not told"
    return "undisturbed"


@job("tidy")
def tidy(file: str, seconds: float, tidying: float = 0.1) -> None:
    """Begin, and clean up in a finally block, which takes a while."""
    note(file, "begun")
    try:
        time.sleep(seconds)
    finally:
        time.sleep(tidying)
        note(file, "tidied")


@job("atidy")
async def atidy(file: str, seconds: float, tidying: float = 0.1) -> None:
    """The same on the loop."""
    note(file, "begun")
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.sleep(tidying)
        note(file, "tidied")


@job("last_life")
def last_life(ctx: Context) -> None:
    """Take the worker along the first time, sleep the second."""
    if ctx.attempt == 1:
        os._exit(3)
    time.sleep(60)


@job("moment")
def moment(seed: int) -> int:
    """A few milliseconds of sleep or of work."""
    rng = random.Random(seed)
    if rng.random() < 0.5:
        time.sleep(rng.random() / 100)
    end = time.monotonic() + rng.random() / 200
    while time.monotonic() < end:
        pass
    return seed


@job("amoment")
async def amoment(seed: int) -> int:
    """The same on the loop, with a clean-up."""
    try:
        await asyncio.sleep(random.Random(seed).random() / 100)
    finally:
        await asyncio.sleep(0)
    return seed


def note(file: str, text: str) -> None:
    """Append a line."""
    with Path(file).open("a") as out:
        out.write(f"{text}\n")
