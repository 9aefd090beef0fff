"""How a backlog is let go after a break."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.daemon.ramp import HIGHEST_RATE, LOWEST_RATE, MOST_AT_ONCE, STEP_NS, Ramp

SECOND = 10 * STEP_NS


def run(ramp: Ramp, now: int, seconds: int, fail: float = 0.0) -> tuple[int, list[int]]:
    """Release all that is due, step by step: the new time, and how many it was in each second."""
    released = []
    for _ in range(seconds):
        before = ramp.total
        for _ in range(10):
            now += STEP_NS
            due = ramp.due(now)
            ramp.failed(int(due * fail + 0.5))
            ramp.released(due)
        released.append(ramp.total - before)
    return now, released


def test_the_rate_doubles_while_it_stays_healthy() -> None:
    """T24: a backlog of 100,000 would take hours, or come down at once on a database that has just got up."""
    ramp = Ramp(10, 0)
    assert ramp.due(0) == 0
    _, released = run(ramp, 0, 5)
    assert released == [10, 20, 40, 80, 160]
    _, released = run(ramp, 5 * SECOND, 9)
    assert sum(released) + 310 >= 100_000


def test_a_failure_holds_the_rate_and_many_halve_it() -> None:
    """The ramp would push a database down again that carries the present load only just."""
    ramp = Ramp(100, 0)
    ramp.failed(1)
    now, _ = run(ramp, 0, 1)
    assert ramp.rate == 100
    now, _ = run(ramp, now, 1, fail=0.5)
    assert ramp.rate == 50
    now, _ = run(ramp, now, 20, fail=1.0)
    assert ramp.rate == LOWEST_RATE
    now, _ = run(ramp, now, 2)
    assert ramp.rate == 4 * LOWEST_RATE, "and it rises again"


def test_time_that_nobody_used_is_not_saved_up() -> None:
    """A supervisor that was stopped for an hour would release an hour's jobs at once."""
    ramp = Ramp(10, 0)
    assert ramp.due(3_600 * SECOND) <= 20
    assert ramp.rate <= 20


def test_a_slow_ramp_still_releases_something() -> None:
    """With less than one job a step, nothing would ever be due."""
    _, released = run(Ramp(1, 0), 0, 1)
    assert released == [1]


Steps = st.lists(st.tuples(st.integers(0, 3 * SECOND), st.integers(0, 30), st.floats(0, 1)), max_size=60)


@given(st.integers(0, 1_000), Steps)
def test_never_more_than_the_rate_allows(start: int, steps: list[tuple[int, int, float]]) -> None:
    """The database would get more at once than was meant, whatever fails and however late the ramp is asked."""
    ramp, now, allowed = Ramp(start, 7), 7, 0.0
    for wait, failures, share in steps:
        now += wait
        highest = ramp.rate
        due = ramp.due(now)
        # In a wait of any length the rate doubles once at most.
        allowed += min(wait + STEP_NS, SECOND) / SECOND * max(highest, ramp.rate)
        assert 0 <= due <= MOST_AT_ONCE
        assert due <= 2 * max(highest, ramp.rate)
        assert LOWEST_RATE <= ramp.rate <= HIGHEST_RATE
        ramp.failed(failures)
        ramp.released(int(due * share))
        assert ramp.total <= allowed + 1
