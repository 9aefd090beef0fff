"""What a thread is doing at this moment, and what it has got of the machine: seen from another thread."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
import time
from types import CodeType, FrameType
from typing import Final, NamedTuple

#: Frames that are told of a stack, the innermost ones.
MOST_FRAMES: Final = 15
#: Between two frames of a stack in one line, the innermost first.
FRAME_SEPARATOR: Final = " < "


class Sample(NamedTuple):
    """What ran: the name of the task ("" for a plain callback), and where it was."""

    task: str
    stack: str


def describe(frame: FrameType | None, base: CodeType | None) -> str:
    """`/srv/reports.py:12 in nightly < …`, the line that runs first; frames from `base` outwards are left out."""
    lines: list[str] = []
    while frame is not None and frame.f_code is not base and len(lines) < MOST_FRAMES:
        lines.append(f"{frame.f_code.co_filename}:{frame.f_lineno} in {frame.f_code.co_name}")
        frame = frame.f_back
    return FRAME_SEPARATOR.join(lines)


def look_at_loop(loop: asyncio.AbstractEventLoop, thread: int, base: CodeType | None) -> Sample | None:
    """What a loop executes in its thread; None while it executes nothing and waits, which it does in C below `base`.

    `base` None: that is not known yet.
    """
    frame = sys._current_frames().get(thread)
    if frame is None or base is None or frame.f_code is base:
        return None
    stack = describe(frame, base)
    task = asyncio.current_task(loop)
    return Sample("" if task is None else task.get_name(), stack)


def look_at_main_thread(task: str, base: CodeType) -> Sample:
    """What the main thread executes above `base`, which is `task`."""
    return Sample(task, describe(sys._current_frames().get(threading.main_thread().ident or 0), base))


class ThreadUse:
    """What the thread that makes this one gets of the machine. Read in that thread; `close` it."""

    def __init__(self) -> None:
        try:
            flags = os.O_RDONLY | os.O_CLOEXEC
            self._fd = os.open(f"/proc/self/task/{threading.get_native_id()}/schedstat", flags)
        except OSError:  # a kernel without scheduler statistics
            self._fd = -1

    def read(self) -> tuple[int, int]:
        """Nanoseconds that it has run, and that it was ready to run while the CPUs were given to others."""
        if self._fd >= 0:
            ran, waited, _ = os.pread(self._fd, 64, 0).split()
            return int(ran), int(waited)
        return time.thread_time_ns(), 0

    def close(self) -> None:
        """Free the descriptor."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
