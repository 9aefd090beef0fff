"""Tables for people: aligned, as wide as the terminal and no wider."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import click

from perdure.cli.text import cells, clean, fit, is_terminal, paint

#: What a cell may take where no terminal sets a limit: arguments can be a mebibyte.
_WIDEST_CELL = 200
_GAP = "  "


class Column(NamedTuple):
    """A column: its title, numbers to the right, `flexible` ones give way when the terminal is narrow."""

    title: str
    right: bool = False
    flexible: bool = False
    paint: Callable[[str], str] | None = None


def print_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print `rows` under their titles. A cell that is None is shown as "-"."""
    for line in table_lines(columns, rows, terminal_width()):
        click.echo(line)


def print_pairs(pairs: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line, the values aligned. Pairs whose value is None are left out."""
    kept = [(name, str(value)) for name, value in pairs if value is not None]
    widest = max((cells(name) for name, _ in kept), default=0)
    for name, value in kept:
        click.echo(f"{paint(name + ' ' * (widest - cells(name)), dim=True)}  {value}")


def table_lines(columns: Sequence[Column], rows: Iterable[Sequence[object]], width: int | None) -> list[str]:
    """The lines of a table that is at most `width` columns wide (None: as wide as it needs)."""
    texts = [["-" if cell is None else fit(clean(str(cell)), _WIDEST_CELL) for cell in row] for row in rows]
    widths = [
        max(cells(column.title), *(cells(row[i]) for row in texts)) if texts else cells(column.title)
        for i, column in enumerate(columns)
    ]
    if width is not None:
        _narrow(columns, widths, width)
    heads = [_pad(column, fit(column.title, w), w) for column, w in zip(columns, widths, strict=True)]
    lines = [paint(_GAP.join(heads).rstrip(), bold=True)]
    for row in texts:
        padded = [_cell(c, text, w) for c, text, w in zip(columns, row, widths, strict=True)]
        lines.append(_GAP.join(padded).rstrip())
    return lines


def terminal_width() -> int | None:
    """The terminal's width; None when stdout is not a terminal."""
    return shutil.get_terminal_size().columns if is_terminal(sys.stdout) else None


def _narrow(columns: Sequence[Column], widths: list[int], width: int) -> None:
    """Take what is too wide from the flexible columns, the widest first, down to eight columns each."""
    excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
    flexible = [i for i, column in enumerate(columns) if column.flexible]
    while excess > 0 and flexible:
        widest = max(flexible, key=lambda i: widths[i])
        if widths[widest] <= 8:
            return
        others = [widths[i] for i in flexible if i != widest]
        step = max(1, min(excess, widths[widest] - max([8, *others])))
        widths[widest] -= step
        excess -= step


def _cell(column: Column, text: str, width: int) -> str:
    padded = _pad(column, fit(text, width), width)
    return column.paint(padded) if column.paint else padded


def _pad(column: Column, text: str, width: int) -> str:
    space = " " * (width - cells(text))
    return space + text if column.right else text + space
