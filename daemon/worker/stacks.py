"""Stacks for the post-mortem, written into a file that outlives the worker.

Three ways lead there: a fatal signal (SIGSEGV, SIGABRT, …) dumps all threads by itself; SIGUSR1 dumps them on the
supervisor's demand, in C and without the GIL, so also when the worker hangs in an extension; `dump_all` adds what no
thread's stack shows, the suspended tasks of the loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import traceback
from types import FrameType
from typing import Any

#: Deeper stacks of tasks are cut, and so is the number of tasks, to keep the file readable.
MOST_FRAMES = 50
MOST_TASKS = 200


def arm(fd: int) -> None:
    """Send what fatal signals and SIGUSR1 dump to `fd` (opened with O_APPEND, kept open for good)."""
    faulthandler.enable(file=fd, all_threads=True)
    faulthandler.register(signal.SIGUSR1, file=fd, all_threads=True, chain=False)


def dump_all(fd: int, loop: asyncio.AbstractEventLoop) -> None:
    """Write the stacks of all threads, and of all tasks of `loop`."""
    with contextlib.suppress(OSError):
        faulthandler.dump_traceback(file=fd, all_threads=True)
    dump_tasks(fd, loop)


def dump_tasks(fd: int, loop: asyncio.AbstractEventLoop) -> None:
    """Write the stacks of all tasks of `loop`, the innermost frame last. Errors of the disk are let be."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: task.get_name())
    text = "".join(_describe(task) for task in tasks[:MOST_TASKS])
    if len(tasks) > MOST_TASKS:
        text += f"\n… and {len(tasks) - MOST_TASKS} more tasks\n"
    with contextlib.suppress(OSError):
        os.write(fd, text.encode("utf-8", "backslashreplace"))


def _describe(task: asyncio.Task[Any]) -> str:
    lines = [f"\nTask {task.get_name()} (most recent call last):\n"]
    frames = _frames(task.get_coro())
    summary = traceback.StackSummary.extract((frame, frame.f_lineno) for frame in frames[-MOST_FRAMES:])
    return "".join(lines + summary.format())


def _frames(coroutine: Any) -> list[FrameType]:
    """The frames of a suspended coroutine and of all that it awaits: Task.get_stack() gives the first one only."""
    frames: list[FrameType] = []
    while coroutine is not None and len(frames) < 1000:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            frames.append(frame)
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return frames
