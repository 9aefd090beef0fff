"""The figures of a loop's lag: a minute in a histogram, weighted by time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from perdure.daemon.lag_figures import RollingLag, _bucket, _upper_us

MS = 1_000_000
SECOND = 1_000_000_000


def test_a_quiet_minute_has_no_lag() -> None:
    """A loop that is looked at once a second must not need a thousand seconds for its figures."""
    lag = RollingLag(0)
    for second in range(1, 61):
        lag.add(second * SECOND, SECOND, 0)
    assert (lag.longest_ms(60 * SECOND), lag.p999_ms(60 * SECOND)) == (0.0, 0.0)


def test_a_single_tick_that_is_late_is_the_longest_and_not_more() -> None:
    """The p99.9 would be another word for the maximum."""
    lag = RollingLag(0)
    lag.add(59 * SECOND, 59 * SECOND, 0)
    lag.add(59 * SECOND + 30 * MS, 30 * MS, 20 * MS)
    assert lag.longest_ms(60 * SECOND) == 20.0
    assert lag.p999_ms(60 * SECOND) == 0.0


def test_who_came_while_the_loop_stood_has_waited() -> None:
    """A loop that stood still for a second in a minute has kept one in sixty waiting; a single sample would hide it."""
    lag = RollingLag(0)
    lag.add(59 * SECOND, 59 * SECOND, 0)
    lag.add(60 * SECOND, SECOND, SECOND)
    assert lag.longest_ms(60 * SECOND) == 1000.0
    assert 900 <= lag.p999_ms(60 * SECOND) <= 1000


def test_what_is_older_than_a_minute_is_forgotten() -> None:
    """A hiccup at the start would be warned about for ever."""
    lag = RollingLag(0)
    lag.add(SECOND, SECOND, SECOND)
    lag.add(30 * SECOND, 29 * SECOND, 5 * MS)
    assert lag.longest_ms(59 * SECOND) == 1000.0
    assert lag.longest_ms(61 * SECOND) == 5.0
    assert lag.longest_ms(100 * SECOND) == 0.0


def test_a_lag_beyond_the_minute_is_bounded() -> None:
    """A loop that comes back after a day would stand still anew, counting its samples."""
    lag = RollingLag(0)
    lag.add(86_400 * SECOND, 86_400 * SECOND, 86_400 * SECOND)
    assert sum(part.total for part in lag._parts) <= 6_000
    assert lag.longest_ms(86_400 * SECOND) == 86_400_000.0


@given(st.integers(0, 2**50))
def test_a_bucket_holds_its_values_within_an_eighth(value_us: int) -> None:
    """Figures would be lower than what was measured, or far higher."""
    bucket = _bucket(value_us)
    assert value_us <= _upper_us(bucket) <= value_us * 9 // 8
    assert _bucket(_upper_us(bucket)) == bucket
    assert _bucket(_upper_us(bucket) + 1) == bucket + 1
