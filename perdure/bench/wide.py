"""Very many queues and kinds."""

from __future__ import annotations

import sqlite3
import statistics
import time
from pathlib import Path

from perdure.bench.beside import PAIRS
from perdure.bench.daemon import daemon
from perdure.bench.figure import Figure, Sizes, figure
from perdure.bench.fill import fill_wide
from perdure.errors import PerdureError

#: How long one drain may take, in seconds.
DRAIN_SECONDS = 600.0


def wide(folder: Path, sizes: Sizes) -> list[Figure]:
    """1,000 queues with jobs, 1,000 kinds, half of the queues paused; the limit: one queue, one kind, in turns."""
    ratios, rates = [], []
    for pair in range(sizes.rounds * PAIRS):
        order = (1, sizes.queues) if pair % 2 else (sizes.queues, 1)
        rate = {queues: _drain(folder / f"{pair}-{queues}", sizes, queues) for queues in order}
        ratios.append(rate[sizes.queues] / rate[1])
        rates.append(rate[sizes.queues])
    share, rate_wide = statistics.median(ratios), statistics.median(rates)
    details = f"{sizes.jobs:,} jobs, enqueued in turns for {sizes.queues // 2:,} queues, each with a kind of its own; "
    details += f"{sizes.queues // 2:,} more queues have jobs and are paused; median of {len(ratios)} pairs, ratios "
    details += f"{min(ratios):.2f} to {max(ratios):.2f}; from the first claim of a fresh daemon to the last completion"
    limit_is = "one queue, one kind, the same handlers loaded"
    return [figure("wide", rate_wide, "jobs/s", rate_wide / share, limit_is, details, sizes)]


def _drain(folder: Path, sizes: Sizes, queues: int) -> float:
    """Jobs a second over the even ones of so many queues, by what the daemon has written down."""
    folder.mkdir()
    database = folder / "perdure.db"
    fill_wide(database, sizes.jobs, queues)
    environ = {"BENCH_KINDS": str(sizes.queues)}
    with daemon(folder, sizes, handlers="perdure.bench.wide_handlers", environ=environ):
        reader = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
        try:
            milliseconds = _milliseconds(reader, sizes.jobs)
        finally:
            reader.close()
    return sizes.jobs / max(milliseconds, 1) * 1000


def _milliseconds(reader: sqlite3.Connection, jobs: int) -> int:
    deadline, done = time.monotonic() + DRAIN_SECONDS, 0
    while time.monotonic() < deadline:
        done, first, last = reader.execute(
            "SELECT count(*), min(attempted_at), max(finalized_at) FROM jobs WHERE finalized_at IS NOT NULL"
        ).fetchone()
        if done == jobs:
            return int(last - first)
        time.sleep(0.2)
    raise PerdureError(f"{done} of {jobs} jobs were done after {DRAIN_SECONDS:g} s: see the daemon's log above")
