"""Times that are typed, and text that is shown."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.cli.after_dashes import from_here
from perdure.cli.table import Column, table_lines
from perdure.cli.text import ago, cells, clean, fit, moment, size, span
from perdure.cli.times import duration_ms, moment_ms
from perdure.errors import InvalidOption


@pytest.fixture
def vienna(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A zone with summer time."""
    monkeypatch.setenv("TZ", "Europe/Vienna")
    time.tzset()
    yield
    monkeypatch.undo()
    os.environ.pop("TZ", None) if os.environ.get("TZ") == "Europe/Vienna" else None
    time.tzset()


def utc_ms(*parts: int) -> int:
    """Milliseconds of a moment in UTC."""
    return int(datetime(*parts, tzinfo=UTC).timestamp() * 1000)  # type: ignore[misc, arg-type]  # year, month, day, …


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2027-01-31T14:30", utc_ms(2027, 1, 31, 13, 30)),
        ("2027-07-31 14:30", utc_ms(2027, 7, 31, 12, 30)),
        ("2027-01-31T14:30Z", utc_ms(2027, 1, 31, 14, 30)),
        ("2027-01-31T14:30:00.250+02:00", utc_ms(2027, 1, 31, 12, 30) + 250),
        ("2027-01-31", utc_ms(2027, 1, 30, 23, 0)),
        ("20270131", utc_ms(2027, 1, 30, 23, 0)),
        ("1800000000", 1_800_000_000_000),
        ("1800000000.5", 1_800_000_000_500),
        ("14:30", utc_ms(2027, 3, 1, 13, 30)),
        ("09:00", utc_ms(2027, 3, 2, 8, 0)),
        ("12:00:00", utc_ms(2027, 3, 2, 11, 0)),
    ],
)
def test_moments(vienna: None, text: str, expected: int) -> None:
    """A job that runs an hour off, or today instead of tomorrow, is a broken promise."""
    noon = datetime(2027, 3, 1, 11, 0, tzinfo=UTC).astimezone()
    assert moment_ms(text, noon) == expected


@pytest.mark.parametrize(
    "text", ["", "soon", "25:00", "14:30:61", "1800000000000", "-5", "2027-13-01", "1e9", "\uff19:00"]
)
def test_what_is_no_moment(text: str) -> None:
    """Milliseconds taken for seconds would be the year 59000; no error may be a traceback."""
    with pytest.raises(InvalidOption):
        moment_ms(text)


@given(st.text(max_size=30))
def test_any_text_is_a_time_or_an_error(text: str) -> None:
    """Whatever is typed, the answer is a number or an InvalidOption."""
    for parse in (moment_ms, duration_ms):
        try:
            assert parse(text) >= 0
        except InvalidOption:
            pass


def test_relative_times() -> None:
    """ "3m ago" is what people read; the far past is a date; the future is not "-5m ago"."""
    now = utc_ms(2027, 1, 31, 12)
    assert ago(now - 500, now) == "now"
    assert ago(now - 185_000, now) == "3m ago"
    assert ago(now + 7_300_000, now) == "in 2h"
    assert ago(now - 3 * 86_400_000, now) == "3d ago"
    assert ago(now - 90 * 86_400_000, now).startswith("2026-11-02")
    assert ago(None, now) == "-"
    assert moment(10**18) == f"{10**18} ms"


def test_spans_and_sizes() -> None:
    """Two units at most, and no "60s"."""
    assert [span(ms) for ms in (0, 340, 1200, 59_999, 61_000, 3_600_000, 187_200_000)] == [
        "0ms",
        "340ms",
        "1.2s",
        "59s",
        "1m 1s",
        "1h",
        "2d 4h",
    ]
    assert [size(count) for count in (0, 1023, 1536, 3 << 40)] == ["0 B", "1023 B", "1.5 KiB", "3.0 TiB"]


@given(st.text(), st.integers(2, 40))
def test_text_is_safe_and_fits(text: str, width: int) -> None:
    """No control character reaches the terminal, and no cell is wider than its column."""
    shown = fit(clean(text), width)
    assert cells(shown) <= width
    assert shown.isprintable()


def test_colours_of_a_log_pass_and_nothing_else() -> None:
    """The colours of a command would stand there as text; or a log could clear the screen, or colour the prompt."""
    assert clean("\x1b[1;31mred\x1b[m\tx\n", lines=True) == "\x1b[1;31mred\x1b[m\tx\n\x1b[0m"
    assert clean("\x1b[2Jgone\x1b]0;title\x07\r\n", lines=True) == "\\x1b[2Jgone\\x1b]0;title\\x07\\r\n"
    assert clean("\x1b[31mred") == "\\x1b[31mred"


@given(st.lists(st.tuples(st.integers(), st.text(), st.text()), max_size=5), st.integers(40, 200))
def test_tables_fit_and_align(rows: list[tuple[int, str, str]], width: int) -> None:
    """Whatever is in the queue, a line of a table is one line, and no wider than the terminal."""
    columns = (Column("ID", right=True), Column("KIND", flexible=True), Column("ARGUMENTS", flexible=True))
    short = [(number % 1000, kind, args) for number, kind, args in rows]
    lines = table_lines(columns, short, width)
    assert len(lines) == len(rows) + 1
    assert all(cells(line) <= width for line in lines)


def test_a_folder_for_a_command_starts_from_where_the_caller_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`cwd=sub` would be looked for in the daemon's folder, and a command would run on other files."""
    monkeypatch.chdir(tmp_path)
    assert from_here("cwd=sub") == f"cwd={tmp_path / 'sub'}"
    assert from_here("cwd=/srv") == "cwd=/srv"
    assert from_here("other=sub") == "other=sub"
