"""What handlers leave behind: how often each job began and ended, and when. Imported by the workers of every peer.

Each worker process has a file of its own, mapped into memory, with 16 bytes for each job: how often it has begun (1
byte) and ended (1 byte), 6 bytes of nothing, and the moment of its last beginning (8 bytes, CLOCK_MONOTONIC in
nanoseconds). A call costs about a microsecond, needs no lock, and what it wrote survives a SIGKILL. Only the standard
library is used here.
"""

from __future__ import annotations

import asyncio
import mmap
import os
import struct
import threading
import time
from pathlib import Path

RECORD_BYTES = 16
BEGUN = struct.Struct("<B7xQ")
#: The arguments {"index": 123456, "text": TEXT} are 100 bytes of JSON.
TEXT = "x" * 71

_map: mmap.mmap | None = None
_opening = threading.Lock()
#: Seconds that a job takes: nothing, but in the workload that kills.
_work_s = float(os.environ.get("PEER_WORK_S", "0"))


def work(index: int, text: str) -> None:
    """The job, for handlers that are plain functions."""
    _begin(index)
    if _work_s:
        time.sleep(_work_s)
    _end(index)


async def work_async(index: int, text: str) -> None:
    """The job, for handlers that are coroutines."""
    _begin(index)
    if _work_s:
        await asyncio.sleep(_work_s)
    _end(index)


def _begin(index: int) -> None:
    seen = _map or _open()
    at = index * RECORD_BYTES
    ended = seen[at + 1]
    BEGUN.pack_into(seen, at, min(seen[at] + 1, 255), time.monotonic_ns())
    seen[at + 1] = ended


def _end(index: int) -> None:
    assert _map is not None
    at = index * RECORD_BYTES + 1
    _map[at] = min(_map[at] + 1, 255)


def _open() -> mmap.mmap:
    """The first job of a process waits here until the harness opens the gate: both workers begin at the same moment."""
    global _map
    with _opening:
        if _map is None:
            folder = Path(os.environ["PEER_RUNS"])
            size = int(os.environ["PEER_CAPACITY"]) * RECORD_BYTES
            with (folder / f"{os.getpid()}.runs").open("w+b") as file:
                file.truncate(size)
                opened = mmap.mmap(file.fileno(), size)
            while not (folder / "go").exists():
                time.sleep(0.001)
            _map = opened
        return _map


def _after_fork() -> None:
    global _map, _opening
    _map, _opening = None, threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
