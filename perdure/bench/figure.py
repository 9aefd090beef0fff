"""One line of the table, what a run is told, and why a row may be left out."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from perdure.bench.goals import GOALS
from perdure.errors import PerdureError

Durability = Literal["full", "normal"]


class Sizes(Struct, frozen=True):
    """How much each row measures. Times in seconds."""

    #: Jobs of one drain, and how often it is drained: the median counts.
    jobs: int = 100_000
    rounds: int = 3
    workers: int = 2
    durability: Durability = "full"
    #: Single jobs, one after the other, for a median and a p99.
    samples: int = 300
    #: Calls of an enqueue row with one job each.
    calls: int = 5_000
    #: How long the rows run that hold a load.
    seconds: float = 10.0
    idle_seconds: float = 30.0
    #: Jobs beside which `available` measures; `parked`, `finished`, `dead`; and those of `restart` and `memory`.
    backlog: int = 10_000_000
    many: int = 1_000_000
    running: int = 1_000
    #: Queues, and kinds, of `wide`.
    queues: int = 1_000
    #: Bytes in all of each payload size.
    payload_bytes: int = 64 << 20
    #: Runs of a whole process.
    processes: int = 20
    #: Workers killed.
    kills: int = 20


class Figure(Struct):
    """A result. `limit` was measured in the same run, and `limit_is` says what it is; `ratio` is value to limit."""

    benchmark: str
    value: float
    unit: str
    limit: float
    ratio: float
    goal: str
    met: bool
    limit_is: str
    details: str
    durability: str = ""
    machine: str = ""
    #: Percent of the processors' time that the hypervisor gave to others while this was measured.
    stolen: float = 0.0
    #: Nanoseconds of a step of an empty Python loop, just before and just after: the machine's pace.
    pace_ns: tuple[float, float] = (0.0, 0.0)
    #: Where the point stands on the x axis of a plot.
    at: float | None = None


class Skipped(PerdureError):
    """A row that cannot be measured here; the message says why."""


def figure(
    name: str, value: float, unit: str, limit: float, limit_is: str, details: str, sizes: Sizes | None = None
) -> Figure:
    """The figure of a row, held against the goal of that name."""
    goal = GOALS[name]
    ratio = value / limit if limit else 0.0
    return Figure(
        name, short(value), unit, short(limit), round(ratio, 3), goal.text(unit), goal.met(value, limit),
        limit_is, details, sizes.durability if sizes else "",
    )  # fmt: skip


def point(
    name: str, at: float, value: float, unit: str, limit: float, limit_is: str, details: str, sizes: Sizes
) -> Figure:
    """A point of a plot; it has no goal."""
    ratio = round(value / limit, 3) if limit else 0.0
    return Figure(
        name, short(value), unit, short(limit), ratio, "", True, limit_is, details, sizes.durability, at=at
    )  # fmt: skip


def short(value: float) -> float:
    """With as many digits as mean something: four."""
    return round(value) if abs(value) >= 1000 else float(f"{value:.4g}")


def shown(value: float) -> str:
    """For people: no digits that mean nothing."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:g}"


def p99(values: Sequence[float]) -> float:
    """What all but a hundredth stay below."""
    return sorted(values)[int(len(values) * 0.99)]


def spread(values: Sequence[float]) -> str:
    """Median, least and most, as text."""
    least, middle, most = (shown(short(value)) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} ({least} to {most})"
