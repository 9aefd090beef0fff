"""Writes the measured tables and plots into docs/performance.md: `python -m benchmarks.page`.

What stands between `<!-- NAME: begin -->` and `<!-- NAME: end -->` is made here; the rest of the page is written by
hand. The plots need matplotlib (the extra `bench`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from perdure.bench.figure import Figure, shown
from perdure.bench.rows import ROWS
from perdure.bench.table import explained

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "performance.md"
PLOTS = ROOT / "docs" / "plots"
RESULTS = Path(__file__).resolve().parent / "results"

NOT_YET = "Not measured yet: `make bench-page`."


class Plot(NamedTuple):
    """A plot: the points of this benchmark."""

    benchmark: str
    title: str
    x: str
    logarithmic: bool = True
    logarithmic_y: bool = False


SHOWN = (
    Plot("plot-backlog", "Throughput beside a backlog", "available jobs in the queue"),
    Plot("plot-payload", "Bandwidth, from enqueue to the end of the job", "bytes of payload", logarithmic_y=True),
    Plot("plot-workers", "Throughput of a drain", "workers", logarithmic=False),
    Plot("plot-batch", "Enqueue rate of one client", "jobs a call"),
)


def main() -> None:
    """Write the page and its plots from the results."""
    figures = [*load(RESULTS / "table.jsonl"), *load(RESULTS / "plots.jsonl")]
    PAGE.write_text(filled(PAGE.read_text("utf-8"), figures), "utf-8")


def load(path: Path) -> list[Figure]:
    """The results of a run; none if there was none."""
    if not path.exists():
        return []
    return [msgspec.json.decode(line, type=Figure) for line in path.read_bytes().splitlines() if line]


def filled(page: str, figures: Sequence[Figure]) -> str:
    """The page with these results in it. Draws the plots."""
    rows = [figure for figure in figures if figure.at is None]
    page = between(page, "rows", definitions())
    page = between(page, "table", "\n".join(table(rows)) if rows else NOT_YET)
    page = between(page, "details", "\n".join(details(rows)) if rows else NOT_YET)
    return between(page, "plots", "\n\n".join(plots(figures)) or NOT_YET)


def between(page: str, name: str, text: str) -> str:
    """The page with `text` between the two marks of this name. Raises ValueError when they are not there."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    pattern = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    if not pattern.search(page):
        raise ValueError(f"the page has no place for {name}: put {begin} and {end} into it")
    return pattern.sub(lambda _: f"{begin}\n{text}\n{end}", page)


def definitions() -> str:
    """What each row measures, in the words of its code."""
    lines = ["| name | what is measured |", "|---|---|"]
    for name, row in ROWS.items():
        text = " ".join((row.measure.__doc__ or "").split()).replace("|", "\\|")
        when = " Only when named." if row.plot else " Only when named, or with `--all`." if row.long else ""
        lines.append(f"| `{name}` | {text}{when} |")
    return "\n".join(lines)


def table(figures: Sequence[Figure]) -> Iterator[str]:
    """The measured table; each value beside its limit."""
    yield "| benchmark | value | limit | ratio | goal | |"
    yield "|---|--:|--:|--:|---|---|"
    for one in figures:
        verdict = "met" if one.met else "**missed**"
        value, limit = f"{shown(one.value)} {one.unit}", f"{shown(one.limit)} {one.unit}"
        yield f"| `{one.benchmark}` | {value} | {limit} | {one.ratio:g} | {one.goal} | {verdict} |"
    yield ""
    yield from (f"Machine: {machine}." for machine in dict.fromkeys(one.machine for one in figures))


def details(figures: Sequence[Figure]) -> Iterator[str]:
    """How each was measured in this run."""
    for one in figures:
        yield f"- `{one.benchmark}`: {explained(one)}"


def plots(figures: Sequence[Figure]) -> Iterator[str]:
    """Draw each plot that has points, and give the text that shows it."""
    for plot in SHOWN:
        points = sorted((one for one in figures if one.benchmark == plot.benchmark), key=lambda one: one.at or 0)
        if not points:
            continue
        path = PLOTS / f"{plot.benchmark.removeprefix('plot-')}.svg"
        draw(plot, points, path)
        last = points[-1]
        yield (
            f"![{plot.title}]({path.relative_to(PAGE.parent)})\n\n{plot.title}, by {plot.x}. The largest point: "
            f"{last.details}. Limit: {last.limit_is}. Durability {last.durability}. {last.machine}."
        )


def draw(plot: Plot, points: Sequence[Figure], path: Path) -> None:
    """An SVG with the values and their limits. The same points make the same file."""
    import matplotlib as mpl
    from matplotlib.figure import Figure as Canvas

    path.parent.mkdir(exist_ok=True)
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": plot.benchmark, "font.family": "sans-serif"}):
        canvas = Canvas(figsize=(7, 3.6), layout="constrained")
        axes = canvas.add_subplot()
        xs = [one.at or 0 for one in points]
        axes.plot(xs, [one.value for one in points], marker="o", color="#1f6feb", label="perdure")
        axes.plot(xs, [one.limit for one in points], marker=".", color="#8c959f", ls="--", label=points[0].limit_is)
        if plot.logarithmic:
            axes.set_xscale("log")
        else:
            axes.set_xticks(xs)
        if plot.logarithmic_y:
            axes.set_yscale("log")
        else:
            axes.set_ylim(bottom=0)
        axes.set_xlabel(plot.x)
        axes.set_ylabel(points[0].unit)
        axes.yaxis.set_major_formatter("{x:,g}")
        axes.grid(visible=True, color="#d8dee4")
        axes.legend(frameon=False)
        canvas.savefig(path, format="svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
