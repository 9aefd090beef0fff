"""The command line of the benchmarks."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import click
import msgspec

from perdure.bench import measure
from perdure.bench.guard import guard_overhead
from perdure.bench.parked import parked
from perdure.bench.wire import wire

#: What is run when nothing is named: `parked` takes minutes.
USUAL = ("drain", "async", "latency", "guard", "wire")
NAMES = (*USUAL, "parked")


@click.command()
@click.argument("names", nargs=-1, type=click.Choice(NAMES))
@click.option("--jobs", default=50_000, show_default=True, help="Jobs of a drain (rounded up to thousands).")
@click.option("--parked", "parked_jobs", default=1_000_000, show_default=True, help="Jobs that `parked` parks.")
@click.option("--samples", default=300, show_default=True, help="Jobs of the latency measurement.")
@click.option("--workers", default=2, show_default=True, help="Worker processes.")
@click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    default="full",
    show_default=True,
    help="As store.durability.",
)
@click.option(
    "--dir", "folder", type=click.Path(file_okay=False, exists=True, path_type=Path), help="Whose disk to use."
)
@click.option("--json", "as_json", is_flag=True, help="One object a line.")
def bench(
    names: tuple[str, ...],
    jobs: int,
    parked_jobs: int,
    samples: int,
    workers: int,
    durability: Literal["full", "normal"],
    folder: Path | None,
    as_json: bool,
) -> None:
    """Measure this machine: NAMES are drain, async, latency, guard, wire and parked; all but the last by default.

    Each compares its figure with a limit measured in the same run; all but guard start a daemon in a scratch folder.
    """
    jobs = -(-jobs // measure.CHUNK) * measure.CHUNK
    if not as_json:
        click.echo(_machine())
    runs: dict[str, Callable[[Path], list[measure.Figure]]] = {
        "drain": lambda path: [measure.drain(path, jobs, workers, durability)],
        "async": lambda path: [measure.drain(path, jobs, workers, durability, "bench.async_noop")],
        "latency": lambda path: measure.latency(path, samples, durability),
        "parked": lambda path: [parked(path, jobs, parked_jobs, workers, durability)],
        "guard": lambda _path: [guard_overhead()],
        "wire": wire,
    }
    for name in names or USUAL:
        with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=folder) as scratch:
            for line in _lines(runs[name](Path(scratch)), as_json):
                click.echo(line)


def _lines(figures: list[measure.Figure], as_json: bool) -> Iterator[str]:
    for figure in figures:
        if as_json:
            yield msgspec.json.encode(figure).decode()
            continue
        verdict = "met" if figure.met else "MISSED"
        yield (
            f"{figure.benchmark:26} {figure.value:>12,} {figure.unit:7} goal {figure.goal} ({verdict}); "
            f"{figure.ratio:g} x {figure.limit_is} ({figure.limit:,})"
        )
        yield f"{'':26} {figure.details}"


def _machine() -> str:
    cores = len(os.sched_getaffinity(0))
    return f"{cores} cores, {platform.machine()}, Python {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
