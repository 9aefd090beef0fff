"""Joining a story to what was heard before: by positions, whatever went missing and however it was cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.wire.heard import Heard, log_data, log_text
from perdure.wire.streams import Emitted, LogText

#: Lines that repeat themselves, and bytes that are no text.
LOG = st.lists(st.sampled_from([b"a\n", b"b\n", b"\xc3\xa4\n", b"\xff\n", b"a"]), max_size=20).map(b"".join)


@given(LOG, st.data())
def test_each_byte_once(log: bytes, data: st.DataObject) -> None:
    """Live up to some place, then stories from anywhere before it: each byte from the first one on is heard once."""
    places = st.integers(0, len(log))
    heard, got = Heard(), b""
    begin = reached = data.draw(places)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, reached)) if got else begin
        end = data.draw(st.integers(at, len(log)))
        while at < end:
            cut = data.draw(st.integers(at + 1, end))
            new = heard.new(log_text(1, log[at:cut], True, at))
            if new is not None:
                assert isinstance(new, LogText)
                assert log[new.start : (new.start or 0) + len(log_data(new))] == log_data(new)
                got += log_data(new)
            at = cut
        reached = max(reached, end)
    assert got == log[begin : begin + len(got)]
    assert begin + len(got) == reached or not got


def test_what_the_disk_would_not_take() -> None:
    """It has no place in the log; that is no reason not to show it, or to show something else twice."""
    heard = Heard()
    assert heard.new(LogText(1, "a\n", 1, start=0))
    assert heard.new(LogText(1, "lost\n", 1))
    assert heard.new(LogText(1, "a\n", 1, True, 0)) is None


def test_what_is_missing() -> None:
    """A story that begins after the end of what was heard: the hole can be filled."""
    heard = Heard()
    assert heard.gap(LogText(1, "x\n", 1, True, 100)) is None
    heard.new(LogText(1, "x\n", 1, True, 100))
    assert heard.gap(LogText(1, "y\n", 1, True, 102)) is None
    assert heard.gap(LogText(1, "y\n", 1, True, 110)) == (102, 110)
    assert heard.gap(LogText(1, "y\n", 1, start=110)) is None


def test_values_are_those_of_an_attempt() -> None:
    """The same number and value of a later attempt, or of another life of the job, is another one."""
    heard = Heard()
    assert heard.new(Emitted(1, "1", 1, attempt=1, since=5))
    assert heard.new(Emitted(1, "1", 1, True, 1, 5)) is None
    assert heard.new(Emitted(1, "1", 2, True, 1, 5))
    assert heard.new(Emitted(1, "1", 1, True, 2, 9))
    assert heard.new(Emitted(1, "1", 1, True, 1, 11))
