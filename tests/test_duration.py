"""Durations and sizes as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from perdure.duration import (
    DURATION_UNITS,
    MAX_DURATION_MS,
    MAX_SIZE_BYTES,
    format_duration,
    format_size,
    parse_duration_ms,
    parse_size_bytes,
)


@hypothesis_settings(deadline=None)
@given(st.integers(0, MAX_DURATION_MS))
def test_duration_round_trip(milliseconds: int) -> None:
    """A duration shown in a message would not be the one that was set."""
    assert parse_duration_ms(format_duration(milliseconds)) == milliseconds


@hypothesis_settings(deadline=None)
@given(st.integers(0, MAX_SIZE_BYTES))
def test_size_round_trip(size: int) -> None:
    """A size shown in a message would not be the one that was set."""
    assert parse_size_bytes(format_size(size)) == size


@hypothesis_settings(deadline=None)
@given(st.integers(1, MAX_DURATION_MS))
def test_approximate_duration_is_near(milliseconds: int) -> None:
    """A short form in a list would be far from the truth."""
    shown = parse_duration_ms(format_duration(milliseconds, approx=True))
    assert 0 <= milliseconds - shown <= max(milliseconds / 10, 1)


@hypothesis_settings(deadline=None)
@given(st.integers(0, MAX_SIZE_BYTES // 2))
def test_approximate_size_is_near(size: int) -> None:
    """A short form in a list would be far from the truth."""
    text = format_size(size, approx=True)
    number = text.rstrip("TGMKiB")
    factor = parse_size_bytes("1" + text.removeprefix(number))
    assert abs(float(number) * factor - size) <= factor / 20


@hypothesis_settings(deadline=None)
@given(st.text(max_size=80))
def test_any_text_gives_a_value_or_a_value_error(text: str) -> None:
    """Odd input would end in a traceback instead of a message."""
    for parse in (parse_duration_ms, parse_size_bytes):
        try:
            said = str(parse(text))
        except ValueError as error:
            said = str(error)
        assert said.isprintable()


@hypothesis_settings(deadline=None)
@given(st.lists(st.sampled_from(list(DURATION_UNITS)), unique=True, min_size=1), st.integers(0, 99))
def test_parts_add_up(units: list[str], count: int) -> None:
    """A combined duration such as 1h30m would lose or double a part."""
    ordered = [unit for unit in DURATION_UNITS if unit in units]
    text = "".join(f"{count}{unit}" for unit in ordered)
    assert parse_duration_ms(text) == sum(count * DURATION_UNITS[unit] for unit in ordered)


@pytest.mark.parametrize(
    ("text", "milliseconds"),
    [
        ("30s", 30_000),
        ("5m", 300_000),
        ("1h30m", 5_400_000),
        ("1h 30m", 5_400_000),
        ("250ms", 250),
        ("7d", 604_800_000),
        ("2w", 1_209_600_000),
        ("1.5h", 5_400_000),
        ("0.25s", 250),
        ("0", 0),
        ("0s", 0),
        ("90", 90_000),
        (90, 90_000),
        (0.25, 250),
        (1e9, 1_000_000_000_000),
        (" 10s ", 10_000),
    ],
)
def test_durations_people_write(text: str | float, milliseconds: int) -> None:
    """A common spelling would be refused or misread."""
    assert parse_duration_ms(text) == milliseconds


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is not a duration"),
        ("soon", "is not a duration"),
        ("1h,30m", "is not a duration"),
        ("10 minutes", 'unknown unit "minutes"'),
        ("5M", 'unknown unit "M"'),
        ("30m1h", "the larger ones first"),
        ("1h1h", "every unit once"),
        ("-5m", "is negative"),
        (-1, "is negative"),
        (-0.5, "is negative"),
        ("0.0001s", "shorter than a millisecond"),
        (0.0001, "shorter than a millisecond"),
        (True, "True is not a duration"),
        (None, "None is not a duration"),
        (float("nan"), "is not a duration"),
        (float("inf"), "is not a duration"),
        ("200000w", "longer than a hundred years"),
        (10**10_000, "longer than a hundred years"),
        ("9" * 10_000, "is not a duration"),
        ("٣s", "is not a duration"),
        ("5s\n-", "is not a duration"),
    ],
    ids=lambda value: str(value)[:30] if not isinstance(value, int) else "number",
)
def test_wrong_durations_say_why(value: str | float, said: str) -> None:
    """A wrong duration would be taken for something else, or refused without a reason."""
    with pytest.raises(ValueError, match=said) as caught:
        parse_duration_ms(value)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1MiB", 1 << 20),
        ("64KiB", 65_536),
        ("64 kib", 65_536),
        ("1.5KiB", 1_536),
        ("2GB", 2_000_000_000),
        ("10kB", 10_000),
        ("512B", 512),
        ("512", 512),
        (512, 512),
        (0, 0),
    ],
)
def test_sizes_people_write(text: str | int, size: int) -> None:
    """A common spelling would be refused or misread."""
    assert parse_size_bytes(text) == size


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("", "is not a size"),
        ("big", "is not a size"),
        ("1M", 'unknown unit "M"'),
        ("0.3B", "whole number of bytes"),
        ("-1MiB", "is negative"),
        (-1, "is negative"),
        (1.5, "is not a size"),
        (True, "True is not a size"),
        ("9999999TiB", "too large"),
        ("9" * 10_000, "is not a size"),
        ("³", "is not a size"),
    ],
)
def test_wrong_sizes_say_why(value: str | int, said: str) -> None:
    """A wrong size would be taken for something else, or refused without a reason."""
    with pytest.raises(ValueError, match=said):
        parse_size_bytes(value)


def test_formats_for_people() -> None:
    """Lists would show unreadable numbers."""
    assert format_duration(93_784_005) == "1d2h3m4.005s"
    assert format_duration(93_784_005, approx=True) == "1d2h"
    assert format_duration(65_432, approx=True) == "1m5s"
    assert format_duration(5_432, approx=True) == "5.4s"
    assert format_duration(-1_500) == "-1.5s"
    assert format_size(1_500_000, approx=True) == "1.4MiB"
    assert format_size(1_500_000) == "1500000B"
