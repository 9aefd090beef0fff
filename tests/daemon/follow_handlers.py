"""Handlers that tell while they run, step by step as the test opens gates."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from perdure import Context, Permanent, job


@job("telling")
def telling(ctx: Context, gate: str, steps: int) -> str:
    """Before each step wait for its gate, then tell of it in every way."""
    for step in range(1, steps + 1):
        while not Path(f"{gate}{step}").exists():
            time.sleep(0.002)
        print(f"line {step} of attempt {ctx.attempt}")
        ctx.emit({"step": step})
        ctx.progress(step, steps, f"step {step}")
    return "told"


@job("atelling")
async def atelling(ctx: Context, gate: str, steps: int) -> str:
    """The same on the loop."""
    for step in range(1, steps + 1):
        while not Path(f"{gate}{step}").exists():
            await asyncio.sleep(0.002)
        print(f"line {step} of attempt {ctx.attempt}")
        ctx.emit({"step": step})
        ctx.progress(step, steps, f"step {step}")
    return "told"


@job("chatty")
def chatty(lines: int, text: str = "x") -> None:
    """Many lines at once."""
    for number in range(lines):
        print(f"{number} {text}")


@job("failing")
def failing(ctx: Context) -> None:
    """Say something, then fail for good."""
    print("about to fail")
    raise Permanent("on purpose")


@job("dying")
def dying(ctx: Context, gate: str, deaths: int) -> None:
    """Kills its worker, so many times, with words that nobody has heard. Then it waits for the gate."""
    print("the same words")
    ctx.emit(f"value of attempt {ctx.attempt}")
    print(f"last words of attempt {ctx.attempt}")
    if ctx.attempt <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    while not Path(gate).exists():
        time.sleep(0.002)
    print("the same words")
