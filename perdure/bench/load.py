"""Jobs for the benchmarks: prepared, released and counted on a running daemon."""

from __future__ import annotations

import contextlib
import itertools
import os
import sqlite3
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import psutil

from perdure.bench.daemon import Running
from perdure.errors import PerdureError
from perdure.wire.control import Enqueue, PauseQueue, ResumeQueue, WaitJobs
from perdure.wire.data import JobSpec

#: 100 bytes of arguments, as the goals say.
ARGS = msgspec.json.encode({"user": 123, "name": "x" * 79}).decode()
QUEUE = "bench"
#: Jobs a request while a backlog is prepared.
CHUNK = 1_000
#: The end of a backlog, and how many of its jobs are waited for: each of them is a question to the store.
TAIL, WATCHED = 512, 16

_keys = itertools.count()


def spec(kind: str) -> JobSpec:
    """A job of this kind. A rich one has a tag, and a unique key that no other has."""
    if kind == "bench.rich":
        return JobSpec(kind, ARGS, queue=QUEUE, unique=f"key-{next(_keys)}", tags=["bench"])
    return JobSpec(kind, ARGS, queue=QUEUE)


def prepare(running: Running, kind: str, jobs: int) -> list[int]:
    """Pause the queue and put so many jobs in; their ids."""
    running.caller.request(PauseQueue(QUEUE))
    ids: list[int] = []
    for first in range(0, jobs, CHUNK):
        specs = [spec(kind) for _ in range(min(CHUNK, jobs - first))]
        ids += [one.id for one in running.caller.request(Enqueue(specs), timeout_s=60)]
    return ids


def release(running: Running, ids: Sequence[int]) -> float:
    """Let the queue go; seconds until all of these have completed."""
    caller = running.caller
    started = time.perf_counter()
    caller.request(ResumeQueue(QUEUE))
    caller.request(WaitJobs(tail(ids)), timeout_s=600)
    seconds = time.perf_counter() - started
    # Nearly always nothing is left by now, and the look is not counted.
    while (left := len(ids) - (states := count(running.database, ids))["completed"]) > 0:
        if left > states["available"] + states["running"]:
            raise PerdureError("jobs of the benchmark have neither completed, nor do they wait")
        time.sleep(0.001)
        seconds = time.perf_counter() - started
    return seconds


def tail(ids: Sequence[int]) -> list[int]:
    """Some of the last ones: when they have ended, hardly any other has not."""
    return list(ids[-TAIL:][:: -(TAIL // WATCHED)])


def release_oldest(running: Running, jobs: int) -> float:
    """Let the oldest jobs of the paused queue go: seconds until they have completed. Then it is paused again."""
    oldest = "SELECT id FROM jobs WHERE state = 'available' AND queue = ? ORDER BY priority, id LIMIT 1"
    (first,) = look(running.database, oldest, (QUEUE,))[0]
    seconds = release(running, range(first, first + jobs))
    running.caller.request(PauseQueue(QUEUE))
    while look(running.database, "SELECT count(*) FROM jobs WHERE state = 'running'")[0][0]:
        time.sleep(0.01)
    return seconds


def count(database: Path, ids: Sequence[int]) -> Counter[str]:
    """How many of these jobs are in each state, at one moment. `ids` are in order, without a gap."""
    statement = "SELECT state, count(*) FROM jobs WHERE id BETWEEN ? AND ? GROUP BY state"
    return Counter(dict(look(database, statement, (ids[0], ids[-1]))))


def look(database: Path, statement: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Read the file of a daemon that runs, beside it."""
    with contextlib.closing(sqlite3.connect(f"file:{os.fspath(database)}?mode=ro", uri=True)) as connection:
        return connection.execute(statement, parameters).fetchall()


def family(pid: int) -> list[psutil.Process]:
    """A process and all below it."""
    head = psutil.Process(pid)
    return [head, *head.children(recursive=True)]


def cpu_seconds(pid: int) -> float:
    """What a process and all below it have used of the processors, to the nanosecond, threads that live counted."""
    return sum(_process_ns(process.pid) for process in family(pid)) / 1e9


def _process_ns(pid: int) -> int:
    total = 0
    for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            total += int(path.read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            continue  # a thread that has just ended
    return total


def sizes_of_turns(database: Path, ids: Sequence[int]) -> list[int]:
    """How many of these jobs each turn of the daemon has claimed, in order: the claims of a turn share a lease."""
    statement = "SELECT count(*) FROM jobs WHERE id BETWEEN ? AND ? GROUP BY lease ORDER BY lease"
    return [count for (count,) in look(database, statement, (ids[0], ids[-1]))]
