"""Tables from the figures."""

from __future__ import annotations

import datetime
import os
import platform
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.peers.measure import Figure

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"
#: Benchmark, title of its column, whether more is better.
COLUMNS = (
    ("drain", "drain, jobs/s", True),
    ("both", "both together, jobs/s", True),
    ("enqueue, one by one", "enqueue one by one, /s", True),
    ("enqueue, many", "enqueue many, /s", True),
    ("latency, median", "idle latency, median ms", False),
    ("latency, p99", "p99 ms", False),
    ("CPU", "CPU s per 1,000", False),
)
KILLS = (
    ("kill, not run", "not run in 30 s"),
    ("kill, begun twice", "begun twice"),
    ("kill, ended twice", "ended twice"),
    ("kill, last job began", "last job began after, s"),
)
Row = dict[str, Any]


def machine() -> dict[str, Any]:
    """Where and when this was measured."""
    load = os.getloadavg()[0]
    return {
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.machine(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
        "fdatasync_ms": round(_fdatasync_ms(), 3),
        "load": round(load, 1),
        "when": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
    }


def _fdatasync_ms() -> float:
    taken = []
    with tempfile.TemporaryFile(buffering=0) as file:
        for _ in range(100):
            file.write(b"x" * 4096)
            started = time.perf_counter()
            os.fdatasync(file.fileno())
            taken.append((time.perf_counter() - started) * 1000)
    return statistics.median(taken)


def number(figure: Figure) -> str:
    """Its value for people."""
    return show(figure.value, figure.unit)


def show(value: float | None, unit: str) -> str:
    """As many digits as mean something."""
    if value is None:
        return "none"
    if unit in ("jobs/s", "jobs"):
        return f"{value:,.0f}"
    return f"{value:.3f}" if value < 1 else f"{value:.1f}"


def tables(found: dict[str, Any]) -> str:
    """All of them, as Markdown."""
    figures: list[Row] = found["figures"]
    parts = [_machine_line(found["machine"])]
    for durable, title in ((True, "An acknowledged job is on disk"), (False, "An acknowledged job is in memory")):
        rows = [row for row in figures if row["durable"] is durable and not row["benchmark"].startswith("kill")]
        if rows:
            parts += [f"### {title}", _speed_table(rows), _winners(rows)]
    kills = [row for row in figures if row["benchmark"].startswith("kill")]
    if kills:
        parts += ["### kill -9 half-way", _kill_table(kills)]
    parts += ["### Versions and settings", _settings_table(figures)]
    if found["missing"]:
        lines = [f"- {name}: {reason}" for name, reason in found["missing"].items()]
        parts += ["### Not measured", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _machine_line(facts: dict[str, Any]) -> str:
    small = "" if facts["scale"] >= 1 else f" Only {facts['scale']:g} of the usual number of jobs: rough figures."
    return (
        f"Measured {facts['when']} on {facts['cores']} cores ({facts['processor']}, Linux {facts['kernel']}), "
        f"Python {facts['python']}, SQLite {facts['sqlite']}; median fdatasync {facts['fdatasync_ms']} ms; "
        f"load when it began {facts['load']}.{small}"
    )


def _by_peer(rows: list[Row]) -> dict[str, dict[str, Row]]:
    peers: dict[str, dict[str, Row]] = {}
    for row in rows:
        peers.setdefault(row["peer"], {})[row["benchmark"]] = row
    return peers


def _best(rows: list[Row]) -> dict[str, float]:
    best: dict[str, float] = {}
    for benchmark, _title, more in COLUMNS:
        values = [row["value"] for row in rows if row["benchmark"] == benchmark and row["value"] is not None]
        if values:
            best[benchmark] = max(values) if more else min(values)
    return best


def _speed_table(rows: list[Row]) -> str:
    best, lines = _best(rows), []
    for peer, figures in _by_peer(rows).items():
        cells = [peer, next(iter(figures.values()))["durability"].partition(": ")[2]]
        for benchmark, _title, _more in COLUMNS:
            row = figures.get(benchmark)
            text = "–" if row is None else show(row["value"], row["unit"])  # noqa: RUF001
            won = row is not None and row["value"] is not None and row["value"] == best[benchmark]
            cells.append(f"**{text}**" if won else text)
        lines.append(cells)
    return _markdown(["", "durability", *(title for _name, title, _more in COLUMNS)], lines)


def _winners(rows: list[Row]) -> str:
    """In words: where another one is ahead of perdure, and by how much."""
    peers, ahead = _by_peer(rows), []
    ours = peers.get("perdure")
    if ours is None:
        return ""
    for benchmark, title, more in COLUMNS:
        mine = ours.get(benchmark, {}).get("value")
        others = {
            name: figures[benchmark]["value"]
            for name, figures in peers.items()
            if name != "perdure" and figures.get(benchmark, {}).get("value") is not None
        }
        if mine is None or not others:
            continue
        pick: Callable[..., str] = max if more else min
        name = pick(others, key=others.__getitem__)
        ratio = others[name] / mine if more else mine / others[name]
        if ratio > 1:
            ahead.append(f"{name} in “{title}” ({ratio:.1f} times as good)")
    return "Ahead of perdure: " + ("; ".join(ahead) if ahead else "none of them in any column") + "."


def _kill_table(rows: list[Row]) -> str:
    lines = []
    for peer, figures in _by_peer(rows).items():
        first = figures["kill, not run"]
        cells = [peer, first["details"]]
        cells += [show(figures[name]["value"], figures[name]["unit"]) for name, _title in KILLS]
        lines.append([*cells, first["settings"]])
    return _markdown(["", "what happened", *(title for _name, title in KILLS), "recovery settings"], lines)


def _settings_table(rows: list[Row]) -> str:
    seen: dict[tuple[str, str], list[str]] = {}
    for row in rows:
        if not row["benchmark"].startswith("kill"):
            key = (row["peer"], row["settings"])
            seen.setdefault(key, [f"{row['peer']} {row['version']}", row["server"], row["settings"]])
    return _markdown(["peer", "server", "settings"], list(seen.values()))


def _markdown(titles: list[str], lines: list[list[str]]) -> str:
    rows = [titles, ["---"] * len(titles), *lines]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in rows)


def write_page(page: Path, found: dict[str, Any]) -> None:
    """Put the tables between the two marks of the page."""
    before, _, rest = page.read_text().partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n{tables(found)}{END}{after}")
