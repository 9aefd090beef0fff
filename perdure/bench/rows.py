"""All rows of the table, by name, in its order."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from perdure.bench import (
    beside,
    cli_process,
    drain,
    enqueue,
    guard,
    kill,
    latency,
    payload,
    plots,
    rest,
    restart,
    slow_disk,
    steady,
    wide,
    wire,
)
from perdure.bench.figure import Figure, Sizes

#: Measures in an empty folder.
Measure = Callable[[Path, Sizes], list[Figure]]


class Row(NamedTuple):
    """How a row is measured. `long`: only when it is named, or with --all. `plot`: only when it is named."""

    measure: Measure
    long: bool = False
    plot: bool = False


ROWS: Final[dict[str, Row]] = {
    "drain": Row(drain.drain),
    "async": Row(drain.drain_async),
    "rich": Row(drain.drain_rich),
    "steady": Row(steady.steady),
    "enqueue-one": Row(enqueue.enqueue_one),
    "enqueue-64": Row(enqueue.enqueue_64),
    "enqueue-bulk": Row(enqueue.enqueue_bulk),
    "latency": Row(latency.latency),
    "latency-load": Row(latency.latency_load),
    "cli": Row(cli_process.cli),
    "available": Row(beside.available, long=True),
    "parked": Row(beside.parked, long=True),
    "finished": Row(beside.finished, long=True),
    "dead": Row(beside.dead, long=True),
    "wide": Row(wide.wide),
    "payload": Row(payload.payload),
    "kill": Row(kill.kill),
    "restart": Row(restart.restart, long=True),
    "lag": Row(steady.lag),
    "slow-disk": Row(slow_disk.slow_disk),
    "cost": Row(drain.cost),
    "idle": Row(rest.idle),
    "memory": Row(rest.memory, long=True),
    "guard": Row(guard.guard_overhead),
    "wire": Row(wire.wire),
    "plot-payload": Row(payload.plot_payload, plot=True),
    "plot-workers": Row(plots.plot_workers, plot=True),
    "plot-batch": Row(plots.plot_batch, plot=True),
}
