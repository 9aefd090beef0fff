"""Drains: a prepared backlog of jobs that do nothing, from the moment in which the queue is let go."""

from __future__ import annotations

import statistics
from pathlib import Path

import msgspec
from msgspec import Struct

from perdure.bench.daemon import Running, daemon
from perdure.bench.figure import Figure, Sizes, figure, spread
from perdure.bench.handlers import RESULT
from perdure.bench.load import cpu_seconds, prepare, release, sizes_of_turns
from perdure.bench.raw import Raw, drained, enqueued


class Drained(Struct):
    """Rounds of drains, and of the same statements given to raw SQLite."""

    rates: list[float]
    raw_rates: list[float]
    store_rate: float
    #: CPU seconds of all processes, and of raw SQLite, per 1,000 jobs.
    costs: list[float]
    raw_costs: list[float]
    turns: list[int]

    @property
    def rate(self) -> float:
        """Jobs a second."""
        return statistics.median(self.rates)

    @property
    def raw_rate(self) -> float:
        """Jobs a second, of raw SQLite."""
        return statistics.median(self.raw_rates)


def drain(folder: Path, sizes: Sizes) -> list[Figure]:
    """No-op `def` handlers, 100 bytes of arguments; the limit is raw SQLite with the daemon's own transactions."""
    return [_figure("drain", drain_rounds(folder, sizes, "bench.noop"), sizes)]


def drain_async(folder: Path, sizes: Sizes) -> list[Figure]:
    """The same with no-op `async def` handlers."""
    return [_figure("async", drain_rounds(folder, sizes, "bench.async_noop"), sizes)]


def drain_rich(folder: Path, sizes: Sizes) -> list[Figure]:
    """The same with a needed (closed) breaker, a unique key, a tag and a result of 200 bytes each."""
    return [_figure("rich", drain_rounds(folder, sizes, "bench.rich"), sizes)]


def cost(folder: Path, sizes: Sizes) -> list[Figure]:
    """CPU seconds of the supervisor and its workers per 1,000 no-op jobs of a drain, claimed, run and completed."""
    result = drain_rounds(folder, sizes, "bench.noop")
    details = f"supervisor, nursery and {sizes.workers} workers; {sizes.jobs:,} jobs a round: {spread(result.costs)}"
    value, limit = statistics.median(result.costs), statistics.median(result.raw_costs)
    return [figure("cost", value, "CPU s/1,000", limit, "raw SQLite alone, the same statements", details, sizes)]


def drain_rounds(folder: Path, sizes: Sizes, kind: str) -> Drained:
    """Drain so often, on one daemon; and raw SQLite in turns with it, in the transactions of the first drain."""
    rates, costs, replays = [], [], []
    raw: Raw | None = None
    turns: list[int] = []
    result_json = msgspec.json.encode(RESULT).decode() if kind == "bench.rich" else None
    with daemon(folder, sizes) as running:
        for _ in range(sizes.rounds):
            seconds, cpu, turns = one_drain(running, kind, sizes.jobs)
            rates.append(sizes.jobs / seconds)
            costs.append(cpu / sizes.jobs * 1000)
            if raw is None:
                raw = Raw(folder, sizes.durability, enqueued(kind, sizes.jobs), drained(turns, result_json))
            replays.append(raw.replay())
    assert raw is not None
    return Drained(
        rates,
        [sizes.jobs / timed.seconds for timed in replays],
        sizes.jobs / raw.store_seconds,
        costs,
        [timed.cpu_seconds / sizes.jobs * 1000 for timed in replays],
        turns,
    )


def one_drain(running: Running, kind: str, jobs: int) -> tuple[float, float, list[int]]:
    """Seconds, CPU seconds and the sizes of the turns."""
    ids = prepare(running, kind, jobs)
    pid = running.pid
    cpu = cpu_seconds(pid)
    seconds = release(running, ids)
    cpu = cpu_seconds(pid) - cpu
    return seconds, cpu, sizes_of_turns(running.database, ids)


def _figure(name: str, result: Drained, sizes: Sizes) -> Figure:
    details = (
        f"{sizes.workers} workers, 100-byte arguments, {sizes.jobs:,} jobs a round: {spread(result.rates)}; raw: "
        f"{spread(result.raw_rates)}; the store's code in one thread: {result.store_rate:,.0f}; "
        f"{sizes.jobs / max(len(result.turns), 1):,.0f} jobs a commit; {statistics.median(result.costs):.4f} CPU s "
        "per 1,000 jobs"
    )
    limit_is = "raw SQLite, the same statements and transactions"
    return figure(name, result.rate, "jobs/s", result.raw_rate, limit_is, details, sizes)
