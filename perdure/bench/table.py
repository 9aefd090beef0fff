"""The table for people."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from perdure.bench.figure import Figure, shown

#: Where no terminal sets the width.
FILE_COLUMNS = 150


def print_table(machine: str, figures: Sequence[Figure]) -> None:
    """Print the figures, and below them what each is exactly."""
    console = Console(width=None if sys.stdout.isatty() else FILE_COLUMNS, highlight=False)
    table = Table(box=None, header_style="bold", padding=(0, 2, 0, 0))
    table.add_column("benchmark", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("unit", no_wrap=True)
    table.add_column("limit", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right", no_wrap=True)
    table.add_column("goal")
    table.add_column("", no_wrap=True)
    for figure in figures:
        table.add_row(
            title(figure), shown(figure.value), figure.unit, shown(figure.limit), f"{figure.ratio:g}", figure.goal,
            verdict(figure),
        )  # fmt: skip
    console.print(table)
    console.print()
    for figure in figures:
        console.print(Text.assemble((title(figure), "bold"), f": {explained(figure)}"))
    console.print(f"\n{machine}", style="dim")


def title(figure: Figure) -> str:
    """The row's name; of a point also where it stands."""
    return figure.benchmark if figure.at is None else f"{figure.benchmark} {figure.at:,.0f}"


def verdict(figure: Figure) -> Text:
    """Met or missed; a point of a plot has no goal."""
    if not figure.goal:
        return Text("-")
    return Text("met", style="green") if figure.met else Text("missed", style="red")


def explained(figure: Figure) -> str:
    """What was measured, what the limit is, and what it was measured on."""
    return (
        f"{figure.details}. Limit: {figure.limit_is}. Durability {figure.durability}; a step of the loop took "
        f"{figure.pace_ns[0]:g} ns before and {figure.pace_ns[1]:g} ns after; {figure.stolen:g} % of the processors' "
        "time was stolen by the hypervisor."
    )
