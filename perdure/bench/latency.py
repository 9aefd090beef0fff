"""From the call of enqueue to the handler's first line."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, p99
from perdure.bench.load import QUEUE
from perdure.bench.machine import SyncProbe
from perdure.bench.producer import producers
from perdure.bench.steady import PRODUCERS
from perdure.wire.control import Enqueue, WaitJobs
from perdure.wire.data import JobSpec

#: Between two jobs, so that the daemon is idle again.
PAUSE_SECONDS = 0.005


def latency(folder: Path, sizes: Sizes) -> list[Figure]:
    """One job after the other on an idle daemon, durable: median and p99; the limit is one fdatasync of a page."""
    with daemon(folder, sizes) as running:
        taken, syncs = sample(running, sizes.samples)
    details = f"{sizes.samples} jobs, {PAUSE_SECONDS * 1000:g} ms after the end of the one before; call of enqueue to "
    details += "the handler's first line (CLOCK_MONOTONIC in both processes); one fdatasync after each"
    return latency_figures("latency", taken, syncs, details, sizes)


def latency_load(folder: Path, sizes: Sizes) -> list[Figure]:
    """The same p99 while two producers keep the daemon at half of what `steady` has reached just before."""
    with daemon(folder, sizes) as running:
        with producers(running.socket, PRODUCERS, sizes.seconds / 2) as load:
            full = load.rate()
        with producers(running.socket, PRODUCERS, 3600, full / 2) as load, SyncProbe(folder) as probe:
            time.sleep(min(1.0, sizes.seconds / 10))
            before = running.status().jobs_done
            started = time.perf_counter()
            taken, syncs = _sample(running, probe, sizes.samples)
            rate = (running.status().jobs_done - before) / (time.perf_counter() - started)
    details = f"{sizes.samples} jobs in the queue of the load; load asked for: {full / 2:,.0f} jobs/s, half of "
    details += f"{full:,.0f} measured before, run: {rate:,.0f}; median {statistics.median(taken):.3f} ms"
    return [figure("latency-load", p99(taken), "ms", p99(syncs), "p99 of one fdatasync meanwhile", details, sizes)]


def sample(running: Running, samples: int) -> tuple[list[float], list[float]]:
    """Milliseconds from enqueue to start of so many jobs, and of an fdatasync after each."""
    with SyncProbe(running.folder) as probe:
        return _sample(running, probe, samples)


def latency_figures(name: str, taken: list[float], syncs: list[float], details: str, sizes: Sizes) -> list[Figure]:
    """The median and the p99, each beside that of the disk."""
    picks: list[tuple[str, str, Callable[[list[float]], float]]] = [
        (name, "median", statistics.median),
        (f"{name}-p99", "p99", p99),
    ]
    return [
        figure(full, pick(taken), "ms", pick(syncs), f"the disk's {word} fdatasync", f"{word}; {details}", sizes)
        for full, word, pick in picks
    ]


def _sample(running: Running, probe: SyncProbe, samples: int) -> tuple[list[float], list[float]]:
    taken, syncs = [], []
    for _ in range(samples):
        taken.append(once(running))
        syncs.append(probe.sync_ms())
        time.sleep(PAUSE_SECONDS)
    return taken, syncs


def once(running: Running) -> float:
    """Milliseconds from the call of enqueue to the handler's first line."""
    before = time.monotonic_ns()
    placed = running.caller.request(Enqueue([JobSpec("bench.began", queue=QUEUE)]))
    end = running.caller.request(WaitJobs([placed[0].id]), timeout_s=60)[0]
    return (int(end.result) - before) / 1e6
