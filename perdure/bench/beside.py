"""Throughput beside very many jobs of another state, as a share of that beside none."""

from __future__ import annotations

import contextlib
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, point
from perdure.bench.fill import fill_available, fill_dead, fill_finished, fill_parked
from perdure.bench.load import prepare, release, release_oldest

#: Sizes of the plot.
PLOT_SIZES = (10_000, 100_000, 1_000_000, 10_000_000)
ALONE = "the same with no others"
#: For each round of other rows so many pairs of drains: the machine's moods meet both.
PAIRS = 2

Drain = Callable[[Running, int], float]


def available(folder: Path, sizes: Sizes) -> list[Figure]:
    """Drain the oldest jobs of a queue in which 10,000, ten times as many, … up to --backlog wait.

    In turns with a queue that has no others. The size with the worst ratio counts; all are points of a plot.
    """
    points = []
    for number in [size for size in PLOT_SIZES if size < sizes.backlog] + [sizes.backlog]:
        place = folder / str(number)
        place.mkdir()
        rate, alone, details = _pairs(place, sizes, fill_available, number, _drain_oldest)
        details = f"{number:,} jobs wait in the queue that is drained; {details}"
        points.append(point("plot-backlog", number, rate, "jobs/s", alone, ALONE, details, sizes))
        shutil.rmtree(place)
    worst = min(points, key=lambda one: one.ratio)
    others = ", ".join(f"{int(one.at or 0):,}: {one.ratio:g}" for one in points)
    details = f"the worst of {others}; {worst.details}"
    return [figure("available", worst.value, "jobs/s", worst.limit, ALONE, details, sizes), *points]


def parked(folder: Path, sizes: Sizes) -> list[Figure]:
    """Drain beside --many jobs that are parked for an open breaker, and beside none, in turns."""
    return [_beside("parked", folder, sizes, fill_parked)]


def finished(folder: Path, sizes: Sizes) -> list[Figure]:
    """Drain beside --many completed jobs, and beside none, in turns."""
    return [_beside("finished", folder, sizes, fill_finished)]


def dead(folder: Path, sizes: Sizes) -> list[Figure]:
    """Drain beside --many open dead letters, and beside none, in turns."""
    return [_beside("dead", folder, sizes, fill_dead)]


def _beside(name: str, folder: Path, sizes: Sizes, fill: Callable[[Path, int], None]) -> Figure:
    rate, alone, details = _pairs(folder, sizes, fill, sizes.many, _drain_new)
    return figure(
        name, rate, "jobs/s", alone, f"the same beside no {name} jobs", f"{sizes.many:,} {name} jobs; {details}", sizes
    )


def _pairs(
    folder: Path, sizes: Sizes, fill: Callable[[Path, int], None], number: int, drain: Drain
) -> tuple[float, float, str]:
    """Jobs a second beside so many, beside none, and how that was measured. The ratio is the median of the pairs'."""
    with contextlib.ExitStack() as stack:
        for name in ("none", "many"):
            (folder / name).mkdir()
        started = time.perf_counter()
        fill(folder / "many" / "perdure.db", number)
        filled = time.perf_counter() - started
        none = stack.enter_context(daemon(folder / "none", sizes))
        many = stack.enter_context(daemon(folder / "many", sizes))
        jobs = sizes.jobs
        ratios, rates = [], []
        for pair in range(sizes.rounds * PAIRS):
            # Who goes first changes: a machine that gets slower or faster meanwhile favours nobody.
            if pair % 2:
                one, other = drain(many, jobs), _drain_new(none, jobs)
            else:
                other, one = _drain_new(none, jobs), drain(many, jobs)
            ratios.append(other / one)
            rates.append(jobs / one)
    share, rate = statistics.median(ratios), statistics.median(rates)
    details = f"written in {filled:.0f} s; median of {len(ratios)} pairs of drains of {jobs:,} jobs, ratios "
    details += f"{min(ratios):.2f} to {max(ratios):.2f}; {sizes.workers} workers, 100-byte arguments"
    return rate, rate / share, details


def _drain_new(running: Running, jobs: int) -> float:
    """Put jobs in and let them go: seconds."""
    return release(running, prepare(running, "bench.noop", jobs))


def _drain_oldest(running: Running, jobs: int) -> float:
    """Let the oldest jobs of the long queue go: seconds.

    As many are put in first, at its end, so that as many wait each time, and both sides write the same.
    """
    prepare(running, "bench.noop", jobs)
    return release_oldest(running, jobs)
