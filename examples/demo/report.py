"""Counts everything, compares it with what it must be, and shows it."""

from __future__ import annotations

import collections
import sqlite3
import sys
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from rich.console import Console
from rich.markup import escape

from examples.demo.corpus import Corpus, count_passages
from perdure.client import Client
from perdure.wire.data import DeadFilter, JobFilter

PAGE = 1_000
QUESTION = "event loop"


@dataclass
class Report:
    """The figures of one run. `mismatches` says in words what is not as it must be."""

    files: int
    completed: int
    dead: list[tuple[str, str]]
    lost: int
    run_twice: int
    rows: int
    expected_rows: int
    hits: list[tuple[str, int]]
    jobs_per_second: float
    mismatches: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        """Whether every count is as it must be."""
        return not self.mismatches


def collect(corpus: Corpus, folder: Path, ids: list[int], client: Client, seconds: float) -> Report:
    """Ask the queue, read the index, count the files again, compare."""
    completed = _ids(client, "completed")
    letters = client.dead_list_sync(DeadFilter(limit=PAGE))
    dead = {
        msgspec.json.decode(letter.args)["path"]: (letter.reason, _last_message(letter.errors)) for letter in letters
    }
    expected = {path: count_passages(path) for path in corpus.files}
    rows, files, hits = _index(corpus.index)
    starts = collections.Counter((folder / "starts.log").read_text().splitlines())
    report = Report(
        files=len(ids),
        completed=len(completed),
        dead=[(Path(path).name, f"{reason}: {message}") for path, (reason, message) in dead.items()],
        lost=len(set(ids) - completed - {letter.id for letter in letters}),
        run_twice=sum(count > 1 for path, count in starts.items() if path not in dead),
        rows=rows,
        expected_rows=sum(count or 0 for path, count in expected.items() if path != corpus.aborts),
        hits=hits,
        jobs_per_second=len(ids) / seconds,
    )
    must_die = {str(path) for path, count in expected.items() if count is None} | {str(corpus.aborts)}
    report.mismatches = list(_mismatches(corpus, report, dead, must_die, files))
    return report


def _mismatches(
    corpus: Corpus, report: Report, dead: dict[str, tuple[str, str]], must_die: set[str], indexed: int
) -> list[str]:
    wrong = []
    if report.lost:
        wrong.append(f"{report.lost} jobs are neither completed nor dead")
    if set(dead) != must_die:
        wrong.append(f"dead are {sorted(dead)}, and should be {sorted(must_die)}")
    if dead.get(str(corpus.not_text), ("",))[0] != "permanent":
        wrong.append("the file that is not text did not die of a permanent error")
    if dead.get(str(corpus.aborts), ("",))[0] != "interruptions":
        wrong.append("the file whose handler aborts was not quarantined")
    if report.completed != report.files - len(must_die):
        wrong.append(f"{report.completed} jobs completed, and {report.files - len(must_die)} should have")
    if indexed != report.completed:
        wrong.append(f"{indexed} files are in the index, and {report.completed} jobs completed")
    if report.rows != report.expected_rows:
        wrong.append(f"{report.rows} passages are in the index, and {report.expected_rows} were counted")
    if not report.hits:
        wrong.append("the search found nothing")
    return wrong


def show(report: Report, folder: Path, console: Console) -> None:
    """The report, and what to try next."""
    lines = [("files", f"{report.files:,}"), ("completed", f"{report.completed:,}")]
    lines += [("dead", f"{name}: {reason}") for name, reason in report.dead]
    lines += [
        ("lost", f"{report.lost}"),
        ("run twice", f"{report.run_twice} (were executing when the daemon was killed)"),
        ("index rows", f"{report.rows:,} (counted independently: {report.expected_rows:,})"),
        ("jobs a second", f"{report.jobs_per_second:,.0f} (the crash and the restart included)"),
    ]
    console.print()
    for name, value in lines:
        console.print(f"[bold]{name:14}[/]{escape(value)}", soft_wrap=True)
    console.print(f'\nsearch for "{QUESTION}":')
    for path, line in report.hits:
        console.print(f"  {path}:{line}", soft_wrap=True)
    for wrong in report.mismatches:
        console.print(f"[bold red]MISMATCH[/] {escape(wrong)}", soft_wrap=True)
    console.print(f"\nThe queue is still there. Try:\n  cd {folder}")
    tool = Path(sys.executable).with_name("perdure")
    for command in ("status", "jobs", "dead list", "dead show ID", "doctor"):
        console.print(f"  {tool} {command}", soft_wrap=True)


def _ids(client: Client, state: str) -> set[int]:
    ids: set[int] = set()
    before = None
    while page := client.list_sync(JobFilter(states=[state], before=before, limit=PAGE)):
        ids.update(view.id for view in page)
        before = page[-1].id
    return ids


def _last_message(errors_json: str) -> str:
    message = str(msgspec.json.decode(errors_json)[-1]["message"])
    return message if len(message) <= 120 else message[:119] + "…"


def _index(index: Path) -> tuple[int, int, list[tuple[str, int]]]:
    """Rows, files, and the best hits for the question."""
    connection = sqlite3.connect(index)
    try:
        rows = connection.execute("SELECT count(*) FROM passages").fetchone()[0]
        files = connection.execute("SELECT count(*) FROM files").fetchone()[0]
        query = "SELECT path, line FROM passages WHERE passages MATCH ? ORDER BY rank LIMIT 3"
        hits = connection.execute(query, (f'"{QUESTION}"',)).fetchall()
        return rows, files, [(str(path), int(line)) for path, line in hits]
    finally:
        connection.close()
