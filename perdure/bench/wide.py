"""Very many queues and kinds."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path

from perdure.bench.beside import PAIRS
from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure
from perdure.bench.load import ARGS, CHUNK, count, tail
from perdure.wire.control import Enqueue, PauseQueue, ResumeQueue, WaitJobs
from perdure.wire.data import JobSpec


def wide(folder: Path, sizes: Sizes) -> list[Figure]:
    """1,000 queues with jobs, 1,000 kinds, half of the queues paused; the limit: one queue, one kind, in turns."""
    environ = {"BENCH_KINDS": str(sizes.queues)}
    ratios, rates = [], []
    with contextlib.ExitStack() as stack:
        sides = []
        for name in ("one", "many"):
            (folder / name).mkdir()
            running = daemon(folder / name, sizes, handlers="perdure.bench.wide_handlers", environ=environ)
            sides.append(stack.enter_context(running))
        one, many = sides
        _stay_paused(many, sizes.queues)
        for pair in range(sizes.rounds * PAIRS):
            first, second = (one, many) if pair % 2 else (many, one)
            rate = {id(side): _drain(side, sizes.jobs, 1 if side is one else sizes.queues) for side in (first, second)}
            ratios.append(rate[id(many)] / rate[id(one)])
            rates.append(rate[id(many)])
    share = statistics.median(ratios)
    details = (
        f"{sizes.jobs:,} jobs over {sizes.queues // 2:,} queues, each of a kind of its own; {sizes.queues // 2:,} "
    )
    details += f"more queues have jobs and are paused; median of {len(ratios)} pairs, ratios {min(ratios):.2f} to "
    details += f"{max(ratios):.2f}; counted from the moment in which the last queue is let go"
    rate_wide = statistics.median(rates)
    limit_is = "one queue, one kind, the same handlers loaded"
    return [figure("wide", rate_wide, "jobs/s", rate_wide / share, limit_is, details, sizes)]


def _spec(number: int) -> JobSpec:
    return JobSpec(f"bench.wide{number}", ARGS, queue=f"queue{number}")


def _stay_paused(running: Running, queues: int) -> None:
    """The odd queues are paused, with a job in each."""
    odd = range(1, queues, 2)
    for number in odd:
        running.caller.request(PauseQueue(f"queue{number}"))
    running.caller.request(Enqueue([_spec(number) for number in odd]))


def _drain(running: Running, jobs: int, queues: int) -> float:
    """Jobs a second over the even ones of so many queues."""
    caller = running.caller
    even = range(0, queues, 2)
    for number in even:
        caller.request(PauseQueue(f"queue{number}"))
    specs = [_spec(even[number % len(even)]) for number in range(jobs)]
    ids: list[int] = []
    for first in range(0, jobs, CHUNK):
        ids += [one.id for one in caller.request(Enqueue(specs[first : first + CHUNK]), timeout_s=60)]
    for number in even:
        caller.request(ResumeQueue(f"queue{number}"))
    started = time.perf_counter()
    before = count(running.database, ids, "completed")
    caller.request(WaitJobs(tail(ids)), timeout_s=600)
    while count(running.database, ids, "completed") < jobs:
        time.sleep(0.001)
    # One that has let all its jobs go before the last queue was released has nothing left to be measured by.
    return max(jobs - before, 1) / (time.perf_counter() - started)
