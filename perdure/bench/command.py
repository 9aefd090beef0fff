"""The command line of the benchmarks."""

from __future__ import annotations

import contextlib
import math
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from perdure.bench.figure import Figure, Sizes, Skipped
from perdure.bench.machine import Stolen, describe, loop_ns
from perdure.bench.rows import ROWS, Row
from perdure.bench.table import print_table
from perdure.errors import PerdureError

F = TypeVar("F", bound=Callable[..., Any])

if TYPE_CHECKING:
    _Number = click.ParamType[float]
else:
    _Number = click.ParamType  # older clicks do not know it as a generic

_DEFAULTS = Sizes()


class _Size(_Number):
    """A number, from `least` on; whole or not as the field is."""

    name = "number"

    def __init__(self, kind: type[int] | type[float], least: float) -> None:
        self._kind = kind
        self._least = least

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number. Fails on what is none, and below the least."""
        number = None
        with contextlib.suppress(ValueError):
            number = self._kind(value)
        if number is None or not self._least <= number < math.inf:
            what = "a whole number" if self._kind is int else "a number"
            self.fail(f"{value!r:.40} is not {what} from {self._least:g}", param, ctx)
        return number


def _size(option: str, least: float, about: str) -> Callable[[F], F]:
    """An option that sets the field of Sizes with its name."""
    default = getattr(_DEFAULTS, option.replace("-", "_"))
    return click.option(f"--{option}", type=_Size(type(default), least), default=default, show_default=True, help=about)


@click.command()
@click.argument("names", nargs=-1, type=click.Choice([*ROWS]), metavar="[NAME]...")
@click.option("--all", "everything", is_flag=True, help="Also the rows that take minutes, without naming them.")
@click.option("--list", "list_rows", is_flag=True, help="Print the names of the rows, and what each measures.")
@_size("jobs", 256, "Jobs of a drain.")
@_size("rounds", 1, "Drains of a row; the median counts.")
@_size("workers", 1, "Worker processes.")
@click.option(
    "--durability",
    type=click.Choice(["full", "normal"]),
    default=_DEFAULTS.durability,
    show_default=True,
    help="As store.durability.",
)
@_size("samples", 10, "Single jobs of the latency rows.")
@_size("calls", 64, "Jobs that are enqueued one by one.")
@_size("seconds", 0.2, "How long the rows with a load last, in seconds.")
@_size("idle-seconds", 0.2, "How long `idle` looks at a daemon that does nothing, in seconds.")
@_size("backlog", 1, "Available jobs of `available`.")
@_size("many", 1, "Jobs of `parked`, `finished`, `dead`, `restart` and `memory`.")
@_size("running", 0, "Running jobs of `restart`.")
@_size("queues", 2, "Queues, and kinds, of `wide`.")
@_size("payload-bytes", 1 << 20, "Bytes of all payloads of one size.")
@_size("processes", 3, "Whole processes that `cli` runs.")
@_size("kills", 1, "Workers that `kill` kills.")
@click.option(
    "--dir",
    "folder",
    type=click.Path(file_okay=False, exists=True, writable=True, path_type=Path),
    help="Whose disk to use. Default: that of the temporary files.",
)
@click.option("--json", "as_json", is_flag=True, help="One object a line, as soon as it is measured.")
def bench(
    names: tuple[str, ...], everything: bool, list_rows: bool, folder: Path | None, as_json: bool, **sizes: Any
) -> None:
    """Measure this machine. Without a NAME: all rows but those that take minutes; --list tells what there is.

    Each figure stands beside a limit that was measured in the same run. All but `guard` start a daemon of their own, in
    a scratch folder. Progress goes to stderr. Exit code 1: a row could not be measured; goals that are missed are none.
    """
    if list_rows:
        _list_rows()
        return
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=folder) as scratch:
        machine = describe(Path(scratch))
    _say(machine)
    chosen = names or [name for name, row in ROWS.items() if not row.plot and (everything or not row.long)]
    figures: list[Figure] = []
    failed = False
    try:
        for name in chosen:
            measured = _measure(name, ROWS[name], Sizes(**sizes), folder, machine)
            failed = failed or measured is None
            figures += measured or []
            for figure in (measured or []) if as_json else []:
                click.echo(msgspec.json.encode(figure))
    finally:
        if figures and not as_json:
            print_table(machine, figures)
    if failed:
        sys.exit(1)


def _measure(name: str, row: Row, sizes: Sizes, folder: Path | None, machine: str) -> list[Figure] | None:
    """The figures of a row, none where it is left out; None when it failed, which has been told."""
    _say(f"{name} …")
    pace, stolen = round(loop_ns(), 1), Stolen()
    with tempfile.TemporaryDirectory(prefix="perdure-bench-", dir=folder) as scratch:
        try:
            figures = row.measure(Path(scratch), sizes)
        except Skipped as error:
            _say(f"{name}: left out: {error}")
            return []
        except (PerdureError, OSError) as error:
            _say(f"{name}: {error}")
            return None
    percent, paces = stolen.percent(), (pace, round(loop_ns(), 1))
    for figure in figures:
        figure.machine, figure.stolen, figure.pace_ns = machine, percent, paces
        figure.durability = figure.durability or sizes.durability
    return figures


def _list_rows() -> None:
    for name, row in ROWS.items():
        about = " ".join((row.measure.__doc__ or "").split())
        click.echo(f"{name:14}{'(--all) ' if row.long else ''}{about}")


def _say(text: str) -> None:
    click.echo(text, err=True)
