"""The page of results is made of what was measured."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from benchmarks import page
from perdure.bench.figure import Figure, Sizes, figure, point


@pytest.fixture
def figures() -> list[Figure]:
    """A row and two points of a plot."""
    row = figure("drain", 30_000, "jobs/s", 60_000, "raw SQLite", "two workers", Sizes())
    points = [point("plot-batch", at, at * 10.0, "jobs/s", at * 20.0, "raw SQLite", "calls", Sizes()) for at in (1, 10)]
    for one in (row, *points):
        one.machine = "2 cores"
    return [row, *points]


def test_the_page_says_what_its_rows_measure() -> None:
    """A row that was added, or is measured differently now, and the page tells of the old one."""
    text = page.PAGE.read_text("utf-8")
    assert page.between(text, "rows", page.definitions()) == text, "run: python -m benchmarks.page"


def test_results_are_written_between_their_marks(figures: list[Figure], monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written by hand is overwritten, or the results are not in the page."""
    drawn = []
    monkeypatch.setattr(page, "draw", lambda plot, points, path: drawn.append((plot.benchmark, len(points), path.name)))
    text = page.filled(page.PAGE.read_text("utf-8"), figures)
    assert (
        "| `drain` | 30,000 jobs/s | 60,000 jobs/s | 0.5 | >= 100,000 jobs/s and >= 0.7 x limit | **missed** |" in text
    )
    assert "Machine: 2 cores." in text
    assert "plots/batch.svg" in text
    assert drawn == [("plot-batch", 2, "batch.svg")]
    assert text.startswith("# Performance")


def test_a_page_without_a_mark_is_refused() -> None:
    """Results that vanish because somebody has removed a mark."""
    with pytest.raises(ValueError, match="no place for table"):
        page.between("nothing here", "table", "text")


def test_a_plot_is_the_same_file_each_time(figures: list[Figure], tmp_path: Path) -> None:
    """Each run changes every plot in the repository."""
    pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'perdure[bench]'")
    for name in ("one.svg", "two.svg"):
        page.draw(page.SHOWN[3], figures[1:], tmp_path / name)
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "two.svg").read_bytes()


def test_results_are_read_as_they_were_printed(figures: list[Figure], tmp_path: Path) -> None:
    """The lines of --json and the page's reader would drift apart."""
    path = tmp_path / "table.jsonl"
    path.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in figures))
    assert page.load(path) == figures
    assert page.load(tmp_path / "none.jsonl") == []
