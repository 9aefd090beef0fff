"""Points of the plots that no row of the table has."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec
import uvloop

from perdure.bench.daemon import daemon
from perdure.bench.drain import drain_rounds
from perdure.bench.enqueue import IN_FLIGHT, in_bulk, raw_rates
from perdure.bench.figure import Figure, Sizes, point
from perdure.bench.load import QUEUE
from perdure.bench.raw import enqueued
from perdure.wire.control import PauseQueue

WORKERS = (1, 2, 3, 4, 8)
#: Jobs of one call.
BATCHES = (1, 10, 100, 1_000, 10_000)
#: Calls of the smallest batch, for each of the calls on the way.
CALLS = 500


def plot_workers(folder: Path, sizes: Sizes) -> list[Figure]:
    """Points of a plot: the drain with 1 to 8 workers, beside raw SQLite with the same statements."""
    points = []
    for workers in WORKERS:
        place = folder / str(workers)
        place.mkdir()
        result = drain_rounds(place, msgspec.structs.replace(sizes, workers=workers), "bench.noop")
        details = f"{sizes.jobs:,} jobs a round, {sizes.rounds} rounds, 100-byte arguments"
        limit_is = "raw SQLite, the same statements and transactions"
        points.append(point("plot-workers", workers, result.rate, "jobs/s", result.raw_rate, limit_is, details, sizes))
    return points


def plot_batch(folder: Path, sizes: Sizes) -> list[Figure]:
    """Points of a plot: jobs enqueued a second with 1 to 10,000 a call, beside raw SQLite with as many a commit."""
    points = []
    for batch in BATCHES:
        place = folder / str(batch)
        place.mkdir()
        calls = max(min(CALLS, sizes.jobs // batch // IN_FLIGHT), 1) * IN_FLIGHT
        with daemon(place, sizes) as running:
            running.caller.request(PauseQueue(QUEUE))
            rates = [calls * batch / uvloop.run(in_bulk(running, calls, IN_FLIGHT, batch)) for _ in range(sizes.rounds)]
        limit = raw_rates(place, sizes, enqueued("bench.noop", calls * batch, chunk=batch), calls * batch)
        details = f"{calls:,} calls a round, {IN_FLIGHT} on the way, {sizes.rounds} rounds, 100-byte arguments"
        limit_is = "raw SQLite, as many a commit"
        points.append(
            point(
                "plot-batch", batch, statistics.median(rates), "jobs/s", statistics.median(limit), limit_is, details,
                sizes,
            )
        )  # fmt: skip
    return points
