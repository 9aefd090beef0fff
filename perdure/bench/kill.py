"""A worker that is killed: how soon its successor works."""

from __future__ import annotations

import os
import signal
import statistics
import time
from pathlib import Path

import msgspec

from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, p99
from perdure.bench.load import QUEUE
from perdure.wire.control import Enqueue, WaitJobs
from perdure.wire.data import JobSpec


def kill(folder: Path, sizes: Sizes) -> list[Figure]:
    """kill -9 of the only worker, which executes a job; until the handler of the next job starts in another one.

    The limit is a fork by the process that measures, until the child has written a byte.
    """
    with daemon(folder, msgspec.structs.replace(sizes, workers=1)) as running:
        taken = [_kill_once(running) for _ in range(sizes.kills)]
    forks = [_fork_ms() for _ in range(sizes.kills)]
    details = f"one worker, killed {sizes.kills} times while it executes a job and the next one waits; to the next "
    details += f"handler's first line; p99 {p99(taken):.1f} ms"
    limit_is = "a fork, until the child has written a byte"
    return [figure("kill", statistics.median(taken), "ms", statistics.median(forks), limit_is, details, sizes)]


def _kill_once(running: Running) -> float:
    """Milliseconds from kill -9 to the next job's start."""
    caller = running.caller
    # What a healthy worker has done before: a worker that dies without it is started again later and later.
    caller.request(WaitJobs([caller.request(Enqueue([JobSpec("bench.began", queue=QUEUE)]))[0].id]), 60)
    held = caller.request(Enqueue([JobSpec("bench.hold", queue=QUEUE)]))[0].id
    while not any(held in worker.executing for worker in running.status().workers):
        time.sleep(0.005)
    waiting = caller.request(Enqueue([JobSpec("bench.began", queue=QUEUE)]))[0].id
    (pid,) = (worker.pid for worker in running.status().workers if held in worker.executing)
    killed_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    end = caller.request(WaitJobs([waiting]), 60)[0]
    return (int(end.result) - killed_ns) / 1e6


def _fork_ms() -> float:
    read, write = os.pipe()
    started = time.perf_counter()
    pid = os.fork()
    if pid == 0:
        os.write(write, b"x")
        os._exit(0)
    os.read(read, 1)
    taken = (time.perf_counter() - started) * 1000
    os.waitpid(pid, 0)
    os.close(read)
    os.close(write)
    return taken
