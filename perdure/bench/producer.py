"""A process that puts jobs in: as fast as they are run, or so many a second; for load beside a measurement."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import uvloop

from perdure.asks import enqueue_request
from perdure.bench.load import CHUNK, spec
from perdure.errors import PerdureError
from perdure.wire.calls import Caller, connect
from perdure.wire.control import WaitJobs

#: Batches of CHUNK jobs that a producer has in the queue when it waits for its jobs to be run.
WINDOW = 8
#: Of a batch, the jobs whose end is waited for: the last ones.
WATCHED = 2
#: Between two batches of a producer with a rate.
BEAT_SECONDS = 0.01


class Produced(NamedTuple):
    """How many jobs were put in, and in how many seconds: all of them have been run, unless there was a rate."""

    jobs: int
    seconds: float


class Producers:
    """Producer processes that have begun."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes

    @property
    def running(self) -> bool:
        """Whether any is still at work."""
        return any(process.poll() is None for process in self._processes)

    def results(self) -> list[Produced]:
        """Wait until all have ended."""
        results = []
        for process in self._processes:
            out, _ = process.communicate()
            if process.returncode != 0:
                raise PerdureError("a producer of the benchmark failed; its messages are above")
            jobs, seconds = out.split()
            results.append(Produced(int(jobs), float(seconds)))
        return results

    def rate(self) -> float:
        """Jobs a second of all together, once all have ended."""
        results = self.results()
        return sum(result.jobs for result in results) / max(result.seconds for result in results)


@contextlib.contextmanager
def producers(socket: Path, count: int, seconds: float, rate: float = 0.0) -> Iterator[Producers]:
    """So many processes that begin together, when all are connected. `rate`: jobs a second of all; 0: all they can."""
    code = "from perdure.bench.producer import main; main()"
    command = [sys.executable, "-c", code, str(socket), str(seconds), str(rate / count)]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)
    ]
    try:
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        yield Producers(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def main() -> None:
    """Arguments: the socket, seconds, jobs a second (0: all that goes)."""
    uvloop.run(_produce(sys.argv[1], float(sys.argv[2]), float(sys.argv[3])))


async def _produce(socket: str, seconds: float, rate: float) -> None:
    async with await connect(socket) as caller:
        _tell("ready")
        sys.stdin.readline()
        started = time.perf_counter()
        if rate:
            jobs = await _steadily(caller, seconds, rate)
        else:
            jobs = sum(await asyncio.gather(*(_lane(caller, started + seconds) for _ in range(WINDOW))))
        _tell(f"{jobs} {time.perf_counter() - started}")


async def _lane(caller: Caller, until: float) -> int:
    """Put a batch in, wait until it was run, and again."""
    request = enqueue_request([spec("bench.noop")] * CHUNK)
    jobs = 0
    while time.perf_counter() < until:
        placed = await caller.request(request)
        await caller.request(WaitJobs([one.id for one in placed[-WATCHED:]]))
        jobs += CHUNK
    return jobs


async def _steadily(caller: Caller, seconds: float, rate: float) -> int:
    """A small batch at each beat; what a late beat has missed goes with the next."""
    started = time.perf_counter()
    jobs = 0
    while (passed := time.perf_counter() - started) < seconds:
        due = int(passed * rate) - jobs
        if due > 0:
            await caller.request(enqueue_request([spec("bench.noop")] * due))
            jobs += due
        await asyncio.sleep(BEAT_SECONDS)
    return jobs


def _tell(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
