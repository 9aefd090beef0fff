"""Options of a job as Python values."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from perdure.errors import InvalidOption
from perdure.options import OPTION_NAMES, job_spec
from perdure.wire.data import JobSpec

UTC = datetime.UTC


def test_options_become_a_request() -> None:
    """An option would be sent under the wrong name or unit."""
    options = {
        "queue": "q",
        "priority": -1,
        "delay": "10m",
        "unique": "u",
        "tags": ("a", "b"),
        "timeout": datetime.timedelta(seconds=1.5),
        "max_attempts": 2,
        "max_interruptions": 1,
        "at": None,
    }
    assert options.keys() == OPTION_NAMES
    assert job_spec("k", "{}", options) == JobSpec("k", "{}", "q", -1, 2, 1, 1_500, 600_000, None, "u", ["a", "b"])


@pytest.mark.parametrize(
    ("at", "expected"),
    [
        (datetime.datetime(2027, 1, 31, 14, 30, 0, 1_999, tzinfo=UTC), 1_801_405_800_001),
        ("2027-01-31T15:30:00+01:00", 1_801_405_800_000),
        ("2027-01-31T14:30:00Z", 1_801_405_800_000),
        (1_801_405_800.25, 1_801_405_800_250),
    ],
)
def test_moments(at: Any, expected: int) -> None:
    """A job would start an hour off."""
    assert job_spec("k", "{}", {"at": at}).at_ms == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at": datetime.datetime(2027, 1, 1)}, "no time zone"),  # noqa: DTZ001 - that is the point
        ({"at": "2027-01-01T10:00"}, "no time zone"),
        ({"at": "tomorrow"}, "is no time"),
        ({"at": 1_801_405_800_000}, "epoch times are in seconds"),
        ({"at": float("nan")}, "is no time"),
        ({"at": True}, "got bool"),
        ({"at": -1}, "1970"),
        ({"delay": "-5m"}, "delay: .*negative"),
        ({"delay": -1}, "negative"),
        ({"delay": datetime.timedelta(-1)}, "negative"),
        ({"delay": "soon"}, "delay"),
        ({"priority": "high"}, "expected a whole number"),
        ({"priority": 2**70}, "too many"),
        ({"queue": 3}, "expected text"),
        ({"queue": "\ud800"}, "queue: .* has a lone surrogate"),
        ({"tags": ["\ud800"]}, "tags: .* has a lone surrogate"),
        ({"tags": "nightly"}, "expected a list"),
        ({"tags": [1]}, "expected text"),
        ({"dealy": 3}, "did you mean 'delay'"),
        ({"zzzzz": 3}, "there are at, delay"),
    ],
)
def test_bad_options_are_refused_before_anything_is_sent(options: dict[str, Any], message: str) -> None:
    """The daemon would answer with a decoding error, or the job would be put off by 57,000 years."""
    with pytest.raises(InvalidOption, match=message):
        job_spec("k", "{}", options)
