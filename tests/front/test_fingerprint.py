"""Failures that are the same failure."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.fingerprint import fingerprint, normalise
from perdure.wire.data import ErrorData

TRACE = """Traceback (most recent call last):
  File "/srv/{where}/jobs.py", line {line}, in ingest
    parse(path)
  File "/srv/{where}/parse.py", line 7, in parse
    raise ValueError(path)
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("no such job: 12", "no such job: 4711"),
        ("cannot open '/a/b.txt'", "cannot open '/c'"),
        ("cannot open /a/b.txt: gone", "cannot open /c/d: gone"),
        ("at 0xdeadbeef", "at 0x7f3e50c85cc0"),
        ("id 7f3e50c8-5cc0-4aaa-8bbb-0123456789ab", "id 00000000-0000-4aaa-8bbb-0123456789ab"),
        ("digest 9f86d081884c7d65", "digest ab56b4d92b40713a"),
        ('key "a b" taken', 'key "c" taken'),
        ("http://a.b/1?x=2 failed", "https://c.d:80/ failed"),
        ("took 1.5 s", "took 12.75 s"),
        ("10.0.0.1:5432 refused", "10.0.0.2:5433 refused"),
    ],
)
def test_what_varies_does_not_count(one: str, other: str) -> None:
    """A thousand dead letters of one cause would make a thousand groups."""
    assert normalise(one) == normalise(other)


@pytest.mark.parametrize(
    ("one", "other"), [("connection lost", "connection refused"), ("can't a don't", "can't b don't")]
)
def test_what_differs_counts(one: str, other: str) -> None:
    """Two causes would be one group, and replayed together."""
    assert normalise(one) != normalise(other)


def test_place_counts_but_not_line_or_folder() -> None:
    """A deploy, or a line added above, would split a group; two places in the code would share one."""
    one = ErrorData("ValueError", "x", traceback=TRACE.format(where="v1", line=3))
    moved = ErrorData("ValueError", "x", traceback=TRACE.format(where="v2", line=99))
    elsewhere = ErrorData("ValueError", "x", traceback=TRACE.format(where="v1", line=3).replace("in parse", "in read"))
    assert fingerprint(one) == fingerprint(moved)
    assert (
        len({fingerprint(one), fingerprint(elsewhere), fingerprint(ErrorData("KeyError", "x", None, one.traceback))})
        == 3
    )


@given(st.text(), st.text(), st.none() | st.text())
def test_any_error_has_one(kind: str, message: str, trace: str | None) -> None:
    """An odd message would keep a job from being buried."""
    assert re.fullmatch("[0-9a-f]{16}", fingerprint(ErrorData(kind, message, traceback=trace)))
