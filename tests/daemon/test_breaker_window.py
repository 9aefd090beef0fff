"""The rolling window against a list of all calls."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.daemon.breaker_window import BUCKETS, Tally, Window

WINDOW_MS = 1_000
MS = 1_000_000
BUCKET_NS = WINDOW_MS * MS // BUCKETS

Steps = st.lists(
    st.tuples(
        st.one_of(st.integers(0, 3 * WINDOW_MS * MS), st.sampled_from([0, 1, BUCKET_NS, BUCKETS * BUCKET_NS])),
        st.tuples(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5)),
    ),
    max_size=30,
)


@given(st.integers(0, 10**15), Steps)
def test_the_window_counts_what_a_list_of_calls_would(
    start_ns: int, steps: list[tuple[int, tuple[int, int, int]]]
) -> None:
    """A breaker would open because of calls of long ago, or not see those of just now."""
    window, calls, now = Window(WINDOW_MS), [], start_ns
    for wait, counts in steps:
        now += wait
        calls.append((now, counts))
        found = window.add(now, *counts)
        inside = [one for at, one in calls if at // BUCKET_NS > now // BUCKET_NS - BUCKETS]
        assert found == window.tally(now) == Tally(*(sum(column) for column in zip(*inside, strict=True)))
        surely = [one for at, one in calls if now - at <= (BUCKETS - 1) * BUCKET_NS]
        perhaps = [one for at, one in calls if now - at < BUCKETS * BUCKET_NS]
        assert sum(ok + failed for ok, failed, _ in surely) <= found.calls
        assert found.calls <= sum(ok + failed for ok, failed, _ in perhaps)


@given(Steps)
def test_the_window_needs_no_more_memory_with_more_calls(steps: list[tuple[int, tuple[int, int, int]]]) -> None:
    """A month of calls would be a month of memory."""
    window, now = Window(WINDOW_MS), 0
    for wait, counts in steps:
        now += wait
        window.add(now, *counts)
    assert len(window._buckets) == BUCKETS
    window.clear()
    assert window.tally(now) == Tally()


def test_time_that_goes_back_counts_as_now() -> None:
    """Two readings of a clock that come in the wrong order would throw the window away, or fail."""
    window = Window(WINDOW_MS)
    window.add(5 * BUCKET_NS, 1, 0, 0)
    assert window.add(2 * BUCKET_NS, 0, 1, 0) == Tally(1, 1, 0)
