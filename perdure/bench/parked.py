"""What a great number of parked jobs costs the others: the same drain beside none of them and beside a million."""

from __future__ import annotations

import contextlib
import statistics
import time
from pathlib import Path

from perdure.bench.daemon import running_daemon
from perdure.bench.measure import ARGS, CHUNK, Durability, Figure
from perdure.wire.blocking import BlockingCaller
from perdure.wire.control import Enqueue, ListBreakers, OpenBreaker, PauseQueue, ResumeQueue, WaitJobs
from perdure.wire.data import JobSpec

#: Drains on each side, in turns: the machine's moods meet both.
ROUNDS = 7
SERVICE = "bench-service"
#: Jobs a request while the parked ones are prepared.
PARKED_CHUNK = 10_000


def parked(folder: Path, jobs: int, count: int, workers: int, durability: Durability) -> Figure:
    """Throughput beside `count` parked jobs, as a share of that beside none. The breaker is opened, the jobs that need
    it are enqueued, claimed and parked as they always are; then drains are measured on both daemons in turns."""
    with contextlib.ExitStack() as stack:
        callers = []
        for name in ("none", "many"):
            (folder / name).mkdir()
            daemon = running_daemon(folder / name, workers=workers, durability=durability, dependency=SERVICE)
            callers.append(stack.enter_context(daemon))
        none, many = callers
        started = time.perf_counter()
        _park(many, count)
        prepared = time.perf_counter() - started
        ratios, beside = [], []
        for number in range(ROUNDS):
            # Who goes first changes: a machine that gets slower or faster meanwhile favours nobody.
            first, second = (none, many) if number % 2 else (many, none)
            rates = {id(caller): _drain(caller, jobs) for caller in (first, second)}
            ratios.append(rates[id(many)] / rates[id(none)])
            beside.append(rates[id(many)])
    share = statistics.median(ratios)
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}"
    details = f"{count:,} jobs parked in {prepared:.0f} s; median of {ROUNDS} pairs of {jobs:,} jobs, ratios {spread}; "
    details += f"{workers} workers, durability {durability}"
    rate = statistics.median(beside)
    return Figure(
        "drain beside parked", round(rate), "jobs/s", round(rate / share), "the same beside none", round(share, 3),
        ">= 0.95 x", share >= 0.95, details,
    )  # fmt: skip


def _park(caller: BlockingCaller, count: int) -> None:
    """Open the breaker, and let the daemon park so many jobs."""
    caller.request(OpenBreaker(SERVICE, "bench"))
    spec = JobSpec("bench.needy", ARGS, queue="needy")
    for first in range(0, count, PARKED_CHUNK):
        caller.request(Enqueue([spec] * min(PARKED_CHUNK, count - first)), timeout_s=60)
    while caller.request(ListBreakers(), timeout_s=60)[0].parked < count:
        time.sleep(0.1)


def _drain(caller: BlockingCaller, jobs: int) -> float:
    """Jobs a second, from the moment in which the queue is released until the last job has ended."""
    caller.request(PauseQueue("bench"))
    spec = JobSpec("bench.noop", ARGS, queue="bench")
    ids = [one.id for _ in range(0, jobs, CHUNK) for one in caller.request(Enqueue([spec] * CHUNK), timeout_s=60)]
    started = time.perf_counter()
    caller.request(ResumeQueue("bench"))
    caller.request(WaitJobs(ids[-CHUNK:]), timeout_s=600)
    return jobs / (time.perf_counter() - started)
