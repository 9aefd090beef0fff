"""Text for people: safe to print, cut to a width, times and sizes in words."""

from __future__ import annotations

import os
import re
import sys
import unicodedata
from datetime import datetime
from typing import Any

import click

_STATE_COLOURS = {
    "completed": "green",
    "running": "cyan",
    "retryable": "yellow",
    "parked": "magenta",
    "dead": "red",
    "cancelled": "bright_black",
    "ok": "green",
    "closed": "green",
    "open": "red",
    "half open": "yellow",
    "warn": "yellow",
    "FAIL": "red",
}
#: Colours, bold and the like, and nothing else that an escape can do.
_COLOUR = re.compile(r"(\x1b\[[0-9;:]{0,40}m)")
_COLOUR_END = "\x1b[0m"
_UNITS = ((86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1000, "s"))


def clean(text: str, *, lines: bool = False) -> str:
    """`text` without anything that could steer a terminal; `lines` keeps line ends and tabs, and colours."""
    if text.isprintable():
        return text
    parts = _COLOUR.split(text) if lines else [text]
    kept = "\n\t" if lines else ""
    parts[::2] = ["".join(c if c.isprintable() or c in kept else _escape(c) for c in part) for part in parts[::2]]
    # What is coloured must not colour what comes after it.
    return "".join(parts) + (_COLOUR_END if len(parts) > 1 else "")


def _escape(char: str) -> str:
    return {"\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(char) or char.encode("unicode_escape").decode("ascii")


def cells(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    if text.isascii():
        return len(text)
    return sum(0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def fit(text: str, width: int) -> str:
    """`text` cut to `width` columns, with an ellipsis where something is missing."""
    if cells(text) <= width:
        return text
    kept, used = [], 0
    for char in text:
        used += cells(char)
        if used > width - 1:
            break
        kept.append(char)
    return "".join(kept) + "…"


def is_terminal(stream: Any) -> bool:
    """Whether a person looks at this stream (which may be closed or missing)."""
    try:
        return bool(stream is not None and stream.isatty())
    except ValueError:
        return False


def note(text: str) -> None:
    """A word for a person, on stderr; scripts are not bothered."""
    if is_terminal(sys.stderr):
        click.echo(text, err=True)


def paint(text: str, colour: str | None = None, *, bold: bool = False, dim: bool = False) -> str:
    """`text` in a colour, where colours are wanted: on a terminal, unless NO_COLOR is set."""
    if not is_terminal(sys.stdout) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return click.style(text, fg=colour, bold=bold or None, dim=dim or None)


def paint_state(text: str) -> str:
    """A state in its colour, and what is said of it in brackets; spaces around it are kept."""
    return paint(text, _STATE_COLOURS.get(text.partition(" (")[0].strip()))


def span(milliseconds: float) -> str:
    """A length of time in its largest unit or two: 340ms, 12s, 5m 3s, 2d 4h."""
    left = int(milliseconds)
    if left < 1000:
        return f"{left}ms"
    if left < 10_000:
        return f"{left / 1000:.1f}s"
    for i, (size, unit) in enumerate(_UNITS):
        if left >= size:
            rest, minor = divmod(left % size, _UNITS[i + 1][0])[0] if i + 1 < len(_UNITS) else 0, ""
            if rest:
                minor = f" {rest}{_UNITS[i + 1][1]}"
            return f"{left // size}{unit}{minor}"
    return f"{left}ms"


def ago(at_ms: int | None, now_ms: int) -> str:
    """A moment as people say it: "3m ago", "in 5m", "now", a date when it is far; "-" for None."""
    if at_ms is None:
        return "-"
    distance = abs(now_ms - at_ms)
    if distance > 30 * 86_400_000:
        return moment(at_ms)[:10]
    if distance < 1000:
        return "now"
    size, unit = next((size, unit) for size, unit in _UNITS if distance >= size)
    words = f"{distance // size}{unit}"
    return f"{words} ago" if at_ms <= now_ms else f"in {words}"


def moment(at_ms: int) -> str:
    """A moment in local time, with its zone."""
    try:
        return datetime.fromtimestamp(at_ms / 1000).astimezone().strftime("%Y-%m-%d %H:%M:%S %z")
    except (ValueError, OverflowError, OSError):
        return f"{at_ms} ms"


def moment_and_ago(at_ms: int | None, now_ms: int) -> str:
    """Both: "2027-01-31 14:30:00 +0100 (3m ago)"."""
    return "-" if at_ms is None else f"{moment(at_ms)} ({ago(at_ms, now_ms)})"


def size(count: int) -> str:
    """Bytes in a unit that reads well."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"


def plural(count: int, word: str) -> str:
    """ "1 job", "12,000 jobs"."""
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
