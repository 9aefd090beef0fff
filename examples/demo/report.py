"""Counts everything, compares it with what it must be, and shows it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.markup import escape

from examples.demo.independent import Expected
from examples.demo.outage import NEEDY, Outage
from examples.demo.stores import Stores
from perdure.client import Client
from perdure.wire.data import DeadFilter, JobFilter

PAGE = 1_000
#: Kind, and what is asked of the store past perdure: how many there are, and how many different ones.
IN_POSTGRES = {
    "documents": "SELECT count(*), count(DISTINCT path) FROM graphrag.documents",
    "passages": "SELECT count(*), count(DISTINCT point) FROM graphrag.passages",
    "related": "SELECT count(*), count(DISTINCT (path, other)) FROM graphrag.related",
}
NODES = "MATCH (m:PyModule) RETURN count(m) AS many, count(DISTINCT m.name) AS different"
EDGES = "MATCH (a:PyModule)-[:IMPORTS]->(b:PyModule) RETURN a.name AS a, b.name AS b"


@dataclass(frozen=True)
class Figure:
    """One count: what is there, how many different ones of it, what there must be."""

    name: str
    there: int
    different: int
    expected: int

    @property
    def good(self) -> bool:
        """Each of them is there, exactly once."""
        return self.there == self.different == self.expected

    def __str__(self) -> str:
        return f"{self.there:,} (counted independently: {self.expected:,}; twice: {self.there - self.different})"


@dataclass
class Report:
    """The figures of one run. `mismatches` says in words what is not as it must be."""

    jobs: int
    completed: int
    dead: dict[str, int]
    lost: int
    interrupted: int
    charged: int
    figures: list[Figure]
    jobs_per_second: float
    mismatches: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every count is as it must be."""
        return not self.mismatches


def collect(
    expected: Expected, stores: Stores, ids: set[int], client: Client, outage: Outage | None, seconds: float
) -> Report:
    """Ask the queue, count in the stores, compare."""
    finished = {view.id: view for view in _completed(client)}
    letters = client.dead_list_sync(DeadFilter(limit=PAGE))
    dead = {(letter.kind, _path(letter.args)): letter.reason for letter in letters}
    related = sum(
        len(msgspec.json.decode(view.result or "[]")) for view in finished.values() if view.kind == "graphrag.related"
    )
    report = Report(
        jobs=len(ids),
        completed=len(ids & finished.keys()),
        dead=dict(Counter(f"{kind}: {reason}" for (kind, _), reason in dead.items())),
        lost=len(ids - finished.keys() - {letter.id for letter in letters}),
        interrupted=sum(view.interruptions > 0 for view in finished.values()),
        charged=sum(view.attempt - view.interruptions - 1 for view in finished.values() if view.queue == NEEDY),
        figures=list(_figures(expected, stores, related)),
        jobs_per_second=len(ids) / seconds,
    )
    report.mismatches = list(_mismatches(report, dead, _must_die(expected, stores)))
    if outage:
        report.mismatches += outage.mismatches()
    return report


def _figures(expected: Expected, stores: Stores, related: int) -> Iterator[Figure]:
    wanted = {"documents": expected.documents, "passages": expected.passages, "related": related}
    for name, query in IN_POSTGRES.items():
        there, different = stores.postgres.rows(query)[0]
        yield Figure(f"{name} in Postgres", there, different, wanted[name])
    points = stores.points()
    yield Figure("points in Qdrant", points, points, expected.passages)
    if stores.graph:
        nodes = stores.graph.rows(NODES)[0]
        yield Figure("modules in the graph", nodes["many"], nodes["different"], expected.modules)
        edges = [(row["a"], row["b"]) for row in stores.graph.rows(EDGES)]
        yield Figure("imports in the graph", len(edges), len(set(edges)), expected.edges)


def _must_die(expected: Expected, stores: Stores) -> dict[tuple[str, str], str]:
    """Kind and path of each job that must die, and of what."""
    must = {(kind, path): "permanent" for kind in ("graphrag.text", "graphrag.vectors") for path in expected.not_text}
    if stores.graph:
        must |= {("graphrag.imports", path): "permanent" for path in expected.not_text | expected.not_python}
    return {**must, ("demo.aborts", ""): "interruptions"}


def _mismatches(
    report: Report, dead: dict[tuple[str, str], str], must_die: dict[tuple[str, str], str]
) -> Iterator[str]:
    if report.lost:
        yield f"{report.lost} jobs are neither completed nor dead"
    if dead != must_die:
        differing = sorted(set(dead.items()) ^ set(must_die.items()))
        yield f"{len(dead)} jobs are dead, and {len(must_die)} should be; the difference: {differing[:5]}"
    for figure in report.figures:
        if not figure.good:
            yield f"{figure.name}: {figure}"


def show(report: Report, outage: Outage | None, console: Console) -> None:
    """All figures."""
    lines = [("jobs", f"{report.jobs:,}"), ("completed", f"{report.completed:,}")]
    lines += [("dead, as must be", f"{n} of {what}") for what, n in sorted(report.dead.items())]
    lines += [
        ("lost", str(report.lost)),
        ("begun again", f"{report.interrupted} (they ran when the daemon was killed, or beside the job that aborts)"),
    ]
    lines += [(figure.name, str(figure)) for figure in report.figures]
    if outage:
        lines += [
            ("breaker", f"opened {outage.opened}"),
            ("probes", f"{outage.count('half_open', 'open')} failed, {outage.count('half_open', 'closed')} closed it"),
            ("parked", f"{outage.parked:,} jobs"),
            ("attempts charged", f"{report.charged} of jobs that need Postgres"),
            ("went on meanwhile", f"{sum(outage.others.values()):,} other jobs in {outage.seconds:.1f} s"),
            ("ramp", " → ".join(str(rate) for rate in outage.ramp) + " jobs a second"),
        ]
    lines.append(("jobs a second", f"{report.jobs_per_second:,.0f} (crash, restart and outage included)"))
    console.print()
    for name, value in lines:
        console.print(f"[bold]{name:24}[/]{escape(value)}", soft_wrap=True)
    for wrong in report.mismatches:
        console.print(f"[bold red]MISMATCH[/] {escape(wrong)}", soft_wrap=True)


def show_answers(answers: dict[str, list[dict[str, Any]]], console: Console) -> None:
    """Each question: the nearest passages, their documents, and who imports those."""
    for question, hits in answers.items():
        console.print(f"\n[bold]{escape(question)}[/]")
        for hit in hits:
            console.print(
                f"  {hit['score']:.3f}  {escape(hit['where'])}  [dim]{escape(hit['says'][:70])}[/]", soft_wrap=True
            )
            console.print(f"         {_document(hit)}", soft_wrap=True)


def _document(hit: dict[str, Any]) -> str:
    importers = hit["imported_by"]
    text = f"its document has {hit['passages']} passages"
    if importers is None:
        return text
    some = f": {', '.join(importers[:3])}{', …' if len(importers) > 3 else ''}" if importers else ""
    who = "1 module imports" if len(importers) == 1 else f"{len(importers)} modules import"
    return f"{text}; {who} it{some}"


def show_next(folder: Path, console: Console) -> None:
    """What to try with the queue that is left."""
    console.print(f"\nThe queue is still there (the servers have ended). Try:\n  cd {folder}", soft_wrap=True)
    tool = Path(sys.executable).with_name("perdure")
    for command in ("status", "jobs", "breaker list", "dead list", "dead show ID"):
        console.print(f"  {tool} {command}", soft_wrap=True)


def _completed(client: Client) -> Iterator[Any]:
    before = None
    while page := client.list_sync(JobFilter(states=["completed"], before=before, limit=PAGE)):
        yield from page
        before = page[-1].id


def _path(args: str) -> str:
    return str(msgspec.json.decode(args).get("path", ""))
